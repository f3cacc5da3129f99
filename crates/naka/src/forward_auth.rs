//! Authentication by asking another service, as nginx's `auth_request` and Traefik's `ForwardAuth` do.
//!
//! # Decision
//! 1. Whoever decides is asked with a `GET` that has no body. It sees the headers that are named in
//!    [`send`](ForwardAuthConfig::send), and `X-Forwarded-Method`, `-Proto`, `-Host`, `-Uri` and `-For`. These are
//!    **made here**: nothing that a client writes there is passed on (unless somebody outside of this layer
//!    has seen to them, [`trust_forwarded`](ForwardAuthConfig::trust_forwarded)).
//! 2. `2xx`: the request goes on. Headers named in [`copy`](ForwardAuthConfig::copy) are taken from the answer,
//!    and what the client wrote there is gone, whether the answer has them or not. An [`Identity`] is in the
//!    request: its subject from the header [`subject`](ForwardAuthConfig::subject), its claims from those copied.
//! 3. `3xx` and `4xx`: that answer is the client's, body included, with the reason
//!    [`Reason::AuthRefused`].
//! 4. `5xx`, an error, or nothing in time: `503` and [`Reason::AuthUnavailable`]. Nobody is let in because
//!    somebody else does not work.
//! 5. With [`remember`](ForwardAuthConfig::remember), what was let in is let in again for a while, by a digest of
//!    method, host, target, what is told of protocol, host and client's address, and the headers that were
//!    declared; a request without any of these headers is always asked about, and a refusal is never
//!    remembered. `Cache-Control` of the answer shortens it, and `no-store` forbids it.
//!
//! # Units and limits
//! [`timeout`](ForwardAuthConfig::timeout): default 1 s, from asking to the whole answer. At most
//! [`max_asking`](ForwardAuthConfig::max_asking) questions at once (default 1,024): beyond it `503` and
//! [`Reason::AuthBusy`]. The bound of an answer's body is that of the service that asks. 16,384 decisions and
//! 64 MiB are remembered at most.
//!
//! # State
//! Questions under way and remembered decisions; [`reconfigured`](ForwardAuthLayer::reconfigured) forgets the
//! decisions if anything has changed.
//!
//! # Errors and panics
//! Adds no error: `S::Error` passes unchanged. Never panics. Needs tokio's timer.
//!
//! # Example
//! ```
//! # use std::convert::Infallible;
//! # use bytes::Bytes;
//! # use http::{Request, Response};
//! # use http_body_util::Full;
//! # use tower::{Layer, ServiceExt, service_fn};
//! use naka::forward_auth::{ForwardAuthConfig, ForwardAuthLayer};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! # let upstream = service_fn(|_: Request<()>| async { Ok::<_, Infallible>(Response::new(Full::new(Bytes::new()))) });
//! // In an application, a client of whoever decides.
//! let decides = service_fn(|question: Request<()>| async move {
//!     let knows = question.headers().get("authorization").is_some_and(|value| value == "Bearer asha");
//!     Ok::<_, Infallible>(Response::builder().status(if knows { 200 } else { 401 }).body(Bytes::new()).unwrap())
//! });
//! let service = ForwardAuthLayer::new(ForwardAuthConfig::new(), decides).layer(upstream);
//! let with = |value: &str| Request::builder().header("authorization", value).body(()).unwrap();
//! assert_eq!(service.clone().oneshot(with("Bearer asha")).await.unwrap().status(), 200);
//! assert_eq!(service.oneshot(with("Bearer ravi")).await.unwrap().status(), 401);
//! # }
//! ```

