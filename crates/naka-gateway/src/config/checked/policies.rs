//! Policies.

use std::{fmt, sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue, Method, StatusCode, uri::PathAndQuery};
use ipnet::IpNet;
use naka::key::KeySecret;

use super::{Name, Origin, Respond, Rewrite};
use crate::{
    custom::{Custom, Slot},
    tls::ClientTls,
};

/// A policy with a name.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// What it does.
    pub kind: PolicyKind,
    /// How far it takes effect.
    pub enforce: Enforce,
    /// Whom one account is for.
    pub scope: Scope,
    /// Where it was said.
    pub origin: Origin,
}

/// What a policy does.
#[derive(Clone, Debug, PartialEq)]
pub enum PolicyKind {
    /// So many requests in so much time, by key.
    RateLimit(RateLimit),
    /// So many requests at once.
    Bulkhead(Bulkhead),
    /// Whoever has a signed token.
    Jwt(Jwt),
    /// Whoever has a key.
    ApiKey(ApiKey),
    /// Whoever has a password.
    BasicAuth(BasicAuth),
    /// Whoever another service lets in.
    ForwardAuth(ForwardAuth),
    /// Whoever a rule lets in.
    Authorize(Rule),
    /// What is repeated with the same key is not done again.
    Idempotency(Idempotency),
    /// What fails is left alone for a while.
    CircuitBreaker(CircuitBreaker),
    /// What failed is sent again.
    Retry(Retry),
    /// What is not answered for a while is sent once more.
    Hedge(Hedge),
    /// What failed is answered in another way.
    Fallback(Fallback),
    /// What was answered is answered again.
    Cache(Cache),
    /// A copy of some goes to another upstream.
    Mirror(Mirror),
    /// Errors and delays for whoever asks for them.
    Fault(Fault),
    /// What pages of other origins may.
    Cors(Cors),
    /// Make responses smaller.
    Compress(Compress),
    /// A kind of one's own.
    Custom(Custom),
}

impl PolicyKind {
    /// What sort of policy it is.
    pub const fn kind(&self) -> Kind {
        match self {
            Self::RateLimit(_) => Kind::RateLimit,
            Self::Bulkhead(_) => Kind::Bulkhead,
            Self::Jwt(_) => Kind::Jwt,
            Self::ApiKey(_) => Kind::ApiKey,
            Self::BasicAuth(_) => Kind::BasicAuth,
            Self::ForwardAuth(_) => Kind::ForwardAuth,
            Self::Authorize(_) => Kind::Authorize,
            Self::Idempotency(_) => Kind::Idempotency,
            Self::CircuitBreaker(_) => Kind::CircuitBreaker,
            Self::Retry(_) => Kind::Retry,
            Self::Hedge(_) => Kind::Hedge,
            Self::Fallback(_) => Kind::Fallback,
            Self::Cache(_) => Kind::Cache,
            Self::Mirror(_) => Kind::Mirror,
            Self::Fault(_) => Kind::Fault,
            Self::Cors(_) => Kind::Cors,
            Self::Compress(_) => Kind::Compress,
            Self::Custom(Custom { slot: Slot::BeforeAuth, .. }) => Kind::CustomBeforeAuth,
            Self::Custom(Custom { slot: Slot::AfterAuth, .. }) => Kind::CustomAfterAuth,
        }
    }
}

/// Sorts of policies, in the order in which a request meets them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Pages of other origins.
    Cors,
    /// So many requests in so much time; before those that authenticate, or behind them if its key asks who it is.
    RateLimit,
    /// Kinds of one's own that do not ask who it is.
    CustomBeforeAuth,
    /// Signed tokens.
    Jwt,
    /// Keys in a header.
    ApiKey,
    /// Passwords.
    BasicAuth,
    /// Another service.
    ForwardAuth,
    /// Rules.
    Authorize,
    /// Kinds of one's own that know who it is.
    CustomAfterAuth,
    /// What is repeated.
    Idempotency,
    /// Another answer.
    Fallback,
    /// What was answered is answered again.
    Cache,
    /// So many requests at once.
    Bulkhead,
    /// Errors and delays.
    Fault,
    /// What fails is left alone.
    CircuitBreaker,
    /// Copies for another upstream.
    Mirror,
    /// What is not answered for a while is sent once more.
    Hedge,
    /// What failed is sent again.
    Retry,
    /// Smaller responses.
    Compress,
}

