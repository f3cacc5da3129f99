//! The records of policies.

use std::{sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue, Method, StatusCode};
use ipnet::IpNet;
use serde_json::{Value as Json, json};

use super::{Count, RawRespond, RawRewrite};
use crate::config::{
    checked::{BreakerWindow, Enforce, IdentityPart, KeyPart, Rate},
    decode::{At, Cx, Decode, Form, Named, OneOrMany, Or, Scalar, Text, Wrong},
    diagnostic::Code,
    node::{Key, Node, Span, Value},
    outline::Tracer,
    record::{record, words, wrong_word},
    suggest::quoted,
    units::{OrNever, OrZero, Percent, Size, TIME, Time, Whole, factor},
    values::{ErrorStatuses, Hash, Id, Url},
};
use crate::custom::{Custom, Step};

record! {
    /// A policy with a name: exactly one kind.
    RawPolicy ("a policy: one kind and its settings") {
        /// So many requests in so much time.
        rate_limit: RawRateLimit = optional;
        /// So many requests at once.
        bulkhead: RawBulkhead = optional;
        /// Whoever has a signed token.
        jwt: RawJwt = optional;
        /// Whoever has a key.
        api_key: RawApiKey = optional;
        /// Whoever has a password.
        basic_auth: RawBasicAuth = optional;
        /// Whoever another service lets in.
        forward_auth: RawForwardAuth = optional;
        /// Whoever a rule lets in.
        authorize: RawRule = optional;
        /// What is repeated with the same key is answered again, and not done again.
        idempotency: RawIdempotency = optional;
        /// What fails, or is slow, is left alone for a while.
        circuit_breaker: RawCircuitBreaker = optional;
        /// Errors and delays for whoever asks for them.
        fault: RawFault = optional;
        /// What failed is sent again.
        retry: RawRetry = optional;
        /// What is not answered for a while is sent once more.
        hedge: RawHedge = optional;
        /// What failed is answered in another way.
        fallback: RawFallback = optional;
        /// What was answered is answered again while it is good.
        cache: RawCache = optional;
        /// A copy of some requests goes to another upstream.
        mirror: RawMirror = optional;
        /// What pages of other origins may ask and read.
        cors: RawCors = optional;
        /// Make responses smaller.
        compress: RawCompress = optional;
    }
    not_built: sticky timeouts headers limits;
    also: custom: RawCustom;
}

/// A policy of one's own.
#[derive(Clone, Debug)]
pub(crate) struct RawCustom(pub(crate) Custom);

impl RawCustom {
    pub(crate) fn knows(kind: &str, cx: &Cx) -> bool {
        cx.kinds().get(kind).is_some()
    }

    pub(crate) fn decode(kind: &str, node: &Node<'_>, cx: &mut Cx) -> Option<Self> {
        let kind = cx.kinds().get(kind)?.clone();
        let config = node.to_json();
        match kind.read(&config) {
            Ok(make) => Some(Self(Custom { kind: kind.name, slot: kind.slot, config, make })),
            Err(wrong) => {
                let steps = wrong.steps.iter().map(ToString::to_string).collect::<String>();
                let message = format!("`{}.{}{steps}`: {}", cx.here(), kind.name, wrong.message);
                // Serde says so of a key, and of all else of its value.
                let is_key = wrong.message.starts_with("unknown field");
                let span = inside(node, &wrong.steps, is_key);
                cx.error(Code::Value, span, message)
                    .help(format!("write what a `{}` takes; `schema` of this program shows it", kind.name));
                None
            }
        }
    }
}

/// As far as the steps lead; to the last key, if it is what is meant.
fn inside(node: &Node<'_>, steps: &[Step], is_key: bool) -> Span {
    let Some((step, steps)) = steps.split_first() else { return node.span };
    match (step, &node.value) {
        (Step::Key(key), Value::Map(entries)) => match entries.iter().find(|(it, _)| it.text == *key) {
            Some((key, _)) if is_key && steps.is_empty() => key.span,
            Some((_, value)) => inside(value, steps, is_key),
            None => node.span,
        },
        (Step::Index(index), Value::Seq(items)) => {
            items.get(*index).map_or(node.span, |item| inside(item, steps, is_key))
        }
        _ => node.span,
    }
}

record! {
    /// So many requests in so much time.
    RawRateLimit ("a rate limit such as `{rate: 20/m}`") {
        /// One to four windows; all must admit.
        rate: OneOrMany<Rate> = required;
        /// At once, for each window; the count of the rate if nothing is said.
        burst: OneOrMany<Whole<1, 4_294_967_295>> = optional, "[5, 50]";
        /// What makes a key: `client_ip`, `route`, `host`, `method`, `header:NAME`, `query:NAME`, `cookie:NAME`, `"{capture}"`.
        key: OneOrMany<KeyPart> = optional;
        /// Whom one account is for.
        scope: RawScope = "policy";
        /// What happens to a request that lacks a part of the key.
        on_missing: RawOnMissing = "shared";
        /// How far it takes effect.
        enforce: Enforce = "always";
        /// The bound of the key table.
        max_keys: Whole<16, 10_000_000> = "100000";
        /// How it is counted.
        algorithm: RawAlgorithmOfLimit = "gcra";
        /// What one request costs.
        cost: Whole<0, 4_294_967_295> = "1";
        /// Who has more or less: `by:` what is known of whoever asks, and a factor for each of its values;
        /// `anonymous` is whoever is not known.
        tiers: RawTiers = optional, "{by: jwt.tier, plus: 2x}";
        /// What responses say about it.
        fields: RawFields = "none";
        /// Count with other gateways that ask the same store.
        shared: RawShared = optional, "{store: limits, share: 34%}";
    }
    instead: store => "write `shared: {store: limits, share: 34%}`, and the store under `gateway: {stores: …}`",
        redis => "write `shared: {store: limits, share: 34%}`, and the store under `gateway: {stores: …}`",
        requests => "write `rate: 20/m`",
        limit => "write `rate: 20/m`",
        average => "write `rate: 20/m`",
        period => "write it into the rate: `rate: 20/m`",
        per => "write it into the rate: `rate: 20/m`",
        by => "write `key: [client_ip]`";
}

