//! How many connections there may be, over all workers: to one endpoint, and in all.
//!
//! A connection has a place with its endpoint and one in the process from before it is made until it is closed, idle
//! or in use. Who finds none looks for a connection that nobody uses and closes it, whichever worker keeps it; who
//! finds none of those, waits in turn, if not too many do already, until one is given back or closed. How many
//! there may be is the configuration's of whoever asks, so that nothing is written before a generation is in force:
//! under a lower bound the connections that there are go on, and no new ones are made.
//!
//! A connection that is given back goes to whoever waits in its own pool first, which saves making another. Where the next in
//! turn is of another pool (of another worker, or upstream), that is so for [`TURN`] from when it was made, and until that one has
//! waited for as long; after that it is closed, and its place is the next one's. So nobody is starved by who is always busy.
//! Over HTTP/2 it takes no more requests and is closed with the last that it has; one at a time, and for half a second: if a
//! stream goes on for longer it takes requests again, so that streams which never end put nobody out of service.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{
            AtomicUsize,
            Ordering::{Acquire, Release},
        },
    },
    time::Duration,
};

use tokio::{sync::oneshot, time::Instant};

use super::pools::{Pool, WeakPool};

/// How long a pool may use a place while others wait for one.
pub(super) const TURN: Duration = Duration::from_millis(100);

/// Who waits for a place, as a number of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Owner(usize);

impl Owner {
    /// A pool, for as long as it is there.
    pub(super) fn of<T>(pool: &T) -> Self {
        Self(std::ptr::from_ref(pool).addr())
    }
}

/// How many there may be, and how many may wait for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bound {
    pub(super) max: usize,
    pub(super) waiting: usize,
}

/// There are as many as there may be, and as many wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full;

/// Counts connections, and keeps those who wait for one. Its lock is taken when a connection is made and when one
/// is closed, and not for a request over one that is kept.
#[derive(Default)]
pub struct Places {
    state: Mutex<State>,
    /// The length of the queue, for those who only look.
    queued: AtomicUsize,
    /// Who may keep connections that nobody uses.
    pools: Mutex<Vec<WeakPool>>,
}

#[derive(Default)]
struct State {
    open: usize,
    /// In turn.
    queue: VecDeque<Waiter>,
}

struct Waiter {
    owner: Owner,
    since: Instant,
    /// How many there may be for it.
    max: usize,
    tell: oneshot::Sender<Taken>,
}

impl Places {
    /// Connections there are.
    pub fn open(&self) -> usize {
        self.state().open
    }

    /// Who wait for one.
    pub fn waiting(&self) -> usize {
        self.state().queue.len()
    }

    /// A place, now or later; in turn. Who gives up waiting takes nothing along.
    pub(super) async fn take(self: &Arc<Self>, owner: Owner, bound: Bound) -> Result<Taken, Full> {
        loop {
            if let Some(taken) = self.try_take(bound.max) {
                return Ok(taken);
            }
            if !self.close_one() {
                break; // Under a lower bound than before it may take several.
            }
        }
        let _forget = Forget(self); // Dropped after the turn is.
        let turn = self.wait(owner, bound)?;
        // What was given back before anybody could know that we wait; who gives back after that looks himself.
        self.close_one();
        Ok(turn.await.expect("whoever waits is told as long as there are places"))
    }

    /// Whether somebody waits. Takes no lock.
    pub(super) fn is_wanted(&self) -> bool {
        self.queued.load(Acquire) > 0
    }

    /// Whether the next in turn is somebody else, and has waited for so long. Takes the lock only if anybody waits.
    fn is_wanted_by_other(&self, owner: Owner, patience: Duration) -> bool {
        let is_other = |next: &Waiter| next.owner != owner && next.since + patience <= Instant::now();
        self.is_wanted() && self.state().queue.front().is_some_and(is_other)
    }

    /// A pool that may be asked to close what it keeps.
    pub(super) fn add(&self, pool: &Pool) {
        let mut pools = self.pools();
        if pools.len() == pools.capacity() {
            pools.retain(|pool| pool.upgrade().is_some());
        }
        pools.push(pool.downgrade());
    }

