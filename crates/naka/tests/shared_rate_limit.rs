//! Limits that several nodes share: what they admit together, and what becomes of it when the store is slow, fails,
//! forgets, or who asks goes away.
#![allow(clippy::unwrap_used, reason = "a test may")]

use std::{
    future::pending,
    num::NonZeroU32,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    time::Duration,
};

use http::{Request, Response};
use http_body_util::Empty;
use naka::{
    clock::Now,
    explain::{Explain, Finding},
    key::{KeyBuilder, KeySecret},
    rate_limit::{
        Factor, Fields, Quota, RateLimitConfig, RateLimitLayer, Window,
        shared::{
            Account, Answer, Ask, Asked, InMemory, OnFailure, Shape, SharedStore, Sharing, Store, Unanswered,
            take,
        },
    },
    reject::{Dependency, Head, Rejection},
};
use proptest::prelude::*;
use tokio::time::{advance, sleep};
use tower::{Layer, ServiceExt};

const TIMEOUT: Duration = Duration::from_millis(50);

/// A store that may be slow, fail, or say nothing, and counts.
#[derive(Debug, Default)]
struct Fake {
    inner: InMemory,
    mood: Mutex<Mood>,
    asked: AtomicU32,
    last: Mutex<Option<Ask>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Mood {
    #[default]
    Well,
    /// Answers after so many milliseconds.
    Slow(u64),
    /// Takes, and does not answer.
    Mute,
    Fails,
}

impl Fake {
    fn is(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    fn asked(&self) -> u32 {
        self.asked.swap(0, SeqCst)
    }

    fn last(&self) -> Ask {
        self.last.lock().unwrap().take().unwrap()
    }
}

impl Store for Handle {
    fn ask(&self, ask: Ask) -> Asked {
        let fake = Arc::clone(&self.0);
        fake.asked.fetch_add(1, SeqCst);
        *fake.last.lock().unwrap() = Some(ask.clone());
        let mood = *fake.mood.lock().unwrap();
        Box::pin(async move {
            match mood {
                Mood::Well => fake.inner.answer(&ask),
                Mood::Slow(ms) => {
                    let answer = fake.inner.answer(&ask);
                    sleep(Duration::from_millis(ms)).await;
                    answer
                }
                Mood::Mute => {
                    _ = fake.inner.answer(&ask);
                    pending().await
                }
                Mood::Fails => Err(Unanswered::Failed),
            }
        })
    }
}

/// The store as a layer has it; the test keeps the other handle.
#[derive(Debug)]
struct Handle(Arc<Fake>);

fn by_user(head: &Head<'_>) -> Option<naka::key::Key> {
    let user = head.headers.get("x-user")?;
    Some(KeyBuilder::with(KeySecret::new(*b"the same for all")).part(user).finish())
}

fn sharing(fake: &Arc<Fake>, share: u32) -> Sharing {
    Sharing::new(SharedStore::new(Arc::new(Handle(Arc::clone(fake))), TIMEOUT), share)
}

fn node(config: &RateLimitConfig, sharing: &Sharing) -> RateLimitLayer {
    RateLimitLayer::new(config.clone(), by_user).named(&"api".into()).shared(sharing)
}

fn nodes(
    count: usize,
    quota: impl Into<Quota>,
    fake: &Arc<Fake>,
    of: impl Fn(Sharing) -> Sharing,
) -> Vec<RateLimitLayer> {
    let config = RateLimitConfig::new(quota);
    (0..count).map(|_| node(&config, &of(sharing(fake, 34)))).collect()
}

async fn send(layer: &RateLimitLayer, user: &str) -> Response<Empty<bytes::Bytes>> {
    let service =
        layer.layer(tower::service_fn(|_: Request<()>| async { Ok::<_, ()>(Response::new(Empty::new())) }));
    service.oneshot(Request::builder().header("x-user", user).body(()).unwrap()).await.unwrap()
}

async fn status(layer: &RateLimitLayer, user: &str) -> u16 {
    send(layer, user).await.status().as_u16()
}

async fn admitted(layer: &RateLimitLayer, user: &str, requests: usize) -> usize {
    let mut admitted = 0;
    for _ in 0..requests {
        admitted += usize::from(status(layer, user).await == 200);
    }
    admitted
}

fn said(layer: &RateLimitLayer, user: &str) -> Finding {
    let (mut head, ()) = Request::builder().header("x-user", user).body(()).unwrap().into_parts();
    layer.explain(Now::read(), &mut head)
}

#[tokio::test(start_paused = true)]
async fn r2_9_three_nodes_have_one_allowance() {
    let fake = Arc::default();
    let nodes = nodes(3, Window::per_minute(60), &fake, |it| it);
    let mut all = [0; 3];
    for turn in 0..300 {
        all[turn % 3] += usize::from(status(&nodes[turn % 3], "asha").await == 200);
        assert_eq!(status(&nodes[turn % 3], &format!("somebody {turn}")).await, 200, "each key has its own");
    }
    let sum = all.iter().sum::<usize>();
    assert!((60 - 3 * 5..=60).contains(&sum), "{all:?}: what is missing is leased");
    // What is not spent in a second comes back with the next question.
    advance(Duration::from_millis(1_500)).await;
    let late = admitted(&nodes[0], "asha", 20).await
        + admitted(&nodes[1], "asha", 20).await
        + admitted(&nodes[2], "asha", 20).await;
    assert_eq!(sum + late, 61, "and one has come back by time");
}

#[tokio::test(start_paused = true)]
async fn one_node_alone_loses_nothing_by_sharing() {
    let fake = Arc::default();
    let node = &nodes(1, Window::per_minute(100), &fake, |it| it)[0];
    assert_eq!(admitted(node, "asha", 200).await, 100);
    let asked = fake.asked();
    assert!(asked < 30, "{asked} questions for 200 requests: leases grow with use");
    assert_eq!(admitted(node, "asha", 1000).await, 0);
    assert_eq!(fake.asked(), 0, "whoever is refused makes the store no work");
    advance(Duration::from_millis(601)).await;
    assert_eq!(admitted(node, "asha", 10).await, 1);
}

#[tokio::test(start_paused = true)]
async fn who_comes_while_somebody_asks_waits_for_the_same_answer() {
    let fake = Arc::<Fake>::default();
    fake.is(Mood::Slow(10));
    let node = &nodes(1, Window::per_minute(100), &fake, |it| it)[0];
    let all = (0..300).map(|_| {
        let node = node.clone();
        tokio::spawn(async move { status(&node, "asha").await })
    });
    let mut passed = 0;
    for one in all.collect::<Vec<_>>() {
        passed += usize::from(one.await.unwrap() == 200);
    }
    assert_eq!(passed, 100);
    let asked = fake.asked();
    assert!((2..=4).contains(&asked), "{asked} questions for 300 requests at once");
}

#[tokio::test(start_paused = true)]
async fn who_goes_while_it_asks_leaves_nobody_waiting_and_nothing_admitted() {
    let fake = Arc::<Fake>::default();
    fake.is(Mood::Slow(40));
    let node = &nodes(1, Window::per_minute(10), &fake, |it| it)[0];
    let start = |node: &RateLimitLayer| {
        let node = node.clone();
        tokio::spawn(async move { status(&node, "asha").await })
    };
    let first = start(node);
    sleep(Duration::from_millis(5)).await;
    let (second, third) = (start(node), start(node));
    sleep(Duration::from_millis(5)).await;
    second.abort();
    first.abort();
    fake.is(Mood::Well);
    assert_eq!(third.await.unwrap(), 200, "it asks itself");
    // The first had asked for itself alone.
    assert_eq!(1 + admitted(node, "asha", 20).await, 9, "what was granted to who went is lost");
    assert_eq!(node.keys(), 2, "the account of the share, and what is known of the store");
}

#[tokio::test(start_paused = true)]
async fn r2_9_a_store_that_is_away_leaves_each_node_its_share() {
    let fake = Arc::<Fake>::default();
    let nodes = nodes(3, Window::per_minute(30), &fake, |it| it);
    for mood in [Mood::Fails, Mood::Mute] {
        fake.is(mood);
        for node in &nodes {
            assert_eq!(admitted(node, "asha", 50).await, 10, "34 % of 30");
            let Finding::Reject(rejection) = said(node, "asha") else { panic!("{:?}", said(node, "asha")) };
            assert_eq!(rejection.reason.word(), "rate_limited");
        }
        assert!(fake.asked() <= 3 * 2, "it is left alone");
        advance(Duration::from_secs(61)).await;
    }
    // It is back: what was admitted without it is told, and charged.
    fake.is(Mood::Well);
    assert_eq!(status(&nodes[0], "asha").await, 200);
    assert_eq!(
        fake.last().owed,
        20,
        "of both times: whoever has no answer does not know whether it was told"
    );
}

#[tokio::test(start_paused = true)]
async fn the_share_has_the_history_of_what_was_granted() {
    let fake = Arc::<Fake>::default();
    let node = &nodes(1, Window::per_minute(60), &fake, |it| it.lease(0))[0];
    assert_eq!(admitted(node, "asha", 30).await, 30);
    fake.is(Mood::Fails);
    assert_eq!(admitted(node, "asha", 30).await, 0, "20 are its share, and they are spent");
    assert_eq!(admitted(node, "ravi", 30).await, 20);
}

#[tokio::test(start_paused = true)]
async fn r2_9_a_limit_can_fail_closed_or_open() {
    let fake = Arc::<Fake>::default();
    fake.is(Mood::Fails);
    let closed = &nodes(1, Window::per_minute(30), &fake, |it| it.on_failure(OnFailure::Closed))[0];
    let refused = send(closed, "asha").await;
    assert_eq!((refused.status().as_u16(), &refused.headers()["retry-after"]), (503, &"1".parse().unwrap()));
    let rejection = refused.extensions().get::<Rejection>().unwrap();
    assert_eq!((rejection.reason.word(), rejection.policy.as_deref()), ("limit_unavailable", Some("api")));
    assert_eq!(said(closed, "asha"), Finding::Reject(rejection.clone()));
    let open = &nodes(1, Window::per_minute(30), &fake, |it| it.on_failure(OnFailure::Open))[0];
    assert_eq!(admitted(open, "asha", 100).await, 100);
    fake.is(Mood::Well);
    advance(Duration::from_secs(10)).await;
    assert_eq!(admitted(open, "asha", 30).await, 0, "what passed is owed");
    assert_eq!(admitted(closed, "ravi", 1).await, 1);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_away_is_asked_by_one_request_at_a_time() {
    let fake = Arc::<Fake>::default();
    let node = &nodes(1, Window::per_minute(600), &fake, |it| it)[0];
    let store = sharing(&fake, 34);
    let one = RateLimitLayer::new(RateLimitConfig::new(Window::per_minute(600)), by_user).shared(&store);
    fake.is(Mood::Mute);
    assert!(store.store.is_up());
    let began = tokio::time::Instant::now();
    assert_eq!(status(&one, "asha").await, 200);
    assert_eq!((began.elapsed(), store.store.is_up()), (TIMEOUT, false), "one waits");
    for user in 0..100 {
        assert_eq!(status(&one, &user.to_string()).await, 200);
    }
    assert_eq!((began.elapsed(), fake.asked()), (TIMEOUT, 1), "and nobody else");
    advance(Duration::from_millis(250)).await;
    let all = (0..100).map(|user: u32| {
        let one = one.clone();
        tokio::spawn(async move { status(&one, &user.to_string()).await })
    });
    for one in all.collect::<Vec<_>>() {
        assert_eq!(one.await.unwrap(), 200);
    }
    assert_eq!(fake.asked(), 1, "of those that come after the pause");
    advance(Duration::from_millis(499)).await;
    assert_eq!((status(&one, "asha").await, fake.asked()), (200, 0), "the pause is twice as long");
    fake.is(Mood::Well);
    advance(Duration::from_millis(1)).await;
    assert_eq!((status(&one, "asha").await, fake.asked()), (200, 1));
    assert!(store.store.is_up());
    assert_eq!(status(node, "asha").await, 200);
}

#[tokio::test(start_paused = true)]
async fn r2_9_a_store_that_forgets_refills_nobody() {
    let fake = Arc::<Fake>::default();
    let nodes = nodes(3, Window::per_minute(60), &fake, |it| it);
    assert_eq!(admitted(&nodes[0], "asha", 100).await, 60);
    fake.inner.forget();
    advance(Duration::from_millis(1_100)).await;
    let mut after = Vec::new();
    for node in &nodes {
        after.push(admitted(node, "asha", 100).await);
    }
    // Each has a third (20); the first has spent its own. One has come back.
    assert!(after[0] <= 1 && after[1..].iter().all(|it| (20..=21).contains(it)), "{after:?}");
    let closed = node(
        &RateLimitConfig::new(Window::per_minute(60)),
        &sharing(&fake, 34).on_failure(OnFailure::Closed),
    );
    assert_eq!(status(&closed, "asha").await, 429, "what is not known counts as spent");
    advance(Duration::from_mins(4)).await;
    assert_eq!(admitted(&nodes[2], "asha", 100).await, 60);
}

#[tokio::test(start_paused = true)]
async fn what_another_limit_refuses_is_charged_to_none() {
    let fake = Arc::<Fake>::default();
    let own = RateLimitLayer::new(RateLimitConfig::new(Window::per_minute(2)), by_user);
    let shared = node(&RateLimitConfig::new(Window::per_minute(20)), &sharing(&fake, 100));
    let other = RateLimitLayer::new(RateLimitConfig::new(Window::per_minute(10)), by_user)
        .named(&"other".into())
        .shared(&sharing(&fake, 100));
    let both = [shared.clone(), own, other.clone()].into_iter().collect::<RateLimitLayer>();
    // With the second one each store has leased one more, which the third one holds and gives back.
    assert_eq!(admitted(&both, "asha", 50).await, 2);
    assert_eq!(admitted(&shared, "asha", 50).await, 18);
    assert_eq!(admitted(&other, "asha", 50).await, 8);
    let second = [other, shared].into_iter().collect::<RateLimitLayer>();
    advance(Duration::from_secs(6)).await;
    assert_eq!(admitted(&second, "asha", 50).await, 1, "the tighter one");
    advance(Duration::from_millis(1)).await;
    let asked = fake.asked();
    assert_eq!((admitted(&second, "asha", 50).await, fake.asked() <= asked), (0, true));
}

#[tokio::test(start_paused = true)]
async fn explaining_asks_nobody_and_says_what_is_known() {
    let fake = Arc::<Fake>::default();
    let node = &nodes(1, Window::per_minute(10), &fake, |it| it)[0];
    for _ in 0..100 {
        assert_eq!(said(node, "asha"), Finding::WouldAsk(Dependency::Store { within: TIMEOUT }));
    }
    assert_eq!((fake.asked(), node.keys()), (0, 0));
    assert_eq!(admitted(node, "asha", 4).await, 4); // The fourth has leased three more.
    assert_eq!(said(node, "asha"), Finding::Admit("6 of 10 left".to_owned()));
    assert_eq!(admitted(node, "asha", 10).await, 6);
    let Finding::Reject(known) = said(node, "asha") else { panic!() };
    assert_eq!(send(node, "asha").await.extensions().get::<Rejection>(), Some(&known));
}

#[tokio::test(start_paused = true)]
async fn clients_are_told_of_the_whole_allowance() {
    let fake = Arc::<Fake>::default();
    let config = RateLimitConfig::new(Window::per_minute(10)).fields(Fields::Draft);
    let nodes = [0, 1].map(|_| node(&config, &sharing(&fake, 50)));
    let mut told = Vec::new();
    for turn in 0..4 {
        let answer = send(&nodes[turn % 2], "asha").await;
        assert_eq!(answer.headers()["ratelimit-policy"], "\"api\";q=10;w=60");
        told.push(answer.headers()["ratelimit"].to_str().unwrap().to_owned());
    }
    // The third leases one more, which it may spend itself.
    assert_eq!(told, ["\"api\";r=9;t=6", "\"api\";r=8;t=12", "\"api\";r=7;t=24", "\"api\";r=5;t=36"]);
}

#[tokio::test(start_paused = true)]
async fn a_changed_quota_refills_nobody_and_takes_effect() {
    let fake = Arc::<Fake>::default();
    let node = &nodes(1, Window::per_minute(10), &fake, |it| it)[0];
    assert_eq!(admitted(node, "asha", 4).await, 4);
    let lower = node.reconfigured(&RateLimitConfig::new(Window::per_minute(5)));
    let left = admitted(&lower, "asha", 20).await;
    assert!(left <= 1, "{left}: 4 of 5 are spent");
    let higher = lower.reconfigured(&RateLimitConfig::new(Window::per_minute(20)));
    let more = admitted(&higher, "asha", 40).await;
    assert!((5..=15).contains(&more), "{more}");
    let other = higher.reconfigured(&RateLimitConfig::new(Window::per_hour(20)));
    assert_eq!(admitted(&other, "asha", 40).await, 0, "another period goes on from the one that is gone");
    let back = other.reconfigured(&RateLimitConfig::new(Window::per_minute(20)));
    assert_eq!(admitted(&back, "asha", 40).await, 0);
}

#[tokio::test(start_paused = true)]
async fn what_passes_under_another_quota_counts_when_the_first_is_back() {
    let fake = Arc::<Fake>::default();
    let minute = &nodes(1, Window::per_minute(10), &fake, |it| it.lease(0))[0];
    assert_eq!(admitted(minute, "asha", 4).await, 4);
    let hour = minute.reconfigured(&RateLimitConfig::new(Window::per_hour(20)));
    assert_eq!(admitted(&hour, "asha", 6).await, 6);
    let back = hour.reconfigured(&RateLimitConfig::new(Window::per_minute(10)));
    assert_eq!(admitted(&back, "asha", 10).await, 0);
    advance(Duration::from_secs(6)).await;
    assert_eq!(admitted(&back, "asha", 10).await, 1);
}

/// While one node has another quota of the same period already, and owes something.
#[tokio::test(start_paused = true)]
async fn a_smaller_quota_of_another_node_refills_nobody() {
    let fake = Arc::<Fake>::default();
    let wide = &nodes(1, Window::per_hour(600), &fake, |it| it.lease(0))[0];
    let hour = Duration::from_hours(1);
    let narrow = Window::new(NonZeroU32::new(600).unwrap(), hour).burst(NonZeroU32::new(10).unwrap());
    let narrow = &nodes(1, narrow, &fake, |it| it.lease(0))[0];
    assert_eq!(admitted(wide, "asha", 500).await, 500);
    fake.is(Mood::Fails);
    assert_eq!(admitted(narrow, "asha", 1).await, 1, "its share");
    fake.is(Mood::Well);
    advance(Duration::from_secs(12)).await;
    assert_eq!(admitted(narrow, "asha", 5).await, 0, "all of its ten are spent");
    assert_eq!(fake.last().owed, 1);
    let left = admitted(wide, "asha", 600).await;
    assert!((100..=102).contains(&left), "{left}: of 500 two have come back, and one was owed");
}

/// What the shares let pass while the store knew nothing is not charged once more when it does.
#[tokio::test(start_paused = true)]
async fn after_a_loss_everything_is_there_again_when_it_has_come_back() {
    let fake = Arc::<Fake>::default();
    let nodes = nodes(3, Window::per_minute(60), &fake, |it| it);
    fake.inner.forget();
    for node in &nodes {
        assert_eq!(admitted(node, "asha", 60).await, 20, "its share");
    }
    for _ in 0..6 {
        advance(Duration::from_secs(10)).await;
        for node in &nodes {
            _ = status(node, "asha").await; // Tells what it owes.
        }
    }
    advance(Duration::from_secs(18)).await;
    let left = admitted(&nodes[0], "asha", 60).await;
    assert!(left >= 15, "{left}: eighteen have come back since the last one");
}

#[tokio::test(start_paused = true)]
async fn many_that_fail_at_once_are_one_outage() {
    let fake = Arc::<Fake>::default();
    fake.is(Mood::Mute);
    let sharing = sharing(&fake, 34);
    let node = node(&RateLimitConfig::new(Window::per_minute(600)), &sharing);
    let all = (0..50).map(|user: u32| {
        let node = node.clone();
        tokio::spawn(async move { status(&node, &user.to_string()).await })
    });
    for one in all.collect::<Vec<_>>() {
        assert_eq!(one.await.unwrap(), 200);
    }
    fake.asked();
    fake.is(Mood::Well);
    advance(Duration::from_millis(250)).await;
    assert_eq!((status(&node, "asha").await, fake.asked(), sharing.store.is_up()), (200, 1, true));
}

#[tokio::test(start_paused = true)]
async fn keys_that_are_asked_about_are_bounded_and_the_share_decides_beyond() {
    let fake = Arc::<Fake>::default();
    fake.is(Mood::Slow(40));
    let config = RateLimitConfig::new(Window::per_minute(10)).max_keys(32);
    let node = node(&config, &sharing(&fake, 50).on_failure(OnFailure::Open));
    let all = (0..500).map(|user: u32| {
        let node = node.clone();
        tokio::spawn(async move { status(&node, &user.to_string()).await })
    });
    let all = all.collect::<Vec<_>>();
    sleep(Duration::from_millis(10)).await;
    assert!(node.keys() <= 2 * 32, "{}", node.keys());
    assert!(fake.asked() <= 32);
    for one in all {
        assert_eq!(one.await.unwrap(), 200);
    }
}

/// What is back in less than a millisecond is asked for no sooner than that, and it is not said that it never will be.
#[tokio::test(start_paused = true)]
async fn a_wait_that_is_over_is_none_for_ever() {
    let fake = Arc::<Fake>::default();
    let window = Window::new(NonZeroU32::new(5_000).unwrap(), Duration::from_secs(1)).burst(NonZeroU32::MIN);
    let node = &nodes(1, window, &fake, |it| it.lease(0))[0];
    assert_eq!((status(node, "asha").await, status(node, "asha").await), (200, 429));
    advance(Duration::from_micros(500)).await;
    let Finding::Reject(rejection) = said(node, "asha") else { panic!("{:?}", said(node, "asha")) };
    assert_eq!((rejection.retry_after, rejection.detail), (Some(Duration::ZERO), None));
    advance(Duration::from_micros(500)).await;
    assert_eq!(status(node, "asha").await, 200);
}

#[tokio::test(start_paused = true)]
async fn tiers_and_costs_are_counted_by_the_store() {
    let fake = Arc::<Fake>::default();
    let config = RateLimitConfig::new(Window::per_minute(10)).tiers([Factor::percent(200)]).cost(2);
    let of_tier = |tier| {
        RateLimitLayer::new(config.clone(), by_user)
            .named(&"api".into())
            .tier_by(move |_| tier)
            .shared(&sharing(&fake, 50))
    };
    let (plain, plus) = (of_tier(None), of_tier(Some(0)));
    assert_eq!(admitted(&plus, "asha", 5).await, 5, "10 of 20");
    let left = admitted(&plain, "asha", 20).await;
    assert!((1..=2).contains(&left), "{left}: half of 10, less what is leased");
    assert_eq!(admitted(&plus, "ravi", 20).await, 10);
    let dear = RateLimitLayer::new(RateLimitConfig::new(Window::per_minute(10)).cost(11), by_user);
    fake.asked();
    let dear = dear.shared(&sharing(&fake, 50));
    assert_eq!((status(&dear, "asha").await, fake.asked()), (429, 0), "nobody has to be asked for that");
}

#[tokio::test(start_paused = true)]
async fn what_a_node_remembers_is_bounded() {
    let fake = Arc::<Fake>::default();
    let config = RateLimitConfig::new(Window::per_minute(10)).max_keys(320);
    let node = node(&config, &sharing(&fake, 50));
    for user in 0..10_000 {
        assert_ne!(status(&node, &user.to_string()).await, 503);
    }
    assert!(node.keys() <= 2 * 352, "{}", node.keys());
    fake.is(Mood::Fails);
    for user in 0..10_000 {
        status(&node, &user.to_string()).await;
    }
    assert!(node.keys() <= 2 * 352, "debts are bounded, too: {}", node.keys());
    fake.is(Mood::Well);
    advance(Duration::from_mins(3)).await;
    let asked = fake.asked();
    assert_eq!(admitted(&node, "asha", 100).await, 10, "{asked}");
    let roomy = config.clone().max_keys(100_000);
    let node = self::node(&roomy, &sharing(&fake, 50));
    for user in 0..2_000 {
        status(&node, &user.to_string()).await;
    }
    let many = node.keys();
    advance(Duration::from_mins(3)).await;
    for user in 0..2_000 {
        status(&node, &format!("another {user}")).await;
    }
    assert!(node.keys() < many + 2_100, "what has nothing to say goes as others come: {}", node.keys());
}

/// So many nodes, and what comes: which node, which key, what it costs, and how long after the one before; at times
/// the store goes, comes back, or forgets.
fn walk() -> impl Strategy<Value = Vec<(usize, u8, u32, u64, u8)>> {
    prop::collection::vec((0..3_usize, 0..2_u8, 1..3_u32, 0..2_000_u64, 0..60_u8), 1..250)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// In every stretch of time that begins and ends with a request.
    #[test]
    fn r2_9_what_all_nodes_admit_is_within_the_stated_bound(
        steps in walk(),
        count in 1..30_u32,
        burst in 1..30_u32,
        lease in 0..8_u32,
        is_calm in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let fake = Arc::<Fake>::default();
            let (count, burst) = (NonZeroU32::new(count).unwrap(), NonZeroU32::new(burst).unwrap());
            let window = Window::new(count, Duration::from_secs(20)).burst(burst);
            let by_cost = |head: &Head<'_>| head.headers["x-cost"].to_str().unwrap().parse::<u32>().unwrap();
            let nodes = (0..3).map(|_| {
                let layer = RateLimitLayer::new(RateLimitConfig::new(window), by_user).named(&"api".into());
                layer.cost_by(by_cost).shared(&sharing(&fake, 34).lease(lease))
            }).collect::<Vec<_>>();
            let began = tokio::time::Instant::now();
            let mut passed: [Vec<(f64, u32)>; 2] = Default::default();
            for (node, key, cost, wait_ms, event) in steps {
                advance(Duration::from_millis(wait_ms)).await;
                match event {
                    0 if !is_calm => fake.is(Mood::Fails),
                    1 if !is_calm => fake.is(Mood::Mute),
                    2 if !is_calm => fake.inner.forget(),
                    3..8 => fake.is(Mood::Well),
                    _ => {}
                }
                let service = nodes[node].layer(tower::service_fn(|_: Request<()>| async {
                    Ok::<_, ()>(Response::new(Empty::<bytes::Bytes>::new()))
                }));
                let request = Request::builder().header("x-user", key.to_string()).header("x-cost", cost.to_string());
                let answer = service.oneshot(request.body(()).unwrap()).await.unwrap();
                if answer.status() == 200 {
                    passed[usize::from(key)].push((began.elapsed().as_secs_f64(), cost));
                }
            }
            let (burst, rate) = (f64::from(burst.get()), f64::from(count.get()) / 20.0);
            let shares = if is_calm { 0.0 } else { 3.0 };
            for passed in &passed {
                for (from, (begin, _)) in passed.iter().enumerate() {
                    let mut sum = 0;
                    for (end, cost) in &passed[from..] {
                        sum += cost;
                        let granted = burst + rate * (end - begin);
                        // A share is rounded down, but is at least one request.
                        let share = (0.34 * burst).max(1.0) + (0.34 * rate).max(1.0 / 20.0) * (end - begin);
                        let bound = granted + 3.0 * f64::from(lease) + shares * share;
                        prop_assert!(f64::from(sum) <= bound + 0.001, "{sum} of {bound} in {} s", end - begin);
                    }
                }
            }
            Ok(())
        })?;
    }

