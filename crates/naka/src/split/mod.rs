//! Splitting traffic: which of several services a request goes to, by weight, for whom, and back if one fails.
//!
//! It decides which *arm*, a name, and tells whoever routes behind it; it routes nothing itself.
//!
//! # Decision
//! 1. [Pins](Pin), in their order: the first that applies says which arm.
//! 2. The request has a [key](SplitLayer::keyed): the arm of the key, by weighted rendezvous. It is the same in every
//!    process and after a restart, so each user stays with one arm. If one arm's weight grows, keys move only into
//!    it; if it shrinks, only out of it. If several change, a key goes from one to another only if the weight of that other
//!    has grown in proportion: from 95 and 5 to 90 and 10, some go from the first to the second, and nobody back.
//! 3. It has none: by turn, exactly by weight and as evenly spread as can be.
//!
//! An arm of weight 0 gets only whom a pin sends there, and so does one that is *held*. Two splits whose arms have the
//! same names and weights, and that have the same key, agree on who goes where. Whoever can choose its key can choose its arm: go by
//! what was verified where that matters, and let pins be for whoever may.
//!
//! # Where it is told
//! In the request's [`SplitArm`]: the `arm` of the [`Context`](crate::context::Context), else an extension of its own.
//! Whoever routes behind takes the arm from there; see `examples/split_axum.rs`.
//!
//! # Guard
//! With a [`Guard`] it is counted for each arm, in a window that slides, how many requests have ended, and how many of them
//! in a failure ([`classify`](crate::classify) says how; the body's end counts, and who goes away says nothing). An arm
//! that has no endpoint, or whose breaker is open ([`Reason::NoEndpoint`], [`Reason::CircuitOpen`]), has failed as well: it
//! is asked for an answer, and has none. Once there are [`min_requests`](Guard::min_requests) of the arm *and* of the
//! [baseline](SplitConfig::baseline), and the arm's share of failures is above the baseline's by more than
//! [`error_rate_bp`](Guard::error_rate_bp), it is held: told once, at the result that shows it, and until
//!
//! - somebody [releases](SplitLayer::release) it, which begins with an empty window,
//! - or another configuration gives it another weight, or has another guard or baseline.
//!
//! The baseline is never held, so there is always somebody to go to. Those who are pinned do not count: they choose their
//! arm, so they show nothing about the others, and could have an arm held, or keep it from being held, as they like. What
//! was under way when an arm was released, or under another guard, changes nothing.
//!
//! How small a difference can be seen? Of n requests of which a share p fails, the share that is seen is off by about
//! √(p(1 − p) / n). With 1 % failures and 500 requests that is 0.44 percentage points, so an arm that is as good as the
//! baseline is now and then above it by 1. Ask for more requests, or for a larger difference, where that is too often.
//!
//! # Units and limits
//! Weights from 0 to [`MAX_WEIGHT`], relative to one another; at most [`MAX_ARMS`] arms and [`MAX_PINS`] pins. Guards:
//! hundredths of a percent, 1 to [`MAX_MIN_REQUESTS`] requests, windows of 100 ms to 1 h. A window is a ring of ten buckets, so
//! it has its newest nine tenths exactly and the tenth before those in part; of more than 262,143 results in one bucket
//! it has the share. An arm has about 150 bytes. Nothing is allocated for a request with a
//! [`Context`](crate::context::Context), no lock is taken, and there is no source of chance.
//!
//! # State
//! By name of the arm: whether it is held, its window, and the number of the turn. All services made from one layer share it,
//! and so do layers made by [`reconfigured`](SplitLayer::reconfigured), for each arm whose weight, guard and baseline are
//! what they were. Another configuration takes effect with the requests that come to its own services; it writes nothing to
//! what the one before has. An arm that a configuration leaves out is forgotten with the last layer that has it.
//!
//! # Errors and panics
//! Never refuses, and adds no error: `S::Error` passes unchanged, and is a failure. Never panics, unless a function of the
//! caller's does.
//!
//! # Example
//! ```
//! # use http::{Request, Response};
//! # use http_body_util::Full;
//! # use tower::{Layer, ServiceExt};
//! use naka::{context::SplitArm, key::HashKey, split::{Guard, Pin, SplitConfig, SplitLayer}};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let splitting = SplitConfig::new([("booking", 95), ("booking-v2", 5)])
//!     .pin(Pin::header("x-canary".parse()?, "1".parse()?, "booking-v2"))
//!     .guard(Guard::new(100).min_requests(1000)) // One percentage point.
//!     .check()?;
//! let layer = SplitLayer::new(splitting).keyed(|head| head.headers.get("x-user").map(HashKey::of));
//! let service = layer.layer(tower::service_fn(|request: Request<()>| async move {
//!     let arm = SplitArm::of(request.extensions()).cloned().unwrap_or_default();
//!     Ok::<_, std::io::Error>(Response::new(Full::<bytes::Bytes>::from(arm.to_string())))
//! }));
//!
//! let asha = || Request::get("/").header("x-user", "asha");
//! let pinned = service.clone().oneshot(asha().header("x-canary", "1").body(())?).await?;
//! # use http_body_util::BodyExt as _;
//! assert_eq!(pinned.into_body().collect().await?.to_bytes(), "booking-v2");
//! let always = service.oneshot(asha().body(())?).await?;
//! assert_eq!(always.into_body().collect().await?.to_bytes(), "booking");
//! # Ok(()) }
//! ```

