//! HTTP/2 before hyper sees it: the frames of a connection, by their headers, so that nobody can keep us busy with what leads to nothing.
//!
//! hyper and h2 bound what a connection may hold. How often they may be made to do something for nothing they bound in a few places, and nowhere by
//! time. So the bytes of both directions are followed from frame to frame ([`Scan`]), 9 bytes of each, and counted ([`Floods`]):
//!
//! 1. The first frame is `SETTINGS` (RFC 9113 §3.4), and not an acknowledgement; h2 takes any.
//! 2. It comes, and each head of a request from its first byte to its last, within `timeouts.request_headers` of the listener; and so
//!    does every other frame, but for `DATA`.
//! 3. Frames that lead to nothing, and streams that come to nothing, have an allowance.
//!
//! Whoever breaks one of these hears why in a `GOAWAY`, between two of our frames, and the connection ends: with `PROTOCOL_ERROR`, and else with
//! `ENHANCE_YOUR_CALM` (§7). What is still to be read of it is read for a moment, so that this is not lost to a reset; and so it is when h2 has said that
//! something is wrong.

mod floods;
mod head;
mod received;
mod scan;

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use http::StatusCode;
use naka::reject::{Reason, Rejection};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep_until},
};

use crate::{observe::Metrics, patience::Progress};
use floods::{Flood, Floods};
pub(crate) use head::check;
use received::Received;
#[cfg(fuzzing)]
pub use received::{Passed, passed};
use scan::{Scan, kind};

/// Why a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Why {
    /// In metrics.
    word: &'static str,
    /// In the `GOAWAY`, and in the log.
    says: &'static str,
    /// The error code (RFC 9113 §7).
    code: u32,
}

const PROTOCOL_ERROR: u32 = 1;
const ENHANCE_YOUR_CALM: u32 = 11;

const NO_SETTINGS: Why = Why {
    word: "http2_no_settings",
    says: "the first frame is not SETTINGS (RFC 9113, section 3.4)",
    code: PROTOCOL_ERROR,
};
const SLOW_HEAD: Why = Why {
    word: "http2_slow_head",
    says: "the settings or a head take longer than `timeouts.request_headers`",
    code: ENHANCE_YOUR_CALM,
};
const TOO_MANY_FRAMES: Why =
    Why { word: "http2_frames", says: "too many frames that lead to nothing", code: ENHANCE_YOUR_CALM };
const TOO_MANY_RESETS: Why =
    Why { word: "http2_resets", says: "too many streams were reset", code: ENHANCE_YOUR_CALM };

impl From<Flood> for Why {
    fn from(flood: Flood) -> Self {
        match flood {
            Flood::Frames => TOO_MANY_FRAMES,
            Flood::Resets => TOO_MANY_RESETS,
        }
    }
}

/// A connection whose frames are counted.
#[derive(Debug)]
pub(crate) struct Framed<S> {
    stream: S,
    progress: Arc<Progress>,
    metrics: Arc<Metrics>,
    began: Instant,
    received: Received,
    sent: Scan,
    floods: Floods,
    patience: Duration,
    /// Since when the client owes the rest of a head.
    owes: Option<Instant>,
    /// Made when it is first needed.
    alarm: Option<Pin<Box<Sleep>>>,
    leaving: Option<Leaving>,
}

#[derive(Debug)]
struct Leaving {
    why: Why,
    goaway: Vec<u8>,
    sent: usize,
}

impl<S> Framed<S> {
    /// A connection whose next bytes are a preface of `preface` bytes. `patience` is how long a head may take.
    pub(crate) fn new(
        stream: S,
        preface: usize,
        patience: Duration,
        progress: &Arc<Progress>,
        metrics: &Arc<Metrics>,
    ) -> Self {
        let now = Instant::now();
        Self {
            stream,
            progress: Arc::clone(progress),
            metrics: Arc::clone(metrics),
            began: now,
            received: Received::behind(preface),
            sent: Scan::behind(0),
            floods: Floods::new(),
            patience,
            owes: Some(now),
            alarm: None,
            leaving: None,
        }
    }

    /// The client has sent this.
    fn heard(&mut self, bytes: &[u8]) -> Result<(), Why> {
        let now = Instant::now();
        let since = now.saturating_duration_since(self.began);
        let (has_begun, result) = self.received.feed(bytes, &mut self.floods, since);
        // Whatever began anew has its time anew; a block of fields has one, in however many frames it comes.
        let is_new = has_begun && !self.received.is_in_block();
        self.owes = if self.received.is_owed() { self.owes.filter(|_| !is_new).or(Some(now)) } else { None };
        result
    }