    /// What a store says does not depend on how it is asked: all at once, or one by one.
    #[test]
    fn an_account_is_the_same_however_it_is_asked(
        count in 1..1_000_u32, burst in 1..1_000_u32, per_ms in 1..1_000_000_u64, wanted in 1..1_000_u32,
    ) {
        let windows: Arc<[Shape]> = [Shape::new(per_ms * 1_000_000, count, burst)].into();
        let ask = |wanted, least| {
            let mut ask = Ask::new("api".into(), 1, Arc::clone(&windows), wanted);
            ask.least = least;
            ask
        };
        let (at_once, _) = take(&Account::default(), &ask(wanted, 1), 0, 1 << 50);
        let (mut account, mut singly) = (Account::default(), 0);
        for _ in 0..wanted {
            let (said, next) = take(&account, &ask(1, 1), 0, 1 << 50);
            (account, singly) = (next, singly + said.granted);
        }
        prop_assert_eq!(at_once.granted, wanted.min(burst));
        prop_assert_eq!(singly, wanted.min(burst));
    }
}

#[test]
fn a_question_that_makes_no_sense_is_refused() {
    let good = Ask::new("api".into(), 1, [Shape::new(1_000_000_000, 10, 10)].into(), 5);
    let account = take(&Account::default(), &good, 0, 1 << 50).1;
    let broken = |change: &dyn Fn(&mut Ask)| {
        let mut ask = good.clone();
        change(&mut ask);
        assert_eq!(take(&account, &ask, 0, 1 << 50), (Answer::default(), account.clone()), "{ask:?}");
    };
    broken(&|ask| ask.windows = Arc::default());
    broken(&|ask| ask.windows = [ask.windows[0]; 5].into());
    broken(&|ask| ask.least = 0);
    broken(&|ask| ask.least = 6);
    broken(&|ask| ask.windows = [Shape::new(0, 10, 10)].into());
    broken(&|ask| ask.windows = [Shape::new(1, 0, 10)].into());
}
