//! Whoever answers: a server for each address, with workers and a queue, that is at times unwell.
//!
//! A server does not notice who has given up: work that was begun, or waits, is done.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    future::pending,
    io,
    net::{IpAddr, Ipv4Addr},
    pin::Pin,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode,
    header::{CONTENT_TYPE, USER_AGENT},
};
use http_body_util::{BodyExt as _, Full, combinators::BoxBody};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{DuplexStream, duplex},
    sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch},
    time::{Instant, sleep, sleep_until},
};

use super::{account::Account, chance::Chance, clients::CAME, listed, unknown};
use crate::{
    config::{
        Diagnostic,
        checked::{
            Config, ConsulService, EndpointSource, EurekaApp, Name, Protocol,
            scenario::{Behaviour, During, Named, Scenario, Servers, Trouble},
        },
        endpoints_of, read_document,
    },
    control,
    discover::{
        REGISTERED, Resolve,
        names::{Answer, Kind, Question, Record, Service},
    },
    upstream::MemoryConnect,
};

/// Bytes on their way in one direction.
const PIPE: usize = 64 << 10;
/// The longest that a request takes, in mean times.
const LONGEST: f64 = 10.0;
/// How many addresses a name has that is resolved.
const ADDRESSES: u16 = 2;
/// What a resolver says is good for.
const TTL: Duration = Duration::from_mins(1);

/// All servers, by address.
pub(super) struct World {
    scenario: Scenario,
    /// Upstreams at each address, and what is spoken there.
    known: BTreeMap<Arc<str>, Place>,
    names: BTreeMap<Arc<str>, Vec<Ipv4Addr>>,
    services: BTreeMap<Arc<str>, Service>,
    servers: Mutex<BTreeMap<Arc<str>, Arc<Server>>>,
    began: OnceLock<(Instant, Arc<Account>)>,
}

#[derive(Debug)]
struct Place {
    upstreams: BTreeSet<Name>,
    protocol: Protocol,
}

impl World {
    /// The servers of all upstreams of these configurations; what the scenario says of others is wrong.
    pub(super) fn new(
        scenario: &Scenario,
        configs: &[Arc<Config>],
        wrong: &mut Vec<Diagnostic>,
    ) -> Arc<Self> {
        let mut world = Self {
            scenario: scenario.clone(),
            known: BTreeMap::new(),
            names: BTreeMap::new(),
            services: BTreeMap::new(),
            servers: Mutex::default(),
            began: OnceLock::new(),
        };
        let upstreams = || configs.iter().flat_map(|config| &config.upstreams);
        for (name, upstream) in upstreams() {
            let found = upstream.discovery.as_ref().map(|is| world.found(&is.source)).unwrap_or_default();
            let listed = upstream.endpoints.iter().map(|endpoint| Arc::clone(&endpoint.address));
            for address in listed.chain(found) {
                let place = world.known.entry(address);
                let place =
                    place.or_insert(Place { upstreams: BTreeSet::new(), protocol: upstream.protocol });
                place.upstreams.insert(Arc::clone(name));
            }
        }
        let there_are = || listed(upstreams().map(|(name, _)| &**name));
        for (named, servers) in &scenario.servers {
            if !upstreams().any(|(name, _)| *name == named.name) {
                wrong.push(unknown("upstream", named, &there_are()));
                continue;
            }
            let of = |address: &&Arc<str>| world.known[*address].upstreams.contains(&named.name);
            let addresses = world.known.keys().filter(of).collect::<Vec<_>>();
            let endpoints = servers.troubles.iter().flat_map(|trouble| &trouble.endpoints);
            for endpoint in endpoints.filter(|endpoint| !addresses.contains(&&endpoint.name)) {
                let there_are = listed(addresses.iter().map(|address| &***address));
                wrong.push(unknown(&format!("endpoint of `{}` at", named.name), endpoint, &there_are));
            }
        }
        Arc::new(world)
    }

