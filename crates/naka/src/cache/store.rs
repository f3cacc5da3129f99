//! What is kept, under one bound, and who is on the way to get more.
//!
//! One lock, which those share who only find. What is over the bound goes by the rule of the second chance (CLOCK): the
//! oldest goes, unless it was used since it was looked at last.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    hash::{BuildHasher as _, RandomState},
    sync::{
        Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use tokio::{sync::watch, time::Instant};

use super::rules::{Asked, Life, Use, has_validator};
use crate::clock::Now;

/// Responses to requests for one thing that differ in what they depend on.
pub(super) const MAX_VARIANTS: usize = 8;
/// How long it is remembered that a thing cannot be kept, so that nobody waits for it.
const PASS: Duration = Duration::from_secs(10);
/// How long it is remembered that a thing has changed: what was asked for before is not kept.
const CHANGE: Duration = Duration::from_mins(1);
/// How many things are remembered of each of these sorts.
const MAX_MARKS: usize = 16_384;
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
        let was_used = AtomicBool::new(false);
        Self { key, status, headers, body, trailers, vary, life, since, was_used }
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
    shelf: RwLock<Shelf>,
    hashes: RandomState,
}

#[derive(Default)]
struct Shelf {
    known: HashMap<Arc<str>, Vec<Arc<Entry>>>,
    /// The next to go first. Of some nothing is left.
    order: VecDeque<Weak<Entry>>,
    entries: usize,
    bytes: usize,
    flights: HashMap<Like, watch::Receiver<Flying>>,
    /// Until when it is known that it cannot be kept.
    passes: Marks,
    /// When it has changed.
    changes: Marks,
}

/// The same thing, asked for by those who say who they are, or by those who do not.
type Like = (Arc<str>, bool);

/// Times that are remembered of things, by their hashes: two things that have one share a mark, and then one is
/// asked for once more than it had to be.
#[derive(Default)]
struct Marks {
    of: HashMap<u64, Instant>,
    /// That of all that were forgotten.
    floor: Option<Instant>,
}

impl Marks {
    fn put(&mut self, hash: u64, at: Instant, is_over: impl Fn(Instant) -> bool) {
        if self.of.len() >= MAX_MARKS {
            self.of.retain(|_, at| !is_over(*at));
        }
        if self.of.len() >= MAX_MARKS {
            self.floor = self.of.drain().map(|(_, at)| at).max().max(self.floor);
        }
        self.of.insert(hash, at);
    }

    fn get(&self, hash: u64) -> Option<Instant> {
        self.of.get(&hash).copied()
    }
}

/// How far whoever is on the way has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flying {
    Away,
    /// It is back, whatever it has got.
    Landed,
    /// It failed.
    Failed,
}

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
    /// Somebody is on the way to get it.
    UnderWay(watch::Receiver<Flying>),
}

