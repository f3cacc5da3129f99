//! What outlives a generation: the state that one shares with the next, each piece under its identity.

use std::{
    collections::BTreeSet,
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http::HeaderName;
use naka::{
    balance::Target,
    basic_auth::BasicAuthLayer,
    bulkhead::{BulkheadLayer, Counts},
    cache::CacheLayer,
    circuit_breaker::{CircuitBreakerLayer, EndpointBreakers},
    clock::Now,
    fault::FaultLayer,
    forward_auth::ForwardAuthLayer,
    health::Health,
    hedge::Latencies,
    held::Held,
    idempotency::IdempotencyLayer,
    jwt::JwtLayer,
    mirror::MirrorLayer,
    rate_limit::RateLimitLayer,
    retry::Budget,
    split::SplitLayer,
    version::{DAYS, VersionLayer},
};
use tokio::{task::AbortHandle, time::Instant};

use crate::{
    acme::Automatic,
    carry::Carried,
    config::checked::{
        self, AccessLog, Acme, Balance, BasicAuth, Bulkhead, Cache, CircuitBreaker, Destination, Endpoint,
        Enforce, Fault, ForwardAuth, HeaderEdits, HealthCheck, Idempotency, Jwt, JwtKeys, Mirror, Name, Otlp,
        Protocol, RateLimit, RetryBudget, Rewrite, Split, Store, Versions,
    },
    custom::{Custom, HISTORY, Made},
    discover::Discovery,
    generation::Alive,
    observe::{ArmMetrics, Balancer, EndpointMetrics, PolicyMetrics},
    stores::Stored,
    telemetry::{export::Exporting, log::Log},
    tls::{ClientTls, Clients, Tickets},
    upstream::{Places, Pools, UpstreamPlaces},
};

/// The state that generations share.
#[derive(Clone, Debug)]
pub struct State {
    /// Whoever has the accounts of limits that several gateways share, by name.
    pub stores: Stores,
    /// Rate limits, by identity.
    pub rate_limits: RateLimits,
    /// Bulkheads, by identity.
    pub bulkheads: Bulkheads,
    /// Whoever verifies tokens, by policy.
    pub tokens: Carried<Jwt, Tokens>,
    /// Whoever checks passwords, by policy.
    pub passwords: Passwords,
    /// Whoever asks other services, by policy.
    pub authorities: Authorities,
    /// Whoever does nothing twice, by identity.
    pub idempotency: Carried<Idempotency, Kept>,
    /// Circuit breakers, by identity.
    pub breakers: Breakers,
    /// Circuit breakers of endpoints, by upstream.
    pub endpoint_breakers: BreakersOfEndpoints,
    /// Whoever plays faults, by identity.
    pub faults: Carried<Fault, FaultLayer<Arc<PolicyMetrics>>>,
    /// What was answered, by identity.
    pub caches: Caches,
    /// Policies of one's own, by name.
    pub customs: Customs,
    /// Copies under way, by identity.
    pub mirrors: Carried<Mirror, MirrorLayer<Arc<PolicyMetrics>>>,
    /// Whoever finds versions, by route; the use of each version goes with it.
    pub versions: Carried<Versions, VersionLayer<Arc<PolicyMetrics>>>,
    /// Whoever splits, by what it is called among policies.
    pub splits: Splits,
    /// How long answers took of late, by route and upstream, where somebody wants to know.
    pub latencies: Carried<(), Latencies>,
    /// What retries may spend, by upstream.
    pub retry_budgets: Carried<RetryBudget, Budget>,
    /// Whoever looks for endpoints, by upstream.
    pub discoveries: Discoveries,
    /// Balancers, by upstream.
    pub balancers: Balancers,
    /// Whoever checks the health of endpoints, by upstream.
    pub checks: HealthChecks,
    /// How many connections there are, by upstream.
    pub places: Carried<(), Arc<UpstreamPlaces>>,
    /// How many connections there are to all of them.
    pub all_places: Arc<Places>,
    /// What is held of bodies, of all requests; each generation has its bound on it.
    pub held: Held,
    /// For each worker its pools, by upstream.
    pub pools: Vec<Carried<Speaking, Arc<Pools>>>,
    /// What clients resume sessions with, by listener.
    pub tickets: Carried<Option<Clients>, Tickets>,
    /// Certificates that are ordered, by what they are called.
    pub certificates: Carried<Arc<Acme>, Automatic>,
    /// Spans on their way to a collector.
    pub exporters: Carried<Otlp, Exporting>,
    /// The access log.
    pub logs: Carried<AccessLog, Log>,
}

/// What is spoken to an upstream, and over what.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Speaking {
    /// What.
    pub protocol: Protocol,
    /// How that is secured, if it is.
    pub tls: Option<ClientTls>,
}

