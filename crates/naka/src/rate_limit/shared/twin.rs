//! What a store does, in Rust: the same arithmetic as the script that does it elsewhere, in doubles, which are all the
//! numbers that Lua has.

use std::{
    collections::HashMap,
    future::ready,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::{Answer, Ask, Asked, Shape, Store, Unanswered};
use crate::rate_limit::MAX_WINDOWS;

/// Windows that one account has at most: those that are asked for, and those of earlier quotas.
const MAX_KNOWN: usize = 2 * MAX_WINDOWS;
/// What rounding may take from a request.
const EPSILON: f64 = 1e-6;

/// What a store knows of one key.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Account {
    /// When it was written.
    at_us: f64,
    windows: Vec<Known>,
}

/// A window of an account: `ahead_us` is how far its theoretical arrival is ahead of the time it was written.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Known {
    per_us: f64,
    ahead_us: f64,
    count: f64,
    burst: f64,
}

impl Known {
    fn is_of(&self, shape: &Shape) -> bool {
        let (count, burst) = (f64::from(shape.count), f64::from(shape.burst));
        same(self.per_us, micros(shape.per_ns)) && same(self.count, count) && same(self.burst, burst)
    }

    fn ahead_us(&self, gone_us: f64) -> f64 {
        (self.ahead_us - gone_us).max(0.0)
    }
}

impl Account {
    /// Whether it says no more than none would, if none is younger than the store.
    fn is_idle(&self, now_us: u64) -> bool {
        let gone_us = float(now_us) - self.at_us;
        self.windows.iter().all(|window| window.ahead_us(gone_us) <= 0.0)
    }
}

/// One question at `now_us` to a store that has known everything since `epoch_us`: microseconds since whenever. A
/// question that makes no sense is refused, and changes nothing.
///
/// GCRA as [`evaluate`](crate::rate_limit::evaluate) has it, with what is spent kept as the time `ahead` until it is
/// back. Per window, with `interval = per / (count * percent)` and `full = most * interval`: one that was not counted yet
/// begins with the requests that are spent in one of the same period that is not asked for, else in any such one, at most
/// `full`. What comes back is taken off, what is owed is added, to at most `2 * full`; and at least `full - (now - epoch)` is
/// spent, as nobody knows what was before. Granted is what all windows have free, at most what is wanted, and nothing below the
/// least. Windows of earlier quotas are charged until they have no history.
pub fn take(account: &Account, ask: &Ask, epoch_us: u64, now_us: u64) -> (Answer, Account) {
    let Ask { wanted, least, owed, back, ref windows, .. } = *ask;
    let is_sane = |shape: &Shape| shape.per_ns > 0 && shape.count > 0 && shape.burst > 0 && shape.percent > 0;
    if windows.is_empty()
        || windows.len() > MAX_WINDOWS
        || !windows.iter().all(is_sane)
        || least == 0
        || least > wanted
    {
        return (Answer::default(), account.clone());
    }
    let [wanted, least, owed, back] = [wanted, least, owed, back].map(f64::from);
    let (now, age) = (float(now_us), float(now_us.saturating_sub(epoch_us)));
    let gone = (now - account.at_us).max(0.0);
    let is_asked = |it: &&Known| windows.iter().any(|shape| it.is_of(shape));
    let other = || account.windows.iter().filter(|it| !is_asked(it));
    let spent = |it: &Known| it.ahead_us(gone) * it.count / it.per_us;

    let (mut free, mut missing, mut is_enough, mut is_young) = (f64::INFINITY, 0.0_f64, true, false);
    let mut next = Vec::with_capacity(windows.len());
    for shape in &**windows {
        let (per, count, most) = (micros(shape.per_ns), f64::from(shape.count), f64::from(shape.most));
        let interval = per * 100.0 / (count * f64::from(shape.percent));
        let full = most * interval;
        let ahead = account.windows.iter().find(|it| it.is_of(shape)).map_or_else(
            || {
                let alike = other().filter(|it| same(it.per_us, per)).map(spent).reduce(f64::max);
                let consumed = alike.unwrap_or_else(|| other().map(spent).fold(0.0, f64::max));
                (consumed * per / count).min(full)
            },
            |it| it.ahead_us(gone),
        );
        let lost = full - age;
        is_young |= lost > 0.0;
        let ahead = (ahead - back * interval).max(0.0);
        let ahead = ahead.max((ahead + owed * interval).min(2.0 * full)).max(lost);
        free = free.min(((full - ahead) / interval + EPSILON).floor());
        missing = missing.max(ahead + least * interval - full);
        is_enough &= most >= least;
        next.push((
            Known { per_us: per, ahead_us: ahead, count, burst: f64::from(shape.burst) },
            interval,
            full,
        ));
    }

    let granted = if is_enough && free >= least { wanted.min(free) } else { 0.0 };
    let mut said = Answer { granted: whole32(granted), is_young, ..Answer::default() };
    said.wait = is_enough.then(|| Duration::from_micros(whole(missing.max(0.0).ceil())));
    let mut written = Account { at_us: now, windows: Vec::with_capacity(MAX_KNOWN) };
    for (mut known, interval, full) in next {
        known.ahead_us += granted * interval;
        let left = ((full - known.ahead_us) / interval + EPSILON).floor().max(0.0);
        said.windows.push((whole(left), Duration::from_micros(whole(known.ahead_us.ceil()))));
        written.windows.push(known);
    }
    // A clock that went back would leave what is spent spent for as long.
    if granted <= 0.0 && owed <= 0.0 && back <= 0.0 && account.at_us <= now {
        return (said, account.clone());
    }
    let percent = f64::from(windows[0].percent);
    for it in other() {
        let mut ahead = it.ahead_us(gone);
        if ahead > 0.0 && written.windows.len() < MAX_KNOWN {
            let interval = it.per_us / it.count;
            ahead = ahead
                .max((ahead + (granted + owed) * interval * 100.0 / percent).min(2.0 * it.burst * interval));
            written.windows.push(Known { ahead_us: ahead, ..*it });
        }
    }
    (said, written)
}

