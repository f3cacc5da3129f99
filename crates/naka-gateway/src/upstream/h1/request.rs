//! What is sent of a request: its head, and its body as that says (RFC 9112 §3 to §7).
//!
//! # Decision
//! 1. A body whose length is known has that length as its `Content-Length`, whatever stood there, and anything else comes in chunks. A request
//!    without a body has none of either, unless a length of 0 stood there.
//! 2. Of trailers those are sent that were announced, and may stand there (RFC 9110 §6.5.1).
//! 3. What a body has of small pieces is gathered, and written together; a large one is written as it is, uncopied.
//!
//! # Limits
//! Held are twice [`GATHERED`] bytes (and a head) and a piece, and no more is asked of the body until there is room.

use std::{
    fmt::Write as _,
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes};
use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{CONTENT_LENGTH, TRANSFER_ENCODING},
    request::Parts,
};
use http_body::{Body as _, Frame};
use tokio::io::AsyncWrite;

use super::{super::Body, Failed};
use crate::headers::{announced, may_be_trailer};

/// So much of a body is gathered before it is written, in bytes.
pub(super) const GATHERED: usize = 16 << 10;
/// A piece of as many bytes is written as it is.
const LARGE: usize = 2 << 10;

/// How a body is framed.
#[derive(Debug)]
enum Framing {
    /// So many bytes are to come.
    Length(u64),
    /// In chunks; with the names of the trailers that are announced.
    Chunks(Vec<HeaderName>),
}

/// A request on its way.
#[derive(Debug)]
pub(super) struct Sending {
    /// The head, and what was gathered of the body; up to `written` it is written.
    gathered: Vec<u8>,
    written: usize,
    /// Bytes of the head.
    head: usize,
    /// What comes after that.
    piece: Bytes,
    /// What is left of the body; none once nothing more is asked of it.
    body: Option<Body>,
    framing: Framing,
    has_begun: bool,
    is_flushed: bool,
}

impl Sending {
    /// Says in the head how the body is framed.
    pub(super) fn of(headers: &mut HeaderMap, body: Body) -> Self {
        let framing = frame(headers, &body);
        let body = if body.is_end_stream() { None } else { Some(body) };
        Self {
            gathered: Vec::new(),
            written: 0,
            head: 0,
            piece: Bytes::new(),
            body,
            framing,
            has_begun: false,
            is_flushed: false,
        }
    }

    /// Writes the head, into room that is there. Of a request that has not [begun](Self::has_begun), what was written before is replaced.
    pub(super) fn write_head(&mut self, head: &Parts, mut room: Vec<u8>) {
        let of_body = self.gathered.split_off(self.head);
        write_head(&mut room, head);
        self.head = room.len();
        room.extend(of_body);
        self.gathered = room;
    }

    /// It may be that some of it is sent, however sending it ends.
    pub(super) const fn begin(&mut self) {
        self.has_begun = true;
    }

    /// Whether any of it was sent.
    pub(super) const fn has_begun(&self) -> bool {
        self.has_begun
    }

    /// Whether all of it was sent.
    pub(super) const fn is_over(&self) -> bool {
        self.is_flushed
    }

    /// Sends no more of it.
    pub(super) fn give_up(&mut self) {
        (self.body, self.is_flushed) = (None, true);
    }

    /// The room it was written into.
    pub(super) fn into_room(self) -> Vec<u8> {
        self.gathered
    }

