//! The life of a breaker: pure transitions over one packed word. No clock, no HTTP, no runtime, no lock.
//!
//! Time is in milliseconds since the breaker began, of which the word holds 37 bits and compares them around
//! the end: after 4.3 years they begin anew, and nobody notices unless an open breaker was asked nothing for
//! half of that.
//!
//! A change of phase begins another epoch, but for the end of a recovery, after which the same results count.
//! What was let in during one epoch says nothing in another. There are 4,096 before a number comes again.

/// Where a breaker is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Phase {
    /// All pass, and their results count.
    Closed,
    /// It was open a moment ago: a growing share passes, and their results count.
    Recovering,
    /// Some are let through to see how it goes.
    HalfOpen,
    /// None pass.
    Open,
    /// None pass until that is taken back.
    ForcedOpen,
    /// All pass until that is taken back, and no result counts.
    ForcedClosed,
}

impl Phase {
    /// The word for machines.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Recovering => "recovering",
            Self::HalfOpen => "half_open",
            Self::Open => "open",
            Self::ForcedOpen => "forced_open",
            Self::ForcedClosed => "forced_closed",
        }
    }

    const fn number(self) -> u64 {
        match self {
            Self::Closed => 0,
            Self::Recovering => 1,
            Self::HalfOpen => 2,
            Self::Open => 3,
            Self::ForcedOpen => 4,
            Self::ForcedClosed => 5,
        }
    }

    const fn numbered(number: u64) -> Self {
        match number {
            1 => Self::Recovering,
            2 => Self::HalfOpen,
            3 => Self::Open,
            4 => Self::ForcedOpen,
            5 => Self::ForcedClosed,
            _ => Self::Closed,
        }
    }
}

/// The most probes at work, and the most successes that close: four bits of the word each.
pub const MAX_PROBES: u8 = 15;

const TIME: u64 = (1 << 37) - 1;
const EPOCH: u64 = (1 << 12) - 1;
const FOUR: u64 = (1 << 4) - 1;

/// What one word holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct State {
    pub(super) phase: Phase,
    /// How often it was opened again without having been closed in between; at most 15.
    pub(super) level: u64,
    /// Probes at work, while it is half open.
    pub(super) probes: u64,
    /// Probes that went well, while it is half open.
    pub(super) successes: u64,
    pub(super) epoch: u64,
    /// Open: until when. Half open: until when the last probe has a place for certain. Recovering: until when.
    pub(super) until_ms: u64,
}

impl State {
    pub(super) const NEW: Self =
        Self { phase: Phase::Closed, level: 0, probes: 0, successes: 0, epoch: 0, until_ms: 0 };

    pub(super) const fn pack(self) -> u64 {
        (self.until_ms & TIME) << 27
            | (self.epoch & EPOCH) << 15
            | (self.level & FOUR) << 11
            | (self.probes & FOUR) << 7
            | (self.successes & FOUR) << 3
            | self.phase.number()
    }

    pub(super) const fn unpack(word: u64) -> Self {
        Self {
            phase: Phase::numbered(word & 7),
            level: word >> 11 & FOUR,
            probes: word >> 7 & FOUR,
            successes: word >> 3 & FOUR,
            epoch: word >> 15 & EPOCH,
            until_ms: word >> 27,
        }
    }

    /// Whether results are counted in the window.
    pub(super) const fn counts(self) -> bool {
        matches!(self.phase, Phase::Closed | Phase::Recovering)
    }

    /// How long until its time has come; 0 from then on.
    pub(super) const fn left_ms(self, now_ms: u64) -> u64 {
        let left = self.until_ms.wrapping_sub(now_ms) & TIME;
        if left > TIME / 2 { 0 } else { left }
    }

    /// Its time has been over for at least so long.
    pub(super) const fn is_over_for(self, ms: u64, now_ms: u64) -> bool {
        let over = now_ms.wrapping_sub(self.until_ms) & TIME;
        over <= TIME / 2 && over >= ms
    }

    const fn next(self, phase: Phase, until_ms: u64) -> Self {
        Self {
            phase,
            level: self.level,
            probes: 0,
            successes: 0,
            epoch: (self.epoch + 1) & EPOCH,
            until_ms: until_ms & TIME,
        }
    }
}

