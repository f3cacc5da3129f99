//! HTTP/2 from clients, by prior knowledge.

use std::{
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Full};
use hyper::{
    body::Incoming,
    client::conn::http2::{Builder, SendRequest},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use naka_testkit::upstream::{Step, Upstream, ok};
use rustix::process::Signal;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::JoinSet,
    time::sleep,
};

use crate::{
    inside::{Inside, get},
    process::Process,
};

const CONFIG: &str = "
gateway: {admin: none, limits: {header_count: 20, header_bytes: 8KiB}}
listeners:
  public: {listen: ':1', protocols: [h1, h2c], timeouts: {request_headers: 5s, idle: 20s}, limits: {body: 100KiB}}
upstreams: {app: {endpoints: ['app:1'], bulkhead: {max: 3, queue: 100, max_wait: 1m}}}
routes: {all: {match: {prefix: /, host: api.example}, timeouts: {total: never}, upstream: app}}
";

type Body = Full<Bytes>;

async fn h2(gateway: &Inside) -> SendRequest<Body> {
    // Streams that are not read take room on the connection, and leave some.
    let mut client = Builder::new(TokioExecutor::new());
    client.initial_stream_window_size(64 << 10).initial_connection_window_size(1 << 20);
    let (sender, connection) = client.handshake(TokioIo::new(gateway.connect())).await.unwrap();
    tokio::spawn(connection);
    sender
}

fn ask(target: &str) -> Request<Body> {
    Request::get(format!("http://api.example{target}")).body(Full::default()).unwrap()
}

async fn whole(response: Response<Incoming>) -> (StatusCode, Bytes) {
    (response.status(), response.into_body().collect().await.unwrap().to_bytes())
}

/// Bug: it was said of every request that it came in HTTP/1.1 (RFC 9110, section 7.6.3).
#[tokio::test(start_paused = true)]
async fn r2_3_via_says_in_which_version_a_request_came() {
    let gateway = Inside::new(CONFIG);
    let app = Upstream::inside(&gateway.network, "app:1", |_| ok("fine"));
    h2(&gateway).await.send_request(ask("/")).await.unwrap();
    assert_eq!(app.last().header("via"), Some("2 naka"));
    let mut stream = gateway.connect();
    stream.write_all(b"GET / HTTP/1.0\r\nhost: api.example\r\n\r\n").await.unwrap();
    stream.read_to_end(&mut Vec::new()).await.unwrap();
    assert_eq!(app.last().header("via"), Some("1.0 naka"));
}

#[tokio::test(start_paused = true)]
async fn r2_3_many_requests_at_a_time_on_one_connection_and_http_1_beside_it() {
    let gateway = Inside::new(CONFIG);
    let app = Upstream::inside(&gateway.network, "app:1", |seen| {
        let mut steps = ok(seen.target());
        steps.insert(0, Step::Wait(Duration::from_millis(100)));
        steps
    });
    let sender = h2(&gateway).await;
    let mut requests = JoinSet::new();
    for number in 0..50 {
        let mut sender = sender.clone();
        requests.spawn(async move {
            let target = format!("/{number}");
            let response = sender.send_request(ask(&target)).await.unwrap();
            assert_eq!(response.version(), Version::HTTP_2);
            assert!(!response.headers().contains_key("connection"));
            assert_eq!(whole(response).await, (StatusCode::OK, Bytes::from(target)));
        });
    }
    while let Some(done) = requests.join_next().await {
        done.unwrap();
    }
    assert_eq!((app.requests(), app.peak()), (50, 3), "the layers see each of them");
    assert_eq!(gateway.send(get("/1")).await.body(), "/1", "and HTTP/1.1 is spoken, too");
}

#[tokio::test(start_paused = true)]
async fn the_upstream_sees_what_http_1_would_have_told_it() {
    let gateway = Inside::new(CONFIG);
    let app = Upstream::inside(&gateway.network, "app:1", |_| ok("fine"));
    let mut sender = h2(&gateway).await;
    let request = Request::post("http://API.example:80/a%20b?q=1")
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .header("x-forwarded-for", "6.6.6.6")
        .header("te", "trailers")
        .body(Full::from("body"))
        .unwrap();
    assert_eq!(whole(sender.send_request(request).await.unwrap()).await.0, 200);
    let seen = app.last();
    assert_eq!(seen.line, "POST /a%20b?q=1 HTTP/1.1");
    assert_eq!(seen.header("host"), Some("api.example:80"));
    assert_eq!(seen.header("cookie"), Some("a=1; b=2"), "in pieces it is for HTTP/2 only");
    assert_eq!(seen.header("x-forwarded-for"), Some("192.0.2.1"));
    assert_eq!((seen.header("content-length"), app.body_bytes()), (Some("4"), 4));
}