fn micros(per_ns: u64) -> f64 {
    float(per_ns) / 1000.0
}

fn same(one: f64, other: f64) -> bool {
    one.total_cmp(&other).is_eq()
}

#[expect(clippy::cast_precision_loss, reason = "times below 2^53 microseconds, which is the year 2255")]
const fn float(number: u64) -> f64 {
    number as f64
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "whole, not negative; it saturates"
)]
const fn whole(number: f64) -> u64 {
    number as u64
}

fn whole32(number: f64) -> u32 {
    u32::try_from(whole(number)).unwrap_or(u32::MAX)
}

/// A store in the memory of this process, for tests and examples. At 100,000 keys it forgets those that have no history,
/// and fails for new ones if all have some.
#[derive(Debug)]
pub struct InMemory {
    start: Instant,
    known: Mutex<Everything>,
}

#[derive(Debug, Default)]
struct Everything {
    epoch_us: u64,
    accounts: HashMap<(Arc<str>, u64), Account>,
}

/// What its clock begins with, long after its epoch: one that begins knows everything there is to know.
const BEGINS_US: u64 = 1 << 50;
const MAX_KEYS: usize = 100_000;

impl InMemory {
    /// One that knows of nobody, and has lost nothing.
    pub fn new() -> Self {
        Self { start: Instant::now(), known: Mutex::default() }
    }

    /// Loses everything.
    pub fn forget(&self) {
        let epoch_us = self.now_us();
        *self.lock() = Everything { epoch_us, accounts: HashMap::new() };
    }

    /// As [`Store::ask`], at once.
    ///
    /// # Errors
    /// If it is full.
    pub fn answer(&self, ask: &Ask) -> Result<Answer, Unanswered> {
        let (now_us, mut known) = (self.now_us(), self.lock());
        let key = (Arc::clone(&ask.limit), ask.key);
        if known.accounts.len() >= MAX_KEYS && !known.accounts.contains_key(&key) {
            known.accounts.retain(|_, account| !account.is_idle(now_us));
            if known.accounts.len() >= MAX_KEYS {
                return Err(Unanswered::Failed);
            }
        }
        let epoch_us = known.epoch_us;
        let account = known.accounts.entry(key).or_default();
        let (said, next) = take(account, ask, epoch_us, now_us);
        *account = next;
        Ok(said)
    }

    fn now_us(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX).saturating_add(BEGINS_US)
    }

    fn lock(&self) -> MutexGuard<'_, Everything> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner) // Every write is whole.
    }
}

impl Default for InMemory {
    fn default() -> Self {
        Self::new()
    }
}

impl Store for InMemory {
    fn ask(&self, ask: Ask) -> Asked {
        Box::pin(ready(self.answer(&ask)))
    }
}
