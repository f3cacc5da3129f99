//! What is answered in place of a failure, through the gateway.

use std::sync::{
    Arc,
    atomic::{AtomicU16, Ordering::SeqCst},
};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::Full;
use naka_testkit::upstream::{Step, Upstream, answer};
use tokio::time::{Duration, Instant, sleep};

use crate::inside::{Inside, get};

/// A service, another one that can stand in for it, and what is said when neither is asked.
const SHOP: &str = "
gateway: {admin: none}
listeners: {public: {listen: ':1'}}
policies:
  usual: {fallback: {respond: {status: 200, body: the usual}}}
  other: {fallback: {upstream: other}}
upstreams:
  shop:
    endpoints: ['a:1']
    retry_budget: {ratio: 20%, min_per_second: 1, window: 10s}
    timeouts: {connect: 1s, response_headers: 2s}
  other: {endpoints: ['o:1'], bulkhead: {max: 1}}
routes:
  banner: {match: {prefix: /banner}, use: [usual], upstream: shop}
  carts: {match: {prefix: /carts}, use: [other], retry: {max: 1, when: [connect_error, reset, response_timeout, 503]}, headers: {response: {set: {x-seen: 'yes'}}}, upstream: shop}
  guarded: {match: {prefix: /guarded}, use: [other], circuit_breaker: {consecutive: 2, failure_rate: never, open: 1h}, upstream: shop}
  narrow: {match: {prefix: /narrow}, use: [usual], bulkhead: {max: 1}, upstream: shop}
  less: {match: {prefix: '/less/{city}'}, fallback: {upstream: other, rewrite: {path: '/best-sellers/{city}'}}, rewrite: {path: '/for-you/{city}'}, upstream: shop}
  picky: {match: {prefix: /picky}, fallback: {upstream: other, when: [502]}, upstream: shop}
tests:
  - {request: 'GET http://api.example/carts', expect: {route: carts, upstream: shop}}
";

/// One service, which says its name, or fails as it is told.
fn service(gateway: &Inside, address: &'static str) -> (Arc<AtomicU16>, Upstream) {
    let status = Arc::new(AtomicU16::new(200));
    let says = Arc::clone(&status);
    let upstream = Upstream::inside(&gateway.network, address, move |_| match says.load(SeqCst) {
        0 => vec![Step::ReadBody, Step::Hang],
        1 => vec![Step::ReadBody, Step::Close],
        2 => vec![Step::ReadBody, Step::send("HTTP/1.1 what?\r\n\r\n"), Step::Close],
        status => answer(status, "connection: keep-alive, x-hop\r\nx-hop: 1\r\n", address),
    });
    (status, upstream)
}

fn post(target: &str) -> Request<Full<Bytes>> {
    Request::post(target).header("host", "api.example").body(Full::from("an order")).unwrap()
}

/// Who stands in has a breaker of its own, though it is one endpoint.
#[tokio::test(start_paused = true)]
async fn r3_8_who_stands_in_is_left_alone_by_its_own_breaker() {
    let breaker = "circuit_breaker: {consecutive: 2, failure_rate: never, open: 1h, max_ejected: all}";
    let gateway = Inside::new(&SHOP.replace("bulkhead: {max: 1}}\nroutes", &format!("{breaker}}}\nroutes")));
    let ((shop, _shop), (other, stands_in)) = (service(&gateway, "a:1"), service(&gateway, "o:1"));
    shop.store(503, SeqCst);
    other.store(500, SeqCst);
    for _ in 0..10 {
        assert!(gateway.send(get("/carts")).await.status().is_server_error());
    }
    assert_eq!(stands_in.requests(), 2);
}

/// Status, body, and who says that it stands in.
fn said(response: &Response<Bytes>) -> (u16, &str, Option<&str>) {
    let by = response.headers().get("x-fallback").map(|it| it.to_str().unwrap());
    (response.status().as_u16(), std::str::from_utf8(response.body()).unwrap(), by)
}

fn decided(gateway: &Inside, policy: &str, outcome: &str) -> Option<f64> {
    gateway.metric(&format!("naka_policy_decisions_total{{policy=\"{policy}\",outcome=\"{outcome}\"}}"))
}

