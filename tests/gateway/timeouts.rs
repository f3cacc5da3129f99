//! Every wait has an end, and the end says which wait it was. Virtual time throughout.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use naka_testkit::upstream::{Step, Upstream, ok};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::Instant,
};

use crate::inside::{Inside, get};

const CONFIG: &str = "
listeners: {public: {listen: ':1', timeouts: {request_headers: 10s, idle: 60s}, limits: {min_rate: never}}}
upstreams:
  app: {endpoints: ['app:1'], timeouts: {connect: 1s, response_headers: 3s, idle: 20s}}
routes:
  short: {match: {path: /short}, timeouts: {total: 2s}, upstream: app}
  long: {match: {prefix: /}, timeouts: {total: never}, upstream: app}
";

fn gateway(script: impl Fn(&str) -> Vec<Step> + Send + Sync + 'static) -> (Inside, Upstream) {
    let gateway = Inside::new(CONFIG);
    let upstream = Upstream::inside(&gateway.network, "app:1", move |seen| script(seen.target()));
    (gateway, upstream)
}

fn reason(response: &Response<Bytes>) -> (u16, &str) {
    (response.status().as_u16(), response.headers()["naka-reason"].to_str().unwrap())
}

fn seconds(since: Instant) -> u64 {
    (since.elapsed() + Duration::from_millis(500)).as_secs()
}

#[tokio::test(start_paused = true)]
async fn r2_6_a_slow_upstream_is_a_504_with_its_reason() {
    let (gateway, upstream) = gateway(|_| vec![Step::Hang]);
    let start = Instant::now();
    assert_eq!(reason(&gateway.send(get("/")).await), (504, "response_timeout"));
    assert_eq!(seconds(start), 3);
    let start = Instant::now();
    assert_eq!(reason(&gateway.send(get("/short")).await), (504, "total_timeout"));
    assert_eq!(seconds(start), 2);
    assert_eq!(upstream.requests(), 2, "nothing is tried again behind anybody's back");
}

/// Bug: the connection was closed and nothing said so, as the body is given up only behind the answer.
#[tokio::test(start_paused = true)]
async fn r2_6_an_answer_before_the_body_is_there_says_that_the_connection_ends() {
    let (gateway, _upstream) = gateway(|_| vec![Step::ReadBody, Step::Hang]);
    for (body, is_whole) in
        [("content-length: 4\r\n\r\nhalf", true), ("content-length: 100\r\n\r\nhalf", false)]
    {
        let mut stream = gateway.connect();
        stream.write_all(format!("POST /short HTTP/1.1\r\nhost: a\r\n{body}").as_bytes()).await.unwrap();
        let (mut answer, mut piece) = (String::new(), [0; 4096]);
        while !answer.contains("\r\n\r\n") {
            let count = stream.read(&mut piece).await.unwrap();
            answer += std::str::from_utf8(&piece[..count]).unwrap();
        }
        assert!(answer.contains("naka-reason: total_timeout\r\n"), "{answer}");
        assert_eq!(answer.contains("connection: close\r\n"), !is_whole, "{answer}");
    }
}

#[tokio::test(start_paused = true)]
async fn r2_6_a_dead_upstream_is_a_502_and_one_that_does_not_accept_a_504() {
    let gateway = Inside::new(&CONFIG.replace("'app:1'", "'nowhere:1'"));
    assert_eq!(reason(&gateway.send(get("/")).await), (502, "connect_failed"));
    let gateway = Inside::new(&CONFIG.replace("'app:1'", "'silent:1'"));
    let start = Instant::now();
    assert_eq!(reason(&gateway.send(get("/")).await), (504, "connect_timeout"));
    assert_eq!(seconds(start), 1);
}

#[tokio::test(start_paused = true)]
async fn a_response_body_that_stalls_is_cut_and_one_that_trickles_is_not() {
    let (gateway, _upstream) = gateway(|target| {
        let mut steps = vec![Step::send("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n")];
        let wait = if target == "/trickle" { 19 } else { 21 };
        for _ in 0..4 {
            steps.extend([Step::Wait(Duration::from_secs(wait)), Step::send("x")]);
        }
        steps
    });
    let whole = gateway.send(get("/trickle")).await;
    assert_eq!(whole.body(), "xxxx");
    let mut client = gateway.client().await;
    let start = Instant::now();
    let cut = client.head(get("/stall")).await.into_body().collect().await;
    assert!(cut.is_err(), "a cut body never looks whole");
    assert_eq!(seconds(start), 20);
}

