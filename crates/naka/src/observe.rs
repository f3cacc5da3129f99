//! Facts, told synchronously to a value that each layer owns.
//!
//! One observer per layer *instance*: labels are looked up when it is made and not for each event,
//! so no event names its policy. `()` observes nothing and costs nothing.

use std::{sync::Arc, time::Duration};

#[cfg(feature = "compose")]
use crate::compose::Called;
#[cfg(feature = "mirror")]
use crate::mirror::Copied;
use crate::{
    attempt::Stop, circuit_breaker::Transition, classify::Outcome, health::Change, reject::Rejection,
    split::Held,
};

/// Hears what a layer did. Every method does nothing unless it is written.
///
/// Called on the request path: count, and return.
pub trait Observer: Send + Sync + 'static {
    /// A request was let pass.
    fn admitted(&self) {}
    /// A request was refused.
    fn rejected(&self, _: &Rejection) {}
    /// A request would have been refused, had the layer been enforced.
    fn would_reject(&self, _: &Rejection) {}
    /// A request was answered with what was remembered.
    fn replayed(&self) {}
    /// A request waits for a place; [`admitted`](Self::admitted),
    /// [`rejected`](Self::rejected) or [`cancelled`](Self::cancelled) follows.
    fn queued(&self) {}
    /// A request that waited for a place does so no longer, whatever came of it: this is how long it has.
    fn waited(&self, _: Duration) {}
    /// A request is late on purpose; [`admitted`](Self::admitted), [`rejected`](Self::rejected) or
    /// [`cancelled`](Self::cancelled) follows.
    fn delayed(&self) {}
    /// A request that waited was given up by its caller.
    fn cancelled(&self) {}
    /// A request that failed is sent again.
    fn retried(&self) {}
    /// A request that is not answered is sent once more.
    fn hedged(&self) {}
    /// Another attempt than the first was answered first.
    fn hedge_won(&self) {}
    /// A request that failed, or is not answered, is not sent again, here or elsewhere, for this reason.
    fn not_retried(&self, _: Stop) {}
    /// A request that failed is answered in another way.
    fn fell_back(&self) {}
    /// A request was decided without the store that it should have been decided with.
    fn without_store(&self) {}
    /// This became of a copy of a request.
    #[cfg(feature = "mirror")]
    fn copied(&self, _: Copied) {}
    /// A circuit breaker went from one phase into another; told once, by whoever made it so.
    fn transition(&self, _: &Transition) {}
    /// It is known what came of a request that was let pass; told by those who count it.
    fn settled(&self, _: Outcome) {}
    /// The arm of a split is held from now on, for this reason; told once, by whoever made it so.
    fn held(&self, _: &Held) {}
    /// The arm of a split is held no longer.
    fn released(&self) {}
    /// So few endpoints are available that one was chosen among all of them.
    fn panicked(&self) {}
    /// A health check has ended, and was passed or not.
    fn checked(&self, _is_passed: bool) {}
    /// What health checks say of an endpoint has changed.
    fn health_changed(&self, _: &Change) {}
    /// This became of a call of a composition, by its number.
    #[cfg(feature = "compose")]
    fn called(&self, _call: usize, _: Called) {}
}

impl Observer for () {}

impl<O: Observer> Observer for Arc<O> {
    fn admitted(&self) {
        (**self).admitted();
    }
    fn rejected(&self, rejection: &Rejection) {
        (**self).rejected(rejection);
    }
    fn would_reject(&self, rejection: &Rejection) {
        (**self).would_reject(rejection);
    }
    fn replayed(&self) {
        (**self).replayed();
    }
    fn queued(&self) {
        (**self).queued();
    }
    fn waited(&self, waited: Duration) {
        (**self).waited(waited);
    }
    fn delayed(&self) {
        (**self).delayed();
    }
    fn cancelled(&self) {
        (**self).cancelled();
    }
    fn retried(&self) {
        (**self).retried();
    }
    fn hedged(&self) {
        (**self).hedged();
    }
    fn hedge_won(&self) {
        (**self).hedge_won();
    }
    fn not_retried(&self, stop: Stop) {
        (**self).not_retried(stop);
    }
    fn fell_back(&self) {
        (**self).fell_back();
    }
    fn without_store(&self) {
        (**self).without_store();
    }
    #[cfg(feature = "mirror")]
    fn copied(&self, copied: Copied) {
        (**self).copied(copied);
    }
    fn transition(&self, transition: &Transition) {
        (**self).transition(transition);
    }
    fn settled(&self, outcome: Outcome) {
        (**self).settled(outcome);
    }
    fn held(&self, held: &Held) {
        (**self).held(held);
    }
    fn released(&self) {
        (**self).released();
    }
    fn panicked(&self) {
        (**self).panicked();
    }
    fn checked(&self, is_passed: bool) {
        (**self).checked(is_passed);
    }
    fn health_changed(&self, change: &Change) {
        (**self).health_changed(change);
    }
    #[cfg(feature = "compose")]
    fn called(&self, call: usize, called: Called) {
        (**self).called(call, called);
    }
}
