//! What is configured.

use std::time::Duration;

use super::{Sticky, policy::maglev};
use crate::{classify::Classifier, key::Key};

/// How an endpoint is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Policy {
    /// All in turn.
    #[default]
    RoundRobin,
    /// All in turn, by weight and well spread.
    WeightedRoundRobin,
    /// Any, by weight.
    Random,
    /// The one with the fewest requests under way, whatever its weight.
    LeastRequest,
    /// The one with the fewest requests under way for its weight.
    WeightedLeastRequest,
    /// The better of two that are drawn by weight: latency, as often as there are requests under way.
    PeakEwma,
    /// The best of all by the same measure, for its weight.
    LeastLatency,
    /// The one that is the least busy for its weight, as it says itself, or as [told](super::Endpoint::report_load).
    LeastLoad,
    /// By the hash of a key, on a ring with so many points for each unit of weight.
    RingHash {
        /// Points for each unit of weight; 100 or more.
        points: u32,
    },
    /// By the hash of a key, in a table.
    Maglev {
        /// The table's size; the next prime is taken.
        size: u32,
    },
    /// By the hash of a key and each endpoint.
    Rendezvous,
    /// By the client's address; rendezvous under its hash.
    IpHash,
}

impl Policy {
    /// A ring of 100 points for each unit of weight.
    pub const RING_HASH: Self = Self::RingHash { points: 100 };
    /// A table of 65,537 slots.
    pub const MAGLEV: Self = Self::Maglev { size: maglev::SMALL };

    /// Its name, as it is explained.
    pub const fn name(self) -> &'static str {
        match self {
            Self::RoundRobin => "round robin",
            Self::WeightedRoundRobin => "weighted round robin",
            Self::Random => "random",
            Self::LeastRequest => "least request",
            Self::WeightedLeastRequest => "weighted least request",
            Self::PeakEwma => "peak EWMA",
            Self::LeastLatency => "least latency",
            Self::LeastLoad => "least load",
            Self::RingHash { .. } => "ring hash",
            Self::Maglev { .. } => "maglev",
            Self::Rendezvous => "rendezvous",
            Self::IpHash => "IP hash",
        }
    }

    /// Whether it reads a turn that is only taken once it is known how far it goes.
    pub(super) const fn is_cyclic(self) -> bool {
        matches!(self, Self::RoundRobin | Self::WeightedRoundRobin)
    }

    /// Whether it looks at all endpoints and takes the best.
    pub(super) const fn is_of_all(self) -> bool {
        matches!(self, Self::LeastRequest | Self::WeightedLeastRequest | Self::LeastLatency | Self::LeastLoad)
    }

    pub(super) const fn is_by_key(self) -> bool {
        matches!(self, Self::RingHash { .. } | Self::Maglev { .. } | Self::Rendezvous | Self::IpHash)
    }

    pub(super) const fn is_by_latency(self) -> bool {
        matches!(self, Self::PeakEwma | Self::LeastLatency)
    }

    /// Whether weights count.
    pub(super) const fn is_weighted(self) -> bool {
        !matches!(self, Self::RoundRobin | Self::LeastRequest)
    }
}

/// What a [`BalanceLayer`](super::BalanceLayer) does.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct BalanceConfig {
    /// How an endpoint is chosen; default round robin.
    pub policy: Policy,
    /// Until when one that joins has less than its share; default not at all.
    pub slow_start: Option<SlowStart>,
    /// Below so many percent that are available, all count as available that are not taken out on purpose;
    /// default 0: never.
    pub panic: u8,
    /// No endpoint has more than so many percent of its fair share of what is under way, for the policies that
    /// go by a hash: at least 100; default no bound.
    pub max_load: Option<u32>,
    /// How latencies are remembered.
    pub latency: Latency,
    /// Which regions are preferred; default none. The client's is found by
    /// [`region_by`](super::BalanceLayer::region_by).
    pub regions: Option<Regions>,
    /// Only endpoints that have all of these labels; default all endpoints.
    pub labels: Vec<(String, String)>,
    /// What becomes of a request for a [subset](super::BalanceLayer::subset_by) without endpoints.
    pub subset_miss: SubsetMiss,
    /// A cookie that brings a client back to its endpoint; default none.
    pub sticky: Option<Sticky>,
    /// Closed gates take out at most so many percent of the endpoints that are there otherwise, yet one of two or
    /// more, and never all; default no bound.
    pub max_ejected: Option<u8>,
    /// What is a failure, for latencies and gates.
    pub classifier: Classifier,
    /// Where random numbers begin; default anywhere.
    pub seed: Option<u64>,
}

