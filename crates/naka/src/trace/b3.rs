//! `b3`, and the four headers that were there before it: [Zipkin's](https://github.com/openzipkin/b3-propagation).
//!
//! Numbers of traces of 16 digits are read and go on with 32, the first 16 of which are zeros. `debug` is read as recorded, and
//! goes on as that: whether a gateway does more for it is not for strangers to say. Who the parent's parent was is not read.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::{Context, Extracted, hex, only, value};

/// All in one.
pub const B3: HeaderName = HeaderName::from_static("b3");
/// The trace.
pub const TRACE: HeaderName = HeaderName::from_static("x-b3-traceid");
/// The span that asks.
pub const SPAN: HeaderName = HeaderName::from_static("x-b3-spanid");
/// Whether it is recorded.
pub const SAMPLED: HeaderName = HeaderName::from_static("x-b3-sampled");
/// `1`: recorded, and to be looked at.
pub const FLAGS: HeaderName = HeaderName::from_static("x-b3-flags");
/// Who asked the span that asks. Taken away, and not written: who receives it has no use for it.
pub const PARENT: HeaderName = HeaderName::from_static("x-b3-parentspanid");

pub(super) static HEADERS: [HeaderName; 1] = [B3];
pub(super) static MULTI_HEADERS: [HeaderName; 5] = [TRACE, SPAN, SAMPLED, FLAGS, PARENT];

/// What `b3` says; `None` if that is nothing, or not to the letter.
pub fn extract(headers: &HeaderMap) -> Option<Extracted> {
    let mut parts = only(headers, &B3)?.split(|byte| *byte == b'-');
    let first = parts.next()?;
    let Some(span) = parts.next() else { return decision(first).map(Extracted::Decision) };
    let sampled = parts.next().map(|sampled| decision(sampled).ok_or(())).transpose().ok()?;
    let is_whole = parts.next().is_none_or(is_span) && parts.next().is_none();
    if is_whole { between(first, span, sampled) } else { None }
}

/// What the headers say; `None` if that is nothing, or one of them is not to the letter.
pub fn extract_multi(headers: &HeaderMap) -> Option<Extracted> {
    let one = |name: &HeaderName| {
        if headers.contains_key(name) { only(headers, name).map(Some).ok_or(()) } else { Ok(None) }
    };
    let is_debug = match one(&FLAGS).ok()? {
        None | Some(b"0") => false,
        Some(b"1") => true,
        Some(_) => return None,
    };
    let sampled = match one(&SAMPLED).ok()? {
        // As older senders have it.
        Some(b"true") => Some(true),
        Some(b"false") => Some(false),
        Some(sampled) => Some(decision(sampled).filter(|_| sampled != b"d")?),
        None => None,
    };
    let sampled = if is_debug { Some(true) } else { sampled };
    match (one(&TRACE).ok()?, one(&SPAN).ok()?) {
        (Some(trace), Some(span)) => between(trace, span, sampled),
        (None, None) => sampled.map(Extracted::Decision),
        _ => None,
    }
}

/// Writes `b3`.
pub fn inject(context: &Context, headers: &mut HeaderMap) {
    let mut said = *b"................................-................-.";
    said[..32].copy_from_slice(&context.trace.digits());
    said[33..49].copy_from_slice(&context.span.digits());
    said[50] = b'0' + u8::from(context.is_sampled);
    headers.insert(B3, value(&said));
}

/// Writes the others.
pub fn inject_multi(context: &Context, headers: &mut HeaderMap) {
    headers.insert(TRACE, value(&context.trace.digits()));
    headers.insert(SPAN, value(&context.span.digits()));
    headers.insert(SAMPLED, HeaderValue::from_static(if context.is_sampled { "1" } else { "0" }));
}

fn between(trace: &[u8], span: &[u8], sampled: Option<bool>) -> Option<Extracted> {
    if !matches!(trace.len(), 16 | 32) || !is_span(span) {
        return None;
    }
    let (trace, span) = (hex::trace(trace)?, hex::span(span)?);
    let is_sampled = sampled.unwrap_or(false);
    Some(Extracted::Span(Context { trace, span, is_sampled, is_random: false, state: None }, sampled))
}

