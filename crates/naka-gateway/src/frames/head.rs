//! What a head over HTTP/2 has to be that hyper lets pass, and that nobody could see any more once it is one of HTTP/1.1.

use http::{Version, request::Parts};
use naka::reject::{Reason, Rejection};

/// Says what is wrong with the head of a request over HTTP/2; of any other it says nothing.
///
/// # Errors
/// If `:scheme` is neither `http` nor `https`, `:path` does not begin with `/` (RFC 9113 §8.3.1), or a value begins or ends with a space or a
/// tab (§8.2.1).
pub(crate) fn check(parts: &Parts) -> Result<(), Rejection> {
    if parts.version != Version::HTTP_2 {
        return Ok(());
    }
    if !matches!(parts.uri.scheme_str(), None | Some("http" | "https")) {
        return Err(bad(":scheme is neither `http` nor `https` (RFC 9113, section 8.3.1)"));
    }
    let path = parts.uri.path_and_query().map(http::uri::PathAndQuery::as_str);
    if path.is_some_and(|path| !path.starts_with(['/', '*'])) {
        return Err(bad(":path does not begin with `/` (RFC 9113, section 8.3.1)"));
    }
    let is_padded = |value: &[u8]| matches!(value, [b' ' | b'\t', ..] | [.., b' ' | b'\t']);
    if parts.headers.values().any(|value| is_padded(value.as_bytes())) {
        return Err(bad(
            "the value of a field begins or ends with a space or a tab (RFC 9113, section 8.2.1)",
        ));
    }
    Ok(())
}

fn bad(why: &str) -> Rejection {
    Rejection::new(Reason::BadRequest).detail(why)
}
