//! One client connection, from its first byte to its last.

use std::{
    convert::Infallible,
    future::ready,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, UNIX_EPOCH},
};

use bytes::Bytes;
use http::{
    HeaderValue, Request, Response, StatusCode,
    header::{CONNECTION, DATE},
};
use hyper::{body::Incoming, server::conn::http1, service::service_fn, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;
use naka::{
    clock::{Now, WallClock},
    problem,
    reject::{Reason, Rejection},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    sync::watch,
    time::timeout,
};
use tracing::debug;

use crate::{
    address::{Address, Source},
    begun::Begun,
    config::checked::{Name, Protocols},
    entry::Peer,
    generation::{Generation, Served},
    patience::{Patience, Patient, Progress},
    refusals::Refusals,
    serve::{Account, Serving, refuse, serve as serve_request},
    shared::{Ending, Shared},
    socket::Client,
    streams,
    strict::{Limits, Strict, Wrong},
    tls::Acceptor,
    tunnel::Tunnel,
};

mod setup;

use setup::SetUp;

/// What hyper reads ahead, and holds to be written, at most, in bytes. It begins with a few KiB, and reads more at once where more comes: of
/// an upload of 1 MiB a quarter less processor time than with 128 KiB (`benches/compare.py`, w4).
pub(crate) const BUFFER: usize = 512 << 10;
/// How long a connection that has said nothing is waited for once nobody is accepted any more.
const FIRST_WORDS: Duration = Duration::from_millis(500);

/// A connection between a client and us: a socket, or a pipe in a test.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Stream for S {}

/// Serves a socket that was accepted on the listener `name`, as [`serve`] does, once it has said
/// something: a connection that has said nothing costs no protocol machinery.
pub async fn serve_socket(
    shared: &Arc<Shared>,
    worker: usize,
    name: Address,
    stream: Client,
    source: Source,
    mut draining: watch::Receiver<Ending>,
) {
    let patience = shared.in_force.with(|generation| Bounds::of(generation, &name).patience.request_headers);
    let speaking = timeout(patience, stream.speaks());
    let has_spoken = tokio::select! {
        biased;
        spoken = speaking => Some(matches!(spoken, Ok(true))),
        _ = draining.wait_for(|ending| *ending >= Ending::Now) => None,
        () = shared.room(worker).wanted() => Some(false), // It has waited longest.
    };
    let has_spoken = match has_spoken {
        Some(has_spoken) => has_spoken,
        // Whoever has just connected has been told nothing, and may be about to ask.
        None => matches!(timeout(FIRST_WORDS, stream.speaks()).await, Ok(true)),
    };
    if has_spoken {
        let _ = stream.readable().await; // At once: so that what is there is read before anything ends.
        // On the heap, so that whoever has said nothing does not keep room for it.
        Box::pin(serve(shared, worker, name, stream, source, draining)).await;
    }
}

/// Serves a connection that was accepted on the listener `name`: sets it up as that says, and then answers what it asks.
///
/// It ends when the client closes it, breaks the protocol (after a `400` where that can still be
/// said), is silent or deaf for too long, or when `draining` says so.
pub async fn serve<S: Stream>(
    shared: &Arc<Shared>,
    worker: usize,
    name: Address,
    stream: S,
    source: Source,
    draining: watch::Receiver<Ending>,
) {
    let bounds = shared.in_force.with(|generation| Bounds::of(generation, &name));
    let of_peer = Peer::new(source, bounds.scheme());
    let from = From { shared, worker, name, peer: Arc::new(of_peer) };
    if !bounds.is_proxied && bounds.tls.is_none() {
        return serve_plain(&from, &bounds, stream, draining).await;
    }
    // In a box of its own: it is larger, and the others shall not pay for that.
    Box::pin(serve_set_up(from, bounds, stream, draining)).await;
}

async fn serve_set_up<S: Stream>(
    mut from: From<'_>,
    bounds: Bounds,
    stream: S,
    draining: watch::Receiver<Ending>,
) {
    // Whoever is in its handshake does not keep room for what follows.
    let (room, ends) = (from.shared.room(from.worker), draining.clone());
    let set_up = Box::pin(setup::unless_closed(room, ends, setup::set_up(&mut from, &bounds, stream)));
    let Some((set_up, _entered)) = set_up.await else { return };
    match set_up {
        SetUp::Plain(stream) => Box::pin(serve_sniffed(&from, &bounds, stream, draining)).await,
        SetUp::Tls(stream, true) => Box::pin(streams::serve(&from, &bounds, *stream, draining)).await,
        SetUp::Tls(stream, false) if bounds.protocols.h1 => {
            Box::pin(serve_h1(&from, &bounds, *stream, draining)).await;
        }
        SetUp::Tls(_, false) => {
            debug!(peer = %from.peer.source, "a client did not say that it speaks HTTP/2 (ALPN)");
        }
    }
}

async fn serve_plain<S: Stream>(
    from: &From<'_>,
    bounds: &Bounds,
    stream: S,
    draining: watch::Receiver<Ending>,
) {
    if bounds.protocols.h2 {
        // In a box of its own, as above.
        Box::pin(serve_sniffed(from, bounds, Begun::new(stream), draining)).await;
    } else {
        serve_h1(from, bounds, stream, draining).await;
    }
}

/// Serves a connection over which both may be spoken.
async fn serve_sniffed<S: Stream>(
    from: &From<'_>,
    bounds: &Bounds,
    stream: Begun<S>,
    draining: watch::Receiver<Ending>,
) {
    if !bounds.protocols.h2 {
        return serve_h1(from, bounds, stream, draining).await;
    }
    let (room, sniffing) = (from.shared.room(from.worker), sniffed(stream, bounds.patience.request_headers));
    // In a box of its own: what follows shall not keep room for it.
    match Box::pin(setup::unless_closed(room, draining.clone(), sniffing)).await {
        Some((true, stream)) => Box::pin(streams::serve(from, bounds, stream, draining)).await,
        Some((false, stream)) if bounds.protocols.h1 => serve_h1(from, bounds, stream, draining).await,
        Some((false, _)) | None => debug!(peer = %from.peer.source, "a client did not say what it speaks"),
    }
}

/// Where a connection came in, and from whom.
pub(crate) struct From<'a> {
    pub(crate) shared: &'a Arc<Shared>,
    worker: usize,
    name: Address,
    pub(crate) peer: Arc<Peer>,
}

