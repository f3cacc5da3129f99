//! Metric and label names: the only room that knows them.
//!
//! Layers report facts through [`naka::observe::Observer`]; handles with their labels are looked up
//! when a generation is assembled, so a request never touches a map. Label values are names from
//! the configuration, hence bounded by it; what no configuration names any more is forgotten by
//! [`Metrics::keep`]. There are at most as many series as the configuration says: whoever has no room
//! shares those whose names are `_other`.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use http::StatusCode;
use naka::{
    balance::{Absence, BalanceLayer},
    circuit_breaker::{Phase, Transition},
    classify::Outcome,
    clock::Now,
    health::{Change, Standing},
    mirror::Copied,
    observe::Observer,
    reject::Rejection,
    retry::Stop,
    split::{Held, Tally},
    trace::TraceId,
};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, gauge::Gauge},
    registry::Registry,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::{debug, info, warn};

use crate::{
    config::checked::{Config, Name},
    seldom::Seldom,
};

mod alerts;
mod calls;
mod changes;
mod exchange;
mod family;
mod histogram;
mod levels;
mod process;
mod readings;
mod room;
mod telemetry;
mod text;
mod tls;

use alerts::AlertMetrics;
pub use alerts::Told;
use calls::CallLabels;
pub use calls::CallMetrics;
use changes::{Changes, Whose};
use family::Family;
use levels::Levels;
use room::{Entry, Owner, Room};
pub(crate) use telemetry::Passed;
use telemetry::TelemetryMetrics;
use tls::TlsMetrics;

pub use exchange::{Attempt, UpstreamMetrics};
pub use histogram::Histogram;
pub use levels::{BreakerLevel, BulkheadLevel, ConnectionsLevel, EndpointLevel};
pub use readings::{Durations, RouteReading, UpstreamReading, bounds_s};
pub use text::Format;
pub use tls::{Handshake, Ordering as CertificateOrder};

/// What those are called together that have no room.
const OTHER: &str = "_other";
/// Series, unless the configuration says otherwise.
const SERIES: usize = 100_000;
/// Scrapes at once.
const SCRAPES: usize = 2;

/// All metrics of one process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    durations: Family<RouteLabels, Histogram>,
    rejections: Family<RejectionLabels, Counter>,
    policies: Family<PolicyLabels, Counter>,
    waits: Family<PolicyName, Histogram>,
    transitions: Transitions,
    attempts: Family<AttemptLabels, Counter>,
    attempt_durations: Family<UpstreamName, Histogram>,
    connect_durations: Family<UpstreamName, Histogram>,
    arms: Family<ArmLabels, Counter>,
    calls: Family<CallLabels, Counter>,
    checks: Family<CheckLabels, Counter>,
    discoveries: Family<DiscoveryLabels, Counter>,
    store_questions: Family<StoreAnswerLabels, Counter>,
    store_durations: Family<StoreLabels, Histogram>,
    panics: Family<UpstreamName, Counter>,
    reloads: Family<ReloadLabels, Counter>,
    config: Family<ConfigLabels, Gauge>,
    generation: Gauge,
    generations_alive: Gauge,
    held_files: Gauge,
    /// Client connections that are open.
    pub connections: Gauge,
    buffered: Gauge,
    unbuffered: Counter,
    tunnels: Gauge,
    tunnelled: Family<WayLabels, Counter>,
    bodies: Arc<PolicyMetrics>,
    tls: TlsMetrics,
    alerts: AlertMetrics,
    telemetry: TelemetryMetrics,
    /// What is read when somebody asks.
    levels: Levels,
    series: Gauge,
    series_max: Gauge,
    series_dropped: Counter,
    room: Arc<Mutex<Room>>,
    dropping: Arc<Dropping>,
    /// Series of levels that had no room at the last scrape.
    levels_dropped: AtomicUsize,
    scrapes: Arc<Semaphore>,
    /// Levels are of one scrape at a time.
    scraping: Mutex<()>,
    /// When the process began.
    began: Now,
}

/// Who tells of series that have no room.
#[derive(Debug)]
struct Dropping {
    told: Seldom,
    series: Counter,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, EncodeLabelSet)]
struct RequestLabels {
    route: Name,
    status: &'static str,
    template: Name,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, EncodeLabelSet)]
struct RouteLabels {
    route: Name,
    template: Name,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, EncodeLabelSet)]
struct AttemptLabels {
    upstream: Name,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, EncodeLabelSet)]
struct UpstreamName {
    upstream: Name,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, EncodeLabelSet)]
struct PolicyName {
    policy: Name,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, EncodeLabelSet)]
struct TransitionLabels {
    policy: Name,
    from: &'static str,
    to: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, EncodeLabelSet)]
struct RejectionLabels {
    route: Name,
    policy: Name,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, EncodeLabelSet)]
struct PolicyLabels {
    policy: Name,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, EncodeLabelSet)]
struct ArmLabels {
    policy: String,
    arm: String,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, EncodeLabelSet)]
struct CheckLabels {
    upstream: Name,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, EncodeLabelSet)]
struct WayLabels {
    to: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, EncodeLabelSet)]
struct DiscoveryLabels {
    upstream: Name,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, EncodeLabelSet)]
struct StoreAnswerLabels {
    store: Name,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, EncodeLabelSet)]
struct StoreLabels {
    store: Name,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, EncodeLabelSet)]
