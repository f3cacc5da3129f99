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

/// Serves a connection that was accepted on the listener `name`.
///
/// It ends when the client closes it, breaks the protocol (after a `400` where that can still be
/// said), is silent for too long, or when `draining` becomes true: then after the request it is at.
pub async fn serve(
    shared: &Arc<Shared>,
    worker: usize,
    name: SocketAddr,
    stream: TcpStream,
    peer: IpAddr,
    mut draining: watch::Receiver<bool>,
) {
    let Some(bounds) = shared.in_force.with(|generation| Bounds::of(generation, name)) else { return };
    // A connection that has said nothing costs no protocol machinery yet.
    if !matches!(timeout(bounds.patience.request_headers, stream.readable()).await, Ok(Ok(()))) {
        return;
    }
    let _ = stream.set_nodelay(true); // A socket that is already gone is noticed below.
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
    /// Between two requests.
    idle: Duration,
}

/// A stream that fails when nothing comes for too long, while no request is under way.
///
/// hyper has one timer for both waiting for a request and waiting for the rest of its head; here
/// they are two. The timer is not touched for each request: it fires once in a while and is then
/// set to what is due.
struct Patient {
    stream: TcpStream,
    busy: Busy,
    /// The number of the last request seen.
    seen: u64,
    patience: Patience,
    deadline: Instant,
    is_in_head: bool,
    alarm: Pin<Box<Sleep>>,
}

impl Patient {
    fn new(stream: TcpStream, busy: Busy, patience: Patience) -> Self {
        let deadline = Instant::now() + patience.request_headers;
        let alarm = Box::pin(tokio::time::sleep_until(deadline));
        Self { stream, busy, seen: 0, patience, deadline, is_in_head: true, alarm }
    }

    /// Bytes have come.
    fn heard(&mut self) {
        if !self.is_in_head && self.busy.look().0 {
            self.is_in_head = true;
            self.deadline = Instant::now() + self.patience.request_headers;
        }
    }

    /// Nothing has come: is it too long?
    fn poll_patience(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let (is_idle, number) = self.busy.look();
        if !is_idle {
            return Poll::Pending;
        }
        if number != self.seen {
            (self.seen, self.is_in_head) = (number, false);
            self.deadline = Instant::now() + self.patience.idle;
        }
        if self.alarm.deadline() > self.deadline {
            self.alarm.as_mut().reset(self.deadline);
        }
        loop {
            ready!(self.alarm.as_mut().poll(cx));
            if Instant::now() >= self.deadline {
                return Poll::Ready(io::ErrorKind::TimedOut.into());
            }
            self.alarm.as_mut().reset(self.deadline);
        }
    }
}

impl AsyncRead for Patient {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Poll::Ready(result) = Pin::new(&mut self.stream).poll_read(cx, buf) {
            self.heard();
            return Poll::Ready(result);
        }
        self.poll_patience(cx).map(Err)
    }
}

impl AsyncWrite for Patient {
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
