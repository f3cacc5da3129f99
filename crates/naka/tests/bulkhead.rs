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
    bulkhead::{BulkheadConfig, BulkheadLayer, Counts},
    clock::Now,
    enforce::Enforce,
    explain::{Explain, Finding},
    guard::Guarded,
    reject::{Reason, Rejection},
};
use tower::{Layer, ServiceExt};

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