struct ReloadLabels {
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, EncodeLabelSet)]
struct ConfigLabels {
    hash: String,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, EncodeLabelSet)]
struct BuildLabels {
    version: &'static str,
}

const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];
const CANCELLED: &str = "cancelled";
const RESULTS: [&str; 2] = ["passed", "failed"];
/// What came of a request of an arm.
const CAME: [&str; 3] = ["success", "failure", "neutral"];

/// Names each once: as what layers tell, and as the label.
macro_rules! outcomes {
    ($($did:ident $word:literal,)*) => {
        /// What a policy did with a request.
        #[derive(Clone, Copy, Debug)]
        enum Did { $($did,)* }

        const OUTCOMES: &[&str] = &[$($word,)*];
    };
}

outcomes! {
    Admitted "admitted",
    Rejected "rejected",
    WouldReject "would_reject",
    Replayed "replayed",
    Queued "queued",
    Delayed "delayed",
    Cancelled "cancelled",
    Opened "opened",
    Retried "retried",
    Hedged "hedged",
    HedgeWon "hedge_won",
    NotRetried "not_retried",
    BudgetSpent "budget_spent",
    FellBack "fell_back",
    WithoutStore "without_store",
    Mirrored "mirrored",
    MirrorFailed "mirror_failed",
    MirrorDropped "mirror_dropped",
}

/// Series of a route.
const OF_ROUTE: usize = CLASSES.len() + 1 + histogram::SERIES;

/// What happens to a circuit breaker again and again.
const USUAL: [(Phase, Phase); 4] = [
    (Phase::Closed, Phase::Open),
    (Phase::Open, Phase::HalfOpen),
    (Phase::HalfOpen, Phase::Closed),
    (Phase::HalfOpen, Phase::Open),
];

const ANSWERS: [&str; 5] = ["granted", "refused", "failed", "timeout", "busy"];
const LOOKS: [&str; 4] = ["taken", "same", "held", "failed"];

/// A tunnel, in the gauge of them.
#[derive(Debug)]
pub(crate) struct OpenTunnel(Gauge);

impl Drop for OpenTunnel {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Metrics {
    /// All at zero.
    pub fn new() -> Self {
        let (room, series_dropped) = (Arc::new(Mutex::new(Room::new(SERIES))), Counter::default());
        let dropping = Arc::new(Dropping { told: Seldom::new(), series: series_dropped.clone() });
        let transitions = Family::default();
        let transitions = Transitions {
            of: transitions,
            room: Arc::clone(&room),
            dropping: Arc::clone(&dropping),
            last: Arc::default(),
        };
        let mut metrics = Self {
            registry: Registry::default(),
            requests: Family::default(),
            durations: Family::default(),
            rejections: Family::default(),
            policies: Family::default(),
            waits: Family::default(),
            transitions,
            attempts: Family::default(),
            attempt_durations: Family::default(),
            connect_durations: Family::default(),
            arms: Family::default(),
            calls: Family::default(),
            checks: Family::default(),
            discoveries: Family::default(),
            store_questions: Family::default(),
            store_durations: Family::default(),
            panics: Family::default(),
            reloads: Family::default(),
            config: Family::default(),
            generation: Gauge::default(),
            generations_alive: Gauge::default(),
            held_files: Gauge::default(),
            connections: Gauge::default(),
            buffered: Gauge::default(),
            unbuffered: Counter::default(),
            tunnels: Gauge::default(),
            tunnelled: Family::default(),
            bodies: Arc::default(),
            tls: TlsMetrics::default(),
            alerts: AlertMetrics::default(),
            telemetry: TelemetryMetrics::default(),
            levels: Levels::default(),
            series: Gauge::default(),
            series_max: Gauge::default(),
            series_dropped,
            room,
            dropping,
            levels_dropped: AtomicUsize::new(0),
            scrapes: Arc::new(Semaphore::new(SCRAPES)),
            scraping: Mutex::default(),
            began: Now::read(),
        };
        metrics.register();
        metrics.tunnelled(0, 0); // So that they are there before the first, which is one more then.
        for result in [ReloadResult::Applied, ReloadResult::Unchanged, ReloadResult::Refused] {
            drop(metrics.reloads.get_or_create(&ReloadLabels { result: result.word() }));
        }
        metrics
    }

