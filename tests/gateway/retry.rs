//! Retries and their budgets, through the gateway.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU16, Ordering::SeqCst},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use naka_testkit::upstream::{Step, Upstream, answer, ok};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Duration, Instant},
};

use crate::inside::{Inside, get};

/// Two endpoints, and a route for each sort of retry.
const SHOP: &str = "
gateway: {admin: none}
listeners: {public: {listen: ':1'}}
policies:
  late: {retry: {max: 2, when: [response_timeout, 5xx], methods: safe}}
upstreams:
  shop:
    endpoints: ['a:1', 'b:1']
    retry_budget: {ratio: 20%, min_per_second: 2, window: 10s}
    timeouts: {response_headers: 5s, per_try: 2s}
routes:
  carts: {match: {prefix: /carts}, retry: {max: 1}, upstream: shop}
  pay: {match: {prefix: /pay}, retry: {max: 2, keyed: true, backoff: 10ms..40ms}, upstream: shop}
  late: {match: {prefix: /late}, use: [late], timeouts: {total: 10s}, upstream: shop}
  never: {match: {prefix: /never}, upstream: shop}
";

/// One endpoint, which says so in each response.
fn endpoint(gateway: &Inside, address: &'static str) -> (Arc<AtomicU16>, Upstream) {
    let status = Arc::new(AtomicU16::new(200));
    let says = Arc::clone(&status);
    let upstream = Upstream::inside(&gateway.network, address, move |_| match says.load(SeqCst) {
        0 => vec![Step::ReadBody, Step::Hang],
        1 => vec![Step::ReadBody, Step::Close],
        2 => vec![Step::ReadBody, Step::send("HTTP/1.1 200 OK\r\ncontent-len"), Step::Close],
        3 => answer(503, "retry-after: 60\r\n", "later"),
        status => answer(status, "", address),
    });
    (status, upstream)
}

fn post(target: &str, body: &'static str) -> Request<Full<Bytes>> {
    Request::post(target).header("host", "api.example").body(Full::from(body)).unwrap()
}

fn said(response: &Response<Bytes>) -> (u16, &str) {
    (response.status().as_u16(), std::str::from_utf8(response.body()).unwrap())
}

fn requests(of: [&Upstream; 2]) -> u64 {
    of.iter().map(|upstream| upstream.requests()).sum()
}

#[tokio::test(start_paused = true)]
async fn r2_5_what_failed_at_one_endpoint_is_answered_by_the_other() {
    let gateway = Inside::new(SHOP);
    let ((a_says, a), (_, b)) = (endpoint(&gateway, "a:1"), endpoint(&gateway, "b:1"));
    for broken in [503, 1, 2] {
        a_says.store(broken, SeqCst);
        for _ in 0..4 {
            let response = gateway.send(get("/carts/7")).await;
            assert_eq!(said(&response), (200, "b:1"), "{broken}");
            assert!(!response.headers().contains_key("naka-attempt"));
        }
    }
    assert!(a.requests() >= 6, "it was asked: {}", a.requests());
    assert!(
        b.seen().iter().any(|seen| seen.header("naka-attempt") == Some("2")),
        "and who comes again says so"
    );
    assert!(a.seen().iter().all(|seen| seen.header("naka-attempt").is_none()));
    let retried = "naka_policy_decisions_total{policy=\"carts/retry\",outcome=\"retried\"}";
    // The connection of the last 503 was kept, and closed at the next request: that one was sent again at once, which is no retry.
    let failed = u32::try_from(a.requests() - 1).unwrap();
    assert_eq!(gateway.metric(retried), Some(failed.into()));
}

#[tokio::test(start_paused = true)]
async fn r2_5_an_endpoint_that_is_not_there_costs_nobody_a_request() {
    let gateway = Inside::new(SHOP);
    let (_, _b) = endpoint(&gateway, "b:1");
    for number in 0..8 {
        // Nothing was sent to it, so that a POST may come again, too.
        let response = if number % 2 == 0 {
            gateway.send(get("/carts/7")).await
        } else {
            gateway.send(post("/carts", "a new one")).await
        };
        assert_eq!(said(&response), (200, "b:1"));
    }
}

