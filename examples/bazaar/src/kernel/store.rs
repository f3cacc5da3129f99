//! A service's own SQLite file: migrations, one connection that writes and one that reads.
//!
//! # Why so
//! SQLite lets one connection write at a time. Two that want to at once wait for each other by sleeping
//! and trying again; a queue before a single one does not, and never says "busy" to its own process. In
//! WAL mode reading waits for nobody. Both connections live on a thread of their own, so that the
//! runtime's threads never wait for a disk. SQLite's own words: <https://www.sqlite.org/wal.html>.
//!
//! # Durability
//! `synchronous=FULL`: what was committed survives a crash of the process and of the machine.
//!
//! # Secrecy
//! The file is its owner's alone, and so are those that SQLite lays beside it: it gives them the same mode.
//!
//! # Cancellation
//! Work whose caller has gone before it began is not begun; work that has begun is done to its end.
//!
//! # Crashes, rehearsed
//! [`Store::open_here`] does the same work where it is asked for, without threads, so that a whole service runs in a single thread
//! under a clock that is turned by hand; and its [`Crash`] ends the service's life at a commit that a test has chosen: before it, or
//! just after. The file is then opened again, as after a real crash.
//!
//! # Bounds
//! [`WAITING`] pieces of work wait for each connection; further callers wait outside, in order.

use std::{
    error::Error,
    fmt,
    fs::{OpenOptions, Permissions},
    io,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicI64, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior};
use rustix::process::{Signal, getpid, kill_process};
use tokio::sync::{mpsc, oneshot};

/// How many pieces of work wait for each connection.
pub const WAITING: usize = 256;

/// How long a writer waits for another process that writes.
const BUSY: Duration = Duration::from_secs(5);

/// Changes of the tables, the oldest first. Those that were ever released are never edited.
pub type Migrations = &'static [&'static str];

/// A service's file. A clone is the same store.
#[derive(Clone, Debug)]
pub struct Store {
    writer: Line,
    reader: Line,
    crash: Option<Crash>,
}

/// The moment at which a rehearsed crash comes. A clone is the same one.
#[derive(Clone, Debug)]
pub struct Crash {
    /// Half commits until then: an even number ends before a commit, an odd one after it. Shared by all services of a rehearsal.
    left: Arc<AtomicI64>,
    is_over: Arc<AtomicBool>,
    /// The process ends on the spot.
    is_real: bool,
}

impl Crash {
    /// After so many half commits of all services that share the count.
    pub fn after(half_commits: i64) -> Self {
        Self { left: Arc::new(AtomicI64::new(half_commits)), is_over: Arc::default(), is_real: false }
    }

    /// Another service in the same rehearsal, or the same one in its next life.
    #[must_use]
    pub fn another(&self) -> Self {
        Self { left: Arc::clone(&self.left), is_over: Arc::default(), is_real: self.is_real }
    }

    /// Whether this service has crashed: its store does nothing any more.
    pub fn has_come(&self) -> bool {
        self.is_over.load(Relaxed)
    }

    /// How many half commits are left until it comes; below zero if it has come.
    pub fn left(&self) -> i64 {
        self.left.load(Relaxed)
    }

    /// Lets it come after so many half commits from now, to whoever commits then.
    pub fn set(&self, half_commits: i64) {
        self.left.store(half_commits, Relaxed);
    }

    /// Passes half a commit; whether it comes now.
    fn comes(&self) -> bool {
        let comes = self.left.fetch_sub(1, Relaxed) == 0;
        if comes && self.is_real {
            _ = kill_process(getpid(), Signal::KILL);
            thread::park(); // It is dead in a moment.
        }
        if comes {
            self.is_over.store(true, Relaxed);
        }
        comes
    }
}

impl Store {
    /// Opens the file, which is made if it is not there, and brings its tables up to date.
    ///
    /// # Errors
    /// If the file cannot be opened or changed, or was made by a newer program.
    pub fn open(file: &Path, migrations: Migrations) -> Result<Self, StoreError> {
        let failed = |error| StoreError::Open { file: file.display().to_string(), error };
        own(file).map_err(|error| StoreError::Mode { file: file.display().to_string(), error })?;
        let mut writer = Connection::open(file).map_err(failed)?;
        prepare(&writer).map_err(failed)?;
        migrate(&mut writer, file, migrations)?;
        let reader = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(failed)?;
        reader.busy_timeout(BUSY).map_err(failed)?;
        Ok(Self { writer: Line::of(writer), reader: Line::of(reader), crash: None })
    }

    /// A store with which this process ends on the spot after so many half commits, as by `kill -9`; what the system was told to
    /// write, it writes.
    #[must_use]
    pub fn aborting_after(self, half_commits: i64) -> Self {
        Self { crash: Some(Crash { is_real: true, ..Crash::after(half_commits) }), ..self }
    }

