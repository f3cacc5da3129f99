//! What becomes of a request: it is looked up, sent on, or waits for somebody else's; and what becomes of the answer.

use std::{
    fmt,
    future::Future,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode,
    header::{
        AGE, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, IF_MODIFIED_SINCE,
        IF_NONE_MATCH, TRANSFER_ENCODING, VARY,
    },
};
use http_body::Body;
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower_service::Service;

use super::{
    CACHE_STATUS, CacheLayer, KNOWN, Shared, asked,
    body::{CacheBody, Recorder},
    not_cached,
    rules::{self, Asked, has_validator, is_one_tag},
    store::{Entry, Flight, Found},
};
use crate::{
    attempt::StandIn,
    buffered::{Buffered, Collected},
    clock::Now,
    headers::without_connection,
    layered::layered,
    observe::Observer,
    reject::{Head, Rejection},
    trace::{Journal, note},
};

layered! {
    /// Answers with what is kept; see the [module docs](super).
    CacheLayer { shared } => Cache
}

impl<S, O, B, R> Service<Request<B>> for Cache<S, O>
where
    S: Service<Request<B>, Response = Response<R>> + Clone,
    O: Observer,
    R: Body<Data = Bytes> + Default,
{
    type Response = Response<CacheBody<R>>;
    type Error = S::Error;
    type Future = CacheFuture<S, S::Future, B, O>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let Some(shared) = &self.layer.shared else {
            return CacheFuture { state: State::Pass { future: self.inner.call(request), changes: None } };
        };
        let Ok(asked) = asked(&Head::from(&request)) else {
            // What changes something is told when it has (RFC 9111, section 4.4).
            let target = (!request.method().is_safe()).then(|| shared.both(&Head::from(&request))).flatten();
            let changes = target.map(|target| (Arc::clone(shared), target));
            return CacheFuture { state: State::Pass { future: self.inner.call(request), changes } };
        };
        let Some(key) = shared.key(&Head::from(&request)) else {
            return CacheFuture { state: State::Pass { future: self.inner.call(request), changes: None } };
        };
        let clone = self.inner.clone();
        let inner = mem::replace(&mut self.inner, clone);
        let asking = Asking { shared: Arc::clone(shared), asked, key: key.into(), request, inner };
        let coalesces = !shared.config.coalesce.is_zero() && asking.request.method() == Method::GET;
        CacheFuture { state: asking.go_on(coalesces, (false, None)) }
    }
}

pin_project! {
    /// The future of [`Cache`].
    pub struct CacheFuture<S, F, B, O = ()> {
        #[pin]
        state: State<S, F, B, O>,
    }
}

