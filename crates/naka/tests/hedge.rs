//! What is sent once more because nobody answers, and what is not.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests may")]

use std::{
    collections::VecDeque,
    convert::Infallible,
    error::Error,
    fmt,
    future::poll_fn,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::{BodyExt as _, Full, combinators::BoxBody};
use naka::{
    attempt::{ATTEMPT, Sent as MaybeSeen, Stop},
    balance::{BalanceConfig, BalanceLayer, Endpoint, Sticky},
    budget::{Budget, BudgetConfig},
    clock::Now,
    context::Deadline,
    explain::{Explain as _, Finding},
    hedge::{After, HedgeConfig, HedgeLayer, Latencies, Methods},
    observe::Observer,
    reject::{Reason, Rejection},
    replay::Replay,
    retry::{RetryConfig, RetryLayer},
};
use tokio::time::{Instant, sleep, timeout};
use tower::{Layer as _, Service, ServiceExt as _, service_fn};

type Sent = BoxBody<Bytes, Lost>;

/// Why a body broke off.
#[derive(Debug)]
struct Lost;

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("it broke off")
    }
}

impl Error for Lost {}

/// What an upstream does with one request.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// Answers with that status after so many milliseconds.
    Answers(u16, u64),
    /// Is refused by a layer of ours after so many milliseconds.
    Refused(Reason, u64),
    /// Never answers.
    Hangs,
    /// Breaks after so many milliseconds.
    Breaks(u64),
}

use Step::{Answers, Breaks, Hangs, Refused};

/// An upstream that does one step after the other, and the last one for ever.
#[derive(Clone)]
struct Upstream {
    start: Instant,
    steps: Arc<Mutex<VecDeque<Step>>>,
    seen: Arc<Mutex<Vec<Came>>>,
    under_way: Arc<AtomicUsize>,
    ready: Arc<AtomicUsize>,
}

/// When a request came, in milliseconds, which attempt it said it was, and its body.
type Came = (u64, Option<String>, String);

/// Counted while it is there.
struct UnderWay(Arc<AtomicUsize>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

impl Upstream {
    fn new(steps: &[Step]) -> Self {
        Self {
            start: Instant::now(),
            steps: Arc::new(Mutex::new(steps.iter().copied().collect())),
            seen: Arc::default(),
            under_way: Arc::default(),
            ready: Arc::new(AtomicUsize::new(usize::MAX)),
        }
    }

    /// When requests came, in milliseconds, and which attempt they said they were.
    fn seen(&self) -> Vec<(u64, Option<String>)> {
        self.seen.lock().unwrap().iter().map(|(at, attempt, _)| (*at, attempt.clone())).collect()
    }

    fn bodies(&self) -> Vec<String> {
        self.seen.lock().unwrap().iter().map(|(.., body)| body.clone()).collect()
    }

    fn under_way(&self) -> usize {
        self.under_way.load(SeqCst)
    }
}

#[derive(Debug)]
struct Broken;

impl Service<Request<Replay<Sent>>> for Upstream {
    type Response = Response<Full<Bytes>>;
    type Error = Broken;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Broken>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        let left = self.ready.load(SeqCst);
        if left == 0 {
            return Poll::Ready(Err(Broken));
        }
        self.ready.store(left - 1, SeqCst);
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Replay<Sent>>) -> Self::Future {
        let step = {
            let mut steps = self.steps.lock().unwrap();
            if steps.len() > 1 { steps.pop_front().unwrap() } else { steps[0] }
        };
        let attempt = request.headers().get(ATTEMPT).map(|it| it.to_str().unwrap().to_owned());
        let at = u64::try_from(self.start.elapsed().as_millis()).unwrap();
        let (me, place) = (self.clone(), self.seen.lock().unwrap().len());
        self.seen.lock().unwrap().push((at, attempt, String::new()));
        self.under_way.fetch_add(1, SeqCst);
        let guard = UnderWay(Arc::clone(&self.under_way));
        Box::pin(async move {
            let _guard = guard;
            if let Ok(body) = request.into_body().collect().await {
                me.seen.lock().unwrap()[place].2 = String::from_utf8(body.to_bytes().to_vec()).unwrap();
            }
            match step {
                Answers(status, ms) => {
                    sleep(Duration::from_millis(ms)).await;
                    Ok(Response::builder().status(status).body(Full::default()).unwrap())
                }
                Refused(reason, ms) => {
                    sleep(Duration::from_millis(ms)).await;
                    Ok(Rejection::new(reason).into_response())
                }
                Breaks(ms) => {
                    sleep(Duration::from_millis(ms)).await;
                    Err(Broken)
                }
                Hangs => std::future::pending().await,
            }
        })
    }
}

