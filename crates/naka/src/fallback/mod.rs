//! Fallbacks: what failed is answered in another way, once.
//!
//! # Decision
//! 1. The request has failed if [`When`] says so: a refusal of ours that is about whoever is behind (no connection, no
//!    answer in time, an open breaker, no endpoint, a full bulkhead), or one of a few statuses. A fault that was asked for
//!    counts as its status. All else is an answer, or is about whoever asks, and passes.
//! 2. A [response of its own](FallbackLayer::respond) is given for any request.
//! 3. An [alternate](FallbackLayer::alternate) is asked for what is safe (RFC 9110, section 9.2.1), and for any other
//!    method only if whoever is behind has provably seen nothing of it: [`Reason::is_before_sending`], of all attempts
//!    that there were ([`Sent`]). An idempotent method is not enough: what is idempotent at one service is done twice by two.
//! 4. All of the body has to be there still: what was sent is kept up to a bound, as retries do.
//! 5. An alternate is not asked after the [`Deadline`], and not for what somebody in front tries again ([`ATTEMPT`]):
//!    that one has an alternate, too.
//! 6. What may have been seen and is asked elsewhere is an attempt more, and spends the [`Budget`] of whoever failed, as
//!    its retries do. What was never sent multiplies nothing, and spends none: with the whole of a service down
//!    all of its requests go elsewhere, and the alternate's own limits bound them.
//! 7. It is one step: what an alternate answers is the answer, a failure included. It is told that it is a
//!    second attempt, so that nobody behind it tries again.
//!
//! The answer says [`FALLBACK`] with the name of the policy. One of the layer's own also says that it is a
//! [`StandIn`], for those who remember answers, and `Cache-Control: no-store` unless it says another.
//!
//! # Where it stands
//! Outside of the circuit breaker and the bulkheads of whoever fails, so that it hears of what they refuse, and that
//! they hear of the failure; inside of the total timeout, and of whoever remembers answers. The alternate brings its own.
//!
//! # Units and limits
//! Bodies are kept up to [`max_body`](FallbackConfig::max_body) bytes for each request under way, where there is an
//! alternate: such a request costs a copy of its head and a box; one that has a body, two more. The fallback itself is boxed.
//!
//! # State
//! The budget, which belongs to whoever fails.
//!
//! # Errors and panics
//! `S::Error` passes unchanged and is no failure here: a stack of ours answers instead. An alternate cannot fail.
//!
//! # Example
//! ```
//! # use bytes::Bytes;
//! # use http::{Request, Response};
//! # use http_body_util::Empty;
//! # use tower::{Layer, ServiceExt};
//! use naka::fallback::{FALLBACK, FallbackConfig, FallbackLayer};
//! use naka::replay::Replay;
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! let busy = tower::service_fn(|_: Request<Replay<Empty<Bytes>>>| async {
//!     Ok::<_, ()>(Response::builder().status(503).body(Empty::<Bytes>::new()).unwrap())
//! });
//! let answer = Response::new(Bytes::from("no recommendations just now"));
//! let service = FallbackLayer::respond(FallbackConfig::new(), answer).layer(busy);
//! let response = service.oneshot(Request::get("/for-you").body(Empty::new()).unwrap()).await.unwrap();
//! assert_eq!(response.status(), 200);
//! assert_eq!(response.headers()[FALLBACK], "fallback");
//! # }
//! ```

use std::{
    convert::Infallible,
    fmt,
    future::{Future, poll_fn},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{
    HeaderName, HeaderValue, Request, Response, StatusCode,
    header::{CACHE_CONTROL, CONTENT_LENGTH},
    request::Parts,
};
use http_body::Body;
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower_service::Service;

use crate::{
    BoxError,
    attempt::{ATTEMPT, Sent, StandIn, Stop},
    budget::Budget,
    clock::Now,
    context::{Context as Facts, Deadline, Upgrade},
    explain::{Explain, Finding},
    held::Part,
    layered::layered,
    observe::Observer,
    reject::{Reason, Rejection},
    replay::{Replay, Source},
};

mod body;

pub use body::{AnyBody, FallbackBody};

/// Says that a response is not that of whoever was asked first, and by which policy.
pub const FALLBACK: HeaderName = HeaderName::from_static("x-fallback");

/// After what another answer is given; see the [module docs](self).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FallbackConfig {
    /// After which failures.
    pub when: When,
    /// The longest body that is kept for an alternate, in bytes; default 64 KiB.
    pub max_body: usize,
}

/// Which failures have another answer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[expect(clippy::struct_excessive_bools, reason = "each is a word of its own")]
pub struct When {
    /// No connection was made; default yes.
    pub connect_error: bool,
    /// The connection ended before a response, or what came was none; default yes.
    pub reset: bool,
    /// Whoever is behind said that it has not looked at the request; default yes.
    pub refused_stream: bool,
    /// No response came in time; default yes.
    pub response_timeout: bool,
    /// A circuit breaker is open; default yes.
    pub circuit_open: bool,
    /// There is no endpoint; default yes.
    pub no_endpoint: bool,
    /// A bulkhead is full, or the wait for a place was too long, or there are as many connections as there may be;
    /// default yes.
    pub bulkhead_full: bool,
    /// Responses with one of these; default 503.
    pub statuses: Vec<StatusCode>,
}

impl FallbackConfig {
    /// After all failures but statuses other than 503.
    pub fn new() -> Self {
        Self { when: When::usual(), max_body: 64 << 10 }
    }

    /// After which failures.
    #[must_use]
    pub fn when(mut self, when: When) -> Self {
        self.when = when;
        self
    }

    /// The longest body that is kept.
    #[must_use]
    pub const fn max_body(mut self, max_body: usize) -> Self {
        self.max_body = max_body;
        self
    }
}

impl Default for FallbackConfig {
    fn default() -> Self {
        Self::new()
    }
}

impl When {
    /// After none.
    pub const fn never() -> Self {
        Self {
            connect_error: false,
            reset: false,
            refused_stream: false,
            response_timeout: false,
            circuit_open: false,
            no_endpoint: false,
            bulkhead_full: false,
            statuses: Vec::new(),
        }
    }

    /// After all refusals, and 503.
    pub fn usual() -> Self {
        Self {
            connect_error: true,
            reset: true,
            refused_stream: true,
            response_timeout: true,
            circuit_open: true,
            no_endpoint: true,
            bulkhead_full: true,
            statuses: vec![StatusCode::SERVICE_UNAVAILABLE],
        }
    }

    /// After responses with these.
    #[must_use]
    pub fn statuses(mut self, statuses: impl IntoIterator<Item = StatusCode>) -> Self {
        self.statuses = statuses.into_iter().collect();
        self
    }

    /// What is known of a failure; `None` if it has no other answer.
    fn failure<R>(&self, response: &Response<R>) -> Option<Failure> {
        let extensions = response.extensions();
        let Some(reason) = extensions.get::<Rejection>().map(|rejection| rejection.reason) else {
            let is_wanted = self.statuses.contains(&response.status());
            return is_wanted.then_some(Failure { reason: None, is_unsent: false });
        };
        let is_unsent = reason.is_before_sending() && extensions.get::<Sent>().is_none();
        self.takes(reason).then_some(Failure { reason: Some(reason), is_unsent })
    }

    fn takes(&self, reason: Reason) -> bool {
        match reason {
            reason if reason.is_of_connecting() => self.connect_error,
            Reason::UpstreamReset | Reason::UpstreamProtocol => self.reset,
            Reason::UpstreamRefused => self.refused_stream,
            Reason::ResponseTimeout => self.response_timeout,
            Reason::CircuitOpen => self.circuit_open,
            Reason::NoEndpoint | Reason::SubsetEmpty => self.no_endpoint,
            Reason::BulkheadFull | Reason::BulkheadTimeout | Reason::ConnectionsFull => self.bulkhead_full,
            Reason::FaultInjected(status) => self.statuses.contains(&status),
            _ => false,
        }
    }
}

/// How a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Failure {
    /// If that was found here.
    reason: Option<Reason>,
    /// Whoever is behind has seen nothing of it.
    is_unsent: bool,
}

/// Whether an alternate may be asked; the budget is asked after that.
fn evaluate(failure: Failure, is_safe: bool, has_body: bool, is_over: bool) -> Result<(), Stop> {
    match () {
        () if !(is_safe || failure.is_unsent) => Err(Stop::NotRepeatable),
        () if !has_body => Err(Stop::Body),
        () if is_over => Err(Stop::Deadline),
        () => Ok(()),
    }
}

/// Applies [`Fallback`]; see the [module docs](self) for an example.
#[must_use]
pub struct FallbackLayer<O = ()> {
    shared: Option<Arc<Shared<O>>>,
}

struct Shared<O> {
    config: FallbackConfig,
    instead: Instead,
    /// As the answer says it.
    says: HeaderValue,
    name: Option<Arc<str>>,
    observer: Arc<O>,
}

/// What is done instead.
#[derive(Clone)]
enum Instead {
    Respond(Arc<Response<Bytes>>),
    Ask(Arc<Ask>, Option<Budget>),
}

/// Asks an alternate.
type Ask = dyn Fn(Request<AnyBody>) -> Asking + Send + Sync;
type Asking = Pin<Box<dyn Future<Output = Response<AnyBody>> + Send>>;

impl FallbackLayer {
    /// Gives this response.
    pub fn respond(config: FallbackConfig, response: Response<Bytes>) -> Self {
        Self::respond_observed(config, response, ())
    }

    /// Asks this service; what may have been seen spends the budget of whoever failed.
    pub fn alternate<A, R>(config: FallbackConfig, budget: Budget, alternate: A) -> Self
    where
        A: Service<Request<AnyBody>, Response = Response<R>, Error = Infallible, Future: Send>
            + Clone
            + Send
            + Sync
            + 'static,
        R: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    {
        Self::alternate_observed(config, budget, alternate, ())
    }
}

impl<O> FallbackLayer<O> {
    /// Gives this response, with somebody who hears of it.
    pub fn respond_observed(config: FallbackConfig, mut response: Response<Bytes>, observer: O) -> Self {
        let length = HeaderValue::from(response.body().len());
        response.headers_mut().insert(CONTENT_LENGTH, length);
        // What is given in place of an answer is none to be kept.
        response.headers_mut().entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
        Self::of(config, Instead::Respond(Arc::new(response)), observer)
    }

    /// Asks this service, with somebody who hears of it.
    pub fn alternate_observed<A, R>(config: FallbackConfig, budget: Budget, alternate: A, observer: O) -> Self
    where
        A: Service<Request<AnyBody>, Response = Response<R>, Error = Infallible, Future: Send>
            + Clone
            + Send
            + Sync
            + 'static,
        R: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    {
        Self::of(config, Instead::Ask(asking(alternate), Some(budget)), observer)
    }

    fn of(config: FallbackConfig, instead: Instead, observer: O) -> Self {
        let (says, observer) = (HeaderValue::from_static("fallback"), Arc::new(observer));
        Self { shared: Some(Arc::new(Shared { config, instead, says, name: None, observer })) }
    }

    /// A layer that is not there.
    pub const fn off() -> Self {
        Self { shared: None }
    }

    /// Whether it is a layer that is not there.
    pub const fn is_off(&self) -> bool {
        self.shared.is_none()
    }

    /// The same under another configuration.
    pub fn reconfigured(&self, config: FallbackConfig) -> Self {
        self.with(|shared| shared.config = config)
    }

    /// The same with another alternate, from the same budget. One that has a response of its own stays as it is.
    pub fn to<A, R>(&self, alternate: A) -> Self
    where
        A: Service<Request<AnyBody>, Response = Response<R>, Error = Infallible, Future: Send>
            + Clone
            + Send
            + Sync
            + 'static,
        R: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    {
        self.with(|shared| {
            if let Instead::Ask(ask, _) = &mut shared.instead {
                *ask = asking(alternate);
            }
        })
    }

    /// Names the policy, in what it explains and in [`FALLBACK`], as far as a header can say it.
    pub fn named(self, name: &Arc<str>) -> Self {
        self.with(|shared| {
            shared.says = HeaderValue::from_str(name).unwrap_or_else(|_| shared.says.clone());
            shared.name = Some(Arc::clone(name));
        })
    }

    /// Whether it asks another service.
    pub fn has_alternate(&self) -> bool {
        self.shared.as_ref().is_some_and(|shared| matches!(shared.instead, Instead::Ask(..)))
    }

    fn with(&self, change: impl FnOnce(&mut Shared<O>)) -> Self {
        let known = self.shared.as_deref().map(|shared| {
            let mut known = Shared {
                config: shared.config.clone(),
                instead: shared.instead.clone(),
                says: shared.says.clone(),
                name: shared.name.clone(),
                observer: Arc::clone(&shared.observer),
            };
            change(&mut known);
            Arc::new(known)
        });
        Self { shared: known }
    }
}

fn asking<A, R>(alternate: A) -> Arc<Ask>
where
    A: Service<Request<AnyBody>, Response = Response<R>, Error = Infallible, Future: Send>
        + Clone
        + Send
        + Sync
        + 'static,
    R: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    Arc::new(move |request| {
        let mut alternate = alternate.clone();
        Box::pin(async move {
            let Ok(()) = poll_fn(|cx| alternate.poll_ready(cx)).await;
            let Ok(response) = alternate.call(request).await;
            response.map(AnyBody::new)
        })
    })
}

