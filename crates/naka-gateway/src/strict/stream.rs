//! A stream that says no more than what is right.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::scan::{Limits, Scan, Wrong};
use crate::patience::Progress;

/// Reads from a client for hyper. What is wrong with a head looks like the end of the connection, once the requests before it have
/// been answered: then it [is told](Strict::wrong). What is wrong with a body breaks it off.
#[derive(Debug)]
pub(crate) struct Strict<S> {
    stream: S,
    scan: Scan,
    progress: Arc<Progress>,
    wrong: Option<Wrong>,
    /// What was to be sent last could not be sent at once.
    is_unsent: bool,
}

impl<S> Strict<S> {
    pub(crate) const fn new(stream: S, limits: Limits, progress: Arc<Progress>) -> Self {
        Self { stream, scan: Scan::new(limits), progress, wrong: None, is_unsent: false }
    }

    /// What was wrong with a head, so that nobody has been answered for it.
    pub(crate) const fn wrong(&self) -> Option<Wrong> {
        self.wrong
    }

    /// The stream itself.
    pub(crate) fn into_inner(self) -> S {
        self.stream
    }

    /// Whether the end may be told. While a request is under way, it would be its client's going, and while an answer is
    /// not sent, that would be lost: hyper asks again after both.
    fn may_end(&self) -> bool {
        !self.progress.is_busy() && !self.is_unsent
    }

    fn sent<T>(&mut self, sent: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        self.is_unsent = sent.is_pending();
        sent
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Strict<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.wrong.is_some() {
            return if self.may_end() { Poll::Ready(Ok(())) } else { Poll::Pending };
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        let Err((right, wrong)) = self.scan.feed(&buf.filled()[before..]) else {
            return Poll::Ready(Ok(()));
        };
        if !self.scan.is_outside_body() {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, wrong.why)));
        }
        buf.set_filled(before + right);
        self.wrong = Some(wrong);
        if right > 0 || self.may_end() { Poll::Ready(Ok(())) } else { Poll::Pending }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Strict<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let sent = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.sent(sent)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let sent = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.sent(sent)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let sent = Pin::new(&mut self.stream).poll_flush(cx);
        self.sent(sent)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.wrong.is_some() {
            return Poll::Ready(Ok(())); // There is something to say before.
        }
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
