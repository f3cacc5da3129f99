//! What is known of breakers, as plain numbers.

use std::cmp::Reverse;

use super::{
    config::Rule,
    phase::{Phase, State},
    window::{BUCKETS, Shape},
};

/// What is known of one breaker; or, where each key has one, of all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saved {
    /// How old it was, in nanoseconds: what times are counted from.
    pub at_ns: u64,
    /// Whether a bucket of the window is so much time, or so many results.
    pub is_time: bool,
    /// How many nanoseconds or results.
    pub each: u64,
    /// What the words of the window are marked with.
    pub era: u64,
    /// First that of requests without a key, then those of keys that say anything.
    pub cells: Vec<SavedCell>,
}

/// What is known of one breaker, in the words that it has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SavedCell {
    /// The number of its key.
    pub key: Option<u64>,
    /// When its key was last asked for, in nanoseconds.
    pub used_ns: u64,
    /// Phase, level, probes, successes, epoch, and until when.
    pub state: u64,
    /// Failures in a row, and in which epoch.
    pub run: u64,
    /// Results so far, where the window counts them.
    pub results: u64,
    /// The window.
    pub buckets: [u64; BUCKETS],
}

impl Saved {
    pub(super) fn new(at_ns: u64, rule: &Rule, cells: Vec<SavedCell>) -> Self {
        let (is_time, each) = parts(rule.shape);
        Self { at_ns, is_time, each, era: rule.era, cells }
    }

    /// What the words of the window are marked with there and here, if it has the same shape.
    pub(super) fn eras(&self, rule: &Rule) -> Option<(u64, u64)> {
        (parts(rule.shape) == (self.is_time, self.each)).then_some((self.era, rule.era))
    }

    /// Leaves out all keys but so many: those that are closed go first, and of these the longest unused. Says how
    /// many went.
    pub fn shorten(&mut self, keys: usize) -> usize {
        let before = self.cells.len();
        let others = self.cells.iter().filter(|cell| cell.key.is_none()).count();
        if before - others <= keys {
            return 0;
        }
        self.cells.sort_by_key(SavedCell::rank);
        self.cells.truncate(keys.saturating_add(others));
        self.cells.shrink_to_fit();
        before - self.cells.len()
    }
}

impl SavedCell {
    /// Those first that have the most to say.
    pub(super) fn rank(&self) -> (bool, bool, Reverse<u64>) {
        let is_closed = State::unpack(self.state).phase == Phase::Closed;
        (self.key.is_some(), is_closed, Reverse(self.used_ns))
    }
}

const fn parts(shape: Shape) -> (bool, u64) {
    match shape {
        Shape::Count(each) => (false, each),
        Shape::Time(each_ns) => (true, each_ns),
    }
}
