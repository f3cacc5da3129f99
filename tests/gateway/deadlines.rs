//! Until when an answer is of use: said by clients, kept to here, and told to endpoints.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use naka_testkit::upstream::{Step, Upstream, answer, ok};
use tokio::time::{Duration, Instant};

use crate::inside::{Inside, get};

const RIDES: &str = "
gateway: {admin: none, deadline_header: x-timeout-ms}
listeners: {public: {listen: ':1'}}
upstreams:
  rides: {endpoints: ['a:1'], timeouts: {connect: 5s, response_headers: 20s, idle: 20s}}
  narrow: {endpoints: ['a:1'], connections: {max: 1}, timeouts: {connect: 5s, response_headers: 20s}}
  short: {endpoints: ['a:1'], timeouts: {response_headers: 20s, per_try: 2s}}
  shadow: {endpoints: ['s:1']}
routes:
  rides: {match: {prefix: /rides}, timeouts: {total: 10s}, upstream: rides}
  again: {match: {prefix: /again}, timeouts: {total: 10s}, retry: {max: 1, backoff: 1ms}, upstream: rides}
  narrow: {match: {prefix: /narrow}, timeouts: {total: 10s}, upstream: narrow}
  short: {match: {prefix: /short}, timeouts: {total: 10s}, upstream: short}
  guarded: {match: {prefix: /guarded}, circuit_breaker: {consecutive: 2, failure_rate: never, open: 1h}, upstream: rides}
  never: {match: {prefix: /never}, timeouts: {total: never}, upstream: rides}
  copied: {match: {prefix: /copied}, timeouts: {total: 10s}, mirror: {upstream: shadow, methods: safe}, upstream: rides}
tests:
  - {request: 'GET http://api.example/rides', expect: {route: rides, upstream: rides}}
";

fn said(target: &str, headers: &[(&'static str, &'static str)]) -> Request<Full<Bytes>> {
    let mut request = get(target);
    for (name, value) in headers {
        request.headers_mut().append(*name, value.parse().unwrap());
    }
    request
}

const GRPC: (&str, &str) = ("content-type", "application/grpc");

/// One endpoint.
fn endpoint(gateway: &Inside, steps: impl Fn() -> Vec<Step> + Send + Sync + 'static) -> Upstream {
    Upstream::inside(&gateway.network, "a:1", move |_| steps())
}

