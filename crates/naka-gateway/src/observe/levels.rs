//! What is read when somebody asks, and not kept up to date for each request.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering::Relaxed},
};

use naka::circuit_breaker::{Phase, Snapshot};
use prometheus_client::{encoding::EncodeLabelSet, metrics::gauge::Gauge, registry::Registry};

use super::{Metrics, family::Family};

/// All such gauges. Each scrape writes them anew, within what room is left.
#[derive(Debug, Default)]
pub(super) struct Levels {
    policies: Family<LevelLabels, Gauge>,
    arms: Family<ArmLabels, Gauge>,
    health: Family<HealthLabels, Gauge>,
    discoveries: Family<UpstreamLevelLabels, Gauge>,
    stores: Family<StoreLabels, Gauge>,
    breakers: Family<BreakerLabels, Gauge>,
    breaker_failures: Family<PolicyLabels, Ratio>,
    breaker_slow: Family<PolicyLabels, Ratio>,
    breaker_requests: Family<PolicyLabels, Gauge>,
    endpoint_breakers: Family<EndpointBreakerLabels, Gauge>,
    endpoint_requests: Family<EndpointLabels, Gauge>,
    bulkhead_limit: Family<PolicyLabels, Gauge>,
    bulkhead_in_use: Family<PolicyLabels, Gauge>,
    bulkhead_queue_limit: Family<PolicyLabels, Gauge>,
    bulkhead_queued: Family<PolicyLabels, Gauge>,
    rate_limit_keys: Family<PolicyLabels, Gauge>,
    rate_limit_keys_max: Family<PolicyLabels, Gauge>,
    budget_spent: Family<BudgetLabels, Gauge>,
    budget_allowed: Family<BudgetLabels, Gauge>,
    connections: Family<ConnectionLabels, Gauge>,
    connections_pending: Family<UpstreamLabels, Gauge>,
    connections_max: Family<UpstreamLabels, Gauge>,
    workers: Family<WorkerLabels, Gauge>,
    client_connections_max: Gauge,
    upstream_connections_max: Gauge,
    loads: Mutex<Arc<[AtomicUsize]>>,
    room: AtomicUsize,
    left_out: AtomicUsize,
}

type Ratio = Gauge<f64, AtomicU64>;

/// Label sets, each with its fields in the order in which they are shown.
macro_rules! labels {
    ($($name:ident { $($field:ident: $of:ty),+ })+) => {$(
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, EncodeLabelSet)]
        struct $name { $($field: $of),+ }
    )+};
}

