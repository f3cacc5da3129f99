//! The leg to the upstream: one exchange with the endpoint a balancer chose.
//!
//! # What happens
//! 1. A kept connection is taken from the endpoint's [`Pool`], or a new one is made within
//!    `timeouts.connect`; as long it waits before that for a [place](Places), if there are as many as there may be. A kept one that turns out to be closed *before anything was sent* gives the
//!    request back, and the next is taken. One that ends after the request was sent and before a byte of
//!    an answer came was closed by the endpoint at just that time, as it may at any: what is idempotent and
//!    has no body is then sent once more, over a new connection (RFC 9112, section 9.3.1).
//! 2. The request is sent. While its body is on its way, `timeouts.idle` runs between two pieces of
//!    it; from its last byte on, `timeouts.response_headers` runs to the response head. Over all of this runs
//!    `timeouts.per_try`, if there is one.
//! 3. The response streams through. The connection goes back when the body has ended.
//!
//! Every failure becomes a rejection with its reason; nothing here returns an error.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use http::{
    HeaderValue, Request, Response,
    header::{HOST, TRANSFER_ENCODING},
};
use http_body::Body as _;
use naka::{
    attempt::Sent,
    balance::Endpoint,
    clock::Now,
    reject::{Reason, Rejection},
};
use tokio::time::timeout;
use tracing::{debug, warn};

mod body;
mod connect;
mod places;
mod pool;
mod pools;

use body::Upload;
pub use body::{Body, Idle, LayeredBody, Stalled};
pub(crate) use connect::Place;
pub use connect::{Connector, MemoryConnect};
use places::{Bound, Full};
pub use places::{Places, UpstreamPlaces};
use pool::Room;
pub use pool::{Lease, Pool};
pub use pools::Pools;

use crate::{
    config::checked::{Connections, KeepAlive, Name, UpstreamTimeouts},
    deadline::Deadlines,
};

/// One upstream, as one worker reaches it under one configuration.
#[derive(Debug)]
pub struct Client {
    /// The upstream's name.
    pub name: Name,
    /// The pools of its endpoints.
    pub pools: Arc<Pools>,
    /// How long the parts of an exchange may take.
    pub timeouts: UpstreamTimeouts,
    /// How connections are kept.
    pub keep_alive: KeepAlive,
    /// How many there may be to each endpoint, of all workers.
    pub connections: Connections,
    /// How many there may be in the process.
    pub all_connections: usize,
    /// How connections are made.
    pub connector: Connector,
    /// How endpoints are told how long is waited.
    pub deadlines: Deadlines,
}

impl Client {
    /// One exchange. The request is as the endpoint shall see it.
    pub async fn exchange(&self, request: Request<Body>) -> Response<Body> {
        let has_place = AtomicBool::new(false);
        let one_try = self.one_try(request, &has_place);
        let Some(limit) = self.timeouts.per_try else { return one_try.await };
        timeout(limit, one_try).await.unwrap_or_else(|_| {
            // A bound of ours is nobody's fault.
            let is_theirs = has_place.load(Relaxed);
            refuse(if is_theirs { Reason::ResponseTimeout } else { Reason::ConnectionsFull })
        })
    }

