//! What becomes of what a source says: it is taken, held back, or changes nothing; and when to ask again.
//!
//! # Decision
//! 1. The source failed: what there is stays.
//! 2. It says that there is none: what there is stays, unless [`takes_empty`](Rules::takes_empty).
//! 3. It has fewer endpoints than [`max_shrink`](Rules::max_shrink) leaves of three or more: held back, until it has
//!    been seen [`confirm`](Rules::confirm) times in a row, [`APART`] from one another. What fails in between neither
//!    confirms nor denies.
//! 4. Otherwise it is taken.
//!
//! A set shrinks by its size: as many others in the place of those that are gone is no shrinking. The first set of a
//! source has nothing to shrink from.
//!
//! # Units and limits
//! Times are counted from whatever start the caller has. A pause after an answer is its time to live, not below the
//! floor and not above the ceiling, and up to a tenth more, so that gateways do not ask in step; after a failure half to
//! all of a second that doubles up to [`BACKOFF`], not below the floor.
//!
//! # Errors and panics
//! Never panics.

use std::time::Duration;

/// Sightings of a set that has shrunk too much are counted at least this far apart.
pub const APART: Duration = Duration::from_secs(5);

/// The longest pause after failures.
pub const BACKOFF: Duration = Duration::from_secs(30);

/// Below so many endpoints a set may shrink as it likes: one of two is half of it.
const FEW: usize = 3;

/// How careful to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// What an answer is good for at least.
    pub floor: Duration,
    /// What an answer is good for at most.
    pub ceiling: Duration,
    /// The part of a set, in percent, that may go at once.
    pub max_shrink: u8,
    /// How often a set that has shrunk by more has to be seen.
    pub confirm: u32,
    /// Whether the source is believed that there is none.
    pub takes_empty: bool,
}

/// What a source said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// So many endpoints, at least one.
    Some(usize),
    /// So many, of which some were only held because they could not be found: that confirms no doubt.
    Partly(usize),
    /// That there is none.
    None,
    /// Nothing that can be used.
    Failure,
}

/// What becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is the set from now on.
    Take,
    /// It is smaller by too much: seen so many times.
    HoldShrunk(u32),
    /// There is none, it says.
    HoldEmpty,
    /// The source failed.
    Keep,
}

/// A set that is held back because it has shrunk too much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Doubt {
    sightings: u32,
    counted: Duration,
}

/// Judges what was seen at `now`, where the source has given a set of `have` endpoints before. Answers with the doubt
/// that is left, which is to be given back with the next.
pub fn judge(
    rules: &Rules,
    have: Option<usize>,
    seen: Seen,
    doubt: Option<Doubt>,
    now: Duration,
) -> (Verdict, Option<Doubt>) {
    let count = match seen {
        Seen::Failure => return (Verdict::Keep, doubt),
        Seen::None if rules.takes_empty => 0,
        Seen::None => return (Verdict::HoldEmpty, None),
        Seen::Some(count) | Seen::Partly(count) => count,
    };
    if !have.is_some_and(|have| shrinks_too_much(have, count, rules.max_shrink)) {
        return (Verdict::Take, None);
    }
    let doubt = match doubt {
        Some(_) if matches!(seen, Seen::Partly(_)) => return (Verdict::Keep, doubt),
        None => Doubt { sightings: 1, counted: now },
        Some(doubt) if now.saturating_sub(doubt.counted) < APART => doubt,
        Some(doubt) => Doubt { sightings: doubt.sightings.saturating_add(1), counted: now },
    };
    if doubt.sightings >= rules.confirm {
        return (Verdict::Take, None);
    }
    (Verdict::HoldShrunk(doubt.sightings), Some(doubt))
}

fn shrinks_too_much(have: usize, count: usize, max_shrink: u8) -> bool {
    let gone = have.saturating_sub(count);
    have >= FEW && gone.saturating_mul(100) > have.saturating_mul(usize::from(max_shrink))
}

/// How long to wait after an answer that is good for this long.
pub fn pause(rules: &Rules, good_for: Duration, random: u64) -> Duration {
    let good_for = good_for.min(rules.ceiling).max(rules.floor);
    good_for + part(good_for / 10, random)
}

/// How long to wait after so many failures in a row.
pub fn backoff(rules: &Rules, failures: u32, random: u64) -> Duration {
    let doubled = Duration::from_secs(1).saturating_mul(1 << failures.saturating_sub(1).min(5)).min(BACKOFF);
    (doubled / 2 + part(doubled / 2, random)).max(rules.floor)
}

