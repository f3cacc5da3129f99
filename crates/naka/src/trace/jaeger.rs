//! `uber-trace-id`: [Jaeger's](https://www.jaegertracing.io/docs/1.76/sdk-migration/#propagation-format), `trace:span:parent:flags`.
//!
//! Zeros at the beginning may be left out, and colons may be written as `%3A`. `debug` is read as recorded. Its baggage
//! (`uberctx-…`) is neither read nor taken away.

use http::{HeaderMap, HeaderName};

use super::{Context, Extracted, hex, only, value};

/// All in one.
pub const UBER_TRACE_ID: HeaderName = HeaderName::from_static("uber-trace-id");

pub(super) static HEADERS: [HeaderName; 1] = [UBER_TRACE_ID];

const SAMPLED: u128 = 1;
const DEBUG: u128 = 2;

/// What the header says; `None` if that is nothing, or not to the letter.
pub fn extract(headers: &HeaderMap) -> Option<Extracted> {
    let text = std::str::from_utf8(only(headers, &UBER_TRACE_ID)?).ok()?;
    let text = text.replace("%3A", ":").replace("%3a", ":");
    let mut parts = text.split(':').map(str::as_bytes);
    let (trace, span) = (hex::trace(parts.next()?)?, hex::span(parts.next()?)?);
    let (parent, flags) = (hex::number(parts.next()?)?, hex::number(parts.next()?)?);
    let is_fine = parent <= u64::MAX.into() && flags <= u8::MAX.into() && parts.next().is_none();
    is_fine.then(|| {
        let is_sampled = flags & (SAMPLED | DEBUG) != 0;
        Extracted::Span(Context { trace, span, is_sampled, is_random: false, state: None }, Some(is_sampled))
    })
}

/// Writes it. The parent's parent is written as 0, as nobody reads it any more.
pub fn inject(context: &Context, headers: &mut HeaderMap) {
    let mut said = *b"................................:................:0:.";
    said[..32].copy_from_slice(&context.trace.digits());
    said[33..49].copy_from_slice(&context.span.digits());
    said[52] = b'0' + u8::from(context.is_sampled);
    headers.insert(UBER_TRACE_ID, value(&said));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r8_1_the_header_of_jaeger_is_read_to_the_letter() {
        let of = |sampled| Some(("000000000000000064fe8b2a57d3eff7-0000000000000bd1".to_owned(), sampled));
        for (value, expected) in [
            ("64fe8b2a57d3eff7:bd1:0:1", of(true)),
            ("000000000000000064fe8b2a57d3eff7:0000000000000bd1:05e3ac9a4f6e3b90:0", of(false)),
            ("64fe8b2a57d3eff7%3Abd1%3a0%3A3", of(true)),
            ("64fe8b2a57d3eff7:bd1:0:8", of(false)),
            ("", None),
            ("64fe8b2a57d3eff7:bd1:0", None),
            ("64fe8b2a57d3eff7:bd1:0:1:", None),
            ("64fe8b2a57d3eff7:bd1::1", None),
            ("64fe8b2a57d3eff7:bd1:0:100", None),
            ("64fe8b2a57d3eff7:bd1:0:x", None),
            ("0:bd1:0:1", None),
            ("64fe8b2a57d3eff7:0:0:1", None),
            ("64FE8B2A57D3EFF7:bd1:0:1", None),
            ("164fe8b2a57d3eff7164fe8b2a57d3eff7:bd1:0:1", None),
            ("64fe8b2a57d3eff7:10000000000000bd1:0:1", None),
        ] {
            let headers = HeaderMap::from_iter([(UBER_TRACE_ID, value.parse().unwrap())]);
            let said = extract(&headers).map(|said| match said {
                Extracted::Span(it, sampled) => (format!("{}-{}", it.trace, it.span), sampled.unwrap()),
                Extracted::Decision(_) => panic!("{value}"),
            });
            assert_eq!(said, expected, "{value}");
        }
    }
}
