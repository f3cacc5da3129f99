//! Idempotency keys: what is repeated with the same key is answered again, and not done again.
//!
//! After draft-ietf-httpapi-idempotency-key-header. A client that did not hear an answer sends its `POST` once
//! more with the same `Idempotency-Key`; it gets the answer of the first, and the money moves once.
//!
//! # Decision
//! 1. Another method than [`methods`](IdempotencyConfig::methods), or no key: passes untouched (`400` and
//!    [`Reason::IdempotencyKeyMissing`] if one is [`required`](IdempotencyConfig::required)).
//! 2. A key is 1 to 255 visible characters, with quotes as a structured field has them or without. Two
//!    lines, or anything else: `400` and [`Reason::IdempotencyKeyInvalid`].
//! 3. The body is read: `413` and [`Reason::BodyTooLarge`] above
//!    [`max_request_bytes`](IdempotencyConfig::max_request_bytes). It goes on as it was.
//! 4. The key is looked up, and taken, in one step:
//!
//! | What is known of the key | Answer |
//! | --- | --- |
//! | nothing | the request goes on |
//! | another request: method, target, [`headers`](IdempotencyConfig::headers) or body differ | `422`, [`Reason::IdempotencyMismatch`] |
//! | it is at work | `409`, [`Reason::IdempotencyInFlight`], `Retry-After: 1` |
//! | it was answered | that answer, with `Idempotency-Replayed: true` |
//! | it was answered, but that was too large, or its client left before all of it was there | `409`, [`Reason::IdempotencyNotKept`] |
//! | it was given up, or broke off | `409`, [`Reason::IdempotencyUnknown`] |
//! | nothing, and there is no room; or none for its body | `503`, [`Reason::IdempotencyStoreFull`] |
//!
//! # What is remembered
//! An answer is written down while it goes to the client, and is known when its body has ended: status, body,
//! trailers, and headers without those of one connection or moment (`Date`, `Age`, `Server-Timing`,
//! `Retry-After`, and what says how much of a limit is left: `RateLimit`, `X-RateLimit-*`).
//!
//! * `2xx`, `3xx` and most `4xx` are remembered. `401`, `403`, `407`, `408`, `409`, `425` and `429` are not:
//!   they say that nothing was done, and may be another answer next time; the key is free again. So it is
//!   after a refusal of a layer of ours.
//! * `5xx` and errors free the key, so that a repetition can do better: whoever is behind has to be able
//!   to stand that. What must never run twice says [`Failures::Keep`]: then a `5xx` is remembered as any other
//!   answer, and after an error or a timeout of ours the outcome is not known.
//! * A request that is **given up** while it is at work, because its client went away or a timeout around this
//!   layer rang, may have been done or not. Nobody drives it on: its work is bound to its connection, as
//!   with all layers. Its key says so until its time is over, and nothing runs twice in silence. A request
//!   that is given up before it was passed on frees its key.
//!
//! # Whose key it is
//! Two callers' equal keys never meet. By default ([`by_caller`]) a key counts for one host, method and
//! path, and for the [`Identity`](crate::identity::Identity) of the caller, those [`beside`](crate::identity::Identity::beside) it included: stand inside of
//! what authenticates. Of one without a subject all claims count, so that a new token is another caller.
//! If somebody is known of whom neither subject nor claim is, the key is refused (`400`,
//! [`Reason::KeyMissing`]). Without an identity it counts for the client's network ([`client_network`](crate::key::client_network)),
//! which neighbours share: one who guesses a key *and* the whole request sees the answer. Without an address it
//! counts for everybody. [`scoped`](IdempotencyLayer::scoped) takes another rule.
//!
//! # Units and limits
//! A request's body: 1 MiB. An answer: 256 KiB. All that are being read or written down together:
//! [`max_buffered_bytes`](IdempotencyConfig::max_buffered_bytes), 64 MiB for each store. Beyond it a request
//! with a key is refused as by a store without room, and an answer passes as one that is too large.
//! [`Limits`]: 10,000 keys and 64 MiB for 24 h after the end, counted in whole nanoseconds. At a bound what is over goes first; then the
//! oldest that has ended if [`evict`](Limits::evict) says so; what is at work never. If there
//! is no room, new keys are refused, and known ones are still answered. One caller can take all the room: put a
//! rate limit outside. A request without a key allocates nothing.
//!
//! # State
//! All services made from one layer, and their clones, share one store, and so do layers made by
//! [`reconfigured`](IdempotencyLayer::reconfigured); time to live and bounds are those of the configuration that
//! asks. [`MemoryStore`] lives as long as the process: behind several processes the same key may run once in
//! each, until they share a [`Store`].
//!
//! # Errors and panics
//! Adds no error: `S::Error` passes unchanged. Never panics.
//!
//! # Example
//! ```
//! # use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
//! # use bytes::Bytes;
//! # use http::{Request, Response};
//! # use http_body_util::{BodyExt, Full};
//! # use tower::{Layer, ServiceExt};
//! use naka::idempotency::{IdempotencyConfig, IdempotencyLayer};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! # let paid = AtomicU32::new(0);
//! # let pays = tower::service_fn(|_: Request<_>| {
//! #     let number = paid.fetch_add(1, SeqCst) + 1;
//! #     async move { Ok::<_, ()>(Response::new(Full::<Bytes>::from(format!("payment {number}")))) }
//! # });
//! let service = IdempotencyLayer::new(IdempotencyConfig::new()).layer(pays);
//! for (key, answer) in [("a", "payment 1"), ("a", "payment 1"), ("b", "payment 2")] {
//!     let request = Request::post("/pay").header("idempotency-key", key).body(Full::<Bytes>::from("40")).unwrap();
//!     let response = service.clone().oneshot(request).await.unwrap();
//!     assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), answer);
//! }
//! # }
//! ```

