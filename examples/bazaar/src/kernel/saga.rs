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
//! forgotten after [`KEPT`], but for those that need somebody.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rusqlite::{
    Connection, OptionalExtension as _, Row, ToSql, Transaction,
    types::{FromSql, FromSqlError, FromSqlResult, ToSqlOutput, ValueRef},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::{
    sync::{Notify, Semaphore, watch},
    task::JoinSet,
    time::{Instant, sleep, timeout, timeout_at},
};

use super::{
    clock::Clock,
    console::complain,
    store::{Store, StoreError},
    trace,
};
use crate::rules::moment::Moment;

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

/// How often is looked for sagas that nobody works on: another process may have begun them.
const LOOK: Duration = Duration::from_secs(2);

/// How long undoing may take each time.
const UNDOING: Duration = Duration::from_secs(10);

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

impl From<super::peer::Unavailable> for Failure {
    fn from(it: super::peer::Unavailable) -> Self {
        Self::Trouble(it.to_string())
    }
}

impl From<StoreError> for Failure {
    fn from(it: StoreError) -> Self {
        Self::Trouble(it.to_string())
    }
}

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
    fn words(&self) -> (&'static str, Option<&'static str>, Option<String>) {
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
/// [`Sagas::go`] has it worked on at once. `trace` is what was [`carried`](trace::carried) when it was asked for: work of a store is
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
    let row = (saga_id, input.to_string(), trace, now.unix(), deadline, F::NAME);
    if transaction.execute(insert, row)? == 1 {
        let saga = by_id(transaction, saga_id)?.ok_or(rusqlite::Error::QueryReturnedNoRows)?;
        write(transaction, flow, &saga, &What::Started, now)?;
    }
    Ok(())
}

/// Has all of a saga undone, in the transaction that makes it wanted; whether it is one that can still be revoked. One that is
/// under way finishes the attempt that it is at. [`Sagas::go`] and [`Sagas::wake`] have it looked at at once.
///
/// # Errors
/// Those of the store.
pub fn revoke(transaction: &Transaction<'_>, saga_id: &str, cause: &Cause) -> rusqlite::Result<bool> {
    let revoke = "UPDATE sagas SET revoked = ?2 WHERE saga_id = ?1 AND state IN ('running', 'completed')";
    Ok(transaction.execute(revoke, (saga_id, json!(cause).to_string()))? == 1)
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

/// The sagas of a service.
pub struct Sagas<F> {
    shared: Arc<Shared<F>>,
}

impl<F> Clone for Sagas<F> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<F: Flow> fmt::Debug for Sagas<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sagas").field("flow", &F::NAME).finish_non_exhaustive()
    }
}

struct Shared<F> {
    clock: Clock,
    store: Store,
    flow: Arc<F>,
    places: Arc<Semaphore>,
    /// Whoever works on a saga, or waits for it, hears of it here.
    heard: Mutex<HashMap<String, Heard>>,
    /// Somebody has begun a saga.
    news: Notify,
}

struct Heard {
    /// Counts what was recorded.
    records: watch::Sender<u64>,
    /// Somebody wants it to look again.
    wake: Arc<Notify>,
    is_worked_on: bool,
    waiting: usize,
}

impl Default for Heard {
    fn default() -> Self {
        Self { records: watch::Sender::new(0), wake: Arc::default(), is_worked_on: false, waiting: 0 }
    }
}

impl<F: Flow> Sagas<F> {
    /// Those in a store with [`TABLES`].
    pub fn new(clock: Clock, store: Store, flow: Arc<F>) -> Self {
        let places = Arc::new(Semaphore::new(AT_ONCE));
        let shared = Shared { clock, store, flow, places, heard: Mutex::default(), news: Notify::new() };
        Self { shared: Arc::new(shared) }
    }

    /// Works on all of them for as long as the set lives, those first that were under way.
    pub fn spawn(&self, work: &mut JoinSet<()>) {
        let shared = Arc::clone(&self.shared);
        work.spawn(async move { shared.run().await });
    }

    /// Sagas were begun: they are worked on now, and not when it is looked for them next.
    pub fn go(&self) {
        self.shared.news.notify_one();
    }

    /// A saga that waits looks again.
    pub fn wake(&self, saga_id: &str) {
        if let Some(heard) = self.shared.heard().get(saga_id) {
            heard.wake.notify_one();
        }
    }

