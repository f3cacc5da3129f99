//! Breakers by key, so many and no more.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{cell::Cell, config::Rule, saved::SavedCell};
use crate::{circuit_breaker::Phase, key::Key};

/// Independent locks; a power of two.
const SHARDS: usize = 32;
/// How many breakers one request may look at to find one that can go.
const SEARCH: usize = 32;

#[derive(Debug)]
pub(super) struct Table {
    shards: Box<[Mutex<Shard>]>,
}

impl Table {
    pub(super) fn new() -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect() }
    }

    /// The breaker of a key, if it has one.
    pub(super) fn known(&self, key: Key) -> Option<Arc<Cell>> {
        let shard = self.lock(key);
        shard.places.get(&key.bits()).map(|place| Arc::clone(&shard.entries[*place].cell))
    }

    /// The breaker of a key, which is made if there is room, or if one can go that says nothing against
    /// anybody: an idle one, else the closed one that is longest unused among those that are looked at. There
    /// is none for whoever comes when all of these have something to say.
    pub(super) fn get(&self, key: Key, rule: &Rule, now_ns: u64) -> Option<Arc<Cell>> {
        let shard = &mut *self.lock(key);
        if let Some(place) = shard.places.get(&key.bits()) {
            let entry = &mut shard.entries[*place];
            entry.used_ns = now_ns;
            return Some(Arc::clone(&entry.cell));
        }
        let entry = Entry { key: key.bits(), used_ns: now_ns, cell: Arc::new(Cell::new()) };
        let cell = Arc::clone(&entry.cell);
        if shard.entries.len() < cap(rule) {
            shard.places.insert(entry.key, shard.entries.len());
            shard.entries.push(entry);
        } else {
            let place = shard.dispensable(rule, now_ns)?;
            shard.places.remove(&shard.entries[place].key);
            shard.places.insert(entry.key, place);
            shard.entries[place] = entry;
        }
        Some(cell)
    }

    /// Keys that have a breaker, and those whose breaker is not closed.
    pub(super) fn len(&self) -> (usize, usize) {
        self.shards.iter().map(lock).fold((0, 0), |(keys, open), shard| {
            let is_open = |entry: &&Entry| entry.cell.state().phase != Phase::Closed;
            (keys + shard.entries.len(), open + shard.entries.iter().filter(is_open).count())
        })
    }

    /// Those that say anything, one shard after the other.
    pub(super) fn save(&self, rule: &Rule, now_ns: u64) -> impl Iterator<Item = Vec<SavedCell>> {
        let save = move |shard: &Mutex<Shard>| {
            let entries = lock(shard).entries.iter().map(Entry::clone).collect::<Vec<_>>();
            let known = entries.into_iter().filter(|entry| !entry.cell.is_idle(rule, now_ns));
            known.map(|entry| entry.cell.save(Some(entry.key), entry.used_ns)).collect::<Vec<_>>()
        };
        self.shards.iter().map(save)
    }

    /// Goes on with as many as there is room for, of each shard those first that have the most to say.
    pub(super) fn restore(&self, mut cells: Vec<&SavedCell>, eras: Option<(u64, u64)>, rule: &Rule) {
        cells.sort_by_key(|cell| cell.rank());
        for saved in cells {
            let Some(key) = saved.key else { continue };
            let shard = &mut *lock(self.shard(key));
            if shard.entries.len() >= cap(rule) || shard.places.contains_key(&key) {
                continue;
            }
            let entry = Entry { key, used_ns: saved.used_ns, cell: Arc::new(Cell::new()) };
            entry.cell.restore(saved, eras);
            shard.places.insert(key, shard.entries.len());
            shard.entries.push(entry);
        }
    }

    fn lock(&self, key: Key) -> MutexGuard<'_, Shard> {
        lock(self.shard(key.bits()))
    }

    fn shard(&self, key: u64) -> &Mutex<Shard> {
        // Not the bits that the map within the shard looks at first.
        &self.shards[usize::try_from(key >> 32).unwrap_or_default() % SHARDS]
    }
}

/// A panic cannot leave a shard half written: nothing that is called under the lock panics.
fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

fn cap(rule: &Rule) -> usize {
    rule.max_keys.div_ceil(SHARDS).max(1)
}

#[derive(Debug, Default)]
struct Shard {
    places: HashMap<u64, usize>,
    entries: Vec<Entry>,
    /// Where the next search begins.
    hand: usize,
}

#[derive(Clone, Debug)]
struct Entry {
    key: u64,
    used_ns: u64,
    cell: Arc<Cell>,
}

impl Shard {
    fn dispensable(&mut self, rule: &Rule, now_ns: u64) -> Option<usize> {
        let len = self.entries.len();
        let from = self.hand;
        let near = (0..SEARCH.min(len)).map(|step| (from + step) % len);
        let mut oldest: Option<usize> = None;
        for place in near {
            let Entry { cell, used_ns, .. } = &self.entries[place];
            if cell.is_idle(rule, now_ns) && Arc::strong_count(cell) == 1 {
                self.hand = place + 1;
                return Some(place);
            }
            let is_older = oldest.is_none_or(|oldest| *used_ns < self.entries[oldest].used_ns);
            if cell.state().phase == Phase::Closed && is_older {
                oldest = Some(place);
            }
        }
        self.hand = (self.hand + SEARCH) % len.max(1);
        oldest
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::circuit_breaker::{CircuitBreakerConfig, phase};

    #[test]
    fn r3_6_an_idle_breaker_goes_before_a_busy_one_and_an_open_one_stays() {
        let table = Table::new();
        let [rule, small] = [320, 64].map(|max_keys| CircuitBreakerConfig::new().max_keys(max_keys).rule(0));
        let open = |cell: &Cell| cell.by_hand(|state| phase::opened(state, 0, u64::MAX >> 30));
        let get = |number: u32, now_ns| table.get(Key::of(number), &rule, now_ns);
        let (mut number, mut opened) = (0, Vec::new());
        while table.len().0 < 320 {
            if let Some(cell) = get(number, u64::from(number))
                && number % 2 == 0
            {
                open(&cell);
                opened.push(number);
            }
            number += 1;
        }
        let before = opened.iter().filter(|number| table.known(Key::of(**number)).is_some()).count();
        for number in 1_000_000..1_100_000 {
            drop(get(number, 0));
        }
        let after = opened.iter().filter(|number| table.known(Key::of(**number)).is_some()).count();
        assert_eq!(
            (after, table.len()),
            (before, (320, before)),
            "an open one was forgotten, or there are more"
        );
        let refused = Table::new();
        for number in 0..10_000 {
            if let Some(cell) = refused.get(Key::of(number), &small, 0) {
                open(&cell);
            }
        }
        assert_eq!(refused.len(), (64, 64));
        assert!(refused.get(Key::of("new"), &small, 0).is_none(), "whoever comes then has none");
        let much_later = 400 * 24 * 3_600_000_000_000;
        assert!(refused.get(Key::of("new"), &small, much_later).is_some(), "nobody asked for a year");
    }
}
