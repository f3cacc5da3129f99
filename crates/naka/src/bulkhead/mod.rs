//! Bulkhead: so many requests at work at once, so many waiting, and the rest refused at once.
//!
//! # Decision
//! 1. The request's [deadline](crate::context::Deadline), if it has one, is over: `503` with
//!    [`Reason::DeadlineExpired`].
//! 2. A place at work is free and nobody waits: take it.
//! 3. Its [priority](BulkheadLayer::priority_by) may use only a part of the places, and that part is in
//!    use: `503` with [`Reason::Shed`]. The least important go first, as in DAGOR (Zhou et al.,
//!    "Overload Control for Scaling `WeChat` Microservices", 2018) and Netflix's prioritized load shedding
//!    (2020); here by shares of the places and not by a threshold that moves. Only who may use all waits.
//! 4. Else a place in the queue is free: wait for it, at most
//!    [`max_wait`](BulkheadConfig::max_wait) and not beyond the deadline. The queue is served in order of
//!    arrival and nobody overtakes.
//! 5. Else `503` with [`Reason::BulkheadFull`]; after a wait that was too long, `503` with
//!    [`Reason::BulkheadTimeout`] or [`Reason::DeadlineExpired`].
//!
//! A place is kept until the **response body** ends or is dropped, so a slow download counts as
//! work. A request whose caller gives up leaves the queue, or its place, at once.
//!
//! It differs from `tower::limit::ConcurrencyLimit` in all of that: a place is taken in `call` and
//! not in `poll_ready`, the queue has a bound and an end, and a layer's services share one account.
//!
//! # Partitions
//! [`partitioned`](BulkheadLayer::partitioned): each key has an account of its own with `max` and `queue`,
//! so one caller, tenant or upstream cannot take the places of others; and if there is a
//! [`total`](BulkheadConfig::total), all of them together have no more than that. Those without a key share
//! one. Only keys with somebody at work or waiting are known; above
//! [`partitions`](BulkheadConfig::partitions) of them, new keys get `503` with
//! [`Reason::PartitionsFull`]. One layer put around several routes is one bulkhead for all of them.
//!
//! [`tiered`](BulkheadLayer::tiered): `max` is for all, and each of up to eight tiers has a [`Share`]. A
//! tier below its reserve is admitted at once. Above that it borrows, up to its own maximum, what is free
//! and not kept: a place is free to borrow while all at work and all unused reserves of others together
//! leave one. So the sum is never above `max`, and no tier is ever refused a place of its reserve. Where the
//! reserves are all there is, nobody borrows; what they are above `max` is cut from the last ones.
//!
//! # Adaptive limits
//! With [`adaptive`](BulkheadConfig::adaptive) a limit follows what is behind, between its bounds: see
//! [`Adaptive`]. By default it is only computed ([`adaptive_limit`](BulkheadLayer::adaptive_limit)); with
//! [`adapt`](BulkheadConfig::adapt) at [`Enforce::Always`] it is in force where it is below `max`. Latency
//! is that of the response *head*, from the moment the request went to work: how fast a client takes a
//! body says nothing of the service. An error, and a response of 429, 503 or 504, is a sample that was
//! dropped. What was given up, and what another layer of ours refused for its own reasons, is no sample.
//! Partitions do not adapt: an adaptive bulkhead is put inside of a partitioned one.
//!
//! # Units and limits
//! `max`: requests at work, at least 1. `queue`: requests waiting; default 0. `max_wait`: default
//! 200 ms. Priorities: percent of the places, rounded down, at least one place. Both counts are in one
//! atomic word, and only waiting allocates; an adaptive limit locks and allocates once for each answer. Partitions and
//! tiers stand behind one lock, in a table that holds those with anybody at work or waiting: at most
//! 10,000 by default, with at most `queue` waiting in each. A place that comes free is given in the order
//! of arrival over all of them, and no more are passed over (their own account is full) than are at work.
//!
//! # State
//! All services made from one layer, and their clones, share one account, and so do layers made by
//! [`reconfigured`](BulkheadLayer::reconfigured): whoever is at work stays counted. The first
//! request under a new configuration puts its maxima in force for all; a lower one drains, it does
//! not cut off; a higher one wakes those who wait. Those who wait keep their order; only one who was
//! woken for a place that is gone before its turn (by a lower `max`, or to a request that `enforce`
//! let pass) goes on waiting behind the others. An adaptive limit is kept, within its new bounds.
//!
//! # Errors and panics
//! Adds no error: `S::Error` passes unchanged. Never panics, unless a function of the caller's does. Waiting needs tokio's timer.
//!
//! # Example
//! ```
//! # use http::{Request, Response};
//! # use http_body_util::Empty;
//! # use tower::{Layer, ServiceExt};
//! use naka::bulkhead::{BulkheadConfig, BulkheadLayer};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! # let upstream = tower::service_fn(|_: Request<()>| async { Ok::<_, ()>(Response::new(Empty::<bytes::Bytes>::new())) });
//! let bulkhead = BulkheadLayer::new(BulkheadConfig::new(1));
//! let service = bulkhead.layer(upstream);
//!
//! let first = service.clone().oneshot(Request::new(())).await.unwrap();
//! assert_eq!(service.clone().oneshot(Request::new(())).await.unwrap().status(), 503);
//! drop(first); // Its body is still at work until now.
//! assert_eq!(service.oneshot(Request::new(())).await.unwrap().status(), 200);
//! # }
//! ```
//!
//! The tenants of a service, each with two places of eight:
//! ```
//! use naka::{bulkhead::{BulkheadConfig, BulkheadLayer}, identity::Identity, key::Key, reject::Head};
//!
//! let by_subject = |head: &Head<'_>| Identity::of(head.extensions)?.subject.as_ref().map(Key::of);
//! let layer = BulkheadLayer::partitioned(BulkheadConfig::new(2).total(8), by_subject);
//! assert_eq!(layer.partitions(), 0);
//! ```

