//! A stream that says no more than what is right.

use std::{
    cell::RefCell,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::scan::{Limits, Scan, Wrong};
use crate::patience::Progress;

/// What is read and thrown away behind a head that is wrong, in bytes, so that a client that goes is noticed.
const THROWN_AWAY: usize = 64 << 10;
/// What is kept of what comes behind a request that is under way, in bytes: before the answer nobody has to send any.
const BEHIND: usize = 16 << 10;
/// What is looked for first of that: mostly there is nothing.
const A_LITTLE: usize = 64;
/// A head and a body of no more bytes than this are sent as one piece: to copy them costs less than the kernel takes to gather them.
const TOGETHER: usize = 2 << 10;

thread_local! {
    static ROOM: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Reads from a client for hyper. What is wrong with a head looks like the end of the connection, once the requests before it have
/// been answered: then it [is told](Strict::to_say). What is wrong with a body breaks it off.
#[derive(Debug)]
pub(crate) struct Strict<S> {
    stream: S,
    scan: Scan,
    progress: Arc<Progress>,
    wrong: Option<Wrong>,
    /// hyper has read up to what is wrong, and so would have answered one more request.
    is_due: bool,
    /// Nothing more is read of a body that is wrong.
    broken: Option<Wrong>,
    /// What was to be sent last could not be sent at once.
    is_unsent: bool,
    left: usize,
    /// Right, and not yet passed on.
    earlier: Bytes,
    /// Behind a request that is under way: a next one, or of the protocol that it asks for.
    behind: BytesMut,
}

impl<S> Strict<S> {
    pub(crate) fn new(stream: S, limits: Limits, progress: Arc<Progress>) -> Self {
        let scan = Scan::new(limits);
        let (wrong, broken, left) = (None, None, THROWN_AWAY);
        Self {
            stream,
            scan,
            progress,
            wrong,
            is_due: false,
            broken,
            is_unsent: false,
            left,
            earlier: Bytes::new(),
            behind: BytesMut::new(),
        }
    }

    /// What was wrong with a head, if there is somebody who waits to hear it: after an answer that ends the connection,
    /// nobody does.
    pub(crate) fn to_say(&self) -> Option<Wrong> {
        self.wrong.filter(|_| self.is_due)
    }

    /// The stream itself.
    pub(crate) fn into_inner(self) -> S {
        self.stream
    }

    /// The stream, and what came behind the request that asked for another protocol; `None` if none has.
    pub(crate) fn into_tunnel(self) -> Option<(S, Bytes)> {
        let is_clean = self.earlier.is_empty() && !self.is_unsent && self.wrong.or(self.broken).is_none();
        (is_clean && self.scan.held_behind().is_some()).then(|| (self.stream, self.behind.freeze()))
    }
}

impl<S: AsyncRead + Unpin> Strict<S> {
    /// The end, once it may be told. While a request is under way it would be its client's going, and while an answer is not sent,
    /// that would be lost: after both, hyper is woken to ask again.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.progress.is_busy() && !self.is_unsent {
            self.is_due = true;
            return Poll::Ready(Ok(()));
        }
        self.progress.wake_at_end(cx.waker());
        let mut scratch = [0; 4096];
        while self.left > 0 {
            let mut piece = ReadBuf::new(&mut scratch);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut piece))?;
            if piece.filled().is_empty() {
                return Poll::Ready(Ok(())); // It has gone.
            }
            self.left = self.left.saturating_sub(piece.filled().len());
        }
        Poll::Pending
    }

    /// Waits to hear what becomes of a request that asks for another protocol. What comes meanwhile is kept, up to a bound, so that a client
    /// that goes is noticed: then it is ready.
    fn poll_held(&mut self, heads: u64, cx: &mut Context<'_>) -> Poll<io::Result<Held>> {
        self.progress.wake_at_end(cx.waker());
        if self.progress.ended() >= heads {
            self.scan.go_on();
            return Poll::Ready(Ok(Held::GoesOn));
        }
        self.poll_behind(cx).map_ok(|()| Held::HasGone)
    }

    /// Keeps what comes, up to a bound; ready when its client has gone.
    fn poll_behind(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let (mut little, mut much) = ([0; A_LITTLE], None);
        while self.behind.len() < BEHIND {
            let scratch = much.as_mut().map_or(&mut little[..], |much: &mut [u8; 4096]| &mut much[..]);
            let room = scratch.len().min(BEHIND - self.behind.len());
            let mut piece = ReadBuf::new(&mut scratch[..room]);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut piece))?;
            if piece.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            self.behind.extend_from_slice(piece.filled());
            much.get_or_insert([0; 4096]);
        }
        Poll::Pending
    }

    /// What became of sending. Where that has to wait, too, the client may have gone.
    fn sent<T>(&mut self, sent: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        let was_unsent = std::mem::replace(&mut self.is_unsent, sent.is_pending());
        if was_unsent && !self.is_unsent {
            self.progress.wake_reader();
        }
        match sent {
            Poll::Pending => self.poll_gone(cx).map(Err),
            sent @ Poll::Ready(_) => sent,
        }
    }

    /// Ready when the client of the request under way has gone. hyper would look for that, too, but into a buffer that it makes anew for
    /// each request, as the last one still has its head; so it is told that there may be half a connection, and this is asked instead.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let does_hyper_read = !self.scan.is_outside_body() || !self.earlier.is_empty();
        if !self.progress.is_busy() || self.progress.is_switched() || does_hyper_read {
            return Poll::Pending;
        }
        let gone = if self.wrong.is_some() {
            self.poll_end(cx)
        } else if let Some(heads) = self.scan.held_behind() {
            match ready!(self.poll_held(heads, cx)) {
                Ok(Held::GoesOn) => return Poll::Pending,
                held => Poll::Ready(held.map(drop)),
            }
        } else {
            self.poll_behind(cx)
        };
        gone.map(|gone| gone.err().unwrap_or_else(|| io::ErrorKind::ConnectionAborted.into()))
    }

    /// The next bytes: those that were kept, or from the client.
    fn poll_next(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.behind.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let length = self.behind.len().min(buf.remaining());
        buf.put_slice(&self.behind.split_to(length));
        if self.behind.is_empty() {
            self.behind = BytesMut::new(); // With its room.
        }
        Poll::Ready(Ok(()))
    }

    /// Keeps what was read behind a request that asks for another protocol, and goes before what was kept already.
    fn keep(&mut self, bytes: &[u8]) {
        let later = std::mem::take(&mut self.behind);
        self.behind.extend_from_slice(bytes);
        self.behind.extend_from_slice(&later);
    }
}

