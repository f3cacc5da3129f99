//! What the attempts at one request know of one another: the words that retries, fallbacks and balancers share.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use http::{Extensions, HeaderName, Response};

use crate::{
    context::Context,
    reject::{Reason, Rejection},
};

/// Says which attempt a request is, from the second on; in a response, how many there were, if in vain.
pub const ATTEMPT: HeaderName = HeaderName::from_static("naka-attempt");

/// Why no other attempt is made: by whoever retries, hedges or falls back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Stop {
    /// There were as many as there may be.
    Attempts,
    /// Twice might not have the effect of once, and something was sent.
    NotRepeatable,
    /// Not all of the body is there any more.
    Body,
    /// It is asked again for it only after too long a time.
    RetryAfter,
    /// Nobody would wait for the answer any more.
    Deadline,
    /// The budget is spent.
    Budget,
    /// Somebody behind us has tried again already.
    Nested,
}

impl Stop {
    /// The word in log and span.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Attempts => "attempts",
            Self::NotRepeatable => "not_repeatable",
            Self::Body => "body",
            Self::RetryAfter => "retry_after",
            Self::Deadline => "deadline",
            Self::Budget => "budget",
            Self::Nested => "nested",
        }
    }
}

/// In the extensions of a response: whoever is behind may have seen an attempt before the one that it is of, whatever
/// its own reason says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent;

/// Whether whoever is behind has provably seen nothing of the request that this is the answer to.
pub(crate) fn is_unsent<R>(response: &Response<R>) -> bool {
    let extensions = response.extensions();
    let rejection = extensions.get::<Rejection>();
    rejection.is_some_and(|it| it.reason.is_before_sending()) && extensions.get::<Sent>().is_none()
}

/// In the extensions of a response that was made here because the request had failed: no answer of whoever is behind,
/// and none that should be remembered in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StandIn {
    /// Why it had failed, if that was found here.
    pub reason: Option<Reason>,
    /// Whether whoever is behind may have seen it.
    pub was_sent: bool,
}

/// In the extensions of a request: another attempt at it is under way, so that nothing is known of the endpoint that was
/// tried before, but that it takes longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beside;

/// In the extensions of a response: the caller waits for less time than we would. That it was not answered in time, or
/// was refused for want of it, is no failure of whoever was asked ([`classify`](crate::classify)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hurried;

/// How many endpoints of one request are remembered; those after them are not avoided.
pub const MAX_TRIED: usize = 8;

/// The endpoints that were tried for a request before: they come last.
///
/// Whoever retries [puts](Self::put) one into the request before it makes copies of it. They all share it, and
/// each balancer below writes down what it chose. Without one nothing is remembered.
#[derive(Clone, Debug, Default)]
pub struct Tried(Arc<[AtomicU64; MAX_TRIED]>);

impl Tried {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Those of a request: in its [`Context`], else in an extension of its own.
    pub fn of(extensions: &Extensions) -> Option<&Self> {
        let known = extensions.get::<Context>().and_then(|context| context.tried.as_ref());
        known.or_else(|| extensions.get::<Self>())
    }

    /// Puts it where [`of`](Self::of) looks.
    pub fn put(self, extensions: &mut Extensions) {
        match extensions.get_mut::<Context>() {
            Some(context) => context.tried = Some(self),
            None => _ = extensions.insert(self),
        }
    }

    /// How many there were.
    pub fn count(&self) -> usize {
        self.0.iter().filter(|id| id.load(Relaxed) != 0).count()
    }

    pub(crate) fn has(&self, id: u64) -> bool {
        self.0.iter().any(|known| known.load(Relaxed) == id)
    }

    /// Relaxed: attempts of one request come one after the other; of those that do not, both are written down.
    pub(crate) fn add(&self, id: u64) {
        for known in &*self.0 {
            match known.compare_exchange(0, id, Relaxed, Relaxed) {
                Ok(_) => return,
                Err(other) if other == id => return,
                Err(_) => {}
            }
        }
    }
}
