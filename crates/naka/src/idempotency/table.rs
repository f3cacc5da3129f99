//! What is known of keys: the algorithm alone, no clock, no wire, no lock.
//!
//! ```text
//!            begin                  end
//! (nothing) ───────▶ working ──────────────▶ answered | not kept | unknown ──ttl──▶ (nothing)
//!     ▲                 │ release
//!     └─────────────────┘
//! ```
//!
//! What is working never goes by itself. What has ended goes after its time; before that only at a bound, and
//! only if that is wanted.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry as Place},
    time::Duration,
};

/// SHA-256 of something.
pub type Digest = [u8; 32];

/// About what an entry takes besides its answer, in bytes.
pub(super) const ENTRY: usize = 256;

/// How much is remembered, and how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// How long a key is known after its request has ended; default 24 h.
    pub ttl: Duration,
    /// Keys; default 10,000.
    pub max_keys: usize,
    /// What all of it takes, in bytes; default 64 MiB. A key counts as 256 bytes, and its answer.
    pub max_bytes: usize,
    /// Whether at a bound the oldest that has ended goes before its time; default no. A request whose key is
    /// gone is done again when it is repeated.
    pub evict: bool,
}

impl Limits {
    /// The defaults.
    pub const fn new() -> Self {
        Self { ttl: Duration::from_hours(24), max_keys: 10_000, max_bytes: 64 << 20, evict: false }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self::new()
    }
}

/// What is remembered, now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Keys.
    pub keys: usize,
    /// Of them, those whose requests are at work.
    pub working: usize,
    /// What all of it takes, in bytes.
    pub bytes: usize,
}

/// What a request with a key finds; `V` is an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found<V> {
    /// Nothing; now it is at work, and whoever ends it has this token.
    Fresh(u64),
    Working,
    Ended(End<V>),
    Mismatch,
    Full,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End<V> {
    Answered(V),
    NotKept,
    Unknown,
}

#[derive(Debug)]
pub(super) struct Table<V> {
    entries: HashMap<Digest, Entry<V>>,
    /// Those that have ended, the first first: as all stay equally long, the first to go is in front.
    ended: VecDeque<Digest>,
    bytes: usize,
    next: u64,
    /// The latest time at which one has ended: time does not go back in here.
    last_ns: u64,
}

#[derive(Debug)]
struct Entry<V> {
    print: Digest,
    weight: usize,
    state: State<V>,
}

#[derive(Debug)]
enum State<V> {
    Working { token: u64 },
    Ended { at_ns: u64, end: End<V> },
}

impl<V> Default for Table<V> {
    fn default() -> Self {
        Self { entries: HashMap::new(), ended: VecDeque::new(), bytes: 0, next: 0, last_ns: 0 }
    }
}

impl<V: Clone> Table<V> {
    /// A request with this id, and this print of all that it is, has come.
    pub(super) fn begin(&mut self, limits: &Limits, now_ns: u64, id: &Digest, print: &Digest) -> Found<V> {
        self.expire(limits, now_ns);
        if let Some(entry) = self.entries.get(id) {
            return if entry.print == *print { entry.found() } else { Found::Mismatch };
        }
        while !has_room(limits, self.entries.len(), self.bytes) {
            if !(limits.evict && self.forget_first()) {
                return Found::Full;
            }
        }
        let token = self.next;
        self.next += 1;
        self.bytes += ENTRY;
        let state = State::Working { token };
        self.entries.insert(*id, Entry { print: *print, weight: ENTRY, state });
        Found::Fresh(token)
    }

    /// What [`begin`](Self::begin) would find, were it the same request; its token means nothing.
    pub(super) fn peek(&self, limits: &Limits, now_ns: u64, id: &Digest) -> Found<V> {
        if let Some(entry) = self.entries.get(id).filter(|entry| !entry.is_over(limits, now_ns)) {
            return entry.found();
        }
        let ended = self.ended.iter().filter_map(|id| self.entries.get(id));
        let goes = ended.take_while(|entry| limits.evict || entry.is_over(limits, now_ns));
        let weights = goes.map(|entry| entry.weight);
        let has_room = becomes_room(limits, (self.entries.len(), self.bytes), weights);
        if has_room { Found::Fresh(self.next) } else { Found::Full }
    }

    /// It has ended so, with an answer that weighs so many bytes; none: it is as if it had not been.
    pub(super) fn end(
        &mut self,
        limits: &Limits,
        now_ns: u64,
        (id, token): (&Digest, u64),
        end: Option<(End<V>, usize)>,
    ) {
        let Place::Occupied(mut place) = self.entries.entry(*id) else { return };
        if !matches!(place.get().state, State::Working { token: at_work } if at_work == token) {
            return;
        }
        let Some((end, weight)) = end else {
            self.bytes -= place.remove().weight;
            return;
        };
        self.last_ns = self.last_ns.max(now_ns);
        place.get_mut().state = State::Ended { at_ns: self.last_ns, end: End::NotKept };
        let end = if self.make_room(limits, weight) { (end, weight) } else { (End::NotKept, 0) };
        let entry = self.entries.get_mut(id).expect("what is not in the queue is not forgotten");
        entry.weight += end.1;
        self.bytes += end.1;
        entry.state = State::Ended { at_ns: self.last_ns, end: end.0 };
        self.ended.push_back(*id);
    }

