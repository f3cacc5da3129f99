//! One breaker's state, and how its transitions are committed: a word, and a window of words beside it.
//!
//! Each word changes by compare-and-swap, and no lock is taken. What that means for what is seen:
//!
//! - **Phases are exact.** One word has all of it, so a change is made by one caller and told once, probes are
//!   never more than they should be, and a result of an earlier epoch changes nothing.
//! - **Failures in a row are exact**, in the order in which callers come to write.
//! - **A bucket is exact**, and so nothing is counted twice or in two epochs: a word of the window is looked at
//!   *before* the phase and written *after*, so whoever is late finds either that the epoch has changed or
//!   that the word has.
//! - **The sum over the buckets is no snapshot.** With N callers that write at the same time it can miss as many
//!   results, or have as many that the last to look did not; so a rate is off by at most N of those that count,
//!   and whoever writes last sees all of them: what should open does, at the latest by the last result.
//! - A caller that is held up between reading the clock and writing, for nine tenths of the window, puts its
//!   result where a later bucket is, and takes that one out of the window.

use super::{
    config::Rule,
    phase::{self, Entry, Phase, State},
    saved::SavedCell,
    window::{self, Answer, BUCKETS, Cause, Counts, Shape},
};
use crate::sync::atomic::{
    AtomicU64,
    Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst},
};

#[derive(Debug)]
pub(super) struct Cell {
    word: AtomicU64,
    /// Failures in a row: the epoch in the upper half, the number in the lower.
    run: AtomicU64,
    /// Results so far; only windows that count them write here.
    results: AtomicU64,
    /// Who asked while it was recovering.
    turns: AtomicU64,
    buckets: [AtomicU64; BUCKETS],
}

/// A change of phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Turn {
    pub(super) from: Phase,
    pub(super) to: Phase,
    pub(super) cause: Cause,
}

/// What is known of a request that was let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Admitted {
    pub(super) epoch: u64,
    pub(super) is_probe: bool,
}