#[tokio::test(start_paused = true)]
async fn r3_9_a_post_that_may_have_been_seen_is_never_sent_again_without_a_key() {
    let gateway = Inside::new(SHOP);
    let ((a_says, a), (b_says, b)) = (endpoint(&gateway, "a:1"), endpoint(&gateway, "b:1"));
    for broken in [503, 1, 2, 0] {
        a_says.store(broken, SeqCst);
        b_says.store(broken, SeqCst);
        for target in ["/carts", "/pay", "/never", "/late"] {
            let before = requests([&a, &b]);
            let response = gateway.send(post(target, "an order")).await;
            assert!(response.status().is_server_error());
            assert_eq!(requests([&a, &b]) - before, 1, "{target} after {broken}");
        }
    }
    // With one, and an upstream that remembers keys, it may.
    a_says.store(503, SeqCst);
    b_says.store(200, SeqCst);
    let keyed = || {
        let mut request = post("/pay", "an order");
        request.headers_mut().insert("idempotency-key", "\"k1\"".parse().unwrap());
        request
    };
    for _ in 0..4 {
        assert_eq!(said(&gateway.send(keyed()).await), (200, "b:1"));
    }
}

#[tokio::test(start_paused = true)]
async fn r2_5_a_body_is_sent_again_whole_and_a_long_one_is_not() {
    let gateway = Inside::new(
        &SHOP.replace("retry: {max: 1}", "retry: {max: 1, max_body: 10KiB, methods: idempotent}"),
    );
    let ((a_says, a), (b_says, b)) = (endpoint(&gateway, "a:1"), endpoint(&gateway, "b:1"));
    a_says.store(1, SeqCst);
    let put = |bytes: usize| {
        Request::put("/carts/7").header("host", "api.example").body(Full::from(vec![b'x'; bytes])).unwrap()
    };
    for _ in 0..3 {
        assert_eq!(said(&gateway.send(put(9000)).await), (200, "b:1"));
    }
    let sent = requests([&a, &b]);
    assert_eq!(a.body_bytes() + b.body_bytes(), sent * 9000, "each time all of it");
    b_says.store(1, SeqCst);
    let before = requests([&a, &b]);
    assert_eq!(gateway.send(put(11_000)).await.status(), 502);
    assert_eq!(requests([&a, &b]) - before, 1);
    // Connections are used again after bodies that came from a tape.
    a_says.store(200, SeqCst);
    b_says.store(200, SeqCst);
    let mut client = gateway.client().await;
    for _ in 0..10 {
        assert_eq!(client.send(put(5000)).await.status(), 200);
    }
    let connections = a.connections() + b.connections();
    for _ in 0..10 {
        assert_eq!(client.send(put(5000)).await.status(), 200);
    }
    assert_eq!(a.connections() + b.connections(), connections, "no connection was made for them");
}

/// A body in pieces, of which the second comes only after the first endpoint has failed.
#[tokio::test(start_paused = true)]
async fn r2_5_a_body_that_is_still_coming_goes_on_to_the_next_endpoint() {
    let gateway = Inside::new(SHOP);
    let is_first = Arc::new(AtomicBool::new(true));
    let endpoints = ["a:1", "b:1"].map(|address| {
        let is_first = Arc::clone(&is_first);
        Upstream::inside(&gateway.network, address, move |_| {
            if is_first.swap(false, SeqCst) {
                // It answers before the body is there.
                return vec![
                    Step::send("HTTP/1.1 503 Busy\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"),
                    Step::Close,
                ];
            }
            ok("whole")
        })
    });
    let mut client = gateway.connect();
    let head =
        "PUT /carts/7 HTTP/1.1\r\nhost: api.example\r\ncontent-length: 10\r\nconnection: close\r\n\r\n";
    client.write_all(format!("{head}first").as_bytes()).await.unwrap();
    while requests(endpoints.each_ref()) < 2 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    client.write_all(b"after").await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("whole"), "{answer}");
    let bytes = endpoints.each_ref().map(Upstream::body_bytes);
    assert!(bytes.contains(&10), "{bytes:?}");
}

#[tokio::test(start_paused = true)]
async fn r2_5_all_routes_to_an_upstream_spend_one_budget() {
    let gateway = Inside::new(SHOP);
    let ((a_says, a), (b_says, b)) = (endpoint(&gateway, "a:1"), endpoint(&gateway, "b:1"));
    a_says.store(503, SeqCst);
    b_says.store(503, SeqCst);
    let requests_before = requests([&a, &b]);
    for number in 0..100 {
        let target = if number % 2 == 0 { "/carts" } else { "/late" };
        assert_eq!(gateway.send(get(target)).await.status(), 503);
    }
    // A fifth of a hundred, and two a second of ten; pauses are far below a step of the window.
    let retries = requests([&a, &b]) - requests_before - 100;
    assert_eq!(retries, 40);
    let spent = |policy: &str| {
        let name = format!("naka_policy_decisions_total{{policy=\"{policy}\",outcome=\"budget_spent\"}}");
        gateway.metric(&name).unwrap()
    };
    assert!(spent("carts/retry") > 10.0 && spent("late") > 10.0);
    let explained = gateway.explain("GET http://api.example/carts", &[]).to_string();
    assert!(explained.contains("0 of 40 retries left"), "{explained}");
    // A reload that does not touch it refills nobody.
    gateway.reload(&SHOP.replace("max: 1}", "max: 3}")).unwrap();
    let before = requests([&a, &b]);
    gateway.send(get("/carts")).await;
    assert_eq!(requests([&a, &b]) - before, 1);
    gateway.reload(&SHOP.replace("ratio: 20%", "ratio: 30%")).unwrap();
    let before = requests([&a, &b]);
    gateway.send(get("/carts")).await;
    assert_eq!(requests([&a, &b]) - before, 2, "another ratio counts the same requests");
}

