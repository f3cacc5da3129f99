//! What is sent again, and what is not.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests may")]

use std::{
    collections::{HashSet, VecDeque},
    convert::Infallible,
    error::Error,
    fmt,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::{BodyExt as _, Collected, Full, combinators::BoxBody};
use naka::{
    balance::{BalanceConfig, BalanceLayer, Endpoint, HashKey, Policy},
    clock::Now,
    context::Context as Facts,
    explain::{Explain as _, Finding},
    reject::{Reason, Rejection},
    retry::{ATTEMPT, Balance, Budget, BudgetConfig, Methods, Replay, RetryConfig, RetryLayer, When},
};
use tokio::time::Instant;
use tower::{Layer as _, Service, ServiceExt as _};

/// What an upstream does with one request.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// Answers with that status, having read all of the body.
    Status(u16),
    /// The same, and asks to be left alone for so many seconds.
    Later(u16, u64),
    /// Answers with that status, having read one frame of the body.
    Early(u16),
    /// Is not reached, or does not answer: a refusal of ours.
    Refused(Reason),
    /// Never answers.
    Hangs,
}

/// An upstream that does one step after the other, and the last one for ever.
#[derive(Clone)]
struct Upstream {
    start: Instant,
    steps: Arc<Mutex<VecDeque<Step>>>,
    seen: Arc<Mutex<Vec<Seen>>>,
}

/// What it has seen.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    attempt: Option<String>,
    body: Result<String, String>,
    at: Duration,
}

impl Upstream {
    fn new(steps: &[Step]) -> Self {
        let steps = Arc::new(Mutex::new(steps.iter().copied().collect()));
        Self { start: Instant::now(), steps, seen: Arc::default() }
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    fn bodies(&self) -> Vec<String> {
        self.seen().into_iter().map(|seen| seen.body.unwrap_or_else(|error| format!("!{error}"))).collect()
    }

    fn step(&self) -> Step {
        let mut steps = self.steps.lock().unwrap();
        if steps.len() > 1 { steps.pop_front().unwrap() } else { steps[0] }
    }
}

type Sent = BoxBody<Bytes, Broken>;

/// Why a body broke off.
#[derive(Debug)]
struct Broken(&'static str);

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl Error for Broken {}

impl Service<Request<Replay<Sent>>> for Upstream {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Replay<Sent>>) -> Self::Future {
        let (me, step, at) = (self.clone(), self.step(), self.start.elapsed());
        Box::pin(async move {
            let attempt = request.headers().get(ATTEMPT).map(|it| it.to_str().unwrap().to_owned());
            let mut body = Box::pin(request.into_body());
            let read = match step {
                Step::Refused(Reason::ConnectFailed | Reason::ConnectTimeout) => Ok(Bytes::new()),
                Step::Early(_) => match body.frame().await {
                    Some(frame) => frame.map(|frame| frame.into_data().unwrap()),
                    None => Ok(Bytes::new()),
                },
                _ => body.collect().await.map(Collected::to_bytes),
            };
            let body =
                read.map(|read| String::from_utf8(read.to_vec()).unwrap()).map_err(|it| it.to_string());
            me.seen.lock().unwrap().push(Seen { attempt, body, at });
            let response = Response::builder();
            Ok(match step {
                Step::Status(status) | Step::Early(status) => {
                    response.status(status).body(Full::default()).unwrap()
                }
                Step::Later(status, seconds) => {
                    response.status(status).header("retry-after", seconds).body(Full::default()).unwrap()
                }
                Step::Refused(reason) => Rejection::new(reason).into_response(),
                Step::Hangs => std::future::pending().await,
            })
        })
    }
}

fn budget() -> Budget {
    Budget::new(BudgetConfig::new(), Now::read())
}

fn body(text: &'static str) -> Sent {
    Full::from(text).map_err(|never| match never {}).boxed()
}

/// A body that comes in pieces, and may break off.
struct Pieces(VecDeque<Result<&'static str, &'static str>>);

impl Body for Pieces {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let piece = self.0.pop_front();
        Poll::Ready(piece.map(|piece| piece.map(|it| Frame::data(Bytes::from(it))).map_err(Broken)))
    }
}

