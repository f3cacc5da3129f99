//! Stores of accounts that several gateways share, and how each is.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use naka::rate_limit::shared::{Ask, Asked, InMemory, SharedStore, Store as Accounts, Unanswered};
use tokio::{task::AbortHandle, time::Instant};

#[cfg(feature = "redis")]
mod redis;

use crate::{
    config::checked::{Name, Store},
    observe::StoreMetrics,
};

/// A store, of all generations that name it.
#[derive(Clone)]
pub struct Stored {
    /// What limits ask.
    pub store: SharedStore,
    trouble: Trouble,
    keeping: Arc<Keeping>,
}

/// Why it cannot be asked, if it cannot; and what went wrong last.
#[derive(Clone, Debug, Default)]
struct Trouble(Arc<Mutex<(Option<String>, Option<String>)>>);

impl Trouble {
    #[cfg_attr(not(feature = "redis"), expect(dead_code, reason = "nobody is reached"))]
    fn set(&self, why: Option<String>) {
        *self.lock() = (why, None); // What went wrong before does not any more.
    }

    #[cfg_attr(not(feature = "redis"), expect(dead_code, reason = "nobody fails"))]
    fn failed(&self, why: String) {
        self.lock().1 = Some(why);
    }

    fn get(&self) -> Option<String> {
        self.lock().0.clone()
    }

    fn last(&self) -> Option<String> {
        self.lock().1.clone()
    }

    fn lock(&self) -> MutexGuard<'_, (Option<String>, Option<String>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whoever keeps a connection: not begun, or at work until this is dropped.
#[derive(Default)]
struct Keeping(Mutex<Task>);

#[derive(Default)]
enum Task {
    #[default]
    Nobody,
    #[cfg_attr(not(feature = "redis"), expect(dead_code, reason = "there is nothing to keep"))]
    Waits(Box<dyn FnOnce(SharedStore) -> AbortHandle + Send>),
    Runs(AbortHandle),
}

impl Drop for Keeping {
    fn drop(&mut self) {
        if let Task::Runs(task) = self.0.get_mut().unwrap_or_else(PoisonError::into_inner) {
            task.abort();
        }
    }
}

impl Stored {
    /// Nobody is asked before it is [started](Self::start). One `in_memory` is there at once, and asks nobody.
    pub fn new(name: &Name, store: &Store, in_memory: bool, metrics: StoreMetrics) -> Self {
        let trouble = Trouble::default();
        let (accounts, task) = if in_memory { memory() } else { reach(name, store, &trouble) };
        let store = SharedStore::new(Arc::new(Counted { accounts, metrics }), store.timeout);
        Self { store, trouble, keeping: Arc::new(Keeping(Mutex::new(task))) }
    }

    /// Begins to connect, once; needs a runtime, on which that goes on until the last generation that names it has ended.
    pub fn start(&self) {
        let mut task = self.keeping.0.lock().unwrap_or_else(PoisonError::into_inner);
        *task = match std::mem::take(&mut *task) {
            Task::Waits(keep) => Task::Runs(keep(self.store.clone())),
            other => other,
        };
    }

    /// Why limits do without it, if they do.
    pub fn trouble(&self) -> Option<String> {
        let silent = || self.trouble.last().unwrap_or_else(|| "it does not answer in time".to_owned());
        self.trouble.get().or_else(|| (!self.store.is_up()).then(silent))
    }
}

impl fmt::Debug for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stored").field("store", &self.store).finish_non_exhaustive()
    }
}

fn memory() -> (Arc<dyn Accounts>, Task) {
    (Arc::new(InMemory::new()), Task::Nobody)
}

#[cfg(feature = "redis")]
fn reach(name: &Name, store: &Store, trouble: &Trouble) -> (Arc<dyn Accounts>, Task) {
    trouble.set(Some("it has not been reached yet".to_owned()));
    let redis = Arc::new(redis::Redis::new(name, store, trouble.clone()));
    let kept = Arc::clone(&redis);
    (redis, Task::Waits(Box::new(move |store| tokio::spawn(redis::keep(kept, store)).abort_handle())))
}

/// Was refused where it was written.
#[cfg(not(feature = "redis"))]
fn reach(_: &Name, _: &Store, _: &Trouble) -> (Arc<dyn Accounts>, Task) {
    memory()
}

/// Counts what is asked, and how long that takes.
#[derive(Debug)]
struct Counted {
    accounts: Arc<dyn Accounts>,
    metrics: StoreMetrics,
}

impl Accounts for Counted {
    fn ask(&self, ask: Ask) -> Asked {
        let (asked, metrics) = (self.accounts.ask(ask), self.metrics.clone());
        Box::pin(async move {
            let mut patience = Patience { metrics, began: Instant::now(), is_over: false };
            let said = asked.await;
            patience.is_over = true;
            let StoreMetrics { granted, refused, failed, busy, took, .. } = &patience.metrics;
            match &said {
                Ok(answer) if answer.granted > 0 => granted,
                Ok(_) => refused,
                Err(Unanswered::Busy) => busy,
                Err(_) => failed,
            }
            .inc();
            took.observe(patience.began.elapsed(), None);
            said
        })
    }
}

/// Whoever waits for an answer: not for ever.
struct Patience {
    metrics: StoreMetrics,
    began: Instant,
    is_over: bool,
}

impl Drop for Patience {
    fn drop(&mut self) {
        if !self.is_over {
            self.metrics.given_up.inc();
            self.metrics.took.observe(self.began.elapsed(), None);
        }
    }
}

/// How long a connection, or a sign of life, is waited for.
#[cfg(feature = "redis")]
const CONNECT: std::time::Duration = std::time::Duration::from_secs(2);
