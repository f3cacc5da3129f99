//! The connections of one worker to one endpoint.

use std::{
    collections::VecDeque,
    fmt, io, mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{
            AtomicUsize,
            Ordering::{AcqRel, Acquire},
        },
    },
    time::Duration,
};

use bytes::Bytes;
use h2::client::SendRequest;
use http::uri::Scheme;
use naka::{clock::Now, reject::Reason};
use tokio::{
    runtime::Handle,
    sync::oneshot,
    task::AbortHandle,
    time::{Instant, sleep, timeout, timeout_at},
};
use tracing::warn;

use super::{
    super::{
        Client, Waits,
        connect::{Place, Unreached},
        places::{Bound, Full, Owner, Places, Taken},
    },
    connection::{Connection, Fit},
};
use crate::{config::checked::KeepAlive, seldom::Seldom};

/// The connections of one worker to one endpoint, and who waits for one of them to take a request.
///
/// A request goes to the first that has room, so that those that are not needed any more come to have none, and are
/// closed. Who finds no room waits for a connection that is being made, as long as there will be room for all that
/// do; else for a place to make one more, or for room in those that there are. Bounded by
/// [`Places`]: who waits for a connection that is being made is as many as it takes.
pub struct Pool {
    place: Place,
    trouble: Seldom,
    state: Mutex<State>,
    /// Requests of this worker that look for a place.
    seeking: AtomicUsize,
    /// With the endpoint, and in the process.
    places: [Arc<Places>; 2],
}

#[derive(Default)]
struct State {
    /// Those that take requests.
    open: Vec<Open>,
    /// In turn.
    queue: VecDeque<Waiter>,
    /// Connections that are being made.
    making: usize,
    /// How many requests the last of them took.
    known: Option<usize>,
    turns: u64,
    /// The one that takes no more requests because somebody else is next.
    leaving: Weak<Connection>,
    /// Until when no other one does, because the last one did in vain.
    stays_until: Option<Instant>,
}

/// How long a connection has to end what is under way on it once somebody else is next, and how long it is let alone if
/// that was not enough.
const LEAVES: Duration = Duration::from_millis(500);
const STAYS: Duration = Duration::from_secs(10);

struct Open {
    connection: Arc<Connection>,
    /// Since when nobody uses it, if nobody does.
    idle_since: Instant,
}

struct Waiter {
    number: u64,
    terms: Terms,
    /// For a connection that is being made.
    has_joined: bool,
    tell: oneshot::Sender<Turn>,
}

/// What whoever waits is told.
enum Turn {
    Stream(Lease),
    Failed(Reason),
    /// What was waited for has less room than was thought.
    Again,
}

/// What comes of asking.
enum Arrival {
    Stream(Lease),
    /// Somebody makes a connection that will have room.
    Joins(oneshot::Receiver<Turn>),
    Waits(oneshot::Receiver<Turn>, u64),
}

/// Room for one request, which is counted already.
struct Room {
    connection: Arc<Connection>,
    sender: SendRequest<Bytes>,
    was_idle: bool,
    read_before: u64,
}

impl Room {
    fn lease(self, pool: &Arc<Pool>, terms: Terms) -> Lease {
        let Self { connection, sender, was_idle, read_before } = self;
        let (pool, keep) = (Arc::clone(pool), terms.keep);
        Lease { connection, sender, pool, keep, was_idle, read_before, upload: None }
    }
}

/// What the configuration of whoever asks says.
#[derive(Clone, Copy)]
struct Terms {
    keep: KeepAlive,
    /// Requests at a time on one connection.
    streams: usize,
}

impl Pool {
    /// No connections yet.
    pub(in super::super) fn new(place: Place, places: [Arc<Places>; 2]) -> Arc<Self> {
        Arc::new(Self {
            place,
            trouble: Seldom::new(),
            state: Mutex::default(),
            seeking: AtomicUsize::new(0),
            places,
        })
    }

