//! Metric and label names: the only room that knows them.
//!
//! Layers report facts through [`naka::observe::Observer`]; handles with their labels are looked up
//! when a generation is assembled, so a request never touches a map. Label values are names from
//! the configuration, hence bounded by it; what no configuration names any more is forgotten by
//! [`Metrics::keep`].

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, Ordering::Relaxed},
    },
    time::Duration,
};

use http::StatusCode;
use naka::{
    balance::{Absence, BalanceLayer},
    circuit_breaker::{Phase, Transition},
    classify::Outcome,
    health::{Change, Standing},
    mirror::Copied,
    observe::Observer,
    reject::Rejection,
    retry::Stop,
    split::{Held, Tally},
};
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

use tracing::{debug, info, warn};

use crate::{
    config::checked::{Config, Name},
    seldom::Seldom,
};

mod alerts;
mod tls;

use alerts::AlertMetrics;
pub use alerts::Told;
use tls::TlsMetrics;
pub use tls::{Handshake, Ordering as CertificateOrder};

/// All metrics of one process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    durations: Family<RouteLabels, Histogram>,
    rejections: Family<RejectionLabels, Counter>,
    policies: Family<PolicyLabels, Counter>,
    levels: Family<LevelLabels, Gauge>,
    arms: Family<ArmLabels, Counter>,
    arm_levels: Family<ArmLevelLabels, Gauge>,
    endpoints: Family<EndpointLabels, Gauge>,
    checks: Family<CheckLabels, Counter>,
    discoveries: Family<DiscoveryLabels, Counter>,
    panics: Family<PanicLabels, Counter>,
    discovery_levels: Family<UpstreamLevelLabels, Gauge>,
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
    labelled: Arc<Mutex<Labelled>>,
}

/// What has labels, so that they can be taken away.
#[derive(Debug, Default)]
struct Labelled {
    routes: BTreeSet<Name>,
    policies: BTreeSet<Name>,
    arms: BTreeSet<(Name, Name)>,
    upstreams: BTreeSet<Name>,
    rejections: BTreeSet<RejectionLabels>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    route: String,
    status: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabels {
    route: String,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, EncodeLabelSet)]