impl BalanceConfig {
    /// Under this policy.
    pub fn new(policy: Policy) -> Self {
        Self { policy, ..Self::default() }
    }

    /// By region, and in the first region that has room the one with the fewest requests for its weight.
    pub fn geographic(regions: Regions) -> Self {
        Self { regions: Some(regions), ..Self::new(Policy::WeightedLeastRequest) }
    }

    /// One that joins has less than its share at first.
    #[must_use]
    pub const fn slow_start(mut self, duration: Duration) -> Self {
        self.slow_start = Some(SlowStart { duration, floor: 10 });
        self
    }

    /// Below so many percent that are available, choose among all.
    #[must_use]
    pub const fn panic(mut self, percent: u8) -> Self {
        self.panic = percent;
        self
    }

    /// No endpoint has more than so many percent of its fair share.
    #[must_use]
    pub const fn max_load(mut self, percent: u32) -> Self {
        self.max_load = Some(percent);
        self
    }

    /// How latencies are remembered.
    #[must_use]
    pub const fn latency(mut self, latency: Latency) -> Self {
        self.latency = latency;
        self
    }

    /// Only endpoints with this label, too.
    #[must_use]
    pub fn label(mut self, name: &str, value: &str) -> Self {
        self.labels.push((name.into(), value.into()));
        self
    }

    /// What becomes of a request for a subset without endpoints.
    #[must_use]
    pub const fn subset_miss(mut self, miss: SubsetMiss) -> Self {
        self.subset_miss = miss;
        self
    }

    /// A cookie that brings a client back.
    #[must_use]
    pub fn sticky(mut self, sticky: Sticky) -> Self {
        self.sticky = Some(sticky);
        self
    }

    /// Closed gates take out at most so many percent.
    #[must_use]
    pub const fn max_ejected(mut self, percent: u8) -> Self {
        self.max_ejected = Some(percent);
        self
    }

    /// What is a failure.
    #[must_use]
    pub const fn classifier(mut self, classifier: Classifier) -> Self {
        self.classifier = classifier;
        self
    }

    /// Where random numbers begin.
    #[must_use]
    pub const fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }
}

/// How the share of an endpoint that joins grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlowStart {
    /// Until it has all of its share.
    pub duration: Duration,
    /// Where it begins, in percent of its share; default 10.
    pub floor: u8,
}

/// How latencies are remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Latency {
    /// Until a sample counts half; default and at least: 5 s and 1 s.
    pub half_life: Duration,
    /// What a failure counts as, if it did not take longer; default 1 s.
    pub failure: Duration,
}

impl Default for Latency {
    fn default() -> Self {
        Self { half_life: Duration::from_secs(5), failure: Duration::from_secs(1) }
    }
}

/// What becomes of a request for a subset without endpoints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SubsetMiss {
    /// Any endpoint will do.
    #[default]
    Any,
    /// None will do: `503`.
    Refuse,
}

/// Which regions of endpoints are preferred for which regions of clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Regions {
    pub(super) label: String,
    pub(super) lists: Vec<(Key, Vec<String>)>,
    pub(super) default: Vec<String>,
}

impl Regions {
    /// No lists yet; the region of an endpoint is its label of this name.
    pub fn by_label(label: &str) -> Self {
        Self { label: label.into(), lists: Vec::new(), default: Vec::new() }
    }

    /// For clients of `region`: endpoints in these regions, the best first. At most 255 count.
    #[must_use]
    pub fn prefer<'a>(mut self, region: &str, list: impl IntoIterator<Item = &'a str>) -> Self {
        let list = list.into_iter().map(str::to_owned).collect();
        self.lists.push((Key::of(region), list));
        self
    }

    /// For clients of any other region, and of none that is known.
    #[must_use]
    pub fn otherwise<'a>(mut self, list: impl IntoIterator<Item = &'a str>) -> Self {
        self.default = list.into_iter().map(str::to_owned).collect();
        self
    }
}
