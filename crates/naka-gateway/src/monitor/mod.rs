//! How the gateway itself is: whether it lives, whether it is ready, and how well it is.
//!
//! - `/livez`: no worker stands still ([`Pulse`]). Nothing outside of the process has a part in it: who restarts a gateway
//!   because a database is down has two things that are down.
//! - `/readyz`: whether requests should come here (`ready`).
//! - `/healthz`: every check, and what all of them say together ([`roll_up`]).
//!
//! Resources and upstreams are looked at every `gateway.health.interval`, and alerts are decided then. What was found is
//! kept: looking at it costs nothing, however often it is asked for. Files are read beside the runtime, once at a time; while
//! a reading hangs (a file system may), all resources are *unknown*, and all else goes on.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use naka::clock::{Now, WallClock};
use serde_json::{Value, json};
use tokio::{
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, interval, sleep, timeout},
};
use tracing::{info, warn};

mod level;
mod pulse;
mod ready;
mod resources;
mod usable;

pub use level::{Importance, Level, MARGIN, graded, of_endpoints, roll_up};
pub use pulse::{LOOK, Pulse, Stalls};
pub use ready::{ReadyCondition, critical_upstreams, listeners, to_json, to_text};
pub use resources::{CpuReading, Readings, read};
pub use usable::Usable;

use crate::{
    admin::Admin,
    alerts::{Moment, Watcher},
    config::{
        checked::{Name, SelfChecks, Thresholds},
        show_time,
    },
    generation::Generation,
    upstream::Connector,
};

/// The checks of resources, as rules name them.
pub const RESOURCES: [&str; 4] = ["cpu", "memory", "disk", "descriptors"];
/// How long a reading may take before what it reads is unknown.
const READING: Duration = Duration::from_secs(2);
/// Checks that are shown: those of upstreams beyond that count, and are not.
const SHOWN: usize = 1000;

/// What is known of the gateway itself.
#[derive(Debug)]
pub struct Monitor {
    root: PathBuf,
    /// What workers say.
    pub pulse: Arc<Pulse>,
    stalls: Mutex<Stalls>,
    found: Mutex<Found>,
    /// What somebody is told.
    pub alerts: Watcher,
}

/// What the last look found.
#[derive(Debug, Default)]
struct Found {
    at: Option<Instant>,
    checks: BTreeMap<Arc<str>, Check>,
    /// The last reading of processors, and when that was.
    cpu: Option<(CpuReading, Instant)>,
}

/// How one thing is.
#[derive(Clone, Debug)]
struct Check {
    /// Which resource it is, or an upstream.
    kind: &'static str,
    /// Nothing: it is not known.
    level: Option<Level>,
    importance: Importance,
    since: Moment,
    value: Option<String>,
    why: Option<String>,
}

/// One check of a resource, as rules look at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourceCheck {
    /// Its name: `cpu`, `disk /var/lib/naka`.
    pub name: Arc<str>,
    /// One of [`RESOURCES`].
    pub kind: &'static str,
    /// How it is; what is unknown is not well, and counts as degraded.
    pub level: Level,
    /// Its value, or why there is none.
    pub says: String,
}

impl Monitor {
    /// Nothing has been looked at. `root` is where the kernel's files are: `/`, and something else in tests.
    pub fn new(pulse: Arc<Pulse>, root: &Path) -> Arc<Self> {
        Arc::new(Self {
            root: root.to_owned(),
            pulse,
            stalls: Mutex::default(),
            found: Mutex::default(),
            alerts: Watcher::default(),
        })
    }

    /// Workers that stand still, and for how long.
    pub fn stalled(&self, most: Duration) -> Vec<(usize, Duration)> {
        locked(&self.stalls).beyond(most)
    }

