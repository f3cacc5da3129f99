//! A span as OTLP says it, by the names of OpenTelemetry's semantic conventions for HTTP (stable since 1.23).

use std::time::Duration;

use http::Version;

use super::{
    Optional,
    message::{Event, KeyValue, Kind, Span, Status, StatusCode},
};
use crate::{
    guard::End,
    trace::{Attempt, Context, ServerSpan, SpanId, span::known},
};

/// The longest text of an attribute, in bytes; what is over that is cut off.
const TEXT: usize = 1024;

/// OTLP's own flags of a span: whether its parent is of another process, is known, and it is.
const HAS_IS_REMOTE: u32 = 0x100;
const IS_REMOTE: u32 = 0x200;

/// The span of a request, and those of its attempts.
pub(super) fn spans(span: &ServerSpan, optional: &[Optional]) -> impl Iterator<Item = Span> {
    let attempts = span.written.attempts.iter().enumerate();
    let clients = attempts.map(|(number, attempt)| client(span, attempt, number));
    std::iter::once(server(span, optional)).chain(clients)
}

fn server(span: &ServerSpan, optional: &[Optional]) -> Span {
    let mut attributes = vec![KeyValue::text("http.request.method", known(&span.method).unwrap_or("_OTHER"))];
    let mut text = |key, value: Option<&str>| {
        attributes.extend(value.map(|value| KeyValue::text(key, cut(value))));
    };
    text("http.route", span.route.as_deref());
    text("url.scheme", span.scheme);
    let (host, port) = span.host.as_ref().and_then(|host| host.to_str().ok()).map(split).unzip();
    text("server.address", host);
    text("network.protocol.version", version(span.version));
    for (key, value) in &span.labels {
        text(key, Some(value));
    }
    for optional in optional {
        match optional {
            Optional::UrlPath => text("url.path", Some(span.target.path())),
            Optional::UrlQuery => text("url.query", span.target.query()),
            Optional::ClientAddress => {
                text("client.address", span.client.map(|it| it.to_string()).as_deref());
            }
            Optional::UserAgent => {
                text("user_agent.original", span.user_agent.as_ref().and_then(|it| it.to_str().ok()));
            }
        }
    }
    attributes.extend(port.flatten().map(|port| KeyValue::number("server.port", port.into())));
    if let Some(status) = span.status {
        attributes.push(KeyValue::number("http.response.status_code", status.as_u16().into()));
    }
    let reason = span.rejection.as_ref().map(|rejection| rejection.reason.word());
    let is_error = span.is_error();
    if is_error {
        let status = span.status.map(|status| status.as_str().to_owned());
        let kind = reason.map(str::to_owned).or(status).unwrap_or_else(|| "broken_off".to_owned());
        attributes.push(KeyValue::text("error.type", &kind));
    }
    attributes.extend(ended(span.status.is_some().then_some(span.end).or(Some(End::Dropped))));
    let mut events = span.written.events.iter().map(|event| {
        let what = [("naka.policy", event.policy.as_deref()), ("naka.reason", event.why)];
        let at = event.at.instant().saturating_duration_since(span.now.instant());
        named(span.began + at, event.what, &what)
    });
    let mut events = events.by_ref().collect::<Vec<_>>();
    if let Some(rejection) = &span.rejection {
        let what =
            [("naka.policy", rejection.policy.as_deref()), ("naka.reason", Some(rejection.reason.word()))];
        events.push(named(span.began + span.took, "rejected", &what));
    }
    Span {
        name: span.name(),
        kind: Kind::Server.into(),
        attributes,
        events,
        dropped_events_count: u32::try_from(span.written.left_out).unwrap_or(u32::MAX),
        status: is_error.then(error),
        flags: flags(&span.context) | HAS_IS_REMOTE | if span.parent.is_some() { IS_REMOTE } else { 0 },
        ..of(&span.context, span.context.span, span.parent, span.began, span.took)
    }
}

