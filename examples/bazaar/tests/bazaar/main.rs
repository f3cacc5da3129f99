//! The services as processes: started, asked over TCP, and stopped by signals.

#![allow(clippy::unwrap_used, reason = "tests may")]

mod booking;
mod collector;
mod crashes;
mod gateways;
mod http;
mod inventory;
mod middleman;
mod pricing;
mod process;
mod rides;
mod traces;
mod up;
mod world;
