//! `naka run`: from the first configuration to the last connection.

use std::{
    net::SocketAddr,
    os::fd::OwnedFd,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
    task::{AbortHandle, JoinError, JoinHandle},
    time::{Instant, MissedTickBehavior},
};
use tracing::{info, warn};

use crate::{
    admin::{self, Admin, Ask, Listener},
    config::checked::{Gateway, Reload},
    custom::Kinds,
    drain::{self, Drain},
    generation::{Generation, InForce},
    handover::{self, HangUp, Sockets, Taken, Taker},
    heap,
    monitor::{self, Monitor},
    observe::Metrics,
    origin::{self, AdminPort, Origin},
    prepare::{Before, Outside, Refusal, RunTests, look},
    reload::{POLL, Reloader, Signature},
    service_manager,
    shared::Shared,
    state::State,
    state_file::Keeper,
    unix_socket::{Hidden, Identity, Socket, SocketFile},
    watch::{Seen, Watch},
    worker::{Open, Workers, count},
};

/// Why the process did not come up.
#[derive(Debug)]
pub enum Failure {
    /// The configuration cannot be put in force.
    Refused(Refusal),
    /// The system refused something.
    Io(&'static str, std::io::Error),
    /// Whoever should hand sockets over does not.
    Origin(origin::Failure),
    /// It was told to end before it served.
    Told,
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<origin::Failure> for Failure {
    fn from(failure: origin::Failure) -> Self {
        Self::Origin(failure)
    }
}

/// Runs the configuration of this entry file until told to stop, on this thread and those of the workers. `before` is
/// the socket of the process to take over from, and `kinds` of policies are there beside those that are built in.
///
/// # Errors
/// If it does not come up. Once it has, it ends by a signal, or when another process takes over.
pub fn run(entry: &Path, before: Option<&Path>, kinds: &Kinds) -> Result<(), Failure> {
    heap::keep_what_is_freed();
    let given = service_manager::sockets().map_err(origin::Failure::Sockets)?;
    let metrics = Arc::new(Metrics::new());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::Io("a runtime", error))?;
    let ended = runtime.block_on(start((entry, kinds), before, given, metrics));
    runtime.shutdown_background(); // A file that is still being read is not waited for.
    ended
}

async fn start(
    (entry, kinds): (&Path, &Kinds),
    before: Option<&Path>,
    given: Vec<OwnedFd>,
    metrics: Arc<Metrics>,
) -> Result<(), Failure> {
    let loaded = look(entry, None, kinds).1.map_err(Refusal::Config)?;
    let mut origin = match before {
        Some(path) => Origin::before(path).await?,
        None => Origin::new(given, &loaded.config)?,
    };
    origin.adopt_secret();
    let before = Before {
        entry,
        sources: None,
        state: &|config| State::new(count(config.gateway.workers)),
        number: 1,
        tests: RunTests::AsConfigured,
        kinds,
    };
    let outside = Outside::default();
    let first = before.prepare(loaded, &metrics, &outside)?;
    if first.warnings.iter().next().is_some() {
        warn!("{}", first.warnings.render(false));
    }
    let config = Arc::clone(&first.generation.config);
    let (workers_count, hash) = (first.generation.workers.len(), first.generation.hash());
    let in_force = InForce::new(first.generation);
    let shared = Shared::new(Arc::clone(&in_force), Arc::clone(&metrics), workers_count);
    let workers =
        Workers::start(&shared, config.gateway.workers).map_err(|error| Failure::Io("a worker", error))?;
    let mut signals = Signals::listen().map_err(|error| Failure::Io("a signal handler", error))?;
    origin.take()?;
    let admin_port = origin.admin_port(&config).await?;
    let doors = Doors::bind(&config.gateway, origin.files())?;
    let bindings = origin.bind(&config, &workers)?;
    let reloader = Reloader::new(entry, first.sources, Arc::clone(&in_force), Arc::clone(&metrics), outside);
    let (ask, requests) = mpsc::channel(16);
    let admin = Arc::new(Admin {
        in_force,
        metrics,
        status: reloader.status(),
        drain: Drain::default(),
        has_begun: AtomicBool::new(false),
        is_handing_over: AtomicBool::new(false),
        monitor: Monitor::new(Arc::clone(&shared.pulse), Path::new("/")),
        busiest: Arc::default(),
        ask,
    });
    admin.in_force.with(Generation::start); // Not before: what does not come up asks nobody.
    let generation = admin.in_force.get();
    tokio::select! {
        () = signals.end() => return Err(Failure::Told),
        () = generation.state.found() => {}
    }
    origin.restore(&generation.state);
    drop(generation);
    // The last moment at which whoever serves now can go on: what comes after this ends the process as any time later.
    tokio::select! {
        biased;
        () = signals.end() => return Err(Failure::Told),
        () = std::future::ready(()) => {}
    }
    let open = bindings.open()?;
    let taken =
        Taken { listeners: open.iter().map(Open::name).cloned().collect(), admin: admin_port.is_some() };
    let upgrade = origin.ready(taken)?;
    // From here on it serves, and nothing can fail any more.
    for open in open {
        workers.accept(open);
    }
    let (ways, upgrades) = Ways::open(&admin, admin_port, doors);
    service_manager::say_ready(); // Before the other one ends: else its service would have.
    if let Some(upgrade) = upgrade {
        let pid = upgrade.pid;
        match upgrade.done() {
            Ok(()) => info!(from = pid, "this process has taken over"),
            Err(error) => warn!(
                from = pid,
                "the process before was not told: {error}; if it still runs, it goes on besides this one: end it"
            ),
        }
    }
    let (routes, waits_for) = (config.routes.len(), admin.waits_for());
    let is_ready = waits_for.is_empty();
    if is_ready {
        info!(generation = 1, %hash, workers = workers_count, routes, "{READY}");
    } else {
        let waits_for = waits_for.join(", ");
        info!(
            generation = 1, %hash, workers = workers_count, routes,
            "naka is up, and waits for the keys of these policies before it is ready: {waits_for}"
        );
    }
    let keeper = Keeper::start(Arc::clone(&admin.in_force));
    tokio::spawn(monitor::watch(Arc::clone(&admin), Outside::default().connector)); // It ends with the runtime.
    Control { signals, reloader, workers, admin, requests, upgrades, ways, keeper, is_ready }.run().await;
    Ok(())
}

/// Sockets with a path, where nobody finds them yet.
struct Doors {
    admin: Option<Hidden>,
    upgrade: Option<Hidden>,
}

impl Doors {
    fn bind(gateway: &Gateway, given: &[Identity]) -> Result<Self, Failure> {
        let bind = |path: Option<&str>, what| {
            let hidden = path.map(|path| Hidden::bind(path, given)).transpose();
            hidden.map_err(|error| Failure::Io(what, error))
        };
        let admin = gateway.admin.as_ref().and_then(|admin| admin.socket.as_deref());
        Ok(Self {
            admin: bind(admin, "`gateway.admin.socket`")?,
            upgrade: bind(gateway.upgrade_socket.as_deref(), "`gateway.upgrade.socket`")?,
        })
    }
}

/// Where operators and the next process come in.
struct Ways {
    /// Whoever serves there.
    serving: Vec<AbortHandle>,
    /// Removed at the end.
    files: Vec<SocketFile>,
    /// A copy of the socket of the admin port, with its address.
    admin: Option<(SocketAddr, OwnedFd)>,
}

impl Ways {
    /// Opens them; whoever wants to take over comes out at the other end.
    fn open(admin: &Arc<Admin>, port: Option<AdminPort>, doors: Doors) -> (Self, mpsc::Receiver<Taker>) {
        let mut ways = Self { serving: Vec::new(), files: Vec::new(), admin: None };
        if let Some(AdminPort { address, listener, copy }) = port {
            info!(%address, "admin port");
            ways.serve(admin::serve(Arc::clone(admin), Listener::Address(listener)));
            ways.admin = Some((address, copy));
        }
        if let Some(Socket { listener, file }) = shown(doors.admin, "gateway.admin.socket") {
            // Nobody else accepts from this socket, even once another has its path: so it goes on to the end.
            tokio::spawn(admin::serve(Arc::clone(admin), Listener::Socket(listener)));
            ways.files.push(file);
        }
        let (takers, upgrades) = mpsc::channel(1);
        if let Some(Socket { listener, file }) = shown(doors.upgrade, "gateway.upgrade.socket") {
            ways.serve(handover::attend(listener, takers));
            ways.files.push(file);
        }
        (ways, upgrades)
    }

