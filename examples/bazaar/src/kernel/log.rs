//! The event log: streams of events in a service's own file, and state that is made of them.
//!
//! # Rules
//! - **A stream** is the life of one aggregate. Its events are numbered 1, 2, 3, … without a gap: the *version*. All events of the
//!   file have a *position* that only grows, in the order in which they were committed; positions may have gaps.
//! - **Appending** says which version the writer has seen. If the stream has gone on since, nothing is written and the writer hears
//!   of the [`Conflict`]: optimistic concurrency, as in P. Helland, "Immutability Changes Everything" (CIDR 2015), and every event
//!   store since. Several streams can be appended to in one transaction, along with whatever else the service keeps.
//! - **State** is what [`Aggregate::apply`] makes of the events from the first on. A snapshot saves beginning at the first; nothing
//!   else depends on it, and all of them may be deleted at any time.
//! - **Schema.** Each event says in which form it was written. [`Event::read`] reads all forms there ever were ("upcasting"); one
//!   that it does not know is an error, never an event that is left out.
//! - **Commands** that carry an id are done once: what a repetition is answered is kept beside the events.
//!
//! # Durability and torn writes
//! Those of [`store`](super::store): an append is a transaction with `synchronous=FULL`. A crash in the middle leaves frames in the
//! write-ahead log without a commit mark, or with a wrong checksum, and SQLite passes over them when the file is opened again: what
//! was told to be written is there, and of anything else nothing. A test of this room cuts the write-ahead log at every place.
//!
//! # Errors
//! An event that cannot be read is an error of the store. There is no error that looks like an empty history.
//!
//! # Bounds
//! [`feed`] and [`history`] give at most [`PAGE`] events at a time. Events are records, and are kept.

use std::fmt;

use rusqlite::{Connection, OptionalExtension as _, Row, Transaction, types::Type};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::{id, trace};
use crate::rules::moment::Moment;

/// How many events are given at a time, at most.
pub const PAGE: u32 = 500;

/// After how many events a snapshot is taken, if nothing else is said.
pub const EVERY: u64 = 10;

/// The tables, as one migration.
pub const TABLES: &str = "
    CREATE TABLE events (
        position INTEGER PRIMARY KEY AUTOINCREMENT,
        stream TEXT NOT NULL,
        version INTEGER NOT NULL CHECK (version > 0),
        event_id TEXT NOT NULL UNIQUE,
        kind TEXT NOT NULL,
        schema INTEGER NOT NULL,
        data TEXT NOT NULL,  -- JSON
        at INTEGER NOT NULL,
        actor TEXT,
        command TEXT,
        correlation_id TEXT,
        causation_id TEXT,
        UNIQUE (stream, version)
    ) STRICT;
    CREATE TRIGGER events_are_not_changed BEFORE UPDATE ON events BEGIN SELECT RAISE(ABORT, 'events are never changed'); END;
    CREATE TRIGGER events_are_not_deleted BEFORE DELETE ON events BEGIN SELECT RAISE(ABORT, 'events are never deleted'); END;
    CREATE TABLE snapshots (
        stream TEXT PRIMARY KEY,
        version INTEGER NOT NULL,
        form INTEGER NOT NULL,
        state TEXT NOT NULL  -- JSON
    ) STRICT;
    CREATE TABLE commands (
        command_id TEXT PRIMARY KEY,
        request TEXT NOT NULL,
        answer TEXT NOT NULL,  -- JSON
        at INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX commands_by_age ON commands (at);
";

/// Something that has happened.
pub trait Event: Sized {
    /// Its name in the log: `order_placed`.
    fn kind(&self) -> &'static str;

    /// In which form it is written now; 1 at first.
    fn schema(&self) -> u32 {
        1
    }

    /// As JSON.
    ///
    /// # Errors
    /// What serde says.
    fn write(&self) -> serde_json::Result<Value>;

    /// Reads it, in this or any earlier form.
    ///
    /// # Errors
    /// Why it cannot be read.
    fn read(kind: &str, schema: u32, data: Value) -> Result<Self, String>;
}

/// What a stream's events make.
pub trait Aggregate: Default + Clone + Serialize + DeserializeOwned {
    /// Of what it is made.
    type Event: Event;

    /// The form of its snapshots: raised whenever the meaning of a member changes, so that older ones are passed over.
    const FORM: u32;

    /// After how many events a snapshot is taken.
    const EVERY: u64 = EVERY;

    /// What becomes of it. Never fails: what was written has happened.
    fn apply(&mut self, event: &Recorded<Self::Event>);
}

/// An event in its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Recorded<E> {
    /// Its place among all events of the file.
    pub position: i64,
    /// Whose it is.
    pub stream: String,
    /// Its place in the stream, from 1.
    pub version: u64,
    /// Its own id.
    pub event_id: String,
    /// When.
    pub at: Moment,
    /// Why, and who.
    pub cause: Cause,
    /// What.
    pub event: E,
}

