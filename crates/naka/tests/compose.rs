//! Compositions, over services that do as they are told, in virtual time.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests may")]

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    future::Future,
    pin::{Pin, pin},
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use naka::{
    compose::{Call, Called, Compose, ComposeConfig, Otherwise, PARTIAL, Plan, Shape, Template},
    context::Context as Facts,
    held::Held,
    observe::Observer,
    problem::render,
    reject::{Head, Reason, Rejection},
};
use proptest::{collection::vec, prelude::*, sample::Index};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use tower::{Service, ServiceExt};

type Body = Full<Bytes>;

/// What a service does with a target.
#[derive(Clone, Default)]
struct Says {
    after: Duration,
    status: u16,
    headers: Vec<(&'static str, &'static str)>,
    body: String,
    /// It is refused on the way, for this reason.
    refused: Option<Rejection>,
    /// It never answers.
    hangs: bool,
}

fn ok(body: impl Into<String>) -> Says {
    let headers = vec![("content-type", "application/json")];
    Says { status: 200, headers, body: body.into(), ..Says::default() }
}

fn after(ms: u64, body: &str) -> Says {
    Says { after: Duration::from_millis(ms), ..ok(body) }
}

fn status(status: u16) -> Says {
    Says { status, ..ok("{\"secret\": 1}") }
}

/// Services that count.
#[derive(Clone, Default)]
struct Backend(Arc<Mutex<Counts>>);

#[derive(Default)]
struct Counts {
    says: BTreeMap<String, Says>,
    seen: Vec<(String, HeaderMap)>,
    under_way: usize,
    peak: usize,
}

/// Under way, until it is dropped.
struct UnderWay(Backend);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.0.lock().unwrap().under_way -= 1;
    }
}

impl Backend {
    fn new(says: impl IntoIterator<Item = (impl Into<String>, Says)>) -> Self {
        let it = Self::default();
        it.0.lock().unwrap().says = says.into_iter().map(|(target, says)| (target.into(), says)).collect();
        it
    }

    fn targets(&self) -> Vec<String> {
        self.0.lock().unwrap().seen.iter().map(|(target, _)| target.clone()).collect()
    }

    fn under_way(&self) -> usize {
        self.0.lock().unwrap().under_way
    }

    fn peak(&self) -> usize {
        self.0.lock().unwrap().peak
    }
}

impl Service<Request<Body>> for Backend {
    type Response = Response<Body>;
    type Error = &'static str;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, &'static str>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), &'static str>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let it = self.clone();
        Box::pin(async move {
            let says = {
                let mut counts = it.0.lock().unwrap();
                counts.seen.push((request.uri().to_string(), request.headers().clone()));
                counts.under_way += 1;
                counts.peak = counts.peak.max(counts.under_way);
                counts.says.get(request.uri().path()).cloned()
            };
            let _under_way = UnderWay(it);
            let Some(says) = says else { return Err("nobody is there") };
            sleep(says.after).await;
            if says.hangs {
                std::future::pending::<()>().await;
            }
            if let Some(rejection) = says.refused {
                return Ok(rejection.into_response());
            }
            let mut response = Response::builder().status(says.status);
            for (name, value) in says.headers {
                response = response.header(name, value);
            }
            Ok(response.body(Full::from(says.body)).unwrap())
        })
    }
}

fn call(name: &str, target: &str) -> Call {
    Call::get(name, "app", Template::parse(target).unwrap())
}

fn plan(calls: impl IntoIterator<Item = Call>) -> Plan {
    ComposeConfig::new(calls).check().unwrap()
}

/// What stands behind `/details/`.
fn given(head: &Head<'_>, name: &str) -> Option<Vec<u8>> {
    let id = head.uri.path().strip_prefix("/details/")?;
    (name == "id").then(|| id.as_bytes().to_vec())
}

fn compose(plan: Plan, backend: &Backend) -> Compose<Backend> {
    Compose::new(plan, given, |_| backend.clone())
}

fn get() -> Request<Body> {
    Request::get("/details/7").body(Full::default()).unwrap()
}

