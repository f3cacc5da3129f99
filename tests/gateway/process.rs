//! The gateway as a process: started with a configuration, asked over TCP, told by signals.

use std::{
    collections::HashSet,
    io::{BufRead, BufReader},
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, OnceLock},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};

/// How long anything may take before a test gives up. Nothing is measured by it.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// A process of the gateway; killed when dropped.
pub(crate) struct Process {
    child: Child,
    folder: Arc<TempDir>,
    pub(crate) public: SocketAddr,
    pub(crate) admin: SocketAddr,
    log: Arc<Mutex<String>>,
}

/// Of the admin port.
pub(crate) const TOKEN: &str = "what-only-the-tests-know";

impl Process {
    /// Starts it and waits until it is ready. `PUBLIC` and `ADMIN` in the text become free addresses.
    pub(crate) async fn start(yaml: &str) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), yaml).await
    }

    /// As [`start`](Self::start), in a folder that may hold other files already.
    pub(crate) async fn start_in(folder: TempDir, yaml: &str) -> Self {
        let process = Self::spawn_in(folder, yaml);
        process
            .until("it is ready", async || process.get("/readyz").await.is_some_and(|it| it.0 == 200))
            .await;
        process
    }

    /// Starts it and waits for nothing.
    pub(crate) fn spawn_in(folder: TempDir, yaml: &str) -> Self {
        Self::spawn_trusting(None, folder, yaml)
    }

    /// As [`spawn_in`](Self::spawn_in); `SSL_CERT_FILE` names this file of the folder.
    pub(crate) fn spawn_trusting(certificates: Option<&str>, folder: TempDir, yaml: &str) -> Self {
        let (public, admin) = (free_address(), free_address());
        let text = with_addresses(yaml, public, admin);
        std::fs::write(folder.path().join("gateway.yaml"), text).unwrap();
        let certificates = certificates.map(|file| folder.path().join(file));
        let mut command = command(&folder.path().join("gateway.yaml"));
        command.envs(certificates.map(|file| ("SSL_CERT_FILE", file)));
        let (child, log) = spawn(command);
        Self { child, folder: Arc::new(folder), public, admin, log }
    }

    /// Starts another one with a file of its own in the same folder, and the same addresses. Waits for nothing.
    pub(crate) fn spawn_beside(&self, file: &str, yaml: &str, more: &[&str]) -> Self {
        self.write(file, yaml);
        let mut command = command(&self.path(file));
        command.args(more);
        self.started(command)
    }

    /// A command that is such a process.
    pub(crate) fn started(&self, command: Command) -> Self {
        let (child, log) = spawn(command);
        let (folder, public, admin) = (Arc::clone(&self.folder), self.public, self.admin);
        Self { child, folder, public, admin, log }
    }

    /// Where its files are.
    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    /// Replaces a file of the configuration in one step, as a careful editor does.
    pub(crate) fn write(&self, file: &str, yaml: &str) {
        let text = with_addresses(yaml, self.public, self.admin);
        let beside = self.path("beside.tmp");
        std::fs::write(&beside, text).unwrap();
        std::fs::rename(beside, self.path(file)).unwrap();
    }

    /// Moves a file of the configuration in from another folder: all that is seen of it here is that it is there.
    pub(crate) fn move_in(&self, file: &str, yaml: &str) {
        let elsewhere = tempfile::tempdir().unwrap();
        let made = elsewhere.path().join("made");
        std::fs::write(&made, with_addresses(yaml, self.public, self.admin)).unwrap();
        std::fs::rename(made, self.path(file)).unwrap();
    }

    /// Writes over a file of the configuration in place, as a careless editor does.
    pub(crate) fn save(&self, file: &str, yaml: &str) {
        std::fs::write(self.path(file), with_addresses(yaml, self.public, self.admin)).unwrap();
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().cast_signed()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// All it has said so far.
    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// The most memory it has had resident, in bytes.
    pub(crate) fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    }

    /// Waits for its end.
    pub(crate) async fn end(&mut self) -> ExitStatus {
        let ended = async {
            loop {
                if let Some(status) = self.child.try_wait().unwrap() {
                    return status;
                }
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(PATIENCE, ended).await.expect("it ends")
    }

    /// Asks the admin port; `None` if it does not answer.
    pub(crate) async fn get(&self, path: &str) -> Option<(u16, String)> {
        ask(self.admin, &format!("GET {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", self.admin))
            .await
    }

    /// Posts JSON to the admin port.
    pub(crate) async fn post(&self, path: &str, body: &str) -> (u16, Value) {
        let (at, len) = (self.admin, body.len());
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: {at}\r\nauthorization: Bearer {TOKEN}\r\nconnection: close\r\ncontent-length: {len}\r\n\r\n"
        );
        let (status, text) = ask(at, &(head + body)).await.expect("the admin port answers");
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    /// A page of the admin port as JSON.
    pub(crate) async fn json(&self, path: &str) -> Value {
        serde_json::from_str(&self.get(path).await.expect("the admin port answers").1).unwrap()
    }

    /// One request to the public port, on a connection of its own: `GET /path`.
    pub(crate) async fn public(&self, line: &str) -> (u16, String) {
        let request = format!("{line} HTTP/1.1\r\nhost: api.example\r\nconnection: close\r\n\r\n");
        ask(self.public, &request).await.expect("the gateway answers")
    }

    /// Waits until it has said this.
    pub(crate) async fn says(&self, words: &str) {
        self.until(words, async || self.log().contains(words)).await;
    }

    /// Waits until the path of the public port answers this.
    pub(crate) async fn answers(&self, path: &str, body: &str) {
        let asked = format!("GET {path}");
        self.until(body, async || self.public(&asked).await == (200, body.to_owned())).await;
    }

    /// The value of a metric: behind the first line that starts like this.
    pub(crate) async fn metric(&self, start: &str) -> Option<f64> {
        let text = self.get("/metrics").await.expect("the admin port answers").1;
        let line = text.lines().find(|line| line.starts_with(start))?;
        line.rsplit(' ').next()?.parse().ok()
    }

    /// Waits until something holds.
    pub(crate) async fn until(&self, what: &str, holds: impl AsyncFn() -> bool) {
        let waited = timeout(PATIENCE, async {
            while !holds().await {
                sleep(Duration::from_millis(10)).await;
            }
        });
        assert!(waited.await.is_ok(), "not until now: {what}\n{}", self.log());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill(); // It may have ended.
        let _ = self.child.wait();
    }
}

/// Runs it to its end, which has to come by itself: its code and what it said.
pub(crate) async fn run_to_end(yaml: &str) -> (Option<i32>, String) {
    let folder = tempfile::tempdir().unwrap();
    let text = with_addresses(yaml, free_address(), free_address());
    std::fs::write(folder.path().join("gateway.yaml"), text).unwrap();
    let (child, log) = spawn(command(&folder.path().join("gateway.yaml")));
    let (nowhere, folder) = (free_address(), Arc::new(folder));
    let mut process = Process { child, folder, public: nowhere, admin: nowhere, log };
    let status = process.end().await;
    sleep(Duration::from_millis(100)).await; // For its last words.
    (status.code(), process.log())
}

/// Sends bytes, and reads what comes until the connection is closed.
pub(crate) async fn raw(at: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let exchange = async {
        let mut stream = TcpStream::connect(at).await.ok()?;
        stream.write_all(bytes).await.ok()?;
        let mut answer = Vec::new();
        let mut piece = [0; 4096];
        while let Ok(got @ 1..) = stream.read(&mut piece).await {
            answer.extend_from_slice(&piece[..got]);
        }
        Some(answer)
    };
    timeout(PATIENCE, exchange).await.expect("the connection is closed").unwrap_or_default()
}

async fn ask(at: SocketAddr, request: &str) -> Option<(u16, String)> {
    let answer = raw(at, request.as_bytes()).await;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((
        status,
        if head.to_ascii_lowercase().contains("chunked") { dechunked(body) } else { body.to_owned() },
    ))
}

fn dechunked(mut body: &str) -> String {
    let mut whole = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap();
        if size == 0 {
            break;
        }
        whole.push_str(&rest[..size]);
        body = &rest[size + 2..];
    }
    whole
}

