//! What is answered in another way, and what is not.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests may")]

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use naka::{
    attempt::{ATTEMPT, StandIn, Stop},
    budget::{Balance, Budget, BudgetConfig},
    clock::Now,
    context::Context as Facts,
    explain::{Explain as _, Finding},
    fallback::{AnyBody, FALLBACK, FallbackBody, FallbackConfig, FallbackLayer, When},
    observe::Observer,
    reject::{Reason, Rejection},
    replay::Replay,
    retry::{RetryConfig, RetryLayer},
};
use tower::{Layer as _, Service, ServiceExt as _};

/// Keeps what it hears.
#[derive(Clone, Default)]
struct Ear(Arc<Mutex<Vec<Option<Stop>>>>);

impl Ear {
    fn heard(&self) -> Vec<Option<Stop>> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

impl Observer for Ear {
    fn fell_back(&self) {
        self.0.lock().unwrap().push(None);
    }
    fn not_retried(&self, stop: Stop) {
        self.0.lock().unwrap().push(Some(stop));
    }
}

/// What a service does with one request.
#[derive(Clone, Copy, Debug)]
enum Does {
    /// Answers, having read all of the body.
    Answers(u16),
    /// The same, having read one frame.
    AnswersEarly(u16),
    /// Refuses, having read all of the body.
    Refuses(Reason),
    /// Refuses, having read nothing.
    RefusesUnread(Reason),
}

/// A service, and what came to it: method, attempt and body.
#[derive(Clone)]
struct Behind {
    does: Arc<Mutex<Does>>,
    came: Arc<Mutex<Vec<Came>>>,
}

type Came = (Method, Option<String>, String);

impl Behind {
    fn that(does: Does) -> Self {
        Self { does: Arc::new(Mutex::new(does)), came: Arc::default() }
    }

    fn now(&self, does: Does) {
        *self.does.lock().unwrap() = does;
    }

    fn came(&self) -> Vec<Came> {
        std::mem::take(&mut self.came.lock().unwrap())
    }

    async fn answer<B>(self, request: Request<B>) -> Response<Full<Bytes>>
    where
        B: http_body::Body<Data = Bytes> + Unpin,
    {
        let (head, mut body) = request.into_parts();
        let does = *self.does.lock().unwrap();
        let read = match does {
            Does::RefusesUnread(_) => Bytes::new(),
            Does::AnswersEarly(_) => match body.frame().await {
                Some(frame) => frame.ok().unwrap().into_data().unwrap_or_default(),
                None => Bytes::new(),
            },
            _ => body.collect().await.map_or_else(|_| "broken".into(), http_body_util::Collected::to_bytes),
        };
        let attempt = head.headers.get(ATTEMPT).map(|it| it.to_str().unwrap().to_owned());
        let read = String::from_utf8(read.to_vec()).unwrap();
        self.came.lock().unwrap().push((head.method, attempt, read));
        match does {
            Does::Answers(status) | Does::AnswersEarly(status) => {
                Response::builder().status(status).body(Full::from("its answer")).unwrap()
            }
            Does::Refuses(reason) | Does::RefusesUnread(reason) => Rejection::new(reason).into_response(),
        }
    }
}

impl<B> Service<Request<B>> for Behind
where
    B: http_body::Body<Data = Bytes> + Unpin + Send + 'static,
{
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let answer = self.clone().answer(request);
        Box::pin(async move { Ok(answer.await) })
    }
}

fn budget() -> Budget {
    Budget::new(BudgetConfig::new(), Now::read())
}

fn request(method: Method, body: &'static str) -> Request<Full<Bytes>> {
    Request::builder().method(method).uri("/for-you").body(Full::from(body)).unwrap()
}

fn get() -> Request<Full<Bytes>> {
    request(Method::GET, "")
}

async fn send<O: Observer>(
    layer: &FallbackLayer<O>,
    primary: &Behind,
    request: Request<Full<Bytes>>,
) -> (u16, Option<String>, Bytes, Response<()>) {
    let response = layer.layer(primary.clone()).oneshot(request).await.unwrap();
    let (head, body) = response.into_parts();
    let marked = head.headers.get(FALLBACK).map(|it| it.to_str().unwrap().to_owned());
    let body = FallbackBody::collect(body).await.unwrap().to_bytes();
    (head.status.as_u16(), marked, body, Response::from_parts(head, ()))
}

