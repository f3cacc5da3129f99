//! The algorithms alone: several windows over one key. No clock, no HTTP, no runtime, no lock.

use std::{fmt, num::NonZeroU32, time::Duration};

use super::sliding::{Sliding, scaled};

/// The most windows one quota can have.
pub const MAX_WINDOWS: usize = 4;

/// How a window counts; see the [module docs](super).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Algorithm {
    /// What is spent comes back evenly, one request at a time.
    #[default]
    Gcra,
    /// The count of this window and, weighted, of the one before it.
    SlidingWindow,
}

/// A tier's share of a quota, in percent: of its rate, and of its burst.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Factor(NonZeroU32);

impl Factor {
    /// The quota as it is.
    pub const ONE: Self = Self::percent(100);

    /// So many percent; 0 counts as 1.
    pub const fn percent(percent: u32) -> Self {
        Self(if let Some(percent) = NonZeroU32::new(percent) { percent } else { NonZeroU32::MIN })
    }

    /// In percent.
    pub const fn get(self) -> u32 {
        self.0.get()
    }

    /// Of a number of requests: rounded down, at least 1.
    fn of(self, requests: u32) -> u32 {
        let share = u64::from(requests) * u64::from(self.get()) / 100;
        u32::try_from(share).unwrap_or(u32::MAX).max(1)
    }
}

/// So many requests in so much time, and so many of them at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    algorithm: Algorithm,
    per_ns: u64,
    count: u32,
    burst: u32,
    interval_ns: u64,  // what one request costs; at least 1
    tolerance_ns: u64, // how far the theoretical arrival may run ahead of now
}

impl Window {
    /// `count` requests in `per`, all of them at once if need be.
    ///
    /// The interval between two requests is rounded up to whole nanoseconds, so that no rounding
    /// ever admits more than was said; a `per` below `count` nanoseconds acts as one a nanosecond.
    pub const fn new(count: NonZeroU32, per: Duration) -> Self {
        let nanos = per.as_nanos();
        #[expect(clippy::cast_possible_truncation, reason = "clamped in the branch before")]
        let per_ns = if nanos > u64::MAX as u128 { u64::MAX } else { nanos as u64 };
        let interval_ns = per_ns.div_ceil(count.get() as u64);
        let interval_ns = if interval_ns == 0 { 1 } else { interval_ns };
        let (algorithm, count, burst) = (Algorithm::Gcra, count.get(), count);
        Self { algorithm, per_ns, count, burst: count, interval_ns, tolerance_ns: 0 }.burst(burst)
    }

    /// `count` requests a second.
    ///
    /// # Panics
    /// If `count` is 0.
    pub const fn per_second(count: u32) -> Self {
        Self::new(at_least_one(count), Duration::from_secs(1))
    }

    /// `count` requests a minute.
    ///
    /// # Panics
    /// If `count` is 0.
    pub const fn per_minute(count: u32) -> Self {
        Self::new(at_least_one(count), Duration::from_mins(1))
    }

    /// `count` requests an hour.
    ///
    /// # Panics
    /// If `count` is 0.
    pub const fn per_hour(count: u32) -> Self {
        Self::new(at_least_one(count), Duration::from_hours(1))
    }

    /// The same rate, but only so many at once. Without this, as many as the rate's count. It says
    /// nothing to a [sliding window](Algorithm::SlidingWindow), which admits its whole count at once.
    #[must_use]
    pub const fn burst(mut self, burst: NonZeroU32) -> Self {
        self.burst = burst.get();
        self.tolerance_ns = self.interval_ns.saturating_mul(burst.get() as u64 - 1);
        self
    }

    /// From spent to full.
    pub const fn refill(&self) -> Duration {
        Duration::from_nanos(self.full_ns())
    }

    /// The same window, which counts so.
    pub(super) const fn counted(mut self, algorithm: Algorithm) -> Self {
        self.algorithm = algorithm;
        self
    }

    /// What it was made of: algorithm, count, nanoseconds, and burst.
    pub(super) const fn said(&self) -> (Algorithm, u32, u64, u32) {
        (self.algorithm, self.count, self.per_ns, self.burst)
    }

