//! Load balancing: chooses an endpoint, and keeps its account until the response body ends.
//!
//! # Decision
//! 1. Which endpoints are available: those that are not [withdrawn](Endpoint::withdraw) for any reason, whose
//!    [gate](Gate) is not closed, and that have [room](Target::capacity). Gates that are closed beyond
//!    [`max_ejected`](BalanceConfig::max_ejected) keep nobody out. If fewer than
//!    [`panic`](BalanceConfig::panic) percent are well, all are that are not draining or in maintenance, and the
//!    observer is [told](Observer::panicked) so at each such request.
//! 2. A [cookie](Sticky) of the request names one of them: that one.
//! 3. Of a [subset](BalanceLayer::subset_by), and of the best [region](Regions) that has one, if there are such.
//! 4. The [policy](Policy) chooses. An endpoint that [was tried](Tried) for this request comes last; one that
//!    has [joined](SlowStart) lately is passed over as often as its share says.
//! 5. None is available: `503` with [`Reason::NoEndpoint`](crate::reject::Reason::NoEndpoint); with
//!    [`Reason::SubsetEmpty`](crate::reject::Reason::SubsetEmpty) where none of those that are listed has the
//!    [labels](BalanceConfig::labels), or is of the subset, that has to be; and with
//!    [`Reason::CircuitOpen`](crate::reject::Reason::CircuitOpen) and when to try again, if all that are there have
//!    closed gates.
//! 6. Its gate is entered, and its count goes up. If somebody else was faster (the last probe, the last place),
//!    the policy chooses again among the others; after eight times whichever lets it in.
//!
//! The chosen [`Endpoint`] is put into the request's [`Context`](crate::context::Context), or into its
//! extensions where there is none, for the client below: [`Endpoint::of`] finds it in either.
//!
//! # Policies
//! | [`Policy`] | Chooses | Cost | Source |
//! | --- | --- | --- | --- |
//! | `RoundRobin` | in turn | O(1) | |
//! | `WeightedRoundRobin` | in turn, by weight, well spread | O(1) | nginx, [`policy::smooth`] |
//! | `Random` | by weight | O(log n) | |
//! | `LeastRequest`, `WeightedLeastRequest` | fewest under way, ties at random | O(n) | |
//! | `PeakEwma` | the better of two: latency times what is under way | O(log n) | Finagle; Mitzenmacher 2001, [`policy::p2c`], [`policy::ewma`] |
//! | `LeastLatency` | the best of all by the same | O(n) | |
//! | `LeastLoad` | the least busy, as they say themselves, times what is under way | O(n) | ORCA's `endpoint-load-metrics` |
//! | `RingHash` | by key | O(log n) | Karger et al. 1997, [`policy::ring`] |
//! | `Maglev` | by key | O(1) | Eisenbud et al. 2016, [`policy::maglev`] |
//! | `Rendezvous` | by key | O(n) | Thaler and Ravishankar 1998, [`policy::rendezvous`] |
//! | `IpHash` | by client address: rendezvous, and not a remainder, which moves 5 of 6 clients when 1 of 6 leaves | O(n) | |
//! | [`geographic`](BalanceConfig::geographic) | the first region of a list that has room, there the fewest under way | O(n) | [`policy::regions`] |
//!
//! Which one? `PeakEwma` where endpoints differ or fail, `LeastRequest` where there are few of them and requests
//! are long, `RingHash` or `Maglev` where a key should find what was cached for it, round robin where it has to be
//! foreseen.
//!
//! **Keys** are [given by a function](BalanceLayer::hash_by); a request without one goes anywhere. With
//! [`max_load`](BalanceConfig::max_load) no endpoint has more than so many percent of its fair share of what is
//! under way (Mirrokni et al. 2018), and keys overflow to their next endpoint.
//!
//! **An endpoint that is not available** gives its share to all others by weight, under each policy: none is
//! favoured for standing beside it. What goes by a hash moves only its keys, which return with it.
//!
//! **Latency** is from here to the response head, under the policies that go by it and for endpoints with a
//! gate. What the [classifier](BalanceConfig::classifier) takes for a failure counts as
//! [`failure`](Latency::failure) if it came faster. What was given up counts only if it took longer than was
//! expected. Who has no sample, or none for long, is as fast as all are on average.
//!
//! **Load** is what endpoints say in their responses under `LeastLoad`, in the field `endpoint-load-metrics: TEXT
//! cpu_utilization=0.31` of ORCA, which is taken out, or what somebody [tells](Endpoint::report_load). It counts for three
//! minutes; who says nothing counts as half busy.
//!
//! # Units and limits
//! As many endpoints as are given; addresses that come twice count once. Weights 1 to 65,535. A turn of weighted
//! round robin has at most 8,192 slots, a ring 262,144 points, a table 5,000,011 slots. 256 endpoints that are no
//! longer listed are remembered. Nothing is allocated for a request, but the cookie that is set. A choice is one
//! atomic addition or none; round robin compares and swaps, as its turn depends on who is available. No lock is
//! waited for.
//!
//! # State
//! All services made from one layer, and their clones, share turns and accounts. An account belongs to an
//! address and outlives [`reconfigured`](BalanceLayer::reconfigured) and [`update`](BalanceLayer::update), also to
//! another policy, and also if the address was gone for a while. An endpoint that is not listed any more gets no
//! new requests; what is under way goes on. Endpoints that a new layer begins with have all of their share; those
//! that are added later, or are well again, join under slow start; one that was only gone from the list for a
//! while goes on as it was.
//!
//! A set of endpoints never changes; `update` makes another one. Each service keeps the one it has seen and looks
//! at a number whether there is a newer one, so a request reads no shared pointer. When there is, it is fetched
//! from behind a mutex that is held for that alone; if somebody else holds it just then, the request goes by the
//! set that the service has. This is what a crate for swapping pointers is for elsewhere, with std alone.
//!
//! # Errors and panics
//! Adds no error: `S::Error` passes unchanged. Never panics, unless a function of the caller's does.
//!
//! # Example
//! ```
//! # use http::{Request, Response};
//! # use tower::{Layer, ServiceExt};
//! use naka::balance::{BalanceLayer, Endpoint};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! let client = tower::service_fn(|request: Request<()>| async move {
//!     let endpoint = Endpoint::of(request.extensions()).expect("the balancer chose one");
//!     Ok::<_, ()>(Response::new(endpoint.address().to_string()))
//! });
//! let service = BalanceLayer::new(["10.0.0.1:80", "10.0.0.2:80"]).layer(client);
//! # let service = tower::util::MapResponse::new(service, |r: Response<naka::guard::Guarded<String, _>>| {
//! #     use http_body_util::BodyExt; r.into_body() });
//! # use http_body_util::BodyExt;
//! for address in ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.1:80"] {
//!     let body = service.clone().oneshot(Request::new(())).await.unwrap();
//!     assert_eq!(body.collect().await.unwrap().to_bytes(), address);
//! }
//! # }
//! ```
//!
//! By a header, on a ring, with nobody above 125 % of its share:
//! ```
//! use naka::balance::{BalanceConfig, BalanceLayer, HashKey, Policy, Target};
//!
//! let targets = [Target::new("10.0.0.1:80").weight(2), Target::new("10.0.0.2:80")];
//! let config = BalanceConfig::new(Policy::RING_HASH).max_load(125);
//! let layer = BalanceLayer::with_config(config, targets)
//!     .hash_by(|head| head.headers.get("x-session").map(HashKey::of));
//! assert_eq!(layer.endpoints().len(), 2);
//! ```

