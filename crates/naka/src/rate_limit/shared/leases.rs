//! What a node knows of keys besides its own account: leases, refusals, and what it owes. Bounded.

use std::{
    collections::{HashMap, VecDeque},
    hash::BuildHasherDefault,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::watch;

use super::{Answer, Ask, Shape, Unanswered};
use crate::{
    key::Key,
    rate_limit::table::{AlreadyHashed, SHARDS, shard_cap, shard_of},
};

/// How long a lease may be spent, and after that be given back.
const HOLD_NS: u64 = 1_000_000_000;
/// How long a refusal is believed at most.
const BELIEVE_NS: u64 = 10_000_000_000;
/// And at least: what comes back sooner is asked for no sooner.
const SOON_NS: u64 = 1_000_000;
/// How many of the oldest entries each new key looks at.
const LOOKS: usize = 2;

/// What is known of all keys of one limit.
#[derive(Debug)]
pub(in crate::rate_limit) struct Leases {
    shards: Box<[Mutex<Shard>]>,
}

#[derive(Debug, Default)]
struct Shard {
    entries: HashMap<u64, Entry, BuildHasherDefault<AlreadyHashed>>,
    /// Each of them once, those that came first in front.
    order: VecDeque<u64>,
}

#[derive(Debug, Default)]
struct Entry {
    /// Which windows this is of.
    quota: u64,
    lease: u32,
    until_ns: u64,
    refusal: Option<Refusal>,
    /// What the store has left, and when all of it is back, for each window; and when it said so.
    windows: Vec<(u64, u64)>,
    said_ns: u64,
    /// Admitted without the store, and until when that matters.
    owed: u32,
    owed_until_ns: u64,
    /// How much more than what is needed was asked for last, and when.
    extra: u32,
    asked_ns: u64,
    asking: Option<watch::Receiver<()>>,
    /// What those need that wait for it.
    waiting: u32,
}

#[derive(Clone, Copy, Debug)]
struct Refusal {
    cost: u32,
    /// Then it would be admitted; `u64::MAX` if never.
    until_ns: u64,
    believed_ns: u64,
    is_young: bool,
}

/// What a request needs of a key.
#[derive(Clone, Copy, Debug)]
pub(in crate::rate_limit) struct Need {
    pub(in crate::rate_limit) key: Key,
    /// The number of its tier among those of the limit, and one for those that are of none.
    pub(in crate::rate_limit) tier: usize,
    pub(in crate::rate_limit) cost: u32,
    /// Which windows.
    pub(in crate::rate_limit) quota: u64,
    pub(in crate::rate_limit) burst: u32,
    pub(in crate::rate_limit) refill_ns: u64,
    pub(in crate::rate_limit) lease: u32,
    pub(in crate::rate_limit) max_keys: usize,
}

impl Need {
    /// Units are those of a tier: each has leases of its own on a key.
    fn place(&self) -> u64 {
        self.key.bits() ^ (self.tier as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}

/// What is known of a key; nothing is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::rate_limit) enum Look {
    /// There is a lease: so many are left of it, and with the store.
    Lease(u64),
    /// The store has refused it.
    Refused(Option<Duration>),
    /// The store has, but may have lost what it knew.
    Young(Option<Duration>),
    /// The store has to be asked.
    Ask,
}

/// What becomes of a request that needs something of a key.
pub(in crate::rate_limit) enum Taken {
    /// It has it.
    Held(Hold),
    /// The store has refused it.
    Refused(Option<Duration>),
    /// The store has, but may have lost what it knew.
    Young(Option<Duration>),
    /// There is no place to remember the key.
    Full,
    /// It has to ask.
    Asks(Asking),
    /// Somebody does: until then.
    Waits(Waiting),
}

impl Entry {
    fn look(&self, need: &Need, now_ns: u64) -> Look {
        if self.quota != need.quota {
            return Look::Ask;
        }
        if now_ns < self.until_ns && self.lease >= need.cost {
            let at_store = self.windows.iter().map(|(left, _)| *left).min().unwrap_or_default();
            return Look::Lease(u64::from(self.lease).saturating_add(at_store));
        }
        let refusal = self.refusal.filter(|it| need.cost >= it.cost && now_ns < it.believed_ns);
        let Some(Refusal { until_ns, is_young, .. }) = refusal else { return Look::Ask };
        let wait = (until_ns < u64::MAX).then(|| Duration::from_nanos(until_ns.saturating_sub(now_ns)));
        if is_young { Look::Young(wait) } else { Look::Refused(wait) }
    }

    /// Whether somebody is at work on it.
    fn is_busy(&self) -> bool {
        self.asking.is_some() || self.waiting > 0
    }

    /// Whether it has nothing to say.
    fn is_idle(&self, now_ns: u64) -> bool {
        let refuses = self.refusal.is_some_and(|it| now_ns < it.believed_ns);
        let owes = self.owed > 0 && now_ns < self.owed_until_ns;
        !self.is_busy() && !refuses && !owes && now_ns >= self.until_ns.saturating_add(HOLD_NS)
    }

    /// Takes away what is to be asked: how much at most, what is owed, and what is given back.
    fn question(&mut self, need: &Need, now_ns: u64) -> Question {
        let is_of_same = self.quota == need.quota && now_ns < self.until_ns.saturating_add(HOLD_NS);
        let back = if is_of_same { self.lease.min(need.lease) } else { 0 };
        let is_in_demand = self.asked_ns > 0 && now_ns.saturating_sub(self.asked_ns) < HOLD_NS;
        self.extra = if is_in_demand { (self.extra * 2).max(1).min(need.lease) } else { self.extra / 2 };
        (self.lease, self.asked_ns) = (0, now_ns.max(1));
        let wanted = need.cost.saturating_add(self.waiting).saturating_add(self.extra);
        let owed = if now_ns < self.owed_until_ns { self.owed } else { 0 };
        self.owed = 0;
        Question { wanted: wanted.min(need.burst).max(need.cost), owed, back }
    }

    fn owe(&mut self, cost: u32, need: &Need, now_ns: u64) {
        self.owed = self.owed.saturating_add(cost).min(need.burst);
        self.owed_until_ns = now_ns.saturating_add(need.refill_ns.saturating_mul(2));
    }
}

impl Shard {
    /// The entry of a key, if there is a place for one. The oldest that have nothing to say go; at the cap any but
    /// those that somebody is at work on.
    fn entry(&mut self, place: u64, cap: usize, now_ns: u64) -> Option<&mut Entry> {
        if !self.entries.contains_key(&place) {
            for _ in 0..LOOKS {
                let is_full = self.entries.len() >= cap;
                let Some(oldest) = self.order.pop_front() else { break };
                let goes = |entry: &Entry| if is_full { !entry.is_busy() } else { entry.is_idle(now_ns) };
                if self.entries.get(&oldest).is_some_and(goes) {
                    self.entries.remove(&oldest);
                } else {
                    self.order.push_back(oldest);
                }
            }
            if self.entries.len() >= cap {
                return None;
            }
            self.order.push_back(place);
        }
        Some(self.entries.entry(place).or_default())
    }
}

impl Leases {
    pub(in crate::rate_limit) fn new() -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect() }
    }

    /// Keys that are remembered now.
    pub(in crate::rate_limit) fn len(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).entries.len()).sum()
    }

    /// What is known now.
    pub(in crate::rate_limit) fn look(&self, need: &Need, now_ns: u64) -> Look {
        let shard = self.lock(need);
        shard.entries.get(&need.place()).map_or(Look::Ask, |entry| entry.look(need, now_ns))
    }

    /// For each window how many are left and after how many nanoseconds all are; `None` if nothing is known.
    pub(in crate::rate_limit) fn said(&self, need: &Need, now_ns: u64) -> Option<Vec<(u64, u64)>> {
        let shard = self.lock(need);
        let entry = shard.entries.get(&need.place());
        let entry = entry.filter(|it| it.quota == need.quota && !it.windows.is_empty())?;
        let gone_ns = now_ns.saturating_sub(entry.said_ns);
        let lease = if now_ns < entry.until_ns { entry.lease } else { 0 };
        let of = |(left, reset_ns): &(u64, u64)| {
            (left.saturating_add(u64::from(lease)), reset_ns.saturating_sub(gone_ns))
        };
        Some(entry.windows.iter().map(of).collect())
    }

    /// Takes of a lease, if there is one.
    pub(in crate::rate_limit) fn hold(self: &Arc<Self>, need: &Need, now_ns: u64) -> Option<Hold> {
        let mut shard = self.lock(need);
        let entry = shard.entries.get_mut(&need.place())?;
        let Look::Lease(left) = entry.look(need, now_ns) else { return None };
        Some(self.held(entry, need, left))
    }

    fn held(self: &Arc<Self>, entry: &mut Entry, need: &Need, left: u64) -> Hold {
        entry.lease -= need.cost;
        let left = left.saturating_sub(u64::from(need.cost));
        Hold { leases: Arc::clone(self), need: *need, left, is_spent: false }
    }

    /// So much was admitted without the store.
    pub(in crate::rate_limit) fn owe(&self, need: &Need, now_ns: u64) {
        let cap = shard_cap(need.max_keys);
        if let Some(entry) = self.lock(need).entry(need.place(), cap, now_ns) {
            entry.owe(need.cost, need, now_ns);
        }
    }

    /// Spends of a lease, or asks, or waits for who does. Whoever waited already does so no longer.
    pub(in crate::rate_limit) fn take(
        self: &Arc<Self>,
        need: &Need,
        waited: Option<Waiting>,
        now_ns: u64,
    ) -> Taken {
        let mut shard = self.lock(need);
        let Some(entry) = shard.entry(need.place(), shard_cap(need.max_keys), now_ns) else {
            drop(shard); // Whoever waited locks it.
            return Taken::Full;
        };
        if let Some(mut waited) = waited {
            entry.waiting = entry.waiting.saturating_sub(waited.need.cost);
            waited.is_over = true;
        }
        match entry.look(need, now_ns) {
            Look::Lease(left) => Taken::Held(self.held(entry, need, left)),
            Look::Refused(wait) => Taken::Refused(wait),
            Look::Young(wait) => Taken::Young(wait),
            Look::Ask => self.wait_or_ask(entry, need, now_ns),
        }
    }

    fn wait_or_ask(self: &Arc<Self>, entry: &mut Entry, need: &Need, now_ns: u64) -> Taken {
        let (leases, need) = (Arc::clone(self), *need);
        if let Some(asking) = entry.asking.clone() {
            entry.waiting = entry.waiting.saturating_add(need.cost);
            return Taken::Waits(Waiting { leases, need, asking, is_over: false });
        }
        let question = entry.question(&need, now_ns);
        let (done, asking) = watch::channel(());
        entry.asking = Some(asking);
        Taken::Asks(Asking { leases, need, question, now_ns, is_over: false, _done: done })
    }

    fn lock(&self, need: &Need) -> MutexGuard<'_, Shard> {
        lock(&self.shards[shard_of(need.key.bits())])
    }
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner) // Nothing in between can panic.
}

