//! `DestinationRule`: how a service is called. What it says of connections, balancing and ejection becomes its upstream's.

use std::time::Duration;

use crate::{
    config::{Span, TlsName, show_duration},
    import::{
        action,
        fields::{Fields, Said},
        out::{Keys, Out},
        report::Findings,
        resources::{Resource, labels_of},
        services::Host,
    },
};

/// One rule.
pub(super) struct DestinationRule {
    /// The service; or `*.suffix` for many.
    pub(super) host: Result<Host, String>,
    pub(super) title: String,
    pub(super) at: Span,
    traffic: Traffic,
    subsets: Vec<Subset>,
}

struct Subset {
    name: String,
    labels: Vec<(String, String)>,
    traffic: Traffic,
}

/// What it says of traffic; a subset says each part anew.
#[derive(Clone, Debug, Default)]
struct Traffic {
    balance: Option<Keys>,
    pool: Option<Pool>,
    breaker: Option<Keys>,
    panic: Option<Keys>,
    tls: Option<Keys>,
}

#[derive(Clone, Debug, Default)]
struct Pool {
    connections: Keys,
    bulkhead: Keys,
    keep_alive: Keys,
    timeouts: Keys,
    is_h2: bool,
}

impl DestinationRule {
    pub(super) fn read(resource: &Resource<'_, '_>, findings: &mut Findings) -> Option<Self> {
        let mut spec = resource.spec(findings);
        let Some(host) = spec.said("host", findings) else {
            findings.error(resource.at, "it says no `host`", "write the service that it is about");
            return None;
        };
        let host = match host.text.strip_prefix('*') {
            Some(suffix) => Err(suffix.to_ascii_lowercase()),
            None => Ok(Host::read(&host.text, &resource.namespace)),
        };
        let traffic = traffic(spec.map("trafficPolicy", findings), findings);
        let mut subsets = Vec::new();
        for mut fields in spec.maps("subsets", findings) {
            let name = fields.text("name", findings).unwrap_or_default();
            let labels = labels_of(&mut fields, "labels", findings);
            let traffic = self::traffic(fields.map("trafficPolicy", findings), findings);
            fields.finish(findings);
            subsets.push(Subset { name, labels, traffic });
        }
        spec.pass(&["exportTo"]);
        spec.leave(
            "workloadSelector",
            "which callers it is for is not asked: all go through this gateway",
            "write a second upstream, if some have to be treated in another way",
            findings,
        );
        spec.finish(findings);
        Some(Self { host, title: resource.title(), at: resource.at, traffic, subsets })
    }

    pub(super) fn is_for(&self, host: &Host) -> bool {
        match &self.host {
            Ok(it) => it == host,
            Err(suffix) => host.dns().ends_with(suffix.as_str()),
        }
    }

    /// Labels of a subset; `None` if it has no such.
    pub(super) fn labels(&self, subset: &str) -> Option<&[(String, String)]> {
        self.subsets.iter().find(|it| it.name == subset).map(|it| &*it.labels)
    }

    pub(super) fn subsets(&self) -> impl Iterator<Item = &str> {
        self.subsets.iter().map(|it| &*it.name)
    }

