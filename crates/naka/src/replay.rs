//! A request body that can be sent again.
//!
//! What was sent is kept while it is sent, up to a bound; nothing is read ahead, so that a body streams as it
//! did. Each attempt has a body of its own over the same tape: it first gives what is on it, then goes on with
//! what is left of the original. An attempt that is over gets no more of it.

use std::{
    fmt,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use http::{Extensions, HeaderMap};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::{BoxError, held::Part};

pin_project! {
    /// A request's body behind whoever may send it again.
    #[derive(Debug)]
    pub struct Replay<B> {
        #[pin]
        plain: Option<B>,
        taped: Option<Taped<B>>,
    }
}

impl<B> Replay<B> {
    /// The body itself, which is sent once.
    pub(crate) const fn once(body: B) -> Self {
        Self { plain: Some(body), taped: None }
    }

    /// The body itself, if it is sent once.
    pub fn into_inner(self) -> Result<B, Self> {
        match self {
            Self { plain: Some(body), taped: None } => Ok(body),
            taped => Err(taped),
        }
    }
}

/// A body of which there may be another copy: for a client of one's own.
#[derive(Debug)]
pub struct Repeatable<B>(Source<B>);

impl<B: Body<Data = Bytes> + Default> Repeatable<B> {
    /// Keeps a body while it is sent, up to so many bytes, and if there is room where what is held of its request
    /// counts ([`Held`](crate::held::Held)); with the first copy of it.
    pub fn of(body: B, max_bytes: usize, extensions: &Extensions) -> (Self, Replay<B>) {
        let (source, first) = Source::of(body, max_bytes, Part::of(extensions));
        (Self(source), first)
    }

    /// Another copy, which takes the place of all before it; `None` if not all of it is there any more.
    pub fn copy(&self) -> Option<Replay<B>> {
        self.0.is_whole().then(|| self.0.copy())
    }
}

/// What is needed to send a body again.
#[derive(Debug)]
pub(crate) enum Source<B> {
    /// It has nothing in it.
    Empty,
    Tape(Arc<Tape<B>>),
}

impl<B: Body<Data = Bytes> + Default> Source<B> {
    /// A body, and the first copy of it.
    pub(crate) fn of(body: B, max_bytes: usize, held: Part) -> (Self, Replay<B>) {
        if body.is_end_stream() {
            return (Self::Empty, Replay::once(body));
        }
        let tape = Tape(Mutex::new(Reel {
            body: Box::pin(body),
            first: Bytes::new(),
            rest: BytesMut::new(),
            trailers: None,
            max_bytes,
            held,
            attempt: 0,
            has_ended: false,
            is_lost: false,
        }));
        let source = Self::Tape(Arc::new(tape));
        let first = source.copy();
        (source, first)
    }

    /// Whether all of it is still there.
    pub(crate) fn is_whole(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Tape(tape) => !tape.lock().is_lost,
        }
    }

    /// Whether all of it was sent, and is still there: it can be sent by several at once.
    pub(crate) fn is_taped(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Tape(tape) => {
                let mut reel = tape.lock();
                // Who knows how long it is does not ask for its end.
                reel.has_ended |= reel.body.is_end_stream();
                reel.has_ended && !reel.is_lost
            }
        }
    }

    /// A copy beside those before it, of one that [is taped](Self::is_taped).
    pub(crate) fn again(&self) -> Replay<B> {
        match self {
            Self::Empty => Replay::once(B::default()),
            Self::Tape(tape) => {
                let attempt = tape.lock().attempt;
                Replay { plain: None, taped: Some(Taped::new(tape, attempt)) }
            }
        }
    }

    /// A copy, which takes the place of all before it.
    pub(crate) fn copy(&self) -> Replay<B> {
        match self {
            Self::Empty => Replay::once(B::default()),
            Self::Tape(tape) => {
                let attempt = {
                    let mut reel = tape.lock();
                    reel.attempt += 1;
                    reel.attempt
                };
                Replay { plain: None, taped: Some(Taped::new(tape, attempt)) }
            }
        }
    }
}

pub(crate) struct Tape<B>(Mutex<Reel<B>>);

