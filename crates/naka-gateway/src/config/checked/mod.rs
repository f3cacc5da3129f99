//! The checked configuration: values that cannot be wrong.
//!
//! Names are resolved, groups are unfolded into their routes, defaults are filled in, units are
//! gone. Nothing here is optional because "it was not checked yet".

use std::{
    collections::BTreeMap, fmt, net::SocketAddr, num::NonZeroU64, path::PathBuf, sync::Arc, time::Duration,
};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, StatusCode, uri::PathAndQuery};
use ipnet::IpNet;

use super::diagnostic::Place;
use crate::{
    address::{Address, Source},
    tls::{ClientTls, ServerTls},
};

mod compose;
mod health;
mod policies;
pub mod scenario;
mod split;
mod telemetry;
mod versions;

pub use compose::*;
pub use health::*;
pub use policies::*;
pub use split::*;
pub use telemetry::*;
pub use versions::*;

/// A key of one of the maps of the file. It is the identity of the state behind it.
pub type Name = Arc<str>;

/// Where in the configuration something was said; shown by `explain` and `/config`.
#[derive(Clone, Debug)]
pub struct Origin(pub(crate) Place);

impl Origin {
    /// The piece of text.
    pub const fn place(&self) -> &Place {
        &self.0
    }
}

/// File and line.
impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.0.file().display(), self.0.line())
    }
}

/// The same file and line.
impl PartialEq for Origin {
    fn eq(&self, other: &Self) -> bool {
        (self.0.file(), self.0.line()) == (other.0.file(), other.0.line())
    }
}

impl Eq for Origin {}

/// A whole configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// What concerns the process.
    pub gateway: Gateway,
    /// Where it listens; at least one.
    pub listeners: BTreeMap<Name, Listener>,
    /// Named and inlined policies; an inlined one is called `route/kind` or `upstream/kind`.
    pub policies: BTreeMap<Name, Policy>,
    /// Where requests can go.
    pub upstreams: BTreeMap<Name, Upstream>,
    /// All routes, those of groups included.
    pub routes: BTreeMap<Name, Arc<Route>>,
    /// The file's own tests.
    pub tests: Vec<Test>,
    /// Names the effective configuration: equal bytes in all files give equal hashes.
    pub hash: u64,
}

impl Config {
    /// The rate limits of a route.
    pub fn rate_limits<'a>(&'a self, route: &'a Route) -> impl Iterator<Item = (&'a Name, &'a RateLimit)> {
        route.policies.all(Kind::RateLimit).iter().filter_map(|name| match &self.policies[name].kind {
            PolicyKind::RateLimit(limit) => Some((name, limit)),
            _ => None,
        })
    }

    /// The mirror of a route.
    pub fn mirror<'a>(&'a self, route: &'a Route) -> Option<(&'a Name, &'a Mirror)> {
        let name = route.policies.one(Kind::Mirror)?;
        match &self.policies[name].kind {
            PolicyKind::Mirror(mirror) => Some((name, mirror)),
            _ => None,
        }
    }

    /// What this route answers in place of a failure.
    pub fn fallback<'a>(&'a self, route: &'a Route) -> Option<(&'a Name, &'a Fallback)> {
        let name = route.policies.one(Kind::Fallback)?;
        match &self.policies[name].kind {
            PolicyKind::Fallback(fallback) => Some((name, fallback)),
            _ => None,
        }
    }

    /// What of a route is sent once more.
    pub fn hedge<'a>(&'a self, route: &'a Route) -> Option<(&'a Name, &'a Hedge)> {
        let name = route.policies.one(Kind::Hedge)?;
        match &self.policies[name].kind {
            PolicyKind::Hedge(hedge) => Some((name, hedge)),
            _ => None,
        }
    }

    /// Whether any limit that a request of this route comes by counts routes apart.
    pub fn counts_by_route(&self, route: &Route) -> bool {
        let of_versions = match &route.destination {
            Destination::Versions(versions) => &versions.of[..],
            _ => &[],
        };
        let besides = self.fallback(route).and_then(|(_, fallback)| fallback.upstream());
        let upstreams = route.destination.upstreams().chain(besides);
        let upstreams = upstreams.map(|name| &self.upstreams[name]);
        let limits = route.policies.iter().chain(of_versions.iter().filter_map(|it| it.rate_limit.as_ref()));
        let mut limits = limits.chain(upstreams.filter_map(|upstream| upstream.bulkhead.as_ref()));
        limits.any(|name| match &self.policies[name].kind {
            PolicyKind::RateLimit(limit) => limit.key.contains(&KeyPart::Route),
            PolicyKind::Bulkhead(bulkhead) => bulkhead.key.contains(&KeyPart::Route),
            _ => false,
        })
    }
}

