//! What each layer costs: over a service that answers at once, against that service alone.
//!
//! `cargo bench --bench layers`, and behind a `--`:
//!
//! | | |
//! | --- | --- |
//! | `--quick` | Fewer rounds |
//! | `--instructions [--requests 1000]` | Counts instructions, under valgrind if it is there |
//! | `--only jwt --requests 10000` | So many requests through this one, and nothing else: for a profiler |
//!
//! **Time.** All rows run in turn, round after round, in one process, so that what else the machine does
//! hits all alike. What is shown is the median of the rounds, each against the bare service in the same
//! round; times of two runs say nothing about each other.
//!
//! **Instructions.** The run of `--only` is counted by callgrind with N and with 2N requests; the difference
//! is what N requests take, and what the bare service takes of it is subtracted.
//!
//! **Allocations** are counted exactly, and are what the tables below say, or the run ends with 1; also
//! `cargo test --bench layers`, which is a short run. What C code allocates (some of the crypto does) is
//! not seen there, and is seen in the instructions.
//!
//! Each request is made anew, with headers, and carries a `Context`, as inside any stack of ours; its cost
//! is in the bare service as well. So is the response's `Content-Type`: the first header of a message costs
//! two allocations, and so does the seventh, whoever sets it, so there is room for one more in both.

use std::{
    alloc::System,
    convert::Infallible,
    future::{Future, Ready, ready},
    hint::black_box,
    net::{IpAddr, Ipv4Addr},
    num::NonZeroU32,
    pin::{Pin, pin},
    process::ExitCode,
    sync::Arc,
    task::{Context as TaskContext, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use counters::{Counter, is_here};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri,
    header::{ACCEPT, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, FROM, HOST, ORIGIN, SET_COOKIE},
};
use http_body::{Body, Frame};
use http_body_util::Full;
use naka::{
    api_key::{ApiKey, ApiKeyConfig, ApiKeyLayer, ApiKeys},
    authorize::{AuthorizeLayer, Rule},
    balance::{Absence, BalanceConfig, BalanceLayer, HashKey, Policy, Sticky, Target},
    basic_auth::{BasicAuthConfig, BasicAuthLayer, User, Users},
    body_limit::BodyLimitLayer,
    bulkhead::{Adaptive, BulkheadConfig, BulkheadLayer, Share},
    cache::{CacheConfig, CacheLayer},
    circuit_breaker::{self, CircuitBreakerConfig, CircuitBreakerLayer, SlowCall},
    clock::Now,
    context::{ClientAddr, Context},
    cors::{CorsConfig, CorsLayer},
    fallback::{AnyBody, FallbackConfig, FallbackLayer},
    fault::{FaultConfig, FaultLayer, Gate},
    forward_auth::{ForwardAuthConfig, ForwardAuthLayer, Remember},
    gate::{self, Availability, Passage, Ticket},
    hedge::{After, HedgeConfig, HedgeLayer},
    idempotency::{IdempotencyConfig, IdempotencyLayer},
    identity::{Identity, Scheme},
    jwt::{JwtConfig, JwtLayer, KeySet, Keys},
    key::Key,
    mirror::{Methods, MirrorConfig, MirrorLayer},
    problem::ProblemLayer,
    rate_limit::{
        Algorithm, Factor, Fields, Quota, RateLimitConfig, RateLimitLayer, Window,
        shared::{InMemory, SharedStore, Sharing},
    },
    reject::Head,
    reshape::{ReshapeConfig, ReshapeLayer},
    retry::{Budget, BudgetConfig, RetryConfig, RetryLayer},
    split::{Guard, Pin as ToArm, SplitConfig, SplitLayer},
    timeout::TimeoutLayer,
    version::{Strategy, Version, VersionConfig, VersionLayer},
};
use naka_testkit::token::{Issuer, hs256};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn, util::MapRequest};