record! {
    /// How a limit is counted with other gateways.
    RawShared ("a share such as `{store: limits, share: 34%}`") {
        /// Which of `gateway.stores` has the accounts. A limit is known there by the name of its policy.
        store: Id = required, "limits";
        /// This gateway's part of rate and burst while the store does not answer: a third for one of three.
        share: Percent = required, "34%";
        /// The most that is held of one key, for a second: so much more may pass for each gateway. 0: every request asks.
        lease: Whole<0, 1_000_000> = "5";
        /// What happens while the store does not answer: the `share` decides, all pass (`open`), or none (`closed`, 503).
        on_failure: RawOnFailure = "share";
    }
    instead: nodes => "write the part of this one: `share: 34%` for one of three",
        fail_open => "write `on_failure: open`",
        fail_closed => "write `on_failure: closed`",
        failure_mode_deny => "write `on_failure: closed`";
}

words! {
    /// What happens while a store does not answer.
    RawOnFailure ("`share`, `open` or `closed`") { Share = "share", Open = "open", Closed = "closed" }
}

words! {
    /// How it is counted.
    RawAlgorithmOfLimit ("how requests are counted") { Gcra = "gcra", SlidingWindow = "sliding_window" }
    not_built: "fixed_window" "leaky_bucket" "token_bucket";
}

words! {
    /// What responses say: the fields of the IETF's draft, or `X-RateLimit-*`.
    RawFields ("what responses say") { None = "none", Draft = "draft", Legacy = "legacy" }
}

/// `by:` and factors.
pub(crate) type RawTiers = Named<Arc<str>, TierValue<Multiple>>;

/// What decides a tier, or what a tier has.
#[derive(Clone, Debug)]
pub(crate) enum TierValue<T> {
    By(IdentityPart),
    Has(T),
}

/// A factor, in percent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Multiple(pub(crate) u32);

impl Scalar for TierValue<Multiple> {
    const WHAT: &'static str = "a factor such as `2x`";
    const UNIT: &'static str = "`x`";

    fn parse(text: Text<'_>) -> Result<Self, Wrong> {
        if let Ok(part) = IdentityPart::parse(text) {
            return Ok(Self::By(part));
        }
        factor(text.text).map(|percent| Self::Has(Multiple(percent))).ok_or_else(|| {
            Wrong::new(format!("{} is not a factor", quoted(text.text)))
                .help("write `2x` or `0.2x` for a tier, and `by: jwt.tier` once")
        })
    }
}

impl Scalar for TierValue<Percent> {
    const WHAT: &'static str = "a share such as `70%`";
    const UNIT: &'static str = "`%`";

    fn parse(text: Text<'_>) -> Result<Self, Wrong> {
        match IdentityPart::parse(text) {
            Ok(part) => Ok(Self::By(part)),
            Err(_) => Percent::parse(text).map(Self::Has),
        }
    }
}

words! {
    /// Whom one account is for.
    RawScope ("whom one account is for") { Policy = "policy", Route = "route", Upstream = "upstream" }
    not_built: "gateway";
}

words! {
    /// What happens to a request that lacks a part of the key.
    RawOnMissing ("what happens to a request without the key") { Shared = "shared", Skip = "skip", Reject = "reject" }
}

record! {
    /// So many requests at once.
    RawBulkhead ("a bulkhead such as `{max: 50}`") {
        /// At work at once.
        max: Count = required, "50";
        /// Waiting at once.
        queue: Whole<0, 10_000_000> = "0";
        /// The longest wait.
        max_wait: OrZero = "200ms";
        /// How far it takes effect.
        enforce: Enforce = "always";
        /// Whom one account is for.
        scope: RawScope = "policy";
        /// What makes a partition: each key has `max` and `queue` of its own.
        key: OneOrMany<KeyPart> = optional;
        /// Keys with requests at work or waiting.
        max_keys: Whole<1, 10_000_000> = "10000";
        /// At work at once over all keys.
        total: Count = optional, "500";
        /// Who has places of its own, and may borrow: `by:` what is known of whoever asks, and a share for each of
        /// its values.
        tiers: RawPlaces = optional, "{by: jwt.tier, plus: {reserved: 10, max: 40}}";
        /// Who goes first when it is tight: `by:` what is known of whoever asks, and the part of the places that
        /// each of its values may use.
        priorities: Named<Arc<str>, TierValue<Percent>> = optional, "{by: jwt.tier, plus: 100%, anonymous: 70%}";
        /// A limit that follows what is behind.
        adaptive: Or<RawAdaptiveWord, RawAdaptive> = optional;
    }
    instead: max_concurrent => "write `max:`",
        limit => "write `max:`",
        timeout => "write `max_wait:`";
}

/// `by:` and shares.
pub(crate) type RawPlaces = Named<Arc<str>, Or<TierValue<NoPlaces>, RawShare>>;

/// Text that says no share.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NoPlaces;

impl Scalar for TierValue<NoPlaces> {
    const WHAT: &'static str = "`by: jwt.tier`";

    fn examples() -> Vec<&'static str> {
        vec!["jwt.tier"]
    }

    fn parse(text: Text<'_>) -> Result<Self, Wrong> {
        IdentityPart::parse(text).map(Self::By)
    }
}

