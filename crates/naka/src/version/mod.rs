//! Versions of an API: which one a request asks for, and what has to be told about its life.
//!
//! # Decision
//! 1. Each [`Strategy`] looks in its place, in order. A place that is for versions alone (a header, a
//!    parameter) means one whatever it says; a segment of the path or a label of the host means one if it
//!    is a name of ours, or looks like one that we might have (`v9`, `v2beta1`). `2`, `v2`, `V2` and `2.0`
//!    are one version; other names only by an alias.
//! 2. `Accept` is a list of wishes (RFC 9110, 12.5.1), as vendor types (`application/vnd.acme.v2+json`) and
//!    as a parameter (`application/json;version="2"`): the one of the highest weight that is served counts,
//!    one of weight 0 is excluded, and media types without a version say nothing. If no version that is
//!    wished for exists, one of those without (`*/*`) still is an answer.
//! 3. Two places that differ: `400` and [`Reason::VersionConflict`], or the first place counts
//!    ([`OnConflict::Precedence`]). One place that contradicts itself is always refused. A version that is
//!    among the wishes does not contradict them.
//! 4. One that does not exist: `400` and [`Reason::VersionUnsupported`]; if only `Accept` asks for it, `406`
//!    and [`Reason::VersionNotAcceptable`]. Both name what there is. Nothing said: the
//!    [default](VersionConfig::default), which is one that was pinned and never by itself the newest;
//!    without it `400`.
//! 5. After its sunset, `410` and [`Reason::VersionGone`]; in a brown-out, `503`,
//!    [`Reason::VersionBrownout`] and `Retry-After` until its end. Both with a `Link` to the successor, if that is another URI.
//! 6. Admitted: the version is an [`ApiVersion`] of the request, and a segment that is to be stripped is
//!    taken away. Headers of the request stay.
//!
//! # What responses tell
//! `X-API-Version`; `Vary` with each header that could have decided, added to what is there; of a version
//! with an end `Deprecation: @…` (RFC 9745), `Sunset` (RFC 8594) and `Link` with the relations
//! `deprecation` and `sunset` (its documentation) and `successor-version` (RFC 5829): the same resource,
//! with the successor wherever the URI says a version. If only a header says it, there is no such link: it
//! would lead to the same URI. A `Deprecation` or `Sunset` that is there already
//! stays: a resource may end before its version. Refusals have `Vary` too.
//!
//! # Where it stands
//! Around whatever routes, if it changes the path: `axum::Router::layer` runs after routing and is too late
//! for that, so the layer goes around the router (`layer.layer(router)`).
//!
//! # Units and limits
//! Instants are seconds since 1970. A name has at most 32 bytes; at most [`MAX_VERSIONS`] versions, with
//! [`MAX_ALIASES`] aliases and [`MAX_BROWNOUTS`] brown-outs each, and [`MAX_STRATEGIES`] strategies. What a
//! stranger wrote is cut to 32 bytes before it is shown. A URI of more than 4096 bytes gets no link.
//! Nothing is allocated for a version without a successor in a request with a [`Context`]; a link, and a
//! path that is stripped, are one allocation each.
//!
//! Usage ([`usage`](VersionLayer::usage)) is counted for 30 days, for at most 1,000 consumers a version
//! (about 200 bytes each; whoever was not seen for 30 days gives its place away; others are counted together)
//! and 128 versions
//! of this and earlier configurations (the one that is longest unused goes). It is kept in memory, for each
//! process by itself. Counted is each request whose version is known, also if it is refused since the
//! version is gone: whoever still asks would notice. A version is
//! [safe to retire](VersionUsage::is_safe_to_retire) at the earliest when it has been counted itself for seven days
//! without a gap.
//!
//! # State
//! Usage, by the names of versions: [`reconfigured`](VersionLayer::reconfigured) keeps it.
//!
//! # Errors and panics
//! Adds no error: `S::Error` passes unchanged. Never panics.
//!
//! # Example
//! ```
//! # use http::{Request, Response};
//! # use tower::{Layer, ServiceExt};
//! use naka::version::{ApiVersion, Version, VersionConfig, VersionLayer};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let (from, until) = (1_767_225_600, 4_102_444_800);
//! let old = Version::new("1").deprecated(from).sunset(until).successor("2").docs("https://api.example/v1-ends");
//! let versioning = VersionConfig::new([old, Version::new("2")]).default_version("1").check()?;
//! let shop = tower::service_fn(|request: Request<()>| async move {
//!     let version = ApiVersion::of(request.extensions()).cloned().unwrap_or_default();
//!     Ok::<_, std::io::Error>(Response::new(version.to_string()))
//! });
//! let service = VersionLayer::new(versioning).layer(shop);
//!
//! let response = service.clone().oneshot(Request::get("/v1/products/7").body(())?).await?;
//! assert_eq!(response.body(), "1");
//! assert_eq!(response.headers()["deprecation"], "@1767225600");
//! let links = response.headers().get_all("link").iter().collect::<Vec<_>>();
//! assert!(links.contains(&&"</v2/products/7>; rel=\"successor-version\"".parse()?));
//!
//! let response = service.clone().oneshot(Request::get("/v2/products/7").body(())?).await?;
//! assert_eq!((response.status().as_u16(), &response.headers()["x-api-version"]), (200, &"2".parse()?));
//! let response = service.oneshot(Request::get("/v3/products/7").body(())?).await?;
//! assert_eq!(response.status(), 400);
//! # Ok(()) }
//! ```
//!
//! [`Context`]: crate::context::Context

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, Once, OnceLock},
    task::{Context, Poll, ready},
    time::Duration,
};

