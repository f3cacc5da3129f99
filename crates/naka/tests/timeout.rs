//! The timeout, and the end of bodies, beyond the laws that all layers keep.
#![allow(clippy::unwrap_used, reason = "a test may")]

use std::{
    collections::VecDeque,
    convert::Infallible,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Empty};
use naka::{
    bulkhead::{BulkheadConfig, BulkheadLayer},
    context::Deadline,
    guard::{End, Guard, Guarded},
    timeout::{Elapsed, TimeoutLayer},
};
use tokio::time::Instant;
use tower::{Layer, ServiceExt};

/// Frames that are always ready, and never known to be the last.
#[derive(Debug, Default)]
struct Frames(VecDeque<Frame<Bytes>>);

impl Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop_front().map(Ok))
    }
}

/// An upstream that always has more cannot outlast its deadline by it.
#[tokio::test(start_paused = true)]
async fn a_body_whose_frames_are_always_ready_ends_at_the_deadline() {
    let service =
        TimeoutLayer::new(Duration::from_secs(10)).layer(tower::service_fn(|_: Request<()>| async {
            let frames = (0..100).map(|_| Frame::data(Bytes::from_static(b"more")));
            Ok::<_, ()>(Response::new(Frames(frames.collect())))
        }));
    let mut body = Box::pin(service.oneshot(Request::new(())).await.unwrap().into_body());
    for _ in 0..10 {
        assert!(body.frame().await.unwrap().is_ok());
        tokio::time::advance(Duration::from_secs(1)).await;
    }
    assert!(body.frame().await.unwrap().unwrap_err().is::<Elapsed>());
    assert!(body.frame().await.is_none());
}

/// Bug: a stream of events, or a call that goes on, was cut by the time that is for answers.
#[tokio::test(start_paused = true)]
async fn a_stream_that_has_begun_has_all_the_time_but_what_its_caller_said() {
    let lasts = async |content_type: &'static str, told: Option<u64>| {
        let service = TimeoutLayer::new(Duration::from_secs(10)).layer(tower::service_fn(
            move |_: Request<()>| async move {
                let frames = (0..100).map(|_| Frame::data(Bytes::from_static(b"event")));
                let response = Response::builder().header("content-type", content_type);
                Ok::<_, ()>(response.body(Frames(frames.collect())).unwrap())
            },
        ));
        let mut request = Request::new(());
        if let Some(told) = told {
            request.extensions_mut().insert(Deadline(Instant::now() + Duration::from_secs(told)));
        }
        let mut body = Box::pin(service.oneshot(request).await.unwrap().into_body());
        let mut seconds = 0;
        while let Some(Ok(_)) = body.frame().await {
            tokio::time::advance(Duration::from_secs(1)).await;
            seconds += 1;
        }
        seconds
    };
    for stream in [
        "text/event-stream",
        "Text/Event-Stream; charset=utf-8",
        "application/grpc",
        "application/grpc+proto",
    ] {
        assert_eq!(lasts(stream, None).await, 100, "{stream}");
        assert_eq!(
            lasts(stream, Some(60)).await,
            100,
            "{stream}: more than is allowed is not what it waits for"
        );
        assert_eq!(lasts(stream, Some(4)).await, 4, "{stream}");
    }
    for other in ["text/plain", "text/event-streams", "application/grpc-web", ""] {
        assert_eq!(lasts(other, None).await, 10, "{other}");
    }
}

/// A place in a queue inside that becomes free too late is not taken.
#[tokio::test(start_paused = true)]
async fn after_the_deadline_no_request_is_sent_only_to_be_cancelled() {
    let calls = Arc::new(AtomicU32::new(0));
    let bulkhead = BulkheadLayer::new(BulkheadConfig::new(1).queue(1, Duration::from_secs(30)));
    let service = TimeoutLayer::new(Duration::from_secs(1)).layer(bulkhead.layer(tower::service_fn({
        let calls = Arc::clone(&calls);
        move |_: Request<()>| {
            calls.fetch_add(1, SeqCst);
            async { Ok::<_, ()>(Response::new(Empty::<Bytes>::new())) }
        }
    })));
    let held = service.clone().oneshot(Request::new(())).await.unwrap();
    let mut waiting = pin!(service.oneshot(Request::new(())));
    poll_fn(|cx| Poll::Ready(waiting.as_mut().poll(cx).is_ready())).await;
    tokio::time::advance(Duration::from_secs(2)).await;
    drop(held);
    assert_eq!(waiting.await.unwrap().status(), 504);
    assert_eq!(calls.load(SeqCst), 1, "the upstream was asked although time was up");
}

struct Told(Arc<Mutex<Option<End>>>);

impl Guard for Told {
    fn end(self, end: End) {
        *self.0.lock().unwrap() = Some(end);
    }
}

/// Trailers are the last of a body: a server does not ask for more, and drops it.
#[tokio::test]
async fn a_body_that_is_dropped_after_its_trailers_is_complete() {
    let told = Arc::new(Mutex::new(None));
    let frames = [Frame::data(Bytes::from_static(b"all")), Frame::trailers(HeaderMap::new())];
    let mut body = Guarded::new(Frames(frames.into()), Some(Told(Arc::clone(&told))));
    assert!(body.frame().await.unwrap().unwrap().is_data());
    assert_eq!(*told.lock().unwrap(), None);
    assert!(body.frame().await.unwrap().unwrap().is_trailers());
    drop(body);
    assert_eq!(*told.lock().unwrap(), Some(End::Complete));
}

/// What the caller says counts if it is earlier, and alone where nothing else is said.
#[tokio::test(start_paused = true)]
async fn a_deadline_that_the_request_carries_is_kept_to() {
    let calls = Arc::new(AtomicU32::new(0));
    let hangs = tower::service_fn({
        let calls = Arc::clone(&calls);
        move |_: Request<()>| {
            calls.fetch_add(1, SeqCst);
            std::future::pending::<Result<Response<Empty<Bytes>>, ()>>()
        }
    });
    let told = |after: Option<u64>| {
        let mut request = Request::new(());
        if let Some(after) = after {
            request.extensions_mut().insert(Deadline(Instant::now() + Duration::from_secs(after)));
        }
        request
    };
    let ended = |layer: TimeoutLayer, after| {
        let service = layer.layer(hangs.clone());
        async move {
            let began = Instant::now();
            assert_eq!(service.oneshot(told(after)).await.unwrap().status(), 504);
            began.elapsed().as_secs()
        }
    };
    let ten = TimeoutLayer::new(Duration::from_secs(10));
    assert_eq!((ended(ten, None).await, ended(ten, Some(3)).await, ended(ten, Some(30)).await), (10, 3, 10));
    assert_eq!((ended(TimeoutLayer::told(), Some(30)).await, calls.load(SeqCst)), (30, 4));
    assert_eq!(ended(ten, Some(0)).await, 0);
    assert_eq!(calls.load(SeqCst), 4, "nobody waits for it: nobody is asked");
    let for_ever = TimeoutLayer::told().layer(hangs.clone()).oneshot(told(None));
    assert!(tokio::time::timeout(Duration::from_hours(100), for_ever).await.is_err());
    let off = TimeoutLayer::off().layer(hangs).oneshot(told(Some(1)));
    assert!(tokio::time::timeout(Duration::from_hours(100), off).await.is_err());
}