/// What concerns the process.
#[derive(Clone, Debug, PartialEq)]
pub struct Gateway {
    /// How the process is spread over cores; needs a restart.
    pub workers: Workers,
    /// The admin listener, if there is one; needs a restart.
    pub admin: Option<Admin>,
    /// How changes of the files take effect.
    pub reload: Reload,
    /// Peers whose forwarding headers are believed.
    pub trusted_proxies: TrustedProxies,
    /// In which fields is said how a request came.
    pub forwarding: Forwarding,
    /// Whether the gateway's own errors are named in `Proxy-Status`.
    pub proxy_status: bool,
    /// What people see of them.
    pub pages: Vec<ErrorPage>,
    /// Bounds on what a client may send and hold.
    pub limits: ServerLimits,
    /// Headers that tell upstreams who asks.
    pub identity_headers: Vec<(HeaderName, IdentityPart)>,
    /// The header in which is said how long is waited.
    pub deadline_header: Option<HeaderName>,
    /// The name servers that are asked; none: those of this machine.
    pub servers: Vec<SocketAddr>,
    /// The registries in which services are looked up.
    pub registries: Registries,
    /// Stores of accounts.
    pub stores: BTreeMap<Name, Arc<Store>>,
    /// How the process ends.
    pub drain: Drain,
    /// What outlives it, if anything does.
    pub state: Option<StateFile>,
    /// Where the next process asks this one to hand over; needs a restart.
    pub upgrade_socket: Option<Arc<str>>,
    /// What is told about requests.
    pub telemetry: Telemetry,
    /// How it is found out how the gateway itself is.
    pub health: SelfChecks,
    /// Of what somebody is told.
    pub alerts: Alerts,
    /// The most series of metrics.
    pub max_series: usize,
}

/// In which fields is said how a request came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Forwarding {
    /// `X-Forwarded-*`; a `Forwarded` of a trusted proxy is passed on, with one more element.
    #[default]
    XForwarded,
    /// `Forwarded`, and nothing else.
    Rfc7239,
    /// Both.
    Both,
}

/// What people see of an error of the gateway.
#[derive(Clone, PartialEq, Eq)]
pub struct ErrorPage {
    /// The first status it is for.
    pub first: u16,
    /// The last one.
    pub last: u16,
    /// What it is.
    pub content_type: &'static str,
    /// What it says.
    pub body: Arc<[u8]>,
}

impl fmt::Debug for ErrorPage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}: {} bytes of {}", self.first, self.last, self.body.len(), self.content_type)
    }
}

/// What outlives the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateFile {
    /// Where it is.
    pub file: Arc<str>,
    /// How often it is written.
    pub interval: Duration,
}

/// How the process is spread over cores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workers {
    /// One single-threaded runtime per available core.
    PerCore,
    /// That many single-threaded runtimes; at least one.
    Count(usize),
    /// One multi-threaded runtime.
    Shared,
}

/// How changes of the files take effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reload {
    /// Watch the files' folders.
    pub watch: bool,
    /// Quiet time after the last change before reading.
    pub debounce: Duration,
    /// The longest time a burst of changes can put off reading.
    pub max_wait: Duration,
    /// Run the file's own tests before a change takes effect.
    pub run_tests: bool,
    /// Refuse the whole change when one included file is wrong.
    pub strict: bool,
    /// Earlier generations that can be rolled back to.
    pub keep: usize,
}