/// Who wanted it, and from what it follows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    /// Who.
    pub actor: Option<String>,
    /// By which command: `cancel`.
    pub command: Option<String>,
    /// Of which conversation: the trace id of the request.
    pub correlation_id: Option<String>,
    /// The event or command from which it follows directly. Events of one batch follow from one another, in order.
    pub causation_id: Option<String>,
}

impl Cause {
    /// Of a command of somebody, in the trace of the request that is being answered.
    pub fn of(actor: &str, command: &str) -> Self {
        Self {
            actor: Some(actor.to_owned()),
            command: Some(command.to_owned()),
            correlation_id: trace::carried().as_deref().and_then(trace::trace_id).map(str::to_owned),
            causation_id: None,
        }
    }

    /// Following from that.
    #[must_use]
    pub fn after(self, causation_id: &str) -> Self {
        Self { causation_id: Some(causation_id.to_owned()), ..self }
    }
}

/// The stream has gone on since it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// What the writer had seen.
    pub expected: u64,
    /// Where the stream is.
    pub is: u64,
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { expected, is } = self;
        write!(f, "somebody else has changed it: it is at version {is}, and this was decided at {expected}")
    }
}

/// State, and of how many events it is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded<A> {
    /// What they make.
    pub state: A,
    /// How many there are; 0 if there is no such stream.
    pub version: u64,
}

/// Writes a batch, all of it or nothing; tells the position of the last.
///
/// # Errors
/// Those of the store; inside, that the stream is not at `expected`.
pub fn append<E: Event>(
    transaction: &Transaction<'_>,
    stream: &str,
    expected: u64,
    events: &[E],
    cause: &Cause,
    now: Moment,
) -> rusqlite::Result<Result<i64, Conflict>> {
    let is = version(transaction, stream)?;
    if is != expected {
        return Ok(Err(Conflict { expected, is }));
    }
    let insert = "INSERT INTO events
        (stream, version, event_id, kind, schema, data, at, actor, command, correlation_id, causation_id)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)";
    let mut insert = transaction.prepare(insert)?;
    let mut causation_id = cause.causation_id.clone();
    for (event, version) in events.iter().zip(expected + 1..) {
        let data = event.write().map_err(|it| rusqlite::Error::ToSqlConversionFailure(Box::new(it)))?;
        let event_id = id::random().map_err(|it| failure(it.to_string()))?;
        let row = rusqlite::params![
            stream,
            number(version)?,
            event_id,
            event.kind(),
            event.schema(),
            data.to_string(),
            now.unix(),
            cause.actor,
            cause.command,
            cause.correlation_id,
            causation_id,
        ];
        insert.execute(row)?;
        causation_id = Some(event_id);
    }
    Ok(Ok(transaction.last_insert_rowid()))
}

/// The state that a stream's events make: its snapshot, if there is one, and what came after.
///
/// # Errors
/// Those of the store, also if an event cannot be read.
pub fn load<A: Aggregate>(connection: &Connection, stream: &str) -> rusqlite::Result<Loaded<A>> {
    let begin = snapshot(connection, stream)?.unwrap_or(Loaded { state: A::default(), version: 0 });
    replay(connection, stream, begin, Until::End)
}

/// The state that all of a stream's events make, from the first on, whatever snapshots there are.
///
/// # Errors
/// Those of [`load`].
pub fn load_from_zero<A: Aggregate>(connection: &Connection, stream: &str) -> rusqlite::Result<Loaded<A>> {
    replay(connection, stream, Loaded { state: A::default(), version: 0 }, Until::End)
}

