//! From a checked configuration and the state of the generation before to a generation.
//!
//! The only room that knows both configuration and layers. It does no I/O and binds nothing; what it
//! makes can be thrown away, and then nothing has happened.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use http::{
    HeaderName,
    header::{AUTHORIZATION, COOKIE, PROXY_AUTHORIZATION},
};
use naka::{
    api_key::ApiKeyLayer, authorize::AuthorizeLayer, basic_auth::BasicAuthLayer, body_limit::BodyLimitLayer,
    bulkhead::BulkheadLayer, cache::CacheLayer, circuit_breaker::CircuitBreakerLayer, cors::CorsLayer,
    fallback::FallbackLayer, fault::FaultLayer, forward_auth::ForwardAuthLayer, hedge::HedgeLayer,
    idempotency::IdempotencyLayer, jwt::JwtLayer, mirror::MirrorLayer, problem::ProblemLayer,
    rate_limit::RateLimitLayer, retry::RetryLayer, split::SplitLayer, timeout::TimeoutLayer, trace::Format,
    version::VersionLayer,
};
use tokio::time::Instant;

mod convert;
mod leaf;
mod state;

pub(crate) use self::convert::{given, target};

use self::{
    convert::{api_key_config, trace_config, trace_formats},
    leaf::Leaves,
    state::Place,
};
use crate::{
    acme::{Automatic, Orders},
    address::Address,
    compress::Compress,
    config::checked::{
        Auth, ComposeCall, Config, Destination, Instead, Kind, Listener, Mirror, Name, PolicyKind,
        Route as RouteConfig, Split, Version, VersionTarget, split_name, version_split_name,
    },
    custom::CustomLayers,
    deadline::Deadlines,
    discover::Reach,
    entry::Entry,
    generation::{Alive, ArmPlan, ArmTarget, Arms, Generation, MakeRoute, Plan, Routes, Served},
    identity,
    observe::{ArmMetrics, Balancer, Metrics, PolicyMetrics},
    refusals::Refusals,
    route::{RouteError, Table},
    stack::{ArmLayers, Layers, Route},
    state::{State, fallback_name, latencies_name},
    telemetry::{Telemetry, Tracing},
    tls::Acceptor,
    transform::Transform,
    upstream::Connector,
};

/// What assembling needs besides the configuration.
pub struct Surroundings<'a> {
    /// Where layers report.
    pub metrics: &'a Arc<Metrics>,
    /// How connections are made.
    pub connector: Connector,
    /// How endpoints are found.
    pub reach: Reach,
    /// Whether certificates are ordered.
    pub orders: Orders,
    /// When this happens.
    pub now: Instant,
}

impl fmt::Debug for Surroundings<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Surroundings").field("connector", &self.connector).finish_non_exhaustive()
    }
}

/// What is wrong with a configuration that can only be found while it is assembled.
#[derive(Debug)]
pub enum Wrong {
    /// With the routes of a listener.
    Routes(Unroutable),
    /// With what a route needs.
    Route {
        /// The route.
        name: Name,
        /// What it is.
        error: String,
    },
    /// With what a policy needs.
    Policy {
        /// The policy.
        name: Name,
        /// What it is.
        error: String,
    },
}

/// What is wrong with the routes of a listener.
#[derive(Debug)]
pub struct Unroutable {
    /// The listener.
    pub listener: Name,
    /// What is wrong.
    pub error: RouteError,
}

