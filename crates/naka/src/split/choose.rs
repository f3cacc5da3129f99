//! Which arm a request goes to: weights and a key or a turn in, the place of an arm out.
//!
//! **By key**: weighted rendezvous (Thaler and Ravishankar, 1998; the weights by logarithms as in Resch, "New Hashing
//! Algorithms for Data Storage", 2015). Key and arm are hashed together to u in (0, 1), and the lowest of −log₂(u) / weight
//! wins. As nothing but its own weight goes into what an arm has to show for a key, a key goes from one arm to another
//! only if the weight of the other has grown in proportion to that of the one. The comparison is exact, in whole numbers,
//! so it is the same on each machine.
//!
//! **By turn**: the heaviest arm has the turns at which its share of all turns, rounded, grows by one (the line of
//! Bresenham, 1965); those that are left are counted anew, and the next heaviest has its share of them, and so on. After
//! as many turns as the sum of the weights each arm has had exactly its own. At any time two arms are off by half a
//! request at most, and 32 by less than three.

use crate::random::mix;

/// Units of a logarithm in 1.
const ONE: u32 = 56;

/// The arm for a key, of these hashes of names and weights. 0 is never chosen.
pub(super) fn by_key(key: u64, arms: impl Iterator<Item = (u64, u32)>) -> Option<usize> {
    let key = mix(key);
    let with_weight = arms.enumerate().filter(|(_, (_, weight))| *weight > 0);
    let costs = with_weight.map(|(place, (identity, weight))| {
        (place, identity, u128::from(minus_log2(mix(key.wrapping_add(identity)))), u128::from(weight))
    });
    let best = costs.min_by(|(_, one, one_cost, one_weight), (_, other, other_cost, other_weight)| {
        // Costs have 63 bits and weights 20. One that ties goes by its name, not by where it was written.
        let order = (one_cost * other_weight).cmp(&(other_cost * one_weight));
        order.then_with(|| one.cmp(other))
    });
    best.map(|(place, ..)| place)
}

/// The arm of a turn; `order` has the places of all, the heaviest first.
pub(super) fn by_turn(turn: u64, order: &[usize], weight: impl Fn(usize) -> u32) -> Option<usize> {
    let weight = |place: usize| u64::from(weight(place));
    let mut rest = order.iter().map(|place| weight(*place)).sum::<u64>();
    if rest == 0 {
        return None;
    }
    let mut turn = turn % rest; // It is the same from then on, and nothing can overflow.
    for place in order {
        let weight = weight(*place);
        let share = |turns: u64| (2 * turns * weight + rest) / (2 * rest);
        let (before, with) = (share(turn), share(turn + 1));
        if with > before {
            return Some(*place);
        }
        turn -= before;
        rest -= weight;
    }
    None
}

/// −log₂(number / 2⁶⁴) in units of 2⁻⁵⁶, to 2⁻⁴² or better; at least 1, so that a weight always matters.
fn minus_log2(number: u64) -> u64 {
    let zeros = number.leading_zeros();
    let mantissa = number.checked_shl(zeros).unwrap_or(0) | 1 << 63; // From 1 to 2, in units of 2⁻⁶³.
    let step = mantissa >> 55 & 0xff;
    // mantissa = (1 + step / 256) · (1 + t), with t below 2⁻⁸: ln(1 + t) = t − t²/2 + t³/3 − t⁴/4.
    let t = ((mantissa & ((1 << 55) - 1)) << 1) / (256 + step);
    let square = product(t, t);
    let ln = t - square / 2 + product(square, t) / 3 - product(square, square) / 4;
    let log2 = LOGS[usize::try_from(step).unwrap_or_default()] + ln + product(ln, 31_899_539_538_980_833);
    (u64::from(zeros + 1) << ONE).saturating_sub(log2).max(1)
}

fn product(a: u64, b: u64) -> u64 {
    u64::try_from((u128::from(a) * u128::from(b)) >> ONE).unwrap_or(u64::MAX)
}