    pub(super) fn counts(&self) -> Counts {
        let keys = self.entries.len();
        Counts { keys, working: keys - self.ended.len(), bytes: self.bytes }
    }

    /// When the last of those that have ended did.
    pub(super) fn last_end_ns(&self) -> Option<u64> {
        (!self.ended.is_empty()).then_some(self.last_ns)
    }

    /// Whether so many bytes more can be kept, now.
    fn make_room(&mut self, limits: &Limits, bytes: usize) -> bool {
        if bytes > limits.max_bytes.saturating_sub(ENTRY) {
            return false; // Nothing has to go for what can never stay.
        }
        self.expire(limits, self.last_ns);
        while self.bytes.saturating_add(bytes) > limits.max_bytes {
            if !(limits.evict && self.forget_first()) {
                return false;
            }
        }
        true
    }

    fn expire(&mut self, limits: &Limits, now_ns: u64) {
        let is_over = |id| self.entries.get(id).is_some_and(|entry| entry.is_over(limits, now_ns));
        let over = self.ended.iter().take_while(|id| is_over(*id)).count();
        for _ in 0..over {
            self.forget_first();
        }
    }

    fn forget_first(&mut self) -> bool {
        let Some(id) = self.ended.pop_front() else { return false };
        let entry = self.entries.remove(&id).expect("what has ended is known until it is forgotten");
        self.bytes -= entry.weight;
        true
    }
}

impl<V: Clone> Entry<V> {
    fn found(&self) -> Found<V> {
        match &self.state {
            State::Working { .. } => Found::Working,
            State::Ended { end, .. } => Found::Ended(end.clone()),
        }
    }
}

impl<V> Entry<V> {
    fn is_over(&self, limits: &Limits, now_ns: u64) -> bool {
        let ttl_ns = u64::try_from(limits.ttl.as_nanos()).unwrap_or(u64::MAX);
        matches!(self.state, State::Ended { at_ns, .. } if now_ns >= at_ns.saturating_add(ttl_ns))
    }
}

/// Whether one more key can be known.
const fn has_room(limits: &Limits, keys: usize, bytes: usize) -> bool {
    keys < limits.max_keys && bytes.saturating_add(ENTRY) <= limits.max_bytes
}

