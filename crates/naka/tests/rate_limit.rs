//! Rate limiting beyond the laws that all layers keep.
#![allow(clippy::unwrap_used, reason = "a test may")]

use std::{
    collections::HashMap,
    net::IpAddr,
    num::NonZeroU32,
    sync::{
        Arc, Barrier, Mutex,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    task::{self, Poll},
    time::Duration,
};

use governor::{Quota as Oracle, RateLimiter, clock::FakeRelativeClock};
use http::{Request, Response};
use http_body_util::Empty;
use naka::{
    clock::Now,
    context::{ClientAddr, Context},
    enforce::Enforce,
    explain::{Explain, Finding},
    identity::{Identity, Scheme},
    key::Key,
    rate_limit::{
        Algorithm, Cell, Factor, Fields, OnMissing, Quota, RateLimitConfig, RateLimitLayer, Window, evaluate,
        migrate,
    },
    reject::{Head, Reason, Rejection},
};
use proptest::prelude::*;
use tower::{Layer, Service, ServiceExt};

type Body = Empty<bytes::Bytes>;

fn by_user(head: &Head<'_>) -> Option<Key> {
    head.headers.get("x-user").map(Key::of)
}

async fn status(layer: &RateLimitLayer, user: &str) -> u16 {
    let service =
        layer.layer(tower::service_fn(|_: Request<()>| async { Ok::<_, ()>(Response::new(Body::new())) }));
    let request = Request::builder().header("x-user", user).body(()).unwrap();
    service.oneshot(request).await.unwrap().status().as_u16()
}

fn left(layer: &RateLimitLayer, user: &str) -> Finding {
    let (mut head, ()) = Request::builder().header("x-user", user).body(()).unwrap().into_parts();
    layer.explain(Now::read(), &mut head)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn r2_7_limit_holds_exactly() {
    let layer = RateLimitLayer::new(RateLimitConfig::new(Window::per_hour(10)), by_user);
    let tasks = (0..5000).map(|_| {
        let layer = layer.clone();
        tokio::spawn(async move { status(&layer, "asha").await })
    });
    let mut counts = HashMap::new();
    for task in tasks.collect::<Vec<_>>() {
        *counts.entry(task.await.unwrap()).or_insert(0) += 1;
    }
    assert_eq!(counts, HashMap::from([(200, 10), (429, 4990)]));
    assert_eq!(status(&layer, "ravi").await, 200, "a second client is unaffected");
}

#[tokio::test(start_paused = true)]
async fn a_refused_request_consumes_nothing_of_any_window() {
    let quota = Quota::new(&[Window::per_second(3), Window::per_hour(5)]).unwrap();
    let layer = RateLimitLayer::new(RateLimitConfig::new(quota), by_user);
    for expected in [200, 200, 200, 429, 429, 429, 429] {
        assert_eq!(status(&layer, "asha").await, expected);
    }
    tokio::time::advance(Duration::from_secs(1)).await;
    for expected in [200, 200, 429] {
        assert_eq!(status(&layer, "asha").await, expected, "the hour has two left");
    }
}

#[tokio::test(start_paused = true)]
async fn reconfigured_keeps_what_was_consumed_and_an_abandoned_one_changes_nothing() {
    let hour = |count| RateLimitConfig::new(Window::per_hour(count));
    let old = RateLimitLayer::new(hour(10), by_user);
    for _ in 0..6 {
        assert_eq!(status(&old, "asha").await, 200);
    }
    drop(old.reconfigured(&hour(1)));
    assert_eq!(status(&old, "asha").await, 200, "the seventh: nobody has heard of a limit of one");
    let new = old.reconfigured(&hour(9));
    assert_eq!(left(&new, "asha"), Finding::Admit("2 of 9 left".into()), "before its first request");
    for expected in [200, 200, 429] {
        assert_eq!(status(&new, "asha").await, expected);
    }
    assert_eq!(status(&old, "asha").await, 429, "an older layer that still drains follows the newer rule");
}

#[tokio::test(start_paused = true)]
async fn a_thousand_reconfigurations_refill_nothing() {
    let config = RateLimitConfig::new(Window::per_hour(10));
    let mut layer = RateLimitLayer::new(config.clone(), by_user);
    for _ in 0..10 {
        assert_eq!(status(&layer, "asha").await, 200);
    }
    for _ in 0..1000 {
        layer = layer.reconfigured(&config);
        assert_eq!(status(&layer, "asha").await, 429);
    }
}

#[tokio::test(start_paused = true)]
async fn r2_9_the_table_is_bounded_and_a_flood_of_keys_frees_nobody() {
    let layer = RateLimitLayer::new(RateLimitConfig::new(Window::per_hour(2)).max_keys(64), by_user);
    for expected in [200, 200, 429] {
        assert_eq!(status(&layer, "abuser").await, expected);
    }
    let mut admitted = 0;
    for number in 0..20_000 {
        admitted += u32::from(status(&layer, &format!("user-{number}")).await == 200);
    }
    assert!(layer.keys() <= 64, "{} keys", layer.keys());
    assert!(admitted <= 64 * 2 + 32 * 2, "{admitted}: one allowance for each key, one more for each shard");
    assert_eq!(status(&layer, "abuser").await, 429, "an active key is never forgotten");
    tokio::time::advance(Duration::from_hours(2)).await;
    assert_eq!(status(&layer, "late").await, 200, "idle cells are taken over");
    assert!(layer.keys() <= 64);
}

#[tokio::test(start_paused = true)]
async fn what_is_without_a_key_is_as_declared() {
    let layer = |on_missing| {
        RateLimitLayer::new(RateLimitConfig::new(Window::per_hour(1)).on_missing(on_missing), |_| None)
    };
    let (shared, skip, reject) = (layer(OnMissing::Shared), layer(OnMissing::Skip), layer(OnMissing::Reject));
    assert_eq!((status(&shared, "a").await, status(&shared, "b").await), (200, 429));
    assert_eq!((status(&skip, "a").await, status(&skip, "a").await), (200, 200));
    assert_eq!(status(&reject, "a").await, 400);
    assert_eq!(left(&reject, "a"), Finding::Reject(Rejection::new(Reason::KeyMissing)));
}

#[tokio::test(start_paused = true)]
async fn several_limits_in_one_layer_all_hold_and_say_who_refused() {
    let named = |name: &str, count| {
        RateLimitLayer::new(RateLimitConfig::new(Window::per_hour(count)), by_user).named(&name.into())
    };
    let layer = [named("wide", 3), named("narrow", 1)].into_iter().collect::<RateLimitLayer>();
    assert_eq!(status(&layer, "asha").await, 200);
    let refused = Rejection::new(Reason::RateLimited).by(Some("narrow".into()));
    let Finding::Reject(said) = left(&layer, "asha") else { panic!("{:?}", left(&layer, "asha")) };
    assert_eq!((said.reason, said.policy), (refused.reason, refused.policy));
    let mut names = Vec::new();
    layer.each(&mut |limit| names.push(limit.name().map(str::to_owned)));
    assert_eq!(names, [Some("wide".to_owned()), Some("narrow".to_owned())]);
}

/// One client's refused requests are charged to nobody: they must not drain what all share.
#[tokio::test(start_paused = true)]
async fn what_one_limit_refuses_is_charged_to_no_other() {
    for is_shared_first in [true, false] {
        let shared = RateLimitLayer::new(RateLimitConfig::new(Window::per_hour(5)), |_| Some(Key::of("all")));
        let own = RateLimitLayer::new(RateLimitConfig::new(Window::per_hour(1)), by_user);
        let order = if is_shared_first { [&shared, &own] } else { [&own, &shared] };
        let both = order.into_iter().cloned().collect::<RateLimitLayer>();
        assert_eq!(status(&both, "abuser").await, 200);
        for _ in 0..50 {
            assert_eq!(status(&both, "abuser").await, 429);
        }
        assert_eq!(left(&shared, "anybody"), Finding::Admit("4 of 5 left".into()));
        for user in ["a", "b", "c", "d"] {
            assert_eq!(status(&both, user).await, 200, "{user}");
        }
        assert_eq!(status(&both, "e").await, 429, "now what all share is spent");
        assert_eq!(left(&own, "e"), Finding::Admit("1 of 1 left".into()), "and that is not charged to `e`");
    }
}

/// A limit that only observes refuses nobody, so the others are charged; each is told once.
#[tokio::test(start_paused = true)]
async fn a_limit_that_only_observes_keeps_no_other_from_counting() {
    let observing = RateLimitConfig::new(Window::per_hour(1)).enforce(Enforce::Observe);
    let observing = RateLimitLayer::new(observing, by_user);
    let share = RateLimitConfig::new(Window::per_hour(1)).enforce(Enforce::Percent(50));
    let share = RateLimitLayer::new(share, by_user);
    let real = RateLimitLayer::new(RateLimitConfig::new(Window::per_hour(3)), by_user);
    let all = [observing, share, real.clone()].into_iter().collect::<RateLimitLayer>();
    for expected in [200, 200, 429, 200, 429, 429, 429] {
        let said = left(&all, "asha");
        assert_eq!(matches!(said, Finding::Reject(_)), expected == 429, "{said:?}");
        assert_eq!(status(&all, "asha").await, expected);
    }
    assert_eq!(left(&real, "ravi"), Finding::Admit("3 of 3 left".into()));
}

async fn answer(layer: &RateLimitLayer, request: Request<()>) -> Response<Body> {
    let service =
        layer.layer(tower::service_fn(|_: Request<()>| async { Ok::<_, ()>(Response::new(Body::new())) }));
    service.oneshot(request).await.unwrap()
}

fn of_user(user: &str, cost: u32, tier: &str) -> Request<()> {
    let request = Request::builder().header("x-user", user).header("x-cost", cost);
    let mut request = request.body(()).unwrap();
    let mut identity = Identity::new(Scheme::Jwt, Some(user.into()));
    identity.roles.push(tier.into());
    Arc::new(identity).put(request.extensions_mut());
    request
}

fn cost_header(head: &Head<'_>) -> u32 {
    head.headers.get("x-cost").map_or(1, |cost| cost.to_str().unwrap().parse().unwrap())
}

fn tier_role(head: &Head<'_>) -> Option<usize> {
    let identity = Identity::of(head.extensions)?;
    ["basic", "silver", "gold"].iter().position(|tier| identity.roles.iter().any(|role| **role == **tier))
}

#[tokio::test(start_paused = true)]
async fn r2_8_a_sliding_window_admits_its_count_and_then_weighs_the_window_before() {
    let config = RateLimitConfig::new(Window::per_minute(10)).algorithm(Algorithm::SlidingWindow);
    let layer = RateLimitLayer::new(config, by_user);
    let mut passed = Vec::new();
    for step_s in [0, 59, 1, 30, 30, 60] {
        tokio::time::advance(Duration::from_secs(step_s)).await;
        let mut admitted = 0;
        while status(&layer, "asha").await == 200 {
            admitted += 1;
        }
        passed.push(admitted);
    }
    // At 0, 59, 60, 90, 120 and 180 s: half of the ten are gone at 90 s, and at 120 s weigh five of five.
    assert_eq!(passed, [10, 0, 0, 5, 5, 5]);
    let response = answer(&layer, of_user("asha", 1, "")).await;
    assert_eq!(response.headers()["retry-after"], "12", "a fifth of a minute frees one of five");
}

#[tokio::test(start_paused = true)]
async fn r2_8_passes_and_refusals_say_what_is_left() {
    let quota = Quota::new(&[Window::per_second(2), Window::per_hour(3)]).unwrap();
    let layer = RateLimitLayer::new(RateLimitConfig::new(quota).fields(Fields::Draft), by_user);
    let other = RateLimitConfig::new(Window::per_minute(60)).fields(Fields::Draft);
    let other = RateLimitLayer::new(other, |_| Some(Key::of("all"))).named(&"every \"body\"".into());
    let legacy = RateLimitConfig::new(Window::per_minute(9)).fields(Fields::Legacy);
    let quiet = RateLimitLayer::new(RateLimitConfig::new(Window::per_hour(1_000)), by_user);
    let paper = RateLimitConfig::new(Window::per_hour(1)).fields(Fields::Draft).enforce(Enforce::Observe);
    let [legacy, paper] = [legacy, paper].map(|config| RateLimitLayer::new(config, by_user));

    let response = answer(&layer, of_user("asha", 1, "")).await;
    let said = |response: &Response<Body>, name: &str| {
        let value = response.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
        value.unwrap_or_default()
    };
    let policy = r#""default-1s";q=2;w=1, "default-3600s";q=3;w=3600"#;
    assert_eq!(said(&response, "ratelimit-policy"), policy);
    assert_eq!(said(&response, "ratelimit"), r#""default-1s";r=1;t=1, "default-3600s";r=2;t=1200"#);

    let all = [quiet, layer.named(&"api".into()), paper, other, legacy].into_iter();
    let all = all.collect::<RateLimitLayer>();
    let passed = answer(&all, of_user("asha", 1, "")).await;
    assert_eq!(
        said(&passed, "ratelimit"),
        r#""api-1s";r=0;t=1, "api-3600s";r=1;t=2400, "every \"body\"";r=59;t=1"#
    );
    assert_eq!(said(&passed, "x-ratelimit-remaining"), "8");
    let refused = answer(&all, of_user("asha", 1, "")).await;
    assert_eq!(refused.status(), 429);
    assert_eq!(said(&refused, "retry-after"), "1");
    assert_eq!(said(&refused, "ratelimit"), said(&passed, "ratelimit"), "a refusal takes nothing");
    assert_eq!(
        said(&refused, "ratelimit-policy"),
        r#""api-1s";q=2;w=1, "api-3600s";q=3;w=3600, "every \"body\"";q=60;w=60"#
    );
}

#[tokio::test(start_paused = true)]
async fn fields_that_are_off_say_nothing() {
    for enforce in [Enforce::Always, Enforce::Observe, Enforce::Never] {
        let fields = if enforce == Enforce::Always { Fields::Off } else { Fields::Draft };
        let config = RateLimitConfig::new(Window::per_hour(5)).fields(fields).enforce(enforce);
        let layer = RateLimitLayer::new(config, by_user);
        assert!(answer(&layer, of_user("asha", 1, "")).await.headers().is_empty(), "{enforce:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn r2_9_a_request_may_cost_more_and_what_costs_nothing_is_not_counted() {
    for algorithm in [Algorithm::Gcra, Algorithm::SlidingWindow] {
        let config = RateLimitConfig::new(Window::per_hour(10)).algorithm(algorithm).cost(2);
        let layer = RateLimitLayer::new(config.clone(), by_user).cost_by(cost_header);
        assert_eq!(answer(&layer, of_user("asha", 7, "")).await.status(), 200);
        assert_eq!(left(&layer, "asha"), Finding::Admit("3 of 10 left".into()));
        assert_eq!(answer(&layer, of_user("asha", 4, "")).await.status(), 429);
        let never = answer(&layer, of_user("asha", 11, "")).await;
        assert_eq!((never.status().as_u16(), never.headers().get("retry-after")), (429, None), "never");
        assert_eq!(answer(&layer, of_user("asha", 3, "")).await.status(), 200);
        assert_eq!(answer(&layer, of_user("asha", 1, "")).await.status(), 429);
        assert_eq!(answer(&layer, of_user("asha", 0, "")).await.status(), 200, "free");
        assert_eq!(answer(&layer, of_user("nobody", 0, "")).await.status(), 200);
        assert_eq!(layer.keys(), 1, "what is not counted is not remembered");
        let fixed = RateLimitLayer::new(config, by_user);
        let mut passed = 0;
        while status(&fixed, "asha").await == 200 {
            passed += 1;
        }
        assert_eq!(passed, 5, "two each");
    }
}

#[tokio::test(start_paused = true)]
async fn r2_9_a_refused_request_does_not_prolong_the_penalty() {
    for algorithm in [Algorithm::Gcra, Algorithm::SlidingWindow] {
        let config = RateLimitConfig::new(Window::per_minute(6)).algorithm(algorithm);
        let (asks, waits) =
            (RateLimitLayer::new(config.clone(), by_user), RateLimitLayer::new(config, by_user));
        for layer in [&asks, &waits] {
            while status(layer, "asha").await == 200 {}
        }
        for _ in 0..1000 {
            assert_eq!(status(&asks, "asha").await, status(&waits, "asha").await);
            assert_eq!(left(&asks, "asha"), left(&waits, "asha"));
            for _ in 0..5 {
                if matches!(left(&asks, "asha"), Finding::Reject(_)) {
                    assert_eq!(status(&asks, "asha").await, 429);
                }
            }
            tokio::time::advance(Duration::from_millis(777)).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn r2_9_costs_are_charged_to_all_limits_or_to_none() {
    let hour = |count| RateLimitLayer::new(RateLimitConfig::new(Window::per_hour(count)), by_user);
    let (calls, weight) = (hour(3), hour(10).cost_by(cost_header));
    let both = [calls.clone(), weight.clone()].into_iter().collect::<RateLimitLayer>();
    for (cost, expected) in [(6, 200), (6, 429), (11, 429), (4, 200), (1, 429), (0, 200), (0, 429)] {
        assert_eq!(answer(&both, of_user("asha", cost, "")).await.status(), expected, "{cost}");
    }
    assert!(matches!(left(&calls, "asha"), Finding::Reject(_)), "three passed");
}

#[tokio::test(start_paused = true)]
async fn r2_10_a_tier_multiplies_and_its_change_refills_nobody() {
    let tiers = [20, 200, 500].map(Factor::percent);
    let config = |algorithm| RateLimitConfig::new(Window::per_hour(10)).algorithm(algorithm).tiers(tiers);
    for algorithm in [Algorithm::Gcra, Algorithm::SlidingWindow] {
        let layer = RateLimitLayer::new(config(algorithm), by_user).tier_by(tier_role);
        for (tier, expected) in [("basic", 2), ("silver", 20), ("gold", 50), ("unknown", 10)] {
            let mut passed = 0;
            while answer(&layer, of_user(tier, 1, tier)).await.status() == 200 {
                passed += 1;
            }
            assert_eq!(passed, expected, "{tier}");
        }
        // Half of what is usual, then another tier: half of it is spent, or as many requests are.
        for _ in 0..5 {
            assert_eq!(answer(&layer, of_user("asha", 1, "unknown")).await.status(), 200);
        }
        let mut passed = 0;
        while answer(&layer, of_user("asha", 1, "gold")).await.status() == 200 {
            passed += 1;
        }
        assert_eq!(passed, if algorithm == Algorithm::Gcra { 25 } else { 45 });
        for tier in ["unknown", "silver", "gold", "basic"] {
            assert_eq!(answer(&layer, of_user("asha", 1, tier)).await.status(), 429, "{algorithm:?} {tier}");
        }
        // And another algorithm, for whoever has spent all that a tier has.
        let other = if algorithm == Algorithm::Gcra { Algorithm::SlidingWindow } else { Algorithm::Gcra };
        let layer = layer.reconfigured(&config(other));
        for tier in ["gold", "silver", "unknown", "basic"] {
            assert_eq!(answer(&layer, of_user("asha", 1, tier)).await.status(), 429, "{other:?} {tier}");
        }
    }
}

/// Fields of the request say who somebody would like to be.
#[tokio::test(start_paused = true)]
async fn r2_10_no_header_changes_the_key_or_the_tier() {
    let by_address = |head: &Head<'_>| ClientAddr::of(head.extensions).map(Key::of_client);
    let by_subject = |head: &Head<'_>| Identity::of(head.extensions)?.subject.as_ref().map(Key::of);
    let config = RateLimitConfig::new(Window::per_hour(3)).tiers([100, 1000, 1000].map(Factor::percent));
    let layers: [RateLimitLayer; 2] = [
        RateLimitLayer::new(config.clone(), by_address).tier_by(tier_role),
        RateLimitLayer::new(config, by_subject).tier_by(tier_role),
    ];
    for layer in layers {
        let mut passed = 0;
        for number in 0..50 {
            let mut request = of_user("asha", 1, "basic");
            request.extensions_mut().insert(ClientAddr(IpAddr::from([192, 0, 2, 1])));
            let spoofed = format!("198.51.100.{number}");
            for name in ["x-forwarded-for", "forwarded", "x-real-ip", "x-user", "authorization"] {
                request.headers_mut().insert(name, spoofed.parse().unwrap());
            }
            request.headers_mut().insert("x-tier", "gold".parse().unwrap());
            passed += u32::from(answer(&layer, request).await.status() == 200);
        }
        assert_eq!((passed, layer.keys()), (3, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn another_algorithm_and_back_refills_nobody() {
    let config = |algorithm| RateLimitConfig::new(Window::per_hour(10)).algorithm(algorithm);
    for start in [Algorithm::Gcra, Algorithm::SlidingWindow] {
        let other = if start == Algorithm::Gcra { Algorithm::SlidingWindow } else { Algorithm::Gcra };
        let mut layer = RateLimitLayer::new(config(start), by_user);
        for _ in 0..4 {
            assert_eq!(status(&layer, "asha").await, 200);
        }
        layer = layer.reconfigured(&config(other));
        assert_eq!(left(&layer, "asha"), Finding::Admit("6 of 10 left".into()), "before its first request");
        for _ in 0..4 {
            assert_eq!(status(&layer, "asha").await, 200);
        }
        layer = layer.reconfigured(&config(start));
        assert_eq!(left(&layer, "asha"), Finding::Admit("2 of 10 left".into()));
        for expected in [200, 200, 429] {
            assert_eq!(status(&layer, "asha").await, expected);
        }
        for _ in 0..100 {
            for algorithm in [other, start] {
                layer = layer.reconfigured(&config(algorithm));
                assert_eq!(status(&layer, "asha").await, 429);
            }
        }
        tokio::time::advance(Duration::from_hours(2)).await;
        assert_eq!(left(&layer, "asha"), Finding::Admit("10 of 10 left".into()), "two periods later");
    }
}

/// What was admitted: key, time in microseconds, cost.
type Log = Vec<(u64, u64, u64)>;

const PERIOD_US: u64 = 100_000;
const COUNT: u64 = 20;

/// Real threads ask as their common clock goes on, while another one reconfigures.
fn sixty_four_threads(algorithm: Algorithm, keys: u64, most: u64, seed: u64) -> Log {
    let window = Window::new(NonZeroU32::new(20).unwrap(), Duration::from_micros(PERIOD_US));
    let both = Quota::new(&[window, Window::per_hour(1_000_000)]).unwrap();
    let [one, both] = [window.into(), both].map(|it: Quota| RateLimitConfig::new(it).algorithm(algorithm));
    let newest = Mutex::new(RateLimitLayer::new(one.clone(), by_user).cost_by(cost_header));
    let (start, begin) = (Now::read().instant(), Barrier::new(65));
    let (clock_us, log) = (AtomicU64::new(0), Mutex::new(Log::new()));
    let ask = |random: &mut Random| {
        let (key, cost) = (random.below(keys), random.below(most) + 1);
        let now_us = clock_us.fetch_add(random.below(60), SeqCst);
        let layer = newest.lock().unwrap().clone();
        if random.below(5) == 0 {
            std::thread::yield_now(); // With an old reading of the clock, and an old layer.
        }
        let request = Request::builder().header("x-user", key).header("x-cost", cost);
        let mut request = request.body(()).unwrap();
        let now = Now::from(start + Duration::from_micros(now_us));
        request.extensions_mut().insert(Context::new(now));
        let answer = |_: Request<()>| std::future::ready(Ok::<_, ()>(Response::new(Body::new())));
        let mut call = std::pin::pin!(layer.layer(tower::service_fn(answer)).call(request));
        let mut cx = task::Context::from_waker(task::Waker::noop());
        let Poll::Ready(Ok(response)) = call.as_mut().poll(&mut cx) else { panic!("it is ready") };
        (response.status() == 200).then_some((key, now_us, cost))
    };
    std::thread::scope(|scope| {
        let (ask, begin, log, newest) = (&ask, &begin, &log, &newest);
        for thread in 0..64 {
            scope.spawn(move || {
                let mut random = Random(seed ^ (thread + 1) << 32 | 1);
                begin.wait();
                let mine = (0..120).filter_map(|_| ask(&mut random)).collect::<Vec<_>>();
                log.lock().unwrap().extend(mine);
            });
        }
        begin.wait();
        for config in [both, one].iter().cycle().take(400) {
            let next = newest.lock().unwrap().reconfigured(config);
            *newest.lock().unwrap() = next;
            std::thread::yield_now();
        }
    });
    log.into_inner().unwrap()
}

/// A small generator (xorshift64) with a seed.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

#[test]
fn r2_7_no_interleaving_of_64_threads_admits_more_than_burst_and_rate() {
    for (seed, keys, most) in [(1, 1, 1), (2, 1, 4), (3, 5, 1), (4, 5, 4), (5, 1, 20)] {
        for algorithm in [Algorithm::Gcra, Algorithm::SlidingWindow] {
            let mut by_key = HashMap::<u64, Vec<(u64, u64)>>::new();
            for (key, now_us, cost) in sixty_four_threads(algorithm, keys, most, seed) {
                by_key.entry(key).or_default().push((now_us, cost));
            }
            assert_eq!(by_key.len() as u64, keys, "nobody is starved");
            for mut log in by_key.into_values() {
                log.sort_unstable();
                let all: u64 = log.iter().map(|(_, cost)| cost).sum();
                assert!(all > COUNT, "{algorithm:?} {seed}: {all} is no test of what comes back");
                for (first, (from, _)) in log.iter().enumerate() {
                    let (mut passed, mut in_window) = (0, 0);
                    for (to, cost) in &log[first..] {
                        passed += cost;
                        assert!(
                            passed <= COUNT + (to - from) * COUNT / PERIOD_US,
                            "{algorithm:?} {seed}: {passed} in {} us",
                            to - from
                        );
                        in_window += if to / PERIOD_US == from / PERIOD_US { *cost } else { 0 };
                    }
                    assert!(algorithm == Algorithm::Gcra || in_window <= COUNT, "{seed}: {in_window}");
                }
            }
        }
    }
}

proptest! {
    /// governor is the oracle: verdict and wait to the nanosecond, on random quotas and arrivals.
    #[test]
    fn our_gcra_agrees_with_governor(
        interval_ns in 1_u64..5_000_000_000,
        burst in 1_u32..20,
        steps in prop::collection::vec(0_u64..10_000_000_000, 1..200),
    ) {
        let period = Duration::from_nanos(interval_ns);
        let burst = NonZeroU32::new(burst).unwrap();
        let clock = FakeRelativeClock::default();
        let quota = Oracle::with_period(period).unwrap().allow_burst(burst);
        let oracle = RateLimiter::direct_with_clock(quota, clock.clone());
        let ours = Quota::from(Window::new(NonZeroU32::MIN, period).burst(burst));
        let (mut cell, mut now_ns) = (Cell::default(), 0);
        for step in steps {
            let step = step % (2 * interval_ns);
            now_ns += step;
            clock.advance(Duration::from_nanos(step));
            let theirs = oracle.check().map_err(|not_until| {
                not_until.wait_time_from(governor::clock::Clock::now(&clock))
            });
            let (mine, next) = evaluate(&ours, &cell, 1, now_ns);
            prop_assert_eq!(mine.map(drop).map_err(Option::unwrap), theirs);
            cell = next;
        }
    }

    /// In any stretch of time no window admits more than its burst and what its rate yields, and the
    /// wait that is announced is exact.
    #[test]
    fn no_window_ever_admits_more_than_it_says(
        windows in prop::collection::vec((1_u32..50, 1_u64..100, 1_u32..50), 1..=4),
        steps in prop::collection::vec(0_u64..5_000_000_000, 1..300),
    ) {
        let quota = windows.iter().map(|&(count, secs, burst)| {
            Window::new(count.try_into().unwrap(), Duration::from_secs(secs)).burst(burst.try_into().unwrap())
        });
        let quota = Quota::new(&quota.collect::<Vec<_>>()).unwrap();
        let (mut cell, mut now_ns, mut admitted) = (Cell::default(), 0_u64, Vec::new());
        for step in steps {
            now_ns += step;
            match evaluate(&quota, &cell, 1, now_ns) {
                (Ok(_), next) => {
                    admitted.push(now_ns);
                    cell = next;
                }
                (Err(wait), same) => {
                    prop_assert_eq!(same, cell);
                    let then_ns = now_ns + u64::try_from(wait.unwrap().as_nanos()).unwrap();
                    prop_assert!(evaluate(&quota, &cell, 1, then_ns).0.is_ok());
                    prop_assert!(evaluate(&quota, &cell, 1, then_ns - 1).0.is_err());
                }
            }
        }
        for (first, from) in admitted.iter().enumerate() {
            for (last, to) in admitted.iter().enumerate().skip(first) {
                let passed = (last - first + 1) as u128;
                for &(count, secs, burst) in &windows {
                    let yielded = u128::from(to - from) * u128::from(count) / (u128::from(secs) * 1_000_000_000);
                    prop_assert!(passed <= u128::from(burst) + yielded);
                }
            }
        }
    }

    /// A sliding window admits at most its count in each window, and in any stretch of time `t` at most
    /// `count + count * t / per`; with costs; and the wait that is announced is exact.
    #[test]
    fn no_sliding_window_ever_admits_more_than_it_says(
        count in 1_u32..40,
        per_ns in 1_u64..2_000_000_000,
        steps in prop::collection::vec((0_u64..1_000, 1_u32..6), 1..200),
    ) {
        let window = Window::new(count.try_into().unwrap(), Duration::from_nanos(per_ns));
        let quota = Quota::from(window).algorithm(Algorithm::SlidingWindow);
        let count = u64::from(quota.burst()); // Of some nanoseconds a word counts less.
        let (mut cell, mut now_ns, mut admitted) = (Cell::default(), 0_u64, Vec::new());
        for (step, cost) in steps {
            now_ns += per_ns * step / 2_000;
            match evaluate(&quota, &cell, cost, now_ns) {
                (Ok(left), next) => {
                    admitted.push((now_ns, u64::from(cost)));
                    cell = next;
                    let left = u32::try_from(left).unwrap();
                    prop_assert!(left == 0 || evaluate(&quota, &cell, left, now_ns).0.is_ok());
                    prop_assert!(evaluate(&quota, &cell, left + 1, now_ns).0.is_err());
                }
                (Err(None), same) => prop_assert!(same == cell && u64::from(cost) > count),
                (Err(Some(wait)), same) => {
                    prop_assert_eq!(same, cell);
                    let then_ns = now_ns + u64::try_from(wait.as_nanos()).unwrap();
                    prop_assert!(evaluate(&quota, &cell, cost, then_ns).0.is_ok());
                    prop_assert!(evaluate(&quota, &cell, cost, then_ns - 1).0.is_err());
                    // It is back when the fields say so.
                    let standing = quota.standing(&cell, now_ns).next().unwrap();
                    prop_assert!(standing.reset >= wait || standing.left > 0);
                }
            }
        }
        for (first, (from, _)) in admitted.iter().enumerate() {
            let (mut passed, mut in_window) = (0, 0);
            for (to, cost) in &admitted[first..] {
                passed += cost;
                in_window += if to / per_ns == from / per_ns { *cost } else { 0 };
                let yielded = u128::from(to - from) * u128::from(count) / u128::from(per_ns);
                prop_assert!(u128::from(passed) <= u128::from(count) + yielded);
                prop_assert!(in_window <= count);
            }
        }
    }

    /// A cost of `n` is `n` requests at once: the same verdict, the same cell.
    #[test]
    fn a_cost_is_so_many_requests_at_once(
        is_sliding in any::<bool>(),
        steps in prop::collection::vec((0_u64..400_000_000, 1_u32..8), 1..60),
    ) {
        let algorithm = if is_sliding { Algorithm::SlidingWindow } else { Algorithm::Gcra };
        let quota = Quota::new(&[Window::per_second(10), Window::per_minute(50)]).unwrap().algorithm(algorithm);
        let (mut at_once, mut one_by_one, mut now_ns) = (Cell::default(), Cell::default(), 0);
        for (step, cost) in steps {
            now_ns += step;
            let (said, next) = evaluate(&quota, &at_once, cost, now_ns);
            let mut each = one_by_one;
            let mut all_ok = true;
            for _ in 0..cost {
                let (said, next) = evaluate(&quota, &each, 1, now_ns);
                all_ok &= said.is_ok();
                each = next;
            }
            prop_assert_eq!(said.is_ok(), all_ok);
            at_once = next;
            one_by_one = if all_ok { each } else { one_by_one };
            prop_assert_eq!(at_once, one_by_one);
        }
    }

    /// Whatever the quotas and the algorithms, a migration gives nobody more than the new quota would have,
    /// had it counted the same requests.
    #[test]
    fn migrating_never_refills(
        old in (1_u32..30, 1_u64..100, any::<bool>()),
        new in (1_u32..30, 1_u64..100, any::<bool>()),
        consumed in 0_u32..40,
        at_ns in 0_u64..1_000_000_000_000,
    ) {
        let quota = |(count, per_s, is_sliding): (u32, u64, bool)| {
            let algorithm = if is_sliding { Algorithm::SlidingWindow } else { Algorithm::Gcra };
            let window = Window::new(count.try_into().unwrap(), Duration::from_secs(per_s));
            Quota::from(window).algorithm(algorithm)
        };
        let (old, new) = (quota(old), quota(new));
        let (mut cell, mut passed) = (Cell::default(), 0);
        for _ in 0..consumed {
            let (said, next) = evaluate(&old, &cell, 1, at_ns);
            cell = next;
            passed += u32::from(said.is_ok());
        }
        let mut carried = migrate(&old, &new, &cell, at_ns);
        let mut more = 0;
        while let (Ok(_), next) = evaluate(&new, &carried, 1, at_ns) {
            carried = next;
            more += 1;
        }
        prop_assert_eq!(more, new.burst().saturating_sub(passed), "{} of {}", passed, new.burst());
    }
}
