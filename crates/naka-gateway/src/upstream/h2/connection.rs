//! One connection: how it begins, and how it is known to be still there.

use std::{
    future::{Future as _, poll_fn},
    io, mem,
    pin::{Pin, pin},
    sync::{
        Arc, Weak,
        atomic::{
            AtomicU64, AtomicUsize,
            Ordering::{AcqRel, Acquire, Relaxed},
        },
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use h2::{
    Ping, PingPong,
    client::{self, SendRequest},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::AbortHandle,
    time::{Instant, sleep, timeout},
};
use tracing::debug;

use super::{
    super::{
        connect::Counted,
        jittered,
        places::{Owner, TURN, Taken},
    },
    Pool,
};
use crate::config::checked::KeepAlive;

/// Bytes of one response that wait to be passed on. The connection has room for all its streams, so that a client that
/// reads slowly keeps nobody else waiting.
const STREAM_WINDOW: u32 = 256 << 10;
/// Bytes of one request that wait to be sent.
const SEND_BUFFER: usize = 64 << 10;
/// What one request may have waiting, both ways.
pub(crate) const STREAM: u64 = STREAM_WINDOW as u64 + SEND_BUFFER as u64;
/// Bytes of a response's header list, and of its trailers.
const HEADER_LIST: u32 = 128 << 10;

/// How long a request that was given up is remembered.
const REMEMBERED: Duration = Duration::from_secs(30);

/// How long nothing may come while an answer is waited for, until it is asked whether the other end is there.
const QUIET: Duration = Duration::from_secs(20);
/// How long it has for an answer to that.
const PONG: Duration = Duration::from_secs(10);
/// The longest time between two such questions about the same requests, in times of [`QUIET`]. Each but the first waits
/// four times as long as the one before: servers of gRPC take offence at more than two in five minutes.
const LONGEST: u32 = 15;

/// A connection to an endpoint; with it ends what drives it.
#[derive(Debug)]
pub(super) struct Connection {
    sender: SendRequest<Bytes>,
    driver: AbortHandle,
    pulse: Arc<Pulse>,
    made: Instant,
    /// Until when it takes requests.
    until: Option<Instant>,
    /// With the endpoint, and in the process.
    places: [Taken; 2],
}

/// What is known of a connection besides what it says.
#[derive(Debug, Default)]
struct Pulse {
    /// What came from the endpoint, in bytes.
    read: Arc<AtomicU64>,
    /// Requests that it was used for.
    begun: AtomicU64,
    /// Those that are not over yet.
    under_way: AtomicUsize,
}

/// Whether a connection takes one more request.
pub(super) enum Fit {
    /// None any more: it is too old, it is said to end, or it has ended.
    Gone,
    /// There are as many as there may be.
    Full,
    /// It does.
    Free(SendRequest<Bytes>),
}

impl Connection {
    /// Over this stream, once the other end has shown that it speaks HTTP/2.
    pub(super) async fn open<S>(
        stream: S,
        pool: &Arc<Pool>,
        keep: KeepAlive,
        streams: usize,
        places: [Taken; 2],
    ) -> io::Result<Arc<Self>>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let stream = Counted::new(stream);
        let pulse = Arc::new(Pulse { read: Arc::clone(&stream.read), ..Pulse::default() });
        let (sender, connection) = begin(stream, streams).await?;
        let made = Instant::now();
        let until = keep.max_lifetime.map(|time| made + jittered(time));
        let (weak, watched) = (Arc::downgrade(pool), Arc::clone(&pulse));
        let driver = tokio::spawn(drive(connection, sender.clone(), watched, weak)).abort_handle();
        Ok(Arc::new(Self { sender, driver, pulse, made, until, places }))
    }

    /// Whether it takes one more, beside so many at the most.
    pub(super) fn fit(&self, now: Instant, streams: usize) -> Fit {
        if self.until.is_some_and(|until| until <= now) {
            return Fit::Gone;
        }
        let mut sender = self.sender.clone();
        match sender.poll_ready(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Err(_)) => Fit::Gone,
            Poll::Ready(Ok(())) if self.under_way() < streams.min(self.streams()) => Fit::Free(sender),
            Poll::Ready(Ok(())) | Poll::Pending => Fit::Full,
        }
    }

    /// Whether it was used for long enough, and somebody else is next to make one.
    pub(super) fn has_had_its_turn(&self, owner: Owner) -> bool {
        self.made + TURN <= Instant::now()
            && self.places.iter().any(|taken| taken.is_wanted_by_other(owner, TURN))
    }

    /// Requests at a time that the endpoint allows.
    pub(super) fn streams(&self) -> usize {
        self.sender.current_max_send_streams()
    }

    pub(super) fn under_way(&self) -> usize {
        self.pulse.under_way.load(Acquire)
    }

    /// One more; says whether it was used before and nobody uses it now.
    pub(super) fn begin(&self) -> bool {
        let was_used = self.pulse.begun.fetch_add(1, Relaxed) > 0;
        self.pulse.under_way.fetch_add(1, AcqRel) == 0 && was_used
    }

    /// One less; says whether there is none left.
    pub(super) fn end(&self) -> bool {
        self.pulse.under_way.fetch_sub(1, AcqRel) == 1
    }

    /// What came so far, in bytes.
    pub(super) fn bytes_read(&self) -> u64 {
        self.pulse.read.load(Relaxed)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// Begins to speak, and waits for the settings of the other end: before they come nobody knows that it speaks HTTP/2,
/// nor how many requests it takes.
pub(crate) async fn begin<S>(
    stream: S,
    streams: usize,
) -> io::Result<(SendRequest<Bytes>, client::Connection<S, Bytes>)>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let remembered = streams.saturating_mul(4);
    let streams = u32::try_from(streams).unwrap_or(u32::MAX);
    let begun = client::Builder::new()
        // What still comes for requests that were given up is dropped. What comes for those that are forgotten is answered
        // with a reset, and of these so many would end the connection for everybody: it is not they who are to blame.
        .max_concurrent_reset_streams(remembered)
        .reset_stream_duration(REMEMBERED)
        .max_local_error_reset_streams(None)
        .enable_push(false)
        .initial_max_send_streams(0) // Until the settings come.
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(STREAM_WINDOW.saturating_mul(streams).min(i32::MAX.unsigned_abs()))
        .max_send_buffer_size(SEND_BUFFER)
        .max_header_list_size(HEADER_LIST)
        .handshake(stream);
    let (sender, mut connection) = begun.await.map_err(|error| strange(&error.to_string()))?;
    poll_fn(|cx| match Pin::new(&mut connection).poll(cx) {
        Poll::Pending if sender.current_max_send_streams() > 0 => Poll::Ready(Ok(())),
        Poll::Pending => Poll::Pending,
        Poll::Ready(Ok(())) => Poll::Ready(Err(strange("it closed the connection"))),
        Poll::Ready(Err(error)) => Poll::Ready(Err(strange(&error.to_string()))),
    })
    .await?;
    Ok((sender, connection))
}

fn strange(what: &str) -> io::Error {
    io::Error::other(format!("it does not begin to speak HTTP/2 (without TLS, by prior knowledge): {what}"))
}

/// Drives a connection until it ends, or the other end is gone. When the other end takes more requests than before, those
/// who wait hear of that.
async fn drive<S>(
    mut connection: client::Connection<S, Bytes>,
    sender: SendRequest<Bytes>,
    pulse: Arc<Pulse>,
    pool: Weak<Pool>,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let pings = connection.ping_pong();
    let mut streams = sender.current_max_send_streams();
    {
        let watch = async {
            match pings {
                Some(pings) => watch(pings, &pulse).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            ended = poll_fn(|cx| {
                let ended = Pin::new(&mut connection).poll(cx);
                let before = mem::replace(&mut streams, sender.current_max_send_streams());
                if streams > before && let Some(pool) = pool.upgrade() {
                    pool.hand_out();
                }
                ended
            }) => {
                if let Err(error) = ended {
                    debug!(%error, "a connection to an endpoint ended in an error");
                }
            }
            () = watch => debug!("an endpoint does not answer pings any more"),
        }
    }
    drop(connection); // Whoever waits on it hears of that now.
    if let Some(pool) = pool.upgrade() {
        pool.tidy();
    }
}

/// Ready when an answer is waited for and the other end does not even answer a ping.
async fn watch(mut pings: PingPong, pulse: &Pulse) {
    let read = || pulse.read.load(Relaxed);
    let (mut read_before, mut begun_before, mut asked_about) = (read(), 0, 0);
    let (mut waited, mut wait) = (0, 1);
    loop {
        sleep(QUIET).await;
        let begun = pulse.begun.load(Relaxed);
        let is_used = begun != begun_before || pulse.under_way.load(Relaxed) > 0;
        begun_before = begun;
        if read() != read_before || !is_used {
            (read_before, waited, wait) = (read(), 0, 1);
            continue;
        }
        waited += 1;
        if begun == asked_about && waited < wait {
            continue;
        }
        let mut pong = pin!(pings.ping(Ping::opaque()));
        let answer = loop {
            let answer = timeout(PONG, &mut pong).await;
            if answer.is_ok() || read() == read_before {
                break answer;
            }
            read_before = read(); // What came instead stands before it in the queue of the other end.
        };
        match answer {
            Ok(Ok(_)) => {
                wait = if begun == asked_about { (wait * 4).min(LONGEST) } else { 4 };
                (read_before, asked_about, waited) = (read(), begun, 0);
            }
            Ok(Err(_)) => std::future::pending().await, // It has ended, which is heard elsewhere.
            Err(_) => return,
        }
    }
}
