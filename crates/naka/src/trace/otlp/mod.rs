//! Sends spans to a collector: [OTLP 1.x](https://opentelemetry.io/docs/specs/otlp/) in protobuf, over HTTP or gRPC.
//!
//! Spans are written where they end, into a bounded queue, and sent from there in batches by [`Export::run`], which is
//! somebody else's task. Whoever answers requests waits for nobody: what finds no room is counted, and dropped.
//!
//! # Bounds
//! [`OtlpConfig::queue_bytes`] that wait, [`OtlpConfig::batch_bytes`] in one request; each of them is tried
//! [`TRIES`] times, with pauses that double from a second on or as long as the collector asks for, and then dropped. While a
//! collector does not answer, one batch and one queue are held, and no more.
//!
//! # Transport
//! A [`Service`] that carries a request to the collector and brings the answer: `POST` to `/v1/traces`, or to the method of gRPC,
//! with a target that has neither scheme nor authority. Trailers of the answer are looked for among its headers.

mod convert;
mod message;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{
    HeaderValue, Request, Response, StatusCode,
    header::{CONTENT_TYPE, RETRY_AFTER, TE},
};
use prost::{
    Message as _,
    encoding::{WireType, encode_key, encode_varint, encoded_len_varint},
};
use tokio::{
    sync::mpsc,
    time::{sleep, timeout, timeout_at},
};
use tower_service::Service;

use self::message::{ExportResponse, KeyValue, Resource, Scope};
use super::{Collect, ServerSpan};
use crate::{
    BoxError,
    clock::Now,
    random::{mix, seed},
};

/// How often a batch is sent before it is dropped.
pub const TRIES: u32 = 5;
/// The longest pause between two tries.
const PAUSE: Duration = Duration::from_secs(30);
/// Requests of which spans may wait, whatever their size.
const QUEUE: usize = 8192;
/// The least that is counted for one request, in bytes: what its place costs.
const LEAST: usize = 128;

/// How a collector is spoken to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// OTLP/HTTP, in binary protobuf.
    #[default]
    HttpProtobuf,
    /// OTLP/gRPC: the transport has to speak HTTP/2.
    Grpc,
}

/// What a span says besides what the conventions ask for, because it may tell who asked, or for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Optional {
    /// `url.path`.
    UrlPath,
    /// `url.query`.
    UrlQuery,
    /// `client.address`.
    ClientAddress,
    /// `user_agent.original`.
    UserAgent,
}

/// Where spans go, and how.
#[derive(Clone, Debug)]
pub struct OtlpConfig {
    /// What speaks: `service.name`.
    pub service: Arc<str>,
    /// More about what speaks, such as `service.version`.
    pub resource: Vec<(Arc<str>, Arc<str>)>,
    /// How the collector is spoken to.
    pub protocol: Protocol,
    /// What is told although it may say who asked; nothing if nothing is said.
    pub optional: Vec<Optional>,
    /// Bytes of spans that may wait. 4 MiB if nothing is said.
    pub queue_bytes: usize,
    /// Bytes of spans in one request. 512 KiB if nothing is said.
    pub batch_bytes: usize,
    /// How long spans wait for others that they are sent with. A second if nothing is said.
    pub delay: Duration,
    /// How long the collector has for an answer. 10 seconds if nothing is said.
    pub timeout: Duration,
}

impl OtlpConfig {
    /// As is usual, for this service.
    pub fn new(service: impl Into<Arc<str>>) -> Self {
        Self {
            service: service.into(),
            resource: Vec::new(),
            protocol: Protocol::default(),
            optional: Vec::new(),
            queue_bytes: 4 << 20,
            batch_bytes: 512 << 10,
            delay: Duration::from_secs(1),
            timeout: Duration::from_secs(10),
        }
    }

    /// An exporter, and its other end, which has to be [run](Export::run).
    pub fn exporter(self) -> (Exporter, Export) {
        let (sender, waiting) = mpsc::channel(QUEUE);
        let shared = Arc::new(Shared { counts: AllCounts::default(), config: self });
        (Exporter { sender, shared: Arc::clone(&shared) }, Export { waiting, shared })
    }
}

/// What became of spans so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// The collector has taken them.
    pub exported: u64,
    /// There was no room for them.
    pub dropped: u64,
    /// The collector has not taken them: it could not be reached, or did not want them.
    pub failed: u64,
}

#[derive(Debug, Default)]
struct AllCounts {
    exported: AtomicU64,
    dropped: AtomicU64,
    failed: AtomicU64,
    /// Bytes that wait, or are being sent.
    bytes: AtomicUsize,
}

#[derive(Debug)]
struct Shared {
    config: OtlpConfig,
    counts: AllCounts,
}

/// Takes spans and never waits; see the [module docs](self).
#[derive(Clone)]
pub struct Exporter {
    sender: mpsc::Sender<Waiting>,
    shared: Arc<Shared>,
}

/// The spans of one request, each as a field of `ScopeSpans`.
struct Waiting {
    fields: Bytes,
    spans: u64,
}

impl Waiting {
    fn bytes(&self) -> usize {
        self.fields.len().max(LEAST)
    }
}

