//! The process and its listeners.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    num::NonZeroU64,
    sync::Arc,
    time::Duration,
};

use http::HeaderName;

use super::{
    Tables, auth, health, pages,
    policies::{Level, Policies, level_keys},
    registries,
    stores::Stores,
    telemetry, tls, unique,
};
use crate::address::Address;
use crate::config::{
    checked::{
        Acme, Admin, Alerts, Drain, Forwarding, Gateway, IdentityPart, Listener, Name, Protocols, Reload,
        ServerLimits, StateFile, TrustedProxies,
    },
    decode::{At, Cx, OneOrMany, Or},
    diagnostic::Code,
    node::Span,
    raw::{ListenerProtocol, RawAdmin, RawFile, RawForwarded, RawGateway, RawListenerLimits, RawListenerTls},
    values::{FileMode, TrustedProxy},
};

/// The checked listeners, and what stands at each.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Listeners {
    pub(super) checked: BTreeMap<Name, Listener>,
    pub(super) levels: BTreeMap<Name, Level>,
    /// Bytes of a request body, where a listener says so.
    pub(super) bodies: BTreeMap<Name, Option<usize>>,
}

pub(super) fn listeners(
    tables: &Tables<'_>,
    policies: &mut Policies,
    trusted: &TrustedProxies,
    now_s: u64,
    cx: &mut Cx,
) -> Listeners {
    let mut it = Listeners { checked: BTreeMap::new(), levels: BTreeMap::new(), bodies: BTreeMap::new() };
    let mut seen: HashMap<&Address, &At<Address>> = HashMap::new();
    let mut ordered: HashMap<Name, (Span, Arc<Acme>)> = HashMap::new();
    for (name, at, raw) in tables.listeners.read() {
        let level = policies.level(tables, at, &level_keys!(raw), cx);
        it.levels.insert(Arc::clone(name), level);
        if let Some(body) = raw.limits.as_ref().and_then(|it| it.value.body.as_ref()) {
            it.bodies.insert(Arc::clone(name), body.value.0);
        }
        if let Some(protocols) = &raw.protocols {
            unique(&protocols.value.0, "protocol", cx);
        }
        let Some(listen) = &raw.listen else { continue };
        if let Some(first) = seen.get(&listen.value) {
            let place = cx.place(first.span);
            cx.error(Code::Conflict, listen.span, format!("two listeners on `{}`", listen.value))
                .label("again here")
                .related(place, "first here")
                .help(match &listen.value {
                    Address::Tcp(_) => "give one of them another port",
                    Address::Unix(_) => "give one of them another path",
                })
                .combined();
        }
        seen.entry(&listen.value).or_insert(listen);
        let mode = mode(listen, raw.mode.as_deref(), trusted, cx);
        let timeouts = raw.timeouts.as_ref().map(|it| it.value.clone()).unwrap_or_default();
        let (has_trusted, help) = match &listen.value {
            Address::Tcp(_) => (
                !trusted.networks.is_empty(),
                "name the balancers in front: `gateway: {trusted_proxies: [10.0.0.0/8]}`",
            ),
            Address::Unix(_) => {
                (trusted.unix, "trust whoever comes by a Unix socket: `gateway: {trusted_proxies: [unix]}`")
            }
        };
        if let Some(at) = raw.proxy_protocol.as_ref().filter(|at| at.value && !has_trusted) {
            cx.error(Code::Missing, at.span, "nobody is trusted to say where a connection comes from")
                .combined()
                .help(help);
        }
        let listener = Listener {
            listen: listen.value.clone(),
            mode,
            protocols: protocols(raw.protocols.as_deref(), raw.tls.as_deref(), cx),
            tls: raw.tls.as_ref().and_then(|at| tls::server(&at.value, at.key, now_s, cx)),
            is_proxied: raw.proxy_protocol(),
            handshake: timeouts.handshake(),
            request_headers: timeouts.request_headers(),
            idle: timeouts.idle(),
            min_rate: min_rate(raw.limits.as_deref()),
        };
        if let Some(acme) = listener.tls.as_ref().and_then(|tls| tls.acme.as_ref()) {
            let at = raw.tls.as_ref().and_then(|at| at.value.acme.as_ref()).map_or(listen.span, |at| at.key);
            let first = ordered.entry(Arc::clone(&acme.id)).or_insert_with(|| (at, Arc::clone(acme)));
            if first.1 != *acme {
                let place = cx.place(first.0);
                cx.error(Code::Conflict, at, "the same certificate is ordered in another way")
                    .related(place, "as it is ordered here")
                    .help("say the same of it in both places: `folder`, `contact` and `ca`")
                    .combined();
            }
        }
        it.checked.insert(Arc::clone(name), listener);
    }
    it
}

