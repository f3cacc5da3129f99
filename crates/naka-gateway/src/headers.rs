//! Headers that concern one connection only (RFC 9110 §7.6.1), and names that are one to some upstreams.

use std::borrow::Cow;

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{
        AUTHORIZATION, CACHE_CONTROL, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE,
        CONTENT_TYPE, COOKIE, EXPECT, Entry, HOST, MAX_FORWARDS, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION,
        RANGE, SET_COOKIE, TE, TRAILER, TRANSFER_ENCODING, UPGRADE, VIA,
    },
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

/// Which of the fields that most messages do not have a message has: to look at each name once costs less than to look for each of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen(u16);

impl Seen {
    const CONNECTION: Self = Self(1);
    const TE: Self = Self(1 << 1);
    pub(crate) const CONTENT_LENGTH: Self = Self(1 << 2);
    pub(crate) const TRAILER: Self = Self(1 << 3);
    pub(crate) const EXPECT: Self = Self(1 << 4);
    /// Of one connection.
    const HOP_BY_HOP: Self = Self(1 << 5);
    pub(crate) const TRANSFER_ENCODING: Self = Self(1 << 6 | Self::HOP_BY_HOP.0);
    pub(crate) const UPGRADE: Self = Self(1 << 7 | Self::HOP_BY_HOP.0);
    pub(crate) const CONTENT_TYPE: Self = Self(1 << 8);

    /// Those of a message.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let seen = headers.keys().map(|name| match name.as_str() {
            "connection" => Self::CONNECTION,
            "te" => Self::TE,
            "content-length" => Self::CONTENT_LENGTH,
            "content-type" => Self::CONTENT_TYPE,
            "trailer" => Self::TRAILER,
            "expect" => Self::EXPECT,
            "transfer-encoding" => Self::TRANSFER_ENCODING,
            "upgrade" => Self::UPGRADE,
            "keep-alive"
            | "proxy-connection"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "http2-settings" => Self::HOP_BY_HOP,
            _ => Self(0),
        });
        Self(seen.fold(0, |all, one| all | one.0))
    }

    pub(crate) const fn has(self, field: Self) -> bool {
        self.0 & field.0 == field.0
    }
}

/// Takes away what concerns the connection a message came over: the known fields, and those that
/// its `Connection` names.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap, seen: Seen) {
    if seen.has(Seen::CONNECTION)
        && let Entry::Occupied(connection) = headers.entry(CONNECTION)
    {
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
    if seen.has(Seen::HOP_BY_HOP) {
        for name in &HOP_BY_HOP {
            headers.remove(name);
        }
    }
    if seen.has(Seen::TE) && headers.get_all(TE).iter().any(|te| te != "trailers") {
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

/// Leaves one length, in digits alone, where there are several that are the same, or zeros before it (RFC 9110 §8.6): whoever reads it next
/// may not read it as we do. Says whether it is one.
pub(crate) fn settle_length(headers: &mut HeaderMap) -> bool {
    let mut lines = headers.get_all(CONTENT_LENGTH).iter();
    let Some(first) = lines.next() else { return true };
    let is_one = lines.next().is_none();
    let is_plain =
        |line: &[u8]| line.iter().all(u8::is_ascii_digit) && (line.len() == 1 || line.first() != Some(&b'0'));
    if is_one && !first.is_empty() && first.len() <= 19 && is_plain(first.as_bytes()) {
        return true; // As nearly always.
    }
    let lengths =
        headers.get_all(CONTENT_LENGTH).iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    let mut lengths = lengths.map(|length| {
        let digits = std::str::from_utf8(length.trim_ascii()).ok()?;
        digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse::<u64>().ok()).flatten()
    });
    let Some(length) = lengths.next().flatten() else { return false };
    if lengths.any(|other| other != Some(length)) {
        return false;
    }
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    true
}

/// Leaves in `Trailer`, which is there, the names for which this holds, and none that is no name: what is not announced is not passed on.
pub(crate) fn announce_only(headers: &mut HeaderMap, is_fine: impl Fn(&HeaderName) -> bool) {
    let Entry::Occupied(announced) = headers.entry(TRAILER) else { return };
    let (_, lines) = announced.remove_entry_mult();
    let lines = lines.collect::<Vec<_>>();
    let names = lines.iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    let names = names.filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok()).filter(is_fine);
    for name in names {
        headers.append(TRAILER, HeaderValue::from(name));
    }
}

