//! Idempotency keys, circuit breakers and faults.

use std::{sync::Arc, time::Duration};

use http::{HeaderName, Method};

use super::{
    Tables,
    limits::scope,
    policies::Unnamed,
    routes::{respond, rewrite_of},
    unique,
};
use crate::config::{
    checked::{
        self, BreakerWindow, Cache, CircuitBreaker, Compress, Cors, Fallback, Fault, Hedge, HedgeAfter,
        Idempotency, Instead, Mirror, MirrorMethods, PolicyKind, Retry, RetryMethods, Scope,
    },
    decode::{At, Cx, OneOrMany},
    diagnostic::Code,
    node::Span,
    raw::{
        FallbackWhen, RawAfter, RawCache, RawCircuitBreaker, RawCoding, RawCompress, RawCors, RawEnvironment,
        RawFailures, RawFallback, RawFault, RawHedge, RawHedgeMethods, RawIdempotency, RawMirror,
        RawMirrorMethods, RawPreset, RawRetry, RawRetryMethods, RetryWhen,
    },
    values::ErrorStatuses,
};

pub(super) fn idempotency(raw: &RawIdempotency, cx: &mut Cx) -> Unnamed {
    if let Some(methods) = &raw.methods {
        unique(&methods.value.0, "method", cx);
        let safe = methods
            .value
            .0
            .iter()
            .find(|at| [Method::GET, Method::HEAD, Method::OPTIONS].contains(&at.value));
        if let Some(safe) = safe {
            cx.error(Code::Conflict, safe.span, format!("`{}` can be repeated without a key", safe.value))
                .help("write methods that change something: `[POST, PATCH]`");
        }
        if methods.value.0.is_empty() {
            cx.error(Code::Value, methods.span, "keys for no method")
                .help("take `methods` away for `POST` and `PATCH`");
        }
    }
    if let (Some(one), false) = (&raw.max_response, raw.max_response().0 <= raw.max_bytes().0) {
        cx.error(Code::Conflict, one.span, "one answer is larger than all of them may be")
            .help("write a larger `max_bytes`, or a smaller `max_response`");
    }
    let (all, bounds) = (raw.max_buffered(), [("body", raw.max_request()), ("answer", raw.max_response())]);
    if let Some((what, _)) = bounds.into_iter().find(|(_, one)| one.0 > all.0) {
        let said = raw.max_buffered.as_ref().or(raw.max_request.as_ref()).or(raw.max_response.as_ref());
        if let Some(at) = said {
            let message = format!("one {what} may be larger than all that are at hand together");
            cx.error(Code::Conflict, at.span, message)
                .help("write a larger `max_buffered`, or a smaller `max_request` or `max_response`");
        }
    }
    let kind = PolicyKind::Idempotency(Idempotency {
        header: raw.header(),
        methods: values(raw.methods.as_deref()),
        required: raw.required(),
        same_headers: values(raw.same_headers.as_deref()),
        ttl: raw.ttl(),
        max_keys: usize::try_from(raw.max_keys().0).unwrap_or(usize::MAX),
        max_bytes: raw.max_bytes().0,
        max_request: raw.max_request().0,
        max_response: raw.max_response().0,
        max_buffered: raw.max_buffered().0,
        keeps_failures: raw.failures() == RawFailures::Keep,
        evict: raw.evict(),
    });
    Unnamed::stateless(kind)
}