impl<O> fmt::Debug for FallbackLayer<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FallbackLayer").field("config", &self.shared.as_ref().map(|it| &it.config)).finish()
    }
}

impl<O> FallbackLayer<O> {
    /// What comes of a refusal by a layer behind this one: the same decision, without the budget's.
    pub fn explain_refusal(&self, rejection: &Rejection, head: &Parts) -> Option<Finding> {
        let shared = self.shared.as_ref().filter(|it| it.config.when.takes(rejection.reason))?;
        let by = rejection.reason;
        match &shared.instead {
            Instead::Respond(response) => {
                Some(Finding::Answer(response.status(), format!("in place of {by}")))
            }
            Instead::Ask(..) => {
                let failure = Failure { reason: Some(by), is_unsent: by.is_before_sending() };
                let may_ask = !head.headers.contains_key(ATTEMPT)
                    && evaluate(failure, may_be_repeated(head), true, false).is_ok();
                may_ask.then(|| Finding::Admit(format!("the alternate is asked, in place of {by}")))
            }
        }
    }
}

impl<O: Observer> Explain for FallbackLayer<O> {
    fn kind(&self) -> &'static str {
        "fallback"
    }

    fn name(&self) -> Option<&str> {
        self.shared.as_ref()?.name.as_deref()
    }

    fn explain(&self, now: Now, head: &mut Parts) -> Finding {
        let Some(shared) = &self.shared else { return Finding::Off };
        Finding::Admit(match &shared.instead {
            Instead::Respond(response) => {
                format!("what fails is answered with {}", response.status().as_u16())
            }
            Instead::Ask(..) if head.headers.contains_key(ATTEMPT) => {
                "no alternate is asked: somebody in front tries again already".to_owned()
            }
            Instead::Ask(_, budget) => {
                let what = if head.method.is_safe() { "what fails" } else { "what was never sent" };
                let left = budget.as_ref().map(|budget| budget.balance(now));
                let left = left.map(|it| {
                    format!(
                        "; {} of {} attempts left for what may have been seen",
                        it.allowed.saturating_sub(it.spent),
                        it.allowed
                    )
                });
                format!("{what} is asked of the alternate{}", left.unwrap_or_default())
            }
        })
    }
}