#[tokio::test(start_paused = true)]
async fn r3_8_an_answer_of_the_gateways_own_is_given_whatever_failed() {
    let gateway = Inside::new(SHOP);
    let usual = (200, "the usual", Some("usual"));
    // Nobody is there.
    assert_eq!(said(&gateway.send(get("/banner")).await), usual);
    let (says, shop) = service(&gateway, "a:1");
    for broken in [503, 0, 1, 2] {
        says.store(broken, SeqCst);
        for request in [get("/banner"), post("/banner")] {
            let response = gateway.send(request).await;
            assert_eq!(said(&response), usual, "{broken}");
            assert_eq!(response.headers()["cache-control"], "no-store");
            assert_eq!(response.headers()["content-type"], "text/plain; charset=utf-8");
            assert!(!response.headers().contains_key("naka-reason"), "it is no refusal");
        }
    }
    assert_eq!(shop.requests(), 8, "each was asked first");
    assert_eq!(decided(&gateway, "usual", "fell_back"), Some(9.0));
    for status in [200, 404, 500] {
        says.store(status, SeqCst);
        assert_eq!(said(&gateway.send(get("/banner")).await), (status, "a:1", None));
    }
    // The route's own bulkhead stands inside of it.
    says.store(0, SeqCst);
    let mut first = gateway.client().await;
    let waits = tokio::spawn(async move { first.send(get("/narrow")).await });
    sleep(Duration::from_millis(10)).await;
    assert_eq!(said(&gateway.send(get("/narrow")).await), usual);
    assert_eq!(said(&waits.await.unwrap()), usual, "and so does the timeout");
}

#[tokio::test(start_paused = true)]
async fn r3_8_another_upstream_is_asked_for_what_is_safe_and_marked() {
    let gateway = Inside::new(SHOP);
    let ((says, shop), (other_says, other)) = (service(&gateway, "a:1"), service(&gateway, "o:1"));
    for broken in [503, 0, 1] {
        says.store(broken, SeqCst);
        let before = shop.requests();
        let response = gateway.send(get("/carts/7")).await;
        assert_eq!(said(&response), (200, "o:1", Some("other")), "{broken}");
        assert_eq!(shop.requests() - before, 2, "it was tried again first");
        // What the route changes is changed here, too.
        assert_eq!(response.headers()["x-seen"], "yes");
        assert!(
            !response.headers().contains_key("x-hop") && !response.headers().contains_key("naka-attempt")
        );
        let seen = other.last();
        assert_eq!((&*seen.line, seen.header("naka-attempt")), ("GET /carts/7 HTTP/1.1", Some("2")));
        assert_eq!(seen.header("via"), Some("1.1 naka"));
    }
    // One step, and no more: what the other one answers is the answer.
    other_says.store(503, SeqCst);
    let before = other.requests();
    assert_eq!(said(&gateway.send(get("/carts")).await), (503, "o:1", Some("other")));
    assert_eq!(other.requests() - before, 1);
    // It spends its own bulkhead, of one place.
    sleep(Duration::from_secs(20)).await; // There is something in the budget again.
    other_says.store(0, SeqCst);
    let mut first = gateway.client().await;
    let waits = tokio::spawn(async move { first.send(get("/carts")).await });
    sleep(Duration::from_millis(500)).await;
    let response = gateway.send(get("/carts")).await;
    assert_eq!(
        (response.status(), &response.headers()["naka-reason"]),
        (503.try_into().unwrap(), &"bulkhead_full".parse().unwrap())
    );
    assert_eq!(response.headers()["x-fallback"], "other");
    waits.abort();
}

#[tokio::test(start_paused = true)]
async fn r3_9_a_slow_primary_that_took_a_post_has_it_done_exactly_once() {
    let gateway = Inside::new(SHOP);
    let ((says, shop), (_, other)) = (service(&gateway, "a:1"), service(&gateway, "o:1"));
    for broken in [0, 1, 2, 503] {
        says.store(broken, SeqCst);
        for method in [Method::POST, Method::PATCH] {
            let before = shop.body_bytes();
            let mut order = post("/carts");
            *order.method_mut() = method;
            let response = gateway.send(order).await;
            assert!(response.status().is_server_error() && said(&response).2.is_none());
            let done = (shop.body_bytes() - before) / 8 + other.requests();
            assert_eq!(done, 1, "an order that may have been seen, after {broken}");
        }
    }
    assert_eq!(decided(&gateway, "other", "not_retried"), Some(8.0));
}

