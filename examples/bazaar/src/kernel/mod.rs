//! What every service does alike: listen, read, answer, keep, ask another, stop.

pub mod ask;
pub mod clock;
pub mod column;
pub mod console;
pub mod id;
pub mod log;
pub mod outbox;
pub mod peer;
pub mod problem;
pub mod registration;
pub mod saga;
pub mod service;
pub mod store;
pub mod text;
pub mod trace;
