//! One process after another: on the same sockets, and with what the one before knew.

use std::{
    io::ErrorKind::WouldBlock,
    net::SocketAddr,
    os::unix::fs::{FileTypeExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{
            AtomicBool, AtomicU64,
            Ordering::{Relaxed, SeqCst},
        },
    },
};

use naka_testkit::upstream::{Upstream, answer, ok};
use rustix::{
    fs::{CWD, FileType, Mode, mknodat},
    process::Signal,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket, UnixStream},
    task::JoinSet,
    time::timeout,
};

use crate::process::{PATIENCE, Process, raw};

/// A process with everything that survives one: `by` is what its answers say of it.
struct Site {
    app: Upstream,
    sick: Upstream,
    folder: TempDir,
}

impl Site {
    async fn new() -> Self {
        Self {
            app: Upstream::start(|_| ok("fine")).await,
            sick: Upstream::start(|_| answer(500, "", "sick")).await,
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    fn yaml(&self, by: &str, workers: usize) -> String {
        let [admin, upgrade, state] = ["admin.sock", "upgrade.sock", "state"].map(|file| self.path(file));
        let (app, sick) = (self.app.address(), self.sick.address());
        format!(
            "
gateway:
  workers: {workers}
  admin: {{listen: ADMIN, socket: {admin}}}
  upgrade: {{socket: {upgrade}}}
  state: {{file: {state}, interval: 1h}}
  drain: {{grace: 0s, deadline: 40s}}
listeners: {{public: {{listen: PUBLIC, protocols: [h1, h2c], timeouts: {{request_headers: 5m, idle: 5m}}}}}}
policies:
  gcra: {{rate_limit: {{rate: 3/h, key: [header:x-user]}}}}
  window: {{rate_limit: {{rate: 3/h, key: [header:x-user], algorithm: sliding_window}}}}
  guard: {{circuit_breaker: {{consecutive: 2, failure_rate: never, open: 1h}}}}
upstreams:
  app: {{endpoints: ['{app}'], balance: {{policy: p2c_ewma}}}}
  sick: {{endpoints: ['{sick}']}}
routes:
  all: {{listener: public, match: {{prefix: /}}, headers: {{response: {{set: {{x-by: {by}}}}}}}, upstream: app}}
  gcra: {{listener: public, match: {{path: /gcra}}, use: [gcra], respond: {{body: in}}}}
  window: {{listener: public, match: {{path: /window}}, use: [window], respond: {{body: in}}}}
  sick: {{listener: public, match: {{path: /sick}}, use: [guard], upstream: sick}}
",
            admin = admin.display(),
            upgrade = upgrade.display(),
            state = state.display(),
        )
    }

    fn from(&self) -> String {
        format!("--upgrade-from=unix:{}", self.path("upgrade.sock").display())
    }
}

/// Listens there, too.
fn with_more(yaml: &str, at: SocketAddr) -> String {
    let yaml = yaml.replace("listeners: {", &format!("listeners: {{more: {{listen: '{at}'}}, "));
    yaml + "  more: {listener: more, match: {prefix: /}, respond: {body: more}}\n"
}

/// The status of a request of this user.
async fn status(process: &Process, path: &str, user: &str) -> u16 {
    let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\nx-user: {user}\r\nconnection: close\r\n\r\n");
    let answer = String::from_utf8(raw(process.public, request.as_bytes()).await).unwrap();
    answer.split(' ').nth(1).expect("an answer").parse().unwrap()
}

/// Spends both limits of a user, and opens the breaker.
async fn spend(process: &Process, user: &str) {
    for path in ["/gcra", "/window"] {
        for _ in 0..3 {
            assert_eq!(status(process, path, user).await, 200);
        }
        assert_eq!(status(process, path, user).await, 429);
    }
    for _ in 0..2 {
        assert_eq!(status(process, "/sick", user).await, 500);
    }
    assert_eq!(status(process, "/sick", user).await, 503);
}

/// What the process before knew is known.
async fn assert_goes_on(process: &Process, site: &Site, spent: &str, other: &str) {
    let before = site.sick.requests();
    let refused = raw(process.public, b"GET /sick HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
    let refused = String::from_utf8(refused).unwrap();
    assert!(refused.starts_with("HTTP/1.1 503") && refused.contains("circuit_open"), "{refused}");
    assert_eq!(site.sick.requests(), before, "the breaker is open");
    for path in ["/gcra", "/window"] {
        assert_eq!(status(process, path, spent).await, 429, "{path}: it was spent");
        assert_eq!(status(process, path, other).await, 200, "{path}: nobody else's was");
    }
}

/// What clients have seen.
#[derive(Default)]
struct Seen {
    by_one: AtomicU64,
    by_two: AtomicU64,
    failed: Mutex<Vec<String>>,
    is_over: AtomicBool,
}

impl Seen {
    fn total(&self) -> u64 {
        self.by_one.load(Relaxed) + self.by_two.load(Relaxed)
    }

    /// Counts it, and says whether to go on.
    fn count(&self, answer: Result<Answer, String>) -> bool {
        match answer {
            Ok(Answer { head, .. }) if head.contains("x-by: one") => _ = self.by_one.fetch_add(1, Relaxed),
            Ok(_) => _ = self.by_two.fetch_add(1, Relaxed),
            Err(why) => self.failed.lock().unwrap().push(why),
        }
        !self.is_over.load(Relaxed) && self.total() < BOUND && self.failed.lock().unwrap().len() < 10
    }
}

/// The most requests of a test.
const BOUND: u64 = 200_000;

struct Answer {
    head: String,
    ends: bool,
}

/// One request on a connection that may be kept; why, if it is not answered whole and with `200`.
async fn ask(stream: &mut TcpStream) -> Result<Answer, String> {
    let (mut got, mut piece) = (Vec::new(), [0; 1024]);
    let sent = stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    sent.map_err(|error| format!("nothing could be sent: {error}"))?;
    while !got.ends_with(b"fine") {
        match stream.read(&mut piece).await {
            Ok(read @ 1..) => got.extend_from_slice(&piece[..read]),
            other => return Err(format!("{other:?} after {:?}", String::from_utf8_lossy(&got))),
        }
    }
    let head = String::from_utf8_lossy(&got).to_ascii_lowercase();
    let ends = head.contains("connection: close");
    if head.starts_with("http/1.1 200") && head.contains("x-by: ") {
        Ok(Answer { head, ends })
    } else {
        Err(head)
    }
}

/// Asks on one connection for as long as that is kept, and then on another.
async fn keeps(at: SocketAddr, seen: Arc<Seen>) {
    loop {
        let mut stream = TcpStream::connect(at).await.expect("somebody listens");
        loop {
            let answer = ask(&mut stream).await;
            let ends = answer.as_ref().map_or(true, |answer| answer.ends);
            if !seen.count(answer) {
                return;
            }
            if ends {
                break;
            }
        }
    }
}

/// A connection for each request.
async fn comes_anew(at: SocketAddr, seen: Arc<Seen>) {
    loop {
        let mut stream = TcpStream::connect(at).await.expect("somebody listens");
        if !seen.count(ask(&mut stream).await) {
            return;
        }
    }
}

/// There is always somebody at the path.
async fn knocks(path: PathBuf, seen: Arc<Seen>) -> u64 {
    let mut knocked = 0;
    while !seen.is_over.load(Relaxed) && knocked < BOUND {
        let stream = UnixStream::connect(&path).await;
        // So many may wait there: then somebody listens, too.
        let is_there = stream.as_ref().map_or_else(|error| error.kind() == WouldBlock, |_| true);
        assert!(is_there, "nobody was at {} after {knocked}: {stream:?}", path.display());
        knocked += 1;
        tokio::task::yield_now().await;
    }
    knocked
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_under_load_fails_no_request_refills_nobody_and_leaves_the_breaker_open() {
    let site = Site::new().await;
    let mut one = Process::start_in(tempfile::tempdir().unwrap(), &site.yaml("one", 2)).await;
    spend(&one, "asha").await;
    let silent = TcpStream::connect(one.public).await.unwrap();
    let mut idle = TcpStream::connect(one.public).await.unwrap();
    assert!(ask(&mut idle).await.is_ok_and(|answer| !answer.ends));

    let seen = Arc::new(Seen::default());
    let mut clients = JoinSet::new();
    for _ in 0..3 {
        clients.spawn(keeps(one.public, Arc::clone(&seen)));
    }
    for _ in 0..2 {
        clients.spawn(comes_anew(one.public, Arc::clone(&seen)));
    }
    let knocking = tokio::spawn(knocks(site.path("admin.sock"), Arc::clone(&seen)));
    one.until("there is load", async || seen.total() > 2000).await;
    let two = one.spawn_beside("two.yaml", &site.yaml("two", 2), &[&site.from()]);
    two.says("naka is ready").await;
    one.until("both have answered", async || seen.by_two.load(Relaxed) > 5000).await;
    seen.is_over.store(true, SeqCst);
    timeout(PATIENCE, async { while clients.join_next().await.transpose().unwrap().is_some() {} })
        .await
        .unwrap();
    assert!(knocking.await.unwrap() > 0);
    let failed = seen.failed.lock().unwrap().clone();
    assert_eq!(failed, Vec::<String>::new(), "{}\n{}", one.log(), two.log());
    assert!(seen.by_one.load(Relaxed) > 2000, "each has answered");

    // Whoever was connected is answered once more; and so is who has said nothing yet.
    for mut stream in [silent, idle] {
        let answer = ask(&mut stream).await.expect("the process before still answers");
        assert!(answer.head.contains("x-by: one") && answer.ends, "{}", answer.head);
    }
    assert_eq!(one.end().await.code(), Some(0), "{}", one.log());
    assert!(one.log().contains("handed over; draining") && one.log().contains("cut=0"), "{}", one.log());
    assert!(two.log().contains("this process has taken over"), "{}", two.log());
    assert_goes_on(&two, &site, "asha", "ravi").await;
    assert!(UnixStream::connect(site.path("admin.sock")).await.is_ok(), "the file is that of the second");
    assert_eq!(two.get("/readyz").await.unwrap().0, 200);
    assert_eq!(two.post("/reload", "").await.0, 200);
}

/// Bug: whoever waited at the Unix socket of the admin port when another process took over was cut off, however long that process was still
/// there for its clients.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_at_the_admin_socket_is_answered_by_the_process_that_had_it() {
    const AT_ONCE: usize = 64;
    const HEAD: &[u8] = b"GET /livez HTTP/1.1\r\nhost: localhost\r\n";
    let site = Site::new().await;
    let mut one = Process::start_in(tempfile::tempdir().unwrap(), &site.yaml("one", 1)).await;
    // As long as this one sends, the first process is there.
    let mut sends = TcpStream::connect(one.public).await.unwrap();
    sends.write_all(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\n").await.unwrap();
    let mut served = Vec::new();
    for _ in 0..AT_ONCE {
        let mut stream = UnixStream::connect(site.path("admin.sock")).await.unwrap();
        stream.write_all(&[HEAD, b"\r\n"].concat()).await.unwrap();
        stream.read_exact(&mut [0; 12]).await.unwrap();
        served.push(stream);
    }
    let mut waits = UnixStream::connect(site.path("admin.sock")).await.unwrap();
    waits.write_all(&[HEAD, b"connection: close\r\n\r\n"].concat()).await.unwrap();
    let two = one.spawn_beside("two.yaml", &site.yaml("two", 1), &[&site.from()]);
    two.says("naka is ready").await;
    one.says("handed over; draining").await;
    drop(served);
    let mut answer = String::new();
    timeout(PATIENCE, waits.read_to_string(&mut answer)).await.unwrap().expect("it is not cut off");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    sends.write_all(b"x").await.unwrap();
    assert_eq!(one.end().await.code(), Some(0), "{}", one.log());
}

/// With as many workers as it likes, with other listeners, and the next one after it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_process_may_have_other_workers_and_other_listeners() {
    let site = Site::new().await;
    let first = Process::start_in(tempfile::tempdir().unwrap(), &site.yaml("one", 3)).await;
    spend(&first, "asha").await;
    let more = crate::process::free_address();
    let mut processes = vec![first];
    for (place, workers) in [1, 4, 2].into_iter().enumerate() {
        let mut yaml = site.yaml("two", workers);
        if place == 1 {
            yaml = with_more(&yaml, more);
        }
        let last = processes.last_mut().unwrap();
        let next = last.spawn_beside("two.yaml", &yaml, &[&site.from()]);
        next.says("naka is ready").await;
        assert_eq!(last.end().await.code(), Some(0), "{}", last.log());
        // Every socket of before is accepted from: connections are spread over them by the kernel.
        for _ in 0..40 {
            assert_eq!(status(&next, "/", "asha").await, 200);
        }
        assert_eq!(TcpStream::connect(more).await.is_ok(), place == 1, "{}", next.log());
        assert_goes_on(&next, &site, "asha", &format!("ravi-{place}")).await;
        processes.push(next);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_wrong_leaves_the_first_as_it_was() {
    let site = Site::new().await;
    let mut one = Process::start_in(tempfile::tempdir().unwrap(), &site.yaml("one", 2)).await;
    spend(&one, "asha").await;
    let wrong = [
        (site.yaml("two", 2).replace("upstream: app", "upstream: nobody"), "nobody"),
        (
            site.yaml("two", 2) + "tests: [{request: 'GET http://a/', expect: {route: sick}}]\n",
            "a test does not hold",
        ),
    ];
    for (yaml, why) in wrong {
        let mut two = one.spawn_beside("two.yaml", &yaml, &[&site.from()]);
        assert_eq!(two.end().await.code(), Some(2));
        two.says("not started").await;
        assert!(two.log().contains(why), "{}", two.log());
    }
    assert!(!one.log().contains("wants to take over"), "{}", one.log());
    // An address that is taken is found out later, when the first one waits.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let yaml = with_more(&site.yaml("two", 2), taken.local_addr().unwrap());
    let mut two = one.spawn_beside("two.yaml", &yaml, &[&site.from()]);
    assert_eq!(two.end().await.code(), Some(2));
    one.says("this process goes on").await;
    // So is a path at which somebody else listens.
    let _elses = std::os::unix::net::UnixListener::bind(site.path("elses.sock")).unwrap();
    let yaml = site.yaml("two", 2).replace("admin.sock", "elses.sock");
    let mut two = one.spawn_beside("two.yaml", &yaml, &[&site.from()]);
    assert_eq!(two.end().await.code(), Some(2));
    two.says("somebody listens at").await;
    one.until("it goes on again", async || one.log().matches("this process goes on").count() == 2).await;
    // Nobody is there to take over from, or somebody who does not.
    for socket in ["nobody.sock", "admin.sock"] {
        let from = format!("--upgrade-from=unix:{}", site.path(socket).display());
        let mut two = one.spawn_beside("two.yaml", &site.yaml("two", 2), &[&from]);
        assert_eq!(two.end().await.code(), Some(2), "{socket}");
        two.says("the gateway that runs goes on").await;
    }
    assert_eq!(status(&one, "/", "asha").await, 200);
    assert_eq!(one.get("/readyz").await.unwrap().0, 200);
    assert_eq!(one.post("/reload", "").await.0, 200);
    let mut two = one.spawn_beside("two.yaml", &site.yaml("two", 2), &[&site.from()]);
    two.says("naka is ready").await;
    assert_eq!(one.end().await.code(), Some(0), "{}", one.log());
    assert_goes_on(&two, &site, "asha", "ravi").await;
    two.signal(Signal::TERM);
    assert_eq!(two.end().await.code(), Some(0));
}

/// While it looks for endpoints at a name server that says nothing, the first one waits for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_dies_before_it_is_ready_leaves_the_first_as_it_was() {
    let site = Site::new().await;
    let mut one = Process::start_in(tempfile::tempdir().unwrap(), &site.yaml("one", 2)).await;
    spend(&one, "asha").await;
    let deaf = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let yaml = that_looks(&site.yaml("two", 2), &deaf);
    // Killed, or told to end: that is heard until it says that it is ready.
    for (times, signal) in [Signal::KILL, Signal::TERM, Signal::INT].into_iter().enumerate() {
        let says = async |words: &str| {
            one.until(words, async || one.log().matches(words).count() > times).await;
        };
        let mut two = one.spawn_beside("two.yaml", &yaml, &[&site.from()]);
        says("another process wants to take over").await;
        two.signal(signal);
        let status = two.end().await;
        assert!(signal == Signal::KILL || status.code() == Some(2), "{status}: {}", two.log());
        says("this process goes on: the other process has ended").await;
    }
    assert_goes_on(&one, &site, "asha", "ravi").await;
    assert!(UnixStream::connect(site.path("admin.sock")).await.is_ok());
    assert_eq!(one.post("/reload", "").await.0, 200, "it reloads again");

    // Told to end while the other one is at it, it ends, and that one does not start.
    let mut two = one.spawn_beside("two.yaml", &yaml, &[&site.from()]);
    one.until("it asks once more", async || one.log().matches("wants to take over").count() == 4).await;
    one.signal(Signal::TERM);
    assert_eq!(one.end().await.code(), Some(0));
    assert_eq!(two.end().await.code(), Some(2), "{}", two.log());
    assert!(TcpStream::connect(one.public).await.is_err(), "nobody serves");
    assert!(!site.path("admin.sock").exists() && !site.path("upgrade.sock").exists());
}

/// A configuration that takes a while to find its endpoints: at a name server that says nothing.
fn that_looks(yaml: &str, deaf: &UdpSocket) -> String {
    let resolver = format!("gateway:\n  resolver: {{servers: ['{}']}}\n", deaf.local_addr().unwrap());
    let yaml = yaml.replace("gateway:\n", &resolver);
    let yaml = yaml.replace("upstreams:\n", "upstreams:\n  lost: {endpoints: {dns: 'lost.example:80'}}\n");
    yaml.replace("routes:\n", "routes:\n  lost: {listener: public, match: {path: /lost}, upstream: lost}\n")
}

/// Waits until it looks for its endpoints: it has the sockets by then, and what the first one knew.
async fn looks(deaf: &UdpSocket) {
    timeout(PATIENCE, deaf.recv_from(&mut [0; 512])).await.expect("it asks for a name").unwrap();
}

/// Nobody else serves, and it has all that it needs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_has_the_sockets_goes_on_when_the_first_dies() {
    let site = Site::new().await;
    let mut one = Process::start_in(tempfile::tempdir().unwrap(), &site.yaml("one", 2)).await;
    spend(&one, "asha").await;
    let deaf = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut two = one.spawn_beside("two.yaml", &that_looks(&site.yaml("two", 2), &deaf), &[&site.from()]);
    looks(&deaf).await;
    one.signal(Signal::KILL);
    one.end().await;
    assert_eq!(status(&two, "/", "asha").await, 200, "who comes meanwhile waits: {}", two.log());
    two.says("the process before has ended, and this one goes on without it").await;
    two.says("naka is ready").await;
    assert_goes_on(&two, &site, "asha", "ravi").await;
    assert!(UnixStream::connect(site.path("admin.sock")).await.is_ok());
    let mut three = one.spawn_beside("two.yaml", &site.yaml("three", 2), &[&site.from()]);
    three.says("naka is ready").await;
    assert_eq!(two.end().await.code(), Some(0), "and the next one takes over from it: {}", two.log());
    assert_eq!(status(&three, "/gcra", "asha").await, 429);
    three.signal(Signal::TERM);
    assert_eq!(three.end().await.code(), Some(0));
}

/// Whoever connects would wait there for as long as endpoints are looked for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_that_is_new_is_not_open_before_it_is_served() {
    let site = Site::new().await;
    let one = Process::start_in(tempfile::tempdir().unwrap(), &site.yaml("one", 2)).await;
    let (deaf, more) = (UdpSocket::bind("127.0.0.1:0").await.unwrap(), crate::process::free_address());
    let yaml = with_more(&that_looks(&site.yaml("two", 2), &deaf), more);
    let two = one.spawn_beside("two.yaml", &yaml, &[&site.from()]);
    looks(&deaf).await;
    let early = TcpStream::connect(more).await;
    assert!(early.is_err() || two.log().contains("listening"), "nobody serves there yet: {}", two.log());
    two.says("naka is ready").await;
    let answer = raw(more, b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
    assert!(answer.ends_with(b"more"), "{}", two.log());
}

/// It would be lost: what this process knows is taken.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_done_by_hand_while_another_process_takes_over() {
    let site = Site::new().await;
    let one = Process::start_in(tempfile::tempdir().unwrap(), &site.yaml("one", 2)).await;
    let app = site.app.address();
    let by_hand = [
        format!("/upstreams?upstream=app&endpoint={app}&do=maintenance"),
        format!("/upstreams?upstream=app&endpoint={app}&do=restore"),
        "/policies?policy=guard&do=force_open".to_owned(),
        "/policies?policy=guard&do=reset".to_owned(),
    ];
    let mut taker = UnixStream::connect(site.path("upgrade.sock")).await.unwrap();
    for line in [r#"{"hello": {"version": 3, "pid": 1}}"#, r#""take""#] {
        let len = u32::try_from(line.len()).unwrap().to_be_bytes();
        taker.write_all(&[&len[..], line.as_bytes()].concat()).await.unwrap();
    }
    one.says("another process wants to take over").await;
    for ask in &by_hand {
        let (status, said) = one.post(ask, "").await;
        assert!(status == 503 && said.to_string().contains("taking over"), "{ask}: {status} {said}");
    }
    drop(taker);
    one.says("this process goes on").await;
    for ask in by_hand {
        let (status, said) = one.post(&ask, "").await;
        assert_eq!(status, 200, "{ask}: {said}");
    }
}

/// Whoever speaks otherwise is turned away, and nothing has happened.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_speaks_otherwise_is_turned_away() {
    let site = Site::new().await;
    let one = Process::start_in(tempfile::tempdir().unwrap(), &site.yaml("one", 2)).await;
    let socket = site.path("upgrade.sock");
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    let says = async |lines: &[&[u8]]| {
        let mut stream = UnixStream::connect(&socket).await.unwrap();
        for line in lines {
            let len = u32::try_from(line.len()).unwrap().to_be_bytes();
            stream.write_all(&[&len[..], line].concat()).await.unwrap();
        }
        let mut answer = Vec::new();
        let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("it hangs up");
        String::from_utf8_lossy(&answer).into_owned()
    };
    let refused = says(&[br#"{"hello": {"version": 99, "pid": 1}}"#]).await;
    assert!(refused.contains("refused") && refused.contains("version 99"), "{refused}");
    assert_eq!(says(&[b"GET / HTTP/1.1"]).await, "");
    assert_eq!(says(&[br#"{"take": null}"#]).await, "");
    let offered = says(&[br#"{"hello": {"version": 3, "pid": 1}}"#, br#""over""#]).await;
    assert!(offered.contains("offer"), "{offered}");
    let mut long = UnixStream::connect(&socket).await.unwrap();
    long.write_all(&u32::MAX.to_be_bytes()).await.unwrap();
    assert_eq!(
        timeout(PATIENCE, long.read(&mut [0])).await.unwrap().unwrap_or(0),
        0,
        "it does not wait for 4 GiB"
    );
    let log = one.log();
    assert!(log.contains("turned away") && !log.contains("wants to take over"), "{log}");
    assert_eq!(status(&one, "/", "asha").await, 200);
}

fn assert_private(file: &Path) {
    assert_eq!(std::fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_goes_on_from_the_file() {
    let site = Site::new().await;
    let mut one = Process::start_in(tempfile::tempdir().unwrap(), &site.yaml("one", 2)).await;
    spend(&one, "asha").await;
    one.signal(Signal::TERM);
    assert_eq!(one.end().await.code(), Some(0));
    assert_private(&site.path("state"));
    assert!(one.log().contains("the state is saved"), "{}", one.log());
    let mut two = one.spawn_beside("two.yaml", &site.yaml("two", 2), &[]);
    two.says("naka is ready").await;
    two.says("the state of before is used").await;
    assert_goes_on(&two, &site, "asha", "ravi").await;
    two.signal(Signal::TERM);
    assert_eq!(two.end().await.code(), Some(0));

    // What counts by another key, and what is gone, is dropped; the rest goes on.
    let other = site.yaml("two", 2).replace("3/h, key: [header:x-user]}", "3/h, key: [client_ip]}");
    let other =
        other.replace("use: [window]", "use: [windows]").replace("  window: {rate", "  windows: {rate");
    let three = one.spawn_beside("two.yaml", &other, &[]);
    three.says("the state of before is used").await;
    three.says("naka is ready").await;
    assert!(three.log().contains("rate_limit: 2 dropped"), "{}", three.log());
    assert_eq!((status(&three, "/gcra", "asha").await, status(&three, "/window", "asha").await), (200, 200));
    assert_eq!(status(&three, "/sick", "asha").await, 503);
}

/// It is written in intervals, so that the end need not be a graceful one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_costs_what_came_since_the_last_writing() {
    let site = Site::new().await;
    let yaml = |by| site.yaml(by, 1).replace("interval: 1h", "interval: 1s");
    let mut one = Process::start_in(tempfile::tempdir().unwrap(), &yaml("one")).await;
    spend(&one, "asha").await;
    let _ = std::fs::remove_file(site.path("state")); // What is written from now on has seen it.
    one.until("it is written", async || site.path("state").exists()).await;
    assert_private(&site.path("state"));
    one.signal(Signal::KILL);
    one.end().await;
    let two = one.spawn_beside("two.yaml", &yaml("two"), &[]);
    two.says("naka is ready").await;
    assert_goes_on(&two, &site, "asha", "ravi").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_not_what_was_written_is_refused_whole() {
    let site = Site::new().await;
    let mut one = Process::start_in(tempfile::tempdir().unwrap(), &site.yaml("one", 1)).await;
    spend(&one, "asha").await;
    one.signal(Signal::TERM);
    assert_eq!(one.end().await.code(), Some(0));
    let good = std::fs::read(site.path("state")).unwrap();
    let text = String::from_utf8(good.clone()).unwrap();
    let too_large = std::iter::repeat_n(b' ', (64 << 20) + 1).collect::<Vec<_>>();
    let broken: [(&str, Vec<u8>); 6] = [
        ("it has not as many bytes as it says", good[..good.len() - 1].to_vec()),
        ("its hash is another", text.replace("\"taken_ms\":1", "\"taken_ms\":2").into_bytes()),
        ("is of version \"2\"", text.replacen("naka state 1 ", "naka state 2 ", 1).into_bytes()),
        ("it does not begin as saved state does", b"{}\n".to_vec()),
        ("it does not begin as saved state does", Vec::new()),
        ("it has more than 67108864 bytes", [good.clone(), too_large].concat()),
    ];
    for (why, bytes) in broken {
        std::fs::write(site.path("state"), bytes).unwrap();
        let mut two = one.spawn_beside("two.yaml", &site.yaml("two", 1), &[]);
        two.says("naka is ready").await;
        let log = two.log();
        assert!(log.contains("everything begins anew") && log.contains(why), "{why}: {log}");
        assert_eq!(status(&two, "/gcra", "asha").await, 200, "it begins anew");
        two.signal(Signal::KILL);
        two.end().await;
        let _ = std::fs::remove_file(site.path("admin.sock"));
    }
    std::fs::write(site.path("state"), good).unwrap();
    let two = one.spawn_beside("two.yaml", &site.yaml("two", 1), &[]);
    two.says("naka is ready").await;
    assert_eq!(status(&two, "/gcra", "asha").await, 429, "and this is how it was");
}

/// Opening a pipe waits for whoever writes to it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_file_that_is_a_pipe_is_left_alone_and_holds_nothing_up() {
    let site = Site::new().await;
    let state = site.path("state");
    mknodat(CWD, &state, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    let mut one = Process::start_in(tempfile::tempdir().unwrap(), &site.yaml("one", 1)).await;
    one.says("everything begins anew: it is no regular file").await;
    assert_eq!(status(&one, "/", "asha").await, 200);
    one.signal(Signal::TERM);
    assert_eq!(one.end().await.code(), Some(0));
    one.says("the state cannot be saved in").await;
    assert!(std::fs::metadata(&state).unwrap().file_type().is_fifo(), "it is still there");
}

/// Killed while it wrote, a process leaves half a file, which is as secret as the whole.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_process_left_beside_its_state_is_removed() {
    let site = Site::new().await;
    let nobody = 1 << 22; // The kernel gives no such number.
    let [left, other, named, linked] = [
        format!(".state.{nobody}"),
        format!(".state.{}", std::process::id()),
        ".state.old".to_owned(),
        format!(".state.{}", nobody + 1),
    ]
    .map(|name| site.path(&name));
    for file in [&left, &other, &named] {
        std::fs::write(file, "half of it").unwrap();
    }
    std::os::unix::fs::symlink(&named, &linked).unwrap();
    let one = Process::start_in(tempfile::tempdir().unwrap(), &site.yaml("one", 1)).await;
    one.until("it is removed", async || !left.exists()).await;
    assert!(other.exists(), "it may be writing");
    assert!(named.exists() && linked.is_symlink(), "it is somebody else's");
}

/// What an operator has done is not undone by a restart.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_done_by_hand_goes_on() {
    let site = Site::new().await;
    let app = site.app.address();
    let yaml = format!(
        "
gateway: {{workers: 1, admin: {{listen: ADMIN}}, state: {{file: {}}}, drain: {{grace: 0s, deadline: 10s}}}}
listeners: {{public: {{listen: PUBLIC}}}}
policies: {{guard: {{circuit_breaker: {{}}}}}}
upstreams:
  app: {{endpoints: ['{app}', '127.0.0.1:1'], circuit_breaker: {{consecutive: 5}}}}
  next: {{endpoints: ['{app}']}}
routes:
  guarded: {{match: {{path: /guarded}}, use: [guard], upstream: app}}
  all: {{match: {{prefix: /}}, split: {{to: {{app: 50, next: 50}}}}}}
",
        site.path("state").display()
    );
    let mut one = Process::start_in(tempfile::tempdir().unwrap(), &yaml).await;
    let asks = [
        "/upstreams?upstream=app&endpoint=127.0.0.1:1&do=maintenance".to_owned(),
        format!("/upstreams?upstream=app&endpoint={app}&do=force_close"),
        "/policies?policy=all/split&arm=next&do=hold".to_owned(),
        "/policies?policy=guard&do=force_open".to_owned(),
    ];
    for ask in asks {
        let (status, said) = one.post(&ask, "").await;
        assert_eq!(status, 200, "{ask}: {said}");
    }
    one.signal(Signal::TERM);
    assert_eq!(one.end().await.code(), Some(0));
    let two = one.spawn_beside("two.yaml", &yaml, &[]);
    two.says("naka is ready").await;
    let upstreams = two.get("/upstreams").await.unwrap().1;
    assert!(upstreams.contains("maintenance") && upstreams.contains("forced_closed"), "{upstreams}");
    let (status, said) = two.post("/policies?policy=all/split&arm=next&do=hold", "").await;
    assert!(status == 400 && said.to_string().contains("held already"), "{status} {said}");
    assert_eq!(self::status(&two, "/guarded", "asha").await, 503);
}

/// However late an endpoint is found, also if that is only in the process after the next.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_is_found_late_is_in_maintenance_as_before() {
    let site = Site::new().await;
    let app = site.app.address();
    let yaml = format!(
        "
gateway: {{workers: 1, admin: {{listen: ADMIN}}, state: {{file: {}}}, drain: {{grace: 0s, deadline: 10s}}}}
listeners: {{public: {{listen: PUBLIC}}}}
upstreams: {{app: {{endpoints: {{file: endpoints.yaml}}}}}}
routes: {{all: {{match: {{prefix: /}}, upstream: app}}}}
",
        site.path("state").display()
    );
    let folder = tempfile::tempdir().unwrap();
    let list = format!("['{app}', '127.0.0.1:1']");
    std::fs::write(folder.path().join("endpoints.yaml"), &list).unwrap();
    let mut one = Process::start_in(folder, &yaml).await;
    let (status, said) = one.post("/upstreams?upstream=app&endpoint=127.0.0.1:1&do=maintenance", "").await;
    assert_eq!(status, 200, "{said}");
    one.signal(Signal::TERM);
    assert_eq!(one.end().await.code(), Some(0));
    std::fs::remove_file(one.path("endpoints.yaml")).unwrap();
    let mut two = one.spawn_beside("two.yaml", &yaml, &[]);
    two.says("naka is ready").await;
    two.signal(Signal::TERM);
    assert_eq!(two.end().await.code(), Some(0));
    let three = one.spawn_beside("two.yaml", &yaml, &[]);
    three.says("naka is ready").await;
    let upstreams = async || three.get("/upstreams").await.unwrap().1;
    assert!(!upstreams().await.contains("127.0.0.1:1\""), "none is found");
    three.write("endpoints.yaml", &list);
    three.until("they are found", async || upstreams().await.contains("127.0.0.1:1\"")).await;
    let upstreams = upstreams().await;
    assert_eq!(upstreams.matches("maintenance").count(), 1, "{upstreams}");
    for _ in 0..4 {
        assert_eq!(self::status(&three, "/", "asha").await, 200, "the other one is there");
    }
}
