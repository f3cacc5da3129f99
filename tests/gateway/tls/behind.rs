//! What stands behind TLS is what stands behind a bare socket: upgrades, and the bounds of HTTP/2.

use bytes::Bytes;
use h2::{client, ext::Protocol};
use http::{Method, Request};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio_rustls::client::TlsStream;

use super::{Authority, Dialing};
use crate::{
    inside::Inside,
    tunnels::{ASK, SWITCH, exactly, has, head, rest},
};

const CONFIG: &str = "
gateway: {admin: none}
listeners:
  public: {listen: ':1', tls: {certificates: [{cert: api.pem, key: api.key}]}, protocols: [h1, h2]}
upstreams: {app: {endpoints: ['app:1']}}
routes: {all: {match: {prefix: /}, upstream: app}}
";

/// A gateway with a certificate for `a.example`, and a connection to it over which this is spoken.
async fn connected(protocol: &'static [u8]) -> (Inside, TlsStream<DuplexStream>) {
    let authority = Authority::new("ours");
    let pair = authority.certify(&["a.example"]);
    let gateway = Inside::with_files(CONFIG, &[("api.pem", &pair.cert), ("api.key", &pair.key)]);
    let dialing = Dialing::new(&authority).speaking(&[protocol]);
    let stream = dialing.over(gateway.connect(), "a.example").await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(protocol));
    (gateway, stream)
}

#[tokio::test(start_paused = true)]
async fn r2_3_a_websocket_goes_through_tls() {
    let (gateway, mut client) = connected(b"http/1.1").await;
    let mut listener = gateway.network.listen("app:1");
    // The first frame in one record with the request: it is kept until the upstream has said so.
    client.write_all(&[ASK.as_bytes(), b"early"].concat()).await.unwrap();
    let mut app = listener.accept().await.unwrap();
    let asked = head(&mut app).await;
    assert!(has(&asked, "x-forwarded-proto: https"), "{asked}");
    app.write_all(&[SWITCH.as_bytes(), b"hello"].concat()).await.unwrap();
    assert!(has(&head(&mut client).await, "http/1.1 101 switching protocols"));
    assert_eq!(exactly(&mut app, 5).await, b"early");
    assert_eq!(exactly(&mut client, 5).await, b"hello");
    // Longer than a record, and than what either side holds.
    let long = vec![7; 300_000];
    let (sent, got) = tokio::join!(client.write_all(&long), exactly(&mut app, long.len()));
    sent.unwrap();
    assert!(got == long);
    client.shutdown().await.unwrap();
    assert!(rest(&mut app).await.is_empty(), "the end of one side is told to the other");
    app.write_all(b"bye").await.unwrap();
    drop(app);
    assert_eq!(rest(&mut client).await, b"bye", "with a goodbye of TLS");
    assert_eq!(gateway.metric("naka_tunnels "), Some(0.0));
}

#[tokio::test(start_paused = true)]
async fn r2_3_a_websocket_goes_through_http_2_over_tls() {
    let (gateway, stream) = connected(b"h2").await;
    let mut listener = gateway.network.listen("app:1");
    let (sender, connection) = client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let mut sender = sender.ready().await.unwrap();
    while !sender.is_extended_connect_protocol_enabled() {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    let mut request = Request::new(());
    *request.method_mut() = Method::CONNECT;
    *request.uri_mut() = "https://a.example/chat".parse().unwrap();
    request.headers_mut().insert("sec-websocket-version", "13".parse().unwrap());
    request.extensions_mut().insert(Protocol::from("websocket"));
    let (given, mut sending) = sender.send_request(request, false).unwrap();
    let mut app = listener.accept().await.unwrap();
    let asked = raw_head(&mut app).await;
    assert!(has(&asked.to_lowercase(), "x-forwarded-proto: https"), "{asked}");
    let key = asked.split("\r\n").find_map(|line| line.strip_prefix("sec-websocket-key: ")).unwrap();
    let accept = naka_testkit::websocket::accept(key);
    let switch = SWITCH.replace("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", &accept);
    app.write_all(switch.as_bytes()).await.unwrap();
    let given = given.await.unwrap();
    assert_eq!(given.status(), 200);
    sending.send_data(Bytes::from_static(b"hello"), false).unwrap();
    assert_eq!(exactly(&mut app, 5).await, b"hello");
    app.write_all(b"there").await.unwrap();
    assert_eq!(given.into_body().data().await.unwrap().unwrap(), "there");
}

/// The next head, as it was sent.
async fn raw_head(stream: &mut DuplexStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

/// Requests that are taken back at once: counted behind TLS as before it.
#[tokio::test(start_paused = true)]
async fn r2_3_a_flood_over_tls_ends_the_connection() {
    let (gateway, stream) = connected(b"h2").await;
    let _listener = gateway.network.listen("app:1");
    let (from, mut into) = tokio::io::split(stream);
    let reading = tokio::spawn(async move {
        let (mut from, mut all) = (from, Vec::new());
        let _ = from.read_to_end(&mut all).await; // It may be cut off.
        all
    });
    into.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let mut sent = 0_u32;
    // `GET https://a.example/`, in the words of HPACK's static table (RFC 7541, appendix A), and its reset.
    let block = [&[0x82, 0x87, 0x84, 0x41, 9][..], b"a.example"].concat();
    while sent < 20_000 {
        let stream = (2 * sent + 1).to_be_bytes();
        let head = [&[0, 0, 14, 1, 5][..], &stream, &block].concat();
        let reset = [&[0, 0, 4, 3, 0][..], &stream, &[0, 0, 0, 8]].concat();
        if into.write_all(&[head, reset].concat()).await.is_err() || into.flush().await.is_err() {
            break;
        }
        sent += 1;
    }
    assert!(sent < 20_000, "it goes on for ever");
    let heard = reading.await.unwrap();
    assert!(is_told(&heard), "it is told why: {heard:?}");
}

/// Whether there is a `GOAWAY` with `ENHANCE_YOUR_CALM` among these frames.
fn is_told(mut frames: &[u8]) -> bool {
    while let [a, b, c, kind, ..] = *frames {
        let length = 9 + usize::from(a) * 65_536 + usize::from(b) * 256 + usize::from(c);
        let Some(frame) = frames.get(..length) else { return false };
        if kind == 7 && frame[13..17] == [0, 0, 0, 11] {
            return true;
        }
        frames = &frames[length..];
    }
    false
}