record! {
    /// What a tier has of a bulkhead.
    RawShare ("a share such as `{reserved: 10, max: 40}`") {
        /// Places that are kept for it.
        reserved: Whole<0, 10_000_000> = "0";
        /// Places it may have in all, borrowed ones included.
        max: Count = required, "40";
    }
}

words! {
    /// A limit that is only computed.
    RawAdaptiveWord ("`observe`") { Observe = "observe" }
}

record! {
    /// A limit that follows what is behind.
    RawAdaptive ("an adaptive limit such as `{algorithm: gradient2}`") {
        /// How it follows.
        algorithm: RawAdaptiveAlgorithm = "gradient2";
        /// The lowest limit.
        min: Count = "1";
        /// The highest; `max` of the bulkhead if nothing is said.
        max: Count = optional, "200";
        /// For `aimd`: the longest mean latency at which all is well.
        latency: Duration = optional;
        /// `observe`: computed and shown; `always`: in force.
        enforce: RawAdapt = "observe";
    }
}

words! {
    /// How an adaptive limit follows.
    RawAdaptiveAlgorithm ("how a limit follows") { Gradient2 = "gradient2", Aimd = "aimd" }
    not_built: "vegas" "gradient";
}

words! {
    /// Whether an adaptive limit is in force.
    RawAdapt ("`observe` or `always`") { Observe = "observe", Always = "always" }
}

record! {
    /// Whoever has a signed token (RFC 7519); the keys come from exactly one place.
    RawJwt ("tokens such as `{jwks_url: https://id.example/jwks, audiences: [rides]}`") {
        /// Who may have made a token.
        issuer: OneOrMany<Arc<str>> = optional, "\"https://id.example\"";
        /// For whom a token may be made.
        audiences: OneOrMany<Arc<str>> = optional, "[rides]";
        /// Narrows what the keys allow.
        algorithms: OneOrMany<RawAlgorithm> = optional;
        /// Keys: a JWK set in a file, seen from the file that names it.
        jwks_file: Arc<str> = optional, "keys.json";
        /// Keys: a JWK set that is fetched, and kept fresh.
        jwks_url: Url = optional;
        /// Keys: a secret that is shared with whoever makes tokens; HS256.
        secret: RawSecret = optional;
        /// How fetched keys are kept.
        fetch: RawFetch = optional;
        /// Claims that have to be there, `exp` and `nbf`.
        require: OneOrMany<RawDate> = optional;
        /// How far clocks may differ.
        leeway: OrZero = "60s";
        /// `typ` of the token, such as `at+jwt`.
        token_type: Arc<str> = optional, "at+jwt";
        /// The longest token.
        max_token: Size = "8KiB";
        /// The claim with the scopes.
        scope_claim: Arc<str> = "scope", "scp";
        /// The claim with the roles; nested ones have dots.
        role_claim: Arc<str> = "roles", "realm_access.roles";
    }
    instead: issuers => "write `issuer:`; it takes a list too",
        audience => "write `audiences:`",
        aud => "write `audiences:`",
        iss => "write `issuer:`",
        jwks => "write `jwks_file: keys.json` or `jwks_url: https://…`",
        jwks_uri => "write `jwks_url:`",
        key => "write `secret: {env: NAME}`, `jwks_file:` or `jwks_url:`",
        clock_skew => "write `leeway:`";
}

impl RawJwt {
    /// Where keys come from.
    pub(crate) const KEYS: [&'static str; 3] = ["jwks_file", "jwks_url", "secret"];
}

words! {
    /// How tokens are signed.
    RawAlgorithm ("a way to sign") {
        Hs256 = "HS256", Rs256 = "RS256", Ps256 = "PS256", Es256 = "ES256", Es384 = "ES384", EdDsa = "EdDSA",
    }
    not_built: "RS384" "RS512" "PS384" "PS512" "ES512" "HS384" "HS512" "ES256K";
}

words! {
    /// A claim with a date.
    RawDate ("a claim with a date") { Exp = "exp", Nbf = "nbf" }
}

record! {
    /// How fetched keys are kept.
    RawFetch ("how keys are fetched") {
        /// The longest one attempt may take.
        timeout: Duration = "5s";
        /// The shortest time between two attempts, whoever asks.
        min_interval: Duration = "10s";
        /// How long keys are fresh where the answer does not say.
        fresh: Duration = "10m";
        /// How long keys count after the last good answer.
        max_stale: Duration = "24h";
    }
}

record! {
    /// A secret that stands somewhere else: exactly one place.
    RawSecretRef ("a reference such as `{env: NAME}` or `{file: /run/secrets/name}`") {
        /// A variable of the environment.
        env: Arc<str> = optional, "JWT_SECRET";
        /// A file; a line end at its end is no part of it.
        file: Arc<str> = optional, "/run/secrets/jwt";
    }
}

/// A secret, by reference; written out it is a mistake that takes effect. What is no reference is not shown.
#[derive(Clone, Debug)]
pub(crate) struct RawSecret(pub(crate) Or<Arc<str>, RawSecretRef>);

impl Decode for RawSecret {
    fn what() -> String {
        Or::<Arc<str>, RawSecretRef>::what()
    }

    fn decode(node: &Node<'_>, cx: &mut Cx) -> Option<Self> {
        let is_known = |(key, _): &(Key<'_>, Node<'_>)| ["env", "file"].contains(&&*key.text);
        if !matches!(&node.value, Value::Map(entries) if entries.iter().all(is_known)) {
            cx.hide(node.span);
        }
        Or::decode(node, cx).map(Self)
    }

    fn schema() -> Json {
        Or::<Arc<str>, RawSecretRef>::schema()
    }