/// Bounds on what a client may send and hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerLimits {
    /// Connections over all listeners.
    pub connections: usize,
    /// Connections of one address, if they are bounded.
    pub connections_per_ip: Option<u32>,
    /// Connections to all endpoints.
    pub upstream_connections: usize,
    /// Bytes of a request head.
    pub header_bytes: usize,
    /// Header fields of a request.
    pub header_count: usize,
    /// Bytes of a request target.
    pub uri: usize,
    /// Bytes of bodies that are held because they may be needed again, of all requests together.
    pub buffered: usize,
}

/// Peers that are believed about whose a request is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustedProxies {
    /// Those that come from here.
    pub networks: Vec<IpNet>,
    /// Whoever comes by a Unix socket.
    pub unix: bool,
}

impl TrustedProxies {
    /// Whether this is one of them.
    pub fn have(&self, source: Source) -> bool {
        match source {
            Source::Ip(address) => {
                let address = address.to_canonical();
                self.networks.iter().any(|network| network.contains(&address))
            }
            Source::Unix => self.unix,
        }
    }
}

/// How the process ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drain {
    /// Still accepting while `/readyz` already says no, so that balancers can look away.
    pub grace: Duration,
    /// After this, counted from the signal, what is still running is cut off.
    pub deadline: Duration,
}

/// One listening socket.
#[derive(Clone, Debug, PartialEq)]
pub struct Listener {
    /// The address; it is the identity of the socket.
    pub listen: Address,
    /// Who may connect to a Unix socket: the mode of its file.
    pub mode: u32,
    /// What a client may speak.
    pub protocols: Protocols,
    /// How it is secured, if it is.
    pub tls: Option<ServerTls>,
    /// Whether each connection begins with a header of the PROXY protocol.
    pub is_proxied: bool,
    /// The set-up of a connection.
    pub handshake: Duration,
    /// From the last byte of a connection's set-up to the end of a request head.
    pub request_headers: Duration,
    /// A kept-alive connection without a request.
    pub idle: Duration,
    /// Bytes a second of a body below which its client is too slow; nothing for as slow as it likes.
    pub min_rate: Option<NonZeroU64>,
}

/// A certificate that is ordered, and renewed, by itself (RFC 8555).
#[derive(Clone, Debug, PartialEq)]
pub struct Acme {
    /// What it is called in files, metrics and reports: the same hosts at the same authority are the same.
    pub id: Name,
    /// Its hosts, in order, in lower case; at least one and at most 100.
    pub domains: Vec<Arc<str>>,
    /// Where the authority is; `https://`.
    pub directory: Arc<str>,
    /// Where its key, and that of the account, are kept.
    pub folder: PathBuf,
    /// What the authority may write to: `mailto:` and an address each.
    pub contact: Vec<Arc<str>>,
    /// How it is made sure who the authority is.
    pub tls: ClientTls,
}

/// What a client may speak; at least one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protocols {
    /// HTTP/1.1.
    pub h1: bool,
    /// HTTP/2: over TLS if both agree on it (RFC 7301), and without it by prior knowledge.
    pub h2: bool,
}

/// Where requests can go.
#[derive(Clone, Debug, PartialEq)]
pub struct Upstream {
    /// No address twice. At least one, unless they are found.
    pub endpoints: Vec<Endpoint>,
    /// How they are found, if they are not written down.
    pub discovery: Option<Discovery>,
    /// What is spoken to them.
    pub protocol: Protocol,
    /// How connections to them are secured, if they are.
    pub tls: Option<ClientTls>,
    /// How one of them is chosen.
    pub balance: Balance,
    /// How they are asked whether they are well, if they are.
    pub health_check: Option<HealthCheck>,
    /// The bulkhead of the whole upstream: a name in `policies`.
    pub bulkhead: Option<Name>,
    /// The circuit breaker of each endpoint: a name in `policies`.
    pub circuit_breaker: Option<Name>,
    /// What all retries to it may spend together.
    pub retry_budget: RetryBudget,
    /// How long its parts may take.
    pub timeouts: UpstreamTimeouts,
    /// How connections are kept.
    pub keep_alive: KeepAlive,
    /// How many there may be.
    pub connections: Connections,
    /// Whether the gateway is not ready without a usable endpoint of it.
    pub is_critical: bool,
    /// Where it was said.
    pub origin: Origin,
}