    fn serve(&mut self, service: impl Future<Output = ()> + Send + 'static) {
        self.serving.push(tokio::spawn(service).abort_handle());
    }

    /// Nobody is let in any more, but for those who have found our Unix socket before another took its path.
    fn close(&mut self) {
        self.serving.drain(..).for_each(|serving| serving.abort());
        self.files.clear();
        self.admin = None;
    }

    /// Whether nobody has put anything in the place of our files.
    fn are_there(&self) -> bool {
        self.files.iter().all(SocketFile::is_there)
    }
}

/// Too late to give up for it.
fn shown(hidden: Option<Hidden>, key: &str) -> Option<Socket> {
    hidden?.show().map_err(|error| warn!("`{key}` cannot be had: {error}")).ok()
}

/// Who has found a Unix socket of ours just before another process took its path may take so long to be there.
const ON_ITS_WAY: Duration = Duration::from_millis(100);

/// What is said once everything is there.
const READY: &str = "naka is ready";

/// How long spans and lines of the access log may take to get out at the end.
const FLUSH: Duration = Duration::from_secs(3);

/// How often it is looked whether the first keys are there.
const LOOK: Duration = Duration::from_millis(100);

/// Whoever reacts: to signals, to changed files, to the admin port.
struct Control {
    signals: Signals,
    reloader: Reloader,
    workers: Workers,
    admin: Arc<Admin>,
    requests: mpsc::Receiver<Ask>,
    upgrades: mpsc::Receiver<Taker>,
    ways: Ways,
    keeper: Keeper,
    /// It has been said.
    is_ready: bool,
}

/// What the process is told.
struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits until somebody wants it to end, in either way.
    async fn end(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// How the process was told to end.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Stop {
    /// By whoever sends it requests, too: they need time to look away.
    Gracefully,
    /// By somebody at a terminal.
    Now,
    /// By another process, which goes on with this.
    HandedOver(Taken),
}

impl Control {
    async fn run(mut self) {
        let mut watch = Watch::new();
        // Whatever changed since the first reading was seen by nobody; this looks once more.
        watch.follow(self.reloader.watched().folders());
        let mut poll = tokio::time::interval(POLL);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut signature = Signature::of(&self.reloader.watched());
        let stop = loop {
            let Reload { watch: is_watching, debounce, max_wait, .. } =
                self.admin.in_force.with(|generation| generation.config.gateway.reload.clone());
            let (mut askers, mut rollback, mut seen) = (Vec::new(), None, Seen::Settled);
            tokio::select! {
                _ = self.signals.terminate.recv() => break Stop::Gracefully,
                _ = self.signals.interrupt.recv() => break Stop::Now,
                _ = self.signals.hangup.recv() => {}
                Some(ask) = self.requests.recv() => match ask {
                    Ask::Reload(asker) => askers.push(asker),
                    Ask::Rollback(to, asker) => rollback = Some((to, asker)),
                },
                Some(taker) = self.upgrades.recv() => match self.hand_over(taker).await {
                    Some(stop) => break stop,
                    None => continue,
                },
                it = watch.changed(debounce, max_wait), if is_watching => seen = it,
                () = has_keys(&self.admin), if !self.is_ready => {
                    self.is_ready = true;
                    info!(generation = self.admin.in_force.with(|generation| generation.number), "{READY}");
                    continue;
                }
                _ = poll.tick() => {
                    self.reloader.clear_tombstones();
                    if !is_watching {
                        continue;
                    }
                    let watched = self.reloader.watched();
                    watch.follow(watched.folders());
                    if Signature::of(&watched) != signature {
                        watch.look(); // A file may be half written; this waits as any change does.
                    }
                    continue;
                }
            }
            if let Some((to, asker)) = rollback {
                let result = tokio::select! {
                    result = self.reloader.rollback(to, &self.workers) => result,
                    _ = self.signals.terminate.recv() => break Stop::Gracefully,
                    _ = self.signals.interrupt.recv() => break Stop::Now,
                };
                let _ = asker.send(result); // The asker may have gone.
                continue;
            }
            if seen == Seen::Early {
                let before = Signature::of(&self.reloader.watched());
                let is_taken = tokio::select! {
                    is_taken = self.reloader.reload_early(&before, &self.workers) => is_taken,
                    _ = self.signals.terminate.recv() => break Stop::Gracefully,
                    _ = self.signals.interrupt.recv() => break Stop::Now,
                };
                if is_taken {
                    watch.taken();
                    signature = before;
                    watch.follow(self.reloader.watched().folders());
                }
                continue;
            }
            // One reading for all of them; whoever wants to go back has a turn of its own.
            while let Ok(ask) = self.requests.try_recv() {
                match ask {
                    Ask::Reload(asker) => askers.push(asker),
                    Ask::Rollback(_, asker) => {
                        let _ = asker.send(Err("a reload is under way: ask again\n".to_owned()));
                    }
                }
            }
            signature = Signature::of(&self.reloader.watched()); // Before reading: a later change is seen again.
            // A file may be on a disk that does not answer.
            let result = tokio::select! {
                result = self.reloader.reload(&self.workers) => result,
                _ = self.signals.terminate.recv() => break Stop::Gracefully,
                _ = self.signals.interrupt.recv() => break Stop::Now,
            };
            watch.follow(self.reloader.watched().folders());
            for asker in askers {
                let _ = asker.send(result); // The asker may have gone.
            }
        };
        self.drain(stop).await;
    }

