//! An end to every exchange: `504 Gateway Timeout` when it takes too long.
//!
//! # Decision
//! 1. The deadline is the reading the request carries in its [`Context`](crate::context::Context)
//!    plus the time allowed, so that what was spent before this layer (a queue) counts. Outside
//!    a stack of ours it runs from `call`. A [`Deadline`] that the request carries is kept to if it is earlier.
//!    If it is over already, nobody is asked.
//! 2. No response head by then: `504` with [`Reason::TotalTimeout`], and the inner future is
//!    not polled again, whatever it may have become ready for.
//! 3. The head is there but the body has not ended by then: the body ends in an [`Elapsed`] error,
//!    which cuts the connection, because nothing else can still tell the client. A body that always
//!    has more is looked at with each frame but the first.
//! 4. A stream has no end that could be told beforehand: where the head says that it is one (`text/event-stream`, or gRPC,
//!    whose calls may be streams), the time allowed ends with the head, and only a [`Deadline`] of the caller's
//!    own, if it is earlier, is kept to further on. What stops coming is somebody else's matter (an idle timeout). A route's
//!    timer that cut event streams has cost people days (envoy 35812).
//!
//! Bodies are asked, they do not act: a server that stops polling, because its client takes nothing,
//! cannot be timed out here. It needs a timer of its own where it writes.
//!
//! It differs from `tower_http::timeout::TimeoutLayer` in that the body is included.
//!
//! [`Deadline`]: crate::context::Deadline
//!
//! # Units and limits
//! A `Duration`; tokio's timer has a resolution of one millisecond. A timer is made when something
//! first has to be waited for: an answer at hand costs none. A body that has to be waited for is one allocation.
//!
//! # Errors and panics
//! `S::Error` passes unchanged. The body's error becomes a [`BoxError`]. Needs tokio's timer.
//!
//! # Example
//! ```
//! # use http::{Request, Response};
//! # use http_body_util::Empty;
//! # use tower::{Layer, ServiceExt};
//! use std::time::Duration;
//! use naka::timeout::TimeoutLayer;
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! # let hangs = tower::service_fn(|_: Request<()>| std::future::pending::<Result<Response<Empty<bytes::Bytes>>, ()>>());
//! let service = TimeoutLayer::new(Duration::from_millis(10)).layer(hangs);
//! assert_eq!(service.oneshot(Request::new(())).await.unwrap().status(), 504);
//! # }
//! ```

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{Extensions, HeaderMap, HeaderValue, Request, Response, header::CONTENT_TYPE, request::Parts};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    BoxError,
    classify::is_grpc_type,
    clock::Now,
    context::Deadline,
    explain::{Explain, Finding},
    reject::{Dependency, Reason, Rejection},
};

/// Applies [`Timeout`]; see the [module docs](self) for an example.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct TimeoutLayer {
    limit: Limit,
}

#[derive(Clone, Copy, Debug)]
enum Limit {
    /// That long.
    Total(Duration),
    /// As long as the request itself says.
    Told,
    Off,
}

impl Limit {
    /// Until when an answer to this request is of use.
    fn deadline(self, extensions: &Extensions) -> Option<Instant> {
        self.own(extensions).into_iter().chain(self.told(extensions)).min()
    }

    /// Until when a stream is of use once it has begun: what was told, if that is less than would be allowed.
    fn of_stream(self, extensions: &Extensions) -> Option<Instant> {
        let own = self.own(extensions);
        self.told(extensions).filter(|told| own.is_none_or(|own| *told < own))
    }

    fn told(self, extensions: &Extensions) -> Option<Instant> {
        match self {
            Self::Off => None,
            Self::Total(_) | Self::Told => Deadline::of(extensions),
        }
    }

    /// None: after the end of time, or no such end.
    fn own(self, extensions: &Extensions) -> Option<Instant> {
        let Self::Total(total) = self else { return None };
        Now::of(extensions).instant().checked_add(total)
    }
}

impl TimeoutLayer {
    /// That long for the whole exchange.
    pub const fn new(total: Duration) -> Self {
        Self { limit: Limit::Total(total) }
    }

    /// As long as the [`Deadline`] that requests carry says; those without one have all the time.
    pub const fn told() -> Self {
        Self { limit: Limit::Told }
    }

    /// A layer that is not there.
    pub const fn off() -> Self {
        Self { limit: Limit::Off }
    }
}

impl<S> Layer<S> for TimeoutLayer {
    type Service = Timeout<S>;

    fn layer(&self, inner: S) -> Timeout<S> {
        Timeout { inner, limit: self.limit }
    }
}

impl Explain for TimeoutLayer {
    fn kind(&self) -> &'static str {
        "total_timeout"
    }

    fn explain(&self, now: Now, head: &mut Parts) -> Finding {
        let Some(deadline) = self.limit.deadline(&head.extensions) else {
            return if matches!(self.limit, Limit::Off) { Finding::Off } else { Finding::Passes };
        };
        let within = deadline.saturating_duration_since(now.instant());
        if within.is_zero() {
            return Finding::Reject(Rejection::new(Reason::TotalTimeout));
        }
        Finding::WouldAsk(Dependency::Response { within })
    }
}

/// Ends what takes too long; see the [module docs](self).
#[derive(Clone, Copy, Debug)]
pub struct Timeout<S> {
    inner: S,
    limit: Limit,
}

