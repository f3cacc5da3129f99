//! The bulkhead beyond the laws that all layers keep.
#![allow(clippy::unwrap_used, reason = "a test may")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    time::Duration,
};

use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use naka::{
    bulkhead::{Adaptive, BulkheadConfig, BulkheadLayer, Counts, Share},
    clock::Now,
    context::{Context, Deadline},
    enforce::Enforce,
    explain::{Explain, Finding},
    guard::Guarded,
    key::Key,
    reject::{Head, Reason, Rejection},
};
use tower::{Layer, Service, ServiceExt};

type Body = Full<bytes::Bytes>;
type Answer = Response<Guarded<Body, naka::bulkhead::Permit>>;

async fn call(layer: &BulkheadLayer) -> Answer {
    let service = layer
        .layer(tower::service_fn(|_: Request<()>| async { Ok::<_, ()>(Response::new(Body::from("x"))) }));
    service.oneshot(Request::new(())).await.unwrap()
}

/// Counted until it is dropped, which a caller that gives up does half-way.
struct AtWork(Arc<AtomicU32>);

impl AtWork {
    fn begin(working: Arc<AtomicU32>, peak: &AtomicU32) -> Self {
        peak.fetch_max(working.fetch_add(1, SeqCst) + 1, SeqCst);
        Self(working)
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

fn reason(response: &Answer) -> Option<Reason> {
    response.extensions().get::<Rejection>().map(|rejection| rejection.reason)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn r14_1_never_above_max_and_nobody_is_left_waiting() {
    let (working, peak) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let layer = BulkheadLayer::new(BulkheadConfig::new(3).queue(10_000, Duration::from_mins(1)));
    let service = layer.layer(tower::service_fn({
        let peak = Arc::clone(&peak);
        move |_: Request<()>| {
            let (working, peak) = (Arc::clone(&working), Arc::clone(&peak));
            async move {
                let at_work = AtWork::begin(working, &peak);
                tokio::task::yield_now().await;
                drop(at_work);
                Ok::<_, ()>(Response::new(Body::from("x")))
            }
        }
    }));
    let tasks = (0..10_000_u64).map(|number| {
        let service = service.clone();
        tokio::spawn(async move {
            let call = async { drop(service.oneshot(Request::new(())).await.unwrap().collect().await) };
            if number % 5 == 0 {
                let _ = tokio::time::timeout(Duration::from_micros(number % 300), call).await; // Gives up.
            } else {
                call.await;
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        tokio::time::timeout(Duration::from_mins(1), task).await.expect("somebody is left waiting").unwrap();
    }
    assert!(peak.load(SeqCst) <= 3, "{} at work", peak.load(SeqCst));
    assert_eq!(layer.counts(), Counts::default());
}

#[tokio::test(start_paused = true)]
async fn r14_1_beyond_the_queue_at_once_and_after_the_wait_in_time() {
    let layer = BulkheadLayer::new(BulkheadConfig::new(1).queue(1, Duration::from_millis(200)));
    let first = call(&layer).await;
    let start = tokio::time::Instant::now();
    let queued = tokio::spawn({
        let layer = layer.clone();
        async move { call(&layer).await }
    });
    tokio::task::yield_now().await;
    assert_eq!(layer.counts(), Counts { working: 1, waiting: 1 });
    assert_eq!(reason(&call(&layer).await), Some(Reason::BulkheadFull));
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert_eq!(reason(&queued.await.unwrap()), Some(Reason::BulkheadTimeout));
    assert_eq!(start.elapsed().as_millis() / 10, 20);
    drop(first);
    assert_eq!(layer.counts(), Counts::default());
}

#[tokio::test(start_paused = true)]
async fn r14_4_a_place_is_kept_until_the_body_ends_and_the_queue_is_served_in_order() {
    let layer = BulkheadLayer::new(BulkheadConfig::new(1).queue(10, Duration::from_secs(9)));
    let first = call(&layer).await;
    let order = Arc::new(std::sync::Mutex::new(Vec::new()));
    let waiting = (0..5).map(|number| {
        let (layer, order) = (layer.clone(), Arc::clone(&order));
        tokio::spawn(async move {
            let response = call(&layer).await;
            order.lock().unwrap().push(number);
            response.collect().await.unwrap();
        })
    });
    let waiting = waiting.collect::<Vec<_>>();
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    assert!(order.lock().unwrap().is_empty(), "the head of the first response is long there");
    waiting[2].abort();
    first.collect().await.unwrap();
    for (number, task) in waiting.into_iter().enumerate() {
        assert_eq!(task.await.is_ok(), number != 2);
    }
    assert_eq!(*order.lock().unwrap(), [0, 1, 3, 4]);
    assert_eq!(layer.counts(), Counts::default());
}

#[tokio::test(start_paused = true)]
async fn r14_6_a_lower_max_drains_and_a_higher_one_wakes_who_waits() {
    let wait = Duration::from_secs(9);
    let narrow = BulkheadLayer::new(BulkheadConfig::new(1).queue(5, wait));
    let held = call(&narrow).await;
    let waiting = (0..2).map(|_| {
        let layer = narrow.clone();
        tokio::spawn(async move { call(&layer).await })
    });
    let waiting = waiting.collect::<Vec<_>>();
    tokio::task::yield_now().await;
    let abandoned = narrow.reconfigured(&BulkheadConfig::new(9).queue(5, wait));
    drop(abandoned);
    assert_eq!(narrow.counts(), Counts { working: 1, waiting: 2 }, "nothing has happened yet");
    let wide = narrow.reconfigured(&BulkheadConfig::new(4).queue(5, wait));
    let newcomer = tokio::spawn({
        let layer = wide.clone();
        async move { call(&layer).await }
    });
    let mut all = vec![held, newcomer.await.unwrap()];
    for task in waiting {
        all.push(task.await.unwrap());
    }
    assert!(all.iter().all(|response| reason(response).is_none()));
    assert_eq!(wide.counts(), Counts { working: 4, waiting: 0 });
    let small = wide.reconfigured(&BulkheadConfig::new(2));
    assert_eq!(reason(&call(&small).await), Some(Reason::BulkheadFull), "four are at work, two may be");
    all.truncate(1);
    assert_eq!(reason(&call(&small).await), None);
    drop(all);
    assert_eq!(small.counts(), Counts::default());
}

#[tokio::test(start_paused = true)]
async fn observing_lets_pass_and_waits_for_nobody() {
    let layer =
        BulkheadLayer::new(BulkheadConfig::new(1).queue(1, Duration::from_secs(9)).enforce(Enforce::Observe));
    let start = tokio::time::Instant::now();
    let mut all = Vec::new();
    for _ in 0..5 {
        all.push(call(&layer).await);
    }
    assert!(all.iter().all(|response| reason(response).is_none()));
    assert_eq!((layer.counts().working, start.elapsed()), (5, Duration::ZERO));
    drop(all);
    assert_eq!(layer.counts(), Counts::default());
}

/// A configuration that lost the race to be followed must not bring its `max` in after all.
#[test]
fn an_older_configuration_never_overtakes_a_newer_one() {
    let first = BulkheadLayer::new(BulkheadConfig::new(1));
    for round in 0..3000 {
        let older = first.reconfigured(&BulkheadConfig::new(7));
        let newer = first.reconfigured(&BulkheadConfig::new(3));
        let start = std::sync::Barrier::new(2);
        std::thread::scope(|scope| {
            for layer in [&older, &newer] {
                scope.spawn(|| {
                    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                    start.wait();
                    drop(runtime.block_on(call(layer)));
                });
            }
        });
        let said = first.explain(Now::read(), &mut Request::new(()).into_parts().0);
        assert_eq!(said, Finding::Admit("3 of 3 places free".into()), "round {round}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_lower_max_does_not_disturb_the_order_of_those_who_wait() {
    let wait = Duration::from_mins(1);
    let wide = BulkheadLayer::new(BulkheadConfig::new(3).queue(10, wait));
    let held = [call(&wide).await, call(&wide).await, call(&wide).await];
    let order = Arc::new(std::sync::Mutex::new(Vec::new()));
    let narrow = wide.reconfigured(&BulkheadConfig::new(1).queue(10, wait));
    let mut waiting = Vec::new();
    for (number, layer) in [&wide, &wide, &narrow].into_iter().enumerate() {
        let (layer, order) = (layer.clone(), Arc::clone(&order));
        waiting.push(tokio::spawn(async move {
            let response = call(&layer).await;
            order.lock().unwrap().push(number);
            response.collect().await.unwrap();
        }));
        tokio::task::yield_now().await;
    }
    for response in held {
        drop(response);
        tokio::task::yield_now().await;
    }
    for task in waiting {
        task.await.unwrap();
    }
    assert_eq!(*order.lock().unwrap(), [0, 1, 2]);
    assert_eq!(narrow.counts(), Counts::default());
}

fn header(head: &Head<'_>, name: &str) -> Option<usize> {
    head.headers.get(name).map(|value| value.to_str().unwrap().parse().unwrap())
}

fn by_tenant(head: &Head<'_>) -> Option<Key> {
    header(head, "x-tenant").map(Key::of)
}

fn asking(name: &str, value: usize) -> Request<()> {
    Request::builder().header(name, value).body(()).unwrap()
}

async fn ask(layer: &BulkheadLayer, request: Request<()>) -> Answer {
    let service = layer
        .layer(tower::service_fn(|_: Request<()>| async { Ok::<_, ()>(Response::new(Body::from("x"))) }));
    service.oneshot(request).await.unwrap()
}

/// Asks in a task of its own, and lets it come as far as it does.
async fn queued(layer: &BulkheadLayer, request: Request<()>) -> tokio::task::JoinHandle<Answer> {
    let layer = layer.clone();
    let task = tokio::spawn(async move { ask(&layer, request).await });
    tokio::task::yield_now().await;
    task
}

fn explained(layer: &BulkheadLayer, request: Request<()>) -> Finding {
    layer.explain(Now::read(), &mut request.into_parts().0)
}

#[tokio::test(start_paused = true)]
async fn r14_2_each_key_has_an_account_of_its_own_under_one_total() {
    let config = BulkheadConfig::new(2).queue(1, Duration::from_secs(1)).total(3).partitions(2);
    let layer = BulkheadLayer::partitioned(config, by_tenant);
    let tenant = |number| asking("x-tenant", number);
    let first = [ask(&layer, tenant(1)).await, ask(&layer, tenant(1)).await];
    let waits = queued(&layer, tenant(1)).await;
    assert_eq!(reason(&ask(&layer, tenant(1)).await), Some(Reason::BulkheadFull));
    let other = ask(&layer, tenant(2)).await;
    assert_eq!(reason(&other), None, "whoever takes all of its own takes nothing of others");
    assert_eq!(reason(&ask(&layer, tenant(3)).await), Some(Reason::PartitionsFull));
    assert_eq!((layer.partitions(), layer.counts()), (2, Counts { working: 3, waiting: 1 }));
    let second_waits = queued(&layer, tenant(2)).await;
    assert!(matches!(explained(&layer, tenant(2)), Finding::Reject(_)), "the total is in use, and its queue");
    drop(other);
    tokio::task::yield_now().await;
    assert!(!waits.is_finished(), "its partition is full, so the next in turn is served");
    let second = second_waits.await.unwrap();
    assert_eq!(reason(&second), None);
    drop(first);
    assert_eq!(reason(&waits.await.unwrap()), None);
    drop(second);
    assert_eq!(
        (layer.partitions(), layer.counts()),
        (0, Counts::default()),
        "those with nobody are forgotten"
    );
    assert_eq!(reason(&ask(&layer, tenant(3)).await), None);
    let no_key = [call(&layer).await, call(&layer).await];
    assert_eq!(explained(&layer, Request::new(())), explained(&layer, Request::new(())));
    assert_eq!(layer.partitions(), 1, "those without a key share one");
    drop(no_key);
}

#[tokio::test(start_paused = true)]
async fn r14_2_a_tier_borrows_what_is_free_and_not_kept() {
    let shares = [Share::new(2, 3), Share::new(0, 4), Share::new(1, 5)];
    let layer =
        BulkheadLayer::tiered(BulkheadConfig::new(5).tiers(&shares), |head| header(head, "x-tier").unwrap());
    let tier = |number| asking("x-tier", number);
    let borrowed = [ask(&layer, tier(1)).await, ask(&layer, tier(1)).await];
    assert_eq!(reason(&ask(&layer, tier(1)).await), Some(Reason::BulkheadFull), "three are kept for others");
    let mut kept = vec![ask(&layer, tier(0)).await, ask(&layer, tier(0)).await];
    assert_eq!(reason(&ask(&layer, tier(0)).await), Some(Reason::BulkheadFull), "one is kept for the last");
    kept.push(ask(&layer, tier(99)).await);
    assert!(kept.iter().all(|response| reason(response).is_none()), "one that does not exist is the last");
    assert_eq!(layer.counts().working, 5);
    drop(borrowed);
    assert_eq!(reason(&ask(&layer, tier(0)).await), None, "its third");
    drop(kept);
    assert_eq!(layer.counts(), Counts::default());
}

#[tokio::test(start_paused = true)]
async fn r14_6_partitions_follow_a_reload_and_nobody_is_cut_off() {
    let wait = Duration::from_secs(9);
    let tenant = || asking("x-tenant", 1);
    let wide = BulkheadLayer::partitioned(BulkheadConfig::new(3).queue(4, wait), by_tenant);
    let mut held = vec![ask(&wide, tenant()).await, ask(&wide, tenant()).await, ask(&wide, tenant()).await];
    let narrow = wide.reconfigured(&BulkheadConfig::new(1).queue(4, wait));
    assert!(matches!(explained(&narrow, tenant()), Finding::WouldAsk(_)));
    let waits = [queued(&narrow, tenant()).await, queued(&wide, tenant()).await];
    held.truncate(1);
    tokio::task::yield_now().await;
    assert_eq!(wide.counts(), Counts { working: 1, waiting: 2 }, "an older layer follows the newer maximum");
    let back = narrow.reconfigured(&BulkheadConfig::new(3).queue(4, wait));
    let newcomer = queued(&back, tenant()).await;
    for task in waits {
        held.push(task.await.unwrap());
    }
    assert!(!newcomer.is_finished(), "those who waited came first");
    held.clear();
    assert_eq!(reason(&newcomer.await.unwrap()), None);
    assert_eq!((back.counts(), back.partitions()), (Counts::default(), 0));
}

#[tokio::test(start_paused = true)]
async fn the_least_important_go_first_and_do_not_wait() {
    let config = BulkheadConfig::new(10).priorities([50, 70, 90, 100]).queue(1, Duration::from_secs(1));
    let priority = |head: &Head<'_>| u8::try_from(header(head, "x-priority").unwrap()).unwrap();
    for layer in [BulkheadLayer::new(config), BulkheadLayer::partitioned(config, |_| None)] {
        let layer = layer.priority_by(priority);
        let mut held = Vec::new();
        for (number, expected) in [(0, 5), (1, 7), (2, 9), (7, 10)] {
            let request = || asking("x-priority", number);
            while matches!(explained(&layer, request()), Finding::Admit(_)) {
                let response = ask(&layer, request()).await;
                assert_eq!(reason(&response), None);
                held.push(response);
            }
            assert_eq!(held.len(), expected);
            if number < 3 {
                assert_eq!(reason(&ask(&layer, request()).await), Some(Reason::Shed));
            }
        }
        assert_eq!(reason(&ask(&layer, asking("x-priority", 3)).await), Some(Reason::BulkheadTimeout));
        drop(held);
        assert_eq!(layer.counts(), Counts::default());
    }
}

#[tokio::test(start_paused = true)]
async fn r14_5_nobody_waits_beyond_the_deadline_and_one_that_is_over_takes_no_place() {
    let config = BulkheadConfig::new(1).queue(9, Duration::from_secs(1));
    for layer in [BulkheadLayer::new(config), BulkheadLayer::partitioned(config, |_| None)] {
        let start = tokio::time::Instant::now();
        let until = |ms| {
            let mut request = Request::new(());
            request.extensions_mut().insert(Deadline(start + Duration::from_millis(ms)));
            request
        };
        let over = || {
            let mut request = Request::new(());
            request.extensions_mut().insert(Context::new(Now::from(start)).with_deadline(start));
            request
        };
        assert!(matches!(explained(&layer, over()), Finding::Reject(_)));
        assert_eq!(reason(&ask(&layer, over()).await), Some(Reason::DeadlineExpired));
        let held = ask(&layer, until(5)).await;
        let waiting = [queued(&layer, until(300)).await, queued(&layer, until(5_000)).await];
        let [early, late] = waiting;
        assert_eq!(reason(&early.await.unwrap()), Some(Reason::DeadlineExpired));
        assert_eq!(start.elapsed().as_millis() / 10, 30);
        assert_eq!(layer.counts(), Counts { working: 1, waiting: 1 }, "the next moves up");
        assert_eq!(reason(&late.await.unwrap()), Some(Reason::BulkheadTimeout));
        assert_eq!(start.elapsed().as_millis() / 10, 100);
        // A place that comes at the very moment when the time is over goes on to the next.
        let last = start + Duration::from_millis(1_500);
        let waiting = [queued(&layer, until(1_500)).await, queued(&layer, until(9_000)).await];
        tokio::time::advance(last - tokio::time::Instant::now()).await;
        drop(held);
        let [at_the_end, next] = waiting;
        assert_eq!(reason(&at_the_end.await.unwrap()), Some(Reason::DeadlineExpired));
        assert_eq!(reason(&next.await.unwrap()), None);
        assert_eq!(layer.counts(), Counts::default());
    }
}

/// A service that takes a tenth of a second for each who is at work.
async fn adapted(config: BulkheadConfig) -> (BulkheadLayer, u32) {
    let (working, peak) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let layer = BulkheadLayer::new(config);
    let service = layer.layer(tower::service_fn({
        let peak = Arc::clone(&peak);
        move |_: Request<()>| {
            let at_work = AtWork::begin(Arc::clone(&working), &peak);
            async move {
                let others = at_work.0.load(SeqCst);
                tokio::time::sleep(Duration::from_millis(100) * others.div_ceil(8)).await;
                drop(at_work);
                Ok::<_, ()>(Response::new(Body::from("x")))
            }
        }
    }));
    for _ in 0..400 {
        let all = (0..64).map(|_| tokio::spawn(service.clone().oneshot(Request::new(()))));
        for task in all.collect::<Vec<_>>() {
            drop(task.await.unwrap().unwrap().collect().await);
        }
    }
    assert_eq!(layer.counts(), Counts::default());
    (layer, peak.load(SeqCst))
}

#[tokio::test(start_paused = true)]
async fn r14_5_an_adaptive_limit_observes_until_it_is_told_to_act() {
    for adaptive in [Adaptive::gradient2(2, 60), Adaptive::aimd(2, 60, Duration::from_millis(250))] {
        let config = BulkheadConfig::new(64).queue(64, Duration::from_hours(1)).adaptive(adaptive);
        let (observes, peak) = adapted(config).await;
        assert_eq!(peak, 64, "{adaptive:?}");
        assert!(observes.adaptive_limit().is_some());
        let (acts, peak) = adapted(config.adapt(Enforce::Always)).await;
        let limit = acts.adaptive_limit().unwrap();
        assert!((4..=40).contains(&limit) && peak <= 60, "{adaptive:?}: {limit}, {peak}");
        let held = call(&acts).await;
        assert_eq!(reason(&held), None);
        let other = acts.reconfigured(&BulkheadConfig::new(64));
        drop(call(&other).await);
        assert_eq!(explained(&acts, Request::new(())), Finding::Admit("63 of 64 places free".into()));
        assert_eq!(other.adaptive_limit(), None);
    }
    let fresh = BulkheadLayer::new(
        BulkheadConfig::new(64).adaptive(Adaptive::gradient2(2, 60)).adapt(Enforce::Always),
    );
    assert_eq!(explained(&fresh, Request::new(())), Finding::Admit("2 of 2 places free".into()));
}

/// Ten answers raise the limit while all ten bodies are kept: nobody leaves, and yet one who waits goes on.
#[tokio::test(start_paused = true)]
async fn r14_5_a_limit_that_rises_wakes_who_waits() {
    let adaptive = Adaptive::aimd(10, 60, Duration::from_secs(1));
    let config = BulkheadConfig::new(64).queue(5, Duration::from_mins(1));
    let layer = BulkheadLayer::new(config.adaptive(adaptive).adapt(Enforce::Always));
    let service = layer.layer(tower::service_fn(|request: Request<()>| async move {
        let ms = header(&Head::from(&request), "x-ms").unwrap();
        tokio::time::sleep(Duration::from_millis(ms.try_into().unwrap())).await;
        Ok::<_, ()>(Response::new(Body::from("x")))
    }));
    let start = tokio::time::Instant::now();
    let all = (0..12).map(|number| tokio::spawn(service.clone().oneshot(asking("x-ms", number % 10 * 20))));
    let mut kept = Vec::new();
    for task in all.collect::<Vec<_>>().into_iter().take(11) {
        kept.push(task.await.unwrap().unwrap());
    }
    assert!(kept.iter().all(|response| reason(response).is_none()));
    assert_eq!(start.elapsed().as_millis() / 10, 18, "the eleventh went on with the tenth's answer");
    assert_eq!((layer.adaptive_limit(), layer.counts()), (Some(11), Counts { working: 11, waiting: 1 }));
}

/// By the gradient, at a limit of eight, of which a probe leaves two.
async fn at_eight() -> BulkheadLayer {
    let config = BulkheadConfig::new(64).adapt(Enforce::Always);
    let first = BulkheadLayer::new(config.adaptive(Adaptive::aimd(8, 8, Duration::from_secs(1))));
    drop(call(&first).await);
    first.reconfigured(&config.adaptive(Adaptive::gradient2(1, 8)))
}

/// Two streams are all of the quarter of a limit that a probe leaves. Nobody could begin, so nobody was answered,
/// and only an answer could have ended the probe.
#[tokio::test(start_paused = true)]
async fn r14_5_a_probe_that_lets_nobody_in_beside_streams_ends_when_its_time_is_over() {
    let layer = at_eight().await;
    let streams = [call(&layer).await, call(&layer).await, call(&layer).await];
    assert!(streams[..2].iter().all(|response| reason(response).is_none()));
    assert_eq!(reason(&streams[2]), Some(Reason::BulkheadFull), "the first answer began a probe");
    assert_eq!(explained(&layer, Request::new(())), Finding::Reject(Reason::BulkheadFull.into()));
    tokio::time::advance(Duration::from_millis(1001)).await;
    assert_eq!(explained(&layer, Request::new(())), Finding::Admit("6 of 8 places free".into()));
    assert_eq!(reason(&call(&layer).await), None);
}

/// Each time it would find out no more than that the streams are still there.
#[tokio::test(start_paused = true)]
async fn r14_5_probes_that_let_nobody_in_become_rare() {
    let layer = at_eight().await;
    let _streams = [call(&layer).await, call(&layer).await];
    let mut refused = 0;
    for _ in 0..6000 {
        tokio::time::advance(Duration::from_millis(100)).await;
        refused += u32::from(reason(&call(&layer).await).is_some());
    }
    assert!(refused < 80, "{refused} of 6000");
}

/// Given up before the first poll, while waiting, just when a place came, and at work.
#[tokio::test(start_paused = true)]
async fn r14_4_a_million_cancellations_leave_nothing_behind() {
    use std::task::{Context, Waker};

    let config = BulkheadConfig::new(2).queue(2, Duration::from_secs(9)).total(5);
    let shares = [Share::new(1, 2), Share::new(0, 2), Share::new(1, 4)];
    let layers = [
        BulkheadLayer::new(config),
        BulkheadLayer::partitioned(config, by_tenant),
        BulkheadLayer::tiered(config.tiers(&shares), |head| header(head, "x-tenant").unwrap()),
    ];
    for (layer, goal) in layers.iter().zip([400_000, 300_000, 300_000]) {
        let mut service = layer.layer(tower::service_fn(|_: Request<()>| {
            std::future::pending::<Result<Response<Body>, ()>>() // At work until it is dropped.
        }));
        let (mut kept, mut random) = (std::collections::VecDeque::new(), 7_u64);
        let (mut cancelled, mut round) = (0, 0);
        let mut cx = Context::from_waker(Waker::noop());
        let requests = [0, 1, 2].map(|number| asking("x-tenant", number));
        while cancelled < goal {
            round += 1;
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let mut call = Box::pin(service.call(requests[round % 3].clone()));
            let is_refused = random % 4 != 0 && call.as_mut().poll(&mut cx).is_ready();
            if !is_refused && random % 3 != 0 {
                kept.push_back(call);
            } else {
                cancelled += u32::from(!is_refused); // Never polled, or just once.
            }
            if kept.len() > 5 || random % 7 == 0 {
                // The oldest is at work, so one who waits is given its place; sometimes it goes unseen.
                cancelled += u32::from(kept.pop_front().is_some());
                if random % 2 == 0 {
                    cancelled += u32::from(kept.pop_back().is_some());
                }
            }
            if random % 5 == 0 {
                kept.retain_mut(|call| call.as_mut().poll(&mut cx).is_pending());
            }
        }
        drop(kept);
        assert_eq!((layer.counts(), layer.partitions()), (Counts::default(), 0));
        let found = explained(layer, requests[0].clone());
        assert!(matches!(found, Finding::Admit(_)), "{found:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn r14_2_no_partition_is_ever_above_its_maximum_and_nobody_is_left_waiting() {
    let config = BulkheadConfig::new(2).queue(10_000, Duration::from_mins(1)).total(5);
    let layer = BulkheadLayer::partitioned(config, by_tenant);
    let counts = || [0, 1, 2, 3].map(|_| (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0))));
    let (each, all) = (Arc::new(counts()), Arc::new((Arc::new(AtomicU32::new(0)), AtomicU32::new(0))));
    let service = layer.layer(tower::service_fn({
        let (each, all) = (Arc::clone(&each), Arc::clone(&all));
        move |request: Request<()>| {
            let tenant = header(&Head::from(&request), "x-tenant").unwrap();
            let mine = AtWork::begin(Arc::clone(&each[tenant].0), &each[tenant].1);
            let one = AtWork::begin(Arc::clone(&all.0), &all.1);
            async move {
                tokio::task::yield_now().await;
                drop((mine, one));
                Ok::<_, ()>(Response::new(Body::from("x")))
            }
        }
    }));
    let tasks = (0..8_000_u64).map(|number| {
        let service = service.clone();
        tokio::spawn(async move {
            let request = asking("x-tenant", usize::try_from(number % 4).unwrap());
            let call = async { drop(service.oneshot(request).await.unwrap().collect().await) };
            if number % 5 == 0 {
                let _ = tokio::time::timeout(Duration::from_micros(number % 300), call).await; // Gives up.
            } else {
                call.await;
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        tokio::time::timeout(Duration::from_mins(1), task).await.expect("somebody is left waiting").unwrap();
    }
    assert!(each.iter().all(|(_, peak)| peak.load(SeqCst) <= 2) && all.1.load(SeqCst) <= 5);
    assert_eq!((layer.counts(), layer.partitions()), (Counts::default(), 0));
}

/// How long each has waited, in milliseconds.
#[derive(Clone, Debug, Default)]
struct Waited(Arc<std::sync::Mutex<Vec<u128>>>);

impl naka::observe::Observer for Waited {
    fn waited(&self, waited: Duration) {
        self.0.lock().unwrap().push(waited.as_millis());
    }
}

#[tokio::test(start_paused = true)]
async fn r14_6_who_waited_tells_how_long_whatever_came_of_it() {
    for is_split in [false, true] {
        let (heard, config) =
            (Waited::default(), BulkheadConfig::new(1).queue(9, Duration::from_millis(500)));
        let mut layer = BulkheadLayer::observed(config, heard.clone());
        if is_split {
            layer = layer.partitioned_by(|_| Some(Key::of("one")));
        }
        let service = layer.layer(tower::service_fn(|_: Request<()>| async {
            tokio::time::sleep(Duration::from_millis(400)).await;
            Ok::<_, ()>(Response::new(Body::from("x")))
        }));
        let ask = || tokio::spawn(service.clone().oneshot(Request::new(())));
        let first = ask();
        tokio::time::sleep(Duration::from_millis(100)).await;
        let (second, third, fourth) = (ask(), ask(), ask());
        tokio::time::sleep(Duration::from_millis(50)).await;
        fourth.abort(); // Its caller gives up.
        let first = first.await.unwrap().unwrap();
        drop(first);
        let second = second.await.unwrap().unwrap(); // Let in at 400 ms, and it keeps its place.
        let third = third.await.unwrap().unwrap();
        assert_eq!(third.status(), 503);
        drop(second);
        assert_eq!(*heard.0.lock().unwrap(), [50, 300, 500], "given up, let in, refused; split: {is_split}");
    }
}
