//! State that is taken out of one process goes on in another: here, out of one layer and into another.

use std::{convert::Infallible, sync::Arc, time::Duration};

use http::{Request, Response, StatusCode};
use naka::{
    balance::{BalanceConfig, BalanceLayer, Policy},
    budget::{Balance, Budget, BudgetConfig},
    circuit_breaker::{CircuitBreakerConfig, CircuitBreakerLayer, Counts, EndpointBreakers, Phase, Window},
    clock::Now,
    key::Key,
    rate_limit::{Algorithm, RateLimitConfig, RateLimitLayer, Window as Rate},
    reject::Head,
    saved::Unfit,
};
use tokio::time::{advance, sleep};
use tower::{Layer, ServiceExt, service_fn};

const S: Duration = Duration::from_secs(1);

fn by_client(head: &Head<'_>) -> Option<Key> {
    head.headers.get("client").map(Key::of)
}

async fn ask<L, S>(layer: &L, client: &str) -> StatusCode
where
    L: Layer<tower::util::BoxCloneSyncService<Request<()>, Response<String>, Infallible>, Service = S>,
    S: tower::Service<Request<()>, Error = Infallible>,
    S::Response: StatusOf,
{
    let upstream = service_fn(|request: Request<()>| async move {
        let fails = request.headers().contains_key("fails");
        let status = if fails { StatusCode::INTERNAL_SERVER_ERROR } else { StatusCode::OK };
        let mut response = Response::new(String::new());
        *response.status_mut() = status;
        Ok(response)
    });
    let service = layer.layer(tower::util::BoxCloneSyncService::new(upstream));
    let (client, fails) = client.split_once(' ').map_or((client, false), |(client, _)| (client, true));
    let mut request = Request::builder().header("client", client);
    if fails {
        request = request.header("fails", "yes");
    }
    service.oneshot(request.body(()).expect("it is a request")).await.expect("it cannot fail").status_of()
}

trait StatusOf {
    fn status_of(self) -> StatusCode;
}

impl<B> StatusOf for Response<B> {
    fn status_of(self) -> StatusCode {
        self.status()
    }
}

#[tokio::test(start_paused = true)]
async fn a_spent_limit_stays_spent_and_time_goes_by_in_between() {
    for algorithm in [Algorithm::Gcra, Algorithm::SlidingWindow] {
        let config = RateLimitConfig::new(Rate::per_minute(3)).algorithm(algorithm);
        let old = RateLimitLayer::new(config.clone(), by_client);
        sleep(7 * S).await;
        for _ in 0..3 {
            assert_eq!(ask(&old, "asha").await, 200);
        }
        assert_eq!(ask(&old, "asha").await, 429);
        let saved = old.save(Now::read());
        for age in [Duration::ZERO, 15 * S] {
            let new = RateLimitLayer::new(config.clone(), by_client);
            new.restore(&saved, age, Now::read()).unwrap();
            assert_eq!(ask(&new, "asha").await, 429, "{algorithm:?} {age:?}");
            assert_eq!(ask(&new, "ravi").await, 200);
            assert_eq!(new.restore(&saved, age, Now::read()), Err(Unfit::NotNew));
        }
        let much_later = RateLimitLayer::new(config.clone(), by_client);
        much_later.restore(&saved, 120 * S, Now::read()).unwrap();
        assert_eq!(ask(&much_later, "asha").await, 200, "{algorithm:?}");
        let other = RateLimitLayer::new(config.clone(), by_client);
        let two = [other.clone(), old.clone()].into_iter().collect::<RateLimitLayer>();
        assert_eq!(two.restore(&saved, S, Now::read()), Err(Unfit::Other), "it is of one limit");
    }
}

/// What was allowed under a quota counts under the next one, as after a reload.
#[tokio::test(start_paused = true)]
async fn another_quota_goes_on_with_what_was_spent() {
    let old = RateLimitLayer::new(RateLimitConfig::new(Rate::per_minute(10)), by_client);
    for _ in 0..5 {
        assert_eq!(ask(&old, "asha").await, 200);
    }
    let saved = old.save(Now::read());
    let new = RateLimitLayer::new(RateLimitConfig::new(Rate::per_minute(6)), by_client);
    new.restore(&saved, Duration::ZERO, Now::read()).unwrap();
    assert_eq!(ask(&new, "asha").await, 200);
    assert_eq!(ask(&new, "asha").await, 429);
    assert!(new.refill() >= Duration::from_mins(1), "what it was before may come back");
}

/// However many there are, those with the most history, as if all had been taken and looked through.
#[tokio::test(start_paused = true)]
async fn of_many_keys_so_many_are_saved() {
    let old = RateLimitLayer::new(RateLimitConfig::new(Rate::per_minute(100)), by_client);
    for number in 0..300_u32 {
        for _ in 0..=(number % 3) {
            assert_eq!(ask(&old, &number.to_string()).await, 200);
        }
    }
    let mut all = old.save(Now::read());
    assert_eq!(all[0].keys(), 300);
    all[0].shorten(100);
    assert_eq!(old.save_most(100, Now::read()), (all, 200));
    let (none, left_out) = old.save_most(0, Now::read());
    assert_eq!((none[0].keys(), left_out), (0, 300));
}

