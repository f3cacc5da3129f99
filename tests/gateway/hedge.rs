//! What is sent once more because nobody answers, through the gateway.

use std::sync::{
    Arc, Mutex,
    atomic::{
        AtomicU64,
        Ordering::{Relaxed, SeqCst},
    },
};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::Full;
use naka_testkit::upstream::{Seen, Step, Upstream, answer, ok};
use tokio::time::{Duration, Instant, sleep};

use crate::inside::{Inside, get};

/// Kitchens of which some are slow, and everything on that could send a request again.
const KITCHENS: &str = "
gateway: {admin: none}
listeners: {public: {listen: ':1'}}
policies:
  soon: {hedge: {after: 100ms}}
upstreams:
  kitchens:
    endpoints: ['a:1', 'b:1']
    retry_budget: {ratio: 20%, min_per_second: 5, window: 10s}
    timeouts: {connect: 1s, response_headers: 5s, per_try: 3s}
  other: {endpoints: ['o:1']}
routes:
  menus: {match: {prefix: /menus}, use: [soon], bulkhead: {max: 1}, upstream: kitchens}
  stock: {match: {prefix: /stock}, hedge: {after: 100ms, methods: idempotent}, upstream: kitchens}
  usual: {match: {prefix: /usual}, hedge: {after: p90, min_after: 5ms, max_after: 400ms}, upstream: kitchens}
  orders:
    match: {prefix: /orders}
    timeouts: {total: 9s}
    hedge: soon
    retry: {max: 2, when: [connect_error, reset, response_timeout, 5xx]}
    fallback: {upstream: other, when: [connect_error, reset, response_timeout, circuit_open, no_endpoint, 5xx]}
    upstream: kitchens
  keyed:
    match: {prefix: /keyed}
    hedge: {after: 100ms, keyed: true, max: 2}
    retry: {max: 2, keyed: true, when: [connect_error, reset, response_timeout, 5xx]}
    upstream: kitchens
  parts:
    match: {prefix: /parts}
    use: [soon]
    split: {to: {kitchens: 100, other: 0}, by: client_ip}
tests:
  - {request: 'GET http://api.example/menus', expect: {route: menus, upstream: kitchens}}
";

type Script = dyn Fn(&Seen) -> Vec<Step> + Send + Sync;

fn kitchen(gateway: &Inside, address: &'static str, script: &Arc<Script>) -> Upstream {
    let script = Arc::clone(script);
    Upstream::inside(&gateway.network, address, move |seen| script(seen))
}

/// The first answers as it is told, and the second at once.
fn kitchens(gateway: &Inside, first: impl Fn() -> Vec<Step> + Send + Sync + 'static) -> [Upstream; 2] {
    let first: Arc<Script> = Arc::new(move |_| first());
    let second: Arc<Script> = Arc::new(|_| ok("b:1"));
    [kitchen(gateway, "a:1", &first), kitchen(gateway, "b:1", &second)]
}

fn slow(after: u64) -> Vec<Step> {
    let mut steps = vec![Step::ReadBody, Step::Wait(Duration::from_millis(after))];
    steps.extend(ok("a:1"));
    steps
}

fn hangs() -> Vec<Step> {
    vec![Step::ReadBody, Step::Hang]
}

fn request(method: Method, target: &str, body: &'static str) -> Request<Full<Bytes>> {
    Request::builder()
        .method(method)
        .uri(target)
        .header("host", "api.example")
        .body(Full::from(body))
        .unwrap()
}

fn said(response: &Response<Bytes>) -> (u16, &str) {
    (response.status().as_u16(), std::str::from_utf8(response.body()).unwrap())
}

fn decided(gateway: &Inside, policy: &str, outcome: &str) -> Option<f64> {
    let line = format!("naka_policy_decisions_total{{policy=\"{policy}\",outcome=\"{outcome}\"}}");
    gateway.metric(&line)
}

