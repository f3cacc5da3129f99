//! Putting generations in force: the first one, and every change of the files after it.
//!
//! `files changed → read → check each → check together → assemble → tests → bind new listeners →
//! swap one pointer`. Whatever fails before the swap leaves the generation before in force, whole.

use std::{
    collections::BTreeSet,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, Weak},
    time::{Duration, SystemTime},
};

use serde_json::{Value, json};
use tokio::time::Instant;
use tracing::{error, info, warn};

use crate::{
    carry::{Change, What},
    config::{self, Held, Loaded, Sources, Watched, checked::Config},
    generation::{Generation, InForce, Served},
    observe::{Metrics, ReloadResult},
    prepare::{Before, Prepared, Refusal},
    upstream::Connector,
    worker::Workers,
};

/// What the outside may know of reloads.
#[derive(Debug, Default)]
pub struct Status(Mutex<StatusInner>);

#[derive(Debug, Default)]
struct StatusInner {
    held: Vec<String>,
    last_error: Option<String>,
    report: Vec<String>,
    alive: Vec<(u64, Vec<Weak<Served>>)>,
}

impl Status {
    /// Files that are wrong and held at an earlier version.
    pub fn held(&self) -> Vec<String> {
        self.with(|inner| inner.held.clone())
    }

    /// How many generations still serve something.
    pub fn alive(&self) -> usize {
        self.with(|inner| {
            inner.alive.retain(|(_, served)| served.iter().any(|served| served.strong_count() > 0));
            inner.alive.len()
        })
    }

    /// The last reload, for `/readyz` and `/config`.
    pub fn to_json(&self) -> Value {
        self.with(|inner| json!({"held": inner.held, "last_error": inner.last_error, "report": inner.report}))
    }

    fn track(&self, generation: &Generation) {
        let served = generation.workers.iter().flat_map(|worker| worker.values()).map(Arc::downgrade);
        self.with(|inner| inner.alive.push((generation.number, served.collect())));
    }

