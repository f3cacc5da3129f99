//! Faults for whoever asks for them.
#![allow(clippy::unwrap_used, reason = "a test may")]

use std::{
    future::Future,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Waker},
    time::Duration,
};

use http::{HeaderValue, Request, Response, StatusCode};
use naka::{
    clock::{Now, WallClock},
    explain::{Explain, Finding},
    fault::{FaultConfig, FaultError, FaultLayer, Gate},
    observe::Observer,
    reject::{Reason, Rejection},
};
use tokio::time::Instant;
use tower::{Layer, Service, ServiceExt, service_fn};

const LATE: Duration = Duration::from_secs(5);

fn config() -> FaultConfig {
    let gate = Gate::header("x-chaos".parse().unwrap()).value(HeaderValue::from_static("yes"));
    FaultConfig::new(gate).enabled(true)
}

fn faults() -> FaultConfig {
    config().delay(10, LATE).unwrap().abort(5, StatusCode::SERVICE_UNAVAILABLE).unwrap()
}

fn asking(value: &'static str) -> Request<()> {
    Request::builder().header("x-chaos", value).body(()).unwrap()
}

#[derive(Clone, Default)]
struct Behind(Arc<AtomicUsize>);

impl Behind {
    fn calls(&self) -> usize {
        self.0.load(SeqCst)
    }

    fn service(
        &self,
    ) -> impl Service<Request<()>, Response = Response<()>, Error = &'static str> + Clone + use<> {
        let calls = Arc::clone(&self.0);
        service_fn(move |_| {
            calls.fetch_add(1, SeqCst);
            async { Ok(Response::new(())) }
        })
    }
}

/// How many were late by exactly that much, how many got 503, and how many neither.
async fn shares(layer: &FaultLayer, request: fn() -> Request<()>, count: usize) -> [usize; 3] {
    let mut seen = [0; 3];
    for _ in 0..count {
        let start = Instant::now();
        let response = layer.layer(Behind::default().service()).oneshot(request()).await.unwrap();
        match (start.elapsed(), response.status().as_u16()) {
            (LATE, 200) => seen[0] += 1,
            (Duration::ZERO, 503) => {
                let rejection = response.extensions().get::<Rejection>().unwrap();
                assert_eq!(rejection.reason, Reason::FaultInjected(StatusCode::SERVICE_UNAVAILABLE));
                assert!(!rejection.reason.blames_upstream(), "it trips no breaker");
                seen[1] += 1;
            }
            (Duration::ZERO, 200) => seen[2] += 1,
            other => panic!("{other:?}"),
        }
    }
    seen
}

#[tokio::test(start_paused = true)]
async fn r7_5_ten_percent_are_late_and_five_percent_fail() {
    assert_eq!(shares(&FaultLayer::new(faults()), || asking("yes"), 10_000).await, [1000, 500, 8500]);
}

#[tokio::test(start_paused = true)]
async fn r7_5_nobody_is_hit_without_the_header_and_the_flag() {
    let all = || config().delay(100, LATE).unwrap().abort(100, StatusCode::BAD_GATEWAY).unwrap();
    let layer = FaultLayer::new(all());
    for request in [|| Request::new(()), || asking("no"), || asking("")] {
        assert_eq!(shares(&layer, request, 100).await, [0, 0, 100]);
    }
    let disabled = layer.reconfigured(&all().enabled(false));
    assert_eq!(shares(&disabled, || asking("yes"), 100).await, [0, 0, 100]);
    let never_enabled = FaultConfig::new(Gate::header("x-chaos".parse().unwrap())).delay(100, LATE).unwrap();
    assert_eq!(shares(&FaultLayer::new(never_enabled), || asking("yes"), 100).await, [0, 0, 100]);
    assert_eq!(layer.explain(Now::read(), &mut asking("no").into_parts().0), Finding::Passes);
    assert_eq!(disabled.explain(Now::read(), &mut asking("yes").into_parts().0), Finding::Off);
}

#[tokio::test(start_paused = true)]
async fn without_a_value_the_header_is_enough_and_one_of_several_lines_will_do() {
    let gate = Gate::header("x-chaos".parse().unwrap());
    let any = FaultConfig::new(gate).delay(100, LATE).unwrap().enabled(true);
    assert_eq!(shares(&FaultLayer::new(any), || asking("whatever"), 3).await, [3, 0, 0]);
    let several = || {
        let mut request = asking("no");
        request.headers_mut().append("x-chaos", HeaderValue::from_static("yes"));
        request
    };
    let layer = FaultLayer::new(config().delay(100, LATE).unwrap());
    assert_eq!(shares(&layer, several, 3).await, [3, 0, 0]);
}

#[tokio::test(start_paused = true)]
async fn after_its_end_it_is_not_there() {
    let mut config = config().delay(100, LATE).unwrap().until(1000);
    config.clock = WallClock::starting_at(990);
    let layer = FaultLayer::new(config);
    assert_eq!(shares(&layer, || asking("yes"), 1).await, [1, 0, 0]);
    assert_eq!(shares(&layer, || asking("yes"), 1).await, [1, 0, 0], "at 995, until 1000");
    assert_eq!(shares(&layer, || asking("yes"), 3).await, [0, 0, 3]);
    assert_eq!(layer.explain(Now::read(), &mut asking("yes").into_parts().0), Finding::Off);
}