/// Assembles the generation with this number.
///
/// # Errors
/// If two routes of equal rank can match the same request, or a route is beyond the bounds of a table:
/// all such.
pub fn assemble(
    config: &Arc<Config>,
    number: u64,
    before: &State,
    around: &Surroundings<'_>,
) -> Result<Generation, Vec<Wrong>> {
    let tables = tables(&config.listeners, &config.routes);
    let tables = tables.map_err(|all| all.into_iter().map(Wrong::Routes).collect::<Vec<_>>())?;
    let mut report = Vec::new();
    let state = state::carry(config, before, around, &mut report)?;
    shown(config, around.metrics);
    let alive = Alive::default();
    let entry = Entry {
        trusted_proxies: config.gateway.trusted_proxies.clone(),
        uri: config.gateway.limits.uri,
        header_count: config.gateway.limits.header_count,
        of_identity: identity::names(config),
        deadlines: Deadlines::named(config),
        forwarding: config.gateway.forwarding,
        refusals: Arc::new(Refusals::new(&config.gateway)),
        held: Arc::new(state.held.clone()),
    };
    let maker = Arc::new(Maker {
        config: Arc::clone(config),
        state: state.without_buried(),
        metrics: Arc::clone(around.metrics),
        connector: around.connector.clone(),
        alive: Arc::clone(&alive),
        propagators: propagators(config),
        plans: Mutex::default(),
    });
    let telemetry = telemetry(config, &state);
    let workers = (0..state.pools.len()).map(|worker| {
        let serve = |listener: &Listening| {
            let names = Arc::clone(&listener.routes);
            let routes = Routes::new(worker, names, Arc::clone(&maker) as Arc<dyn MakeRoute>);
            let table = Arc::clone(&listener.table);
            // A count of handles for each worker, as each request takes one.
            let entry = Entry { held: Arc::new(state.held.clone()), ..entry.clone() };
            let telemetry = telemetry.clone();
            let served = Served { generation: number, entry, table, routes, telemetry };
            (listener.address.clone(), Arc::new(served))
        };
        tables.iter().map(serve).collect()
    });
    let workers = workers.collect();
    let secured = config.listeners.iter().filter_map(|(name, listener)| {
        let (tls, tickets) = (listener.tls.as_ref()?, state.tickets.get(name)?);
        let ordered = tls.acme.as_ref().and_then(|acme| state.certificates.get(&acme.id));
        let ordered = ordered.map(Automatic::ordered);
        Some((listener.listen.clone(), Arc::new(Acceptor::new(tls, listener.protocols, tickets, ordered))))
    });
    let tls = secured.collect();
    let limits = config.gateway.limits.clone();
    Ok(Generation { number, config: Arc::clone(config), state, report, entry, limits, workers, tls, alive })
}

/// How requests say which trace they belong to; not at all where there are no traces.
fn propagators(config: &Config) -> Arc<[Format]> {
    config.gateway.telemetry.tracing.iter().flat_map(trace_formats).collect()
}

/// What is told about requests, over what is carried from one generation to the next.
fn telemetry(config: &Config, state: &State) -> Option<Arc<Telemetry>> {
    let says = &config.gateway.telemetry;
    let tracing = says.tracing.as_ref().map(|tracing| Tracing {
        config: trace_config(tracing),
        trust_parent: tracing.trust_parent,
        exporter: state.exporters.iter().next().map(|(_, exporting)| exporting.exporter.clone()),
    });
    let log = says.access_log.clone().zip(state.logs.iter().next().map(|(_, log)| log.clone()));
    Telemetry::new(tracing, log)
}

/// What is shown of routes and policies, with zeros before anybody asks for them.
fn shown(config: &Config, metrics: &Metrics) {
    metrics.prepare(config);
    let routes = config.routes.iter();
    metrics.show_routes(routes.map(|(name, route)| (Arc::clone(name), route.matches.path.template())));
    for upstream in config.upstreams.keys() {
        metrics.upstream(upstream); // With zeros.
    }
    for (route, is) in &config.routes {
        if let Some(compose) = is.destination.compose() {
            metrics.calls(route, compose.plan.calls().iter().map(|call| &call.name));
        }
    }
    let of_routes = |policy: &&Name| {
        let kind = &config.policies[*policy].kind;
        matches!(kind, PolicyKind::Fallback(_) | PolicyKind::Hedge(_) | PolicyKind::Retry(_))
            || matches!(kind, PolicyKind::ApiKey(_) | PolicyKind::Authorize(_) | PolicyKind::Cors(_))
    };
    let of_calls = config.routes.values().filter_map(|route| route.destination.compose());
    let of_calls = of_calls.flat_map(|compose| compose.calls.iter().filter_map(|call| call.retry.as_ref()));
    let used = config.routes.values().flat_map(|route| route.policies.iter()).chain(of_calls);
    used.filter(of_routes).for_each(|policy| metrics.show_policy(policy));
}

