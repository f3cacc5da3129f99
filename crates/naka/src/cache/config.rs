//! What is kept, for how long, and how much of it.

use std::time::Duration;

/// What is kept, for how long, and how much of it; see the [module docs](super).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheConfig {
    /// How long a response is fresh that does not say so itself, if its status is one that may be kept without a word
    /// (RFC 9110, section 15.1) and nobody gave credentials; default zero: it is not kept.
    pub default_ttl: Duration,
    /// How long a stale response stands in for a failure, if it does not say so itself; default zero: not at all.
    pub stale_if_error: Duration,
    /// How long a request waits for the same one of somebody else; default 1 s, zero: not at all.
    pub coalesce: Duration,
    /// The longest body that is kept, in bytes; default 1 MiB.
    pub max_body: usize,
    /// What all of it may take, in bytes; default 64 MiB.
    pub max_bytes: usize,
}

impl CacheConfig {
    /// What responses themselves say, and nothing else.
    pub const fn new() -> Self {
        Self {
            default_ttl: Duration::ZERO,
            stale_if_error: Duration::ZERO,
            coalesce: Duration::from_secs(1),
            max_body: 1 << 20,
            max_bytes: 64 << 20,
        }
    }

    /// How long what says nothing is fresh.
    #[must_use]
    pub const fn default_ttl(mut self, default_ttl: Duration) -> Self {
        self.default_ttl = default_ttl;
        self
    }

    /// How long what is stale stands in for a failure.
    #[must_use]
    pub const fn stale_if_error(mut self, stale_if_error: Duration) -> Self {
        self.stale_if_error = stale_if_error;
        self
    }

    /// How long one waits for the same request of somebody else.
    #[must_use]
    pub const fn coalesce(mut self, coalesce: Duration) -> Self {
        self.coalesce = coalesce;
        self
    }

    /// The longest body.
    #[must_use]
    pub const fn max_body(mut self, max_body: usize) -> Self {
        self.max_body = max_body;
        self
    }

    /// What all of it may take.
    #[must_use]
    pub const fn max_bytes(mut self, max_bytes: usize) -> Self {
        self.max_bytes = max_bytes;
        self
    }
}

impl Default for CacheConfig {
    fn default() -> Self {
        Self::new()
    }
}