    /// Has a saga that needs somebody undone once more; whether it was one.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn retry(&self, saga_id: &str) -> Result<bool, StoreError> {
        let (flow, now, saga_id) =
            (Arc::clone(&self.shared.flow), self.shared.clock.now(), saga_id.to_owned());
        let again = move |transaction: &Transaction<'_>| {
            let Some(mut saga) = by_id(transaction, &saga_id)? else { return Ok(false) };
            if saga.state != State::CompensationFailed {
                return Ok(false);
            }
            saga.unfit.clear();
            saga = Saga { state: State::Compensating, has_begun: false, attempts: 0, ..saga };
            record(transaction, flow.as_ref(), &saga, &What::Again, now)?;
            Ok(true)
        };
        let done = self.shared.store.write(again).await?;
        self.go();
        Ok(done)
    }

    /// Waits until the saga is over or waits for news, or so long; tells what it is then.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn settled(&self, saga_id: &str, patience: Duration) -> Result<Option<Saga>, StoreError> {
        self.until(saga_id, patience, |saga| saga.state.is_end() || saga.is_waiting).await
    }

    /// Waits until the saga is as is said, or so long; tells what it is then.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn until(
        &self,
        saga_id: &str,
        patience: Duration,
        is_there: impl Fn(&Saga) -> bool,
    ) -> Result<Option<Saga>, StoreError> {
        let until = Instant::now() + patience;
        let mut listener = Listener::of(&self.shared, saga_id);
        loop {
            let saga = self.shared.saga(saga_id).await?;
            let Some(saga) = saga else { return Ok(None) };
            if is_there(&saga) || timeout_at(until, listener.records.changed()).await.is_err() {
                return Ok(Some(saga));
            }
        }
    }
}

/// Whoever waits for a saga.
struct Listener<'a, F: Flow> {
    shared: &'a Shared<F>,
    saga_id: &'a str,
    records: watch::Receiver<u64>,
}

impl<'a, F: Flow> Listener<'a, F> {
    fn of(shared: &'a Shared<F>, saga_id: &'a str) -> Self {
        let mut heard = shared.heard();
        let entry = heard.entry(saga_id.to_owned()).or_default();
        entry.waiting += 1;
        Self { shared, saga_id, records: entry.records.subscribe() }
    }
}

impl<F: Flow> Drop for Listener<'_, F> {
    fn drop(&mut self) {
        self.shared.leave(self.saga_id, |heard| heard.waiting -= 1);
    }
}

impl<F: Flow> Shared<F> {
    fn heard(&self) -> MutexGuard<'_, HashMap<String, Heard>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nobody is kept in mind for whom nobody works or waits.
    fn leave(&self, saga_id: &str, leave: impl FnOnce(&mut Heard)) {
        let mut heard = self.heard();
        if let Some(entry) = heard.get_mut(saga_id) {
            leave(entry);
            if !entry.is_worked_on && entry.waiting == 0 {
                heard.remove(saga_id);
            }
        }
    }

    async fn saga(&self, saga_id: &str) -> Result<Option<Saga>, StoreError> {
        let saga_id = saga_id.to_owned();
        self.store.read(move |connection| by_id(connection, &saga_id)).await
    }

    async fn run(self: Arc<Self>) {
        let mut workers = JoinSet::new();
        loop {
            match self.look(&mut workers).await {
                Ok(()) => {}
                Err(error) => {
                    tell(&error, F::NAME);
                    sleep(PAUSE).await;
                }
            }
            tokio::select! {
                () = self.news.notified() => {}
                () = sleep(LOOK) => {}
                Some(_) = workers.join_next() => {}
            }
            while workers.try_join_next().is_some() {}
        }
    }

