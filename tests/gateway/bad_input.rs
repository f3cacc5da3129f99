//! What comes from outside and is wrong: refused with a reason, and nothing panics or hangs.

use std::time::Duration;

use naka_testkit::upstream::{Step, Upstream, ok};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::{Instant, sleep},
};

use crate::{
    inside::{Inside, get},
    process::{Process, raw},
};

const CONFIG: &str = "
gateway: {admin: {listen: ADMIN}, workers: 1, limits: {header_bytes: 16KiB, header_count: 50, uri: 2KiB}}
listeners: {public: {listen: PUBLIC}}
upstreams: {app: {endpoints: ['UPSTREAM']}}
routes: {all: {match: {prefix: /}, upstream: app}}
";

/// Over sockets: each is answered with its status, or closed, and never reaches the upstream.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_requests_are_refused_and_the_connection_is_closed() {
    let upstream = Upstream::start(|_| ok("reached")).await;
    let process = Process::start(&CONFIG.replace("UPSTREAM", upstream.address())).await;
    let long = "a".repeat(5000);
    let many = "x-more: 1\r\n".repeat(60);
    // 0: closed without an answer.
    let table: &[(&str, String, &[u16])] = &[
        ("no HTTP", "hello\r\n\r\n".into(), &[400]),
        ("TLS", "\u{16}\u{3}\u{1}\u{2}\u{0}\u{1}".to_owned() + &long, &[400]),
        ("an unknown version", "GET / HTTP/3.7\r\nhost: a\r\n\r\n".into(), &[400]),
        ("no host", "GET / HTTP/1.1\r\n\r\n".into(), &[400]),
        ("two hosts", "GET / HTTP/1.1\r\nhost: a\r\nhost: a\r\n\r\n".into(), &[400]),
        ("user info", "GET / HTTP/1.1\r\nhost: me@a\r\n\r\n".into(), &[400]),
        ("a host that is none", "GET / HTTP/1.1\r\nhost: a..b\r\n\r\n".into(), &[400]),
        (
            "two lengths",
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nxx".into(),
            &[400],
        ),
        ("a length with a sign", "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: +1\r\n\r\nx".into(), &[400]),
        ("an unknown coding", "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip\r\n\r\n".into(), &[400]),
        (
            "coded twice",
            "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n".into(),
            &[400],
        ),
        (
            "chunked in 1.0",
            "POST / HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n".into(),
            &[400],
        ),
        ("a space before the colon", "GET / HTTP/1.1\r\nhost : a\r\n\r\n".into(), &[400]),
        ("a folded line", "GET / HTTP/1.1\r\nhost: a\r\nx: 1\r\n 2\r\n\r\n".into(), &[400]),
        ("a NUL", "GET / HTTP/1.1\r\nhost: a\r\nx: \0\r\n\r\n".into(), &[400]),
        ("a bare CR", "GET / HTTP/1.1\r\nhost: a\r\nx: a\rb\r\n\r\n".into(), &[400]),
        ("a long target", format!("GET /{long} HTTP/1.1\r\nhost: a\r\n\r\n"), &[414]),
        (
            "a long head",
            format!("GET / HTTP/1.1\r\nhost: a\r\n{}\r\n", format!("x: {long}\r\n").repeat(5)),
            &[431],
        ),
        ("many fields", format!("GET / HTTP/1.1\r\nhost: a\r\n{many}\r\n"), &[431]),
        ("a dot segment", "GET /a/../b HTTP/1.1\r\nhost: a\r\n\r\n".into(), &[400]),
        ("a hidden dot segment", "GET /a/%2e%2e/b HTTP/1.1\r\nhost: a\r\n\r\n".into(), &[400]),
        ("an escaped slash", "GET /a%2fb HTTP/1.1\r\nhost: a\r\n\r\n".into(), &[400]),
        ("a half escape", "GET /a%2 HTTP/1.1\r\nhost: a\r\n\r\n".into(), &[400]),
        ("CONNECT", "CONNECT a:80 HTTP/1.1\r\nhost: a:80\r\n\r\n".into(), &[400]),
        ("the server itself", "OPTIONS * HTTP/1.1\r\nhost: a\r\n\r\n".into(), &[400]),
        ("HTTP/2 by prior knowledge", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into(), &[400]),
    ];
    for (what, request, expected) in table {
        let request = request.replacen("HTTP/1.1\r\n", "HTTP/1.1\r\nconnection: close\r\n", 1);
        let answer = raw(process.public, request.as_bytes()).await;
        let answer = String::from_utf8_lossy(&answer);
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        assert!(expected.contains(&status), "{what}: {answer}");
    }
    assert_eq!(upstream.requests(), 0, "nothing of it reached the upstream");
    assert_eq!(process.public("GET / HTTP/1.1\r\nx: y\r\n").await.0, 400, "a request in a request line");
    assert_eq!(process.public("GET /").await.0, 200, "and the gateway still serves");
    assert!(!process.log().contains("panicked"), "{}", process.log());
}