impl<B> Tape<B> {
    /// A panic cannot leave it half written.
    fn lock(&self) -> MutexGuard<'_, Reel<B>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<B> fmt::Debug for Tape<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tape")
    }
}

struct Reel<B> {
    body: Pin<Box<B>>,
    /// What came first, as it came: of most bodies that is all.
    first: Bytes,
    /// All that came after it, in one piece. A slice of a buffer would keep all of that, and a byte may come alone.
    rest: BytesMut,
    trailers: Option<HeaderMap>,
    max_bytes: usize,
    held: Part,
    /// Which copy may read.
    attempt: u32,
    has_ended: bool,
    /// It was longer than is kept, or than there was room for, or broke off.
    is_lost: bool,
}

/// A copy, and how much of it was given.
#[derive(Debug)]
pub(crate) struct Taped<B> {
    tape: Arc<Tape<B>>,
    attempt: u32,
    /// In bytes.
    given: usize,
    is_over: bool,
}

impl<B> Taped<B> {
    fn new(tape: &Arc<Tape<B>>, attempt: u32) -> Self {
        Self { tape: Arc::clone(tape), attempt, given: 0, is_over: false }
    }
}

impl<B: Body<Data = Bytes, Error: Into<BoxError>>> Taped<B> {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut reel = self.tape.lock();
        if reel.attempt != self.attempt {
            return Poll::Ready(Some(Err(Superseded.into())));
        }
        if let Some(data) = reel.from(self.given) {
            self.given += data.len();
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        if reel.has_ended {
            let trailers = reel.trailers.clone().filter(|_| !self.is_over);
            self.is_over = true;
            return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
        }
        let frame = ready!(reel.body.as_mut().poll_frame(cx));
        let frame = reel.record(frame);
        match &frame {
            Some(Ok(frame)) if frame.is_data() => self.given += frame.data_ref().map_or(0, Bytes::len),
            _ => self.is_over = true,
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        let reel = self.tape.lock();
        let is_given = self.given >= reel.kept() || reel.is_lost;
        let has_trailers = reel.trailers.is_some() && !self.is_over;
        is_given && !has_trailers && (reel.has_ended || reel.body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let reel = self.tape.lock();
        let mut hint = if reel.has_ended { SizeHint::with_exact(0) } else { reel.body.size_hint() };
        let kept = u64::try_from(reel.kept().saturating_sub(self.given)).unwrap_or(u64::MAX);
        let upper = hint.upper().map(|upper| upper.saturating_add(kept));
        hint = {
            let mut whole = SizeHint::new();
            whole.set_lower(hint.lower().saturating_add(kept));
            if let Some(upper) = upper {
                whole.set_upper(upper);
            }
            whole
        };
        hint
    }
}

impl<B> Reel<B> {
    /// How much of the body is kept, from its beginning.
    fn kept(&self) -> usize {
        self.first.len() + self.rest.len()
    }

    /// What is kept behind so many bytes: a piece of it, if there is any.
    fn from(&self, given: usize) -> Option<Bytes> {
        if given < self.first.len() {
            return Some(self.first.slice(given..));
        }
        let rest = self.rest.get(given - self.first.len()..)?;
        (!rest.is_empty()).then(|| Bytes::copy_from_slice(rest))
    }
}

impl<B: Body<Data = Bytes, Error: Into<BoxError>>> Reel<B> {
    /// Keeps what came, if there is room, and hands it on.
    fn record(
        &mut self,
        frame: Option<Result<Frame<Bytes>, B::Error>>,
    ) -> Option<Result<Frame<Bytes>, BoxError>> {
        let frame = match frame {
            None => {
                self.has_ended = true;
                return None;
            }
            Some(Err(error)) => {
                self.is_lost = true; // Whoever sends it has gone: there will be no more.
                return Some(Err(error.into()));
            }
            Some(Ok(frame)) => frame,
        };
        match (frame.data_ref(), frame.trailers_ref()) {
            (Some(data), _) => {
                let length = self.kept().saturating_add(data.len());
                if !self.is_lost && (length > self.max_bytes || !self.held.grow(length)) {
                    self.is_lost = true;
                    (self.first, self.rest) = (Bytes::new(), BytesMut::new());
                    self.held.clear();
                }
                match () {
                    () if self.is_lost => {}
                    () if self.kept() == 0 => self.first = data.clone(),
                    () => self.rest.extend_from_slice(data),
                }
            }
            (None, trailers) => {
                self.trailers = trailers.cloned();
                self.has_ended = true;
            }
        }
        Some(Ok(frame))
    }
}

/// Another attempt has begun.
#[derive(Debug)]
struct Superseded;

impl fmt::Display for Superseded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("another attempt sends this body now")
    }
}