impl Kind {
    /// Its key in the file.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Cors => "cors",
            Self::RateLimit => "rate_limit",
            Self::Jwt => "jwt",
            Self::ApiKey => "api_key",
            Self::BasicAuth => "basic_auth",
            Self::ForwardAuth => "forward_auth",
            Self::Authorize => "authorize",
            Self::Idempotency => "idempotency",
            Self::Bulkhead => "bulkhead",
            Self::Fault => "fault",
            Self::CircuitBreaker => "circuit_breaker",
            Self::Fallback => "fallback",
            Self::Cache => "cache",
            Self::Mirror => "mirror",
            Self::Hedge => "hedge",
            Self::Retry => "retry",
            Self::Compress => "compress",
            Self::CustomBeforeAuth | Self::CustomAfterAuth => "custom",
        }
    }

    /// Whether all that stand over a route count; of the others the closest does.
    pub const fn adds_up(self) -> bool {
        let is_custom = matches!(self, Self::CustomBeforeAuth | Self::CustomAfterAuth);
        matches!(self, Self::RateLimit | Self::Authorize) || is_custom || self.authenticates()
    }

    /// Whether it finds out who asks.
    pub const fn authenticates(self) -> bool {
        matches!(self, Self::Jwt | Self::ApiKey | Self::BasicAuth | Self::ForwardAuth)
    }
}

/// The policies of one route, or of an upstream: names in `policies`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Uses(pub(crate) ByKind<Name>);

impl Uses {
    /// All of one sort, in the order of their names.
    pub fn all(&self, kind: Kind) -> &[Name] {
        self.0.all(kind)
    }

    /// The one of its sort.
    pub fn one(&self, kind: Kind) -> Option<&Name> {
        self.all(kind).first()
    }

    /// All of all sorts.
    pub fn iter(&self) -> impl Iterator<Item = &Name> {
        self.0.iter().flat_map(|(_, names)| names)
    }
}

/// Things by their sort, in its order. Of one route there are few.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ByKind<T>(Vec<(Kind, Vec<T>)>);

impl<T> Default for ByKind<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> ByKind<T> {
    /// All of one sort.
    pub fn all(&self, kind: Kind) -> &[T] {
        self.0.iter().find(|(known, _)| *known == kind).map_or(&[], |(_, all)| all)
    }

    /// All of one sort, for whoever adds to them.
    pub fn of(&mut self, kind: Kind) -> &mut Vec<T> {
        let place = self.0.partition_point(|(known, _)| *known < kind);
        if self.0.get(place).is_none_or(|(known, _)| *known != kind) {
            self.0.insert(place, (kind, Vec::new()));
        }
        &mut self.0[place].1
    }

    /// Each sort, and all that is of it.
    pub fn iter(&self) -> impl Iterator<Item = (Kind, &Vec<T>)> {
        self.0.iter().map(|(kind, all)| (*kind, all))
    }

    /// The same of something else.
    pub fn map<U>(self, mut to: impl FnMut(T) -> U) -> ByKind<U> {
        let of_kind = |(kind, all): (Kind, Vec<T>)| (kind, all.into_iter().map(&mut to).collect());
        ByKind(self.0.into_iter().map(of_kind).collect())
    }
}

/// How far a rejecting policy takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Enforce {
    /// It rejects.
    Always,
    /// It decides and reports, and lets pass.
    Observe,
    /// It rejects that share of what it would reject, in percent: 1 to 99.
    Percent(u8),
    /// It is off; its state is kept.
    Never,
}

/// Whom one account of a policy is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// One for all who use the name.
    Policy,
    /// One for each route.
    Route,
    /// One for each upstream.
    Upstream,
}

