//! Load balancing: chooses an endpoint, and keeps its account until the response body ends.
//!
//! # Decision
//! Round robin: the endpoints in their order, one request each. One cursor for all services of a
//! layer. No endpoints: `503` with [`Reason::NoEndpoint`].
//!
//! The chosen [`Endpoint`] is put into the request's [`Context`], or into its
//! extensions where there is none, for the client below: [`Endpoint::of`] finds it in either.
//!
//! # Units and limits
//! One atomic addition a request; as many endpoints as were given.
//!
//! # State
//! All services made from one layer, and their clones, share cursor and accounts.
//! [`reconfigured`](BalanceLayer::reconfigured) keeps both, the accounts by address.
//!
//! # Errors and panics
//! Adds no error: `S::Error` passes unchanged. Never panics.
//!
//! # Example
//! ```
//! # use http::{Request, Response};
//! # use tower::{Layer, ServiceExt};
//! use naka::balance::{BalanceLayer, Endpoint};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! let client = tower::service_fn(|request: Request<()>| async move {
//!     let endpoint = Endpoint::of(request.extensions()).expect("the balancer chose one");
//!     Ok::<_, ()>(Response::new(endpoint.address().to_string()))
//! });
//! let service = BalanceLayer::new(["10.0.0.1:80", "10.0.0.2:80"]).layer(client);
//! # let service = tower::util::MapResponse::new(service, |r: Response<naka::guard::Guarded<String, _>>| {
//! #     use http_body_util::BodyExt; r.into_body() });
//! # use http_body_util::BodyExt;
//! for address in ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.1:80"] {
//!     let body = service.clone().oneshot(Request::new(())).await.unwrap();
//!     assert_eq!(body.collect().await.unwrap().to_bytes(), address);
//! }
//! # }
//! ```

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context as TaskContext, Poll, ready},
};

use http::{Extensions, Request, Response, request::Parts};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    clock::Now,
    context::Context,
    explain::{Explain, Finding},
    guard::{Guard, Guarded},
    reject::{Reason, Rejection},
};

/// One address of an upstream, and the account of what is under way there.
#[derive(Clone, Debug)]
pub struct Endpoint(Arc<Account>);

#[derive(Debug)]
struct Account {
    address: Arc<str>,
    in_flight: AtomicU32,
}

impl Endpoint {
    fn new(address: &str) -> Self {
        Self(Arc::new(Account { address: address.into(), in_flight: AtomicU32::new(0) }))
    }

    /// The endpoint that was chosen for a request.
    pub fn of(extensions: &Extensions) -> Option<&Self> {
        let known = extensions.get::<Context>().and_then(|context| context.endpoint.as_ref());
        known.or_else(|| extensions.get::<Self>())
    }

    /// Its address, as it was given.
    pub fn address(&self) -> &Arc<str> {
        &self.0.address
    }

    /// Requests under way there, up to the end of their response bodies.
    pub fn in_flight(&self) -> u32 {
        self.0.in_flight.load(Relaxed)
    }

    fn tell(self, extensions: &mut Extensions) {
        if let Some(context) = extensions.get_mut::<Context>() {
            context.endpoint = Some(self);
        } else {
            extensions.insert(self);
        }
    }

    fn enter(&self) -> InFlight {
        self.0.in_flight.fetch_add(1, Relaxed); // Relaxed: a count that orders nothing.
        InFlight(self.clone())
    }
}

/// One request under way; in the body, and ended with it.
#[derive(Debug)]
pub struct InFlight(Endpoint);

impl Guard for InFlight {}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.0.in_flight.fetch_sub(1, Relaxed);
    }
}

/// Applies [`Balance`]; see the [module docs](self) for an example.
#[derive(Clone, Debug)]
#[must_use]
pub struct BalanceLayer {
    shared: Option<Arc<Shared>>,
}

