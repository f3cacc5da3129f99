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
//! path, and for the [`Identity`] of the caller, those [`beside`](Identity::beside) it included: stand inside of
//! what authenticates. Of one without a subject all claims count, so that a new token is another caller.
//! If somebody is known of whom neither subject nor claim is, the key is refused (`400`,
//! [`Reason::KeyMissing`]). Without an identity it counts for the client's network ([`client_network`]),
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

use std::{
    fmt,
    future::Future,
    iter, mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use aws_lc_rs::digest::{self, SHA256};
use bytes::Bytes;
use http::{
    HeaderName, HeaderValue, Method, Request, Response, StatusCode,
    header::{CONTENT_LENGTH, CONTENT_TYPE, HOST},
    request::Parts,
};
use http_body::Body;
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower_service::Service;

mod body;
mod key;
mod store;
mod table;

pub use body::IdempotencyBody;
use body::Recorder;
pub use store::{Beginning, Begun, MemoryStore, Outcome, Recorded, Store};
pub use table::{Counts, Digest, Limits};

use crate::{
    buffered::{Buffered, Buffering, Collect, CollectError, Collected, Share},
    clock::Now,
    context::ClientAddr,
    explain::{Explain, Finding},
    identity::{Claim, Identity},
    key::{Key, client_network},
    layered::layered,
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

/// Within what a key means one thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scope(Digest);

impl Scope {
    /// That of these parts, in their order.
    pub fn of<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut hash = Hash::new();
        parts.into_iter().for_each(|part| hash.part(part));
        Self(hash.finish())
    }

    /// The same within these parts only, in their order.
    #[must_use]
    pub fn within<'a>(self, parts: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut hash = Hash::new();
        hash.part(&self.0);
        parts.into_iter().for_each(|part| hash.part(part));
        Self(hash.finish())
    }
}

/// A [`Key`] means something to its own process only, and so does this.
impl From<Key> for Scope {
    fn from(key: Key) -> Self {
        Self::of([&key.bits().to_le_bytes()[..]])
    }
}

/// The default [`Scope`]: host, method and path, and who asks. None if somebody is known of whom neither a
/// subject nor a claim is.
pub fn by_caller(head: &Head<'_>) -> Option<Scope> {
    let host = head.headers.get(HOST).map(HeaderValue::as_bytes);
    let host = host.or(head.uri.authority().map(|authority| authority.as_str().as_bytes()));
    let mut hash = Hash::new();
    for part in [host.unwrap_or_default(), head.method.as_str().as_bytes(), head.uri.path().as_bytes()] {
        hash.part(part);
    }
    if let Some(first) = Identity::of(head.extensions) {
        let all = || iter::successors(Some(&**first), |who| who.beside.as_deref());
        if !all().any(is_told_apart) {
            return None;
        }
        all().for_each(|who| hash.identity(who));
    } else if let Some(client) = ClientAddr::of(head.extensions) {
        hash.part(client_network(client).to_string().as_bytes());
    }
    Some(Scope(hash.finish()))
}

/// Whether anything is known that others do not have as well.
fn is_told_apart(who: &Identity) -> bool {
    who.subject.is_some() || !who.claims.is_empty()
}

/// SHA-256 over parts that cannot run into one another.
struct Hash(digest::Context);

impl Hash {
    fn new() -> Self {
        Self(digest::Context::new(&SHA256))
    }