impl std::error::Error for Superseded {}

impl<B: Body<Data = Bytes, Error: Into<BoxError>>> Body for Replay<B> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.project();
        match (this.plain.as_pin_mut(), this.taped) {
            (Some(body), _) => body.poll_frame(cx).map(|it| it.map(|it| it.map_err(Into::into))),
            (None, Some(taped)) => taped.poll_frame(cx),
            (None, None) => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        let plain = self.plain.as_ref().map(Body::is_end_stream);
        plain.or_else(|| self.taped.as_ref().map(Taped::is_end_stream)).unwrap_or(true)
    }

    fn size_hint(&self) -> SizeHint {
        let plain = self.plain.as_ref().map(Body::size_hint);
        plain.or_else(|| self.taped.as_ref().map(Taped::size_hint)).unwrap_or_else(|| SizeHint::with_exact(0))
    }
}

impl<B: Default> Default for Replay<B> {
    fn default() -> Self {
        Self::once(B::default())
    }
}

impl<B> From<B> for Replay<B> {
    fn from(body: B) -> Self {
        Self::once(body)
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::VecDeque, convert::Infallible};

    use super::*;

    #[derive(Default)]
    struct Frames(VecDeque<Frame<Bytes>>);

    impl Body for Frames {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Ready(self.0.pop_front().map(Ok))
        }
    }

    fn read(mut copy: Replay<Frames>, frames: usize) -> (Vec<u8>, bool) {
        let (mut data, mut has_trailers) = (Vec::new(), false);
        for _ in 0..frames {
            let frame = Pin::new(&mut copy).poll_frame(&mut Context::from_waker(std::task::Waker::noop()));
            match frame {
                Poll::Ready(Some(Ok(frame))) if frame.is_data() => data.extend(frame.into_data().unwrap()),
                Poll::Ready(Some(Ok(_))) => has_trailers = true,
                Poll::Ready(None) => break,
                other => panic!("{other:?}"),
            }
        }
        (data, has_trailers)
    }

    /// Bug: each frame was kept with all of the buffer that it was a slice of: 65,000 of one byte held 2 MB and more.
    #[test]
    fn single_bytes_cost_no_more_than_bytes() {
        let buffer = Bytes::from(vec![7; 1 << 20]);
        let mut frames = (0..65_000).map(|at| Frame::data(buffer.slice(at..=at))).collect::<VecDeque<_>>();
        frames.push_back(Frame::trailers(HeaderMap::new()));
        let (source, first) = Source::of(Frames(frames), 64 << 10, Part::default());
        assert_eq!(read(first, 30_000), (vec![7; 30_000], false));
        assert_eq!(read(source.copy(), usize::MAX), (vec![7; 65_000], true), "what was kept, and the rest");
        assert_eq!(read(source.copy(), usize::MAX), (vec![7; 65_000], true));
        assert!(source.is_taped() && source.is_whole());
        let Source::Tape(tape) = &source else { panic!("it has a body") };
        let reel = tape.lock();
        assert_eq!((reel.first.len(), reel.rest.len()), (1, 64_999));
        assert!(reel.rest.capacity() <= 128 << 10, "{}", reel.rest.capacity());
    }

    #[test]
    fn what_is_longer_than_is_kept_is_sent_once() {
        let frames = (0..3).map(|_| Frame::data(Bytes::from(vec![7; 1000]))).collect();
        let (source, first) = Source::of(Frames(frames), 2500, Part::default());
        assert_eq!(read(first, usize::MAX), (vec![7; 3000], false));
        assert!(!source.is_whole());
        let Source::Tape(tape) = &source else { panic!("it has a body") };
        assert_eq!(tape.lock().kept(), 0);
    }
}
