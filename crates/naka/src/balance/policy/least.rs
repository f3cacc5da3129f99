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
    fn the_least_over_its_weight_is_chosen() {
        let candidates = Scripted::open(&[1, 2, 4]);
        assert_eq!(least(1, &candidates, |place| [3, 5, 13][place]), Some(1), "3, 2.5 and 3.25");
        assert_eq!(least(1, &candidates.without(1), |place| [3, 5, 13][place]), Some(0));
    }
}