use std::{
    collections::HashMap,
    fmt,
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, TryLockError,
        atomic::{
            AtomicU64,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
    time::Duration,
};

use http::request::Parts;
use tokio::sync::Notify;

mod block;
mod config;
mod endpoint;
mod load;
#[cfg(all(test, naka_loom))]
mod models;
pub mod policy;
mod said;
mod service;
mod set;
mod sticky;

pub use crate::key::HashKey;
pub use config::{BalanceConfig, Latency, Policy, Regions, SlowStart, SubsetMiss};
pub use endpoint::{Absence, Endpoint, InFlight, Target};
use said::{Candidates, Refused, Said};
pub use service::BalanceFuture;
use set::{Ask, Chooser, GateFn, Making, Snapshot, State};
pub use sticky::{Sticky, StickyNameError};

use crate::{
    attempt::{Beside, Tried},
    clock::Now,
    context::ClientAddr,
    explain::{Explain, Finding},
    gate::Gate,
    key::Key,
    layered::layered,
    observe::Observer,
    random::seed,
    reject::Head,
    saved::Unfit,
};

type HashFn = dyn Fn(&Head<'_>) -> Option<HashKey> + Send + Sync;
type KeyFn = dyn Fn(&Head<'_>) -> Option<Key> + Send + Sync;

/// Applies [`Balance`]; see the [module docs](self) for an example.
#[must_use]
pub struct BalanceLayer<O = ()> {
    handle: Option<Handle<O>>,
}

impl BalanceLayer {
    /// These endpoints, in this order, in turn.
    pub fn new<T: Into<Target>>(targets: impl IntoIterator<Item = T>) -> Self {
        Self::with_config(BalanceConfig::default(), targets)
    }

    /// These endpoints, as is configured.
    pub fn with_config<T: Into<Target>>(config: BalanceConfig, targets: impl IntoIterator<Item = T>) -> Self {
        Self::observed(config, targets, ())
    }
}

impl<O: Observer> BalanceLayer<O> {
    /// As [`with_config`](BalanceLayer::with_config), and tells `observer` what it does.
    pub fn observed<T: Into<Target>>(
        config: BalanceConfig,
        targets: impl IntoIterator<Item = T>,
        observer: O,
    ) -> Self {
        let seed = config.seed.unwrap_or_else(seed);
        let state = Arc::new(State::new(Now::read().instant(), seed));
        let setting = Setting { config, hash: None, region: None, subset: None, gates: None };
        let making = setting.making(&state, None);
        let snapshot = Snapshot::next(None, targets.into_iter().map(Into::into).collect(), &making);
        Self::of(state, setting, snapshot, observer)
    }

    /// A layer that is not there.
    pub const fn off() -> Self {
        Self { handle: None }
    }

    /// What the policies that go by a hash go by; without it, and for requests that have no key, anything.
    /// Under [`Policy::IpHash`] it is the client's address where nothing is given here.
    pub fn hash_by(self, key: impl Fn(&Head<'_>) -> Option<HashKey> + Send + Sync + 'static) -> Self
    where
        O: Clone,
    {
        self.set(|setting| setting.hash = Some(Arc::new(key)))
    }

    /// The region a request comes from, as the [`Key`] of its name, a text. Ask what was verified, or the address
    /// of the client; where a header is asked, whoever sends it chooses among regions.
    pub fn region_by(self, region: impl Fn(&Head<'_>) -> Option<Key> + Send + Sync + 'static) -> Self
    where
        O: Clone,
    {
        self.set(|setting| setting.region = Some(Arc::new(region)))
    }

    /// Which endpoints will do: those whose `label` has the value, a text, whose [`Key`] this is; `None`: all.
    pub fn subset_by(
        self,
        label: &str,
        subset: impl Fn(&Head<'_>) -> Option<Key> + Send + Sync + 'static,
    ) -> Self
    where
        O: Clone,
    {
        self.set(|setting| setting.subset = Some((label.into(), Arc::new(subset))))
    }

    /// All endpoints will do for each request.
    pub fn unsubset(self) -> Self
    where
        O: Clone,
    {
        self.set(|setting| setting.subset = None)
    }

    /// What stands in front of each endpoint, by address; asked once for each of them, and once more for one that
    /// was forgotten. It may give the gate it gave before.
    pub fn gated(self, gate: impl Fn(&Arc<str>) -> Arc<dyn Gate> + Send + Sync + 'static) -> Self
    where
        O: Clone,
    {
        let gates: Arc<GateFn> = Arc::new(gate);
        self.set(|setting| setting.gates = Some(gates))
    }

    /// Nothing stands in front of any endpoint.
    pub fn ungated(self) -> Self
    where
        O: Clone,
    {
        self.set(|setting| setting.gates = None)
    }

    /// Another configuration and other endpoints, or the same: what is known of an address stays, and turns go on.
    pub fn reconfigured<T: Into<Target>>(
        &self,
        config: BalanceConfig,
        targets: impl IntoIterator<Item = T>,
    ) -> Self
    where
        O: Clone,
    {
        let Some(shared) = self.shared() else { return Self::off() };
        let setting = Setting { config, ..shared.setting.clone() };
        let targets = targets.into_iter().map(Into::into).collect();
        let snapshot = Snapshot::next(
            Some(&shared.current()),
            targets,
            &setting.making(&shared.state, Some(Now::read())),
        );
        Self::of(Arc::clone(&shared.state), setting, snapshot, shared.observer.clone())
    }

    /// Other endpoints, for all services of this layer. What is known of an address stays.
    pub fn update<T: Into<Target>>(&self, targets: impl IntoIterator<Item = T>) {
        let Some(shared) = self.shared() else { return };
        let targets = targets.into_iter().map(Into::into).collect();
        // Held while it is made, so that of two updates the later one stands. Requests do not wait for it.
        let mut newest = shared.newest();
        let making = shared.setting.making(&shared.state, Some(Now::read()));
        *newest = Arc::new(Snapshot::next(Some(&newest), targets, &making));
        shared.version.fetch_add(1, Release);
        drop(newest);
        shared.updated.notify_waiters();
    }

    /// How often the set was [updated](Self::update).
    pub fn updates(&self) -> u64 {
        self.shared().map_or(0, |shared| shared.version.load(Acquire))
    }

    /// Waits until the set has been updated other than `known` times, for whoever follows it.
    pub async fn updated(&self, known: u64) {
        let Some(shared) = self.shared() else { return std::future::pending().await };
        loop {
            let mut updated = pin!(shared.updated.notified());
            updated.as_mut().enable(); // Before looking, so that none is missed.
            if self.updates() != known {
                return;
            }
            updated.await;
        }
    }

    /// The endpoints that may be chosen, in their order.
    pub fn endpoints(&self) -> Vec<Endpoint> {
        let members = |shared: &Arc<Shared<O>>| {
            shared.current().members.iter().map(|member| member.endpoint.clone()).collect()
        };
        self.shared().map_or_else(Vec::new, members)
    }

    /// Endpoints that are not listed any more and have requests under way; only those that are remembered.
    pub fn leaving(&self) -> Vec<Endpoint> {
        let leaving = |shared: &Arc<Shared<O>>| {
            shared.current().kept.iter().filter(|endpoint| endpoint.in_flight() > 0).cloned().collect()
        };
        self.shared().map_or_else(Vec::new, leaving)
    }

    /// What another process needs to know how long endpoints take to answer.
    pub fn save(&self, now: Now) -> Option<Saved> {
        let shared = self.shared()?;
        let current = shared.current();
        let all = current.members.iter().map(|member| &member.endpoint).chain(&current.kept);
        let known = all.map(|it| (Arc::clone(it.address()), it.account().latency_word().load(Relaxed)));
        Some(Saved {
            at_ns: shared.state.now_ns(now),
            others: shared.state.others_latency.load(Relaxed),
            endpoints: known.filter(|(_, latency)| *latency != 0).collect(),
        })
    }

    /// Goes on with what was [saved](Self::save) `age` ago, of the endpoints that there are. None of them joins any
    /// more: what was known has its whole share.
    ///
    /// # Errors
    /// If it is off, or knows something already.
    pub fn restore(&self, saved: &Saved, age: Duration, now: Now) -> Result<(), Unfit> {
        let state = &self.shared().ok_or(Unfit::NotNew)?.state;
        let endpoints = self.endpoints();
        let words = endpoints.iter().map(|endpoint| endpoint.account().latency_word());
        if words.chain([&*state.others_latency]).any(|word| word.load(Relaxed) != 0) {
            return Err(Unfit::NotNew);
        }
        let known = saved.endpoints.iter().map(|(address, latency)| (&**address, *latency));
        let known = known.collect::<HashMap<_, _>>();
        for endpoint in &endpoints {
            if let Some(latency) = known.get(&**endpoint.address()) {
                endpoint.account().latency_word().store(*latency, Relaxed);
            }
        }
        state.others_latency.store(saved.others, Relaxed);
        let age_ns = u64::try_from(age.as_nanos()).unwrap_or(u64::MAX);
        state.clock.go_on(saved.at_ns.saturating_add(age_ns), now);
        Ok(())
    }

    fn of(state: Arc<State>, setting: Setting, snapshot: Snapshot, observer: O) -> Self {
        let seen = Arc::new(snapshot);
        let shared = Shared {
            state,
            setting,
            version: AtomicU64::new(0),
            newest: Mutex::new(Arc::clone(&seen)),
            updated: Notify::new(),
            observer,
        };
        Self { handle: Some(Handle { shared: Arc::new(shared), version: 0, seen }) }
    }

    fn shared(&self) -> Option<&Arc<Shared<O>>> {
        self.handle.as_ref().map(|handle| &handle.shared)
    }

    /// The same with another function of the caller's; the set is made again, as it may depend on it.
    fn set(self, change: impl FnOnce(&mut Setting)) -> Self
    where
        O: Clone,
    {
        let Some(shared) = self.shared() else { return self };
        let mut setting = shared.setting.clone();
        change(&mut setting);
        let current = shared.current();
        let targets = current.members.iter().map(|member| member.endpoint.target().clone()).collect();
        let is_regated = match (&setting.gates, &shared.setting.gates) {
            (Some(gates), Some(before)) => !Arc::ptr_eq(gates, before),
            (gates, _) => gates.is_some(),
        };
        let making = Making { is_regated, ..setting.making(&shared.state, None) };
        let snapshot = Snapshot::next(Some(&current), targets, &making);
        Self::of(Arc::clone(&shared.state), setting, snapshot, shared.observer.clone())
    }
}

/// How long endpoints take to answer, in the words that say so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saved {
    /// How old the balancer was, in nanoseconds: what times are counted from.
    pub at_ns: u64,
    /// The average of all endpoints, and when it was last fed.
    pub others: u64,
    /// That of each endpoint, by address.
    pub endpoints: Vec<(Arc<str>, u64)>,
}

/// A layer's state under its configuration, and the set of endpoints that was seen last.
struct Handle<O> {
    shared: Arc<Shared<O>>,
    version: u64,
    seen: Arc<Snapshot>,
}

impl<O> Clone for Handle<O> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), version: self.version, seen: Arc::clone(&self.seen) }
    }
}

impl<O> Handle<O> {
    /// Sees the newest set. Whoever is changing it just now is not waited for.
    fn refresh(&mut self) {
        let version = self.shared.version.load(Acquire);
        if version == self.version {
            return;
        }
        let newest = match self.shared.newest.try_lock() {
            Ok(newest) => newest,
            Err(TryLockError::Poisoned(newest)) => newest.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        (self.version, self.seen) = (version, Arc::clone(&newest));
    }
}

struct Shared<O> {
    state: Arc<State>,
    setting: Setting,
    /// How often the set was changed.
    version: AtomicU64,
    newest: Mutex<Arc<Snapshot>>,
    /// Those who follow the set.
    updated: Notify,
    observer: O,
}

/// What is configured, and the functions of the caller.
#[derive(Clone)]
struct Setting {
    config: BalanceConfig,
    hash: Option<Arc<HashFn>>,
    region: Option<Arc<KeyFn>>,
    subset: Option<(Arc<str>, Arc<KeyFn>)>,
    gates: Option<Arc<GateFn>>,
}

impl Setting {
    fn making<'a>(&'a self, state: &'a State, joined: Option<Now>) -> Making<'a> {
        Making {
            config: &self.config,
            state,
            gates: self.gates.as_deref(),
            is_regated: false,
            subset_label: self.subset.as_ref().map(|(label, _)| &**label),
            joined,
        }
    }

    fn ask<'a>(&self, head: &Head<'a>, now: Now) -> Ask<'a> {
        let config = &self.config;
        let key = || match &self.hash {
            Some(hash) => hash(head).map(HashKey::bits),
            None if config.policy == Policy::IpHash => {
                ClientAddr::of(head.extensions).map(policy::ip_hash::key)
            }
            None => None,
        };
        Ask {
            now,
            key: config.policy.is_by_key().then(key).flatten(),
            region: self.region.as_ref().filter(|_| config.regions.is_some()).and_then(|region| region(head)),
            subset: self.subset.as_ref().and_then(|(_, subset)| subset(head)),
            token: config.sticky.as_ref().and_then(|sticky| sticky.read(head.headers)),
            tried: Tried::of(head.extensions),
            is_beside: config.sticky.is_some() && head.extensions.get::<Beside>().is_some(),
        }
    }
}

impl<O> Shared<O> {
    /// A panic cannot leave it half written: every write is one assignment.
    fn newest(&self) -> MutexGuard<'_, Arc<Snapshot>> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn current(&self) -> Arc<Snapshot> {
        Arc::clone(&self.newest())
    }

    fn chooser<'a>(&'a self, snapshot: &'a Snapshot) -> Chooser<'a> {
        Chooser { config: &self.setting.config, state: &self.state, snapshot }
    }
}

