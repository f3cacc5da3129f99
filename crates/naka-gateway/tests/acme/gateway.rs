//! The gateway over pipes, in virtual time; its authority is at `acme.example`.

use std::{
    io,
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, Mutex},
    time::Duration,
};

use http::Request;
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use naka::clock::{Now, WallClock};
use naka_gateway::{
    acme::{Orders, Status},
    config::checked::Config,
    connection,
    custom::Kinds,
    generation::InForce,
    observe::{Format, Metrics},
    prepare::{Before, Outside, RunTests, prepare},
    shared::{Ending, Shared},
    state::State,
    upstream::Connector,
};
use tempfile::TempDir;
use tokio::{io::DuplexStream, sync::watch, time::sleep};
use tokio_rustls::rustls::pki_types::CertificateDer;

use super::{
    authority::{Authority, Pipe},
    client::{dial, dial_anybody},
};

const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

/// Two hosts in one certificate.
pub(crate) const YAML: &str = "
listeners:
  web:
    listen: ':1'
    tls:
      acme:
        domains: [shop.example, www.shop.example]
        directory: https://acme.example/directory
        folder: kept
        contact: [ops@shop.example]
        accept_terms: true
        ca: root.pem
routes:
  all: {match: {prefix: /}, respond: {body: shop}}
";

/// A day ago, by virtual time: what is made soon after is valid for clients of the tests by now.
pub(crate) fn yesterday() -> WallClock {
    WallClock::starting_at(WallClock::system().unix_s(Now::read()) - 86_400)
}

/// A place for gateways, with an authority.
pub(crate) struct World {
    pub(crate) folder: TempDir,
    pub(crate) authority: Authority,
    outside: Outside,
}

impl World {
    pub(crate) fn new() -> Self {
        let clock = yesterday();
        let (folder, authority) =
            (tempfile::tempdir().unwrap(), Authority::new(clock, "https://acme.example"));
        std::fs::write(folder.path().join("root.pem"), authority.pem()).unwrap();
        let serving = authority.clone();
        let connect = move |address: &str| {
            let is_there = address == "acme.example:443";
            let (ours, theirs) = tokio::io::duplex(64 << 10);
            tokio::spawn(serving.clone().serve(theirs));
            let stream = if is_there { Ok(ours) } else { Err(io::ErrorKind::ConnectionRefused.into()) };
            Box::pin(std::future::ready(stream)) as std::pin::Pin<Box<dyn Future<Output = _> + Send>>
        };
        let outside = Outside {
            connector: Connector::Memory(Arc::new(connect)),
            orders: Orders::Placed(clock),
            ..Outside::default()
        };
        Self { folder, authority, outside }
    }

    /// A process with this configuration, which the authority finds at all hosts.
    pub(crate) async fn gateway(&self, yaml: &str) -> Gateway {
        // An order may be under way before there is a listener: as with a socket, who comes early waits.
        let (fronts, front) = watch::channel(None::<Front>);
        self.authority.reaches(move |_| {
            let mut front = front.clone();
            Box::pin(async move {
                let front = front.wait_for(Option::is_some).await.map_err(io::Error::other)?.clone();
                Ok(Box::new(front.expect("it is there").connect()) as Pipe)
            })
        });
        let gateway = self.other_gateway(yaml).await;
        fronts.send_replace(Some(gateway.front.clone()));
        gateway
    }

    /// A process that the authority does not find.
    pub(crate) async fn other_gateway(&self, yaml: &str) -> Gateway {
        let metrics = Arc::new(Metrics::new());
        let first = self.prepared(yaml, &State::new(1), 1, &metrics).unwrap();
        metrics.in_force(1, first.hash(), &first.config);
        first.start();
        first.state.found().await;
        let shared = Shared::new(InForce::new(first), Arc::clone(&metrics), 1);
        let draining = Arc::new(watch::Sender::new(Ending::Open));
        Gateway { front: Front { shared, draining }, metrics, last: Mutex::new(1) }
    }

    /// A process dies.
    pub(crate) fn dies(&self, gateway: Gateway) {
        self.authority.reaches_nobody();
        drop(gateway);
    }

    /// Whether that can be put in force, or why not.
    pub(crate) fn check(&self, yaml: &str) -> Result<(), String> {
        self.prepared(yaml, &State::new(1), 1, &Arc::new(Metrics::new())).map(drop)
    }