use std::{
    fmt,
    future::Future,
    pin::Pin as Pinned,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};

use http::{HeaderMap, Request, Response, request::Parts};
use http_body::Body;
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower_service::Service;

mod cell;
mod choose;
mod config;
mod window;

use cell::Cell;
pub use cell::Held;
use config::Checked;
pub use config::{Guard, MAX_ARMS, MAX_PINS, MAX_WEIGHT, Pin, SplitConfig, SplitError, Splitting};
pub use window::{MAX_MIN_REQUESTS, Tally};

pub use crate::context::SplitArm;
use crate::{
    classify::{Outcome, Seen},
    clock::Now,
    explain::{Explain, Finding},
    guard::{self, End, Guarded},
    key::HashKey,
    layered::layered,
    observe::Observer,
    reject::{Head, Reason, Rejection},
};

/// Applies [`Split`]; see the [module docs](self) for an example.
#[must_use]
pub struct SplitLayer<O = ()> {
    shared: Option<Arc<Shared<O>>>,
}

/// One configuration over an account.
struct Shared<O> {
    splitting: Splitting,
    account: Arc<Account>,
    arms: Arc<[Arm<O>]>,
    key: Option<Arc<KeyFn>>,
    name: Option<Arc<str>>,
    observe: Arc<Observe<O>>,
}

