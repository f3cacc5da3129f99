//! What is kept, under one bound, and who is on the way to get more.
//!
//! Sixteen locks, each held for a few look-ups. What is over the bound goes by the rule of the second chance (CLOCK): the
//! oldest goes, unless it was used since it was looked at last.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    hash::{BuildHasher as _, RandomState},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{
            AtomicBool, AtomicUsize,
            Ordering::{AcqRel, Relaxed},
        },
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use tokio::{sync::watch, time::Instant};

use super::rules::{Asked, Life, Use, has_validator};
use crate::clock::Now;

const SHARDS: usize = 16;
/// Responses to requests for one thing that differ in what they depend on.
pub(super) const MAX_VARIANTS: usize = 8;
/// How long it is remembered that a thing cannot be kept, so that nobody waits for it.
const PASS: Duration = Duration::from_secs(10);
/// How many such things each shard remembers.
const MAX_PASSES: usize = 1024;
/// What an entry takes beside its texts, about, in bytes.
const OVERHEAD: usize = 512;

/// One response.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: Arc<str>,
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    pub(super) trailers: Option<HeaderMap>,
    /// What it depends on, and what that was.
    pub(super) vary: Vec<(HeaderName, Vec<HeaderValue>)>,
    pub(super) life: Life,
    /// When it came.
    pub(super) since: Instant,
    was_used: AtomicBool,
    is_gone: AtomicBool,
}

impl Entry {
    pub(super) fn new(
        key: &Arc<str>,
        status: StatusCode,
        headers: HeaderMap,
        vary: Vec<(HeaderName, Vec<HeaderValue>)>,
        life: Life,
        since: Instant,
    ) -> Self {
        let (key, body, trailers) = (Arc::clone(key), Bytes::new(), None);
        let (was_used, is_gone) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { key, status, headers, body, trailers, vary, life, since, was_used, is_gone }
    }

    pub(super) fn age(&self, now: Now) -> Duration {
        self.life.initial_age.saturating_add(now.instant().saturating_duration_since(self.since))
    }

    fn is_for(&self, headers: &HeaderMap) -> bool {
        self.vary.iter().all(|(name, values)| headers.get_all(name).iter().eq(values))
    }

    fn weight(&self) -> usize {
        let fields = |headers: &HeaderMap| {
            headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 64).sum::<usize>()
        };
        let vary = self.vary.iter().flat_map(|(_, values)| values).map(|value| value.len() + 64);
        let trailers = self.trailers.as_ref().map_or(0, fields);
        OVERHEAD + self.key.len() + self.body.len() + fields(&self.headers) + vary.sum::<usize>() + trailers
    }
}

/// What is kept.
pub(super) struct Store {
    shards: [Mutex<Shard>; SHARDS],
    bytes: AtomicUsize,
    hashes: RandomState,
}

#[derive(Default)]
struct Shard {
    known: HashMap<Arc<str>, Vec<Arc<Entry>>>,
    /// The next to go first. Some are gone already.
    order: VecDeque<Arc<Entry>>,
    live: usize,
    flights: HashMap<Like, watch::Receiver<bool>>,
    /// Until when it is known that it cannot be kept.
    passes: HashMap<Like, Instant>,
}

/// The same thing, asked for by those who say who they are, or by those who do not.
type Like = (Arc<str>, bool);

/// What is known of what a request asks for.
#[derive(Debug)]
pub(super) enum Found {
    /// The answer.
    Fresh(Arc<Entry>),
    /// One that may be too old.
    Stale { entry: Arc<Entry>, stands_in: bool, flight: Option<Flight> },
    /// Nothing; or nothing for this request, of what depends on what it says.
    Nothing { is_variant: bool, flight: Option<Flight> },
    /// It could not be kept just now.
    Pass,
    /// Somebody is on the way to get it. Says whether that one failed, or nothing if it is done or was given up.
    UnderWay(watch::Receiver<bool>),
}

impl Store {
    pub(super) fn new() -> Self {
        let hashes = RandomState::new();
        Self { shards: Default::default(), bytes: AtomicUsize::new(0), hashes }
    }

    /// What is known. With `leads` whoever asks first is on the way, and others wait.
    pub(super) fn find(
        self: &Arc<Self>,
        key: &Arc<str>,
        headers: &HeaderMap,
        asked: &Asked,
        leads: bool,
        now: Now,
    ) -> Found {
        let mut shard = self.shard(key);
        let found = shard.find(key, headers, asked, now);
        if let Some((entry, Use::Fresh)) = found {
            entry.was_used.store(true, Relaxed);
            return Found::Fresh(entry);
        }
        let is_variant = found.is_none() && shard.known.contains_key(key);
        let like = (Arc::clone(key), asked.is_credentialed);
        if found.is_none() && shard.passes(&like, now) {
            return Found::Pass;
        }
        // What comes of a condition of the client's own is for nobody else.
        let is_asked_about = found.as_ref().is_some_and(|(entry, _)| has_validator(&entry.headers));
        let leads = leads && (is_asked_about || !asked.is_conditional);
        let flight = if leads {
            if let Some(under_way) = shard.flights.get(&like) {
                return Found::UnderWay(under_way.clone());
            }
            let (sender, receiver) = watch::channel(false);
            shard.flights.insert(like.clone(), receiver);
            Some(Flight { store: Arc::clone(self), like, sender })
        } else {
            None
        };
        match found {
            Some((entry, how)) => {
                entry.was_used.store(true, Relaxed);
                let stands_in = matches!(how, Use::Stale { stands_in: true });
                Found::Stale { entry, stands_in, flight }
            }
            None => Found::Nothing { is_variant, flight },
        }
    }