    fn register(&mut self) {
        process::register(&mut self.registry);
        let registry = self.registry.sub_registry_with_prefix("naka");
        let build = Family::<BuildLabels, Gauge>::default();
        build.get_or_create(&BuildLabels { version: env!("CARGO_PKG_VERSION") }).set(1);
        registry.register("build_info", "1 for what is running", build);
        registry.register("requests", "Requests whose responses have ended", self.requests.clone());
        registry.register(
            "request_duration_seconds",
            "From the request head to the end of the response body",
            self.durations.clone(),
        );
        registry.register("rejections", "Requests the gateway itself refused", self.rejections.clone());
        registry.register("policy_decisions", "What each policy decided", self.policies.clone());
        registry.register(
            "bulkhead_wait_duration_seconds",
            "How long requests have waited for a place, whatever came of it",
            self.waits.clone(),
        );
        registry.register(
            "circuit_breaker_transitions",
            "Changes of circuit breakers, those of keys and of endpoints among them",
            self.transitions.of.clone(),
        );
        registry.register(
            "upstream_requests",
            "Attempts to have an answer of an upstream, each retry and hedge among them, by outcome",
            self.attempts.clone(),
        );
        registry.register(
            "upstream_request_duration_seconds",
            "From the begin of an attempt to the head of the response, the failure, or when it was given up",
            self.attempt_durations.clone(),
        );
        registry.register(
            "upstream_connect_duration_seconds",
            "How long it took to make a connection to an endpoint, TLS included, of those that came about",
            self.connect_durations.clone(),
        );
        registry.register(
            "split_requests",
            "What came of the requests of each arm of a split",
            self.arms.clone(),
        );
        registry.register(
            "compose_calls",
            "What became of the calls of each route that composes its answer",
            self.calls.clone(),
        );
        registry.register("health_checks", "Health checks that have ended", self.checks.clone());
        let panics = self.panics.clone();
        registry.register("upstream_panics", "Requests to endpoints that are not well: too few are", panics);
        registry.register("discovery_looks", "Looks for endpoints, by result", self.discoveries.clone());
        let (questions, durations) = (self.store_questions.clone(), self.store_durations.clone());
        registry.register("store_questions", "Questions to stores of rate limits, by result", questions);
        registry.register("store_question_duration_seconds", "How long those were waited for", durations);
        registry.register("reloads", "Changes of the configuration, by result", self.reloads.clone());
        registry.register("config_info", "The texts in force, by their hash", self.config.clone());
        registry.register("generation", "The generation in force", self.generation.clone());
        registry.register(
            "generations_alive",
            "Generations that still serve something",
            self.generations_alive.clone(),
        );
        registry.register("held_files", "Files held at an earlier version", self.held_files.clone());
        registry.register("connections", "Client connections that are open", self.connections.clone());
        self.tls.register(registry);
        self.alerts.register(registry);
        self.telemetry.register(registry);
        self.levels.register(registry);
        registry.register(
            "series",
            "Series that are kept, but for those read when asked",
            self.series.clone(),
        );
        registry.register("series_max", "Series that there may be", self.series_max.clone());
        registry.register(
            "series_dropped",
            "Series that had no room, and share those of `_other` or are not shown",
            self.series_dropped.clone(),
        );
        registry.register(
            "buffered_bytes",
            "Bytes of bodies that are held because they may be needed again",
            self.buffered.clone(),
        );
        registry.register(
            "unbuffered_bodies",
            "Bodies that were not held because there was no room",
            self.unbuffered.clone(),
        );
        registry.register("tunnels", "Upgraded connections that are open", self.tunnels.clone());
        registry.register(
            "tunnel_bytes",
            "Bytes that upgraded connections have carried, of those that have ended",
            self.tunnelled.clone(),
        );
    }

    /// One tunnel more, until what this returns is dropped.
    pub(crate) fn tunnel(&self) -> OpenTunnel {
        self.tunnels.inc();
        OpenTunnel(self.tunnels.clone())
    }

    /// Upgraded connections that are open.
    pub(crate) fn open_tunnels(&self) -> i64 {
        self.tunnels.get()
    }

    /// What a tunnel that has ended has carried to the upstream, and to the client.
    pub(crate) fn tunnelled(&self, up: u64, down: u64) {
        for (to, bytes) in [("upstream", up), ("client", down)] {
            self.tunnelled.get_or_create(&WayLabels { to }).inc_by(bytes);
        }
    }

    /// Makes room for the series of a configuration that may come into force. [`in_force`](Self::in_force) bounds them.
    pub fn prepare(&self, config: &Config) {
        self.room().prepare(config.gateway.max_series);
    }

    /// What is over the bound is shown no more; of a route whoever asks for its handles next gets those of `_other`.
    fn bound(&self, max: usize) {
        let gone = self.room().bound(max);
        for owner in &gone {
            self.forget(owner);
        }
        if !gone.is_empty() {
            let gone = gone.len();
            warn!(
                max,
                gone,
                "series of metrics are left out, for there may be fewer (`gateway.telemetry.metrics.max_series`)"
            );
        }
    }

    /// Who has no room is another.
    fn entered(&self, name: &Name, owner: Owner, series: usize) -> Name {
        let entry = self.room().enter(owner, series);
        self.dropping.tell(entry, name, series);
        if matches!(entry, Entry::Known | Entry::New) { Arc::clone(name) } else { OTHER.into() }
    }

    /// The handles of one route, whose paths have this template.
    pub fn route(&self, route: &Name, template: &Name) -> RouteMetrics {
        let owner = Owner::Route(Arc::clone(route), Arc::clone(template));
        let name = self.entered(route, owner, OF_ROUTE);
        let template = if *name == *OTHER { OTHER.into() } else { Arc::clone(template) };
        let status = |status| {
            let (route, template) = (Arc::clone(&name), Arc::clone(&template));
            self.requests.get_or_create(&RequestLabels { route, status, template })
        };
        RouteMetrics {
            route: Arc::clone(route),
            by_class: CLASSES.map(status),
            cancelled: status(CANCELLED),
            duration: self
                .durations
                .get_or_create(&RouteLabels { route: Arc::clone(&name), template: Arc::clone(&template) }),
        }
    }

