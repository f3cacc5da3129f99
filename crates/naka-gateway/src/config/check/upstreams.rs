//! Where requests can go.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    path::{Path, PathBuf},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use http::{HeaderName, HeaderValue};

use super::{Tables, auth, guards, limits, origin, policies::Policies, registries, tls, unique};
use crate::config::{
    checked::{
        Balance, BalancePolicy, Connections, Discovery, Endpoint, EndpointSource, Enforce, Gateway,
        HealthCheck, HealthProbe, KeepAlive, KeyPart, Kind, Listener, Name, PolicyKind, Protocol, Regions,
        Registries, RetryBudget, Sticky, Subset, Upstream, UpstreamTimeouts, Workers,
    },
    decode::{At, Cx, Decode as _, Named, OneOrMany, Or},
    diagnostic::{Code, Diagnostics, Source},
    documents,
    node::{self, Span},
    raw::{
        self, RawBalance, RawBalancePolicy, RawDiscovery, RawEndpoint, RawEndpoints, RawHealthCheck,
        RawHealthType, RawList, RawRegions, RawSticky, RawSubset, RawSubsetMiss, RawWhenEmpty,
    },
    suggest::one_of,
    units::{Between, Whole},
    values::{HostPort, Id},
};
use crate::{address::UNIX, custom::Kinds, tls::ClientTls};

/// Of `gateway`: the name servers that are asked where endpoints are found by name, and how many workers share
/// the connections.
pub(super) fn upstreams(
    tables: &Tables<'_>,
    listeners: &BTreeMap<Name, Listener>,
    policies: &mut Policies,
    gateway: &Gateway,
    now_s: u64,
    cx: &mut Cx,
) -> BTreeMap<Name, Upstream> {
    let mut it = BTreeMap::new();
    for (name, at, raw) in tables.upstreams.read() {
        let bulkhead = policies.inlined(
            tables,
            at,
            (Kind::Bulkhead, raw.bulkhead.as_deref()),
            |raw, _, cx| limits::bulkhead(raw, cx),
            cx,
        );
        let bulkhead = bulkhead.map(|(name, _)| name);
        let (endpoints, discovery) = match raw.endpoints.as_deref() {
            Some(At { value: RawEndpoints::List(list), span, .. }) => {
                if list.is_empty() {
                    cx.error(Code::Value, *span, "an upstream without endpoints")
                        .help("write at least one: `endpoints: [\"127.0.0.1:3000\"]`");
                }
                (endpoints(list, listeners, cx), None)
            }
            Some(at @ At { value: RawEndpoints::Found(raw), .. }) => {
                (Vec::new(), discovery(raw, at.span, gateway, cx))
            }
            None => (Vec::new(), None),
        };
        if let Some(balance) = &raw.balance {
            unlabelled(balance, &endpoints, cx);
        }
        let circuit_breaker = policies.inlined(
            tables,
            at,
            (Kind::CircuitBreaker, raw.circuit_breaker.as_deref()),
            |raw, _, cx| Some(guards::endpoint_breaker(raw, cx)),
            cx,
        );
        if let Some((name, span)) = &circuit_breaker {
            let is_named = matches!(raw.circuit_breaker.as_ref().map(|at| &at.value), Some(Or::Text(_)));
            breaker_of_endpoints((name, *span), is_named, endpoints.len(), policies, cx);
        }
        let timeouts = raw.timeouts.as_ref().map(|it| it.value.clone()).unwrap_or_default();
        let budget = raw.retry_budget.as_ref().map(|it| it.value.clone()).unwrap_or_default();
        let connections = raw.connections.as_ref().map(|it| it.value.clone()).unwrap_or_default();
        let keep_alive = raw.keep_alive.as_ref().map(|it| it.value.clone()).unwrap_or_default();
        let protocol = match raw.protocol() {
            raw::Protocol::H1 => Protocol::H1,
            raw::Protocol::H2 => Protocol::H2,
        };
        if let (Protocol::H1, Some(at)) = (protocol, &connections.streams) {
            cx.error(Code::Conflict, at.key, "`streams` is for `protocol: h2`").help(
                "take it away, or write `protocol: h2`: over HTTP/1.1 a connection has one request at a time",
            );
        }
        if let (Protocol::H2, Some(max)) = (protocol, &connections.max) {
            workers_without_a_connection(max, gateway.workers, cx);
        }
        let tls = raw.tls.as_ref().and_then(|at| {
            tls::client(&at.value, protocol, &endpoints, discovery.as_ref(), at.key, now_s, cx)
        });
        let health_check = raw.health_check.as_ref();
        let upstream = Upstream {
            endpoints,
            discovery,
            protocol,
            tls: tls.clone(),
            balance: raw.balance.as_ref().map(|at| balance(at, cx)).unwrap_or_default(),
            health_check: health_check.and_then(|at| self::health_check(at, protocol, tls, cx)),
            bulkhead,
            circuit_breaker: circuit_breaker.map(|(name, _)| name),
            is_critical: raw.critical(),
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
                tunnel_idle: timeouts.tunnel_idle().0,
            },
            connections: Connections {
                max: usize::try_from(connections.max().0).unwrap_or(usize::MAX),
                pending: usize::try_from(connections.pending().0).unwrap_or(usize::MAX),
                streams: usize::try_from(connections.streams().0).unwrap_or(usize::MAX),
            },
            keep_alive: KeepAlive {
                max_idle: usize::try_from(keep_alive.max_idle().0).unwrap_or(usize::MAX),
                timeout: keep_alive.timeout(),
                max_lifetime: keep_alive.max_lifetime().0,
            },
            origin: origin(at.span, cx),
        };
        it.insert(Arc::clone(name), upstream);
    }
    it
}