#[tokio::test(start_paused = true)]
async fn a_slow_endpoint_and_another_are_asked_and_the_first_to_answer_is_heard() {
    let gateway = Inside::new(KITCHENS);
    let [a, b] = kitchens(&gateway, hangs);
    for target in ["/menus", "/parts", "/orders"] {
        let (mut waited, before) = (0, b.requests());
        for _ in 0..4 {
            let began = Instant::now();
            assert_eq!(said(&gateway.send(get(target)).await), (200, "b:1"), "{target}");
            waited += began.elapsed().as_millis();
        }
        assert_eq!((waited, b.requests() - before), (400, 4), "it is always the slow one's turn");
    }
    assert_eq!(a.requests(), 12);
    assert_eq!(
        (decided(&gateway, "soon", "hedged"), decided(&gateway, "soon", "hedge_won")),
        (Some(12.0), Some(12.0))
    );
    assert!(a.seen().iter().all(|seen| seen.header("naka-attempt").is_none()));
    assert_eq!(b.seen().iter().filter(|seen| seen.header("naka-attempt") == Some("2")).count(), 12);
    // All had the one place of their bulkhead, and have given it back.
    assert_eq!(
        gateway.metric("naka_policy_decisions_total{policy=\"menus/bulkhead\",outcome=\"rejected\"}"),
        Some(0.0)
    );
}

#[tokio::test(start_paused = true)]
async fn the_connection_of_who_was_too_slow_is_not_used_again() {
    let gateway = Inside::new(KITCHENS);
    // Each answers late, and says to whom.
    let late: Arc<Script> = Arc::new(|seen| {
        let mut steps = vec![Step::ReadBody, Step::Wait(Duration::from_millis(150))];
        steps.extend(ok(seen.target()));
        steps
    });
    let [a, b] = ["a:1", "b:1"].map(|address| kitchen(&gateway, address, &late));
    let mut client = gateway.client().await;
    for number in 0..20 {
        let target = format!("/menus/{number}");
        let response = client.send(get(&target)).await;
        assert_eq!(said(&response), (200, &*target), "nothing of one answer reaches another request");
    }
    assert_eq!(a.requests() + b.requests(), 40);
    assert!(a.connections() + b.connections() >= 21, "a dropped attempt takes its connection along");
}

