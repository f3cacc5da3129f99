//! Upgrades over HTTP/2: a stream that becomes a tunnel (extended CONNECT, RFC 8441).

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::{RecvStream, SendStream, ext::Protocol};
use http::{
    HeaderValue, Method, Request, Response, StatusCode,
    header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE},
};
use naka::reject::{Reason, Rejection};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tracing::debug;

use super::{
    super::{Body, Client, Waits, body::Arriving, refuse, switch},
    Failed, Pool,
    body::Download,
    head,
};
use crate::tunnel::{Endless, PIECE, Switched, Upstream};

/// It is no fault of an upstream that it does not speak what somebody asks for: nobody shall open its breaker with that.
static UNSUPPORTED: Reason = Reason::Custom(StatusCode::NOT_IMPLEMENTED, "upgrade_unsupported");

impl Client {
    /// One upgrade. It is sent once: whether it was seen cannot be told from whether it began.
    pub(in super::super) async fn connect_over_h2(
        &self,
        pool: &Arc<Pool>,
        request: Request<Body>,
        waits: &Waits,
    ) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let deadline = waits.deadline(&parts.extensions);
        let protocol = parts.headers.get(UPGRADE).and_then(first);
        let Some((protocol, mut head)) = protocol.zip(head(parts, &body, pool.scheme())) else {
            return refuse(Reason::BadRequest);
        };
        let key = head.headers_mut().remove(SEC_WEBSOCKET_KEY);
        *head.method_mut() = Method::CONNECT;
        head.extensions_mut().insert(Protocol::from(protocol.to_str().unwrap_or_default()));
        let mut lease = match pool.stream(self, waits).await {
            Ok(lease) => lease,
            Err(reason) => return refuse(reason),
        };
        waits.for_endpoint();
        if !lease.sender().is_extended_connect_protocol_enabled() {
            let why = "The upstream speaks HTTP/2 and has not said that it takes other protocols \
                       (SETTINGS_ENABLE_CONNECT_PROTOCOL, RFC 8441).";
            return Rejection::new(UNSUPPORTED).detail(why).into_response();
        }
        if let Err(reason) = self.tell_deadline(head.headers_mut(), deadline, waits) {
            return refuse(reason);
        }
        let (answer, mut sending) = match lease.sender().send_request(head, false) {
            Ok(begun) => begun,
            Err(error) => {
                debug!(upstream = %self.name, %error, "an upgrade could not be sent");
                return refuse(Reason::UpstreamRefused);
            }
        };
        let response = match self.in_time(answer, None, waits).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => {
                debug!(upstream = %self.name, %error, "an upgrade failed");
                return refuse(Failed::Endpoint(error).blame().0);
            }
            Err(reason) => return refuse(reason),
        };
        let (mut parts, receiving) = response.into_parts();
        if !parts.status.is_success() {
            let _ = sending.send_data(Bytes::new(), true); // There is nothing to say behind a refusal.
            let lease = Some(Box::new(lease));
            let head = Response::from_parts(parts, ());
            let body = Download::of(&head, receiving, false);
            return head.map(|()| Body::upstream(Arriving::H2 { body }, lease, self.timeouts.idle));
        }
        parts.status = StatusCode::SWITCHING_PROTOCOLS;
        let is_websocket = switch::is_websocket(&protocol);
        if let Some(key) = key.filter(|_| is_websocket) {
            parts.headers.insert(SEC_WEBSOCKET_ACCEPT, switch::accepted(&key));
        }
        parts.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        parts.headers.insert(UPGRADE, protocol);
        let stream = Box::new(Stream { sending, receiving, held: Bytes::new() });
        let upstream = Upstream { stream, idle: self.timeouts.tunnel_idle, is_websocket };
        parts.extensions.insert(Switched::new(upstream));
        Response::from_parts(parts, Body::boxed(Endless(lease)))
    }
}

/// The protocol that is liked best: one is all that a CONNECT can ask for.
fn first(asked: &HeaderValue) -> Option<HeaderValue> {
    let first = asked.as_bytes().split(|byte| *byte == b',').next()?;
    HeaderValue::from_bytes(first.trim_ascii()).ok()
}

/// A stream of HTTP/2 as one of bytes. Dropped before its end, it is reset.
struct Stream {
    sending: SendStream<Bytes>,
    receiving: RecvStream,
    /// Came, and is not read yet; there is no room for more of it meanwhile.
    held: Bytes,
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.held.is_empty() {
            match ready!(self.receiving.poll_data(cx)) {
                Some(data) => self.held = data.map_err(io::Error::other)?,
                None => return Poll::Ready(Ok(())),
            }
        }
        let count = self.held.len().min(buf.remaining());
        buf.put_slice(&self.held.split_to(count));
        self.receiving.flow_control().release_capacity(count).map_err(io::Error::other)?;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let wanted = buf.len().min(PIECE);
        self.sending.reserve_capacity(wanted);
        while self.sending.capacity() == 0 {
            match ready!(self.sending.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            }
        }
        let count = wanted.min(self.sending.capacity());
        self.sending.send_data(Bytes::copy_from_slice(&buf[..count]), false).map_err(io::Error::other)?;
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(())) // What drives the connection does.
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.sending.send_data(Bytes::new(), true).map_err(io::Error::other))
    }
}
