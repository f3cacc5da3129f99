//! HTTP/2 to upstreams: what they share, what they refuse, and what ends with them.

use std::{
    collections::BTreeMap,
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use h2::{Reason, RecvStream, server::SendResponse};
use http::{HeaderMap, Method, Request, Response, StatusCode, Version};
use http_body::Frame;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use naka_testkit::upstream::{Step, Upstream, ok};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    sync::{Barrier, Notify, mpsc},
    task::JoinSet,
    time::{Instant, sleep},
};

use crate::{
    inside::{Client, Inside, get},
    process::Process,
};

mod bodies;
mod ends;
mod refused;
mod sharing;
mod strange;

fn file(app: &str) -> String {
    format!(
        "
gateway: {{admin: none}}
listeners: {{public: {{listen: ':1', protocols: [h1, h2c]}}}}
upstreams:
  app: {{endpoints: ['app:1'], protocol: h2, {app}}}
  other: {{endpoints: ['other:1']}}
routes: {{all: {{match: {{prefix: /}}, timeouts: {{total: never}}, upstream: app}}}}
"
    )
}

fn gateway(app: &str) -> Arc<Inside> {
    Arc::new(Inside::new(&file(app)))
}

type Connection = h2::server::Connection<DuplexStream, Bytes>;
type Exchange = (Request<RecvStream>, SendResponse<Bytes>);

/// An endpoint that does this with each of its connections, counted from 1; how many there were.
fn endpoint<F>(
    gateway: &Inside,
    settings: impl Fn(&mut h2::server::Builder) + Send + 'static,
    on_connection: impl Fn(usize, Connection) -> F + Send + 'static,
) -> Arc<AtomicUsize>
where
    F: Future<Output = ()> + Send + 'static,
{
    let (count, mut listener) = (Arc::new(AtomicUsize::new(0)), gateway.network.listen("app:1"));
    let connections = Arc::clone(&count);
    tokio::spawn(async move {
        while let Some(stream) = listener.accept().await {
            let number = connections.fetch_add(1, SeqCst) + 1;
            let mut builder = h2::server::Builder::new();
            settings(&mut builder);
            let begun = builder.handshake(stream);
            let Ok(connection) = begun.await else { continue };
            tokio::spawn(on_connection(number, connection));
        }
    });
    count
}

/// The same, with each request.
fn answering<F>(
    gateway: &Inside,
    settings: impl Fn(&mut h2::server::Builder) + Send + 'static,
    answer: impl Fn(usize, Exchange) -> F + Send + Sync + 'static,
) -> Arc<AtomicUsize>
where
    F: Future<Output = ()> + Send + 'static,
{
    let answer = Arc::new(answer);
    endpoint(gateway, settings, move |number, mut connection| {
        let answer = Arc::clone(&answer);
        async move {
            while let Some(Ok(exchange)) = connection.accept().await {
                tokio::spawn(answer(number, exchange));
            }
        }
    })
}

fn plain(_: &mut h2::server::Builder) {}

/// An endpoint that answers after a while.
pub(crate) fn slow(gateway: &Inside, wait: Duration) {
    answering(gateway, plain, move |_, (_, mut respond)| async move {
        sleep(wait).await;
        say(&mut respond, "fine");
    });
}

/// Answers with this, whole.
fn say(respond: &mut SendResponse<Bytes>, body: impl Into<Bytes>) {
    let Ok(mut stream) = respond.send_response(Response::new(()), false) else { return };
    let _ = stream.send_data(body.into(), true); // It may be gone already.
}

/// All of a body.
async fn read(mut body: RecvStream) -> Option<(Bytes, Option<HeaderMap>)> {
    let mut whole = Vec::new();
    while let Some(data) = body.data().await {
        let data = data.ok()?;
        body.flow_control().release_capacity(data.len()).ok()?;
        whole.extend_from_slice(&data);
    }
    Some((whole.into(), body.trailers().await.ok()?))
}

type AnyBody = http_body_util::combinators::BoxBody<Bytes, std::io::Error>;

async fn h2c(gateway: &Inside) -> SendRequest<AnyBody> {
    let client = Builder::new(TokioExecutor::new());
    let (sender, connection) = client.handshake(TokioIo::new(gateway.connect())).await.unwrap();
    tokio::spawn(connection);
    sender
}