/// Of a Unix socket, if nothing is said: the user of the process.
const MODE: u32 = 0o600;

/// Who may connect to a Unix socket.
fn mode(listen: &At<Address>, said: Option<&At<FileMode>>, trusted: &TrustedProxies, cx: &mut Cx) -> u32 {
    let Some(said) = said else { return MODE };
    let mode = said.value.0;
    if listen.value.path().is_none() {
        let place = cx.place(listen.span);
        cx.error(Code::Conflict, said.span, "`mode` is of the file of a Unix socket")
            .related(place, "this is an address")
            .help("take it away, or write `listen: unix:/run/naka/web.sock`");
    } else if trusted.unix && mode & EVERYBODY != 0 {
        cx.error(Code::Exposed, said.span, "every user of this machine may say whose a request is")
            .warning()
            .combined()
            .label("everybody may connect, and `gateway.trusted_proxies` has `unix`")
            .help("write `\"0660\"` and give the group to the proxy in front, or take `unix` away");
    }
    mode
}

/// Write, which is to connect, for who is neither the user nor of the group (`unix(7)`).
const EVERYBODY: u32 = 0o002;

/// A size is never 0.
fn min_rate(said: Option<&At<RawListenerLimits>>) -> Option<NonZeroU64> {
    let bytes = said.map(|it| it.value.clone()).unwrap_or_default().min_rate().0?;
    u64::try_from(bytes).ok().and_then(NonZeroU64::new)
}

fn protocols(
    said: Option<&At<OneOrMany<ListenerProtocol>>>,
    tls: Option<&At<RawListenerTls>>,
    cx: &mut Cx,
) -> Protocols {
    let Some(said) = said else { return Protocols { h1: true, h2: tls.is_some() } };
    if said.value.0.is_empty() {
        cx.error(Code::Value, said.span, "a listener on which nothing is spoken")
            .help("write `protocols: [h1, h2c]`, or take it away for `h1`");
    }
    let find = |wanted: ListenerProtocol| said.value.0.iter().find(|at| at.value == wanted);
    let (over_tls, without) = (find(ListenerProtocol::H2), find(ListenerProtocol::H2c));
    match (tls, over_tls, without) {
        (None, Some(h2), _) => {
            cx.error(Code::Conflict, h2.span, "`h2` is HTTP/2 over TLS, and there is no `tls`")
                .help("write `h2c` for HTTP/2 without TLS, or add `tls: {certificates: [{cert: api.pem, key: api.key}]}`");
        }
        (Some(tls), _, Some(h2c)) => {
            let place = cx.place(tls.key);
            cx.error(Code::Conflict, h2c.span, "`h2c` is HTTP/2 without TLS")
                .related(place, "there is TLS")
                .help("write `h2`");
        }
        _ => {}
    }
    Protocols { h1: find(ListenerProtocol::H1).is_some(), h2: over_tls.is_some() || without.is_some() }
}

/// Peers that are believed.
pub(super) fn trusted(raw: &RawGateway) -> TrustedProxies {
    let mut trusted = TrustedProxies::default();
    for at in raw.trusted_proxies.iter().flat_map(|it| &it.value.0) {
        match at.value {
            TrustedProxy::Network(network) => trusted.networks.push(network),
            TrustedProxy::Unix => trusted.unix = true,
        }
    }
    trusted
}

