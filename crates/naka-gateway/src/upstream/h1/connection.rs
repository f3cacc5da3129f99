//! A connection to an endpoint: what is sent and read over it, by whoever has borrowed it. Nobody else looks at it, so no task has to be woken.

use std::{
    future::{Future, poll_fn},
    io, mem,
    pin::{Pin, pin},
    task::{Context, Poll, Waker, ready},
};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use http::{Method, StatusCode, request::Parts};
use http_body::{Frame, SizeHint};
use tokio::{
    io::{AsyncRead as _, AsyncReadExt as _, ReadBuf, ReadHalf, WriteHalf, split},
    task::{JoinHandle, unconstrained},
    time::{Instant, Sleep, sleep_until},
};

use super::{
    super::{connect::Stream, places::Taken},
    BUFFER, Failed, buffers,
    request::Sending,
    response::{self, Framing, Head, Search},
};
use crate::{begun::Begun, strict::Part};

/// With fewer bytes left, another buffer is read into.
const LEAST: usize = 8 << 10;
/// What comes in fewer bytes than this is copied, so that it does not hold all of a buffer for as long as somebody reads it slowly.
const COPIED: usize = 16 << 10;
/// And a piece this small, whatever comes with it.
const SMALL: usize = 256;
/// What is read of TLS at once: a record. Room for it has to be zeroed each time.
const RECORD: usize = 16 << 10;

/// A connection to an endpoint.
#[derive(Debug)]
pub(super) struct Connection {
    stream: Halves,
    /// What has come and was not taken.
    buffer: BytesMut,
    /// So much is read at once.
    read_size: usize,
    asked: Method,
    search: Search,
    /// What is to come of the response.
    framing: Framing,
    trailers: BytesMut,
    /// Bytes of the heads of this exchange, the preliminary ones among them.
    heads: usize,
    has_heard: bool,
    /// Why not all of the request could be sent.
    unsent: Option<io::Error>,
    /// Whether another request may follow.
    is_kept: bool,
    /// When the head of a response has to be there; set to an earlier one, or to what was due.
    alarm: Option<Pin<Box<Sleep>>>,
    pub(super) made: Instant,
    /// Until when it takes requests.
    until: Option<Instant>,
    pub(super) places: [Taken; 2],
}

/// A stream; in two halves while a request is still being sent of which the response has begun.
#[derive(Debug)]
enum Halves {
    Whole(Stream),
    Split {
        read: ReadHalf<Stream>,
        upload: Option<Upload>,
    },
    /// It goes on as something else.
    Gone,
}

/// What is still being sent, by a task of its own: who reads the response slowly does not hold it up. It ends with this.
#[derive(Debug)]
struct Upload(JoinHandle<Result<WriteHalf<Stream>, Failed>>);

impl Drop for Upload {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Connection {
    /// Over a stream that was just made.
    pub(super) fn new(stream: Stream, until: Option<Instant>, places: [Taken; 2]) -> Self {
        let read_size = if matches!(stream, Stream::Tls(_)) { RECORD } else { BUFFER };
        Self {
            stream: Halves::Whole(stream),
            buffer: BytesMut::new(),
            read_size,
            asked: Method::GET,
            search: Search::default(),
            framing: Framing::Over,
            trailers: BytesMut::new(),
            heads: 0,
            has_heard: false,
            unsent: None,
            is_kept: true,
            alarm: None,
            made: Instant::now(),
            until,
            places,
        }
    }

    /// Whether it has become too old for another request.
    pub(super) fn is_old(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| until <= now)
    }

    /// Whether the endpoint has neither closed it nor said anything, while nobody has asked. Costs a system call only if there is something to find.
    pub(super) fn is_silent(&mut self) -> bool {
        let Halves::Whole(stream) = &mut self.stream else { return false };
        let mut byte = [0; 1];
        let read = poll_fn(|cx| Pin::new(&mut *stream).poll_read(cx, &mut ReadBuf::new(&mut byte)));
        // A task that has read a lot would be told that there is nothing, so that others have their turn.
        pin!(unconstrained(read)).poll(&mut Context::from_waker(Waker::noop())).is_pending()
    }