#[tokio::test(start_paused = true)]
async fn what_is_wrong_is_refused_and_the_other_streams_go_on() {
    let gateway = Inside::new(CONFIG);
    let _app = Upstream::inside(&gateway.network, "app:1", |_| ok("fine"));
    let mut sender = h2(&gateway).await;
    let with = |name: &'static str, value: &str| {
        let mut request = ask("/");
        request.headers_mut().insert(name, value.parse().unwrap());
        request
    };
    let mut many = ask("/");
    for number in 0..30 {
        many.headers_mut()
            .insert(format!("x-{number}").parse::<http::HeaderName>().unwrap(), "1".parse().unwrap());
    }
    for (request, expected) in [
        (with("host", "other.example"), 400),
        (ask("/a/../b"), 400),
        (many, 431),
        (Request::get("http://nowhere.example/").body(Full::default()).unwrap(), 404),
    ] {
        let target = request.uri().clone();
        let response = sender.send_request(request).await.unwrap();
        assert_eq!(response.status(), expected, "{target}");
        assert!(response.headers().contains_key("naka-reason"));
    }
    let large = Request::post("http://api.example/").body(Full::from(vec![0; 200 << 10])).unwrap();
    assert_eq!(sender.send_request(large).await.unwrap().status(), 413);
    assert_eq!(whole(sender.send_request(ask("/")).await.unwrap()).await.0, 200, "the connection goes on");
}

#[tokio::test(start_paused = true)]
async fn r2_3_trailers_come_through() {
    let gateway = Inside::new(CONFIG);
    let _app = Upstream::inside(&gateway.network, "app:1", |_| {
        let head = "HTTP/1.1 200 OK\r\ncontent-type: application/grpc\r\ntransfer-encoding: chunked\r\ntrailer: grpc-status\r\n\r\n";
        vec![Step::ReadBody, Step::send(format!("{head}4\r\nbody\r\n0\r\ngrpc-status: 5\r\n\r\n"))]
    });
    let mut sender = h2(&gateway).await;
    let body = sender.send_request(ask("/")).await.unwrap().into_body().collect().await.unwrap();
    let trailers: &HeaderMap = body.trailers().unwrap();
    assert_eq!(trailers["grpc-status"], "5");
    assert_eq!(body.to_bytes(), "body");
}

/// A client that takes nothing of a response holds no connection to the endpoint and no place.
#[tokio::test(start_paused = true)]
async fn a_stream_that_takes_nothing_is_let_go_of() {
    let gateway = Inside::new(CONFIG);
    let app = Upstream::inside(&gateway.network, "app:1", |seen| match seen.target() {
        "/large" => vec![
            Step::ReadBody,
            Step::send("HTTP/1.1 200 OK\r\ncontent-length: 10000000\r\n\r\n"),
            Step::Fill(10_000_000),
        ],
        _ => ok("fine"),
    });
    let mut sender = h2(&gateway).await;
    let mut deaf = Vec::new();
    for _ in 0..3 {
        deaf.push(sender.send_request(ask("/large")).await.unwrap());
    }
    let working = || gateway.generation().state.bulkheads.get("app/bulkhead").unwrap().counts().working;
    sleep(Duration::from_secs(10)).await;
    assert_eq!(working(), 3, "all places are taken");
    sleep(Duration::from_secs(20)).await;
    assert_eq!(working(), 0);
    assert_eq!(whole(sender.send_request(ask("/")).await.unwrap()).await.0, 200);
    let mut body = deaf.remove(0).into_body();
    let mut taken = 0;
    let ended = loop {
        match body.frame().await {
            Some(Ok(frame)) => taken += frame.into_data().map_or(0, |data| data.len()),
            Some(Err(error)) => break Some(error),
            None => break None,
        }
    };
    assert!(ended.is_some() && taken < 10_000_000, "it never looks whole: {taken}");
    assert_eq!(app.requests(), 4);
}