    /// All checks, and what they say together; the status that goes with it is not `200` only where that is critical.
    pub fn to_json(&self, interval: Duration) -> (Level, Value) {
        let found = locked(&self.found);
        let now = Instant::now();
        let level = together(&found);
        let checks = found.checks.iter().take(SHOWN).map(|(name, check)| {
            let is = json!({
                "level": check.level.map_or("unknown", Level::word),
                "required": check.importance == Importance::Required,
                "since": show_time(check.since.unix_s),
                "for_s": now.saturating_duration_since(check.since.at).as_secs(),
                "value": check.value,
                "why": check.why,
            });
            (name.to_string(), is)
        });
        let checks = Value::Object(checks.collect());
        let ago = found.at.map(|at| now.saturating_duration_since(at).as_secs());
        let is = json!({
            "level": level.word(),
            "checks": checks,
            "more_checks": found.checks.len().saturating_sub(SHOWN),
            "looked_ago_s": ago,
            "interval_s": interval.as_secs(),
        });
        (level, is)
    }

    /// The checks of resources, as they were found last.
    pub fn resources(&self) -> Vec<ResourceCheck> {
        let found = locked(&self.found);
        let resources = found.checks.iter().filter(|(_, check)| check.kind != UPSTREAM);
        let of = |(name, check): (&Arc<str>, &Check)| ResourceCheck {
            name: Arc::clone(name),
            kind: check.kind,
            level: check.level.unwrap_or(Level::Degraded),
            says: check.why.clone().or_else(|| check.value.clone()).unwrap_or_default(),
        };
        resources.map(of).collect()
    }

    /// Takes what a reading says, and how upstreams are now.
    fn take(&self, readings: Result<Readings, String>, generation: &Generation, now: Moment) {
        let (is, reading) = (&generation.config.gateway.health, Now::read());
        let mut found = locked(&self.found);
        let all = resources_of(readings, is, &mut found.cpu);
        let mut next = BTreeMap::new();
        for (name, kind, thresholds, used) in all {
            let before = found.checks.get(&name);
            let graded_from = before.and_then(|check| check.level).unwrap_or(Level::Healthy);
            let (level, value, why) = match used {
                Ok(used) => {
                    let level = graded(graded_from, used, thresholds);
                    let value = format!("{}.{} %", used / 10, used % 10);
                    let why = (level > Level::Healthy).then(|| format!("{value} of what there is is used"));
                    (Some(level), Some(value), why)
                }
                Err(why) => (None, None, Some(why)),
            };
            let check = Check { kind, level, importance: Importance::Required, since: now, value, why };
            next.insert(Arc::clone(&name), check.since(before, &name));
        }
        for (upstream, is) in &generation.config.upstreams {
            let usable = Usable::of(generation, upstream, reading);
            let importance = if is.is_critical { Importance::Required } else { Importance::Optional };
            // Whoever has taken all of them out has done so on purpose; `/readyz` says what comes of it.
            let is_on_purpose = usable.all == 0 && usable.on_purpose > 0;
            let level = of_endpoints(usable.usable, usable.all, importance);
            let level = if is_on_purpose { Level::Degraded } else { level };
            let name: Arc<str> = format!("{UPSTREAM} {upstream}").into();
            let value = format!("{} of {}", usable.usable, usable.all);
            let why = (level > Level::Healthy).then(|| usable.to_string());
            let (level, value) = (Some(level), Some(value));
            let check = Check { kind: UPSTREAM, level, importance, since: now, value, why };
            next.insert(Arc::clone(&name), check.since(found.checks.get(&name), &name));
        }
        (found.at, found.checks) = (Some(now.at), next);
    }
}

/// The kind of check that an upstream is, and with what its name begins.
const UPSTREAM: &str = "upstream";

impl Check {
    /// It is so since then, if it was so before; else that is told. What becomes of endpoints is told where it happens.
    fn since(self, before: Option<&Self>, name: &str) -> Self {
        let Some(before) = before else { return self };
        if before.level == self.level {
            return Self { since: before.since, ..self };
        }
        let level = self.level.map_or("unknown", Level::word);
        match (&self.why, before.level) {
            _ if self.kind == UPSTREAM => {}
            (Some(why), _) => warn!(check = name, level, why, "a check of the gateway itself has changed"),
            (None, Some(_)) => info!(check = name, level, "a check of the gateway itself has changed"),
            (None, None) => {} // It has been read for the first time, and is well.
        }
        self
    }
}

fn together(found: &Found) -> Level {
    let checks = found.checks.values();
    // What is not known is not well.
    roll_up(checks.map(|check| (check.level.unwrap_or(Level::Degraded), check.importance)))
}

