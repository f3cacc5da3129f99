//! The admin port: what is going on, for people and machines. Loopback unless said otherwise.
//!
//! | Path | What |
//! | --- | --- |
//! | `/` | The page that shows all of it, live |
//! | `/stats` | Counters since the process began and levels of now, as the page and `naka top` read them |
//! | `/transitions` | The last changes of circuit breakers, and why |
//! | `/livez` | The process runs, and no worker stands still |
//! | `/healthz` | Each check of the gateway itself, and what all say together. As changes do, it needs the token |
//! | `/alerts` | Alerts that are pending or fire |
//! | `/readyz` | It takes requests: each condition, and why it does not hold (`?verbose`: for people); generation, hash, files held back, last reload, policies without keys; while draining how far that has come, and 503. 503 also until all keys have been fetched for the first time |
//! | `/metrics` | All metrics: OpenMetrics for who asks for that (`Accept`), else Prometheus text |
//! | `/config` | The generation in force, and all that its files say, key by key, with file and line; secrets are withheld |
//! | `/routes` `/upstreams` `/policies` | What is in force, with live state |
//! | `/certificates` | Certificates that are ordered: until when, what is done about them, and why the last order failed |
//! | `/discovery` | Endpoints that are found: where, how many, and whether that is stale |
//! | `/versions` | The versions of each route, who uses them, and which could go |
//! | `POST /explain` | Explains a request against live state; consumes nothing |
//! | `POST /reload` | Reads the files now |
//! | `POST /upstreams?upstream=…&endpoint=…&do=…` | Takes an endpoint out (`maintenance`, `drain`) and in again (`restore`); `force_open`, `force_close`, `release` or `reset` of its circuit breaker |
//! | `POST /policies?policy=…&do=…` | The same of the circuit breaker of a policy |
//! | `POST /policies?policy=…&arm=…&do=…` | Holds one arm of a split (`hold`: it gets no share), or lets it have its share again (`release`) |
//!
//! | `/generations` | Those that can be rolled back to |
//! | `POST /rollback?to=…` | Goes back to an earlier generation: the one before if nothing is said |
//!
//! `Host` must name this machine, and a request that a web page sent (it has an `Origin`) is refused, unless it is this port's own
//! page that asks for an explanation: otherwise any page in a browser here could talk to this port (DNS rebinding). Whoever wants to change something needs the
//! token (`Authorization: Bearer …`), or comes through the Unix socket, which only the user of the process can open.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, ORIGIN, WWW_AUTHENTICATE},
};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use naka::{
    balance::{Absence, Endpoint},
    cache::Counts as Kept,
    clock::Now,
    health::{EndpointHealth, Health},
    split::{ArmStatus, Held, Tally},
};
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::{Semaphore, mpsc, oneshot},
    time::timeout,
};
use tracing::debug;

use crate::{
    ask::Asked,
    by_hand,
    config::{
        checked::{Auth, Config, Destination, Listener as Listening, Name, Protocol, Split, VersionTarget},
        show_time,
    },
    connection::Stream,
    discover::Status,
    drain::Drain,
    explain::explain,
    generation::{Generation, InForce},
    monitor::{self, Level, Monitor, ReadyCondition},
    observe::{Balancer, Format, Metrics, ReloadResult},
    patience::{Patience, Patient, Progress},
    reload,
    route::query_value,
    scrape::{self, breakers, waiting},
    state::State,
    upstream::Pools,
    versions,
};

mod page;
mod stats;

pub use stats::Busiest;

/// Connections to the admin port.
const CONNECTIONS: usize = 64;
/// Keys of a configuration that are shown.
const KEYS: usize = 50_000;
/// The largest request body.
const BODY: usize = 64 << 10;
/// How long a client may take over a request head, over a body, and over taking a piece of a response.
const PATIENCE: Duration = Duration::from_secs(10);

/// Asks for another generation; answered when it is there, or not.
#[derive(Debug)]
pub enum Ask {
    /// What the files say now.
    Reload(oneshot::Sender<ReloadResult>),
    /// An earlier one: this, or the one before.
    Rollback(Option<u64>, oneshot::Sender<Result<u64, String>>),
}

