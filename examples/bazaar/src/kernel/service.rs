//! What every service does alike: listen, serve, and stop in good order.
//!
//! # Stopping
//! On `SIGTERM` and on Ctrl-C a service takes no new connection, finishes what is in flight within
//! [`DRAIN`], cuts off the rest, and ends with code 0. One that is [registered](super::registration) leaves the registry
//! first, and serves as always until that is known; a second signal cuts that short.
//!
//! # Bounds
//! At most [`CONNECTIONS`] at a time; further ones wait to be accepted. A request's head has to be there
//! within [`HEAD_PATIENCE`], in which an idle connection is closed, too; that is longer than the gateway
//! keeps one. Bodies: [`ask`](super::ask).
//!
//! # Files
//! Whoever runs on a data folder holds a shared lock on its file `lock`, so that nobody takes the databases away.
//!
//! # Orphans
//! [`stop_with_stdin`] ends a process when its standard input closes. `bazaar up` holds the other end,
//! so its children end with it even when it is killed hard and can send no signal.

use std::{
    fs::{DirBuilder, File, OpenOptions, TryLockError},
    future::pending,
    io::{self, Read as _},
    mem,
    net::SocketAddr,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    thread,
    time::Duration,
};

use axum::Router;
use clap::Args;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use rustix::process::{Signal, getpid, kill_process};
use tokio::{
    net::TcpListener,
    runtime::Builder,
    signal::unix::{self, SignalKind},
    sync::Semaphore,
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    clock::Clock,
    console::{complain, say},
    problem::Problem,
    registration::{Registration, RegistrationArgs},
    store::{Migrations, Store},
    trace::Spans,
};
use crate::rules::moment::Moment;

/// How long a service finishes what is in flight.
pub const DRAIN: Duration = Duration::from_secs(5);

/// How many connections are served at a time.
pub const CONNECTIONS: usize = 1024;

/// How long a connection may be without the whole head of a request.
pub const HEAD_PATIENCE: Duration = Duration::from_secs(75);

/// How long accepting pauses when the system gives no more sockets.
const PAUSE: Duration = Duration::from_millis(100);

/// How long a process lives on that lost its standard input and heeds no `SIGTERM`.
const LAST_RESORT: Duration = Duration::from_secs(10);

/// What a service is told.
#[derive(Args, Clone, Debug)]
pub struct ServiceArgs {
    /// The address to listen on; port 0 takes a free one.
    #[arg(long, value_name = "ADDRESS")]
    pub listen: SocketAddr,
    /// Begin at this time instead of the wall clock's: 2026-01-15T12:00+05:30.
    #[arg(long, value_name = "TIME")]
    pub now: Option<Moment>,
    /// Stop when standard input closes.
    #[arg(long, hide = true)]
    pub stop_with_stdin: bool,
    /// Ends on the spot after so many half commits: for rehearsals of crashes.
    #[arg(long, hide = true, value_name = "N", value_parser = clap::value_parser!(i64).range(0..))]
    pub abort_after: Option<i64>,
    /// Where its files are.
    #[command(flatten)]
    pub data: DataArgs,
    /// Where it says that it is there.
    #[command(flatten)]
    pub registration: RegistrationArgs,
}

/// Where the files are.
#[derive(Args, Clone, Debug)]
pub struct DataArgs {
    /// The folder with the databases and keys; `.bazaar` in the root of the clone if it is not said.
    #[arg(long, value_name = "FOLDER")]
    pub data: Option<PathBuf>,
}

impl DataArgs {
    /// The folder, which is made if it is not there, for its owner only.
    pub fn folder(&self) -> Result<PathBuf, String> {
        let folder = self.place();
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&folder);
        made.map_err(|error| format!("the folder {} cannot be made: {error}", folder.display()))?;
        Ok(folder)
    }

    /// Where the folder is, or would be.
    pub fn place(&self) -> PathBuf {
        let root = || {
            let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize();
            root.unwrap_or_default().join(".bazaar") // Built elsewhere: here.
        };
        self.data.clone().unwrap_or_else(root)
    }
}

/// A service: what it answers, and what it does besides.
#[derive(Debug, Default)]
pub struct App {
    /// What it answers.
    pub routes: Router,
    /// What it does besides, until this is dropped.
    pub work: JoinSet<()>,
}

impl From<Router> for App {
    fn from(routes: Router) -> Self {
        Self { routes, work: JoinSet::new() }
    }
}

/// Runs a service with a store of its own until it is told to stop.
pub fn run<A: Into<App>>(
    name: &str,
    args: &ServiceArgs,
    migrations: Migrations,
    app: impl AsyncFnOnce(Clock, Store) -> Result<A, Problem>,
) -> ExitCode {
    run_with(name, args, async |clock, data| {
        let store = Store::open(&data.join(format!("{name}.db")), migrations);
        let store = store.map_err(|error| error.to_string())?;
        let store = match args.abort_after {
            Some(half_commits) => store.aborting_after(half_commits),
            None => store,
        };
        app(clock, store).await.map_err(|problem| problem.to_string())
    })
}