pub(super) fn gateway(
    entry: Option<&RawFile>,
    listeners: &BTreeMap<Name, Listener>,
    stores: &Stores,
    cx: &mut Cx,
) -> Gateway {
    let raw = entry.and_then(|raw| raw.gateway.as_ref()).map(|it| it.value.clone()).unwrap_or_default();
    if let Some(proxies) = &raw.trusted_proxies {
        unique(&proxies.value.0, "network", cx);
    }
    Gateway {
        workers: raw.workers(),
        admin: admin(&raw, listeners, cx),
        reload: reload(&raw, cx),
        trusted_proxies: trusted(&raw),
        forwarding: forwarding(&raw),
        proxy_status: raw.proxy_status(),
        pages: pages::pages(&raw, cx),
        limits: limits(&raw),
        identity_headers: identity_headers(&raw, cx),
        deadline_header: deadline_header(&raw, cx),
        servers: servers(&raw, cx),
        registries: registries::registries(&raw, cx),
        stores: stores.checked.clone(),
        drain: drain(&raw, cx),
        state: state(&raw, cx),
        upgrade_socket: upgrade_socket(&raw, listeners, cx),
        telemetry: telemetry::telemetry(&raw, cx),
        health: health::self_checks(&raw, cx),
        alerts: Alerts::default(), // Once it is known what there is to watch.
        max_series: max_series(&raw),
    }
}

fn max_series(raw: &RawGateway) -> usize {
    let metrics = raw.telemetry.as_ref().and_then(|it| it.value.metrics.as_ref());
    let metrics = metrics.map(|it| it.value.clone()).unwrap_or_default();
    usize::try_from(metrics.max_series().0).unwrap_or(usize::MAX)
}

fn admin(raw: &RawGateway, listeners: &BTreeMap<Name, Listener>, cx: &mut Cx) -> Option<Admin> {
    let default = RawAdmin::default();
    let raw = match raw.admin.as_ref().map(|admin| &admin.value) {
        Some(Or::Text(_)) => return None,
        Some(Or::Record(raw)) => raw,
        None => &default,
    };
    let address = raw.listen();
    let same =
        listeners.iter().find(|(_, listener)| listener.listen.tcp() == Some(address) && address.port() != 0);
    if let (Some((name, _)), Some(listen)) = (same, &raw.listen) {
        cx.error(
            Code::Conflict,
            listen.span,
            format!("the admin port is the address of the listener `{name}`"),
        )
        .help("give one of them another port")
        .combined();
    }
    if let Some(listen) = raw.listen.as_ref().filter(|_| !address.ip().is_loopback()) {
        cx.error(Code::Exposed, listen.span, "the admin port can be reached from other machines")
            .warning()
            .label("all can be read there without a password")
            .help("write `127.0.0.1:9901`, or see to it that only those reach it who may read it");
    }
    let token = raw.token.as_ref().and_then(|token| {
        let secret = auth::secret(token, cx)?;
        if secret.bytes().len() < TOKEN {
            cx.error(Code::Value, token.span, format!("the token has {} bytes", secret.bytes().len()))
                .help(format!("take at least {TOKEN} that nobody can guess: `openssl rand -hex 32`"));
        }
        Some(secret)
    });
    if let Some(said) = &raw.socket {
        is_no_listener(said, listeners, cx);
    }
    Some(Admin { listen: address, socket: raw.socket.as_ref().map(|at| Arc::clone(&at.value)), token })
}

/// A path is one socket's.
fn is_no_listener(said: &At<Arc<str>>, listeners: &BTreeMap<Name, Listener>, cx: &mut Cx) {
    let same = listeners.iter().find(|(_, listener)| listener.listen.path() == Some(&said.value));
    if let Some((name, _)) = same {
        cx.error(Code::Conflict, said.span, format!("this is the socket of the listener `{name}`"))
            .help("give one of them another path")
            .combined();
    }
}

fn forwarding(raw: &RawGateway) -> Forwarding {
    match raw.forwarded() {
        RawForwarded::XForwarded => Forwarding::XForwarded,
        RawForwarded::Rfc7239 => Forwarding::Rfc7239,
        RawForwarded::Both => Forwarding::Both,
    }
}

/// The shortest token of the admin port, in bytes.
const TOKEN: usize = 16;

fn reload(raw: &RawGateway, cx: &mut Cx) -> Reload {
    let raw = raw.reload.as_ref().map(|it| it.value.clone()).unwrap_or_default();
    let it = Reload {
        watch: raw.watch(),
        debounce: raw.debounce().0,
        max_wait: raw.max_wait().0,
        run_tests: raw.run_tests(),
        strict: raw.strict(),
        keep: usize::try_from(raw.keep().0).unwrap_or_default(),
    };
    if let Some(at) = raw.max_wait.as_ref().or(raw.debounce.as_ref()).filter(|_| it.max_wait < it.debounce) {
        cx.error(Code::Conflict, at.span, "`max_wait` is shorter than `debounce`").help(
            "`max_wait` bounds how long a burst of changes can put off reading: write more than `debounce`",
        );
    }
    it
}