#[tokio::test(start_paused = true)]
async fn r3_9_a_slow_kitchen_that_took_a_post_cooks_it_once_with_retries_hedges_and_a_fallback() {
    type Steps = fn() -> Vec<Step>;
    let cases: [(&str, Steps); 6] = [
        ("it hangs", hangs),
        ("it is slow", || slow(2000)),
        ("it closes", || vec![Step::ReadBody, Step::Close]),
        ("it closes late", || vec![Step::ReadBody, Step::Wait(Duration::from_secs(3)), Step::Close]),
        ("half a head", || vec![Step::ReadBody, Step::send("HTTP/1.1 200 OK\r\ncon"), Step::Close]),
        ("it fails", || {
            let late = vec![Step::ReadBody, Step::Wait(Duration::from_secs(1))];
            late.into_iter().chain(answer(503, "", "overdone")).collect()
        }),
    ];
    for (what, steps) in cases {
        for body in ["", "two vada pav"] {
            let gateway = Inside::new(KITCHENS);
            let cooked = Arc::new(AtomicU64::new(0));
            let counts = Arc::clone(&cooked);
            let cooks: Arc<Script> = Arc::new(move |_| {
                counts.fetch_add(1, SeqCst);
                steps()
            });
            let all = ["a:1", "b:1", "o:1"].map(|address| kitchen(&gateway, address, &cooks));
            let response = gateway.send(request(Method::POST, "/orders", body)).await;
            assert_eq!(response.status() == 200, what == "it is slow", "{what}");
            assert!(what == "it is slow" || response.status().is_server_error(), "{what}");
            sleep(Duration::from_mins(1)).await;
            assert_eq!(cooked.load(SeqCst), 1, "{what}, {body:?}");
            // What only looks may be asked again: the test can fail.
            gateway.send(get("/orders")).await;
            assert!(cooked.load(SeqCst) > 2, "{what}: {}", cooked.load(SeqCst));
            drop(all);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_order_with_a_key_comes_twice_and_is_cooked_once_by_who_keeps_keys() {
    let gateway = Inside::new(KITCHENS);
    let (keys, came) = (Arc::new(Mutex::new(std::collections::BTreeSet::new())), Arc::new(AtomicU64::new(0)));
    let (known, counts) = (Arc::clone(&keys), Arc::clone(&came));
    let kitchen_that_keeps: Arc<Script> = Arc::new(move |seen| {
        let is_first = counts.fetch_add(1, Relaxed) == 0;
        known.lock().unwrap().insert(seen.header("idempotency-key").unwrap().to_owned());
        if is_first { hangs() } else { ok("cooked") }
    });
    let [_a, _b] = ["a:1", "b:1"].map(|address| kitchen(&gateway, address, &kitchen_that_keeps));
    let mut order = request(Method::POST, "/keyed", "two vada pav");
    order.headers_mut().insert("idempotency-key", "k1".parse().unwrap());
    assert_eq!(said(&gateway.send(order).await), (200, "cooked"));
    assert_eq!((keys.lock().unwrap().len(), came.load(SeqCst)), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn a_body_that_was_sent_whole_is_sent_whole_once_more() {
    let gateway = Inside::new(KITCHENS);
    let [a, b] = kitchens(&gateway, hangs);
    for _ in 0..4 {
        let put = request(Method::PUT, "/stock/7", "a hundred plates");
        assert_eq!(said(&gateway.send(put).await), (200, "b:1"));
    }
    assert_eq!((a.body_bytes(), b.body_bytes()), (64, 64));
    assert!(b.seen().iter().all(|seen| seen.header("content-length") == Some("16")));
}

#[tokio::test(start_paused = true)]
async fn hedges_spend_what_retries_spend_and_end_with_it() {
    let gateway = Inside::new(&KITCHENS.replace("bulkhead: {max: 1}, ", ""));
    let all_hang: Arc<Script> = Arc::new(|_| hangs());
    let [a, b] = ["a:1", "b:1"].map(|address| kitchen(&gateway, address, &all_hang));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let mut client = gateway.client().await;
        tasks.spawn(async move { client.send(get("/menus")).await.status().as_u16() });
    }
    while let Some(status) = tasks.join_next().await {
        assert_eq!(status.unwrap(), 504);
    }
    assert_eq!(a.requests() + b.requests(), 100 + 20 + 50, "a fifth, and five a second of ten");
    assert_eq!(
        (decided(&gateway, "soon", "hedged"), decided(&gateway, "soon", "budget_spent")),
        (Some(70.0), Some(30.0))
    );
}

#[tokio::test(start_paused = true)]
async fn a_percentile_is_known_after_a_few_answers_and_outlives_reloads() {
    let gateway = Inside::new(KITCHENS);
    let quick: Arc<Script> = Arc::new(|_| slow(20));
    let [_a, _b] = ["a:1", "b:1"].map(|address| kitchen(&gateway, address, &quick));
    let explained = |gateway: &Inside| gateway.explain("GET http://api.example/usual", &[]).to_string();
    let unknown = explained(&gateway);
    assert!(unknown.contains("sent once more after 400ms, as too few answers have been seen"), "{unknown}");
    for _ in 0..64 {
        gateway.send(get("/usual")).await;
    }
    let known = explained(&gateway);
    assert!(
        known.contains("sent once more after 20.") && known.contains("in which 90% are answered"),
        "{known}"
    );
    assert_eq!(decided(&gateway, "usual/hedge", "hedged"), Some(0.0));
    gateway.reload(&KITCHENS.replace("/stock", "/stocks").replace("p90", "p80")).unwrap();
    let after = explained(&gateway);
    assert!(
        after.contains("sent once more after 20.") && after.contains("in which 80% are answered"),
        "{after}"
    );
    let post = gateway.explain("POST http://api.example/usual", &[]).to_string();
    assert!(post.contains("not hedged: POST may not be done twice at once"), "{post}");
}
