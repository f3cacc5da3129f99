//! Owner of the workspace's `tests/`, `benches/` and `examples/`; it holds no code of its own.

/// The Rust in the README is compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
