//! Upgrades over HTTP/1.1: what is asked of an endpoint, and what becomes of its 101.
//!
//! Over HTTP/2 WebSocket has no key (RFC 8441 §5): where one end speaks that and the other does not, the gateway proves what the other one has to
//! prove (RFC 6455 §4.2.2). Between two ends of HTTP/1.1 both pass, and are not looked at.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{
    HeaderMap, HeaderValue, Response,
    header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE},
    request::Parts,
};
use naka::{
    context::Upgrade,
    random::seed,
    reject::{Reason, Rejection},
};
use tracing::debug;

use super::{Body, Client, h1::Lease, refuse};
use crate::{
    tunnel::{Endless, Switched, Upstream},
    upgrade::{self, Connected},
};

/// What a request asks for, if that is another protocol.
pub(super) struct Asked {
    protocols: HeaderValue,
    /// What the endpoint has to answer to a key that is ours.
    accept: Option<HeaderValue>,
}

/// Asks the endpoint for the other protocol, if the request does.
pub(super) fn ask(request: &mut Parts) -> Option<Box<Asked>> {
    if !Upgrade::is_asked(&request.extensions) {
        return None;
    }
    let has_no_key = request.extensions.get::<Connected>().is_some();
    let headers = &mut request.headers;
    let protocols = headers.get(UPGRADE).cloned()?;
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    let mut accept = None;
    if has_no_key && is_websocket(&protocols) {
        let key = STANDARD.encode([seed().to_be_bytes(), seed().to_be_bytes()].concat());
        let key = HeaderValue::try_from(key).expect("Base64 is ASCII");
        accept = Some(accepted(&key));
        headers.insert(SEC_WEBSOCKET_KEY, key);
    }
    Some(Box::new(Asked { protocols, accept }))
}

pub(super) fn is_websocket(protocol: &HeaderValue) -> bool {
    protocol.as_bytes().eq_ignore_ascii_case(upgrade::WEBSOCKET)
}

/// What a server answers to a key.
pub(super) fn accepted(key: &HeaderValue) -> HeaderValue {
    const SALT: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, &[key.as_bytes(), SALT].concat());
    HeaderValue::try_from(STANDARD.encode(hash)).expect("Base64 is ASCII")
}

/// Whether an answer gives what was asked for, and what that is.
fn given(headers: &HeaderMap, asked: Option<&Asked>) -> Result<HeaderValue, &'static str> {
    let protocol = upgrade::given(headers, asked.map(|asked| &asked.protocols))?;
    let accept = asked.and_then(|asked| asked.accept.as_ref());
    if accept.is_some_and(|accept| headers.get(SEC_WEBSOCKET_ACCEPT) != Some(accept)) {
        return Err("The upstream's `Sec-WebSocket-Accept` is not that of the key it was asked with.");
    }
    Ok(protocol)
}

impl Client {
    /// Goes on from a 101. The connection is never used for anything else.
    pub(super) fn switched(
        &self,
        mut response: Response<()>,
        mut lease: Lease,
        asked: Option<&Asked>,
    ) -> Response<Body> {
        let protocol = match given(response.headers(), asked) {
            Ok(protocol) => protocol,
            Err(why) => {
                debug!(upstream = %self.name, why, "an endpoint switches in a way that cannot be followed");
                return Rejection::new(Reason::UpstreamProtocol).detail(why).into_response();
            }
        };
        let Some(stream) = lease.take_stream() else { return refuse(Reason::UpstreamReset) };
        let is_websocket = is_websocket(&protocol);
        let upstream = Upstream { stream: Box::new(stream), idle: self.timeouts.tunnel_idle, is_websocket };
        response.headers_mut().insert(UPGRADE, protocol);
        response.extensions_mut().insert(Switched::new(upstream));
        response.map(|()| Body::boxed(Endless(lease)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 6455 §1.3.
    #[test]
    fn a_key_is_answered_as_the_rfc_has_it() {
        let key = HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(accepted(&key), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
