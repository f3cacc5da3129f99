//! Rate limiting by key: answers `429 Too Many Requests` once an allowance is spent.
//!
//! # Algorithm
//! Generic Cell Rate Algorithm, virtual scheduling (ITU-T I.371, Annex A), over one to four
//! windows at once: all must admit, and none is charged if one does not. The whole state of a key
//! is one timestamp for each window. It differs from a fixed window in that no moment exists at
//! which twice the rate passes: a spent allowance comes back evenly.
//!
//! # Decision
//! 1. The key is taken from the request's head. Without one, [`OnMissing`] decides.
//! 2. The key's cell is found and evaluated under the lock of one of 32 shards; check and consume
//!    are one step.
//! 3. Admitted: the request goes on. Refused: `429`, `Retry-After` (whole seconds, rounded up) and
//!    a [`Rejection`] with the exact wait. A refused request consumes nothing, so asking again and
//!    again never prolongs the penalty.
//!
//! Several limits in one layer (`collect` them) are asked in order, and none is charged for a request
//! that one of them refuses. They are asked one after the other, not under one lock: of several
//! requests that find the same last allowance at the same instant, those that do not get it may have
//! been charged by another limit.
//!
//! # Units and limits
//! `count`: requests, at least 1. Time is kept in whole nanoseconds. At most
//! [`max_keys`](RateLimitConfig::max_keys) keys are remembered (default 100,000; about 80 bytes
//! each). At that cap a new key takes the cell of an idle one; one request looks at no more than 32
//! cells for it, and if none is idle all new keys of the shard share one allowance. An active key is
//! never forgotten, so nobody gets a fresh allowance by flooding. Keys above a cap that was lowered go
//! as they become idle, at most 32 with each request.
//!
//! # State
//! All services made from one layer, and their clones, share one account.
//! [`reconfigured`](RateLimitLayer::reconfigured) keeps what each key has consumed, in requests and
//! clamped to the new burst. Windows that are gone are charged on, as long as they have history and a
//! cell has a place for them (four in all): going back refills nobody.
//!
//! # Errors and panics
//! Adds no error: `S::Error` passes unchanged. Never panics.
//!
//! # Example
//! ```
//! # use http::{Request, Response};
//! # use tower::{Layer, ServiceExt};
//! use naka::{key::Key, rate_limit::{Quota, RateLimitConfig, RateLimitLayer, Window}};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let upstream = tower::service_fn(|_: Request<()>| async { Ok::<_, std::io::Error>(Response::new(())) });
//! let quota = Quota::new(&[Window::per_second(2), Window::per_hour(100)])?;
//! let by_api_key = |head: &naka::reject::Head<'_>| head.headers.get("x-api-key").map(Key::of);
//! let service = RateLimitLayer::new(RateLimitConfig::new(quota), by_api_key).layer(upstream);
//!
//! let from = |client: &str| Request::builder().header("x-api-key", client).body(()).unwrap();
//! assert_eq!(service.clone().oneshot(from("asha")).await?.status(), 200);
//! assert_eq!(service.clone().oneshot(from("asha")).await?.status(), 200);
//! let refused = service.clone().oneshot(from("asha")).await?;
//! assert_eq!((refused.status().as_u16(), &refused.headers()["retry-after"]), (429, &"1".parse()?));
//! assert_eq!(service.oneshot(from("ravi")).await?.status(), 200);
//! # Ok(()) }
//! ```

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use http::{Request, Response, request::Parts};
use tokio::time::Instant;
use tower_service::Service;

mod gcra;
mod table;

pub use gcra::{Cell, MAX_WINDOWS, Quota, QuotaError, Window, evaluate, migrate};
use table::{Rule, Table};

use crate::{
    clock::Now,
    enforce::{Enforce, Rejections},
    explain::{Explain, Finding},
    key::Key,
    layered::layered,
    observe::Observer,
    reject::{Decided, Head, Reason, Rejection, Verdict},
};

/// What a [`RateLimitLayer`] does.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct RateLimitConfig {
    /// How many requests in how much time.
    pub quota: Quota,
    /// How many keys are remembered; default 100,000, at least one for each of 32 shards.
    pub max_keys: usize,
    /// What happens to a request without a key; default [`OnMissing::Shared`].
    pub on_missing: OnMissing,
    /// How far it takes effect; default [`Enforce::Always`].
    pub enforce: Enforce,
}

impl RateLimitConfig {
    /// That quota, and the defaults.
    pub fn new(quota: impl Into<Quota>) -> Self {
        Self {
            quota: quota.into(),
            max_keys: 100_000,
            on_missing: OnMissing::default(),
            enforce: Enforce::default(),
        }
    }

    /// Remembers at most so many keys.
    #[must_use]
    pub const fn max_keys(mut self, max_keys: usize) -> Self {
        self.max_keys = max_keys;
        self
    }

    /// What happens to a request without a key.
    #[must_use]
    pub const fn on_missing(mut self, on_missing: OnMissing) -> Self {
        self.on_missing = on_missing;
        self
    }

