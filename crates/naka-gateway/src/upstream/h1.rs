//! HTTP/1.1: one request at a time on a connection, and connections that are kept.
//!
//! 1. A kept connection is taken from the endpoint's [`Pool`], or a new one is made within
//!    `timeouts.connect`; as long it waits before that for a [place](Places), if there are as many as there may be. A kept one that turns out to be closed *before anything was sent* gives the
//!    request back, and the next is taken. One that ends after the request was sent and before a byte of
//!    an answer came was closed by the endpoint at just that time, as it may at any: what is idempotent and
//!    has no body is then sent once more, over a new connection (RFC 9112, section 9.3.1).
//! 2. An upgrade goes over a new connection, which a 101 turns into a tunnel (`switch`).
//! 3. The connection goes back when the response's body has ended.

use std::{
    collections::VecDeque,
    error::Error,
    fmt, io, iter,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{
            AtomicU64, AtomicUsize,
            Ordering::{AcqRel, Acquire, Relaxed},
        },
    },
    time::Duration,
};

use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, header::TRANSFER_ENCODING};
use http_body::Body as _;
use hyper::{
    body::Incoming,
    client::conn::{
        TrySendError,
        http1::{self, SendRequest},
    },
};
use hyper_util::rt::TokioIo;
use naka::{
    attempt::Sent,
    clock::Now,
    guard::{End, Guard},
    reject::Reason,
};
use tokio::{
    sync::Notify,
    task::AbortHandle,
    time::{Instant, timeout},
};
use tokio_rustls::rustls;
use tracing::{debug, warn};

use super::{
    Again, Client, Waits,
    body::{Arriving, Body},
    connect::{Connector, Counted, Place, Unreached},
    jittered,
    places::{Bound, Full, Owner, Places, TURN, Taken},
    refuse,
    slow::is_too_slow,
    switch,
};
use crate::{config::checked::KeepAlive, seldom::Seldom, upload::Upload};

/// What hyper reads ahead of a response, and holds of a request, at most.
pub const BUFFER: usize = 128 << 10;

