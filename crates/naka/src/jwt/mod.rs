//! Authentication by signed tokens (JWT, RFC 7519): `401 Unauthorized` for whoever has none that counts.
//!
//! # Decision
//! 1. The token is taken from `Authorization: Bearer …`, and from nowhere else. A second such line, or
//!    another scheme, is no token.
//! 2. Its compact form is read strictly (RFC 7515): three parts, base64url without padding or stray bits,
//!    a JSON object as header, no `crit` (we understand no extension), and no key of its own (`jwk`,
//!    `jku`, `x5c` are not read).
//! 3. The key is found by `kid`; without one, only if a single key fits. **What algorithm a key may
//!    verify is decided by the key** (RFC 8725 §3.1) and [`JwtConfig::algorithms`]: `none` is no
//!    algorithm, a public key verifies no HMAC.
//! 4. The signature is verified, then the claims: `exp` and `nbf` with leeway, `iss`, `aud`, `typ`.
//!    What is configured must be there; a token that names audiences is refused by whoever is none of
//!    them (RFC 7519 §4.1.3).
//! 5. Admitted: an [`Identity`] is in the request. Refused: `401`, `WWW-Authenticate: Bearer`, and a
//!    reason of its own for each cause.
//! 6. [`optional`](JwtLayer::optional): a request without any `Authorization` passes as nobody, with what it could have
//!    brought among its [`Challenges`]. Whatever stands in such a header is looked at as ever: another scheme, an empty
//!    value or a token that is over is refused, and never taken for nobody's.
//!
//! # Keys
//! Fixed ([`Keys::fixed`]), or fetched ([`Keys::fetched`]) by a driver that the owner runs. If a token
//! names a key that is not known, the request waits for one fetch; all that wait share it, and there is
//! none within [`FetchConfig::min_interval`] of the last, whoever asks. While fetching fails the last
//! good keys count, for [`FetchConfig::max_stale`]. Without any: `503` and [`Reason::KeysUnavailable`].
//!
//! # Units and limits
//! A token has at most [`JwtConfig::max_token`] bytes (default 8 KiB), a set 256 KiB and 100 keys. At most
//! 16,384 verified tokens are remembered, by SHA-256, at most 64 MiB of them in all, and at most 64 KiB of
//! what each says (a token that says more is refused); a remembered token ends with its `exp`, and all of them with a change of the
//! keys. A token that is revoked in another way counts until then. At most 1,024 requests wait for keys.
//!
//! # State
//! Keys and remembered tokens belong to the [`Keys`]; [`reconfigured`](JwtLayer::reconfigured) forgets
//! what was remembered under other rules.
//!
//! # Errors and panics
//! Adds no error: `S::Error` passes unchanged. Never panics.
//!
//! # Example
//! ```
//! # use http::{Request, Response};
//! # use tower::{Layer, ServiceExt};
//! use naka::{identity::Identity, jwt::{JwtConfig, JwtLayer, KeySet, Keys}};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let keys = Keys::fixed(KeySet::from_secret(None, b"a secret of at least thirty-two bytes")?);
//! let config = JwtConfig::new().issuer("https://id.example").audience("rides");
//! let greet = tower::service_fn(|request: Request<()>| async move {
//!     let who = Identity::of(request.extensions()).and_then(|who| who.subject.clone());
//!     Ok::<_, std::io::Error>(Response::new(format!("namaste, {}", who.unwrap_or_default())))
//! });
//! let service = JwtLayer::new(config, keys).layer(greet);
//!
//! let refused = service.oneshot(Request::new(())).await?;
//! assert_eq!((refused.status().as_u16(), &refused.headers()["www-authenticate"]), (401, &"Bearer".parse()?));
//! # Ok(()) }
//! ```

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use http::{HeaderMap, HeaderValue, header::AUTHORIZATION};

mod cache;
mod claims;
mod jwk;
mod jws;
mod keys;
mod service;
#[cfg(test)]
mod vectors;

pub use jwk::{KeySet, KeysError, MAX_BYTES, MAX_KEYS, MIN_SECRET, Skipped};
pub use keys::{FetchConfig, Fetched, KeyDriver, Keys};
pub use service::Jwt;

use self::{cache::Cache, claims::Claims, jws::Jws, keys::Snapshot};
use crate::{
    clock::WallClock,
    identity::{Challenges, Identity},
    observe::Observer,
    reject::{Dependency, Reason, Rejection, Verdict},
};