/// Whoever has accounts, by name.
pub type Stores = Carried<Arc<Store>, Stored>;
/// Rate limits, by identity.
pub type RateLimits = Carried<(RateLimit, Enforce), RateLimitLayer<Arc<PolicyMetrics>>>;
/// Bulkheads, by identity.
pub type Bulkheads = Carried<(Bulkhead, Enforce), BulkheadLayer<Arc<PolicyMetrics>>>;
/// Whoever looks for endpoints, by upstream.
pub type Discoveries = Carried<checked::Discovery, Arc<Discovery>>;
/// Balancers, by upstream.
pub type Balancers = Carried<Balancing, Balancer>;
/// What a balancer is made of.
#[derive(Clone, Debug, PartialEq)]
pub struct Balancing {
    /// Of this upstream.
    pub upstream: Name,
    /// How an endpoint is chosen.
    pub balance: Balance,
    /// Among which.
    pub endpoints: Endpoints,
    /// What stands in front of each.
    pub breaking: Option<Breaking>,
}
/// What the breakers of endpoints are.
pub type Breaking = (CircuitBreaker, Enforce);
/// Circuit breakers of endpoints, by upstream.
pub type BreakersOfEndpoints = Carried<Breaking, EndpointBreakers<EndpointMetrics>>;
/// Whoever checks the health of endpoints, by upstream. They act on the balancer of the same configuration, so
/// what changes that one changes this.
pub type HealthChecks = Carried<(HealthCheck, Balancing), Checks>;
/// What was answered, by identity. It is that of a route as it is: what goes elsewhere, or is written in another way,
/// is another answer.
pub type Caches = Carried<(Cache, Answering), CacheLayer<Arc<PolicyMetrics>>>;
/// What an answer depends on besides the request.
#[derive(Clone, Debug, PartialEq)]
pub struct Answering {
    /// What it matches of the path, as it is shown: what is stripped and captured follows from it.
    pub path: String,
    /// Where it goes.
    pub destination: Destination,
    /// What is changed of the target.
    pub rewrite: Rewrite,
    /// What is changed of headers.
    pub headers: HeaderEdits,
    /// Headers that say who asks, and how long is waited.
    pub written: Vec<HeaderName>,
}
/// Whoever splits, by what it is called among policies.
pub type Splits = Carried<Split, SplitLayer<ArmMetrics>>;
/// Circuit breakers, by identity.
pub type Breakers = Carried<Breaking, CircuitBreakerLayer<Arc<PolicyMetrics>>>;
/// Policies of one's own, by name.
pub type Customs = Carried<Custom, Made>;
/// Whoever checks passwords, by policy.
pub type Passwords = Carried<(Name, BasicAuth), BasicAuthLayer<Arc<PolicyMetrics>>>;
/// Whoever asks other services, by policy.
pub type Authorities = Carried<ForwardAuth, ForwardAuthLayer<Arc<PolicyMetrics>>>;

/// What a balancer begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoints {
    /// What is written down.
    Listed(Vec<Endpoint>),
    /// What stands there until somebody has looked.
    Found(Target),
}

