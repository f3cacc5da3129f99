//! What becomes of whoever arrives: a place, a wait for one, or a refusal.

use std::{pin::pin, sync::Arc, time::Duration};

use tokio::{sync::oneshot, time::Instant};

use super::{
    account::{Account, Adapting, Began, Held, Permit, Rule, Table, limited, wake},
    config::{BulkheadConfig, PRIORITIES},
    counts::{Counts, arrive, take},
    slots::{Limits, Told},
};
use crate::{
    clock::Now,
    enforce::Enforce,
    key::Key,
    observe::Observer,
    reject::{Dependency, Head, Reason, Rejection, Verdict},
    sync::atomic::Ordering::{AcqRel, Acquire},
};

/// One place in the queue; left when dropped. Passing the wake-up on is `Notified`'s own doing.
pub(super) struct Place<O: Observer> {
    pub(super) shared: Arc<Shared<O>>,
    pub(super) since: Now,
    pub(super) is_over: bool,
}

impl<O: Observer> Drop for Place<O> {
    fn drop(&mut self) {
        if !self.is_over {
            self.shared.account.counts.fetch_sub(1, AcqRel);
            self.shared.observer.cancelled();
        }
        self.shared.observer.waited(self.since.elapsed());
    }
}

/// One place in the queue of a slot; left when dropped.
pub(super) struct SlotPlace<O: Observer> {
    pub(super) shared: Arc<Shared<O>>,
    pub(super) table: Arc<Table>,
    pub(super) slot: u64,
    pub(super) turn: u64,
    pub(super) since: Now,
    pub(super) is_over: bool,
}

impl<O: Observer> SlotPlace<O> {
    /// Waits no longer: the place at work, if that was given in the meantime.
    fn end(&mut self) -> Option<Permit> {
        self.is_over = true;
        let still_waits = self.table.lock().slots.give_up(self.slot, self.turn);
        let held = || Held::Slot { table: Arc::clone(&self.table), slot: self.slot };
        (!still_waits).then(|| Permit(held()))
    }
}

impl<O: Observer> Drop for SlotPlace<O> {
    fn drop(&mut self) {
        if !self.is_over {
            drop(self.end());
            self.shared.observer.cancelled();
        }
        self.shared.observer.waited(self.since.elapsed());
    }
}

