//! Spans: what they are of, when they end, who records them, and how they reach a collector.
#![allow(clippy::unwrap_used, reason = "a test may")]

use std::{
    convert::Infallible,
    future::ready,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context as Waker, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full};
use naka::{
    BoxError,
    clock::Now,
    guard::End,
    reject::{Reason, Rejection},
    trace::{
        Collect, Format, Journal, Sampler, ServerSpan, TraceConfig, TraceLayer,
        otlp::{Counts, Exporter, Optional, OtlpConfig, Protocol, TRIES},
    },
};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
    },
    common::v1::{KeyValue, any_value::Value},
    trace::v1::{Span, span::SpanKind, status::StatusCode as Code},
};
use prost::Message;
use tokio::sync::mpsc;
use tower::{Layer, Service, ServiceExt, service_fn};

/// A body whose pieces come when they are sent.
struct Pieces(mpsc::Receiver<Bytes>);

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Waker<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    }
}

/// What was collected.
#[derive(Clone, Default)]
struct Spans(Arc<Mutex<Vec<ServerSpan>>>);

impl Collect for Spans {
    fn collect(&self, span: ServerSpan) {
        self.0.lock().unwrap().push(span);
    }
}

impl Spans {
    fn take(&self) -> Vec<ServerSpan> {
        std::mem::take(&mut self.0.lock().unwrap())
    }

    fn one(&self) -> ServerSpan {
        let mut all = self.take();
        assert_eq!(all.len(), 1, "{all:?}");
        all.remove(0)
    }
}

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

fn request(headers: &[(&str, &str)]) -> Request<()> {
    let mut request = Request::get("http://h.example:8080/rides/17?phone=9820098200");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap()
}

async fn ok(_: Request<()>) -> Result<Response<Full<Bytes>>, Infallible> {
    Ok(Response::new(Full::from("fine")))
}

#[tokio::test(start_paused = true)]
async fn r8_3_a_span_ends_when_the_body_ends_and_not_when_the_head_is_there() {
    let spans = Spans::default();
    let (sender, body) = mpsc::channel(1);
    let body = Mutex::new(Some(Pieces(body)));
    let service =
        TraceLayer::new(TraceConfig::default(), spans.clone()).layer(service_fn(|_: Request<()>| {
            ready(Ok::<_, Infallible>(Response::new(body.lock().unwrap().take().unwrap())))
        }));
    let response = service.oneshot(request(&[])).await.unwrap();
    tokio::time::advance(Duration::from_secs(3)).await;
    assert!(spans.take().is_empty(), "its body is on its way");
    let reader = tokio::spawn(response.into_body().collect());
    sender.send(Bytes::from("piece")).await.unwrap();
    tokio::time::advance(Duration::from_secs(4)).await;
    drop(sender);
    reader.await.unwrap().unwrap();
    let span = spans.one();
    assert_eq!(
        (span.took, span.end, span.status),
        (Duration::from_secs(7), End::Complete, Some(StatusCode::OK))
    );
}

#[tokio::test(start_paused = true)]
async fn r8_3_whoever_goes_away_is_recorded_before_the_head_and_behind_it() {
    let spans = Spans::default();
    let layer = TraceLayer::new(TraceConfig::default(), spans.clone());
    // Before there is a response.
    let hangs = layer.layer(service_fn(|request: Request<()>| async move {
        let journal = Arc::clone(Journal::of(request.extensions()).unwrap());
        let _attempt = journal.attempt(&"app".into(), &"127.0.0.1:1".into(), Now::read());
        std::future::pending::<Result<Response<Full<Bytes>>, Infallible>>().await
    }));
    let exchange = tokio::time::timeout(Duration::from_secs(2), hangs.oneshot(request(&[]))).await;
    assert!(exchange.is_err());
    let span = spans.one();
    assert_eq!((span.status, span.end, span.took), (None, End::Dropped, Duration::from_secs(2)));
    assert_eq!(span.written.attempts.len(), 1);
    // Behind it.
    drop(layer.layer(service_fn(ok)).oneshot(request(&[])).await.unwrap());
    let span = spans.one();
    assert_eq!((span.status, span.end), (Some(StatusCode::OK), End::Dropped));
    assert!(!span.is_error(), "who goes away is nobody's failure");
    // A service that fails.
    let fails = layer.layer(service_fn(|_: Request<()>| ready(Err::<Response<Full<Bytes>>, _>("broken"))));
    fails.oneshot(request(&[])).await.unwrap_err();
    assert_eq!(spans.one().end, End::Failed);
}