/// Warns of workers that are never given a connection: over HTTP/2 each has its own, for all its requests.
fn workers_without_a_connection(max: &At<Whole<1, 1_000_000>>, workers: Workers, cx: &mut Cx) {
    let Workers::Count(workers) = workers else { return };
    if usize::try_from(max.value.0).is_ok_and(|max| max < workers) {
        let message = format!(
            "{workers} workers share {} to each endpoint, and over HTTP/2 each needs its own: the others refuse",
            if max.value.0 == 1 { "1 connection".into() } else { format!("{} connections", max.value.0) }
        );
        cx.error(Code::Conflict, max.span, message)
            .warning()
            .combined()
            .help(format!("write `max: {workers}` or more, or fewer `gateway.workers`"));
    }
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
    if endpoints == 1 && breaker.max_ejected.is_some() {
        cx.error(Code::Unused, span, "an upstream with one endpoint: it is never left alone")
            .warning()
            .combined()
            .help("write `max_ejected: all`, if it should answer 503 while its breaker is open");
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
        RawBalancePolicy::LeastLoad => BalancePolicy::LeastLoad,
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
        if part.value == KeyPart::Route {
            cx.error(Code::Conflict, part.span, "an upstream does not know the routes that lead to it").help(
                "write `client_ip`, `host`, `method`, `header:NAME`, `query:NAME`, `cookie:NAME`, a capture or `jwt.CLAIM`",
            );
        }
    }
    if let (Some(max_load), false) = (&raw.max_load, goes_by_key || policy == BalancePolicy::IpHash) {
        cx.error(Code::Conflict, max_load.key, "only what goes by a key can be too much for one endpoint")
            .help("take it away, or write `ring_hash`, `maglev`, `rendezvous` or `ip_hash`");
    }
    Balance {
        policy,
        key: parts.map(|part| part.value.clone()).collect(),
        slow_start: raw.slow_start.as_ref().map(|at| at.value),
        panic: raw.panic.as_ref().map(|at| at.value.0),
        max_load: raw.max_load.as_ref().map(|at| at.value.0),
        only: labels(raw.only.as_deref()),
        subset: raw.subset.as_ref().and_then(|at| subset(&at.value, cx)),
        regions: raw.regions.as_ref().and_then(|at| regions(at, cx)),
        sticky: raw.sticky.as_ref().and_then(|at| sticky(&at.value, cx)),
    }
}

