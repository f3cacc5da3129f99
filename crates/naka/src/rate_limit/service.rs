//! What becomes of a request: it is decided at once, or a store is asked first.

use std::{
    fmt,
    future::Future,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{Request, Response};
use pin_project_lite::pin_project;
use tower_service::Service;

use super::{
    RateLimit, RateLimitLayer,
    fields::Lines,
    grant::{Grant, Grants},
    limit::Limit,
    table::Asked,
};
use crate::{
    clock::Now,
    enforce::Enforce,
    observe::Observer,
    reject::{Head, Rejection},
};

impl<S, O, B, R> Service<Request<B>> for RateLimit<S, O>
where
    S: Service<Request<B>, Response = Response<R>> + Clone,
    O: Observer,
    R: Default,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = RateLimitFuture<S, S::Future, B, O>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let layer = &self.layer;
        let grants = match layer.grants_at_once(&request) {
            Ok(Some(grants)) => grants,
            Ok(None) => {
                let asking = layer.ask(&request);
                // The instance that was polled ready goes with the request; its clone stays here.
                let clone = self.inner.clone();
                let inner = mem::replace(&mut self.inner, clone);
                let layer = self.layer.clone();
                let rest = Box::new(Waiting { request, inner, layer });
                return RateLimitFuture { state: State::Ask { asking, rest: Some(rest) }, lines: None };
            }
            Err(rejection) => return RateLimitFuture::reject(rejection, layer.lines(&request)),
        };
        RateLimitFuture::decided(layer, &mut self.inner, request, grants)
    }
}

impl<O: Observer> RateLimitLayer<O> {
    /// What shared limits have granted, if none of them has to ask; and whether another limit refuses before that.
    fn grants_at_once<B>(&self, request: &Request<B>) -> Result<Option<Grants>, Rejection> {
        let mut grants = Grants::default();
        if self.limits.iter().all(|limit| limit.shared.is_none()) {
            return Ok(Some(grants));
        }
        let (head, now) = (Head::from(request), Now::of(request.extensions()));
        for limit in &*self.limits {
            let Some(shared) = &limit.shared else { continue };
            let grant = match limit.counted(&head, now) {
                Some(asked) => limit.grant_at_once(shared, &asked, now),
                None => Some(Grant::Uncounted),
            };
            let Some(grant) = grant else {
                // Nobody is asked for what is refused anyway.
                let mut own = self.limits.iter().filter(|limit| limit.shared.is_none());
                own.try_for_each(|limit| limit.refuse(&head, now, None))?;
                return Ok(None);
            };
            grants.push(grant);
        }
        Ok(Some(grants))
    }

    /// Asks for what each shared limit grants.
    fn ask<B>(&self, request: &Request<B>) -> Asking {
        let (head, now) = (Head::from(request), Now::of(request.extensions()));
        let shared = self.limits.iter().filter(|limit| limit.shared.is_some());
        let all = shared.map(|limit| (Arc::clone(limit), limit.counted(&head, now))).collect::<Vec<_>>();
        Box::pin(granted(all))
    }
}

impl<O: Observer> Limit<O> {
    /// What a request is to the table, if it is counted.
    fn counted(&self, head: &Head<'_>, now: Now) -> Option<Asked> {
        if self.config.enforce == Enforce::Never {
            return None;
        }
        self.asked(head, now).ok().flatten()
    }
}

type Asking = Pin<Box<dyn Future<Output = Grants> + Send>>;

/// One after the other: who is refused by one asks no more. What is granted and not used goes back.
async fn granted<O: Observer>(all: Vec<(Arc<Limit<O>>, Option<Asked>)>) -> Grants {
    let (mut grants, mut is_refused) = (Grants::default(), false);
    for (limit, asked) in &all {
        let grant = match (&limit.shared, asked) {
            (Some(shared), Some(asked)) if !is_refused => {
                let mut patience = Patience { limit, is_over: false };
                limit.observer.queued();
                let grant = limit.grant(shared, asked).await;
                patience.is_over = true;
                grant
            }
            _ => Grant::Uncounted,
        };
        is_refused |= grant.refuses() && limit.config.enforce == Enforce::Always;
        grants.push(grant);
    }
    grants
}

/// A request that waits for a store; its caller may go.
struct Patience<'a, O: Observer> {
    limit: &'a Limit<O>,
    is_over: bool,
}

impl<O: Observer> Drop for Patience<'_, O> {
    fn drop(&mut self) {
        if !self.is_over {
            self.limit.observer.cancelled();
        }
    }
}

/// A request that waits, and where it goes then.
struct Waiting<S, B, O> {
    request: Request<B>,
    inner: S,
    layer: RateLimitLayer<O>,
}

pin_project! {
    /// The future of [`RateLimit`].
    pub struct RateLimitFuture<S, F, B, O = ()> {
        #[pin]
        state: State<S, F, B, O>,
        lines: Option<Lines>,
    }
}

pin_project! {
    /// Only who asks is in a box.
    #[project = Projection]
    enum State<S, F, B, O> {
        Ask { asking: Asking, rest: Option<Box<Waiting<S, B, O>>> },
        Forward { #[pin] future: F },
        Reject { rejection: Option<Rejection> },
    }
}

impl<S, F, B, O> RateLimitFuture<S, F, B, O> {
    const fn reject(rejection: Rejection, lines: Option<Lines>) -> Self {
        Self { state: State::Reject { rejection: Some(rejection) }, lines }
    }
}

impl<S, B, O> RateLimitFuture<S, S::Future, B, O>
where
    S: Service<Request<B>>,
    O: Observer,
{
    fn decided(layer: &RateLimitLayer<O>, inner: &mut S, request: Request<B>, grants: Grants) -> Self {
        let decision = layer.commit(&request, grants);
        let lines = layer.lines(&request);
        match decision {
            Ok(()) => Self { state: State::Forward { future: inner.call(request) }, lines },
            Err(rejection) => Self::reject(rejection, lines),
        }
    }
}

impl<S, B, O, R> Future for RateLimitFuture<S, S::Future, B, O>
where
    S: Service<Request<B>, Response = Response<R>>,
    O: Observer,
    R: Default,
{
    type Output = Result<Response<R>, S::Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            let this = self.as_mut().project();
            let mut response = match this.state.project() {
                Projection::Forward { future } => ready!(future.poll(cx))?,
                Projection::Reject { rejection } => {
                    let rejection = rejection.take().expect("a future is not polled after it is ready");
                    rejection.into_response()
                }
                Projection::Ask { asking, rest } => {
                    let grants = ready!(asking.as_mut().poll(cx));
                    let Waiting { request, mut inner, layer } = *rest.take().expect("a request asks once");
                    let decided = Self::decided(&layer, &mut inner, request, grants);
                    self.set(decided);
                    continue;
                }
            };
            if let Some(lines) = this.lines.take() {
                lines.write(response.headers_mut());
            }
            return Poll::Ready(Ok(response));
        }
    }
}

impl<S, F, B, O> fmt::Debug for RateLimitFuture<S, F, B, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimitFuture").finish_non_exhaustive()
    }
}
