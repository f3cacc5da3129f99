//! From checked policies to the configurations of layers, and to keys.

use std::{cmp::Reverse, net::IpAddr, sync::Arc};

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header::COOKIE};
use naka::{
    api_key::{ApiKey, ApiKeyConfig, ApiKeys},
    authorize::{Network, Rule},
    balance::{BalanceConfig, HashKey, Policy as Choice, Regions, Sticky, SubsetMiss, Target},
    basic_auth::{BasicAuthConfig, User, Users},
    bulkhead::{Adaptive, BulkheadConfig, BulkheadLayer, PRIORITIES, Share},
    cache::CacheConfig,
    circuit_breaker::{self, CircuitBreakerConfig, CircuitBreakerLayer, Preset, SlowCall},
    classify::Classifier,
    context::ClientAddr,
    cors::{CorsConfig, CorsError, CorsRules},
    enforce,
    fallback::{self, FallbackConfig},
    fault::{FaultConfig, Gate},
    forward_auth::{ForwardAuthConfig, Remember},
    health::HealthConfig,
    hedge::{self, After, HedgeConfig},
    idempotency::{Failures, IdempotencyConfig},
    identity::Claim,
    jwt::{Algorithm, FetchConfig, JwtConfig},
    key::{Key, KeyBuilder, KeySecret, client_network},
    mirror::{self, MirrorConfig},
    rate_limit::{
        self, Algorithm as Counting, Factor, Fields, Quota, RateLimitConfig, RateLimitLayer, Window,
        shared::{OnFailure, Sharing},
    },
    reject::Head,
    retry::{Backoff, BudgetConfig, Methods, RetryConfig, When},
    split::{Guard, Pin, SplitConfig, SplitError, SplitLayer, Splitting},
    trace::{Format, Sampler, TraceConfig},
    version::{OnConflict, Strategy, Version, VersionConfig, VersionError, Versioning},
};

use crate::{
    address::UNIX,
    config::checked::{
        self, Balance, BalancePolicy, Bulkhead, Endpoint, Enforce, Fetch, HealthCheck, Jwt, KeyPart,
        OnMissing, Propagator, RateLimit, Tiers, Tracing, VersionPlace,
    },
    entry, identity,
    observe::{ArmMetrics, PolicyMetrics},
    route::{decoded_piece, query_value},
    state::{Breaking, Stores},
    transform::Matched,
};

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
    let algorithm = if limit.is_sliding { Counting::SlidingWindow } else { Counting::Gcra };
    let factors =
        limit.tiers.iter().flat_map(|tiers| tiers.of.iter().map(|(_, percent)| Factor::percent(*percent)));
    let fields = match limit.fields {
        checked::Fields::None => Fields::Off,
        checked::Fields::Draft => Fields::Draft,
        checked::Fields::Legacy => Fields::Legacy,
    };
    RateLimitConfig::new(quota)
        .algorithm(algorithm)
        .max_keys(limit.max_keys)
        .on_missing(on_missing)
        .cost(limit.cost)
        .tiers(factors)
        .fields(fields)
        .enforce(enforced(enforce))
}

