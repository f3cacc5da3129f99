//! Copies of requests, for which nobody waits.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests may")]

use std::{
    collections::VecDeque,
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::{BodyExt as _, Full};
use naka::{
    balance::Endpoint,
    clock::Now,
    context::{Context as Facts, Deadline},
    explain::{Explain as _, Finding},
    mirror::{Copied, MIRROR, Methods, MirrorBody, MirrorConfig, MirrorLayer},
    observe::Observer,
    reject::{Reason, Rejection},
};
use tokio::time::{Instant, sleep};
use tower::{Layer as _, Service, ServiceExt as _};

/// Keeps what it hears.
#[derive(Clone, Default)]
struct Ear(Arc<Mutex<Vec<Copied>>>);

impl Ear {
    fn heard(&self) -> Vec<Copied> {
        self.0.lock().unwrap().clone()
    }

    fn count(&self, what: Copied) -> usize {
        self.heard().into_iter().filter(|heard| *heard == what).count()
    }
}

impl Observer for Ear {
    fn copied(&self, copied: Copied) {
        self.0.lock().unwrap().push(copied);
    }
}

/// What a mirror does with a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Does {
    Answers(u16),
    /// With a body that never ends.
    AnswersForEver,
    Breaks,
    Refuses,
    Hangs,
    IsNeverReady,
    Fails,
    Panics,
}

/// A mirror, and what came to it.
#[derive(Clone)]
struct Mirror {
    does: Does,
    copies: Arc<Mutex<Vec<Came>>>,
    extensions: Arc<Mutex<Vec<http::Extensions>>>,
    under_way: Arc<AtomicUsize>,
}

impl Mirror {
    fn that(does: Does) -> Self {
        Self { does, copies: Arc::default(), extensions: Arc::default(), under_way: Arc::default() }
    }

    fn bodies(&self) -> Vec<String> {
        let copies = self.copies.lock().unwrap();
        copies.iter().map(|(.., body)| String::from_utf8(body.to_vec()).unwrap()).collect()
    }
}

type Came = (Method, String, HeaderMap, Bytes);

/// Counted until it is dropped.
struct UnderWay(Arc<AtomicUsize>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

type Answer = Pin<Box<dyn Body<Data = Bytes, Error = &'static str> + Send>>;

impl Service<Request<Bytes>> for Mirror {
    type Response = Response<Answer>;
    type Error = &'static str;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, &'static str>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), &'static str>> {
        if self.does == Does::IsNeverReady { Poll::Pending } else { Poll::Ready(Ok(())) }
    }

    fn call(&mut self, copy: Request<Bytes>) -> Self::Future {
        let (head, body) = copy.into_parts();
        self.copies.lock().unwrap().push((head.method, head.uri.to_string(), head.headers, body));
        self.extensions.lock().unwrap().push(head.extensions);
        self.under_way.fetch_add(1, SeqCst);
        let (does, under_way) = (self.does, UnderWay(Arc::clone(&self.under_way)));
        Box::pin(async move {
            let _under_way = under_way;
            let pieces = |pieces: &[Result<&'static str, &'static str>], again| {
                Response::new(Box::pin(Pieces { left: pieces.iter().copied().collect(), again }) as Answer)
            };
            Ok(match does {
                Does::Answers(status) => {
                    let mut response = pieces(&[Ok("done")], None);
                    *response.status_mut() = StatusCode::from_u16(status).unwrap();
                    response
                }
                Does::AnswersForEver => pieces(&[], Some("again and again")),
                Does::Breaks => pieces(&[Ok("half"), Err("gone")], None),
                Does::Refuses => {
                    let refusal: Response<()> = Rejection::new(Reason::NoEndpoint).into_response();
                    refusal.map(|()| Box::pin(Pieces { left: VecDeque::new(), again: None }) as Answer)
                }
                Does::Hangs | Does::IsNeverReady => std::future::pending().await,
                Does::Fails => return Err("no"),
                Does::Panics => panic!("the mirror is broken, which is on purpose"),
            })
        })
    }
}

/// A body that comes in pieces, and may break off.
struct Pieces {
    left: VecDeque<Result<&'static str, &'static str>>,
    again: Option<&'static str>,
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = &'static str;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, &'static str>>> {
        let again = self.again.map(Ok);
        let piece = self.left.pop_front().or(again);
        Poll::Ready(piece.map(|piece| piece.map(|it| Frame::data(Bytes::from(it)))))
    }
}