/// The names of the trailers that a message announces.
pub(crate) fn announced(headers: &HeaderMap) -> Vec<HeaderName> {
    let lines = headers.get_all(TRAILER).into_iter().filter_map(|line| line.to_str().ok());
    let names = lines.flat_map(|line| line.split(',')).filter_map(|name| name.trim().parse().ok());
    names.collect()
}

/// Whether a field may come behind a body (RFC 9110 §6.5.1): none of framing, routing, authentication, or of one connection.
pub(crate) fn may_be_trailer(name: &HeaderName) -> bool {
    const NEVER: [HeaderName; 16] = [
        AUTHORIZATION,
        CACHE_CONTROL,
        CONNECTION,
        CONTENT_ENCODING,
        CONTENT_LENGTH,
        CONTENT_RANGE,
        CONTENT_TYPE,
        COOKIE,
        EXPECT,
        HOST,
        MAX_FORWARDS,
        RANGE,
        SET_COOKIE,
        TE,
        TRAILER,
        VIA,
    ];
    !NEVER.contains(name) && !HOP_BY_HOP.contains(name)
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
    fn every_field_of_one_connection_is_taken_away() {
        for name in HOP_BY_HOP.iter().chain([&CONNECTION]) {
            let mut headers = HeaderMap::new();
            headers.insert(name, HeaderValue::from_static("x"));
            headers.insert(HOST, HeaderValue::from_static("h"));
            let seen = Seen::of(&headers);
            strip_hop_by_hop(&mut headers, seen);
            assert_eq!(headers.keys().collect::<Vec<_>>(), [HOST], "{name}");
        }
    }

    #[test]
    fn each_field_that_is_looked_for_is_seen_and_no_other() {
        for (name, field) in [
            (CONNECTION, Seen::CONNECTION),
            (TE, Seen::TE),
            (CONTENT_LENGTH, Seen::CONTENT_LENGTH),
            (TRAILER, Seen::TRAILER),
            (EXPECT, Seen::EXPECT),
            (TRANSFER_ENCODING, Seen::TRANSFER_ENCODING),
            (UPGRADE, Seen::UPGRADE),
            (CONTENT_TYPE, Seen::CONTENT_TYPE),
            (COOKIE, Seen(0)),
        ] {
            let headers = HeaderMap::from_iter([(HOST, "h".parse().unwrap()), (name, "x".parse().unwrap())]);
            assert_eq!(Seen::of(&headers), field);
        }
        for name in &HOP_BY_HOP {
            let headers = HeaderMap::from_iter([(name.clone(), "x".parse().unwrap())]);
            assert!(Seen::of(&headers).has(Seen::HOP_BY_HOP), "{name}");
        }
    }

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
        let seen = Seen::of(&headers);
        strip_hop_by_hop(&mut headers, seen);
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
        let seen = Seen::of(&headers);
        strip_hop_by_hop(&mut headers, seen);
        assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["x-kept"]);
    }

    #[test]
    fn r2_3_a_length_is_one_number_or_none() {
        let settled = |lines: &[&str]| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(CONTENT_LENGTH, line.parse().unwrap());
            }
            let is_fine = settle_length(&mut headers);
            let left = headers.get_all(CONTENT_LENGTH).iter().map(|line| line.to_str().unwrap().to_owned());
            is_fine.then(|| left.collect::<Vec<_>>())
        };
        for (lines, expected) in [
            (&[][..], Some(&[][..])),
            (&["0"], Some(&["0"][..])),
            (&["17"], Some(&["17"])),
            (&["010"], Some(&["10"])),
            (&["00"], Some(&["0"])),
            (&["2, 2"], Some(&["2"])),
            (&["2", "2"], Some(&["2"])),
            (&["2", "02 ,2"], Some(&["2"])),
            (&["18446744073709551615"], Some(&["18446744073709551615"])),
            (&["18446744073709551616"], None),
            (&["2, 3"], None),
            (&["2", "3"], None),
            (&["2,"], None),
            (&[""], None),
            (&["+2"], None),
            (&["0x2"], None),
        ] {
            let expected = expected.map(|it| it.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>());
            assert_eq!(settled(lines), expected, "{lines:?}");
        }
    }

    #[test]
    fn connection_cannot_take_away_what_a_trusted_proxy_wrote() {
        let mut headers = HeaderMap::new();
        let kept = ["x-forwarded-for", "X-Forwarded-Proto", "forwarded", "x-request-id", "x-real-ip"];
        headers.append("connection", kept.join(",").parse().unwrap());
        for name in kept {
            headers.append(name.to_ascii_lowercase().parse::<HeaderName>().unwrap(), "1".parse().unwrap());
        }
        let seen = Seen::of(&headers);
        strip_hop_by_hop(&mut headers, seen);
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
