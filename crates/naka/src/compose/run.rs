//! One composition: its calls are futures within one, so whoever drops that drops all of them.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri,
    header::{
        ACCEPT, ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, RETRY_AFTER, VARY,
        WWW_AUTHENTICATE,
    },
    request::Parts,
};
use http_body::Body;
use tokio::time::timeout;
use tower_service::Service;

use super::{
    Called, Given, PARTIAL,
    freshness::Freshness,
    json::{self, Not},
    plan::{Call, ERRORS, Otherwise, Plan, Source},
    schedule::Schedule,
    shape::Values,
    template::Unfit,
};
use crate::{
    attempt::Tried,
    buffered::{Buffering, Collect, CollectError, Share},
    context::{Context, Upgrade},
    held::Part,
    observe::Observer,
    reject::{Head, Reason, Rejection},
    trace,
};

/// Values that one text of an answer may gather; one with more is left out.
const TEXTS: usize = 1000;

/// What came of a call.
#[derive(Clone)]
enum Came {
    Answered(Arc<Answered>),
    Failed(Arc<Failure>),
}

/// An answer that can be used.
struct Answered {
    status: StatusCode,
    /// JSON, that was read to its end.
    text: Bytes,
    freshness: Freshness,
    /// What it takes of what may be held.
    _share: Option<Share>,
}

/// Why a call has none.
#[derive(Debug)]
struct Failure {
    /// As the client hears of it, if the call is required.
    rejection: Rejection,
}

impl Failure {
    fn new(reason: Reason, detail: impl AsRef<str>) -> Arc<Self> {
        Arc::new(Self { rejection: Rejection::new(reason).detail(detail.as_ref()) })
    }

    fn detail(&self) -> &str {
        let Rejection { detail, reason, .. } = &self.rejection;
        detail.as_deref().unwrap_or(reason.sentence())
    }
}

/// Calls that ask for the same.
type Same = (Arc<str>, Method, String, Duration);

/// A call under way; dropped before its end it was given up.
struct UnderWay<'r, O: Observer> {
    call: usize,
    future: Pin<Box<dyn Future<Output = Came> + Send + 'r>>,
    observer: &'r O,
    is_over: bool,
}

impl<O: Observer> Drop for UnderWay<'_, O> {
    fn drop(&mut self) {
        if !self.is_over {
            self.observer.called(self.call, Called::Cancelled);
        }
    }
}

/// All of one composition.
pub(super) struct Run<'r, O> {
    pub(super) plan: &'r Plan,
    pub(super) observer: &'r O,
    pub(super) parts: &'r Parts,
    pub(super) given: &'r Given,
}