use std::{
    fmt,
    future::Future,
    mem,
    net::IpAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{
            AtomicUsize,
            Ordering::{AcqRel, Acquire},
        },
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use aws_lc_rs::digest;
use bytes::Bytes;
use http::{
    Extensions, HeaderMap, HeaderName, HeaderValue, Request, Response,
    header::{
        AUTHORIZATION, CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, COOKIE, HOST, TRAILER, TRANSFER_ENCODING,
        UPGRADE,
    },
    request::Parts,
    uri::PathAndQuery,
};
use pin_project_lite::pin_project;
use tokio::time::{Instant, timeout};
use tower_service::Service;

use crate::{
    BoxError,
    clock::Now,
    context::ClientAddr,
    explain::{Explain, Finding},
    identity::{Claim, Identity, Scheme},
    layered::layered,
    observe::Observer,
    reject::{Dependency, Head, Reason, Rejection, Verdict},
    remember::{Fingerprint, Remembered},
};

/// What a [`ForwardAuthLayer`] does.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ForwardAuthConfig {
    /// The target of the question; default `/`.
    pub target: PathAndQuery,
    /// `Host` of the question; none: whoever asks knows.
    pub host: Option<HeaderValue>,
    /// Headers of the request that whoever decides sees; default `authorization`, `cookie`, `x-request-id`,
    /// `traceparent`.
    pub send: Vec<HeaderName>,
    /// Headers of the answer that the request goes on with.
    pub copy: Vec<HeaderName>,
    /// The header of the answer that says who it is.
    pub subject: Option<HeaderName>,
    /// The longest wait for the whole answer; default 1 s.
    pub timeout: Duration,
    /// Questions at once; default 1,024.
    pub max_asking: usize,
    /// Whether `X-Forwarded-Proto` and `-Host` of the request can be believed, because somebody outside has
    /// written them; default no.
    pub trust_forwarded: bool,
    /// How long a decision is remembered; default not at all.
    pub remember: Option<Remember>,
}

/// How long a decision is remembered, and by what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remember {
    /// The headers on which a decision depends, besides method, host, target, protocol and the client's address,
    /// which always count: all of them, or strangers are let in.
    pub by: Vec<HeaderName>,
    /// How long.
    pub ttl: Duration,
}

impl ForwardAuthConfig {
    /// The defaults.
    pub fn new() -> Self {
        let named = HeaderName::from_static;
        Self {
            target: PathAndQuery::from_static("/"),
            host: None,
            send: vec![AUTHORIZATION, COOKIE, named("x-request-id"), named("traceparent")],
            copy: Vec::new(),
            subject: None,
            timeout: Duration::from_secs(1),
            max_asking: 1024,
            trust_forwarded: false,
            remember: None,
        }
    }
}

impl Default for ForwardAuthConfig {
    fn default() -> Self {
        Self::new()
    }
}

type Asking = Pin<Box<dyn Future<Output = Result<Response<Bytes>, BoxError>> + Send>>;

/// Whoever is asked.
type Authority = dyn Fn(Request<()>) -> Asking + Send + Sync;

/// Applies [`ForwardAuth`]; see the [module docs](self) for an example.
#[must_use]
pub struct ForwardAuthLayer<O = ()> {
    shared: Option<Arc<Shared<O>>>,
}

struct Shared<O> {
    config: ForwardAuthConfig,
    authority: Arc<Authority>,
    asking: Arc<AtomicUsize>,
    known: Arc<Remembered<Known>>,
    name: Option<Arc<str>>,
    observer: O,
}

/// A decision to let in, and until when it counts.
type Known = (Arc<Admission>, Instant);

/// What was learned.
#[derive(Debug, PartialEq)]
struct Admission {
    identity: Arc<Identity>,
    /// Headers that no client has a say in.
    taken: Vec<HeaderName>,
    /// What they are.
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl ForwardAuthLayer {
    /// Asks `authority`; its answers have bodies that it bounds itself.
    pub fn new<A>(config: ForwardAuthConfig, authority: A) -> Self
    where
        A: Service<Request<()>, Response = Response<Bytes>, Error: Into<BoxError>, Future: Send>
            + Clone
            + Send
            + Sync
            + 'static,
    {
        Self::observed(config, authority, ())
    }
}

impl<O: Observer> ForwardAuthLayer<O> {
    /// As [`new`](ForwardAuthLayer::new), and tells `observer` what it does.
    pub fn observed<A>(config: ForwardAuthConfig, authority: A, observer: O) -> Self
    where
        A: Service<Request<()>, Response = Response<Bytes>, Error: Into<BoxError>, Future: Send>
            + Clone
            + Send
            + Sync
            + 'static,
    {
        let authority = Arc::new(move |question| {
            let mut authority = authority.clone();
            let asking: Asking = Box::pin(async move {
                std::future::poll_fn(|cx| authority.poll_ready(cx)).await.map_err(Into::into)?;
                authority.call(question).await.map_err(Into::into)
            });
            asking
        });
        let (asking, known) = Default::default();
        Self { shared: Some(Arc::new(Shared { config, authority, asking, known, name: None, observer })) }
    }

