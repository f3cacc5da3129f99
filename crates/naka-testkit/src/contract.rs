//! The laws every layer keeps, as one suite: [`check`] runs all of them on one [`Subject`].
//!
//! Run it on a paused clock (`#[tokio::test(start_paused = true)]`).

use std::{
    fmt,
    future::{Ready, ready},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, request::Parts};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use naka::{
    clock::Now,
    explain::{Explain, Finding},
    reject::Rejection,
};
use tower_layer::Layer;
use tower_service::Service;

/// One kind of layer, as the suite needs to know it.
pub trait Subject {
    /// The layer.
    type Layer: Layer<Probe, Service = Self::Service> + Explain + Clone + Send + Sync;
    /// Its service over the suite's probe.
    type Service: Service<Request<()>, Response = Response<Self::Body>, Error = Broken, Future: Send>
        + Clone
        + Send
        + Sync;
    /// The body of its responses.
    type Body: Body<Data = Bytes, Error: fmt::Debug> + Default;

    /// A new layer that lets [`ADMITS`] requests pass whose bodies are kept, and refuses the next
    /// (unless [`refuses`](Self::refuses) says that this kind never does).
    fn fresh(&self) -> Self::Layer;

    /// The layer that is not there.
    fn off(&self) -> Self::Layer;

    /// What requests under way hold of the layer's state; 0 when they have all ended.
    fn held(&self, _: &Self::Layer) -> usize {
        0
    }

    /// Whether this kind refuses anything at all.
    fn refuses(&self) -> bool {
        true
    }
}

/// How many requests a fresh subject lets pass.
pub const ADMITS: usize = 3;

/// Runs every law.
///
/// # Panics
/// At the first law that does not hold.
pub async fn check<S: Subject>(subject: &S) {
    the_instance_that_was_ready_is_called(subject).await;
    being_ready_consumes_nothing(subject).await;
    all_services_of_a_layer_share_one_account(subject).await;
    a_refusal_is_a_response_that_says_why(subject).await;
    errors_pass_unchanged(subject).await;
    off_is_not_there(subject).await;
    everything_is_released(subject).await;
    explaining_consumes_nothing(subject).await;
    what_explain_says_is_what_call_does(subject).await;
}

async fn the_instance_that_was_ready_is_called<S: Subject>(subject: &S) {
    let mut service = subject.fresh().layer(Probe::default());
    for _ in 0..ADMITS {
        make_ready(&mut service).await;
        service.call(Request::new(())).await.expect("the probe does not break"); // Probe panics if not ready.
    }
}

async fn being_ready_consumes_nothing<S: Subject>(subject: &S) {
    let layer = subject.fresh();
    let before = said(&layer);
    for _ in 0..100 {
        let mut service = layer.layer(Probe::default());
        make_ready(&mut service).await;
    }
    assert_eq!(said(&layer), before, "a service that was ready and dropped has consumed something");
    assert_eq!(subject.held(&layer), 0);
}

async fn all_services_of_a_layer_share_one_account<S: Subject>(subject: &S) {
    let (layer, probe) = (subject.fresh(), Probe::default());
    let mut bodies = Vec::new();
    for turn in 0..ADMITS * 2 {
        // In turns: another `.layer()` call, a clone of the layer, a clone of a service.
        let mut service = match turn % 3 {
            0 => layer.layer(probe.clone()),
            1 => layer.clone().layer(probe.clone()),
            _ => layer.layer(probe.clone()).clone(),
        };
        make_ready(&mut service).await;
        bodies.push(service.call(Request::new(())).await.expect("the probe does not break"));
    }
    let expected = if subject.refuses() { ADMITS } else { ADMITS * 2 };
    assert_eq!(probe.calls(), expected, "several services of one layer do not share one account");
}

async fn a_refusal_is_a_response_that_says_why<S: Subject>(subject: &S) {
    if !subject.refuses() {
        return;
    }
    let (layer, probe) = (subject.fresh(), Probe::default());
    let kept = spend(&layer, &probe).await;
    let response = call(&layer, &probe).await.expect("a refusal is no error");
    let rejection = response.extensions().get::<Rejection>().expect("a refusal says why").clone();
    assert_eq!(response.status(), rejection.reason.status());
    assert_eq!(probe.calls(), ADMITS, "a refused request does not reach what is behind");
    if let Some(wait) = rejection.retry_after {
        let seconds: u64 =
            response.headers()["retry-after"].to_str().unwrap_or("-").parse().expect("whole seconds");
        assert!(u128::from(seconds) * 1000 >= wait.as_millis() && seconds <= wait.as_secs() + 1);
    }
    let body = response.into_body().collect().await.expect("an empty body cannot fail").to_bytes();
    assert!(body.is_empty(), "the body of a refusal is for the outermost layer to fill");
    drop(kept);
}