    pub(crate) async fn reload(&self, gateway: &Gateway, yaml: &str) {
        let number = {
            let mut last = gateway.last.lock().unwrap();
            *last += 1;
            *last
        };
        let current = gateway.front.shared.in_force.get();
        let next = self.prepared(yaml, &current.state, number, &gateway.metrics).unwrap();
        next.start();
        next.state.found().await;
        let config = Arc::clone(&next.config);
        gateway.front.shared.in_force.swap(next);
        gateway.metrics.in_force(number, String::new(), &config);
    }

    fn prepared(
        &self,
        yaml: &str,
        state: &State,
        number: u64,
        metrics: &Arc<Metrics>,
    ) -> Result<naka_gateway::generation::Generation, String> {
        let entry = self.folder.path().join("gateway.yaml");
        std::fs::write(&entry, yaml).unwrap();
        let (state, tests, kinds) = (&|_: &Config| state.clone(), RunTests::Always, &Kinds::default());
        let before = Before { entry: &entry, sources: None, state, number, tests, kinds };
        let prepared = prepare(&before, metrics, &self.outside);
        prepared.map(|prepared| prepared.generation).map_err(|refusal| refusal.to_string())
    }
}

/// Where clients come in.
#[derive(Clone)]
pub(crate) struct Front {
    shared: Arc<Shared>,
    draining: Arc<watch::Sender<Ending>>,
}

impl Front {
    /// A raw connection to its listener.
    pub(crate) fn connect(&self) -> DuplexStream {
        let (ours, theirs) = tokio::io::duplex(64 << 10);
        let (shared, draining) = (Arc::clone(&self.shared), self.draining.subscribe());
        let name = shared
            .in_force
            .with(|generation| generation.config.listeners.values().next().unwrap().listen.clone());
        tokio::spawn(
            async move { connection::serve(&shared, 0, name, theirs, CLIENT.into(), draining).await },
        );
        ours
    }
}

/// One process.
pub(crate) struct Gateway {
    pub(crate) front: Front,
    metrics: Arc<Metrics>,
    last: Mutex<u64>,
}

impl Gateway {
    /// How its certificate is.
    pub(crate) fn status(&self) -> Status {
        let generation = self.front.shared.in_force.get();
        generation.state.certificates.iter().next().unwrap().1.status()
    }

    /// A metric as it is exposed: the value behind the first line that starts like this.
    pub(crate) fn metric(&self, start: &str) -> Option<f64> {
        let text = self.metrics.render(Format::Prometheus, 0);
        let line = text.lines().find(|line| line.starts_with(start))?;
        line.rsplit(' ').next()?.parse().ok()
    }

    /// Orders that have ended so.
    pub(crate) fn orders(&self, outcome: &str) -> usize {
        let text = self.metrics.render(Format::Prometheus, 0);
        let counted = |line: &&str| {
            line.starts_with("naka_tls_certificate_orders_total{")
                && line.contains(&format!("outcome=\"{outcome}\""))
        };
        let line = text.lines().find(counted).expect("it is counted, if with 0");
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }

    /// What is shown to who asks for a host.
    pub(crate) async fn shown(&self, host: &str) -> io::Result<CertificateDer<'static>> {
        let stream = dial_anybody(self.front.connect(), host, &[b"http/1.1"]).await?;
        Ok(stream.get_ref().1.peer_certificates().unwrap()[0].clone())
    }

    /// What is answered to a client that believes this authority and no other.
    pub(crate) async fn get(&self, host: &str, authority: &Authority) -> io::Result<String> {
        let stream = dial(self.front.connect(), host, authority.der()).await?;
        let (mut sender, connection) = handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        tokio::spawn(connection);
        let request = Request::get("/").header("host", host).body(Empty::<bytes::Bytes>::new()).unwrap();
        let response = sender.send_request(request).await.map_err(io::Error::other)?;
        assert_eq!(response.status(), 200);
        let body = response.into_body().collect().await.map_err(io::Error::other)?.to_bytes();
        Ok(String::from_utf8(body.to_vec()).unwrap())
    }
}

/// Waits until it is so: in virtual time, which no machine is too slow for.
pub(crate) async fn until(what: &str, is_so: impl Fn() -> bool) {
    for _ in 0..100_000 {
        if is_so() {
            return;
        }
        sleep(Duration::from_secs(10)).await;
    }
    panic!("it never was so that {what}");
}