#[tokio::test(start_paused = true)]
async fn r3_9_a_post_that_was_never_sent_is_done_by_the_other_once() {
    let gateway = Inside::new(SHOP);
    let (_, other) = service(&gateway, "o:1");
    // Nobody listens at the first: it is tried twice, and nothing was sent.
    assert_eq!(said(&gateway.send(post("/carts")).await), (200, "o:1", Some("other")));
    assert_eq!((other.requests(), other.body_bytes()), (1, 8));
    // Its breaker is open: nobody asks it.
    let (says, shop) = service(&gateway, "a:1");
    says.store(503, SeqCst);
    for _ in 0..2 {
        assert_eq!(said(&gateway.send(post("/guarded")).await), (503, "a:1", None));
    }
    for _ in 0..50 {
        assert_eq!(said(&gateway.send(post("/guarded")).await), (200, "o:1", Some("other")));
    }
    assert_eq!((shop.requests(), other.requests()), (2, 51), "and no budget bounds what was never sent");
}

/// The leg sends what is idempotent once more when a kept connection has closed; nobody is there by then.
#[tokio::test(start_paused = true)]
async fn r3_9_a_delete_that_was_sent_over_a_kept_connection_is_not_asked_elsewhere() {
    let gateway = Inside::new(SHOP);
    let (_, other) = service(&gateway, "o:1");
    for target in ["/carts", "/guarded"] {
        let done = Arc::new(AtomicU16::new(0));
        let counts = Arc::clone(&done);
        let shop = Upstream::inside(&gateway.network, "a:1", move |seen| {
            if seen.line.starts_with("DELETE") {
                counts.fetch_add(1, SeqCst);
                return vec![Step::ReadBody, Step::Close];
            }
            answer(200, "", "a:1")
        });
        assert_eq!(said(&gateway.send(get(target)).await), (200, "a:1", None));
        drop(shop); // Its connections go on.
        tokio::task::yield_now().await;
        let mut delete = get(target);
        *delete.method_mut() = Method::DELETE;
        let response = gateway.send(delete).await;
        assert_eq!((said(&response).0, said(&response).2), (502, None));
        assert_eq!((done.load(SeqCst), other.requests()), (1, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn r3_8_the_other_upstream_may_be_asked_for_something_else() {
    let gateway = Inside::new(SHOP);
    let ((says, shop), (_, other)) = (service(&gateway, "a:1"), service(&gateway, "o:1"));
    assert_eq!(said(&gateway.send(get("/less/pune")).await), (200, "a:1", None));
    says.store(503, SeqCst);
    assert_eq!(said(&gateway.send(get("/less/pune")).await), (200, "o:1", Some("less/fallback")));
    assert_eq!((shop.last().target(), other.last().target()), ("/for-you/pune", "/best-sellers/pune"));
}

#[tokio::test(start_paused = true)]
async fn r3_8_retries_and_fallbacks_spend_one_budget() {
    let gateway = Inside::new(
        &SHOP.replace("retry: {max: 1, when: [connect_error, reset, response_timeout, 503]}, ", ""),
    );
    let ((says, shop), (_, other)) = (service(&gateway, "a:1"), service(&gateway, "o:1"));
    says.store(503, SeqCst);
    for _ in 0..100 {
        gateway.send(get("/carts")).await;
    }
    assert_eq!((shop.requests(), other.requests()), (100, 30), "a fifth, and one a second of ten");
    assert_eq!(decided(&gateway, "other", "budget_spent"), Some(70.0));
    let gateway = Inside::new(SHOP);
    let ((says, shop), (_, other)) = (service(&gateway, "a:1"), service(&gateway, "o:1"));
    says.store(503, SeqCst);
    for _ in 0..100 {
        gateway.send(get("/carts")).await;
    }
    assert_eq!(shop.requests() - 100 + other.requests(), 30, "whoever asked, and each request counts once");
    // A reload refills nobody.
    gateway.reload(&SHOP.replace("the usual", "another")).unwrap();
    assert_eq!(said(&gateway.send(get("/carts")).await).0, 503);
}

#[tokio::test(start_paused = true)]
async fn r3_8_nobody_is_asked_after_the_end_and_only_after_what_is_named() {
    let gateway = Inside::new(
        &SHOP
            .replace("use: [other], retry: {max: 1,", "timeouts: {total: 3s}, use: [other], retry: {max: 1,"),
    );
    let ((says, _shop), (_, other)) = (service(&gateway, "a:1"), service(&gateway, "o:1"));
    says.store(0, SeqCst);
    let began = Instant::now();
    let response = gateway.send(get("/carts")).await;
    assert_eq!((said(&response).0, said(&response).2, began.elapsed().as_secs()), (504, None, 3));
    assert_eq!(other.requests(), 0);
    for (status, by) in [(503, None), (502, Some("picky/fallback"))] {
        says.store(status, SeqCst);
        assert_eq!(said(&gateway.send(get("/picky")).await).2, by);
    }
    // Somebody in front tries again.
    let mut again = get("/picky");
    again.headers_mut().insert("naka-attempt", "2".parse().unwrap());
    assert_eq!(said(&gateway.send(again).await), (502, "a:1", None));
}

#[tokio::test(start_paused = true)]
async fn r3_8_what_stands_in_is_not_remembered_under_an_idempotency_key_and_what_was_done_is() {
    for (failures, again) in [("release", (200, "a:1", None)), ("keep", (409, "", None))] {
        let idempotency = format!("idempotency: {{failures: {failures}}}, ");
        let gateway = Inside::new(&SHOP.replace("use: [", &format!("{idempotency}use: [")));
        let keyed = |target: &str, key: &str| {
            let mut order = post(target);
            order.headers_mut().insert("idempotency-key", key.parse().unwrap());
            order
        };
        let (_, other) = service(&gateway, "o:1");
        // Never sent: whatever is said of failures, the key is free again.
        assert_eq!(said(&gateway.send(keyed("/banner", "k0")).await), (200, "the usual", Some("usual")));
        // The other one has done it: its answer is repeated.
        for _ in 0..3 {
            assert_eq!(said(&gateway.send(keyed("/carts", "k1")).await).1, "o:1");
        }
        assert_eq!(other.requests(), 1);
        let (says, shop) = service(&gateway, "a:1");
        assert_eq!(said(&gateway.send(keyed("/banner", "k0")).await), (200, "a:1", None));
        // It may have been done, and stands in for nothing.
        says.store(1, SeqCst);
        assert_eq!(said(&gateway.send(keyed("/banner", "k2")).await), (200, "the usual", Some("usual")));
        says.store(200, SeqCst);
        let response = gateway.send(keyed("/banner", "k2")).await;
        assert_eq!((said(&response).0, said(&response).2), (again.0, again.2), "{failures}");
        assert_eq!(shop.requests(), if failures == "keep" { 2 } else { 3 });
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_explained_of_a_fallback_is_what_happens() {
    let gateway = Inside::new(SHOP);
    let ((says, _shop), (_, _other)) = (service(&gateway, "a:1"), service(&gateway, "o:1"));
    says.store(503, SeqCst);
    for _ in 0..2 {
        gateway.send(post("/guarded")).await;
    }
    let explained = gateway.explain("POST http://api.example/guarded", &[]).to_string();
    assert!(
        explained.contains("sent to upstream other, o:1") && explained.ends_with("verdict: sent"),
        "{explained}"
    );
    assert_eq!(said(&gateway.send(post("/guarded")).await), (200, "o:1", Some("other")));
    let explained = gateway.explain("POST http://api.example/carts", &[]).to_string();
    assert!(explained.contains("fallback other") && explained.contains("what was never sent"), "{explained}");
    says.store(0, SeqCst);
    let mut first = gateway.client().await;
    let waits = tokio::spawn(async move { first.send(get("/narrow")).await });
    sleep(Duration::from_millis(10)).await;
    let explained = gateway.explain("GET http://api.example/narrow", &[]).to_string();
    assert!(explained.contains("verdict: answered by the gateway: 200"), "{explained}");
    assert_eq!(said(&gateway.send(get("/narrow")).await).0, 200);
    waits.abort();
}

#[tokio::test(start_paused = true)]
async fn versions_fall_back_together_from_a_budget_of_their_own() {
    let gateway = Inside::new(
        "
listeners: {public: {listen: ':1'}}
upstreams:
  shop: {endpoints: ['a:1']}
  next: {endpoints: ['b:1']}
  other: {endpoints: ['o:1']}
routes:
  carts:
    match: {prefix: /carts}
    fallback: {upstream: other}
    retry: {max: 1}
    versions: {by: ['header:x-api-version'], default: v1, of: {v1: {upstream: shop}, v2: {upstream: next}}}
",
    );
    let ((says, shop), (_, other)) = (service(&gateway, "a:1"), service(&gateway, "o:1"));
    let mut second = post("/carts");
    second.headers_mut().insert("x-api-version", "v2".parse().unwrap());
    assert_eq!(said(&gateway.send(second).await), (200, "o:1", Some("carts/fallback")));
    says.store(503, SeqCst);
    assert_eq!(said(&gateway.send(get("/carts")).await), (200, "o:1", Some("carts/fallback")));
    assert_eq!(said(&gateway.send(post("/carts")).await), (503, "a:1", None));
    assert_eq!((shop.requests(), other.requests()), (3, 2));
}
