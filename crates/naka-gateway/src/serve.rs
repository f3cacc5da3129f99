//! One request: entry, match, layers, and the account of it that ends with the response body.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use http::{HeaderValue, Request, Response, StatusCode, header::ALLOW, request::Parts};
use hyper::body::Incoming;
use naka::{
    clock::Now,
    guard::{End, Guard, Guarded},
    problem,
    reject::{Reason, Rejection},
};
use tokio::time::Instant;

use crate::{
    entry::{self, Peer, REQUEST_ID},
    generation::{Plan, Served},
    observe::Metrics,
    route::{Captures, Found, Query, Trace},
    stack::{Route, RouteBody},
    transform::Matched,
    upstream::Body,
};

/// The body of every response the server sends.
pub type ServerBody = Guarded<RouteBody, Account>;

/// A rejection, and what `Allow` must say if only the method was wrong.
pub type NoRoute = (Rejection, Option<HeaderValue>);

/// Finds the route of an admitted request, and notes what it learned. The data path and `explain`
/// both come through here.
///
/// # Errors
/// If no route takes it.
pub fn find<'a, T: Trace>(
    served: &'a Served,
    parts: &mut Parts,
    trace: &mut T,
) -> Result<&'a (Arc<Plan>, Route), NoRoute> {
    let query = Query {
        method: &parts.method,
        host: entry::host(&parts.headers),
        path: parts.uri.path(),
        query: parts.uri.query(),
        headers: &parts.headers,
    };
    let (index, captures) = match served.table.find(&query, trace) {
        Found::Route { index, captures } => (index, captures),
        Found::MethodNotAllowed { allow } => {
            return Err((Reason::MethodNotAllowed.into(), Some(allow)));
        }
        Found::NotFound => return Err((Reason::RouteNotFound.into(), None)),
    };
    let found = &served.routes[index];
    note(parts, &found.0, captures);
    Ok(found)
}

/// Answers one request.
pub async fn serve(
    served: Arc<Served>,
    peer: &Peer,
    metrics: &Metrics,
    mut account: Account,
    request: Request<Incoming>,
) -> Response<ServerBody> {
    let (mut parts, body) = request.into_parts();
    if let Err(rejection) = served.entry.admit(&mut parts, peer, account.began) {
        return refuse(metrics, account, &rejection, None);
    }
    account.request_id = parts.headers.get(&REQUEST_ID).cloned();
    let (plan, route) = match find(&served, &mut parts, &mut ()) {
        Ok(found) => found,
        Err(rejection) => return refuse(metrics, account, &rejection.0, rejection.1),
    };
    account.plan = Some(Arc::clone(plan));
    account.busy.until(plan.total.and_then(|total| account.began.instant().checked_add(total)));
    let Ok(response) = route.call(Request::from_parts(parts, Body::client(body))).await;
    if let Some(rejection) = response.extensions().get::<Rejection>() {
        metrics.rejected(&plan.name, rejection);
    }
    account.attach(response)
}

/// Answers without any route.
pub fn refuse(
    metrics: &Metrics,
    account: Account,
    rejection: &Rejection,
    allow: Option<HeaderValue>,
) -> Response<ServerBody> {
    metrics.rejected("", rejection);
    let mut response: Response<RouteBody> = problem::respond(rejection);
    if let Some(allow) = allow {
        response.headers_mut().insert(ALLOW, allow);
    }
    account.attach(response)
}

fn note(parts: &mut Parts, plan: &Plan, captures: Captures) {
    if plan.needs_match || !captures.is_empty() {
        parts.extensions.insert(Matched { route: Arc::clone(&plan.name), captures });
    }
}

/// The account of one request: kept by the response body, and closed when that ends.
#[derive(Debug)]
pub struct Account {
    began: Now,
    status: StatusCode,
    request_id: Option<HeaderValue>,
    plan: Option<Arc<Plan>>,
    /// Requests of this connection that are under way: its idle clock stands still meanwhile.
    busy: Busy,
}

impl Account {
    /// A request whose head has just been read.
    pub fn open(busy: &Busy) -> Self {
        busy.begin();
        Self { began: Now::read(), status: StatusCode::OK, request_id: None, plan: None, busy: busy.clone() }
    }

    fn attach(mut self, mut response: Response<RouteBody>) -> Response<ServerBody> {
        self.status = response.status();
        if let Some(id) = self.request_id.take() {
            response.headers_mut().insert(REQUEST_ID, id);
        }
        response.map(|body| Guarded::new(body, Some(self)))
    }

    fn close(&self, is_complete: bool) {
        if let Some(plan) = &self.plan {
            plan.metrics.ended(self.status, is_complete, self.began.elapsed());
        }
    }
}

impl Guard for Account {
    fn end(mut self, end: End) {
        self.close(end == End::Complete);
        self.plan = None; // Told.
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.close(false); // Dropped without an end: the client went away before the head.
        self.busy.end();
    }
}

/// What the connection needs to know of its requests: how many are under way, how many there have
/// been, and when the one under way has to be over.
#[derive(Clone, Debug, Default)]
pub struct Busy(Arc<Progress>);

#[derive(Debug, Default)]
struct Progress {
    /// The number of requests so far, and below it the number of those under way.
    counts: AtomicU64,
    end: Mutex<Option<Instant>>,
}

impl Busy {
    const ONE: u64 = 1 << 32 | 1;

    fn begin(&self) {
        self.until(None);
        self.0.counts.fetch_add(Self::ONE, Relaxed); // Relaxed: one task reads and writes it.
    }

    fn end(&self) {
        self.0.counts.fetch_sub(1, Relaxed);
    }

    fn until(&self, end: Option<Instant>) {
        *self.0.end.lock().unwrap_or_else(PoisonError::into_inner) = end;
    }

    /// Whether none is under way; and a number that changes with each new one.
    pub fn look(&self) -> (bool, u64) {
        let word = self.0.counts.load(Relaxed);
        (word.trailing_zeros() >= 32, word >> 32)
    }

    /// When the last request has to be over, its response read by the client included.
    pub fn must_end(&self) -> Option<Instant> {
        *self.0.end.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