type KeyFn = dyn Fn(&Head<'_>) -> Option<HashKey> + Send + Sync;
type Observe<O> = dyn Fn(&Arc<str>) -> O + Send + Sync;

/// What outlives a configuration, besides the cells of its arms.
#[derive(Debug)]
struct Account {
    start: Instant,
    turns: AtomicU64,
}

struct Arm<O> {
    /// Shared with the arm of this name of another configuration, if that says the same about it.
    cell: Arc<Cell>,
    observer: O,
}

impl SplitLayer {
    /// Splits so.
    pub fn new(splitting: Splitting) -> Self {
        Self::observed(splitting, |_| ())
    }
}

impl<O: Observer> SplitLayer<O> {
    /// As [`new`](SplitLayer::new); what becomes of each arm is told to an observer of its own, which `observe` makes for
    /// its name: [`admitted`](Observer::admitted), [`settled`](Observer::settled), [`held`](Observer::held) and
    /// [`released`](Observer::released).
    pub fn observed(splitting: Splitting, observe: impl Fn(&Arc<str>) -> O + Send + Sync + 'static) -> Self {
        let account = Arc::new(Account { start: Now::read().instant(), turns: AtomicU64::new(0) });
        let observe: Arc<Observe<O>> = Arc::new(observe);
        let arms = arms(&splitting, None, &*observe);
        Self::of(Shared { splitting, account, arms, key: None, name: None, observe })
    }

    /// Goes by this key, where a request has one.
    pub fn keyed(self, key: impl Fn(&Head<'_>) -> Option<HashKey> + Send + Sync + 'static) -> Self {
        let key: Arc<KeyFn> = Arc::new(key);
        self.map(|old| Shared { key: Some(Arc::clone(&key)), ..old.clone() })
    }

    /// Goes by turn only.
    pub fn unkeyed(self) -> Self {
        self.map(|old| Shared { key: None, ..old.clone() })
    }

    /// A layer that is not there.
    pub const fn off() -> Self {
        Self { shared: None }
    }

    /// Whether it is a layer that is not there.
    pub const fn is_off(&self) -> bool {
        self.shared.is_none()
    }

    /// Names the policy, in what it explains.
    pub fn named(self, name: &Arc<str>) -> Self {
        self.map(|old| Shared { name: Some(Arc::clone(name)), ..old.clone() })
    }

    /// Splits otherwise, by the same key. An arm that is held stays so, unless its weight, the guard or the baseline is
    /// another.
    pub fn reconfigured(&self, splitting: &Splitting) -> Self {
        self.map(|old| {
            let arms = arms(splitting, Some(old), &*old.observe);
            Shared { splitting: splitting.clone(), arms, ..old.clone() }
        })
    }

    /// Holds an arm; it is held until it is released, or as an arm is that the guard holds. False: it is none of the arms, the
    /// baseline, or held already.
    pub fn hold(&self, arm: &str) -> bool {
        let Some((shared, place)) = self.find(arm) else { return false };
        let arm = &shared.arms[place];
        let is_held = place != shared.splitting.0.baseline && arm.cell.hold(arm.cell.epoch(), Held::ByHand);
        if is_held {
            arm.observer.held(&Held::ByHand);
        }
        is_held
    }

    /// Lets an arm have its weight again, and counts anew. False: it is none of the arms, or not held.
    pub fn release(&self, arm: &str) -> bool {
        let Some((shared, place)) = self.find(arm) else { return false };
        let arm = &shared.arms[place];
        let is_released = arm.cell.release();
        if is_released {
            arm.observer.released();
        }
        is_released
    }

    /// All arms as they are at `now`, in their order; none if it is off.
    pub fn arms(&self, now: Now) -> Vec<ArmStatus> {
        let Some(shared) = &self.shared else { return Vec::new() };
        let Splitting(checked) = &shared.splitting;
        let status = |(place, (name, weight)): (usize, &(Arc<str>, u32))| ArmStatus {
            name: Arc::clone(name),
            weight: *weight,
            in_force: shared.weight(place),
            is_baseline: place == checked.baseline,
            held: shared.arms[place].cell.held(),
            tally: shared.bucket(now).map(|bucket| shared.arms[place].cell.tally(bucket)),
        };
        checked.config.arms.iter().enumerate().map(status).collect()
    }

    fn find(&self, arm: &str) -> Option<(&Shared<O>, usize)> {
        let shared = self.shared.as_deref()?;
        let place = shared.splitting.0.config.arms.iter().position(|(name, _)| **name == *arm)?;
        Some((shared, place))
    }

    fn of(shared: Shared<O>) -> Self {
        Self { shared: Some(Arc::new(shared)) }
    }

    fn map(&self, change: impl Fn(&Shared<O>) -> Shared<O>) -> Self {
        self.shared.as_deref().map_or_else(Self::off, |old| Self::of(change(old)))
    }
}

/// One arm, as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ArmStatus {
    /// Its name.
    pub name: Arc<str>,
    /// Its weight.
    pub weight: u32,
    /// The weight by which it is chosen now: 0 if it is held.
    pub in_force: u32,
    /// Whether the others are measured by it.
    pub is_baseline: bool,
    /// Why it is held, if it is.
    pub held: Option<Held>,
    /// What is in its window, if there is a guard.
    pub tally: Option<Tally>,
}

/// The arms of a configuration. Each goes on with what is known of it, if nothing that is said about it has changed.
fn arms<O>(splitting: &Splitting, before: Option<&Shared<O>>, observe: &Observe<O>) -> Arc<[Arm<O>]> {
    let is_measured_alike = |old: &&Shared<O>| {
        old.splitting.baseline() == splitting.baseline()
            && old.splitting.config().guard == splitting.config().guard
    };
    let before = before.filter(is_measured_alike);
    let arm = |arm: &(Arc<str>, u32)| {
        let known = before.and_then(|old| {
            let place = old.splitting.config().arms.iter().position(|it| it == arm)?;
            Some(Arc::clone(&old.arms[place].cell))
        });
        Arm { cell: known.unwrap_or_default(), observer: observe(&arm.0) }
    };
    splitting.config().arms.iter().map(arm).collect()
}

impl<O> Clone for Shared<O> {
    fn clone(&self) -> Self {
        Self {
            splitting: self.splitting.clone(),
            account: Arc::clone(&self.account),
            arms: Arc::clone(&self.arms),
            key: self.key.clone(),
            name: self.name.clone(),
            observe: Arc::clone(&self.observe),
        }
    }
}

impl<O> fmt::Debug for SplitLayer<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = self.shared.as_ref().map(|shared| (&shared.name, shared.splitting.config()));
        f.debug_tuple("SplitLayer").field(&known).finish()
    }
}

