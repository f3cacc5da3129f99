//! What is configured.

use std::time::Duration;

use super::{Adaptive, Share, Tiers};
use crate::enforce::Enforce;

/// Priorities are 0 (which goes first) to 3; a higher one counts as 3.
pub const PRIORITIES: usize = 4;

/// What a [`BulkheadLayer`](super::BulkheadLayer) does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BulkheadConfig {
    /// Requests at work at once, in each partition; 0 counts as 1.
    pub max: u32,
    /// Requests that may wait, in each partition or tier; default 0.
    pub queue: u32,
    /// The longest wait; default 200 ms.
    pub max_wait: Duration,
    /// How far it takes effect; default [`Enforce::Always`]. Under anything else more than `max`
    /// can be at work, and nobody waits under [`Enforce::Observe`].
    pub enforce: Enforce,
    /// How many percent of the places each priority may use; default 100 for all.
    pub priorities: [u8; PRIORITIES],
    /// Keys with requests at work or waiting; default 10,000.
    pub partitions: usize,
    /// Requests at work at once over all partitions; default as many as there are.
    pub total: Option<u32>,
    /// What each tier has; default nothing: all are one tier, which has all.
    pub tiers: Tiers,
    /// How the limit follows what is behind; default not at all.
    pub adaptive: Option<Adaptive>,
    /// Whether that limit is in force; default [`Enforce::Observe`]. It is under [`Enforce::Always`] only.
    pub adapt: Enforce,
}

impl BulkheadConfig {
    /// So many at work, nobody waiting.
    pub const fn new(max: u32) -> Self {
        let max = if max == 0 { 1 } else { max };
        let max_wait = Duration::from_millis(200);
        Self {
            max,
            queue: 0,
            max_wait,
            enforce: Enforce::Always,
            priorities: [100; PRIORITIES],
            partitions: 10_000,
            total: None,
            tiers: Tiers::NONE,
            adaptive: None,
            adapt: Enforce::Observe,
        }
    }

    /// How many percent of the places each priority may use.
    #[must_use]
    pub const fn priorities(mut self, percent: [u8; PRIORITIES]) -> Self {
        self.priorities = percent;
        self
    }

    /// At most so many keys with requests at work or waiting.
    #[must_use]
    pub const fn partitions(mut self, partitions: usize) -> Self {
        self.partitions = partitions;
        self
    }

    /// At most so many at work over all partitions.
    #[must_use]
    pub const fn total(mut self, total: u32) -> Self {
        self.total = Some(total);
        self
    }

    /// What each tier has.
    #[must_use]
    pub fn tiers(mut self, shares: &[Share]) -> Self {
        self.tiers = Tiers::new(shares);
        self
    }

    /// How the limit follows what is behind.
    #[must_use]
    pub const fn adaptive(mut self, adaptive: Adaptive) -> Self {
        self.adaptive = Some(adaptive);
        self
    }

    /// Whether that limit is in force.
    #[must_use]
    pub const fn adapt(mut self, adapt: Enforce) -> Self {
        self.adapt = adapt;
        self
    }

    pub(super) fn acts(&self) -> bool {
        self.adapt == Enforce::Always
    }

    /// So many may wait, so long.
    #[must_use]
    pub const fn queue(mut self, queue: u32, max_wait: Duration) -> Self {
        self.queue = queue;
        self.max_wait = max_wait;
        self
    }

    /// How far it takes effect.
    #[must_use]
    pub const fn enforce(mut self, enforce: Enforce) -> Self {
        self.enforce = enforce;
        self
    }
}
