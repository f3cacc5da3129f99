//! What is written down of a saga, and read again.

use std::collections::BTreeMap;

use rusqlite::{
    Connection, OptionalExtension as _, Row, ToSql, Transaction,
    types::{FromSql, FromSqlError, FromSqlResult, ToSqlOutput, ValueRef},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Failure, Flow};
use crate::{kernel::column::Json, rules::moment::Moment};

/// The tables, as one migration.
pub const TABLES: &str = "
    CREATE TABLE sagas (
        saga_id TEXT PRIMARY KEY,
        flow TEXT NOT NULL,
        state TEXT NOT NULL
            CHECK (state IN ('running', 'compensating', 'completed', 'compensated', 'compensation_failed')),
        input TEXT NOT NULL,  -- JSON
        results TEXT NOT NULL,  -- JSON: what each step that is done came to
        step INTEGER NOT NULL,  -- which one is to be done next, or undone
        has_begun INTEGER NOT NULL,  -- whether that may have been done in part
        attempts INTEGER NOT NULL,  -- how often it was tried in vain
        is_waiting INTEGER NOT NULL,
        cause TEXT,  -- JSON: why it is compensated
        unfit TEXT NOT NULL DEFAULT '[]',  -- JSON: what could not be undone
        revoked TEXT,  -- JSON: why it is to be undone, until that begins
        trace TEXT,
        began_at INTEGER NOT NULL,
        deadline INTEGER NOT NULL,
        changed_at INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX sagas_under_way ON sagas (flow, saga_id)
        WHERE state IN ('running', 'compensating') OR revoked IS NOT NULL;
    CREATE INDEX sagas_that_need_somebody ON sagas (changed_at) WHERE state = 'compensation_failed';
    CREATE INDEX sagas_that_are_over ON sagas (changed_at) WHERE state IN ('completed', 'compensated');
    CREATE TABLE saga_log (
        saga_id TEXT NOT NULL REFERENCES sagas ON DELETE CASCADE,
        number INTEGER NOT NULL,
        at INTEGER NOT NULL,
        step TEXT,
        what TEXT NOT NULL,
        detail TEXT,
        PRIMARY KEY (saga_id, number)
    ) STRICT;
";

/// How far a saga has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Its steps are done, one after the other.
    Running,
    /// They are undone.
    Compensating,
    /// All is done.
    Completed,
    /// All is undone.
    Compensated,
    /// Something could not be undone, and needs somebody.
    CompensationFailed,
}

impl State {
    const ALL: [Self; 5] =
        [Self::Running, Self::Compensating, Self::Completed, Self::Compensated, Self::CompensationFailed];

    /// As in answers: `compensation_failed`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Compensating => "compensating",
            Self::Completed => "completed",
            Self::Compensated => "compensated",
            Self::CompensationFailed => "compensation_failed",
        }
    }

    /// Whether nothing follows.
    pub const fn is_end(self) -> bool {
        matches!(self, Self::Completed | Self::Compensated | Self::CompensationFailed)
    }
}

impl FromSql for State {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let text = value.as_str()?;
        Self::ALL.into_iter().find(|it| it.as_str() == text).ok_or(FromSqlError::InvalidType)
    }
}

impl ToSql for State {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(self.as_str().into())
    }
}

/// Why a saga is compensated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    /// At which step.
    pub step: String,
    /// A word for programs: the one that it was refused with, `unavailable`, or `deadline`.
    pub reason: String,
    /// A sentence for people.
    pub detail: String,
}

/// A saga, as it is recorded.
#[derive(Clone, Debug, PartialEq)]
pub struct Saga {
    /// Its id.
    pub saga_id: String,
    /// How far it has come.
    pub state: State,
    /// What it was begun with.
    pub input: Value,
    /// What each step that is done came to.
    pub results: BTreeMap<String, Value>,
    /// Which step is to be done next, or undone.
    pub step: usize,
    /// Whether that may have been done in part.
    pub has_begun: bool,
    /// How often it was tried in vain.
    pub attempts: u32,
    /// Whether it waits for news.
    pub is_waiting: bool,
    /// Why it is compensated.
    pub cause: Option<Cause>,
    /// What could not be undone.
    pub unfit: Vec<String>,
    /// Why it is to be undone, until that begins.
    pub revoked: Option<Cause>,
    /// To which trace it belongs.
    pub trace: Option<String>,
    /// When it began.
    pub began_at: Moment,
    /// When no further step is begun.
    pub deadline: Moment,
    /// When something was recorded last.
    pub changed_at: Moment,
}

impl Saga {
    /// By what others know this step again.
    pub fn key(&self, step: &str) -> String {
        format!("{}:{step}", self.saga_id)
    }
}

