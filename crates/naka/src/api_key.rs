//! Authentication by API keys: `401 Unauthorized` for whoever has none that counts.
//!
//! # Decision
//! 1. The key is the value of one header; a second such line, or more than 512 bytes, is no key.
//! 2. Its SHA-256 is looked up. Only the hashes are kept, and a stolen list opens nothing, **if keys are
//!    long and random** (32 bytes or more of a generator's): a hash of this kind is no protection for
//!    what can be guessed. Both the look-up and the comparison, in constant time, are over hashes, so
//!    no time that is measured says anything about a key.
//! 3. A key with an end counts until then.
//! 4. Admitted: an [`Identity`] is in the request, and the header is taken away, unless
//!    [`ApiKeyConfig::forward`] says otherwise: whoever is behind has no business with the key.
//! 5. [`optional`](ApiKeyLayer::optional): a request without the header passes as nobody, with what it could have brought
//!    among its [`Challenges`]. A key that is wrong, over or empty is refused as ever.
//!
//! # Units and limits
//! As many keys as were given; each costs about 200 bytes and what it says. A request costs one hash.
//!
//! # State
//! None of its own; [`reconfigured`](ApiKeyLayer::reconfigured) takes other keys.
//!
//! # Errors and panics
//! Adds no error: `S::Error` passes unchanged. Never panics.
//!
//! # Example
//! ```
//! # use http::{Request, Response};
//! # use tower::{Layer, ServiceExt};
//! use naka::api_key::{ApiKey, ApiKeyConfig, ApiKeyLayer, ApiKeys};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let upstream = tower::service_fn(|_: Request<()>| async { Ok::<_, std::io::Error>(Response::new(())) });
//! // What is stored: `naka_` and 32 random bytes went to the partner, the hash stays here.
//! let keys = ApiKeys::new([ApiKey::hashed(ApiKey::hash("naka_dGhpcyBpcyBub3QgcmFuZG9tIGF0IGFsbA"), "zomato")]);
//! let service = ApiKeyLayer::new(ApiKeyConfig::new(keys)).layer(upstream);
//!
//! let with = |key: &str| Request::builder().header("x-api-key", key).body(()).unwrap();
//! let good = service.clone().oneshot(with("naka_dGhpcyBpcyBub3QgcmFuZG9tIGF0IGFsbA")).await?;
//! let other = service.oneshot(with("naka_guessed")).await?;
//! assert_eq!((good.status().as_u16(), other.status().as_u16()), (200, 401));
//! # Ok(()) }
//! ```

use std::{
    collections::HashMap,
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use aws_lc_rs::{
    constant_time::verify_slices_are_equal,
    digest::{SHA256, digest},
};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, request::Parts};
use tower_service::Service;

use crate::{
    clock::{Now, WallClock},
    explain::{Explain, Finding},
    identity::{Challenges, Identity, Scheme},
    layered::layered,
    observe::Observer,
    reject::{Decided, Reason, Rejection},
};

/// The longest key, in bytes.
pub const MAX_KEY: usize = 512;

/// SHA-256 of a key.
pub type Hash = [u8; 32];

/// One key: what is kept of it, and whose it is.
#[derive(Clone)]
pub struct ApiKey {
    hash: Hash,
    identity: Arc<Identity>,
    expires_s: Option<u64>,
}

impl ApiKey {
    /// The key with this hash; it is of this subject.
    pub fn hashed(hash: Hash, subject: &str) -> Self {
        let identity = Identity::new(Scheme::ApiKey, Some(subject.into()));
        Self { hash, identity: Arc::new(identity), expires_s: None }
    }

    fn counts_at(&self, unix_s: u64) -> bool {
        self.expires_s.is_none_or(|end| unix_s < end)
    }

    /// The hash of a key: what is written into a list.
    pub fn hash(key: &str) -> Hash {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest(&SHA256, key.as_bytes()).as_ref());
        hash
    }

    /// What else is known of whose it is: scopes, roles, claims.
    #[must_use]
    pub fn knowing(mut self, change: impl FnOnce(&mut Identity)) -> Self {
        change(Arc::make_mut(&mut self.identity));
        self
    }

    /// It counts until then, in seconds since 1970.
    #[must_use]
    pub const fn until(mut self, unix_s: u64) -> Self {
        self.expires_s = Some(unix_s);
        self
    }
}

/// Hashes are not shown.
impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiKey")
            .field("identity", &self.identity)
            .field("expires_s", &self.expires_s)
            .finish_non_exhaustive()
    }
}