/// What is spoken to an upstream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1.
    #[default]
    H1,
    /// HTTP/2; without TLS by prior knowledge.
    H2,
}

impl Protocol {
    /// The word of the file.
    pub const fn word(self) -> &'static str {
        match self {
            Self::H1 => "h1",
            Self::H2 => "h2",
        }
    }
}

/// One address of an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// `host:port`, as it was written; a literal address or a name of this machine's resolver.
    pub address: Arc<str>,
    /// Its share beside the others'.
    pub weight: u32,
    /// Requests that may be under way there.
    pub capacity: Option<u32>,
    /// What else is said of it.
    pub labels: Vec<(Name, Arc<str>)>,
}

/// How endpoints are found.
#[derive(Clone, Debug, PartialEq)]
pub struct Discovery {
    /// Where.
    pub source: EndpointSource,
    /// What an answer is good for at least, whatever it says.
    pub floor: Duration,
    /// What an answer is good for at most.
    pub ceiling: Duration,
    /// The part of a set, in percent, that may go at once.
    pub max_shrink: u8,
    /// How often a set that has shrunk by more has to be seen.
    pub confirm: u32,
    /// Whether the source is believed that there is none.
    pub takes_empty: bool,
    /// The name servers that are asked; none: those of this machine.
    pub servers: Vec<SocketAddr>,
    /// The registries that are asked; of those that this one does not need, nothing.
    pub registries: Registries,
}

/// The registries in which services are looked up.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Registries {
    /// Consul's agent.
    pub consul: Option<Arc<ConsulAgent>>,
    /// Eureka's servers.
    pub eureka: Option<Arc<EurekaServers>>,
}

/// Consul's agent, as it is asked.
#[derive(Clone, Debug, PartialEq)]
pub struct ConsulAgent {
    /// A URL, without a slash at its end.
    pub address: Arc<str>,
    /// How connections to it are secured, if they are.
    pub tls: Option<ClientTls>,
    /// Shown as `X-Consul-Token`; marked as a secret.
    pub token: Option<HeaderValue>,
    /// The datacenter that is asked, if it is not that of the agent.
    pub datacenter: Option<Name>,
    /// Whether any server may answer.
    pub is_stale: bool,
    /// How long a question waits for a change.
    pub wait: Duration,
}

/// Eureka's servers, as they are asked.
#[derive(Clone, Debug, PartialEq)]
pub struct EurekaServers {
    /// URLs, each without a slash at its end.
    pub urls: Vec<Arc<str>>,
    /// How connections to those of `https` are secured.
    pub tls: Option<ClientTls>,
    /// Shown as `Authorization`; marked as a secret.
    pub authorization: Option<HeaderValue>,
    /// How much time is between two questions.
    pub refresh: Duration,
}

/// An application in Eureka.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EurekaApp {
    /// Its name.
    pub name: Arc<str>,
    /// Whether instances are connected to by their names, and not by their addresses.
    pub by_host_name: bool,
    /// Whether at their secure port.
    pub is_secure: bool,
}

/// A service in Consul.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsulService {
    /// Its name.
    pub name: Arc<str>,
    /// Tags that an instance has to have, all of them.
    pub tags: Vec<Arc<str>>,
    /// The datacenter that is asked, if it is not that of the agent.
    pub datacenter: Option<Name>,
    /// Whether all checks of an instance have to pass.
    pub passing: bool,
}

/// Where endpoints are found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndpointSource {
    /// All addresses of a name, with this port.
    Dns(Arc<str>, u16),
    /// The places of a service, as SRV records say.
    Srv(Arc<str>),
    /// A file with a list.
    File(PathBuf),
    /// The instances of a service in Consul.
    Consul(ConsulService),
    /// The instances of an application in Eureka.
    Eureka(EurekaApp),
}

impl fmt::Display for EndpointSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(host, port) => write!(f, "dns {host}:{port}"),
            Self::Srv(name) => write!(f, "srv {name}"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Eureka(app) => write!(f, "eureka {}", app.name),
            Self::Consul(ConsulService { name, tags, datacenter, .. }) => {
                write!(f, "consul {name}")?;
                tags.iter().try_for_each(|tag| write!(f, " #{tag}"))?;
                datacenter.iter().try_for_each(|datacenter| write!(f, " in {datacenter}"))
            }
        }
    }
}

