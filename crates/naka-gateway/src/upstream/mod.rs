//! The leg to the upstream: one exchange with the endpoint a balancer chose.
//!
//! # What happens
//! 1. A connection that there is takes the request, or a new one is made, within `timeouts.connect`; as long it waits
//!    before that for a [place](Places), if there are as many as there may be. What each protocol has for rules about
//!    its connections stands in a room of its own: `h1`, `h2`.
//! 2. The request is sent. While its body is on its way, `timeouts.idle` runs between two pieces of
//!    it; from its last byte on, `timeouts.response_headers` runs to the response head. Over all of this runs
//!    `timeouts.per_try`, if there is one.
//! 3. The response streams through. The connection is free of it when the body has ended.
//!
//! Every failure becomes a rejection with its reason; nothing here returns an error.

use std::{
    future::Future,
    mem,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{self, Poll},
    time::Duration,
};

use http::{Extensions, HeaderMap, HeaderValue, Request, Response, header::HOST, request::Parts};
use http_body::Body as _;
use naka::{
    attempt::Hurried,
    balance::Endpoint,
    clock::Now,
    context::{Context, Deadline, Upgrade},
    guard::{End, Guard},
    random::seed,
    reject::{Reason, Rejection},
    replay::Repeatable,
    trace::{self, Format, Journal, UnderWay},
};
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep_until, timeout};

mod body;
mod connect;
mod h1;
mod h2;
mod places;
mod pools;
mod slow;
mod switch;

pub use body::{Answered, Body, Idle, LayeredBody, Stalled};
pub use connect::{Connector, MemoryConnect};
pub(crate) use connect::{Place, host_of};
/// The most of a body that comes from an endpoint at once, in bytes.
pub use h1::BUFFER as FRAME;
pub(crate) use h2::{STREAM as H2_STREAM, begin as begin_h2};
use places::Bound;
pub use places::{Places, UpstreamPlaces};
pub use pools::{Pool, Pools};

use crate::{
    config::checked::{Connections, KeepAlive, Name, UpstreamTimeouts},
    deadline::Deadlines,
    observe::UpstreamMetrics,
    upload::Upload,
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
    /// How endpoints are told which trace a request is of.
    pub propagators: Arc<[Format]>,
    /// Where is told what became of each exchange.
    pub metrics: Arc<UpstreamMetrics>,
}

/// A request on its way to an endpoint. It is lent to whoever has something to do with it: an asynchronous function keeps what it
/// is given as long as it runs, and often twice.
#[derive(Debug)]
pub struct Outgoing {
    /// The head.
    pub head: Parts,
    /// The body.
    pub body: Body,
}

impl Outgoing {
    /// The request itself; nothing of it is left here.
    pub fn take(&mut self) -> Request<Body> {
        let (nothing, ()) = Request::new(()).into_parts();
        Request::from_parts(mem::replace(&mut self.head, nothing), mem::take(&mut self.body))
    }
}

impl From<Request<Body>> for Outgoing {
    fn from(request: Request<Body>) -> Self {
        let (head, body) = request.into_parts();
        Self { head, body }
    }
}

impl Client {
    /// One exchange. The request is as the endpoint shall see it; nothing of it is of use afterwards.
    pub async fn exchange(&self, request: &mut Outgoing) -> Response<Body> {
        let (counted, attempt) = (self.metrics.begin(), self.begin(&mut request.head));
        let context = request.head.extensions.get::<Context>();
        let is_hurried = context.is_some_and(|context| context.is_hurried);
        let told = context.and_then(|context| context.told);
        let waits = {
            let began = counted.began().instant();
            let until = self.timeouts.per_try.map(|limit| began + limit);
            Waits { began, is_for_endpoint: AtomicBool::new(false), until, told }
        };
        let response = self.exchanged(request, &waits).await;
        let mut response = response.unwrap_or_else(|| {
            // A bound of ours is nobody's fault.
            let is_theirs = waits.is_for_endpoint.load(Relaxed);
            refuse(if is_theirs { Reason::ResponseTimeout } else { Reason::ConnectionsFull })
        });
        counted.ended(response.status(), response.extensions().get::<Rejection>());
        if is_hurried {
            response.extensions_mut().insert(Hurried);
        }
        if let Some(attempt) = attempt {
            settle(attempt, &mut response);
        }
        response
    }

