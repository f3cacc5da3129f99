//! The future of layers that sometimes have to ask who it is before they can decide.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{Request, Response};
use pin_project_lite::pin_project;
use tower_service::Service;

use crate::{identity::Identity, reject::Rejection};

/// Who it is, once that is known.
type Asking = Pin<Box<dyn Future<Output = Result<Arc<Identity>, Rejection>> + Send>>;

pin_project! {
    /// Asks who it is and then forwards, forwards at once, or answers.
    #[project = Projection]
    pub enum Asked<S, F, B> {
        #[doc(hidden)]
        Ask { asking: Asking, inner: S, request: Option<Request<B>> },
        #[doc(hidden)]
        Forward { #[pin] future: F },
        #[doc(hidden)]
        Reject { rejection: Option<Rejection> },
    }
}

impl<S, F, B> Asked<S, F, B> {
    /// The identity is put into the request, which then goes to `inner`, the instance that was polled ready.
    /// Only this path boxes.
    pub(crate) const fn ask(asking: Asking, inner: S, request: Request<B>) -> Self {
        Self::Ask { asking, inner, request: Some(request) }
    }

    pub(crate) const fn forward(future: F) -> Self {
        Self::Forward { future }
    }

    pub(crate) const fn reject(rejection: Rejection) -> Self {
        Self::Reject { rejection: Some(rejection) }
    }
}

impl<S, B, R> Future for Asked<S, S::Future, B>
where
    S: Service<Request<B>, Response = Response<R>>,
    R: Default,
{
    type Output = Result<Response<R>, S::Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            let next = match self.as_mut().project() {
                Projection::Ask { asking, inner, request } => match ready!(asking.as_mut().poll(cx)) {
                    Ok(identity) => {
                        let mut request = request.take().expect("a request asks once");
                        identity.put(request.extensions_mut());
                        Self::Forward { future: inner.call(request) }
                    }
                    Err(rejection) => Self::Reject { rejection: Some(rejection) },
                },
                Projection::Forward { future } => return future.poll(cx),
                Projection::Reject { rejection } => {
                    let rejection = rejection.take().expect("a future is not polled after it is ready");
                    return Poll::Ready(Ok(rejection.into_response()));
                }
            };
            self.set(next);
        }
    }
}

impl<S, F, B> fmt::Debug for Asked<S, F, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Asked").finish_non_exhaustive()
    }
}
