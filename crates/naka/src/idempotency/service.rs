//! What becomes of a request: its body is read, the store is asked, and what comes of it is told to the store.

use std::{
    fmt,
    future::Future,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, request::Parts};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_service::Service;

use super::{
    Failures, IdempotencyLayer, Judgement, Own, REPLAYED, Shared,
    body::{self, IdempotencyBody, Recorder},
    judge, print, refusal,
    store::{Beginning, Begun, Outcome, Recorded, Ticket},
    table::Digest,
};
use crate::{
    buffered::{Buffered, Collect, CollectError, Collected},
    clock::Now,
    held::Part,
    layered::layered,
    observe::Observer,
    reject::{Head, Reason, Rejection},
    trace::note,
};

layered! {
    /// Does nothing twice; see the [module docs](super). What is behind gets bodies as [`Buffered`].
    IdempotencyLayer { shared } => Idempotency
}

impl<S, O, B, R> Service<Request<B>> for Idempotency<S, O>
where
    S: Service<Request<Buffered<B>>, Response = Response<R>> + Clone,
    O: Observer,
    B: Body<Data = Bytes>,
    R: Body<Data = Bytes> + Default,
{
    type Response = Response<IdempotencyBody<R>>;
    type Error = S::Error;
    type Future = IdempotencyFuture<S, S::Future, B, O>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let known = self.layer.shared.as_ref().map(|shared| (shared, shared.evaluate(&Head::from(&request))));
        let state = match known {
            None | Some((_, Ok(None))) => {
                State::Pass { future: self.inner.call(request.map(Buffered::same)) }
            }
            Some((shared, Err(rejection))) => {
                State::Answer { answer: Some(Answer::Refusal(shared.refuse(rejection))) }
            }
            Some((shared, Ok(Some(id)))) => {
                let now = Now::of(request.extensions());
                let (parts, body) = request.into_parts();
                let held = Part::of(&parts.extensions);
                let another = held.another();
                let collect =
                    Collect::new(body, shared.config.max_request_bytes).with_share(shared.share(held));
                // The one that is ready goes; its clone has to become ready first.
                let clone = self.inner.clone();
                let inner = mem::replace(&mut self.inner, clone);
                let planned = Planned { shared: Arc::clone(shared), now, id, held: another };
                State::Read { parts: Some(parts), collect, inner: Some(inner), planned: Some(planned) }
            }
        };
        IdempotencyFuture { state }
    }
}

pin_project! {
    /// The future of [`Idempotency`].
    pub struct IdempotencyFuture<S, F, B, O = ()>
    where
        B: Body,
        O: Observer,
    {
        #[pin]
        state: State<S, F, B, O>,
    }
}

pin_project! {
    #[project = Projection]
    enum State<S, F, B, O>
    where
        B: Body,
        O: Observer,
    {
        /// It has no key: not ours.
        Pass { #[pin] future: F },
        /// Its body comes.
        Read { parts: Option<Parts>, #[pin] collect: Collect<B>, inner: Option<S>, planned: Option<Planned<O>> },
        /// The store is asked.
        Ask { asking: Asking, waiting: Option<Waiting<S, B, O>> },
        /// It is at work.
        Work { #[pin] future: F, work: Work<O> },
        /// It is known what to answer.
        Answer { answer: Option<Answer> },
    }
}

type Asking = Pin<Box<dyn Future<Output = Begun> + Send>>;

/// Keeps the layer's inside out of the future's type.
struct Planned<O> {
    shared: Arc<Shared<O>>,
    now: Now,
    id: Digest,
    /// Of the answer.
    held: Part,
}

/// A request whose body has come, and whoever it is for.
struct Waiting<S, B: Body, O> {
    request: Request<Buffered<B>>,
    inner: S,
    planned: Planned<O>,
}

enum Answer {
    Refusal(Rejection),
    Replay(Arc<Recorded>),
}

impl<S, B, R, O> Future for IdempotencyFuture<S, S::Future, B, O>
where
    S: Service<Request<Buffered<B>>, Response = Response<R>>,
    B: Body<Data = Bytes>,
    R: Body<Data = Bytes> + Default,
    O: Observer,
{
    type Output = Result<Response<IdempotencyBody<R>>, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            let next = match state.as_mut().project() {
                Projection::Pass { future } => {
                    let response = ready!(future.poll(cx))?;
                    return Poll::Ready(
                        Ok(response.map(|body| IdempotencyBody::plain(Buffered::same(body)))),
                    );
                }
                Projection::Read { parts, collect, inner, planned } => {
                    let collected = ready!(collect.poll(cx));
                    let planned = planned.take().expect("a body is read once");
                    let parts = parts.take().expect("a body is read once");
                    let inner = inner.take().expect("a body is read once");
                    planned.ask(parts, collected, inner)
                }
                Projection::Ask { asking, waiting } => {
                    let begun = ready!(asking.as_mut().poll(cx));
                    waiting.take().expect("the store answers once").go_on(begun)
                }
                Projection::Work { future, work } => {
                    let result = ready!(future.poll(cx));
                    return Poll::Ready(work.judge(result));
                }
                Projection::Answer { answer } => {
                    let answer = answer.take().expect("a future is not polled after it is ready");
                    return Poll::Ready(Ok(answer.into_response()));
                }
            };
            state.set(next);
        }
    }
}

impl<S, F, B: Body, O: Observer> fmt::Debug for IdempotencyFuture<S, F, B, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdempotencyFuture").finish_non_exhaustive()
    }
}

