//! Rate limiting by key: answers `429 Too Many Requests` once an allowance is spent.
//!
//! # Algorithm
//! One to four windows at once: all must admit, and none is charged if one does not. The whole state of
//! a key is one word for each window.
//!
//! [`Algorithm::Gcra`], the default: Generic Cell Rate Algorithm, virtual scheduling (ITU-T I.371,
//! Annex A). A spent allowance comes back evenly, one request at a time. In any stretch of time `t` pass
//! at most `burst + count * t / per`.
//!
//! [`Algorithm::SlidingWindow`]: the sliding-window counter as Cloudflare and Kong have it. Time is cut
//! into windows of `per` from the limiter's start; what this window has seen, and what the one before
//! it has seen times the share of it that is still within one `per`, rounded up, stays within `count`.
//! So in each of these windows pass at most `count`, and in any stretch of time `t` at most
//! `count + count * t / per`. That is its error: it takes the requests of the window before as evenly
//! spread, so whoever bunches them at its end has up to twice `count` in one `per` that begins there
//! (as under GCRA with a burst of `count`), and whoever bunched them at its beginning waits longer than
//! a log of all requests would have it. A count has the bits that the number of its window leaves in a
//! word: above 65,535 in a second, 524,287 in a minute or 4,194,303 in an hour it acts as that.
//!
//! # Decision
//! 1. The cost is taken from the request's head ([`cost_by`](RateLimitLayer::cost_by)), else it is that of
//!    the [configuration](RateLimitConfig::cost). What costs 0 is not counted, and passes a spent
//!    allowance, too.
//! 2. The key is taken from the head. Without one, [`OnMissing`] decides. And the tier
//!    ([`tier_by`](RateLimitLayer::tier_by)), which multiplies rate and burst.
//! 3. The key's cell is found and evaluated under the lock of one of 32 shards; check and consume
//!    are one step.
//! 4. Admitted: the request goes on. Refused: `429`, `Retry-After` (whole seconds, rounded up) and
//!    a [`Rejection`] with the exact wait. What costs more than the burst is refused without: no wait
//!    helps. A refused request consumes nothing, so asking again and again never prolongs the penalty.
//! 5. If [`Fields`] are on, the response says what is left.
//!
//! Several limits in one layer (`collect` them) are asked in order, and none is charged for a request
//! that one of them refuses. They are asked one after the other, not under one lock: of several
//! requests that find the same last allowance at the same instant, those that do not get it may have
//! been charged by another limit.
//!
//! # Units and limits
//! `count`: requests of cost 1, at least 1. Time is kept in whole nanoseconds. A tier's burst, and its
//! count under a sliding window, are rounded down, but are at least 1. At most
//! [`max_keys`](RateLimitConfig::max_keys) keys are remembered (default 100,000; at most 96 bytes
//! each). At that cap a new key takes the cell of an idle one; one request looks at no more than 32
//! cells for it, and if none is idle all new keys of the shard share one allowance. An active key is
//! never forgotten, so nobody gets a fresh allowance by flooding. Keys above a cap that was lowered go
//! as they become idle, at most 32 with each request. Nothing is allocated for a request whose key is
//! known; with the fields of one limit on, one value.
//!
//! # State
//! All services made from one layer, and their clones, share one account.
//! [`reconfigured`](RateLimitLayer::reconfigured) keeps what each key has consumed, in requests and
//! clamped to the new burst, also from one algorithm to the other. Windows that are gone are charged on,
//! as long as they have history and a cell has a place for them (four in all): going back refills nobody.
//!
//! A key has one account, whatever its tier. Under GCRA the part of the burst that is spent stays spent
//! when the tier changes: 5 of 10 become 25 of 50. A sliding window counts requests: 5 of 10 become 5
//! of 50. (So from GCRA to a sliding window all keys are taken to be of the tier with the most.)
//!
//! # Several processes
//! Each has accounts of its own, unless they [share](RateLimitLayer::shared) them: see [`shared`].
//!
//! # Errors and panics
//! Adds no error: `S::Error` passes unchanged. Never panics, unless a function of the caller's does.
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
//!
//! By cost and by tier, with fields that say what is left:
//! ```
//! use naka::{
//!     identity::Identity, key::Key, reject::Head,
//!     rate_limit::{Algorithm, Factor, Fields, RateLimitConfig, RateLimitLayer, Window},
//! };
//!
//! let by_subject = |head: &Head<'_>| Identity::of(head.extensions)?.subject.as_ref().map(Key::of);
//! let config = RateLimitConfig::new(Window::per_minute(100))
//!     .algorithm(Algorithm::SlidingWindow)
//!     .tiers([Factor::percent(20), Factor::ONE, Factor::percent(500)])
//!     .fields(Fields::Draft);
//! let layer = RateLimitLayer::new(config, by_subject)
//!     .cost_by(|head| if head.uri.path() == "/report" { 10 } else { 1 })
//!     .tier_by(|head| {
//!         let of = &Identity::of(head.extensions)?.claims;
//!         ["free", "standard", "gold"].iter().position(|tier| of.get("tier").and_then(|it| it.as_text()) == Some(tier))
//!     });
//! # drop(layer);
//! ```

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use http::{Request, request::Parts};
use tokio::time::Instant;