/// What an upstream can be told by: it does not know the routes that lead to it, but who asks, if a route
/// has found out.
fn told_by(at: &At<KeyPart>, cx: &mut Cx) -> KeyPart {
    if matches!(at.value, KeyPart::Capture(_) | KeyPart::Route) {
        cx.error(Code::Conflict, at.span, "an upstream does not know the routes that lead to it")
            .help("write `header:NAME`, `query:NAME`, `host` or a claim such as `jwt.region`");
    }
    at.value.clone()
}

fn subset(raw: &RawSubset, cx: &mut Cx) -> Option<Subset> {
    let by = told_by(raw.by.as_ref()?, cx);
    let refuses = raw.on_miss() == RawSubsetMiss::Refuse;
    Some(Subset { label: Arc::clone(&raw.label.as_ref()?.value.0), by, refuses })
}

fn regions(at: &At<RawRegions>, cx: &mut Cx) -> Option<Regions> {
    let raw = &at.value;
    let list = |list: &OneOrMany<Arc<str>>, span: Span, cx: &mut Cx| {
        if list.0.is_empty() {
            cx.error(Code::Value, span, "a list of no regions")
                .help("write the nearest first: `[south, west]`");
        }
        unique(&list.0, "region", cx);
        list.0.iter().map(|at| Arc::clone(&at.value)).collect::<Vec<_>>()
    };
    let by = raw.by.as_ref().map(|by| told_by(by, cx));
    let networks = raw.networks.iter().flat_map(|networks| &networks.value.0);
    let networks = networks.flat_map(|(name, at)| {
        let all = at.iter().flat_map(|at| &at.0);
        all.map(|network| (network.value, Arc::clone(&name.value.0)))
    });
    let networks = networks.collect::<Vec<_>>();
    if by.is_none() && networks.is_empty() && raw.said("by").is_none() && raw.said("networks").is_none() {
        cx.error(Code::Missing, at.span, "nothing says where a request comes from")
            .help("write `by: \"header:x-region\"`, or `networks: {south: [\"10.1.0.0/16\"]}`");
    }
    let of = raw.of.iter().flat_map(|of| &of.value.0);
    let of = of
        .filter_map(|(name, at)| Some((Arc::clone(&name.value.0), list(at.as_ref()?, name.span, cx))))
        .collect();
    let otherwise = raw.otherwise.as_ref()?;
    let otherwise = list(&otherwise.value, otherwise.span, cx);
    Some(Regions { label: Arc::clone(&raw.label().0), by, networks, of, otherwise })
}

fn sticky(raw: &RawSticky, cx: &mut Cx) -> Option<Sticky> {
    let cookie = raw.cookie.as_ref()?;
    if HeaderName::from_bytes(cookie.value.as_bytes()).is_err() {
        cx.error(Code::Value, cookie.span, format!("`{}` is no name of a cookie", cookie.value))
            .help("letters, digits, `-` and `_`: `shop_endpoint`");
        return None;
    }
    let secret = auth::secret(raw.secret.as_ref()?, cx)?;
    Some(Sticky { cookie: Arc::clone(&cookie.value), secret, is_secure: raw.secure() })
}

/// Below that it is a load, above that it says nothing.
const INTERVALS: [Duration; 2] = [Duration::from_millis(100), Duration::from_hours(24)];

/// What is looked for in each body.
const MAX_BODY_CONTAINS: usize = 256;

fn health_check(
    at: &At<RawHealthCheck>,
    protocol: Protocol,
    tls: Option<ClientTls>,
    cx: &mut Cx,
) -> Option<HealthCheck> {
    let raw = &at.value;
    let probe = health_probe(at, protocol, cx);
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
        tls,
        interval,
        unhealthy_interval,
        timeout,
        unhealthy_after: whole(raw.unhealthy_after().0),
        healthy_after: whole(raw.healthy_after().0),
    })
}

