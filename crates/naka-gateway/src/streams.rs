//! A client connection that speaks HTTP/2: many requests at a time.
//!
//! hyper runs each request in a task of its own and asks a response for more of its body only when the client takes
//! it. So a client that opens a stream and takes nothing would hold what is behind it for ever: a connection to an
//! endpoint, a place in a bulkhead. Each body is therefore watched: what was not asked for more for
//! [`Patience::idle`](crate::patience::Patience) is let go of, and its stream ends in an error when the client takes something again.
//!
//! # Limits
//! [`STREAMS`] at a time on one connection; [`HELD`] of a response for each; header lists as long as request heads; a
//! connection without requests ends after `timeouts.idle`, one whose other end is gone after two pings without an
//! answer. Told that it ends (GOAWAY), to make room or in a drain, it ends when it has been without a request for two seconds. Floods of resets, of settings, of empty frames end it, too: `frames`.

use std::{
    convert::Infallible,
    future::poll_fn,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{
    Request, Response, StatusCode,
    header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, UPGRADE},
};
use http_body::{Body, Frame, SizeHint};
use hyper::{body::Incoming, server::conn::http2, service::service_fn, upgrade::OnUpgrade};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use naka::{
    BoxError, problem,
    reject::{Reason, Rejection},
};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, MissedTickBehavior, interval, sleep, sleep_until},
};
use tracing::debug;

use crate::{
    connection::{Bounds, From, PREFACE, Stream},
    farewell::Turn,
    frames::Framed,
    patience::{Patient, Progress},
    serve::{Account, ServerBody},
    shared::{Ending, Shared},
    tunnel::Tunnel,
    upstream::FRAME,
};

/// Requests at a time on one connection.
pub const STREAMS: u32 = 128;
/// Bytes of a response that wait to be sent, for each of them.
pub const SEND_BUFFER: usize = 64 << 10;
/// Bytes of a response that are held for each of them at most: those, the frame that they end in, and the one behind it, which hyper
/// has asked for by then.
pub const HELD: usize = SEND_BUFFER + 2 * FRAME;
/// How often it is asked whether the other end is still there, and how long that has for an answer.
const PING: Duration = Duration::from_secs(20);

/// How long a client that is told that its connection ends may have another request on its way. h2 waits until the client has
/// acknowledged that, and there are clients that never do.
const LAST_WORD: Duration = Duration::from_secs(2);
/// After how long it has heard of it, whoever it is; what it asks then may be the last each time.
const HEARD: Duration = Duration::from_secs(10);
/// How long an answer is on its way then that nobody is at any more.
const MOMENT: Duration = Duration::from_millis(100);

/// Streams that are reset before anybody has looked at them, and those that we reset for what is wrong with them: h2's own bounds, said
/// aloud. What `frames` counts ends a connection before.
const UNSEEN_RESETS: usize = 20;
const RESETS_OF_OURS: usize = 1024;

