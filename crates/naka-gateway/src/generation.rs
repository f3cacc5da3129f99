//! One generation: an immutable snapshot of everything a request needs, behind one swap.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, OnceLock},
    time::Duration,
};

use arc_swap::ArcSwap;

use crate::{
    address::Address,
    carry::Change,
    compress::Compress,
    config::checked::{Config, Listener, Name, ServerLimits, TrustParent},
    entry::Entry,
    lookup::Lookup,
    observe::RouteMetrics,
    route::Table,
    stack::{ArmLayers, Layers, Route},
    state::State,
    telemetry::Telemetry,
    tls::Acceptor,
    transform::Transform,
};

/// One configuration, assembled. Cloning it copies handles.
#[derive(Clone, Debug)]
pub struct Generation {
    /// Counted from 1.
    pub number: u64,
    /// What it was assembled from.
    pub config: Arc<Config>,
    /// The state it shares with the generations before and after it.
    pub state: State,
    /// What happened to that state when it was assembled.
    pub report: Vec<Change>,
    /// How requests enter.
    pub entry: Entry,
    /// Bounds of the server.
    pub limits: ServerLimits,
    /// For each worker what it serves, by the address it listens on.
    pub workers: Vec<Lookup<Address, Arc<Served>>>,
    /// What secures the connections of listeners, by the address they listen on.
    pub tls: Lookup<Address, Arc<Acceptor>>,
    /// Held by everything that is of this generation.
    pub alive: Alive,
}

/// Held by everything of one generation, a response that is still on its way included: as long as
/// there is one, the generation still serves.
pub type Alive = Arc<()>;

impl Generation {
    /// Starts whatever works for it besides requests, as it is put in force. Needs a runtime, on which that goes on.
    pub fn start(&self) {
        self.state.start(&self.alive);
    }

    /// The hash of the texts, as it is shown everywhere.
    pub fn hash(&self) -> String {
        format!("{:016x}", self.config.hash)
    }
}

impl Generation {
    /// What a worker serves to those who connected to this address; that may have been in another
    /// generation, which listened only there, and this one listens on that port everywhere.
    pub fn served(&self, worker: usize, address: &Address) -> Option<&Arc<Served>> {
        let served = &self.workers[worker];
        let wider = || served.get(served.keys().find(|other| is_wider(other, address))?);
        served.get(address).or_else(wider)
    }

    /// The listener that those meet who connected to this address, in the same way.
    pub fn listener(&self, address: &Address) -> Option<(&Name, &Listener)> {
        let find = |is: &dyn Fn(&Address) -> bool| {
            self.config.listeners.iter().find(|(_, listener)| is(&listener.listen))
        };
        find(&|other| other == address).or_else(|| find(&|other| is_wider(other, address)))
    }
}

/// Whether whoever listens there listens here, too.
fn is_wider(other: &Address, address: &Address) -> bool {
    let (Some(other), Some(address)) = (other.tcp(), address.tcp()) else { return false };
    other.port() == address.port()
        && other.ip().is_unspecified()
        && (other.is_ipv4() == address.is_ipv4() || other.is_ipv6())
}

/// What one worker serves on one listener.
#[derive(Debug)]
pub struct Served {
    /// The generation's number.
    pub generation: u64,
    /// How requests enter.
    pub entry: Entry,
    /// Which route takes a request.
    pub table: Arc<Table>,
    /// The routes, as the table counts them.
    pub routes: Routes,
    /// What is told about requests, if anything is.
    pub telemetry: Option<Arc<Telemetry>>,
}

impl Served {
    /// The name of a route, as the table counts them.
    pub fn name(&self, index: usize) -> &Name {
        &self.routes.names[index]
    }

    /// A route, as the table counts them.
    pub fn route(&self, index: usize) -> &(Arc<Plan>, Route) {
        self.routes.get(index)
    }
}