fn pieces(pieces: &[Result<&'static str, &'static str>]) -> Pieces {
    Pieces { left: pieces.iter().copied().collect(), again: None }
}

/// A primary that reads so many frames, and answers after so long.
async fn primary(
    request: Request<MirrorBody<Pieces>>,
    frames: usize,
    wait: Duration,
) -> Result<Response<Full<Bytes>>, Infallible> {
    assert!(!request.headers().contains_key(MIRROR), "the primary's is no copy");
    let mut body = request.into_body();
    for _ in 0..frames {
        if body.frame().await.is_none() {
            break;
        }
    }
    sleep(wait).await;
    Ok(Response::new(Full::from("the primary's")))
}

async fn send<O: Observer>(layer: &MirrorLayer<O>, request: Request<Pieces>, frames: usize) -> Duration {
    let began = Instant::now();
    let wait = Duration::from_millis(10);
    let service = tower::service_fn(move |request| primary(request, frames, wait));
    let response = layer.layer(service).oneshot(request).await.unwrap();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, "the primary's");
    began.elapsed()
}

fn request(method: Method, body: Pieces) -> Request<Pieces> {
    Request::builder().method(method).uri("/rides/7?full=1").body(body).unwrap()
}

fn get() -> Request<Pieces> {
    request(Method::GET, pieces(&[]))
}

/// A body of no length is asked for its end, which is when the copy goes.
const ALL: usize = 100;

fn observed(config: MirrorConfig, mirror: &Mirror) -> (MirrorLayer<Ear>, Ear) {
    let ear = Ear::default();
    (MirrorLayer::observed(config, mirror.clone(), ear.clone()), ear)
}

