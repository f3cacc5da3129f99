//! The layers of a route, in the one order, named once.
//!
//! The list makes both the stack and the list of those who explain themselves, so they cannot disagree. A stack is a
//! static type and is erased once for each route: a request costs one box for that, however many layers are on, and one for what the
//! leaf does. Beside the stack of all layers there are two of few, in the same order, for routes on which the others are off.

use std::{
    convert::Infallible,
    fmt,
    future::Future,
    marker::PhantomData,
    pin::Pin,
    sync::{Arc, Mutex, TryLockError},
    task::{Context, Poll, Waker, ready},
};

use http::{Request, Response};
use naka::{
    api_key::ApiKeyLayer,
    authorize::AuthorizeLayer,
    basic_auth::BasicAuthLayer,
    body_limit::{BodyLimitLayer, Limited},
    bulkhead::BulkheadLayer,
    cache::CacheLayer,
    circuit_breaker::CircuitBreakerLayer,
    cors::CorsLayer,
    explain::Explain,
    fallback::FallbackLayer,
    fault::FaultLayer,
    forward_auth::ForwardAuthLayer,
    hedge::HedgeLayer,
    idempotency::IdempotencyLayer,
    jwt::JwtLayer,
    mirror::{MirrorBody, MirrorLayer},
    problem::ProblemLayer,
    rate_limit::RateLimitLayer,
    reject::{Reason, Rejection},
    retry::{Replay, RetryLayer},
    split::SplitLayer,
    timeout::TimeoutLayer,
    version::VersionLayer,
};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    custom::CustomLayers,
    observe::{ArmMetrics, Balancer, PolicyMetrics},
    upstream::{Body, LayeredBody},
};

mod body;

use body::{AllBody, PlainBody, UsualBody};
pub use body::{ArmBody, RouteBody};

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

