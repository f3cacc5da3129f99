//! One request: entry, match, layers, and the account of it that ends with the response body.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{self, Poll, ready},
};

use crate::{
    entry::{self, Peer, REQUEST_ID},
    generation::{Plan, Served},
    headers::Seen,
    observe::Metrics,
    patience::Progress,
    refusals::{Refusals, Taste},
    route::{Captures, Found, Query, Trace},
    shared::Shared,
    stack::{Route, RouteBody, RouteFuture},
    telemetry::{Ending, Record},
    transform::Matched,
    upstream::{Answered, Body},
};
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode,
    header::{ACCESS_CONTROL_REQUEST_METHOD, ALLOW, CONNECTION, CONTENT_LENGTH, ORIGIN},
    request::Parts,
};
use http_body::Body as _;
use hyper::body::Incoming;
use naka::{
    attempt::StandIn,
    classify::is_grpc,
    clock::Now,
    context::{Context, Deadline},
    guard::{End, Guard, Guarded},
    problem,
    reject::{Reason, Rejection},
};

/// The body of every response the server sends.
pub type ServerBody = Guarded<RouteBody, Account>;

/// A rejection, and what `Allow` must say if only the method was wrong.
pub type NoRoute = Box<(Rejection, Option<HeaderValue>)>;

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
    if let Some(method) = preflight(&parts.method, &parts.headers)
        && let Found::Route { index, captures } = served.table.find(&query(parts, &method), trace)
        && !served.route(index).0.layers.cors.is_off()
    {
        let found = served.route(index);
        note(parts, &found.0, captures);
        return Ok(found);
    }
    let query = query(parts, &parts.method);
    let (index, captures) = match served.table.find(&query, trace) {
        Found::Route { index, captures } => (index, captures),
        Found::MethodNotAllowed { allow } => {
            return Err(Box::new((Reason::MethodNotAllowed.into(), Some(allow))));
        }
        Found::NotFound => return Err(Box::new((Reason::RouteNotFound.into(), None))),
    };
    let found = served.route(index);
    note(parts, &found.0, captures);
    Ok(found)
}

/// What a preflight (the Fetch standard) asks about. It is of the route that would take that method.
pub fn preflight(method: &Method, headers: &HeaderMap) -> Option<Method> {
    let is_options = *method == Method::OPTIONS;
    let asked = is_options.then(|| headers.get(ACCESS_CONTROL_REQUEST_METHOD)).flatten()?;
    headers.get(ORIGIN)?;
    Method::from_bytes(asked.as_bytes()).ok()
}

/// What routes are asked about a request.
pub fn query<'p>(parts: &'p Parts, method: &'p Method) -> Query<'p> {
    Query {
        method,
        host: entry::host(&parts.headers),
        path: parts.uri.path(),
        query: parts.uri.query(),
        headers: &parts.headers,
    }
}

/// Answers one request. What is decided at once is decided before this returns, so that an answer that is waited for holds little:
/// whoever holds it moves it.
pub fn serve(
    served: Arc<Served>,
    peer: &Peer,
    shared: &Arc<Shared>,
    mut account: Account,
    request: Request<Incoming>,
) -> Serving {
    let (mut parts, body) = request.into_parts();
    account.record = served.telemetry.as_ref().map(|it| Record::begin(it, &parts, peer, account.began));
    account.is_head = parts.method == Method::HEAD;
    let seen = Seen::of(&parts.headers);
    account.is_grpc = seen.has(Seen::CONTENT_TYPE) && is_grpc(&parts.headers);
    account.taste = (!account.is_grpc).then(|| served.entry.refusals.taste(&parts.headers));
    if !seen.has(Seen::EXPECT) && !body.is_end_stream() {
        account.progress.keep_unread(); // Asking for what is expected to be asked for would bring it.
    }
    let (body, answered) = Body::client(body, &account.progress);
    let found = match served.entry.admit_seen(&mut parts, seen, peer, account.began) {
        Ok(request_id) => {
            account.request_id = Some(request_id);
            find(&served, &mut parts, &mut ())
        }
        Err(rejection) => Err(Box::new((rejection, None))),
    };
    let (plan, route) = match found {
        Ok(found) => found,
        Err(rejection) => {
            drop(body);
            account.unrouted(&mut parts, served.entry.trusts(peer.source));
            let shared = Arc::clone(shared);
            return Serving::late(async move {
                account.progress.read_what_is_short().await;
                let (rejection, allow) = *rejection;
                refuse(&shared.metrics, &served.entry.refusals, account, &rejection, allow)
            });
        }
    };
    account.plan = Some(Arc::clone(plan));
    if let Some(record) = &mut account.record {
        record.routed(&mut parts, plan, served.entry.trusts(peer.source));
    }
    account.progress.must_end(Deadline::of(&parts.extensions));
    let answer = route.call(Request::from_parts(parts, body));
    Serving(Step::Routed(answer, Some(UnderWay { account, answered, served, shared: Arc::clone(shared) })))
}

