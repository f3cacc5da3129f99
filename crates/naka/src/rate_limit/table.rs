//! Bounded keyed state: shards of cells, each with the layout its cells are written in.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::{
    gcra::{Cell, Factor, Layout, Quota, carry, evaluate},
    saved::{SavedShard, SavedWindow},
};
use crate::{key::Key, saved::Unfit};

/// Independent locks; a power of two.
pub(super) const SHARDS: usize = 32;
/// How many cells one request may look at to find an idle one.
const SEARCH: usize = 32;

/// One configuration's rule, with its place in the order of configurations.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    pub(super) generation: u64,
    pub(super) quota: Quota,
    pub(super) max_keys: usize,
    /// What each tier has, computed once.
    pub(super) tiers: Arc<[(Factor, Quota)]>,
}

impl Rule {
    pub(super) fn new(generation: u64, quota: Quota, max_keys: usize, tiers: &[Factor]) -> Self {
        let tiers = tiers.iter().map(|factor| (*factor, quota.scaled(*factor))).collect();
        Self { generation, quota, max_keys, tiers }
    }

    fn widest(&self) -> Factor {
        let factors = self.tiers.iter().map(|(factor, _)| *factor);
        factors.max_by_key(|factor| factor.get()).unwrap_or(Factor::ONE)
    }
}

/// One request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    pub(super) key: Key,
    pub(super) cost: u32,
    /// Which tier; `None`, and one that does not exist, is the quota as it is.
    pub(super) tier: Option<usize>,
    pub(super) now_ns: u64,
}

/// What a table says: how many more it would admit, or the shortest wait that would help, if one would.
pub(super) type Said = Result<u64, Option<Duration>>;

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

    /// One request: check and consume are one step, under the lock of one shard.
    ///
    /// The first request of a newer rule carries its shard over; an older layer that still drains
    /// then follows the newer rule, so that two rules never write one cell in turns.
    pub(super) fn commit(&self, rule: &Rule, asked: &Asked) -> Said {
        let Asked { key, cost, now_ns, .. } = *asked;
        let shard = &mut *self.lock(key);
        shard.follow(rule, now_ns);
        let layout = &shard.layout;
        let place = shard.locate(key, shard.cap, |cell| layout.is_idle(cell, now_ns));
        let (factor, quota) = in_tier(layout, &shard.tiers, asked.tier);
        let (said, next) = evaluate(quota, shard.cell(place), cost, now_ns);
        if said.is_ok() {
            let next = layout.charge(next, (cost, factor), now_ns);
            shard.write(place, key, next);
        }
        shard.move_on(place, now_ns);
        said
    }

    /// Charges what was admitted by somebody else: whatever is left, but never more than all of it.
    pub(super) fn charge(&self, rule: &Rule, asked: &Asked) {
        let Asked { key, cost, now_ns, .. } = *asked;
        let shard = &mut *self.lock(key);
        shard.follow(rule, now_ns);
        let layout = &shard.layout;
        let place = shard.locate(key, shard.cap, |cell| layout.is_idle(cell, now_ns));
        let (factor, _) = in_tier(layout, &shard.tiers, asked.tier);
        let next = layout.charge_all(*shard.cell(place), (cost, factor), now_ns);
        shard.write(place, key, next);
        shard.move_on(place, now_ns);
    }

    /// What [`commit`](Self::commit) would say now.
    pub(super) fn peek(&self, rule: &Rule, asked: &Asked) -> Said {
        self.look(rule, asked, |quota, cell| evaluate(quota, cell, asked.cost, asked.now_ns).0)
    }

    /// Looks at the quota and the cell that `commit` would ask.
    pub(super) fn look<R>(&self, rule: &Rule, asked: &Asked, look: impl FnOnce(&Quota, &Cell) -> R) -> R {
        let (key, now_ns) = (asked.key, asked.now_ns);
        let shard = self.lock(key);
        if rule.generation <= shard.generation {
            let place = shard.locate(key, shard.cap, |cell| shard.layout.is_idle(cell, now_ns));
            return look(in_tier(&shard.layout, &shard.tiers, asked.tier).1, shard.cell(place));
        }
        let layout = shard.layout.next(&rule.quota, rule.widest(), now_ns);
        let is_carried = !layout.is_like(&shard.layout); // As `follow` does it.
        let carried =
            |cell: &Cell| if is_carried { carry(&shard.layout, &layout, cell, now_ns) } else { *cell };
        let cap = shard_cap(rule.max_keys);
        let place = shard.locate(key, cap, |cell| layout.is_idle(&carried(cell), now_ns));
        look(in_tier(&layout, &rule.tiers, asked.tier).1, &carried(shard.cell(place)))
    }

    /// Keys that are remembered now.
    pub(super) fn len(&self) -> usize {
        let len = |shard: &Mutex<Shard>| lock(shard).entries.len();
        self.shards.iter().map(len).sum()
    }

    /// What is known, but for keys without history, one shard after the other.
    pub(super) fn save(&self, now_ns: u64) -> impl Iterator<Item = SavedShard> {
        let save = move |(number, shard): (usize, &Mutex<Shard>)| {
            // Copied under the lock, and looked through when it is free again.
            let (layout, overflow, entries) = {
                let shard = lock(shard);
                (shard.layout, shard.overflow, shard.entries.clone())
            };
            let known = entries.iter().filter(|(_, cell)| !layout.is_idle(cell, now_ns));
            let saved = SavedShard {
                shard: number,
                windows: layout
                    .windows()
                    .map(|(window, until_ns)| SavedWindow::of(window, until_ns))
                    .collect(),
                widest: layout.widest().get(),
                overflow: overflow.words(),
                keys: known.map(|(key, cell)| (*key, cell.words())).collect(),
            };
            (!saved.keys.is_empty() || !layout.is_idle(&overflow, now_ns)).then_some(saved)
        };
        self.shards.iter().enumerate().filter_map(save)
    }

    /// Goes on with what is known, and says how long that may have history.
    pub(super) fn restore(&self, saved: &[SavedShard]) -> Result<Duration, Unfit> {
        let mut numbers = saved.iter().map(|shard| shard.shard).collect::<Vec<_>>();
        numbers.sort_unstable();
        if numbers.windows(2).any(|two| two[0] == two[1]) {
            return Err(Unfit::Broken("a shard twice"));
        }
        let is_used = |shard: &Shard| shard.generation > 0 || !shard.entries.is_empty();
        if self.shards.iter().any(|shard| is_used(&lock(shard))) {
            return Err(Unfit::NotNew);
        }
        let shards = saved.iter().map(|shard| Ok((shard.shard, Shard::restored(shard)?)));
        let shards = shards.collect::<Result<Vec<_>, Unfit>>()?;
        let windows = shards.iter().flat_map(|(_, shard)| shard.layout.windows());
        let refill = windows.map(|(window, _)| window.refill()).max().unwrap_or_default();
        for (number, shard) in shards {
            *lock(&self.shards[number]) = shard;
        }
        Ok(refill)
    }

    fn lock(&self, key: Key) -> MutexGuard<'_, Shard> {
        lock(&self.shards[shard_of(key.bits())])
    }
}