    /// Sees to it that all sagas are worked on that are not over.
    async fn look(self: &Arc<Self>, workers: &mut JoinSet<()>) -> Result<(), StoreError> {
        let now = self.clock.now();
        let forget = "DELETE FROM sagas WHERE rowid IN (SELECT rowid FROM sagas
            WHERE state IN ('completed', 'compensated') AND revoked IS NULL AND changed_at < ?1 LIMIT 100)";
        let old = now.before(KEPT).unix();
        let is_old = "SELECT 1 FROM sagas WHERE state IN ('completed', 'compensated')
            AND revoked IS NULL AND changed_at < ?1";
        let any = move |connection: &Connection| connection.query_row(is_old, [old], |_| Ok(())).optional();
        if self.store.read(any).await?.is_some() {
            self.store.write(move |transaction| transaction.execute(forget, [old]).map(drop)).await?;
        }
        let under_way = "SELECT saga_id FROM sagas
            WHERE (state IN ('running', 'compensating') OR revoked IS NOT NULL)
            AND flow = ?2 AND saga_id > ?1 ORDER BY saga_id LIMIT 256";
        let mut after = String::new();
        loop {
            let last = after.clone();
            let page = move |connection: &Connection| {
                let mut statement = connection.prepare(under_way)?;
                statement
                    .query_map((last, F::NAME), |row| row.get::<_, String>(0))?
                    .collect::<rusqlite::Result<Vec<_>>>()
            };
            let ids = self.store.read(page).await?;
            let Some(last) = ids.last() else { return Ok(()) };
            after.clone_from(last);
            for saga_id in ids {
                let is_new = {
                    let mut heard = self.heard();
                    let entry = heard.entry(saga_id.clone()).or_default();
                    !std::mem::replace(&mut entry.is_worked_on, true)
                };
                if is_new {
                    let worker = Worker { shared: Arc::clone(self), saga_id };
                    workers.spawn(async move { worker.work().await });
                }
            }
        }
    }
}

/// Whoever works on a saga, until it is over.
struct Worker<F: Flow> {
    shared: Arc<Shared<F>>,
    saga_id: String,
}

impl<F: Flow> Drop for Worker<F> {
    fn drop(&mut self) {
        self.shared.leave(&self.saga_id, |heard| heard.is_worked_on = false);
    }
}

/// What a worker does next.
enum Next {
    /// Goes on at once.
    On,
    /// Waits so long.
    Pause(Duration),
    /// Waits for news until the deadline.
    News(Duration),
    /// Nothing: it is over.
    Over,
}

impl<F: Flow> Worker<F> {
    async fn work(self) {
        let wake = self.shared.heard().entry(self.saga_id.clone()).or_default().wake.clone();
        let places = Arc::clone(&self.shared.places);
        let mut place = places.acquire().await.ok();
        loop {
            let next = match self.shared.saga(&self.saga_id).await {
                Ok(None) => Next::Over,
                Ok(Some(saga)) => self.next(saga).await.unwrap_or_else(|error| self.trouble(&error)),
                Err(error) => self.trouble(&error),
            };
            match next {
                Next::On => {}
                Next::Pause(pause) => {
                    drop(place.take()); // Whoever is in trouble keeps nobody else waiting.
                    sleep(pause).await;
                    place = places.acquire().await.ok();
                }
                Next::News(patience) => {
                    drop(place.take());
                    _ = timeout(patience, wake.notified()).await;
                    place = places.acquire().await.ok();
                }
                Next::Over => return,
            }
        }
    }

    fn trouble(&self, error: &StoreError) -> Next {
        tell(error, &self.saga_id);
        Next::Pause(LONGEST_PAUSE)
    }

    async fn next(&self, saga: Saga) -> Result<Next, StoreError> {
        match saga.state {
            State::Running | State::Completed if saga.revoked.is_some() => self.revoked(saga).await,
            State::Running => self.forward(saga).await,
            State::Compensating => self.backward(saga).await,
            _ => Ok(Next::Over),
        }
    }