/// How a request came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From whoever can connect to the address.
    Address,
    /// From whoever may open the Unix socket.
    Socket,
}

/// What the admin port shows.
#[derive(Debug)]
pub struct Admin {
    /// The generation in force.
    pub in_force: Arc<InForce>,
    /// All metrics.
    pub metrics: Arc<Metrics>,
    /// How reloads went.
    pub status: Arc<reload::Status>,
    /// How far the end of the process has come.
    pub drain: Drain,
    /// Whether another process is taking over, or has: what is done by hand here from now on would not be known there.
    pub is_handing_over: AtomicBool,
    /// Whether all keys that tokens need have been there at once, at some time.
    pub has_begun: AtomicBool,
    /// How the gateway itself is.
    pub monitor: Arc<Monitor>,
    /// Which routes are asked most just now.
    pub busiest: Arc<Busiest>,
    /// Asks for another generation.
    pub ask: mpsc::Sender<Ask>,
}

/// Where connections come from.
#[derive(Debug)]
pub enum Listener {
    /// An address.
    Address(TcpListener),
    /// A Unix socket.
    Socket(UnixListener),
}

enum Accepted {
    Address(TcpStream),
    Socket(UnixStream),
}

impl Listener {
    async fn accept(&self) -> std::io::Result<Accepted> {
        Ok(match self {
            Self::Address(listener) => Accepted::Address(listener.accept().await?.0),
            Self::Socket(listener) => Accepted::Socket(listener.accept().await?.0),
        })
    }
}

/// Serves the admin port for ever.
pub async fn serve(admin: Arc<Admin>, listener: Listener) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let Ok(accepted) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let admin = Arc::clone(&admin);
        tokio::spawn(async move {
            match accepted {
                Accepted::Address(stream) => serve_connection(admin, Way::Address, stream).await,
                Accepted::Socket(stream) => serve_connection(admin, Way::Socket, stream).await,
            }
            drop(place);
        });
    }
}

/// Serves one connection to the admin port.
pub async fn serve_connection<S: Stream>(admin: Arc<Admin>, way: Way, stream: S) {
    let service = service_fn(|request| {
        let admin = Arc::clone(&admin);
        async move { Ok::<_, Infallible>(admin.answer(way, request).await) }
    });
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(PATIENCE);
    // Whoever takes nothing for as long is given up.
    let progress = Progress::new(Patience { request_headers: PATIENCE, idle: PATIENCE, min_rate: None });
    let stream = TokioIo::new(Patient::new(stream, &progress));
    if let Err(error) = server.serve_connection(stream, service).await {
        debug!(%error, "an admin connection ended in an error");
    }
}

type Answer = Response<Full<Bytes>>;

