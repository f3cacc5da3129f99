//! A whole platform for a demonstration: every service as a process of its own and the gateway in front, on ports that nobody else has,
//! with files that go away with it, and a [`Wire`] to each service, on which there may be weather.
//!
//! # Ports
//! From 12,000 to 19,999, beginning where the number of this process says: not those that the system gives to whoever connects, since a
//! service that was killed comes back where it was.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::process::Signal;
use tempfile::TempDir;
use tokio::{
    runtime::{Builder, Runtime},
    time::{sleep, timeout},
};

use super::{
    children::{Death, Family},
    sidecars::{self, Doors},
    up::{self, Part, SERVICES, START, STOP, Service},
    wire::{Weather, Wire},
};
use crate::user::keys::{Claims, Keys};

/// The ports to choose from.
const PORTS: std::ops::Range<u16> = 12_000..20_000;

/// How long a process that was killed may take to be gone.
const GONE: Duration = Duration::from_secs(10);

/// The runtime of a demonstration.
///
/// # Errors
/// If the system gives none.
pub fn runtime() -> Result<Runtime, String> {
    let built = Builder::new_multi_thread().worker_threads(2).enable_all().build();
    built.map_err(|error| format!("cannot start: {error}"))
}

/// What a platform is to be.
#[derive(Default)]
pub struct Plan<'a> {
    /// Only the services of that part.
    pub only: Option<Part>,
    /// What is changed in the configuration of the gateway.
    pub change: Option<&'a dyn Fn(&str) -> String>,
    /// Variables in the environment of every process.
    pub environment: Vec<(String, String)>,
    /// Beside each service stands a sidecar, and what one asks another goes through both of theirs.
    pub is_mesh: bool,
}

impl std::fmt::Debug for Plan<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plan").field("only", &self.only).finish_non_exhaustive()
    }
}

/// A platform. Dropped, all its processes are killed.
#[derive(Debug)]
pub struct Platform {
    folder: TempDir,
    config: PathBuf,
    family: Family,
    environment: Vec<(String, String)>,
    services: BTreeMap<&'static str, Placed>,
    keys: Keys,
    free: Ports,
    /// The sidecars of a mesh, by their services.
    pub doors: BTreeMap<&'static str, Doors>,
    /// Where the gateway listens.
    pub gateway: SocketAddr,
    /// Where it answers whoever looks after it.
    pub admin: SocketAddr,
}

/// A service in its place.
#[derive(Debug)]
struct Placed {
    at: SocketAddr,
    wire: Wire,
    args: Vec<OsString>,
}

impl Platform {
    /// Starts it.
    ///
    /// # Errors
    /// What did not start, and what it said.
    pub async fn open(plan: Plan<'_>) -> Result<Self, String> {
        let folder = tempfile::tempdir().map_err(|error| format!("no folder can be made: {error}"))?;
        let keys = Keys::of(folder.path())?;
        let services = SERVICES.iter().filter(|it| it.is_of(plan.only)).collect::<Vec<_>>();
        let mut free = Ports::default();
        let (gateway, admin) = (free.another()?, free.another()?);
        let mut wires = BTreeMap::new();
        for service in &SERVICES {
            let (from, to) = (free.another()?, free.another()?);
            wires.insert(service.name, (from, to));
        }
        let mut doors = BTreeMap::new();
        for service in services.iter().filter(|_| plan.is_mesh) {
            let [inbound, outbound, admin] = [free.another()?, free.another()?, free.another()?];
            doors.insert(service.name, Doors { inbound, outbound, admin });
        }
        let config = folder.path().join("gateway.yaml");
        let text = std::fs::read_to_string(up::find(Path::new("gateway.yaml"))?)
            .map_err(|error| format!("gateway.yaml cannot be read: {error}"))?;
        let config =
            if plan.is_mesh { sidecars::file(&folder.path().join("mesh"), "gateway") } else { config };
        let change = |text: String| plan.change.map_or_else(|| text.clone(), |change| change(&text));
        if plan.is_mesh {
            let places = doors.iter().map(|(name, doors)| (*name, (wires[name].0, *doors))).collect();
            let text = change(placed(&text, gateway, admin, &BTreeMap::new()));
            sidecars::lay_out(&folder.path().join("mesh"), &places, &text)?;
        } else {
            let text = change(placed(&text, gateway, admin, &wires));
            std::fs::write(&config, text).map_err(|error| format!("{}: {error}", config.display()))?;
        }

        let mut platform = Self {
            family: Family::new(true),
            environment: plan.environment,
            services: BTreeMap::new(),
            keys,
            free,
            doors,
            config,
            gateway,
            admin,
            folder,
        };
        for service in &services {
            let (from, at) = wires[service.name];
            let asked = |peer: &str| match platform.doors.get(service.name) {
                Some(doors) => sidecars::asked_at(peer, *doors),
                None => wires[peer].0.to_string(),
            };
            let args = arguments(service, at, platform.folder.path(), asked);
            let wire = Wire::lay(from, at).await.map_err(|error| format!("{from}: {error}"))?;
            platform.services.insert(service.name, Placed { at, wire, args });
        }
        for is_asking in [false, true] {
            let turn = services.iter().filter(|it| it.asks.is_empty() != is_asking).map(|it| it.name);
            let turn = turn.collect::<Vec<_>>();
            for name in &turn {
                platform.start(name)?;
            }
            for name in turn {
                platform.ready(name, platform.services[name].at).await?;
            }
        }
        for Service { name, sidecar, .. } in services.iter().filter(|_| plan.is_mesh) {
            let file = sidecars::file(&platform.mesh(), name);
            platform.start_naka(sidecar, &file)?;
            platform.ready(sidecar, platform.doors[name].admin).await?;
        }
        platform.start_naka("gateway", &platform.config())?;
        platform.ready("gateway", admin).await?;
        Ok(platform)
    }

