//! What became of the attempts to have an answer of an upstream.

use std::{sync::Arc, time::Duration};

use http::StatusCode;
use naka::{
    clock::Now,
    reject::{Reason, Rejection},
};
use prometheus_client::metrics::counter::Counter;

use super::{class, histogram::Histogram};

/// Outcomes: those of who answered, by class, and of who did not.
pub(super) const OUTCOMES: [&str; 12] = [
    "1xx",
    "2xx",
    "3xx",
    "4xx",
    "5xx",
    "connect_failed",
    "connections_full",
    "timeout",
    "reset",
    "protocol",
    "client",
    "cancelled",
];
const CONNECT: usize = 5;
const FULL: usize = 6;
const TIMEOUT: usize = 7;
const RESET: usize = 8;
const PROTOCOL: usize = 9;
const CLIENT: usize = 10;
const CANCELLED: usize = 11;

/// The handles of one upstream: what its exchanges report to.
#[derive(Debug, Default)]
pub struct UpstreamMetrics {
    pub(super) by_outcome: [Counter; OUTCOMES.len()],
    pub(super) took: Histogram,
    pub(super) connected: Histogram,
}

impl UpstreamMetrics {
    /// An attempt begins, which counts when it is told to have ended, or is dropped.
    pub fn begin(self: &Arc<Self>) -> Attempt {
        Attempt { began: Now::read(), metrics: Some(Arc::clone(self)) }
    }

    /// A connection has come about, TLS included, in this time.
    pub fn connected(&self, took: Duration) {
        self.connected.observe(took, None);
    }
}

/// One attempt under way.
#[derive(Debug)]
pub struct Attempt {
    began: Now,
    metrics: Option<Arc<UpstreamMetrics>>,
}

impl Attempt {
    /// When it began.
    pub const fn began(&self) -> Now {
        self.began
    }

    /// The head of a response is there, or a refusal in its place.
    pub fn ended(mut self, status: StatusCode, rejection: Option<&Rejection>) {
        self.count(rejection.map_or_else(|| class(status), |rejection| outcome(rejection.reason)));
    }

    fn count(&mut self, outcome: usize) {
        if let Some(metrics) = self.metrics.take() {
            metrics.by_outcome[outcome].inc();
            metrics.took.observe(self.began.elapsed(), None);
        }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        self.count(CANCELLED); // Unless it has ended.
    }
}

const fn outcome(reason: Reason) -> usize {
    match reason {
        Reason::ConnectionsFull | Reason::NoEndpoint => FULL,
        Reason::ResponseTimeout | Reason::DeadlineExpired | Reason::TotalTimeout => TIMEOUT,
        Reason::UpstreamReset | Reason::UpstreamRefused => RESET,
        Reason::RequestTimeout | Reason::BadRequest | Reason::BodyTooLarge => CLIENT,
        reason if reason.is_of_connecting() => CONNECT,
        _ => PROTOCOL,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_attempt_counts_once_however_it_ends() {
        let metrics = Arc::new(UpstreamMetrics::default());
        metrics.begin().ended(StatusCode::OK, None);
        metrics.begin().ended(StatusCode::BAD_GATEWAY, None);
        for reason in [Reason::DnsFailed, Reason::ConnectTimeout, Reason::UpstreamReset, Reason::BadRequest] {
            metrics.begin().ended(reason.status(), Some(&Rejection::new(reason)));
        }
        drop(metrics.begin());
        let counts = metrics.by_outcome.each_ref().map(Counter::get);
        assert_eq!(counts, [0, 1, 0, 0, 1, 2, 0, 0, 1, 0, 1, 1], "{OUTCOMES:?}");
        assert_eq!(metrics.took.count(), 7);
    }
}