/// The future of [`serve`].
pub struct Serving(Step);

enum Step {
    /// The route is at work. The rest is there until it has answered.
    Routed(RouteFuture, Option<UnderWay>),
    /// Something has to be read before the answer; or there is no route.
    Late(Pin<Box<dyn Future<Output = Response<ServerBody>> + Send>>),
}

struct UnderWay {
    account: Account,
    answered: Answered,
    served: Arc<Served>,
    shared: Arc<Shared>,
}

impl Serving {
    /// An answer that does not come from a route.
    pub fn late(answer: impl Future<Output = Response<ServerBody>> + Send + 'static) -> Self {
        Self(Step::Late(Box::pin(answer)))
    }
}

impl Future for Serving {
    type Output = Response<ServerBody>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<Self::Output> {
        loop {
            match &mut self.0 {
                Step::Routed(answer, under_way) => {
                    let Ok(response) = ready!(answer.as_mut().poll(cx));
                    let under_way = under_way.take().expect("it is there until the route has answered");
                    under_way.answered.say();
                    let progress = &under_way.account.progress;
                    let Some(rest) = progress.take_unread() else {
                        return Poll::Ready(under_way.finish(response));
                    };
                    let progress = Arc::clone(progress);
                    *self = Self::late(async move {
                        progress.read_if_short(rest).await;
                        under_way.finish(response)
                    });
                }
                Step::Late(answer) => return answer.as_mut().poll(cx),
            }
        }
    }
}

impl fmt::Debug for Serving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Serving")
    }
}

impl UnderWay {
    fn finish(self, mut response: Response<RouteBody>) -> Response<ServerBody> {
        let Self { account, served, shared, .. } = self;
        if let Some(rejection) = response.extensions().get::<Rejection>() {
            shared.metrics.rejected(account.plan.as_ref().map_or("", |plan| &plan.name), rejection);
            served.entry.refusals.finish(&mut response, account.taste);
        }
        account.attach(response)
    }
}

/// Answers without any route.
pub fn refuse(
    metrics: &Metrics,
    refusals: &Refusals,
    account: Account,
    rejection: &Rejection,
    allow: Option<HeaderValue>,
) -> Response<ServerBody> {
    metrics.rejected("", rejection);
    let mut response: Response<RouteBody> = if account.is_grpc {
        problem::respond_grpc(rejection)
    } else {
        problem::respond_traced(rejection, account.record.as_ref().and_then(|record| record.trace()))
    };
    if let Some(allow) = allow {
        response.headers_mut().insert(ALLOW, allow);
    }
    refusals.finish(&mut response, account.taste);
    account.attach(response)
}

fn note(parts: &mut Parts, plan: &Plan, captures: Captures) {
    if let Some(context) = parts.extensions.get_mut::<Context>() {
        let own = plan.total.and_then(|total| context.now.instant().checked_add(total));
        context.is_hurried = context.deadline.is_some_and(|told| own.is_none_or(|own| told < own));
        context.deadline = own.into_iter().chain(context.deadline).min();
    }
    if plan.needs_match || !captures.is_empty() {
        parts.extensions.insert(Matched { route: Arc::clone(&plan.name), captures });
    }
}