mod counters;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// The happy path of each layer: none may allocate more than once for a request that it lets pass.
const HAPPY: &[Row] = &[
    Row::new(BARE, 0, || runs(Bare, Sample::new())),
    Row::new("problem", 0, || runs(ProblemLayer::new().layer(Bare), Sample::new())),
    Row::new("rate_limit", 0, || limited(rate(FAST))),
    Row::new("rate_limit.sliding", 0, || limited(rate(FAST).algorithm(Algorithm::SlidingWindow))),
    Row::new("rate_limit.windows", 0, || limited(rate(windows()))),
    Row::new("rate_limit.cost_tier", 0, limited_by_cost_and_tier),
    // Of a lease, that is: who has to ask a store allocates a question.
    Row::new("rate_limit.leased", 0, leased),
    Row::new("rate_limit.draft", 1, || limited(rate(FAST).fields(Fields::Draft))),
    Row::new("rate_limit.legacy", 1, || limited(rate(FAST).fields(Fields::Legacy))),
    Row::new("bulkhead", 0, || runs(BulkheadLayer::new(room()).layer(Bare), Sample::new())),
    Row::new("bulkhead.partitioned", 0, || {
        runs(BulkheadLayer::partitioned(room(), by_client).layer(Bare), Sample::new())
    }),
    Row::new("bulkhead.tiered", 0, || {
        let config = room().tiers(&[Share::new(8, 64), Share::new(8, 64)]);
        runs(BulkheadLayer::tiered(config, |_| 1).layer(Bare), Sample::new())
    }),
    Row::new("bulkhead.priority", 0, || {
        let config = room().priorities([50, 70, 90, 100]);
        runs(BulkheadLayer::new(config).priority_by(|_| 3).layer(Bare), Sample::new())
    }),
    Row::new("bulkhead.adaptive", 1, || {
        let config = room().adaptive(Adaptive::gradient2(8, 64));
        runs(BulkheadLayer::new(config).layer(Bare), Sample::new())
    }),
    Row::new("breaker", 0, || breaker(CircuitBreakerConfig::new())),
    Row::new("breaker.run", 0, || breaker(CircuitBreakerConfig::new().failure_rate(0))),
    Row::new("breaker.time_slow", 0, || {
        let config =
            CircuitBreakerConfig::new().window(circuit_breaker::Window::Time(Duration::from_secs(10)), 20);
        breaker(config.slow_call(SlowCall::new(Duration::from_secs(8), 80)))
    }),
    Row::new("breaker.keyed", 0, || {
        let layer = CircuitBreakerLayer::keyed(CircuitBreakerConfig::new(), by_client);
        runs(layer.layer(Bare), Sample::new())
    }),
    Row::new("timeout", 0, || runs(timeout().layer(Bare), Sample::new())),
    Row::new("balance", 0, || runs(balance().layer(Bare), Sample::new())),
    Row::new("balance.weighted", 0, || balanced(Policy::WeightedRoundRobin)),
    // What it takes to measure, without much of a choice.
    Row::new("balance.measured", 0, || {
        let config = BalanceConfig::new(Policy::LeastLatency);
        runs(BalanceLayer::with_config(config, ["10.0.0.1:80", "10.0.0.2:80"]).layer(Bare), Sample::new())
    }),
    Row::new("balance.random", 0, || balanced(Policy::Random)),
    Row::new("balance.least_request", 0, || balanced(Policy::LeastRequest)),
    Row::new("balance.weighted_least", 0, || balanced(Policy::WeightedLeastRequest)),
    Row::new("balance.peak_ewma", 0, || balanced(Policy::PeakEwma)),
    Row::new("balance.least_latency", 0, || balanced(Policy::LeastLatency)),
    Row::new("balance.least_load", 0, || balanced(Policy::LeastLoad)),
    Row::new("balance.ring_hash", 0, || balanced(Policy::RING_HASH)),
    Row::new("balance.maglev", 0, || balanced(Policy::MAGLEV)),
    Row::new("balance.rendezvous", 0, || balanced(Policy::Rendezvous)),
    Row::new("balance.ip_hash", 0, || balanced(Policy::IpHash)),
    Row::new("balance.bounded", 0, || {
        runs(balance_of_100(BalanceConfig::new(Policy::RING_HASH).max_load(125)).layer(Bare), Sample::new())
    }),
    Row::new("balance.one_sick", 0, || {
        let layer = balance_of_100(BalanceConfig::new(Policy::PeakEwma).panic(50));
        layer.endpoints()[7].withdraw(Absence::Unhealthy);
        runs(layer.layer(Bare), Sample::new())
    }),
    // Each of a hundred gates is asked.
    Row::new("balance.gated", 0, || {
        let layer = balance_of_100(BalanceConfig::new(Policy::LeastRequest)).gated(|_| Arc::new(Open));
        runs(layer.layer(Bare), Sample::new())
    }),
    Row::new("balance.sticky", 0, stuck),
    Row::new("authorize", 0, || {
        let rule = Rule::any([Rule::role("support"), Rule::scope("rides.read")]);
        runs(AuthorizeLayer::new(rule).layer(Bare), Sample::new().from(asha()))
    }),
    Row::new("api_key", 0, || {
        let keys = ApiKeys::new([ApiKey::hashed(ApiKey::hash(KEY), "asha")]);
        runs(ApiKeyLayer::new(ApiKeyConfig::new(keys)).layer(Bare), Sample::new())
    }),
    Row::new("jwt", 0, || {
        let issuer = Issuer::new("one");
        let layer = JwtLayer::new(JwtConfig::new(), Keys::fixed(keys_of(&issuer)));
        runs(layer.layer(Bare), Sample::new().bearer(&issuer.token(CLAIMS)))
    }),
    Row::new("basic_auth", 1, with_a_remembered_password),
    Row::new("forward_auth", 0, with_a_remembered_decision),
    Row::new("version.header", 0, || versioned(Strategy::header(), "/orders/7")),
    Row::new("version.accept", 0, || versioned(Strategy::accept(), "/orders/7")),
    Row::new("version.path_strip", 1, || versioned(Strategy::stripped_path(), "/v2/orders/7")),
    Row::new("split", 0, || split(|layer| layer)),
    Row::new("split.key", 0, || split(|layer| layer.keyed(|_| Some(HashKey::of("asha"))))),
    Row::new("reshape.off", 0, || runs(ReshapeLayer::<()>::off().layer(Bare), Sample::new())),
    Row::new("reshape.passes", 0, || reshaped(false)),
    Row::new("reshape", 1, || reshaped(true)),
    Row::new("idempotency.off", 0, || keyed(&IdempotencyLayer::off())),
    Row::new("idempotency.no_key", 0, || {
        runs(with_body(idempotency().layer(Reader), order), Sample::new().posted())
    }),
    Row::new("retry.off", 0, || {
        asked(with_body(RetryLayer::<()>::off().layer(Reader), order), Sample::new().posted())
    }),
    Row::new("cache.off", 0, || runs(CacheLayer::<()>::off().layer(Bare), Sample::new())),
    Row::new("cache.not_looked_up", 1, || runs(cache().layer(Bare), Sample::new().posted())),
    Row::new("hedge.off", 0, || {
        asked(with_body(HedgeLayer::<()>::off().layer(Reader), order), Sample::new().posted())
    }),
    Row::new("hedge.not_safe", 0, || asked(with_body(hedge().layer(Reader), order), Sample::new().posted())),
    Row::new("fallback.off", 0, || {
        asked(with_body(FallbackLayer::<()>::off().layer(Reader), order), Sample::new().posted())
    }),
    Row::new("fallback.respond", 0, || {
        let usual = FallbackLayer::respond(FallbackConfig::new(), Response::new(Bytes::from(ORDER)));
        asked(with_body(usual.layer(Reader), order), Sample::new().posted())
    }),
    Row::new("mirror.off", 0, || {
        asked(with_body(MirrorLayer::<()>::off().layer(Reader), order), Sample::new().posted())
    }),
    Row::new("mirror.not_copied", 0, || {
        asked(with_body(mirror(Methods::Safe).layer(Reader), order), Sample::new().posted())
    }),
    Row::new("cors.no_origin", 0, || runs(cors().layer(Bare), Sample::new())),
    Row::new("cors.allowed", 0, || runs(cors().layer(Bare), Sample::new().with(ORIGIN, PAGE))),
    Row::new("body_limit.announced", 0, || {
        let length = ORDER.len().to_string();
        runs(
            with_body(body_limit().layer(Reader), order),
            Sample::new().posted().with(CONTENT_LENGTH, &length),
        )
    }),
    Row::new("body_limit.unannounced", 1, || {
        runs(with_body(body_limit().layer(Reader), || OfUnknownSize(order())), Sample::new().posted())
    }),
    Row::new("fault.closed", 0, || runs(faults().layer(Bare), Sample::new())),
    Row::new("fault.no_hit", 0, || runs(faults().layer(Bare), Sample::new().with(FROM, "asha@a.example"))),
    Row::new("stack", 0, stack),
    Row::new("stack.off", 0, stack_of_nothing),
];