    fn with<T>(&self, look: impl FnOnce(&mut StatusInner) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Puts generations in force.
#[derive(Debug)]
pub struct Reloader {
    entry: PathBuf,
    sources: Sources,
    /// Where the last attempt looked: if it was refused, there it will be mended.
    attempted: Watched,
    held: Vec<Held>,
    in_force: Arc<InForce>,
    metrics: Arc<Metrics>,
    connector: Connector,
    status: Arc<Status>,
    /// What was last said of a refusal, so that it is said once and not at each look.
    refused: Option<String>,
}

impl Reloader {
    /// Goes on from the first generation, which is in force.
    pub fn new(
        entry: &Path,
        sources: Sources,
        in_force: Arc<InForce>,
        metrics: Arc<Metrics>,
        connector: Connector,
    ) -> Self {
        let status = Arc::new(Status::default());
        in_force.with(|generation| {
            status.track(generation);
            metrics.in_force(generation.number, 0);
        });
        Self {
            entry: entry.into(),
            attempted: sources.watched(),
            sources,
            held: Vec::new(),
            in_force,
            metrics,
            connector,
            status,
            refused: None,
        }
    }

    /// What the outside may know.
    pub fn status(&self) -> Arc<Status> {
        Arc::clone(&self.status)
    }

    /// Where a change would be noticed.
    pub fn watched(&self) -> Watched {
        self.sources.watched().and(&self.attempted)
    }

    /// Reads the files, and puts what they say in force if it is right and new.
    pub async fn reload(&mut self, workers: &Workers) -> ReloadResult {
        let result = match self.try_reload(workers).await {
            Ok(result) => {
                self.refused = None;
                self.status.with(|inner| inner.last_error = None);
                result
            }
            Err(refusal) => {
                self.refuse(&refusal);
                ReloadResult::Refused
            }
        };
        self.metrics.reloaded(result);
        result
    }

    fn refuse(&mut self, refusal: &Refusal) {
        let text = refusal.to_string();
        if self.refused.as_ref() != Some(&text) {
            let generation = self.in_force.with(|generation| generation.number);
            error!(
                generation,
                problems = refusal.count(),
                "the change is refused; generation {generation} stays in force\n{text}"
            );
        }
        self.refused = Some(text.clone());
        self.status.with(|inner| inner.last_error = Some(text));
    }

    async fn try_reload(&mut self, workers: &Workers) -> Result<ReloadResult, Refusal> {
        let current = self.in_force.get();
        let (attempted, next) = self.next(&current).await?;
        self.attempted = attempted;
        let Prepared { generation, sources, held, warnings } = match next? {
            Next::New(prepared) => *prepared,
            Next::Same(loaded) => {
                self.say_held(&loaded.held);
                self.sources = loaded.sources;
                return Ok(ReloadResult::Unchanged);
            }
        };
        self.say_held(&held);
        let (added, removed) = listeners(&current.config, &generation.config);
        let bound = added
            .into_iter()
            .map(|address| workers.bind(address).map_err(|error| Refusal::Bind(address, error)));
        let bound = bound.collect::<Result<Vec<_>, _>>()?;
        say_restart(&current.config, &generation.config);
        if warnings.iter().next().is_some() {
            warn!("{}", warnings.render(false));
        }
        let (number, hash) = (generation.number, generation.config.hash);
        let summary = summarize(&generation.report);
        let report =
            generation.report.iter().filter(|change| change.what != What::Kept).map(ToString::to_string);
        let report = report.collect::<Vec<_>>();
        self.status.track(&generation);
        let gone = self.in_force.swap(generation);
        for bound in bound {
            workers.listen(bound);
        }
        for address in removed {
            workers.unlisten(address);
        }
        self.forget_routes(&gone);
        self.metrics.in_force(number, held.len());
        info!(generation = number, hash = %format_args!("{hash:016x}"), "{summary}");
        self.status.with(|inner| inner.report = report);
        self.sources = sources;
        Ok(ReloadResult::Applied)
    }

    /// Forgets what is buried and has no history left. Each reload does that, too; this is for the time
    /// between them.
    pub fn clear_tombstones(&self) {
        let current = self.in_force.get();
        if let Some(state) = current.state.without_expired(Instant::now()) {
            self.in_force.swap(Generation { state, ..(*current).clone() });
        }
    }

    /// Reads the files and prepares what they say, where neither requests nor the admin port wait for it.
    async fn next(&self, current: &Arc<Generation>) -> Result<(Watched, Result<Next, Refusal>), Refusal> {
        let (entry, sources, current) = (self.entry.clone(), self.sources.clone(), Arc::clone(current));
        let (metrics, connector) = (Arc::clone(&self.metrics), self.connector.clone());
        let next = tokio::task::spawn_blocking(move || {
            let (attempted, loaded) = config::look(&entry, Some(&sources));
            let before = Before {
                entry: &entry,
                sources: Some(&sources),
                state: &|_| current.state.clone(),
                number: current.number + 1,
            };
            let next = loaded.map_err(Refusal::Config).and_then(|loaded| {
                if loaded.config.hash == current.config.hash {
                    return Ok(Next::Same(Box::new(loaded)));
                }
                before.prepare(loaded, &metrics, &connector).map(|prepared| Next::New(Box::new(prepared)))
            });
            (attempted, next)
        });
        next.await.map_err(|_| Refusal::Panic)
    }

    fn say_held(&mut self, held: &[Held]) {
        for one in held {
            let is_new = !self.held.iter().any(|old| {
                old.file == one.file && old.diagnostics.render(false) == one.diagnostics.render(false)
            });
            if is_new {
                let file = one.file.display();
                error!(%file, "the file is wrong; its last accepted version stays in force\n{}", one.diagnostics.render(false));
            }
        }
        self.held = held.to_vec();
        self.status
            .with(|inner| inner.held = held.iter().map(|one| one.file.display().to_string()).collect());
    }

    fn forget_routes(&self, gone: &Generation) {
        self.in_force.with(|generation| {
            let is_gone = |name: &&Arc<str>| !generation.config.routes.contains_key(*name);
            gone.config.routes.keys().filter(is_gone).for_each(|name| self.metrics.forget_route(name));
        });
    }
}

/// What the files say.
enum Next {
    /// The texts that are in force.
    Same(Box<Loaded>),
    /// Something else.
    New(Box<Prepared>),
}

/// Addresses that are new, and addresses that are gone.
fn listeners(old: &Config, new: &Config) -> (Vec<SocketAddr>, Vec<SocketAddr>) {
    let addresses = |config: &Config| config.listeners.values().map(|is| is.listen).collect::<BTreeSet<_>>();
    let (old, new) = (addresses(old), addresses(new));
    (new.difference(&old).copied().collect(), old.difference(&new).copied().collect())
}

fn say_restart(old: &Config, new: &Config) {
    let (old, new) = (&old.gateway, &new.gateway);
    let keys = [
        ("gateway.workers", old.workers != new.workers),
        ("gateway.admin", old.admin != new.admin),
        ("gateway.limits.connections", old.limits.connections != new.limits.connections),
    ];
    for (key, _) in keys.iter().filter(|(_, is_changed)| *is_changed) {
        warn!("`{key}` was changed; it takes effect at the next start");
    }
}

/// One line: `generation in force: 2 rate_limits kept, 1 migrated; …`.
fn summarize(report: &[Change]) -> String {
    let kinds = report.iter().map(|change| change.kind).collect::<BTreeSet<_>>();
    let of_kind = |kind: &&str| {
        let all = [What::Kept, What::Migrated, What::Created, What::Restored, What::Buried, What::Dropped];
        let counts = all.iter().filter_map(|what| {
            let count = report.iter().filter(|change| change.kind == *kind && change.what == *what).count();
            (count > 0).then(|| format!("{count} {}", what.word()))
        });
        format!("{kind}: {}", counts.collect::<Vec<_>>().join(", "))
    };
    let kinds = kinds.iter().map(of_kind).collect::<Vec<_>>().join("; ");
    format!("a new generation is in force; {kinds}")
}

/// A cheap fingerprint of what is watched: names, sizes and times, links followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature(Vec<(PathBuf, u64, Option<SystemTime>)>);

impl Signature {
    /// Of everything a configuration was read from, or could be.
    pub fn of(watched: &Watched) -> Self {
        let in_dirs = watched.dirs.iter().filter_map(|dir| fs::read_dir(dir).ok());
        let in_dirs = in_dirs.flatten().filter_map(Result::ok).map(|entry| entry.path()).take(MAX_WATCHED);
        let mut paths = watched.files.iter().cloned().chain(in_dirs).collect::<Vec<_>>();
        paths.sort();
        paths.dedup();
        let look = |path: PathBuf| {
            let known = fs::metadata(&path).ok();
            let len = known.as_ref().map_or(0, fs::Metadata::len);
            (path, len, known.and_then(|known| known.modified().ok()))
        };
        Self(paths.into_iter().map(look).collect())
    }
}

/// Files in watched folders beyond this are not looked at by the poll.
const MAX_WATCHED: usize = 10_000;

/// How often the files are looked at besides being watched: a watch sees nothing on some mounts.
pub const POLL: Duration = Duration::from_secs(10);
