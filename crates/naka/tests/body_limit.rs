//! Bounds of request bodies.
#![allow(clippy::unwrap_used, reason = "a test may")]

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Full};
use naka::{
    BoxError,
    body_limit::{BodyLimitLayer, Limited, TooLarge},
    clock::Now,
    explain::{Explain, Finding},
    reject::{Reason, Rejection},
};
use proptest::prelude::*;
use tower::{Layer, Service, ServiceExt, service_fn};

/// Frames that come one by one, from a body that does not say how much they are.
#[derive(Debug, Default)]
struct Stream(VecDeque<Result<Frame<Bytes>, BoxError>>);

impl Stream {
    fn of(pieces: impl IntoIterator<Item = usize>) -> Self {
        let data = |len: usize| Ok(Frame::data(Bytes::from(vec![b'x'; len])));
        Self(pieces.into_iter().map(data).collect())
    }
}

impl Body for Stream {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Poll::Ready(self.0.pop_front())
    }
}

/// What is behind reads all and answers: with the number of bytes, or with 500 if they did not come.
async fn reads<B>(request: Request<Limited<B>>) -> Result<Response<Full<Bytes>>, &'static str>
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Default,
{
    Ok(match request.into_body().collect().await {
        Ok(all) => Response::new(all.to_bytes().len().to_string().into()),
        Err(_) => Response::builder().status(500).body("that went wrong".into()).unwrap(),
    })
}

fn reason<B>(response: &Response<B>) -> Option<Reason> {
    response.extensions().get::<Rejection>().map(|rejection| rejection.reason)
}

async fn ask(layer: &BodyLimitLayer, body: Stream) -> Response<Full<Bytes>> {
    layer.layer(service_fn(reads)).oneshot(Request::new(body)).await.unwrap()
}

#[tokio::test]
async fn what_says_that_it_is_too_large_is_not_passed_on() {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let counts = service_fn(move |_: Request<Limited<Stream>>| {
        counted.fetch_add(1, SeqCst);
        async { Ok::<_, &str>(Response::new(Full::<Bytes>::default())) }
    });
    let layer = BodyLimitLayer::new(10).named(&"small".into());
    let announced = |length: &'static str| {
        let request = Request::post("/").header("content-length", length).header("expect", "100-continue");
        request.body(Stream::default()).unwrap()
    };
    for (length, status) in [("10", 200), ("11", 413), ("18446744073709551615", 413)] {
        let said = layer.explain(Now::read(), &mut announced(length).into_parts().0);
        let response = layer.layer(counts.clone()).oneshot(announced(length)).await.unwrap();
        assert_eq!(response.status(), status);
        match response.extensions().get::<Rejection>() {
            Some(rejection) => assert_eq!(said, Finding::Reject(rejection.clone())),
            None => assert_eq!(said, Finding::Admit("the body may have 10 bytes".into())),
        }
    }
    assert_eq!(calls.load(SeqCst), 1);
    let full = Request::new(Full::<Bytes>::from("12345678901")); // It knows, without a header.
    let response = layer.layer(service_fn(reads)).oneshot(full).await.unwrap();
    assert_eq!(reason(&response), Some(Reason::BodyTooLarge));
}

#[tokio::test]
async fn what_streams_is_cut_and_answered_whatever_is_made_of_it() {
    let layer = BodyLimitLayer::new(10);
    let fits = ask(&layer, Stream::of([4, 0, 6])).await;
    assert_eq!(fits.into_body().collect().await.unwrap().to_bytes(), "10");
    let refused = ask(&layer, Stream::of([4, 6, 1])).await;
    assert_eq!((refused.status().as_u16(), reason(&refused)), (413, Some(Reason::BodyTooLarge)));

    let fails = service_fn(async |request: Request<Limited<Stream>>| {
        let error = request.into_body().collect().await.unwrap_err();
        assert!(error.is::<TooLarge>());
        Err::<Response<Full<Bytes>>, _>("it broke off")
    });
    let refused = layer.layer(fails).oneshot(Request::new(Stream::of([11]))).await.unwrap();
    assert_eq!(reason(&refused), Some(Reason::BodyTooLarge), "an error because of it is that answer, too");
}

#[tokio::test]
async fn other_failures_are_nobodys_but_theirs() {
    let layer = BodyLimitLayer::new(10);
    let mut broken = Stream::of([4]);
    broken.0.push_back(Err("gone".into()));
    let answer = ask(&layer, broken).await;
    assert_eq!((answer.status().as_u16(), reason(&answer)), (500, None));
    let fails = service_fn(async |_: Request<Limited<Stream>>| Err::<Response<Full<Bytes>>, _>("broken"));
    assert_eq!(layer.layer(fails).oneshot(Request::new(Stream::of([11]))).await.err(), Some("broken"));
}

