//! The layers of a route, in the one order, named once.
//!
//! The list at the end makes both the stack and the list of those who explain themselves, so they
//! cannot disagree. The stack is one static type for all routes and is erased once for each:
//! a request costs one box for that, however many layers are on, and one for what the leaf does.

use std::{
    convert::Infallible,
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, TryLockError},
    task::{Context, Poll, Waker},
};

use http::{Request, Response};
use naka::{
    api_key::ApiKeyLayer,
    authorize::AuthorizeLayer,
    balance::InFlight,
    basic_auth::BasicAuthLayer,
    body_limit::BodyLimitLayer,
    bulkhead::{BulkheadLayer, Permit},
    cache::{CacheBody, CacheLayer},
    circuit_breaker::{CircuitBreakerLayer, Pass},
    cors::CorsLayer,
    explain::Explain,
    fallback::{FallbackBody, FallbackLayer},
    fault::FaultLayer,
    forward_auth::ForwardAuthLayer,
    guard::Guarded,
    hedge::HedgeLayer,
    idempotency::{IdempotencyBody, IdempotencyLayer},
    jwt::JwtLayer,
    mirror::{MirrorBody, MirrorLayer},
    problem::ProblemLayer,
    rate_limit::RateLimitLayer,
    reject::{Reason, Rejection},
    retry::{Replay, RetryLayer},
    split::{OfArm, SplitLayer},
    timeout::{TimeoutBody, TimeoutLayer},
    version::VersionLayer,
};
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    custom::{CustomBody, CustomLayers},
    observe::{ArmMetrics, Balancer, PolicyMetrics},
    upstream::{Body, LayeredBody},
};

/// The layers of one route. Each is the handle of its state, and may be off.
#[derive(Clone, Debug)]
pub struct Layers {
    /// Renders what the others refuse.
    pub problem: ProblemLayer,
    /// What pages of other origins may.
    pub cors: CorsLayer<Arc<PolicyMetrics>>,
    /// All rate limits of the route that do not ask who it is: they add up.
    pub rate_limits: RateLimitLayer<Arc<PolicyMetrics>>,
    /// The end of the whole exchange, waiting included.
    pub total_timeout: TimeoutLayer,
    /// Policies of one's own that do not ask who it is.
    pub before_auth: CustomLayers,
    /// Who it is, by a signed token.
    pub jwt: JwtLayer<Arc<PolicyMetrics>>,
    /// Who it is, by a key.
    pub api_key: ApiKeyLayer<Arc<PolicyMetrics>>,
    /// Who it is, by a password.
    pub basic_auth: BasicAuthLayer<Arc<PolicyMetrics>>,
    /// Who it is, by asking another service.
    pub forward_auth: ForwardAuthLayer<Arc<PolicyMetrics>>,
    /// Who may.
    pub authorize: AuthorizeLayer<Arc<PolicyMetrics>>,
    /// Policies of one's own that know who it is.
    pub after_auth: CustomLayers,
    /// Which version of an API is meant.
    pub version: VersionLayer<Arc<PolicyMetrics>>,
    /// All rate limits of the route that ask who it is.
    pub identity_rate_limits: RateLimitLayer<Arc<PolicyMetrics>>,
    /// The largest body of a request.
    pub body_limit: BodyLimitLayer<Arc<PolicyMetrics>>,
    /// Does nothing twice.
    pub idempotency: IdempotencyLayer<Arc<PolicyMetrics>>,
    /// Answers in place of what failed.
    pub fallback: FallbackLayer<Arc<PolicyMetrics>>,
    /// Answers again what is still good.
    pub cache: CacheLayer<Arc<PolicyMetrics>>,
    /// The route's own bulkhead.
    pub bulkhead: BulkheadLayer<Arc<PolicyMetrics>>,
    /// Errors and delays for whoever asks for them.
    pub fault: FaultLayer<Arc<PolicyMetrics>>,
    /// Leaves alone what fails.
    pub circuit_breaker: CircuitBreakerLayer<Arc<PolicyMetrics>>,
    /// Which of several upstreams it goes to.
    pub split: SplitLayer<ArmMetrics>,
    /// The bulkhead of the whole upstream.
    pub upstream_bulkhead: BulkheadLayer<Arc<PolicyMetrics>>,
    /// Sends copies elsewhere.
    pub mirror: MirrorLayer<Arc<PolicyMetrics>>,
    /// Sends once more what is not answered.
    pub hedge: HedgeLayer<Arc<PolicyMetrics>>,
    /// Sends again what failed.
    pub retry: RetryLayer<Arc<PolicyMetrics>>,
    /// Chooses the endpoint.
    pub balance: Balancer,
}

