//! Whoever works on a saga: step after step, and back.

use std::{sync::Arc, time::Duration};

use rusqlite::Transaction;
use tokio::time::{sleep, timeout};

use super::{
    Acted, Failure, Flow, LONGEST_PAUSE, OPTIONAL_UNDOINGS, PAUSE, Step, UNDOINGS,
    record::{Cause, Saga, State, What, record},
    sagas::Shared,
};
use crate::kernel::{console::complain, store::StoreError, trace};

/// How long undoing may take each time.
const UNDOING: Duration = Duration::from_secs(10);

/// Whoever works on a saga, until it is over.
pub(super) struct Worker<F: Flow> {
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
    /// One for that saga, who is said to work on it already.
    pub(super) const fn new(shared: Arc<Shared<F>>, saga_id: String) -> Self {
        Self { shared, saga_id }
    }

    pub(super) async fn work(self) {
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
pub(super) fn tell(error: &StoreError, of: &str) {
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
