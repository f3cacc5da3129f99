//! What is configured.

use std::time::Duration;

use super::{
    phase::{MAX_PROBES, Phases},
    window::{MAX_MIN_REQUESTS, Shape, Trips},
};
use crate::{classify::Classifier, enforce::Enforce};

/// What a [`CircuitBreakerLayer`](super::CircuitBreakerLayer) does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CircuitBreakerConfig {
    /// Opens after so many failures in a row; default 5, 0 is never.
    pub consecutive: u32,
    /// Opens when so many percent of the window have failed; default 50, 0 is never.
    pub failure_rate: u8,
    /// Opens when too many of the window were slow; default never.
    pub slow_call: Option<SlowCall>,
    /// Below so many results in the window no rate opens; default 10, at most 2,000.
    pub min_requests: u32,
    /// Which results count for the rates; default the last 100.
    pub window: Window,
    /// How long it is open at first; default 60 s, at least a millisecond.
    pub open: Duration,
    /// How long it is open at most, if probes go on failing; default as long as at first.
    pub open_max: Duration,
    /// Probes at work at once while it is half open; default 3, from 1 to 15.
    pub probes: u8,
    /// Probes that have to go well until it closes; default 3, from 1 to 15.
    pub successes: u8,
    /// If none of the places for probes came free for so long after the last was taken, all of them are free;
    /// default 30 s. It has to be longer than a good response takes, its body included unless results are
    /// known with the [head](Self::settle), or a good one is not heard.
    pub probe_timeout: Duration,
    /// For how long after that a growing share passes; default 0: all pass at once.
    pub ramp: Duration,
    /// When a result is known; default [`Until::End`].
    pub settle: Until,
    /// What is a failure.
    pub classifier: Classifier,
    /// Keys that have a breaker; default 10,000, at least one for each of 32 shards. A lower number takes
    /// nobody's away, and lets nobody in.
    pub max_keys: usize,
    /// What the open times of a new breaker are drawn by; default another each time.
    pub seed: Option<u64>,
    /// How far it takes effect; default [`Enforce::Always`].
    pub enforce: Enforce,
}

/// When a call is slow, and how many may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SlowCall {
    /// Slow is what takes this long, or longer.
    pub over: Duration,
    /// Opens when so many percent of the window were slow; 0 counts as 1.
    pub rate: u8,
    /// Until when it is measured; [`Until::Head`] where nothing else is said.
    pub until: Until,
}

impl SlowCall {
    /// Slow is what takes this long; so many percent of the window open. Measured to the response's head.
    pub const fn new(over: Duration, rate: u8) -> Self {
        Self { over, rate, until: Until::Head }
    }

    /// Measured until then.
    #[must_use]
    pub const fn until(mut self, until: Until) -> Self {
        self.until = until;
        self
    }
}

/// A point in the life of an exchange.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Until {
    /// The head of the response is there.
    Head,
    /// Its body has ended.
    #[default]
    End,
}

/// Which results count for the rates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Window {
    /// The last so many, rounded up to tens: all of the newest nine tenths, and a part of the tenth before.
    Count(u32),
    /// Those of the last so long: all of the newest nine tenths, and a part of the tenth before.
    Time(Duration),
}

impl CircuitBreakerConfig {
    /// The defaults.
    pub const fn new() -> Self {
        Self {
            consecutive: 5,
            failure_rate: 50,
            slow_call: None,
            min_requests: 10,
            window: Window::Count(100),
            open: Duration::from_mins(1),
            open_max: Duration::ZERO,
            probes: 3,
            successes: 3,
            probe_timeout: Duration::from_secs(30),
            ramp: Duration::ZERO,
            settle: Until::End,
            classifier: Classifier::new(),
            max_keys: 10_000,
            seed: None,
            enforce: Enforce::Always,
        }
    }

    /// Opens after so many failures in a row; 0 is never.
    #[must_use]
    pub const fn consecutive(mut self, failures: u32) -> Self {
        self.consecutive = failures;
        self
    }

