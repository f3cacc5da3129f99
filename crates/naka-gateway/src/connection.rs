//! One client connection, from its first byte to its last.

use std::{
    convert::Infallible,
    io,
    mem::MaybeUninit,
    net::{IpAddr, SocketAddr},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, UNIX_EPOCH},
};

use bytes::{Bytes, BytesMut};
use http::{
    HeaderValue, Request, Response, StatusCode,
    header::{CONNECTION, DATE},
};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use naka::{
    clock::{Now, WallClock},
    problem,
    reject::{Reason, Rejection},
};
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::TcpStream,
    sync::watch,
    time::timeout,
};
use tracing::debug;

use crate::{
    config::checked::Protocols,
    entry::Peer,
    generation::Generation,
    patience::{Patience, Patient, Progress},
    serve::{Account, ServerBody, refuse, serve as serve_request},
    shared::{Ending, Shared},
    streams,
    strict::{Limits, Strict, Wrong},
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
    mut draining: watch::Receiver<Ending>,
) {
    let bounds = shared.in_force.with(|generation| Bounds::of(generation, name));
    // Not `readable`, which may be ready without a byte.
    let mut first = [0];
    let speaking = timeout(bounds.patience.request_headers, stream.peek(&mut first));
    let has_spoken = tokio::select! {
        biased;
        spoken = speaking => matches!(spoken, Ok(Ok(1))),
        // The runtime may not have heard yet of what is there already.
        _ = draining.wait_for(|ending| *ending == Ending::Now) => SockRef::from(&stream)
            .peek(&mut [MaybeUninit::uninit()])
            .is_ok_and(|peeked| peeked == 1),
        () = shared.room(worker).wanted() => false, // It has waited longest.
    };
    if has_spoken {
        let _ = stream.readable().await; // At once: so that what is there is read before anything ends.
        // On the heap, so that whoever has said nothing does not keep room for it.
        Box::pin(serve(shared, worker, name, stream, peer, draining)).await;
    }
}

/// Serves a connection that was accepted on the listener `name`.
///
/// It ends when the client closes it, breaks the protocol (after a `400` where that can still be
/// said), is silent or deaf for too long, or when `draining` says so.
pub async fn serve<S: Stream>(
    shared: &Arc<Shared>,
    worker: usize,
    name: SocketAddr,
    stream: S,
    peer: IpAddr,
    draining: watch::Receiver<Ending>,
) {
    let bounds = shared.in_force.with(|generation| Bounds::of(generation, name));
    let from = From { shared, worker, name, peer: Arc::new(Peer::new(peer, "http")) };
    if !bounds.protocols.h2c {
        return serve_h1(&from, &bounds, stream, draining).await;
    }
    match sniffed(stream, bounds.patience.request_headers).await {
        Some((true, stream)) => streams::serve(&from, &bounds, stream, draining).await,
        Some((false, stream)) if bounds.protocols.h1 => serve_h1(&from, &bounds, stream, draining).await,
        Some((false, _)) | None => debug!(peer = %from.peer.address, "a client did not say what it speaks"),
    }
}

/// Where a connection came in, and from whom.
pub(crate) struct From<'a> {
    pub(crate) shared: &'a Arc<Shared>,
    worker: usize,
    name: SocketAddr,
    pub(crate) peer: Arc<Peer>,
}

impl From<'_> {
    /// Ready when the connection waits, and has to make room for another one.
    pub(crate) async fn wanted(&self, progress: &Progress) {
        self.shared.room(self.worker).wanted_of(progress).await;
    }

    /// One request. By the generation that is in force when it comes.
    pub(crate) fn request(
        &self,
        account: Account,
        request: Request<Incoming>,
    ) -> impl Future<Output = Response<ServerBody>> + Send + 'static {
        let (shared, peer) = (Arc::clone(self.shared), Arc::clone(&self.peer));
        let (worker, name) = (self.worker, self.name);
        async move {
            let served = shared.in_force.with(|generation| generation.served(worker, name).cloned());
            let Some(served) = served else {
                let mut response = refuse(&shared.metrics, account, &LISTENER_GONE, None);
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                return response;
            };
            serve_request(served, &peer, &shared.metrics, account, request).await
        }
    }
}