/// How a signature is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Algorithm {
    /// HMAC with SHA-256: a shared secret.
    Hs256,
    /// RSA, PKCS #1 v1.5, SHA-256.
    Rs256,
    /// RSA, PSS, SHA-256.
    Ps256,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// ECDSA on P-384 with SHA-384.
    Es384,
    /// `EdDSA` on Ed25519.
    EdDsa,
}

impl Algorithm {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Hs256, Self::Rs256, Self::Ps256, Self::Es256, Self::Es384, Self::EdDsa];

    /// Its name (RFC 7518, RFC 8037).
    pub const fn word(self) -> &'static str {
        match self {
            Self::Hs256 => "HS256",
            Self::Rs256 => "RS256",
            Self::Ps256 => "PS256",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::EdDsa => "EdDSA",
        }
    }

    /// The one of this name, as it is written.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.word() == word)
    }

    /// As whoever verifies calls it.
    const fn verified(self) -> jsonwebtoken::Algorithm {
        match self {
            Self::Hs256 => jsonwebtoken::Algorithm::HS256,
            Self::Rs256 => jsonwebtoken::Algorithm::RS256,
            Self::Ps256 => jsonwebtoken::Algorithm::PS256,
            Self::Es256 => jsonwebtoken::Algorithm::ES256,
            Self::Es384 => jsonwebtoken::Algorithm::ES384,
            Self::EdDsa => jsonwebtoken::Algorithm::EdDSA,
        }
    }
}

/// What a [`JwtLayer`] insists on.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct JwtConfig {
    /// Who may have made a token; none: anybody who has the key. A token without `iss` is then refused.
    pub issuers: Vec<Arc<str>>,
    /// For whom a token may be made. A token without `aud` is then refused; without any, one with it.
    pub audiences: Vec<Arc<str>>,
    /// Narrows what the keys allow; none: all that a key of its kind may.
    pub algorithms: Option<Vec<Algorithm>>,
    /// `typ` of the header, compared without case and without `application/` (RFC 9068: `at+jwt`).
    pub token_type: Option<Arc<str>>,
    /// Whether a token without `exp` is refused; default yes.
    pub require_exp: bool,
    /// Whether a token without `nbf` is refused; default no.
    pub require_nbf: bool,
    /// How far clocks may differ; default 60 s.
    pub leeway: Duration,
    /// The longest token, in bytes; default 8 KiB.
    pub max_token: usize,
    /// Where scopes are; default `scope`: a list, or words in a text.
    pub scope_claim: Arc<str>,
    /// Where roles are; default `roles`; what is nested has dots: `realm_access.roles`.
    pub role_claim: Arc<str>,
    /// What the time is.
    pub clock: Clock,
}

/// What the time is, as tokens count it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock(pub WallClock);

/// Where the time comes from is no matter of configuration.
impl PartialEq for Clock {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl JwtConfig {
    /// The defaults.
    pub fn new() -> Self {
        Self {
            issuers: Vec::new(),
            audiences: Vec::new(),
            algorithms: None,
            token_type: None,
            require_exp: true,
            require_nbf: false,
            leeway: Duration::from_mins(1),
            max_token: 8 << 10,
            scope_claim: "scope".into(),
            role_claim: "roles".into(),
            clock: Clock::default(),
        }
    }

    /// One more issuer.
    #[must_use]
    pub fn issuer(mut self, issuer: &str) -> Self {
        self.issuers.push(issuer.into());
        self
    }