/// The account of one request: kept by the response body, and closed when that ends.
#[derive(Debug)]
pub struct Account {
    began: Now,
    is_head: bool,
    is_grpc: bool,
    /// How the client likes to hear of refusals; not if by gRPC.
    taste: Option<Taste>,
    status: StatusCode,
    /// There is an answer, and that is its status.
    is_answered: bool,
    request_id: Option<HeaderValue>,
    plan: Option<Arc<Plan>>,
    /// What is told about it at its end, if anything is.
    record: Option<Box<Record>>,
    /// When it was told what has come of it, if that was its end.
    closed: Option<Now>,
    /// Of the connection: its idle clock stands still while a request is under way.
    progress: Arc<Progress>,
}

impl Account {
    /// A request whose head has just been read.
    pub fn open(progress: &Arc<Progress>) -> Self {
        progress.begin();
        let progress = Arc::clone(progress);
        Self {
            began: Now::read(),
            is_head: false,
            is_grpc: false,
            taste: None,
            status: StatusCode::OK,
            is_answered: false,
            request_id: None,
            plan: None,
            record: None,
            closed: None,
            progress,
        }
    }

    /// No route takes it.
    fn unrouted(&mut self, parts: &mut Parts, is_trusted: bool) {
        if let Some(record) = &mut self.record {
            record.unrouted(parts, is_trusted);
        }
    }

    fn attach(mut self, mut response: Response<RouteBody>) -> Response<ServerBody> {
        self.status = response.status();
        if self.is_grpc
            && let Some(rejection) = response.extensions().get::<Rejection>()
        {
            self.status = rejection.reason.status(); // It says 200 of every answer.
        }
        if let Some(record) = &mut self.record {
            if let Some(rejection) = response.extensions().get::<Rejection>() {
                record.refused(rejection);
            }
            if let Some(stand_in) = response.extensions().get::<StandIn>() {
                record.note("fell_back", stand_in.reason.map(Reason::word));
            }
        }
        self.is_answered = true;
        if self.status == StatusCode::SWITCHING_PROTOCOLS {
            self.close(End::Complete); // How long a tunnel lasts says nothing of how fast it was answered.
            self.closed = None;
        }
        if let Some(id) = &self.request_id {
            response.headers_mut().insert(REQUEST_ID, id.clone());
        }
        let is_ours = response.extensions().get::<Rejection>().is_some();
        if self.progress.has_unread() || is_ours && self.progress.is_receiving() {
            // What is left of the upload cannot be told from a next request, so there is none.
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        if self.is_head || matches!(self.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
            self.leave_body_out(&mut response);
        }
        response.map(|body| Guarded::new(body, Some(self)))
    }

    /// There is none to send: asked for it, the server would drop it unread, as if the client had gone.
    fn leave_body_out(&self, response: &mut Response<RouteBody>) {
        let body = std::mem::take(response.body_mut());
        if let Some(length) = body.size_hint().exact().filter(|_| self.is_head && !body.is_end_stream()) {
            response.headers_mut().entry(CONTENT_LENGTH).or_insert(HeaderValue::from(length));
        }
        if self.status == StatusCode::NO_CONTENT {
            response.headers_mut().remove(CONTENT_LENGTH);
        }
    }

    /// Tells what has come of it, once.
    fn close(&mut self, end: End) {
        let (plan, record) = (self.plan.take(), self.record.take());
        if plan.is_none() && record.is_none() {
            return;
        }
        let now = Now::read();
        let took = now.instant().saturating_duration_since(self.began.instant());
        if let Some(plan) = &plan {
            // Of what is not recorded nobody finds anything.
            let exemplar = record.as_ref().filter(|record| record.is_sampled()).and_then(|it| it.trace());
            plan.metrics.ended(self.status, end == End::Complete, took, exemplar);
        }
        if let Some(record) = record {
            let status = self.is_answered.then_some(self.status);
            let request_id = self.request_id.as_ref();
            record.end(Ending { plan: plan.as_deref(), status, end, took, request_id });
        }
        self.closed = Some(now);
    }
}

impl Guard for Account {
    fn data(&mut self, bytes: usize) {
        if let Some(record) = &mut self.record {
            record.sent(bytes as u64);
        }
    }

    fn end(mut self, end: End) {
        self.close(end);
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.close(End::Dropped); // Dropped without an end: the client went away before the head.
        self.progress.end(self.closed.unwrap_or_else(Now::read).instant());
    }
}
