//! The way to a collector of OpenTelemetry, by the gateway's own client.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response, Uri, header::HOST, header::USER_AGENT};
use http_body_util::{BodyExt as _, Limited};
use naka::{
    BoxError,
    balance::{BalanceLayer, Endpoint},
    reject::Rejection,
    trace::otlp::{self, Export, Exporter, Optional, OtlpConfig},
};
use tokio::time::Instant;
use tower_service::Service;
use tracing::warn;

use crate::{
    config::checked::{Connections, KeepAlive, Otlp, Protocol, SpanAttribute, UpstreamTimeouts},
    control::WHO,
    deadline::Deadlines,
    seldom::Seldom,
    upstream::{Body, Client, Connector, Pools},
};

/// The largest answer of a collector, in bytes.
const ANSWER: usize = 64 << 10;

/// Spans on their way to one collector, of all generations that name it.
#[derive(Clone, Debug)]
pub struct Exporting {
    /// Takes them.
    pub exporter: Exporter,
    run: Arc<Mutex<Option<(Export, Collector)>>>,
}

impl Exporting {
    /// To this collector. Nothing is sent before it is [started](Self::start).
    pub fn new(otlp: &Otlp, connector: &Connector) -> Self {
        let protocol = if otlp.is_grpc { otlp::Protocol::Grpc } else { otlp::Protocol::HttpProtobuf };
        let version = ("service.version".into(), env!("CARGO_PKG_VERSION").into());
        let is_said = otlp.resource.iter().any(|(key, _)| &**key == "service.version");
        let resource = otlp.resource.iter().cloned().chain((!is_said).then_some(version));
        let config = OtlpConfig {
            resource: resource.collect(),
            protocol,
            optional: otlp.attributes.iter().map(|it| optional(*it)).collect(),
            queue_bytes: otlp.queue,
            ..OtlpConfig::new(Arc::clone(&otlp.service))
        };
        let (exporter, export) = config.exporter();
        let collector = Collector::new(otlp, connector.clone());
        Self { exporter, run: Arc::new(Mutex::new(Some((export, collector)))) }
    }

    /// Begins to send, once. It ends by itself when the last generation that names the collector has ended, and all is sent.
    pub fn start(&self) {
        let run = self.run.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some((export, collector)) = run else { return };
        let trouble = Seldom::new();
        let address = Arc::clone(&collector.address);
        tokio::spawn(export.run(collector, move |why: &BoxError| {
            if trouble.is_due() {
                warn!(collector = %address, %why, "spans are lost");
            }
        }));
    }

    /// Waits until nothing waits any more, until then at most.
    pub async fn flushed(&self, until: Instant) {
        super::wait_while(until, || self.exporter.bytes() > 0).await;
    }
}

const fn optional(attribute: SpanAttribute) -> Optional {
    match attribute {
        SpanAttribute::UrlPath => Optional::UrlPath,
        SpanAttribute::UrlQuery => Optional::UrlQuery,
        SpanAttribute::ClientAddress => Optional::ClientAddress,
        SpanAttribute::UserAgent => Optional::UserAgent,
    }
}

/// A collector, over connections that are kept.
struct Collector {
    address: Arc<str>,
    client: Arc<Client>,
    endpoint: Endpoint,
    host: HeaderValue,
    base: Arc<str>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl std::fmt::Debug for Collector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Collector").field(&self.address).finish()
    }
}

impl Collector {
    fn new(otlp: &Otlp, connector: Connector) -> Self {
        let protocol = if otlp.is_grpc { Protocol::H2 } else { Protocol::H1 };
        let keep_alive = KeepAlive { max_idle: 1, timeout: Duration::from_secs(30), max_lifetime: None };
        let whole = Duration::from_mins(1); // The exporter has a timeout of its own over the whole exchange.
        let timeouts = UpstreamTimeouts {
            connect: whole,
            response_headers: whole,
            per_try: None,
            idle: Some(whole),
            tunnel_idle: None,
        };
        let client = Client {
            name: "collector".into(),
            pools: Arc::new(Pools::new(protocol, otlp.tls.clone(), &Arc::default())),
            timeouts,
            keep_alive,
            connections: Connections { max: 2, pending: 1, streams: 1 },
            all_connections: usize::MAX,
            connector,
            deadlines: Deadlines::default(),
            propagators: [].into(),
            metrics: Arc::default(),
        };
        let headers = otlp.headers.iter().filter_map(|(name, secret)| {
            let mut value = HeaderValue::from_bytes(secret.bytes()).ok()?; // It was checked.
            value.set_sensitive(true);
            Some((name.clone(), value))
        });
        Self {
            address: Arc::clone(&otlp.address),
            client: Arc::new(client),
            endpoint: BalanceLayer::new([&*otlp.address]).endpoints()[0].clone(),
            host: otlp.host.clone(),
            base: Arc::clone(&otlp.base),
            headers: headers.collect(),
        }
    }

    fn request(&self, request: Request<Bytes>) -> Result<Request<Body>, BoxError> {
        let mut request = request.map(Body::from);
        *request.uri_mut() = format!("{}{}", self.base, request.uri().path()).parse::<Uri>()?;
        let headers = request.headers_mut();
        headers.insert(HOST, self.host.clone());
        headers.insert(USER_AGENT, HeaderValue::from_static(WHO));
        for (name, value) in &self.headers {
            headers.insert(name.clone(), value.clone());
        }
        request.extensions_mut().insert(self.endpoint.clone());
        Ok(request)
    }
}

impl Service<Request<Bytes>> for Collector {
    type Response = Response<Bytes>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Bytes>, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        let (request, client) = (self.request(request), Arc::clone(&self.client));
        Box::pin(async move {
            let (mut head, body) = client.exchange(&mut request?.into()).await.into_parts();
            if let Some(rejection) = head.extensions.get::<Rejection>() {
                return Err(rejection.reason.word().into());
            }
            // What it says besides that it has taken them is of no use if it is so much.
            let Ok(body) = Limited::new(body, ANSWER).collect().await else {
                return Ok(Response::from_parts(head, Bytes::new()));
            };
            head.headers.extend(body.trailers().cloned().unwrap_or_default());
            Ok(Response::from_parts(head, body.to_bytes()))
        })
    }
}
