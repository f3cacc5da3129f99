//! Which requests ask for another protocol, and which answers give them one (RFC 9110 §7.8 and §15.2.2).
//!
//! # Decision
//! A request of HTTP/1.1 asks if all of this holds, and else its `Upgrade` is not forwarded and it is a request like any other, as
//! §7.8 lets a server have it:
//!
//! 1. `Connection` names `upgrade`.
//! 2. It has no body: its framing is what says where the other protocol begins, and for two readers that is at the end of the head.
//! 3. `Upgrade` is a list of protocols, of which something is left without those in which requests could come again: `h2c`, `h2`, `HTTP`
//!    and `TLS`. What came through them would have been judged by nobody (h2c smuggling, 2020).
//! 4. `websocket` is asked for with `GET` (RFC 6455 §4.1), and not taken for asked otherwise.
//!
//! An answer of 101 gives one if its `Connection` names `upgrade`, and its `Upgrade` nothing but what was asked for, at least once.

use http::{
    HeaderMap, HeaderName, HeaderValue, Method,
    header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING, UPGRADE},
    request::Parts,
};
use hyper::ext::Protocol;

use crate::headers::is_of_token;

/// The token of RFC 6455.
pub(crate) const WEBSOCKET: &[u8] = b"websocket";

/// Longer lists are nobody's.
const PROTOCOLS: usize = 8;

/// What a request of HTTP/1.1 asks for, as it is forwarded; `None` if it is not to be followed.
pub fn asked(method: &Method, headers: &HeaderMap) -> Option<HeaderValue> {
    if !headers.contains_key(UPGRADE) || headers.contains_key(TRANSFER_ENCODING) {
        return None;
    }
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    if lengths.any(|length| length.as_bytes().iter().any(|digit| *digit != b'0')) {
        return None;
    }
    let lines = |name: &HeaderName| headers.get_all(name).into_iter().map(HeaderValue::as_bytes);
    forwarded(method.as_str(), lines(&CONNECTION), lines(&UPGRADE))
}

/// In the extensions of a request that was an extended CONNECT: its client has no key of RFC 6455 (RFC 8441 §5).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Connected;

/// Makes of an extended CONNECT (RFC 8441 §4) what a client of HTTP/1.1 would ask: so routes and policies know one kind of upgrade, and what it
/// asks for. `None`: it is none, or one that is not to be followed.
pub(crate) fn connect(parts: &mut Parts) -> Option<HeaderValue> {
    let protocol = parts.extensions.remove::<Protocol>()?;
    let protocol = protocol.as_ref();
    let has_all = parts.uri.scheme().is_some() && parts.uri.authority().is_some();
    if parts.method != Method::CONNECT || !has_all || !is_protocol(protocol) || carries_requests(protocol) {
        return None;
    }
    parts.method = Method::GET;
    parts.extensions.insert(Connected);
    HeaderValue::from_bytes(protocol).ok()
}

/// What is forwarded of these lines of `Upgrade`, beside those of `Connection`. The reader in front of hyper asks the same before it has
/// header maps.
pub(crate) fn forwarded<'h>(
    method: &str,
    mut connection: impl Iterator<Item = &'h [u8]>,
    upgrade: impl Iterator<Item = &'h [u8]>,
) -> Option<HeaderValue> {
    if !connection.any(names_upgrade) {
        return None;
    }
    let mut all = Vec::new();
    for protocol in upgrade.flat_map(|line| line.split(|byte| *byte == b',')).map(<[u8]>::trim_ascii) {
        if protocol.is_empty() {
            continue; // RFC 9110 §5.6.1.2: empty elements of a list are passed over.
        }
        if !is_protocol(protocol) || all.len() == PROTOCOLS {
            return None;
        }
        let is_of_get = !protocol.eq_ignore_ascii_case(WEBSOCKET) || method == "GET";
        if is_of_get && !carries_requests(protocol) {
            all.push(protocol);
        }
    }
    if all.is_empty() { None } else { HeaderValue::from_bytes(&all.join(&b", "[..])).ok() }
}

/// Whether an answer of 101 gives what was asked for.
///
/// # Errors
/// Why it does not, in a sentence.
pub fn given(headers: &HeaderMap, asked: Option<&HeaderValue>) -> Result<HeaderValue, &'static str> {
    let Some(asked) = asked else {
        return Err("The upstream switches to another protocol, and nobody has asked for that.");
    };
    if !headers.get_all(CONNECTION).iter().any(|line| names_upgrade(line.as_bytes())) {
        return Err("The upstream's 101 has no `Connection: upgrade`.");
    }
    let was_asked = |protocol: &&[u8]| protocols(asked).any(|asked| asked.eq_ignore_ascii_case(protocol));
    let given = headers.get_all(UPGRADE).iter().flat_map(protocols).collect::<Vec<_>>();
    if given.is_empty() {
        return Err("The upstream's 101 does not say in `Upgrade` what it switches to.");
    }
    if given.len() > PROTOCOLS || !given.iter().all(was_asked) {
        return Err("The upstream's 101 names a protocol that was not asked for.");
    }
    HeaderValue::from_bytes(&given.join(&b", "[..])).map_err(|_| "The upstream's `Upgrade` cannot be read.")
}