type Used = (Arc<str>, &'static str, Thresholds, Result<u32, String>);

/// What is used of each resource, in tenths of a percent.
fn resources_of(
    readings: Result<Readings, String>,
    is: &SelfChecks,
    before: &mut Option<(CpuReading, Instant)>,
) -> Vec<Used> {
    let (cpu, memory, descriptors, disks) = match readings {
        Ok(Readings { at, cpu, memory, descriptors, disks }) => {
            let used = cpu.and_then(|reading| {
                let last = before.replace((reading, at));
                let (last, then) = last.ok_or("it takes two readings, and there was one")?;
                let elapsed = at.saturating_duration_since(then).as_micros();
                let used = reading.since(last, u64::try_from(elapsed).unwrap_or(u64::MAX));
                used.ok_or_else(|| "it takes two readings of the same meter, and there was one".to_owned())
            });
            (used, memory, descriptors, disks)
        }
        Err(why) => {
            *before = None;
            let disks = is.disks.iter().map(|path| (Arc::clone(path), Err(why.clone()))).collect();
            (Err(why.clone()), Err(why.clone()), Err(why), disks)
        }
    };
    let [cpu_name, memory_name, disk, descriptors_name] = RESOURCES;
    let mut all = vec![
        (cpu_name.into(), cpu_name, is.cpu, cpu),
        (memory_name.into(), memory_name, is.memory, memory),
        (descriptors_name.into(), descriptors_name, is.descriptors, descriptors),
    ];
    // Read for the configuration of a moment ago.
    let disks = disks.into_iter().filter(|(path, _)| is.disks.contains(path));
    all.extend(disks.map(|(path, used)| (format!("{disk} {path}").into(), disk, is.disk, used)));
    all
}

/// Looks at everything for ever, decides alerts and tells of them. Nothing is decided any more while the process ends: what
/// has been said is still told.
pub async fn watch(admin: Arc<Admin>, connector: Connector) {
    let clock = WallClock::system();
    tokio::join!(
        look_at_workers(&admin.monitor),
        look_at_everything(&admin, clock),
        admin.monitor.alerts.tell(&admin.in_force, &admin.metrics, &connector),
    );
}

async fn look_at_workers(monitor: &Monitor) {
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        locked(&monitor.stalls).look(Instant::now(), &monitor.pulse.beats());
    }
}

async fn look_at_everything(admin: &Admin, clock: WallClock) {
    let mut reading = None;
    loop {
        let interval = admin.in_force.with(|generation| generation.config.gateway.health.interval);
        let disks = admin.in_force.with(|generation| generation.config.gateway.health.disks.clone());
        let readings = read_beside(&admin.monitor.root, disks, &mut reading).await;
        let generation = admin.in_force.get();
        let now = Moment::now(clock);
        admin.monitor.take(readings, &generation, now);
        if !admin.drain.has_begun() {
            admin.monitor.alerts.decide(admin, &generation, now);
        }
        drop(generation); // It may have ended before the next look.
        sleep(interval).await;
    }
}

/// Reads where nobody waits for it; one reading at a time.
async fn read_beside(
    root: &Path,
    disks: Vec<Arc<str>>,
    under_way: &mut Option<JoinHandle<Readings>>,
) -> Result<Readings, String> {
    let root = root.to_owned();
    let reading = under_way.get_or_insert_with(|| tokio::task::spawn_blocking(move || read(&root, &disks)));
    match timeout(READING, &mut *reading).await {
        Ok(readings) => {
            *under_way = None;
            readings.map_err(|_| "reading it has panicked".to_owned())
        }
        Err(_) => Err("reading it takes longer than two seconds: a file system may hang".to_owned()),
    }
}

/// A panic cannot leave any of it half written that matters: it is made anew at each look.
fn locked<T>(it: &Mutex<T>) -> MutexGuard<'_, T> {
    it.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Upstreams of a configuration, each as it is now.
pub fn upstreams(generation: &Generation, now: Now) -> Vec<(Name, Usable)> {
    let all = generation.config.upstreams.keys();
    all.map(|name| (Arc::clone(name), Usable::of(generation, name, now))).collect()
}