use std::{
    fmt,
    future::Future,
    mem,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex,
        atomic::Ordering::{AcqRel, Acquire, Relaxed, SeqCst},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use http::{Request, Response, request::Parts};
use http_body::Body;
use pin_project_lite::pin_project;
use tokio::{sync::oneshot, time::Instant};
use tower_service::Service;

mod account;
mod adaptive;
mod config;
mod counts;
mod slots;

pub use account::Permit;
use account::{Account, Adapting, Began, Followed, Held, Rule, Table, limited, wake};
pub use adaptive::{Adaptive, Limiter, Sample};
pub use config::{BulkheadConfig, PRIORITIES};
pub use counts::{Counts, arrive, take};
use slots::{Limits, Slots, Told};
pub use slots::{MAX_TIERS, Share, Tiers};

use crate::{
    clock::Now,
    context::Deadline,
    enforce::Enforce,
    explain::{Explain, Finding},
    guard::Guarded,
    key::Key,
    layered::layered,
    observe::Observer,
    reject::{Dependency, Head, Reason, Rejection, Verdict},
};

/// Applies [`Bulkhead`]; see the [module docs](self) for an example.
#[must_use]
pub struct BulkheadLayer<O = ()> {
    shared: Option<Arc<Shared<O>>>,
}

impl BulkheadLayer {
    /// A new account.
    pub fn new(config: BulkheadConfig) -> Self {
        Self::observed(config, ())
    }

    /// An account for each key.
    pub fn partitioned(
        config: BulkheadConfig,
        key: impl Fn(&Head<'_>) -> Option<Key> + Send + Sync + 'static,
    ) -> Self {
        Self::new(config).partitioned_by(key)
    }

    /// An account for each tier, by its number; one that does not exist is the last.
    ///
    /// A tier must be given and not asked for: decide by what has been verified, which is the
    /// [`Identity`](crate::identity::Identity), and never by a header of the request.
    pub fn tiered(config: BulkheadConfig, tier: impl Fn(&Head<'_>) -> usize + Send + Sync + 'static) -> Self {
        Self::new(config).tiered_by(tier)
    }
}

impl<O: Observer> BulkheadLayer<O> {
    /// As [`new`](BulkheadLayer::new), and tells `observer` what it does.
    pub fn observed(config: BulkheadConfig, observer: O) -> Self {
        let account = Arc::new(Account::default());
        Self::of(Shared { account, generation: 1, name: None, config, priority: None, split: None, observer })
    }

    /// A new account for each key, in place of what there was.
    pub fn partitioned_by(self, key: impl Fn(&Head<'_>) -> Option<Key> + Send + Sync + 'static) -> Self
    where
        O: Clone,
    {
        self.split(&By::Key(Arc::new(key)))
    }

    /// A new account for each tier, in place of what there was.
    pub fn tiered_by(self, tier: impl Fn(&Head<'_>) -> usize + Send + Sync + 'static) -> Self
    where
        O: Clone,
    {
        self.split(&By::Tier(Arc::new(tier)))
    }

    /// The priority of a request, for [`BulkheadConfig::priorities`]: 0 is refused first, 3 last.
    pub fn priority_by(self, priority: impl Fn(&Head<'_>) -> u8 + Send + Sync + 'static) -> Self
    where
        O: Clone,
    {
        let priority: Arc<PriorityFn> = Arc::new(priority);
        self.map(|old| Shared { priority: Some(Arc::clone(&priority)), ..old.clone() })
    }

    /// A layer that is not there, and has no state.
    pub const fn off() -> Self {
        Self { shared: None }
    }

    /// Names the policy: in its rejections, and in what it explains.
    pub fn named(self, name: &Arc<str>) -> Self
    where
        O: Clone,
    {
        self.map(|old| Shared { name: Some(Arc::clone(name)), ..old.clone() })
    }

    /// The same account under another configuration, which takes effect with its first request.
    pub fn reconfigured(&self, config: &BulkheadConfig) -> Self
    where
        O: Clone,
    {
        self.map(|old| Shared {
            generation: old.account.generations.fetch_add(1, Relaxed) + 2,
            config: *config,
            ..old.clone()
        })
    }

    /// Who is at work and who waits, now.
    pub fn counts(&self) -> Counts {
        self.shared.as_ref().map_or_else(Counts::default, |shared| shared.counts())
    }

    /// Partitions, or tiers, with anybody at work or waiting.
    pub fn partitions(&self) -> usize {
        let split = self.shared.as_ref().and_then(|shared| shared.split.as_ref());
        split.map_or(0, |split| split.table.lock().slots.len())
    }

    /// What the adaptive limit is now, in force or not; `None` if there is none.
    pub fn adaptive_limit(&self) -> Option<u32> {
        let shared = self.shared.as_ref()?;
        let how = shared.config.adaptive?;
        let known = shared.account.adapting().as_ref().map(|adapting| adapting.limiter);
        Some(known.map_or_else(|| Limiter::new(how), |limiter| limiter.reconfigured(how)).limit())
    }

    fn split(&self, by: &By) -> Self
    where
        O: Clone,
    {
        self.map(|old| {
            let slots = Slots::new(by.limits(&old.config));
            let table = Arc::new(Table(Mutex::new(Followed { generation: 0, slots })));
            Shared { split: Some(Split { by: by.clone(), table }), ..old.clone() }
        })
    }

    fn of(shared: Shared<O>) -> Self {
        Self { shared: Some(Arc::new(shared)) }
    }

    fn map(&self, change: impl Fn(&Shared<O>) -> Shared<O>) -> Self {
        self.shared.as_deref().map_or_else(Self::off, |shared| Self::of(change(shared)))
    }
}

impl<O> fmt::Debug for BulkheadLayer<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = self.shared.as_ref().map(|shared| (&shared.name, shared.config, shared.counts()));
        f.debug_tuple("BulkheadLayer").field(&known).finish()
    }
}

layered! {
    /// Keeps the number of requests at work below a maximum; see the [module docs](self).
    BulkheadLayer { shared } => Bulkhead
}

impl<O: Observer> Explain for BulkheadLayer<O> {
    fn kind(&self) -> &'static str {
        "bulkhead"
    }

    fn name(&self) -> Option<&str> {
        self.shared.as_ref()?.name.as_deref()
    }

    fn explain(&self, now: Now, head: &mut Parts) -> Finding {
        let Some(shared) = self.shared.as_ref().filter(|shared| shared.is_on()) else {
            return Finding::Off;
        };
        let head = Head::from(&*head);
        let deadline = Deadline::of(head.extensions);
        let (verdict, say) = shared.look(&head, deadline.is_some_and(|deadline| deadline <= now.instant()));
        match verdict {
            Verdict::Admit(()) => Finding::Admit(say),
            Verdict::Depends(_) if shared.config.enforce == Enforce::Observe => Finding::Admit(say),
            Verdict::Depends(_) => {
                let left = deadline.map(|deadline| deadline.saturating_duration_since(now.instant()));
                let max_wait = shared.config.max_wait.min(left.unwrap_or(Duration::MAX));
                Finding::WouldAsk(Dependency::Queue { max_wait })
            }
            Verdict::Reject(rejection) => {
                let rejection = rejection.by(shared.name.clone());
                if shared.account.rejections.peek(shared.config.enforce) {
                    Finding::Reject(rejection)
                } else {
                    Finding::Observe(rejection)
                }
            }
        }
    }
}

impl<S, O, B, R> Service<Request<B>> for Bulkhead<S, O>
where
    S: Service<Request<B>, Response = Response<R>> + Clone,
    O: Observer,
    R: Body + Default,
{
    type Response = Response<Guarded<R, Permit>>;
    type Error = S::Error;
    type Future = BulkheadFuture<S, S::Future, B>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let Some(shared) = self.layer.shared.as_ref().filter(|shared| shared.is_on()) else {
            return BulkheadFuture::Work { future: self.inner.call(request), permit: None };
        };
        let deadline = Deadline::of(request.extensions());
        match shared.arrive(&Head::from(&request), deadline) {
            Arrival::Work(permit) => {
                BulkheadFuture::Work { future: self.inner.call(request), permit: Some(permit) }
            }
            Arrival::Reject(rejection) => BulkheadFuture::Reject { rejection: Some(rejection) },
            Arrival::Wait(place) => {
                let waiting: Waiting = match place {
                    Waits::Here(place) => Box::pin(Arc::clone(shared).wait(place, deadline)),
                    Waits::InSlot(place, turn) => {
                        Box::pin(Arc::clone(shared).wait_in_slot(place, turn, deadline))
                    }
                };
                // The instance that was polled ready goes with the request; its clone stays here.
                let clone = self.inner.clone();
                let inner = mem::replace(&mut self.inner, clone);
                BulkheadFuture::Wait { waiting, inner, request: Some(request) }
            }
        }
    }
}

type Waiting = Pin<Box<dyn Future<Output = Result<Permit, Rejection>> + Send>>;

pin_project! {
    /// The future of [`Bulkhead`].
    #[project = Projection]
    pub enum BulkheadFuture<S, F, B> {
        /// For a place. Only this path boxes and clones.
        #[doc(hidden)]
        Wait { waiting: Waiting, inner: S, request: Option<Request<B>> },
        /// At work.
        #[doc(hidden)]
        Work { #[pin] future: F, permit: Option<Permit> },
        /// Refused.
        #[doc(hidden)]
        Reject { rejection: Option<Rejection> },
    }
}

impl<S, B, R> Future for BulkheadFuture<S, S::Future, B>
where
    S: Service<Request<B>, Response = Response<R>>,
    R: Body + Default,
{
    type Output = Result<Response<Guarded<R, Permit>>, S::Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            let next = match self.as_mut().project() {
                Projection::Wait { waiting, inner, request } => match ready!(waiting.as_mut().poll(cx)) {
                    Ok(permit) => {
                        let request = request.take().expect("a request waits once");
                        Self::Work { future: inner.call(request), permit: Some(permit) }
                    }
                    Err(rejection) => Self::Reject { rejection: Some(rejection) },
                },
                Projection::Work { future, permit } => {
                    let result = ready!(future.poll(cx));
                    if let Some(permit) = permit {
                        permit.answered(&result);
                    }
                    let response = result?;
                    return Poll::Ready(Ok(response.map(|body| Guarded::new(body, permit.take()))));
                }
                Projection::Reject { rejection } => {
                    let rejection = rejection.take().expect("a future is not polled after it is ready");
                    return Poll::Ready(Ok(rejection.into_response()));
                }
            };
            self.set(next);
        }
    }
}

impl<S, F, B> fmt::Debug for BulkheadFuture<S, F, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BulkheadFuture").finish_non_exhaustive()
    }
}

