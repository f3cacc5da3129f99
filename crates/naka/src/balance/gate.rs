//! What stands in front of one endpoint and may close: the seam for a circuit breaker.

use std::{fmt, time::Duration};

use http::StatusCode;

use crate::{clock::Now, guard::End};

/// Stands in front of one endpoint, and may let nobody pass for a while.
///
/// It is looked at *before* an endpoint is chosen, so that a choice does not fall on one that is closed, and
/// entered when it is. In between somebody else may have taken the last probe: then the next candidate is asked.
///
/// It is a trait object, one for each endpoint, and not a type parameter of the layer: most policies look at
/// one or two endpoints, so it is one or two indirect calls, where a parameter would go through the type of
/// every body and service. For the same reason what is entered is a [`Ticket`] and no guard of the gate's own,
/// which would have to be boxed for each request: the guard is that of the balancer, in the response body.
pub trait Gate: fmt::Debug + Send + Sync + 'static {
    /// Whether a request could pass now. Writes nothing.
    fn availability(&self, now: Now) -> Availability;

    /// Lets one pass, or not. Where nobody else is asking it does as [`availability`](Self::availability) has just
    /// said. Each ticket is given back by [`leave`](Self::leave).
    fn enter(&self, now: Now) -> Option<Ticket>;

    /// One that was let pass has ended.
    fn leave(&self, ticket: Ticket, passage: &Passage);
}

/// What a gate says before it is entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Availability {
    /// Open.
    Ready,
    /// A few may pass, to see whether it is well again.
    Probe,
    /// Closed.
    Ejected,
}

/// What a gate gave to one request, and gets back: a number of its own, such as the epoch it was entered in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket(pub u64);

/// How it went.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Passage {
    /// When it was entered.
    pub entered: Now,
    /// What came of it.
    pub answer: Answer,
    /// The status, if there was a head.
    pub status: Option<StatusCode>,
    /// How long the head of the response took, or whatever came in its place.
    pub latency: Duration,
    /// How the response body ended; `None` if there was none.
    pub end: Option<End>,
}

/// What came of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A response that is no failure. If its body broke off, that is one.
    Success,
    /// An error, a status of 5xx, or a [`Rejection`](crate::reject::Rejection) that
    /// [blames the upstream](crate::reject::Reason::blames_upstream).
    Failure,
    /// It was given up, or refused behind the balancer for reasons of our own: it says nothing.
    Neutral,
}