layered! {
    /// Chooses an endpoint for each request; see the [module docs](self).
    BalanceLayer { handle } => Balance
}

impl<O: Observer> Explain for BalanceLayer<O> {
    fn kind(&self) -> &'static str {
        "balance"
    }

    fn explain(&self, now: Now, head: &mut Parts) -> Finding {
        let Some(shared) = self.shared() else { return Finding::Off };
        let snapshot = shared.current();
        let chooser = shared.chooser(&snapshot);
        let said = {
            let ask = shared.setting.ask(&Head::from(&*head), now);
            let choice = chooser.choose(&ask, chooser.turn(), &[]);
            let candidates = Candidates { chooser: &chooser, ask: &ask, now };
            let said = choice.map(|choice| (choice.place, Said { candidates, choice }.to_string()));
            said.ok_or_else(|| chooser.refusal(&ask))
        };
        let (place, said) = match said {
            Ok(said) => said,
            Err(rejection) => return Finding::Reject(rejection),
        };
        snapshot.members[place].endpoint.clone().tell(&mut head.extensions);
        Finding::Admit(said)
    }

    fn because(&self, now: Now, head: &Parts) -> Option<String> {
        let shared = self.shared()?;
        let snapshot = shared.current();
        let chooser = shared.chooser(&snapshot);
        let ask = shared.setting.ask(&Head::from(head), now);
        Some(Refused(Candidates { chooser: &chooser, ask: &ask, now }).to_string())
    }
}