fn in_tier<'a>(layout: &'a Layout, tiers: &'a [(Factor, Quota)], tier: Option<usize>) -> (Factor, &'a Quota) {
    let found = tier.and_then(|tier| tiers.get(tier));
    found.map_or((Factor::ONE, layout.quota()), |(factor, quota)| (*factor, quota))
}

pub(super) fn shard_of(key: u64) -> usize {
    // Not the lowest bits, which choose the bucket of the map within the shard, nor the highest, which
    // the map compares first.
    (key >> 32) as usize % SHARDS
}

/// A panic cannot leave a shard half written: every write is one assignment.
fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn shard_cap(max_keys: usize) -> usize {
    max_keys.div_ceil(SHARDS).max(1)
}

#[derive(Debug)]
struct Shard {
    generation: u64,
    layout: Layout,
    tiers: Arc<[(Factor, Quota)]>,
    cap: usize,
    places: HashMap<u64, usize, BuildHasherDefault<AlreadyHashed>>,
    entries: Vec<(u64, Cell)>,
    /// Where the next search for an idle cell begins; any number, taken around the entries.
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
            layout: Layout::new(quota, Factor::ONE),
            tiers: Arc::default(),
            cap: 0, // Set by the first request, whose rule is newer than 0.
            places: HashMap::default(),
            entries: Vec::new(),
            hand: 0,
            overflow: Cell::default(),
        }
    }

    /// One that no rule has seen yet: the first carries it over, whatever it was under before.
    fn restored(saved: &SavedShard) -> Result<Self, Unfit> {
        let layout = saved.layout()?;
        if saved.keys.iter().any(|(key, _)| shard_of(*key) != saved.shard) {
            return Err(Unfit::Broken("a key in the shard of others"));
        }
        let places = saved.keys.iter().enumerate().map(|(place, (key, _))| (*key, place));
        let places = places.collect::<HashMap<_, _, _>>();
        if places.len() != saved.keys.len() {
            return Err(Unfit::Broken("a key twice"));
        }
        let entries = saved.keys.iter().map(|(key, words)| (*key, Cell::of(*words))).collect();
        Ok(Self { layout, places, entries, overflow: Cell::of(saved.overflow), ..Self::new(*layout.quota()) })
    }

    fn follow(&mut self, rule: &Rule, now_ns: u64) {
        if rule.generation <= self.generation {
            return;
        }
        let layout = self.layout.next(&rule.quota, rule.widest(), now_ns);
        if !layout.is_like(&self.layout) {
            let cells = self.entries.iter_mut().map(|(_, cell)| cell).chain([&mut self.overflow]);
            for cell in cells {
                *cell = carry(&self.layout, &layout, cell, now_ns);
            }
        }
        self.layout = layout;
        self.tiers = Arc::clone(&rule.tiers);
        self.generation = rule.generation;
        self.cap = shard_cap(rule.max_keys);
    }

    /// Which cell speaks for `key`. Both `commit` and `peek` ask here, so they cannot disagree.
    fn locate(&self, key: Key, cap: usize, is_idle: impl Fn(&Cell) -> bool) -> Place {
        if let Some(&place) = self.places.get(&key.bits()) {
            return Place::Own(place);
        }
        if self.entries.len() < cap {
            return Place::New;
        }
        let len = self.entries.len();
        let mut near = (0..SEARCH.min(len)).map(|step| (self.hand + step) % len);
        near.find(|&place| is_idle(&self.entries[place].1)).map_or(Place::Overflow, Place::Idle)
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
                if self.entries.len() == self.entries.capacity() {
                    // By a quarter and not to twice as many: see `rate_limit_memory` for the sum.
                    self.entries.reserve_exact(self.entries.len() / 4 + 4);
                }
                self.entries.push((key.bits(), cell));
            }
            Place::Idle(place) => {
                self.places.remove(&self.entries[place].0);
                self.places.insert(key.bits(), place);
                self.entries[place] = (key.bits(), cell);
            }
            Place::Overflow => self.overflow = cell,
        }
    }

    /// After each request, whatever was said to it: the next search begins where this one ended, and
    /// above a cap that was lowered some idle cells go.
    fn move_on(&mut self, place: Place, now_ns: u64) {
        match place {
            Place::Own(_) | Place::New => {}
            Place::Idle(place) => self.hand = place + 1,
            Place::Overflow => self.hand = self.hand % self.entries.len() + SEARCH,
        }
        if self.entries.len() > self.cap {
            self.shrink(now_ns);
        }
    }

    fn shrink(&mut self, now_ns: u64) {
        for _ in 0..SEARCH {
            let place = self.hand % self.entries.len();
            let (key, cell) = self.entries[place];
            if !self.layout.is_idle(&cell, now_ns) {
                self.hand = place + 1;
                continue;
            }
            self.places.remove(&key);
            self.entries.swap_remove(place);
            if let Some((moved, _)) = self.entries.get(place) {
                self.places.insert(*moved, place);
            }
            if self.entries.len() == self.cap {
                self.places.shrink_to_fit();
                return self.entries.shrink_to_fit();
            }
        }
    }
}