use std::{fmt, sync::Arc, time::Duration};

use http::{
    Extensions, HeaderMap, HeaderName, Method, StatusCode,
    header::{CONTENT_LENGTH, CONTENT_TYPE},
    request::Parts,
};
use tokio::time::Instant;

mod body;
mod key;
mod scope;
mod service;
mod store;
mod table;

pub use body::IdempotencyBody;
use scope::Hash;
pub use scope::{Scope, by_caller};
pub use service::{Idempotency, IdempotencyFuture};
pub use store::{Beginning, Begun, MemoryStore, Outcome, Recorded, Store};
pub use table::{Counts, Digest, Limits};

use crate::{
    attempt::{Sent, StandIn},
    buffered::{Buffering, Share},
    clock::Now,
    context::Upgrade,
    explain::{Explain, Finding},
    held::{Held, Part},
    observe::Observer,
    reject::{Dependency, Head, Reason, Rejection},
};

/// The header of an answer that is played back.
pub const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// How long a client should wait for a request that is at work.
const IN_FLIGHT_WAIT: Duration = Duration::from_secs(1);

/// What an [`IdempotencyLayer`] does.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct IdempotencyConfig {
    /// Where the key is; default `idempotency-key`.
    pub header: HeaderName,
    /// The methods that have keys; default `POST` and `PATCH`.
    pub methods: Vec<Method>,
    /// Whether a request of these methods has to have one; default no.
    pub required: bool,
    /// The headers in which a repetition has to be the same; default `content-type`.
    pub headers: Vec<HeaderName>,
    /// The largest body of a request with a key, in bytes; default 1 MiB.
    pub max_request_bytes: usize,
    /// The largest body that is remembered, in bytes; default 256 KiB.
    pub max_response_bytes: usize,
    /// What all bodies together take that are being read or written down, in bytes; default 64 MiB.
    pub max_buffered_bytes: usize,
    /// What becomes of failures; default [`Failures::Release`].
    pub failures: Failures,
    /// How much is remembered, and how long.
    pub limits: Limits,
}

/// What becomes of a `5xx`, of an error, and of a timeout of ours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Failures {
    /// The key is free again: a repetition runs.
    #[default]
    Release,
    /// A `5xx` is remembered as any other answer; otherwise the outcome is not known. Nothing runs twice.
    Keep,
}

