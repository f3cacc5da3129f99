//! Bulkhead: so many requests at work at once, so many waiting, and the rest refused at once.
//!
//! # Decision
//! 1. A place at work is free and nobody waits: take it.
//! 2. Else a place in the queue is free: wait for it, at most
//!    [`max_wait`](BulkheadConfig::max_wait). The queue is served in order of arrival and nobody
//!    overtakes.
//! 3. Else `503` with [`Reason::BulkheadFull`]; after a wait that was too long, `503` with
//!    [`Reason::BulkheadTimeout`].
//!
//! A place is kept until the **response body** ends or is dropped, so a slow download counts as
//! work. A request whose caller gives up leaves the queue, or its place, at once.
//!
//! It differs from `tower::limit::ConcurrencyLimit` in all of that: a place is taken in `call` and
//! not in `poll_ready`, the queue has a bound and an end, and a layer's services share one account.
//!
//! # Units and limits
//! `max`: requests at work, at least 1. `queue`: requests waiting; default 0. `max_wait`: default
//! 200 ms. Both counts are in one atomic word; only waiting allocates.
//!
//! # State
//! All services made from one layer, and their clones, share one account, and so do layers made by
//! [`reconfigured`](BulkheadLayer::reconfigured): whoever is at work stays counted. The first
//! request under a new configuration puts its `max` in force for all; a lower one drains, it does
//! not cut off; a higher one wakes those who wait. Those who wait keep their order; only one who was
//! woken for a place that is gone before its turn (by a lower `max`, or to a request that `enforce`
//! let pass) goes on waiting behind the others.
//!
//! # Errors and panics
//! Adds no error: `S::Error` passes unchanged. Never panics. Waiting needs tokio's timer.
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

use std::{
    cmp, fmt,
    future::Future,
    mem,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{
            AtomicU32, AtomicU64,
            Ordering::{AcqRel, Acquire, Relaxed, SeqCst},
        },
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use http::{Request, Response, request::Parts};
use http_body::Body;
use pin_project_lite::pin_project;
use tokio::sync::Notify;
use tower_service::Service;

mod counts;

pub use counts::{Counts, arrive, take};

use crate::{
    clock::Now,
    enforce::{Enforce, Rejections},
    explain::{Explain, Finding},
    guard::{Guard, Guarded},
    layered::layered,
    observe::Observer,
    reject::{Reason, Rejection, Verdict},
};

/// What a [`BulkheadLayer`] does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BulkheadConfig {
    /// Requests at work at once; 0 counts as 1.
    pub max: u32,
    /// Requests that may wait; default 0.
    pub queue: u32,
    /// The longest wait; default 200 ms.
    pub max_wait: Duration,
    /// How far it takes effect; default [`Enforce::Always`]. Under anything else more than `max`
    /// can be at work, and nobody waits under [`Enforce::Observe`].
    pub enforce: Enforce,
}

impl BulkheadConfig {
    /// So many at work, nobody waiting.
    pub const fn new(max: u32) -> Self {
        let max = if max == 0 { 1 } else { max };
        let max_wait = Duration::from_millis(200);
        Self { max, queue: 0, max_wait, enforce: Enforce::Always }
    }

    /// So many may wait, so long.
    #[must_use]
    pub const fn queue(mut self, queue: u32, max_wait: Duration) -> Self {
        self.queue = queue;
        self.max_wait = max_wait;
        self
    }

    /// How far it takes effect.
    #[must_use]
    pub const fn enforce(mut self, enforce: Enforce) -> Self {
        self.enforce = enforce;
        self
    }
}

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
}