pub(crate) async fn serve<S: Stream>(
    from: &From<'_>,
    bounds: &Bounds,
    stream: S,
    draining: watch::Receiver<Ending>,
) {
    let progress = Progress::multiplexed(bounds.patience);
    let bodies = Arc::new(Bodies { since: Instant::now(), all: Mutex::default() });
    let tunnels = draining.clone();
    let (turn, asked) = (from.shared.farewell().turn(), Notify::new());
    let service = service_fn(|mut request: Request<Incoming>| {
        let switching = request.extensions_mut().remove::<OnUpgrade>();
        if from.shared.farewell().is_due(turn) {
            asked.notify_one();
        }
        let answer = from.request(Account::open(&progress), request);
        let (bodies, shared, tunnels) = (Arc::clone(&bodies), Arc::clone(from.shared), tunnels.clone());
        async move {
            let (response, tunnel) = Tunnel::of(answer.await);
            let (tunnel, switching) = match (tunnel, switching) {
                (Some(tunnel), Some(switching)) => (tunnel, switching),
                // To a CONNECT it would say that there is a tunnel.
                (None, Some(_)) if response.status().is_success() => {
                    let not_switched = not_switched();
                    shared.metrics.rejected("", &not_switched);
                    return Ok::<_, Infallible>(watched(problem::respond(&not_switched), &bodies));
                }
                _ => return Ok(watched(response, &bodies)),
            };
            // As many as there may be streams. It ends with its stream, if not before.
            tokio::spawn(async move {
                if let Ok(client) = switching.await {
                    tunnel.run(TokioIo::new(client), Bytes::new(), tunnels, &shared.metrics).await;
                }
            });
            Ok(switched(response).map(|_| Watched::Empty))
        }
    });
    let header_bytes = u32::try_from(bounds.header_bytes).unwrap_or(u32::MAX);
    let head = bounds.patience.request_headers;
    let stream = Patient::new(stream, &progress);
    let framed = Framed::new(stream, PREFACE.len(), head, &progress, &from.shared.metrics);
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .enable_connect_protocol()
        .max_header_list_size(header_bytes)
        .max_send_buf_size(SEND_BUFFER)
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING)
        .max_pending_accept_reset_streams(UNSEEN_RESETS)
        .max_local_error_reset_streams(RESETS_OF_OURS)
        .serve_connection(TokioIo::new(framed), service);
    let mut connection = pin!(connection);
    let mut silence = pin!(progress.silence());
    let mut wanted = pin!(from.wanted(&progress));
    let mut told = pin!(told(from.shared, turn, &asked, draining));
    let mut rounds = interval((bounds.patience.idle / 4).max(Duration::from_millis(1)));
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let is_told = AtomicBool::new(false);
    let mut last_word = pin!(has_said_its_last_word(&is_told, &progress));
    let result = loop {
        tokio::select! {
            biased;
            result = connection.as_mut() => break result,
            () = silence.as_mut() => return, // Nobody is waiting for an answer.
            // What its windows have not taken yet of a response is still sent.
            () = wanted.as_mut(), if !is_told.load(Relaxed) => {
                is_told.store(true, Relaxed);
                connection.as_mut().graceful_shutdown();
            }
            _ = rounds.tick() => bodies.let_go(bounds.patience.idle),
            () = told.as_mut(), if !is_told.load(Relaxed) => {
                is_told.store(true, Relaxed);
                connection.as_mut().graceful_shutdown();
            }
            () = last_word.as_mut() => return,
        }
    };
    if let Err(error) = result {
        debug!(peer = %from.peer.source, %error, "a client connection ended in an error");
    }
}

/// Ready when the client shall hear that the connection ends: when its turn comes, also if it is idle. Who has connected
/// since others are told may ask once: it could come back for ever.
async fn told(shared: &Shared, turn: Turn, asked: &Notify, mut draining: watch::Receiver<Ending>) {
    let has_come_late = *draining.borrow() != Ending::Open;
    let _ = draining.wait_for(|ending| *ending != Ending::Open).await;
    let its_turn = async {
        if let Some(at) = shared.farewell().at(turn) {
            sleep_until(at).await;
        }
        if has_come_late {
            asked.notified().await;
        }
    };
    tokio::select! {
        () = its_turn => {}
        _ = draining.wait_for(|ending| *ending >= Ending::Now) => {}
    }
}

/// Ready when a client that was told that its connection ends has been silent for [its time](LAST_WORD): what it is answered last is still
/// on its way to it when nothing is under way any more. Polled whenever the connection is, behind it.
async fn has_said_its_last_word(is_told: &AtomicBool, progress: &Progress) {
    poll_fn(|_| if is_told.load(Relaxed) { Poll::Ready(()) } else { Poll::Pending }).await;
    let told_at = Instant::now();
    loop {
        poll_fn(|_| if progress.is_waiting() { Poll::Ready(()) } else { Poll::Pending }).await;
        let ended = progress.ended();
        sleep(if told_at.elapsed() < HEARD { LAST_WORD } else { MOMENT }).await;
        if progress.is_waiting() && progress.ended() == ended {
            return;
        }
    }
}

/// The bodies on their way over one connection: no more than there are streams, and those that have just ended.
struct Bodies {
    since: Instant,
    all: Mutex<Vec<Weak<Held>>>,
}

