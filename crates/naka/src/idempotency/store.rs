//! Where keys and answers are remembered.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use tokio::time::Instant;

use super::table::{Counts, Digest, End, Found, Limits, Table};
use crate::clock::Now;

/// Remembers keys and answers.
///
/// [`MemoryStore`] does, in this process. One that is shared by several has to set a key if it is not there in
/// one step, and to bring its own end of a key that nobody ends because a process is gone.
pub trait Store: fmt::Debug + Send + Sync + 'static {
    /// A request has come whose key has this id; all that it is has this print. If nothing is known of
    /// the id, it is at work from now on, in the same step.
    ///
    /// One that cannot be reached, or not in time, says [`Begun::Full`]. If the request is given up while the
    /// store is asked, the future is dropped, and what it took is the store's to give back.
    fn begin(&self, limits: &Limits, now: Now, id: &Digest, print: &Digest) -> Beginning;

    /// The request that began with this token has ended. Called once for each [`Begun::Fresh`], also from
    /// destructors: whatever takes time is done later, by somebody else.
    fn end(&self, limits: &Limits, now: Now, id: &Digest, token: u64, outcome: Outcome);

    /// What [`begin`](Self::begin) would find, were it the same request; `None` if that cannot be known
    /// without asking. Changes nothing.
    fn peek(&self, _: &Limits, _: Now, _: &Digest) -> Option<Begun> {
        None
    }

    /// What is remembered, where that is known.
    fn counts(&self) -> Counts {
        Counts::default()
    }

    /// When the last of those that are remembered has ended, where that is known.
    fn last_end(&self) -> Option<Instant> {
        None
    }
}

/// What a store says, or the asking.
pub enum Beginning {
    /// At once.
    Now(Begun),
    /// After a while.
    Later(Pin<Box<dyn Future<Output = Begun> + Send>>),
}

impl fmt::Debug for Beginning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Now(begun) => f.debug_tuple("Now").field(begun).finish(),
            Self::Later(_) => f.write_str("Later"),
        }
    }
}

/// What a request with a key finds.
#[derive(Clone, Debug)]
pub enum Begun {
    /// Nothing was known: it is at work now. The store gets the token back with its end.
    Fresh(u64),
    /// It is at work already.
    Working,
    /// It was answered.
    Answered(Arc<Recorded>),
    /// It was answered, and its answer was not kept.
    NotKept,
    /// It was given up while it was at work.
    Unknown,
    /// The key was used for another request.
    Mismatch,
    /// No more keys can be remembered.
    Full,
}

/// How a request ended.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// Its key is free again.
    Released,
    /// It was answered.
    Answered(Arc<Recorded>),
    /// It was answered, and the answer is too large, or was not all there.
    NotKept,
    /// Whether it was done is not known.
    Unknown,
}

/// An answer that can be played back.
#[derive(Clone, PartialEq)]
#[non_exhaustive]
pub struct Recorded {
    /// Its status.
    pub status: StatusCode,
    /// Its headers, without those that were of one connection or one moment.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
    /// What came after the body.
    pub trailers: Option<HeaderMap>,
}

impl Recorded {
    /// These parts.
    pub const fn new(status: StatusCode, headers: HeaderMap, body: Bytes) -> Self {
        Self { status, headers, body, trailers: None }
    }

    /// About what it takes, in bytes.
    pub fn weight(&self) -> usize {
        let all = self.headers.iter().chain(self.trailers.iter().flatten());
        let fields = all.map(|(name, value)| name.as_str().len() + value.len() + 32);
        self.body.len() + fields.sum::<usize>()
    }
}

/// What was said to one caller is not shown to others.
impl fmt::Debug for Recorded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorded")
            .field("status", &self.status)
            .field("body_bytes", &self.body.len())
            .finish_non_exhaustive()
    }
}

/// Remembers in this process, and no longer than it lives.
pub struct MemoryStore {
    start: Instant,
    table: Mutex<Table<Arc<Recorded>>>,
}

impl MemoryStore {
    /// Nothing is known.
    pub fn new() -> Self {
        Self { start: Instant::now(), table: Mutex::default() }
    }

    fn table(&self) -> MutexGuard<'_, Table<Arc<Recorded>>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("MemoryStore").field(&self.counts()).finish()
    }
}

impl Store for MemoryStore {
    fn begin(&self, limits: &Limits, now: Now, id: &Digest, print: &Digest) -> Beginning {
        Beginning::Now(self.table().begin(limits, now.since_ns(self.start), id, print).into())
    }

    fn end(&self, limits: &Limits, now: Now, id: &Digest, token: u64, outcome: Outcome) {
        let end = match outcome {
            Outcome::Released => None,
            Outcome::Answered(answer) => {
                let weight = answer.weight();
                Some((End::Answered(answer), weight))
            }
            Outcome::NotKept => Some((End::NotKept, 0)),
            Outcome::Unknown => Some((End::Unknown, 0)),
        };
        self.table().end(limits, now.since_ns(self.start), (id, token), end);
    }

    fn peek(&self, limits: &Limits, now: Now, id: &Digest) -> Option<Begun> {
        Some(self.table().peek(limits, now.since_ns(self.start), id).into())
    }

    fn counts(&self) -> Counts {
        self.table().counts()
    }

    fn last_end(&self) -> Option<Instant> {
        let last_ns = self.table().last_end_ns()?;
        self.start.checked_add(Duration::from_nanos(last_ns))
    }
}

impl From<Found<Arc<Recorded>>> for Begun {
    fn from(found: Found<Arc<Recorded>>) -> Self {
        match found {
            Found::Fresh(token) => Self::Fresh(token),
            Found::Working => Self::Working,
            Found::Ended(End::Answered(answer)) => Self::Answered(answer),
            Found::Ended(End::NotKept) => Self::NotKept,
            Found::Ended(End::Unknown) => Self::Unknown,
            Found::Mismatch => Self::Mismatch,
            Found::Full => Self::Full,
        }
    }
}

/// The key of one request that is at work. Dropped without an outcome, that is not known.
pub(super) struct Ticket {
    store: Arc<dyn Store>,
    limits: Limits,
    id: Digest,
    token: u64,
    is_over: bool,
}

impl Ticket {
    pub(super) fn new(store: Arc<dyn Store>, limits: Limits, id: Digest, token: u64) -> Self {
        Self { store, limits, id, token, is_over: false }
    }

    pub(super) fn end(mut self, outcome: Outcome) {
        self.tell(outcome);
    }

    fn tell(&mut self, outcome: Outcome) {
        self.is_over = true;
        self.store.end(&self.limits, Now::read(), &self.id, self.token, outcome);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.is_over {
            self.tell(Outcome::Unknown);
        }
    }
}
