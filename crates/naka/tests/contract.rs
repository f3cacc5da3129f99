//! Every layer keeps the laws of the contract suite.
#![allow(clippy::unwrap_used, reason = "a test may")]

use std::{
    future::ready,
    sync::{Arc, LazyLock},
    time::Duration,
};

use argon2::{Argon2, Params, password_hash::PasswordHasher as _};
use bytes::Bytes;
use http::{
    HeaderName, HeaderValue, Method, Request, Response,
    header::{AUTHORIZATION, FROM, ORIGIN},
    request::Parts,
};
use http_body_util::Full;
use naka::{
    BoxError,
    api_key::{ApiKey, ApiKeyAuth, ApiKeyConfig, ApiKeyLayer, ApiKeys},
    authorize::{Authorize, AuthorizeLayer, Rule},
    balance::{Balance, BalanceConfig, BalanceLayer, HashKey, InFlight, Policy, SlowStart, Sticky, Target},
    basic_auth::{BasicAuth, BasicAuthConfig, BasicAuthLayer, User, Users},
    body_limit::{BodyLimit, BodyLimitLayer},
    bulkhead::{Adaptive, Bulkhead, BulkheadConfig, BulkheadLayer, Permit, Share},
    cache::{Cache, CacheBody, CacheConfig, CacheLayer},
    circuit_breaker::{Breaker, CircuitBreaker, CircuitBreakerConfig, CircuitBreakerLayer, Pass},
    clock::Now,
    cors::{Cors, CorsConfig, CorsLayer},
    enforce::Enforce,
    fallback::{AnyBody, Fallback, FallbackBody, FallbackConfig, FallbackLayer},
    fault::{FaultConfig, FaultLayer, Faults, Gate},
    forward_auth::{ForwardAuth, ForwardAuthConfig, ForwardAuthLayer, Remember},
    guard::Guarded,
    hedge::{After, Hedge, HedgeConfig, HedgeLayer},
    idempotency::{Idempotency, IdempotencyBody, IdempotencyConfig, IdempotencyLayer},
    jwt::{Jwt, JwtConfig, JwtLayer, KeySet, Keys},
    key::Key,
    mirror::{Mirror, MirrorConfig, MirrorLayer},
    rate_limit::{
        Algorithm, Factor, Fields, Quota, RateLimit, RateLimitConfig, RateLimitLayer, Window,
        shared::{InMemory, SharedStore, Sharing},
    },
    reshape::{Reshape, ReshapeBody, ReshapeConfig, ReshapeLayer},
    retry::{Budget, BudgetConfig, Retry, RetryConfig, RetryLayer},
    split::{Guard, OfArm, Split, SplitConfig, SplitLayer},
    timeout::{Timeout, TimeoutBody, TimeoutLayer},
    version::{Version, VersionConfig, VersionLayer, Versioned},
};
use naka_testkit::{
    contract::{ADMITS, Dressed, Probe, Subject, check},
    token::hs256,
};
use tower::service_fn;

type Answer = Full<Bytes>;

fn admits() -> u32 {
    u32::try_from(ADMITS).unwrap()
}

struct OneLimit;

impl Subject for OneLimit {
    type Layer = RateLimitLayer;
    type Service = RateLimit<Probe>;
    type Body = Answer;

    fn fresh(&self) -> RateLimitLayer {
        let quota = Quota::new(&[Window::per_minute(admits()), Window::per_hour(100)]).unwrap();
        RateLimitLayer::new(RateLimitConfig::new(quota), |_| Some(Key::of("everybody")))
    }

    fn off(&self) -> RateLimitLayer {
        RateLimitLayer::off()
    }
}

struct SeveralLimits;

impl Subject for SeveralLimits {
    type Layer = RateLimitLayer;
    type Service = RateLimit<Probe>;
    type Body = Answer;

    /// Now the one refuses, now the other.
    fn fresh(&self) -> RateLimitLayer {
        let limit =
            |window| RateLimitLayer::new(RateLimitConfig::new(window), |_| Some(Key::of("everybody")));
        [limit(Window::per_minute(admits())), limit(Window::per_hour(100))].into_iter().collect()
    }

    fn off(&self) -> RateLimitLayer {
        RateLimitLayer::off()
    }
}

struct SharedLimit;

impl Subject for SharedLimit {
    type Layer = RateLimitLayer;
    type Service = RateLimit<Probe>;
    type Body = Answer;

