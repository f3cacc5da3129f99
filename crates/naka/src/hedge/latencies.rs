//! How long answers took of late, in a histogram: what a percentile is read from.
//!
//! # Algorithm
//! Sixteen buckets to each doubling (as in `HdrHistogram`), from one microsecond to two minutes: a percentile is at most
//! 6.3 % above the true one, never below. There are two histograms of 15 s each. The older one is
//! emptied and filled anew when the younger one is full, so that a percentile is of the last 15 to 30 s.
//!
//! # Units and limits
//! 3.5 KiB. Counting takes no lock: what comes in the moment in which a histogram is emptied may be lost.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{
            AtomicU32, AtomicU64,
            Ordering::{AcqRel, Acquire, Relaxed},
        },
    },
    time::Duration,
};

use tokio::time::Instant;

use crate::clock::Now;

/// Fewer answers than that say nothing of a percentile: one of them at least has to be above it.
fn enough(percent: u8) -> u64 {
    (100 / (100 - u64::from(percent.min(99)))).max(20)
}

/// Each doubling has so many buckets.
const PARTS: u32 = 16;
const BUCKETS: usize = 384;
/// What takes longer is as long as that: 134 s.
const MAX_US: u32 = (1 << 27) - 1;
const STEP: Duration = Duration::from_secs(15);

/// How long answers took of late; all clones count in the same.
#[derive(Clone)]
pub struct Latencies(Arc<Histograms>);

struct Histograms {
    start: Instant,
    /// Which step of time the younger histogram is of.
    step: AtomicU64,
    /// How many were counted ever.
    count: AtomicU64,
    /// That of an even step, and that of an odd one.
    buckets: [[AtomicU32; BUCKETS]; 2],
}

impl Latencies {
    /// Of no answer yet.
    pub fn new(now: Now) -> Self {
        let buckets = [const { [const { AtomicU32::new(0) }; BUCKETS] }; 2];
        let (step, count) = (AtomicU64::new(0), AtomicU64::new(0));
        Self(Arc::new(Histograms { start: now.instant(), step, count, buckets }))
    }

    /// One took so long.
    pub(super) fn record(&self, latency: Duration, now: Now) {
        let step = self.go_on(now);
        let us = u32::try_from(latency.as_micros()).unwrap_or(MAX_US);
        // Relaxed: counts that order nothing.
        self.0.buckets[parity(step)][bucket(us)].fetch_add(1, Relaxed);
        self.0.count.fetch_add(1, Relaxed);
    }

    /// As long as that took so many percent of them, or less; `None` if there were too few.
    pub fn percentile(&self, percent: u8, now: Now) -> Option<Duration> {
        self.go_on(now);
        let of = |at: usize| self.0.buckets.iter().map(|all| u64::from(all[at].load(Relaxed))).sum::<u64>();
        let total = (0..BUCKETS).map(of).sum::<u64>();
        if total < enough(percent) {
            return None;
        }
        let wanted = (total * u64::from(percent.min(100))).div_ceil(100);
        let mut seen = 0;
        let place = (0..BUCKETS).find(|at| {
            seen += of(*at);
            seen >= wanted
        });
        Some(Duration::from_micros(place.map_or(MAX_US, longest).into()))
    }

    /// Another value whenever a percentile may be worth computing anew.
    pub(super) fn version(&self, now: Now) -> u32 {
        let (step, count) = (self.step(now), self.0.count.load(Relaxed));
        u32::try_from(((step & 0xff) << 24 | (count / 32) & 0x00ff_ffff) & u64::from(u32::MAX))
            .unwrap_or_default()
    }

    fn step(&self, now: Now) -> u64 {
        now.since_ns(self.0.start) / u64::try_from(STEP.as_nanos()).unwrap_or(u64::MAX)
    }