async fn errors_pass_unchanged<S: Subject>(subject: &S) {
    let probe = Probe::default();
    probe.state.is_broken.store(true, SeqCst);
    let layer = subject.fresh();
    assert_eq!(call(&layer, &probe).await.err(), Some(Broken));
    assert_eq!(subject.held(&layer), 0, "an error keeps something");
}

async fn off_is_not_there<S: Subject>(subject: &S) {
    let (layer, probe) = (subject.off(), Probe::default());
    assert_eq!(said(&layer), Finding::Off);
    let mut kept = Vec::new();
    for _ in 0..ADMITS * 10 {
        let response = call(&layer, &probe).await.expect("the probe does not break");
        assert!(response.extensions().get::<Rejection>().is_none());
        kept.push(response);
    }
    let body = kept.remove(0).into_body().collect().await.expect("a full body cannot fail").to_bytes();
    assert_eq!((probe.calls(), &*body), (ADMITS * 10, ANSWER));
}

async fn everything_is_released<S: Subject>(subject: &S) {
    let (layer, probe) = (subject.fresh(), Probe::default());
    let mut kept = spend(&layer, &probe).await;
    // One body is read to its end, one is dropped half-way, the others are dropped with their heads.
    kept.remove(0).into_body().collect().await.expect("a full body cannot fail");
    drop(kept);
    assert_eq!(subject.held(&layer), 0, "a response that ended keeps something");
    let mut service = layer.layer(probe.clone());
    for _ in 0..ADMITS * 10 {
        make_ready(&mut service).await;
        drop(service.call(Request::new(()))); // Given up before it was first polled.
    }
    assert_eq!(subject.held(&layer), 0, "a request that was given up keeps something");
}

async fn explaining_consumes_nothing<S: Subject>(subject: &S) {
    let (layer, probe) = (subject.fresh(), Probe::default());
    let first = said(&layer);
    for _ in 0..1000 {
        assert_eq!(said(&layer), first, "asking changes the answer");
    }
    let kept = spend(&layer, &probe).await;
    assert_eq!(probe.calls(), ADMITS, "asking has consumed something");
    drop(kept);
}

/// Random steps: time goes by, bodies end, requests come; before each request the layer is asked.
async fn what_explain_says_is_what_call_does<S: Subject>(subject: &S) {
    let (layer, probe) = (subject.fresh(), Probe::default());
    let (mut kept, mut seen, mut random) = (Vec::new(), [0_usize; 2], Random(0x9e37_79b9_7f4a_7c15));
    for _ in 0..2000 {
        tokio::time::advance(Duration::from_millis(random.below(40_000))).await;
        while !kept.is_empty() && random.below(3) == 0 {
            kept.swap_remove(usize::try_from(random.below(kept.len() as u64)).unwrap_or(0));
        }
        for _ in 0..random.below(4) {
            let finding = said(&layer);
            if matches!(finding, Finding::WouldAsk(naka::reject::Dependency::Queue { .. })) {
                continue; // The call would wait for a place, and nobody here would free one.
            }
            let response = call(&layer, &probe).await.expect("the probe does not break");
            let did = response.extensions().get::<Rejection>().cloned();
            match finding {
                Finding::WouldAsk(_) => {} // What comes of it is known to whoever is asked.
                Finding::Reject(rejection) => assert_eq!(did, Some(rejection), "explain and call disagree"),
                _ => assert_eq!(did, None, "explain and call disagree"),
            }
            seen[usize::from(did.is_some())] += 1;
            if did.is_none() {
                kept.push(response);
            }
        }
    }
    assert!(seen[0] > 100 && (seen[1] > 100 || !subject.refuses()), "the walk saw too little: {seen:?}");
}