#[tokio::test]
async fn whoever_has_answered_already_only_gets_the_error() {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    let sender = std::sync::Mutex::new(Some(sender));
    let answers_first = service_fn(move |request: Request<Limited<Stream>>| {
        let sender = sender.lock().unwrap().take().unwrap();
        tokio::spawn(async move { sender.send(request.into_body().collect().await.err()) });
        async { Ok::<_, &str>(Response::new(Full::<Bytes>::default())) }
    });
    let mut service = BodyLimitLayer::new(10).layer(answers_first);
    let response = service.call(Request::new(Stream::of([11]))).await.unwrap();
    assert_eq!((response.status().as_u16(), reason(&response)), (200, None));
    assert!(receiver.await.unwrap().unwrap().is::<TooLarge>());
}

#[tokio::test]
async fn trailers_pass_and_after_the_error_there_is_nothing() {
    let mut with_trailers = Stream::of([10]);
    let trailers = HeaderMap::from_iter([("checked".parse().unwrap(), HeaderValue::from_static("yes"))]);
    with_trailers.0.push_back(Ok(Frame::trailers(trailers)));
    let looks = service_fn(async |request: Request<Limited<Stream>>| {
        let all = request.into_body().collect().await.map_err(|_| "too large")?;
        assert_eq!(all.trailers().unwrap()["checked"], "yes");
        Ok::<_, &str>(Response::new(Full::<Bytes>::default()))
    });
    let layer = BodyLimitLayer::new(10);
    assert_eq!(layer.layer(looks).oneshot(Request::new(with_trailers)).await.unwrap().status(), 200);

    let goes_on = service_fn(async |request: Request<Limited<Stream>>| {
        let mut body = request.into_body();
        assert!(body.frame().await.unwrap().is_err());
        assert!(body.is_end_stream() && body.frame().await.is_none(), "nothing of the rest is read");
        Ok::<_, &str>(Response::new(Full::<Bytes>::default()))
    });
    let refused = layer.layer(goes_on).oneshot(Request::new(Stream::of([11, 1]))).await.unwrap();
    assert_eq!(refused.status(), 413);
}

/// A body that says less than it is: the bound holds all the same.
#[tokio::test]
async fn a_body_is_not_believed() {
    struct Liar(Stream);
    impl Body for Liar {
        type Data = Bytes;
        type Error = BoxError;
        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
            Pin::new(&mut self.0).poll_frame(cx)
        }
        fn size_hint(&self) -> SizeHint {
            SizeHint::with_exact(1)
        }
    }
    let looks = service_fn(async |request: Request<Limited<Liar>>| {
        assert!(request.into_body().collect().await.unwrap_err().is::<TooLarge>());
        Ok::<_, &str>(Response::new(Full::<Bytes>::default()))
    });
    BodyLimitLayer::new(10).layer(looks).oneshot(Request::new(Liar(Stream::of([11])))).await.unwrap();
}

#[tokio::test]
async fn reconfigured_back_and_forth_and_off() {
    let small = BodyLimitLayer::new(10);
    let large = small.reconfigured(100);
    for (layer, status) in [(&small, 413), (&large, 200), (&large.reconfigured(10), 413)] {
        assert_eq!(ask(layer, Stream::of([50])).await.status(), status);
    }
    assert_eq!(ask(&BodyLimitLayer::off(), Stream::of([1 << 20])).await.status(), 200);
    assert_eq!(ask(&BodyLimitLayer::new(0), Stream::of([1])).await.status(), 413);
    assert_eq!(ask(&BodyLimitLayer::new(0), Stream::default()).await.status(), 200);
}

/// axum answers a body that breaks off in a way of its own; the client hears what it was.
#[tokio::test]
async fn it_stands_in_axum_as_it_is() {
    use axum::{Router, body::Body, routing::post};

    let app = Router::new().route("/", post(async |body: String| body)).layer(BodyLimitLayer::new(10));
    let ask = async |body: Body| app.clone().oneshot(Request::post("/").body(body).unwrap()).await.unwrap();
    assert_eq!(ask(Body::from("1234567890")).await.status(), 200);
    for refused in [ask(Body::from("12345678901")).await, ask(Body::new(Stream::of([6, 6]))).await] {
        assert_eq!((refused.status().as_u16(), reason(&refused)), (413, Some(Reason::BodyTooLarge)));
    }
}

proptest! {
    /// However it is cut: it passes whole, or not at all.
    #[test]
    fn what_is_passed_on_is_never_above_the_bound(pieces in proptest::collection::vec(0..50_usize, 0..20)) {
        let (sum, max) = (pieces.iter().sum::<usize>(), 200);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let response = runtime.block_on(ask(&BodyLimitLayer::new(max), Stream::of(pieces)));
        let is_in = sum <= usize::try_from(max).unwrap();
        prop_assert_eq!(response.status().as_u16(), if is_in { 200 } else { 413 });
    }
}
