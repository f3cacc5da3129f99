//! The end of a process.

use std::time::Duration;

use naka_gateway::{config::checked::Workers as Layout, worker::Workers};
use naka_testkit::upstream::{Step, Upstream, ok};
use rustix::process::Signal;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    inside::Inside,
    process::{Process, raw, run_to_end},
};

fn config(upstream: &Upstream, drain: &str) -> String {
    format!(
        "gateway: {{admin: {{listen: ADMIN}}, workers: 2, drain: {drain}}}
listeners: {{public: {{listen: PUBLIC}}}}
upstreams: {{app: {{endpoints: ['{}']}}}}
routes: {{all: {{match: {{prefix: /}}, upstream: app}}}}
",
        upstream.address()
    )
}

/// A response under way is finished, an idle connection and a silent one are closed, and nobody new
/// is accepted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_ends_what_is_idle_and_lets_the_rest_finish() {
    let upstream = Upstream::start(|seen| match seen.target() {
        "/slow" => vec![
            Step::send("HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nhalf"),
            Step::Wait(Duration::from_secs(2)),
            Step::send("half"),
        ],
        _ => ok("quick"),
    })
    .await;
    let mut process = Process::start(&config(&upstream, "{grace: 0s, deadline: 30s}")).await;
    let at = process.public;
    let silent = TcpStream::connect(at).await.unwrap();
    let mut idle = TcpStream::connect(at).await.unwrap();
    idle.write_all(b"GET /quick HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let mut piece = [0; 1024];
    assert_ne!(idle.read(&mut piece).await.unwrap(), 0);
    let slow = tokio::spawn(async move { raw(at, b"GET /slow HTTP/1.1\r\nhost: a\r\n\r\n").await });
    process.until("the slow one is at the upstream", async || upstream.working() == 1).await;

    process.signal(Signal::TERM);
    let slow = String::from_utf8(slow.await.unwrap()).unwrap();
    assert!(slow.ends_with("halfhalf"), "{slow}");
    for mut stream in [silent, idle] {
        while stream.read(&mut piece).await.unwrap_or(0) > 0 {}
    }
    let status = process.end().await;
    assert_eq!(status.code(), Some(0), "{}", process.log());
    assert!(process.log().contains("cut=0"), "{}", process.log());
    assert!(TcpStream::connect(at).await.is_err(), "nobody listens any more");
}

/// While others look away, requests are still taken, and readiness already says no.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn during_the_grace_requests_are_taken_and_readiness_says_no() {
    let upstream = Upstream::start(|_| ok("quick")).await;
    let mut process = Process::start(&config(&upstream, "{grace: 20s, deadline: 25s}")).await;
    process.signal(Signal::TERM);
    process
        .until("readiness says no", async || process.get("/readyz").await.is_some_and(|it| it.0 == 503))
        .await;
    assert_eq!(process.public("GET /").await.0, 200);
    process.signal(Signal::TERM); // The second cuts off.
    assert_eq!(process.end().await.code(), Some(0));
}

/// What does not end by itself is cut off at the deadline.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_end_is_cut_off() {
    let upstream = Upstream::start(|_| vec![Step::Hang]).await;
    let mut process = Process::start(&config(&upstream, "{grace: 0s, deadline: 1s}")).await;
    let at = process.public;
    let hung = tokio::spawn(async move { raw(at, b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await });
    process.until("it is at the upstream", async || upstream.working() == 1).await;
    process.signal(Signal::TERM);
    assert_eq!(process.end().await.code(), Some(0));
    assert_eq!(hung.await.unwrap(), b"");
    assert!(process.log().contains("cut=1"), "{}", process.log());
}

/// Connections that the kernel has completed when accepting ends are served, not reset.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a19_whoever_has_connected_before_the_end_of_accepting_is_served() {
    let gateway = Inside::new(
        "
listeners: {public: {listen: '127.0.0.1:0'}}
routes: {all: {match: {prefix: /}, respond: {body: fine}}}
",
    );
    let workers = Workers::start(gateway.shared(), Layout::Count(1)).unwrap();
    let name = "127.0.0.1:0".parse().unwrap();
    let open = workers.bind(&name, 0o600, &[]).unwrap().open().unwrap();
    let at = open.address().tcp().unwrap();
    let mut clients = Vec::new();
    for _ in 0..20 {
        let mut client = TcpStream::connect(at).await.unwrap();
        client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        clients.push(client);
    }
    workers.accept(open);
    workers.unlisten(&name).await;
    workers.drain(); // They end after the request that is there already.
    assert!(TcpStream::connect(at).await.is_err(), "nobody listens any more");
    for mut client in clients {
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(answer.ends_with("fine"), "{answer}");
    }
    workers.stop();
}

/// Two processes would share the connections of one address, each with its own counts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a19_an_address_that_another_process_listens_on_is_refused() {
    let yaml = "
gateway: {admin: none, workers: 2}
listeners: {public: {listen: PUBLIC}}
routes: {all: {match: {prefix: /}, respond: {body: first}}}
";
    let first = Process::spawn_in(tempfile::tempdir().unwrap(), yaml);
    first.says("naka is ready").await;
    let taken = yaml.replace("PUBLIC", &first.public.to_string()).replace("first", "second");
    let (code, log) = run_to_end(&taken).await;
    assert_eq!(code, Some(2), "{log}");
    assert!(log.contains(&format!("{} cannot be listened on", first.public)), "{log}");
    assert_eq!(first.public("GET /").await, (200, "first".to_owned()));
}

/// As when the whole machine has stood still: everything has happened when the signal is heard.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_wait_for_a_process_that_stands_still_are_answered_before_it_ends() {
    let yaml = "
gateway: {admin: none, workers: 2, drain: {grace: 0s, deadline: 20s}}
listeners: {public: {listen: PUBLIC}}
routes: {all: {match: {prefix: /}, respond: {body: fine}}}
";
    for _ in 0..5 {
        let mut process = Process::spawn_in(tempfile::tempdir().unwrap(), yaml);
        process.says("naka is ready").await;
        process.signal(Signal::STOP);
        let mut clients = Vec::new();
        for _ in 0..40 {
            let mut client = TcpStream::connect(process.public).await.unwrap();
            client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
            clients.push(client);
        }
        process.signal(Signal::TERM);
        process.signal(Signal::CONT);
        for mut client in clients {
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.unwrap();
            assert!(answer.ends_with("fine"), "{answer}");
        }
        assert_eq!(process.end().await.code(), Some(0));
    }
}
