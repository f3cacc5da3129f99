//! Sets of endpoints that are found, and followed while they change.
//!
//! A [`Discover`]er says what the whole set is. What becomes of that is decided in [`rules`]; what is taken goes to the
//! balancers of all generations that still serve. Nothing here is asked by a request.
//!
//! # What happens
//! 1. A source is asked from when a generation with it is put in force until no generation has it any more. It belongs
//!    to the name of its upstream: a reload that changes nothing of it neither asks anew nor forgets.
//! 2. What it says is **taken** if it is a set that is not smaller by too much. Endpoints are known by their addresses:
//!    one that goes and comes back finds its account, as long as the balancer remembers it.
//! 3. What fails, and an answer that there is none, **changes nothing**: the last good set stays in force for as long as
//!    it takes. It is then *stale*, which `/readyz`, `/discovery`, the metrics and the log say.
//! 4. Another source for the same upstream goes on from the set there is, until it answers for the first time. That
//!    first answer is taken whatever its size, as somebody has just said that it is meant.
//! 5. Until the first answer the set is empty, and requests get `503 no_endpoint`. At the start, and at a reload, that
//!    is waited for up to [`FIRST`], before a connection is accepted, and before the generation is in force.
//!
//! What an operator said of an endpoint in the process before holds from when it is found, however late that is.
//!
//! Before a generation is put in force a *stand-in* takes the place of what nobody has looked for, so that a file can be
//! checked and its requests explained without a network.
//!
//! # Limits
//! A set has at most [`MAX_ENDPOINTS`]; more is a failure. Only the last set is kept. Of as many endpoints that have not been
//! found yet it is known what an operator said of them.
//!
//! # Errors and panics
//! A source that panics is not asked any more; what it said stays.

use std::{
    collections::{BTreeMap, HashSet},
    fmt,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use naka::{
    balance::{Absence, Target},
    clock::Now,
};
use tokio::{
    sync::watch,
    task::AbortHandle,
    time::{Instant, timeout_at},
};
use tracing::{debug, error, info, warn};

mod applications;
mod consul;
mod dns;
mod eureka;
mod file;
pub mod names;
pub mod registry;
pub mod rules;

pub use consul::{BEHIND, Consul};
#[cfg(feature = "dns")]
pub use dns::NameServers;
pub use dns::{Dns, Resolve};
pub use eureka::{Eureka, EurekaRegistries, Registry};
pub use file::{File, POLL};

use self::{
    names::Wanted,
    rules::{APART, Doubt, Rules, Seen, Verdict, judge},
};
use crate::{
    config::checked::{Discovery as Config, EndpointSource, Name},
    generation::Alive,
    observe::{Balancer, DiscoveryMetrics},
    seldom::Seldom,
    upstream::Connector,
};

/// The most endpoints of a set.
pub const MAX_ENDPOINTS: usize = 4096;

/// How long the first answers are waited for.
pub const FIRST: Duration = Duration::from_secs(3);

/// How much time is between two questions to a registry, at least.
pub const REGISTRY: Duration = Duration::from_secs(1);

/// The port at which instances are where somebody else than a registry says them.
pub(crate) const REGISTERED: u16 = 80;

/// How often the same trouble is told.
const TOLD: Duration = Duration::from_mins(1);

/// What is kept of the text of a trouble, in bytes.
const TEXT: usize = 4 << 10;

/// The label of what takes the place of endpoints that nobody has looked for.
const STAND_IN: &str = "stand-in";

/// Says what a set of endpoints is. It is asked again and again, and never twice at a time.
pub trait Discover: Send + 'static {
    /// The whole set as it is now. It may wait for a change, and is dropped when nobody wants to know any more.
    /// `anew`: what is still good has to be asked for as well, as it is doubted.
    fn look(&mut self, anew: bool) -> Pin<Box<dyn Future<Output = Look> + Send + '_>>;
}