/// Whether one more key can be known when some of these have gone, one after the other. Looks no further than
/// until there is room.
fn becomes_room(
    limits: &Limits,
    (mut keys, mut bytes): (usize, usize),
    mut weights: impl Iterator<Item = usize>,
) -> bool {
    while !has_room(limits, keys, bytes) {
        let Some(weight) = weights.next() else { return false };
        keys -= 1;
        bytes -= weight;
    }
    true
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn limits(max_keys: usize, max_bytes: usize, evict: bool) -> Limits {
        Limits { ttl: Duration::from_secs(10), max_keys, max_bytes, evict }
    }

    fn id(number: u8) -> Digest {
        [number; 32]
    }

    fn fresh(table: &mut Table<u8>, limits: &Limits, now_ns: u64, number: u8) -> u64 {
        match table.begin(limits, now_ns, &id(number), &id(0)) {
            Found::Fresh(token) => token,
            other => panic!("{number} is not fresh but {other:?}"),
        }
    }

    #[test]
    fn a_key_is_known_for_its_time_and_not_longer() {
        let (mut table, limits) = (Table::default(), limits(10, 1 << 20, false));
        let token = fresh(&mut table, &limits, 0, 1);
        let far = 1000 * SECOND;
        assert_eq!(table.begin(&limits, far, &id(1), &id(0)), Found::Working, "work is never over by itself");
        table.end(&limits, far, (&id(1), token), Some((End::Answered(7), 5)));
        let last = far + 10 * SECOND - 1;
        assert_eq!(table.begin(&limits, last, &id(1), &id(0)), Found::Ended(End::Answered(7)));
        assert_eq!(table.begin(&limits, last, &id(1), &id(9)), Found::Mismatch);
        assert!(matches!(table.peek(&limits, last + 1, &id(1)), Found::Fresh(_)));
        fresh(&mut table, &limits, last + 1, 1);
    }

    #[test]
    fn at_its_bound_it_is_full_until_something_is_over() {
        let (mut table, limits) = (Table::default(), limits(2, 1 << 20, false));
        let first = fresh(&mut table, &limits, 0, 1);
        fresh(&mut table, &limits, 0, 2);
        assert_eq!(table.begin(&limits, 0, &id(3), &id(0)), Found::Full);
        table.end(&limits, 0, (&id(1), first), Some((End::Unknown, 0)));
        assert_eq!(table.begin(&limits, 0, &id(3), &id(0)), Found::Full, "what has ended stays");
        fresh(&mut table, &limits, 10 * SECOND, 3);
    }

    #[test]
    fn the_oldest_that_has_ended_goes_if_that_is_wanted_and_what_works_never() {
        let (mut table, limits) = (Table::default(), limits(3, 1 << 20, true));
        fresh(&mut table, &limits, 0, 1);
        for number in [2, 3] {
            let token = fresh(&mut table, &limits, 0, number);
            table.end(&limits, 0, (&id(number), token), Some((End::Answered(number), 1)));
        }
        fresh(&mut table, &limits, 1, 4);
        assert_eq!(table.peek(&limits, 1, &id(1)), Found::Working);
        assert_eq!(table.peek(&limits, 1, &id(3)), Found::Ended(End::Answered(3)));
        fresh(&mut table, &limits, 1, 5);
        assert_eq!(table.begin(&limits, 1, &id(6), &id(0)), Found::Full, "all are at work");
    }

    #[test]
    fn an_answer_for_which_there_is_no_room_is_not_kept_but_its_key_is() {
        let (mut table, limits) = (Table::default(), limits(10, 3 * ENTRY, false));
        let token = fresh(&mut table, &limits, 0, 1);
        table.end(&limits, 0, (&id(1), token), Some((End::Answered(1), 2 * ENTRY + 1)));
        assert_eq!(table.peek(&limits, 0, &id(1)), Found::Ended(End::NotKept));
        assert_eq!(table.counts(), Counts { keys: 1, working: 0, bytes: ENTRY });
    }

    #[test]
    fn who_ends_late_ends_nothing_of_another() {
        let (mut table, limits) = (Table::default(), limits(10, 1 << 20, false));
        let first = fresh(&mut table, &limits, 0, 1);
        table.end(&limits, 0, (&id(1), first), None);
        fresh(&mut table, &limits, 0, 1);
        table.end(&limits, 0, (&id(1), first), Some((End::Answered(1), 1)));
        assert_eq!(table.peek(&limits, 0, &id(1)), Found::Working);
    }

    #[test]
    fn asking_looks_at_no_more_keys_than_have_to_go() {
        let limits = limits(10, 1 << 20, true);
        let looked_at = |keys: usize, ended: usize| {
            let mut count = 0;
            let weights = std::iter::repeat_n(ENTRY, ended).inspect(|_| count += 1);
            (becomes_room(&limits, (keys, keys * ENTRY), weights), count)
        };
        assert_eq!(looked_at(9, 9), (true, 0));
        assert_eq!(looked_at(10, 10), (true, 1));
        assert_eq!(looked_at(12, 12), (true, 3));
        assert_eq!(looked_at(12, 2), (false, 2));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Begin(u8, u8),
        End(usize, Option<usize>),
        Later(u64),
        Limits(Limits),
    }

    fn step() -> impl Strategy<Value = Step> {
        let bounds = (1..8_usize, 1..4000_usize, any::<bool>());
        prop_oneof![
            5 => (0..12_u8, 0..2_u8).prop_map(|(id, print)| Step::Begin(id, print)),
            4 => (0..8_usize, proptest::option::of(0..1500_usize)).prop_map(|(at, end)| Step::End(at, end)),
            2 => (0..6 * SECOND).prop_map(Step::Later),
            1 => bounds.prop_map(|(keys, bytes, evict)| Step::Limits(limits(keys, bytes, evict))),
        ]
    }

    proptest! {
        /// Whatever happens: bounds hold as soon as something new is let in, what works stays, nothing runs
        /// twice at once, and asking beforehand says what happens.
        #[test]
        fn bounds_hold_and_nothing_runs_twice(steps in proptest::collection::vec(step(), 1..200)) {
            let (mut table, mut limits) = (Table::default(), limits(5, 3000, false));
            let (mut now_ns, mut working) = (0, Vec::<(u8, u64)>::new());
            for step in steps {
                match step {
                    Step::Later(ns) => now_ns += ns,
                    Step::Limits(new) => limits = new,
                    Step::Begin(number, print) => {
                        let said = table.peek(&limits, now_ns, &id(number));
                        let found: Found<u8> = table.begin(&limits, now_ns, &id(number), &id(print));
                        prop_assert!(found == said || found == Found::Mismatch, "{said:?} {found:?}");
                        if let Found::Fresh(token) = found {
                            prop_assert!(!working.iter().any(|(at_work, _)| *at_work == number));
                            prop_assert!(table.counts().keys <= limits.max_keys);
                            prop_assert!(table.counts().bytes <= limits.max_bytes);
                            working.push((number, token));
                        }
                    }
                    Step::End(at, end) if !working.is_empty() => {
                        let (number, token) = working.remove(at % working.len());
                        let before = table.counts().bytes;
                        let end = end.map(|weight| (End::Answered(number), weight));
                        table.end(&limits, now_ns, (&id(number), token), end);
                        prop_assert!(table.counts().bytes <= before.max(limits.max_bytes));
                    }
                    Step::End(..) => {}
                }
                for (number, _) in &working {
                    prop_assert_eq!(table.peek(&limits, now_ns, &id(*number)), Found::Working);
                }
                let weights = table.entries.values().map(|entry| entry.weight).sum::<usize>();
                prop_assert_eq!(table.counts().bytes, weights);
                prop_assert_eq!(table.counts().working, working.len());
            }
        }
    }
}