mod fields;
mod gcra;
mod grant;
mod limit;
mod saved;
mod service;
pub mod shared;
mod sliding;
mod table;

pub use fields::Fields;
use fields::Lines;
pub use gcra::{
    Algorithm, Cell, Factor, MAX_WINDOWS, Quota, QuotaError, Standing, Window, evaluate, migrate,
};
use grant::{Grants, Shared};
use limit::{Account, Asks, CostFn, KIND, Limit, TierFn};
pub use saved::{Saved, SavedShard, SavedWindow};
pub use service::RateLimitFuture;
use shared::{Leases, Sharing};
use table::Table;

use crate::{
    clock::{Now, Since},
    enforce::{Enforce, Rejections},
    explain::{Explain, Finding},
    key::Key,
    layered::layered,
    observe::Observer,
    reject::{Head, Rejection},
    saved::Unfit,
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
    /// What a request costs of which [`cost_by`](RateLimitLayer::cost_by) says nothing; default 1. At 0
    /// it is not counted.
    pub cost: u32,
    /// What each tier has of the quota, by the number that [`tier_by`](RateLimitLayer::tier_by) gives;
    /// default none.
    pub tiers: Vec<Factor>,
    /// What a client is told; default [`Fields::Off`].
    pub fields: Fields,
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
            cost: 1,
            tiers: Vec::new(),
            fields: Fields::default(),
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

    /// How all windows of the quota count.
    #[must_use]
    pub fn algorithm(mut self, algorithm: Algorithm) -> Self {
        self.quota = self.quota.algorithm(algorithm);
        self
    }

    /// What a request costs.
    #[must_use]
    pub const fn cost(mut self, cost: u32) -> Self {
        self.cost = cost;
        self
    }

    /// What each tier has of the quota.
    #[must_use]
    pub fn tiers(mut self, tiers: impl IntoIterator<Item = Factor>) -> Self {
        self.tiers = tiers.into_iter().collect();
        self
    }

    /// What a client is told.
    #[must_use]
    pub const fn fields(mut self, fields: Fields) -> Self {
        self.fields = fields;
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
    /// It is refused with `400` and [`Reason::KeyMissing`](crate::reject::Reason::KeyMissing).
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
            clock: Since::new(Instant::now()),
            table: Table::new(config.quota),
            leases: Arc::new(Leases::new()),
            generations: AtomicU64::new(1),
            rejections: Rejections::default(),
            refill_ns: AtomicU64::new(0),
        };
        let rule = account.rule(&config, Factor::ONE);
        let asks = Asks { key: Arc::new(key), cost: None, tier: None };
        let (account, policies) = (Arc::new(account), Arc::default());
        let limit = Limit { account, rule, name: None, policies, config, asks, observer, shared: None };
        Self::one(limit.with_policies())
    }

    /// A layer that is not there, and has no state.
    pub fn off() -> Self {
        Self { limits: Arc::new([]) }
    }

    /// Whether it is a layer that is not there.
    pub fn is_off(&self) -> bool {
        self.limits.is_empty()
    }

    /// Names the policy: in its rejections, and in what it explains.
    pub fn named(self, name: &Arc<str>) -> Self
    where
        O: Clone,
    {
        self.map(|limit| Limit { name: Some(Arc::clone(name)), ..limit.clone() }.with_policies())
    }

    /// What each request costs, else the same for all: see [`RateLimitConfig::cost`]. Take it from what a
    /// request will cause, such as its path; whoever can lower the cost of a request has more of them.
    pub fn cost_by(self, cost: impl Fn(&Head<'_>) -> u32 + Send + Sync + 'static) -> Self
    where
        O: Clone,
    {
        let cost: Arc<CostFn> = Arc::new(cost);
        self.map(|limit| {
            let asks = Asks { cost: Some(Arc::clone(&cost)), ..limit.asks.clone() };
            Limit { asks, ..limit.clone() }
        })
    }

    /// The number of a request's tier among [`RateLimitConfig::tiers`]; `None`, and a number that none
    /// has, is the quota as it is.
    ///
    /// A tier must be given and not asked for: decide by what has been verified, which is the
    /// [`Identity`](crate::identity::Identity), and never by a header of the request.
    pub fn tier_by(self, tier: impl Fn(&Head<'_>) -> Option<usize> + Send + Sync + 'static) -> Self
    where
        O: Clone,
    {
        let tier: Arc<TierFn> = Arc::new(tier);
        self.map(|limit| {
            let asks = Asks { tier: Some(Arc::clone(&tier)), ..limit.asks.clone() };
            Limit { asks, ..limit.clone() }
        })
    }

    /// The same state under another configuration.
    ///
    /// Nothing is written until its first request; from then on, layers of earlier
    /// configurations follow this one. The key stays, with cost and tier: what was counted by another one
    /// would be found by nobody, so another key is another layer.
    pub fn reconfigured(&self, config: &RateLimitConfig) -> Self
    where
        O: Clone,
    {
        self.map(|old| {
            let share = old.shared.as_ref().map_or(Factor::ONE, |shared| shared.share());
            let rule = old.account.rule(config, share);
            let shared = old.shared.as_ref().map(|shared| shared.of(config));
            Limit { rule, config: config.clone(), shared, ..old.clone() }.with_policies()
        })
    }

    /// Counts with others who ask the same [store](shared) for a limit of the same [name](Self::named). The key has
    /// to be [made](crate::key::KeyBuilder::with) as theirs is.
    pub fn shared(&self, sharing: &Sharing) -> Self
    where
        O: Clone,
    {
        self.map(|old| {
            let shared = Shared::new(sharing.clone(), &old.config);
            let rule = old.account.rule(&old.config, shared.share());
            Limit { rule, shared: Some(Arc::new(shared)), ..old.clone() }.with_policies()
        })
    }

    /// Keys that are remembered now, over all limits of this layer.
    /// Those with a lease, a debt or a refusal of a store are counted besides.
    pub fn keys(&self) -> usize {
        let keys = |limit: &Arc<Limit<O>>| limit.account.table.len() + limit.account.leases.len();
        self.limits.iter().map(keys).sum()
    }

    /// After this long without a request no limit of this layer has any history: the longest refill of all
    /// configurations that its state has had.
    pub fn refill(&self) -> Duration {
        let refill_ns = |limit: &Arc<Limit<O>>| limit.account.refill_ns.load(Relaxed);
        Duration::from_nanos(self.limits.iter().map(refill_ns).max().unwrap_or_default())
    }

    /// What is known of the keys of each limit, in order. One shard after the other is copied, so a request waits for
    /// the copy of one at most.
    pub fn save(&self, now: Now) -> Vec<Saved> {
        self.save_most(usize::MAX, now).0
    }

    /// As [`save`](Self::save), but of each limit at most so many keys, [those that have the most to
    /// say](Saved::shorten), and how many are left out. It never has many more in hand.
    pub fn save_most(&self, keys: usize, now: Now) -> (Vec<Saved>, usize) {
        let (saved, left_out) =
            self.limits.iter().map(|limit| limit.account.save(keys, now)).unzip::<_, _, _, Vec<_>>();
        (saved, left_out.iter().sum())
    }

    /// Goes on with what was [saved](Self::save) `age` ago, as if it had been [reconfigured](Self::reconfigured) from
    /// there to here. Below the cap of keys it decides as the other would have.
    ///
    /// # Errors
    /// If it is not of as many limits, or is broken, or a request has been counted here already. Of several limits those
    /// before the one that is wrong have been restored.
    pub fn restore(&self, saved: &[Saved], age: Duration, now: Now) -> Result<(), Unfit> {
        if saved.len() != self.limits.len() {
            return Err(Unfit::Other);
        }
        self.limits.iter().zip(saved).try_for_each(|(limit, saved)| limit.account.restore(saved, age, now))
    }

    /// Charges all limits, or none if one refuses. Those that are shared say what they have granted.
    ///
    /// All but the last are asked before anything is written, and the last one's own commit is the
    /// first to write: so the first in order that refuses is the one that says so.
    fn commit<B>(&self, request: &Request<B>, mut grants: Grants) -> Result<(), Rejection> {
        let Some((last, others)) = self.limits.split_last() else { return Ok(()) };
        let (head, now) = (Head::from(request), Now::of(request.extensions()));
        {
            let mut foretold = grants.iter();
            others.iter().try_for_each(|limit| {
                let grant = limit.shared.as_ref().and_then(|_| foretold.next());
                limit.refuse(&head, now, grant)
            })?;
        }
        let of_last = last.shared.as_ref().and_then(|_| grants.pop());
        last.commit(&head, now, of_last)?;
        let mut grants = grants.into_iter();
        others.iter().try_for_each(|limit| {
            let grant = limit.shared.as_ref().and_then(|_| grants.next());
            limit.commit(&head, now, grant)
        })
    }

    /// What a client is told, after the decision.
    fn lines<B>(&self, request: &Request<B>) -> Option<Lines> {
        let tells = self.limits.iter().filter(|limit| limit.tells()).count();
        if tells == 0 {
            return None;
        }
        let (head, now) = (Head::from(request), Now::of(request.extensions()));
        let mut told =
            self.limits.iter().filter(|limit| limit.tells()).filter_map(|limit| limit.told(&head, now));
        if tells == 1 {
            return Lines::of(&[told.next()?]);
        }
        Lines::of(&told.collect::<Vec<_>>())
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
    /// Answers `429` when an allowance is spent; see the [module docs](self). What it wraps is cloned for a request that
    /// has to ask a [store](shared).
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
            // Whoever would be asked may refuse.
            if refuses || !matches!(worst, Finding::WouldAsk(_)) {
                worst = finding;
            }
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