/// What a source says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    /// The set; empty if there is none, and `None` if the source cannot say.
    pub found: Option<Vec<Target>>,
    /// What went wrong, also if a part of it has only been held.
    pub trouble: Option<String>,
    /// When to ask again.
    pub again: Duration,
}

/// How sources reach whom they ask. Clones share what they hold.
#[derive(Clone, Default)]
pub struct Reach {
    /// How connections are made.
    pub connector: Connector,
    /// Whoever resolves names, in place of name servers; and says the instances of services, in place of registries.
    pub resolver: Option<Arc<dyn Resolve>>,
    /// Registries that are asked once for all upstreams.
    pub eureka: EurekaRegistries,
    /// Stores are in the memory of this process: nobody is asked.
    pub in_memory: bool,
}

impl fmt::Debug for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reach").field("connector", &self.connector).finish_non_exhaustive()
    }
}

/// The endpoints of one upstream, as they are found.
pub struct Discovery {
    number: u64,
    config: Config,
    shared: Arc<Shared>,
    task: Mutex<Task>,
}

enum Task {
    Waits(Option<Box<dyn Discover>>),
    Runs(AbortHandle, Instant),
}

impl Discovery {
    /// Those of a new upstream. Nobody looks for them before it is started.
    pub fn new(upstream: &Name, config: &Config, reach: &Reach, metrics: DiscoveryMetrics) -> Arc<Self> {
        let shared = Shared {
            upstream: Arc::clone(upstream),
            metrics,
            start: Instant::now(),
            first: watch::Sender::new(false),
            often: Seldom::new(),
            known: Mutex::new(Known::new(config.source.clone())),
        };
        Self::over(Arc::new(shared), config, reach)
    }

    /// Over the same set, found in another way. Nothing changes before it is started.
    #[must_use]
    pub fn changed(&self, config: &Config, reach: &Reach) -> Arc<Self> {
        Self::over(Arc::clone(&self.shared), config, reach)
    }

    fn over(shared: Arc<Shared>, config: &Config, reach: &Reach) -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let source = source(config, reach);
        Arc::new(Self {
            number: NEXT.fetch_add(1, Relaxed),
            config: config.clone(),
            shared,
            task: Mutex::new(Task::Waits(Some(source))),
        })
    }

    /// What stands in a balancer until somebody looks. No endpoint has such an address.
    pub fn stand_in(config: &Config) -> Target {
        let name = match &config.source {
            EndpointSource::Dns(host, port) => format!("dns:{host}:{port}"),
            EndpointSource::Srv(name) => format!("srv:{name}"),
            EndpointSource::File(path) => format!("file:{}", path.display()),
            EndpointSource::Consul(service) => format!("consul:{}", service.name),
            EndpointSource::Eureka(app) => format!("eureka:{}", app.name),
        };
        Target::new(name).label(STAND_IN, "")
    }

    /// What is found goes to this balancer from now on, for as long as its generation serves. Begins to look, if
    /// nobody does: that needs a runtime, on which it goes on.
    pub fn start(&self, balancer: &Balancer, alive: &Alive) {
        let mut known = self.shared.known();
        known.followers.retain(|(alive, _)| alive.strong_count() > 0);
        known.followers.push((Arc::downgrade(alive), balancer.clone()));
        if let Some(set) = &known.set {
            show(balancer, set);
        } else {
            let listed = without_stand_ins(balancer);
            show(balancer, &listed);
            // What was written down before stays until the first answer.
            known.set = Some(listed).filter(|listed| !listed.is_empty());
        }
        let mut task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        if let Task::Waits(source) = &mut *task
            && let Some(source) = source.take()
        {
            known.owner = self.number; // Whoever looked before is not heard any more.
            if known.source != self.config.source {
                known.source = self.config.source.clone();
                (known.have, known.doubt, known.held) = (None, None, None);
            }
            let (shared, number, rules) = (Arc::clone(&self.shared), self.number, rules_of(&self.config));
            let looking = tokio::spawn(follow(shared, source, number, rules)).abort_handle();
            *task = Task::Runs(looking, Instant::now());
        }
    }

    /// Waits for its first answer, until [`FIRST`] after it was started: who has kept everybody waiting once does not
    /// do so at each reload.
    pub async fn answered(&self) {
        let until = match &*self.task.lock().unwrap_or_else(PoisonError::into_inner) {
            Task::Waits(_) => return,
            Task::Runs(_, since) => *since + FIRST,
        };
        let mut first = self.shared.first.subscribe();
        let _ = timeout_at(until, first.wait_for(|is_there| *is_there)).await; // Then requests get 503.
    }

    /// Withdraws an endpoint: at once if it is there, else when it is found.
    pub fn withdraw(&self, address: &str, absences: &[Absence]) {
        let known = &mut *self.shared.known();
        if known.set.iter().flatten().any(|target| *target.address == *address) {
            known.withdraw(address, absences);
        } else if known.awaited.len() < MAX_ENDPOINTS {
            known.awaited.insert(address.into(), absences.into());
        }
    }

    /// What is said of endpoints that have not been found yet.
    pub fn awaited(&self) -> BTreeMap<Arc<str>, Vec<Absence>> {
        self.shared.known().awaited.clone()
    }

    /// How it is.
    pub fn status(&self, now: Now) -> Status {
        let known = self.shared.known();
        let since = known.good.unwrap_or(self.shared.start);
        let has_answered = *self.shared.first.borrow();
        let never = || (!has_answered).then(|| "it has not answered yet".to_owned());
        Status {
            source: known.source.to_string(),
            endpoints: known.set.as_ref().map_or(0, Vec::len),
            age: now.instant().saturating_duration_since(since),
            is_held: known.held.is_some(),
            stale: known.held.clone().or_else(|| known.trouble.clone()).or_else(never),
        }
    }
}

