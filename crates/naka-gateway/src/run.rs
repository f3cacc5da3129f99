//! `naka run`: from the first configuration to the last connection.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
    time::{Instant, MissedTickBehavior, timeout_at},
};
use tracing::{info, warn};

use crate::{
    admin::{self, Admin, Ask, Listener},
    admin_socket::Socket,
    config::checked::Reload,
    custom::Kinds,
    generation::{Generation, InForce},
    observe::Metrics,
    prepare::{Before, Outside, Refusal, RunTests, prepare},
    reload::{POLL, Reloader, Signature},
    shared::Shared,
    state::State,
    watch::Watch,
    worker::{Workers, count},
};

/// Why the process did not come up.
#[derive(Debug)]
pub enum Failure {
    /// The configuration cannot be put in force.
    Refused(Refusal),
    /// The system refused something.
    Io(&'static str, std::io::Error),
}

/// Runs the configuration of this entry file until told to stop, on this thread and those of the workers; `kinds` of policies are there
/// beside those that are built in.
///
/// # Errors
/// If it does not come up. Once it has, it ends by a signal.
pub fn run(entry: &Path, kinds: &Kinds) -> Result<(), Failure> {
    let metrics = Arc::new(Metrics::new());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::Io("a runtime", error))?;
    let ended = runtime.block_on(start(entry, kinds, metrics));
    runtime.shutdown_background(); // A file that is still being read is not waited for.
    ended
}

async fn start(entry: &Path, kinds: &Kinds, metrics: Arc<Metrics>) -> Result<(), Failure> {
    let before = Before {
        entry,
        sources: None,
        state: &|config| State::new(count(config.gateway.workers)),
        number: 1,
        tests: RunTests::AsConfigured,
        kinds,
    };
    let first = prepare(&before, &metrics, &Outside::default()).map_err(Failure::Refused)?;
    if first.warnings.iter().next().is_some() {
        warn!("{}", first.warnings.render(false));
    }
    let config = Arc::clone(&first.generation.config);
    let (workers_count, hash) = (first.generation.workers.len(), first.generation.hash());
    let in_force = InForce::new(first.generation);
    let shared = Shared::new(Arc::clone(&in_force), Arc::clone(&metrics), workers_count);
    let workers =
        Workers::start(&shared, config.gateway.workers).map_err(|error| Failure::Io("a worker", error))?;
    let signals = Signals::listen().map_err(|error| Failure::Io("a signal handler", error))?;
    let cannot = |address| move |error| Failure::Refused(Refusal::Bind(address, error));
    let said = config.gateway.admin.as_ref();
    let admin_listener = match said.map(|admin| admin.listen) {
        Some(address) => Some((address, TcpListener::bind(address).await.map_err(cannot(address))?)),
        None => None,
    };
    let admin_socket = said.and_then(|admin| admin.socket.as_deref()).map(Socket::bind).transpose();
    let admin_socket = admin_socket.map_err(|error| Failure::Io("`gateway.admin.socket`", error))?;
    // All or none: nobody can connect until it is clear that everything comes up.
    let addresses = config.listeners.values().map(|listener| listener.listen);
    let bound = addresses.map(|address| workers.bind(address, &[]).map_err(cannot(address)));
    let bound = bound.collect::<Result<Vec<_>, _>>()?;
    let reloader =
        Reloader::new(entry, first.sources, Arc::clone(&in_force), Arc::clone(&metrics), Outside::default());
    let (ask, requests) = mpsc::channel(16);
    let admin = Arc::new(Admin {
        in_force,
        metrics,
        status: reloader.status(),
        is_draining: AtomicBool::new(false),
        has_begun: AtomicBool::new(false),
        ask,
    });
    let open = bound.into_iter().map(|bound| {
        let name = bound.name;
        bound.open().map_err(cannot(name))
    });
    let open = open.collect::<Result<Vec<_>, _>>()?;
    admin.in_force.with(Generation::start); // Not before: what does not come up asks nobody.
    admin.in_force.get().state.found().await;
    for open in open {
        workers.accept(open);
    }
    if let Some((address, listener)) = admin_listener {
        info!(%address, "admin port");
        tokio::spawn(admin::serve(Arc::clone(&admin), Listener::Address(listener)));
    }
    let _until_the_end = admin_socket.map(|Socket { listener, file }| {
        tokio::spawn(admin::serve(Arc::clone(&admin), Listener::Socket(listener)));
        file
    });
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
    Control { signals, reloader, workers, admin, requests, is_ready }.run().await;
    Ok(())
}

/// What is said once everything is there.
const READY: &str = "naka is ready";

/// How often it is looked whether the first keys are there.
const LOOK: Duration = Duration::from_millis(100);

/// Whoever reacts: to signals, to changed files, to the admin port.
struct Control {
    signals: Signals,
    reloader: Reloader,
    workers: Workers,
    admin: Arc<Admin>,
    requests: mpsc::Receiver<Ask>,
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
}

/// How the process was told to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    /// By whoever sends it requests, too: they need time to look away.
    Gracefully,
    /// By somebody at a terminal.
    Now,
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
            let (mut askers, mut rollback) = (Vec::new(), None);
            tokio::select! {
                _ = self.signals.terminate.recv() => break Stop::Gracefully,
                _ = self.signals.interrupt.recv() => break Stop::Now,
                _ = self.signals.hangup.recv() => {}
                Some(ask) = self.requests.recv() => match ask {
                    Ask::Reload(asker) => askers.push(asker),
                    Ask::Rollback(to, asker) => rollback = Some((to, asker)),
                },
                () = watch.changed(debounce, max_wait), if is_watching => {}
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

    async fn drain(mut self, stop: Stop) {
        let generation = self.admin.in_force.get();
        let drain = generation.config.gateway.drain.clone();
        let grace = if stop == Stop::Now { Duration::ZERO } else { drain.grace };
        self.admin.is_draining.store(true, Relaxed);
        self.requests.close(); // Whoever asks for a reload from now on, or still waits for one, hears of it.
        while self.requests.try_recv().is_ok() {}
        let open = self.workers.shared().open_connections();
        info!(?grace, deadline = ?drain.deadline, connections = open, "draining");
        let end = Instant::now() + drain.deadline;
        let Signals { terminate, interrupt, .. } = &mut self.signals;
        tokio::select! {
            () = drained(&self.workers, &generation, grace, end) => {}
            _ = terminate.recv() => warn!("a second signal: cutting off what is left"),
            _ = interrupt.recv() => warn!("a second signal: cutting off what is left"),
        }
        let cut = self.workers.shared().open_connections();
        self.workers.stop();
        info!(cut, "stopped");
    }
}

/// A reload may change which keys are waited for.
async fn has_keys(admin: &Admin) {
    while !admin.waits_for().is_empty() {
        tokio::time::sleep(LOOK).await;
    }
}

async fn drained(workers: &Workers, generation: &Generation, grace: Duration, end: Instant) {
    tokio::time::sleep_until(end.min(Instant::now() + grace)).await;
    for listener in generation.config.listeners.values() {
        let _ = timeout_at(end, workers.unlisten(listener.listen)).await; // Late: it is stopped below.
    }
    workers.drain();
    while workers.shared().open_connections() > 0 && Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
