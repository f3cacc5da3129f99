//! Cross-origin requests, after the Fetch standard: what pages of other origins may ask and read.
//!
//! # Decision
//! 1. **A preflight**, which is `OPTIONS` with one `Origin` and an `Access-Control-Request-Method`, is answered
//!    here and goes no further: stand outside of what checks methods or credentials. From an origin that is
//!    allowed: `204` with what may be asked; it is the browser that compares. From another: `403` and
//!    [`Reason::OriginRefused`], without CORS headers. To a page both are the same failure; whoever debugs it
//!    finds the reason.
//! 2. **Any other request** goes on, whatever its origin: it is not this layer that protects from cross-site
//!    requests, nor can it, as browsers send simple ones without asking. The response gets
//!    `Access-Control-Allow-Origin` and what goes with it if the origin is allowed, also on a refusal of
//!    layers inside, so that a page can read why. `Access-Control-*` headers that come from behind are taken
//!    away: one place decides.
//! 3. `Vary: Origin` is in every response whose headers depend on the origin, also where none was sent: a cache
//!    must not hand what one page got to another.
//!
//! An `OPTIONS` that is no preflight goes on. `null` is the origin of every sandboxed page and cannot be
//! listed. Access to private networks is never granted.
//!
//! It is not `tower_http::cors`: that answers every `OPTIONS`, checks its configuration when it is first
//! called and panics, lets CORS headers from behind through, builds a header map for each request, and
//! can neither be switched off in a stack of one type, nor replaced over a running service, nor asked what it
//! would say.
//!
//! # Units and limits
//! `max_age`: whole seconds. Request headers that are mirrored: 4 KiB, more are not. Nothing is allocated
//! besides the headers' places.
//!
//! # State
//! None; [`reconfigured`](CorsLayer::reconfigured) takes other rules.
//!
//! # Errors and panics
//! Adds no error: `S::Error` passes unchanged. Never panics. What would be wrong in each response is an error
//! of [`CorsConfig::check`].
//!
//! # Example
//! ```
//! # use http::{Method, Request, Response};
//! # use tower::{Layer, ServiceExt};
//! use naka::cors::{CorsConfig, CorsLayer};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let upstream = tower::service_fn(|_: Request<()>| async { Ok::<_, std::io::Error>(Response::new(())) });
//! let config = CorsConfig::origins(["https://app.example", "https://*.shop.example"]);
//! let rules = config.methods([Method::GET, Method::PUT]).credentials().check()?;
//! let service = CorsLayer::new(rules).layer(upstream);
//!
//! let from = |origin: &str| Request::builder().header("origin", origin).body(()).unwrap();
//! let allowed = service.clone().oneshot(from("https://pune.shop.example")).await?;
//! assert_eq!(allowed.headers()["access-control-allow-origin"], "https://pune.shop.example");
//! let other = service.oneshot(from("https://evil.example")).await?;
//! assert!(!other.headers().contains_key("access-control-allow-origin"));
//! # Ok(()) }
//! ```

use std::{
    fmt,
    future::Future,
    pin::Pin,
    str::FromStr,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode,
    header::{
        ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
        ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
        ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
    },
    request::Parts,
};
use pin_project_lite::pin_project;
use tower_service::Service;

use crate::{
    clock::Now,
    explain::{Explain, Finding},
    layered::layered,
    observe::Observer,
    reject::{Head, Reason, Rejection},
};

/// The most that is mirrored of the headers a page wants to send, in bytes.
pub const MAX_MIRRORED: usize = 4 << 10;

/// What pages of other origins may do. It takes effect once it is [checked](Self::check).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CorsConfig {
    /// Whose pages.
    pub origins: Origins,
    /// The methods they may use; default `GET`, `HEAD` and `POST`, which no browser asks about.
    pub methods: Vec<Method>,
    /// The headers they may send; default none besides those that no browser asks about.
    pub headers: RequestHeaders,
    /// The headers they may read; default none besides those that every page may.
    pub exposed: Vec<HeaderName>,
    /// Whether they may send cookies and other credentials of the user; default no.
    pub credentials: bool,
    /// How long a browser may remember the answer; default as the browser does, 5 s.
    pub max_age: Option<Duration>,
}

/// Whose pages may.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Origins {
    /// Everybody's.
    Any,
    /// Those of one of these: `https://app.example`, `http://localhost:3000`; `https://*.shop.example` is all
    /// that is below `shop.example`, and not that itself.
    List(Vec<String>),
}

/// Which headers a page may send.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RequestHeaders {
    /// These.
    List(Vec<HeaderName>),
    /// Whichever it wants to.
    Mirror,
}

