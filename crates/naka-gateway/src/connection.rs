//! One client connection, from its first byte to its last.

use std::{
    convert::Infallible,
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use http::{HeaderValue, StatusCode, header::CONNECTION};
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use naka::reject::{Reason, Rejection};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::watch,
    time::{Instant, Sleep, timeout},
};
use tracing::debug;

use crate::{
    entry::Peer,
    generation::Generation,
    serve::{Account, Busy, refuse, serve as serve_request},
    worker::Shared,
};

/// A connection between a client and us: a socket, or a pipe in a test.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Stream for S {}

/// Serves a socket that was accepted on the listener `name`, as [`serve`] does, once it has said
/// something: a connection that has said nothing costs no protocol machinery.
pub async fn serve_socket(
    shared: &Arc<Shared>,
    worker: usize,
    name: SocketAddr,
    stream: TcpStream,
    peer: IpAddr,
    mut draining: watch::Receiver<bool>,
) {
    let Some(bounds) = shared.in_force.with(|generation| Bounds::of(generation, name)) else { return };
    let has_spoken = tokio::select! {
        biased;
        spoken = timeout(bounds.patience.request_headers, stream.readable()) => matches!(spoken, Ok(Ok(()))),
        _ = draining.wait_for(|is_draining| *is_draining) => false,
    };
    if has_spoken {
        let _ = stream.set_nodelay(true); // A socket that is already gone is noticed below.
        serve(shared, worker, name, stream, peer, draining).await;
    }
}

/// Serves a connection that was accepted on the listener `name`.
///
/// It ends when the client closes it, breaks the protocol (after a `400` where that can still be
/// said), is silent or deaf for too long, or when `draining` becomes true: then after the request it
/// is at.
pub async fn serve<S: Stream>(
    shared: &Arc<Shared>,
    worker: usize,
    name: SocketAddr,
    stream: S,
    peer: IpAddr,
    mut draining: watch::Receiver<bool>,
) {
    let Some(bounds) = shared.in_force.with(|generation| Bounds::of(generation, name)) else { return };
    let busy = Busy::default();
    let peer = Arc::new(Peer::new(peer, "http"));
    let service = service_fn(|request| {
        let (shared, peer, account) = (Arc::clone(shared), Arc::clone(&peer), Account::open(&busy));
        async move {
            let served = shared.in_force.with(|generation| generation.workers[worker].get(&name).cloned());
            let Some(served) = served else {
                let mut response = refuse(&shared.metrics, account, &LISTENER_GONE, None);
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                return Ok::<_, Infallible>(response);
            };
            Ok(serve_request(served, &peer, &shared.metrics, account, request).await)
        }
    });
    let io = TokioIo::new(Patient::new(stream, busy.clone(), bounds.patience));
    let connection = http1::Builder::new()
        .max_headers(bounds.header_count)
        .max_header_size(bounds.header_bytes)
        .serve_connection(io, service);
    let mut connection = pin!(connection);
    let mut is_told = false;
    let result = loop {
        tokio::select! {
            biased;
            result = connection.as_mut() => break result,
            _ = draining.wait_for(|is_draining| *is_draining), if !is_told => {
                is_told = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    };
    if let Err(error) = result {
        debug!(peer = %peer.address, %error, "a client connection ended in an error");
    }
}

static LISTENER_GONE: Rejection =
    Rejection::new(Reason::Custom(StatusCode::SERVICE_UNAVAILABLE, "listener_gone"));

/// What a configuration says about connections; read once for each.
struct Bounds {
    patience: Patience,
    header_count: usize,
    header_bytes: usize,
}

impl Bounds {
    fn of(generation: &Generation, name: SocketAddr) -> Option<Self> {
        let listener = generation.config.listeners.values().find(|listener| listener.listen == name)?;
        Some(Self {
            patience: Patience { request_headers: listener.request_headers, idle: listener.idle },
            header_count: generation.limits.header_count,
            header_bytes: generation.limits.header_bytes,
        })
    }
}

/// How long a client may keep us waiting.
#[derive(Clone, Copy, Debug)]
struct Patience {
    /// From the first byte of a request head to its last.
    request_headers: Duration,
    /// Between two requests; and between two pieces of a response that it takes.
    idle: Duration,
}

/// A stream that fails when nothing comes for too long while no request is under way, and when
/// nothing that is sent is taken for too long.
///
/// hyper has one timer for both waiting for a request and waiting for the rest of its head; here
/// they are two. It has none for a client that stops reading: then it asks nobody for more of the
/// body either, so no timeout further inside would ever be looked at. The timer for silence is not
/// touched for each request: it fires once in a while and is then set to what is due. The one for
/// deafness is made when it is first needed.
struct Patient<S> {
    stream: S,
    busy: Busy,
    /// The number of the last request seen.
    seen: u64,
    patience: Patience,
    deadline: Instant,
    is_in_head: bool,
    silence: Pin<Box<Sleep>>,
    deafness: Option<Pin<Box<Sleep>>>,
}

impl<S> Patient<S> {
    fn new(stream: S, busy: Busy, patience: Patience) -> Self {
        let deadline = Instant::now() + patience.request_headers;
        let silence = Box::pin(tokio::time::sleep_until(deadline));
        Self { stream, busy, seen: 0, patience, deadline, is_in_head: true, silence, deafness: None }
    }

    /// Bytes have come.
    fn heard(&mut self) {
        if !self.is_in_head && self.busy.look().0 {
            self.is_in_head = true;
            self.deadline = Instant::now() + self.patience.request_headers;
        }
    }

    /// Nothing has come: is it too long?
    fn poll_silence(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let (is_idle, number) = self.busy.look();
        if !is_idle {
            return Poll::Pending;
        }
        if number != self.seen {
            (self.seen, self.is_in_head) = (number, false);
            self.deadline = Instant::now() + self.patience.idle;
        }
        if self.silence.deadline() > self.deadline {
            self.silence.as_mut().reset(self.deadline);
        }
        loop {
            ready!(self.silence.as_mut().poll(cx));
            if Instant::now() >= self.deadline {
                return Poll::Ready(io::ErrorKind::TimedOut.into());
            }
            self.silence.as_mut().reset(self.deadline);
        }
    }

    /// What became of sending: if nothing was taken, is it too long?
    fn sent<T>(&mut self, sent: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        if sent.is_ready() {
            self.deafness = None;
            return sent;
        }
        let due = || {
            let idle = Instant::now() + self.patience.idle;
            Box::pin(tokio::time::sleep_until(self.busy.must_end().map_or(idle, |end| end.min(idle))))
        };
        ready!(self.deafness.get_or_insert_with(due).as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: Stream> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Poll::Ready(result) = Pin::new(&mut self.stream).poll_read(cx, buf) {
            self.heard();
            return Poll::Ready(result);
        }
        self.poll_silence(cx).map(Err)
    }
}

impl<S: Stream> AsyncWrite for Patient<S> {
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
        let sent = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.sent(sent, cx)
    }
}