/// The state as it was.
///
/// # Errors
/// Those of [`load`].
pub fn load_until<A: Aggregate>(
    connection: &Connection,
    stream: &str,
    until: Until,
) -> rusqlite::Result<Loaded<A>> {
    replay(connection, stream, Loaded { state: A::default(), version: 0 }, until)
}

/// Up to where events are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// All.
    End,
    /// Up to that version, and with it.
    Version(u64),
    /// What had happened at that time, and then.
    Time(Moment),
}

/// Keeps a snapshot, if one is due. What is kept is only ever an optimisation, so it may be left out.
///
/// # Errors
/// Those of the store.
pub fn keep<A: Aggregate>(
    transaction: &Transaction<'_>,
    stream: &str,
    loaded: &Loaded<A>,
) -> rusqlite::Result<()> {
    let before = "SELECT version FROM snapshots WHERE stream = ?1 AND form = ?2";
    let before = transaction.query_row(before, (stream, A::FORM), |row| row.get::<_, i64>(0)).optional()?;
    let before = before.map_or(0, i64::unsigned_abs);
    if loaded.version < before + A::EVERY {
        return Ok(());
    }
    let state = serde_json::to_string(&loaded.state)
        .map_err(|it| rusqlite::Error::ToSqlConversionFailure(Box::new(it)))?;
    let put = "INSERT OR REPLACE INTO snapshots VALUES (?1, ?2, ?3, ?4)";
    transaction.execute(put, (stream, number(loaded.version)?, A::FORM, state)).map(drop)
}

/// The events of a stream after a version, in order; at most [`PAGE`].
///
/// # Errors
/// Those of the store, also if one cannot be read.
pub fn history<E: Event>(
    connection: &Connection,
    stream: &str,
    after: u64,
) -> rusqlite::Result<Vec<Recorded<E>>> {
    let sql = format!("{SELECT} WHERE stream = ?1 AND version > ?2 ORDER BY version LIMIT {PAGE}");
    let mut statement = connection.prepare(&sql)?;
    statement.query_map((stream, number(after)?), recorded)?.collect()
}

/// The events of all streams after a position, in order; at most `limit` of them, and never more than [`PAGE`].
///
/// # Errors
/// Those of [`history`].
pub fn feed<E: Event>(connection: &Connection, after: i64, limit: u32) -> rusqlite::Result<Vec<Recorded<E>>> {
    let sql = format!("{SELECT} WHERE position > ?1 ORDER BY position LIMIT ?2");
    let mut statement = connection.prepare(&sql)?;
    statement.query_map((after, limit.min(PAGE)), recorded)?.collect()
}

/// The position of the last event of all; 0 if there is none.
///
/// # Errors
/// Those of the store.
pub fn head(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("SELECT coalesce(max(position), 0) FROM events", (), |row| row.get(0))
}

/// At which version a stream is; 0 if there is none.
///
/// # Errors
/// Those of the store.
pub fn version(connection: &Connection, stream: &str) -> rusqlite::Result<u64> {
    let sql = "SELECT coalesce(max(version), 0) FROM events WHERE stream = ?1";
    connection.prepare(sql)?.query_row([stream], |row| row.get::<_, i64>(0)).map(i64::unsigned_abs)
}

/// What a command with this id was answered; an error inside if the id was another request's.
///
/// # Errors
/// Those of the store.
pub fn answered<T: DeserializeOwned>(
    connection: &Connection,
    command_id: &str,
    request: &str,
) -> rusqlite::Result<Option<Result<T, KeyReused>>> {
    let sql = "SELECT request, answer FROM commands WHERE command_id = ?1";
    let known = connection
        .query_row(sql, [command_id], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)));
    let Some((before, answer)) = known.optional()? else { return Ok(None) };
    if before != request {
        return Ok(Some(Err(KeyReused)));
    }
    let answer = serde_json::from_str(&answer)
        .map_err(|it| rusqlite::Error::FromSqlConversionFailure(1, Type::Text, Box::new(it)))?;
    Ok(Some(Ok(answer)))
}