    /// Beside one that is not.
    fn fresh(&self) -> RateLimitLayer {
        let store = SharedStore::new(Arc::new(InMemory::new()), Duration::from_millis(50));
        let limit =
            |window| RateLimitLayer::new(RateLimitConfig::new(window), |_| Some(Key::of("everybody")));
        let shared = limit(Window::per_minute(admits())).shared(&Sharing::new(store, 50).lease(2));
        [shared, limit(Window::per_hour(100))].into_iter().collect()
    }

    fn off(&self) -> RateLimitLayer {
        RateLimitLayer::off()
    }
}

struct ShareOfALimit;

impl Subject for ShareOfALimit {
    type Layer = RateLimitLayer;
    type Service = RateLimit<Probe>;
    type Body = Answer;

    /// A share of all, without a key.
    fn fresh(&self) -> RateLimitLayer {
        let config = RateLimitConfig::new(Window::per_minute(admits())).enforce(Enforce::Percent(100));
        RateLimitLayer::new(config, |_| None)
    }

    fn off(&self) -> RateLimitLayer {
        RateLimitLayer::off()
    }
}

struct SlidingWindowsOfATier;

impl Subject for SlidingWindowsOfATier {
    type Layer = RateLimitLayer;
    type Service = RateLimit<Probe>;
    type Body = Answer;

    /// Half of a quota of requests that cost two, and the client is told.
    fn fresh(&self) -> RateLimitLayer {
        let quota = Quota::new(&[Window::per_minute(admits() * 4), Window::per_hour(400)]).unwrap();
        let config = RateLimitConfig::new(quota).algorithm(Algorithm::SlidingWindow);
        let config = config.tiers([Factor::percent(50)]).fields(Fields::Draft);
        RateLimitLayer::new(config, |_| Some(Key::of("everybody"))).cost_by(|_| 2).tier_by(|_| Some(0))
    }

    fn off(&self) -> RateLimitLayer {
        RateLimitLayer::off()
    }
}

struct ABulkhead;

impl Subject for ABulkhead {
    type Layer = BulkheadLayer;
    type Service = Bulkhead<Probe>;
    type Body = Guarded<Answer, Permit>;

    fn fresh(&self) -> BulkheadLayer {
        BulkheadLayer::new(BulkheadConfig::new(admits()))
    }

    fn off(&self) -> BulkheadLayer {
        BulkheadLayer::off()
    }

    fn held(&self, layer: &BulkheadLayer) -> usize {
        let counts = layer.counts();
        (counts.working + counts.waiting) as usize
    }
}

/// Another shape of a bulkhead that lets as many pass.
struct OtherBulkhead(fn() -> BulkheadLayer);

impl Subject for OtherBulkhead {
    type Layer = BulkheadLayer;
    type Service = Bulkhead<Probe>;
    type Body = Guarded<Answer, Permit>;

    fn fresh(&self) -> BulkheadLayer {
        (self.0)()
    }

    fn off(&self) -> BulkheadLayer {
        BulkheadLayer::off()
    }

    fn held(&self, layer: &BulkheadLayer) -> usize {
        let counts = layer.counts();
        (counts.working + counts.waiting) as usize + layer.partitions()
    }
}

/// Half open, with as many places for probes as the suite wants to have; they are never enough to close it.
struct ACircuitBreaker {
    is_keyed: bool,
}

impl Subject for ACircuitBreaker {
    type Layer = CircuitBreakerLayer;
    type Service = CircuitBreaker<Probe>;
    type Body = Guarded<Answer, Pass>;

    fn fresh(&self) -> CircuitBreakerLayer {
        let config = CircuitBreakerConfig::new().probes(u8::try_from(ADMITS).unwrap(), 15);
        let config = config.probe_timeout(Duration::from_hours(24));
        let layer = if self.is_keyed {
            CircuitBreakerLayer::keyed(config, |_| Some(Key::of("everybody")))
        } else {
            CircuitBreakerLayer::new(config)
        };
        let breaker = breaker(&layer);
        breaker.force_open();
        breaker.release();
        layer
    }

    fn off(&self) -> CircuitBreakerLayer {
        CircuitBreakerLayer::off()
    }

    fn held(&self, layer: &CircuitBreakerLayer) -> usize {
        breaker(layer).snapshot(Now::read()).probes as usize
    }
}

fn breaker(layer: &CircuitBreakerLayer) -> Breaker {
    layer.breaker_of(Key::of("everybody")).or_else(|| layer.breaker()).unwrap()
}

