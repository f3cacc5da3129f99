//! A bound for the bodies of requests: `413 Content Too Large` above it.
//!
//! # Decision
//! 1. `Content-Length`, or the body itself, says beforehand that it is larger: `413` and
//!    [`Reason::BodyTooLarge`] at once. Nothing is read, so a client that waits with `Expect: 100-continue`
//!    never sends it.
//! 2. Else the body is counted while it is read. The frame that goes beyond the bound is not handed on; in its
//!    place stands the error [`TooLarge`]. Whatever whoever is behind makes of that (a status of its own, or
//!    an error), the client gets the `413`, if the head of the response is not out yet. If it is, the body's
//!    error is all there is, and whoever is behind ends the exchange.
//!
//! Trailers and frames that are no data are not counted. A response has no bound here.
//!
//! It differs from `tower_http::limit` in that an oversized body that streams becomes a `413` whatever is made
//! of its error, with a reason, and that it can be switched off and replaced.
//!
//! # Units and limits
//! Bytes of data, as they come: of what is compressed that is less than what it becomes. A body that may
//! turn out too large costs one allocation; one that is announced costs none, nor does one without a body.
//!
//! # State
//! None; [`reconfigured`](BodyLimitLayer::reconfigured) takes another bound.
//!
//! # Errors and panics
//! `S::Error` passes unchanged, unless the bound was passed before. The error of the request's body becomes a
//! [`BoxError`]. Never panics.
//!
//! # Example
//! ```
//! # use bytes::Bytes;
//! # use http::{Request, Response};
//! # use http_body_util::{BodyExt, Full};
//! # use tower::{Layer, ServiceExt};
//! use naka::body_limit::BodyLimitLayer;
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! # let upstream = tower::service_fn(|request: Request<naka::body_limit::Limited<Full<Bytes>>>| async {
//! #     request.into_body().collect().await.map(|_| Response::new(Full::<Bytes>::default()))
//! # });
//! let service = BodyLimitLayer::new(5).layer(upstream);
//! let with = |body: &'static str| Request::post("/").body(Full::<Bytes>::from(body)).unwrap();
//! assert_eq!(service.clone().oneshot(with("12345")).await.unwrap().status(), 200);
//! assert_eq!(service.oneshot(with("123456")).await.unwrap().status(), 413);
//! # }
//! ```

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use http::{HeaderMap, Request, Response, header::CONTENT_LENGTH, request::Parts};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tower_service::Service;

use crate::{
    BoxError,
    clock::Now,
    explain::{Explain, Finding},
    layered::layered,
    observe::Observer,
    reject::{Reason, Rejection},
};

/// Applies [`BodyLimit`]; see the [module docs](self) for an example.
#[must_use]
pub struct BodyLimitLayer<O = ()> {
    shared: Option<Arc<Shared<O>>>,
}

#[derive(Clone)]
struct Shared<O> {
    max_bytes: u64,
    name: Option<Arc<str>>,
    observer: O,
}

impl BodyLimitLayer {
    /// So many bytes.
    pub fn new(max_bytes: u64) -> Self {
        Self::observed(max_bytes, ())
    }
}

impl<O: Observer> BodyLimitLayer<O> {
    /// As [`new`](BodyLimitLayer::new), and tells `observer` what it does: admitted is what was not refused
    /// at once, and rejected may follow.
    pub fn observed(max_bytes: u64, observer: O) -> Self {
        Self { shared: Some(Arc::new(Shared { max_bytes, name: None, observer })) }
    }

    /// A layer that is not there.
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

    /// Another bound; bodies on their way keep theirs.
    pub fn reconfigured(&self, max_bytes: u64) -> Self
    where
        O: Clone,
    {
        self.map(|old| Shared { max_bytes, ..old.clone() })
    }

    fn map(&self, change: impl Fn(&Shared<O>) -> Shared<O>) -> Self {
        Self { shared: self.shared.as_deref().map(|shared| Arc::new(change(shared))) }
    }
}

impl<O> fmt::Debug for BodyLimitLayer<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = self.shared.as_ref().map(|shared| (&shared.name, shared.max_bytes));
        f.debug_tuple("BodyLimitLayer").field(&known).finish()
    }
}

layered! {
    /// Bounds the bodies of requests; see the [module docs](self). What is behind gets them as [`Limited`].
    BodyLimitLayer { shared } => BodyLimit
}

/// The pure decision: what is said of the body beforehand, and whether that is too much.
fn evaluate(max_bytes: u64, headers: &HeaderMap, at_least: u64) -> Result<(), Reason> {
    let length = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    let is_too_large = length.is_some_and(|length| length > max_bytes) || at_least > max_bytes;
    if is_too_large { Err(Reason::BodyTooLarge) } else { Ok(()) }
}

impl<O: Observer> Shared<O> {
    fn rejection(&self, reason: Reason) -> Rejection {
        Rejection::new(reason).by(self.name.clone())
    }

    fn refuse(&self, reason: Reason) -> Rejection {
        let rejection = self.rejection(reason);
        self.observer.rejected(&rejection);
        rejection
    }
}