impl Admin {
    async fn answer(&self, way: Way, request: Request<Incoming>) -> Answer {
        if !is_local(&request) || is_of_a_page(&request) {
            let why = "this port answers only to `Host: localhost` or an address, and to no web page\n";
            return text(StatusCode::FORBIDDEN, why.into());
        }
        let generation = self.in_force.get();
        let method = if request.method() == Method::HEAD { &Method::GET } else { request.method() };
        let is_write = method == Method::POST && request.uri().path() != "/explain";
        let is_detail = request.uri().path() == "/healthz";
        if let Some(refused) = refused(&generation, way, request.headers()).filter(|_| is_write || is_detail)
        {
            return refused;
        }
        match (method, request.uri().path()) {
            (&Method::GET, "/" | "/page.css" | "/page.js") => page::answer(request.uri().path()),
            (&Method::GET, "/stats") => stats::answer(self, generation, query(&request)).await,
            (&Method::GET, "/transitions") => reply(&self.metrics.transitions()),
            (&Method::GET, "/livez") => self.alive(&generation),
            (&Method::GET, "/readyz") => self.ready(&generation, is_for_people(&request)),
            (&Method::GET, "/healthz") => self.health(&generation),
            (&Method::GET, "/alerts") => reply(&self.monitor.alerts.to_json(&generation)),
            (&Method::GET, "/metrics") => self.metrics(generation, request.headers()).await,
            (&Method::GET, "/config") => reply(&self.config(&generation).await),
            (&Method::GET, "/routes") => reply(&routes(&generation.config)),
            (&Method::GET, "/upstreams") => reply(&upstreams(&generation)),
            (&Method::GET, "/discovery") => reply(&discovery(&generation)),
            (&Method::GET, "/certificates") => reply(&certificates(&generation)),
            (&Method::GET, "/policies") => reply(&policies(&generation)),
            (&Method::GET, "/versions") => reply(&of_versions(&generation)),
            (&Method::POST, "/explain") => explained(&generation, request).await,
            (&Method::GET, "/generations") => reply(&self.status.generations()),
            (&Method::POST, "/reload") => self.reload().await,
            (&Method::POST, "/rollback") => self.rollback(query(&request)).await,
            (&Method::POST, "/upstreams" | "/policies") if self.is_handing_over.load(Relaxed) => {
                text(StatusCode::SERVICE_UNAVAILABLE, HANDING_OVER.into())
            }
            (&Method::POST, "/upstreams") => told(by_hand::to_endpoint(&generation.state, query(&request))),
            (&Method::POST, "/policies") => told(by_hand::to_policy(&generation.state, query(&request))),
            (_, "/explain" | "/reload" | "/rollback") => {
                text(StatusCode::METHOD_NOT_ALLOWED, "POST it\n".into())
            }
            _ => text(StatusCode::NOT_FOUND, PATHS.into()),
        }
    }

    /// Whether all keys have been there once. Later a lack of keys concerns the routes that need them, and not
    /// all the others.
    fn has_begun(&self, has_keys: bool) -> bool {
        let has_begun = self.has_begun.load(Relaxed) || has_keys;
        self.has_begun.store(has_begun, Relaxed);
        has_begun
    }

    /// The policies whose keys have to be there before it is ready for the first time.
    pub fn waits_for(&self) -> Vec<Name> {
        let waits_for = self.in_force.with(|generation| {
            let lacking = generation.state.without_keys(Now::read());
            lacking.into_iter().map(|(name, _)| Arc::clone(name)).collect::<Vec<_>>()
        });
        if self.has_begun(waits_for.is_empty()) { Vec::new() } else { waits_for }
    }

    /// Whether the process does anything at all. Nothing outside of it has a part in that.
    fn alive(&self, generation: &Generation) -> Answer {
        let stalled = self.monitor.stalled(generation.config.gateway.health.stalled_after);
        if stalled.is_empty() {
            return text(StatusCode::OK, "ok\n".into());
        }
        let all =
            stalled.iter().map(|(worker, still)| format!("worker {worker} has stood still for {still:?}\n"));
        text(StatusCode::SERVICE_UNAVAILABLE, all.collect())
    }

    fn health(&self, generation: &Generation) -> Answer {
        let (level, is) = self.monitor.to_json(generation.config.gateway.health.interval);
        let mut answer = reply(&is);
        if level == Level::Critical {
            *answer.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        }
        answer
    }

    /// All that has to hold before requests should come here.
    fn conditions(&self, generation: &Generation, without_keys: &[(&Name, String)]) -> [ReadyCondition; 5] {
        let phase = self.drain.phase();
        let draining = phase.map(|phase| format!("the process is on its way out: {phase}"));
        let has_begun = self.has_begun(without_keys.is_empty());
        let keys = without_keys.iter().filter(|_| !has_begun).map(|(name, why)| format!("{name}: {why}"));
        [
            // Nothing answers here before there is one.
            ReadyCondition::new("configuration", []),
            monitor::listeners(generation, &self.monitor.pulse),
            ReadyCondition::new("not_draining", draining),
            ReadyCondition::new("keys", keys),
            monitor::critical_upstreams(generation, Now::read()),
        ]
    }

