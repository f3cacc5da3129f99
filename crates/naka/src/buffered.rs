//! A body that is read to its end within bounds, and one that stands in its place: for layers that have
//! to know all of a body before they can go on.

use std::{
    fmt,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::held::Part;

/// All of a body.
#[derive(Debug)]
pub(crate) struct Collected {
    pub(crate) data: Bytes,
    pub(crate) trailers: Option<HeaderMap>,
    /// What it takes of a bound that it shares with others.
    pub(crate) share: Option<Share>,
}

/// Bytes that are in memory, of all bodies that share one bound.
#[derive(Debug, Default)]
pub(crate) struct Buffering(AtomicUsize);

impl Buffering {
    pub(crate) fn bytes(&self) -> usize {
        self.0.load(Relaxed)
    }

    /// How many more there is room for, of so many.
    pub(crate) fn left(&self, max_bytes: usize) -> usize {
        max_bytes.saturating_sub(self.bytes())
    }

    /// That of a body that begins: nothing yet.
    pub(crate) fn share(self: &Arc<Self>, max_bytes: usize) -> Share {
        Share { all: Arc::clone(self), bytes: 0, max_bytes, held: Part::default() }
    }
}

/// What one body takes of a [`Buffering`]; dropped it gives that back.
#[derive(Debug)]
pub(crate) struct Share {
    all: Arc<Buffering>,
    bytes: usize,
    max_bytes: usize,
    /// What it takes of the bound on all that are held.
    held: Part,
}

impl Share {
    /// It counts among all that are held, too.
    pub(crate) fn held(mut self, held: Part) -> Self {
        self.held = held;
        self
    }

    /// Takes what is missing to so many bytes; says whether there was room.
    pub(crate) fn grow(&mut self, bytes: usize) -> bool {
        let more = bytes.saturating_sub(self.bytes);
        let next = |all: usize| all.checked_add(more).filter(|all| *all <= self.max_bytes);
        // Relaxed: it is a count, and guards nothing else.
        let has_room = more == 0 || self.all.0.fetch_update(Relaxed, Relaxed, next).is_ok();
        if has_room {
            self.bytes += more;
        }
        has_room && self.held.grow(bytes)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.all.0.fetch_sub(self.bytes, Relaxed);
    }
}

/// Why there is no such thing.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum CollectError<E> {
    TooLarge,
    /// Others take what it would need.
    NoRoom,
    Failed(E),
}

pin_project! {
    /// Reads a body to its end. Nothing is copied of one that comes in a single frame.
    #[derive(Debug)]
    pub(crate) struct Collect<B> {
        #[pin]
        body: B,
        max_bytes: usize,
        first: Bytes,
        more: BytesMut,
        trailers: Option<HeaderMap>,
        share: Option<Share>,
    }
}

impl<B: Body<Data = Bytes>> Collect<B> {
    pub(crate) fn new(body: B, max_bytes: usize) -> Self {
        Self { body, max_bytes, first: Bytes::new(), more: BytesMut::new(), trailers: None, share: None }
    }

    /// With what it takes of a bound that it shares with others.
    pub(crate) fn with_share(self, share: Share) -> Self {
        Self { share: Some(share), ..self }
    }
}

