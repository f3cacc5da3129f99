//! The bodies of requests to an alternate, and of responses that may be somebody else's.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::BoxError;

/// A body of whatever type: what an alternate gets, and gives.
pub struct AnyBody(Pin<Box<dyn Body<Data = Bytes, Error = BoxError> + Send>>);

impl AnyBody {
    /// Erases the type of a body.
    pub fn new<B>(body: B) -> Self
    where
        B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    {
        Self(Box::pin(Erased { body }))
    }
}

impl fmt::Debug for AnyBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AnyBody")
    }
}

impl Body for AnyBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.0.as_mut().poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

pin_project! {
    struct Erased<B> {
        #[pin]
        body: B,
    }
}

impl<B: Body<Data = Bytes, Error: Into<BoxError>>> Body for Erased<B> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.project().body.poll_frame(cx).map(|frame| frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

pin_project! {
    /// The body of a response behind [`Fallback`](super::Fallback): of whoever is behind, of the layer's own, or of an
    /// alternate.
    #[derive(Debug)]
    pub struct FallbackBody<R> {
        #[pin]
        state: State<R>,
    }
}

pin_project! {
    #[project = Projection]
    #[derive(Debug)]
    enum State<R> {
        Primary { #[pin] body: R },
        Own { bytes: Option<Bytes> },
        Alternate { body: AnyBody },
    }
}

impl<R> FallbackBody<R> {
    pub(super) const fn primary(body: R) -> Self {
        Self { state: State::Primary { body } }
    }

    pub(super) fn own(bytes: Bytes) -> Self {
        Self { state: State::Own { bytes: Some(bytes).filter(|bytes| !bytes.is_empty()) } }
    }

    pub(super) const fn alternate(body: AnyBody) -> Self {
        Self { state: State::Alternate { body } }
    }
}

impl<R: Body<Data = Bytes, Error: Into<BoxError>>> Body for FallbackBody<R> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.project().state.project() {
            Projection::Primary { body } => {
                body.poll_frame(cx).map(|frame| frame.map(|frame| frame.map_err(Into::into)))
            }
            Projection::Own { bytes } => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Projection::Alternate { body } => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.state {
            State::Primary { body } => body.is_end_stream(),
            State::Own { bytes } => bytes.is_none(),
            State::Alternate { body } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.state {
            State::Primary { body } => body.size_hint(),
            State::Own { bytes } => {
                let len = bytes.as_ref().map_or(0, Bytes::len);
                SizeHint::with_exact(u64::try_from(len).unwrap_or(u64::MAX))
            }
            State::Alternate { body } => body.size_hint(),
        }
    }
}

impl<R> Default for FallbackBody<R> {
    fn default() -> Self {
        Self::own(Bytes::new())
    }
}

impl<R> From<Bytes> for FallbackBody<R> {
    fn from(bytes: Bytes) -> Self {
        Self::own(bytes)
    }
}