/// One place in the queue; left when dropped. Passing the wake-up on is `Notified`'s own doing.
struct Place<O: Observer> {
    shared: Arc<Shared<O>>,
    is_over: bool,
}

impl<O: Observer> Drop for Place<O> {
    fn drop(&mut self) {
        if !self.is_over {
            self.shared.account.counts.fetch_sub(1, AcqRel);
            self.shared.observer.cancelled();
        }
    }
}

/// One place in the queue of a slot; left when dropped.
struct SlotPlace<O: Observer> {
    shared: Arc<Shared<O>>,
    table: Arc<Table>,
    slot: u64,
    turn: u64,
    is_over: bool,
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
    }
}

type PriorityFn = dyn Fn(&Head<'_>) -> u8 + Send + Sync;

type KeyFn = dyn Fn(&Head<'_>) -> Option<Key> + Send + Sync;
type TierFn = dyn Fn(&Head<'_>) -> usize + Send + Sync;

/// Which account a request belongs to.
#[derive(Clone)]
enum By {
    Key(Arc<KeyFn>),
    Tier(Arc<TierFn>),
}

impl By {
    fn limits(&self, config: &BulkheadConfig) -> Limits {
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
struct Split {
    by: By,
    table: Arc<Table>,
}

/// One configuration over an account.
struct Shared<O> {
    account: Arc<Account>,
    generation: u32,
    name: Option<Arc<str>>,
    config: BulkheadConfig,
    priority: Option<Arc<PriorityFn>>,
    split: Option<Split>,
    observer: O,
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

enum Arrival<O: Observer> {
    Work(Permit),
    Wait(Waits<O>),
    Reject(Rejection),
}

enum Waits<O: Observer> {
    Here(Place<O>),
    InSlot(SlotPlace<O>, oneshot::Receiver<()>),
}

impl<O> Shared<O> {
    fn is_on(&self) -> bool {
        self.config.enforce != Enforce::Never
    }

    fn rule(&self) -> Rule {
        Rule { generation: self.generation, max: self.config.max.max(1) }
    }

    fn counts(&self) -> Counts {
        let Some(split) = &self.split else { return self.account.counts() };
        let (working, waiting) = split.table.lock().slots.counts();
        Counts { working, waiting }
    }

    /// What decides about a request that comes here now.
    fn in_force(&self) -> BulkheadConfig {
        let (rule, known) = (self.rule(), self.account.rule());
        let max = if rule > known {
            // Its first request would be followed: what comes then.
            let next = Adapting::next(self.account.adapting().as_ref(), &self.config);
            limited(rule.max, next.as_ref().map_or(0, Adapting::limit))
        } else {
            limited(known.max, self.account.limit.load(SeqCst))
        };
        BulkheadConfig { max, ..self.config }
    }

    /// How many percent of the places it may use.
    fn percent(&self, head: &Head<'_>) -> u8 {
        let Some(priority) = &self.priority else { return 100 };
        self.config.priorities[usize::from(priority(head)).min(PRIORITIES - 1)]
    }

    /// What `arrive` would decide, and what there is to say of it.
    fn look(&self, head: &Head<'_>, is_expired: bool) -> (Verdict, String) {
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
    fn arrive(self: &Arc<Self>, head: &Head<'_>, deadline: Option<Instant>) -> Arrival<O> {
        let is_expired = is_over(deadline);
        if let Some(split) = &self.split {
            return self.arrive_in_slot(split, head, is_expired);
        }
        let account = &self.account;
        account.follow(self.rule(), &self.config);
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
                Arrival::Wait(Waits::Here(Place { shared: Arc::clone(self), is_over: false }))
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
                let shared = Arc::clone(self);
                let place = SlotPlace { shared, table: table(), slot, turn: number, is_over: false };
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

    async fn wait(
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

    async fn wait_in_slot(
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