layered! {
    /// Answers in place of what failed; see the [module docs](self).
    FallbackLayer { shared } => Fallback
}

impl<S, O, B, R> Service<Request<B>> for Fallback<S, O>
where
    S: Service<Request<Replay<B>>, Response = Response<R>>,
    O: Observer,
    B: Body<Data = Bytes, Error: Into<BoxError>> + Default + Send + 'static,
    R: Body<Data = Bytes, Error: Into<BoxError>>,
{
    type Response = Response<FallbackBody<R>>;
    type Error = S::Error;
    type Future = FallbackFuture<S::Future, B, O>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let Some(shared) = &self.layer.shared else {
            return FallbackFuture::Primary {
                future: self.inner.call(request.map(Replay::once)),
                plan: None,
            };
        };
        let shared = Arc::clone(shared);
        let Instead::Ask(_, budget) = &shared.instead else {
            let future = self.inner.call(request.map(Replay::once));
            return FallbackFuture::Primary { future, plan: Some(Plan::Respond(shared)) };
        };
        if request.headers().contains_key(ATTEMPT) {
            return FallbackFuture::Primary {
                future: self.inner.call(request.map(Replay::once)),
                plan: None,
            };
        }
        if let Some(budget) = budget {
            let now = Now::of(request.extensions());
            budget.deposit_once(request.extensions_mut(), now);
        }
        let (head, body) = request.into_parts();
        let (source, first) = Source::of(body, shared.config.max_body, Part::of(&head.extensions));
        let future = self.inner.call(Request::from_parts(head.clone(), first));
        let plan = Plan::Ask(Box::new(Question { head, source, shared }));
        FallbackFuture::Primary { future, plan: Some(plan) }
    }
}

