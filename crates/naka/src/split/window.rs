//! How often each arm fails, and whether that is too often: pure functions over words. No clock, no lock.
//!
//! A window is a [`ring`](crate::ring) whose words have two counts of 18 bits. A bucket that is full halves its counts:
//! the share of failures stays what it was.

use crate::ring;
pub(super) use crate::ring::{BUCKETS, place, tag};

/// The most that a guard can ask to have: a bucket that was halved has as many.
pub const MAX_MIN_REQUESTS: u32 = 100_000;

const COUNT: u64 = (1 << 18) - 1;

/// What came of the requests in a window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Tally {
    /// Requests of which something is known.
    pub total: u32,
    /// Those of them that failed.
    pub failed: u32,
}

/// One more result in a bucket.
pub(super) const fn add(word: u64, tag: u64, is_failure: bool) -> u64 {
    let counts = ring::counts(word, tag);
    let (mut total, mut failed) = (counts >> 18 & COUNT, counts & COUNT);
    if total == COUNT {
        (total, failed) = (total / 2, failed / 2);
    }
    tag | (total + 1) << 18 | (failed + if is_failure { 1 } else { 0 })
}

/// What is in the window that ends with this bucket.
pub(super) fn sum(words: impl Iterator<Item = u64>, era: u64, bucket: u64) -> Tally {
    let (mut total, mut failed) = (0, 0);
    for counts in ring::live(words, era, bucket) {
        total += counts >> 18 & COUNT;
        failed += counts & COUNT;
    }
    let count = |sum: u64| u32::try_from(sum).unwrap_or(u32::MAX);
    Tally { total: count(total), failed: count(failed) }
}

/// Whether an arm fails more often than the baseline, by more than so many hundredths of a percent.
pub(super) fn is_worse(arm: Tally, baseline: Tally, by_bp: u32, min_requests: u32) -> bool {
    let min_requests = min_requests.max(1);
    if arm.total < min_requests || baseline.total < min_requests {
        return false;
    }
    // failed / total > failed' / total' + by. Counts have 22 bits, so this has 58.
    let [arm_total, arm_failed, total, failed] =
        [arm.total, arm.failed, baseline.total, baseline.failed].map(u64::from);
    10_000 * arm_failed * total > 10_000 * failed * arm_total + u64::from(by_bp) * arm_total * total
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn tally(total: u32, failed: u32) -> Tally {
        Tally { total, failed }
    }

    #[test]
    fn it_is_worse_by_more_than_was_said_and_only_if_there_is_enough_of_both() {
        let is_worse = |arm, baseline| is_worse(arm, baseline, 100, 500);
        assert!(is_worse(tally(500, 6), tally(500, 0)), "1.2 % against 0 %");
        assert!(!is_worse(tally(500, 5), tally(500, 0)), "1 % is not more than 1 %");
        assert!(!is_worse(tally(499, 499), tally(9500, 0)) && !is_worse(tally(500, 500), tally(499, 0)));
        assert!(is_worse(tally(1000, 31), tally(100_000, 2000)), "3.1 % against 2 %");
        assert!(!is_worse(tally(1000, 30), tally(100_000, 2000)));
        assert!(!is_worse(tally(1000, 0), tally(1000, 1000)), "better is never worse");
        assert!(is_worse(tally(2_621_430, 2_621_430), tally(2_621_430, 0)), "the largest there are");
        assert!(!super::is_worse(tally(0, 0), tally(0, 0), 0, 0), "nothing is known");
    }

    #[test]
    fn a_bucket_that_is_full_keeps_its_share() {
        let mut word = 0;
        for number in 0..1_000_000_u32 {
            word = add(word, tag(1, 7), number.is_multiple_of(20));
        }
        let seen = sum([word].into_iter(), 1, 7);
        assert!(seen.total > MAX_MIN_REQUESTS && seen.total <= 262_143, "{seen:?}");
        assert!((seen.failed * 20).abs_diff(seen.total) < 100, "{seen:?}");
        assert_eq!(sum([word].into_iter(), 2, 7), Tally::default(), "of another era");
        assert_eq!(
            (sum([word].into_iter(), 1, 16), sum([word].into_iter(), 1, 17)),
            (seen, Tally::default())
        );
    }
}
