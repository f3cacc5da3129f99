//! Putting generations in force: the first one, and every change of the files after it.
//!
//! `files changed → read → check each → check together → assemble → tests → bind new listeners →
//! swap one pointer`. Whatever fails before the swap leaves the generation before in force, whole.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fs, mem,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, Weak},
    time::{Duration, SystemTime},
};

use naka::clock::{Now, WallClock};
use serde_json::{Value, json};
use tokio::time::Instant;
use tracing::{error, info, warn};

use crate::{
    address::Address,
    carry::{Change, What},
    config::{
        Held, Loaded, Outline, Sources, Watched,
        checked::{Auth, Config, Gateway, Name, Route},
        show_time,
    },
    generation::{Generation, InForce},
    observe::{Metrics, OfUpstream, ReloadResult},
    prepare::{Before, Outside, Prepared, Refusal, RunTests, again, look},
    worker::Workers,
};

/// Lines of a reload's report that `/readyz` shows.
const REPORTED: usize = 100;
/// What is kept of the text of a refusal, in bytes.
const TEXT: usize = 64 << 10;

/// What the outside may know of reloads.
#[derive(Debug, Default)]
pub struct Status {
    inner: Mutex<StatusInner>,
    /// Held by whoever reads the texts in force once more: one at a time.
    reading: Mutex<()>,
}

#[derive(Debug, Default)]
struct StatusInner {
    held: Vec<String>,
    last_error: Option<LastError>,
    report: Vec<String>,
    alive: Vec<Weak<()>>,
    kept: Vec<Value>,
    rolled_back: Option<String>,
    /// The texts in force, and the number of their generation.
    in_force: Option<(u64, Sources)>,
}

#[derive(Debug)]
struct LastError {
    problems: usize,
    first: String,
    text: String,
}

impl Status {
    /// Files that are wrong and held at an earlier version.
    pub fn held(&self) -> Vec<String> {
        self.with(|inner| inner.held.clone())
    }

    /// How many generations still serve something.
    pub fn alive(&self) -> usize {
        self.with(|inner| {
            inner.alive.retain(|generation| generation.strong_count() > 0);
            inner.alive.len()
        })
    }

    /// The last reload in short, for machines that ask often.
    pub fn to_json(&self) -> Value {
        self.with(|inner| {
            let error = |error: &LastError| json!({"problems": error.problems, "first": error.first});
            let report = inner.report.iter().take(REPORTED).map(String::as_str);
            let more = inner.report.len().saturating_sub(REPORTED);
            let more = (more > 0).then(|| format!("and {more} more"));
            let report = report.chain(more.as_deref()).collect::<Vec<_>>();
            json!({
                "held": inner.held,
                "last_error": inner.last_error.as_ref().map(error),
                "report": report,
                "rolled_back": inner.rolled_back,
            })
        })
    }

    /// Everything that is wrong with the files, as it was logged; nothing if they are in force.
    pub fn last_error(&self) -> Option<String> {
        self.with(|inner| Some(inner.last_error.as_ref()?.text.clone()))
    }

    /// Those that can be rolled back to, the latest first.
    pub fn generations(&self) -> Value {
        self.with(|inner| json!({"rolled_back": inner.rolled_back, "generations": inner.kept}))
    }

    /// What the texts of a generation say, key by key; nothing, if it is not in force any more. It takes as long as reading them.
    pub fn outline(&self, generation: u64) -> Option<Outline> {
        let _one = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        let sources = self.with(|inner| inner.in_force.clone());
        sources.filter(|(number, _)| *number == generation).map(|(_, sources)| sources.outline())
    }

    /// These texts are in force now.
    fn follow(&self, generation: u64, sources: &Sources) {
        self.with(|inner| inner.in_force = Some((generation, sources.clone())));
    }

    /// What has ended is forgotten here too: what is left is bounded by the exchanges under way.
    fn track(&self, generation: &Generation) {
        self.alive();
        self.with(|inner| inner.alive.push(Arc::downgrade(&generation.alive)));
    }

    fn with<T>(&self, look: impl FnOnce(&mut StatusInner) -> T) -> T {
        look(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner))
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
    outside: Outside,
    status: Arc<Status>,
    /// What was last said of a refusal, so that it is said once and not at each look.
    refused: Option<String>,
    /// Earlier generations, the latest last.
    kept: VecDeque<Earlier>,
    /// What the files said when somebody went back: until they say something else, nothing of them takes effect.
    left: Option<u64>,
}

/// A generation that was in force.
#[derive(Debug)]
struct Earlier {
    number: u64,
    hash: String,
    sources: Sources,
    /// When it was no longer in force, in seconds since 1970.
    until_s: u64,
}

