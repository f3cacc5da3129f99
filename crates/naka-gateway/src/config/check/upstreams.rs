//! Where requests can go.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use http::HeaderValue;

use super::{Tables, guards, limits, origin, policies::Policies};
use crate::config::{
    checked::{
        Balance, BalancePolicy, Endpoint, Enforce, HealthCheck, HealthProbe, KeepAlive, KeyPart, Kind,
        Listener, Name, PolicyKind, RetryBudget, Upstream, UpstreamTimeouts,
    },
    decode::{At, Cx, Or},
    diagnostic::Code,
    node::Span,
    raw::{RawBalance, RawBalancePolicy, RawHealthCheck, RawHealthType, RawUpstream},
    values::HostPort,
};

pub(super) fn upstreams(
    tables: &Tables<'_>,
    listeners: &BTreeMap<Name, Listener>,
    policies: &mut Policies,
    cx: &mut Cx,
) -> BTreeMap<Name, Upstream> {
    let mut it = BTreeMap::new();
    for (name, at, raw) in tables.upstreams.read() {
        let bulkhead = policies.inlined(
            tables,
            at,
            (Kind::Bulkhead, raw.bulkhead.as_ref()),
            |raw, _, cx| limits::bulkhead(raw, cx),
            cx,
        );
        let bulkhead = bulkhead.map(|(name, _)| name);
        let endpoints = endpoints(raw, listeners, cx);
        let circuit_breaker = policies.inlined(
            tables,
            at,
            (Kind::CircuitBreaker, raw.circuit_breaker.as_ref()),
            |raw, _, cx| Some(guards::endpoint_breaker(raw, cx)),
            cx,
        );
        if let Some((name, span)) = &circuit_breaker {
            let is_named = matches!(raw.circuit_breaker.as_ref().map(|at| &at.value), Some(Or::Text(_)));
            breaker_of_endpoints((name, *span), is_named, endpoints.len(), policies, cx);
        }
        let timeouts = raw.timeouts.as_ref().map(|it| it.value.clone()).unwrap_or_default();
        let budget = raw.retry_budget.as_ref().map(|it| it.value.clone()).unwrap_or_default();
        let keep_alive = raw.keep_alive.as_ref().map(|it| it.value.clone()).unwrap_or_default();
        let upstream = Upstream {
            endpoints,
            balance: raw.balance.as_ref().map(|at| balance(at, cx)).unwrap_or_default(),
            health_check: raw.health_check.as_ref().and_then(|at| health_check(at, cx)),
            bulkhead,
            circuit_breaker: circuit_breaker.map(|(name, _)| name),
            retry_budget: RetryBudget {
                percent: budget.ratio().0,
                min_per_second: u32::try_from(budget.min_per_second().0).unwrap_or(u32::MAX),
                window: budget.window(),
            },
            timeouts: UpstreamTimeouts {
                connect: timeouts.connect(),
                response_headers: timeouts.response_headers(),
                per_try: timeouts.per_try.as_ref().map(|at| at.value),
                idle: timeouts.idle().0,
            },
            keep_alive: KeepAlive {
                max_idle: usize::try_from(keep_alive.max_idle().0).unwrap_or(usize::MAX),
                timeout: keep_alive.timeout(),
            },
            origin: origin(at.span, cx),
        };
        it.insert(Arc::clone(name), upstream);
    }
    it
}

/// What a breaker cannot be in front of endpoints. Of one that is written in place a key was reported already.
fn breaker_of_endpoints(
    (name, span): (&Name, Span),
    is_named: bool,
    endpoints: usize,
    policies: &Policies,
    cx: &mut Cx,
) {
    let Some(policy) = policies.checked.get(name) else { return };
    let PolicyKind::CircuitBreaker(breaker) = &policy.kind else { return };
    if is_named && !breaker.key.is_empty() {
        cx.error(
            Code::Conflict,
            span,
            format!("`{name}` has a breaker for each key, and endpoints have no keys"),
        )
        .combined()
        .help("an upstream has a breaker for each of its endpoints: use one without `key`");
    }
    if let Enforce::Percent(percent) = policy.enforce {
        cx.error(
            Code::Conflict,
            span,
            format!("`{name}` is enforced for {percent}%, and an endpoint is left alone or not"),
        )
        .combined()
        .help("write `enforce: always`, or `enforce: observe`");
    }
    if endpoints == 1 {
        cx.error(Code::Unused, span, "an upstream with one endpoint: it is never left alone")
            .warning()
            .combined()
            .help("`max_ejected` never takes out the last endpoint: write `circuit_breaker` into the route, if it should answer 503");
    }
}