/// What a fallback needs.
#[doc(hidden)]
#[allow(missing_debug_implementations, private_interfaces, reason = "nobody sees it")]
pub enum Plan<B, O> {
    Respond(Arc<Shared<O>>),
    Ask(Box<Question<B, O>>),
}

struct Question<B, O> {
    head: Parts,
    source: Source<B>,
    shared: Arc<Shared<O>>,
}

/// What comes of a response.
enum Next {
    Is(Response<Bytes>),
    Ask(Asking),
}

impl<B, O> Plan<B, O>
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Default + Send + 'static,
    O: Observer,
{
    /// What comes in place of this response, if it is a failure.
    fn next<R>(self, response: &Response<R>) -> Option<(Next, HeaderValue)> {
        let shared = match &self {
            Self::Respond(shared) => Arc::clone(shared),
            Self::Ask(question) => Arc::clone(&question.shared),
        };
        let failure = shared.config.when.failure(response)?;
        let next = match self {
            Self::Respond(_) => Ok(Next::Is(shared.response(failure)?)),
            Self::Ask(question) => question.ask(failure),
        };
        match next {
            Ok(next) => {
                shared.observer.fell_back();
                Some((next, shared.says.clone()))
            }
            Err(stop) => {
                shared.observer.not_retried(stop);
                None
            }
        }
    }
}