/// How an endpoint is chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Balance {
    /// The rule.
    pub policy: BalancePolicy,
    /// By what a request finds its endpoint.
    pub key: Vec<KeyPart>,
    /// For so long the share of one that joins grows.
    pub slow_start: Option<Duration>,
    /// Below so many percent one is chosen among all.
    pub panic: Option<u8>,
    /// No endpoint has more than so many percent of its fair share.
    pub max_load: Option<u32>,
    /// Only endpoints with all of these labels.
    pub only: Vec<(Name, Arc<str>)>,
    /// Only endpoints whose label is what the request says.
    pub subset: Option<Subset>,
    /// Endpoints of a near region first.
    pub regions: Option<Regions>,
    /// A cookie that brings a client back.
    pub sticky: Option<Sticky>,
}

/// The admin listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// Its address; needs a restart.
    pub listen: SocketAddr,
    /// A Unix socket besides; needs a restart.
    pub socket: Option<Arc<str>>,
    /// What those have to show who want to change something over the address.
    pub token: Option<Secret>,
}

/// Only endpoints whose label is what the request says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subset {
    /// The label.
    pub label: Name,
    /// What it has to be.
    pub by: KeyPart,
    /// A request for what no endpoint has is refused, and does not go to any.
    pub refuses: bool,
}

/// Which regions of endpoints are preferred for whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Regions {
    /// The label that says the region of an endpoint.
    pub label: Name,
    /// What says where a request comes from.
    pub by: Option<KeyPart>,
    /// Where it comes from by its address, if nothing else says it.
    pub networks: Vec<(IpNet, Name)>,
    /// For each region of clients, the nearest first.
    pub of: Vec<(Name, Vec<Arc<str>>)>,
    /// For all others.
    pub otherwise: Vec<Arc<str>>,
}

/// A cookie that brings a client back to its endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sticky {
    /// Its name, which is one of a cookie.
    pub cookie: Arc<str>,
    /// What endpoints are called by.
    pub secret: Secret,
    /// Over TLS only.
    pub is_secure: bool,
}

/// The rule by which an endpoint is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BalancePolicy {
    /// All in turn.
    #[default]
    RoundRobin,
    /// All in turn, by weight.
    WeightedRoundRobin,
    /// Any, by weight.
    Random,
    /// The fewest requests under way.
    LeastRequest,
    /// The fewest for its weight.
    WeightedLeastRequest,
    /// The better of two by latency and load.
    PeakEwma,
    /// The best of all by the same.
    LeastLatency,
    /// The least busy for its weight, as they say themselves.
    LeastLoad,
    /// By key, on a ring.
    RingHash,
    /// By key, in a table.
    Maglev,
    /// By key and endpoint.
    Rendezvous,
    /// By the client's address.
    IpHash,
}

/// How endpoints are asked whether they are well.
#[derive(Clone, Debug, PartialEq)]
pub struct HealthCheck {
    /// What is asked.
    pub probe: HealthProbe,
    /// How it is secured, if it is.
    pub tls: Option<ClientTls>,
    /// The shortest time between the beginnings of two checks of an endpoint; longer than `timeout`.
    pub interval: Duration,
    /// The same, of an endpoint that is out; longer than `timeout`, too.
    pub unhealthy_interval: Option<Duration>,
    /// The longest that one check may take.
    pub timeout: Duration,
    /// So many failures in a row take an endpoint out.
    pub unhealthy_after: u32,
    /// So many passes in a row bring it back.
    pub healthy_after: u32,
}

/// What an endpoint is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HealthProbe {
    /// Whether it takes a connection.
    Tcp,
    /// For an answer to a `GET`.
    Http {
        /// In what.
        protocol: Protocol,
        /// Of what.
        path: PathAndQuery,
        /// Of whom; its address if nothing is said.
        host: Option<HeaderValue>,
        /// The first and last status of each range that means well; at least one range.
        statuses: Vec<(u16, u16)>,
        /// What has to be in the body; not empty.
        body_contains: Option<Arc<str>>,
    },
    /// For its own word, as `grpc.health.v1` has it.
    Grpc {
        /// About which service; empty: all of it.
        service: Arc<str>,
        /// Of whom; its address if nothing is said.
        host: Option<HeaderValue>,
    },
}

