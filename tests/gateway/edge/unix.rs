//! Listeners at Unix sockets: what is spoken there, who comes by them, and what becomes of their files.

use std::{
    net::TcpListener,
    os::unix::{
        fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
        net::{UnixListener as StdUnixListener, UnixStream as StdUnixStream},
    },
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use naka_gateway::{
    address::Address, ask::Asked, config::checked::Workers as Layout, explain::Verdict, worker::Workers,
};
use naka_testkit::upstream::{Upstream, ok};
use rustix::process::Signal;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    time::timeout,
};

use crate::{
    inside::Inside,
    process::{self, PATIENCE, Process, run_to_end},
};

const REQUEST: &str = "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";

/// One request over a connection of its own: what is answered, and why there is no answer.
async fn ask(path: &Path) -> Result<String, String> {
    let exchange = async {
        let mut stream = UnixStream::connect(path).await.map_err(|error| format!("connect: {error}"))?;
        stream.write_all(REQUEST.as_bytes()).await.map_err(|error| format!("write: {error}"))?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.map_err(|error| format!("read: {error}"))?;
        Ok(answer)
    };
    timeout(PATIENCE, exchange).await.expect("it is answered")
}

async fn is_answered(path: &Path, body: &str) {
    let answer = ask(path).await.unwrap_or_else(|why| panic!("{why}"));
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with(body), "{answer}");
}

fn mode(path: &Path) -> u32 {
    std::fs::symlink_metadata(path).unwrap().permissions().mode() & 0o777
}

fn is_socket(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|known| known.file_type().is_socket())
}

/// A folder for sockets, and a configuration with these listeners, in which `FOLDER` is that.
struct Site(TempDir);

impl Site {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, file: &str) -> PathBuf {
        self.0.path().join(file)
    }

    fn yaml(&self, listeners: &str, body: &str) -> String {
        let yaml = format!(
            "
gateway: {{workers: 2, limits: {{connections_per_ip: 1}}, admin: {{listen: ADMIN}}, upgrade: {{socket: FOLDER/upgrade.sock}}, drain: {{grace: 0s, deadline: 20s}}}}
listeners: {{{listeners}}}
routes: {{all: {{listener: [NAMES], match: {{prefix: /}}, respond: {{body: {body}}}}}}}
"
        );
        let names = listeners.split("{listen:").map(|part| part.rsplit(',').next().unwrap_or_default());
        let names = names
            .map(|name| name.trim().trim_end_matches(':'))
            .filter(|name| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase()));
        let names = names.collect::<Vec<_>>().join(", ");
        yaml.replace("NAMES", &names).replace("FOLDER", &self.0.path().display().to_string())
    }

    fn from(&self) -> String {
        format!("--upgrade-from=unix:{}", self.path("upgrade.sock").display())
    }
}

