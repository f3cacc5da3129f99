//! Splitting traffic, as somebody who uses the layer sees it.
#![allow(clippy::unwrap_used, reason = "a test may")]

use std::{
    collections::BTreeMap,
    future::{Future, pending, ready},
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header::COOKIE};
use http_body_util::{BodyExt as _, Full};
use naka::{
    classify::Outcome,
    clock::Now,
    explain::{Explain as _, Finding},
    key::HashKey,
    observe::Observer,
    reject::{Reason, Rejection},
    split::{
        Guard, Held, MAX_ARMS, MAX_MIN_REQUESTS, MAX_PINS, Pin, SplitArm, SplitConfig, SplitError,
        SplitLayer, Splitting, Tally,
    },
};
use tokio::time::advance;
use tower::{Layer as _, Service as _, ServiceExt as _, service_fn};

fn user(number: u32) -> Request<()> {
    Request::get("/").header("x-user", number.to_string()).body(()).unwrap()
}

fn by_user<O: Observer>(layer: SplitLayer<O>) -> SplitLayer<O> {
    layer.keyed(|head| head.headers.get("x-user").map(HashKey::of))
}

/// Where a request goes.
async fn arm<O: Observer>(layer: &SplitLayer<O>, request: Request<()>) -> String {
    send(layer, request, StatusCode::OK).await
}

