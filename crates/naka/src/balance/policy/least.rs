//! Least request, plain and weighted, and all that is the least of something: every candidate is looked at,
//! and ties are random.

use std::cmp::Ordering;

use super::{
    random::Draws,
    slow_start::{WHOLE, of_all},
};

/// What is seen of an open place.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    /// What a request there would cost, times its weight.
    pub cost: u64,
    /// Its weight, at least 1.
    pub weight: u32,
    /// The part of its share that it has, in units of 1 / [`WHOLE`].
    pub share: u32,
}

/// Of `count` places the open one whose cost over its weight is the least; `look` sees nothing of one that is not
/// open.
///
/// Ties are drawn by weight: the first of equals would get all requests of an upstream with nothing to do. O(n);
/// it compares products and divides nothing.
///
/// A newcomer, which has a part of its share only, is drawn by that part where it ties, and where it is better
/// than all others (it has nothing to do) it gets the request as seldom as its share of all requests says.
pub fn pick(random: u64, count: usize, look: impl Fn(usize) -> Option<Look>) -> Option<usize> {
    let mut draws = Draws::new(random);
    let (mut best, mut tied, mut are_new): (Option<(usize, Look)>, u64, bool) = (None, 0, false);
    for place in 0..count {
        let Some(seen) = look(place) else { continue };
        if seen.share < WHOLE {
            are_new = true;
            continue;
        }
        match best.map_or(Ordering::Less, |(_, best)| seen.compare(best)) {
            Ordering::Less => (best, tied) = (Some((place, seen)), u64::from(seen.weight)),
            Ordering::Equal => {
                tied += u64::from(seen.weight);
                if draws.below(tied) < u64::from(seen.weight) {
                    best = Some((place, seen));
                }
            }
            Ordering::Greater => {}
        }
    }
    let best = best?;
    Some(if are_new { with_newcomers(&mut draws, count, look, best, tied) } else { best.0 })
}

/// So many are looked at before any are compared.
const TOGETHER: usize = 64;

/// As [`pick`] among places that have all of their share. The cost of each is over its weight already, in any unit
/// ([`scales`] make one), so that two are compared as they are; [`u64::MAX`] is one that is not open.
///
/// First the costs are written down, and then compared, without a branch that nobody can foresee; ties are drawn once
/// for so many places, and then looked for among what was written down.
pub fn pick_scaled<T>(
    random: u64,
    all: &[T],
    mut cost: impl FnMut(usize, &T) -> u64,
    weight: impl Fn(&T) -> u32,
) -> Option<usize> {
    let mut draws = Draws::new(random);
    let (mut best, mut place, mut tied) = (u64::MAX, None, 0);
    let mut costs = [u64::MAX; TOGETHER];
    for (number, some) in all.chunks(TOGETHER).enumerate() {
        let from = number * TOGETHER;
        let mut least = u64::MAX;
        for (offset, (it, to)) in some.iter().zip(&mut costs).enumerate() {
            *to = cost(from + offset, it);
            least = least.min(*to);
        }
        if least == u64::MAX || least > best {
            continue;
        }
        let parts =
            some.iter().zip(&costs).map(|(it, cost)| if *cost == least { weight(it).into() } else { 0 });
        let part = parts.clone().sum::<u64>();
        tied = if least < best { part } else { tied + part };
        best = least;
        // Of all that tie so far, the draw says one of these or one of those before.
        let mut left = draws.below(tied);
        if left >= part {
            continue;
        }
        for (offset, part) in parts.enumerate() {
            if left < part {
                place = Some(from + offset);
                break;
            }
            left -= part;
        }
    }
    place
}

/// What costs are multiplied by in place of dividing them by these weights: as small as can be, and none if that is not
/// small enough.
pub fn scales(weights: &[u32]) -> Option<Box<[u32]>> {
    const MOST: u64 = 1 << 16;
    let mut all = 1;
    for weight in weights.iter().copied().map(u64::from) {
        let (mut divisor, mut rest) = (all, weight.max(1));
        while rest > 0 {
            (divisor, rest) = (rest, divisor % rest);
        }
        all = all / divisor * weight.max(1);
        if all > MOST {
            return None;
        }
    }
    Some(weights.iter().map(|weight| u32::try_from(all).unwrap_or(1) / weight.max(&1)).collect())
}

fn with_newcomers(
    draws: &mut Draws,
    count: usize,
    look: impl Fn(usize) -> Option<Look>,
    (mut place, mut best): (usize, Look),
    tied: u64,
) -> usize {
    let weights = (0..count).filter_map(&look).map(|seen| u64::from(seen.weight)).sum();
    let mut tied = tied * u64::from(WHOLE);
    for newcomer in 0..count {
        let Some(seen) = look(newcomer).filter(|seen| seen.share < WHOLE) else { continue };
        let part = u64::from(seen.weight) * u64::from(seen.share);
        let of_all = u64::from(of_all(seen.share, seen.weight, weights));
        match seen.compare(best) {
            Ordering::Less if draws.below(WHOLE.into()) < of_all => {
                (place, best, tied) = (newcomer, seen, part);
            }
            Ordering::Equal => {
                tied += part;
                if draws.below(tied) < part {
                    (place, best) = (newcomer, seen);
                }
            }
            Ordering::Less | Ordering::Greater => {}
        }
    }
    place
}

