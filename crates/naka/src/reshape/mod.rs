//! Changes bodies on their way by a function of bytes: an old client gets the shape it knows from a new
//! service.
//!
//! # Decision
//! A [`ReshapeLayer`] changes responses, a [`ReshapeRequestLayer`] requests; each asks a predicate over the
//! head of the request (such as: its version is 1) whether it has a say. Then:
//!
//! 1. Only a body of one of the [content types](ReshapeConfig::content_types) is changed; parameters such as
//!    `charset` do not matter. Of responses only those to other methods than `HEAD`, with a body, that
//!    succeeded ([`errors`](ReshapeConfig::errors): the others, too), and that are no refusals of our own.
//!    Everything else passes as it is.
//! 2. The body is read to its end, and given to the function. While it is read nothing is sent on: how long
//!    that may take is for a [timeout](crate::timeout) around this layer to say. Cancelling drops what
//!    was read.
//! 3. What comes out takes its place, with a `Content-Length` of its own; trailers stay (and then there is no
//!    `Content-Length`). What described the former body goes: `ETag`, `Content-MD5`, `Digest`,
//!    `Content-Digest`, `Repr-Digest` (RFC 9530), and of responses `Accept-Ranges`.
//!
//! | | Response | Request |
//! | --- | --- | --- |
//! | Larger than [`max_bytes`](ReshapeConfig::max_bytes) | 502 [`Reason::ResponseTooLarge`] | 413 [`Reason::BodyTooLarge`] |
//! | The function fails | 502 [`Reason::ReshapeFailed`] | 400 [`Reason::BadRequest`] |
//! | `Content-Encoding` | 502 [`Reason::ReshapeFailed`] | 400 [`Reason::BadRequest`] |
//! | Only a part (206) | 502 [`Reason::ReshapeFailed`] | |
//! | Its body fails | 502 [`Reason::ReshapeFailed`] | passed on, as the body's error |
//!
//! An encoded body is refused and not passed, since whoever asked would get the shape it does not know. So
//! that this does not happen, a request whose response is to be changed goes on with
//! `Accept-Encoding: identity`, and without `Range` and `If-Range`. Compress outside of this layer. The error of
//! a function is not shown, since it may tell what is in a body.
//!
//! # Units and limits
//! A body has at most 1 MiB by default; so much can be held for each request under way, and once more by
//! the function. Of a body that comes in one frame only its `Content-Length` is allocated, besides what the function does.
//! The function runs where the request does, so it should be short.
//!
//! # State
//! None; [`reconfigured`](ReshapeLayer::reconfigured) keeps predicate and function.
//!
//! # Errors and panics
//! Adds no error: `S::Error` and the errors of bodies pass unchanged. What the predicate and the function
//! panic with goes on.
//!
//! # Example
//! ```
//! # use http::{Request, Response};
//! # use http_body_util::{BodyExt, Full};
//! # use tower::{Layer, ServiceExt};
//! use bytes::Bytes;
//! use naka::{context::ApiVersion, reshape::{ReshapeConfig, ReshapeLayer}};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let shop = tower::service_fn(|_: Request<()>| async {
//!     let head = Response::builder().header("content-type", "application/json");
//!     Ok::<_, std::io::Error>(head.body(Full::from(r#"{"product_id":7}"#)).expect("a response"))
//! });
//! let first = |head: &naka::reject::Head<'_>| {
//!     ApiVersion::of(head.extensions).is_some_and(|version| &**version == "1")
//! };
//! let rename = |body: &Bytes| Ok(std::str::from_utf8(body)?.replace("product_id", "id").into());
//! let service = ReshapeLayer::new(ReshapeConfig::new(), first, rename).layer(shop);
//!
//! let mut request = Request::new(());
//! ApiVersion("1".into()).put(request.extensions_mut());
//! let old = service.clone().oneshot(request).await?;
//! assert_eq!(old.headers()["content-length"], "8");
//! assert_eq!(old.into_body().collect().await?.to_bytes(), r#"{"id":7}"#);
//! let new = service.oneshot(Request::new(())).await?;
//! assert_eq!(new.into_body().collect().await?.to_bytes(), r#"{"product_id":7}"#);
//! # Ok(()) }
//! ```

use std::{
    fmt,
    future::Future,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode,
    header::{
        ACCEPT_ENCODING, ACCEPT_RANGES, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, ETAG, IF_RANGE,
        RANGE, TRANSFER_ENCODING,
    },
    request, response,
};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_service::Service;