/// What costs more, and is not the happy path: at most so many.
const OTHERS: &[Row] = &[
    Row::new("rate_limit.two_drafts", 3, two_limits_with_fields),
    Row::new("version.deprecated", 2, deprecated),
    Row::new("balance.cookie_set", 3, || runs(sticky().layer(Bare), Sample::new())),
    Row::new("idempotency.new_key", 8, with_new_keys),
    Row::new("idempotency.replay", 4, || keyed(&idempotency())),
    Row::new("retry.no_body", 7, || asked(with_body(retry().layer(Reader), Full::default), Sample::new())),
    Row::new("retry", 10, || asked(with_body(retry().layer(Reader), order), Sample::new().posted())),
    Row::new("cache.not_kept", 12, || runs(cache().layer(Bare), Sample::new())),
    Row::new("hedge.no_body", 7, || asked(with_body(hedge().layer(Reader), Full::default), Sample::new())),
    Row::new("fallback.no_body", 6, || {
        asked(with_body(fallback().layer(Reader), Full::default), Sample::new())
    }),
    Row::new("fallback", 9, || asked(with_body(fallback().layer(Reader), order), Sample::new().posted())),
    // Up to its task: there is no runtime here.
    Row::new("mirror.copied", 7, || {
        asked(with_body(mirror(Methods::All).layer(Reader), order), Sample::new().posted())
    }),
    Row::new("jwt.hs256_anew", 40, || {
        let set = KeySet::from_secret(None, SECRET).expect("it is long enough");
        verified_anew(set, |claims| hs256(SECRET, claims))
    }),
    Row::new("jwt.es256_anew", 40, || {
        let issuer = Issuer::new("one");
        verified_anew(keys_of(&issuer), |claims| issuer.token(claims))
    })
    .rarely(),
];