/// Both framings at once: it is refused, and the connection is not used again (RFC 9112 §6.3), so that nobody can hide a
/// request in it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r2_3_a_request_hidden_behind_two_framings_is_never_seen() {
    let upstream = Upstream::start(|_| ok("reached")).await;
    let process = Process::start(&CONFIG.replace("UPSTREAM", upstream.address())).await;
    for lines in [
        "content-length: 6\r\ntransfer-encoding: chunked",
        "transfer-encoding: chunked\r\ncontent-length: 6",
        "content-length: 44\r\ntransfer-encoding: chunked",
    ] {
        let request = format!(
            "POST /outer HTTP/1.1\r\nhost: a\r\n{lines}\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n"
        );
        let answer = String::from_utf8(raw(process.public, request.as_bytes()).await).unwrap();
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{lines}: {answer}");
        assert!(answer.starts_with("HTTP/1.1 400 "), "{lines}: {answer}");
        assert!(answer.contains("Content-Length beside Transfer-Encoding"), "{lines}: {answer}");
    }
    assert!(upstream.seen().is_empty(), "{:?}", upstream.seen());
}

/// What an upstream does wrong becomes a 502 with its reason, and a cut body never looks whole.
#[tokio::test(start_paused = true)]
async fn r2_6_a_broken_upstream_is_a_502_with_its_reason() {
    let gateway =
        Inside::new(&CONFIG.replace("PUBLIC", "':1'").replace("ADMIN", "':2'").replace("UPSTREAM", "app:1"));
    let _upstream = Upstream::inside(&gateway.network, "app:1", |seen| match seen.target() {
        "/closes" => vec![Step::Close],
        "/half-a-head" => vec![Step::send("HTTP/1.1 200 OK\r\ncontent-le"), Step::Close],
        "/garbage" => vec![Step::send("\0\u{1}\u{2} what?\r\n\r\n"), Step::Close],
        "/bad-status" => vec![Step::send("HTTP/1.1 9 Odd\r\n\r\n"), Step::Close],
        "/two-lengths" => vec![
            Step::send("HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nxx"),
            Step::Close,
        ],
        "/upgrade" => vec![Step::send("HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n")],
        "/cut-length" => vec![Step::send("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf"), Step::Close],
        "/cut-chunked" => vec![
            Step::send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n"),
            Step::Close,
        ],
        "/bad-chunk" => vec![
            Step::send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nhalf\r\n"),
            Step::Close,
        ],
        _ => ok("fine"),
    });
    for (target, expected) in [
        ("/closes", "upstream_reset"),
        ("/half-a-head", "upstream_reset"),
        ("/garbage", "upstream_protocol"),
        ("/bad-status", "upstream_protocol"),
        ("/two-lengths", "upstream_protocol"),
        ("/upgrade", "upstream_protocol"),
    ] {
        let answer = gateway.send(get(target)).await;
        assert_eq!(
            (answer.status().as_u16(), &answer.headers()["naka-reason"]),
            (502, &expected.parse().unwrap()),
            "{target}"
        );
    }
    for target in ["/cut-length", "/cut-chunked", "/bad-chunk"] {
        assert!(gateway.client().await.whole(get(target)).await.is_none(), "{target} looks whole");
    }
    assert_eq!(gateway.send(get("/")).await.status(), 200, "nothing of them is in a kept connection");
}

/// hyper does not look again by itself at what it found nothing in while a request was under way.
#[tokio::test(start_paused = true)]
async fn what_is_no_request_is_answered_at_once_behind_one_that_takes_its_time() {
    let gateway =
        Inside::new(&CONFIG.replace("PUBLIC", "':1'").replace("ADMIN", "':2'").replace("UPSTREAM", "app:1"));
    let _upstream = Upstream::inside(&gateway.network, "app:1", |seen| match seen.target() {
        "/fast" => ok("done"),
        "/chunks" => vec![
            Step::Wait(Duration::from_secs(1)),
            Step::send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\ndone\r\n0\r\n\r\n"),
        ],
        _ => [vec![Step::ReadBody, Step::Wait(Duration::from_secs(1))], ok("done")].concat(),
    });
    let bad = "GET / HTTP/1.1\r\nHost : a\r\n\r\n";
    for first in [
        "GET /fast HTTP/1.1\r\nhost: a\r\n\r\n",
        "GET /slow HTTP/1.1\r\nhost: a\r\n\r\n",
        "GET /chunks HTTP/1.1\r\nhost: a\r\n\r\n",
        "POST /slow HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc",
    ] {
        for (wait, bad) in [(0, bad), (300, bad), (0, "\n"), (2000, "\n"), (300, "GET /\0 HTTP/1.1\r\n\r\n")]
        {
            let mut stream = gateway.connect();
            stream.write_all(first.as_bytes()).await.unwrap();
            sleep(Duration::from_millis(wait)).await;
            stream.write_all(bad.as_bytes()).await.unwrap();
            let (began, mut answer) = (Instant::now(), String::new());
            stream.read_to_string(&mut answer).await.unwrap();
            assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("done"), "{first}: {answer}");
            assert!(answer.contains("HTTP/1.1 400 Bad Request"), "{first}{bad}: {answer}");
            assert!(began.elapsed() < Duration::from_secs(5), "{first}{bad}: after {:?}", began.elapsed());
        }
    }
}

