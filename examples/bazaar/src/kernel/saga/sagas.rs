//! The sagas of a service: who works on them, who waits for them, and who looks for those that nobody works on.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rusqlite::{Connection, OptionalExtension as _, Transaction};
use tokio::{
    sync::{Notify, Semaphore, watch},
    task::JoinSet,
    time::{Instant, sleep, timeout_at},
};

use super::{
    AT_ONCE, Flow, KEPT, PAUSE,
    record::{Saga, State, What, by_id, record},
    worker::{Worker, tell},
};
use crate::kernel::{
    clock::Clock,
    store::{Store, StoreError},
};

/// How often is looked for sagas that nobody works on: another process may have begun them.
pub(super) const LOOK: Duration = Duration::from_secs(2);

/// The sagas of a service.
pub struct Sagas<F> {
    pub(super) shared: Arc<Shared<F>>,
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

/// What all who work and wait have in common.
pub(super) struct Shared<F> {
    pub(super) clock: Clock,
    pub(super) store: Store,
    pub(super) flow: Arc<F>,
    /// Of those who work at a time.
    pub(super) places: Arc<Semaphore>,
    /// Whoever works on a saga, or waits for it, hears of it here.
    heard: Mutex<HashMap<String, Heard>>,
    /// Somebody has begun a saga.
    news: Notify,
}

pub(super) struct Heard {
    /// Counts what was recorded.
    pub(super) records: watch::Sender<u64>,
    /// Somebody wants it to look again.
    pub(super) wake: Arc<Notify>,
    pub(super) is_worked_on: bool,
    waiting: usize,
}

impl Default for Heard {
    fn default() -> Self {
        Self { records: watch::Sender::new(0), wake: Arc::default(), is_worked_on: false, waiting: 0 }
    }
}

impl<F: Flow> Sagas<F> {
    /// Those in a store with [`TABLES`](super::TABLES).
    pub fn new(clock: Clock, store: Store, flow: Arc<F>) -> Self {
        let places = Arc::new(Semaphore::new(AT_ONCE));
        let shared = Shared { clock, store, flow, places, heard: Mutex::default(), news: Notify::new() };
        Self { shared: Arc::new(shared) }
    }

    /// Where they are written down.
    pub(super) fn store(&self) -> &Store {
        &self.shared.store
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
    pub(super) fn heard(&self) -> MutexGuard<'_, HashMap<String, Heard>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nobody is kept in mind for whom nobody works or waits.
    pub(super) fn leave(&self, saga_id: &str, leave: impl FnOnce(&mut Heard)) {
        let mut heard = self.heard();
        if let Some(entry) = heard.get_mut(saga_id) {
            leave(entry);
            if !entry.is_worked_on && entry.waiting == 0 {
                heard.remove(saga_id);
            }
        }
    }

    pub(super) async fn saga(&self, saga_id: &str) -> Result<Option<Saga>, StoreError> {
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
                    let worker = Worker::new(Arc::clone(self), saga_id);
                    workers.spawn(async move { worker.work().await });
                }
            }
        }
    }
}
