//! A collector of OpenTelemetry, and what it was told.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use naka_testkit::network::Network;
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{KeyValue, any_value::Value},
    trace::v1::{span::SpanKind, status::StatusCode},
};
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};

/// One span, as it is easily looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) service: String,
    pub(crate) name: String,
    pub(crate) kind: SpanKind,
    pub(crate) trace: String,
    pub(crate) id: String,
    pub(crate) parent: String,
    pub(crate) took: Duration,
    pub(crate) attributes: BTreeMap<String, String>,
    pub(crate) events: Vec<(String, BTreeMap<String, String>)>,
    pub(crate) is_error: bool,
}

impl Node {
    pub(crate) fn says(&self, key: &str) -> Option<&str> {
        self.attributes.get(key).map(String::as_str)
    }

    pub(crate) fn events(&self) -> Vec<&str> {
        self.events.iter().map(|(name, _)| name.as_str()).collect()
    }
}

/// Keeps what it is sent.
#[derive(Clone, Default)]
pub(crate) struct Collector(Arc<State>);

#[derive(Default)]
struct State {
    spans: Mutex<Vec<Node>>,
    headers: Mutex<Vec<http::HeaderMap>>,
    hangs: AtomicBool,
}

impl Collector {
    /// At a name inside the process.
    pub(crate) fn inside(network: &Network, name: &str) -> Self {
        let (it, mut listener) = (Self::default(), network.listen(name));
        let collector = it.clone();
        tokio::spawn(async move {
            while let Some(stream) = listener.accept().await {
                tokio::spawn(collector.clone().serve(stream));
            }
        });
        it
    }

    async fn serve(self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let answer =
            service_fn(|request: Request<Incoming>| async { Ok::<_, Infallible>(self.take(request).await) });
        let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
    }

    async fn take(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        if self.0.hangs.load(SeqCst) {
            std::future::pending::<()>().await;
        }
        assert_eq!((request.method().as_str(), request.uri().path()), ("POST", "/v1/traces"));
        self.0.headers.lock().unwrap().push(request.headers().clone());
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let message = ExportTraceServiceRequest::decode(body).unwrap();
        self.0.spans.lock().unwrap().extend(nodes(message));
        Response::default()
    }

    /// Takes no requests to their end from now on, or does again.
    pub(crate) fn hang(&self, hangs: bool) {
        self.0.hangs.store(hangs, SeqCst);
    }

    /// Headers of the last request.
    pub(crate) fn headers(&self) -> http::HeaderMap {
        self.0.headers.lock().unwrap().last().cloned().unwrap_or_default()
    }

    /// All that came so far, which is forgotten.
    pub(crate) fn take_all(&self) -> Vec<Node> {
        std::mem::take(&mut self.0.spans.lock().unwrap())
    }

    /// As many spans as these, when they are there: the spans of one trace, the one that others are asked from first.
    pub(crate) async fn spans(&self, count: usize) -> Vec<Node> {
        for _ in 0..3000 {
            if self.0.spans.lock().unwrap().len() >= count {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let all = self.take_all();
        assert_eq!(all.len(), count, "{all:#?}");
        all
    }
}

fn nodes(message: ExportTraceServiceRequest) -> Vec<Node> {
    let mut nodes = Vec::new();
    for of_resource in message.resource_spans {
        let resource = of_resource.resource.unwrap_or_default();
        let service = map(&resource.attributes).remove("service.name").unwrap_or_default();
        for span in of_resource.scope_spans.into_iter().flat_map(|it| it.spans) {
            let took = span.end_time_unix_nano.checked_sub(span.start_time_unix_nano).unwrap();
            nodes.push(Node {
                service: service.clone(),
                kind: span.kind(),
                trace: hex(&span.trace_id),
                id: hex(&span.span_id),
                parent: hex(&span.parent_span_id),
                took: Duration::from_nanos(took),
                attributes: map(&span.attributes),
                events: span.events.iter().map(|it| (it.name.clone(), map(&it.attributes))).collect(),
                is_error: span.status.is_some_and(|status| status.code() == StatusCode::Error),
                name: span.name,
            });
        }
    }
    nodes
}

fn map(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |it: &KeyValue| match it.value.as_ref().unwrap().value.as_ref().unwrap() {
        Value::StringValue(text) => text.clone(),
        Value::IntValue(number) => number.to_string(),
        other => panic!("{other:?}"),
    };
    attributes.iter().map(|it| (it.key.clone(), text(it))).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .filter_map(|digit| char::from_digit(digit.into(), 16))
        .collect()
}
