//! Messages to other services: written down with what they tell of, sent later if need be, more than once perhaps, and with
//! effects once.
//!
//! # Algorithm
//! A transactional outbox with idempotent consumers (C. Richardson, "Microservices Patterns", 2018, section 3.3). A message is
//! [`put`] in the transaction that makes it true, so neither can be there without the other. [`Outbox::spawn`] sends the messages of
//! each destination one after the other, in order, until each is taken; a crash between an answer and writing that down sends
//! one again. Whoever takes messages keeps the number of the last one in the transaction with its effects ([`take`]), and passes
//! over what it has seen. Numbers of one file grow, and a file has a random name of its own, so that one that was begun anew is
//! not taken for the old one.
//!
//! # What is not taken
//! A destination that does not answer is tried again after [`FIRST_PAUSE`], twice as long each time, at most [`LONGEST_PAUSE`]; the
//! other destinations do not wait. A message that is *refused* (4xx) [`REFUSALS`] times is a mistake of ours or theirs: it is put
//! aside among the dead letters, which somebody has to look at, and the others go on.
//!
//! # Bounds
//! Of the receiver: a row for each file that it hears from. Of the sender: what was not taken yet; [`lag`] says how much that is and
//! how old.

use std::{sync::Arc, time::Duration};

use axum::http::{Method, StatusCode};
use rusqlite::{Connection, OptionalExtension as _, Transaction};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::{
    sync::Notify,
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    clock::Clock,
    console::complain,
    id,
    peer::Peer,
    store::{Store, StoreError},
    trace,
};
use crate::rules::moment::Moment;

/// How long a destination is left alone that did not answer.
pub const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// How long it is left alone after many attempts.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// How often a message is refused before it is put aside.
pub const REFUSALS: u32 = 5;

/// How often an outbox is looked at that another process may have written to.
const LOOK: Duration = Duration::from_secs(2);

/// The tables, as one migration.
pub const TABLES: &str = "
    CREATE TABLE outbox (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        destination TEXT NOT NULL,
        body TEXT NOT NULL,  -- JSON
        trace TEXT,
        at INTEGER NOT NULL,
        refusals INTEGER NOT NULL DEFAULT 0
    ) STRICT;
    CREATE INDEX outbox_in_order ON outbox (destination, number);
    CREATE TABLE dead_letters (
        number INTEGER PRIMARY KEY,
        destination TEXT NOT NULL,
        body TEXT NOT NULL,
        why TEXT NOT NULL,
        at INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE origin (name TEXT NOT NULL) STRICT;
    CREATE TABLE inbox (
        origin TEXT PRIMARY KEY,
        last INTEGER NOT NULL
    ) STRICT;
";

/// A message on its way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// From which file.
    pub origin: String,
    /// Its number there.
    pub number: i64,
    /// When it was written.
    pub at: Moment,
    /// What it says.
    pub body: Value,
}

/// Writes down that a destination has to hear of something, along with what makes it true.
///
/// # Errors
/// Those of the store.
pub fn put(
    transaction: &Transaction<'_>,
    destination: &str,
    body: &Value,
    trace: Option<&str>,
    now: Moment,
) -> rusqlite::Result<()> {
    let insert = "INSERT INTO outbox (destination, body, trace, at) VALUES (?1, ?2, ?3, ?4)";
    transaction.execute(insert, (destination, body.to_string(), trace, now.unix())).map(drop)
}

/// Whether a message is new; from now on it is not. What it means has to be written in the same transaction.
///
/// # Errors
/// Those of the store.
pub fn take(transaction: &Transaction<'_>, message: &Message) -> rusqlite::Result<bool> {
    let newer = "INSERT INTO inbox VALUES (?1, ?2)
        ON CONFLICT (origin) DO UPDATE SET last = excluded.last WHERE excluded.last > last";
    Ok(transaction.execute(newer, (&message.origin, message.number))? == 1)
}

/// How far a destination is behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Lag {
    /// Messages that were not taken yet.
    pub pending: u32,
    /// How old the oldest of them is, in seconds.
    pub oldest_s: i64,
    /// Messages that were put aside.
    pub dead_letters: u32,
}

/// How far the destinations are behind.
///
/// # Errors
/// Those of the store.
pub fn lag(connection: &Connection, now: Moment) -> rusqlite::Result<Lag> {
    let sql =
        "SELECT count(*), coalesce(max(0, ?1 - min(at)), 0), (SELECT count(*) FROM dead_letters) FROM outbox";
    connection.query_row(sql, [now.unix()], |row| {
        Ok(Lag { pending: row.get(0)?, oldest_s: row.get(1)?, dead_letters: row.get(2)? })
    })
}

/// Sends what was written.
#[derive(Clone, Debug)]
pub struct Outbox {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    clock: Clock,
    store: Store,
    destinations: Vec<(Destination, Notify)>,
}

/// Who hears of things.
#[derive(Clone, Debug)]
pub struct Destination {
    /// Its name in the outbox.
    pub name: &'static str,
    /// Where it is.
    pub peer: Peer,
    /// What is posted to.
    pub path: &'static str,
}

impl Outbox {
    /// Of a store with [`TABLES`].
    pub fn new(clock: Clock, store: Store, destinations: Vec<Destination>) -> Self {
        let destinations = destinations.into_iter().map(|it| (it, Notify::new())).collect();
        Self { shared: Arc::new(Shared { clock, store, destinations }) }
    }