impl CorsConfig {
    /// Pages of these origins, and the defaults.
    pub fn origins<'a>(origins: impl IntoIterator<Item = &'a str>) -> Self {
        Self::new(Origins::List(origins.into_iter().map(str::to_owned).collect()))
    }

    /// All pages, and the defaults.
    pub fn any() -> Self {
        Self::new(Origins::Any)
    }

    fn new(origins: Origins) -> Self {
        let (methods, headers) = (vec![Method::GET, Method::HEAD, Method::POST], Vec::new());
        let (exposed, headers) = (Vec::new(), RequestHeaders::List(headers));
        Self { origins, methods, headers, exposed, credentials: false, max_age: None }
    }

    /// The methods they may use.
    #[must_use]
    pub fn methods(mut self, methods: impl IntoIterator<Item = Method>) -> Self {
        self.methods = methods.into_iter().collect();
        self
    }

    /// The headers they may send.
    #[must_use]
    pub fn headers(mut self, headers: impl IntoIterator<Item = HeaderName>) -> Self {
        self.headers = RequestHeaders::List(headers.into_iter().collect());
        self
    }

    /// They may send whichever headers they want to.
    #[must_use]
    pub fn mirrored_headers(mut self) -> Self {
        self.headers = RequestHeaders::Mirror;
        self
    }

    /// The headers they may read.
    #[must_use]
    pub fn exposed(mut self, exposed: impl IntoIterator<Item = HeaderName>) -> Self {
        self.exposed = exposed.into_iter().collect();
        self
    }

    /// They may send cookies and other credentials of the user.
    #[must_use]
    pub const fn credentials(mut self) -> Self {
        self.credentials = true;
        self
    }

    /// How long a browser may remember the answer.
    #[must_use]
    pub const fn max_age(mut self, max_age: Duration) -> Self {
        self.max_age = Some(max_age);
        self
    }

    /// The rules, if they make sense.
    pub fn check(&self) -> Result<CorsRules, CorsError> {
        let origins = match &self.origins {
            Origins::Any if self.credentials => return Err(CorsError::AnyWithCredentials),
            Origins::Any => None,
            Origins::List(origins) => {
                Some(origins.iter().map(|origin| origin.parse()).collect::<Result<Vec<_>, _>>()?)
            }
        };
        let names = |names: &[HeaderName]| listed(names.iter().map(HeaderName::as_str)).transpose();
        let headers = match &self.headers {
            RequestHeaders::Mirror => AllowedHeaders::Mirror,
            RequestHeaders::List(headers) => AllowedHeaders::These(names(headers)?),
        };
        Ok(CorsRules(Arc::new(Rules {
            origins,
            methods: listed(self.methods.iter().map(Method::as_str)).transpose()?,
            headers,
            exposed: names(&self.exposed)?,
            credentials: self.credentials,
            max_age: self.max_age.map(|age| HeaderValue::from(age.as_secs())),
        })))
    }
}

/// A list as a header's value; none of nothing. A `*` would mean everything, and with credentials itself.
fn listed<'a>(words: impl Iterator<Item = &'a str>) -> Option<Result<HeaderValue, CorsError>> {
    let words = words.collect::<Vec<_>>();
    if words.contains(&"*") {
        return Some(Err(CorsError::Wildcard));
    }
    let value = HeaderValue::from_str(&words.join(", ")).map_err(|_| CorsError::Wildcard);
    (!words.is_empty()).then_some(value)
}

/// Rules that make sense.
#[derive(Clone, Debug)]
pub struct CorsRules(Arc<Rules>);

#[derive(Debug)]
struct Rules {
    /// None: any.
    origins: Option<Vec<Origin>>,
    methods: Option<HeaderValue>,
    headers: AllowedHeaders,
    exposed: Option<HeaderValue>,
    credentials: bool,
    max_age: Option<HeaderValue>,
}

#[derive(Debug)]
enum AllowedHeaders {
    These(Option<HeaderValue>),
    Mirror,
}

/// What makes no sense.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CorsError {
    /// Any page could act as its visitor (and browsers refuse it).
    AnyWithCredentials,
    /// A `*` among methods or headers is no name.
    Wildcard,
    /// This is no origin.
    Origin(String),
}

impl fmt::Display for CorsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AnyWithCredentials => {
                f.write_str("pages of any origin cannot have credentials; list the origins that may")
            }
            Self::Wildcard => f.write_str("`*` is no method and no header; name them, or mirror the headers"),
            Self::Origin(origin) => write!(
                f,
                "{origin:?} is no origin such as `https://app.example`, `http://localhost:3000` or `https://*.example`"
            ),
        }
    }
}