struct RejectionLabels {
    route: String,
    policy: String,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PolicyLabels {
    policy: String,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LevelLabels {
    policy: String,
    level: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ArmLabels {
    policy: String,
    arm: String,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ArmLevelLabels {
    policy: String,
    arm: String,
    level: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EndpointLabels {
    upstream: String,
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CheckLabels {
    upstream: String,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WayLabels {
    to: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PanicLabels {
    upstream: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DiscoveryLabels {
    upstream: String,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct UpstreamLevelLabels {
    upstream: String,
    level: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReloadLabels {
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ConfigLabels {
    hash: String,
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
    Mirrored "mirrored",
    MirrorFailed "mirror_failed",
    MirrorDropped "mirror_dropped",
}

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
        let mut metrics = Self {
            registry: Registry::with_prefix("naka"),
            requests: Family::default(),
            durations: Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.0005, 2.0, 16))),
            rejections: Family::default(),
            policies: Family::default(),
            levels: Family::default(),
            arms: Family::default(),
            arm_levels: Family::default(),
            endpoints: Family::default(),
            checks: Family::default(),
            discoveries: Family::default(),
            panics: Family::default(),
            discovery_levels: Family::default(),
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
            labelled: Arc::default(),
        };
        metrics.register();
        metrics
    }

    fn register(&mut self) {
        let registry = &mut self.registry;
        registry.register("requests", "Requests whose responses have ended", self.requests.clone());
        registry.register(
            "request_duration_seconds",
            "From the request head to the end of the response body",
            self.durations.clone(),
        );
        registry.register("rejections", "Requests the gateway itself refused", self.rejections.clone());
        registry.register("policy_decisions", "What each policy decided", self.policies.clone());
        registry.register("policy_level", "What each policy holds now", self.levels.clone());
        registry.register(
            "split_requests",
            "What came of the requests of each arm of a split",
            self.arms.clone(),
        );
        registry.register(
            "split_level",
            "The share of each arm of a split that is in force, and whether it is held",
            self.arm_levels.clone(),
        );
        registry.register(
            "upstream_endpoints",
            "Endpoints of upstreams with health checks, by how they are",
            self.endpoints.clone(),
        );
        registry.register("health_checks", "Health checks that have ended", self.checks.clone());
        registry.register(
            "upstream_panics",
            "Requests that went to endpoints which are not well, because too few are",
            self.panics.clone(),
        );
        registry.register("discovery_looks", "Looks for endpoints, by result", self.discoveries.clone());
        registry.register("discovery_level", "What was found, and how it is", self.discovery_levels.clone());
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

    /// The handles of one route.
    pub fn route(&self, route: &Name) -> RouteMetrics {
        self.labelled(|labelled| labelled.routes.insert(Arc::clone(route)));
        let status =
            |status| self.requests.get_or_create_owned(&RequestLabels { route: route.to_string(), status });
        RouteMetrics {
            route: Arc::clone(route),
            by_class: CLASSES.map(status),
            cancelled: status(CANCELLED),
            duration: self.durations.get_or_create_owned(&RouteLabels { route: route.to_string() }),
        }
    }

    /// Shows routes with zeros, those that are not shown yet; they come in the order of their names.
    pub fn show_routes<'a>(&self, routes: impl Iterator<Item = &'a Name> + Clone) {
        let is_new = |labelled: &mut Labelled| {
            let are_all_shown = labelled.routes.iter().eq(routes.clone()); // As they are after most changes.
            let new = routes.filter(|route| !are_all_shown && !labelled.routes.contains(*route));
            new.collect::<Vec<_>>()
        };
        self.labelled(is_new).into_iter().for_each(|route| _ = self.route(route));
    }

    /// Shows a policy with zeros, if it is not shown yet.
    pub fn show_policy(&self, policy: &Name) {
        if !self.labelled(|labelled| labelled.policies.contains(policy)) {
            self.policy(policy);
        }
    }

    /// What each policy has done so far, but for what it never did.
    pub fn outcomes(&self) -> Vec<(Name, &'static str, u64)> {
        let policies = self.labelled(|labelled| labelled.policies.clone());
        let mut outcomes = Vec::new();
        for policy in policies {
            for outcome in OUTCOMES {
                let count = self.policies.get(&PolicyLabels { policy: policy.to_string(), outcome });
                let count = count.map_or(0, |count| count.get());
                if count > 0 {
                    outcomes.push((Arc::clone(&policy), *outcome, count));
                }
            }
        }
        outcomes
    }

    /// The handles of one policy.
    pub fn policy(&self, policy: &Name) -> Arc<PolicyMetrics> {
        self.labelled(|labelled| labelled.policies.insert(Arc::clone(policy)));
        let by_outcome = std::array::from_fn(|outcome| {
            let outcome = OUTCOMES[outcome];
            self.policies.get_or_create_owned(&PolicyLabels { policy: policy.to_string(), outcome })
        });
        Arc::new(PolicyMetrics { policy: Arc::clone(policy), told: Seldom::new(), by_outcome })
    }

    /// The handles of whoever looks for the endpoints of an upstream.
    pub fn discovery(&self, upstream: &Name) -> DiscoveryMetrics {
        self.labelled(|labelled| labelled.upstreams.insert(Arc::clone(upstream)));
        let [taken, same, held, failed] = LOOKS.map(|result| {
            self.discoveries.get_or_create_owned(&DiscoveryLabels { upstream: upstream.to_string(), result })
        });
        DiscoveryMetrics { taken, same, held, failed }
    }

    /// Makes the handles of the arms of one split.
    pub fn split(&self, policy: &Name) -> impl Fn(&Arc<str>) -> ArmMetrics + Send + Sync + 'static {
        let (arms, labelled, policy) = (self.arms.clone(), Arc::clone(&self.labelled), Arc::clone(policy));
        move |arm| {
            change(&labelled, |labelled| labelled.arms.insert((Arc::clone(&policy), Arc::clone(arm))));
            let [success, failure, neutral] =
                CAME.map(|outcome| arms.get_or_create_owned(&ArmLabels::new(&policy, arm, outcome)));
            ArmMetrics { policy: Arc::clone(&policy), arm: Arc::clone(arm), success, failure, neutral }
        }
    }

    /// The handles of the bounds on bodies, which belong to routes and have no names: what they refuse is
    /// counted with the route.
    pub fn body_limit(&self) -> Arc<PolicyMetrics> {
        Arc::clone(&self.bodies)
    }

    /// The handles of one upstream's balancer.
    pub fn balancer(&self, upstream: &Name) -> Arc<BalanceMetrics> {
        self.labelled(|labelled| labelled.upstreams.insert(Arc::clone(upstream)));
        let panicked = self.panics.get_or_create_owned(&PanicLabels { upstream: upstream.to_string() });
        Arc::new(BalanceMetrics { upstream: Arc::clone(upstream), told: Seldom::new(), panicked })
    }

    /// The handles of one upstream, whose endpoints are checked.
    pub fn upstream(&self, upstream: &Name) -> UpstreamMetrics {
        self.labelled(|labelled| labelled.upstreams.insert(Arc::clone(upstream)));
        let [passed, failed] = RESULTS.map(|result| {
            self.checks.get_or_create_owned(&CheckLabels { upstream: upstream.to_string(), result })
        });
        UpstreamMetrics { upstream: Arc::clone(upstream), passed, failed }
    }

    /// Forgets everything about routes, policies, arms of splits and upstreams that are none of these.
    pub fn keep(
        &self,
        is_route: impl Fn(&str) -> bool,
        is_policy: impl Fn(&str) -> bool,
        is_arm: impl Fn(&str, &str) -> bool,
        is_upstream: impl Fn(&str) -> bool,
    ) {
        let is_nothing_or = |name: &str, is: &dyn Fn(&str) -> bool| name.is_empty() || is(name);
        self.labelled(|labelled| {
            labelled.routes.retain(|route| is_route(route) || self.forget_route(route));
            labelled.policies.retain(|policy| is_policy(policy) || self.forget_policy(policy));
            labelled.arms.retain(|(policy, arm)| is_arm(policy, arm) || self.forget_arm(policy, arm));
            labelled.upstreams.retain(|upstream| is_upstream(upstream) || self.forget_upstream(upstream));
            labelled.rejections.retain(|labels| {
                let is_known =
                    is_nothing_or(&labels.route, &is_route) && is_nothing_or(&labels.policy, &is_policy);
                is_known || !self.rejections.remove(labels)
            });
        });
    }

    /// Always false: nothing is kept.
    fn forget_route(&self, route: &Name) -> bool {
        for status in CLASSES.into_iter().chain([CANCELLED]) {
            self.requests.remove(&RequestLabels { route: route.to_string(), status });
        }
        self.durations.remove(&RouteLabels { route: route.to_string() });
        false
    }

    /// Always false: nothing is kept.
    fn forget_policy(&self, policy: &Name) -> bool {
        for &outcome in OUTCOMES {
            self.policies.remove(&PolicyLabels { policy: policy.to_string(), outcome });
        }
        false
    }

    /// Always false: nothing is kept.
    fn forget_upstream(&self, upstream: &Name) -> bool {
        self.panics.remove(&PanicLabels { upstream: upstream.to_string() });
        for result in RESULTS {
            self.checks.remove(&CheckLabels { upstream: upstream.to_string(), result });
        }
        for result in LOOKS {
            self.discoveries.remove(&DiscoveryLabels { upstream: upstream.to_string(), result });
        }
        false
    }

    /// Always false: nothing is kept.
    fn forget_arm(&self, policy: &str, arm: &str) -> bool {
        for outcome in CAME {
            self.arms.remove(&ArmLabels::new(policy, arm, outcome));
        }
        false
    }

    fn labelled<T>(&self, how: impl FnOnce(&mut Labelled) -> T) -> T {
        change(&self.labelled, how)
    }

    /// Counts a refusal. Off the fast path: it looks its labels up.
    pub fn rejected(&self, route: &str, rejection: &Rejection) {
        let labels = RejectionLabels {
            route: route.to_owned(),
            policy: rejection.policy.as_deref().unwrap_or_default().to_owned(),
            reason: rejection.reason.word(),
        };
        if let Some(counter) = self.rejections.get(&labels) {
            counter.inc();
            return;
        }
        self.labelled(|labelled| {
            self.rejections.get_or_create(&labels).inc();
            labelled.rejections.insert(labels);
        });
    }

    /// Says how much each policy holds now; nothing is known of any other.
    pub fn levels<'a>(&self, all: impl Iterator<Item = (&'a str, &'static str, usize)>) {
        self.levels.clear();
        for (policy, level, value) in all {
            let labels = LevelLabels { policy: policy.to_owned(), level };
            self.levels.get_or_create(&labels).set(i64::try_from(value).unwrap_or(i64::MAX));
        }
    }

    /// Says what is held of bodies, and of how many there was no room to.
    pub fn held(&self, held: &naka::held::Held) {
        self.buffered.set(i64::try_from(held.bytes()).unwrap_or(i64::MAX));
        self.unbuffered.inner().store(held.refused(), Relaxed);
    }

    /// Says of each arm of each split what it gets, and whether it is held; nothing is known of any other.
    pub fn arms<'a>(&self, all: impl Iterator<Item = (&'a str, &'a str, u32, bool)>) {
        self.arm_levels.clear();
        for (policy, arm, weight, is_held) in all {
            for (level, value) in [("weight", weight.into()), ("held", is_held.into())] {
                let labels = ArmLevelLabels { policy: policy.to_owned(), arm: arm.to_owned(), level };
                self.arm_levels.get_or_create(&labels).set(value);
            }
        }
    }

    /// Says how many endpoints each upstream has of each state; nothing is known of any other.
    pub fn endpoints<'a>(&self, all: impl Iterator<Item = (&'a str, &'static str, usize)>) {
        self.endpoints.clear();
        for (upstream, state, count) in all {
            let labels = EndpointLabels { upstream: upstream.to_owned(), state };
            self.endpoints.get_or_create(&labels).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// Says what was found for each upstream, and how that is; nothing is known of any other.
    pub fn discovery_levels<'a>(&self, all: impl Iterator<Item = (&'a str, &'static str, u64)>) {
        self.discovery_levels.clear();
        for (upstream, level, value) in all {
            let labels = UpstreamLevelLabels { upstream: upstream.to_owned(), level };
            self.discovery_levels.get_or_create(&labels).set(i64::try_from(value).unwrap_or(i64::MAX));
        }
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
        self.tls.in_force(config);
        self.generation.set(i64::try_from(generation).unwrap_or(i64::MAX));
        self.config.clear();
        self.config.get_or_create(&ConfigLabels { hash }).set(1);
    }

    /// Says how many files are held back.
    pub fn held_files(&self, count: usize) {
        self.held_files.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// The text exposition format. `alive` is the number of generations that still serve.
    pub fn render(&self, alive: usize) -> String {
        self.generations_alive.set(i64::try_from(alive).unwrap_or(i64::MAX));
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("a String takes every write");
        text
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
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

    /// The response has ended, or its client went away.
    pub fn ended(&self, status: StatusCode, is_complete: bool, took: Duration) {
        let class = usize::from(status.as_u16() / 100).clamp(1, 5) - 1;
        if is_complete { &self.by_class[class] } else { &self.cancelled }.inc();
        self.duration.observe(took.as_secs_f64());
    }
}

/// The handles of one policy: what the layers of the gateway report to.
#[derive(Debug, Default)]
pub struct PolicyMetrics {
    policy: Name,
    told: Seldom,
    by_outcome: [Counter; OUTCOMES.len()],
}

impl PolicyMetrics {
    fn count(&self, did: Did) {
        self.by_outcome[did as usize].inc();
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
    fn copied(&self, copied: Copied) {
        self.count(match copied {
            Copied::Answered(_) => Did::Mirrored,
            Copied::Full | Copied::TooLong | Copied::NoRoom | Copied::Unread => Did::MirrorDropped,
            _ => Did::MirrorFailed,
        });
    }
    /// Each is told of one breaker; of those that are one for each key, seldom.
    fn transition(&self, transition: &Transition) {
        let Transition { from, to, cause, key, .. } = transition;
        if *to == Phase::Open {
            self.count(Did::Opened);
        }
        if key.is_none() || self.told.is_due() {
            let (policy, is_keyed) = (&self.policy, key.is_some());
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

fn change<T>(labelled: &Mutex<Labelled>, how: impl FnOnce(&mut Labelled) -> T) -> T {
    how(&mut labelled.lock().unwrap_or_else(PoisonError::into_inner))
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
        if *to == Phase::Open {
            self.all.count(Did::Opened);
        }
        let Self { upstream, endpoint, .. } = self;
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
pub struct UpstreamMetrics {
    upstream: Name,
    passed: Counter,
    failed: Counter,
}

impl Observer for UpstreamMetrics {
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

/// The gauges of prometheus-client count in this.
const _: fn(Gauge<i64, AtomicI64>) -> Gauge = |gauge| gauge;
