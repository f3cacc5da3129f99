//! Changes of the files while requests are served, over real sockets.

use std::{
    net::SocketAddr,
    os::unix::fs::symlink,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use naka_gateway::{
    config::checked::Workers as Layout,
    custom::Kinds,
    generation::InForce,
    observe::{Format, Metrics, ReloadResult},
    prepare::{Before, Outside, RunTests, prepare},
    reload::{Reloader, Signature},
    shared::Shared,
    state::State,
    watch::Watch,
    worker::Workers,
};
use naka_testkit::upstream::{Upstream, ok};
use rustix::process::Signal;
use tempfile::{TempDir, tempdir};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use crate::{
    inside::{Inside, get},
    process::{Process, free_address, raw, run_to_end},
};

/// Requests in a row on each of a few connections, until told to stop.
struct Load {
    state: Arc<LoadState>,
    clients: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct LoadState {
    answered: AtomicU64,
    failed: Mutex<Vec<String>>,
    is_over: AtomicBool,
}

impl Load {
    fn start(at: SocketAddr, path: &'static str) -> Self {
        let state = Arc::new(LoadState::default());
        let client = |_| {
            let state = Arc::clone(&state);
            tokio::spawn(async move {
                let mut stream = TcpStream::connect(at).await.unwrap();
                while !state.is_over.load(SeqCst) {
                    match exchange(&mut stream, path).await {
                        Ok((200, _)) => _ = state.answered.fetch_add(1, SeqCst),
                        other => {
                            state.failed.lock().unwrap().push(format!("{other:?}"));
                            let Ok(again) = TcpStream::connect(at).await else { return };
                            stream = again;
                        }
                    }
                    tokio::task::yield_now().await;
                }
            })
        };
        let clients = (0..4).map(client).collect();
        Self { state, clients }
    }

    /// Waits until a hundred more have been answered.
    async fn goes_on(&self, process: &Process) {
        let goal = self.state.answered.load(SeqCst) + 100;
        process.until("the load goes on", async || self.state.answered.load(SeqCst) >= goal).await;
    }

    /// Stops, and insists that nothing has failed.
    async fn all_were_answered(self) {
        self.state.is_over.store(true, SeqCst);
        for client in self.clients {
            client.await.unwrap();
        }
        assert_eq!(*self.state.failed.lock().unwrap(), Vec::<String>::new());
    }
}

/// One request on a connection that stays open: the status and the body.
async fn exchange(stream: &mut TcpStream, path: &str) -> std::io::Result<(u16, String)> {
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: api.example\r\n\r\n").as_bytes()).await?;
    let mut answer = Vec::new();
    let head = loop {
        if let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        if stream.read_buf(&mut answer).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    };
    let text = String::from_utf8_lossy(&answer[..head]).to_ascii_lowercase();
    let status = text.split(' ').nth(1).unwrap().parse().unwrap();
    let length = text.lines().find_map(|line| line.strip_prefix("content-length: "));
    let end = head + length.unwrap_or("0").parse::<usize>().unwrap();
    while answer.len() < end {
        if stream.read_buf(&mut answer).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok((status, String::from_utf8_lossy(&answer[head..end]).into_owned()))
}

/// `/` goes to the upstream, `/version` says which version of the file is in force.
fn versioned(upstream: &Upstream, version: &str, gateway: &str) -> String {
    format!(
        "gateway: {{admin: {{listen: ADMIN}}, workers: 2{gateway}}}
listeners: {{public: {{listen: PUBLIC}}}}
upstreams: {{app: {{endpoints: ['{}']}}}}
routes:
  all: {{match: {{prefix: /}}, upstream: app}}
  version: {{match: {{path: /version}}, respond: {{body: {version}}}}}
",
        upstream.address()
    )
}

const WRONG: &str = "routes:
  all: {match: {prefix: /}, respnd: {}}
";

/// By saving in place, renaming over, and in between something wrong: no request notices.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn edits_lose_no_request_and_what_is_wrong_takes_no_effect() {
    let upstream = Upstream::start(|_| ok("fine")).await;
    let process = Process::start(&versioned(&upstream, "one", "")).await;
    let load = Load::start(process.public, "/");
    load.goes_on(&process).await;
    process.save("gateway.yaml", &versioned(&upstream, "two", ""));
    process.answers("/version", "two").await;

    process.save("gateway.yaml", &versioned(&upstream, "three", "").replace("respond:", "respnd:"));
    process.says("gateway.yaml:6:").await;
    assert!(process.log().contains("unknown-key"), "{}", process.log());
    load.goes_on(&process).await;
    process.answers("/version", "two").await;
    assert!(process.metric("naka_reloads_total{result=\"refused\"}").await >= Some(1.0));
    let (status, ready) = process.get("/readyz").await.unwrap();
    assert!(status == 200 && ready.contains("gateway.yaml:6:"), "{ready}");
    assert_eq!(process.json("/readyz").await["generation"], 2);
    assert_eq!(process.metric("naka_generation ").await, Some(2.0));

    process.save("gateway.yaml", &versioned(&upstream, "two", ""));
    process.says("the files are again what generation 2 was made of").await;
    process.save("gateway.yaml", &versioned(&upstream, "four", ""));
    process.answers("/version", "four").await;
    process.write("gateway.yaml", &versioned(&upstream, "five", "")); // One atomic rename.
    process.answers("/version", "five").await;
    load.goes_on(&process).await;
    load.all_were_answered().await;
    assert_eq!(process.metric("naka_generation ").await, Some(4.0));
    assert_eq!(process.json("/readyz").await["reload"]["last_error"], serde_json::Value::Null);
}

/// As a `ConfigMap` is mounted: files are links through `..data`, which is a link that is swapped.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_swapped_link_takes_effect_each_time() {
    let upstream = Upstream::start(|_| ok("fine")).await;
    let folder = tempdir().unwrap();
    let version = |name: &str| {
        std::fs::create_dir(folder.path().join(name)).unwrap();
        let text = format!("routes: {{version: {{match: {{path: /version}}, respond: {{body: {name}}}}}}}");
        std::fs::write(folder.path().join(name).join("version.yaml"), text).unwrap();
    };
    let swap = |path: &std::path::Path, name: &str| {
        symlink(name, path.join("..new")).unwrap();
        std::fs::rename(path.join("..new"), path.join("..data")).unwrap();
    };
    let path = folder.path().to_owned();
    version("first");
    version("second");
    version("third");
    swap(&path, "first");
    symlink("..data/version.yaml", path.join("version.yaml")).unwrap();
    let entry = versioned(&upstream, "x", "");
    let (entry, _) = entry.split_once("  version:").unwrap();
    let process = Process::start_in(folder, &format!("{entry}include: [version.yaml]\n")).await;
    let load = Load::start(process.public, "/");
    process.answers("/version", "first").await;
    for name in ["second", "third", "first"] {
        swap(&path, name);
        process.answers("/version", name).await;
    }
    load.goes_on(&process).await;
    load.all_were_answered().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sighup_is_heard_where_nothing_is_watched() {
    let upstream = Upstream::start(|_| ok("fine")).await;
    let unwatched = ", reload: {watch: false}";
    let process = Process::start(&versioned(&upstream, "one", unwatched)).await;
    let load = Load::start(process.public, "/");
    process.save("gateway.yaml", &versioned(&upstream, "two", unwatched));
    load.goes_on(&process).await;
    process.answers("/version", "one").await;
    process.signal(Signal::HUP);
    process.answers("/version", "two").await;
    load.goes_on(&process).await;
    load.all_were_answered().await;
}

fn with_included(strict: bool) -> (TempDir, String) {
    let folder = tempdir().unwrap();
    std::fs::create_dir(folder.path().join("routes.d")).unwrap();
    for name in ["a", "b"] {
        std::fs::write(folder.path().join(format!("routes.d/{name}.yaml")), included(name, "one")).unwrap();
    }
    let entry = format!(
        "gateway: {{admin: {{listen: ADMIN}}, workers: 2, reload: {{strict: {strict}}}}}
listeners: {{public: {{listen: PUBLIC}}}}
include: [routes.d/*.yaml]
"
    );
    (folder, entry)
}

fn included(name: &str, body: &str) -> String {
    format!("routes:\n  {name}: {{match: {{path: /{name}}}, respond: {{body: {body}}}}}\n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_included_file_is_held_while_another_takes_effect() {
    let (folder, entry) = with_included(false);
    let process = Process::start_in(folder, &entry).await;
    let load = Load::start(process.public, "/a");
    process.write("routes.d/a.yaml", WRONG);
    process.write("routes.d/b.yaml", &included("b", "two"));
    process.answers("/b", "two").await;
    process.answers("/a", "one").await;
    process.says("routes.d/a.yaml:2:").await;
    process.until("it is held", async || process.metric("naka_held_files ").await == Some(1.0)).await;
    let held = process.json("/readyz").await["reload"]["held"].to_string();
    assert!(held.contains("routes.d/a.yaml") && !held.contains("b.yaml"), "{held}");
    process.write("routes.d/a.yaml", &included("a", "three"));
    process.answers("/a", "three").await;
    assert_eq!(process.metric("naka_held_files ").await, Some(0.0));
    load.all_were_answered().await;
}

/// What is refused holds nothing: the files in force are those of before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_address_says_nothing_of_held_files() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (folder, entry) = with_included(false);
    let entry = entry.replace("strict: false", "watch: false");
    let process = Process::start_in(folder, &entry).await;
    process.write("routes.d/a.yaml", WRONG);
    process.write("gateway.yaml", &entry.replace("PUBLIC", &format!("'{}'", taken.local_addr().unwrap())));
    assert_eq!(process.post("/reload", "").await.0, 422);
    assert_eq!(process.metric("naka_held_files ").await, Some(0.0));
    assert_eq!(process.json("/readyz").await["reload"]["held"], serde_json::json!([]));
    drop(taken);
    let (status, said) = process.post("/reload", "").await;
    assert_eq!(status, 200, "{said}");
    assert_eq!(process.metric("naka_held_files ").await, Some(1.0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strict_refuses_all_for_one_wrong_included_file() {
    let (folder, entry) = with_included(true);
    let process = Process::start_in(folder, &entry).await;
    process.save("routes.d/a.yaml", WRONG);
    process.save("routes.d/b.yaml", &included("b", "two"));
    process.says("routes.d/a.yaml:2:").await;
    process.answers("/b", "one").await;
    process.answers("/a", "one").await;
    assert_eq!(process.metric("naka_generation ").await, Some(1.0));
    process.save("routes.d/a.yaml", &included("a", "two"));
    process.answers("/a", "two").await;
    process.answers("/b", "two").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cold_start_with_wrong_files_ends_with_2_and_all_that_is_wrong() {
    let (code, log) = run_to_end(
        "listeners: {public: {listen: PUBLIC}}
upstreams: {app: {endpoints: ['127.0.0.1:1']}}
routes:
  one: {match: {prefix: /}, upstream: ap}
  two: {match: {prefix: /two}, upstream: app, timeout: 3}
",
    )
    .await;
    assert_eq!(code, Some(2), "{log}");
    let mistakes =
        ["there is no upstream `ap`", "gateway.yaml:4:39", "unknown key `timeout`", "gateway.yaml:5:47"];
    for wrong in mistakes.into_iter().chain(["has 2 errors"]) {
        assert!(log.contains(wrong), "{wrong} is missing in\n{log}");
    }
}

/// With these listeners besides the one all tests have.
fn listening(more: &[(&str, SocketAddr)], version: &str) -> String {
    let names = more.iter().map(|(name, _)| format!(", {name}")).collect::<Vec<_>>().concat();
    let more =
        more.iter().map(|(name, at)| format!(", {name}: {{listen: '{at}'}}")).collect::<Vec<_>>().concat();
    format!(
        "gateway: {{admin: {{listen: ADMIN}}, workers: 2}}
listeners: {{public: {{listen: PUBLIC}}{more}}}
routes: {{all: {{listener: [public{names}], match: {{prefix: /}}, respond: {{body: {version}}}}}}}
"
    )
}

/// A listener comes, moves to another port and goes; nobody on another listener notices.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listeners_come_move_and_go() {
    let (first, second) = (free_address(), free_address());
    let process = Process::start(&listening(&[], "one")).await;
    let load = Load::start(process.public, "/");
    assert!(TcpStream::connect(first).await.is_err());

    process.save("gateway.yaml", &listening(&[("more", first)], "two"));
    process.answers("/", "two").await;
    process.until("it listens", async || TcpStream::connect(first).await.is_ok()).await;
    let mut open = TcpStream::connect(first).await.unwrap();
    assert_eq!(exchange(&mut open, "/").await.unwrap(), (200, "two".into()));

    process.save("gateway.yaml", &listening(&[("more", second)], "three"));
    process.until("it has moved", async || TcpStream::connect(second).await.is_ok()).await;
    process.until("the old one is closed", async || TcpStream::connect(first).await.is_err()).await;
    let (status, body) = exchange(&mut open, "/").await.unwrap();
    assert!(status == 503 && body.contains("listener_gone"), "{status} {body}");
    assert_eq!(open.read(&mut [0; 16]).await.unwrap(), 0, "and then it is closed in order");

    process.save("gateway.yaml", &listening(&[], "four"));
    process.answers("/", "four").await;
    process.until("it is gone", async || TcpStream::connect(second).await.is_err()).await;
    load.goes_on(&process).await;
    load.all_were_answered().await;
}

/// One address of two is taken: neither is listened on, and nothing else has changed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_taken_address_leaves_the_generation_whole() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (free, at) = (free_address(), taken.local_addr().unwrap());
    let process = Process::start(&listening(&[], "one")).await;
    let load = Load::start(process.public, "/");
    let both = listening(&[("free", free), ("taken", at)], "two");
    process.save("gateway.yaml", &both);
    process.says("cannot be listened on").await;
    assert!(TcpStream::connect(free).await.is_err());
    process.answers("/", "one").await;
    assert_eq!(process.metric("naka_generation ").await, Some(1.0));
    drop(taken);
    assert_eq!(process.post("/reload", "").await.0, 200);
    process.answers("/", "two").await;
    process.until("it listens", async || TcpStream::connect(free).await.is_ok()).await;
    load.all_were_answered().await;
}

/// A response that began under an old generation is served to its end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_of_an_old_generation_goes_on() {
    let slow = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let entry = |routes: &str| {
        format!(
            "gateway: {{admin: {{listen: ADMIN}}, workers: 2}}
listeners: {{public: {{listen: PUBLIC}}}}
upstreams: {{slow: {{endpoints: ['{}']}}}}
routes: {{{routes}}}
",
            slow.local_addr().unwrap()
        )
    };
    let process = Process::start(&entry("stream: {match: {path: /stream}, upstream: slow}")).await;
    let mut client = TcpStream::connect(process.public).await.unwrap();
    client.write_all(b"GET /stream HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
    let (mut upstream, _) = slow.accept().await.unwrap();
    assert_ne!(upstream.read(&mut [0; 1024]).await.unwrap(), 0); // The request, before it is answered.
    upstream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhello").await.unwrap();
    let mut got = Vec::new();
    while !got.ends_with(b"hello") {
        assert_ne!(client.read_buf(&mut got).await.unwrap(), 0);
    }

    process.save("gateway.yaml", &entry("other: {match: {path: /other}, respond: {body: other}}"));
    process.answers("/other", "other").await;
    assert_eq!(process.public("GET /stream").await.0, 404);
    upstream.write_all(b"world").await.unwrap();
    client.read_to_end(&mut got).await.unwrap();
    assert!(got.ends_with(b"helloworld"), "{}", String::from_utf8_lossy(&got));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_needs_a_restart_is_named() {
    let process = Process::start(&listening(&[], "one")).await;
    let changed = listening(&[], "two")
        .replace("workers: 2", "workers: 3, limits: {connections: 77}")
        .replace("listen: ADMIN", &format!("listen: '{}'", free_address()));
    process.save("gateway.yaml", &changed);
    process.answers("/", "two").await;
    for key in ["gateway.workers", "gateway.admin.listen", "gateway.limits.connections"] {
        let said = format!("`{key}` was changed; it takes effect at the next start");
        assert!(process.log().contains(&said), "{said} is missing in\n{}", process.log());
    }
}

/// Between the first reading and the first watch, which here is as long as the test wants: an included
/// pipe holds the reading up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a5_a_change_while_it_starts_is_not_lost() {
    let folder = tempdir().unwrap();
    let pipe = folder.path().join("pipe.yaml");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let entry = |version| listening(&[], version) + "include: [pipe.yaml]\n";
    let process = Process::spawn_in(folder, &entry("one"));
    let text = included("piped", "yes");
    let path = pipe.clone();
    let mut writer = tokio::task::spawn_blocking(move || std::fs::File::create(path).unwrap()).await.unwrap();
    // Somebody reads the pipe, so the entry has been read.
    process.write("gateway.yaml", &entry("two"));
    process.write("pipe.yaml", &text);
    std::io::Write::write_all(&mut writer, text.as_bytes()).unwrap();
    drop(writer);
    process.until("it is ready", async || process.get("/readyz").await.is_some()).await;
    process.answers("/", "two").await;
}

/// A refused change names a folder for the first time; mended is the file in there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a2_what_a_refused_change_included_is_watched_too() {
    let folder = tempdir().unwrap();
    std::fs::create_dir(folder.path().join("more.d")).unwrap();
    let path = folder.path().to_owned();
    let process = Process::start_in(folder, &listening(&[], "one")).await;
    std::fs::write(path.join("more.d/a.yaml"), WRONG).unwrap();
    process.write("gateway.yaml", &(listening(&[], "two") + "include: [more.d/*.yaml]\n"));
    process.says("more.d/a.yaml:2:").await;
    process.save("more.d/a.yaml", &included("a", "mended"));
    process.answers("/a", "mended").await;
}

/// Long enough for the system to tell of a change.
const GIVE_UP: Duration = Duration::from_mins(1);

#[tokio::test]
async fn a22_a_folder_that_was_deleted_and_made_again_is_watched_again() {
    let parent = tempdir().unwrap();
    let folder = parent.path().join("routes.d");
    std::fs::create_dir(&folder).unwrap();
    let mut watch = Watch::new();
    let changed = async |watch: &mut Watch| {
        let seen = watch.changed(Duration::from_millis(20), Duration::from_secs(1));
        assert!(tokio::time::timeout(GIVE_UP, seen).await.is_ok(), "nothing was noticed");
    };
    watch.follow([&*folder]);
    changed(&mut watch).await; // It asks for a first look.
    for kind in ["a folder", "a link"] {
        std::fs::remove_dir_all(&folder).unwrap();
        changed(&mut watch).await;
        watch.follow([&*folder]); // It cannot be watched now.
        if kind == "a link" {
            std::fs::create_dir(parent.path().join("elsewhere")).unwrap();
            symlink("elsewhere", &folder).unwrap();
        } else {
            std::fs::create_dir(&folder).unwrap();
        }
        watch.follow([&*folder]);
        changed(&mut watch).await;
        std::fs::write(folder.join("a.yaml"), "").unwrap();
        changed(&mut watch).await;
    }
}

/// Whoever waits for a change may look at something else in between.
#[tokio::test(start_paused = true)]
async fn a22_waiting_that_is_interrupted_loses_no_change() {
    let mut watch = Watch::new();
    let (debounce, max_wait) = (Duration::from_millis(200), Duration::from_secs(1));
    watch.look();
    let first = tokio::time::timeout(Duration::from_millis(150), watch.changed(debounce, max_wait)).await;
    assert!(first.is_err(), "it waits for the burst to end");
    tokio::time::timeout(GIVE_UP, watch.changed(debounce, max_wait)).await.expect("the change is not lost");
    for _ in 0..9 {
        watch.look();
        let next = tokio::time::timeout(Duration::from_millis(100), watch.changed(debounce, max_wait)).await;
        assert!(next.is_err(), "the burst goes on");
    }
    watch.look();
    let last = tokio::time::timeout(Duration::from_millis(150), watch.changed(debounce, max_wait)).await;
    assert!(last.is_ok(), "but not for longer than a second");
}

/// `/a` and `/b` say what they are told, out of two files; a reloader that is only asked to look.
struct Looking {
    folder: TempDir,
    reloader: Reloader,
    workers: Workers,
    metrics: Arc<Metrics>,
    in_force: Arc<InForce>,
}

impl Looking {
    fn new() -> Self {
        let folder = tempdir().unwrap();
        let entry = folder.path().join("gateway.yaml");
        std::fs::write(&entry, "include: [routes-*.yaml]\nlisteners: {web: {listen: '127.0.0.1:0'}}\n")
            .unwrap();
        for name in ["a", "b"] {
            std::fs::write(folder.path().join(format!("routes-{name}.yaml")), included(name, "one")).unwrap();
        }
        let (metrics, kinds) = (Arc::new(Metrics::new()), Kinds::default());
        let before = Before {
            entry: &entry,
            sources: None,
            state: &|_| State::new(1),
            number: 1,
            tests: RunTests::AsConfigured,
            kinds: &kinds,
        };
        let first = prepare(&before, &metrics, &Outside::default()).unwrap();
        let in_force = InForce::new(first.generation);
        let shared = Shared::new(Arc::clone(&in_force), Arc::clone(&metrics), 1);
        let workers = Workers::start(&shared, Layout::Count(1)).unwrap();
        let (ours, theirs) = (Arc::clone(&in_force), Arc::clone(&metrics));
        let reloader = Reloader::new(&entry, first.sources, ours, theirs, Outside::default());
        Self { folder, reloader, workers, metrics, in_force }
    }

    fn write(&self, file: &str, text: &str) {
        std::fs::write(self.folder.path().join(file), text).unwrap();
    }

    fn signature(&self) -> Signature {
        Signature::of(&self.reloader.watched())
    }

    /// Looks early at what the files say now.
    async fn early(&mut self) -> bool {
        let signature = self.signature();
        self.reloader.reload_early(&signature, &self.workers).await
    }

    fn generation(&self) -> u64 {
        self.in_force.with(|generation| generation.number)
    }

    /// That nothing has happened, and nothing is said.
    fn is_as_it_was(&self, generation: u64) {
        let said = self.reloader.status();
        assert_eq!((self.generation(), said.last_error(), said.held()), (generation, None, vec![]));
        let text = self.metrics.render(Format::Prometheus, 1);
        for result in ["refused", "unchanged"] {
            let none = format!("naka_reloads_total{{result=\"{result}\"}} 0\n");
            assert!(text.contains(&none), "{text}");
        }
    }
}

/// At a first look only what is whole for all one can know takes effect; of the rest nothing is said before it has settled.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a22_an_early_look_takes_what_is_whole_and_says_nothing_of_the_rest() {
    let mut it = Looking::new();
    assert!(!it.early().await, "nothing has changed");
    it.write("routes-a.yaml", &included("a", "two"));
    assert!(it.early().await);
    assert_eq!(it.generation(), 2);

    let both = included("a", "two") + &included("c", "one").replace("routes:\n", "");
    it.write("routes-a.yaml", &both);
    assert!(it.early().await, "a route more");
    let parts: [(&str, &str); 6] = [
        ("a file that is cut, and right by itself", &included("a", "two")),
        ("a file that is empty, as it is while it is written", ""),
        ("a file that is cut within a key", &both[..both.len() - 9]),
        ("a route on its way to another file", &included("c", "one")),
        ("something wrong", WRONG),
        ("something wrong with what is in the other file", &included("b", "two")),
    ];
    for (what, part) in parts {
        it.write("routes-a.yaml", part);
        assert!(!it.early().await, "{what}");
        it.is_as_it_was(3);
    }
    it.write("routes-a.yaml", &both.replace("one", "two"));
    let signature = it.signature();
    it.write("routes-b.yaml", &included("b", "two"));
    assert!(!it.reloader.reload_early(&signature, &it.workers).await, "a file changed meanwhile");
    it.is_as_it_was(3);

    // What has settled counts, whatever it is.
    it.write("routes-a.yaml", WRONG);
    assert_eq!(it.reloader.reload(&it.workers).await, ReloadResult::Applied);
    assert_eq!(it.reloader.status().held().len(), 1);
    it.write("routes-a.yaml", "");
    assert_eq!(it.reloader.reload(&it.workers).await, ReloadResult::Applied);
    it.write("gateway.yaml", "");
    assert_eq!(it.reloader.reload(&it.workers).await, ReloadResult::Refused);
    it.write("gateway.yaml", "include: [routes-*.yaml]\nlisteners: {web: {listen: '127.0.0.1:0'}}\n");
    it.write("routes-a.yaml", &included("a", "one"));
    assert!(it.early().await);
    assert_eq!(it.reloader.status().last_error(), None, "what is mended is not wrong any more");
}

/// Nobody waits for an hour, and so it is the early look that finds what was renamed to its place.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a22_what_is_saved_takes_effect_before_it_has_settled() {
    let upstream = Upstream::start(|_| ok("fine")).await;
    let (soon, late) = (", reload: {debounce: 10ms}", ", reload: {debounce: 1h, max_wait: 1h}");
    let process = Process::start(&versioned(&upstream, "one", soon)).await;
    process.move_in("gateway.yaml", &versioned(&upstream, "two", late));
    process.answers("/version", "two").await;
    tokio::time::sleep(Duration::from_secs(1)).await; // That burst is over.
    // Nothing else is seen to happen: an early look at a file that is only being made would find nothing, and there is one for each burst.
    process.move_in("gateway.yaml", &versioned(&upstream, "three", soon));
    process.answers("/version", "three").await;
}

/// The first half of a route is a route, without the policy that its last line names.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_written_in_two_steps_protects_all_the_time_what_it_protected() {
    let upstream = Upstream::start(|_| ok("fine")).await;
    let text = |version: &str| {
        format!(
            "gateway: {{admin: {{listen: ADMIN}}, workers: 1}}
listeners: {{web: {{listen: PUBLIC}}}}
policies: {{few: {{rate_limit: {{rate: 1/d, key: [client_ip]}}}}}}
upstreams: {{app: {{endpoints: ['{}']}}}}
routes:
  version: {{match: {{path: /version}}, respond: {{body: {version}}}}}
  all:
    match: {{prefix: /}}
    upstream: app
    use: [few]
",
            upstream.address()
        )
    };
    let process = Process::start(&text("one")).await;
    assert_eq!(process.public("GET /").await.0, 200);
    for version in ["two", "three", "four"] {
        let text = text(version);
        let (first, last) = text.split_at(text.find("    use:").unwrap());
        process.save("gateway.yaml", first);
        for _ in 0..10 {
            assert_eq!(process.public("GET /").await.0, 429, "{version}");
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
        let before = std::fs::read_to_string(process.path("gateway.yaml")).unwrap();
        std::fs::write(process.path("gateway.yaml"), before + last).unwrap();
        process.answers("/version", version).await;
        assert_eq!(process.public("GET /").await.0, 429, "{version}");
    }
    assert_eq!(upstream.requests(), 1);
}

/// A worker that read it itself would answer nobody meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reading_thousands_of_routes_stalls_no_request() {
    let upstream = Upstream::start(|_| ok("fine")).await;
    let text = |version| versioned(&upstream, version, ", reload: {watch: false}");
    let process = Arc::new(Process::start(&text("one")).await);
    let many = (0..5000).map(|n| format!("  r{n}: {{match: {{path: /{n}}}, respond: {{}}}}\n"));
    process.write("gateway.yaml", &(text("two") + &many.collect::<Vec<_>>().concat()));
    let reloading = tokio::spawn({
        let process = Arc::clone(&process);
        async move { process.post("/reload", "").await.0 }
    });
    let mut answered = 0;
    while !reloading.is_finished() {
        assert_eq!(process.public("GET /version").await.0, 200);
        answered += 1;
    }
    assert_eq!(reloading.await.unwrap(), 200);
    process.answers("/version", "two").await;
    assert!(answered > 10, "{answered}");
}

/// Many ask at once; nearly all of them are answered by one reading.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a12_reloads_asked_for_at_once_are_one_reload() {
    let process = Arc::new(
        Process::start(&listening(&[], "one").replace("workers: 2", "workers: 2, reload: {watch: false}"))
            .await,
    );
    // Enough routes to read for a while.
    let routes = (0..2000).map(|n| format!("  r{n}: {{match: {{path: /{n}}}, respond: {{}}}}\n"));
    let many = listening(&[], "two").replace("workers: 2", "workers: 2, reload: {watch: false}");
    let (head, all) = many.split_once("routes: {").unwrap();
    let all = all.trim_end().strip_suffix('}').unwrap();
    process
        .write("gateway.yaml", &format!("{head}routes:\n  {all}\n{}", routes.collect::<Vec<_>>().concat()));
    let asking = (0..40).map(|_| {
        let process = Arc::clone(&process);
        tokio::spawn(async move { process.post("/reload", "").await.1["result"].as_str().map(str::to_owned) })
    });
    let mut words = Vec::new();
    for asked in asking.collect::<Vec<_>>() {
        words.push(asked.await.unwrap().unwrap());
    }
    assert!(words.iter().all(|word| word == "applied" || word == "unchanged"), "{words:?}");
    let text = process.get("/metrics").await.unwrap().1;
    let reloads = text.lines().filter(|line| line.starts_with("naka_reloads_total"));
    let reloads = reloads.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum::<u64>();
    assert!(reloads < 40, "each of them was a reload of its own: {reloads}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a12_a_reload_asked_for_while_draining_is_answered_at_once() {
    let yaml = listening(&[], "one").replace("workers: 2", "workers: 2, drain: {grace: 50s, deadline: 55s}");
    let mut process = Process::start(&yaml).await;
    process.signal(Signal::TERM);
    process.until("it drains", async || process.get("/readyz").await.is_some_and(|it| it.0 == 503)).await;
    let asked = tokio::time::timeout(Duration::from_secs(30), process.post("/reload", "")).await;
    assert_eq!(asked.expect("long before the grace is over").0, 503);
    process.signal(Signal::TERM);
    assert_eq!(process.end().await.code(), Some(0));
}

/// A pipe stands for a disk that does not answer: whoever tells the process to end is heard.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reading_that_hangs_keeps_nobody_from_ending_the_process() {
    let folder = tempdir().unwrap();
    let pipe = folder.path().join("pipe.yaml");
    let mut process = Process::start_in(folder, &listening(&[], "one")).await;
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    process.write("gateway.yaml", &(listening(&[], "two") + "include: [pipe.yaml]\n"));
    // Whoever opens the other end of a pipe waits until somebody reads.
    let writer = tokio::task::spawn_blocking(move || std::fs::File::create(pipe).unwrap()).await.unwrap();
    assert_eq!(process.public("GET /").await.1, "one", "requests go on");
    process.signal(Signal::TERM);
    process.signal(Signal::TERM);
    assert_eq!(process.end().await.code(), Some(0), "{}", process.log());
    drop(writer);
}

/// From one address to all, and back: the port is held by nobody else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_is_widened_and_narrowed_on_its_own_port() {
    let process = Process::start(&listening(&[], "one")).await;
    let mut kept = TcpStream::connect(process.public).await.unwrap();
    assert_eq!(exchange(&mut kept, "/").await.unwrap(), (200, "one".to_owned()));
    let wide = format!("'0.0.0.0:{}'", process.public.port());
    // A connection that comes while a socket is closed may be reset: that listener is gone.
    let says = async |version: &str| {
        let request = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
        let answer = async || String::from_utf8(raw(process.public, request).await).unwrap();
        process.until(version, async || answer().await.ends_with(version)).await;
    };
    process.write("gateway.yaml", &listening(&[], "two").replace("PUBLIC", &wide));
    says("two").await;
    assert_eq!(
        exchange(&mut kept, "/").await.unwrap(),
        (200, "two".to_owned()),
        "it goes on under the wider one"
    );
    process.write("gateway.yaml", &listening(&[], "three"));
    says("three").await;
    assert_eq!(exchange(&mut kept, "/").await.unwrap(), (200, "three".to_owned()));
}

/// Whatever becomes of the file: the generation in force goes on, each time it is said why, and once the file is right again it
/// counts again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_running_generation_survives_whatever_becomes_of_the_file() {
    let upstream = Upstream::start(|_| ok("fine")).await;
    let process = Process::start(&versioned(&upstream, "v0", "")).await;
    let load = Load::start(process.public, "/");
    let file = process.path("gateway.yaml");
    let bomb = (1..30).fold("a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned(), |text, level| {
        let nine = vec![format!("*a{}", level - 1); 9].join(", ");
        format!("{text}a{level}: &a{level} [{nine}]\n")
    });
    let deep = format!("routes: {}", "[".repeat(100_000));
    let mishaps: [(&str, &dyn Fn()); 9] = [
        ("it is empty", &|| std::fs::write(&file, "").unwrap()),
        ("it is cut off", &|| {
            let text = std::fs::read_to_string(&file).unwrap();
            std::fs::write(&file, &text[..text.len() / 2]).unwrap();
        }),
        ("it is gone", &|| std::fs::remove_file(&file).unwrap()),
        ("it is a folder", &|| {
            std::fs::remove_file(&file).unwrap();
            std::fs::create_dir(&file).unwrap();
        }),
        ("it is a link to nowhere", &|| {
            std::fs::remove_file(&file).unwrap();
            symlink("nowhere", &file).unwrap();
        }),
        ("it has 100 MB", &|| std::fs::write(&file, "# tea\n".repeat(100_000_000 / 6)).unwrap()),
        ("it is no text", &|| std::fs::write(&file, [0xff, 0xfe, 0, 1, 2]).unwrap()),
        ("it is an alias bomb", &|| std::fs::write(&file, &bomb).unwrap()),
        ("it is a hundred thousand deep", &|| std::fs::write(&file, &deep).unwrap()),
    ];
    for (number, (what, mishap)) in mishaps.into_iter().enumerate() {
        let (before, after) = (format!("v{number}"), format!("v{}", number + 1));
        mishap();
        let (status, said) = process.post("/reload", "").await;
        assert_eq!((status, &said["result"]), (422, &"refused".into()), "{what}: {said}");
        let why = &said["reload"]["last_error"]["first"];
        assert!(why.as_str().is_some_and(|why| why.contains("gateway.yaml")), "{what}: {why}");
        assert_eq!(process.public("GET /version").await, (200, before), "{what}");
        load.goes_on(&process).await;
        // It returns, whatever is in its place.
        if file.is_dir() {
            std::fs::remove_dir(&file).unwrap();
        }
        process.write("gateway.yaml", &versioned(&upstream, &after, ""));
        process.answers("/version", &after).await;
    }
    load.goes_on(&process).await;
    load.all_were_answered().await;
    assert_eq!(process.metric("naka_generation ").await, Some(10.0));
    // Reading the bomb takes 135 MiB until its bound, a million nodes; another thread may read it the next time, and what the first
    // one had is not given back at once.
    assert!(process.peak_memory() < 512 << 20, "{}", process.peak_memory());
}

/// The stack of a route is made when it is first asked for: not by a reload, nor by the file's own tests, nor for the routes that
/// `explain` only lists.
#[tokio::test(start_paused = true)]
async fn nothing_is_built_before_it_is_asked_for() {
    let yaml = |total: &str| {
        let routes = (0..50).map(|number| {
            format!("  r{number}: {{match: {{path: /{number}}}, timeouts: {{total: {total}}}, respond: {{body: '{number}'}}}}\n")
        });
        let routes = routes.collect::<String>();
        format!(
            "listeners: {{web: {{listen: ':8080'}}}}\nroutes:\n{routes}tests: [{{request: 'GET http://a/7', expect: {{route: r7}}}}]\n"
        )
    };
    let gateway = Inside::new(&yaml("5s"));
    let built = || {
        let generation = gateway.generation();
        generation
            .workers
            .iter()
            .flat_map(|it| it.values())
            .map(|served| served.routes.count())
            .sum::<usize>()
    };
    assert_eq!(built(), 0);
    assert_eq!(gateway.send(get("/3")).await.body(), "3");
    assert_eq!(gateway.send(get("/3")).await.body(), "3");
    assert_eq!(built(), 1);
    gateway.reload(&yaml("6s")).unwrap();
    assert_eq!(built(), 0);
    assert_eq!(gateway.explain("GET http://a/9", &[]).route.as_deref(), Some("r9"));
    assert_eq!(built(), 1);
}
