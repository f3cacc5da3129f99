//! Circuit breakers of routes, through the gateway.

use std::sync::{
    Arc,
    atomic::{AtomicU16, Ordering::SeqCst},
};

use http::Response;
use naka_testkit::upstream::{Step, Upstream, answer};
use tokio::time::{Duration, advance};

use crate::inside::{Inside, get};

const KITCHENS: &str = "
listeners: {public: {listen: ':1'}}
policies: {trains: {circuit_breaker: {preset: irctc_booking}}}
upstreams: {kitchen: {endpoints: ['kitchen:1'], timeouts: {response_headers: 2s}}}
routes:
  orders:
    match: {path: '/restaurants/{id}/orders'}
    circuit_breaker: {consecutive: 3, failure_rate: never, open: 10s..40s, probes: 1, successes: 1, key: ['{id}']}
    upstream: kitchen
  menu:
    match: {path: /menu}
    circuit_breaker: {consecutive: never, failure_rate: never, slow_call: {over: 1s, rate: 80%}, min_requests: 5, window: 60s, open: 10s}
    upstream: kitchen
  trains: {match: {path: /trains}, use: [trains], upstream: kitchen}
";

/// It answers everything with one status, after so many milliseconds.
struct Kitchen {
    status: Arc<AtomicU16>,
    after_ms: Arc<AtomicU16>,
    upstream: Upstream,
}

fn kitchen(gateway: &Inside) -> Kitchen {
    let (status, after_ms) = (Arc::new(AtomicU16::new(200)), Arc::new(AtomicU16::new(0)));
    let (says, waits) = (Arc::clone(&status), Arc::clone(&after_ms));
    let upstream = Upstream::inside(&gateway.network, "kitchen:1", move |_| {
        let wait = Step::Wait(Duration::from_millis(waits.load(SeqCst).into()));
        std::iter::once(wait).chain(answer(says.load(SeqCst), "", "dal")).collect()
    });
    Kitchen { status, after_ms, upstream }
}

fn said(response: &Response<bytes::Bytes>) -> (u16, &str) {
    let reason = response.headers().get("naka-reason").map_or("", |reason| reason.to_str().unwrap());
    (response.status().as_u16(), reason)
}

#[tokio::test(start_paused = true)]
async fn r3_3_an_open_breaker_answers_for_the_upstream_until_it_is_half_open() {
    let gateway = Inside::new(KITCHENS);
    let kitchen = kitchen(&gateway);
    kitchen.status.store(500, SeqCst);
    for _ in 0..3 {
        assert_eq!(gateway.send(get("/restaurants/tanjore/orders")).await.status(), 500);
    }
    for _ in 0..20 {
        let refused = gateway.send(get("/restaurants/tanjore/orders")).await;
        assert_eq!(said(&refused), (503, "circuit_open"));
        assert_eq!(refused.headers()["retry-after"], "10");
    }
    assert_eq!(kitchen.upstream.requests(), 3, "it is left alone");
    let policy = "policy=\"orders/circuit_breaker\"";
    let metric = |name: &str| gateway.metric(name);
    assert_eq!(metric(&format!("naka_policy_decisions_total{{{policy},outcome=\"opened\"}}")), Some(1.0));
    assert_eq!(metric(&format!("naka_policy_decisions_total{{{policy},outcome=\"rejected\"}}")), Some(20.0));
    let explained = gateway.explain("GET http://api.example/restaurants/tanjore/orders", &[]).to_string();
    assert!(explained.contains("refuses: 503 circuit_open"), "{explained}");

    // Half open, one finds out: it is still broken, and left alone for longer; then it is well.
    advance(Duration::from_secs(10)).await;
    assert_eq!(said(&gateway.send(get("/restaurants/tanjore/orders")).await), (500, ""));
    assert_eq!(said(&gateway.send(get("/restaurants/tanjore/orders")).await), (503, "circuit_open"));
    kitchen.status.store(200, SeqCst);
    advance(Duration::from_secs(20)).await;
    for _ in 0..5 {
        assert_eq!(gateway.send(get("/restaurants/tanjore/orders")).await.status(), 200);
    }
    assert_eq!(kitchen.upstream.requests(), 9);
}

#[tokio::test(start_paused = true)]
async fn r3_6_each_restaurant_has_a_breaker_of_its_own() {
    let gateway = Inside::new(KITCHENS);
    let kitchen = kitchen(&gateway);
    kitchen.status.store(503, SeqCst);
    for _ in 0..3 {
        assert_eq!(said(&gateway.send(get("/restaurants/leopold/orders")).await), (503, ""));
    }
    assert_eq!(said(&gateway.send(get("/restaurants/leopold/orders")).await), (503, "circuit_open"));
    kitchen.status.store(200, SeqCst);
    assert_eq!(gateway.send(get("/restaurants/swathi/orders")).await.status(), 200);
    assert_eq!(gateway.send(get("/trains")).await.status(), 200);
    let generation = gateway.generation();
    assert_eq!(generation.state.breakers.get("orders/circuit_breaker").unwrap().keys(), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn r3_1_an_upstream_that_is_only_slow_opens_it() {
    let gateway = Inside::new(KITCHENS);
    let kitchen = kitchen(&gateway);
    kitchen.after_ms.store(1500, SeqCst);
    for _ in 0..5 {
        assert_eq!(gateway.send(get("/menu")).await.status(), 200, "not one error");
    }
    assert_eq!(said(&gateway.send(get("/menu")).await), (503, "circuit_open"));
}

#[tokio::test(start_paused = true)]
async fn r3_2_what_hangs_is_a_failure_and_what_the_client_does_is_none() {
    let gateway = Inside::new(KITCHENS);
    let kitchen = kitchen(&gateway);
    kitchen.status.store(404, SeqCst);
    for _ in 0..10 {
        assert_eq!(gateway.send(get("/restaurants/social/orders")).await.status(), 404);
    }
    kitchen.after_ms.store(60_000, SeqCst);
    for _ in 0..3 {
        assert_eq!(said(&gateway.send(get("/restaurants/social/orders")).await), (504, "response_timeout"));
    }
    assert_eq!(said(&gateway.send(get("/restaurants/social/orders")).await), (503, "circuit_open"));
}

#[tokio::test(start_paused = true)]
async fn r3_10_a_reload_keeps_what_is_open_open() {
    let gateway = Inside::new(KITCHENS);
    let kitchen = kitchen(&gateway);
    kitchen.status.store(500, SeqCst);
    for _ in 0..3 {
        assert_eq!(gateway.send(get("/trains")).await.status(), 500, "the preset opens at three");
    }
    assert_eq!(said(&gateway.send(get("/trains")).await), (503, "circuit_open"));
    gateway.reload(&KITCHENS.replace("preset: irctc_booking", "preset: irctc_booking, probes: 1")).unwrap();
    assert_eq!(said(&gateway.send(get("/trains")).await), (503, "circuit_open"));
    // Taken out and put in again within an hour, it is the same.
    gateway.reload(&KITCHENS.replace("use: [trains], ", "")).unwrap();
    assert_eq!(gateway.send(get("/trains")).await.status(), 500);
    gateway.reload(KITCHENS).unwrap();
    assert_eq!(said(&gateway.send(get("/trains")).await), (503, "circuit_open"));
    gateway
        .reload(&KITCHENS.replace("preset: irctc_booking", "preset: irctc_booking, enforce: observe"))
        .unwrap();
    assert_eq!(gateway.send(get("/trains")).await.status(), 500, "it only looks on");
}
