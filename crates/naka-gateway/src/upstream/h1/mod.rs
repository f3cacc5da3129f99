//! HTTP/1.1: one request at a time on a connection, and connections that are kept.
//!
//! 1. A kept connection is taken from the endpoint's [`Pool`], or a new one is made within
//!    `timeouts.connect`; as long it waits before that for a [place](Places), if there are as many as there may be. A kept one that turns out to be closed *before anything was sent* gives the
//!    request back, and the next is taken. One that ends after the request was sent and before a byte of
//!    an answer came was closed by the endpoint at just that time, as it may at any: what is idempotent and
//!    has a short body at most is then sent once more, over a new connection (RFC 9112, section 9.3.1).
//! 2. An upgrade goes over a new connection, which a 101 turns into a tunnel (`switch`).
//! 3. The connection goes back when the response's body has ended.

use std::{
    error::Error,
    fmt,
    future::{Future, poll_fn},
    io, iter, mem,
    sync::Arc,
    task::Poll,
};

use http::{Response, StatusCode};
use hyper::ext::ReasonPhrase;
use naka::{BoxError, attempt::Sent, clock::Now, reject::Reason};
use tokio::time::{Instant, timeout};
use tokio_rustls::rustls;
use tracing::{debug, warn};

use super::{
    Again, Client, Outgoing, Waits,
    body::{Arriving, Body},
    connect::Unreached,
    places::Full,
    refuse,
    slow::is_too_slow,
    switch,
};
use crate::upload::Upload;
use connection::Connection;
use pool::Room;
use request::Sending;
use response::Head;

#[cfg(any(test, fuzzing))]
pub(super) mod agreement;
mod buffers;
mod connection;
mod download;
mod pool;
mod request;
mod response;

pub(super) use download::Download;
pub(super) use pool::Lease;
pub(super) use pool::Pool;

/// The most that is read of a response at once, and that a head may have, in bytes.
pub const BUFFER: usize = 128 << 10;

impl Client {
    /// One exchange over HTTP/1.1.
    #[allow(clippy::manual_async_fn, reason = "an asynchronous function keeps twice what it is given")]
    pub(super) fn over_h1<'a>(
        &'a self,
        pool: Arc<Pool>,
        request: &'a mut Outgoing,
        again: Option<Again>,
        mut upload: Option<Arc<Upload>>,
        waits: &'a Waits,
    ) -> impl Future<Output = Response<Body>> + use<'a> {
        async move {
            let Outgoing { head, body } = request;
            let (deadline, mut is_again) = (waits.deadline(&head.extensions), false);
            let asked = switch::ask(head);
            let is_upgrade = asked.is_some();
            let mut sending = Sending::of(&mut head.headers, mem::take(body));
            let mut now = waits.began;
            loop {
                // One that was kept may be closing just now, and an upgrade is not sent again.
                let kept = if is_again || is_upgrade { None } else { pool.take(self.keep_alive, now) };
                let (mut lease, is_kept) = if let Some(lease) = kept {
                    (lease, true)
                } else {
                    // In a box of its own: few requests come here.
                    let connected = Box::pin(self.connect(&pool, is_again || is_upgrade, waits)).await;
                    now = Instant::now(); // It may have waited for its place.
                    match connected {
                        Ok(lease) => lease,
                        Err(reason) => return refuse_after(is_again, reason),
                    }
                };
                waits.for_endpoint();
                if let Err(reason) = self.tell_deadline(&mut head.headers, deadline, waits) {
                    lease.give_back();
                    return refuse_after(is_again, reason);
                }
                let connection = lease.connection();
                connection.begin(head, &mut sending);
                let failed = match self.head(connection, &mut sending, upload.as_deref(), waits, now).await {
                    Ok(Ok(head)) if head.status == StatusCode::SWITCHING_PROTOCOLS => {
                        return self.switched(responded(head), lease, asked.as_deref());
                    }
                    Ok(Ok(head)) => return self.answered(head, lease, sending),
                    Ok(Err(failed)) => failed,
                    Err(reason) => return refuse(reason),
                };
                if is_kept && !sending.has_begun() && !matches!(failed, Failed::Body(_)) {
                    continue; // It was closed just now.
                }
                let is_silent = !lease.connection().has_heard() && failed.is_end();
                let again = again.as_ref().filter(|_| is_kept && is_silent);
                let Some(mut copy) = again.and_then(Again::body) else {
                    return refuse(self.blame(&pool, &failed, upload.as_deref()));
                };
                (is_again, upload) = (true, copy.watch_upload());
                sending = Sending::of(&mut head.headers, copy);
            }
        }
    }

    /// The head of the response to what is sent `now`, or why it took too long.
    async fn head(
        &self,
        connection: &mut Connection,
        sending: &mut Sending,
        upload: Option<&Upload>,
        waits: &Waits,
        now: Instant,
    ) -> Result<Result<Head, Failed>, Reason> {
        if upload.is_some() {
            let head = poll_fn(|cx| connection.poll_exchange(sending, cx));
            // In a box of its own: it is larger, and those without a body shall not pay for that.
            return Box::pin(self.in_time(head, upload, waits)).await;
        }
        let due = now.checked_add(self.timeouts.response_headers);
        poll_fn(|cx| match connection.poll_exchange(sending, cx) {
            Poll::Ready(head) => Poll::Ready(Ok(head)),
            Poll::Pending => match due {
                Some(due) => connection.poll_due(due, cx).map(|()| Err(Reason::ResponseTimeout)),
                None => Poll::Pending,
            },
        })
        .await
    }

    /// What is there of the response; what is not comes with the body, and what is still to be sent goes on beside it.
    fn answered(&self, head: Head, mut lease: Lease, sending: Sending) -> Response<Body> {
        let response = responded(head);
        let connection = lease.connection();
        if let Some(whole) = connection.take_whole() {
            connection.end_sending(sending);
            lease.give_back();
            return response.map(|()| whole.into());
        }
        connection.send_rest(sending);
        let body = Arriving::H1 { body: Download::new(lease) };
        response.map(|()| Body::upstream(body, None, self.timeouts.idle))
    }

    /// A connection, and whether it was used before.
    async fn connect(&self, pool: &Arc<Pool>, is_new: bool, waits: &Waits) -> Result<(Lease, bool), Reason> {
        let room = pool.room(self.keep_alive, self.bounds(), is_new);
        let places = match timeout(self.timeouts.connect, room).await {
            Ok(Ok(Room::Kept(lease))) => return Ok((lease, true)),
            Ok(Ok(Room::New(places))) => places,
            Ok(Err(Full)) | Err(_) => return Err(Reason::ConnectionsFull),
        };
        waits.for_endpoint();
        // The time begins anew: the endpoint has nothing to do with how long a place took.
        let (began, connecting) = (Now::read(), pool.connect(&self.connector, self.keep_alive, places));
        let (reason, error) = match timeout(self.timeouts.connect, connecting).await {
            Ok(Ok(lease)) => {
                self.metrics.connected(began.elapsed());
                return Ok((lease, false));
            }
            Ok(Err(Unreached { reason, error })) => (reason, error),
            Err(elapsed) => (Reason::ConnectTimeout, elapsed.into()),
        };
        if pool.trouble.is_due() {
            warn!(upstream = %self.name, endpoint = pool.address(), %error, "no connection to an endpoint");
        }
        Err(reason)
    }

    fn blame(&self, pool: &Pool, failed: &Failed, upload: Option<&Upload>) -> Reason {
        let is_client = matches!(failed, Failed::Body(_)) && upload.is_some_and(|upload| !upload.is_whole());
        debug!(upstream = %self.name, error = %failed, is_client, "an exchange failed");
        if is_client && is_too_slow(failed) {
            Reason::RequestTimeout
        } else if is_client {
            Reason::BadRequest // The request's body broke off; the client will hardly read this.
        } else if let Some(alert) = refused_handshake(failed) {
            if pool.trouble.is_due() {
                let endpoint = pool.address();
                warn!(upstream = %self.name, endpoint, %alert, "an endpoint does not take what it is shown");
            }
            Reason::TlsFailed
        } else if let Failed::Wrong(_) = failed {
            Reason::UpstreamProtocol
        } else {
            Reason::UpstreamReset
        }
    }
}

