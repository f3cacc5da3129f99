//! What every service does alike: listen, serve, and stop in good order.
//!
//! # Stopping
//! On `SIGTERM` and on Ctrl-C a service takes no new connection, finishes what is in flight within
//! [`DRAIN`], cuts off the rest, and ends with code 0.
//!
//! # Orphans
//! [`stop_with_stdin`] ends a process when its standard input closes. `bazaar up` holds the other end,
//! so its children end with it even when it is killed hard and can send no signal.

use std::{
    fmt::Display,
    io::{self, Read as _, Write as _},
    net::SocketAddr,
    pin::pin,
    process::ExitCode,
    thread,
    time::Duration,
};

use axum::{Router, serve::ListenerExt as _};
use clap::Args;
use rustix::process::{Signal, getpid, kill_process};
use tokio::{
    net::TcpListener,
    runtime::Builder,
    signal::unix::{self, SignalKind},
    sync::oneshot,
    time::timeout,
};

use crate::{clock::Clock, moment::Moment};

/// How long a service finishes what is in flight.
pub const DRAIN: Duration = Duration::from_secs(5);

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
}

/// Runs a service until it is told to stop.
pub fn run(name: &str, args: &ServiceArgs, app: impl FnOnce(Clock) -> Router) -> ExitCode {
    if args.stop_with_stdin {
        stop_with_stdin();
    }
    let ended = Builder::new_multi_thread().enable_all().build().and_then(|runtime| {
        let ended = runtime.block_on(serve(name, args, app));
        runtime.shutdown_background(); // Connections beyond the drain are not waited for.
        ended
    });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(format_args!("{name} cannot serve {}: {error}", args.listen));
            ExitCode::FAILURE
        }
    }
}

async fn serve(name: &str, args: &ServiceArgs, app: impl FnOnce(Clock) -> Router) -> io::Result<()> {
    let mut stop = Stop::watch()?; // Before anybody can know that we run.
    let clock = args.now.map_or_else(Clock::real, Clock::fixed_start);
    let listener = TcpListener::bind(args.listen).await?;
    say(format_args!("{name} listens on http://{}, and it is {}", listener.local_addr()?, clock.now()));

    let (drain, draining) = oneshot::channel::<()>();
    // Without this, the second small write of an answer waits for the client's delayed acknowledgement.
    let listener = listener.tap_io(|stream| _ = stream.set_nodelay(true));
    let server = axum::serve(listener, app(clock)).with_graceful_shutdown(async { _ = draining.await });
    let mut server = pin!(server.into_future());
    let signal = tokio::select! {
        ended = &mut server => return ended,
        signal = stop.signal() => signal,
    };

    say(format_args!("{name} stops on {signal}"));
    drop(drain);
    if timeout(DRAIN, server).await.is_err() {
        say(format_args!("{name} cuts off what is not finished after {} s", DRAIN.as_secs()));
    }
    Ok(())
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

/// Prints a line. Unlike `println!`, it does not panic when nobody reads any more.
pub fn say(line: impl Display) {
    _ = writeln!(io::stdout().lock(), "{line}");
}

/// Prints a line on standard error, as [`say`] does.
pub fn complain(line: impl Display) {
    _ = writeln!(io::stderr().lock(), "{line}");
}