/// So many requests in so much time.
#[derive(Clone, Debug, PartialEq)]
pub struct RateLimit {
    /// One to four windows; all must admit, none is charged if one does not.
    pub rates: Vec<Rate>,
    /// At once, for each window; as many as `rates`.
    pub bursts: Vec<u32>,
    /// What makes a key, in order; empty: one account for everybody.
    pub key: Vec<KeyPart>,
    /// What happens to a request that lacks a part of the key.
    pub on_missing: OnMissing,
    /// The bound of the key table.
    pub max_keys: usize,
    /// Whether windows slide, instead of coming back evenly.
    pub is_sliding: bool,
    /// What one request costs.
    pub cost: u32,
    /// Who has more or less: factors in percent.
    pub tiers: Option<Tiers<u32>>,
    /// What responses say about it.
    pub fields: Fields,
    /// With whom it is counted.
    pub shared: Option<Shared>,
}

/// How a limit is counted with other gateways.
#[derive(Clone, Debug, PartialEq)]
pub struct Shared {
    /// Which store has the accounts.
    pub name: Name,
    /// It.
    pub store: Arc<Store>,
    /// This gateway's part of rate and burst, in percent.
    pub share: u32,
    /// The most that is held of one key.
    pub lease: u32,
    /// What happens while the store does not answer.
    pub on_failure: OnFailure,
}

/// What happens while a store does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFailure {
    /// The share decides.
    Share,
    /// All pass.
    Open,
    /// None does.
    Closed,
}

/// A store of accounts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Store {
    /// Where it answers.
    pub host: Arc<str>,
    /// At which port.
    pub port: u16,
    /// The number of its database.
    pub database: u16,
    /// Shown with the password.
    pub username: Option<Arc<str>>,
    /// Shown when a connection is made.
    pub password: Option<Secret>,
    /// What keys are hashed with.
    pub secret: KeySecret,
    /// How long a request waits for an answer.
    pub timeout: Duration,
}

/// What each value of something that is known of whoever asks has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tiers<T> {
    /// What decides.
    pub by: IdentityPart,
    /// Its values, and what each has. `anonymous` is whoever is not known.
    pub of: Vec<(Arc<str>, T)>,
}

/// What responses say about a rate limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fields {
    /// Nothing.
    None,
    /// `RateLimit` and `RateLimit-Policy`.
    Draft,
    /// `X-RateLimit-Limit`, `-Remaining` and `-Reset`.
    Legacy,
}

/// `count` requests in `per`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// At least 1.
    pub count: u32,
    /// At least a second.
    pub per: Duration,
}

/// One part of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyPart {
    /// The client's address; an IPv6 address by its /64.
    ClientIp,
    /// The name of the matched route.
    Route,
    /// The host of the request.
    Host,
    /// The method.
    Method,
    /// A request header.
    Header(HeaderName),
    /// A query parameter.
    Query(Arc<str>),
    /// A cookie.
    Cookie(Arc<str>),
    /// A capture of the path.
    Capture(Arc<str>),
    /// Who asks, or something that is known of whoever it is.
    Identity(IdentityPart),
}

/// What is known of whoever asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IdentityPart {
    /// Who it is, however that was found.
    Subject,
    /// Whose API key it is.
    ApiKey,
    /// A claim of its token; nested ones have dots.
    Jwt(Arc<str>),
}

/// What happens to a request that lacks a part of the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnMissing {
    /// All such requests share one account.
    Shared,
    /// It is not counted.
    Skip,
    /// It is rejected with 400.
    Reject,
}

/// So many requests at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bulkhead {
    /// At work at once; at least 1.
    pub max: u32,
    /// Waiting at once.
    pub queue: u32,
    /// The longest wait.
    pub max_wait: Duration,
    /// What makes a partition; empty: there are none.
    pub key: Vec<KeyPart>,
    /// Keys with requests at work or waiting.
    pub max_keys: usize,
    /// At work at once over all keys.
    pub total: Option<u32>,
    /// Reserved and highest number of places.
    pub tiers: Option<Tiers<(u32, u32)>>,
    /// The part of the places that each may use, in percent.
    pub priorities: Option<Tiers<u8>>,
    /// A limit that follows what is behind.
    pub adaptive: Option<Adaptive>,
}

