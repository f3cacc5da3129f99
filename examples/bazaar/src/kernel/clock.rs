//! What time it is: the wall clock's, or one that was set by hand.
//!
//! A demo must be able to say that it is eight in the morning, whatever the wall says; a clock that was
//! set goes on from there with tokio's time, which tests pause.

use std::time::{Duration, SystemTime};

use tokio::time::Instant; // Never `std::time::Instant`: tests pause this clock.

use crate::rules::moment::Moment;

/// How far a clock may go back without what was promised before being taken to be over. What ends later than
/// a promise can, and this, was promised by a clock that showed another time: it would hold for ever.
pub const SLACK: Duration = Duration::from_mins(1);

/// Tells the time.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    source: Source,
}

#[derive(Clone, Copy, Debug)]
enum Source {
    Wall,
    Set { to: Moment, at: Instant },
}

impl Clock {
    /// The wall clock, read anew each time: it may be corrected while we run.
    pub fn real() -> Self {
        Self { source: Source::Wall }
    }

    /// A clock that shows `start` now and goes on from there.
    pub fn fixed_start(start: Moment) -> Self {
        Self { source: Source::Set { to: start, at: Instant::now() } }
    }

    /// What it shows.
    pub fn now(self) -> Moment {
        match self.source {
            Source::Wall => wall(),
            Source::Set { to, at } => to.after(at.elapsed()),
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
fn wall() -> Moment {
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    Moment::from_unix(0).after(since_1970.unwrap_or(Duration::ZERO)) // A clock before 1970 is not set.
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_was_set_goes_on() {
        let clock = Clock::fixed_start("2026-01-15T07:59:58+05:30".parse().unwrap());
        assert_eq!(clock.now().to_string(), "2026-01-15T07:59:58+05:30");
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(clock.now().to_string(), "2026-01-15T08:00:00+05:30");
    }

    #[test]
    fn the_wall_clock_is_of_our_days() {
        assert!(Clock::real().now() > "2024-01-01T00:00Z".parse().unwrap());
    }
}