impl Cell {
    pub(super) fn new() -> Self {
        Self {
            word: AtomicU64::new(State::NEW.pack()),
            run: AtomicU64::new(0),
            results: AtomicU64::new(0),
            turns: AtomicU64::new(0),
            buckets: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }

    pub(super) fn state(&self) -> State {
        State::unpack(self.word.load(Acquire))
    }

    /// Nobody has told it anything.
    pub(super) fn is_new(&self) -> bool {
        let others = [&self.run, &self.results].into_iter().chain(&self.buckets);
        self.state() == State::NEW && others.into_iter().all(|word| word.load(Acquire) == 0)
    }

    /// No snapshot: of what is written meanwhile some may be missing.
    pub(super) fn save(&self, key: Option<u64>, used_ns: u64) -> SavedCell {
        let [state, run, results] = [&self.word, &self.run, &self.results].map(|word| word.load(Acquire));
        let mut buckets = [0; BUCKETS];
        buckets.iter_mut().zip(self.words()).for_each(|(place, word)| *place = word);
        SavedCell { key, used_ns, state, run, results, buckets }
    }

    /// Goes on as that one, whose probes nobody hears of here. Without `eras` the window is another, and empty.
    pub(super) fn restore(&self, saved: &SavedCell, eras: Option<(u64, u64)>) {
        let state = State { probes: 0, ..State::unpack(saved.state) };
        self.run.store(saved.run, Release);
        if let Some((there, here)) = eras {
            self.results.store(saved.results, Release);
            for (place, word) in self.buckets.iter().zip(saved.buckets) {
                place.store(
                    window::of_era(word, era_of(there, state.epoch), era_of(here, state.epoch)),
                    Release,
                );
            }
        }
        self.word.store(state.pack(), Release);
    }

    /// What [`enter`](Self::enter) would say.
    pub(super) fn peek(&self, rule: &Rule, now_ms: u64) -> Entry {
        phase::enter(&rule.phases, self.state(), now_ms, self.turns.load(Relaxed)).0
    }

    /// One asks to enter; whoever is let in has to leave. A closed breaker is only looked at.
    pub(super) fn enter(&self, rule: &Rule, now_ms: u64) -> (Result<Admitted, Option<u64>>, Option<Turn>) {
        let (mut seen, mut turn) = (self.word.load(Acquire), None);
        loop {
            let state = State::unpack(seen);
            if state.phase == Phase::Recovering && turn.is_none() {
                turn = Some(self.turns.fetch_add(1, Relaxed));
            }
            let (entry, next) = phase::enter(&rule.phases, state, now_ms, turn.unwrap_or_default());
            let admitted = |is_probe| Admitted { epoch: next.epoch, is_probe };
            let said = match entry {
                Entry::Pass => Ok(admitted(false)),
                Entry::Probe => Ok(admitted(true)),
                Entry::Refuse(wait_ms) => Err(wait_ms),
            };
            if next == state {
                return (said, None);
            }
            match self.word.compare_exchange_weak(seen, next.pack(), AcqRel, Acquire) {
                Ok(_) => return (said, entered(state, next)),
                Err(now) => seen = now,
            }
        }
    }

    /// Whoever was let in leaves, and `None` is known of how it went.
    pub(super) fn give_back(&self, rule: &Rule, admitted: Admitted) {
        if admitted.is_probe {
            self.probed(rule, admitted, None, 0, || 0);
        }
    }

    /// Whoever was let in leaves, and this came of it. What time it is, is asked only if it matters: not for
    /// a window that counts results.
    pub(super) fn settle(
        &self,
        rule: &Rule,
        admitted: Admitted,
        answer: Answer,
        now_ns: impl Fn() -> u64,
        random: impl Fn() -> u64,
    ) -> Option<Turn> {
        if admitted.is_probe {
            // A service that is slow in all it does would be closed and opened for ever.
            let fails = answer.is_failure || (answer.is_slow && rule.trips.slow_percent > 0);
            return self.probed(rule, admitted, Some(!fails), now_ns() / 1_000_000, random);
        }
        let run = self.count_run(rule, admitted.epoch, answer)?;
        let counts = self.count(rule, admitted.epoch, answer, &now_ns)?;
        let cause = window::judge(&rule.trips, run, counts)?;
        let now_ms = now_ns() / 1_000_000;
        self.change(admitted.epoch, cause, |state| {
            let level = phase::level_then(state);
            let open_ms = phase::open_ms(&rule.phases, level, random());
            state.counts().then(|| phase::opened(state, now_ms, open_ms))
        })
    }

    /// What is in the window, and how many failures there are in a row.
    pub(super) fn counts(&self, rule: &Rule, now_ns: u64) -> (Counts, u32) {
        let state = self.state();
        let counts = if state.counts() { self.sum(rule, state.epoch, now_ns) } else { Counts::default() };
        let run = self.run.load(Acquire);
        let run = if run >> 32 == state.epoch && state.counts() { run & RUN } else { 0 };
        (counts, u32::try_from(run).unwrap_or(u32::MAX))
    }

    /// By hand, whatever it does now.
    pub(super) fn by_hand(&self, next: impl Fn(State) -> State) -> Option<Turn> {
        let mut seen = self.word.load(Acquire);
        loop {
            let (state, next) = (State::unpack(seen), next(State::unpack(seen)));
            if next == state {
                return None;
            }
            match self.word.compare_exchange_weak(seen, next.pack(), AcqRel, Acquire) {
                Ok(_) => return Some(Turn { from: state.phase, to: next.phase, cause: Cause::ByHand }),
                Err(now) => seen = now,
            }
        }
    }

    /// It says no more than a new one would: closed and without results, or open until long ago.
    pub(super) fn is_idle(&self, rule: &Rule, now_ns: u64) -> bool {
        let state = self.state();
        match state.phase {
            Phase::Closed => self.counts(rule, now_ns) == (Counts::default(), 0),
            Phase::Open => state.is_over_for(rule.phases.open_max_ms, now_ns / 1_000_000),
            _ => false,
        }
    }

    fn probed(
        &self,
        rule: &Rule,
        admitted: Admitted,
        went: Option<bool>,
        now_ms: u64,
        random: impl Fn() -> u64,
    ) -> Option<Turn> {
        let cause = if went == Some(true) { Cause::ProbesSucceeded } else { Cause::ProbeFailed };
        self.change(admitted.epoch, cause, |state| {
            let open_ms = phase::open_ms(&rule.phases, phase::level_then(state), random());
            Some(phase::probed(&rule.phases, state, went, now_ms, open_ms))
        })
    }

    /// Changes the phase, if the epoch is still the same.
    fn change(&self, epoch: u64, cause: Cause, next: impl Fn(State) -> Option<State>) -> Option<Turn> {
        let mut seen = self.word.load(Acquire);
        loop {
            let state = State::unpack(seen);
            let next = next(state).filter(|next| state.epoch == epoch && *next != state)?;
            match self.word.compare_exchange_weak(seen, next.pack(), AcqRel, Acquire) {
                Ok(_) if next.phase == state.phase => return None,
                Ok(_) => return Some(Turn { from: state.phase, to: next.phase, cause }),
                Err(now) => seen = now,
            }
        }
    }

    /// Failures in a row after this result; `None` if nobody hears of it any more.
    fn count_run(&self, rule: &Rule, epoch: u64, answer: Answer) -> Option<u32> {
        if rule.trips.consecutive == 0 {
            return Some(0);
        }
        let mut seen = self.run.load(Acquire);
        loop {
            self.still_counts(epoch)?;
            let before = if seen >> 32 == epoch { seen & RUN } else { 0 };
            if !answer.is_failure && before == 0 {
                return Some(0); // As always; nothing is written.
            }
            let run = if answer.is_failure { (before + 1).min(RUN) } else { 0 };
            match self.run.compare_exchange_weak(seen, epoch << 32 | run, AcqRel, Acquire) {
                Ok(_) => return Some(u32::try_from(run).unwrap_or(u32::MAX)),
                Err(now) => seen = now,
            }
        }
    }

    /// The window with this result; `None` if nobody hears of it any more.
    fn count(&self, rule: &Rule, epoch: u64, answer: Answer, now_ns: impl Fn() -> u64) -> Option<Counts> {
        if !rule.trips.has_rates() {
            return Some(Counts::default());
        }
        let (result, now_ns) = match rule.shape {
            Shape::Count(_) => (self.results.fetch_add(1, Relaxed), 0),
            Shape::Time(_) => (0, now_ns()),
        };
        let bucket = rule.shape.bucket(result, now_ns);
        let (word, tag) = (&self.buckets[window::place(bucket)], window::tag(era(rule, epoch), bucket));
        let mut seen = word.load(Acquire);
        loop {
            self.still_counts(epoch)?;
            // `SeqCst` with `words`: of two that write two buckets, the later sees what the earlier wrote.
            match word.compare_exchange_weak(seen, window::add(seen, tag, answer), SeqCst, Acquire) {
                Ok(_) => break,
                Err(now) => seen = now,
            }
        }
        Some(window::sum(self.words(), era(rule, epoch), bucket))
    }

    fn sum(&self, rule: &Rule, epoch: u64, now_ns: u64) -> Counts {
        let newest = self.results.load(Relaxed).saturating_sub(1);
        window::sum(self.words(), era(rule, epoch), rule.shape.bucket(newest, now_ns))
    }

    fn words(&self) -> impl Iterator<Item = u64> {
        self.buckets.iter().map(|bucket| bucket.load(SeqCst))
    }

    fn still_counts(&self, epoch: u64) -> Option<()> {
        let state = self.state();
        (state.epoch == epoch && state.counts()).then_some(())
    }
}

const RUN: u64 = (1 << 32) - 1;

/// What words of the window belong to: their epoch, and a window of one shape. Two of these at the same time
/// are never the same number modulo 256 unless one is 256 epochs or configurations older.
const fn era(rule: &Rule, epoch: u64) -> u64 {
    era_of(rule.era, epoch)
}

const fn era_of(era: u64, epoch: u64) -> u64 {
    epoch.wrapping_add(era.wrapping_mul(31))
}

fn entered(state: State, next: State) -> Option<Turn> {
    let cause = match (state.phase, next.phase) {
        (Phase::HalfOpen, Phase::HalfOpen) if state.epoch != next.epoch => Cause::ProbesHung,
        (Phase::Recovering, _) => Cause::Recovered,
        (Phase::Open, _) => Cause::Probing,
        _ => return None,
    };
    Some(Turn { from: state.phase, to: next.phase, cause })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::circuit_breaker::{CircuitBreakerConfig, Window};

    const BAD: Answer = Answer { is_failure: true, is_slow: false };
    const GOOD: Answer = Answer { is_failure: false, is_slow: false };

    fn rule(config: CircuitBreakerConfig) -> Rule {
        config.rule(0)
    }

    fn let_in(cell: &Cell, rule: &Rule, now_ms: u64) -> Admitted {
        cell.enter(rule, now_ms).0.unwrap()
    }

    fn result(cell: &Cell, rule: &Rule, answer: Answer) -> Option<Turn> {
        let admitted = let_in(cell, rule, 0);
        cell.settle(rule, admitted, answer, || 0, || 0)
    }

    #[test]
    fn r3_5_late_results_of_an_earlier_epoch_change_nothing() {
        let rule = rule(CircuitBreakerConfig::new().consecutive(2).probes(1, 1));
        let cell = Cell::new();
        let late = [(); 4].map(|()| let_in(&cell, &rule, 0));
        assert_eq!(result(&cell, &rule, BAD), None);
        let turn = result(&cell, &rule, BAD).unwrap();
        assert_eq!((turn.from, turn.to, turn.cause), (Phase::Closed, Phase::Open, Cause::Consecutive(2)));
        let before = cell.state();
        assert_eq!(cell.settle(&rule, late[0], GOOD, || 0, || 0), None);
        assert_eq!(cell.settle(&rule, late[1], BAD, || 0, || 0), None);
        assert_eq!(cell.state(), before);

        let probe = let_in(&cell, &rule, 60_000);
        assert_eq!(cell.settle(&rule, late[2], BAD, || 0, || 0), None);
        let turn = cell.settle(&rule, probe, GOOD, || 60_000_000_000, || 0).unwrap();
        assert_eq!(
            (turn.from, turn.to, turn.cause),
            (Phase::HalfOpen, Phase::Closed, Cause::ProbesSucceeded)
        );
        assert_eq!(cell.counts(&rule, 60_000_000_000), (Counts::default(), 0), "it begins empty");
        assert_eq!(result(&cell, &rule, BAD), None);
        assert_eq!(cell.settle(&rule, late[3], BAD, || 60_000_000_000, || 0), None);
        let one = Counts { total: 1, failed: 1, slow: 0 };
        assert_eq!(cell.counts(&rule, 60_000_000_000), (one, 1), "and keeps what is new");
    }

    #[test]
    fn r3_5_a_probe_that_has_lost_its_place_neither_opens_nor_closes_nor_frees_another() {
        let rule = rule(CircuitBreakerConfig::new().probes(1, 1));
        let cell = Cell::new();
        cell.by_hand(|state| phase::opened(state, 0, 0));
        let hung = let_in(&cell, &rule, 0);
        let probe = let_in(&cell, &rule, 30_000);
        let before = cell.state();
        for answer in [GOOD, BAD] {
            assert_eq!(cell.settle(&rule, hung, answer, || 0, || 0), None);
        }
        cell.give_back(&rule, hung);
        assert_eq!((cell.state(), before.probes), (before, 1));
        assert_eq!(cell.settle(&rule, probe, GOOD, || 0, || 0).unwrap().to, Phase::Closed);
    }

    #[test]
    fn a_closed_breaker_is_entered_and_left_without_writing_the_word() {
        let rule = rule(CircuitBreakerConfig::new());
        let cell = Cell::new();
        let before = cell.word.load(Acquire);
        assert!((0..100).all(|_| result(&cell, &rule, GOOD).is_none()));
        assert_eq!((cell.word.load(Acquire), cell.run.load(Acquire)), (before, 0));
    }

    /// Threads that enter and leave as they like: whatever is seen is a state that one caller has made.
    #[test]
    fn r3_11_threads_open_and_close_one_breaker_and_each_change_is_told_once() {
        let config = CircuitBreakerConfig::new().consecutive(3).probes(2, 2);
        let rule =
            rule(config.open(std::time::Duration::from_millis(1), std::time::Duration::from_millis(4)));
        let cell = Cell::new();
        let clock = AtomicU64::new(0);
        let turns = std::thread::scope(|scope| {
            let threads = (0..4_u64).map(|seed| {
                let (cell, clock) = (&cell, &clock);
                scope.spawn(move || {
                    let (mut random, mut turns) = (seed * 0x9e37_79b9 + 1, Vec::new());
                    for _ in 0..20_000 {
                        random ^= random << 13;
                        random ^= random >> 7;
                        random ^= random << 17;
                        let now_ms = clock.fetch_add(1, Relaxed);
                        let (said, turn) = cell.enter(&rule, now_ms);
                        turns.extend(turn);
                        let Ok(admitted) = said else { continue };
                        assert!(cell.state().probes <= 2);
                        if random % 5 == 0 {
                            cell.give_back(&rule, admitted);
                        } else {
                            let answer = Answer { is_failure: random % 3 == 0, is_slow: false };
                            turns.extend(cell.settle(
                                &rule,
                                admitted,
                                answer,
                                || now_ms * 1_000_000,
                                || random,
                            ));
                        }
                    }
                    turns
                })
            });
            let threads = threads.collect::<Vec<_>>();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
        });
        let changes = u64::try_from(turns.len()).unwrap();
        let state = cell.state();
        assert_eq!(changes % 4096, state.epoch, "each change is one epoch, and was told once");
        let count = |phase| turns.iter().filter(|turn| turn.to == phase).count();
        assert!(count(Phase::Open) > 100 && count(Phase::Closed) > 100, "{turns:?}");
        assert!(count(Phase::Open).abs_diff(count(Phase::HalfOpen)) <= 1 + hung(&turns));
        assert!(state.phase != Phase::HalfOpen || state.probes == 0, "a place was lost");
    }

    #[test]
    fn r3_1_of_results_that_come_at_once_none_is_lost_and_the_last_one_opens() {
        use std::time::Duration;

        for window in [Window::Count(1000), Window::Time(Duration::from_secs(1000))] {
            let rule = rule(CircuitBreakerConfig::new().consecutive(0).failure_rate(100).window(window, 400));
            for round in 0..100_u64 {
                let cell = Cell::new();
                let turns = std::thread::scope(|scope| {
                    let threads = (0..4_u64).map(|thread| {
                        let (cell, rule) = (&cell, &rule);
                        scope.spawn(move || {
                            // Into several buckets.
                            let now_ns = |number: u64| (thread * 100 + round + number) * 1_000_000_000;
                            let settle = |number| {
                                let admitted = let_in(cell, rule, 0);
                                cell.settle(rule, admitted, BAD, || now_ns(number), || 0)
                            };
                            (0..100).filter_map(settle).collect::<Vec<_>>()
                        })
                    });
                    let threads = threads.collect::<Vec<_>>();
                    threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
                });
                assert_eq!((turns.len(), cell.state().phase), (1, Phase::Open), "{turns:?}");
            }
        }
    }

    fn hung(turns: &[Turn]) -> usize {
        turns.iter().filter(|turn| turn.cause == Cause::ProbesHung).count()
    }

    /// Results of two epochs that are written into one bucket while somebody changes the epoch, step by step
    /// as `count` does it, in every order: no result is counted in an epoch that is not its own, and none of
    /// the newer epoch is lost, whatever the older ones do.
    #[test]
    fn r3_11_in_every_order_of_late_and_new_results_a_bucket_has_those_of_its_epoch() {
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        enum At {
            Begin,
            Looked(u64),
            Checked(u64),
            Out,
        }

        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        struct World {
            epoch: u64,
            word: u64,
            /// Two of epoch 1, two of epoch 2, which begin when it has begun.
            writers: [(u64, At); 4],
            written: [u32; 3],
        }

        fn step(world: World, who: usize) -> Option<World> {
            let mut next = world;
            let (epoch, at) = world.writers[who];
            let (mine, current) = (window::tag(epoch, 7), world.epoch == epoch);
            next.writers[who].1 = match at {
                At::Begin if epoch > world.epoch => return None,
                At::Looked(_) if !current => At::Out,
                At::Looked(seen) => At::Checked(seen),
                At::Checked(seen) if seen == world.word => {
                    next.word = window::add(seen, mine, BAD);
                    next.written[usize::try_from(epoch).unwrap()] += u32::from(current);
                    At::Out
                }
                At::Begin | At::Checked(_) => At::Looked(world.word),
                At::Out => return None,
            };
            Some(next)
        }

        let writers = [1, 1, 2, 2].map(|epoch| (epoch, At::Begin));
        let begin = World { epoch: 1, word: 0, writers, written: [0; 3] };
        let (mut seen, mut left) = (std::collections::HashSet::from([begin]), vec![begin]);
        while let Some(world) = left.pop() {
            let turned = (world.epoch == 1).then_some(World { epoch: 2, ..world });
            let next = (0..4).filter_map(|who| step(world, who)).chain(turned).collect::<Vec<_>>();
            let total = |epoch| window::sum([world.word].into_iter(), epoch, 7).total;
            if world.epoch == 1 {
                assert_eq!(total(1), world.written[1], "{world:?}");
            } else {
                assert_eq!(total(2), world.written[2], "{world:?}");
            }
            left.extend(next.into_iter().filter(|next| seen.insert(*next)));
        }
        assert!(seen.len() > 100, "{}", seen.len());
    }
}
