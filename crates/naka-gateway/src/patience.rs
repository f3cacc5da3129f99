//! How long a client may keep us waiting, and who looks at the clock.
//!
//! hyper has one timer for both waiting for a request and waiting for the rest of its head; here
//! they are two. It has none for a client that stops reading, and then asks nobody for more of the
//! body either, so no timeout further inside would be looked at: the end of the whole exchange is
//! kept here, too. And it does not poll the stream while it has nothing to ask of it, so the clock
//! cannot hang on reading: [`Progress::silence`] is a future of its own, polled beside the connection.
//!
//! All of it belongs to the one task of a connection; what is shared is shared within it.

use std::{
    future::{Future, poll_fn},
    io,
    num::NonZeroU64,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{
            AtomicBool, AtomicU32, AtomicU64,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use http_body::Body as _;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep_until, timeout},
};

use crate::{pace::Pace, upload::Upload};

/// The rest of a refused upload that is read before the answer, in bytes.
const SHORT: u64 = 16 << 10;
/// How long that may take.
const MOMENT: Duration = Duration::from_millis(50);
/// What is read and thrown away at most so that a client can hear why its upload was refused.
const LINGER_BYTES: usize = 256 << 10;
/// How long such a client has.
const LINGER: Duration = Duration::from_secs(1);

/// How long a client may keep us waiting.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// From the first byte of a request head to its last.
    pub request_headers: Duration,
    /// Between two requests; and between two pieces of a response that it takes.
    pub idle: Duration,
    /// Bytes a second of a body that it sends or takes, while it is waited for; nothing for as slow as it likes.
    pub min_rate: Option<NonZeroU64>,
}

/// How far a connection has got: whether a request is under way, and what is due when.
///
/// Times are nanoseconds since the connection began; `u64::MAX` is never.
#[derive(Debug)]
pub struct Progress {
    patience: Patience,
    /// Many requests at a time: what is of one request is not kept here.
    is_multiplexed: bool,
    began: Instant,
    under_way: AtomicU32,
    /// Requests that have ended.
    ended: AtomicU64,
    /// Whether the request under way has an answer.
    is_answered: AtomicBool,
    /// When the next thing has to have come, unless a request is under way.
    due_ns: AtomicU64,
    /// Whether that thing is the rest of a request head.
    is_in_head: AtomicBool,
    /// When the last request has to be over, its response taken by the client included.
    end_ns: AtomicU64,
    /// Whether something that was to be sent waits for the client.
    is_sending: AtomicBool,
    /// Whether the body of the one request under way may still come.
    is_receiving: AtomicBool,
    /// Whether a request's body was left unread, so that closing at once would reset the connection.
    has_unread: AtomicBool,
    /// Whether a body that is left unread is kept for [`read_what_is_short`](Self::read_what_is_short).
    keeps_unread: AtomicBool,
    unread: Mutex<Option<Incoming>>,
    /// Of the last request that had a body.
    upload: Mutex<Option<Arc<Upload>>>,
    /// The connection goes on as something else.
    is_switched: AtomicBool,
    /// Who reads for hyper and waits until no request is under way.
    reader: Mutex<Option<Waker>>,
    has_reader: AtomicBool,
}

const NEVER: u64 = u64::MAX;

impl Progress {
    /// A connection that begins now: a request head is due.
    pub fn new(patience: Patience) -> Arc<Self> {
        Self::of(patience, false)
    }

    /// A connection with many requests at a time, whose preface has come.
    pub fn multiplexed(patience: Patience) -> Arc<Self> {
        Self::of(Patience { request_headers: patience.idle, ..patience }, true)
    }