    /// One more audience.
    #[must_use]
    pub fn audience(mut self, audience: &str) -> Self {
        self.audiences.push(audience.into());
        self
    }
}

impl Default for JwtConfig {
    fn default() -> Self {
        Self::new()
    }
}

/// Applies [`Jwt`]; see the [module docs](self) for an example.
#[must_use]
pub struct JwtLayer<O = ()> {
    shared: Option<Arc<Shared<O>>>,
}

struct Shared<O> {
    config: JwtConfig,
    keys: Keys,
    /// Remembered tokens count only under the rules by which they were let pass.
    salt: u64,
    /// What whoever brings no token could bring; they pass without.
    optional: Option<Challenges>,
    name: Option<Arc<str>>,
    observer: O,
}

impl JwtLayer {
    /// Verifies with these keys.
    pub fn new(config: JwtConfig, keys: Keys) -> Self {
        Self::observed(config, keys, ())
    }
}

impl<O: Observer> JwtLayer<O> {
    /// As [`new`](JwtLayer::new), and tells `observer` what it does.
    pub fn observed(config: JwtConfig, keys: Keys, observer: O) -> Self {
        let (salt, optional, name) = (next_salt(), None, None);
        Self::of(Shared { config, keys, salt, optional, name, observer })
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

    /// The same, and whoever brings no `Authorization` at all passes as nobody. Keys and remembered tokens are those of the
    /// layer that it was made of; so one policy can be asked for here and be optional there. Whoever passes as nobody is
    /// not told to the observer: [`admitted`](Observer::admitted) is who was verified.
    ///
    /// ```
    /// # use http::{Request, Response};
    /// # use tower::{Layer, ServiceExt};
    /// use naka::{identity::Identity, jwt::{JwtConfig, JwtLayer, KeySet, Keys}};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let keys = Keys::fixed(KeySet::from_secret(None, b"a secret of at least thirty-two bytes")?);
    /// let greet = tower::service_fn(|request: Request<()>| async move {
    ///     let who = if Identity::of(request.extensions()).is_some() { "somebody" } else { "nobody" };
    ///     Ok::<_, std::io::Error>(Response::new(who.to_owned()))
    /// });
    /// let service = JwtLayer::new(JwtConfig::new(), keys).optional().layer(greet);
    ///
    /// assert_eq!(service.clone().oneshot(Request::new(())).await?.body(), "nobody");
    /// let broken = Request::builder().header("authorization", "Bearer nonsense").body(())?;
    /// assert_eq!(service.oneshot(broken).await?.status(), 401);
    /// # Ok(()) }
    /// ```
    pub fn optional(self) -> Self
    where
        O: Clone,
    {
        let challenges = Challenges::new([HeaderValue::from_static(CHALLENGE)]);
        self.map(|old| Shared { optional: Some(challenges.clone()), ..old.clone() })
    }

    /// The same keys under other rules.
    pub fn reconfigured(&self, config: &JwtConfig) -> Self
    where
        O: Clone,
    {
        self.map(|old| Shared {
            config: config.clone(),
            salt: if old.config == *config { old.salt } else { next_salt() },
            ..old.clone()
        })
    }

    /// The same rules over other keys.
    pub fn rekeyed(&self, keys: &Keys) -> Self
    where
        O: Clone,
    {
        self.map(|old| Shared { keys: keys.clone(), ..old.clone() })
    }

    /// Who it would be, had a token with these claims (a JSON object) been verified; its times, issuer and
    /// audience are not asked about. For tests and for whoever explains.
    ///
    /// # Errors
    /// If the claims are none, or more than are kept.
    pub fn assumed(&self, claims: &[u8]) -> Result<Arc<Identity>, Rejection> {
        let config = self.shared.as_ref().map(|shared| shared.config.clone()).unwrap_or_default();
        let identity = Claims::parse(claims).and_then(|claims| claims.identity(&config));
        identity.map(Arc::new).map_err(refusal)
    }

    /// The keys it verifies with.
    pub fn keys(&self) -> Option<&Keys> {
        self.shared.as_ref().map(|shared| &shared.keys)
    }

    fn of(shared: Shared<O>) -> Self {
        Self { shared: Some(Arc::new(shared)) }
    }

    fn map(&self, change: impl Fn(&Shared<O>) -> Shared<O>) -> Self {
        self.shared.as_deref().map_or_else(Self::off, |shared| Self::of(change(shared)))
    }
}

impl<O: Clone> Clone for Shared<O> {
    fn clone(&self) -> Self {
        Self {
            config: self.config.clone(),
            keys: self.keys.clone(),
            salt: self.salt,
            optional: self.optional.clone(),
            name: self.name.clone(),
            observer: self.observer.clone(),
        }
    }
}

impl<O> fmt::Debug for JwtLayer<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = self.shared.as_ref().map(|shared| (&shared.name, &shared.config, &shared.keys));
        f.debug_tuple("JwtLayer").field(&known).finish()
    }
}

/// One for each set of rules: layers of other rules may have the same keys.
fn next_salt() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Relaxed)
}

/// The pure decision: these keys, this time, this head.
fn evaluate(
    config: &JwtConfig,
    snapshot: Option<&Snapshot>,
    salt: u64,
    unix_s: u64,
    headers: &HeaderMap,
) -> Verdict<Arc<Identity>> {
    match identify(config, snapshot, salt, unix_s, headers) {
        Ok(identity) => Verdict::Admit(identity),
        Err(Refused::NoKeys) => Verdict::Depends(Dependency::Keys { kid: None }),
        Err(Refused::UnknownKid(kid)) => Verdict::Depends(Dependency::Keys { kid: Some(kid) }),
        Err(Refused::For(reason)) => Verdict::Reject(refusal(reason)),
    }
}

