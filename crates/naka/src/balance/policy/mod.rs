//! The algorithms alone. Each is a pure function: what it may choose from, a turn, random numbers and the
//! hash of a key are arguments; it knows no clock, no lock and no request.
//!
//! A *place* is the index of an endpoint in its set. None of these ever gives a place that is not
//! [open](Candidates::is_open), and each gives one as long as any is.

pub mod bound;
pub mod ejection;
pub mod ewma;
pub mod hash;
pub mod ip_hash;
pub mod latency;
pub mod least;
pub mod maglev;
pub mod p2c;
pub mod random;
pub mod regions;
pub mod rendezvous;
pub mod resource;
pub mod ring;
pub mod round_robin;
pub mod slow_start;
pub mod smooth;

/// What a picker may choose from.
pub trait Candidates {
    /// How many places there are.
    fn count(&self) -> usize;

    /// Whether this one may be chosen.
    fn is_open(&self, place: usize) -> bool;

    /// Its weight, at least 1.
    fn weight(&self, place: usize) -> u32;
}

/// All but one.
#[derive(Debug)]
pub(crate) struct Except<'a, C> {
    pub(crate) candidates: &'a C,
    pub(crate) place: usize,
}

impl<C: Candidates> Candidates for Except<'_, C> {
    fn count(&self) -> usize {
        self.candidates.count()
    }

    fn is_open(&self, place: usize) -> bool {
        place != self.place && self.candidates.is_open(place)
    }

    fn weight(&self, place: usize) -> u32 {
        self.candidates.weight(place)
    }
}

/// A place as it is kept in tables: there are never 2³² endpoints.
pub(crate) fn short(place: usize) -> u32 {
    u32::try_from(place).unwrap_or(u32::MAX)
}

/// A number that is below the length of a slice.
pub(crate) fn index(number: impl TryInto<usize>) -> usize {
    number.try_into().unwrap_or(usize::MAX)
}

/// `turn` modulo `count`, which is not 0.
pub(crate) fn slot(turn: u64, count: usize) -> usize {
    index(turn % u64::try_from(count).unwrap_or(u64::MAX))
}

#[cfg(test)]
pub(crate) mod scripted {
    use super::Candidates;

    /// What a test may choose from: each place's weight, and whether it is open.
    #[derive(Clone, Debug)]
    pub(crate) struct Scripted(pub(crate) Vec<(u32, bool)>);

    impl Scripted {
        pub(crate) fn open(weights: &[u32]) -> Self {
            Self(weights.iter().map(|weight| (*weight, true)).collect())
        }

        pub(crate) fn without(mut self, place: usize) -> Self {
            self.0[place].1 = false;
            self
        }

        pub(crate) fn weights(&self) -> Vec<u32> {
            self.0.iter().map(|(weight, _)| *weight).collect()
        }
    }

    impl Candidates for Scripted {
        fn count(&self) -> usize {
            self.0.len()
        }

        fn is_open(&self, place: usize) -> bool {
            self.0[place].1
        }

        fn weight(&self, place: usize) -> u32 {
            self.0[place].0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{hash::mix, scripted::Scripted, *};
    use proptest::prelude::*;

    proptest! {
        /// The law of all policies: never one that is not open, and always one while any is.
        #[test]
        fn r9_3_no_policy_picks_what_is_closed_and_each_picks_while_any_is_open(
            all in prop::collection::vec((1_u32..40, any::<bool>()), 1..24),
            turn in any::<u64>(),
            key in any::<u64>(),
        ) {
            let candidates = Scripted(all.clone());
            let weights = candidates.weights();
            let identities = (0_u64..).map(mix).take(all.len()).collect::<Vec<_>>();
            let members = identities.iter().copied().zip(weights.iter().copied()).collect::<Vec<_>>();
            let (sums, cost) = (random::Sums::new(&weights), |place: usize| mix(key ^ identities[place]) % 7);
            let look = |place: usize| {
                let weight = candidates.weight(place);
                let look = least::Look { cost: cost(place), weight, share: slow_start::WHOLE };
                candidates.is_open(place).then_some(look)
            };
            let picks = [
                ("round_robin", round_robin::pick(turn, &candidates).map(|it| it.0)),
                ("smooth", smooth::Cycle::new(&weights).pick(turn, &candidates).map(|it| it.0)),
                ("least", least::pick(key, all.len(), look)),
                ("p2c", p2c::pick(&sums, &mut random::Draws::new(key), &candidates, cost)),
                ("random", random::pick(&sums, &mut random::Draws::new(key), &candidates)),
                ("ring", ring::Ring::new(&members, 20).pick(key, &candidates)),
                ("maglev", maglev::Maglev::new(&members, 251).pick(key, &candidates)),
                ("rendezvous", rendezvous::Rendezvous::new(&members).pick(key, &candidates)),
            ];
            for (name, pick) in picks {
                let is_right = pick.map_or_else(|| all.iter().all(|it| !it.1), |place| all[place].1);
                prop_assert!(is_right, "{name}: {pick:?}");
            }
        }
    }
}