    /// What an upstream says because of it, and whether HTTP/2 is spoken.
    pub(super) fn settings(&self, subset: Option<&str>) -> (Vec<(&'static str, Keys)>, bool) {
        let of_subset =
            subset.and_then(|name| self.subsets.iter().find(|it| it.name == name)).map(|it| &it.traffic);
        let none = Traffic::default();
        let (closer, wider) = (of_subset.unwrap_or(&none), &self.traffic);
        let pool = closer.pool.as_ref().or(wider.pool.as_ref()).cloned().unwrap_or_default();
        let mut balance = closer.balance.as_ref().or(wider.balance.as_ref()).cloned().unwrap_or_default();
        balance.extend(closer.panic.as_ref().or(wider.panic.as_ref()).cloned().unwrap_or_default());
        let some = |keys: Option<&Keys>| keys.cloned();
        let parts = [
            ("balance", Some(balance).filter(|it| !it.is_empty())),
            ("circuit_breaker", some(closer.breaker.as_ref().or(wider.breaker.as_ref()))),
            ("bulkhead", Some(pool.bulkhead).filter(|it| !it.is_empty())),
            ("connections", Some(pool.connections).filter(|it| !it.is_empty())),
            ("keep_alive", Some(pool.keep_alive).filter(|it| !it.is_empty())),
            ("timeouts", Some(pool.timeouts).filter(|it| !it.is_empty())),
            ("tls", some(closer.tls.as_ref().or(wider.tls.as_ref()))),
        ];
        (parts.into_iter().filter_map(|(key, keys)| Some((key, keys?))).collect(), pool.is_h2)
    }
}

fn traffic(fields: Option<Fields<'_, '_>>, findings: &mut Findings) -> Traffic {
    let mut traffic = Traffic::default();
    let Some(mut fields) = fields else { return traffic };
    if let Some(balance) = fields.map("loadBalancer", findings) {
        traffic.balance = balance_of(balance, findings);
    }
    if let Some(pool) = fields.map("connectionPool", findings) {
        traffic.pool = Some(pool_of(pool, findings));
    }
    if let Some(outlier) = fields.map("outlierDetection", findings) {
        (traffic.breaker, traffic.panic) = outlier_of(outlier, findings);
    }
    if let Some(tls) = fields.map("tls", findings) {
        traffic.tls = tls_of(tls, findings);
    }
    fields.leave(
        "portLevelSettings",
        "settings of one port are not told apart",
        "write them into the upstream with that port",
        findings,
    );
    fields.leave("tunnel", "nothing is tunnelled with CONNECT", "", findings);
    fields.leave(
        "proxyProtocol",
        "endpoints are not sent the PROXY protocol",
        "they hear of the client in `X-Forwarded-For`",
        findings,
    );
    fields.leave(
        "retryBudget",
        "a budget is of the upstream, in other words",
        "write `retry_budget: {ratio: 20%, min_per_second: 10}` into the upstream",
        findings,
    );
    fields.finish(findings);
    traffic
}

fn balance_of(mut fields: Fields<'_, '_>, findings: &mut Findings) -> Option<Keys> {
    let mut keys = Keys::new();
    let policy = |name: &str| ("policy".to_owned(), Out::plain(name));
    if let Some(simple) = fields.said("simple", findings) {
        match simple.text.as_str() {
            "ROUND_ROBIN" => keys.push(policy("round_robin")),
            "LEAST_REQUEST" => keys.push(policy("least_request")),
            "LEAST_CONN" => {
                findings.note(simple.at, "`LEAST_CONN` is the old name of `LEAST_REQUEST`: it counts requests, and so does `least_request`", "");
                keys.push(policy("least_request"));
            }
            "RANDOM" => keys.push(policy("random")),
            "UNSPECIFIED" => {}
            other => findings.left_out(
                simple.at,
                format!("`{other}` is no way to choose an endpoint here"),
                "see `balance.policy`",
            ),
        }
    }
    if let Some(hash) = fields.map("consistentHash", findings) {
        keys.extend(hash_of(hash, findings));
    }
    let warmup = fields.duration("warmupDurationSecs", findings).or_else(|| {
        let mut warmup = fields.map("warmup", findings)?;
        let duration = warmup.duration("duration", findings);
        for key in ["minimumPercent", "aggression"] {
            warmup.leave(
                key,
                "the share of an endpoint that joins grows evenly, from next to nothing",
                "",
                findings,
            );
        }
        warmup.finish(findings);
        duration
    });
    keys.extend(
        warmup.filter(|it| !it.is_zero()).map(|it| ("slow_start".to_owned(), Out::plain(show_duration(it)))),
    );
    fields.leave(
        "localityLbSetting",
        "regions are told apart by labels of endpoints",
        "write `balance: {regions: …}` into the upstream",
        findings,
    );
    fields.finish(findings);
    (!keys.is_empty()).then_some(keys)
}

fn hash_of(mut fields: Fields<'_, '_>, findings: &mut Findings) -> Keys {
    let key = if let Some(name) = fields.text("httpHeaderName", findings) {
        Some(format!("header:{}", name.to_ascii_lowercase()))
    } else if let Some(name) = fields.text("httpQueryParameterName", findings) {
        Some(format!("query:{name}"))
    } else if let Some(mut cookie) = fields.map("httpCookie", findings) {
        let name = cookie.text("name", findings);
        cookie.change(
            "ttl",
            "a cookie that is not there is not made: such a request goes to any endpoint",
            "write `balance: {sticky: {cookie: …, secret: …}}`, which makes one",
            findings,
        );
        cookie.pass(&["ttl", "path", "attributes"]);
        cookie.finish(findings);
        name.map(|name| format!("cookie:{name}"))
    } else {
        fields.is_true("useSourceIp", findings).then(|| "client_ip".to_owned())
    };
    let policy = if fields.take("maglev").is_some() { "maglev" } else { "ring_hash" };
    fields.pass(&["ringHash", "minimumRingSize", "useSourceIp"]);
    let span = fields.span;
    fields.finish(findings);
    if let Some(key) = key {
        vec![("policy".into(), Out::plain(policy)), ("key".into(), Out::texts([key]))]
    } else {
        findings.error(
            span,
            "by what it is hashed is not said",
            "write `httpHeaderName:`, `httpCookie:`, `httpQueryParameterName:` or `useSourceIp: true`",
        );
        Keys::new()
    }
}

fn pool_of(mut fields: Fields<'_, '_>, findings: &mut Findings) -> Pool {
    let mut pool = Pool::default();
    if let Some(mut tcp) = fields.map("tcp", findings) {
        if let Some(max) = tcp.number("maxConnections", findings) {
            findings.changed(
                tcp.at("maxConnections"),
                format!("{max} connections of the whole service: here they are counted for each endpoint"),
                "write `connections: {max: …}` with the part of one endpoint",
            );
            pool.connections.push(("max".into(), Out::plain(max.clamp(1, 1_000_000))));
        }
        if let Some(connect) = tcp.duration("connectTimeout", findings).filter(|it| !it.is_zero()) {
            pool.timeouts.push(("connect".into(), Out::plain(show_duration(connect))));
        }
        if let Some(lifetime) = tcp.duration("maxConnectionDuration", findings).filter(|it| !it.is_zero()) {
            pool.keep_alive.push(("max_lifetime".into(), Out::plain(show_duration(lifetime))));
        }
        tcp.leave(
            "tcpKeepalive",
            "connections that are idle are closed, and none is kept alive by TCP",
            "",
            findings,
        );
        idle(&mut tcp, &mut pool, findings);
        tcp.finish(findings);
    }
    if let Some(mut http) = fields.map("http", findings) {
        if let Some(pending) = http.number("http1MaxPendingRequests", findings) {
            pool.connections.push(("pending".into(), Out::plain(pending.min(1_000_000))));
        }
        if let Some(max) = http.number("http2MaxRequests", findings).filter(|max| *max > 0) {
            pool.bulkhead.push(("max".into(), Out::plain(max.min(10_000_000))));
        }
        if let Some(streams) = http.number("maxConcurrentStreams", findings) {
            pool.connections.push(("streams".into(), Out::plain(streams.clamp(1, 1024))));
        }
        idle(&mut http, &mut pool, findings);
        if let Some(many) = http.number("maxRequestsPerConnection", findings).filter(|many| *many > 0) {
            findings.left_out(
                http.at("maxRequestsPerConnection"),
                format!("`maxRequestsPerConnection: {many}`: requests are not counted for each connection; a small number means a new connection every few requests"),
                "connections are renewed after `keep_alive: {max_lifetime: 1h}`; write `max_idle: 0` if none may be kept at all",
            );
        }
        http.leave(
            "maxRetries",
            "how many retries are under way is not bounded by a number",
            "the upstream's `retry_budget` bounds them by a share of its requests",
            findings,
        );
        if let Some(upgrade) = http.said("h2UpgradePolicy", findings) {
            pool.is_h2 = upgrade.text == "UPGRADE";
        }
        http.leave(
            "useClientProtocol",
            "an upstream speaks one protocol, whatever its client speaks",
            "write `protocol: h2` if its endpoints do",
            findings,
        );
        http.finish(findings);
    }
    fields.finish(findings);
    pool
}

fn idle(fields: &mut Fields<'_, '_>, pool: &mut Pool, findings: &mut Findings) {
    if let Some(idle) = fields.duration("idleTimeout", findings).filter(|it| !it.is_zero()) {
        pool.keep_alive.retain(|(key, _)| key != "timeout");
        pool.keep_alive.push(("timeout".into(), Out::plain(show_duration(idle))));
    }
}

/// Ejection is the circuit breaker of each endpoint. `None`: it never ejects.
fn outlier_of(mut fields: Fields<'_, '_>, findings: &mut Findings) -> (Option<Keys>, Option<Keys>) {
    let mut gateway = fields.number("consecutiveGatewayErrors", findings);
    if let Some(errors) = fields.number("consecutiveErrors", findings) {
        findings.note(
            fields.at("consecutiveErrors"),
            "`consecutiveErrors` is the old name of `consecutiveGatewayErrors`",
            "",
        );
        gateway = gateway.or(Some(errors));
    }
    // 5 if nothing is said of either; 0 is not at all.
    let any =
        fields.number("consecutive5xxErrors", findings).or(if gateway.is_none() { Some(5) } else { None });
    let (gateway, any) = (gateway.filter(|it| *it > 0), any.filter(|it| *it > 0));
    let first = fields
        .duration("baseEjectionTime", findings)
        .filter(|it| !it.is_zero())
        .unwrap_or(Duration::from_secs(30));
    let most = fields.duration("maxEjectionTime", findings).unwrap_or(Duration::from_mins(5)).max(first);
    let ejected = fields.number("maxEjectionPercent", findings).unwrap_or(10);
    fields.change(
        "interval",
        "failures are looked at with each answer, and not every so often",
        "",
        findings,
    );
    fields.pass(&["interval"]);
    let panic = fields.number("minHealthPercent", findings).filter(|percent| *percent > 0);
    let panic = panic.map(|percent| vec![("panic".to_owned(), Out::plain(format!("{}%", percent.min(100))))]);
    for key in ["splitExternalLocalOriginErrors", "consecutiveLocalOriginFailures"] {
        fields.leave(key, "connections that fail count as all failures do", "", findings);
    }
    let span = fields.span;
    fields.finish(findings);
    let mut keys = Keys::new();
    let consecutive = match (gateway, any) {
        (Some(gateway), Some(any)) if any < gateway => any,
        (Some(gateway), other) => {
            if other.is_some() {
                findings.changed(
                    span,
                    "of two counts of failures in a row the smaller one counts, for gateway errors alone",
                    "",
                );
            }
            keys.push(("statuses".into(), Out::List(vec![Out::plain("502-504")])));
            gateway
        }
        (None, Some(any)) => any,
        (None, None) => return (None, panic),
    };
    keys.insert(0, ("consecutive".into(), Out::plain(consecutive.min(1_000_000))));
    keys.insert(1, ("failure_rate".into(), Out::plain("never")));
    let open = if most == first {
        show_duration(first)
    } else {
        format!("{}..{}", show_duration(first), show_duration(most))
    };
    keys.insert(2, ("open".into(), Out::plain(open)));
    let ejected = if ejected >= 100 { "all".to_owned() } else { format!("{}%", ejected.max(1)) };
    keys.push(("max_ejected".into(), Out::plain(ejected)));
    (Some(keys), panic)
}

fn tls_of(mut fields: Fields<'_, '_>, findings: &mut Findings) -> Option<Keys> {
    let mode = fields.said("mode", findings);
    let sni = fields.said("sni", findings).and_then(|it| action::valid::<TlsName>(&it, findings));
    let ca = fields.said("caCertificates", findings);
    let names = fields.texts("subjectAltNames", findings);
    let names = names.iter().filter_map(|it| action::valid::<TlsName>(it, findings)).collect::<Vec<_>>();
    let (cert, key) = (fields.text("clientCertificate", findings), fields.text("privateKey", findings));
    let secret = fields.said("credentialName", findings);
    let is_blind = fields.is_true("insecureSkipVerify", findings);
    fields.leave("caCrl", "lists of revoked certificates are not looked at", "", findings);
    let span = fields.span;
    fields.finish(findings);
    let mode = mode.unwrap_or(Said { text: "DISABLE".into(), at: span });
    let mut keys = Keys::new();
    keys.extend(sni.map(|sni| ("sni".to_owned(), Out::text(sni))));
    let mut file = |name: String, what: &str| {
        findings.needs(
            mode.at,
            format!("`{name}`, seen from the configuration, has to be {what}"),
            "put it there, as PEM",
        );
        Out::text(name)
    };
    match mode.text.as_str() {
        "DISABLE" => return None,
        "SIMPLE" | "MUTUAL" => {
            let name = secret.as_ref().map(|it| it.text.clone());
            let ca = ca.map(|it| it.text).or_else(|| Some(format!("tls/{}-ca.crt", name.as_ref()?)));
            if let Some(ca) = ca.filter(|it| it != "system" && !is_blind) {
                let ca = file(ca, "the authorities of the endpoints' certificates");
                keys.push(("ca".into(), ca));
            }
            if mode.text == "MUTUAL" {
                let base = name.unwrap_or_else(|| "client".into());
                let cert = cert.unwrap_or_else(|| format!("tls/{base}.crt"));
                let key = key.unwrap_or_else(|| format!("tls/{base}.key"));
                keys.push(("cert".into(), file(cert, "the certificate that endpoints are shown")));
                keys.push(("key".into(), file(key, "its private key")));
            }
        }
        "ISTIO_MUTUAL" => {
            keys.push(("ca".into(), file("tls/mesh-ca.crt".into(), "the authority of the mesh")));
            keys.push((
                "cert".into(),
                file("tls/mesh.crt".into(), "a certificate of the mesh for this gateway"),
            ));
            keys.push(("key".into(), file("tls/mesh.key".into(), "its private key")));
        }
        other => {
            findings.error(
                mode.at,
                format!("`{other}` is no mode of TLS"),
                "write DISABLE, SIMPLE, MUTUAL or ISTIO_MUTUAL",
            );
            return None;
        }
    }
    if mode.text == "ISTIO_MUTUAL" && names.is_empty() {
        findings.needs(
            mode.at,
            "who the endpoints are, certificates of the mesh say with a SPIFFE ID, and it is not said which one: until then they are not believed",
            "write `verify_san: [\"spiffe://…/ns/…/sa/…\"]` into the upstream's `tls`",
        );
    }
    if is_blind {
        keys.push(("verify".into(), Out::plain(false)));
    } else if !names.is_empty() {
        keys.push(("verify_san".into(), Out::texts(names)));
    }
    Some(keys)
}