    async fn forward(&self, mut saga: Saga) -> Result<Next, StoreError> {
        let Some(step) = F::STEPS.get(saga.step) else {
            let done = Saga { state: State::Completed, ..saga };
            return self.record(done, What::Completed).await;
        };
        let now = self.shared.clock.now();
        let is_too_late = now >= saga.deadline;
        if is_too_late && F::STEPS.iter().skip(saga.step).all(|step| !step.is_critical) {
            let saga = Saga { step: saga.step + 1, has_begun: false, attempts: 0, is_waiting: false, ..saga };
            let late = Failure::Trouble("it is too late for it".to_owned());
            return self.record(saga, What::Skipped(step.name, late)).await;
        }
        if is_too_late {
            let detail = format!("it was not done by {}", saga.deadline);
            return self.turn(saga, step, "deadline", detail).await;
        }
        let is_first = !saga.has_begun;
        if is_first {
            saga.has_begun = true;
            saga = self.write(saga, What::Began(step.name)).await?;
        }
        match self.act(&saga, step).await {
            Ok(Acted::Done(value)) => {
                saga.results.insert(step.name.to_owned(), value.clone());
                let saga =
                    Saga { step: saga.step + 1, has_begun: false, attempts: 0, is_waiting: false, ..saga };
                self.record(saga, What::Done(step.name, value)).await
            }
            Ok(Acted::Waiting) => {
                let left = u64::try_from(saga.deadline.unix() - now.unix()).unwrap_or(0);
                if !saga.is_waiting {
                    self.write(Saga { is_waiting: true, ..saga }, What::Waits(step.name)).await?;
                }
                // It looks by itself, too: whoever had news may have died before saying so.
                Ok(Next::News(Duration::from_secs(left).min(LONGEST_PAUSE)))
            }
            Err(Failure::Trouble(why)) if saga.attempts + 1 < step.attempts => {
                let attempts = saga.attempts + 1;
                self.write(Saga { attempts, ..saga }, What::Tried(step.name, why)).await?;
                Ok(Next::Pause(pause(attempts)))
            }
            Err(failure) if !step.is_critical => {
                let saga =
                    Saga { step: saga.step + 1, has_begun: false, attempts: 0, is_waiting: false, ..saga };
                self.record(saga, What::Skipped(step.name, failure)).await
            }
            Err(Failure::Trouble(why)) => self.turn(saga, step, "unavailable", why).await,
            Err(Failure::Refused { reason, detail }) => {
                saga.has_begun = !is_first; // Of earlier attempts nobody knows.
                self.turn(saga, step, &reason, detail).await
            }
        }
    }

    /// From forward to backward. The step itself is undone, too, if it may have been done in part.
    async fn turn(&self, saga: Saga, step: &Step, reason: &str, detail: String) -> Result<Next, StoreError> {
        self.compensate(saga, Cause { step: step.name.to_owned(), reason: reason.to_owned(), detail }).await
    }

    async fn revoked(&self, mut saga: Saga) -> Result<Next, StoreError> {
        let Some(cause) = saga.revoked.take() else { return Ok(Next::On) };
        self.compensate(saga, cause).await
    }

    async fn compensate(&self, saga: Saga, cause: Cause) -> Result<Next, StoreError> {
        let (attempts, is_waiting, revoked) = (0, false, None);
        let has_begun = saga.has_begun || F::STEPS.get(saga.step).is_some_and(|step| step.is_shared);
        let state = State::Compensating;
        let saga =
            Saga { state, has_begun, attempts, is_waiting, revoked, cause: Some(cause.clone()), ..saga };
        self.record(saga, What::Compensating(cause)).await
    }

    async fn backward(&self, mut saga: Saga) -> Result<Next, StoreError> {
        let Some((number, step)) = to_undo(&saga, F::STEPS) else {
            if saga.unfit.is_empty() {
                return self.record(Saga { state: State::Compensated, ..saga }, What::Compensated).await;
            }
            let unfit = saga.unfit.join(", ");
            complain(format_args!("the saga {} needs somebody: {unfit} cannot be undone", self.saga_id));
            let saga = Saga { state: State::CompensationFailed, ..saga };
            return self.record(saga, What::CompensationFailed).await;
        };
        let undone = self.undo(&saga, step).await;
        let attempts = saga.attempts + 1;
        let (what, is_left) = match undone {
            Ok(()) => (What::Undone(step.name), true),
            Err(Failure::Trouble(why)) if attempts < undoings(step) => {
                (What::UndoneInVain(step.name, why), false)
            }
            Err(failure) if !step.is_critical => {
                saga.results.remove(step.name);
                (What::Skipped(step.name, failure), true)
            }
            Err(failure) => {
                saga.unfit.push(step.name.to_owned());
                saga.results.entry(step.name.to_owned()).or_default(); // It may have been done.
                (What::Unfit(step.name, failure.to_string()), true)
            }
        };
        if !is_left {
            self.write(Saga { attempts, ..saga }, what).await?;
            return Ok(Next::Pause(pause(attempts)));
        }
        if matches!(what, What::Undone(_)) {
            saga.results.remove(step.name);
        }
        self.record(Saga { step: number, has_begun: false, attempts: 0, ..saga }, what).await
    }

    async fn act(&self, saga: &Saga, step: &Step) -> Result<Acted, Failure> {
        let act = timeout(step.timeout, self.shared.flow.act(saga, step.name));
        let act = async {
            act.await.unwrap_or_else(|_| {
                Err(Failure::Trouble(format!("it took longer than {} s", step.timeout.as_secs())))
            })
        };
        let name = format!("{} {}", F::NAME, step.name);
        trace::later(name, saga.trace.as_deref(), Result::is_err, act).await
    }

