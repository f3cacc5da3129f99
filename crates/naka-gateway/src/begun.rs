//! A stream of which something was read before it was known what it is.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};

/// A stream, and what was read of it already, which is read again first.
#[derive(Debug)]
pub struct Begun<S> {
    first: Bytes,
    stream: S,
}

impl<S> Begun<S> {
    /// Nothing was read yet.
    pub const fn new(stream: S) -> Self {
        Self { first: Bytes::new(), stream }
    }

    /// This was read already.
    pub const fn with(first: Bytes, stream: S) -> Self {
        Self { first, stream }
    }

    /// What was read already.
    pub fn first(&self) -> &[u8] {
        &self.first
    }

    /// So much of what was read is not read again.
    pub fn skip(&mut self, count: usize) {
        self.first.advance(count);
    }
}

impl<S: AsyncRead + Unpin> Begun<S> {
    /// Reads until there are `most` bytes, or `is_enough` says so of those that there are; `false` if the stream ends before that.
    ///
    /// # Errors
    /// Those of the stream.
    pub async fn fill(&mut self, most: usize, is_enough: impl Fn(&[u8]) -> bool) -> io::Result<bool> {
        let mut all = BytesMut::from(&self.first[..]);
        let result = loop {
            if all.len() >= most || is_enough(&all) {
                break Ok(true);
            }
            let left = u64::try_from(most - all.len()).unwrap_or(u64::MAX);
            match (&mut self.stream).take(left).read_buf(&mut all).await {
                Ok(0) => break Ok(false),
                Ok(_) => {}
                Err(error) => break Err(error),
            }
        };
        self.first = all.freeze();
        result
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Begun<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.first.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let count = self.first.len().min(buf.remaining());
        buf.put_slice(&self.first.split_to(count));
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Begun<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
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