    fn owner(&self) -> Owner {
        Owner::of(self)
    }

    /// Where it leads.
    pub(in super::super) fn address(&self) -> &str {
        self.place.address()
    }

    /// What is spoken there, over what (RFC 9113 §8.3.1).
    pub(super) fn scheme(&self) -> Scheme {
        if self.place.is_secured() { Scheme::HTTPS } else { Scheme::HTTP }
    }

    /// Connections that nobody uses.
    pub fn idle(&self) -> usize {
        self.lock().open.iter().filter(|open| open.is_idle()).count()
    }

    /// Closes what nobody has used for too long, and forgets what takes no more requests.
    pub fn sweep(&self, keep: &KeepAlive) {
        let now = Instant::now();
        self.lock().open.retain(|open| {
            !open.is_stale(now, keep) && !matches!(open.connection.fit(now, usize::MAX), Fit::Gone)
        });
    }

    /// Closes the connection that nobody has used for longest; says whether there was one.
    pub(in super::super) fn close_oldest(&self) -> bool {
        self.lock().close_oldest()
    }

    /// Room for one request, within `timeouts.connect` for a place, and the same again for a connection.
    pub(super) async fn stream(self: &Arc<Self>, client: &Client, waits: &Waits) -> Result<Lease, Reason> {
        let terms = Terms { keep: client.keep_alive, streams: client.connections.streams };
        let mut until = None;
        loop {
            let turn = match self.arrive(terms) {
                Arrival::Stream(lease) => return Ok(lease),
                Arrival::Joins(told) => {
                    waits.for_endpoint();
                    told.await
                }
                Arrival::Waits(mut told, number) => {
                    let _seeks = Seeks::begin(self);
                    let until = *until.get_or_insert_with(|| Instant::now() + client.timeouts.connect);
                    tokio::select! {
                        biased;
                        turn = &mut told => turn,
                        places = timeout_at(until, self.place(client.bounds())) => {
                            let Ok(Ok(places)) = places else { return Err(Reason::ConnectionsFull) };
                            waits.for_endpoint();
                            self.make(client, terms, places, number);
                            told.await
                        }
                    }
                }
            };
            match turn {
                Ok(Turn::Stream(lease)) => return Ok(lease),
                Ok(Turn::Failed(reason)) => return Err(reason),
                Ok(Turn::Again) => {}
                Err(_) => return Err(Reason::ConnectFailed), // Who made it was cut off, as the process ends.
            }
        }
    }

    /// It takes no more requests: nothing comes over it.
    pub(super) fn retire(&self, connection: &Arc<Connection>) {
        self.lock().open.retain(|open| !Arc::ptr_eq(&open.connection, connection));
    }

    /// Forgets what has ended.
    pub(super) fn tidy(&self) {
        let now = Instant::now();
        self.lock().open.retain(|open| !matches!(open.connection.fit(now, usize::MAX), Fit::Gone));
    }

    fn arrive(self: &Arc<Self>, terms: Terms) -> Arrival {
        let mut state = self.lock();
        if let Some(room) = state.take(Instant::now(), terms) {
            return Arrival::Stream(room.lease(self, terms));
        }
        state.queue.retain(|waiter| !waiter.tell.is_closed());
        let room = state.room_to_come(terms);
        let has_joined = state.queue.len() < room;
        state.turns += 1;
        let (number, (tell, told)) = (state.turns, oneshot::channel());
        state.queue.push_back(Waiter { number, terms, has_joined, tell });
        if has_joined { Arrival::Joins(told) } else { Arrival::Waits(told, number) }
    }

    async fn place(&self, bounds: [Bound; 2]) -> Result<[Taken; 2], Full> {
        let [endpoint, all] = &self.places;
        let taken = endpoint.take(self.owner(), bounds[0]).await?;
        Ok([taken, all.take(self.owner(), bounds[1]).await?])
    }