    fn form() -> Form {
        Or::<Arc<str>, RawSecretRef>::form()
    }

    fn outline(node: &Node<'_>, tracer: &mut Tracer<'_>) {
        Or::<Arc<str>, RawSecretRef>::outline(node, tracer);
    }
}

record! {
    /// Whoever has a key; only the hashes of keys are kept.
    RawApiKey ("keys such as `{file: secrets/partners.yaml}`") {
        /// The list of keys, seen from the file that names it.
        file: Arc<str> = required, "secrets/partners.yaml";
        /// The header with the key.
        header: HeaderName = "x-api-key", "x-partner-key";
        /// Send the key on.
        forward: bool = "false";
    }
    instead: keys => "write the list into a file of its own: `file: secrets/partners.yaml`",
        name => "write `header:`",
        key_names => "write `header:`",
        hide_credentials => "write `forward: false`, which is the default";
}

record! {
    /// A list of API keys: a file of its own.
    RawApiKeys ("a list of keys such as `keys: [{sha256: …, subject: zomato}]`") {
        /// The keys.
        keys: Vec<At<RawApiKeyEntry>> = required, "[{sha256: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08, subject: zomato}]";
    }
}

record! {
    /// One API key.
    RawApiKeyEntry ("a key such as `{sha256: …, subject: zomato}`") {
        /// SHA-256 of the key, 64 hexadecimal digits.
        sha256: Hash = required, "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
        /// Whose key it is.
        subject: Arc<str> = required, "zomato";
        /// What it may do.
        scopes: OneOrMany<Arc<str>> = optional, "[orders.read]";
        /// What it is.
        roles: OneOrMany<Arc<str>> = optional, "partner";
        /// What else is known of it.
        claims: RawClaims = optional, "{tier: plus}";
        /// It counts until then.
        expires: Time = optional;
    }
    instead: key => "write only its hash: `sha256:`, as `printf %s KEY | sha256sum` says it",
        hash => "write `sha256:`",
        name => "write `subject:`",
        consumer => "write `subject:`";
}

/// Claims: names with a value or a list of them.
pub(crate) type RawClaims = Named<Arc<str>, OneOrMany<Arc<str>>>;

record! {
    /// Whoever has a password (HTTP Basic).
    RawBasicAuth ("passwords such as `{file: secrets/htpasswd}`") {
        /// Lines of `name:hash`, each hash an Argon2id one; seen from the file that names it.
        file: Arc<str> = required, "secrets/htpasswd";
        /// What clients are told they need a password for.
        realm: Arc<str> = "naka", "staff";
        /// How long a right password is remembered; `0s`: not at all.
        remember: OrZero = "5m";
        /// Checks at once; each takes a core and the memory its hash asks for.
        max_checks: Whole<1, 1000> = "2";
        /// Requests that wait for a check.
        max_waiting: Whole<0, 100_000> = "64";
        /// Send the password on.
        forward: bool = "false";
    }
    instead: users => "write the list into a file of its own: `file: secrets/htpasswd`",
        users_file => "write `file:`",
        hide_credentials => "write `forward: false`, which is the default",
        remove_header => "write `forward: false`, which is the default";
}

record! {
    /// Whoever another service lets in.
    RawForwardAuth ("another service such as `{url: \"http://127.0.0.1:9000/check\"}`") {
        /// Where it is asked, with `GET`.
        url: Url = required;
        /// Headers of the request that it sees; `authorization`, `cookie`, `x-request-id` and `traceparent` if
        /// nothing is said.
        send_headers: OneOrMany<HeaderName> = optional, "[authorization, cookie]";
        /// Headers of its answer that the request goes on with.
        copy_headers: OneOrMany<HeaderName> = optional, "[x-user]";
        /// The header of its answer that says who it is.
        subject: HeaderName = optional, "x-user";
        /// The longest wait for the whole answer.
        timeout: Duration = "1s";
        /// Questions at once.
        max_asking: Count = "1024";
        /// Remember whom it has let in.
        remember: RawRemember = optional;
    }
    instead: address => "write `url:`",
        uri => "write `url:`",
        auth_response_headers => "write `copy_headers:`",
        auth_request_headers => "write `send_headers:`",
        trust_forward_header => "who is believed is said in `gateway.trusted_proxies`";
}

record! {
    /// Whom it has let in, and by what.
    RawRemember ("what is remembered, such as `{by: [authorization], ttl: 30s}`") {
        /// The headers on which a decision depends, besides method, host and target: all of them.
        by: OneOrMany<HeaderName> = required, "[authorization]";
        /// How long.
        ttl: Duration = required;
    }
}

record! {
    /// What is repeated with the same key is answered again, and not done again.
    RawIdempotency ("idempotency keys such as `{ttl: 24h}`") {
        /// Where the key is.
        header: HeaderName = "idempotency-key", "x-idempotency-key";
        /// Methods that have keys; `POST` and `PATCH` if nothing is said.
        methods: OneOrMany<Method> = optional, "[POST, PUT]";
        /// Refuse a request of these methods without a key.
        required: bool = "false";
        /// Headers in which a repetition has to be the same; `content-type` if nothing is said.
        same_headers: OneOrMany<HeaderName> = optional, "[content-type, accept]";
        /// How long a key is known after its request has ended.
        ttl: Duration = "24h";
        /// Keys.
        max_keys: Whole<1, 100_000_000> = "10000";
        /// What all answers take.
        max_bytes: Size = "64MiB";
        /// The largest body of a request with a key: it is read before it goes on.
        max_request: Size = "1MiB";
        /// The largest answer that is remembered.
        max_response: Size = "256KiB";
        /// What bodies that are at hand and answers that are being written down take together.
        max_buffered: Size = "64MiB";
        /// What becomes of a failure: `release`, the key is free again; `keep`, nothing runs twice.
        failures: RawFailures = "release";
        /// At a bound let the oldest go before its time.
        evict: bool = "false";
    }
    instead: key => "write `header:`",
        expires => "write `ttl:`";
}

record! {
    /// What fails, or is slow, is left alone for a while.
    RawCircuitBreaker ("a circuit breaker such as `{consecutive: 5, open: 30s}`") {
        /// The settings of a well-known kind of service, for all that is not said here.
        preset: RawPreset = optional;
        /// Opens after so many failures in a row; `never` for not by that.
        consecutive: CountOrNever = optional;
        /// Opens when so many of the window have failed; `never` for not by that.
        failure_rate: PercentOrNever = optional;
        /// Opens when too many of the window were slow.
        slow_call: RawSlowCall = optional;
        /// Below so many results in the window no rate opens.
        min_requests: Whole<1, 2000> = optional, "20";
        /// Which results count for the rates: the last `100`, or those of the last `10s`.
        window: BreakerWindow = optional;
        /// How long it is open: `30s`, or `1s..60s` if it grows while probes go on failing.
        open: OpenTimes = optional;
        /// Probes at work at once while it is half open.
        probes: Whole<1, 15> = optional, "3";
        /// Probes that have to go well until it closes.
        successes: Whole<1, 15> = optional, "3";
        /// After so long without news, probes lose their places.
        probe_timeout: Duration = optional;
        /// For so long after it was open a growing share passes.
        ramp: OrZero = optional;
        /// Responses with one of these are failures, and no others; `500-599` but for 501 and 505 if nothing is said.
        statuses: OneOrMany<ErrorStatuses> = optional;
        /// One breaker for each of these; else one for the whole policy.
        key: OneOrMany<KeyPart> = optional;
        /// Keys that have a breaker.
        max_keys: Whole<32, 1_000_000> = "10000";
        /// Of an upstream: at most so many of its endpoints are left alone at once, and never all unless it says `all`.
        max_ejected: PercentOrAll = "30%";
        /// Whom one account is for.
        scope: RawScope = "policy";
        /// How far it takes effect.
        enforce: Enforce = "always";
    }
    instead: threshold => "write `consecutive: 5`",
        failures => "write `consecutive: 5`",
        timeout => "write `open: 30s`; how long a call may take, `timeouts` of the upstream say",
        recovery_timeout => "write `open: 30s`",
        error_rate => "write `failure_rate: 50%`";
}

words! {
    /// Well-known kinds of services.
    RawPreset ("a kind of service") {
        IrctcBooking = "irctc_booking",
        PaymentGateway = "payment_gateway",
        FoodDelivery = "food_delivery",
        CabBooking = "cab_booking",
    }
}

record! {
    /// When a call is slow, and how many may be.
    RawSlowCall ("slow calls such as `{over: 2s, rate: 80%}`") {
        /// Slow is what takes so long to its response's head, or longer.
        over: Duration = required;
        /// Opens when so many of the window were slow.
        rate: Percent = "80%";
    }
}

/// So many, or `never`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CountOrNever(pub(crate) u32);

impl Scalar for CountOrNever {
    const WHAT: &'static str = "a number such as `5`, or `never`";