    /// A layer that is not there.
    pub const fn off() -> Self {
        Self { shared: None }
    }

    /// Whether it is a layer that is not there.
    pub const fn is_off(&self) -> bool {
        self.shared.is_none()
    }

    /// Names the policy: in its rejections, and in what it explains.
    pub fn named(self, name: &Arc<str>) -> Self
    where
        O: Clone,
    {
        self.map(|old| Shared { name: Some(Arc::clone(name)), ..old.clone() })
    }

    /// The same authority, asked in another way.
    pub fn reconfigured(&self, config: &ForwardAuthConfig) -> Self
    where
        O: Clone,
    {
        self.map(|old| {
            let known = if old.config == *config { Arc::clone(&old.known) } else { Arc::default() };
            Shared { config: config.clone(), known, ..old.clone() }
        })
    }

    /// Goes on as if these headers were the answer, with this subject if they do not say one; and answers with
    /// who that is. For tests and for whoever explains.
    pub fn assume(
        &self,
        (answer, subject): (&HeaderMap, Option<&Arc<str>>),
        headers: &mut HeaderMap,
        extensions: &mut Extensions,
    ) -> Option<Arc<Identity>> {
        let mut admission = self.shared.as_ref()?.config.admission(answer);
        if admission.identity.subject.is_none() {
            Arc::make_mut(&mut admission.identity).subject = subject.cloned();
        }
        admission.put(headers, extensions);
        Some(admission.identity)
    }

    /// Questions under way.
    pub fn asking(&self) -> usize {
        self.shared.as_ref().map_or(0, |shared| shared.asking.load(Acquire))
    }

    fn map(&self, change: impl Fn(&Shared<O>) -> Shared<O>) -> Self {
        Self { shared: self.shared.as_deref().map(|shared| Arc::new(change(shared))) }
    }
}

impl<O: Clone> Clone for Shared<O> {
    fn clone(&self) -> Self {
        Self {
            config: self.config.clone(),
            authority: Arc::clone(&self.authority),
            asking: Arc::clone(&self.asking),
            known: Arc::clone(&self.known),
            name: self.name.clone(),
            observer: self.observer.clone(),
        }
    }
}

impl<O> fmt::Debug for ForwardAuthLayer<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = self.shared.as_ref().map(|shared| (&shared.name, &shared.config));
        f.debug_tuple("ForwardAuthLayer").field(&known).finish()
    }
}

/// Where a request comes from and goes to, as whoever decides is told.
struct Told<'a> {
    proto: &'a str,
    host: Option<&'a str>,
    client: Option<IpAddr>,
}

impl ForwardAuthConfig {
    /// The digest of all that a decision depends on; none if it is not remembered.
    fn fingerprint(&self, head: &Head<'_>) -> Option<Fingerprint> {
        let Remember { by, .. } = self.remember.as_ref()?;
        if !by.iter().any(|name| head.headers.contains_key(name)) {
            return None;
        }
        let mut digest = digest::Context::new(&digest::SHA256);
        let mut add = |bytes: &[u8]| {
            digest.update(&(bytes.len() as u64).to_le_bytes());
            digest.update(bytes);
        };
        add(head.method.as_str().as_bytes());
        add(head.headers.get(HOST).map_or(&[], HeaderValue::as_bytes));
        add(head.uri.path_and_query().map_or("", PathAndQuery::as_str).as_bytes());
        let told = self.told(head);
        add(told.proto.as_bytes());
        add(&[u8::from(told.host.is_some())]);
        add(told.host.unwrap_or_default().as_bytes());
        match told.client {
            Some(IpAddr::V4(client)) => add(&client.octets()),
            Some(IpAddr::V6(client)) => add(&client.octets()),
            None => add(&[]),
        }
        for name in by {
            let values = || head.headers.get_all(name).into_iter();
            add(&values().count().to_le_bytes());
            values().for_each(|value| add(value.as_bytes()));
        }
        let mut print = [0; 32];
        print.copy_from_slice(digest.finish().as_ref());
        Some(print)
    }

