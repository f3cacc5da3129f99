//! A request's body that is written down while it streams.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

pin_project! {
    /// A request's body behind [`Mirror`](super::Mirror): itself, and what is kept of it for a copy.
    ///
    /// Nothing is read ahead. The copy goes when the end was handed on: at trailers, at `None`, or with the frame that
    /// leaves the body at its end, as whoever knows the length asks for no more.
    pub struct MirrorBody<B> {
        #[pin]
        body: B,
        kept: Option<Box<dyn Kept>>,
    }
}

/// A copy that hears what goes by. Dropped before it is whole, it is none.
pub(super) trait Kept: Send {
    /// Keeps what came; says whether there was room.
    fn keep(&mut self, data: &Bytes) -> bool;

    /// That was all.
    fn is_whole(self: Box<Self>);
}

impl<B> MirrorBody<B> {
    /// The body itself, of which there is no copy.
    pub(super) const fn plain(body: B) -> Self {
        Self { body, kept: None }
    }

    pub(super) const fn kept(body: B, kept: Box<dyn Kept>) -> Self {
        Self { body, kept: Some(kept) }
    }

    /// The body itself, if nobody copies it.
    pub fn into_inner(self) -> Result<B, Self> {
        match self.kept {
            None => Ok(self.body),
            Some(_) => Err(self),
        }
    }
}

impl<B: Body<Data = Bytes>> Body for MirrorBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let mut this = self.project();
        let frame = ready!(this.body.as_mut().poll_frame(cx));
        if let Some(kept) = this.kept {
            let (goes_on, is_last) = match &frame {
                None => (true, true),
                Some(Err(_)) => (false, false), // It broke off: there will be no whole one.
                Some(Ok(frame)) => {
                    let has_room = frame.data_ref().is_none_or(|data| kept.keep(data));
                    (has_room, frame.is_trailers() || this.body.is_end_stream())
                }
            };
            if is_last || !goes_on {
                let kept = this.kept.take().filter(|_| goes_on);
                kept.into_iter().for_each(Kept::is_whole);
            }
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

impl<B: Default> Default for MirrorBody<B> {
    fn default() -> Self {
        Self::plain(B::default())
    }
}

impl<B> From<B> for MirrorBody<B> {
    fn from(body: B) -> Self {
        Self::plain(body)
    }
}

impl<B> fmt::Debug for MirrorBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MirrorBody").field("is_kept", &self.kept.is_some()).finish_non_exhaustive()
    }
}
