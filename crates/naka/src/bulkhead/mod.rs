//! Bulkhead: so many requests at work at once, so many waiting, and the rest refused at once.
//!
//! # Decision
//! 1. The request's [deadline](crate::context::Deadline), if it has one, is over: `503` with
//!    [`Reason::DeadlineExpired`](crate::reject::Reason::DeadlineExpired).
//! 2. A place at work is free and nobody waits: take it.
//! 3. Its [priority](BulkheadLayer::priority_by) may use only a part of the places, and that part is in
//!    use: `503` with [`Reason::Shed`](crate::reject::Reason::Shed). The least important go first, as in DAGOR (Zhou et al.,
//!    "Overload Control for Scaling `WeChat` Microservices", 2018) and Netflix's prioritized load shedding
//!    (2020); here by shares of the places and not by a threshold that moves. Only who may use all waits.
//! 4. Else a place in the queue is free: wait for it, at most
//!    [`max_wait`](BulkheadConfig::max_wait) and not beyond the deadline. The queue is served in order of
//!    arrival and nobody overtakes.
//! 5. Else `503` with [`Reason::BulkheadFull`](crate::reject::Reason::BulkheadFull); after a wait that was too long, `503` with
//!    [`Reason::BulkheadTimeout`](crate::reject::Reason::BulkheadTimeout) or [`Reason::DeadlineExpired`](crate::reject::Reason::DeadlineExpired).
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
//! [`Reason::PartitionsFull`](crate::reject::Reason::PartitionsFull). One layer put around several routes is one bulkhead for all of them.
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
//! atomic word, and only waiting allocates; an adaptive limit locks and allocates once for each answer,
//! and while a probe lowers it, it locks for each that comes or goes, too: any of them may see that its time is over. Partitions and
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
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll, ready},
    time::Duration,
};

use http::{Request, Response, request::Parts};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_service::Service;

mod account;
mod adaptive;
mod arrival;
mod config;
mod counts;
#[cfg(all(test, naka_loom))]
mod models;
mod slots;

pub use account::Permit;
use account::{Account, Followed, Table};
pub use adaptive::{Adaptive, Limiter, Sample};
use arrival::{Arrival, By, PriorityFn, Shared, Split, Waits};
pub use config::{BulkheadConfig, PRIORITIES};
pub use counts::{Counts, arrive, take};
use slots::Slots;
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
    reject::{Dependency, Head, Rejection, Verdict},
    sync::Mutex,
    trace::note,
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

    /// Whether it is a layer that is not there.
    pub const fn is_off(&self) -> bool {
        self.shared.is_none()
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
                note(request.extensions(), "queued", shared.name.as_ref(), None);
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
