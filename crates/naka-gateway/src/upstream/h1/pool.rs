//! The connections of one worker to one endpoint: those that wait for a request, and the right to make more.

use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{
            AtomicUsize,
            Ordering::{AcqRel, Acquire},
        },
    },
    time::Duration,
};

use http_body::SizeHint;
use tokio::{sync::Notify, time::Instant};

use super::{
    super::{
        connect::{Connector, Place, Stream, Unreached},
        jittered,
        places::{Bound, Full, Owner, Places, TURN, Taken},
    },
    connection::Connection,
};
use crate::{begun::Begun, config::checked::KeepAlive, seldom::Seldom};

/// A connection that has waited for so long keeps no buffers.
const RESTED: Duration = Duration::from_secs(1);

/// The connections of one worker to one endpoint that wait for a request, the latest used first.
///
/// Bounded by [`KeepAlive::max_idle`]; how many there are, of all workers, by [`Places`].
pub struct Pool {
    place: Place,
    pub(super) trouble: Seldom,
    idle: Mutex<VecDeque<Kept>>,
    /// With the endpoint, and in the process.
    places: [Arc<Places>; 2],
    /// Requests of this worker that wait for a connection.
    waiting: AtomicUsize,
    given_back: Notify,
}

struct Kept {
    connection: Box<Connection>,
    since: Instant,
}

impl Pool {
    /// No connections yet.
    pub(in super::super) fn new(place: Place, places: [Arc<Places>; 2]) -> Arc<Self> {
        Arc::new(Self {
            place,
            trouble: Seldom::new(),
            idle: Mutex::default(),
            places,
            waiting: AtomicUsize::new(0),
            given_back: Notify::new(),
        })
    }

    fn owner(&self) -> Owner {
        Owner::of(self)
    }

    /// Where it leads.
    pub(in super::super) fn address(&self) -> &str {
        self.place.address()
    }

    /// Connections that wait for a request.
    pub fn idle(&self) -> usize {
        self.lock().len()
    }

    /// Closes what has waited for too long, and forgets what was closed by the other side.
    pub fn sweep(&self, keep: &KeepAlive) {
        let now = Instant::now();
        self.lock().retain_mut(|Kept { connection, since }| {
            if *since + RESTED <= now {
                connection.rest();
            }
            *since + keep.timeout > now && !connection.is_old(now) && connection.is_silent()
        });
    }

    /// Closes the connection that has waited longest; says whether there was one.
    pub(in super::super) fn close_oldest(&self) -> bool {
        let oldest = self.lock().pop_front();
        oldest.is_some() // Closed here, and not under the lock.
    }

    /// The right to make a connection; or one that is given back, whichever comes first, unless it has to be new.
    pub(super) async fn room(
        self: &Arc<Self>,
        keep: KeepAlive,
        bounds: [Bound; 2],
        is_new: bool,
    ) -> Result<Room, Full> {
        let [endpoint, all] = &self.places;
        let taken = async {
            let taken = endpoint.take(self.owner(), bounds[0]).await?;
            Ok(Room::New([taken, all.take(self.owner(), bounds[1]).await?]))
        };
        if is_new {
            return taken.await;
        }
        tokio::select! {
            biased;
            taken = taken => taken,
            lease = self.next_given_back(keep) => Ok(Room::Kept(lease)),
        }
    }

