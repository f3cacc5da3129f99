//! An average of latencies that forgets, and rises at once: the "peak EWMA" of Finagle's balancer.
//!
//! A sample above the average replaces it; one below moves it, the more the longer ago the last one was. What is
//! different here: an average that is not fed returns to that of all endpoints together, and not to zero. An
//! endpoint that hangs feeds nothing, and under Finagle's rule becomes the cheapest in the end; here one that
//! is not known any more is as one that was never known.
//!
//! All of it is one word, and its arithmetic is in whole numbers: a policy that looks at a hundred endpoints
//! cannot take a hundred exponentials.

use std::time::Duration;

/// The longest latency that is told from longer ones: 268 s. It is kept in sixteenths of a microsecond, as an
/// average that moves by less than its unit would not move.
pub const MAX_US: u32 = u32::MAX / 16;

/// Time goes in ticks of 2²⁶ ns, 67 ms. There are 2³² of them, nine years; then nothing is forgotten any more.
/// Of several samples in one tick the first counts, and each that is above the average.
const TICK_BITS: u32 = 26;
const MAX_TICK: u64 = (1 << 32) - 1;

/// How long it takes until a sample counts half.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HalfLife {
    /// Steps of 2⁻¹⁶ half-lives in a tick, in units of 2⁻¹⁶.
    per_tick: u64,
}

impl HalfLife {
    /// At least one second, as time goes in ticks.
    pub fn new(half_life: Duration) -> Self {
        let ns = u64::try_from(half_life.max(Duration::from_secs(1)).as_nanos()).unwrap_or(u64::MAX);
        Self { per_tick: (1 << 32) / (ns >> TICK_BITS).max(1) }
    }

    /// 2^(−ticks / half-life), in units of 2⁻¹⁶, to 0.4 %.
    fn weight(self, ticks: u64) -> u64 {
        let steps = ticks.saturating_mul(self.per_tick) >> 16;
        let (halvings, part) = (u32::try_from(steps >> 16).unwrap_or(u32::MAX), steps & 0xffff);
        // The parabola through 1, 1/√2 and 1/2.
        let within = 65_536 - ((43_993 * part) >> 16) + ((11_225 * part * part) >> 32);
        within.checked_shr(halvings).unwrap_or(0)
    }
}

/// An average and when it was last fed; nothing at first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ewma(u64);

impl Ewma {
    /// As one word.
    pub const fn pack(self) -> u64 {
        self.0
    }

    /// Of one word.
    pub const fn unpack(word: u64) -> Self {
        Self(word)
    }

    /// It has never been fed.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The average itself, however old.
    pub fn last_us(self) -> u32 {
        self.sixteenths() / 16
    }

    fn sixteenths(self) -> u32 {
        u32::try_from(self.0 >> 32).unwrap_or(u32::MAX)
    }

    /// It was fed in this tick or later.
    #[inline]
    pub const fn is_since(self, tick: u64) -> bool {
        self.0 & MAX_TICK >= tick
    }

    /// As one word, what is estimated in this tick; see [`known_us`](Self::known_us).
    pub fn estimated(estimate_us: u32, tick: u64) -> Self {
        Self(u64::from(estimate_us.min(MAX_US) * 16) << 32 | tick.min(MAX_TICK))
    }

    /// The estimate, if it was made in this tick.
    #[inline]
    pub fn known_us(self, tick: u64) -> Option<u32> {
        (self.0 & MAX_TICK == tick).then(|| self.last_us())
    }

    /// The average now, where that of all is `others_us`.
    pub fn estimate_us(self, now_ns: u64, others_us: u32, half_life: HalfLife) -> u32 {
        if self.is_empty() {
            return others_us;
        }
        mix(others_us.min(MAX_US) * 16, self.sixteenths(), half_life.weight(self.age(now_ns))) / 16
    }

    /// Fed with a latency: one that is higher replaces it.
    #[must_use]
    pub fn peak(self, latency_us: u32, now_ns: u64, half_life: HalfLife) -> Self {
        let average = self.averaged(latency_us, now_ns, half_life);
        if latency_us > average.last_us() { Self::new(latency_us, now_ns) } else { average }
    }

    /// Fed with a latency, without peaks.
    #[must_use]
    pub fn averaged(self, latency_us: u32, now_ns: u64, half_life: HalfLife) -> Self {
        if self.is_empty() {
            return Self::new(latency_us, now_ns);
        }
        let age = self.age(now_ns);
        if age == 0 {
            return self;
        }
        let latency = latency_us.min(MAX_US) * 16;
        let mixed = mix(latency, self.sixteenths(), half_life.weight(age));
        // Too soon behind the last one to move it by a unit: its age is kept, or it would never move.
        if mixed == self.sixteenths() && mixed != latency { self } else { Self::at(mixed, now_ns) }
    }