async fn ask(plan: Plan, backend: &Backend) -> (StatusCode, HeaderMap, Vec<u8>) {
    let response = compose(plan, backend).oneshot(get()).await.unwrap();
    let (head, body) = response.into_parts();
    let rendered = head.extensions.get::<Rejection>().map(render);
    let body = rendered.unwrap_or(body.collect().await.unwrap().to_bytes());
    (head.status, head.headers, body.to_vec())
}

fn value(text: &[u8]) -> Value {
    serde_json::from_slice(text).unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(text)))
}

#[tokio::test(start_paused = true)]
async fn r13_2_three_parts_of_100_ms_take_100_ms_and_not_300() {
    let backend = Backend::new(["/a", "/b", "/c"].map(|target| (target, after(100, "1"))));
    let began = Instant::now();
    let all = plan([call("a", "/a"), call("b", "/b"), call("c", "/c")]);
    let (status, _, body) = ask(all, &backend).await;
    assert_eq!((status, value(&body)), (StatusCode::OK, json!({"a": 1, "b": 1, "c": 1})));
    assert_eq!((began.elapsed(), backend.peak()), (Duration::from_millis(100), 3));
    // One after the other where each needs the one before.
    let began = Instant::now();
    let chain = [call("a", "/a"), call("b", "/b?of={a.body}"), call("c", "/c?of={b.body}")];
    ask(plan(chain), &backend).await;
    assert_eq!(began.elapsed(), Duration::from_millis(300));
}

#[tokio::test(start_paused = true)]
async fn r13_4_no_more_calls_are_under_way_than_may_be() {
    let backend = Backend::new((0..10).map(|at| (format!("/{at}"), after(100, "1"))));
    let calls = (0..10).map(|at| call(&format!("c{at}"), &format!("/{at}")));
    let plan = ComposeConfig::new(calls).max_in_flight(3).check().unwrap();
    let began = Instant::now();
    assert_eq!(ask(plan, &backend).await.0, StatusCode::OK);
    assert_eq!((backend.peak(), began.elapsed()), (3, Duration::from_millis(400)));
}

#[tokio::test(start_paused = true)]
async fn r13_1_one_batch_gathers_all_and_each_value_goes_once() {
    let order = r#"{"user_id": "asha k", "items": [{"id": 3}, {"id": "a,b"}, {"id": 3}], "none": []}"#;
    let backend =
        Backend::new([("/orders/7", ok(order)), ("/users/asha%20k", ok("1")), ("/products", ok("[1,2]"))]);
    let all = plan([
        call("items", "/products?ids={order.body.items.*.id}&page=1"),
        call("order", "/orders/{id}"),
        call("buyer", "/users/{order.body.user_id}"),
        call("nothing", "/products?ids={order.body.none.*.id}"),
        call("instead", "/products?ids={order.body.none.*.id}").otherwise(Otherwise::Default("{}".into())),
    ]);
    let (status, headers, body) = ask(all, &backend).await;
    assert_eq!(status, StatusCode::OK);
    let body = value(&body);
    assert_eq!((&body["nothing"], &body["instead"]), (&json!([]), &json!({})), "an empty batch asks nobody");
    assert!(!headers.contains_key(PARTIAL) && body.get("errors").is_none());
    let mut targets = backend.targets();
    targets.sort_unstable();
    assert_eq!(targets, ["/orders/7", "/products?ids=3,a%2Cb&page=1", "/users/asha%20k"]);
}

#[tokio::test(start_paused = true)]
async fn r13_1_an_answer_is_made_of_pieces_as_they_stand() {
    let order = "{\"id\": 18446744073709551617, \"sum\": 10.10, \"items\": [{\"n\": 1e400}, {\"n\": -0.0}], \"note\": null}";
    let backend = Backend::new([("/o", Says { status: 201, ..ok(order) })]);
    let text = |text: &str| Shape::text(text).unwrap();
    let shape = Shape::object([
        ("id", text("{order.body.id}")),
        ("sums", Shape::List(vec![text("{order.body.sum}"), text("{order.body.none}")])),
        ("numbers", text("{order.body.items.*.n}")),
        ("note", text("{order.body.note}")),
        ("none", text("{order.body.none}")),
        ("status", text("{order.status}")),
        ("says", text("order \"{order.body.id}\" of {id}")),
        ("kind", Shape::Json("[1.0]".into())),
    ]);
    let plan = ComposeConfig::new([call("order", "/o")]).body(shape).check().unwrap();
    let (_, headers, body) = ask(plan, &backend).await;
    let expected = r#"{"id":18446744073709551617,"sums":[10.10,null],"numbers":[1e400,-0.0],"note":null,"status":201,"says":"order \"18446744073709551617\" of 7","kind":[1.0]}"#;
    assert_eq!(String::from_utf8(body).unwrap(), expected);
    assert_eq!(headers["content-type"], "application/json");
}

