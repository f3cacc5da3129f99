//! What happens by chance, the same on every machine.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use naka::random::{GAMMA, mix};

/// Numbers that follow from a seed: `SplitMix64`, as in [`naka::random`]. Each use has one of its own, so that one more draw here
/// moves nothing there.
#[derive(Debug)]
pub struct Chance(AtomicU64);

impl Chance {
    /// Those of this seed.
    pub const fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }

    /// Those of one of several users of a seed, who know nothing of one another: `who` is a sort, and a number of that sort.
    pub const fn of(seed: u64, who: (u32, u32)) -> Self {
        let who = (who.0 as u64) << 32 | who.1 as u64;
        Self::new(mix(mix(seed).wrapping_add(who.wrapping_mul(GAMMA))))
    }

    fn draw(&self) -> u64 {
        mix(self.0.fetch_add(GAMMA, Relaxed).wrapping_add(GAMMA)) // Relaxed: it orders nothing.
    }

    /// Evenly from above 0 to 1.
    pub fn share(&self) -> f64 {
        let bits = (self.draw() >> 32) as u32;
        (f64::from(bits) + 1.0) / (f64::from(u32::MAX) + 1.0)
    }

    /// Less than `count`.
    pub fn below(&self, count: u32) -> u32 {
        #[expect(clippy::cast_possible_truncation, reason = "it is less than `count`")]
        let number = ((u128::from(self.draw()) * u128::from(count)) >> 64) as u32;
        number
    }

    /// Exponentially spread around a mean, up to `most` times as long.
    pub fn around(&self, mean: Duration, most: f64) -> Duration {
        mean.mul_f64((-ln(self.share())).clamp(0.0, most))
    }
}

/// The natural logarithm of a number from above 0 to 1, of additions and products alone: `f64::ln` is not the same on every machine.
fn ln(number: f64) -> f64 {
    let (mut mantissa, mut exponent) = (number, 0.0);
    while mantissa < 1.0 {
        (mantissa, exponent) = (mantissa * 2.0, exponent - 1.0);
    }
    let part = (mantissa - 1.0) / (mantissa + 1.0);
    let (square, mut power, mut sum) = (part * part, part, 0.0);
    for odd in [1.0, 3.0, 5.0, 7.0, 9.0, 11.0, 13.0, 15.0, 17.0, 19.0] {
        sum += power / odd;
        power *= square;
    }
    exponent * std::f64::consts::LN_2 + 2.0 * sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_of_one_seed_do_not_do_the_same() {
        let drawn = |who| Chance::of(1, who).draw();
        let all = [(0, 0), (0, 1), (1, 0), (1, 1)].map(drawn);
        let different =
            all.into_iter().chain([Chance::new(1).draw()]).collect::<std::collections::BTreeSet<_>>();
        assert_eq!(different.len(), 5);
    }

    #[test]
    fn the_mean_is_the_mean() {
        let chance = Chance::new(3);
        let all = (0..100_000).map(|_| chance.around(Duration::from_millis(100), 20.0)).sum::<Duration>();
        let mean = all.as_secs_f64() / 100_000.0;
        assert!((0.099..0.101).contains(&mean), "{mean}");
        let below = (0..1000).map(|_| chance.below(7)).collect::<std::collections::BTreeSet<_>>();
        assert_eq!(below, (0..7).collect());
    }

    #[test]
    fn the_logarithm_is_that_of_the_machine_but_for_its_last_digits() {
        for number in [1e-9, 0.001, 0.3, 0.5, 0.999, 1.0_f64] {
            assert!((ln(number) - number.ln()).abs() < 1e-9, "{number}");
        }
    }
}
