//! The algorithm alone: several GCRA windows over one key. No clock, no HTTP, no runtime, no lock.

use std::{fmt, num::NonZeroU32, time::Duration};

/// The most windows one quota can have.
pub const MAX_WINDOWS: usize = 4;

/// So many requests in so much time, and so many of them at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    per_ns: u64,
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
        Self { per_ns, burst: count.get(), interval_ns, tolerance_ns: 0 }.burst(count)
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

    /// The same rate, but only so many at once. Without this, as many as the rate's count.
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

    const fn full_ns(&self) -> u64 {
        self.tolerance_ns.saturating_add(self.interval_ns)
    }
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

    /// From spent to full: after this long without a request a key has no history.
    pub fn refill(&self) -> Duration {
        self.windows().iter().map(Window::refill).max().unwrap_or_default()
    }

    /// The largest number of requests admitted at once.
    pub fn burst(&self) -> u32 {
        self.windows().iter().map(|window| window.burst).min().unwrap_or_default()
    }

    fn windows(&self) -> &[Window] {
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

/// All that is remembered of one key: the theoretical arrival of its next request, per window, in
/// nanoseconds since the limiter's start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cell {
    arrival_ns: [u64; MAX_WINDOWS],
}

impl Cell {
    /// The cell of a key that was never seen.
    pub(super) const FRESH: Self = Self { arrival_ns: [0; MAX_WINDOWS] };
}

/// One request at `now_ns`: how many more would be admitted at once in the tightest window, or
/// the shortest wait after which all windows would admit. The new cell differs from the old one
/// only on `Ok`.
///
/// Per window, with `arrival` the theoretical arrival: `due = max(arrival, now)`; admit if
/// `due - now <= tolerance`, then `arrival = due + interval`.
pub fn evaluate(quota: &Quota, cell: &Cell, now_ns: u64) -> (Result<u64, Duration>, Cell) {
    let (mut next, mut wait_ns, mut left) = (*cell, 0, u64::MAX);
    for (window, arrival_ns) in quota.windows().iter().zip(&mut next.arrival_ns) {
        let due_ns = (*arrival_ns).max(now_ns);
        let ahead_ns = due_ns - now_ns;
        wait_ns = wait_ns.max(ahead_ns.saturating_sub(window.tolerance_ns));
        left = left.min(window.tolerance_ns.saturating_sub(ahead_ns) / window.interval_ns);
        *arrival_ns = due_ns.saturating_add(window.interval_ns);
    }
    if wait_ns == 0 { (Ok(left), next) } else { (Err(Duration::from_nanos(wait_ns)), *cell) }
}

/// Carries a cell from one quota to another: what was consumed stays consumed, counted in
/// requests and clamped to the new burst. A window goes on from the old one with the same period,
/// else from the one in its place; one that has no predecessor starts full.
pub fn migrate(from: &Quota, to: &Quota, cell: &Cell, now_ns: u64) -> Cell {
    let from = Layout::new(*from);
    carry(&from, &from.next(to, now_ns), cell, now_ns)
}