/// Makes the routes of one generation.
#[derive(Debug)]
struct Maker {
    config: Arc<Config>,
    state: State,
    metrics: Arc<Metrics>,
    connector: Connector,
    alive: Alive,
    propagators: Arc<[Format]>,
    /// Of the routes that somebody has asked for.
    plans: Mutex<HashMap<Name, Arc<OnceLock<Arc<Plan>>>>>,
}

impl MakeRoute for Maker {
    fn make(&self, worker: usize, name: &Name) -> (Arc<Plan>, Route) {
        let Self { config, state, metrics, connector, propagators, .. } = self;
        let route = &config.routes[name];
        let plan = || Arc::new(plan(config, state, metrics, &self.alive, (name, route)));
        let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = Arc::clone(plans.entry(Arc::clone(name)).or_default());
        drop(plans);
        let plan = slot.get_or_init(plan);
        let leaves = Leaves { config, state, pools: &state.pools[worker], connector, propagators, metrics };
        (Arc::clone(plan), leaves.route(route, plan))
    }
}

struct Listening {
    address: Address,
    table: Arc<Table>,
    routes: Arc<[Name]>,
}

/// What is wrong with the routes of each listener.
pub fn unroutable(
    listeners: &BTreeMap<Name, Listener>,
    routes: &BTreeMap<Name, Arc<RouteConfig>>,
) -> Vec<Unroutable> {
    tables(listeners, routes).err().unwrap_or_default()
}

fn tables(
    listeners: &BTreeMap<Name, Listener>,
    routes: &BTreeMap<Name, Arc<RouteConfig>>,
) -> Result<Vec<Listening>, Vec<Unroutable>> {
    let (mut tables, mut wrong) = (Vec::new(), Vec::new());
    for (name, listener) in listeners {
        let routes = || routes.iter().filter(|(_, route)| route.listeners.contains(name));
        let wanted = routes().map(|(name, route)| (Arc::clone(name), &route.matches, route.priority));
        let wanted = wanted.collect::<Vec<_>>(); // So that it is known how many there are.
        match Table::compile(wanted) {
            Ok(table) => tables.push(Listening {
                address: listener.listen.clone(),
                table: Arc::new(table),
                routes: routes().map(|(name, _)| Arc::clone(name)).collect(),
            }),
            Err(all) => {
                wrong.extend(all.into_iter().map(|error| Unroutable { listener: Arc::clone(name), error }));
            }
        }
    }
    if wrong.is_empty() { Ok(tables) } else { Err(wrong) }
}

fn upstream_of(route: &RouteConfig) -> Option<&Name> {
    match &route.destination {
        Destination::Upstream(upstream) => Some(upstream),
        _ => None,
    }
}

fn plan(
    config: &Config,
    state: &State,
    metrics: &Metrics,
    alive: &Alive,
    (name, route): (&Name, &RouteConfig),
) -> Plan {
    let transform = Transform {
        rewrite: route.rewrite.clone(),
        headers: route.headers.clone(),
        identity: config.gateway.identity_headers.clone(),
        forwarding: config.gateway.forwarding,
    };
    let is_kept = route.policies.one(Kind::Idempotency).is_some();
    let needs_match = is_kept || config.counts_by_route(route) || route.rewrite.strip_prefix;
    let layers = layers(config, state, metrics, (name, route));
    let compress =
        route.policies.one(Kind::Compress).and_then(|policy| match &config.policies[policy].kind {
            PolicyKind::Compress(how) => Some(Compress::new(*how)),
            _ => None,
        });
    let arms = arms(config, state, metrics, &transform, (name, route));
    let alternate = alternate(config, state, &transform, route);
    let metrics = metrics.route(name, &route.matches.path.template());
    let (name, total, alive) = (Arc::clone(name), route.total_timeout, Arc::clone(alive));
    let (template, trust_parent) = (route.matches.path.template(), route.trust_parent);
    Plan {
        name,
        layers,
        transform,
        compress,
        is_kept,
        arms,
        alternate,
        template,
        trust_parent,
        total,
        needs_match,
        metrics,
        alive,
    }
}

