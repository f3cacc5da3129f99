//! Makes a span of each request.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context as Waker, Poll, ready},
};

use http::{
    Extensions, Request, Response,
    header::{HOST, USER_AGENT},
};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::{Collect, Context, Format, Ids, Journal, Sampler, ServerSpan, SpanId, baggage, take};
use crate::{
    clock::{Now, WallClock},
    context::ClientAddr,
    guard::{End, Guard, Guarded},
    reject::{Head, Rejection},
};

/// How traces are read, begun and recorded.
#[derive(Clone, Debug)]
pub struct TraceConfig {
    /// The formats that are read, the first that is right counts; and all that are written. W3C alone if nothing is said.
    pub propagators: Arc<[Format]>,
    /// Which of the traces that begin here are recorded. All, if nothing is said.
    pub sampler: Sampler,
    /// Record requests that failed (5xx, or a response that broke off) also where the sampler has left the trace out. What others
    /// do for them is not recorded then, as they were told. Yes, if nothing is said.
    pub always_on_error: bool,
}

impl Default for TraceConfig {
    fn default() -> Self {
        Self { propagators: [Format::W3c].into(), sampler: Sampler::ALWAYS, always_on_error: true }
    }
}

impl TraceConfig {
    /// The span of a request, and the one that it was asked from. What its headers say of a trace is taken out of them; if it is not
    /// believed, a trace begins here, and no baggage goes on.
    pub fn begin(
        &self,
        headers: &mut http::HeaderMap,
        is_trusted: bool,
        ids: &Ids,
    ) -> (Context, Option<SpanId>) {
        let said = take(headers, &self.propagators);
        if is_trusted {
            baggage::cap(headers);
        } else {
            baggage::remove(headers);
        }
        self.sampler.begin(said.filter(|_| is_trusted), ids)
    }

    /// Whether this span is recorded.
    pub fn records(&self, span: &ServerSpan) -> bool {
        span.context.is_sampled || self.always_on_error && span.is_error()
    }
}

type Trust = dyn Fn(&Head<'_>) -> bool + Send + Sync;
type Template = dyn Fn(&Extensions) -> Option<Arc<str>> + Send + Sync;

/// Makes a span of each request, and hands it to a collector at the end of the response's body; see the [module docs](super).
///
/// What is behind finds the span in the [`Journal`] among the request's extensions, and asks others under
/// [attempts](Journal::attempt) of it.
pub struct TraceLayer<C> {
    shared: Arc<Shared<C>>,
}

struct Shared<C> {
    config: TraceConfig,
    collector: C,
    ids: Ids,
    clock: WallClock,
    trust: Option<Box<Trust>>,
    template: Option<Box<Template>>,
}

impl<C: Collect> TraceLayer<C> {
    /// What requests say of a trace is believed: this is for services that stand behind others. At the edge, say
    /// [whom](Self::trusting) to believe.
    pub fn new(config: TraceConfig, collector: C) -> Self {
        Self::with(config, collector, None, None)
    }

    fn with(
        config: TraceConfig,
        collector: C,
        trust: Option<Box<Trust>>,
        template: Option<Box<Template>>,
    ) -> Self {
        let (ids, clock) = (Ids::new(), WallClock::system());
        Self { shared: Arc::new(Shared { config, collector, ids, clock, trust, template }) }
    }

    /// Believes what a request says of its trace only if `trust` says so. Call it before any service is made of the layer.
    ///
    /// # Panics
    /// If the layer is shared already.
    #[must_use]
    pub fn trusting(self, trust: impl Fn(&Head<'_>) -> bool + Send + Sync + 'static) -> Self {
        let Shared { config, collector, template, .. } = self.alone();
        Self::with(config, collector, Some(Box::new(trust)), template)
    }

    /// Names spans by the template of a request's route, such as axum's `MatchedPath`. Call it before any service is made of the layer.
    ///
    /// # Panics
    /// If the layer is shared already.
    #[must_use]
    pub fn named_by(
        self,
        template: impl Fn(&Extensions) -> Option<Arc<str>> + Send + Sync + 'static,
    ) -> Self {
        let Shared { config, collector, trust, .. } = self.alone();
        Self::with(config, collector, trust, Some(Box::new(template)))
    }

    fn alone(self) -> Shared<C> {
        Arc::into_inner(self.shared).expect("a layer is made whole before it is shared")
    }
}

impl<C> Clone for TraceLayer<C> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<C> fmt::Debug for TraceLayer<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TraceLayer").field(&self.shared.config).finish()
    }
}

impl<S, C> Layer<S> for TraceLayer<C> {
    type Service = Traced<S, C>;