/// What it refuses depends on who asks, and the suite is always the same: it only lets pass.
struct AnAuthorization;

impl Subject for AnAuthorization {
    type Layer = AuthorizeLayer;
    type Service = Authorize<Probe>;
    type Body = Answer;

    fn fresh(&self) -> AuthorizeLayer {
        AuthorizeLayer::new(Rule::Method(Method::GET))
    }

    fn off(&self) -> AuthorizeLayer {
        AuthorizeLayer::off()
    }

    fn refuses(&self) -> bool {
        false
    }
}

struct ATimeout;

impl Subject for ATimeout {
    type Layer = TimeoutLayer;
    type Service = Timeout<Probe>;
    type Body = TimeoutBody<Answer>;

    fn fresh(&self) -> TimeoutLayer {
        TimeoutLayer::new(Duration::from_secs(1))
    }

    fn off(&self) -> TimeoutLayer {
        TimeoutLayer::off()
    }

    fn refuses(&self) -> bool {
        false
    }
}

/// The suite's answers do not say that they may be kept.
struct ACache;

impl Subject for ACache {
    type Layer = CacheLayer;
    type Service = Cache<Probe>;
    type Body = CacheBody<Answer>;

    fn fresh(&self) -> CacheLayer {
        CacheLayer::new(CacheConfig::new())
    }

    fn off(&self) -> CacheLayer {
        CacheLayer::off()
    }

    fn refuses(&self) -> bool {
        false
    }
}

/// The suite's answers come at once.
struct AHedge;

impl Subject for AHedge {
    type Layer = Dressed<HedgeLayer>;
    type Service = Dressed<Hedge<Probe>>;
    type Body = Answer;

    fn fresh(&self) -> Self::Layer {
        let budget = Budget::new(BudgetConfig::new(), Now::read());
        let config = HedgeConfig::new(After::percentile(95));
        Dressed::new(HedgeLayer::new(config, budget), |_, _| {})
    }

    fn off(&self) -> Self::Layer {
        Dressed::new(HedgeLayer::off(), |_, _| {})
    }

    fn refuses(&self) -> bool {
        false
    }
}

/// The suite's answers are none that are tried again.
struct ARetry;

impl Subject for ARetry {
    type Layer = Dressed<RetryLayer>;
    type Service = Dressed<Retry<Probe>>;
    type Body = Answer;

    fn fresh(&self) -> Self::Layer {
        let budget = Budget::new(BudgetConfig::new(), Now::read());
        Dressed::new(RetryLayer::new(RetryConfig::new(1), budget), |_, _| {})
    }

    fn off(&self) -> Self::Layer {
        Dressed::new(RetryLayer::off(), |_, _| {})
    }

    fn refuses(&self) -> bool {
        false
    }
}

/// The suite's answers are no failures, and its refusals are of none.
struct AFallback;

impl Subject for AFallback {
    type Layer = Dressed<FallbackLayer>;
    type Service = Dressed<Fallback<Probe>>;
    type Body = FallbackBody<Answer>;

    fn fresh(&self) -> Self::Layer {
        let budget = Budget::new(BudgetConfig::new(), Now::read());
        let alternate = service_fn(|_: Request<AnyBody>| {
            ready(Ok::<_, std::convert::Infallible>(Response::new(Full::<Bytes>::default())))
        });
        Dressed::new(FallbackLayer::alternate(FallbackConfig::new(), budget, alternate), |_, _| {})
    }

    fn off(&self) -> Self::Layer {
        Dressed::new(FallbackLayer::off(), |_, _| {})
    }

    fn refuses(&self) -> bool {
        false
    }
}

/// Each of the suite's requests has a body, which its probe does not read.
struct AMirror;

impl Subject for AMirror {
    type Layer = Dressed<MirrorLayer>;
    type Service = Dressed<Mirror<Probe>>;
    type Body = Answer;

    fn fresh(&self) -> Self::Layer {
        let hangs = service_fn(|_: Request<Bytes>| std::future::pending::<Result<Response<Answer>, ()>>());
        Dressed::new(MirrorLayer::new(MirrorConfig::new().sample(50), hangs), |_, _| {})
    }

    fn off(&self) -> Self::Layer {
        Dressed::new(MirrorLayer::off(), |_, _| {})
    }

    fn held(&self, layer: &Self::Layer) -> usize {
        layer.layer.under_way()
    }