fn told(upstream: &Upstream) -> (Option<String>, Option<String>) {
    let last = upstream.last();
    let header = |name| last.header(name).map(str::to_owned);
    (header("x-timeout-ms"), header("grpc-timeout"))
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_is_told_what_is_left_and_never_more_than_its_attempt_may_take() {
    let gateway = Inside::new(RIDES);
    let upstream = endpoint(&gateway, || ok("booked"));
    gateway.send(get("/rides")).await;
    assert_eq!(told(&upstream), (Some("10000".to_owned()), None));
    gateway.send(said("/rides", &[("x-timeout-ms", "700")])).await;
    assert_eq!(told(&upstream), (Some("700".to_owned()), None), "what the client says, if it is less");
    gateway.send(said("/rides", &[("x-timeout-ms", "70000")])).await;
    assert_eq!(told(&upstream), (Some("10000".to_owned()), None), "and not if it is more");
    gateway.send(said("/rides", &[GRPC, ("grpc-timeout", "3S")])).await;
    assert_eq!(told(&upstream), (Some("3000".to_owned()), Some("3000000u".to_owned())));
    gateway.send(get("/short")).await;
    assert_eq!(told(&upstream).0, Some("2000".to_owned()));
    gateway.send(get("/never")).await;
    assert_eq!(told(&upstream), (None, None));
    gateway.send(said("/never", &[("x-timeout-ms", "700")])).await;
    assert_eq!(told(&upstream).0, Some("700".to_owned()));
    gateway.reload(&RIDES.replace(", deadline_header: x-timeout-ms", "")).unwrap();
    gateway.send(said("/rides", &[("x-timeout-ms", "whatever")])).await;
    assert_eq!(
        told(&upstream),
        (Some("whatever".to_owned()), None),
        "it is a header as any, unless it is named"
    );
}

#[tokio::test(start_paused = true)]
async fn what_went_by_before_is_not_left_any_more() {
    // In an attempt before.
    let gateway = Inside::new(RIDES);
    let tries = Arc::new(Mutex::new(0));
    let upstream = endpoint(&gateway, move || {
        let mut tries = tries.lock().unwrap();
        *tries += 1;
        let late = [Step::ReadBody, Step::Wait(Duration::from_secs(3))].into_iter();
        if *tries == 1 { late.chain(answer(503, "", "later")).collect() } else { ok("booked") }
    });
    assert_eq!(gateway.send(get("/again")).await.status(), 200);
    let left = told(&upstream).0.unwrap().parse::<u64>().unwrap();
    assert!((6_990..=7_000).contains(&left), "{left}");

    // In a queue for the one connection.
    let gateway = Inside::new(RIDES);
    let upstream = endpoint(&gateway, || {
        let late = [Step::ReadBody, Step::Wait(Duration::from_secs(4))].into_iter();
        late.chain(ok("booked")).collect()
    });
    let mut first = gateway.client().await;
    let first = tokio::spawn(async move { first.send(get("/narrow")).await });
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(gateway.send(get("/narrow")).await.status(), 200);
    assert_eq!(
        (first.await.unwrap().status(), told(&upstream).0),
        (http::StatusCode::OK, Some("6500".to_owned()))
    );
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_longer_than_the_client_says() {
    let gateway = Inside::new(RIDES);
    let upstream = endpoint(&gateway, || vec![Step::ReadBody, Step::Hang]);
    for (target, headers, expected) in [
        ("/rides", &[("x-timeout-ms", "700")][..], 700),
        ("/rides", &[GRPC, ("grpc-timeout", "2S")], 2000),
        ("/never", &[GRPC, ("grpc-timeout", "5S"), ("x-timeout-ms", "900")], 900),
        ("/rides", &[], 10_000),
    ] {
        let began = Instant::now();
        let response = gateway.send(said(target, headers)).await;
        let status = if headers.contains(&GRPC) { 200 } else { 504 };
        assert_eq!(
            (response.status().as_u16(), began.elapsed().as_millis()),
            (status, expected),
            "{headers:?}"
        );
        assert_eq!(response.headers()["naka-reason"], "total_timeout");
    }
    let asked = upstream.requests();
    assert_eq!(gateway.send(said("/rides", &[("x-timeout-ms", "0")])).await.status(), 504);
    assert_eq!(upstream.requests(), asked, "nobody waits for it: nobody is asked");
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_read_is_refused() {
    let gateway = Inside::new(RIDES);
    let upstream = endpoint(&gateway, || ok("booked"));
    let reason = http::HeaderValue::from_static("bad_request");
    for headers in [
        &[("x-timeout-ms", "1s")][..],
        &[("x-timeout-ms", "70"), ("x-timeout-ms", "70")],
        &[GRPC, ("grpc-timeout", "1")],
        &[GRPC, ("grpc-timeout", "999999999S")],
    ] {
        let response = gateway.send(said("/rides", headers)).await;
        assert_eq!((&response.headers()["naka-reason"], upstream.requests()), (&reason, 0), "{headers:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn copies_have_a_time_of_their_own() {
    let gateway = Inside::new(RIDES);
    let _upstream = endpoint(&gateway, || ok("booked"));
    let shadow = Upstream::inside(&gateway.network, "s:1", |_| ok("seen"));
    gateway.send(said("/copied", &[("x-timeout-ms", "700")])).await;
    while shadow.requests() == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(shadow.last().header("x-timeout-ms"), Some("4500"), "nine tenths of the mirror's");
}

#[tokio::test(start_paused = true)]
async fn it_is_explained_as_it_is_told() {
    let gateway = Inside::new(RIDES);
    let explained =
        gateway.explain("GET http://api.example/short", &["x-timeout-ms: 700".into()]).to_string();
    assert!(explained.contains("x-timeout-ms: 700") && explained.contains("total_timeout"), "{explained}");
    let explained = gateway.explain("GET http://api.example/short", &[]).to_string();
    assert!(explained.contains("x-timeout-ms: 2000"), "{explained}");
    let refused = gateway.explain("GET http://api.example/short", &["x-timeout-ms: soon".into()]).to_string();
    assert!(refused.contains("400"), "{refused}");
}

/// Bug: a stranger who waited for a millisecond opened the breaker for everybody.
#[tokio::test(start_paused = true)]
async fn who_waits_too_short_a_time_opens_no_breaker() {
    let gateway = Inside::new(RIDES);
    let upstream = endpoint(&gateway, || answer(504, "", "no time for that"));
    for _ in 0..10 {
        let response = gateway.send(said("/guarded", &[("x-timeout-ms", "50")])).await;
        assert_eq!((response.status().as_u16(), &response.body()[..]), (504, &b"no time for that"[..]));
    }
    assert_eq!(upstream.requests(), 10);
    // Who waits as long as we do has seen a failure.
    for status in [504, 504, 503] {
        let response = gateway.send(said("/guarded", &[("x-timeout-ms", "70000")])).await;
        assert_eq!(response.status(), status);
    }
    assert_eq!(upstream.requests(), 12);
}