    /// The endpoints that will be found there.
    fn found(&mut self, source: &EndpointSource) -> Vec<Arc<str>> {
        let at = |addresses: &[Ipv4Addr], port: u16| {
            addresses.iter().map(|address| format!("{address}:{port}").into()).collect()
        };
        match source {
            EndpointSource::Dns(host, port) => at(&self.addresses(host), *port),
            EndpointSource::Srv(name) => {
                let target = Arc::<str>::from(format!("one.{name}"));
                let service = Service { priority: 0, weight: 1, port: 80, target: Arc::clone(&target) };
                self.services.insert(Arc::clone(name), service);
                at(&self.addresses(&target), 80)
            }
            EndpointSource::Consul(ConsulService { name, .. })
            | EndpointSource::Eureka(EurekaApp { name, .. }) => at(&self.addresses(name), REGISTERED),
            EndpointSource::File(path) => {
                let listed = read_document(path).ok().and_then(|bytes| endpoints_of(&bytes, path).ok());
                listed.unwrap_or_default().into_iter().map(|endpoint| endpoint.address).collect()
            }
        }
    }

    /// Addresses of a name that is nobody's: out of 100.64.0.0/10 (RFC 6598).
    fn addresses(&mut self, name: &Arc<str>) -> Vec<Ipv4Addr> {
        let count = u16::try_from(self.names.len()).unwrap_or(u16::MAX);
        let first = count.saturating_mul(ADDRESSES);
        let address = |number: u16| {
            let [high, low] = first.saturating_add(number).to_be_bytes();
            Ipv4Addr::new(100, 64, high, low)
        };
        self.names.entry(Arc::clone(name)).or_insert_with(|| (0..ADDRESSES).map(address).collect()).clone()
    }

    /// From here on servers are there.
    pub(super) fn begin(&self, account: &Arc<Account>) {
        let _ = self.began.set((Instant::now(), Arc::clone(account)));
        self.known.keys().for_each(|address| _ = self.server(address));
    }

    /// How the gateway connects to them.
    pub(super) fn connect(self: &Arc<Self>) -> Arc<MemoryConnect> {
        let world = Arc::clone(self);
        Arc::new(move |address: &str| {
            let connected = world.server(&address.into()).connect();
            Box::pin(std::future::ready(connected)) as Pin<Box<dyn Future<Output = _> + Send>>
        })
    }

    /// Who knows names.
    pub(super) fn resolver(self: &Arc<Self>) -> Arc<dyn Resolve> {
        Arc::new(Resolver(Arc::clone(self)))
    }

    fn server(&self, address: &Arc<str>) -> Arc<Server> {
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(server) = servers.get(address) {
            return Arc::clone(server);
        }
        let (began, account) = self.began.get().expect("nobody asks before it has begun");
        let place = self.known.get(address);
        let said = place.and_then(|place| {
            self.scenario.servers.iter().find(|(named, _)| place.upstreams.contains(&named.name))
        });
        let server = Arc::new(Server {
            number: servers.len(),
            address: Arc::clone(address),
            upstreams: place.map(|place| place.upstreams.clone()).unwrap_or_default(),
            is: Is::new(said.map(|(_, servers)| servers), address),
            protocol: place.map_or(Protocol::H1, |place| place.protocol),
            began: *began,
            chance: Chance::of(self.scenario.seed, (2, u32::try_from(servers.len()).unwrap_or(u32::MAX))),
            account: Arc::clone(account),
            is_down: watch::Sender::new(false),
            tally: Tally::default(),
        });
        servers.insert(Arc::clone(address), Arc::clone(&server));
        server.clone().goes_down_and_comes_back();
        server
    }

    /// All of them, as they are numbered.
    pub(super) fn servers(&self) -> Vec<Arc<Server>> {
        let servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = servers.values().cloned().collect::<Vec<_>>();
        all.sort_by_key(|server| server.number);
        all
    }
}

struct Resolver(Arc<World>);

