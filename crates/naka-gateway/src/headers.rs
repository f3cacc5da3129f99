//! Headers that concern one connection only (RFC 9110 §7.6.1).

use http::{
    HeaderMap, HeaderName,
    header::{CONNECTION, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE},
};

const HOP_BY_HOP: [HeaderName; 8] = [
    CONNECTION,
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
    while let Some(name) = named_by_connection(headers) {
        headers.remove(name);
    }
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
    if headers.get(TE).is_some_and(|te| te != "trailers") {
        headers.remove(TE);
    }
}

/// One field that is there and that `Connection` names. Framing and routing fields cannot be
/// taken away like that: a client must not choose what the next hop does not see of them.
fn named_by_connection(headers: &HeaderMap) -> Option<HeaderName> {
    let lines = headers.get_all(CONNECTION).into_iter().filter_map(|line| line.to_str().ok());
    let names = lines.flat_map(|line| line.split(',')).filter_map(|name| name.trim().parse().ok());
    let may_go = |name: &HeaderName| {
        *name != CONNECTION && *name != http::header::HOST && *name != http::header::CONTENT_LENGTH
    };
    names.filter(may_go).find(|name| headers.contains_key(name))
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
}