    fn parse(text: Text<'_>) -> Result<Self, Wrong> {
        if text.text == "never" {
            return Ok(Self(0));
        }
        let Whole(number) = Whole::<1, 1_000_000>::parse(text)?;
        Ok(Self(u32::try_from(number).unwrap_or(u32::MAX)))
    }

    fn schema() -> Json {
        json!({"anyOf": [{"type": "integer", "minimum": 1, "maximum": 1_000_000}, {"enum": ["never"]}]})
    }
}

/// So many of a hundred, or `never`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PercentOrNever(pub(crate) u8);

impl Scalar for PercentOrNever {
    const WHAT: &'static str = "a percentage such as `50%`, or `never`";
    const UNIT: &'static str = "`%`";

    fn parse(text: Text<'_>) -> Result<Self, Wrong> {
        if text.text == "never" {
            return Ok(Self(0));
        }
        Percent::parse(text).map(|Percent(percent)| Self(percent))
    }
}

/// A percentage, or `all`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PercentOrAll(pub(crate) Option<u8>);

impl Scalar for PercentOrAll {
    const WHAT: &'static str = "a percentage such as `30%`, or `all`";
    const UNIT: &'static str = "`%`";

    fn parse(text: Text<'_>) -> Result<Self, Wrong> {
        match text.text {
            "all" => Ok(Self(None)),
            _ => Percent::parse(text).map(|Percent(percent)| Self(Some(percent))),
        }
    }

    fn schema() -> Json {
        json!({"anyOf": [<Percent as Scalar>::schema(), {"const": "all"}]})
    }
}

impl Scalar for BreakerWindow {
    const WHAT: &'static str = "so many results such as `100`, or those of a time such as `10s`";
    const UNIT: &'static str = "results, or `ms` `s` `m` `h` `d`";

    fn parse(text: Text<'_>) -> Result<Self, Wrong> {
        if text.text.bytes().all(|byte| byte.is_ascii_digit()) {
            let Whole(results) = Whole::<10, 100_000>::parse(text)?;
            return Ok(Self::Count(u32::try_from(results).unwrap_or(u32::MAX)));
        }
        Duration::parse(text).map(Self::Time)
    }

    fn schema() -> Json {
        json!({"type": ["integer", "string"], "examples": [100, "10s"]})
    }
}

/// How long a breaker is open at first, and at most.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OpenTimes(pub(crate) Duration, pub(crate) Duration);

impl Scalar for OpenTimes {
    const WHAT: &'static str = "a duration such as `30s`, or two such as `1s..60s`";
    const UNIT: &'static str = TIME;