    fn start_naka(&mut self, name: &'static str, config: &Path) -> Result<(), String> {
        let words = ["naka", "--stop-with-stdin", "run", "-c"].map(OsString::from);
        let args = words.into_iter().chain([config.into()]).collect::<Vec<_>>();
        let started = self.family.start_in(name, &args, &self.environment);
        started.map(drop).map_err(|error| format!("{name} cannot be started: {error}"))
    }

    /// Starts a service again that has ended; it may take a moment until it answers.
    ///
    /// # Errors
    /// If there is none of that name, or the system starts none.
    pub fn start(&mut self, name: &'static str) -> Result<(), String> {
        let Placed { args, .. } = self.services.get(name).ok_or_else(|| format!("there is no {name}"))?;
        let started = self.family.start_in(name, args, &self.environment);
        started.map(drop).map_err(|error| format!("{name} cannot be started: {error}"))
    }

    async fn ready(&mut self, name: &str, at: SocketAddr) -> Result<(), String> {
        tokio::select! {
            ready = timeout(START, up::ready(at)) => {
                ready.map_err(|_| format!("{name} did not answer within {} s", START.as_secs()))
            }
            death = self.family.next_death() => Err(up::mourn(&death)),
        }
    }

    /// Waits until a service answers.
    ///
    /// # Errors
    /// If it does not in time, or a process ends.
    pub async fn until_ready(&mut self, name: &'static str) -> Result<(), String> {
        self.ready(name, self.at(name)).await
    }

    /// Whether a service answers now.
    pub async fn answers(&self, name: &str) -> bool {
        matches!(timeout(Duration::from_millis(250), up::probe(self.at(name))).await, Ok(Ok(true)))
    }

    /// Where a service listens, past its wire.
    ///
    /// # Panics
    /// If there is none of that name.
    pub fn at(&self, name: &str) -> SocketAddr {
        self.services[name].at
    }

    /// Changes the weather on the wire to a service.
    pub fn weather(&self, name: &str, weather: Weather) {
        if let Some(placed) = self.services.get(name) {
            placed.wire.weather(weather);
        }
    }

    /// Sends a signal to a process.
    pub fn signal(&self, name: &str, signal: Signal) {
        self.family.signal(name, signal);
    }

    /// Kills a process, which is told nothing, and waits until it is gone.
    ///
    /// # Errors
    /// If another one ends.
    pub async fn kill(&mut self, name: &'static str) -> Result<(), String> {
        self.family.signal(name, Signal::KILL);
        match timeout(GONE, self.family.next_death()).await {
            Ok(death) if death.name == name => Ok(()),
            Ok(death) => Err(up::mourn(&death)),
            Err(_) => Err(format!("{name} is not gone within {} s", GONE.as_secs())),
        }
    }

    /// Waits for a process that ends by itself.
    pub async fn next_death(&mut self) -> Death {
        self.family.next_death().await
    }

    /// The folder with the files.
    pub fn data(&self) -> &Path {
        self.folder.path()
    }

