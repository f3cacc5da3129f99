//! Fields that belong to one connection.

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{CONNECTION, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE},
};

/// What is left of headers when those of one connection are gone (RFC 9110, section 7.6.1).
pub(crate) fn without_connection(headers: &HeaderMap) -> HeaderMap {
    let mut kept = headers.clone();
    let lines = headers.get_all(CONNECTION).into_iter().map(HeaderValue::as_bytes);
    for name in lines.flat_map(|line| line.split(|byte| *byte == b',')) {
        // What is no name, names nothing.
        if let Ok(name) = HeaderName::from_bytes(name.trim_ascii()) {
            kept.remove(name);
        }
    }
    for name in [CONNECTION, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE]
    {
        kept.remove(name);
    }
    for name in ["keep-alive", "proxy-connection"] {
        kept.remove(name);
    }
    kept
}