use http::{
    Extensions, HeaderMap, HeaderName, HeaderValue, Request, Response,
    header::{Entry, LINK, VARY},
    request::Parts,
};
use pin_project_lite::pin_project;
use tower_service::Service;

mod accept;
mod config;
mod name;
mod read;
mod usage;

pub use config::{
    MAX_ALIASES, MAX_BROWNOUTS, MAX_STRATEGIES, MAX_VERSIONS, OnConflict, State, Strategy, Version,
    VersionConfig, VersionError, Versioning,
};
pub use name::MAX_NAME;
pub use usage::{
    Consumer, ConsumerUsage, DAYS, DayUsage, MAX_CONSUMERS, SHARE_DAYS, UsageReport, VersionUsage,
};

pub use crate::context::ApiVersion;
use crate::{
    clock::Now,
    context::ClientAddr,
    explain::{Explain, Finding},
    identity::Identity,
    key::client_network,
    layered::layered,
    observe::Observer,
    reject::{Head, Reason, Rejection, Verdict},
};
use config::Checked;
use name::shown;
use read::{Meant, meant, stripped, successor_link};
use usage::{Counted, Record, Usage, Who};

/// `X-API-Version`: which version answered.
pub const ECHO: HeaderName = HeaderName::from_static("x-api-version");
const DEPRECATION: HeaderName = HeaderName::from_static("deprecation");
const SUNSET: HeaderName = HeaderName::from_static("sunset");

/// The version that was chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Chosen {
    /// Its name.
    pub version: Arc<str>,
    /// Where the request says so ([`Strategy::word`]); `None`: it says nothing, and this is the default.
    pub by: Option<&'static str>,
    index: usize,
}

/// The pure decision: these versions, this time, this head.
pub fn evaluate(versioning: &Versioning, unix_s: u64, head: &Head<'_>) -> Verdict<Chosen> {
    match decide(&versioning.0, unix_s, head) {
        Ok(chosen) => Verdict::Admit(chosen),
        Err(refused) => Verdict::Reject(*refused.rejection),
    }
}

struct Refused {
    /// The version that is meant, if it is one of ours.
    index: Option<usize>,
    /// Apart: it is large, and rare.
    rejection: Box<Rejection>,
}

