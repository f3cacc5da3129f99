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
    async fn begin(mut stream: DuplexStream) -> Self {
        let mut preface = [0; 24];
        stream.read_exact(&mut preface).await.unwrap();
        let mut raw = Self(stream);
        raw.send(SETTINGS, 0, 0, &[]).await;
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

// ---- Sharing connections

#[tokio::test(start_paused = true)]
async fn r2_3_many_requests_share_one_connection_to_the_endpoint_whatever_their_clients_speak() {
    let gateway = gateway("timeouts: {response_headers: 5s}");
    let all_are_there = Arc::new(Barrier::new(60));
    let connections = answering(&gateway, plain, move |_, (request, mut respond)| {
        let all_are_there = Arc::clone(&all_are_there);
        async move {
            all_are_there.wait().await;
            say(&mut respond, request.uri().path().to_owned());
        }
    });
    let mut tasks = JoinSet::new();
    let sender = h2c(&gateway).await;
    for number in 0..60 {
        let (gateway, mut sender) = (Arc::clone(&gateway), sender.clone());
        tasks.spawn(async move {
            let target = format!("/{number}");
            if number % 2 == 0 {
                assert_eq!(gateway.send(get(&target)).await.body(), &target);
            } else {
                let request = Request::get(format!("http://api.example{target}")).body(full("")).unwrap();
                let response = sender.send_request(request).await.unwrap();
                assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), target);
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    assert_eq!(connections.load(SeqCst), 1);
    let (open, _) = gateway.generation().state.places.get("app").unwrap().counts("app:1");
    assert_eq!((open, gateway.generation().state.pools[0].get("app").unwrap().idle("app:1")), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn r2_3_a_further_connection_is_made_when_the_streams_of_those_that_there_are_are_taken() {
    for (settings, streams) in [(10, 100), (100, 10)] {
        let gateway = gateway(&format!("connections: {{streams: {streams}}}, keep_alive: {{max_idle: 1}}"));
        let (all_are_there, most) = (Arc::new(Barrier::new(25)), Arc::new(AtomicUsize::new(0)));
        let (under_way, peak) = (Arc::new(Mutex::new(BTreeMap::<usize, usize>::new())), Arc::clone(&most));
        let connections = answering(
            &gateway,
            move |builder| _ = builder.max_concurrent_streams(settings),
            move |number, (_, mut respond)| {
                let (all_are_there, peak, under_way) =
                    (Arc::clone(&all_are_there), Arc::clone(&peak), Arc::clone(&under_way));
                async move {
                    {
                        let mut under_way = under_way.lock().unwrap();
                        let count = under_way.entry(number).or_default();
                        *count += 1;
                        peak.fetch_max(*count, SeqCst);
                    }
                    all_are_there.wait().await;
                    say(&mut respond, "fine");
                }
            },
        );
        assert_eq!(at_once(&gateway, 25).await, fine(25));
        assert_eq!((connections.load(SeqCst), most.load(SeqCst)), (3, 10));
        sleep(Duration::from_millis(10)).await;
        let places = gateway.generation().state.places.get("app").unwrap().counts("app:1");
        assert_eq!(places, (1, 0), "of those that nobody uses one is kept");
    }
}

#[tokio::test(start_paused = true)]
async fn r14_7_so_many_connections_of_so_many_streams_and_so_many_wait() {
    let gateway = gateway(
        "connections: {max: 2, pending: 3, streams: 2}, timeouts: {connect: 2s, response_headers: 1m}",
    );
    let connections = answering(&gateway, plain, |_, (_, mut respond)| async move {
        sleep(Duration::from_secs(1)).await;
        say(&mut respond, "fine");
    });
    // Four are at work and three wait, who have their turn within the time to connect.
    let full = ((503, "connections_full".to_owned()), 3);
    assert_eq!(at_once(&gateway, 10).await, fine(7).into_iter().chain([full]).collect());
    assert_eq!(connections.load(SeqCst), 2);
    // Whoever waits and goes takes nothing along.
    for _ in 0..20 {
        let waits = Arc::clone(&gateway);
        let task = tokio::spawn(async move { at_once(&waits, 7).await });
        sleep(Duration::from_millis(500)).await;
        task.abort();
        sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(at_once(&gateway, 7).await, fine(7));
    assert_eq!(connections.load(SeqCst), 2, "what was given up did not end them");
}

#[tokio::test(start_paused = true)]
async fn r14_7_a_connection_that_nobody_uses_makes_room_for_another_upstream() {
    let text = file("").replace("admin: none", "admin: none, limits: {upstream_connections: 1}");
    let gateway = Inside::new(
        &text.replace("routes: {", "routes: {other: {match: {prefix: /other}, upstream: other}, "),
    );
    let connections =
        answering(&gateway, plain, |_, (_, mut respond)| async move { say(&mut respond, "h2") });
    let other = Upstream::inside(&gateway.network, "other:1", |_| ok("h1"));
    for _ in 0..3 {
        assert_eq!(gateway.send(get("/")).await.body(), "h2");
        assert_eq!(gateway.send(get("/other")).await.body(), "h1");
    }
    assert_eq!((connections.load(SeqCst), other.connections()), (3, 3));
    assert_eq!(gateway.generation().state.all_places.open(), 1);
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_connection_that_is_made_in_vain_hears_of_that_at_once() {
    let gateway = gateway("");
    let connections = raw(&gateway, |_, stream| async move { drop(stream) });
    let failed = BTreeMap::from([((502, "connect_failed".to_owned()), 20)]);
    assert_eq!(at_once(&gateway, 20).await, failed);
    assert_eq!(connections.load(SeqCst), 1, "one attempt was for all");
    // A client that goes does not take the attempt along with it.
    let gateway = self::gateway("timeouts: {connect: 5s}");
    let connections = raw(&gateway, |_, stream| async move {
        sleep(Duration::from_secs(1)).await;
        let mut raw = Raw::begin(stream).await;
        for stream in raw.requests(1).await {
            raw.answer(stream, b"fine").await;
        }
        raw.rest().await;
    });
    let first = tokio::spawn({
        let gateway = Arc::clone(&gateway);
        async move { gateway.send(get("/")).await }
    });
    sleep(Duration::from_millis(500)).await;
    let second = tokio::spawn({
        let gateway = Arc::clone(&gateway);
        async move { gateway.send(get("/")).await }
    });
    sleep(Duration::from_millis(100)).await;
    first.abort();
    assert_eq!(second.await.unwrap().body(), "fine");
    assert_eq!(connections.load(SeqCst), 1);
}

// ---- What is sent and what comes

#[tokio::test(start_paused = true)]
async fn r2_3_the_endpoint_sees_a_request_as_http_2_has_it() {
    let gateway = gateway("");
    let (seen, mut all) = mpsc::unbounded_channel();
    answering(&gateway, plain, move |_, (request, mut respond)| {
        let seen = seen.clone();
        async move {
            let (head, body) = request.into_parts();
            seen.send((head, read(body).await.unwrap().0)).unwrap();
            say(&mut respond, "fine");
        }
    });
    let request = Request::post("/a%20b?q=1")
        .header("host", "API.example:80")
        .header("connection", "keep-alive, x-hop")
        .header("x-hop", "1")
        .header("te", "trailers, deflate")
        .header("upgrade", "h2c")
        .header("cookie", "a=1")
        .body(Full::from("body"))
        .unwrap();
    assert_eq!(gateway.send(request).await.status(), 200);
    let (head, body) = all.recv().await.unwrap();
    assert_eq!((&head.method, head.version, &*body), (&Method::POST, Version::HTTP_2, &b"body"[..]));
    assert_eq!(head.uri, "http://api.example:80/a%20b?q=1");
    let mut names = head.headers.keys().map(ToString::to_string).collect::<Vec<_>>();
    names.sort();
    assert_eq!(
        names,
        [
            "content-length",
            "cookie",
            "via",
            "x-forwarded-for",
            "x-forwarded-host",
            "x-forwarded-proto",
            "x-request-id"
        ]
    );
    assert_eq!(
        (&head.headers["content-length"], &head.headers["cookie"]),
        (&"4".parse().unwrap(), &"a=1".parse().unwrap())
    );
    // In chunks, and with `TE: trailers`, which says that the client takes them.
    let (chunks, body) = frames();
    chunks.send(Frame::data(Bytes::from("chunk"))).unwrap();
    drop(chunks);
    let request = Request::put("http://api.example/").header("te", "trailers").body(body).unwrap();
    assert_eq!(h2c(&gateway).await.send_request(request).await.unwrap().status(), 200);
    let (head, body) = all.recv().await.unwrap();
    assert_eq!(
        (head.headers.get("content-length"), &head.headers["te"]),
        (None, &"trailers".parse().unwrap())
    );
    assert_eq!(body, "chunk");
    let explained = gateway.explain("GET http://api.example/", &[]).to_string();
    assert!(explained.contains("sent to upstream app, app:1, over HTTP/2"), "{explained}");
}

#[tokio::test(start_paused = true)]
async fn r2_3_trailers_go_through_in_both_directions_and_only_what_was_announced_goes_on() {
    let gateway = gateway("");
    let (seen, mut all) = mpsc::unbounded_channel();
    answering(&gateway, plain, move |_, (request, mut respond)| {
        let seen = seen.clone();
        async move {
            seen.send(read(request.into_body()).await.unwrap()).unwrap();
            let head = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
            let mut stream = respond.send_response(head, false).unwrap();
            stream.send_data("body".into(), false).unwrap();
            stream
                .send_trailers(HeaderMap::from_iter([("grpc-status".parse().unwrap(), "5".parse().unwrap())]))
                .unwrap();
        }
    });
    let (body, frames) = frames();
    body.send(Frame::data("question".into())).unwrap();
    let mut trailers = HeaderMap::new();
    for name in ["x-checksum", "x-other", "x-forwarded-for", "content-length"] {
        trailers.append(name, "1".parse().unwrap());
    }
    body.send(Frame::trailers(trailers)).unwrap();
    let request = Request::post("http://api.example/shop.Cart/Add")
        .header("te", "trailers")
        .header("trailer", "x-checksum, content-length")
        .body(frames)
        .unwrap();
    let response =
        h2c(&gateway).await.send_request(request).await.unwrap().into_body().collect().await.unwrap();
    assert_eq!(response.trailers().unwrap()["grpc-status"], "5");
    assert_eq!(response.to_bytes(), "body");
    let (body, trailers) = all.recv().await.unwrap();
    let trailers = trailers.unwrap();
    assert_eq!(
        (&*body, trailers.len(), &trailers["x-checksum"]),
        (&b"question"[..], 1, &"1".parse().unwrap())
    );
}

#[tokio::test(start_paused = true)]
async fn r3_2_a_grpc_status_in_the_trailers_opens_the_breaker() {
    for is_in_head in [false, true] {
        let text = file("").replace("upstream: app}}", "circuit_breaker: {consecutive: 3}, upstream: app}}");
        let gateway = Inside::new(&text);
        answering(&gateway, plain, move |_, (_, mut respond)| async move {
            let mut head = Response::builder().header("content-type", "application/grpc");
            if is_in_head {
                head = head.header("grpc-status", "14");
            }
            let mut stream = respond.send_response(head.body(()).unwrap(), is_in_head).unwrap();
            let unavailable = HeaderMap::from_iter([("grpc-status".parse().unwrap(), "14".parse().unwrap())]);
            if !is_in_head {
                stream.send_trailers(unavailable).unwrap();
            }
        });
        let mut sender = h2c(&gateway).await;
        for _ in 0..3 {
            let request = Request::post("http://api.example/").body(full("")).unwrap();
            let response = sender.send_request(request).await.unwrap();
            assert_eq!(response.status(), 200);
            response.into_body().collect().await.unwrap();
        }
        assert_eq!(reason(&gateway.send(get("/")).await), (503, "circuit_open"), "{is_in_head}");
    }
}

#[tokio::test(start_paused = true)]
async fn r2_3_long_bodies_go_each_way_by_the_windows_of_both_ends() {
    let gateway = gateway("");
    let connections = answering(&gateway, plain, |_, (request, mut respond)| async move {
        let mut body = request.into_body();
        let mut stream = respond.send_response(Response::new(()), false).unwrap();
        while let Some(data) = body.data().await {
            let mut data = data.unwrap();
            while !data.is_empty() {
                stream.reserve_capacity(data.len());
                let room = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await.unwrap().unwrap();
                let piece = data.split_to(room.min(data.len()));
                body.flow_control().release_capacity(piece.len()).unwrap();
                stream.send_data(piece, false).unwrap();
            }
        }
        stream.send_data(Bytes::new(), true).unwrap();
    });
    let bytes = (0..3_u32 << 20).map(|number| u8::try_from(number % 251).unwrap()).collect::<Bytes>();
    let mut tasks = JoinSet::new();
    for _ in 0..4 {
        let (gateway, bytes) = (Arc::clone(&gateway), bytes.clone());
        tasks.spawn(async move {
            let request = Request::post("/").header("host", "api.example").body(Full::new(bytes.clone()));
            assert!(gateway.send(request.unwrap()).await.body() == &bytes);
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    assert_eq!(connections.load(SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_reads_nothing_keeps_none_of_those_waiting_who_share_its_connection() {
    let gateway = gateway("");
    let connections = answering(&gateway, plain, |_, (request, mut respond)| async move {
        if request.uri().path() == "/large" {
            let mut stream = respond.send_response(Response::new(()), false).unwrap();
            stream.send_data(vec![0; 8 << 20].into(), true).unwrap();
            std::future::poll_fn(|cx| stream.poll_reset(cx)).await.unwrap();
        } else {
            say(&mut respond, vec![0; 100 << 10]);
        }
    });
    let mut held = Vec::new();
    for _ in 0..20 {
        let mut client = gateway.client().await;
        held.push((client.head(get("/large")).await, client));
    }
    sleep(Duration::from_secs(1)).await;
    for _ in 0..20 {
        assert_eq!(gateway.send(get("/")).await.body().len(), 100 << 10);
    }
    assert_eq!(connections.load(SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_passes_its_bound_on_the_way_is_a_413_and_its_stream_is_reset() {
    let text = file("").replace("{match:", "{limits: {body: 10B}, match:");
    let gateway = Inside::new(&text);
    let (whole, mut all) = mpsc::unbounded_channel();
    answering(&gateway, plain, move |_, (request, mut respond)| {
        let whole = whole.clone();
        async move {
            whole.send(read(request.into_body()).await.is_some()).unwrap();
            say(&mut respond, "fine");
        }
    });
    for (pieces, expected) in [(2, StatusCode::OK), (3, StatusCode::PAYLOAD_TOO_LARGE)] {
        let (body, frames) = frames();
        for _ in 0..pieces {
            body.send(Frame::data(Bytes::from("piece"))).unwrap();
        }
        drop(body);
        let request = Request::post("http://api.example/").body(frames).unwrap();
        assert_eq!(h2c(&gateway).await.send_request(request).await.unwrap().status(), expected);
        assert_eq!(all.recv().await.unwrap(), expected == StatusCode::OK);
    }
}

/// Over sockets: each worker has a connection, and all requests share them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r2_3_workers_share_no_connection_and_need_no_more_than_one_each() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&connections);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            counted.fetch_add(1, SeqCst);
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    tokio::spawn(async move {
                        let target = request.uri().path().to_owned();
                        let (body, _) = read(request.into_body()).await.unwrap();
                        say(&mut respond, [target.as_bytes(), &body].concat());
                    });
                }
            });
        }
    });
    let process = Process::start(&format!(
        "
gateway: {{admin: {{listen: ADMIN}}, workers: 2}}
listeners: {{public: {{listen: PUBLIC}}}}
upstreams: {{app: {{endpoints: ['{address}'], protocol: h2}}}}
routes: {{all: {{match: {{prefix: /}}, upstream: app}}}}
"
    ))
    .await;
    let mut clients = JoinSet::new();
    for first in 0..20 {
        let address = process.public;
        clients.spawn(async move {
            let mut client = Client::over(address).await;
            for number in 0..100 {
                let target = format!("/{first}/{number}");
                let body = if number % 2 == 0 { "" } else { " and a body" };
                let response = client.send(post(&target, body)).await;
                assert_eq!(**response.body(), *format!("{target}{body}").as_bytes());
            }
        });
    }
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
    assert!((1..=2).contains(&connections.load(SeqCst)), "{connections:?}");
}

// ---- What was not looked at

#[tokio::test(start_paused = true)]
async fn r2_5_behind_the_last_stream_of_a_goaway_requests_go_again_and_those_before_it_end() {
    let gateway = gateway("");
    let connections = raw(&gateway, |number, stream| async move {
        let mut raw = Raw::begin(stream).await;
        if number == 1 {
            assert_eq!(raw.requests(5).await, [1, 3, 5, 7, 9]);
            raw.send(GOAWAY, 0, 0, &[0, 0, 0, 5, 0, 0, 0, 0]).await;
            sleep(Duration::from_secs(1)).await;
            for stream in [1, 3, 5] {
                raw.answer(stream, b"first").await;
            }
        } else {
            for stream in raw.requests(3).await {
                raw.answer(stream, b"again").await;
            }
        }
        raw.rest().await;
    });
    let mut tasks = JoinSet::new();
    for _ in 0..5 {
        let gateway = Arc::clone(&gateway);
        tasks.spawn(async move { gateway.send(get("/")).await.body().clone() });
    }
    sleep(Duration::from_millis(500)).await;
    // It takes nothing new while it ends what it has.
    assert_eq!(gateway.send(get("/new")).await.body(), "again");
    let mut bodies = tasks.join_all().await;
    bodies.sort();
    assert_eq!(bodies, ["again", "again", "first", "first", "first"]);
    assert_eq!(connections.load(SeqCst), 2);
    let (open, _) = gateway.generation().state.places.get("app").unwrap().counts("app:1");
    assert_eq!(open, 1, "the first has ended");
}

#[tokio::test(start_paused = true)]
async fn r2_5_a_refused_post_goes_again_and_has_effect_once() {
    // In the first round nothing of its body was taken, as there was no window for it.
    for (window, retry, expected) in [
        (0, "", (200, 1)),
        (65_535, "", (502, 0)),
        (65_535, "retry: {max: 1}, ", (200, 1)),
        (65_535, "fallback: {upstream: other}, ", (200, 0)),
    ] {
        let text = file("").replace("upstream: app}}", &format!("{retry}upstream: app}}}}"));
        let gateway = Inside::new(&text);
        let other = Upstream::inside(&gateway.network, "other:1", |_| ok("other"));
        let (asked, effects) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (counted, acted) = (Arc::clone(&asked), Arc::clone(&effects));
        answering(
            &gateway,
            move |builder| _ = builder.initial_window_size(window),
            move |_, (request, mut respond)| {
                let (counted, acted) = (Arc::clone(&counted), Arc::clone(&acted));
                async move {
                    let _body = request.into_body();
                    if counted.fetch_add(1, SeqCst) == 0 {
                        sleep(Duration::from_millis(10)).await;
                        return respond.send_reset(Reason::REFUSED_STREAM);
                    }
                    acted.fetch_add(1, SeqCst);
                    say(&mut respond, "done");
                }
            },
        );
        let response = gateway.send(post("/", "pay")).await;
        assert_eq!((response.status().as_u16(), effects.load(SeqCst)), expected, "{window} {retry}");
        if expected.0 == 502 {
            assert_eq!(reason(&response), (502, "upstream_refused"));
        }
        assert_eq!(other.requests(), u64::from(retry.starts_with("fallback")));
    }
}

#[tokio::test(start_paused = true)]
async fn r2_5_a_request_that_is_refused_again_is_not_sent_a_third_time() {
    let gateway = gateway("");
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    answering(&gateway, plain, move |_, (_, mut respond)| {
        counted.fetch_add(1, SeqCst);
        async move { respond.send_reset(Reason::REFUSED_STREAM) }
    });
    let mut request = get("/");
    *request.method_mut() = Method::DELETE;
    assert_eq!(reason(&gateway.send(request).await), (502, "upstream_refused"));
    assert_eq!(asked.load(SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn r2_5_no_other_reset_proves_that_nothing_was_done() {
    for code in [Reason::CANCEL, Reason::ENHANCE_YOUR_CALM, Reason::INTERNAL_ERROR, Reason::NO_ERROR] {
        let text = file("").replace("upstream: app}}", "retry: {max: 3}, upstream: app}}");
        let gateway = Inside::new(&text);
        let asked = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&asked);
        let connections = answering(&gateway, plain, move |_, (_, mut respond)| {
            counted.fetch_add(1, SeqCst);
            async move { respond.send_reset(code) }
        });
        assert_eq!(reason(&gateway.send(post("/", "pay")).await), (502, "upstream_reset"), "{code:?}");
        assert_eq!((asked.load(SeqCst), connections.load(SeqCst)), (1, 1), "{code:?}");
    }
}

/// Who says that it is in trouble is not asked again at once, though nothing was done: that is for retries.
#[tokio::test(start_paused = true)]
async fn r2_5_an_endpoint_in_trouble_is_not_asked_again_without_a_policy_that_says_so() {
    for (retry, expected) in [("", (502, "upstream_refused")), ("retry: {max: 1}, ", (200, ""))] {
        let text = file("").replace("upstream: app}}", &format!("{retry}upstream: app}}}}"));
        let gateway = Inside::new(&text);
        let connections = raw(&gateway, |number, stream| async move {
            let mut raw = Raw::begin(stream).await;
            let streams = raw.requests(1).await;
            if number == 1 {
                raw.send(GOAWAY, 0, 0, &[0, 0, 0, 0, 0, 0, 0, 0xb]).await; // ENHANCE_YOUR_CALM
            } else {
                raw.answer(streams[0], b"fine").await;
            }
            raw.rest().await;
        });
        assert_eq!(reason(&gateway.send(post("/", "pay")).await), expected);
        assert_eq!(connections.load(SeqCst), if retry.is_empty() { 1 } else { 2 });
    }
}

// ---- What ends

#[tokio::test(start_paused = true)]
async fn r2_3_what_breaks_off_never_looks_whole() {
    let codes = [Reason::NO_ERROR, Reason::CANCEL, Reason::INTERNAL_ERROR, Reason::REFUSED_STREAM];
    for code in codes.map(Some).into_iter().chain([None]) {
        let gateway = gateway("");
        endpoint(&gateway, plain, move |_, mut connection| async move {
            while let Some(Ok((_, mut respond))) = connection.accept().await {
                let mut stream = respond.send_response(Response::new(()), false).unwrap();
                stream.send_data("half".into(), false).unwrap();
                let until = sleep(Duration::from_millis(10));
                tokio::select! {
                    _ = connection.accept() => {}
                    () = until => {}
                }
                match code {
                    Some(code) => stream.send_reset(code),
                    None => return, // The connection ends.
                }
            }
        });
        assert_eq!(gateway.client().await.whole(get("/")).await, None, "{code:?}, over HTTP/1.1");
        let request = Request::get("http://api.example/").body(full("")).unwrap();
        let response = h2c(&gateway).await.send_request(request).await.unwrap();
        assert!(response.into_body().collect().await.is_err(), "{code:?}, over HTTP/2");
    }
    // Fewer bytes than were announced.
    let gateway = gateway("");
    answering(&gateway, plain, |_, (_, mut respond)| async move {
        let head = Response::builder().header("content-length", "8").body(()).unwrap();
        respond.send_response(head, false).unwrap().send_data("half".into(), true).unwrap();
    });
    assert_eq!(gateway.client().await.whole(get("/")).await, None);
}

#[tokio::test(start_paused = true)]
async fn r2_6_a_connection_that_dies_ends_its_requests_and_the_next_is_another() {
    let gateway = gateway("");
    let connections = raw(&gateway, |number, stream| async move {
        let mut raw = Raw::begin(stream).await;
        let streams = raw.requests(if number == 1 { 10 } else { 1 }).await;
        if number == 2 {
            raw.answer(streams[0], b"fine").await;
            raw.rest().await;
        }
    });
    let reset = BTreeMap::from([((502, "upstream_reset".to_owned()), 10)]);
    assert_eq!(at_once(&gateway, 10).await, reset);
    assert_eq!(gateway.send(get("/")).await.body(), "fine");
    assert_eq!(connections.load(SeqCst), 2);
    assert_eq!(gateway.generation().state.places.get("app").unwrap().counts("app:1"), (1, 0));
}

/// As over HTTP/1.1: an endpoint may close at any time what nobody uses.
#[tokio::test(start_paused = true)]
async fn a_connection_that_nobody_used_and_that_ends_just_then_costs_no_get() {
    for (method, expected) in [(Method::GET, (200, "")), (Method::POST, (502, "upstream_reset"))] {
        let gateway = gateway("");
        let connections = raw(&gateway, |number, stream| async move {
            let mut raw = Raw::begin(stream).await;
            let streams = raw.requests(1).await;
            raw.answer(streams[0], b"fine").await;
            if number == 1 {
                raw.requests(1).await; // It was about to close anyway.
            } else {
                raw.rest().await;
            }
        });
        assert_eq!(gateway.send(get("/")).await.status(), 200);
        let mut request = get("/");
        *request.method_mut() = method;
        assert_eq!(reason(&gateway.send(request).await), expected);
        assert_eq!(connections.load(SeqCst), if expected.0 == 200 { 2 } else { 1 });
    }
}

#[tokio::test(start_paused = true)]
async fn a_dead_endpoint_is_found_by_a_ping_and_one_that_is_only_slow_is_not_taken_for_it() {
    let gateway = gateway("timeouts: {response_headers: 1h}");
    let connections = raw(&gateway, |number, stream| async move {
        let mut raw = Raw::begin(stream).await;
        if number == 1 {
            raw.requests(3).await;
            sleep(Duration::from_hours(2)).await; // Nothing is read, nothing is said.
        } else {
            let streams = raw.requests(1).await;
            raw.answer(streams[0], b"fine").await;
            raw.rest().await;
        }
    });
    let began = Instant::now();
    let reset = BTreeMap::from([((502, "upstream_reset".to_owned()), 3)]);
    assert_eq!(at_once(&gateway, 3).await, reset);
    assert!((30..=50).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    assert_eq!(gateway.send(get("/")).await.body(), "fine");
    assert_eq!(connections.load(SeqCst), 2);

    // An answer that takes a while, from an endpoint that answers pings: and takes no offence at them.
    let gateway = self::gateway("timeouts: {response_headers: 1h}");
    let (pings, mut counted) = mpsc::unbounded_channel();
    raw(&gateway, move |_, stream| {
        let pings = pings.clone();
        async move {
            let mut raw = Raw::begin(stream).await;
            let streams = raw.requests(1).await;
            let late = sleep(Duration::from_mins(30));
            tokio::pin!(late);
            let mut count = 0;
            loop {
                tokio::select! {
                    () = &mut late => break,
                    frame = raw.next() => if let Some((PING, 0, _)) = frame {
                        count += 1;
                        raw.send(PING, 1, 0, &PING_PAYLOAD).await;
                    }
                }
            }
            raw.answer(streams[0], b"late").await;
            pings.send(count).unwrap();
            raw.rest().await;
        }
    });
    assert_eq!(gateway.send(get("/")).await.body(), "late");
    let count = counted.recv().await.unwrap();
    assert!((4..=9).contains(&count), "{count}");
}

/// An endpoint whose first connection is dead, and each further one well.
fn dead_at_first(gateway: &Inside) -> Arc<AtomicUsize> {
    raw(gateway, |number, stream| async move {
        let mut raw = Raw::begin(stream).await;
        if number == 1 {
            sleep(Duration::from_hours(2)).await;
        }
        loop {
            let Some(stream) = raw.requests(1).await.pop() else { return };
            raw.answer(stream, b"fine").await;
        }
    })
}

/// Requests that come and go do not keep a dead connection alive.
#[tokio::test(start_paused = true)]
async fn a_dead_endpoint_is_found_by_a_ping_however_many_requests_still_come() {
    let yaml = file("timeouts: {response_headers: 1h}").replace("total: never", "total: 3s");
    let gateway = Arc::new(Inside::new(&yaml));
    let connections = dead_at_first(&gateway);
    let began = Instant::now();
    while gateway.send(get("/")).await.status() != 200 {
        sleep(Duration::from_secs(1)).await;
    }
    assert!((20..=60).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    assert_eq!(connections.load(SeqCst), 2);
}

/// Bug: only who waited for `response_headers` found that nothing came.
#[tokio::test(start_paused = true)]
async fn a_dead_connection_costs_no_more_than_one_attempt_has_time() {
    let gateway = gateway("timeouts: {response_headers: 1h, per_try: 3s}");
    let connections = dead_at_first(&gateway);
    let began = Instant::now();
    assert_eq!(reason(&gateway.send(get("/")).await), (504, "response_timeout"));
    assert_eq!((gateway.send(get("/")).await.status().as_u16(), began.elapsed().as_secs()), (200, 3));
    assert_eq!(connections.load(SeqCst), 2);
}

/// Bug: what still came for requests that were given up ended the connection for everybody.
#[tokio::test(start_paused = true)]
async fn what_still_comes_for_those_who_have_gone_ends_nothing_for_others() {
    let gateway = gateway("connections: {streams: 10}");
    let connections = raw(&gateway, |_, stream| async move {
        let mut raw = Raw::begin(stream).await;
        let first = raw.requests(1).await[0];
        let mut gone = Vec::new();
        for _ in 0..1300 {
            let stream = raw.requests(1).await[0];
            raw.send(HEADERS, END_HEADERS, stream, &[0x88]).await; // :status 200
            gone.push(stream);
        }
        sleep(Duration::from_secs(1)).await;
        for stream in gone {
            for _ in 0..8 {
                raw.send(DATA, 0, stream, &[b' '; 1024]).await;
            }
        }
        raw.answer(first, b"fine").await;
        raw.rest().await;
    });
    let first = tokio::spawn({
        let gateway = Arc::clone(&gateway);
        async move { gateway.send(get("/")).await }
    });
    sleep(Duration::from_millis(10)).await;
    for _ in 0..1300 {
        drop(gateway.client().await.head(get("/")).await);
        sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(first.await.unwrap().body(), "fine");
    assert_eq!(connections.load(SeqCst), 1);
}

/// Bug: they heard of it only when no connection was being made any more, and one always was.
#[tokio::test(start_paused = true)]
async fn who_waits_for_a_connection_that_is_made_in_vain_hears_of_that_while_others_are_made() {
    let gateway = gateway("timeouts: {connect: 1s}, connections: {streams: 2}");
    let _connections = raw(&gateway, |_, stream| async move {
        sleep(Duration::from_hours(2)).await;
        drop(stream);
    });
    let mut all = JoinSet::new();
    for _ in 0..40 {
        let gateway = Arc::clone(&gateway);
        all.spawn(async move {
            let began = Instant::now();
            let response = gateway.send(get("/")).await;
            (reason(&response).0, reason(&response).1.to_owned(), began.elapsed() <= Duration::from_secs(2))
        });
        sleep(Duration::from_millis(200)).await;
    }
    while let Some(one) = all.join_next().await {
        assert_eq!(one.unwrap(), (504, "connect_timeout".to_owned(), true));
    }
}

/// Bug: the end of a body waited for room that it does not need.
#[tokio::test(start_paused = true)]
async fn the_end_of_a_body_needs_no_window() {
    let gateway = gateway("");
    let _connections = raw(&gateway, |_, mut stream| async move {
        let mut preface = [0; 24];
        stream.read_exact(&mut preface).await.unwrap();
        let mut raw = Raw(stream);
        raw.send(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 4]).await; // Four bytes for each stream.
        while let Some((kind, flags, stream)) = raw.next().await {
            if kind == DATA && flags & END_STREAM != 0 {
                raw.answer(stream, b"all of it").await;
            }
        }
    });
    let mut sender = h2c(&gateway).await;
    let (upload, frames) = frames();
    let asking = sender.send_request(Request::post("http://api.example/").body(frames).unwrap());
    let asking = tokio::spawn(asking);
    sleep(Duration::from_millis(10)).await;
    upload.send(Frame::data(Bytes::from("four"))).unwrap();
    sleep(Duration::from_millis(10)).await;
    drop(upload);
    let response = tokio::time::timeout(Duration::from_secs(5), asking).await.unwrap().unwrap().unwrap();
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "all of it");
}

/// What h2 puts into the pings that its users send.
const PING_PAYLOAD: [u8; 8] = [0x3b, 0x7c, 0xdb, 0x7a, 0x0b, 0x87, 0x16, 0xb4];

#[tokio::test(start_paused = true)]
async fn a_client_that_goes_resets_its_stream_and_no_other() {
    let gateway = gateway("");
    let (resets, mut all) = mpsc::unbounded_channel();
    let go_on = Arc::new(Notify::new());
    let wait = Arc::clone(&go_on);
    let connections = answering(&gateway, plain, move |_, (request, mut respond)| {
        let (resets, wait) = (resets.clone(), Arc::clone(&wait));
        async move {
            match request.uri().path() {
                "/silent" => {
                    resets.send(std::future::poll_fn(|cx| respond.poll_reset(cx)).await.unwrap()).unwrap();
                }
                "/half" => {
                    let mut stream = respond.send_response(Response::new(()), false).unwrap();
                    stream.send_data("half".into(), false).unwrap();
                    resets.send(std::future::poll_fn(|cx| stream.poll_reset(cx)).await.unwrap()).unwrap();
                }
                _ => {
                    wait.notified().await;
                    say(&mut respond, "fine");
                }
            }
        }
    });
    let other = tokio::spawn({
        let gateway = Arc::clone(&gateway);
        async move { gateway.send(get("/")).await }
    });
    let mut sender = h2c(&gateway).await;
    for (target, body) in [("/silent", "all"), ("/silent", ""), ("/half", "all")] {
        let (upload, frames) = frames();
        upload.send(Frame::data(Bytes::from("part"))).unwrap();
        // One of the uploads stands still.
        let frames = if body.is_empty() { frames } else { full(body) };
        let request = Request::post(format!("http://api.example{target}")).body(frames).unwrap();
        let asking = tokio::spawn(sender.send_request(request));
        sleep(Duration::from_millis(100)).await;
        asking.abort();
        if let Ok(Ok(response)) = asking.await {
            drop(response);
        }
        assert_eq!(all.recv().await.unwrap(), Reason::CANCEL, "{target}");
    }
    go_on.notify_one();
    assert_eq!(other.await.unwrap().body(), "fine");
    assert_eq!(connections.load(SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn what_is_left_of_an_upload_is_not_sent_once_the_response_has_ended() {
    let gateway = gateway("");
    let (resets, mut all) = mpsc::unbounded_channel();
    let connections = answering(
        &gateway,
        |builder| _ = builder.initial_window_size(10),
        move |_, (request, mut respond)| {
            let resets = resets.clone();
            async move {
                let mut body = request.into_body();
                say(&mut respond, "enough");
                // Nothing of it is taken, so that there is no window for more.
                while let Some(Ok(_)) = body.data().await {}
                resets.send(body.data().await.is_none()).unwrap();
            }
        },
    );
    let (upload, frames) = frames();
    upload.send(Frame::data(vec![0; 1 << 20].into())).unwrap();
    let request = Request::post("http://api.example/").body(frames).unwrap();
    let response = h2c(&gateway).await.send_request(request).await.unwrap();
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "enough");
    all.recv().await.unwrap();
    assert_eq!(gateway.send(get("/")).await.body(), "enough");
    assert_eq!(connections.load(SeqCst), 1);
    let pools = gateway.generation().state.pools[0].get("app").unwrap().idle("app:1");
    assert_eq!(pools, 1, "nothing is left of it on the connection");
}

#[tokio::test(start_paused = true)]
async fn a_connection_is_used_for_so_long_and_kept_for_so_long() {
    let gateway = gateway("keep_alive: {max_lifetime: 10m, timeout: 50s}, timeouts: {response_headers: 1h}");
    let connections = answering(&gateway, plain, |_, (request, mut respond)| async move {
        if request.uri().path() == "/long" {
            sleep(Duration::from_mins(12)).await;
        }
        say(&mut respond, "fine");
    });
    let long = tokio::spawn({
        let gateway = Arc::clone(&gateway);
        async move { gateway.send(get("/long")).await }
    });
    let (mut client, began) = (gateway.client().await, Instant::now());
    while connections.load(SeqCst) < 2 {
        assert_eq!(client.send(get("/")).await.status(), 200);
        sleep(Duration::from_secs(10)).await;
    }
    let lived = began.elapsed().as_secs();
    assert!((9 * 60..=11 * 60 + 10).contains(&lived), "{lived} s");
    assert_eq!(long.await.unwrap().body(), "fine", "what it has it ends");
    sleep(Duration::from_secs(51)).await;
    assert_eq!(gateway.send(get("/")).await.status(), 200);
    assert_eq!(connections.load(SeqCst), 3, "what nobody used for so long is not used");
}

#[tokio::test(start_paused = true)]
async fn a_reload_that_changes_the_protocol_has_connections_of_its_own() {
    let gateway = gateway("");
    let connections = answering(&gateway, plain, |_, (_, mut respond)| async move {
        sleep(Duration::from_secs(1)).await;
        say(&mut respond, "over h2");
    });
    let under_way = tokio::spawn({
        let gateway = Arc::clone(&gateway);
        async move { gateway.send(get("/")).await }
    });
    sleep(Duration::from_millis(100)).await;
    gateway.reload(&file("").replace("protocol: h2", "protocol: h1")).unwrap();
    let h1 = Upstream::inside(&gateway.network, "app:1", |_| ok("over h1"));
    assert_eq!(gateway.send(get("/")).await.body(), "over h1");
    assert_eq!(under_way.await.unwrap().body(), "over h2", "it ends as it began");
    let report = gateway.generation().report.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert!(report.contains(&"pool app created".to_owned()), "{report:?}");
    answering(&gateway, plain, |_, (_, mut respond)| async move { say(&mut respond, "over h2") });
    gateway.reload(&file("")).unwrap();
    assert_eq!(gateway.send(get("/")).await.body(), "over h2");
    assert_eq!((connections.load(SeqCst), h1.connections()), (1, 1));
    let unchanged = gateway.generation();
    gateway.reload(&file("connections: {streams: 7}")).unwrap();
    let pools = |generation: &naka_gateway::generation::Generation| {
        Arc::clone(generation.state.pools[0].get("app").unwrap())
    };
    assert!(Arc::ptr_eq(&pools(&unchanged), &pools(&gateway.generation())), "otherwise they stay");
}

// ---- What is no HTTP/2, and what takes too long

#[tokio::test(start_paused = true)]
async fn r2_6_an_endpoint_that_speaks_something_else_is_a_502_before_anything_is_sent() {
    for answer in ["HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n", "SSH-2.0-OpenSSH_9.9\r\n", ""] {
        let gateway = gateway("");
        let app = Upstream::inside(&gateway.network, "app:1", move |_| vec![Step::send(answer), Step::Close]);
        assert_eq!(reason(&gateway.send(post("/", "pay")).await), (502, "connect_failed"), "{answer}");
        assert_eq!(app.seen().iter().filter(|seen| seen.line.starts_with("POST")).count(), 0);
    }
    let gateway = gateway("timeouts: {connect: 3s}");
    let _silent = Upstream::inside(&gateway.network, "app:1", |_| vec![Step::Hang]);
    let began = Instant::now();
    assert_eq!(reason(&gateway.send(get("/")).await), (504, "connect_timeout"));
    assert_eq!(began.elapsed().as_secs(), 3);
}

#[tokio::test(start_paused = true)]
async fn r2_6_timeouts_hold_for_each_request_by_itself() {
    let gateway = gateway("timeouts: {response_headers: 2s, idle: 5s}");
    let connections = answering(&gateway, plain, |_, (request, mut respond)| async move {
        match request.uri().path() {
            "/late" => sleep(Duration::from_mins(1)).await,
            "/stalls" => {
                let mut stream = respond.send_response(Response::new(()), false).unwrap();
                stream.send_data("half".into(), false).unwrap();
                sleep(Duration::from_mins(1)).await;
            }
            _ => {}
        }
        say(&mut respond, "fine");
    });
    let late = tokio::spawn({
        let gateway = Arc::clone(&gateway);
        async move { gateway.send(get("/late")).await }
    });
    sleep(Duration::from_secs(1)).await;
    assert_eq!(gateway.send(get("/")).await.body(), "fine");
    assert_eq!(reason(&late.await.unwrap()), (504, "response_timeout"));
    assert_eq!(gateway.client().await.whole(get("/stalls")).await, None);
    assert_eq!(gateway.send(get("/")).await.body(), "fine");
    assert_eq!(connections.load(SeqCst), 1);
    // Of a connection on which nothing came at all meanwhile nobody knows whether it is still there.
    assert_eq!(reason(&gateway.send(get("/late")).await), (504, "response_timeout"));
    assert_eq!(gateway.send(get("/")).await.body(), "fine");
    assert_eq!(connections.load(SeqCst), 2);

    let per_try = self::gateway("timeouts: {response_headers: 20s, per_try: 1s}");
    answering(&per_try, plain, |_, exchange| async move {
        sleep(Duration::from_mins(1)).await;
        drop(exchange);
    });
    let began = Instant::now();
    assert_eq!(reason(&per_try.send(get("/")).await), (504, "response_timeout"));
    assert_eq!(began.elapsed().as_secs(), 1);
    // A body that its client stops sending is the client's doing.
    let upload = self::gateway("timeouts: {response_headers: 20s, idle: 3s}");
    answering(&upload, plain, |_, (request, respond)| async move {
        _ = read(request.into_body()).await;
        drop(respond);
    });
    let (body, frames) = frames();
    body.send(Frame::data(Bytes::from("part"))).unwrap();
    let request = Request::post("http://api.example/").body(frames).unwrap();
    let response = h2c(&upload).await.send_request(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::REQUEST_TIMEOUT);
}

#[tokio::test(start_paused = true)]
async fn r2_6_an_answer_with_too_long_a_head_is_a_502_and_ends_nothing_else() {
    let gateway = gateway("");
    let connections = answering(&gateway, plain, |_, (request, mut respond)| async move {
        if request.uri().path() == "/long" {
            let mut head = Response::builder();
            for number in 0..20 {
                head = head.header(format!("x-{number}"), "v".repeat(10 << 10));
            }
            let _ = respond.send_response(head.body(()).unwrap(), true);
        } else {
            say(&mut respond, "fine");
        }
    });
    assert_eq!(gateway.send(get("/")).await.body(), "fine");
    assert_eq!(reason(&gateway.send(get("/long")).await), (502, "upstream_protocol"));
    assert_eq!(gateway.send(get("/")).await.body(), "fine");
    assert_eq!(connections.load(SeqCst), 1);
}
