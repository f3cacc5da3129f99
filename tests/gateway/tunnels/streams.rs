//! Tunnels that are streams of HTTP/2 (RFC 8441), from clients, to upstreams, and on both sides.

use std::time::Duration;

use bytes::Bytes;
use h2::{
    RecvStream, SendStream,
    client::{self, SendRequest},
    ext::Protocol,
    server,
};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use naka_gateway::shared::Ending;
use naka_testkit::upstream::{Step, Upstream, ok};
use tokio::{
    io::AsyncWriteExt as _,
    sync::mpsc,
    time::{sleep, timeout},
};

use super::{ASK, exactly, has, head, rest};
use crate::inside::Inside;

fn config(upstream: &str) -> String {
    format!(
        "
gateway: {{admin: none}}
listeners: {{public: {{listen: ':1', protocols: [h1, h2c]}}}}
upstreams: {{app: {{endpoints: ['app:1'], {upstream}}}}}
routes: {{all: {{match: {{prefix: /}}, upstream: app}}}}
"
    )
}

async fn connected(gateway: &Inside) -> SendRequest<Bytes> {
    let (sender, connection) = client::handshake(gateway.connect()).await.unwrap();
    tokio::spawn(connection);
    let sender = sender.ready().await.unwrap();
    while !sender.is_extended_connect_protocol_enabled() {
        tokio::task::yield_now().await;
    }
    sender
}

/// As a browser asks for it over HTTP/2.
fn connect(protocol: Option<&'static str>) -> Request<()> {
    let mut request = Request::new(());
    *request.method_mut() = Method::CONNECT;
    *request.uri_mut() = "http://a.example/chat?q=1".parse().unwrap();
    request.headers_mut().insert("sec-websocket-version", "13".parse().unwrap());
    if let Some(protocol) = protocol {
        request.extensions_mut().insert(Protocol::from(protocol));
    }
    request
}

async fn data(body: &mut RecvStream) -> Option<Bytes> {
    loop {
        let data = body.data().await?.ok()?;
        body.flow_control().release_capacity(data.len()).unwrap();
        if !data.is_empty() {
            return Some(data);
        }
    }
}

/// The 101 of RFC 6455 to a head with this key.
fn switch(asked: &str) -> String {
    let key = asked.split("\r\n").find_map(|line| line.strip_prefix("sec-websocket-key: ")).unwrap();
    let accept = naka_testkit::websocket::accept(key);
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: {accept}\r\n\r\n"
    )
}