    /// After so long without a request nothing is spent.
    fn rest_ns(&self, word: u64, now_ns: u64) -> u64 {
        match self.algorithm {
            Algorithm::Gcra => word.saturating_sub(now_ns),
            Algorithm::SlidingWindow => self.sliding().reset_ns(word, now_ns),
        }
    }

    /// The longest after which a request has no consequence.
    const fn full_ns(&self) -> u64 {
        match self.algorithm {
            Algorithm::Gcra => self.tolerance_ns.saturating_add(self.interval_ns),
            Algorithm::SlidingWindow => self.per_ns.saturating_mul(2),
        }
    }

    /// The largest number of requests admitted at once.
    fn most(&self) -> u32 {
        match self.algorithm {
            Algorithm::Gcra => self.burst,
            Algorithm::SlidingWindow => u32::try_from(self.sliding().limit()).unwrap_or(u32::MAX),
        }
    }

    /// The window of a tier. The interval is computed anew, so that nothing is rounded twice.
    fn scaled(&self, factor: Factor) -> Self {
        if factor == Factor::ONE {
            return *self;
        }
        let hundredths = u64::from(self.count).saturating_mul(u64::from(factor.get()));
        let (count, burst) = (factor.of(self.count), factor.of(self.burst));
        let interval_ns = scaled(self.per_ns, 100, hundredths).max(1);
        let burst = NonZeroU32::new(burst).unwrap_or(NonZeroU32::MIN);
        Self { count, interval_ns, ..*self }.burst(burst)
    }

    const fn sliding(&self) -> Sliding {
        Sliding::new(self.per_ns, self.count)
    }

    /// Charges `cost`: what is left, and the new word; or the wait, `None` if none would help.
    fn take(&self, word: u64, cost: u32, now_ns: u64) -> Result<(u64, u64), Option<u64>> {
        if self.algorithm == Algorithm::SlidingWindow {
            return self.sliding().take(word, cost, now_ns);
        }
        if cost > self.burst {
            return Err(None);
        }
        let due_ns = word.max(now_ns);
        let cost_ns = self.interval_ns.saturating_mul(u64::from(cost));
        let ahead_ns = (due_ns - now_ns).saturating_add(cost_ns.saturating_sub(self.interval_ns));
        match ahead_ns.saturating_sub(self.tolerance_ns) {
            0 => Ok(((self.tolerance_ns - ahead_ns) / self.interval_ns, due_ns.saturating_add(cost_ns))),
            wait_ns => Err(Some(wait_ns)),
        }
    }

    /// Charges `cost` whatever is left, but never more than all of it.
    fn charge(&self, word: u64, (cost, tier): (u32, Factor), widest: Factor, now_ns: u64) -> u64 {
        if self.algorithm == Algorithm::SlidingWindow {
            return self.sliding().charge(word, u64::from(cost), self.cap(widest), now_ns);
        }
        let cost_ns = scaled(self.interval_ns.saturating_mul(u64::from(cost)), 100, u64::from(tier.get()));
        let due_ns = word.max(now_ns).saturating_add(cost_ns);
        due_ns.min(now_ns.saturating_add(self.full_ns()).max(word))
    }

    /// What is spent, in a measure that orders the words of one window.
    fn spent(&self, word: u64, now_ns: u64) -> u64 {
        match self.algorithm {
            Algorithm::Gcra => word.saturating_sub(now_ns),
            Algorithm::SlidingWindow => self.sliding().spent_at(word, now_ns),
        }
    }

    /// The most that a count of a sliding window can be, over all tiers.
    fn cap(&self, widest: Factor) -> u64 {
        u64::from(widest.of(self.count).max(self.count))
    }

    fn standing(&self, word: u64, now_ns: u64) -> Standing {
        let (per_ns, left, reset_ns) = match self.algorithm {
            Algorithm::Gcra => {
                let (ahead_ns, full_ns) = (word.saturating_sub(now_ns), self.full_ns());
                // Without what the interval was rounded by: all of one second comes back in one second.
                let per_ns = scaled(self.per_ns, u64::from(self.burst), u64::from(self.count));
                let reset_ns = if ahead_ns > full_ns { ahead_ns } else { ahead_ns.min(per_ns) };
                (per_ns, full_ns.saturating_sub(ahead_ns) / self.interval_ns, reset_ns)
            }
            Algorithm::SlidingWindow => {
                let sliding = self.sliding();
                let left = sliding.limit().saturating_sub(sliding.spent_at(word, now_ns));
                (self.per_ns, left, sliding.reset_ns(word, now_ns))
            }
        };
        let [per, reset] = [per_ns, reset_ns].map(Duration::from_nanos);
        Standing { quota: self.most(), per, left, reset }
    }
}