/// What stands behind the choice of a version, or of an arm of a split; or behind each call of a composition.
fn arms(
    config: &Config,
    state: &State,
    metrics: &Metrics,
    transform: &Transform,
    (name, route): (&Name, &RouteConfig),
) -> Arms {
    let to = |upstream: &Name, transform: &Transform| {
        let layers = ArmLayers {
            rate_limits: RateLimitLayer::off(),
            circuit_breaker: CircuitBreakerLayer::off(),
            split: SplitLayer::off(),
            upstream_bulkhead: upstream_bulkhead(config, state, upstream),
            mirror: mirror(config, state, route, Some(upstream)),
            hedge: hedge(config, state, metrics, (name, route), Some(upstream)),
            retry: retry(config, state, metrics, route, Some(upstream)),
            balance: state.balancers.get(upstream).cloned().unwrap_or_else(Balancer::off),
        };
        ArmPlan { layers, transform: transform.clone(), to: ArmTarget::Upstream(Arc::clone(upstream)) }
    };
    let of_split = |split: &Split, transform: &Transform| -> Arms {
        split.upstreams().map(|it| (Arc::clone(it), Arc::new(to(it, transform)))).collect()
    };
    let call = |call: &ComposeCall| {
        let balance = state.balancers.get(&call.upstream).cloned().unwrap_or_else(Balancer::off);
        let mut layers = ArmLayers::balanced(balance);
        layers.upstream_bulkhead = upstream_bulkhead(config, state, &call.upstream);
        layers.retry = retry_by(config, state, metrics, call.retry.as_ref(), Some(&call.upstream));
        let here = Place { route: Some(name), upstream: Some(&call.upstream) };
        if let Some(policy) = &call.circuit_breaker
            && let Some(breaker) = state.breakers.get(&here.identity(policy, &config.policies[policy]))
        {
            layers.circuit_breaker = breaker.clone();
        }
        ArmPlan { layers, transform: transform.clone(), to: ArmTarget::Upstream(Arc::clone(&call.upstream)) }
    };
    let of_version = |version: &Version| {
        let mut transform = transform.clone();
        if let Some(rewrite) = &version.rewrite {
            transform.rewrite = rewrite.clone();
        }
        let mut plan = match &version.to {
            VersionTarget::Upstream(upstream) => to(upstream, &transform),
            VersionTarget::Split(split) => {
                let layers = ArmLayers {
                    rate_limits: RateLimitLayer::off(),
                    circuit_breaker: CircuitBreakerLayer::off(),
                    split: split_of(state, &version_split_name(name, &version.name)),
                    upstream_bulkhead: BulkheadLayer::off(),
                    mirror: MirrorLayer::off(),
                    hedge: HedgeLayer::off(),
                    retry: RetryLayer::off(),
                    balance: Balancer::off(),
                };
                ArmPlan { layers, to: ArmTarget::Split(of_split(split, &transform)), transform }
            }
        };
        let here = Place { route: Some(name), upstream: version.to.upstream() };
        let rate_limit = version.rate_limit.as_ref();
        let rate_limit = rate_limit
            .and_then(|policy| state.rate_limits.get(&here.identity(policy, &config.policies[policy])));
        plan.layers.rate_limits = rate_limit.cloned().unwrap_or_else(RateLimitLayer::off);
        (Arc::clone(&version.name), Arc::new(plan))
    };
    match &route.destination {
        Destination::Versions(versions) => versions.of.iter().map(of_version).collect(),
        Destination::Split(split) => of_split(split, transform),
        Destination::Compose(compose) => {
            compose.iter().map(|(name, to)| (Arc::clone(name), Arc::new(call(to)))).collect()
        }
        _ => Arms::new(),
    }
}