const BARE: &str = "bare";
/// How often a request waits for nothing at all.
const FAST: Window = Window::per_second(1_000_000_000);
const KEY: &str = "a key of somebody who is known";
const SECRET: &[u8] = b"a secret of at least thirty-two bytes";
const CLAIMS: &str =
    r#"{"sub":"asha","exp":4102444800,"scope":"rides.read","roles":["rider"],"tier":"gold"}"#;
/// Of the password `open sesame`.
const PASSWORD: &str =
    "$argon2id$v=19$m=4096,t=2,p=1$c2FsdHNhbHRzYWx0$SvL9pc27qyFeWF/hpm04a+T49mrW8eo1MaIDg0wGN6o";
const ORDER: &str = "{\"rice\":2,\"dal\":1}";
const PAGE: &str = "https://app.example";
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const A_DAY: Duration = Duration::from_hours(24);

fn rate(quota: impl Into<Quota>) -> RateLimitConfig {
    RateLimitConfig::new(quota)
}

fn windows() -> Quota {
    let a_day = Window::new(NonZeroU32::MAX, A_DAY);
    let all = [FAST, Window::per_minute(u32::MAX), Window::per_hour(u32::MAX), a_day];
    Quota::new(&all).expect("four are allowed")
}

fn by_client(head: &Head<'_>) -> Option<Key> {
    ClientAddr::of(head.extensions).map(Key::of_client)
}

fn limited(config: RateLimitConfig) -> Runs {
    runs(RateLimitLayer::new(config, by_client).layer(Bare), Sample::new())
}

fn leased() -> Runs {
    let store = SharedStore::new(Arc::new(InMemory::new()), Duration::from_secs(1));
    let layer = RateLimitLayer::new(rate(FAST), by_client).shared(&Sharing::new(store, 50).lease(1_000_000));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let mut runs = runs(layer.layer(Bare), Sample::new());
    Box::new(move |calls| {
        let _asked = runtime.enter(); // Whoever asks has a timeout.
        runs(calls);
    })
}

fn limited_by_cost_and_tier() -> Runs {
    let by_subject = |head: &Head<'_>| Identity::of(head.extensions)?.subject.as_ref().map(Key::of);
    let config = rate(FAST).tiers([Factor::ONE, Factor::percent(500)]);
    let layer = RateLimitLayer::new(config, by_subject)
        .cost_by(|head| if head.uri.path() == "/report" { 10 } else { 1 })
        .tier_by(|head| Identity::of(head.extensions).map(|who| usize::from(!who.roles.is_empty())));
    runs(layer.layer(Bare), Sample::new().from(asha()))
}

fn two_limits_with_fields() -> Runs {
    let one = || RateLimitLayer::new(rate(FAST).fields(Fields::Draft), by_client);
    let both = RateLimitLayer::from_iter([one(), one()]);
    runs(both.layer(Bare), Sample::new())
}

fn room() -> BulkheadConfig {
    BulkheadConfig::new(64)
}

fn breaker(config: CircuitBreakerConfig) -> Runs {
    runs(CircuitBreakerLayer::new(config).layer(Bare), Sample::new())
}

fn timeout() -> TimeoutLayer {
    TimeoutLayer::new(Duration::from_secs(30))
}

fn balance() -> BalanceLayer {
    BalanceLayer::new(["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"])
}

/// Each row of balancing but the first has so many endpoints.
fn balance_of_100(config: BalanceConfig) -> BalanceLayer {
    let targets = (0..100).map(|number| Target::new(format!("10.0.0.{number}:80")));
    BalanceLayer::with_config(config, targets).hash_by(|head| head.headers.get("x-api-key").map(HashKey::of))
}

fn balanced(policy: Policy) -> Runs {
    runs(balance_of_100(BalanceConfig::new(policy)).layer(Bare), Sample::new())
}

/// A gate that never closes.
#[derive(Debug)]
struct Open;

impl gate::Gate for Open {
    fn availability(&self, _: Now) -> Availability {
        Availability::Ready
    }

    fn enter(&self, _: Now) -> Option<Ticket> {
        Some(Ticket(0))
    }

    fn leave(&self, _: Ticket, _: &Passage) {}
}

fn sticky() -> BalanceLayer {
    let cookie = Sticky::new("endpoint", SECRET).expect("the name of a cookie");
    balance_of_100(BalanceConfig::default().sticky(cookie))
}

