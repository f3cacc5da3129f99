//! The algorithm alone: pure transitions over two counts.

use super::{BulkheadConfig, slots::portion};
use crate::reject::{Dependency, Reason, Rejection, Verdict};

/// How many are at work, and how many wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// At work.
    pub working: u32,
    /// In the queue.
    pub waiting: u32,
}

impl Counts {
    pub(super) const fn pack(self) -> u64 {
        (self.working as u64) << 32 | self.waiting as u64
    }

    #[expect(clippy::cast_possible_truncation, reason = "each half of the word is one count")]
    pub(super) const fn unpack(word: u64) -> Self {
        Self { working: (word >> 32) as u32, waiting: word as u32 }
    }
}

/// A newcomer that may use so many percent of the places. It never overtakes one who waits, and waits
/// itself only if it may use all of them.
pub fn arrive(config: &BulkheadConfig, percent: u8, now: Counts) -> (Verdict, Counts) {
    if now.working < portion(config.max, percent) && now.waiting == 0 {
        (Verdict::Admit(()), Counts { working: now.working + 1, ..now })
    } else if percent < 100 {
        (Verdict::Reject(Rejection::new(Reason::Shed)), now)
    } else if now.waiting < config.queue {
        let queue = Dependency::Queue { max_wait: config.max_wait };
        (Verdict::Depends(queue), Counts { waiting: now.waiting + 1, ..now })
    } else {
        (Verdict::Reject(Rejection::new(Reason::BulkheadFull)), now)
    }
}

/// One who waits takes a place at work, if there is one.
pub fn take(max: u32, now: Counts) -> Option<Counts> {
    let is_free = now.working < max;
    is_free.then(|| Counts { working: now.working + 1, waiting: now.waiting - 1 })
}