    /// We have sent this. The task that sends is the one that reads.
    fn said(&mut self, bytes: &[u8], cx: &Context<'_>) {
        let since = self.began.elapsed();
        let (mut wrong, mut is_over) = (None, false);
        let Self { sent, floods, .. } = self;
        sent.feed(bytes, |frame| {
            is_over |= frame.kind == kind::GOAWAY && frame.code.is_some_and(|code| code > 0);
            if let Err(flood) = floods.sent(frame, since) {
                wrong = wrong.or(Some(flood.into()));
            }
        });
        if is_over {
            self.progress.read_no_more();
        } else if let Some(why) = wrong {
            self.leave(why);
        }
        if self.leaving.is_some() {
            cx.waker().wake_by_ref(); // It may have read already, and would read again only when something comes.
        }
    }

    fn leave(&mut self, why: Why) {
        if self.leaving.is_some() {
            return;
        }
        self.metrics.rejected("", &Rejection::new(Reason::Custom(StatusCode::TOO_MANY_REQUESTS, why.word)));
        self.progress.read_no_more();
        let length = u32::try_from(8 + why.says.len()).unwrap_or_default().to_be_bytes();
        let goaway = [
            &length[1..],
            &[kind::GOAWAY, 0, 0, 0, 0, 0],
            &self.received.last_stream().to_be_bytes(),
            &why.code.to_be_bytes(),
            why.says.as_bytes(),
        ];
        self.leaving = Some(Leaving { why, goaway: goaway.concat(), sent: 0 });
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Framed<S> {
    /// Says why the connection ends, and ends it. Between two frames of ours; before that it waits for the rest of one.
    fn poll_leave(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        if self.sent.until_between() > 0 {
            return Poll::Pending; // Whoever sends it wakes.
        }
        let Self { stream, leaving: Some(leaving), .. } = self else {
            return Poll::Ready(io::ErrorKind::ConnectionAborted.into());
        };
        let mut stream = Pin::new(stream);
        while leaving.sent < leaving.goaway.len() {
            match ready!(stream.as_mut().poll_write(cx, &leaving.goaway[leaving.sent..])) {
                Ok(count @ 1..) => leaving.sent += count,
                Ok(0) | Err(_) => break, // It has gone.
            }
        }
        let _ = ready!(stream.as_mut().poll_shutdown(cx)); // The same.
        Poll::Ready(io::Error::other(leaving.why.says))
    }

    /// Whether the client owes something for too long.
    fn poll_owed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(due) = self.owes.and_then(|since| since.checked_add(self.patience)) else {
            return Poll::Pending;
        };
        let alarm = self.alarm.get_or_insert_with(|| Box::pin(sleep_until(due)));
        if alarm.deadline() != due {
            alarm.as_mut().reset(due);
        }
        alarm.as_mut().poll(cx)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Framed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.leaving.is_none() {
            let before = buf.filled().len();
            match Pin::new(&mut this.stream).poll_read(cx, buf) {
                Poll::Ready(read) => {
                    read?;
                    match this.heard(&buf.filled()[before..]) {
                        Ok(()) => return Poll::Ready(Ok(())),
                        Err(why) => this.leave(why),
                    }
                    buf.set_filled(before);
                }
                Poll::Pending => {
                    ready!(this.poll_owed(cx));
                    this.leave(SLOW_HEAD);
                }
            }
        }
        this.poll_leave(cx).map(Err)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Framed<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let mut piece = buf;
        if this.leaving.is_some() {
            let left = this.sent.until_between();
            if left == 0 {
                return this.poll_leave(cx).map(Err);
            }
            piece = &buf[..left.min(buf.len())];
        }
        let count = ready!(Pin::new(&mut this.stream).poll_write(cx, piece))?;
        this.said(&piece[..count], cx);
        Poll::Ready(Ok(count))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.leaving.is_some() {
            let first = bufs.iter().find(|buf| !buf.is_empty()).map_or(&[][..], |buf| &**buf);
            return self.poll_write(cx, first);
        }
        let count = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, bufs))?;
        let mut left = count;
        for buf in bufs {
            let some = left.min(buf.len());
            self.said(&buf[..some], cx);
            left -= some;
        }
        Poll::Ready(Ok(count))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
