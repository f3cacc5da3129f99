//! API composition: one JSON answer made of those of several services, each asked as soon as what it needs is there.
//!
//! # Decision
//! 1. A [`Plan`] says which calls are made and what each needs: those whose answers its target names (`{order.body.user_id}`), and
//!    those it lists. It has no cycles, and is checked once.
//! 2. Calls that need nothing of one another are made at once, [`max_in_flight`](ComposeConfig::max_in_flight) at a time, in the order
//!    of the plan. Calls that ask the same service for the same are made once, and have one answer.
//! 3. A call's target is written from its template. What stands in braces is percent-encoded; what would lead to another path is
//!    refused ([`Template`]). `*` gathers: `/products?ids={order.body.items.*.id}` is one call for all items, each value once, with
//!    commas between them; if there are none nobody is asked, and the call's default or `[]` is its body.
//! 4. An answer counts if its status is 2xx (but for 206) and its body is JSON (RFC 8259) by its type and its text, not deeper than
//!    [`MAX_DEPTH`] and not larger than [`max_part`](ComposeConfig::max_part). Of 204, and to other methods than `GET`, it is `null`.
//!    Redirects are not followed.
//! 5. If a call fails that is required, the composition has failed: the others are dropped, and the answer is a
//!    [`Rejection`](crate::reject::Rejection) that [names it](crate::reject::Rejection::call). What its service refused by a layer of ours keeps its reason
//!    (`circuit_open`, `bulkhead_full`, `response_timeout`); 400, 401 to 404, 409, 410, 412, 422 to 424, 428, 429 and 451 keep their
//!    status; 504 is 504; all else is 502. Nothing of its body, or of its headers but the challenge of a 401 and the wait of a 429, goes on.
//! 6. If another one fails, its [default](Otherwise::Default) stands in its place, or what is made of it is
//!    [left out](Otherwise::LeaveOut). A call that needs one that failed without a default is not made. The answer is a 200 and says
//!    so: `errors` in its body (`call`, `status`, `reason`, `detail` of each) and [`PARTIAL`] with their names.
//! 7. The answer is made of pieces of JSON as they stand: no number is read and written again. It is good as long as the parts
//!    are (`Cache-Control`, RFC 9111), and for nobody else if one is private, sets a cookie or differs by a header that was sent along and is not in
//!    [`vary`](ComposeConfig::vary); one that is not whole is not kept at all.
//!
//! # What goes along
//! The listed [headers](ComposeConfig::headers), and all [extensions](http::Request::extensions): so identity, deadline, trace and account of the
//! client's request are those of each call, and layers around a service act for each call. `Accept` is `application/json`,
//! `Accept-Encoding` is `identity`. The request's body is dropped, and so is all that parts have in their heads.
//!
//! # Where it stands
//! Innermost, in place of a service. A [`timeout`](crate::timeout) outside of it ends all calls at once.
//!
//! # Units and limits
//! [`MAX_CALLS`] calls; [`max_in_flight`](ComposeConfig::max_in_flight) (8) at a time; [`Call::timeout`] (10 s) for each;
//! [`max_part`](ComposeConfig::max_part) (1 MiB) of each, [`max_body`](ComposeConfig::max_body) (4 MiB) of the answer, both in bytes;
//! [`Call::max_values`] (100) in a batch; [`MAX_TARGET`] bytes of a target. Parts and answer are in memory until the answer is sent, and count in
//! [`held`](crate::held): without room a part has failed (`buffers_full`). Each call is a box.
//!
//! # Cancellation
//! All calls are futures within the one that is returned; nothing is spawned. Dropped at any point, nothing goes on.
//!
//! # Errors and panics
//! It cannot fail: what a service returns as an error is a call that failed. Never panics.
//!
//! # Example
//! ```
//! # use bytes::Bytes;
//! # use http::{Request, Response};
//! # use http_body_util::{BodyExt, Full};
//! # use tower::ServiceExt;
//! use naka::compose::{Call, Compose, ComposeConfig, Otherwise, PARTIAL, Template};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let service = tower::service_fn(|request: Request<Full<Bytes>>| async move {
//!     let (status, text) = match request.uri().path() {
//!         "/orders/7" => (200, r#"{"id": 7, "user_id": "asha"}"#),
//!         "/users/asha" => (200, r#"{"name": "Asha"}"#),
//!         _ => (503, ""),
//!     };
//!     let response = Response::builder().status(status).header("content-type", "application/json");
//!     Ok::<_, std::convert::Infallible>(response.body(Full::from(text)).unwrap())
//! });
//! let plan = ComposeConfig::new([
//!     Call::get("order", "orders", Template::parse("/orders/{id}")?),
//!     Call::get("buyer", "users", Template::parse("/users/{order.body.user_id}")?),
//!     Call::get("ship", "delivery", Template::parse("/track/{id}")?).otherwise(Otherwise::LeaveOut),
//! ]);
//! let id = |head: &naka::reject::Head<'_>, _: &str| {
//!     head.uri.path().strip_prefix("/details/").map(|id| id.as_bytes().to_vec())
//! };
//! let compose = Compose::new(plan.check()?, id, |_| service.clone());
//! let response = compose.oneshot(Request::get("/details/7").body(Full::default())?).await?;
//! assert_eq!(response.headers()[PARTIAL], "ship");
//! let body = response.into_body().collect().await?.to_bytes();
//! let whole = br#"{"order":{"id": 7, "user_id": "asha"},"buyer":{"name": "Asha"},"errors":[{"call":"ship","status":502,"#;
//! assert!(body.starts_with(whole));
//! # Ok(()) }
//! ```