fn client(span: &ServerSpan, attempt: &Attempt, number: usize) -> Span {
    let method = known(attempt.method.as_ref().unwrap_or(&span.method));
    let (host, port) = split(&attempt.endpoint);
    let mut attributes = vec![
        KeyValue::text("http.request.method", method.unwrap_or("_OTHER")),
        KeyValue::text("server.address", cut(host)),
        KeyValue::text("naka.upstream", cut(&attempt.upstream)),
    ];
    attributes.extend(port.map(|port| KeyValue::number("server.port", port.into())));
    if number > 0 {
        attributes
            .push(KeyValue::number("http.request.resend_count", i64::try_from(number).unwrap_or(i64::MAX)));
    }
    if let Some(status) = attempt.status {
        attributes.push(KeyValue::number("http.response.status_code", status.as_u16().into()));
    }
    let status = attempt.status.filter(|status| status.is_client_error() || status.is_server_error());
    let broken_off = (attempt.end == Some(End::Failed)).then_some("broken_off");
    let kind = attempt.reason.map(crate::reject::Reason::word).or(broken_off);
    let kind = kind.map(str::to_owned).or_else(|| status.map(|status| status.as_str().to_owned()));
    attributes.extend(kind.as_ref().map(|kind| KeyValue::text("error.type", kind)));
    // One that is under way when the request ends is given up with it.
    attributes.extend(ended(attempt.took.map_or(Some(End::Dropped), |_| attempt.end)));
    let after = attempt.began.instant().saturating_duration_since(span.now.instant());
    let took = attempt.took.unwrap_or_else(|| span.took.saturating_sub(after));
    let id = attempt.span.unwrap_or(span.context.span);
    Span {
        name: method.unwrap_or("HTTP").to_owned(),
        kind: Kind::Client.into(),
        attributes,
        status: kind.is_some().then(error),
        flags: flags(&span.context) | HAS_IS_REMOTE,
        ..of(&span.context, id, Some(span.context.span), span.began + after, took)
    }
}

fn of(context: &Context, id: SpanId, parent: Option<SpanId>, began: Duration, took: Duration) -> Span {
    let state = context.state.as_ref().and_then(|state| state.to_str().ok());
    Span {
        trace_id: context.trace.0.get().to_be_bytes().to_vec(),
        span_id: id.0.get().to_be_bytes().to_vec(),
        trace_state: state.unwrap_or_default().to_owned(),
        parent_span_id: parent.map(|parent| parent.0.get().to_be_bytes().to_vec()).unwrap_or_default(),
        start_time_unix_nano: nanos(began),
        end_time_unix_nano: nanos(began + took),
        ..Span::default()
    }
}

fn flags(context: &Context) -> u32 {
    u32::from(context.is_sampled) | (u32::from(context.is_random) << 1)
}

/// Said of what has not come to its end.
fn ended(end: Option<End>) -> Option<KeyValue> {
    match end {
        Some(End::Dropped) => Some(KeyValue::text("naka.end", "cancelled")),
        Some(End::Failed) => Some(KeyValue::text("naka.end", "broken_off")),
        Some(End::Complete) | None => None,
    }
}

fn named(at: Duration, what: &str, attributes: &[(&str, Option<&str>)]) -> Event {
    let attributes = attributes.iter().filter_map(|(key, value)| Some(KeyValue::text(key, cut((*value)?))));
    Event { time_unix_nano: nanos(at), name: format!("naka.{what}"), attributes: attributes.collect() }
}

const fn error() -> Status {
    Status { message: String::new(), code: StatusCode::Error as i32 }
}

/// A host, an address of IPv6 without its brackets, and its port.
fn split(host: &str) -> (&str, Option<u16>) {
    let (host, port) = split_port(host);
    (host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host), port)
}

fn split_port(host: &str) -> (&str, Option<u16>) {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => match port.parse() {
            Ok(port) => (name, Some(port)),
            Err(_) => (host, None),
        },
        _ => (host, None),
    }
}

const fn version(version: Version) -> Option<&'static str> {
    match version {
        Version::HTTP_10 => Some("1.0"),
        Version::HTTP_11 => Some("1.1"),
        Version::HTTP_2 => Some("2"),
        _ => None,
    }
}

fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(TEXT)]
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
