//! Clients that are slow because they want to be, and those that have a reason. In virtual time.

use std::time::Duration;

use naka_testkit::upstream::{Step, Upstream, ok};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::{Instant, sleep},
};

use crate::inside::Inside;

const CONFIG: &str = "
gateway: {admin: none}
listeners: {public: {listen: ':1', protocols: [h1, h2c], timeouts: {request_headers: 10s, idle: 60s}}}
upstreams: {app: {endpoints: ['app:1'], bulkhead: {max: 3}}}
routes: {all: {match: {prefix: /}, timeouts: {total: never}, upstream: app}}
";

fn gateway(yaml: &str) -> (Inside, Upstream) {
    let gateway = Inside::new(yaml);
    let app = Upstream::inside(&gateway.network, "app:1", |seen| match seen.target() {
        "/large" => vec![
            Step::ReadBody,
            Step::send("HTTP/1.1 200 OK\r\ncontent-length: 100000000\r\n\r\n"),
            Step::Fill(100_000_000),
        ],
        "/talks" => vec![
            Step::send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n"),
            Step::ReadBody,
            Step::send("3\r\nbye\r\n0\r\n\r\n"),
        ],
        "/silent" => {
            let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
            vec![
                Step::ReadBody,
                Step::send(head),
                Step::Wait(Duration::from_secs(200)),
                Step::send("data: x\n\n"),
                Step::Close,
            ]
        }
        _ => ok("read"),
    });
    (gateway, app)
}

fn working(gateway: &Inside) -> u32 {
    gateway.generation().state.bulkheads.get("app/bulkhead").unwrap().counts().working
}

/// Sends a piece of an upload each so often, until it is answered or all is sent. Says with what, and how long it took.
async fn uploaded(
    gateway: &Inside,
    target: &str,
    head: &str,
    piece: &[u8],
    count: u32,
    each: Duration,
) -> (String, u64) {
    let (mut from, mut into) = tokio::io::split(gateway.connect());
    let began = Instant::now();
    into.write_all(
        format!("POST {target} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n{head}\r\n\r\n").as_bytes(),
    )
    .await
    .unwrap();
    let reading = tokio::spawn(async move {
        let mut answer = Vec::new();
        let _ = from.read_to_end(&mut answer).await; // It may be cut off.
        (String::from_utf8_lossy(&answer).into_owned(), began.elapsed().as_secs())
    });
    for _ in 0..count {
        sleep(each).await;
        if reading.is_finished() || into.write_all(piece).await.is_err() {
            break;
        }
    }
    reading.await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn r2_3_an_upload_byte_by_byte_is_a_408_and_holds_no_place() {
    for head in ["content-length: 100000", "transfer-encoding: chunked"] {
        let (gateway, _app) = gateway(CONFIG);
        let piece: &[u8] = if head.starts_with('c') { b"x" } else { b"1\r\nx\r\n" };
        let (answer, seconds) = uploaded(&gateway, "/", head, piece, 10_000, Duration::from_secs(1)).await;
        assert!(answer.starts_with("HTTP/1.1 408"), "{head}: {answer}");
        assert!(answer.contains("naka-reason: request_timeout"), "{answer}");
        assert!(
            (20..=24).contains(&seconds),
            "20 seconds, and what the bytes gave, and one in which the end is heard: {seconds}"
        );
        assert_eq!(working(&gateway), 0);
    }
}

/// As slow as may be: 240 bytes a second, in pieces, after a pause; and a fast one that pauses for long.
#[tokio::test(start_paused = true)]
async fn an_upload_that_is_fast_enough_goes_through() {
    let (gateway, _app) = gateway(CONFIG);
    let length = |count: usize| format!("content-length: {count}");
    let (answer, _) =
        uploaded(&gateway, "/", &length(240_000), &[b'x'; 2400], 100, Duration::from_secs(10)).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let (answer, _) =
        uploaded(&gateway, "/", &length(600_000), &vec![b'x'; 200_000], 3, Duration::from_secs(19)).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let (answer, seconds) =
        uploaded(&gateway, "/", &length(400_000), &vec![b'x'; 200_000], 2, Duration::from_secs(15)).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(seconds >= 30);
}

#[tokio::test(start_paused = true)]
async fn a_listener_may_let_its_clients_be_as_slow_as_they_like() {
    let yaml = CONFIG.replace("idle: 60s}", "idle: 60s}, limits: {min_rate: never}");
    let (gateway, _app) = gateway(&yaml);
    let (answer, seconds) =
        uploaded(&gateway, "/", "content-length: 100", b"x", 100, Duration::from_secs(5)).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(seconds >= 500, "{seconds}");
}

/// Whoever is answered while it still sends is in a conversation, which has its own pace.
#[tokio::test(start_paused = true)]
async fn an_upload_that_is_answered_already_may_be_slow() {
    let (gateway, _app) = gateway(CONFIG);
    let (answer, seconds) =
        uploaded(&gateway, "/talks", "content-length: 10", b"x", 10, Duration::from_secs(25)).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("bye"), "{answer}");
    assert!(seconds >= 250, "{seconds}");
}

/// A client that takes its response in drips keeps no connection to the endpoint and no place.
#[tokio::test(start_paused = true)]
async fn r2_3_a_response_that_is_taken_in_drips_is_cut_and_holds_no_place() {
    let (gateway, _app) = gateway(CONFIG);
    let mut stream = gateway.connect();
    stream.write_all(b"GET /large HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let began = Instant::now();
    let mut drop = [0; 100];
    while working(&gateway) > 0 || began.elapsed().as_secs() == 0 {
        stream.read_exact(&mut drop).await.unwrap();
        sleep(Duration::from_secs(1)).await;
        assert!(began.elapsed().as_secs() < 600, "it is never cut");
    }
    // And one that is fast enough gets all that it asks for.
    let mut stream = gateway.connect();
    stream.write_all(b"GET /large HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let mut piece = vec![0; 2400];
    for _ in 0..200 {
        stream.read_exact(&mut piece).await.unwrap();
        sleep(Duration::from_secs(10)).await;
    }
    assert_eq!(working(&gateway), 1);
}

/// Nobody is slow who is not waited for: an event stream in which nothing happens.
#[tokio::test(start_paused = true)]
async fn r2_3_an_event_stream_in_which_nothing_happens_is_not_slow() {
    let (gateway, _app) = gateway(CONFIG);
    let mut stream = gateway.connect();
    stream.write_all(b"GET /silent HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert!(String::from_utf8_lossy(&answer).contains("data: x"), "{}", String::from_utf8_lossy(&answer));
}
