//! Results that count, in a window that slides: pure functions over words. No clock, no HTTP, no runtime, no
//! lock.
//!
//! A window is a [`ring`](crate::ring) whose words have three counts of 12 bits. A bucket that is full halves
//! its counts: the share of failures stays what it was, and what comes after weighs more than what was before.

use crate::ring;
pub(super) use crate::ring::{BUCKETS, place, tag};

/// The most that a window can be asked to have: a bucket that was halved has as many.
pub const MAX_MIN_REQUESTS: u32 = 2000;

const COUNT: u64 = (1 << 12) - 1;

/// How long a bucket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// So many results.
    Count(u64),
    /// So many nanoseconds.
    Time(u64),
}

impl Shape {
    /// The number of the bucket for the result with this number, or at this time.
    pub(super) const fn bucket(self, result: u64, now_ns: u64) -> u64 {
        match self {
            Self::Count(each) => result / if each == 0 { 1 } else { each },
            Self::Time(each_ns) => now_ns / if each_ns == 0 { 1 } else { each_ns },
        }
    }
}

/// What came of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Answer {
    pub(super) is_failure: bool,
    pub(super) is_slow: bool,
}

/// What is in a window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Counts {
    /// Results.
    pub total: u32,
    /// Failures among them.
    pub failed: u32,
    /// Slow ones among them, whether they failed or not.
    pub slow: u32,
}

/// One more result in a bucket.
pub(super) const fn add(word: u64, tag: u64, answer: Answer) -> u64 {
    let counts = ring::counts(word, tag);
    let (mut total, mut failed, mut slow) = (counts >> 24 & COUNT, counts >> 12 & COUNT, counts & COUNT);
    if total == COUNT {
        (total, failed, slow) = (total / 2, failed / 2, slow / 2);
    }
    total += 1;
    failed += if answer.is_failure { 1 } else { 0 };
    slow += if answer.is_slow { 1 } else { 0 };
    tag | total << 24 | failed << 12 | slow
}

/// What is in the window that ends with this bucket.
pub(super) fn sum(words: impl Iterator<Item = u64>, era: u64, bucket: u64) -> Counts {
    let (mut total, mut failed, mut slow) = (0, 0, 0);
    for counts in ring::live(words, era, bucket) {
        total += counts >> 24 & COUNT;
        failed += counts >> 12 & COUNT;
        slow += counts & COUNT;
    }
    let count = |sum: u64| u32::try_from(sum).unwrap_or(u32::MAX);
    Counts { total: count(total), failed: count(failed), slow: count(slow) }
}

/// A word of one era as one of another; one that was of no use there is of none here.
pub(super) const fn of_era(word: u64, from: u64, to: u64) -> u64 {
    ring::of_era(word, from, to)
}

/// What opens a breaker; 0 is never.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Trips {
    pub(super) consecutive: u32,
    pub(super) failure_percent: u32,
    pub(super) slow_percent: u32,
    pub(super) min_requests: u32,
}

impl Trips {
    /// Whether the window has any say.
    pub(super) const fn has_rates(&self) -> bool {
        self.failure_percent > 0 || self.slow_percent > 0
    }
}

/// Why a breaker went from one phase into another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cause {
    /// So many failures in a row.
    Consecutive(u32),
    /// Too many of the window failed.
    FailureRate(Counts),
    /// Too many of the window were slow.
    SlowRate(Counts),
    /// It was open for long enough, and one is let through.
    Probing,
    /// All probes hung, and another is let through.
    ProbesHung,
    /// A probe failed, or was slow.
    ProbeFailed,
    /// As many probes as it takes went well.
    ProbesSucceeded,
    /// The recovery is over.
    Recovered,
    /// Somebody has said so.
    ByHand,
}

/// Whether what has been seen opens a breaker; each of the three alone.
pub(super) const fn judge(trips: &Trips, run: u32, counts: Counts) -> Option<Cause> {
    if trips.consecutive > 0 && run >= trips.consecutive {
        return Some(Cause::Consecutive(run));
    }
    if counts.total == 0 || counts.total < trips.min_requests {
        return None;
    }
    if is_above(counts.failed, counts.total, trips.failure_percent) {
        return Some(Cause::FailureRate(counts));
    }
    if is_above(counts.slow, counts.total, trips.slow_percent) {
        return Some(Cause::SlowRate(counts));
    }
    None
}