impl Look {
    fn compare(self, other: Self) -> Ordering {
        compare(self.cost, self.weight, other.cost, other.weight)
    }
}

/// Which of two has the lower cost over its weight.
pub(super) fn compare(cost: u64, weight: u32, other_cost: u64, other_weight: u32) -> Ordering {
    if weight == other_weight {
        return cost.cmp(&other_cost);
    }
    (u128::from(cost) * u128::from(other_weight)).cmp(&(u128::from(other_cost) * u128::from(weight)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{
        super::{Candidates as _, scripted::Scripted},
        *,
    };

    fn least(random: u64, candidates: &Scripted, cost: impl Fn(usize) -> u64) -> Option<usize> {
        let look = |place| Look { cost: cost(place), weight: candidates.weight(place), share: WHOLE };
        pick(random, candidates.count(), |place| candidates.is_open(place).then(|| look(place)))
    }

    /// The original sent all ties to the first server: 100 of 100.
    #[test]
    fn r9_6_ties_are_random() {
        let (candidates, mut counts) = (Scripted::open(&[1; 5]).without(1), [0; 5]);
        (0..40_000).for_each(|turn| counts[least(turn, &candidates, |_| 3).unwrap()] += 1);
        assert!(counts.iter().enumerate().all(|(place, it)| (9_400..10_600).contains(it) != (place == 1)));
    }

    #[test]
    fn r9_6_ties_are_random_at_a_glance_too() {
        let mut counts = [0_u32; 5];
        for turn in 0..40_000 {
            let cost = |place, _: &u32| if place == 1 { u64::MAX } else { 3 };
            counts[pick_scaled(turn, &[1, 1, 1, 1, 2], cost, |weight| *weight).unwrap()] += 1;
        }
        assert!(
            [8000, 0, 8000, 8000, 16_000].iter().zip(counts).all(|(it, count)| count.abs_diff(*it) < 500)
        );
        assert_eq!(pick_scaled(1, &[1; 5], |_, _| u64::MAX, |_| 1), None);
        assert_eq!(pick_scaled(1, &[1; 0], |_, _| 0, |_| 1), None);
        let (all, mut counts) = ([1; 150], [0_u32; 3]);
        (0..30_000).for_each(|turn| counts[pick_scaled(turn, &all, |_, _| 0, |_| 1).unwrap() / 50] += 1);
        assert!(counts.iter().all(|count| (9_500..10_500).contains(count)), "{counts:?}");
    }

    proptest! {
        #[test]
        fn at_a_glance_the_same_ones_are_the_least(
            all in prop::collection::vec((0_u64..9, prop::sample::select(vec![1_u32, 2, 3, 4, 6, 12]), any::<bool>()), 1..150),
            random in any::<u64>(),
        ) {
            let weights = all.iter().map(|it| it.1).collect::<Vec<_>>();
            let scales = scales(&weights).unwrap();
            let candidates = Scripted(all.iter().map(|(_, weight, is_open)| (*weight, *is_open)).collect());
            let slowly = least(random, &candidates, |place| all[place].0);
            let scaled = |place: usize, _: &u32| {
                let (cost, _, is_open) = all[place];
                if is_open { cost * u64::from(scales[place]) } else { u64::MAX }
            };
            let quickly = pick_scaled(random, &weights, scaled, |weight| *weight);
            prop_assert_eq!(slowly.is_some(), quickly.is_some());
            if let (Some(slowly), Some(quickly)) = (slowly, quickly) {
                let ((one, weight, _), (other, other_weight, _)) = (all[slowly], all[quickly]);
                prop_assert_eq!(compare(one, weight, other, other_weight), Ordering::Equal);
                prop_assert!(all[quickly].2);
            }
        }
    }

    #[test]
    fn weights_without_a_small_multiple_have_no_scales() {
        assert_eq!(scales(&[1, 2, 3, 4]).as_deref(), Some(&[12, 6, 4, 3][..]));
        assert_eq!(scales(&[100; 7]).as_deref(), Some(&[1; 7][..]));
        assert_eq!(scales(&[65_535, 65_534]), None);
        assert_eq!(scales(&[]).as_deref(), Some(&[][..]));
    }

    #[test]
    fn the_least_over_its_weight_is_chosen() {
        let candidates = Scripted::open(&[1, 2, 4]);
        assert_eq!(least(1, &candidates, |place| [3, 5, 13][place]), Some(1), "3, 2.5 and 3.25");
        assert_eq!(least(1, &candidates.without(1), |place| [3, 5, 13][place]), Some(0));
    }
}