/// How long the parts of one exchange with an endpoint may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpstreamTimeouts {
    /// To a connection.
    pub connect: Duration,
    /// From the sent request to the response head.
    pub response_headers: Duration,
    /// From the choice of an endpoint to the response head.
    pub per_try: Option<Duration>,
    /// Without a byte of a body, either way; `None` is `never`.
    pub idle: Option<Duration>,
    /// Without a byte of a tunnel, either way; `None` is `never`.
    pub tunnel_idle: Option<Duration>,
}

/// What all retries to an upstream may spend together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryBudget {
    /// So many percent of its requests may be retried.
    pub percent: u8,
    /// So many retries a second may be made besides.
    pub min_per_second: u32,
    /// For how long requests count.
    pub window: Duration,
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self { percent: 20, min_per_second: 10, window: Duration::from_secs(10) }
    }
}

/// How connections to an endpoint are kept, for each worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepAlive {
    /// Idle connections to one endpoint; 0 keeps none.
    pub max_idle: usize,
    /// How long an idle one is kept.
    pub timeout: Duration,
    /// How long one is used at all; `None` is `never` too long.
    pub max_lifetime: Option<Duration>,
}

/// How many connections there may be to an endpoint, of all workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connections {
    /// To each endpoint, idle ones included.
    pub max: usize,
    /// Requests that wait for one.
    pub pending: usize,
    /// Requests at a time on each that takes more than one.
    pub streams: usize,
}

/// One route.
#[derive(Clone, Debug)]
pub struct Route {
    /// The listeners it is served on; at least one.
    pub listeners: Vec<Name>,
    /// The group it was written in.
    pub group: Option<Name>,
    /// What it matches.
    pub matches: Match,
    /// Decides between routes of equal rank; higher wins. `None` when not said.
    pub priority: Option<i32>,
    /// The policies that stand over it.
    pub policies: Uses,
    /// What it makes of those of them that find out who asks.
    pub auth: Auth,
    /// Whose word counts about traces, if it is another's than elsewhere.
    pub trust_parent: Option<TrustParent>,
    /// Bytes of a request body; `None` is `never`.
    pub body: Option<usize>,
    /// From the request head to the last byte of the response; `None` is `never`.
    pub total_timeout: Option<Duration>,
    /// Overrides the upstream's `idle`: outer `None` where not said, inner `None` is `never`.
    pub idle_timeout: Option<Option<Duration>>,
    /// The same of its `tunnel_idle`.
    pub tunnel_idle: Option<Option<Duration>>,
    /// Changes of the request target.
    pub rewrite: Rewrite,
    /// Changes of headers.
    pub headers: HeaderEdits,
    /// Where it goes.
    pub destination: Destination,
    /// Where it was said.
    pub origin: Origin,
}

/// What a route makes of the policies over it that find out who asks; from the least that has to be known to the most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Auth {
    /// `auth: none`: it is public, and what its group and its listener ask does not stand over it.
    None,
    /// `auth: optional`: whoever brings no credentials passes as nobody, and whoever brings wrong ones is refused.
    Optional,
    /// Nothing is said: whoever is not known is refused.
    #[default]
    Required,
}

impl Auth {
    /// The word for it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Optional => "optional",
            Self::Required => "required",
        }
    }
}

impl Route {
    /// How much of who asks has to be known: nothing as well where no policy finds it out.
    pub fn asks(&self) -> Auth {
        let mut all = self.policies.0.iter();
        let is_asked = all.any(|(kind, names)| kind.authenticates() && !names.is_empty());
        if is_asked { self.auth } else { Auth::None }
    }