    /// Makes a connection, as a task: who wanted it first may go, and others have joined.
    fn make(self: &Arc<Self>, client: &Client, terms: Terms, places: [Taken; 2], number: u64) {
        {
            let mut state = self.lock();
            state.making += 1;
            if let Some(first) = state.queue.iter_mut().find(|waiter| waiter.number == number) {
                first.has_joined = true;
            }
        }
        let (pool, connector) = (Arc::clone(self), client.connector.clone());
        let (began, metrics) = (Now::read(), Arc::clone(&client.metrics));
        let (limit, upstream) = (client.timeouts.connect, Arc::clone(&client.name));
        let in_vain = InVain { pool: Some(Arc::clone(self)), terms };
        tokio::spawn(async move {
            let making = async {
                let stream = connector.reach(&pool.place).await?;
                Ok(Connection::open(stream, &pool, terms.keep, terms.streams, places).await?)
            };
            let (reason, error) = match timeout(limit, making).await {
                Ok(Ok(connection)) => {
                    metrics.connected(began.elapsed());
                    in_vain.disarm();
                    return pool.made(Ok(connection), terms);
                }
                Ok(Err(Unreached { reason, error })) => (reason, error),
                Err(elapsed) => (Reason::ConnectTimeout, io::Error::from(elapsed)),
            };
            if pool.trouble.is_due() {
                warn!(%upstream, endpoint = &**pool.place.address(), %error, "no connection to an endpoint");
            }
            in_vain.disarm();
            pool.made(Err(reason), terms);
        });
    }

    /// Gives what was made to who waits for it, and tells those who have waited in vain.
    fn made(self: &Arc<Self>, made: Result<Arc<Connection>, Reason>, terms: Terms) {
        let failed = made.as_ref().err().copied();
        {
            let mut state = self.lock();
            state.making -= 1;
            if let Ok(connection) = made {
                state.known = Some(connection.streams());
                state.open.push(Open { connection, idle_since: Instant::now() });
            }
        }
        self.hand_out();
        for waiter in self.lock().take_in_vain(terms) {
            // Who is gone need not hear of it.
            let _ = waiter.tell.send(failed.map_or(Turn::Again, Turn::Failed));
        }
        self.yield_to_others();
    }

    /// What there is room for goes to who waits, in turn.
    pub(super) fn hand_out(self: &Arc<Self>) {
        loop {
            // In a statement of its own, at whose end it is unlocked: who has gone just now gives back what it is sent.
            let next = self.lock().next();
            let Some((waiter, room)) = next else { return };
            let lease = room.lease(self, waiter.terms);
            let _ = waiter.tell.send(Turn::Stream(lease));
        }
    }

    /// A connection has one request less.
    fn give_back(self: &Arc<Self>, connection: &Arc<Connection>, keep: &KeepAlive, is_last: bool) {
        if is_last {
            self.lock().touch(connection);
        }
        if connection.has_had_its_turn(self.owner()) {
            self.let_go(connection, is_last);
        }
        self.hand_out();
        if is_last {
            let mut state = self.lock();
            while state.open.iter().filter(|open| open.is_idle()).count() > keep.max_idle {
                state.close_oldest();
            }
            drop(state);
            self.yield_to_others();
        }
    }

    /// It takes no more requests, so that it is closed with the last that it has. If that takes too long, because a stream goes
    /// on, whoever waits is not served by it either: then it takes requests again.
    fn let_go(self: &Arc<Self>, connection: &Arc<Connection>, is_last: bool) {
        {
            let mut state = self.lock();
            let is_spared =
                state.leaving.strong_count() > 0 || state.stays_until.is_some_and(|it| Instant::now() < it);
            if is_spared && !is_last {
                return;
            }
            state.leaving = Arc::downgrade(connection);
            state.open.retain(|open| !Arc::ptr_eq(&open.connection, connection));
        }
        if is_last {
            return; // Closed as soon as it is dropped here.
        }
        let pool = Arc::downgrade(self);
        let Ok(runtime) = Handle::try_current() else { return }; // It is dropped as the process ends.
        runtime.spawn(async move {
            sleep(LEAVES).await;
            let Some(pool) = pool.upgrade() else { return };
            let is_back = pool.lock().take_back();
            if is_back {
                pool.hand_out();
            }
        });
    }