    /// Shows routes with zeros, those that are not shown yet; they come in the order of their names.
    pub fn show_routes(&self, routes: impl Iterator<Item = (Name, Name)> + Clone) {
        let new = {
            let room = self.room();
            let mut shown = room.owners().map_while(|owner| match owner {
                Owner::Route(route, template) => Some((route, template)),
                _ => None,
            });
            let are_all_shown =
                routes.clone().all(|(route, template)| shown.next() == Some((&route, &template)));
            let is_new = |(route, template): &(Name, Name)| {
                !are_all_shown && !room.has(&Owner::Route(Arc::clone(route), Arc::clone(template)))
            };
            routes.filter(is_new).collect::<Vec<_>>() // As after most changes there are none.
        };
        for (route, template) in &new {
            self.route(route, template);
        }
    }

    /// Shows a policy with zeros, if it is not shown yet.
    pub fn show_policy(&self, policy: &Name) {
        if !self.room().has(&Owner::Policy(Arc::clone(policy))) {
            self.policy(policy);
        }
    }

    /// What each policy has done so far, but for what it never did.
    pub fn outcomes(&self) -> Vec<(Name, &'static str, u64)> {
        let policies = |owner: &Owner| match owner {
            Owner::Policy(policy) => Some(Arc::clone(policy)),
            _ => None,
        };
        let policies = self.room().owners().filter_map(policies).collect::<Vec<_>>();
        let mut outcomes = Vec::new();
        for policy in policies {
            for &outcome in OUTCOMES {
                let count = self.policies.get(&PolicyLabels { policy: Arc::clone(&policy), outcome });
                let count = count.map_or(0, |count| count.get());
                if count > 0 {
                    outcomes.push((Arc::clone(&policy), outcome, count));
                }
            }
        }
        outcomes
    }

    /// The handles of one policy.
    pub fn policy(&self, policy: &Name) -> Arc<PolicyMetrics> {
        Arc::new(self.of_policy(policy))
    }

    /// The handles of a bulkhead, where requests wait.
    pub fn bulkhead(&self, policy: &Name) -> Arc<PolicyMetrics> {
        let name = self.entered(policy, Owner::Waits(Arc::clone(policy)), histogram::SERIES);
        let waits = self.waits.get_or_create(&PolicyName { policy: name });
        Arc::new(PolicyMetrics { waits: Some(waits), ..self.of_policy(policy) })
    }

    /// The handles of a circuit breaker, or of several, which change.
    pub fn breaker(&self, policy: &Name) -> Arc<PolicyMetrics> {
        for (from, to) in USUAL {
            self.transitions.of(policy, from.word(), to.word()); // So that the first one is seen to be one more.
        }
        Arc::new(PolicyMetrics { transitions: Some(self.transitions.clone()), ..self.of_policy(policy) })
    }

    fn of_policy(&self, policy: &Name) -> PolicyMetrics {
        let name = self.entered(policy, Owner::Policy(Arc::clone(policy)), OUTCOMES.len());
        let by_outcome = std::array::from_fn(|outcome| {
            let (policy, outcome) = (Arc::clone(&name), OUTCOMES[outcome]);
            self.policies.get_or_create(&PolicyLabels { policy, outcome })
        });
        let policy = Arc::clone(policy);
        PolicyMetrics { policy, told: Seldom::new(), by_outcome, waits: None, transitions: None }
    }

    /// The handles of whoever looks for the endpoints of an upstream.
    pub fn discovery(&self, upstream: &Name) -> DiscoveryMetrics {
        let name = self.entered(upstream, Owner::Discovery(Arc::clone(upstream)), LOOKS.len());
        let [taken, same, held, failed] = LOOKS.map(|result| {
            self.discoveries.get_or_create(&DiscoveryLabels { upstream: Arc::clone(&name), result })
        });
        DiscoveryMetrics { taken, same, held, failed }
    }

    /// The handles of whoever asks a store. There are a few at most.
    pub fn store(&self, store: &Name) -> StoreMetrics {
        let series = ANSWERS.len() + histogram::SERIES;
        let name = self.entered(store, Owner::Store(Arc::clone(store)), series);
        let [granted, refused, failed, given_up, busy] = ANSWERS.map(|result| {
            self.store_questions.get_or_create(&StoreAnswerLabels { store: Arc::clone(&name), result })
        });
        let took = self.store_durations.get_or_create(&StoreLabels { store: name });
        StoreMetrics { granted, refused, failed, given_up, busy, took }
    }

    /// The handles of whoever asks an upstream.
    pub fn upstream(&self, upstream: &Name) -> Arc<UpstreamMetrics> {
        let series = exchange::OUTCOMES.len() + 2 * histogram::SERIES;
        let name = self.entered(upstream, Owner::Upstream(Arc::clone(upstream)), series);
        let labels = UpstreamName { upstream: Arc::clone(&name) };
        Arc::new(UpstreamMetrics {
            by_outcome: exchange::OUTCOMES.map(|outcome| {
                self.attempts.get_or_create(&AttemptLabels { upstream: Arc::clone(&name), outcome })
            }),
            took: self.attempt_durations.get_or_create(&labels),
            connected: self.connect_durations.get_or_create(&labels),
        })
    }

