//! For naka's own tests: the suite every layer passes.
#![forbid(unsafe_code)]

pub mod contract;