pub use crate::buffered::Buffered as ReshapeBody;
use crate::{
    BoxError,
    buffered::{Collect, CollectError, Collected},
    clock::Now,
    explain::{Explain, Finding},
    layered::layered,
    observe::Observer,
    reject::{Dependency, Head, Reason, Rejection},
};

/// What a [`ReshapeLayer`] or a [`ReshapeRequestLayer`] reads.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReshapeConfig {
    /// The largest body, in bytes, before it is changed; default 1 MiB.
    pub max_bytes: usize,
    /// What is changed, without parameters; default `application/json`.
    pub content_types: Vec<Arc<str>>,
    /// Whether responses that are no success are changed, too; default no. Means nothing for requests.
    pub errors: bool,
}

impl ReshapeConfig {
    /// The defaults.
    pub fn new() -> Self {
        Self { max_bytes: 1 << 20, content_types: vec!["application/json".into()], errors: false }
    }

    /// The largest body, in bytes.
    #[must_use]
    pub const fn max_bytes(mut self, max_bytes: usize) -> Self {
        self.max_bytes = max_bytes;
        self
    }

    /// Changes these types, and no others.
    #[must_use]
    pub fn content_types<'a>(mut self, types: impl IntoIterator<Item = &'a str>) -> Self {
        self.content_types = types.into_iter().map(Arc::from).collect();
        self
    }

    /// Whether responses that are no success are changed, too.
    #[must_use]
    pub const fn errors(mut self, errors: bool) -> Self {
        self.errors = errors;
        self
    }

    fn has_type(&self, headers: &HeaderMap) -> bool {
        let Some(value) = headers.get(CONTENT_TYPE) else { return false };
        let essence = value.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
        self.content_types.iter().any(|known| known.as_bytes().eq_ignore_ascii_case(essence))
    }
}

impl Default for ReshapeConfig {
    fn default() -> Self {
        Self::new()
    }
}