    /// `has_place` says whether it waits for an endpoint, and not for a connection to it.
    async fn one_try(&self, mut request: Request<Body>, has_place: &AtomicBool) -> Response<Body> {
        let endpoint = Endpoint::of(request.extensions());
        let Some(pool) = endpoint.map(|endpoint| self.pools.pool(endpoint.address())) else {
            return refuse(Reason::NoEndpoint);
        };
        let upload = request.body_mut().watch_upload();
        if !request.headers().contains_key(HOST)
            && let Ok(host) = HeaderValue::from_str(pool.address())
        {
            request.headers_mut().insert(HOST, host); // HTTP/1.0 may come without; what we speak may not.
        }
        if request.body().size_hint().exact().is_none() {
            // Said aloud: else hyper sends no body with a GET that has one.
            request.headers_mut().insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        let mut is_again = false;
        loop {
            let kept = if is_again { None } else { pool.take(self.keep_alive) };
            let (mut lease, is_kept) = match kept {
                Some(lease) => (lease, true),
                None => match self.connect(&pool, is_again, has_place).await {
                    Ok(lease) => lease,
                    Err(reason) => {
                        let mut refused = refuse(reason);
                        if is_again {
                            refused.extensions_mut().insert(Sent); // It was, the first time.
                        }
                        return refused;
                    }
                },
            };
            has_place.store(true, Relaxed);
            if let Err(reason) = self.tell_deadline(&mut request) {
                lease.give_back();
                return refuse(reason);
            }
            let again = if is_kept { copied(&request) } else { None };
            let read_before = lease.bytes_read();
            let answer = lease.send(request);
            match self.in_time(answer, upload.as_deref()).await {
                Ok(Ok(response)) => {
                    let lease = lease.with_upload(upload);
                    return response.map(|body| Body::upstream(body, lease, self.timeouts.idle));
                }
                Ok(Err(mut failed)) => match failed.take_message() {
                    Some(unsent) if is_kept => request = unsent,
                    None if again.is_some() && lease.bytes_read() == read_before => {
                        (request, is_again) = (again.expect("just seen"), true);
                    }
                    _ => return refuse(self.blame(&failed.into_error(), upload.as_deref())),
                },
                Err(reason) => return refuse(reason),
            }
        }
    }

    /// Says in the request how long its answer is waited for, now that it is sent.
    fn tell_deadline(&self, request: &mut Request<Body>) -> Result<(), Reason> {
        let (mut headers, limit) = (std::mem::take(request.headers_mut()), self.timeouts.per_try);
        let told = self.deadlines.tell(&mut headers, request.extensions(), limit, Now::read);
        *request.headers_mut() = headers;
        told
    }

    /// A connection, and whether it was used before.
    async fn connect(
        &self,
        pool: &Arc<Pool>,
        is_new: bool,
        has_place: &AtomicBool,
    ) -> Result<(Lease, bool), Reason> {
        let Connections { max, pending } = self.connections;
        let all = self.all_connections;
        let bounds = [Bound { max, waiting: pending }, Bound { max: all, waiting: all }];
        let room = pool.room(self.keep_alive, bounds, is_new);
        let places = match timeout(self.timeouts.connect, room).await {
            Ok(Ok(Room::Kept(lease))) => return Ok((lease, true)),
            Ok(Ok(Room::New(places))) => places,
            Ok(Err(Full)) | Err(_) => return Err(Reason::ConnectionsFull),
        };
        has_place.store(true, Relaxed);
        // The time begins anew: the endpoint has nothing to do with how long a place took.
        let connecting = pool.connect(&self.connector, self.keep_alive, places);
        let (reason, error) = match timeout(self.timeouts.connect, connecting).await {
            Ok(Ok(lease)) => return Ok((lease, false)),
            Ok(Err(error)) => (Reason::ConnectFailed, error),
            Err(elapsed) => (Reason::ConnectTimeout, elapsed.into()),
        };
        if pool.is_trouble_due() {
            warn!(upstream = %self.name, endpoint = pool.address(), %error, "no connection to an endpoint");
        }
        Err(reason)
    }

    /// The answer, or the reason why it took too long.
    async fn in_time<T>(
        &self,
        answer: impl Future<Output = T>,
        upload: Option<&Upload>,
    ) -> Result<T, Reason> {
        let limit = self.timeouts.response_headers;
        let Some(upload) = upload else {
            return timeout(limit, answer).await.map_err(|_| Reason::ResponseTimeout);
        };
        tokio::select! {
            biased;
            answer = answer => Ok(answer),
            reason = stalled(upload, self.timeouts.idle, limit) => Err(reason),
        }
    }

    fn blame(&self, error: &hyper::Error, upload: Option<&Upload>) -> Reason {
        let is_client = error.is_user() && upload.is_some_and(|upload| !upload.is_whole());
        debug!(upstream = %self.name, %error, is_client, "an exchange failed");
        if is_client {
            Reason::BadRequest // The request's body broke off; the client will hardly read this.
        } else if error.is_parse() {
            Reason::UpstreamProtocol
        } else {
            Reason::UpstreamReset
        }
    }
}

/// The same request once more, if twice has the effect of once and there is no body. Nobody behind us asks for
/// its extensions.
fn copied(request: &Request<Body>) -> Option<Request<Body>> {
    if !request.method().is_idempotent() || !request.body().is_end_stream() {
        return None;
    }
    let mut copy = Request::new(Body::Empty);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    Some(copy)
}

/// Ready when the upload or the answer to it has stalled.
async fn stalled(upload: &Upload, idle: Option<Duration>, response_headers: Duration) -> Reason {
    while !upload.is_over() {
        let Some(idle) = idle else {
            upload.over().await;
            break;
        };
        let seen = upload.frames();
        let is_over = timeout(idle, upload.over()).await.is_ok();
        if !is_over && upload.frames() == seen {
            let is_client = upload.waits_for_client();
            return if is_client { Reason::RequestTimeout } else { Reason::ResponseTimeout };
        }
    }
    tokio::time::sleep(response_headers).await;
    Reason::ResponseTimeout
}

fn refuse(reason: Reason) -> Response<Body> {
    Rejection::new(reason).into_response()
}