/// With the cookie that the first request was given.
fn stuck() -> Runs {
    let mut service = sticky().layer(Bare);
    let mut first = pin!(service.call(Sample::new().request(Now::read())));
    let Poll::Ready(Ok(response)) = first.as_mut().poll(&mut TaskContext::from_waker(Waker::noop())) else {
        panic!("it answers at once");
    };
    let cookie = response.headers()[SET_COOKIE].to_str().expect("visible ASCII");
    let cookie = cookie.split(';').next().unwrap_or_default().to_owned();
    runs(service, Sample::new().with(COOKIE, &cookie))
}

fn asha() -> Identity {
    let mut asha = Identity::new(Scheme::Jwt, Some("asha".into()));
    asha.scopes.push("rides.read".into());
    asha.roles.push("rider".into());
    asha
}

fn keys_of(issuer: &Issuer) -> KeySet {
    KeySet::from_jwks(issuer.jwks().as_bytes()).expect("a set of keys")
}

/// Each token is new to the keys.
fn verified_anew(keys: KeySet, token: impl Fn(&str) -> String) -> Runs {
    let subject = |number: usize| CLAIMS.replace("asha", &format!("asha-{number}"));
    anew(
        move || JwtLayer::new(JwtConfig::new(), Keys::fixed(keys.clone())).layer(Bare),
        |number| Sample::new().bearer(&token(&subject(number))),
    )
}

fn idempotency() -> IdempotencyLayer {
    IdempotencyLayer::new(IdempotencyConfig::new())
}

/// Each key is new to the store.
fn with_new_keys() -> Runs {
    anew(
        || with_body(idempotency().layer(Reader), order),
        |number| Sample::new().posted().with(IDEMPOTENCY_KEY, &format!("key-{number}")),
    )
}

/// The same request with the same key; the first is answered before.
fn keyed(layer: &IdempotencyLayer) -> Runs {
    let sample = Sample::new().posted().with(IDEMPOTENCY_KEY, "key-7");
    asked(with_body(layer.layer(Reader), order), sample)
}

fn cache() -> CacheLayer {
    CacheLayer::new(CacheConfig::new())
}

fn hedge() -> HedgeLayer {
    let config = HedgeConfig::new(After::percentile(95));
    HedgeLayer::new(config, Budget::new(BudgetConfig::new(), Now::read()))
}

fn retry() -> RetryLayer {
    RetryLayer::new(RetryConfig::new(1), Budget::new(BudgetConfig::new(), Now::read()))
}

fn fallback() -> FallbackLayer {
    let answers = service_fn(|_: Request<AnyBody>| ready(Ok::<_, Infallible>(Response::new(order()))));
    let budget = Budget::new(BudgetConfig::new(), Now::read());
    FallbackLayer::alternate(FallbackConfig::new(), budget, answers)
}

fn mirror(methods: Methods) -> MirrorLayer {
    let answers = service_fn(|_: Request<Bytes>| ready(Ok::<_, Infallible>(Response::new(order()))));
    MirrorLayer::new(MirrorConfig::new().methods(methods), answers)
}

fn cors() -> CorsLayer {
    CorsLayer::new(CorsConfig::origins([PAGE]).credentials().check().expect("a configuration"))
}

fn body_limit() -> BodyLimitLayer {
    BodyLimitLayer::new(1 << 20)
}

/// Of those that pass the gate none is hit.
fn faults() -> FaultLayer {
    let config = FaultConfig::new(Gate::header(FROM)).delay(0, A_DAY).expect("a share");
    FaultLayer::new(config.abort(0, StatusCode::SERVICE_UNAVAILABLE).expect("a share").enabled(true))
}

fn order() -> Full<Bytes> {
    Full::from(ORDER)
}

/// A body that says nothing of its size, as one in chunks.
struct OfUnknownSize(Full<Bytes>);

impl Body for OfUnknownSize {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Pin::new(&mut self.0).poll_frame(cx)
    }
}

fn with_a_remembered_password() -> Runs {
    let users = Users::new([User::new("asha", PASSWORD).expect("a hash")]);
    let mut config = BasicAuthConfig::new(users);
    config.remember = A_DAY;
    let service = BasicAuthLayer::new(config).layer(Bare);
    asked(service, Sample::new().authorization("Basic YXNoYTpvcGVuIHNlc2FtZQ=="))
}

fn with_a_remembered_decision() -> Runs {
    let decides = service_fn(|_: Request<()>| {
        let yes = Response::builder().header("x-user", "asha").body(Bytes::new());
        ready(Ok::<_, Infallible>(yes.expect("a response")))
    });
    let mut config = ForwardAuthConfig::new();
    config.copy = vec![HeaderName::from_static("x-user")];
    config.subject = config.copy.first().cloned();
    config.remember = Some(Remember { by: vec![AUTHORIZATION], ttl: A_DAY });
    asked(ForwardAuthLayer::new(config, decides).layer(Bare), Sample::new())
}