    fn part(&mut self, bytes: &[u8]) {
        self.0.update(&(bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }

    /// A subject is one of its issuer; without it all claims count.
    fn identity(&mut self, who: &Identity) {
        self.part(format!("{:?}", who.scheme).as_bytes());
        if let Some(subject) = &who.subject {
            let issuer = who.claims.get("iss").and_then(Claim::as_text);
            self.part(b"subject");
            self.part(issuer.unwrap_or_default().as_bytes());
            self.part(subject.as_bytes());
            return;
        }
        self.part(b"claims");
        self.part(&(who.claims.len() as u64).to_le_bytes());
        for (name, claim) in &who.claims {
            self.part(name.as_bytes());
            self.claim(claim);
        }
    }

    /// Its kind and its value: a number is not its text.
    fn claim(&mut self, claim: &Claim) {
        match claim {
            Claim::Text(text) => {
                self.part(b"text");
                self.part(text.as_bytes());
            }
            Claim::Integer(number) => {
                self.part(b"integer");
                self.part(&number.to_le_bytes());
            }
            Claim::Number(number) => {
                self.part(b"number");
                self.part(&number.to_bits().to_le_bytes());
            }
            Claim::Flag(flag) => {
                self.part(b"flag");
                self.part(&[u8::from(*flag)]);
            }
            Claim::List(all) => {
                self.part(b"list");
                self.part(&(all.len() as u64).to_le_bytes());
                for one in all {
                    self.claim(one);
                }
            }
        }
    }

    fn finish(self) -> Digest {
        let mut digest = Digest::default();
        digest.copy_from_slice(self.0.finish().as_ref());
        digest
    }
}

type Scoped = dyn Fn(&Head<'_>) -> Option<Scope> + Send + Sync;

/// The pure part of the decision: the id of the key, none for what passes untouched, or why not.
fn evaluate(
    config: &IdempotencyConfig,
    scope: &Scoped,
    head: &Head<'_>,
) -> Result<Option<Digest>, Rejection> {
    if !config.methods.contains(head.method) {
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
    let length =
        head.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > u64::try_from(config.max_request_bytes).unwrap_or(u64::MAX)) {
        return Err(Reason::BodyTooLarge.into());
    }
    let mut hash = Hash::new();
    hash.part(&scope);
    hash.part(&key);
    Ok(Some(hash.finish()))
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

fn judge(failures: Failures, status: StatusCode, own: Option<Reason>) -> Judgement {
    let is_kept = failures == Failures::Keep;
    match (own, status.as_u16()) {
        (Some(reason), _) if is_kept && may_have_been_done(reason) => Judgement::Unknown,
        (Some(_), _) | (None, 401 | 403 | 407 | 408 | 409 | 425 | 429) => Judgement::Release,
        (None, 500..) if !is_kept => Judgement::Release,
        (None, ..200) => Judgement::NotKept,
        (None, _) => Judgement::Record,
    }
}

/// Whether whoever is behind has had the request when a layer of ours gave this answer instead.
const fn may_have_been_done(reason: Reason) -> bool {
    let was_never_sent = matches!(reason, Reason::ConnectFailed | Reason::ConnectTimeout);
    matches!(reason, Reason::TotalTimeout) || (reason.blames_upstream() && !was_never_sent)
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

layered! {
    /// Does nothing twice; see the [module docs](self). What is behind gets bodies as [`Buffered`].
    IdempotencyLayer { shared } => Idempotency
}

impl<O: Observer> Shared<O> {
    fn evaluate(&self, head: &Head<'_>) -> Result<Option<Digest>, Rejection> {
        evaluate(&self.config, &*self.scope, head).map_err(|rejection| rejection.by(self.name.clone()))
    }

    /// What a body that begins takes of the bound on all of them.
    fn share(&self) -> Share {
        self.buffering.share(self.config.max_buffered_bytes)
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
        let then = match shared.store.peek(&config.limits, now, &id) {
            None => return Finding::WouldAsk(Dependency::Body { max_bytes: config.max_request_bytes }),
            Some(Begun::Fresh(_)) => {
                let most = config.max_request_bytes;
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

impl<S, O, B, R> Service<Request<B>> for Idempotency<S, O>
where
    S: Service<Request<Buffered<B>>, Response = Response<R>> + Clone,
    O: Observer,
    B: Body<Data = Bytes>,
    R: Body<Data = Bytes> + Default,
{
    type Response = Response<IdempotencyBody<R>>;
    type Error = S::Error;
    type Future = IdempotencyFuture<S, S::Future, B, O>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let known = self.layer.shared.as_ref().map(|shared| (shared, shared.evaluate(&Head::from(&request))));
        let state = match known {
            None | Some((_, Ok(None))) => {
                State::Pass { future: self.inner.call(request.map(Buffered::same)) }
            }
            Some((shared, Err(rejection))) => {
                State::Answer { answer: Some(Answer::Refusal(shared.refuse(rejection))) }
            }
            Some((shared, Ok(Some(id)))) => {
                let now = Now::of(request.extensions());
                let (parts, body) = request.into_parts();
                let collect = Collect::new(body, shared.config.max_request_bytes).with_share(shared.share());
                // The one that is ready goes; its clone has to become ready first.
                let clone = self.inner.clone();
                let inner = mem::replace(&mut self.inner, clone);
                let planned = Planned { shared: Arc::clone(shared), now, id };
                State::Read { parts: Some(parts), collect, inner: Some(inner), planned: Some(planned) }
            }
        };
        IdempotencyFuture { state }
    }
}

pin_project! {
    /// The future of [`Idempotency`].
    pub struct IdempotencyFuture<S, F, B, O = ()>
    where
        B: Body,
        O: Observer,
    {
        #[pin]
        state: State<S, F, B, O>,
    }
}

pin_project! {
    #[project = Projection]
    enum State<S, F, B, O>
    where
        B: Body,
        O: Observer,
    {
        /// It has no key: not ours.
        Pass { #[pin] future: F },
        /// Its body comes.
        Read { parts: Option<Parts>, #[pin] collect: Collect<B>, inner: Option<S>, planned: Option<Planned<O>> },
        /// The store is asked.
        Ask { asking: Asking, waiting: Option<Waiting<S, B, O>> },
        /// It is at work.
        Work { #[pin] future: F, work: Work<O> },
        /// It is known what to answer.
        Answer { answer: Option<Answer> },
    }
}

type Asking = Pin<Box<dyn Future<Output = Begun> + Send>>;

/// Keeps the layer's inside out of the future's type.
struct Planned<O> {
    shared: Arc<Shared<O>>,
    now: Now,
    id: Digest,
}

/// A request whose body has come, and whoever it is for.
struct Waiting<S, B: Body, O> {
    request: Request<Buffered<B>>,
    inner: S,
    planned: Planned<O>,
}

enum Answer {
    Refusal(Rejection),
    Replay(Arc<Recorded>),
}

impl<S, B, R, O> Future for IdempotencyFuture<S, S::Future, B, O>
where
    S: Service<Request<Buffered<B>>, Response = Response<R>>,
    B: Body<Data = Bytes>,
    R: Body<Data = Bytes> + Default,
    O: Observer,
{
    type Output = Result<Response<IdempotencyBody<R>>, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            let next = match state.as_mut().project() {
                Projection::Pass { future } => {
                    let response = ready!(future.poll(cx))?;
                    return Poll::Ready(
                        Ok(response.map(|body| IdempotencyBody::plain(Buffered::same(body)))),
                    );
                }
                Projection::Read { parts, collect, inner, planned } => {
                    let collected = ready!(collect.poll(cx));
                    let planned = planned.take().expect("a body is read once");
                    let parts = parts.take().expect("a body is read once");
                    let inner = inner.take().expect("a body is read once");
                    planned.ask(parts, collected, inner)
                }
                Projection::Ask { asking, waiting } => {
                    let begun = ready!(asking.as_mut().poll(cx));
                    waiting.take().expect("the store answers once").go_on(begun)
                }
                Projection::Work { future, work } => {
                    let result = ready!(future.poll(cx));
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

impl<S, F, B: Body, O: Observer> fmt::Debug for IdempotencyFuture<S, F, B, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdempotencyFuture").finish_non_exhaustive()
    }
}

impl<O: Observer> Planned<O> {
    /// The body has come, or not: the store is asked about the request.
    fn ask<S, B>(
        self,
        parts: Parts,
        collected: Result<Collected, CollectError<B::Error>>,
        inner: S,
    ) -> State<S, S::Future, B, O>
    where
        S: Service<Request<Buffered<B>>>,
        B: Body<Data = Bytes>,
    {
        let config = &self.shared.config;
        let collected = match collected {
            Ok(collected) => collected,
            Err(error) => {
                let rejection = match error {
                    CollectError::TooLarge => Rejection::new(Reason::BodyTooLarge),
                    CollectError::NoRoom => Rejection::new(Reason::IdempotencyStoreFull),
                    CollectError::Failed(_) => {
                        Rejection::new(Reason::BadRequest).detail("The body of the request broke off.")
                    }
                };
                return State::Answer { answer: Some(Answer::Refusal(self.shared.refuse(rejection))) };
            }
        };
        let print = print(config, &parts, &collected.data);
        let beginning = self.shared.store.begin(&config.limits, self.now, &self.id, &print);
        let request = Request::from_parts(parts, Buffered::whole(collected));
        let waiting = Waiting { request, inner, planned: self };
        match beginning {
            Beginning::Now(begun) => waiting.go_on(begun),
            Beginning::Later(asking) => State::Ask { asking, waiting: Some(waiting) },
        }
    }
}

impl<S, B, O> Waiting<S, B, O>
where
    S: Service<Request<Buffered<B>>>,
    B: Body<Data = Bytes>,
    O: Observer,
{
    /// The store has said what is known of the key.
    fn go_on(self, begun: Begun) -> State<S, S::Future, B, O> {
        let Self { request, mut inner, planned: Planned { shared, id, .. } } = self;
        if let Begun::Fresh(token) = begun {
            let (store, limits) = (Arc::clone(&shared.store), shared.config.limits);
            let ticket = Some(Ticket { store, limits, id, token, is_over: false });
            let work = Work { shared, ticket }; // Before the call: should that panic, the outcome is not known.
            work.shared.observer.admitted();
            return State::Work { future: inner.call(request), work };
        }
        State::Answer {
            answer: Some(match (refusal(&begun), begun) {
                (None, Begun::Answered(answer)) => {
                    shared.observer.replayed();
                    Answer::Replay(answer)
                }
                (rejection, _) => {
                    Answer::Refusal(shared.refuse(rejection.expect("all other findings refuse")))
                }
            }),
        }
    }
}

/// A request that is at work. Dropped before there is an answer, it was given up.
struct Work<O: Observer> {
    shared: Arc<Shared<O>>,
    ticket: Option<Ticket>,
}

impl<O: Observer> Work<O> {
    fn judge<R: Body<Data = Bytes>, E>(
        &mut self,
        result: Result<Response<R>, E>,
    ) -> Result<Response<IdempotencyBody<R>>, E> {
        let ticket = self.ticket.take().expect("a future is not polled after it is ready");
        let config = &self.shared.config;
        let response = match result {
            Ok(response) => response,
            Err(error) => {
                let is_kept = config.failures == Failures::Keep;
                ticket.end(if is_kept { Outcome::Unknown } else { Outcome::Released });
                return Err(error);
            }
        };
        let own = response.extensions().get::<Rejection>().map(|rejection| rejection.reason);
        let plain = |response: Response<R>| response.map(|body| IdempotencyBody::plain(Buffered::same(body)));
        let outcome = match judge(config.failures, response.status(), own) {
            Judgement::Record => {
                let (parts, body) = response.into_parts();
                let answer = Recorded::new(parts.status, body::kept(&parts.headers), Bytes::new());
                let (hint, most) = (body.size_hint(), config.max_response_bytes);
                let recorder = Recorder::new(ticket, answer, &hint, most, self.shared.share());
                return Ok(Response::from_parts(parts, IdempotencyBody::recorded(body, recorder)));
            }
            Judgement::Release => Outcome::Released,
            Judgement::NotKept => Outcome::NotKept,
            Judgement::Unknown => Outcome::Unknown,
        };
        ticket.end(outcome);
        Ok(plain(response))
    }
}

impl<O: Observer> Drop for Work<O> {
    fn drop(&mut self) {
        if self.ticket.is_some() {
            self.shared.observer.cancelled();
        }
    }
}

/// The key of one request that is at work. Dropped without an outcome, that is not known.
struct Ticket {
    store: Arc<dyn Store>,
    limits: Limits,
    id: Digest,
    token: u64,
    is_over: bool,
}

impl Ticket {
    fn end(mut self, outcome: Outcome) {
        self.tell(outcome);
    }

    fn tell(&mut self, outcome: Outcome) {
        self.is_over = true;
        self.store.end(&self.limits, Now::read(), &self.id, self.token, outcome);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.is_over {
            self.tell(Outcome::Unknown);
        }
    }
}

impl Answer {
    fn into_response<R: Body<Data = Bytes> + Default>(self) -> Response<IdempotencyBody<R>> {
        match self {
            Self::Refusal(rejection) => rejection.into_response(),
            Self::Replay(answer) => {
                let (data, trailers) = (answer.body.clone(), answer.trailers.clone());
                let whole = Collected { data, trailers, share: None };
                let mut response = Response::new(IdempotencyBody::plain(Buffered::whole(whole)));
                *response.status_mut() = answer.status;
                response.headers_mut().clone_from(&answer.headers);
                response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
                response
            }
        }
    }
}