    /// The same without threads, and without waiting for a disk: for rehearsals, in which only the process crashes and not the
    /// machine.
    ///
    /// # Errors
    /// Those of [`open`](Self::open).
    pub fn open_here(file: &Path, migrations: Migrations, crash: Crash) -> Result<Self, StoreError> {
        let failed = |error| StoreError::Open { file: file.display().to_string(), error };
        own(file).map_err(|error| StoreError::Mode { file: file.display().to_string(), error })?;
        let mut connection = Connection::open(file).map_err(failed)?;
        prepare(&connection).map_err(failed)?;
        connection.pragma_update(None, "synchronous", "OFF").map_err(failed)?;
        migrate(&mut connection, file, migrations)?;
        let line = Line::Here(Arc::new(Mutex::new(connection)));
        Ok(Self { writer: line.clone(), reader: line, crash: Some(crash) })
    }

    /// Does `work` in a transaction that no other write comes between (`BEGIN IMMEDIATE`): all of it or,
    /// if it fails, nothing.
    pub async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let crash = self.crash.clone();
        let work = move |connection: &mut Connection| {
            let comes = || crash.as_ref().is_some_and(Crash::comes);
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let done = work(&transaction)?;
            if comes() {
                return Ok(None);
            }
            transaction.commit()?;
            Ok(Some(done).filter(|_| !comes()))
        };
        self.lives()?;
        self.writer.run(work).await?.ok_or(StoreError::Crashed)
    }

    fn lives(&self) -> Result<(), StoreError> {
        if self.crash.as_ref().is_some_and(Crash::has_come) { Err(StoreError::Crashed) } else { Ok(()) }
    }

    /// Reads what was committed before.
    pub async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.lives()?;
        self.reader.run(|connection| work(connection)).await
    }

    /// Whether both connections answer; takes no lock of the file.
    pub async fn check(&self) -> Result<(), StoreError> {
        let select = |connection: &mut Connection| connection.query_row("SELECT 1", (), |_| Ok(()));
        self.reader.run(select).await?;
        self.writer.run(select).await
    }
}

/// Makes the file, if it is not there, and nobody else's business.
fn own(file: &Path) -> io::Result<()> {
    let made = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(file)?;
    made.set_permissions(Permissions::from_mode(0o600))
}

fn prepare(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "secure_delete", true)?; // What is forgotten is written over.
    connection.pragma_update(None, "foreign_keys", true)
}

/// Each in a transaction of its own, counted by `user_version`: another process may do the same now.
fn migrate(connection: &mut Connection, file: &Path, migrations: Migrations) -> Result<(), StoreError> {
    let file = || file.display().to_string();
    loop {
        let failed = |error| StoreError::Open { file: file(), error };
        let behavior = TransactionBehavior::Immediate;
        let transaction = connection.transaction_with_behavior(behavior).map_err(failed)?;
        let done: u32 =
            transaction.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(failed)?;
        let mut left = migrations.iter().zip(1_u32..).skip_while(|(_, number)| *number <= done);
        let known = migrations.len();
        let Some((next, number)) = left.next() else {
            let is_newer = usize::try_from(done).is_ok_and(|done| done > known);
            return if is_newer { Err(StoreError::Newer { file: file(), done, known }) } else { Ok(()) };
        };
        transaction.execute_batch(next).map_err(failed)?;
        transaction.pragma_update(None, "user_version", number).map_err(failed)?;
        transaction.commit().map_err(failed)?;
    }
}

type Work = Box<dyn FnOnce(&mut Connection) + Send>;

/// A connection.
#[derive(Clone, Debug)]
enum Line {
    /// On a thread of its own, with the queue before it. The thread ends with the last clone.
    Apart(mpsc::Sender<Work>),
    /// Where it is asked.
    Here(Arc<Mutex<Connection>>),
}

impl Line {
    fn of(mut connection: Connection) -> Self {
        let (queue, mut works) = mpsc::channel::<Work>(WAITING);
        thread::spawn(move || {
            while let Some(work) = works.blocking_recv() {
                work(&mut connection);
            }
        });
        Self::Apart(queue)
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let queue = match self {
            Self::Apart(queue) => queue,
            Self::Here(connection) => {
                let mut connection = connection.lock().unwrap_or_else(PoisonError::into_inner);
                return work(&mut connection).map_err(StoreError::Failed);
            }
        };
        let (reply, done) = oneshot::channel();
        let work: Work = Box::new(move |connection| {
            if !reply.is_closed() {
                _ = reply.send(work(connection));
            }
        });
        queue.send(work).await.map_err(|_| StoreError::Gone)?;
        done.await.map_err(|_| StoreError::Gone)?.map_err(StoreError::Failed)
    }
}

