//! What is told about requests.

use std::sync::Arc;

use http::{
    HeaderName, HeaderValue, Uri,
    header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, TE, TRANSFER_ENCODING},
};

use super::{auth, unique};
use crate::config::{
    checked::{AccessLog, Otlp, Propagator, Secret, SpanAttribute, Telemetry, Tracing, TrustParent},
    decode::{At, Cx, OneOrMany},
    diagnostic::Code,
    raw::{
        RawAccessLog, RawAttribute, RawGateway, RawOtlpProtocol, RawPropagator, RawTelemetry, RawTracing,
        RawTrustParent,
    },
    values::Url,
};

pub(super) fn telemetry(raw: &RawGateway, cx: &mut Cx) -> Telemetry {
    let Some(raw) = &raw.telemetry else { return Telemetry::default() };
    let raw = &raw.value;
    Telemetry {
        tracing: raw.tracing.as_ref().map(|it| tracing(raw, &it.value, cx)),
        access_log: raw.access_log.as_ref().map(|it| access_log(&it.value, cx)),
    }
}

pub(super) const fn trust(raw: RawTrustParent) -> TrustParent {
    match raw {
        RawTrustParent::TrustedProxies => TrustParent::TrustedProxies,
        RawTrustParent::Always => TrustParent::Always,
        RawTrustParent::Never => TrustParent::Never,
    }
}

fn tracing(telemetry: &RawTelemetry, raw: &RawTracing, cx: &mut Cx) -> Tracing {
    let otlp = raw.otlp.as_ref().and_then(|url| otlp(telemetry, raw, url, cx));
    if raw.otlp.is_none() && raw.said("otlp").is_none() {
        let needs = [
            raw.protocol.as_ref().map(|it| it.key),
            raw.headers.as_ref().map(|it| it.key),
            raw.attributes.as_ref().map(|it| it.key),
            raw.resource.as_ref().map(|it| it.key),
            raw.queue.as_ref().map(|it| it.key),
        ];
        for key in needs.into_iter().flatten() {
            cx.error(Code::Conflict, key, "nothing is sent to a collector, as there is none")
                .help("write `otlp: \"http://127.0.0.1:4318\"`, or take this away");
        }
    }
    Tracing {
        otlp,
        propagators: list(raw.propagators.as_deref(), "format", propagator, cx)
            .unwrap_or_else(|| vec![Propagator::W3c]),
        sample: raw.sample().0,
        always_on_error: raw.always_on_error(),
        trust_parent: trust(raw.trust_parent()),
    }
}

/// All of a list that has something in it, each once.
fn list<R: PartialEq + Copy + std::hash::Hash + Eq, C>(
    said: Option<&At<OneOrMany<R>>>,
    what: &str,
    of: impl Fn(R) -> C,
    cx: &mut Cx,
) -> Option<Vec<C>> {
    let said = said?;
    unique(&said.value.0, what, cx);
    if said.value.0.is_empty() {
        cx.error(Code::Value, said.span, format!("no {what}")).help("write one, or take the key away");
    }
    Some(said.value.0.iter().map(|at| of(at.value)).collect())
}

const fn propagator(raw: RawPropagator) -> Propagator {
    match raw {
        RawPropagator::W3c => Propagator::W3c,
        RawPropagator::B3 => Propagator::B3,
        RawPropagator::B3Multi => Propagator::B3Multi,
        RawPropagator::Jaeger => Propagator::Jaeger,
    }
}

const fn attribute(raw: RawAttribute) -> SpanAttribute {
    match raw {
        RawAttribute::UrlPath => SpanAttribute::UrlPath,
        RawAttribute::UrlQuery => SpanAttribute::UrlQuery,
        RawAttribute::ClientAddress => SpanAttribute::ClientAddress,
        RawAttribute::UserAgent => SpanAttribute::UserAgent,
    }
}