fn is_span(digits: &[u8]) -> bool {
    digits.len() == 16 && hex::number(digits).is_some()
}

fn decision(said: &[u8]) -> Option<bool> {
    match said {
        b"0" => Some(false),
        b"1" | b"d" => Some(true),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE_ID: &str = "80f198ee56343ba864fe8b2a57d3eff7";

    fn said(lines: &[(&str, &str)]) -> Option<String> {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        let said = if headers.contains_key(B3) { extract(&headers) } else { extract_multi(&headers) };
        said.map(|said| match said {
            Extracted::Span(context, sampled) => format!("{}-{} {sampled:?}", context.trace, context.span),
            Extracted::Decision(sampled) => format!("{sampled}"),
        })
    }

    #[test]
    fn r8_1_one_header_of_b3_is_read_to_the_letter() {
        let of = |sampled: &str| Some(format!("{TRACE_ID}-e457b5a2e4d86bd1 {sampled}"));
        let short = Some("000000000000000064fe8b2a57d3eff7-e457b5a2e4d86bd1 Some(true)".to_owned());
        for (value, expected) in [
            ("80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-1-05e3ac9a4f6e3b90", of("Some(true)")),
            ("80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-0", of("Some(false)")),
            ("80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-d", of("Some(true)")),
            ("80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1", of("None")),
            ("64fe8b2a57d3eff7-e457b5a2e4d86bd1-1", short),
            ("0", Some("false".to_owned())),
            ("1", Some("true".to_owned())),
            ("d", Some("true".to_owned())),
            ("", None),
            ("2", None),
            ("80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-", None),
            ("80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-2", None),
            ("80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-1-", None),
            ("80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-1-05e3ac9a4f6e3b90-1", None),
            ("80F198EE56343BA864FE8B2A57D3EFF7-e457b5a2e4d86bd1-1", None),
            ("00000000000000000000000000000000-e457b5a2e4d86bd1-1", None),
            ("80f198ee56343ba864fe8b2a57d3eff7-0000000000000000-1", None),
            ("80f198ee56343ba864fe8b2a57d3eff-e457b5a2e4d86bd1-1", None),
            ("80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd-1", None),
        ] {
            assert_eq!(said(&[("b3", value)]), expected, "{value}");
        }
        assert_eq!(said(&[("b3", "1"), ("b3", "1")]), None);
    }

    #[test]
    fn r8_1_the_headers_of_b3_are_read_to_the_letter() {
        let ids = [("x-b3-traceid", TRACE_ID), ("x-b3-spanid", "e457b5a2e4d86bd1")];
        let of = |sampled: &str| Some(format!("{TRACE_ID}-e457b5a2e4d86bd1 {sampled}"));
        for (more, expected) in [
            (&[][..], of("None")),
            (&[("x-b3-sampled", "1"), ("x-b3-parentspanid", "05e3ac9a4f6e3b90")], of("Some(true)")),
            (&[("x-b3-sampled", "0")], of("Some(false)")),
            (&[("x-b3-sampled", "false")], of("Some(false)")),
            (&[("x-b3-flags", "1")], of("Some(true)")),
            (&[("x-b3-flags", "1"), ("x-b3-sampled", "0")], of("Some(true)")),
            (&[("x-b3-flags", "0")], of("None")),
            (&[("x-b3-flags", "7")], None),
            (&[("x-b3-sampled", "d")], None),
            (&[("x-b3-sampled", "yes")], None),
            (&[("x-b3-sampled", "1"), ("x-b3-sampled", "0")], None),
            (&[("x-b3-traceid", TRACE_ID)], None),
        ] {
            assert_eq!(said(&[&ids[..], more].concat()), expected, "{more:?}");
        }
        assert_eq!(said(&ids[..1]), None, "half of it");
        assert_eq!(said(&[("x-b3-sampled", "0")]), Some("false".to_owned()));
        assert_eq!(said(&[]), None);
    }
}
