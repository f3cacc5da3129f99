//! The gateway as its users meet it: whole, over sockets or over pipes in virtual time.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests may")]

mod inside;
mod process;

mod admin;
mod agreement;
mod auth;
mod bad_input;
mod balancing;
mod breaker;
mod bulkhead;
mod cache;
mod cli;
mod connections;
mod custom;
mod deadlines;
mod diff;
mod discovery;
mod documents;
mod drain;
mod edge;
mod explaining;
mod fallback;
mod fmt;
mod forwarding;
mod guards;
mod h2_upstreams;
mod health;
mod hedge;
mod isolation;
mod limits;
mod mirror;
mod reload;
mod reload_load;
mod reload_sequences;
mod replay;
mod retry;
mod service_manager;
mod simulate;
mod split;
mod state;
mod streaming;
mod streams;
mod timeouts;
mod upgrade;
mod versions;
