//! Hedges: a request that is not answered for a while is sent once more, to another endpoint, and the first good answer
//! is taken.
//!
//! A retry helps against what fails; a hedge against what is slow now and then: a collection of garbage, a full queue, an
//! endpoint that hangs. Sent after a time that 95 of 100 answers do not take, it adds one request in twenty and cuts the
//! tail off (J. Dean and L. A. Barroso, "The Tail at Scale", 2013; the "backup requests" of Finagle).
//!
//! # Decision
//! 1. A request is hedged if it may be done twice *at the same time*: safe methods (RFC 9110, section 9.2.1), or
//!    idempotent ones if that is said, or one with an `Idempotency-Key`, where whoever is behind is said to
//!    do such a request only once. All others pass: a POST is sent once.
//! 2. Another attempt follows if there is no answer [`after`](HedgeConfig::after) the last one was sent: a time, or a
//!    [percentile](After::Percentile) of what answers took in the last half minute. At most
//!    [`max`](HedgeConfig::max) follow the first.
//! 3. All of the body has to have been sent by then, and be there still: it is kept up to a bound, as retries do.
//! 4. It spends the [`Budget`] of the upstream, as retries do, and is not sent after the [`Deadline`]. What is not sent for
//!    one of these reasons is not thought of again: the attempts under way go on.
//! 5. The first answer that is no failure ([`Classifier`]) is the answer. A failure is one only if no other attempt is
//!    under way: what failed *before* there was a second attempt is the business of [retries](crate::retry).
//! 6. The other attempts are dropped then, which is no failure of whoever was asked: who balances, and who breaks circuits,
//!    know only that it took longer than that.
//!    A balancer's cookie stays with the endpoint that it is of.
//! 7. Attempts after the first say [`ATTEMPT`], and whoever is behind sends them once. One that somebody in
//!    front has sent again is not hedged. If all of several attempts failed, the answer says how many there were.
//!
//! # Where it stands
//! Outside of retries, which send again what the first attempt failed at, and of the balancer, which chooses
//! another endpoint than those that were tried. Inside of everything that counts callers: all attempts at
//! a request have one place in a bulkhead.
//!
//! # Units and limits
//! Bodies are kept up to [`max_body`](HedgeConfig::max_body) bytes for each request under way. A request that may be
//! hedged costs a copy of its head and a box, and a timer of tokio's; each attempt after the first another box. The
//! histogram of a percentile takes 3.5 KiB.
//!
//! # State
//! The budget, and the histogram; [`reconfigured`](HedgeLayer::reconfigured) keeps both.
//!
//! # Errors and panics
//! `S::Error` passes unchanged, unless another attempt is under way: then it is a failure like others. The service below
//! has to be `Clone`, and is asked whether it is ready before each attempt.
//!
//! # Example
//! ```
//! # use std::{sync::atomic::{AtomicU32, Ordering::Relaxed}, time::Duration};
//! # use http::{Request, Response};
//! # use http_body_util::Empty;
//! # use tower::{Layer, ServiceExt};
//! use naka::{budget::{Budget, BudgetConfig}, clock::Now, hedge::{After, HedgeConfig, HedgeLayer}, replay::Replay};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() {
//! # static ASKED: AtomicU32 = AtomicU32::new(0);
//! let hangs_at_first = tower::service_fn(|_: Request<Replay<Empty<bytes::Bytes>>>| async {
//!     if ASKED.fetch_add(1, Relaxed) == 0 {
//!         std::future::pending::<()>().await;
//!     }
//!     Ok::<_, ()>(Response::new(()))
//! });
//! let config = HedgeConfig::new(After::Fixed(Duration::from_millis(50)));
//! let budget = Budget::new(BudgetConfig::new(), Now::read());
//! let service = HedgeLayer::new(config, budget).layer(hangs_at_first);
//! let response = service.oneshot(Request::get("/rides/7").body(Empty::new()).unwrap()).await.unwrap();
//! assert_eq!((response.status().as_u16(), ASKED.load(Relaxed)), (200, 2));
//! # }
//! ```
//!
//! [`Classifier`]: crate::classify::Classifier