pin_project! {
    #[project = Projection]
    enum State<S, F, B, O> {
        /// Not looked up.
        Pass { #[pin] future: F, changes: Option<(Arc<Shared<O>>, String)> },
        /// Somebody else is on the way to get it.
        Wait { waiting: Waiting, asking: Option<Asking<S, B, O>> },
        /// On its way.
        Work { #[pin] future: F, work: Option<Work<O>> },
        /// It is known what to answer.
        Answer { answer: Option<Answer> },
    }
}

/// Until when it may be waited for another, if the one that was waited for has given up.
type Waiting = Pin<Box<dyn Future<Output = Option<Instant>> + Send>>;

/// A request that is looked up.
struct Asking<S, B, O> {
    shared: Arc<Shared<O>>,
    asked: Asked,
    key: Arc<str>,
    request: Request<B>,
    inner: S,
}

/// An answer of ours.
enum Answer {
    Kept { entry: Arc<Entry>, client: Client, how: String },
    Refused(Rejection),
}

/// What an answer has to know of a request.
struct Client {
    is_head: bool,
    conditions: HeaderMap,
}

impl Client {
    fn of<B>(request: &Request<B>) -> Self {
        let mut conditions = HeaderMap::new();
        for name in [IF_NONE_MATCH, IF_MODIFIED_SINCE] {
            for value in request.headers().get_all(&name) {
                conditions.append(&name, value.clone());
            }
        }
        Self { is_head: request.method() == Method::HEAD, conditions }
    }
}

impl<S, B, O: Observer> Asking<S, B, O> {
    /// Looks, and goes on with what is found. `until` is as long as it waits for others, if it has waited.
    fn go_on<F>(self, coalesces: bool, (has_waited, until): (bool, Option<Instant>)) -> State<S, F, B, O>
    where
        S: Service<Request<B>, Future = F>,
    {
        let Self { shared, asked, key, mut request, mut inner } = self;
        let now = if has_waited { Now::read() } else { Now::of(request.extensions()) };
        let found = shared.store.find(&key, request.headers(), &asked, coalesces, now);
        let collapsed = if has_waited { "; collapsed" } else { "" };
        let (stale, flight, forwarded) = match found {
            Found::Fresh(entry) => {
                shared.observer.replayed();
                note(request.extensions(), "replayed", shared.name.as_ref(), None);
                let ttl = seconds(entry.life.fresh_for) - seconds(entry.age(now));
                let how = format!("naka; hit; ttl={ttl}{collapsed}");
                return State::Answer {
                    answer: Some(Answer::Kept { entry, client: Client::of(&request), how }),
                };
            }
            Found::UnderWay(mut under_way) => {
                let until = until.unwrap_or_else(|| Now::read().instant() + shared.config.coalesce);
                let waiting = async move {
                    let change = tokio::time::timeout_at(until, under_way.changed()).await;
                    // One that was given up is followed by another; whatever else has come of it, or if it takes too
                    // long: whoever has waited does not wait again.
                    matches!(change, Ok(Err(_))).then_some(until)
                };
                let asking = Some(Self { shared, asked, key, request, inner });
                return State::Wait { waiting: Box::pin(waiting), asking };
            }
            Found::Stale { entry, stands_in, flight } => (Some((entry, stands_in)), flight, "stale"),
            Found::Nothing { is_variant, flight } => {
                (None, flight, if is_variant { "vary-miss" } else { "uri-miss" })
            }
            Found::Pass => (None, None, "bypass"),
        };
        if asked.directives.only_if_cached {
            let rejection = not_cached();
            shared.observer.rejected(&rejection);
            return State::Answer { answer: Some(Answer::Refused(rejection)) };
        }
        shared.observer.admitted();
        let client = Client::of(&request);
        let vary = request.headers().clone();
        let is_get = request.method() == Method::GET;
        // A condition of ours takes the place of the client's, which is weighed when the answer is there.
        let about = stale
            .as_ref()
            .map(|(entry, _)| &entry.headers)
            .filter(|headers| is_get && has_validator(headers));
        let is_revalidated = about.is_some_and(|kept| rules::make_conditional(request.headers_mut(), kept));
        let is_kept = is_get && forwarded != "bypass";
        let journal = stale.as_ref().and_then(|_| Journal::of(request.extensions()).cloned());
        let future = inner.call(request);
        let how = format!("naka; fwd={forwarded}{collapsed}");
        let sent = Now::read();
        let work = Work {
            shared,
            asked,
            key,
            vary,
            client,
            stale,
            flight,
            is_revalidated,
            is_kept,
            sent,
            how,
            journal,
        };
        State::Work { future, work: Some(work) }
    }
}

impl<S, B, R, O> Future for CacheFuture<S, S::Future, B, O>
where
    S: Service<Request<B>, Response = Response<R>>,
    R: Body<Data = Bytes> + Default,
    O: Observer,
{
    type Output = Result<Response<CacheBody<R>>, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            let next = match state.as_mut().project() {
                Projection::Pass { future, changes } => {
                    let response = ready!(future.poll(cx))?;
                    if let Some((shared, both)) = changes.take().filter(|_| !is_failure(response.status())) {
                        let now = Now::read();
                        // For whoever is known, and for whoever is not.
                        shared.store.invalidate(&both, now);
                        shared.store.invalidate(&both[KNOWN.len()..], now);
                    }
                    return Poll::Ready(Ok(plain(response)));
                }
                Projection::Wait { waiting, asking } => {
                    let until = ready!(waiting.as_mut().poll(cx));
                    let asking = asking.take().expect("one waits once");
                    asking.go_on(until.is_some(), (true, until))
                }
                Projection::Work { future, work } => {
                    let result = ready!(future.poll(cx));
                    let work = work.take().expect("a future is not polled after it is ready");
                    return Poll::Ready(work.judge(result));
                }
                Projection::Answer { answer } => {
                    let answer = answer.take().expect("a future is not polled after it is ready");
                    return Poll::Ready(Ok(answer.into_response()));
                }
            };
            state.set(next);
        }
    }
}

impl<S, F, B, O> fmt::Debug for CacheFuture<S, F, B, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheFuture").finish_non_exhaustive()
    }
}

/// A request that is on its way. Dropped, whoever waits for it looks again.
struct Work<O> {
    shared: Arc<Shared<O>>,
    asked: Asked,
    key: Arc<str>,
    /// The request's headers as the client sent them.
    vary: HeaderMap,
    client: Client,
    stale: Option<(Arc<Entry>, bool)>,
    flight: Option<Flight>,
    is_revalidated: bool,
    /// The answer may be kept.
    is_kept: bool,
    sent: Now,
    how: String,
    /// Where it is written down if something old stands in.
    journal: Option<Arc<Journal>>,
}