/// A body, until it has ended or is let go of.
struct Held {
    body: Mutex<Option<Pin<Box<ServerBody>>>>,
    asked_ns: AtomicU64,
}

impl Bodies {
    fn now_ns(&self) -> u64 {
        u64::try_from(self.since.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn hold(&self, body: ServerBody) -> Arc<Held> {
        let held = Held { body: Mutex::new(Some(Box::pin(body))), asked_ns: AtomicU64::new(self.now_ns()) };
        let held = Arc::new(held);
        let mut all = self.lock();
        if all.len() == all.capacity() {
            all.retain(|held| held.strong_count() > 0);
        }
        all.push(Arc::downgrade(&held));
        held
    }

    /// Lets go of what nobody has asked for more of for so long.
    fn let_go(&self, idle: Duration) {
        let idle_ns = u64::try_from(idle.as_nanos()).unwrap_or(u64::MAX);
        let now_ns = self.now_ns();
        let is_late = |held: &Held| now_ns.saturating_sub(held.asked_ns.load(Relaxed)) >= idle_ns;
        let late =
            self.lock().iter().filter_map(Weak::upgrade).filter(|held| is_late(held)).collect::<Vec<_>>();
        for held in late {
            drop(held.take());
        }
    }

    /// A panic cannot leave the list half written.
    fn lock(&self) -> MutexGuard<'_, Vec<Weak<Held>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    fn take(&self) -> Option<Pin<Box<ServerBody>>> {
        self.lock().take()
    }

    fn lock(&self) -> MutexGuard<'_, Option<Pin<Box<ServerBody>>>> {
        self.body.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A 101 as HTTP/2 says it, which has none (RFC 8441 §4, RFC 9113 §8.6).
fn switched<B>(mut response: Response<B>) -> Response<B> {
    *response.status_mut() = StatusCode::OK;
    for name in [CONNECTION, UPGRADE, SEC_WEBSOCKET_ACCEPT] {
        response.headers_mut().remove(name);
    }
    response
}

fn not_switched() -> Rejection {
    Rejection::new(Reason::Custom(StatusCode::BAD_GATEWAY, "not_switched")).detail(
        "It was answered, but not by switching to the protocol that was asked for: HTTP/2 cannot say that (RFC 8441, section 4).",
    )
}

/// A response whose body is watched, if there is any.
fn watched(response: Response<ServerBody>, bodies: &Arc<Bodies>) -> Response<Watched> {
    response.map(|body| {
        if body.is_end_stream() {
            return Watched::Empty; // Its account is closed here: there is nothing to wait for.
        }
        Watched::Held { held: bodies.hold(body), bodies: Arc::clone(bodies) }
    })
}

/// A body of a response over HTTP/2.
enum Watched {
    Empty,
    Held { held: Arc<Held>, bodies: Arc<Bodies> },
}

impl Body for Watched {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Self::Held { held, bodies } = self.get_mut() else { return Poll::Ready(None) };
        let mut body = held.lock();
        let Some(inner) = body.as_mut() else { return Poll::Ready(Some(Err(NobodyTookIt.into()))) };
        let frame = inner.as_mut().poll_frame(cx);
        // While it is the endpoint that is waited for, time does not count: that has timeouts of its own.
        held.asked_ns.store(if frame.is_pending() { u64::MAX } else { bodies.now_ns() }, Relaxed);
        frame
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Held { held, .. } => held.lock().as_ref().is_some_and(Body::is_end_stream),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Held { held, .. } => held.lock().as_ref().map_or_else(SizeHint::new, Body::size_hint),
        }
    }
}

/// Nothing of a response was taken for too long.
#[derive(Clone, Copy, Debug)]
struct NobodyTookIt;

impl std::fmt::Display for NobodyTookIt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("nothing of the response was taken for too long (timeouts.idle)")
    }
}

impl std::error::Error for NobodyTookIt {}

/// Hyper spawns what serves a stream.
const _: fn() = || {
    fn is_send<T: Send>() {}
    is_send::<Watched>();
};