    fn refuses(&self) -> bool {
        false
    }
}

/// The suite never says which version it means: it only gets the default.
struct AVersion;

impl Subject for AVersion {
    type Layer = VersionLayer;
    type Service = Versioned<Probe>;
    type Body = Answer;

    fn fresh(&self) -> VersionLayer {
        let versions = [Version::new("1").successor("2"), Version::new("2")];
        VersionLayer::new(VersionConfig::new(versions).default_version("1").check().unwrap())
    }

    fn off(&self) -> VersionLayer {
        VersionLayer::off()
    }

    fn refuses(&self) -> bool {
        false
    }
}

/// By turn: what is explained is the turn that comes next.
struct ASplit;

impl Subject for ASplit {
    type Layer = SplitLayer;
    type Service = Split<Probe>;
    type Body = Guarded<Answer, OfArm>;

    fn fresh(&self) -> SplitLayer {
        let config = SplitConfig::new([("old", 2), ("new", 1)]).guard(Guard::new(100).min_requests(1));
        SplitLayer::new(config.check().unwrap())
    }

    fn off(&self) -> SplitLayer {
        SplitLayer::off()
    }

    fn refuses(&self) -> bool {
        false
    }
}

/// The suite's answers have no content type: they pass as they are.
struct AReshape;

impl Subject for AReshape {
    type Layer = ReshapeLayer;
    type Service = Reshape<Probe>;
    type Body = ReshapeBody<Answer>;

    fn fresh(&self) -> ReshapeLayer {
        ReshapeLayer::new(ReshapeConfig::new(), |_| true, |_| Err("never asked".into()))
    }

    fn off(&self) -> ReshapeLayer {
        ReshapeLayer::off()
    }

    fn refuses(&self) -> bool {
        false
    }
}

/// It only refuses preflights, and the suite has none: it only lets pass.
struct ACors;

impl Subject for ACors {
    type Layer = Dressed<CorsLayer>;
    type Service = Dressed<Cors<Probe>>;
    type Body = Answer;

    fn fresh(&self) -> Self::Layer {
        let rules = CorsConfig::origins(["https://app.example"]).check().unwrap();
        Dressed::new(CorsLayer::new(rules), from_a_page)
    }

    fn off(&self) -> Self::Layer {
        Dressed::new(CorsLayer::off(), from_a_page)
    }

    fn refuses(&self) -> bool {
        false
    }
}

fn from_a_page(head: &mut Parts, _: usize) {
    head.headers.insert(ORIGIN, HeaderValue::from_static("https://app.example"));
}

/// What it refuses depends on the body, and the suite's is always the same: it only lets pass.
struct ABodyLimit;

impl Subject for ABodyLimit {
    type Layer = Dressed<BodyLimitLayer>;
    type Service = Dressed<BodyLimit<Probe>>;
    type Body = Answer;

    fn fresh(&self) -> Self::Layer {
        Dressed::new(BodyLimitLayer::new(100), |_, _| {})
    }

    fn off(&self) -> Self::Layer {
        Dressed::new(BodyLimitLayer::off(), |_, _| {})
    }

    fn refuses(&self) -> bool {
        false
    }
}

/// Its share of refusals is not the suite's three and then one: it only delays.
struct Late;

impl Subject for Late {
    type Layer = Dressed<FaultLayer>;
    type Service = Dressed<Faults<Probe>>;
    type Body = Answer;

    fn fresh(&self) -> Self::Layer {
        let config = FaultConfig::new(Gate::header(FROM)).delay(100, Duration::from_secs(5)).unwrap();
        Dressed::new(FaultLayer::new(config.enabled(true)), from_somebody)
    }

    fn off(&self) -> Self::Layer {
        Dressed::new(FaultLayer::off(), from_somebody)
    }

    fn held(&self, layer: &Self::Layer) -> usize {
        layer.layer.delayed()
    }

    fn refuses(&self) -> bool {
        false
    }
}

fn from_somebody(head: &mut Parts, _: usize) {
    head.headers.insert(FROM, HeaderValue::from_static("asha@bazaar.example"));
}

/// Each request has a key of its own; the number of keys is bounded, as the suite asks for a refusal.
struct AnIdempotency;

impl Subject for AnIdempotency {
    type Layer = Dressed<IdempotencyLayer>;
    type Service = Dressed<Idempotency<Probe>>;
    type Body = IdempotencyBody<Answer>;