    /// Opens when so many percent of the window have failed; 0 is never.
    #[must_use]
    pub const fn failure_rate(mut self, percent: u8) -> Self {
        self.failure_rate = percent;
        self
    }

    /// Opens when too many of the window were slow.
    #[must_use]
    pub const fn slow_call(mut self, slow_call: SlowCall) -> Self {
        self.slow_call = Some(slow_call);
        self
    }

    /// Which results count for the rates, and below how many no rate opens.
    #[must_use]
    pub const fn window(mut self, window: Window, min_requests: u32) -> Self {
        self.window = window;
        self.min_requests = min_requests;
        self
    }

    /// Open for so long at first, and at most so long if probes go on failing.
    #[must_use]
    pub const fn open(mut self, first: Duration, at_most: Duration) -> Self {
        self.open = first;
        self.open_max = at_most;
        self
    }

    /// So many probes at work at once; so many have to go well.
    #[must_use]
    pub const fn probes(mut self, at_once: u8, successes: u8) -> Self {
        self.probes = at_once;
        self.successes = successes;
        self
    }

    /// After so long without news, probes lose their places.
    #[must_use]
    pub const fn probe_timeout(mut self, after: Duration) -> Self {
        self.probe_timeout = after;
        self
    }

    /// For so long after it was open a growing share passes.
    #[must_use]
    pub const fn ramp(mut self, ramp: Duration) -> Self {
        self.ramp = ramp;
        self
    }

    /// When a result is known.
    #[must_use]
    pub const fn settle(mut self, settle: Until) -> Self {
        self.settle = settle;
        self
    }

    /// What is a failure.
    #[must_use]
    pub const fn classifier(mut self, classifier: Classifier) -> Self {
        self.classifier = classifier;
        self
    }

    /// So many keys have a breaker.
    #[must_use]
    pub const fn max_keys(mut self, max_keys: usize) -> Self {
        self.max_keys = max_keys;
        self
    }

    /// Open times are drawn by this: the same each time.
    #[must_use]
    pub const fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// How far it takes effect.
    #[must_use]
    pub const fn enforce(mut self, enforce: Enforce) -> Self {
        self.enforce = enforce;
        self
    }

    /// Whether a call that took so long is slow.
    pub(super) fn is_slow(&self, took: Duration) -> bool {
        self.slow_call.is_some_and(|slow| took >= slow.over)
    }

    /// As its transitions want it, for results that begin with `era`.
    pub(super) fn rule(&self, era: u64) -> Rule {
        let slow_percent = self.slow_call.map_or(0, |slow| u32::from(slow.rate.clamp(1, 100)));
        let shape = match self.window {
            Window::Count(results) => Shape::Count(u64::from(results).div_ceil(10).max(1)),
            Window::Time(length) => {
                Shape::Time(u64::try_from(length.as_nanos() / 10).unwrap_or(u64::MAX).max(1))
            }
        };
        let open_ms = milliseconds(self.open).max(1);
        Rule {
            phases: Phases {
                probes: u64::from(self.probes.clamp(1, MAX_PROBES)),
                successes: u64::from(self.successes.clamp(1, MAX_PROBES)),
                open_ms,
                open_max_ms: milliseconds(self.open_max).max(open_ms),
                probe_ms: milliseconds(self.probe_timeout).max(1),
                ramp_ms: milliseconds(self.ramp),
            },
            trips: Trips {
                consecutive: self.consecutive,
                failure_percent: u32::from(self.failure_rate.min(100)),
                slow_percent,
                min_requests: self.min_requests.min(MAX_MIN_REQUESTS),
            },
            shape,
            era,
            max_keys: self.max_keys,
        }
    }
}

impl Default for CircuitBreakerConfig {
    fn default() -> Self {
        Self::new()
    }
}

/// One configuration, as its transitions want it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) phases: Phases,
    pub(super) trips: Trips,
    pub(super) shape: Shape,
    /// Results of windows of another shape have another number here.
    pub(super) era: u64,
    pub(super) max_keys: usize,
}

/// The longest time of any kind: a year.
const LONGEST_MS: u64 = 365 * 24 * 60 * 60 * 1000;

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX).min(LONGEST_MS)
}