labels! {
    LevelLabels { policy: String, level: &'static str }
    ArmLabels { policy: String, arm: String, level: &'static str }
    HealthLabels { upstream: String, state: &'static str }
    UpstreamLevelLabels { upstream: String, level: &'static str }
    BreakerLabels { policy: String, state: &'static str }
    PolicyLabels { policy: String }
    EndpointBreakerLabels { upstream: String, endpoint: String, state: &'static str }
    EndpointLabels { upstream: String, endpoint: String }
    BudgetLabels { budget: String }
    ConnectionLabels { upstream: String, state: &'static str }
    UpstreamLabels { upstream: String }
    WorkerLabels { worker: u32 }
    StoreLabels { store: String }
}

/// Phases of a circuit breaker.
const PHASES: [Phase; 6] =
    [Phase::Closed, Phase::Recovering, Phase::HalfOpen, Phase::Open, Phase::ForcedOpen, Phase::ForcedClosed];

/// One circuit breaker of a policy.
#[derive(Debug)]
pub struct BreakerLevel<'a> {
    /// The policy.
    pub policy: &'a str,
    /// What is known of it.
    pub is: Snapshot,
}

/// One endpoint.
#[derive(Debug)]
pub struct EndpointLevel<'a> {
    /// Its upstream.
    pub upstream: &'a str,
    /// Its address.
    pub address: &'a str,
    /// Requests that are under way to it.
    pub in_flight: usize,
    /// Where its circuit breaker is, if it has one.
    pub breaker: Option<Phase>,
}

/// One bulkhead.
#[derive(Debug)]
pub struct BulkheadLevel<'a> {
    /// The policy.
    pub policy: &'a str,
    /// Requests that may be at work, over all partitions if that is bounded, else in each.
    pub limit: usize,
    /// Those that are.
    pub in_use: usize,
    /// Requests that may wait.
    pub queue_limit: usize,
    /// Those that do.
    pub queued: usize,
}

/// Connections to one upstream.
#[derive(Debug)]
pub struct ConnectionsLevel<'a> {
    /// The upstream.
    pub upstream: &'a str,
    /// Those there are.
    pub open: usize,
    /// Those that nobody uses.
    pub idle: usize,
    /// Requests that wait for one.
    pub pending: usize,
    /// Those there may be, to all its endpoints together.
    pub max: usize,
}

impl Levels {
    pub(super) fn register(&self, registry: &mut Registry) {
        macro_rules! register {
            ($($field:ident $name:literal $help:literal)+) => {
                $( registry.register($name, $help, self.$field.clone()); )+
            };
        }
        register! {
            policies "policy_level" "What each policy holds now"
            arms "split_level" "The share of each arm of a split that is in force, and whether it is held"
            health "upstream_endpoints" "Endpoints of upstreams with health checks, by how they are"
            discoveries "discovery_level" "What was found, and how it is"
            stores "store_up" "1 for a store of rate limits that answers, 0 while limits do without it"
            breakers "circuit_breaker_state" "1 for the state in which the circuit breaker of a policy is"
            breaker_failures "circuit_breaker_failure_ratio" "The share of failures in the window of a circuit breaker, from 0 to 1"
            breaker_slow "circuit_breaker_slow_ratio" "The share of slow answers in the window of a circuit breaker, from 0 to 1"
            breaker_requests "circuit_breaker_window_requests" "Results in the window of a circuit breaker"
            endpoint_breakers "endpoint_circuit_breaker_state" "1 for the state in which the circuit breaker of an endpoint is"
            endpoint_requests "endpoint_requests_in_flight" "Requests that are under way to an endpoint"
            bulkhead_limit "bulkhead_limit" "Requests that may be at work at once; of partitions without a common bound, in each"
            bulkhead_in_use "bulkhead_in_use" "Requests that are at work"
            bulkhead_queue_limit "bulkhead_queue_limit" "Requests that may wait for a place"
            bulkhead_queued "bulkhead_queued" "Requests that wait for a place"
            rate_limit_keys "rate_limit_keys" "Keys that a rate limit remembers"
            rate_limit_keys_max "rate_limit_keys_max" "Keys that a rate limit may remember"
            budget_spent "retry_budget_spent" "Retries that the budget of an upstream has paid for, in its window"
            budget_allowed "retry_budget_allowed" "Retries that the budget of an upstream may pay for, in its window"
            connections "upstream_connections" "Connections to the endpoints of an upstream"
            connections_pending "upstream_connections_pending" "Requests that wait for a connection to an endpoint of an upstream"
            connections_max "upstream_connections_max" "Connections that there may be to the endpoints of an upstream"
            workers "worker_connections" "Client connections of each worker"
            client_connections_max "connections_max" "Client connections that there may be"
            upstream_connections_max "all_upstream_connections_max" "Connections that there may be to all upstreams together"
        }
    }

    /// A scrape begins, with room for so many series.
    pub(super) fn begin(&self, room: usize) {
        self.room.store(room, Relaxed);
        self.left_out.store(0, Relaxed);
    }

    /// How many series had no room in this scrape.
    pub(super) fn left_out(&self) -> usize {
        self.left_out.load(Relaxed)
    }

    /// These and no others, as far as there is room. Scrapes come one after the other.
    fn set<L: Ord + Clone>(&self, family: &Family<L, Gauge>, all: impl Iterator<Item = (L, usize)>) {
        self.fill(family, all.map(|(labels, value)| (labels, i64::try_from(value).unwrap_or(i64::MAX))));
    }

    fn fill<L, N, A>(&self, family: &Family<L, Gauge<N, A>>, mut all: impl Iterator<Item = (L, N)>)
    where
        L: Ord + Clone,
        A: prometheus_client::metrics::gauge::Atomic<N> + Default,
    {
        let room = self.room.load(Relaxed);
        let shown = all.by_ref().take(room).map(|(labels, value)| {
            let gauge = Gauge::<N, A>::default();
            gauge.set(value);
            (labels, gauge)
        });
        let shown = shown.collect::<Vec<_>>();
        self.room.store(room - shown.len(), Relaxed);
        family.replace(shown);
        self.left_out.fetch_add(all.count(), Relaxed);
    }
}

impl Metrics {
    /// Says how much each policy holds now; nothing is known of any other.
    pub fn levels<'a>(&self, all: impl Iterator<Item = (&'a str, &'static str, usize)>) {
        let all = all.map(|(policy, level, value)| (LevelLabels { policy: policy.to_owned(), level }, value));
        self.levels.set(&self.levels.policies, all);
    }

    /// Says of each arm of each split what it gets, and whether it is held; nothing is known of any other.
    pub fn arms<'a>(&self, all: impl Iterator<Item = (&'a str, &'a str, u32, bool)>) {
        let all = all.flat_map(|(policy, arm, weight, is_held)| {
            [("weight", weight as usize), ("held", is_held.into())].map(|(level, value)| {
                (ArmLabels { policy: policy.to_owned(), arm: arm.to_owned(), level }, value)
            })
        });
        self.levels.set(&self.levels.arms, all);
    }

    /// Says how many endpoints each upstream has of each state; nothing is known of any other.
    pub fn endpoints<'a>(&self, all: impl Iterator<Item = (&'a str, &'static str, usize)>) {
        let all = all
            .map(|(upstream, state, count)| (HealthLabels { upstream: upstream.to_owned(), state }, count));
        self.levels.set(&self.levels.health, all);
    }

    /// Says what was found for each upstream, and how that is; nothing is known of any other.
    pub fn discovery_levels<'a>(&self, all: impl Iterator<Item = (&'a str, &'static str, u64)>) {
        let all = all.map(|(upstream, level, value)| {
            let value = usize::try_from(value).unwrap_or(usize::MAX);
            (UpstreamLevelLabels { upstream: upstream.to_owned(), level }, value)
        });
        self.levels.set(&self.levels.discoveries, all);
    }

    /// Says which stores answer; nothing is known of any other.
    pub fn stores<'a>(&self, all: impl Iterator<Item = (&'a str, bool)>) {
        let all = all.map(|(store, is_up)| (StoreLabels { store: store.to_owned() }, usize::from(is_up)));
        self.levels.set(&self.levels.stores, all);
    }

    /// Says how each circuit breaker is that is the only one of its policy.
    pub fn breakers(&self, all: &[BreakerLevel<'_>]) {
        let levels = &self.levels;
        let states = all.iter().flat_map(|it| {
            let value = |phase: Phase| usize::from(phase == it.is.phase);
            PHASES.map(|phase| {
                (BreakerLabels { policy: it.policy.to_owned(), state: phase.word() }, value(phase))
            })
        });
        levels.set(&levels.breakers, states);
        let of = |it: &BreakerLevel<'_>| PolicyLabels { policy: it.policy.to_owned() };
        let share = |part: u32, total: u32| if total == 0 { 0.0 } else { f64::from(part) / f64::from(total) };
        let failures = all.iter().map(|it| (of(it), share(it.is.counts.failed, it.is.counts.total)));
        levels.fill(&levels.breaker_failures, failures);
        let slow = all.iter().map(|it| (of(it), share(it.is.counts.slow, it.is.counts.total)));
        levels.fill(&levels.breaker_slow, slow);
        levels.set(&levels.breaker_requests, all.iter().map(|it| (of(it), it.is.counts.total as usize)));
    }

    /// Says what is under way to each endpoint, and how its circuit breaker is.
    pub fn each_endpoint(&self, all: &[EndpointLevel<'_>]) {
        let levels = &self.levels;
        let requests = all.iter().map(|it| {
            let (upstream, endpoint) = (it.upstream.to_owned(), it.address.to_owned());
            (EndpointLabels { upstream, endpoint }, it.in_flight)
        });
        levels.set(&levels.endpoint_requests, requests);
        let breakers = all.iter().filter_map(|it| Some((it, it.breaker?)));
        let states = breakers.flat_map(|(it, is)| {
            PHASES.map(|phase| {
                let (upstream, endpoint) = (it.upstream.to_owned(), it.address.to_owned());
                let labels = EndpointBreakerLabels { upstream, endpoint, state: phase.word() };
                (labels, usize::from(phase == is))
            })
        });
        levels.set(&levels.endpoint_breakers, states);
    }

    /// Says how full each bulkhead is.
    pub fn bulkheads(&self, all: &[BulkheadLevel<'_>]) {
        let levels = &self.levels;
        let of = |it: &BulkheadLevel<'_>| PolicyLabels { policy: it.policy.to_owned() };
        levels.set(&levels.bulkhead_limit, all.iter().map(|it| (of(it), it.limit)));
        levels.set(&levels.bulkhead_in_use, all.iter().map(|it| (of(it), it.in_use)));
        levels.set(&levels.bulkhead_queue_limit, all.iter().map(|it| (of(it), it.queue_limit)));
        levels.set(&levels.bulkhead_queued, all.iter().map(|it| (of(it), it.queued)));
    }

    /// Says how many keys each rate limit remembers, and how many it may.
    pub fn rate_limits(&self, all: &[(&str, usize, usize)]) {
        let levels = &self.levels;
        let of = |policy: &str| PolicyLabels { policy: policy.to_owned() };
        levels.set(&levels.rate_limit_keys, all.iter().map(|(policy, keys, _)| (of(policy), *keys)));
        levels.set(&levels.rate_limit_keys_max, all.iter().map(|(policy, _, max)| (of(policy), *max)));
    }

    /// Says what each retry budget has paid for, and what it may.
    pub fn retry_budgets(&self, all: &[(&str, usize, usize)]) {
        let levels = &self.levels;
        let of = |budget: &str| BudgetLabels { budget: budget.to_owned() };
        levels.set(&levels.budget_spent, all.iter().map(|(budget, spent, _)| (of(budget), *spent)));
        levels.set(&levels.budget_allowed, all.iter().map(|(budget, _, allowed)| (of(budget), *allowed)));
    }

    /// Says what connections there are to each upstream.
    pub fn upstream_connections(&self, all: &[ConnectionsLevel<'_>], max: usize) {
        let levels = &self.levels;
        let states = all.iter().flat_map(|it| {
            [("idle", it.idle), ("in_use", it.open.saturating_sub(it.idle))]
                .map(|(state, count)| (ConnectionLabels { upstream: it.upstream.to_owned(), state }, count))
        });
        levels.set(&levels.connections, states);
        let of = |it: &ConnectionsLevel<'_>| UpstreamLabels { upstream: it.upstream.to_owned() };
        levels.set(&levels.connections_pending, all.iter().map(|it| (of(it), it.pending)));
        levels.set(&levels.connections_max, all.iter().map(|it| (of(it), it.max)));
        levels.upstream_connections_max.set(i64::try_from(max).unwrap_or(i64::MAX));
    }

    /// Where it is counted how many connections of clients each worker has.
    pub fn watch_workers(&self, loads: &Arc<[AtomicUsize]>) {
        *self.levels.loads.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(loads);
    }

    /// Says how many those are, and how many there may be.
    pub fn read_workers(&self, max: usize) {
        let loads = Arc::clone(&self.levels.loads.lock().unwrap_or_else(PoisonError::into_inner));
        let all = (0..).zip(loads.iter());
        let all = all.map(|(worker, load)| (WorkerLabels { worker }, load.load(Relaxed)));
        self.levels.set(&self.levels.workers, all);
        self.levels.client_connections_max.set(i64::try_from(max).unwrap_or(i64::MAX));
    }
}

/// The gauges of prometheus-client count in this.
const _: fn(Gauge<i64, AtomicI64>) -> Gauge = |gauge| gauge;