impl Store {
    pub(super) fn new() -> Self {
        Self { shelf: RwLock::default(), hashes: RandomState::new() }
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
        if let Some((entry, Use::Fresh)) = self.look(key, headers, asked, now) {
            entry.was_used.store(true, Relaxed);
            return Found::Fresh(entry);
        }
        let mut shelf = self.write();
        // It may have come in between.
        let found = shelf.find(key, headers, asked, now);
        if let Some((entry, how)) = &found {
            entry.was_used.store(true, Relaxed);
            if *how == Use::Fresh {
                return Found::Fresh(Arc::clone(entry));
            }
        }
        let like = (Arc::clone(key), asked.is_credentialed);
        let passes = || shelf.passes.get(self.hashes.hash_one(&like));
        if found.is_none() && passes().is_some_and(|until| until > now.instant()) {
            return Found::Pass;
        }
        // What comes of a condition of the client's own is for nobody else.
        let is_asked_about = found.as_ref().is_some_and(|(entry, _)| has_validator(&entry.headers));
        let flight = if leads && (is_asked_about || !asked.is_conditional) {
            if let Some(under_way) = shelf.flights.get(&like) {
                return Found::UnderWay(under_way.clone());
            }
            let (sender, receiver) = watch::channel(Flying::Away);
            shelf.flights.insert(like.clone(), receiver);
            Some(Flight { store: Arc::clone(self), like, sender })
        } else {
            None
        };
        match found {
            Some((entry, how)) => {
                let stands_in = matches!(how, Use::Stale { stands_in: true });
                Found::Stale { entry, stands_in, flight }
            }
            None => Found::Nothing { is_variant: shelf.known.contains_key(key), flight },
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
        self.read().find(key, headers, asked, now)
    }

    /// Keeps one that was asked for at `sent`, in place of the one for the same requests. `max_bytes` is what all may
    /// take.
    pub(super) fn put(&self, entry: Entry, sent: Instant, max_bytes: usize) {
        let (weight, entry) = (entry.weight(), Arc::new(entry));
        let hash = self.hashes.hash_one(&entry.key);
        let mut shelf = self.write();
        let changed = shelf.changes.get(hash).max(shelf.changes.floor);
        if weight > max_bytes || changed.is_some_and(|at| at > sent) {
            return;
        }
        let variants = shelf.known.entry(Arc::clone(&entry.key)).or_default();
        let mut gone = variants.extract_if(.., |old| old.vary == entry.vary).collect::<Vec<_>>();
        if variants.len() >= MAX_VARIANTS {
            gone.push(variants.remove(0));
        }
        variants.push(Arc::clone(&entry));
        shelf.entries += 1;
        shelf.bytes += weight;
        for old in gone {
            shelf.let_go(&old);
        }
        shelf.shrink(max_bytes);
        shelf.order.push_back(Arc::downgrade(&entry));
        shelf.sweep();
    }

    /// It has changed: nothing that is kept of it is good any more, nor is what was asked for before.
    pub(super) fn invalidate(&self, key: &str, now: Now) {
        let hash = self.hashes.hash_one(key);
        let mut shelf = self.write();
        for entry in shelf.known.remove(key).unwrap_or_default() {
            shelf.let_go(&entry);
        }
        let is_over = |at: Instant| now.instant().saturating_duration_since(at) > CHANGE;
        shelf.changes.put(hash, now.instant(), is_over);
    }

    /// Everything.
    pub(super) fn clear(&self, now: Now) {
        let mut shelf = self.write();
        shelf.known.clear();
        shelf.order.clear();
        (shelf.entries, shelf.bytes) = (0, 0);
        shelf.passes = Marks::default();
        shelf.changes = Marks { floor: Some(now.instant()), ..Marks::default() };
    }

    /// It cannot be kept, for a while.
    pub(super) fn pass(&self, key: &Arc<str>, asked: &Asked, now: Now) {
        let hash = self.hashes.hash_one((key, asked.is_credentialed));
        self.write().passes.put(hash, now.instant() + PASS, |until| until <= now.instant());
    }

    /// Responses, and what they take in bytes.
    pub(super) fn counts(&self) -> (usize, usize) {
        let shelf = self.read();
        (shelf.entries, shelf.bytes)
    }

    /// A panic cannot leave it half written.
    fn read(&self) -> RwLockReadGuard<'_, Shelf> {
        self.shelf.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Shelf> {
        self.shelf.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("counts", &self.counts()).finish_non_exhaustive()
    }
}

impl Shelf {
    /// The youngest that is for these headers.
    fn find(&self, key: &str, headers: &HeaderMap, asked: &Asked, now: Now) -> Option<(Arc<Entry>, Use)> {
        let all = self.known.get(key)?.iter().rev().filter(|entry| entry.is_for(headers));
        let mut all = all.map(|entry| (Arc::clone(entry), entry.life.at(entry.age(now), asked)));
        all.find(|(_, how)| *how != Use::No)
    }

    /// Until all takes no more than that.
    fn shrink(&mut self, max_bytes: usize) {
        // Each is looked at twice at most: once it is spared.
        for _ in 0..self.order.len() * 2 {
            if self.bytes <= max_bytes {
                return;
            }
            let Some(weak) = self.order.pop_front() else { return };
            let Some(entry) = weak.upgrade().filter(|entry| self.has(entry)) else { continue };
            if entry.was_used.swap(false, Relaxed) {
                self.order.push_back(weak);
                continue;
            }
            if let Some(variants) = self.known.get_mut(&entry.key) {
                variants.retain(|known| !Arc::ptr_eq(known, &entry));
                if variants.is_empty() {
                    self.known.remove(&entry.key);
                }
            }
            self.let_go(&entry);
        }
    }

    /// It is kept, and not only still being answered with.
    fn has(&self, entry: &Arc<Entry>) -> bool {
        let variants = self.known.get(&entry.key);
        variants.is_some_and(|all| all.iter().any(|known| Arc::ptr_eq(known, entry)))
    }

    fn let_go(&mut self, entry: &Entry) {
        self.entries -= 1;
        self.bytes -= entry.weight();
    }

