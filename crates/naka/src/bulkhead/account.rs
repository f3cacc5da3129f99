//! What outlives a configuration: the counts, and the rule that is in force for them.

use std::sync::{Arc, PoisonError};

use http::{Response, StatusCode};
use tokio::{sync::oneshot, time::Instant};

use super::{BulkheadConfig, Counts, Limiter, Sample, slots::Slots};
use crate::{
    clock::Now,
    enforce::Rejections,
    guard::Guard,
    reject::Rejection,
    sync::{
        Mutex, MutexGuard, Notify,
        atomic::{
            AtomicU32, AtomicU64,
            Ordering::{Acquire, Relaxed, SeqCst},
        },
    },
};

/// One place at work; given back when dropped.
#[derive(Debug)]
pub struct Permit(pub(super) Held);

#[derive(Debug)]
pub(super) enum Held {
    Place {
        account: Arc<Account>,
        began: Option<Box<Began>>,
    },
    Slot {
        table: Arc<Table>,
        slot: u64,
    },
    /// Let pass, though there is no account for it.
    Nothing,
}

/// What a sample will need.
#[derive(Clone, Copy, Debug)]
pub(super) struct Began {
    pub(super) now: Now,
    pub(super) in_flight: u32,
}

impl Guard for Permit {}

impl Permit {
    /// The response's head is there, or an error.
    pub(super) fn answered<R, E>(&mut self, result: &Result<Response<R>, E>) {
        let Held::Place { account, began } = &mut self.0 else { return };
        let Some(began) = began.take() else { return };
        let is_dropped = match result {
            Err(_) => true,
            Ok(response) => match response.extensions().get::<Rejection>() {
                Some(rejection) if !rejection.reason.blames_upstream() => return,
                Some(_) => true,
                None => matches!(
                    response.status(),
                    StatusCode::TOO_MANY_REQUESTS
                        | StatusCode::SERVICE_UNAVAILABLE
                        | StatusCode::GATEWAY_TIMEOUT
                ),
            },
        };
        account.sample(*began, is_dropped);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        match &self.0 {
            Held::Place { account, .. } => account.leave(),
            Held::Slot { table, slot } => table.leave(*slot),
            Held::Nothing => {}
        }
    }
}

/// What outlives a configuration. At rest it is two counts of zero.
#[derive(Debug, Default)]
pub(super) struct Account {
    pub(super) counts: AtomicU64,
    /// The configuration that decides, packed: it only ever grows, and never is half of two.
    rule: AtomicU64,
    /// Configurations made after the first.
    pub(super) generations: AtomicU32,
    pub(super) rejections: Rejections,
    pub(super) freed: Arc<Notify>,
    adapting: Mutex<Option<Adapting>>,
    /// What the adaptive limit admits, where it is in force; 0 where it is not.
    limit: AtomicU32,
    /// 1 where the adaptive limit is lowered, until somebody sees that it was for long enough.
    probing: AtomicU32,
}

/// An adaptive limit, under the newest configuration that has seen a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Adapting {
    start: Instant,
    pub(super) limiter: Limiter,
    acts: bool,
}

impl Adapting {
    /// As it is under the next configuration.
    pub(super) fn next(known: Option<&Self>, config: &BulkheadConfig) -> Option<Self> {
        let how = config.adaptive?;
        let limiter = known.map_or_else(|| Limiter::new(how), |known| known.limiter.reconfigured(how));
        let start = known.map_or_else(|| Now::read().instant(), |known| known.start);
        Some(Self { start, limiter, acts: config.acts() })
    }

    pub(super) fn limit(&self) -> u32 {
        if self.acts { self.limiter.admits() } else { 0 }
    }

    fn pass(&mut self, now: Now) {
        self.limiter.pass(now.since_ns(self.start));
    }
}

/// What is in force: the `max` of the newest configuration that has seen a request. Its number is
/// counted up from 1; 2³² of them are 136 years of one each second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rule {
    pub(super) generation: u32,
    pub(super) max: u32,
}

impl Rule {
    fn pack(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.max)
    }

    #[expect(clippy::cast_possible_truncation, reason = "each half of the word is one number")]
    const fn unpack(word: u64) -> Self {
        Self { generation: (word >> 32) as u32, max: word as u32 }
    }
}

impl Account {
    pub(super) fn counts(&self) -> Counts {
        Counts::unpack(self.counts.load(Acquire))
    }

    pub(super) fn rule(&self) -> Rule {
        Rule::unpack(self.rule.load(SeqCst))
    }