/// Where a key stands with one window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The largest number of requests at once.
    pub quota: u32,
    /// From spent to full.
    pub per: Duration,
    /// How many of them are left.
    pub left: u64,
    /// Until all of them are, if none is asked for.
    pub reset: Duration,
}

const fn at_least_one(count: u32) -> NonZeroU32 {
    NonZeroU32::new(count).expect("a rate admits at least one request")
}

/// One to [`MAX_WINDOWS`] windows, which all must admit; none is charged if one does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    windows: [Window; MAX_WINDOWS],
    len: usize,
}

impl Quota {
    /// All of these windows.
    ///
    /// # Errors
    /// If there is none, or more than [`MAX_WINDOWS`].
    pub fn new(windows: &[Window]) -> Result<Self, QuotaError> {
        let Some(first) = windows.first() else { return Err(QuotaError { windows: 0 }) };
        let mut all = [*first; MAX_WINDOWS];
        let place = all.get_mut(..windows.len()).ok_or(QuotaError { windows: windows.len() })?;
        place.copy_from_slice(windows);
        Ok(Self { windows: all, len: windows.len() })
    }

    /// The same windows, which count so.
    #[must_use]
    pub fn algorithm(mut self, algorithm: Algorithm) -> Self {
        self.windows.iter_mut().for_each(|window| *window = window.counted(algorithm));
        self
    }

    /// What a tier has of it.
    #[must_use]
    pub fn scaled(mut self, factor: Factor) -> Self {
        self.windows.iter_mut().for_each(|window| *window = window.scaled(factor));
        self
    }

    /// Where a key stands with each window.
    pub fn standing(&self, cell: &Cell, now_ns: u64) -> impl Iterator<Item = Standing> {
        let all = self.windows().iter().zip(cell.words);
        all.map(move |(window, word)| window.standing(word, now_ns))
    }

    /// From spent to full: after this long without a request a key has no history.
    pub fn refill(&self) -> Duration {
        self.windows().iter().map(Window::refill).max().unwrap_or_default()
    }

    /// The largest number of requests admitted at once.
    pub fn burst(&self) -> u32 {
        self.windows().iter().map(Window::most).min().unwrap_or_default()
    }

    pub(super) fn windows(&self) -> &[Window] {
        &self.windows[..self.len]
    }
}

impl From<Window> for Quota {
    fn from(window: Window) -> Self {
        Self { windows: [window; MAX_WINDOWS], len: 1 }
    }
}

/// A quota has no windows, or too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuotaError {
    windows: usize,
}

impl fmt::Display for QuotaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a quota has 1 to {MAX_WINDOWS} windows, not {}", self.windows)
    }
}

impl std::error::Error for QuotaError {}

/// All that is remembered of one key, a word for each window. Under [`Algorithm::Gcra`] it is the
/// theoretical arrival of the next request, in nanoseconds since the limiter's start; under
/// [`Algorithm::SlidingWindow`] the number of a window and two counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cell {
    words: [u64; MAX_WINDOWS],
}

impl Cell {
    /// The cell of a key that was never seen.
    pub(super) const FRESH: Self = Self { words: [0; MAX_WINDOWS] };

    pub(super) const fn of(words: [u64; MAX_WINDOWS]) -> Self {
        Self { words }
    }

    pub(super) const fn words(&self) -> [u64; MAX_WINDOWS] {
        self.words
    }
}