    fn fresh(&self) -> Self::Layer {
        let mut config = IdempotencyConfig::new();
        config.limits.max_keys = ADMITS;
        config.limits.ttl = Duration::from_secs(30);
        Dressed::new(IdempotencyLayer::new(config), with_a_new_key)
    }

    fn off(&self) -> Self::Layer {
        Dressed::new(IdempotencyLayer::off(), with_a_new_key)
    }

    fn held(&self, layer: &Self::Layer) -> usize {
        layer.layer.counts().working
    }
}

fn with_a_new_key(head: &mut Parts, number: usize) {
    head.method = Method::POST;
    head.headers.insert("idempotency-key", number.into());
}

/// The credentials of a request: as many as the suite asks for are good, then as many are not, and so on.
fn credentials(number: usize, good: &str, bad: [Option<&str>; ADMITS]) -> Option<HeaderValue> {
    let text = match number % (ADMITS * 2) {
        turn if turn < ADMITS => Some(good),
        turn => bad[turn - ADMITS],
    };
    text.map(|text| HeaderValue::from_str(text).unwrap())
}

struct AJwt;

const SECRET: &[u8] = b"a secret of at least thirty-two bytes";
static TOKEN: LazyLock<String> = LazyLock::new(|| bearer(SECRET, 4_102_444_800));
static EXPIRED: LazyLock<String> = LazyLock::new(|| bearer(SECRET, 1));
static FORGED: LazyLock<String> =
    LazyLock::new(|| bearer(b"a secret of somebody who is not asked", 4_102_444_800));