impl std::error::Error for CorsError {}

/// One origin, or all below a name.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Origin {
    One(String),
    /// `https://`, and `.shop.example` with its port.
    Below {
        scheme: String,
        suffix: String,
    },
}

impl Origin {
    fn is(&self, origin: &str) -> bool {
        match self {
            Self::One(one) => one == origin,
            Self::Below { scheme, suffix } => origin
                .strip_prefix(&**scheme)
                .and_then(|rest| rest.strip_suffix(&**suffix))
                .is_some_and(is_host),
        }
    }
}

impl FromStr for Origin {
    type Err = CorsError;

    /// As browsers write it: in lower case, without the port that is the scheme's own.
    fn from_str(text: &str) -> Result<Self, CorsError> {
        let wrong = || CorsError::Origin(text.to_owned());
        let lower = text.to_ascii_lowercase();
        let (scheme, place) = lower.split_once("://").ok_or_else(wrong)?;
        let is_scheme = scheme.starts_with(|c: char| c.is_ascii_lowercase())
            && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
        let (host, port) = match place.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => {
                let number = port.parse::<u16>().map_err(|_| wrong())?;
                let is_usual = matches!((scheme, number), ("https", 443) | ("http", 80));
                (host, if is_usual { String::new() } else { format!(":{number}") })
            }
            _ => (place, String::new()),
        };
        let (below, name) = host.strip_prefix("*.").map_or((false, host), |name| (true, name));
        let is_address = !below && name.starts_with('[') && name.ends_with(']') && {
            name[1..name.len() - 1].parse::<std::net::Ipv6Addr>().is_ok()
        };
        if !is_scheme || !(is_host(name) || is_address) {
            return Err(wrong());
        }
        let scheme = format!("{scheme}://");
        Ok(if below {
            Self::Below { scheme, suffix: format!(".{name}{port}") }
        } else {
            Self::One(format!("{scheme}{host}{port}"))
        })
    }
}

/// Whether it is a name of labels, none of which is empty.
fn is_host(name: &str) -> bool {
    let is_label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|byte| {
                byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'_'
            })
    };
    name.split('.').all(is_label)
}

/// What a request is to this layer.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    /// It has no origin, or several, or one that is not allowed.
    Other,
    /// Its page may read the answer.
    Allowed(HeaderValue),
    /// The page asks beforehand, and may.
    Preflight(HeaderValue),
    /// The page asks beforehand, and may not.
    Refused,
}

/// The pure decision.
fn evaluate(rules: &Rules, head: &Head<'_>) -> Kind {
    let mut lines = head.headers.get_all(ORIGIN).iter();
    let Some(origin) = lines.next() else { return Kind::Other };
    let is_preflight =
        head.method == Method::OPTIONS && head.headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD);
    let is_allowed = lines.next().is_none()
        && rules.origins.as_ref().is_none_or(|origins| {
            origin.to_str().is_ok_and(|origin| origins.iter().any(|known| known.is(origin)))
        });
    match (is_preflight, is_allowed) {
        (true, true) => Kind::Preflight(origin.clone()),
        (true, false) => Kind::Refused,
        (false, true) => Kind::Allowed(origin.clone()),
        (false, false) => Kind::Other,
    }
}

impl Rules {
    /// Writes what every response to an allowed origin has.
    fn allow(&self, origin: HeaderValue, headers: &mut HeaderMap) {
        let allowed = if self.origins.is_some() { origin } else { HeaderValue::from_static("*") };
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
        if self.credentials {
            headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
    }

    /// What a page may do, that has asked `wanted`.
    fn permit(&self, origin: HeaderValue, wanted: Option<HeaderValue>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        self.allow(origin, &mut headers);
        let permitted = match &self.headers {
            AllowedHeaders::These(these) => these.clone(),
            AllowedHeaders::Mirror => wanted.filter(|wanted| wanted.len() <= MAX_MIRRORED),
        };
        let all = [
            (ACCESS_CONTROL_ALLOW_METHODS, self.methods.clone()),
            (ACCESS_CONTROL_ALLOW_HEADERS, permitted),
            (ACCESS_CONTROL_MAX_AGE, self.max_age.clone()),
            (VARY, Some(HeaderValue::from_static(PREFLIGHT_VARY))),
        ];
        headers.extend(all.into_iter().filter_map(|(name, value)| Some((name, value?))));
        headers
    }

    /// Makes a response from behind one of ours.
    fn mark(&self, origin: Option<HeaderValue>, headers: &mut HeaderMap) {
        for name in [
            ACCESS_CONTROL_ALLOW_ORIGIN,
            ACCESS_CONTROL_ALLOW_CREDENTIALS,
            ACCESS_CONTROL_EXPOSE_HEADERS,
            ACCESS_CONTROL_ALLOW_METHODS,
            ACCESS_CONTROL_ALLOW_HEADERS,
            ACCESS_CONTROL_MAX_AGE,
            ALLOW_PRIVATE_NETWORK,
        ] {
            headers.remove(name);
        }
        if self.origins.is_some() && !varies_by_origin(headers) {
            headers.append(VARY, HeaderValue::from_static("origin"));
        }
        if let Some(origin) = origin {
            self.allow(origin, headers);
            if let Some(exposed) = &self.exposed {
                headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, exposed.clone());
            }
        }
    }
}