    /// What is free is nobody's: who waits in turn is handed a place, and does not look for one.
    fn try_take(self: &Arc<Self>, max: usize) -> Option<Taken> {
        let mut state = self.state();
        if state.open >= max {
            return None;
        }
        state.open += 1;
        Some(Taken(Some(Arc::clone(self))))
    }

    fn wait(self: &Arc<Self>, owner: Owner, bound: Bound) -> Result<oneshot::Receiver<Taken>, Full> {
        let mut state = self.state();
        if state.open < bound.max {
            // Freed since it was looked.
            let (tell, turn) = oneshot::channel();
            state.hand(self, tell);
            return Ok(turn);
        }
        if state.queue.len() >= bound.waiting {
            return Err(Full);
        }
        let (tell, turn) = oneshot::channel();
        state.queue.push_back(Waiter { owner, since: Instant::now(), max: bound.max, tell });
        self.queued.store(state.queue.len(), Release);
        Ok(turn)
    }

    /// Closes a connection that nobody uses, the one of a pool that waited longest; says whether there was any.
    fn close_one(&self) -> bool {
        let pools = self.pools().iter().filter_map(WeakPool::upgrade).collect::<Vec<_>>();
        pools.iter().any(Pool::close_oldest)
    }

    fn free(self: &Arc<Self>) {
        let mut state = self.state();
        state.open -= 1;
        // The first in turn for whom there may be one more: after a reload not all have the same bound.
        while let Some(next) = state.next_in_turn() {
            if state.hand(self, next) {
                break;
            }
        }
        self.queued.store(state.queue.len(), Release);
    }

    /// A panic cannot leave it half written: it would have to be one of these lines.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A panic cannot leave the list half written.
    fn pools(&self) -> MutexGuard<'_, Vec<WeakPool>> {
        self.pools.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes out of the queue who has given up.
struct Forget<'a>(&'a Places);

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.queue.retain(|waiter| !waiter.tell.is_closed());
        self.0.queued.store(state.queue.len(), Release);
    }
}

impl State {
    fn next_in_turn(&mut self) -> Option<oneshot::Sender<Taken>> {
        let next = self.queue.iter().position(|waiter| self.open < waiter.max)?;
        self.queue.remove(next).map(|waiter| waiter.tell)
    }

    /// Says whether it was wanted still.
    fn hand(&mut self, places: &Arc<Places>, tell: oneshot::Sender<Taken>) -> bool {
        self.open += 1;
        let Err(taken) = tell.send(Taken(Some(Arc::clone(places)))) else { return true };
        taken.forget(); // The lock is held here.
        self.open -= 1;
        false
    }
}

impl fmt::Debug for Places {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Places").field("open", &self.open()).field("waiting", &self.waiting()).finish()
    }
}

/// One place; dropped, it is free.
#[derive(Debug)]
pub(super) struct Taken(Option<Arc<Places>>);

impl Taken {
    /// Whether somebody else than its owner is next, and has waited for so long.
    pub(super) fn is_wanted_by_other(&self, owner: Owner, patience: Duration) -> bool {
        self.0.as_ref().is_some_and(|places| places.is_wanted_by_other(owner, patience))
    }

    fn forget(mut self) {
        self.0 = None;
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        if let Some(places) = self.0.take() {
            places.free();
        }
    }
}

/// The places with each endpoint of one upstream, and those in the process.
#[derive(Debug, Default)]
pub struct UpstreamPlaces {
    of: Mutex<HashMap<Arc<str>, Arc<Places>>>,
    all: Arc<Places>,
}

impl UpstreamPlaces {
    /// Of an upstream of this process.
    pub fn new(all: &Arc<Places>) -> Self {
        Self { of: Mutex::default(), all: Arc::clone(all) }
    }

    /// Those with one endpoint. Only when a pool is made.
    pub(super) fn of(&self, address: &Arc<str>) -> [Arc<Places>; 2] {
        let mut of = self.lock();
        // Whoever has one took it under this lock.
        if !of.contains_key(address) && of.len() == of.capacity() {
            of.retain(|_, places| Arc::strong_count(places) > 1);
        }
        [Arc::clone(of.entry(Arc::clone(address)).or_default()), Arc::clone(&self.all)]
    }