use std::{
    convert::Infallible,
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderName, Request, Response};
use http_body::Body;
use tower_service::Service;

use crate::{
    observe::Observer,
    reject::{Head, Reason},
};

mod freshness;
mod json;
mod plan;
mod run;
mod schedule;
mod shape;
mod template;

pub use json::MAX_DEPTH;
pub use plan::{Call, ComposeConfig, ComposeError, ERRORS, MAX_CALLS, NEVER_SENT, Otherwise, Plan};
pub use shape::{MAX_SHAPE, Shape};
pub use template::{MAX_TARGET, MAX_VALUES, MAX_WORDS, Template, TemplateError};

/// Says that an answer is not whole, and which calls failed.
pub const PARTIAL: HeaderName = HeaderName::from_static("naka-partial");

/// What became of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Called {
    /// It was answered, and the answer is used.
    Answered,
    /// It was made, and failed.
    Failed(Reason),
    /// It was not made by itself: another one asked for the same, or there was nothing to ask for.
    Shared,
    /// It was not made: what it needs is not there.
    NotMade,
    /// It was given up: a required one has failed, or nobody waits any more.
    Cancelled,
}

/// What values stand for that are no calls': by the head of the request, and the value's words. None is as if it were not there.
pub type Given = dyn Fn(&Head<'_>, &str) -> Option<Vec<u8>> + Send + Sync;

/// Answers with a composition; see the [module docs](self) for an example.
///
/// `S` is what all calls go through; that of each is cloned for each request, and `O` hears what became of them.
pub struct Compose<S, O = ()> {
    shared: Arc<Shared<S, O>>,
}

struct Shared<S, O> {
    plan: Plan,
    given: Box<Given>,
    /// As calls count.
    services: Vec<S>,
    observer: O,
}

impl<S> Compose<S> {
    /// By this plan; `service` says whom each call asks.
    pub fn new(
        plan: Plan,
        given: impl Fn(&Head<'_>, &str) -> Option<Vec<u8>> + Send + Sync + 'static,
        service: impl FnMut(&Call) -> S,
    ) -> Self {
        Self::observed(plan, given, service, ())
    }
}

impl<S, O> Compose<S, O> {
    /// The same, with somebody who hears what became of calls.
    pub fn observed(
        plan: Plan,
        given: impl Fn(&Head<'_>, &str) -> Option<Vec<u8>> + Send + Sync + 'static,
        service: impl FnMut(&Call) -> S,
        observer: O,
    ) -> Self {
        let services = plan.calls().iter().map(service).collect();
        Self { shared: Arc::new(Shared { plan, given: Box::new(given), services, observer }) }
    }

    /// By which plan.
    pub fn plan(&self) -> &Plan {
        &self.shared.plan
    }
}

impl<S, O> Clone for Compose<S, O> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<S, O> fmt::Debug for Compose<S, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Compose").field("plan", &self.shared.plan).finish_non_exhaustive()
    }
}

impl<S, O, B, R> Service<Request<B>> for Compose<S, O>
where
    S: Service<Request<B>, Response = Response<R>, Future: Send> + Clone + Send + Sync + 'static,
    O: Observer,
    B: Default + Send + 'static,
    R: Body<Data = Bytes> + From<Bytes> + Default + Send + 'static,
{
    type Response = Response<R>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<R>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(())) // Each call waits until its service is.
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (shared, (parts, _)) = (Arc::clone(&self.shared), request.into_parts());
        Box::pin(async move {
            let Shared { plan, given, services, observer } = &*shared;
            let run = run::Run { plan, observer, parts: &parts, given: &**given };
            Ok(run.answer::<S, B, R>(services).await)
        })
    }
}