#[tokio::test]
async fn r8_1_a_trace_is_gone_on_with_where_it_is_believed_and_begun_anew_else() {
    let spans = Spans::default();
    let config = TraceConfig { propagators: Format::ALL.into(), ..TraceConfig::default() };
    let seen = Arc::new(Mutex::new(HeaderMap::new()));
    let told = Arc::clone(&seen);
    let layer = TraceLayer::new(config, spans.clone()).trusting(|head| head.headers.contains_key("x-inside"));
    let service = layer.layer(service_fn(move |request: Request<()>| {
        *told.lock().unwrap() = request.headers().clone();
        ok(request)
    }));
    let asked = async |headers: &[(&str, &str)]| {
        let _ = service.clone().oneshot(request(headers)).await.unwrap().into_body().collect().await;
        (spans.one(), std::mem::take(&mut *seen.lock().unwrap()))
    };
    let b3 = "80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-1";
    let (span, seen) = asked(&[("traceparent", PARENT), ("x-inside", "1"), ("baggage", "city=pune")]).await;
    assert_eq!(
        (span.context.trace.to_string().as_str(), span.parent.unwrap().to_string().as_str()),
        (TRACE, "b7ad6b7169203331")
    );
    assert!(!seen.contains_key("traceparent") && seen["baggage"] == "city=pune", "{seen:?}");
    let (span, _) = asked(&[("b3", b3), ("x-inside", "1")]).await;
    assert_eq!(span.context.trace.to_string(), "80f198ee56343ba864fe8b2a57d3eff7");
    for headers in [
        &[("traceparent", PARENT), ("baggage", "city=pune")][..],
        &[("b3", b3)],
        &[("traceparent", "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01"), ("x-inside", "1")],
        &[],
    ] {
        let (span, seen) = asked(headers).await;
        assert_eq!(span.parent, None, "{headers:?}");
        assert_ne!(span.context.trace.to_string(), TRACE);
        assert!(
            !seen.contains_key("baggage") && !seen.contains_key("traceparent") && !seen.contains_key("b3")
        );
    }
}

#[tokio::test]
async fn r8_5_what_is_left_out_is_recorded_all_the_same_if_it_fails() {
    let spans = Spans::default();
    let config = TraceConfig { sampler: Sampler::NEVER, ..TraceConfig::default() };
    let answer = |status| {
        service_fn(move |_: Request<()>| {
            let mut response = Response::new(Full::<Bytes>::from("x"));
            *response.status_mut() = status;
            ready(Ok::<_, Infallible>(response))
        })
    };
    let ask = async |config: &TraceConfig, status| {
        let service = TraceLayer::new(config.clone(), spans.clone()).layer(answer(status));
        let _ = service.oneshot(request(&[])).await.unwrap().into_body().collect().await;
        spans.take()
    };
    assert!(ask(&config, StatusCode::OK).await.is_empty());
    assert!(ask(&config, StatusCode::NOT_FOUND).await.is_empty());
    let failed = ask(&config, StatusCode::BAD_GATEWAY).await;
    assert_eq!(failed.len(), 1);
    assert!(!failed[0].context.is_sampled, "others were told that it is not recorded");
    let config = TraceConfig { always_on_error: false, ..config };
    assert!(ask(&config, StatusCode::BAD_GATEWAY).await.is_empty());
}

/// A collector: what it was sent, and what it says to each in turn; when there is no more to say, it takes everything.
#[derive(Clone, Default)]
struct Collector {
    seen: Arc<Mutex<Vec<Request<Bytes>>>>,
    says: Arc<Mutex<Vec<Says>>>,
}

enum Says {
    Status(u16),
    RetryAfter(u16, &'static str),
    Rejects(i64),
    Grpc(&'static str),
    Nothing,
    Breaks,
}

impl Service<Request<Bytes>> for Collector {
    type Response = Response<Bytes>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Bytes>, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Waker<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        self.seen.lock().unwrap().push(request);
        let mut says = self.says.lock().unwrap();
        let says = if says.is_empty() { Says::Status(200) } else { says.remove(0) };
        let answer = Response::builder();
        Box::pin(async move {
            Ok(match says {
                Says::Status(status) => answer.status(status).body(Bytes::new())?,
                Says::RetryAfter(status, seconds) => {
                    answer.status(status).header("retry-after", seconds).body(Bytes::new())?
                }
                Says::Rejects(count) => {
                    let partial =
                        ExportTracePartialSuccess { rejected_spans: count, error_message: "full".into() };
                    let said = ExportTraceServiceResponse { partial_success: Some(partial) };
                    answer.body(said.encode_to_vec().into())?
                }
                Says::Grpc(code) => answer.header("grpc-status", code).body(Bytes::new())?,
                Says::Nothing => std::future::pending().await,
                Says::Breaks => return Err("the connection broke off".into()),
            })
        })
    }
}

impl Collector {
    fn saying(says: Vec<Says>) -> Self {
        Self { says: Arc::new(Mutex::new(says)), ..Self::default() }
    }