async fn serve_h1<S: Stream>(
    from: &From<'_>,
    bounds: &Bounds,
    stream: S,
    mut draining: watch::Receiver<Ending>,
) {
    let progress = Progress::new(bounds.patience);
    let service = service_fn(|request| {
        let answer = from.request(Account::open(&progress), request);
        async move {
            let mut response = answer.await;
            if from.shared.is_leaving() {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(response)
        }
    });
    let limits = Limits { head_bytes: bounds.header_bytes, fields: bounds.header_count };
    let io = TokioIo::new(Strict::new(Patient::new(stream, &progress), limits, Arc::clone(&progress)));
    let mut connection = http1::Builder::new()
        .max_buf_size(bounds.header_bytes.max(BUFFER))
        .max_headers(bounds.header_count)
        .max_header_size(bounds.header_bytes)
        .serve_connection(io, service);
    let mut silence = pin!(progress.silence());
    let mut wanted = pin!(from.wanted(&progress));
    let mut is_told = false;
    let result = loop {
        tokio::select! {
            biased;
            result = &mut connection => break result,
            () = silence.as_mut() => return, // Nobody is waiting for an answer.
            () = wanted.as_mut() => return,
            _ = draining.wait_for(|ending| *ending == Ending::Now), if !is_told => {
                is_told = true;
                Pin::new(&mut connection).graceful_shutdown();
            }
        }
    };
    let strict = connection.into_parts().io.into_inner();
    if let Some(wrong) = strict.to_say() {
        debug!(peer = %from.peer.address, why = wrong.why, "a client does not speak HTTP/1.1");
        progress.read_no_more();
        say_what_is_wrong(from, &wrong, strict.into_inner()).await;
        return;
    }
    if let Err(error) = result {
        debug!(peer = %from.peer.address, %error, "a client connection ended in an error");
    }
}

/// Answers what was no request, and closes.
async fn say_what_is_wrong<S: Stream>(from: &From<'_>, wrong: &Wrong, mut stream: Patient<S>) {
    let rejection = Rejection::new(wrong.reason).detail(wrong.why);
    from.shared.metrics.rejected("", &rejection);
    let mut response: Response<Bytes> = problem::respond(&rejection);
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    if let Some(now) = WallClock::system().unix(Now::read()) {
        let date = httpdate::fmt_http_date(UNIX_EPOCH + now);
        headers.extend(HeaderValue::try_from(date).map(|date| (DATE, date)));
    }
    let mut bytes = format!("HTTP/1.1 {}\r\n", response.status()).into_bytes();
    for (name, value) in response.headers() {
        bytes.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    bytes.extend([b"\r\n", &**response.body()].concat());
    // It may have gone.
    if stream.write_all(&bytes).await.is_ok() {
        let _ = stream.shutdown().await;
    }
}

/// With what HTTP/2 begins (RFC 9113 §3.4).
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Whether a client begins as HTTP/2 does, and the stream as it was; `None` if it says too little for too long.
async fn sniffed<S: Stream>(mut stream: S, patience: Duration) -> Option<(bool, Begun<S>)> {
    let mut first = BytesMut::with_capacity(PREFACE.len());
    let reading = async {
        while first.len() < PREFACE.len() && PREFACE.starts_with(&first) {
            let left = PREFACE.len() - first.len();
            let read = (&mut stream).take(u64::try_from(left).unwrap_or(u64::MAX)).read_buf(&mut first).await;
            if read.ok()? == 0 {
                return None;
            }
        }
        Some(first == PREFACE)
    };
    let is_h2 = timeout(patience, reading).await.ok()??;
    Some((is_h2, Begun { first: first.freeze(), stream }))
}

/// A stream of which something was read already.
#[derive(Debug)]
pub(crate) struct Begun<S> {
    first: Bytes,
    stream: S,
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

static LISTENER_GONE: Rejection =
    Rejection::new(Reason::Custom(StatusCode::SERVICE_UNAVAILABLE, "listener_gone"));

/// What a configuration says about connections; read once for each.
pub(crate) struct Bounds {
    protocols: Protocols,
    pub(crate) patience: Patience,
    header_count: usize,
    pub(crate) header_bytes: usize,
}

impl Bounds {
    /// Where the listener is gone, somebody still has to be told so: any other's bounds will do.
    fn of(generation: &Generation, name: SocketAddr) -> Self {
        let mut listeners = generation.config.listeners.values();
        let first = listeners.next().expect("a checked configuration has a listener");
        let listener = generation.config.listeners.values().find(|listener| listener.listen == name);
        let listener = listener.unwrap_or(first);
        Self {
            protocols: listener.protocols,
            patience: Patience {
                request_headers: listener.request_headers,
                idle: listener.idle,
                min_rate: listener.min_rate,
            },
            header_count: generation.limits.header_count,
            header_bytes: generation.limits.header_bytes,
        }
    }
}