    fn layer(&self, inner: S) -> Self::Service {
        Traced { inner, layer: self.clone() }
    }
}

/// Makes a span of each request.
pub struct Traced<S, C> {
    inner: S,
    layer: TraceLayer<C>,
}

impl<S: Clone, C> Clone for Traced<S, C> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), layer: self.layer.clone() }
    }
}

impl<S: fmt::Debug, C> fmt::Debug for Traced<S, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Traced").field("inner", &self.inner).field("layer", &self.layer).finish()
    }
}

impl<S, C, B, R> Service<Request<B>> for Traced<S, C>
where
    S: Service<Request<B>, Response = Response<R>>,
    C: Collect,
    R: Body,
{
    type Response = Response<Guarded<R, Recording<C>>>;
    type Error = S::Error;
    type Future = TracedFuture<S::Future, C>;

    fn poll_ready(&mut self, cx: &mut Waker<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let recording = Recording::begin(&self.layer.shared, &mut request);
        TracedFuture { inner: self.inner.call(request), recording: Some(recording) }
    }
}

pin_project! {
    /// The future of [`Traced`]. Dropped before there is a response, it ends the span as one whose caller went away.
    #[derive(Debug)]
    pub struct TracedFuture<F, C: Collect> {
        #[pin]
        inner: F,
        recording: Option<Recording<C>>,
    }
}

impl<F, C, R, E> Future for TracedFuture<F, C>
where
    F: Future<Output = Result<Response<R>, E>>,
    C: Collect,
    R: Body,
{
    type Output = Result<Response<Guarded<R, Recording<C>>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Waker<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = ready!(this.inner.poll(cx));
        let mut recording = this.recording.take();
        match response {
            Ok(response) => {
                if let Some(recording) = &mut recording {
                    recording.answered(&response);
                }
                Poll::Ready(Ok(response.map(|body| Guarded::new(body, recording))))
            }
            Err(error) => {
                if let Some(recording) = recording {
                    recording.end(End::Failed);
                }
                Poll::Ready(Err(error))
            }
        }
    }
}

/// The span of one request until it ends: kept by the body of its response.
pub struct Recording<C: Collect> {
    shared: Arc<Shared<C>>,
    journal: Arc<Journal>,
    now: Now,
    /// Until it is handed over.
    span: Option<Box<ServerSpan>>,
}

impl<C: Collect> Recording<C> {
    fn begin<B>(shared: &Arc<Shared<C>>, request: &mut Request<B>) -> Self {
        let is_trusted = shared.trust.as_ref().is_none_or(|trust| trust(&Head::from(&*request)));
        let (context, parent) = shared.config.begin(request.headers_mut(), is_trusted, &shared.ids);
        let now = Now::of(request.extensions());
        let journal = Journal::new(Some(context.clone()));
        Arc::clone(&journal).put(request.extensions_mut());
        let span = ServerSpan {
            context,
            parent,
            began: shared.clock.unix(now).unwrap_or_default().saturating_sub(now.elapsed()),
            now,
            took: std::time::Duration::ZERO,
            method: request.method().clone(),
            scheme: None,
            host: request.headers().get(HOST).cloned(),
            target: request.uri().clone(),
            version: request.version(),
            client: ClientAddr::of(request.extensions()),
            user_agent: request.headers().get(USER_AGENT).cloned(),
            route: shared.template.as_ref().and_then(|template| template(request.extensions())),
            status: None,
            rejection: None,
            end: End::Dropped,
            labels: Vec::new(),
            written: super::Written::default(),
        };
        Self { shared: Arc::clone(shared), journal, now, span: Some(Box::new(span)) }
    }

    fn answered<R>(&mut self, response: &Response<R>) {
        if let Some(span) = &mut self.span {
            span.status = Some(response.status());
            span.rejection = response.extensions().get::<Rejection>().cloned();
        }
    }

    fn finish(&mut self, end: End) {
        let Some(mut span) = self.span.take() else { return };
        span.took = self.now.elapsed();
        span.end = end;
        span.written = self.journal.close();
        if self.shared.config.records(&span) {
            self.shared.collector.collect(*span);
        }
    }
}

impl<C: Collect> Guard for Recording<C> {
    fn end(mut self, end: End) {
        self.finish(end);
    }
}

impl<C: Collect> Drop for Recording<C> {
    fn drop(&mut self) {
        self.finish(End::Dropped); // Dropped without an end: the caller went away before the head.
    }
}

impl<C: Collect> fmt::Debug for Recording<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recording").field("journal", &self.journal).finish_non_exhaustive()
    }
}
