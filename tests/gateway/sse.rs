//! Event streams: each event when it is sent, for as long as there are any.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use naka_testkit::upstream::{Seen, Step, Upstream};
use tokio::time::Instant;

use crate::inside::Inside;

/// All that could keep a response back, or cut it.
const CONFIG: &str = "
gateway: {admin: none}
listeners: {public: {listen: ':1', protocols: [h1, h2c], timeouts: {idle: 20s}}}
upstreams: {app: {endpoints: ['app:1'], timeouts: {idle: 1m}}}
routes:
  all: {match: {prefix: /}, compress: {min_size: 1B}, cache: {}, timeouts: {total: 30s}, retry: {max: 2}, upstream: app}
  never: {match: {prefix: /plain}, compress: {min_size: 1B}, timeouts: {total: never}, upstream: app}
";

/// Between two events.
const PAUSE: Duration = Duration::from_secs(50);
const EVENTS: usize = 5;

fn events(seen: &Seen) -> Vec<Step> {
    let kind = if seen.target() == "/plain" { "text/plain" } else { "text/event-stream; charset=utf-8" };
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncache-control: max-age=60\r\ntransfer-encoding: chunked\r\n\r\n"
    );
    let mut steps = vec![Step::send(head)];
    for number in 0..EVENTS {
        steps.extend([Step::send(format!("9\r\ndata: {number}\n\n\r\n")), Step::Wait(PAUSE)]);
    }
    match seen.target() {
        "/silent" => steps.push(Step::Hang),
        _ => steps.push(Step::send("0\r\n\r\n")),
    }
    steps
}

fn ask(target: &str) -> Request<Full<Bytes>> {
    let request = Request::get(format!("http://api.example{target}")).header("host", "api.example");
    request.header("accept-encoding", "gzip, br").body(Full::default()).unwrap()
}

/// Each event comes at its time, as it was sent. Returns how the body ended, and when.
async fn each_in_time(mut body: hyper::body::Incoming) -> (bool, Duration) {
    let began = Instant::now();
    for number in 0..EVENTS {
        let event = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(event, format!("data: {number}\n\n"));
        assert_eq!(began.elapsed(), PAUSE * u32::try_from(number).unwrap());
    }
    // Over HTTP/2 the end may be a frame without data.
    let is_whole = body.collect().await.is_ok_and(|rest| rest.to_bytes().is_empty());
    (is_whole, began.elapsed())
}

#[tokio::test(start_paused = true)]
async fn r2_3_events_come_one_by_one_for_longer_than_anything_else_may_take() {
    let gateway = Inside::new(CONFIG);
    let app = Upstream::inside(&gateway.network, "app:1", events);
    let whole = (true, PAUSE * u32::try_from(EVENTS).unwrap());
    for _ in 0..2 {
        let response = gateway.client().await.head(ask("/events")).await;
        assert!(!response.headers().contains_key("content-encoding"));
        assert_eq!(each_in_time(response.into_body()).await, whole);
    }
    let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(gateway.connect()));
    let (mut sender, connection) = handshake.await.unwrap();
    tokio::spawn(connection);
    let response = sender.send_request(ask("/events")).await.unwrap();
    assert_eq!(each_in_time(response.into_body()).await, whole, "over HTTP/2, too");
    assert!(app.requests() >= 2);
}

#[tokio::test(start_paused = true)]
async fn r2_3_an_event_stream_that_says_nothing_ends_after_the_idle_timeout() {
    let gateway = Inside::new(CONFIG);
    let _app = Upstream::inside(&gateway.network, "app:1", events);
    let response = gateway.client().await.head(ask("/silent")).await;
    let last = PAUSE * u32::try_from(EVENTS - 1).unwrap();
    assert_eq!(each_in_time(response.into_body()).await, (false, last + Duration::from_mins(1)));
}

/// What is no event stream is cut by `total`, unless that is `never`.
#[tokio::test(start_paused = true)]
async fn r2_3_any_other_response_may_go_on_where_the_file_says_so() {
    let gateway = Inside::new(CONFIG);
    let _app = Upstream::inside(&gateway.network, "app:1", events);
    let mut request = ask("/plain");
    request.headers_mut().remove("accept-encoding");
    let response = gateway.client().await.head(request).await;
    assert!(each_in_time(response.into_body()).await.0);
}