    /// What comes of it; `None`: it takes too long.
    async fn exchanged(&self, request: &mut Outgoing, waits: &Waits) -> Option<Response<Body>> {
        let Some(Ready { pool, is_upgrade, again, upload }) = self.ready(request) else {
            return Some(refuse(Reason::NoEndpoint));
        };
        match pool {
            Pool::H1(pool) => {
                // Where it is: to move it costs something.
                let exchange = pin!(self.over_h1(pool, request, again, upload, waits));
                EndedBy::new(exchange, waits.until).await
            }
            // In boxes of their own: they are larger, and the other shall not pay for that.
            Pool::H2(pool) if is_upgrade => {
                let exchange = Box::pin(self.connect_over_h2(&pool, request.take(), waits));
                EndedBy::new(exchange, waits.until).await
            }
            Pool::H2(pool) => {
                let exchange = Box::pin(self.over_h2(&pool, request.take(), again, upload, waits));
                EndedBy::new(exchange, waits.until).await
            }
        }
    }

    /// Writes down that the request is sent now, if that is written down, and tells the endpoint in which span.
    fn begin(&self, head: &mut Parts) -> Option<UnderWay> {
        let journal = Journal::of(&head.extensions)?;
        let endpoint = Endpoint::of(&head.extensions)?;
        let attempt = journal.attempt(&self.name, endpoint.address(), Now::read());
        if let Some(context) = attempt.context() {
            trace::add(&context, &mut head.headers, &self.propagators);
        }
        Some(attempt)
    }

    /// What is known of an exchange before it begins; `None`: nobody has chosen an endpoint.
    fn ready(&self, request: &mut Outgoing) -> Option<Ready> {
        let endpoint = Endpoint::of(&request.head.extensions)?;
        let pool = self.pools.pool(endpoint.address());
        let is_upgrade = Upgrade::is_asked(&request.head.extensions);
        let again = if is_upgrade { None } else { Again::of(request) };
        let upload = request.body.watch_upload();
        if !request.head.headers.contains_key(HOST)
            && let Ok(host) = HeaderValue::from_str(host_of(pool.address()))
        {
            request.head.headers.insert(HOST, host); // HTTP/1.0 may come without; what we speak may not.
        }
        Some(Ready { pool, is_upgrade, again, upload })
    }

    /// Says in the head of a request how long its answer is waited for, now that it is sent.
    fn tell_deadline(
        &self,
        headers: &mut HeaderMap,
        deadline: Option<Instant>,
        waits: &Waits,
    ) -> Result<(), Reason> {
        self.deadlines.tell(headers, deadline, waits.told, Now::read)
    }

    /// How many connections there may be: to the endpoint, and in the process.
    fn bounds(&self) -> [Bound; 2] {
        let Connections { max, pending, .. } = self.connections;
        let all = self.all_connections;
        [Bound { max, waiting: pending }, Bound { max: all, waiting: all }]
    }

    /// The answer, or the reason why it took too long: for its head, or for this attempt.
    async fn in_time<T>(
        &self,
        answer: impl Future<Output = T>,
        upload: Option<&Upload>,
        waits: &Waits,
    ) -> Result<T, Reason> {
        let (answer, limit) = (EndedBy::new(answer, waits.until), self.timeouts.response_headers);
        let Some(upload) = upload else {
            let answer = timeout(limit, answer).await.ok().flatten();
            return answer.ok_or(Reason::ResponseTimeout);
        };
        tokio::select! {
            biased;
            answer = answer => answer.ok_or(Reason::ResponseTimeout),
            reason = stalled(upload, self.timeouts.idle, limit) => Err(reason),
        }
    }
}

/// Reads a response over HTTP/1.1 as we do and as hyper does, in pieces of so many bytes; with virtual time.
///
/// # Panics
/// If that comes to two things.
#[cfg(fuzzing)]
pub async fn read_both_ways(bytes: &[u8], piece: usize, asked: &http::Method, closes: bool) {
    h1::agreement::agree(bytes, piece, asked, closes).await;
}

/// Writes down what an attempt has come to; its end is that of the response's body.
fn settle(attempt: UnderWay, response: &mut Response<Body>) {
    if let Some(rejection) = response.extensions().get::<Rejection>() {
        return attempt.failed(rejection.reason, Now::read());
    }
    attempt.answered(response.status(), Now::read());
    response.body_mut().keep(attempt);
}