pub(super) fn circuit_breaker(raw: &RawCircuitBreaker, cx: &mut Cx) -> Unnamed {
    if let Some(max_keys) = raw.max_keys.as_ref().filter(|_| raw.said("key").is_none()) {
        cx.error(Code::Conflict, max_keys.key, "`max_keys` without `key` has no effect")
            .help("write `key: [\"{id}\"]`, or take `max_keys` away");
    }
    let is_never = |rate: u8| rate == 0;
    let never_by_count = raw.consecutive.as_ref().is_some_and(|at| at.value.0 == 0);
    let never_by_rate = raw.failure_rate.as_ref().is_some_and(|at| is_never(at.value.0));
    if let (true, true, Some(at), None, None) =
        (never_by_count, never_by_rate, &raw.failure_rate, raw.said("slow_call"), raw.said("preset"))
    {
        cx.error(Code::Unused, at.span, "this breaker never opens")
            .help("write `consecutive`, `failure_rate` or `slow_call`, or take it away");
    }
    // Presets say both in a way that fits.
    let window =
        raw.window.as_ref().map(|at| at.value).or(raw.preset.is_none().then_some(BreakerWindow::Count(100)));
    if let (Some(at), Some(BreakerWindow::Count(results))) = (&raw.min_requests, window)
        && at.value.0 > u64::from(results)
    {
        let message =
            format!("a window of {results} results never has {} requests: no rate opens it", at.value.0);
        cx.error(Code::Unused, at.span, message)
            .help(format!("write `min_requests: {results}` or less, or a larger `window`"));
    }
    let small = |number: u64| u8::try_from(number).unwrap_or(u8::MAX);
    let kind = PolicyKind::CircuitBreaker(CircuitBreaker {
        preset: raw.preset.as_ref().map(|at| match at.value {
            RawPreset::IrctcBooking => "irctc_booking",
            RawPreset::PaymentGateway => "payment_gateway",
            RawPreset::FoodDelivery => "food_delivery",
            RawPreset::CabBooking => "cab_booking",
        }),
        consecutive: raw.consecutive.as_ref().map(|at| at.value.0),
        failure_rate: raw.failure_rate.as_ref().map(|at| at.value.0),
        slow_call: raw
            .slow_call
            .as_ref()
            .and_then(|at| Some((at.value.over.as_ref()?.value, at.value.rate().0))),
        min_requests: raw.min_requests.as_ref().map(|at| u32::try_from(at.value.0).unwrap_or(u32::MAX)),
        window: raw.window.as_ref().map(|at| at.value),
        open: raw.open.as_ref().map(|at| (at.value.0, at.value.1)),
        probes: raw.probes.as_ref().map(|at| small(at.value.0)),
        successes: raw.successes.as_ref().map(|at| small(at.value.0)),
        probe_timeout: raw.probe_timeout.as_ref().map(|at| at.value),
        ramp: raw.ramp.as_ref().map(|at| at.value.0),
        statuses: raw
            .statuses
            .iter()
            .flat_map(|list| &list.value.0)
            .map(|at| (at.value.0, at.value.1))
            .collect(),
        key: raw.key.iter().flat_map(|key| key.value.0.iter().map(|at| at.value.clone())).collect(),
        max_keys: usize::try_from(raw.max_keys().0).unwrap_or(usize::MAX),
        max_ejected: raw.max_ejected().0,
    });
    let key = raw.key.as_ref().map(|key| key.span);
    Unnamed { kind, enforce: raw.enforce(), scope: scope(raw.scope()), key }
}

/// One that is written into a route, group or listener.
pub(super) fn route_breaker(raw: &RawCircuitBreaker, cx: &mut Cx) -> Unnamed {
    if let Some(max_ejected) = &raw.max_ejected {
        cx.error(Code::Conflict, max_ejected.key, "`max_ejected` is for the breaker of an upstream").help(
            "write this `circuit_breaker` into the upstream, where each endpoint has one; or take `max_ejected` away",
        );
    }
    circuit_breaker(raw, cx)
}

/// One that is written into an upstream.
pub(super) fn endpoint_breaker(raw: &RawCircuitBreaker, cx: &mut Cx) -> Unnamed {
    let scope = raw.scope.as_ref().map(|at| ("scope", at.key));
    let said =
        [raw.key.as_ref().map(|at| ("key", at.key)), raw.max_keys.as_ref().map(|at| ("max_keys", at.key))];
    for (word, span) in said.into_iter().flatten().chain(scope) {
        cx.error(Code::Conflict, span, format!("`{word}` is for the breaker of a route"))
            .help("an upstream has a breaker for each of its endpoints: take it away, or write the breaker into the route");
    }
    circuit_breaker(raw, cx)
}

