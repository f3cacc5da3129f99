//! What every service does alike: listen, read, answer, keep, ask another, stop.

pub mod ask;
pub mod clock;
pub mod column;
pub mod console;
pub mod id;
pub mod peer;
pub mod problem;
pub mod service;
pub mod store;
pub mod text;
pub mod trace;