    fn told<'a>(&self, head: &Head<'a>) -> Told<'a> {
        let seen = |name: &'static str| {
            let is_believed = self.trust_forwarded;
            head.headers.get(name).filter(|_| is_believed).and_then(|value| value.to_str().ok())
        };
        let host = head.headers.get(HOST).and_then(|host| host.to_str().ok());
        Told {
            proto: seen("x-forwarded-proto").or(head.uri.scheme_str()).unwrap_or("http"),
            host: seen("x-forwarded-host").or(host),
            client: ClientAddr::of(head.extensions),
        }
    }

    fn question(&self, head: &Head<'_>) -> Request<()> {
        let mut question = Request::new(());
        *question.uri_mut() = self.target.clone().into();
        let headers = question.headers_mut();
        for name in &self.send {
            for value in head.headers.get_all(name) {
                headers.append(name, value.clone());
            }
        }
        let Told { proto, host, client } = self.told(head);
        let client = client.map(|client| client.to_string());
        let told = [
            ("x-forwarded-method", Some(head.method.as_str())),
            ("x-forwarded-proto", Some(proto)),
            ("x-forwarded-host", host),
            ("x-forwarded-uri", head.uri.path_and_query().map(PathAndQuery::as_str)),
            ("x-forwarded-for", client.as_deref()),
        ];
        for (name, value) in told {
            headers.remove(name); // Whatever `send` says.
            if let Some(value) = value.and_then(|value| HeaderValue::from_str(value).ok()) {
                headers.insert(name, value);
            }
        }
        match &self.host {
            Some(host) => _ = headers.insert(HOST, host.clone()),
            None => _ = headers.remove(HOST),
        }
        for name in [CONNECTION, UPGRADE, TRANSFER_ENCODING, CONTENT_LENGTH] {
            headers.remove(name);
        }
        question
    }

    fn admission(&self, answer: &HeaderMap) -> Admission {
        let text = |name: &HeaderName| answer.get(name).and_then(|value| value.to_str().ok());
        let subject = self.subject.as_ref().and_then(text).map(Arc::from);
        let mut identity = Identity::new(Scheme::ForwardAuth, subject);
        for name in &self.copy {
            if let Some(value) = text(name) {
                identity.claims.insert(name.as_str().into(), Claim::Text(value.into()));
            }
        }
        let copied = self.copy.iter().flat_map(|name| {
            answer.get_all(name).into_iter().map(move |value| (name.clone(), value.clone()))
        });
        Admission { headers: copied.collect(), taken: self.copy.clone(), identity: Arc::new(identity) }
    }

    /// How long an answer may be remembered.
    fn ttl(&self, answer: &HeaderMap) -> Option<Duration> {
        let mut ttl = self.remember.as_ref()?.ttl;
        let lines = answer.get_all(CACHE_CONTROL).into_iter().map(|line| line.to_str().unwrap_or("no-store"));
        for directive in lines.flat_map(|line| line.split(',')).map(|it| it.trim().to_ascii_lowercase()) {
            match directive.split_once('=') {
                Some(("max-age", seconds)) => {
                    ttl = ttl.min(Duration::from_secs(seconds.trim_matches('"').parse().unwrap_or(0)));
                }
                None if directive == "no-store" || directive == "no-cache" => return None,
                _ => {}
            }
        }
        (!ttl.is_zero()).then_some(ttl)
    }
}

impl Admission {
    /// Goes on with what was learned, and with nothing that the client wrote in its place.
    fn put(&self, headers: &mut HeaderMap, extensions: &mut Extensions) {
        for name in &self.taken {
            headers.remove(name);
        }
        for (name, value) in &self.headers {
            headers.append(name, value.clone());
        }
        Arc::clone(&self.identity).put(extensions);
    }

    fn put_into<B>(&self, request: Request<B>) -> Request<B> {
        let (mut parts, body) = request.into_parts();
        self.put(&mut parts.headers, &mut parts.extensions);
        Request::from_parts(parts, body)
    }