pub(super) type PriorityFn = dyn Fn(&Head<'_>) -> u8 + Send + Sync;

type KeyFn = dyn Fn(&Head<'_>) -> Option<Key> + Send + Sync;
type TierFn = dyn Fn(&Head<'_>) -> usize + Send + Sync;

/// Which account a request belongs to.
#[derive(Clone)]
pub(super) enum By {
    Key(Arc<KeyFn>),
    Tier(Arc<TierFn>),
}

impl By {
    pub(super) fn limits(&self, config: &BulkheadConfig) -> Limits {
        match self {
            Self::Key(_) => Limits::by_key(config.max, config.total, config.queue, config.partitions),
            Self::Tier(_) => Limits::by_tier(config.tiers.shares(), config.max, config.queue),
        }
    }

    /// Asked outside of the lock: a function of the caller's may look at the layer.
    fn number(&self, head: &Head<'_>) -> u64 {
        match self {
            Self::Key(key) => key(head).unwrap_or_else(|| Key::of("naka: no key")).bits(),
            Self::Tier(tier) => u64::try_from(tier(head)).unwrap_or(u64::MAX),
        }
    }
}

/// Several accounts, and which of them a request belongs to.
#[derive(Clone)]
pub(super) struct Split {
    pub(super) by: By,
    pub(super) table: Arc<Table>,
}

/// One configuration over an account.
pub(super) struct Shared<O> {
    pub(super) account: Arc<Account>,
    pub(super) generation: u32,
    pub(super) name: Option<Arc<str>>,
    pub(super) config: BulkheadConfig,
    pub(super) priority: Option<Arc<PriorityFn>>,
    pub(super) split: Option<Split>,
    pub(super) observer: O,
}

impl<O: Clone> Clone for Shared<O> {
    fn clone(&self) -> Self {
        Self {
            account: Arc::clone(&self.account),
            generation: self.generation,
            name: self.name.clone(),
            config: self.config,
            priority: self.priority.clone(),
            split: self.split.clone(),
            observer: self.observer.clone(),
        }
    }
}

pub(super) enum Arrival<O: Observer> {
    Work(Permit),
    Wait(Waits<O>),
    Reject(Rejection),
}

pub(super) enum Waits<O: Observer> {
    Here(Place<O>),
    InSlot(SlotPlace<O>, oneshot::Receiver<()>),
}

impl<O> Shared<O> {
    pub(super) fn is_on(&self) -> bool {
        self.config.enforce != Enforce::Never
    }

    pub(super) fn rule(&self) -> Rule {
        Rule { generation: self.generation, max: self.config.max.max(1) }
    }

    pub(super) fn counts(&self) -> Counts {
        let Some(split) = &self.split else { return self.account.counts() };
        let (working, waiting) = split.table.lock().slots.counts();
        Counts { working, waiting }
    }

    /// What decides about a request that comes here now.
    pub(super) fn in_force(&self) -> BulkheadConfig {
        let (rule, known) = (self.rule(), self.account.rule());
        let max = if rule > known {
            // Its first request would be followed: what comes then.
            let next = Adapting::next(self.account.adapting().as_ref(), &self.config);
            limited(rule.max, next.as_ref().map_or(0, Adapting::limit))
        } else {
            limited(known.max, self.account.limit())
        };
        BulkheadConfig { max, ..self.config }
    }

    /// How many percent of the places it may use.
    fn percent(&self, head: &Head<'_>) -> u8 {
        let Some(priority) = &self.priority else { return 100 };
        self.config.priorities[usize::from(priority(head)).min(PRIORITIES - 1)]
    }

    /// What `arrive` would decide, and what there is to say of it.
    pub(super) fn look(&self, head: &Head<'_>, is_expired: bool) -> (Verdict, String) {
        if is_expired {
            return (Verdict::Reject(Rejection::new(Reason::DeadlineExpired)), String::new());
        }
        let percent = self.percent(head);
        let Some(Split { by, table }) = &self.split else {
            let (config, counts) = (self.in_force(), self.account.counts());
            let free = config.max.saturating_sub(counts.working);
            let say = format!("{free} of {} places free", config.max);
            return (arrive(&config, percent, counts).0, say);
        };
        let number = by.number(head);
        let followed = table.lock();
        let is_newer = self.generation > followed.generation;
        let limits = if is_newer { by.limits(&self.config) } else { *followed.slots.limits() };
        let told = followed.slots.ask(&limits, limits.slot(number), percent);
        let say = format!("{} at work in {} partitions", followed.slots.counts().0, followed.slots.len());
        (told.verdict(&self.config), say)
    }
}

impl Told {
    fn verdict(self, config: &BulkheadConfig) -> Verdict {
        match self {
            Self::Work => Verdict::Admit(()),
            Self::Wait => Verdict::Depends(Dependency::Queue { max_wait: config.max_wait }),
            Self::Refuse(reason) => Verdict::Reject(reason.into()),
        }
    }
}

impl<O: Observer> Shared<O> {
    pub(super) fn arrive(self: &Arc<Self>, head: &Head<'_>, deadline: Option<Instant>) -> Arrival<O> {
        let is_expired = is_over(deadline);
        if let Some(split) = &self.split {
            return self.arrive_in_slot(split, head, is_expired);
        }
        let account = &self.account;
        account.follow(self.rule(), &self.config);
        account.pass();
        if is_expired {
            return self.turned_away(Rejection::new(Reason::DeadlineExpired), || self.over());
        }
        let (config, percent) = (self.in_force(), self.percent(head));
        let mut seen = account.counts.load(Acquire);
        let (verdict, next) = loop {
            let (verdict, next) = match arrive(&config, percent, Counts::unpack(seen)) {
                (Verdict::Depends(_), _) if config.enforce == Enforce::Observe => return self.beyond(),
                decided => decided,
            };
            match account.counts.compare_exchange_weak(seen, next.pack(), AcqRel, Acquire) {
                Ok(_) => break (verdict, next),
                Err(now) => seen = now,
            }
        };
        match verdict {
            Verdict::Admit(()) => {
                self.observer.admitted();
                Arrival::Work(self.permit(next.working))
            }
            Verdict::Depends(_) => {
                self.observer.queued();
                let (shared, since) = (Arc::clone(self), Now::read());
                Arrival::Wait(Waits::Here(Place { shared, since, is_over: false }))
            }
            Verdict::Reject(rejection) => self.turned_away(rejection, || self.over()),
        }
    }

    fn arrive_in_slot(self: &Arc<Self>, split: &Split, head: &Head<'_>, is_expired: bool) -> Arrival<O> {
        let Split { by, table } = split;
        let (percent, number) = (self.percent(head), by.number(head));
        let mut followed = table.lock();
        let admitted = if self.generation > followed.generation {
            followed.generation = self.generation;
            followed.slots.follow(by.limits(&self.config))
        } else {
            Vec::new()
        };
        let limits = *followed.slots.limits();
        let slot = limits.slot(number);
        let told = if is_expired {
            Told::Refuse(Reason::DeadlineExpired)
        } else {
            followed.slots.ask(&limits, slot, percent)
        };
        let observes = self.config.enforce == Enforce::Observe;
        let arrival = match told {
            Told::Wait if !observes => {
                let (who, turn) = oneshot::channel();
                let number = followed.slots.wait(slot, who);
                Some(Ok((number, turn)))
            }
            Told::Work | Told::Wait => {
                followed.slots.work(slot);
                Some(Err(()))
            }
            Told::Refuse(_) => None,
        };
        drop(followed);
        wake(admitted);
        let table = || Arc::clone(table);
        match (arrival, told) {
            (Some(Ok((number, turn))), _) => {
                self.observer.queued();
                let (shared, since) = (Arc::clone(self), Now::read());
                let place = SlotPlace { shared, table: table(), slot, turn: number, since, is_over: false };
                Arrival::Wait(Waits::InSlot(place, turn))
            }
            (None, Told::Refuse(reason)) => {
                self.turned_away(reason.into(), || Self::over_in_slot(&table(), slot))
            }
            _ => {
                self.observer.admitted();
                Arrival::Work(Permit(Held::Slot { table: table(), slot }))
            }
        }
    }

    pub(super) async fn wait(
        self: Arc<Self>,
        mut place: Place<O>,
        deadline: Option<Instant>,
    ) -> Result<Permit, Rejection> {
        let account = &self.account;
        let waiting = async {
            loop {
                let mut freed = pin!(Arc::clone(&account.freed).notified_owned());
                freed.as_mut().enable(); // Before looking, or a place freed in between is missed.
                if let Some(working) = self.take() {
                    return self.permit(working);
                }
                freed.await;
            }
        };
        let result = tokio::time::timeout(self.longest_wait(deadline), waiting).await;
        place.is_over = true;
        if let Ok(permit) = result {
            return self.in_time(permit, deadline); // `take` counted it out of the queue.
        }
        account.counts.fetch_sub(1, AcqRel);
        self.refuse(Self::too_late(deadline), || self.over())
    }

    pub(super) async fn wait_in_slot(
        self: Arc<Self>,
        mut place: SlotPlace<O>,
        turn: oneshot::Receiver<()>,
        deadline: Option<Instant>,
    ) -> Result<Permit, Rejection> {
        let _ = tokio::time::timeout(self.longest_wait(deadline), turn).await;
        match place.end() {
            Some(permit) => self.in_time(permit, deadline),
            None => self.refuse(Self::too_late(deadline), || Self::over_in_slot(&place.table, place.slot)),
        }
    }

    fn longest_wait(&self, deadline: Option<Instant>) -> Duration {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Now::read().instant()));
        self.config.max_wait.min(left.unwrap_or(Duration::MAX))
    }

    /// A place that came when the time was over is given back.
    fn in_time(&self, permit: Permit, deadline: Option<Instant>) -> Result<Permit, Rejection> {
        if is_over(deadline) {
            return self.refuse(Rejection::new(Reason::DeadlineExpired), || permit);
        }
        self.observer.admitted();
        Ok(permit)
    }

    fn too_late(deadline: Option<Instant>) -> Rejection {
        let is_expired = is_over(deadline);
        Rejection::new(if is_expired { Reason::DeadlineExpired } else { Reason::BulkheadTimeout })
    }

    /// How many are at work then.
    fn take(&self) -> Option<u32> {
        let max = self.in_force().max;
        let next = |word| take(max, Counts::unpack(word)).map(Counts::pack);
        let before = self.account.counts.fetch_update(AcqRel, Acquire, next).ok()?;
        Some(Counts::unpack(before).working + 1)
    }

    fn turned_away(&self, rejection: Rejection, over: impl FnOnce() -> Permit) -> Arrival<O> {
        match self.refuse(rejection, over) {
            Err(rejection) => Arrival::Reject(rejection),
            Ok(permit) => Arrival::Work(permit),
        }
    }

    /// Refuses, or lets pass what is not enforced. Every refusal goes through here.
    fn refuse(&self, rejection: Rejection, over: impl FnOnce() -> Permit) -> Result<Permit, Rejection> {
        let rejection = rejection.by(self.name.clone());
        if self.account.rejections.count(self.config.enforce) {
            self.observer.rejected(&rejection);
            return Err(rejection);
        }
        self.observer.would_reject(&rejection);
        Ok(over())
    }

    /// Under `observe` nobody waits: counted at work, beyond the maximum.
    fn beyond(&self) -> Arrival<O> {
        self.observer.admitted();
        Arrival::Work(self.over())
    }

    fn over(&self) -> Permit {
        let before = self.account.counts.fetch_add(1 << 32, AcqRel);
        self.permit(Counts::unpack(before).working + 1)
    }

    fn over_in_slot(table: &Arc<Table>, slot: u64) -> Permit {
        let is_counted = table.lock().slots.work(slot);
        Permit(if is_counted { Held::Slot { table: Arc::clone(table), slot } } else { Held::Nothing })
    }

    /// One who begins now, as one of so many.
    fn permit(&self, in_flight: u32) -> Permit {
        let began = self.config.adaptive.map(|_| Box::new(Began { now: Now::read(), in_flight }));
        Permit(Held::Place { account: Arc::clone(&self.account), began })
    }
}

fn is_over(deadline: Option<Instant>) -> bool {
    deadline.is_some_and(|deadline| deadline <= Now::read().instant())
}