    fn of(patience: Patience, is_multiplexed: bool) -> Arc<Self> {
        let progress = Self {
            patience,
            is_multiplexed,
            began: Instant::now(),
            under_way: AtomicU32::new(0),
            ended: AtomicU64::new(0),
            is_answered: AtomicBool::new(false),
            due_ns: AtomicU64::new(nanos(patience.request_headers)),
            is_in_head: AtomicBool::new(true),
            end_ns: AtomicU64::new(NEVER),
            is_sending: AtomicBool::new(false),
            is_receiving: AtomicBool::new(false),
            has_unread: AtomicBool::new(false),
            keeps_unread: AtomicBool::new(false),
            unread: Mutex::new(None),
            upload: Mutex::new(None),
            is_switched: AtomicBool::new(false),
            reader: Mutex::new(None),
            has_reader: AtomicBool::new(false),
        };
        Arc::new(progress)
    }

    /// How many requests are under way: what comes and goes is of all of them.
    pub(crate) fn shares(&self) -> u32 {
        self.under_way.load(Relaxed).max(1)
    }

    /// Whether there are many requests at a time.
    pub(crate) const fn is_multiplexed(&self) -> bool {
        self.is_multiplexed
    }

    /// How far the body of a new request has got. Where there is one request at a time, that of the last one is used again if
    /// nobody looks at it any more.
    pub(crate) fn upload(&self) -> Arc<Upload> {
        if self.is_multiplexed {
            return Arc::default();
        }
        let mut last = self.upload.lock().unwrap_or_else(PoisonError::into_inner);
        match last.as_mut().and_then(Arc::get_mut) {
            Some(unused) => *unused = Upload::default(),
            None => *last = Some(Arc::default()),
        }
        last.clone().unwrap_or_default()
    }

    /// The one request under way has an answer.
    pub(crate) fn say_answered(&self) {
        self.is_answered.store(true, Relaxed);
    }

    /// Whether the one request under way has an answer.
    pub(crate) fn is_answered(&self) -> bool {
        self.is_answered.load(Relaxed)
    }

    /// How slow a body of this client may be.
    pub(crate) const fn pace(&self) -> Pace {
        Pace::new(self.patience.min_rate)
    }

    /// The head of a request is there.
    pub fn begin(&self) {
        self.under_way.fetch_add(1, Relaxed); // Relaxed: one task reads and writes all of this.
        self.end_ns.store(NEVER, Relaxed);
        self.is_answered.store(false, Relaxed);
        self.is_receiving.store(false, Relaxed);
    }

    /// Whether more of its body may come.
    pub(crate) fn receive(&self, more: bool) {
        self.is_receiving.store(more, Relaxed);
    }

    /// Whether more of the body of the one request under way may come. Who reads it may be told only later that nobody wants it.
    pub(crate) fn is_receiving(&self) -> bool {
        !self.is_multiplexed && self.is_receiving.load(Relaxed)
    }

    /// Its response has ended `now`: the next request is due.
    pub fn end(&self, now: Instant) {
        self.is_in_head.store(false, Relaxed);
        let passed = nanos(now.saturating_duration_since(self.began));
        self.due_ns.store(passed.saturating_add(nanos(self.patience.idle)), Relaxed);
        self.ended.fetch_add(1, Relaxed);
        self.under_way.fetch_sub(1, Release); // The requests of one connection may be on several threads.
        self.wake_reader();
    }

    /// From here on the connection is none of HTTP/1.1.
    pub(crate) fn switch(&self) {
        self.is_switched.store(true, Relaxed);
    }

    /// Whether it goes on as something else: what comes is not HTTP/1.1's to read, and its end is no client's going.
    pub(crate) fn is_switched(&self) -> bool {
        self.is_switched.load(Relaxed)
    }

    /// How many requests have ended.
    pub(crate) fn ended(&self) -> u64 {
        self.ended.load(Relaxed)
    }

    /// Wakes this one when the request under way has ended.
    pub(crate) fn wake_at_end(&self, waker: &Waker) {
        *self.reader.lock().unwrap_or_else(PoisonError::into_inner) = Some(waker.clone());
        self.has_reader.store(true, Relaxed);
    }

    /// Who reads may look again.
    pub(crate) fn wake_reader(&self) {
        if self.has_reader.swap(false, Relaxed)
            && let Some(waker) = self.reader.lock().unwrap_or_else(PoisonError::into_inner).take()
        {
            waker.wake();
        }
    }

