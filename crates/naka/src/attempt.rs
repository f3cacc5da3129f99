//! What the attempts at one request know of one another: the word that retries and balancers share.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use http::Extensions;

use crate::context::Context;

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