/// What comes of waiting behind a request that asks for another protocol.
enum Held {
    /// It has come to nothing.
    GoesOn,
    /// Its client has gone.
    HasGone,
}

impl<S: AsyncRead + Unpin> AsyncRead for Strict<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        loop {
            if !self.earlier.is_empty() {
                let length = self.earlier.len().min(buf.remaining());
                buf.put_slice(&self.earlier.split_to(length));
                return Poll::Ready(Ok(()));
            }
            if let Some(broken) = self.broken {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, broken.why)));
            }
            if self.wrong.is_some() {
                return self.poll_end(cx);
            }
            if let Some(heads) = self.scan.held_behind() {
                match ready!(self.poll_held(heads, cx))? {
                    Held::GoesOn => continue,
                    Held::HasGone => return Poll::Ready(Ok(())),
                }
            }
            ready!(self.poll_next(cx, buf))?;
            let new = &buf.filled()[before..];
            if new.is_empty() {
                return Poll::Ready(Ok(()));
            }
            let (right, wrong) = match self.scan.feed(new) {
                Ok(right) => (right, None),
                Err((right, wrong)) => (right, Some(wrong)),
            };
            if self.scan.held_behind().is_some() {
                self.keep(&buf.filled()[before + right..]);
            }
            let is_broken = !self.scan.is_outside_body();
            *(if is_broken { &mut self.broken } else { &mut self.wrong }) = wrong;
            let released = self.scan.released();
            if !released.is_empty() {
                self.earlier = Bytes::from([&released, &buf.filled()[before..before + right]].concat());
                buf.set_filled(before);
                continue;
            }
            buf.set_filled(before + right);
            if right > 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Strict<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let sent = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.sent(sent, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let stream = Pin::new(&mut self.stream);
        let sent = if bufs.iter().map(|buf| buf.len()).sum::<usize>() > TOGETHER {
            stream.poll_write_vectored(cx, bufs)
        } else {
            ROOM.with_borrow_mut(|room| {
                room.clear();
                for buf in bufs {
                    room.extend_from_slice(buf);
                }
                stream.poll_write(cx, room)
            })
        };
        self.sent(sent, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// hyper asks for this each time it has done what there is to do, unless a write waits: then [`Self::sent`] looks who has gone.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let sent = Pin::new(&mut self.stream).poll_flush(cx);
        ready!(self.sent(sent, cx))?;
        match self.poll_gone(cx) {
            Poll::Ready(gone) => Poll::Ready(Err(gone)),
            Poll::Pending => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.to_say().is_some() {
            return Poll::Ready(Ok(())); // That is said before.
        }
        if self.wrong.is_some() {
            self.progress.read_no_more(); // Else what is on its way would have the last answer lost.
        }
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
