//! Processes of ours.

use std::{
    io::{BufRead as _, BufReader, Read},
    net::{SocketAddr, TcpListener},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        atomic::{AtomicU16, Ordering::Relaxed},
        mpsc::{self, Receiver},
    },
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

/// How long anything may take.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// A process of ours, killed if a test forgets it.
pub(crate) struct Process {
    pub(crate) child: Child,
    stdout: Receiver<String>,
    stderr: Receiver<String>,
}

impl Process {
    pub(crate) fn start(args: &[&str]) -> Self {
        Self::start_in(&[], args)
    }

    /// With these variables in its environment.
    pub(crate) fn start_in(environment: &[(&str, &str)], args: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bazaar"));
        command.envs(environment.iter().copied());
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the binary was built");
        let stdout = lines(child.stdout.take().expect("it is piped"));
        let stderr = lines(child.stderr.take().expect("it is piped"));
        Self { child, stdout, stderr }
    }

    /// Reads lines until one has `what` in it.
    #[track_caller]
    pub(crate) fn line_with(&mut self, what: &str) -> String {
        let mut before = String::new();
        while let Ok(line) = self.stdout.recv_timeout(PATIENCE) {
            if line.contains(what) {
                return line;
            }
            before = before + &line + "\n";
        }
        let errors = self.stderr.try_iter().collect::<Vec<_>>().join("\n");
        panic!("no line with {what:?} after {before}; errors: {errors}");
    }

    /// All that is left of its output; waits for its end.
    pub(crate) fn rest(&mut self) -> String {
        joined(&self.stdout)
    }

    /// All that is left of its errors; waits for its end.
    pub(crate) fn errors(&mut self) -> String {
        joined(&self.stderr)
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.child.id(), signal);
    }

    #[track_caller]
    pub(crate) fn end(&mut self) -> ExitStatus {
        eventually("it ends", || self.child.try_wait().expect("it is ours"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// Read as they come, so that nobody waits for a pipe that is full.
fn lines(pipe: impl Read + Send + 'static) -> Receiver<String> {
    let (lines, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            if lines.send(line).is_err() {
                break;
            }
        }
    });
    receiver
}

fn joined(lines: &Receiver<String>) -> String {
    let mut all = String::new();
    while let Ok(line) = lines.recv_timeout(PATIENCE) {
        all = all + &line + "\n";
    }
    all
}

pub(crate) fn kill(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(pid.cast_signed()).expect("no process is 0");
    kill_process(pid, signal).expect("it runs");
}

#[track_caller]
pub(crate) fn eventually<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let pause = Duration::from_millis(20);
    for _ in 0..PATIENCE.as_millis() / pause.as_millis() {
        if let Some(it) = attempt() {
            return it;
        }
        thread::sleep(pause);
    }
    panic!("{what}: not within {PATIENCE:?}");
}

/// An address that nobody else will take. Not one that the system chooses: it gives those to whoever
/// connects, too, and a service could not come back where it was.
pub(crate) fn free_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    const PORTS: std::ops::Range<u16> = 20_000..32_000;
    let start = u16::try_from(std::process::id() % 10_000).expect("it is below 10,000");
    loop {
        let port = PORTS.start + (start + NEXT.fetch_add(1, Relaxed)) % (PORTS.end - PORTS.start);
        let at = SocketAddr::from(([127, 0, 0, 1], port));
        if TcpListener::bind(at).is_ok() {
            return at;
        }
    }
}