    fn ready(&self, generation: &Generation, is_for_people: bool) -> Answer {
        let is_draining = self.drain.has_begun();
        let without_keys = generation.state.without_keys(Now::read());
        let conditions = self.conditions(generation, &without_keys);
        let is_ready = conditions.iter().all(ReadyCondition::holds);
        if is_for_people {
            let status = if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            let stores = generation.state.without_store().into_iter();
            let stores = stores.map(|(name, why)| format!("[!] store {name}: limits do without it: {why}\n"));
            return text(status, monitor::to_text(&conditions) + &stores.collect::<String>());
        }
        let without_keys = without_keys.into_iter().map(|(name, why)| (name.to_string(), Value::String(why)));
        let stale = generation.state.stale(Now::read()).into_iter();
        let stale = stale.map(|(name, why)| (name.to_string(), Value::String(why)));
        let without_store = generation.state.without_store().into_iter();
        let without_store = without_store.map(|(name, why)| (name.to_string(), Value::String(why)));
        let state = json!({
            "ready": is_ready,
            "conditions": monitor::to_json(&conditions),
            "without_keys": without_keys.collect::<serde_json::Map<_, _>>(),
            "stale": stale.collect::<serde_json::Map<_, _>>(),
            "without_store": without_store.collect::<serde_json::Map<_, _>>(),
            "draining": is_draining,
            "drain": self.drain.to_json(&self.metrics),
            "generation": generation.number,
            "hash": generation.hash(),
            "reload": self.status.to_json(),
        });
        let mut answer = reply(&state);
        if !is_ready {
            *answer.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        }
        answer
    }

    async fn config(&self, generation: &Generation) -> Value {
        let (status, number) = (Arc::clone(&self.status), generation.number);
        // Large files take a while.
        let keys = tokio::task::spawn_blocking(move || {
            let outline = status.outline(number)?;
            Some((outline.to_json(KEYS), outline.len().saturating_sub(KEYS)))
        });
        let (keys, more) = keys.await.ok().flatten().unzip();
        json!({
            "keys": keys,
            "more_keys": more,
            "generation": generation.number,
            "hash": generation.hash(),
            "reload": self.status.to_json(),
            "last_error": self.status.last_error(),
            "buried": buried(generation),
            "listeners": generation.config.listeners.iter()
                .map(|(name, is)| (name.to_string(), json!(is.listen.to_string())))
                .collect::<serde_json::Map<_, _>>(),
            "routes": routes(&generation.config),
            "upstreams": upstreams(generation),
            "discovery": discovery(generation),
            "certificates": certificates(generation),
            "policies": policies(generation),
        })
    }

    /// All metrics, in the form that is asked for. What there is to read and to write takes a while where there are ten
    /// thousand routes, so it is not done by a thread that serves; and not for more than a few at once.
    async fn metrics(&self, generation: Arc<Generation>, headers: &HeaderMap) -> Answer {
        let Some(place) = self.metrics.begin_scrape() else {
            return text(StatusCode::SERVICE_UNAVAILABLE, "others are reading the metrics just now\n".into());
        };
        let (format, metrics, alive) =
            (Format::asked(headers), Arc::clone(&self.metrics), self.status.alive());
        let scrape = tokio::task::spawn_blocking(move || {
            let _place = place; // Until it is over, also if nobody waits for it any more.
            metrics.scrape(format, alive, |metrics| scrape::read(metrics, &generation))
        });
        let Ok(shown) = scrape.await else {
            return text(StatusCode::INTERNAL_SERVER_ERROR, "the metrics could not be written\n".into());
        };
        let mut answer = text(StatusCode::OK, shown);
        answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(format.content_type()));
        answer
    }

    async fn rollback(&self, query: &str) -> Answer {
        let to =
            query_value(query, "to").map(|to| str::from_utf8(&to).ok().and_then(|to| to.parse::<u64>().ok()));
        let to = match to {
            None => None,
            Some(Some(to)) => Some(to),
            Some(None) => {
                return text(StatusCode::BAD_REQUEST, "`to` is the number of a generation\n".into());
            }
        };
        let (done, result) = oneshot::channel();
        let leaving = || text(StatusCode::SERVICE_UNAVAILABLE, "the process is on its way out\n".into());
        if self.ask.send(Ask::Rollback(to, done)).await.is_err() {
            return leaving();
        }
        match result.await {
            Ok(Ok(number)) => reply(&json!({
                "rolled_back_to": number,
                "generation": self.in_force.with(|generation| generation.number),
                "hash": self.in_force.with(Generation::hash),
                "reload": self.status.to_json(),
            })),
            Ok(Err(why)) => text(StatusCode::UNPROCESSABLE_ENTITY, why),
            Err(_) => leaving(),
        }
    }

    async fn reload(&self) -> Answer {
        let (done, result) = oneshot::channel();
        if self.ask.send(Ask::Reload(done)).await.is_err() {
            return text(StatusCode::SERVICE_UNAVAILABLE, "the process is on its way out\n".into());
        }
        let Ok(result) = result.await else {
            return text(StatusCode::SERVICE_UNAVAILABLE, "the process is on its way out\n".into());
        };
        let generation = self.in_force.get();
        let mut answer = reply(&json!({
            "result": result.word(),
            "generation": generation.number,
            "hash": generation.hash(),
            "reload": self.status.to_json(),
        }));
        if result == ReloadResult::Refused {
            *answer.status_mut() = StatusCode::UNPROCESSABLE_ENTITY;
        }
        answer
    }
}

