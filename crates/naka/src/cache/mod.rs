//! A cache that is shared by all callers: what was answered is answered again, for as long as it says that it is good.
//!
//! After RFC 9111 (HTTP Caching), with `stale-if-error` of RFC 5861 and `Cache-Status` of RFC 9211. Where the RFC leaves a
//! choice, the careful one is made: what is for one user never reaches another.
//!
//! # Decision
//! 1. GET and HEAD are looked up, but for those with `Range`, `If-Range`, `If-Match` or `If-Unmodified-Since`, and those that
//!    say another target or method in a header (`X-Original-URL`, `X-HTTP-Method-Override` and the like). All others
//!    pass; an answer without an error to one that is not safe forgets what is kept under its target, and what was asked for
//!    before is not kept.
//! 2. What is kept is found by whether a layer has found out who asks (what somebody is told nobody hears, and the other way round,
//!    also where it says `public`), by host, target, version, `Forwarded` and `X-Forwarded-*` but for addresses, and
//!    [whatever else](CacheLayer::keyed) is said, and by the headers that its `Vary` names. If it is fresh, and
//!    the client does not ask for better (`no-cache`, `max-age`, `min-fresh`), it is the answer, with its `Age`, or 304 if
//!    the client has it already.
//! 3. If it is not, whoever is behind is asked, by its `ETag` or `Last-Modified` if there is one: 304 makes what is kept
//!    fresh again.
//! 4. If that fails (500, 502, 503, 504, an error, or a refusal of ours that is about whoever is behind: an open breaker, no
//!    endpoint, a full bulkhead), a stale one stands in, for `stale-if-error` of its own or
//!    [`stale_if_error`](CacheConfig::stale_if_error); never one that says `must-revalidate`, `proxy-revalidate`, `no-cache` or
//!    `s-maxage`, and not if the client asks for `no-cache`.
//! 5. Of the same requests at one time one goes, and the others wait for its answer, once, and for
//!    [`coalesce`](CacheConfig::coalesce) at most. If it fails, or is not for them, they all go; if one gives up, the next one
//!    goes. If what comes cannot be kept, nobody waits for it in the next ten seconds. Those who say who they are wait for
//!    their like only, and those with conditions of their own only where something is kept already.
//!
//! # What is kept
//! Answers to GET that say for how long (`s-maxage`, `max-age`, `Expires`), or can be asked about; without a word for
//! [`default_ttl`](CacheConfig::default_ttl). Never `no-store`, `private`, `Vary: *` or more than 32 names there, what depends on headers that are
//! [written behind](CacheLayer::written_behind) this layer, what sets a cookie, parts (206), nor what a layer
//! of ours answered. Of a caller who says who it is (`Authorization`, `Cookie`, any header
//! with `auth`, `token`, `key`, `secret`, `session`, `password` or `cookie` in its name, or an
//! [`Identity`] that a layer found) only what says `public`, `s-maxage` or `must-revalidate` is kept, and
//! is answered with nothing else.
//!
//! # Where it stands
//! Inside of all that decides who may, and of fallbacks, which hear of a failure only if there is nothing to stand in. Outside
//! of bulkheads, breakers and retries: what is kept needs no place and no endpoint.
//!
//! # Units and limits
//! All of it together [`max_bytes`](CacheConfig::max_bytes), 64 MiB, headers and keys included; a body
//! [`max_body`](CacheConfig::max_body), 1 MiB; being written down at one time as much again. Eight variants of one thing.
//! At a bound the oldest goes that was not used since. A request that is looked up costs a copy of its headers if it is sent on.
//!
//! # State
//! What is kept, for all services of a layer and its clones, and layers made by [`reconfigured`](CacheLayer::reconfigured).
//!
//! # Errors and panics
//! `S::Error` passes, unless a stale answer stands in. `only-if-cached` in vain is 504.
//!
//! # Example
//! ```
//! # use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
//! # use bytes::Bytes;
//! # use http::{Request, Response};
//! # use http_body_util::{BodyExt, Full};
//! # use tower::{Layer, ServiceExt};
//! use naka::cache::{CacheConfig, CacheLayer};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! # static ASKED: AtomicU32 = AtomicU32::new(0);
//! let menu = tower::service_fn(|_: Request<()>| async {
//!     ASKED.fetch_add(1, Relaxed);
//!     Ok::<_, ()>(Response::builder().header("cache-control", "max-age=60").body(Full::<Bytes>::from("vada pav")).unwrap())
//! });
//! let service = CacheLayer::new(CacheConfig::new()).layer(menu);
//! for _ in 0..3 {
//!     let response = service.clone().oneshot(Request::get("/menu").body(()).unwrap()).await.unwrap();
//!     assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "vada pav");
//! }
//! assert_eq!(ASKED.load(Relaxed), 1);
//! # }
//! ```

