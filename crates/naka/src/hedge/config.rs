//! What is hedged, and when.

use std::time::Duration;

/// The most attempts after the first.
pub const MAX: u32 = 3;

/// What is hedged, and when; see the [module docs](super).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HedgeConfig {
    /// How long each attempt is waited for before another follows.
    pub after: After,
    /// So many attempts after the first, 1 to [`MAX`]; default 1.
    pub max: u32,
    /// Of which methods; default [`Methods::Safe`].
    pub methods: Methods,
    /// Whoever is behind remembers `Idempotency-Key`s, and does a request that has one only once, also if it comes
    /// twice at the same time; default no.
    pub keyed: bool,
    /// The longest body that is kept to be sent again, in bytes; default 64 KiB.
    pub max_body: usize,
}

/// How long an attempt is waited for before another follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum After {
    /// That long.
    Fixed(Duration),
    /// As long as so many percent of the answers take.
    Percentile {
        /// So many percent, 1 to 99.
        percent: u8,
        /// No shorter than that.
        at_least: Duration,
        /// No longer than that, and that long while too few answers have been seen.
        at_most: Duration,
    },
}

/// Of which methods requests are hedged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Methods {
    /// GET, HEAD, OPTIONS, TRACE (RFC 9110, section 9.2.1).
    Safe,
    /// These, and PUT and DELETE (RFC 9110, section 9.2.2). Two that are the same may then be at work at once.
    Idempotent,
}

impl After {
    /// As long as so many percent of the answers take: at least 1 ms, at most 1 s.
    pub fn percentile(percent: u8) -> Self {
        let (at_least, at_most) = (Duration::from_millis(1), Duration::from_secs(1));
        Self::Percentile { percent: percent.clamp(1, 99), at_least, at_most }
    }

    /// No shorter than the first, no longer than the second; a fixed time is what it is.
    #[must_use]
    pub fn within(self, at_least: Duration, at_most: Duration) -> Self {
        match self {
            Self::Fixed(_) => self,
            Self::Percentile { percent, .. } => {
                Self::Percentile { percent, at_least: at_least.min(at_most), at_most }
            }
        }
    }
}

impl HedgeConfig {
    /// One more attempt, of safe methods, after that.
    pub const fn new(after: After) -> Self {
        Self { after, max: 1, methods: Methods::Safe, keyed: false, max_body: 64 << 10 }
    }

    /// So many attempts after the first: 1 to [`MAX`].
    #[must_use]
    pub fn max(mut self, max: u32) -> Self {
        self.max = max.clamp(1, MAX);
        self
    }

    /// Of which methods.
    #[must_use]
    pub const fn methods(mut self, methods: Methods) -> Self {
        self.methods = methods;
        self
    }

    /// Whether whoever is behind remembers keys.
    #[must_use]
    pub const fn keyed(mut self, keyed: bool) -> Self {
        self.keyed = keyed;
        self
    }

    /// The longest body that is kept.
    #[must_use]
    pub const fn max_body(mut self, max_body: usize) -> Self {
        self.max_body = max_body;
        self
    }
}