fn decide(checked: &Checked, unix_s: u64, head: &Head<'_>) -> Result<Chosen, Refused> {
    let (index, by) = match meant(checked, unix_s, head) {
        Meant::Version(index, by) => (index, by),
        other => return Err(Refused { index: None, rejection: unclear(checked, unix_s, &other).into() }),
    };
    let version = &checked.config.versions[index];
    let refuse = |rejection: Rejection| {
        let rejection = rejection.headers(told_of_refused(checked, unix_s, head, index));
        Err(Refused { index: Some(index), rejection: rejection.into() })
    };
    match (version.state(unix_s), version.off_until(unix_s)) {
        // Only a default can be: whoever asks for it asks for one that does not exist.
        (State::Planned, _) => {
            let rejection = unclear(checked, unix_s, &Meant::None);
            Err(Refused { index: None, rejection: rejection.into() })
        }
        (State::Sunset | State::Removed, _) => refuse(Rejection::new(Reason::VersionGone)),
        (_, Some(until_s)) => {
            let wait = Duration::from_secs(until_s.saturating_sub(unix_s));
            refuse(Rejection::new(Reason::VersionBrownout).retry_after(wait))
        }
        _ => {
            let by = by.map(|place| checked.config.strategies[place].word());
            Ok(Chosen { version: Arc::clone(&version.name), by, index })
        }
    }
}

/// It cannot be said which of our versions is meant.
fn unclear(checked: &Checked, unix_s: u64, meant: &Meant<'_>) -> Rejection {
    let supported = checked.supported(unix_s);
    let (reason, detail) = match meant {
        Meant::Unknown(text) => (
            Reason::VersionUnsupported,
            format!("The version \"{}\" does not exist; supported: {supported}.", shown(text)),
        ),
        Meant::NotAcceptable => (
            Reason::VersionNotAcceptable,
            format!("None of the versions in `Accept` exists; supported: {supported}."),
        ),
        Meant::Conflict => (
            Reason::VersionConflict,
            format!("The request asks for two different versions at once; supported: {supported}."),
        ),
        Meant::Version(..) | Meant::None => (
            Reason::VersionUnsupported,
            format!("The request names no version, and there is no default; supported: {supported}."),
        ),
    };
    let mut headers = HeaderMap::new();
    add_vary(checked, &mut headers);
    Rejection::new(reason).detail(&detail).headers(headers)
}

fn told_of_refused(checked: &Checked, unix_s: u64, head: &Head<'_>, index: usize) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let link = checked.told[index].successor.and_then(|next| successor_link(checked, unix_s, head, next));
    tell(checked, index, link, &mut headers);
    headers
}

/// What a response tells of its version.
fn tell(checked: &Checked, index: usize, link: Option<HeaderValue>, headers: &mut HeaderMap) {
    let told = &checked.told[index];
    headers.insert(ECHO, told.echo.clone());
    for (name, value) in [(DEPRECATION, &told.deprecation), (SUNSET, &told.sunset)] {
        if let Some(value) = value
            && let Entry::Vacant(place) = headers.entry(name)
        {
            place.insert(value.clone());
        }
    }
    for link in told.link.clone().into_iter().chain(link) {
        headers.append(LINK, link);
    }
    add_vary(checked, headers);
}

/// Adds what is missing; nothing to `*`, which is everything.
fn add_vary(checked: &Checked, headers: &mut HeaderMap) {
    let Some(all) = &checked.vary_all else { return };
    let has = |headers: &HeaderMap, name: &str| {
        let lines = headers.get_all(VARY).into_iter().map(HeaderValue::as_bytes);
        let mut words = lines.flat_map(|line| line.split(|byte| *byte == b',')).map(<[u8]>::trim_ascii);
        words.any(|word| word.eq_ignore_ascii_case(name.as_bytes()))
    };
    if !headers.contains_key(VARY) {
        headers.insert(VARY, all.clone());
    } else if !has(headers, "*") {
        for (name, value) in &checked.vary {
            if !has(headers, name.as_str()) {
                headers.append(VARY, value.clone());
            }
        }
    }
}

/// All versions, as they are now.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct VersionTable {
    /// The name of the one that is meant if none is said.
    pub default: Option<Arc<str>>,
    /// Each of them, in the order of the configuration.
    pub versions: Vec<VersionStatus>,
}

/// One version, as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct VersionStatus {
    /// Its names and instants.
    pub version: Version,
    /// Where in its life it is.
    pub state: State,
    /// Until when it is off, if it is.
    pub brownout_until_s: Option<u64>,
    /// Whether it is meant if none is said.
    pub is_default: bool,
}