use std::{
    fmt,
    future::Future,
    mem,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, request::Parts};
use http_body::Body;
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};
use tower_service::Service;

use crate::{
    BoxError,
    attempt::{ATTEMPT, Beside, Sent, Stop, Tried, is_unsent},
    budget::{Balance, Budget},
    classify::{Classifier, Outcome, Seen},
    clock::Now,
    context::{Deadline, Upgrade},
    explain::{Explain, Finding},
    held::Part,
    layered::layered,
    observe::Observer,
    replay::{Replay, Source},
    trace::note,
};

mod config;
mod latencies;

pub use config::{After, HedgeConfig, MAX, Methods};
pub use latencies::Latencies;

/// Applies [`Hedge`]; see the [module docs](self) for an example.
#[must_use]
pub struct HedgeLayer<O = ()> {
    shared: Option<Arc<Shared<O>>>,
}

struct Shared<O> {
    config: HedgeConfig,
    budget: Budget,
    latencies: Latencies,
    /// The version of the latencies, and the percentile of that one in microseconds.
    percentile: AtomicU64,
    name: Option<Arc<str>>,
    observer: O,
}

impl HedgeLayer {
    /// These hedges, from that budget.
    pub fn new(config: HedgeConfig, budget: Budget) -> Self {
        Self::observed(config, budget, Latencies::new(Now::read()), ())
    }
}

impl<O> HedgeLayer<O> {
    /// The same, by the latencies of before, with somebody who hears of it.
    pub fn observed(config: HedgeConfig, budget: Budget, latencies: Latencies, observer: O) -> Self {
        let percentile = AtomicU64::new(u64::MAX);
        let shared = Shared { config, budget, latencies, percentile, name: None, observer };
        Self { shared: Some(Arc::new(shared)) }
    }

    /// A layer that is not there.
    pub const fn off() -> Self {
        Self { shared: None }
    }

    /// Whether it is a layer that is not there.
    pub const fn is_off(&self) -> bool {
        self.shared.is_none()
    }

    /// Other hedges, from that budget, which may be the same, and by the same latencies.
    pub fn reconfigured(&self, config: HedgeConfig, budget: Budget, observer: O) -> Self {
        match &self.shared {
            Some(shared) => Self::observed(config, budget, shared.latencies.clone(), observer),
            None => Self::off(),
        }
    }

    /// Names the policy, in what it explains.
    pub fn named(self, name: &Arc<str>) -> Self
    where
        O: Clone,
    {
        let Some(Shared { config, budget, latencies, observer, .. }) = self.shared.as_deref() else {
            return Self::off();
        };
        let (budget, latencies, observer) = (budget.clone(), latencies.clone(), observer.clone());
        let (percentile, name) = (AtomicU64::new(u64::MAX), Some(Arc::clone(name)));
        Self {
            shared: Some(Arc::new(Shared { config: *config, budget, latencies, percentile, name, observer })),
        }
    }

    /// What hedges are spent from.
    pub fn budget(&self) -> Option<&Budget> {
        self.shared.as_ref().map(|shared| &shared.budget)
    }

    /// How long an attempt is waited for now.
    pub fn after(&self, now: Now) -> Option<Duration> {
        self.shared.as_ref().map(|shared| shared.after(now))
    }
}

impl<O> fmt::Debug for HedgeLayer<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HedgeLayer").field("config", &self.shared.as_ref().map(|it| &it.config)).finish()
    }
}

