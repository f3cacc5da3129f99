//! How many attempts after the first all requests to one upstream may spend together: retries, hedges and fallbacks.
//!
//! # Algorithm
//! In any window, no more retries than a share of the requests in it, and a few a second besides, so that
//! a quiet upstream can be retried, too: Finagle's `RetryBudget` (`percentCanRetry`, `minRetriesPerSec`, `ttl`). A
//! retry budget bounds what retrying adds to an upstream that is overloaded already: a fixed number of
//! attempts multiplies the load just then.
//!
//! The window slides in ten steps. Requests are counted by whoever sends them, without a lock. A retry is
//! taken under one: it looks at all counts and adds its own in one step, so that however many ask at once, no
//! more are given than there are. (tower's `TpsBudget` reads, then adds, and can overspend.)
//!
//! # Units and limits
//! Eleven words a budget. Counts saturate at 2³² a step. Times are nanoseconds since any one moment.

use std::{
    fmt,
    sync::{Arc, PoisonError},
    time::Duration,
};

use http::Extensions;

use crate::{
    clock::{Now, Since},
    context::Context,
    saved::Unfit,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

#[cfg(all(test, naka_loom))]
mod models;

const STEPS: usize = 10;

/// How much may be spent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BudgetConfig {
    /// So many of a hundred requests may be retried; default 20.
    pub percent: u32,
    /// So many retries a second may be made besides; default 10.
    pub min_per_second: u32,
    /// For how long requests count; default 10 s, at least 100 ms.
    pub window: Duration,
}

impl BudgetConfig {
    /// 20 of 100 requests and 10 a second, over 10 s.
    pub const fn new() -> Self {
        Self { percent: 20, min_per_second: 10, window: Duration::from_secs(10) }
    }

    /// So many of a hundred requests.
    #[must_use]
    pub const fn percent(mut self, percent: u32) -> Self {
        self.percent = percent;
        self
    }

    /// So many a second besides.
    #[must_use]
    pub const fn min_per_second(mut self, min_per_second: u32) -> Self {
        self.min_per_second = min_per_second;
        self
    }

    /// Over that time.
    #[must_use]
    pub const fn window(mut self, window: Duration) -> Self {
        self.window = window;
        self
    }

    /// How many retries may have been made in a window with so many requests.
    fn allowed(&self, requests: u64) -> u64 {
        let share = requests.saturating_mul(self.percent.into()) / 100;
        let reserve = u128::from(self.min_per_second) * self.window.as_millis() / 1000;
        share.saturating_add(u64::try_from(reserve).unwrap_or(u64::MAX))
    }

    fn step_ns(&self) -> u64 {
        let window = self.window.max(Duration::from_millis(100));
        u64::try_from(window.as_nanos() / 10).unwrap_or(u64::MAX)
    }
}

impl Default for BudgetConfig {
    fn default() -> Self {
        Self::new()
    }
}

/// A budget; all clones spend from the same.
#[derive(Clone)]
pub struct Budget {
    config: BudgetConfig,
    state: Arc<State>,
}

/// In which budget a request was counted last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counted(usize);

struct State {
    clock: Since,
    /// For each step: its number, and the requests in it.
    requests: [AtomicU64; STEPS],
    /// For each step: its number, and the retries in it.
    retries: Mutex<[u64; STEPS]>,
}

/// What there is of a budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Balance {
    /// Retries that were made in the window.
    pub spent: u64,
    /// Retries that may be made in it.
    pub allowed: u64,
}

/// What is known of a budget, in the words that it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Saved {
    /// How old it was, in nanoseconds: what steps are counted from.
    pub at_ns: u64,
    /// How long a step is.
    pub step_ns: u64,
    /// The requests of each step, and its number.
    pub requests: [u64; STEPS],
    /// The retries of each step, and its number.
    pub retries: [u64; STEPS],
}

impl Balance {
    /// Whether one more may be made.
    pub const fn is_left(self) -> bool {
        self.spent < self.allowed
    }
}

impl Budget {
    /// Nothing was sent and nothing spent.
    pub fn new(config: BudgetConfig, now: Now) -> Self {
        let requests = std::array::from_fn(|_| AtomicU64::new(0));
        Self {
            config,
            state: Arc::new(State { clock: Since::new(now.instant()), requests, retries: Mutex::default() }),
        }
    }