impl<O> fmt::Debug for BalanceLayer<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(handle) = &self.handle else { return f.write_str("BalanceLayer(off)") };
        let members = handle.shared.current();
        let endpoints = members.members.iter().map(|member| &member.endpoint).collect::<Vec<_>>();
        f.debug_struct("BalanceLayer")
            .field("config", &handle.shared.setting.config)
            .field("endpoints", &endpoints)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::{set::MAX_KEPT, *};

    #[test]
    fn what_is_remembered_of_endpoints_that_are_gone_is_bounded() {
        let layer = BalanceLayer::new(["10.0.0.1:80"]);
        let first = layer.endpoints().remove(0);
        first.withdraw(Absence::Maintenance);
        for number in 0..1000 {
            layer.update([Target::new(format!("10.0.1.{number}:80"))]);
        }
        let kept = layer.shared().map(|shared| shared.current().kept.len());
        assert_eq!(kept, Some(MAX_KEPT));
        layer.update(["10.0.0.1:80"]);
        assert_eq!(layer.endpoints()[0].absences().next(), None, "it was forgotten: the first to go");
    }

    #[test]
    fn an_address_that_is_named_twice_counts_once() {
        let layer = BalanceLayer::new(["a:1", "b:1", "a:1"]);
        let addresses = layer.endpoints().iter().map(|it| it.address().to_string()).collect::<Vec<_>>();
        assert_eq!(addresses, ["a:1", "b:1"]);
    }
}