/// Keys are hashes already.
#[derive(Debug, Default)]
pub(super) struct AlreadyHashed(u64);

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

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;
    use crate::rate_limit::Window;

    const HOUR_NS: u64 = 3_600_000_000_000;

    /// Keys of the first shard.
    fn keys() -> impl Iterator<Item = Key> {
        (0_u64..).map(Key::of).filter(|key| shard_of(key.bits()) == 0)
    }

    fn rule(generation: u64, windows: &[Window], keys_of_a_shard: usize) -> Rule {
        Rule::new(generation, Quota::new(windows).unwrap(), keys_of_a_shard * SHARDS, &[])
    }

    fn admits(table: &Table, rule: &Rule, key: Key, now_ns: u64) -> bool {
        let asked = Asked { key, cost: 1, tier: None, now_ns };
        let said = table.peek(rule, &asked);
        assert_eq!(table.commit(rule, &asked), said, "peek and commit disagree");
        said.is_ok()
    }

    #[test]
    fn a_spent_overflow_cell_does_not_end_the_search_for_idle_ones() {
        let rule = rule(1, &[Window::per_hour(1)], 128);
        let (table, mut keys) = (Table::new(rule.quota), keys());
        let first = keys.by_ref().take(128).collect::<Vec<_>>();
        // Blocks of 32 that are in turn active and idle when the hour is over.
        for (place, key) in first.iter().enumerate() {
            let is_active = (place / SEARCH).is_multiple_of(2);
            assert!(admits(&table, &rule, *key, if is_active { HOUR_NS } else { 0 }));
        }
        let now_ns = HOUR_NS + HOUR_NS / 2;
        assert!(admits(&table, &rule, keys.next().unwrap(), now_ns), "the overflow cell's one allowance");
        let admitted = keys.take(200).filter(|key| admits(&table, &rule, *key, now_ns)).count();
        assert_eq!(admitted, 2 * SEARCH, "every idle cell is found in the end");
    }

    #[test]
    fn keys_beyond_a_lower_cap_are_forgotten_as_they_become_idle() {
        let (wide, narrow) = (rule(1, &[Window::per_hour(1)], 1000), rule(2, &[Window::per_hour(1)], 40));
        let (table, mut keys) = (Table::new(wide.quota), keys());
        let all = keys.by_ref().take(1000).collect::<Vec<_>>();
        for (place, key) in all.iter().enumerate() {
            assert!(admits(&table, &wide, *key, if place < 10 { HOUR_NS } else { 0 }));
        }
        let now_ns = HOUR_NS + HOUR_NS / 2;
        for key in &all[..10] {
            assert!(!admits(&table, &narrow, *key, now_ns), "an active key is never forgotten");
        }
        for _ in 0..40 {
            admits(&table, &narrow, all[0], now_ns);
        }
        assert_eq!(table.len(), 40);
        for key in &all[..10] {
            assert!(!admits(&table, &narrow, *key, now_ns), "an active key is never forgotten");
        }
        assert!(admits(&table, &narrow, keys.next().unwrap(), now_ns));
    }

    #[test]
    fn peek_and_the_first_commit_of_a_newer_rule_see_the_same_idle_cells() {
        let both = rule(1, &[Window::per_hour(1), Window::per_second(1)], 2);
        // Four windows leave no place for the hour that is gone.
        let [first, second, third, fourth] =
            [1, 2, 3, 4].map(|s| Window::new(NonZeroU32::MIN, Duration::from_secs(s)));
        let second = rule(2, &[first, second, third, fourth], 2);
        let (table, keys) = (Table::new(both.quota), keys().take(4).collect::<Vec<_>>());
        let now_ns = 2_000_000_000;
        for (key, at_ns) in keys.iter().zip([0, 0, now_ns]) {
            assert!(admits(&table, &both, *key, at_ns), "two cells and the overflow");
        }
        assert!(!admits(&table, &both, keys[3], now_ns), "no cell is idle, and the overflow is spent");
        assert!(admits(&table, &second, keys[3], now_ns), "without the hour two are idle");
    }

    /// A reload that changes something else carries nothing, and a window that is gone counts no more when
    /// its time is over.
    #[test]
    fn windows_that_are_gone_are_gone_after_their_time() {
        const S: u64 = 1_000_000_000;
        let ten = rule(1, &[Window::per_hour(10)], 2);
        let three = rule(2, &[Window::per_hour(3)], 2);
        let (table, keys) = (Table::new(ten.quota), keys().take(4).collect::<Vec<_>>());
        while admits(&table, &ten, keys[0], 0) {}
        assert!(!admits(&table, &three, keys[0], 0));
        let other_cap = Rule { generation: 3, max_keys: 3 * SHARDS, ..three.clone() };
        assert!(admits(&table, &other_cap, keys[0], 1201 * S), "one of three has come back");
        let minute = rule(4, &[Window::per_hour(3), Window::per_minute(60)], 2);
        assert!(!admits(&table, &minute, keys[0], 1202 * S));
        assert!(admits(&table, &minute, keys[0], 2402 * S), "adding a window takes nothing of another");
        // Two keys fill the shard; an hour after the change both are idle by the fast window alone.
        let fast = Rule { max_keys: 2 * SHARDS, ..rule(5, &[Window::per_second(100)], 2) };
        assert!(admits(&table, &fast, keys[0], 2403 * S) && admits(&table, &fast, keys[1], 2403 * S));
        for (place, key) in keys.iter().cycle().take(8).enumerate() {
            let now_ns = 2404 * S + HOUR_NS + place as u64 * 2 * S;
            assert!((0..90).all(|_| admits(&table, &fast, *key, now_ns)), "nobody shares a cell");
        }
        assert!(table.len() <= 3);
    }

    #[test]
    fn keys_are_spread_within_a_shard() {
        let buckets = keys().take(1000).map(|key| key.bits() & 31).collect::<std::collections::HashSet<_>>();
        assert!(buckets.len() > 16, "the bits that choose the shard choose the bucket, too: {buckets:?}");
    }
}
