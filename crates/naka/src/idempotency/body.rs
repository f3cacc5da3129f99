//! The body of a response that is remembered while it goes to the client.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
    thread,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::store::{Outcome, Recorded, Ticket};
use crate::{
    buffered::{Buffered, Share},
    headers::without_connection,
};

/// How often a body whose client is gone is asked for what it has at hand.
const LAST_POLLS: usize = 64;

pin_project! {
    /// A response's body, or one that is played back.
    ///
    /// Dropped before its end it is asked once more for what it has at hand: a short answer is remembered
    /// even if its client did not wait for it.
    pub struct IdempotencyBody<B>
    where
        B: Body<Data = Bytes>,
    {
        #[pin]
        body: Buffered<B>,
        recorder: Option<Box<Recorder>>,
    }

    impl<B: Body<Data = Bytes>> PinnedDrop for IdempotencyBody<B> {
        fn drop(this: Pin<&mut Self>) {
            let this = this.project();
            if let Some(recorder) = this.recorder.take() {
                recorder.give_up(this.body);
            }
        }
    }
}

impl<B: Body<Data = Bytes>> IdempotencyBody<B> {
    /// One that nobody remembers.
    pub(super) const fn plain(body: Buffered<B>) -> Self {
        Self { body, recorder: None }
    }

    pub(super) fn recorded(body: B, recorder: Recorder) -> Self {
        let body = Buffered::same(body);
        if body.is_end_stream() {
            recorder.finish(); // Nobody asks for the end of a body that says it is there.
            return Self::plain(body);
        }
        Self { body, recorder: Some(Box::new(recorder)) }
    }
}

impl<B: Body<Data = Bytes>> fmt::Debug for IdempotencyBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_recorded = self.recorder.is_some();
        f.debug_struct("IdempotencyBody").field("is_recorded", &is_recorded).finish_non_exhaustive()
    }
}

impl<B: Body<Data = Bytes> + Default> Default for IdempotencyBody<B> {
    fn default() -> Self {
        Self::plain(Buffered::default())
    }
}

impl<B: Body<Data = Bytes> + From<Bytes>> From<Bytes> for IdempotencyBody<B> {
    fn from(bytes: Bytes) -> Self {
        Self::plain(Buffered::from(bytes))
    }
}

impl<B: Body<Data = Bytes>> Body for IdempotencyBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let mut this = self.project();
        let frame = ready!(this.body.as_mut().poll_frame(cx));
        if let Some(recorder) = this.recorder.take() {
            *this.recorder = recorder.see(frame.as_ref(), this.body.is_end_stream());
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Writes down what goes by, and ends the request.
pub(super) struct Recorder {
    ticket: Ticket,
    answer: Recorded,
    /// None: it is more than is kept.
    body: Option<Written>,
    max_bytes: usize,
}

/// What has gone by of a body.
struct Written {
    bytes: Vec<u8>,
    share: Share,
}

impl Recorder {
    /// `size` is what the body says of itself.
    pub(super) fn new(
        ticket: Ticket,
        answer: Recorded,
        size: &SizeHint,
        max_bytes: usize,
        mut share: Share,
    ) -> Self {
        let lower = usize::try_from(size.lower()).unwrap_or(usize::MAX);
        let has_room = lower <= max_bytes && share.grow(lower);
        let body = has_room.then(|| Written { bytes: Vec::with_capacity(lower), share });
        Self { ticket, answer, body, max_bytes }
    }

    /// One frame; none if that was the last.
    fn see<E>(
        mut self: Box<Self>,
        frame: Option<&Result<Frame<Bytes>, E>>,
        mut is_end: bool,
    ) -> Option<Box<Self>> {
        match frame {
            None => is_end = true,
            Some(Err(_)) => {
                self.ticket.end(Outcome::Unknown);
                return None;
            }
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    self.write(data);
                } else if let Some(trailers) = frame.trailers_ref() {
                    self.answer.trailers = Some(trailers.clone());
                    is_end = true;
                }
            }
        }
        if !is_end {
            return Some(self);
        }
        self.finish();
        None
    }

    fn write(&mut self, data: &[u8]) {
        let Some(mut body) = self.body.take() else { return };
        let len = body.bytes.len().saturating_add(data.len());
        if len <= self.max_bytes && body.share.grow(len) {
            body.bytes.extend_from_slice(data);
            self.body = Some(body);
        }
    }

    /// All of it has gone by.
    fn finish(self) {
        let Self { ticket, mut answer, body, .. } = self;
        ticket.end(match body {
            // A copy of its own, that is as large as it is: what came may be a slice of something larger.
            Some(body) => {
                answer.body = Bytes::from(body.bytes.into_boxed_slice());
                Outcome::Answered(Arc::new(answer))
            }
            None => Outcome::NotKept,
        });
    }

    /// The client is gone. What is at hand is written down; if that is not all, the answer is lost.
    fn give_up<B: Body<Data = Bytes>>(self: Box<Self>, mut body: Pin<&mut B>) {
        let (mut recorder, mut cx) = (self, Context::from_waker(Waker::noop()));
        for _ in 0..LAST_POLLS {
            if recorder.body.is_none() || thread::panicking() {
                break;
            }
            let Poll::Ready(frame) = body.as_mut().poll_frame(&mut cx) else { break };
            match recorder.see(frame.as_ref(), body.is_end_stream()) {
                Some(again) => recorder = again,
                None => return,
            }
        }
        recorder.ticket.end(Outcome::NotKept);
    }
}

/// Whether it says how much of a limit is left: that is of another moment when it is said again.
fn is_of_a_limit(name: &HeaderName) -> bool {
    let name = name.as_str();
    name == "ratelimit"
        || ["ratelimit-", "x-ratelimit-", "x-rate-limit-"].iter().any(|start| name.starts_with(start))
}

/// What is remembered of a response's headers: not what is of one connection (RFC 9110, 7.6.1), nor what is of
/// one moment.
pub(super) fn kept(headers: &HeaderMap) -> HeaderMap {
    use http::header::{AGE, DATE, RETRY_AFTER};
    let mut kept = without_connection(headers);
    for name in [AGE, DATE, RETRY_AFTER] {
        kept.remove(name);
    }
    kept.remove("server-timing");
    for name in headers.keys().filter(|name| is_of_a_limit(name)) {
        kept.remove(name);
    }
    kept
}