    /// Hands over, unless the other process fails to take it, or this one is told to end meanwhile: then nothing has
    /// happened. Nothing is reloaded in this time.
    async fn hand_over(&mut self, taker: Taker) -> Option<Stop> {
        let pid = taker.pid;
        info!(to = pid, "another process wants to take over");
        let prepared = self.sockets().and_then(|sockets| Ok((sockets, taker.hang_up()?)));
        let (sockets, hang_up) = match prepared {
            Ok(prepared) => prepared,
            Err(error) => {
                warn!(to = pid, "this process goes on: it cannot hand its sockets over: {error}");
                return None;
            }
        };
        let generation = self.admin.in_force.get();
        self.admin.is_handing_over.store(true, Relaxed);
        let mut handing = tokio::task::spawn_blocking(move || taker.hand_over(&sockets, &generation.state));
        let (told, handed) = tokio::select! {
            handed = &mut handing => (None, handed),
            _ = self.signals.terminate.recv() => (Some(Stop::Gracefully), hung_up(hang_up, handing).await),
            _ = self.signals.interrupt.recv() => (Some(Stop::Now), hung_up(hang_up, handing).await),
        };
        match (handed, told) {
            // Nothing is done by hand any more, until the end.
            (Ok(Ok(taken)), _) => {
                self.workers.leave_files(&taken.listeners);
                return Some(Stop::HandedOver(taken));
            }
            (_, Some(told)) => {
                self.admin.is_handing_over.store(false, Relaxed);
                return Some(told);
            }
            (Ok(Err(trouble)), None) => warn!(to = pid, "this process goes on: {trouble}"),
            (Err(_), None) => warn!(to = pid, "this process goes on: handing over panicked"),
        }
        self.admin.is_handing_over.store(false, Relaxed);
        if !self.ways.are_there() {
            warn!(
                "the other process has put its own sockets in the place of ours: restart this one to have them again"
            );
        }
        None
    }