impl From<'_> {
    /// Ready when the connection waits, and has to make room for another one.
    pub(crate) async fn wanted(&self, progress: &Progress) {
        self.shared.room(self.worker).wanted_of(progress).await;
    }

    /// One request. By the generation that is in force when it comes.
    pub(crate) fn request(&self, account: Account, request: Request<Incoming>) -> Serving {
        let Some(served) = served(self.shared, self.worker, &self.name) else {
            let mut response = refuse(&self.shared.metrics, &Refusals::NONE, account, &LISTENER_GONE, None);
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            return Serving::late(ready(response));
        };
        serve_request(served, &self.peer, self.shared, account, request)
    }
}

/// What is served at a listener now.
fn served(shared: &Shared, worker: usize, name: &Address) -> Option<Arc<Served>> {
    shared.in_force.with(|generation| generation.served(worker, name).cloned())
}

async fn serve_h1<S: Stream>(
    from: &From<'_>,
    bounds: &Bounds,
    stream: S,
    mut draining: watch::Receiver<Ending>,
) {
    let progress = Progress::new(bounds.patience);
    let turn = from.shared.farewell().turn();
    let begun = Mutex::new(None);
    let service = service_fn(|mut request: Request<Incoming>| {
        request.extensions_mut().remove::<OnUpgrade>(); // It is the connection itself that is gone on with.
        let answer = from.request(Account::open(&progress), request);
        let (begun, progress) = (&begun, &progress);
        async move {
            let (mut response, tunnel) = Tunnel::of(answer.await);
            if tunnel.is_some() {
                progress.switch();
                *begun.lock().unwrap_or_else(PoisonError::into_inner) = tunnel;
            } else if from.shared.farewell().is_due(turn) {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(response)
        }
    });
    let limits = Limits { head_bytes: bounds.header_bytes, fields: bounds.header_count };
    let io = TokioIo::new(Strict::new(Patient::new(stream, &progress), limits, Arc::clone(&progress)));
    let mut connection = http1::Builder::new()
        .half_close(true) // That a client has gone is for `Strict` to notice.
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
            _ = draining.wait_for(|ending| *ending >= Ending::Now), if !is_told => {
                is_told = true;
                Pin::new(&mut connection).graceful_shutdown();
            }
        }
    };
    let http1::Parts { io, read_buf, .. } = connection.into_parts();
    let strict = io.into_inner();
    if let Some(tunnel) = begun.into_inner().unwrap_or_else(PoisonError::into_inner) {
        // hyper has nothing of what comes behind the request.
        let is_clean = result.is_ok() && read_buf.is_empty();
        if let Some((stream, early)) = strict.into_tunnel().filter(|_| is_clean) {
            let metrics = &from.shared.metrics;
            // In a box of its own: few connections come here, and the others shall not pay for that.
            Box::pin(tunnel.run(stream.into_inner(), early, draining, metrics)).await;
        }
        return;
    }
    if let Some(wrong) = strict.to_say() {
        debug!(peer = %from.peer.source, why = wrong.why, "a client does not speak HTTP/1.1");
        progress.read_no_more();
        say_what_is_wrong(from, &wrong, strict.into_inner()).await;
        return;
    }
    if let Err(error) = result {
        debug!(peer = %from.peer.source, %error, "a client connection ended in an error");
    }
}