fn explained<O: Observer>(layer: &MirrorLayer<O>, method: Method) -> String {
    let (mut head, ()) = Request::builder().method(method).body(()).unwrap().into_parts();
    match layer.explain(Now::read(), &mut head) {
        Finding::Admit(text) => text,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn r7_6_the_primary_is_as_it_is_without_whatever_the_mirror_does() {
    let all = [
        (Does::Answers(200), Copied::Answered(StatusCode::OK)),
        (Does::Answers(500), Copied::Answered(StatusCode::INTERNAL_SERVER_ERROR)),
        (Does::AnswersForEver, Copied::Answered(StatusCode::OK)),
        (Does::Breaks, Copied::Failed),
        (Does::Refuses, Copied::Failed),
        (Does::Fails, Copied::Failed),
        (Does::Hangs, Copied::TimedOut),
        (Does::IsNeverReady, Copied::TimedOut),
        (Does::Panics, Copied::Ended),
    ];
    for (does, became) in all {
        let (layer, ear) = observed(MirrorConfig::new(), &Mirror::that(does));
        for _ in 0..3 {
            assert_eq!(send(&layer, get(), ALL).await, Duration::from_millis(10), "{does:?}");
        }
        sleep(Duration::from_secs(6)).await;
        assert_eq!((ear.heard(), layer.under_way()), (vec![became; 3], 0), "{does:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn r7_6_the_copy_is_what_the_primary_was_sent_and_says_that_it_is_one() {
    let mirror = Mirror::that(Does::Answers(200));
    let config = MirrorConfig::new().methods(Methods::All).without([http::header::COOKIE]);
    let layer = MirrorLayer::new(config, mirror.clone());
    let mut post = request(Method::POST, pieces(&[Ok("one "), Ok("two "), Ok("three")]));
    let headers = [
        ("authorization", "Bearer x"),
        ("cookie", "a=b"),
        ("transfer-encoding", "chunked"),
        ("te", "trailers"),
    ];
    for (name, value) in headers {
        post.headers_mut().insert(name, value.parse().unwrap());
    }
    let now = Now::read();
    let deadline = now.instant() + Duration::from_secs(1);
    post.extensions_mut().insert(Facts::new(now).with_deadline(deadline));
    post.extensions_mut().insert(Deadline(deadline));
    post.extensions_mut().insert("what earlier layers learned");
    send(&layer, post, ALL).await;
    let (method, uri, headers, body) = mirror.copies.lock().unwrap()[0].clone();
    assert_eq!((method, &*uri, &*body), (Method::POST, "/rides/7?full=1", &b"one two three"[..]));
    let header = |name: &str| headers.get(name).map(|value| value.to_str().unwrap());
    assert_eq!((header("naka-mirror"), header("content-length")), (Some("true"), Some("13")));
    assert_eq!((header("authorization"), header("cookie")), (Some("Bearer x"), None));
    assert_eq!((header("transfer-encoding"), header("te")), (None, None));
    let extensions = mirror.extensions.lock().unwrap()[0].clone();
    assert_eq!(extensions.get::<&str>(), Some(&"what earlier layers learned"));
    assert!(Deadline::of(&extensions).is_none() && Endpoint::of(&extensions).is_none(), "its own affair");
}

#[tokio::test(start_paused = true)]
async fn r7_6_only_safe_requests_are_copied_unless_it_is_said_and_no_copy_is_copied() {
    let mirror = Mirror::that(Does::Answers(200));
    let layer = MirrorLayer::new(MirrorConfig::new(), mirror.clone());
    for method in [Method::POST, Method::PUT, Method::DELETE, Method::PATCH] {
        send(&layer, request(method.clone(), pieces(&[Ok("pay")])), ALL).await;
        assert_eq!(explained(&layer, method), "not copied: its method is not safe");
    }
    let again = Request::get("/").header(MIRROR, "true").body(pieces(&[])).unwrap();
    let passes = tower::service_fn(|request: Request<MirrorBody<Pieces>>| async move {
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::from(format!("{:?}", request.headers()))))
    });
    let passed = layer.layer(passes).oneshot(again).await.unwrap().into_body().collect().await.unwrap();
    assert!(passed.to_bytes().starts_with(b"{\"naka-mirror\""), "the mark goes on");
    sleep(Duration::from_secs(1)).await;
    assert!(mirror.bodies().is_empty());
    let all = layer.reconfigured(MirrorConfig::new().methods(Methods::All));
    send(&all, request(Method::POST, pieces(&[Ok("pay")])), ALL).await;
    assert_eq!(mirror.bodies(), ["pay"]);
}

#[tokio::test(start_paused = true)]
async fn what_is_too_long_or_was_not_read_whole_is_not_copied() {
    let mirror = Mirror::that(Does::Answers(200));
    let (layer, ear) = observed(MirrorConfig::new().max_body(8), &mirror);
    let three = [Ok("one "), Ok("two "), Ok("three")];
    send(&layer, request(Method::GET, pieces(&three)), ALL).await;
    send(&layer, request(Method::GET, pieces(&three[..2])), ALL).await;
    send(&layer, request(Method::GET, pieces(&three[..2])), 1).await;
    send(&layer, request(Method::GET, pieces(&[Ok("one "), Err("the client is gone")])), ALL).await;
    sleep(Duration::from_secs(1)).await;
    assert_eq!(mirror.bodies(), ["one two "]);
    let unread = [Copied::TooLong, Copied::Unread, Copied::Unread];
    assert!(unread.iter().all(|it| ear.heard().contains(it)), "{:?}", ear.heard());
    assert_eq!((ear.heard().len(), layer.under_way()), (4, 0));
    // One that says beforehand that it is too long.
    let said = Request::get("/").body(Full::<Bytes>::from("far too long")).unwrap();
    let reads = tower::service_fn(|request: Request<MirrorBody<Full<Bytes>>>| async move {
        let body = request.into_body().into_inner().expect("nobody keeps it");
        Ok::<_, Infallible>(Response::new(body))
    });
    layer.layer(reads).oneshot(said).await.unwrap();
    assert_eq!((ear.count(Copied::TooLong), layer.under_way()), (2, 0));
}

/// A body whose frames are counted when they are asked for.
struct Counted(Arc<AtomicUsize>);

impl Body for Counted {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.fetch_add(1, SeqCst);
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"x")))))
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_streams_as_it_did_and_nothing_is_read_ahead() {
    let layer = MirrorLayer::new(MirrorConfig::new(), Mirror::that(Does::Hangs));
    let asked = Arc::<AtomicUsize>::default();
    let seen = Arc::clone(&asked);
    let reads = tower::service_fn(move |request: Request<MirrorBody<Counted>>| {
        let seen = Arc::clone(&seen);
        async move {
            let mut body = request.into_body();
            for number in 1..10 {
                body.frame().await;
                assert_eq!(seen.load(SeqCst), number);
            }
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
        }
    });
    layer.layer(reads).oneshot(Request::get("/").body(Counted(asked)).unwrap()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn r7_6_copies_are_bounded_and_end_in_time() {
    let mirror = Mirror::that(Does::Hangs);
    let config = MirrorConfig::new().max(3).timeout(Duration::from_secs(2));
    let (layer, ear) = observed(config, &mirror);
    for _ in 0..10 {
        // All services of a layer, and its clones, share the places.
        assert_eq!(send(&layer.clone(), get(), ALL).await, Duration::from_millis(10));
    }
    assert_eq!((mirror.under_way.load(SeqCst), layer.under_way()), (3, 3));
    assert_eq!(ear.heard(), [Copied::Full; 7]);
    assert_eq!(explained(&layer, Method::GET), "not copied: 3 copies are under way");
    sleep(Duration::from_secs(2)).await;
    assert_eq!((mirror.under_way.load(SeqCst), layer.under_way(), ear.count(Copied::TimedOut)), (0, 0, 3));
    send(&layer, get(), ALL).await;
    assert_eq!(layer.under_way(), 1);
    // A body that is still coming has its place already.
    let more = layer.reconfigured(MirrorConfig::new().max(2));
    let coming = more.layer(tower::service_fn(|request: Request<MirrorBody<Pieces>>| async move {
        let mut body = request.into_body();
        body.frame().await;
        std::future::pending::<Result<Response<()>, Infallible>>().await
    }));
    let coming = tokio::spawn(coming.oneshot(request(Method::GET, pieces(&[Ok("a"), Ok("b")]))));
    tokio::task::yield_now().await;
    assert_eq!(layer.under_way(), 2);
    coming.abort();
    assert!(coming.await.is_err());
    assert_eq!((layer.under_way(), ear.count(Copied::Unread)), (1, 1), "given up by its client");
}

#[tokio::test(start_paused = true)]
async fn copies_end_with_the_last_handle() {
    let mirror = Mirror::that(Does::Hangs);
    let (layer, ear) = observed(MirrorConfig::new(), &mirror);
    send(&layer, get(), ALL).await;
    let (other, again) = (layer.reconfigured(MirrorConfig::new().max(1)), layer.to(mirror.clone()));
    drop(layer);
    drop(other);
    tokio::task::yield_now().await;
    assert_eq!((mirror.under_way.load(SeqCst), again.under_way()), (1, 1), "one handle is left");
    drop(again);
    tokio::task::yield_now().await;
    assert_eq!((mirror.under_way.load(SeqCst), ear.heard()), (0, vec![Copied::Ended]));
}

#[tokio::test(start_paused = true)]
async fn r7_6_a_share_is_exact_and_goes_on_after_a_change() {
    let (mirror, other) = (Mirror::that(Does::Answers(200)), Mirror::that(Does::Answers(200)));
    let layer = MirrorLayer::new(MirrorConfig::new().sample(10), mirror.clone());
    for _ in 0..95 {
        send(&layer, get(), ALL).await;
    }
    // What is never copied is not counted.
    send(&layer, request(Method::POST, pieces(&[])), ALL).await;
    assert_eq!(mirror.bodies().len(), 9);
    let changed = layer.reconfigured(MirrorConfig::new().sample(10).max(5)).to(other.clone());
    for number in 95..100 {
        let is_copied = explained(&changed, Method::GET).starts_with("a copy is sent");
        assert_eq!(is_copied, number == 99, "{number}");
        send(&changed, get(), ALL).await;
    }
    assert_eq!((mirror.bodies().len(), other.bodies().len()), (9, 1));
}

#[test]
fn nothing_is_copied_outside_of_a_runtime() {
    let mirror = Mirror::that(Does::Answers(200));
    let (layer, ear) = observed(MirrorConfig::new(), &mirror);
    let answers = tower::service_fn(|_: Request<MirrorBody<Full<Bytes>>>| {
        std::future::ready(Ok::<_, Infallible>(Response::new(())))
    });
    let mut service = layer.layer(answers);
    drop(service.call(Request::get("/").body(Full::default()).unwrap()));
    assert_eq!((mirror.bodies().len(), ear.heard(), layer.under_way()), (0, vec![Copied::Ended], 0));
}