    /// How far it takes effect.
    #[must_use]
    pub const fn enforce(mut self, enforce: Enforce) -> Self {
        self.enforce = enforce;
        self
    }
}

/// What happens to a request that has no key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnMissing {
    /// All such requests share one account.
    #[default]
    Shared,
    /// It is not counted.
    Skip,
    /// It is refused with `400` and [`Reason::KeyMissing`].
    Reject,
}

/// Applies [`RateLimit`]; see the [module docs](self) for an example.
#[must_use]
pub struct RateLimitLayer<O = ()> {
    limits: Arc<[Arc<Limit<O>>]>,
}

impl RateLimitLayer {
    /// Counts by `key`.
    pub fn new(
        config: RateLimitConfig,
        key: impl Fn(&Head<'_>) -> Option<Key> + Send + Sync + 'static,
    ) -> Self {
        Self::observed(config, key, ())
    }
}

impl<O: Observer> RateLimitLayer<O> {
    /// As [`new`](RateLimitLayer::new), and tells `observer` what it does.
    pub fn observed(
        config: RateLimitConfig,
        key: impl Fn(&Head<'_>) -> Option<Key> + Send + Sync + 'static,
        observer: O,
    ) -> Self {
        let account = Account {
            start: Instant::now(),
            table: Table::new(config.quota),
            generations: AtomicU64::new(2),
            rejections: Rejections::default(),
            refill_ns: AtomicU64::new(nanos(config.quota.refill())),
        };
        let (account, key) = (Arc::new(account), Arc::new(key));
        Self::one(Limit { account, generation: 1, name: None, config, key, observer })
    }

    /// A layer that is not there, and has no state.
    pub fn off() -> Self {
        Self { limits: Arc::new([]) }
    }

    /// Names the policy: in its rejections, and in what it explains.
    pub fn named(self, name: &Arc<str>) -> Self
    where
        O: Clone,
    {
        self.map(|limit| Limit { name: Some(Arc::clone(name)), ..limit.clone() })
    }

    /// The same state under another configuration.
    ///
    /// Nothing is written until its first request; from then on, layers of earlier
    /// configurations follow this one. The key stays: what was counted by another one would be found
    /// by nobody, so another key is another layer.
    pub fn reconfigured(&self, config: &RateLimitConfig) -> Self
    where
        O: Clone,
    {
        self.map(|old| Limit {
            generation: old.account.follow(config),
            config: config.clone(),
            ..old.clone()
        })
    }

    /// Keys that are remembered now, over all limits of this layer.
    pub fn keys(&self) -> usize {
        self.limits.iter().map(|limit| limit.account.table.len()).sum()
    }

    /// After this long without a request no limit of this layer has any history: the longest refill of all
    /// configurations that its state has had.
    pub fn refill(&self) -> Duration {
        let refill_ns = |limit: &Arc<Limit<O>>| limit.account.refill_ns.load(Relaxed);
        Duration::from_nanos(self.limits.iter().map(refill_ns).max().unwrap_or_default())
    }

    /// Charges all limits, or none if one refuses.
    ///
    /// All but the last are asked before anything is written, and the last one's own commit is the
    /// first to write: so the first in order that refuses is the one that says so.
    fn commit<B>(&self, request: &Request<B>) -> Result<(), Rejection> {
        let Some((last, others)) = self.limits.split_last() else { return Ok(()) };
        let (head, now) = (Head::from(request), Now::of(request.extensions()));
        others.iter().try_for_each(|limit| limit.refuse(&head, now))?;
        last.commit(&head, now)?;
        others.iter().try_for_each(|limit| limit.commit(&head, now))
    }

    fn one(limit: Limit<O>) -> Self {
        Self { limits: Arc::new([Arc::new(limit)]) }
    }

    fn map(&self, change: impl Fn(&Limit<O>) -> Limit<O>) -> Self {
        Self { limits: self.limits.iter().map(|limit| Arc::new(change(limit))).collect() }
    }
}

/// Several limits in one layer; none at all is [`RateLimitLayer::off`].
impl<O> FromIterator<Self> for RateLimitLayer<O> {
    fn from_iter<I: IntoIterator<Item = Self>>(layers: I) -> Self {
        let limits = layers.into_iter().flat_map(|layer| layer.limits.to_vec());
        Self { limits: limits.collect() }
    }
}

impl<O> fmt::Debug for RateLimitLayer<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let configs = self.limits.iter().map(|limit| (&limit.name, &limit.config));
        f.debug_map().entries(configs).finish()
    }
}

layered! {
    /// Answers `429` when an allowance is spent; see the [module docs](self).
    RateLimitLayer { limits } => RateLimit
}

impl<O: Observer> Explain for RateLimitLayer<O> {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn explain(&self, now: Now, head: &mut Parts) -> Finding {
        let findings = self.limits.iter().map(|limit| limit.explain(now, head));
        let mut worst = Finding::Off;
        for finding in findings {
            let refuses = matches!(finding, Finding::Reject(_));
            worst = finding;
            if refuses {
                break;
            }
        }
        worst
    }