impl Endpoints {
    /// Those that are written down.
    pub fn listed(&self) -> &[Endpoint] {
        match self {
            Self::Listed(listed) => listed,
            Self::Found(_) => &[],
        }
    }
}

impl State {
    /// That of a process that has just begun.
    pub fn new(workers: usize) -> Self {
        Self {
            stores: Carried::new("store", |_| Duration::ZERO),
            rate_limits: Carried::new("rate_limit", RateLimitLayer::refill),
            // Whoever is at work counts until the end, however long that takes.
            bulkheads: Carried::new("bulkhead", |layer| {
                if layer.counts() == Counts::default() { Duration::ZERO } else { Duration::MAX }
            }),
            tokens: Carried::new("jwt", |_| Duration::ZERO),
            passwords: Carried::new("basic_auth", |_| Duration::ZERO),
            authorities: Carried::new("forward_auth", |_| Duration::ZERO),
            idempotency: Carried::new("idempotency", Kept::history),
            // Longer than any sensible one is open.
            breakers: Carried::new("circuit_breaker", |_| Duration::from_hours(1)),
            endpoint_breakers: Carried::new("endpoint_breakers", |_| Duration::from_hours(1)),
            faults: Carried::new("fault", |_| Duration::ZERO),
            caches: Carried::new("cache", |_| Duration::ZERO),
            customs: Carried::new("custom", |_| HISTORY),
            mirrors: Carried::new("mirror", |_| Duration::ZERO),
            versions: Carried::new("versions", |_| Duration::from_hours(24 * u64::from(DAYS))),
            // As long as that of circuit breakers: what is held is held until somebody does something about it.
            splits: Carried::new("split", |_| Duration::from_hours(1)),
            latencies: Carried::new("latencies", |_| Duration::ZERO),
            retry_budgets: Carried::new("retry_budget", |_| Duration::ZERO),
            discoveries: Carried::new("discovery", |_| Duration::ZERO),
            balancers: Carried::new("balancer", |_| Duration::ZERO),
            checks: Carried::new("health_check", |_| Duration::ZERO),
            places: Carried::new("connections", |_| Duration::ZERO),
            all_places: Arc::default(),
            held: Held::new(0),
            pools: (0..workers).map(|_| Carried::new("pool", |_| Duration::ZERO)).collect(),
            tickets: Carried::new("tls_tickets", |_| Duration::ZERO),
            certificates: Carried::new("certificate", |_| Duration::ZERO),
            exporters: Carried::new("otlp", |_| Duration::ZERO),
            logs: Carried::new("access_log", |_| Duration::ZERO),
        }
    }

    /// This state is in force from now on: begins to fetch keys that nobody fetches yet, to look for endpoints that
    /// nobody looks for, to order certificates, and to check endpoints as its configuration says. Needs a runtime, on which that goes
    /// on. What is found is for as long as the generation is `alive`.
    pub fn start(&self, alive: &Alive) {
        for (upstream, discovery) in self.discoveries.iter() {
            if let Some(balancer) = self.balancers.get(upstream) {
                discovery.start(balancer, alive);
            }
        }
        for (_, checks) in self.checks.iter() {
            checks.health.put_in_force();
            checks.checking.start();
        }
        for (_, certificate) in self.certificates.iter() {
            certificate.put_in_force();
            certificate.ordering.start();
        }
        for (_, store) in self.stores.iter() {
            store.start();
        }
        for (_, exporting) in self.exporters.iter() {
            exporting.start();
        }
        for (_, config, log) in self.logs.entries() {
            log.start(config.queue);
        }
        for (_, tokens) in self.tokens.iter() {
            if let Some(fetching) = &tokens.fetching {
                fetching.start();
            }
        }
    }

    /// Waits until all that is told about requests has been told, for so long at most: the process ends.
    pub async fn flush(&self, within: Duration) {
        let until = Instant::now() + within;
        for (_, exporting) in self.exporters.iter() {
            exporting.flushed(until).await;
        }
        for (_, log) in self.logs.iter() {
            log.flushed(until).await;
        }
    }

