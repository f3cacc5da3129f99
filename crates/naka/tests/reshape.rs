//! Bodies that are changed on their way.
#![allow(clippy::unwrap_used, reason = "a test may")]

use std::{
    collections::VecDeque,
    convert::Infallible,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Full};
use naka::{
    BoxError,
    clock::{Now, WallClock},
    context::ApiVersion,
    explain::{Explain, Finding},
    observe::Observer,
    reject::{Dependency, Head, Reason, Rejection},
    reshape::{ReshapeConfig, ReshapeLayer, ReshapeRequestLayer},
    version::{Strategy, Version, VersionConfig, VersionLayer},
};
use proptest::prelude::*;
use serde_json::{Value, json};
use tower::{Layer, Service, ServiceExt, service_fn};

/// Frames as they were told, an error if there is one, and then an end, or none.
#[derive(Debug, Default)]
struct Frames {
    queue: VecDeque<Result<Frame<Bytes>, &'static str>>,
    never_ends: bool,
    says: Option<u64>,
    _live: Option<Arc<()>>,
}

impl Frames {
    fn of(pieces: &[&'static str]) -> Self {
        let frames = pieces.iter().map(|piece| Ok(Frame::data(Bytes::from_static(piece.as_bytes()))));
        Self { queue: frames.collect(), ..Self::default() }
    }

    fn then(mut self, frame: Result<Frame<Bytes>, &'static str>) -> Self {
        self.queue.push_back(frame);
        self
    }
}

impl Body for Frames {
    type Data = Bytes;
    type Error = &'static str;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, &'static str>>> {
        match self.queue.pop_front() {
            None if self.never_ends => Poll::Pending,
            frame => Poll::Ready(frame),
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.says.map(SizeHint::with_exact).unwrap_or_default()
    }
}

fn trailers() -> HeaderMap {
    HeaderMap::from_iter([("checked".parse().unwrap(), HeaderValue::from_static("yes"))])
}

#[expect(clippy::unnecessary_wraps, reason = "as functions of bodies are")]
fn shout(body: &Bytes) -> Result<Bytes, BoxError> {
    Ok(body.to_ascii_uppercase().into())
}

fn shouting(config: ReshapeConfig) -> ReshapeLayer {
    ReshapeLayer::new(config, |_| true, shout)
}

fn json_head() -> http::response::Builder {
    Response::builder().header("content-type", "application/json; charset=utf-8")
}

async fn through<B: Body<Data = Bytes, Error: std::fmt::Debug> + Default + Send>(
    layer: &ReshapeLayer,
    request: Request<()>,
    response: Response<B>,
) -> (http::response::Parts, Bytes, Option<HeaderMap>) {
    let response = Mutex::new(Some(response));
    let service = service_fn(move |_: Request<()>| {
        let response = response.lock().unwrap().take().unwrap();
        async { Ok::<_, Infallible>(response) }
    });
    let (parts, body) = layer.layer(service).oneshot(request).await.unwrap().into_parts();
    let all = body.collect().await.unwrap();
    let trailers = all.trailers().cloned();
    (parts, all.to_bytes(), trailers)
}

fn reason(parts: &http::response::Parts) -> Option<Reason> {
    let rejection = parts.extensions.get::<Rejection>()?;
    assert_eq!(parts.status, rejection.reason.status());
    Some(rejection.reason)
}

#[tokio::test]
async fn r11_7_a_client_of_version_1_gets_its_shape_from_a_backend_of_version_3() {
    let rename = |body: &Bytes| -> Result<Bytes, BoxError> {
        let Value::Object(envelope) = serde_json::from_slice(body)? else {
            return Err("no envelope".into());
        };
        let product = envelope.get("data").and_then(Value::as_object).ok_or("no data")?;
        let part = |name: &str| product.get(name).cloned().ok_or("a part is missing");
        let flat =
            json!({ "id": part("product_id")?, "name": part("product_name")?, "price": part("price_inr")? });
        Ok(serde_json::to_vec(&flat)?.into())
    };
    let first = |head: &Head<'_>| ApiVersion::of(head.extensions).is_some_and(|version| &**version == "1");
    let backend = service_fn(|_: Request<()>| async {
        let product = json!({
            "data": { "product_id": 7, "product_name": "chai", "price_inr": 40, "ratings": [5, 4] },
            "meta": { "cache_ttl": 300 },
        });
        let head = json_head().header("etag", "\"3\"").header("vary", "origin");
        Ok::<_, Infallible>(head.body(Full::<Bytes>::from(product.to_string())).unwrap())
    });
    let versions = VersionConfig::new([Version::new("1").successor("3"), Version::new("3")]);
    let versions = versions.strategies([Strategy::stripped_path(), Strategy::header()]);
    let versions = versions.clock(WallClock::starting_at(1_800_000_000)).check().unwrap();
    let reshape = ReshapeLayer::new(ReshapeConfig::new(), first, rename);
    let service = VersionLayer::new(versions).layer(reshape.layer(backend));

    let ask = async |path: &str| {
        let response = service.clone().oneshot(Request::get(path).body(()).unwrap()).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let known: Value = serde_json::from_slice(&body).unwrap();
        (parts.headers, body.len(), known)
    };
    let (headers, len, old) = ask("/v1/products/7").await;
    assert_eq!(old, json!({ "id": 7, "name": "chai", "price": 40 }));
    assert_eq!(headers["content-length"], len.to_string());
    assert!(!headers.contains_key("etag"), "it was that of another body");
    assert_eq!(
        (&headers["x-api-version"], &headers["link"]),
        (&"1".parse().unwrap(), &"</v3/products/7>; rel=\"successor-version\"".parse().unwrap())
    );
    let (headers, _, new) = ask("/v3/products/7").await;
    assert_eq!(new["data"]["product_name"], "chai");
    assert_eq!(
        (&headers["x-api-version"], &headers["etag"]),
        (&"3".parse().unwrap(), &"\"3\"".parse().unwrap())
    );
}

#[tokio::test]
async fn headers_of_the_former_body_go_and_others_stay() {
    let gone = [
        "etag",
        "content-md5",
        "digest",
        "content-digest",
        "repr-digest",
        "accept-ranges",
        "transfer-encoding",
    ];
    let mut head = json_head().header("content-length", "999").header("last-modified", "then");
    for name in gone {
        head = head.header(name, "x");
    }
    let layer = shouting(ReshapeConfig::new());
    let (parts, body, trailers) =
        through(&layer, Request::new(()), head.body(Full::from("ab")).unwrap()).await;
    assert_eq!((&*body, trailers), (&b"AB"[..], None));
    assert!(gone.iter().all(|name| !parts.headers.contains_key(*name)));
    let lengths = parts.headers.get_all("content-length").iter().collect::<Vec<_>>();
    assert_eq!(lengths, ["2"]);
    assert_eq!(parts.headers["last-modified"], "then");
    assert_eq!(parts.headers["content-type"], "application/json; charset=utf-8");
}

#[tokio::test]
async fn what_it_has_no_say_in_passes_as_it_is() {
    let layer = shouting(ReshapeConfig::new());
    let tagged = || json_head().header("etag", "x").header("accept-ranges", "bytes");
    let plain = |head: http::response::Builder| head.body(Full::<Bytes>::from("ab")).unwrap();
    let untouched = [
        ("not found", plain(tagged().status(404))),
        ("moved", plain(tagged().status(301))),
        ("no content", plain(tagged().status(204))),
        ("not modified", plain(tagged().status(304))),
        ("problem", plain(Response::builder().header("content-type", "application/problem+json"))),
        ("text", plain(Response::builder().header("content-type", "text/html"))),
        ("no type", plain(Response::builder())),
        ("longer", plain(Response::builder().header("content-type", "application/json5"))),
    ];
    for (what, response) in untouched {
        let headers = response.headers().clone();
        let (parts, body, _) = through(&layer, Request::new(()), response).await;
        assert_eq!((&*body, parts.headers), (&b"ab"[..], headers), "{what}");
    }
    let head = Request::builder().method(Method::HEAD).body(()).unwrap();
    let answer = tagged().header("content-length", "2").body(Full::<Bytes>::default()).unwrap();
    let (parts, ..) = through(&layer, head, answer).await;
    assert_eq!(
        (&parts.headers["content-length"], parts.headers.contains_key("etag")),
        (&"2".parse().unwrap(), true)
    );
    let (parts, body, _) =
        through(&layer, Request::new(()), tagged().body(Full::<Bytes>::default()).unwrap()).await;
    assert!(body.is_empty() && parts.headers.contains_key("etag"), "there is nothing to change");
    let mut own = Rejection::new(Reason::Forbidden).into_response::<Full<Bytes>>();
    own.headers_mut().insert("content-type", HeaderValue::from_static("application/json"));
    *own.body_mut() = Full::from("no");
    let layer = shouting(ReshapeConfig::new().errors(true));
    assert_eq!(&*through(&layer, Request::new(()), own).await.1, b"no");
}

#[tokio::test]
async fn other_types_and_errors_are_changed_where_it_is_told_so() {
    let text = || Response::builder().header("content-type", "Text/Plain");
    let layer = shouting(ReshapeConfig::new().content_types(["text/plain", "text/csv"]).errors(true));
    for status in [200, 404, 503] {
        let response = text().status(status).body(Full::<Bytes>::from("ab")).unwrap();
        assert_eq!(&*through(&layer, Request::new(()), response).await.1, b"AB", "{status}");
    }
    let response = json_head().body(Full::<Bytes>::from("ab")).unwrap();
    assert_eq!(&*through(&layer, Request::new(()), response).await.1, b"ab");
}

#[tokio::test]
async fn a_body_may_be_as_large_as_the_cap_and_no_larger() {
    let layer = shouting(ReshapeConfig::new().max_bytes(4)).named(&Arc::from("old"));
    for (pieces, is_well) in
        [(&["abcd"][..], true), (&["ab", "", "cd"], true), (&["abcde"], false), (&["ab", "cde"], false)]
    {
        let response = json_head().body(Frames::of(pieces)).unwrap();
        let (parts, body, _) = through(&layer, Request::new(()), response).await;
        if is_well {
            assert_eq!((reason(&parts), &*body), (None, &b"ABCD"[..]), "{pieces:?}");
        } else {
            assert_eq!(reason(&parts), Some(Reason::ResponseTooLarge), "{pieces:?}");
            assert_eq!(parts.extensions.get::<Rejection>().unwrap().policy.as_deref(), Some("old"));
            assert!(!parts.headers.contains_key("content-type") && body.is_empty());
        }
    }
    // What says beforehand that it is too large is not waited for, and what never ends is stopped.
    let never = Frames { never_ends: true, says: Some(5), ..Frames::default() };
    let (parts, ..) = through(&layer, Request::new(()), json_head().body(never).unwrap()).await;
    assert_eq!(reason(&parts), Some(Reason::ResponseTooLarge));
    let endless = Frames { never_ends: true, ..Frames::of(&["abc", "def"]) };
    let (parts, ..) = through(&layer, Request::new(()), json_head().body(endless).unwrap()).await;
    assert_eq!(reason(&parts), Some(Reason::ResponseTooLarge));
    // And back and forth with the cap.
    let wider = layer.reconfigured(&ReshapeConfig::new());
    let (parts, body, _) =
        through(&wider, Request::new(()), json_head().body(Frames::of(&["abcde"])).unwrap()).await;
    assert_eq!((reason(&parts), &*body), (None, &b"ABCDE"[..]));
    let back = wider.reconfigured(&ReshapeConfig::new().max_bytes(4));
    let (parts, ..) =
        through(&back, Request::new(()), json_head().body(Frames::of(&["abcde"])).unwrap()).await;
    assert_eq!((reason(&parts), back.name()), (Some(Reason::ResponseTooLarge), Some("old")));
}

#[tokio::test]
async fn what_cannot_be_changed_is_refused_and_never_handed_out() {
    let fails = ReshapeLayer::new(ReshapeConfig::new(), |_| true, |_| Err("secret: 42".into()));
    let (parts, body, _) =
        through(&fails, Request::new(()), json_head().body(Full::from("ab")).unwrap()).await;
    assert_eq!((reason(&parts), body.is_empty()), (Some(Reason::ReshapeFailed), true));
    assert!(
        parts.extensions.get::<Rejection>().unwrap().detail.is_none(),
        "errors may tell what is in a body"
    );

    let layer = shouting(ReshapeConfig::new());
    let broken = Frames::of(&["ab"]).then(Err("broken"));
    let encoded = json_head().header("content-encoding", "gzip").body(Frames::of(&["ab"])).unwrap();
    let part = json_head().status(StatusCode::PARTIAL_CONTENT).body(Frames::of(&["ab"])).unwrap();
    for response in [json_head().body(broken).unwrap(), encoded, part] {
        let (parts, body, _) = through(&layer, Request::new(()), response).await;
        assert_eq!((reason(&parts), body.is_empty()), (Some(Reason::ReshapeFailed), true));
    }
    let identity = json_head().header("content-encoding", "Identity").body(Frames::of(&["ab"])).unwrap();
    assert_eq!(&*through(&layer, Request::new(()), identity).await.1, b"AB");
}

#[tokio::test]
async fn trailers_stay_and_then_no_length_is_said() {
    let layer = shouting(ReshapeConfig::new());
    let body = Frames::of(&["a", "b"]).then(Ok(Frame::trailers(trailers())));
    let response = json_head().header("content-length", "2").body(body).unwrap();
    let (parts, body, known) = through(&layer, Request::new(()), response).await;
    assert_eq!((&*body, known), (&b"AB"[..], Some(trailers())));
    assert!(!parts.headers.contains_key("content-length"));

    let inner = service_fn(|_: Request<()>| async {
        let body = Frames::of(&["ab"]).then(Ok(Frame::trailers(trailers())));
        Ok::<_, Infallible>(json_head().body(body).unwrap())
    });
    let mut body = layer.layer(inner).oneshot(Request::new(())).await.unwrap().into_body();
    assert_eq!((body.size_hint().exact(), body.is_end_stream()), (None, false));
    assert!(body.frame().await.unwrap().unwrap().is_data() && !body.is_end_stream());
    assert!(body.frame().await.unwrap().unwrap().is_trailers() && body.is_end_stream());
    assert!(body.frame().await.is_none());
}

#[tokio::test]
async fn what_is_behind_is_asked_for_something_that_can_be_read() {
    let echo = service_fn(|request: Request<()>| async move {
        Ok::<_, Infallible>(
            Response::builder().extension(request.headers().clone()).body(Full::<Bytes>::default()).unwrap(),
        )
    });
    let layer = ReshapeLayer::new(ReshapeConfig::new(), |head| head.uri.path() == "/old", shout);
    for (path, encodings, has_range) in [("/old", "identity", false), ("/new", "gzip", true)] {
        let request = Request::get(path)
            .header("accept-encoding", "gzip")
            .header("range", "bytes=0-1")
            .header("if-range", "x");
        let request = request.header("accept", "application/json").body(()).unwrap();
        let (mut head, ()) = request.clone().into_parts();
        let finding = layer.explain(Now::read(), &mut head);
        assert_eq!(finding == Finding::Passes, has_range);
        let response = layer.layer(echo).oneshot(request).await.unwrap();
        let seen = response.extensions().get::<HeaderMap>().unwrap();
        assert_eq!(*seen, head.headers, "explained as it is done");
        assert_eq!(seen["accept-encoding"], encodings);
        assert_eq!((seen.contains_key("range"), seen.contains_key("if-range")), (has_range, has_range));
        assert!(seen.contains_key("accept"));
    }
}

#[tokio::test]
async fn cancelled_while_it_reads_it_keeps_nothing() {
    let live = Arc::new(());
    let held = Arc::downgrade(&live);
    let body = Mutex::new(Some(Frames { never_ends: true, _live: Some(live), ..Frames::of(&["ab"]) }));
    let inner = service_fn(move |_: Request<()>| {
        let body = body.lock().unwrap().take().unwrap();
        async { Ok::<_, Infallible>(json_head().body(body).unwrap()) }
    });
    {
        let mut asking = pin!(shouting(ReshapeConfig::new()).layer(inner).oneshot(Request::new(())));
        let is_ready = poll_fn(|cx| Poll::Ready(asking.as_mut().poll(cx).is_ready())).await;
        assert!(!is_ready && held.upgrade().is_some(), "it waits for the rest");
    }
    assert!(held.upgrade().is_none());
}

#[derive(Default)]
struct Told(Mutex<Vec<Option<Reason>>>);

impl Observer for Told {
    fn admitted(&self) {
        self.0.lock().unwrap().push(None);
    }
    fn rejected(&self, rejection: &Rejection) {
        self.0.lock().unwrap().push(Some(rejection.reason));
    }
}

/// A service that counts, and answers with what it got, or with the error of the body.
fn counting(
    calls: &Arc<AtomicUsize>,
) -> impl Service<Request<naka::reshape::ReshapeBody<Frames>>, Response = Response<String>, Error = Infallible>
+ Clone {
    let calls = Arc::clone(calls);
    service_fn(move |request: Request<naka::reshape::ReshapeBody<Frames>>| {
        calls.fetch_add(1, SeqCst);
        async move {
            let (parts, body) = request.into_parts();
            let said = match body.collect().await {
                Ok(all) => {
                    let trailers = all.trailers().cloned();
                    let text = String::from_utf8(all.to_bytes().to_vec()).unwrap();
                    format!("{text} {}", trailers.map_or(0, |trailers| trailers.len()))
                }
                Err(error) => error.into(),
            };
            Ok(Response::builder().extension(parts.headers).body(said).unwrap())
        }
    })
}

#[tokio::test]
async fn r11_7_bodies_of_requests_are_changed_as_well() {
    let (calls, told) = (Arc::new(AtomicUsize::new(0)), Arc::new(Told::default()));
    let change = |body: &Bytes| if body.starts_with(b"bad") { Err("bad".into()) } else { shout(body) };
    let layer = ReshapeRequestLayer::observed(
        ReshapeConfig::new().max_bytes(4),
        |head| head.uri.path() == "/old",
        change,
        Arc::clone(&told),
    );
    let post = |path: &str, body: Frames| {
        let head =
            Request::post(path).header("content-type", "application/json").header("content-digest", "x");
        head.body(body).unwrap()
    };
    let ask = async |request| layer.layer(counting(&calls)).oneshot(request).await.unwrap().into_parts();

    let (parts, said) = ask(post("/old", Frames::of(&["a", "b"]))).await;
    let seen = parts.extensions.get::<HeaderMap>().unwrap();
    assert_eq!(
        (&*said, &seen["content-length"], seen.contains_key("content-digest")),
        ("AB 0", &"2".parse().unwrap(), false)
    );
    assert_eq!(ask(post("/old", Frames::of(&["ab"]).then(Ok(Frame::trailers(trailers()))))).await.1, "AB 1");
    assert_eq!(ask(post("/new", Frames::of(&["larger"]))).await.1, "larger 0");
    assert_eq!(
        ask(post("/old", Frames::of(&["ab"]).then(Err("broken")))).await.1,
        "broken",
        "as without the layer"
    );
    let mut text = post("/old", Frames::of(&["larger"]));
    text.headers_mut().remove("content-type");
    assert_eq!(ask(text).await.1, "larger 0");
    assert_eq!(calls.swap(0, SeqCst), 5);

    let said_beforehand = |len: &'static str| {
        let mut request = post("/old", Frames { never_ends: true, ..Frames::default() });
        request.headers_mut().insert("content-length", HeaderValue::from_static(len));
        request
    };
    let mut encoded = post("/old", Frames::of(&["ab"]));
    encoded.headers_mut().insert("content-encoding", HeaderValue::from_static("gzip"));
    let refused = [
        (post("/old", Frames { never_ends: true, ..Frames::of(&["abcde"]) }), Reason::BodyTooLarge),
        (said_beforehand("5"), Reason::BodyTooLarge),
        (said_beforehand("99999999999999999999999"), Reason::BodyTooLarge),
        (post("/old", Frames::of(&["bad"])), Reason::BadRequest),
        (encoded, Reason::BadRequest),
    ];
    for (request, expected) in refused {
        assert_eq!(reason(&ask(request).await.0), Some(expected));
    }
    assert_eq!(calls.load(SeqCst), 0, "what is refused does not reach what is behind");
    let too_large = Some(Reason::BodyTooLarge);
    let bad = Some(Reason::BadRequest);
    assert_eq!(*told.0.lock().unwrap(), [None, None, too_large, too_large, too_large, bad, bad]);