/// Keys, by their hashes. Of two with one hash the last counts.
#[derive(Clone, Default)]
pub struct ApiKeys(Arc<HashMap<Hash, ApiKey>>);

impl fmt::Debug for ApiKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.values()).finish()
    }
}

impl ApiKeys {
    /// These.
    pub fn new(keys: impl IntoIterator<Item = ApiKey>) -> Self {
        Self(Arc::new(keys.into_iter().map(|key| (key.hash, key)).collect()))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// What an [`ApiKeyLayer`] does.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ApiKeyConfig {
    /// The keys that count.
    pub keys: ApiKeys,
    /// Where the key is; default `x-api-key`.
    pub header: HeaderName,
    /// Whether it is sent on; default no.
    pub forward: bool,
    /// What the time is.
    pub clock: WallClock,
}

impl ApiKeyConfig {
    /// These keys, and the defaults.
    pub const fn new(keys: ApiKeys) -> Self {
        let header = HeaderName::from_static("x-api-key");
        Self { keys, header, forward: false, clock: WallClock::system() }
    }
}

/// The pure decision: these keys, this time, these headers.
fn evaluate(config: &ApiKeyConfig, unix_s: u64, headers: &HeaderMap) -> Result<Arc<Identity>, Reason> {
    let mut all = headers.get_all(&config.header).iter();
    let one = all.next().ok_or(Reason::CredentialsMissing)?;
    if all.next().is_some() || one.is_empty() || one.len() > MAX_KEY {
        return Err(Reason::CredentialsMalformed);
    }
    let hash = ApiKey::hash(one.to_str().map_err(|_| Reason::CredentialsMalformed)?);
    let known = config.keys.0.get(&hash).filter(|key| verify_slices_are_equal(&key.hash, &hash).is_ok());
    let key = known.ok_or(Reason::CredentialsUnknown)?;
    if !key.counts_at(unix_s) {
        return Err(Reason::CredentialsExpired);
    }
    Ok(Arc::clone(&key.identity))
}

/// Applies [`ApiKeyAuth`]; see the [module docs](self) for an example.
#[must_use]
pub struct ApiKeyLayer<O = ()> {
    shared: Option<Arc<Shared<O>>>,
}

struct Shared<O> {
    config: ApiKeyConfig,
    /// What whoever brings no key could bring; they pass without.
    optional: Option<Challenges>,
    name: Option<Arc<str>>,
    observer: O,
}

impl ApiKeyLayer {
    /// Lets pass whoever has one of the keys.
    pub fn new(config: ApiKeyConfig) -> Self {
        Self::observed(config, ())
    }
}

impl<O: Observer> ApiKeyLayer<O> {
    /// As [`new`](ApiKeyLayer::new), and tells `observer` what it does.
    pub fn observed(config: ApiKeyConfig, observer: O) -> Self {
        Self { shared: Some(Arc::new(Shared { config, optional: None, name: None, observer })) }
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

    /// The same, and whoever does not bring the header at all passes as nobody; who that is, is not told to the observer:
    /// [`admitted`](Observer::admitted) is who was verified.
    ///
    /// ```
    /// # use http::{Request, Response};
    /// # use tower::{Layer, ServiceExt};
    /// use naka::api_key::{ApiKey, ApiKeyConfig, ApiKeyLayer, ApiKeys};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let upstream = tower::service_fn(|_: Request<()>| async { Ok::<_, std::io::Error>(Response::new(())) });
    /// let keys = ApiKeys::new([ApiKey::hashed(ApiKey::hash("naka_dGhpcyBpcyBub3QgcmFuZG9tIGF0IGFsbA"), "zomato")]);
    /// let service = ApiKeyLayer::new(ApiKeyConfig::new(keys)).optional().layer(upstream);
    ///
    /// assert_eq!(service.clone().oneshot(Request::new(())).await?.status(), 200);
    /// let wrong = Request::builder().header("x-api-key", "naka_guessed").body(())?;
    /// assert_eq!(service.oneshot(wrong).await?.status(), 401);
    /// # Ok(()) }
    /// ```
    pub fn optional(self) -> Self
    where
        O: Clone,
    {
        let challenges = Challenges::new([HeaderValue::from_static(CHALLENGE)]);
        self.map(|old| Shared { optional: Some(challenges.clone()), ..old.clone() })
    }

    /// Other keys; those of before count no more.
    pub fn reconfigured(&self, config: &ApiKeyConfig) -> Self
    where
        O: Clone,
    {
        self.map(|old| Shared { config: config.clone(), ..old.clone() })
    }

    /// Goes on as with the key of this subject, and answers with who that is. For tests and for whoever explains.
    ///
    /// # Errors
    /// [`Reason::CredentialsUnknown`] if nobody has that name, [`Reason::CredentialsExpired`] if all its keys have
    /// ended.
    pub fn assume(
        &self,
        subject: &str,
        now: Now,
        headers: &mut HeaderMap,
        extensions: &mut http::Extensions,
    ) -> Result<Arc<Identity>, Rejection> {
        let unknown = Rejection::new(Reason::CredentialsUnknown);
        let Some(shared) = &self.shared else { return Err(unknown) };
        let unix_s = shared.config.clock.unix_s(now);
        let keys =
            || shared.config.keys.0.values().filter(|key| key.identity.subject.as_deref() == Some(subject));
        let Some(key) = keys().find(|key| key.counts_at(unix_s)) else {
            let expired = Rejection::new(Reason::CredentialsExpired).by(shared.name.clone());
            return Err(if keys().next().is_some() { expired } else { unknown.by(shared.name.clone()) });
        };
        shared.take_away(headers);
        Arc::clone(&key.identity).put(extensions);
        Ok(Arc::clone(&key.identity))
    }

    fn map(&self, change: impl Fn(&Shared<O>) -> Shared<O>) -> Self {
        Self { shared: self.shared.as_deref().map(|shared| Arc::new(change(shared))) }
    }
}

/// What is asked for.
const CHALLENGE: &str = "ApiKey";

impl<O: Observer> Shared<O> {
    /// What somebody could bring who brings nothing and passes as nobody.
    fn passes(&self, headers: &HeaderMap) -> Option<&Challenges> {
        self.optional.as_ref().filter(|_| !headers.contains_key(&self.config.header))
    }

