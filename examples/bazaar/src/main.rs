//! Bazaar.
fn main() {}