    /// The same, and nothing changes.
    pub(super) fn look(
        &self,
        key: &str,
        headers: &HeaderMap,
        asked: &Asked,
        now: Now,
    ) -> Option<(Arc<Entry>, Use)> {
        self.shard(key).find(key, headers, asked, now)
    }

    /// Keeps one, in place of the one for the same requests. `max_bytes` is what all may take.
    pub(super) fn put(&self, entry: Entry, max_bytes: usize) {
        let (weight, entry) = (entry.weight(), Arc::new(entry));
        if weight > max_bytes {
            return;
        }
        let home = self.place(&entry.key);
        {
            let mut shard = self.lock(home);
            let variants = shard.known.entry(Arc::clone(&entry.key)).or_default();
            let is_same = |old: &Arc<Entry>| old.vary == entry.vary;
            let mut gone = variants.extract_if(.., |old| is_same(old)).collect::<Vec<_>>();
            if variants.len() >= MAX_VARIANTS {
                gone.push(variants.remove(0));
            }
            variants.push(Arc::clone(&entry));
            for old in gone {
                shard.live -= 1;
                self.let_go(&old);
            }
            shard.live += 1;
            shard.order.push_back(entry);
            shard.sweep();
        }
        self.bytes.fetch_add(weight, AcqRel);
        // The other shards are asked when this one has nothing left that is older.
        for place in (0..SHARDS).map(|offset| (home + offset) % SHARDS) {
            if self.bytes.load(Relaxed) <= max_bytes {
                break;
            }
            self.shrink(&mut self.lock(place), max_bytes);
        }
    }

    fn shrink(&self, shard: &mut Shard, max_bytes: usize) {
        // Each is looked at twice at most: once it is spared.
        for _ in 0..shard.order.len() * 2 {
            if self.bytes.load(Relaxed) <= max_bytes {
                return;
            }
            let Some(entry) = shard.order.pop_front() else { return };
            if entry.is_gone.load(Relaxed) {
                continue;
            }
            if entry.was_used.swap(false, Relaxed) {
                shard.order.push_back(entry);
                continue;
            }
            shard.remove(&entry);
            self.let_go(&entry);
        }
    }

    fn let_go(&self, entry: &Entry) {
        entry.is_gone.store(true, Relaxed);
        self.bytes.fetch_sub(entry.weight(), AcqRel);
    }

    /// It has changed: nothing that is kept of it is good any more.
    pub(super) fn invalidate(&self, key: &str) {
        let mut shard = self.shard(key);
        let gone = shard.known.remove(key).unwrap_or_default();
        shard.live -= gone.len();
        drop(shard);
        for entry in gone {
            self.let_go(&entry);
        }
    }

    /// Everything.
    pub(super) fn clear(&self) {
        for place in 0..SHARDS {
            let mut shard = self.lock(place);
            shard.order.clear();
            shard.live = 0;
            shard.passes.clear();
            let gone = std::mem::take(&mut shard.known);
            drop(shard);
            for entry in gone.values().flatten() {
                self.let_go(entry);
            }
        }
    }

    /// It cannot be kept, for a while.
    pub(super) fn pass(&self, key: &Arc<str>, asked: &Asked, now: Now) {
        let mut shard = self.shard(key);
        if shard.passes.len() >= MAX_PASSES {
            shard.passes.retain(|_, until| *until > now.instant());
        }
        if shard.passes.len() >= MAX_PASSES {
            shard.passes.clear(); // Somebody waits once more for nothing, and nothing else happens.
        }
        shard.passes.insert((Arc::clone(key), asked.is_credentialed), now.instant() + PASS);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.load(Relaxed) == 0
    }

    /// Responses, and what they take in bytes.
    pub(super) fn counts(&self) -> (usize, usize) {
        let entries = (0..SHARDS).map(|place| self.lock(place).live).sum();
        (entries, self.bytes.load(Relaxed))
    }

    fn place(&self, key: &str) -> usize {
        usize::try_from(self.hashes.hash_one(key) % 16).unwrap_or_default()
    }

    fn shard(&self, key: &str) -> MutexGuard<'_, Shard> {
        self.lock(self.place(key))
    }

    fn lock(&self, place: usize) -> MutexGuard<'_, Shard> {
        self.shards[place].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

