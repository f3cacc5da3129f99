//! Bodies stream through, with backpressure, in bounded memory.

use http::Request;
use http_body_util::{BodyExt, Full};
use naka_testkit::upstream::{Step, Upstream, ok};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    inside::{Inside, get},
    process::Process,
};

const GIB: u64 = 1 << 30;
const MEMORY: u64 = 64 << 20;

fn config(upstream: &Upstream) -> String {
    format!(
        "
gateway: {{admin: {{listen: ADMIN}}, workers: 2}}
listeners: {{public: {{listen: PUBLIC}}}}
policies:
  limit: {{rate_limit: {{rate: 1000/s, key: [client_ip]}}}}
  room: {{bulkhead: {{max: 10}}}}
upstreams: {{app: {{endpoints: ['{}']}}}}
routes: {{all: {{match: {{prefix: /}}, use: [limit, room], timeouts: {{total: never}}, limits: {{body: never}}, upstream: app}}}}
",
        upstream.address()
    )
}

/// One GiB each way, by length and in chunks; resident memory stays under 64 MiB.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r2_3_a_gibibyte_each_way_fits_through_64_mebibytes() {
    let upstream = Upstream::start(|seen| match seen.target() {
        "/down" => {
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {GIB}\r\n\r\n");
            vec![Step::ReadBody, Step::send(head), Step::Fill(GIB)]
        }
        _ => ok("taken"),
    })
    .await;
    let process = Process::start(&config(&upstream)).await;

    let mut stream = TcpStream::connect(process.public).await.unwrap();
    stream.write_all(b"GET /down HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
    let (mut piece, mut got) = (vec![0; 1 << 18], 0_u64);
    loop {
        match stream.read(&mut piece).await.unwrap() {
            0 => break,
            more => got += more as u64,
        }
    }
    assert!((GIB + 50..GIB + 1000).contains(&got), "the head and all of the body: {got}");

    let mut stream = TcpStream::connect(process.public).await.unwrap();
    let head = format!("POST /up HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: {GIB}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    for _ in 0..GIB / piece.len() as u64 {
        stream.write_all(&piece).await.unwrap();
    }
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("taken"), "{answer}");
    assert_eq!(upstream.body_bytes(), GIB);
    assert!(process.peak_memory() < MEMORY, "{} bytes were resident", process.peak_memory());
}

/// A hundred clients that do not read: what the gateway holds of their responses is bounded.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_do_not_read_do_not_fill_memory() {
    const EACH: u64 = 64 << 20;
    // A buffer of 256 KiB on each side, and what a request is besides.
    const EACH_CLIENT: u64 = (512 + 64) << 10;
    let upstream = Upstream::start(|_| {
        vec![Step::send(format!("HTTP/1.1 200 OK\r\ncontent-length: {EACH}\r\n\r\n")), Step::Fill(EACH)]
    })
    .await;
    let process = Process::start(&config(&upstream).replace("max: 10", "max: 100")).await;
    let before = process.peak_memory(); // The program itself, which a build without optimisation makes large.
    let mut clients = Vec::new();
    for _ in 0..100 {
        let mut stream = TcpStream::connect(process.public).await.unwrap();
        stream.write_all(b"GET /down HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        let mut first = [0; 12];
        stream.read_exact(&mut first).await.unwrap();
        assert_eq!(&first, b"HTTP/1.1 200");
        clients.push(stream);
    }
    process.until("all are at the upstream", async || upstream.working() == 100).await;
    // Each has a place until it goes; then nothing is left.
    assert_eq!(process.json("/policies").await["room"]["working"], 100);
    drop(clients);
    process
        .until("all places are free", async || process.json("/policies").await["room"]["working"] == 0)
        .await;
    process.until("nothing is left at the upstream", async || upstream.working() == 0).await;
    let grown = process.peak_memory() - before;
    assert!(grown < 100 * EACH_CLIENT, "{grown} bytes were resident for them");
}

/// The first half of a response reaches the client while the second is not there yet, and the first
/// half of an upload reaches the upstream likewise.
#[tokio::test(start_paused = true)]
async fn nothing_waits_for_the_end_of_a_body() {
    let gateway = Inside::new(
        "
listeners: {public: {listen: ':1'}}
upstreams: {app: {endpoints: ['app:1']}}
routes: {all: {match: {prefix: /}, upstream: app}}
",
    );
    let upstream = Upstream::inside(&gateway.network, "app:1", |seen| match seen.target() {
        "/half" => vec![Step::send("HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nhalf"), Step::Hang],
        _ => ok("fine"),
    });
    let mut body = gateway.client().await.head(get("/half")).await.into_body();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "half");

    let mut uploading = gateway.connect();
    uploading.write_all(b"POST /up HTTP/1.1\r\nhost: a\r\ncontent-length: 8\r\n\r\nhalf").await.unwrap();
    while upstream.body_bytes() < 4 {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    let whole = Request::post("/").header("host", "a").body(Full::from("another")).unwrap();
    assert_eq!(gateway.send(whole).await.status(), 200, "an upload that waits keeps nobody else");
}