/// What decides about phases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Phases {
    pub(super) probes: u64,
    pub(super) successes: u64,
    pub(super) open_ms: u64,
    pub(super) open_max_ms: u64,
    pub(super) probe_ms: u64,
    pub(super) ramp_ms: u64,
}

/// What becomes of one who asks to enter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Entry {
    /// It passes, and what comes of it counts.
    Pass,
    /// It passes as a probe, and has a place.
    Probe,
    /// It does not pass, and could after so long.
    Refuse(Option<u64>),
}

/// One asks to enter. `turn` is its number among those who ask while the breaker recovers.
pub(super) fn enter(phases: &Phases, state: State, now_ms: u64, turn: u64) -> (Entry, State) {
    let left_ms = state.left_ms(now_ms);
    match state.phase {
        Phase::Closed | Phase::ForcedClosed => (Entry::Pass, state),
        Phase::ForcedOpen => (Entry::Refuse(None), state),
        Phase::Open if left_ms > 0 => (Entry::Refuse(Some(left_ms)), state),
        Phase::Open => (Entry::Probe, first_probe(phases, state, 0, now_ms)),
        Phase::HalfOpen if state.probes < phases.probes => {
            let until_ms = now_ms.wrapping_add(phases.probe_ms) & TIME;
            (Entry::Probe, State { probes: state.probes + 1, until_ms, ..state })
        }
        // All of them hang: they have lost their places, and nobody hears of them any more.
        Phase::HalfOpen if left_ms == 0 => {
            (Entry::Probe, first_probe(phases, state, state.successes, now_ms))
        }
        Phase::HalfOpen => (Entry::Refuse(Some(left_ms.min(phases.open_ms))), state),
        Phase::Recovering if left_ms == 0 => {
            (Entry::Pass, State { phase: Phase::Closed, level: 0, until_ms: 0, ..state })
        }
        Phase::Recovering => {
            let percent = share(phases, left_ms);
            let is_in = |number: u64| number * percent / 100;
            let number = turn % 100; // The pattern repeats, so nothing can overflow.
            let passes = is_in(number + 1) > is_in(number);
            (if passes { Entry::Pass } else { Entry::Refuse(Some(left_ms)) }, state)
        }
    }
}

fn first_probe(phases: &Phases, state: State, successes: u64, now_ms: u64) -> State {
    let next = state.next(Phase::HalfOpen, now_ms.wrapping_add(phases.probe_ms));
    State { probes: 1, successes, ..next }
}

/// The share of requests that pass while a recovery has so long to go, in percent.
pub(super) fn share(phases: &Phases, left_ms: u64) -> u64 {
    let gone_ms = phases.ramp_ms.saturating_sub(left_ms);
    (gone_ms * 100 / phases.ramp_ms.max(1)).clamp(5, 100)
}

/// A probe has ended: well, or not, or nobody knows. `open_ms`: how long it would be open then.
pub(super) fn probed(phases: &Phases, state: State, went: Option<bool>, now_ms: u64, open_ms: u64) -> State {
    match went {
        _ if state.phase != Phase::HalfOpen => state,
        Some(true) if state.successes + 1 >= phases.successes => closed(phases, state, now_ms),
        Some(true) => {
            State { probes: state.probes.saturating_sub(1), successes: state.successes + 1, ..state }
        }
        Some(false) => opened(state, now_ms, open_ms),
        None => State { probes: state.probes.saturating_sub(1), ..state },
    }
}

fn closed(phases: &Phases, state: State, now_ms: u64) -> State {
    if phases.ramp_ms > 0 {
        return state.next(Phase::Recovering, now_ms.wrapping_add(phases.ramp_ms));
    }
    State { level: 0, ..state.next(Phase::Closed, 0) }
}

/// It opens: for the first time, or once more without having been closed for good.
pub(super) fn opened(state: State, now_ms: u64, open_ms: u64) -> State {
    State { level: level_then(state), ..state.next(Phase::Open, now_ms.wrapping_add(open_ms)) }
}