pub(crate) fn with_addresses(yaml: &str, public: SocketAddr, admin: SocketAddr) -> String {
    let admin = format!("{admin}, token: {{env: NAKA_ADMIN_TOKEN}}");
    yaml.replace("PUBLIC", &public.to_string()).replace("ADMIN", &admin)
}

/// Runs this configuration, with nothing of the environment of whoever runs the tests that would change anything.
pub(crate) fn command(config: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_naka-under-test"));
    command.env("NAKA_ADMIN_TOKEN", TOKEN);
    command.args(["run", "-c"]).arg(config).env("NAKA_LOG", "info").env_remove("RUST_BACKTRACE");
    command.env_remove("SSL_CERT_DIR").env_remove("SSL_CERT_FILE"); // Whoever runs the tests may trust others.
    command.env_remove("NOTIFY_SOCKET").stdin(Stdio::null()).stdout(Stdio::null());
    command
}

fn spawn(mut command: Command) -> (Child, Arc<Mutex<String>>) {
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let log = Arc::new(Mutex::new(String::new()));
    let mut lines = BufReader::new(child.stderr.take().unwrap());
    std::thread::spawn({
        let log = Arc::clone(&log);
        move || {
            let mut line = String::new();
            while lines.read_line(&mut line).is_ok_and(|got| got > 0) {
                log.lock().unwrap().push_str(&line);
                line.clear();
            }
        }
    });
    (child, log)
}

/// A loopback address nobody listens on, and none that was handed out before: the sockets of two
/// gateways on one port would share its connections.
pub(crate) fn free_address() -> SocketAddr {
    static GIVEN: OnceLock<Mutex<HashSet<SocketAddr>>> = OnceLock::new();
    let mut given = GIVEN.get_or_init(Mutex::default).lock().unwrap();
    loop {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        if given.insert(address) {
            return address;
        }
    }
}