fn bearer(secret: &[u8], exp: u64) -> String {
    format!("Bearer {}", hs256(secret, &format!(r#"{{"sub":"asha","exp":{exp}}}"#)))
}

impl Subject for AJwt {
    type Layer = Dressed<JwtLayer>;
    type Service = Dressed<Jwt<Probe>>;
    type Body = Answer;

    fn fresh(&self) -> Self::Layer {
        let keys = Keys::fixed(KeySet::from_secret(None, SECRET).unwrap());
        Dressed::new(JwtLayer::new(JwtConfig::new(), keys), with_a_token)
    }

    fn off(&self) -> Self::Layer {
        Dressed::new(JwtLayer::off(), with_a_token)
    }
}

fn with_a_token(head: &mut Parts, number: usize) {
    let value = credentials(number, &TOKEN, [Some(&FORGED), Some(&EXPIRED), None]);
    head.headers.extend(value.map(|value| (AUTHORIZATION, value)));
}

/// Good is also who brings nothing; bad is whatever is brought besides.
struct AnOptionalJwt;

impl Subject for AnOptionalJwt {
    type Layer = Dressed<JwtLayer>;
    type Service = Dressed<Jwt<Probe>>;
    type Body = Answer;

    fn fresh(&self) -> Self::Layer {
        let layer = AJwt.fresh().layer.optional();
        Dressed::new(layer, with_a_token_or_none)
    }

    fn off(&self) -> Self::Layer {
        Dressed::new(JwtLayer::off().optional(), with_a_token_or_none)
    }
}

fn with_a_token_or_none(head: &mut Parts, number: usize) {
    let value = credentials(number, &TOKEN, [Some(&FORGED), Some(&EXPIRED), Some("Basic YXNoYTpv")]);
    let value = value.filter(|_| !is_of_nobody(number));
    head.headers.extend(value.map(|value| (AUTHORIZATION, value)));
}

/// Of those that the suite takes for good every other brings nothing.
fn is_of_nobody(number: usize) -> bool {
    let turn = number % (ADMITS * 2);
    turn < ADMITS && turn.is_multiple_of(2)
}

struct AnOptionalApiKey;

impl Subject for AnOptionalApiKey {
    type Layer = Dressed<ApiKeyLayer>;
    type Service = Dressed<ApiKeyAuth<Probe>>;
    type Body = Answer;

    fn fresh(&self) -> Self::Layer {
        Dressed::new(AnApiKey.fresh().layer.optional(), with_a_key_or_none)
    }

    fn off(&self) -> Self::Layer {
        Dressed::new(ApiKeyLayer::off().optional(), with_a_key_or_none)
    }
}

fn with_a_key_or_none(head: &mut Parts, number: usize) {
    let value = credentials(number, "a key", [Some("another key"), Some("an old key"), Some("")]);
    let value = value.filter(|_| !is_of_nobody(number));
    head.headers.extend(value.map(|value| (HeaderName::from_static("x-api-key"), value)));
}

struct AnOptionalBasicAuth;

impl Subject for AnOptionalBasicAuth {
    type Layer = Dressed<BasicAuthLayer>;
    type Service = Dressed<BasicAuth<Probe>>;
    type Body = Answer;

    fn fresh(&self) -> Self::Layer {
        Dressed::new(ABasicAuth.fresh().layer.optional(), with_a_password_or_none)
    }

    fn off(&self) -> Self::Layer {
        Dressed::new(BasicAuthLayer::off().optional(), with_a_password_or_none)
    }

    fn held(&self, layer: &Self::Layer) -> usize {
        layer.layer.waiting()
    }
}

fn with_a_password_or_none(head: &mut Parts, number: usize) {
    let bad = [Some("Basic YXNoYTp3cm9uZw=="), Some("Basic ?"), Some("Bearer x")];
    let value = credentials(number, "Basic YXNoYTpvcGVuIHNlc2FtZQ==", bad);
    let value = value.filter(|_| !is_of_nobody(number));
    head.headers.extend(value.map(|value| (AUTHORIZATION, value)));
}

struct AnApiKey;

impl Subject for AnApiKey {
    type Layer = Dressed<ApiKeyLayer>;
    type Service = Dressed<ApiKeyAuth<Probe>>;
    type Body = Answer;

    fn fresh(&self) -> Self::Layer {
        let old = ApiKey::hashed(ApiKey::hash("an old key"), "asha").until(1);
        let keys = ApiKeys::new([ApiKey::hashed(ApiKey::hash("a key"), "asha"), old]);
        Dressed::new(ApiKeyLayer::new(ApiKeyConfig::new(keys)), with_a_key)
    }

    fn off(&self) -> Self::Layer {
        Dressed::new(ApiKeyLayer::off(), with_a_key)
    }
}

fn with_a_key(head: &mut Parts, number: usize) {
    let value = credentials(number, "a key", [Some("another key"), Some("an old key"), None]);
    head.headers.extend(value.map(|value| (HeaderName::from_static("x-api-key"), value)));
}

/// Now a password is checked, now it is remembered.
struct ABasicAuth;

impl Subject for ABasicAuth {
    type Layer = Dressed<BasicAuthLayer>;
    type Service = Dressed<BasicAuth<Probe>>;
    type Body = Answer;

    fn fresh(&self) -> Self::Layer {
        // As cheap as Argon2id can be.
        let cheap = Argon2::new(
            argon2::Algorithm::Argon2id,
            argon2::Version::V0x13,
            Params::new(8, 1, 1, None).unwrap(),
        );
        let hash = cheap.hash_password_with_salt(b"open sesame", b"salt of 16 bytes").unwrap();
        let users = Users::new([User::new("asha", &hash.to_string()).unwrap()]);
        let mut config = BasicAuthConfig::new(users);
        config.remember = Duration::from_secs(30);
        Dressed::new(BasicAuthLayer::new(config), with_a_password)
    }

    fn off(&self) -> Self::Layer {
        Dressed::new(BasicAuthLayer::off(), with_a_password)
    }

    fn held(&self, layer: &Self::Layer) -> usize {
        layer.layer.waiting()
    }
}

/// `asha:open sesame`, and `asha:wrong`.
fn with_a_password(head: &mut Parts, number: usize) {
    let bad = [Some("Basic YXNoYTp3cm9uZw=="), Some("Basic ?"), None];
    let value = credentials(number, "Basic YXNoYTpvcGVuIHNlc2FtZQ==", bad);
    head.headers.extend(value.map(|value| (AUTHORIZATION, value)));
}

/// Now somebody is asked, now the decision is remembered.
struct AForwardAuth;

impl Subject for AForwardAuth {
    type Layer = Dressed<ForwardAuthLayer>;
    type Service = Dressed<ForwardAuth<Probe>>;
    type Body = Answer;

    fn fresh(&self) -> Self::Layer {
        let decides = service_fn(|question: Request<()>| {
            let credentials = question.headers().get(AUTHORIZATION).map(HeaderValue::as_bytes);
            ready(match credentials {
                Some(b"nobody knows") => Err(BoxError::from("out of order")),
                Some(b"asha") => Ok(Response::new(Bytes::new())),
                _ => Ok(Response::builder().status(401).body(Bytes::new()).unwrap()),
            })
        });
        let mut config = ForwardAuthConfig::new();
        config.remember = Some(Remember { by: vec![AUTHORIZATION], ttl: Duration::from_secs(30) });
        Dressed::new(ForwardAuthLayer::new(config, decides), with_a_name)
    }

    fn off(&self) -> Self::Layer {
        Dressed::new(ForwardAuthLayer::off(), with_a_name)
    }

    fn held(&self, layer: &Self::Layer) -> usize {
        layer.layer.asking()
    }
}

fn with_a_name(head: &mut Parts, number: usize) {
    let value = credentials(number, "asha", [Some("ravi"), Some("nobody knows"), None]);
    head.headers.extend(value.map(|value| (AUTHORIZATION, value)));
}

struct ABalancer;

impl Subject for ABalancer {
    type Layer = BalanceLayer;
    type Service = Balance<Probe>;
    type Body = Guarded<Answer, InFlight>;

    fn fresh(&self) -> BalanceLayer {
        BalanceLayer::new(["only:1"])
    }

    fn off(&self) -> BalanceLayer {
        BalanceLayer::off()
    }

    fn held(&self, layer: &BalanceLayer) -> usize {
        layer.endpoints().iter().map(|endpoint| endpoint.in_flight() as usize).sum()
    }

    fn refuses(&self) -> bool {
        false
    }
}

/// Endpoints with room for as many requests as the suite asks for, under each policy; what is random has a
/// seed, and can be foreseen.
struct FullBalancer(Policy);

impl Subject for FullBalancer {
    type Layer = BalanceLayer;
    type Service = Balance<Probe>;
    type Body = Guarded<Answer, InFlight>;

    fn fresh(&self) -> BalanceLayer {
        let room = |number| Target::new(format!("10.0.0.{number}:80")).weight(number).capacity(1);
        let mut config = BalanceConfig::new(self.0).max_load(125).panic(30);
        config.slow_start = Some(SlowStart { duration: Duration::from_mins(1), floor: 10 });
        config.sticky = Some(Sticky::new("endpoint", b"a secret").unwrap());
        let before = BalanceLayer::with_config(config.clone(), [room(1)]);
        let layer = before.reconfigured(config, (1..=admits()).map(room));
        layer.hash_by(|head| Some(HashKey::of(head.uri.path())))
    }

    fn off(&self) -> BalanceLayer {
        BalanceLayer::off()
    }

    fn held(&self, layer: &BalanceLayer) -> usize {
        layer.endpoints().iter().map(|endpoint| endpoint.in_flight() as usize).sum()
    }
}

#[tokio::test(start_paused = true)]
async fn rate_limit_keeps_the_laws() {
    check(&OneLimit).await;
}

#[tokio::test(start_paused = true)]
async fn several_rate_limits_keep_the_laws() {
    check(&SeveralLimits).await;
}

#[tokio::test(start_paused = true)]
async fn a_shared_limit_keeps_the_laws() {
    check(&SharedLimit).await;
}

#[tokio::test(start_paused = true)]
async fn rate_limit_enforced_by_share_keeps_the_laws() {
    check(&ShareOfALimit).await;
}

#[tokio::test(start_paused = true)]
async fn sliding_windows_of_a_tier_keep_the_laws() {
    check(&SlidingWindowsOfATier).await;
}

#[tokio::test(start_paused = true)]
async fn bulkhead_keeps_the_laws() {
    check(&ABulkhead).await;
}

#[tokio::test(start_paused = true)]
async fn bulkheads_of_all_shapes_keep_the_laws() {
    let partitioned = || BulkheadLayer::partitioned(BulkheadConfig::new(admits()).total(9), |_| None);
    let tiered = || {
        let config = BulkheadConfig::new(8).tiers(&[Share::new(5, 5), Share::new(1, 7)]);
        BulkheadLayer::tiered(config, |_| 1)
    };
    let prioritized = || {
        let config = BulkheadConfig::new(admits() * 2).priorities([50, 100, 100, 100]);
        BulkheadLayer::new(config.queue(5, Duration::from_secs(1))).priority_by(|_| 0)
    };
    let adaptive = || {
        let adaptive = Adaptive::gradient2(admits(), admits());
        BulkheadLayer::new(BulkheadConfig::new(9).adaptive(adaptive).adapt(Enforce::Always))
    };
    for fresh in [partitioned, tiered, prioritized, adaptive] {
        check(&OtherBulkhead(fresh)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn circuit_breaker_keeps_the_laws() {
    check(&ACircuitBreaker { is_keyed: false }).await;
    check(&ACircuitBreaker { is_keyed: true }).await;
}

#[tokio::test(start_paused = true)]
async fn authorization_keeps_the_laws() {
    check(&AnAuthorization).await;
}

#[tokio::test(start_paused = true)]
async fn timeout_keeps_the_laws() {
    check(&ATimeout).await;
}

#[tokio::test(start_paused = true)]
async fn version_keeps_the_laws() {
    check(&AVersion).await;
}

#[tokio::test(start_paused = true)]
async fn split_keeps_the_laws() {
    check(&ASplit).await;
}

#[tokio::test(start_paused = true)]
async fn reshape_keeps_the_laws() {
    check(&AReshape).await;
}

#[tokio::test(start_paused = true)]
async fn idempotency_keeps_the_laws() {
    check(&AnIdempotency).await;
}

#[tokio::test(start_paused = true)]
async fn jwt_keeps_the_laws() {
    check(&AJwt).await;
}

#[tokio::test(start_paused = true)]
async fn an_optional_jwt_keeps_the_laws() {
    check(&AnOptionalJwt).await;
}

#[tokio::test(start_paused = true)]
async fn an_optional_api_key_keeps_the_laws() {
    check(&AnOptionalApiKey).await;
}

#[tokio::test(start_paused = true)]
async fn an_optional_basic_auth_keeps_the_laws() {
    check(&AnOptionalBasicAuth).await;
}

#[tokio::test(start_paused = true)]
async fn api_key_keeps_the_laws() {
    check(&AnApiKey).await;
}

#[tokio::test(start_paused = true)]
async fn basic_auth_keeps_the_laws() {
    check(&ABasicAuth).await;
}

#[tokio::test(start_paused = true)]
async fn forward_auth_keeps_the_laws() {
    check(&AForwardAuth).await;
}

#[tokio::test(start_paused = true)]
async fn body_limit_keeps_the_laws() {
    check(&ABodyLimit).await;
}

#[tokio::test(start_paused = true)]
async fn retries_keep_the_laws() {
    check(&ARetry).await;
    check(&AHedge).await;
    check(&ACache).await;
}

#[tokio::test(start_paused = true)]
async fn fallbacks_keep_the_laws() {
    check(&AFallback).await;
}

#[tokio::test(start_paused = true)]
async fn mirrors_keep_the_laws() {
    check(&AMirror).await;
}

#[tokio::test(start_paused = true)]
async fn cors_keeps_the_laws() {
    check(&ACors).await;
}

#[tokio::test(start_paused = true)]
async fn faults_keep_the_laws() {
    check(&Late).await;
}

#[tokio::test(start_paused = true)]
async fn balance_keeps_the_laws() {
    check(&ABalancer).await;
}

#[tokio::test(start_paused = true)]
async fn balance_keeps_the_laws_under_each_policy() {
    for policy in [
        Policy::RoundRobin,
        Policy::WeightedRoundRobin,
        Policy::Random,
        Policy::LeastRequest,
        Policy::WeightedLeastRequest,
        Policy::PeakEwma,
        Policy::LeastLatency,
        Policy::LeastLoad,
        Policy::RING_HASH,
        Policy::Maglev { size: 251 },
        Policy::Rendezvous,
        Policy::IpHash,
    ] {
        check(&FullBalancer(policy)).await;
    }
}

/// `explain` and `call` agree on which of many rejections take effect.
#[tokio::test(start_paused = true)]
async fn a_share_of_rejections_is_explained_one_by_one() {
    use naka::explain::{Explain, Finding};
    use tower::{Layer, Service};

    let config = RateLimitConfig::new(Window::per_hour(1)).enforce(Enforce::Percent(30));
    let layer = RateLimitLayer::new(config, |_| None);
    let mut service =
        layer.layer(service_fn(|_: Request<()>| async { Ok::<_, ()>(Response::new(Answer::default())) }));
    let mut refused = 0;
    for _ in 0..101 {
        let said = layer.explain(Now::read(), &mut Request::new(()).into_parts().0);
        let did = service.call(Request::new(())).await.unwrap().status();
        assert_eq!(matches!(said, Finding::Reject(_)), did == 429);
        refused += u32::from(did == 429);
    }
    assert_eq!(refused, 30, "30 % of the 100 after the first");
}
