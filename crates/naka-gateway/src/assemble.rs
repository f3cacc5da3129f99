//! From a checked configuration and the state of the generation before to a generation.
//!
//! The only room that knows both configuration and layers. It does no I/O and binds nothing; what it
//! makes can be thrown away, and then nothing has happened.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    sync::Arc,
};

use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, header::CONTENT_TYPE};
use naka::{
    balance::BalanceLayer,
    bulkhead::{BulkheadConfig, BulkheadLayer},
    context::ClientAddr,
    enforce,
    key::{Key, KeyBuilder, client_network},
    problem::ProblemLayer,
    rate_limit::{self, Quota, RateLimitConfig, RateLimitLayer, Window},
    reject::Head,
    timeout::TimeoutLayer,
};
use tokio::time::Instant;

use crate::{
    carry::{Carried, Change, Steps},
    config::checked::{
        Bulkhead, Config, Destination, Enforce, KeyPart, Listener, Name, OnMissing, Policy, PolicyKind,
        RateLimit, Respond, Route as RouteConfig, Scope,
    },
    entry::{self, Entry},
    generation::{Alive, Generation, Plan, Served},
    observe::Metrics,
    route::{RouteError, Table, query_value},
    stack::{Layers, Leaf, Route, RouteService},
    state::State,
    transform::{Matched, Transform, redirected},
    upstream::{Body, Client, Connector, Pool},
};

/// What assembling needs besides the configuration.
#[derive(Debug)]
pub struct Surroundings<'a> {
    /// Where layers report.
    pub metrics: &'a Metrics,
    /// How connections are made.
    pub connector: Connector,
    /// When this happens.
    pub now: Instant,
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
) -> Result<Generation, Vec<Unroutable>> {
    let tables = tables(&config.listeners, &config.routes)?;
    let mut report = Vec::new();
    let state = carry(config, before, around, &mut report);
    let alive = Alive::default();
    let plans = config.routes.iter().map(|(name, route)| {
        let plan = plan(config, &state, around, &alive, (name, route));
        (Arc::clone(name), Arc::new(plan))
    });
    let plans = plans.collect::<BTreeMap<_, _>>();
    let entry =
        Entry { trusted_proxies: config.gateway.trusted_proxies.clone(), uri: config.gateway.limits.uri };
    let workers = state.pools.iter().map(|pools| {
        let leaves = Leaves::new(config, pools, &around.connector);
        let serve = |listener: &Listening| {
            let routes = listener.routes.iter().map(|name| {
                let plan = Arc::clone(&plans[name]);
                let route = leaves.route(&config.routes[name], &plan);
                (plan, route)
            });
            let routes = routes.collect();
            let table = Arc::clone(&listener.table);
            (listener.address, Arc::new(Served { generation: number, entry: entry.clone(), table, routes }))
        };
        tables.iter().map(serve).collect()
    });
    let workers = workers.collect();
    let limits = config.gateway.limits.clone();
    Ok(Generation { number, config: Arc::clone(config), state, report, entry, limits, workers, alive })
}

struct Listening {
    address: SocketAddr,
    table: Arc<Table>,
    routes: Vec<Name>,
}

/// What is wrong with the routes of each listener.
pub fn unroutable(
    listeners: &BTreeMap<Name, Listener>,
    routes: &BTreeMap<Name, RouteConfig>,
) -> Vec<Unroutable> {
    tables(listeners, routes).err().unwrap_or_default()
}