impl<O> Shared<O> {
    /// How long an attempt is waited for now. A percentile is computed anew when there is enough that is new.
    fn after(&self, now: Now) -> Duration {
        let After::Percentile { percent, at_least, at_most } = self.config.after else {
            return self.config.fixed();
        };
        let version = self.latencies.version(now);
        let (known, us) = unpack(self.percentile.load(Relaxed));
        let us = if known == version {
            us
        } else {
            let found = self.latencies.percentile(percent, now);
            let us = found.map_or(u32::MAX, |it| u32::try_from(it.as_micros()).unwrap_or(u32::MAX));
            self.percentile.store(u64::from(version) << 32 | u64::from(us), Relaxed);
            us
        };
        if us == u32::MAX { at_most } else { Duration::from_micros(us.into()).clamp(at_least, at_most) }
    }
}

impl HedgeConfig {
    const fn fixed(&self) -> Duration {
        match self.after {
            After::Fixed(after) => after,
            After::Percentile { at_most, .. } => at_most,
        }
    }

    /// Whether it may be done twice at the same time. An upgrade may not: both could begin.
    fn may_hedge(&self, head: &Parts) -> bool {
        let Parts { method, headers, extensions, .. } = head;
        if Upgrade::is_asked(extensions) {
            return false;
        }
        let by_method = match self.methods {
            Methods::Safe => method.is_safe(),
            Methods::Idempotent => method.is_idempotent(),
        };
        by_method || self.keyed && headers.contains_key("idempotency-key")
    }
}

fn unpack(word: u64) -> (u32, u32) {
    let half = |bits: u64| u32::try_from(bits & u64::from(u32::MAX)).unwrap_or(u32::MAX);
    (half(word >> 32), half(word))
}

layered! {
    /// Sends once more what is not answered; see the [module docs](self).
    HedgeLayer { shared } => Hedge
}

impl<O: Observer> Explain for HedgeLayer<O> {
    fn kind(&self) -> &'static str {
        "hedge"
    }

    fn name(&self) -> Option<&str> {
        self.shared.as_ref()?.name.as_deref()
    }

    fn explain(&self, now: Now, head: &mut Parts) -> Finding {
        let Some(shared) = &self.shared else { return Finding::Off };
        if head.headers.contains_key(ATTEMPT) {
            return Finding::Admit("not hedged here: somebody in front tries again already".to_owned());
        }
        if !shared.config.may_hedge(head) {
            return Finding::Admit(format!("not hedged: {} may not be done twice at once", head.method));
        }
        let after = shared.after(now);
        let by = match shared.config.after {
            After::Fixed(_) => String::new(),
            After::Percentile { percent, .. } if shared.latencies.percentile(percent, now).is_some() => {
                format!(", in which {percent}% are answered")
            }
            After::Percentile { .. } => ", as too few answers have been seen".to_owned(),
        };
        let Balance { spent, allowed } = shared.budget.balance(now);
        let (max, left) = (shared.config.max, allowed.saturating_sub(spent));
        Finding::Admit(format!(
            "sent once more after {after:?}{by}, up to {max} times; {left} of {allowed} retries left"
        ))
    }
}

impl<S, O, B, R> Service<Request<B>> for Hedge<S, O>
where
    S: Service<Request<Replay<B>>, Response = Response<R>> + Clone,
    O: Observer,
    B: Body<Data = Bytes, Error: Into<BoxError>> + Default,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = HedgeFuture<S, S::Future, B, O>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let once = |first| HedgeFuture { first: Some(first), alarm: None, race: None };
        let shared = self.layer.shared.as_ref().filter(|_| !request.headers().contains_key(ATTEMPT));
        let Some(shared) = shared else { return once(self.inner.call(request.map(Replay::once))) };
        let now = Now::of(request.extensions());
        let (mut head, body) = request.into_parts();
        shared.budget.deposit_once(&mut head.extensions, now);
        if !shared.config.may_hedge(&head) {
            return once(self.inner.call(Request::from_parts(head, Replay::once(body))));
        }
        if Tried::of(&head.extensions).is_none() {
            Tried::new().put(&mut head.extensions); // Its copies share it.
        }
        let (source, first) = Source::of(body, shared.config.max_body, Part::of(&head.extensions));
        // The instance that was ready sends the first attempt; its clone stays here.
        let clone = self.inner.clone();
        let mut inner = mem::replace(&mut self.inner, clone);
        let future = inner.call(Request::from_parts(head.clone(), first));
        // What went by before this layer is not the endpoint's.
        let now = Now::read();
        let after = shared.after(now);
        let race = Race {
            deadline: Deadline::of(&head.extensions),
            head,
            source,
            sent: now,
            after,
            step: now.instant().checked_add(after).map_or(Step::Over, Step::Waits),
            attempts: 1,
            was_sent: false,
            more: Vec::new(),
            shared: Arc::clone(shared),
            inner,
        };
        HedgeFuture { first: Some(future), alarm: None, race: Some(Box::new(race)) }
    }
}