use std::{fmt, sync::Arc};

use http::{
    HeaderMap, HeaderName, StatusCode,
    header::{FORWARDED, HOST},
    request::Parts,
    uri::Authority,
};

use crate::{
    buffered::Buffering,
    clock::{Now, WallClock},
    context::{ApiVersion, Upgrade},
    explain::{Explain, Finding},
    identity::Identity,
    observe::Observer,
    reject::{Head, Reason, Rejection},
};

mod body;
mod config;
mod directives;
mod rules;
mod service;
mod store;

pub use body::CacheBody;
pub use config::CacheConfig;
use rules::{Asked, Use, Why};
pub use service::{Cache, CacheFuture};
use store::Store;

/// What became of a request at each cache on its way (RFC 9211); we call ourselves `naka`.
pub const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// Applies [`Cache`]; see the [module docs](self) for an example.
#[must_use]
pub struct CacheLayer<O = ()> {
    shared: Option<Arc<Shared<O>>>,
}

/// What tells things apart that have one target.
type KeyOf = Arc<dyn Fn(&Head<'_>) -> String + Send + Sync>;

pub(crate) struct Shared<O> {
    config: CacheConfig,
    store: Arc<Store>,
    buffering: Arc<Buffering>,
    of: Option<KeyOf>,
    /// Headers that are written behind this layer.
    written: Arc<[HeaderName]>,
    wall: WallClock,
    name: Option<Arc<str>>,
    observer: O,
}

impl CacheLayer {
    /// With nothing in it.
    pub fn new(config: CacheConfig) -> Self {
        Self::observed(config, ())
    }
}

impl<O> CacheLayer<O> {
    /// The same, with somebody who hears of it: [`replayed`](Observer::replayed) what was kept,
    /// [`admitted`](Observer::admitted) what was sent on, [`fell_back`](Observer::fell_back) what stood in.
    pub fn observed(config: CacheConfig, observer: O) -> Self {
        let (store, buffering) = (Arc::new(Store::new()), Arc::default());
        let (of, written, wall, name) = (None, Arc::default(), WallClock::system(), None);
        Self {
            shared: Some(Arc::new(Shared { config, store, buffering, of, written, wall, name, observer })),
        }
    }

    /// A layer that is not there.
    pub const fn off() -> Self {
        Self { shared: None }
    }

    /// Whether it is a layer that is not there.
    pub const fn is_off(&self) -> bool {
        self.shared.is_none()
    }

    /// Another configuration over what is kept. What is over a lower bound goes when the next is kept; what is kept
    /// lives as long as it was said when it came.
    pub fn reconfigured(&self, config: CacheConfig) -> Self
    where
        O: Clone,
    {
        self.changed(|shared| shared.config = config)
    }

    /// Names the policy, in what it explains.
    pub fn named(self, name: &Arc<str>) -> Self
    where
        O: Clone,
    {
        self.changed(|shared| shared.name = Some(Arc::clone(name)))
    }

    /// Besides host, target, [version](ApiVersion) and what proxies say of these (`Forwarded`, `X-Forwarded-*`), this tells
    /// things apart: a tenant, for one. It must not depend on what [`Vary`](http::header::VARY) says already.
    pub fn keyed(self, of: impl Fn(&Head<'_>) -> String + Send + Sync + 'static) -> Self
    where
        O: Clone,
    {
        let of: KeyOf = Arc::new(of);
        self.changed(|shared| shared.of = Some(Arc::clone(&of)))
    }

    /// These headers are written by somebody behind this layer, who the caller is for one: what depends on them
    /// (`Vary`) is not kept, because it cannot be known here what they will be.
    pub fn written_behind(self, names: impl IntoIterator<Item = HeaderName>) -> Self
    where
        O: Clone,
    {
        let names = names.into_iter().collect::<Arc<[_]>>();
        self.changed(|shared| shared.written = Arc::clone(&names))
    }

    /// Dates are compared with this clock: for tests, and for replaying.
    pub fn dated(self, wall: WallClock) -> Self
    where
        O: Clone,
    {
        self.changed(|shared| shared.wall = wall)
    }

    fn changed(&self, how: impl FnOnce(&mut Shared<O>)) -> Self
    where
        O: Clone,
    {
        let Some(Shared { config, store, buffering, of, written, wall, name, observer }) =
            self.shared.as_deref()
        else {
            return Self::off();
        };
        let mut shared = Shared {
            config: *config,
            store: Arc::clone(store),
            buffering: Arc::clone(buffering),
            of: of.clone(),
            written: Arc::clone(written),
            wall: *wall,
            name: name.clone(),
            observer: observer.clone(),
        };
        how(&mut shared);
        Self { shared: Some(Arc::new(shared)) }
    }

    /// Forgets all that is kept.
    pub fn clear(&self) {
        if let Some(shared) = &self.shared {
            shared.store.clear(Now::read());
        }
    }

    /// What is kept.
    pub fn counts(&self) -> Counts {
        let (entries, bytes) = self.shared.as_ref().map_or((0, 0), |shared| shared.store.counts());
        Counts { entries, bytes }
    }
}

/// What is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Responses.
    pub entries: usize,
    /// What they take, in bytes.
    pub bytes: usize,
}

impl<O> fmt::Debug for CacheLayer<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheLayer").field("config", &self.shared.as_ref().map(|it| it.config)).finish()
    }
}

