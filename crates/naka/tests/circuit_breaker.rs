//! The circuit breaker beyond the laws that all layers keep.
#![allow(clippy::unwrap_used, reason = "a test may")]

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use naka::{
    balance::{BalanceConfig, BalanceLayer, Endpoint, InFlight, Policy},
    circuit_breaker::{
        Breaker, Cause, CircuitBreaker, CircuitBreakerConfig, CircuitBreakerLayer, EndpointBreakers, Pass,
        Phase, Preset, SlowCall, Snapshot, Transition, Until, Window,
    },
    classify::{Classifier, Outcome},
    clock::Now,
    enforce::Enforce,
    explain::{Explain, Finding},
    gate::Availability,
    guard::Guarded,
    key::Key,
    observe::Observer,
    reject::{Reason, Rejection},
    timeout::TimeoutLayer,
};
use tokio::{sync::Semaphore, task::JoinSet, time::advance};
use tower::{Layer, Service, ServiceExt};

const SECOND: Duration = Duration::from_secs(1);

/// What the upstream does with each request.
#[derive(Clone, Copy, Debug)]
enum Does {
    Answer(u16),
    /// With a good head, that late.
    Late(Duration),
    Error,
    /// A good head and a part of the body.
    BreakOff,
    /// A good head and body, and this status in the trailers.
    Grpc(&'static str),
    /// An answer of ours, for this reason.
    Refuse(Reason),
    Hang,
}

#[derive(Clone, Debug)]
struct Upstream {
    does: Arc<Mutex<Does>>,
    calls: Arc<AtomicUsize>,
    /// Requests wait here for one of these each, if there are any rules about that.
    gate: Option<Arc<Semaphore>>,
}

impl Upstream {
    fn that(does: Does) -> Self {
        Self { does: Arc::new(Mutex::new(does)), calls: Arc::default(), gate: None }
    }

    fn now(&self, does: Does) {
        *self.does.lock().unwrap() = does;
    }

    fn calls(&self) -> usize {
        self.calls.load(SeqCst)
    }
}

impl Service<Request<()>> for Upstream {
    type Response = Response<Script>;
    type Error = &'static str;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Script>, &'static str>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), &'static str>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<()>) -> Self::Future {
        self.calls.fetch_add(1, SeqCst);
        let (does, gate) = (*self.does.lock().unwrap(), self.gate.clone());
        Box::pin(async move {
            if let Some(gate) = gate {
                gate.acquire().await.unwrap().forget();
            }
            does.run().await
        })
    }
}

impl Does {
    async fn run(self) -> Result<Response<Script>, &'static str> {
        let data = || Ok(Frame::data(Bytes::from("answer")));
        match self {
            Self::Answer(status) => {
                Ok(Response::builder().status(status).body(Script::of([data()])).unwrap())
            }
            Self::Late(wait) => {
                tokio::time::sleep(wait).await;
                Ok(Response::new(Script::of([data()])))
            }
            Self::Error => Err("broken"),
            Self::BreakOff => Ok(Response::new(Script::of([data(), Err("broken off")]))),
            Self::Grpc(status) => {
                let trailers =
                    HeaderMap::from_iter([("grpc-status".parse().unwrap(), status.parse().unwrap())]);
                let body = Script::of([data(), Ok(Frame::trailers(trailers))]);
                Ok(Response::builder().header(CONTENT_TYPE, "application/grpc").body(body).unwrap())
            }
            Self::Refuse(reason) => Ok(Rejection::new(reason).into_response()),
            Self::Hang => std::future::pending().await,
        }
    }
}

