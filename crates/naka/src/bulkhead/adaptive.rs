//! Limits that follow what is behind: pure functions of samples. No clock, no HTTP, no runtime, no lock.
//!
//! Samples are taken together until there are ten of them and a tenth of a second has gone by; then the
//! limit moves once. It never leaves `min..=max`, and does not rise while less than half of it is used.

use std::time::Duration;

/// How a limit follows what is behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Adaptive {
    /// Additive increase, multiplicative decrease, as TCP has it (RFC 5681): one more if all went well,
    /// `backoff_percent` of it if anything was dropped or the answers took longer than `latency`.
    Aimd {
        /// The lowest limit, and the first; 0 counts as 1.
        min: u32,
        /// The highest.
        max: u32,
        /// The longest mean latency at which all is well.
        latency: Duration,
        /// What remains of the limit when it is not; at most 99.
        backoff_percent: u8,
    },
    /// As Gradient2 of Netflix's concurrency-limits:
    ///
    /// `gradient = clamp(tolerance * baseline / latency, 1/2, 1)`,
    /// `limit = 4/5 * limit + 1/5 * (limit * gradient + sqrt(limit))`.
    ///
    /// There the baseline is a long mean of the same latencies. One that rises slowly takes it along, so
    /// the gradient stays 1 and the limit drifts to its maximum. Here it is the lowest mean of any ten
    /// samples, and rises in one way only: once in each `probe_every` the limit is lowered to a quarter
    /// until ten requests have come and gone that found no more than that at work. What they took is the
    /// new baseline. So waiting behind others never counts as the normal state, and a service that has
    /// become slower by itself is known within one `probe_every`.
    Gradient2 {
        /// The lowest limit, and the first; 0 counts as 1.
        min: u32,
        /// The highest.
        max: u32,
        /// How much slower than the baseline is well; 150 is half as slow again. At least 100.
        tolerance_percent: u32,
        /// From one probe to the next.
        probe_every: Duration,
    },
}

impl Adaptive {
    /// Additive increase, to 90 percent if the mean latency is above `latency`.
    pub const fn aimd(min: u32, max: u32, latency: Duration) -> Self {
        Self::Aimd { min, max, latency, backoff_percent: 90 }
    }

    /// By the gradient of the latency, up to half above the baseline, which is probed every 30 seconds.
    pub const fn gradient2(min: u32, max: u32) -> Self {
        Self::Gradient2 { min, max, tolerance_percent: 150, probe_every: Duration::from_secs(30) }
    }

    fn bounds(&self) -> (u64, u64) {
        let (Self::Aimd { min, max, .. } | Self::Gradient2 { min, max, .. }) = *self;
        let min = u64::from(min.max(1));
        (min * 1000, (u64::from(max) * 1000).max(min * 1000))
    }
}

/// One request that has been answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// When, in nanoseconds of any clock.
    pub now_ns: u64,
    /// How long it took.
    pub latency_ns: u64,
    /// How many were at work when it began, itself included.
    pub in_flight: u32,
    /// Whether it failed for want of capacity; its latency says nothing then.
    pub is_dropped: bool,
}

/// A limit, and what it has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limiter {
    how: Adaptive,
    limit_milli: u64,
    baseline_ns: Option<u64>,
    window: Window,
    probe: Probe,
}

/// The samples since the last move.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Window {
    since_ns: Option<u64>,
    mean: Mean,
    in_flight: u32,
    any_dropped: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Mean {
    count: u64,
    sum_ns: u64,
}

impl Mean {
    fn add(&mut self, latency_ns: u64) {
        self.count += 1;
        self.sum_ns = self.sum_ns.saturating_add(latency_ns);
    }