impl<O> Shared<O> {
    /// What it is kept under: whether it is known who asks, host, target, version, and what [`keyed`](CacheLayer::keyed)
    /// says. None of a request that does not say its target.
    fn key(&self, head: &Head<'_>) -> Option<String> {
        let mut key = self.both(head)?;
        if Identity::of(head.extensions).is_none() {
            key.drain(..KNOWN.len());
        }
        Some(key)
    }

    /// The key of those who are known, which is [`KNOWN`] and then that of those who are not.
    fn both(&self, head: &Head<'_>) -> Option<String> {
        let target = head.uri.path_and_query()?;
        let host = head.uri.authority().map(Authority::as_str);
        let host = host.or_else(|| head.headers.get(HOST)?.to_str().ok()).unwrap_or_default();
        let version = ApiVersion::of(head.extensions).map(|version| &**version).unwrap_or_default();
        let more = self.of.as_ref().map(|of| of(head)).unwrap_or_default();
        let target = target.as_str();
        let length = KNOWN.len() + host.len() + target.len() + version.len() + more.len() + 16;
        let mut key = String::with_capacity(length);
        key.push_str(KNOWN);
        host.chars().for_each(|c| push(&mut key, c.to_ascii_lowercase()));
        for part in [target, version, &more].into_iter().chain(forwarded(head.headers)) {
            key.push(' ');
            part.chars().for_each(|c| push(&mut key, c));
        }
        Some(key)
    }
}

/// How the key of those who are known begins. No other begins like this: what is pushed has no `%k`.
const KNOWN: &str = "%known ";