/// Why a store does not do what it was asked.
#[derive(Debug)]
pub enum StoreError {
    /// The file cannot be opened, or its tables not changed.
    Open {
        /// Which.
        file: String,
        /// What SQLite says.
        error: rusqlite::Error,
    },
    /// The file cannot be made, or not be kept from others.
    Mode {
        /// Which.
        file: String,
        /// What the system says.
        error: io::Error,
    },
    /// A newer program has changed the tables.
    Newer {
        /// Which file.
        file: String,
        /// How many migrations it has seen.
        done: u32,
        /// How many this program knows.
        known: usize,
    },
    /// A piece of work failed, and nothing of it was done.
    Failed(rusqlite::Error),
    /// The connection's thread has ended, which only a panic in a piece of work can have caused.
    Gone,
    /// A rehearsed [crash](Crash) has come.
    Crashed,
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open { file, error } => write!(f, "{file} cannot be opened: {error}"),
            Self::Mode { file, error } => {
                write!(f, "{file} cannot be made readable for its owner only: {error}")
            }
            Self::Newer { file, done, known } => write!(
                f,
                "{file} was made by a newer program (it has seen {done} migrations, and this program \
                 knows {known}): run that one, or move the file away"
            ),
            Self::Failed(error) => write!(f, "the store failed: {error}"),
            Self::Gone => f.write_str("the store's thread has ended"),
            Self::Crashed => f.write_str("the rehearsed crash has come"),
        }
    }
}

impl Error for StoreError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Open { error, .. } | Self::Failed(error) => Some(error),
            Self::Mode { error, .. } => Some(error),
            Self::Newer { .. } | Self::Gone | Self::Crashed => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Migrations = &["CREATE TABLE t (n INTEGER PRIMARY KEY) STRICT"];
    const TWO: Migrations = &[ONE[0], "INSERT INTO t VALUES (7)"];

    fn count(connection: &Connection) -> rusqlite::Result<u32> {
        connection.query_row("SELECT count(*) FROM t", (), |row| row.get(0))
    }

    fn insert(transaction: &Transaction<'_>) -> rusqlite::Result<usize> {
        transaction.execute("INSERT INTO t DEFAULT VALUES", ())
    }

    #[tokio::test]
    async fn migrations_are_made_once_each_and_what_was_written_stays() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("t.db");
        let first = Store::open(&file, ONE).unwrap();
        first.write(insert).await.unwrap();
        let second = Store::open(&file, TWO).unwrap(); // While the first is still open.
        let third = Store::open(&file, TWO).unwrap();
        assert_eq!(third.read(count).await.unwrap(), 2);
        second.write(insert).await.unwrap();
        assert_eq!(first.read(count).await.unwrap(), 3);
        first.check().await.unwrap();
    }

    #[tokio::test]
    async fn the_files_are_their_owners_alone() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("t.db");
        std::fs::write(&file, "").unwrap();
        std::fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
        let store = Store::open(&file, ONE).unwrap();
        store.write(insert).await.unwrap();
        let modes = std::fs::read_dir(&folder).unwrap().map(|entry| {
            let entry = entry.unwrap();
            (entry.file_name().into_string().unwrap(), entry.metadata().unwrap().permissions().mode() & 0o777)
        });
        let mut modes = modes.collect::<Vec<_>>();
        modes.sort();
        assert_eq!(modes, ["t.db", "t.db-shm", "t.db-wal"].map(|name| (name.to_owned(), 0o600)));
    }

    #[tokio::test]
    async fn a_file_of_a_newer_program_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("t.db");
        drop(Store::open(&file, TWO).unwrap());
        let newer = Store::open(&file, ONE).unwrap_err().to_string();
        assert!(newer.contains("it has seen 2 migrations, and this program knows 1"), "{newer}");
    }

    #[tokio::test]
    async fn what_fails_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("t.db"), ONE).unwrap();
        let failed = store.write(|transaction| {
            insert(transaction)?;
            transaction.execute("INSERT INTO nowhere DEFAULT VALUES", ())
        });
        assert!(matches!(failed.await, Err(StoreError::Failed(_))));
        assert_eq!(store.read(count).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn work_whose_caller_has_gone_is_not_begun() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("t.db"), ONE).unwrap();
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let first = store.write(move |transaction| {
            _ = wait.recv();
            insert(transaction)
        });
        let mut first = std::pin::pin!(first);
        assert!(futures_poll(first.as_mut()).await.is_none());
        {
            let mut second = std::pin::pin!(store.write(insert));
            assert!(futures_poll(second.as_mut()).await.is_none());
        }
        drop(go);
        first.await.unwrap();
        store.write(insert).await.unwrap();
        assert_eq!(store.read(count).await.unwrap(), 2);
    }

    /// Polls once.
    async fn futures_poll<F: Future>(mut future: std::pin::Pin<&mut F>) -> Option<F::Output> {
        std::future::poll_fn(|context| {
            std::task::Poll::Ready(match future.as_mut().poll(context) {
                std::task::Poll::Ready(output) => Some(output),
                std::task::Poll::Pending => None,
            })
        })
        .await
    }
}