fn balance(at: &At<RawBalance>, cx: &mut Cx) -> Balance {
    let raw = &at.value;
    let policy = match raw.policy() {
        RawBalancePolicy::RoundRobin => BalancePolicy::RoundRobin,
        RawBalancePolicy::WeightedRoundRobin => BalancePolicy::WeightedRoundRobin,
        RawBalancePolicy::Random => BalancePolicy::Random,
        RawBalancePolicy::LeastRequest => BalancePolicy::LeastRequest,
        RawBalancePolicy::WeightedLeastRequest => BalancePolicy::WeightedLeastRequest,
        RawBalancePolicy::P2cEwma => BalancePolicy::PeakEwma,
        RawBalancePolicy::LeastLatency => BalancePolicy::LeastLatency,
        RawBalancePolicy::RingHash => BalancePolicy::RingHash,
        RawBalancePolicy::Maglev => BalancePolicy::Maglev,
        RawBalancePolicy::Rendezvous => BalancePolicy::Rendezvous,
        RawBalancePolicy::IpHash => BalancePolicy::IpHash,
    };
    let goes_by_key =
        matches!(policy, BalancePolicy::RingHash | BalancePolicy::Maglev | BalancePolicy::Rendezvous);
    match (&raw.key, goes_by_key) {
        (None, true) if raw.said("key").is_none() => {
            cx.error(Code::Missing, at.span, "it does not say by what a request finds its endpoint")
                .help("write `key: [\"header:x-user-id\"]`, or `policy: ip_hash`");
        }
        (Some(key), false) => {
            cx.error(Code::Conflict, key.key, "only `ring_hash`, `maglev` and `rendezvous` go by a key")
                .help("take `key` away, or write one of these policies");
        }
        _ => {}
    }
    let parts = raw.key.iter().flat_map(|key| &key.value.0);
    for part in parts.clone() {
        if matches!(part.value, KeyPart::Capture(_) | KeyPart::Identity(_) | KeyPart::Route) {
            cx.error(Code::Conflict, part.span, "an upstream does not know the routes that lead to it")
                .help("write `client_ip`, `host`, `method`, `header:NAME` or `query:NAME`");
        }
    }
    Balance {
        policy,
        key: parts.map(|part| part.value.clone()).collect(),
        slow_start: raw.slow_start.as_ref().map(|at| at.value),
        panic: raw.panic.as_ref().map(|at| at.value.0),
    }
}

/// Below that it is a load, above that it says nothing.
const INTERVALS: [Duration; 2] = [Duration::from_millis(100), Duration::from_hours(24)];

/// What is looked for in each body.
const MAX_BODY_CONTAINS: usize = 256;

fn health_check(at: &At<RawHealthCheck>, cx: &mut Cx) -> Option<HealthCheck> {
    let raw = &at.value;
    let probe = health_probe(at, cx);
    let (interval, timeout) = (raw.interval(), raw.timeout());
    let unhealthy_interval = raw.unhealthy_interval.as_ref().map(|at| at.value);
    for said in [&raw.interval, &raw.unhealthy_interval].into_iter().flatten() {
        if !(INTERVALS[0]..=INTERVALS[1]).contains(&said.value) {
            cx.error(
                Code::Value,
                said.span,
                "endpoints are asked ten times a second at most, and once a day at least",
            )
            .help("write an interval from `100ms` to `24h`");
        }
    }
    let shorter = interval.min(unhealthy_interval.unwrap_or(interval));
    let is_read = |key, is_there: bool| is_there || raw.said(key).is_none();
    let are_read = is_read("timeout", raw.timeout.is_some())
        && is_read("interval", raw.interval.is_some())
        && is_read("unhealthy_interval", raw.unhealthy_interval.is_some());
    if are_read && timeout >= shorter {
        let said = raw.timeout.as_ref().or(raw.unhealthy_interval.as_ref().filter(|at| at.value == shorter));
        let span = said.or(raw.interval.as_ref()).map_or(at.span, |at| at.span);
        let message =
            format!("a check may take {timeout:?}, and {shorter:?} after it has begun the next one is due");
        cx.error(Code::Conflict, span, message).help(format!(
            "write a `timeout` below the interval: `timeout: {}ms`",
            (shorter / 2).as_millis().max(1)
        ));
    }
    let whole = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
    Some(HealthCheck {
        probe: probe?,
        interval,
        unhealthy_interval,
        timeout,
        unhealthy_after: whole(raw.unhealthy_after().0),
        healthy_after: whole(raw.healthy_after().0),
    })
}

