//! Limits that follow what is behind: pure functions of samples. No clock, no HTTP, no runtime, no lock.
//!
//! Samples are taken together until there are ten of them and a tenth of a second has gone by; then the
//! limit moves once. It never leaves `min..=max`, and does not rise while less than half of it is used.

use std::{mem, time::Duration};

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
    /// the gradient stays 1 and the limit drifts to its maximum. Here it is the mean of requests that found no
    /// more than a quarter of the limit at work, and is measured anew in each `probe_every`: by all that came in
    /// it, if there were fifty of them, which costs nothing; else the limit is lowered to that quarter until
    /// twenty to fifty have come and gone (as Envoy's adaptive concurrency does for its `minRTT`). So waiting
    /// behind others never counts as the normal state, and a service that has become slower or faster by itself
    /// is known within one `probe_every`.
    ///
    /// A probe is given up after a second, or forty times the baseline or what answers took just before it, if that is longer.
    /// What it found is kept for the next one if it was too little. Where nobody came back that it had let in, as others
    /// held all of the quarter for so long (streams), the next one comes after twice the time, up to sixteen `probe_every`.
    ///
    /// It is a mean, and not the lowest of many means: of latencies that differ from request to request
    /// the lowest mean is far below what they are, by chance alone. And of those that begin at once the short ones
    /// come back first, so the first three for each place do not count while the limit is lowered. With either
    /// of these a hundred workers whose times are spread exponentially seemed to take ten times as long as they
    /// should, and the limit went down to four.
    Gradient2 {
        /// The lowest limit, and the first; 0 counts as 1.
        min: u32,
        /// The highest.
        max: u32,
        /// How much slower than the baseline is well; 150 is half as slow again. At least 100.
        tolerance_percent: u32,
        /// From one baseline to the next.
        probe_every: Duration,
    },
}

impl Adaptive {
    /// Additive increase, to 90 percent if the mean latency is above `latency`.
    pub const fn aimd(min: u32, max: u32, latency: Duration) -> Self {
        Self::Aimd { min, max, latency, backoff_percent: 90 }
    }

    /// By the gradient of the latency, up to half above the baseline, which is measured every 30 seconds.
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
    /// How long answers took in the last window that had any.
    seen_ns: u64,
    /// Of requests that found few at work, since the baseline was measured or a probe began that followed no failed one.
    quiet: Mean,
    probe: Probe,
    /// The last probe found too little.
    has_failed: bool,
    /// So many probes in a row let nobody in.
    idle: u32,
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
    /// Not before the first sample, with which the first one begins.
    Unknown,
    /// From then on, unless there are enough quiet ones by then.
    From(u64),
    /// The limit is lowered; the next so many that come back are short ones. Nobody has come back yet if it is idle.
    Going { until_ns: u64, skips: u64, is_idle: bool },
}

const SAMPLES: u64 = 10;
const WINDOW_NS: u64 = 100_000_000;
/// A probe that finds too little ends: after this long, or forty times what is known of latencies.
const PROBE_NS: u64 = 1_000_000_000;
/// So often the time to the next probe is doubled.
const MAX_IDLE: u32 = 4;
/// By so many a baseline is known without a probe.
const ENOUGH: u64 = 50;
/// At the least, and at the most, by so many with one; and between these three for each place.
const PROBED: (u64, u64) = (20, 50);
/// So many for each place come back too early.
const SKIPS: u64 = 3;

impl Limiter {
    /// At its lowest.
    pub fn new(how: Adaptive) -> Self {
        let (limit_milli, _) = how.bounds();
        Self {
            how,
            limit_milli,
            baseline_ns: None,
            window: Window::default(),
            seen_ns: 0,
            quiet: Mean::default(),
            probe: Probe::Unknown,
            has_failed: false,
            idle: 0,
        }
    }

    /// The same limit under other rules, within their bounds. Where they are of another kind, nothing else is kept.
    #[must_use]
    pub fn reconfigured(self, how: Adaptive) -> Self {
        let (min, max) = how.bounds();
        let limit_milli = self.limit_milli.clamp(min, max);
        let is_same = mem::discriminant(&how) == mem::discriminant(&self.how);
        let known = if is_same { self } else { Self::new(how) };
        Self { how, limit_milli, ..known }
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
        if self.is_probing() { self.quarter() } else { self.limit() }
    }

    /// Whether the limit is lowered for a while.
    pub fn is_probing(&self) -> bool {
        matches!(self.probe, Probe::Going { .. })
    }