    async fn next_given_back(self: &Arc<Self>, keep: KeepAlive) -> Lease {
        struct Waits<'a>(&'a Pool);
        impl Drop for Waits<'_> {
            fn drop(&mut self) {
                self.0.waiting.fetch_sub(1, AcqRel);
                // What was kept for us is not wanted any more; we may have been the one who was told of it.
                self.0.given_back.notify_one();
                self.0.yield_to_others();
            }
        }
        self.waiting.fetch_add(1, AcqRel);
        let _waits = Waits(self);
        loop {
            self.given_back.notified().await;
            loop {
                if let Some(lease) = self.take(keep) {
                    return lease;
                }
                if self.idle() == 0 {
                    break;
                }
                tokio::task::yield_now().await; // On several threads it may not have heard yet that it is free.
            }
        }
    }

    /// Closes what nobody here waits for and somebody elsewhere does.
    fn yield_to_others(&self) {
        let is_spare = || self.idle() > self.waiting.load(Acquire);
        if self.places.iter().any(|places| places.is_wanted()) && is_spare() {
            self.close_oldest();
        }
    }

    /// A connection that waits for a request, if there is one.
    pub(super) fn take(self: &Arc<Self>, keep: KeepAlive) -> Option<Lease> {
        let now = Instant::now();
        let mut idle = self.lock();
        if idle.back().is_some_and(|kept| kept.since + keep.timeout <= now) {
            idle.clear(); // All others have waited longer.
        }
        while let Some(Kept { mut connection, .. }) = idle.pop_back() {
            if !connection.is_old(now) && connection.is_silent() {
                return Some(self.lease(connection, keep));
            }
        }
        None
    }

    /// A new connection.
    pub(super) async fn connect(
        self: &Arc<Self>,
        connector: &Connector,
        keep: KeepAlive,
        places: [Taken; 2],
    ) -> Result<Lease, Unreached> {
        let stream = connector.reach(&self.place).await?;
        let until = keep.max_lifetime.map(|time| Instant::now() + jittered(time));
        Ok(self.lease(Box::new(Connection::new(stream, until, places)), keep))
    }

    fn lease(self: &Arc<Self>, connection: Box<Connection>, keep: KeepAlive) -> Lease {
        let (connection, pool) = (Some(connection), Arc::clone(self));
        Lease { connection, pool, max_idle: keep.max_idle }
    }

    fn put(&self, connection: Box<Connection>, max_idle: usize) {
        let now = Instant::now();
        if connection.is_old(now) {
            return;
        }
        let mut idle = self.lock();
        let waiting = self.waiting.load(Acquire);
        let patience = if waiting <= idle.len() { Duration::ZERO } else { TURN };
        let is_wanted = |taken: &Taken| taken.is_wanted_by_other(self.owner(), patience);
        if connection.made + patience <= now && connection.places.iter().any(is_wanted) {
            drop(idle);
            return; // Closed, for somebody of another worker, or to somewhere else.
        }
        idle.push_back(Kept { connection, since: now });
        let over = idle.len().saturating_sub(max_idle.max(waiting));
        let over = idle.drain(..over).collect::<Vec<_>>();
        drop(idle);
        drop(over); // Not under the lock.
        if waiting > 0 {
            self.given_back.notify_one();
        }
        self.yield_to_others(); // Who began to wait before it was kept saw none.
    }

    /// A panic cannot leave the queue half written.
    fn lock(&self) -> MutexGuard<'_, VecDeque<Kept>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a request that has no connection gets.
#[derive(Debug)]
pub(super) enum Room {
    /// One that was given back.
    Kept(Lease),
    /// The right to make one.
    New([Taken; 2]),
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("address", self.place.address())
            .field("idle", &self.idle())
            .finish_non_exhaustive()
    }
}

/// A connection in use. It is [given back](Self::give_back) when the response is complete, and waits for the next request if all of this one was sent;
/// dropped before that, it is closed, because nobody can know where the next response would begin. It is small, as it goes along with the
/// response through all layers.
#[derive(Debug)]
pub(in super::super) struct Lease {
    connection: Option<Box<Connection>>,
    pool: Arc<Pool>,
    /// How many may wait beside it.
    max_idle: usize,
}

impl Lease {
    pub(super) const fn connection(&mut self) -> &mut Connection {
        self.connection.as_mut().expect("a lease has its connection until it ends")
    }

    /// The stream, and what has come over it already, to go on with as something else. The connection keeps its place until this is dropped.
    pub(in super::super) fn take_stream(&mut self) -> Option<Begun<Stream>> {
        self.connection().take_stream()
    }

    /// How much of the response's body is to come.
    pub(super) fn size_hint(&self) -> SizeHint {
        self.connection.as_ref().map_or_else(|| SizeHint::with_exact(0), |it| it.size_hint())
    }

    /// It waits for the next request, if it can take one.
    pub(super) fn give_back(mut self) {
        if let Some(mut connection) = self.connection.take()
            && connection.is_free()
        {
            self.pool.put(connection, self.max_idle);
        }
    }
}