    /// Forgets in the order what is gone already, before it is more than what is not.
    fn sweep(&mut self) {
        if self.order.len() > 2 * self.entries + 64 {
            let mut order = std::mem::take(&mut self.order);
            order.retain(|weak| weak.upgrade().is_some_and(|entry| self.has(&entry)));
            self.order = order;
        }
    }
}

/// Whoever is on the way to get something. Dropped, it was given up, and the next one goes.
#[derive(Debug)]
pub(super) struct Flight {
    store: Arc<Store>,
    like: Like,
    sender: watch::Sender<Flying>,
}

impl Flight {
    /// It is back: the others look whether what it has got is for them.
    pub(super) fn land(self) {
        self.sender.send_replace(Flying::Landed);
    }

    /// It failed: the others go themselves, and not one after the other.
    pub(super) fn fail(self) {
        self.sender.send_replace(Flying::Failed);
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.store.write().flights.remove(&self.like);
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

    const MAX: usize = 100_000;

    fn put(store: &Store, key: &str, bytes: usize, now: Now) {
        store.put(entry(key, bytes, now), now.instant(), MAX);
    }

    fn is_known(store: &Arc<Store>, key: &str, now: Now) -> bool {
        matches!(store.find(&key.into(), &HeaderMap::new(), &asked(), false, now), Found::Fresh(_))
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_bounded_and_what_is_used_stays() {
        let (store, now) = (Arc::new(Store::new()), Now::read());
        put(&store, "hot", 1000, now);
        for number in 0..10_000 {
            put(&store, &format!("/{number}"), 1000, now);
            // To look is no use.
            let new = store.look(&format!("/{number}"), &HeaderMap::new(), &asked(), now);
            assert!(is_known(&store, "hot", now) && new.is_some(), "{number}");
            assert!(store.counts().1 <= MAX, "{number}: {:?}", store.counts());
        }
        let (entries, bytes) = store.counts();
        assert!((60..=66).contains(&entries) && bytes > MAX - 2000, "{entries} of {bytes} bytes");
        assert!(store.read().known.len() == entries && store.read().order.len() <= 2 * entries + 64);
        put(&store, "large", 200_000, now);
        assert!(!is_known(&store, "large", now) && is_known(&store, "hot", now));
        store.clear(now);
        assert_eq!(store.counts(), (0, 0));
    }

    /// Bug: what was replaced was counted out, and kept in memory.
    #[tokio::test(start_paused = true)]
    async fn what_is_replaced_or_let_go_of_is_gone() {
        let (store, now) = (Arc::new(Store::new()), Now::read());
        let mut old = Vec::new();
        for number in 0..1000 {
            put(&store, "a", 1000, now);
            put(&store, &format!("/{}", number % 10), 1000, now);
            old.extend(store.read().known["a"].iter().map(Arc::downgrade));
        }
        assert_eq!(old.iter().filter(|entry| entry.upgrade().is_some()).count(), 1);
        let (entries, bytes) = store.counts();
        assert!(entries == 11 && bytes < 11 * 2000, "{bytes}");
        store.invalidate("a", now);
        assert!(old.iter().all(|entry| entry.upgrade().is_none()) && store.counts().0 == 10);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_asked_for_before_it_changed_is_not_kept() {
        let (store, before) = (Arc::new(Store::new()), Now::read());
        let later = Now::from(before.instant() + Duration::from_secs(1));
        store.invalidate("a", later);
        put(&store, "a", 10, before);
        put(&store, "b", 10, before);
        assert!(!is_known(&store, "a", later) && is_known(&store, "b", later));
        let after = Now::from(later.instant() + Duration::from_secs(1));
        put(&store, "a", 10, after);
        assert!(is_known(&store, "a", after));
        // However many have changed: what is forgotten counts as changed.
        for number in 0..100_000 {
            store.invalidate(&format!("/{number}"), after);
        }
        assert!(store.read().changes.of.len() <= MAX_MARKS);
        put(&store, "/7", 10, before);
        assert!(!is_known(&store, "/7", after));
    }

    #[tokio::test(start_paused = true)]
    async fn variants_of_one_thing_are_bounded() {
        let (store, now) = (Arc::new(Store::new()), Now::read());
        let name = HeaderName::from_static("accept-language");
        for number in 0..100 {
            let mut entry = entry("a", 10, now);
            entry.vary = vec![(name.clone(), vec![HeaderValue::from(number)])];
            store.put(entry, now.instant(), MAX);
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
        assert!(passes("a", now) && !passes("b", now));
        assert!(!passes("a", Now::from(now.instant() + PASS)));
        for number in 0..100_000 {
            store.pass(&format!("/{number}").into(), &asked(), now);
        }
        assert!(store.read().passes.of.len() <= MAX_MARKS);
    }
}