    let explain = |request: Request<Frames>| layer.explain(Now::read(), &mut request.into_parts().0);
    assert_eq!(explain(post("/new", Frames::default())), Finding::Passes);
    assert_eq!(
        explain(post("/old", Frames::default())),
        Finding::WouldAsk(Dependency::Body { max_bytes: 4 })
    );
    assert!(
        matches!(explain(said_beforehand("5")), Finding::Reject(known) if Some(known.reason) == too_large)
    );
    assert_eq!(
        ReshapeRequestLayer::<()>::off().explain(Now::read(), &mut Request::new(()).into_parts().0),
        Finding::Off
    );
}

/// A service that has to be ready before it is called; its clones are not.
#[derive(Default)]
struct Ready(bool);

impl Clone for Ready {
    fn clone(&self) -> Self {
        Self(false)
    }
}

impl<B> Service<Request<B>> for Ready {
    type Response = Response<()>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Response<()>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0 = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<B>) -> Self::Future {
        assert!(std::mem::take(&mut self.0), "called without having been ready");
        std::future::ready(Ok(Response::new(())))
    }
}

#[tokio::test]
async fn the_instance_that_was_ready_gets_the_changed_request() {
    let mut service = ReshapeRequestLayer::new(ReshapeConfig::new(), |_| true, shout).layer(Ready::default());
    for _ in 0..2 {
        let request = Request::post("/")
            .header("content-type", "application/json")
            .body(Frames::of(&["a", "b"]))
            .unwrap();
        let ready = ServiceExt::<Request<Frames>>::ready(&mut service).await.unwrap();
        ready.call(request).await.unwrap();
    }
}

