//! Ten thousand connections that say nothing, and a thousand that say it slowly (Slowloris): everybody else is served all along, and what each
//! of them takes is bounded.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Duration, sleep},
};

use crate::process::Process;
use naka_testkit::upstream::{Step, Upstream, ok};

const IDLE: usize = 10_000;
const SLOW: usize = 1000;

/// Of the process, for each connection that has said nothing; and as `docs/operations.md` has it for one that waits for its next
/// request, and for one whose request is under way.
pub(crate) const SILENT_BYTES: u64 = 2 << 10;
const KEPT_BYTES: u64 = 28 << 10;

const CONFIG: &str = "
gateway: {admin: {listen: ADMIN}, workers: 2}
listeners: {public: {listen: PUBLIC, timeouts: {request_headers: 10m, idle: 10m}}}
upstreams: {app: {endpoints: ['UPSTREAM']}}
routes: {all: {match: {prefix: /}, upstream: app}}
";

/// Whether there may be so many files: here, and in what is started from here.
pub(crate) fn may_have(files: u64) -> bool {
    let limit = getrlimit(Resource::Nofile);
    if limit.maximum.is_some_and(|most| most < files) {
        return false;
    }
    let enough = limit.current.map_or(files, |now| now.max(files));
    setrlimit(Resource::Nofile, Rlimit { current: Some(enough), maximum: limit.maximum }).is_ok()
}

/// Memory that is resident now, in bytes.
pub(crate) fn resident(process: &Process) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

pub(crate) async fn connections(process: &Process) -> usize {
    let text = process.get("/metrics").await.unwrap().1;
    let line = text.lines().find(|line| line.starts_with("naka_connections ")).unwrap();
    line.split(' ').nth(1).unwrap().parse().unwrap()
}

/// So many more, beside those that somebody still has.
pub(crate) async fn connect(process: &Process, before: usize, count: usize) -> Vec<TcpStream> {
    let mut all = Vec::with_capacity(count);
    while connections(process).await > before {
        sleep(Duration::from_millis(20)).await; // Some that were closed may not have ended.
    }
    while all.len() < count {
        all.push(TcpStream::connect(process.public).await.unwrap());
    }
    while connections(process).await < before + count {
        sleep(Duration::from_millis(20)).await;
    }
    all
}

/// Pages that the kernel has made for it so far, in all.
#[cfg(target_env = "gnu")]
fn faults(process: &Process) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.pid())).unwrap();
    let (_, behind_name) = stat.rsplit_once(')').unwrap();
    behind_name.split_whitespace().nth(7).unwrap().parse().unwrap()
}

/// Bug: the pages that uploads are read into were given back to the kernel each time, and cleared anew for the next.
#[cfg(target_env = "gnu")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_are_read_into_memory_that_is_there() {
    const UPLOADS: u64 = 256;
    let app = Upstream::start(|_| ok("fine")).await;
    let config = CONFIG.replace("UPSTREAM", app.address()).replace("workers: 2", "workers: 1");
    let process = Process::start(&config).await;
    let mut stream = TcpStream::connect(process.public).await.unwrap();
    let body = vec![b'x'; 1 << 20];
    let head = format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n", body.len());
    let mut upload = async |times| {
        for _ in 0..times {
            stream.write_all(head.as_bytes()).await.unwrap();
            stream.write_all(&body).await.unwrap();
            is_read(&mut stream).await;
        }
    };
    upload(UPLOADS).await; // Now there is as much as it takes.
    let before = faults(&process);
    upload(UPLOADS).await;
    let made = faults(&process) - before;
    assert!(made < UPLOADS, "{made} pages for {UPLOADS} uploads of 256");
}

async fn others_are_served(process: &Process, times: usize) {
    for _ in 0..times {
        assert_eq!(process.public("GET /").await.0, 200);
    }
}

async fn is_answered(stream: &mut TcpStream) {
    stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    is_read(stream).await;
}