/// Puts layers around a leaf, the first outermost.
macro_rules! in_order {
    ($(#[$doc:meta])* $name:ident: $request:ty => $body:ident: $($layer:ident),+ $(,)?) => {
        $(#[$doc])*
        pub fn $name<S>(&self, leaf: S) -> impl Stack<$body> + use<S>
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

/// The one order: makes the stack, and the list of those who explain themselves.
macro_rules! layers {
    ($request:ty => $body:ident: $($layer:ident),+ $(,)?) => {
        /// Hands out, outermost first, all that explains itself.
        pub fn each<'a>(&'a self, visit: &mut dyn FnMut(&'a dyn Explain)) {
            $(self.$layer.each(visit);)+
        }

        in_order! {
            /// Puts the layers around `leaf`, the first outermost.
            stack: $request => $body: $($layer),+
        }

        #[cfg(test)]
        const ORDER: &[&str] = &[$(stringify!($layer)),+];
    };
}

/// A stack of some of the layers, for routes on which the others are off.
macro_rules! shorter {
    ($(#[$doc:meta])* $name:ident, $names:ident if $fits:ident => $body:ident: $($layer:ident),+; without $($off:ident),+ $(,)?) => {
        #[cfg(test)]
        const $names: &[&str] = &[$(stringify!($layer)),+];

        in_order! {
            $(#[$doc])*
            $name: Limited<Body> => $body: $($layer),+
        }

        /// Whether all others are off.
        fn $fits(&self) -> bool {
            let Self { $($layer: _,)+ $($off),+ } = self;
            $($off.is_off())&&+
        }
    };
}

impl Layers {
    // The timeout is outside of all that can wait (for keys, for a place): it counts from the request head,
    // so it ends a wait as well as an exchange.
    layers!(
        Replay<Replay<MirrorBody<Replay<LayeredBody>>>> => AllBody:
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
        balance,
    );

    shorter! {
        /// Those that every route has.
        plain, PLAIN if is_plain => PlainBody: problem, total_timeout, body_limit, balance;
        without cors, rate_limits, before_auth, jwt, api_key, basic_auth, forward_auth, authorize, after_auth, version,
            identity_rate_limits, idempotency, fallback, cache, bulkhead, fault, circuit_breaker, split,
            upstream_bulkhead, mirror, hedge, retry,
    }

    shorter! {
        /// Those that most routes have, and no others.
        usual, USUAL if is_usual => UsualBody: problem, rate_limits, total_timeout, jwt, api_key, authorize,
            identity_rate_limits, body_limit, bulkhead, circuit_breaker, upstream_bulkhead, balance;
        without cors, before_auth, basic_auth, forward_auth, after_auth, version, idempotency, fallback, cache,
            fault, split, mirror, hedge, retry,
    }

    /// The route, whose layers these are: in the shortest stack that has all that are on. A layer that is off costs little,
    /// but there are many.
    pub fn around<F, Fut>(&self, leaf: F) -> Route
    where
        F: Fn(Request<Body>) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Response<Body>> + Send + 'static,
    {
        // In a box of its own: each of the layers moves the future of what is behind it into its own, and this is the large one.
        let short =
            |leaf: F| Leaf(move |request: Request<Limited<Body>>| Box::pin(leaf(request.map(Body::from))));
        if self.is_plain() {
            Route::new(self.plain(short(leaf)))
        } else if self.is_usual() {
            Route::new(self.usual(short(leaf)))
        } else {
            Route::new(self.stack(Leaf(
                move |request: Request<Replay<Replay<MirrorBody<Replay<LayeredBody>>>>>| {
                    Box::pin(leaf(request.map(Body::from)))
                },
            )))
        }
    }
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

    layers!(
        Replay<Replay<MirrorBody<Body>>> => ArmBody:
        rate_limits,
        circuit_breaker,
        split,
        upstream_bulkhead,
        mirror,
        hedge,
        retry,
        balance,
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
        self.begin(request).await
    }

    /// The same, as what the arm has made for it.
    pub fn begin(&self, request: Request<Body>) -> Pin<Box<dyn Future<Output = Response<Body>> + Send>> {
        (self.0)(request)
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
    pub fn new<R: Into<RouteBody> + 'static>(stack: impl Stack<R>) -> Self {
        Self(Arc::new(Lent { hot: Mutex::new(stack.clone()), spare: stack, body: PhantomData }))
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
struct Lent<S, R> {
    hot: Mutex<S>,
    spare: S,
    body: PhantomData<fn() -> R>,
}

impl<S: Stack<R>, R: Into<RouteBody> + 'static> Erased for Lent<S, R> {
    fn call(&self, request: Request<Body>) -> RouteFuture {
        let hot = match self.hot.try_lock() {
            Ok(hot) => Some(hot),
            Err(TryLockError::Poisoned(hot)) => Some(hot.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        };
        if let Some(mut hot) = hot
            && hot.poll_ready(&mut Context::from_waker(Waker::noop())).is_ready()
        {
            return Box::pin(Responding { future: hot.call(request) });
        }
        let mut own = self.spare.clone();
        Box::pin(async move {
            let Ok(()) = std::future::poll_fn(|cx| own.poll_ready(cx)).await;
            Responding { future: own.call(request) }.await
        })
    }
}

pin_project! {
    /// The response of a stack, as that of a route.
    struct Responding<F> {
        #[pin]
        future: F,
    }
}

impl<F, R> Future for Responding<F>
where
    F: Future<Output = Result<Response<R>, Infallible>>,
    R: Into<RouteBody>,
{
    type Output = Result<Response<RouteBody>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Ok(response) = ready!(self.project().future.poll(cx));
        Poll::Ready(Ok(response.map(Into::into)))
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

pin_project! {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A shorter stack leaves layers out, and changes nothing else; nor does what stands behind a choice.
    #[test]
    fn shorter_stacks_are_in_the_one_order() {
        for short in [Layers::PLAIN, Layers::USUAL, ArmLayers::ORDER] {
            let mut all = Layers::ORDER.iter();
            assert!(short.iter().all(|layer| all.any(|other| other == layer)), "{short:?}");
        }
    }
}