    /// Waits until all endpoints that are looked for have been found once, for [`FIRST`](crate::discover::FIRST) at
    /// most after that was begun, and until it is known which certificates are kept.
    pub async fn found(&self) {
        for (_, certificate) in self.certificates.iter() {
            certificate.looked().await;
        }
        for (_, discovery) in self.discoveries.iter() {
            discovery.answered().await;
        }
    }

    /// The upstreams whose endpoints may be others than those in force, and why.
    pub fn stale(&self, now: Now) -> Vec<(&Arc<str>, String)> {
        let all = self.discoveries.iter();
        all.filter_map(|(name, discovery)| Some((name, discovery.status(now).stale?))).collect()
    }

    /// The stores that do not answer, and why.
    pub fn without_store(&self) -> Vec<(&Arc<str>, String)> {
        self.stores.iter().filter_map(|(name, store)| Some((name, store.trouble()?))).collect()
    }

    /// The policies that have no keys to verify tokens with, and why.
    pub fn without_keys(&self, now: Now) -> Vec<(&Arc<str>, String)> {
        let all = self.tokens.iter().filter_map(|(name, tokens)| Some((name, tokens.layer.keys()?)));
        let lacking = all.filter(|(_, keys)| !keys.is_ready(now));
        lacking.map(|(name, keys)| (name, keys.last_error().unwrap_or("not fetched yet".into()))).collect()
    }

    /// The names under which policies are known: those in force, and those that are buried.
    pub fn policies(&self) -> BTreeSet<Name> {
        let rate_limits =
            self.rate_limits.iter().chain(self.rate_limits.buried()).map(|(name, _)| name.clone());
        let bulkheads = self.bulkheads.iter().chain(self.bulkheads.buried()).map(|(name, _)| name.clone());
        let versions =
            self.versions.iter().chain(self.versions.buried()).map(|(route, _)| versions_name(route));
        let kept = self.idempotency.iter().chain(self.idempotency.buried()).map(|(name, _)| name.clone());
        let breakers = self.breakers.iter().chain(self.breakers.buried()).map(|(name, _)| name.clone());
        let faults = self.faults.iter().map(|(name, _)| name.clone());
        let caches = self.caches.iter().map(|(name, _)| name.clone());
        let of_endpoints = self.endpoint_breakers.iter().chain(self.endpoint_breakers.buried());
        let breakers = breakers.chain(of_endpoints.map(|(upstream, _)| breakers_name(upstream)));
        let splits = self.splits.iter().chain(self.splits.buried()).map(|(name, _)| name.clone());
        let all = rate_limits
            .chain(bulkheads)
            .chain(versions)
            .chain(kept)
            .chain(breakers)
            .chain(faults)
            .chain(caches);
        all.chain(splits).collect()
    }

    /// Whether a split, in force or buried, has an arm of this name.
    pub fn has_arm(&self, split: &str, arm: &str) -> bool {
        let mut all = self.splits.iter().chain(self.splits.buried()).filter(|(name, _)| ***name == *split);
        all.any(|(_, layer)| layer.arms(Now::read()).iter().any(|is| *is.name == *arm))
    }

    /// The same without what is buried: for whoever makes routes of it, so that what is cleared is gone.
    #[must_use]
    pub fn without_buried(&self) -> Self {
        Self {
            rate_limits: self.rate_limits.without_buried(),
            bulkheads: self.bulkheads.without_buried(),
            versions: self.versions.without_buried(),
            splits: self.splits.without_buried(),
            idempotency: self.idempotency.without_buried(),
            breakers: self.breakers.without_buried(),
            customs: self.customs.without_buried(),
            endpoint_breakers: self.endpoint_breakers.without_buried(),
            ..self.clone()
        }
    }