    /// Sends all of it.
    pub(super) fn poll<W: AsyncWrite + Unpin>(
        &mut self,
        stream: &mut W,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Failed>> {
        loop {
            let is_waiting = self.gather(cx)?;
            if self.written < self.gathered.len() || !self.piece.is_empty() {
                let count = ready!(self.poll_write(stream, cx)).map_err(Failed::Broken)?;
                self.wrote(count)?;
                continue;
            }
            ready!(Pin::new(&mut *stream).poll_flush(cx)).map_err(Failed::Broken)?;
            if self.body.is_none() {
                self.is_flushed = true;
                return Poll::Ready(Ok(()));
            }
            if is_waiting {
                return Poll::Pending;
            }
        }
    }

    /// Asks the body for more, as much as is written at once; says whether it has to be waited for.
    fn gather(&mut self, cx: &mut Context<'_>) -> Result<bool, Failed> {
        while let Some(body) = &mut self.body
            && self.piece.is_empty()
            && self.gathered.len() - self.written < GATHERED
        {
            match Pin::new(body).poll_frame(cx) {
                Poll::Pending => return Ok(true),
                Poll::Ready(None) => self.end(None)?,
                Poll::Ready(Some(Ok(frame))) => self.take(frame)?,
                Poll::Ready(Some(Err(error))) => return Err(Failed::Body(error)),
            }
        }
        Ok(false)
    }

    fn take(&mut self, frame: Frame<Bytes>) -> Result<(), Failed> {
        let data = match frame.into_data() {
            Ok(data) => data,
            Err(frame) => return self.end(frame.into_trailers().ok().as_ref()),
        };
        let is_last = match &mut self.framing {
            Framing::Length(left) => {
                let length = data.len() as u64;
                *left = left.checked_sub(length).ok_or_else(|| Failed::Body(TOO_LONG.into()))?;
                *left == 0
            }
            Framing::Chunks(_) if data.is_empty() => return Ok(()), // It would be the last chunk.
            Framing::Chunks(_) => {
                let _ = write!(Text(&mut self.gathered), "{:x}\r\n", data.len());
                false
            }
        };
        if data.len() < LARGE {
            self.gathered.extend_from_slice(&data);
            self.end_chunk();
        } else {
            self.piece = data;
        }
        if is_last || self.body.as_ref().is_some_and(|body| body.is_end_stream() && self.piece.is_empty()) {
            self.end(None)?;
        }
        Ok(())
    }

    fn end_chunk(&mut self) {
        if let Framing::Chunks(_) = self.framing {
            self.gathered.extend_from_slice(b"\r\n");
        }
    }

    /// Nothing more comes of the body.
    fn end(&mut self, trailers: Option<&HeaderMap>) -> Result<(), Failed> {
        match &self.framing {
            Framing::Length(0) => {}
            Framing::Length(_) => return Err(Failed::Body(TOO_SHORT.into())),
            Framing::Chunks(announced) => {
                self.gathered.extend_from_slice(b"0\r\n");
                for (name, value) in trailers.into_iter().flatten() {
                    if announced.contains(name) && may_be_trailer(name) {
                        write_field(&mut self.gathered, name, value);
                    }
                }
                self.gathered.extend_from_slice(b"\r\n");
            }
        }
        self.body = None;
        Ok(())
    }

    fn poll_write<W: AsyncWrite + Unpin>(
        &self,
        stream: &mut W,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let gathered = &self.gathered[self.written..];
        let stream = Pin::new(stream);
        match (gathered.is_empty(), self.piece.is_empty()) {
            (false, false) if stream.is_write_vectored() => {
                stream.poll_write_vectored(cx, &[IoSlice::new(gathered), IoSlice::new(&self.piece)])
            }
            (true, _) => stream.poll_write(cx, &self.piece),
            (false, _) => stream.poll_write(cx, gathered),
        }
    }

    fn wrote(&mut self, count: usize) -> Result<(), Failed> {
        if count == 0 {
            return Err(Failed::Broken(io::ErrorKind::WriteZero.into()));
        }
        self.has_begun = true;
        let of_gathered = count.min(self.gathered.len() - self.written);
        self.written += of_gathered;
        let had_piece = !self.piece.is_empty();
        self.piece.advance(count - of_gathered);
        if self.written == self.gathered.len() && self.piece.is_empty() {
            self.gathered.clear();
            self.written = 0;
            if had_piece {
                self.end_chunk();
            }
        } else if self.written >= GATHERED {
            self.gathered.drain(..self.written); // More is gathered before all of it is written.
            self.written = 0;
        }
        Ok(())
    }
}

const TOO_LONG: &str = "the request's body is longer than its length";
const TOO_SHORT: &str = "the request's body ended before its length";

fn frame(headers: &mut HeaderMap, body: &Body) -> Framing {
    let length = if body.is_end_stream() { Some(0) } else { body.size_hint().exact() };
    let Some(length) = length else {
        headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        headers.remove(CONTENT_LENGTH);
        return Framing::Chunks(announced(headers));
    };
    headers.remove(TRANSFER_ENCODING);
    let said = headers.get(CONTENT_LENGTH);
    let is_said = said.is_some_and(|said| said.to_str().is_ok_and(|said| said.parse() == Ok(length)));
    if !is_said && (said.is_some() || length > 0) {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    Framing::Length(length)
}

fn write_head(into: &mut Vec<u8>, head: &Parts) {
    into.extend_from_slice(head.method.as_str().as_bytes());
    into.push(b' ');
    match head.uri.path_and_query() {
        Some(target) if head.uri.authority().is_none() => {
            if target.as_str().starts_with('?') {
                into.push(b'/'); // RFC 9112 §3.2.1: of `http://host?query` the path is empty.
            }
            into.extend_from_slice(target.as_str().as_bytes());
        }
        _ => drop(write!(Text(into), "{}", head.uri)),
    }
    into.extend_from_slice(b" HTTP/1.1\r\n");
    for (name, value) in &head.headers {
        write_field(into, name, value);
    }
    into.extend_from_slice(b"\r\n");
}

fn write_field(into: &mut Vec<u8>, name: &HeaderName, value: &HeaderValue) {
    into.extend_from_slice(name.as_str().as_bytes());
    into.extend_from_slice(b": ");
    into.extend_from_slice(value.as_bytes());
    into.extend_from_slice(b"\r\n");
}

/// Text as bytes; writing it does not fail.
struct Text<'a>(&'a mut Vec<u8>);

impl std::fmt::Write for Text<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use http_body::SizeHint;
    use naka::BoxError;
    use tokio::io::{AsyncRead, ReadBuf, duplex};

