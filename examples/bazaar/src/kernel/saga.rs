//! Sagas: work in steps across services, all of which are done, or undone.
//!
//! # Algorithm
//! H. Garcia-Molina and K. Salem, "Sagas" (SIGMOD 1987), orchestrated from one place (C. Richardson, "Microservices Patterns", 2018,
//! chapter 4). A [`Flow`] says which [`Step`]s there are, what each does and how it is undone. Everything the orchestrator knows is
//! in the file of its service: each record is a transaction, together with whatever else it means there ([`Flow::on_record`]).
//! Whoever starts after a crash goes on where the record says.
//!
//! 1. Before a step is done it is written that it **began**; afterwards, what it came to. A step that began and of which nothing
//!    more is known is done again: each has a key (saga and step), by which whoever is asked knows it again.
//! 2. **Refused** ([`Failure::Refused`]): whoever was asked has decided, and nothing was done. It is not asked again. If it was tried
//!    before, or others may do it, too ([`Step::is_shared`]), it is undone all the same.
//! 3. **Trouble** ([`Failure::Trouble`]): nobody knows what was done. It is asked again with the same key, after a pause that grows,
//!    so many times; then the step is taken for one that may have been done.
//! 4. If a step that is *critical* is refused or given up, the saga is **compensated**: what was done is undone, the last first,
//!    and so is the step that was given up. Whoever is told to undo what they have never heard of keeps that in mind, and
//!    refuses it when it arrives late. A step that is not critical fails without consequences.
//! 5. Undoing is repeated until it succeeds, [`UNDOINGS`] times. If it never does, the others are still undone, and the saga ends as
//!    `compensation_failed`: somebody has to look, and may have it tried once more ([`Sagas::retry`]).
//! 6. After its deadline a saga begins no step: the one that is under way is waited for, and then all are undone; unless all that is
//!    left is not critical, which is then left out.
//! 7. A saga may be **revoked** ([`revoke`]), also when it is completed: then all is undone.
//! 8. A step may **wait** ([`Acted::Waiting`]) for news from elsewhere, until [`Sagas::wake`] or the deadline.
//!
//! # Ends
//! Exactly `completed`, `compensated` and `compensation_failed`; every saga that was begun comes to one of them.
//!
//! # Traces
//! Each step is a span in the trace of the request that began the saga, also after a crash.
//!
//! # Bounds
//! [`AT_ONCE`] sagas are worked on at a time; those that wait for news do not count. Each attempt has a timeout. Ended sagas are
//! forgotten after [`KEPT`], but for those that need somebody; what they were begun with is [shed](Flow::shed) when they end.
//!
//! # Rooms
//! `record` is what is written down, `worker` whoever works on a saga, `sagas` who waits for one and who looks for them,
//! [`desk`] what staff may ask.

use std::{fmt, time::Duration};

use rusqlite::Transaction;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use self::{
    record::{Cause, Line, Saga, State, TABLES, What, by_id, parked, revoke, start, timeline},
    sagas::Sagas,
};
use super::{peer::Unavailable, store::StoreError};
use crate::rules::moment::Moment;

pub mod desk;
mod record;
mod sagas;
mod worker;

/// How many sagas are worked on at a time.
pub const AT_ONCE: usize = 64;

/// How often undoing a step is tried: for about an hour, so that nobody has to look after an outage that is shorter.
pub const UNDOINGS: u32 = 360;

/// The pause after the first failure; it grows by as much with each.
pub const PAUSE: Duration = Duration::from_millis(500);

/// The longest pause.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// How long ended sagas are remembered.
pub const KEPT: Duration = Duration::from_hours(24 * 30);

/// How often undoing a step is tried that is not critical.
pub const OPTIONAL_UNDOINGS: u32 = 3;

/// A step of a flow.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// Its name.
    pub name: &'static str,
    /// How long each attempt may take.
    pub timeout: Duration,
    /// How often it is tried.
    pub attempts: u32,
    /// Whether the saga cannot go on without it.
    pub is_critical: bool,
    /// Whether others may do it, too: then it is undone however far the saga itself had come with it, also if it was refused.
    pub is_shared: bool,
}

impl Step {
    /// A critical one, tried four times for 30 seconds each.
    pub const fn critical(name: &'static str) -> Self {
        Self { name, timeout: Duration::from_secs(30), attempts: 4, is_critical: true, is_shared: false }
    }

    /// One whose failure changes nothing.
    pub const fn optional(name: &'static str) -> Self {
        Self { is_critical: false, ..Self::critical(name) }
    }

    /// Others may do it, too.
    #[must_use]
    pub const fn shared(self) -> Self {
        Self { is_shared: true, ..self }
    }

    /// Each attempt may take so long.
    #[must_use]
    pub const fn within(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// It is tried so often.
    #[must_use]
    pub const fn tried(self, attempts: u32) -> Self {
        Self { attempts, ..self }
    }
}

/// What is done in which order, and how it is undone.
pub trait Flow: Send + Sync + 'static {
    /// Its name.
    const NAME: &'static str;

    /// The steps.
    const STEPS: &'static [Step];

    /// How long until no further step is begun.
    const DEADLINE: Duration;

    /// Does a step. Done again with the same [`Saga::key`], it must have no further effect and the same result.
    fn act(&self, saga: &Saga, step: &'static str) -> impl Future<Output = Result<Acted, Failure>> + Send;

    /// Undoes a step, whether it was done or not; again and again, if it must be. A step that arrives after it was undone has to be
    /// refused.
    fn undo(&self, saga: &Saga, step: &'static str) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Takes out of what a saga was begun with what is not needed once it is over: what [undoes](Self::undo) it must do without.
    fn shed(input: &mut Value) {
        _ = input;
    }

    /// What a record means for the rest of the file; part of its transaction.
    ///
    /// # Errors
    /// Those of the store: then it is not recorded either.
    fn on_record(
        &self,
        transaction: &Transaction<'_>,
        saga: &Saga,
        what: &What,
        now: Moment,
    ) -> rusqlite::Result<()> {
        _ = (transaction, saga, what, now);
        Ok(())
    }
}

/// What a step came to.
#[derive(Clone, Debug, PartialEq)]
pub enum Acted {
    /// It is done; the steps after it find this among the [results](Saga::results).
    Done(Value),
    /// It has to wait for news.
    Waiting,
}

impl Acted {
    /// Done, and there is nothing to say of it.
    pub const fn done() -> Self {
        Self::Done(Value::Null)
    }
}

/// Why a step is not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Failure {
    /// Somebody has decided against it, and nothing was done: permanent.
    Refused {
        /// A word for programs.
        reason: String,
        /// A sentence for people.
        detail: String,
    },
    /// Nobody knows what was done: transient.
    Trouble(String),
}

impl Failure {
    /// Refused, for that reason.
    pub fn refused(reason: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::Refused { reason: reason.into(), detail: detail.into() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused { reason, detail } => write!(f, "{reason}: {detail}"),
            Self::Trouble(why) => f.write_str(why),
        }
    }
}

impl From<Unavailable> for Failure {
    fn from(it: Unavailable) -> Self {
        Self::Trouble(it.to_string())
    }
}

impl From<StoreError> for Failure {
    fn from(it: StoreError) -> Self {
        Self::Trouble(it.to_string())
    }
}

#[cfg(test)]
mod tests;