    /// The same without what is buried and has no history left; `None` if there is nothing of it.
    pub fn without_expired(&self, now: Instant) -> Option<Self> {
        let has_expired = self.rate_limits.has_expired(now)
            || self.bulkheads.has_expired(now)
            || self.versions.has_expired(now)
            || self.splits.has_expired(now)
            || self.idempotency.has_expired(now)
            || self.breakers.has_expired(now)
            || self.customs.has_expired(now)
            || self.endpoint_breakers.has_expired(now);
        has_expired.then(|| Self {
            rate_limits: self.rate_limits.without_expired(now),
            bulkheads: self.bulkheads.without_expired(now),
            versions: self.versions.without_expired(now),
            splits: self.splits.without_expired(now),
            idempotency: self.idempotency.without_expired(now),
            breakers: self.breakers.without_expired(now),
            customs: self.customs.without_expired(now),
            endpoint_breakers: self.endpoint_breakers.without_expired(now),
            ..self.clone()
        })
    }
}

/// What the breakers of an upstream's endpoints are called among policies.
pub fn breakers_name(upstream: &Name) -> Name {
    format!("{upstream}/circuit_breaker").into()
}

/// What the fallback of a route is called among budgets, where the route has several upstreams.
pub fn fallback_name(route: &Name) -> Name {
    format!("{route}/fallback").into()
}

/// What the latencies of an upstream, as a route sees it, are called.
pub fn latencies_name(route: &Name, upstream: &Name) -> Name {
    format!("{route}/{upstream}").into()
}

/// What the versions of a route are called among policies, as those that are written in place are.
pub fn versions_name(route: &Name) -> Name {
    format!("{route}/versions").into()
}

/// Whoever does nothing twice, and how long it remembers at least.
#[derive(Clone, Debug)]
pub struct Kept {
    /// The layer.
    pub layer: IdempotencyLayer<Arc<PolicyMetrics>>,
    /// The longest time to live of all configurations.
    pub ttl: Duration,
}

impl Kept {
    /// A key that is forgotten lets a payment be made twice: a request counts until it ends, however long that
    /// takes, and for its time after that.
    fn history(&self) -> Duration {
        let is_in_time = |end| u128::from(Now::read().since_ns(end)) < self.ttl.as_nanos();
        let is_known = self.layer.counts().working > 0 || self.layer.last_end().is_some_and(is_in_time);
        if is_known { Duration::MAX } else { Duration::ZERO }
    }
}

/// Whoever verifies the tokens of one policy.
#[derive(Clone, Debug)]
pub struct Tokens {
    /// Its name.
    pub policy: Name,
    /// The layer, over its keys.
    pub layer: JwtLayer<Arc<PolicyMetrics>>,
    /// Whoever fetches the keys, if they are fetched.
    pub fetching: Option<Arc<Background>>,
    /// Where the keys come from, and how.
    pub source: JwtKeys,
}

/// Whoever checks the health of the endpoints of one upstream.
#[derive(Clone, Debug)]
pub struct Checks {
    /// The upstream.
    pub upstream: Name,
    /// What is known, under one configuration.
    pub health: Health,
    /// Whoever asks, for all configurations.
    pub checking: Arc<Background>,
}

/// Goes on beside requests from when it is started until nobody holds it any more: an assembled generation may
/// still be thrown away.
pub struct Background(Mutex<Task>);

enum Task {
    Waits(Option<Pin<Box<dyn Future<Output = ()> + Send>>>),
    Runs(AbortHandle),
}

impl Background {
    /// Not started.
    pub fn new(work: impl Future<Output = ()> + Send + 'static) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Task::Waits(Some(Box::pin(work))))))
    }

    /// Starts it, once.
    fn start(&self) {
        let mut task = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Task::Waits(work) = &mut *task
            && let Some(work) = work.take()
        {
            *task = Task::Runs(tokio::spawn(work).abort_handle());
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if let Task::Runs(task) = self.0.get_mut().unwrap_or_else(PoisonError::into_inner) {
            task.abort();
        }
    }
}

impl fmt::Debug for Background {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Background")
    }
}
