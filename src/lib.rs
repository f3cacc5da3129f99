//! Owner of the workspace's `tests/`, `benches/` and `examples/`; it holds no code of its own.