fn split_of(state: &State, name: &Name) -> SplitLayer<ArmMetrics> {
    state.splits.get(name).cloned().unwrap_or_else(SplitLayer::off)
}

/// Who is asked in place of whoever failed: with the bulkhead of its own upstream, and nobody who tries again.
fn alternate(
    config: &Config,
    state: &State,
    transform: &Transform,
    route: &RouteConfig,
) -> Option<Arc<ArmPlan>> {
    let fallback = config.fallback(route)?.1;
    let upstream = fallback.upstream()?;
    let mut layers =
        ArmLayers::balanced(state.balancers.get(upstream).cloned().unwrap_or_else(Balancer::off));
    layers.upstream_bulkhead = upstream_bulkhead(config, state, upstream);
    let to = ArmTarget::Upstream(Arc::clone(upstream));
    let mut transform = transform.clone();
    if let Some(rewrite) = &fallback.rewrite {
        transform.rewrite = rewrite.clone();
    }
    Some(Arc::new(ArmPlan { layers, transform, to }))
}

fn upstream_bulkhead(config: &Config, state: &State, upstream: &Name) -> BulkheadLayer<Arc<PolicyMetrics>> {
    let there = Place { route: None, upstream: Some(upstream) };
    let bulkhead = config.upstreams[upstream].bulkhead.as_ref();
    let bulkhead =
        bulkhead.and_then(|policy| state.bulkheads.get(&there.identity(policy, &config.policies[policy])));
    bulkhead.cloned().unwrap_or_else(BulkheadLayer::off)
}

/// What this route answers in place of a failure. Whom it asks, each worker knows.
fn fallback(
    config: &Config,
    state: &State,
    metrics: &Metrics,
    (name, route): (&Name, &RouteConfig),
) -> FallbackLayer<Arc<PolicyMetrics>> {
    let made = || {
        let (policy, fallback) = config.fallback(route).filter(|_| !route.destination.is_local())?;
        let (is, metrics) = (convert::fallback_config(fallback), metrics.policy(policy));
        let layer = match &fallback.instead {
            Instead::Respond(respond) => {
                FallbackLayer::respond_observed(is, leaf::responded(respond), metrics)
            }
            Instead::Upstream(_) => {
                let budget = upstream_of(route).cloned().unwrap_or_else(|| fallback_name(name));
                let budget = state.retry_budgets.get(&budget)?.clone();
                FallbackLayer::alternate_observed(is, budget, state::nowhere(), metrics)
            }
        };
        Some(layer.named(policy))
    };
    made().unwrap_or_else(FallbackLayer::off)
}

/// What of this route is copied, if it goes to that upstream: copies go to another. Where, each worker knows.
fn mirror(
    config: &Config,
    state: &State,
    route: &RouteConfig,
    upstream: Option<&Name>,
) -> MirrorLayer<Arc<PolicyMetrics>> {
    let made = || {
        let (policy, mirror) = config.mirror(route)?;
        let layer = (*upstream? != mirror.upstream).then(|| state.mirrors.get(policy))??;
        Some(layer.without(withheld(config, route, mirror)))
    };
    made().unwrap_or_else(MirrorLayer::off)
}

/// The headers with credentials that copies of this route have not.
fn withheld(config: &Config, route: &RouteConfig, mirror: &Mirror) -> Vec<HeaderName> {
    if mirror.keeps_credentials {
        return Vec::new();
    }
    let keys = route.policies.all(Kind::ApiKey).iter();
    let keys = keys.filter_map(|policy| match &config.policies[policy].kind {
        PolicyKind::ApiKey(keys) => Some(keys.header.clone()),
        _ => None,
    });
    [AUTHORIZATION, PROXY_AUTHORIZATION, COOKIE].into_iter().chain(keys).collect()
}