    async fn undo(&self, saga: &Saga, step: &Step) -> Result<(), Failure> {
        let undo = timeout(UNDOING, self.shared.flow.undo(saga, step.name));
        let undo = async {
            undo.await.unwrap_or_else(|_| {
                Err(Failure::Trouble(format!("it took longer than {} s", UNDOING.as_secs())))
            })
        };
        let name = format!("{} undo {}", F::NAME, step.name);
        trace::later(name, saga.trace.as_deref(), Result::is_err, undo).await
    }

    async fn record(&self, saga: Saga, what: What) -> Result<Next, StoreError> {
        self.write(saga, what).await.map(|_| Next::On)
    }

    /// What is recorded, others hear of.
    async fn write(&self, saga: Saga, what: What) -> Result<Saga, StoreError> {
        let (flow, now) = (Arc::clone(&self.shared.flow), self.shared.clock.now());
        let written = move |transaction: &Transaction<'_>| {
            record(transaction, flow.as_ref(), &saga, &what, now)?;
            Ok(saga)
        };
        let saga = self.shared.store.write(written).await?;
        if let Some(heard) = self.shared.heard().get(&self.saga_id) {
            heard.records.send_modify(|records| *records += 1);
        }
        Ok(saga)
    }
}

const fn undoings(step: &Step) -> u32 {
    if step.is_critical { UNDOINGS } else { OPTIONAL_UNDOINGS }
}

/// Of a crash that was rehearsed nobody has to hear.
fn tell(error: &StoreError, of: &str) {
    if !matches!(error, StoreError::Crashed) {
        complain(format_args!("saga {of}: {error}"));
    }
}

/// The last step that is done, or may be, and is not known to be beyond undoing.
fn to_undo(saga: &Saga, steps: &'static [Step]) -> Option<(usize, &'static Step)> {
    let is_done = |(number, step): &(usize, &Step)| {
        let may_be_done = saga.has_begun && *number == saga.step || saga.results.contains_key(step.name);
        may_be_done && !saga.unfit.iter().any(|it| it == step.name)
    };
    steps.iter().enumerate().rev().find(is_done)
}

/// Longer with each failure: as much again each time.
fn pause(attempts: u32) -> Duration {
    PAUSE.saturating_mul(attempts).min(LONGEST_PAUSE)
}

fn record<F: Flow>(
    transaction: &Transaction<'_>,
    flow: &F,
    saga: &Saga,
    what: &What,
    now: Moment,
) -> rusqlite::Result<()> {
    // Whoever revokes it meanwhile is not written over; only that the undoing has begun.
    let update = "UPDATE sagas SET state = ?2, results = ?3, step = ?4, has_begun = ?5, attempts = ?6,
        is_waiting = ?7, cause = ?8, unfit = ?9, changed_at = ?10,
        revoked = CASE WHEN ?2 = 'compensating' THEN NULL ELSE revoked END WHERE saga_id = ?1";
    let row = rusqlite::params![
        saga.saga_id,
        saga.state,
        json!(saga.results).to_string(),
        i64::try_from(saga.step).unwrap_or(i64::MAX),
        saga.has_begun,
        saga.attempts,
        saga.is_waiting,
        saga.cause.as_ref().map(|cause| json!(cause).to_string()),
        json!(saga.unfit).to_string(),
        now.unix(),
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
        input: read(row, 2)?,
        results: read(row, 3)?,
        step: usize::try_from(row.get::<_, i64>(4)?).unwrap_or(usize::MAX),
        has_begun: row.get(5)?,
        attempts: row.get(6)?,
        is_waiting: row.get(7)?,
        cause: row.get_ref(8)?.as_str_or_null()?.map(parse).transpose()?,
        unfit: read(row, 9)?,
        trace: row.get(10)?,
        began_at: Moment::from_unix(row.get(11)?),
        deadline: Moment::from_unix(row.get(12)?),
        changed_at: Moment::from_unix(row.get(13)?),
        revoked: row.get_ref(14)?.as_str_or_null()?.map(parse).transpose()?,
    })
}

fn read<T: for<'a> Deserialize<'a>>(row: &Row<'_>, column: usize) -> rusqlite::Result<T> {
    parse(row.get_ref(column)?.as_str()?)
}

fn parse<T: for<'a> Deserialize<'a>>(text: &str) -> rusqlite::Result<T> {
    serde_json::from_str(text).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, Box::new(error))
    })
}

#[cfg(test)]
mod tests;
