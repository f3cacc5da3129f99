//! Ring hash (Karger et al., "Consistent Hashing and Random Trees", 1997; with points by weight, as in ketama):
//! each endpoint has points on a circle of 64-bit numbers, and a key belongs to the first point at or behind
//! it. An endpoint that goes takes only its own keys with it, and brings them back when it returns.

use super::{Candidates, hash::mix, index, short};

/// The most points of one ring, of 16 bytes each. If weights ask for more, all are scaled down; a weight that
/// changes then moves keys of others, too.
pub const MAX_POINTS: u64 = 1 << 18;

/// Points and whose they are, in the order of the circle.
#[derive(Clone, Debug)]
pub struct Ring(Box<[(u64, u32)]>);

impl Ring {
    /// A ring of endpoints, each with a hash of what it is and its weight: `points` for each unit of weight. It
    /// does not depend on their order.
    pub fn new(members: &[(u64, u32)], points: u32) -> Self {
        let asked = |weight: u32| u64::from(points.max(1)) * u64::from(weight.max(1));
        let total = members.iter().map(|(_, weight)| asked(*weight)).sum::<u64>();
        let points = |weight| match total {
            ..=MAX_POINTS => asked(weight),
            _ => (u128::from(asked(weight)) * u128::from(MAX_POINTS) / u128::from(total))
                .try_into()
                .unwrap_or(1),
        };
        let mut ring = Vec::new();
        for (place, (identity, weight)) in members.iter().enumerate() {
            let point = |number: u64| (mix(identity.wrapping_add(mix(number))), short(place));
            ring.extend((0..points(*weight).max(1)).map(point));
        }
        // Two points in one spot: the one of the lesser identity comes first, in whatever order they were given.
        ring.sort_unstable_by_key(|(point, place)| (*point, members[index(*place)].0));
        Self(ring.into())
    }

    /// The place of the first point at or behind `key` whose place is open: O(log n), and from there on the
    /// way round. At the end of the circle it goes on at its beginning, as far as it has to.
    pub fn pick(&self, key: u64, candidates: &impl Candidates) -> Option<usize> {
        let (before, behind) = self.0.split_at(self.0.partition_point(|(point, _)| *point < key));
        let mut closed = None;
        for (_, place) in behind.iter().chain(before) {
            // Neighbours are often of one place: it is asked once.
            if closed == Some(*place) {
                continue;
            }
            if candidates.is_open(index(*place)) {
                return Some(index(*place));
            }
            closed = Some(*place);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::{super::scripted::Scripted, *};

    /// The original tried one point behind the end of the ring, and refused the keys there if that was down.
    #[test]
    fn r9_4_at_the_end_of_the_ring_it_goes_on_at_the_beginning() {
        let members = [(mix(1), 1), (mix(2), 1), (mix(3), 1)];
        let ring = Ring::new(&members, 100);
        let first = index(ring.0[0].1);
        let candidates = Scripted::open(&[1; 3]).without(first);
        assert!(ring.pick(u64::MAX, &candidates).is_some_and(|place| place != first));
        assert_eq!(ring.pick(u64::MAX, &Scripted::open(&[1; 3])), Some(first));
    }

    #[test]
    fn points_are_bounded_and_shares_follow_weights() {
        let members = [(mix(1), 40_000), (mix(2), 20_000), (mix(3), 1)];
        let ring = Ring::new(&members, 100);
        assert!(ring.0.len() as u64 <= MAX_POINTS + 3);
        let of = |place| ring.0.iter().filter(|it| it.1 == place).count();
        assert!(of(0).abs_diff(2 * of(1)) < 3 && of(2) > 0);
    }

    #[test]
    fn the_order_of_the_members_does_not_matter() {
        let members = (1..=9).map(|number| (mix(number), 1)).collect::<Vec<_>>();
        let reversed = members.iter().rev().copied().collect::<Vec<_>>();
        let (ring, other) = (Ring::new(&members, 50), Ring::new(&reversed, 50));
        let candidates = Scripted::open(&[1; 9]);
        for key in (0..1000).map(mix) {
            assert_eq!(ring.pick(key, &candidates), other.pick(key, &candidates).map(|place| 8 - place));
        }
    }
}