    /// When the request under way has to be over.
    pub fn must_end(&self, at: Option<Instant>) {
        if self.is_multiplexed {
            return;
        }
        let end_ns = at.map_or(NEVER, |at| nanos(at.saturating_duration_since(self.began)));
        self.end_ns.store(end_ns, Relaxed);
    }

    /// The body of a request is given up before its end.
    pub fn leave_unread(&self, rest: Option<Incoming>) {
        if self.is_multiplexed {
            return; // Dropped, its stream is reset, and no other.
        }
        if self.keeps_unread.load(Relaxed) {
            *self.unread.lock().unwrap_or_else(PoisonError::into_inner) = rest;
        } else {
            self.has_unread.store(true, Relaxed);
        }
    }

    /// A body that is given up from now on is kept, until [`read_what_is_short`](Self::read_what_is_short).
    pub fn keep_unread(&self) {
        self.keeps_unread.store(!self.is_multiplexed, Relaxed);
    }

    /// Reads the rest of a request's body if that is short and comes at once, as it mostly does: then the
    /// connection can go on. Refusing must not be dearer than serving.
    pub async fn read_what_is_short(&self) {
        if let Some(rest) = self.take_unread() {
            self.read_if_short(rest).await;
        }
    }

    /// What of a body was given up and kept, from now on by nobody.
    pub(crate) fn take_unread(&self) -> Option<Incoming> {
        let may_be = self.keeps_unread.swap(false, Relaxed);
        may_be.then(|| self.unread.lock().unwrap_or_else(PoisonError::into_inner).take()).flatten()
    }

    pub(crate) async fn read_if_short(&self, mut rest: Incoming) {
        let is_short = rest.size_hint().upper().is_some_and(|left| left <= SHORT);
        let read = async {
            while let Some(frame) = rest.frame().await {
                frame.ok()?;
            }
            Some(())
        };
        if !is_short || timeout(MOMENT, read).await.ok().flatten().is_none() {
            self.has_unread.store(true, Relaxed);
        } else {
            self.receive(false);
        }
    }

    /// What comes is not read any more, and may be on its way.
    pub(crate) fn read_no_more(&self) {
        self.has_unread.store(true, Relaxed);
    }

    /// Whether the body of a request was given up before its end.
    pub fn has_unread(&self) -> bool {
        self.has_unread.load(Relaxed)
    }

    /// Ready when a client that has to say something has not for too long.
    pub async fn silence(&self) {
        let mut alarm = pin!(sleep_until(self.due().unwrap_or_else(Instant::now)));
        poll_fn(|cx| {
            loop {
                let due = self.due();
                // Later is noticed when the alarm goes off, so that a request does not touch it.
                if let Some(due) = due.filter(|due| *due < alarm.deadline()) {
                    alarm.as_mut().reset(due);
                }
                ready!(alarm.as_mut().poll(cx));
                match due {
                    Some(due) if Instant::now() >= due => return Poll::Ready(()),
                    Some(due) => alarm.as_mut().reset(due),
                    None => alarm.as_mut().reset(Instant::now() + self.patience.idle),
                }
            }
        })
        .await;
    }

    /// Bytes have come.
    fn heard(&self) {
        if !self.is_multiplexed && !self.is_busy() && !self.is_in_head.swap(true, Relaxed) {
            self.due_ns.store(self.after(self.patience.request_headers), Relaxed);
        }
    }

    /// Whether a request is under way.
    pub(crate) fn is_busy(&self) -> bool {
        self.under_way.load(Acquire) > 0
    }

    /// Whether it is only the client's next request that is waited for.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.is_busy() && !self.is_sending.load(Relaxed)
    }

    /// When the client has to have said something; `None` while it is our turn.
    fn due(&self) -> Option<Instant> {
        if self.is_busy() { None } else { self.at(self.due_ns.load(Relaxed)) }
    }

    /// When a client that takes nothing is given up.
    fn deaf_at(&self) -> Instant {
        let idle = Instant::now() + self.patience.idle;
        self.at(self.end_ns.load(Relaxed)).map_or(idle, |end| end.min(idle))
    }

    fn at(&self, ns: u64) -> Option<Instant> {
        if ns == NEVER { None } else { Some(self.began + Duration::from_nanos(ns)) }
    }

    fn after(&self, wait: Duration) -> u64 {
        nanos(self.began.elapsed()).saturating_add(nanos(wait))
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(NEVER)
}

