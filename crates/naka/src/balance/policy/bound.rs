//! Consistent hashing with bounded loads (Mirrokni, Thorup and Zadimoghaddam, 2018): no endpoint has more than
//! so many percent of its fair share of what is under way; who is full is passed over in the policy's order.

/// How many requests may be under way at an endpoint of `weight`, of `weights` together, the one that comes
/// included; `in_flight` are under way at all of them. At least 100 %, rounded up, so there always is one
/// with room.
pub fn limit(percent: u32, in_flight: u64, weight: u32, weights: u64) -> u64 {
    let share = u128::from(percent.max(100)) * (u128::from(in_flight) + 1) * u128::from(weight);
    u64::try_from(share.div_ceil(100 * u128::from(weights.max(1)))).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_quarter_more_than_the_fair_share() {
        assert_eq!(limit(125, 99, 1, 4), 32, "100 over 4 are 25, and 31.25 is rounded up");
        assert_eq!(limit(0, 0, 1, 10), 1);
    }

    proptest! {
        #[test]
        fn r9_4_within_the_bound_there_is_always_room(
            all in prop::collection::vec((1_u32..50, 0_u64..100), 1..20),
            percent in 100_u32..300,
        ) {
            let (weights, total) = (all.iter().map(|it| u64::from(it.0)).sum(), all.iter().map(|it| it.1).sum());
            prop_assert!(all.iter().any(|(weight, has)| *has < limit(percent, total, *weight, weights)));
        }
    }
}