fn versioned(strategy: Strategy, target: &'static str) -> Runs {
    let config = VersionConfig::new([Version::new("1"), Version::new("2")]).default_version("1");
    let checked = config.strategies([strategy]).check().expect("a configuration");
    runs(VersionLayer::new(checked).layer(Bare), Sample::new().at(target))
}

fn deprecated() -> Runs {
    let old = Version::new("1").deprecated(1).sunset(4_102_444_800).successor("2").docs("https://a.example/");
    let checked = VersionConfig::new([old, Version::new("2")]).strategies([Strategy::path()]).check();
    let layer = VersionLayer::new(checked.expect("a configuration"));
    runs(layer.layer(Bare), Sample::new().at("/v1/orders/7"))
}

/// With a pin that is looked at, and a guard that counts.
fn split(keyed: impl Fn(SplitLayer) -> SplitLayer) -> Runs {
    let config = SplitConfig::new([("old", 95), ("new", 5)]).guard(Guard::new(100));
    let config = config.pin(ToArm::header(FROM, HeaderValue::from_static("us"), "new"));
    runs(keyed(SplitLayer::new(config.check().expect("a configuration"))).layer(Bare), Sample::new())
}

fn reshaped(is_wanted: bool) -> Runs {
    let layer =
        ReshapeLayer::new(ReshapeConfig::new(), move |_| is_wanted, |body: &Bytes| Ok(body.slice(..1)));
    runs(layer.layer(Bare), Sample::new())
}

fn stack() -> Runs {
    let all = ServiceBuilder::new()
        .layer(ProblemLayer::new())
        .layer(RateLimitLayer::new(rate(FAST), by_client))
        .layer(BulkheadLayer::new(room()))
        .layer(timeout())
        .layer(BulkheadLayer::new(room()))
        .layer(balance());
    runs(all.service(Bare), Sample::new())
}

fn stack_of_nothing() -> Runs {
    let off = ServiceBuilder::new()
        .layer(ProblemLayer::new())
        .layer(RateLimitLayer::<()>::off())
        .layer(BulkheadLayer::<()>::off())
        .layer(TimeoutLayer::off())
        .layer(BulkheadLayer::<()>::off())
        .layer(BalanceLayer::<()>::off());
    runs(off.service(Bare), Sample::new())
}

/// One layer in one configuration.
struct Row {
    name: &'static str,
    /// How many allocations a request may cost, over the bare service.
    allocates: usize,
    make: fn() -> Runs,
    /// It is measured by one request where others are by so many.
    share: u32,
}

/// Makes so many requests.
type Runs = Box<dyn FnMut(u32)>;

impl Row {
    const fn new(name: &'static str, allocates: usize, make: fn() -> Runs) -> Self {
        Self { name, allocates, make, share: 1 }
    }

    const fn rarely(mut self) -> Self {
        self.share = 50;
        self
    }

    fn all() -> impl Iterator<Item = &'static Self> {
        HAPPY.iter().chain(OTHERS)
    }
}

/// What requests are made of.
struct Sample {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    identity: Option<Arc<Identity>>,
}

impl Sample {
    /// As many headers for each row, so that a request costs the same.
    fn new() -> Self {
        let mut headers = HeaderMap::new();
        let accept = "application/vnd.acme.v2+json, application/json;q=0.9";
        headers.insert(HOST, HeaderValue::from_static("api.example"));
        headers.insert(ACCEPT, HeaderValue::from_static(accept));
        headers.insert("x-api-key", HeaderValue::from_static(KEY));
        headers.insert("x-api-version", HeaderValue::from_static("2"));
        let (method, uri) = (Method::GET, Uri::from_static("/orders/7"));
        Self { method, uri, headers, identity: None }.authorization("Bearer abc")
    }

    fn authorization(mut self, value: &str) -> Self {
        self.headers.insert(AUTHORIZATION, HeaderValue::from_str(value).expect("visible ASCII"));
        self
    }

    fn bearer(self, token: &str) -> Self {
        self.authorization(&format!("Bearer {token}"))
    }

    /// In place of the version, so that there are as many.
    fn with(mut self, name: HeaderName, value: &str) -> Self {
        self.headers.remove("x-api-version");
        self.headers.insert(name, HeaderValue::from_str(value).expect("visible ASCII"));
        self
    }

    fn posted(mut self) -> Self {
        self.method = Method::POST;
        self
    }

    fn at(mut self, target: &'static str) -> Self {
        self.uri = Uri::from_static(target);
        self
    }

    fn from(mut self, identity: Identity) -> Self {
        self.identity = Some(Arc::new(identity));
        self
    }