    /// About what it takes in memory, in bytes.
    fn weight(&self) -> usize {
        let headers = self.headers.iter().map(|(name, value)| name.as_str().len() + value.len());
        size_of::<Self>() + self.identity.weight() + headers.sum::<usize>()
    }
}

/// What comes of a question.
enum Answer {
    Admitted(Arc<Admission>),
    /// Somebody else's refusal.
    Refused(Box<Response<Bytes>>),
    Rejected(Rejection),
}

impl<O: Observer> Shared<O> {
    /// What can be said without asking.
    fn decide(&self, now: Now, head: &Head<'_>) -> Verdict<Arc<Admission>> {
        let known = self.config.fingerprint(head).and_then(|print| self.known.get(&print));
        match known {
            Some((admission, until)) if now.instant() < until => Verdict::Admit(admission),
            _ if self.asking.load(Acquire) >= self.config.max_asking => {
                Verdict::Reject(self.refusal(Reason::AuthBusy))
            }
            _ => Verdict::Depends(Dependency::Authority),
        }
    }

    fn refusal(&self, reason: Reason) -> Rejection {
        Rejection::new(reason).by(self.name.clone())
    }

    async fn ask(&self, question: Request<()>, print: Option<Fingerprint>) -> Answer {
        let answer = match timeout(self.config.timeout, (self.authority)(question)).await {
            Ok(Ok(answer)) if !answer.status().is_server_error() && !answer.status().is_informational() => {
                answer
            }
            _ => return Answer::Rejected(self.refusal(Reason::AuthUnavailable)),
        };
        if !answer.status().is_success() {
            return Answer::Refused(Box::new(self.refused(answer)));
        }
        let admission = Arc::new(self.config.admission(answer.headers()));
        let now = Instant::now();
        let until = self.config.ttl(answer.headers()).and_then(|ttl| now.checked_add(ttl));
        if let (Some(print), Some(until)) = (print, until) {
            let known = (Arc::clone(&admission), until);
            self.known.put(print, known, admission.weight(), |(_, until)| *until <= now);
        }
        Answer::Admitted(admission)
    }

    /// The answer as the client gets it.
    fn refused(&self, mut answer: Response<Bytes>) -> Response<Bytes> {
        for name in [CONNECTION, TRANSFER_ENCODING, TRAILER, UPGRADE] {
            answer.headers_mut().remove(name);
        }
        for name in ["keep-alive", "proxy-connection", "proxy-authenticate"] {
            answer.headers_mut().remove(name);
        }
        let length = HeaderValue::from(answer.body().len());
        answer.headers_mut().insert(CONTENT_LENGTH, length);
        let mut rejection = self.refusal(Reason::AuthRefused(answer.status()));
        rejection.is_rendered = true;
        answer.extensions_mut().insert(rejection);
        answer
    }
}

/// A question under way; its caller may go.
struct Question<O: Observer> {
    shared: Arc<Shared<O>>,
    is_over: bool,
}

impl<O: Observer> Question<O> {
    /// `None` if there are too many.
    fn begin(shared: &Arc<Shared<O>>) -> Option<Self> {
        let most = shared.config.max_asking;
        let next = |asking: usize| (asking < most).then_some(asking + 1);
        shared.asking.fetch_update(AcqRel, Acquire, next).ok()?;
        shared.observer.queued();
        Some(Self { shared: Arc::clone(shared), is_over: false })
    }

    async fn ask(mut self, question: Request<()>, print: Option<Fingerprint>) -> Answer {
        let answer = self.shared.ask(question, print).await;
        self.is_over = true;
        match &answer {
            Answer::Admitted(_) => self.shared.observer.admitted(),
            Answer::Rejected(rejection) => self.shared.observer.rejected(rejection),
            Answer::Refused(answer) => {
                if let Some(rejection) = answer.extensions().get::<Rejection>() {
                    self.shared.observer.rejected(rejection);
                }
            }
        }
        answer
    }
}

impl<O: Observer> Drop for Question<O> {
    fn drop(&mut self) {
        self.shared.asking.fetch_sub(1, AcqRel);
        if !self.is_over {
            self.shared.observer.cancelled();
        }
    }
}