async fn is_read(stream: &mut TcpStream) {
    let mut answer = Vec::new();
    while !answer.ends_with(b"fine") {
        assert!(stream.read_buf(&mut answer).await.unwrap() > 0, "it is answered");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r2_3_ten_thousand_idle_and_a_thousand_slow_connections_keep_nobody_waiting() {
    if !may_have(20_000) {
        println!("skipped: 20,000 open files are more than this user may have (ulimit -Hn)");
        return;
    }
    let app = Upstream::start(|_| ok("fine")).await;
    let process = Process::start(&CONFIG.replace("UPSTREAM", app.address())).await;
    others_are_served(&process, 200).await;
    drop(connect(&process, 0, 200).await);
    let before = resident(&process);
    let mut idle = connect(&process, 0, IDLE).await;
    let each = resident(&process).saturating_sub(before) / IDLE as u64;
    println!("silent: {each} bytes");
    assert!(each <= SILENT_BYTES, "{each} bytes for a connection that has said nothing");
    others_are_served(&process, 50).await;
    // A request each, and then they wait for their next one.
    for some in idle.chunks_mut(100) {
        for stream in &mut *some {
            stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        }
        for stream in some {
            is_read(stream).await;
        }
    }
    let each = resident(&process).saturating_sub(before) / IDLE as u64;
    println!("kept: {each} bytes");
    assert!(each <= KEPT_BYTES, "{each} bytes for a connection that has had an answer");
    // Byte by byte, on a thousand more.
    let mut slow = connect(&process, IDLE, SLOW).await;
    for piece in ["GET / HTTP/1.1\r\n", "h", "o", "st: a\r\n", "x: ", "y", "y", "\r\n"] {
        for stream in &mut slow {
            stream.write_all(piece.as_bytes()).await.unwrap();
        }
        others_are_served(&process, 25).await;
    }
    assert_eq!(connections(&process).await, IDLE + SLOW, "and nobody was refused for it");
    let each = resident(&process).saturating_sub(before) / (IDLE + SLOW) as u64;
    println!("slow: {each} bytes");
    assert!(each <= KEPT_BYTES, "{each} bytes");
    assert!(!process.log().contains("panicked"), "{}", process.log());
}

/// A client has as many as it may, whoever else has how many; a place comes back when its connection ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r2_3_one_client_has_no_more_connections_than_it_may() {
    let app = Upstream::start(|_| ok("fine")).await;
    let limited = CONFIG.replace("workers: 2", "workers: 2, limits: {connections_per_ip: 3}");
    let process = Process::start(&limited.replace("UPSTREAM", app.address())).await;
    let mut three = connect(&process, 0, 3).await;
    for _ in 0..5 {
        let mut more = TcpStream::connect(process.public).await.unwrap();
        let read = more.read(&mut [0; 10]).await;
        assert!(matches!(read, Ok(0) | Err(_)), "closed without a word");
    }
    let metrics = process.get("/metrics").await.unwrap().1;
    let line = "naka_rejections_total{route=\"\",policy=\"\",reason=\"connections_per_ip\"} 5";
    assert!(metrics.contains(line), "{metrics}");
    // Those that it has are served.
    three[0].write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    three[0].read_to_end(&mut answer).await.unwrap();
    assert!(answer.ends_with(b"fine"));
    drop(three.remove(0));
    while connections(&process).await > 2 {
        sleep(Duration::from_millis(10)).await;
    }
    others_are_served(&process, 1).await;
    // A reload lets it have more, and what a trusted proxy has is not counted.
    process.write(
        "gateway.yaml",
        &limited
            .replace("per_ip: 3}", "per_ip: 3}, trusted_proxies: 127.0.0.0/8")
            .replace("UPSTREAM", app.address()),
    );
    process.until("the reload is in force", async || process.json("/readyz").await["generation"] == 2).await;
    let _many = connect(&process, 2, 10).await;
}

/// At the bound on all connections, who has waited longest for its next request makes room, and who is at a request stays.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r2_3_at_the_bound_an_idle_connection_makes_room_for_one_that_comes() {
    let app = Upstream::start(|seen| match seen.target() {
        "/hang" => vec![Step::Hang],
        _ => ok("fine"),
    })
    .await;
    let limited = CONFIG.replace("workers: 2", "workers: 2, limits: {connections: 20}");
    let process = Process::start(&limited.replace("UPSTREAM", app.address())).await;
    let mut busy = connect(&process, 0, 5).await;
    for stream in &mut busy {
        stream.write_all(b"GET /hang HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    }
    while app.requests() < 5 {
        sleep(Duration::from_millis(5)).await;
    }
    // Some have had an answer, some have said nothing, and some a part of a head.
    let mut idle = connect(&process, 5, 15).await;
    for (number, stream) in idle.iter_mut().enumerate() {
        match number % 3 {
            0 => is_answered(stream).await,
            1 => stream.write_all(b"GET / HTTP/1.1\r\nho").await.unwrap(),
            _ => {}
        }
    }
    let mut more = Vec::new();
    for _ in 0..10 {
        let mut stream = TcpStream::connect(process.public).await.unwrap();
        is_answered(&mut stream).await;
        more.push(stream);
    }
    others_are_served(&process, 40).await;
    for stream in &mut busy {
        assert_eq!(
            stream.try_read(&mut [0; 1]).unwrap_err().kind(),
            std::io::ErrorKind::WouldBlock,
            "it stays"
        );
    }
    assert!(connections(&process).await <= 20);
}
