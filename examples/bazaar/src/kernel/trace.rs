//! Which trace a request is of, through all services.
//!
//! Each request is a span, named by its route; each question to another service one within it, under whose number that service is
//! asked. What is done later, in the background, belongs to the trace of the request that it follows from, if that was kept with it
//! ([`carried`]), and is a span of its own ([`later`]).
//!
//! Spans go to the collector in `OTEL_EXPORTER_OTLP_ENDPOINT` (an `http://` URL), if there is one. Whether a trace is recorded the
//! gateway has decided: what begins here, such as a look at `/healthz`, is not.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context as Waker, Poll},
    time::Duration,
};

use axum::{
    Router,
    body::Bytes,
    extract::{MatchedPath, Request as Incoming},
    http::{HeaderMap, HeaderName, Method, Request, Response, StatusCode, Uri, Version},
    middleware::{Next, from_fn},
};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use naka::{
    BoxError,
    clock::{Now, WallClock},
    guard::End,
    trace::{
        self, Collect, Format, Ids, Journal, Sampler, ServerSpan, TraceConfig, TraceLayer, UnderWay,
        otlp::{Exporter, OtlpConfig},
    },
};
use tokio::time::{Instant, sleep, timeout};
use tower_service::Service;

use super::console::complain;

/// Where the collector is, as every OpenTelemetry SDK reads it.
const COLLECTOR: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

/// How long spans may take to get out at the end.
const FLUSH: Duration = Duration::from_secs(2);

/// The largest answer of a collector, in bytes.
const ANSWER: usize = 64 << 10;

/// The header that says of which trace and span something is (W3C Trace Context, section 3.2).
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

tokio::task_local! {
    /// Of the request that is being answered.
    static CURRENT: Arc<Journal>;
}

/// Whoever takes the spans of this process, for what is done later. A process is one service.
static SPANS: OnceLock<Spans> = OnceLock::new();

/// Whoever takes spans: a collector, or nobody.
#[derive(Clone, Debug)]
pub struct Spans(Option<Exporter>);

impl Collect for Spans {
    fn collect(&self, span: ServerSpan) {
        if let Some(exporter) = &self.0 {
            exporter.collect(span);
        }
    }
}

impl Spans {
    /// Those of this service; needs a tokio runtime.
    pub fn of(service: &str) -> Self {
        let Ok(url) = std::env::var(COLLECTOR) else { return Self(None) };
        let base = match url.parse::<Uri>() {
            Ok(base) if base.scheme_str() == Some("http") && base.authority().is_some() => base,
            _ => {
                complain(format_args!("{COLLECTOR} is not an http:// URL: nothing is told of traces"));
                return Self(None);
            }
        };
        let (exporter, export) = OtlpConfig::new(service).exporter();
        let client = Client::builder(TokioExecutor::new()).build_http();
        let base = base.to_string().trim_end_matches('/').into();
        tokio::spawn(
            export
                .run(Way { client, base }, |why: &BoxError| complain(format_args!("spans are lost: {why}"))),
        );
        let spans = Self(Some(exporter));
        _ = SPANS.set(spans.clone());
        spans
    }

    /// A router whose requests are spans.
    pub fn around(&self, app: Router) -> Router {
        let config =
            TraceConfig { sampler: Sampler::NEVER, always_on_error: false, ..TraceConfig::default() };
        let layer = TraceLayer::new(config, self.clone())
            .named_by(|extensions| Some(extensions.get::<MatchedPath>()?.as_str().into()));
        app.layer(from_fn(within)).layer(layer)
    }

    /// Waits until all are out, for two seconds at most.
    pub async fn flush(&self) {
        let Some(exporter) = &self.0 else { return };
        let until = Instant::now() + FLUSH;
        while exporter.bytes() > 0 && Instant::now() < until {
            sleep(Duration::from_millis(10)).await;
        }
    }
}

async fn within(request: Incoming, next: Next) -> Response<axum::body::Body> {
    match Journal::of(request.extensions()).cloned() {
        Some(journal) => CURRENT.scope(journal, next.run(request)).await,
        None => next.run(request).await,
    }
}

/// The span of the request that is being answered, as `traceparent` has it: to be kept with what it leads to.
pub fn carried() -> Option<String> {
    let context = CURRENT.try_with(|journal| journal.context().cloned()).ok()??;
    let mut headers = HeaderMap::new();
    trace::inject(&context, &mut headers, &[Format::W3c]);
    headers.get(TRACEPARENT)?.to_str().ok().map(str::to_owned)
}

/// The trace id in a `traceparent`.
pub fn trace_id(carried: &str) -> Option<&str> {
    carried.split('-').nth(1)
}

/// Does something as a span of its own, within the trace that was [`carried`] there. The span has failed if `failed` says so; if
/// the future is dropped, there is none.
pub async fn later<T>(
    name: String,
    carried: Option<&str>,
    failed: impl FnOnce(&T) -> bool,
    work: impl Future<Output = T>,
) -> T {
    let Some(parent) = carried.and_then(|it| it.parse().ok()) else { return work.await };
    let config = TraceConfig { sampler: Sampler::NEVER, always_on_error: false, ..TraceConfig::default() };
    let mut headers = HeaderMap::from_iter([(TRACEPARENT, parent)]);
    let (context, parent) = config.begin(&mut headers, true, &Ids::new());
    let journal = Journal::new(Some(context.clone()));
    let now = Now::read();
    let began = WallClock::system().unix(now).unwrap_or_default();
    let done = CURRENT.scope(Arc::clone(&journal), work).await;
    if let Some(spans) = SPANS.get().filter(|_| context.is_sampled) {
        let status = if failed(&done) { StatusCode::INTERNAL_SERVER_ERROR } else { StatusCode::OK };
        spans.collect(ServerSpan {
            context,
            parent,
            began,
            now,
            took: now.elapsed(),
            method: Method::POST,
            scheme: None,
            host: None,
            target: Uri::default(),
            version: Version::HTTP_11,
            client: None,
            user_agent: None,
            route: Some(name.into()),
            status: Some(status),
            rejection: None,
            end: End::Complete,
            labels: Vec::new(),
            written: journal.close(),
        });
    }
    done
}

/// Tells another service, by the headers of a question, of which span it is asked. What comes back has to be told what comes of it.
pub fn ask<B>(name: &'static str, at: SocketAddr, question: &mut Request<B>) -> Option<UnderWay> {
    let at = at.to_string().into();
    let attempt = CURRENT.try_with(|journal| journal.attempt(&name.into(), &at, Now::read())).ok()?;
    let attempt = attempt.by(question.method());
    if let Some(context) = attempt.context() {
        trace::inject(&context, question.headers_mut(), &[Format::W3c]);
    }
    Some(attempt)
}

/// The way to the collector.
struct Way {
    client: Client<HttpConnector, Full<Bytes>>,
    base: Arc<str>,
}

impl Service<Request<Bytes>> for Way {
    type Response = Response<Bytes>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Bytes>, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Waker<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        let uri = format!("{}{}", self.base, request.uri().path()).parse::<Uri>();
        let mut request = request.map(Full::from);
        let client = self.client.clone();
        Box::pin(async move {
            *request.uri_mut() = uri?;
            let (head, body) = client.request(request).await?.into_parts();
            let body = timeout(FLUSH, Limited::new(body, ANSWER).collect()).await??.to_bytes();
            Ok(Response::from_parts(head, body))
        })
    }
}