/// A part of a duration: `random` of all there are.
fn part(whole: Duration, random: u64) -> Duration {
    let ns = (u128::from(random) * whole.as_nanos()) >> 64;
    Duration::from_nanos(u64::try_from(ns).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RULES: Rules = Rules {
        floor: Duration::from_secs(1),
        ceiling: Duration::from_mins(5),
        max_shrink: 50,
        confirm: 3,
        takes_empty: false,
    };

    /// What becomes of each of these, in a row, given that what is taken is the set from then on.
    fn become_of(rules: &Rules, mut have: Option<usize>, all: &[(u64, Seen)]) -> Vec<Verdict> {
        let mut doubt = None;
        let one = |(at, seen): &(u64, Seen)| {
            let (verdict, left) = judge(rules, have, *seen, doubt, Duration::from_secs(*at));
            doubt = left;
            if verdict == Verdict::Take {
                have = Some(if let Seen::Some(count) = seen { *count } else { 0 });
            }
            verdict
        };
        all.iter().map(one).collect()
    }

    #[test]
    fn what_is_large_enough_ends_a_doubt_also_if_some_of_it_was_only_held() {
        let (verdict, doubt) = judge(&RULES, Some(4), Seen::Some(1), None, Duration::ZERO);
        assert_eq!(verdict, Verdict::HoldShrunk(1));
        let later = Duration::from_mins(1);
        let (verdict, doubt) = judge(&RULES, Some(4), Seen::Partly(1), doubt, later);
        assert_eq!(verdict, Verdict::Keep, "it confirms nothing");
        assert_eq!(judge(&RULES, Some(4), Seen::Partly(4), doubt, later * 2), (Verdict::Take, None));
    }

    #[test]
    fn r1_3_a_failure_changes_nothing_and_neither_does_nothing() {
        let said = [(0, Seen::Some(4)), (1, Seen::Failure), (2, Seen::None), (3, Seen::Some(4))];
        assert_eq!(
            become_of(&RULES, None, &said),
            [Verdict::Take, Verdict::Keep, Verdict::HoldEmpty, Verdict::Take]
        );
        let believes = Rules { takes_empty: true, max_shrink: 100, ..RULES };
        assert_eq!(become_of(&believes, Some(4), &[(0, Seen::None)]), [Verdict::Take]);
    }

    #[test]
    fn a_set_that_shrinks_too_much_is_taken_when_it_was_seen_three_times() {
        let said = [(0, Seen::Some(4)), (5, Seen::Some(4)), (10, Seen::Some(4)), (11, Seen::Some(4))];
        let [one, two] = [Verdict::HoldShrunk(1), Verdict::HoldShrunk(2)];
        assert_eq!(become_of(&RULES, Some(10), &said), [one, two, Verdict::Take, Verdict::Take]);
        // Asked again too soon, it is the same sighting; a failure says nothing; who is back ends it.
        let said = [
            (0, Seen::Some(4)),
            (1, Seen::Some(4)),
            (6, Seen::Failure),
            (7, Seen::Some(3)),
            (8, Seen::Some(10)),
            (20, Seen::Some(4)),
        ];
        let expected = [one, one, Verdict::Keep, two, Verdict::Take, one];
        assert_eq!(become_of(&RULES, Some(10), &said), expected);
        // An emptiness that is believed is a shrinking, too.
        let believes = Rules { takes_empty: true, ..RULES };
        assert_eq!(become_of(&believes, Some(10), &[(0, Seen::None)]), [one]);
    }

    #[test]
    fn half_may_go_and_of_two_one_and_the_first_set_is_taken_as_it_is() {
        for (have, count, verdict) in [
            (Some(4), 2, Verdict::Take),
            (Some(5), 2, Verdict::HoldShrunk(1)),
            (Some(3), 1, Verdict::HoldShrunk(1)),
            (Some(2), 1, Verdict::Take),
            (Some(3), 9, Verdict::Take),
            (None, 1, Verdict::Take),
        ] {
            assert_eq!(become_of(&RULES, have, &[(0, Seen::Some(count))]), [verdict], "{have:?} {count}");
        }
        let freely = Rules { max_shrink: 100, ..RULES };
        assert_eq!(become_of(&freely, Some(1000), &[(0, Seen::Some(1))]), [Verdict::Take]);
    }

    proptest! {
        #[test]
        fn pauses_have_a_floor_a_ceiling_and_a_tenth_of_chance(ttl_s in 0_u64..1_000_000, random: u64) {
            let pause = pause(&RULES, Duration::from_secs(ttl_s), random);
            let due = Duration::from_secs(ttl_s.clamp(1, 300));
            prop_assert!(pause >= due && pause <= due + due / 10, "{pause:?}");
        }

        #[test]
        fn failures_back_off_up_to_a_bound(failures: u32, random: u64) {
            let pause = backoff(&RULES, failures, random);
            prop_assert!(pause >= RULES.floor && pause <= BACKOFF, "{pause:?}");
            prop_assert!(failures < 6 || pause >= BACKOFF / 2);
        }
    }
}
