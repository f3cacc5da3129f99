//! Where keys come from, and how they stay fresh: fixed, or fetched by a driver that the owner runs.

use std::{
    fmt,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{
            AtomicBool, AtomicU64, AtomicUsize,
            Ordering::{AcqRel, Acquire, Release},
        },
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, sleep_until, timeout},
};
use tower_service::Service;

use super::{
    cache::Cache,
    jwk::{KeySet, KeysError},
};
use crate::{BoxError, causes::with_causes, clock::Now};

/// How keys are fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FetchConfig {
    /// The longest one attempt may take; default 5 s.
    pub timeout: Duration,
    /// The shortest time between the beginnings of two attempts, whoever asks; default 10 s, at least 1 s.
    pub min_interval: Duration,
    /// How long keys are fresh where the answer does not say; default 10 min. They are fetched anew when
    /// four fifths of it are over.
    pub fresh: Duration,
    /// How long keys count after the last good answer; default 24 h.
    pub max_stale: Duration,
}

impl Default for FetchConfig {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(5),
            min_interval: Duration::from_secs(10),
            fresh: Duration::from_mins(10),
            max_stale: Duration::from_hours(24),
        }
    }
}

impl FetchConfig {
    /// Within what a clock can count, and no busier than once a second.
    fn sane(self) -> Self {
        const YEAR: Duration = Duration::from_hours(24 * 365);
        let second = Duration::from_secs(1);
        Self {
            timeout: self.timeout.min(YEAR),
            min_interval: self.min_interval.clamp(second, YEAR),
            fresh: self.fresh.min(YEAR),
            max_stale: self.max_stale.min(YEAR),
        }
    }
}

/// Requests that wait for keys at once; beyond it they are answered by what is known.
const MAX_WAITING: usize = 1024;

/// What fetching brought.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// A key set as JSON.
    pub body: Bytes,
    /// How long it is fresh, as the answer says.
    pub max_age: Option<Duration>,
}

/// The keys that tokens are verified with. Clones share them.
#[derive(Clone)]
pub struct Keys(Arc<State>);

struct State {
    start: Instant,
    config: FetchConfig,
    is_fixed: bool,
    current: RwLock<Option<Arc<Snapshot>>>,
    /// When the last good answer came and the last attempt began; nanoseconds since `start`, plus 1.
    good_ns: AtomicU64,
    attempt_ns: AtomicU64,
    /// An attempt is under way: whoever asks waits for it.
    is_asking: AtomicBool,
    /// The driver has not been dropped.
    is_driven: AtomicBool,
    waiting: AtomicUsize,
    is_wanted: AtomicBool,
    wanted: Notify,
    /// How many attempts have ended.
    attempts: watch::Sender<u64>,
    last_error: RwLock<Option<String>>,
}

impl State {
    fn new(config: FetchConfig, is_fixed: bool) -> Self {
        Self {
            start: Instant::now(),
            config: config.sane(),
            is_fixed,
            current: RwLock::new(None),
            good_ns: AtomicU64::new(0),
            attempt_ns: AtomicU64::new(0),
            is_asking: AtomicBool::new(false),
            is_driven: AtomicBool::new(!is_fixed),
            waiting: AtomicUsize::new(0),
            is_wanted: AtomicBool::new(false),
            wanted: Notify::new(),
            attempts: watch::Sender::new(0),
            last_error: RwLock::new(None),
        }
    }
}

/// Keys, and the tokens that they have verified: both go together.
pub(super) struct Snapshot {
    pub(super) keys: KeySet,
    pub(super) cache: Cache,
    body: Bytes,
}

impl Keys {
    /// These, and no others.
    pub fn fixed(keys: KeySet) -> Self {
        let it = Self::new(FetchConfig::default(), true);
        it.put(Snapshot { keys, cache: Cache::default(), body: Bytes::new() });
        it
    }

    /// Those that `fetch` brings. Nothing is fetched unless somebody runs the driver; where it is dropped,
    /// keys stay as they are.
    pub fn fetched<F>(fetch: F, config: FetchConfig) -> (Self, KeyDriver<F>)
    where
        F: Service<(), Response = Fetched, Error: Into<BoxError>>,
    {
        let keys = Self::new(config, false);
        (keys.clone(), KeyDriver { keys, fetch })
    }

