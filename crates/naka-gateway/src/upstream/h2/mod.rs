//! HTTP/2 without TLS, by prior knowledge: many requests at a time on a connection.
//!
//! 1. A request goes over the first connection of the [`Pool`] that has room. There is room for as many requests as the
//!    endpoint says and `connections.streams` allows. If there is none, a connection is made, within
//!    `timeouts.connect`, and who comes meanwhile waits for the same one. It counts as made when the endpoint's settings
//!    have come: so one that speaks something else is found out before anything is sent.
//! 2. What the endpoint says that it has not looked at may be sent again, whatever its method: a stream that it
//!    refuses (`REFUSED_STREAM`), and those behind the last one of a `GOAWAY` (RFC 9113, sections 8.7 and 6.8). If nothing
//!    was taken of its body, it is sent once more here; else, or if it is refused again, or the endpoint says that it is
//!    in trouble, it ends in [`Reason::UpstreamRefused`], and retries and fallbacks see that nothing was done. Any other reset, and
//!    the end of a connection, says nothing of what was done.
//! 3. A request that is given up resets its stream, and the others on the connection go on. When a response has ended,
//!    what is left of the request's body is not sent.
//! 4. A connection takes no more requests once it is `keep_alive.max_lifetime` old, once the endpoint says that it ends
//!    it, and once a request got no answer within `timeouts.response_headers` and nothing else came either. What it has goes on.
//!    One that nobody uses is closed after `keep_alive.timeout`.
//! 5. While an answer is waited for and nothing comes for 20 s, the endpoint is asked whether it is there (a ping). If it says nothing for 10 s,
//!    the connection and all requests on it are at an end.
//!
//! # Limits
//! 256 KiB of each response wait to be passed on, and as much as all of them need on a connection; 64 KiB of each request
//! wait to be sent; 128 KiB of a response's header list, or of its trailers. A request costs a copy of its head, and each worker
//! has connections of its own: `connections.max` below the number of workers leaves some without.
//!
//! # Why not hyper's client
//! Hyper speaks HTTP/2 with the clients. Of this side it hides what is needed: how many requests a connection takes, whether
//! a refusal proves something, and the handle of an upload, which it goes on with after the response has ended, for as long as the
//! endpoint leaves it without an answer; and it takes a response that is reset with `CANCEL` for a whole one.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use h2::client::ResponseFuture;
use http::{
    HeaderName, Method, Request, Response, Uri, Version,
    header::{CONNECTION, CONTENT_LENGTH, HOST, TE, TRANSFER_ENCODING, UPGRADE},
    request::Parts,
    uri::{Authority, Scheme},
};
use http_body::Body as _;
use naka::{attempt::Sent, reject::Reason};
use tracing::debug;

use super::{
    Again, Client, Waits,
    body::{Arriving, Body},
    refuse,
};
use crate::{headers::announced, upload::Upload as Progress};

mod body;
mod connect;
mod connection;
mod pool;

pub(super) use body::Download;
use body::{BrokenOff, Upload};
pub(crate) use connection::{STREAM, begin};
pub(super) use pool::{Lease, Pool};

/// How often a request finds that the connection it was to go over has just ended.
const ENDS: u32 = 3;

impl Client {
    /// One exchange over HTTP/2.
    pub(super) async fn over_h2(
        &self,
        pool: &Arc<Pool>,
        request: Request<Body>,
        again: Option<Again>,
        mut progress: Option<Arc<Progress>>,
        waits: &Waits,
    ) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let deadline = waits.deadline(&parts.extensions);
        let Some(mut head) = head(parts, &body, pool.scheme()) else { return refuse(Reason::BadRequest) };
        // A body at its end is dropped here: whoever looks at its progress sees that.
        let mut body = if body.is_end_stream() { None } else { Some(Box::pin(body)) };
        let (mut is_again, mut was_sent, mut ends) = (false, false, 0);
        let refused = |reason, was_sent| {
            let mut refused = refuse(reason);
            if was_sent {
                refused.extensions_mut().insert(Sent); // The first time.
            }
            refused
        };
        loop {
            let mut lease = match pool.stream(self, waits).await {
                Ok(lease) => lease,
                Err(reason) => return refused(reason, was_sent),
            };
            waits.for_endpoint();
            if let Err(reason) = self.tell_deadline(head.headers_mut(), deadline, waits) {
                return refused(reason, was_sent);
            }
            let mut exchange = match Exchange::begin(&mut lease, &head, body.take(), progress.clone()) {
                Ok(exchange) => exchange,
                Err(Unsent { error, body: unsent }) => {
                    debug!(upstream = %self.name, %error, "a request could not be sent");
                    let is_ours = error.reason().is_none() && !error.is_io();
                    if is_ours {
                        return refused(Reason::BadRequest, was_sent);
                    }
                    (body, ends) = (unsent, ends + 1);
                    if ends < ENDS {
                        continue;
                    }
                    return refused(Reason::UpstreamRefused, was_sent);
                }
            };
            let answer = self.in_time(poll_fn(|cx| exchange.poll(cx)), progress.as_deref(), waits).await;
            let failed = match answer {
                Ok(Ok(response)) => return exchange.answered(self, lease, response, head.method()),
                Ok(Err(failed)) => failed,
                Err(reason) => {
                    if reason == Reason::ResponseTimeout && lease.is_silent() {
                        lease.retire();
                    }
                    return refused(reason, was_sent);
                }
            };
            let (reason, is_calm) = failed.blame();
            debug!(upstream = %self.name, ?failed, %reason, "an exchange failed");
            let has_body = exchange.has_body();
            let untouched = exchange.into_untouched();
            let is_there = !has_body || untouched.is_some();
            if is_again {
                return refused(reason, was_sent);
            } else if reason == Reason::UpstreamRefused && is_calm && is_there {
                (body, is_again) = (untouched, true);
                continue;
            }
            let again = again.as_ref().filter(|_| failed.is_end() && lease.met_an_end());
            let Some(mut copy) = again.and_then(Again::body) else { return refused(reason, was_sent) };
            (is_again, was_sent, progress) = (true, true, copy.watch_upload());
            body = if copy.is_end_stream() { None } else { Some(Box::pin(copy)) };
        }
    }
}