    /// Closes what nobody uses and somebody elsewhere waits for. Who waits here is given room, and wants no place then.
    fn yield_to_others(&self) {
        let is_wanted = self.places.iter().any(|places| places.is_wanted());
        if is_wanted && self.seeking.load(Acquire) == 0 {
            self.close_oldest();
        }
    }

    /// A panic cannot leave it half written: each change is one of a list or of a number.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection that is being made: dropped before that is over, as in a panic, it was made in vain, and who waits for it
/// hears of that.
struct InVain {
    pool: Option<Arc<Pool>>,
    terms: Terms,
}

impl InVain {
    fn disarm(mut self) {
        self.pool = None;
    }
}

impl Drop for InVain {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.take() {
            pool.made(Err(Reason::ConnectFailed), self.terms);
        }
    }
}

/// A request that looks for a place.
struct Seeks<'a>(&'a Pool);

impl<'a> Seeks<'a> {
    fn begin(pool: &'a Pool) -> Self {
        pool.seeking.fetch_add(1, AcqRel);
        Self(pool)
    }
}

impl Drop for Seeks<'_> {
    fn drop(&mut self) {
        self.0.seeking.fetch_sub(1, AcqRel);
        self.0.yield_to_others(); // What was kept for it is not wanted any more.
    }
}

impl State {
    /// So many requests have room on the connections that are being made.
    fn room_to_come(&self, terms: Terms) -> usize {
        self.making.saturating_mul(self.known.unwrap_or(usize::MAX).min(terms.streams))
    }

    /// Those for whom there will be no room on what is still being made: the oldest, who have waited for what is there by
    /// now, or is not.
    fn take_in_vain(&mut self, terms: Terms) -> Vec<Waiter> {
        let joined = self.queue.iter().filter(|waiter| waiter.has_joined).count();
        let mut surplus = joined.saturating_sub(self.room_to_come(terms));
        let mut kept = VecDeque::with_capacity(self.queue.len());
        let mut in_vain = Vec::new();
        for waiter in self.queue.drain(..) {
            if surplus > 0 && waiter.has_joined {
                surplus -= 1;
                in_vain.push(waiter);
            } else {
                kept.push_back(waiter);
            }
        }
        self.queue = kept;
        in_vain
    }

    /// Who waits and has its turn, with room for it: the first for whom there is any. One that came before a change of the
    /// configuration may want connections with fewer requests than those behind it, and keeps nobody waiting.
    fn next(&mut self) -> Option<(Waiter, Room)> {
        while self.queue.front().is_some_and(|waiter| waiter.tell.is_closed()) {
            self.queue.pop_front();
        }
        let (now, mut place, mut in_vain) = (Instant::now(), 0, 0);
        while let Some(waiter) = self.queue.get(place) {
            let terms = waiter.terms;
            // Where there is no room among so many, there is none among fewer.
            if terms.streams > in_vain {
                if let Some(room) = self.take(now, terms) {
                    return Some((self.queue.remove(place)?, room));
                }
                in_vain = terms.streams;
            }
            place += 1;
        }
        None
    }

    /// The first with room, which is counted with that; what takes no more is forgotten.
    fn take(&mut self, now: Instant, terms: Terms) -> Option<Room> {
        let mut place = 0;
        while let Some(open) = self.open.get(place) {
            if open.is_stale(now, &terms.keep) {
                self.open.remove(place);
                continue;
            }
            match open.connection.fit(now, terms.streams) {
                Fit::Free(sender) => {
                    let connection = Arc::clone(&open.connection);
                    let (was_idle, read_before) = (connection.begin(), connection.bytes_read());
                    return Some(Room { connection, sender, was_idle, read_before });
                }
                Fit::Full => place += 1,
                Fit::Gone => _ = self.open.remove(place),
            }
        }
        None
    }