layered! {
    /// Says which arm a request goes to; see the [module docs](self).
    SplitLayer { shared } => Split
}

/// By what an arm was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Pin,
    Key,
    Turn,
}

impl By {
    const fn word(self) -> &'static str {
        match self {
            Self::Pin => "pin",
            Self::Key => "key",
            Self::Turn => "turn",
        }
    }
}

impl<O> Shared<O> {
    /// The weight by which an arm is chosen now.
    fn weight(&self, place: usize) -> u32 {
        let Checked { config, baseline, .. } = &*self.splitting.0;
        let is_held = place != *baseline && self.arms[place].cell.is_held();
        if is_held { 0 } else { config.arms[place].1 }
    }

    /// The arm for a request. `turn` is asked for only if it goes by turn.
    fn choose(&self, head: &Head<'_>, turn: impl FnOnce() -> u64) -> (usize, By) {
        let checked = &*self.splitting.0;
        if let Some(pin) = checked.config.pins.iter().position(|pin| pin.applies(head)) {
            return (checked.pins[pin], By::Pin);
        }
        let key = self.key.as_ref().and_then(|key| key(head));
        let (chosen, by) = match key {
            Some(key) => {
                let weights = checked.identities.iter().enumerate();
                let weights = weights.map(|(place, identity)| (*identity, self.weight(place)));
                (choose::by_key(key.bits(), weights), By::Key)
            }
            None => (choose::by_turn(turn(), &checked.order, |place| self.weight(place)), By::Turn),
        };
        (chosen.unwrap_or(checked.baseline), by) // The baseline has a weight, so somebody is chosen.
    }

    /// The bucket of a window at this time, if there are windows.
    fn bucket(&self, now: Now) -> Option<u64> {
        let window = self.splitting.config().guard?.window;
        let each_ns = u64::try_from(window.as_nanos() / 10).unwrap_or(u64::MAX).max(1);
        Some(now.since_ns(self.account.start) / each_ns)
    }
}

impl<O: Observer> Shared<O> {
    /// What came of a request of an arm; in which epoch it began, if it counts.
    fn settle(&self, place: usize, epoch: Option<u64>, outcome: Outcome) {
        let arm = &self.arms[place];
        arm.observer.settled(outcome);
        let Splitting(checked) = &self.splitting;
        let (Some(epoch), Some(guard)) = (epoch, checked.config.guard) else { return };
        if outcome == Outcome::Neutral {
            return;
        }
        let Some(bucket) = self.bucket(Now::read()) else { return };
        let Some(seen) = arm.cell.count(epoch, bucket, outcome == Outcome::Failure) else { return };
        // The others are judged with results of their own; and who is held already, not again.
        if place == checked.baseline || arm.cell.is_held() {
            return;
        }
        let baseline = self.arms[checked.baseline].cell.tally(bucket);
        if window::is_worse(seen, baseline, guard.error_rate_bp, guard.min_requests) {
            let held = Held::Guard { arm: seen, baseline };
            if arm.cell.hold(epoch, held) {
                arm.observer.held(&held);
            }
        }
    }
}

impl<O: Observer> Explain for SplitLayer<O> {
    fn kind(&self) -> &'static str {
        "split"
    }

    fn name(&self) -> Option<&str> {
        self.shared.as_ref()?.name.as_deref()
    }

    fn explain(&self, _: Now, head: &mut Parts) -> Finding {
        let Some(shared) = &self.shared else { return Finding::Off };
        let turn = || shared.account.turns.load(Relaxed);
        let (place, by) = shared.choose(&Head::from(&*head), turn);
        let arms = &shared.splitting.config().arms;
        let name = &arms[place].0;
        let weights =
            arms.iter().enumerate().map(|(place, (name, _))| format!("{name} {}", shared.weight(place)));
        let weights = weights.collect::<Vec<_>>().join(", ");
        let baseline = shared.splitting.baseline();
        let held = arms.iter().zip(&*shared.arms).filter_map(|((name, _), arm)| {
            Some(match arm.cell.held()? {
                Held::Guard { arm, baseline: it } => format!(
                    "; `{name}` is held: {} of {} failed, and {} of {} of `{baseline}`",
                    arm.failed, arm.total, it.failed, it.total
                ),
                Held::ByHand => format!("; `{name}` is held by hand"),
            })
        });
        let said = format!("arm {name}, by {}; weights {weights}{}", by.word(), held.collect::<String>());
        SplitArm(Arc::clone(name)).put(&mut head.extensions);
        Finding::Admit(said)
    }
}