/// What the layers make of the leaf's body.
pub type RouteBody = TimeoutBody<CustomBody<CustomBody<InnerBody>>>;

type InnerBody = IdempotencyBody<
    FallbackBody<
        CacheBody<
            Guarded<
                Guarded<
                    Guarded<Guarded<Guarded<Body, InFlight>, Permit>, OfArm<ArmMetrics>>,
                    Pass<Arc<PolicyMetrics>>,
                >,
                Permit,
            >,
        >,
    >,
>;

/// The layers behind the choice of a version, or of an arm of a split; or of a call of a composition.
#[derive(Clone, Debug)]
pub struct ArmLayers {
    /// The version's own rate limit.
    pub rate_limits: RateLimitLayer<Arc<PolicyMetrics>>,
    /// Leaves alone what fails, of a call.
    pub circuit_breaker: CircuitBreakerLayer<Arc<PolicyMetrics>>,
    /// Which of several upstreams a request of the version goes to.
    pub split: SplitLayer<ArmMetrics>,
    /// The bulkhead of the whole upstream.
    pub upstream_bulkhead: BulkheadLayer<Arc<PolicyMetrics>>,
    /// Sends copies elsewhere.
    pub mirror: MirrorLayer<Arc<PolicyMetrics>>,
    /// Sends once more what is not answered.
    pub hedge: HedgeLayer<Arc<PolicyMetrics>>,
    /// Sends again what failed.
    pub retry: RetryLayer<Arc<PolicyMetrics>>,
    /// Chooses the endpoint.
    pub balance: Balancer,
}

/// What the guards behind a choice make of the leaf's body.
pub type ArmBody =
    Guarded<Guarded<Guarded<Guarded<Body, InFlight>, Permit>, OfArm<ArmMetrics>>, Pass<Arc<PolicyMetrics>>>;

macro_rules! in_order {
    ($request:ty => $body:ident: $($layer:ident),+) => {
        /// Hands out, outermost first, all that explains itself.
        pub fn each<'a>(&'a self, visit: &mut dyn FnMut(&'a dyn Explain)) {
            $(self.$layer.each(visit);)+
        }

        /// Puts the layers around `leaf`, the first outermost.
        pub fn stack<S>(&self, leaf: S) -> impl Stack<$body> + use<S>
        where
            S: Service<Request<$request>, Response = Response<Body>, Error = Infallible, Future: Send + 'static>
                + Clone + Send + Sync + 'static,
        {
            in_order!(@around self, leaf, $($layer)+)
        }
    };
    (@around $layers:ident, $leaf:ident, $layer:ident $($inner:ident)*) => {
        $layers.$layer.layer(in_order!(@around $layers, $leaf, $($inner)*))
    };
    (@around $layers:ident, $leaf:ident,) => { $leaf };
}

impl Layers {
    // The timeout is outside of all that can wait (for keys, for a place): it counts from the request head,
    // so it ends a wait as well as an exchange.
    in_order!(
        Replay<Replay<MirrorBody<Replay<LayeredBody>>>> => RouteBody:
        problem,
        cors,
        rate_limits,
        total_timeout,
        before_auth,
        jwt,
        api_key,
        basic_auth,
        forward_auth,
        authorize,
        after_auth,
        version,
        identity_rate_limits,
        body_limit,
        idempotency,
        fallback,
        cache,
        bulkhead,
        fault,
        circuit_breaker,
        split,
        upstream_bulkhead,
        mirror,
        hedge,
        retry,
        balance
    );
}

impl ArmLayers {
    /// Nobody but a balancer.
    pub fn balanced(balance: Balancer) -> Self {
        Self {
            rate_limits: RateLimitLayer::off(),
            circuit_breaker: CircuitBreakerLayer::off(),
            split: SplitLayer::off(),
            upstream_bulkhead: BulkheadLayer::off(),
            mirror: MirrorLayer::off(),
            hedge: HedgeLayer::off(),
            retry: RetryLayer::off(),
            balance,
        }
    }

    in_order!(
        Replay<Replay<MirrorBody<Body>>> => ArmBody:
        rate_limits,
        circuit_breaker,
        split,
        upstream_bulkhead,
        mirror,
        hedge,
        retry,
        balance
    );
}