/// A limit that follows what is behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Adaptive {
    /// The longest mean latency, where it counts additively; else it goes by the gradient.
    pub aimd_latency: Option<Duration>,
    /// The lowest limit.
    pub min: u32,
    /// The highest.
    pub max: u32,
    /// Whether it is in force.
    pub acts: bool,
}

/// Whoever has a signed token.
#[derive(Clone, Debug, PartialEq)]
pub struct Jwt {
    /// Who may have made a token; empty: anybody with the key.
    pub issuers: Vec<Arc<str>>,
    /// For whom a token may be made.
    pub audiences: Vec<Arc<str>>,
    /// Names of algorithms; `None`: all that the keys allow.
    pub algorithms: Option<Vec<&'static str>>,
    /// Where keys come from.
    pub keys: JwtKeys,
    /// Whether a token has to end.
    pub require_exp: bool,
    /// Whether a token has to begin.
    pub require_nbf: bool,
    /// How far clocks may differ.
    pub leeway: Duration,
    /// `typ` of the token.
    pub token_type: Option<Arc<str>>,
    /// The longest token, in bytes.
    pub max_token: usize,
    /// The claim with the scopes.
    pub scope_claim: Arc<str>,
    /// The claim with the roles.
    pub role_claim: Arc<str>,
}

/// Where keys come from.
#[derive(Clone, Debug, PartialEq)]
pub enum JwtKeys {
    /// A JWK set, as it stands in a file.
    Set(Secret),
    /// A shared secret.
    Secret(Secret),
    /// A JWK set that is fetched.
    Url(Arc<str>, Fetch),
}

/// How fetched keys are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fetch {
    /// The longest one attempt may take.
    pub timeout: Duration,
    /// The shortest time between two attempts.
    pub min_interval: Duration,
    /// How long keys are fresh where the answer does not say.
    pub fresh: Duration,
    /// How long keys count after the last good answer.
    pub max_stale: Duration,
}

/// What is not shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub(crate) Arc<[u8]>);

impl Secret {
    /// It.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// Whoever has a key.
#[derive(Clone, Debug, PartialEq)]
pub struct ApiKey {
    /// The keys.
    pub keys: Vec<ApiKeyEntry>,
    /// The header with the key.
    pub header: HeaderName,
    /// Whether the key is sent on.
    pub forward: bool,
}

/// One key.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKeyEntry {
    /// SHA-256 of it.
    pub sha256: [u8; 32],
    /// Whose it is.
    pub subject: Arc<str>,
    /// What it may do.
    pub scopes: Vec<Arc<str>>,
    /// What it is.
    pub roles: Vec<Arc<str>>,
    /// What else is known.
    pub claims: Vec<(Arc<str>, Vec<Arc<str>>)>,
    /// It counts until then, in seconds since 1970.
    pub expires_s: Option<u64>,
}

/// Its hash is not shown.
impl fmt::Debug for ApiKeyEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiKeyEntry").field("subject", &self.subject).finish_non_exhaustive()
    }
}

/// Whoever has a password.
#[derive(Clone, Debug, PartialEq)]
pub struct BasicAuth {
    /// Names and hashes, each with its line.
    pub users: Vec<(Arc<str>, Secret, usize)>,
    /// What clients are told they need a password for.
    pub realm: Arc<str>,
    /// How long a right password is remembered.
    pub remember: Duration,
    /// Checks at once.
    pub max_checks: usize,
    /// Requests that wait for a check.
    pub max_waiting: usize,
    /// Whether the password is sent on.
    pub forward: bool,
}

/// Whoever another service lets in.
#[derive(Clone, Debug, PartialEq)]
pub struct ForwardAuth {
    /// `host:port` of that service.
    pub address: Arc<str>,
    /// How asking it is secured, if it is.
    pub tls: Option<ClientTls>,
    /// Its `Host`.
    pub host: HeaderValue,
    /// The target of the question.
    pub target: PathAndQuery,
    /// Headers that it sees; `None`: the usual ones.
    pub send: Option<Vec<HeaderName>>,
    /// Headers of its answer that the request goes on with.
    pub copy: Vec<HeaderName>,
    /// The header of its answer that says who it is.
    pub subject: Option<HeaderName>,
    /// The longest wait.
    pub timeout: Duration,
    /// Questions at once.
    pub max_asking: usize,
    /// Headers on which a decision depends, and how long it is remembered.
    pub remember: Option<(Vec<HeaderName>, Duration)>,
}