pub(super) fn retry(raw: &RawRetry, cx: &mut Cx) -> Unnamed {
    let usual = [
        RetryWhen::ConnectError,
        RetryWhen::Reset,
        RetryWhen::RefusedStream,
        RetryWhen::Statuses(ErrorStatuses(503, 503)),
    ];
    let when = values(raw.when.as_deref()).unwrap_or_else(|| usual.to_vec());
    let has = |wanted: RetryWhen| when.contains(&wanted);
    if let Some(said) = raw.when.as_ref().filter(|at| at.value.0.is_empty()) {
        cx.error(Code::Value, said.span, "retries after nothing")
            .help("write `when: [connect_error, reset, 503]`, or take `retry` away");
    }
    let statuses = when.iter().filter_map(|when| match when {
        RetryWhen::Statuses(ErrorStatuses(from, to)) => Some((*from, *to)),
        _ => None,
    });
    let backoff = raw.backoff();
    let kind = PolicyKind::Retry(Retry {
        max: u32::try_from(raw.max().0).unwrap_or(u32::MAX),
        when: checked::RetryWhen {
            connect_error: has(RetryWhen::ConnectError),
            reset: has(RetryWhen::Reset),
            refused_stream: has(RetryWhen::RefusedStream),
            response_timeout: has(RetryWhen::ResponseTimeout),
            statuses: statuses.collect(),
        },
        methods: match raw.methods() {
            RawRetryMethods::None => RetryMethods::None,
            RawRetryMethods::Safe => RetryMethods::Safe,
            RawRetryMethods::Idempotent => RetryMethods::Idempotent,
        },
        keyed: raw.keyed(),
        backoff: (backoff.0, backoff.1),
        max_retry_after: raw.max_retry_after(),
        max_body: raw.max_body().0,
        different_endpoint: raw.different_endpoint(),
    });
    Unnamed::stateless(kind)
}

pub(super) fn hedge(raw: &RawHedge, cx: &mut Cx) -> Option<Unnamed> {
    let after = raw.after.as_ref()?;
    let bounds = [("min_after", raw.min_after.as_ref()), ("max_after", raw.max_after.as_ref())];
    let after = match after.value {
        RawAfter::Fixed(fixed) => {
            for (word, bound) in bounds.into_iter().filter_map(|(word, bound)| Some((word, bound?))) {
                cx.error(Code::Conflict, bound.key, format!("`{word}` has no effect beside a fixed `after`"))
                    .help("take it away; or write `after: p95`, and it bounds what that comes to");
            }
            HedgeAfter::Fixed(fixed)
        }
        RawAfter::Percentile(percent) => {
            let [at_least, at_most] = bounds.map(|(_, bound)| bound.map(|at| at.value));
            let usual = Duration::from_millis(1);
            let at_most = at_most.unwrap_or(Duration::from_secs(1).max(at_least.unwrap_or(usual)));
            let at_least = at_least.unwrap_or(usual.min(at_most));
            if let Some(bound) = raw.min_after.as_ref().filter(|_| at_least > at_most) {
                cx.error(Code::Conflict, bound.span, "`min_after` is longer than `max_after`")
                    .help("write the shorter time into `min_after`");
            }
            HedgeAfter::Percentile { percent, at_least, at_most }
        }
    };
    Some(Unnamed::stateless(PolicyKind::Hedge(Hedge {
        after,
        max: u32::try_from(raw.max().0).unwrap_or(u32::MAX),
        is_idempotent: raw.methods() == RawHedgeMethods::Idempotent,
        keyed: raw.keyed(),
        max_body: raw.max_body().0,
    })))
}

pub(super) fn cache(raw: &RawCache, cx: &mut Cx) -> Unnamed {
    let (max_body, max_bytes) = (raw.max_body().0, raw.max_bytes().0);
    if let Some(at) = raw.max_body.as_ref().or(raw.max_bytes.as_ref()).filter(|_| max_body > max_bytes) {
        cx.error(Code::Conflict, at.span, "`max_body` is more than `max_bytes`")
            .help("write the larger size into `max_bytes`: it is what all bodies together may take");
    }
    // What belongs to one route is found by nobody on another.
    Unnamed {
        scope: Scope::Route,
        ..Unnamed::stateless(PolicyKind::Cache(Cache {
            default_ttl: raw.default_ttl().0.unwrap_or_default(),
            stale_if_error: raw.stale_if_error().0.unwrap_or_default(),
            coalesce: raw.coalesce().0,
            max_body,
            max_bytes,
        }))
    }
}

