//! Active health checks: asks the endpoints of a balancer how they are, and takes out who is not well.
//!
//! # Decision
//! 1. Each endpoint is asked once in an [`interval`](HealthConfig::interval), or up to a fifth of it later, by chance:
//!    never more often, and not all together. It does not matter how many services the balancer has. One that is
//!    new is asked within a second.
//! 2. A check is passed if the probe says so within its [`timeout`](HealthConfig::timeout). One that hangs fails
//!    alone: the others go on beside it.
//! 3. [`unhealthy_after`](HealthConfig::unhealthy_after) failures in a row take an endpoint out, and
//!    [`healthy_after`](HealthConfig::healthy_after) passes in a row bring it back. So one that comes and goes
//!    stays out.
//! 4. The first check of an endpoint counts at once, either way. Until then it is *unknown*, and gets requests: a
//!    gateway that has just started must not answer `503` to everybody. The first check that it ever passes brings
//!    it in at once, too: who has never been in is not coming and going, but starting.
//! 5. Out means [withdrawn](Endpoint::withdraw) as [`Absence::Unhealthy`], for all policies at once, beside whatever
//!    else keeps an endpoint away. Back means that this reason is gone; under
//!    [slow start](crate::balance::SlowStart) its share grows from the floor. Whether all count as available when
//!    nearly none is, says [`panic`](crate::balance::BalanceConfig::panic).
//!
//! Endpoints that are draining or in maintenance are checked as well, so that it is known how they are when they
//! return.
//!
//! # The probe
//! It is a service: an [`Endpoint`] in, and `Ok(())` out if it is well, or an error that says why it is not. There
//! is no client in here. It is asked whether it is ready, as part of the check, and cloned for each. It must not hold a
//! [`Health`] that it is of: neither would ever end.
//!
//! # Units and limits
//! Intervals between 100 ms and a day, a timeout from 1 ms up to the shorter interval; thresholds of at least 1;
//! values outside count as the nearest. At most [`MAX_AT_ONCE`] checks are under way at once. If more hang than
//! that, the others are checked later than their interval says: with a timeout of 1 s, 64 in a second. Of a failure
//! 256 bytes are kept. Of endpoints that are gone 256 are remembered.
//!
//! Checks take no place, and count neither as load nor as latency.
//!
//! # State
//! What is known belongs to an address, and to the balancer's layer that [`Health::new`] was given, whatever it is
//! [`reconfigured`](Health::reconfigured) to. An address that was gone goes on as it was. `reconfigured` writes
//! nothing; [`put_in_force`](Health::put_in_force) says that it counts from now on, and what is under way goes on
//! to its end. The [driver](HealthDriver), which somebody has to run, is one for all configurations, and follows
//! [`BalanceLayer::update`].
//!
//! If the driver is dropped, endpoints stay as they are. When all handles are gone too, nobody would ever bring back
//! who is out: then all are, and get their requests again. The reason [`Absence::Unhealthy`] should be nobody else's.
//!
//! # Errors and panics
//! None, unless the probe panics: then the driver ends.
//!
//! # Example
//! ```
//! # use std::time::Duration;
//! use naka::{balance::{BalanceLayer, Endpoint}, health::{Health, HealthConfig, Standing}};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() {
//! let layer = BalanceLayer::new(["10.0.0.1:80", "10.0.0.2:80"]);
//! let probe = tower::service_fn(|endpoint: Endpoint| async move {
//!     if endpoint.address().starts_with("10.0.0.1:") { Ok(()) } else { Err("connection refused") }
//! });
//! let (health, driver) = Health::new(HealthConfig::default(), &layer, probe);
//! tokio::spawn(driver.run());
//!
//! tokio::time::sleep(Duration::from_secs(2)).await;
//! assert_eq!(health.of("10.0.0.1:80").unwrap().standing, Standing::Healthy);
//! let sick = health.of("10.0.0.2:80").unwrap();
//! assert_eq!(sick.standing, Standing::Unhealthy);
//! assert_eq!(&*sick.last_failure.unwrap().why, "connection refused");
//! # }
//! ```

use std::{
    collections::BTreeMap,
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};
use tower_service::Service;

mod driver;
mod judge;
mod schedule;

pub use driver::{HealthDriver, MAX_AT_ONCE};
use judge::{Tally, Thresholds};

use crate::{
    BoxError,
    balance::{Absence, BalanceLayer, Endpoint},
    clock::Now,
    observe::Observer,
    random::{Numbers, seed},
};