impl<'r, O: Observer> Run<'r, O> {
    pub(super) async fn answer<S, B, R>(self, services: &'r [S]) -> Response<R>
    where
        S: Service<Request<B>, Response = Response<R>> + Clone + Send + Sync,
        S::Future: Send,
        B: Default + Send,
        R: Body<Data = Bytes> + From<Bytes> + Default + Send,
    {
        let Self { plan, observer, parts, given } = self;
        let head = Head::from(parts);
        let given = plan.given().iter().map(|name| given(&head, name)).collect::<Vec<_>>();
        let count = plan.calls().len();
        let mut known = Known { plan, given, came: vec![None; count] };
        let buffering = Arc::new(Buffering::default());
        let mut schedule = Schedule::new(plan.all_needs(), plan.config().max_in_flight);
        let mut under_way: Vec<UnderWay<'_, O>> = Vec::new();
        let mut asked: Vec<(Same, usize)> = Vec::new();
        let mut along: Vec<(usize, usize)> = Vec::new();
        let mut ended: Vec<(usize, Came, Called)> = Vec::new();
        loop {
            while ended.is_empty()
                && let Some(call) = schedule.begin()
            {
                let target = match known.target(call) {
                    Ok(Asking::Target(target)) => target,
                    Ok(Asking::Nobody) => {
                        ended.push((call, Came::Answered(Arc::new(known.nothing(call))), Called::Shared));
                        break;
                    }
                    Err(failure) => {
                        ended.push((call, Came::Failed(failure), Called::NotMade));
                        break;
                    }
                };
                let is = &plan.calls()[call];
                let same = (Arc::clone(&is.service), is.method.clone(), target, is.timeout);
                if let Some((_, leader)) = asked.iter().find(|(known, _)| *known == same) {
                    if let Some(came) = &known.came[*leader] {
                        ended.push((call, came.clone(), Called::Shared));
                    } else {
                        along.push((call, *leader));
                        schedule.goes_along(call);
                    }
                    continue;
                }
                let share = buffering.share(usize::MAX).held(Part::of(&parts.extensions));
                let future = ask(plan, is, services[call].clone(), request(plan, is, &same.2, parts), share);
                asked.push((same, call));
                under_way.push(UnderWay { call, future: Box::pin(future), observer, is_over: false });
            }
            if ended.is_empty() {
                if under_way.is_empty() {
                    break;
                }
                let (place, came) = next(&mut under_way).await;
                let mut one = under_way.swap_remove(place);
                one.is_over = true;
                let call = one.call;
                drop(one);
                let called = |came: &Came| match came {
                    Came::Answered(_) => Called::Answered,
                    Came::Failed(failure) => Called::Failed(failure.rejection.reason),
                };
                ended.push((call, came.clone(), called(&came)));
                let others = along.extract_if(.., |(_, leader)| *leader == call);
                ended.extend(others.map(|(call, _)| (call, came.clone(), Called::Shared)));
            }
            for (call, came, called) in ended.drain(..) {
                schedule.end(call);
                observer.called(call, called);
                let is = &plan.calls()[call];
                if let Came::Failed(failure) = &came {
                    let why = failure.rejection.reason.word();
                    trace::note(&parts.extensions, "call_failed", Some(&is.name), Some(why));
                    if is.is_required() {
                        return refused(is, failure);
                    }
                }
                known.came[call] = Some(came);
            }
        }
        drop(under_way);
        known.answer(parts)
    }
}

/// The next that is over.
async fn next<O: Observer>(under_way: &mut [UnderWay<'_, O>]) -> (usize, Came) {
    poll_fn(|cx| {
        for (place, call) in under_way.iter_mut().enumerate() {
            if let Poll::Ready(came) = call.future.as_mut().poll(cx) {
                return Poll::Ready((place, came));
            }
        }
        Poll::Pending
    })
    .await
}

/// A required call has failed: so has all of it.
fn refused<R: Default>(call: &Call, failure: &Failure) -> Response<R> {
    let detail = format!("The answer needs `{}`, which failed: {}", call.name, failure.detail());
    let mut rejection = failure.rejection.clone().detail(&detail).of_call(&call.name);
    rejection.is_rendered = false;
    rejection.into_response()
}

/// What a call's service is sent: nothing of the client's request but what the plan says, and what layers know of it.
pub(super) fn request<B: Default>(plan: &Plan, call: &Call, target: &str, parts: &Parts) -> Request<B> {
    let mut request = Request::new(B::default());
    *request.method_mut() = call.method.clone();
    *request.uri_mut() = Uri::try_from(target).unwrap_or_default(); // A template makes no other.
    *request.extensions_mut() = parts.extensions.clone();
    if let Some(context) = request.extensions_mut().get_mut::<Context>() {
        // Each call is tried, and counted, for itself.
        (context.tried, context.endpoint, context.counted, context.is_upgrade) = (None, None, None, false);
    }
    request.extensions_mut().remove::<Tried>();
    request.extensions_mut().remove::<Upgrade>();
    let headers = request.headers_mut();
    for name in &plan.config().headers {
        for value in parts.headers.get_all(name) {
            headers.append(name, value.clone());
        }
    }
    headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    request
}

async fn ask<S, B, R>(plan: &Plan, call: &Call, service: S, request: Request<B>, share: Share) -> Came
where
    S: Service<Request<B>, Response = Response<R>>,
    R: Body<Data = Bytes>,
{
    let exchange = pin!(exchange(plan, call, service, request, share));
    match timeout(call.timeout, exchange).await {
        Ok(Ok(answered)) => Came::Answered(Arc::new(answered)),
        Ok(Err(failure)) => Came::Failed(failure),
        Err(_) => {
            let detail = format!("Its whole answer was not there after {:?}.", call.timeout);
            Came::Failed(Failure::new(Reason::PartTimeout, detail))
        }
    }
}

async fn exchange<S, B, R>(
    plan: &Plan,
    call: &Call,
    mut service: S,
    request: Request<B>,
    share: Share,
) -> Result<Answered, Arc<Failure>>
where
    S: Service<Request<B>, Response = Response<R>>,
    R: Body<Data = Bytes>,
{
    const UNASKED: &str = "It could not be asked.";
    let bad = |detail: &str| Failure::new(Reason::PartFailed(StatusCode::BAD_GATEWAY), detail);
    poll_fn(|cx| service.poll_ready(cx)).await.map_err(|_| bad(UNASKED))?;
    let response = service.call(request).await.map_err(|_| bad(UNASKED))?;
    if let Some(rejection) = response.extensions().get::<Rejection>() {
        // Its own reason, and nothing of what it would say in headers or has in its body.
        let mut rejection = rejection.clone();
        (rejection.headers, rejection.is_rendered) = (None, false);
        return Err(Arc::new(Failure { rejection }));
    }
    let status = response.status();
    if !status.is_success() || status == StatusCode::PARTIAL_CONTENT {
        return Err(answered_badly(status, response.headers()));
    }
    let config = plan.config();
    let freshness = Freshness::of(response.headers(), &config.headers, &config.vary);
    if call.method != Method::GET || status == StatusCode::NO_CONTENT {
        let text = Bytes::from_static(b"null");
        return Ok(Answered { status, text, freshness, _share: None });
    }
    let not_json = |detail: &str| Failure::new(Reason::PartNotJson, detail);
    if response.headers().get(CONTENT_ENCODING).is_some_and(|coding| coding != "identity") {
        return Err(not_json("Its answer has a coding, and was asked for without any."));
    }
    if !is_json(response.headers()) {
        return Err(not_json("Its answer does not say that it is JSON."));
    }
    let body = Collect::new(response.into_body(), config.max_part).with_share(share);
    let collected = body.await.map_err(|error| match error {
        CollectError::TooLarge => {
            Failure::new(Reason::PartTooLarge, format!("Its answer has more than {} bytes.", config.max_part))
        }
        CollectError::NoRoom => Failure::new(Reason::BuffersFull, Reason::BuffersFull.sentence()),
        CollectError::Failed(_) => bad("Its answer broke off."),
    })?;
    let Some(text) = json::read(&collected.data) else {
        return Err(not_json("Its answer is no JSON, or too deep."));
    };
    let text = collected.data.slice_ref(text.as_bytes());
    Ok(Answered { status, text, freshness, _share: collected.share })
}

/// What a client can do something about keeps its status; all else is between us and whoever was asked.
fn answered_badly(status: StatusCode, headers: &HeaderMap) -> Arc<Failure> {
    let is_of_client =
        matches!(status.as_u16(), 400 | 401..=404 | 409 | 410 | 412 | 422..=424 | 428 | 429 | 451);
    let mapped = match status {
        status if is_of_client => status,
        StatusCode::GATEWAY_TIMEOUT => StatusCode::GATEWAY_TIMEOUT,
        _ => StatusCode::BAD_GATEWAY,
    };
    let mut rejection = Rejection::new(Reason::PartFailed(mapped))
        .detail(&format!("It was answered with {}.", status.as_u16()));
    if status == StatusCode::UNAUTHORIZED {
        // RFC 9110, section 15.5.2: with every 401 is said what would be asked for.
        let mut challenges = HeaderMap::new();
        for challenge in headers.get_all(WWW_AUTHENTICATE) {
            challenges.append(WWW_AUTHENTICATE, challenge.clone());
        }
        if challenges.is_empty() {
            rejection = rejection.challenge("Bearer");
        } else {
            rejection = rejection.headers(challenges);
        }
    }
    let seconds = headers.get(RETRY_AFTER).and_then(|wait| wait.to_str().ok()?.trim().parse::<u32>().ok());
    if let Some(seconds) = seconds.filter(|_| status == StatusCode::TOO_MANY_REQUESTS) {
        rejection = rejection.retry_after(Duration::from_secs(seconds.into()));
    }
    Arc::new(Failure { rejection })
}

/// `application/json`, or a type that is written in it (RFC 6839, section 3.1).
fn is_json(headers: &HeaderMap) -> bool {
    let mut said = headers.get_all(CONTENT_TYPE).iter();
    let (Some(said), None) = (said.next(), said.next()) else { return false };
    let Ok(said) = said.to_str() else { return false };
    let kind = said.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    kind == "application/json" || kind.split_once('/').is_some_and(|(_, sub)| sub.ends_with("+json"))
}

/// What is known so far.
struct Known<'r> {
    plan: &'r Plan,
    given: Vec<Option<Vec<u8>>>,
    came: Vec<Option<Came>>,
}

/// Whom a call asks.
enum Asking {
    Target(String),
    /// A batch of nothing: nobody has to be asked.
    Nobody,
}

/// Why a value could not be written.
enum Lacks {
    Failed(Arc<Failure>),
    Nobody,
}

impl Known<'_> {
    /// What a call asks for; or why it cannot be made.
    fn target(&self, call: usize) -> Result<Asking, Arc<Failure>> {
        let is = &self.plan.calls()[call];
        for need in self.plan.all_needs()[call].iter().copied() {
            let is_default = matches!(self.plan.calls()[need].otherwise, Otherwise::Default(_));
            if let Some(Came::Failed(failure)) = &self.came[need]
                && !is_default
            {
                let name = &self.plan.calls()[need].name;
                let reason = Reason::PartNotMade(failure.rejection.reason.status());
                return Err(Failure::new(reason, format!("It needs `{name}`, which failed.")));
            }
        }
        let value = |name: &Arc<str>| {
            let source = self.plan.source_of(call, name);
            let values = source.map_or(Err(Not::There), |source| self.values(source, is.max_values));
            match values {
                Ok(values) if values.is_empty() => Err(Lacks::Nobody),
                Ok(values) => Ok(values),
                Err(not) => Err(Lacks::Failed(unusable(source, name, not, is.max_values))),
            }
        };
        match is.target.target(value) {
            Ok(Ok(target)) => Ok(Asking::Target(target)),
            Ok(Err(Unfit::Value(name))) => {
                let is_given = matches!(self.plan.source_of(call, &name), Some(Source::Given(_)));
                let status = if is_given { StatusCode::BAD_REQUEST } else { StatusCode::BAD_GATEWAY };
                let detail = format!("`{{{name}}}` is empty, or would lead to another path.");
                Err(Failure::new(Reason::ValueRefused(status), detail))
            }
            Ok(Err(Unfit::TooLong)) => {
                let (reason, detail) =
                    (Reason::ValueRefused(StatusCode::BAD_GATEWAY), "Its target is too long.");
                Err(Failure::new(reason, detail))
            }
            Err(Lacks::Nobody) => Ok(Asking::Nobody),
            Err(Lacks::Failed(failure)) => Err(failure),
        }
    }