/// Headers that tell upstreams who asks, none of which is one that HTTP or we need.
fn identity_headers(raw: &RawGateway, cx: &mut Cx) -> Vec<(HeaderName, IdentityPart)> {
    let named = raw.identity_headers.iter().flat_map(|it| &it.value.0);
    let mut it = Vec::new();
    for (name, part) in named {
        let text = name.value.as_str();
        if auth::is_taken(&name.value) {
            cx.error(Code::Conflict, name.span, format!("`{text}` says something else"))
                .help("take a name of your own: `x-user-id`");
        }
        it.extend(part.clone().map(|part| (name.value.clone(), part)));
    }
    it
}

fn deadline_header(raw: &RawGateway, cx: &mut Cx) -> Option<HeaderName> {
    let name = raw.deadline_header.as_ref()?;
    let mut said = raw.identity_headers.iter().flat_map(|it| &it.value.0);
    if auth::is_taken(&name.value) || said.any(|(said, _)| said.value == name.value) {
        cx.error(Code::Conflict, name.span, format!("`{}` says something else", name.value))
            .help("take a name of your own: `x-request-timeout-ms`");
    }
    Some(name.value.clone())
}

/// Name servers.
fn servers(raw: &RawGateway, cx: &mut Cx) -> Vec<SocketAddr> {
    let Some(servers) = raw.resolver.as_ref().and_then(|it| it.value.servers.as_ref()) else {
        return Vec::new();
    };
    unique(&servers.value.0, "name server", cx);
    if servers.value.0.is_empty() {
        cx.error(Code::Value, servers.span, "no name server")
            .help("write one, or take `resolver:` away: then those of this machine are asked");
    }
    servers.value.0.iter().map(|at| at.value.0).collect()
}

fn limits(raw: &RawGateway) -> ServerLimits {
    let raw = raw.limits.as_ref().map(|it| it.value.clone()).unwrap_or_default();
    let number = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    ServerLimits {
        connections: number(raw.connections().0),
        connections_per_ip: raw
            .connections_per_ip
            .as_ref()
            .map(|it| u32::try_from(it.value.0).unwrap_or(u32::MAX)),
        upstream_connections: number(raw.upstream_connections().0),
        header_bytes: raw.header_bytes().0,
        header_count: number(raw.header_count().0),
        uri: raw.uri().0,
        buffered: raw.buffered().0,
    }
}

fn drain(raw: &RawGateway, cx: &mut Cx) -> Drain {
    let raw = raw.drain.as_ref().map(|it| it.value.clone()).unwrap_or_default();
    let it = Drain { grace: raw.grace().0, deadline: raw.deadline() };
    if let Some(at) = raw.deadline.as_ref().map(|it| it.span).or(raw.grace.as_ref().map(|it| it.span))
        && it.deadline < it.grace
    {
        cx.error(Code::Conflict, at, "`deadline` is before the end of `grace`")
            .help("both count from the signal: write a `deadline` longer than `grace`");
    }
    it
}

/// Each writing looks at every key: more often than this it would do nothing else.
const OFTEN: Duration = Duration::from_secs(1);

fn state(raw: &RawGateway, cx: &mut Cx) -> Option<StateFile> {
    let raw = &raw.state.as_ref()?.value;
    let interval = raw.interval();
    if let Some(at) = raw.interval.as_ref().filter(|_| interval < OFTEN) {
        cx.error(Code::Value, at.span, "the state would be written more than once a second")
            .help("write `1s` or more; it is written once more at the end of the process");
    }
    Some(StateFile { file: Arc::clone(&raw.file.as_ref()?.value), interval })
}

fn upgrade_socket(raw: &RawGateway, listeners: &BTreeMap<Name, Listener>, cx: &mut Cx) -> Option<Arc<str>> {
    let said = raw.upgrade.as_ref()?.value.socket.as_ref()?;
    is_no_listener(said, listeners, cx);
    let of_admin = match raw.admin.as_ref().map(|admin| &admin.value) {
        Some(Or::Record(admin)) => admin.socket.as_ref(),
        _ => None,
    };
    if of_admin.is_some_and(|socket| socket.value == said.value) {
        cx.error(Code::Conflict, said.span, "this is the socket of the admin port")
            .help("give one of them another path");
    }
    Some(Arc::clone(&said.value))
}