    fn requests(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    /// All spans so far, as another implementation reads them.
    fn spans(&self) -> Vec<Span> {
        let seen = self.seen.lock().unwrap();
        let messages = seen.iter().map(|request| {
            assert_eq!((request.method().as_str(), request.uri().path()), ("POST", "/v1/traces"));
            assert_eq!(request.headers()["content-type"], "application/x-protobuf");
            ExportTraceServiceRequest::decode(request.body().clone()).unwrap()
        });
        messages
            .flat_map(|message| message.resource_spans)
            .flat_map(|it| it.scope_spans)
            .flat_map(|it| it.spans)
            .collect()
    }
}

/// What runs until all exporters are gone.
fn export(config: OtlpConfig, collector: &Collector) -> (Exporter, tokio::task::JoinHandle<()>) {
    let (exporter, export) = config.exporter();
    (exporter, tokio::spawn(export.run(collector.clone(), |_: &BoxError| {})))
}

fn texts(attributes: &[KeyValue]) -> Vec<String> {
    let mut texts = attributes.iter().map(|it| match it.value.as_ref().unwrap().value.as_ref().unwrap() {
        Value::StringValue(text) => format!("{}={text}", it.key),
        Value::IntValue(number) => format!("{}={number}", it.key),
        other => panic!("{other:?}"),
    });
    let mut texts = texts.by_ref().collect::<Vec<_>>();
    texts.sort();
    texts
}

/// Through the layer: one that fails, one that answers.
async fn booked(layer: TraceLayer<Exporter>) {
    let service = layer.layer(service_fn(|request: Request<()>| async move {
        let journal = Arc::clone(Journal::of(request.extensions()).unwrap());
        let attempt = |endpoint: &str| journal.attempt(&"booking".into(), &endpoint.into(), Now::read());
        attempt("10.0.0.1:8204").failed(Reason::ConnectFailed, Now::read());
        journal.note("retried", Some(&"safe-retry".into()), None);
        let second = attempt("[::1]:8214");
        tokio::time::advance(Duration::from_millis(20)).await;
        second.answered(StatusCode::CONFLICT, Now::read());
        second.end(End::Complete);
        let mut response = Rejection::new(Reason::RateLimited).by(Some("per-rider".into())).into_response();
        *response.body_mut() = Full::<Bytes>::from("no");
        Ok::<_, Infallible>(response)
    }));
    let secret = [
        ("traceparent", PARENT),
        ("tracestate", "ola=1"),
        ("host", "h.example:8080"),
        ("authorization", "Bearer secret"),
        ("cookie", "id=secret"),
        ("user-agent", "secret-agent"),
    ];
    let _ = service.oneshot(request(&secret)).await.unwrap().into_body().collect().await;
}

#[tokio::test(start_paused = true)]
async fn r8_2_another_implementation_reads_the_spans_with_the_names_of_the_conventions() {
    let collector = Collector::default();
    let (exporter, task) = export(
        OtlpConfig { resource: vec![("service.version".into(), "2.0".into())], ..OtlpConfig::new("gateway") },
        &collector,
    );
    booked(
        TraceLayer::new(TraceConfig::default(), exporter.clone()).named_by(|_| Some("/rides/{id}".into())),
    )
    .await;
    drop(exporter);
    task.await.unwrap();
    let spans = collector.spans();
    let [server, first, second] = &spans[..] else { panic!("{spans:?}") };
    assert_eq!((server.name.as_str(), server.kind()), ("GET /rides/{id}", SpanKind::Server));
    assert_eq!(server.trace_id, u128::from_str_radix(TRACE, 16).unwrap().to_be_bytes());
    assert_eq!(server.parent_span_id, 0xb7ad_6b71_6920_3331_u64.to_be_bytes());
    assert_eq!((server.trace_state.as_str(), server.flags), ("ola=1", 0x301));
    assert_eq!(
        texts(&server.attributes),
        [
            "http.request.method=GET",
            "http.response.status_code=429",
            "http.route=/rides/{id}",
            "network.protocol.version=1.1",
            "server.address=h.example",
            "server.port=8080",
        ]
    );
    assert!(server.status.is_none(), "4xx is no error of whoever serves");
    let events = server.events.iter().map(|it| (it.name.as_str(), texts(&it.attributes)));
    assert_eq!(
        events.collect::<Vec<_>>(),
        [
            ("naka.retried", vec!["naka.policy=safe-retry".to_owned()]),
            (
                "naka.rejected",
                vec!["naka.policy=per-rider".to_owned(), "naka.reason=rate_limited".to_owned()]
            ),
        ]
    );
    assert_eq!(server.end_time_unix_nano - server.start_time_unix_nano, 20_000_000);
    for client in [first, second] {
        assert_eq!((client.name.as_str(), client.kind()), ("GET", SpanKind::Client));
        assert_eq!((&client.parent_span_id, &client.trace_id), (&server.span_id, &server.trace_id));
        assert_eq!(client.status.as_ref().unwrap().code(), Code::Error);
        assert_ne!(client.span_id, server.span_id);
    }
    assert_eq!(
        texts(&first.attributes),
        [
            "error.type=connect_failed",
            "http.request.method=GET",
            "naka.upstream=booking",
            "server.address=10.0.0.1",
            "server.port=8204"
        ]
    );
    assert_eq!(
        texts(&second.attributes),
        [
            "error.type=409",
            "http.request.method=GET",
            "http.request.resend_count=1",
            "http.response.status_code=409",
            "naka.upstream=booking",
            "server.address=::1",
            "server.port=8214",
        ]
    );
    let message =
        ExportTraceServiceRequest::decode(collector.seen.lock().unwrap()[0].body().clone()).unwrap();
    let resource = message.resource_spans[0].resource.as_ref().unwrap();
    assert_eq!(texts(&resource.attributes), ["service.name=gateway", "service.version=2.0"]);
}

#[tokio::test(start_paused = true)]
async fn r8_6_nothing_tells_who_asked_unless_that_is_asked_for() {
    let all = vec![Optional::UrlPath, Optional::UrlQuery, Optional::ClientAddress, Optional::UserAgent];
    for (optional, is_told) in [(Vec::new(), false), (all, true)] {
        let collector = Collector::default();
        let (exporter, task) = export(OtlpConfig { optional, ..OtlpConfig::new("gateway") }, &collector);
        booked(TraceLayer::new(TraceConfig::default(), exporter)).await;
        task.await.unwrap();
        let said = format!("{:?}", collector.spans());
        for text in ["secret-agent", "9820098200", "/rides/17"] {
            assert_eq!(said.contains(text), is_told, "{text}");
        }
        for text in ["Bearer", "id=secret"] {
            assert!(!said.contains(text), "{text}");
        }
    }
}

fn span() -> ServerSpan {
    let spans = Spans::default();
    let service = TraceLayer::new(TraceConfig::default(), spans.clone()).layer(service_fn(ok));
    // Nothing in it waits.
    let mut asked = Box::pin(async { drop(service.oneshot(request(&[])).await) });
    let waker = std::task::Waker::noop();
    assert!(asked.as_mut().poll(&mut Waker::from_waker(waker)).is_ready());
    spans.one()
}

fn counts(exported: u64, dropped: u64, failed: u64) -> Counts {
    Counts { exported, dropped, failed }
}

#[tokio::test(start_paused = true)]
async fn r8_4_a_collector_that_hangs_costs_no_time_and_bounded_memory() {
    let collector = Collector::saying((0..TRIES).map(|_| Says::Nothing).collect());
    let config = OtlpConfig { queue_bytes: 64 << 10, batch_bytes: 4 << 10, ..OtlpConfig::new("gateway") };
    let (exporter, task) = export(config, &collector);
    let began = Now::read();
    for _ in 0..10_000 {
        exporter.collect(span());
        tokio::task::yield_now().await;
    }
    assert_eq!(began.elapsed(), Duration::ZERO, "nobody waits");
    let (held, full) = (exporter.bytes(), exporter.counts());
    assert!((60 << 10..65 << 10).contains(&held), "{held}");
    assert!(full.dropped > 9_000 && full.exported == 0 && full.failed == 0, "{full:?}");
    // The first batch is given up when it has been tried as often as it may.
    while exporter.counts().exported == 0 {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    tokio::time::sleep(Duration::from_secs(30)).await;
    let Counts { exported, dropped, failed } = exporter.counts();
    assert_eq!((exported + dropped + failed, exporter.bytes()), (10_000, 0), "each is counted once");
    assert!(failed > 0 && failed < 50, "{failed}");
    assert_eq!(collector.spans().len() as u64, exported + failed * u64::from(TRIES));
    drop(exporter);
    task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn r8_4_what_is_worth_another_try_is_sent_again_and_what_is_not_is_counted() {
    let tried = async |says: Vec<Says>| {
        let collector = Collector::saying(says);
        let (exporter, task) =
            export(OtlpConfig { delay: Duration::ZERO, ..OtlpConfig::new("gateway") }, &collector);
        let began = Now::read();
        exporter.collect(span());
        while exporter.bytes() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let (counts, took) = (exporter.counts(), began.elapsed());
        drop(exporter);
        task.await.unwrap();
        (counts, collector.requests(), took.as_secs())
    };
    assert_eq!(tried(vec![]).await, (counts(1, 0, 0), 1, 0));
    let (is, requests, took) = tried(vec![Says::Status(503), Says::Breaks]).await;
    assert_eq!((is, requests), (counts(1, 0, 0), 3));
    assert!((3..=5).contains(&took), "{took}: one second, and two, each up to a half longer");
    assert_eq!(tried(vec![Says::RetryAfter(429, "20")]).await, (counts(1, 0, 0), 2, 20));
    assert_eq!(
        tried(vec![Says::RetryAfter(503, "86400")]).await,
        (counts(1, 0, 0), 2, 30),
        "nobody is waited for that long"
    );
    assert_eq!(tried(vec![Says::Status(400)]).await, (counts(0, 0, 1), 1, 0));
    assert_eq!(tried(vec![Says::Rejects(1)]).await, (counts(0, 0, 1), 1, 0));
    assert_eq!(tried(vec![Says::Rejects(7)]).await, (counts(0, 0, 1), 1, 0), "no more than there were");
    let fails = (0..TRIES).map(|_| Says::Status(502)).collect();
    let (is, requests, _) = tried(fails).await;
    assert_eq!((is, requests), (counts(0, 0, 1), TRIES as usize));
}

#[tokio::test(start_paused = true)]
async fn r8_4_when_all_exporters_are_gone_what_waits_is_sent_as_at_any_time() {
    let collector = Collector::default();
    let (exporter, task) =
        export(OtlpConfig { delay: Duration::from_mins(1), ..OtlpConfig::new("gateway") }, &collector);
    let began = Now::read();
    for _ in 0..100 {
        exporter.collect(span());
    }
    drop(exporter);
    task.await.unwrap();
    assert_eq!((collector.spans().len(), began.elapsed()), (100, Duration::ZERO));
    let collector = Collector::saying(vec![Says::Nothing, Says::Nothing, Says::Nothing]);
    let (exporter, task) = export(OtlpConfig::new("gateway"), &collector);
    exporter.collect(span());
    drop(exporter);
    task.await.unwrap();
    assert_eq!((collector.requests(), collector.spans().len()), (4, 4), "tried until it was taken");
}

#[tokio::test(start_paused = true)]
async fn r8_4_over_grpc_messages_have_their_frame_and_statuses_are_minded() {
    let collector = Collector::saying(vec![
        Says::Grpc("14"),
        Says::Grpc("0"),
        Says::Grpc("3"),
        Says::Status(502),
        Says::Grpc("0"),
    ]);
    let config = OtlpConfig { protocol: Protocol::Grpc, delay: Duration::ZERO, ..OtlpConfig::new("gateway") };
    let (exporter, task) = export(config, &collector);
    for counted in [counts(1, 0, 0), counts(1, 0, 1), counts(2, 0, 1)] {
        exporter.collect(span());
        while exporter.bytes() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(exporter.counts(), counted);
    }
    drop(exporter);
    task.await.unwrap();
    let seen = collector.seen.lock().unwrap();
    assert_eq!(seen.len(), 5);
    for request in &*seen {
        assert_eq!(request.uri().path(), "/opentelemetry.proto.collector.trace.v1.TraceService/Export");
        assert_eq!(
            (&request.headers()["content-type"], &request.headers()["te"]),
            (&"application/grpc".parse().unwrap(), &"trailers".parse().unwrap())
        );
        let body = request.body();
        assert_eq!(
            (body[0], u32::from_be_bytes(body[1..5].try_into().unwrap()) as usize),
            (0, body.len() - 5)
        );
        let message = ExportTraceServiceRequest::decode(body.slice(5..)).unwrap();
        assert_eq!(message.resource_spans[0].scope_spans[0].spans.len(), 1);
    }
}