#[tokio::test]
async fn requests_are_changed_within_an_axum_router() {
    use axum::{Router, body::Body, routing::post};

    let router = Router::new().route("/", post(|body: String| async { body }));
    let router = router.layer(ReshapeRequestLayer::new(ReshapeConfig::new(), |_| true, shout));
    let router = router.layer(shouting(ReshapeConfig::new().content_types(["text/plain"])));
    let request =
        Request::post("/").header("content-type", "application/json").body(Body::from("ab")).unwrap();
    let response = router.oneshot(request).await.unwrap();
    assert_eq!(response.headers()["content-length"], "2");
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "AB");
}

proptest! {
    /// However a body is cut into frames, the function gets all of it, or it is too large.
    #[test]
    fn the_function_gets_all_of_a_body_whatever_its_frames(
        pieces in prop::collection::vec("[a-z]{0,6}", 0..6),
        max_bytes in 0_usize..24,
    ) {
        let whole = pieces.concat();
        let frames = pieces.iter().map(|piece| Ok(Frame::data(Bytes::copy_from_slice(piece.as_bytes()))));
        let body = Frames { queue: frames.collect(), ..Frames::default() };
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let layer = shouting(ReshapeConfig::new().max_bytes(max_bytes));
            let (parts, said, _) = through(&layer, Request::new(()), json_head().body(body).unwrap()).await;
            if whole.len() > max_bytes {
                prop_assert_eq!(reason(&parts), Some(Reason::ResponseTooLarge));
            } else {
                prop_assert_eq!(said, whole.to_ascii_uppercase());
                prop_assert_eq!(&parts.headers["content-length"], &whole.len().to_string());
            }
            Ok(())
        })?;
    }
}