impl<O: Observer> Planned<O> {
    /// The body has come, or not: the store is asked about the request.
    fn ask<S, B>(
        self,
        parts: Parts,
        collected: Result<Collected, CollectError<B::Error>>,
        inner: S,
    ) -> State<S, S::Future, B, O>
    where
        S: Service<Request<Buffered<B>>>,
        B: Body<Data = Bytes>,
    {
        let config = &self.shared.config;
        let collected = match collected {
            Ok(collected) => collected,
            Err(error) => {
                let rejection = match error {
                    CollectError::TooLarge => Rejection::new(Reason::BodyTooLarge),
                    CollectError::NoRoom => Rejection::new(Reason::IdempotencyStoreFull),
                    CollectError::Failed(_) => {
                        Rejection::new(Reason::BadRequest).detail("The body of the request broke off.")
                    }
                };
                return State::Answer { answer: Some(Answer::Refusal(self.shared.refuse(rejection))) };
            }
        };
        let print = print(config, &parts, &collected.data);
        let beginning = self.shared.store.begin(&config.limits, self.now, &self.id, &print);
        let request = Request::from_parts(parts, Buffered::whole(collected));
        let waiting = Waiting { request, inner, planned: self };
        match beginning {
            Beginning::Now(begun) => waiting.go_on(begun),
            Beginning::Later(asking) => State::Ask { asking, waiting: Some(waiting) },
        }
    }
}

impl<S, B, O> Waiting<S, B, O>
where
    S: Service<Request<Buffered<B>>>,
    B: Body<Data = Bytes>,
    O: Observer,
{
    /// The store has said what is known of the key.
    fn go_on(self, begun: Begun) -> State<S, S::Future, B, O> {
        let Self { request, mut inner, planned: Planned { shared, id, held, .. } } = self;
        if let Begun::Fresh(token) = begun {
            let (store, limits) = (Arc::clone(&shared.store), shared.config.limits);
            let ticket = Some(Ticket::new(store, limits, id, token));
            let work = Work { shared, ticket, held }; // Before the call: should that panic, the outcome is not known.
            work.shared.observer.admitted();
            return State::Work { future: inner.call(request), work };
        }
        State::Answer {
            answer: Some(match (refusal(&begun), begun) {
                (None, Begun::Answered(answer)) => {
                    shared.observer.replayed();
                    note(request.extensions(), "replayed", shared.name.as_ref(), None);
                    Answer::Replay(answer)
                }
                (rejection, _) => {
                    Answer::Refusal(shared.refuse(rejection.expect("all other findings refuse")))
                }
            }),
        }
    }
}

/// A request that is at work. Dropped before there is an answer, it was given up.
struct Work<O: Observer> {
    shared: Arc<Shared<O>>,
    ticket: Option<Ticket>,
    /// What is held of its answer.
    held: Part,
}

impl<O: Observer> Work<O> {
    fn judge<R: Body<Data = Bytes>, E>(
        &mut self,
        result: Result<Response<R>, E>,
    ) -> Result<Response<IdempotencyBody<R>>, E> {
        let ticket = self.ticket.take().expect("a future is not polled after it is ready");
        let config = &self.shared.config;
        let response = match result {
            Ok(response) => response,
            Err(error) => {
                let is_kept = config.failures == Failures::Keep;
                ticket.end(if is_kept { Outcome::Unknown } else { Outcome::Released });
                return Err(error);
            }
        };
        let own = Own::of(response.extensions());
        let plain = |response: Response<R>| response.map(|body| IdempotencyBody::plain(Buffered::same(body)));
        let outcome = match judge(config.failures, response.status(), own) {
            Judgement::Record => {
                let (parts, body) = response.into_parts();
                let answer = Recorded::new(parts.status, body::kept(&parts.headers), Bytes::new());
                let (hint, most) = (body.size_hint(), config.max_response_bytes);
                let share = self.shared.share(mem::take(&mut self.held));
                let recorder = Recorder::new(ticket, answer, &hint, most, share);
                return Ok(Response::from_parts(parts, IdempotencyBody::recorded(body, recorder)));
            }
            Judgement::Release => Outcome::Released,
            Judgement::NotKept => Outcome::NotKept,
            Judgement::Unknown => Outcome::Unknown,
        };
        ticket.end(outcome);
        Ok(plain(response))
    }
}

impl<O: Observer> Drop for Work<O> {
    fn drop(&mut self) {
        if self.ticket.is_some() {
            self.shared.observer.cancelled();
        }
    }
}

impl Answer {
    fn into_response<R: Body<Data = Bytes> + Default>(self) -> Response<IdempotencyBody<R>> {
        match self {
            Self::Refusal(rejection) => rejection.into_response(),
            Self::Replay(answer) => {
                let (data, trailers) = (answer.body.clone(), answer.trailers.clone());
                let whole = Collected { data, trailers, share: None };
                let mut response = Response::new(IdempotencyBody::plain(Buffered::whole(whole)));
                *response.status_mut() = answer.status;
                response.headers_mut().clone_from(&answer.headers);
                response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
                response
            }
        }
    }
}