/// What stands behind a request that may be hedged.
struct Race<S, F, B, O> {
    deadline: Option<Instant>,
    head: Parts,
    source: Source<B>,
    /// When the first attempt was sent.
    sent: Now,
    after: Duration,
    step: Step,
    attempts: u32,
    /// Whether whoever is behind may have seen an attempt that has ended.
    was_sent: bool,
    /// The attempts under way, after the first.
    more: Vec<Pin<Box<F>>>,
    shared: Arc<Shared<O>>,
    inner: S,
}

/// What comes next, if no answer does.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// Another attempt, at that time.
    Waits(Instant),
    /// Another attempt, as soon as the service is ready.
    Sends,
    /// No other attempt.
    Over,
}

const CLASSIFIER: Classifier = Classifier::new();

impl<S, F, B, O> Race<S, F, B, O>
where
    B: Body<Data = Bytes> + Default,
    O: Observer,
{
    /// Whether another attempt is sent now that its time has come.
    fn judge(&self, now: Now) -> Result<(), Stop> {
        match () {
            () if self.deadline.is_some_and(|deadline| now.instant() >= deadline) => Err(Stop::Deadline),
            () if !self.source.is_taped() => Err(Stop::Body),
            () if !self.shared.budget.withdraw(now) => Err(Stop::Budget),
            () => Ok(()),
        }
    }

    fn request(&mut self) -> Request<Replay<B>> {
        self.attempts += 1;
        let mut head = self.head.clone();
        head.headers.insert(ATTEMPT, HeaderValue::from(self.attempts));
        head.extensions.insert(Beside);
        Request::from_parts(head, self.source.again())
    }

    /// What an attempt came to is the answer, if it is a good one or `is_last`.
    fn ended<R, E>(
        &mut self,
        mut result: Result<Response<R>, E>,
        is_first: bool,
        is_last: bool,
    ) -> Option<Result<Response<R>, E>> {
        let is_good = match (CLASSIFIER.result(&result), &result) {
            (Seen::Decided(Outcome::Failure), _) | (_, Err(_)) => false,
            // A refusal of ours that blames nobody is no answer either.
            (Seen::Decided(Outcome::Neutral), Ok(response)) => !is_refusal(response),
            _ => true,
        };
        if is_good {
            let now = Now::read();
            self.shared.latencies.record(now.instant().saturating_duration_since(self.sent.instant()), now);
            if !is_first {
                self.shared.observer.hedge_won();
                note(&self.head.extensions, "hedge_won", self.shared.name.as_ref(), None);
            }
            return Some(result);
        }
        if !is_last {
            self.was_sent |= result.as_ref().map_or(true, |response| !is_unsent(response));
            return None;
        }
        if let Ok(response) = &mut result
            && self.attempts > 1
        {
            if self.was_sent {
                response.extensions_mut().insert(Sent);
            }
            response.headers_mut().entry(ATTEMPT).or_insert(HeaderValue::from(self.attempts));
        }
        Some(result)
    }
}

fn is_refusal<R>(response: &Response<R>) -> bool {
    response.extensions().get::<crate::reject::Rejection>().is_some()
}

