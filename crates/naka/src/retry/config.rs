//! What is retried, and how.

use std::time::Duration;

use http::StatusCode;

/// What is retried, and how; see the [module docs](super).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RetryConfig {
    /// So many attempts after the first; at most [`MAX`].
    pub max: u32,
    /// After which failures.
    pub when: When,
    /// Of which methods; default [`Methods::Idempotent`].
    pub methods: Methods,
    /// Whoever is behind remembers `Idempotency-Key`s, so that a request with one may be sent twice; default no.
    pub keyed: bool,
    /// How long between two attempts; default 25 ms, doubled each time, at most 250 ms, less by chance.
    pub backoff: Backoff,
    /// The longest `Retry-After` that is waited for; default 1 s. What asks for more is not retried.
    pub max_retry_after: Duration,
    /// The longest body that is kept to be sent again, in bytes; default 64 KiB.
    pub max_body: usize,
    /// A balancer below prefers endpoints that were not tried for the request; default yes.
    pub different_endpoint: bool,
    /// What pauses are drawn by; default another each time.
    pub seed: Option<u64>,
}

/// The most attempts after the first.
pub const MAX: u32 = 10;

/// After which failures a request is retried.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[expect(clippy::struct_excessive_bools, reason = "each is a word of its own")]
pub struct When {
    /// No connection was made: nothing was sent, so that any method may be sent again; default yes.
    pub connect_error: bool,
    /// The connection ended before a response; default yes.
    pub reset: bool,
    /// Whoever is behind said that it has not looked at the request (HTTP/2: `REFUSED_STREAM`, or a `GOAWAY` from
    /// before it), so that any method may be sent again; default yes.
    pub refused_stream: bool,
    /// No response came in time; default no, because the endpoint is at it still.
    pub response_timeout: bool,
    /// Responses with one of these; default 503. A gRPC response without a message counts as the status that its
    /// `grpc-status` [stands for](crate::classify::http_status): 503 is `UNAVAILABLE`.
    pub statuses: Vec<StatusCode>,
}

/// Of which methods requests are retried that whoever is behind may have seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Methods {
    /// Of none.
    None,
    /// GET, HEAD, OPTIONS, TRACE.
    Safe,
    /// These, and PUT and DELETE (RFC 9110, section 9.2.2).
    Idempotent,
}

/// How long between two attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Backoff {
    /// At most that before the second attempt.
    pub base: Duration,
    /// At most that before any.
    pub cap: Duration,
}

impl Backoff {
    /// At most `base` before the second attempt, twice as much before each further one, at most `cap`.
    pub const fn new(base: Duration, cap: Duration) -> Self {
        Self { base, cap }
    }
}

impl RetryConfig {
    /// So many attempts after the first: 1 to [`MAX`].
    pub fn new(max: u32) -> Self {
        Self {
            max: max.clamp(1, MAX),
            when: When::never()
                .connect_error(true)
                .reset(true)
                .refused_stream(true)
                .statuses([StatusCode::SERVICE_UNAVAILABLE]),
            methods: Methods::Idempotent,
            keyed: false,
            backoff: Backoff::new(Duration::from_millis(25), Duration::from_millis(250)),
            max_retry_after: Duration::from_secs(1),
            max_body: 64 << 10,
            different_endpoint: true,
            seed: None,
        }
    }

    /// After which failures.
    #[must_use]
    pub fn when(mut self, when: When) -> Self {
        self.when = when;
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

    /// How long between two attempts.
    #[must_use]
    pub const fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// The longest `Retry-After` that is waited for.
    #[must_use]
    pub const fn max_retry_after(mut self, max_retry_after: Duration) -> Self {
        self.max_retry_after = max_retry_after;
        self
    }

    /// Whether endpoints that were not tried are preferred.
    #[must_use]
    pub const fn different_endpoint(mut self, different_endpoint: bool) -> Self {
        self.different_endpoint = different_endpoint;
        self
    }

    /// Pauses are drawn by this: the same each time.
    #[must_use]
    pub const fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// The longest body that is kept.
    #[must_use]
    pub const fn max_body(mut self, max_body: usize) -> Self {
        self.max_body = max_body;
        self
    }
}

impl When {
    /// After none.
    pub const fn never() -> Self {
        Self {
            connect_error: false,
            reset: false,
            refused_stream: false,
            response_timeout: false,
            statuses: Vec::new(),
        }
    }

    /// Whether after no connection.
    #[must_use]
    pub const fn connect_error(mut self, connect_error: bool) -> Self {
        self.connect_error = connect_error;
        self
    }

    /// Whether after one that ended before a response.
    #[must_use]
    pub const fn reset(mut self, reset: bool) -> Self {
        self.reset = reset;
        self
    }

    /// Whether after a request that was not looked at.
    #[must_use]
    pub const fn refused_stream(mut self, refused_stream: bool) -> Self {
        self.refused_stream = refused_stream;
        self
    }

    /// Whether after no response in time.
    #[must_use]
    pub const fn response_timeout(mut self, response_timeout: bool) -> Self {
        self.response_timeout = response_timeout;
        self
    }

    /// After responses with these.
    #[must_use]
    pub fn statuses(mut self, statuses: impl IntoIterator<Item = StatusCode>) -> Self {
        self.statuses = statuses.into_iter().collect();
        self
    }
}