    /// Makes the handles of the arms of one split.
    pub fn split(&self, policy: &Name) -> impl Fn(&Arc<str>) -> ArmMetrics + Send + Sync + 'static {
        let (arms, room, policy) = (self.arms.clone(), Arc::clone(&self.room), Arc::clone(policy));
        let dropping = Arc::clone(&self.dropping);
        move |arm| {
            let entry = locked(&room).enter(Owner::Arm(Arc::clone(&policy), Arc::clone(arm)), CAME.len());
            dropping.tell(entry, &policy, CAME.len());
            let is_shown = matches!(entry, Entry::Known | Entry::New);
            let (of, name) = if is_shown { (&*policy, &**arm) } else { (OTHER, OTHER) };
            let [success, failure, neutral] =
                CAME.map(|outcome| arms.get_or_create(&ArmLabels::new(of, name, outcome)));
            ArmMetrics { policy: Arc::clone(&policy), arm: Arc::clone(arm), success, failure, neutral }
        }
    }

    /// The handles of the calls of one route, in their order.
    pub fn calls<'c>(&self, route: &Name, calls: impl Iterator<Item = &'c Name>) -> CallMetrics {
        let one = |call: &Name| {
            let owner = Owner::Call(Arc::clone(route), Arc::clone(call));
            let route = self.entered(route, owner, calls::OUTCOMES.len());
            let call = if *route == *OTHER { OTHER.into() } else { Arc::clone(call) };
            calls::OUTCOMES.map(|outcome| {
                let (route, call) = (Arc::clone(&route), Arc::clone(&call));
                self.calls.get_or_create(&CallLabels { route, call, outcome })
            })
        };
        CallMetrics(calls.map(one).collect())
    }

    /// The handles of the bounds on bodies, which belong to routes and have no names: what they refuse is
    /// counted with the route.
    pub fn body_limit(&self) -> Arc<PolicyMetrics> {
        Arc::clone(&self.bodies)
    }

    /// The handles of one upstream's balancer.
    pub fn balancer(&self, upstream: &Name) -> Arc<BalanceMetrics> {
        let name = self.entered(upstream, Owner::Balancer(Arc::clone(upstream)), 1);
        let panicked = self.panics.get_or_create(&UpstreamName { upstream: name });
        Arc::new(BalanceMetrics { upstream: Arc::clone(upstream), told: Seldom::new(), panicked })
    }

    /// The handles of one upstream, whose endpoints are checked.
    pub fn checks(&self, upstream: &Name) -> CheckMetrics {
        let name = self.entered(upstream, Owner::Checks(Arc::clone(upstream)), RESULTS.len());
        let [passed, failed] = RESULTS
            .map(|result| self.checks.get_or_create(&CheckLabels { upstream: Arc::clone(&name), result }));
        CheckMetrics { upstream: Arc::clone(upstream), passed, failed }
    }

    /// Forgets everything about routes (with their templates), policies, arms of splits, calls of routes, upstreams and stores
    /// that are none of these.
    pub fn keep(
        &self,
        is_route: impl Fn(&str, Option<&str>) -> bool,
        is_policy: impl Fn(&str) -> bool,
        is_arm: impl Fn(&str, &str) -> bool,
        is_call: impl Fn(&str, &str) -> bool,
        is_upstream: impl Fn(&str, OfUpstream) -> bool,
        is_store: impl Fn(&str) -> bool,
    ) {
        let is = |owner: &Owner| match owner {
            Owner::Route(route, template) => is_route(route, Some(template)),
            Owner::Policy(policy) | Owner::Waits(policy) | Owner::Transitions(policy, ..) => {
                is_policy(policy)
            }
            Owner::Arm(policy, arm) => is_arm(policy, arm),
            Owner::Call(route, call) => is_call(route, call),
            Owner::Upstream(upstream) | Owner::Balancer(upstream) => {
                is_upstream(upstream, OfUpstream::Itself)
            }
            Owner::Checks(upstream) => is_upstream(upstream, OfUpstream::Checks),
            Owner::Discovery(upstream) => is_upstream(upstream, OfUpstream::Discovery),
            Owner::Store(store) => is_store(store),
            Owner::Rejections(RejectionLabels { route, policy, .. }) => {
                (route.is_empty() || is_route(route, None)) && (policy.is_empty() || is_policy(policy))
            }
        };
        self.room().keep(is, |owner| self.forget(owner));
    }

    fn forget(&self, owner: &Owner) {
        match owner {
            Owner::Route(route, template) => {
                let (route, template) = (|| Arc::clone(route), || Arc::clone(template));
                for status in CLASSES.into_iter().chain([CANCELLED]) {
                    self.requests.remove(&RequestLabels { route: route(), status, template: template() });
                }
                self.durations.remove(&RouteLabels { route: route(), template: template() });
            }
            Owner::Policy(policy) => {
                for &outcome in OUTCOMES {
                    self.policies.remove(&PolicyLabels { policy: Arc::clone(policy), outcome });
                }
            }
            Owner::Waits(policy) => _ = self.waits.remove(&PolicyName { policy: Arc::clone(policy) }),
            Owner::Transitions(policy, from, to) => {
                self.transitions.of.remove(&TransitionLabels { policy: Arc::clone(policy), from, to });
            }
            Owner::Arm(policy, arm) => {
                for outcome in CAME {
                    self.arms.remove(&ArmLabels::new(policy, arm, outcome));
                }
            }
            Owner::Call(route, call) => {
                for outcome in calls::OUTCOMES {
                    let (route, call) = (Arc::clone(route), Arc::clone(call));
                    self.calls.remove(&CallLabels { route, call, outcome });
                }
            }
            Owner::Upstream(upstream) => {
                for outcome in exchange::OUTCOMES {
                    self.attempts.remove(&AttemptLabels { upstream: Arc::clone(upstream), outcome });
                }
                let labels = UpstreamName { upstream: Arc::clone(upstream) };
                self.attempt_durations.remove(&labels);
                self.connect_durations.remove(&labels);
            }
            Owner::Balancer(upstream) => {
                self.panics.remove(&UpstreamName { upstream: Arc::clone(upstream) });
            }
            Owner::Checks(upstream) => {
                for result in RESULTS {
                    self.checks.remove(&CheckLabels { upstream: Arc::clone(upstream), result });
                }
            }
            Owner::Discovery(upstream) => {
                for result in LOOKS {
                    self.discoveries.remove(&DiscoveryLabels { upstream: Arc::clone(upstream), result });
                }
            }
            Owner::Store(store) => {
                for result in ANSWERS {
                    self.store_questions.remove(&StoreAnswerLabels { store: Arc::clone(store), result });
                }
                self.store_durations.remove(&StoreLabels { store: Arc::clone(store) });
            }
            Owner::Rejections(labels) => _ = self.rejections.remove(labels),
        }
    }

    fn room(&self) -> MutexGuard<'_, Room> {
        locked(&self.room)
    }

    /// Counts a refusal. Off the fast path: it looks its labels up.
    pub fn rejected(&self, route: &str, rejection: &Rejection) {
        let reason = rejection.reason.word();
        let labels = RejectionLabels {
            route: route.into(),
            policy: rejection.policy.clone().unwrap_or_default(),
            reason,
        };
        if let Some(counter) = self.rejections.get(&labels) {
            counter.inc();
            return;
        }
        let name = self.entered(&labels.route, Owner::Rejections(labels.clone()), 1);
        let is_left_out = *name == *OTHER;
        let labels =
            if is_left_out { RejectionLabels { route: name, policy: OTHER.into(), reason } } else { labels };
        self.rejections.get_or_create(&labels).inc();
    }

    /// Leave to read all metrics, for one of a few at once.
    pub fn begin_scrape(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.scrapes).try_acquire_owned().ok()
    }

    /// Reads what is read when somebody asks, by `levels`, and shows everything. `alive` is the number of generations that
    /// still serve. Takes a while where there is much: not for a thread that serves requests.
    pub fn scrape(&self, format: Format, alive: usize, levels: impl FnOnce(&Self)) -> String {
        let _one = self.scraping.lock().unwrap_or_else(PoisonError::into_inner); // All of it is written anew each time.
        let (used, max) = self.room().size();
        self.levels.begin(max.saturating_sub(used));
        levels(self);
        let (dropped, before) = (self.levels.left_out(), &self.levels_dropped);
        let more = dropped.saturating_sub(before.fetch_max(dropped, Relaxed)); // Those that swing are known.
        self.dropping.count(more, "read when asked");
        self.render(format, alive)
    }

    /// Everything as it is known.
    pub fn render(&self, format: Format, alive: usize) -> String {
        self.generations_alive.set(i64::try_from(alive).unwrap_or(i64::MAX));
        let (used, max) = self.room().size();
        self.series.set(i64::try_from(used).unwrap_or(i64::MAX));
        self.series_max.set(i64::try_from(max).unwrap_or(i64::MAX));
        text::render(&self.registry, format)
    }

    /// Says what is held of bodies, and of how many there was no room to.
    pub fn held(&self, held: &naka::held::Held) {
        self.buffered.set(i64::try_from(held.bytes()).unwrap_or(i64::MAX));
        self.unbuffered.inner().store(held.refused(), Relaxed);
    }

    /// Counts a reload.
    pub fn reloaded(&self, result: ReloadResult) {
        self.reloads.get_or_create(&ReloadLabels { result: result.word() }).inc();
    }

    /// A handshake of TLS has ended on this listener.
    pub fn handshake(&self, listener: &Name, how: Handshake) {
        self.tls.handshake(listener, how);
    }

    /// An order of the certificate that is called so has ended.
    pub fn certificate_ordered(&self, id: &Name, how: CertificateOrder) {
        self.tls.ordered(id, how);
    }

    /// The certificate that is called so is there, in this file; it ends then, in seconds since 1970.
    pub fn certificate_there(&self, id: &Name, file: &str, not_after_s: u64) {
        self.tls.there(id, file, not_after_s);
    }

    /// Says which generation is in force, of which configuration.
    pub fn in_force(&self, generation: u64, hash: String, config: &Config) {
        self.bound(config.gateway.max_series);
        self.tls.in_force(config);
        self.generation.set(i64::try_from(generation).unwrap_or(i64::MAX));
        self.config.clear();
        self.config.get_or_create(&ConfigLabels { hash }).set(1);
    }

    /// Says how many files are held back.
    pub fn held_files(&self, count: usize) {
        self.held_files.set(i64::try_from(count).unwrap_or(i64::MAX));
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// What there may be of an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OfUpstream {
    /// The upstream.
    Itself,
    /// Checks of its endpoints.
    Checks,
    /// Whoever looks for its endpoints.
    Discovery,
}