const PREFLIGHT_VARY: &str = "origin, access-control-request-method, access-control-request-headers";
const ALLOW_PRIVATE_NETWORK: HeaderName = HeaderName::from_static("access-control-allow-private-network");

fn varies_by_origin(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(VARY).into_iter().filter_map(|line| line.to_str().ok());
    let mut names = lines.flat_map(|line| line.split(',')).map(str::trim);
    names.any(|name| name == "*" || name.eq_ignore_ascii_case("origin"))
}

/// Applies [`Cors`]; see the [module docs](self) for an example.
#[must_use]
pub struct CorsLayer<O = ()> {
    shared: Option<Arc<Shared<O>>>,
}

#[derive(Clone)]
struct Shared<O> {
    rules: CorsRules,
    name: Option<Arc<str>>,
    observer: O,
}

impl CorsLayer {
    /// By these rules.
    pub fn new(rules: CorsRules) -> Self {
        Self::observed(rules, ())
    }
}

impl<O: Observer> CorsLayer<O> {
    /// As [`new`](CorsLayer::new), and tells `observer` of preflights: admitted or rejected.
    pub fn observed(rules: CorsRules, observer: O) -> Self {
        Self { shared: Some(Arc::new(Shared { rules, name: None, observer })) }
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

    /// Other rules.
    pub fn reconfigured(&self, rules: &CorsRules) -> Self
    where
        O: Clone,
    {
        self.map(|old| Shared { rules: rules.clone(), ..old.clone() })
    }

    fn map(&self, change: impl Fn(&Shared<O>) -> Shared<O>) -> Self {
        Self { shared: self.shared.as_deref().map(|shared| Arc::new(change(shared))) }
    }
}

impl<O> fmt::Debug for CorsLayer<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = self.shared.as_ref().map(|shared| (&shared.name, &shared.rules));
        f.debug_tuple("CorsLayer").field(&known).finish()
    }
}

impl<O> Shared<O> {
    fn refusal(&self) -> Rejection {
        let vary = HeaderMap::from_iter([(VARY, HeaderValue::from_static(PREFLIGHT_VARY))]);
        Rejection::new(Reason::OriginRefused).headers(vary).by(self.name.clone())
    }
}

layered! {
    /// Lets pages of other origins ask and read; see the [module docs](self).
    CorsLayer { shared } => Cors
}

impl<O: Observer> Explain for CorsLayer<O> {
    fn kind(&self) -> &'static str {
        "cors"
    }

    fn name(&self) -> Option<&str> {
        self.shared.as_ref()?.name.as_deref()
    }

    fn explain(&self, _: Now, head: &mut Parts) -> Finding {
        let Some(shared) = &self.shared else { return Finding::Off };
        match evaluate(&shared.rules.0, &Head::from(&*head)) {
            Kind::Other if head.headers.contains_key(ORIGIN) => {
                Finding::Admit("pages of its origin cannot read the answer".into())
            }
            Kind::Other => Finding::Passes,
            Kind::Allowed(_) => Finding::Admit("pages of its origin can read the answer".into()),
            Kind::Preflight(_) => {
                Finding::Answer(StatusCode::NO_CONTENT, "what pages of its origin may ask".into())
            }
            Kind::Refused => Finding::Reject(shared.refusal()),
        }
    }
}

