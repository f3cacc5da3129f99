//! Headers that concern one connection only (RFC 9110 §7.6.1), and names that are one to some upstreams.

use std::borrow::Cow;

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{CONNECTION, Entry, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE},
};

static HOP_BY_HOP: [HeaderName; 7] = [
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("http2-settings"),
];

/// Takes away what concerns the connection a message came over: the known fields, and those that
/// its `Connection` names.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    if let Entry::Occupied(connection) = headers.entry(CONNECTION) {
        let (_, lines) = connection.remove_entry_mult();
        // Nearly always one line with one of two words that name no field.
        let lines = lines.filter(|line| line != "keep-alive" && line != "close").collect::<Vec<_>>();
        for option in lines.iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b',')) {
            // What is no name, names nothing; the others of its line do.
            let name = std::str::from_utf8(option.trim_ascii()).ok();
            if let Some(name) = name.filter(|name| may_go(name)) {
                headers.remove(name);
            }
        }
    }
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
    if headers.get_all(TE).iter().any(|te| te != "trailers") {
        headers.remove(TE);
    }
}

/// Framing, routing and forwarding fields cannot be taken away by naming them in `Connection`: a
/// client must not choose what the next hop does not see of them, nor what we see of those that a
/// trusted proxy wrote.
fn may_go(name: &str) -> bool {
    let is = |kept: &str| name.eq_ignore_ascii_case(kept);
    let is_forwarding = name.get(..12).is_some_and(|start| start.eq_ignore_ascii_case("x-forwarded-"));
    !is_forwarding
        && !["host", "content-length", "forwarded", "x-real-ip", "x-request-id"].into_iter().any(is)
}

/// A name as upstreams of some kinds compare it: they cannot tell `_` from `-`.
pub fn compared(name: &HeaderName) -> Cow<'_, str> {
    match name.as_str() {
        name if name.contains('_') => name.replace('_', "-").into(),
        name => name.into(),
    }
}

/// Whether the body is framed in a way we undo: not at all, or in chunks. Any other coding would be
/// passed on as if it were none.
pub fn has_known_framing(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let first = codings.next().map(HeaderValue::as_bytes);
    codings.next().is_none() && first.is_none_or(|coding| coding.eq_ignore_ascii_case(b"chunked"))
}

/// Whether a token may have it (RFC 9110 §5.6.2).
pub(crate) fn is_of_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Whether a header has what nobody wants to read in a terminal or a ticket: its name says so itself.
pub(crate) fn is_secret(name: &str) -> bool {
    const WORDS: [&str; 7] = ["auth", "cookie", "token", "secret", "key", "password", "session"];
    let name = name.to_ascii_lowercase();
    WORDS.iter().any(|word| name.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r2_3_fields_that_connection_names_are_dropped_but_not_framing() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, X-Secret"),
            ("connection", "host , x-other,content-length"),
            ("x-secret", "1"),
            ("x-secret", "2"),
            ("x-other", "3"),
            ("x-kept", "4"),
            ("host", "h"),
            ("content-length", "5"),
            ("te", "gzip, trailers"),
            ("upgrade", "h2c"),
            ("keep-alive", "timeout=5"),
        ] {
            headers.append(name, value.parse().unwrap());
        }
        strip_hop_by_hop(&mut headers);
        let mut left = headers.keys().map(HeaderName::as_str).collect::<Vec<_>>();
        left.sort_unstable();
        assert_eq!(left, ["content-length", "host", "x-kept"]);
    }

    /// Bug: one such byte, and the other names of the line were forwarded.
    #[test]
    fn r2_3_bytes_that_are_none_of_a_name_do_not_hide_the_names_beside_them() {
        let mut headers = HeaderMap::new();
        headers.append("connection", HeaderValue::from_bytes(b"x-hop, \xff, \xc3\xa9").unwrap());
        headers.append("x-hop", HeaderValue::from_static("1"));
        headers.append("x-kept", HeaderValue::from_static("2"));
        strip_hop_by_hop(&mut headers);
        assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["x-kept"]);
    }

    #[test]
    fn connection_cannot_take_away_what_a_trusted_proxy_wrote() {
        let mut headers = HeaderMap::new();
        let kept = ["x-forwarded-for", "X-Forwarded-Proto", "forwarded", "x-request-id", "x-real-ip"];
        headers.append("connection", kept.join(",").parse().unwrap());
        for name in kept {
            headers.append(name.to_ascii_lowercase().parse::<HeaderName>().unwrap(), "1".parse().unwrap());
        }
        strip_hop_by_hop(&mut headers);
        assert_eq!(headers.len(), kept.len());
    }

    #[test]
    fn only_chunks_are_undone() {
        for (lines, expected) in [
            (&[][..], true),
            (&["chunked"], true),
            (&["Chunked"], true),
            (&["gzip, chunked"], false),
            (&["gzip", "chunked"], false),
            (&["chunked", "chunked"], false),
            (&["identity"], false),
        ] {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(TRANSFER_ENCODING, line.parse().unwrap());
            }
            assert_eq!(has_known_framing(&headers), expected, "{lines:?}");
        }
    }
}