/// `None`: it is reported.
fn health_probe(at: &At<RawHealthCheck>, protocol: Protocol, cx: &mut Cx) -> Option<HealthProbe> {
    let raw = &at.value;
    let host = raw.host.as_ref().and_then(|at| HeaderValue::from_str(&at.value.0).ok());
    match raw.r#type() {
        RawHealthType::Tcp => {
            let keys = ["path", "host", "statuses", "body_contains", "service"];
            of_another_type(raw, &keys, "is of a check that asks, and `type: tcp` only connects", cx);
            return Some(HealthProbe::Tcp);
        }
        RawHealthType::Grpc => {
            let keys = ["path", "statuses", "body_contains"];
            of_another_type(raw, &keys, "is of a check by HTTP, and `type: grpc` asks in its own way", cx);
            if raw.service.is_none() && raw.said("service").is_some() {
                return None;
            }
            let service = raw.service.as_ref().map(|at| Arc::clone(&at.value.0)).unwrap_or_default();
            return Some(HealthProbe::Grpc { service, host });
        }
        RawHealthType::Http => {
            // Of a type that could not be read nobody knows what it needs.
            if let Some(span) =
                raw.said("service").filter(|_| raw.r#type.is_some() || raw.said("type").is_none())
            {
                cx.error(Code::Conflict, span, "`service` is for `type: grpc`")
                    .help("write `type: grpc` beside it, or take it away");
            }
        }
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
        protocol,
        path: raw.path.as_ref()?.value.0.clone(),
        host,
        statuses,
        body_contains: raw.body_contains.as_ref().map(|at| Arc::clone(&at.value)),
    })
}

/// Reports keys that are of a check of another type.
fn of_another_type(raw: &RawHealthCheck, keys: &[&str], what: &str, cx: &mut Cx) {
    for key in keys {
        if let Some(span) = raw.said(key) {
            let right = if *key == "service" { "grpc" } else { "http" };
            cx.error(Code::Conflict, span, format!("`{key}` {what}"))
                .help(format!("take `{key}` away, or write `type: {right}`"));
        }
    }
}

/// The listener that hears what is sent to this address.
fn ours<'l>(address: &str, listeners: &'l BTreeMap<Name, Listener>) -> Option<&'l Name> {
    if let Some(path) = address.strip_prefix(UNIX) {
        let hears = |listener: &Listener| listener.listen.path().is_some_and(|ours| **ours == *path);
        return listeners.iter().find_map(|(name, listener)| hears(listener).then_some(name));
    }
    let address = address.replace("localhost:", "127.0.0.1:").parse::<SocketAddr>().ok()?;
    let hears = |listener: &Listener| {
        let Some(listen) = listener.listen.tcp() else { return false };
        let is_local = address.ip().is_loopback() || address.ip().is_unspecified();
        listen.port() == address.port()
            && (listen.ip() == address.ip() || listen.ip().is_unspecified() && is_local)
    };
    listeners.iter().find_map(|(name, listener)| hears(listener).then_some(name))
}