/// One request at `now_ns` that costs so much: how many more of cost 1 would be admitted at once in the
/// tightest window, or the shortest wait after which all windows would admit it; `None` if it costs more
/// than one of them ever has. The new cell differs from the old one only on `Ok`.
///
/// Per GCRA window, with `arrival` the theoretical arrival: `due = max(arrival, now)`; admit if
/// `due - now + (cost - 1) * interval <= tolerance`, then `arrival = due + cost * interval`. A sliding
/// window admits if `spent + cost <= count`, where `spent` is what this window has seen and, weighted by
/// how much of it is still within one period and rounded up, the window before it.
pub fn evaluate(quota: &Quota, cell: &Cell, cost: u32, now_ns: u64) -> (Result<u64, Option<Duration>>, Cell) {
    let (mut next, mut wait_ns, mut left) = (*cell, Some(0_u64), u64::MAX);
    for (window, word) in quota.windows().iter().zip(&mut next.words) {
        match window.take(*word, cost, now_ns) {
            Ok((more, charged)) => {
                left = left.min(more);
                *word = charged;
            }
            Err(wait) => wait_ns = wait_ns.and_then(|longest| Some(longest.max(wait?))),
        }
    }
    match wait_ns {
        Some(0) => (Ok(left), next),
        wait_ns => (Err(wait_ns.map(Duration::from_nanos)), *cell),
    }
}

/// Carries a cell from one quota to another: what was consumed stays consumed, counted in
/// requests and clamped to the new burst. A window goes on from the old one with the same period,
/// else from the one in its place; one that has no predecessor starts full.
pub fn migrate(from: &Quota, to: &Quota, cell: &Cell, now_ns: u64) -> Cell {
    let from = Layout::new(*from, Factor::ONE);
    carry(&from, &from.next(to, Factor::ONE, now_ns), cell, now_ns)
}

/// What the places of a cell mean: the windows of a quota, and behind them those of earlier quotas that
/// still could have something to say. These refuse nobody, but are charged: whoever lowers a limit, or
/// takes it away, and then goes back refills nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    quota: Quota,
    /// The largest factor of a tier.
    widest: Factor,
    retired: [Option<Retired>; MAX_WINDOWS],
}

/// A window of an earlier quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Retired {
    window: Window,
    /// From then on what was consumed under it has come back.
    until_ns: u64,
}

impl Layout {
    pub(super) const fn new(quota: Quota, widest: Factor) -> Self {
        Self { quota, widest, retired: [None; MAX_WINDOWS] }
    }

    /// Of windows in force and, behind them, those that are gone; `None` if there are none in force, or too many.
    pub(super) fn restored(windows: &[(Window, Option<u64>)], widest: Factor) -> Option<Self> {
        let gone = windows.iter().position(|(_, until_ns)| until_ns.is_some()).unwrap_or(windows.len());
        let (in_force, gone) = windows.split_at(gone);
        let in_force = in_force.iter().map(|(window, _)| *window).collect::<Vec<_>>();
        let mut layout = Self::new(Quota::new(&in_force).ok()?, widest);
        let places = layout.retired.get_mut(..gone.len()).filter(|_| windows.len() <= MAX_WINDOWS)?;
        for (place, (window, until_ns)) in places.iter_mut().zip(gone) {
            *place = until_ns.map(|until_ns| Retired { window: *window, until_ns });
        }
        Some(layout)
    }

    pub(super) const fn quota(&self) -> &Quota {
        &self.quota
    }

    pub(super) const fn widest(&self) -> Factor {
        self.widest
    }

    /// What the words of a cell mean, and until when those windows count that are gone.
    pub(super) fn windows(&self) -> impl Iterator<Item = (&Window, Option<u64>)> {
        let in_force = self.quota.windows().iter().map(|window| (window, None));
        in_force.chain(self.retired.iter().flatten().map(|it| (&it.window, Some(it.until_ns))))
    }

    /// After so long without a request a cell says no more than no cell would.
    pub(super) fn rest_ns(&self, cell: &Cell, now_ns: u64) -> u64 {
        self.known(cell, now_ns).map(|(window, word)| window.rest_ns(word, now_ns)).max().unwrap_or_default()
    }

    /// The layout of the next quota; the same one for the same quota. Where there is no place for all
    /// windows that are gone, those go whose history is over first.
    pub(super) fn next(&self, quota: &Quota, widest: Factor, now_ns: u64) -> Self {
        if *quota == self.quota {
            return Self { widest, ..*self };
        }
        let gone = self.quota.windows().iter();
        let gone =
            gone.map(|window| Retired { window: *window, until_ns: now_ns.saturating_add(window.full_ns()) });
        let all = gone.chain(self.retired.into_iter().flatten());
        let mut all = all
            .filter(|it| it.until_ns > now_ns && !quota.windows().contains(&it.window))
            .collect::<Vec<_>>();
        all.sort_by_key(|it| std::cmp::Reverse(it.until_ns));
        let mut retired = [None; MAX_WINDOWS];
        let places = &mut retired[..MAX_WINDOWS - quota.len];
        places.iter_mut().zip(all).for_each(|(place, it)| *place = Some(it));
        Self { quota: *quota, widest, retired }
    }