/// But not what has no end: that may go on for as long as something comes.
#[tokio::test(start_paused = true)]
async fn the_total_cuts_no_stream_that_has_begun() {
    let (gateway, _upstream) = gateway(|_| {
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
        let mut steps = vec![Step::ReadBody, Step::send(head)];
        for _ in 0..10 {
            steps.extend([Step::Wait(Duration::from_secs(1)), Step::send("data: ride\n\n")]);
        }
        steps.push(Step::Hang);
        steps
    });
    let began = Instant::now();
    let response = gateway.client().await.head(get("/short")).await;
    let mut body = response.into_body();
    let mut events = Vec::new();
    let ended = loop {
        match body.frame().await {
            Some(Ok(frame)) => events.extend_from_slice(&frame.into_data().unwrap()),
            ended => break ended,
        }
    };
    assert_eq!(events.len(), "data: ride\n\n".len() * 10, "total is 2s");
    assert!(ended.unwrap().is_err());
    assert_eq!(seconds(began), 30, "and nothing came for as long as `idle` of the upstream");
}

#[tokio::test(start_paused = true)]
async fn the_total_covers_the_body_too() {
    let (gateway, _upstream) = gateway(|_| {
        let mut steps = vec![Step::send("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n")];
        for _ in 0..100 {
            steps.extend([Step::Wait(Duration::from_millis(100)), Step::send("x")]);
        }
        steps
    });
    let mut client = gateway.client().await;
    let start = Instant::now();
    assert!(client.head(get("/short")).await.into_body().collect().await.is_err());
    assert_eq!(seconds(start), 2);
}

/// A client that stops reading stops the gateway from asking for more, so nothing inside would ever
/// look at a clock again.
#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_is_cut_off() {
    let (gateway, upstream) = gateway(|_| {
        vec![Step::send("HTTP/1.1 200 OK\r\ncontent-length: 100000000\r\n\r\n"), Step::Fill(100_000_000)]
    });
    for (target, expected) in [("/", 60), ("/short", 2)] {
        let mut deaf = gateway.connect();
        let start = Instant::now();
        let request = format!("GET {target} HTTP/1.1\r\nhost: a\r\n\r\n");
        deaf.write_all(request.as_bytes()).await.unwrap();
        while gateway.metric("naka_requests_total{route=\"long\",status=\"cancelled\"") < Some(1.0)
            || (target == "/short"
                && gateway.metric("naka_requests_total{route=\"short\",status=\"cancelled\"") < Some(1.0))
        {
            tokio::time::sleep(Duration::from_millis(100)).await;
            assert!(start.elapsed() < Duration::from_mins(5), "{target} is never cut off");
        }
        assert_eq!(seconds(start), expected, "{target}");
        drop(deaf);
    }
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(upstream.working(), 0, "nothing is left at the upstream");
}

#[tokio::test(start_paused = true)]
async fn a_head_that_trickles_is_cut_off_and_so_is_a_connection_without_a_request() {
    let (gateway, _upstream) = gateway(|_| ok("fine"));
    let mut slow = gateway.connect();
    let start = Instant::now();
    let mut sent = 0;
    for byte in b"GET / HTTP/1.1\r\nhost: a\r\nx-padding: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa" {
        if slow.write_all(&[*byte]).await.is_err() {
            break;
        }
        sent += 1;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!(sent <= 12, "{sent} bytes in as many seconds");
    assert!(seconds(start) <= 12);

    let mut idle = gateway.connect();
    let start = Instant::now();
    idle.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let mut all = Vec::new();
    idle.read_to_end(&mut all).await.unwrap();
    assert!(all.ends_with(b"fine"));
    assert_eq!(seconds(start), 60);
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_stalls_is_a_408_and_one_that_trickles_is_not() {
    let (gateway, _upstream) = gateway(|_| ok("read"));
    let mut stalled = gateway.connect();
    let start = Instant::now();
    stalled.write_all(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nhalf").await.unwrap();
    let mut answer = vec![0; 12];
    stalled.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, b"HTTP/1.1 408");
    assert!((20..=41).contains(&seconds(start)), "between one and two idle times: {}", seconds(start));

    let mut trickling = gateway.connect();
    trickling.write_all(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\n").await.unwrap();
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_secs(15)).await;
        trickling.write_all(b"x").await.unwrap();
    }
    trickling.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, b"HTTP/1.1 200");
}