/// What the places of a cell mean: the windows of a quota, and behind them those of earlier quotas that
/// still could have something to say. These refuse nobody, but are charged: whoever lowers a limit, or
/// takes it away, and then goes back refills nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    quota: Quota,
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
    pub(super) const fn new(quota: Quota) -> Self {
        Self { quota, retired: [None; MAX_WINDOWS] }
    }

    pub(super) const fn quota(&self) -> &Quota {
        &self.quota
    }

    /// The layout of the next quota. Where there is no place for all windows that are gone, those go
    /// whose history is over first.
    pub(super) fn next(&self, quota: &Quota, now_ns: u64) -> Self {
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
        Self { quota: *quota, retired }
    }

    /// One request that was admitted, counted by the windows that are gone.
    pub(super) fn charge(&self, mut cell: Cell, now_ns: u64) -> Cell {
        let places = &mut cell.arrival_ns[self.quota.len..];
        for (Retired { window, until_ns }, arrival_ns) in self.retired.iter().flatten().zip(places) {
            if *until_ns <= now_ns {
                continue; // Its history is over.
            }
            let due_ns = (*arrival_ns).max(now_ns).saturating_add(window.interval_ns);
            *arrival_ns = due_ns.min(now_ns.saturating_add(window.full_ns()));
        }
        cell
    }

    /// Whether a cell says no more than no cell would: forgetting it gives nobody anything.
    pub(super) fn is_idle(&self, cell: &Cell, now_ns: u64) -> bool {
        self.known(cell, now_ns).all(|(_, arrival_ns)| arrival_ns <= now_ns)
    }

    /// All windows that still have something to say, each with what a cell says of it.
    fn known(&self, cell: &Cell, now_ns: u64) -> impl Iterator<Item = (&Window, u64)> {
        let quota = self.quota.windows().iter().map(|window| (window, true));
        let retired = self.retired.iter().flatten().map(move |it| (&it.window, it.until_ns > now_ns));
        let all = quota.chain(retired).zip(cell.arrival_ns);
        all.filter_map(|((window, counts), arrival_ns)| counts.then_some((window, arrival_ns)))
    }
}

/// Carries a cell from one layout to the next.
pub(super) fn carry(from: &Layout, to: &Layout, cell: &Cell, now_ns: u64) -> Cell {
    let mut next = Cell::default();
    for (place, new) in to.quota.windows().iter().enumerate() {
        // The very same window has been charged all along.
        if let Some((_, arrival_ns)) = from.known(cell, now_ns).find(|(old, _)| *old == new) {
            next.arrival_ns[place] = arrival_ns;
            continue;
        }
        let same_period = from.known(cell, now_ns).filter(|(old, _)| old.per_ns == new.per_ns);
        let ahead_ns = same_period.map(|(old, arrival_ns)| rescaled_ns(old, new, arrival_ns, now_ns)).max();
        let ahead_ns = ahead_ns.or_else(|| {
            let old = from.quota.windows().get(place)?;
            let is_taken = to.quota.windows().iter().any(|new| new.per_ns == old.per_ns);
            (!is_taken).then(|| rescaled_ns(old, new, cell.arrival_ns[place], now_ns))
        });
        next.arrival_ns[place] = now_ns.saturating_add(ahead_ns.unwrap_or_default());
    }
    let places = next.arrival_ns[to.quota.len..].iter_mut();
    for (Retired { window, .. }, place) in to.retired.iter().flatten().zip(places) {
        let known = from.known(cell, now_ns).find(|(old, _)| *old == window);
        *place = known.map_or(0, |(_, arrival_ns)| arrival_ns);
    }
    next
}

/// How far ahead of now a window is that has consumed as many requests as another one.
fn rescaled_ns(old: &Window, new: &Window, arrival_ns: u64, now_ns: u64) -> u64 {
    let ahead_ns = u128::from(arrival_ns.saturating_sub(now_ns));
    let rescaled_ns = (ahead_ns * u128::from(new.interval_ns)).div_ceil(u128::from(old.interval_ns));
    u64::try_from(rescaled_ns).unwrap_or(u64::MAX).min(new.full_ns())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admitted(quota: &Quota, cell: &mut Cell, now_ns: u64, tries: u32) -> u32 {
        (0..tries).fold(0, |sum, _| {
            let (verdict, next) = evaluate(quota, cell, now_ns);
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
        assert_eq!(migrate(&quota, &quota, &cell, 0).arrival_ns[0], u64::MAX);
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
        let mut layout = Layout::new(Quota::new(steps[0].0).unwrap());
        let mut cell = Cell::default();
        let mut step = |(windows, now_ns, tries): &(&[Window], u64, u32)| {
            let next = layout.next(&Quota::new(windows).unwrap(), *now_ns);
            cell = carry(&layout, &next, &cell, *now_ns);
            layout = next;
            let mut admitted = 0;
            for _ in 0..*tries {
                let (verdict, charged) = evaluate(layout.quota(), &cell, *now_ns);
                if verdict.is_ok() {
                    cell = layout.charge(charged, *now_ns);
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
}