    use super::*;

    /// So many small pieces.
    struct Small {
        left: usize,
        is_chunked: bool,
    }

    impl http_body::Body for Small {
        type Data = Bytes;
        type Error = BoxError;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
            if self.left == 0 {
                return Poll::Ready(None);
            }
            self.left -= 1;
            Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&[b'u'; 1000])))))
        }

        fn size_hint(&self) -> SizeHint {
            let length = self.left as u64 * 1000;
            if self.is_chunked { SizeHint::new() } else { SizeHint::with_exact(length) }
        }
    }

    /// Bug: what was written of what had been gathered stayed as long as more was gathered meanwhile.
    #[test]
    fn what_is_held_of_an_upload_is_bounded_however_slowly_it_is_taken() {
        for is_chunked in [false, true] {
            let (mut stream, mut theirs) = duplex(8 << 10);
            let (mut head, ()) = http::Request::new(()).into_parts();
            let body = Body::boxed(Small { left: 4000, is_chunked });
            let mut sending = Sending::of(&mut head.headers, body);
            sending.write_head(&head, Vec::new());
            let (mut cx, mut taken, mut piece) = (Context::from_waker(Waker::noop()), 0, [0; 8 << 10]);
            loop {
                let polled = sending.poll(&mut stream, &mut cx);
                assert!(sending.gathered.capacity() <= 128 << 10, "{}", sending.gathered.capacity());
                let mut read = ReadBuf::new(&mut piece);
                let _ = Pin::new(&mut theirs).poll_read(&mut cx, &mut read);
                taken += memchr::memchr_iter(b'u', read.filled()).count();
                if polled.is_ready() && read.filled().is_empty() {
                    break;
                }
            }
            assert!(sending.is_over());
            assert_eq!(taken, 4_000_000 + usize::from(is_chunked) * "unked".matches('u').count());
        }
    }
}