const HANDING_OVER: &str = "another process is taking over, and would not know of it: do it there when it serves, or here if that comes to nothing\n";

const PATHS: &str = "/ /stats /transitions /livez /readyz /healthz /alerts /metrics /config /routes /upstreams /discovery /certificates /policies /versions /generations, POST /explain, \
     POST /reload, POST /rollback, POST /upstreams, POST /policies\n";

/// Why this one may change nothing.
fn refused(generation: &Generation, way: Way, headers: &HeaderMap) -> Option<Answer> {
    if way == Way::Socket {
        return None;
    }
    let token = generation.config.gateway.admin.as_ref().and_then(|admin| admin.token.as_ref());
    let Some(token) = token else {
        let why = "nothing can be changed over this address: write `gateway.admin.token`, or `gateway.admin.socket` and ask there\n";
        return Some(text(StatusCode::FORBIDDEN, why.into()));
    };
    let shown = headers.get(AUTHORIZATION).and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
    if shown.is_some_and(|shown| verify_slices_are_equal(shown, token.bytes()).is_ok()) {
        return None;
    }
    let mut answer = text(
        StatusCode::UNAUTHORIZED,
        "show the token of `gateway.admin.token`: `Authorization: Bearer …`\n".into(),
    );
    answer.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"naka\""));
    Some(answer)
}

async fn explained(generation: &Generation, request: Request<Incoming>) -> Answer {
    let body = Limited::new(request.into_body(), BODY).collect();
    let body = match timeout(PATIENCE, body).await {
        Ok(Ok(body)) => body,
        Ok(Err(_)) => return text(StatusCode::PAYLOAD_TOO_LARGE, "at most 64 KiB\n".into()),
        Err(_) => return text(StatusCode::REQUEST_TIMEOUT, "the body did not come\n".into()),
    };
    let asked = serde_json::from_slice(&body.to_bytes()).map_err(|error| error.to_string());
    match asked.and_then(|asked: Value| Asked::from_json(&asked)?.check(&generation.config)) {
        Ok(asked) => {
            let explanation = explain(generation, &asked, Now::read());
            let mut answer = explanation.to_json();
            answer["text"] = explanation.to_string().into();
            reply(&answer)
        }
        Err(why) => text(StatusCode::BAD_REQUEST, format!("{why}\n")),
    }
}

fn routes(config: &Config) -> Value {
    let routes = config.routes.iter().map(|(name, route)| {
        let destination = destination_of(&route.destination);
        let methods = route.matches.methods.iter().map(Method::as_str).collect::<Vec<_>>();
        let listeners = route.listeners.iter().map(|name| &**name).collect::<Vec<_>>();
        let policies = route.policies.iter().map(|name| &**name).collect::<Vec<_>>();
        let is = json!({
            "origin": route.origin.to_string(),
            "listeners": listeners,
            "group": route.group.as_deref(),
            "methods": methods,
            "policies": policies,
            "public": route.auth == Auth::None,
            "auth": route.auth.word(),
            "destination": destination,
        });
        (name.to_string(), is)
    });
    Value::Object(routes.collect())
}