/// A refusal; of a request that was sent once.
fn refuse_after(was_sent: bool, reason: Reason) -> Response<Body> {
    let mut refused = refuse(reason);
    if was_sent {
        refused.extensions_mut().insert(Sent);
    }
    refused
}

/// A response as it is handed on, without its body.
fn responded(head: Head) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = head.status;
    *response.version_mut() = head.version;
    *response.headers_mut() = head.headers;
    let reason = head.reason.and_then(|reason| ReasonPhrase::try_from(reason).ok());
    if let Some(reason) = reason {
        response.extensions_mut().insert(reason);
    }
    response
}

/// Why an exchange has come to nothing, or a response broke off.
#[derive(Debug)]
pub enum Failed {
    /// The request's body broke off, or has not the length that it says.
    Body(BoxError),
    /// The connection did.
    Broken(io::Error),
    /// The endpoint has closed it before its response had an end.
    Closed,
    /// The endpoint has said what is no response.
    Wrong(&'static str),
}

impl Failed {
    /// Whether the connection has ended.
    const fn is_end(&self) -> bool {
        matches!(self, Self::Broken(_) | Self::Closed)
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Body(error) => write!(f, "the request's body: {error}"),
            Self::Broken(error) => write!(f, "the connection to the endpoint broke: {error}"),
            Self::Closed => f.write_str("the endpoint closed the connection before the end of its response"),
            Self::Wrong(why) => write!(f, "the endpoint's response is none: {why}"),
        }
    }
}

impl Error for Failed {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Body(error) => Some(&**error),
            Self::Broken(error) => Some(error),
            Self::Closed | Self::Wrong(_) => None,
        }
    }
}

/// What an endpoint says of the certificate that it was shown, or that it was not. In TLS 1.3 that is heard only behind the handshake; it
/// has looked at nothing of what was sent meanwhile (RFC 8446 §4.4.2.4).
fn refused_handshake<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e rustls::Error> {
    use rustls::AlertDescription as Alert;
    let causes = iter::successors(Some(error), |&error| error.source());
    let mut alerts = causes.filter_map(|cause: &'e (dyn Error + 'static)| {
        let inner = cause.downcast_ref::<io::Error>().and_then(|error| error.get_ref());
        inner.map_or_else(|| cause.downcast_ref(), |inner| inner.downcast_ref::<rustls::Error>())
    });
    alerts.find(|alert| {
        let rustls::Error::AlertReceived(alert) = alert else { return false };
        matches!(
            alert,
            Alert::AccessDenied
                | Alert::BadCertificate
                | Alert::CertificateExpired
                | Alert::CertificateRequired
                | Alert::CertificateRevoked
                | Alert::CertificateUnknown
                | Alert::HandshakeFailure
                | Alert::UnknownCA
                | Alert::UnsupportedCertificate
        )
    })
}