impl<O: Observer> Explain for ForwardAuthLayer<O> {
    fn kind(&self) -> &'static str {
        "forward_auth"
    }

    fn name(&self) -> Option<&str> {
        self.shared.as_ref()?.name.as_deref()
    }

    fn explain(&self, now: Now, head: &mut Parts) -> Finding {
        let Some(shared) = &self.shared else { return Finding::Off };
        match shared.decide(now, &Head::from(&*head)) {
            Verdict::Admit(admission) => {
                admission.put(&mut head.headers, &mut head.extensions);
                let who = admission.identity.subject.as_deref().unwrap_or("somebody without a name");
                Finding::Admit(format!("it is {who}, as was decided a while ago"))
            }
            Verdict::Reject(rejection) => Finding::Reject(rejection),
            Verdict::Depends(what) => Finding::WouldAsk(what),
        }
    }
}

layered! {
    /// Lets pass whom another service lets pass; see the [module docs](self).
    ForwardAuthLayer { shared } => ForwardAuth
}

impl<S, O, B, R> Service<Request<B>> for ForwardAuth<S, O>
where
    S: Service<Request<B>, Response = Response<R>> + Clone,
    O: Observer,
    R: Default + From<Bytes>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = ForwardAuthFuture<S, S::Future, B>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let Some(shared) = &self.layer.shared else {
            return ForwardAuthFuture::Forward { future: self.inner.call(request) };
        };
        let head = Head::from(&request);
        let rejection = match shared.decide(Now::of(head.extensions), &head) {
            Verdict::Admit(admission) => {
                shared.observer.admitted();
                let request = admission.put_into(request);
                return ForwardAuthFuture::Forward { future: self.inner.call(request) };
            }
            Verdict::Reject(rejection) => rejection,
            Verdict::Depends(_) => match Question::begin(shared) {
                None => shared.refusal(Reason::AuthBusy),
                Some(question) => {
                    let print = shared.config.fingerprint(&head);
                    let asked = shared.config.question(&head);
                    let asking = Box::pin(question.ask(asked, print));
                    // The instance that was polled ready goes with the request; its clone stays here.
                    let clone = self.inner.clone();
                    let inner = mem::replace(&mut self.inner, clone);
                    return ForwardAuthFuture::Ask { asking, inner, request: Some(request) };
                }
            },
        };
        shared.observer.rejected(&rejection);
        ForwardAuthFuture::Reject { rejection: Some(rejection) }
    }
}

pin_project! {
    /// The future of [`ForwardAuth`].
    #[project = Projection]
    pub enum ForwardAuthFuture<S, F, B> {
        /// Whoever decides. Only this path boxes.
        #[doc(hidden)]
        Ask { asking: Deciding, inner: S, request: Option<Request<B>> },
        /// Let pass.
        #[doc(hidden)]
        Forward { #[pin] future: F },
        /// Refused.
        #[doc(hidden)]
        Reject { rejection: Option<Rejection> },
    }
}

/// A question and its answer.
type Deciding = Pin<Box<dyn Future<Output = Answer> + Send>>;

impl<S, B, R> Future for ForwardAuthFuture<S, S::Future, B>
where
    S: Service<Request<B>, Response = Response<R>>,
    R: Default + From<Bytes>,
{
    type Output = Result<Response<R>, S::Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            let next = match self.as_mut().project() {
                Projection::Ask { asking, inner, request } => match ready!(asking.as_mut().poll(cx)) {
                    Answer::Admitted(admission) => {
                        let request = request.take().expect("a request asks once");
                        Self::Forward { future: inner.call(admission.put_into(request)) }
                    }
                    Answer::Refused(answer) => return Poll::Ready(Ok(answer.map(R::from))),
                    Answer::Rejected(rejection) => Self::Reject { rejection: Some(rejection) },
                },
                Projection::Forward { future } => return future.poll(cx),
                Projection::Reject { rejection } => {
                    let rejection = rejection.take().expect("a future is not polled after it is ready");
                    return Poll::Ready(Ok(rejection.into_response()));
                }
            };
            self.set(next);
        }
    }
}

impl<S, F, B> fmt::Debug for ForwardAuthFuture<S, F, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ForwardAuthFuture").finish_non_exhaustive()
    }
}
