//! The gateway inside the test: its own rooms over pipes, so that time can be virtual.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicBool},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use naka_gateway::{
    address::{Address, Source},
    admin::Admin,
    ask::Asked,
    config::checked::Config,
    connection,
    custom::Kinds,
    discover::Resolve,
    drain::Drain,
    explain::{Explanation, explain},
    generation::{Generation, InForce},
    monitor::Monitor,
    observe::{Format, Metrics},
    prepare::{Before, Outside, Refusal, RunTests, prepare},
    shared::{Ending, Shared},
    state::State,
    upstream::Connector,
};
use naka_testkit::network::Network;
use tempfile::TempDir;
use tokio::{
    io::DuplexStream,
    sync::{mpsc, watch},
};

pub(crate) const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

/// A gateway whose clients and upstreams are pipes.
pub(crate) struct Inside {
    pub(crate) network: Network,
    shared: Arc<Shared>,
    metrics: Arc<Metrics>,
    draining: watch::Sender<Ending>,
    folder: TempDir,
    outside: Outside,
    kinds: Kinds,
}

impl Inside {
    /// With this configuration in force; its listeners' addresses are only names.
    pub(crate) fn new(yaml: &str) -> Self {
        Self::with_files(yaml, &[])
    }

    /// The same, beside these files.
    pub(crate) fn with_files(yaml: &str, files: &[(&str, &str)]) -> Self {
        Self::resolving(yaml, files, None)
    }

    /// With policies of these kinds, too.
    pub(crate) fn with_kinds(yaml: &str, kinds: Kinds) -> Self {
        Self::of(yaml, &[], None, kinds)
    }

    /// The same, where somebody else resolves names of endpoints.
    pub(crate) fn resolving(yaml: &str, files: &[(&str, &str)], resolver: Option<Arc<dyn Resolve>>) -> Self {
        Self::of(yaml, files, resolver, Kinds::default())
    }

    fn of(yaml: &str, files: &[(&str, &str)], resolver: Option<Arc<dyn Resolve>>, kinds: Kinds) -> Self {
        let (folder, network) = (tempfile::tempdir().unwrap(), Network::new());
        let outside = Outside { resolver, ..outside(&network) };
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let metrics = Arc::new(Metrics::new());
        std::fs::write(folder.path().join("gateway.yaml"), yaml).unwrap();
        let first =
            prepared(&folder.path().join("gateway.yaml"), &State::new(1), 1, &metrics, &outside, &kinds);
        let first = first.unwrap_or_else(|refusal| panic!("{refusal}"));
        first.start();
        let in_force = InForce::new(first);
        let shared = Shared::new(in_force, Arc::clone(&metrics), 1);
        let draining = watch::Sender::new(Ending::Open);
        Self { network, shared, metrics, draining, folder, outside, kinds }
    }

    /// Puts another configuration in force, or says why not.
    pub(crate) fn reload(&self, yaml: &str) -> Result<(), String> {
        let entry = self.folder.path().join("gateway.yaml");
        std::fs::write(&entry, yaml).unwrap();
        let current = self.generation();
        let next =
            prepared(&entry, &current.state, current.number + 1, &self.metrics, &self.outside, &self.kinds);
        let next = next.map_err(|refusal| refusal.to_string())?;
        next.start();
        self.shared.in_force.swap(next);
        Ok(())
    }

    /// Where the configuration is.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Writes a file beside the configuration.
    pub(crate) fn write(&self, name: &str, text: &str) {
        std::fs::write(self.folder.path().join(name), text).unwrap();
    }

    pub(crate) fn generation(&self) -> Arc<Generation> {
        self.shared.in_force.get()
    }

    /// What would become of a request from [`CLIENT`], by the generation in force.
    pub(crate) fn explain(&self, request: &str, headers: &[String]) -> Explanation {
        let asked = Asked {
            request: request.to_owned(),
            headers: headers.to_vec(),
            client_ip: Some(CLIENT.to_string()),
            ..Asked::default()
        };
        self.explain_asked(&asked)
    }

    /// What would become of a request that is only thought of.
    pub(crate) fn explain_asked(&self, asked: &Asked) -> Explanation {
        let generation = self.generation();
        explain(&generation, &asked.check(&generation.config).unwrap(), naka::clock::Now::read())
    }

    /// A raw connection to the first listener.
    pub(crate) fn connect(&self) -> DuplexStream {
        self.connect_at(self.first_listener())
    }

