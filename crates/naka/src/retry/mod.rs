//! Retries: a request that failed at one endpoint is sent again, preferably to another.
//!
//! # Decision
//! 1. An attempt has failed if [`When`] says so: no connection, or a refusal without a look (of which any method may be
//!    sent again, because nothing was done), a connection that ended before a response, or one of a few statuses. A refusal of our own
//!    (a limit, a full bulkhead, no endpoint) is none: it would be refused again.
//! 2. What may have been seen is sent again only if twice has the effect of once: by its method
//!    (RFC 9110, section 9.2.2), or by an `Idempotency-Key`, where whoever is behind is said to remember keys.
//! 3. All of the body has to be there still: what was sent is kept up to a bound. What was not touched is there.
//! 4. At most [`max`](RetryConfig::max) attempts follow the first. A `Retry-After` is waited for if it is short;
//!    else the pause is by chance, below a bound that doubles.
//! 5. The answer has to be of use when it comes: an attempt that could only begin after the
//!    [`Deadline`] is not made.
//! 6. All retries of an upstream spend one [`Budget`]: a share of its requests, and a few a second.
//! 7. One that retries is enough, of all that a request goes through. Attempts after the first say [`ATTEMPT`],
//!    and whoever is behind does not retry them; a failure that was tried again in vain says it, too, and
//!    whoever is in front leaves it at that. (Three layers that try three times send 27.)
//!
//! If no other attempt is made, the response of the last is the answer, as it is but for that.
//!
//! # Where it stands
//! Outside of the balancer, which chooses another endpoint than those that were
//! tried; inside of the total timeout, which ends the attempt under way; inside of everything that counts callers.
//!
//! # Units and limits
//! Bodies are kept up to [`max_body`](RetryConfig::max_body) bytes for each request under way. A request that
//! may be retried costs a copy of its head and a box; one that has a body, two more. Pauses are tokio's timer's.
//!
//! # State
//! The budget, which all services of the layer and its clones spend from;
//! [`reconfigured`](RetryLayer::reconfigured) keeps it.
//!
//! # Errors and panics
//! `S::Error` passes unchanged, and is not retried: a stack of ours answers instead. The service below has to be
//! `Clone`, and is asked whether it is ready before each attempt.
//!
//! # Example
//! ```
//! # use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
//! # use http::{Request, Response, StatusCode};
//! # use http_body_util::Empty;
//! # use tower::{Layer, ServiceExt};
//! use naka::retry::{Budget, BudgetConfig, Replay, RetryConfig, RetryLayer};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() {
//! # static ASKED: AtomicU32 = AtomicU32::new(0);
//! let fails_once = tower::service_fn(|_: Request<Replay<Empty<bytes::Bytes>>>| async {
//!     let status = if ASKED.fetch_add(1, Relaxed) == 0 { 503 } else { 200 };
//!     Ok::<_, ()>(Response::builder().status(status).body(()).unwrap())
//! });
//! let budget = Budget::new(BudgetConfig::new(), naka::clock::Now::read());
//! let service = RetryLayer::new(RetryConfig::new(1), budget).layer(fails_once);
//! let response = service.oneshot(Request::get("/rides/7").body(Empty::new()).unwrap()).await.unwrap();
//! assert_eq!((response.status(), ASKED.load(Relaxed)), (StatusCode::OK, 2));
//! # }
//! ```
//!
//! [`Deadline`]: crate::context::Deadline

use std::{
    fmt,
    future::Future,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, request::Parts};
use http_body::Body;
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};
use tower_service::Service;

use crate::{
    BoxError,
    attempt::{Sent, Tried},
    clock::Now,
    context::Deadline,
    explain::{Explain, Finding},
    held::Part,
    layered::layered,
    observe::Observer,
    random::{Numbers, seed},
    replay::Source,
    trace::note,
};

mod config;
mod decide;

pub use crate::{
    attempt::{ATTEMPT, Stop},
    budget::{Balance, Budget, BudgetConfig},
    replay::Replay,
};
pub use config::{Backoff, MAX, Methods, RetryConfig, When};
use decide::{Asked, Failure};

/// Applies [`Retry`]; see the [module docs](self) for an example.
#[must_use]
pub struct RetryLayer<O = ()> {
    shared: Option<Arc<Shared<O>>>,
}

struct Shared<O> {
    config: RetryConfig,
    budget: Budget,
    random: Numbers,
    name: Option<Arc<str>>,
    observer: O,
}