    /// Empties what is too old. Says which step it is.
    fn go_on(&self, now: Now) -> u64 {
        let step = self.step(now);
        let known = self.0.step.load(Acquire);
        // Whoever comes late, with an older reading of the clock, counts in the later step.
        if step <= known || self.0.step.compare_exchange(known, step, AcqRel, Acquire).is_err() {
            return known.max(step);
        }
        let empty = |step| self.0.buckets[parity(step)].iter().for_each(|count| count.store(0, Relaxed));
        empty(step);
        if step - known > 1 {
            empty(step + 1);
        }
        step
    }
}

impl fmt::Debug for Latencies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Latencies").field("count", &self.0.count).finish_non_exhaustive()
    }
}

fn parity(step: u64) -> usize {
    usize::from(step % 2 == 1)
}

fn bucket(us: u32) -> usize {
    let us = us.min(MAX_US);
    let place = match us.checked_ilog2() {
        // Below a doubling of sixteen parts each microsecond has its own.
        None | Some(0..=3) => us,
        Some(doubling) => (doubling - 3) * PARTS + ((us >> (doubling - 4)) & (PARTS - 1)),
    };
    usize::try_from(place).unwrap_or(BUCKETS - 1)
}

/// The longest time that is counted there.
fn longest(bucket: usize) -> u32 {
    let bucket = u32::try_from(bucket).unwrap_or(u32::MAX);
    match bucket / PARTS {
        0 => bucket,
        doubling => {
            let (shift, part) = (doubling - 1, PARTS + bucket % PARTS);
            ((part + 1) << shift) - 1
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(start: Now, s: u64) -> Now {
        Now::from(start.instant() + Duration::from_secs(s))
    }

    #[test]
    fn each_time_is_counted_in_a_bucket_that_is_hardly_wider() {
        let mut last = 0;
        for us in (0..5000).chain((5000..=MAX_US).step_by(997)).chain([MAX_US]) {
            let place = bucket(us);
            assert!(place >= last && place < BUCKETS, "{us}: {place}");
            let longest = longest(place);
            assert!(longest >= us && longest - us <= us / 16, "{us}: up to {longest}");
            last = place;
        }
        assert_eq!((bucket(u32::MAX), longest(BUCKETS - 1)), (BUCKETS - 1, MAX_US));
    }

    #[tokio::test(start_paused = true)]
    async fn a_percentile_is_of_the_last_answers_and_of_enough_of_them() {
        let start = Now::read();
        let seen = Latencies::new(start);
        (1..20).for_each(|ms| seen.record(Duration::from_millis(ms), start));
        assert_eq!(seen.percentile(50, start), None);
        (20..100).for_each(|ms| seen.record(Duration::from_millis(ms), start));
        assert_eq!(seen.percentile(99, start), None);
        seen.record(Duration::from_millis(100), start);
        let near = |percent, ms: u64, now| {
            let is = seen.percentile(percent, now).unwrap();
            let exact = Duration::from_millis(ms);
            assert!(is >= exact && is <= exact.mul_f64(1.07), "{percent}: {is:?}");
        };
        near(50, 50, start);
        near(99, 99, start);
        near(50, 50, at(start, 29));
        (0..1000).for_each(|_| seen.record(Duration::from_millis(7), at(start, 29)));
        near(50, 7, at(start, 29));
        near(99, 89, at(start, 29)); // 11 of 1,100 take longer.
        near(99, 7, at(start, 30));
        assert_eq!(seen.percentile(99, at(start, 45)), None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_read_earlier_and_comes_later_empties_nothing() {
        let start = Now::read();
        let seen = Latencies::new(start);
        (0..20).for_each(|_| seen.record(Duration::from_millis(3), at(start, 20)));
        seen.record(Duration::from_millis(3), at(start, 1));
        assert!(seen.percentile(50, at(start, 1)).is_some());
        assert!(seen.percentile(50, at(start, 40)).is_some());
        assert!(seen.percentile(50, at(start, 50)).is_none());
    }
}