/// Where a route goes, in words.
fn destination_of(destination: &Destination) -> String {
    match destination {
        Destination::Upstream(upstream) => format!("upstream {upstream}"),
        Destination::Respond(respond) => format!("respond {}", respond.status),
        Destination::Redirect(redirect) => format!("redirect {}", redirect.status),
        Destination::Versions(versions) => {
            let of = versions.of.iter().map(|version| match &version.to {
                VersionTarget::Upstream(upstream) => format!("{} {upstream}", version.name),
                VersionTarget::Split(split) => format!("{} split ({})", version.name, shares(split)),
            });
            format!("versions {}", of.collect::<Vec<_>>().join(", "))
        }
        Destination::Split(split) => format!("split {}", shares(split)),
        Destination::Compose(compose) => {
            let of = compose.iter().map(|(name, call)| format!("{name} {}", call.upstream));
            format!("compose {}", of.collect::<Vec<_>>().join(", "))
        }
        Destination::ListVersions(routes) => {
            let of = routes.iter().map(|name| &**name).collect::<Vec<_>>();
            format!("list_versions {}", of.join(", "))
        }
    }
}

fn shares(split: &Split) -> String {
    let shares = split.to.iter().map(|(upstream, share)| format!("{upstream} {share}"));
    shares.collect::<Vec<_>>().join(", ")
}

fn upstreams(generation: &Generation) -> Value {
    let now = Now::read();
    let of = |name: &str| {
        let endpoints = generation.state.balancers.get(name).map(Balancer::endpoints).unwrap_or_default();
        let pools = generation.state.pools.iter().filter_map(|pools| pools.get(name)).collect::<Vec<_>>();
        let health = generation.state.checks.get(name).map(|checks| &checks.health);
        let protocol = generation.config.upstreams[name].protocol;
        Value::Array(endpoints.iter().map(|it| endpoint(it, protocol, &pools, health, now)).collect())
    };
    Value::Object(generation.config.upstreams.keys().map(|name| (name.to_string(), of(name))).collect())
}

/// One endpoint: a key for each thing that is known of it.
fn endpoint(
    endpoint: &Endpoint,
    protocol: Protocol,
    pools: &[&Arc<Pools>],
    health: Option<&Health>,
    now: Now,
) -> Value {
    let mut it = json!({
        "address": &**endpoint.address(),
        "protocol": protocol.word(),
        "weight": endpoint.target().weight,
        "in_flight": endpoint.in_flight(),
        "labels": endpoint.target().labels.iter().cloned().collect::<BTreeMap<_, _>>(),
        "idle_connections": pools.iter().map(|pools| pools.idle(endpoint.address())).sum::<usize>(),
        "absences": endpoint.absences().map(Absence::word).collect::<Vec<_>>(),
    });
    if let Some(gate) = endpoint.gate() {
        it["breaker"] = gate.explain(now).into();
    }
    if let Some(health) = health.and_then(|health| health.of(endpoint.address())) {
        it["health"] = of_health(&health, now);
    }
    it
}

fn of_health(health: &EndpointHealth, now: Now) -> Value {
    let ago = |then: Now| now.since_ns(then.instant()) / 1_000_000_000;
    let failure = health.last_failure.as_ref();
    json!({
        "state": health.condition.word(),
        "checks_say": health.standing.word(),
        "since_s": ago(health.since),
        "passes": health.passes,
        "failures": health.failures,
        "last_failure": failure.map(|it| json!({"why": &*it.why, "ago_s": ago(it.at)})),
    })
}

/// Endpoints that are found.
fn discovery(generation: &Generation) -> Value {
    let now = Now::read();
    let all = generation.state.discoveries.iter().map(|(name, discovery)| {
        let Status { source, endpoints, age, is_held, stale } = discovery.status(now);
        let is = json!({
            "source": source,
            "endpoints": endpoints,
            "age_seconds": age.as_secs(),
            "held": is_held,
            "stale": stale,
        });
        (name.to_string(), is)
    });
    Value::Object(all.collect())
}