/// The level it would be opened at.
pub(super) const fn level_then(state: State) -> u64 {
    match state.phase {
        Phase::HalfOpen | Phase::Recovering if state.level < FOUR => state.level + 1,
        Phase::HalfOpen | Phase::Recovering => FOUR,
        _ => 0,
    }
}

/// How long it is open: somewhere between the base and the base doubled once for each level, and not above
/// the maximum. `random` is any number, each as likely as another.
pub(super) fn open_ms(phases: &Phases, level: u64, random: u64) -> u64 {
    let doubled = phases.open_ms.saturating_mul(1 << level.min(FOUR)).min(phases.open_max_ms);
    let above = u128::from(doubled.saturating_sub(phases.open_ms));
    let part = (above * u128::from(random)) >> 64;
    phases.open_ms + u64::try_from(part).unwrap_or_default()
}

/// It is forced open or closed.
pub(super) fn forced(state: State, phase: Phase) -> State {
    if state.phase == phase { state } else { State { level: 0, ..state.next(phase, 0) } }
}

/// What was forced is taken back: who was forced open is probed first.
pub(super) fn released(state: State, now_ms: u64) -> State {
    match state.phase {
        Phase::ForcedOpen => state.next(Phase::Open, now_ms),
        Phase::ForcedClosed => state.next(Phase::Closed, 0),
        _ => state,
    }
}