const WEB: &str = "web: {listen: 'unix:FOLDER/web.sock', protocols: [h1, h2c], mode: '0660'}";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r2_3_a_listener_at_a_unix_socket_speaks_what_others_speak() {
    let site = Site::new();
    let process = Process::start(&site.yaml(WEB, "fine")).await;
    let path = site.path("web.sock");
    assert_eq!(mode(&path), 0o660);
    is_answered(&path, "fine").await;
    // Many at a time: they are not counted by address, as they have none.
    let mut kept = Vec::new();
    for _ in 0..40 {
        let mut stream = UnixStream::connect(&path).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        kept.push(stream);
    }
    for stream in &mut kept {
        let mut answer = vec![0; 12];
        timeout(PATIENCE, stream.read_exact(&mut answer)).await.unwrap().unwrap();
        assert_eq!(answer, b"HTTP/1.1 200");
    }
    let stream = TokioIo::new(UnixStream::connect(&path).await.unwrap());
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    tokio::spawn(connection);
    let request = Request::get("http://a/").body(Empty::<Bytes>::new()).unwrap();
    let response: Response<_> = timeout(PATIENCE, sender.send_request(request)).await.unwrap().unwrap();
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "fine");
    // What cannot be read is told so, as over TCP.
    let mut stream = UnixStream::connect(&path).await.unwrap();
    stream.write_all(b"GET /\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    // Who says nothing and goes is nobody's trouble.
    drop(UnixStream::connect(&path).await.unwrap());
    is_answered(&path, "fine").await;
    let shown = process.json("/config").await;
    assert_eq!(shown["listeners"]["web"], format!("unix:{}", path.display()), "{shown}");
    let mut curl = Command::new("curl");
    curl.args(["-sS", "--max-time", "30", "--unix-socket"]).arg(&path).arg("http://a/");
    if let Ok(asked) = curl.output() {
        assert_eq!(String::from_utf8_lossy(&asked.stdout), "fine", "{asked:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_file_of_a_unix_socket_follows_reloads_and_goes_with_the_process() {
    let site = Site::new();
    let tcp = "web: {listen: PUBLIC}";
    let mut process = Process::start(&site.yaml(tcp, "tcp")).await;
    let [path, other] = ["web.sock", "other.sock"].map(|file| site.path(file));
    let reload = async |yaml: String, status: u16| {
        process.write("gateway.yaml", &yaml);
        process.until("it has read it", async || process.post("/reload", "").await.0 == status).await;
    };
    // From TCP to a path, and its mode.
    reload(site.yaml(WEB, "one"), 200).await;
    is_answered(&path, "one").await;
    assert!(tokio::net::TcpStream::connect(process.public).await.is_err());
    let is = std::fs::metadata(&path).unwrap().ino();
    let mut kept = UnixStream::connect(&path).await.unwrap();
    kept.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    reload(site.yaml(&WEB.replace("0660", "0666"), "two"), 200).await;
    assert_eq!((mode(&path), std::fs::metadata(&path).unwrap().ino()), (0o666, is), "it is the same one");
    is_answered(&path, "two").await;
    // What is refused changes nothing, and leaves nothing behind.
    std::fs::write(site.path("held"), "what somebody needs").unwrap();
    let more = format!("{WEB}, other: {{listen: 'unix:FOLDER/other.sock'}}");
    reload(site.yaml(&format!("{more}, third: {{listen: 'unix:FOLDER/held'}}"), "three"), 422).await;
    process.says("is no socket").await;
    assert!(!other.exists() && mode(&path) == 0o666);
    assert_eq!(std::fs::read(site.path("held")).unwrap(), b"what somebody needs");
    is_answered(&path, "two").await;
    // One more, and then that alone. Who is connected goes on.
    reload(site.yaml(&more, "four"), 200).await;
    is_answered(&other, "four").await;
    assert_eq!(mode(&other), 0o600, "if nothing is said");
    reload(site.yaml("other: {listen: 'unix:FOLDER/other.sock'}", "five"), 200).await;
    assert!(!path.exists());
    is_answered(&other, "five").await;
    kept.write_all(b"host: a\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    timeout(PATIENCE, kept.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("listener_gone"), "{answer}");
    process.signal(Signal::TERM);
    assert_eq!(process.end().await.code(), Some(0), "{}", process.log());
    assert!(!other.exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_unix_socket_of_a_dead_process_is_replaced_and_that_of_a_living_one_is_not() {
    let site = Site::new();
    let path = site.path("web.sock");
    let yaml = |body| site.yaml(WEB, body);
    let mut first = Process::start(&yaml("first")).await;
    let second = yaml("second").replace("upgrade.sock", "second.sock");
    let (code, log) = run_to_end(&second).await;
    assert_eq!(code, Some(2), "{log}");
    assert!(log.contains("cannot be listened on: somebody listens at"), "{log}");
    is_answered(&path, "first").await;
    first.signal(Signal::KILL);
    first.end().await;
    assert!(is_socket(&path), "nobody has removed it");
    let second = Process::start(&second).await;
    is_answered(&path, "second").await;
    drop(second);
    // What is no socket is left alone.
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "what somebody needs").unwrap();
    let (code, log) = run_to_end(&yaml("third")).await;
    assert_eq!(code, Some(2), "{log}");
    assert!(log.contains("is no socket") && log.contains("what is there is left alone"), "{log}");
    assert_eq!(std::fs::read(&path).unwrap(), b"what somebody needs");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_hands_unix_sockets_over_and_nobody_is_refused() {
    let site = Site::new();
    let [path, gone] = ["web.sock", "gone.sock"].map(|file| site.path(file));
    let both = format!("{WEB}, gone: {{listen: 'unix:FOLDER/gone.sock'}}");
    let mut one = Process::start(&site.yaml(&both, "one")).await;
    let (is_over, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let clients = (0..4).map(|_| {
        let (path, is_over, asked) = (path.clone(), Arc::clone(&is_over), Arc::clone(&asked));
        tokio::spawn(async move {
            while !is_over.load(SeqCst) {
                let answer = ask(&path).await?;
                if !answer.starts_with("HTTP/1.1 200") {
                    return Err(answer);
                }
                asked.fetch_add(1, SeqCst);
            }
            Ok(())
        })
    });
    let clients = clients.collect::<Vec<_>>();
    let several = async || {
        let before = asked.load(SeqCst);
        one.until("some more are answered", async || {
            asked.load(SeqCst) > before + 50 || clients.iter().any(tokio::task::JoinHandle::is_finished)
        })
        .await;
    };
    several().await;
    let is = std::fs::metadata(&path).unwrap().ino();
    // One that does not come up takes nothing.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let wrong = format!("{WEB}, more: {{listen: '{}'}}", taken.local_addr().unwrap());
    let mut two = one.spawn_beside("two.yaml", &site.yaml(&wrong, "two"), &[&site.from()]);
    assert_eq!(two.end().await.code(), Some(2));
    one.says("this process goes on").await;
    assert!(is_socket(&gone));
    several().await;
    let two = one.spawn_beside("two.yaml", &site.yaml(&WEB.replace("0660", "0600"), "two"), &[&site.from()]);
    two.says("naka is ready").await;
    several().await;
    is_over.store(true, SeqCst);
    for client in clients {
        client.await.unwrap().unwrap_or_else(|why: String| panic!("{why}\n{}\n{}", one.log(), two.log()));
    }
    assert_eq!(one.end().await.code(), Some(0), "{}", one.log());
    assert!(!gone.exists(), "nobody has taken it");
    assert_eq!((std::fs::metadata(&path).unwrap().ino(), mode(&path)), (is, 0o600), "the same one");
    is_answered(&path, "two").await;
    // The next one, though this one dies before it says what it knows; and at its end the file goes.
    let mut two = two;
    let mut three = two.spawn_beside("two.yaml", &site.yaml(WEB, "three"), &[&site.from()]);
    three.says("naka is ready").await;
    assert_eq!(two.end().await.code(), Some(0), "{}", two.log());
    is_answered(&path, "three").await;
    three.signal(Signal::TERM);
    assert_eq!(three.end().await.code(), Some(0));
    assert!(!path.exists());
}

/// As over TCP: the kernel has completed these connections, and has nobody else to give them to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_waits_at_a_unix_socket_when_accepting_ends_is_served() {
    let site = Site::new();
    let name = format!("unix:{}", site.path("web.sock").display());
    let gateway = Inside::new(&format!(
        "
listeners: {{public: {{listen: '{name}'}}}}
routes: {{all: {{match: {{prefix: /}}, respond: {{body: fine}}}}}}
"
    ));
    let workers = Workers::start(gateway.shared(), Layout::Count(1)).unwrap();
    let name = name.parse::<Address>().unwrap();
    let bound = workers.bind(&name, 0o600, &[]).unwrap();
    assert!(StdUnixStream::connect(site.path("web.sock")).is_err(), "nobody can connect yet");
    let open = bound.open().unwrap();
    let mut clients = Vec::new();
    for _ in 0..20 {
        let mut client = UnixStream::connect(site.path("web.sock")).await.unwrap();
        client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        clients.push(client);
    }
    workers.accept(open);
    workers.unlisten(&name).await;
    workers.drain();
    assert!(!site.path("web.sock").exists());
    for mut client in clients {
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(answer.ends_with("fine"), "{answer}");
    }
    workers.stop();
}

/// Another socket in its place before it listens: nobody would come to it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_path_is_not_listened_at_twice_whatever_it_is_called() {
    let site = Site::new();
    std::fs::create_dir(site.path("run")).unwrap();
    std::os::unix::fs::symlink(site.path("run"), site.path("link")).unwrap();
    let twice = "web: {listen: 'unix:FOLDER/run/web.sock'}, again: {listen: 'unix:FOLDER/link/web.sock'}";
    let (code, log) = run_to_end(&site.yaml(twice, "in")).await;
    assert_eq!(code, Some(2), "{log}");
    assert!(log.contains("cannot be listened on"), "{log}");
    assert!(!site.path("run/web.sock").exists());
}

fn given(config: &Path, socket: StdUnixListener) -> Command {
    let script = r#"exec 3<&0 0</dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec "$0" "$@""#;
    let plain = process::command(config);
    let mut command = Command::new("sh");
    command.args(["-c", script]).arg(plain.get_program()).args(plain.get_args());
    for (name, value) in plain.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.stdin(std::os::fd::OwnedFd::from(socket)).stdout(std::process::Stdio::null());
    command
}

/// Its file is the service manager's, also of the processes that take over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_unix_socket_that_comes_with_the_process_is_served_and_its_file_left_alone() {
    let site = Site::new();
    let beside =
        Process::start(&site.yaml("web: {listen: PUBLIC}", "elsewhere").replace("upgrade.sock", "x.sock"))
            .await;
    let path = site.path("web.sock");
    let socket = StdUnixListener::bind(&path).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o606)).unwrap();
    let [public, admin] = [process::free_address(), process::free_address()];
    let yaml = |body| process::with_addresses(&site.yaml(WEB, body), public, admin);
    let file = beside.path("given.yaml");
    std::fs::write(&file, yaml("first")).unwrap();
    let early = tokio::spawn({
        let path = path.clone();
        async move { ask(&path).await }
    });
    let mut first = beside.started(given(&file, socket));
    assert!(early.await.unwrap().unwrap().ends_with("first"), "it waited from before there was a process");
    first.says("naka is ready").await;
    is_answered(&path, "first").await;
    std::fs::write(&file, yaml("second")).unwrap();
    let mut command = process::command(&file);
    command.arg(site.from());
    let mut second = beside.started(command);
    second.says("naka is ready").await;
    assert_eq!(first.end().await.code(), Some(0), "{}", first.log());
    is_answered(&path, "second").await;
    second.signal(Signal::TERM);
    assert_eq!(second.end().await.code(), Some(0));
    assert!(is_socket(&path) && mode(&path) == 0o606, "it is as it was");
}

/// In front of an upstream that says what it sees.
fn inside(gateway: &str, listener: &str) -> (Inside, Upstream) {
    let gateway = Inside::new(&format!(
        "
gateway: {{admin: none, limits: {{connections_per_ip: 1}}, {gateway}}}
listeners: {{web: {{listen: unix:/nowhere/web.sock, {listener}}}}}
upstreams: {{app: {{endpoints: ['app:1'], balance: {{policy: ip_hash}}}}}}
policies: {{per-ip: {{rate_limit: {{rate: 2/h, key: [client_ip], on_missing: skip}}}}}}
routes:
  all: {{match: {{prefix: /}}, upstream: app}}
  limited: {{match: {{path: /limited}}, use: [per-ip], upstream: app}}
  near: {{match: {{path: /near}}, authorize: {{cidr: [127.0.0.0/8, 10.0.0.0/8]}}, upstream: app}}
  far: {{match: {{path: /far}}, authorize: {{not: {{cidr: [127.0.0.0/8]}}}}, upstream: app}}
"
    ));
    let app = Upstream::inside(&gateway.network, "app:1", |_| ok("fine"));
    (gateway, app)
}

/// The status of a request with these fields, over a connection of its own that begins with `first`.
async fn status(gateway: &Inside, first: &str, path: &str, fields: &str) -> u16 {
    let mut stream = gateway.connect();
    let request = format!("{first}GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n{fields}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer).await; // It may be closed.
    answer.split(' ').nth(1).map_or(0, |status| status.parse().unwrap())
}

const FORGED: &str =
    "x-forwarded-for: 10.0.0.7\r\nforwarded: for=10.0.0.7;proto=https\r\nx-real-ip: 10.0.0.7\r\n";

#[tokio::test(start_paused = true)]
async fn r2_3_who_comes_by_a_unix_socket_has_no_address_and_is_not_believed() {
    let (gateway, app) = inside("", "");
    assert_eq!(status(&gateway, "", "/", FORGED).await, 200);
    let seen = app.last();
    for gone in ["x-forwarded-for", "forwarded", "x-real-ip"] {
        assert_eq!(seen.header(gone), None, "{gone}");
    }
    assert_eq!(seen.header("x-forwarded-proto"), Some("http"));
    // What is let in by its address is not, and neither is what is let in by not having one.
    for path in ["/near", "/far"] {
        assert_eq!(status(&gateway, "", path, FORGED).await, 403, "{path}");
    }
    // All are one, and not without limit as who is not counted.
    let statuses = [
        status(&gateway, "", "/limited", "").await,
        status(&gateway, "", "/limited", "x-forwarded-for: 10.0.0.8\r\n").await,
        status(&gateway, "", "/limited", "x-forwarded-for: 10.0.0.9\r\n").await,
    ];
    assert_eq!(statuses, [200, 200, 429]);
    let (gateway, app) = inside("forwarded: rfc7239", "");
    assert_eq!(status(&gateway, "", "/", FORGED).await, 200);
    assert_eq!(app.last().header("forwarded"), Some("for=unknown;host=a;proto=http"));
}

#[tokio::test(start_paused = true)]
async fn r2_3_who_comes_by_a_unix_socket_is_believed_if_that_is_said() {
    let trusted = "trusted_proxies: [unix, 192.0.2.0/24]";
    let (gateway, app) = inside(trusted, "");
    let forwarded = "x-forwarded-for: 6.6.6.6, 10.0.0.7, 192.0.2.9\r\n";
    for (path, expected) in
        [("/near", 200), ("/far", 200), ("/limited", 200), ("/limited", 200), ("/limited", 429)]
    {
        assert_eq!(status(&gateway, "", path, forwarded).await, expected, "{path}");
    }
    assert_eq!(
        app.last().header("x-forwarded-for"),
        Some("6.6.6.6, 10.0.0.7, 192.0.2.9"),
        "nothing is added"
    );
    assert_eq!(
        status(&gateway, "", "/limited", "x-forwarded-for: 10.0.0.8\r\n").await,
        200,
        "another client"
    );
    assert_eq!(status(&gateway, "", "/near", "").await, 403, "who says nothing has no address");
    // The next one reads what this one has read.
    for forwarding in ["rfc7239", "both"] {
        let (gateway, app) = inside(&format!("{trusted}, forwarded: {forwarding}"), "");
        let fields = "forwarded: for=10.0.0.7;proto=https\r\nx-forwarded-for: 10.0.0.7\r\n";
        assert_eq!(status(&gateway, "", "/near", fields).await, 200);
        assert_eq!(
            app.last().header("forwarded"),
            Some("for=10.0.0.7;proto=https"),
            "nothing is hidden by it"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn the_proxy_protocol_is_spoken_at_a_unix_socket_by_who_is_trusted() {
    let header = "PROXY TCP4 10.0.0.7 192.0.2.1 5000 443\r\n";
    let (gateway, app) = inside("trusted_proxies: [unix]", "proxy_protocol: true");
    assert_eq!(status(&gateway, header, "/near", "x-forwarded-for: 6.6.6.6\r\n").await, 200);
    assert_eq!(app.last().header("x-forwarded-for"), Some("10.0.0.7"));
    let mut held = gateway.connect();
    held.write_all(format!("{header}GET / HTTP/1.1\r\n").as_bytes()).await.unwrap();
    tokio::task::yield_now().await;
    assert_eq!(status(&gateway, header, "/near", "").await, 0, "the client that it names has its own bound");
    assert_eq!(status(&gateway, "PROXY UNKNOWN\r\n", "/near", "").await, 403, "of the proxy itself");
    assert_eq!(status(&gateway, "", "/near", "").await, 0);
}

#[tokio::test(start_paused = true)]
async fn explaining_comes_by_the_unix_socket_as_requests_do() {
    let (gateway, _app) = inside("trusted_proxies: [unix]", "");
    let verdict = |asked: Asked| gateway.explain_asked(&asked).verdict;
    let near = |client_ip: Option<&str>, headers: &[&str]| {
        let headers = headers.iter().map(|text| (*text).to_owned()).collect();
        let client_ip = client_ip.map(str::to_owned);
        verdict(Asked { request: "http://a/near".into(), client_ip, headers, ..Asked::default() })
    };
    assert!(matches!(near(None, &[]), Verdict::Refused(_)), "it has no address, and not 127.0.0.1");
    assert!(matches!(near(Some("unix:"), &[]), Verdict::Refused(_)));
    assert!(matches!(near(None, &["x-forwarded-for: 10.0.0.7"]), Verdict::Sent), "as it is believed");
    assert!(matches!(near(Some("10.0.0.7"), &[]), Verdict::Sent));
}