/// What a request needs, taken out of a lease, and put back unless it is [spent](Self::spend).
pub(in crate::rate_limit) struct Hold {
    leases: Arc<Leases>,
    need: Need,
    left: u64,
    is_spent: bool,
}

impl Hold {
    /// How many are left besides.
    pub(in crate::rate_limit) const fn left(&self) -> u64 {
        self.left
    }

    /// It is admitted.
    pub(in crate::rate_limit) fn spend(mut self) -> u64 {
        self.is_spent = true;
        self.left
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if self.is_spent {
            return;
        }
        let need = &self.need;
        let mut shard = self.leases.lock(need);
        if let Some(entry) = shard.entries.get_mut(&need.place()).filter(|it| it.quota == need.quota) {
            entry.lease = entry.lease.saturating_add(need.cost).min(need.lease.max(entry.lease));
        }
    }
}

/// Counted among those that wait, until it is dropped.
pub(in crate::rate_limit) struct Waiting {
    leases: Arc<Leases>,
    need: Need,
    asking: watch::Receiver<()>,
    is_over: bool,
}

impl Waiting {
    /// Until whoever asks has an answer, or is gone.
    pub(in crate::rate_limit) async fn over(&mut self) {
        while self.asking.changed().await.is_ok() {}
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        let need = &self.need;
        if let Some(entry) = self.leases.lock(need).entries.get_mut(&need.place()) {
            entry.waiting = entry.waiting.saturating_sub(need.cost);
            // What was granted for it is no lease.
            entry.lease = entry.lease.min(need.lease.saturating_add(entry.waiting));
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Question {
    wanted: u32,
    owed: u32,
    back: u32,
}

/// Whoever asks. When it is dropped, those that wait go on.
pub(in crate::rate_limit) struct Asking {
    leases: Arc<Leases>,
    need: Need,
    question: Question,
    now_ns: u64,
    is_over: bool,
    /// Dropped after the entry is written.
    _done: watch::Sender<()>,
}

impl Asking {
    /// The question.
    pub(in crate::rate_limit) fn ask(&self, limit: Arc<str>, windows: Arc<[Shape]>) -> Ask {
        let Question { wanted, owed, back } = self.question;
        let (key, least) = (self.need.key.bits(), self.need.cost);
        Ask { limit, key, windows, wanted, least, owed, back }
    }

    /// What came of it, and what the store has granted in all. Without an answer: [`Taken::Full`].
    pub(in crate::rate_limit) fn finish(
        mut self,
        said: Result<Answer, Unanswered>,
        now_ns: u64,
    ) -> (Taken, u32) {
        let Ok(answer) = said else { return (Taken::Full, 0) };
        let (leases, need) = (Arc::clone(&self.leases), self.need);
        let mut shard = leases.lock(&need);
        self.is_over = true;
        let Some(entry) = shard.entries.get_mut(&need.place()) else { return (Taken::Full, 0) };
        entry.asking = None;
        (entry.quota, entry.said_ns) = (need.quota, now_ns);
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        entry.windows = answer.windows.iter().map(|(left, reset)| (*left, nanos(*reset))).collect();
        let granted = answer.granted.min(self.question.wanted);
        if let Some(more) = granted.checked_sub(need.cost) {
            entry.refusal = None;
            entry.lease = more.min(need.lease.saturating_add(entry.waiting));
            entry.until_ns = now_ns.saturating_add(HOLD_NS);
            let at_store = entry.windows.iter().map(|(left, _)| *left).min().unwrap_or_default();
            let left = at_store.saturating_add(u64::from(entry.lease));
            drop(shard);
            return (Taken::Held(Hold { leases, need, left, is_spent: false }), granted);
        }
        let until_ns = answer.wait.map_or(u64::MAX, |wait| now_ns.saturating_add(nanos(wait)));
        let soon_ns = now_ns.saturating_add(SOON_NS);
        let believed_ns = until_ns.min(now_ns.saturating_add(BELIEVE_NS)).max(soon_ns);
        entry.refusal = Some(Refusal { cost: need.cost, until_ns, believed_ns, is_young: answer.is_young });
        let taken = if answer.is_young { Taken::Young } else { Taken::Refused };
        drop(shard);
        (taken(answer.wait), 0)
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        let need = &self.need;
        if let Some(entry) = self.leases.lock(need).entries.get_mut(&need.place()) {
            entry.asking = None;
            // Perhaps it was charged. It is told again: too few may pass then, and never too many.
            if self.question.owed > 0 {
                entry.owe(self.question.owed, need, self.now_ns);
            }
        }
    }
}