#[tokio::test(start_paused = true)]
async fn r2_5_no_try_begins_after_the_total_timeout_and_each_has_an_end() {
    let gateway = Inside::new(SHOP);
    let ((a_says, a), (b_says, b)) = (endpoint(&gateway, "a:1"), endpoint(&gateway, "b:1"));
    a_says.store(0, SeqCst);
    b_says.store(0, SeqCst);
    let began = Instant::now();
    let response = gateway.send(get("/late")).await;
    assert_eq!((response.status().as_u16(), requests([&a, &b])), (504, 3));
    let took = began.elapsed();
    assert!(
        took >= Duration::from_secs(6) && took < Duration::from_secs(7),
        "three of two seconds: {took:?}"
    );
    gateway.reload(&SHOP.replace("timeouts: {total: 10s}", "timeouts: {total: 3s}")).unwrap();
    let (before, began) = (requests([&a, &b]), Instant::now());
    assert_eq!(gateway.send(get("/late")).await.status(), 504);
    assert_eq!((requests([&a, &b]) - before, began.elapsed().as_secs()), (2, 3));
}

#[tokio::test(start_paused = true)]
async fn what_asks_for_a_long_pause_is_not_sent_again_and_nothing_is_behind_another_that_retries() {
    let gateway = Inside::new(SHOP);
    let ((a_says, a), (b_says, b)) = (endpoint(&gateway, "a:1"), endpoint(&gateway, "b:1"));
    a_says.store(3, SeqCst);
    b_says.store(3, SeqCst);
    assert_eq!(said(&gateway.send(get("/carts")).await), (503, "later"));
    assert_eq!(requests([&a, &b]), 1);
    a_says.store(503, SeqCst);
    b_says.store(503, SeqCst);
    let mut again = get("/carts");
    again.headers_mut().insert("naka-attempt", "2".parse().unwrap());
    let response = gateway.send(again).await;
    assert_eq!((response.status().as_u16(), requests([&a, &b])), (503, 2));
}

#[tokio::test(start_paused = true)]
async fn retries_go_around_an_endpoint_that_its_breaker_has_closed() {
    let gateway = Inside::new(&SHOP.replace(
        "retry_budget",
        "circuit_breaker: {consecutive: 2, failure_rate: never, open: 1h}\n    retry_budget",
    ));
    let ((a_says, a), (_, _b)) = (endpoint(&gateway, "a:1"), endpoint(&gateway, "b:1"));
    a_says.store(503, SeqCst);
    for _ in 0..20 {
        assert_eq!(said(&gateway.send(get("/carts")).await), (200, "b:1"));
    }
    assert_eq!(a.requests(), 2, "its breaker hears of each try");
}

#[tokio::test(start_paused = true)]
async fn versions_retry_within_their_upstreams() {
    let gateway = Inside::new(
        "
listeners: {public: {listen: ':1'}}
upstreams:
  one: {endpoints: ['a:1', 'b:1']}
  two: {endpoints: ['c:1', 'd:1']}
routes:
  products:
    match: {prefix: /products}
    retry: {max: 1}
    versions: {by: ['header:x-api-version'], default: v1, of: {v1: {upstream: one}, v2: {upstream: two}}}
",
    );
    let of = ["a:1", "b:1", "c:1", "d:1"].map(|address| endpoint(&gateway, address));
    of[0].0.store(503, SeqCst);
    of[2].0.store(1, SeqCst);
    for _ in 0..4 {
        assert_eq!(said(&gateway.send(get("/products")).await), (200, "b:1"));
        let mut second = post("/products", "");
        *second.method_mut() = http::Method::PUT;
        second.headers_mut().insert("x-api-version", "2".parse().unwrap());
        assert_eq!(said(&gateway.send(second).await), (200, "d:1"));
    }
}
