//! What a connection becomes when both ends have switched to another protocol: bytes, both ways, until either end or nobody says
//! anything more.
//!
//! # What happens
//! 1. It begins after the upstream's 101, or its 200 to an extended CONNECT, and not before: what a client has sent by then was kept, and goes
//!    first.
//! 2. Each way holds [`PIECE`] bytes at most and reads more when they have been taken: who reads slowly makes the other end wait.
//! 3. The end of one way is passed on, and the other goes on. An upstream that takes nothing more can still be heard to its end.
//! 4. It ends when both ways have, when one end breaks off, when nothing has moved either way for `timeouts.tunnel_idle`, and when the
//!    process is about to end: then a WebSocket client hears `1001` (going away, RFC 6455 §7.4.1), if it is between two frames.
//!
//! Until then it holds what its request holds: places in bulkheads and at its endpoint, that of its connection, and the rules of the generation
//! that let it in. How long it lasts, and how it ends, is no evidence for breakers and balancers: they have heard of the 101.

use std::{
    fmt, io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body::Body;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    sync::watch,
    time::{Instant, sleep_until, timeout},
};
use tracing::debug;

use crate::{observe::Metrics, serve::ServerBody, shared::Ending};
use frames::Frames;
use way::Way;

mod frames;
mod way;

/// Bytes that are held of each way.
pub const PIECE: usize = 16 << 10;
/// How long a client has for taking the last of a tunnel, and for going after that.
const FAREWELL: Duration = Duration::from_secs(1);
/// What is read and thrown away meanwhile, in bytes.
const THROWN_AWAY: usize = 256 << 10;

/// An end of a tunnel.
pub(crate) trait Io: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Io for S {}

/// In the extensions of a response with which a tunnel begins: the end of it that leads to the upstream. Whoever takes it has it.
#[derive(Clone)]
pub(crate) struct Switched(Arc<Mutex<Option<Upstream>>>);

/// The end that leads to the upstream.
pub(crate) struct Upstream {
    pub(crate) stream: Box<dyn Io>,
    /// How long nothing may move.
    pub(crate) idle: Option<Duration>,
    /// The protocol is that of RFC 6455.
    pub(crate) is_websocket: bool,
}

impl Switched {
    pub(crate) fn new(upstream: Upstream) -> Self {
        Self(Arc::new(Mutex::new(Some(upstream))))
    }

    fn take(&self) -> Option<Upstream> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl fmt::Debug for Switched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Switched")
    }
}

/// The body of a response with which a tunnel begins: nothing comes of it, and it does not end. It is what the guards of a request are
/// kept in.
#[derive(Debug)]
pub(crate) struct Endless<G>(pub(crate) G);

impl<G: Unpin> Body for Endless<G> {
    type Data = Bytes;
    type Error = naka::BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Self::Error>>> {
        Poll::Pending
    }
}

/// A tunnel that has not begun: its client is still to be told.
pub(crate) struct Tunnel {
    upstream: Upstream,
    /// All that the request holds.
    held: ServerBody,
}

impl Tunnel {
    /// Takes it out of a response with which one begins.
    pub(crate) fn of(response: Response<ServerBody>) -> (Response<ServerBody>, Option<Self>) {
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return (response, None);
        }
        let upstream = response.extensions().get::<Switched>().and_then(Switched::take);
        let (head, held) = response.into_parts();
        let tunnel = upstream.map(|upstream| Self { upstream, held });
        (Response::from_parts(head, ServerBody::default()), tunnel)
    }

    /// Carries bytes between a client, which has said `early` already, and the upstream, until it is over.
    pub(crate) async fn run<C: Io>(
        self,
        mut client: C,
        early: Bytes,
        mut ending: watch::Receiver<Ending>,
        metrics: &Metrics,
    ) {
        let Self { upstream: Upstream { mut stream, idle, is_websocket }, held } = self;
        let _open = metrics.tunnel();
        let mut up = Way::beginning_with(early);
        let mut down = Way::new(is_websocket.then(Frames::default));
        let ended = {
            let both = Both { client: &mut client, upstream: &mut *stream, up: &mut up, down: &mut down };
            tokio::select! {
                biased;
                ended = both.until_idle(idle) => ended,
                _ = ending.wait_for(|ending| *ending == Ending::Tunnels) => Ended::Leaving,
            }
        };
        metrics.tunnelled(up.moved(), down.moved());
        debug!(?ended, up = up.moved(), down = down.moved(), "a tunnel ended");
        drop((stream, held)); // Whatever the client does from now on, it holds nothing of anybody.
        let last = if ended == Ended::Leaving { down.farewell() } else { None };
        let _ = timeout(FAREWELL, say_farewell(&mut client, last)).await;
    }
}

impl fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tunnel").field("is_websocket", &self.upstream.is_websocket).finish_non_exhaustive()
    }
}

/// Why a tunnel ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    /// Both ways did.
    Closed,
    /// One end broke off.
    Broken,
    /// Nothing moved for too long.
    Idle,
    /// The process is about to end.
    Leaving,
}

/// Both ends, and both ways between them.
struct Both<'a, C: ?Sized, U: ?Sized> {
    client: &'a mut C,
    upstream: &'a mut U,
    up: &'a mut Way,
    down: &'a mut Way,
}

impl<C: Io + ?Sized, U: Io + ?Sized> Both<'_, C, U> {
    async fn until_idle(mut self, idle: Option<Duration>) -> Ended {
        let Some(idle) = idle else { return std::future::poll_fn(|cx| self.poll(cx)).await };
        let (mut seen, mut since) = (self.moved(), Instant::now());
        loop {
            let end = since + idle;
            let moving = std::future::poll_fn(|cx| self.poll(cx));
            tokio::select! {
                biased;
                ended = moving => return ended,
                () = sleep_until(end) => {}
            }
            // What moved since is looked at when the alarm goes off, so that no piece touches it.
            let moved = self.last_moved();
            if std::mem::replace(&mut seen, self.moved()) == seen {
                return Ended::Idle;
            }
            since = moved.max(since);
        }
    }

    fn moved(&self) -> u64 {
        self.up.moved().wrapping_add(self.down.moved())
    }

    fn last_moved(&self) -> Instant {
        self.up.last_moved().max(self.down.last_moved())
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        let (client, upstream) = (&mut *self.client, &mut *self.upstream);
        let up = self.up.poll(cx, Pin::new(&mut *client), Pin::new(&mut *upstream));
        let down = self.down.poll(cx, Pin::new(&mut *upstream), Pin::new(&mut *client));
        match (up, down) {
            (_, way::Step::Broken | way::Step::Deaf) | (way::Step::Broken, _) => Poll::Ready(Ended::Broken),
            // An upstream that has closed may have said something before, as why it did.
            (way::Step::Over | way::Step::Deaf, way::Step::Over) => Poll::Ready(Ended::Closed),
            _ => Poll::Pending,
        }
    }
}

/// Says the last there is to say, and that it is the last, and waits for the client to go: else what it sends would have it lost.
async fn say_farewell<C: Io>(client: &mut C, last: Option<&'static [u8]>) -> io::Result<()> {
    if let Some(last) = last {
        client.write_all(last).await?;
    }
    client.shutdown().await?;
    let (mut scratch, mut left) = ([0; 4096], THROWN_AWAY);
    while left > 0 {
        let count = client.read(&mut scratch).await?;
        if count == 0 {
            break;
        }
        left = left.saturating_sub(count);
    }
    Ok(())
}