const fn is_above(part: u32, total: u32, percent: u32) -> bool {
    percent > 0 && part.saturating_mul(100) >= total.saturating_mul(percent) // Both are below 2²².
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOOD: Answer = Answer { is_failure: false, is_slow: false };
    const BAD: Answer = Answer { is_failure: true, is_slow: false };
    const SLOW: Answer = Answer { is_failure: false, is_slow: true };

    /// The window as it is written down here, and everything that ever happened.
    struct Both {
        shape: Shape,
        words: [u64; BUCKETS],
        all: Vec<(u64, u64, Answer)>,
        era: u64,
    }

    impl Both {
        fn new(shape: Shape) -> Self {
            Self { shape, words: [0; BUCKETS], all: Vec::new(), era: 0 }
        }

        fn now(&self, now_ns: u64) -> u64 {
            self.shape.bucket(u64::try_from(self.all.len()).unwrap().saturating_sub(1), now_ns)
        }

        fn add(&mut self, now_ns: u64, answer: Answer) {
            self.all.push((self.era, now_ns, answer));
            let bucket = self.now(now_ns);
            let word = &mut self.words[place(bucket)];
            *word = add(*word, tag(self.era, bucket), answer);
        }

        fn sum(&self, now_ns: u64) -> Counts {
            sum(self.words.into_iter(), self.era, self.now(now_ns))
        }

        /// By looking at each result: those that are certainly in the window, and those that may be.
        fn naive(&self, now_ns: u64) -> [Counts; 2] {
            let newest = self.all.len();
            [9, 10].map(|buckets| {
                let mut counts = Counts::default();
                for (number, (era, at_ns, answer)) in self.all.iter().enumerate() {
                    let is_in = match self.shape {
                        Shape::Count(each) => {
                            let each = usize::try_from(each).unwrap();
                            newest - number <= each * (buckets - 1) + if buckets == 10 { each } else { 1 }
                        }
                        Shape::Time(each_ns) => now_ns - at_ns < each_ns * u64::try_from(buckets).unwrap(),
                    };
                    if is_in && *era == self.era {
                        counts.total += 1;
                        counts.failed += u32::from(answer.is_failure);
                        counts.slow += u32::from(answer.is_slow);
                    }
                }
                counts
            })
        }
    }

    fn steps() -> impl Strategy<Value = Vec<(u64, bool, bool, bool)>> {
        let wait = prop_oneof![8 => 0..30_u64, 2 => 0..500_u64, 1 => Just(1_000_000_u64)];
        prop::collection::vec((wait, any::<bool>(), any::<bool>(), prop::bool::weighted(0.02)), 1..300)
    }

    proptest! {
        #[test]
        fn r3_1_a_window_has_what_a_naive_one_has_to_within_a_tenth(
            shape in prop_oneof![(1..8_u64).prop_map(Shape::Count), (1..60_u64).prop_map(Shape::Time)],
            steps in steps(),
        ) {
            let (mut both, mut now_ns) = (Both::new(shape), 1000);
            for (wait_ns, is_failure, is_slow, is_new_era) in steps {
                now_ns += wait_ns;
                both.era += u64::from(is_new_era);
                both.add(now_ns, Answer { is_failure, is_slow });
                let (is, [least, most]) = (both.sum(now_ns), both.naive(now_ns));
                for (is, least, most) in [
                    (is.total, least.total, most.total),
                    (is.failed, least.failed, most.failed),
                    (is.slow, least.slow, most.slow),
                ] {
                    prop_assert!(least <= is && is <= most, "{is} is not from {least} to {most}");
                }
            }
        }

        #[test]
        fn a_bucket_that_is_full_keeps_its_shares(failed in 0..=100_u32, results in 4095..50_000_u32) {
            let mut word = 0;
            for number in 0..results {
                let is_failure = number % 100 < failed;
                word = add(word, tag(1, 1), Answer { is_failure, is_slow: !is_failure });
            }
            let counts = sum([word].into_iter(), 1, 1);
            prop_assert!(counts.total >= MAX_MIN_REQUESTS && counts.total <= 4095);
            let percent = counts.failed * 100 / counts.total;
            prop_assert!(percent.abs_diff(failed) <= 3, "{percent} of {failed}");
        }
    }

    #[test]
    fn r3_1_a_count_window_of_ten_is_exact_and_an_idle_time_window_is_empty() {
        let mut last_ten = Both::new(Shape::Count(1));
        for number in 0..1000_u64 {
            last_ten.add(0, if number % 7 == 0 { BAD } else { GOOD });
            assert_eq!(last_ten.sum(0), last_ten.naive(0)[1]);
        }
        let mut second = Both::new(Shape::Time(100_000_000));
        second.add(0, BAD);
        assert_eq!((second.sum(999_999_999).failed, second.sum(1_000_000_000).failed), (1, 0));
    }

    #[test]
    fn r3_1_each_trip_opens_alone_and_no_rate_below_the_minimum() {
        let none = Trips { consecutive: 0, failure_percent: 0, slow_percent: 0, min_requests: 10 };
        let counts = |total, failed, slow| Counts { total, failed, slow };
        assert_eq!(judge(&none, 1000, counts(1000, 1000, 1000)), None);
        let run = Trips { consecutive: 3, ..none };
        assert_eq!([2, 3].map(|run_of| judge(&run, run_of, counts(3, 3, 3)).is_some()), [false, true]);
        let rate = Trips { failure_percent: 50, ..none };
        let opens = |trips: &Trips, counts| judge(trips, 0, counts).is_some();
        assert!(!opens(&rate, counts(9, 9, 9)) && !opens(&rate, counts(11, 5, 11)));
        assert!(opens(&rate, counts(10, 5, 0)));
        let slow = Trips { slow_percent: 80, ..none };
        assert!(!opens(&slow, counts(9, 0, 9)) && !opens(&slow, counts(10, 10, 7)));
        assert_eq!(judge(&slow, 0, counts(10, 0, 8)), Some(Cause::SlowRate(counts(10, 0, 8))));
        assert_eq!(SLOW, Answer { is_slow: true, ..GOOD });
    }
}