/// Keeps what a command with this id is answered.
///
/// # Errors
/// Those of the store; also if the id is known already.
pub fn answer(
    transaction: &Transaction<'_>,
    command_id: &str,
    request: &str,
    answer: &impl Serialize,
    now: Moment,
) -> rusqlite::Result<()> {
    let answer =
        serde_json::to_string(answer).map_err(|it| rusqlite::Error::ToSqlConversionFailure(Box::new(it)))?;
    let insert = "INSERT INTO commands VALUES (?1, ?2, ?3, ?4)";
    transaction.execute(insert, (command_id, request, answer, now.unix())).map(drop)
}

/// Forgets what commands before that time were answered, at most a thousand at a time; their events stay.
///
/// # Errors
/// Those of the store.
pub fn forget_commands(transaction: &Transaction<'_>, before: Moment) -> rusqlite::Result<usize> {
    let sql = "DELETE FROM commands WHERE rowid IN (SELECT rowid FROM commands WHERE at < ?1 LIMIT 1000)";
    transaction.execute(sql, [before.unix()])
}

/// The id names another request already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyReused;

const SELECT: &str = "SELECT position, stream, version, event_id, kind, schema, data, at, actor, command,
    correlation_id, causation_id FROM events";

fn snapshot<A: Aggregate>(connection: &Connection, stream: &str) -> rusqlite::Result<Option<Loaded<A>>> {
    let sql = "SELECT version, state FROM snapshots WHERE stream = ?1 AND form = ?2";
    let read = |row: &Row<'_>| Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?));
    let kept = connection.prepare(sql)?.query_row((stream, A::FORM), read).optional()?;
    // One that cannot be read is passed over: the events are what counts.
    Ok(kept.and_then(|(version, state)| {
        let state = serde_json::from_str::<A>(&state).ok()?;
        Some(Loaded { state, version: version.unsigned_abs() })
    }))
}

fn replay<A: Aggregate>(
    connection: &Connection,
    stream: &str,
    begin: Loaded<A>,
    until: Until,
) -> rusqlite::Result<Loaded<A>> {
    let sql = format!("{SELECT} WHERE stream = ?1 AND version > ?2 ORDER BY version");
    let mut statement = connection.prepare(&sql)?;
    let mut loaded = begin;
    for event in statement.query_map((stream, number(loaded.version)?), recorded::<A::Event>)? {
        let event = event?;
        let is_over = match until {
            Until::End => false,
            Until::Version(last) => event.version > last,
            Until::Time(time) => event.at > time,
        };
        if is_over {
            break;
        }
        if event.version != loaded.version + 1 {
            let (after, next) = (loaded.version, event.version);
            return Err(failure(format!("the stream {stream} has a gap: after {after} comes {next}")));
        }
        loaded.state.apply(&event);
        loaded.version = event.version;
    }
    Ok(loaded)
}

fn recorded<E: Event>(row: &Row<'_>) -> rusqlite::Result<Recorded<E>> {
    let (kind, schema) = (row.get::<_, String>(4)?, row.get(5)?);
    let data = serde_json::from_str::<Value>(row.get_ref(6)?.as_str()?);
    let event = data.map_err(|it| it.to_string()).and_then(|data| E::read(&kind, schema, data));
    let (position, stream) = (row.get(0)?, row.get::<_, String>(1)?);
    let event =
        event.map_err(|why| failure(format!("the event {position} ({kind} {schema}) of {stream}: {why}")))?;
    let cause = Cause {
        actor: row.get(8)?,
        command: row.get(9)?,
        correlation_id: row.get(10)?,
        causation_id: row.get(11)?,
    };
    Ok(Recorded {
        position,
        stream,
        version: row.get::<_, i64>(2)?.unsigned_abs(),
        event_id: row.get(3)?,
        at: Moment::from_unix(row.get(7)?),
        cause,
        event,
    })
}

fn number(version: u64) -> rusqlite::Result<i64> {
    i64::try_from(version).map_err(|it| rusqlite::Error::ToSqlConversionFailure(Box::new(it)))
}

fn failure(why: String) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(6, Type::Text, why.into())
}

#[cfg(test)]
mod tests;