    fn new(us: u32, now_ns: u64) -> Self {
        Self::at(us.min(MAX_US) * 16, now_ns)
    }

    fn at(sixteenths: u32, now_ns: u64) -> Self {
        // Never 0, so that an average of nothing is not nothing.
        Self(u64::from(sixteenths) << 32 | tick(now_ns))
    }

    fn age(self, now_ns: u64) -> u64 {
        ((now_ns >> TICK_BITS) + 1).saturating_sub(self.0 & MAX_TICK)
    }
}

/// The tick of a time, from 1.
pub fn tick(now_ns: u64) -> u64 {
    ((now_ns >> TICK_BITS) + 1).min(MAX_TICK)
}

/// The first tick that is not longer ago than this.
pub fn tick_since(now_ns: u64, age_ns: u64) -> u64 {
    ((now_ns >> TICK_BITS) + 1).saturating_sub(age_ns >> TICK_BITS).max(1)
}

/// `weight` of `old`, the rest of `new`.
fn mix(new: u32, old: u32, weight: u64) -> u32 {
    let mixed = (u64::from(old) * weight + u64::from(new) * (65_536 - weight) + 32_768) >> 16;
    u32::try_from(mixed).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    fn half_life() -> HalfLife {
        HalfLife::new(Duration::from_secs(10))
    }

    #[test]
    #[expect(clippy::cast_precision_loss, reason = "a test of the exponential")]
    fn a_sample_counts_half_after_its_half_life() {
        for ms in (0..100_000).step_by(137) {
            let ours = half_life().weight((ms * 1_000_000) >> TICK_BITS) as f64 / 65_536.0;
            let exact = (-(ms as f64) / 10_000.0).exp2();
            assert!((ours - exact).abs() < 0.01, "{ms} ms: {ours} and {exact}");
        }
        assert_eq!(half_life().weight(u64::MAX), 0);
    }

    #[test]
    fn it_rises_at_once_and_falls_slowly() {
        let ewma = Ewma::default().peak(1000, S, half_life()).peak(9000, S, half_life());
        assert_eq!(ewma.last_us(), 9000);
        let later = ewma.peak(1000, 11 * S, half_life());
        assert!(later.last_us().abs_diff(5000) < 100, "{later:?}");
        assert_eq!(ewma.averaged(1000, 11 * S, half_life()), later);
    }

    #[test]
    fn what_is_not_fed_returns_to_what_all_have() {
        let ewma = Ewma::default().peak(5_000_000, 0, half_life());
        assert_eq!(ewma.estimate_us(0, 2000, half_life()), 5_000_000);
        assert!(ewma.estimate_us(10 * S, 2000, half_life()).abs_diff(2_501_000) < 25_000);
        assert!(ewma.estimate_us(300 * S, 2000, half_life()).abs_diff(2000) < 2);
        let fast = Ewma::default().peak(10, 0, half_life());
        assert!(fast.estimate_us(300 * S, 2000, half_life()).abs_diff(2000) < 2, "what hangs is not cheap");
        assert_eq!(Ewma::default().estimate_us(0, 2000, half_life()), 2000);
    }

    #[test]
    fn a_sample_each_millisecond_is_not_lost_in_rounding() {
        let mut ewma = Ewma::default().averaged(2000, 0, half_life());
        for ms in 1..10_000_u64 {
            ewma = ewma.averaged(if ms % 2 == 0 { 900 } else { 1100 }, ms * 1_000_000, half_life());
        }
        assert!(ewma.last_us().abs_diff(1500) < 100, "halfway from 2000 to 1000: {ewma:?}");
    }

    #[test]
    fn what_was_estimated_is_known_within_its_tick() {
        let estimate = Ewma::estimated(7000, tick(5 * S));
        assert_eq!(estimate.known_us(tick(5 * S)), Some(7000));
        assert_eq!(estimate.known_us(tick(6 * S)), None);
        assert_eq!(Ewma::default().known_us(tick(0)), None, "nothing is of no tick");
        assert!(estimate.is_since(tick_since(9 * S, 5 * S)) && !estimate.is_since(tick_since(60 * S, 5 * S)));
        assert!(!Ewma::default().is_since(tick_since(0, S)));
    }

    #[test]
    fn it_fits_one_word_at_its_bounds() {
        let ewma = Ewma::default().peak(u32::MAX, u64::MAX, half_life());
        assert_eq!((ewma.last_us(), Ewma::unpack(ewma.pack())), (MAX_US, ewma));
        assert!(!Ewma::default().peak(0, 0, half_life()).is_empty());
    }
}