fn protocols(line: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    let parts = line.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    parts.filter(|protocol| !protocol.is_empty())
}

fn names_upgrade(line: &[u8]) -> bool {
    line.split(|byte| *byte == b',').any(|option| option.trim_ascii().eq_ignore_ascii_case(b"upgrade"))
}

/// A name, and perhaps a version: tokens both (RFC 9110 §7.8).
fn is_protocol(text: &[u8]) -> bool {
    let is_token = |text: &[u8]| !text.is_empty() && text.iter().all(|byte| is_of_token(*byte));
    let mut parts = text.split(|byte| *byte == b'/');
    parts.next().is_some_and(is_token) && parts.next().is_none_or(is_token) && parts.next().is_none()
}

/// Whether requests could come in it, past all that judges requests.
pub fn carries_requests(protocol: &[u8]) -> bool {
    let name = protocol.split(|byte| *byte == b'/').next().unwrap_or_default();
    [&b"h2c"[..], b"h2", b"h3", b"http", b"tls"].iter().any(|other| name.eq_ignore_ascii_case(other))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(all: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in all {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn r2_3_only_what_is_an_upgrade_is_followed() {
        let with = |method: &Method, all: &[_]| asked(method, &headers(all));
        let get = |all: &[_]| with(&Method::GET, all);
        for (all, expected) in [
            (&[("connection", "upgrade"), ("upgrade", "websocket")][..], "websocket"),
            (&[("connection", "keep-alive, Upgrade"), ("upgrade", "WebSocket")], "WebSocket"),
            (&[("connection", "x"), ("connection", "upgrade"), ("upgrade", "foo/2")], "foo/2"),
            (&[("connection", "upgrade"), ("upgrade", "h2c, websocket")], "websocket"),
            (&[("connection", "upgrade"), ("upgrade", "a"), ("upgrade", ",b/1 ,, c")], "a, b/1, c"),
            (&[("connection", "upgrade"), ("upgrade", "a"), ("content-length", "0")], "a"),
        ] {
            assert_eq!(get(all).unwrap(), expected, "{all:?}");
        }
        for all in [
            &[("upgrade", "websocket")][..],
            &[("connection", "upgrade")],
            &[("connection", "upgraded"), ("upgrade", "websocket")],
            &[("connection", "upgrade"), ("upgrade", "h2c")],
            &[("connection", "upgrade"), ("upgrade", "H2C, HTTP/2.0, TLS/1.0, h2, h3")],
            &[("connection", "upgrade"), ("upgrade", "")],
            &[("connection", "upgrade"), ("upgrade", "web socket")],
            &[("connection", "upgrade"), ("upgrade", "a/b/c")],
            &[("connection", "upgrade"), ("upgrade", "a/")],
            &[("connection", "upgrade"), ("upgrade", "a,b,c,d,e,f,g,h,i")],
            &[("connection", "upgrade"), ("upgrade", "websocket"), ("content-length", "1")],
            &[("connection", "upgrade"), ("upgrade", "websocket"), ("transfer-encoding", "chunked")],
        ] {
            assert_eq!(get(all), None, "{all:?}");
        }
        let both = [("connection", "upgrade"), ("upgrade", "websocket, tcp")];
        assert_eq!(with(&Method::POST, &both).unwrap(), "tcp");
    }

    #[test]
    fn r2_3_a_101_gives_what_was_asked_for_and_nothing_else() {
        let given = |asked: Option<&'static str>, all: &[_]| {
            given(&headers(all), asked.map(HeaderValue::from_static).as_ref()).is_ok()
        };
        let good = [("connection", "Upgrade"), ("upgrade", "WebSocket")];
        assert!(given(Some("websocket"), &good));
        assert!(given(Some("tcp, websocket"), &good));
        assert!(!given(None, &good));
        assert!(!given(Some("tcp"), &good));
        for bad in [
            &[("upgrade", "websocket")][..],
            &[("connection", "upgrade")],
            &[("connection", "close"), ("upgrade", "websocket")],
            &[("connection", "upgrade"), ("upgrade", "websocket, h2c")],
            &[("connection", "upgrade"), ("upgrade", "websocket"), ("upgrade", "foo")],
        ] {
            assert!(!given(Some("websocket"), bad), "{bad:?}");
        }
    }
}