    fn get(self) -> u64 {
        (self.sum_ns / self.count.max(1)).max(1)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Probe {
    /// Not before the first sample.
    Unknown,
    From(u64),
    Going {
        until_ns: u64,
        mean: Mean,
    },
}

const SAMPLES: u64 = 10;
const WINDOW_NS: u64 = 100_000_000;
/// A probe that finds nothing ends: after this long, or forty times the baseline.
const PROBE_NS: u64 = 1_000_000_000;

impl Limiter {
    /// At its lowest.
    pub fn new(how: Adaptive) -> Self {
        let (limit_milli, _) = how.bounds();
        Self { how, limit_milli, baseline_ns: None, window: Window::default(), probe: Probe::Unknown }
    }

    /// The same limit under other rules, within their bounds.
    #[must_use]
    pub fn reconfigured(mut self, how: Adaptive) -> Self {
        let (min, max) = how.bounds();
        self.limit_milli = self.limit_milli.clamp(min, max);
        self.how = how;
        self
    }

    /// How it moves.
    pub fn how(&self) -> Adaptive {
        self.how
    }

    /// The limit.
    pub fn limit(&self) -> u32 {
        u32::try_from(self.limit_milli / 1000).unwrap_or(u32::MAX)
    }

    /// What may be at work now: the limit, or the quarter of it that a probe allows.
    pub fn admits(&self) -> u32 {
        if matches!(self.probe, Probe::Going { .. }) { self.quarter() } else { self.limit() }
    }

    /// One more sample.
    pub fn sample(&mut self, sample: Sample) {
        if let Adaptive::Gradient2 { probe_every, .. } = self.how
            && self.probes(&sample, u64::try_from(probe_every.as_nanos()).unwrap_or(u64::MAX))
        {
            return;
        }
        let window = &mut self.window;
        let since_ns = *window.since_ns.get_or_insert(sample.now_ns);
        window.in_flight = window.in_flight.max(sample.in_flight);
        window.any_dropped |= sample.is_dropped;
        if !sample.is_dropped {
            window.mean.add(sample.latency_ns);
        }
        let is_enough = window.mean.count >= SAMPLES || window.any_dropped;
        if is_enough && sample.now_ns.saturating_sub(since_ns) >= WINDOW_NS {
            let window = std::mem::take(&mut self.window);
            self.advance(&window);
        }
    }

    fn quarter(&self) -> u32 {
        let (min, _) = self.how.bounds();
        u32::try_from((self.limit_milli / 4).max(min) / 1000).unwrap_or(u32::MAX)
    }

    /// Whether the sample belongs to a probe.
    fn probes(&mut self, sample: &Sample, every_ns: u64) -> bool {
        let next = Probe::From(sample.now_ns.saturating_add(every_ns));
        match self.probe {
            Probe::Unknown => self.probe = next,
            Probe::From(from_ns) if sample.now_ns >= from_ns => {
                let longest_ns = self.baseline_ns.unwrap_or_default().saturating_mul(40).max(PROBE_NS);
                let until_ns = sample.now_ns.saturating_add(longest_ns);
                self.probe = Probe::Going { until_ns, mean: Mean::default() };
                self.window = Window::default();
            }
            Probe::From(_) => {}
            Probe::Going { until_ns, mut mean } => {
                if !sample.is_dropped && sample.in_flight <= self.quarter() {
                    mean.add(sample.latency_ns);
                }
                self.probe = Probe::Going { until_ns, mean };
                if mean.count >= SAMPLES {
                    self.baseline_ns = Some(mean.get());
                    self.probe = next;
                } else if sample.now_ns >= until_ns {
                    self.probe = next; // The baseline stays.
                }
                return true;
            }
        }
        false
    }

    fn advance(&mut self, window: &Window) {
        let limit = self.limit_milli;
        let is_used = u64::from(window.in_flight) * 2000 >= limit;
        let next = match self.how {
            Adaptive::Aimd { latency, backoff_percent, .. } => {
                let is_slow = Duration::from_nanos(window.mean.get()) > latency;
                if window.any_dropped || is_slow {
                    limit * u64::from(backoff_percent.min(99)) / 100
                } else if is_used {
                    limit + 1000
                } else {
                    limit
                }
            }
            Adaptive::Gradient2 { tolerance_percent, .. } => {
                let latency_ns = window.mean.get();
                if window.mean.count >= SAMPLES {
                    self.baseline_ns =
                        Some(self.baseline_ns.map_or(latency_ns, |known| known.min(latency_ns)));
                }
                let tolerated_ns = u128::from(self.baseline_ns.unwrap_or(latency_ns))
                    * u128::from(tolerance_percent.max(100))
                    * 10;
                let gradient_milli = u64::try_from(tolerated_ns / u128::from(latency_ns)).unwrap_or(u64::MAX);
                let gradient_milli = if window.any_dropped { 500 } else { gradient_milli.clamp(500, 1000) };
                let goal = limit * gradient_milli / 1000 + (limit * 1000).isqrt();
                let next = (limit * 4 + goal) / 5;
                if is_used { next } else { limit.min(next) }
            }
        };
        let (min, max) = self.how.bounds();
        self.limit_milli = next.clamp(min, max);
    }
}

#[cfg(test)]
mod tests {
    use std::{cmp::Reverse, collections::BinaryHeap};

    use super::*;

    const MS: u64 = 1_000_000;

    /// A service with so many workers and a queue, and more callers than it could ever serve.
    struct Service {
        workers: usize,
        takes_ns: u64,
        now_ns: u64,
        free_ns: BinaryHeap<Reverse<u64>>,
        /// When it ends, when it began, how many were at work then.
        working: BinaryHeap<Reverse<(u64, u64, u32)>>,
    }

    impl Service {
        fn new(workers: usize, takes_ns: u64) -> Self {
            let free_ns = std::iter::repeat_n(Reverse(0), workers).collect();
            Self { workers, takes_ns, now_ns: 0, free_ns, working: BinaryHeap::new() }
        }

        /// Goes on for so long; `demand` is the most that come at once.
        fn run(&mut self, limiter: &mut Limiter, for_ns: u64, demand: u32) -> (u32, u32) {
            let (end_ns, mut low, mut high) = (self.now_ns + for_ns, u32::MAX, 0);
            while self.now_ns < end_ns {
                while self.working.len() < limiter.admits().min(demand) as usize {
                    let Reverse(free_ns) = self.free_ns.pop().unwrap();
                    let ends_ns = free_ns.max(self.now_ns) + self.takes_ns;
                    self.free_ns.push(Reverse(ends_ns));
                    let in_flight = u32::try_from(self.working.len()).unwrap() + 1;
                    self.working.push(Reverse((ends_ns, self.now_ns, in_flight)));
                }
                assert_eq!(self.free_ns.len(), self.workers);
                let Reverse((ends_ns, began_ns, in_flight)) = self.working.pop().unwrap();
                self.now_ns = ends_ns;
                let latency_ns = ends_ns - began_ns;
                limiter.sample(Sample { now_ns: ends_ns, latency_ns, in_flight, is_dropped: false });
                (low, high) = (low.min(limiter.limit()), high.max(limiter.limit()));
            }
            (low, high)
        }
    }

    const MINUTE: u64 = 60_000 * MS;

    #[test]
    fn r14_5_the_gradient_comes_to_rest_near_the_capacity() {
        for workers in [1, 4, 20, 100] {
            let mut limiter = Limiter::new(Adaptive::gradient2(1, 1000));
            let mut service = Service::new(workers, 10 * MS);
            service.run(&mut limiter, MINUTE / 2, u32::MAX);
            let (low, high) = service.run(&mut limiter, 2 * MINUTE, u32::MAX);
            let workers = u32::try_from(workers).unwrap();
            // 1.5 times the workers by the tolerance, and a root for the queue.
            assert!(
                low >= workers && high <= workers * 2 + 4 + workers.isqrt(),
                "{workers}: {low} to {high}"
            );
        }
    }

    /// What a long mean as the baseline follows: each answer a little slower than the last, for half an
    /// hour, because others wait. The limit must not go up with it.
    #[test]
    fn r14_5_a_service_that_slows_down_takes_no_limit_along() {
        let mut limiter = Limiter::new(Adaptive::gradient2(1, 1000));
        let mut service = Service::new(20, 20 * MS);
        service.run(&mut limiter, MINUTE, u32::MAX);
        let (mut highest, mut lowest) = (0, u32::MAX);
        for _ in 0..30 {
            service.takes_ns += service.takes_ns / 20; // Four times as slow in the end.
            let (low, high) = service.run(&mut limiter, MINUTE, u32::MAX);
            (lowest, highest) = (lowest.min(low), highest.max(high));
        }
        assert!(lowest >= 14 && highest <= 50, "{lowest} to {highest}");
        // And when it recovers, so does the limit, and the baseline at once.
        service.takes_ns = 20 * MS;
        service.run(&mut limiter, MINUTE, u32::MAX);
        let (low, high) = service.run(&mut limiter, 2 * MINUTE, u32::MAX);
        assert!(low >= 20 && high <= 50, "{low} to {high}");
        assert!(limiter.baseline_ns.unwrap() <= 21 * MS);
    }

    #[test]
    fn r14_5_a_step_down_is_followed_and_a_step_up_too() {
        let mut limiter = Limiter::new(Adaptive::gradient2(2, 1000));
        let mut fast = Service::new(40, 10 * MS);
        fast.run(&mut limiter, 2 * MINUTE, u32::MAX);
        let before = limiter.limit();
        let mut half = Service { now_ns: fast.now_ns, ..Service::new(10, 10 * MS) };
        half.run(&mut limiter, 2 * MINUTE, u32::MAX);
        let (low, high) = half.run(&mut limiter, 2 * MINUTE, u32::MAX);
        assert!(before >= 40 && low >= 10 && high <= 27, "{before}, then {low} to {high}");
        let mut again = Service { now_ns: half.now_ns, ..Service::new(40, 10 * MS) };
        again.run(&mut limiter, 2 * MINUTE, u32::MAX);
        assert!(limiter.limit() >= 40, "{}", limiter.limit());
    }

    #[test]
    fn r14_5_additive_increase_stays_below_the_latency_it_is_told() {
        let how = Adaptive::aimd(1, 1000, Duration::from_millis(20));
        let (mut limiter, mut service) = (Limiter::new(how), Service::new(20, 10 * MS));
        service.run(&mut limiter, 2 * MINUTE, u32::MAX);
        let (low, high) = service.run(&mut limiter, 5 * MINUTE, u32::MAX);
        assert!(low >= 20 && high <= 45, "20 workers and as many waiting: {low} to {high}");
        for _ in 0..200 {
            service.now_ns += 100 * MS;
            let now_ns = service.now_ns;
            limiter.sample(Sample { now_ns, latency_ns: 1, in_flight: 40, is_dropped: true });
        }
        assert_eq!(limiter.limit(), 1, "what is dropped drives it down");
    }

    #[test]
    fn what_is_not_used_does_not_rise_and_bounds_hold() {
        for how in [Adaptive::gradient2(8, 12), Adaptive::aimd(8, 12, Duration::from_millis(20))] {
            let (mut limiter, mut service) = (Limiter::new(how), Service::new(20, 10 * MS));
            assert_eq!(service.run(&mut limiter, MINUTE, 3), (8, 8), "three of eight");
            let (low, high) = service.run(&mut limiter, MINUTE, u32::MAX);
            assert_eq!((low, high, limiter.limit()), (8, 12, 12));
            let other = Adaptive::gradient2(20, 30);
            assert_eq!(limiter.reconfigured(other).limit(), 20);
            service.takes_ns *= 100;
            let (low, high) = service.run(&mut limiter, 5 * MINUTE, u32::MAX);
            assert!(low >= 8 && high <= 12);
        }
    }
}
