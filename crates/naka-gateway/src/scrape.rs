//! What the state of a generation says to who reads the metrics: looked at when somebody asks, and not kept up to date for
//! each request.

use naka::{
    balance::Endpoint,
    bulkhead::Counts,
    cache::Counts as Kept,
    circuit_breaker::{CircuitBreakerLayer, Phase},
    clock::Now,
    health::Condition,
    retry::Balance,
    trace::otlp,
};
use std::sync::Arc;

use crate::{
    config::checked::{Bulkhead, Name},
    generation::Generation,
    observe::{
        Balancer, BreakerLevel, BulkheadLevel, ConnectionsLevel, EndpointLevel, Metrics, Passed,
        PolicyMetrics,
    },
    state::{Checks, State, breakers_name},
    telemetry::log,
};

/// Tells `metrics` how everything is now. Takes locks of layers, each for as long as it takes to count.
pub(crate) fn read(metrics: &Metrics, generation: &Generation) {
    of_policies(metrics, generation);
    of_breakers(metrics, &generation.state);
    of_bulkheads(metrics, &generation.state);
    of_endpoints(metrics, &generation.state);
    of_connections(metrics, generation);
    let limits = generation.state.rate_limits.entries();
    let limits = limits.map(|(identity, (config, _), layer)| (&**identity, layer.keys(), config.max_keys));
    metrics.rate_limits(&limits.collect::<Vec<_>>());
    let now = Now::read();
    let count = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
    let budgets = generation.state.retry_budgets.iter().map(|(of, budget)| {
        let Balance { spent, allowed } = budget.balance(now);
        (&**of, count(spent), count(allowed))
    });
    metrics.retry_budgets(&budgets.collect::<Vec<_>>());
    metrics.read_workers(generation.limits.connections);
    of_telemetry(metrics, &generation.state);
}

fn of_telemetry(metrics: &Metrics, state: &State) {
    let spans = state.exporters.iter().next().map(|(_, exporting)| {
        let otlp::Counts { exported, dropped, failed } = exporting.exporter.counts();
        Passed { done: exported, dropped, failed, waiting: exporting.exporter.bytes() }
    });
    let lines = state.logs.iter().next().map(|(_, log)| {
        let log::Counts { written, dropped, failed } = log.counts();
        Passed { done: written, dropped, failed, waiting: log.bytes() }
    });
    metrics.telemetry(spans.unwrap_or_default(), lines.unwrap_or_default());
}

/// Those that are the only one of their policy; of those by key it is counted how many are open.
fn of_breakers(metrics: &Metrics, state: &State) {
    let now = Now::read();
    let all = state.breakers.iter().filter(|(_, layer)| !layer.is_keyed()).filter_map(|(identity, layer)| {
        Some(BreakerLevel { policy: identity, is: layer.breaker()?.snapshot(now) })
    });
    metrics.breakers(&all.collect::<Vec<_>>());
}

fn of_bulkheads(metrics: &Metrics, state: &State) {
    let all = state.bulkheads.entries().map(|(policy, (bulkhead, _), layer)| {
        let Counts { working, waiting, .. } = layer.counts();
        BulkheadLevel {
            policy,
            limit: limit(bulkhead, layer.adaptive_limit()) as usize,
            in_use: working as usize,
            queue_limit: bulkhead.queue as usize,
            queued: waiting as usize,
        }
    });
    metrics.bulkheads(&all.collect::<Vec<_>>());
}

/// The bound that is in force.
pub(crate) fn limit(bulkhead: &Bulkhead, adaptive: Option<u32>) -> u32 {
    let is_split = !bulkhead.key.is_empty();
    let written = bulkhead.total.filter(|_| is_split).unwrap_or(bulkhead.max);
    let follows = bulkhead.adaptive.is_some_and(|it| it.acts);
    adaptive.filter(|_| follows).map_or(written, |limit| limit.min(written))
}