/// What of this route is sent once more, from the budget of where it goes, and by what it took there.
fn hedge(
    config: &Config,
    state: &State,
    metrics: &Metrics,
    (name, route): (&Name, &RouteConfig),
    upstream: Option<&Name>,
) -> HedgeLayer<Arc<PolicyMetrics>> {
    let made = || {
        let (policy, hedge) = config.hedge(route)?;
        let (budget, latencies) = (
            state.retry_budgets.get(upstream?)?.clone(),
            state.latencies.get(&latencies_name(name, upstream?))?.clone(),
        );
        let (is, metrics) = (convert::hedge_config(hedge), metrics.policy(policy));
        Some(HedgeLayer::observed(is, budget, latencies, metrics).named(policy))
    };
    made().unwrap_or_else(HedgeLayer::off)
}

/// What is retried on this route, from the budget of where it goes.
fn retry(
    config: &Config,
    state: &State,
    metrics: &Metrics,
    route: &RouteConfig,
    upstream: Option<&Name>,
) -> RetryLayer<Arc<PolicyMetrics>> {
    retry_by(config, state, metrics, route.policies.one(Kind::Retry), upstream)
}

/// The same, as one policy says.
fn retry_by(
    config: &Config,
    state: &State,
    metrics: &Metrics,
    policy: Option<&Name>,
    upstream: Option<&Name>,
) -> RetryLayer<Arc<PolicyMetrics>> {
    let made = || {
        let policy = policy?;
        let PolicyKind::Retry(retry) = &config.policies[policy].kind else { return None };
        let budget = state.retry_budgets.get(upstream?)?.clone();
        let (config, metrics) = (convert::retry_config(retry), metrics.policy(policy));
        Some(RetryLayer::observed(config, budget, metrics).named(policy))
    };
    made().unwrap_or_else(RetryLayer::off)
}

