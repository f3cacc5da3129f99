//! What is written down of one request while it is under way: whom it was sent to, and what was decided about it.
//!
//! Whoever begins a request [puts](Journal::put) a journal where layers find it; they write into it, and at the end it is
//! [closed](Journal::close) and becomes part of a span, or of a line of a log. Without one nothing is written, and that costs
//! one look.
//!
//! # Bounds
//! [`ATTEMPTS`] and [`EVENTS`] of one request; what is over that is counted.

use std::{
    num::NonZeroU64,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use http::{Extensions, Method, StatusCode};

use super::{Context, SpanId};
use crate::{
    clock::Now,
    context::Context as Facts,
    guard::End,
    identity::Identity,
    random::{GAMMA, mix},
    reject::Reason,
};

/// The most attempts at one request that are written down.
pub const ATTEMPTS: usize = 16;
/// The most events of one request that are written down.
pub const EVENTS: usize = 32;

/// What is written down of one request.
#[derive(Debug)]
pub struct Journal {
    context: Option<Context>,
    is_of_copy: bool,
    written: Mutex<Written>,
}

/// All of it.
#[derive(Clone, Debug, Default)]
pub struct Written {
    /// Each time that it was sent to an endpoint, in order.
    pub attempts: Vec<Attempt>,
    /// What was decided about it, in order.
    pub events: Vec<Event>,
    /// The limit that has least left for its key, of those that it was counted in.
    pub limit: Option<Left>,
    /// Who it comes from, if that was found.
    pub identity: Option<Arc<Identity>>,
    /// Which version of an API it asked for.
    pub version: Option<Arc<str>>,
    /// Which arm of a split it went to.
    pub arm: Option<Arc<str>>,
    /// Attempts and events for which there was no room.
    pub left_out: usize,
    is_closed: bool,
}

/// One time that a request was sent to an endpoint, from when it was chosen to the end of its response's body.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// Its span.
    pub span: Option<SpanId>,
    /// By which method, where that is another than the request's own.
    pub method: Option<Method>,
    /// Of which upstream.
    pub upstream: Arc<str>,
    /// Its address.
    pub endpoint: Arc<str>,
    /// When it began.
    pub began: Now,
    /// How long until the head of a response, or until it was known that there is none.
    pub answered: Option<Duration>,
    /// How long until its end; `None` if it was not over when the journal was closed.
    pub took: Option<Duration>,
    /// What was answered.
    pub status: Option<StatusCode>,
    /// Why it failed, if the endpoint has not answered.
    pub reason: Option<Reason>,
    /// How its response's body ended; `None` if there was none, or it was not over.
    pub end: Option<End>,
}

/// Something that was decided about a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// When.
    pub at: Now,
    /// What, in the words of [`Observer`](crate::observe::Observer): `queued`, `retried`, `would_reject` …
    pub what: &'static str,
    /// By which policy, where it has a name.
    pub policy: Option<Arc<str>>,
    /// Why, where that is known.
    pub why: Option<&'static str>,
}

/// What a limit has left for a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Left {
    /// Which limit, where it has a name.
    pub policy: Option<Arc<str>>,
    /// So many requests of cost one.
    pub remaining: u64,
}

impl Journal {
    /// Nothing yet, of a request that is this span, if it is one.
    pub fn new(context: Option<Context>) -> Arc<Self> {
        Arc::new(Self { context, is_of_copy: false, written: Mutex::default() })
    }

    /// That of a request: in its [context](Facts), else in an extension of its own.
    pub fn of(extensions: &Extensions) -> Option<&Arc<Self>> {
        let known = extensions.get::<Facts>().and_then(|facts| facts.journal.as_ref());
        known.or_else(|| extensions.get::<Arc<Self>>())
    }

    /// Puts it where [`of`](Self::of) looks.
    pub fn put(self: Arc<Self>, extensions: &mut Extensions) {
        match extensions.get_mut::<Facts>() {
            Some(facts) => facts.journal = Some(self),
            None => _ = extensions.insert(self),
        }
    }

    /// The span of the request.
    pub const fn context(&self) -> Option<&Context> {
        self.context.as_ref()
    }

    /// For a copy of the request that goes elsewhere and that nobody waits for: it is of the same trace, and is written down nowhere.
    #[must_use]
    pub fn of_copy(&self) -> Arc<Self> {
        Arc::new(Self { context: self.context.clone(), is_of_copy: true, written: Mutex::default() })
    }