enum Refused {
    NoKeys,
    UnknownKid(Arc<str>),
    For(Reason),
}

impl From<Reason> for Refused {
    fn from(reason: Reason) -> Self {
        Self::For(reason)
    }
}

fn identify(
    config: &JwtConfig,
    snapshot: Option<&Snapshot>,
    salt: u64,
    unix_s: u64,
    headers: &HeaderMap,
) -> Result<Arc<Identity>, Refused> {
    let token = token(headers)?;
    if token.len() > config.max_token {
        return Err(Reason::TokenTooLarge.into());
    }
    let Some(snapshot) = snapshot else {
        Jws::parse(token)?; // Nobody is asked for the keys of what is no token.
        return Err(Refused::NoKeys);
    };
    let leeway_s = config.leeway.as_secs();
    let mut print = Cache::fingerprint(token);
    for (byte, salt) in print.iter_mut().zip(salt.to_le_bytes()) {
        *byte ^= salt;
    }
    if let Some((identity, validity)) = snapshot.cache.get(&print) {
        validity.check(unix_s, leeway_s)?;
        return Ok(identity);
    }
    let jws = Jws::parse(token)?;
    match snapshot.keys.verify(&jws, config.algorithms.as_deref()) {
        Err(Reason::UnknownKid) => {
            // Shown and logged: what a stranger wrote is cut.
            let kid = jws.kid.unwrap_or_default().chars().take(64).collect::<String>();
            return Err(Refused::UnknownKid(kid.into()));
        }
        other => other?,
    }
    check_type(config, jws.typ.as_deref())?;
    let (identity, validity) = Claims::parse(&jws.payload()?)?.check(config)?;
    validity.check(unix_s, leeway_s)?;
    let identity = Arc::new(identity);
    snapshot.cache.put(print, (Arc::clone(&identity), validity), unix_s);
    Ok(identity)
}

fn check_type(config: &JwtConfig, typ: Option<&str>) -> Result<(), Reason> {
    let Some(wanted) = &config.token_type else { return Ok(()) };
    let short = |typ: &str| {
        let typ = typ.to_ascii_lowercase();
        typ.strip_prefix("application/").map(str::to_owned).unwrap_or(typ)
    };
    let typ = typ.ok_or(Reason::TypeRefused)?;
    if short(typ) == short(wanted) { Ok(()) } else { Err(Reason::TypeRefused) }
}

/// The one token of a request (RFC 6750 §2.1).
fn token(headers: &HeaderMap) -> Result<&str, Reason> {
    let mut all = headers.get_all(AUTHORIZATION).iter();
    let one = all.next().ok_or(Reason::CredentialsMissing)?;
    if all.next().is_some() {
        return Err(Reason::CredentialsMalformed);
    }
    let text = one.to_str().map_err(|_| Reason::CredentialsMalformed)?;
    let (scheme, token) = text.split_once(' ').ok_or(Reason::CredentialsMalformed)?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(Reason::CredentialsMissing);
    }
    Ok(token.trim_start_matches(' '))
}

/// What is asked for.
const CHALLENGE: &str = "Bearer";

/// RFC 6750 §3: without credentials only what is asked for; else that the token is not good.
fn refusal(reason: Reason) -> Rejection {
    let challenge = match reason {
        Reason::CredentialsMissing => CHALLENGE,
        _ => "Bearer error=\"invalid_token\"",
    };
    Rejection::new(reason).challenge(challenge)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is remembered of a token counts under the salt of its rules alone.
    #[test]
    fn what_is_optional_remembers_what_the_other_does() {
        let keys = Keys::fixed(KeySet::from_secret(None, b"a secret of at least thirty-two bytes").unwrap());
        let demanded = JwtLayer::new(JwtConfig::new(), keys);
        let salt = |layer: &JwtLayer| layer.shared.as_ref().unwrap().salt;
        let optional = demanded.clone().optional();
        assert_eq!(salt(&optional), salt(&demanded));
        assert_eq!(salt(&optional.reconfigured(&JwtConfig::new())), salt(&demanded));
        assert_ne!(salt(&optional.reconfigured(&JwtConfig::new().issuer("other"))), salt(&demanded));
    }
}
