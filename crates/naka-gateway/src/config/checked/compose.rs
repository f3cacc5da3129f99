//! Compositions.

use std::sync::Arc;

use http::HeaderName;
use naka::compose::Plan;

use super::{KeyPart, Name};

/// Several calls, whose answers become one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compose {
    /// What is made of what. It knows no headers yet.
    pub plan: Plan,
    /// Where its calls go, as it counts them.
    pub calls: Vec<ComposeCall>,
    /// What values stand for that are of no call, as the plan counts them.
    pub given: Vec<(Arc<str>, KeyPart)>,
    /// Headers of the client that are sent along, besides those that say who asks and how.
    pub headers: Vec<HeaderName>,
}

/// Where one call goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ComposeCall {
    /// The upstream.
    pub upstream: Name,
    /// What is retried of it: a name in `policies`.
    pub retry: Option<Name>,
    /// What leaves it alone when it fails: a name in `policies`.
    pub circuit_breaker: Option<Name>,
}

impl Compose {
    /// Each call, its name, and where it goes.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &ComposeCall)> {
        self.plan.calls().iter().map(|call| &call.name).zip(&self.calls)
    }
}