/// What is recorded of a saga.
#[derive(Clone, Debug, PartialEq)]
pub enum What {
    /// It has begun.
    Started,
    /// A step begins.
    Began(&'static str),
    /// A step was tried in vain, and is tried again.
    Tried(&'static str, String),
    /// A step waits for news.
    Waits(&'static str),
    /// A step is done, and this is what it came to.
    Done(&'static str, Value),
    /// A step that is not critical has failed, and the saga goes on.
    Skipped(&'static str, Failure),
    /// From now on all is undone.
    Compensating(Cause),
    /// A step is undone.
    Undone(&'static str),
    /// A step could not be undone, and is undone again later.
    UndoneInVain(&'static str, String),
    /// A step cannot be undone.
    Unfit(&'static str, String),
    /// Somebody wants it to be undone once more.
    Again,
    /// All is done.
    Completed,
    /// All is undone.
    Compensated,
    /// Something is not undone.
    CompensationFailed,
}

impl What {
    /// As in the log: `began`, `done`, …
    pub fn word(&self) -> &'static str {
        self.words().0
    }

    /// As in the log: the word, the step, and more.
    pub(super) fn words(&self) -> (&'static str, Option<&'static str>, Option<String>) {
        match self {
            Self::Started => ("started", None, None),
            Self::Began(step) => ("began", Some(step), None),
            Self::Tried(step, why) => ("tried", Some(step), Some(why.clone())),
            Self::Waits(step) => ("waits", Some(step), None),
            Self::Done(step, _) => ("done", Some(step), None),
            Self::Skipped(step, why) => ("skipped", Some(step), Some(why.to_string())),
            Self::Compensating(cause) => {
                ("compensating", None, Some(format!("{}: {}", cause.reason, cause.detail)))
            }
            Self::Undone(step) => ("undone", Some(step), None),
            Self::UndoneInVain(step, why) => ("undone_in_vain", Some(step), Some(why.clone())),
            Self::Unfit(step, why) => ("unfit", Some(step), Some(why.clone())),
            Self::Again => ("again", None, None),
            Self::Completed => ("completed", None, None),
            Self::Compensated => ("compensated", None, None),
            Self::CompensationFailed => ("compensation_failed", None, None),
        }
    }
}

/// A line of a saga's log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Line {
    /// When.
    pub at: Moment,
    /// Of which step, if it is of one.
    pub step: Option<String>,
    /// What: `began`, `done`, `undone`, …
    pub what: String,
    /// More of it.
    pub detail: Option<String>,
}

impl Line {
    /// As others may see it: what is wrong inside is for the log of the service.
    #[must_use]
    pub fn for_others(self) -> Self {
        let is_inner = ["tried", "undone_in_vain", "unfit", "skipped"].contains(&self.what.as_str())
            || self.detail.as_ref().is_some_and(|it| it.starts_with("unavailable:"));
        Self { detail: self.detail.filter(|_| !is_inner), ..self }
    }
}

/// Begins a saga, in the transaction that makes it wanted; nothing, if there is one of that id.
/// [`Sagas::go`](super::Sagas::go) has it worked on at once. `trace` is what was [`carried`](crate::kernel::trace::carried) when it was asked for: work of a store is
/// done elsewhere.
///
/// # Errors
/// Those of the store.
pub fn start<F: Flow>(
    transaction: &Transaction<'_>,
    flow: &F,
    saga_id: &str,
    input: &Value,
    trace: Option<&str>,
    now: Moment,
) -> rusqlite::Result<()> {
    let insert =
        "INSERT OR IGNORE INTO sagas (saga_id, flow, state, input, results, step, has_begun, attempts,
        is_waiting, trace, began_at, deadline, changed_at)
        VALUES (?1, ?6, 'running', ?2, '{}', 0, FALSE, 0, FALSE, ?3, ?4, ?5, ?4)";
    let deadline = now.after(F::DEADLINE).unix();
    let row = (saga_id, Json(input), trace, now.unix(), deadline, F::NAME);
    if transaction.execute(insert, row)? == 1 {
        let saga = by_id(transaction, saga_id)?.ok_or(rusqlite::Error::QueryReturnedNoRows)?;
        write(transaction, flow, &saga, &What::Started, now)?;
    }
    Ok(())
}

/// Has all of a saga undone, in the transaction that makes it wanted; whether it is one that can still be revoked. One that is
/// under way finishes the attempt that it is at. [`Sagas::go`](super::Sagas::go) and [`Sagas::wake`](super::Sagas::wake) have it looked at at once.
///
/// # Errors
/// Those of the store.
pub fn revoke(transaction: &Transaction<'_>, saga_id: &str, cause: &Cause) -> rusqlite::Result<bool> {
    let revoke = "UPDATE sagas SET revoked = ?2 WHERE saga_id = ?1 AND state IN ('running', 'completed')";
    Ok(transaction.execute(revoke, (saga_id, Json(cause)))? == 1)
}

/// A saga by its id.
///
/// # Errors
/// Those of the store.
pub fn by_id(connection: &Connection, saga_id: &str) -> rusqlite::Result<Option<Saga>> {
    let sql = format!("{SELECT} WHERE saga_id = ?1");
    connection.prepare(&sql)?.query_row([saga_id], saga).optional()
}

/// What was recorded of a saga, in order.
///
/// # Errors
/// Those of the store.
pub fn timeline(connection: &Connection, saga_id: &str) -> rusqlite::Result<Vec<Line>> {
    let sql = "SELECT at, step, what, detail FROM saga_log WHERE saga_id = ?1 ORDER BY number LIMIT 1000";
    let mut statement = connection.prepare(sql)?;
    let line = |row: &Row<'_>| {
        let at = Moment::from_unix(row.get(0)?);
        Ok(Line { at, step: row.get(1)?, what: row.get(2)?, detail: row.get(3)? })
    };
    statement.query_map([saga_id], line)?.collect()
}

/// The sagas that need somebody, the oldest first; at most a hundred.
///
/// # Errors
/// Those of the store.
pub fn parked(connection: &Connection) -> rusqlite::Result<Vec<Saga>> {
    let sql = format!("{SELECT} WHERE state = 'compensation_failed' ORDER BY changed_at LIMIT 100");
    connection.prepare(&sql)?.query_map((), saga)?.collect()
}

pub(super) fn record<F: Flow>(
    transaction: &Transaction<'_>,
    flow: &F,
    saga: &Saga,
    what: &What,
    now: Moment,
) -> rusqlite::Result<()> {
    let shed = saga.state.is_end().then(|| {
        let mut input = saga.input.clone();
        F::shed(&mut input);
        input
    });
    // Whoever revokes it meanwhile is not written over; only that the undoing has begun.
    let update = "UPDATE sagas SET state = ?2, results = ?3, step = ?4, has_begun = ?5, attempts = ?6,
        is_waiting = ?7, cause = ?8, unfit = ?9, changed_at = ?10,
        revoked = CASE WHEN ?2 = 'compensating' THEN NULL ELSE revoked END, input = coalesce(?11, input) WHERE saga_id = ?1";
    let row = rusqlite::params![
        saga.saga_id,
        saga.state,
        Json(&saga.results),
        i64::try_from(saga.step).unwrap_or(i64::MAX),
        saga.has_begun,
        saga.attempts,
        saga.is_waiting,
        saga.cause.as_ref().map(Json),
        Json(&saga.unfit),
        now.unix(),
        shed.map(Json),
    ];
    transaction.prepare(update)?.execute(row)?;
    write(transaction, flow, saga, what, now)
}

fn write<F: Flow>(
    transaction: &Transaction<'_>,
    flow: &F,
    saga: &Saga,
    what: &What,
    now: Moment,
) -> rusqlite::Result<()> {
    let (word, step, detail) = what.words();
    let line = "INSERT INTO saga_log VALUES
        (?1, (SELECT coalesce(max(number), 0) + 1 FROM saga_log WHERE saga_id = ?1), ?2, ?3, ?4, ?5)";
    transaction.prepare(line)?.execute((&saga.saga_id, now.unix(), step, word, detail))?;
    flow.on_record(transaction, saga, what, now)
}

const SELECT: &str =
    "SELECT saga_id, state, input, results, step, has_begun, attempts, is_waiting, cause, unfit,
    trace, began_at, deadline, changed_at, revoked FROM sagas";

fn saga(row: &Row<'_>) -> rusqlite::Result<Saga> {
    Ok(Saga {
        saga_id: row.get(0)?,
        state: row.get(1)?,
        input: row.get::<_, Json<_>>(2)?.0,
        results: row.get::<_, Json<_>>(3)?.0,
        step: usize::try_from(row.get::<_, i64>(4)?).unwrap_or(usize::MAX),
        has_begun: row.get(5)?,
        attempts: row.get(6)?,
        is_waiting: row.get(7)?,
        cause: row.get::<_, Option<Json<_>>>(8)?.map(|it| it.0),
        unfit: row.get::<_, Json<_>>(9)?.0,
        trace: row.get(10)?,
        began_at: Moment::from_unix(row.get(11)?),
        deadline: Moment::from_unix(row.get(12)?),
        changed_at: Moment::from_unix(row.get(13)?),
        revoked: row.get::<_, Option<Json<_>>>(14)?.map(|it| it.0),
    })
}