    /// The folder of what the sidecars need.
    pub fn mesh(&self) -> PathBuf {
        self.folder.path().join("mesh")
    }

    /// Starts one more sidecar, by which a service of the mesh is asked by whoever has that certificate and its key; where that is.
    ///
    /// # Errors
    /// If it does not start.
    pub async fn reach(
        &mut self,
        service: &str,
        shown: Option<(PathBuf, PathBuf)>,
    ) -> Result<SocketAddr, String> {
        let (outbound, admin) = (self.free.another()?, self.free.another()?);
        let shown = shown.map(|(cert, key)| format!(", cert: {}, key: {}", cert.display(), key.display()));
        let (inbound, ca) = (self.doors[service].inbound, self.mesh().join("ca.pem"));
        let text = format!(
            "gateway: {{admin: {{listen: '{admin}'}}}}
listeners: {{outbound: {{listen: '{outbound}'}}}}
upstreams: {{peer: {{endpoints: ['{inbound}'], tls: {{sni: {service}, ca: {}{}}}}}}}
routes: {{all: {{match: {{prefix: /}}, upstream: peer}}}}
",
            ca.display(),
            shown.unwrap_or_default()
        );
        let config = self.mesh().join(format!("outsider-{}.yaml", outbound.port()));
        std::fs::write(&config, text).map_err(|error| format!("{}: {error}", config.display()))?;
        self.start_naka("an outsider", &config)?;
        self.ready("an outsider", admin).await?;
        Ok(outbound)
    }

    /// The configuration of the gateway.
    pub fn config(&self) -> PathBuf {
        self.config.clone()
    }

    /// A token of one of the first users.
    ///
    /// # Errors
    /// If none can be signed.
    pub fn token(&self, user_id: &str) -> Result<String, String> {
        let claims = Claims::of(user_id, Duration::from_mins(30)).with("orders payment:process", "premium");
        self.keys.token(&claims)
    }

    /// A token of the warehouse.
    ///
    /// # Errors
    /// If none can be signed.
    pub fn warehouse_token(&self) -> Result<String, String> {
        self.keys.token(&Claims::of("w-1", Duration::from_mins(30)).in_role("warehouse"))
    }

    /// Stops all of it, in good order.
    pub async fn stop(self) {
        self.family.stop(STOP, std::future::pending()).await;
    }
}

fn arguments(
    service: &Service,
    at: SocketAddr,
    data: &Path,
    asked: impl Fn(&str) -> String,
) -> Vec<OsString> {
    let mut words = service.command.iter().map(OsString::from).collect::<Vec<_>>();
    words.extend(["--stop-with-stdin", "--listen"].map(OsString::from));
    words.extend([at.to_string().into(), "--data".into(), data.into()]);
    for peer in service.asks {
        words.extend([format!("--{peer}").into(), asked(peer).into()]);
    }
    words
}

/// The configuration of the gateway, with these ports.
fn placed(
    text: &str,
    gateway: SocketAddr,
    admin: SocketAddr,
    wires: &BTreeMap<&str, (SocketAddr, SocketAddr)>,
) -> String {
    let at = |port: u16| format!("127.0.0.1:{port}");
    let text = text.replace(&at(up::GATEWAY), &gateway.to_string()).replace(&at(9901), &admin.to_string());
    let there = SERVICES.iter().filter_map(|it| Some((it.port, wires.get(it.name)?.0)));
    there.fold(text, |text, (port, wire)| text.replace(&at(port), &wire.to_string()))
}

/// Ports that nobody has.
#[derive(Debug, Default)]
pub struct Ports {
    tried: u16,
}

impl Ports {
    /// The next one.
    ///
    /// # Errors
    /// If there is none left.
    pub fn another(&mut self) -> Result<SocketAddr, String> {
        let count = PORTS.end - PORTS.start;
        let first = u16::try_from(std::process::id() % u32::from(count) * 97 % u32::from(count)).unwrap_or(0);
        while self.tried < count {
            let port = PORTS.start + (first + self.tried) % count;
            self.tried += 1;
            let at = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            if TcpListener::bind(at).is_ok() {
                return Ok(at);
            }
        }
        Err(format!("no port is free from {} to {}", PORTS.start, PORTS.end - 1))
    }
}

/// Waits until something is so; whether it has come about.
pub async fn until(patience: Duration, mut is_so: impl AsyncFnMut() -> bool) -> bool {
    let looking = async {
        while !is_so().await {
            sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(patience, looking).await.is_ok()
}
