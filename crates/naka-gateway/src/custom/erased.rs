//! The policies of one's own at one place of the stack: nothing where there are none.

use std::{
    convert::Infallible,
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use naka::{BoxError, explain::Explain};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::{Made, Next};
use crate::upstream::Body;

/// All policies of one's own at one place, the first outermost.
#[derive(Clone, Default)]
pub struct CustomLayers(Option<Arc<[Made]>>);

impl CustomLayers {
    /// These, the first outermost.
    pub fn new(policies: Vec<Made>) -> Self {
        Self((!policies.is_empty()).then(|| policies.into()))
    }

    /// Whether there is none.
    pub const fn is_off(&self) -> bool {
        self.0.is_none()
    }

    /// Hands out each.
    pub fn each<'a>(&'a self, visit: &mut dyn FnMut(&'a dyn Explain)) {
        for policy in self.0.iter().flat_map(|all| all.iter()) {
            visit(policy);
        }
    }
}

impl fmt::Debug for CustomLayers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds = self.0.iter().flat_map(|all| all.iter()).map(Explain::kind);
        f.debug_list().entries(kinds).finish()
    }
}

impl<S, R> Layer<S> for CustomLayers
where
    S: Service<Request<Body>, Response = Response<R>, Error = Infallible, Future: Send + 'static>
        + Clone
        + Send
        + Sync
        + 'static,
    R: HttpBody<Data = Bytes, Error = BoxError> + Send + 'static,
{
    type Service = CustomService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        let Some(policies) = &self.0 else { return CustomService::Off { inner } };
        let next = Next::new(Boxed(inner));
        CustomService::On { next: policies.iter().rev().fold(next, |next, made| made.policy.around(next)) }
    }
}

/// A service with policies of one's own around it, or the service.
#[derive(Clone)]
pub enum CustomService<S> {
    /// There are none.
    Off {
        /// What is behind.
        inner: S,
    },
    /// There are some.
    On {
        /// The outermost.
        next: Next,
    },
}

impl<S> fmt::Debug for CustomService<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CustomService")
    }
}

impl<S, R> Service<Request<Body>> for CustomService<S>
where
    S: Service<Request<Body>, Response = Response<R>, Error = Infallible>,
{
    type Response = Response<CustomBody<R>>;
    type Error = Infallible;
    type Future = CustomFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        match self {
            Self::Off { inner } => inner.poll_ready(cx),
            Self::On { next } => next.poll_ready(cx),
        }
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        match self {
            Self::Off { inner } => CustomFuture::Off { future: inner.call(request) },
            Self::On { next } => CustomFuture::On { future: next.call(request) },
        }
    }
}

pin_project! {
    /// The future of a [`CustomService`].
    #[project = CustomFutureState]
    pub enum CustomFuture<F> {
        /// That of the service.
        Off {
            #[pin]
            future: F,
        },
        /// That of the outermost policy.
        On {
            #[pin]
            future: <Next as Service<Request<Body>>>::Future,
        },
    }
}

impl<F> fmt::Debug for CustomFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CustomFuture")
    }
}

impl<F, R> Future for CustomFuture<F>
where
    F: Future<Output = Result<Response<R>, Infallible>>,
{
    type Output = Result<Response<CustomBody<R>>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            CustomFutureState::Off { future } => {
                future.poll(cx).map_ok(|response| response.map(|body| CustomBody::Inner { body }))
            }
            CustomFutureState::On { future } => {
                future.poll(cx).map_ok(|response| response.map(|body| CustomBody::Custom { body }))
            }
        }
    }
}

/// What is behind all policies, with a body that has no type of its own.
#[derive(Clone)]
struct Boxed<S>(S);

impl<S, R> Service<Request<Body>> for Boxed<S>
where
    S: Service<Request<Body>, Response = Response<R>, Error = Infallible, Future: Send + 'static>,
    R: HttpBody<Data = Bytes, Error = BoxError> + Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let future = self.0.call(request);
        Box::pin(async move { future.await.map(|response| response.map(Body::boxed)) })
    }
}

pin_project! {
    /// The body of a response that policies of one's own may have changed.
    #[allow(missing_docs, reason = "nowhere to write them in this macro")]
    #[derive(Debug)]
    #[project = CustomBodyState]
    pub enum CustomBody<B> {
        /// There are none.
        Inner {
            #[pin]
            body: B,
        },
        /// As the outermost leaves it.
        Custom {
            #[pin]
            body: Body,
        },
    }
}

impl<B: Default> Default for CustomBody<B> {
    fn default() -> Self {
        Self::Inner { body: B::default() }
    }
}

impl<B: From<Bytes>> From<Bytes> for CustomBody<B> {
    fn from(bytes: Bytes) -> Self {
        Self::Inner { body: B::from(bytes) }
    }
}

impl<B: HttpBody<Data = Bytes, Error = BoxError>> HttpBody for CustomBody<B> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.project() {
            CustomBodyState::Inner { body } => body.poll_frame(cx),
            CustomBodyState::Custom { body } => body.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Inner { body } => body.is_end_stream(),
            Self::Custom { body } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Inner { body } => body.size_hint(),
            Self::Custom { body } => body.size_hint(),
        }
    }
}