/// An exchange that may begin.
struct Ready {
    pool: Pool,
    is_upgrade: bool,
    again: Option<Again>,
    upload: Option<Arc<Upload>>,
}

/// What it takes to send a request once more, if twice has the effect of once: when a connection that was kept ends just then.
#[derive(Debug)]
struct Again(Repeatable<Body>);

/// A longer body is sent once, and so is one whose length nobody knows.
pub(crate) const REPEATED: usize = 64 << 10;

impl Again {
    fn of(request: &mut Outgoing) -> Option<Self> {
        let length = request.body.size_hint().exact()?;
        if !request.head.method.is_idempotent() || length > REPEATED as u64 {
            return None;
        }
        let body = mem::take(&mut request.body);
        let (again, first) = Repeatable::of(body, REPEATED, &request.head.extensions);
        request.body = first.into();
        Some(Self(again))
    }

    /// The body once more.
    fn body(&self) -> Option<Body> {
        self.0.copy().map(Body::from)
    }
}

pin_project! {
    /// A future that is over at a time, if there is one: then it comes to nothing. It is there once, and so is what it holds.
    struct EndedBy<F> {
        #[pin]
        future: F,
        end: Option<Pin<Box<Sleep>>>,
    }
}

impl<F> EndedBy<F> {
    fn new(future: F, until: Option<Instant>) -> Self {
        Self { future, end: until.map(|until| Box::pin(sleep_until(until))) }
    }
}

impl<F: Future> Future for EndedBy<F> {
    type Output = Option<F::Output>;

    fn poll(self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Poll::Ready(output) = this.future.poll(cx) {
            return Poll::Ready(Some(output));
        }
        let is_over = this.end.as_mut().is_some_and(|end| end.as_mut().poll(cx).is_ready());
        if is_over { Poll::Ready(None) } else { Poll::Pending }
    }
}

/// What a request waits for, and how long.
#[derive(Debug)]
struct Waits {
    /// Since when.
    began: Instant,
    /// For its endpoint, and not for the right to a connection.
    is_for_endpoint: AtomicBool,
    /// The end of this attempt.
    until: Option<Instant>,
    /// Until when the client says that it waits.
    told: Option<Instant>,
}

impl Waits {
    fn for_endpoint(&self) {
        self.is_for_endpoint.store(true, Relaxed);
    }

    /// Until when an answer to this attempt is of use.
    fn deadline(&self, extensions: &Extensions) -> Option<Instant> {
        Deadline::of(extensions).into_iter().chain(self.until).min()
    }
}

/// What is in use until a response has ended: a stream over HTTP/2, and the attempt that it is of, if that is written down. A
/// connection over HTTP/1.1 is its body's.
#[derive(Debug)]
pub struct InUse {
    lease: Option<Box<h2::Lease>>,
    attempt: Option<UnderWay>,
}

impl Guard for InUse {
    fn end(self, end: End) {
        drop(self.lease); // However it ended: the others on the connection go on.
        if let Some(attempt) = self.attempt {
            attempt.end(end);
        }
    }
}

/// Ready when the upload or the answer to it has stalled.
async fn stalled(upload: &Upload, idle: Option<Duration>, response_headers: Duration) -> Reason {
    while !upload.is_over() {
        let Some(idle) = idle else {
            upload.over().await;
            break;
        };
        let seen = upload.moves();
        let is_over = timeout(idle, upload.over()).await.is_ok();
        if !is_over && upload.moves() == seen {
            let is_client = upload.waits_for_client();
            return if is_client { Reason::RequestTimeout } else { Reason::ResponseTimeout };
        }
    }
    tokio::time::sleep(response_headers).await;
    Reason::ResponseTimeout
}

/// A tenth more or less, by chance: what was made at one time is not closed at one time.
fn jittered(time: Duration) -> Duration {
    let spread = (u128::from(seed()) * 200) >> 64;
    time.mul_f64(0.9 + f64::from(u8::try_from(spread).unwrap_or_default()) / 1000.0)
}

fn refuse(reason: Reason) -> Response<Body> {
    Rejection::new(reason).into_response()
}