    fn parse(text: Text<'_>) -> Result<Self, Wrong> {
        let (first, most) = text.text.split_once("..").unwrap_or((text.text, text.text));
        let part = |part: &str| Duration::parse(Text { text: part, ..text });
        let (first, most) = (part(first)?, part(most)?);
        if most < first {
            let message = format!("{} goes down", quoted(text.text));
            return Err(Wrong::new(message).help("write the shorter time first: `1s..60s`"));
        }
        Ok(Self(first, most))
    }
}

record! {
    /// What is sent again, and how.
    RawRetry ("retries such as `{max: 1}`") {
        /// So many attempts after the first.
        max: Whole<1, 10> = "1";
        /// After what: `connect_error`, `reset`, `refused_stream`, `response_timeout`, and responses with these
        /// statuses; `[connect_error, reset, refused_stream, 503]` if nothing is said.
        when: OneOrMany<RetryWhen> = optional;
        /// Which methods may be sent again although they may have been seen.
        methods: RawRetryMethods = "idempotent";
        /// Whoever is behind remembers `Idempotency-Key`s: a request that has one may be sent again.
        keyed: bool = "false";
        /// The upper bound of the pause before the second attempt, and of any: the pause is drawn below it.
        backoff: OpenTimes = "25ms..250ms";
        /// The longest `Retry-After` that is waited for.
        max_retry_after: Duration = "1s";
        /// The longest body that is kept to be sent again.
        max_body: Size = "64KiB";
        /// To another endpoint, if there is one.
        different_endpoint: bool = "true";
    }
    instead: attempts => "write `max: 1`: so many after the first",
        num_retries => "write `max: 1`",
        retries => "write `max: 1`",
        on => "write `when: [connect_error, reset, 503]`",
        retry_on => "write `when: [connect_error, reset, 503]`",
        per_try_timeout => "write `timeouts: {per_try: 2s}` into the upstream",
        timeout => "write `timeouts: {per_try: 2s}` into the upstream",
        budget => "write `retry_budget` into the upstream: all its routes spend it together";
}

words! {
    /// Methods that may be sent again.
    RawRetryMethods ("which methods") { None = "none", Safe = "safe", Idempotent = "idempotent" }
}

/// After what a request is sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RetryWhen {
    ConnectError,
    Reset,
    RefusedStream,
    ResponseTimeout,
    Statuses(ErrorStatuses),
}

impl Scalar for RetryWhen {
    const WHAT: &'static str =
        "`connect_error`, `reset`, `refused_stream`, `response_timeout`, or statuses such as `503` or `5xx`";

    fn parse(text: Text<'_>) -> Result<Self, Wrong> {
        match text.text {
            "connect_error" => Ok(Self::ConnectError),
            "reset" => Ok(Self::Reset),
            "refused_stream" => Ok(Self::RefusedStream),
            "response_timeout" => Ok(Self::ResponseTimeout),
            other if other.starts_with(|first: char| first.is_ascii_digit()) => {
                ErrorStatuses::parse(text).map(Self::Statuses)
            }
            other => {
                let words = ["connect_error", "reset", "refused_stream", "response_timeout"];
                Err(wrong_word(other, &words, &[], &[]))
            }
        }
    }

    fn schema() -> Json {
        json!({"type": ["integer", "string"], "examples": ["connect_error", "reset", "refused_stream", "response_timeout", 503, "5xx"]})
    }
}

record! {
    /// What was answered is answered again while it is good.
    RawCache ("a cache such as `{max_bytes: 64MiB, stale_if_error: 1h}`") {
        /// How long an answer is fresh that does not say so itself.
        default_ttl: OrNever = "never";
        /// How long a stale answer stands in for a failure, if it does not say so itself.
        stale_if_error: OrNever = "never";
        /// How long a request waits for the same one of somebody else; `never`: not at all.
        coalesce: OrNever = "1s";
        /// The longest body that is kept.
        max_body: Size = "1MiB";
        /// What all of it may take, for each route.
        max_bytes: Size = "64MiB";
    }
    instead: ttl => "write `default_ttl: 30s`: what an answer says itself comes first",
        max_age => "write `default_ttl: 30s`: what an answer says itself comes first",
        stale => "write `stale_if_error: 1h`",
        size => "write `max_bytes: 64MiB`",
        key => "host, path, query, version and scheme tell apart; an upstream names headers in `Vary`";
}

record! {
    /// What is not answered for a while is sent once more, and when.
    RawHedge ("hedges such as `{after: p95}` or `{after: 100ms}`") {
        /// How long an attempt is waited for: a time, or as long as that share of the answers takes.
        after: RawAfter = required;
        /// No shorter than that, by a share of the answers.
        min_after: Duration = optional;
        /// No longer than that, by a share of the answers; and that long while too few have been seen.
        max_after: Duration = optional;
        /// So many attempts after the first.
        max: Whole<1, 3> = "1";
        /// Which methods may be done twice at once.
        methods: RawHedgeMethods = "safe";
        /// Whoever is behind remembers `Idempotency-Key`s: a request that has one may be sent twice.
        keyed: bool = "false";
        /// The longest body that is kept to be sent again.
        max_body: Size = "64KiB";
    }
    instead: delay => "write `after: 100ms`",
        percentile => "write `after: p95`",
        attempts => "write `max: 1`: so many after the first",
        budget => "write `retry_budget` into the upstream: all its routes spend it together";
}

words! {
    /// Methods that may be done twice at once.
    RawHedgeMethods ("which methods") { Safe = "safe", Idempotent = "idempotent" }
}

/// How long an attempt is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RawAfter {
    Fixed(Duration),
    Percentile(u8),
}

