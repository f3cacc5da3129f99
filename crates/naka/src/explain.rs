//! The only dynamic view of a layer: what it would say, without doing it.

use http::{StatusCode, request::Parts};

use crate::{
    clock::Now,
    reject::{Dependency, Rejection},
};

/// Evaluates a layer's decision without committing it.
///
/// The law every layer keeps, and the contract suite checks: at any instant what `explain` says is
/// what `call` does next, and asking changes nothing.
pub trait Explain: Send + Sync {
    /// The kind of layer, as in configuration: `rate_limit`.
    fn kind(&self) -> &'static str;

    /// The name of the policy, where it has one.
    fn name(&self) -> Option<&str> {
        None
    }

    /// What this layer would say. `head` is a copy that is changed as the data path would change
    /// it, so that a later layer sees the endpoint an earlier one chose.
    fn explain(&self, now: Now, head: &mut Parts) -> Finding;

    /// What led to a refusal, in words, where its reason alone does not say it: each endpoint, and what it is out
    /// for. For people, bounded, and with the same `head` that was refused; `None` by default.
    fn because(&self, _now: Now, _head: &Parts) -> Option<String> {
        None
    }

    /// Hands out the parts that explain themselves: the layer itself, or each of several in one.
    fn each<'a>(&'a self, visit: &mut dyn FnMut(&'a dyn Explain))
    where
        Self: Sized,
    {
        visit(self);
    }
}

/// What a layer would say.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Finding {
    /// It is not switched on.
    Off,
    /// It has no say in this request.
    Passes,
    /// It lets pass; what it knows, in words.
    Admit(String),
    /// It answers by itself with this status, which is no refusal; what it says, in words. The request goes no
    /// further.
    Answer(StatusCode, String),
    /// It would refuse, but is not enforced here, and lets pass.
    Observe(Rejection),
    /// It refuses.
    Reject(Rejection),
    /// It cannot know without asking, which `explain` does not do.
    WouldAsk(Dependency),
}