/// What is repeated with the same key is answered again, and not done again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idempotency {
    /// Where the key is.
    pub header: HeaderName,
    /// Methods that have keys; `None`: the usual ones.
    pub methods: Option<Vec<Method>>,
    /// Whether a request of these has to have one.
    pub required: bool,
    /// Headers in which a repetition has to be the same; `None`: the usual ones.
    pub same_headers: Option<Vec<HeaderName>>,
    /// How long a key is known after its request has ended.
    pub ttl: Duration,
    /// Keys.
    pub max_keys: usize,
    /// What all answers take, in bytes.
    pub max_bytes: usize,
    /// The largest body of a request with a key, in bytes.
    pub max_request: usize,
    /// The largest answer that is remembered, in bytes.
    pub max_response: usize,
    /// What bodies that are at hand and answers that are being written down take together, in bytes.
    pub max_buffered: usize,
    /// Whether a failure is remembered, too.
    pub keeps_failures: bool,
    /// Whether at a bound the oldest go before their time.
    pub evict: bool,
}

/// What fails, or is slow, is left alone for a while; what is not said is as the preset or the defaults have it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CircuitBreaker {
    /// The name of a preset.
    pub preset: Option<&'static str>,
    /// Failures in a row; 0 is never.
    pub consecutive: Option<u32>,
    /// So many percent of the window; 0 is never.
    pub failure_rate: Option<u8>,
    /// How long is slow, and how many percent of the window.
    pub slow_call: Option<(Duration, u8)>,
    /// Below so many results no rate opens.
    pub min_requests: Option<u32>,
    /// Which results count.
    pub window: Option<BreakerWindow>,
    /// How long it is open at first, and at most.
    pub open: Option<(Duration, Duration)>,
    /// Probes at once.
    pub probes: Option<u8>,
    /// Probes that have to go well.
    pub successes: Option<u8>,
    /// After so long without news, probes lose their places.
    pub probe_timeout: Option<Duration>,
    /// For so long a growing share passes.
    pub ramp: Option<Duration>,
    /// Statuses that are failures, from and to; nothing: as is usual.
    pub statuses: Vec<(u16, u16)>,
    /// What makes a key; nothing: there is one breaker.
    pub key: Vec<KeyPart>,
    /// Keys that have a breaker.
    pub max_keys: usize,
    /// Of an upstream: so many percent of its endpoints are left alone at most.
    pub max_ejected: Option<u8>,
}

/// Which results count for the rates of a breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerWindow {
    /// The last so many.
    Count(u32),
    /// Those of the last so long.
    Time(Duration),
}

/// What is sent again, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    /// So many attempts after the first.
    pub max: u32,
    /// After what.
    pub when: RetryWhen,
    /// Of which methods, although they may have been seen.
    pub methods: RetryMethods,
    /// Also with an `Idempotency-Key`.
    pub keyed: bool,
    /// The bound of the first pause, and of any.
    pub backoff: (Duration, Duration),
    /// The longest `Retry-After` that is waited for.
    pub max_retry_after: Duration,
    /// The longest body that is kept, in bytes.
    pub max_body: usize,
    /// Preferably to another endpoint.
    pub different_endpoint: bool,
}

/// After what a request is sent again.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a word of its own")]
pub struct RetryWhen {
    /// No connection.
    pub connect_error: bool,
    /// One that ended before a response.
    pub reset: bool,
    /// A refusal without a look at it.
    pub refused_stream: bool,
    /// No response in time.
    pub response_timeout: bool,
    /// Responses with these statuses, from and to.
    pub statuses: Vec<(u16, u16)>,
}

/// Which methods may be sent again although they may have been seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryMethods {
    /// None.
    None,
    /// Those that only look.
    Safe,
    /// Those of which twice is as good as once.
    Idempotent,
}