async fn spend<L, S>(layer: &L, probe: &Probe) -> Vec<S::Response>
where
    L: Layer<Probe, Service = S>,
    S: Service<Request<()>, Error = Broken>,
{
    let mut kept = Vec::new();
    for _ in 0..ADMITS {
        kept.push(call(layer, probe).await.expect("the probe does not break"));
    }
    kept
}

async fn call<L, S>(layer: &L, probe: &Probe) -> Result<S::Response, Broken>
where
    L: Layer<Probe, Service = S>,
    S: Service<Request<()>, Error = Broken>,
{
    let mut service = layer.layer(probe.clone());
    make_ready(&mut service).await;
    service.call(Request::new(())).await
}

async fn make_ready<S: Service<Request<()>, Error = Broken>>(service: &mut S) {
    std::future::poll_fn(|cx| Service::<Request<()>>::poll_ready(service, cx))
        .await
        .expect("the probe is always ready in the end");
}

fn said(layer: &impl Explain) -> Finding {
    let (mut head, ()) = Request::new(()).into_parts();
    layer.explain(Now::read(), &mut head)
}

const ANSWER: &[u8] = b"answer";

/// The innermost service of the suite: it insists on being ready before it is called, and a clone is
/// never ready.
#[derive(Debug, Default)]
pub struct Probe {
    is_ready: bool,
    polls: usize,
    state: Arc<ProbeState>,
}

#[derive(Debug, Default)]
struct ProbeState {
    calls: AtomicUsize,
    is_broken: AtomicBool,
}

impl Probe {
    fn calls(&self) -> usize {
        self.state.calls.load(SeqCst)
    }
}

impl Clone for Probe {
    fn clone(&self) -> Self {
        Self { is_ready: false, polls: 0, state: Arc::clone(&self.state) }
    }
}

impl<B> Service<Request<B>> for Probe {
    type Response = Response<Full<Bytes>>;
    type Error = Broken;
    type Future = Ready<Result<Self::Response, Broken>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        self.polls += 1;
        if self.polls % 2 == 1 && !self.is_ready {
            cx.waker().wake_by_ref(); // Not at once, so that nobody takes readiness for granted.
            return Poll::Pending;
        }
        self.is_ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<B>) -> Self::Future {
        assert!(std::mem::take(&mut self.is_ready), "called without having been ready");
        self.state.calls.fetch_add(1, SeqCst);
        let is_broken = self.state.is_broken.load(SeqCst);
        ready(if is_broken { Err(Broken) } else { Ok(Response::new(Full::from(ANSWER))) })
    }
}

/// A layer for the suite whose requests need more than the suite's own have: a method, headers, a body. What
/// it explains is asked about the next request.
#[derive(Clone, Debug)]
pub struct Dressed<L> {
    /// The layer.
    pub layer: L,
    dress: Dress,
    /// Requests so far, through all services of the layer.
    requests: Arc<AtomicUsize>,
}

/// What becomes of the head of a request, and how many there were before it.
pub type Dress = fn(&mut Parts, usize);

impl<L> Dressed<L> {
    /// This layer, and what becomes of its requests.
    pub fn new(layer: L, dress: Dress) -> Self {
        Self { layer, dress, requests: Arc::default() }
    }
}

impl<L: Layer<Probe>> Layer<Probe> for Dressed<L> {
    type Service = Dressed<L::Service>;

    fn layer(&self, probe: Probe) -> Self::Service {
        let layer = self.layer.layer(probe);
        Dressed { layer, dress: self.dress, requests: Arc::clone(&self.requests) }
    }
}

impl<L: Explain> Explain for Dressed<L> {
    fn kind(&self) -> &'static str {
        self.layer.kind()
    }

    fn explain(&self, now: Now, head: &mut Parts) -> Finding {
        (self.dress)(head, self.requests.load(SeqCst));
        self.layer.explain(now, head)
    }
}

impl<S: Service<Request<Full<Bytes>>>> Service<Request<()>> for Dressed<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.layer.poll_ready(cx)
    }

    fn call(&mut self, request: Request<()>) -> S::Future {
        let (mut head, ()) = request.into_parts();
        (self.dress)(&mut head, self.requests.fetch_add(1, SeqCst));
        self.layer.call(Request::from_parts(head, Full::from(ANSWER)))
    }
}

/// The error of the suite's probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken;

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("broken on purpose")
    }
}

impl std::error::Error for Broken {}

/// A small generator (xorshift64) with a seed, so that a failure comes again.
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}