/// The next head, as it was sent.
async fn raw_head(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> String {
    use tokio::io::AsyncReadExt as _;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

#[tokio::test(start_paused = true)]
async fn r2_3_a_websocket_over_http_2_is_an_upgrade_to_an_upstream_of_http_1() {
    let gateway = Inside::new(&config(""));
    let mut listener = gateway.network.listen("app:1");
    let mut client = connected(&gateway).await;
    let (given, mut sending) = client.send_request(connect(Some("websocket")), false).unwrap();
    let mut app = listener.accept().await.unwrap();
    let asked = raw_head(&mut app).await;
    for line in [
        "GET /chat?q=1 HTTP/1.1",
        "host: a.example",
        "connection: upgrade",
        "upgrade: websocket",
        "sec-websocket-version: 13",
    ] {
        assert!(has(&asked, line), "{line}: {asked}");
    }
    sending.send_data("early".into(), false).unwrap();
    app.write_all(switch(&asked).as_bytes()).await.unwrap();
    let given = given.await.unwrap();
    assert_eq!(given.status(), StatusCode::OK);
    for name in ["connection", "upgrade", "sec-websocket-accept", "sec-websocket-key", "content-length"] {
        assert!(!given.headers().contains_key(name), "{name}");
    }
    assert_eq!(exactly(&mut app, 5).await, b"early");
    let mut body = given.into_body();
    app.write_all(b"hello").await.unwrap();
    assert_eq!(data(&mut body).await.unwrap(), "hello");
    assert_eq!(gateway.metric("naka_tunnels "), Some(1.0));

    let (other, _) = client.send_request(connect(None), false).unwrap();
    assert_eq!(
        other.await.unwrap().status(),
        StatusCode::BAD_REQUEST,
        "a CONNECT without a protocol is none"
    );
    sending.send_data("last".into(), true).unwrap();
    assert_eq!(rest(&mut app).await, b"last", "the end of one way goes on");
    app.write_all(b"bye").await.unwrap();
    drop(app);
    assert_eq!(data(&mut body).await.unwrap(), "bye");
    assert_eq!(data(&mut body).await, None);
}

#[tokio::test(start_paused = true)]
async fn r2_3_what_is_no_switch_over_http_2_does_not_look_like_one() {
    for (say, status, reason) in [
        (
            "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
            502,
            Some("upstream_protocol"),
        ),
        (
            "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
            502,
            Some("upstream_protocol"),
        ),
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", 502, Some("not_switched")),
        ("HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno", 403, None),
    ] {
        let gateway = Inside::new(&config(""));
        let _app = Upstream::inside(&gateway.network, "app:1", move |_| vec![Step::send(say)]);
        let mut client = connected(&gateway).await;
        let (given, _sending) = client.send_request(connect(Some("websocket")), false).unwrap();
        let given = given.await.unwrap();
        let said = given.headers().get("naka-reason").map(|it| it.to_str().unwrap());
        assert_eq!((given.status().as_u16(), said), (status, reason), "{say}");
    }
    let gateway = Inside::new(&config(""));
    let app = Upstream::inside(&gateway.network, "app:1", |_| ok("fine"));
    let mut client = connected(&gateway).await;
    for protocol in ["h2c", "web socket", "TLS/1.0"] {
        let (given, _) = client.send_request(connect(Some(protocol)), false).unwrap();
        assert_eq!(given.await.unwrap().status(), StatusCode::BAD_REQUEST, "{protocol}");
    }
    assert_eq!(app.requests(), 0);
}

#[tokio::test(start_paused = true)]
async fn r2_3_a_stream_that_is_reset_ends_its_tunnel_and_no_other() {
    let gateway = Inside::new(&config(""));
    let mut listener = gateway.network.listen("app:1");
    let mut client = connected(&gateway).await;
    let mut open = Vec::new();
    for _ in 0..2 {
        let (given, sending) = client.send_request(connect(Some("websocket")), false).unwrap();
        let mut app = listener.accept().await.unwrap();
        let asked = raw_head(&mut app).await;
        app.write_all(switch(&asked).as_bytes()).await.unwrap();
        open.push((given.await.unwrap().into_body(), sending, app));
    }
    let (_, mut sending, mut app) = open.remove(0);
    sending.send_reset(h2::Reason::CANCEL);
    assert_eq!(rest(&mut app).await, b"");
    let (mut body, mut sending, mut app) = open.remove(0);
    gateway.drain(Ending::Now);
    sleep(Duration::from_mins(5)).await;
    sending.send_data("still".into(), false).unwrap();
    assert_eq!(exactly(&mut app, 5).await, b"still");
    gateway.drain(Ending::Tunnels);
    assert_eq!(data(&mut body).await.unwrap()[..], [0x88, 2, 0x03, 0xe9]);
    assert_eq!(data(&mut body).await, None);
    assert_eq!(rest(&mut app).await, b"");
}

type Tunnel = (HeaderMap, Request<()>, RecvStream, SendStream<Bytes>);

/// An upstream of HTTP/2 that takes other protocols, or does not say so; and the tunnels that it has begun.
fn upstream(gateway: &Inside, takes: bool) -> mpsc::UnboundedReceiver<Tunnel> {
    let (begun, tunnels) = mpsc::unbounded_channel();
    let mut listener = gateway.network.listen("app:1");
    tokio::spawn(async move {
        while let Some(stream) = listener.accept().await {
            let mut builder = server::Builder::new();
            if takes {
                builder.enable_connect_protocol();
            }
            let mut connection: server::Connection<_, Bytes> = builder.handshake(stream).await.unwrap();
            let begun = begun.clone();
            tokio::spawn(async move {
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    let (head, body) = request.into_parts();
                    let refuses = head.uri.path() == "/no";
                    let status = if refuses { StatusCode::FORBIDDEN } else { StatusCode::OK };
                    let response = Response::builder().status(status).body(()).unwrap();
                    let sending = respond.send_response(response, refuses).unwrap();
                    let headers = head.headers.clone();
                    begun.send((headers, Request::from_parts(head, ()), body, sending)).unwrap();
                }
            });
        }
    });
    tunnels
}

#[tokio::test(start_paused = true)]
async fn r2_3_an_upgrade_of_http_1_is_a_stream_to_an_upstream_of_http_2() {
    let gateway = Inside::new(&config("protocol: h2"));
    let mut tunnels = upstream(&gateway, true);
    let mut client = gateway.connect();
    client.write_all(format!("{ASK}early").as_bytes()).await.unwrap();
    let given = head(&mut client).await;
    for line in [
        "http/1.1 101 switching protocols",
        "upgrade: websocket",
        "connection: upgrade",
        "sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=",
    ] {
        assert!(has(&given, line), "{line}: {given}");
    }
    let (headers, asked, mut body, mut sending) = tunnels.recv().await.unwrap();
    assert_eq!((asked.method(), asked.uri().path()), (&Method::CONNECT, "/chat"));
    assert_eq!(asked.extensions().get::<Protocol>().map(Protocol::as_str), Some("websocket"));
    assert!(!headers.contains_key("sec-websocket-key") && !headers.contains_key("upgrade"));
    assert_eq!(headers["sec-websocket-version"], "13");
    assert_eq!(data(&mut body).await.unwrap(), "early");
    sending.send_data("hello".into(), false).unwrap();
    assert_eq!(exactly(&mut client, 5).await, b"hello");
    client.shutdown().await.unwrap();
    assert_eq!(data(&mut body).await, None, "the end of one way goes on");
    let large = vec![7; 1 << 20];
    sending.reserve_capacity(large.len());
    let (written, read) = tokio::join!(
        async {
            let mut left = Bytes::from(large.clone());
            while !left.is_empty() {
                std::future::poll_fn(|cx| sending.poll_capacity(cx)).await.unwrap().unwrap();
                let piece = left.split_to(sending.capacity().min(left.len()));
                sending.send_data(piece, left.is_empty()).unwrap();
            }
        },
        rest(&mut client)
    );
    let () = written;
    assert_eq!(read, large);
}

#[tokio::test(start_paused = true)]
async fn r2_3_streams_on_both_sides_are_one_tunnel() {
    let gateway = Inside::new(&config("protocol: h2"));
    let mut tunnels = upstream(&gateway, true);
    let mut client = connected(&gateway).await;
    let (given, mut sending) = client.send_request(connect(Some("websocket")), false).unwrap();
    let given = given.await.unwrap();
    assert_eq!(given.status(), StatusCode::OK);
    let (_, _, mut theirs, mut app) = tunnels.recv().await.unwrap();
    sending.send_data("ping".into(), false).unwrap();
    assert_eq!(data(&mut theirs).await.unwrap(), "ping");
    let mut body = given.into_body();
    app.send_data("pong".into(), true).unwrap();
    assert_eq!(data(&mut body).await.unwrap(), "pong");
    assert_eq!(data(&mut body).await, None);
    let mut refused = connect(Some("websocket"));
    *refused.uri_mut() = "http://a.example/no".parse().unwrap();
    let (given, _) = client.send_request(refused, false).unwrap();
    assert_eq!(given.await.unwrap().status(), StatusCode::FORBIDDEN);
}

#[tokio::test(start_paused = true)]
async fn r2_3_an_upstream_of_http_2_that_takes_no_other_protocols_is_not_asked() {
    let breaker = "protocol: h2, circuit_breaker: {consecutive: 2, open: 10s}";
    let gateway = Inside::new(&config(breaker));
    let mut tunnels = upstream(&gateway, false);
    for _ in 0..4 {
        let mut client = gateway.connect();
        client.write_all(ASK.as_bytes()).await.unwrap();
        let refused = head(&mut client).await;
        assert!(has(&refused, "http/1.1 501 not implemented"), "{refused}");
        assert!(has(&refused, "naka-reason: upgrade_unsupported"), "and no breaker opens: {refused}");
    }
    assert!(timeout(Duration::from_secs(1), tunnels.recv()).await.is_err());
}