/// How a reload ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReloadResult {
    /// A new generation is in force.
    Applied,
    /// Nothing had changed.
    Unchanged,
    /// The generation before stays in force.
    Refused,
}

impl ReloadResult {
    /// The word in metric and log.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Unchanged => "unchanged",
            Self::Refused => "refused",
        }
    }
}

/// The handles of whoever asks one store.
#[derive(Clone, Debug)]
pub struct StoreMetrics {
    /// It has granted something.
    pub granted: Counter,
    /// It has refused.
    pub refused: Counter,
    /// It could not be asked, or made no sense.
    pub failed: Counter,
    /// Nobody waited any more.
    pub given_up: Counter,
    /// Too many questions were under way.
    pub busy: Counter,
    /// How long an answer was waited for.
    pub took: Histogram,
}

/// The handles of whoever looks for the endpoints of one upstream.
#[derive(Clone, Debug)]
pub struct DiscoveryMetrics {
    /// Another set was found, and taken.
    pub taken: Counter,
    /// The same set was found.
    pub same: Counter,
    /// What was said is held back.
    pub held: Counter,
    /// Nothing could be found out.
    pub failed: Counter,
}

/// The handles of one route.
#[derive(Debug)]
pub struct RouteMetrics {
    route: Name,
    by_class: [Counter; 5],
    cancelled: Counter,
    duration: Histogram,
}

