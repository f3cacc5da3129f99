//! Hashes that are the same in every process, so that several gateways send a key to the same endpoint.

pub use crate::{
    hash::{siphash, stable},
    random::mix,
};
