//! Upgrades: how a tunnel begins, what goes through it, what it holds, and how it ends.

mod begins;
mod ends;
mod layers;
mod peers;
mod process;
mod streams;

use naka_testkit::network::Listener;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

use crate::inside::Inside;

const CONFIG: &str = "
gateway: {admin: none}
listeners: {public: {listen: ':1', timeouts: {request_headers: 5s, idle: 20s}}}
upstreams: {app: {endpoints: ['app:1'], timeouts: {tunnel_idle: 10m}}}
routes: {all: {match: {prefix: /}, upstream: app}}
";

/// What a browser asks, but for its headers that matter to nobody here.
pub(crate) const ASK: &str = "GET /chat HTTP/1.1\r\nhost: a.example\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
                   sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

pub(crate) const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
                      sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// Both ends of a tunnel through a gateway.
struct Opened {
    client: DuplexStream,
    app: DuplexStream,
    /// The head that the upstream saw, and the one that the client got.
    asked: String,
    given: String,
}

/// Opens one, over a connection of its own.
async fn opened(gateway: &Inside, listener: &mut Listener) -> Opened {
    let mut client = gateway.connect();
    client.write_all(ASK.as_bytes()).await.unwrap();
    let mut app = listener.accept().await.unwrap();
    let asked = head(&mut app).await;
    app.write_all(SWITCH.as_bytes()).await.unwrap();
    let given = head(&mut client).await;
    Opened { client, app, asked, given }
}

/// The next head, and nothing behind it.
pub(crate) async fn head(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(error) => panic!("{error} after {:?}", String::from_utf8_lossy(&head)),
        }
    }
    String::from_utf8(head).unwrap().to_lowercase()
}

/// So many bytes.
pub(crate) async fn exactly(stream: &mut (impl AsyncRead + Unpin), count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    stream.read_exact(&mut bytes).await.unwrap();
    bytes
}

/// All that comes until the end.
pub(crate) async fn rest(stream: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.unwrap();
    bytes
}

/// Whether a head has this line.
pub(crate) fn has(head: &str, line: &str) -> bool {
    head.split("\r\n").any(|is| is == line)
}
