//! The services behind the gateway, each a process of its own, and `bazaar up`, which starts them all.
//!
//! # Rooms
//! [`rules`] is what holds whoever asks: numbers in, numbers out, no clock, no runtime, no HTTP; time is
//! an argument. [`kernel`] is what every service does alike. Each service is a room of its own and has a file of
//! its own: [`pricing`] says what a ride costs, [`driver`] who is near and who drives whom, [`booking`]
//! keeps rides, [`tracking`] says where a car is. Of the shop, [`product`] says what is sold, [`order`] keeps orders, [`payment`] has them paid, [`notification`] tells people,
//! [`restaurant`] cooks, and [`bank`] is the outer world of payments. [`user`] says who users are, and whose tokens are to be
//! believed. They know of one another only what they say over HTTP. [`demo`] is the rest: starting them, and a ride.
//!
//! # Platforms
//! Unix: processes are stopped by `SIGTERM`.

pub mod bank;
pub mod booking;
pub mod demo;
pub mod driver;
pub mod inventory;
pub mod inventory_query;
pub mod kernel;
pub mod mesh;
pub mod notification;
pub mod order;
pub mod payment;
pub mod pricing;
pub mod product;
pub mod rehearsal;
pub mod restaurant;
pub mod rules;
pub mod tracking;
pub mod user;