    /// Bytes of its buffers.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.buffer.capacity()
    }

    /// Gives up its buffer, of which nothing is needed any more.
    pub(super) fn rest(&mut self) {
        buffers::put(mem::take(&mut self.buffer));
    }

    /// Begins with a request, of which this is the head.
    pub(super) fn begin(&mut self, head: &Parts, sending: &mut Sending) {
        (self.heads, self.has_heard, self.asked) = (0, false, head.method.clone());
        sending.write_head(head, buffers::room());
        if matches!(self.stream, Halves::Whole(Stream::Tls(_))) {
            sending.begin(); // A record may be on its way when the next one fails.
        }
    }

    /// Whether anything has come since the request began.
    pub(super) const fn has_heard(&self) -> bool {
        self.has_heard
    }

    /// Sends a request, and reads the head of the response; it may come before all is sent.
    pub(super) fn poll_exchange(
        &mut self,
        sending: &mut Sending,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Head, Failed>> {
        if !sending.is_over() {
            let Halves::Whole(stream) = &mut self.stream else { return Poll::Ready(Err(Failed::Closed)) };
            match sending.poll(stream, cx) {
                // An endpoint may have said why it takes no more (RFC 9112 §9.5).
                Poll::Ready(Err(Failed::Broken(error))) if sending.has_begun() => {
                    sending.give_up();
                    self.unsent = Some(error);
                }
                Poll::Ready(sent) => sent?,
                Poll::Pending => {}
            }
        }
        loop {
            if let Some(head) = self.take_head()? {
                return Poll::Ready(Ok(head));
            }
            if ready!(self.poll_fill(cx)).map_err(Failed::Broken)? == 0 {
                return Poll::Ready(Err(self.unsent.take().map_or(Failed::Closed, Failed::Broken)));
            }
        }
    }

    /// Ready at that time. The timer is not set for each exchange: it rings now and then, and is set to what is due then.
    pub(super) fn poll_due(&mut self, due: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let alarm = self.alarm.get_or_insert_with(|| Box::pin(sleep_until(due)));
        if alarm.deadline() > due {
            alarm.as_mut().reset(due);
        }
        ready!(alarm.as_mut().poll(cx));
        if alarm.deadline() < due {
            alarm.as_mut().reset(due);
            ready!(alarm.as_mut().poll(cx));
        }
        Poll::Ready(())
    }

    /// The head of the response, once it is there; preliminary ones are passed over.
    fn take_head(&mut self) -> Result<Option<Head>, Failed> {
        let before = self.heads + self.buffer.len();
        while let Some(head) = self.search.take(&mut self.buffer, &self.asked).map_err(Failed::Wrong)? {
            self.heads = before - self.buffer.len();
            if self.heads > BUFFER {
                break;
            }
            if !head.status.is_informational() || head.status == StatusCode::SWITCHING_PROTOCOLS {
                (self.framing, self.is_kept) = (head.framing, head.is_kept && self.unsent.is_none());
                return Ok(Some(head));
            }
        }
        self.heads = before - self.buffer.len();
        if before >= BUFFER {
            return Err(Failed::Wrong("the head of a response is too long"));
        }
        Ok(None)
    }

    /// All of the response's body, if it is there.
    pub(super) fn take_whole(&mut self) -> Option<Bytes> {
        let length = match self.framing {
            Framing::Over => 0,
            Framing::Length(left) => usize::try_from(left).ok().filter(|left| *left <= self.buffer.len())?,
            Framing::Chunks(_) | Framing::UntilClose => return None,
        };
        self.framing = Framing::Over;
        Some(self.take(length))
    }

    /// So many bytes of what has come.
    fn take(&mut self, count: usize) -> Bytes {
        if self.buffer.len() >= COPIED && count >= SMALL {
            return self.buffer.split_to(count).freeze();
        }
        let copy = Bytes::copy_from_slice(&self.buffer[..count]);
        self.buffer.advance(count);
        copy
    }

    /// Nothing more is sent of a request.
    pub(super) fn end_sending(&mut self, sending: Sending) {
        self.is_kept &= sending.is_over();
        buffers::put_room(sending.into_room());
    }

    /// Sends what is left of the request while the response is read.
    pub(super) fn send_rest(&mut self, mut sending: Sending) {
        if sending.is_over() {
            return self.end_sending(sending);
        }
        let Halves::Whole(stream) = mem::replace(&mut self.stream, Halves::Gone) else { return };
        let (read, mut write) = split(stream);
        let upload = tokio::spawn(async move {
            poll_fn(|cx| sending.poll(&mut write, cx)).await?;
            Ok(write)
        });
        self.stream = Halves::Split { read, upload: Some(Upload(upload)) };
    }

    /// The next piece of the response's body.
    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failed>>> {
        self.look_at_upload(cx)?;
        loop {
            if self.framing == Framing::Over {
                return Poll::Ready(None);
            }
            if let Some(frame) = self.take_frame()? {
                return Poll::Ready(Some(Ok(frame)));
            }
            if self.framing != Framing::Over && ready!(self.poll_fill(cx)).map_err(Failed::Broken)? == 0 {
                if self.framing != Framing::UntilClose {
                    return Poll::Ready(Some(Err(Failed::Closed)));
                }
                self.framing = Framing::Over;
            }
        }
    }

    /// What is there of the response's body.
    fn take_frame(&mut self) -> Result<Option<Frame<Bytes>>, Failed> {
        while !self.buffer.is_empty() {
            let bytes = &self.buffer[..self.buffer.len().min(BUFFER)];
            let (count, part) = match &mut self.framing {
                Framing::Over => return Ok(None),
                Framing::UntilClose => (bytes.len(), Part::Data),
                Framing::Length(left) => {
                    let count = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                    *left -= count as u64;
                    (count, Part::Data)
                }
                Framing::Chunks(chunks) => {
                    chunks.feed(bytes, BUFFER).map_err(|wrong| Failed::Wrong(wrong.why))?
                }
            };
            match part {
                Part::Framing => self.buffer.advance(count),
                Part::Trailers => {
                    self.trailers.extend_from_slice(&self.buffer[..count]); // They may be kept for long.
                    self.buffer.advance(count);
                }
                Part::Data => {
                    let data = self.take(count);
                    self.see_end();
                    return Ok(Some(Frame::data(data)));
                }
            }
            if matches!(&self.framing, Framing::Chunks(chunks) if chunks.is_over()) {
                self.framing = Framing::Over;
                let trailers = response::trailers(&mem::take(&mut self.trailers));
                let trailers = trailers.map_err(Failed::Wrong)?;
                return Ok((!trailers.is_empty()).then(|| Frame::trailers(trailers)));
            }
        }
        Ok(None)
    }

    /// Notices the end of the body if it is there: then nobody has to ask for it.
    fn see_end(&mut self) {
        match self.framing {
            Framing::Length(0) => self.framing = Framing::Over,
            // As it nearly always comes.
            Framing::Chunks(chunks) if chunks.is_behind_data() && self.buffer.starts_with(LAST_CHUNK) => {
                self.buffer.advance(LAST_CHUNK.len());
                self.framing = Framing::Over;
            }
            _ => {}
        }
    }

    /// What is still being sent may have come to its end.
    fn look_at_upload(&mut self, cx: &mut Context<'_>) -> Result<(), Failed> {
        let Halves::Split { upload: upload @ Some(_), .. } = &mut self.stream else { return Ok(()) };
        let Some(Upload(sending)) = upload else { return Ok(()) };
        let Poll::Ready(sent) = Pin::new(sending).poll(cx) else { return Ok(()) };
        *upload = None;
        match sent {
            Ok(Ok(write)) => self.join(write),
            Ok(Err(failed @ Failed::Body(_))) => return Err(failed), // The endpoint would wait for the rest.
            // It may have an answer for those who send no more.
            Ok(Err(_)) | Err(_) => self.is_kept = false,
        }
        Ok(())
    }

    fn join(&mut self, write: WriteHalf<Stream>) {
        if let Halves::Split { read, .. } = mem::replace(&mut self.stream, Halves::Gone) {
            self.stream = Halves::Whole(read.unsplit(write));
        }
    }

    /// Whether nothing more is to come of the response.
    pub(super) const fn is_over(&self) -> bool {
        matches!(self.framing, Framing::Over)
    }

    /// How much of the response's body is to come.
    pub(super) fn size_hint(&self) -> SizeHint {
        match self.framing {
            Framing::Over => SizeHint::with_exact(0),
            Framing::Length(left) => SizeHint::with_exact(left),
            Framing::Chunks(_) | Framing::UntilClose => SizeHint::new(),
        }
    }

    /// Whether another request may follow at once: all is sent and read, and nothing came that nobody has asked for.
    pub(super) fn is_free(&mut self) -> bool {
        let is_fine = self.look_at_upload(&mut Context::from_waker(Waker::noop())).is_ok();
        let is_whole = matches!(self.stream, Halves::Whole(_));
        is_fine && is_whole && self.is_kept && self.is_over() && self.buffer.is_empty()
    }

    /// The stream, and what has come over it already, to go on with as something else.
    pub(super) fn take_stream(&mut self) -> Option<Begun<Stream>> {
        self.is_kept = false;
        match mem::replace(&mut self.stream, Halves::Gone) {
            Halves::Whole(stream) => {
                let begun = Begun::with(Bytes::copy_from_slice(&self.buffer), stream); // It may last for hours.
                self.rest();
                Some(begun)
            }
            Halves::Split { .. } | Halves::Gone => None,
        }
    }

    /// Reads what there is; 0 at the end.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.make_room();
        let mut room = (&mut self.buffer).limit(self.read_size);
        let read = match &mut self.stream {
            Halves::Whole(stream) => pin!(stream.read_buf(&mut room)).poll(cx),
            Halves::Split { read, .. } => pin!(read.read_buf(&mut room)).poll(cx),
            Halves::Gone => Poll::Ready(Ok(0)),
        };
        if read.is_pending() && self.buffer.is_empty() {
            self.rest(); // Who waits has none.
        }
        let count = ready!(read)?;
        self.has_heard |= count > 0;
        Poll::Ready(Ok(count))
    }

    /// Room to read into: from the beginning of a buffer, unless some of this one is still in use.
    fn make_room(&mut self) {
        let left = self.buffer.capacity() - self.buffer.len();
        let is_new = self.buffer.is_empty() && self.buffer.try_reclaim(BUFFER);
        if is_new || left >= LEAST || self.buffer.capacity() >= BUFFER {
            return;
        }
        let mut other = buffers::take();
        other.extend_from_slice(&self.buffer);
        buffers::put(mem::replace(&mut self.buffer, other));
    }
}

/// Behind the last data of a body in chunks.
const LAST_CHUNK: &[u8] = b"\r\n0\r\n\r\n";
