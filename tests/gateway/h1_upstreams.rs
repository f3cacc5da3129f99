//! One exchange over HTTP/1.1 in its odd orders: answers before the end of an upload, preliminary ones, what breaks off.

use std::time::Duration;

use http::{Method, Request};
use http_body_util::Full;
use naka_testkit::upstream::{Seen, Step, Upstream, ok};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::Instant,
};

use crate::inside::{Inside, get};

const CONFIG: &str = "
gateway: {admin: none}
listeners: {public: {listen: ':1'}}
upstreams: {app: {endpoints: ['app:1'], timeouts: {idle: 30s, response_headers: 30s}}}
routes: {all: {match: {prefix: /}, upstream: app}}
";

fn inside(script: impl Fn(&Seen) -> Vec<Step> + Send + Sync + 'static) -> (Inside, Upstream) {
    let gateway = Inside::new(CONFIG);
    let upstream = Upstream::inside(&gateway.network, "app:1", script);
    (gateway, upstream)
}

/// It would wait for its client for ever, who has all of its upload to send before it reads.
#[tokio::test(start_paused = true)]
async fn an_upload_goes_on_while_nobody_reads_the_answer_to_it() {
    const LONG: usize = 4 << 20;
    let (gateway, _upstream) = inside(|_| {
        let length = LONG + 2;
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n");
        vec![
            Step::send(head),
            Step::send(vec![b'd'; 200 << 10]),
            Step::ReadBody,
            Step::Fill((LONG - (200 << 10)) as u64),
            Step::send("ok"),
        ]
    });
    let mut client = gateway.connect();
    let head = format!("POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: {LONG}\r\n\r\n");
    client.write_all(head.as_bytes()).await.unwrap();
    client.write_all(&vec![b'u'; LONG]).await.unwrap();
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n") && answer.ends_with(b"ok"));
    assert!(answer.len() > LONG);
}

#[tokio::test(start_paused = true)]
async fn a_connection_is_used_again_if_the_upload_ends_before_the_answer_to_it() {
    let (gateway, upstream) = inside(|seen| match seen.target() {
        "/echo" => vec![
            Step::send("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nfirst"),
            Step::ReadBody,
            Step::Wait(Duration::from_millis(1)),
            Step::send("last"),
        ],
        _ => ok("fine"),
    });
    let mut client = gateway.client().await;
    for _ in 0..5 {
        let body = Full::from(vec![b'u'; 1 << 20]);
        let answer = client.send(Request::post("/echo").header("host", "a").body(body).unwrap()).await;
        assert_eq!(answer.body(), "firstlast");
        assert_eq!(client.send(get("/")).await.body(), "fine");
    }
    assert_eq!((upstream.requests(), upstream.connections()), (10, 1));
    assert_eq!(upstream.body_bytes(), 5 << 20);
}

