//! Bytes of bodies that are held in memory because they may be needed again, by all layers of a process together: what
//! [`retry`](crate::retry), [`hedge`](crate::hedge) and [`fallback`](crate::fallback) keep to send again, [`mirror`](crate::mirror) to
//! send elsewhere, and [`idempotency`](crate::idempotency) to compare and to repeat.
//!
//! Each of them has a bound of its own for each request. [`Held`] is one over all of them: put it into the [`Context`] of requests,
//! or into their extensions, and nothing is held beyond it. Nobody waits for room, so nobody waits for each other:
//! - what need not be kept is not: the body streams as it did, and is sent once;
//! - of what has to be kept the request is refused (`idempotency`: 503
//!   [`IdempotencyStoreFull`](crate::reject::Reason::IdempotencyStoreFull)).
//!
//! What is held is given back when whoever holds it is dropped: at the end of an exchange, when it is given up, and when a layer
//! panics.
//!
//! # Units and limits
//! Bytes of bodies, as often as they are kept; what allocators take besides is not in it, nor are what caches write down and what
//! is remembered: they have bounds of their own. Without a [`Held`] there is no bound over all.

use std::sync::{
    Arc,
    atomic::{
        AtomicU64,
        AtomicUsize,
        Ordering::Relaxed, // They are counts, and guard nothing else.
    },
};

use http::Extensions;

use crate::context::Context;

/// One account of bytes, and how many of them there may be as its requests see it: see the [module docs](self).
///
/// Clones share the account.
#[derive(Clone, Debug)]
pub struct Held {
    account: Arc<Account>,
    max_bytes: usize,
}

#[derive(Debug, Default)]
struct Account {
    bytes: AtomicUsize,
    refused: AtomicU64,
}

impl Held {
    /// Nothing is held yet, and no more than this may be.
    pub fn new(max_bytes: usize) -> Self {
        Self { account: Arc::default(), max_bytes }
    }

    /// The same account, with another bound for the requests that get this one.
    #[must_use]
    pub fn with_max(&self, max_bytes: usize) -> Self {
        Self { account: Arc::clone(&self.account), max_bytes }
    }

    /// Bytes that are held, now.
    pub fn bytes(&self) -> usize {
        self.account.bytes.load(Relaxed)
    }

    /// How many more there is room for.
    pub fn left(&self) -> usize {
        self.max_bytes.saturating_sub(self.bytes())
    }

    /// Bodies for which there was no room.
    pub fn refused(&self) -> u64 {
        self.account.refused.load(Relaxed)
    }

    /// The one in the [`Context`], else in an extension of its own.
    pub fn of(extensions: &Extensions) -> Option<&Arc<Self>> {
        let known = extensions.get::<Context>().and_then(|context| context.held.as_ref());
        known.or_else(|| extensions.get::<Arc<Self>>())
    }

    /// Puts it where [`of`](Self::of) looks.
    pub fn put(self: Arc<Self>, extensions: &mut Extensions) {
        match extensions.get_mut::<Context>() {
            Some(context) => context.held = Some(self),
            None => _ = extensions.insert(self),
        }
    }
}

/// What is held of one body; dropped it gives that back.
#[derive(Debug, Default)]
pub(crate) struct Part {
    held: Option<Arc<Held>>,
    bytes: usize,
    is_refused: bool,
}

impl Part {
    /// Of a body of a request with these extensions: nothing yet.
    pub(crate) fn of(extensions: &Extensions) -> Self {
        Self { held: Held::of(extensions).cloned(), bytes: 0, is_refused: false }
    }

    /// Another one of the same account: nothing yet.
    pub(crate) fn another(&self) -> Self {
        Self { held: self.held.clone(), bytes: 0, is_refused: false }
    }

    /// Takes what is missing to so many bytes; says whether there was room.
    pub(crate) fn grow(&mut self, bytes: usize) -> bool {
        let Some(held) = &self.held else { return true };
        let more = bytes.saturating_sub(self.bytes);
        let next = |all: usize| all.checked_add(more).filter(|all| *all <= held.max_bytes);
        let has_room = more == 0 || held.account.bytes.fetch_update(Relaxed, Relaxed, next).is_ok();
        if has_room {
            self.bytes += more;
        } else if !std::mem::replace(&mut self.is_refused, true) {
            held.account.refused.fetch_add(1, Relaxed);
        }
        has_room
    }

    /// Gives all of it back.
    pub(crate) fn clear(&mut self) {
        if let Some(held) = &self.held {
            held.account.bytes.fetch_sub(std::mem::take(&mut self.bytes), Relaxed);
        }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(held: &Held) -> Part {
        let mut extensions = Extensions::new();
        Arc::new(held.clone()).put(&mut extensions);
        Part::of(&extensions)
    }

    #[test]
    fn nothing_is_held_beyond_the_bound_and_all_is_given_back() {
        let held = Held::new(10);
        let (mut one, mut other) = (part(&held), part(&held));
        assert!(one.grow(7) && other.grow(3), "exactly as much");
        assert!(!other.grow(4) && !other.grow(5), "and no more");
        assert_eq!((held.bytes(), held.left(), held.refused()), (10, 0, 1), "a body is refused once");
        assert!(other.grow(3), "what it has, it has");
        drop(one);
        assert!(other.grow(10));
        other.clear();
        assert_eq!((held.bytes(), other.bytes), (0, 0));
        drop(other);
        assert_eq!(held.bytes(), 0);
    }

    #[test]
    fn a_changed_bound_is_that_of_those_who_see_it_over_one_account() {
        let held = Held::new(10);
        let mut before = part(&held);
        assert!(before.grow(10));
        let lower = held.with_max(5);
        assert!(!part(&lower).grow(1), "there is more than may be: no more until it has gone");
        assert!(part(&held.with_max(11)).grow(1));
        drop(before);
        assert!(part(&lower).grow(5));
    }

    #[test]
    fn who_panics_gives_it_back() {
        let held = Held::new(10);
        let mut one = part(&held);
        let panicking = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
            assert!(one.grow(10));
            panic!("with it at hand");
        }));
        assert!(panicking.is_err());
        assert_eq!(held.bytes(), 0);
    }

    #[test]
    fn without_an_account_nothing_is_counted() {
        let mut part = Part::of(&Extensions::new());
        assert!(part.grow(usize::MAX));
        part.clear();
    }
}