type When = dyn Fn(&Head<'_>) -> bool + Send + Sync;
type Change = dyn Fn(&Bytes) -> Result<Bytes, BoxError> + Send + Sync;

struct Shared<O> {
    config: ReshapeConfig,
    when: Arc<When>,
    change: Arc<Change>,
    name: Option<Arc<str>>,
    observer: O,
}

impl<O: Clone> Clone for Shared<O> {
    fn clone(&self) -> Self {
        Self {
            config: self.config.clone(),
            when: Arc::clone(&self.when),
            change: Arc::clone(&self.change),
            name: self.name.clone(),
            observer: self.observer.clone(),
        }
    }
}

impl<O: Observer> Shared<O> {
    /// The body that takes the place of the other. `bad` is what it is called if the function fails.
    fn change(
        &self,
        collected: Collected,
        headers: &mut HeaderMap,
        bad: Reason,
    ) -> Result<Collected, Rejection> {
        let Collected { data, trailers, share } = collected;
        let data = (self.change)(&data).map_err(|_| Rejection::new(bad))?;
        for name in
            [ETAG, CONTENT_MD5, DIGEST, CONTENT_DIGEST, REPR_DIGEST, TRANSFER_ENCODING, CONTENT_LENGTH]
        {
            headers.remove(name);
        }
        if trailers.is_none() {
            // Made of the number, it would be two allocations.
            let length = HeaderValue::try_from(data.len().to_string()).expect("digits are visible ASCII");
            headers.insert(CONTENT_LENGTH, length);
        }
        self.observer.admitted();
        Ok(Collected { data, trailers, share })
    }

    fn refuse(&self, rejection: Rejection) -> Rejection {
        let rejection = rejection.by(self.name.clone());
        self.observer.rejected(&rejection);
        rejection
    }

    fn would_read(&self) -> Finding {
        Finding::WouldAsk(Dependency::Body { max_bytes: self.config.max_bytes })
    }
}

const CONTENT_MD5: HeaderName = HeaderName::from_static("content-md5");
const DIGEST: HeaderName = HeaderName::from_static("digest");
const CONTENT_DIGEST: HeaderName = HeaderName::from_static("content-digest");
const REPR_DIGEST: HeaderName = HeaderName::from_static("repr-digest");

fn is_encoded(headers: &HeaderMap) -> bool {
    let mut lines = headers.get_all(CONTENT_ENCODING).into_iter();
    lines.any(|line| !line.as_bytes().trim_ascii().eq_ignore_ascii_case(b"identity"))
}

/// Writes what both layers are besides their decision.
macro_rules! reshape_layer {
    ($layer:ident, $what:literal) => {
        impl $layer {
            #[doc = concat!("Changes the bodies of ", $what, " by `change`, where `when` says so of the request.")]
            pub fn new(
                config: ReshapeConfig,
                when: impl Fn(&Head<'_>) -> bool + Send + Sync + 'static,
                change: impl Fn(&Bytes) -> Result<Bytes, BoxError> + Send + Sync + 'static,
            ) -> Self {
                Self::observed(config, when, change, ())
            }
        }

        impl<O: Observer> $layer<O> {
            #[doc = concat!("As [`new`](", stringify!($layer), "::new), and tells `observer` what it does:")]
            /// admitted is what was changed.
            pub fn observed(
                config: ReshapeConfig,
                when: impl Fn(&Head<'_>) -> bool + Send + Sync + 'static,
                change: impl Fn(&Bytes) -> Result<Bytes, BoxError> + Send + Sync + 'static,
                observer: O,
            ) -> Self {
                let (when, change) = (Arc::new(when), Arc::new(change));
                Self { shared: Some(Arc::new(Shared { config, when, change, name: None, observer })) }
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

            /// Another configuration. Predicate and function stay: others are another layer.
            pub fn reconfigured(&self, config: &ReshapeConfig) -> Self
            where
                O: Clone,
            {
                self.map(|old| Shared { config: config.clone(), ..old.clone() })
            }

            fn map(&self, change: impl Fn(&Shared<O>) -> Shared<O>) -> Self {
                Self { shared: self.shared.as_deref().map(|shared| Arc::new(change(shared))) }
            }
        }

        impl<O> fmt::Debug for $layer<O> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let known = self.shared.as_ref().map(|shared| (&shared.name, &shared.config));
                f.debug_tuple(stringify!($layer)).field(&known).finish()
            }
        }
    };
}

/// Applies [`Reshape`]; see the [module docs](self) for an example.
#[must_use]
pub struct ReshapeLayer<O = ()> {
    shared: Option<Arc<Shared<O>>>,
}

reshape_layer!(ReshapeLayer, "responses");

layered! {
    /// Changes the bodies of responses; see the [module docs](self).
    ReshapeLayer { shared } => Reshape
}

impl<O: Observer> ReshapeLayer<O> {
    /// What decides if the response to this request may be changed.
    fn planned(&self, head: &Head<'_>) -> Option<&Arc<Shared<O>>> {
        self.shared.as_ref().filter(|shared| head.method != Method::HEAD && (shared.when)(head))
    }
}

/// What is asked for is whole, and can be read.
fn ask_plainly(headers: &mut HeaderMap) {
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    headers.remove(RANGE);
    headers.remove(IF_RANGE);
}

impl<O: Observer> Explain for ReshapeLayer<O> {
    fn kind(&self) -> &'static str {
        "reshape"
    }

    fn name(&self) -> Option<&str> {
        self.shared.as_ref()?.name.as_deref()
    }

    fn explain(&self, _: Now, head: &mut request::Parts) -> Finding {
        if self.shared.is_none() {
            return Finding::Off;
        }
        let Some(shared) = self.planned(&Head::from(&*head)) else { return Finding::Passes };
        ask_plainly(&mut head.headers);
        shared.would_read()
    }
}

impl<S, O, B, R> Service<Request<B>> for Reshape<S, O>
where
    S: Service<Request<B>, Response = Response<R>>,
    O: Observer,
    R: Body<Data = Bytes> + Default,
{
    type Response = Response<ReshapeBody<R>>;
    type Error = S::Error;
    type Future = ReshapeFuture<S::Future, R, O>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let shared = self.layer.planned(&Head::from(&request)).cloned();
        if shared.is_some() {
            ask_plainly(request.headers_mut());
        }
        let future = self.inner.call(request);
        ReshapeFuture { state: Asking::Head { future, shared: shared.map(Planned) } }
    }
}

/// Keeps the layer's inside out of the future's type.
struct Planned<O>(Arc<Shared<O>>);

pin_project! {
    /// The future of [`Reshape`].
    pub struct ReshapeFuture<F, R, O = ()> {
        #[pin]
        state: Asking<F, R, O>,
    }
}

