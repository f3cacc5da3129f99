//! What is repeated with the same key is not done again.
#![allow(clippy::unwrap_used, reason = "a test may")]

use std::{
    collections::VecDeque,
    convert::Infallible,
    future::Future,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use naka::{
    buffered::Buffered,
    clock::Now,
    context::{ClientAddr, Context as Known},
    explain::{Explain, Finding},
    idempotency::{
        Beginning, Begun, Counts, Digest, Failures, IdempotencyBody, IdempotencyConfig, IdempotencyLayer,
        Limits, MemoryStore, Outcome, Store, by_caller,
    },
    identity::{Claim, Identity, Scheme},
    key::Key,
    observe::Observer,
    reject::{Dependency, Head, Reason, Rejection},
};
use tokio::sync::Semaphore;
use tower::{Layer, Service, ServiceExt, service_fn};

/// Frames as they were told, an error if there is one, and then an end, or none.
#[derive(Debug, Default)]
struct Frames {
    queue: VecDeque<Result<Frame<Bytes>, &'static str>>,
    never_ends: bool,
}

impl Frames {
    fn of(pieces: &[&'static str]) -> Self {
        let frames = pieces.iter().map(|piece| Ok(Frame::data(Bytes::from_static(piece.as_bytes()))));
        Self { queue: frames.collect(), never_ends: false }
    }

    fn then(mut self, frame: Result<Frame<Bytes>, &'static str>) -> Self {
        self.queue.push_back(frame);
        self
    }

    fn never_ends(mut self) -> Self {
        self.never_ends = true;
        self
    }
}

impl Body for Frames {
    type Data = Bytes;
    type Error = &'static str;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, &'static str>>> {
        match self.queue.pop_front() {
            None if self.never_ends => Poll::Pending,
            frame => Poll::Ready(frame),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.queue.is_empty() && !self.never_ends
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

type Inner = Request<Buffered<Frames>>;
type Answer = Response<IdempotencyBody<Frames>>;

/// What is behind: it counts, reads the body, and answers as it is told.
#[derive(Clone)]
struct Behind {
    calls: Arc<AtomicUsize>,
    gate: Arc<Semaphore>,
    answer: Arc<dyn Fn(usize, Bytes) -> Response<Frames> + Send + Sync>,
}

impl Behind {
    fn new(answer: impl Fn(usize, Bytes) -> Response<Frames> + Send + Sync + 'static) -> Self {
        let gate = Arc::new(Semaphore::new(Semaphore::MAX_PERMITS));
        Self { calls: Arc::default(), gate, answer: Arc::new(answer) }
    }

    fn plain() -> Self {
        Self::new(|_, body| Response::new(Frames::default().then(Ok(Frame::data(body)))))
    }

    fn status(status: u16) -> Self {
        Self::new(move |_, _| {
            Response::builder().status(status).body(Frames::of(&["an ", "answer"])).unwrap()
        })
    }

    /// Nothing is answered until a permit is added.
    fn closed() -> Self {
        let gate = Arc::new(Semaphore::new(0));
        Self { gate, ..Self::plain() }
    }

    fn calls(&self) -> usize {
        self.calls.load(SeqCst)
    }

    fn service(
        &self,
    ) -> impl Service<Inner, Response = Response<Frames>, Error = Infallible, Future: Send> + Clone + Send + use<>
    {
        let this = self.clone();
        service_fn(move |request: Inner| {
            let this = this.clone();
            async move {
                let number = this.calls.fetch_add(1, SeqCst);
                let body = request.into_body().collect().await.unwrap().to_bytes();
                this.gate.acquire().await.unwrap().forget();
                Ok((this.answer)(number, body))
            }
        })
    }

    async fn ask<O: Observer>(&self, layer: &IdempotencyLayer<O>, request: Request<Frames>) -> Answer {
        layer.layer(self.service()).oneshot(request).await.unwrap()
    }
}

fn layer() -> IdempotencyLayer {
    IdempotencyLayer::new(IdempotencyConfig::new())
}

fn pay(key: &str) -> Request<Frames> {
    Request::post("/pay?by=upi").header("idempotency-key", key).body(Frames::of(&["40 ", "rupees"])).unwrap()
}

fn reason<B>(response: &Response<B>) -> Option<Reason> {
    response.extensions().get::<Rejection>().map(|rejection| rejection.reason)
}

fn is_replayed<B>(response: &Response<B>) -> bool {
    response.headers().get("idempotency-replayed").is_some_and(|value| value == "true")
}

async fn text(response: Answer) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

fn said(layer: &impl Explain, request: Request<Frames>) -> Finding {
    layer.explain(Now::read(), &mut request.into_parts().0)
}

#[tokio::test(start_paused = true)]
async fn r4_5_a_repetition_is_answered_as_the_first_was() {
    let trailers = HeaderMap::from_iter([("checked".parse().unwrap(), HeaderValue::from_static("yes"))]);
    let behind = Behind::new(move |number, body| {
        let body = Frames::of(&["paid "]).then(Ok(Frame::data(body)));
        let answer = Response::builder().status(201).header("x-number", number).header("date", "today");
        let answer = answer.header("connection", "x-hop").header("x-hop", "1").header("set-cookie", "a=1");
        answer.header("set-cookie", "b=2").body(body.then(Ok(Frame::trailers(trailers.clone())))).unwrap()
    });
    let layer = layer();
    let first = behind.ask(&layer, pay("k")).await;
    assert!(!is_replayed(&first) && first.headers().contains_key("date"));
    assert_eq!(text(first).await, "paid 40 rupees");
    for key in ["k", "\"k\""] {
        let again = behind.ask(&layer, pay(key)).await;
        assert!(is_replayed(&again));
        assert!(again.status() == 201 && again.headers()["x-number"] == "0");
        assert_eq!(again.headers().get_all("set-cookie").iter().collect::<Vec<_>>(), ["a=1", "b=2"]);
        for gone in ["date", "connection", "x-hop"] {
            assert!(!again.headers().contains_key(gone), "{gone}");
        }
        let whole = again.into_body().collect().await.unwrap();
        assert_eq!(whole.trailers().unwrap()["checked"], "yes");
        assert_eq!(whole.to_bytes(), "paid 40 rupees");
    }
    assert_eq!(behind.calls(), 1);
    assert_eq!(text(behind.ask(&layer, pay("other")).await).await, "paid 40 rupees");
    assert_eq!(behind.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn r4_5_another_request_with_the_key_is_refused() {
    let (behind, layer) = (Behind::plain(), layer());
    text(behind.ask(&layer, pay("k")).await).await;
    let with = |change: fn(&mut Request<Frames>)| {
        let mut request = pay("k");
        change(&mut request);
        request
    };
    let others = [
        with(|request| *request.body_mut() = Frames::of(&["41 rupees"])),
        with(|request| *request.uri_mut() = "/pay?by=card".parse().unwrap()),
        with(|request| {
            request.headers_mut().insert("content-type", HeaderValue::from_static("text/plain"));
        }),
    ];
    for other in others {
        let refused = behind.ask(&layer, other).await;
        assert_eq!((refused.status().as_u16(), reason(&refused)), (422, Some(Reason::IdempotencyMismatch)));
    }
    let same = with(|request| {
        *request.body_mut() = Frames::of(&["4", "0 rupees"]);
        request.headers_mut().insert("x-trace", HeaderValue::from_static("another"));
    });
    assert!(is_replayed(&behind.ask(&layer, same).await), "how it was cut, and other headers, mean nothing");
    assert_eq!(behind.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn r4_5_what_is_at_work_is_not_begun_again() {
    let (behind, layer) = (Behind::closed(), layer());
    let first = tokio::spawn({
        let (behind, layer) = (behind.clone(), layer.clone());
        async move { behind.ask(&layer, pay("k")).await }
    });
    tokio::task::yield_now().await;
    assert_eq!(layer.counts(), Counts { keys: 1, working: 1, bytes: 256 });
    tokio::time::advance(Duration::from_secs(1_000_000)).await; // Longer than a key is known.
    let refused = behind.ask(&layer, pay("k")).await;
    assert_eq!((refused.status().as_u16(), reason(&refused)), (409, Some(Reason::IdempotencyInFlight)));
    assert_eq!(refused.headers()["retry-after"], "1");
    behind.gate.add_permits(1);
    let first = first.await.unwrap();
    assert_eq!(reason(&behind.ask(&layer, pay("k")).await), Some(Reason::IdempotencyInFlight), "its body");
    assert_eq!(text(first).await, "40 rupees");
    assert!(is_replayed(&behind.ask(&layer, pay("k")).await));
    assert_eq!((behind.calls(), layer.counts().working), (1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_at_once_one_runs() {
    let (behind, layer) = (Behind::plain(), layer());
    let mut all = tokio::task::JoinSet::new();
    for _ in 0..200 {
        let (behind, layer) = (behind.clone(), layer.clone());
        all.spawn(async move {
            let answer = behind.ask(&layer, pay("k")).await;
            let is_refused = reason(&answer) == Some(Reason::IdempotencyInFlight);
            assert!(is_refused || text(answer).await == "40 rupees");
        });
    }
    while let Some(done) = all.join_next().await {
        done.unwrap();
    }
    assert_eq!(behind.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn only_requests_of_its_methods_have_keys() {
    let (behind, layer) = (Behind::plain(), layer());
    let required = layer.reconfigured(&IdempotencyConfig::new().required());
    let plain = |method| Request::builder().method(method).uri("/").body(Frames::of(&["x"])).unwrap();
    let mut get = pay("k");
    *get.method_mut() = Method::GET;
    for (layer, request) in [(&layer, get), (&layer, plain("POST")), (&required, plain("PUT"))] {
        assert_eq!(said(layer, request), Finding::Passes);
    }
    for _ in 0..2 {
        text(behind.ask(&layer, plain("POST")).await).await;
    }
    assert_eq!((behind.calls(), layer.counts().keys), (2, 0));
    let refused = behind.ask(&required, plain("PATCH")).await;
    assert_eq!((refused.status().as_u16(), reason(&refused)), (400, Some(Reason::IdempotencyKeyMissing)));
    assert_eq!(behind.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_is_no_key_is_refused() {
    let (behind, layer) = (Behind::plain(), layer());
    let mut twice = pay("k");
    twice.headers_mut().append("idempotency-key", HeaderValue::from_static("k"));
    let mut all = vec![twice, pay(""), pay("\"\""), pay(&"x".repeat(256)), pay("a b"), pay("\"a\", \"b\"")];
    all.extend([pay("\"a"), pay("\"a\";x")]);
    for request in all {
        let refused = behind.ask(&layer, request).await;
        assert_eq!((refused.status().as_u16(), reason(&refused)), (400, Some(Reason::IdempotencyKeyInvalid)));
    }
    assert_eq!(behind.calls(), 0);
}

#[tokio::test(start_paused = true)]
async fn equal_keys_of_two_callers_never_meet() {
    let who = |scheme, subject: &str, issuer: Option<&str>| {
        let mut request = pay("k");
        let mut identity = Identity::new(scheme, Some(subject.into()));
        if let Some(issuer) = issuer {
            identity.claims.insert("iss".into(), Claim::Text(issuer.into()));
        }
        Arc::new(identity).put(request.extensions_mut());
        request
    };
    let from = |client: &str| {
        let mut request = pay("k");
        request.extensions_mut().insert(ClientAddr(client.parse().unwrap()));
        request
    };
    let at = |host: &'static str| {
        let mut request = pay("k");
        request.headers_mut().insert("host", HeaderValue::from_static(host));
        request
    };
    let on = |target: &'static str| {
        let mut request = pay("k");
        *request.uri_mut() = http::Uri::from_static(target);
        request
    };
    let patch = || {
        let mut request = pay("k");
        *request.method_mut() = Method::PATCH;
        request
    };
    let all: [&dyn Fn() -> Request<Frames>; 11] = [
        &|| pay("k"),
        &|| who(Scheme::Jwt, "asha", None),
        &|| who(Scheme::Jwt, "ravi", None),
        &|| who(Scheme::ApiKey, "asha", None),
        &|| who(Scheme::Jwt, "asha", Some("another issuer")),
        &|| from("192.0.2.1"),
        &|| from("192.0.2.2"),
        &|| at("a.example"),
        &|| at("b.example"),
        &|| on("/pay/other?by=upi"),
        &patch,
    ];
    let (behind, layer) = (Behind::plain(), layer());
    for one in all {
        assert!(!is_replayed(&behind.ask(&layer, one()).await));
    }
    assert_eq!(behind.calls(), all.len());
    for one in all {
        assert!(is_replayed(&behind.ask(&layer, one()).await));
    }
    let mut roams = who(Scheme::Jwt, "asha", None);
    roams.extensions_mut().insert(ClientAddr("192.0.2.9".parse().unwrap()));
    assert!(is_replayed(&behind.ask(&layer, roams).await), "who is known may move");
}

#[tokio::test(start_paused = true)]
async fn callers_who_are_told_apart_share_no_key() {
    let with = |identities: Vec<Identity>| {
        let mut request = pay("k");
        request.extensions_mut().insert(ClientAddr("192.0.2.1".parse().unwrap()));
        for identity in identities {
            Arc::new(identity).put(request.extensions_mut());
        }
        request
    };
    let claims = |claims: Vec<(&str, Claim)>| {
        let mut identity = Identity::new(Scheme::Jwt, None);
        identity.claims = claims.into_iter().map(|(name, claim)| (name.into(), claim)).collect();
        identity
    };
    let text = |text: &str| Claim::Text(text.into());
    let named = |scheme, name: &str| Identity::new(scheme, Some(name.into()));
    let all: [&dyn Fn() -> Vec<Identity>; 8] = [
        &|| vec![claims(vec![("azp", text("asha"))])],
        &|| vec![claims(vec![("azp", text("ravi"))])],
        &|| vec![claims(vec![("number", text("1"))])],
        &|| vec![claims(vec![("number", Claim::Integer(1))])],
        &|| vec![claims(vec![("groups", Claim::List(vec![text("a"), text("b")]))])],
        &|| vec![named(Scheme::ApiKey, "app")],
        &|| vec![named(Scheme::ApiKey, "app"), named(Scheme::Jwt, "asha")],
        &|| vec![named(Scheme::ApiKey, "app"), named(Scheme::Jwt, "ravi")],
    ];
    let (behind, layer) = (Behind::plain(), layer());
    for one in all {
        assert!(!is_replayed(&behind.ask(&layer, with(one())).await), "{:?}", one());
    }
    for one in all {
        assert!(is_replayed(&behind.ask(&layer, with(one())).await), "{:?}", one());
    }
    assert_eq!(behind.calls(), all.len());
    let nobody = || with(vec![Identity::new(Scheme::ForwardAuth, None)]);
    let refused = behind.ask(&layer, nobody()).await;
    assert_eq!((refused.status().as_u16(), reason(&refused)), (400, Some(Reason::KeyMissing)));
    assert!(matches!(said(&layer, nobody()), Finding::Reject(why) if why.reason == Reason::KeyMissing));
}

#[tokio::test(start_paused = true)]
async fn a_scope_of_ones_own_decides() {
    let scope = |head: &Head<'_>| Some(Key::of(head.headers.get("x-tenant")?).into());
    let (behind, layer) = (Behind::plain(), IdempotencyLayer::scoped(IdempotencyConfig::new(), scope));
    let of = |tenant: &'static str| {
        let mut request = pay("k");
        request.headers_mut().insert("x-tenant", HeaderValue::from_static(tenant));
        request
    };
    text(behind.ask(&layer, of("a")).await).await;
    assert!(!is_replayed(&behind.ask(&layer, of("b")).await));
    assert!(is_replayed(&behind.ask(&layer, of("a")).await));
    let nobody = behind.ask(&layer, pay("k")).await;
    assert_eq!((nobody.status().as_u16(), reason(&nobody)), (400, Some(Reason::KeyMissing)));
    assert_eq!(behind.calls(), 2);
    let request = of("a");
    assert_eq!(by_caller(&Head::from(&request)), by_caller(&Head::from(&of("b"))));
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_too_large_or_breaks_off_takes_no_key() {
    let mut config = IdempotencyConfig::new();
    config.max_request_bytes = 9;
    let (behind, layer) = (Behind::plain(), IdempotencyLayer::new(config));
    let (mut announced, mut streamed) = (pay("k"), pay("k"));
    announced.headers_mut().insert("content-length", HeaderValue::from(10));
    *streamed.body_mut() = Frames::of(&["40 rupees", "!"]);
    for request in [announced, streamed] {
        let refused = behind.ask(&layer, request).await;
        assert_eq!((refused.status().as_u16(), reason(&refused)), (413, Some(Reason::BodyTooLarge)));
    }
    let mut broken = pay("k");
    *broken.body_mut() = Frames::of(&["40 "]).then(Err("gone"));
    assert_eq!(reason(&behind.ask(&layer, broken).await), Some(Reason::BadRequest));
    assert_eq!((behind.calls(), layer.counts()), (0, Counts::default()));
    assert_eq!(text(behind.ask(&layer, pay("k")).await).await, "40 rupees");
}

#[tokio::test(start_paused = true)]
async fn what_says_that_nothing_was_done_frees_the_key() {
    let kept = [200, 201, 204, 303, 400, 402, 404, 410, 422];
    let freed = [401, 403, 407, 408, 409, 425, 429, 500, 502, 503, 504];
    for status in kept.into_iter().chain(freed) {
        let (behind, layer) = (Behind::status(status), layer());
        for _ in 0..2 {
            let answer = behind.ask(&layer, pay("k")).await;
            assert_eq!(
                (answer.status(), text(answer).await.as_str()),
                (status.try_into().unwrap(), "an answer")
            );
        }
        let expected = if kept.contains(&status) { (1, 1) } else { (2, 0) };
        assert_eq!((behind.calls(), layer.counts().keys), expected, "{status}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_of_ours_frees_the_key() {
    for reason in [Reason::BulkheadFull, Reason::Forbidden, Reason::TotalTimeout, Reason::BodyTooLarge] {
        let behind = Behind::new(move |_, _| Rejection::new(reason).into_response());
        let layer = layer();
        for _ in 0..2 {
            assert!(!is_replayed(&behind.ask(&layer, pay("k")).await));
        }
        assert_eq!((behind.calls(), layer.counts().keys), (2, 0), "{reason}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_must_never_run_twice_does_not_run_twice_after_a_failure() {
    let careful = || IdempotencyLayer::new(IdempotencyConfig::new().failures(Failures::Keep));
    let (behind, layer) = (Behind::status(503), careful());
    text(behind.ask(&layer, pay("k")).await).await;
    let again = behind.ask(&layer, pay("k")).await;
    assert!(again.status() == 503 && is_replayed(&again) && behind.calls() == 1);

    for (reason, calls) in [
        (Reason::TotalTimeout, 1),
        (Reason::ResponseTimeout, 1),
        (Reason::UpstreamReset, 1),
        (Reason::ConnectFailed, 2),
        (Reason::BulkheadFull, 2),
    ] {
        let behind = Behind::new(move |_, _| Rejection::new(reason).into_response());
        let layer = careful();
        behind.ask(&layer, pay("k")).await;
        let again = behind.ask(&layer, pay("k")).await;
        assert_eq!(behind.calls(), calls, "{reason}");
        let expected = if calls == 1 { Reason::IdempotencyUnknown } else { reason };
        assert_eq!(self::reason(&again), Some(expected));
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_passes_and_frees_the_key_or_leaves_its_outcome_unknown() {
    for (failures, begun) in [(Failures::Release, 2), (Failures::Keep, 1)] {
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&calls);
        let fails = service_fn(move |_: Inner| {
            counted.fetch_add(1, SeqCst);
            async { Err::<Response<Frames>, _>("broken") }
        });
        let layer = IdempotencyLayer::new(IdempotencyConfig::new().failures(failures));
        assert_eq!(layer.layer(fails.clone()).oneshot(pay("k")).await.err(), Some("broken"));
        let again = layer.layer(fails).oneshot(pay("k")).await;
        assert_eq!(calls.load(SeqCst), begun);
        match failures {
            Failures::Keep => assert_eq!(reason(&again.unwrap()), Some(Reason::IdempotencyUnknown)),
            _ => assert_eq!(again.err(), Some("broken")),
        }
    }
}

/// Polls once, and gives up.
fn poll_once(future: impl Future) -> bool {
    pin!(future).poll(&mut Context::from_waker(Waker::noop())).is_ready()
}

#[tokio::test(start_paused = true)]
async fn given_up_before_it_was_passed_on_it_frees_the_key() {
    let (behind, layer) = (Behind::plain(), layer());
    let mut slow = pay("k");
    *slow.body_mut() = Frames::of(&["40 "]).never_ends();
    drop(layer.layer(behind.service()).call(pay("k")));
    assert!(!poll_once(layer.layer(behind.service()).call(slow)));
    assert_eq!((behind.calls(), layer.counts()), (0, Counts::default()));
}

#[tokio::test(start_paused = true)]
async fn given_up_at_work_its_outcome_is_not_known_until_its_time_is_over() {
    let observer = Arc::new(Told::default());
    let scope = by_caller;
    let layer = IdempotencyLayer::observed(IdempotencyConfig::new(), scope, Arc::clone(&observer));
    let behind = Behind::closed();
    assert!(!poll_once(layer.layer(behind.service()).call(pay("k"))));
    assert_eq!((behind.calls(), layer.counts().working, observer.cancelled.load(SeqCst)), (1, 0, 1));
    behind.gate.add_permits(10);
    let refused = behind.ask(&layer, pay("k")).await;
    assert_eq!((refused.status().as_u16(), reason(&refused)), (409, Some(Reason::IdempotencyUnknown)));
    assert!(!refused.headers().contains_key("retry-after"), "no wait helps");
    tokio::time::advance(Duration::from_hours(24) - Duration::from_nanos(1)).await;
    assert_eq!(reason(&behind.ask(&layer, pay("k")).await), Some(Reason::IdempotencyUnknown));
    tokio::time::advance(Duration::from_millis(1)).await;
    assert_eq!(text(behind.ask(&layer, pay("k")).await).await, "40 rupees");
    assert_eq!(behind.calls(), 2);
}

#[tokio::test]
async fn a_panic_leaves_the_outcome_unknown() {
    let layer = layer();
    let panics = service_fn(|request: Inner| async move {
        assert!(request.method() == Method::GET, "as it happens");
        Ok::<_, Infallible>(Response::new(Frames::default()))
    });
    let service = layer.layer(panics);
    assert!(tokio::spawn(service.clone().oneshot(pay("k"))).await.unwrap_err().is_panic());
    assert_eq!(reason(&service.oneshot(pay("k")).await.unwrap()), Some(Reason::IdempotencyUnknown));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_early_loses_no_answer_that_is_at_hand() {
    let (behind, layer) = (Behind::status(201), layer());
    drop(behind.ask(&layer, pay("all")).await); // No frame was read.
    let again = behind.ask(&layer, pay("all")).await;
    assert!(is_replayed(&again));
    assert_eq!(text(again).await, "an answer");

    let mut half = behind.ask(&layer, pay("half")).await.into_body();
    assert_eq!(half.frame().await.unwrap().unwrap().into_data().unwrap(), "an ");
    drop(half);
    assert_eq!(text(behind.ask(&layer, pay("half")).await).await, "an answer");
    assert_eq!(behind.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_was_not_all_there_is_not_repeated_and_not_done_again() {
    let (behind, layer) = (Behind::new(|_, _| Response::new(Frames::of(&["half"]).never_ends())), layer());
    drop(behind.ask(&layer, pay("left")).await);
    let refused = behind.ask(&layer, pay("left")).await;
    assert_eq!((refused.status().as_u16(), reason(&refused)), (409, Some(Reason::IdempotencyNotKept)));

    let broken = Behind::new(|_, _| Response::new(Frames::of(&["half"]).then(Err("gone"))));
    let answer = broken.ask(&layer, pay("broken")).await;
    assert_eq!(answer.into_body().collect().await.err(), Some("gone"));
    assert_eq!(reason(&broken.ask(&layer, pay("broken")).await), Some(Reason::IdempotencyUnknown));
    assert_eq!((behind.calls(), broken.calls(), layer.counts().working), (1, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_too_large_passes_and_is_not_done_again() {
    let mut config = IdempotencyConfig::new();
    config.max_response_bytes = 8;
    let layer = IdempotencyLayer::new(config);
    let large = Behind::new(|_, _| Response::new(Frames::of(&["12345678", "9"])));
    assert_eq!(text(large.ask(&layer, pay("large")).await).await, "123456789");
    assert_eq!(reason(&large.ask(&layer, pay("large")).await), Some(Reason::IdempotencyNotKept));
    let fits = Behind::new(|_, _| Response::new(Frames::of(&["1234", "5678"])));
    text(fits.ask(&layer, pay("fits")).await).await;
    assert_eq!(text(fits.ask(&layer, pay("fits")).await).await, "12345678");
    assert_eq!((large.calls(), fits.calls()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn bodies_that_are_being_read_are_bounded_together() {
    let mut config = IdempotencyConfig::new();
    config.max_buffered_bytes = 15;
    let (behind, layer) = (Behind::plain(), IdempotencyLayer::new(config));
    let reading = tokio::spawn({
        let (behind, layer) = (behind.clone(), layer.clone());
        let request = pay("a").map(Frames::never_ends);
        async move { behind.ask(&layer, request).await }
    });
    tokio::task::yield_now().await;
    assert_eq!(layer.buffered_bytes(), 9);
    let foreseen = |length: &str| {
        let mut head = pay("b").into_parts().0;
        head.headers.insert("content-length", length.parse().unwrap());
        layer.explain(Now::read(), &mut head)
    };
    let full = Rejection::new(Reason::IdempotencyStoreFull);
    assert_eq!(foreseen("9"), Finding::Reject(full), "explained before it happens");
    assert_eq!(foreseen("6"), Finding::Admit("the key is new; its body may have 6 bytes".into()));
    let refused = behind.ask(&layer, pay("b")).await;
    assert_eq!((refused.status().as_u16(), reason(&refused)), (503, Some(Reason::IdempotencyStoreFull)));
    assert_eq!(layer.buffered_bytes(), 9, "what was read of it is given back");
    reading.abort();
    assert!(reading.await.is_err());
    assert_eq!(layer.buffered_bytes(), 0);
    assert_eq!(text(behind.ask(&layer, pay("b")).await).await, "40 rupees");
    assert!(is_replayed(&behind.ask(&layer, pay("b")).await));
    assert_eq!((behind.calls(), layer.buffered_bytes()), (1, 0));
}

/// It is in memory until whoever is behind has taken it.
#[tokio::test(start_paused = true)]
async fn a_body_that_waits_behind_counts_until_it_is_gone() {
    let layer = layer();
    let behind = service_fn(|request: Inner| async move {
        let answer = std::future::pending::<Result<Response<Frames>, Infallible>>().await;
        drop(request);
        answer
    });
    let waiting = tokio::spawn(layer.layer(behind).oneshot(pay("a")));
    tokio::task::yield_now().await;
    assert_eq!((layer.buffered_bytes(), layer.counts().working), (9, 1));
    waiting.abort();
    assert!(waiting.await.is_err());
    assert_eq!(layer.buffered_bytes(), 0);
}

#[tokio::test(start_paused = true)]
async fn answers_that_are_written_down_are_bounded_together_and_beyond_that_not_kept() {
    let mut config = IdempotencyConfig::new();
    config.max_buffered_bytes = 12;
    let layer = IdempotencyLayer::new(config);
    let behind = Behind::new(|_, _| Response::new(Frames::of(&["12345678", "9"])));
    let ask = |key: &str| behind.ask(&layer, pay(key).map(|_| Frames::of(&["4"])));
    let mut first = ask("a").await.into_body();
    first.frame().await.unwrap().unwrap();
    assert_eq!(layer.buffered_bytes(), 8);
    assert_eq!(text(ask("b").await).await, "123456789", "it passes");
    assert_eq!(reason(&ask("b").await), Some(Reason::IdempotencyNotKept));
    assert_eq!(layer.buffered_bytes(), 8);
    first.collect().await.unwrap();
    assert_eq!(text(ask("a").await).await, "123456789");
    text(ask("c").await).await;
    assert!(is_replayed(&ask("c").await));
    assert_eq!((behind.calls(), layer.buffered_bytes()), (3, 0));
}

#[tokio::test(start_paused = true)]
async fn what_is_left_of_a_limit_is_not_said_again() {
    let gone = [
        "ratelimit",
        "ratelimit-policy",
        "ratelimit-remaining",
        "x-ratelimit-limit",
        "x-ratelimit-reset",
        "x-rate-limit-remaining",
        "retry-after",
    ];
    let behind = Behind::new(move |_, _| {
        let answer = gone.iter().fold(Response::builder(), |answer, name| answer.header(*name, "1"));
        answer.header("x-payment", "1").body(Frames::of(&["paid"])).unwrap()
    });
    let layer = layer();
    let first = behind.ask(&layer, pay("k")).await;
    assert!(gone.iter().all(|name| first.headers().contains_key(*name)), "the first is told");
    text(first).await;
    let again = behind.ask(&layer, pay("k")).await;
    let said = again.headers().keys().map(http::HeaderName::as_str).collect::<Vec<_>>();
    assert_eq!(said, ["x-payment", "idempotency-replayed"]);
}

/// A server that is told that there is no body never asks for it.
#[tokio::test(start_paused = true)]
async fn an_answer_without_a_body_is_known_with_its_head() {
    let behind = Behind::new(|_, _| Response::builder().status(204).body(Frames::default()).unwrap());
    let layer = layer();
    let kept = behind.ask(&layer, pay("k")).await;
    let again = behind.ask(&layer, pay("k")).await;
    assert!(again.status() == 204 && is_replayed(&again));
    drop(kept);
}

#[tokio::test(start_paused = true)]
async fn a_full_store_refuses_new_keys_and_answers_known_ones() {
    let mut limits = Limits::new();
    limits.max_keys = 2;
    let config = IdempotencyConfig::new().limits(limits);
    let (behind, layer) = (Behind::plain(), IdempotencyLayer::new(config.clone()));
    for key in ["a", "b"] {
        text(behind.ask(&layer, pay(key)).await).await;
    }
    let refused = behind.ask(&layer, pay("c")).await;
    assert_eq!((refused.status().as_u16(), reason(&refused)), (503, Some(Reason::IdempotencyStoreFull)));
    assert_eq!(said(&layer, pay("c")), Finding::Reject(Reason::IdempotencyStoreFull.into()));
    assert!(is_replayed(&behind.ask(&layer, pay("a")).await));

    limits.evict = true;
    let evicts = layer.reconfigured(&config.clone().limits(limits));
    assert_eq!(text(behind.ask(&evicts, pay("c")).await).await, "40 rupees");
    assert!(is_replayed(&behind.ask(&layer, pay("b")).await), "the oldest has gone, and nothing else");
    assert_eq!(reason(&behind.ask(&layer, pay("a")).await), Some(Reason::IdempotencyStoreFull));
    tokio::time::advance(Duration::from_hours(24)).await;
    assert_eq!(text(behind.ask(&layer, pay("a")).await).await, "40 rupees");
    assert_eq!((behind.calls(), layer.counts().keys), (4, 1));
}

#[tokio::test(start_paused = true)]
async fn reconfigured_back_and_forth_nothing_is_forgotten() {
    let (behind, first) = (Behind::closed(), layer());
    let running = tokio::spawn({
        let (behind, first) = (behind.clone(), first.clone());
        async move { behind.ask(&first, pay("k")).await }
    });
    tokio::task::yield_now().await;
    let mut config = IdempotencyConfig::new().required();
    config.limits.ttl = Duration::from_mins(1);
    let second = first.reconfigured(&config);
    assert_eq!(reason(&behind.ask(&second, pay("k")).await), Some(Reason::IdempotencyInFlight));
    behind.gate.add_permits(10);
    text(running.await.unwrap()).await;
    let third = second.reconfigured(&IdempotencyConfig::new());
    for layer in [&second, &third, &first] {
        assert!(is_replayed(&behind.ask(layer, pay("k")).await));
    }
    tokio::time::advance(Duration::from_mins(1)).await;
    assert!(is_replayed(&behind.ask(&third, pay("k")).await), "as long as this one says");
    assert!(!is_replayed(&behind.ask(&second, pay("k")).await), "no longer than this one says");
    assert_eq!(behind.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn explaining_says_what_would_happen_and_changes_nothing() {
    let (behind, layer) = (Behind::closed(), layer().named(&"pay".into()));
    let asks = |layer: &IdempotencyLayer| match said(layer, pay("k")) {
        Finding::WouldAsk(Dependency::Repetition { then }) => then,
        other => panic!("{other:?}"),
    };
    assert!(matches!(said(&layer, pay("k")), Finding::Admit(words) if words.contains("new")));
    assert_eq!(layer.counts(), Counts::default());
    let refused = said(&layer, pay("a b"));
    assert_eq!(
        refused,
        Finding::Reject(Rejection::new(Reason::IdempotencyKeyInvalid).by(Some("pay".into())))
    );
    let mut large = pay("k");
    large.headers_mut().insert("content-length", HeaderValue::from((1 << 20) + 1));
    assert!(matches!(said(&layer, large), Finding::Reject(why) if why.reason == Reason::BodyTooLarge));
    let running = tokio::spawn({
        let (behind, layer) = (behind.clone(), layer.clone());
        async move { behind.ask(&layer, pay("k")).await }
    });
    tokio::task::yield_now().await;
    assert!(asks(&layer).contains("at work"));
    behind.gate.add_permits(1);
    text(running.await.unwrap()).await;
    assert!(asks(&layer).contains("answered as it was"));
    assert_eq!(said(&IdempotencyLayer::<()>::off(), pay("k")), Finding::Off);
    assert!(!format!("{layer:?}").contains("rupees"), "answers are not shown");
}

#[derive(Debug, Default)]
struct Told {
    admitted: AtomicUsize,
    replayed: AtomicUsize,
    rejected: AtomicUsize,
    cancelled: AtomicUsize,
}

impl Observer for Told {
    fn admitted(&self) {
        self.admitted.fetch_add(1, SeqCst);
    }
    fn replayed(&self) {
        self.replayed.fetch_add(1, SeqCst);
    }
    fn rejected(&self, _: &Rejection) {
        self.rejected.fetch_add(1, SeqCst);
    }
    fn cancelled(&self) {
        self.cancelled.fetch_add(1, SeqCst);
    }
}

#[tokio::test(start_paused = true)]
async fn its_observer_hears_what_became_of_each() {
    let observer = Arc::new(Told::default());
    let scope = by_caller;
    let layer = IdempotencyLayer::observed(IdempotencyConfig::new(), scope, Arc::clone(&observer));
    let behind = Behind::plain();
    for key in ["a", "a", "b", "a b"] {
        text(behind.ask(&layer, pay(key)).await).await;
    }
    let heard = [&observer.admitted, &observer.replayed, &observer.rejected, &observer.cancelled];
    assert_eq!(heard.map(|count| count.load(SeqCst)), [2, 1, 1, 0]);
}

/// A store that is elsewhere: it takes a while, and may be away.
#[derive(Debug, Default)]
struct Elsewhere {
    memory: Arc<MemoryStore>,
    is_away: bool,
}

impl Store for Elsewhere {
    fn begin(&self, limits: &Limits, now: Now, id: &Digest, print: &Digest) -> Beginning {
        let (memory, limits, id, print) = (Arc::clone(&self.memory), *limits, *id, *print);
        let is_away = self.is_away;
        Beginning::Later(Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(5)).await;
            match memory.begin(&limits, now, &id, &print) {
                Beginning::Now(begun) if !is_away => begun,
                _ => Begun::Full,
            }
        }))
    }

    fn end(&self, limits: &Limits, now: Now, id: &Digest, token: u64, outcome: Outcome) {
        self.memory.end(limits, now, id, token, outcome);
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_elsewhere_is_waited_for() {
    let store: Arc<dyn Store> = Arc::new(Elsewhere::default());
    let (behind, layer) = (Behind::plain(), layer().stored_in(&store));
    assert_eq!(said(&layer, pay("k")), Finding::WouldAsk(Dependency::Body { max_bytes: 1 << 20 }));
    assert_eq!(text(behind.ask(&layer, pay("k")).await).await, "40 rupees");
    assert!(is_replayed(&behind.ask(&layer.reconfigured(&IdempotencyConfig::new()), pay("k")).await));
    assert!(!poll_once(layer.layer(behind.service()).call(pay("given-up"))));
    let away: Arc<dyn Store> = Arc::new(Elsewhere { is_away: true, ..Elsewhere::default() });
    let refused = behind.ask(&layer.stored_in(&away), pay("k")).await;
    assert_eq!(reason(&refused), Some(Reason::IdempotencyStoreFull), "nothing runs unprotected");
    assert_eq!(behind.calls(), 1);
}

/// In a stack of ours, the context says when and from where a request came.
#[tokio::test(start_paused = true)]
async fn a_context_is_read() {
    let (behind, layer) = (Behind::plain(), layer());
    let from = |client: &str| {
        let mut request = pay("k");
        let known = Known::new(Now::read()).with_client(client.parse().unwrap());
        request.extensions_mut().insert(known);
        request
    };
    text(behind.ask(&layer, from("2001:db8::1")).await).await;
    assert!(is_replayed(&behind.ask(&layer, from("2001:db8::2")).await), "one network");
    assert!(!is_replayed(&behind.ask(&layer, from("2001:db8:0:1::1")).await));
}

/// As with every layer, its state is one over all routes of a router.
#[tokio::test]
async fn it_stands_in_axum_as_it_is() {
    use axum::{Router, body::Body, routing::post};

    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let pays = post(async move || format!("payment {}", counted.fetch_add(1, SeqCst)));
    let layer = layer();
    let app = Router::new().route("/pay", pays).layer(layer.clone()).layer(IdempotencyLayer::<()>::off());
    for _ in 0..3 {
        let request = Request::post("/pay").header("idempotency-key", "k").body(Body::from("40")).unwrap();
        let answer = app.clone().oneshot(request).await.unwrap();
        assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "payment 0");
    }
    assert_eq!((calls.load(SeqCst), layer.counts().keys), (1, 1));
}