impl Scalar for RawAfter {
    const WHAT: &'static str = "a duration such as `100ms`, or a percentile such as `p95`";
    const UNIT: &'static str = TIME;

    fn parse(text: Text<'_>) -> Result<Self, Wrong> {
        let Some(percent) = text.text.strip_prefix('p') else {
            return Duration::parse(text).map(Self::Fixed);
        };
        let known = percent.parse().ok().filter(|percent| (1..=99).contains(percent));
        known.map(Self::Percentile).ok_or_else(|| {
            let message = format!("{} is not a percentile", quoted(text.text));
            Wrong::new(message).help("write `p1` to `p99`: so many of a hundred answers take no longer")
        })
    }

    fn schema() -> Json {
        json!({"type": "string", "examples": ["100ms", "p95"]})
    }
}

record! {
    /// What failed is answered in another way: `respond` or `upstream`.
    RawFallback ("a fallback such as `{respond: {status: 200, body: none}}` or `{upstream: other}`") {
        /// An answer of the gateway's own, for any request.
        respond: RawRespond = optional;
        /// Another upstream, which is asked for what is safe or was never sent.
        upstream: Id = optional, "other";
        /// What is asked there, in place of what the route rewrites.
        rewrite: RawRewrite = optional;
        /// After what: `connect_error`, `reset`, `refused_stream`, `response_timeout`, `circuit_open`, `no_endpoint`,
        /// `bulkhead_full`, and responses with these statuses; all of these words and 503 if nothing is said.
        when: OneOrMany<FallbackWhen> = optional;
        /// The longest body that is kept for the other upstream.
        max_body: Size = "64KiB";
    }
    instead: response => "write `respond: {status: 200, body: …}`",
        status => "write `respond: {status: 200, body: …}`",
        body => "write `respond: {status: 200, body: …}`",
        service => "write `upstream:`",
        route => "write `upstream:` and `rewrite: {path: …}` with what is asked there",
        cache => "write `cache: {stale_if_error: 1h}` into the route: it comes before the fallback",
        stale_cache => "write `cache: {stale_if_error: 1h}` into the route: it comes before the fallback",
        on => "write `when: [circuit_open, 503]`",
        statuses => "write them into `when`: `when: [circuit_open, 502-504]`",
        methods => "what is safe is asked elsewhere, and all else only if it was never sent",
        budget => "it spends the `retry_budget` of the upstream that failed";
}

/// After what a request is answered in another way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FallbackWhen {
    ConnectError,
    Reset,
    RefusedStream,
    ResponseTimeout,
    CircuitOpen,
    NoEndpoint,
    BulkheadFull,
    Statuses(ErrorStatuses),
}

impl FallbackWhen {
    const WORDS: [(&'static str, Self); 7] = [
        ("connect_error", Self::ConnectError),
        ("reset", Self::Reset),
        ("refused_stream", Self::RefusedStream),
        ("response_timeout", Self::ResponseTimeout),
        ("circuit_open", Self::CircuitOpen),
        ("no_endpoint", Self::NoEndpoint),
        ("bulkhead_full", Self::BulkheadFull),
    ];

    /// If nothing is said.
    pub(crate) fn usual() -> Vec<Self> {
        let words = Self::WORDS.into_iter().map(|(_, when)| when);
        words.chain([Self::Statuses(ErrorStatuses(503, 503))]).collect()
    }
}

impl Scalar for FallbackWhen {
    const WHAT: &'static str =
        "a word such as `circuit_open` or `connect_error`, or statuses such as `503` or `5xx`";

    fn parse(text: Text<'_>) -> Result<Self, Wrong> {
        if text.text.starts_with(|first: char| first.is_ascii_digit()) {
            return ErrorStatuses::parse(text).map(Self::Statuses);
        }
        let known = Self::WORDS.iter().find(|(word, _)| *word == text.text);
        known
            .map(|(_, when)| *when)
            .ok_or_else(|| wrong_word(text.text, &Self::WORDS.map(|(word, _)| word), &[], &[]))
    }

