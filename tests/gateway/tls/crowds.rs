//! Many connections to a port of TLS: those that say nothing, those that never come to the end of their handshake, and those that a
//! balancer hands on.

use naka_testkit::upstream::{Upstream, ok};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::{Authority, Dialing};
use crate::{
    crowds::{SILENT_BYTES, connect, connections, may_have, resident},
    inside::Inside,
    process::Process,
};

const CONFIG: &str = "
gateway: {admin: {listen: ADMIN}, workers: 2MORE}
listeners:
  public:
    listen: PUBLIC
    tls: {certificates: [{cert: api.pem, key: api.key}]}
    protocols: [h1, h2]
    timeouts: {handshake: 10m, request_headers: 10m, idle: 10m}
routes: {all: {match: {prefix: /}, respond: {body: here}}}
";

const IDLE: usize = 5000;
const HALF: usize = 1000;

/// How a hello begins whose rest is to come: a record of TLS of 200 bytes.
const HALF_A_HELLO: &[u8] = &[22, 3, 1, 0, 200, 1, 0, 0, 196, 3, 3];

/// Of the process, for each connection that is in its handshake.
const HALF_BYTES: u64 = 24 << 10;

async fn started(authority: &Authority, more: &str) -> Process {
    let (folder, pair) = (tempfile::tempdir().unwrap(), authority.certify(&["api.example"]));
    std::fs::write(folder.path().join("api.pem"), &pair.cert).unwrap();
    std::fs::write(folder.path().join("api.key"), &pair.key).unwrap();
    Process::start_in(folder, &CONFIG.replace("MORE", more)).await
}

async fn is_served(process: &Process, authority: &Authority) {
    let stream = TcpStream::connect(process.public).await.unwrap();
    let mut stream = Dialing::new(authority).over(stream, "api.example").await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: api.example\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.ends_with("here"), "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r2_3_silence_and_half_handshakes_take_little_and_keep_nobody_waiting() {
    if !may_have(20_000) {
        println!("skipped: 20,000 open files are more than this user may have (ulimit -Hn)");
        return;
    }
    let authority = Authority::new("ours");
    let process = started(&authority, "").await;
    for _ in 0..20 {
        is_served(&process, &authority).await;
    }
    drop(connect(&process, 0, 200).await);
    let before = resident(&process);
    let _idle = connect(&process, 0, IDLE).await;
    let each = resident(&process).saturating_sub(before) / IDLE as u64;
    println!("silent: {each} bytes");
    assert!(each <= SILENT_BYTES, "{each} bytes for a connection that has said nothing");
    let before = resident(&process);
    let mut half = connect(&process, IDLE, HALF).await;
    for byte in HALF_A_HELLO {
        for stream in &mut half {
            stream.write_all(&[*byte]).await.unwrap();
        }
        is_served(&process, &authority).await;
    }
    let each = resident(&process).saturating_sub(before) / HALF as u64;
    println!("half: {each} bytes");
    assert!(each <= HALF_BYTES, "{each} bytes for a connection in its handshake");
    // Those that were served may not have ended; nobody else does.
    process.until("only they are left", async || connections(&process).await <= IDLE + HALF).await;
    assert_eq!(connections(&process).await, IDLE + HALF, "and nobody was refused for it");
}

/// Bug: a connection in its handshake kept its place as long as that may take, whoever waited for one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r2_3_a_half_handshake_makes_room_for_one_that_comes() {
    let authority = Authority::new("ours");
    let process = started(&authority, ", limits: {connections: 20}").await;
    let mut half = connect(&process, 0, 20).await;
    for stream in &mut half {
        stream.write_all(HALF_A_HELLO).await.unwrap();
    }
    for _ in 0..20 {
        is_served(&process, &authority).await;
    }
}

/// Bug: whoever was in a handshake kept the process from ending for as long as that may take.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r2_3_a_half_handshake_does_not_keep_the_process_from_ending() {
    let authority = Authority::new("ours");
    let mut process = started(&authority, ", drain: {grace: 0s, deadline: 10m}").await;
    let mut half = connect(&process, 0, 3).await;
    for stream in &mut half {
        stream.write_all(HALF_A_HELLO).await.unwrap();
    }
    is_served(&process, &authority).await;
    process.signal(rustix::process::Signal::TERM);
    assert_eq!(process.end().await.code(), Some(0), "{}", process.log());
    assert!(process.log().contains("cut=0"), "{}", process.log());
}

/// Bug: behind a balancer nobody was counted, as its own address is that of a trusted proxy.
#[tokio::test(start_paused = true)]
async fn r2_3_a_client_behind_a_balancer_has_no_more_connections_than_it_may() {
    let gateway = Inside::new(
        "
gateway: {admin: none, trusted_proxies: 192.0.2.0/24, limits: {connections_per_ip: 2}}
listeners: {public: {listen: ':1', proxy_protocol: true}}
upstreams: {app: {endpoints: ['app:1']}}
routes: {all: {match: {prefix: /}, upstream: app}}
",
    );
    let _app = Upstream::inside(&gateway.network, "app:1", |_| ok("app"));
    let ask = async |header: &str| {
        let mut stream = gateway.connect();
        let request = format!("{header}\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"app") && stream.read_buf(&mut answer).await.is_ok_and(|read| read > 0) {}
        answer.ends_with(b"app").then_some(stream)
    };
    let (one, other) =
        ("PROXY TCP4 198.51.100.7 192.0.2.1 5000 443", "PROXY TCP4 198.51.100.8 192.0.2.1 5000 443");
    let (first, second) = (ask(one).await, ask(one).await);
    assert!(first.is_some() && second.is_some());
    assert!(ask(one).await.is_none(), "closed without a word");
    let refused = "naka_rejections_total{route=\"\",policy=\"\",reason=\"connections_per_ip\"}";
    assert_eq!(gateway.metric(refused), Some(1.0));
    assert!(ask(other).await.is_some(), "another has its own");
    for _ in 0..5 {
        assert!(ask("PROXY UNKNOWN").await.is_some(), "the balancer itself is trusted");
    }
    drop(first);
    tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    assert!(ask(one).await.is_some(), "its place has come back");
}