fn responds() -> FallbackLayer<Ear> {
    let answer = Response::builder().status(203).header("x-a", "b").body(Bytes::from("the usual")).unwrap();
    FallbackLayer::respond_observed(FallbackConfig::new(), answer, Ear::default()).named(&"usual".into())
}

fn asks(alternate: &Behind, budget: &Budget) -> (FallbackLayer<Ear>, Ear) {
    let ear = Ear::default();
    let config = FallbackConfig::new().max_body(16);
    let layer = FallbackLayer::alternate_observed(config, budget.clone(), alternate.clone(), ear.clone());
    (layer.named(&"other".into()), ear)
}

#[tokio::test(start_paused = true)]
async fn r3_8_what_failed_is_answered_by_the_layer_itself_whatever_the_method() {
    let (layer, primary) = (responds(), Behind::that(Does::Answers(503)));
    let failures = [
        (Does::Answers(503), None, true),
        (Does::Refuses(Reason::UpstreamReset), Some(Reason::UpstreamReset), true),
        (Does::Refuses(Reason::ResponseTimeout), Some(Reason::ResponseTimeout), true),
        (Does::RefusesUnread(Reason::ConnectFailed), Some(Reason::ConnectFailed), false),
        (Does::RefusesUnread(Reason::CircuitOpen), Some(Reason::CircuitOpen), false),
        (Does::RefusesUnread(Reason::BulkheadFull), Some(Reason::BulkheadFull), false),
    ];
    for (failure, reason, was_sent) in failures {
        primary.now(failure);
        for method in [Method::GET, Method::POST] {
            let (status, marked, body, head) = send(&layer, &primary, request(method, "order")).await;
            assert_eq!((status, marked.as_deref(), &*body), (203, Some("usual"), &b"the usual"[..]));
            assert_eq!(head.headers()["x-a"], "b");
            assert_eq!(head.headers()["cache-control"], "no-store");
            assert!(head.extensions().get::<Rejection>().is_none(), "it is no refusal any more");
            assert_eq!(head.extensions().get::<StandIn>(), Some(&StandIn { reason, was_sent }));
        }
    }
    let passed =
        [Does::Answers(200), Does::Answers(404), Does::Answers(500), Does::Refuses(Reason::RateLimited)];
    for passes in passed {
        primary.now(passes);
        let (status, marked, ..) = send(&layer, &primary, get()).await;
        assert!(status != 203 && marked.is_none(), "{passes:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn r3_8_an_alternate_is_asked_for_what_is_safe_once_and_its_answer_is_the_answer() {
    let (primary, alternate) = (Behind::that(Does::Answers(503)), Behind::that(Does::Answers(200)));
    let (layer, ear) = asks(&alternate, &budget());
    let (status, marked, body, _) = send(&layer, &primary, get()).await;
    assert_eq!((status, marked.as_deref(), &*body), (200, Some("other"), &b"its answer"[..]));
    assert_eq!(alternate.came(), [(Method::GET, Some("2".to_owned()), String::new())]);
    // One that fails as well is not followed by anybody.
    for failure in [Does::Answers(503), Does::Refuses(Reason::CircuitOpen)] {
        alternate.now(failure);
        let (status, marked, ..) = send(&layer, &primary, get()).await;
        assert_eq!((status, marked.as_deref(), alternate.came().len()), (503, Some("other"), 1));
    }
    primary.now(Does::Answers(200));
    assert_eq!(send(&layer, &primary, get()).await.1, None);
    assert_eq!((alternate.came().len(), ear.heard()), (0, vec![None; 3]));
}

#[tokio::test(start_paused = true)]
async fn r3_9_what_is_not_safe_is_asked_elsewhere_only_if_it_was_provably_never_sent() {
    let (primary, alternate) = (Behind::that(Does::Answers(200)), Behind::that(Does::Answers(200)));
    let (layer, ear) = asks(&alternate, &budget());
    let may_have_been_seen = [
        Does::Answers(503),
        Does::AnswersEarly(503),
        Does::Refuses(Reason::UpstreamReset),
        Does::Refuses(Reason::ResponseTimeout),
        Does::RefusesUnread(Reason::UpstreamProtocol),
    ];
    for failure in may_have_been_seen {
        primary.now(failure);
        for method in [Method::POST, Method::PUT, Method::DELETE, Method::PATCH] {
            let (status, marked, ..) = send(&layer, &primary, request(method, "pay")).await;
            assert!(status >= 500 && marked.is_none(), "{failure:?}");
            assert_eq!((primary.came().len(), alternate.came().len()), (1, 0), "{failure:?}");
        }
    }
    assert!(ear.heard().iter().all(|stop| *stop == Some(Stop::NotRepeatable)));
    for reason in [Reason::ConnectFailed, Reason::ConnectTimeout, Reason::CircuitOpen, Reason::NoEndpoint] {
        primary.now(Does::RefusesUnread(reason));
        let (status, marked, ..) = send(&layer, &primary, request(Method::POST, "pay")).await;
        assert_eq!((status, marked.as_deref()), (200, Some("other")));
        assert_eq!(alternate.came(), [(Method::POST, Some("2".to_owned()), "pay".to_owned())]);
    }
}

/// The last attempt was never sent, and the one before it was.
#[tokio::test(start_paused = true)]
async fn r3_9_retries_that_end_with_nothing_sent_do_not_hide_what_was_sent_before() {
    let alternate = Behind::that(Does::Answers(200));
    for last in [Reason::ConnectFailed, Reason::NoEndpoint, Reason::CircuitOpen] {
        let steps = Arc::new(Mutex::new(vec![last, Reason::UpstreamReset]));
        let primary = tower::service_fn(move |_: Request<Replay<Replay<Full<Bytes>>>>| {
            let reason = steps.lock().unwrap().pop().unwrap_or(last);
            async move { Ok::<_, Infallible>(Rejection::new(reason).into_response::<Full<Bytes>>()) }
        });
        let (layer, ear) = asks(&alternate, &budget());
        let service = layer.layer(RetryLayer::new(RetryConfig::new(1).keyed(true), budget()).layer(primary));
        let mut keyed = request(Method::POST, "pay");
        keyed.headers_mut().insert("idempotency-key", "1".parse().unwrap());
        let response = service.oneshot(keyed).await.unwrap();
        assert!(response.status().is_server_error());
        assert_eq!((alternate.came().len(), ear.heard()), (0, vec![Some(Stop::NotRepeatable)]), "{last}");
    }
}

#[tokio::test(start_paused = true)]
async fn r3_8_a_body_goes_to_the_alternate_whole_or_not_at_all() {
    let (primary, alternate) = (Behind::that(Does::Answers(503)), Behind::that(Does::Answers(200)));
    let (layer, ear) = asks(&alternate, &budget());
    for does in [Does::Answers(503), Does::AnswersEarly(503), Does::RefusesUnread(Reason::ConnectFailed)] {
        primary.now(does);
        send(&layer, &primary, request(Method::GET, "sixteen bytes ok")).await;
        assert_eq!(alternate.came()[0].2, "sixteen bytes ok", "{does:?}");
    }
    primary.now(Does::Answers(503));
    assert_eq!(send(&layer, &primary, request(Method::GET, "seventeen bytes..")).await.0, 503);
    // What was not touched is there still, however long it is.
    primary.now(Does::RefusesUnread(Reason::ConnectFailed));
    assert_eq!(send(&layer, &primary, request(Method::GET, "seventeen bytes..")).await.0, 200);
    assert_eq!(alternate.came()[0].2, "seventeen bytes..");
    assert_eq!(ear.heard()[3..], [Some(Stop::Body), None]);
}

#[tokio::test(start_paused = true)]
async fn r3_8_what_was_sent_spends_the_budget_of_retries_and_what_was_not_spends_none() {
    let (primary, alternate) = (Behind::that(Does::Answers(503)), Behind::that(Does::Answers(200)));
    let budget = Budget::new(BudgetConfig::new().min_per_second(0).percent(20), Now::read());
    let (layer, ear) = asks(&alternate, &budget);
    let mut answered = 0;
    for _ in 0..100 {
        answered += u32::from(send(&layer, &primary, get()).await.0 == 200);
    }
    assert_eq!((answered, ear.heard().iter().filter(|it| **it == Some(Stop::Budget)).count()), (20, 80));
    assert_eq!(budget.balance(Now::read()), Balance { spent: 20, allowed: 20 });
    primary.now(Does::RefusesUnread(Reason::CircuitOpen));
    for _ in 0..50 {
        assert_eq!(send(&layer, &primary, get()).await.0, 200);
    }
    assert_eq!(budget.balance(Now::read()).spent, 20);
}

/// Counted once, although both layers count requests in it.
#[tokio::test(start_paused = true)]
async fn a_request_counts_once_in_a_budget_that_retries_and_fallbacks_share() {
    let (primary, alternate) = (Behind::that(Does::Answers(200)), Behind::that(Does::Answers(200)));
    let budget = Budget::new(BudgetConfig::new().min_per_second(0).percent(10), Now::read());
    let (layer, _) = asks(&alternate, &budget);
    let service = layer.layer(RetryLayer::new(RetryConfig::new(1), budget.clone()).layer(primary.clone()));
    for number in 0..200 {
        let mut sent = get();
        if number % 2 == 0 {
            sent.extensions_mut().insert(Facts::new(Now::read()));
        }
        service.clone().oneshot(sent).await.unwrap();
    }
    assert_eq!(budget.balance(Now::read()), Balance { spent: 0, allowed: 20 });
}

#[tokio::test(start_paused = true)]
async fn r3_8_nobody_is_asked_when_nobody_waits_any_more_or_somebody_in_front_tries_again() {
    let (primary, alternate) = (Behind::that(Does::Answers(503)), Behind::that(Does::Answers(200)));
    let (layer, ear) = asks(&alternate, &budget());
    for (left_ms, status) in [(0, 503), (1, 200)] {
        let (now, mut late) = (Now::read(), get());
        late.extensions_mut()
            .insert(Facts::new(now).with_deadline(now.instant() + Duration::from_millis(left_ms)));
        assert_eq!(send(&layer, &primary, late).await.0, status);
    }
    assert_eq!(ear.heard(), [Some(Stop::Deadline), None]);
    let mut again = get();
    again.headers_mut().insert(ATTEMPT, "2".parse().unwrap());
    assert_eq!(send(&layer, &primary, again).await.0, 503);
    // An answer of the layer's own costs nobody anything.
    let mut again = get();
    again.headers_mut().insert(ATTEMPT, "2".parse().unwrap());
    assert_eq!(send(&responds(), &primary, again).await.0, 203);
}

#[tokio::test(start_paused = true)]
async fn who_has_gone_is_asked_for_nowhere() {
    let alternate = Behind::that(Does::Answers(200));
    let (layer, _) = asks(&alternate, &budget());
    let hangs = tower::service_fn(|_: Request<Replay<Full<Bytes>>>| {
        std::future::pending::<Result<Response<Full<Bytes>>, Infallible>>()
    });
    let sent = layer.layer(hangs).oneshot(get());
    assert!(tokio::time::timeout(Duration::from_mins(1), sent).await.is_err(), "a fallback is no timeout");
    assert!(alternate.came().is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_is_explained_is_what_happens() {
    let explained = |layer: &FallbackLayer<Ear>, method: Method| {
        let (mut head, ()) = Request::builder().method(method).body(()).unwrap().into_parts();
        match layer.explain(Now::read(), &mut head) {
            Finding::Admit(text) => text,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(explained(&responds(), Method::POST), "what fails is answered with 203");
    let (layer, _) = asks(&Behind::that(Does::Answers(200)), &budget());
    assert!(explained(&layer, Method::GET).starts_with("what fails is asked of the alternate; 100 of 100"));
    assert!(explained(&layer, Method::POST).starts_with("what was never sent is asked of the alternate"));
    let (head, ()) = Request::post("/").body(()).unwrap().into_parts();
    let said = |layer: &FallbackLayer<Ear>, reason| layer.explain_refusal(&Rejection::new(reason), &head);
    assert!(matches!(said(&layer, Reason::CircuitOpen), Some(Finding::Admit(_))));
    assert_eq!(said(&layer, Reason::RateLimited), None);
    assert!(matches!(
        said(&responds(), Reason::NoEndpoint),
        Some(Finding::Answer(StatusCode::NON_AUTHORITATIVE_INFORMATION, _))
    ));
    let never = responds().reconfigured(FallbackConfig::new().when(When::never()));
    assert_eq!(said(&never, Reason::NoEndpoint), None);
    let _: fn(AnyBody) = drop; // What an alternate gets has a name.
}