    fn request(&self, now: Now) -> Request<()> {
        let mut request = Request::new(());
        request.method_mut().clone_from(&self.method);
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = HeaderMap::with_capacity(6); // A clone would have room for no more.
        request.headers_mut().extend(self.headers.iter().map(|(name, value)| (name.clone(), value.clone())));
        let mut context = Context::new(now).with_client(IpAddr::V4(Ipv4Addr::LOCALHOST));
        context.identity.clone_from(&self.identity);
        request.extensions_mut().insert(context);
        request
    }
}

/// The service that every row stands over.
#[derive(Clone)]
struct Bare;

impl<B> Service<Request<B>> for Bare {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut TaskContext<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        black_box(&request);
        let mut response = Response::new(Full::from("{\"fine\":true}"));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        ready(Ok(response))
    }
}

/// The same, after it has read the body of the request, which is all there.
#[derive(Clone)]
struct Reader;

impl<B: Body> Service<Request<B>> for Reader {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut TaskContext<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        read(request.into_body());
        Bare.call(Request::new(()))
    }
}

/// Requests of the service have this body.
fn with_body<S, Q>(
    service: S,
    body: fn() -> Q,
) -> MapRequest<S, impl FnMut(Request<()>) -> Request<Q> + Clone>
where
    S: Service<Request<Q>>,
{
    service.map_request(move |request: Request<()>| request.map(|()| body()))
}

fn runs<S, B>(mut service: S, sample: Sample) -> Runs
where
    S: Service<Request<()>, Response = Response<B>, Error = Infallible> + 'static,
    B: Body<Data = Bytes>,
{
    Box::new(move |calls| {
        let now = Now::read(); // Once a round: in a stack of ours it is read once a request.
        (0..calls).for_each(|_| call(&mut service, &sample, now));
    })
}

/// The same, after a first request for which something has to be asked that is remembered then.
fn asked<S, B>(service: S, sample: Sample) -> Runs
where
    S: Service<Request<()>, Response = Response<B>, Error = Infallible> + Clone + 'static,
    B: Body<Data = Bytes>,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let Ok(response) = runtime.block_on(service.clone().oneshot(sample.request(Now::read())));
    assert!(response.status().is_success(), "{}", response.status());
    runs(service, sample)
}

