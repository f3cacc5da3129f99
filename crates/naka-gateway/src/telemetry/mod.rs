//! What is told about each request: its trace, and a line of the access log.
//!
//! A request is written down from its head to the end of its response: here what came and what was answered, in its
//! [`Journal`] what layers decided and whom it was sent to. At its end it goes to a collector ([`export`]), if its trace is
//! recorded, and into the log ([`log`]), if its status is. Nobody waits for either.

use std::{sync::Arc, time::Duration};

use http::{
    HeaderMap, HeaderValue, StatusCode, header::HOST, header::USER_AGENT, request::Parts, uri::Authority,
};
use naka::{
    clock::{Now, WallClock},
    context::Context,
    guard::End,
    random::{Numbers, seed},
    reject::Rejection,
    trace::{
        Collect as _, Extracted, Ids, Journal, ServerSpan, TraceConfig, TraceId, Written, baggage,
        is_taken_for_one, otlp::Exporter, take,
    },
};

use tokio::time::{Instant, sleep};

use crate::{
    config::checked::{AccessLog, TrustParent},
    entry::{self, Peer},
    generation::Plan,
};

pub mod export;
pub mod log;

use log::{Line, Log};

/// How requests are told about, in one generation.
#[derive(Debug)]
pub struct Telemetry {
    /// How traces are read, begun and recorded, if they are.
    pub tracing: Option<Tracing>,
    /// The access log, and what stands there, if there is one.
    pub log: Option<(AccessLog, Log)>,
    ids: Ids,
    chance: Numbers,
    clock: WallClock,
}

/// Traces, in one generation.
#[derive(Debug)]
pub struct Tracing {
    /// How they are read, begun and recorded.
    pub config: TraceConfig,
    /// Whose word counts, where a route says nothing else.
    pub trust_parent: TrustParent,
    /// Where spans go, if they go anywhere.
    pub exporter: Option<Exporter>,
}

impl Tracing {
    /// What a request says of its trace, if that is believed: as its route says (`own`), or else all do. Nothing is left of it in
    /// its headers, and of baggage what may go on. The data path and `explain` both come through here.
    pub fn read(
        &self,
        headers: &mut HeaderMap,
        own: Option<TrustParent>,
        is_trusted: bool,
    ) -> Option<Extracted> {
        let is_believed = match own.unwrap_or(self.trust_parent) {
            TrustParent::TrustedProxies => is_trusted,
            TrustParent::Always => true,
            TrustParent::Never => false,
        };
        if is_believed {
            baggage::cap(headers);
        } else {
            baggage::remove(headers);
        }
        while let Some(name) = headers.keys().find(|name| is_taken_for_one(name)).cloned() {
            headers.remove(name);
        }
        take(headers, &self.config.propagators).filter(|_| is_believed)
    }
}

impl Telemetry {
    /// `None` if nothing is told.
    pub fn new(tracing: Option<Tracing>, log: Option<(AccessLog, Log)>) -> Option<Arc<Self>> {
        let is_on = tracing.is_some() || log.is_some();
        let new = || {
            let (ids, chance, clock) = (Ids::new(), Numbers::new(seed()), WallClock::system());
            Arc::new(Self { tracing, log, ids, chance, clock })
        };
        is_on.then(new)
    }
}

/// Waits as long as it is so, until then at most.
async fn wait_while(until: Instant, is_so: impl Fn() -> bool) {
    while is_so() && Instant::now() < until {
        sleep(Duration::from_millis(10)).await;
    }
}

/// One request, as it is written down.
#[derive(Debug)]
pub struct Record {
    telemetry: Arc<Telemetry>,
    journal: Option<Arc<Journal>>,
    span: ServerSpan,
    /// Headers that the log tells.
    headers: Vec<Option<HeaderValue>>,
    /// Of the response's body.
    bytes: u64,
}

/// What is known of a request at its end, and not before.
#[derive(Clone, Copy, Debug)]
pub struct Ending<'a> {
    /// Its route, if one took it.
    pub plan: Option<&'a Plan>,
    /// What was answered; `None` if nothing was.
    pub status: Option<StatusCode>,
    /// How the response ended.
    pub end: End,
    /// How long all of it took.
    pub took: Duration,
    /// Its number.
    pub request_id: Option<&'a HeaderValue>,
}