/// What a whole stack is.
pub trait Stack<R>:
    Service<Request<Body>, Response = Response<R>, Error = Infallible, Future: Send + 'static>
    + Clone
    + Send
    + Sync
    + 'static
{
}

impl<S, R> Stack<R> for S where
    S: Service<Request<Body>, Response = Response<R>, Error = Infallible, Future: Send + 'static>
        + Clone
        + Send
        + Sync
        + 'static
{
}

/// One arm's stack, of whatever type, called by `&self`. A request costs three boxes more than on a route
/// without a choice: for its future, for what its leaf does, and for the body of its response.
#[derive(Clone)]
pub struct Arm(Arc<ArmCall>);

type ArmCall = dyn Fn(Request<Body>) -> Pin<Box<dyn Future<Output = Response<Body>> + Send>> + Send + Sync;

impl Arm {
    /// Erases the type of a stack.
    pub fn new(stack: impl Stack<ArmBody>) -> Self {
        Self(Arc::new(move |request| {
            let mut stack = stack.clone();
            Box::pin(async move {
                let Ok(()) = std::future::poll_fn(|cx| stack.poll_ready(cx)).await;
                let Ok(response) = stack.call(request).await;
                response.map(Body::boxed)
            })
        }))
    }

    /// One that leads to nobody.
    pub fn nowhere() -> Self {
        Self(Arc::new(|_| Box::pin(async { Rejection::new(Reason::NoEndpoint).into_response() })))
    }

    /// One request.
    pub async fn call(&self, request: Request<Body>) -> Response<Body> {
        (self.0)(request).await
    }
}

impl Service<Request<Body>> for Arm {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer<Pin<Box<dyn Future<Output = Response<Body>> + Send>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(())) // Each request waits for a stack of its own.
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Answer { answer: (self.0)(request) }
    }
}

impl fmt::Debug for Arm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Arm")
    }
}

/// The future of one request through a [`Route`].
pub type RouteFuture = Pin<Box<dyn Future<Output = Result<Response<RouteBody>, Infallible>> + Send>>;

/// One route's stack, of whatever type, called by `&self`.
#[derive(Clone)]
pub struct Route(Arc<dyn Erased>);

impl Route {
    /// Erases the type of a stack.
    pub fn new(stack: impl Stack<RouteBody>) -> Self {
        Self(Arc::new(Lent { hot: Mutex::new(stack.clone()), spare: stack }))
    }

    /// One request. The future is the one allocation here; the leaf makes another.
    pub fn call(&self, request: Request<Body>) -> RouteFuture {
        self.0.call(request)
    }
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Route")
    }
}

trait Erased: Send + Sync {
    fn call(&self, request: Request<Body>) -> RouteFuture;
}

/// `call` needs `&mut` only while it makes the future. An instance nobody uses is lent for that
/// moment; one that is in use, or not ready, is cloned.
struct Lent<S> {
    hot: Mutex<S>,
    spare: S,
}

impl<S: Stack<RouteBody>> Erased for Lent<S> {
    fn call(&self, request: Request<Body>) -> RouteFuture {
        let hot = match self.hot.try_lock() {
            Ok(hot) => Some(hot),
            Err(TryLockError::Poisoned(hot)) => Some(hot.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        };
        if let Some(mut hot) = hot
            && hot.poll_ready(&mut Context::from_waker(Waker::noop())).is_ready()
        {
            return Box::pin(hot.call(request));
        }
        let mut own = self.spare.clone();
        Box::pin(async move {
            let Ok(()) = std::future::poll_fn(|cx| own.poll_ready(cx)).await;
            own.call(request).await
        })
    }
}

/// The innermost service: a function that is always ready.
#[derive(Clone)]
pub struct Leaf<F>(pub F);

impl<F, Fut, B> Service<Request<B>> for Leaf<F>
where
    F: Fn(Request<B>) -> Fut,
    Fut: Future,
{
    type Response = Fut::Output;
    type Error = Infallible;
    type Future = Answer<Fut>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        Answer { answer: (self.0)(request) }
    }
}

impl<F> fmt::Debug for Leaf<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Leaf")
    }
}

pin_project_lite::pin_project! {
    /// A future that cannot fail.
    #[derive(Debug)]
    pub struct Answer<F> {
        #[pin]
        answer: F,
    }
}

impl<F: Future> Future for Answer<F> {
    type Output = Result<F::Output, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.project().answer.poll(cx).map(Ok)
    }
}