    /// Connections to an endpoint, and who wait for one.
    pub fn counts(&self, address: &str) -> (usize, usize) {
        self.lock().get(address).map_or((0, 0), |places| (places.open(), places.waiting()))
    }

    /// The same of all endpoints, those that are gone and still have connections among them.
    pub fn all_counts(&self) -> (usize, usize) {
        let of = self.lock();
        of.values().fold((0, 0), |(open, waiting), of| (open + of.open(), waiting + of.waiting()))
    }

    /// A panic cannot leave the map half written.
    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Arc<Places>>> {
        self.of.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::AcqRel;

    use super::*;

    const ME: Owner = Owner(1);
    const TWO: Bound = Bound { max: 2, waiting: 3 };

    #[tokio::test(start_paused = true)]
    async fn places_are_given_in_turn_and_so_many_wait() {
        let places = Arc::new(Places::default());
        let (first, second) = (places.take(ME, TWO).await.unwrap(), places.take(ME, TWO).await.unwrap());
        let (order, mut waiters) = (Arc::new(Mutex::new(Vec::new())), Vec::new());
        for number in 0..3 {
            let (places, order) = (Arc::clone(&places), Arc::clone(&order));
            waiters.push(tokio::spawn(async move {
                let taken = places.take(ME, TWO).await.unwrap();
                order.lock().unwrap().push(number);
                taken
            }));
            tokio::task::yield_now().await;
        }
        assert_eq!((places.open(), places.waiting()), (2, 3));
        assert_eq!(places.take(ME, TWO).await.unwrap_err(), Full);
        // The second in turn gives up.
        waiters.remove(1).abort();
        tokio::task::yield_now().await;
        assert_eq!(places.waiting(), 2);
        drop(first);
        tokio::task::yield_now().await;
        assert_eq!(*order.lock().unwrap(), [0]);
        drop(second);
        let taken = (waiters.remove(0).await.unwrap(), waiters.remove(0).await.unwrap());
        assert_eq!((&*order.lock().unwrap(), places.open(), places.waiting()), (&vec![0, 2], 2, 0));
        drop(taken);
        assert_eq!(places.open(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_under_a_lower_bound_waits_and_a_higher_one_finds_a_place() {
        let places = Arc::new(Places::default());
        let three = Bound { max: 3, waiting: 1 };
        let taken = [places.take(ME, three).await.unwrap(), places.take(ME, three).await.unwrap()];
        let waits = {
            let places = Arc::clone(&places);
            tokio::spawn(async move { places.take(ME, Bound { max: 1, waiting: 1 }).await })
        };
        tokio::task::yield_now().await;
        let [first, second] = taken;
        drop(first);
        tokio::task::yield_now().await;
        assert_eq!((places.open(), places.waiting()), (1, 1), "one is still there");
        drop(second);
        assert!(waits.await.unwrap().is_ok());
        assert_eq!(places.open(), 0);
    }

    /// However they come, wait and give up: never more than may be, and in the end none.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn there_are_never_more_than_may_be() {
        let (places, peak) = (Arc::new(Places::default()), Arc::new(AtomicUsize::new(0)));
        let bound = Bound { max: 4, waiting: 1000 };
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..400_u64 {
            let (places, peak) = (Arc::clone(&places), Arc::clone(&peak));
            tasks.spawn(async move {
                let take = places.take(ME, bound);
                let patience = Duration::from_micros(number % 7 * 300);
                if let Ok(Ok(taken)) = tokio::time::timeout(patience, take).await {
                    peak.fetch_max(places.open(), AcqRel);
                    tokio::task::yield_now().await;
                    drop(taken);
                }
            });
        }
        while tasks.join_next().await.is_some() {}
        assert!((1..=4).contains(&peak.load(Acquire)), "{peak:?}");
        assert_eq!((places.open(), places.waiting()), (0, 0));
        assert!(places.take(ME, bound).await.is_ok(), "no turn was lost");
    }
}