    fn schema() -> Json {
        let words = Self::WORDS.map(|(word, _)| json!(word));
        let examples = words.into_iter().chain([json!(503), json!("5xx")]);
        json!({"type": ["integer", "string"], "examples": examples.collect::<Vec<_>>()})
    }
}

record! {
    /// A copy of some requests goes to another upstream, and nobody waits for it.
    RawMirror ("a mirror such as `{upstream: app-v2, sample: 1%}`") {
        /// Where copies go.
        upstream: Id = required, "app-v2";
        /// So many of the requests.
        sample: Percent = "100%";
        /// Which: `safe` ones, or `all`; has to be said where a route takes others than safe ones.
        methods: RawMirrorMethods = optional;
        /// Copies that are under way at once; what is over that is not copied.
        max: Whole<1, 10_000> = "64";
        /// How long one may take.
        timeout: Duration = "5s";
        /// The longest body that is copied.
        max_body: Size = "64KiB";
        /// Copies have the credentials of the request.
        credentials: bool = "true";
    }
    instead: to => "write `upstream:`",
        cluster => "write `upstream:`",
        service => "write `upstream:`",
        percent => "write `sample: 1%`",
        percentage => "write `sample: 1%`",
        fraction => "write `sample: 1%`",
        runtime_fraction => "write `sample: 1%`",
        sample_ratio => "write `sample: 1%`",
        mirrors => "a route has one mirror: write `mirror: {upstream: app-v2}`",
        scope => "a mirror with a name has one account for all its routes; one that is written in place is the route's own";
}

words! {
    /// Which requests are copied.
    RawMirrorMethods ("which methods") { Safe = "safe", All = "all" }
}

words! {
    /// What becomes of a failure.
    RawFailures ("what becomes of a failure") { Release = "release", Keep = "keep" }
}

record! {
    /// Errors and delays for whoever asks for them: `abort`, `delay` or both.
    RawFault ("faults such as `{header: x-chaos, until: 2026-12-01, abort: {percent: 5%, status: 503}}`") {
        /// Only requests with this header are hit.
        header: HeaderName = required, "x-chaos";
        /// Only with this value of it.
        value: HeaderValue = optional, "monday";
        /// When it ends.
        until: Time = required;
        /// Answer some with an error.
        abort: RawAbort = optional;
        /// Keep some waiting.
        delay: RawDelay = optional;
        /// Requests that are kept waiting at once.
        max_delayed: Count = "1000";
        /// Load in production, too.
        in_production: bool = "false";
    }
}

record! {
    /// Some are answered with an error.
    RawAbort ("an abort such as `{percent: 5%, status: 503}`") {
        /// How many.
        percent: Percent = required;
        /// With what.
        status: StatusCode = required;
    }
}

record! {
    /// Some are kept waiting.
    RawDelay ("a delay such as `{percent: 10%, time: 5s}`") {
        /// How many.
        percent: Percent = required;
        /// How long.
        time: Duration = required;
    }
}

record! {
    /// What pages of other origins may ask and read (the Fetch standard).
    RawCors ("origins such as `{origins: [\"https://app.example\"]}`") {
        /// Whose pages: `https://app.example`, `https://*.shop.example`, or `"*"` for everybody's.
        origins: OneOrMany<Arc<str>> = required, "[\"https://app.example\"]";
        /// The methods they may use; `GET`, `HEAD` and `POST` if nothing is said.
        methods: OneOrMany<Method> = optional, "[GET, POST]";
        /// The headers they may send; `"*"`: whichever they want to.
        headers: OneOrMany<Arc<str>> = optional, "[authorization, content-type]";
        /// The headers they may read.
        expose: OneOrMany<HeaderName> = optional;
        /// Whether they may send cookies and the like.
        credentials: bool = "false";
        /// How long a browser may remember the answer.
        max_age: Duration = optional;
    }
    instead: allow_origins => "write `origins:`",
        allowed_origins => "write `origins:`",
        allow_methods => "write `methods:`",
        allow_headers => "write `headers:`",
        exposed_headers => "write `expose:`",
        allow_credentials => "write `credentials:`";
}

record! {
    /// Make responses smaller, for clients that say they understand it.
    RawCompress ("compression such as `{algorithms: [br, gzip]}`") {
        /// Which; the client's preference decides.
        algorithms: OneOrMany<RawCoding> = optional;
        /// Smaller ones are left as they are; those whose size is not known are not.
        min_size: Size = "1KiB";
    }
    instead: types => "all are compressed but images, gRPC and event streams",
        level => "there is one level, made for answers that are compressed while they are sent";
}

words! {
    /// A way to make a body smaller.
    RawCoding ("a content coding") { Br = "br", Gzip = "gzip" }
    not_built: "zstd" "deflate";
}

record! {
    /// A rule: exactly one of its keys.
    RawRuleKeys ("a rule such as `{any: [{scope: rides.read}, {role: support}]}`") {
        /// Each of these.
        all: Vec<At<RawRule>> = optional, "[{scope: rides.read}, {role: support}]";
        /// One of these.
        any: Vec<At<RawRule>> = optional, "[{scope: rides.read}, {role: support}]";
        /// Not this.
        not: RawRule = optional, "{cidr: 10.9.0.0/16}";
        /// `true`: whoever is known.
        authenticated: Known = optional;
        /// A scope; of several one is enough.
        scope: OneOrMany<Arc<str>> = optional, "rides.read";
        /// A role; of several one is enough.
        role: OneOrMany<Arc<str>> = optional, "[support, driver]";
        /// Who it is; of several one.
        identity: OneOrMany<Arc<str>> = optional, "zomato";
        /// What credentials say: a value, or a list of which one is enough; several claims all have to fit.
        claim: RawClaims = optional, "{tier: [plus, premium]}";
        /// A method; of several one.
        method: OneOrMany<Method> = optional;
        /// Where it comes from; of several one.
        cidr: OneOrMany<IpNet> = optional;
    }
    instead: scopes => "write `scope:`; it takes a list too, of which one is enough",
        roles => "write `role:`; it takes a list too, of which one is enough",
        claims => "write `claim: {tier: plus}`",
        methods => "write `method:`",
        ip => "write `cidr:`",
        subject => "write `identity:`",
        or => "write `any:`",
        and => "write `all:`";
}

/// `true`, of whoever is known.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Known;

impl Scalar for Known {
    const WHAT: &'static str = "`true`";

    fn parse(text: Text<'_>) -> Result<Self, Wrong> {
        if bool::parse(text)? {
            return Ok(Self);
        }
        Err(Wrong::new("`authenticated: false` is not said like this")
            .help("write `not: {authenticated: true}`"))
    }

    fn schema() -> Json {
        json!({"const": true})
    }
}

/// A rule, within rules.
#[derive(Clone, Debug)]
pub(crate) struct RawRule(pub(crate) Box<RawRuleKeys>);

impl Decode for RawRule {
    fn what() -> String {
        RawRuleKeys::what()
    }

    fn decode(node: &Node<'_>, cx: &mut Cx) -> Option<Self> {
        RawRuleKeys::decode(node, cx).map(|it| Self(Box::new(it)))
    }

    /// By reference: rules stand within rules.
    fn schema() -> Json {
        json!({"$ref": "#/$defs/rule"})
    }

    fn form() -> Form {
        RawRuleKeys::form()
    }
}