fn pieces(pieces: &[Result<&'static str, &'static str>]) -> Sent {
    Pieces(pieces.iter().copied().collect()).boxed()
}

async fn send(layer: &RetryLayer, upstream: &Upstream, request: Request<Sent>) -> StatusCode {
    layer.layer(upstream.clone()).oneshot(request).await.unwrap().status()
}

fn request(method: Method, body: Sent) -> Request<Sent> {
    Request::builder().method(method).uri("/rides/7").body(body).unwrap()
}

fn boxed(body: Replay<Sent>) -> Sent {
    body.map_err(|_| Broken("it broke off further out")).boxed()
}

fn get() -> Request<Sent> {
    request(Method::GET, body(""))
}

fn layer(max: u32) -> RetryLayer {
    RetryLayer::new(RetryConfig::new(max), budget())
}

fn explained(layer: &RetryLayer) -> String {
    let (mut head, ()) = Request::get("/").body(()).unwrap().into_parts();
    match layer.explain(Now::read(), &mut head) {
        Finding::Admit(text) => text,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn r2_5_what_may_be_sent_twice_is_sent_again_and_says_so() {
    for failure in
        [Step::Status(503), Step::Refused(Reason::UpstreamReset), Step::Refused(Reason::ConnectFailed)]
    {
        for method in [Method::GET, Method::PUT, Method::DELETE] {
            let upstream = Upstream::new(&[failure, failure, Step::Status(200)]);
            assert_eq!(send(&layer(2), &upstream, request(method, body("again"))).await, 200);
            let attempts = upstream.seen().into_iter().map(|seen| seen.attempt).collect::<Vec<_>>();
            assert_eq!(attempts, [None, Some("2".to_owned()), Some("3".to_owned())]);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn r2_5_no_more_attempts_than_was_said_and_the_last_answer_is_the_answer() {
    let upstream = Upstream::new(&[Step::Status(503), Step::Refused(Reason::UpstreamReset)]);
    assert_eq!(send(&layer(3), &upstream, get()).await, 502);
    assert_eq!(upstream.seen().len(), 4);
}

#[tokio::test(start_paused = true)]
async fn r2_5_a_post_that_may_have_arrived_is_never_sent_again() {
    for failure in [Step::Status(503), Step::Refused(Reason::UpstreamReset), Step::Early(503)] {
        let upstream = Upstream::new(&[failure, Step::Status(200)]);
        let status = send(&layer(3), &upstream, request(Method::POST, body("pay"))).await;
        assert_ne!(status, 200, "{failure:?}");
        assert_eq!(upstream.seen().len(), 1, "{failure:?}");
    }
    // Nothing of this one was sent.
    let upstream = Upstream::new(&[
        Step::Refused(Reason::ConnectFailed),
        Step::Refused(Reason::ConnectTimeout),
        Step::Status(200),
    ]);
    assert_eq!(send(&layer(3), &upstream, request(Method::POST, body("pay"))).await, 200);
    assert_eq!(upstream.bodies(), ["", "", "pay"]);
    // Of this one whoever is behind says that it has not looked at it.
    let upstream = Upstream::new(&[Step::Refused(Reason::UpstreamRefused), Step::Status(200)]);
    assert_eq!(send(&layer(1), &upstream, request(Method::POST, body("pay"))).await, 200);
    assert_eq!(upstream.bodies(), ["pay", "pay"]);
}

#[tokio::test(start_paused = true)]
async fn r2_5_a_post_with_a_key_is_sent_again_only_where_keys_are_remembered() {
    let keyed = || {
        let mut keyed = request(Method::POST, body("pay"));
        keyed.headers_mut().insert("idempotency-key", "1".parse().unwrap());
        keyed
    };
    for (is_keyed, status) in [(false, 503), (true, 200)] {
        let layer = RetryLayer::new(RetryConfig::new(1).keyed(is_keyed), budget());
        let upstream = Upstream::new(&[Step::Status(503), Step::Status(200)]);
        assert_eq!(send(&layer, &upstream, keyed()).await, status);
    }
}

#[tokio::test(start_paused = true)]
async fn refusals_of_our_own_and_what_nobody_asked_for_are_not_sent_again() {
    let steps = [
        Step::Refused(Reason::BulkheadFull),
        Step::Refused(Reason::RateLimited),
        Step::Refused(Reason::NoEndpoint),
        Step::Refused(Reason::ResponseTimeout),
        Step::Status(500),
        Step::Status(404),
    ];
    for step in steps {
        let upstream = Upstream::new(&[step, Step::Status(200)]);
        assert_ne!(send(&layer(3), &upstream, get()).await, 200, "{step:?}");
        assert_eq!(upstream.seen().len(), 1, "{step:?}");
    }
    let when = When::never().response_timeout(true).statuses([StatusCode::NOT_FOUND]);
    let layer = RetryLayer::new(RetryConfig::new(2).when(when), budget());
    let upstream =
        Upstream::new(&[Step::Refused(Reason::ResponseTimeout), Step::Status(404), Step::Status(200)]);
    assert_eq!(send(&layer, &upstream, get()).await, 200);
    let upstream = Upstream::new(&[Step::Status(503), Step::Status(200)]);
    assert_eq!(send(&layer, &upstream, get()).await, 503);
}

#[tokio::test(start_paused = true)]
async fn r2_5_a_body_is_sent_again_from_its_beginning_up_to_the_bound() {
    let three = [Ok("one "), Ok("two "), Ok("three")];
    // Read whole, read in part, not read at all.
    let upstream = Upstream::new(&[
        Step::Status(503),
        Step::Early(503),
        Step::Refused(Reason::ConnectFailed),
        Step::Status(200),
    ]);
    assert_eq!(send(&layer(3), &upstream, request(Method::PUT, pieces(&three))).await, 200);
    assert_eq!(upstream.bodies(), ["one two three", "one ", "", "one two three"]);

    let short = RetryLayer::new(RetryConfig::new(3).max_body(8), budget());
    // What was kept is enough for what was read.
    let upstream = Upstream::new(&[Step::Early(503), Step::Status(200)]);
    assert_eq!(send(&short, &upstream, request(Method::PUT, pieces(&three))).await, 200);
    assert_eq!(upstream.bodies(), ["one ", "one two three"]);
    // It is not.
    let upstream = Upstream::new(&[Step::Status(503), Step::Status(200)]);
    assert_eq!(send(&short, &upstream, request(Method::PUT, pieces(&three))).await, 503);
    assert_eq!(upstream.bodies(), ["one two three"]);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_broke_off_is_not_sent_again() {
    let broken = [Ok("one "), Err("the client is gone")];
    let upstream = Upstream::new(&[Step::Status(503), Step::Status(200)]);
    assert_eq!(send(&layer(3), &upstream, request(Method::PUT, pieces(&broken))).await, 503);
    assert_eq!(upstream.bodies(), ["!the client is gone"]);
}

#[tokio::test(start_paused = true)]
async fn who_asks_to_be_left_alone_for_a_moment_is() {
    let upstream = Upstream::new(&[Step::Later(503, 1), Step::Status(200)]);
    assert_eq!(send(&layer(1), &upstream, get()).await, 200);
    assert_eq!(upstream.seen()[1].at, Duration::from_secs(1));
    let upstream = Upstream::new(&[Step::Later(503, 2), Step::Status(200)]);
    assert_eq!(send(&layer(1), &upstream, get()).await, 503);
}

#[tokio::test(start_paused = true)]
async fn r2_5_no_attempt_begins_after_the_deadline() {
    for (within_ms, status) in [(1000, 503), (1001, 200)] {
        let upstream = Upstream::new(&[Step::Later(503, 1), Step::Status(200)]);
        let (now, mut request) = (Now::read(), get());
        let deadline = now.instant() + Duration::from_millis(within_ms);
        request.extensions_mut().insert(Facts::new(now).with_deadline(deadline));
        assert_eq!(send(&layer(1), &upstream, request).await, status, "{within_ms} ms");
    }
}

#[tokio::test(start_paused = true)]
async fn somebody_in_front_who_retries_is_enough() {
    let upstream = Upstream::new(&[Step::Status(503)]);
    let mut again = get();
    again.headers_mut().insert(ATTEMPT, "2".parse().unwrap());
    assert_eq!(send(&layer(3), &upstream, again).await, 503);
    assert_eq!(upstream.seen().len(), 1);
    // Three layers, each of which would try three times more, and one upstream: four attempts, not 64.
    let upstream = Upstream::new(&[Step::Status(503)]);
    let inner = layer(3).layer(upstream.clone());
    let service = layer(3).layer(inner.map_request(|request: Request<Replay<Sent>>| request.map(boxed)));
    let service = layer(3).layer(service.map_request(|request: Request<Replay<Sent>>| request.map(boxed)));
    assert_eq!(service.oneshot(get()).await.unwrap().status(), 503);
    assert_eq!(upstream.seen().len(), 4);
}

/// The load that an upstream gets that answers nothing, of a thousand requests a second.
async fn storm(budget: BudgetConfig) -> usize {
    let layer = RetryLayer::new(RetryConfig::new(3), Budget::new(budget, Now::read()));
    let upstream = Upstream::new(&[Step::Status(503)]);
    for _ in 0..1000 {
        assert_eq!(send(&layer, &upstream, get()).await, 503);
    }
    upstream.seen().len()
}

#[tokio::test(start_paused = true)]
async fn r2_5_a_budget_keeps_retries_from_multiplying_the_load() {
    let unbounded = storm(BudgetConfig::new().percent(1000)).await;
    assert_eq!(unbounded, 4000);
    let bounded = storm(BudgetConfig::new().window(Duration::from_hours(1)).min_per_second(0)).await;
    assert_eq!(bounded, 1200);
}

#[tokio::test(start_paused = true)]
async fn all_services_of_a_layer_spend_one_budget_and_explain_shows_it() {
    let budget = Budget::new(BudgetConfig::new().min_per_second(0).percent(50), Now::read());
    let layer = RetryLayer::new(RetryConfig::new(1).methods(Methods::Safe), budget.clone());
    let upstream = Upstream::new(&[Step::Status(503)]);
    for _ in 0..4 {
        assert_eq!(send(&layer.clone(), &upstream, get()).await, 503);
    }
    assert_eq!(upstream.seen().len(), 6);
    assert_eq!(budget.balance(Now::read()), Balance { spent: 2, allowed: 2 });
    assert_eq!(explained(&layer), "what failed is sent again, up to 1 times; 0 of 2 retries left");
    let more = budget.reconfigured(BudgetConfig::new().min_per_second(0).percent(100), Now::read());
    let more = layer.reconfigured(RetryConfig::new(1), more, ());
    assert_eq!(explained(&more), "what failed is sent again, up to 1 times; 2 of 4 retries left");
}

#[tokio::test(start_paused = true)]
async fn who_has_gone_is_not_retried_for() {
    let upstream = Upstream::new(&[Step::Later(503, 1), Step::Status(200)]);
    let sent = tokio::time::timeout(Duration::from_millis(500), send(&layer(1), &upstream, get())).await;
    assert!(sent.is_err());
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(upstream.seen().len(), 1);
    let hanging = Upstream::new(&[Step::Hangs]);
    let sent = tokio::time::timeout(Duration::from_secs(1), send(&layer(1), &hanging, get())).await;
    assert!(sent.is_err(), "a retry is no timeout");
}

/// By its key it would go to the same endpoint each time.
#[tokio::test(start_paused = true)]
async fn r9_9_a_retry_prefers_another_endpoint() {
    let tried = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&tried);
    let fails = tower::service_fn(move |request: Request<Replay<Sent>>| {
        let address = Endpoint::of(request.extensions()).unwrap().address().to_string();
        seen.lock().unwrap().push(address);
        async { Ok::<_, Infallible>(Response::builder().status(503).body(Full::<Bytes>::default()).unwrap()) }
    });
    let balance = BalanceLayer::with_config(BalanceConfig::new(Policy::Rendezvous), ["a:1", "b:1", "c:1"]);
    let balance = balance.hash_by(|_| Some(HashKey::of(b"asha")));
    let service = layer(3).layer(balance.layer(fails));
    assert_eq!(service.clone().oneshot(get()).await.unwrap().status(), 503);
    let first = tried.lock().unwrap().clone();
    assert_eq!(first.iter().collect::<HashSet<_>>().len(), 3, "all three before one twice: {first:?}");
    assert_eq!(service.oneshot(get()).await.unwrap().status(), 503);
    assert_eq!(tried.lock().unwrap()[4], first[0], "another request begins where its key says");
}