/// `None`: it is reported.
fn health_probe(at: &At<RawHealthCheck>, cx: &mut Cx) -> Option<HealthProbe> {
    let raw = &at.value;
    if raw.r#type() == RawHealthType::Tcp {
        for key in ["path", "host", "statuses", "body_contains"] {
            if let Some(span) = raw.said(key) {
                cx.error(
                    Code::Conflict,
                    span,
                    format!("`{key}` is of a check that asks, and `type: tcp` only connects"),
                )
                .help(format!("take `{key}` away, or write `type: http`"));
            }
        }
        return Some(HealthProbe::Tcp);
    }
    // Of a type that could not be read it is not known what it needs.
    let is_http = raw.r#type.is_some() || raw.said("type").is_none();
    if raw.said("path").is_none() && is_http {
        cx.error(Code::Missing, at.span, "it does not say what endpoints are asked for")
            .help("write `path: /healthz`, or `type: tcp` if it is enough that they take a connection");
    }
    if let Some(list) = raw.statuses.as_ref().filter(|list| list.value.0.is_empty()) {
        cx.error(Code::Value, list.span, "no status means well: every check would fail")
            .help("write `statuses: [200-299]`, or take it away");
    }
    if let Some(text) = &raw.body_contains
        && !(1..=MAX_BODY_CONTAINS).contains(&text.value.len())
    {
        let what =
            if text.value.is_empty() { "nothing is in every body" } else { "that is a lot to look for" };
        cx.error(Code::Value, text.span, what)
            .help(format!("write 1 to {MAX_BODY_CONTAINS} bytes of text, or take it away"));
    }
    let statuses = raw.statuses.as_ref().map_or_else(
        || vec![(200, 299)],
        |list| list.value.0.iter().map(|at| (at.value.0, at.value.1)).collect(),
    );
    Some(HealthProbe::Http {
        path: raw.path.as_ref()?.value.0.clone(),
        host: raw.host.as_ref().and_then(|at| HeaderValue::from_str(&at.value.0).ok()),
        statuses,
        body_contains: raw.body_contains.as_ref().map(|at| Arc::clone(&at.value)),
    })
}

/// The listener that hears what is sent to this address.
fn ours<'l>(address: &str, listeners: &'l BTreeMap<Name, Listener>) -> Option<&'l Name> {
    let address = address.replace("localhost:", "127.0.0.1:").parse::<SocketAddr>().ok()?;
    let hears = |listener: &Listener| {
        let listen = listener.listen;
        let is_local = address.ip().is_loopback() || address.ip().is_unspecified();
        listen.port() == address.port()
            && (listen.ip() == address.ip() || listen.ip().is_unspecified() && is_local)
    };
    listeners.iter().find_map(|(name, listener)| hears(listener).then_some(name))
}

fn endpoints(raw: &RawUpstream, listeners: &BTreeMap<Name, Listener>, cx: &mut Cx) -> Vec<Endpoint> {
    let Some(list) = &raw.endpoints else { return Vec::new() };
    if list.value.0.is_empty() {
        cx.error(Code::Value, list.span, "an upstream without endpoints")
            .help("write at least one: `endpoints: [\"127.0.0.1:3000\"]`");
    }
    let mut seen: HashMap<&HostPort, Span> = HashMap::new();
    let mut it = Vec::with_capacity(list.value.0.len());
    for item in &list.value.0 {
        let (address, weight, capacity) = match &item.value {
            Or::Text(address) => (address, 1, None),
            Or::Record(raw) => match &raw.address {
                Some(address) => (&address.value, raw.weight().0, raw.capacity.as_ref().map(|at| at.value.0)),
                None => continue,
            },
        };
        if let Some(first) = seen.insert(address, item.span) {
            let first = cx.place(first);
            cx.error(Code::Duplicate, item.span, format!("the endpoint `{}` twice", address.0))
                .label("again here")
                .related(first, "first here")
                .help("take one of them away: state is kept by address");
            continue;
        }
        if let Some(name) = ours(&address.0, listeners) {
            cx.error(Code::Loop, item.span, format!("this is the gateway itself: its listener `{name}`"))
                .warning()
                .combined()
                .label("a request that comes here begins anew")
                .help("write the address of the service; each round makes the head longer, until that is refused");
        }
        let whole = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        let (weight, capacity) = (whole(weight), capacity.map(whole));
        it.push(Endpoint { address: Arc::clone(&address.0), weight, capacity });
    }
    it
}
