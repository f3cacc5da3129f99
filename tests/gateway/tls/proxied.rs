//! The PROXY protocol, alone and in front of TLS.

use naka_testkit::upstream::{Upstream, ok};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::{Duration, Instant, advance},
};

use super::{Authority, Dialing};
use crate::inside::Inside;

const CONFIG: &str = "
gateway: {trusted_proxies: 192.0.2.0/24}
listeners: {public: {listen: ':1', proxy_protocol: true, protocols: [h1, h2c], timeouts: {handshake: 5s}}}
policies: {per-ip: {rate_limit: {rate: 1/h, key: [client_ip]}}}
upstreams: {app: {endpoints: ['app:1']}}
routes: {all: {match: {prefix: /}, use: [per-ip], upstream: app}}
";

const REQUEST: &str =
    "GET / HTTP/1.1\r\nhost: api.example\r\nx-forwarded-for: 203.0.113.9\r\nconnection: close\r\n\r\n";

async fn ask(gateway: &Inside, header: &[u8]) -> String {
    let mut stream = gateway.connect();
    stream.write_all(&[header, REQUEST.as_bytes()].concat()).await.unwrap();
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer).await; // It may be closed.
    answer.lines().next().unwrap_or_default().to_owned()
}

/// Version 2, of TCP over IPv4, from this address.
fn binary(address: [u8; 4]) -> Vec<u8> {
    let addresses = [&address[..], &[192, 0, 2, 1, 0, 80, 1, 187]].concat();
    [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"[..], &addresses].concat()
}

#[tokio::test(start_paused = true)]
async fn r2_3_a_connection_is_of_whom_a_trusted_balancer_says() {
    let gateway = Inside::new(CONFIG);
    let app = Upstream::inside(&gateway.network, "app:1", |_| ok("app"));
    assert_eq!(
        ask(&gateway, b"PROXY TCP4 198.51.100.7 192.0.2.1 5000 443\r\n").await,
        "HTTP/1.1 200 Scripted"
    );
    // A client that is not trusted says nothing of others, though who has announced it is.
    assert_eq!(app.last().header("x-forwarded-for"), Some("198.51.100.7"));
    assert_eq!(
        ask(&gateway, &binary([198, 51, 100, 7])).await,
        "HTTP/1.1 429 Too Many Requests",
        "it counts as that"
    );
    assert_eq!(ask(&gateway, &binary([198, 51, 100, 8])).await, "HTTP/1.1 200 Scripted");
    assert_eq!(ask(&gateway, b"PROXY UNKNOWN\r\n").await, "HTTP/1.1 200 Scripted", "of the balancer itself");
    assert_eq!(app.last().header("x-forwarded-for"), Some("203.0.113.9, 192.0.2.1"));
}

#[tokio::test(start_paused = true)]
async fn who_says_nothing_of_the_kind_is_not_guessed_at() {
    let gateway = Inside::new(CONFIG);
    let app = Upstream::inside(&gateway.network, "app:1", |_| ok("app"));
    let metric = |reason: &str| {
        gateway.metric(&format!("naka_rejections_total{{route=\"\",policy=\"\",reason=\"{reason}\"}}"))
    };
    for header in [&b""[..], b"PROXY TCP4 1 2 3 4\r\n", b"PROXY TCP4 198.51.100.7 192.0.2.1 5000 443\n"] {
        assert_eq!(ask(&gateway, header).await, "", "it is closed without a word");
    }
    assert_eq!(metric("proxy_protocol_malformed"), Some(3.0));
    // Slowly, too.
    let mut slow = gateway.connect();
    slow.write_all(b"PROXY TCP4 ").await.unwrap();
    let began = Instant::now();
    assert_eq!(slow.read(&mut [0]).await.unwrap(), 0);
    assert_eq!(began.elapsed().as_secs(), 5);
    assert_eq!(metric("proxy_protocol_malformed"), Some(4.0));
    // And of who is not trusted any more nothing is believed.
    gateway.reload(&CONFIG.replace("192.0.2.0/24", "10.0.0.0/8")).unwrap();
    assert_eq!(ask(&gateway, b"PROXY TCP4 198.51.100.9 192.0.2.1 5000 443\r\n").await, "");
    assert_eq!(metric("proxy_protocol_untrusted"), Some(1.0));
    assert_eq!(app.requests(), 0);
}

#[tokio::test(start_paused = true)]
async fn http_2_and_tls_stand_behind_it() {
    let authority = Authority::new("ours");
    let pair = authority.certify(&["api.example"]);
    let tls = "tls: {certificates: [{cert: api.pem, key: api.key}]}, protocols: [h1, h2]";
    let yaml = CONFIG.replace("protocols: [h1, h2c]", tls);
    let gateway = Inside::with_files(&yaml, &[("api.pem", &pair.cert), ("api.key", &pair.key)]);
    let app = Upstream::inside(&gateway.network, "app:1", |_| ok("app"));
    let mut stream = gateway.connect();
    stream.write_all(b"PROXY TCP4 198.51.100.7 192.0.2.1 5000 443\r\n").await.unwrap();
    let mut stream = Dialing::new(&authority).over(stream, "api.example").await.unwrap();
    stream.write_all(REQUEST.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let seen = app.last();
    assert_eq!(
        (seen.header("x-forwarded-for"), seen.header("x-forwarded-proto")),
        (Some("198.51.100.7"), Some("https"))
    );

    let gateway = Inside::new(CONFIG);
    let _app = Upstream::inside(&gateway.network, "app:1", |_| ok("app"));
    let mut stream = gateway.connect();
    stream.write_all(&binary([198, 51, 100, 7])).await.unwrap();
    let (mut sender, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::get("http://api.example/").body(()).unwrap();
    let (response, _) = sender.send_request(request, true).unwrap();
    assert_eq!(response.await.unwrap().status(), 200);
    advance(Duration::from_secs(1)).await;
}