    /// It is sent to this endpoint now.
    pub fn attempt(self: &Arc<Self>, upstream: &Arc<str>, endpoint: &Arc<str>, now: Now) -> UnderWay {
        if self.is_of_copy {
            return UnderWay { journal: Arc::clone(self), number: ATTEMPTS, span: None, is_over: true };
        }
        let mut written = self.lock();
        let number = written.attempts.len();
        let is_kept = !written.is_closed && number < ATTEMPTS;
        let nth = if is_kept { number } else { ATTEMPTS + written.left_out };
        let span = self.context.as_ref().map(|context| nth_child(context.span, nth));
        if is_kept {
            written.attempts.push(Attempt {
                span,
                method: None,
                upstream: Arc::clone(upstream),
                endpoint: Arc::clone(endpoint),
                began: now,
                answered: None,
                took: None,
                status: None,
                reason: None,
                end: None,
            });
        } else {
            written.left_out += 1;
        }
        drop(written);
        UnderWay { journal: Arc::clone(self), number: nth, span, is_over: !is_kept }
    }

    /// This was decided, now.
    pub fn note(&self, what: &'static str, policy: Option<&Arc<str>>, why: Option<&'static str>) {
        let mut written = self.lock();
        if written.is_closed || self.is_of_copy {
            return;
        }
        if written.events.len() == EVENTS {
            written.left_out += 1;
            return;
        }
        written.events.push(Event { at: Now::read(), what, policy: policy.cloned(), why });
    }

    /// It comes from somebody.
    pub(crate) fn identify(&self, identity: &Arc<Identity>) {
        self.lock().identity = Some(Arc::clone(identity));
    }

    /// It asks for this version of an API.
    pub(crate) fn versioned(&self, version: &Arc<str>) {
        self.lock().version = Some(Arc::clone(version));
    }

    /// It goes to this arm of a split.
    pub(crate) fn goes_to(&self, arm: &Arc<str>) {
        self.lock().arm = Some(Arc::clone(arm));
    }

    /// It was counted in a limit that has so much left.
    pub fn left(&self, policy: Option<&Arc<str>>, remaining: u64) {
        let mut written = self.lock();
        if written.limit.as_ref().is_none_or(|least| remaining < least.remaining) {
            written.limit = Some(Left { policy: policy.cloned(), remaining });
        }
    }

    /// The request has ended: what was written. Nothing is written any more.
    pub fn close(&self) -> Written {
        let mut written = self.lock();
        let all = std::mem::take(&mut *written);
        written.is_closed = true;
        all
    }

    /// A panic cannot leave it half written.
    fn lock(&self) -> MutexGuard<'_, Written> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// [Notes](Journal::note) it in the journal of a request, if it has one.
pub(crate) fn note(
    extensions: &Extensions,
    what: &'static str,
    policy: Option<&Arc<str>>,
    why: Option<&'static str>,
) {
    if let Some(journal) = Journal::of(extensions) {
        journal.note(what, policy, why);
    }
}

/// As good as by chance where the span's own number is, and found without drawing another.
fn nth_child(span: SpanId, nth: usize) -> SpanId {
    let number = mix(span.0.get().wrapping_add(GAMMA.wrapping_mul(nth as u64 + 1)));
    SpanId(NonZeroU64::new(number).unwrap_or(NonZeroU64::MIN))
}

/// An attempt until its end. Dropped before that, it was given up.
#[derive(Debug)]
pub struct UnderWay {
    journal: Arc<Journal>,
    number: usize,
    span: Option<SpanId>,
    is_over: bool,
}

impl UnderWay {
    /// Its span, for whoever is asked.
    pub fn context(&self) -> Option<Context> {
        let context = self.journal.context.as_ref()?;
        Some(Context { span: self.span.unwrap_or(context.span), ..context.clone() })
    }

    /// It is asked by this method, and not by the request's own.
    #[must_use]
    pub fn by(self, method: &Method) -> Self {
        self.write(|attempt| attempt.method = Some(method.clone()));
        self
    }

    /// The head of a response is there.
    pub fn answered(&self, status: StatusCode, now: Now) {
        self.write(|attempt| {
            attempt.status = Some(status);
            attempt.answered = Some(attempt.lasted(now));
        });
    }

