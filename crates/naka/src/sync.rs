//! Atomics and locks of what is held to models: those of the standard library, or loom's where the models are built.
//!
//! Models (`models.rs` beside what they are of) are built under `--cfg naka_loom`, and not under `--cfg loom`: that one
//! is read by tokio, too, which would become another tokio.

#[cfg(not(all(test, naka_loom)))]
pub(crate) use std::sync::{Mutex, MutexGuard, atomic};
#[cfg(not(all(test, naka_loom)))]
pub(crate) use tokio::sync::Notify;

#[cfg(all(test, naka_loom))]
pub(crate) mod modelled;
#[cfg(all(test, naka_loom))]
pub(crate) use modelled::{Mutex, MutexGuard, Notify, atomic};