/// What may be answered with what is kept, or why not.
fn asked(head: &Head<'_>) -> Result<Asked, Why> {
    if Upgrade::is_asked(head.extensions) {
        return Err(Why("it asks for another protocol"));
    }
    Asked::of(head.method, head.headers, Identity::of(head.extensions).is_some())
}

/// What `only-if-cached` gets in vain.
fn not_cached() -> Rejection {
    let reason = Reason::Custom(StatusCode::GATEWAY_TIMEOUT, "not_cached");
    Rejection::new(reason).detail("It is not kept here, and nobody else may be asked.")
}

/// What proxies say of how the client has asked: an answer may depend on it, and no `Vary` says so.
fn forwarded(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    const NAMES: [&str; 4] =
        ["x-forwarded-proto", "x-forwarded-host", "x-forwarded-port", "x-forwarded-prefix"];
    let lines = NAMES.into_iter().flat_map(|name| headers.get_all(name));
    let lines = lines.map(|line| line.to_str().unwrap_or("?"));
    let parts = headers.get_all(FORWARDED).into_iter();
    let parts = parts.flat_map(|line| line.to_str().unwrap_or("host=?").split([',', ';']));
    let is_said = |part: &&str| {
        let name = part.split('=').next().unwrap_or_default();
        ["host", "proto"].iter().any(|known| name.eq_ignore_ascii_case(known))
    };
    lines.chain(parts.map(str::trim).filter(is_said))
}

/// Writes a part of a key. None has a space in it, or one could be taken for another.
fn push(key: &mut String, c: char) {
    match c {
        ' ' => key.push_str("%20"),
        '%' => key.push_str("%25"),
        c => key.push(c),
    }
}

impl<O: Observer> CacheLayer<O> {
    /// What would be answered if somebody behind has refused the request in this way; `None` if that refusal.
    pub fn explain_refusal(&self, refused: &Rejection, now: Now, head: &Parts) -> Option<Finding> {
        let shared = self.shared.as_ref().filter(|_| rules::is_trouble(refused.reason))?;
        let head = Head::from(head);
        let asked = asked(&head).ok()?;
        let (entry, how) = shared.store.look(&shared.key(&head)?, head.headers, &asked, now)?;
        let stands_in = how == Use::Stale { stands_in: true };
        let late = entry.life.late(entry.age(now)).as_secs();
        stands_in.then(|| Finding::Answer(entry.status, format!("kept, and stale for {late} s")))
    }
}

impl<O: Observer> Explain for CacheLayer<O> {
    fn kind(&self) -> &'static str {
        "cache"
    }

    fn name(&self) -> Option<&str> {
        self.shared.as_ref()?.name.as_deref()
    }

    fn explain(&self, now: Now, head: &mut Parts) -> Finding {
        let Some(shared) = &self.shared else { return Finding::Off };
        let head = Head::from(&*head);
        let asked = match asked(&head) {
            Ok(asked) => asked,
            Err(Why(why)) => return Finding::Admit(format!("not looked up: {why}")),
        };
        let Some(key) = shared.key(&head) else { return Finding::Passes };
        let found = shared.store.look(&key, head.headers, &asked, now);
        if asked.directives.only_if_cached && !matches!(found, Some((_, Use::Fresh))) {
            return Finding::Reject(not_cached());
        }
        let Some((entry, how)) = found else { return Finding::Admit("nothing is kept".to_owned()) };
        let (age, late) = (entry.age(now).as_secs(), entry.life.late(entry.age(now)).as_secs());
        match how {
            Use::Fresh => Finding::Answer(entry.status, format!("kept, {age} s old")),
            Use::Stale { stands_in: true } => {
                Finding::Admit(format!("stale for {late} s; it stands in for a failure"))
            }
            Use::Stale { .. } | Use::No => {
                Finding::Admit(format!("kept, but {age} s old: it is asked about"))
            }
        }
    }
}
