//! Least request, plain and weighted, and all that is the least of something: every candidate is looked at,
//! and ties are random.

use std::cmp::Ordering;

use super::{
    Candidates,
    random::Draws,
    slow_start::{WHOLE, of_all},
};

/// The open place whose cost over its weight is the least.
///
/// Ties are drawn by weight: the first of equals would get all requests of an upstream with nothing to do. O(n);
/// it compares products and divides nothing.
///
/// A newcomer, which has a part of its share only, is drawn by that part where it ties, and where it is better
/// than all others (it has nothing to do) it gets the request as seldom as its share of all requests says.
pub fn pick(random: u64, candidates: &impl Candidates, cost: impl Fn(usize) -> u64) -> Option<usize> {
    let (mut draws, mut weights, mut are_new) = (Draws::new(random), 0, false);
    let (mut best, mut tied): (Option<Scored>, u64) = (None, 0);
    for place in 0..candidates.count() {
        if !candidates.is_open(place) {
            continue;
        }
        let (weight, share) = (candidates.weight(place), candidates.share(place));
        weights += u64::from(weight);
        if share < WHOLE {
            are_new = true;
            continue;
        }
        let scored = Scored { place, cost: cost(place), weight };
        match best.as_ref().map_or(Ordering::Less, |best| scored.compare(best)) {
            Ordering::Less => (best, tied) = (Some(scored), u64::from(weight)),
            Ordering::Equal => {
                tied += u64::from(weight);
                if draws.below(tied) < u64::from(weight) {
                    best = Some(scored);
                }
            }
            Ordering::Greater => {}
        }
    }
    let mut best = best?;
    if are_new {
        let mut tied = tied * u64::from(WHOLE);
        for place in (0..candidates.count()).filter(|place| candidates.is_open(*place)) {
            let (weight, share) = (candidates.weight(place), candidates.share(place));
            if share >= WHOLE {
                continue;
            }
            let scored = Scored { place, cost: cost(place), weight };
            let part = u64::from(weight) * u64::from(share);
            match scored.compare(&best) {
                Ordering::Less if draws.below(WHOLE.into()) < u64::from(of_all(share, weight, weights)) => {
                    (best, tied) = (scored, part);
                }
                Ordering::Equal => {
                    tied += part;
                    if draws.below(tied) < part {
                        best = scored;
                    }
                }
                Ordering::Less | Ordering::Greater => {}
            }
        }
    }
    Some(best.place)
}

struct Scored {
    place: usize,
    cost: u64,
    weight: u32,
}

impl Scored {
    fn compare(&self, other: &Self) -> Ordering {
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
    use super::{super::scripted::Scripted, *};

    /// The original sent all ties to the first server: 100 of 100.
    #[test]
    fn r9_6_ties_are_random() {
        let (candidates, mut counts) = (Scripted::open(&[1; 5]).without(1), [0; 5]);
        (0..40_000).for_each(|turn| counts[pick(turn, &candidates, |_| 3).unwrap()] += 1);
        assert!(counts.iter().enumerate().all(|(place, it)| (9_400..10_600).contains(it) != (place == 1)));
    }

    #[test]
    fn the_least_over_its_weight_is_chosen() {
        let candidates = Scripted::open(&[1, 2, 4]);
        assert_eq!(pick(1, &candidates, |place| [3, 5, 13][place]), Some(1), "3, 2.5 and 3.25");
        assert_eq!(pick(1, &candidates.without(1), |place| [3, 5, 13][place]), Some(0));
    }
}