fn otlp(telemetry: &RawTelemetry, raw: &RawTracing, url: &At<Url>, cx: &mut Cx) -> Option<Otlp> {
    let uri = url.value.0.parse::<Uri>().ok()?;
    let is_grpc = raw.protocol() == RawOtlpProtocol::Grpc;
    if uri.query().is_some() {
        cx.hide(url.span); // Keys stand in queries.
        cx.error(Code::Value, url.span, "the URL of a collector has no query")
            .help("take it away; a key goes into `headers:`");
    }
    let path = uri.path().trim_end_matches('/');
    if path.ends_with("/v1/traces") {
        cx.error(Code::Value, url.span, "`/v1/traces` is put behind it by itself").help("take it away");
    } else if is_grpc && !path.is_empty() {
        cx.error(Code::Value, url.span, "a collector that speaks gRPC has no path").help("take it away");
    }
    let (tls, port) = match uri.scheme_str() {
        Some("https") if is_grpc => (Some(super::tls::usual_h2(url.span, cx)?), 443),
        Some("https") => (Some(super::tls::usual(url.span, cx)?), 443),
        _ => (None, 80),
    };
    let authority = uri.authority()?;
    let resource = raw.resource.iter().flat_map(|it| &it.value.0);
    let resource =
        resource.filter_map(|(key, value)| Some((Arc::clone(&key.value), Arc::clone(value.as_ref()?))));
    Some(Otlp {
        service: telemetry.service(),
        address: format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(port)).into(),
        tls,
        host: HeaderValue::from_str(authority.as_str()).ok()?,
        base: path.into(),
        is_grpc,
        headers: headers(raw, cx),
        attributes: list(raw.attributes.as_deref(), "attribute", attribute, cx).unwrap_or_default(),
        resource: resource.collect(),
        queue: raw.queue().0,
    })
}

/// Headers of the collector's own, each with its secret.
fn headers(raw: &RawTracing, cx: &mut Cx) -> Vec<(HeaderName, Secret)> {
    let mut all = Vec::new();
    for (name, secret) in raw.headers.iter().flat_map(|it| &it.value.0) {
        if [CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, TE, TRANSFER_ENCODING].contains(&name.value) {
            cx.error(Code::Conflict, name.span, format!("`{}` says something else", name.value))
                .help("take it away: it is written by itself");
        }
        let Some(secret) = secret else { continue };
        let at = At { value: secret.clone(), span: name.span, key: name.span };
        let Some(secret) = auth::secret(&at, cx) else { continue };
        if HeaderValue::from_bytes(secret.bytes()).is_err() {
            cx.error(
                Code::Value,
                name.span,
                format!("what `{}` shall say cannot stand in a header", name.value),
            )
            .help("it is one line of visible characters");
        }
        all.push((name.value.clone(), secret));
    }
    all
}

fn access_log(raw: &RawAccessLog, cx: &mut Cx) -> AccessLog {
    if let Some(headers) = &raw.headers {
        unique(&headers.value.0, "header", cx);
    }
    for at in raw.headers.iter().flat_map(|it| &it.value.0).filter(|at| auth::is_credential(&at.value)) {
        cx.error(Code::Exposed, at.span, format!("`{}` is a secret of whoever asks", at.value))
            .help("take it away: whoever reads the log could ask in their name");
    }
    if let Some(file) = &raw.file
        && cx.path(file.span, &file.value).parent() == cx.path(file.span, "beside").parent()
    {
        cx.error(Code::Conflict, file.span, "the log is in a folder that is watched for changes")
            .warning()
            .label("each line would have all files of the configuration read again")
            .help("write it into another folder: `/var/log/naka/access.jsonl`");
    }
    let sample = raw.sample.iter().flat_map(|it| &it.value.0);
    let sample =
        sample.filter_map(|(statuses, share)| Some((statuses.value.0, statuses.value.1, share.as_ref()?.0)));
    AccessLog {
        file: raw.file.as_ref().map(|at| cx.path(at.span, &at.value).to_string_lossy().into()),
        headers: raw.headers.iter().flat_map(|it| &it.value.0).map(|at| at.value.clone()).collect(),
        query: raw.query(),
        sample: sample.collect(),
        queue: raw.queue().0,
    }
}
