//! One client connection, from its first byte to its last.

use std::{
    convert::Infallible,
    mem::MaybeUninit,
    net::{IpAddr, SocketAddr},
    pin::pin,
    sync::Arc,
};

use http::{HeaderValue, StatusCode, header::CONNECTION};
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use naka::reject::{Reason, Rejection};
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::watch,
    time::timeout,
};
use tracing::debug;

use crate::{
    entry::Peer,
    generation::Generation,
    patience::{Patience, Patient, Progress},
    serve::{Account, refuse, serve as serve_request},
    shared::Shared,
};

/// What hyper reads ahead, and holds to be written, at most.
const BUFFER: usize = 128 << 10;

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
    let bounds = shared.in_force.with(|generation| Bounds::of(generation, name));
    // Not `readable`, which may be ready without a byte.
    let mut first = [0];
    let speaking = timeout(bounds.patience.request_headers, stream.peek(&mut first));
    let has_spoken = tokio::select! {
        biased;
        spoken = speaking => matches!(spoken, Ok(Ok(1))),
        // The runtime may not have heard yet of what is there already.
        _ = draining.wait_for(|is_draining| *is_draining) => SockRef::from(&stream)
            .peek(&mut [MaybeUninit::uninit()])
            .is_ok_and(|peeked| peeked == 1),
    };
    if has_spoken {
        let _ = stream.readable().await; // At once: so that what is there is read before anything ends.
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
    let bounds = shared.in_force.with(|generation| Bounds::of(generation, name));
    let progress = Progress::new(bounds.patience);
    let peer = Arc::new(Peer::new(peer, "http"));
    let service = service_fn(|request| {
        let (shared, peer, account) = (Arc::clone(shared), Arc::clone(&peer), Account::open(&progress));
        async move {
            let served = shared.in_force.with(|generation| generation.served(worker, name).cloned());
            let Some(served) = served else {
                let mut response = refuse(&shared.metrics, account, &LISTENER_GONE, None);
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                return Ok::<_, Infallible>(response);
            };
            Ok(serve_request(served, &peer, &shared.metrics, account, request).await)
        }
    });
    let io = TokioIo::new(Patient::new(stream, &progress));
    let connection = http1::Builder::new()
        .max_buf_size(bounds.header_bytes.max(BUFFER))
        .max_headers(bounds.header_count)
        .max_header_size(bounds.header_bytes)
        .serve_connection(io, service);
    let mut connection = pin!(connection);
    let mut silence = pin!(progress.silence());
    let mut is_told = false;
    let result = loop {
        tokio::select! {
            biased;
            result = connection.as_mut() => break result,
            () = silence.as_mut() => return, // Nobody is waiting for an answer.
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
    /// Where the listener is gone, somebody still has to be told so: any other's bounds will do.
    fn of(generation: &Generation, name: SocketAddr) -> Self {
        let mut listeners = generation.config.listeners.values();
        let first = listeners.next().expect("a checked configuration has a listener");
        let listener = generation.config.listeners.values().find(|listener| listener.listen == name);
        let listener = listener.unwrap_or(first);
        Self {
            patience: Patience { request_headers: listener.request_headers, idle: listener.idle },
            header_count: generation.limits.header_count,
            header_bytes: generation.limits.header_bytes,
        }
    }
}