/// The place of a tier among those that are named; `anonymous` is whoever is not known.
pub(super) fn tier_of<T>(tiers: &Tiers<T>) -> impl Fn(&Head<'_>) -> Option<usize> + Send + Sync + 'static {
    let (by, names) =
        (tiers.by.clone(), tiers.of.iter().map(|(name, _)| Arc::clone(name)).collect::<Vec<_>>());
    move |head| {
        let is = identity::part(head.extensions, &by);
        let place = |name: &str| names.iter().position(|known| **known == *name);
        match is.as_deref() {
            Some(Claim::Text(text)) => place(text),
            Some(other) => place(&other.to_string()),
            None => place("anonymous"),
        }
    }
}

fn bulkhead_config(bulkhead: &Bulkhead, enforce: Enforce) -> BulkheadConfig {
    let mut config = BulkheadConfig::new(bulkhead.max)
        .queue(bulkhead.queue, bulkhead.max_wait)
        .partitions(bulkhead.max_keys)
        .enforce(enforced(enforce));
    config.total = bulkhead.total;
    if let Some(tiers) = &bulkhead.tiers {
        let shares = tiers.of.iter().map(|(_, (reserved, max))| Share::new(*reserved, *max));
        config = config.tiers(&shares.collect::<Vec<_>>());
    }
    if let Some(priorities) = &bulkhead.priorities {
        let mut shares = [100; PRIORITIES];
        shares.iter_mut().zip(&priorities.of).for_each(|(place, (_, percent))| *place = *percent);
        // Whoever is of none of them goes last.
        let least = priorities.of.iter().map(|(_, percent)| *percent).min().unwrap_or(100);
        shares[priorities.of.len().min(PRIORITIES)..].fill(least);
        config = config.priorities(shares);
    }
    if let Some(adaptive) = &bulkhead.adaptive {
        let checked::Adaptive { min, max, .. } = *adaptive;
        let how = adaptive
            .aimd_latency
            .map_or_else(|| Adaptive::gradient2(min, max), |latency| Adaptive::aimd(min, max, latency));
        let adapt = if adaptive.acts { enforce::Enforce::Always } else { enforce::Enforce::Observe };
        config = config.adaptive(how).adapt(adapt);
    }
    config
}

/// The layer of a bulkhead that is new, with what it takes from a request.
pub(super) fn bulkhead_layer(
    bulkhead: &Bulkhead,
    enforce: Enforce,
    metrics: Arc<PolicyMetrics>,
) -> BulkheadLayer<Arc<PolicyMetrics>> {
    let mut layer = BulkheadLayer::observed(bulkhead_config(bulkhead, enforce), metrics);
    if !bulkhead.key.is_empty() {
        layer = layer.partitioned_by(key_of(&bulkhead.key));
    }
    if let Some(tiers) = &bulkhead.tiers {
        let (tier, last) = (tier_of(tiers), tiers.of.len() - 1);
        layer = layer.tiered_by(move |head| tier(head).unwrap_or(last));
    }
    prioritized(layer, bulkhead)
}

/// The same account under another configuration.
pub(super) fn bulkhead_reconfigured(
    layer: &BulkheadLayer<Arc<PolicyMetrics>>,
    bulkhead: &Bulkhead,
    enforce: Enforce,
) -> BulkheadLayer<Arc<PolicyMetrics>> {
    prioritized(layer.reconfigured(&bulkhead_config(bulkhead, enforce)), bulkhead)
}

fn prioritized(
    layer: BulkheadLayer<Arc<PolicyMetrics>>,
    bulkhead: &Bulkhead,
) -> BulkheadLayer<Arc<PolicyMetrics>> {
    let Some(priorities) = &bulkhead.priorities else { return layer };
    let (of, least) = (tier_of(priorities), least_important(priorities));
    layer.priority_by(move |head| u8::try_from(of(head).unwrap_or(least)).unwrap_or(u8::MAX))
}

/// The layer of a circuit breaker that is new, with what it takes from a request.
pub(super) fn circuit_breaker_layer(
    breaker: &checked::CircuitBreaker,
    enforce: Enforce,
    metrics: Arc<PolicyMetrics>,
) -> CircuitBreakerLayer<Arc<PolicyMetrics>> {
    let layer = CircuitBreakerLayer::observed(circuit_breaker_config(breaker, enforce), metrics);
    if breaker.key.is_empty() { layer } else { layer.keyed_by(key_of(&breaker.key)) }
}

/// What is said, over the preset or the defaults.
pub(super) fn circuit_breaker_config(
    breaker: &checked::CircuitBreaker,
    enforce: Enforce,
) -> CircuitBreakerConfig {
    let preset = breaker.preset.and_then(Preset::named).map(|preset| preset.config);
    let mut config = preset.unwrap_or_default().enforce(enforced(enforce)).max_keys(breaker.max_keys);
    config.consecutive = breaker.consecutive.unwrap_or(config.consecutive);
    config.failure_rate = breaker.failure_rate.unwrap_or(config.failure_rate);
    config.slow_call = breaker.slow_call.map(|(over, rate)| SlowCall::new(over, rate)).or(config.slow_call);
    config.min_requests = breaker.min_requests.unwrap_or(config.min_requests);
    config.window = breaker.window.map_or(config.window, |window| match window {
        checked::BreakerWindow::Count(results) => circuit_breaker::Window::Count(results),
        checked::BreakerWindow::Time(length) => circuit_breaker::Window::Time(length),
    });
    (config.open, config.open_max) = breaker.open.unwrap_or((config.open, config.open_max));
    config.probes = breaker.probes.unwrap_or(config.probes);
    config.successes = breaker.successes.unwrap_or(config.successes);
    config.probe_timeout = breaker.probe_timeout.unwrap_or(config.probe_timeout);
    config.ramp = breaker.ramp.unwrap_or(config.ramp);
    config.classifier(classifier(breaker))
}

fn classifier(breaker: &checked::CircuitBreaker) -> Classifier {
    if breaker.statuses.is_empty() {
        return Classifier::new();
    }
    let none = Classifier::new().passing(400..=599);
    breaker.statuses.iter().fold(none, |it, (from, to)| it.failing(*from..=*to))
}

/// The place of those who may use the least.
fn least_important(priorities: &Tiers<u8>) -> usize {
    let all = priorities.of.iter().enumerate();
    all.min_by_key(|(_, (_, percent))| *percent).map_or(0, |(place, _)| place)
}

/// The layer of a rate limit that is new, with what it takes from a request.
pub(super) fn rate_limit_layer(
    limit: &RateLimit,
    enforce: Enforce,
    stores: &Stores,
    metrics: Arc<PolicyMetrics>,
) -> RateLimitLayer<Arc<PolicyMetrics>> {
    let key = keyed(&limit.key, limit.secret());
    shared(
        tiered(RateLimitLayer::observed(rate_limit_config(limit, enforce), key, metrics), limit),
        limit,
        stores,
    )
}

/// The same account under another configuration.
pub(super) fn rate_limit_reconfigured(
    layer: &RateLimitLayer<Arc<PolicyMetrics>>,
    limit: &RateLimit,
    enforce: Enforce,
    stores: &Stores,
) -> RateLimitLayer<Arc<PolicyMetrics>> {
    shared(tiered(layer.reconfigured(&rate_limit_config(limit, enforce)), limit), limit, stores)
}

fn shared(
    layer: RateLimitLayer<Arc<PolicyMetrics>>,
    limit: &RateLimit,
    stores: &Stores,
) -> RateLimitLayer<Arc<PolicyMetrics>> {
    let Some(shared) = &limit.shared else { return layer };
    let Some(store) = stores.get(&shared.name) else { return layer }; // There is one: it was checked.
    let on_failure = match shared.on_failure {
        checked::OnFailure::Share => OnFailure::Share,
        checked::OnFailure::Open => OnFailure::Open,
        checked::OnFailure::Closed => OnFailure::Closed,
    };
    let sharing = Sharing::new(store.store.clone(), shared.share).lease(shared.lease);
    layer.shared(&sharing.on_failure(on_failure))
}

fn tiered(
    layer: RateLimitLayer<Arc<PolicyMetrics>>,
    limit: &RateLimit,
) -> RateLimitLayer<Arc<PolicyMetrics>> {
    match &limit.tiers {
        Some(tiers) => layer.tier_by(tier_of(tiers)),
        None => layer,
    }
}

pub(super) const fn enforced(enforce: Enforce) -> enforce::Enforce {
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

/// The value of the only cookie of that name: of two nobody knows which one the upstream believes.
fn cookie_value<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a [u8]> {
    let lines = headers.get_all(COOKIE).into_iter().map(HeaderValue::as_bytes);
    let pairs = lines.flat_map(|line| line.split(|byte| *byte == b';')).map(<[u8]>::trim_ascii);
    let mut values = pairs.filter_map(|pair| pair.strip_prefix(name.as_bytes())?.strip_prefix(b"="));
    let value = values.next().filter(|value| !value.is_empty())?;
    values.all(|other| other == value).then_some(value)
}

/// The words of `key:` as a function. No parts: one key for everybody. Who comes by a Unix socket, and of whom nobody who is
/// trusted says an address, has one key with all such: a limit without a key might let them in without limit.
pub(super) fn key_of(parts: &[KeyPart]) -> impl Fn(&Head<'_>) -> Option<Key> + Send + Sync + 'static {
    keyed(parts, None)
}

/// The same, hashed with a secret that others have, too, or with that of this process.
fn keyed(
    parts: &[KeyPart],
    secret: Option<KeySecret>,
) -> impl Fn(&Head<'_>) -> Option<Key> + Send + Sync + 'static {
    let parts: Arc<[KeyPart]> = parts.into();
    move |head| {
        let mut key = secret.map_or_else(KeyBuilder::new, KeyBuilder::with);
        for part in &*parts {
            match part {
                KeyPart::ClientIp => match ClientAddr::of(head.extensions) {
                    Some(address) => key.part(client_network(address)),
                    None => key.part(UNIX), // All of them are one.
                },
                KeyPart::Route => key.part(&head.extensions.get::<Matched>()?.route),
                KeyPart::Host => key.part(entry::host(head.headers)),
                KeyPart::Method => key.part(head.method.as_str()),
                KeyPart::Header(name) => key.part(header_value(head.headers, name)?.as_bytes()),
                KeyPart::Query(name) => key.part(query_value(head.uri.query()?, name)?),
                KeyPart::Cookie(name) => key.part(cookie_value(head.headers, name)?),
                KeyPart::Capture(name) => {
                    let matched = head.extensions.get::<Matched>()?;
                    key.part(matched.captures.get(head.uri.path(), name)?)
                }
                KeyPart::Identity(part) => match &*identity::part(head.extensions, part)? {
                    Claim::Text(text) => key.part(text),
                    other => key.part(other.to_string()),
                },
            };
        }
        Some(key.finish())
    }
}

/// The same, as each process and each of several gateways makes it. A part that is missing makes no key.
pub(super) fn hash_of(parts: &[KeyPart]) -> impl Fn(&Head<'_>) -> Option<HashKey> + Send + Sync + 'static {
    let parts: Arc<[KeyPart]> = parts.into();
    move |head| match &*parts {
        [only] => with_part(head, only, |part| HashKey::of(part)),
        several => {
            let mut all = Vec::new();
            for part in several {
                with_part(head, part, |part| {
                    all.extend_from_slice(&part.len().to_be_bytes()); // Else `ab`, `c` were `a`, `bc`.
                    all.extend_from_slice(part);
                })?;
            }
            Some(HashKey::of(all))
        }
    }
}

/// Shows a part, if the request has it. What only routes know is refused in a balancer's key, and what route it is in a
/// split's.
fn with_part<T>(head: &Head<'_>, part: &KeyPart, show: impl FnOnce(&[u8]) -> T) -> Option<T> {
    Some(match part {
        KeyPart::ClientIp => match client_network(ClientAddr::of(head.extensions)?) {
            IpAddr::V4(address) => show(&address.octets()),
            IpAddr::V6(address) => show(&address.octets()),
        },
        KeyPart::Host => show(entry::host(head.headers).as_bytes()),
        KeyPart::Method => show(head.method.as_str().as_bytes()),
        KeyPart::Header(name) => show(header_value(head.headers, name)?.as_bytes()),
        KeyPart::Query(name) => show(&query_value(head.uri.query()?, name)?),
        KeyPart::Cookie(name) => show(cookie_value(head.headers, name)?),
        KeyPart::Capture(name) => {
            let matched = head.extensions.get::<Matched>()?;
            show(matched.captures.get(head.uri.path(), name)?.as_ref())
        }
        KeyPart::Identity(part) => match &*identity::part(head.extensions, part)? {
            Claim::Text(text) => show(text.as_bytes()),
            other => show(other.to_string().as_bytes()),
        },
        KeyPart::Route => return None,
    })
}

/// What the values of a composition stand for that are of no call, as text.
pub(crate) fn given(
    parts: &[(Arc<str>, KeyPart)],
) -> impl Fn(&Head<'_>, &str) -> Option<Vec<u8>> + Send + Sync + 'static {
    let parts: Arc<[(Arc<str>, KeyPart)]> = parts.into();
    move |head, name| {
        let (_, part) = parts.iter().find(|(known, _)| **known == *name)?;
        match part {
            KeyPart::ClientIp => Some(ClientAddr::of(head.extensions)?.to_string().into_bytes()),
            // A capture stands in a path that is still encoded.
            KeyPart::Capture(_) => with_part(head, part, decoded_piece),
            part => with_part(head, part, <[u8]>::to_vec),
        }
    }
}

pub(super) fn balance_config(balance: &Balance, breaking: Option<&Breaking>) -> BalanceConfig {
    let policy = match balance.policy {
        BalancePolicy::RoundRobin => Choice::RoundRobin,
        BalancePolicy::WeightedRoundRobin => Choice::WeightedRoundRobin,
        BalancePolicy::Random => Choice::Random,
        BalancePolicy::LeastRequest => Choice::LeastRequest,
        BalancePolicy::WeightedLeastRequest => Choice::WeightedLeastRequest,
        BalancePolicy::PeakEwma => Choice::PeakEwma,
        BalancePolicy::LeastLatency => Choice::LeastLatency,
        BalancePolicy::LeastLoad => Choice::LeastLoad,
        BalancePolicy::RingHash => Choice::RING_HASH,
        BalancePolicy::Maglev => Choice::MAGLEV,
        BalancePolicy::Rendezvous => Choice::Rendezvous,
        BalancePolicy::IpHash => Choice::IpHash,
    };
    let mut config = BalanceConfig::new(policy);
    if let Some(slow_start) = balance.slow_start {
        config = config.slow_start(slow_start);
    }
    if let Some(panic) = balance.panic {
        config = config.panic(panic);
    }
    for (name, value) in &balance.only {
        config = config.label(name, value);
    }
    config.max_load = balance.max_load;
    if let Some(regions) = &balance.regions {
        config.regions = Some(of_regions(regions));
    }
    if balance.subset.as_ref().is_some_and(|subset| subset.refuses) {
        config = config.subset_miss(SubsetMiss::Refuse);
    }
    if let Some(sticky) = &balance.sticky {
        let made =
            Sticky::new(&sticky.cookie, sticky.secret.bytes()).expect("a checked name is one of a cookie");
        config = config.sticky(made.secure(sticky.is_secure));
    }
    if let Some((breaker, _)) = breaking {
        config.max_ejected = breaker.max_ejected;
        config = config.classifier(classifier(breaker));
    }
    config
}

/// An endpoint as a balancer has it.
fn of_regions(regions: &checked::Regions) -> Regions {
    let made = Regions::by_label(&regions.label).otherwise(regions.otherwise.iter().map(|region| &**region));
    let of = regions.of.iter();
    of.fold(made, |made, (region, list)| made.prefer(region, list.iter().map(|region| &**region)))
}

/// The key of a text that a request has, as labels have it.
pub(super) fn text_of(part: &KeyPart) -> impl Fn(&Head<'_>) -> Option<Key> + Send + Sync + 'static {
    let part = part.clone();
    move |head| match &part {
        KeyPart::Identity(part) => Some(Key::of(identity::part(head.extensions, part)?.to_string())),
        // A label is a text, and what is none is nobody's.
        part => with_part(head, part, |bytes| str::from_utf8(bytes).ok().map(Key::of)).flatten(),
    }
}

/// The region that a request comes from: what it says, else that of the smallest network that its client is in.
pub(super) fn region_of(
    regions: &checked::Regions,
) -> impl Fn(&Head<'_>) -> Option<Key> + Send + Sync + 'static {
    let said = regions.by.as_ref().map(text_of);
    let mut networks = regions.networks.clone();
    networks.sort_by_key(|(network, _)| Reverse(network.prefix_len()));
    move |head| {
        said.as_ref().and_then(|said| said(head)).or_else(|| {
            let client = ClientAddr::of(head.extensions).filter(|_| !networks.is_empty())?;
            networks
                .iter()
                .find(|(network, _)| network.contains(&client))
                .map(|(_, region)| Key::of(&**region))
        })
    }
}

pub(crate) fn target(endpoint: &Endpoint) -> Target {
    let mut target = Target::new(Arc::clone(&endpoint.address)).weight(endpoint.weight);
    for (name, value) in &endpoint.labels {
        target = target.label(name, value);
    }
    match endpoint.capacity {
        Some(capacity) => target.capacity(capacity),
        None => target,
    }
}

pub(super) fn health_config(check: &HealthCheck) -> HealthConfig {
    let mut config = HealthConfig::default();
    config.interval = check.interval;
    config.unhealthy_interval = check.unhealthy_interval;
    config.timeout = check.timeout;
    config.unhealthy_after = check.unhealthy_after;
    config.healthy_after = check.healthy_after;
    config
}

pub(super) fn jwt_config(jwt: &Jwt) -> JwtConfig {
    let mut config = JwtConfig::new();
    config.issuers.clone_from(&jwt.issuers);
    config.audiences.clone_from(&jwt.audiences);
    config.algorithms =
        jwt.algorithms.as_ref().map(|all| all.iter().filter_map(|word| Algorithm::from_word(word)).collect());
    config.token_type.clone_from(&jwt.token_type);
    config.require_exp = jwt.require_exp;
    config.require_nbf = jwt.require_nbf;
    config.leeway = jwt.leeway;
    config.max_token = jwt.max_token;
    config.scope_claim = Arc::clone(&jwt.scope_claim);
    config.role_claim = Arc::clone(&jwt.role_claim);
    config
}

pub(super) fn fetch_config(fetch: &Fetch) -> FetchConfig {
    let mut config = FetchConfig::default();
    config.timeout = fetch.timeout;
    config.min_interval = fetch.min_interval;
    config.fresh = fetch.fresh;
    config.max_stale = fetch.max_stale;
    config
}

/// How requests say which trace they belong to.
pub(super) fn trace_formats(tracing: &Tracing) -> impl Iterator<Item = Format> {
    tracing.propagators.iter().map(|propagator| match propagator {
        Propagator::W3c => Format::W3c,
        Propagator::B3 => Format::B3,
        Propagator::B3Multi => Format::B3Multi,
        Propagator::Jaeger => Format::Jaeger,
    })
}

pub(super) fn trace_config(tracing: &Tracing) -> TraceConfig {
    TraceConfig {
        propagators: trace_formats(tracing).collect(),
        sampler: Sampler::per_million(tracing.sample),
        always_on_error: tracing.always_on_error,
    }
}

pub(super) fn api_key_config(policy: &checked::ApiKey) -> ApiKeyConfig {
    let keys = policy.keys.iter().map(|entry| {
        let key = ApiKey::hashed(entry.sha256, &entry.subject).knowing(|identity| {
            identity.scopes.clone_from(&entry.scopes);
            identity.roles.clone_from(&entry.roles);
            let claims = entry.claims.iter().map(|(name, values)| (Arc::clone(name), claim(values)));
            identity.claims.extend(claims);
        });
        match entry.expires_s {
            Some(end) => key.until(end),
            None => key,
        }
    });
    let mut config = ApiKeyConfig::new(ApiKeys::new(keys));
    config.header = policy.header.clone();
    config.forward = policy.forward;
    config
}

fn claim(values: &[Arc<str>]) -> Claim {
    match values {
        [one] => Claim::Text(Arc::clone(one)),
        all => Claim::List(all.iter().map(|one| Claim::Text(Arc::clone(one))).collect()),
    }
}

pub(super) fn rule(checked: &checked::Rule) -> Rule {
    use checked::Rule as Checked;
    match checked {
        Checked::All(rules) => Rule::all(rules.iter().map(rule)),
        Checked::Any(rules) => Rule::any(rules.iter().map(rule)),
        Checked::Not(inner) => !rule(inner),
        Checked::Authenticated => Rule::Authenticated,
        Checked::Scope(scope) => Rule::Scope(Arc::clone(scope)),
        Checked::Role(role) => Rule::Role(Arc::clone(role)),
        Checked::Identity(subject) => Rule::Subject(Arc::clone(subject)),
        Checked::Claim(name, value) => Rule::Claim(Arc::clone(name), Arc::clone(value)),
        Checked::Method(method) => Rule::Method(method.clone()),
        Checked::Cidr(network) => Rule::Client(Network::from(*network)),
    }
}

/// # Errors
/// What is wrong with a hash, and in which line.
pub(super) fn basic_auth_config(policy: &checked::BasicAuth) -> Result<BasicAuthConfig, String> {
    let user = |(name, hash, line): &(Arc<str>, checked::Secret, usize)| {
        let hash = String::from_utf8_lossy(hash.bytes());
        User::new(name, &hash).map_err(|error| format!("line {line} of its file: {error}"))
    };
    let users = policy.users.iter().map(user).collect::<Result<Vec<_>, _>>()?;
    let mut config = BasicAuthConfig::new(Users::new(users));
    config.realm = Arc::clone(&policy.realm);
    config.remember = policy.remember;
    config.max_checks = policy.max_checks;
    config.max_waiting = policy.max_waiting;
    config.forward = policy.forward;
    Ok(config)
}

pub(super) fn forward_auth_config(policy: &checked::ForwardAuth) -> ForwardAuthConfig {
    let mut config = ForwardAuthConfig::new();
    config.target = policy.target.clone();
    config.host = Some(policy.host.clone());
    if let Some(send) = &policy.send {
        config.send.clone_from(send);
    }
    config.copy.clone_from(&policy.copy);
    config.subject.clone_from(&policy.subject);
    config.timeout = policy.timeout;
    config.max_asking = policy.max_asking;
    config.trust_forwarded = true; // The entry has written them.
    config.remember = policy.remember.as_ref().map(|(by, ttl)| Remember { by: by.clone(), ttl: *ttl });
    config
}

/// # Errors
/// What is wrong with the versions and could not be seen before.
pub(super) fn versioning(versions: &checked::Versions) -> Result<Versioning, VersionError> {
    let of = versions.of.iter().map(|version| {
        let checked::Lifecycle { since_s, maintenance_s, deprecated_s, sunset_s, removed_s, .. } =
            version.lifecycle;
        let mut it = Version::new(&version.name);
        it.aliases.clone_from(&version.aliases);
        (it.since_s, it.maintenance_s, it.deprecated_s) = (since_s, maintenance_s, deprecated_s);
        (it.sunset_s, it.removed_s) = (sunset_s, removed_s);
        it.successor.clone_from(&version.lifecycle.successor);
        it.docs.clone_from(&version.lifecycle.docs);
        it.brownouts.clone_from(&version.lifecycle.brownouts);
        it
    });
    let strategies = versions.places.iter().map(|place| match place {
        VersionPlace::Path(segment) => {
            Strategy::Path { segment: segment.unwrap_or(0), strip: versions.strip }
        }
        VersionPlace::Header(name) => Strategy::Header(name.clone()),
        VersionPlace::Accept(vendor) => {
            Strategy::Accept { vendor: vendor.clone(), parameter: "version".into() }
        }
        VersionPlace::Query(name) => Strategy::Query(Arc::clone(name)),
        VersionPlace::Subdomain => Strategy::Subdomain,
    });
    let on_conflict = if versions.refuses_conflicts { OnConflict::Refuse } else { OnConflict::Precedence };
    let mut config = VersionConfig::new(of).strategies(strategies).on_conflict(on_conflict);
    config.default.clone_from(&versions.default);
    config.check()
}

/// # Errors
/// What is wrong with the split and could not be seen before.
pub(super) fn splitting(split: &checked::Split) -> Result<Splitting, SplitError> {
    let mut config =
        SplitConfig::new(split.to.iter().map(|(upstream, share)| (Arc::clone(upstream), *share)));
    for checked::SplitPin { who, to } in &split.pins {
        config = config.pin(match who {
            checked::Pinned::Header(name, value) => Pin::header(name.clone(), value.clone(), to),
            checked::Pinned::Cookie(name, value) => Pin::cookie(name, value, to),
        });
    }
    if let Some(guard) = &split.guard {
        config.baseline.clone_from(&guard.baseline);
        let window = Guard::new(guard.error_rate_bp).window(guard.window);
        config = config.guard(window.min_requests(guard.min_requests));
    }
    config.check()
}

/// Goes by the key of the split, if it has one.
pub(super) fn split_keyed(layer: SplitLayer<ArmMetrics>, split: &checked::Split) -> SplitLayer<ArmMetrics> {
    if split.by.is_empty() { layer.unkeyed() } else { layer.keyed(hash_of(&split.by)) }
}

pub(super) fn idempotency_config(policy: &checked::Idempotency) -> IdempotencyConfig {
    let mut config = IdempotencyConfig::new();
    config.header = policy.header.clone();
    if let Some(methods) = &policy.methods {
        config.methods.clone_from(methods);
    }
    if let Some(headers) = &policy.same_headers {
        config.headers.clone_from(headers);
    }
    config.required = policy.required;
    config.max_request_bytes = policy.max_request;
    config.max_response_bytes = policy.max_response;
    config.max_buffered_bytes = policy.max_buffered;
    config.failures = if policy.keeps_failures { Failures::Keep } else { Failures::Release };
    config.limits.ttl = policy.ttl;
    config.limits.max_keys = policy.max_keys;
    config.limits.max_bytes = policy.max_bytes;
    config.limits.evict = policy.evict;
    config
}

/// What is retried, over the defaults of the layer.
pub(super) fn retry_config(retry: &checked::Retry) -> RetryConfig {
    let when = When::never()
        .connect_error(retry.when.connect_error)
        .reset(retry.when.reset)
        .refused_stream(retry.when.refused_stream)
        .response_timeout(retry.when.response_timeout)
        .statuses(statuses(&retry.when.statuses));
    let methods = match retry.methods {
        checked::RetryMethods::None => Methods::None,
        checked::RetryMethods::Safe => Methods::Safe,
        checked::RetryMethods::Idempotent => Methods::Idempotent,
    };
    RetryConfig::new(retry.max)
        .when(when)
        .methods(methods)
        .keyed(retry.keyed)
        .backoff(Backoff::new(retry.backoff.0, retry.backoff.1))
        .max_retry_after(retry.max_retry_after)
        .max_body(retry.max_body)
        .different_endpoint(retry.different_endpoint)
}

/// What is kept.
pub(super) fn cache_config(cache: &checked::Cache) -> CacheConfig {
    CacheConfig::new()
        .default_ttl(cache.default_ttl)
        .stale_if_error(cache.stale_if_error)
        .coalesce(cache.coalesce.unwrap_or_default())
        .max_body(cache.max_body)
        .max_bytes(cache.max_bytes)
}

/// What is sent once more.
pub(super) fn hedge_config(hedge: &checked::Hedge) -> HedgeConfig {
    let after = match hedge.after {
        checked::HedgeAfter::Fixed(after) => After::Fixed(after),
        checked::HedgeAfter::Percentile { percent, at_least, at_most } => {
            After::percentile(percent).within(at_least, at_most)
        }
    };
    let methods = if hedge.is_idempotent { hedge::Methods::Idempotent } else { hedge::Methods::Safe };
    HedgeConfig::new(after).max(hedge.max).methods(methods).keyed(hedge.keyed).max_body(hedge.max_body)
}

pub(super) fn fallback_config(fallback: &checked::Fallback) -> FallbackConfig {
    let is = &fallback.when;
    let mut when = fallback::When::never().statuses(statuses(&is.statuses));
    when.connect_error = is.connect_error;
    when.reset = is.reset;
    when.refused_stream = is.refused_stream;
    when.response_timeout = is.response_timeout;
    when.circuit_open = is.circuit_open;
    when.no_endpoint = is.no_endpoint;
    when.bulkhead_full = is.bulkhead_full;
    FallbackConfig::new().when(when).max_body(fallback.max_body)
}

fn statuses(ranges: &[(u16, u16)]) -> impl Iterator<Item = StatusCode> + '_ {
    let all = ranges.iter().flat_map(|(from, to)| *from..=*to);
    all.filter_map(|status| StatusCode::from_u16(status).ok())
}

pub(super) fn mirror_config(mirror: &checked::Mirror) -> MirrorConfig {
    let methods = match mirror.methods {
        Some(checked::MirrorMethods::All) => mirror::Methods::All,
        Some(checked::MirrorMethods::Safe) | None => mirror::Methods::Safe,
    };
    MirrorConfig::new()
        .sample(mirror.sample)
        .methods(methods)
        .max(mirror.max)
        .timeout(mirror.timeout)
        .max_body(mirror.max_body)
}

pub(super) fn budget_config(budget: checked::RetryBudget) -> BudgetConfig {
    BudgetConfig::new()
        .percent(budget.percent.into())
        .min_per_second(budget.min_per_second)
        .window(budget.window)
}

pub(super) fn fault_config(fault: &checked::Fault) -> FaultConfig {
    let mut gate = Gate::header(fault.header.clone());
    if let Some(value) = &fault.value {
        gate = gate.value(value.clone());
    }
    let mut config = FaultConfig::new(gate).until(fault.until_s).enabled(true);
    config.max_delayed = fault.max_delayed;
    if let Some((percent, status)) = fault.abort {
        config =
            config.abort(percent, status).expect("a checked fault is an error, of at most a hundred percent");
    }
    if let Some((percent, time)) = fault.delay {
        config = config.delay(percent, time).expect("a checked share is at most a hundred percent");
    }
    config
}

/// # Errors
/// What is wrong with an origin.
pub(super) fn cors_rules(cors: &checked::Cors) -> Result<CorsRules, CorsError> {
    let mut config = match &cors.origins {
        Some(origins) => CorsConfig::origins(origins.iter().map(|origin| &**origin)),
        None => CorsConfig::any(),
    };
    if let Some(methods) = &cors.methods {
        config = config.methods(methods.iter().cloned());
    }
    config = match &cors.headers {
        Some(headers) => config.headers(headers.iter().cloned()),
        None => config.mirrored_headers(),
    };
    config = config.exposed(cors.expose.iter().cloned());
    config.credentials = cors.credentials;
    config.max_age = cors.max_age;
    config.check()
}