fn of_endpoints(metrics: &Metrics, state: &State) {
    let now = Now::read();
    let all = state.balancers.iter().map(|(upstream, balancer)| (upstream, balancer.endpoints()));
    let all = all.collect::<Vec<_>>();
    let levels = all.iter().flat_map(|(upstream, endpoints)| {
        let breakers = state.endpoint_breakers.get(upstream);
        endpoints.iter().map(move |endpoint| {
            let breaker = breakers.map(|breakers| {
                let breaker = breakers.breaker(endpoint.address());
                breaker.map_or(Phase::Closed, |breaker| breaker.snapshot(now).phase)
            });
            EndpointLevel {
                upstream,
                address: endpoint.address(),
                in_flight: endpoint.in_flight() as usize,
                breaker,
            }
        })
    });
    metrics.each_endpoint(&levels.collect::<Vec<_>>());
}

fn of_connections(metrics: &Metrics, generation: &Generation) {
    let state = &generation.state;
    let all = state.places.iter().filter_map(|(upstream, places)| {
        let config = generation.config.upstreams.get(upstream)?;
        let endpoints = state.balancers.get(upstream).map_or(0, |balancer| balancer.endpoints().len());
        let idle = state.pools.iter().filter_map(|pools| pools.get(upstream)).map(|pools| pools.all_idle());
        let (open, pending) = places.all_counts();
        let max = config.connections.max.saturating_mul(endpoints);
        Some(ConnectionsLevel { upstream, open, idle: idle.sum(), pending, max })
    });
    let max = generation.config.gateway.limits.upstream_connections;
    metrics.upstream_connections(&all.collect::<Vec<_>>(), max);
}

fn of_policies(metrics: &Metrics, generation: &Generation) {
    let state = &generation.state;
    let now = Now::read();
    let versions = state.versions.iter().flat_map(|(route, layer)| {
        let used = layer.usage(now).versions.into_iter();
        used.map(move |is| {
            (
                format!("{route}/{}", is.name),
                "requests_7d",
                usize::try_from(is.last_7_days).unwrap_or(usize::MAX),
            )
        })
    });
    let versions = versions.collect::<Vec<_>>();
    let versions = versions.iter().map(|(name, level, value)| (&**name, *level, *value));
    let keys = state.rate_limits.iter().map(|(identity, layer)| (&**identity, "keys", layer.keys()));
    let counts = state.bulkheads.iter().flat_map(|(identity, layer)| {
        let Counts { working, waiting, .. } = layer.counts();
        let adaptive = layer.adaptive_limit().map(|limit| ("adaptive_limit", limit as usize));
        let all = [
            ("working", working as usize),
            ("waiting", waiting as usize),
            ("partitions", layer.partitions()),
        ];
        all.into_iter().chain(adaptive).map(move |(level, value)| (&**identity, level, value))
    });
    let breakers = state.breakers.iter().flat_map(|(identity, layer)| {
        let (keys, open) = breakers(layer, now);
        [("keys", keys), ("open", open)].into_iter().map(move |(level, value)| (&**identity, level, value))
    });
    let budgets = state.retry_budgets.iter().map(|(upstream, budget)| {
        let Balance { spent, allowed } = budget.balance(now);
        let count = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
        (format!("{upstream}/retry_budget"), [("spent", count(spent)), ("allowed", count(allowed))])
    });
    let budgets = budgets.collect::<Vec<_>>();
    let budgets = budgets
        .iter()
        .flat_map(|(name, levels)| levels.iter().map(|(level, value)| (&**name, *level, *value)));
    let of_endpoints = state.endpoint_breakers.iter().map(|(upstream, breakers)| {
        let endpoints = state.balancers.get(upstream).map(Balancer::endpoints).unwrap_or_default();
        let is_closed = |endpoint: &Endpoint| {
            let breaker = breakers.breaker(endpoint.address());
            breaker.is_none_or(|breaker| breaker.snapshot(now).phase == Phase::Closed)
        };
        let open = endpoints.iter().filter(|endpoint| !is_closed(endpoint)).count();
        (breakers_name(upstream), [("endpoints", endpoints.len()), ("open", open)])
    });
    let of_endpoints = of_endpoints.collect::<Vec<_>>();
    let of_endpoints = of_endpoints
        .iter()
        .flat_map(|(name, levels)| levels.iter().map(|(level, value)| (&**name, *level, *value)));
    let repetitions = state.idempotency.iter().flat_map(|(identity, kept)| {
        let counts = kept.layer.counts();
        let all = [
            ("keys", counts.keys),
            ("working", counts.working),
            ("bytes", counts.bytes),
            ("buffered_bytes", kept.layer.buffered_bytes()),
        ];
        all.into_iter().map(move |(level, value)| (&**identity, level, value))
    });
    let found = state.discoveries.iter().flat_map(|(upstream, discovery)| {
        let is = discovery.status(now);
        let all = [
            ("endpoints", is.endpoints as u64),
            ("age_seconds", is.age.as_secs()),
            ("held", is.is_held.into()),
            ("stale", is.stale.is_some().into()),
        ];
        all.into_iter().map(move |(level, value)| (&**upstream, level, value))
    });
    metrics.discovery_levels(found);
    metrics.stores(state.stores.iter().map(|(name, store)| (&**name, store.trouble().is_none())));
    metrics.held(&state.held);
    let all = keys
        .chain(counts)
        .chain(versions)
        .chain(repetitions)
        .chain(breakers)
        .chain(of_endpoints)
        .chain(budgets);
    let caches = state.caches.iter().flat_map(|(identity, layer)| {
        let Kept { entries, bytes } = layer.counts();
        [("entries", entries), ("bytes", bytes)].map(|(level, value)| (&**identity, level, value))
    });
    let all = all.chain(caches);
    metrics.levels(all.chain(waiting(state).map(|it| (&**it.identity, it.level, it.count))));
    let arms = state.splits.iter().flat_map(|(name, layer)| {
        layer.arms(now).into_iter().map(move |is| (&**name, is.name, is.in_force, is.held.is_some()))
    });
    let arms = arms.collect::<Vec<_>>();
    metrics.arms(arms.iter().map(|(name, arm, weight, held)| (*name, &**arm, *weight, *held)));
    metrics.endpoints(conditions(state).iter().map(|(name, state, count)| (&**name, *state, *count)));
}