fn tables(
    listeners: &BTreeMap<Name, Listener>,
    routes: &BTreeMap<Name, RouteConfig>,
) -> Result<Vec<Listening>, Vec<Unroutable>> {
    let (mut tables, mut wrong) = (Vec::new(), Vec::new());
    for (name, listener) in listeners {
        let routes = || routes.iter().filter(|(_, route)| route.listeners.contains(name));
        let wanted = routes().map(|(name, route)| (Arc::clone(name), &route.matches, route.priority));
        match Table::compile(wanted) {
            Ok(table) => tables.push(Listening {
                address: listener.listen,
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

fn carry(config: &Config, before: &State, around: &Surroundings<'_>, report: &mut Vec<Change>) -> State {
    let (mut rate_limits, mut bulkheads) = (BTreeMap::new(), BTreeMap::new());
    for (identity, name) in uses(config) {
        let policy = &config.policies[&name];
        match &policy.kind {
            PolicyKind::RateLimit(limit) => {
                rate_limits.insert(identity, (limit.clone(), policy.enforce));
            }
            PolicyKind::Bulkhead(bulkhead) => {
                bulkheads.insert(identity, (*bulkhead, policy.enforce));
            }
        }
    }
    let rate_limits = before.rate_limits.next(
        rate_limits,
        around.now,
        report,
        &Steps {
            make: &|identity, (limit, enforce)| {
                let metrics = around.metrics.policy(identity);
                RateLimitLayer::observed(rate_limit_config(limit, *enforce), key_of(&limit.key), metrics)
                    .named(identity)
            },
            change: &|layer, (limit, enforce)| layer.reconfigured(&rate_limit_config(limit, *enforce)),
            // What was counted by another key is found by nobody, and only fills the table.
            is_same: &|(old, _), (new, _)| old.key == new.key,
        },
    );
    let bulkheads = before.bulkheads.next(
        bulkheads,
        around.now,
        report,
        &Steps {
            make: &|identity, (bulkhead, enforce)| {
                let metrics = around.metrics.policy(identity);
                BulkheadLayer::observed(bulkhead_config(bulkhead, *enforce), metrics).named(identity)
            },
            change: &|layer, (bulkhead, enforce)| layer.reconfigured(&bulkhead_config(bulkhead, *enforce)),
            is_same: &|_, _| true,
        },
    );
    let addresses = |upstream: &crate::config::checked::Upstream| {
        upstream.endpoints.iter().map(|endpoint| Arc::clone(&endpoint.address)).collect::<Vec<_>>()
    };
    let upstreams =
        || config.upstreams.iter().map(|(name, upstream)| (Arc::clone(name), addresses(upstream)));
    let balancers = before.balancers.next(
        upstreams().collect(),
        around.now,
        report,
        &Steps {
            make: &|_, addresses| BalanceLayer::new(addresses.iter().map(|address| &**address)),
            change: &|layer, addresses| layer.reconfigured(addresses.iter().map(|address| &**address)),
            is_same: &|_, _| true,
        },
    );
    let pools = before.pools.iter().enumerate().map(|(worker, pools)| {
        let wanted = upstreams().flat_map(|(upstream, addresses)| {
            addresses.into_iter().map(move |address| (pool_identity(&upstream, &address), ()))
        });
        let mut of_this_worker = Vec::new();
        let pools = pools.next(
            wanted.collect(),
            around.now,
            &mut of_this_worker,
            &Steps {
                make: &|identity, ()| Arc::new(Pool::new(&pool_address(identity))),
                change: &|pool, ()| Arc::clone(pool),
                is_same: &|(), ()| true,
            },
        );
        if worker == 0 {
            report.append(&mut of_this_worker); // All workers have the same.
        }
        pools
    });
    let pools = pools.collect();
    State { rate_limits, bulkheads, balancers, pools }
}

/// Every account that policies need: its identity, and its policy.
fn uses(config: &Config) -> impl Iterator<Item = (Arc<str>, Name)> {
    let of_routes = config.routes.iter().flat_map(move |(route, is)| {
        let names = is.rate_limits.iter().chain(&is.bulkhead);
        names.map(move |policy| {
            let place = Place { route: Some(route), upstream: upstream_of(is) };
            let identity = place.identity(policy, &config.policies[policy]);
            (identity, Arc::clone(policy))
        })
    });
    let of_upstreams = config.upstreams.iter().flat_map(move |(upstream, is)| {
        is.bulkhead.iter().map(move |policy| {
            let place = Place { route: None, upstream: Some(upstream) };
            (place.identity(policy, &config.policies[policy]), Arc::clone(policy))
        })
    });
    of_routes.chain(of_upstreams)
}

/// Where a policy is used.
#[derive(Clone, Copy)]
struct Place<'a> {
    route: Option<&'a Name>,
    upstream: Option<&'a Name>,
}

impl Place<'_> {
    /// The identity of the account a policy has here.
    fn identity(self, name: &Name, policy: &Policy) -> Arc<str> {
        match (policy.scope, self.route, self.upstream) {
            (Scope::Route, Some(route), _) => format!("{name}@route:{route}").into(),
            (Scope::Upstream, _, Some(upstream)) => format!("{name}@upstream:{upstream}").into(),
            _ => Arc::clone(name),
        }
    }
}

fn upstream_of(route: &RouteConfig) -> Option<&Name> {
    match &route.destination {
        Destination::Upstream(upstream) => Some(upstream),
        Destination::Respond(_) | Destination::Redirect(_) => None,
    }
}

fn plan(
    config: &Config,
    state: &State,
    around: &Surroundings<'_>,
    alive: &Alive,
    (name, route): (&Name, &RouteConfig),
) -> Plan {
    let here = Place { route: Some(name), upstream: upstream_of(route) };
    let there = Place { route: None, upstream: upstream_of(route) };
    let bulkhead = |place: Place<'_>, policy: Option<&Name>| {
        let layer = policy.and_then(|policy| {
            state.bulkheads.get(&place.identity(policy, &config.policies[policy])).cloned()
        });
        layer.unwrap_or_else(BulkheadLayer::off)
    };
    let rate_limits = route.rate_limits.iter().filter_map(|policy| {
        state.rate_limits.get(&here.identity(policy, &config.policies[policy])).cloned()
    });
    let upstream = upstream_of(route).map(|upstream| &config.upstreams[upstream]);
    let layers = Layers {
        problem: ProblemLayer::new(),
        rate_limits: rate_limits.collect(),
        total_timeout: route.total_timeout.map_or_else(TimeoutLayer::off, TimeoutLayer::new),
        bulkhead: bulkhead(here, route.bulkhead.as_ref()),
        upstream_bulkhead: bulkhead(there, upstream.and_then(|upstream| upstream.bulkhead.as_ref())),
        balance: upstream_of(route)
            .and_then(|upstream| state.balancers.get(upstream).cloned())
            .unwrap_or_else(BalanceLayer::off),
    };
    let transform = Transform { rewrite: route.rewrite.clone(), headers: route.headers.clone() };
    let keys_by_route = route.rate_limits.iter().any(|policy| match &config.policies[policy].kind {
        PolicyKind::RateLimit(limit) => limit.key.contains(&KeyPart::Route),
        PolicyKind::Bulkhead(_) => false,
    });
    let needs_match = keys_by_route || route.rewrite.strip_prefix;
    let metrics = around.metrics.route(name);
    let (name, total, alive) = (Arc::clone(name), route.total_timeout, Arc::clone(alive));
    Plan { name, layers, transform, total, needs_match, metrics, alive }
}

fn pool_identity(upstream: &Name, address: &Arc<str>) -> Arc<str> {
    format!("{upstream} {address}").into()
}

/// Names have no spaces, and neither have addresses.
fn pool_address(identity: &str) -> Arc<str> {
    identity.rsplit(' ').next().unwrap_or_default().into()
}

/// What is innermost, for one worker.
struct Leaves<'a> {
    config: &'a Config,
    pools: &'a Carried<(), Arc<Pool>>,
    connector: &'a Connector,
}

impl<'a> Leaves<'a> {
    const fn new(config: &'a Config, pools: &'a Carried<(), Arc<Pool>>, connector: &'a Connector) -> Self {
        Self { config, pools, connector }
    }

    fn route(&self, route: &RouteConfig, plan: &Arc<Plan>) -> Route {
        let target = match &route.destination {
            Destination::Upstream(upstream) => Target::Upstream(Box::new(self.client(upstream, route))),
            Destination::Respond(respond) => Target::Respond(respond.clone()),
            Destination::Redirect(redirect) => Target::Redirect(redirect.clone()),
        };
        Route::new(stack(plan, Arc::new(target)))
    }

    fn client(&self, name: &Name, route: &RouteConfig) -> Client {
        let upstream = &self.config.upstreams[name];
        let pools = upstream.endpoints.iter().filter_map(|endpoint| {
            let pool = self.pools.get(&pool_identity(name, &endpoint.address))?;
            Some((Arc::clone(&endpoint.address), Arc::clone(pool)))
        });
        let mut timeouts = upstream.timeouts;
        if let Some(idle) = route.idle_timeout {
            timeouts.idle = idle;
        }
        Client {
            name: Arc::clone(name),
            pools: pools.collect::<HashMap<_, _>>(),
            timeouts,
            keep_alive: upstream.keep_alive,
            connector: self.connector.clone(),
        }
    }
}

enum Target {
    Upstream(Box<Client>),
    Respond(Respond),
    Redirect(crate::config::checked::Redirect),
}

/// The one place where the stack's type is made.
fn stack(plan: &Arc<Plan>, target: Arc<Target>) -> impl RouteService {
    let leaf_plan = Arc::clone(plan);
    plan.layers.stack(Leaf(move |request| answer(Arc::clone(&leaf_plan), Arc::clone(&target), request)))
}

async fn answer(plan: Arc<Plan>, target: Arc<Target>, request: Request<Body>) -> Response<Body> {
    let (mut parts, body) = request.into_parts();
    let mut response = match &*target {
        Target::Upstream(client) => {
            if let Err(rejection) = plan.transform.request(&mut parts) {
                return rejection.into_response();
            }
            client.exchange(Request::from_parts(parts, body)).await
        }
        Target::Respond(respond) => responded(respond),
        Target::Redirect(redirect) => redirected(redirect, &parts, entry::scheme(&parts.headers)),
    };
    plan.transform.response(&mut response);
    response
}

fn responded(respond: &Respond) -> Response<Body> {
    let mut response = Response::new(Body::from(bytes::Bytes::copy_from_slice(respond.body.as_bytes())));
    *response.status_mut() = respond.status;
    if !respond.body.is_empty() {
        response.headers_mut().insert(CONTENT_TYPE, respond.content_type.clone());
    }
    response
}

fn rate_limit_config(limit: &RateLimit, enforce: Enforce) -> RateLimitConfig {
    let windows = limit.rates.iter().zip(&limit.bursts).map(|(rate, burst)| {
        let count = rate.count.try_into().expect("a checked rate is at least 1");
        let burst = (*burst).try_into().expect("a checked burst is at least 1");
        Window::new(count, rate.per).burst(burst)
    });
    let quota = Quota::new(&windows.collect::<Vec<_>>()).expect("a checked limit has 1 to 4 rates");
    let on_missing = match limit.on_missing {
        OnMissing::Shared => rate_limit::OnMissing::Shared,
        OnMissing::Skip => rate_limit::OnMissing::Skip,
        OnMissing::Reject => rate_limit::OnMissing::Reject,
    };
    RateLimitConfig::new(quota).max_keys(limit.max_keys).on_missing(on_missing).enforce(enforced(enforce))
}

fn bulkhead_config(bulkhead: &Bulkhead, enforce: Enforce) -> BulkheadConfig {
    BulkheadConfig::new(bulkhead.max).queue(bulkhead.queue, bulkhead.max_wait).enforce(enforced(enforce))
}

const fn enforced(enforce: Enforce) -> enforce::Enforce {
    match enforce {
        Enforce::Always => enforce::Enforce::Always,
        Enforce::Observe => enforce::Enforce::Observe,
        Enforce::Percent(percent) => enforce::Enforce::Percent(percent),
        Enforce::Never => enforce::Enforce::Never,
    }
}

/// The value of a header. `None` if it is not there, or there with several values: then nobody can
/// know which one the upstream takes.
fn header_value<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h HeaderValue> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    values.all(|other| other == value).then_some(value)
}

/// The words of `key:` as a function. No parts: one key for everybody.
fn key_of(parts: &[KeyPart]) -> impl Fn(&Head<'_>) -> Option<Key> + Send + Sync + 'static {
    let parts: Arc<[KeyPart]> = parts.into();
    move |head| {
        let mut key = KeyBuilder::new();
        for part in &*parts {
            match part {
                KeyPart::ClientIp => key.part(client_network(ClientAddr::of(head.extensions)?)),
                KeyPart::Route => key.part(&head.extensions.get::<Matched>()?.route),
                KeyPart::Host => key.part(entry::host(head.headers)),
                KeyPart::Method => key.part(head.method.as_str()),
                KeyPart::Header(name) => key.part(header_value(head.headers, name)?.as_bytes()),
                KeyPart::Query(name) => key.part(query_value(head.uri.query()?, name)?),
                KeyPart::Capture(name) => {
                    let matched = head.extensions.get::<Matched>()?;
                    key.part(matched.captures.get(head.uri.path(), name)?)
                }
            };
        }
        Some(key.finish())
    }
}