/// What was answered is answered again while it is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cache {
    /// How long an answer is fresh that does not say so itself.
    pub default_ttl: Duration,
    /// How long a stale one stands in for a failure.
    pub stale_if_error: Duration,
    /// How long a request waits for the same one of somebody else; nothing: not at all.
    pub coalesce: Option<Duration>,
    /// The longest body that is kept, in bytes.
    pub max_body: usize,
    /// What all of it may take, in bytes, for each route.
    pub max_bytes: usize,
}

/// What is not answered for a while is sent once more, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hedge {
    /// How long an attempt is waited for.
    pub after: HedgeAfter,
    /// So many attempts after the first.
    pub max: u32,
    /// Also methods of which twice is as good as once, and not only those that just look.
    pub is_idempotent: bool,
    /// Also with an `Idempotency-Key`.
    pub keyed: bool,
    /// The longest body that is kept, in bytes.
    pub max_body: usize,
}

/// How long an attempt is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HedgeAfter {
    /// That long.
    Fixed(Duration),
    /// As long as so many percent of the answers take, within bounds.
    Percentile {
        /// So many percent.
        percent: u8,
        /// No shorter than that.
        at_least: Duration,
        /// No longer than that.
        at_most: Duration,
    },
}

impl HedgeAfter {
    /// The longest it can be.
    pub const fn longest(self) -> Duration {
        match self {
            Self::Fixed(after) => after,
            Self::Percentile { at_most, .. } => at_most,
        }
    }
}

/// What failed is answered in another way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fallback {
    /// In which.
    pub instead: Instead,
    /// What is asked of another upstream, if it is not what the route rewrites.
    pub rewrite: Option<Rewrite>,
    /// After what.
    pub when: FallbackWhen,
    /// The longest body that is kept, in bytes.
    pub max_body: usize,
}

impl Fallback {
    /// The upstream that is asked instead, if one is.
    pub const fn upstream(&self) -> Option<&Name> {
        match &self.instead {
            Instead::Upstream(upstream) => Some(upstream),
            Instead::Respond(_) => None,
        }
    }
}

/// What is done in place of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Instead {
    /// An answer of the gateway's own.
    Respond(Respond),
    /// Another upstream: a name in `upstreams`.
    Upstream(Name),
}

/// After what a request is answered in another way.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a word of its own")]
pub struct FallbackWhen {
    /// No connection.
    pub connect_error: bool,
    /// One that ended before a response, or no HTTP.
    pub reset: bool,
    /// A refusal without a look at it.
    pub refused_stream: bool,
    /// No response in time.
    pub response_timeout: bool,
    /// An open breaker.
    pub circuit_open: bool,
    /// No endpoint.
    pub no_endpoint: bool,
    /// A full bulkhead, or too long a wait.
    pub bulkhead_full: bool,
    /// Responses with these statuses, from and to.
    pub statuses: Vec<(u16, u16)>,
}

/// A copy of some requests goes to another upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// Where copies go: a name in `upstreams`.
    pub upstream: Name,
    /// So many of a hundred.
    pub sample: u8,
    /// Of which methods; `None`: nothing was said, and its routes take only safe ones.
    pub methods: Option<MirrorMethods>,
    /// Copies under way at once.
    pub max: usize,
    /// How long one may take.
    pub timeout: Duration,
    /// The longest body, in bytes.
    pub max_body: usize,
    /// Copies have the credentials of the request.
    pub keeps_credentials: bool,
}

/// Which requests are copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MirrorMethods {
    /// Those that only look.
    Safe,
    /// All: what they do is done twice.
    All,
}

/// Make responses smaller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compress {
    /// Brotli (RFC 7932).
    pub br: bool,
    /// Gzip (RFC 1952).
    pub gzip: bool,
    /// Smaller ones are left as they are, in bytes.
    pub min_size: u64,
}

/// What pages of other origins may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cors {
    /// Whose pages; `None`: everybody's.
    pub origins: Option<Vec<Arc<str>>>,
    /// The methods they may use; `None`: the usual ones.
    pub methods: Option<Vec<Method>>,
    /// The headers they may send; `None`: whichever they want to.
    pub headers: Option<Vec<HeaderName>>,
    /// The headers they may read.
    pub expose: Vec<HeaderName>,
    /// Whether they may send cookies and the like.
    pub credentials: bool,
    /// How long a browser may remember the answer.
    pub max_age: Option<Duration>,
}