    /// The most that may be at work now.
    fn max(&self) -> u32 {
        limited(self.rule().max, self.limit.load(SeqCst))
    }

    /// Puts a newer configuration in force, and wakes those for whom there is room now.
    ///
    /// `SeqCst` here and in [`leave`](Self::leave): each writes one word and then reads the other's,
    /// and one of the two has to see what the other wrote, or a free place wakes nobody.
    pub(super) fn follow(&self, rule: Rule, config: &BulkheadConfig) {
        if rule <= self.rule() || Rule::unpack(self.rule.fetch_max(rule.pack(), SeqCst)) >= rule {
            return;
        }
        {
            let mut adapting = self.adapting();
            if self.rule() == rule {
                *adapting = Adapting::next(adapting.as_ref(), config);
                self.tell(adapting.as_ref());
            }
        }
        self.wake();
    }

    fn wake(&self) {
        let counts = Counts::unpack(self.counts.load(SeqCst));
        for _ in 0..counts.waiting.min(self.max().saturating_sub(counts.working)) {
            self.freed.notify_one();
        }
    }

    /// A panic cannot leave it half written: every write is one assignment.
    pub(super) fn adapting(&self) -> MutexGuard<'_, Option<Adapting>> {
        self.adapting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sample(&self, began: Began, is_dropped: bool) {
        let now = Now::read();
        {
            let mut adapting = self.adapting();
            let Some(Adapting { start, limiter, .. }) = &mut *adapting else { return };
            let latency_ns = now.since_ns(began.now.instant());
            let (now_ns, in_flight) = (now.since_ns(*start), began.in_flight);
            limiter.sample(Sample { now_ns, latency_ns, in_flight, is_dropped });
            if !self.tell(adapting.as_ref()) {
                return;
            }
        }
        self.wake();
    }

    /// Under the lock: writes what it says to where it is read. Whether there is more room than there was.
    fn tell(&self, adapting: Option<&Adapting>) -> bool {
        let is_probing = adapting.is_some_and(|adapting| adapting.limiter.is_probing());
        self.probing.store(u32::from(is_probing), Relaxed); // A hint: who follows it takes the lock.
        let limit = adapting.map_or(0, Adapting::limit);
        self.limit.swap(limit, SeqCst) < limit
    }

    /// What the adaptive limit admits now, whether or not somebody has seen that a probe's time is over.
    pub(super) fn limit(&self) -> u32 {
        if self.probing.load(Relaxed) == 0 {
            return self.limit.load(SeqCst);
        }
        let passed = |mut adapting: Adapting| {
            adapting.pass(Now::read());
            adapting.limit()
        };
        self.adapting().map_or(0, passed)
    }

    /// Ends a probe whose time is over: it may have let nobody in whose answer would.
    pub(super) fn pass(&self) {
        if self.probing.load(Relaxed) == 0 {
            return;
        }
        {
            let mut adapting = self.adapting();
            let Some(known) = &mut *adapting else { return };
            known.pass(Now::read());
            if !self.tell(adapting.as_ref()) {
                return;
            }
        }
        self.wake();
    }

    /// Gives a place back. Nobody is woken for one that a lower `max` took away: it would find
    /// nothing, and lose its turn.
    pub(super) fn leave(&self) {
        let before = Counts::unpack(self.counts.fetch_sub(1 << 32, SeqCst));
        if before.working <= self.max() {
            self.freed.notify_one();
        }
        self.pass();
    }
}

/// A maximum, and below it an adaptive limit that is in force.
pub(super) fn limited(max: u32, limit: u32) -> u32 {
    if limit == 0 { max } else { max.min(limit) }
}

#[derive(Debug)]
pub(super) struct Table(pub(super) Mutex<Followed>);

/// The accounts, under the newest configuration that has seen a request.
#[derive(Debug)]
pub(super) struct Followed {
    pub(super) generation: u32,
    pub(super) slots: Slots<oneshot::Sender<()>>,
}

impl Table {
    /// A panic cannot leave a count half written: nothing that is called under the lock panics.
    pub(super) fn lock(&self) -> MutexGuard<'_, Followed> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn leave(&self, slot: u64) {
        let admitted = self.lock().slots.leave(slot);
        wake(admitted);
    }
}

/// Whoever has gone meanwhile gives the place back by itself.
pub(super) fn wake(admitted: Vec<oneshot::Sender<()>>) {
    for who in admitted {
        let _ = who.send(());
    }
}