/// Closed, as new.
pub(super) fn reset(state: State) -> State {
    State { level: 0, ..state.next(Phase::Closed, 0) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PHASES: Phases =
        Phases { probes: 2, successes: 3, open_ms: 1000, open_max_ms: 60_000, probe_ms: 500, ramp_ms: 0 };

    fn states() -> impl Strategy<Value = State> {
        (0..6_u64, 0..=FOUR, 0..=FOUR, 0..=FOUR, 0..=EPOCH, 0..=TIME).prop_map(
            |(phase, level, probes, successes, epoch, until_ms)| State {
                phase: Phase::numbered(phase),
                level,
                probes,
                successes,
                epoch,
                until_ms,
            },
        )
    }

    proptest! {
        #[test]
        fn a_state_is_one_word(state in states()) {
            prop_assert_eq!(State::unpack(state.pack()), state);
        }

        #[test]
        fn no_transition_leaves_its_bounds(
            state in states(),
            now_ms in any::<u64>(),
            random in any::<u64>(),
            turn in any::<u64>(),
            went in any::<Option<bool>>(),
            ramp_ms in 0..100_000_u64,
        ) {
            let phases = Phases { ramp_ms, ..PHASES };
            let open_ms = open_ms(&phases, level_then(state), random);
            prop_assert!((1000..=60_000).contains(&open_ms));
            let (entry, entered) = enter(&phases, state, now_ms, turn);
            if entered.phase == Phase::HalfOpen && entered.epoch != state.epoch {
                prop_assert_eq!((entry, entered.probes), (Entry::Probe, 1));
            }
            let others = [
                probed(&phases, state, went, now_ms, open_ms),
                opened(state, now_ms, open_ms),
                forced(state, Phase::ForcedOpen),
                released(state, now_ms),
                reset(state),
            ];
            for next in others.into_iter().chain([entered]) {
                prop_assert_eq!(State::unpack(next.pack()), next, "a field is too small");
                let turned = next.epoch != state.epoch;
                let recovered = (state.phase, next.phase) == (Phase::Recovering, Phase::Closed);
                prop_assert!(turned || next.phase == state.phase || recovered);
            }
        }
    }

    #[test]
    fn r3_4_the_open_time_doubles_up_to_its_maximum_and_is_never_below_its_base() {
        let highest = (0..10).map(|level| open_ms(&PHASES, level, u64::MAX)).collect::<Vec<_>>();
        assert_eq!(highest, [1000, 1999, 3999, 7999, 15_999, 31_999, 59_999, 59_999, 59_999, 59_999]);
        assert!((0..16).all(|level| open_ms(&PHASES, level, 0) == 1000));
        let fixed = Phases { open_max_ms: 0, ..PHASES };
        assert_eq!(open_ms(&fixed, 9, u64::MAX), 1000, "a maximum below the base is the base");
    }

    #[test]
    fn r3_4_at_most_so_many_probes_and_the_last_success_closes() {
        let open = opened(State::NEW, 0, 1000);
        assert_eq!(enter(&PHASES, open, 999, 0), (Entry::Refuse(Some(1)), open));
        let (entry, one) = enter(&PHASES, open, 1000, 0);
        assert_eq!((entry, one.phase, one.probes), (Entry::Probe, Phase::HalfOpen, 1));
        let (_, two) = enter(&PHASES, one, 1000, 0);
        assert_eq!(enter(&PHASES, two, 1000, 0), (Entry::Refuse(Some(500)), two));
        let back = probed(&PHASES, two, None, 1000, 0);
        assert_eq!(back, one, "a probe that was dropped says nothing and gives its place back");
        let good = probed(&PHASES, probed(&PHASES, two, Some(true), 1001, 0), Some(true), 1001, 0);
        assert_eq!((good.probes, good.successes, good.epoch), (0, 2, two.epoch));
        let closed = probed(&PHASES, good, Some(true), 1002, 0);
        assert_eq!((closed.phase, closed.level, closed.epoch), (Phase::Closed, 0, two.epoch + 1));
        let again = probed(&PHASES, good, Some(false), 1002, 2000);
        assert_eq!((again.phase, again.level, again.until_ms), (Phase::Open, 1, 3002));
    }

    #[test]
    fn r3_4_probes_that_hang_lose_their_places_and_keep_nobody_out() {
        let (_, one) = enter(&PHASES, opened(State::NEW, 0, 0), 0, 0);
        let one = State { successes: 1, ..one };
        let (_, two) = enter(&PHASES, one, 100, 0);
        assert_eq!(enter(&PHASES, two, 599, 0).0, Entry::Refuse(Some(1)));
        let (entry, next) = enter(&PHASES, two, 600, 0);
        assert_eq!((entry, next.probes, next.successes), (Entry::Probe, 1, 1));
        assert_ne!(next.epoch, two.epoch, "what the others say is of an earlier epoch");
    }

    #[test]
    fn a_recovery_lets_a_growing_share_pass_and_then_all() {
        let phases = Phases { ramp_ms: 10_000, successes: 1, ..PHASES };
        let (_, probing) = enter(&phases, opened(State::NEW, 0, 0), 0, 0);
        let state = probed(&phases, probing, Some(true), 0, 0);
        assert_eq!(state.phase, Phase::Recovering);
        let passing = |now_ms| {
            let passes = |turn: &u64| enter(&phases, state, now_ms, *turn).0 == Entry::Pass;
            (0..100).filter(passes).count()
        };
        assert_eq!([0, 2500, 5000, 9999].map(passing), [5, 25, 50, 99]);
        let (entry, closed) = enter(&phases, state, 10_000, 99);
        assert_eq!((entry, closed.phase, closed.epoch), (Entry::Pass, Phase::Closed, state.epoch));
        assert_eq!(level_then(state), 1, "opened again while it recovers, it is open for longer");
        assert_eq!(level_then(closed), 0);
    }

    #[test]
    fn what_is_forced_holds_until_it_is_released() {
        let open = forced(State::NEW, Phase::ForcedOpen);
        assert_eq!(enter(&PHASES, open, u64::MAX, 0), (Entry::Refuse(None), open));
        assert_eq!(probed(&PHASES, open, Some(true), 0, 0), open);
        assert_eq!(enter(&PHASES, released(open, 7), 7, 0).0, Entry::Probe);
        let closed = forced(open, Phase::ForcedClosed);
        assert_eq!(enter(&PHASES, closed, 0, 0), (Entry::Pass, closed));
        assert!(!closed.counts() && released(closed, 0).phase == Phase::Closed);
        assert_eq!(reset(open).phase, Phase::Closed);
    }

    #[test]
    fn time_goes_on_around_its_end() {
        let state = opened(State::NEW, TIME - 10, 1000);
        assert_eq!(state.left_ms(TIME), 990);
        assert_eq!(state.left_ms(TIME + 900), 90);
        assert_eq!((state.left_ms(TIME + 990), state.left_ms(TIME + 5000)), (0, 0));
        assert!(state.is_over_for(1000, TIME + 2000) && !state.is_over_for(1000, TIME + 1000));
    }

    /// Where three callers are in what they do with the word: each looks, and then writes if nobody has
    /// written in between, or looks again. With one word, these steps in all orders are all that can happen,
    /// whatever the machine does with its memory; and there are so few states that all are visited.
    mod interleaved {
        use std::collections::HashSet;

        use super::*;

        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        enum At {
            Begin,
            Entering(u64),
            /// It is let in as a probe; and has looked, if it is about to leave.
            In {
                epoch: u64,
                seen: Option<u64>,
            },
            Out,
        }

        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        struct World {
            word: u64,
            callers: [At; 4],
            opened: u8,
            closed: u8,
        }

        fn step(phases: &Phases, world: World, who: usize, went: Option<bool>) -> Option<World> {
            let mut next = world;
            let state = State::unpack(world.word);
            next.callers[who] = match world.callers[who] {
                At::Begin => At::Entering(world.word),
                At::Entering(seen) => {
                    let (entry, then) = enter(phases, State::unpack(seen), 10, 0);
                    if entry != Entry::Probe {
                        At::Out
                    } else if seen == world.word {
                        next.word = then.pack();
                        At::In { epoch: then.epoch, seen: None }
                    } else {
                        At::Entering(world.word)
                    }
                }
                At::In { epoch, .. } if state.epoch != epoch => At::Out,
                At::In { seen: Some(seen), .. } if seen == world.word => {
                    let then = probed(phases, state, went, 10, 1000);
                    next.word = then.pack();
                    next.opened += u8::from(then.phase == Phase::Open);
                    next.closed += u8::from(then.phase == Phase::Closed);
                    At::Out
                }
                At::In { epoch, .. } => At::In { epoch, seen: Some(world.word) },
                At::Out => return None,
            };
            Some(next)
        }

        fn visit(phases: &Phases, results: [Option<bool>; 4], check: impl Fn(&World, bool)) -> usize {
            let word = State { level: 0, ..opened(State::NEW, 0, 10) }.pack();
            let begin = World { word, callers: [At::Begin; 4], opened: 0, closed: 0 };
            let (mut seen, mut left) = (HashSet::from([begin]), vec![begin]);
            while let Some(world) = left.pop() {
                let next =
                    (0..4).filter_map(|who| step(phases, world, who, results[who])).collect::<Vec<_>>();
                check(&world, next.is_empty());
                left.extend(next.into_iter().filter(|next| seen.insert(*next)));
            }
            seen.len()
        }

        fn probes_at_work(world: &World) -> u64 {
            let epoch = State::unpack(world.word).epoch;
            let is_at_work = |at: &&At| matches!(at, At::In { epoch: its, .. } if *its == epoch);
            u64::try_from(world.callers.iter().filter(is_at_work).count()).unwrap()
        }

        #[test]
        fn r3_11_in_every_order_of_four_callers_probes_are_counted_right_and_one_change_is_one_change() {
            let mut visited = 0;
            let results = [None, Some(true), Some(false)];
            for (probes, successes) in [(1, 1), (1, 2), (2, 1), (2, 2), (3, 3)] {
                let phases = Phases { probes, successes, ..PHASES };
                for number in 0..81_usize {
                    let which = [1, 3, 9, 27].map(|of| number / of % 3);
                    if !which.is_sorted() {
                        continue; // The same callers in another order.
                    }
                    let results = which.map(|which| results[which]);
                    visited += visit(&phases, results, |world, is_over| {
                        let state = State::unpack(world.word);
                        if state.phase == Phase::HalfOpen {
                            assert_eq!(state.probes, probes_at_work(world), "{world:?}");
                            assert!(state.probes <= probes, "{world:?}");
                        }
                        assert!(world.opened + world.closed <= 1, "two have made one change: {world:?}");
                        if is_over {
                            assert!(state.probes == 0, "a place is lost for good: {world:?}");
                        }
                    });
                }
            }
            assert!(visited > 100_000, "{visited}");
        }
    }
}