impl IdempotencyConfig {
    /// The defaults.
    pub fn new() -> Self {
        Self {
            header: HeaderName::from_static("idempotency-key"),
            methods: vec![Method::POST, Method::PATCH],
            required: false,
            headers: vec![CONTENT_TYPE],
            max_request_bytes: 1 << 20,
            max_response_bytes: 256 << 10,
            max_buffered_bytes: 64 << 20,
            failures: Failures::Release,
            limits: Limits::new(),
        }
    }

    /// Each request of these methods has to have a key.
    #[must_use]
    pub fn required(mut self) -> Self {
        self.required = true;
        self
    }

    /// What becomes of failures.
    #[must_use]
    pub fn failures(mut self, failures: Failures) -> Self {
        self.failures = failures;
        self
    }

    /// How much is remembered, and how long.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }
}

impl Default for IdempotencyConfig {
    fn default() -> Self {
        Self::new()
    }
}

type Scoped = dyn Fn(&Head<'_>) -> Option<Scope> + Send + Sync;

/// The pure part of the decision: the id of the key, none for what passes untouched, or why not.
fn evaluate(
    config: &IdempotencyConfig,
    scope: &Scoped,
    head: &Head<'_>,
) -> Result<Option<Digest>, Rejection> {
    if !config.methods.contains(head.method) || Upgrade::is_asked(head.extensions) {
        return Ok(None);
    }
    let mut lines = head.headers.get_all(&config.header).iter();
    let Some(line) = lines.next() else {
        return if config.required { Err(Reason::IdempotencyKeyMissing.into()) } else { Ok(None) };
    };
    let key = key::parse(line.as_bytes()).filter(|_| lines.next().is_none());
    let key = key.ok_or(Reason::IdempotencyKeyInvalid)?;
    let Some(Scope(scope)) = scope(head) else {
        return Err(Rejection::new(Reason::KeyMissing).detail("Whose idempotency key it is cannot be told."));
    };
    if announced(head.headers).is_some_and(|length| length > config.max_request_bytes) {
        return Err(Reason::BodyTooLarge.into());
    }
    let mut hash = Hash::new();
    hash.part(&scope);
    hash.part(&key);
    Ok(Some(hash.finish()))
}

/// How long a body is, as is said beforehand.
fn announced(headers: &HeaderMap) -> Option<usize> {
    let length = headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse::<u64>().ok()?;
    Some(usize::try_from(length).unwrap_or(usize::MAX))
}

/// The print of all that a repetition has to be the same in.
fn print(config: &IdempotencyConfig, parts: &Parts, body: &[u8]) -> Digest {
    let mut hash = Hash::new();
    hash.part(parts.method.as_str().as_bytes());
    hash.part(parts.uri.path_and_query().map_or("", |target| target.as_str()).as_bytes());
    for name in &config.headers {
        let lines = parts.headers.get_all(name);
        hash.part(&(lines.iter().count() as u64).to_le_bytes());
        lines.iter().for_each(|line| hash.part(line.as_bytes()));
    }
    hash.part(body);
    hash.finish()
}

/// What a known key answers to the same request.
fn refusal(begun: &Begun) -> Option<Rejection> {
    Some(Rejection::new(match begun {
        Begun::Fresh(_) | Begun::Answered(_) => return None,
        Begun::Working => {
            return Some(Rejection::new(Reason::IdempotencyInFlight).retry_after(IN_FLIGHT_WAIT));
        }
        Begun::NotKept => Reason::IdempotencyNotKept,
        Begun::Unknown => Reason::IdempotencyUnknown,
        Begun::Mismatch => Reason::IdempotencyMismatch,
        Begun::Full => Reason::IdempotencyStoreFull,
    }))
}

/// What becomes of an answer, as its head says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Judgement {
    Record,
    Release,
    NotKept,
    Unknown,
}

/// What a layer of ours gave in place of an answer.
#[derive(Clone, Copy, Debug)]
struct Own {
    /// Whoever is behind has had the request all the same.
    may_have_been_done: bool,
}

