//! The services behind the gateway, each a process of its own, and `bazaar up`, which starts them all.
//!
//! Today there is one: [`pricing`] says what a ride costs. Booking, drivers and the shop come later.
//!
//! # Rooms
//! [`money`], [`moment`], [`geo`] and [`fare`] are the rules: numbers in, numbers out, no clock, no
//! runtime, no HTTP; time is an argument. [`clock`] is the one place that knows what time it is.
//! [`pricing`] speaks HTTP, and answers a [`problem`] when it cannot do what was asked. [`service`]
//! is what every service does alike: listen, drain, stop. [`up`] starts the processes, [`children`]
//! keeps them in order, [`naka`] is the gateway among them.
//!
//! # Platforms
//! Unix: processes are stopped by `SIGTERM`.

pub mod children;
pub mod clock;
pub mod fare;
pub mod geo;
pub mod moment;
pub mod money;
pub mod naka;
pub mod pricing;
pub mod problem;
pub mod service;
pub mod up;
