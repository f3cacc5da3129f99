//! All of it on one machine: processes, and a ride from a terminal.

pub mod children;
pub mod naka;
pub mod ride;
pub mod up;
