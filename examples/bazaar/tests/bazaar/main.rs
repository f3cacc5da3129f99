//! The services as processes: started, asked over TCP, and stopped by signals.

#![allow(clippy::unwrap_used, reason = "tests may")]

mod bank;
mod booking;
mod collector;
mod crashes;
mod demos;
mod endings;
mod gateways;
mod http;
mod inventory;
mod killed;
mod mesh;
mod middleman;
mod notifications;
mod order_traces;
mod orders;
mod pricing;
mod process;
mod registration;
mod restaurants;
mod rides;
mod shop;
mod shop_products;
mod shop_users;
mod shopper;
mod shopping;
mod stores;
mod storm;
mod traces;
mod up;
mod world;