#[tokio::test(start_paused = true)]
async fn an_open_breaker_stays_open_for_the_rest_of_its_time() {
    let config = CircuitBreakerConfig::new().consecutive(2).open(30 * S, 30 * S).probes(1, 1);
    let old = CircuitBreakerLayer::new(config);
    sleep(5 * S).await;
    for _ in 0..2 {
        assert_eq!(ask(&old, "asha fails").await, 500);
    }
    assert_eq!(ask(&old, "asha").await, 503);
    let saved = old.save(Now::read()).unwrap();
    let new = CircuitBreakerLayer::new(config);
    new.restore(&saved, 10 * S, Now::read()).unwrap();
    let left = |layer: &CircuitBreakerLayer| layer.breaker().unwrap().snapshot(Now::read()).left;
    assert_eq!((ask(&new, "asha").await, left(&new)), (StatusCode::SERVICE_UNAVAILABLE, Some(20 * S)));
    advance(20 * S).await;
    assert_eq!(ask(&new, "asha").await, 200, "a probe");
    assert_eq!(new.breaker().unwrap().snapshot(Now::read()).phase, Phase::Closed);
    assert_eq!(new.restore(&saved, S, Now::read()), Err(Unfit::NotNew));
    assert_eq!(CircuitBreakerLayer::<()>::off().restore(&saved, S, Now::read()), Err(Unfit::NotNew));
}

/// A probe that another process let in is heard of by nobody here: its place is free.
#[tokio::test(start_paused = true)]
async fn half_open_it_probes_anew_and_keeps_what_went_well() {
    let config = CircuitBreakerConfig::new().consecutive(1).open(S, S).probes(1, 2);
    let old = CircuitBreakerLayer::new(config);
    assert_eq!(ask(&old, "asha fails").await, 500);
    advance(S).await;
    assert_eq!(ask(&old, "asha").await, 200, "the first of two successes");
    let at_work = old.breaker().unwrap().enter(Now::read()).unwrap();
    let saved = old.save(Now::read()).unwrap();
    let new = CircuitBreakerLayer::new(config);
    new.restore(&saved, Duration::ZERO, Now::read()).unwrap();
    let known = new.breaker().unwrap().snapshot(Now::read());
    assert_eq!((known.phase, known.probes, known.successes), (Phase::HalfOpen, 0, 1));
    assert_eq!(ask(&new, "asha").await, 200, "the second");
    assert_eq!(new.breaker().unwrap().snapshot(Now::read()).phase, Phase::Closed);
    drop(at_work);
}

#[tokio::test(start_paused = true)]
async fn a_window_goes_on_if_it_has_the_same_shape_and_what_was_forced_stays() {
    for window in [Window::Count(20), Window::Time(20 * S)] {
        let config = CircuitBreakerConfig::new().consecutive(0).failure_rate(50).window(window, 4);
        // Another window before this one: its words are marked otherwise.
        let first = CircuitBreakerLayer::new(config.window(Window::Count(77), 4));
        let old = first.reconfigured(&config);
        for client in ["asha fails", "asha", "asha fails"] {
            ask(&old, client).await;
        }
        let saved = old.save(Now::read()).unwrap();
        let new = CircuitBreakerLayer::new(config);
        new.restore(&saved, S, Now::read()).unwrap();
        let counts = |layer: &CircuitBreakerLayer| layer.breaker().unwrap().snapshot(Now::read()).counts;
        let Counts { total, failed, .. } = counts(&new);
        assert_eq!((total, failed), (3, 2), "{window:?}");
        ask(&new, "asha fails").await;
        assert_eq!(ask(&new, "asha").await, 503, "three of four, {window:?}");
        let other = CircuitBreakerLayer::new(config.window(Window::Count(40), 4));
        other.restore(&saved, S, Now::read()).unwrap();
        assert_eq!(counts(&other), Counts::default(), "another window is empty");

        old.breaker().unwrap().force_open();
        let new = CircuitBreakerLayer::new(config);
        new.restore(&old.save(Now::read()).unwrap(), S, Now::read()).unwrap();
        assert_eq!(new.breaker().unwrap().snapshot(Now::read()).phase, Phase::ForcedOpen);
    }
}