/// A request on its way, until its response begins.
struct Exchange {
    response: ResponseFuture,
    upload: Option<Upload>,
}

/// A request that was not sent.
struct Unsent {
    error: h2::Error,
    body: Option<Pin<Box<Body>>>,
}

impl Exchange {
    fn begin(
        lease: &mut Lease,
        head: &Request<()>,
        body: Option<Pin<Box<Body>>>,
        progress: Option<Arc<Progress>>,
    ) -> Result<Self, Unsent> {
        match lease.sender().send_request(head.clone(), body.is_none()) {
            Ok((response, stream)) => {
                let upload = body.map(|body| Upload::new(body, stream, announced(head.headers()), progress));
                Ok(Self { response, upload })
            }
            Err(error) => Err(Unsent { error, body }),
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response<h2::RecvStream>, Failed>> {
        if let Some(upload) = &mut self.upload
            && let Poll::Ready(Err(why)) = upload.poll(cx)
        {
            return Poll::Ready(Err(Failed::Client(why)));
        }
        Pin::new(&mut self.response).poll(cx).map_err(Failed::Endpoint)
    }

    /// The response; what is still to be sent goes on beside it.
    fn answered(
        self,
        client: &Client,
        lease: Lease,
        response: Response<h2::RecvStream>,
        method: &Method,
    ) -> Response<Body> {
        let upload = self.upload.filter(|upload| !upload.is_over());
        let upload = upload.map(|mut upload| {
            let sending = async move { poll_fn(|cx| upload.poll(cx)).await };
            tokio::spawn(sending).abort_handle()
        });
        let lease = Some(Box::new(lease.with_upload(upload)));
        let (parts, stream) = response.into_parts();
        let head = Response::from_parts(parts, ());
        let body = Download::of(&head, stream, *method == Method::HEAD);
        head.map(|()| Body::upstream(Arriving::H2 { body }, lease, client.timeouts.idle))
    }

    const fn has_body(&self) -> bool {
        self.upload.is_some()
    }

    fn into_untouched(self) -> Option<Pin<Box<Body>>> {
        self.upload?.into_untouched()
    }
}

/// Why there is no response.
#[derive(Debug)]
enum Failed {
    /// The request's body broke off.
    Client(BrokenOff),
    Endpoint(h2::Error),
}

impl Failed {
    /// The word for it, and whether the endpoint would take it if it were sent again at once.
    fn blame(&self) -> (Reason, bool) {
        let error = match self {
            Self::Client(why) if why.is_slow => return (Reason::RequestTimeout, false),
            Self::Client(_) => return (Reason::BadRequest, false), // The client will hardly read this.
            Self::Endpoint(error) => error,
        };
        let is_refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
        if error.is_remote() && (is_refused || error.is_go_away()) {
            // Of a GOAWAY only those hear in this way that it says were not looked at.
            let is_calm = is_refused || error.reason() == Some(h2::Reason::NO_ERROR);
            (Reason::UpstreamRefused, is_calm)
        } else if error.is_library() {
            (Reason::UpstreamProtocol, false)
        } else {
            (Reason::UpstreamReset, false)
        }
    }

    /// Whether the connection has ended.
    fn is_end(&self) -> bool {
        matches!(self, Self::Endpoint(error) if error.is_io())
    }
}

/// The head as HTTP/2 has it: where it goes is said in front, and nothing about a connection. `None` if its host
/// could not stand there.
fn head(parts: Parts, body: &Body, scheme: Scheme) -> Option<Request<()>> {
    const OF_CONNECTIONS: [HeaderName; 6] = [
        CONNECTION,
        TRANSFER_ENCODING,
        UPGRADE,
        HeaderName::from_static("keep-alive"),
        HeaderName::from_static("proxy-connection"),
        HeaderName::from_static("http2-settings"),
    ];
    let mut headers = parts.headers;
    for name in &OF_CONNECTIONS {
        headers.remove(name);
    }
    if headers.get_all(TE).iter().any(|te| te != "trailers") {
        headers.remove(TE);
    }
    let authority = Authority::try_from(headers.remove(HOST)?.as_bytes()).ok()?;
    let mut uri = parts.uri.into_parts();
    (uri.scheme, uri.authority) = (Some(scheme), Some(authority));
    if let Some(length) = body.size_hint().exact() {
        let may_have_one = [Method::POST, Method::PUT, Method::PATCH].contains(&parts.method);
        if length > 0 || may_have_one {
            headers.entry(CONTENT_LENGTH).or_insert_with(|| length.into());
        }
    }
    let mut head = Request::new(());
    *head.method_mut() = parts.method;
    *head.uri_mut() = Uri::from_parts(uri).ok()?;
    *head.version_mut() = Version::HTTP_2;
    *head.headers_mut() = headers;
    Some(head)
}
