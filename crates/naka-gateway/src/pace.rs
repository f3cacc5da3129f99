//! How slow a client may be, when it is the client that is waited for.
//!
//! # Algorithm
//! Time that is waited is spent, and bytes give it back: [`GRACE`] at first, `bytes / rate` for what comes, and never more than [`MOST`] at hand.
//! So a drip is over after [`GRACE`] and little more, whatever its pauses are, while whoever was fast may pause for as long as it has been ahead (then
//! `timeouts.idle` ends it). It is the rule of Kestrel's `MinRequestBodyDataRate` and of Apache's `MinRate`, with a bound on what can be
//! saved up.
//!
//! Only waiting for the client counts: for more of a request's body while somebody here wants it, and for room at its end while something here
//! is to be sent. Whoever has nothing to say, or is not asked, waits for free: an event stream, a connection between two requests, a pause of
//! the endpoint.
//!
//! # Units and limits
//! Bytes a second, at least 1 by type. The state is one duration.

use std::{num::NonZeroU64, time::Duration};

/// What may be waited before anything has come: a mobile connection may stall for about as long when it changes cells.
pub const GRACE: Duration = Duration::from_secs(20);
/// The most that can be saved up.
pub const MOST: Duration = Duration::from_mins(5);

/// How far ahead of the rate a client is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// In bytes a second; nothing for as slow as it likes.
    rate: Option<NonZeroU64>,
    left: Duration,
}

impl Pace {
    pub(crate) const fn new(rate: Option<NonZeroU64>) -> Self {
        Self { rate, left: GRACE }
    }

    /// How much longer may be waited; nothing for as long as it takes.
    pub(crate) const fn left(&self) -> Option<Duration> {
        match self.rate {
            Some(_) => Some(self.left),
            None => None,
        }
    }

    /// So long was waited, and then so many bytes came or went.
    pub(crate) fn moved(&mut self, waited: Duration, bytes: usize) {
        let Some(rate) = self.rate else { return };
        let ns =
            u128::try_from(bytes).unwrap_or(u128::MAX).saturating_mul(1_000_000_000) / u128::from(rate.get());
        let gained = Duration::from_nanos(u64::try_from(ns).unwrap_or(u64::MAX));
        self.left = self.left.saturating_sub(waited).saturating_add(gained).min(MOST);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RATE: u64 = 240;

    /// How many pieces of so many bytes, each after so long, it takes until it is too slow.
    fn lasts(bytes: usize, each: Duration) -> Option<u32> {
        let mut pace = Pace::new(NonZeroU64::new(RATE));
        (1..100_000).find(|_| {
            let is_over = pace.left().unwrap() < each;
            pace.moved(each, bytes);
            is_over
        })
    }

    #[test]
    fn a_drip_ends_soon_and_what_is_fast_enough_never() {
        assert_eq!(lasts(1, Duration::from_secs(1)), Some(21));
        assert_eq!(lasts(10, Duration::from_secs(1)), Some(21));
        assert_eq!(lasts(200, Duration::from_secs(1)), Some(115), "a little too slow takes longer");
        assert_eq!(lasts(240, Duration::from_secs(1)), None);
        assert_eq!(lasts(4800, Duration::from_secs(20)), None, "in pieces");
        assert_eq!(lasts(1, Duration::from_secs(21)), Some(1));
    }

    #[test]
    fn what_was_fast_may_pause_but_not_for_ever() {
        let mut pace = Pace::new(NonZeroU64::new(RATE));
        pace.moved(Duration::ZERO, 1 << 30);
        assert_eq!(pace.left(), Some(MOST));
        assert_eq!(Pace::new(None).left(), None);
    }

    proptest! {
        /// Over any time that is waited, what is let pass is no slower than the rate, but for the grace.
        #[test]
        fn nothing_is_slower_than_the_rate_but_for_the_grace(
            pieces in prop::collection::vec((0..30_000_u64, 0..10_000_usize), 1..200),
        ) {
            let mut pace = Pace::new(NonZeroU64::new(RATE));
            let (mut waited, mut bytes) = (0, 0);
            for (ms, piece) in pieces {
                if pace.left().unwrap() < Duration::from_millis(ms) {
                    break;
                }
                waited += ms;
                // Those that come at the end of a wait are not in time for it.
                prop_assert!(waited <= 20_000 + bytes * 1000 / RATE + 1);
                pace.moved(Duration::from_millis(ms), piece);
                bytes += u64::try_from(piece).unwrap();
            }
        }
    }
}