/// Applies [`Versioned`]; see the [module docs](self) for an example.
#[must_use]
pub struct VersionLayer<O = ()> {
    shared: Option<Arc<Shared<O>>>,
}

struct Shared<O> {
    versioning: Versioning,
    usage: Arc<Usage>,
    /// By version; looked up with its first request, so that making a layer changes nothing.
    records: Box<[OnceLock<Arc<Record>>]>,
    /// These versions are counted since its first request.
    begun: Once,
    name: Option<Arc<str>>,
    observer: O,
}

impl VersionLayer {
    /// Finds which of these versions is meant.
    pub fn new(versioning: Versioning) -> Self {
        Self::observed(versioning, ())
    }
}

impl<O: Observer> VersionLayer<O> {
    /// As [`new`](VersionLayer::new), and tells `observer` what it does.
    pub fn observed(versioning: Versioning, observer: O) -> Self {
        Self::of(Shared::new(versioning, Arc::default(), None, observer))
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
        self.map(|old| (old.versioning.clone(), Some(Arc::clone(name))))
    }

    /// Other versions; usage is counted on.
    pub fn reconfigured(&self, versioning: &Versioning) -> Self
    where
        O: Clone,
    {
        self.map(|old| (versioning.clone(), old.name.clone()))
    }

    /// All versions as they are at `now`; none if it is off.
    pub fn versions(&self, now: Now) -> VersionTable {
        let Some(shared) = &self.shared else { return VersionTable { default: None, versions: Vec::new() } };
        let checked = &*shared.versioning.0;
        let unix_s = checked.config.clock.unix_s(now);
        let status = |(index, version): (usize, &Version)| VersionStatus {
            version: version.clone(),
            state: version.state(unix_s),
            brownout_until_s: version.off_until(unix_s).filter(|_| version.state(unix_s).is_served()),
            is_default: checked.default == Some(index),
        };
        VersionTable {
            default: checked.default.map(|index| Arc::clone(&checked.config.versions[index].name)),
            versions: checked.config.versions.iter().enumerate().map(status).collect(),
        }
    }

    /// Who uses which version, as far as it is known at `now`; nothing if it is off.
    pub fn usage(&self, now: Now) -> UsageReport {
        let Some(shared) = &self.shared else { return Usage::default().report([], 0) };
        let checked = &*shared.versioning.0;
        let versions = checked.config.versions.iter().enumerate().map(|(index, version)| {
            let canonical = &*checked.told[index].canonical;
            let record = shared.records[index].get().cloned().or_else(|| shared.usage.known(canonical));
            Counted { version, canonical, record }
        });
        shared.usage.report(versions, checked.config.clock.unix_s(now))
    }

    fn of(shared: Shared<O>) -> Self {
        Self { shared: Some(Arc::new(shared)) }
    }

    fn map(&self, change: impl Fn(&Shared<O>) -> (Versioning, Option<Arc<str>>)) -> Self
    where
        O: Clone,
    {
        self.shared.as_deref().map_or_else(Self::off, |old| {
            let (versioning, name) = change(old);
            Self::of(Shared::new(versioning, Arc::clone(&old.usage), name, old.observer.clone()))
        })
    }
}

impl<O> fmt::Debug for VersionLayer<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = self.shared.as_ref().map(|shared| (&shared.name, shared.versioning.config()));
        f.debug_tuple("VersionLayer").field(&known).finish()
    }
}

impl<O> Shared<O> {
    fn new(versioning: Versioning, usage: Arc<Usage>, name: Option<Arc<str>>, observer: O) -> Self {
        let records = versioning.config().versions.iter().map(|_| OnceLock::new()).collect();
        Self { versioning, usage, records, begun: Once::new(), name, observer }
    }
}

impl<O: Observer> Shared<O> {
    fn unix_s(&self, now: Now) -> u64 {
        self.versioning.config().clock.unix_s(now)
    }

    fn decide(&self, unix_s: u64, head: &Head<'_>) -> Result<Chosen, Refused> {
        decide(&self.versioning.0, unix_s, head).map_err(|refused| Refused {
            rejection: refused.rejection.by(self.name.clone()).into(),
            ..refused
        })
    }

