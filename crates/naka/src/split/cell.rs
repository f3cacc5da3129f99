//! What is remembered of one arm: results that count, and whether it is held.
//!
//! A word has the epoch and whether it is held; it changes under a lock, which only whoever changes it takes, and with
//! it why. A result looks at the epoch *before* it is written, as it does in a circuit breaker's window, so one of an earlier
//! epoch changes nothing. The sum over the buckets is no snapshot: with N that write at the same time it is off by N at most.

use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{
        AtomicU64,
        Ordering::{Acquire, Release, SeqCst},
    },
};

use super::window::{self, BUCKETS, Tally};

/// Why an arm is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Held {
    /// It failed more often than the baseline, by more than it may.
    Guard {
        /// What came of its requests.
        arm: Tally,
        /// What came of the baseline's.
        baseline: Tally,
    },
    /// Somebody has said so.
    ByHand,
}

#[derive(Debug, Default)]
pub(super) struct Cell {
    /// The epoch, and one bit: held.
    word: AtomicU64,
    why: Mutex<Option<Held>>,
    buckets: [AtomicU64; BUCKETS],
}

impl Cell {
    pub(super) fn is_held(&self) -> bool {
        self.word.load(Acquire) & 1 == 1
    }

    pub(super) fn held(&self) -> Option<Held> {
        if self.is_held() { *self.why() } else { None }
    }

    pub(super) fn epoch(&self) -> u64 {
        self.word.load(Acquire) >> 1
    }

    /// Counts a result, and says what there is then; `None` if it is of an earlier epoch.
    pub(super) fn count(&self, epoch: u64, bucket: u64, is_failure: bool) -> Option<Tally> {
        let (word, tag) = (&self.buckets[window::place(bucket)], window::tag(epoch, bucket));
        let mut seen = word.load(Acquire);
        loop {
            if self.epoch() != epoch {
                return None;
            }
            // `SeqCst` with `tally`: of two that write two buckets, the later sees what the earlier wrote.
            match word.compare_exchange_weak(seen, window::add(seen, tag, is_failure), SeqCst, Acquire) {
                Ok(_) => return Some(window::sum(self.words(), epoch, bucket)),
                Err(now) => seen = now,
            }
        }
    }

    /// What is in the window that ends with this bucket.
    pub(super) fn tally(&self, bucket: u64) -> Tally {
        window::sum(self.words(), self.epoch(), bucket)
    }

    /// Holds it, if it is still this epoch. Whoever hears `true` has done it.
    pub(super) fn hold(&self, epoch: u64, held: Held) -> bool {
        let mut why = self.why();
        let is_free = self.word.load(Acquire) == epoch << 1;
        if is_free {
            *why = Some(held);
            self.word.store(epoch << 1 | 1, Release);
        }
        is_free
    }

    /// Lets it go, and begins anew with an empty window. Whoever hears `true` has done it.
    pub(super) fn release(&self) -> bool {
        let mut why = self.why();
        let is_held = self.is_held();
        if is_held {
            *why = None;
            self.word.store((self.epoch() + 1) << 1, Release);
        }
        is_held
    }

    fn words(&self) -> impl Iterator<Item = u64> {
        self.buckets.iter().map(|bucket| bucket.load(SeqCst))
    }

    /// A panic cannot leave it half written: every write is one assignment.
    fn why(&self) -> MutexGuard<'_, Option<Held>> {
        self.why.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_an_earlier_epoch_change_nothing() {
        let cell = Cell::default();
        let early = cell.epoch();
        assert_eq!(cell.count(early, 3, true), Some(Tally { total: 1, failed: 1 }));
        assert!(cell.hold(early, Held::ByHand) && !cell.hold(early, Held::ByHand), "told once");
        assert_eq!((cell.is_held(), cell.held()), (true, Some(Held::ByHand)));
        assert!(cell.release() && !cell.release());
        assert_eq!((cell.held(), cell.tally(3)), (None, Tally::default()), "it begins anew");
        assert_eq!(cell.count(early, 3, true), None);
        assert!(!cell.hold(early, Held::ByHand), "what was found out before it was released");
        assert_eq!((cell.is_held(), cell.tally(3)), (false, Tally::default()));
    }

    #[test]
    fn threads_count_all_and_one_holds() {
        let (cell, held) = (Cell::default(), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for number in 0..10_000_u64 {
                        let tally = cell.count(0, number % 3, number % 2 == 0).unwrap();
                        if tally.total > 1000 && cell.hold(0, Held::Guard { arm: tally, baseline: tally }) {
                            held.fetch_add(1, SeqCst);
                        }
                    }
                });
            }
        });
        assert_eq!(cell.tally(2), Tally { total: 40_000, failed: 20_000 });
        assert_eq!((held.into_inner(), cell.is_held()), (1, true));
    }
}
