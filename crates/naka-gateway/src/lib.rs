//! The gateway `naka`: the layers of the crate [`naka`], assembled from a hot-reloadable YAML route
//! table, behind a hyper server.
//!
//! The way of a configuration: [`config`] (text to checked values) → [`assemble`] (with the state of
//! the generation before) → [`generation`] (an immutable snapshot) → [`reload`] (put in force).
//!
//! The way of a request: [`worker`] (accept) → [`connection`] → [`serve`]: [`entry`], [`route`],
//! [`stack`] → [`upstream`]. [`explain`] asks the same rooms and does nothing.
#![forbid(unsafe_code)]

pub mod acme;
pub mod address;
pub mod admin;
pub mod alerts;
pub mod ask;
pub mod assemble;
pub mod begun;
pub mod by_hand;
pub mod callers;
pub mod carry;
pub mod cli;
pub mod compose;
pub mod compress;
pub mod config;
pub mod connection;
pub mod control;
pub mod custom;
pub mod deadline;
pub mod diff;
pub mod discover;
pub mod drain;
pub mod entry;
pub mod explain;
mod farewell;
pub mod fmt;
pub mod forwarded;
#[cfg(fuzzing)]
pub mod frames;
#[cfg(not(fuzzing))]
mod frames;
pub mod generation;
pub mod handover;
pub mod headers;
mod heap;
pub mod identity;
pub mod import;
pub mod limits;
pub mod live;
pub mod lookup;
pub mod monitor;
pub mod observe;
pub mod origin;
pub mod pace;
pub mod patience;
pub mod prepare;
pub mod probe;
pub mod proxy_protocol;
pub mod random;
pub mod refusals;
pub mod reload;
pub mod replay;
mod room;
pub mod route;
pub mod run;
pub mod saved;
mod scrape;
pub mod seldom;
pub mod serve;
pub mod service_manager;
pub mod shared;
#[cfg(feature = "simulate")]
pub mod simulate;
mod socket;
pub mod stack;
pub mod state;
pub mod state_file;
pub mod stores;
pub mod streams;
pub mod strict;
pub mod telemetry;
pub mod tls;
mod top;
pub mod transform;
pub mod tunnel;
pub mod unix_socket;
pub mod upgrade;
mod upload;
pub mod upstream;
pub mod versions;
pub mod watch;
pub mod worker;
