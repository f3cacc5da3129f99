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
            if let Some(lease) = self.take(keep, Instant::now()) {
                return lease;
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
    pub(super) fn take(self: &Arc<Self>, keep: KeepAlive, now: Instant) -> Option<Lease> {
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
        {
            let terms = Terms { max_idle: keep.max_idle, timeout: keep.timeout };
            Lease { connection, pool, terms }
        }
    }

    fn put(&self, connection: Box<Connection>, terms: Terms) {
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
        // Not all pools are swept.
        let late = idle.iter().take_while(|kept| kept.since + terms.timeout <= now).count();
        let over = idle.len().saturating_sub(terms.max_idle.max(waiting)).max(late);
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
    terms: Terms,
}

/// How connections wait.
#[derive(Clone, Copy, Debug)]
struct Terms {
    /// So many.
    max_idle: usize,
    /// So long.
    timeout: Duration,
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
        let Some(mut connection) = self.connection.take() else { return };
        let is_free = connection.is_free();
        connection.rest();
        if is_free {
            self.pool.put(connection, self.terms);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::{Future, poll_fn},
        pin::pin,
        task::Poll,
    };

    use bytes::Bytes;
    use tokio::{
        io::{AsyncWriteExt as _, DuplexStream, duplex},
        task::consume_budget,
    };

    use super::{super::buffers, *};

    const KEEP: KeepAlive = KeepAlive { max_idle: 500, timeout: Duration::from_secs(50), max_lifetime: None };

    /// A pool with so many connections that wait, and their other ends.
    async fn waiting(count: usize) -> (Arc<Pool>, Vec<DuplexStream>) {
        let others = Arc::new(Mutex::new(Vec::new()));
        let made = Arc::clone(&others);
        let connector = Connector::Memory(Arc::new(move |_: &str| {
            let (ours, theirs) = duplex(1 << 10);
            made.lock().unwrap().push(theirs);
            Box::pin(async move { Ok(ours) })
        }));
        let places = [Arc::<Places>::default(), Arc::default()];
        let pool = Pool::new(Place::new(&"app:1".into(), None), places.clone());
        let mut leases = Vec::new();
        for _ in 0..count {
            let bound = Bound { max: usize::MAX, waiting: 0 };
            let [endpoint, all] = &places;
            let taken = [endpoint.take(pool.owner(), bound).await, all.take(pool.owner(), bound).await];
            leases.push(pool.connect(&connector, KEEP, taken.map(Result::unwrap)).await.unwrap());
        }
        leases.into_iter().for_each(Lease::give_back);
        assert_eq!(pool.idle(), count);
        let others = std::mem::take(&mut *others.lock().unwrap());
        (pool, others)
    }

    /// Bug: a task that may read no more before others have had their turn took them all for silent.
    #[tokio::test(start_paused = true)]
    async fn none_that_was_closed_is_taken_however_much_its_task_has_read() {
        let (pool, others) = waiting(300).await;
        drop(others);
        assert!(pool.take(KEEP, Instant::now()).is_none());
        let (pool, mut others) = waiting(1).await;
        others[0].write_all(b"HTTP/1.1 200 OK\r\n").await.unwrap();
        let taken = poll_fn(|cx| {
            while pin!(consume_budget()).poll(cx).is_ready() {}
            Poll::Ready(pool.take(KEEP, Instant::now()).is_some())
        });
        assert!(!taken.await, "it has said something");
    }

    /// Bug: where nobody sweeps a pool, all but the latest stayed open for as long as there was something to do.
    #[tokio::test(start_paused = true)]
    async fn what_has_waited_too_long_goes_with_the_next_that_is_given_back() {
        let (pool, _others) = waiting(8).await;
        for _ in 0..6 {
            tokio::time::sleep(Duration::from_secs(10)).await;
            pool.take(KEEP, Instant::now()).unwrap().give_back();
        }
        assert_eq!(pool.idle(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_has_no_buffer() {
        let (pool, mut others) = waiting(1).await;
        let mut lease = pool.take(KEEP, Instant::now()).unwrap();
        let head = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
        others[0].write_all(head).await.unwrap();
        let (mut parts, ()) = http::Request::new(()).into_parts();
        let mut sending = super::super::request::Sending::of(&mut parts.headers, Bytes::new().into());
        let connection = lease.connection();
        connection.begin(&parts, &mut sending);
        poll_fn(|cx| connection.poll_exchange(&mut sending, cx)).await.unwrap();
        assert_eq!(connection.take_whole().unwrap(), "ok");
        connection.end_sending(sending);
        assert!(connection.held() > 0);
        lease.give_back();
        let held = |pool: &Pool| pool.lock().front().unwrap().connection.held();
        assert_eq!(held(&pool), 0);
    }

    /// Bug: what goes on as something else kept the buffer that its head was read into, for as long as it lasted.
    #[tokio::test(start_paused = true)]
    async fn what_goes_on_as_something_else_has_no_buffer() {
        let (pool, mut others) = waiting(1).await;
        let mut lease = pool.take(KEEP, Instant::now()).unwrap();
        others[0].write_all(b"HTTP/1.1 101 Switching Protocols\r\n\r\nearly").await.unwrap();
        let (mut parts, ()) = http::Request::new(()).into_parts();
        let mut sending = super::super::request::Sending::of(&mut parts.headers, Bytes::new().into());
        let buffer = buffers::take();
        let place = buffer.as_ptr();
        buffers::put(buffer);
        let connection = lease.connection();
        connection.begin(&parts, &mut sending);
        poll_fn(|cx| connection.poll_exchange(&mut sending, cx)).await.unwrap();
        let begun = lease.take_stream().unwrap();
        assert_eq!(begun.first(), b"early");
        assert_eq!(buffers::take().as_ptr(), place);
    }
}