/// How many endpoints each upstream that is checked has of each state.
fn conditions(state: &State) -> Vec<(Name, &'static str, usize)> {
    let of = |(upstream, checks): (&Name, &Checks)| {
        let all = checks.health.endpoints();
        let count = |condition| all.iter().filter(|it| it.condition == condition).count();
        Condition::ALL.map(|condition| (Arc::clone(upstream), condition.word(), count(condition)))
    };
    state.checks.iter().flat_map(of).collect()
}

/// How many breakers there are, and how many of them are not closed.
pub(crate) fn breakers(layer: &CircuitBreakerLayer<Arc<PolicyMetrics>>, now: Now) -> (usize, usize) {
    match layer.breaker().filter(|_| !layer.is_keyed()) {
        Some(breaker) => (1, usize::from(breaker.snapshot(now).phase != Phase::Closed)),
        None => layer.keys(),
    }
}

/// So many wait in one place, which is bounded.
pub(crate) struct Waiting<'a> {
    pub(crate) identity: &'a Arc<str>,
    pub(crate) kind: &'static str,
    pub(crate) level: &'static str,
    pub(crate) count: usize,
}

/// Who waits: for a check of a password, for another service, for a fault to be over; and copies under way.
pub(crate) fn waiting(state: &State) -> impl Iterator<Item = Waiting<'_>> {
    let of = |kind, level| move |(identity, count)| Waiting { identity, kind, level, count };
    let passwords = state.passwords.iter().map(|(identity, layer)| (identity, layer.waiting()));
    let authorities = state.authorities.iter().map(|(identity, layer)| (identity, layer.asking()));
    let faults = state.faults.iter().map(|(identity, layer)| (identity, layer.delayed()));
    let authentication =
        passwords.map(of("basic_auth", "waiting")).chain(authorities.map(of("forward_auth", "asking")));
    let mirrors = state.mirrors.iter().map(|(identity, layer)| (identity, layer.under_way()));
    authentication.chain(faults.map(of("fault", "delayed"))).chain(mirrors.map(of("mirror", "under_way")))
}