impl Client {
    /// One exchange over HTTP/1.1.
    pub(super) async fn over_h1(
        &self,
        pool: &Arc<Pool>,
        mut request: Request<Body>,
        again: Option<Again>,
        mut upload: Option<Arc<Upload>>,
        waits: &Waits,
    ) -> Response<Body> {
        if request.body().size_hint().exact().is_none() {
            // Said aloud: else hyper sends no body with a GET that has one.
            request.headers_mut().insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        let (deadline, mut is_again) = (waits.deadline(request.extensions()), false);
        let asked = switch::ask(&mut request);
        let is_upgrade = asked.is_some();
        loop {
            // One that was kept may be closing just now, and an upgrade is not sent again.
            let kept = if is_again || is_upgrade { None } else { pool.take(self.keep_alive) };
            let (mut lease, is_kept) = match kept {
                Some(lease) => (lease, true),
                None => match self.connect(pool, is_again || is_upgrade, waits).await {
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
            waits.for_endpoint();
            if let Err(reason) = self.tell_deadline(request.headers_mut(), deadline, waits) {
                lease.give_back();
                let mut refused = refuse(reason);
                if is_again {
                    refused.extensions_mut().insert(Sent); // It was, the first time.
                }
                return refused;
            }
            let again = again.as_ref().filter(|_| is_kept).map(|again| (Head::of(&request), again));
            let read_before = lease.bytes_read();
            let answer = lease.send(request);
            match self.in_time(answer, upload.as_deref(), waits).await {
                Ok(Ok(response)) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
                    return Box::pin(self.switched(response, lease, asked.as_ref(), waits)).await;
                }
                Ok(Ok(response)) => {
                    let lease = lease.with_upload(upload);
                    return response.map(|body| {
                        Body::upstream(Arriving::H1 { body }, super::Lease::H1(lease), self.timeouts.idle)
                    });
                }
                Ok(Err(mut failed)) => match failed.take_message() {
                    Some(unsent) if is_kept => request = unsent,
                    _ => {
                        let is_silent = lease.bytes_read() == read_before;
                        let again = again.filter(|_| is_silent);
                        let again = again.and_then(|(head, again)| Some(head.with(again.body()?)));
                        let Some(copy) = again else {
                            return refuse(self.blame(pool, &failed.into_error(), upload.as_deref()));
                        };
                        (request, is_again) = (copy, true);
                        upload = request.body_mut().watch_upload();
                    }
                },
                Err(reason) => return refuse(reason),
            }
        }
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

    fn blame(&self, pool: &Pool, error: &hyper::Error, upload: Option<&Upload>) -> Reason {
        let is_client = error.is_user() && upload.is_some_and(|upload| !upload.is_whole());
        debug!(upstream = %self.name, %error, is_client, "an exchange failed");
        if is_client && is_too_slow(error) {
            Reason::RequestTimeout
        } else if is_client {
            Reason::BadRequest // The request's body broke off; the client will hardly read this.
        } else if let Some(alert) = refused_handshake(error) {
            if pool.trouble.is_due() {
                let endpoint = pool.address();
                warn!(upstream = %self.name, endpoint, %alert, "an endpoint does not take what it is shown");
            }
            Reason::TlsFailed
        } else if error.is_parse() {
            Reason::UpstreamProtocol
        } else {
            Reason::UpstreamReset
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

/// What a head says, to say it once more. Nobody behind us asks for its extensions.
///
/// It is taken down for each request over a kept connection and read for very few, so the fields are a list: a map takes an allocation more.
struct Head {
    method: Method,
    uri: Uri,
    fields: Vec<(HeaderName, HeaderValue)>,
}

impl Head {
    fn of(request: &Request<Body>) -> Self {
        let fields = request.headers().iter().map(|(name, value)| (name.clone(), value.clone()));
        Self { method: request.method().clone(), uri: request.uri().clone(), fields: fields.collect() }
    }

    fn with(self, body: Body) -> Request<Body> {
        let mut request = Request::new(body);
        *request.method_mut() = self.method;
        *request.uri_mut() = self.uri;
        for (name, value) in self.fields {
            request.headers_mut().append(name, value);
        }
        request
    }
}

/// The connections of one worker to one endpoint that wait for a request, the latest used first.
///
/// Bounded by [`KeepAlive::max_idle`]; how many there are, of all workers, by [`Places`].
pub struct Pool {
    place: Place,
    trouble: Seldom,
    idle: Mutex<VecDeque<Kept>>,
    /// With the endpoint, and in the process.
    places: [Arc<Places>; 2],
    /// Requests of this worker that wait for a connection.
    waiting: AtomicUsize,
    given_back: Notify,
}

struct Kept {
    connection: Box<Connection>,
    since: Instant,
}

/// A connection to an endpoint. Its driver is cut off with it: left alone, hyper's would go on
/// writing an upload that nobody takes, and hold the client's connection with it.
#[derive(Debug)]
struct Connection {
    sender: SendRequest<Body>,
    driver: AbortHandle,
    /// What came from the endpoint, in bytes.
    read: Arc<AtomicU64>,
    made: Instant,
    /// Until when it takes requests.
    until: Option<Instant>,
    places: [Taken; 2],
}

impl Connection {
    fn is_old(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| until <= now)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Pool {
    /// No connections yet.
    pub(super) fn new(place: Place, places: [Arc<Places>; 2]) -> Arc<Self> {
        Arc::new(Self {
            place,
            trouble: Seldom::new(),
            idle: Mutex::default(),
            places,
            waiting: AtomicUsize::new(0),
            given_back: Notify::new(),
        })
    }

    fn owner(&self) -> Owner {
        Owner::of(self)
    }

    /// Where it leads.
    pub(super) fn address(&self) -> &str {
        self.place.address()
    }

    /// Connections that wait for a request.
    pub fn idle(&self) -> usize {
        self.lock().len()
    }

    /// Closes what has waited for too long, and forgets what was closed by the other side.
    pub fn sweep(&self, keep: &KeepAlive) {
        let now = Instant::now();
        self.lock().retain(|Kept { connection, since }| {
            !connection.sender.is_closed() && *since + keep.timeout > now && !connection.is_old(now)
        });
    }

    /// Closes the connection that has waited longest; says whether there was one.
    pub(super) fn close_oldest(&self) -> bool {
        let oldest = self.lock().pop_front();
        oldest.is_some() // Closed here, and not under the lock.
    }

    /// The right to make a connection; or one that is given back, whichever comes first, unless it has to be new.
    pub(super) async fn room(
        self: &Arc<Self>,
        keep: KeepAlive,
        bounds: [Bound; 2],
        is_new: bool,
    ) -> Result<Room, Full> {
        let [endpoint, all] = &self.places;
        let taken = async {
            let taken = endpoint.take(self.owner(), bounds[0]).await?;
            Ok(Room::New([taken, all.take(self.owner(), bounds[1]).await?]))
        };
        if is_new {
            return taken.await;
        }
        tokio::select! {
            biased;
            taken = taken => taken,
            lease = self.next_given_back(keep) => Ok(Room::Kept(lease)),
        }
    }

    async fn next_given_back(self: &Arc<Self>, keep: KeepAlive) -> Lease {
        struct Waits<'a>(&'a Pool);
        impl Drop for Waits<'_> {
            fn drop(&mut self) {
                self.0.waiting.fetch_sub(1, AcqRel);
                // What was kept for us is not wanted any more; we may have been the one who was told of it.
                self.0.given_back.notify_one();
                self.0.yield_to_others();
            }
        }
        self.waiting.fetch_add(1, AcqRel);
        let _waits = Waits(self);
        loop {
            self.given_back.notified().await;
            loop {
                if let Some(lease) = self.take(keep) {
                    return lease;
                }
                if self.idle() == 0 {
                    break;
                }
                tokio::task::yield_now().await; // On several threads it may not have heard yet that it is free.
            }
        }
    }

    /// Closes what nobody here waits for and somebody elsewhere does.
    fn yield_to_others(&self) {
        let is_spare = || self.idle() > self.waiting.load(Acquire);
        if self.places.iter().any(|places| places.is_wanted()) && is_spare() {
            self.close_oldest();
        }
    }

    /// A connection that waits for a request, if there is one.
    pub(super) fn take(self: &Arc<Self>, keep: KeepAlive) -> Option<Lease> {
        let now = Instant::now();
        let mut idle = self.lock();
        let is_over = |kept: &Kept| kept.connection.sender.is_closed() || kept.connection.is_old(now);
        while idle.back().is_some_and(is_over) {
            idle.pop_back();
        }
        if idle.back().is_some_and(|kept| kept.since + keep.timeout <= now) {
            idle.clear(); // All others have waited longer.
        }
        // On several threads the latest may not have heard yet that its response is over.
        let is_fit = |kept: &Kept| kept.connection.sender.is_ready() && !kept.connection.is_old(now);
        let place = idle.iter().rposition(is_fit)?;
        let connection = idle.remove(place)?.connection;
        Some(self.lease(connection, keep))
    }

    /// A new connection. Its driver runs as a task of this worker until the connection ends.
    pub(super) async fn connect(
        self: &Arc<Self>,
        connector: &Connector,
        keep: KeepAlive,
        places: [Taken; 2],
    ) -> Result<Lease, Unreached> {
        let stream = Counted::new(connector.reach(&self.place).await?);
        let read = Arc::clone(&stream.read);
        let handshake = http1::Builder::new().max_buf_size(BUFFER).handshake(TokioIo::new(stream)).await;
        let (sender, connection) = handshake.map_err(io::Error::other)?;
        let made = Instant::now();
        let until = keep.max_lifetime.map(|time| made + jittered(time));
        let address = Arc::clone(self.place.address());
        let driver = tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                debug!(%address, %error, "a connection to an endpoint ended in an error");
            }
        });
        let connection = Connection { sender, driver: driver.abort_handle(), read, made, until, places };
        Ok(self.lease(Box::new(connection), keep))
    }

    fn lease(self: &Arc<Self>, connection: Box<Connection>, keep: KeepAlive) -> Lease {
        let (connection, pool) = (Some(connection), Arc::clone(self));
        Lease { connection, upload: None, pool, max_idle: keep.max_idle }
    }

    fn put(&self, connection: Box<Connection>, max_idle: usize) {
        let now = Instant::now();
        if connection.sender.is_closed() || connection.is_old(now) {
            return;
        }
        let mut idle = self.lock();
        let waiting = self.waiting.load(Acquire);
        let patience = if waiting <= idle.len() { Duration::ZERO } else { TURN };
        let is_wanted = |taken: &Taken| taken.is_wanted_by_other(self.owner(), patience);
        if connection.made + patience <= now && connection.places.iter().any(is_wanted) {
            drop(idle);
            return; // Closed, for somebody of another worker, or to somewhere else.
        }
        idle.push_back(Kept { connection, since: now });
        let over = idle.len().saturating_sub(max_idle.max(waiting));
        let over = idle.drain(..over).collect::<Vec<_>>();
        drop(idle);
        drop(over); // Not under the lock.
        if waiting > 0 {
            self.given_back.notify_one();
        }
        self.yield_to_others(); // Who began to wait before it was kept saw none.
    }

    /// A panic cannot leave the queue half written.
    fn lock(&self) -> MutexGuard<'_, VecDeque<Kept>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a request that has no connection gets.
#[derive(Debug)]
pub(super) enum Room {
    /// One that was given back.
    Kept(Lease),
    /// The right to make one.
    New([Taken; 2]),
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("address", self.place.address())
            .field("idle", &self.idle())
            .finish_non_exhaustive()
    }
}

/// A connection in use. It goes back when the response body is complete and the request's body was
/// sent whole; dropped before that, it is closed, because nobody can know where the next response
/// would begin. It is small, as it goes along with the response through all layers.
#[derive(Debug)]
pub struct Lease {
    connection: Option<Box<Connection>>,
    upload: Option<Arc<Upload>>,
    pool: Arc<Pool>,
    /// How many may wait beside it.
    max_idle: usize,
}

impl Lease {
    /// Sends a request over it; if it could not even begin, the error hands the request back.
    pub(super) fn send(
        &mut self,
        request: Request<Body>,
    ) -> impl Future<Output = Result<Response<Incoming>, TrySendError<Request<Body>>>> + use<> {
        let connection = self.connection.as_mut().expect("a lease has its connection until it ends");
        connection.sender.try_send_request(request)
    }

    /// How many bytes have come over it so far.
    pub(super) fn bytes_read(&self) -> u64 {
        self.connection.as_ref().map_or(0, |connection| connection.read.load(Relaxed))
    }

    /// The same, of a request whose body is on its way.
    pub(super) fn with_upload(mut self, upload: Option<Arc<Upload>>) -> Self {
        self.upload = upload;
        self
    }

    pub(super) fn give_back(mut self) {
        let is_sent = self.upload.take().is_none_or(|upload| upload.is_whole());
        if let Some(connection) = self.connection.take().filter(|_| is_sent) {
            self.pool.put(connection, self.max_idle);
        }
    }
}

impl Guard for Lease {
    fn end(self, end: End) {
        if end == End::Complete {
            self.give_back();
        }
    }
}
