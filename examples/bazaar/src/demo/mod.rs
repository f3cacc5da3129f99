//! All of it on one machine: processes, and customers on a script.

pub mod children;
pub mod client;
pub mod naka;
pub mod progress;
pub mod report;
pub mod ride;
pub mod shop;
pub mod up;