impl<S, O, B, R> Service<Request<B>> for Split<S, O>
where
    S: Service<Request<B>, Response = Response<R>>,
    O: Observer,
    R: Body,
{
    type Response = Response<Guarded<R, OfArm<O>>>;
    type Error = S::Error;
    type Future = SplitFuture<S::Future, O>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let Some(shared) = &self.layer.shared else {
            return SplitFuture { future: self.inner.call(request), of_arm: None };
        };
        // Relaxed: the number orders nothing.
        let turn = || shared.account.turns.fetch_add(1, Relaxed);
        let (place, by) = shared.choose(&Head::from(&request), turn);
        let arm = &shared.arms[place];
        arm.observer.admitted();
        let epoch = (by != By::Pin).then(|| arm.cell.epoch());
        let of_arm = OfArm { shared: Some(Arc::clone(shared)), place, epoch, seen: Seen::Body };
        SplitArm(Arc::clone(&shared.splitting.config().arms[place].0)).put(request.extensions_mut());
        SplitFuture { future: self.inner.call(request), of_arm: Some(of_arm) }
    }
}

/// One request that went to an arm. It says once what came of it; dropped before, that nothing is known.
pub struct OfArm<O: Observer = ()> {
    /// None: it has said so.
    shared: Option<Arc<Shared<O>>>,
    place: usize,
    epoch: Option<u64>,
    seen: Seen,
}

impl<O: Observer> OfArm<O> {
    /// The head of the response is there, or an error.
    fn answered<R, E>(&mut self, result: &Result<Response<R>, E>) {
        let Some(shared) = &self.shared else { return };
        let classifier = &shared.splitting.config().classifier;
        self.seen = if result.as_ref().is_ok_and(has_nobody) {
            Seen::Decided(Outcome::Failure)
        } else {
            classifier.result(result)
        };
        if let Seen::Decided(outcome) = self.seen {
            self.say(outcome);
        }
    }

    const fn is_settled(&self) -> bool {
        self.shared.is_none()
    }

    fn say(&mut self, outcome: Outcome) {
        if let Some(shared) = self.shared.take() {
            shared.settle(self.place, self.epoch, outcome);
        }
    }
}

/// Nobody is there who could have answered. A subset that is empty is not meant: which it is can be what the request says.
fn has_nobody<R>(response: &Response<R>) -> bool {
    let rejection = response.extensions().get::<Rejection>();
    rejection.is_some_and(|it| matches!(it.reason, Reason::NoEndpoint | Reason::CircuitOpen))
}

impl<O: Observer> guard::Guard for OfArm<O> {
    fn trailers(&mut self, trailers: &HeaderMap) {
        if let Some(shared) = &self.shared {
            self.seen = shared.splitting.config().classifier.trailers(self.seen, trailers);
        }
    }

    fn end(mut self, end: End) {
        self.say(self.seen.end(end));
    }
}

impl<O: Observer> Drop for OfArm<O> {
    fn drop(&mut self) {
        self.say(Outcome::Neutral);
    }
}

impl<O: Observer> fmt::Debug for OfArm<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OfArm").field("place", &self.place).field("seen", &self.seen).finish_non_exhaustive()
    }
}

pin_project! {
    /// The future of [`Split`].
    pub struct SplitFuture<F, O = ()>
    where
        O: Observer,
    {
        #[pin]
        future: F,
        of_arm: Option<OfArm<O>>,
    }
}

impl<F, O, R, E> Future for SplitFuture<F, O>
where
    F: Future<Output = Result<Response<R>, E>>,
    O: Observer,
    R: Body,
{
    type Output = Result<Response<Guarded<R, OfArm<O>>>, E>;

    fn poll(self: Pinned<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let result = ready!(this.future.poll(cx));
        let mut of_arm = this.of_arm.take();
        if let Some(of_arm) = &mut of_arm {
            of_arm.answered(&result);
        }
        let of_arm = of_arm.filter(|of_arm| !of_arm.is_settled()); // The body has nothing more to say.
        Poll::Ready(result.map(|response| response.map(|body| Guarded::new(body, of_arm))))
    }
}

impl<F, O: Observer> fmt::Debug for SplitFuture<F, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SplitFuture").finish_non_exhaustive()
    }
}