    /// Whether a cell means the same under both.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        self.quota == other.quota && self.retired == other.retired
    }

    /// What was admitted by somebody else, counted by all windows.
    pub(super) fn charge_all(&self, mut cell: Cell, paid: (u32, Factor), now_ns: u64) -> Cell {
        for (window, word) in self.quota.windows().iter().zip(&mut cell.words) {
            *word = window.charge(*word, paid, self.widest, now_ns);
        }
        self.charge(cell, paid, now_ns)
    }

    /// One request that was admitted, with its cost and tier, counted by the windows that are gone.
    pub(super) fn charge(&self, mut cell: Cell, paid: (u32, Factor), now_ns: u64) -> Cell {
        let places = &mut cell.words[self.quota.len..];
        for (Retired { window, until_ns }, word) in self.retired.iter().flatten().zip(places) {
            if *until_ns > now_ns {
                *word = window.charge(*word, paid, self.widest, now_ns);
            } // Else its history is over.
        }
        cell
    }

    /// Whether a cell says no more than no cell would: forgetting it gives nobody anything.
    pub(super) fn is_idle(&self, cell: &Cell, now_ns: u64) -> bool {
        self.known(cell, now_ns).all(|(window, word)| window.spent(word, now_ns) == 0)
    }

    /// All windows that still have something to say, each with what a cell says of it.
    fn known(&self, cell: &Cell, now_ns: u64) -> impl Iterator<Item = (&Window, u64)> {
        let quota = self.quota.windows().iter().map(|window| (window, true));
        let retired = self.retired.iter().flatten().map(move |it| (&it.window, it.until_ns > now_ns));
        let all = quota.chain(retired).zip(cell.words);
        all.filter_map(|((window, counts), word)| counts.then_some((window, word)))
    }

    /// What a word of one window is in another one that has seen as many requests.
    ///
    /// A GCRA window counts a tier's request as the part of the tier's burst that it is, a sliding one as
    /// one request. So who goes from the first to the second is taken to be of the widest tier.
    fn convert(&self, old: &Window, new: &Window, word: u64, now_ns: u64) -> u64 {
        use Algorithm::{Gcra, SlidingWindow};
        let (cap, sliding) = (new.cap(self.widest), new.sliding());
        match (old.algorithm, new.algorithm) {
            (Gcra, Gcra) => {
                let ahead_ns = scaled(word.saturating_sub(now_ns), new.interval_ns, old.interval_ns);
                now_ns.saturating_add(ahead_ns.min(new.full_ns()))
            }
            (SlidingWindow, SlidingWindow) if old.per_ns == new.per_ns => sliding.capped(word, cap, now_ns),
            (SlidingWindow, SlidingWindow) => {
                sliding.with_spent(old.sliding().spent_at(word, now_ns).min(cap), now_ns)
            }
            (SlidingWindow, Gcra) => {
                let ahead_ns = new.interval_ns.saturating_mul(old.sliding().spent_at(word, now_ns));
                now_ns.saturating_add(ahead_ns.min(new.full_ns()))
            }
            (Gcra, SlidingWindow) => {
                let widest = u64::from(self.widest.get().max(Factor::ONE.get()));
                let interval_ns = old.interval_ns.saturating_mul(100);
                let spent = scaled(word.saturating_sub(now_ns), widest, interval_ns);
                sliding.with_spent(spent.min(cap), now_ns)
            }
        }
    }
}