    /// A raw connection that came in at this address.
    pub(crate) fn connect_at(&self, name: Address) -> DuplexStream {
        let (ours, theirs) = tokio::io::duplex(64 << 10);
        let (shared, draining) = (Arc::clone(&self.shared), self.draining.subscribe());
        let source = match name {
            Address::Tcp(_) => Source::Ip(CLIENT),
            Address::Unix(_) => Source::Unix,
        };
        tokio::spawn(async move { connection::serve(&shared, 0, name, theirs, source, draining).await });
        ours
    }

    /// Has every connection end so.
    pub(crate) fn drain(&self, ending: Ending) {
        self.draining.send_replace(ending);
    }

    /// A connection that speaks HTTP.
    pub(crate) async fn client(&self) -> Client {
        let (sender, connection) = handshake(TokioIo::new(self.connect())).await.unwrap();
        tokio::spawn(connection);
        Client(sender)
    }

    /// One request over a connection of its own.
    pub(crate) async fn send(&self, request: Request<Full<Bytes>>) -> Response<Bytes> {
        self.client().await.send(request).await
    }

    /// A metric as it is exposed: the value behind the first line that starts like this.
    pub(crate) fn metric(&self, start: &str) -> Option<f64> {
        let text = self.metrics.render(Format::Prometheus, 0);
        let line = text.lines().find(|line| line.starts_with(start))?;
        line.rsplit(' ').next()?.parse().ok()
    }

    /// What workers share.
    pub(crate) const fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// The admin port of this gateway; nobody reloads.
    pub(crate) fn admin(&self) -> Arc<Admin> {
        self.admin_at(Path::new("/"))
    }

    /// The same, where the kernel's files are in this folder.
    pub(crate) fn admin_at(&self, root: &Path) -> Arc<Admin> {
        // No worker is here to say so.
        for listener in self.generation().config.listeners.values() {
            self.shared.pulse.listens(&listener.listen, 1);
        }
        Arc::new(Admin {
            in_force: Arc::clone(&self.shared.in_force),
            metrics: Arc::clone(&self.metrics),
            status: Arc::default(),
            drain: Drain::default(),
            has_begun: AtomicBool::new(false),
            is_handing_over: AtomicBool::new(false),
            monitor: Monitor::new(Arc::clone(&self.shared.pulse), root),
            busiest: Arc::default(),
            ask: mpsc::channel(1).0,
        })
    }

    /// How connections are made.
    pub(crate) fn connector(&self) -> Connector {
        self.outside.connector.clone()
    }

    fn first_listener(&self) -> Address {
        self.generation().config.listeners.values().next().unwrap().listen.clone()
    }
}

/// A client's connection.
pub(crate) struct Client(SendRequest<Full<Bytes>>);

impl Client {
    /// A connection over TCP.
    pub(crate) async fn over(address: SocketAddr) -> Self {
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let (sender, connection) = handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Self(sender)
    }

    pub(crate) async fn send(&mut self, request: Request<Full<Bytes>>) -> Response<Bytes> {
        self.0.ready().await.unwrap();
        let (head, body) = self.0.send_request(request).await.unwrap().into_parts();
        Response::from_parts(head, body.collect().await.unwrap().to_bytes())
    }

    /// A response that may be cut anywhere: then `None`.
    pub(crate) async fn whole(&mut self, request: Request<Full<Bytes>>) -> Option<Bytes> {
        self.0.ready().await.unwrap();
        let response = self.0.send_request(request).await.ok()?;
        Some(response.into_body().collect().await.ok()?.to_bytes())
    }

    /// The head of a response, and its body still to come.
    pub(crate) async fn head(&mut self, request: Request<Full<Bytes>>) -> Response<hyper::body::Incoming> {
        self.0.ready().await.unwrap();
        self.0.send_request(request).await.unwrap()
    }
}

/// A request with a host and no body.
pub(crate) fn get(target: &str) -> Request<Full<Bytes>> {
    Request::get(target).header("host", "api.example").body(Full::default()).unwrap()
}

fn prepared(
    entry: &PathBuf,
    state: &State,
    number: u64,
    metrics: &Arc<Metrics>,
    outside: &Outside,
    kinds: &Kinds,
) -> Result<Generation, Refusal> {
    let (state, tests) = (&|_: &Config| state.clone(), RunTests::AsConfigured);
    let before = Before { entry, sources: None, state, number, tests, kinds };
    prepare(&before, metrics, outside).map(|prepared| prepared.generation)
}

/// Connects to names that someone listens at.
fn outside(network: &Network) -> Outside {
    let network = network.clone();
    let connect = move |name: &str| {
        let is_silent = name.starts_with("silent");
        let stream = network.connect(name);
        Box::pin(async move {
            if is_silent {
                std::future::pending::<()>().await;
            }
            stream
        }) as std::pin::Pin<Box<dyn Future<Output = _> + Send>>
    };
    Connector::Memory(Arc::new(connect)).into()
}