/// A layer has made it: nobody was asked, or nobody has answered.
fn is_ours<R>(response: &Response<R>) -> bool {
    let said = response.extensions();
    said.get::<Rejection>().is_some() || said.get::<StandIn>().is_some()
}

impl<O: Observer> Work<O> {
    fn judge<R, E>(mut self, result: Result<Response<R>, E>) -> Result<Response<CacheBody<R>>, E>
    where
        R: Body<Data = Bytes> + Default,
    {
        let is_trouble = result.as_ref().map_or(true, |response| {
            let rejection = response.extensions().get::<Rejection>();
            rejection.map_or_else(|| rules::is_error(response.status()), |it| rules::is_trouble(it.reason))
        });
        if is_trouble {
            if let Some(flight) = self.flight.take() {
                flight.fail();
            }
            if let Some((entry, true)) = self.stale {
                self.shared.observer.fell_back();
                if let Some(journal) = &self.journal {
                    journal.note("fell_back", self.shared.name.as_ref(), None);
                }
                // A status that the gateway itself has made is nobody's answer (RFC 9211, section 2.3).
                let answered = result.as_ref().ok().filter(|it| !is_ours(it));
                let fwd =
                    answered.map(|it| format!("; fwd-status={}", it.status().as_u16())).unwrap_or_default();
                let how = format!("{}{fwd}; detail=stale-if-error", self.how);
                return Ok(Answer::Kept { entry, client: self.client, how }.into_response());
            }
        }
        let mut response = result?;
        let is_ours = is_ours(&response);
        if is_ours || is_trouble || !self.is_kept {
            if !is_ours {
                self.tell(&mut response, "");
            }
            self.land();
            return Ok(plain(response));
        }
        if response.status() == StatusCode::NOT_MODIFIED && self.is_revalidated {
            return Ok(self.freshened(response.headers()).into_response());
        }
        let now = Now::read();
        let delay = now.instant().saturating_duration_since(self.sent.instant());
        let config = &self.shared.config;
        let life = self.life(response.status(), response.headers(), delay, now);
        let hint = response.body().size_hint();
        let lower = usize::try_from(hint.lower()).unwrap_or(usize::MAX);
        let mut share = self.shared.buffering.share(config.max_bytes);
        let Some(life) = life.ok().filter(|_| lower <= config.max_body && share.grow(lower)) else {
            // What is an error, or comes of what the client alone asks for, says nothing of others.
            let is_own = self.asked.directives.no_store || self.asked.is_conditional && !self.is_revalidated;
            if !is_own && !is_failure(response.status()) {
                self.shared.store.pass(&self.key, &self.asked, now);
            }
            self.tell(&mut response, "");
            self.land();
            return Ok(plain(response));
        };
        let entry = self.entry(response.status(), kept(response.headers()), life, now.instant());
        self.tell(&mut response, "; stored");
        let (parts, body) = response.into_parts();
        let recorder = Recorder {
            store: Arc::clone(&self.shared.store),
            entry,
            asked: self.asked,
            flight: self.flight.take(),
            sent: self.sent.instant(),
            written: BytesMut::with_capacity(lower),
            share,
            max_body: config.max_body,
            max_bytes: config.max_bytes,
        };
        Ok(Response::from_parts(parts, CacheBody::recorded(body, recorder)))
    }

    /// What is kept is still good: it has the headers of who says so (RFC 9111, section 3.2).
    fn freshened(self, headers: &HeaderMap) -> Answer {
        let now = Now::read();
        let (old, _) = self.stale.as_ref().expect("only what is kept is asked about");
        let mut updated = old.headers.clone();
        let news = kept(headers);
        for name in news.keys() {
            if [CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE].contains(name) {
                continue;
            }
            // Whoever changes bodies on their way says so with the body alone: what is kept goes on to depend on what it did, and
            // has the tag it had.
            if *name == ETAG && is_one_tag(&old.headers, &news) {
                continue;
            }
            if *name == VARY {
                rules::widen(&mut updated, &news);
                continue;
            }
            updated.remove(name);
            for value in news.get_all(name) {
                updated.append(name, value.clone());
            }
        }
        // How old it was when it came is said by whoever says that it is good, or by nobody.
        let mut said = updated.clone();
        if let Some(age) = headers.get(AGE) {
            said.insert(AGE, age.clone());
        }
        let delay = now.instant().saturating_duration_since(self.sent.instant());
        let life = self.life(old.status, &said, delay, now);
        let how = format!("{}; fwd-status=304", self.how);
        let Ok(life) = life else {
            // It says so of what must not be kept: the client hears all that was said, and nobody else does.
            self.shared.store.invalidate(&self.key, now);
            let mut entry = self.entry(old.status, updated, old.life, now.instant());
            entry.body = old.body.clone();
            entry.trailers.clone_from(&old.trailers);
            return Answer::Kept { entry: Arc::new(entry), client: self.client, how };
        };
        let mut entry = self.entry(old.status, updated, life, now.instant());
        entry.body = old.body.clone();
        entry.trailers.clone_from(&old.trailers);
        let answered = self.entry_for(&entry);
        self.shared.store.put(entry, self.sent.instant(), self.shared.config.max_bytes);
        if let Some(flight) = self.flight {
            flight.land();
        }
        Answer::Kept { entry: answered, client: self.client, how }
    }

