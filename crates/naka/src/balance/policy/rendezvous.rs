//! Rendezvous, or highest random weight (Thaler and Ravishankar, 1998): key and endpoint are hashed together,
//! and the highest wins. Nothing has to be kept, shares are even, and an endpoint that goes moves only its own
//! keys, which go to all others alike. O(n).
//!
//! Weights are those of the logarithmic method (Resch, "New Hashing Algorithms for Data Storage", 2015): with u
//! even in (0, 1), the lowest of −ln(u) / weight wins. The logarithm is in whole numbers, so that it is the
//! same on each machine.

use super::{
    Candidates,
    hash::mix,
    least::{self, Look},
    slow_start::WHOLE,
};

/// What each endpoint is, as a hash.
#[derive(Clone, Debug)]
pub struct Rendezvous {
    identities: Box<[u64]>,
    is_even: bool,
}

impl Rendezvous {
    /// Of these endpoints, each with a hash of what it is and its weight.
    pub fn new(members: &[(u64, u32)]) -> Self {
        let identities = members.iter().map(|(identity, _)| *identity).collect();
        let is_even = members.iter().all(|(_, weight)| *weight == members[0].1);
        Self { identities, is_even }
    }

    /// The highest of the open ones for `key`.
    pub fn pick(&self, key: u64, candidates: &impl Candidates) -> Option<usize> {
        let factor = mix(key) | 1;
        let hash = |place: usize| fold(key ^ self.identities[place], factor);
        if self.is_even {
            let mut best = None::<(u64, usize)>;
            for place in 0..self.identities.len() {
                let hash = hash(place);
                // Few are higher than all before them, and only these are asked whether they are open.
                if best.is_none_or(|(highest, _)| hash >= highest) && candidates.is_open(place) {
                    best = Some((hash, place));
                }
            }
            return best.map(|(_, place)| place);
        }
        least::pick(key, self.identities.len(), |place| {
            let look =
                || Look { cost: minus_log2(hash(place)), weight: candidates.weight(place), share: WHOLE };
            candidates.is_open(place).then(look)
        })
    }
}

/// Both halves of the product, as in wyhash (Wang Yi, 2019): one multiplication for each endpoint.
#[expect(clippy::cast_possible_truncation, reason = "the lower half, and then the upper one")]
fn fold(number: u64, factor: u64) -> u64 {
    let product = u128::from(number) * u128::from(factor);
    product as u64 ^ (product >> 64) as u64
}

/// −log₂((n + ½) / 2⁶⁴), in units of 2⁻³². Exact to 1 %, and where it matters, at numbers near 2⁶⁴, far better.
fn minus_log2(number: u64) -> u64 {
    const ONE: u64 = 1 << 32;
    let zeros = number.leading_zeros();
    let mantissa = number.checked_shl(zeros).unwrap_or(0) | 1 << 63; // In [½, 1), as a fraction of 2⁶⁴.
    // With t = 1 − mantissa in (0, ½]: −ln(1 − t) = t + t²/2 + t³/3 + …, cut off after t⁴, whose coefficient is
    // such that at ½ it is ln 2: so it is continuous from one power of two to the next. In units of 2⁻³².
    let t = (u64::MAX - mantissa) >> 32;
    let (square, nearly) = ((t * t) >> 32, |a: u64, b: u64| (a * b) >> 32);
    let cube = nearly(square, t);
    let ln = t + square / 2 + cube / 3 + nearly(nearly(square, square), 1_816_894_966);
    // 1 / ln 2 = 1 + 0.442695…
    u64::from(zeros) * ONE + ln + nearly(ln, 1_901_360_723)
}

#[cfg(test)]
mod tests {
    use super::{super::scripted::Scripted, *};

    #[test]
    #[expect(clippy::cast_precision_loss, reason = "a test of the logarithm")]
    fn the_logarithm_is_the_logarithm() {
        for number in (0..2000).map(mix).chain([1, 1 << 63, (1 << 63) - 1, u64::MAX >> 8]) {
            let (exact, ours) = (64.0 - (number as f64).log2(), minus_log2(number) as f64 / 4_294_967_296.0);
            assert!((exact - ours).abs() <= 0.01 * exact + 1e-8, "{number}: {exact} and {ours}");
        }
        let near = u64::MAX - (u64::MAX >> 20);
        let (exact, ours) = (64.0 - (near as f64).log2(), minus_log2(near) as f64 / 4_294_967_296.0);
        assert!((exact - ours).abs() <= 0.001 * exact, "{exact} and {ours}");
    }

    #[test]
    fn shares_follow_weights() {
        let members = [(mix(1), 1), (mix(2), 2), (mix(3), 5)];
        let (rendezvous, candidates) = (Rendezvous::new(&members), Scripted::open(&[1, 2, 5]));
        let mut counts = [0_u32; 3];
        (0..80_000).for_each(|key| counts[rendezvous.pick(mix(key), &candidates).unwrap()] += 1);
        assert!(
            [10_000, 20_000, 50_000].iter().zip(counts).all(|(it, count)| count.abs_diff(*it) < 600),
            "{counts:?}"
        );
    }
}