    /// The texts that a value stands for, each once.
    fn values(&self, source: &Source, max: usize) -> Result<Vec<Vec<u8>>, Not> {
        match source {
            Source::Given(place) => Ok(vec![self.given[*place].clone().ok_or(Not::There)?]),
            Source::Status(call) => match &self.came[*call] {
                Some(Came::Answered(answered)) => Ok(vec![answered.status.as_str().into()]),
                _ => Err(Not::There),
            },
            Source::Body(call, steps) => {
                let mut values = Vec::<Vec<u8>>::new();
                json::find(self.text(*call).ok_or(Not::There)?, steps, &mut |text| {
                    let value = json::scalar(text)?;
                    if !values.contains(&value) {
                        if values.len() == max {
                            return Err(Not::Few);
                        }
                        values.push(value);
                    }
                    Ok(())
                })?;
                Ok(values)
            }
        }
    }

    /// A batch of nothing was asked for.
    fn nothing(&self, call: usize) -> Answered {
        let text = match &self.plan.calls()[call].otherwise {
            Otherwise::Default(text) => Bytes::copy_from_slice(text.as_bytes()),
            _ => Bytes::from_static(b"[]"),
        };
        Answered { status: StatusCode::OK, text, freshness: Freshness::Unsaid, _share: None }
    }

