//! All of it on one machine: processes, keys and tokens, and a ride from a terminal.

pub mod children;
pub mod keys;
pub mod naka;
pub mod ride;
pub mod up;