    fn life(
        &self,
        status: StatusCode,
        headers: &HeaderMap,
        delay: Duration,
        now: Now,
    ) -> Result<rules::Life, rules::Why> {
        let (config, written) = (&self.shared.config, &self.shared.written);
        rules::life(config, &self.asked, status, headers, written, (delay, self.shared.wall.unix_s(now)))
    }

    fn entry(&self, status: StatusCode, headers: HeaderMap, life: rules::Life, since: Instant) -> Entry {
        let names = rules::vary(&headers).unwrap_or_default();
        let said = |name: HeaderName| {
            let values = self.vary.get_all(&name).iter().cloned().collect();
            (name, values)
        };
        let vary = names.into_iter().map(said).collect();
        Entry::new(&self.key, status, headers, vary, life, since)
    }

    /// The same once more, to answer with.
    fn entry_for(&self, entry: &Entry) -> Arc<Entry> {
        let mut copy = self.entry(entry.status, entry.headers.clone(), entry.life, entry.since);
        copy.body = entry.body.clone();
        copy.trailers.clone_from(&entry.trailers);
        Arc::new(copy)
    }

    /// Whoever waits looks whether this was for them.
    fn land(mut self) {
        if let Some(flight) = self.flight.take() {
            flight.land();
        }
    }

    fn tell<R>(&self, response: &mut Response<R>, more: &str) {
        say(response.headers_mut(), &format!("{}{more}", self.how));
    }
}

impl Answer {
    fn into_response<R: Body<Data = Bytes> + Default>(self) -> Response<CacheBody<R>> {
        let (entry, client, how) = match self {
            Self::Refused(rejection) => return rejection.into_response(),
            Self::Kept { entry, client, how } => (entry, client, how),
        };
        let is_unchanged =
            entry.status == StatusCode::OK && rules::is_unchanged(&client.conditions, &entry.headers);
        let (data, trailers) = if is_unchanged || client.is_head {
            (Bytes::new(), None)
        } else {
            (entry.body.clone(), entry.trailers.clone())
        };
        let whole = Collected { data, trailers, share: None };
        let mut response = Response::new(CacheBody::plain(Buffered::whole(whole)));
        *response.status_mut() = if is_unchanged { StatusCode::NOT_MODIFIED } else { entry.status };
        let headers = response.headers_mut();
        headers.clone_from(&entry.headers);
        if is_unchanged {
            for name in [CONTENT_LENGTH, CONTENT_ENCODING, CONTENT_TYPE, TRANSFER_ENCODING] {
                headers.remove(name);
            }
        }
        headers.insert(AGE, HeaderValue::from(seconds(entry.age(Now::read()))));
        say(headers, &how);
        response
    }
}

/// Appends to what caches behind us say (RFC 9211): the last is the closest to the client.
fn say(headers: &mut HeaderMap, how: &str) {
    if let Ok(how) = HeaderValue::from_str(how) {
        headers.append(CACHE_STATUS, how);
    }
}

/// What is kept of a response's headers.
fn kept(headers: &HeaderMap) -> HeaderMap {
    let mut kept = without_connection(headers);
    kept.remove(AGE); // It is counted anew.
    kept
}

fn plain<R: Body<Data = Bytes>>(response: Response<R>) -> Response<CacheBody<R>> {
    response.map(|body| CacheBody::plain(Buffered::same(body)))
}

fn is_failure(status: StatusCode) -> bool {
    status.is_client_error() || status.is_server_error()
}

/// Whole seconds, as ages are said.
fn seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs().min(1 << 31)).unwrap_or(i64::MAX)
}