impl Own {
    fn of(extensions: &Extensions) -> Option<Self> {
        let refused = extensions.get::<Rejection>().map(|it| may_have_been_done(it.reason));
        let stood_in = extensions.get::<StandIn>();
        let stood_in = stood_in.map(|it| it.was_sent || it.reason.is_some_and(may_have_been_done));
        let may_have_been_done = refused.or(stood_in)? || extensions.get::<Sent>().is_some();
        Some(Self { may_have_been_done })
    }
}

fn judge(failures: Failures, status: StatusCode, own: Option<Own>) -> Judgement {
    let is_kept = failures == Failures::Keep;
    match (own, status.as_u16()) {
        (Some(Own { may_have_been_done: true }), _) if is_kept => Judgement::Unknown,
        (Some(_), _) | (None, 401 | 403 | 407 | 408 | 409 | 425 | 429) => Judgement::Release,
        (None, 500..) if !is_kept => Judgement::Release,
        (None, ..200) => Judgement::NotKept,
        (None, _) => Judgement::Record,
    }
}

/// Whether whoever is behind has had the request when a layer of ours gave this answer instead.
const fn may_have_been_done(reason: Reason) -> bool {
    matches!(reason, Reason::TotalTimeout) || (reason.blames_upstream() && !reason.is_before_sending())
}

/// Applies [`Idempotency`]; see the [module docs](self) for an example.
#[must_use]
pub struct IdempotencyLayer<O = ()> {
    shared: Option<Arc<Shared<O>>>,
}

struct Shared<O> {
    config: Arc<IdempotencyConfig>,
    scope: Arc<Scoped>,
    store: Arc<dyn Store>,
    buffering: Arc<Buffering>,
    name: Option<Arc<str>>,
    observer: O,
}

impl IdempotencyLayer {
    /// Keys count by [`by_caller`], and are remembered in this process.
    pub fn new(config: IdempotencyConfig) -> Self {
        Self::scoped(config, by_caller)
    }

    /// Keys count within what `scope` says of a request's head; a key of which it says nothing is refused
    /// (`400`, [`Reason::KeyMissing`]).
    pub fn scoped(
        config: IdempotencyConfig,
        scope: impl Fn(&Head<'_>) -> Option<Scope> + Send + Sync + 'static,
    ) -> Self {
        Self::observed(config, scope, ())
    }
}

impl<O: Observer> IdempotencyLayer<O> {
    /// As [`scoped`](IdempotencyLayer::scoped), and tells `observer` what it does: admitted is a request with
    /// a new key.
    pub fn observed(
        config: IdempotencyConfig,
        scope: impl Fn(&Head<'_>) -> Option<Scope> + Send + Sync + 'static,
        observer: O,
    ) -> Self {
        let (config, scope, store) = (Arc::new(config), Arc::new(scope), Arc::new(MemoryStore::new()));
        let buffering = Arc::default();
        Self { shared: Some(Arc::new(Shared { config, scope, store, buffering, name: None, observer })) }
    }

    /// A layer that is not there.
    pub const fn off() -> Self {
        Self { shared: None }
    }

    /// Whether it is a layer that is not there.
    pub const fn is_off(&self) -> bool {
        self.shared.is_none()
    }

    /// Remembers in another store; what is known in the one before is not known in this layer.
    pub fn stored_in(self, store: &Arc<dyn Store>) -> Self
    where
        O: Clone,
    {
        self.map(|old| Shared { store: Arc::clone(store), ..old.clone() })
    }

    /// Names the policy: in its rejections, and in what it explains.
    pub fn named(self, name: &Arc<str>) -> Self
    where
        O: Clone,
    {
        self.map(|old| Shared { name: Some(Arc::clone(name)), ..old.clone() })
    }

    /// The same store under another configuration.
    pub fn reconfigured(&self, config: &IdempotencyConfig) -> Self
    where
        O: Clone,
    {
        self.map(|old| Shared { config: Arc::new(config.clone()), ..old.clone() })
    }

    /// What is remembered, now.
    pub fn counts(&self) -> Counts {
        self.shared.as_ref().map_or_else(Counts::default, |shared| shared.store.counts())
    }

    /// What bodies take that are being read or written down, in bytes, now.
    pub fn buffered_bytes(&self) -> usize {
        self.shared.as_ref().map_or(0, |shared| shared.buffering.bytes())
    }

    /// When the last of the requests that are remembered has ended, where that is known.
    pub fn last_end(&self) -> Option<Instant> {
        self.shared.as_ref()?.store.last_end()
    }

    fn map(&self, change: impl Fn(&Shared<O>) -> Shared<O>) -> Self {
        Self { shared: self.shared.as_deref().map(|shared| Arc::new(change(shared))) }
    }
}

impl<O: Clone> Clone for Shared<O> {
    fn clone(&self) -> Self {
        Self {
            config: Arc::clone(&self.config),
            scope: Arc::clone(&self.scope),
            store: Arc::clone(&self.store),
            buffering: Arc::clone(&self.buffering),
            name: self.name.clone(),
            observer: self.observer.clone(),
        }
    }
}

impl<O> fmt::Debug for IdempotencyLayer<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = self.shared.as_ref().map(|shared| (&shared.name, &shared.config, &shared.store));
        f.debug_tuple("IdempotencyLayer").field(&known).finish()
    }
}