/// Carries a cell from one layout to the next.
pub(super) fn carry(from: &Layout, to: &Layout, cell: &Cell, now_ns: u64) -> Cell {
    // What passed under either of both may count.
    let both = Layout { widest: Factor(from.widest.0.max(to.widest.0)), ..*to };
    let mut next = Cell::default();
    for (place, new) in to.quota.windows().iter().enumerate() {
        // The very same window has been charged all along.
        if let Some((_, word)) = from.known(cell, now_ns).find(|(old, _)| *old == new) {
            next.words[place] = word;
            continue;
        }
        let same_period = from.known(cell, now_ns).filter(|(old, _)| old.per_ns == new.per_ns);
        let words = same_period.map(|(old, word)| both.convert(old, new, word, now_ns));
        let word = words.max_by_key(|word| new.spent(*word, now_ns)).or_else(|| {
            let old = from.quota.windows().get(place)?;
            let is_taken = to.quota.windows().iter().any(|new| new.per_ns == old.per_ns);
            (!is_taken).then(|| both.convert(old, new, cell.words[place], now_ns))
        });
        next.words[place] = word.unwrap_or_default();
    }
    let places = next.words[to.quota.len..].iter_mut();
    for (Retired { window, .. }, place) in to.retired.iter().flatten().zip(places) {
        let known = from.known(cell, now_ns).find(|(old, _)| *old == window);
        *place = known.map_or(0, |(_, word)| word);
    }
    next
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admitted(quota: &Quota, cell: &mut Cell, now_ns: u64, tries: u32) -> u32 {
        (0..tries).fold(0, |sum, _| {
            let (verdict, next) = evaluate(quota, cell, 1, now_ns);
            *cell = next;
            sum + u32::from(verdict.is_ok())
        })
    }

    #[test]
    fn a_rate_that_does_not_divide_its_period_never_admits_more() {
        let quota = Quota::from(Window::per_second(7).burst(NonZeroU32::MIN));
        let mut cell = Cell::default();
        let in_ten_seconds: u32 = (0..10_000).map(|ms| admitted(&quota, &mut cell, ms * 1_000_000, 1)).sum();
        assert!(in_ten_seconds <= 70, "{in_ten_seconds}");
    }

    #[test]
    fn extreme_quotas_saturate() {
        let century = Duration::from_secs(u64::MAX);
        let quota = Quota::from(Window::new(NonZeroU32::MIN, century).burst(NonZeroU32::MAX));
        let mut cell = Cell::default();
        assert_eq!(admitted(&quota, &mut cell, u64::MAX - 1, 3), 3);
        assert_eq!(migrate(&quota, &quota, &cell, 0).words[0], u64::MAX);
    }

    #[test]
    fn migrating_keeps_what_was_consumed_in_requests() {
        let (ten, nine) = (Quota::from(Window::per_hour(10)), Quota::from(Window::per_hour(9)));
        let mut cell = Cell::default();
        assert_eq!(admitted(&ten, &mut cell, 0, 7), 7);
        let mut cell = migrate(&ten, &nine, &cell, 0);
        assert_eq!(admitted(&nine, &mut cell, 0, 9), 2, "7 of 10 become 7 of 9");
    }

    /// Goes from quota to quota, with so many tries at each; says how many were admitted.
    fn walk(steps: &[(&[Window], u64, u32)]) -> Vec<u32> {
        let mut layout = Layout::new(Quota::new(steps[0].0).unwrap(), Factor::ONE);
        let mut cell = Cell::default();
        let mut step = |(windows, now_ns, tries): &(&[Window], u64, u32)| {
            let next = layout.next(&Quota::new(windows).unwrap(), Factor::ONE, *now_ns);
            cell = carry(&layout, &next, &cell, *now_ns);
            layout = next;
            let mut admitted = 0;
            for _ in 0..*tries {
                let (verdict, charged) = evaluate(layout.quota(), &cell, 1, *now_ns);
                if verdict.is_ok() {
                    cell = layout.charge(charged, (1, Factor::ONE), *now_ns);
                    admitted += 1;
                }
            }
            admitted
        };
        steps.iter().map(&mut step).collect()
    }

    #[test]
    fn going_back_to_an_earlier_quota_refills_nobody() {
        const S: u64 = 1_000_000_000;
        let (ten, three) = (Window::per_hour(10), Window::per_hour(3));
        let (fast, day) =
            (Window::per_second(100), Window::new(NonZeroU32::new(5).unwrap(), Duration::from_hours(24)));
        assert_eq!(
            walk(&[(&[ten], 0, 20), (&[three], S, 5), (&[ten], 2 * S, 20)]),
            [10, 0, 0],
            "lower and back"
        );
        assert_eq!(
            walk(&[(&[ten], 0, 20), (&[fast], S, 50), (&[ten], 5 * S, 20)]),
            [10, 50, 0],
            "higher and back"
        );
        assert_eq!(
            walk(&[(&[fast, ten], 0, 20), (&[fast], S, 5), (&[fast, ten], 2 * S, 9)]),
            [10, 5, 0],
            "away and back"
        );
        assert_eq!(
            walk(&[(&[ten], 0, 4), (&[fast], S, 9), (&[ten], 2 * S, 20)]),
            [4, 9, 0],
            "what passed meanwhile counts"
        );
        assert_eq!(
            walk(&[(&[ten], 0, 9), (&[three], S, 0), (&[day], 2 * S, 0), (&[ten], 3 * S, 20)])[3],
            1,
            "over two others"
        );
        let later = 3_600 * S;
        assert_eq!(
            walk(&[(&[ten], 0, 20), (&[fast], S, 0), (&[ten], later + 2 * S, 20)])[2],
            10,
            "an hour later it has come back"
        );
    }

    #[test]
    fn migrating_pairs_windows_by_period_then_by_place() {
        let (minute, hour) = (Window::per_minute(2), Window::per_hour(3));
        let spent = {
            let mut cell = Cell::default();
            admitted(&Quota::from(hour), &mut cell, 0, 9);
            cell
        };
        let both = Quota::new(&[minute, hour]).unwrap();
        let mut cell = migrate(&Quota::from(hour), &both, &spent, 0);
        assert_eq!(admitted(&both, &mut cell, 0, 9), 0, "the hour is spent wherever it stands");
        let day = Quota::from(Window::new(NonZeroU32::new(3).unwrap(), Duration::from_hours(24)));
        let mut cell = migrate(&Quota::from(hour), &day, &spent, 0);
        assert_eq!(admitted(&day, &mut cell, 0, 9), 0, "an hour that became a day stays spent");
    }

    #[test]
    fn what_an_interval_is_rounded_by_is_not_told() {
        let quota = Quota::from(Window::per_second(7));
        let (_, spent) = evaluate(&quota, &Cell::default(), 7, 0);
        let standing = quota.standing(&spent, 0).next().unwrap();
        let second = Duration::from_secs(1);
        assert_eq!(standing, Standing { quota: 7, per: second, left: 0, reset: second });
        let fresh = quota.scaled(Factor::percent(200)).standing(&Cell::default(), 0).next().unwrap();
        assert_eq!((fresh.quota, fresh.left, fresh.per, fresh.reset), (14, 14, second, Duration::ZERO));
    }

    use proptest::prelude::*;

    proptest! {
        /// Reloads of all kinds, back and forth, while hardly any time goes by: what passes in all is never
        /// more than the most that one of the quotas gives to one of the tiers.
        #[test]
        fn no_walk_over_quotas_algorithms_and_tiers_refills(
            steps in prop::collection::vec((0_usize..4, 0_usize..3, 0_u32..20, 1_u32..4, 0_u64..1_000_000_000), 1..20),
            has_tiers in any::<bool>(),
        ) {
            let (ten, four) = (Window::per_hour(10), Window::per_hour(4));
            let quotas = [ten, four].map(Quota::from);
            let quotas = [quotas[0], quotas[1], quotas[0].algorithm(Algorithm::SlidingWindow),
                quotas[1].algorithm(Algorithm::SlidingWindow)];
            let (widest, most) = if has_tiers { (Factor::percent(300), 30) } else { (Factor::ONE, 10) };
            let mut layout = Layout::new(quotas[steps[0].0], widest);
            let (mut cell, mut now_ns, mut passed) = (Cell::default(), 0, 0);
            for (quota, tier, tries, cost, step_ns) in steps {
                now_ns += step_ns;
                let next = layout.next(&quotas[quota], widest, now_ns);
                cell = carry(&layout, &next, &cell, now_ns);
                layout = next;
                let tier = if has_tiers { Factor::percent([50, 100, 300][tier]) } else { Factor::ONE };
                let quota = layout.quota().scaled(tier);
                for _ in 0..tries {
                    let (verdict, charged) = evaluate(&quota, &cell, cost, now_ns);
                    if verdict.is_ok() {
                        cell = layout.charge(charged, (cost, tier), now_ns);
                        passed += cost;
                    }
                }
                prop_assert!(passed <= most, "{} passed", passed);
            }
        }
    }
}
