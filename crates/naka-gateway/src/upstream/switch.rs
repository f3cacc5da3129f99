//! Upgrades over HTTP/1.1: what is asked of an endpoint, and what becomes of its 101.

use http::{HeaderValue, Request, Response, header::CONNECTION, header::UPGRADE};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use naka::{
    context::Upgrade,
    reject::{Reason, Rejection},
};
use tracing::debug;

use super::{Body, Client, Waits, h1::Lease, refuse};
use crate::{
    tunnel::{Endless, Switched, Upstream},
    upgrade,
};

/// What a request asks for, if that is another protocol: then it says so to the endpoint, too.
pub(super) fn ask(request: &mut Request<Body>) -> Option<HeaderValue> {
    if !Upgrade::is_asked(request.extensions()) {
        return None;
    }
    let asked = request.headers().get(UPGRADE).cloned()?;
    request.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
    Some(asked)
}

impl Client {
    /// Goes on from a 101. The connection is never used for anything else.
    pub(super) async fn switched(
        &self,
        mut response: Response<Incoming>,
        lease: Lease,
        asked: Option<&HeaderValue>,
        waits: &Waits,
    ) -> Response<Body> {
        let protocol = match upgrade::given(response.headers(), asked) {
            Ok(protocol) => protocol,
            Err(why) => {
                debug!(upstream = %self.name, why, "an endpoint switches in a way that cannot be followed");
                return Rejection::new(Reason::UpstreamProtocol).detail(why).into_response();
            }
        };
        let stream = match self.in_time(hyper::upgrade::on(&mut response), None, waits).await {
            Ok(Ok(stream)) => TokioIo::new(stream),
            Ok(Err(error)) => {
                debug!(upstream = %self.name, %error, "an endpoint switched, and then went");
                return refuse(Reason::UpstreamReset);
            }
            Err(reason) => return refuse(reason),
        };
        let is_websocket = protocol.as_bytes().eq_ignore_ascii_case(upgrade::WEBSOCKET);
        let upstream = Upstream { stream: Box::new(stream), idle: self.timeouts.tunnel_idle, is_websocket };
        response.headers_mut().insert(UPGRADE, protocol);
        response.extensions_mut().insert(Switched::new(upstream));
        response.map(|_| Body::boxed(Endless(lease)))
    }
}