impl Resolve for Resolver {
    fn resolve(&self, question: Question) -> Pin<Box<dyn Future<Output = Result<Answer, String>> + Send>> {
        let name = question.name.trim_end_matches('.');
        let world = &self.0;
        let records = match question.kind {
            Kind::A => {
                let addresses = world.names.get(name).into_iter().flatten();
                addresses.map(|address| Record::Address(IpAddr::V4(*address))).collect()
            }
            Kind::Aaaa => Vec::new(),
            Kind::Srv => world.services.get(name).cloned().map(Record::Service).into_iter().collect(),
        };
        Box::pin(std::future::ready(Ok(Answer { records, ttl: TTL })))
    }
}

/// What a server is like.
#[derive(Debug)]
struct Is {
    takes: Duration,
    workers: Option<Arc<Semaphore>>,
    queue: usize,
    status: StatusCode,
    body: Bytes,
    troubles: Vec<(During, Behaviour)>,
}

impl Is {
    fn new(said: Option<&Servers>, address: &Arc<str>) -> Self {
        let befalls = |trouble: &&Trouble| {
            trouble.endpoints.is_empty() || trouble.endpoints.iter().any(|Named { name, .. }| name == address)
        };
        let troubles = said.map(|servers| &*servers.troubles).unwrap_or_default().iter();
        Self {
            takes: said.map_or(DEFAULT_TAKES, |servers| servers.takes),
            workers: said
                .and_then(|servers| servers.workers)
                .map(|workers| Arc::new(Semaphore::new(workers))),
            queue: said.map_or(DEFAULT_QUEUE, |servers| servers.queue),
            status: said.map_or(StatusCode::OK, |servers| servers.status),
            body: vec![b'.'; said.map_or(0, |servers| servers.body)].into(),
            troubles: troubles.filter(befalls).map(|trouble| (trouble.during, trouble.how)).collect(),
        }
    }
}

/// As in the grammar.
const DEFAULT_TAKES: Duration = Duration::from_millis(50);
const DEFAULT_QUEUE: usize = 1000;

/// One server.
pub(super) struct Server {
    pub(super) number: usize,
    pub(super) address: Arc<str>,
    pub(super) upstreams: BTreeSet<Name>,
    pub(super) tally: Tally,
    is: Is,
    protocol: Protocol,
    began: Instant,
    chance: Chance,
    account: Arc<Account>,
    is_down: watch::Sender<bool>,
}

/// What a server has done.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Requests that came.
    pub(super) came: AtomicU64,
    /// Of these, those that failed: also for want of a place in the queue.
    pub(super) failed: AtomicU64,
    /// Checks of its health, which are none of these.
    pub(super) checks: AtomicU64,
    waiting: AtomicUsize,
}

type Answered = Response<BoxBody<Bytes, Infallible>>;

impl Server {
    fn behaviour(&self) -> Behaviour {
        let at = super::since(self.began);
        let now = self.is.troubles.iter().filter(|(during, _)| during.contains(at));
        now.fold(Behaviour::WELL, |all, (_, how)| all.and(*how))
    }