/// Runs a service until it is told to stop; `app` is told what time it is and where the files are.
pub fn run_with<A: Into<App>>(
    name: &str,
    args: &ServiceArgs,
    app: impl AsyncFnOnce(Clock, &Path) -> Result<A, String>,
) -> ExitCode {
    if args.stop_with_stdin {
        stop_with_stdin();
    }
    let runtime = Builder::new_multi_thread().enable_all().build().map_err(|error| error.to_string());
    let ended = runtime.and_then(|runtime| {
        let ended = runtime.block_on(serve(name, args, app));
        runtime.shutdown_background(); // Connections beyond the drain are not waited for.
        ended
    });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            complain(format_args!("{name} cannot serve {}: {message}", args.listen));
            ExitCode::FAILURE
        }
    }
}

async fn serve<A: Into<App>>(
    name: &str,
    args: &ServiceArgs,
    app: impl AsyncFnOnce(Clock, &Path) -> Result<A, String>,
) -> Result<(), String> {
    let io = |error: io::Error| error.to_string();
    let mut stop = Stop::watch().map_err(io)?; // Before anybody can know that we run.
    let clock = args.now.map_or_else(Clock::real, Clock::fixed_start);
    let data = args.data.folder()?;
    let _in_use = lock(&data)?;
    let spans = Spans::of(name);
    let App { routes, work: _work } = app(clock, &data).await?.into();
    let app = TowerToHyperService::new(spans.around(routes));
    let listener = TcpListener::bind(args.listen).await.map_err(io)?;
    let at = listener.local_addr().map_err(io)?;
    say(format_args!("{name} listens on http://{at}, and it is {}", clock.now()));
    let mut registration = Registration::begin(name, at, &args.registration)?;

    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEAD_PATIENCE);
    let (places, under_way) = (Arc::new(Semaphore::new(CONNECTIONS)), GracefulShutdown::new());
    let mut is_in_trouble = false;
    let mut leaving = None;
    let signal = loop {
        let accepting = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            accepted = accepting => accepted,
            signal = stop.signal() => match registration.take() {
                None => break signal,
                Some(registration) => {
                    say(format_args!("{name} leaves on {signal}"));
                    leaving = Some(Box::pin(async move {
                        registration.leave().await;
                        signal
                    }));
                    continue;
                }
            },
            signal = until_left(&mut leaving) => break signal,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                if !mem::replace(&mut is_in_trouble, true) {
                    complain(format_args!("{name} cannot accept connections: {error}"));
                }
                sleep(PAUSE).await;
                continue;
            }
        };
        is_in_trouble = false;
        // Without this, the second small write of an answer waits for the client's delayed acknowledgement.
        _ = stream.set_nodelay(true);
        let connection = under_way.watch(server.serve_connection(TokioIo::new(stream), app.clone()));
        tokio::spawn(async move {
            _ = connection.await; // What a client does wrong is its own affair.
            drop(place);
        });
    };

    say(format_args!("{name} stops on {signal}"));
    drop(listener);
    if timeout(DRAIN, under_way.shutdown()).await.is_err() {
        say(format_args!("{name} cuts off what is not finished after {} s", DRAIN.as_secs()));
    }
    spans.flush().await;
    Ok(())
}

/// For ever, if nobody leaves.
async fn until_left<T>(leaving: &mut Option<impl Future<Output = T> + Unpin>) -> T {
    match leaving {
        Some(leaving) => leaving.await,
        None => pending().await,
    }
}

/// Says that the folder is in use, as long as the file is open; waits while somebody clears it out.
pub fn lock(data: &Path) -> Result<File, String> {
    let file = lock_file(data)?;
    file.lock_shared().map_err(|error| format!("the folder {} cannot be locked: {error}", data.display()))?;
    Ok(file)
}

/// The folder for oneself, as long as the file is open.
///
/// # Errors
/// If anybody uses it, says so.
pub fn lock_alone(data: &Path) -> Result<File, String> {
    let file = lock_file(data)?;
    file.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => {
            format!(
                "the folder {} is in use: stop whatever runs on it, or say another with --data",
                data.display()
            )
        }
        TryLockError::Error(error) => format!("the folder {} cannot be locked: {error}", data.display()),
    })?;
    Ok(file)
}

fn lock_file(data: &Path) -> Result<File, String> {
    let file = data.join("lock");
    let opened = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&file);
    opened.map_err(|error| format!("{} cannot be opened: {error}", file.display()))
}

/// The two signals that mean "stop".
#[derive(Debug)]
pub struct Stop {
    term: unix::Signal,
    interrupt: unix::Signal,
}

impl Stop {
    /// Takes the signals from now on; needs a tokio runtime.
    pub fn watch() -> io::Result<Self> {
        Ok(Self {
            term: unix::signal(SignalKind::terminate())?,
            interrupt: unix::signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for the next one, and names it.
    pub async fn signal(&mut self) -> &'static str {
        tokio::select! {
            _ = self.term.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "Ctrl-C",
        }
    }
}

/// Sends this process `SIGTERM` when its standard input closes, and ends it if that does not help.
pub fn stop_with_stdin() {
    thread::spawn(|| {
        let mut ignored = [0; 256];
        let mut stdin = io::stdin().lock();
        loop {
            match stdin.read(&mut ignored) {
                Ok(0) => break,
                Err(error) if error.kind() != io::ErrorKind::Interrupted => break,
                _ => {}
            }
        }
        complain("standard input is closed, so nobody waits for this process: it stops");
        if kill_process(getpid(), Signal::TERM).is_ok() {
            thread::sleep(LAST_RESORT);
        }
        std::process::exit(1);
    });
}
