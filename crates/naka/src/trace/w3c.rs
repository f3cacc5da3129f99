//! `traceparent` and `tracestate`: [Trace Context, level 2](https://www.w3.org/TR/trace-context-2/).

use http::{HeaderMap, HeaderName, HeaderValue};

use super::{Context, Extracted, hex, only, value};

/// Which span asks.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// What others on the way want to find again.
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

pub(super) static HEADERS: [HeaderName; 2] = [TRACEPARENT, TRACESTATE];

/// The most members of a `tracestate` (section 3.3.1.1); one with more is dropped.
pub const MEMBERS: usize = 32;
/// The most bytes of a `tracestate` that go on (section 3.3.1.5); of a longer one members are dropped: those of more than
/// [`LARGE`] bytes first, then the last.
pub const STATE: usize = 512;
/// More than this many bytes are a large member.
pub const LARGE: usize = 128;

const SAMPLED: u8 = 1;
const RANDOM: u8 = 2;

/// `version-trace-parent-flags`, each of a fixed length (section 3.2.2).
const LENGTH: usize = 55;

/// What the headers say; `None` if that is nothing, or not to the letter.
pub fn extract(headers: &HeaderMap) -> Option<Extracted> {
    let parent = only(headers, &TRACEPARENT)?;
    let (known, more) = parent.split_at_checked(LENGTH)?;
    let [version, trace, span, flags] = fields(known)?;
    // Of a version to come only this much is known (section 3.2.4), and that there is never a 255th.
    let is_fine = match hex::number(version)? {
        0 => more.is_empty(),
        255 => false,
        _ => more.is_empty() || more.starts_with(b"-"),
    };
    let (trace, span) = (hex::trace(trace)?, hex::span(span)?);
    let flags = u8::try_from(hex::number(flags)?).ok()?;
    is_fine.then(|| {
        let (is_sampled, is_random) = (flags & SAMPLED != 0, flags & RANDOM != 0);
        Extracted::Span(
            Context { trace, span, is_sampled, is_random, state: state(headers) },
            Some(is_sampled),
        )
    })
}

fn fields(known: &[u8]) -> Option<[&[u8]; 4]> {
    let mut fields = known.split(|byte| *byte == b'-');
    let fields = [fields.next()?, fields.next()?, fields.next()?, fields.next()?];
    (fields.map(<[u8]>::len) == [2, 32, 16, 2]).then_some(fields)
}

/// Writes them, in version 0.
pub fn inject(context: &Context, headers: &mut HeaderMap) {
    let flags = (u8::from(context.is_sampled) * SAMPLED) | (u8::from(context.is_random) * RANDOM);
    let mut parent = *b"00-................................-................-..";
    parent[3..35].copy_from_slice(&context.trace.digits());
    parent[36..52].copy_from_slice(&context.span.digits());
    parent[53..].copy_from_slice(&hex::digits::<2>(flags.into()));
    headers.insert(TRACEPARENT, value(&parent));
    if let Some(state) = &context.state {
        headers.insert(TRACESTATE, state.clone());
    }
}

/// The members of all lines, in order, each key once: the first is the latest. `None` if there are none, or one is not as it
/// should be.
fn state(headers: &HeaderMap) -> Option<HeaderValue> {
    let mut members = Vec::new();
    for line in headers.get_all(&TRACESTATE) {
        for member in line.as_bytes().split(|byte| *byte == b',') {
            // Blanks in front of a key are none of it; behind a value they are not, either.
            let member = member.trim_ascii();
            if member.is_empty() {
                continue; // Allowed (section 3.3.1.1).
            }
            let at = member.iter().position(|byte| *byte == b'=')?;
            let (key, value) = (&member[..at], &member[at + 1..]);
            if !is_key(key) || !is_value(value) || members.len() == MEMBERS {
                return None;
            }
            if !members.iter().any(|(other, _)| *other == key) {
                members.push((key, member));
            }
        }
    }
    let mut members = members.into_iter().map(|(_, member)| member).collect::<Vec<_>>();
    let length = |members: &[&[u8]]| members.iter().map(|member| member.len() + 1).sum::<usize>();
    while length(&members) > STATE + 1 {
        let large = members.iter().rposition(|member| member.len() > LARGE);
        members.remove(large.unwrap_or(members.len() - 1));
    }
    if members.is_empty() { None } else { HeaderValue::from_bytes(&members.join(&b',')).ok() }
}

/// Section 3.3.1.3.1.
fn is_key(key: &[u8]) -> bool {
    let is_first = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    key.len() <= 256
        && key.first().is_some_and(is_first)
        && key.iter().all(|byte| is_first(byte) || b"_-*/@".contains(byte))
}

/// Section 3.3.1.3.2. Blanks at its end have gone.
fn is_value(value: &[u8]) -> bool {
    let is_fine = |byte: &u8| matches!(byte, b' '..=b'~') && !b",=".contains(byte);
    (1..=256).contains(&value.len()) && value.iter().all(is_fine)
}

#[cfg(test)]
mod tests;