/// How endpoints are checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HealthConfig {
    /// The shortest time between the beginnings of two checks of an endpoint; default 5 s.
    pub interval: Duration,
    /// The same, of an endpoint that is out; default as the other.
    pub unhealthy_interval: Option<Duration>,
    /// The longest that one check may take; default 1 s.
    pub timeout: Duration,
    /// So many failures in a row take an endpoint out; default 3.
    pub unhealthy_after: u32,
    /// So many passes in a row bring it back; default 2.
    pub healthy_after: u32,
}

impl Default for HealthConfig {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(5),
            unhealthy_interval: None,
            timeout: Duration::from_secs(1),
            unhealthy_after: 3,
            healthy_after: 2,
        }
    }
}

impl HealthConfig {
    /// Within what a clock can count, and busier neither than ten times a second nor than checks can end.
    fn sane(self) -> Self {
        let within = |it: Duration| it.clamp(Duration::from_millis(100), Duration::from_hours(24));
        let (interval, unhealthy_interval) = (within(self.interval), self.unhealthy_interval.map(within));
        let shorter = interval.min(unhealthy_interval.unwrap_or(interval));
        Self {
            interval,
            unhealthy_interval,
            timeout: self.timeout.clamp(Duration::from_millis(1), shorter),
            unhealthy_after: self.unhealthy_after.max(1),
            healthy_after: self.healthy_after.max(1),
        }
    }

    const fn thresholds(&self) -> Thresholds {
        Thresholds { unhealthy_after: self.unhealthy_after, healthy_after: self.healthy_after }
    }

    /// How long it is to the next check of an endpoint that stands like this.
    fn interval_of(&self, standing: Standing) -> Duration {
        let unhealthy = self.unhealthy_interval.filter(|_| standing == Standing::Unhealthy);
        unhealthy.unwrap_or(self.interval)
    }
}

/// What checks say of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// None has ended yet. It gets requests.
    Unknown,
    /// It is well.
    Healthy,
    /// It is out.
    Unhealthy,
}

impl Standing {
    /// The word for it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// All that is known of an endpoint, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Nothing yet.
    Unknown,
    /// It is well.
    Healthy,
    /// It gets requests, but its last check has failed; or what it did with its requests says no.
    Degraded,
    /// Its checks say no.
    Unhealthy,
    /// It is on its way out.
    Draining,
    /// It is taken out for a while, on purpose.
    Maintenance,
}

impl Condition {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Unknown, Self::Healthy, Self::Degraded, Self::Unhealthy, Self::Draining, Self::Maintenance];

    /// The word for it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Unhealthy => "unhealthy",
            Self::Draining => "draining",
            Self::Maintenance => "maintenance",
        }
    }
}

/// How an endpoint is, as of its last check.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct EndpointHealth {
    /// Its address.
    pub address: Arc<str>,
    /// What its checks say.
    pub standing: Standing,
    /// What everybody says.
    pub condition: Condition,
    /// Checks it has passed in a row, up to the last one.
    pub passes: u32,
    /// Checks it has failed in a row, up to the last one.
    pub failures: u32,
    /// Since when it stands like this.
    pub since: Now,
    /// Its last failure, however long ago.
    pub last_failure: Option<LastFailure>,
}

/// A check that failed.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LastFailure {
    /// Why.
    pub why: Arc<str>,
    /// When that was known.
    pub at: Now,
}

/// What checks say of an endpoint has changed.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Change {
    /// The endpoint.
    pub endpoint: Endpoint,
    /// What they said.
    pub from: Standing,
    /// What they say.
    pub to: Standing,
    /// How many in a row it took.
    pub checks: u32,
    /// Why the last one failed, if it did.
    pub why: Option<Arc<str>>,
}

/// What is known of the health of a balancer's endpoints, under one configuration; see the [module docs](self).
///
/// Looking asks nobody. Clones share what is known.
#[derive(Clone)]
pub struct Health {
    shared: Arc<Shared>,
    plan: Arc<Plan>,
}

impl Health {
    /// Checks the endpoints of this layer as long as somebody runs the driver.
    pub fn new<P, O: Observer>(
        config: HealthConfig,
        layer: &BalanceLayer<O>,
        probe: P,
    ) -> (Self, HealthDriver)
    where
        P: Service<Endpoint, Response = (), Error: Into<BoxError>, Future: Send>
            + Clone
            + Send
            + Sync
            + 'static,
    {
        Self::observed(config, layer, probe, ())
    }