impl Shard {
    /// The youngest that is for these headers.
    fn find(&self, key: &str, headers: &HeaderMap, asked: &Asked, now: Now) -> Option<(Arc<Entry>, Use)> {
        let all = self.known.get(key)?.iter().rev().filter(|entry| entry.is_for(headers));
        let mut all = all.map(|entry| (Arc::clone(entry), entry.life.at(entry.age(now), asked)));
        all.find(|(_, how)| *how != Use::No)
    }

    fn passes(&mut self, like: &Like, now: Now) -> bool {
        let Some(until) = self.passes.get(like) else { return false };
        let is_now = *until > now.instant();
        if !is_now {
            self.passes.remove(like);
        }
        is_now
    }

    fn remove(&mut self, entry: &Arc<Entry>) {
        let Some(variants) = self.known.get_mut(&entry.key) else { return };
        variants.retain(|known| !Arc::ptr_eq(known, entry));
        self.live -= 1;
        if variants.is_empty() {
            self.known.remove(&entry.key);
        }
    }

    /// Forgets in the order what is gone already, before it is more than what is not.
    fn sweep(&mut self) {
        if self.order.len() > 2 * self.live + 64 {
            self.order.retain(|entry| !entry.is_gone.load(Relaxed));
        }
    }
}

/// Whoever is on the way to get something. Dropped, the others look again.
#[derive(Debug)]
pub(super) struct Flight {
    store: Arc<Store>,
    like: Like,
    sender: watch::Sender<bool>,
}

impl Flight {
    /// It failed: the others go themselves, and not one after the other.
    pub(super) fn fail(self) {
        self.sender.send_replace(true);
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.store.shard(&self.like.0).flights.remove(&self.like);
    }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;

    fn asked() -> Asked {
        Asked::of(&Method::GET, &HeaderMap::new(), false).unwrap()
    }

    fn entry(key: &str, bytes: usize, now: Now) -> Entry {
        let s = Duration::from_secs;
        let life = Life {
            initial_age: s(0),
            fresh_for: s(60),
            stale_if_error: s(0),
            may_be_stale: true,
            is_for_all: false,
        };
        let mut entry =
            Entry::new(&key.into(), StatusCode::OK, HeaderMap::new(), Vec::new(), life, now.instant());
        entry.body = Bytes::from(vec![0; bytes]);
        entry
    }

    fn is_known(store: &Arc<Store>, key: &str, now: Now) -> bool {
        matches!(store.find(&key.into(), &HeaderMap::new(), &asked(), false, now), Found::Fresh(_))
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_bounded_and_what_is_used_stays() {
        let (store, now) = (Arc::new(Store::new()), Now::read());
        store.put(entry("hot", 1000, now), 100_000);
        for number in 0..10_000 {
            store.put(entry(&format!("/{number}"), 1000, now), 100_000);
            assert!(is_known(&store, "hot", now), "{number}");
            assert!(store.counts().1 <= 100_000, "{number}: {:?}", store.counts());
        }
        let (entries, bytes) = store.counts();
        assert!((40..=66).contains(&entries) && bytes > 50_000, "{entries} of {bytes} bytes");
        let all = (0..SHARDS).map(|place| store.lock(place).known.len()).sum::<usize>();
        let order = (0..SHARDS).map(|place| store.lock(place).order.len()).sum::<usize>();
        assert!(all == entries && order <= 2 * entries + 64 * SHARDS);
        store.put(entry("large", 200_000, now), 100_000);
        assert!(!is_known(&store, "large", now) && is_known(&store, "hot", now));
        store.clear();
        assert_eq!(store.counts(), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_put_again_or_is_let_go_of_weighs_once_and_not_at_all() {
        let (store, now) = (Arc::new(Store::new()), Now::read());
        for _ in 0..10_000 {
            store.put(entry("a", 1000, now), 100_000);
        }
        let (entries, bytes) = store.counts();
        assert!(entries == 1 && bytes < 2000, "{bytes}");
        assert!(store.shard("a").order.len() < 100);
        store.invalidate("a");
        assert_eq!(store.counts(), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn variants_of_one_thing_are_bounded() {
        let (store, now) = (Arc::new(Store::new()), Now::read());
        let name = HeaderName::from_static("accept-language");
        for number in 0..100 {
            let mut entry = entry("a", 10, now);
            entry.vary = vec![(name.clone(), vec![HeaderValue::from(number)])];
            store.put(entry, 100_000);
        }
        assert_eq!(store.counts().0, MAX_VARIANTS);
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_be_kept_is_known_for_a_while_and_for_so_many() {
        let (store, now) = (Arc::new(Store::new()), Now::read());
        let passes = |key: &str, now| {
            matches!(store.find(&key.into(), &HeaderMap::new(), &asked(), true, now), Found::Pass)
        };
        store.pass(&"a".into(), &asked(), now);
        assert!(passes("a", now));
        let later = Now::from(now.instant() + PASS);
        assert!(!passes("a", later));
        for number in 0..100_000 {
            store.pass(&format!("/{number}").into(), &asked(), now);
        }
        assert!((0..SHARDS).all(|place| store.lock(place).passes.len() <= MAX_PASSES));
    }
}