impl<O: Observer> Explain for BodyLimitLayer<O> {
    fn kind(&self) -> &'static str {
        "body_limit"
    }

    fn name(&self) -> Option<&str> {
        self.shared.as_ref()?.name.as_deref()
    }

    fn explain(&self, _: Now, head: &mut Parts) -> Finding {
        let Some(shared) = &self.shared else { return Finding::Off };
        match evaluate(shared.max_bytes, &head.headers, 0) {
            Ok(()) => Finding::Admit(format!("the body may have {} bytes", shared.max_bytes)),
            Err(reason) => Finding::Reject(shared.rejection(reason)),
        }
    }
}

impl<S, O, B, R> Service<Request<B>> for BodyLimit<S, O>
where
    S: Service<Request<Limited<B>>, Response = Response<R>>,
    O: Observer,
    B: Body<Error: Into<BoxError>>,
    R: Default,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BodyLimitFuture<S::Future, O>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let Some(shared) = &self.layer.shared else {
            let future = self.inner.call(request.map(Limited::unlimited));
            return BodyLimitFuture { state: State::Forward { future, watch: None } };
        };
        let size = request.body().size_hint();
        if let Err(reason) = evaluate(shared.max_bytes, request.headers(), size.lower()) {
            return BodyLimitFuture { state: State::Reject { rejection: Some(shared.refuse(reason)) } };
        }
        shared.observer.admitted();
        let is_surely_in =
            request.body().is_end_stream() || size.upper().is_some_and(|most| most <= shared.max_bytes);
        let note = (!is_surely_in).then(Arc::<Note>::default);
        let watch = note.clone().map(|note| Watch { note, shared: Arc::clone(shared) });
        let left = Some(shared.max_bytes);
        let future = self.inner.call(request.map(|body| Limited { body, left, note, is_over: false }));
        BodyLimitFuture { state: State::Forward { future, watch } }
    }
}

/// Whether a body has passed its bound: it writes, and whoever answers reads.
#[derive(Debug, Default)]
struct Note(AtomicBool);

/// Looks at the note of one request's body; keeps the layer's inside out of the future's type.
struct Watch<O> {
    note: Arc<Note>,
    shared: Arc<Shared<O>>,
}

pin_project! {
    /// The future of [`BodyLimit`].
    pub struct BodyLimitFuture<F, O = ()> {
        #[pin]
        state: State<F, O>,
    }
}

pin_project! {
    #[project = Projection]
    enum State<F, O> {
        Forward { #[pin] future: F, watch: Option<Watch<O>> },
        Reject { rejection: Option<Rejection> },
    }
}

impl<F, R, E, O> Future for BodyLimitFuture<F, O>
where
    F: Future<Output = Result<Response<R>, E>>,
    R: Default,
    O: Observer,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            Projection::Forward { future, watch } => {
                let result = ready!(future.poll(cx));
                let passed = watch.take().filter(|watch| watch.note.0.load(SeqCst));
                Poll::Ready(match passed {
                    Some(watch) => Ok(watch.shared.refuse(Reason::BodyTooLarge).into_response()),
                    None => result,
                })
            }
            Projection::Reject { rejection } => {
                let rejection = rejection.take().expect("a future is not polled after it is ready");
                Poll::Ready(Ok(rejection.into_response()))
            }
        }
    }
}

impl<F, O> fmt::Debug for BodyLimitFuture<F, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BodyLimitFuture").finish_non_exhaustive()
    }
}

pin_project! {
    /// A body that ends in the error [`TooLarge`] where it passes its bound.
    #[derive(Debug)]
    pub struct Limited<B> {
        #[pin]
        body: B,
        left: Option<u64>,
        note: Option<Arc<Note>>,
        is_over: bool,
    }
}

impl<B: Body> Limited<B> {
    /// Whether it may still turn out too large; not if it says that it is short enough.
    pub fn is_bounded(&self) -> bool {
        self.left.is_some_and(|left| self.body.size_hint().upper().is_none_or(|most| most > left))
    }
}

impl<B> Limited<B> {
    /// The body that is counted.
    pub const fn get_mut(&mut self) -> &mut B {
        &mut self.body
    }

    /// The body, which nobody counts any more.
    pub fn into_inner(self) -> B {
        self.body
    }

    const fn unlimited(body: B) -> Self {
        Self { body, left: None, note: None, is_over: false }
    }
}

impl<B: Default> Default for Limited<B> {
    fn default() -> Self {
        Self::unlimited(B::default())
    }
}

impl<B: From<Bytes>> From<Bytes> for Limited<B> {
    fn from(bytes: Bytes) -> Self {
        Self::unlimited(B::from(bytes))
    }
}

impl<B: Body<Error: Into<BoxError>>> Body for Limited<B> {
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
        let frame = ready!(this.body.poll_frame(cx));
        if let (Some(left), Some(Ok(frame))) = (&mut *this.left, &frame)
            && let Some(data) = frame.data_ref()
        {
            let rest = u64::try_from(data.remaining()).ok().and_then(|len| left.checked_sub(len));
            let Some(rest) = rest else {
                *this.is_over = true;
                if let Some(note) = this.note {
                    note.0.store(true, SeqCst); // Before the error, so that whoever answers to it sees it.
                }
                return Poll::Ready(Some(Err(Box::new(TooLarge))));
            };
            *left = rest;
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.is_over || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The body of the request is larger than allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLarge;

impl fmt::Display for TooLarge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the body of the request is larger than allowed")
    }
}

impl std::error::Error for TooLarge {}