#[tokio::test(start_paused = true)]
async fn r13_3_an_optional_call_that_fails_is_left_out_or_its_default_stands_in() {
    let backend = Backend::new([("/order", ok("1")), ("/ship", status(500)), ("/none", status(404))]);
    let all = plan([
        call("order", "/order"),
        call("ship", "/ship").otherwise(Otherwise::Default("null".into())),
        call("none", "/none").otherwise(Otherwise::LeaveOut),
        call("after", "/x?of={none.body.id}").otherwise(Otherwise::LeaveOut),
    ]);
    let (status, headers, body) = ask(all, &backend).await;
    assert_eq!((status, &headers[PARTIAL]), (StatusCode::OK, &HeaderValue::from_static("ship, none, after")));
    assert_eq!(headers["cache-control"], "no-store", "what is not whole is not kept");
    let expected = json!({
        "order": 1,
        "ship": null,
        "errors": [
            {"call": "ship", "status": 502, "reason": "part_failed", "detail": "It was answered with 500."},
            {"call": "none", "status": 404, "reason": "part_failed", "detail": "It was answered with 404."},
            {"call": "after", "status": 404, "reason": "part_not_made", "detail": "It needs `none`, which failed."},
        ],
    });
    assert_eq!(value(&body), expected);
}

#[tokio::test(start_paused = true)]
async fn r13_3_a_required_call_that_fails_says_why_and_the_others_are_dropped() {
    for (answered, expected) in [
        (400, 400),
        (401, 401),
        (403, 403),
        (404, 404),
        (409, 409),
        (410, 410),
        (422, 422),
        (429, 429),
        (405, 502),
        (413, 502),
        (301, 502),
        (206, 502),
        (500, 502),
        (503, 502),
        (504, 504),
    ] {
        let slow = Says { hangs: true, ..ok("1") };
        let backend = Backend::new([
            ("/order", Says { after: Duration::from_millis(5), ..status(answered) }),
            ("/slow", slow),
        ]);
        let all = plan([call("slow", "/slow"), call("order", "/order")]);
        let (status, headers, body) = ask(all, &backend).await;
        assert_eq!(status.as_u16(), expected, "{answered}");
        assert_eq!(backend.under_way(), 0, "the others are dropped");
        let text = String::from_utf8(body.clone()).unwrap();
        assert!(!text.contains("secret"), "nothing of a part's body goes on: {text}");
        let body = value(&body);
        assert_eq!((&body["call"], &body["reason"]), (&json!("order"), &json!("part_failed")));
        assert_eq!(headers.contains_key("www-authenticate"), expected == 401);
    }
}

#[tokio::test(start_paused = true)]
async fn r13_3_what_a_layer_has_refused_keeps_its_reason() {
    for reason in [Reason::CircuitOpen, Reason::BulkheadFull, Reason::ResponseTimeout, Reason::ConnectFailed]
    {
        let refused =
            Some(Rejection::new(reason).retry_after(Duration::from_secs(3)).by(Some("shared".into())));
        let backend = Backend::new([("/order", Says { refused, ..ok("1") })]);
        let (status, headers, body) = ask(plan([call("order", "/order")]), &backend).await;
        assert_eq!((status, &headers["retry-after"]), (reason.status(), &HeaderValue::from_static("3")));
        let body = value(&body);
        assert_eq!((&body["reason"], &body["policy"]), (&json!(reason.word()), &json!("shared")));
        assert_eq!(body["call"], "order");
    }
    let backend = Backend::new([] as [(&str, Says); 0]);
    let (status, _, body) = ask(plan([call("order", "/order")]), &backend).await;
    assert_eq!(
        (status.as_u16(), &value(&body)["reason"]),
        (502, &json!("part_failed")),
        "an error of a service is one"
    );
}