/// What the endpoint waits for never comes, and so its answer has no end: nobody waits for `timeouts.idle`.
#[tokio::test(start_paused = true)]
async fn an_upload_that_breaks_off_behind_the_head_of_its_answer_ends_both() {
    let (gateway, _upstream) = inside(|_| {
        vec![
            Step::send("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nfirst"),
            Step::ReadBody,
            Step::send("last"),
        ]
    });
    let mut client = gateway.connect();
    let start = Instant::now();
    client
        .write_all(b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"first") {
        assert!(client.read_buf(&mut answer).await.unwrap() > 0, "{}", String::from_utf8_lossy(&answer));
    }
    client.write_all(b"no size\r\n").await.unwrap();
    let _ = client.read_to_end(&mut answer).await;
    assert!(!answer.ends_with(b"last") && start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn preliminary_answers_are_passed_over_and_bounded() {
    let (gateway, upstream) = inside(|seen| {
        let early = "HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\n\r\n";
        match seen.target() {
            "/some" => vec![
                Step::send(early.repeat(100)),
                Step::send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"),
            ],
            _ => vec![Step::send(early.repeat(4000)), Step::Hang],
        }
    });
    let mut client = gateway.client().await;
    assert_eq!(client.send(get("/some")).await.body(), "ok");
    assert_eq!(client.send(get("/some")).await.body(), "ok");
    assert_eq!(upstream.connections(), 1);
    let endless = client.send(get("/endless")).await;
    assert_eq!(
        (endless.status().as_u16(), &endless.headers()["naka-reason"]),
        (502, &"upstream_protocol".parse().unwrap())
    );
}

/// An endpoint that answers in a head without end is not listened to for ever, nor one that speaks something else.
#[tokio::test(start_paused = true)]
async fn what_is_no_head_is_told_at_once() {
    let (gateway, _upstream) = inside(|seen| match seen.target() {
        "/ssh" => vec![Step::send("SSH-2.0-OpenSSH_9.2\r\n"), Step::Hang],
        "/later" => vec![
            Step::send("HTTP/1.1 200 OK\r\n"),
            Step::Wait(Duration::from_millis(1)),
            Step::send("a b\r\n"),
            Step::Hang,
        ],
        "/large" => {
            let field = format!("x: {}\r\n", "y".repeat(140 << 10));
            vec![Step::send(format!("HTTP/1.1 200 OK\r\n{field}content-length: 0\r\n\r\n"))]
        }
        "/long" => vec![
            Step::send("HTTP/1.1 200 OK\r\n"),
            Step::send("x: yyyyyyyyyyyyyyyyyyyyyyyyy\r\n".repeat(6000)),
            Step::Hang,
        ],
        "/many" => vec![
            Step::send("HTTP/1.1 200 OK\r\n"),
            Step::send("x: y\r\n".repeat(101)),
            Step::send("content-length: 0\r\n\r\n"),
        ],
        "/chunk" => vec![
            Step::send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\nhello\n0\n\n"),
            Step::Hang,
        ],
        _ => vec![Step::send("HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n"), Step::Close],
    });
    let start = Instant::now();
    for target in ["/ssh", "/later", "/long", "/large", "/many", "/coded"] {
        let answer = gateway.send(get(target)).await;
        assert_eq!(
            (answer.status().as_u16(), &answer.headers()["naka-reason"]),
            (502, &"upstream_protocol".parse().unwrap()),
            "{target}"
        );
    }
    let mut client = gateway.connect();
    client.write_all(b"GET /chunk HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = client.read_to_end(&mut answer).await;
    assert!(!answer.ends_with(b"0\r\n\r\n"), "it broke off: {}", String::from_utf8_lossy(&answer));
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
}

/// What it says while nobody asks (as many do before they close a connection that was idle) is no answer to what comes next.
#[tokio::test(start_paused = true)]
async fn an_endpoint_that_speaks_unasked_loses_its_connection_and_nobody_a_request() {
    let (gateway, upstream) = inside(|_| {
        vec![
            Step::ReadBody,
            Step::send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"),
            Step::Wait(Duration::from_secs(1)),
            Step::send("HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"),
            Step::Close,
        ]
    });
    for _ in 0..5 {
        let post = Request::builder().method(Method::POST).uri("/").header("host", "a");
        assert_eq!(gateway.send(post.body(Full::from("once")).unwrap()).await.body(), "ok");
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    assert_eq!((upstream.requests(), upstream.connections()), (5, 5));
}

/// Bug: of `http://host?query` the path is empty, which is no target in the form that endpoints are asked in (RFC 9112 §3.2.1).
#[tokio::test(start_paused = true)]
async fn an_absolute_target_without_a_path_has_one_for_the_endpoint() {
    let (gateway, upstream) = inside(|_| ok("fine"));
    let mut client = gateway.connect();
    let request = b"GET http://a.example?x=y HTTP/1.1\r\nhost: a.example\r\nconnection: close\r\n\r\n";
    client.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    assert_eq!(upstream.last().target(), "/?x=y");
}

/// As old servers send it behind a body: an empty line, cut in two.
#[tokio::test(start_paused = true)]
async fn an_empty_line_before_a_head_is_passed_over() {
    let (gateway, _upstream) = inside(|_| {
        let (first, rest) = ("\r", "\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
        vec![Step::send(first), Step::Wait(Duration::from_millis(1)), Step::send(rest)]
    });
    assert_eq!(gateway.send(get("/")).await.body(), "ok");
}

/// Bug: what a request had waited for a connection was taken off the time that its endpoint has.
#[tokio::test(start_paused = true)]
async fn who_has_waited_for_a_connection_gives_its_endpoint_all_the_time_there_is() {
    let config = CONFIG.replace(
        "timeouts: {idle: 30s, response_headers: 30s}",
        "timeouts: {connect: 5s, response_headers: 4s}, connections: {max: 1}",
    );
    let gateway = Inside::new(&config);
    let upstream = Upstream::inside(&gateway.network, "app:1", |_| {
        let answer = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
        vec![Step::Wait(Duration::from_secs(3)), Step::send(answer)]
    });
    let (mut first, mut second) = (gateway.client().await, gateway.client().await);
    let (first, second) = tokio::join!(first.send(get("/")), second.send(get("/")));
    assert_eq!((first.status(), second.status()), (http::StatusCode::OK, http::StatusCode::OK));
    assert_eq!((upstream.requests(), upstream.connections()), (2, 1));
}

/// More than is kept of what comes behind a request.
#[tokio::test(start_paused = true)]
async fn requests_that_are_sent_ahead_are_answered_in_order_however_many() {
    const AHEAD: u64 = 400;
    let (gateway, upstream) = inside(|seen| {
        let body = seen.target().to_owned();
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        vec![Step::Wait(Duration::from_millis(100)), Step::send(answer)]
    });
    let mut client = gateway.connect();
    let one = |number: u64| format!("GET /{number:03} HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "y".repeat(60));
    client.write_all(one(0).as_bytes()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(10)).await; // It is under way.
    let ahead = (1..=AHEAD).map(one).collect::<String>();
    assert!(ahead.len() > 32 << 10);
    let (mut read, mut write) = tokio::io::split(client);
    let sending = tokio::spawn(async move {
        write.write_all(ahead.as_bytes()).await.unwrap();
        write
    });
    let mut answers = Vec::new();
    while !answers.ends_with(format!("/{AHEAD:03}").as_bytes()) {
        assert!(read.read_buf(&mut answers).await.unwrap() > 0, "{}", String::from_utf8_lossy(&answers));
    }
    drop(sending.await.unwrap());
    let answers = String::from_utf8(answers).unwrap();
    let paths = answers.match_indices("\r\n\r\n/").map(|(at, _)| &answers[at + 5..at + 8]);
    assert!(paths.eq((0..=AHEAD).map(|number| format!("{number:03}"))), "{answers}");
    assert_eq!(upstream.requests(), AHEAD + 1);
}

#[tokio::test(start_paused = true)]
async fn what_is_wrong_behind_a_request_under_way_is_told_behind_its_answer() {
    let (gateway, upstream) = inside(|_| {
        let answer = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
        vec![Step::Wait(Duration::from_secs(1)), Step::send(answer)]
    });
    let mut client = gateway.connect();
    client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    tokio::time::sleep(Duration::from_millis(10)).await;
    client.write_all(b"GET / HTTP/1.1\r\nhost : a\r\n\r\n").await.unwrap();
    let mut answers = Vec::new();
    client.read_to_end(&mut answers).await.unwrap();
    let answers = String::from_utf8(answers).unwrap();
    let second = answers.find("HTTP/1.1 400 ").unwrap_or_else(|| panic!("{answers}"));
    assert!(answers.starts_with("HTTP/1.1 200 OK\r\n") && answers[..second].ends_with("ok"), "{answers}");
    assert_eq!(upstream.requests(), 1);
}

/// It ends at once, and not when the answer is there.
#[tokio::test(start_paused = true)]
async fn a_client_that_goes_behind_what_it_sent_ahead_takes_its_request_with_it() {
    let (gateway, upstream) = inside(|_| vec![Step::Hang]);
    let mut client = gateway.connect();
    client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    tokio::time::sleep(Duration::from_millis(10)).await;
    client.write_all(b"GET /next HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    tokio::time::sleep(Duration::from_millis(10)).await;
    let start = Instant::now();
    client.shutdown().await.unwrap();
    let mut answer = Vec::new();
    let _ = client.read_to_end(&mut answer).await;
    assert!(answer.is_empty() && start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    assert_eq!(upstream.requests(), 1);
}