    fn decide(&self, now: Now, headers: &HeaderMap) -> Result<Arc<Identity>, Rejection> {
        let decision = evaluate(&self.config, self.config.clock.unix_s(now), headers);
        decision.map_err(|reason| Rejection::new(reason).challenge(CHALLENGE).by(self.name.clone()))
    }

    fn take_away(&self, headers: &mut HeaderMap) {
        if !self.config.forward {
            headers.remove(&self.config.header);
        }
    }
}

impl<O: Clone> Clone for Shared<O> {
    fn clone(&self) -> Self {
        Self {
            config: self.config.clone(),
            optional: self.optional.clone(),
            name: self.name.clone(),
            observer: self.observer.clone(),
        }
    }
}

impl<O> fmt::Debug for ApiKeyLayer<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = self
            .shared
            .as_ref()
            .map(|shared| (&shared.name, &shared.config.header, shared.config.keys.len()));
        f.debug_tuple("ApiKeyLayer").field(&known).finish()
    }
}

layered! {
    /// Lets pass whoever has a key that counts; see the [module docs](self).
    ApiKeyLayer { shared } => ApiKeyAuth
}

impl<O: Observer> Explain for ApiKeyLayer<O> {
    fn kind(&self) -> &'static str {
        "api_key"
    }

    fn name(&self) -> Option<&str> {
        self.shared.as_ref()?.name.as_deref()
    }

    fn explain(&self, now: Now, head: &mut Parts) -> Finding {
        let Some(shared) = &self.shared else { return Finding::Off };
        if let Some(challenges) = shared.passes(&head.headers) {
            challenges.clone().put(&mut head.extensions);
            return Finding::Admit("nobody: no key was sent".to_owned());
        }
        match shared.decide(now, &head.headers) {
            Ok(identity) => {
                let who = identity.subject.as_deref().unwrap_or_default();
                let said = format!("it is {who}, by key");
                shared.take_away(&mut head.headers);
                identity.put(&mut head.extensions);
                Finding::Admit(said)
            }
            Err(rejection) => Finding::Reject(rejection),
        }
    }
}

impl<S, O, B, R> Service<Request<B>> for ApiKeyAuth<S, O>
where
    S: Service<Request<B>, Response = Response<R>>,
    O: Observer,
    R: Default,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Decided<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let Some(shared) = &self.layer.shared else { return Decided::forward(self.inner.call(request)) };
        if let Some(challenges) = shared.passes(request.headers()) {
            challenges.clone().put(request.extensions_mut());
            return Decided::forward(self.inner.call(request));
        }
        match shared.decide(Now::of(request.extensions()), request.headers()) {
            Ok(identity) => {
                shared.observer.admitted();
                shared.take_away(request.headers_mut());
                identity.put(request.extensions_mut());
                Decided::forward(self.inner.call(request))
            }
            Err(rejection) => {
                shared.observer.rejected(&rejection);
                Decided::reject(rejection)
            }
        }
    }
}