    /// The same keys, fetched in another way from now on: what there is counts on, as long as this way says.
    /// The driver of the ones before goes on for them, and can be dropped.
    pub fn refetched<F>(&self, fetch: F, config: FetchConfig) -> (Self, KeyDriver<F>)
    where
        F: Service<(), Response = Fetched, Error: Into<BoxError>>,
    {
        let old = &*self.0;
        // Of the two that say when: before the keys, so that these are never taken for younger than they are.
        let (good_ns, attempt_ns) = (old.good_ns.load(Acquire), old.attempt_ns.load(Acquire));
        let current = old.current.read().unwrap_or_else(PoisonError::into_inner).clone();
        let keys = Self(Arc::new(State {
            start: old.start,
            current: RwLock::new(current),
            good_ns: AtomicU64::new(good_ns),
            attempt_ns: AtomicU64::new(attempt_ns),
            last_error: RwLock::new(self.last_error()),
            ..State::new(config, false)
        }));
        (keys.clone(), KeyDriver { keys, fetch })
    }

    fn new(config: FetchConfig, is_fixed: bool) -> Self {
        Self(Arc::new(State::new(config, is_fixed)))
    }

    /// Whether there are keys that count now: what readiness depends on.
    pub fn is_ready(&self, now: Now) -> bool {
        self.get(now).is_some()
    }

    /// Attempts to fetch so far.
    pub fn attempts(&self) -> u64 {
        *self.0.attempts.borrow()
    }

    /// Waits until more than `known` attempts have ended, and answers with how many have;
    /// [`last_error`](Self::last_error) says what came of the last one.
    pub async fn attempted(&self, known: u64) -> u64 {
        let mut attempts = self.0.attempts.subscribe();
        let more = attempts.wait_for(|attempts| *attempts > known).await;
        more.map_or(known, |attempts| *attempts) // Whoever counts them lives as long as `self`.
    }

