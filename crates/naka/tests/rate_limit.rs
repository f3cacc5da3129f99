//! Rate limiting beyond the laws that all layers keep.
#![allow(clippy::unwrap_used, reason = "a test may")]

use std::{collections::HashMap, num::NonZeroU32, time::Duration};

use governor::{Quota as Oracle, RateLimiter, clock::FakeRelativeClock};
use http::{Request, Response};
use http_body_util::Empty;
use naka::{
    clock::Now,
    enforce::Enforce,
    explain::{Explain, Finding},
    key::Key,
    rate_limit::{Cell, OnMissing, Quota, RateLimitConfig, RateLimitLayer, Window, evaluate},
    reject::{Head, Reason, Rejection},
};
use proptest::prelude::*;
use tower::{Layer, ServiceExt};

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
            let (mine, next) = evaluate(&ours, &cell, now_ns);
            prop_assert_eq!(mine.map(drop), theirs);
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
            match evaluate(&quota, &cell, now_ns) {
                (Ok(_), next) => {
                    admitted.push(now_ns);
                    cell = next;
                }
                (Err(wait), same) => {
                    prop_assert_eq!(same, cell);
                    let then_ns = now_ns + u64::try_from(wait.as_nanos()).unwrap();
                    prop_assert!(evaluate(&quota, &cell, then_ns).0.is_ok());
                    prop_assert!(evaluate(&quota, &cell, then_ns - 1).0.is_err());
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
}