fn endpoints(list: &RawList, listeners: &BTreeMap<Name, Listener>, cx: &mut Cx) -> Vec<Endpoint> {
    let mut seen: HashMap<&HostPort, Span> = HashMap::new();
    let mut it = Vec::with_capacity(list.len());
    for item in list {
        let plain = RawEndpoint::default();
        let (address, raw) = match &item.value {
            Or::Text(address) => (address, &plain),
            Or::Record(raw) => match &raw.address {
                Some(address) => (&address.value, &**raw),
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
        it.push(Endpoint {
            address: Arc::clone(&address.0),
            weight: whole(raw.weight().0),
            capacity: raw.capacity.as_ref().map(|at| whole(at.value.0)),
            labels: labels(raw.labels.as_deref()),
        });
    }
    it
}

/// Labels, by name.
fn labels(raw: Option<&At<Named<Id, Arc<str>>>>) -> Vec<(Name, Arc<str>)> {
    let all = raw.into_iter().flat_map(|at| &at.value.0);
    let all = all.filter_map(|(name, value)| Some((Arc::clone(&name.value.0), value.clone()?)));
    let mut it = all.collect::<Vec<_>>();
    it.sort();
    it
}

/// Says where labels are asked for that no endpoint of a list has.
fn unlabelled(raw: &At<RawBalance>, endpoints: &[Endpoint], cx: &mut Cx) {
    let Some(at) = &raw.value.only else { return };
    let only = labels(Some(at));
    let has = |endpoint: &Endpoint| only.iter().all(|label| endpoint.labels.contains(label));
    if !endpoints.is_empty() && !endpoints.iter().any(has) {
        cx.error(Code::Value, at.span, "no endpoint has these labels")
            .label("every request would be refused with 503 `subset_empty`")
            .help("label one: `{address: \"127.0.0.1:3000\", labels: {version: v2}}`, or ask for others");
    }
}

/// How endpoints are found.
fn discovery(raw: &RawDiscovery, span: Span, gateway: &Gateway, cx: &mut Cx) -> Option<Discovery> {
    let said = raw.said.iter().filter(|said| RawDiscovery::SOURCES.contains(&&*said.meant));
    match said.collect::<Vec<_>>().as_slice() {
        [] => {
            cx.error(Code::Missing, span, "it does not say where endpoints are found")
                .label(format!("needs {}", one_of(["dns", "srv", "file", "consul", "eureka"])))
                .help("write `dns: \"app.internal:3000\"`, `srv: _http._tcp.app.internal`, `file: endpoints.yaml`, `consul: app` or `eureka: APP`");
        }
        [_] => {}
        [first, second, ..] => {
            let place = cx.place(first.span);
            cx.error(Code::Conflict, second.span, format!("`{}` beside `{}`", second.meant, first.meant))
                .label("the second")
                .related(place, "the first")
                .help("endpoints are found in one place: keep one, or write two upstreams");
        }
    }
    if let (Some(_), Some(refresh)) = (&raw.file, &raw.refresh) {
        cx.error(Code::Conflict, refresh.key, "`refresh` has no effect on a file")
            .help("take it away: a file is looked at twice a second");
    }
    if let (Some(_), Some(refresh)) = (&raw.consul, &raw.refresh) {
        cx.error(
            Code::Conflict,
            refresh.key,
            "`refresh` has no effect on a registry that says when something changes",
        )
        .help("take it away: a change is heard of within two seconds");
    }
    if let (Some(_), Some(refresh)) = (&raw.eureka, &raw.refresh) {
        cx.error(
            Code::Conflict,
            refresh.key,
            "one registry is asked for all upstreams, as often as it says itself",
        )
        .help("write it there: `gateway: {registries: {eureka: {refresh: 30s}}}`");
    }
    if raw.when_empty() == RawWhenEmpty::Apply
        && raw.max_shrink.is_none()
        && let Some(at) = &raw.when_empty
    {
        cx.error(
            Code::Conflict,
            at.key,
            "an empty set is a shrinking by all, which `max_shrink` holds for a while",
        )
        .warning()
        .label(format!("it is applied when it was seen {} times", raw.confirm().0))
        .help("write `max_shrink: 100%` to apply it at once, or `max_shrink: 50%` if that is meant");
    }
    let mut registries = Registries::default();
    let source = match (&raw.dns, &raw.srv, &raw.file, &raw.consul, &raw.eureka) {
        (Some(at), ..) => {
            needs_resolver(at.key, cx);
            EndpointSource::Dns(Arc::clone(&at.value.0), at.value.1)
        }
        (_, Some(at), ..) => {
            needs_resolver(at.key, cx);
            EndpointSource::Srv(Arc::clone(&at.value.0))
        }
        (_, _, Some(file), ..) => EndpointSource::File(endpoints_file(file, cx)),
        (_, _, _, Some(at), _) => {
            registries.consul = Some(Arc::clone(gateway.registries.consul.as_ref()?)); // Else it is reported.
            EndpointSource::Consul(registries::consul_service(at, cx)?)
        }
        (.., Some(at)) => {
            registries.eureka.clone_from(&gateway.registries.eureka);
            if registries.eureka.is_none() {
                cx.error(Code::Missing, at.key, "nothing says where Eureka is").help(
                    "write `gateway: {registries: {eureka: {servers: [\"http://127.0.0.1:8761/eureka\"]}}}`",
                );
            }
            EndpointSource::Eureka(registries::eureka_app(at, cx)?)
        }
        _ => return None,
    };
    let Between(floor, ceiling) = raw.refresh();
    Some(Discovery {
        source,
        floor,
        ceiling,
        max_shrink: raw.max_shrink().0,
        confirm: u32::try_from(raw.confirm().0).unwrap_or(u32::MAX),
        takes_empty: raw.when_empty() == RawWhenEmpty::Apply,
        servers: gateway.servers.clone(),
        registries,
    })
}

/// What was left out when this was built is said where it is wanted.
fn needs_resolver(key: Span, cx: &mut Cx) {
    if cfg!(not(feature = "dns")) {
        cx.error(Code::NotBuilt, key, "this gateway was built without the feature `dns`")
            .help("build it with the feature, or write `file:` or a list");
    }
}

/// Where the file is. What is wrong with it is an error, unless it was right before: whoever follows it holds what
/// there was, and says so.
fn endpoints_file(file: &At<Arc<str>>, cx: &mut Cx) -> PathBuf {
    let path = cx.path(file.span, &file.value);
    let was_accepted = cx.documents().was_accepted(&path);
    match read_endpoints(&path) {
        Ok(_) => cx.documents().accept(&path),
        Err(Unreadable::Missing(_) | Unreadable::Wrong(_)) if was_accepted => {
            cx.documents().accept(&path);
            cx.error(Code::File, file.span, format!("{}: it is wrong, or gone", path.display()))
                .warning()
                .label("its last good version stays in force")
                .help("the log says what is wrong with it: mend that");
        }
        Err(Unreadable::Missing(why)) => {
            cx.documents().accept(&path); // It may have been there in the meantime, and be held.
            cx.error(Code::File, file.span, format!("{}: {why}", path.display()))
                .warning()
                .label("there is no endpoint until it is there")
                .help("write the path of a file that is there, seen from this file");
        }
        Err(Unreadable::Wrong(wrong)) => {
            let wrong = wrong.into_iter().collect::<Vec<_>>();
            cx.adopt(&wrong);
        }
    }
    path
}

/// Why a file gives no endpoints.
enum Unreadable {
    /// It cannot be read.
    Missing(String),
    /// What it says is wrong.
    Wrong(Diagnostics),
}

/// Reads a file of endpoints as it is now.
fn read_endpoints(path: &Path) -> Result<Vec<Endpoint>, Unreadable> {
    let bytes = documents::read(path).map_err(Unreadable::Missing)?;
    endpoints_of(&bytes, path).map_err(Unreadable::Wrong)
}

/// The endpoints in a file of their own, which has a list as it stands under `endpoints:`; it may be empty.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn endpoints_of(bytes: &[u8], path: &Path) -> Result<Vec<Endpoint>, Diagnostics> {
    let text = str::from_utf8(bytes);
    let source = Arc::new(Source::new(path, text.unwrap_or_default()));
    let mut cx = Cx::new(vec![Arc::clone(&source)], Rc::default(), Kinds::default());
    if let Err(error) = text {
        let start = Span::new(0, 0..0);
        cx.error(Code::File, start, format!("not UTF-8 at byte {}", error.valid_up_to()))
            .help("write it as UTF-8");
        return Err(cx.finish());
    }
    let list = node::parse(&source, 0, &mut cx).and_then(|node| RawList::decode(&node, &mut cx));
    let endpoints = list.map(|list| endpoints(&list, &BTreeMap::new(), &mut cx));
    match endpoints.filter(|_| cx.is_clean()) {
        Some(endpoints) => Ok(endpoints),
        None => Err(cx.finish()),
    }
}