impl Exporter {
    /// What became of spans so far.
    pub fn counts(&self) -> Counts {
        let AllCounts { exported, dropped, failed, .. } = &self.shared.counts;
        Counts {
            exported: exported.load(Relaxed),
            dropped: dropped.load(Relaxed),
            failed: failed.load(Relaxed),
        }
    }

    /// Bytes of spans that wait, or are being sent.
    pub fn bytes(&self) -> usize {
        self.shared.counts.bytes.load(Relaxed)
    }
}

impl Collect for Exporter {
    fn collect(&self, span: ServerSpan) {
        let (config, counts) = (&self.shared.config, &self.shared.counts);
        let count = 1 + span.written.attempts.len() as u64;
        // Asked before anything is written: where nothing is taken any more, nothing is done for it.
        if counts.bytes.load(Relaxed) >= config.queue_bytes {
            counts.dropped.fetch_add(count, Relaxed);
            return;
        }
        let mut fields = BytesMut::new();
        for span in convert::spans(&span, &config.optional) {
            encode_key(2, WireType::LengthDelimited, &mut fields);
            span.encode_length_delimited(&mut fields).expect("it grows");
        }
        let waiting = Waiting { fields: fields.freeze(), spans: count };
        let bytes = waiting.bytes();
        counts.bytes.fetch_add(bytes, Relaxed);
        if self.sender.try_send(waiting).is_err() {
            counts.bytes.fetch_sub(bytes, Relaxed);
            counts.dropped.fetch_add(count, Relaxed);
        }
    }
}

impl fmt::Debug for Exporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exporter")
            .field("config", &self.shared.config)
            .field("counts", &self.counts())
            .finish_non_exhaustive()
    }
}

/// The other end of an [`Exporter`].
#[must_use = "nothing is sent unless it is run"]
pub struct Export {
    waiting: mpsc::Receiver<Waiting>,
    shared: Arc<Shared>,
}

impl fmt::Debug for Export {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Export").field("config", &self.shared.config).finish_non_exhaustive()
    }
}

/// What a collector said to a batch.
#[derive(Debug)]
enum Said {
    /// It has taken all but so many.
    Taken { rejected: u64 },
    /// It is worth trying again, not before that time if it said so.
    Again(Option<Duration>, BoxError),
    /// It does not want it.
    Never(BoxError),
}

impl Export {
    /// Sends what comes, until all exporters are gone and what they have left is sent or given up: at the end of a process, bound how long
    /// that may take. `tell` hears why a batch was given up.
    pub async fn run<S>(mut self, mut transport: S, tell: impl Fn(&BoxError))
    where
        S: Service<Request<Bytes>, Response = Response<Bytes>, Error: Into<BoxError>>,
    {
        while let Some(first) = self.waiting.recv().await {
            let batch = self.batch(first).await;
            let (spans, bytes) = (sum(&batch, |it| it.spans), batch.iter().map(Waiting::bytes).sum());
            let body = self.body(&batch);
            drop(batch);
            let counts = &self.shared.counts;
            match self.send(&mut transport, body).await {
                Ok(rejected) => {
                    counts.exported.fetch_add(spans.saturating_sub(rejected), Relaxed);
                    counts.failed.fetch_add(rejected.min(spans), Relaxed);
                }
                Err(why) => {
                    counts.failed.fetch_add(spans, Relaxed);
                    tell(&why);
                }
            }
            counts.bytes.fetch_sub(bytes, Relaxed);
        }
    }

    /// That one, and what comes until there is enough or it has waited long enough.
    async fn batch(&mut self, first: Waiting) -> Vec<Waiting> {
        let (config, mut bytes) = (&self.shared.config, first.fields.len());
        let until = Now::read().instant() + config.delay;
        let mut batch = vec![first];
        while bytes < config.batch_bytes {
            let Ok(Some(next)) = timeout_at(until, self.waiting.recv()).await else { break };
            bytes += next.fields.len();
            batch.push(next);
        }
        batch
    }

    /// `ExportTraceServiceRequest { resource_spans: [{ resource, scope_spans: [{ scope, spans }] }] }`, for gRPC in its frame.
    fn body(&self, batch: &[Waiting]) -> Bytes {
        let config = &self.shared.config;
        let attributes = config.resource.iter().map(|(key, value)| KeyValue::text(key, value));
        let named = KeyValue::text("service.name", &config.service);
        let resource = Resource { attributes: std::iter::once(named).chain(attributes).collect() };
        let scope = Scope { name: "naka".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() };
        let field = |length: usize| 1 + encoded_len_varint(length as u64) + length; // All numbers are below 16.
        let spans = batch.iter().map(|it| it.fields.len()).sum::<usize>();
        let in_scope = field(scope.encoded_len()) + spans;
        let in_resource = field(resource.encoded_len()) + field(in_scope);
        let mut body = BytesMut::with_capacity(5 + field(in_resource));
        if config.protocol == Protocol::Grpc {
            body.put_u8(0); // Not compressed.
            body.put_u32(u32::try_from(field(in_resource)).unwrap_or(u32::MAX));
        }
        begin(1, in_resource, &mut body);
        begin(1, resource.encoded_len(), &mut body);
        resource.encode_raw(&mut body);
        begin(2, in_scope, &mut body);
        begin(1, scope.encoded_len(), &mut body);
        scope.encode_raw(&mut body);
        for waiting in batch {
            body.put_slice(&waiting.fields);
        }
        body.freeze()
    }

