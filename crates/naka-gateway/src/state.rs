//! What outlives a generation: the state that one shares with the next, each piece under its identity.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use naka::{
    balance::BalanceLayer,
    bulkhead::{BulkheadLayer, Counts},
    rate_limit::RateLimitLayer,
};
use tokio::time::Instant;

use crate::{
    carry::Carried,
    config::checked::{Bulkhead, Enforce, RateLimit},
    observe::PolicyMetrics,
    upstream::Pool,
};

/// The state that generations share.
#[derive(Clone, Debug)]
pub struct State {
    /// Rate limits, by identity.
    pub rate_limits: Carried<(RateLimit, Enforce), RateLimitLayer<Arc<PolicyMetrics>>>,
    /// Bulkheads, by identity.
    pub bulkheads: Carried<(Bulkhead, Enforce), BulkheadLayer<Arc<PolicyMetrics>>>,
    /// Balancers, by upstream.
    pub balancers: Carried<Vec<Arc<str>>, BalanceLayer>,
    /// For each worker its pools, by upstream and address.
    pub pools: Vec<Carried<(), Arc<Pool>>>,
}

impl State {
    /// That of a process that has just begun.
    pub fn new(workers: usize) -> Self {
        Self {
            rate_limits: Carried::new("rate_limit", RateLimitLayer::refill),
            // Whoever is at work counts until the end, however long that takes.
            bulkheads: Carried::new("bulkhead", |layer| {
                if layer.counts() == Counts::default() { Duration::ZERO } else { Duration::MAX }
            }),
            balancers: Carried::new("balancer", |_| Duration::ZERO),
            pools: (0..workers).map(|_| Carried::new("pool", |_| Duration::ZERO)).collect(),
        }
    }

    /// The names under which policies are known: those in force, and those that are buried.
    pub fn policies(&self) -> BTreeSet<&str> {
        let rate_limits = self.rate_limits.iter().chain(self.rate_limits.buried()).map(|(name, _)| &**name);
        let bulkheads = self.bulkheads.iter().chain(self.bulkheads.buried()).map(|(name, _)| &**name);
        rate_limits.chain(bulkheads).collect()
    }

    /// The same without what is buried and has no history left; `None` if there is nothing of it.
    pub fn without_expired(&self, now: Instant) -> Option<Self> {
        let has_expired = self.rate_limits.has_expired(now) || self.bulkheads.has_expired(now);
        has_expired.then(|| Self {
            rate_limits: self.rate_limits.without_expired(now),
            bulkheads: self.bulkheads.without_expired(now),
            ..self.clone()
        })
    }
}