pin_project! {
    #[project = AskingProjection]
    enum Asking<F, R, O> {
        Head { #[pin] future: F, shared: Option<Planned<O>> },
        Body { parts: Option<response::Parts>, #[pin] collect: Collect<R>, shared: Planned<O> },
    }
}

impl<F, R, E, O> Future for ReshapeFuture<F, R, O>
where
    F: Future<Output = Result<Response<R>, E>>,
    R: Body<Data = Bytes> + Default,
    O: Observer,
{
    type Output = Result<Response<ReshapeBody<R>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            let next = match state.as_mut().project() {
                AskingProjection::Head { future, shared } => {
                    let response = ready!(future.poll(cx))?;
                    let Some(Planned(shared)) = shared.take() else {
                        return Poll::Ready(Ok(response.map(ReshapeBody::same)));
                    };
                    match shared.plan(&response) {
                        Plan::Pass => return Poll::Ready(Ok(response.map(ReshapeBody::same))),
                        Plan::Refuse(rejection) => {
                            return Poll::Ready(Ok(shared.refuse(rejection).into_response()));
                        }
                        Plan::Change => {
                            let (parts, body) = response.into_parts();
                            let collect = Collect::new(body, shared.config.max_bytes);
                            Asking::Body { parts: Some(parts), collect, shared: Planned(shared) }
                        }
                    }
                }
                AskingProjection::Body { parts, collect, shared: Planned(shared) } => {
                    let collected = ready!(collect.poll(cx));
                    let mut parts = parts.take().expect("a future is not polled after it is ready");
                    let changed = match collected {
                        Ok(collected) => {
                            parts.headers.remove(ACCEPT_RANGES);
                            shared.change(collected, &mut parts.headers, Reason::ReshapeFailed)
                        }
                        Err(CollectError::TooLarge | CollectError::NoRoom) => {
                            Err(Rejection::new(Reason::ResponseTooLarge))
                        }
                        Err(CollectError::Failed(_)) => Err(unreadable("The response broke off.")),
                    };
                    return Poll::Ready(Ok(match changed {
                        Ok(changed) => Response::from_parts(parts, ReshapeBody::whole(changed)),
                        Err(rejection) => shared.refuse(rejection).into_response(),
                    }));
                }
            };
            state.set(next);
        }
    }
}

impl<F, R, O> fmt::Debug for ReshapeFuture<F, R, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReshapeFuture").finish_non_exhaustive()
    }
}

/// What happens to a response, as its head says.
enum Plan {
    Pass,
    Change,
    Refuse(Rejection),
}

impl<O> Shared<O> {
    fn plan<R: Body>(&self, response: &Response<R>) -> Plan {
        let (status, headers) = (response.status(), response.headers());
        let is_meant = status.is_success() || (self.config.errors && is_error(status));
        let is_own = response.extensions().get::<Rejection>().is_some();
        let has_body = !matches!(status, StatusCode::NO_CONTENT) && !response.body().is_end_stream();
        if !is_meant || is_own || !has_body || !self.config.has_type(headers) {
            Plan::Pass
        } else if is_encoded(headers) {
            Plan::Refuse(unreadable("The response is encoded, although that was not asked for."))
        } else if status == StatusCode::PARTIAL_CONTENT {
            Plan::Refuse(unreadable("The response is only a part, although that was not asked for."))
        } else {
            Plan::Change
        }
    }
}

fn is_error(status: StatusCode) -> bool {
    status.is_client_error() || status.is_server_error()
}

fn unreadable(detail: &str) -> Rejection {
    Rejection::new(Reason::ReshapeFailed).detail(detail)
}

/// Applies [`ReshapeRequest`]; see the [module docs](self).
#[must_use]
pub struct ReshapeRequestLayer<O = ()> {
    shared: Option<Arc<Shared<O>>>,
}

reshape_layer!(ReshapeRequestLayer, "requests");

layered! {
    /// Changes the bodies of requests; see the [module docs](self). What is behind gets them as
    /// [`ReshapeBody`].
    ReshapeRequestLayer { shared } => ReshapeRequest
}

impl<O: Observer> ReshapeRequestLayer<O> {
    /// What decides if this request may be changed.
    fn planned(&self, head: &Head<'_>) -> Option<&Arc<Shared<O>>> {
        self.shared.as_ref().filter(|shared| shared.config.has_type(head.headers) && (shared.when)(head))
    }
}

