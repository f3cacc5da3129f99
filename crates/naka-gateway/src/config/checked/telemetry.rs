//! What is told about requests.

use std::sync::Arc;

use http::{HeaderName, HeaderValue};

use super::Secret;
use crate::tls::ClientTls;

/// What is told about requests, to whom.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Telemetry {
    /// Traces, if there are any.
    pub tracing: Option<Tracing>,
    /// The access log, if there is one.
    pub access_log: Option<AccessLog>,
}

/// Traces.
#[derive(Clone, Debug, PartialEq)]
pub struct Tracing {
    /// Where spans go, if they go anywhere.
    pub otlp: Option<Otlp>,
    /// How requests say which trace they belong to.
    pub propagators: Vec<Propagator>,
    /// How many of a million traces that begin here are recorded.
    pub sample: u32,
    /// Whether failures are recorded, too, that are of no recorded trace.
    pub always_on_error: bool,
    /// Whose word counts.
    pub trust_parent: TrustParent,
}

/// A collector.
#[derive(Clone, Debug, PartialEq)]
pub struct Otlp {
    /// What the gateway is called.
    pub service: Arc<str>,
    /// Where it is.
    pub address: Arc<str>,
    /// How that is secured, if it is.
    pub tls: Option<ClientTls>,
    /// What it is called.
    pub host: HeaderValue,
    /// What stands before the path of a request.
    pub base: Arc<str>,
    /// Over gRPC, and not in plain HTTP.
    pub is_grpc: bool,
    /// Headers that it wants.
    pub headers: Vec<(HeaderName, Secret)>,
    /// What spans tell besides.
    pub attributes: Vec<SpanAttribute>,
    /// More about the gateway.
    pub resource: Vec<(Arc<str>, Arc<str>)>,
    /// Bytes that may wait.
    pub queue: usize,
}

/// How requests say which trace they belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagator {
    /// `traceparent`.
    W3c,
    /// `b3`.
    B3,
    /// `x-b3-…`.
    B3Multi,
    /// `uber-trace-id`.
    Jaeger,
}

/// Whose word counts about traces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TrustParent {
    /// That of trusted proxies.
    #[default]
    TrustedProxies,
    /// Everybody's.
    Always,
    /// Nobody's.
    Never,
}

/// What spans tell only where it is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpanAttribute {
    /// `url.path`.
    UrlPath,
    /// `url.query`.
    UrlQuery,
    /// `client.address`.
    ClientAddress,
    /// `user_agent.original`.
    UserAgent,
}

/// An access log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessLog {
    /// The file; `None` is the standard output.
    pub file: Option<Arc<str>>,
    /// Headers that are told.
    pub headers: Vec<HeaderName>,
    /// Whether queries are.
    pub query: bool,
    /// How many of a million are told, from the first status to the last; the last that fits counts.
    pub sample: Vec<(u16, u16, u32)>,
    /// Bytes that may wait.
    pub queue: usize,
}