#[derive(Debug, Default)]
struct Script(VecDeque<Result<Frame<Bytes>, &'static str>>);

impl Script {
    fn of<const N: usize>(frames: [Result<Frame<Bytes>, &'static str>; N]) -> Self {
        Self(frames.into())
    }
}

impl Body for Script {
    type Data = Bytes;
    type Error = &'static str;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, &'static str>>> {
        Poll::Ready(self.0.pop_front())
    }
}

type Answer<O = ()> = Result<Response<Guarded<Script, Pass<O>>>, &'static str>;

async fn ask<O: Observer>(layer: &CircuitBreakerLayer<O>, upstream: &Upstream) -> Answer<O> {
    layer.layer(upstream.clone()).oneshot(Request::new(())).await
}

/// One request up to the end of its response; whether it came to the upstream.
async fn exchange<O: Observer>(layer: &CircuitBreakerLayer<O>, upstream: &Upstream) -> bool {
    let before = upstream.calls();
    if let Ok(response) = ask(layer, upstream).await {
        let _ = response.into_body().collect().await;
    }
    upstream.calls() > before
}

async fn exchanges(layer: &CircuitBreakerLayer, upstream: &Upstream, number: usize) -> usize {
    let mut came = 0;
    for _ in 0..number {
        came += usize::from(exchange(layer, upstream).await);
    }
    came
}

fn snapshot<O: Observer>(layer: &CircuitBreakerLayer<O>) -> Snapshot {
    layer.breaker().unwrap().snapshot(Now::read())
}

fn phase<O: Observer>(layer: &CircuitBreakerLayer<O>) -> Phase {
    snapshot(layer).phase
}

/// Nothing opens.
fn nothing() -> CircuitBreakerConfig {
    CircuitBreakerConfig::new().consecutive(0).failure_rate(0)
}

fn consecutive(failures: u32) -> CircuitBreakerConfig {
    nothing().consecutive(failures)
}

#[tokio::test(start_paused = true)]
async fn r3_1_failures_in_a_row_open_alone() {
    let (layer, upstream) = (CircuitBreakerLayer::new(consecutive(3)), Upstream::that(Does::Answer(500)));
    for _ in 0..10 {
        upstream.now(Does::Answer(500));
        assert_eq!(exchanges(&layer, &upstream, 2).await, 2);
        upstream.now(Does::Answer(200));
        assert_eq!(exchanges(&layer, &upstream, 1).await, 1);
    }
    assert_eq!(phase(&layer), Phase::Closed);
    upstream.now(Does::Answer(500));
    assert_eq!((exchanges(&layer, &upstream, 9).await, phase(&layer)), (3, Phase::Open));
}

#[tokio::test(start_paused = true)]
async fn r3_1_a_failure_rate_opens_alone_and_never_below_the_minimum() {
    for window in [Window::Count(40), Window::Time(10 * SECOND)] {
        let layer = CircuitBreakerLayer::new(nothing().failure_rate(50).window(window, 20));
        let upstream = Upstream::that(Does::Answer(500));
        assert_eq!(exchanges(&layer, &upstream, 10).await, 10);
        upstream.now(Does::Answer(200));
        assert_eq!(exchanges(&layer, &upstream, 9).await, 9);
        assert_eq!(phase(&layer), Phase::Closed, "19 of 20");
        assert!(exchange(&layer, &upstream).await);
        assert_eq!(phase(&layer), Phase::Open, "the twentieth is judged, though it went well");
    }
}

#[tokio::test(start_paused = true)]
async fn r3_1_an_upstream_that_is_slow_in_all_it_does_opens_with_zero_errors() {
    let slow = SlowCall::new(8 * SECOND, 80);
    for window in [Window::Count(100), Window::Time(1000 * SECOND)] {
        let layer = CircuitBreakerLayer::new(nothing().slow_call(slow).window(window, 10));
        let upstream = Upstream::that(Does::Late(8 * SECOND));
        assert_eq!(exchanges(&layer, &upstream, 40).await, 10);
        assert_eq!(phase(&layer), Phase::Open);
        // Probes that are slow keep it open, or it would be closed and opened for ever.
        advance(60 * SECOND).await;
        assert_eq!((exchanges(&layer, &upstream, 5).await, phase(&layer)), (1, Phase::Open));
        advance(60 * SECOND).await;
        upstream.now(Does::Late(SECOND));
        assert_eq!((exchanges(&layer, &upstream, 5).await, phase(&layer)), (5, Phase::Closed));
    }
}

#[tokio::test(start_paused = true)]
async fn slow_is_the_head_unless_told_otherwise() {
    for (until, expected) in [(Until::Head, Phase::Closed), (Until::End, Phase::Open)] {
        let slow = SlowCall::new(8 * SECOND, 80).until(until);
        let layer = CircuitBreakerLayer::new(nothing().slow_call(slow).window(Window::Count(10), 1));
        let response = ask(&layer, &Upstream::that(Does::Answer(200))).await.unwrap();
        advance(10 * SECOND).await; // The client takes its time.
        response.into_body().collect().await.unwrap();
        assert_eq!((until, phase(&layer)), (until, expected));
    }
}

#[tokio::test(start_paused = true)]
async fn r3_1_a_time_window_slides() {
    let config = nothing().failure_rate(50).window(Window::Time(10 * SECOND), 10);
    let (layer, upstream) = (CircuitBreakerLayer::new(config), Upstream::that(Does::Answer(500)));
    for _ in 0..100 {
        assert!(exchange(&layer, &upstream).await, "never ten of them in ten seconds");
        advance(Duration::from_millis(1200)).await;
    }
    assert_eq!((phase(&layer), snapshot(&layer).counts.total), (Phase::Closed, 7));
    assert_eq!(exchanges(&layer, &upstream, 9).await, 3, "these are");
}

#[tokio::test(start_paused = true)]
async fn r3_2_what_counts_is_a_failure_of_the_upstream_and_nothing_else() {
    let failures = [
        Does::Error,
        Does::Answer(500),
        Does::Answer(503),
        Does::BreakOff,
        Does::Grpc("14"),
        Does::Refuse(Reason::ConnectFailed),
        Does::Refuse(Reason::ResponseTimeout),
    ];
    let others = [
        Does::Answer(200),
        Does::Answer(404),
        Does::Answer(429),
        Does::Answer(501),
        Does::Grpc("5"),
        Does::Grpc("1"),
        Does::Refuse(Reason::BulkheadFull),
        Does::Refuse(Reason::RateLimited),
    ];
    for (does, expected) in failures.map(|it| (it, 2)).into_iter().chain(others.map(|it| (it, 5))) {
        let (layer, upstream) = (CircuitBreakerLayer::new(consecutive(2)), Upstream::that(does));
        assert_eq!(exchanges(&layer, &upstream, 5).await, expected, "{does:?}");
    }
    let strict = consecutive(2).classifier(Classifier::new().failing(429..=429));
    let (layer, upstream) = (CircuitBreakerLayer::new(strict), Upstream::that(Does::Answer(429)));
    assert_eq!(exchanges(&layer, &upstream, 5).await, 2);
}

#[tokio::test(start_paused = true)]
async fn r3_2_a_timeout_inside_of_the_breaker_is_a_failure_and_one_outside_a_client_that_goes() {
    let (timeout, upstream) = (TimeoutLayer::new(SECOND), Upstream::that(Does::Hang));
    let inside = CircuitBreakerLayer::new(consecutive(2));
    for _ in 0..5 {
        drop(inside.layer(timeout.layer(upstream.clone())).oneshot(Request::new(())).await.unwrap());
    }
    assert_eq!((phase(&inside), upstream.calls()), (Phase::Open, 2));
    let outside = CircuitBreakerLayer::new(consecutive(2));
    for _ in 0..5 {
        drop(timeout.layer(outside.layer(upstream.clone())).oneshot(Request::new(())).await.unwrap());
    }
    assert_eq!((phase(&outside), upstream.calls()), (Phase::Closed, 7));
}

#[tokio::test(start_paused = true)]
async fn r3_2_a_client_that_goes_is_neutral_and_gives_its_place_back() {
    let (layer, upstream) =
        (CircuitBreakerLayer::new(consecutive(2).probes(1, 1)), Upstream::that(Does::Hang));
    let give_up = async |upstream: &Upstream| {
        let asked = tokio::time::timeout(SECOND, ask(&layer, upstream)).await;
        drop(asked); // Before the head, or with the body unread.
    };
    for does in [Does::Hang, Does::Answer(200)].repeat(5) {
        upstream.now(does);
        give_up(&upstream).await;
    }
    assert_eq!((phase(&layer), snapshot(&layer).consecutive), (Phase::Closed, 0));

    // Half open: the only place is there again, each time; 1,000 times nobody hears how it went.
    let breaker = layer.breaker().unwrap();
    breaker.force_open();
    breaker.release();
    for does in [Does::Hang, Does::Answer(200)].repeat(500) {
        upstream.now(does);
        let before = upstream.calls();
        give_up(&upstream).await;
        assert_eq!(upstream.calls(), before + 1);
        assert_eq!((phase(&layer), snapshot(&layer).probes), (Phase::HalfOpen, 0));
    }
    upstream.now(Does::Answer(500));
    drop(ask(&layer, &upstream).await);
    assert_eq!(phase(&layer), Phase::Open, "but a head that is a failure is one, whoever goes then");
}

#[tokio::test(start_paused = true)]
async fn r3_3_while_it_is_open_the_upstream_is_not_touched_and_the_time_is_told() {
    let name = Arc::from("restaurants");
    let layer = CircuitBreakerLayer::new(consecutive(1)).named(&name);
    let upstream = Upstream::that(Does::Answer(500));
    assert!(exchange(&layer, &upstream).await);
    for (left, wait) in [(60, 1), (59, 29), (30, 29), (1, 0)] {
        let refused = ask(&layer, &upstream).await.unwrap();
        let rejection = refused.extensions().get::<Rejection>().unwrap();
        assert_eq!(
            (refused.status(), rejection.reason),
            (StatusCode::SERVICE_UNAVAILABLE, Reason::CircuitOpen)
        );
        assert_eq!(rejection.retry_after, Some(left * SECOND));
        assert_eq!(rejection.policy.as_ref(), Some(&name));
        assert_eq!(refused.headers()["retry-after"], left.to_string());
        let said = layer.explain(Now::read(), &mut Request::new(()).into_parts().0);
        assert_eq!(said, Finding::Reject(rejection.clone()));
        advance(SECOND * wait).await;
    }
    assert_eq!((exchanges(&layer, &upstream, 10_000).await, upstream.calls()), (0, 1));
}

/// So many callers at the moment it becomes half open; the upstream holds whoever comes.
async fn so_many_at_once(callers: usize, probes: u8) {
    let layer = CircuitBreakerLayer::new(consecutive(1).probes(probes, probes));
    let breaker = layer.breaker().unwrap();
    breaker.force_open();
    breaker.release();
    let gate = Arc::new(Semaphore::new(0));
    let upstream = Upstream { gate: Some(Arc::clone(&gate)), ..Upstream::that(Does::Answer(200)) };
    let mut asking = JoinSet::new();
    for _ in 0..callers {
        let (layer, upstream) = (layer.clone(), upstream.clone());
        asking.spawn(async move {
            let response = ask(&layer, &upstream).await.unwrap();
            let status = response.status();
            response.into_body().collect().await.unwrap();
            status
        });
    }
    for _ in 0..callers - usize::from(probes) {
        assert_eq!(asking.join_next().await.unwrap().unwrap(), StatusCode::SERVICE_UNAVAILABLE);
    }
    while upstream.calls() < usize::from(probes) {
        tokio::task::yield_now().await; // It has a place, and is on its way on another thread.
    }
    assert_eq!((upstream.calls(), phase(&layer)), (usize::from(probes), Phase::HalfOpen));
    gate.add_permits(callers);
    while let Some(status) = asking.join_next().await {
        assert_eq!(status.unwrap(), StatusCode::OK);
    }
    assert_eq!((upstream.calls(), phase(&layer)), (usize::from(probes), Phase::Closed));
}

#[tokio::test]
async fn r3_4_of_five_hundred_callers_exactly_the_probes_come_through_on_one_thread() {
    for probes in [1, 3, 15] {
        so_many_at_once(500, probes).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn r3_4_of_five_hundred_callers_exactly_the_probes_come_through_on_four_threads() {
    for _ in 0..20 {
        for probes in [1, 3, 15] {
            so_many_at_once(500, probes).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn r3_4_successes_close_with_an_empty_window_and_any_failure_opens_anew() {
    let config = CircuitBreakerConfig::new().consecutive(5).open(60 * SECOND, 600 * SECOND).seed(7);
    let (layer, upstream) = (CircuitBreakerLayer::new(config), Upstream::that(Does::Answer(500)));
    assert_eq!(exchanges(&layer, &upstream, 10).await, 5);
    advance(60 * SECOND).await;
    upstream.now(Does::Answer(200));
    assert_eq!(exchanges(&layer, &upstream, 2).await, 2);
    upstream.now(Does::Answer(500));
    assert_eq!(exchanges(&layer, &upstream, 2).await, 1, "two of three went well, and it opens all the same");
    let left = snapshot(&layer).left.unwrap();
    assert!(left >= 60 * SECOND && left <= 120 * SECOND, "a fresh time, of the next level: {left:?}");
    advance(left).await;
    upstream.now(Does::Answer(200));
    assert_eq!((exchanges(&layer, &upstream, 3).await, phase(&layer)), (3, Phase::Closed));
    let now = snapshot(&layer);
    assert_eq!((now.counts.total, now.consecutive), (0, 0));
    upstream.now(Does::Answer(500));
    assert_eq!(exchanges(&layer, &upstream, 4).await, 4, "what was before is forgotten");
    assert_eq!((exchanges(&layer, &upstream, 4).await, snapshot(&layer).left), (1, Some(60 * SECOND)));
}

#[tokio::test(start_paused = true)]
async fn r3_4_open_times_grow_and_are_the_same_with_the_same_seed() {
    let times = async |seed| {
        let config = consecutive(1).open(SECOND, 60 * SECOND).seed(seed);
        let (layer, upstream) = (CircuitBreakerLayer::new(config), Upstream::that(Does::Answer(500)));
        let mut times = Vec::new();
        for _ in 0..12 {
            assert!(exchange(&layer, &upstream).await);
            times.push(snapshot(&layer).left.unwrap());
            advance(times[times.len() - 1]).await;
        }
        times
    };
    let (one, other) = (times(1).await, times(2).await);
    assert!(one == times(1).await && one != other);
    for (level, time) in (0..).zip(one.iter().chain(&other).take(12)) {
        assert!(*time >= SECOND && *time <= (SECOND * (1 << level)).min(60 * SECOND), "{level}: {time:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn r3_4_a_probe_that_hangs_loses_its_place_and_is_not_heard_any_more() {
    let layer = CircuitBreakerLayer::new(consecutive(1).probes(1, 1).probe_timeout(30 * SECOND));
    let gate = Arc::new(Semaphore::new(0));
    let hanging = Upstream { gate: Some(Arc::clone(&gate)), ..Upstream::that(Does::Answer(500)) };
    let breaker = layer.breaker().unwrap();
    breaker.force_open();
    breaker.release();
    let hangs = tokio::spawn({
        let (layer, hanging) = (layer.clone(), hanging.clone());
        async move { drop(ask(&layer, &hanging).await) }
    });
    tokio::task::yield_now().await;
    let upstream = Upstream::that(Does::Answer(200));
    advance(29 * SECOND).await;
    assert!(!exchange(&layer, &upstream).await);
    advance(SECOND).await;
    assert!(exchange(&layer, &upstream).await);
    assert_eq!(phase(&layer), Phase::Closed);
    gate.add_permits(1);
    hangs.await.unwrap();
    assert_eq!((hanging.calls(), phase(&layer)), (1, Phase::Closed), "its failure is of an earlier epoch");
}

#[tokio::test(start_paused = true)]
async fn r3_5_late_results_of_an_earlier_epoch_change_nothing() {
    let (layer, upstream) =
        (CircuitBreakerLayer::new(consecutive(3).probes(1, 1)), Upstream::that(Does::BreakOff));
    let late = [ask(&layer, &upstream).await, ask(&layer, &upstream).await, ask(&layer, &upstream).await];
    upstream.now(Does::Answer(500));
    assert_eq!(exchanges(&layer, &upstream, 5).await, 3);
    let [first, second, third] = late.map(|response| response.unwrap().into_body());
    first.collect().await.unwrap_err();
    assert_eq!(snapshot(&layer).left, Some(60 * SECOND));
    advance(60 * SECOND).await;
    upstream.now(Does::Answer(200));
    let probe = ask(&layer, &upstream).await.unwrap();
    second.collect().await.unwrap_err();
    assert_eq!(phase(&layer), Phase::HalfOpen);
    probe.into_body().collect().await.unwrap();
    third.collect().await.unwrap_err();
    assert_eq!((phase(&layer), snapshot(&layer).consecutive), (Phase::Closed, 0));
}

#[tokio::test(start_paused = true)]
async fn r3_6_one_breaker_for_a_layer_and_one_for_each_key() {
    let upstream = Upstream::that(Does::Answer(500));
    let of = |path: &'static str| Request::builder().uri(path).body(()).unwrap();
    let ask = async |layer: &CircuitBreakerLayer, path| {
        let before = upstream.calls();
        drop(layer.layer(upstream.clone()).oneshot(of(path)).await);
        upstream.calls() > before
    };
    let one = CircuitBreakerLayer::new(consecutive(1));
    assert_eq!([ask(&one, "/tanjore").await, ask(&one, "/social").await], [true, false]);

    let by_path = |head: &naka::reject::Head<'_>| Some(head.uri.path()).filter(|it| *it != "/").map(Key::of);
    let each = CircuitBreakerLayer::keyed(consecutive(1), by_path);
    assert_eq!([ask(&each, "/tanjore").await, ask(&each, "/social").await], [true, true]);
    assert_eq!([ask(&each, "/tanjore").await, ask(&each, "/social").await], [false, false]);
    assert_eq!(
        [ask(&each, "/").await, ask(&each, "/").await],
        [true, false],
        "those without a key share one"
    );
    assert_eq!(each.keys(), (2, 2));
    let said = each.explain(Now::read(), &mut of("/leopold").into_parts().0);
    assert!(matches!(said, Finding::Admit(_)) && each.keys() == (2, 2), "asking makes none");
    each.breaker_of(Key::of("/tanjore")).unwrap().reset();
    assert!(ask(&each, "/tanjore").await);

    // Bounded: a flood of keys, of which every other fails.
    let flooded = CircuitBreakerLayer::keyed(consecutive(1).max_keys(64), by_path);
    for number in 0..2000_u32 {
        upstream.now(Does::Answer(if number % 2 == 0 { 500 } else { 200 }));
        let request = Request::builder().uri(format!("/{number}")).body(()).unwrap();
        let response = flooded.layer(upstream.clone()).oneshot(request).await.unwrap();
        response.into_body().collect().await.unwrap();
    }
    let (keys, open) = flooded.keys();
    assert!(keys <= 64 && open <= keys, "{keys}, {open}");
}

#[tokio::test(start_paused = true)]
async fn r3_7_what_is_forced_holds_until_it_is_released() {
    let (layer, upstream) = (CircuitBreakerLayer::new(consecutive(1)), Upstream::that(Does::Answer(200)));
    let breaker = layer.breaker().unwrap();
    breaker.force_open(); // Without an earlier failure.
    advance(10_000 * SECOND).await;
    let refused = ask(&layer, &upstream).await.unwrap();
    assert!(refused.status() == 503 && !refused.headers().contains_key("retry-after"));
    assert_eq!(
        (exchanges(&layer, &upstream, 10).await, breaker.availability(Now::read())),
        (0, Availability::Ejected(None))
    );
    breaker.release();
    assert_eq!(breaker.availability(Now::read()), Availability::Probe);
    assert_eq!((exchanges(&layer, &upstream, 3).await, phase(&layer)), (3, Phase::Closed));

    breaker.force_close();
    upstream.now(Does::Answer(500));
    assert_eq!((exchanges(&layer, &upstream, 100).await, phase(&layer)), (100, Phase::ForcedClosed));
    breaker.release();
    assert_eq!((exchanges(&layer, &upstream, 10).await, phase(&layer)), (1, Phase::Open));
    breaker.reset();
    assert_eq!(breaker.availability(Now::read()), Availability::Ready);
}

#[tokio::test(start_paused = true)]
async fn r3_10_a_reload_keeps_phase_and_window_unless_its_shape_is_another() {
    let config = nothing().failure_rate(50).window(Window::Count(100), 10);
    let (layer, upstream) = (CircuitBreakerLayer::new(config), Upstream::that(Does::Answer(500)));
    assert_eq!(exchanges(&layer, &upstream, 7).await, 7);

    // Nothing is written until the first request.
    let other_shape = layer.reconfigured(&config.window(Window::Count(50), 10));
    assert_eq!(snapshot(&layer).counts.total, 7);
    drop(other_shape);
    assert_eq!(exchanges(&layer, &upstream, 2).await, 2);
    assert_eq!(snapshot(&layer).counts.total, 9);

    // The same window under other thresholds.
    let looser = layer.reconfigured(&config.failure_rate(90).window(Window::Count(100), 12));
    assert_eq!(exchanges(&looser, &upstream, 1).await, 1);
    assert_eq!((snapshot(&looser).counts.total, phase(&looser)), (10, Phase::Closed));
    assert_eq!(exchanges(&layer, &upstream, 1).await, 1, "an older layer follows the newer rule");
    assert_eq!(exchanges(&looser, &upstream, 5).await, 1);
    assert_eq!((phase(&looser), phase(&layer)), (Phase::Open, Phase::Open));

    // Open, and its time, over a reload.
    let again = looser.reconfigured(&config.open(SECOND, SECOND));
    advance(10 * SECOND).await;
    assert_eq!(exchanges(&again, &upstream, 5).await, 0);
    assert_eq!(snapshot(&again).left, Some(50 * SECOND));

    // Another shape begins with an empty window.
    let breaker = again.breaker().unwrap();
    breaker.reset();
    assert_eq!(exchanges(&again, &upstream, 9).await, 9);
    let by_time = again.reconfigured(&config.window(Window::Time(10 * SECOND), 10));
    assert_eq!((exchanges(&by_time, &upstream, 9).await, snapshot(&by_time).counts.total), (9, 9));
    let back = by_time.reconfigured(&config);
    assert_eq!((exchanges(&back, &upstream, 9).await, snapshot(&back).counts.total), (9, 9));
    assert_eq!(exchanges(&back, &upstream, 9).await, 1);
}

#[tokio::test(start_paused = true)]
async fn r3_10_presets_are_what_they_are_documented_to_be() {
    let table = [
        ("irctc_booking", 3, 120, 30, 15, 30),
        ("payment_gateway", 2, 60, 45, 20, 10),
        ("food_delivery", 5, 90, 20, 10, 40),
        ("cab_booking", 4, 45, 15, 8, 35),
    ];
    for (name, failures, open, timeout, slow, rate) in table {
        let preset = Preset::named(name).unwrap();
        let slow_call = preset.config.slow_call.unwrap();
        assert_eq!((preset.name, preset.timeout), (name, timeout * SECOND));
        assert_eq!((slow_call.over, preset.config.failure_rate), (slow * SECOND, rate));
        let (layer, upstream) = (CircuitBreakerLayer::new(preset.config), Upstream::that(Does::Error));
        assert_eq!(exchanges(&layer, &upstream, 20).await, failures);
        assert_eq!(snapshot(&layer).left, Some(open * SECOND));
    }
    let ratings = [(46, 5, 45, 15, 2, 8, 30), (42, 3, 60, 20, 3, 10, 25), (39, 2, 90, 25, 4, 12, 20)];
    for (rating, failures, open, timeout, successes, slow, rate) in ratings {
        let Preset { config, timeout: its, .. } = Preset::restaurant(rating);
        assert_eq!((config.consecutive, config.open, its), (failures, open * SECOND, timeout * SECOND));
        assert_eq!((config.successes, config.failure_rate), (successes, rate));
        assert_eq!(config.slow_call.unwrap().over, slow * SECOND);
    }
    assert!(Preset::named("bank").is_none());
}

#[tokio::test(start_paused = true)]
async fn r3_11_who_was_ready_is_answered_whatever_the_breaker_does_in_between() {
    let (layer, upstream) = (CircuitBreakerLayer::new(consecutive(1)), Upstream::that(Does::Answer(500)));
    let mut ready: CircuitBreaker<Upstream> = layer.layer(upstream.clone());
    ready.ready().await.unwrap();
    assert!(exchange(&layer, &upstream).await);
    let refused = ready.call(Request::new(())).await.unwrap();
    assert_eq!((refused.status().as_u16(), upstream.calls()), (503, 1), "no error, and nobody was asked");
    ready.ready().await.unwrap(); // Open or not, it is ready.
    advance(60 * SECOND).await;
    for _ in 0..100 {
        layer.layer(upstream.clone()).ready().await.unwrap(); // And takes no place by that.
    }
    assert_eq!((phase(&layer), snapshot(&layer).probes), (Phase::Open, 0));
    assert_eq!(ready.call(Request::new(())).await.unwrap().status(), 500);
}

#[derive(Clone, Debug, Default)]
struct Heard(Arc<Mutex<Vec<String>>>);

impl Observer for Heard {
    fn admitted(&self) {
        self.0.lock().unwrap().push("admitted".into());
    }
    fn rejected(&self, rejection: &Rejection) {
        self.0.lock().unwrap().push(format!("rejected {}", rejection.reason));
    }
    fn would_reject(&self, rejection: &Rejection) {
        self.0.lock().unwrap().push(format!("would reject {}", rejection.reason));
    }
    fn transition(&self, transition: &Transition) {
        let Transition { from, to, cause, .. } = transition;
        self.0.lock().unwrap().push(format!("{} to {}: {cause:?}", from.word(), to.word()));
    }
}

impl Heard {
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

#[tokio::test(start_paused = true)]
async fn each_change_is_told_once_with_its_cause() {
    let heard = Heard::default();
    let config = CircuitBreakerConfig::new().consecutive(2).probes(1, 1).ramp(10 * SECOND);
    let (layer, upstream) =
        (CircuitBreakerLayer::observed(config, heard.clone()), Upstream::that(Does::Error));
    for _ in 0..3 {
        exchange(&layer, &upstream).await;
    }
    let told = ["admitted", "admitted", "closed to open: Consecutive(2)", "rejected circuit_open"];
    assert_eq!(heard.take(), told);
    advance(60 * SECOND).await;
    upstream.now(Does::Answer(200));
    exchange(&layer, &upstream).await;
    let told = ["open to half_open: Probing", "admitted", "half_open to recovering: ProbesSucceeded"];
    assert_eq!(heard.take(), told);
    advance(10 * SECOND).await;
    exchange(&layer, &upstream).await;
    assert_eq!(heard.take(), ["recovering to closed: Recovered", "admitted"]);
    layer.breaker().unwrap().force_open();
    layer.breaker().unwrap().force_open();
    assert_eq!(heard.take(), [format!("closed to forced_open: {:?}", Cause::ByHand)]);
}

#[tokio::test(start_paused = true)]
async fn a_recovery_admits_a_growing_share_and_explain_foresees_each() {
    let config = consecutive(1).probes(1, 1).ramp(100 * SECOND);
    let (layer, upstream) = (CircuitBreakerLayer::new(config), Upstream::that(Does::Error));
    exchange(&layer, &upstream).await;
    advance(60 * SECOND).await;
    upstream.now(Does::Answer(200));
    assert!(exchange(&layer, &upstream).await);
    for percent in [5, 25, 50, 75, 100] {
        let mut came = 0;
        for _ in 0..100 {
            let said = layer.explain(Now::read(), &mut Request::new(()).into_parts().0);
            let did = exchange(&layer, &upstream).await;
            assert_eq!(matches!(said, Finding::Admit(_)), did);
            came += u32::from(did);
        }
        assert_eq!(came, percent);
        advance(25 * SECOND).await;
    }
    assert_eq!(phase(&layer), Phase::Closed);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_enforced_decides_and_lets_pass() {
    let heard = Heard::default();
    let config = consecutive(2).enforce(Enforce::Observe);
    let (layer, upstream) =
        (CircuitBreakerLayer::observed(config, heard.clone()), Upstream::that(Does::Error));
    for _ in 0..5 {
        assert!(exchange(&layer, &upstream).await);
    }
    assert_eq!(phase(&layer), Phase::Open);
    assert_eq!(heard.take().iter().filter(|told| *told == "would reject circuit_open").count(), 3);
    let said = layer.explain(Now::read(), &mut Request::new(()).into_parts().0);
    assert!(matches!(said, Finding::Observe(_)), "{said:?}");

    let layer = layer.reconfigured(&config.enforce(Enforce::Percent(25)));
    let mut refused = 0;
    for _ in 0..100 {
        refused += u32::from(!exchange(&layer, &upstream).await);
    }
    assert_eq!(refused, 25);
    let never = layer.reconfigured(&config.enforce(Enforce::Never));
    assert!(exchange(&never, &upstream).await && phase(&never) == Phase::Open, "its state is kept");
}

#[tokio::test(start_paused = true)]
async fn events_that_clients_leave_count_with_their_heads_where_that_is_said() {
    let upstream = Upstream::that(Does::Answer(200));
    for (settle, expected) in [(Until::End, Phase::HalfOpen), (Until::Head, Phase::Closed)] {
        let layer = CircuitBreakerLayer::new(consecutive(1).probes(1, 1).settle(settle));
        let breaker = layer.breaker().unwrap();
        breaker.force_open();
        breaker.release();
        drop(ask(&layer, &upstream).await.unwrap());
        assert_eq!((settle, phase(&layer)), (settle, expected));
    }
}

#[tokio::test(start_paused = true)]
async fn a_breaker_without_a_layer() {
    let breaker = Breaker::new(consecutive(2));
    for _ in 0..2 {
        breaker.enter(Now::read()).unwrap().settle(Outcome::Failure);
    }
    assert_eq!(breaker.availability(Now::read()), Availability::Ejected(Some(60 * SECOND)));
    assert_eq!(breaker.enter(Now::read()).unwrap_err().reason, Reason::CircuitOpen);
    let other = breaker.reconfigured(&consecutive(2).probes(1, 1));
    advance(60 * SECOND).await;
    let probe = other.enter(Now::read()).unwrap();
    assert!(breaker.enter(Now::read()).is_err(), "the newer rule has one place");
    drop(probe);
    other.enter(Now::read()).unwrap().settle(Outcome::Success);
    assert_eq!(breaker.snapshot(Now::read()).phase, Phase::Closed);
}

// ---- In front of endpoints

/// Endpoints behind a balancer, each with a breaker; what each does is said.
struct Fleet {
    layer: BalanceLayer,
    breakers: EndpointBreakers,
    nodes: Vec<(Arc<str>, Upstream)>,
}

type FleetBody = Guarded<Script, InFlight>;

impl Fleet {
    fn new(config: BalanceConfig, breaker: CircuitBreakerConfig, does: &[Does]) -> Self {
        let node = |(number, does): (usize, &Does)| (format!("node_{number}").into(), Upstream::that(*does));
        let nodes = does.iter().enumerate().map(node).collect::<Vec<(Arc<str>, Upstream)>>();
        let breakers = EndpointBreakers::new(breaker);
        let layer = BalanceLayer::with_config(config.seed(1), nodes.iter().map(|(address, _)| &**address));
        let layer = layer.gated(gates(&breakers));
        Self { layer, breakers, nodes }
    }

    async fn ask(&self) -> Result<Response<FleetBody>, &'static str> {
        let nodes = self.nodes.clone();
        let client = tower::service_fn(move |request: Request<()>| {
            let endpoint = Endpoint::of(request.extensions()).unwrap();
            let node = nodes.iter().find(|(address, _)| address == endpoint.address()).unwrap();
            node.1.clone().oneshot(request)
        });
        self.layer.layer(client).oneshot(Request::new(())).await
    }

    /// The statuses of so many exchanges to their ends.
    async fn send(&self, count: usize) -> Vec<u16> {
        let mut statuses = Vec::new();
        for _ in 0..count {
            let Ok(response) = self.ask().await else {
                statuses.push(0);
                continue;
            };
            statuses.push(response.status().as_u16());
            let _ = response.into_body().collect().await;
        }
        statuses
    }

    fn calls(&self) -> Vec<usize> {
        self.nodes.iter().map(|(_, node)| node.calls()).collect()
    }

    fn phase(&self, node: usize) -> Phase {
        self.breakers.breaker(&self.nodes[node].0).unwrap().snapshot(Now::read()).phase
    }
}

fn gates(
    breakers: &EndpointBreakers,
) -> impl Fn(&Arc<str>) -> Arc<dyn naka::gate::Gate> + Send + Sync + use<> {
    let breakers = breakers.clone();
    move |address| breakers.gate(address)
}

#[tokio::test(start_paused = true)]
async fn r7_4_five_failures_eject_an_endpoint_and_no_more_requests_reach_it_until_its_time_is_over() {
    let config = BalanceConfig::default().max_ejected(50);
    let breaker = consecutive(5).open(30 * SECOND, 300 * SECOND).probes(1, 1);
    let fleet = Fleet::new(config, breaker, &[Does::Answer(200), Does::Answer(503), Does::Answer(200)]);
    let failed = fleet.send(300).await.iter().filter(|status| **status != 200).count();
    assert_eq!((failed, fleet.calls()[1], fleet.phase(1)), (5, 5, Phase::Open));
    advance(29 * SECOND).await;
    assert_eq!((fleet.send(100).await, fleet.calls()[1]), (vec![200; 100], 5));
    // One probe, and it is out for longer.
    advance(2 * SECOND).await;
    assert_eq!(fleet.send(100).await.iter().filter(|status| **status != 200).count(), 1);
    assert_eq!((fleet.calls()[1], fleet.phase(1)), (6, Phase::Open));
    fleet.nodes[1].1.now(Does::Answer(200));
    advance(61 * SECOND).await;
    let before = fleet.calls()[1];
    assert_eq!((fleet.send(99).await, fleet.phase(1)), (vec![200; 99], Phase::Closed));
    assert_eq!(fleet.calls()[1], before + 33, "all of its share again");
}

#[tokio::test(start_paused = true)]
async fn an_ejection_spares_as_many_as_the_rest_needs_and_never_the_last() {
    let config = BalanceConfig::default().max_ejected(30);
    let fleet = Fleet::new(config, consecutive(3), &[Does::Answer(500); 4]);
    assert_eq!(fleet.send(100).await, [500; 100], "each is sent to somebody");
    assert_eq!((0..4).map(|node| fleet.phase(node)).collect::<Vec<_>>(), [Phase::Open; 4]);
    assert_eq!(fleet.calls()[0], 3, "one of four may be out");
    let alone = Fleet::new(BalanceConfig::default().max_ejected(100), consecutive(3), &[Does::Answer(500)]);
    assert_eq!(alone.send(20).await, [500; 20]);
    let unbounded = Fleet::new(BalanceConfig::default(), consecutive(3), &[Does::Answer(500); 2]);
    assert_eq!(unbounded.send(20).await.iter().filter(|status| **status == 500).count(), 6);
    assert_eq!(unbounded.send(1).await, [503]);
}

#[tokio::test(start_paused = true)]
async fn r3_4_of_500_callers_at_half_open_as_many_as_there_are_probes_reach_an_endpoint() {
    for policy in [Policy::RoundRobin, Policy::LeastRequest, Policy::Random] {
        let breaker = consecutive(1).open(10 * SECOND, 10 * SECOND).probes(3, 3);
        let mut fleet =
            Fleet::new(BalanceConfig::new(policy), breaker, &[Does::Answer(500), Does::Answer(200)]);
        while fleet.phase(0) == Phase::Closed {
            fleet.send(1).await;
        }
        let before = fleet.calls();
        let may = Arc::new(Semaphore::new(0));
        fleet.nodes[0].1.now(Does::Answer(200));
        fleet.nodes.iter_mut().for_each(|(_, node)| node.gate = Some(Arc::clone(&may)));
        advance(11 * SECOND).await;
        let fleet = Arc::new(fleet);
        let mut callers = JoinSet::new();
        for _ in 0..500 {
            let fleet = Arc::clone(&fleet);
            callers.spawn(async move { fleet.ask().await.unwrap().into_body().collect().await.unwrap() });
        }
        tokio::time::sleep(Duration::from_millis(1)).await; // Until all of them wait.
        let reached =
            fleet.calls().iter().zip(before).map(|(after, before)| after - before).collect::<Vec<_>>();
        assert_eq!(reached, [3, 497], "{policy:?}");
        may.add_permits(500);
        while callers.join_next().await.is_some() {}
        assert_eq!(fleet.phase(0), Phase::Closed, "{policy:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn r3_1_an_endpoint_that_is_slow_in_all_is_ejected_without_any_error() {
    let slow = nothing().slow_call(SlowCall::new(2 * SECOND, 80)).window(Window::Count(10), 5);
    let fleet = Fleet::new(
        BalanceConfig::default().max_ejected(50),
        slow,
        &[Does::Late(3 * SECOND), Does::Late(Duration::ZERO)],
    );
    assert_eq!(fleet.send(30).await, [200; 30]);
    assert_eq!((fleet.calls(), fleet.phase(0), fleet.phase(1)), (vec![5, 25], Phase::Open, Phase::Closed));
}

#[tokio::test(start_paused = true)]
async fn what_an_endpoint_says_is_classified_once_and_for_all() {
    let ejects = |does: Does, classifier: Classifier| async move {
        let config = BalanceConfig::default().classifier(classifier);
        let fleet = Fleet::new(config, consecutive(1), &[does]);
        fleet.send(1).await;
        fleet.phase(0) == Phase::Open
    };
    let as_it_is = Classifier::new();
    for does in [Does::Answer(500), Does::Error, Does::BreakOff, Does::Grpc("14")] {
        assert!(ejects(does, as_it_is).await, "{does:?}");
    }
    for does in [Does::Answer(404), Does::Answer(501), Does::Grpc("5"), Does::Refuse(Reason::BulkheadFull)] {
        assert!(!ejects(does, as_it_is).await, "{does:?}");
    }
    assert!(ejects(Does::Refuse(Reason::ResponseTimeout), as_it_is).await);
    assert!(ejects(Does::Answer(429), as_it_is.failing(429..=429)).await);
    assert!(!ejects(Does::Answer(503), as_it_is.passing(503..=503)).await);
}

#[tokio::test(start_paused = true)]
async fn r3_2_a_caller_that_goes_away_gives_a_probe_back_and_says_nothing() {
    let breaker = consecutive(1).open(SECOND, SECOND).probes(1, 1);
    let fleet = Fleet::new(BalanceConfig::default(), breaker, &[Does::Answer(500)]);
    fleet.send(1).await;
    advance(2 * SECOND).await;
    fleet.nodes[0].1.now(Does::Hang);
    {
        let mut hangs = Box::pin(fleet.ask());
        assert!(futures_poll(hangs.as_mut()).is_pending());
        assert_eq!(fleet.send(1).await, [503], "its place is taken");
    }
    fleet.nodes[0].1.now(Does::Answer(200));
    assert_eq!((fleet.send(1).await, fleet.phase(0)), (vec![200], Phase::Closed));
}

fn futures_poll<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(std::task::Waker::noop()))
}

#[tokio::test(start_paused = true)]
async fn a_head_settles_it_where_bodies_never_end() {
    let fleet = |settle| {
        Fleet::new(BalanceConfig::default(), consecutive(1).probes(1, 1).settle(settle), &[Does::Answer(500)])
    };
    for (settle, phase) in [(Until::Head, Phase::Closed), (Until::End, Phase::HalfOpen)] {
        let fleet = fleet(settle);
        fleet.send(1).await;
        advance(61 * SECOND).await;
        fleet.nodes[0].1.now(Does::Answer(200));
        let streams = fleet.ask().await.unwrap();
        assert_eq!(fleet.phase(0), phase);
        drop(streams);
    }
    // A failure is known with its head either way.
    let fleet = fleet(Until::End);
    let response = fleet.ask().await.unwrap();
    assert_eq!(fleet.phase(0), Phase::Open);
    drop(response);
}

#[tokio::test(start_paused = true)]
async fn r3_10_breakers_of_endpoints_survive_reloads_and_endpoints_that_come_and_go() {
    let breaker = consecutive(1).open(60 * SECOND, 60 * SECOND);
    let mut fleet = Fleet::new(BalanceConfig::default(), breaker, &[Does::Answer(500), Does::Answer(200)]);
    fleet.send(2).await;
    assert_eq!(fleet.phase(0), Phase::Open);
    // A reload that is refused has changed nothing.
    let refused = fleet.breakers.reconfigured(&consecutive(7));
    drop(fleet.layer.reconfigured(BalanceConfig::default(), ["node_1"]).gated(gates(&refused)));
    assert_eq!((fleet.send(10).await, fleet.calls()[0]), (vec![200; 10], 1));
    // One that is put in force goes on with what is known.
    fleet.breakers = fleet.breakers.reconfigured(&consecutive(3).open(60 * SECOND, 60 * SECOND));
    let both = ["node_0", "node_1"];
    fleet.layer = fleet.layer.reconfigured(BalanceConfig::default(), both).gated(gates(&fleet.breakers));
    assert_eq!((fleet.send(10).await, fleet.phase(0)), (vec![200; 10], Phase::Open));
    // An address that was gone for a while is still out.
    fleet.layer.update(["node_1"]);
    fleet.send(5).await;
    fleet.layer.update(both);
    assert_eq!((fleet.send(10).await, fleet.calls()[0]), (vec![200; 10], 1));
    // It takes three now.
    advance(61 * SECOND).await;
    fleet.nodes[0].1.now(Does::Answer(200));
    fleet.send(20).await;
    assert_eq!(fleet.phase(0), Phase::Closed);
    fleet.nodes[0].1.now(Does::Answer(500));
    let failed = fleet.send(100).await.iter().filter(|status| **status == 500).count();
    assert_eq!((failed, fleet.phase(0)), (3, Phase::Open));
}

#[tokio::test(start_paused = true)]
async fn breakers_of_endpoints_that_are_gone_are_bounded_and_none_that_is_held_is_forgotten() {
    let breakers = EndpointBreakers::new(consecutive(1));
    let held = (0..3000).map(|number| breakers.gate(&format!("held_{number}").into())).collect::<Vec<_>>();
    breakers.breaker("held_7").unwrap().force_open();
    for number in 0..10_000 {
        drop(breakers.gate(&format!("gone_{number}").into()));
    }
    assert!((3000..=3000 + 1024).contains(&breakers.count()), "{}", breakers.count());
    let next = breakers.reconfigured(&consecutive(2));
    let again = (0..3000).rev().map(|number| next.gate(&format!("held_{number}").into())).collect::<Vec<_>>();
    assert!(next.count() <= 3000 + 1024);
    assert_eq!(again[2999 - 7].availability(Now::read()), Availability::Ejected(None));
    assert_eq!(held[7].availability(Now::read()), Availability::Ejected(None));
}

#[tokio::test(start_paused = true)]
async fn a_breaker_that_only_observes_ejects_nobody() {
    let observes = consecutive(1).enforce(Enforce::Observe);
    let fleet = Fleet::new(BalanceConfig::default(), observes, &[Does::Answer(500), Does::Answer(200)]);
    fleet.send(20).await;
    assert_eq!((fleet.calls(), fleet.phase(0)), (vec![10, 10], Phase::Open));
}

/// While it recovers an endpoint has a share that grows, and not none and then all.
#[tokio::test(start_paused = true)]
async fn an_endpoint_that_recovers_has_a_growing_share() {
    let breaker = consecutive(1).open(SECOND, SECOND).probes(1, 1).ramp(100 * SECOND);
    for policy in [Policy::RoundRobin, Policy::LeastRequest, Policy::Random, Policy::PeakEwma] {
        let config = BalanceConfig::new(policy).max_ejected(50);
        let fleet = Fleet::new(config, breaker, &[Does::Answer(500), Does::Answer(200)]);
        while fleet.phase(0) == Phase::Closed {
            fleet.send(1).await;
        }
        fleet.nodes[0].1.now(Does::Answer(200));
        advance(2 * SECOND).await;
        while fleet.phase(0) != Phase::Recovering {
            advance(SECOND).await;
            fleet.send(4).await;
        }
        let mut had = Vec::new();
        for _ in 0..3 {
            let before = fleet.calls()[0];
            assert_eq!(fleet.send(400).await, [200; 400], "{policy:?}");
            had.push(fleet.calls()[0] - before);
            advance(30 * SECOND).await;
        }
        let is_growing = had[0] < had[1] && had[1] < had[2];
        assert!(had[0] > 0 && had[0] < 60 && is_growing, "{policy:?}: {had:?}");
    }
    // The last one that is there is asked, whatever it recovers from.
    let alone = Fleet::new(BalanceConfig::default().max_ejected(50), breaker, &[Does::Answer(500)]);
    alone.send(1).await;
    alone.nodes[0].1.now(Does::Answer(200));
    advance(2 * SECOND).await;
    assert_eq!(alone.send(100).await, [200; 100]);
}