    /// As [`new`](Self::new), and tells `observer` what comes of it.
    pub fn observed<P, O: Observer>(
        config: HealthConfig,
        layer: &BalanceLayer<O>,
        probe: P,
        observer: impl Observer,
    ) -> (Self, HealthDriver)
    where
        P: Service<Endpoint, Response = (), Error: Into<BoxError>, Future: Send>
            + Clone
            + Send
            + Sync
            + 'static,
    {
        let plan = Plan::new(config, layer, probe);
        let shared = Arc::new(Shared {
            table: Mutex::new(Table { plan: None, records: BTreeMap::new() }),
            changed: Notify::new(),
            random: Numbers::new(seed()),
            observer: Box::new(observer),
        });
        let driver = HealthDriver::new(Arc::clone(&shared), Arc::clone(&plan));
        (Self { shared, plan }, driver)
    }

    /// The same addresses, or others, checked in another way. It counts once it is
    /// [put in force](Self::put_in_force); until then it has changed nothing.
    #[must_use = "it has no effect until it is put in force"]
    pub fn reconfigured<P, O: Observer>(
        &self,
        config: HealthConfig,
        layer: &BalanceLayer<O>,
        probe: P,
    ) -> Self
    where
        P: Service<Endpoint, Response = (), Error: Into<BoxError>, Future: Send>
            + Clone
            + Send
            + Sync
            + 'static,
    {
        Self { shared: Arc::clone(&self.shared), plan: Plan::new(config, layer, probe) }
    }

    /// This configuration counts from now on. What is known of an address goes on, also if its endpoint has come
    /// with another layer.
    pub fn put_in_force(&self) {
        self.shared.put_in_force(&self.plan);
    }

    /// How an endpoint of the configuration in force is; `None` if it has none of this address.
    pub fn of(&self, address: &str) -> Option<EndpointHealth> {
        let table = self.shared.table();
        table.records.get(address).filter(|record| record.left.is_none()).map(Record::view)
    }

    /// How all of them are, by address.
    pub fn endpoints(&self) -> Vec<EndpointHealth> {
        self.shared.table().listed().map(|(_, record)| record.view()).collect()
    }
}

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let standings = self.endpoints().into_iter().map(|it| (it.address, it.standing));
        f.debug_struct("Health")
            .field("config", &self.plan.config)
            .field("endpoints", &standings.collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

/// How many endpoints that are not listed any more are remembered.
const MAX_KEPT: usize = 256;

/// How many bytes of a failure are kept.
const MAX_WHY: usize = 256;

type Probing = Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send>>;

/// One configuration: what is checked, and how.
struct Plan {
    config: HealthConfig,
    members: Box<dyn Members>,
    probe: Box<dyn Fn(Endpoint) -> Probing + Send + Sync>,
}

impl Plan {
    fn new<P, O: Observer>(config: HealthConfig, layer: &BalanceLayer<O>, probe: P) -> Arc<Self>
    where
        P: Service<Endpoint, Response = (), Error: Into<BoxError>, Future: Send>
            + Clone
            + Send
            + Sync
            + 'static,
    {
        let probe = move |endpoint| {
            let mut probe = probe.clone();
            let probing: Probing = Box::pin(async move {
                std::future::poll_fn(|cx| probe.poll_ready(cx)).await.map_err(Into::into)?;
                probe.call(endpoint).await.map_err(Into::into)
            });
            probing
        };
        Arc::new(Self { config: config.sane(), members: Box::new(layer.clone()), probe: Box::new(probe) })
    }
}

/// Whose endpoints are checked.
trait Members: Send + Sync {
    fn endpoints(&self) -> Vec<Endpoint>;
    fn updates(&self) -> u64;
    fn updated(&self, known: u64) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;
}

impl<O: Observer> Members for BalanceLayer<O> {
    fn endpoints(&self) -> Vec<Endpoint> {
        self.endpoints()
    }

    fn updates(&self) -> u64 {
        self.updates()
    }

    fn updated(&self, known: u64) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(self.updated(known))
    }
}

/// What outlives configurations.
struct Shared {
    table: Mutex<Table>,
    /// Another configuration is in force.
    changed: Notify,
    random: Numbers,
    observer: Box<dyn Observer>,
}

struct Table {
    /// The configuration in force; at first none.
    plan: Option<Arc<Plan>>,
    /// By address; also those that are gone.
    records: BTreeMap<Arc<str>, Record>,
}

/// What is known of an address.
struct Record {
    endpoint: Endpoint,
    tally: Tally,
    since: Now,
    last_failure: Option<LastFailure>,
    /// When the last check began.
    begun: Option<Instant>,
    /// When the next one should.
    due: Instant,
    /// Since when it is not listed any more.
    left: Option<Instant>,
}

impl Record {
    fn new(endpoint: Endpoint, now: Now, due: Instant) -> Self {
        Self { endpoint, tally: Tally::NEW, since: now, last_failure: None, begun: None, due, left: None }
    }