impl<O> Shared<O> {
    fn response(&self, failure: Failure) -> Option<Response<Bytes>> {
        let Instead::Respond(response) = &self.instead else { return None };
        let mut response = Response::clone(response);
        let stand_in = StandIn { reason: failure.reason, was_sent: !failure.is_unsent };
        response.extensions_mut().insert(stand_in);
        Some(response)
    }
}

impl<B, O> Question<B, O>
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Default + Send + 'static,
{
    fn ask(self, failure: Failure) -> Result<Next, Stop> {
        let Self { mut head, source, shared } = self;
        let Instead::Ask(ask, budget) = &shared.instead else { return Err(Stop::Attempts) };
        let now = Now::read(); // Time has gone by since the request came.
        let is_over = Deadline::of(&head.extensions).is_some_and(|deadline| is_over(now, deadline));
        evaluate(failure, may_be_repeated(&head), source.is_whole(), is_over)?;
        if !failure.is_unsent && budget.as_ref().is_some_and(|budget| !budget.withdraw(now)) {
            return Err(Stop::Budget);
        }
        head.headers.insert(ATTEMPT, HeaderValue::from_static("2"));
        if let Some(facts) = head.extensions.get_mut::<Facts>() {
            facts.now = now;
        }
        let request = Request::from_parts(head, AnyBody::new(source.copy()));
        Ok(Next::Ask(ask(request)))
    }
}

/// An upgrade may not: twice may be two conversations.
fn may_be_repeated(head: &Parts) -> bool {
    head.method.is_safe() && !Upgrade::is_asked(&head.extensions)
}

fn is_over(now: Now, deadline: Instant) -> bool {
    now.instant() >= deadline
}