/// Where a request goes that is answered with this status, and read to its end.
async fn send<O: Observer>(layer: &SplitLayer<O>, request: Request<()>, status: StatusCode) -> String {
    let answers = service_fn(move |request: Request<()>| {
        let arm = SplitArm::of(request.extensions()).unwrap().to_string();
        let response = Response::builder().status(status).body(Full::new(Bytes::from(arm))).unwrap();
        ready(Ok::<_, ()>(response))
    });
    let response = layer.layer(answers).oneshot(request).await.unwrap();
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

async fn counts(layer: &SplitLayer, requests: impl Iterator<Item = Request<()>>) -> BTreeMap<String, u32> {
    let mut counts = BTreeMap::new();
    for request in requests {
        *counts.entry(arm(layer, request).await).or_default() += 1;
    }
    counts
}

fn of(weights: &[(&'static str, u32)]) -> SplitConfig {
    SplitConfig::new(weights.iter().copied())
}

fn canary(weight: u32) -> SplitConfig {
    of(&[("old", 95), ("new", weight)])
        .guard(Guard::new(500).min_requests(20).window(Duration::from_secs(10)))
}

fn checked(config: SplitConfig) -> Splitting {
    config.check().unwrap()
}

#[tokio::test]
async fn r7_2_eighty_and_twenty_of_ten_thousand() {
    let layer = SplitLayer::new(checked(of(&[("v1", 80), ("v2", 20)])));
    let by_turn = counts(&layer, (0..10_000).map(|_| Request::new(()))).await;
    assert_eq!((by_turn["v1"], by_turn["v2"]), (8000, 2000), "without a key it is exact");
    let by_key = counts(&by_user(layer), (0..10_000).map(user)).await;
    assert!(by_key["v2"].abs_diff(2000) <= 120, "{by_key:?}: three sigma");
}

#[tokio::test]
async fn r7_2_a_user_stays_and_a_larger_share_only_adds_users() {
    let shares = [(95, 5), (90, 10), (50, 50), (1, 99)];
    let layers =
        shares.map(|(old, new)| by_user(SplitLayer::new(checked(of(&[("old", old), ("new", new)])))));
    // The order in which arms are written is no part of it, nor is the process.
    let other = by_user(SplitLayer::new(checked(of(&[("new", 10), ("old", 90)]))));
    for number in 0..1000 {
        let mut arms = Vec::new();
        for layer in &layers {
            arms.push(arm(layer, user(number)).await);
            assert_eq!(arms.last(), Some(&arm(layer, user(number)).await));
        }
        assert!(arms.is_sorted_by(|before, after| before >= after), "{arms:?}"); // "old" before "new".
        assert_eq!(arm(&other, user(number)).await, arms[1]);
    }
    // Another release of this crate must not move anybody either.
    let mut new = Vec::new();
    for number in 0..40 {
        if arm(&layers[0], user(number)).await == "new" {
            new.push(number);
        }
    }
    assert_eq!(new, [17, 25, 31]);
}

#[tokio::test]
async fn pins_come_first_and_in_their_order() {
    let config = of(&[("old", 1), ("new", 0), ("other", 0)])
        .pin(Pin::header("x-canary".parse().unwrap(), HeaderValue::from_static("1"), "new"))
        .pin(Pin::cookie("arm", "other", "other"))
        .pin(Pin::when(|head| head.uri.path() == "/new", "new"));
    let layer = by_user(SplitLayer::new(checked(config)));
    let with = |path: &str, headers: &[(&str, &str)]| {
        let request = Request::get(path);
        headers.iter().fold(request, |it, (name, value)| it.header(*name, *value)).body(()).unwrap()
    };
    for (path, headers, expected) in [
        ("/", &[][..], "old"),
        ("/", &[("x-canary", "1")], "new"),
        ("/", &[("x-canary", "0"), ("x-canary", "1")], "new"),
        ("/", &[("x-canary", "11")], "old"),
        ("/", &[("cookie", "a=b; arm=other")], "other"),
        ("/", &[("cookie", "a=b"), ("cookie", "arm=other;c=d")], "other"),
        ("/", &[("cookie", "xarm=other; arm=others; arm=\"other\"; other")], "old"),
        ("/", &[("cookie", "arm=other"), ("x-canary", "1")], "new"),
        ("/new", &[("cookie", "arm=other")], "other"),
        ("/new", &[], "new"),
    ] {
        assert_eq!(arm(&layer, with(path, headers)).await, expected, "{path} {headers:?}");
    }
    let bytes = Request::get("/").header(COOKIE, HeaderValue::from_bytes(b"\xff; arm=other").unwrap());
    assert_eq!(arm(&layer, bytes.body(()).unwrap()).await, "other", "what is no text hides nothing");
}

/// What an arm's observer heard.
#[derive(Clone, Default)]
struct Ear(Arc<Mutex<Vec<String>>>);

impl Ear {
    fn heard(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }

    fn say(&self, what: impl Into<String>) {
        self.0.lock().unwrap().push(what.into());
    }
}

struct Of(Arc<str>, Ear);

impl Observer for Of {
    fn admitted(&self) {
        self.1.say(format!("{} admitted", self.0));
    }
    fn settled(&self, outcome: Outcome) {
        self.1.say(format!("{} {outcome:?}", self.0));
    }
    fn held(&self, held: &Held) {
        self.1.say(format!("{} held {held:?}", self.0));
    }
    fn released(&self) {
        self.1.say(format!("{} released", self.0));
    }
}

fn heard_layer(config: SplitConfig) -> (SplitLayer<Of>, Ear) {
    let ear = Ear::default();
    let ears = ear.clone();
    (SplitLayer::observed(checked(config), move |name| Of(Arc::clone(name), ears.clone())), ear)
}

/// So many requests of each; those of the arm `new` are answered so.
async fn traffic<O: Observer>(layer: &SplitLayer<O>, requests: u32, new: StatusCode) {
    let service = layer.layer(service_fn(move |request: Request<()>| {
        let is_new = **SplitArm::of(request.extensions()).unwrap() == *"new";
        let mut response = Response::new(Full::new(Bytes::new()));
        *response.status_mut() = if is_new { new } else { StatusCode::OK };
        ready(Ok::<_, ()>(response))
    }));
    for _ in 0..requests {
        service.clone().oneshot(Request::new(())).await.unwrap().into_body().collect().await.unwrap();
    }
}

fn held<O: Observer>(layer: &SplitLayer<O>) -> Vec<String> {
    let arms = layer.arms(Now::read()).into_iter();
    arms.filter(|arm| arm.held.is_some()).map(|arm| arm.name.to_string()).collect()
}

#[tokio::test(start_paused = true)]
async fn an_arm_that_fails_is_held_told_once_and_released_by_hand() {
    let (layer, ear) = heard_layer(canary(5).pin(Pin::when(|head| head.uri.path() == "/look", "new")));
    traffic(&layer, 380, StatusCode::INTERNAL_SERVER_ERROR).await;
    assert_eq!(held(&layer), [""; 0], "19 are not 20");
    ear.heard();
    traffic(&layer, 20 * 100, StatusCode::INTERNAL_SERVER_ERROR).await;
    assert_eq!(held(&layer), ["new"]);
    let heard = ear.heard();
    let told = heard.iter().filter(|it| it.contains("held")).collect::<Vec<_>>();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].starts_with("new held Guard { arm: Tally { total: 20, failed: 20 }"), "{told:?}");
    assert_eq!(heard.iter().filter(|it| *it == "new admitted").count(), 1, "and nobody goes there any more");
    // But who wants to look at it.
    assert_eq!(arm(&layer, Request::get("/look").body(()).unwrap()).await, "new");
    assert_eq!(ear.heard(), ["new admitted", "new Success"]);

    assert!(!layer.release("old") && !layer.release("nobody"));
    assert!(layer.release("new") && !layer.release("new"));
    assert_eq!(ear.heard(), ["new released"]);
    traffic(&layer, 380, StatusCode::INTERNAL_SERVER_ERROR).await;
    assert_eq!(held(&layer), [""; 0], "it begins with an empty window");
    traffic(&layer, 20, StatusCode::INTERNAL_SERVER_ERROR).await;
    assert_eq!(held(&layer), ["new"]);
}

#[tokio::test(start_paused = true)]
async fn an_arm_that_fails_as_the_baseline_does_is_not_held_and_the_baseline_never_is() {
    let layer = SplitLayer::new(checked(canary(95).baseline("old")));
    for status in [StatusCode::OK, StatusCode::NOT_FOUND] {
        traffic(&layer, 1000, status).await;
        assert_eq!(held(&layer), [""; 0]);
    }
    // Everything fails, and then only the baseline.
    for _ in 0..1000 {
        send(&layer, Request::new(()), StatusCode::BAD_GATEWAY).await;
    }
    assert_eq!(held(&layer), [""; 0]);
    let only_old = SplitLayer::new(checked(canary(95).baseline("new")));
    traffic(&only_old, 1000, StatusCode::BAD_GATEWAY).await;
    assert_eq!(held(&only_old), [""; 0], "`new` is the baseline here");
    assert!(!only_old.hold("new") && only_old.hold("old") && !only_old.hold("old"));
    assert_eq!(arm(&only_old, Request::new(())).await, "new");
}

/// Moving lines of a file about resets nothing.
#[tokio::test(start_paused = true)]
async fn the_order_in_which_arms_are_written_means_nothing() {
    let guard = Guard::new(500).min_requests(20);
    let [one, other] =
        [[("old", 50), ("new", 50)], [("new", 50), ("old", 50)]].map(|arms| checked(of(&arms).guard(guard)));
    assert_eq!((&**one.baseline(), &**other.baseline()), ("new", "new"), "the first by name");
    let layer = SplitLayer::new(one);
    assert!(layer.hold("old"));
    let next = layer.reconfigured(&other);
    assert_eq!(held(&next), ["old"]);
    layer.release("old");
    let turns =
        [&layer, &next].map(|layer| layer.arms(Now::read()).iter().map(|arm| arm.in_force).sum::<u32>());
    assert_eq!(turns, [100, 100]);
}

#[tokio::test(start_paused = true)]
async fn results_are_forgotten_when_their_window_is_over() {
    let layer = SplitLayer::new(checked(canary(5)));
    traffic(&layer, 300, StatusCode::INTERNAL_SERVER_ERROR).await;
    advance(Duration::from_secs(11)).await;
    traffic(&layer, 300, StatusCode::INTERNAL_SERVER_ERROR).await;
    assert_eq!(held(&layer), [""; 0], "15 then, 15 now");
    let arms = layer.arms(Now::read());
    assert_eq!((arms[0].tally.unwrap().total, arms[1].tally.unwrap().total), (285, 15));
}

#[tokio::test(start_paused = true)]
async fn what_is_given_up_says_nothing_and_a_body_that_breaks_off_is_a_failure() {
    let (layer, ear) = heard_layer(canary(5));
    let hangs = service_fn(|_: Request<()>| pending::<Result<Response<Full<Bytes>>, ()>>());
    {
        let mut future = pin!(layer.layer(hangs).call(Request::new(())));
        assert!(matches!(future.as_mut().poll(&mut Context::from_waker(Waker::noop())), Poll::Pending));
    }
    assert_eq!(ear.heard(), ["old admitted", "old Neutral"]);
    let answers =
        || service_fn(|_: Request<()>| ready(Ok::<_, ()>(Response::new(Full::new(Bytes::from("tea"))))));
    drop(layer.layer(answers()).oneshot(Request::new(())).await.unwrap());
    assert_eq!(ear.heard(), ["old admitted", "old Neutral"], "the client went before the end");
    let breaks = service_fn(|_: Request<()>| ready(Err::<Response<Full<Bytes>>, _>(())));
    layer.layer(breaks).oneshot(Request::new(())).await.unwrap_err();
    assert_eq!(ear.heard(), ["old admitted", "old Failure"]);
    let tally = layer.arms(Now::read())[0].tally.unwrap();
    assert_eq!((tally.total, tally.failed), (1, 1));
}

/// Bug in the making: an arm that is down altogether is refused by the layers in front of it, and looked well.
#[tokio::test(start_paused = true)]
async fn an_arm_without_anybody_to_answer_fails_and_one_that_is_full_does_not() {
    for (reason, expected) in [
        (Reason::NoEndpoint, "old Failure"),
        (Reason::CircuitOpen, "old Failure"),
        (Reason::SubsetEmpty, "old Neutral"), // Which subset can be what the request says.
        (Reason::BulkheadFull, "old Neutral"),
        (Reason::RateLimited, "old Neutral"),
    ] {
        let (layer, ear) = heard_layer(canary(5));
        let refuses = service_fn(move |_: Request<()>| {
            ready(Ok::<_, ()>(Rejection::new(reason).into_response::<Full<Bytes>>()))
        });
        let response = layer.layer(refuses).oneshot(Request::new(())).await.unwrap();
        response.into_body().collect().await.unwrap();
        assert_eq!(ear.heard()[1], expected, "{reason}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_is_pinned_holds_no_arm() {
    let layer = SplitLayer::new(checked(canary(5).pin(Pin::when(|head| head.uri.path() == "/break", "new"))));
    traffic(&layer, 100, StatusCode::OK).await;
    for _ in 0..1000 {
        let request = Request::get("/break").body(()).unwrap();
        assert_eq!(send(&layer, request, StatusCode::INTERNAL_SERVER_ERROR).await, "new");
    }
    assert_eq!(held(&layer), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_held_arm_stays_held_over_configurations_until_its_weight_or_the_guard_changes() {
    let held_now = || async {
        let layer = SplitLayer::new(checked(canary(5)));
        traffic(&layer, 400, StatusCode::INTERNAL_SERVER_ERROR).await;
        assert_eq!(held(&layer), ["new"]);
        layer
    };
    let guard = Guard::new(500).min_requests(20).window(Duration::from_secs(10));
    let third = of(&[("third", 10), ("new", 5), ("old", 80)]).guard(guard);
    for (config, expected) in [
        (canary(5), true),
        (canary(5).pin(Pin::when(|_| false, "new")), true),
        (third, true), // Of the same baseline, and `new` weighs what it did.
        (canary(6), false),
        (canary(5).guard(guard.min_requests(21)), false),
        (canary(5).baseline("old"), true),
    ] {
        let layer = held_now().await;
        let next = layer.reconfigured(&checked(config.clone()));
        assert_eq!(held(&next).len(), usize::from(expected), "{config:?}");
        // Making it has changed nothing, and what changes under it changes nothing of before.
        assert_eq!(held(&layer), ["new"], "{config:?}");
        if expected {
            assert!(next.release("new"), "they share it");
            assert_eq!(held(&layer), [""; 0]);
        } else {
            assert!(next.hold("new") && next.release("new"));
            assert_eq!(held(&layer), ["new"]);
        }
    }
}

/// A request that began before its arm was released, or before a reload, is nobody's evidence any more.
#[tokio::test(start_paused = true)]
async fn late_results_of_an_earlier_epoch_change_nothing() {
    let config = canary(95).baseline("old").guard(Guard::new(0).min_requests(2));
    let layer = SplitLayer::new(checked(config));
    traffic(&layer, 2, StatusCode::OK).await;
    let is_open = Arc::new(AtomicBool::new(false));
    let fails = {
        let is_open = Arc::clone(&is_open);
        service_fn(move |_: Request<()>| {
            let is_open = Arc::clone(&is_open);
            async move {
                while !is_open.load(SeqCst) {
                    tokio::task::yield_now().await;
                }
                let mut response = Response::new(Full::<Bytes>::default());
                *response.status_mut() = StatusCode::BAD_GATEWAY;
                Ok::<_, ()>(response)
            }
        })
    };
    let late = (0..20)
        .map(|_| tokio::spawn(layer.layer(fails.clone()).oneshot(Request::new(()))))
        .collect::<Vec<_>>();
    tokio::task::yield_now().await;
    assert!(layer.hold("new") && layer.release("new"));
    is_open.store(true, SeqCst);
    for task in late {
        task.await.unwrap().unwrap();
    }
    assert_eq!(held(&layer), [""; 0]);
    let arms = layer.arms(Now::read());
    assert_eq!(arms[1].tally, Some(Tally::default()), "`new` was released in the meantime");
    assert_eq!(arms[0].tally.unwrap().total, 11, "`old` was not");
}

#[tokio::test(start_paused = true)]
async fn it_is_explained_what_is_in_force_and_what_is_held_and_why() {
    let layer = SplitLayer::new(checked(canary(5).pin(Pin::when(|head| head.uri.path() == "/look", "new"))));
    let said = |path: &str| {
        let mut head = Request::get(path).body(()).unwrap().into_parts().0;
        let Finding::Admit(said) = layer.explain(Now::read(), &mut head) else { panic!("it refuses nobody") };
        (said, SplitArm::of(&head.extensions).unwrap().to_string())
    };
    assert_eq!(said("/"), ("arm old, by turn; weights old 95, new 5".into(), "old".into()));
    traffic(&layer, 400, StatusCode::INTERNAL_SERVER_ERROR).await;
    let why = "weights old 95, new 0; `new` is held: 20 of 20 failed, and 0 of 371 of `old`";
    let (words, arm) = said("/look");
    assert_eq!(
        (words.split("371").next(), &*arm),
        (Some(&*format!("arm new, by pin; {}", why.split("371").next().unwrap())), "new")
    );
    layer.release("new");
    layer.hold("new");
    assert_eq!(said("/").0, "arm old, by turn; weights old 95, new 0; `new` is held by hand");
}

#[test]
fn what_cannot_be_meant_is_refused() {
    let error = |config: SplitConfig| config.check().unwrap_err();
    assert_eq!(error(of(&[])), SplitError::NothingWeighs);
    assert_eq!(error(of(&[("a", 0), ("b", 0)])), SplitError::NothingWeighs);
    assert_eq!(error(of(&[("a", 1), ("a", 2)])), SplitError::Duplicate("a".into()));
    assert_eq!(error(of(&[("a", 1_000_001)])), SplitError::Weight("a".into()));
    assert_eq!(error(of(&[("a", 1)]).baseline("b")), SplitError::UnknownArm("b".into()));
    assert_eq!(error(of(&[("a", 1), ("b", 0)]).baseline("b")), SplitError::Baseline("b".into()));
    assert_eq!(error(of(&[("a", 1)]).pin(Pin::when(|_| true, "b"))), SplitError::UnknownArm("b".into()));
    let many = SplitConfig::new((0..=MAX_ARMS).map(|number| (number.to_string(), 1)));
    assert_eq!(error(many), SplitError::TooMany { what: "arms", max: MAX_ARMS });
    let pinned = (0..=MAX_PINS).fold(of(&[("a", 1)]), |it, _| it.pin(Pin::when(|_| true, "a")));
    assert_eq!(error(pinned), SplitError::TooMany { what: "pins", max: MAX_PINS });
    for guard in [
        Guard::new(10_001),
        Guard::new(1).min_requests(0),
        Guard::new(1).min_requests(MAX_MIN_REQUESTS + 1),
        Guard::new(1).window(Duration::from_millis(99)),
        Guard::new(1).window(Duration::from_secs(3601)),
    ] {
        let said = error(of(&[("a", 1)]).guard(guard));
        assert_eq!(said, SplitError::Guard(guard));
        assert!(said.to_string().starts_with("a guard has"), "{said}");
    }
}