/// Certificates that are ordered.
fn certificates(generation: &Generation) -> Value {
    let all = generation.state.certificates.entries().map(|(id, acme, certificate)| {
        let is = certificate.status();
        let listeners = generation.config.listeners.iter();
        let shows = |listener: &Listening| {
            listener.tls.as_ref().and_then(|tls| tls.acme.as_ref()).is_some_and(|it| it.id == *id)
        };
        let listeners = listeners.filter(|(_, is)| shows(is)).map(|(name, _)| &**name).collect::<Vec<_>>();
        let is = json!({
            "domains": acme.domains.iter().map(|it| &**it).collect::<Vec<_>>(),
            "directory": &*acme.directory,
            "listeners": listeners,
            "valid_until": is.valid_until_s.map(show_time),
            "doing": is.doing.word(),
            "again": is.again_s.map(show_time),
            "failures": is.failures,
            "last_error": is.last_error,
        });
        (id.to_string(), is)
    });
    Value::Object(all.collect())
}

fn policies(generation: &Generation) -> Value {
    let state = &generation.state;
    let limits = state
        .rate_limits
        .iter()
        .map(|(identity, layer)| (identity.to_string(), json!({"kind": "rate_limit", "keys": layer.keys()})));
    let bulkheads = state.bulkheads.iter().map(|(identity, layer)| {
        let counts = layer.counts();
        let is = json!({
            "kind": "bulkhead", "working": counts.working, "waiting": counts.waiting,
            "partitions": layer.partitions(), "adaptive_limit": layer.adaptive_limit(),
        });
        (identity.to_string(), is)
    });
    let repetitions = state.idempotency.iter().map(|(identity, kept)| {
        let counts = kept.layer.counts();
        let is = json!({
            "kind": "idempotency", "keys": counts.keys, "working": counts.working, "bytes": counts.bytes,
            "buffered_bytes": kept.layer.buffered_bytes(),
        });
        (identity.to_string(), is)
    });
    let now = Now::read();
    let breakers = state.breakers.iter().map(|(identity, layer)| {
        let (keys, open) = breakers(layer, now);
        let one = layer.breaker().filter(|_| !layer.is_keyed());
        let one = one.map(|breaker| breaker.snapshot(now).to_string());
        (identity.to_string(), json!({"kind": "circuit_breaker", "is": one, "keys": keys, "open": open}))
    });
    let splits = state.splits.iter().map(|(name, layer)| {
        let arms = layer.arms(now).into_iter().map(|is| (is.name.to_string(), of_arm(&is)));
        let arms = Value::Object(arms.collect());
        (name.to_string(), json!({"kind": "split", "arms": arms}))
    });
    let waiting =
        waiting(state).map(|it| (it.identity.to_string(), json!({"kind": it.kind, it.level: it.count})));
    let caches = state.caches.iter().map(|(identity, layer)| {
        let Kept { entries, bytes } = layer.counts();
        (identity.to_string(), json!({"kind": "cache", "entries": entries, "bytes": bytes}))
    });
    let accounts = limits.chain(bulkheads).chain(repetitions).chain(caches);
    Value::Object(accounts.chain(breakers).chain(splits).chain(waiting).collect())
}

/// One arm of a split: what it gets, and why it is held if it is.
fn of_arm(is: &ArmStatus) -> Value {
    let tally = |tally: &Tally| json!({"requests": tally.total, "failed": tally.failed});
    let held = is.held.as_ref().map(|held| match held {
        Held::Guard { arm, baseline } => {
            json!({"by": "guard", "arm": tally(arm), "baseline": tally(baseline)})
        }
        _ => json!({"by": "hand"}),
    });
    json!({
        "weight": is.weight,
        "in_force": is.in_force,
        "baseline": is.is_baseline,
        "held": held,
        "window": is.tally.as_ref().map(tally),
    })
}

/// The versions of each route, and who uses them.
fn of_versions(generation: &Generation) -> Value {
    let now = Now::read();
    let all = generation.state.versions.iter().map(|(route, layer)| {
        let mut it = versions::table(layer, now);
        it["usage"] = versions::usage(layer, now);
        (route.to_string(), it)
    });
    Value::Object(all.collect())
}

