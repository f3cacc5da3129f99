//! Bodies over HTTP/2, each way: by the window of the other end, and of the client.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, HeaderName, Response, header::CONTENT_LENGTH};
use http_body::{Body as _, Frame, SizeHint};

use super::super::{Body, slow::is_too_slow};
use crate::{headers::may_be_trailer, upload::Upload as Progress};

/// Sends a request's body: a piece is asked for when there is room to send some of it. Dropped together with what comes
/// of the response, it resets the stream.
pub(super) struct Upload {
    /// On the heap, as it must not move.
    body: Pin<Box<Body>>,
    stream: SendStream<Bytes>,
    /// What came and is not sent yet.
    held: Bytes,
    /// The trailers that were announced: others are not passed on.
    announced: Vec<HeaderName>,
    /// Who looks whether it gets on.
    progress: Option<Arc<Progress>>,
    /// Something of it was taken.
    is_touched: bool,
    is_over: bool,
}

/// The body broke off, because its client did, or was too slow.
#[derive(Clone, Copy, Debug)]
pub(super) struct BrokenOff {
    pub(super) is_slow: bool,
}

impl Upload {
    pub(super) fn new(
        body: Pin<Box<Body>>,
        stream: SendStream<Bytes>,
        announced: Vec<HeaderName>,
        progress: Option<Arc<Progress>>,
    ) -> Self {
        Self { body, stream, held: Bytes::new(), announced, progress, is_touched: false, is_over: false }
    }

    /// The body, if nothing of it was taken.
    pub(super) fn into_untouched(self) -> Option<Pin<Box<Body>>> {
        if self.is_touched { None } else { Some(self.body) }
    }

    pub(super) const fn is_over(&self) -> bool {
        self.is_over
    }

    /// Ready when there is nothing more to do: all is sent, or the other end wants no more.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BrokenOff>> {
        if self.is_over {
            return Poll::Ready(Ok(()));
        }
        let ended = ready!(self.poll_sent(cx));
        self.is_over = true;
        match ended {
            Err(Stop::BrokenOff(why)) => {
                self.stream.send_reset(Reason::CANCEL);
                Poll::Ready(Err(why))
            }
            Ok(()) | Err(Stop::Unwanted) => Poll::Ready(Ok(())), // Whoever waits for the answer hears why.
        }
    }

    fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Stop>> {
        loop {
            let room = match self.poll_room(cx) {
                Poll::Ready(room) => room?,
                // The end needs no room, and others may wait for it: once the body has begun, one piece more is taken.
                Poll::Pending if self.held.is_empty() && self.is_touched => 0,
                Poll::Pending => return Poll::Pending,
            };
            if !self.held.is_empty() {
                let piece = self.held.split_to(room.min(self.held.len()));
                let is_last = self.held.is_empty() && self.body.is_end_stream();
                self.stream.send_data(piece, is_last)?;
                if let Some(progress) = &self.progress {
                    progress.moved(); // A piece is often only a part of what was taken.
                    progress.holds(!self.held.is_empty());
                }
                if is_last {
                    return Poll::Ready(Ok(()));
                }
                continue;
            }
            let Some(frame) = ready!(self.body.as_mut().poll_frame(cx)) else {
                self.stream.send_data(Bytes::new(), true)?;
                return Poll::Ready(Ok(()));
            };
            self.is_touched = true;
            match frame
                .map_err(|error| Stop::BrokenOff(BrokenOff { is_slow: is_too_slow(&*error) }))?
                .into_data()
            {
                Ok(data) if data.is_empty() && self.body.is_end_stream() => {
                    self.stream.send_data(data, true)?;
                    return Poll::Ready(Ok(()));
                }
                Ok(data) => {
                    if let Some(progress) = self.progress.as_ref().filter(|_| !data.is_empty()) {
                        progress.holds(true);
                    }
                    self.held = data;
                }
                Err(frame) => {
                    let trailers = frame.into_trailers().unwrap_or_default();
                    match self.passed_on(&trailers) {
                        trailers if trailers.is_empty() => self.stream.send_data(Bytes::new(), true)?,
                        trailers => self.stream.send_trailers(trailers)?,
                    }
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }

    /// Ready when there is room to send something.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, Stop>> {
        self.stream.reserve_capacity(self.held.len().max(1));
        loop {
            if self.stream.capacity() > 0 {
                // While it is the body that is waited for, nothing else would tell of a reset.
                return match self.stream.poll_reset(cx) {
                    Poll::Ready(_) => Poll::Ready(Err(Stop::Unwanted)),
                    Poll::Pending => Poll::Ready(Ok(self.stream.capacity())),
                };
            }
            match ready!(self.stream.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Poll::Ready(Err(Stop::Unwanted)),
            }
        }
    }

    /// What was announced, as over HTTP/1.1, and may stand in a trailer (RFC 9110, section 6.5.1).
    fn passed_on(&self, trailers: &HeaderMap) -> HeaderMap {
        let mut passed_on = HeaderMap::new();
        for name in self.announced.iter().filter(|name| may_be_trailer(name)) {
            for value in trailers.get_all(name) {
                passed_on.append(name, value.clone());
            }
        }
        passed_on
    }
}

/// Why no more of a body is sent.
enum Stop {
    BrokenOff(BrokenOff),
    Unwanted,
}

impl From<h2::Error> for Stop {
    fn from(_: h2::Error) -> Self {
        Self::Unwanted
    }
}

/// The body of a response. What ends in any other way than with the end of its stream is not whole.
#[derive(Debug)]
pub struct Download {
    stream: RecvStream,
    /// What is still to come, if that was said.
    left: Option<u64>,
    has_data_ended: bool,
}

impl Download {
    /// The body behind this head.
    pub(super) fn of(response: &Response<()>, stream: RecvStream, is_head: bool) -> Self {
        let length = response.headers().get(CONTENT_LENGTH).filter(|_| !is_head);
        let left = length.and_then(|length| length.to_str().ok()?.parse().ok());
        Self { stream, left, has_data_ended: false }
    }

    pub(in super::super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Incomplete>>> {
        if !self.has_data_ended {
            if let Some(data) = ready!(self.stream.poll_data(cx)) {
                let data = data.map_err(|error| Incomplete::new(&error))?;
                // It is passed on now, and there is room for as much again.
                self.stream
                    .flow_control()
                    .release_capacity(data.len())
                    .map_err(|error| Incomplete::new(&error))?;
                let length = u64::try_from(data.len()).unwrap_or(u64::MAX);
                self.left = self.left.map(|left| left.saturating_sub(length));
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
            self.has_data_ended = true;
        }
        let trailers = ready!(self.stream.poll_trailers(cx)).map_err(|error| Incomplete::new(&error))?;
        Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
    }

    pub(in super::super) fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }

    pub(in super::super) fn size_hint(&self) -> SizeHint {
        self.left.map(SizeHint::with_exact).unwrap_or_default()
    }
}

/// A response broke off. What the endpoint gave for a reason is only told, and is not the source of this: as one it
/// would become the reason that an HTTP/2 client is given, and by some of them a client takes a part for the whole.
#[derive(Debug)]
pub(in super::super) struct Incomplete(String);

impl Incomplete {
    fn new(error: &h2::Error) -> Self {
        Self(error.to_string())
    }
}

impl fmt::Display for Incomplete {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the response broke off: {}", self.0)
    }
}

impl std::error::Error for Incomplete {}

impl fmt::Debug for Upload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upload").field("is_over", &self.is_over).finish_non_exhaustive()
    }
}