impl<S, O, B, R> Service<Request<B>> for Cors<S, O>
where
    S: Service<Request<B>, Response = Response<R>>,
    O: Observer,
    R: Default,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = CorsFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let Some(shared) = &self.layer.shared else {
            return CorsFuture { state: State::Forward { future: self.inner.call(request), mark: None } };
        };
        let rules = &shared.rules;
        let origin = match evaluate(&rules.0, &Head::from(&request)) {
            Kind::Other => None,
            Kind::Allowed(origin) => Some(origin),
            Kind::Preflight(origin) => {
                shared.observer.admitted();
                let wanted = request.headers().get(ACCESS_CONTROL_REQUEST_HEADERS).cloned();
                let headers = rules.0.permit(origin, wanted);
                return CorsFuture { state: State::Answer { answer: Some(Answer::Permission(headers)) } };
            }
            Kind::Refused => {
                let refusal = shared.refusal();
                shared.observer.rejected(&refusal);
                return CorsFuture { state: State::Answer { answer: Some(Answer::Refusal(refusal)) } };
            }
        };
        let mark = Some((rules.clone(), origin));
        CorsFuture { state: State::Forward { future: self.inner.call(request), mark } }
    }
}

pin_project! {
    /// The future of [`Cors`].
    #[derive(Debug)]
    pub struct CorsFuture<F> {
        #[pin]
        state: State<F>,
    }
}

pin_project! {
    #[project = Projection]
    #[derive(Debug)]
    enum State<F> {
        Forward { #[pin] future: F, mark: Option<(CorsRules, Option<HeaderValue>)> },
        Answer { answer: Option<Answer> },
    }
}

#[derive(Debug)]
enum Answer {
    Permission(HeaderMap),
    Refusal(Rejection),
}

impl<F, R, E> Future for CorsFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    R: Default,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            Projection::Forward { future, mark } => {
                let mut response = ready!(future.poll(cx))?;
                if let Some((CorsRules(rules), origin)) = mark.take() {
                    rules.mark(origin, response.headers_mut());
                }
                Poll::Ready(Ok(response))
            }
            Projection::Answer { answer } => {
                Poll::Ready(Ok(match answer.take().expect("a future is not polled after it is ready") {
                    Answer::Refusal(rejection) => rejection.into_response(),
                    Answer::Permission(headers) => {
                        let mut response = Response::new(R::default());
                        *response.status_mut() = StatusCode::NO_CONTENT;
                        *response.headers_mut() = headers;
                        response
                    }
                }))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_origin_is_written_as_browsers_write_it() {
        let one = |text: &str| match text.parse() {
            Ok(Origin::One(one)) => one,
            other => panic!("{text}: {other:?}"),
        };
        assert_eq!(one("https://App.Example:443"), "https://app.example");
        assert_eq!(one("http://localhost:80"), "http://localhost");
        assert_eq!(one("https://localhost:80"), "https://localhost:80");
        assert_eq!(one("http://[::1]:3000"), "http://[::1]:3000");
        assert_eq!(one("http://[::1]"), "http://[::1]");
        assert_eq!(one("chrome-extension://abcdef"), "chrome-extension://abcdef");
        for wrong in [
            "",
            "*",
            "null",
            "app.example",
            "https://",
            "https://*",
            "https://*.",
            "https://app.example/",
            "https://a@app.example",
            "https://app.*.example",
            "https://app..example",
            "https://app.example:x",
            "https://app.example?",
            "https://*.*.example",
            "://a",
            "https://*.[::1]",
            "https://é.example",
        ] {
            assert_eq!(wrong.parse::<Origin>(), Err(CorsError::Origin(wrong.into())));
        }
    }

    #[test]
    fn below_a_name_is_not_the_name_nor_one_that_ends_like_it() {
        let below = "https://*.shop.example:8443".parse::<Origin>().unwrap();
        assert!(below.is("https://a.shop.example:8443") && below.is("https://a.b.shop.example:8443"));
        for other in [
            "https://shop.example:8443",
            "https://.shop.example:8443",
            "https://evilshop.example:8443",
            "http://a.shop.example:8443",
            "https://a.shop.example",
            "https://evil.example/.shop.example:8443",
            "https://evil.example#.shop.example:8443",
            "https://a@b.shop.example:8443",
            "null",
            "https://evil.example:1.shop.example:8443",
            "https://A.shop.example:8443",
        ] {
            assert!(!below.is(other), "{other}");
        }
    }

    proptest! {
        #[test]
        fn what_is_below_ends_with_the_name(origin in "[a-z.:/@#]{0,12}shop\\.example") {
            let below = "https://*.shop.example".parse::<Origin>().unwrap();
            if below.is(&format!("https://{origin}")) {
                let host = origin.strip_suffix(".shop.example").unwrap();
                prop_assert!(host.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'.'));
            }
        }
    }
}