#[tokio::test(start_paused = true)]
async fn r13_4_what_is_too_large_too_deep_or_no_json_has_failed() {
    let html = vec![("content-type", "text/html")];
    let zipped = vec![("content-type", "application/json"), ("content-encoding", "gzip")];
    let nested = "[".repeat(65) + &"]".repeat(65);
    for (says, expected) in [
        (ok("x".repeat(101)), "part_too_large"),
        (ok("{"), "part_not_json"),
        (ok(nested), "part_not_json"),
        (Says { headers: html, ..ok("1") }, "part_not_json"),
        (Says { headers: Vec::new(), ..ok("1") }, "part_not_json"),
        (Says { headers: zipped, ..ok("1") }, "part_not_json"),
        (Says { hangs: true, ..ok("1") }, "part_timeout"),
    ] {
        let is_nested = says.body.len() == 130;
        let backend = Backend::new([("/part", says)]);
        let calls =
            [call("part", "/part").timeout(Duration::from_millis(300)).otherwise(Otherwise::LeaveOut)];
        let max_part = if is_nested { 1000 } else { 100 };
        let plan = ComposeConfig::new(calls).max_part(max_part).check().unwrap();
        let (status, _, body) = ask(plan, &backend).await;
        assert_eq!((status.as_u16(), &value(&body)["errors"][0]["reason"]), (200, &json!(expected)));
    }
    for (kind, status) in [("application/problem+json; charset=utf-8", 200), ("application/json", 204)] {
        let says = Says {
            headers: vec![("content-type", kind)],
            status,
            ..ok(if status == 204 { "" } else { "1" })
        };
        let backend = Backend::new([("/part", says)]);
        let (_, headers, body) = ask(plan([call("part", "/part")]), &backend).await;
        assert!(!headers.contains_key(PARTIAL));
        assert_eq!(value(&body)["part"], if status == 204 { Value::Null } else { json!(1) });
    }
    let backend = Backend::new([("/a", ok("\"".to_owned() + &"x".repeat(60) + "\"")), ("/b", ok("1"))]);
    let all = ComposeConfig::new([call("a", "/a"), call("b", "/b")]).max_body(64).check().unwrap();
    let (status, _, body) = ask(all, &backend).await;
    assert_eq!((status.as_u16(), &value(&body)["reason"]), (502, &json!("response_too_large")));
}