impl Record {
    /// A request whose head has been read at `now`, before anything is changed in it.
    pub fn begin(telemetry: &Arc<Telemetry>, parts: &Parts, peer: &Peer, now: Now) -> Box<Self> {
        let headers = telemetry.log.iter().flat_map(|(log, _)| &log.headers);
        let headers = headers.map(|name| parts.headers.get(name).cloned()).collect();
        let span = ServerSpan {
            context: naka::trace::Context::root(&telemetry.ids, false),
            parent: None,
            began: Duration::ZERO,
            now,
            took: Duration::ZERO,
            method: parts.method.clone(),
            scheme: Some(peer.scheme),
            host: parts.headers.get(HOST).cloned(),
            target: parts.uri.clone(),
            version: parts.version,
            client: peer.source.ip(),
            user_agent: parts.headers.get(USER_AGENT).cloned(),
            route: None,
            status: None,
            rejection: None,
            end: End::Dropped,
            labels: Vec::new(),
            written: Written::default(),
        };
        let telemetry = Arc::clone(telemetry);
        Box::new(Self { telemetry, journal: None, span, headers, bytes: 0 })
    }

    /// It has been admitted, and found its route: from now on layers write into its journal.
    pub fn routed(&mut self, parts: &mut Parts, plan: &Plan, is_trusted: bool) {
        self.settle(parts, plan.trust_parent, is_trusted);
        self.span.host = parts.headers.get(HOST).cloned();
        self.span.route = Some(Arc::clone(&plan.template));
        self.span.labels.push(("naka.route", Arc::clone(&plan.name)));
        if let Some(journal) = &self.journal
            && let Some(context) = parts.extensions.get_mut::<Context>()
        {
            self.span.client = context.client;
            self.span.scheme = Some(if entry::scheme(&parts.headers) == "https" { "https" } else { "http" });
            context.journal = Some(Arc::clone(journal));
        }
    }

    /// It was not admitted, or has no route.
    pub fn unrouted(&mut self, parts: &mut Parts, is_trusted: bool) {
        self.settle(parts, None, is_trusted);
        if self.span.host.is_none() {
            let authority = self.span.target.authority().map(Authority::as_str);
            self.span.host = authority.and_then(|it| HeaderValue::from_str(it).ok());
        }
        self.span.client = parts.extensions.get::<Context>().map_or(self.span.client, |it| it.client);
    }

    /// Which trace it is of.
    fn settle(&mut self, parts: &mut Parts, own: Option<TrustParent>, is_trusted: bool) {
        let Some(tracing) = &self.telemetry.tracing else {
            self.journal = Some(Journal::new(None));
            return;
        };
        let said = tracing.read(&mut parts.headers, own, is_trusted);
        (self.span.context, self.span.parent) = tracing.config.sampler.begin(said, &self.telemetry.ids);
        self.journal = Some(Journal::new(Some(self.span.context.clone())));
    }

    /// Its trace, if it is of one.
    pub fn trace(&self) -> Option<TraceId> {
        self.telemetry.tracing.as_ref().map(|_| self.span.context.trace)
    }

    /// Whether its trace is recorded.
    pub fn is_sampled(&self) -> bool {
        self.telemetry.tracing.is_some() && self.span.context.is_sampled
    }

    /// Something was decided about it outside of its layers.
    pub fn note(&self, what: &'static str, why: Option<&'static str>) {
        if let Some(journal) = &self.journal {
            journal.note(what, None, why);
        }
    }

    /// It was refused.
    pub fn refused(&mut self, rejection: &Rejection) {
        self.span.rejection = Some(rejection.clone());
    }

    /// So much of its response has been handed over.
    pub const fn sent(&mut self, bytes: u64) {
        self.bytes += bytes;
    }

    /// It has ended.
    pub fn end(self: Box<Self>, ending: Ending<'_>) {
        let Self { telemetry, mut span, mut journal, headers, bytes, .. } = *self;
        (span.status, span.end, span.took) = (ending.status, ending.end, ending.took);
        let traced = telemetry.tracing.as_ref();
        let exporter = traced.filter(|it| it.config.records(&span)).and_then(|it| it.exporter.as_ref());
        let log = telemetry.log.as_ref().filter(|(config, _)| {
            let status = span.status.map_or(log::CLIENT_GONE, |status| status.as_u16());
            log::takes(config, status, &telemetry.chance)
        });
        if exporter.is_none() && log.is_none() {
            return;
        }
        span.written = journal.take().map(|journal| journal.close()).unwrap_or_default();
        // By the clock of now: so it is said in the same time as whatever follows it.
        span.began = telemetry.clock.unix(Now::read()).unwrap_or_default().saturating_sub(span.took);
        if let Some((config, log)) = log {
            let trace = traced.map(|_| &span.context);
            log.write(&Line { config, span: &span, trace, headers: &headers, bytes, ending: &ending });
        }
        if let Some(exporter) = exporter {
            exporter.collect(span);
        }
    }
}