    /// There is no response, for this reason; that is its end.
    pub fn failed(mut self, reason: Reason, now: Now) {
        self.write(|attempt| {
            attempt.reason = Some(reason);
            attempt.answered = Some(attempt.lasted(now));
            attempt.took = attempt.answered;
        });
        self.is_over = true;
    }

    /// Its response has ended so.
    pub fn end(mut self, end: End) {
        self.finish(end);
    }

    fn finish(&mut self, end: End) {
        let now = Now::read();
        self.write(|attempt| {
            attempt.end = Some(end);
            attempt.took = Some(attempt.lasted(now));
        });
        self.is_over = true;
    }

    fn write(&self, change: impl FnOnce(&mut Attempt)) {
        if self.is_over {
            return;
        }
        let mut written = self.journal.lock();
        if let Some(attempt) = written.attempts.get_mut(self.number) {
            change(attempt);
        }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        if !self.is_over {
            self.finish(End::Dropped);
        }
    }
}

impl Attempt {
    fn lasted(&self, now: Now) -> Duration {
        now.instant().saturating_duration_since(self.began.instant())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::Ids;

    fn journal() -> Arc<Journal> {
        Journal::new(Some(Context::root(&Ids::new(), true)))
    }

    fn begin(journal: &Arc<Journal>, endpoint: &str) -> UnderWay {
        journal.attempt(&"app".into(), &endpoint.into(), Now::read())
    }

    #[tokio::test(start_paused = true)]
    async fn r8_2_each_attempt_is_a_span_of_its_own_from_when_it_is_sent_to_the_end_of_its_body() {
        let journal = journal();
        let first = begin(&journal, "127.0.0.1:1");
        tokio::time::advance(Duration::from_millis(5)).await;
        first.failed(Reason::ConnectFailed, Now::read());
        let second = begin(&journal, "127.0.0.1:2");
        let asked = second.context().unwrap();
        tokio::time::advance(Duration::from_millis(7)).await;
        second.answered(StatusCode::OK, Now::read());
        tokio::time::advance(Duration::from_millis(11)).await;
        second.end(End::Complete);
        let third = begin(&journal, "127.0.0.1:3");
        drop(third);
        let fourth = begin(&journal, "127.0.0.1:4");
        let Written { attempts, left_out, .. } = journal.close();
        fourth.end(End::Complete); // Too late to be written.
        let ms = |took: Option<Duration>| took.map(|took| took.as_millis());
        let told = attempts.iter().map(|it| (ms(it.answered), ms(it.took), it.reason, it.end));
        assert_eq!(
            told.collect::<Vec<_>>(),
            [
                (Some(5), Some(5), Some(Reason::ConnectFailed), None),
                (Some(7), Some(18), None, Some(End::Complete)),
                (None, Some(0), None, Some(End::Dropped)),
                (None, None, None, None),
            ]
        );
        let server = journal.context().unwrap();
        assert_eq!((asked.trace, Some(asked.span)), (server.trace, attempts[1].span));
        let mut spans = attempts.iter().filter_map(|it| it.span).chain([server.span]).collect::<Vec<_>>();
        spans.sort_by_key(|span| span.0);
        spans.dedup();
        assert_eq!((spans.len(), left_out), (5, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_journal_does_not_grow_without_end_and_counts_what_it_leaves_out() {
        let journal = journal();
        let mut spans = Vec::new();
        for _ in 0..2 * ATTEMPTS {
            spans.extend(begin(&journal, "127.0.0.1:1").context().map(|it| it.span.0));
        }
        for _ in 0..2 * EVENTS {
            journal.note("retried", None, None);
        }
        let copy = journal.of_copy();
        copy.note("retried", None, None);
        let copied = begin(&copy, "127.0.0.1:9");
        assert_eq!(copied.context(), journal.context().cloned(), "a copy is asked for by the request itself");
        let written = journal.close();
        assert_eq!((written.attempts.len(), written.events.len()), (ATTEMPTS, EVENTS));
        assert_eq!(written.left_out, ATTEMPTS + EVENTS);
        spans.sort_unstable();
        spans.dedup();
        assert_eq!(
            spans.len(),
            2 * ATTEMPTS,
            "also those that are not written down are asked under a number of their own"
        );
        journal.note("retried", None, None);
        assert!(journal.close().events.is_empty() && copy.close().attempts.is_empty());
    }
}