pin_project! {
    /// The future of [`Fallback`].
    #[project = Projection]
    pub enum FallbackFuture<F, B, O> {
        /// Whoever is behind.
        #[doc(hidden)]
        Primary { #[pin] future: F, plan: Option<Plan<B, O>> },
        /// Whoever is asked instead.
        #[doc(hidden)]
        Alternate { asking: Asking, says: HeaderValue },
    }
}

impl<F, B, O, R, E> Future for FallbackFuture<F, B, O>
where
    F: Future<Output = Result<Response<R>, E>>,
    B: Body<Data = Bytes, Error: Into<BoxError>> + Default + Send + 'static,
    O: Observer,
    R: Body<Data = Bytes, Error: Into<BoxError>>,
{
    type Output = Result<Response<FallbackBody<R>>, E>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            let next = match self.as_mut().project() {
                Projection::Primary { future, plan } => {
                    let response = ready!(future.poll(cx))?;
                    match plan.take().and_then(|plan| plan.next(&response)) {
                        None => return Poll::Ready(Ok(response.map(FallbackBody::primary))),
                        Some((Next::Is(instead), says)) => {
                            return Poll::Ready(Ok(marked(instead.map(FallbackBody::own), says)));
                        }
                        // What is left of the response holds a connection, and goes with this state.
                        Some((Next::Ask(asking), says)) => Self::Alternate { asking, says },
                    }
                }
                Projection::Alternate { asking, says } => {
                    let response = ready!(asking.as_mut().poll(cx));
                    return Poll::Ready(Ok(marked(response.map(FallbackBody::alternate), says.clone())));
                }
            };
            self.set(next);
        }
    }
}

fn marked<R>(mut response: Response<R>, says: HeaderValue) -> Response<R> {
    response.headers_mut().insert(FALLBACK, says);
    response
}

impl<F, B, O> fmt::Debug for FallbackFuture<F, B, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Primary { .. } => "FallbackFuture::Primary",
            Self::Alternate { .. } => "FallbackFuture::Alternate",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(reason: Reason) -> Option<Failure> {
        When::usual().failure(&Rejection::new(reason).into_response::<()>())
    }

    #[test]
    fn what_was_refused_before_it_was_sent_is_known_to_be_unsent_and_nothing_else_is() {
        let unsent = [
            Reason::ConnectFailed,
            Reason::UpstreamRefused,
            Reason::ConnectTimeout,
            Reason::CircuitOpen,
            Reason::NoEndpoint,
            Reason::SubsetEmpty,
            Reason::BulkheadFull,
            Reason::BulkheadTimeout,
            Reason::ConnectionsFull,
        ];
        for reason in unsent {
            assert_eq!(failure(reason), Some(Failure { reason: Some(reason), is_unsent: true }));
            let mut response: Response<()> = Rejection::new(reason).into_response();
            response.extensions_mut().insert(Sent);
            assert!(!When::usual().failure(&response).unwrap().is_unsent, "an attempt before it was sent");
        }
        for reason in [Reason::UpstreamReset, Reason::UpstreamProtocol, Reason::ResponseTimeout] {
            assert_eq!(failure(reason), Some(Failure { reason: Some(reason), is_unsent: false }));
        }
        let others = [
            Reason::RateLimited,
            Reason::Forbidden,
            Reason::BodyTooLarge,
            Reason::TotalTimeout,
            Reason::Shed,
            Reason::VersionGone,
        ];
        for reason in others {
            assert_eq!(failure(reason), None, "{reason}");
        }
        let said = |status: u16| Response::builder().status(status).body(()).unwrap();
        let wanted = |status| When::usual().failure(&said(status)).is_some();
        assert_eq!([200, 404, 500, 502, 503].map(wanted), [false, false, false, false, true]);
        let fault = |status| failure(Reason::FaultInjected(StatusCode::from_u16(status).unwrap())).is_some();
        assert_eq!([500, 503].map(fault), [false, true]);
        assert_eq!(When::never().failure(&said(503)), None);
    }

    #[test]
    fn an_alternate_is_asked_for_what_is_safe_or_was_never_sent() {
        let sent = Failure { reason: None, is_unsent: false };
        let unsent = Failure { reason: None, is_unsent: true };
        assert_eq!(evaluate(sent, true, true, false), Ok(()));
        assert_eq!(evaluate(sent, false, true, false), Err(Stop::NotRepeatable));
        assert_eq!(evaluate(unsent, false, true, false), Ok(()));
        assert_eq!(evaluate(unsent, false, false, false), Err(Stop::Body));
        assert_eq!(evaluate(sent, true, true, true), Err(Stop::Deadline));
    }
}
