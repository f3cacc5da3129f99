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
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    time::{Instant, MissedTickBehavior},
};
use tracing::{info, warn};

use crate::{
    admin::{self, Admin, ReloadRequest},
    assemble::State,
    config::checked::Reload,
    generation::InForce,
    observe::Metrics,
    prepare::{Before, Refusal, RunTests, prepare},
    reload::{POLL, Reloader, Signature},
    upstream::Connector,
    watch::Watch,
    worker::{Shared, Workers, count},
};

/// Why the process did not come up.
#[derive(Debug)]
pub enum Failure {
    /// The configuration cannot be put in force.
    Refused(Refusal),
    /// The system refused something.
    Io(&'static str, std::io::Error),
}

/// Runs the configuration of this entry file until told to stop, on this thread and those of the workers.
///
/// # Errors
/// If it does not come up. Once it has, it ends by a signal.
pub fn run(entry: &Path) -> Result<(), Failure> {
    let metrics = Arc::new(Metrics::new());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| Failure::Io("a runtime", error))?.block_on(start(entry, metrics))
}

async fn start(entry: &Path, metrics: Arc<Metrics>) -> Result<(), Failure> {
    let before = Before {
        entry,
        sources: None,
        state: &|config| State::new(count(config.gateway.workers)),
        number: 1,
        tests: RunTests::AsConfigured,
    };
    let first = prepare(&before, &metrics, &Connector::Tcp).map_err(Failure::Refused)?;
    if first.warnings.iter().next().is_some() {
        warn!("{}", first.warnings.render(false));
    }
    let config = Arc::clone(&first.generation.config);
    let (workers_count, hash) = (first.generation.workers.len(), first.generation.hash());
    let in_force = InForce::new(first.generation);
    let shared = Shared::new(Arc::clone(&in_force), Arc::clone(&metrics), workers_count);
    let workers =
        Workers::start(&shared, config.gateway.workers).map_err(|error| Failure::Io("a worker", error))?;
    let cannot = |address| move |error| Failure::Refused(Refusal::Bind(address, error));
    let admin_socket = match config.gateway.admin {
        Some(address) => Some((address, TcpListener::bind(address).await.map_err(cannot(address))?)),
        None => None,
    };
    // All or none: nobody can connect until it is clear that everything comes up.
    let addresses = config.listeners.values().map(|listener| listener.listen);
    let bound = addresses.map(|address| workers.bind(address).map_err(cannot(address)));
    let bound = bound.collect::<Result<Vec<_>, _>>()?;
    let reloader =
        Reloader::new(entry, first.sources, Arc::clone(&in_force), Arc::clone(&metrics), Connector::Tcp);
    let (reload, requests) = mpsc::channel(16);
    let admin = Arc::new(Admin {
        in_force,
        metrics,
        status: reloader.status(),
        is_draining: AtomicBool::new(false),
        reload,
    });
    let open = bound.into_iter().map(|bound| {
        let name = bound.name;
        bound.open().map_err(cannot(name))
    });
    for open in open.collect::<Result<Vec<_>, _>>()? {
        workers.accept(open);
    }
    if let Some((address, socket)) = admin_socket {
        info!(%address, "admin port");
        tokio::spawn(admin::serve(Arc::clone(&admin), socket));
    }
    info!(generation = 1, hash, workers = workers_count, routes = config.routes.len(), "naka is ready");
    let control = Control { reloader, workers, admin, requests };
    control.run().await.map_err(|error| Failure::Io("a signal handler", error))
}

/// Whoever reacts: to signals, to changed files, to the admin port.
struct Control {
    reloader: Reloader,
    workers: Workers,
    admin: Arc<Admin>,
    requests: mpsc::Receiver<ReloadRequest>,
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
    async fn run(mut self) -> std::io::Result<()> {
        let mut hangup = signal(SignalKind::hangup())?;
        let (mut terminate, mut interrupt) =
            (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let mut watch = Watch::new();
        // Whatever changed since the first reading was seen by nobody; this looks once more.
        watch.follow(self.reloader.watched().folders());
        let mut poll = tokio::time::interval(POLL);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut signature = Signature::of(&self.reloader.watched());
        let stop = loop {
            let Reload { watch: is_watching, debounce, max_wait, .. } =
                self.admin.in_force.with(|generation| generation.config.gateway.reload.clone());
            let mut askers = Vec::new();
            tokio::select! {
                _ = terminate.recv() => break Stop::Gracefully,
                _ = interrupt.recv() => break Stop::Now,
                _ = hangup.recv() => {}
                Some(asker) = self.requests.recv() => askers.push(asker),
                () = watch.changed(debounce, max_wait), if is_watching => {}
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
            askers.extend(std::iter::from_fn(|| self.requests.try_recv().ok())); // One reading for all of them.
            signature = Signature::of(&self.reloader.watched()); // Before reading: a later change is seen again.
            let result = self.reloader.reload(&self.workers).await;
            watch.follow(self.reloader.watched().folders());
            for asker in askers {
                let _ = asker.send(result); // The asker may have gone.
            }
        };
        self.drain(stop, &mut terminate, &mut interrupt).await;
        Ok(())
    }

    async fn drain(
        mut self,
        stop: Stop,
        terminate: &mut tokio::signal::unix::Signal,
        interrupt: &mut tokio::signal::unix::Signal,
    ) {
        let generation = self.admin.in_force.get();
        let drain = generation.config.gateway.drain.clone();
        let grace = if stop == Stop::Now { Duration::ZERO } else { drain.grace };
        self.admin.is_draining.store(true, Relaxed);
        self.requests.close(); // Whoever asks for a reload from now on, or still waits for one, hears of it.
        while self.requests.try_recv().is_ok() {}
        let open = self.workers.shared().open_connections();
        info!(?grace, deadline = ?drain.deadline, connections = open, "draining");
        let end = Instant::now() + drain.deadline;
        tokio::select! {
            () = self.drained(&generation, grace, end) => {}
            _ = terminate.recv() => warn!("a second signal: cutting off what is left"),
            _ = interrupt.recv() => warn!("a second signal: cutting off what is left"),
        }
        let cut = self.workers.shared().open_connections();
        self.workers.stop();
        info!(cut, "stopped");
    }

    async fn drained(&self, generation: &crate::generation::Generation, grace: Duration, end: Instant) {
        tokio::time::sleep_until(end.min(Instant::now() + grace)).await;
        for listener in generation.config.listeners.values() {
            self.workers.unlisten(listener.listen).await;
        }
        self.workers.drain();
        while self.workers.shared().open_connections() > 0 && Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
