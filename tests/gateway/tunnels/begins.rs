//! How a tunnel begins, and when it does not.

use std::time::Duration;

use http::StatusCode;
use naka_testkit::upstream::{Upstream, ok};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::{sleep, timeout},
};

use super::{ASK, CONFIG, SWITCH, exactly, has, head, opened, rest};
use crate::inside::{Inside, get};

#[tokio::test(start_paused = true)]
async fn r2_3_bytes_go_both_ways_once_both_ends_have_switched() {
    let gateway = Inside::new(CONFIG);
    let mut listener = gateway.network.listen("app:1");
    let mut it = opened(&gateway, &mut listener).await;
    for line in [
        "get /chat http/1.1",
        "connection: upgrade",
        "upgrade: websocket",
        "sec-websocket-version: 13",
        "sec-websocket-key: dghlihnhbxbszsbub25jzq==",
    ] {
        assert!(has(&it.asked, line), "{line}: {}", it.asked);
    }
    assert!(!it.asked.contains("transfer-encoding") && !it.asked.contains("content-length"), "{}", it.asked);
    for line in [
        "http/1.1 101 switching protocols",
        "connection: upgrade",
        "upgrade: websocket",
        "sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=",
    ] {
        assert!(has(&it.given, line), "{line}: {}", it.given);
    }
    assert!(!it.given.contains("content-length") && !it.given.contains("transfer-encoding"), "{}", it.given);
    let large = vec![7; 1 << 20];
    for _ in 0..3 {
        let (sent, got) = tokio::join!(it.client.write_all(&large), exactly(&mut it.app, 1 << 20));
        sent.unwrap();
        assert_eq!(got, large);
        let (sent, got) = tokio::join!(it.app.write_all(&large), exactly(&mut it.client, 1 << 20));
        sent.unwrap();
        assert_eq!(got, large);
    }
    assert_eq!(gateway.metric("naka_tunnels "), Some(1.0));
}

/// CVE-2026-2833: what is sent behind the request is neither a next request nor anybody's until there is a 101.
#[tokio::test(start_paused = true)]
async fn r2_3_what_comes_early_waits_for_the_101_and_goes_first_then() {
    let gateway = Inside::new(CONFIG);
    let mut listener = gateway.network.listen("app:1");
    let mut client = gateway.connect();
    let early = "GET /smuggled HTTP/1.1\r\nhost: a.example\r\n\r\n";
    client.write_all(format!("{ASK}{early}").as_bytes()).await.unwrap();
    let mut app = listener.accept().await.unwrap();
    head(&mut app).await;
    let silence = timeout(Duration::from_secs(5), app.read_u8()).await;
    assert!(silence.is_err(), "nothing comes before the 101");
    client.write_all(b"later").await.unwrap();
    app.write_all(SWITCH.as_bytes()).await.unwrap();
    head(&mut client).await;
    let both = format!("{early}later");
    assert_eq!(exactly(&mut app, both.len()).await, both.as_bytes());
}

#[tokio::test(start_paused = true)]
async fn r2_3_what_comes_early_is_a_next_request_if_the_upgrade_is_refused() {
    let gateway = Inside::new(CONFIG);
    let app = Upstream::inside(&gateway.network, "app:1", |seen| match seen.target() {
        "/chat" => naka_testkit::upstream::answer(426, "upgrade: other\r\nconnection: upgrade\r\n", "no"),
        _ => ok("next"),
    });
    let mut client = gateway.connect();
    let next = "GET /next HTTP/1.1\r\nhost: a.example\r\n\r\n";
    let last = "GET /last HTTP/1.1\r\nhost: a.example\r\nconnection: close\r\n\r\n";
    client.write_all(format!("{ASK}{ASK}{next}{ASK}{last}").as_bytes()).await.unwrap();
    let answers = String::from_utf8(rest(&mut client).await).unwrap();
    assert_eq!(answers.matches("HTTP/1.1 426 ").count(), 3, "{answers}");
    assert_eq!(answers.matches("HTTP/1.1 200 ").count(), 2, "{answers}");
    let targets = app.seen().iter().map(|seen| seen.target().to_owned()).collect::<Vec<_>>();
    assert_eq!(targets, ["/chat", "/chat", "/next", "/chat", "/last"]);
    assert_eq!(gateway.metric("naka_tunnels "), Some(0.0));
}

#[tokio::test(start_paused = true)]
async fn r2_3_a_101_that_gives_something_else_is_no_answer() {
    let gateway = Inside::new(CONFIG);
    let websocket = "connection: upgrade\r\nupgrade: websocket\r\n";
    for (ask, lines) in [
        ("", websocket),
        ("connection: upgrade\r\nupgrade: tcp\r\n", websocket),
        (websocket, "connection: upgrade\r\nupgrade: h2c\r\n"),
        (websocket, "connection: upgrade\r\n"),
        (websocket, "upgrade: websocket\r\n"),
        (websocket, ""),
        ("connection: upgrade\r\nupgrade: h2c\r\n", "connection: upgrade\r\nupgrade: h2c\r\n"),
    ] {
        let mut listener = gateway.network.listen("app:1");
        let mut client = gateway.connect();
        let request = format!("GET / HTTP/1.1\r\nhost: a.example\r\n{ask}\r\n");
        client.write_all(request.as_bytes()).await.unwrap();
        let mut app = listener.accept().await.unwrap();
        head(&mut app).await;
        let switch = format!("HTTP/1.1 101 Switching Protocols\r\n{lines}\r\nraw");
        app.write_all(switch.as_bytes()).await.unwrap();
        let answer = head(&mut client).await;
        assert!(has(&answer, "http/1.1 502 bad gateway"), "{ask:?} {lines:?}: {answer}");
        assert!(has(&answer, "naka-reason: upstream_protocol"), "{answer}");
        assert_eq!(rest(&mut app).await, b"", "and the endpoint's connection is not used again");
    }
}