/// log₂(1 + step / 256), in units of 2⁻⁵⁶.
static LOGS: [u64; 256] = {
    let (mut logs, mut step) = ([0; 256], 0);
    while step < 256 {
        logs[step] = log2(256 + step as u64);
        step += 1;
    }
    logs
};

/// log₂(number / 256) of a number from 256 to 511, digit by digit: a square has twice the logarithm.
const fn log2(number: u64) -> u64 {
    let (mut mantissa, mut log, mut digits) = ((number as u128) << 55, 0, 0);
    while digits < ONE {
        let square = (mantissa * mantissa) >> 63;
        let digit = square >> 64; // Two, or more than that.
        log = log << 1 | (digit != 0) as u64;
        mantissa = square >> digit;
        digits += 1;
    }
    log
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    #[expect(clippy::cast_precision_loss, reason = "a test of the logarithm")]
    fn the_logarithm_is_the_logarithm() {
        let one = f64::from(1_u32 << 28) * f64::from(1_u32 << 28);
        for number in (0..5000).map(mix).chain([1, 2, 3, 1 << 63, (1 << 63) - 1, u64::MAX >> 8]) {
            let (exact, ours) = (64.0 - (number as f64).log2(), minus_log2(number) as f64 / one);
            assert!((exact - ours).abs() <= 1e-12 + 1e-14 * exact, "{number}: {exact} and {ours}");
        }
        // Near 2⁶⁴, where f64 has no digits left: −log₂(1 − 2⁻²⁰) = 2⁻²⁰ / ln 2 + …
        let ours = minus_log2(u64::MAX - (u64::MAX >> 20)) as f64 / one;
        let exact = -(-1.0 / f64::from(1_u32 << 20)).ln_1p() / std::f64::consts::LN_2;
        assert!((exact - ours).abs() <= 1e-12, "{exact} and {ours}");
        assert_eq!(minus_log2(0) >> ONE, 65, "as if it were a half");
        assert!((1..1 << 14).contains(&minus_log2(u64::MAX)));
    }

    fn identities(count: usize) -> impl Iterator<Item = u64> + Clone {
        (0..count).map(|number| mix(u64::try_from(number).unwrap() + 1))
    }

    fn arm_of(key: u64, weights: &[u32]) -> Option<usize> {
        by_key(key, identities(weights.len()).zip(weights.iter().copied()))
    }

    fn weights(max: usize) -> impl Strategy<Value = Vec<u32>> {
        let weight = prop_oneof![1 => Just(0), 4 => 1..100_u32, 2 => 1..=1_000_000_u32];
        let all = prop::collection::vec(weight, 1..=max);
        all.prop_filter("somebody has to have a weight", |all| all.iter().any(|weight| *weight > 0))
    }

    fn order(weights: &[u32]) -> Vec<usize> {
        let mut order = (0..weights.len()).collect::<Vec<_>>();
        order.sort_by_key(|place| std::cmp::Reverse(weights[*place]));
        order
    }

    proptest! {
        /// The law that makes it sticky: who grows takes, who shrinks gives, and nobody else moves.
        #[test]
        fn r7_2_when_one_weight_changes_keys_move_only_into_it_or_only_out_of_it(
            before in weights(8), place in any::<prop::sample::Index>(), weight in 0..=1_000_000_u32, seed in any::<u64>(),
        ) {
            let (place, mut after) = (place.index(before.len()), before.clone());
            after[place] = weight;
            prop_assume!(after.iter().any(|weight| *weight > 0));
            for key in 0..500 {
                let (from, to) = (arm_of(seed ^ key, &before), arm_of(seed ^ key, &after));
                if from != to {
                    let (mover, grows) = (Some(place), weight > before[place]);
                    prop_assert!(if grows { to == mover } else { from == mover }, "{from:?} to {to:?}");
                }
            }
        }

        #[test]
        fn r7_2_a_key_goes_only_to_an_arm_that_has_grown_more(
            (before, after) in (2..8_usize).prop_flat_map(|count| {
                let all = move || prop::collection::vec(1..1000_u64, count);
                (all(), all())
            }),
            seed in any::<u64>(),
        ) {
            let short = |all: &[u64]| all.iter().map(|it| u32::try_from(*it).unwrap()).collect::<Vec<_>>();
            for key in 0..500 {
                let [from, to] = [&before, &after].map(|it| arm_of(seed ^ key, &short(it)).unwrap());
                prop_assert!(after[to] * before[from] >= after[from] * before[to], "from {from} to {to}");
            }
        }

        #[test]
        fn by_turn_each_arm_has_exactly_its_weight_and_is_never_far_from_it(
            weights in prop::collection::vec(0..60_u32, 1..=32), start in any::<u32>(),
        ) {
            let total = weights.iter().map(|weight| i64::from(*weight)).sum::<i64>();
            prop_assume!(total > 0);
            let (order, mut counts) = (order(&weights), vec![0_i64; weights.len()]);
            let most = if weights.iter().filter(|weight| **weight > 0).count() <= 2 { total } else { 6 * total };
            for turn in 0..total {
                counts[by_turn(u64::try_from(turn).unwrap(), &order, |place| weights[place]).unwrap()] += 1;
                for (count, weight) in counts.iter().zip(&weights) {
                    let off = count * total - (turn + 1) * i64::from(*weight);
                    prop_assert!(2 * off.abs() <= most, "{off} of {total} at {turn}");
                }
            }
            let expected = weights.iter().map(|weight| i64::from(*weight)).collect::<Vec<_>>();
            prop_assert_eq!(counts, expected);
            let again = |turn: u64| by_turn(turn, &order, |place| weights[place]);
            let (start, total) = (u64::from(start), u64::try_from(total).unwrap());
            prop_assert_eq!(again(start), again(start + total));
        }

        #[test]
        fn nobody_without_a_weight_is_chosen(weights in weights(32), number in any::<u64>()) {
            let by_turn = by_turn(number, &order(&weights), |place| weights[place]);
            for place in [arm_of(number, &weights), by_turn] {
                prop_assert!(weights[place.unwrap()] > 0);
            }
        }
    }

    /// Within three sigma, small shares too: the seed of the keys is fixed, so it fails always or never.
    #[test]
    fn r7_2_shares_are_within_three_sigma() {
        for weights in
            [&[80, 20][..], &[95, 5], &[999, 1], &[1, 1, 1], &[50, 30, 15, 5], &[1_000_000, 10_000]]
        {
            let total = f64::from(weights.iter().sum::<u32>());
            for requests in [10_000_u32, 300_000] {
                let mut counts = vec![0_u32; weights.len()];
                (0..requests).for_each(|key| counts[arm_of(mix(key.into()), weights).unwrap()] += 1);
                for (count, weight) in counts.iter().zip(weights) {
                    let share = f64::from(*weight) / total;
                    let (mean, sigma) =
                        (f64::from(requests) * share, (f64::from(requests) * share * (1.0 - share)).sqrt());
                    assert!((f64::from(*count) - mean).abs() <= 3.0 * sigma, "{weights:?}: {counts:?}");
                }
            }
        }
    }

    /// As precise as it has to be for a share of one in a hundred thousand.
    #[test]
    fn the_smallest_share_is_not_lost_in_the_logarithm() {
        let found = (0..2_000_000_u64).filter(|key| arm_of(mix(*key), &[100_000, 1]) == Some(1)).count();
        assert!((7..=33).contains(&found), "{found} of 20"); // Three sigma.
    }

    #[test]
    fn by_turn_the_heaviest_comes_first_and_the_other_in_the_middle() {
        let turns = |weights: &[u32]| {
            let (order, total) = (order(weights), u64::from(weights.iter().sum::<u32>()));
            (0..total).map(|turn| by_turn(turn, &order, |place| weights[place]).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(turns(&[4, 1]), [0, 0, 1, 0, 0]);
        assert_eq!(turns(&[1, 4]), [1, 1, 0, 1, 1]);
        assert_eq!(turns(&[0, 3]), [1, 1, 1]);
        assert_eq!(turns(&[2, 2]), [0, 1, 0, 1]);
        assert_eq!(by_turn(0, &[0], |_| 0), None);
    }
}