/// A stream that tells its [`Progress`] what it hears, fails when nothing that is sent is taken for
/// too long, and lingers at its end while a refused upload is still coming.
#[derive(Debug)]
pub struct Patient<S> {
    stream: S,
    progress: Arc<Progress>,
    /// Made when it is first needed; set anew at the first write that waits after one that did not.
    deafness: Option<Pin<Box<Sleep>>>,
    /// Since when, and how many bytes were taken before: how slow it may be.
    waits_since: Option<Instant>,
    pace: Pace,
    lingering: Option<Lingering>,
}

#[derive(Debug)]
struct Lingering {
    left: usize,
    alarm: Pin<Box<Sleep>>,
}

impl<S> Patient<S> {
    /// Nothing has been sent yet.
    pub fn new(stream: S, progress: &Arc<Progress>) -> Self {
        let (progress, pace) = (Arc::clone(progress), progress.pace());
        Self { stream, progress, deafness: None, waits_since: None, pace, lingering: None }
    }

    /// The stream itself, of which nobody keeps the time any more.
    pub(crate) fn into_inner(self) -> S {
        self.stream
    }

    /// What became of sending: if nothing was taken, is it too long?
    fn sent<T: Taken>(&mut self, sent: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        self.progress.is_sending.store(sent.is_pending(), Relaxed);
        if let Poll::Ready(sent) = sent {
            let waited = self.waits_since.take().map_or(Duration::ZERO, |since| since.elapsed());
            self.pace.moved(waited, sent.as_ref().map_or(0, Taken::bytes));
            return Poll::Ready(sent);
        }
        let (progress, pace) = (&self.progress, &self.pace);
        let until = || {
            let slow_at = pace.left().map(|left| Instant::now() + left);
            slow_at.map_or_else(|| progress.deaf_at(), |slow_at| slow_at.min(progress.deaf_at()))
        };
        let alarm = self.deafness.get_or_insert_with(|| Box::pin(sleep_until(until())));
        if self.waits_since.is_none() {
            self.waits_since = Some(Instant::now());
            alarm.as_mut().reset(until());
        }
        ready!(alarm.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

/// What is said of bytes that were sent.
trait Taken {
    fn bytes(&self) -> usize;
}

impl Taken for usize {
    fn bytes(&self) -> usize {
        *self
    }
}

/// Of a flush nothing is said.
impl Taken for () {
    fn bytes(&self) -> usize {
        0
    }
}

impl<S: AsyncRead + Unpin> Patient<S> {
    /// Reads and throws away, so that what was sent last is not lost to a reset.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Self { stream, lingering, .. } = self;
        let start = || Lingering { left: LINGER_BYTES, alarm: Box::pin(tokio::time::sleep(LINGER)) };
        let Lingering { left, alarm } = lingering.get_or_insert_with(start);
        let mut scratch = [0; 4096];
        loop {
            let mut piece = ReadBuf::new(&mut scratch);
            match Pin::new(&mut *stream).poll_read(cx, &mut piece) {
                Poll::Ready(Ok(())) if !piece.filled().is_empty() && *left > 0 => {
                    *left = left.saturating_sub(piece.filled().len());
                }
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return alarm.as_mut().poll(cx),
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        self.progress.heard();
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let sent = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.sent(sent, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let sent = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.sent(sent, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let sent = Pin::new(&mut self.stream).poll_flush(cx);
        self.sent(sent, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.lingering.is_none() {
            let sent = Pin::new(&mut self.stream).poll_shutdown(cx);
            ready!(self.sent(sent, cx))?;
        }
        if self.progress.has_unread() {
            ready!(self.poll_linger(cx));
        }
        Poll::Ready(Ok(()))
    }
}