    /// Something was put: it is sent at once, and not when it is looked for next.
    pub fn hurry(&self) {
        self.shared.destinations.iter().for_each(|(_, news)| news.notify_one());
    }

    /// Sends everything, for as long as the set lives.
    pub fn spawn(&self, work: &mut JoinSet<()>) {
        for number in 0..self.shared.destinations.len() {
            let shared = Arc::clone(&self.shared);
            work.spawn(async move { shared.serve(number).await });
        }
    }
}

enum Sent {
    /// It was taken.
    Taken,
    /// It was not, and this is the end of it for now.
    Left(String),
    /// It was refused.
    Refused(String),
}

struct Waiting {
    message: Message,
    trace: Option<String>,
    refusals: u32,
}

impl Shared {
    async fn serve(&self, number: usize) {
        let (destination, news) = &self.destinations[number];
        let mut pause = FIRST_PAUSE;
        loop {
            let sent = match self.next(destination.name).await {
                Ok(None) => {
                    _ = timeout(LOOK, news.notified()).await;
                    continue;
                }
                Ok(Some(waiting)) => self.send(destination, waiting).await,
                Err(error) => Err(error),
            };
            pause = match sent {
                Ok(None) => FIRST_PAUSE,
                Ok(Some(why)) => rest(pause, &why).await,
                Err(StoreError::Crashed) => return,
                Err(error) => rest(pause, &error.to_string()).await,
            };
        }
    }

    async fn next(&self, destination: &'static str) -> Result<Option<Waiting>, StoreError> {
        let sql = "SELECT number, body, trace, at, refusals FROM outbox WHERE destination = ?1
            ORDER BY number LIMIT 1";
        let read = move |transaction: &Transaction<'_>| {
            let next = transaction.query_row(sql, [destination], |row| {
                Ok((
                    row.get(0)?,
                    row.get::<_, String>(1)?,
                    row.get::<_, Option<String>>(2)?,
                    row.get(3)?,
                    row.get(4)?,
                ))
            });
            let Some((number, body, trace, at, refusals)) = next.optional()? else { return Ok(None) };
            let body = serde_json::from_str(&body).unwrap_or(Value::String(body));
            let origin = origin(transaction)?;
            let message = Message { origin, number, at: Moment::from_unix(at), body };
            Ok(Some(Waiting { message, trace, refusals }))
        };
        self.store.write(read).await
    }

    /// What is wrong, if it was not taken.
    async fn send(&self, to: &Destination, waiting: Waiting) -> Result<Option<String>, StoreError> {
        let Waiting { message, trace, refusals } = waiting;
        let number = message.number;
        let asked = to.peer.ask(Method::POST, to.path, Some(&message));
        let name = format!("tell {}", to.name);
        let answer = trace::later(name, trace.as_deref(), Result::is_err, asked).await;
        let sent = match answer {
            Ok(answer) if answer.status.is_success() => Sent::Taken,
            Ok(answer) if answer.status.is_client_error() && !is_passing(answer.status) => {
                Sent::Refused(to.peer.unexpected(&answer).to_string())
            }
            Ok(answer) => Sent::Left(to.peer.unexpected(&answer).to_string()),
            Err(unavailable) => Sent::Left(unavailable.to_string()),
        };
        match sent {
            Sent::Taken => {
                let taken = "DELETE FROM outbox WHERE number = ?1";
                self.store.write(move |transaction| transaction.execute(taken, [number]).map(drop)).await?;
                Ok(None)
            }
            Sent::Left(why) => Ok(Some(why)),
            Sent::Refused(why) if refusals + 1 < REFUSALS => {
                let refused = "UPDATE outbox SET refusals = refusals + 1 WHERE number = ?1";
                self.store.write(move |transaction| transaction.execute(refused, [number]).map(drop)).await?;
                Ok(Some(why))
            }
            Sent::Refused(why) => {
                complain(format_args!("the message {number} to {} is put aside: {why}", to.name));
                let now = self.clock.now().unix();
                let aside = move |transaction: &Transaction<'_>| {
                    let copy = "INSERT INTO dead_letters
                        SELECT number, destination, body, ?2, ?3 FROM outbox WHERE number = ?1";
                    transaction.execute(copy, (number, why, now))?;
                    transaction.execute("DELETE FROM outbox WHERE number = ?1", [number]).map(drop)
                };
                self.store.write(aside).await?;
                Ok(None)
            }
        }
    }
}

/// Leaves a destination alone; tells how long next time.
async fn rest(pause: Duration, why: &str) -> Duration {
    if pause == FIRST_PAUSE {
        complain(why); // Once for each outage.
    }
    sleep(pause).await;
    (pause * 2).min(LONGEST_PAUSE)
}

/// Statuses that say nothing of the message itself.
const fn is_passing(status: StatusCode) -> bool {
    matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS)
}

/// The name of this file, which it has from its first message on.
fn origin(transaction: &Transaction<'_>) -> rusqlite::Result<String> {
    let known = transaction.query_row("SELECT name FROM origin", (), |row| row.get(0)).optional()?;
    if let Some(name) = known {
        return Ok(name);
    }
    let name = id::random().map_err(|it| rusqlite::Error::ToSqlConversionFailure(it.to_string().into()))?;
    transaction.execute("INSERT INTO origin VALUES (?1)", [&name])?;
    Ok(name)
}

#[cfg(test)]
mod tests;
