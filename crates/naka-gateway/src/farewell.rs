//! When each connection hears that the process is on its way out.
//!
//! All that are told at once come back at once, to whoever is next. So each has a turn, somewhere in a time over which farewells
//! are spread. Turns go by the golden ratio and not by lot: however many connections there are, they lie evenly.

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::Instant;

/// 2^32 divided by the golden ratio.
const GOLDEN: u32 = 0x9e37_79b9;

/// Said once in the life of a process, if at all.
#[derive(Debug, Default)]
pub(crate) struct Farewell {
    begun: OnceLock<(Instant, Duration)>,
    turns: AtomicU32,
}

/// A connection's place in the time over which farewells are spread, as a part of 2^32.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Turn(u32);

impl Farewell {
    /// The turn of the next connection.
    pub(crate) fn turn(&self) -> Turn {
        Turn(self.turns.fetch_add(1, Relaxed).wrapping_mul(GOLDEN))
    }

    /// Begins, unless it has; the last turn comes after `over`.
    pub(crate) fn begin(&self, over: Duration) {
        self.begun.get_or_init(|| (Instant::now(), over));
    }

    /// When this turn comes; `None` while nobody has to go.
    pub(crate) fn at(&self, turn: Turn) -> Option<Instant> {
        let (began, over) = self.begun.get()?;
        Some(*began + over.mul_f64(f64::from(turn.0) / f64::from(u32::MAX)))
    }

    /// Whether this turn has come.
    pub(crate) fn is_due(&self, turn: Turn) -> bool {
        self.at(turn).is_some_and(|at| Instant::now() >= at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn turns_are_spread_evenly_over_all_of_the_time() {
        let farewell = Farewell::default();
        let turns = std::iter::repeat_with(|| farewell.turn()).take(1000).collect::<Vec<_>>();
        assert!(turns.iter().all(|turn| !farewell.is_due(*turn)), "nobody has to go");
        farewell.begin(Duration::from_secs(10));
        farewell.begin(Duration::ZERO); // It has begun.
        for told in (0_usize..1000).step_by(100) {
            let due = turns.iter().filter(|turn| farewell.is_due(**turn)).count();
            assert!(due.abs_diff(told) <= 3, "{due} and not {told}");
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert!(turns.iter().all(|turn| farewell.is_due(*turn)), "all have to go");
    }
}
