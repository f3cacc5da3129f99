//! How far a rejecting layer takes effect: all the way, in part, or only on paper.

use crate::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// How far a rejecting layer takes effect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Enforce {
    /// It rejects.
    #[default]
    Always,
    /// It decides, tells its observer what it would have rejected, and lets pass.
    Observe,
    /// It rejects this share of what it would reject, in percent (more than 100 counts as 100),
    /// evenly spread, and lets the rest pass as [`Observe`](Self::Observe) does.
    Percent(u8),
    /// It neither decides nor counts. Its state is kept.
    Never,
}

impl Enforce {
    /// Whether the rejection with this number, counted from 0, takes effect.
    pub const fn applies(self, number: u64) -> bool {
        match self {
            Self::Always => true,
            Self::Observe | Self::Never => false,
            Self::Percent(percent) => is_of_share(number, percent),
        }
    }
}

/// Whether the one with this number, counted from 0, is of so many percent: exact in each hundred, and evenly spread.
pub(crate) const fn is_of_share(number: u64, percent: u8) -> bool {
    let share = if percent > 100 { 100 } else { percent as u64 };
    let number = number % 100; // The pattern repeats, so nothing can overflow.
    (number + 1) * share / 100 > number * share / 100
}

/// Numbers the rejections of one layer.
#[derive(Debug, Default)]
pub(crate) struct Rejections(AtomicU64);

impl Rejections {
    /// Whether this rejection takes effect; it is counted.
    pub(crate) fn count(&self, enforce: Enforce) -> bool {
        enforce.applies(self.0.fetch_add(1, Relaxed)) // Relaxed: the number orders nothing.
    }

    /// Whether the next one takes effect; counted only if it does.
    pub(crate) fn count_if_applies(&self, enforce: Enforce) -> bool {
        let next = |number| enforce.applies(number).then_some(number + 1);
        self.0.fetch_update(Relaxed, Relaxed, next).is_ok()
    }

    /// Whether the next one would.
    pub(crate) fn peek(&self, enforce: Enforce) -> bool {
        enforce.applies(self.0.load(Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_exact_and_evenly_spread() {
        for percent in 0..=100_u8 {
            let enforced = (0..1000).filter(|n| Enforce::Percent(percent).applies(*n)).count();
            assert_eq!(enforced, usize::from(percent) * 10);
        }
        let first = (0..8).map(|n| Enforce::Percent(25).applies(n)).collect::<Vec<_>>();
        assert_eq!(first, [false, false, false, true, false, false, false, true]);
    }
}