    async fn send<S>(&self, transport: &mut S, body: Bytes) -> Result<u64, BoxError>
    where
        S: Service<Request<Bytes>, Response = Response<Bytes>, Error: Into<BoxError>>,
    {
        let mut pause = Duration::from_secs(1);
        for number in 1.. {
            let (asked_for, why) = match self.attempt(transport, body.clone()).await {
                Said::Taken { rejected } => return Ok(rejected),
                Said::Never(why) => return Err(why),
                Said::Again(asked_for, why) => (asked_for, why),
            };
            if number >= TRIES {
                return Err(why);
            }
            // Up to a half more, by chance: so not all who ask the same collector come back at once.
            let more = u32::try_from(mix(seed()) >> 32).unwrap_or_default();
            let jitter = pause.mul_f64(f64::from(more) / f64::from(u32::MAX) / 2.0);
            sleep(asked_for.unwrap_or(pause + jitter).min(PAUSE)).await;
            pause = (pause * 2).min(PAUSE);
        }
        Err("never sent".into())
    }

    async fn attempt<S>(&self, transport: &mut S, body: Bytes) -> Said
    where
        S: Service<Request<Bytes>, Response = Response<Bytes>, Error: Into<BoxError>>,
    {
        let protocol = self.shared.config.protocol;
        let exchange = async {
            std::future::poll_fn(|cx| transport.poll_ready(cx)).await.map_err(Into::into)?;
            transport.call(request(protocol, body)).await.map_err(Into::into)
        };
        match timeout(self.shared.config.timeout, exchange).await {
            Ok(Ok(response)) if protocol == Protocol::Grpc => said_by_grpc(&response),
            Ok(Ok(response)) => said(&response),
            Ok(Err(why)) => Said::Again(None, why),
            Err(elapsed) => Said::Again(None, elapsed.into()),
        }
    }
}

fn request(protocol: Protocol, body: Bytes) -> Request<Bytes> {
    let (path, kind) = match protocol {
        Protocol::HttpProtobuf => ("/v1/traces", "application/x-protobuf"),
        Protocol::Grpc => ("/opentelemetry.proto.collector.trace.v1.TraceService/Export", "application/grpc"),
    };
    let mut request = Request::new(body);
    *request.method_mut() = http::Method::POST;
    *request.uri_mut() = http::Uri::from_static(path);
    request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    if protocol == Protocol::Grpc {
        request.headers_mut().insert(TE, HeaderValue::from_static("trailers"));
    }
    request
}

/// OTLP, "OTLP/HTTP Response".
fn said(response: &Response<Bytes>) -> Said {
    let status = response.status();
    match status {
        _ if status.is_success() => Said::Taken { rejected: rejected(response.body().clone()) },
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => {
            let seconds =
                response.headers().get(RETRY_AFTER).and_then(|it| it.to_str().ok()?.trim().parse().ok());
            Said::Again(seconds.map(Duration::from_secs), answered(status))
        }
        _ => Said::Never(answered(status)),
    }
}

fn answered(status: StatusCode) -> BoxError {
    format!("the collector answers {status}").into()
}

/// OTLP, "OTLP/gRPC Response": which statuses are worth another try.
fn said_by_grpc(response: &Response<Bytes>) -> Said {
    let code = response.headers().get("grpc-status").and_then(|code| code.to_str().ok()?.parse::<u32>().ok());
    match code {
        Some(0) => {
            let body = response.body();
            Said::Taken { rejected: rejected(body.slice(5.min(body.len())..)) }
        }
        // CANCELLED, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, ABORTED, OUT_OF_RANGE, UNAVAILABLE, DATA_LOSS.
        Some(code @ (1 | 4 | 8 | 10 | 11 | 14 | 15)) => {
            Said::Again(None, format!("the collector answers grpc-status {code}").into())
        }
        Some(code) => Said::Never(format!("the collector answers grpc-status {code}").into()),
        // By whoever stands before it ("HTTP to gRPC Status Code Mapping"): what is not said to pass is no matter of time.
        None => match said(response) {
            Said::Taken { .. } => Said::Never("the collector answers without a grpc-status".into()),
            other => other,
        },
    }
}

/// How many spans the collector has not taken of those that it was sent.
fn rejected(body: Bytes) -> u64 {
    let partial = ExportResponse::decode(body).ok().and_then(|it| it.partial_success);
    partial.and_then(|it| u64::try_from(it.rejected_spans).ok()).unwrap_or_default()
}

fn begin(number: u32, length: usize, body: &mut BytesMut) {
    encode_key(number, WireType::LengthDelimited, body);
    encode_varint(length as u64, body);
}

fn sum<T>(all: &[T], of: impl Fn(&T) -> u64) -> u64 {
    all.iter().map(of).sum()
}