#[tokio::test(start_paused = true)]
async fn breakers_of_keys_are_restored_those_first_that_are_open() {
    let config = CircuitBreakerConfig::new().consecutive(2).open(60 * S, 60 * S);
    let old = CircuitBreakerLayer::keyed(config, by_client);
    for number in 0..200 {
        let client = format!("{number}");
        ask(&old, &format!("{client} fails")).await;
        if number % 4 == 0 {
            ask(&old, &format!("{client} fails")).await;
        }
    }
    let idle = ask(&old, "idle").await;
    assert_eq!((idle, old.keys()), (StatusCode::OK, (201, 50)));
    let mut saved = old.save(Now::read()).unwrap();
    let new = CircuitBreakerLayer::keyed(config, by_client);
    new.restore(&saved, S, Now::read()).unwrap();
    assert_eq!(new.keys().1, 50);
    assert_eq!(
        (ask(&new, "4").await, ask(&new, "5").await),
        (StatusCode::SERVICE_UNAVAILABLE, StatusCode::OK)
    );
    let (few, left_out) = old.save_most(50, Now::read()).unwrap();
    let gone = saved.shorten(50);
    assert_eq!((few.cells.len(), left_out), (51, gone), "the same, and never all at once");
    let open = |saved: &naka::circuit_breaker::Saved| {
        saved.cells.iter().filter_map(|cell| cell.key).collect::<std::collections::BTreeSet<_>>()
    };
    assert_eq!(open(&few), open(&saved));
    assert!(gone >= 150, "{gone}");
    let short = CircuitBreakerLayer::keyed(config, by_client);
    short.restore(&saved, S, Now::read()).unwrap();
    assert_eq!(short.keys(), (50, 50));
    let without_keys = CircuitBreakerLayer::new(config);
    assert_eq!(without_keys.restore(&saved, S, Now::read()), Err(Unfit::Other));
}

#[tokio::test(start_paused = true)]
async fn breakers_of_endpoints_are_restored_before_and_after_a_balancer_asks() {
    let config = CircuitBreakerConfig::new().consecutive(1).open(60 * S, 60 * S);
    let old = EndpointBreakers::new(config);
    let addresses = ["10.0.0.1:80", "10.0.0.2:80"].map(Arc::<str>::from);
    for address in &addresses {
        drop(old.gate(address));
    }
    old.breaker(&addresses[0]).unwrap().force_open();
    old.breaker(&addresses[1]).unwrap().force_close();
    let saved = old.save(Now::read());
    let new = EndpointBreakers::new(config);
    let _held = new.gate(&addresses[0]);
    for (address, saved) in &saved {
        new.restore(address, saved, S, Now::read()).unwrap();
    }
    let phase = |address: &str| new.breaker(address).unwrap().snapshot(Now::read()).phase;
    assert_eq!((phase("10.0.0.1:80"), phase("10.0.0.2:80")), (Phase::ForcedOpen, Phase::ForcedClosed));
    let _asked = new.gate(&addresses[1]);
    assert_eq!(phase("10.0.0.2:80"), Phase::ForcedClosed, "it waited for whoever asks");
}

#[tokio::test(start_paused = true)]
async fn a_budget_is_spent_as_far_as_it_was() {
    let config = BudgetConfig::new().percent(20).min_per_second(0);
    let old = Budget::new(config, Now::read());
    advance(3 * S).await;
    (0..100).for_each(|_| old.deposit(Now::read()));
    assert!((0..15).all(|_| old.withdraw(Now::read())));
    let saved = old.save(Now::read());
    let new = Budget::new(config, Now::read());
    new.restore(&saved, 2 * S, Now::read()).unwrap();
    assert_eq!(new.balance(Now::read()), Balance { spent: 15, allowed: 20 });
    assert_eq!(new.restore(&saved, S, Now::read()), Err(Unfit::NotNew));
    let later = Budget::new(config, Now::read());
    later.restore(&saved, 20 * S, Now::read()).unwrap();
    assert_eq!(later.balance(Now::read()), Balance { spent: 0, allowed: 0 });
    let longer = Budget::new(config.window(60 * S), Now::read());
    assert_eq!(longer.restore(&saved, S, Now::read()), Err(Unfit::Other));
}

#[tokio::test(start_paused = true)]
async fn a_balancer_knows_how_long_endpoints_take() {
    let config = || BalanceConfig::new(Policy::PeakEwma);
    let old = BalanceLayer::with_config(config(), ["10.0.0.1:80"]);
    let slow = service_fn(|_: Request<()>| async {
        sleep(3 * S).await;
        Ok::<_, Infallible>(Response::new(String::new()))
    });
    drop(old.layer(slow).oneshot(Request::new(())).await);
    let saved = old.save(Now::read()).unwrap();
    let new = BalanceLayer::with_config(config(), ["10.0.0.2:80", "10.0.0.1:80"]);
    new.restore(&saved, S, Now::read()).unwrap();
    let known = new.endpoints().iter().map(naka::balance::Endpoint::latency).collect::<Vec<_>>();
    assert_eq!(known, [None, Some(3 * S)]);
    assert_eq!(new.restore(&saved, S, Now::read()), Err(Unfit::NotNew));
    assert_eq!(BalanceLayer::<()>::off().restore(&saved, S, Now::read()), Err(Unfit::NotNew));
}