pin_project! {
    /// The future of [`Hedge`].
    pub struct HedgeFuture<S, F, B, O> {
        // Until it has ended.
        #[pin]
        first: Option<F>,
        // Made when it is first waited for.
        #[pin]
        alarm: Option<Sleep>,
        // Without one, the first is all there is.
        race: Option<Box<Race<S, F, B, O>>>,
    }
}

impl<S, F, B, O> fmt::Debug for HedgeFuture<S, F, B, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let attempts = self.race.as_ref().map_or(1, |race| race.attempts);
        f.debug_struct("HedgeFuture").field("attempts", &attempts).finish_non_exhaustive()
    }
}

impl<S, B, O, R> Future for HedgeFuture<S, S::Future, B, O>
where
    S: Service<Request<Replay<B>>, Response = Response<R>>,
    B: Body<Data = Bytes, Error: Into<BoxError>> + Default,
    O: Observer,
{
    type Output = Result<Response<R>, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let Some(race) = this.race else {
            let first = this.first.as_pin_mut().expect("a future is not polled after it is ready");
            return first.poll(cx);
        };
        loop {
            if let Some(answer) = poll_attempts(this.first.as_mut(), race, cx) {
                this.first.set(None);
                race.more = Vec::new(); // They hold connections.
                return Poll::Ready(answer);
            }
            match race.step {
                Step::Over => return Poll::Pending,
                Step::Waits(at) => {
                    if this.alarm.is_none() {
                        this.alarm.set(Some(sleep_until(at)));
                    }
                    let mut alarm = this.alarm.as_mut().as_pin_mut().expect("made above");
                    if alarm.deadline() != at {
                        alarm.as_mut().reset(at);
                    }
                    ready!(alarm.poll(cx));
                    race.step = match race.judge(Now::read()) {
                        Ok(()) => Step::Sends,
                        Err(stop) => {
                            race.shared.observer.not_retried(stop);
                            note(
                                &race.head.extensions,
                                "not_hedged",
                                race.shared.name.as_ref(),
                                Some(stop.word()),
                            );
                            Step::Over
                        }
                    };
                }
                Step::Sends => {
                    // One that fails to be ready sends nothing: those under way go on.
                    let Ok(()) = ready!(race.inner.poll_ready(cx)) else {
                        race.step = Step::Over;
                        continue;
                    };
                    race.shared.observer.hedged();
                    note(&race.head.extensions, "hedged", race.shared.name.as_ref(), None);
                    let request = race.request();
                    race.more.push(Box::pin(race.inner.call(request)));
                    let next = Now::read().instant().checked_add(race.after);
                    let is_more = race.attempts <= race.shared.config.max;
                    race.step = next.filter(|_| is_more).map_or(Step::Over, Step::Waits);
                }
            }
        }
    }
}

/// Asks all attempts that are under way; what the whole comes to, if that is known now.
fn poll_attempts<S, F, B, O, R, E>(
    mut first: Pin<&mut Option<F>>,
    race: &mut Race<S, F, B, O>,
    cx: &mut Context<'_>,
) -> Option<Result<Response<R>, E>>
where
    F: Future<Output = Result<Response<R>, E>>,
    B: Body<Data = Bytes> + Default,
    O: Observer,
{
    if let Some(attempt) = first.as_mut().as_pin_mut()
        && let Poll::Ready(result) = attempt.poll(cx)
    {
        first.set(None);
        let is_last = race.more.is_empty();
        if let Some(answer) = race.ended(result, true, is_last) {
            return Some(answer);
        }
    }
    let mut place = 0;
    while let Some(attempt) = race.more.get_mut(place) {
        let Poll::Ready(result) = attempt.as_mut().poll(cx) else {
            place += 1;
            continue;
        };
        drop(race.more.swap_remove(place));
        let is_last = first.is_none() && race.more.is_empty();
        if let Some(answer) = race.ended(result, false, is_last) {
            return Some(answer);
        }
    }
    None
}