    /// Another share of the same requests and retries. A window of another length counts anew.
    #[must_use]
    pub fn reconfigured(&self, config: BudgetConfig, now: Now) -> Self {
        if config.window == self.config.window {
            return Self { config, state: Arc::clone(&self.state) };
        }
        Self::new(config, now)
    }

    /// A request is sent.
    pub fn deposit(&self, now: Now) {
        let step = self.step(now);
        let add = |seen: u64| Some(added(seen, step));
        // Relaxed: a count that orders nothing. It always succeeds.
        _ = self.state.requests[place(step)].fetch_update(Relaxed, Relaxed, add);
    }

    /// The same, of a request that may have been counted further out already: of layers that spend one budget the
    /// first counts.
    pub(crate) fn deposit_once(&self, extensions: &mut Extensions, now: Now) {
        let this = Counted(Arc::as_ptr(&self.state).addr());
        let known = match extensions.get_mut::<Context>() {
            Some(context) => context.counted.replace(this),
            None => extensions.insert(this),
        };
        if known != Some(this) {
            self.deposit(now);
        }
    }

    /// Takes one retry, if there is one.
    pub fn withdraw(&self, now: Now) -> bool {
        let step = self.step(now);
        let mut retries = self.state.retries.lock().unwrap_or_else(PoisonError::into_inner);
        let is_left = self.balance_of(&retries, step).is_left();
        if is_left {
            let cell = &mut retries[place(step)];
            *cell = added(*cell, step);
        }
        is_left
    }

    /// What there is, without taking any.
    pub fn balance(&self, now: Now) -> Balance {
        let retries = self.state.retries.lock().unwrap_or_else(PoisonError::into_inner);
        self.balance_of(&retries, self.step(now))
    }

    /// What another process needs to go on with it.
    pub fn save(&self, now: Now) -> Saved {
        let retries = *self.state.retries.lock().unwrap_or_else(PoisonError::into_inner);
        let mut requests = [0; STEPS];
        let counted = self.state.requests.iter().map(|cell| cell.load(Relaxed));
        requests.iter_mut().zip(counted).for_each(|(place, count)| *place = count);
        Saved { at_ns: self.state.clock.ns(now), step_ns: self.config.step_ns(), requests, retries }
    }

    /// Goes on with what was [saved](Self::save) `age` ago.
    ///
    /// # Errors
    /// If its window has another length, or something was sent here already.
    pub fn restore(&self, saved: &Saved, age: Duration, now: Now) -> Result<(), Unfit> {
        if saved.step_ns != self.config.step_ns() {
            return Err(Unfit::Other);
        }
        let mut retries = self.state.retries.lock().unwrap_or_else(PoisonError::into_inner);
        let mut requests = self.state.requests.iter().map(|cell| cell.load(Relaxed));
        if requests.any(|cell| cell != 0) || retries.iter().any(|cell| *cell != 0) {
            return Err(Unfit::NotNew);
        }
        *retries = saved.retries;
        self.state.requests.iter().zip(saved.requests).for_each(|(cell, count)| cell.store(count, Relaxed));
        let age_ns = u64::try_from(age.as_nanos()).unwrap_or(u64::MAX);
        self.state.clock.go_on(saved.at_ns.saturating_add(age_ns), now);
        Ok(())
    }

    fn balance_of(&self, retries: &[u64; STEPS], step: u32) -> Balance {
        let requests = self.state.requests.iter().map(|cell| within(cell.load(Relaxed), step)).sum();
        let spent = retries.iter().map(|cell| within(*cell, step)).sum();
        Balance { spent, allowed: self.config.allowed(requests) }
    }

    /// The number of the step, from 1: a cell that was never used is of none.
    fn step(&self, now: Now) -> u32 {
        let number = self.state.clock.ns(now) / self.config.step_ns();
        u32::try_from(number % u64::from(u32::MAX)).map_or(1, |number| number + 1)
    }
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Budget").field("config", &self.config).finish_non_exhaustive()
    }
}

fn place(step: u32) -> usize {
    usize::try_from(step).map_or(0, |step| step % STEPS)
}

/// One more in this step: what stands there of an earlier one is over. Who comes late, with an older reading of
/// the clock, counts in the later step.
fn added(cell: u64, step: u32) -> u64 {
    let (number, count) = unpack(cell);
    let is_over = number == 0 || step != number && step.wrapping_sub(number) < u32::MAX / 2;
    let (number, count) = if is_over { (step, 1) } else { (number, count.saturating_add(1)) };
    u64::from(number) << 32 | u64::from(count)
}