/// What no configuration names any more, but whose history still counts.
fn buried(generation: &Generation) -> Vec<String> {
    let State { rate_limits, bulkheads, idempotency, versions, splits, breakers, endpoint_breakers, .. } =
        &generation.state;
    let rate_limits = rate_limits.buried().map(|(identity, _)| format!("rate_limit {identity}"));
    let bulkheads = bulkheads.buried().map(|(identity, _)| format!("bulkhead {identity}"));
    let idempotency = idempotency.buried().map(|(identity, _)| format!("idempotency {identity}"));
    let versions = versions.buried().map(|(identity, _)| format!("versions {identity}"));
    let splits = splits.buried().map(|(identity, _)| format!("split {identity}"));
    let breakers = breakers.buried().map(|(identity, _)| format!("circuit_breaker {identity}"));
    let of_endpoints =
        endpoint_breakers.buried().map(|(upstream, _)| format!("endpoint_breakers {upstream}"));
    rate_limits
        .chain(bulkheads)
        .chain(idempotency)
        .chain(versions)
        .chain(splits)
        .chain(breakers)
        .chain(of_endpoints)
        .collect()
}

/// `localhost` or an address: no name that somebody else's resolver could point here.
fn is_local(request: &Request<Incoming>) -> bool {
    let Some(host) = request.headers().get(HOST).and_then(|host| host.to_str().ok()) else { return false };
    let name = host
        .rsplit_once(':')
        .map_or(host, |(name, port)| if port.bytes().all(|b| b.is_ascii_digit()) { name } else { host });
    let address = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok()
}

/// Whether a web page made a browser send it. That of this port may ask for an explanation, which changes nothing: browsers say where
/// what they post comes from, also if that is where it goes.
fn is_of_a_page(request: &Request<Incoming>) -> bool {
    let site = request.headers().get("sec-fetch-site");
    let is_own = |site: &HeaderValue| site == "none" || site == "same-origin"; // Typed, or of this port.
    let origins = request.headers().get_all(ORIGIN).iter().collect::<Vec<_>>();
    let is_own_origin = request.uri().path() == "/explain" && is_own_origin(request.headers(), &origins);
    !(origins.is_empty() || is_own_origin) || site.is_some_and(|site| !is_own(site))
}

/// Whether there is one `Origin`, and it is the host and port that are asked (RFC 6454, section 4). The host is this machine, by a name or an
/// address that nobody else's page can have.
fn is_own_origin(headers: &HeaderMap, origins: &[&HeaderValue]) -> bool {
    let [origin] = origins else { return false };
    let authority = origin.as_bytes().strip_prefix(b"http://");
    let host = headers.get(HOST).map(HeaderValue::as_bytes);
    authority.zip(host).is_some_and(|(origin, host)| origin.eq_ignore_ascii_case(host))
}

/// Whether a text is asked for: `?verbose`, as at other servers, or a header that prefers it to JSON.
fn is_for_people(request: &Request<Incoming>) -> bool {
    let accept = request.headers().get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    query_value(query(request), "verbose").is_some()
        || (accept.contains("text/plain") && !accept.contains("json"))
}

fn query(request: &Request<Incoming>) -> &str {
    request.uri().query().unwrap_or_default()
}

/// What came of what was done by hand.
fn told(result: Result<String, String>) -> Answer {
    match result {
        Ok(is) => text(StatusCode::OK, is),
        Err(why) => text(StatusCode::BAD_REQUEST, why),
    }
}

/// As it is read by machines.
fn compact(value: &Value) -> Answer {
    let mut answer = Response::new(Full::from(value.to_string()));
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

fn reply(value: &Value) -> Answer {
    let mut answer = Response::new(Full::from(format!("{value:#}\n")));
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

fn text(status: StatusCode, text: String) -> Answer {
    let mut answer = Response::new(Full::from(text));
    *answer.status_mut() = status;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    answer.headers_mut().insert(CONTENT_TYPE, plain);
    answer
}
