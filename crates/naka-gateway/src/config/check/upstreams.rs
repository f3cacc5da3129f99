//! Where requests can go.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    sync::Arc,
};

use super::{Tables, guards, limits, origin, policies::Policies};
use crate::config::{
    checked::{
        Balance, BalancePolicy, Endpoint, Enforce, KeepAlive, KeyPart, Kind, Listener, Name, PolicyKind,
        RetryBudget, Upstream, UpstreamTimeouts,
    },
    decode::{At, Cx, Or},
    diagnostic::Code,
    node::Span,
    raw::{RawBalance, RawBalancePolicy, RawUpstream},
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