impl<O: Observer> Shared<O> {
    /// What the head of a request already says.
    fn refuses(&self, headers: &HeaderMap) -> Option<Rejection> {
        let max = u128::try_from(self.config.max_bytes).unwrap_or(u128::MAX);
        let len = headers.get(CONTENT_LENGTH).and_then(|len| len.to_str().ok()?.parse::<u128>().ok());
        if is_encoded(headers) {
            Some(Rejection::new(Reason::BadRequest).detail("The body has to come without an encoding."))
        } else if len.is_some_and(|len| len > max) {
            Some(Rejection::new(Reason::BodyTooLarge))
        } else {
            None
        }
    }
}

impl<O: Observer> Explain for ReshapeRequestLayer<O> {
    fn kind(&self) -> &'static str {
        "reshape_request"
    }

    fn name(&self) -> Option<&str> {
        self.shared.as_ref()?.name.as_deref()
    }

    fn explain(&self, _: Now, head: &mut request::Parts) -> Finding {
        if self.shared.is_none() {
            return Finding::Off;
        }
        let Some(shared) = self.planned(&Head::from(&*head)) else { return Finding::Passes };
        let refused = shared.refuses(&head.headers).map(|rejection| rejection.by(shared.name.clone()));
        refused.map_or_else(|| shared.would_read(), Finding::Reject)
    }
}

impl<S, O, B, R> Service<Request<B>> for ReshapeRequest<S, O>
where
    S: Service<Request<ReshapeBody<B>>, Response = Response<R>> + Clone,
    O: Observer,
    B: Body<Data = Bytes>,
    R: Default,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = ReshapeRequestFuture<S, S::Future, B, O>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let planned = self.layer.planned(&Head::from(&request)).filter(|_| !request.body().is_end_stream());
        let state = if let Some(shared) = planned {
            if let Some(rejection) = shared.refuses(request.headers()) {
                Sending::Reject { rejection: Some(shared.refuse(rejection)) }
            } else {
                let (parts, body) = request.into_parts();
                let collect = Collect::new(body, shared.config.max_bytes);
                let shared = Planned(Arc::clone(shared));
                // The one that is ready goes; its clone has to become ready first.
                let clone = self.inner.clone();
                let inner = mem::replace(&mut self.inner, clone);
                Sending::Body { parts: Some(parts), collect, inner, shared }
            }
        } else {
            Sending::Forward { future: self.inner.call(request.map(ReshapeBody::same)) }
        };
        ReshapeRequestFuture { state }
    }
}

pin_project! {
    /// The future of [`ReshapeRequest`].
    pub struct ReshapeRequestFuture<S, F, B, O = ()> {
        #[pin]
        state: Sending<S, F, B, O>,
    }
}

pin_project! {
    #[project = SendingProjection]
    enum Sending<S, F, B, O> {
        Body { parts: Option<request::Parts>, #[pin] collect: Collect<B>, inner: S, shared: Planned<O> },
        Forward { #[pin] future: F },
        Reject { rejection: Option<Rejection> },
    }
}

impl<S, B, R, O> Future for ReshapeRequestFuture<S, S::Future, B, O>
where
    S: Service<Request<ReshapeBody<B>>, Response = Response<R>>,
    B: Body<Data = Bytes>,
    R: Default,
    O: Observer,
{
    type Output = Result<Response<R>, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            let next = match state.as_mut().project() {
                SendingProjection::Body { parts, collect, inner, shared: Planned(shared) } => {
                    let collected = ready!(collect.poll(cx));
                    let mut parts = parts.take().expect("a body is read once");
                    let changed = match collected {
                        Ok(collected) => shared
                            .change(collected, &mut parts.headers, Reason::BadRequest)
                            .map(ReshapeBody::whole),
                        Err(CollectError::TooLarge | CollectError::NoRoom) => {
                            Err(Rejection::new(Reason::BodyTooLarge))
                        }
                        // Whoever is behind is told as it would have been without this layer.
                        Err(CollectError::Failed(error)) => Ok(ReshapeBody::failed(error)),
                    };
                    match changed {
                        Ok(body) => Sending::Forward { future: inner.call(Request::from_parts(parts, body)) },
                        Err(rejection) => Sending::Reject { rejection: Some(shared.refuse(rejection)) },
                    }
                }
                SendingProjection::Forward { future } => return future.poll(cx),
                SendingProjection::Reject { rejection } => {
                    let rejection = rejection.take().expect("a future is not polled after it is ready");
                    return Poll::Ready(Ok(rejection.into_response()));
                }
            };
            state.set(next);
        }
    }
}

impl<S, F, B, O> fmt::Debug for ReshapeRequestFuture<S, F, B, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReshapeRequestFuture").finish_non_exhaustive()
    }
}