pub(super) fn fallback(raw: &RawFallback, at: Span, tables: &Tables<'_>, cx: &mut Cx) -> Option<Unnamed> {
    match (raw.said("respond"), raw.said("upstream")) {
        (Some(first), Some(second)) => {
            let place = cx.place(first);
            cx.error(Code::Conflict, second, "`upstream` beside `respond`")
                .label("the second")
                .related(place, "the first")
                .help("a fallback is one step: keep one of the two");
        }
        (None, None) => {
            cx.error(Code::Missing, at, "a fallback to nothing")
                .help("write `respond: {status: 200, body: …}`, or `upstream: name`");
        }
        (Some(_), None) => {
            if let Some(max_body) = &raw.max_body {
                cx.error(Code::Conflict, max_body.key, "`max_body` beside `respond` has no effect")
                    .help("take it away: no body has to be kept for an answer of the gateway's own");
            }
            if let Some(rewrite) = &raw.rewrite {
                cx.error(Code::Conflict, rewrite.key, "`rewrite` beside `respond` has no effect")
                    .help("take it away: nobody is asked");
            }
        }
        (None, Some(_)) => {}
    }
    let when = values(raw.when.as_deref()).unwrap_or_else(FallbackWhen::usual);
    if let Some(said) = raw.when.as_ref().filter(|at| at.value.0.is_empty()) {
        cx.error(Code::Value, said.span, "a fallback after nothing")
            .help("write `when: [circuit_open, connect_error, 503]`, or take `when` away for the usual");
    }
    let respond = raw.respond.as_ref().map(|at| Instead::Respond(respond(&at.value)));
    let upstream = raw.upstream.as_ref().and_then(|name| tables.upstreams.resolve(name, cx));
    let has = |wanted: FallbackWhen| when.contains(&wanted);
    let statuses = when.iter().filter_map(|when| match when {
        FallbackWhen::Statuses(ErrorStatuses(from, to)) => Some((*from, *to)),
        _ => None,
    });
    Some(Unnamed::stateless(PolicyKind::Fallback(Fallback {
        instead: respond.or(upstream.map(Instead::Upstream))?,
        // Which captures there are, each route knows.
        rewrite: raw.rewrite.as_ref().map(|at| rewrite_of(&at.value, None, cx)),
        when: checked::FallbackWhen {
            connect_error: has(FallbackWhen::ConnectError),
            reset: has(FallbackWhen::Reset),
            refused_stream: has(FallbackWhen::RefusedStream),
            response_timeout: has(FallbackWhen::ResponseTimeout),
            circuit_open: has(FallbackWhen::CircuitOpen),
            no_endpoint: has(FallbackWhen::NoEndpoint),
            bulkhead_full: has(FallbackWhen::BulkheadFull),
            statuses: statuses.collect(),
        },
        max_body: raw.max_body().0,
    })))
}

pub(super) fn mirror(raw: &RawMirror, tables: &Tables<'_>, cx: &mut Cx) -> Option<Unnamed> {
    let upstream = tables.upstreams.resolve(raw.upstream.as_ref()?, cx)?;
    Some(Unnamed::stateless(PolicyKind::Mirror(Mirror {
        upstream,
        sample: raw.sample().0,
        methods: raw.methods.as_ref().map(|at| match at.value {
            RawMirrorMethods::Safe => MirrorMethods::Safe,
            RawMirrorMethods::All => MirrorMethods::All,
        }),
        max: usize::try_from(raw.max().0).unwrap_or(usize::MAX),
        timeout: raw.timeout(),
        max_body: raw.max_body().0,
        keeps_credentials: raw.credentials(),
    })))
}

fn values<T: Clone>(list: Option<&At<OneOrMany<T>>>) -> Option<Vec<T>> {
    list.map(|list| list.value.0.iter().map(|at| at.value.clone()).collect())
}

pub(super) fn cors(raw: &RawCors, cx: &mut Cx) -> Option<Unnamed> {
    let origins = raw.origins.as_ref()?;
    unique(&origins.value.0, "origin", cx);
    if origins.value.0.is_empty() {
        cx.error(Code::Value, origins.span, "pages of no origin")
            .help("write `[\"https://app.example\"]`, or take `cors` away");
    }
    let everybody = origins.value.0.iter().find(|at| &*at.value == "*");
    if let (Some(everybody), true) = (everybody, raw.credentials()) {
        cx.error(Code::Exposed, everybody.span, "any page could act as the user it is shown to")
            .help("name the origins: `origins: [\"https://app.example\"]`; or `credentials: false`");
    }
    for at in origins.value.0.iter().filter(|at| &*at.value != "*" && !is_origin(&at.value)) {
        cx.error(Code::Value, at.span, format!("`{}` is no origin", at.value)).help(
            "write scheme and host, and nothing behind: `https://app.example`, `https://*.shop.example`",
        );
    }
    let mut headers = Some(Vec::new());
    for at in raw.headers.iter().flat_map(|list| &list.value.0) {
        match (&*at.value, at.value.parse::<HeaderName>()) {
            ("*", _) => headers = None,
            (_, Ok(name)) => headers.iter_mut().for_each(|all: &mut Vec<_>| all.push(name.clone())),
            (text, Err(_)) => {
                cx.error(Code::Value, at.span, format!("`{text}` is not a header name"))
                    .help("letters, digits and `-`: `x-request-id`; or `\"*\"`");
            }
        }
    }
    let kind = PolicyKind::Cors(Cors {
        origins: everybody
            .is_none()
            .then(|| origins.value.0.iter().map(|at| Arc::clone(&at.value)).collect()),
        methods: values(raw.methods.as_deref()),
        headers,
        expose: values(raw.expose.as_deref()).unwrap_or_default(),
        credentials: raw.credentials(),
        max_age: raw.max_age.as_ref().map(|at| at.value),
    });
    Some(Unnamed::stateless(kind))
}