/// A slow endpoint is not a client that takes nothing.
#[tokio::test(start_paused = true)]
async fn a_response_that_comes_slowly_is_not_let_go_of() {
    let gateway = Inside::new(CONFIG);
    let _app = Upstream::inside(&gateway.network, "app:1", |_| {
        let mut steps = vec![Step::ReadBody, Step::send("HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nhalf")];
        steps.extend([Step::Wait(Duration::from_mins(2)), Step::send("half")]);
        steps
    });
    let mut sender = h2(&gateway).await;
    let response = sender.send_request(ask("/")).await.unwrap();
    assert_eq!(whole(response).await.1, "halfhalf");
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_given_up_releases_everything() {
    let gateway = Inside::new(CONFIG);
    let app = Upstream::inside(&gateway.network, "app:1", |_| vec![Step::ReadBody, Step::Hang]);
    let mut sender = h2(&gateway).await;
    let working = || gateway.generation().state.bulkheads.get("app/bulkhead").unwrap().counts().working;
    for _ in 0..20 {
        let request = sender.send_request(ask("/"));
        tokio::select! {
            _ = request => panic!("it hangs"),
            () = sleep(Duration::from_millis(10)) => {}
        }
        sleep(Duration::from_millis(10)).await;
        assert_eq!(working(), 0);
    }
    assert_eq!(app.requests(), 20);
    // An upload that never comes is the client's fault, and ends.
    let handshake = Builder::new(TokioExecutor::new()).handshake(TokioIo::new(gateway.connect())).await;
    let (mut sender, connection) = handshake.unwrap();
    tokio::spawn(connection);
    let request = Request::post("http://api.example/").body(Never).unwrap();
    assert_eq!(sender.send_request(request).await.unwrap().status(), 408);
}

/// A body that never comes.
struct Never;

impl http_body::Body for Never {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, std::io::Error>>> {
        Poll::Pending
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_says_nothing_or_something_else_is_closed() {
    let gateway = Inside::new(CONFIG);
    for said in [&b""[..], b"PRI * HTT"] {
        let mut stream = gateway.connect();
        stream.write_all(said).await.unwrap();
        let began = tokio::time::Instant::now();
        assert_eq!(stream.read(&mut [0; 10]).await.unwrap(), 0);
        assert_eq!(began.elapsed().as_secs(), 5, "{said:?}");
    }
    // Without a request it is closed after `idle`, whatever it says meanwhile.
    let mut stream = gateway.connect();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let mut answer = Vec::new();
    let began = tokio::time::Instant::now();
    stream.read_to_end(&mut answer).await.unwrap();
    assert_eq!(began.elapsed().as_secs(), 20);
    let only_h2 = Inside::new(&CONFIG.replace("[h1, h2c]", "[h2c]"));
    let mut stream = only_h2.connect();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: api.example\r\n\r\n").await.unwrap();
    assert_eq!(stream.read(&mut [0; 10]).await.unwrap(), 0, "closed without a word");
}

/// Over sockets, and while the process ends: what is under way is answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_says_so_and_answers_what_is_under_way() {
    let upstream = Upstream::start(|_| {
        let mut steps = ok("fine");
        steps.insert(0, Step::Wait(Duration::from_millis(500)));
        steps
    })
    .await;
    let yaml = "
gateway: {admin: {listen: ADMIN}, workers: 2, drain: {grace: 0s, deadline: 10s}}
listeners: {public: {listen: PUBLIC, protocols: [h1, h2c]}}
upstreams: {app: {endpoints: ['UPSTREAM']}}
routes: {all: {match: {prefix: /}, upstream: app}}
";
    let process = Process::start(&yaml.replace("UPSTREAM", upstream.address())).await;
    let mut sender = over(process.public).await;
    assert_eq!(whole(sender.send_request(ask("/")).await.unwrap()).await.1, "fine");
    let mut requests = JoinSet::new();
    for _ in 0..10 {
        let mut sender = sender.clone();
        requests.spawn(async move { whole(sender.send_request(ask("/")).await.unwrap()).await });
    }
    while upstream.requests() < 11 {
        sleep(Duration::from_millis(5)).await;
    }
    process.signal(Signal::TERM);
    while let Some(answer) = requests.join_next().await {
        assert_eq!(answer.unwrap(), (StatusCode::OK, Bytes::from("fine")));
    }
}

async fn over(address: SocketAddr) -> SendRequest<Body> {
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let (sender, connection) =
        Builder::new(TokioExecutor::new()).handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}