/// RFC 9110 §7.8: a server may ignore `Upgrade`, and of HTTP/1.0 it must.
#[tokio::test(start_paused = true)]
async fn r2_3_what_is_no_upgrade_is_a_request_like_any_other() {
    let gateway = Inside::new(CONFIG);
    let app = Upstream::inside(&gateway.network, "app:1", |_| ok("fine"));
    for request in [
        "GET / HTTP/1.0\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\nupgrade: websocket\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade, close\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade, close\r\nupgrade: h2c\r\nhttp2-settings: AAMA\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade, close\r\nupgrade: websocket\r\ncontent-length: 2\r\n\r\nab",
        "POST / HTTP/1.1\r\nhost: a\r\nconnection: upgrade, close\r\nupgrade: websocket\r\n\r\n",
    ] {
        let mut client = gateway.connect();
        client.write_all(request.as_bytes()).await.unwrap();
        let answer = String::from_utf8(rest(&mut client).await).unwrap();
        assert!(
            answer.starts_with("HTTP/1.1 200 ") || answer.starts_with("HTTP/1.0 200 "),
            "{request}: {answer}"
        );
        let seen = app.last();
        assert_eq!((seen.header("upgrade"), seen.header("connection")), (None, None), "{request}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_goes_before_the_101_ends_the_request() {
    let gateway = Inside::new(CONFIG);
    let mut listener = gateway.network.listen("app:1");
    for early in ["", "early"] {
        let mut client = gateway.connect();
        client.write_all(format!("{ASK}{early}").as_bytes()).await.unwrap();
        let mut app = listener.accept().await.unwrap();
        head(&mut app).await;
        drop(client);
        assert_eq!(rest(&mut app).await, b"");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_kept_of_what_comes_early_is_bounded() {
    let gateway = Inside::new(CONFIG);
    let mut listener = gateway.network.listen("app:1");
    let mut client = gateway.connect();
    client.write_all(ASK.as_bytes()).await.unwrap();
    let mut app = listener.accept().await.unwrap();
    head(&mut app).await;
    let flood = vec![1; 1 << 20];
    let flooding = timeout(Duration::from_secs(1), client.write_all(&flood)).await;
    assert!(flooding.is_err(), "a pipe and 16 KiB are full before that");
    app.write_all(SWITCH.as_bytes()).await.unwrap();
    head(&mut client).await;
    assert_eq!(exactly(&mut app, 64 << 10).await, vec![1; 64 << 10]);
}

/// An upstream that goes between its 101 and the first byte, and one that speaks at once.
#[tokio::test(start_paused = true)]
async fn what_the_upstream_says_with_its_101_comes_behind_it() {
    let gateway = Inside::new(CONFIG);
    let mut listener = gateway.network.listen("app:1");
    let mut client = gateway.connect();
    client.write_all(ASK.as_bytes()).await.unwrap();
    let mut app = listener.accept().await.unwrap();
    head(&mut app).await;
    app.write_all(format!("{SWITCH}hello").as_bytes()).await.unwrap();
    drop(app);
    let given = head(&mut client).await;
    assert!(has(&given, "http/1.1 101 switching protocols"), "{given}");
    assert_eq!(rest(&mut client).await, b"hello");
}

#[tokio::test(start_paused = true)]
async fn a_connection_to_the_endpoint_that_was_kept_is_not_used_for_an_upgrade() {
    let gateway = Inside::new(CONFIG);
    let mut listener = gateway.network.listen("app:1");
    let serving = tokio::spawn(async move {
        let mut kept = listener.accept().await.unwrap();
        head(&mut kept).await;
        kept.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        (listener, kept)
    });
    assert_eq!(gateway.send(get("/")).await.status(), StatusCode::OK);
    let (mut listener, kept) = serving.await.unwrap();
    drop(kept); // At just that time.
    let it = opened(&gateway, &mut listener).await;
    assert!(it.given.starts_with("http/1.1 101"), "{}", it.given);
}

#[tokio::test(start_paused = true)]
async fn an_upstream_that_never_answers_an_upgrade_is_waited_for_as_for_any_other_answer() {
    let gateway = Inside::new(CONFIG);
    let mut listener = gateway.network.listen("app:1");
    let mut client = gateway.connect();
    client.write_all(ASK.as_bytes()).await.unwrap();
    let mut app = listener.accept().await.unwrap();
    head(&mut app).await;
    sleep(Duration::from_secs(11)).await;
    assert!(head(&mut client).await.starts_with("http/1.1 504"));
    assert_eq!(rest(&mut app).await, b"");
}

/// Bug: a key was made up for clients of HTTP/1.1 that had sent none, and the answer was held to it.
#[tokio::test(start_paused = true)]
async fn what_a_client_of_http_1_does_not_say_is_not_said_for_it() {
    let gateway = Inside::new(CONFIG);
    let mut listener = gateway.network.listen("app:1");
    let mut client = gateway.connect();
    let ask = "GET / HTTP/1.1\r\nhost: a.example\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    client.write_all(ask.as_bytes()).await.unwrap();
    let mut app = listener.accept().await.unwrap();
    assert!(!head(&mut app).await.contains("sec-websocket-key"));
    app.write_all(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")
        .await
        .unwrap();
    assert!(head(&mut client).await.starts_with("http/1.1 101"));
}
