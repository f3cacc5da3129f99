//! Bounded keyed state: shards of cells, each with the quota its cells are written in.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::gcra::{Cell, Quota, evaluate, migrate};
use crate::key::Key;

/// Independent locks; a power of two.
const SHARDS: usize = 32;
/// How many cells one request may look at to find an idle one.
const SEARCH: usize = 32;

/// One configuration's rule, with its place in the order of configurations.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rule {
    pub(super) generation: u64,
    pub(super) quota: Quota,
    pub(super) max_keys: usize,
}

/// All keys of one limiter.
#[derive(Debug)]
pub(super) struct Table {
    shards: Box<[Mutex<Shard>]>,
}

impl Table {
    pub(super) fn new(quota: Quota) -> Self {
        let shard = || Mutex::new(Shard::new(quota));
        Self { shards: (0..SHARDS).map(|_| shard()).collect() }
    }

    /// One request of `key`: check and consume are one step, under the lock of one shard.
    ///
    /// The first request of a newer rule carries its shard over; an older layer that still drains
    /// then follows the newer rule, so that two rules never write one cell in turns.
    pub(super) fn commit(&self, rule: &Rule, key: Key, now_ns: u64) -> Result<u64, Duration> {
        let shard = &mut *self.lock(key);
        shard.follow(rule, now_ns);
        let place = shard.locate(key, shard.cap, now_ns);
        let (verdict, next) = evaluate(&shard.quota, shard.cell(place), now_ns);
        if verdict.is_ok() {
            shard.write(place, key, next);
        }
        verdict
    }

    /// What [`commit`](Self::commit) would say now.
    pub(super) fn peek(&self, rule: &Rule, key: Key, now_ns: u64) -> Result<u64, Duration> {
        let shard = self.lock(key);
        let is_newer = rule.generation > shard.generation;
        let cap = if is_newer { shard_cap(rule.max_keys) } else { shard.cap };
        let cell = shard.cell(shard.locate(key, cap, now_ns));
        if is_newer {
            let cell = migrate(&shard.quota, &rule.quota, cell, now_ns);
            evaluate(&rule.quota, &cell, now_ns).0
        } else {
            evaluate(&shard.quota, cell, now_ns).0
        }
    }

    /// Keys that are remembered now.
    pub(super) fn len(&self) -> usize {
        let len = |shard: &Mutex<Shard>| lock(shard).entries.len();
        self.shards.iter().map(len).sum()
    }

    fn lock(&self, key: Key) -> MutexGuard<'_, Shard> {
        #[expect(clippy::cast_possible_truncation, reason = "only the lowest bits are wanted")]
        lock(&self.shards[key.bits() as usize % SHARDS])
    }
}

/// A panic cannot leave a shard half written: every write is one assignment.
fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

fn shard_cap(max_keys: usize) -> usize {
    max_keys.div_ceil(SHARDS).max(1)
}

#[derive(Debug)]
struct Shard {
    generation: u64,
    quota: Quota,
    cap: usize,
    places: HashMap<u64, usize, BuildHasherDefault<AlreadyHashed>>,
    entries: Vec<(u64, Cell)>,
    /// Where the next search for an idle cell begins.
    hand: usize,
    /// At the cap all new keys share this one, so a flood of keys gets one allowance a shard.
    overflow: Cell,
}

#[derive(Clone, Copy)]
enum Place {
    /// The key's own cell.
    Own(usize),
    /// A new cell at the end.
    New,
    /// The cell of another key, which says no more than no cell would.
    Idle(usize),
    /// Full.
    Overflow,
}

impl Shard {
    fn new(quota: Quota) -> Self {
        Self {
            generation: 0,
            quota,
            cap: 0, // Set by the first request, whose rule is newer than 0.
            places: HashMap::default(),
            entries: Vec::new(),
            hand: 0,
            overflow: Cell::default(),
        }
    }

    fn follow(&mut self, rule: &Rule, now_ns: u64) {
        if rule.generation <= self.generation {
            return;
        }
        if rule.quota != self.quota {
            let cells = self.entries.iter_mut().map(|(_, cell)| cell).chain([&mut self.overflow]);
            for cell in cells {
                *cell = migrate(&self.quota, &rule.quota, cell, now_ns);
            }
            self.quota = rule.quota;
        }
        self.generation = rule.generation;
        self.cap = shard_cap(rule.max_keys);
    }

    /// Which cell speaks for `key`. Both `commit` and `peek` ask here, so they cannot disagree.
    fn locate(&self, key: Key, cap: usize, now_ns: u64) -> Place {
        if let Some(&place) = self.places.get(&key.bits()) {
            return Place::Own(place);
        }
        if self.entries.len() < cap {
            return Place::New;
        }
        let len = self.entries.len();
        let mut near = (0..SEARCH.min(len)).map(|step| (self.hand + step) % len);
        near.find(|&place| self.entries[place].1.is_idle(now_ns)).map_or(Place::Overflow, Place::Idle)
    }

    fn cell(&self, place: Place) -> &Cell {
        const FRESH: &Cell = &Cell::FRESH;
        match place {
            Place::Own(place) => &self.entries[place].1,
            Place::New | Place::Idle(_) => FRESH,
            Place::Overflow => &self.overflow,
        }
    }

    fn write(&mut self, place: Place, key: Key, cell: Cell) {
        match place {
            Place::Own(place) => self.entries[place].1 = cell,
            Place::New => {
                self.places.insert(key.bits(), self.entries.len());
                self.entries.push((key.bits(), cell));
            }
            Place::Idle(place) => {
                self.places.remove(&self.entries[place].0);
                self.places.insert(key.bits(), place);
                self.entries[place] = (key.bits(), cell);
                self.hand = place + 1;
            }
            Place::Overflow => {
                self.overflow = cell;
                self.hand = self.hand.wrapping_add(SEARCH) % self.entries.len().max(1);
            }
        }
    }
}

/// Keys are hashes already.
#[derive(Debug, Default)]
struct AlreadyHashed(u64);

impl Hasher for AlreadyHashed {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }
    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}