    /// Why the last attempt failed; nothing if it did not.
    pub fn last_error(&self) -> Option<String> {
        self.0.last_error.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The keys that count now.
    pub(super) fn get(&self, now: Now) -> Option<Arc<Snapshot>> {
        let current = self.0.current.read().unwrap_or_else(PoisonError::into_inner).clone()?;
        let age = self.since(self.0.good_ns.load(Acquire), now)?;
        (self.0.is_fixed || age <= self.0.config.max_stale).then_some(current)
    }

    /// Whether asking could bring keys that are not there: an attempt is under way, or the last one was
    /// long enough ago. Strangers must not be able to make us ask, nor to fill us with those who wait.
    pub(super) fn may_ask(&self, now: Now) -> bool {
        let state = &self.0;
        let since = self.since(state.attempt_ns.load(Acquire), now);
        let is_due = since.is_none_or(|since| since >= state.config.min_interval);
        state.is_driven.load(Acquire)
            && state.waiting.load(Acquire) < MAX_WAITING
            && (state.is_asking.load(Acquire) || is_due)
    }

    /// How long it is until another attempt may begin.
    fn until_due(&self) -> Duration {
        let since = self.since(self.0.attempt_ns.load(Acquire), Now::read());
        since.map_or(Duration::ZERO, |since| self.0.config.min_interval.saturating_sub(since))
    }

    /// Has the driver fetch, and waits until the attempt has ended; many who wait share one.
    pub(super) async fn ask(&self) {
        let mut attempts = self.0.attempts.subscribe();
        let _place = Place::taken(&self.0.waiting);
        if !self.0.is_asking.load(Acquire) {
            // It may just have ended: then there is nothing to wait for.
            if self.0.attempt_ns.load(Acquire) != 0 && !self.may_ask(Now::read()) {
                return;
            }
            self.0.is_wanted.store(true, Release);
            self.0.wanted.notify_one();
        }
        // Twice: another attempt may begin only after this one.
        let _ = timeout(self.0.config.timeout.saturating_mul(2), attempts.changed()).await;
    }

    fn put(&self, snapshot: Snapshot) {
        let mut current = self.0.current.write().unwrap_or_else(PoisonError::into_inner);
        self.0.good_ns.store(self.stamp(), Release); // Before anybody sees the keys.
        *current = Some(Arc::new(snapshot));
    }

    fn stamp(&self) -> u64 {
        Now::read().since_ns(self.0.start).saturating_add(1)
    }

    fn since(&self, stamp_ns: u64, now: Now) -> Option<Duration> {
        let at_ns = stamp_ns.checked_sub(1)?;
        Some(Duration::from_nanos(now.since_ns(self.0.start).saturating_sub(at_ns)))
    }

    /// One answer: new keys, or the same ones that are fresh again.
    fn take(&self, fetched: Fetched) -> Result<Duration, KeysError> {
        let fresh = fetched.max_age.unwrap_or(self.0.config.fresh).min(self.0.config.max_stale);
        let current = self.0.current.read().unwrap_or_else(PoisonError::into_inner).clone();
        if current.is_some_and(|current| current.body == fetched.body) {
            self.0.good_ns.store(self.stamp(), Release);
            return Ok(fresh);
        }
        let keys = KeySet::from_jwks(&fetched.body)?;
        self.put(Snapshot { keys, cache: Cache::default(), body: fetched.body });
        Ok(fresh)
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let current = self.0.current.read().unwrap_or_else(PoisonError::into_inner);
        let keys = current.as_ref().map(|snapshot| &snapshot.keys);
        f.debug_struct("Keys")
            .field("is_fixed", &self.0.is_fixed)
            .field("current", &keys)
            .finish_non_exhaustive()
    }
}

/// Keeps fetched keys fresh, as long as somebody runs it.
#[must_use = "nothing is fetched unless it is run"]
pub struct KeyDriver<F> {
    keys: Keys,
    fetch: F,
}

impl<F> KeyDriver<F>
where
    F: Service<(), Response = Fetched, Error: Into<BoxError>>,
{
    /// Fetches now (or, going on for another driver, when its last attempt is
    /// [`min_interval`](FetchConfig::min_interval) ago), before what there is gets stale, and when a token names a key that is not known, but
    /// never more often than [`FetchConfig::min_interval`] allows. After a failure it tries again after
    /// that interval, then after twice as long, up to sixteen times as long, unless somebody asks; the
    /// keys stay.
    pub async fn run(mut self) {
        let mut failures = 0_u32;
        sleep(self.keys.until_due()).await;
        loop {
            let began = Instant::now();
            let state = &self.keys.0;
            state.is_asking.store(true, Release);
            state.attempt_ns.store(self.keys.stamp(), Release);
            let result = match timeout(state.config.timeout, fetch(&mut self.fetch)).await {
                Ok(Ok(fetched)) => self.keys.take(fetched).map_err(BoxError::from),
                Ok(Err(error)) => Err(error),
                Err(_) => Err("no answer in time".into()),
            };
            let min_interval = state.config.min_interval;
            let wait = match &result {
                Ok(fresh) => (*fresh / 5).saturating_mul(4).max(min_interval),
                Err(_) => min_interval.saturating_mul(1 << u32::min(failures, 4)),
            };
            failures = if result.is_ok() { 0 } else { failures.saturating_add(1) };
            let error = result.err().map(|error| with_causes(&*error));
            *state.last_error.write().unwrap_or_else(PoisonError::into_inner) = error;
            state.is_wanted.store(false, Release); // Whoever asked meanwhile is answered by this attempt.
            state.is_asking.store(false, Release);
            state.attempts.send_modify(|attempts| *attempts += 1);
            if timeout(wait, wanted(state)).await.is_ok() {
                sleep_until(began + min_interval).await;
            }
        }
    }
}

impl<F> Drop for KeyDriver<F> {
    fn drop(&mut self) {
        self.keys.0.is_driven.store(false, Release);
        self.keys.0.is_asking.store(false, Release);
        self.keys.0.attempts.send_modify(|attempts| *attempts += 1); // Nobody waits for ever.
    }
}

/// One who waits.
struct Place<'a>(&'a AtomicUsize);

impl<'a> Place<'a> {
    fn taken(waiting: &'a AtomicUsize) -> Self {
        waiting.fetch_add(1, AcqRel);
        Self(waiting)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, AcqRel);
    }
}

async fn wanted(state: &State) {
    while !state.is_wanted.swap(false, AcqRel) {
        state.wanted.notified().await;
    }
}

async fn fetch<F>(service: &mut F) -> Result<Fetched, BoxError>
where
    F: Service<(), Response = Fetched, Error: Into<BoxError>>,
{
    std::future::poll_fn(|cx| service.poll_ready(cx)).await.map_err(Into::into)?;
    service.call(()).await.map_err(Into::into)
}

impl<F> fmt::Debug for KeyDriver<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyDriver").field("keys", &self.keys).finish_non_exhaustive()
    }
}