impl<B: Body<Data = Bytes>> Future for Collect<B> {
    type Output = Result<Collected, CollectError<B::Error>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        // What says beforehand that it is too large is not read at all.
        if this.body.size_hint().lower() > u64::try_from(*this.max_bytes).unwrap_or(u64::MAX) {
            return Poll::Ready(Err(CollectError::TooLarge));
        }
        while let Some(frame) = ready!(this.body.as_mut().poll_frame(cx)) {
            let frame = match frame {
                Ok(frame) => frame,
                Err(error) => return Poll::Ready(Err(CollectError::Failed(error))),
            };
            match frame.into_data().map_err(Frame::into_trailers) {
                Ok(data) => {
                    let len = this.first.len().max(this.more.len());
                    if data.len() > *this.max_bytes - len {
                        return Poll::Ready(Err(CollectError::TooLarge));
                    }
                    if this.share.as_mut().is_some_and(|share| !share.grow(len + data.len())) {
                        return Poll::Ready(Err(CollectError::NoRoom));
                    }
                    if this.first.is_empty() && this.more.is_empty() {
                        *this.first = data;
                    } else {
                        if this.more.is_empty() {
                            this.more.reserve(this.first.len() + data.len());
                            this.more.extend_from_slice(&std::mem::take(this.first));
                        }
                        this.more.extend_from_slice(&data);
                    }
                }
                Err(Ok(more)) => this.trailers.get_or_insert_default().extend(more),
                Err(Err(_)) => {} // No kind of frame that there is.
            }
        }
        let more = std::mem::take(this.more).freeze();
        let data = if more.is_empty() { std::mem::take(this.first) } else { more };
        Poll::Ready(Ok(Collected { data, trailers: this.trailers.take(), share: this.share.take() }))
    }
}

pin_project! {
    /// The body as it came, or a whole one in its place.
    pub struct Buffered<B>
    where
        B: Body,
    {
        #[pin]
        state: State<B>,
    }
}

pin_project! {
    #[project = Projection]
    enum State<B>
    where
        B: Body,
    {
        Same { #[pin] body: B },
        Whole { data: Option<Bytes>, trailers: Option<HeaderMap>, _share: Option<Share> },
        Failed { error: Option<B::Error> },
    }
}

impl<B: Body> Buffered<B> {
    /// The body as it came.
    ///
    /// # Errors
    /// If something stands in its place: that.
    #[expect(clippy::result_large_err, reason = "it is handed back as it came")]
    pub fn into_inner(self) -> Result<B, Self> {
        match self.state {
            State::Same { body } => Ok(body),
            state => Err(Self { state }),
        }
    }

    pub(crate) const fn same(body: B) -> Self {
        Self { state: State::Same { body } }
    }

    pub(crate) fn whole(Collected { data, trailers, share }: Collected) -> Self {
        let data = (!data.is_empty()).then_some(data);
        Self { state: State::Whole { data, trailers, _share: share } }
    }

    pub(crate) const fn failed(error: B::Error) -> Self {
        Self { state: State::Failed { error: Some(error) } }
    }
}

impl<B: Body> fmt::Debug for Buffered<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_same = matches!(self.state, State::Same { .. });
        f.debug_struct("Buffered").field("is_same", &is_same).finish_non_exhaustive()
    }
}

impl<B: Body + Default> Default for Buffered<B> {
    fn default() -> Self {
        Self::same(B::default())
    }
}

impl<B: Body + From<Bytes>> From<Bytes> for Buffered<B> {
    fn from(bytes: Bytes) -> Self {
        Self::same(B::from(bytes))
    }
}

impl<B: Body<Data = Bytes>> Body for Buffered<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        match self.project().state.project() {
            Projection::Same { body } => body.poll_frame(cx),
            Projection::Whole { data, trailers, .. } => {
                let data = data.take().map(Frame::data);
                Poll::Ready(data.or_else(|| trailers.take().map(Frame::trailers)).map(Ok))
            }
            Projection::Failed { error } => Poll::Ready(error.take().map(Err)),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.state {
            State::Same { body } => body.is_end_stream(),
            State::Whole { data, trailers, .. } => data.is_none() && trailers.is_none(),
            State::Failed { error } => error.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.state {
            State::Same { body } => body.size_hint(),
            State::Whole { data, trailers, .. } => {
                let len = u64::try_from(data.as_ref().map_or(0, Bytes::len)).unwrap_or(u64::MAX);
                if trailers.is_none() {
                    return SizeHint::with_exact(len);
                }
                // A server that knew the length would send it, and no trailers after it (RFC 9112, 6.5).
                let mut hint = SizeHint::new();
                hint.set_lower(len);
                hint
            }
            State::Failed { .. } => SizeHint::new(),
        }
    }
}