    fn sockets(&self) -> std::io::Result<Sockets> {
        let admin = self.ways.admin.as_ref();
        let copy =
            |(address, socket): &(SocketAddr, OwnedFd)| std::io::Result::Ok((*address, socket.try_clone()?));
        let admin = admin.map(copy).transpose()?;
        let files = self.ways.files.iter().filter_map(SocketFile::identity).chain(self.workers.files());
        let files = files.collect();
        Ok(Sockets { listeners: self.workers.copies()?, admin, files })
    }

    async fn drain(mut self, stop: Stop) {
        let generation = self.admin.in_force.get();
        let says = generation.config.gateway.drain.clone();
        let grace = if stop == Stop::Gracefully { says.grace } else { Duration::ZERO };
        self.requests.close(); // Whoever asks for a reload from now on, or still waits for one, hears of it.
        while self.requests.try_recv().is_ok() {}
        self.keeper.stop();
        let open = self.workers.shared().open_connections();
        let end = Instant::now() + says.deadline;
        self.admin.drain.begin(end);
        let Signals { terminate, interrupt, .. } = &mut self.signals;
        let ended = async {
            if let Stop::HandedOver(taken) = &stop {
                info!(deadline = ?says.deadline, connections = open, "handed over; draining");
                self.ways.close();
                drain::handed_over(
                    &self.workers,
                    &generation,
                    &self.admin.drain,
                    taken,
                    (end, says.deadline),
                )
                .await;
                tokio::time::sleep(ON_ITS_WAY).await;
            } else {
                service_manager::say_stopping();
                info!(?grace, deadline = ?says.deadline, connections = open, "draining");
                drain::drained(&self.workers, &generation, &self.admin.drain, grace, (end, says.deadline))
                    .await;
            }
        };
        tokio::select! {
            () = ended => {}
            _ = terminate.recv() => warn!("a second signal: cutting off what is left"),
            _ = interrupt.recv() => warn!("a second signal: cutting off what is left"),
        }
        let cut = self.workers.shared().open_connections();
        self.workers.stop();
        generation.state.flush(FLUSH).await;
        if !matches!(stop, Stop::HandedOver(_)) {
            self.keeper.write_last().await; // Else the file is the other process's.
        }
        info!(cut, "stopped");
    }
}

/// The other process hears that it does not take over, unless it has just done so.
async fn hung_up<T>(hang_up: HangUp, handing: JoinHandle<T>) -> Result<T, JoinError> {
    drop(hang_up);
    handing.await // It has little to say, and nothing to wait for.
}

/// A reload may change which keys are waited for.
async fn has_keys(admin: &Admin) {
    while !admin.waits_for().is_empty() {
        tokio::time::sleep(LOOK).await;
    }
}