impl Drop for Discovery {
    fn drop(&mut self) {
        if let Task::Runs(task, _) = self.task.get_mut().unwrap_or_else(PoisonError::into_inner) {
            task.abort();
        }
    }
}

impl fmt::Debug for Discovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Discovery").field("config", &self.config).finish_non_exhaustive()
    }
}

/// How a set of endpoints is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Where it is found.
    pub source: String,
    /// How many there are.
    pub endpoints: usize,
    /// Since when nothing has been amiss; since it was begun, if there was nothing good yet.
    pub age: Duration,
    /// Something was said and is held back.
    pub is_held: bool,
    /// Why what is in force may not be what there is.
    pub stale: Option<String>,
}

/// What all that look for one set share, one after the other.
struct Shared {
    upstream: Name,
    metrics: DiscoveryMetrics,
    start: Instant,
    first: watch::Sender<bool>,
    often: Seldom,
    known: Mutex<Known>,
}

struct Known {
    /// Who is heard.
    owner: u64,
    source: EndpointSource,
    /// The last good set; what was written down, before there is one.
    set: Option<Vec<Target>>,
    /// How many this source has given.
    have: Option<usize>,
    doubt: Option<Doubt>,
    /// What was said and is held back.
    held: Option<String>,
    trouble: Option<String>,
    good: Option<Instant>,
    told: Option<(String, Instant)>,
    /// Endpoints that are withdrawn when they are found.
    awaited: BTreeMap<Arc<str>, Vec<Absence>>,
    /// Balancers, each as long as a generation with it serves.
    followers: Vec<(Weak<()>, Balancer)>,
}

impl Known {
    const fn new(source: EndpointSource) -> Self {
        Self {
            owner: 0,
            source,
            set: None,
            have: None,
            doubt: None,
            held: None,
            trouble: None,
            good: None,
            told: None,
            awaited: BTreeMap::new(),
            followers: Vec::new(),
        }
    }
}

impl Known {
    /// Withdraws an endpoint that is there.
    fn withdraw(&self, address: &str, absences: &[Absence]) {
        for (_, balancer) in &self.followers {
            let endpoints = balancer.endpoints();
            let all = endpoints.iter().filter(|endpoint| **endpoint.address() == *address);
            all.for_each(|endpoint| absences.iter().for_each(|absence| endpoint.withdraw(*absence)));
        }
    }
}

