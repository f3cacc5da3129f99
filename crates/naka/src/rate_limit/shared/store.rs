//! Whether a store is asked: one that fails is left alone for a while.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::{Instant, timeout};

use super::{Answer, Ask, Store, Unanswered};
use crate::clock::Now;

/// How long a store is left alone that has failed once.
const PAUSE_NS: u64 = 250_000_000;
/// And at most.
const LONGEST_NS: u64 = 5_000_000_000;

/// A store, and whether it is left alone: all limits that share it know.
#[derive(Clone, Debug)]
pub struct SharedStore(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Arc<dyn Store>,
    timeout: Duration,
    start: Instant,
    /// It is left alone until then; 0 while it answers.
    until_ns: AtomicU64,
    failures: AtomicU32,
}

impl SharedStore {
    /// A store that answers within `timeout`, or has failed.
    pub fn new(store: Arc<dyn Store>, timeout: Duration) -> Self {
        let (start, until_ns, failures) = (Instant::now(), AtomicU64::new(0), AtomicU32::new(0));
        Self(Arc::new(Inner { store, timeout, start, until_ns, failures }))
    }

    /// Whether it answered when it was asked last; `true` before the first question.
    pub fn is_up(&self) -> bool {
        self.0.until_ns.load(Relaxed) == 0
    }

    /// It is there again, as somebody knows: the next request asks it.
    pub fn answers_again(&self) {
        self.0.failures.store(0, Relaxed);
        self.0.until_ns.store(0, Relaxed);
    }

    /// How long one question waits for it at most. A request may wait for that of another, and then ask itself; and it asks
    /// the stores of several limits in turn.
    pub fn timeout(&self) -> Duration {
        self.0.timeout
    }

    /// Whether a request would ask it.
    pub(in crate::rate_limit) fn may_ask(&self, now: Now) -> bool {
        self.0.until_ns.load(Relaxed) <= now.since_ns(self.0.start)
    }

    /// Asks, unless it is left alone, and learns of it.
    pub(in crate::rate_limit) async fn ask(&self, ask: Ask) -> Result<Answer, Unanswered> {
        let Some(pause) = self.enter(Now::read()) else { return Err(Unanswered::Busy) };
        let said = timeout(self.0.timeout, self.0.store.ask(ask)).await.unwrap_or(Err(Unanswered::Failed));
        match said {
            Ok(_) => self.answers_again(),
            Err(Unanswered::Failed) => self.leave_alone(pause),
            Err(Unanswered::Busy) => {}
        }
        said
    }

    /// Of those that come when a pause is over, one asks; for as long as it may take the others do not. The end of the pause
    /// that it goes by.
    fn enter(&self, now: Now) -> Option<u64> {
        let (now_ns, until_ns) = (now.since_ns(self.0.start), self.0.until_ns.load(Relaxed));
        if until_ns == 0 {
            return Some(0);
        }
        let timeout_ns = u64::try_from(self.0.timeout.as_nanos()).unwrap_or(u64::MAX);
        let next_ns = now_ns.saturating_add(timeout_ns.max(PAUSE_NS));
        let is_one = || self.0.until_ns.compare_exchange(until_ns, next_ns, Relaxed, Relaxed).is_ok();
        (until_ns <= now_ns && is_one()).then_some(next_ns)
    }

    /// Of all that fail in one outage, the first begins the pause.
    fn leave_alone(&self, pause: u64) {
        let before = self.0.failures.load(Relaxed).min(5);
        let now_ns = Now::read().since_ns(self.0.start);
        let until_ns = now_ns.saturating_add((PAUSE_NS << before).min(LONGEST_NS));
        if self.0.until_ns.compare_exchange(pause, until_ns, Relaxed, Relaxed).is_ok() {
            self.0.failures.fetch_add(1, Relaxed);
        }
    }
}
