//! The data path: choose, enter, forward.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::{HeaderValue, Request, Response, header::SET_COOKIE};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_service::Service;

use super::{Balance, Endpoint, InFlight, Policy, Shared, Snapshot, load, set::Ask};
use crate::{
    clock::Now,
    guard::Guarded,
    observe::Observer,
    reject::{Head, Rejection},
};

impl<S, O, B, R> Service<Request<B>> for Balance<S, O>
where
    S: Service<Request<B>, Response = Response<R>>,
    O: Observer,
    R: Body + Default,
{
    type Response = Response<Guarded<R, InFlight>>;
    type Error = S::Error;
    type Future = BalanceFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let Some(handle) = &mut self.layer.handle else {
            let future = self.inner.call(request);
            return BalanceFuture::Forward { future, guard: None, cookie: None, says_load: false };
        };
        handle.refresh();
        let taken = match handle.shared.take(&handle.seen, &Head::from(&request)) {
            Ok(taken) => taken,
            Err(rejection) => {
                handle.shared.observer.rejected(&rejection);
                return BalanceFuture::Reject { rejection: Some(rejection) };
            }
        };
        handle.shared.observer.admitted();
        taken.endpoint.tell(request.extensions_mut());
        let future = self.inner.call(request);
        let says_load = handle.shared.setting.config.policy == Policy::LeastLoad;
        BalanceFuture::Forward { future, guard: Some(taken.guard), cookie: taken.cookie, says_load }
    }
}

pin_project! {
    /// The future of [`Balance`].
    #[project = Projection]
    #[derive(Debug)]
    pub enum BalanceFuture<F> {
        /// On its way.
        #[doc(hidden)]
        Forward { #[pin] future: F, guard: Option<InFlight>, cookie: Option<HeaderValue>, says_load: bool },
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

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            Projection::Forward { future, guard, cookie, says_load } => {
                let result = ready!(future.poll(cx));
                if let Some(guard) = guard {
                    guard.answered(&result);
                }
                let mut response = result?;
                if let Some(guard) = guard.as_ref().filter(|_| *says_load) {
                    load::hear(guard.endpoint(), response.headers_mut());
                }
                if let Some(cookie) = cookie.take() {
                    response.headers_mut().append(SET_COOKIE, cookie);
                }
                Poll::Ready(Ok(response.map(|body| Guarded::new(body, guard.take()))))
            }
            Projection::Reject { rejection } => {
                let rejection = rejection.take().expect("a future is not polled after it is ready");
                Poll::Ready(Ok(rejection.into_response()))
            }
        }
    }
}

/// How often the policy is asked again because what it chose could not be entered.
const AGAIN: usize = 8;

impl<O: Observer> Shared<O> {
    /// Chooses and enters.
    fn take(&self, snapshot: &Snapshot, head: &Head<'_>) -> Result<Taken, Rejection> {
        let chooser = self.chooser(snapshot);
        // A latency begins here, and not when the request's head was read.
        let now = if chooser.needs_now() { Now::read() } else { Now::of(head.extensions) };
        let ask = self.setting.ask(head, now);
        let (mut refused, mut count) = ([usize::MAX; AGAIN], 0);
        while let Some(choice) = chooser.commit(&ask, &refused[..count]) {
            if choice.in_panic {
                self.observer.panicked();
            }
            let anyway = || choice.in_panic || chooser.is_spared(&ask, choice.place);
            if let Some(guard) = enter(snapshot, choice.place, now, anyway) {
                chooser.settle(choice.place, now);
                return Ok(self.taken(snapshot, &ask, choice.place, guard));
            }
            if count == AGAIN {
                break;
            }
            refused[count] = choice.place;
            count += 1;
        }
        if count == AGAIN {
            // Others were faster so often that it is whichever lets us in.
            let mut places = (0..snapshot.members.len()).filter(|place| chooser.is_open(&ask, *place));
            if let Some((place, guard)) = places.find_map(|place| {
                Some((place, enter(snapshot, place, now, || chooser.is_spared(&ask, place))?))
            }) {
                return Ok(self.taken(snapshot, &ask, place, guard));
            }
        }
        // Somebody has to take it: whoever looked open and was not.
        let first = (count > 0 && self.setting.config.max_ejected.is_some()).then_some(refused[0]);
        let last = first.and_then(|place| Some((place, enter(snapshot, place, now, || true)?)));
        match last {
            Some((place, guard)) => Ok(self.taken(snapshot, &ask, place, guard)),
            None => Err(chooser.refusal(&ask)),
        }
    }

    fn taken(&self, snapshot: &Snapshot, ask: &Ask<'_>, place: usize, guard: InFlight) -> Taken {
        let endpoint = snapshot.members[place].endpoint.clone();
        if let Some(tried) = ask.tried {
            tried.add(endpoint.id());
        }
        let sticky = self.setting.config.sticky.as_ref().filter(|_| !ask.is_beside);
        let cookie = sticky.and_then(|sticky| {
            let token = snapshot.members[place].token?;
            if ask.token == Some(token) { None } else { sticky.cookie(token) }
        });
        Taken { endpoint, guard, cookie }
    }
}

fn enter(snapshot: &Snapshot, place: usize, now: Now, anyway: impl FnOnce() -> bool) -> Option<InFlight> {
    snapshot.members[place].endpoint.enter(now, snapshot.measure, anyway)
}

struct Taken {
    endpoint: Endpoint,
    guard: InFlight,
    cookie: Option<HeaderValue>,
}