impl<O: Observer> BulkheadLayer<O> {
    /// As [`new`](BulkheadLayer::new), and tells `observer` what it does.
    pub fn observed(config: BulkheadConfig, observer: O) -> Self {
        let account = Arc::new(Account::default());
        Self::of(Shared { account, generation: 1, name: None, config, observer })
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
        self.shared.as_ref().map_or_else(Counts::default, |shared| shared.account.counts())
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
        let known = self.shared.as_ref().map(|shared| (&shared.name, shared.config, shared.account.counts()));
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

    fn explain(&self, _: Now, _: &mut Parts) -> Finding {
        let Some(shared) = self.shared.as_ref().filter(|shared| shared.is_on()) else {
            return Finding::Off;
        };
        let (account, config) = (&shared.account, shared.in_force());
        let counts = account.counts();
        let say = |free: u32| Finding::Admit(format!("{free} of {} places free", config.max));
        match arrive(&config, counts).0 {
            Verdict::Admit(()) => say(config.max - counts.working),
            Verdict::Depends(_) if config.enforce == Enforce::Observe => say(0),
            Verdict::Depends(what) => Finding::WouldAsk(what),
            Verdict::Reject(rejection) => {
                let rejection = rejection.by(shared.name.clone());
                if account.rejections.peek(config.enforce) {
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
        match shared.arrive() {
            Arrival::Work(permit) => {
                BulkheadFuture::Work { future: self.inner.call(request), permit: Some(permit) }
            }
            Arrival::Reject(rejection) => BulkheadFuture::Reject { rejection: Some(rejection) },
            Arrival::Wait(place) => {
                let waiting = Box::pin(Arc::clone(shared).wait(place));
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
                    let response = ready!(future.poll(cx))?;
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

/// One place at work; given back when dropped.
#[derive(Debug)]
pub struct Permit(Arc<Account>);

impl Guard for Permit {}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.leave();
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

/// What outlives a configuration. At rest it is two counts of zero.
#[derive(Debug, Default)]
struct Account {
    counts: AtomicU64,
    /// The configuration that decides, packed: it only ever grows, and never is half of two.
    rule: AtomicU64,
    /// Configurations made after the first.
    generations: AtomicU32,
    rejections: Rejections,
    freed: Arc<Notify>,
}

/// What is in force: the `max` of the newest configuration that has seen a request. Its number is
/// counted up from 1; 2³² of them are 136 years of one each second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rule {
    generation: u32,
    max: u32,
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
    fn counts(&self) -> Counts {
        Counts::unpack(self.counts.load(Acquire))
    }

    fn rule(&self) -> Rule {
        Rule::unpack(self.rule.load(SeqCst))
    }

    /// Puts a newer configuration in force, and wakes those for whom there is room now.
    ///
    /// `SeqCst` here and in [`leave`](Self::leave): each writes one word and then reads the other's,
    /// and one of the two has to see what the other wrote, or a free place wakes nobody.
    fn follow(&self, rule: Rule) {
        if rule <= self.rule() || Rule::unpack(self.rule.fetch_max(rule.pack(), SeqCst)) >= rule {
            return;
        }
        let counts = Counts::unpack(self.counts.load(SeqCst));
        for _ in 0..counts.waiting.min(rule.max.saturating_sub(counts.working)) {
            self.freed.notify_one();
        }
    }

    /// Gives a place back. Nobody is woken for one that a lower `max` took away: it would find
    /// nothing, and lose its turn.
    fn leave(&self) {
        let before = Counts::unpack(self.counts.fetch_sub(1 << 32, SeqCst));
        if before.working <= self.rule().max {
            self.freed.notify_one();
        }
    }
}

/// One configuration over an account.
struct Shared<O> {
    account: Arc<Account>,
    generation: u32,
    name: Option<Arc<str>>,
    config: BulkheadConfig,
    observer: O,
}

impl<O: Clone> Clone for Shared<O> {
    fn clone(&self) -> Self {
        Self {
            account: Arc::clone(&self.account),
            generation: self.generation,
            name: self.name.clone(),
            config: self.config,
            observer: self.observer.clone(),
        }
    }
}

enum Arrival<O: Observer> {
    Work(Permit),
    Wait(Place<O>),
    Reject(Rejection),
}

impl<O> Shared<O> {
    fn is_on(&self) -> bool {
        self.config.enforce != Enforce::Never
    }

    fn rule(&self) -> Rule {
        Rule { generation: self.generation, max: self.config.max.max(1) }
    }

    /// What decides about a request that comes here now.
    fn in_force(&self) -> BulkheadConfig {
        BulkheadConfig { max: cmp::max(self.rule(), self.account.rule()).max, ..self.config }
    }
}

impl<O: Observer> Shared<O> {
    fn arrive(self: &Arc<Self>) -> Arrival<O> {
        let account = &self.account;
        account.follow(self.rule());
        let config = self.in_force();
        let mut seen = account.counts.load(Acquire);
        let verdict = loop {
            let (verdict, next) = match arrive(&config, Counts::unpack(seen)) {
                (Verdict::Depends(_), _) if config.enforce == Enforce::Observe => return self.beyond(),
                decided => decided,
            };
            match account.counts.compare_exchange_weak(seen, next.pack(), AcqRel, Acquire) {
                Ok(_) => break verdict,
                Err(now) => seen = now,
            }
        };
        match verdict {
            Verdict::Admit(()) => {
                self.observer.admitted();
                Arrival::Work(Permit(Arc::clone(account)))
            }
            Verdict::Depends(_) => {
                self.observer.queued();
                Arrival::Wait(Place { shared: Arc::clone(self), is_over: false })
            }
            Verdict::Reject(rejection) => match self.refuse(rejection) {
                Err(rejection) => Arrival::Reject(rejection),
                Ok(permit) => Arrival::Work(permit),
            },
        }
    }

    async fn wait(self: Arc<Self>, mut place: Place<O>) -> Result<Permit, Rejection> {
        let account = &self.account;
        let waiting = async {
            loop {
                let mut freed = pin!(Arc::clone(&account.freed).notified_owned());
                freed.as_mut().enable(); // Before looking, or a place freed in between is missed.
                if self.take() {
                    return Permit(Arc::clone(account));
                }
                freed.await;
            }
        };
        let result = tokio::time::timeout(self.config.max_wait, waiting).await;
        place.is_over = true;
        if let Ok(permit) = result {
            self.observer.admitted();
            return Ok(permit); // `take` counted it out of the queue.
        }
        account.counts.fetch_sub(1, AcqRel);
        self.refuse(Rejection::new(Reason::BulkheadTimeout))
    }

    fn take(&self) -> bool {
        let max = self.in_force().max;
        let next = |word| take(max, Counts::unpack(word)).map(Counts::pack);
        self.account.counts.fetch_update(AcqRel, Acquire, next).is_ok()
    }

    /// Refuses, or lets pass what is not enforced. Every refusal goes through here.
    fn refuse(&self, rejection: Rejection) -> Result<Permit, Rejection> {
        let rejection = rejection.by(self.name.clone());
        if self.account.rejections.count(self.config.enforce) {
            self.observer.rejected(&rejection);
            return Err(rejection);
        }
        self.observer.would_reject(&rejection);
        Ok(self.over())
    }

    /// Under `observe` nobody waits: counted at work, beyond the maximum.
    fn beyond(&self) -> Arrival<O> {
        self.observer.admitted();
        Arrival::Work(self.over())
    }

    fn over(&self) -> Permit {
        self.account.counts.fetch_add(1 << 32, AcqRel);
        Permit(Arc::clone(&self.account))
    }
}
