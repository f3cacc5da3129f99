//! What has been counted, for whoever makes rates and quantiles of two readings.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};

use super::{
    AttemptLabels, CANCELLED, CLASSES, Metrics, PolicyLabels, RequestLabels, RouteLabels, UpstreamName,
    exchange, histogram,
};
use crate::config::checked::Name;

/// Durations since the process began.
#[derive(Clone, Copy, Debug, Default)]
pub struct Durations {
    /// How many there were in each bucket.
    buckets: [u64; histogram::BUCKETS],
    /// All of them together.
    sum: Duration,
}

impl Durations {
    fn to_json(self) -> Value {
        json!({"buckets": self.buckets, "sum_s": self.sum.as_secs_f64()})
    }
}

/// The upper bounds of all buckets but the last, which has none, in seconds.
pub fn bounds_s() -> Vec<f64> {
    histogram::bounds().into_iter().filter(|bound| bound.is_finite()).collect()
}

/// What a route has answered since the process began.
#[derive(Clone, Copy, Debug)]
pub struct RouteReading {
    by_class: [u64; CLASSES.len()],
    cancelled: u64,
    took: Durations,
}

impl RouteReading {
    /// `by_class` has responses of 1xx to 5xx.
    pub fn to_json(&self) -> Value {
        json!({"by_class": self.by_class, "cancelled": self.cancelled, "took": self.took.to_json()})
    }
}

/// What an upstream has answered since the process began.
#[derive(Clone, Debug)]
pub struct UpstreamReading {
    outcomes: [u64; exchange::OUTCOMES.len()],
    took: Durations,
}

impl UpstreamReading {
    /// Attempts by outcome; those that nobody had are left out.
    pub fn to_json(&self) -> Value {
        let outcomes = exchange::OUTCOMES.into_iter().zip(self.outcomes).filter(|(_, count)| *count > 0);
        let outcomes = outcomes.map(|(outcome, count)| (outcome.to_owned(), count.into()));
        json!({"outcomes": Value::Object(outcomes.collect()), "took": self.took.to_json()})
    }

    /// All attempts.
    pub fn attempts(&self) -> u64 {
        self.outcomes.iter().sum()
    }
}

impl Metrics {
    /// How long the process has been there.
    pub fn uptime(&self) -> Duration {
        self.began.elapsed()
    }

    /// The last changes of circuit breakers, the latest first.
    pub fn transitions(&self) -> Value {
        self.transitions.last.to_json()
    }

    /// How many responses a route has ended, whatever came of them; nothing if it has no series of its own.
    pub fn ended(&self, route: &Name, template: &Name) -> Option<u64> {
        let labels = RouteLabels { route: Arc::clone(route), template: Arc::clone(template) };
        Some(self.durations.get(&labels)?.count())
    }

    /// How many of them failed: in a status of 500 or more, or as the client went away.
    pub fn failed(&self, route: &Name, template: &Name) -> u64 {
        ["5xx", CANCELLED].into_iter().map(|status| self.requests_of(route, template, status)).sum()
    }

    fn requests_of(&self, route: &Name, template: &Name, status: &'static str) -> u64 {
        let labels = RequestLabels { route: Arc::clone(route), status, template: Arc::clone(template) };
        self.requests.get(&labels).map_or(0, |count| count.get())
    }

    /// What this route has answered; nothing if it has no series of its own (`max_series`).
    pub fn read_route(&self, route: &Name, template: &Name) -> Option<RouteReading> {
        let labels = RouteLabels { route: Arc::clone(route), template: Arc::clone(template) };
        let (buckets, sum) = self.durations.get(&labels)?.read();
        let count = |status| self.requests_of(route, template, status);
        Some(RouteReading {
            by_class: CLASSES.map(count),
            cancelled: count(CANCELLED),
            took: Durations { buckets, sum },
        })
    }

    /// What this upstream has answered; nothing if it has no series of its own.
    pub fn read_upstream(&self, upstream: &Name) -> Option<UpstreamReading> {
        let took = self.attempt_durations.get(&UpstreamName { upstream: Arc::clone(upstream) })?;
        let (buckets, sum) = took.read();
        let outcomes = exchange::OUTCOMES.map(|outcome| {
            let attempts = self.attempts.get(&AttemptLabels { upstream: Arc::clone(upstream), outcome });
            attempts.map_or(0, |count| count.get())
        });
        Some(UpstreamReading { outcomes, took: Durations { buckets, sum } })
    }

    /// How often a policy came to this outcome.
    pub fn decided(&self, policy: &str, outcome: &'static str) -> u64 {
        let labels = PolicyLabels { policy: policy.into(), outcome };
        self.policies.get(&labels).map_or(0, |count| count.get())
    }
}