    /// The body of a call, or what stands for it.
    fn text(&self, call: usize) -> Option<&str> {
        match (self.came[call].as_ref()?, &self.plan.calls()[call].otherwise) {
            (Came::Answered(answered), _) => std::str::from_utf8(&answered.text).ok(),
            (Came::Failed(_), Otherwise::Default(text)) => Some(text),
            (Came::Failed(_), _) => None,
        }
    }

    /// The answer, of all that came.
    fn answer<R: From<Bytes> + Default>(&self, parts: &Parts) -> Response<R> {
        let max = self.plan.config().max_body;
        let mut text = Vec::new();
        let failed = self.came.iter().enumerate().filter_map(|(call, came)| match came {
            Some(Came::Failed(failure)) => Some((&*self.plan.calls()[call].name, failure)),
            _ => None,
        });
        let failed = failed.collect::<Vec<_>>();
        let is_written = self.plan.body().write(self, max, &mut text);
        write_errors(&failed, &mut text);
        if is_written.is_err() || text.len() > max {
            let detail = format!("The answer would have more than {max} bytes.");
            return Rejection::new(Reason::ResponseTooLarge).detail(&detail).into_response();
        }
        let mut held = Part::of(&parts.extensions);
        if !held.grow(text.len()) {
            return Rejection::new(Reason::BuffersFull).into_response();
        }
        let mut response = Response::new(R::from(Bytes::from_owner(Whole { text, _held: held })));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        for name in &self.plan.config().vary {
            headers.append(VARY, HeaderValue::from(name.clone()));
        }
        let freshness = self.came.iter().fold(Freshness::Unsaid, |all, came| match came {
            Some(Came::Answered(answered)) => all.and(answered.freshness),
            _ => Freshness::Never,
        });
        if let Some(said) = freshness.header() {
            headers.insert(CACHE_CONTROL, said);
        }
        let names = failed.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
        if let Some(names) = HeaderValue::try_from(names).ok().filter(|_| !failed.is_empty()) {
            headers.insert(PARTIAL, names);
        }
        response
    }
}