impl RetryLayer {
    /// These retries, from that budget.
    pub fn new(config: RetryConfig, budget: Budget) -> Self {
        Self::observed(config, budget, ())
    }
}

impl<O> RetryLayer<O> {
    /// The same, with somebody who hears of it.
    pub fn observed(config: RetryConfig, budget: Budget, observer: O) -> Self {
        let random = numbers(&config);
        Self { shared: Some(Arc::new(Shared { config, budget, random, name: None, observer })) }
    }

    /// A layer that is not there.
    pub const fn off() -> Self {
        Self { shared: None }
    }

    /// Whether it is a layer that is not there.
    pub const fn is_off(&self) -> bool {
        self.shared.is_none()
    }

    /// Other retries, from that budget, which may be the same.
    pub fn reconfigured(&self, config: RetryConfig, budget: Budget, observer: O) -> Self {
        match &self.shared {
            Some(_) => Self::observed(config, budget, observer),
            None => Self::off(),
        }
    }

    /// Names the policy, in what it explains.
    pub fn named(self, name: &Arc<str>) -> Self
    where
        O: Clone,
    {
        let Some(Shared { config, budget, observer, .. }) = self.shared.as_deref() else {
            return Self::off();
        };
        let (config, budget, observer) = (config.clone(), budget.clone(), observer.clone());
        let random = numbers(&config);
        let name = Some(Arc::clone(name));
        Self { shared: Some(Arc::new(Shared { config, budget, random, name, observer })) }
    }

    /// What retries are spent from.
    pub fn budget(&self) -> Option<&Budget> {
        self.shared.as_ref().map(|shared| &shared.budget)
    }
}

fn numbers(config: &RetryConfig) -> Numbers {
    Numbers::new(config.seed.unwrap_or_else(seed))
}

impl<O> fmt::Debug for RetryLayer<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RetryLayer").field("config", &self.shared.as_ref().map(|it| &it.config)).finish()
    }
}

layered! {
    /// Sends again what failed; see the [module docs](self).
    RetryLayer { shared } => Retry
}

impl<O: Observer> Explain for RetryLayer<O> {
    fn kind(&self) -> &'static str {
        "retry"
    }

    fn name(&self) -> Option<&str> {
        self.shared.as_ref()?.name.as_deref()
    }

    fn explain(&self, now: Now, head: &mut Parts) -> Finding {
        let Some(shared) = &self.shared else { return Finding::Off };
        if head.headers.contains_key(ATTEMPT) {
            return Finding::Admit("not retried here: somebody in front retries already".to_owned());
        }
        let asked = Asked::of_head(&shared.config, head);
        let what = if asked.is_repeatable { "what failed" } else { "what was never sent" };
        let Balance { spent, allowed } = shared.budget.balance(now);
        let (max, left) = (shared.config.max, allowed.saturating_sub(spent));
        Finding::Admit(format!("{what} is sent again, up to {max} times; {left} of {allowed} retries left"))
    }
}

impl<S, O, B, R> Service<Request<B>> for Retry<S, O>
where
    S: Service<Request<Replay<B>>, Response = Response<R>> + Clone,
    O: Observer,
    B: Body<Data = Bytes, Error: Into<BoxError>> + Default,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = RetryFuture<S, S::Future, B, O>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let shared = self.layer.shared.as_ref().filter(|_| !request.headers().contains_key(ATTEMPT));
        let Some(shared) = shared else {
            return RetryFuture::Sent { future: self.inner.call(request.map(Replay::once)), plan: None };
        };
        let now = Now::of(request.extensions());
        let (mut head, body) = request.into_parts();
        shared.budget.deposit_once(&mut head.extensions, now);
        if shared.config.different_endpoint && Tried::of(&head.extensions).is_none() {
            Tried::new().put(&mut head.extensions); // Its copies share it.
        }
        let (source, first) = Source::of(body, shared.config.max_body, Part::of(&head.extensions));
        // The instance that was ready sends the first attempt; its clone stays here.
        let clone = self.inner.clone();
        let mut inner = mem::replace(&mut self.inner, clone);
        let asked = Asked::of_head(&shared.config, &head);
        let deadline = Deadline::of(&head.extensions);
        let future = inner.call(Request::from_parts(head.clone(), first));
        let shared = Arc::clone(shared);
        let plan = Plan { asked, deadline, head, source, attempts: 1, was_sent: false, shared, inner };
        RetryFuture::Sent { future, plan: Some(Box::new(plan)) }
    }
}