/// Looks again and again, as long as it is heard.
async fn follow(shared: Arc<Shared>, mut source: Box<dyn Discover>, number: u64, rules: Rules) {
    let mut anew = false;
    loop {
        let look = source.look(anew).await;
        let Some(next) = shared.hear(number, look, &rules) else { return };
        anew = next.anew;
        tokio::time::sleep(next.pause).await;
    }
}

/// When to look again, and how.
struct Next {
    pause: Duration,
    anew: bool,
}

impl Shared {
    /// A panic cannot leave it half written: each field is right by itself.
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hears what the source says, and has it take effect; `None` if somebody else is heard by now.
    fn hear(&self, number: u64, look: Look, rules: &Rules) -> Option<Next> {
        let look = bounded(look);
        let now = Instant::now();
        let mut known = self.known();
        let seen = match &look.found {
            None => Seen::Failure,
            Some(found) if found.is_empty() => Seen::None,
            Some(found) if look.trouble.is_some() => Seen::Partly(found.len()),
            Some(found) => Seen::Some(found.len()),
        };
        if known.owner != number {
            return None;
        }
        let (verdict, doubt) = judge(rules, known.have, seen, known.doubt, now - self.start);
        known.doubt = doubt;
        known.trouble = look.trouble;
        let there = known.set.as_ref().map_or(0, Vec::len);
        match verdict {
            Verdict::Take => {
                known.held = None;
                if known.trouble.is_none() {
                    known.good = Some(now);
                }
                self.take(&mut known, look.found.unwrap_or_default());
            }
            Verdict::HoldShrunk(times) => {
                let count = look.found.map_or(0, |found| found.len());
                known.held = Some(format!(
                    "it has {count} of {there} endpoints left, seen {times} of {} times",
                    rules.confirm
                ));
                self.metrics.held.inc();
            }
            Verdict::HoldEmpty => {
                known.held = Some("it says that there is none".to_owned());
                self.metrics.held.inc();
            }
            Verdict::Keep => {
                known.held = None; // What was said before that is not what is amiss now.
                self.metrics.failed.inc();
            }
        }
        if verdict == Verdict::Take || verdict == Verdict::HoldEmpty {
            self.first.send_replace(true);
        }
        self.tell(&mut known, now);
        let anew = matches!(verdict, Verdict::HoldShrunk(_) | Verdict::HoldEmpty);
        let pause = if anew { look.again.min(APART).max(rules.floor) } else { look.again };
        Some(Next { pause, anew })
    }

    fn take(&self, known: &mut Known, found: Vec<Target>) {
        known.have = Some(found.len());
        if known.set.as_ref() == Some(&found) {
            self.metrics.same.inc();
            return;
        }
        let addresses = |all: &[Target]| all.iter().map(|it| Arc::clone(&it.address)).collect::<HashSet<_>>();
        let (old, new) = (addresses(known.set.as_deref().unwrap_or_default()), addresses(&found));
        let (added, removed) = (new.difference(&old).count(), old.difference(&new).count());
        let (upstream, endpoints) = (&self.upstream, found.len());
        if self.often.is_due() {
            info!(%upstream, endpoints, added, removed, "endpoints were found");
        } else {
            debug!(%upstream, endpoints, added, removed, "endpoints were found");
        }
        known.followers.retain(|(alive, _)| alive.strong_count() > 0);
        for (_, balancer) in &known.followers {
            show(balancer, &found);
        }
        if !known.awaited.is_empty() {
            for target in &found {
                if let Some(absences) = known.awaited.remove(&target.address) {
                    known.withdraw(&target.address, &absences);
                }
            }
        }
        known.set = Some(found);
        self.metrics.taken.inc();
    }