    fn connect(self: Arc<Self>) -> io::Result<DuplexStream> {
        if self.behaviour().refuses {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let (ours, theirs) = duplex(PIPE);
        tokio::spawn(self.serve(theirs));
        Ok(ours)
    }

    async fn serve(self: Arc<Self>, stream: DuplexStream) {
        let mut is_down = self.is_down.subscribe();
        let server = Arc::clone(&self);
        let service = service_fn(move |request| {
            let server = Arc::clone(&server);
            async move { Ok::<_, Infallible>(server.answer(request).await) }
        });
        let io = TokioIo::new(stream);
        let served = async {
            match self.protocol {
                Protocol::H1 => _ = http1::Builder::new().serve_connection(io, service).await,
                Protocol::H2 => {
                    _ = http2::Builder::new(TokioExecutor::new()).serve_connection(io, service).await;
                }
            }
        };
        tokio::select! {
            biased;
            _ = is_down.wait_for(|is_down| *is_down) => {}
            () = served => {}
        }
    }

    /// Breaks off what is connected whenever nobody listens any more.
    fn goes_down_and_comes_back(self: Arc<Self>) {
        let refusals = self.is.troubles.iter().filter(|(_, how)| how.refuses);
        let mut times = refusals.flat_map(|(during, _)| [during.from, during.to]).collect::<Vec<_>>();
        times.sort_unstable();
        if !times.is_empty() {
            tokio::spawn(async move {
                for time in times {
                    sleep_until(self.began + time).await;
                    self.is_down.send_replace(self.behaviour().refuses);
                }
            });
        }
    }

    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Answered {
        let (head, mut body) = request.into_parts();
        let agent = head.headers.get(USER_AGENT).map(HeaderValue::as_bytes);
        if agent == Some(control::WHO.as_bytes()) {
            self.tally.checks.fetch_add(1, Relaxed);
        } else {
            self.tally.came.fetch_add(1, Relaxed);
            let came = head.headers.get(CAME).and_then(|came| came.to_str().ok()?.parse().ok());
            self.account.seen(self.number, came.map(Duration::from_micros));
        }
        while let Some(Ok(_)) = body.frame().await {} // Whoever breaks off is heard of by the connection.
        let (status, is_grpc) = (self.clone().work().await, is_grpc(&head.headers));
        if status.is_server_error() {
            self.tally.failed.fetch_add(1, Relaxed);
        }
        if is_grpc && status == StatusCode::OK { well() } else { answered(status, &self.is.body) }
    }

    /// Does what was asked for, and says how it ended.
    async fn work(self: Arc<Self>) -> StatusCode {
        let behaviour = self.behaviour();
        let (takes, share) = (self.chance.around(self.is.takes, LONGEST), self.chance.share());
        if behaviour.hangs {
            return pending().await;
        }
        if share * 100.0 <= f64::from(behaviour.fail) {
            return StatusCode::INTERNAL_SERVER_ERROR;
        }
        let takes = takes.mul_f64(f64::from(behaviour.slow) / 100.0);
        let (tell, told) = oneshot::channel();
        tokio::spawn(async move {
            let Ok(worker) = self.worker().await else {
                let _ = tell.send(StatusCode::SERVICE_UNAVAILABLE); // Nobody may be waiting any more.
                return;
            };
            sleep(takes).await;
            drop(worker);
            let _ = tell.send(self.is.status);
        });
        told.await.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// A worker of its own, once there is one; none, if too many wait for that.
    async fn worker(&self) -> Result<Option<OwnedSemaphorePermit>, Overfull> {
        let Some(workers) = &self.is.workers else { return Ok(None) };
        if let Ok(worker) = Arc::clone(workers).try_acquire_owned() {
            return Ok(Some(worker));
        }
        if self.tally.waiting.fetch_add(1, Relaxed) >= self.is.queue {
            self.tally.waiting.fetch_sub(1, Relaxed);
            return Err(Overfull);
        }
        let worker = Arc::clone(workers).acquire_owned().await;
        self.tally.waiting.fetch_sub(1, Relaxed);
        worker.map(Some).map_err(|_| Overfull)
    }
}

/// Too many wait already.
struct Overfull;

fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|is| is.as_bytes().starts_with(b"application/grpc"))
}

fn answered(status: StatusCode, body: &Bytes) -> Answered {
    let mut response = Response::new(Full::from(body.clone()).boxed());
    *response.status_mut() = status;
    response
}

/// `grpc.health.v1.HealthCheckResponse {status: SERVING}`, which is an answer to other calls as well.
fn well() -> Answered {
    const SERVING: &[u8] = &[0, 0, 0, 0, 2, 0x08, 1];
    let trailers = HeaderMap::from_iter([(GRPC_STATUS, HeaderValue::from_static("0"))]);
    let body = Full::from(SERVING).with_trailers(std::future::ready(Some(Ok(trailers))));
    let mut response = Response::new(body.boxed());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