impl Reloader {
    /// Goes on from the first generation, which is in force.
    pub fn new(
        entry: &Path,
        sources: Sources,
        in_force: Arc<InForce>,
        metrics: Arc<Metrics>,
        outside: Outside,
    ) -> Self {
        let status = Arc::new(Status::default());
        in_force.with(|generation| {
            status.track(generation);
            status.follow(generation.number, &sources);
            metrics.in_force(generation.number, generation.hash(), &generation.config);
        });
        Self {
            entry: entry.into(),
            attempted: sources.watched(),
            sources,
            held: Vec::new(),
            in_force,
            metrics,
            outside,
            status,
            refused: None,
            kept: VecDeque::new(),
            left: None,
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
                if self.refused.take().is_some() && result == ReloadResult::Unchanged {
                    let generation = self.in_force.with(|generation| generation.number);
                    info!(generation, "the files are again what generation {generation} was made of");
                }
                self.status.with(|inner| inner.last_error = None);
                result
            }
            Err(refusal) => {
                self.refuse(&refusal);
                ReloadResult::Refused
            }
        };
        self.metrics.reloaded(result);
        self.forget();
        result
    }

    /// Reads the files while more of them may change, and puts what they say in force if it is right, new and whole for all
    /// one can know: no file changes meanwhile, none is held, it is not one of keys or passwords, and nothing that has a name, and no policy of a route, is gone, as
    /// it would be on its way to another file. Otherwise nothing is said of it. `signature` is of
    /// the files before that.
    pub async fn reload_early(&mut self, signature: &Signature, workers: &Workers) -> bool {
        let is_taken = self.try_early(signature, workers).await.unwrap_or_default();
        if is_taken {
            self.refused = None;
            self.status.with(|inner| inner.last_error = None);
            self.metrics.reloaded(ReloadResult::Applied);
        }
        self.forget();
        is_taken
    }

    async fn try_early(&mut self, signature: &Signature, workers: &Workers) -> Result<bool, Refusal> {
        let current = self.in_force.get();
        let (attempted, next) = self.next(&current).await?;
        let Next::New(prepared) = next? else { return Ok(false) };
        // Of keys and passwords in a file of their own nobody can tell whether they are all.
        let is_whole = prepared.held.is_empty()
            && !prepared.sources.has_texts_of(&self.sources)
            && has_all(&prepared.generation.config, &current.config);
        if !is_whole || Signature::of(&self.watched()) != *signature {
            return Ok(false);
        }
        self.put_in_force(*prepared, &current, workers).await?;
        self.attempted = attempted;
        self.follow();
        Ok(true)
    }

    /// Puts an earlier generation in force again, under a number of its own: that one, or the one before. Until the files say
    /// something else than they do now, they are left alone.
    ///
    /// # Errors
    /// Why nothing was done.
    pub async fn rollback(&mut self, to: Option<u64>, workers: &Workers) -> Result<u64, String> {
        let current = self.in_force.get();
        let place = match to {
            None => self.kept.len().checked_sub(1),
            Some(to) => self.kept.iter().position(|earlier| earlier.number == to),
        };
        let Some(earlier) = place.and_then(|place| self.kept.get(place)) else {
            let known =
                self.kept.iter().map(|earlier| earlier.number.to_string()).collect::<Vec<_>>().join(", ");
            return Err(match to {
                Some(to) if !known.is_empty() => format!("generation {to} is not kept; these are: {known}\n"),
                _ => "no earlier generation is kept\n".to_owned(),
            });
        };
        let (number, sources) = (earlier.number, earlier.sources.clone());
        let prepared = self.prepare_again(&sources, &current).await.map_err(|refusal| refusal.to_string())?;
        let token =
            |config: &Config| config.gateway.admin.as_ref().is_some_and(|admin| admin.token.is_some());
        if token(&current.config) && !token(&prepared.generation.config) {
            return Err(format!(
                "generation {number} has no `gateway.admin.token`, so nobody could change anything after that: change the file\n"
            ));
        }
        let (entry, kinds) = (self.entry.clone(), self.sources.kinds().clone());
        let looked = tokio::task::spawn_blocking(move || look(&entry, None, &kinds).0).await;
        self.attempted = looked.map_err(|_| Refusal::Panic.to_string())?;
        let files = self.attempted.texts;
        self.put_in_force(prepared, &current, workers).await.map_err(|refusal| refusal.to_string())?;
        self.left = Some(files);
        let from = current.number;
        let said = format!(
            "generation {number} is in force again, in place of {from}; what the files say is left alone until they change"
        );
        warn!("{said}");
        self.refused = None;
        self.status.with(|inner| {
            inner.rolled_back = Some(said);
            inner.last_error = None;
        });
        self.metrics.reloaded(ReloadResult::Applied);
        self.forget();
        Ok(number)
    }

    async fn prepare_again(&self, sources: &Sources, current: &Arc<Generation>) -> Result<Prepared, Refusal> {
        let (entry, sources, current) = (self.entry.clone(), sources.clone(), Arc::clone(current));
        let (metrics, outside) = (Arc::clone(&self.metrics), self.outside.clone());
        let prepared = tokio::task::spawn_blocking(move || {
            let loaded = again(&entry, &sources).map_err(Refusal::Config)?;
            let before = Before {
                entry: &entry,
                sources: Some(&sources),
                state: &|_| current.state.clone(),
                number: current.number + 1,
                kinds: sources.kinds(),
                tests: RunTests::Never, // They held when it took effect, and there is no time to mend them now.
            };
            before.prepare(loaded, &metrics, &outside)
        });
        prepared.await.map_err(|_| Refusal::Panic)?
    }

    /// What was in force until now can be rolled back to.
    fn keep(&mut self, before: &Generation, sources: &Sources, keep: usize) {
        self.kept.push_back(Earlier {
            number: before.number,
            hash: before.hash(),
            sources: sources.texts_only(),
            until_s: WallClock::system().unix_s(Now::read()),
        });
        while self.kept.len() > keep {
            self.kept.pop_front();
        }
        let shown = self.kept.iter().rev().map(|earlier| {
            json!({"generation": earlier.number, "hash": earlier.hash, "until": show_time(earlier.until_s)})
        });
        let shown = shown.collect();
        self.status.with(|inner| inner.kept = shown);
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
        let last = LastError { problems: refusal.count(), first: refusal.first(), text: cut(&text) };
        self.refused = Some(text);
        self.status.with(|inner| inner.last_error = Some(last));
    }

    async fn try_reload(&mut self, workers: &Workers) -> Result<ReloadResult, Refusal> {
        let current = self.in_force.get();
        let (attempted, next) = self.next(&current).await?;
        self.attempted = attempted;
        let prepared = match next? {
            Next::New(prepared) => *prepared,
            Next::Same(loaded) => {
                self.say_held(&loaded.held);
                self.sources = loaded.sources;
                self.follow();
                return Ok(ReloadResult::Unchanged);
            }
            Next::Left => return Ok(ReloadResult::Unchanged),
            Next::Documents(prepared) => {
                self.put_in_force(*prepared, &current, workers).await?;
                return Ok(ReloadResult::Applied);
            }
        };
        self.put_in_force(prepared, &current, workers).await?;
        self.follow();
        Ok(ReloadResult::Applied)
    }

    /// The files count again.
    fn follow(&mut self) {
        self.left = None;
        self.status.with(|inner| inner.rolled_back = None);
    }

    async fn put_in_force(
        &mut self,
        prepared: Prepared,
        current: &Generation,
        workers: &Workers,
    ) -> Result<(), Refusal> {
        let Prepared { generation, sources, held, warnings } = prepared;
        let (added, removed) = listeners(&current.config, &generation.config);
        let (old, new) = (modes(&current.config), modes(&generation.config));
        let ours = current.config.listeners.values().map(|is| is.listen.clone()).collect::<Vec<_>>();
        let bound = added.into_iter().map(|address| {
            workers.bind(&address, new[&address], &ours).map_err(|error| Refusal::Bind(address, error))
        });
        let bound = bound.collect::<Result<Vec<_>, _>>()?;
        let open = bound.into_iter().map(|bound| {
            let name = bound.name.clone();
            bound.open().map_err(|error| Refusal::Bind(name, error))
        });
        let open = open.collect::<Result<Vec<_>, _>>()?;
        self.say_held(&held); // Not before: what is refused holds nothing.
        say_restart(&current.config, &generation.config);
        say_weaker(&current.config, &generation.config);
        if warnings.iter().next().is_some() {
            warn!("{}", warnings.render(false));
        }
        for change in generation.report.iter().filter(|change| change.was.is_some()) {
            warn!("{change}: if it was renamed, it begins anew; under its old name it goes on");
        }
        let (number, hash) = (generation.number, generation.hash());
        let summary = summarize(&generation.report);
        let report =
            generation.report.iter().filter(|change| change.what != What::Kept).map(ToString::to_string);
        let report = report.collect::<Vec<_>>();
        generation.start();
        generation.state.found().await;
        self.status.track(&generation);
        self.status.follow(number, &sources);
        let keep = generation.config.gateway.reload.keep;
        let config = Arc::clone(&generation.config);
        // Who shall not connect any more does not under the new one, and who shall does not under the old one: it may trust them.
        let of_both = new.iter().filter_map(|(address, mode)| Some((address, *mode, *old.get(address)?)));
        let changed = of_both.filter(|(_, mode, before)| mode != before).collect::<Vec<_>>();
        for (address, mode, before) in &changed {
            workers.set_mode(address, mode & before);
        }
        self.in_force.swap(generation);
        for open in open {
            workers.accept(open);
        }
        for (address, mode, _) in changed {
            workers.set_mode(address, mode);
        }
        for address in removed {
            workers.unlisten(&address).await;
        }
        self.metrics.in_force(number, hash.clone(), &config);
        info!(generation = number, %hash, "{summary}");
        self.status.with(|inner| inner.report = report);
        let before = mem::replace(&mut self.sources, sources);
        self.keep(current, &before, keep);
        Ok(())
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
        let (metrics, outside, left) = (Arc::clone(&self.metrics), self.outside.clone(), self.left);
        let next = tokio::task::spawn_blocking(move || {
            let (attempted, loaded) = look(&entry, Some(&sources), sources.kinds());
            let before = Before {
                entry: &entry,
                sources: Some(&sources),
                state: &|_| current.state.clone(),
                number: current.number + 1,
                kinds: sources.kinds(),
                tests: RunTests::AsConfigured,
            };
            if left == Some(attempted.texts) {
                // Keys, tokens and passwords still change under what is in force.
                let next = again(&entry, &sources).map_err(Refusal::Config).and_then(|loaded| {
                    if loaded.config.hash == current.config.hash {
                        return Ok(Next::Left);
                    }
                    let prepared = before.prepare(loaded, &metrics, &outside);
                    prepared.map(|prepared| Next::Documents(Box::new(prepared)))
                });
                return (attempted, next);
            }
            let next = loaded.map_err(Refusal::Config).and_then(|loaded| {
                if loaded.config.hash == current.config.hash {
                    return Ok(Next::Same(Box::new(loaded)));
                }
                before.prepare(loaded, &metrics, &outside).map(|prepared| Next::New(Box::new(prepared)))
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
        self.metrics.held_files(held.len());
        self.status
            .with(|inner| inner.held = held.iter().map(|one| one.file.display().to_string()).collect());
    }

    /// What was only prepared and what is gone has metrics as well.
    fn forget(&self) {
        self.in_force.with(|generation| {
            let policies = generation.state.policies();
            self.metrics.keep(
                |route, template| {
                    let known = generation.config.routes.get(route);
                    known.is_some_and(|is| template.is_none_or(|it| *is.matches.path.template() == *it))
                },
                |policy| policies.contains(policy) || generation.config.policies.contains_key(policy),
                |split, arm| generation.state.has_arm(split, arm),
                |route, call| {
                    let route = generation.config.routes.get(route);
                    let calls = route.and_then(|route| route.destination.compose());
                    calls.is_some_and(|calls| calls.iter().any(|(name, _)| **name == *call))
                },
                |upstream, of| match of {
                    OfUpstream::Itself => generation.config.upstreams.contains_key(upstream),
                    OfUpstream::Checks => generation.state.checks.get(upstream).is_some(),
                    OfUpstream::Discovery => generation.state.discoveries.get(upstream).is_some(),
                },
                |store| generation.state.stores.get(store).is_some(),
            );
        });
    }
}

fn cut(text: &str) -> String {
    if text.len() <= TEXT {
        return text.to_owned();
    }
    format!("{}\n… and more; `naka check` says all of it\n", &text[..text.floor_char_boundary(TEXT)])
}

/// What the files say.
enum Next {
    /// The texts that are in force.
    Same(Box<Loaded>),
    /// Nothing but what somebody went back from.
    Left,
    /// That, and what is in force names documents that have changed.
    Documents(Box<Prepared>),
    /// Something else.
    New(Box<Prepared>),
}

/// Whether all that has a name in one configuration is in the other, and no route has lost a policy: that may be on its way
/// to another file.
fn has_all(config: &Config, before: &Config) -> bool {
    /// Both are in order.
    fn among<V, W>(names: &BTreeMap<Name, V>, before: &BTreeMap<Name, W>) -> bool {
        let mut names = names.keys();
        before.keys().all(|name| names.any(|it| it == name))
    }
    among(&config.listeners, &before.listeners)
        && among(&config.policies, &before.policies)
        && among(&config.upstreams, &before.upstreams)
        && before.routes.iter().all(|(name, before)| {
            config
                .routes
                .get(name)
                .is_some_and(|route| Arc::ptr_eq(route, before) || is_as_guarded(route, before))
        })
        && before.tests.len() <= config.tests.len()
}

/// Whether whatever stands over one route stands over the other.
fn is_as_guarded(route: &Route, before: &Route) -> bool {
    let policies = route.policies.iter().collect::<BTreeSet<_>>();
    before.policies.iter().all(|policy| policies.contains(policy)) && route.asks() >= before.asks()
}

/// Addresses that are new, and addresses that are gone.
fn listeners(old: &Config, new: &Config) -> (Vec<Address>, Vec<Address>) {
    let addresses =
        |config: &Config| config.listeners.values().map(|is| is.listen.clone()).collect::<BTreeSet<_>>();
    let (old, new) = (addresses(old), addresses(new));
    (new.difference(&old).cloned().collect(), old.difference(&new).cloned().collect())
}

/// Who may connect where.
fn modes(config: &Config) -> BTreeMap<Address, u32> {
    config.listeners.values().map(|is| (is.listen.clone(), is.mode)).collect()
}

fn say_restart(old: &Config, new: &Config) {
    for key in restart_keys(old, new) {
        warn!("`{key}` was changed; it takes effect at the next start");
    }
}

/// Routes that are named in one line.
const SHOWN_ROUTES: usize = 20;

/// Says on which routes less has to be known of who asks than before.
fn say_weaker(old: &Config, new: &Config) {
    let is_weaker = |(name, route): &(&Name, &Arc<Route>)| {
        old.routes.get(*name).is_some_and(|before| route.asks() < before.asks())
    };
    let what = [
        (Auth::None, "nobody is asked any more who it is"),
        (Auth::Optional, "whoever brings no credentials passes from now on"),
    ];
    for (asks, what) in what {
        let weaker = new.routes.iter().filter(|(_, route)| route.asks() == asks).filter(is_weaker);
        let weaker = weaker.map(|(name, _)| format!("`{name}`")).collect::<Vec<_>>();
        let more = weaker.len().saturating_sub(SHOWN_ROUTES);
        let shown = weaker.iter().take(SHOWN_ROUTES).map(String::as_str).collect::<Vec<_>>().join(", ");
        match more {
            _ if weaker.is_empty() => {}
            0 => warn!("{what}, on {shown}"),
            _ => warn!("{what}, on {shown} and {more} more"),
        }
    }
}

/// What a reload cannot change.
pub(crate) const RESTART_KEYS: [&str; 5] = [
    "gateway.workers",
    "gateway.admin.listen",
    "gateway.admin.socket",
    "gateway.upgrade.socket",
    "gateway.limits.connections",
];

/// What a reload cannot change, and this one would.
pub(crate) fn restart_keys(old: &Config, new: &Config) -> Vec<&'static str> {
    let (old, new) = (&old.gateway, &new.gateway);
    let listen = |gateway: &Gateway| gateway.admin.as_ref().map(|admin| admin.listen);
    let socket = |gateway: &Gateway| gateway.admin.as_ref().and_then(|admin| admin.socket.clone());
    let is_changed = [
        old.workers != new.workers,
        listen(old) != listen(new),
        socket(old) != socket(new),
        old.upgrade_socket != new.upgrade_socket,
        old.limits.connections != new.limits.connections,
    ];
    RESTART_KEYS
        .into_iter()
        .zip(is_changed)
        .filter(|(_, is_changed)| *is_changed)
        .map(|(key, _)| key)
        .collect()
}

/// One line: `a new generation is in force; rate_limit: 2 kept, 1 migrated; …`.
fn summarize(report: &[Change]) -> String {
    format!("a new generation is in force; {}", counts(report))
}

/// How many of each kind had what happen to them: `rate_limit: 2 kept, 1 migrated; …`.
pub(crate) fn counts(report: &[Change]) -> String {
    let kinds = report.iter().map(|change| change.kind).collect::<BTreeSet<_>>();
    let of_kind = |kind: &&str| {
        let all = [What::Kept, What::Migrated, What::Created, What::Restored, What::Buried, What::Dropped];
        let counts = all.iter().filter_map(|what| {
            let count = report.iter().filter(|change| change.kind == *kind && change.what == *what).count();
            (count > 0).then(|| format!("{count} {}", what.word()))
        });
        format!("{kind}: {}", counts.collect::<Vec<_>>().join(", "))
    };
    kinds.iter().map(of_kind).collect::<Vec<_>>().join("; ")
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