fn layers(config: &Config, state: &State, metrics: &Metrics, (name, route): (&Name, &RouteConfig)) -> Layers {
    let here = Place { route: Some(name), upstream: upstream_of(route) };
    let there = Place { route: None, upstream: upstream_of(route) };
    let bulkhead = |place: Place<'_>, policy: Option<&Name>| {
        let layer = policy.and_then(|policy| {
            state.bulkheads.get(&place.identity(policy, &config.policies[policy])).cloned()
        });
        layer.unwrap_or_else(BulkheadLayer::off)
    };
    // A limit that asks who it is has its place behind those that find out.
    let rate_limits = |needs_identity: bool| {
        let wanted = config.rate_limits(route).filter(|(_, limit)| limit.needs_identity() == needs_identity);
        let found = wanted.filter_map(|(policy, _)| {
            state.rate_limits.get(&here.identity(policy, &config.policies[policy])).cloned()
        });
        found.collect()
    };
    let authorize = route.policies.all(Kind::Authorize).iter().filter_map(|policy| {
        let PolicyKind::Authorize(rule) = &config.policies[policy].kind else { return None };
        let metrics = metrics.policy(policy);
        Some(AuthorizeLayer::observed(convert::rule(rule), metrics).named(policy))
    });
    let api_key = route.policies.one(Kind::ApiKey).and_then(|policy| {
        let PolicyKind::ApiKey(keys) = &config.policies[policy].kind else { return None };
        let metrics = metrics.policy(policy);
        Some(ApiKeyLayer::observed(api_key_config(keys), metrics).named(policy))
    });
    let basic_auth = route.policies.one(Kind::BasicAuth).and_then(|policy| state.passwords.get(policy));
    let basic_auth = basic_auth.cloned().unwrap_or_else(BasicAuthLayer::off);
    let forward_auth = route.policies.one(Kind::ForwardAuth).and_then(|policy| state.authorities.get(policy));
    let cors = route.policies.one(Kind::Cors).and_then(|policy| {
        let PolicyKind::Cors(cors) = &config.policies[policy].kind else { return None };
        let rules = convert::cors_rules(cors).ok()?; // They were checked with the state.
        Some(CorsLayer::observed(rules, metrics.policy(policy)).named(policy))
    });
    let idempotency = route.policies.one(Kind::Idempotency);
    let idempotency = idempotency
        .and_then(|policy| state.idempotency.get(&here.identity(policy, &config.policies[policy])));
    let cache = route.policies.one(Kind::Cache);
    let cache = cache.and_then(|policy| state.caches.get(&here.identity(policy, &config.policies[policy])));
    let fault = route.policies.one(Kind::Fault);
    let fault = fault.and_then(|policy| state.faults.get(&here.identity(policy, &config.policies[policy])));
    let circuit_breaker = route.policies.one(Kind::CircuitBreaker);
    let circuit_breaker = circuit_breaker
        .and_then(|policy| state.breakers.get(&here.identity(policy, &config.policies[policy])));
    let customs = |kind| {
        let all = route.policies.all(kind).iter().filter_map(|policy| state.customs.get(policy));
        CustomLayers::new(all.cloned().collect())
    };
    let jwt = route.policies.one(Kind::Jwt).and_then(|policy| state.tokens.get(policy));
    let jwt = jwt.map_or_else(JwtLayer::off, |tokens| tokens.layer.clone());
    let api_key = api_key.unwrap_or_else(ApiKeyLayer::off);
    // The same keys, bounds and memories, for those who bring something.
    let (jwt, api_key, basic_auth) = match route.auth {
        Auth::Optional => (jwt.optional(), api_key.optional(), basic_auth.optional()),
        Auth::None | Auth::Required => (jwt, api_key, basic_auth),
    };
    let upstream = upstream_of(route).map(|upstream| &config.upstreams[upstream]);
    Layers {
        problem: ProblemLayer::new(),
        cors: cors.unwrap_or_else(CorsLayer::off),
        rate_limits: rate_limits(false),
        total_timeout: route.total_timeout.map_or_else(TimeoutLayer::told, TimeoutLayer::new),
        before_auth: customs(Kind::CustomBeforeAuth),
        jwt,
        api_key,
        basic_auth,
        forward_auth: forward_auth.cloned().unwrap_or_else(ForwardAuthLayer::off),
        authorize: authorize.collect(),
        after_auth: customs(Kind::CustomAfterAuth),
        version: state.versions.get(name).cloned().unwrap_or_else(VersionLayer::off),
        identity_rate_limits: rate_limits(true),
        body_limit: route.body.map_or_else(BodyLimitLayer::off, |bytes| {
            BodyLimitLayer::observed(u64::try_from(bytes).unwrap_or(u64::MAX), metrics.body_limit())
        }),
        idempotency: idempotency.map_or_else(IdempotencyLayer::off, |kept| kept.layer.clone()),
        fallback: fallback(config, state, metrics, (name, route)),
        cache: cache.cloned().unwrap_or_else(CacheLayer::off),
        bulkhead: bulkhead(here, route.policies.one(Kind::Bulkhead)),
        fault: fault.cloned().unwrap_or_else(FaultLayer::off),
        circuit_breaker: circuit_breaker.cloned().unwrap_or_else(CircuitBreakerLayer::off),
        split: split_of(state, &split_name(name)),
        upstream_bulkhead: bulkhead(there, upstream.and_then(|upstream| upstream.bulkhead.as_ref())),
        mirror: mirror(config, state, route, upstream_of(route)),
        hedge: hedge(config, state, metrics, (name, route), upstream_of(route)),
        retry: retry(config, state, metrics, route, upstream_of(route)),
        balance: upstream_of(route)
            .and_then(|upstream| state.balancers.get(upstream).cloned())
            .unwrap_or_else(Balancer::off),
    }
}
