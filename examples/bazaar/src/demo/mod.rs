//! All of it on one machine: processes, and customers on a script.

pub mod books;
pub mod children;
pub mod client;
pub mod composed;
pub mod demos;
pub mod mesh;
pub mod naka;
pub mod platform;
pub mod progress;
pub mod report;
pub mod ride;
pub mod shop;
pub mod sidecars;
pub mod stock;
pub mod storm;
pub mod up;
pub mod wire;