    /// Its split, or those of its versions, and what each is called among policies.
    pub fn splits<'a>(&'a self, name: &'a Name) -> impl Iterator<Item = (Name, &'a Split)> {
        let own = match &self.destination {
            Destination::Split(split) => Some((split_name(name), &**split)),
            _ => None,
        };
        let versions = match &self.destination {
            Destination::Versions(versions) => &versions.of[..],
            _ => &[],
        };
        let of_versions = versions.iter().filter_map(move |version| match &version.to {
            VersionTarget::Split(split) => Some((version_split_name(name, &version.name), split)),
            VersionTarget::Upstream(_) => None,
        });
        own.into_iter().chain(of_versions)
    }
}

/// What a route matches. Empty lists match everything.
#[derive(Clone, Debug)]
pub struct Match {
    /// Any of these hosts.
    pub hosts: Vec<HostPattern>,
    /// The path.
    pub path: PathPattern,
    /// Any of these methods.
    pub methods: Vec<Method>,
    /// All of these headers.
    pub headers: Vec<(HeaderName, ValueMatch)>,
    /// All of these query parameters.
    pub query: Vec<(Arc<str>, ValueMatch)>,
}

/// A host, lower case, without a port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HostPattern {
    /// Exactly this one.
    Exact(Arc<str>),
    /// `*.ola.example` is kept as `.ola.example`: one or more labels before it.
    Wildcard(Arc<str>),
}

/// A path.
#[derive(Clone, Debug)]
pub enum PathPattern {
    /// `path:` — the whole path.
    Whole(Arc<[Segment]>),
    /// `prefix:` — on a segment boundary; `/` is no segments at all.
    Prefix(Arc<[Segment]>),
    /// `regex:` — anchored at both ends; its named groups are captures.
    Regex(regex::Regex),
}

impl PathPattern {
    /// What stands for all its paths in spans and metrics: `/rides/{id}`, `/files/{rest...}`, `/api/*` of a prefix, a regular
    /// expression as it is written.
    pub fn template(&self) -> Arc<str> {
        let written = |segments: &[Segment]| {
            let one = |segment: &Segment| match segment {
                Segment::Literal(text) => format!("/{text}"),
                Segment::Param(name) => format!("/{{{name}}}"),
                Segment::Rest(name) => format!("/{{{name}...}}"),
            };
            segments.iter().map(one).collect::<String>()
        };
        match self {
            Self::Whole(segments) if segments.is_empty() => "/".into(),
            Self::Whole(segments) => written(segments).into(),
            Self::Prefix(segments) => (written(segments) + "/*").into(),
            // It is anchored when it is read; that is not written.
            Self::Regex(regex) => {
                let text = regex.as_str();
                text.strip_prefix("^(?:").and_then(|text| text.strip_suffix(")$")).unwrap_or(text).into()
            }
        }
    }
}

/// One segment of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segment {
    /// These very bytes. An empty one is the trailing slash of a whole path.
    Literal(Arc<str>),
    /// `{name}`: one segment, not empty.
    Param(Arc<str>),
    /// `{name...}`: the rest, possibly empty, last, in a whole path only.
    Rest(Arc<str>),
}

/// The value of a header or query parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValueMatch {
    /// It is there.
    Present,
    /// It is exactly this.
    Exact(Arc<str>),
}

/// Changes of the request target.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rewrite {
    /// The new path.
    pub path: Option<Template>,
    /// Takes the matched prefix away; only on `prefix:` routes, not beside `path`.
    pub strip_prefix: bool,
    /// The new `Host`.
    pub host: Option<HeaderValue>,
}

/// Text with `{captures}` in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(pub Vec<TemplatePart>);

/// A piece of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TemplatePart {
    /// As it stands.
    Text(Arc<str>),
    /// A capture of the path; it exists in the route's `match`.
    Capture(Arc<str>),
}

/// Changes of headers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderEdits {
    /// Of the request, on its way to the destination.
    pub request: HeaderEdit,
    /// Of the response, on its way to the client.
    pub response: HeaderEdit,
    /// Whether browsers are made careful with the response.
    pub security: bool,
}

/// Changes of one message: first `remove`, then `set`, then `add`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderEdit {
    /// Taken away.
    pub remove: Vec<HeaderName>,
    /// Replaced, or put in.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// Put beside what is there.
    pub add: Vec<(HeaderName, HeaderValue)>,
}

