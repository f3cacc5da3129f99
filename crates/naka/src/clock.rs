//! The one clock: tokio's monotonic one, so that tests can pause it.

use std::time::Duration;

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

impl From<Instant> for Now {
    fn from(instant: Instant) -> Self {
        Self(instant)
    }
}