impl<S, B, R> Service<Request<B>> for Timeout<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    R: Body<Error: Into<BoxError>> + Default,
{
    type Response = Response<TimeoutBody<R>>;
    type Error = S::Error;
    type Future = TimeoutFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let deadline = self.limit.deadline(request.extensions());
        let is_over = deadline.is_some_and(|deadline| deadline <= Now::of(request.extensions()).instant());
        let of_stream = self.limit.of_stream(request.extensions());
        let future = if is_over { None } else { Some(self.inner.call(request)) };
        TimeoutFuture { alarm: Alarm::at(deadline), of_stream, future }
    }
}

pin_project! {
    /// The future of [`Timeout`].
    #[derive(Debug)]
    pub struct TimeoutFuture<F> {
        // None: it was over before it began.
        #[pin]
        future: Option<F>,
        #[pin]
        alarm: Alarm,
        of_stream: Option<Instant>,
    }
}

impl<F, R, E> Future for TimeoutFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    R: Body<Error: Into<BoxError>> + Default,
{
    type Output = Result<Response<TimeoutBody<R>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let deadline = this.alarm.deadline;
        let Some(future) = this.future.as_pin_mut().filter(|_| !this.alarm.has_rung()) else {
            return Poll::Ready(Ok(Rejection::new(Reason::TotalTimeout).into_response()));
        };
        if let Poll::Ready(result) = future.poll(cx) {
            let timed = |response: Response<R>| {
                let deadline = if is_stream(response.headers()) { *this.of_stream } else { deadline };
                response.map(|body| TimeoutBody::new(body, deadline))
            };
            return Poll::Ready(result.map(timed));
        }
        ready!(this.alarm.poll(cx));
        Poll::Ready(Ok(Rejection::new(Reason::TotalTimeout).into_response()))
    }
}

/// Whether the head says that what comes may go on for any time.
fn is_stream(headers: &HeaderMap) -> bool {
    const EVENTS: &[u8] = b"text/event-stream";
    let is_of_events = |value: &HeaderValue| {
        let value = value.as_bytes();
        let rest = value.get(EVENTS.len()..).unwrap_or_default();
        value.len() >= EVENTS.len()
            && value[..EVENTS.len()].eq_ignore_ascii_case(EVENTS)
            && matches!(rest.first(), None | Some(b';' | b' '))
    };
    headers.get(CONTENT_TYPE).is_some_and(|value| is_of_events(value) || is_grpc_type(value))
}

pin_project! {
    /// A body that ends in an [`Elapsed`] error at the deadline.
    #[derive(Debug)]
    pub struct TimeoutBody<B> {
        #[pin]
        body: B,
        deadline: Option<Instant>,
        // Made when it is first waited for, and in a box: each layer moves the body.
        alarm: Option<Pin<Box<Sleep>>>,
        has_begun: bool,
        is_over: bool,
    }
}

impl<B> TimeoutBody<B> {
    const fn new(body: B, deadline: Option<Instant>) -> Self {
        Self { body, deadline, alarm: None, has_begun: false, is_over: false }
    }
}

impl<B: Default> Default for TimeoutBody<B> {
    fn default() -> Self {
        Self::new(B::default(), None)
    }
}

impl<B: From<Bytes>> From<Bytes> for TimeoutBody<B> {
    fn from(bytes: Bytes) -> Self {
        Self::new(B::from(bytes), None)
    }
}

impl<B: Body<Error: Into<BoxError>>> Body for TimeoutBody<B> {
    type Data = B::Data;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, BoxError>>> {
        let this = self.project();
        if *this.is_over {
            return Poll::Ready(None);
        }
        if let Poll::Ready(frame) = this.body.poll_frame(cx) {
            // The first comes with the head, which was in time: a short answer costs no look at the clock.
            let is_late = *this.has_begun
                && matches!(frame, Some(Ok(_)))
                && this.deadline.is_some_and(|deadline| Now::read().instant() >= deadline);
            if !is_late {
                *this.has_begun = true;
                return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
            }
        } else {
            let Some(deadline) = *this.deadline else { return Poll::Pending };
            ready!(this.alarm.get_or_insert_with(|| Box::pin(sleep_until(deadline))).as_mut().poll(cx));
        }
        *this.is_over = true;
        Poll::Ready(Some(Err(Box::new(Elapsed))))
    }

    fn is_end_stream(&self) -> bool {
        self.is_over || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The exchange took longer than allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elapsed;

impl fmt::Display for Elapsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the exchange took longer than allowed")
    }
}

impl std::error::Error for Elapsed {}

pin_project! {
    /// A timer that is only made when it is first waited for.
    #[derive(Debug)]
    struct Alarm {
        deadline: Option<Instant>,
        #[pin]
        sleep: Option<Sleep>,
    }
}

impl Alarm {
    const fn at(deadline: Option<Instant>) -> Self {
        Self { deadline, sleep: None }
    }

    /// Whether it was waited for until the deadline; free.
    fn has_rung(&self) -> bool {
        self.sleep.as_ref().is_some_and(Sleep::is_elapsed)
    }
}

impl Future for Alarm {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        let Some(deadline) = *this.deadline else { return Poll::Pending };
        if this.sleep.is_none() {
            this.sleep.set(Some(sleep_until(deadline)));
        }
        this.sleep.as_pin_mut().expect("made above").poll(cx)
    }
}