#[tokio::test(start_paused = true)]
async fn r13_4_what_is_asked_twice_is_asked_once() {
    let backend =
        Backend::new([("/users/1", after(100, "5")), ("/orders", ok(r#"{"buyer": 1, "seller": 1}"#))]);
    let all = plan([
        call("orders", "/orders"),
        call("buyer", "/users/{orders.body.buyer}"),
        call("seller", "/users/{orders.body.seller}").otherwise(Otherwise::LeaveOut),
        call("late", "/users/1").needs(["buyer"]),
        call("shorter", "/users/1").timeout(Duration::from_millis(500)),
    ]);
    let (_, _, body) = ask(all, &backend).await;
    let body = value(&body);
    assert_eq!((&body["buyer"], &body["seller"], &body["late"]), (&json!(5), &json!(5), &json!(5)));
    assert_eq!(
        backend.targets().iter().filter(|it| *it == "/users/1").count(),
        2,
        "and one that waits less long"
    );
}

#[tokio::test(start_paused = true)]
async fn r13_4_a_value_that_is_missing_or_leads_elsewhere_fails_its_call() {
    let order = r#"{"up": "../admin", "dots": "..", "null": null, "object": {}, "many": [1,2,3,4]}"#;
    for (target, status, reason) in [
        ("/users/{order.body.up}", 502, "value_refused"),
        ("/users/{order.body.dots}", 502, "value_refused"),
        ("/users/{order.body.object}", 502, "value_refused"),
        ("/users?ids={order.body.many.*}", 502, "value_refused"),
        ("/users/{order.body.null}", 502, "value_missing"),
        ("/users/{order.body.none}", 502, "value_missing"),
        ("/users/{query.city}?x={order.status}", 400, "value_missing"),
    ] {
        let backend = Backend::new([("/order", ok(order))]);
        let all = [call("order", "/order"), call("user", target).max_values(3)];
        let (found, _, body) = ask(plan(all), &backend).await;
        let body = value(&body);
        assert_eq!((found.as_u16(), &body["reason"]), (status, &json!(reason)), "{target}: {body}");
        assert_eq!((backend.targets(), &body["call"]), (vec!["/order".to_owned()], &json!("user")));
    }
    let backend = Backend::new([("/order", ok("{}"))]);
    let compose = compose(plan([call("order", "/order"), call("user", "/users/{id}")]), &backend);
    let request = Request::get("/details/..").body(Full::default()).unwrap();
    let response = compose.oneshot(request).await.unwrap();
    assert_eq!(
        response.extensions().get::<Rejection>().unwrap().reason,
        Reason::ValueRefused(StatusCode::BAD_REQUEST)
    );
}

#[tokio::test(start_paused = true)]
async fn r13_5_only_what_is_listed_goes_along_and_nothing_of_parts_comes_back() {
    let headers =
        vec![("content-type", "application/json"), ("set-cookie", "a=b"), ("server", "x"), ("etag", "\"1\"")];
    let backend = Backend::new([("/a", Says { headers, ..ok("1") })]);
    let names = ["authorization", "accept-language"].map(HeaderName::from_static);
    let config = ComposeConfig::new([call("a", "/a")]).headers(names.clone()).vary(names.into_iter().skip(1));
    let mut request = get();
    for (name, value) in [
        ("authorization", "Bearer x"),
        ("cookie", "c=d"),
        ("accept-encoding", "gzip"),
        ("range", "bytes=0-1"),
    ] {
        request.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    let response = compose(config.check().unwrap(), &backend).oneshot(request).await.unwrap();
    let mut names = response.headers().keys().map(HeaderName::as_str).collect::<Vec<_>>();
    names.sort_unstable();
    assert_eq!(names, ["cache-control", "content-type", "vary"]);
    assert_eq!(
        (&response.headers()["cache-control"], &response.headers()["vary"]),
        (&HeaderValue::from_static("no-store"), &HeaderValue::from_static("accept-language"))
    );
    let seen = backend.0.lock().unwrap().seen[0].1.clone();
    let mut sent =
        seen.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect::<Vec<_>>();
    sent.sort_unstable();
    assert_eq!(sent, ["accept-encoding: identity", "accept: application/json", "authorization: Bearer x"]);
}

#[tokio::test(start_paused = true)]
async fn r13_4_parts_and_answer_count_among_what_is_held_and_are_given_back() {
    let backend = Backend::new([("/a", ok("\"".to_owned() + &"x".repeat(98) + "\"")), ("/b", ok("1"))]);
    let held = Arc::new(Held::new(250));
    let with = |held: &Arc<Held>| {
        let mut request = get();
        let mut facts = Facts::new(naka::clock::Now::read());
        facts.held = Some(Arc::clone(held));
        request.extensions_mut().insert(facts);
        request
    };
    let all = || plan([call("a", "/a"), call("b", "/b").otherwise(Otherwise::LeaveOut)]);
    let response = compose(all(), &backend).oneshot(with(&held)).await.unwrap();
    let length = r#"{"a":"","b":1}"#.len() + 98;
    assert_eq!((response.status().as_u16(), held.bytes()), (200, length), "the answer, until it is sent");
    drop(response);
    assert_eq!(held.bytes(), 0);
    let response = compose(all(), &backend).oneshot(with(&Arc::new(held.with_max(99)))).await.unwrap();
    assert_eq!(response.extensions().get::<Rejection>().unwrap().reason, Reason::BuffersFull);
    assert_eq!((held.bytes(), response.status().as_u16()), (0, 503));
}

/// Who hears what became of calls.
#[derive(Clone, Default)]
struct Heard(Arc<Mutex<Vec<(usize, Called)>>>);

impl Observer for Heard {
    fn called(&self, call: usize, called: Called) {
        self.0.lock().unwrap().push((call, called));
    }
}

#[tokio::test(start_paused = true)]
async fn each_call_is_told_of_once_whatever_became_of_it() {
    let slow = Says { hangs: true, ..ok("1") };
    let backend = Backend::new([
        ("/a", ok("1")),
        ("/b", after(10, "1")),
        ("/c", Says { after: Duration::from_millis(20), ..status(404) }),
        ("/slow", slow),
    ]);
    let heard = Heard::default();
    let all = plan([
        call("a", "/a"),
        call("again", "/a"),
        call("b", "/b"),
        call("unmade", "/{query.x}").otherwise(Otherwise::LeaveOut),
        call("c", "/c"),
        call("slow", "/slow"),
    ]);
    let compose = Compose::observed(all, given, |_| backend.clone(), heard.clone());
    let response = compose.oneshot(get()).await.unwrap();
    assert_eq!(response.status(), 404);
    let mut heard = heard.0.lock().unwrap().clone();
    heard.sort_by_key(|(call, _)| *call);
    let failed = Called::Failed(Reason::PartFailed(StatusCode::NOT_FOUND));
    let expected =
        [Called::Answered, Called::Shared, Called::Answered, Called::NotMade, failed, Called::Cancelled];
    assert_eq!(heard, expected.into_iter().enumerate().collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn a_head_request_is_answered_by_asking_for_what_get_would() {
    let backend = Backend::new([("/a", ok("1")), ("/b", ok("2"))]);
    let calls = [call("a", "/a"), call("b", "/b").method(Method::HEAD)];
    let compose = compose(plan(calls), &backend);
    let request = Request::head("/details/7").body(Full::default()).unwrap();
    let body = compose.oneshot(request).await.unwrap().into_body().collect().await.unwrap().to_bytes();
    assert_eq!(value(&body), json!({"a": 1, "b": null}), "and what was asked by HEAD has no body");
}

fn graph() -> impl Strategy<Value = Vec<BTreeSet<usize>>> {
    vec(vec(any::<Index>(), 0..3), 1..9).prop_map(|raw| {
        let of = |(call, needs): (usize, &Vec<Index>)| {
            needs.iter().filter(|_| call > 0).map(|need| need.index(call)).collect()
        };
        raw.iter().enumerate().map(of).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever needs what and however long each takes: each is asked once, after its needs, never too many at a time. And whenever it
    /// is dropped, nothing goes on.
    #[test]
    fn r13_2_whenever_it_is_dropped_nothing_goes_on(
        needs in graph(),
        ms in vec(0_u64..4, 9),
        max in 1_usize..4,
        polls in 0_usize..40,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let backend = Backend::new(needs.iter().enumerate().map(|(at, _)| (format!("/{at}"), after(ms[at], "1"))));
            let calls = needs.iter().enumerate().map(|(at, needs)| {
                call(&format!("c{at}"), &format!("/{at}")).needs(needs.iter().map(|need| format!("c{need}")))
            });
            let config = ComposeConfig::new(calls).max_in_flight(max);
            let mut compose = compose(config.check().unwrap(), &backend);
            {
                let mut future = pin!(compose.call(get()));
                for _ in 0..polls {
                    let polled = future.as_mut().poll(&mut Context::from_waker(Waker::noop()));
                    if polled.is_ready() {
                        break;
                    }
                    tokio::time::advance(Duration::from_millis(1)).await;
                }
            }
            assert_eq!(backend.under_way(), 0);
            assert!(backend.peak() <= max);
            backend.0.lock().unwrap().seen.clear();
            let response = compose.call(get()).await.unwrap_or_else(|never: Infallible| match never {});
            assert_eq!(response.status(), 200);
            let targets = backend.targets();
            assert_eq!(targets.iter().collect::<BTreeSet<_>>().len(), targets.len(), "each once");
            assert_eq!(targets.len(), needs.len());
            let place = |at: usize| targets.iter().position(|target| *target == format!("/{at}")).unwrap();
            for (at, needs) in needs.iter().enumerate() {
                assert!(needs.iter().all(|need| place(*need) < place(at)), "after its needs");
            }
            assert!(backend.peak() <= max && backend.under_way() == 0);
        });
    }
}
