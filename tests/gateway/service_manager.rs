//! What a service manager gives a process, and hears of it.

use std::{
    net::{SocketAddr, TcpListener},
    os::{
        fd::OwnedFd,
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr as UnixAddr, UnixDatagram},
    },
    path::Path,
    process::{Command, Stdio},
};

use rustix::process::Signal;
use tokio::net::TcpStream;

use crate::process::{self, PATIENCE, Process, free_address, with_addresses};

const CONFIG: &str = "
gateway: {workers: 2, admin: {listen: ADMIN}, upgrade: {socket: SOCKET}, drain: {grace: 0s, deadline: 10s}}
listeners: {public: {listen: PUBLIC}}
routes: {all: {match: {prefix: /}, respond: {body: BODY}}}
";

/// A process that nobody minds, for its folder.
async fn elsewhere() -> Process {
    Process::start(
        "gateway: {workers: 1, admin: {listen: ADMIN}}
listeners: {public: {listen: PUBLIC}}
routes: {all: {match: {prefix: /}, respond: {body: elsewhere}}}
",
    )
    .await
}

/// As systemd starts it: with sockets from number 3 on, here the standard input and output.
fn given(config: &Path, sockets: [TcpListener; 2]) -> Command {
    let script = r#"exec 3<&0 4<&1 0</dev/null 1>/dev/null; LISTEN_FDS=2 LISTEN_PID=$$ exec "$0" "$@""#;
    let plain = process::command(config);
    let mut command = Command::new("sh");
    command.args(["-c", script]).arg(plain.get_program()).args(plain.get_args());
    for (name, value) in plain.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let [first, second] = sockets.map(|socket| Stdio::from(OwnedFd::from(socket)));
    command.stdin(first).stdout(second);
    command
}

/// Nobody is turned away while it starts: the sockets have been there all the time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sockets_that_come_with_the_process_are_served() {
    let beside = elsewhere().await;
    let (public, admin) =
        (TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
    let [at, admin_at] = [&public, &admin].map(|socket| socket.local_addr().unwrap());
    let socket = beside.path("upgrade.sock");
    let yaml = |body: &str| {
        let yaml = CONFIG.replace("SOCKET", &socket.display().to_string()).replace("BODY", body);
        with_addresses(&yaml, at, admin_at)
    };
    let file = beside.path("given.yaml");
    std::fs::write(&file, yaml("first")).unwrap();
    let early = tokio::spawn(async move {
        process::raw(at, b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await
    });
    let mut first = beside.started(given(&file, [public, admin]));
    (first.public, first.admin) = (at, admin_at);
    let early = String::from_utf8(early.await.unwrap()).unwrap();
    assert!(early.ends_with("first"), "it waited from before there was a process: {early}");
    first.says("naka is ready").await;
    for _ in 0..20 {
        assert_eq!(first.public("GET /").await, (200, "first".to_owned()));
    }
    assert_eq!(first.get("/readyz").await.unwrap().0, 200);

    // They go on to the next process as all others do.
    std::fs::write(&file, yaml("second")).unwrap();
    let mut command = process::command(&file);
    command.arg(format!("--upgrade-from=unix:{}", socket.display()));
    let mut second = beside.started(command);
    (second.public, second.admin) = (at, admin_at);
    second.says("naka is ready").await;
    assert_eq!(first.end().await.code(), Some(0), "{}", first.log());
    assert_eq!(second.public("GET /").await, (200, "second".to_owned()));
    second.signal(Signal::TERM);
    assert_eq!(second.end().await.code(), Some(0));
    assert!(TcpStream::connect(at).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_that_is_for_no_listener_is_told() {
    let beside = elsewhere().await;
    let yaml =
        CONFIG.replace("SOCKET", &beside.path("upgrade.sock").display().to_string()).replace("BODY", "it");
    let (public, admin) = (free_address(), free_address());
    let file = beside.path("given.yaml");
    std::fs::write(&file, with_addresses(&yaml, public, admin)).unwrap();
    let bind = |at: SocketAddr| TcpListener::bind(at).unwrap();
    let stranger = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = stranger.local_addr().unwrap();
    let mut process = beside.started(given(&file, [bind(public), stranger]));
    assert_eq!(process.end().await.code(), Some(2));
    process.says("make `ListenStream=` and `listen:` the same").await;
    assert!(process.log().contains(&at.to_string()), "{}", process.log());

    // What was meant for whoever started us is left alone.
    let mut command = process::command(&file);
    command.env("LISTEN_FDS", "1").env("LISTEN_PID", "1");
    let process = beside.started(command);
    process.says("naka is ready").await;
}

/// It hears who serves, by whatever kind of name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_manager_hears_who_serves_and_when_the_last_one_ends() {
    let beside = elsewhere().await;
    let abstract_name = format!("naka-test-{}", std::process::id());
    let path = beside.path("notify.sock");
    let ways = [
        (UnixDatagram::bind(&path).unwrap(), path.display().to_string()),
        (
            UnixDatagram::bind_addr(&UnixAddr::from_abstract_name(&abstract_name).unwrap()).unwrap(),
            format!("@{abstract_name}"),
        ),
    ];
    for (manager, name) in ways {
        manager.set_read_timeout(Some(PATIENCE)).unwrap();
        let hears = || {
            let mut message = [0; 256];
            let len = manager.recv(&mut message).unwrap();
            String::from_utf8(message[..len].to_vec()).unwrap()
        };
        let (public, admin) = (free_address(), free_address());
        let socket = beside.path("upgrade.sock").display().to_string();
        let yaml = with_addresses(&CONFIG.replace("SOCKET", &socket).replace("BODY", "it"), public, admin);
        let file = beside.path("told.yaml");
        std::fs::write(&file, yaml).unwrap();
        let mut command = process::command(&file);
        command.env("NOTIFY_SOCKET", &name);
        let mut first = beside.started(command);
        assert_eq!(hears(), format!("READY=1\nMAINPID={}\n", first.pid()));
        let mut command = process::command(&file);
        command.env("NOTIFY_SOCKET", &name).arg(format!("--upgrade-from=unix:{socket}"));
        let mut second = beside.started(command);
        assert_eq!(hears(), format!("READY=1\nMAINPID={}\n", second.pid()));
        assert_eq!(first.end().await.code(), Some(0));
        second.signal(Signal::TERM);
        assert_eq!(hears(), "STOPPING=1\n", "the first one has said nothing: the service goes on");
        assert_eq!(second.end().await.code(), Some(0));
    }
}
