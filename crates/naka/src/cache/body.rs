//! The body of a response that is written down while it goes to the client.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::time::Instant;

use super::{
    rules::Asked,
    store::{Entry, Flight, Store},
};
use crate::{
    buffered::{Buffered, Share},
    clock::Now,
};

pin_project! {
    /// A response's body, or one that was kept.
    pub struct CacheBody<B>
    where
        B: Body<Data = Bytes>,
    {
        #[pin]
        body: Buffered<B>,
        recorder: Option<Box<Recorder>>,
    }
}

impl<B: Body<Data = Bytes>> CacheBody<B> {
    /// One that nobody writes down.
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

impl<B: Body<Data = Bytes>> fmt::Debug for CacheBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_recorded = self.recorder.is_some();
        f.debug_struct("CacheBody").field("is_recorded", &is_recorded).finish_non_exhaustive()
    }
}

impl<B: Body<Data = Bytes> + Default> Default for CacheBody<B> {
    fn default() -> Self {
        Self::plain(Buffered::default())
    }
}

impl<B: Body<Data = Bytes> + From<Bytes>> From<Bytes> for CacheBody<B> {
    fn from(bytes: Bytes) -> Self {
        Self::plain(Buffered::from(bytes))
    }
}

impl<B: Body<Data = Bytes>> Body for CacheBody<B> {
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

/// Writes down what goes by. Dropped before the end, nothing is kept, and whoever waits looks again.
pub(super) struct Recorder {
    pub(super) store: Arc<Store>,
    pub(super) entry: Entry,
    pub(super) asked: Asked,
    pub(super) flight: Option<Flight>,
    /// When it was asked for.
    pub(super) sent: Instant,
    pub(super) written: BytesMut,
    pub(super) share: Share,
    pub(super) max_body: usize,
    pub(super) max_bytes: usize,
}

impl Recorder {
    /// One frame; none if that was the last, or is too much.
    fn see<E>(
        mut self: Box<Self>,
        frame: Option<&Result<Frame<Bytes>, E>>,
        mut is_end: bool,
    ) -> Option<Box<Self>> {
        match frame {
            None => is_end = true,
            Some(Err(_)) => {
                if let Some(flight) = self.flight {
                    flight.fail();
                }
                return None;
            }
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    let len = self.written.len().saturating_add(data.len());
                    if len > self.max_body || !self.share.grow(len) {
                        self.store.pass(&self.entry.key, &self.asked, Now::read());
                        if let Some(flight) = self.flight {
                            flight.land();
                        }
                        return None;
                    }
                    self.written.extend_from_slice(data);
                } else if let Some(trailers) = frame.trailers_ref() {
                    self.entry.trailers = Some(trailers.clone());
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

    /// All of it has gone by.
    fn finish(self) {
        let Self { store, mut entry, flight, sent, written, max_bytes, .. } = self;
        // A copy of its own, that is as large as it is.
        entry.body = Bytes::from(written.to_vec().into_boxed_slice());
        store.put(entry, sent, max_bytes);
        if let Some(flight) = flight {
            flight.land();
        }
    }
}