impl BalanceLayer {
    /// These endpoints, in this order.
    pub fn new<'a>(addresses: impl IntoIterator<Item = &'a str>) -> Self {
        let endpoints = addresses.into_iter().map(Endpoint::new).collect();
        Self { shared: Some(Arc::new(Shared { endpoints, cursor: Arc::default() })) }
    }

    /// A layer that is not there.
    pub const fn off() -> Self {
        Self { shared: None }
    }

    /// Other endpoints; an address that stays keeps its account, and the cursor goes on.
    pub fn reconfigured<'a>(&self, addresses: impl IntoIterator<Item = &'a str>) -> Self {
        let known = |address: &str| {
            self.endpoints().iter().find(|endpoint| &**endpoint.address() == address).cloned()
        };
        let keep = |address| known(address).unwrap_or_else(|| Endpoint::new(address));
        let shared = self.shared.as_ref().map(|old| {
            let endpoints = addresses.into_iter().map(keep).collect();
            Arc::new(Shared { endpoints, cursor: Arc::clone(&old.cursor) })
        });
        Self { shared }
    }

    /// The endpoints, in their order.
    pub fn endpoints(&self) -> &[Endpoint] {
        self.shared.as_ref().map_or(&[], |shared| &shared.endpoints)
    }
}

#[derive(Debug)]
struct Shared {
    endpoints: Box<[Endpoint]>,
    cursor: Arc<AtomicUsize>,
}

impl Shared {
    fn choose(&self, turn: usize) -> Result<&Endpoint, Rejection> {
        let place = turn.checked_rem(self.endpoints.len());
        place.map(|place| &self.endpoints[place]).ok_or(Rejection::new(Reason::NoEndpoint))
    }
}

impl<S> Layer<S> for BalanceLayer {
    type Service = Balance<S>;

    fn layer(&self, inner: S) -> Balance<S> {
        Balance { inner, layer: self.clone() }
    }
}

impl Explain for BalanceLayer {
    fn kind(&self) -> &'static str {
        "balance"
    }

    fn explain(&self, _: Now, head: &mut Parts) -> Finding {
        let Some(shared) = &self.shared else { return Finding::Off };
        match shared.choose(shared.cursor.load(Relaxed)) {
            Ok(endpoint) => {
                endpoint.clone().tell(&mut head.extensions);
                let (address, in_flight) = (endpoint.address(), endpoint.in_flight());
                Finding::Admit(format!("round robin chooses {address}, {in_flight} in flight there"))
            }
            Err(rejection) => Finding::Reject(rejection),
        }
    }
}

/// Chooses an endpoint for each request; see the [module docs](self).
#[derive(Clone, Debug)]
pub struct Balance<S> {
    inner: S,
    layer: BalanceLayer,
}

impl<S, B, R> Service<Request<B>> for Balance<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    R: Body + Default,
{
    type Response = Response<Guarded<R, InFlight>>;
    type Error = S::Error;
    type Future = BalanceFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let Some(shared) = &self.layer.shared else {
            return BalanceFuture::Forward { future: self.inner.call(request), guard: None };
        };
        let endpoint = match shared.choose(shared.cursor.fetch_add(1, Relaxed)) {
            Ok(endpoint) => endpoint,
            Err(rejection) => return BalanceFuture::Reject { rejection: Some(rejection) },
        };
        let guard = Some(endpoint.enter());
        endpoint.clone().tell(request.extensions_mut());
        BalanceFuture::Forward { future: self.inner.call(request), guard }
    }
}

pin_project! {
    /// The future of [`Balance`].
    #[project = Projection]
    #[derive(Debug)]
    pub enum BalanceFuture<F> {
        /// On its way.
        #[doc(hidden)]
        Forward { #[pin] future: F, guard: Option<InFlight> },
        /// Refused.
        #[doc(hidden)]
        Reject { rejection: Option<Rejection> },
    }
}

impl<F, R, E> Future for BalanceFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    R: Body + Default,
{
    type Output = Result<Response<Guarded<R, InFlight>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Self::Output> {
        match self.project() {
            Projection::Forward { future, guard } => {
                let response = ready!(future.poll(cx))?;
                Poll::Ready(Ok(response.map(|body| Guarded::new(body, guard.take()))))
            }
            Projection::Reject { rejection } => {
                let rejection = rejection.take().expect("a future is not polled after it is ready");
                Poll::Ready(Ok(rejection.into_response()))
            }
        }
    }
}
