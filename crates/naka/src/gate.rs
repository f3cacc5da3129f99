//! What stands in front of one endpoint and may close: the word that balancers and circuit breakers share.

use std::{fmt, time::Duration};

use crate::{classify::Outcome, clock::Now};

/// Stands in front of one endpoint, and may let nobody pass for a while.
///
/// It is looked at *before* an endpoint is chosen, so that a choice does not fall on one that is closed, and
/// entered when it is. In between somebody else may have taken the last probe: then the next candidate is asked.
/// A [`Breaker`](crate::circuit_breaker::Breaker) is one.
///
/// It is a trait object, one for each endpoint, and not a type parameter of the layer: a choice looks at
/// one or two gates, nearly always, so it is one or two indirect calls, where a parameter would go through the type of
/// every body and service. For the same reason what is entered is a [`Ticket`] and no guard of the gate's own,
/// which would have to be boxed for each request: the guard is that of the balancer, in the response body.
pub trait Gate: fmt::Debug + Send + Sync + 'static {
    /// Whether a request could pass now. Writes nothing.
    fn availability(&self, now: Now) -> Availability;

    /// Lets one pass, or not. Where nobody else is asking it does as [`availability`](Self::availability) has just
    /// said. Each ticket is given back by [`leave`](Self::leave).
    fn enter(&self, now: Now) -> Option<Ticket>;

    /// It is known how it went with one that was let pass: with the head of its response, if that decides it or
    /// the gate [wants no more](Self::settles_at_head), else when its body has ended.
    fn leave(&self, ticket: Ticket, passage: &Passage);

    /// Whether a head that is no failure is a success, however the body ends.
    fn settles_at_head(&self) -> bool {
        false
    }

    /// What is known of the endpoint here, for people.
    fn explain(&self, now: Now) -> String {
        match self.availability(now) {
            Availability::Ready => "open".to_owned(),
            Availability::Probe => "open to a probe".to_owned(),
            Availability::Ejected(None) => "closed".to_owned(),
            Availability::Ejected(Some(left)) => format!("closed, {left:?} to go"),
        }
    }
}

/// What a gate says before it is entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Availability {
    /// Open.
    Ready,
    /// A few may pass, to see whether it is well again.
    Probe,
    /// Closed; it could be open after so long, where that is known.
    Ejected(Option<Duration>),
}

impl Availability {
    /// Whether a request could pass.
    pub const fn is_open(self) -> bool {
        matches!(self, Self::Ready | Self::Probe)
    }
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
    /// What it says of the endpoint.
    pub outcome: Outcome,
    /// How long the head of the response took, or whatever came in its place.
    pub latency: Duration,
}

impl Passage {
    /// Entered then, and this is what it says after the head took so long.
    pub const fn new(entered: Now, outcome: Outcome, latency: Duration) -> Self {
        Self { entered, outcome, latency }
    }
}