impl RouteMetrics {
    /// The route's name.
    pub const fn route(&self) -> &Name {
        &self.route
    }

    /// The response has ended, or its client went away. The trace, if anybody keeps it, is shown beside the duration.
    pub fn ended(&self, status: StatusCode, is_complete: bool, took: Duration, exemplar: Option<TraceId>) {
        if is_complete { &self.by_class[class(status)] } else { &self.cancelled }.inc();
        self.duration.observe(took, exemplar);
    }
}

/// The class of a status among [`CLASSES`].
fn class(status: StatusCode) -> usize {
    usize::from(status.as_u16() / 100).clamp(1, CLASSES.len()) - 1
}

/// The handles of one policy: what the layers of the gateway report to.
#[derive(Debug, Default)]
pub struct PolicyMetrics {
    policy: Name,
    told: Seldom,
    by_outcome: [Counter; OUTCOMES.len()],
    /// Of a bulkhead.
    waits: Option<Histogram>,
    /// Of circuit breakers.
    transitions: Option<Transitions>,
}

/// Changes of circuit breakers, which are seldom: they are looked up by their labels.
#[derive(Clone, Debug)]
struct Transitions {
    of: Family<TransitionLabels, Counter>,
    room: Arc<Mutex<Room>>,
    dropping: Arc<Dropping>,
    /// The last ones of the process.
    last: Arc<Changes>,
}

impl Transitions {
    fn of(&self, policy: &Name, from: &'static str, to: &'static str) -> Counter {
        let entry = locked(&self.room).enter(Owner::Transitions(Arc::clone(policy), from, to), 1);
        self.dropping.tell(entry, policy, 1);
        let is_shown = matches!(entry, Entry::Known | Entry::New);
        let policy = if is_shown { Arc::clone(policy) } else { OTHER.into() };
        self.of.get_or_create(&TransitionLabels { policy, from, to })
    }
}

impl Dropping {
    fn tell(&self, entry: Entry, whose: &str, series: usize) {
        if entry == Entry::NewlyLeftOut {
            self.count(series, whose);
        }
    }

    /// One line tells of many.
    fn count(&self, series: usize, whose: &str) {
        if series == 0 {
            return;
        }
        let dropped = self.series.inc_by(u64::try_from(series).unwrap_or(u64::MAX)) + series as u64;
        if self.told.is_due() {
            warn!(
                whose,
                dropped,
                "no room for more series of metrics: they share `_other` (`gateway.telemetry.metrics.max_series`)"
            );
        }
    }
}

impl PolicyMetrics {
    fn count(&self, did: Did) {
        self.by_outcome[did as usize].inc();
    }

    fn keep(&self, whose: Whose, transition: &Transition) {
        if let Some(transitions) = &self.transitions {
            transitions.last.tell(whose, transition);
        }
    }

    fn changed(&self, from: Phase, to: Phase) {
        if to == Phase::Open {
            self.count(Did::Opened);
        }
        if let Some(transitions) = &self.transitions {
            transitions.of(&self.policy, from.word(), to.word()).inc();
        }
    }
}

impl Observer for PolicyMetrics {
    fn admitted(&self) {
        self.count(Did::Admitted);
    }
    fn rejected(&self, _: &Rejection) {
        self.count(Did::Rejected);
    }
    fn would_reject(&self, _: &Rejection) {
        self.count(Did::WouldReject);
    }
    fn replayed(&self) {
        self.count(Did::Replayed);
    }
    fn queued(&self) {
        self.count(Did::Queued);
    }
    fn delayed(&self) {
        self.count(Did::Delayed);
    }
    fn cancelled(&self) {
        self.count(Did::Cancelled);
    }
    fn retried(&self) {
        self.count(Did::Retried);
    }
    fn hedged(&self) {
        self.count(Did::Hedged);
    }
    fn hedge_won(&self) {
        self.count(Did::HedgeWon);
    }
    fn not_retried(&self, stop: Stop) {
        self.count(if stop == Stop::Budget { Did::BudgetSpent } else { Did::NotRetried });
    }
    fn fell_back(&self) {
        self.count(Did::FellBack);
    }
    fn without_store(&self) {
        self.count(Did::WithoutStore);
    }
    fn copied(&self, copied: Copied) {
        self.count(match copied {
            Copied::Answered(_) => Did::Mirrored,
            Copied::Full | Copied::TooLong | Copied::NoRoom | Copied::Unread => Did::MirrorDropped,
            _ => Did::MirrorFailed,
        });
    }
    fn waited(&self, waited: Duration) {
        if let Some(waits) = &self.waits {
            waits.observe(waited, None);
        }
    }
    /// Each is told of one breaker; of those that are one for each key, seldom.
    fn transition(&self, transition: &Transition) {
        let Transition { from, to, cause, key, .. } = transition;
        self.changed(*from, *to);
        if key.is_none() || self.told.is_due() {
            let (policy, is_keyed) = (&self.policy, key.is_some());
            self.keep(Whose::Policy(Arc::clone(policy)), transition);
            info!(%policy, from = from.word(), to = to.word(), ?cause, is_keyed, "a circuit breaker has changed");
        }
    }
}

