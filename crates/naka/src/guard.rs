//! A request ends when its response body ends, fails or is dropped.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

/// How a body ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// All of it was handed over.
    Complete,
    /// It ended in an error.
    Failed,
    /// It was dropped before its end: nobody's fault.
    Dropped,
}

/// Told once how the body ended. A guard that only has to be dropped keeps the default.
pub trait Guard {
    /// A piece of the body of so many bytes is handed over.
    fn data(&mut self, _: usize) {}

    /// There are trailers; the body ends with them.
    fn trailers(&mut self, _: &HeaderMap) {}

    /// The body has ended.
    fn end(self, _: End)
    where
        Self: Sized,
    {
    }
}

pin_project! {
    /// A body that keeps a guard until it ends. Without one it is the body alone, so a layer that
    /// is off, or that rejected, has the same body type.
    ///
    /// A server that knows the length, or has seen trailers, never polls for the last `None`. So the
    /// guard ends when a frame leaves the body at its end, at trailers, at `None`, at an error, or at
    /// drop: then as [`End::Complete`] if the body was at its end and [`End::Dropped`] if not.
    #[derive(Debug)]
    pub struct Guarded<B, G>
    where
        B: Body,
        G: Guard,
    {
        #[pin]
        body: B,
        guard: Option<G>,
    }

    impl<B: Body, G: Guard> PinnedDrop for Guarded<B, G> {
        fn drop(this: Pin<&mut Self>) {
            let this = this.project();
            if let Some(guard) = this.guard.take() {
                guard.end(if this.body.is_end_stream() { End::Complete } else { End::Dropped });
            }
        }
    }
}

impl<B: Body, G: Guard> Guarded<B, G> {
    /// `guard` is kept until `body` ends.
    pub const fn new(body: B, guard: Option<G>) -> Self {
        Self { body, guard }
    }

    /// The guard, until the body has ended.
    pub const fn guard_mut(&mut self) -> Option<&mut G> {
        self.guard.as_mut()
    }
}

impl<B: Body + Default, G: Guard> Default for Guarded<B, G> {
    fn default() -> Self {
        Self::new(B::default(), None)
    }
}

impl<B: Body + From<Bytes>, G: Guard> From<Bytes> for Guarded<B, G> {
    fn from(bytes: Bytes) -> Self {
        Self::new(B::from(bytes), None)
    }
}

impl<B: Body, G: Guard> Body for Guarded<B, G> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let mut this = self.project();
        let frame = ready!(this.body.as_mut().poll_frame(cx));
        let end = match &frame {
            None => Some(End::Complete),
            Some(Err(_)) => Some(End::Failed),
            Some(Ok(frame)) => {
                if let Some(guard) = &mut *this.guard {
                    match (frame.data_ref(), frame.trailers_ref()) {
                        (Some(data), _) => guard.data(data.remaining()),
                        (None, Some(trailers)) => guard.trailers(trailers),
                        (None, None) => {}
                    }
                }
                let is_last = frame.is_trailers() || this.body.is_end_stream();
                is_last.then_some(End::Complete)
            }
        };
        if let Some(end) = end
            && let Some(guard) = this.guard.take()
        {
            guard.end(end);
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
