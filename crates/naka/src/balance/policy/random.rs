//! Random, by weight; and the random numbers of all policies.

use super::{Candidates, hash::mix};
use crate::random::GAMMA;

/// The same numbers as `random::Numbers`, for one who draws alone. So a draw can be looked at
/// before it is made.
#[derive(Clone, Debug)]
pub struct Draws(u64);

impl Draws {
    /// Those of this seed.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next.
    pub const fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GAMMA);
        mix(self.0)
    }

    /// The next, below `bound`, by multiplication and not by remainder (Lemire, 2019); its bias is below
    /// `bound` / 2⁶⁴.
    pub fn below(&mut self, bound: u64) -> u64 {
        let wide = u128::from(self.draw()) * u128::from(bound);
        u64::try_from(wide >> 64).unwrap_or(0)
    }
}

/// The weights up to and with each place.
#[derive(Clone, Debug)]
pub struct Sums(Box<[u64]>);

impl Sums {
    /// Of these weights; 0 counts as 1.
    pub fn new(weights: &[u32]) -> Self {
        let sums = weights.iter().scan(0, |sum, weight| {
            *sum += u64::from((*weight).max(1));
            Some(*sum)
        });
        Self(sums.collect())
    }

    /// The weight of all.
    pub fn total(&self) -> u64 {
        self.0.last().copied().unwrap_or(0)
    }

    fn draw(&self, draws: &mut Draws) -> usize {
        let at = draws.below(self.total());
        self.0.partition_point(|sum| *sum <= at)
    }
}

/// How often it is drawn from all before those that are open are looked for.
const QUICK: u32 = 8;

/// An open place, each with a probability by its weight.
///
/// It is drawn from all, O(log n), and again if it was a closed one. If most are closed, the weights of those
/// that are open are summed and one is drawn from them, O(n). Both have the same distribution: nobody inherits
/// the share of a closed neighbour.
pub fn pick(sums: &Sums, draws: &mut Draws, candidates: &impl Candidates) -> Option<usize> {
    if candidates.count() == 0 {
        return None;
    }
    let drawn = (0..QUICK).map(|_| sums.draw(draws)).find(|place| candidates.is_open(*place));
    drawn.or_else(|| {
        let open = || (0..candidates.count()).filter(|place| candidates.is_open(*place));
        let total = open().map(|place| u64::from(candidates.weight(place))).sum();
        let mut left = draws.below(total);
        // What is open may change while it is looked at: then the last one seen is as good as any.
        let mut last = None;
        for place in open() {
            let weight = u64::from(candidates.weight(place));
            if left < weight {
                return Some(place);
            }
            (left, last) = (left - weight, Some(place));
        }
        last
    })
}

#[cfg(test)]
mod tests {
    use super::{super::scripted::Scripted, *};

    #[test]
    fn shares_follow_weights_also_when_most_are_closed() {
        let mut most_closed = Scripted(vec![(5, false); 100]);
        (most_closed.0[7], most_closed.0[8]) = ((1, true), (3, true));
        for candidates in [Scripted::open(&[1, 3]), most_closed] {
            let (sums, mut draws) = (Sums::new(&candidates.weights()), Draws::new(1));
            let mut counts = vec![0; candidates.count()];
            (0..40_000).for_each(|_| counts[pick(&sums, &mut draws, &candidates).unwrap()] += 1);
            counts.retain(|count| *count > 0);
            assert!((9_500..10_500).contains(&counts[0]), "{counts:?}");
            assert_eq!(counts.iter().sum::<i32>(), 40_000);
        }
    }
}