/// Answers what was no request, and closes.
async fn say_what_is_wrong<S: Stream>(from: &From<'_>, wrong: &Wrong, mut stream: Patient<S>) {
    let rejection = Rejection::new(wrong.reason).detail(wrong.why);
    from.shared.metrics.rejected("", &rejection);
    let mut response: Response<Bytes> = problem::respond(&rejection);
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    if let Some(served) = served(from.shared, from.worker, &from.name) {
        served.entry.refusals.say_why(headers, wrong.reason);
    }
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
async fn sniffed<S: Stream>(mut stream: Begun<S>, patience: Duration) -> Option<(bool, Begun<S>)> {
    let is_decided = |read: &[u8]| !PREFACE.starts_with(&read[..read.len().min(PREFACE.len())]);
    let filled = timeout(patience, stream.fill(PREFACE.len(), is_decided)).await.ok()?.ok()?;
    let is_h2 = stream.first().starts_with(PREFACE);
    filled.then_some((is_h2, stream))
}

static LISTENER_GONE: Rejection =
    Rejection::new(Reason::Custom(StatusCode::SERVICE_UNAVAILABLE, "listener_gone"));

/// What a configuration says about connections; read once for each.
pub(crate) struct Bounds {
    protocols: Protocols,
    /// The listener.
    listener: Name,
    tls: Option<Arc<Acceptor>>,
    /// Whether it begins with a header of the PROXY protocol.
    is_proxied: bool,
    /// How long the set-up may take.
    handshake: Duration,
    pub(crate) patience: Patience,
    header_count: usize,
    pub(crate) header_bytes: usize,
}

impl Bounds {
    fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }

    /// Where the listener is gone, somebody still has to be told so: any other's bounds will do.
    fn of(generation: &Generation, name: &Address) -> Self {
        let first = || generation.config.listeners.iter().next();
        let (listener_name, listener) =
            generation.listener(name).or_else(first).expect("a checked configuration has a listener");
        Self {
            listener: Name::clone(listener_name),
            protocols: listener.protocols,
            tls: generation.tls.get(&listener.listen).cloned(),
            is_proxied: listener.is_proxied,
            handshake: listener.handshake,
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
