//! The configuration as its writers meet it: messages, files, real examples.

#![allow(clippy::unwrap_used, missing_docs)]

mod again;
mod docs;
mod files;
mod fixes;
mod layout;
mod mistakes;
mod properties;
mod real;
mod reference;
mod values;