/// Each request is new to the service: that is made anew before any comes again, which is in the count.
fn anew<S, B>(make: impl Fn() -> S + 'static, sample: impl Fn(usize) -> Sample) -> Runs
where
    S: Service<Request<()>, Response = Response<B>, Error = Infallible>,
    B: Body<Data = Bytes>,
{
    let samples = (0..64).map(sample).collect::<Vec<_>>();
    Box::new(move |calls| {
        let now = Now::read();
        let mut samples = samples.iter().cycle();
        let mut left = calls;
        while left > 0 {
            let some = left.min(64);
            let mut service = make();
            samples.by_ref().take(some as usize).for_each(|sample| call(&mut service, sample, now));
            left -= some;
        }
    })
}

/// One request up to the end of its response body. Nothing here ever waits, and nothing is refused.
fn call<S, B>(service: &mut S, sample: &Sample, now: Now)
where
    S: Service<Request<()>, Response = Response<B>, Error = Infallible>,
    B: Body<Data = Bytes>,
{
    let mut cx = TaskContext::from_waker(Waker::noop());
    assert!(service.poll_ready(&mut cx).is_ready());
    let Poll::Ready(Ok(response)) = pin!(service.call(sample.request(now))).poll(&mut cx) else {
        panic!("the service answers at once")
    };
    assert!(response.status().is_success(), "{}", response.status());
    read(response.into_body());
}

fn read(body: impl Body) {
    let mut cx = TaskContext::from_waker(Waker::noop());
    let mut body = pin!(body);
    while let Poll::Ready(Some(frame)) = body.as_mut().poll_frame(&mut cx) {
        let _ = black_box(frame);
    }
}

fn main() -> ExitCode {
    let args = std::env::args().collect::<Vec<_>>();
    let is_told = |word: &str| args.iter().any(|arg| arg == word);
    let value = |word: &str| args.iter().skip_while(|arg| *arg != word).nth(1);
    let requests = value("--requests").and_then(|number| number.parse().ok()).unwrap_or(1000);
    if is_told("--instructions") {
        return instructions(requests);
    }
    if is_told("--only") {
        return only(value("--only").map_or("", |name| name), requests);
    }
    // `cargo test --bench layers` runs this too, without `--bench`: then only the allocations count.
    let (rounds, calls) = match (is_told("--bench"), is_told("--quick")) {
        (true, false) => (201, 5000),
        (true, true) => (21, 1000),
        (false, _) => (3, 200),
    };
    let mut variants = Row::all().map(Variant::new).collect::<Vec<_>>();
    for round in 0..=rounds {
        for variant in &mut variants {
            variant.measure(calls);
            if round == 0 {
                variant.forget(); // Now keys are known, pages are there.
            }
        }
    }
    println!("{rounds} rounds of {calls} requests each, in turn; the median of what is over `{BARE}`");
    report(&variants)
}

/// One row, and what was measured of it.
struct Variant {
    row: &'static Row,
    run: Runs,
    /// Nanoseconds for each request, by rounds.
    rounds: Vec<f64>,
    requests: usize,
    allocations: usize,
}

impl Variant {
    fn new(row: &'static Row) -> Self {
        Self { row, run: (row.make)(), rounds: Vec::with_capacity(1000), requests: 0, allocations: 0 }
    }

    fn measure(&mut self, calls: u32) {
        let calls = (calls / self.row.share).max(1);
        let (region, start) = (Region::new(ALLOCATOR), Now::read());
        (self.run)(calls);
        let (took, change) = (start.elapsed(), region.change());
        self.rounds.push(took.as_secs_f64() * 1e9 / f64::from(calls));
        self.requests += calls as usize;
        self.allocations += change.allocations + change.reallocations;
    }

    fn forget(&mut self) {
        self.rounds.clear();
        (self.requests, self.allocations) = (0, 0);
    }

    /// Of each request.
    fn allocates(&self) -> usize {
        self.allocations / self.requests
    }

    /// The median over all rounds, each with the bare service's of the same round.
    fn median(&self, bare: &Self, of: impl Fn(f64, f64) -> f64) -> f64 {
        let mut all =
            self.rounds.iter().zip(&bare.rounds).map(|(it, bare)| of(*it, *bare)).collect::<Vec<_>>();
        all.sort_unstable_by(f64::total_cmp);
        all[all.len() / 2]
    }
}

/// Says what was measured; fails if a row allocates what it should not.
fn report(variants: &[Variant]) -> ExitCode {
    let bare = &variants[0];
    let mut code = ExitCode::SUCCESS;
    for (place, variant) in variants.iter().enumerate() {
        if place == 0 || place == HAPPY.len() {
            println!("{:<24} {:>10} {:>10} {:>12}", heading(place), "ns", "ratio", "allocations");
        }
        let over = if place == 0 { 0.0 } else { 1.0 };
        let ns = variant.median(bare, |it, bare| it - bare * over);
        let ratio = variant.median(bare, |it, bare| it / bare);
        let (made, expected) = (variant.allocates() - bare.allocates(), variant.row.allocates);
        println!("{:<24} {ns:>10.0} {ratio:>10.2} {made:>12}", variant.row.name);
        let is_right = if place < HAPPY.len() { made == expected && made <= 1 } else { made <= expected };
        if !is_right {
            println!("  but its row says {expected}");
            code = ExitCode::FAILURE;
        }
    }
    code
}

const fn heading(place: usize) -> &'static str {
    if place == 0 { "" } else { "not the happy path" }
}

/// So many requests through one row. The first of all is made before, and once more.
fn only(name: &str, requests: u32) -> ExitCode {
    let Some(row) = Row::all().find(|row| row.name == name) else {
        eprintln!("no such row; there are {}", Row::all().map(|row| row.name).collect::<Vec<_>>().join(" "));
        return ExitCode::from(2);
    };
    let mut run = (row.make)();
    run(1);
    run(requests);
    ExitCode::SUCCESS
}

/// Runs each row under callgrind, with so many requests and with twice as many.
fn instructions(requests: u32) -> ExitCode {
    if !is_here("valgrind") {
        return ExitCode::SUCCESS;
    }
    if cfg!(debug_assertions) {
        println!("not optimised: say `cargo bench`");
    }
    println!("instructions of a request, over those of `{BARE}`; from {requests} requests and twice as many");
    let mut bare = 0.0;
    for (place, row) in Row::all().enumerate() {
        if place == HAPPY.len() {
            println!("{}", heading(place));
        }
        let requests = (requests / row.share).max(1);
        let counted = (counted(row.name, requests), counted(row.name, requests * 2));
        let (Some(once), Some(twice)) = counted else {
            println!("{:<24} valgrind has failed", row.name);
            return ExitCode::FAILURE;
        };
        let each = (twice - once) / f64::from(requests);
        println!("{:<24} {:>10.0}", row.name, each - bare);
        if row.name == BARE {
            bare = each;
        }
    }
    ExitCode::SUCCESS
}

fn counted(name: &str, requests: u32) -> Option<f64> {
    let folder = tempfile::tempdir().ok()?;
    let counts = folder.path().join("counts");
    let mut command = Counter::Callgrind(&counts).command(&std::env::current_exe().ok()?);
    let ended = command.args(["--only", name, "--requests", &requests.to_string()]).status().ok()?;
    ended.success().then(|| counters::instructions(&counts))
}