#[tokio::test(start_paused = true)]
async fn so_many_are_late_at_once_and_whoever_gives_up_makes_room() {
    let mut config = config().delay(100, LATE).unwrap();
    config.max_delayed = 2;
    let (layer, behind) = (FaultLayer::new(config), Behind::default());
    let call = || layer.layer(behind.service()).call(asking("yes"));
    let (first, second) = (call(), call());
    assert_eq!((layer.delayed(), behind.calls()), (2, 0));
    let start = Instant::now();
    assert_eq!(call().await.unwrap().status(), 200);
    assert_eq!((start.elapsed(), behind.calls()), (Duration::ZERO, 1), "not late, as too many are");
    drop(first);
    assert_eq!(layer.delayed(), 1);
    let third = call();
    second.await.unwrap();
    third.await.unwrap();
    assert_eq!((layer.delayed(), behind.calls(), start.elapsed()), (0, 3, LATE));
}

#[tokio::test(start_paused = true)]
async fn given_up_while_late_it_never_goes_on() {
    let observer = Arc::new(Told::default());
    let config = config().delay(100, LATE).unwrap();
    let (layer, behind) = (FaultLayer::observed(config, Arc::clone(&observer)), Behind::default());
    {
        let mut late = pin!(layer.layer(behind.service()).call(asking("yes")));
        assert!(late.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        tokio::time::advance(LATE / 2).await;
        assert!(late.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    }
    tokio::time::advance(LATE).await;
    assert_eq!((behind.calls(), layer.delayed()), (0, 0));
    assert_eq!(observer.heard(), [1, 0, 0, 1]);
}

#[tokio::test(start_paused = true)]
async fn who_is_late_and_refused_is_refused_late() {
    let observer = Arc::new(Told::default());
    let config = config().delay(100, LATE).unwrap().abort(100, StatusCode::GATEWAY_TIMEOUT).unwrap();
    let (layer, behind) = (FaultLayer::observed(config, Arc::clone(&observer)), Behind::default());
    let start = Instant::now();
    let response = layer.layer(behind.service()).oneshot(asking("yes")).await.unwrap();
    assert_eq!((response.status().as_u16(), start.elapsed(), behind.calls()), (504, LATE, 0));
    assert_eq!(observer.heard(), [1, 0, 1, 0]);
}

#[tokio::test(start_paused = true)]
async fn errors_pass_late_or_not() {
    let fails = service_fn(|_: Request<()>| async { Err::<Response<()>, _>("broken") });
    let layer = FaultLayer::new(config().delay(50, LATE).unwrap());
    for _ in 0..10 {
        assert_eq!(layer.layer(fails).oneshot(asking("yes")).await.err(), Some("broken"));
    }
    assert_eq!(layer.delayed(), 0);
}

#[tokio::test(start_paused = true)]
async fn reconfigured_back_and_forth_it_counts_on() {
    let first = FaultLayer::new(faults());
    let second = first.reconfigured(&faults().enabled(true));
    let mut seen = [0; 3];
    for turn in 0..100 {
        let layer = if turn % 2 == 0 { &first } else { &second };
        let one = shares(layer, || asking("yes"), 1).await;
        seen.iter_mut().zip(one).for_each(|(all, one)| *all += one);
    }
    assert_eq!(seen, [10, 5, 85]);
}

#[tokio::test(start_paused = true)]
async fn explaining_says_what_happens_next() {
    let (layer, behind) = (FaultLayer::new(faults()).named(&"chaos".into()), Behind::default());
    for _ in 0..200 {
        let said = layer.explain(Now::read(), &mut asking("yes").into_parts().0);
        let start = Instant::now();
        let response = layer.layer(behind.service()).oneshot(asking("yes")).await.unwrap();
        let did = match response.extensions().get::<Rejection>() {
            Some(rejection) => Finding::Reject(rejection.clone()),
            None if start.elapsed() == LATE => Finding::Admit("5s late".into()),
            None => Finding::Admit("as it is".into()),
        };
        assert_eq!(said, did);
    }
}

#[test]
fn what_is_no_fault_is_refused_at_construction() {
    assert_eq!(config().delay(101, LATE).err(), Some(FaultError::Percent(101)));
    assert_eq!(config().abort(255, StatusCode::BAD_GATEWAY).err(), Some(FaultError::Percent(255)));
    let ok = config().abort(1, StatusCode::OK).err();
    assert_eq!(
        (ok, FaultError::Status(StatusCode::OK).to_string().as_str()),
        (Some(FaultError::Status(StatusCode::OK)), "200 is no error")
    );
}

#[derive(Debug, Default)]
struct Told([AtomicUsize; 4]);

impl Told {
    /// Delayed, admitted, rejected, cancelled.
    fn heard(&self) -> [usize; 4] {
        [0, 1, 2, 3].map(|at| self.0[at].load(SeqCst))
    }
}

impl Observer for Told {
    fn delayed(&self) {
        self.0[0].fetch_add(1, SeqCst);
    }
    fn admitted(&self) {
        self.0[1].fetch_add(1, SeqCst);
    }
    fn rejected(&self, _: &Rejection) {
        self.0[2].fetch_add(1, SeqCst);
    }
    fn cancelled(&self) {
        self.0[3].fetch_add(1, SeqCst);
    }
}
