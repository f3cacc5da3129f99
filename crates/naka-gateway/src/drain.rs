//! The end of a process: what clients hear of it, and when.
//!
//! 1. *grace*: `/readyz` says 503, and everything goes on, so that whoever chooses among gateways looks away.
//! 2. *farewell*, from the middle of `drain.grace` on: connections hear that they end, each when its turn comes
//!    (`farewell`), over the third quarter of the grace. HTTP/1.1 hears it with its next response (`Connection: close`),
//!    HTTP/2 at once (`GOAWAY`). It is still accepted: a client that is told has not lost anything, and one that has
//!    not looked away is answered.
//! 3. *closing*: nobody is accepted, and what is idle is closed. Tunnels go on until shortly before `drain.deadline`.
//!
//! A request meets a closed connection only if it is sent on one that was idle for the whole farewell.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until, timeout_at};
use tracing::info;

use crate::{generation::Generation, handover::Taken, observe::Metrics, worker::Workers};

/// How long before the end of a drain tunnels are told of it, at most.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// How far the end of the process has come.
#[derive(Debug, Default)]
pub struct Drain(Mutex<Option<Begun>>);

#[derive(Clone, Copy, Debug)]
struct Begun {
    phase: Phase,
    end: Instant,
}

/// The parts of an end, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Whoever looks at `/readyz` looks away.
    Grace,
    /// Clients are told; they are still accepted.
    Farewell,
    /// Nobody is accepted any more.
    Closing,
}

impl Phase {
    const fn word(self) -> &'static str {
        match self {
            Self::Grace => "grace",
            Self::Farewell => "farewell",
            Self::Closing => "closing",
        }
    }
}

impl Drain {
    /// The process ends, at the latest then.
    pub(crate) fn begin(&self, end: Instant) {
        self.set(Begun { phase: Phase::Grace, end });
    }

    fn is_at(&self, phase: Phase) {
        if let Some(begun) = self.get() {
            self.set(Begun { phase, ..begun });
        }
    }

    /// Whether it has begun.
    pub fn has_begun(&self) -> bool {
        self.get().is_some()
    }

    /// Which part of it this is, if it has begun.
    pub fn phase(&self) -> Option<&'static str> {
        self.get().map(|begun| begun.phase.word())
    }

    /// How far it has come; `null` while nobody wants the process to end.
    pub fn to_json(&self, metrics: &Metrics) -> Value {
        let Some(Begun { phase, end }) = self.get() else { return Value::Null };
        let left = end.saturating_duration_since(Instant::now());
        json!({
            "phase": phase.word(),
            "connections": metrics.connections.get(),
            "tunnels": metrics.open_tunnels(),
            "ends_in_ms": u64::try_from(left.as_millis()).unwrap_or(u64::MAX),
        })
    }

    fn get(&self) -> Option<Begun> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, begun: Begun) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(begun);
    }
}

/// An end by a signal. `grace` may be nothing.
pub(crate) async fn drained(
    workers: &Workers,
    generation: &Generation,
    drain: &Drain,
    grace: Duration,
    (end, deadline): (Instant, Duration),
) {
    let began = Instant::now();
    let grace = grace.min(end - began);
    if !grace.is_zero() {
        sleep_until(began + grace / 2).await;
        drain.is_at(Phase::Farewell);
        info!(over = ?grace / 4, connections = workers.shared().open_connections(), "clients are told to leave");
        workers.say_farewell(grace / 4);
        sleep_until(began + grace).await;
    }
    for listener in generation.config.listeners.values() {
        let _ = timeout_at(end, workers.unlisten(&listener.listen)).await; // Late: it is stopped below.
    }
    closed_at_last(workers, drain, (end, deadline)).await;
}

/// Another process accepts. Whoever is connected here hears with the next response that the connection ends; who asks
/// nothing until shortly before the end is closed then.
pub(crate) async fn handed_over(
    workers: &Workers,
    generation: &Generation,
    drain: &Drain,
    taken: &Taken,
    (end, deadline): (Instant, Duration),
) {
    for listener in generation.config.listeners.values() {
        let name = &listener.listen;
        let _ = if taken.listeners.contains(name) {
            timeout_at(end, workers.leave(name)).await
        } else {
            timeout_at(end, workers.unlisten(name)).await
        };
    }
    drain.is_at(Phase::Farewell);
    workers.say_farewell(Duration::ZERO);
    closed(workers, end - deadline / 4).await;
    closed_at_last(workers, drain, (end, deadline)).await;
}

/// Tunnels go on as long as they may. Nothing of theirs is an end of a request: shortly before the end they are told.
async fn closed_at_last(workers: &Workers, drain: &Drain, (end, deadline): (Instant, Duration)) {
    drain.is_at(Phase::Closing);
    info!(connections = workers.shared().open_connections(), "nobody is accepted any more");
    workers.drain();
    closed(workers, end - LAST_WORDS.min(deadline / 8)).await;
    workers.end_tunnels();
    closed(workers, end).await;
}

async fn closed(workers: &Workers, end: Instant) {
    while workers.shared().open_connections() > 0 && Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