impl<O: Observer> Shared<O> {
    fn evaluate(&self, head: &Head<'_>) -> Result<Option<Digest>, Rejection> {
        evaluate(&self.config, &*self.scope, head).map_err(|rejection| rejection.by(self.name.clone()))
    }

    /// What a body that begins takes of the bound on all of them.
    fn share(&self, held: Part) -> Share {
        self.buffering.share(self.config.max_buffered_bytes).held(held)
    }

    fn refuse(&self, rejection: Rejection) -> Rejection {
        let rejection = rejection.by(self.name.clone());
        self.observer.rejected(&rejection);
        rejection
    }
}

impl<O: Observer> Explain for IdempotencyLayer<O> {
    fn kind(&self) -> &'static str {
        "idempotency"
    }

    fn name(&self) -> Option<&str> {
        self.shared.as_ref()?.name.as_deref()
    }

    fn explain(&self, now: Now, head: &mut Parts) -> Finding {
        let Some(shared) = &self.shared else { return Finding::Off };
        let config = &shared.config;
        let id = match shared.evaluate(&Head::from(&*head)) {
            Err(rejection) => return Finding::Reject(rejection),
            Ok(None) => return Finding::Passes,
            Ok(Some(id)) => id,
        };
        // The body is read before the store is asked, whatever that knows.
        let left = shared.buffering.left(config.max_buffered_bytes);
        let left = Held::of(&head.extensions).map_or(left, |held| held.left().min(left));
        let most = config.max_request_bytes.min(left);
        if announced(&head.headers).is_some_and(|length| length > left) {
            let rejection = Rejection::new(Reason::IdempotencyStoreFull).by(shared.name.clone());
            return Finding::Reject(rejection);
        }
        let then = match shared.store.peek(&config.limits, now, &id) {
            None => return Finding::WouldAsk(Dependency::Body { max_bytes: most }),
            Some(Begun::Fresh(_)) => {
                return Finding::Admit(format!("the key is new; its body may have {most} bytes"));
            }
            Some(full @ Begun::Full) => {
                let rejection = refusal(&full).expect("no room is a refusal").by(shared.name.clone());
                return Finding::Reject(rejection);
            }
            Some(Begun::Working) => "the same is at work and refused, another mismatches",
            Some(Begun::Answered(_)) => "the same is answered as it was, another mismatches",
            Some(Begun::NotKept) => "the answer to the same is not kept, another mismatches",
            Some(Begun::Unknown | Begun::Mismatch) => {
                "the outcome of the same is not known, another mismatches"
            }
        };
        Finding::WouldAsk(Dependency::Repetition { then })
    }
}