/// Why a call cannot be made with such a value: the client's fault, or that of whoever said it.
fn unusable(source: Option<&Source>, name: &str, not: Not, max: usize) -> Arc<Failure> {
    let is_given = matches!(source, Some(Source::Given(_)) | None);
    let status = if is_given { StatusCode::BAD_REQUEST } else { StatusCode::BAD_GATEWAY };
    match not {
        Not::There if is_given => {
            Failure::new(Reason::ValueMissing(status), format!("The request has no `{{{name}}}`."))
        }
        Not::There => Failure::new(Reason::ValueMissing(status), format!("There is no `{{{name}}}`.")),
        Not::Fit => {
            Failure::new(Reason::ValueRefused(status), format!("`{{{name}}}` is no text, number or boolean."))
        }
        Not::Few => {
            Failure::new(Reason::ValueRefused(status), format!("`{{{name}}}` has more than {max} values."))
        }
    }
}

impl Values for Known<'_> {
    fn json(&self, source: &Source, into: &mut Vec<u8>) -> bool {
        match source {
            Source::Given(place) => {
                let Some(value) = &self.given[*place] else { return false };
                json::quote(&String::from_utf8_lossy(value), into);
                true
            }
            Source::Status(call) => match &self.came[*call] {
                Some(Came::Answered(answered)) => {
                    into.extend_from_slice(answered.status.as_str().as_bytes());
                    true
                }
                _ => false,
            },
            Source::Body(call, steps) => {
                let Some(text) = self.text(*call) else { return false };
                let is_list = steps.contains(&json::Step::Each);
                let begin = into.len();
                if is_list {
                    into.push(b'[');
                }
                let found = json::find(text, steps, &mut |text| {
                    if into.len() > begin + 1 {
                        into.push(b',');
                    }
                    into.extend_from_slice(text.as_bytes());
                    Ok(())
                });
                if is_list {
                    into.push(b']');
                }
                found.is_ok()
            }
        }
    }

    fn texts(&self, source: &Source) -> Option<Vec<Vec<u8>>> {
        self.values(source, TEXTS).ok()
    }
}

/// Adds to an object what failed, if anything did.
fn write_errors(failed: &[(&str, &Arc<Failure>)], text: &mut Vec<u8>) {
    if failed.is_empty() {
        return;
    }
    text.truncate(text.len().saturating_sub(1)); // `}`.
    if text.len() > 1 {
        text.push(b',');
    }
    json::quote(ERRORS, text);
    text.extend_from_slice(b":[");
    for (place, (name, failure)) in failed.iter().enumerate() {
        if place > 0 {
            text.push(b',');
        }
        let reason = failure.rejection.reason;
        text.extend_from_slice(b"{\"call\":");
        json::quote(name, text);
        text.extend_from_slice(format!(",\"status\":{},\"reason\":", reason.status().as_u16()).as_bytes());
        json::quote(reason.word(), text);
        text.extend_from_slice(b",\"detail\":");
        json::quote(failure.detail(), text);
        text.push(b'}');
    }
    text.extend_from_slice(b"]}");
}

/// The answer, and what it takes of what may be held.
struct Whole {
    text: Vec<u8>,
    _held: Part,
}

impl AsRef<[u8]> for Whole {
    fn as_ref(&self) -> &[u8] {
        &self.text
    }
}
