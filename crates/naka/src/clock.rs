//! The one clock: tokio's monotonic one, so that tests can pause it.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, SystemTime},
};

use http::Extensions;
use tokio::time::Instant;

use crate::context::Context;

/// A reading of the clock. Decisions take it as an argument and never read the clock themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Now(Instant);

impl Now {
    /// Reads the clock.
    pub fn read() -> Self {
        Self(Instant::now())
    }

    /// The reading a request carries in its [`Context`], or a fresh one outside a stack of ours.
    pub fn of(extensions: &Extensions) -> Self {
        extensions.get::<Context>().map_or_else(Self::read, |context| context.now)
    }

    /// The instant that was read.
    pub const fn instant(self) -> Instant {
        self.0
    }

    /// Whole nanoseconds since `start`; 0 before it, and saturating after 584 years.
    pub fn since_ns(self, start: Instant) -> u64 {
        u64::try_from(self.0.saturating_duration_since(start).as_nanos()).unwrap_or(u64::MAX)
    }

    /// The time that has gone by since this reading.
    pub fn elapsed(self) -> Duration {
        self.0.elapsed()
    }
}

/// The time of one account, in nanoseconds since it began: here, or in an earlier process.
#[derive(Debug)]
pub(crate) struct Since {
    start: Instant,
    /// What had gone by elsewhere. Not of those atomics that models replace: nobody is counting yet when it is written.
    before_ns: AtomicU64,
}

impl Since {
    /// It begins.
    pub(crate) const fn new(start: Instant) -> Self {
        Self { start, before_ns: AtomicU64::new(0) }
    }

    /// How old it is.
    pub(crate) fn ns(&self, now: Now) -> u64 {
        now.since_ns(self.start).wrapping_add(self.before_ns.load(Relaxed))
    }

    /// It is so old now, and goes on.
    pub(crate) fn go_on(&self, at_ns: u64, now: Now) {
        self.before_ns.store(at_ns.wrapping_sub(now.since_ns(self.start)), Relaxed);
    }
}

/// The time of day, for what is dated outside of this process, such as tokens.
#[derive(Clone, Copy, Debug, Default)]
pub struct WallClock(Option<(u64, Instant)>);

impl WallClock {
    /// That of the system: it may be set, and go back.
    pub const fn system() -> Self {
        Self(None)
    }

    /// It is `unix_s` now, and goes on as tokio's clock does: for tests, and for replaying.
    pub fn starting_at(unix_s: u64) -> Self {
        Self(Some((unix_s, Instant::now())))
    }

    /// Whole seconds since 1970. Before that the clock is wrong, and everything has expired.
    pub fn unix_s(self, now: Now) -> u64 {
        self.unix(now).map_or(u64::MAX, |since| since.as_secs())
    }

    /// The time since 1970; none before that.
    #[expect(clippy::disallowed_methods, reason = "this is the room that may")]
    pub fn unix(self, now: Now) -> Option<Duration> {
        match self.0 {
            Some((unix_s, start)) => {
                Some(Duration::from_secs(unix_s).saturating_add(Duration::from_nanos(now.since_ns(start))))
            }
            None => SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok(),
        }
    }
}

impl From<Instant> for Now {
    fn from(instant: Instant) -> Self {
        Self(instant)
    }
}