/// Makes the routes of one generation.
pub trait MakeRoute: Send + Sync + fmt::Debug {
    /// The route of this name, for this worker.
    fn make(&self, worker: usize, name: &Name) -> (Arc<Plan>, Route);
}

/// The routes of one worker on one listener, each made when it is first asked for: so a generation costs what it is used
/// for, and a reload of ten thousand routes as little as one of ten.
#[derive(Debug)]
pub struct Routes {
    worker: usize,
    names: Arc<[Name]>,
    made: Box<[Slot]>,
    maker: Arc<dyn MakeRoute>,
}

type Slot = OnceLock<(Arc<Plan>, Route)>;

impl Routes {
    /// None of them yet.
    pub fn new(worker: usize, names: Arc<[Name]>, maker: Arc<dyn MakeRoute>) -> Self {
        let made = names.iter().map(|_| Slot::new()).collect();
        Self { worker, names, made, maker }
    }

    /// How many there are by now.
    pub fn count(&self) -> usize {
        self.made.iter().filter(|made| made.get().is_some()).count()
    }

    fn get(&self, index: usize) -> &(Arc<Plan>, Route) {
        self.made[index].get_or_init(|| self.maker.make(self.worker, &self.names[index]))
    }
}

/// One route, as all workers share it.
#[derive(Debug)]
pub struct Plan {
    /// Its name.
    pub name: Name,
    /// Its layers.
    pub layers: Layers,
    /// What it changes on the way.
    pub transform: Transform,
    /// How its responses are made smaller.
    pub compress: Option<Compress>,
    /// Whether what is repeated is answered again: then a change of the response is remembered with it.
    pub is_kept: bool,
    /// What stands behind the choice of a version, by its name; or of an arm of a split, by that of its upstream.
    pub arms: Arms,
    /// Who is asked instead of whoever failed.
    pub alternate: Option<Arc<ArmPlan>>,
    /// What stands for all its paths.
    pub template: Arc<str>,
    /// Whose word counts about traces, if it is another's than elsewhere.
    pub trust_parent: Option<TrustParent>,
    /// The end of the whole exchange; `None` is `never`.
    pub total: Option<Duration>,
    /// Whether a key needs to know the route, or the path loses its prefix.
    pub needs_match: bool,
    /// Its metrics.
    pub metrics: RouteMetrics,
    /// Says that its generation still serves.
    pub alive: Alive,
}

/// One arm of a route, as all workers share it.
#[derive(Debug)]
pub struct ArmPlan {
    /// Its layers.
    pub layers: ArmLayers,
    /// What it changes on the way.
    pub transform: Transform,
    /// Where it goes.
    pub to: ArmTarget,
}

/// What stands behind a choice, by name.
pub type Arms = BTreeMap<Arc<str>, Arc<ArmPlan>>;

/// Where an arm goes.
#[derive(Debug)]
pub enum ArmTarget {
    /// To an upstream.
    Upstream(Name),
    /// To one of these, as the split of a version says.
    Split(Arms),
}

/// The generation in force: the one pointer that a reload swaps.
///
/// Wrapped so that another mechanism can take arc-swap's place without anybody noticing.
pub struct InForce(ArcSwap<Generation>);

impl InForce {
    /// Puts the first generation in force.
    pub fn new(first: Generation) -> Arc<Self> {
        Arc::new(Self(ArcSwap::from_pointee(first)))
    }

    /// The generation in force.
    pub fn get(&self) -> Arc<Generation> {
        self.0.load_full()
    }

    /// Looks at the generation in force without counting a reference.
    pub fn with<T>(&self, look: impl FnOnce(&Generation) -> T) -> T {
        look(&self.0.load())
    }

    /// Puts another one in force, and hands the one before back.
    pub fn swap(&self, next: Generation) -> Arc<Generation> {
        self.0.swap(Arc::new(next))
    }
}

impl fmt::Debug for InForce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("InForce").field(&self.with(|generation| generation.number)).finish()
    }
}