pub(super) fn compress(raw: &RawCompress, cx: &mut Cx) -> Unnamed {
    let said =
        raw.algorithms.iter().flat_map(|list| list.value.0.iter().map(|at| at.value)).collect::<Vec<_>>();
    if let Some(list) = &raw.algorithms {
        unique(&list.value.0, "algorithm", cx);
        if said.is_empty() {
            cx.error(Code::Value, list.span, "compression in no way")
                .help("write `[br, gzip]`, or take it away");
        }
    }
    let has = |coding| raw.algorithms.is_none() || said.contains(&coding);
    let min_size = u64::try_from(raw.min_size().0).unwrap_or(u64::MAX);
    let kind = Compress { br: has(RawCoding::Br), gzip: has(RawCoding::Gzip), min_size };
    Unnamed::stateless(PolicyKind::Compress(kind))
}

/// Scheme and host, and perhaps a port; the rest is checked where rules are made of it.
fn is_origin(text: &str) -> bool {
    let Some((scheme, host)) = text.split_once("://") else { return false };
    matches!(scheme, "http" | "https") && !host.is_empty() && !host.contains(['/', '?', '#', '@', ' '])
}

/// Where and when faults would be played.
#[derive(Clone, Copy)]
pub(super) struct Stage {
    pub(super) environment: RawEnvironment,
    /// The time of day, in seconds since 1970.
    pub(super) now_s: u64,
}

/// Faults, which load in production only where they say so.
pub(super) fn fault(raw: &RawFault, span: Span, stage: Stage, cx: &mut Cx) -> Option<Unnamed> {
    if raw.said("abort").or(raw.said("delay")).is_none() {
        cx.error(Code::Missing, span, "faults that do nothing")
            .label("needs `abort` or `delay`")
            .help("write `abort: {percent: 5%, status: 503}`, `delay: {percent: 10%, time: 5s}` or both");
    }
    if let Some(until) = raw.until.as_ref().filter(|until| until.value.0 <= stage.now_s) {
        cx.error(Code::Unused, until.span, "these faults are over: their `until` has passed")
            .warning()
            .help("write an `until` that is still to come, or take the faults away");
    }
    if stage.environment == RawEnvironment::Production && !raw.in_production() {
        cx.error(Code::Exposed, span, "faults in production")
            .combined()
            .help("say `gateway: {environment: development}`, or here `in_production: true` if it is meant");
    }
    let abort = raw.abort.as_ref().and_then(|at| {
        let (percent, status) = (at.value.percent.as_ref()?, at.value.status.as_ref()?);
        if status.value.as_u16() < 400 {
            cx.error(Code::Value, status.span, format!("{} is no error", status.value.as_u16()))
                .help("write a status from 400 to 599");
        }
        Some((percent.value.0, status.value))
    });
    let delay = raw.delay.as_ref();
    let delay =
        delay.and_then(|at| Some((at.value.percent.as_ref()?.value.0, at.value.time.as_ref()?.value)));
    let kind = PolicyKind::Fault(Fault {
        header: raw.header.as_ref()?.value.clone(),
        value: raw.value.as_ref().map(|at| at.value.clone()),
        until_s: raw.until.as_ref()?.value.0,
        abort,
        delay,
        max_delayed: usize::try_from(raw.max_delayed().0).unwrap_or(usize::MAX),
    });
    Some(Unnamed::stateless(kind))
}