/// Counts what it hears.
#[derive(Default)]
struct Heard {
    hedged: AtomicUsize,
    won: AtomicUsize,
    stopped: Mutex<Vec<Stop>>,
}

impl Observer for Heard {
    fn hedged(&self) {
        self.hedged.fetch_add(1, SeqCst);
    }
    fn hedge_won(&self) {
        self.won.fetch_add(1, SeqCst);
    }
    fn not_retried(&self, stop: Stop) {
        self.stopped.lock().unwrap().push(stop);
    }
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn after_50() -> HedgeConfig {
    HedgeConfig::new(After::Fixed(ms(50)))
}

fn budget() -> Budget {
    Budget::new(BudgetConfig::new(), Now::read())
}

fn heard(config: HedgeConfig, budget: &Budget) -> (HedgeLayer<Arc<Heard>>, Arc<Heard>) {
    let heard = Arc::new(Heard::default());
    let latencies = Latencies::new(Now::read());
    (HedgeLayer::observed(config, budget.clone(), latencies, Arc::clone(&heard)), heard)
}

fn request(method: Method, body: &'static str) -> Request<Sent> {
    let body = Full::from(body).map_err(|never: Infallible| match never {}).boxed();
    Request::builder().method(method).uri("/kitchens/7").body(body).unwrap()
}

fn get() -> Request<Sent> {
    request(Method::GET, "")
}

type Answer = Result<Response<Full<Bytes>>, Broken>;

async fn send<O: Observer>(layer: &HedgeLayer<O>, upstream: &Upstream, request: Request<Sent>) -> Answer {
    layer.layer(upstream.clone()).oneshot(request).await
}

fn status(answer: &Answer) -> StatusCode {
    answer.as_ref().unwrap().status()
}

#[tokio::test(start_paused = true)]
async fn what_is_not_answered_is_sent_once_more_and_the_first_answer_is_taken() {
    let upstream = Upstream::new(&[Hangs, Answers(200, 7)]);
    let (layer, heard) = heard(after_50(), &budget());
    let answer = send(&layer, &upstream, get()).await;
    assert_eq!((status(&answer), upstream.start.elapsed()), (StatusCode::OK, ms(57)));
    assert_eq!(upstream.seen(), [(0, None), (50, Some("2".to_owned()))]);
    assert_eq!(upstream.under_way(), 0, "the first was dropped");
    assert_eq!((heard.hedged.load(SeqCst), heard.won.load(SeqCst)), (1, 1));
    assert!(!answer.unwrap().headers().contains_key(ATTEMPT));
}

#[tokio::test(start_paused = true)]
async fn what_is_answered_in_time_is_sent_once() {
    let upstream = Upstream::new(&[Answers(200, 49)]);
    let (layer, heard) = heard(after_50(), &budget());
    for method in [Method::GET, Method::HEAD, Method::OPTIONS] {
        assert_eq!(status(&send(&layer, &upstream, request(method, "")).await), 200);
    }
    assert_eq!((upstream.seen().len(), heard.hedged.load(SeqCst)), (3, 0));
}

#[tokio::test(start_paused = true)]
async fn the_first_may_still_be_the_first_to_answer() {
    let upstream = Upstream::new(&[Answers(200, 60), Answers(201, 60)]);
    let (layer, heard) = heard(after_50(), &budget());
    assert_eq!(status(&send(&layer, &upstream, get()).await), 200);
    assert_eq!((upstream.start.elapsed(), upstream.under_way()), (ms(60), 0));
    assert_eq!((heard.hedged.load(SeqCst), heard.won.load(SeqCst)), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn only_what_may_be_done_twice_at_once_is_sent_twice() {
    let slow = || Upstream::new(&[Answers(200, 400)]);
    let sent = |config: HedgeConfig, method: Method, key: Option<&'static str>| async move {
        let (upstream, layer) = (slow(), HedgeLayer::new(config, budget()));
        let mut request = request(method, "");
        if let Some(key) = key {
            request.headers_mut().insert("idempotency-key", HeaderValue::from_static(key));
        }
        assert_eq!(status(&send(&layer, &upstream, request).await), 200);
        upstream.seen().len()
    };
    let (safe, idempotent) = (after_50(), after_50().methods(Methods::Idempotent));
    for method in [Method::POST, Method::PATCH, Method::CONNECT] {
        assert_eq!(sent(safe, method.clone(), None).await, 1, "{method}");
        assert_eq!(sent(idempotent, method, None).await, 1);
    }
    for method in [Method::PUT, Method::DELETE] {
        assert_eq!(sent(safe, method.clone(), None).await, 1, "{method}");
        assert_eq!(sent(idempotent, method, None).await, 2);
    }
    assert_eq!(sent(safe, Method::POST, Some("a")).await, 1, "a key is nothing to who does not keep it");
    assert_eq!(sent(safe.keyed(true), Method::POST, Some("a")).await, 2);
    assert_eq!(sent(safe.keyed(true), Method::POST, None).await, 1);
}

#[tokio::test(start_paused = true)]
async fn another_attempt_that_fails_is_no_answer_while_the_first_goes_on() {
    for failure in
        [Answers(503, 0), Refused(Reason::ConnectFailed, 0), Refused(Reason::NoEndpoint, 0), Breaks(1)]
    {
        let upstream = Upstream::new(&[Answers(200, 100), failure]);
        let (layer, heard) = heard(after_50(), &budget());
        assert_eq!(status(&send(&layer, &upstream, get()).await), 200, "{failure:?}");
        assert_eq!((upstream.start.elapsed(), heard.won.load(SeqCst)), (ms(100), 0));
    }
    // And the other way round: the first fails while the second is under way.
    for failure in [Answers(503, 60), Breaks(60)] {
        let upstream = Upstream::new(&[failure, Answers(200, 60)]);
        assert_eq!(status(&send(&HedgeLayer::new(after_50(), budget()), &upstream, get()).await), 200);
        assert_eq!(upstream.start.elapsed(), ms(110));
    }
}

#[tokio::test(start_paused = true)]
async fn what_fails_before_its_time_has_come_is_answered_at_once() {
    let upstream = Upstream::new(&[Answers(503, 10), Answers(200, 0)]);
    let (layer, heard) = heard(after_50(), &budget());
    let answer = send(&layer, &upstream, get()).await;
    assert_eq!((status(&answer), upstream.start.elapsed()), (StatusCode::SERVICE_UNAVAILABLE, ms(10)));
    assert_eq!((upstream.seen().len(), heard.hedged.load(SeqCst)), (1, 0));
    assert!(!answer.unwrap().headers().contains_key(ATTEMPT));
    assert!(send(&layer, &Upstream::new(&[Breaks(10)]), get()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn if_all_fail_the_last_is_the_answer_and_says_how_many_there_were() {
    let ended = |steps: [Step; 2]| async move {
        let upstream = Upstream::new(&steps);
        let answer = send(&HedgeLayer::new(after_50(), budget()), &upstream, get()).await.unwrap();
        assert_eq!((answer.headers()[ATTEMPT].as_bytes(), upstream.under_way()), (&b"2"[..], 0));
        let is_refusal = answer.extensions().get::<Rejection>().is_some();
        (upstream.start.elapsed(), is_refusal, answer.extensions().get::<MaybeSeen>().is_some())
    };
    let unsent = |ms| Refused(Reason::ConnectFailed, ms);
    assert_eq!(ended([Answers(503, 60), unsent(0)]).await, (ms(60), false, false));
    assert_eq!(ended([unsent(60), unsent(30)]).await, (ms(80), true, false));
    // The last says that nothing was sent, and the one before it may have been seen.
    assert_eq!(ended([Answers(500, 60), unsent(30)]).await, (ms(80), true, true));
    assert_eq!(ended([Breaks(60), unsent(30)]).await, (ms(80), true, true));
}

#[tokio::test(start_paused = true)]
async fn no_more_attempts_are_made_than_there_may_be() {
    let upstream = Upstream::new(&[Hangs]);
    let (layer, heard) = heard(after_50().max(9), &budget());
    assert!(timeout(ms(1000), send(&layer, &upstream, get())).await.is_err());
    let at = upstream.seen().into_iter().map(|(at, _)| at).collect::<Vec<_>>();
    assert_eq!((at, heard.hedged.load(SeqCst)), (vec![0, 50, 100, 150], 3));
    assert_eq!(upstream.under_way(), 0, "who waits no more leaves nothing behind");
}

#[tokio::test(start_paused = true)]
async fn all_spend_the_budget_of_the_upstream() {
    let spare = Budget::new(BudgetConfig::new().percent(10).min_per_second(0), Now::read());
    let upstream = Upstream::new(&[Hangs]);
    let (layer, heard) = heard(after_50(), &spare);
    let mut all = (0..100).map(|_| Box::pin(send(&layer, &upstream, get()))).collect::<Vec<_>>();
    let asked = poll_fn(|cx| {
        assert!(all.iter_mut().all(|one| one.as_mut().poll(cx).is_pending()));
        Poll::<()>::Pending
    });
    assert!(timeout(ms(500), asked).await.is_err());
    assert_eq!((upstream.seen().len(), heard.hedged.load(SeqCst)), (110, 10));
    assert_eq!(*heard.stopped.lock().unwrap(), vec![Stop::Budget; 90]);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_sent_for_which_nobody_waits() {
    let upstream = Upstream::new(&[Hangs]);
    let (layer, heard) = heard(after_50(), &budget());
    let mut request = get();
    request.extensions_mut().insert(Deadline(Instant::now() + ms(50)));
    assert!(timeout(ms(500), send(&layer, &upstream, request)).await.is_err());
    assert_eq!((upstream.seen().len(), &*heard.stopped.lock().unwrap()), (1, &vec![Stop::Deadline]));
}

#[tokio::test(start_paused = true)]
async fn who_is_tried_again_in_front_is_not_hedged() {
    let upstream = Upstream::new(&[Answers(200, 400)]);
    let mut request = get();
    request.headers_mut().insert(ATTEMPT, HeaderValue::from(2));
    assert_eq!(status(&send(&HedgeLayer::new(after_50(), budget()), &upstream, request).await), 200);
    assert_eq!(upstream.seen(), [(0, Some("2".to_owned()))]);
}

#[tokio::test(start_paused = true)]
async fn a_percentile_follows_what_answers_take_and_outlives_a_configuration() {
    let config = HedgeConfig::new(After::percentile(95).within(ms(5), ms(800)));
    let layer = HedgeLayer::new(config, budget());
    let quick = Upstream::new(&[Answers(200, 20)]);
    for _ in 0..20 {
        assert_eq!(layer.after(Now::read()), Some(ms(800)), "too few are known");
        _ = send(&layer, &quick, get()).await;
    }
    for _ in 0..100 {
        _ = send(&layer, &quick, get()).await;
    }
    let after = layer.after(Now::read()).unwrap();
    assert!(after >= ms(20) && after < ms(22), "{after:?}");
    let other = layer.reconfigured(HedgeConfig::new(After::percentile(50)), budget(), ());
    assert_eq!(other.after(Now::read()), Some(after));
    let slower = HedgeConfig::new(After::percentile(95).within(ms(300), ms(800)));
    assert_eq!(layer.reconfigured(slower, budget(), ()).after(Now::read()), Some(ms(300)));

    // Thirty times as slow for all: it follows, and hedges stay few.
    let slow = Upstream::new(&[Answers(200, 600)]);
    for _ in 0..40 {
        _ = send(&layer, &slow, get()).await;
    }
    let after = layer.after(Now::read()).unwrap();
    assert!(after >= ms(600) && after < ms(640), "{after:?}");
    sleep(Duration::from_mins(1)).await;
    assert_eq!(layer.after(Now::read()), Some(ms(800)), "what is long ago says nothing");
}

/// A body that comes in pieces, some of them late.
struct Pieces(VecDeque<(u64, &'static str)>, Option<Pin<Box<tokio::time::Sleep>>>);

impl Body for Pieces {
    type Data = Bytes;
    type Error = Lost;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Lost>>> {
        let Some((late, piece)) = self.0.front().copied() else { return Poll::Ready(None) };
        let sleep = self.1.get_or_insert_with(|| Box::pin(sleep(ms(late))));
        std::task::ready!(sleep.as_mut().poll(cx));
        self.1 = None;
        self.0.pop_front();
        Poll::Ready(Some(Ok(Frame::data(Bytes::from(piece)))))
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_is_sent_again_if_all_of_it_was_sent_and_is_there() {
    let config = after_50().methods(Methods::Idempotent).max_body(8);
    let put = |pieces: &[(u64, &'static str)]| {
        let mut put = request(Method::PUT, "");
        *put.body_mut() = Pieces(pieces.iter().copied().collect(), None).boxed();
        put
    };
    let upstream = Upstream::new(&[Hangs, Answers(200, 0)]);
    let (layer, heard) = heard(config, &budget());
    assert_eq!(status(&send(&layer, &upstream, put(&[(0, "one"), (40, "two")])).await), 200);
    assert_eq!(upstream.bodies(), ["onetwo", "onetwo"]);
    assert!(heard.stopped.lock().unwrap().is_empty());

    for (pieces, why) in
        [([(0, "one"), (60, "two")], "it is on its way"), ([(0, "longer"), (0, "than 8")], "it is too long")]
    {
        let upstream = Upstream::new(&[Answers(200, 100)]);
        let (layer, heard) = self::heard(config, &budget());
        assert_eq!(status(&send(&layer, &upstream, put(&pieces)).await), 200);
        assert_eq!((upstream.seen().len(), &*heard.stopped.lock().unwrap()), (1, &vec![Stop::Body]), "{why}");
    }
}

#[tokio::test(start_paused = true)]
async fn another_attempt_goes_to_another_endpoint() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let answer = service_fn({
        let asked = Arc::clone(&asked);
        move |request: Request<Replay<Sent>>| {
            let address = Endpoint::of(request.extensions()).unwrap().address().to_string();
            let asked = Arc::clone(&asked);
            async move {
                asked.lock().unwrap().push(address.clone());
                if address == "pune" {
                    std::future::pending::<()>().await;
                }
                Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
            }
        }
    });
    let balanced = BalanceLayer::new(["pune", "nashik"]).layer(answer);
    let service = HedgeLayer::new(after_50(), budget()).layer(balanced);
    for _ in 0..10 {
        assert_eq!(service.clone().oneshot(get()).await.unwrap().status(), 200);
    }
    let asked = asked.lock().unwrap();
    let first = asked.iter().position(|it| it == "pune").unwrap();
    assert!(asked[first..].windows(2).all(|pair| pair[0] != "pune" || pair[1] == "nashik"), "{asked:?}");
}

#[tokio::test(start_paused = true)]
async fn with_retries_inside_attempts_add_up_and_do_not_multiply() {
    let upstream = Upstream::new(&[Answers(503, 20)]);
    let spare = budget();
    let retried = RetryLayer::new(RetryConfig::new(3).seed(7), spare.clone());
    // Replays of replays.
    let upstream_of = upstream.clone();
    let inner = service_fn(move |request: Request<Replay<Replay<Sent>>>| {
        let upstream = upstream_of.clone();
        let request = request.map(|body| Replay::from(body.map_err(|_| Lost).boxed()));
        async move { upstream.oneshot(request).await }
    });
    let service = HedgeLayer::new(after_50().max(2), spare.clone()).layer(retried.layer(inner));
    assert_eq!(service.oneshot(get()).await.unwrap().status(), 503);
    let sent = upstream.seen().len();
    assert!(
        (5..=6).contains(&sent),
        "{sent}: one, three retries, and one or two hedges that nobody tries again"
    );
    assert_eq!(spare.balance(Now::read()).spent, u64::try_from(sent - 1).unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_service_that_is_not_ready_again_keeps_the_first_attempt() {
    let upstream = Upstream::new(&[Answers(200, 100)]);
    upstream.ready.store(1, SeqCst);
    assert_eq!(status(&send(&HedgeLayer::new(after_50(), budget()), &upstream, get()).await), 200);
    assert_eq!(upstream.seen().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn who_does_not_wait_leaves_nothing_behind() {
    let upstream = Upstream::new(&[Hangs]);
    let layer = HedgeLayer::new(after_50(), budget());
    let mut waiting = Box::pin(send(&layer, &upstream, get()));
    for wait in [0, 60] {
        sleep(ms(wait)).await;
        poll_fn(|cx| {
            assert!(waiting.as_mut().poll(cx).is_pending());
            Poll::Ready(())
        })
        .await;
    }
    assert_eq!(upstream.under_way(), 2);
    drop(waiting);
    assert_eq!(upstream.under_way(), 0);
}

#[tokio::test(start_paused = true)]
async fn explained_as_it_is_done() {
    let explained = |layer: &HedgeLayer, method: Method| {
        let (mut head, ()) = Request::builder().method(method).body(()).unwrap().into_parts();
        match layer.explain(Now::read(), &mut head) {
            Finding::Admit(text) => text,
            other => panic!("{other:?}"),
        }
    };
    let layer = HedgeLayer::new(after_50(), budget());
    assert_eq!(
        explained(&layer, Method::GET),
        "sent once more after 50ms, up to 1 times; 100 of 100 retries left"
    );
    assert_eq!(explained(&layer, Method::POST), "not hedged: POST may not be done twice at once");
    let layer = HedgeLayer::new(HedgeConfig::new(After::percentile(99)), budget());
    assert_eq!(
        explained(&layer, Method::GET),
        "sent once more after 1s, as too few answers have been seen, up to 1 times; 100 of 100 retries left"
    );
    let off = HedgeLayer::<()>::off();
    let (mut head, ()) = Request::new(()).into_parts();
    assert_eq!(off.explain(Now::read(), &mut head), Finding::Off);
}

/// Bug: one slow answer moved a session to the endpoint that was asked beside its own.
#[tokio::test(start_paused = true)]
async fn a_session_stays_with_its_endpoint_although_another_answers_first() {
    let answer = service_fn(|request: Request<Replay<Sent>>| async move {
        let is_slow = request.headers().contains_key("slow") && request.headers().get(ATTEMPT).is_none();
        if is_slow {
            std::future::pending::<()>().await;
        }
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
    });
    let config = BalanceConfig::default().sticky(Sticky::new("session", b"a secret").unwrap());
    let balanced =
        BalanceLayer::new(["pune", "nashik"]).reconfigured(config, ["pune", "nashik"]).layer(answer);
    let service = HedgeLayer::new(after_50(), budget()).layer(balanced);
    let first = service.clone().oneshot(get()).await.unwrap();
    let cookie = first.headers()["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned();
    let mut slow = get();
    slow.headers_mut().insert("cookie", cookie.parse().unwrap());
    slow.headers_mut().insert("slow", HeaderValue::from(1));
    let response = service.oneshot(slow).await.unwrap();
    assert_eq!((response.status().as_u16(), response.headers().get("set-cookie")), (200, None));
}