/// The upstream says no before it has read the upload: the client hears it.
#[tokio::test(start_paused = true)]
async fn an_answer_before_the_end_of_the_upload_reaches_the_client() {
    let (gateway, _upstream) = gateway(|_| {
        vec![
            Step::send("HTTP/1.1 413 Too Much\r\ncontent-length: 3\r\nconnection: close\r\n\r\nno!"),
            Step::Close,
        ]
    });
    let body = Full::from(vec![b'x'; 1 << 20]);
    let request = Request::post("/").header("host", "a").body(body).unwrap();
    let answer = gateway.send(request).await;
    assert_eq!((answer.status().as_u16(), &answer.body()[..]), (413, &b"no!"[..]));
}

/// What the gateway runs now, besides this test.
fn tasks() -> usize {
    tokio::runtime::Handle::current().metrics().num_alive_tasks()
}

/// Whoever went on writing what nobody takes would hold the client's connection with it.
#[tokio::test(start_paused = true)]
async fn an_upload_that_nobody_takes_leaves_nothing_behind() {
    let (gateway, _upstream) = gateway(|_| vec![Step::Hang]);
    let before = tasks();
    let mut client = gateway.connect();
    let head = b"POST /short HTTP/1.1\r\nhost: a\r\ncontent-length: 10000000\r\n\r\n";
    client.write_all(head).await.unwrap();
    let (mut answers, mut body) = tokio::io::split(client);
    let writer = tokio::spawn(async move { body.write_all(&vec![b'x'; 10_000_000]).await });
    let mut answer = vec![0; 12];
    answers.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, b"HTTP/1.1 504");
    writer.abort();
    drop(answers);
    let _ = writer.await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(tasks(), before + 1, "all that is left is the scripted upstream, which hangs");
}

/// The upstream has answered, and never reads the rest: neither side is held, nothing is reused.
#[tokio::test(start_paused = true)]
async fn an_answer_before_the_end_of_an_upload_gives_no_connection_back() {
    let (gateway, upstream) = gateway(|target| match target {
        "/early" => vec![Step::send("HTTP/1.1 401 No\r\ncontent-length: 0\r\n\r\n"), Step::Hang],
        _ => ok("fine"),
    });
    let before = tasks();
    let body = Full::from(vec![b'x'; 10 << 20]);
    let request = Request::post("/early").header("host", "a").body(body).unwrap();
    let mut client = gateway.client().await;
    assert_eq!(client.head(request).await.status(), 401);
    drop(client);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(tasks(), before + 1, "all that is left is the scripted upstream, which hangs");
    assert_eq!(gateway.send(get("/")).await.status(), 200);
    assert_eq!(upstream.connections(), 2);
}

/// Refusing is not dearer than serving: a short body, there or on its way, costs no connection.
#[tokio::test(start_paused = true)]
async fn a_refused_request_with_a_short_body_keeps_its_connection() {
    let gateway = Inside::new(
        "
listeners: {public: {listen: ':1'}}
policies: {none: {rate_limit: {rate: 1/h}}}
routes: {limited: {match: {path: /limited}, use: [none], respond: {}}}
",
    );
    assert_eq!(gateway.send(get("/limited")).await.status(), 200);
    let mut stream = gateway.connect();
    let mut answers = Vec::new();
    for (path, status) in [("/limited", "429"), ("/nowhere", "404"), ("/limited", "429"), ("//", "400")] {
        let head = format!("POST {path} HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        if status == "404" {
            tokio::time::sleep(Duration::from_millis(20)).await; // The body comes a little later.
        }
        stream.write_all(b"body").await.unwrap();
        answers.clear();
        while !answers.ends_with(b"}") {
            assert_ne!(stream.read_buf(&mut answers).await.unwrap(), 0, "closed before {path}");
        }
        let answer = String::from_utf8_lossy(&answers).to_ascii_lowercase();
        assert!(answer.starts_with(&format!("http/1.1 {status} ")), "{answer}");
        assert!(!answer.contains("connection: close"), "{answer}");
    }
}

/// Who says that much more comes, or waits to be asked for it, or does not send it, is answered and closed.
#[tokio::test(start_paused = true)]
async fn a_refused_request_with_a_body_that_does_not_come_is_answered_and_closed() {
    let gateway = Inside::new("listeners: {public: {listen: ':1'}}\nroutes: {}\n");
    for head in [
        "content-length: 1000000",
        "content-length: 4",
        "content-length: 4\r\nexpect: 100-continue",
        "transfer-encoding: chunked",
    ] {
        let mut stream = gateway.connect();
        stream.write_all(format!("POST /x HTTP/1.1\r\nhost: a\r\n{head}\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 404 "), "{head}: {answer}");
        assert!(answer.to_ascii_lowercase().contains("connection: close"), "{head}: {answer}");
    }
}