    fn view(&self) -> EndpointHealth {
        EndpointHealth {
            address: Arc::clone(self.endpoint.address()),
            standing: self.tally.standing,
            condition: self.tally.condition(self.endpoint.absences().chain(self.outlier())),
            passes: self.tally.passes,
            failures: self.tally.failures,
            since: self.since,
            last_failure: self.last_failure.clone(),
        }
    }

    /// What its requests say of it.
    fn outlier(&self) -> Option<Absence> {
        let gate = self.endpoint.gate()?;
        (!gate.availability(Now::read()).is_open()).then_some(Absence::Outlier)
    }

    fn is_out(&self) -> bool {
        self.tally.standing == Standing::Unhealthy
    }

    /// One check more; answers with what it changed.
    fn judge(&mut self, why: Option<Arc<str>>, of: Thresholds, now: Now) -> Option<Change> {
        let before = self.tally;
        self.tally = before.after(why.is_none(), of);
        if let Some(why) = &why {
            self.last_failure = Some(LastFailure { why: Arc::clone(why), at: now });
        }
        let (from, to) = (before.standing, self.tally.standing);
        // Also if it is so already: whoever else touched it, it is right again with the next check.
        match to {
            Standing::Unhealthy => self.endpoint.withdraw(Absence::Unhealthy),
            Standing::Healthy => self.endpoint.restore(Absence::Unhealthy, now),
            Standing::Unknown => {}
        }
        if from == to {
            return None;
        }
        self.since = now;
        let checks = self.tally.passes.max(self.tally.failures);
        Some(Change { endpoint: self.endpoint.clone(), from, to, checks, why })
    }
}

impl Table {
    fn listed(&self) -> impl Iterator<Item = (&Arc<str>, &Record)> {
        self.records.iter().filter(|(_, record)| record.left.is_none())
    }

    /// These endpoints are checked from now on, and no others.
    fn list(&mut self, endpoints: Vec<Endpoint>, interval: Duration, random: &Numbers, now: Now) {
        let instant = now.instant();
        for record in self.records.values_mut() {
            record.left.get_or_insert(instant);
        }
        for endpoint in endpoints {
            let soon = instant + schedule::first(interval, random.draw());
            let Some(record) = self.records.get_mut(endpoint.address()) else {
                self.records.insert(Arc::clone(endpoint.address()), Record::new(endpoint, now, soon));
                continue;
            };
            // It may be of another layer, or have come back to one that had forgotten it.
            record.endpoint = endpoint;
            if record.is_out() {
                record.endpoint.withdraw(Absence::Unhealthy);
            }
            if record.left.take() != Some(instant) {
                record.due = record.due.max(soon); // It is back: soon, but never twice in an interval.
            }
        }
        self.forget(now);
    }

    /// Of those that are gone, the ones that have been so the longest.
    fn forget(&mut self, now: Now) {
        let gone = self.records.iter().filter_map(|(address, it)| Some((it.left?, Arc::clone(address))));
        let mut gone = gone.collect::<Vec<_>>();
        gone.sort();
        for (_, address) in gone.iter().take(gone.len().saturating_sub(MAX_KEPT)) {
            if let Some(record) = self.records.remove(address)
                && record.is_out()
            {
                record.endpoint.restore(Absence::Unhealthy, now); // If it comes back, nobody knows of it.
            }
        }
    }

    /// Other intervals count from the last check on.
    fn respace(&mut self, config: &HealthConfig, random: &Numbers) {
        for record in self.records.values_mut() {
            if let Some(begun) = record.begun {
                record.due = begun + schedule::next(config.interval_of(record.tally.standing), random.draw());
            }
        }
    }
}

impl Shared {
    /// A panic cannot leave it half written in a way that matters: each record is whole after each line.
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put_in_force(&self, plan: &Arc<Plan>) {
        let mut table = self.table();
        if table.plan.as_ref().is_some_and(|it| Arc::ptr_eq(it, plan)) {
            return;
        }
        let intervals = |config: &HealthConfig| (config.interval, config.unhealthy_interval);
        let is_respaced =
            table.plan.as_ref().is_some_and(|it| intervals(&it.config) != intervals(&plan.config));
        if is_respaced {
            table.respace(&plan.config, &self.random);
        }
        table.list(plan.members.endpoints(), plan.config.interval, &self.random, Now::read());
        let _before = table.plan.replace(Arc::clone(plan));
        drop(table);
        self.changed.notify_one();
    }
}

/// Nobody checks any more, nor ever will: who is out would be so for ever.
impl Drop for Shared {
    fn drop(&mut self) {
        let table = self.table.get_mut().unwrap_or_else(PoisonError::into_inner);
        for record in table.records.values().filter(|record| record.is_out()) {
            record.endpoint.restore(Absence::Unhealthy, Now::read());
        }
    }
}