fn full(body: &'static str) -> AnyBody {
    Full::from(body).map_err(|never| match never {}).boxed()
}

/// A body that is made while it is sent.
struct Frames(mpsc::UnboundedReceiver<Frame<Bytes>>);

fn frames() -> (mpsc::UnboundedSender<Frame<Bytes>>, AnyBody) {
    let (sender, frames) = mpsc::unbounded_channel();
    (sender, Frames(frames).boxed())
}

impl http_body::Body for Frames {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        self.0.poll_recv(cx).map(|frame| frame.map(Ok))
    }
}

fn post(target: &str, body: &'static str) -> Request<Full<Bytes>> {
    Request::post(target).header("host", "api.example").body(Full::from(body)).unwrap()
}

fn reason<B>(response: &Response<B>) -> (u16, &str) {
    let reason = response.headers().get("naka-reason").map(|it| it.to_str().unwrap());
    (response.status().as_u16(), reason.unwrap_or_default())
}

/// So many GET requests at once; how many of them had each status and reason.
async fn at_once(gateway: &Arc<Inside>, count: usize) -> BTreeMap<(u16, String), usize> {
    let mut tasks = JoinSet::new();
    for _ in 0..count {
        let gateway = Arc::clone(gateway);
        tasks.spawn(async move { gateway.send(get("/")).await });
    }
    let mut statuses = BTreeMap::new();
    while let Some(response) = tasks.join_next().await {
        let response = response.unwrap();
        let (status, reason) = reason(&response);
        *statuses.entry((status, reason.to_owned())).or_default() += 1;
    }
    statuses
}

fn fine(count: usize) -> BTreeMap<(u16, String), usize> {
    BTreeMap::from([((200, String::new()), count)])
}

// ---- Frames by hand, for what no library would do

/// An endpoint's side of a connection, frame by frame.
struct Raw(DuplexStream);

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

impl Raw {
    /// After the preface, and with settings sent.
    async fn begin(stream: DuplexStream) -> Self {
        Self::begin_with(stream, &[]).await
    }

    /// The same, with these settings.
    async fn begin_with(mut stream: DuplexStream, settings: &[u8]) -> Self {
        let mut preface = [0; 24];
        stream.read_exact(&mut preface).await.unwrap();
        let mut raw = Self(stream);
        raw.send(SETTINGS, 0, 0, settings).await;
        raw
    }

    async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        let _ = self.0.write_all(&frame).await; // It may be closed already.
    }

    /// Kind, flags and stream of the next frame.
    async fn next(&mut self) -> Option<(u8, u8, u32)> {
        let mut head = [0; 9];
        self.0.read_exact(&mut head).await.ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        self.0.read_exact(&mut payload).await.ok()?;
        Some((head[3], head[4], u32::from_be_bytes([head[5], head[6], head[7], head[8]])))
    }

    /// Until so many requests have begun; their streams.
    async fn requests(&mut self, count: usize) -> Vec<u32> {
        let mut streams = Vec::new();
        while streams.len() < count {
            let Some((kind, _, stream)) = self.next().await else { break };
            if kind == HEADERS {
                streams.push(stream);
            }
        }
        streams
    }

    async fn answer(&mut self, stream: u32, body: &[u8]) {
        self.send(HEADERS, END_HEADERS, stream, &[0x88]).await; // :status 200
        self.send(DATA, END_STREAM, stream, body).await;
    }

    /// Reads on until it is closed; how many pings were in that.
    async fn rest(mut self) -> usize {
        let mut pings = 0;
        while let Some((kind, flags, _)) = self.next().await {
            pings += usize::from(kind == PING && flags == 0);
        }
        pings
    }
}

/// What each connection is, counted from 1, as bare bytes.
fn raw<F>(
    gateway: &Inside,
    on_connection: impl Fn(usize, DuplexStream) -> F + Send + 'static,
) -> Arc<AtomicUsize>
where
    F: Future<Output = ()> + Send + 'static,
{
    let (count, mut listener) = (Arc::new(AtomicUsize::new(0)), gateway.network.listen("app:1"));
    let connections = Arc::clone(&count);
    tokio::spawn(async move {
        while let Some(stream) = listener.accept().await {
            tokio::spawn(on_connection(connections.fetch_add(1, SeqCst) + 1, stream));
        }
    });
    count
}