/// What one arm of a split reports to.
#[derive(Debug)]
pub struct ArmMetrics {
    policy: Name,
    arm: Name,
    success: Counter,
    failure: Counter,
    neutral: Counter,
}

impl Observer for ArmMetrics {
    fn settled(&self, outcome: Outcome) {
        match outcome {
            Outcome::Success => &self.success,
            Outcome::Failure => &self.failure,
            Outcome::Neutral => &self.neutral,
        }
        .inc();
    }

    fn held(&self, held: &Held) {
        let (policy, arm) = (&self.policy, &self.arm);
        if let Held::Guard { arm: Tally { total, failed, .. }, baseline } = held {
            let (baseline_total, baseline_failed) = (baseline.total, baseline.failed);
            warn!(%policy, %arm, failed, total, baseline_failed, baseline_total, "an arm of a split fails, and is held");
        } else {
            warn!(%policy, %arm, "an arm of a split is held by hand");
        }
    }

    fn released(&self) {
        info!(policy = %self.policy, arm = %self.arm, "an arm of a split is held no longer");
    }
}

impl ArmLabels {
    fn new(policy: &str, arm: &str, outcome: &'static str) -> Self {
        Self { policy: policy.to_owned(), arm: arm.to_owned(), outcome }
    }
}

/// A panic cannot leave it half written: it would have to be one of the maps'.
fn locked(room: &Mutex<Room>) -> MutexGuard<'_, Room> {
    room.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the breaker of one endpoint reports to.
#[derive(Clone, Debug)]
pub struct EndpointMetrics {
    upstream: Name,
    endpoint: Arc<str>,
    all: Arc<PolicyMetrics>,
}

impl EndpointMetrics {
    /// Of this endpoint; `all` are those of the policy.
    pub fn new(upstream: &Name, endpoint: &Arc<str>, all: &Arc<PolicyMetrics>) -> Self {
        Self { upstream: Arc::clone(upstream), endpoint: Arc::clone(endpoint), all: Arc::clone(all) }
    }
}

impl Observer for EndpointMetrics {
    fn would_reject(&self, rejection: &Rejection) {
        self.all.would_reject(rejection);
    }
    fn transition(&self, transition: &Transition) {
        let Transition { from, to, cause, .. } = transition;
        self.all.changed(*from, *to);
        let Self { upstream, endpoint, .. } = self;
        self.all.keep(Whose::Endpoint(Arc::clone(upstream), Arc::clone(endpoint)), transition);
        let (from, to) = (from.word(), to.word());
        info!(%upstream, %endpoint, from, to, ?cause, "the circuit breaker of an endpoint has changed");
    }
}

/// A balancer of the gateway.
pub type Balancer = BalanceLayer<Arc<BalanceMetrics>>;

/// What the balancer of one upstream reports to.
#[derive(Debug)]
pub struct BalanceMetrics {
    upstream: Name,
    told: Seldom,
    panicked: Counter,
}

impl Observer for BalanceMetrics {
    /// Each request counts, and seldom one is told.
    fn panicked(&self) {
        self.panicked.inc();
        if self.told.is_due() {
            warn!(upstream = %self.upstream, "too few endpoints are well: requests go to those that are not, too (`balance.panic`)");
        }
    }
}

/// The handles of one upstream: what its health checks report to.
#[derive(Debug)]
pub struct CheckMetrics {
    upstream: Name,
    passed: Counter,
    failed: Counter,
}

impl Observer for CheckMetrics {
    fn checked(&self, is_passed: bool) {
        if is_passed { &self.passed } else { &self.failed }.inc();
    }

    fn health_changed(&self, change: &Change) {
        let Change { endpoint, from, to, checks, why, .. } = change;
        let (upstream, cause) = (&self.upstream, why.as_deref().unwrap_or_default());
        let is_on_purpose =
            endpoint.absences().any(|absence| matches!(absence, Absence::Draining | Absence::Maintenance));
        let endpoint = endpoint.address();
        match (from, to) {
            (_, Standing::Unhealthy) if is_on_purpose => {
                info!(%upstream, %endpoint, cause, failures = checks, "an endpoint that is taken out is unhealthy");
            }
            (_, Standing::Unhealthy) => {
                warn!(%upstream, %endpoint, cause, failures = checks, "an endpoint is unhealthy");
            }
            (Standing::Unhealthy, _) => {
                info!(%upstream, %endpoint, passes = checks, "an endpoint is healthy again");
            }
            _ => debug!(%upstream, %endpoint, "an endpoint is healthy"),
        }
    }
}