    /// It is used no more, from now on.
    fn touch(&mut self, connection: &Arc<Connection>) {
        let it = self.open.iter_mut().find(|open| Arc::ptr_eq(&open.connection, connection));
        if let Some(open) = it {
            open.idle_since = Instant::now();
        }
    }

    /// Says whether there was one, which is used still.
    fn take_back(&mut self) -> bool {
        let leaving = mem::take(&mut self.leaving).upgrade();
        let now = Instant::now();
        self.stays_until = leaving.is_some().then_some(now + STAYS);
        leaving.map(|connection| self.open.push(Open { connection, idle_since: now })).is_some()
    }

    fn close_oldest(&mut self) -> bool {
        let idle = self.open.iter().enumerate().filter(|(_, open)| open.is_idle());
        let oldest = idle.min_by_key(|(_, open)| open.idle_since).map(|(place, _)| place);
        oldest.map(|place| self.open.remove(place)).is_some()
    }
}

impl Open {
    fn is_idle(&self) -> bool {
        self.connection.under_way() == 0
    }

    fn is_stale(&self, now: Instant, keep: &KeepAlive) -> bool {
        self.is_idle() && self.idle_since + keep.timeout <= now
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("address", self.place.address())
            .field("idle", &self.idle())
            .finish_non_exhaustive()
    }
}

/// Room on a connection for one request. Dropped, there is room for another: what is left of this one is cut off, and
/// the others on the connection go on.
pub(crate) struct Lease {
    connection: Arc<Connection>,
    sender: SendRequest<Bytes>,
    pool: Arc<Pool>,
    keep: KeepAlive,
    /// Nobody else used the connection, which had been used before: the other end may have been about to close it.
    was_idle: bool,
    read_before: u64,
    /// What sends the request's body still.
    upload: Option<AbortHandle>,
}

impl Lease {
    pub(super) const fn sender(&mut self) -> &mut SendRequest<Bytes> {
        &mut self.sender
    }

    /// Whether it may just have met the end of a connection that nobody used.
    pub(super) fn met_an_end(&self) -> bool {
        self.was_idle && self.is_silent()
    }

    /// Whether nothing has come over the connection since it was taken.
    pub(super) fn is_silent(&self) -> bool {
        self.connection.bytes_read() == self.read_before
    }

    /// The connection takes no more requests.
    pub(super) fn retire(&self) {
        self.pool.retire(&self.connection);
    }

    pub(super) fn with_upload(mut self, upload: Option<AbortHandle>) -> Self {
        self.upload = upload;
        self
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(upload) = self.upload.take() {
            upload.abort();
        }
        let is_last = self.connection.end();
        self.pool.give_back(&self.connection, &self.keep, is_last);
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("pool", &self.pool).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bug: after a panic of whoever makes a connection nobody told those who wait for it.
    #[test]
    fn who_waits_for_a_connection_whose_maker_is_gone_hears_of_that() {
        let pool = Pool::new(Place::new(&"app:1".into(), None), Default::default());
        let keep = KeepAlive { max_idle: 1, timeout: Duration::from_secs(1), max_lifetime: None };
        let terms = Terms { keep, streams: 2 };
        pool.lock().making = 1;
        let Arrival::Joins(mut told) = pool.arrive(terms) else { panic!("there will be room for it") };
        drop(InVain { pool: Some(Arc::clone(&pool)), terms });
        assert!(matches!(told.try_recv(), Ok(Turn::Failed(Reason::ConnectFailed))));
        assert_eq!(pool.lock().making, 0);
    }
}