/// Errors and delays for whoever asks for them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Only requests with this header are hit.
    pub header: HeaderName,
    /// Only with this value of it.
    pub value: Option<HeaderValue>,
    /// When it ends, in seconds since 1970.
    pub until_s: u64,
    /// How many percent are answered with what.
    pub abort: Option<(u8, StatusCode)>,
    /// How many percent wait for how long.
    pub delay: Option<(u8, Duration)>,
    /// Requests that wait at once.
    pub max_delayed: usize,
}

/// Who may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Each of them.
    All(Vec<Rule>),
    /// One of them.
    Any(Vec<Rule>),
    /// Not this.
    Not(Box<Rule>),
    /// Whoever is known.
    Authenticated,
    /// Whose credentials have this scope.
    Scope(Arc<str>),
    /// Whose credentials have this role.
    Role(Arc<str>),
    /// Who it is.
    Identity(Arc<str>),
    /// Whose credentials say this of something.
    Claim(Arc<str>, Arc<str>),
    /// How it is asked.
    Method(Method),
    /// Where it comes from.
    Cidr(IpNet),
}

impl Rule {
    /// Whether it asks what only those who authenticate find out.
    pub fn needs_identity(&self) -> bool {
        match self {
            Self::All(rules) | Self::Any(rules) => rules.iter().any(Self::needs_identity),
            Self::Not(rule) => rule.needs_identity(),
            Self::Scope(_) | Self::Role(_) | Self::Identity(_) | Self::Claim(..) | Self::Authenticated => {
                true
            }
            Self::Method(_) | Self::Cidr(_) => false,
        }
    }

    /// Whether it can let in somebody of whom it is not known who it is.
    pub fn may_let_in_nobody(&self) -> bool {
        self.of_nobody().0
    }

    /// Whether it can be true of nobody, and whether it can be false; what cannot be known is neither.
    fn of_nobody(&self) -> (bool, bool) {
        match self {
            Self::Scope(_) | Self::Role(_) | Self::Identity(_) | Self::Claim(..) => (false, false),
            Self::Authenticated => (false, true),
            Self::Method(_) | Self::Cidr(_) => (true, true),
            Self::Not(rule) => {
                let (is_true, is_false) = rule.of_nobody();
                (is_false, is_true)
            }
            Self::All(rules) => {
                (rules.iter().all(|rule| rule.of_nobody().0), rules.iter().any(|rule| rule.of_nobody().1))
            }
            Self::Any(rules) => {
                (rules.iter().any(|rule| rule.of_nobody().0), rules.iter().all(|rule| rule.of_nobody().1))
            }
        }
    }
}

impl Bulkhead {
    /// Whether both take the same of a request.
    pub fn is_partitioned_as(&self, other: &Self) -> bool {
        self.key == other.key && is_of_same_tiers(self.tiers.as_ref(), other.tiers.as_ref())
    }
}

/// Whether both tell the same tiers apart, whatever each has.
fn is_of_same_tiers<T>(one: Option<&Tiers<T>>, other: Option<&Tiers<T>>) -> bool {
    fn names<T>(tiers: &Tiers<T>) -> impl Iterator<Item = &Arc<str>> {
        tiers.of.iter().map(|(name, _)| name)
    }
    match (one, other) {
        (Some(one), Some(other)) => one.by == other.by && names(one).eq(names(other)),
        (one, other) => one.is_none() && other.is_none(),
    }
}

impl RateLimit {
    /// What its keys are hashed with, if that is not the secret of this process.
    pub fn secret(&self) -> Option<KeySecret> {
        self.shared.as_ref().map(|shared| shared.store.secret)
    }

    /// Whether its key asks who it is.
    pub fn needs_identity(&self) -> bool {
        self.tiers.is_some() || self.key.iter().any(|part| matches!(part, KeyPart::Identity(_)))
    }
}