/// Where a route goes.
#[derive(Clone, Debug, PartialEq)]
pub enum Destination {
    /// To an upstream: a name in `upstreams`.
    Upstream(Name),
    /// An answer of the gateway's own.
    Respond(Respond),
    /// To another URL.
    Redirect(Redirect),
    /// To an upstream for each version.
    Versions(Box<Versions>),
    /// To several upstreams, each for a share of the requests.
    Split(Box<Split>),
    /// A list of the versions of these routes.
    ListVersions(Vec<Name>),
    /// To several upstreams, whose answers become one.
    Compose(Box<Compose>),
}

impl Destination {
    /// All upstreams that a request may go to.
    pub fn upstreams(&self) -> impl Iterator<Item = &Name> {
        let (one, versions, split) = match self {
            Self::Upstream(upstream) => (Some(upstream), None, None),
            Self::Versions(versions) => (None, Some(versions), None),
            Self::Split(split) => (None, None, Some(split)),
            Self::Respond(_) | Self::Redirect(_) | Self::ListVersions(_) | Self::Compose(_) => {
                (None, None, None)
            }
        };
        let of_versions = versions.into_iter().flat_map(|versions| &versions.of);
        let of_versions = of_versions.flat_map(|version| version.to.upstreams());
        let composed = self.compose().into_iter().flat_map(|compose| &compose.calls);
        let composed = composed.map(|call| &call.upstream);
        let split = split.into_iter().flat_map(|split| split.upstreams());
        one.into_iter().chain(of_versions).chain(split).chain(composed)
    }

    /// Its composition, if it is one.
    pub fn compose(&self) -> Option<&Compose> {
        match self {
            Self::Compose(compose) => Some(compose),
            _ => None,
        }
    }

    /// Whether the gateway answers by itself.
    pub fn is_local(&self) -> bool {
        self.upstreams().next().is_none()
    }
}

/// An answer of the gateway's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Respond {
    /// The status.
    pub status: StatusCode,
    /// The body.
    pub body: Bytes,
    /// Its type; `text/plain; charset=utf-8` if nothing is said.
    pub content_type: HeaderValue,
}

/// To another URL: what is not said stays as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// 301, 302, 303, 307 or 308.
    pub status: StatusCode,
    /// `http` or `https`.
    pub scheme: Option<Arc<str>>,
    /// The host, with a port if there is one.
    pub host: Option<Arc<str>>,
    /// The port, of the host that was asked for; not written where it is that of the scheme.
    pub port: Option<u16>,
    /// The path.
    pub path: Option<Template>,
}

/// One of the file's own tests.
#[derive(Clone, Debug)]
pub struct Test {
    /// As written: `GET https://host/path`.
    pub request: TestRequest,
    /// What must come of it; `None` where nothing is said. At least one is.
    pub expect: Expect,
    /// Where it was said.
    pub origin: Origin,
}

/// A request that is only thought of.
#[derive(Clone, Debug)]
pub struct TestRequest {
    /// The method.
    pub method: Method,
    /// `http` or `https`.
    pub scheme: Arc<str>,
    /// The host, with its port if it was written.
    pub host: Arc<str>,
    /// Path and query.
    pub target: PathAndQuery,
    /// Its headers.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Where it comes from; if nothing is said, `127.0.0.1`, and at a Unix socket from there.
    pub source: Option<Source>,
    /// The listener it arrives at; `None`: the only one, or any that has a route for it.
    pub listener: Option<Name>,
    /// The claims of a token that counts, as a JSON object.
    pub jwt: Option<Arc<str>>,
    /// Whose key it has.
    pub api_key: Option<Arc<str>>,
    /// Who it is to those who check passwords, or ask another service.
    pub identity: Option<Arc<str>>,
    /// The headers with which another service lets it in.
    pub forward_auth: Vec<(HeaderName, HeaderValue)>,
}

/// What must come of a test's request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expect {
    /// The route that takes it.
    pub route: Option<Name>,
    /// The upstream it goes to.
    pub upstream: Option<Name>,
    /// The status that the gateway itself answers with.
    pub status: Option<StatusCode>,
    /// The path the upstream sees.
    pub path: Option<Arc<str>>,
}