    fn each<'a>(&'a self, visit: &mut dyn FnMut(&'a dyn Explain)) {
        if self.limits.is_empty() {
            return visit(self);
        }
        for limit in &*self.limits {
            visit(&**limit);
        }
    }
}

impl<S, O, B, R> Service<Request<B>> for RateLimit<S, O>
where
    S: Service<Request<B>, Response = Response<R>>,
    O: Observer,
    R: Default,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Decided<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        match self.layer.commit(&request) {
            Ok(()) => Decided::forward(self.inner.call(request)),
            Err(rejection) => Decided::reject(rejection),
        }
    }
}

const KIND: &str = "rate_limit";

type KeyFn = dyn Fn(&Head<'_>) -> Option<Key> + Send + Sync;

/// What outlives a configuration.
#[derive(Debug)]
struct Account {
    start: Instant,
    table: Table,
    /// The number of the next configuration.
    generations: AtomicU64,
    rejections: Rejections,
    /// The longest refill of all configurations: cells are carried over only as they are asked for.
    refill_ns: AtomicU64,
}

impl Account {
    /// The number of the next configuration.
    fn follow(&self, config: &RateLimitConfig) -> u64 {
        self.refill_ns.fetch_max(nanos(config.quota.refill()), Relaxed);
        self.generations.fetch_add(1, Relaxed)
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// One configuration over an account.
struct Limit<O> {
    account: Arc<Account>,
    generation: u64,
    name: Option<Arc<str>>,
    config: RateLimitConfig,
    key: Arc<KeyFn>,
    observer: O,
}

impl<O: Clone> Clone for Limit<O> {
    fn clone(&self) -> Self {
        Self {
            account: Arc::clone(&self.account),
            generation: self.generation,
            name: self.name.clone(),
            config: self.config.clone(),
            key: Arc::clone(&self.key),
            observer: self.observer.clone(),
        }
    }
}

impl<O: Observer> Limit<O> {
    fn commit(&self, head: &Head<'_>, now: Now) -> Result<(), Rejection> {
        if self.config.enforce == Enforce::Never {
            return Ok(());
        }
        match self.decide(head, |rule, key| self.account.table.commit(rule, key, self.now_ns(now))) {
            Verdict::Reject(rejection) if self.account.rejections.count(self.config.enforce) => {
                self.observer.rejected(&rejection);
                return Err(rejection);
            }
            Verdict::Reject(rejection) => self.observer.would_reject(&rejection),
            Verdict::Admit(_) | Verdict::Depends(_) => self.observer.admitted(),
        }
        Ok(())
    }

    /// Refuses what `commit` would refuse, and else writes nothing.
    fn refuse(&self, head: &Head<'_>, now: Now) -> Result<(), Rejection> {
        match self.peek(head, now) {
            Verdict::Reject(rejection) if self.account.rejections.count_if_applies(self.config.enforce) => {
                self.observer.rejected(&rejection);
                Err(rejection)
            }
            _ => Ok(()),
        }
    }

    /// What `commit` would decide.
    fn peek(&self, head: &Head<'_>, now: Now) -> Verdict<Option<u64>> {
        self.decide(head, |rule, key| self.account.table.peek(rule, key, self.now_ns(now)))
    }

    /// The decision, given what the table says to the key.
    fn decide(
        &self,
        head: &Head<'_>,
        ask: impl FnOnce(&Rule, Key) -> Result<u64, Duration>,
    ) -> Verdict<Option<u64>> {
        let key = match ((self.key)(head), self.config.on_missing) {
            (Some(key), _) => key,
            (None, OnMissing::Shared) => Key::of("naka: no key"),
            (None, OnMissing::Skip) => return Verdict::Admit(None),
            (None, OnMissing::Reject) => {
                return Verdict::Reject(Rejection::new(Reason::KeyMissing).by(self.name.clone()));
            }
        };
        let RateLimitConfig { quota, max_keys, .. } = self.config;
        match ask(&Rule { generation: self.generation, quota, max_keys }, key) {
            Ok(left) => Verdict::Admit(Some(left)),
            Err(wait) => {
                let rejection = Rejection::new(Reason::RateLimited).retry_after(wait);
                Verdict::Reject(rejection.by(self.name.clone()))
            }
        }
    }

    fn now_ns(&self, now: Now) -> u64 {
        now.since_ns(self.account.start)
    }
}

impl<O: Observer> Explain for Limit<O> {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    fn explain(&self, now: Now, head: &mut Parts) -> Finding {
        if self.config.enforce == Enforce::Never {
            return Finding::Off;
        }
        match self.peek(&Head::from(&*head), now) {
            Verdict::Admit(None) => Finding::Passes,
            Verdict::Admit(Some(left)) => {
                Finding::Admit(format!("{} of {} left", left + 1, self.config.quota.burst()))
            }
            Verdict::Reject(rejection) if self.account.rejections.peek(self.config.enforce) => {
                Finding::Reject(rejection)
            }
            Verdict::Reject(rejection) => Finding::Observe(rejection),
            Verdict::Depends(what) => Finding::WouldAsk(what),
        }
    }
}
