//! What the workers of a process share, and the account of their connections.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use http::StatusCode;
use naka::reject::{Reason, Rejection};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::{
    address::Source,
    callers::{Callers, Entered},
    farewell::Farewell,
    generation::InForce,
    monitor::Pulse,
    observe::Metrics,
    room::Room,
};

/// What all workers share.
#[derive(Debug)]
pub struct Shared {
    /// The generation in force.
    pub in_force: Arc<InForce>,
    /// All metrics.
    pub metrics: Arc<Metrics>,
    /// Whether workers go on, and where they listen.
    pub pulse: Arc<Pulse>,
    /// The bound of client connections.
    pub connections: Arc<Semaphore>,
    /// The connections of each client.
    callers: Arc<Callers>,
    /// How many connections each worker holds.
    loads: Arc<[AtomicUsize]>,
    /// For each worker: who is closed to make room.
    rooms: Vec<Room>,
    /// For each worker: how its connections shall end. One each, because every connection looks at it whenever it
    /// wakes.
    draining: Vec<watch::Sender<Ending>>,
    /// When each hears of it.
    farewell: Farewell,
}

/// How connections end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ending {
    /// They do not.
    Open,
    /// With their next response, which says so: whoever is silent until then may be about to ask, and would ask nobody.
    /// Only HTTP/2 can say before that which requests are still answered.
    NextResponse,
    /// After the request they are at, and at once if there is none.
    Now,
    /// Tunnels, too: nothing else can end them.
    Tunnels,
}

impl Shared {
    /// For that many workers.
    pub fn new(in_force: Arc<InForce>, metrics: Arc<Metrics>, workers: usize) -> Arc<Self> {
        let connections = in_force.with(|generation| generation.limits.connections);
        let loads = (0..workers).map(|_| AtomicUsize::new(0)).collect();
        metrics.watch_workers(&loads);
        Arc::new(Self {
            in_force,
            metrics,
            pulse: Arc::new(Pulse::new(workers)),
            callers: Arc::default(),
            connections: Arc::new(Semaphore::new(connections.min(Semaphore::MAX_PERMITS))),
            loads,
            rooms: (0..workers).map(|_| Room::default()).collect(),
            draining: (0..workers).map(|_| watch::Sender::new(Ending::Open)).collect(),
            farewell: Farewell::default(),
        })
    }

    /// How many workers there are.
    pub(crate) fn workers(&self) -> usize {
        self.loads.len()
    }

    /// How the connections of a worker shall end.
    pub(crate) fn draining(&self, worker: usize) -> watch::Receiver<Ending> {
        self.draining[worker].subscribe()
    }

    /// Has every connection end so.
    pub(crate) fn drain(&self, ending: Ending) {
        if ending != Ending::Open {
            self.farewell.begin(Duration::ZERO);
        }
        for draining in &self.draining {
            draining.send_replace(ending);
        }
    }

    /// Has every connection end with its next response, the last from `over` on.
    pub(crate) fn say_farewell(&self, over: Duration) {
        self.farewell.begin(over);
        self.drain(Ending::NextResponse);
    }

    /// When each connection hears that it ends.
    pub(crate) const fn farewell(&self) -> &Farewell {
        &self.farewell
    }

    /// Client connections that are open.
    pub fn open_connections(&self) -> usize {
        self.loads.iter().map(|load| load.load(Relaxed)).sum()
    }

    /// Which of a worker's connections are closed to make room.
    pub(crate) fn room(&self, worker: usize) -> &Room {
        &self.rooms[worker]
    }

    /// Has a connection that waits for its next request closed if there are as many as there may be: of the worker that has most.
    pub(crate) fn make_room(&self) {
        if self.connections.available_permits() > 0 {
            return;
        }
        let load = |worker: &usize| self.loads[*worker].load(Relaxed);
        if let Some(worker) = (0..self.loads.len()).max_by_key(load) {
            self.rooms[worker].make();
        }
    }

    /// Puts a connection that comes from there into the account of its client, if that is bounded. Those of a Unix socket
    /// have no address, and are bounded together with all others alone.
    ///
    /// # Errors
    /// If the client has as many as it may.
    pub(crate) fn enter(&self, source: Source) -> Result<Option<Entered>, TooMany> {
        let Source::Ip(address) = source else { return Ok(None) };
        let most = self.in_force.with(|generation| {
            let gateway = &generation.config.gateway;
            gateway.limits.connections_per_ip.filter(|_| !gateway.trusted_proxies.have(source))
        });
        let Some(most) = most else { return Ok(None) };
        let entered = self.callers.enter(address, most);
        if entered.is_none() {
            self.metrics.rejected("", &TOO_MANY);
        }
        entered.map(Some).ok_or(TooMany)
    }

    /// The worker that a connection of `me` is best off with: `me`, unless it holds more than the least
    /// loaded one and an eighth.
    pub(crate) fn least_loaded(&self, me: usize) -> usize {
        let load = |worker: usize| self.loads[worker].load(Relaxed);
        let least = (0..self.loads.len()).min_by_key(|worker| load(*worker)).unwrap_or(me);
        if load(me) > load(least) + load(least) / 8 { least } else { me }
    }
}

/// A client has as many connections as it may.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TooMany;

static TOO_MANY: Rejection =
    Rejection::new(Reason::Custom(StatusCode::TOO_MANY_REQUESTS, "connections_per_ip"));

/// One connection's place in the account of its worker, and in the bound of all.
#[derive(Debug)]
pub(crate) struct Place {
    shared: Arc<Shared>,
    worker: usize,
    _permit: OwnedSemaphorePermit,
    _entered: Option<Entered>,
}

impl Place {
    /// Taken, at this worker.
    pub(crate) fn taken(
        shared: &Arc<Shared>,
        worker: usize,
        permit: OwnedSemaphorePermit,
        entered: Option<Entered>,
    ) -> Self {
        shared.loads[worker].fetch_add(1, Relaxed);
        shared.metrics.connections.inc();
        Self { shared: Arc::clone(shared), worker, _permit: permit, _entered: entered }
    }

    /// Another worker serves it after all.
    pub(crate) fn move_to(&mut self, worker: usize) {
        self.shared.loads[worker].fetch_add(1, Relaxed);
        self.shared.loads[self.worker].fetch_sub(1, Relaxed);
        self.worker = worker;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shared.loads[self.worker].fetch_sub(1, Relaxed);
        self.shared.metrics.connections.dec();
    }
}