    /// Says what is amiss, when it begins, when it becomes something else, and now and then; and when it is over.
    fn tell(&self, known: &mut Known, now: Instant) {
        let (upstream, source) = (&self.upstream, &known.source);
        let endpoints = known.set.as_ref().map_or(0, Vec::len);
        let Some(what) = known.held.as_ref().or(known.trouble.as_ref()) else {
            if known.told.take().is_some() {
                info!(%upstream, %source, endpoints, "the endpoints are found again");
            }
            return;
        };
        let is_told = known.told.as_ref().is_some_and(|(told, at)| told == what && now - *at < TOLD);
        if is_told {
            return;
        }
        let so =
            if endpoints == 0 { "there is none, and requests get 503" } else { "the last good ones stay" };
        if known.held.is_some() {
            error!(%upstream, %source, endpoints, "endpoints are held back; {so}: {what}");
        } else {
            warn!(%upstream, %source, endpoints, "endpoints cannot be found; {so}: {what}");
        }
        known.told = Some((what.clone(), now));
    }
}

/// More than there may be is a failure; and what went wrong is told, but not all of it.
fn bounded(mut look: Look) -> Look {
    if let Some(trouble) = look.trouble.as_mut().filter(|trouble| trouble.len() > TEXT) {
        trouble.truncate(trouble.floor_char_boundary(TEXT));
        trouble.push_str("… and more");
    }
    match &look.found {
        Some(found) if found.len() > MAX_ENDPOINTS => Look {
            trouble: Some(format!("{} endpoints, where at most {MAX_ENDPOINTS} are taken", found.len())),
            found: None,
            ..look
        },
        _ => look,
    }
}

/// Has a balancer choose among these, unless it does already.
fn show(balancer: &Balancer, set: &[Target]) {
    if !balancer.endpoints().iter().map(naka::balance::Endpoint::target).eq(set) {
        balancer.update(set.iter().cloned());
    }
}

fn without_stand_ins(balancer: &Balancer) -> Vec<Target> {
    let all = balancer.endpoints();
    let targets = all.iter().map(|endpoint| endpoint.target().clone());
    targets.filter(|target| target.label_value(STAND_IN).is_none()).collect()
}

fn rules_of(config: &Config) -> Rules {
    let (floor, ceiling) = match config.source {
        EndpointSource::Dns(..) | EndpointSource::Srv(_) => (config.floor, config.ceiling),
        EndpointSource::File(_) => (POLL, POLL),
        EndpointSource::Consul(_) | EndpointSource::Eureka(_) => (REGISTRY, REGISTRY),
    };
    let Config { max_shrink, confirm, takes_empty, .. } = *config;
    Rules { floor, ceiling, max_shrink, confirm, takes_empty }
}

/// Whoever looks. Without a resolver of somebody else's, name servers and registries are asked.
fn source(config: &Config, Reach { connector, resolver, eureka, .. }: &Reach) -> Box<dyn Discover> {
    let rules = rules_of(config);
    let wanted = match &config.source {
        EndpointSource::Dns(host, port) => Wanted::Host(Arc::clone(host), *port),
        EndpointSource::Srv(name) => Wanted::Service(Arc::clone(name)),
        EndpointSource::File(path) => return Box::new(File::new(path.clone())),
        EndpointSource::Consul(service) => match (&config.registries.consul, resolver) {
            (Some(agent), None) => {
                let agent = Arc::clone(agent);
                return Box::new(Consul::new(service.clone(), agent, connector.clone(), rules));
            }
            _ => Wanted::Host(Arc::clone(&service.name), REGISTERED),
        },
        EndpointSource::Eureka(app) => match (&config.registries.eureka, resolver) {
            (Some(servers), None) => {
                return Box::new(Eureka::new(app.clone(), eureka.at(servers, connector)));
            }
            _ => Wanted::Host(Arc::clone(&app.name), REGISTERED),
        },
    };
    let resolver = resolver.clone().unwrap_or_else(|| dns::name_servers(&config.servers));
    Box::new(Dns::new(wanted, resolver, rules))
}