/// However it is cut, it is said what is wrong; and at once, also where no line ever ends.
#[tokio::test(start_paused = true)]
async fn what_is_no_request_is_told_why_however_it_comes() {
    let gateway =
        Inside::new(&CONFIG.replace("PUBLIC", "':1'").replace("ADMIN", "':2'").replace("UPSTREAM", "app:1"));
    let _upstream = Upstream::inside(&gateway.network, "app:1", |_| ok("done"));
    let bad: [&[u8]; 4] = [
        b"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/1.1\r\nhost: a\r\nx: \0\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
    ];
    for bad in bad {
        for cut in 1..bad.len() {
            let mut stream = gateway.connect();
            stream.write_all(&bad[..cut]).await.unwrap();
            sleep(Duration::from_millis(10)).await;
            let _ = stream.write_all(&bad[cut..]).await; // It may know already.
            let (began, mut answer) = (Instant::now(), String::new());
            stream.read_to_string(&mut answer).await.unwrap();
            assert!(answer.contains("application/problem+json"), "{bad:?} cut at {cut}: {answer}");
            assert!(answer.contains("(RFC 911"), "{bad:?} cut at {cut}: {answer}");
            let status = "\r\nproxy-status: naka; error=http_request_error; details=\"bad_request\"\r\n";
            assert!(answer.contains(status), "{bad:?} cut at {cut}: {answer}");
            assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
        }
    }
    // What is right is answered, however it is cut.
    let fine = b"POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 3\r\n\r\nabc";
    for cut in 1..fine.len() {
        let mut stream = gateway.connect();
        for piece in [&fine[..cut], &fine[cut..]] {
            stream.write_all(piece).await.unwrap();
            sleep(Duration::from_millis(10)).await;
        }
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "cut at {cut}: {answer}");
    }
}

/// After an answer that ends the connection, there is none; where the end is that of the body, it would be part of it.
#[tokio::test(start_paused = true)]
async fn what_is_no_request_is_not_answered_behind_an_answer_that_ends_the_connection() {
    let gateway =
        Inside::new(&CONFIG.replace("PUBLIC", "':1'").replace("ADMIN", "':2'").replace("UPSTREAM", "app:1"));
    let _upstream = Upstream::inside(&gateway.network, "app:1", |seen| match seen.target() {
        "/chunks" => {
            vec![Step::send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\ndone\r\n0\r\n\r\n")]
        }
        _ => ok("done"),
    });
    for first in [
        "GET /chunks HTTP/1.0\r\n\r\n",
        "GET /one HTTP/1.0\r\n\r\n",
        "GET /one HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
    ] {
        for bad in ["\n", "GET / HTTP/1.1\r\nHost : a\r\n\r\n"] {
            let mut stream = gateway.connect();
            stream.write_all(format!("{first}{bad}").as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            assert!(
                answer.ends_with("done") && answer.matches("HTTP/1.").count() == 1,
                "{first}{bad}: {answer}"
            );
        }
    }
}

/// What is thrown away behind a head that is wrong does not hide that the client has gone.
#[tokio::test(start_paused = true)]
async fn a_client_that_goes_after_what_is_no_request_is_given_up() {
    let gateway =
        Inside::new(&CONFIG.replace("PUBLIC", "':1'").replace("ADMIN", "':2'").replace("UPSTREAM", "app:1"));
    let _upstream = Upstream::inside(&gateway.network, "app:1", |_| vec![Step::Hang]);
    let mut stream = gateway.connect();
    stream.write_all(b"GET /slow HTTP/1.1\r\nhost: a\r\n\r\nGET / HTTP/1.1\nx\r\n\r\n").await.unwrap();
    sleep(Duration::from_millis(10)).await;
    drop(stream);
    sleep(Duration::from_millis(10)).await;
    let cancelled = gateway.metric("naka_requests_total{route=\"all\",status=\"cancelled\"");
    assert_eq!(cancelled, Some(1.0));
}