/// What another attempt needs.
struct Plan<S, B, O> {
    asked: Asked,
    deadline: Option<Instant>,
    head: Parts,
    source: Source<B>,
    attempts: u32,
    /// Whether whoever is behind may have seen an attempt before this one.
    was_sent: bool,
    shared: Arc<Shared<O>>,
    inner: S,
}

impl<S, B: Body<Data = Bytes> + Default, O: Observer> Plan<S, B, O> {
    /// When another attempt follows this response; `None` if none does.
    fn next<R>(&mut self, response: &mut Response<R>) -> Option<Instant> {
        if self.was_sent {
            // A last attempt of which nothing was sent does not say so of those before it.
            response.extensions_mut().insert(Sent);
        }
        let failure = Failure::of(&self.shared.config, response)?;
        self.was_sent |= !failure.is_unsent;
        let is_nested = response.headers().contains_key(ATTEMPT);
        let judged = if is_nested { Err(Stop::Nested) } else { self.judge(failure) };
        match judged {
            Ok(at) => {
                self.attempts += 1;
                self.shared.observer.retried();
                note(&self.head.extensions, "retried", self.shared.name.as_ref(), None);
                Some(at)
            }
            Err(stop) => {
                if !is_nested && (self.attempts > 1 || stop == Stop::Budget) {
                    response.headers_mut().insert(ATTEMPT, HeaderValue::from(self.attempts));
                }
                self.shared.observer.not_retried(stop);
                note(&self.head.extensions, "not_retried", self.shared.name.as_ref(), Some(stop.word()));
                None
            }
        }
    }

    fn judge(&self, failure: Failure) -> Result<Instant, Stop> {
        let Self { asked, source, attempts, shared, .. } = self;
        let pause = decide::evaluate(&shared.config, *asked, failure, source.is_whole(), *attempts)?;
        let now = Now::read(); // Time has gone by since the request came.
        let at = now.instant() + pause.max(decide::backoff(&shared.config, *attempts, shared.random.draw()));
        if self.deadline.is_some_and(|deadline| at >= deadline) {
            return Err(Stop::Deadline);
        }
        if !shared.budget.withdraw(now) {
            return Err(Stop::Budget);
        }
        Ok(at)
    }

    fn request(&self) -> Request<Replay<B>> {
        let mut head = self.head.clone();
        head.headers.insert(ATTEMPT, HeaderValue::from(self.attempts));
        Request::from_parts(head, self.source.copy())
    }
}

pin_project! {
    /// The future of [`Retry`].
    #[project = Projection]
    pub enum RetryFuture<S, F, B, O> {
        /// An attempt is under way.
        #[doc(hidden)]
        Sent { #[pin] future: F, plan: Option<Box<Plan<S, B, O>>> },
        /// The next one has to wait.
        #[doc(hidden)]
        Paused { #[pin] sleep: Sleep, plan: Option<Box<Plan<S, B, O>>> },
    }
}

impl<S, F, B, O> fmt::Debug for RetryFuture<S, F, B, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sent { .. } => "RetryFuture::Sent",
            Self::Paused { .. } => "RetryFuture::Paused",
        })
    }
}

impl<S, B, O, R> Future for RetryFuture<S, S::Future, B, O>
where
    S: Service<Request<Replay<B>>, Response = Response<R>>,
    B: Body<Data = Bytes, Error: Into<BoxError>> + Default,
    O: Observer,
{
    type Output = Result<Response<R>, S::Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            let next = match self.as_mut().project() {
                Projection::Sent { future, plan } => {
                    let mut response = ready!(future.poll(cx))?;
                    let at = plan.as_mut().and_then(|plan| plan.next(&mut response));
                    let Some(at) = at else { return Poll::Ready(Ok(response)) };
                    drop(response); // What is left of it is of no use, and holds a connection.
                    Self::Paused { sleep: sleep_until(at), plan: plan.take() }
                }
                Projection::Paused { sleep, plan } => {
                    ready!(sleep.poll(cx));
                    let known = plan.as_mut().expect("a pause is followed by an attempt");
                    ready!(known.inner.poll_ready(cx))?;
                    let request = known.request();
                    let future = known.inner.call(request);
                    Self::Sent { future, plan: plan.take() }
                }
            };
            self.set(next);
        }
    }
}
