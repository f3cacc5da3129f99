//! Child processes that are watched, heard and stopped together.
//!
//! Each child has a process group of its own, so that Ctrl-C in a terminal reaches only its parent,
//! which then stops them in order; and a pipe on standard input that nobody writes to, whose closing
//! tells it that the parent is gone.
//!
//! # Limits
//! A line of output is held up to 64 KiB; of output that is not shown, the last 20 lines are.

use std::{
    collections::VecDeque,
    ffi::OsString,
    fmt, io,
    panic::resume_unwind,
    pin::pin,
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, BufReader},
    process::{Child, Command},
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};

use crate::kernel::console::{complain, say};

const LINE_LIMIT: u64 = 64 * 1024;
const KEPT_LINES: usize = 20;

/// How long output is still read after a child's end: a grandchild may hold the pipe open.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Children in the order in which they were started; dropped, all are killed.
#[derive(Debug)]
pub struct Family {
    members: Vec<Member>,
    watched: JoinSet<Death>,
    quiet: bool,
}

#[derive(Debug)]
struct Member {
    name: &'static str,
    signals: mpsc::UnboundedSender<Signal>,
}

/// A child's end.
#[derive(Clone, Debug)]
pub struct Death {
    /// Who it was.
    pub name: &'static str,
    /// What of; `None` if the system did not say.
    pub status: Option<ExitStatus>,
    /// What it said last, if it was quiet.
    pub last_words: Vec<String>,
}

impl fmt::Display for Death {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.status {
            Some(status) => write!(f, "{} ended: {status}", self.name),
            None => write!(f, "{} ended, nobody knows how", self.name),
        }
    }
}

impl Family {
    /// Nobody yet; the output of `quiet` ones is kept for when one dies.
    pub fn new(quiet: bool) -> Self {
        Self { members: Vec::new(), watched: JoinSet::new(), quiet }
    }

    /// Starts this very program with other arguments, and returns the child's process id.
    pub fn start(&mut self, name: &'static str, args: &[OsString]) -> io::Result<u32> {
        self.start_in(name, args, &[])
    }

    /// The same, with these variables in its environment.
    pub fn start_in(
        &mut self,
        name: &'static str,
        args: &[OsString],
        environment: &[(String, String)],
    ) -> io::Result<u32> {
        let mut command = Command::new(std::env::current_exe()?);
        command.envs(environment.iter().map(|(name, value)| (name, value)));
        command.args(args).process_group(0).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn()?;
        let pid = child.id().ok_or_else(|| io::Error::other("it has no process id"))?;
        let (signals, ordered) = mpsc::unbounded_channel();
        self.watched.spawn(watch(name, child, ordered, self.quiet));
        self.members.push(Member { name, signals });
        Ok(pid)
    }

    /// Sends a signal to a child; nothing happens if there is none of that name.
    pub fn signal(&self, name: &str, signal: Signal) {
        for member in self.members.iter().filter(|member| member.name == name) {
            _ = member.signals.send(signal);
        }
    }

    /// Waits for the next end of a child; for ever if none is left.
    pub async fn next_death(&mut self) -> Death {
        let Some(death) = self.watched.join_next().await else { return std::future::pending().await };
        let death = death.unwrap_or_else(|error| resume_unwind(error.into_panic())); // Nobody aborts it.
        self.members.retain(|member| member.name != death.name);
        death
    }

    /// Stops all, the last started first: `SIGTERM` and so long to finish, then `SIGKILL`, for each of
    /// them. All are killed at once as soon as `hurry` ends.
    pub async fn stop(mut self, patience: Duration, hurry: impl Future<Output = ()>) {
        let mut hurry = pin!(hurry);
        while let Some(last) = self.members.last() {
            _ = last.signals.send(Signal::TERM);
            let (name, before, deadline) = (last.name, self.members.len(), Instant::now() + patience);
            while self.members.len() == before {
                tokio::select! {
                    _ = self.next_death() => {}
                    () = &mut hurry => return self.kill().await,
                    () = sleep_until(deadline) => {
                        say(format_args!("{name} does not stop: it is killed"));
                        _ = self.members.last().map(|last| last.signals.send(Signal::KILL));
                        self.next_death().await;
                    }
                }
            }
        }
    }

    async fn kill(&mut self) {
        for member in &self.members {
            _ = member.signals.send(Signal::KILL);
        }
        while !self.members.is_empty() {
            self.next_death().await;
        }
    }
}

/// Passes output and signals on until the child has ended.
async fn watch(
    name: &'static str,
    mut child: Child,
    mut ordered: mpsc::UnboundedReceiver<Signal>,
    quiet: bool,
) -> Death {
    let unheard = quiet.then(Unheard::default);
    let _stdin = child.stdin.take(); // Held here: `wait` would close it, and the child would stop.
    let mut output = JoinSet::new();
    if let Some(stdout) = child.stdout.take() {
        output.spawn(forward(name, stdout, say, unheard.clone()));
    }
    if let Some(stderr) = child.stderr.take() {
        output.spawn(forward(name, stderr, complain, unheard.clone()));
    }
    let status = loop {
        tokio::select! {
            status = child.wait() => break status.ok(),
            Some(signal) = ordered.recv() => {
                // Not reaped yet, so the id is still this child's.
                if let Some(pid) = child.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
                    _ = kill_process(pid, signal);
                }
            }
        }
    };
    _ = timeout(LAST_WORDS, output.join_all()).await;
    let last_words = unheard.map_or_else(Vec::new, |unheard| unheard.lines());
    Death { name, status, last_words }
}

async fn forward(name: &str, pipe: impl AsyncRead + Unpin, show: fn(String), unheard: Option<Unheard>) {
    let mut pipe = BufReader::new(pipe);
    let mut line = Vec::new();
    while let Ok(1..) = (&mut pipe).take(LINE_LIMIT).read_until(b'\n', &mut line).await {
        let text = format!("[{name}] {}", String::from_utf8_lossy(&line).trim_end());
        match &unheard {
            None => show(text),
            Some(unheard) => unheard.keep(text),
        }
        line.clear();
    }
}

/// The last lines of a quiet child.
#[derive(Clone, Debug, Default)]
struct Unheard(Arc<Mutex<VecDeque<String>>>);

impl Unheard {
    fn keep(&self, line: String) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == KEPT_LINES {
            lines.pop_front();
        }
        lines.push_back(line);
    }

    fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}