    fn count(&self, index: usize, extensions: &Extensions, unix_s: u64) {
        let told = &self.versioning.0.told;
        self.begun.call_once(|| self.usage.begin(told.iter().map(|told| &*told.canonical), unix_s));
        let name = &*told[index].canonical;
        let record = self.records[index].get_or_init(|| self.usage.record(name, unix_s));
        let subject = Identity::of(extensions).and_then(|identity| identity.subject.as_ref());
        let who = match (subject, ClientAddr::of(extensions)) {
            (Some(subject), _) => Who::Subject(subject),
            (None, Some(address)) => Who::Client(client_network(address)),
            (None, None) => Who::Anonymous,
        };
        record.count(who, unix_s);
    }
}

layered! {
    /// Finds which version is meant; see the [module docs](self).
    VersionLayer { shared } => Versioned
}

impl<O: Observer> Explain for VersionLayer<O> {
    fn kind(&self) -> &'static str {
        "version"
    }

    fn name(&self) -> Option<&str> {
        self.shared.as_ref()?.name.as_deref()
    }

    fn explain(&self, now: Now, head: &mut Parts) -> Finding {
        let Some(shared) = &self.shared else { return Finding::Off };
        let unix_s = shared.unix_s(now);
        match shared.decide(unix_s, &Head::from(&*head)) {
            Ok(chosen) => {
                if let Some(uri) = stripped(&shared.versioning.0, unix_s, &Head::from(&*head)) {
                    head.uri = uri;
                }
                let by = chosen.by.unwrap_or("default");
                let said = format!("version {}, by {by}", chosen.version);
                ApiVersion(chosen.version).put(&mut head.extensions);
                Finding::Admit(said)
            }
            Err(refused) => Finding::Reject(*refused.rejection),
        }
    }
}

impl<S, O, B, R> Service<Request<B>> for Versioned<S, O>
where
    S: Service<Request<B>, Response = Response<R>>,
    O: Observer,
    R: Default,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = VersionFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let Some(shared) = &self.layer.shared else {
            return VersionFuture::Forward { future: self.inner.call(request), telling: None };
        };
        let head = Head::from(&request);
        let unix_s = shared.unix_s(Now::of(request.extensions()));
        let decision = shared.decide(unix_s, &head);
        let index = decision.as_ref().map_or_else(|refused| refused.index, |chosen| Some(chosen.index));
        if let Some(index) = index {
            shared.count(index, request.extensions(), unix_s);
        }
        match decision {
            Ok(Chosen { version, index, .. }) => {
                shared.observer.admitted();
                let checked = &shared.versioning.0;
                let successor = checked.told[index].successor;
                let link = successor.and_then(|next| successor_link(checked, unix_s, &head, next));
                if let Some(uri) = stripped(checked, unix_s, &head) {
                    *request.uri_mut() = uri;
                }
                ApiVersion(version).put(request.extensions_mut());
                let telling = Some(Telling { versioning: shared.versioning.clone(), index, link });
                VersionFuture::Forward { future: self.inner.call(request), telling }
            }
            Err(Refused { rejection, .. }) => {
                shared.observer.rejected(&rejection);
                VersionFuture::Reject { rejection: Some(*rejection) }
            }
        }
    }
}

#[doc(hidden)]
#[derive(Debug)]
pub struct Telling {
    versioning: Versioning,
    index: usize,
    link: Option<HeaderValue>,
}

pin_project! {
    /// The future of [`Versioned`].
    #[project = Projection]
    #[derive(Debug)]
    pub enum VersionFuture<F> {
        #[doc(hidden)]
        Forward { #[pin] future: F, telling: Option<Telling> },
        #[doc(hidden)]
        Reject { rejection: Option<Rejection> },
    }
}

impl<F, R, E> Future for VersionFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    R: Default,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            Projection::Forward { future, telling } => {
                let mut response = ready!(future.poll(cx))?;
                if let Some(Telling { versioning, index, link }) = telling.take() {
                    tell(&versioning.0, index, link, response.headers_mut());
                }
                Poll::Ready(Ok(response))
            }
            Projection::Reject { rejection } => {
                let rejection = rejection.take().expect("a future is not polled after it is ready");
                Poll::Ready(Ok(rejection.into_response()))
            }
        }
    }
}