    /// So late it is: a probe whose time is over ends, though nobody has been answered.
    pub fn pass(&mut self, now_ns: u64) {
        if let (Adaptive::Gradient2 { probe_every, .. }, Probe::Going { until_ns, .. }) =
            (self.how, self.probe)
            && now_ns >= until_ns
        {
            self.measured(now_ns, nanos(probe_every));
        }
    }

    /// One more sample.
    pub fn sample(&mut self, sample: Sample) {
        if let Adaptive::Gradient2 { probe_every, .. } = self.how
            && self.probes(&sample, nanos(probe_every))
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
            let window = mem::take(&mut self.window);
            self.advance(&window);
        }
    }

    fn quarter(&self) -> u32 {
        let (min, _) = self.how.bounds();
        u32::try_from((self.limit_milli / 4).max(min) / 1000).unwrap_or(u32::MAX)
    }

    /// Whether the sample belongs to a probe.
    fn probes(&mut self, sample: &Sample, every_ns: u64) -> bool {
        let places = u64::from(self.quarter());
        let is_quiet = u64::from(sample.in_flight) <= places;
        if let Probe::Going { skips, is_idle, .. } = &mut self.probe
            && is_quiet
            && (*is_idle || *skips > 0)
        {
            *is_idle = false;
            *skips = skips.saturating_sub(u64::from(!sample.is_dropped));
        } else if is_quiet && !sample.is_dropped {
            self.quiet.add(sample.latency_ns);
        }
        match self.probe {
            Probe::From(from_ns) if sample.now_ns < from_ns => return false,
            Probe::From(_) if self.quiet.count >= ENOUGH => {
                self.measured(sample.now_ns, every_ns);
                return false;
            }
            Probe::Unknown | Probe::From(_) => {
                let Window { mean, .. } = mem::take(&mut self.window);
                if mean.count > 0 {
                    self.seen_ns = mean.get();
                }
                let latency_ns = self.baseline_ns.unwrap_or(sample.latency_ns).max(self.seen_ns);
                let until_ns = sample.now_ns.saturating_add(latency_ns.saturating_mul(40).max(PROBE_NS));
                if !self.has_failed {
                    self.quiet = Mean::default();
                }
                self.probe = Probe::Going { until_ns, skips: places * SKIPS, is_idle: true };
            }
            Probe::Going { until_ns, .. } => {
                let (least, most) = PROBED;
                if self.quiet.count >= (places * 3).clamp(least, most) || sample.now_ns >= until_ns {
                    self.measured(sample.now_ns, every_ns);
                }
            }
        }
        true
    }

    /// What is known of quiet times is the baseline, if it is enough; else that stays, and more is added to it.
    fn measured(&mut self, now_ns: u64, every_ns: u64) {
        self.has_failed = self.quiet.count < SAMPLES;
        if !self.has_failed {
            self.baseline_ns = Some(mem::take(&mut self.quiet).get());
        }
        let is_idle = matches!(self.probe, Probe::Going { is_idle: true, .. });
        self.idle = if is_idle { (self.idle + 1).min(MAX_IDLE) } else { 0 };
        self.probe = Probe::From(now_ns.saturating_add(every_ns.saturating_mul(1 << self.idle)));
    }

    fn advance(&mut self, window: &Window) {
        if window.mean.count > 0 {
            self.seen_ns = window.mean.get();
        }
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

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::{
        cmp::Reverse,
        collections::{BinaryHeap, VecDeque},
    };

    use super::*;
    use crate::random::mix;

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

    /// The bound of a probe was forty of the old latencies: at the lowest limit too few came back within it, and what came
    /// was forgotten, so the limit stayed at four with forty workers for good.
    #[test]
    fn r14_5_a_service_that_takes_many_times_as_long_from_one_moment_to_the_next_gets_its_limit_back() {
        for times in [5, 20, 50, 100] {
            let mut limiter = Limiter::new(Adaptive::gradient2(1, 1000));
            let mut service = Service::new(40, 10 * MS);
            service.run(&mut limiter, 2 * MINUTE, u32::MAX);
            service.takes_ns *= times;
            service.run(&mut limiter, 5 * MINUTE, u32::MAX);
            let (low, high) = service.run(&mut limiter, 5 * MINUTE, u32::MAX);
            assert!(low >= 40 && high <= 90, "{times} times: {low} to {high}");
            assert_eq!(limiter.baseline_ns, Some(times * 10 * MS));
        }
    }

    #[test]
    fn r14_5_no_rest_of_a_probe_stays_under_rules_that_know_none() {
        let mut limiter = Limiter::new(Adaptive::gradient2(2, 200));
        Service::new(100, 10 * MS).run(&mut limiter, MINUTE, u32::MAX);
        limiter.probe = Probe::From(0);
        limiter.sample(Sample { now_ns: MINUTE, latency_ns: MS, in_flight: 100, is_dropped: false });
        assert!(limiter.admits() < limiter.limit());
        let other = limiter.reconfigured(Adaptive::aimd(2, 200, Duration::from_secs(1)));
        assert_eq!((other.admits(), other.limit()), (limiter.limit(), limiter.limit()));
        let again = other.reconfigured(Adaptive::gradient2(2, 200));
        assert_eq!((again.baseline_ns, again.probe), (None, Probe::Unknown));
        let same = limiter.reconfigured(Adaptive::gradient2(2, 300));
        assert_eq!((same.baseline_ns, same.probe), (limiter.baseline_ns, limiter.probe));
    }

    /// A service whose requests come by chance and take times that are spread exponentially: many are short, and some are
    /// five times as long as the mean.
    struct Spread {
        workers: usize,
        chance: u64,
        now_s: f64,
        waiting: VecDeque<(f64, u32)>,
        /// When it ends, in nanoseconds, when it came, how many were at work then.
        working: BinaryHeap<Reverse<(u64, u64, u32)>>,
    }

    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a test in seconds"
    )]
    impl Spread {
        const MEAN_S: f64 = 0.1;

        fn new(workers: usize) -> Self {
            let (waiting, working) = (VecDeque::new(), BinaryHeap::new());
            Self { workers, chance: 7, now_s: 0.0, waiting, working }
        }

        fn around(&mut self, mean_s: f64) -> f64 {
            self.chance += 1;
            let share = ((mix(self.chance) >> 11) as f64 + 1.0) / (1_u64 << 53) as f64;
            -share.ln() * mean_s
        }

        fn work(&mut self, (came_s, in_flight): (f64, u32)) {
            let ends_s = self.now_s + self.around(Self::MEAN_S);
            self.working.push(Reverse(((ends_s * 1e9) as u64, (came_s * 1e9) as u64, in_flight)));
        }

        /// Goes on for so long under a load, of what it can do. Says how many of those that came were refused, and how
        /// many were answered of those that could be.
        fn run(&mut self, limiter: &mut Limiter, load: f64, for_s: f64) -> (f64, f64) {
            let (end_s, can) = (self.now_s + for_s, self.workers as f64 / Self::MEAN_S);
            let (mut came, mut refused, mut answered) = (0.0, 0.0, 0.0);
            let mut next_s = self.now_s + self.around(1.0 / can / load);
            loop {
                let ends_s =
                    self.working.peek().map_or(f64::MAX, |Reverse((ends_ns, ..))| *ends_ns as f64 / 1e9);
                self.now_s = next_s.min(ends_s);
                if self.now_s > end_s {
                    return (refused / came, answered / (can * for_s));
                }
                let in_flight = u32::try_from(self.working.len() + self.waiting.len()).unwrap() + 1;
                if next_s < ends_s {
                    next_s = self.now_s + self.around(1.0 / can / load);
                    came += 1.0;
                    if in_flight > limiter.admits() {
                        refused += 1.0;
                    } else if self.working.len() < self.workers {
                        self.work((self.now_s, in_flight));
                    } else {
                        self.waiting.push_back((self.now_s, in_flight));
                    }
                    continue;
                }
                let Reverse((now_ns, came_ns, in_flight)) = self.working.pop().unwrap();
                answered += 1.0;
                let latency_ns = now_ns - came_ns;
                limiter.sample(Sample { now_ns, latency_ns, in_flight, is_dropped: false });
                if let Some(next) = self.waiting.pop_front() {
                    self.work(next);
                }
            }
        }
    }

    /// The baseline was the lowest mean of ten, and a probe ended with the first ten that came back: three quarters of
    /// what a hundred workers could have done were refused.
    #[test]
    fn r14_5_service_times_that_are_spread_exponentially_do_not_shrink_the_limit() {
        for workers in [4, 10, 20, 100] {
            let mut limiter = Limiter::new(Adaptive::gradient2(2, 1000));
            let mut service = Spread::new(workers);
            service.run(&mut limiter, 0.5, 60.0);
            for load in [0.3, 0.5, 0.7] {
                let (refused, _) = service.run(&mut limiter, load, 300.0);
                assert!(refused < 0.01, "{workers} at {load}: {refused} refused, {}", limiter.limit());
            }
            service.run(&mut limiter, 2.0, 20.0);
            let (_, answered) = service.run(&mut limiter, 2.0, 300.0);
            let limit = limiter.limit() as usize;
            assert!(
                answered > 0.94 && limit < workers * 3 + 8,
                "{workers} under twice of it: {answered}, {limit}"
            );
        }
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