/// What a cell says of the window that ends with this step.
fn within(cell: u64, step: u32) -> u64 {
    let (number, count) = unpack(cell);
    let age = step.wrapping_sub(number);
    if number != 0 && age < 10 { u64::from(count) } else { 0 }
}

fn unpack(cell: u64) -> (u32, u32) {
    let half = |bits: u64| u32::try_from(bits & u64::from(u32::MAX)).unwrap_or(u32::MAX);
    (half(cell >> 32), half(cell))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(start: Now, ms: u64) -> Now {
        Now::from(start.instant() + Duration::from_millis(ms))
    }

    fn withdrawn(budget: &Budget, now: Now, attempts: u32) -> u32 {
        (0..attempts).map(|_| u32::from(budget.withdraw(now))).sum()
    }

    #[tokio::test(start_paused = true)]
    async fn a_share_of_the_requests_and_a_few_besides() {
        let start = Now::read();
        let budget = Budget::new(BudgetConfig::new(), start);
        assert_eq!(withdrawn(&budget, start, 1000), 100, "10 a second over 10 s");
        (0..500).for_each(|_| budget.deposit(start));
        assert_eq!(withdrawn(&budget, start, 1000), 100, "20 of 100");
        assert_eq!(budget.balance(start), Balance { spent: 200, allowed: 200 });
    }

    #[tokio::test(start_paused = true)]
    async fn the_window_slides() {
        let start = Now::read();
        let budget = Budget::new(BudgetConfig::new().min_per_second(0), start);
        for second in 0..10 {
            (0..100).for_each(|_| budget.deposit(at(start, second * 1000)));
        }
        assert_eq!(withdrawn(&budget, at(start, 9_999), 1000), 200);
        assert_eq!(budget.balance(at(start, 10_000)), Balance { spent: 200, allowed: 180 });
        assert_eq!(budget.balance(at(start, 18_999)), Balance { spent: 200, allowed: 20 });
        assert_eq!(budget.balance(at(start, 19_000)), Balance { spent: 0, allowed: 0 });
    }

    #[tokio::test(start_paused = true)]
    async fn however_many_ask_at_once_no_more_are_given_than_there_are() {
        let start = Now::read();
        let budget = Budget::new(BudgetConfig::new().percent(10).min_per_second(1), start);
        let given = std::thread::scope(|scope| {
            let threads = (0..8).map(|_| {
                scope.spawn(|| {
                    (0..1000)
                        .map(|_| {
                            budget.deposit(start);
                            u32::from(budget.withdraw(start))
                        })
                        .sum::<u32>()
                })
            });
            let threads = threads.collect::<Vec<_>>();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum::<u32>()
        });
        assert_eq!(given, 810); // 10 of 100 of 8,000, and 1 a second.
        assert!(!budget.withdraw(start));
    }

    #[tokio::test(start_paused = true)]
    async fn another_share_is_of_the_same_requests() {
        let start = Now::read();
        let budget = Budget::new(BudgetConfig::new().min_per_second(0), start);
        (0..100).for_each(|_| budget.deposit(start));
        assert_eq!(withdrawn(&budget, start, 100), 20);
        let more = budget.reconfigured(BudgetConfig::new().min_per_second(0).percent(50), start);
        assert_eq!(withdrawn(&more, start, 100), 30);
        assert_eq!(withdrawn(&budget, start, 100), 0, "they are one");
        let longer = budget.reconfigured(BudgetConfig::new().window(Duration::from_mins(1)), start);
        assert_eq!(longer.balance(start), Balance { spent: 0, allowed: 600 });
    }

    #[test]
    fn nothing_overflows() {
        let config = BudgetConfig::new().percent(u32::MAX).min_per_second(u32::MAX).window(Duration::MAX);
        assert_eq!(config.allowed(u64::MAX), u64::MAX);
        assert_eq!(
            added(u64::from(7_u32) << 32 | u64::from(u32::MAX), 7),
            u64::from(7_u32) << 32 | u64::from(u32::MAX)
        );
        assert_eq!(within(added(0, u32::MAX), 1), 1, "steps go round");
        let late = added(added(0, 12), 2);
        assert_eq!((within(late, 12), within(late, 21), within(late, 22)), (2, 2, 0));
    }
}
