//! Authentication by name and password (HTTP Basic, RFC 7617): `401 Unauthorized` for whoever has none that
//! counts.
//!
//! # Decision
//! 1. Name and password are taken from `Authorization: Basic …`; a second such line, bad base64, no colon or
//!    a control character is no password.
//! 2. Passwords are kept as Argon2id hashes (RFC 9106), in the PHC string format. A check takes tens of
//!    milliseconds and megabytes **by design**, so it runs on tokio's blocking threads, at most
//!    [`max_checks`](BasicAuthConfig::max_checks) at once; whoever comes while
//!    [`max_waiting`](BasicAuthConfig::max_waiting) wait gets `503` and [`Reason::AuthBusy`]. A caller that
//!    gives up leaves the queue; a check that has begun goes on, and keeps its place until it ends.
//! 3. An unknown name is checked against the costliest hash, so that it takes as long. Hash all passwords at
//!    one cost: a name whose hash is cheaper is told from unknown ones by its time.
//! 4. What was right is remembered for [`remember`](BasicAuthConfig::remember), as an HMAC under a key of
//!    this list: whoever asks again costs one hash.
//! 5. Admitted: an [`Identity`] is in the request, and the header is taken away, unless
//!    [`forward`](BasicAuthConfig::forward) says otherwise.
//! 6. [`optional`](BasicAuthLayer::optional): a request without any `Authorization` passes as nobody, with what it could have
//!    brought among its [`Challenges`]. Whatever stands in such a header, and be it of another scheme, is refused as ever.
//!
//! Guessing is slowed by the checks' bound and nothing else: put a rate limit by address in front of it.
//! Credentials travel in the clear: only ever behind TLS.
//!
//! # Units and limits
//! Name and password together have at most 512 bytes. A hash may ask for at most 256 MiB and 16 passes; what
//! all checks may take at once is `max_checks` times that of the costliest hash. 16,384 right passwords are
//! remembered at most.
//!
//! # State
//! The bound on checks belongs to the layer and outlives [`reconfigured`](BasicAuthLayer::reconfigured);
//! what is remembered goes with the list of users.
//!
//! # Errors and panics
//! Adds no error: `S::Error` passes unchanged. `call` panics outside of a tokio runtime, as its
//! `spawn_blocking` does.
//!
//! # Example
//! ```
//! # use http::{Request, Response};
//! # use tower::{Layer, ServiceExt};
//! use naka::basic_auth::{BasicAuthConfig, BasicAuthLayer, User, Users};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let upstream = tower::service_fn(|_: Request<()>| async { Ok::<_, std::io::Error>(Response::new(())) });
//! // `argon2 saltsaltsalt -id -t 2 -m 12 -e` of the password `open sesame`.
//! let hash = "$argon2id$v=19$m=4096,t=2,p=1$c2FsdHNhbHRzYWx0$SvL9pc27qyFeWF/hpm04a+T49mrW8eo1MaIDg0wGN6o";
//! let users = Users::new([User::new("asha", hash)?]);
//! let service = BasicAuthLayer::new(BasicAuthConfig::new(users)).layer(upstream);
//!
//! let refused = service.oneshot(Request::new(())).await?;
//! assert_eq!((refused.status().as_u16(), &refused.headers()["www-authenticate"]),
//!     (401, &r#"Basic realm="naka", charset="UTF-8""#.parse()?));
//! # Ok(()) }
//! ```

use std::{
    collections::HashMap,
    fmt, mem,
    sync::{
        Arc,
        atomic::{
            AtomicUsize,
            Ordering::{AcqRel, Acquire},
        },
    },
    task::{Context, Poll},
    time::Duration,
};

use argon2::{
    Algorithm, Argon2, Params,
    password_hash::{PasswordVerifier as _, phc::PasswordHash},
};
use aws_lc_rs::{hmac, rand::SystemRandom};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{
    HeaderMap, HeaderValue, Request, Response, header::AUTHORIZATION, header::WWW_AUTHENTICATE,
    request::Parts,
};
use tokio::{sync::Semaphore, task::spawn_blocking, time::Instant};
use tower_service::Service;

use crate::{
    asked::Asked,
    clock::Now,
    explain::{Explain, Finding},
    identity::{Challenges, Identity, Scheme},
    layered::layered,
    observe::Observer,
    reject::{Dependency, Reason, Rejection, Verdict},
    remember::{Fingerprint, Remembered},
};

/// The most bytes of a name and a password together.
pub const MAX_CREDENTIALS: usize = 512;
/// The most memory that one check may take, in KiB.
pub const MAX_MEMORY_KIB: u32 = 256 << 10;
/// The most passes of one check.
pub const MAX_PASSES: u32 = 16;

/// Somebody with a password.
#[derive(Clone)]
pub struct User {
    hash: Arc<PasswordHash>,
    /// Memory times passes: what a check takes. Lanes share both.
    cost: u64,
    identity: Arc<Identity>,
}

impl User {
    /// This name, and the hash of its password: `$argon2id$…`.
    ///
    /// # Errors
    /// If the hash is none, is of another kind, or asks for more than is allowed.
    pub fn new(name: &str, hash: &str) -> Result<Self, UserError> {
        if name.is_empty() || name.contains(':') || name.chars().any(char::is_control) {
            return Err(UserError::Name);
        }
        let hash = PasswordHash::new(hash).map_err(|_| UserError::Hash)?;
        if hash.algorithm.as_str() != Algorithm::Argon2id.as_str()
            || hash.hash.is_none()
            || hash.salt.is_none()
        {
            return Err(UserError::Kind);
        }
        let params = Params::try_from(&hash).map_err(|_| UserError::Hash)?;
        if params.m_cost() > MAX_MEMORY_KIB || params.t_cost() > MAX_PASSES {
            return Err(UserError::TooCostly);
        }
        let identity = Arc::new(Identity::new(Scheme::Basic, Some(name.into())));
        let cost = u64::from(params.m_cost()) * u64::from(params.t_cost());
        Ok(Self { hash: Arc::new(hash), cost, identity })
    }

    /// What else is known of it: scopes, roles, claims.
    #[must_use]
    pub fn knowing(mut self, change: impl FnOnce(&mut Identity)) -> Self {
        change(Arc::make_mut(&mut self.identity));
        self
    }

    fn has(&self, password: &[u8]) -> bool {
        Argon2::default().verify_password(password, &*self.hash).is_ok()
    }
}

/// Hashes are not shown.
impl fmt::Debug for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("User").field("identity", &self.identity).finish_non_exhaustive()
    }
}

/// Why somebody cannot be known by a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum UserError {
    /// The name is empty, or has a colon or a control character.
    Name,
    /// The hash is not in the PHC string format.
    Hash,
    /// The hash is of another kind than Argon2id.
    Kind,
    /// It asks for more than [`MAX_MEMORY_KIB`] or [`MAX_PASSES`].
    TooCostly,
}

impl fmt::Display for UserError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name => f.write_str("the name is empty, or has a colon or a control character"),
            Self::Hash => f.write_str("the hash is not of the form `$argon2id$v=19$m=…,t=…,p=…$salt$hash`"),
            Self::Kind => f.write_str("the hash is not Argon2id: bcrypt, MD5 and SHA are not taken"),
            Self::TooCostly => {
                write!(f, "the hash asks for more than {} MiB or {MAX_PASSES} passes", MAX_MEMORY_KIB >> 10)
            }
        }
    }
}

impl std::error::Error for UserError {}

/// All who have a password. Of two with one name the last counts.
#[derive(Clone)]
pub struct Users(Arc<List>);

struct List {
    by_name: HashMap<Arc<str>, User>,
    /// Whose hash a stranger's password is checked against.
    costliest: Option<User>,
    key: hmac::Key,
    right: Remembered<(Arc<Identity>, Instant)>,
}

impl Users {
    /// These.
    pub fn new(users: impl IntoIterator<Item = User>) -> Self {
        let named = |user: User| Some((user.identity.subject.clone()?, user));
        let by_name = users.into_iter().filter_map(named).collect::<HashMap<_, _>>();
        let costliest = by_name.values().max_by_key(|user| user.cost).cloned();
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new());
        let key = key.expect("the system has random numbers");
        Self(Arc::new(List { by_name, costliest, key, right: Remembered::default() }))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.by_name.len()
    }

    /// Whether there is nobody.
    pub fn is_empty(&self) -> bool {
        self.0.by_name.is_empty()
    }

    fn fingerprint(&self, credentials: &[u8]) -> Fingerprint {
        let mut print = [0; 32];
        print.copy_from_slice(hmac::sign(&self.0.key, credentials).as_ref());
        print
    }

    /// Takes as long for a stranger.
    fn check(&self, credentials: &Credentials) -> Option<Arc<Identity>> {
        let known = self.0.by_name.get(credentials.name());
        let user = known.or(self.0.costliest.as_ref())?;
        let is_right = user.has(credentials.password());
        known.filter(|_| is_right).map(|user| Arc::clone(&user.identity))
    }
}

impl fmt::Debug for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.by_name.keys()).finish()
    }
}

/// What a [`BasicAuthLayer`] does.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct BasicAuthConfig {
    /// All who have a password.
    pub users: Users,
    /// What clients are told they need a password for; default `naka`. What is no visible ASCII is left out.
    pub realm: Arc<str>,
    /// Checks at once; default 2. What it is when the layer is made holds for all that are reconfigured.
    pub max_checks: usize,
    /// Requests that wait for a check; default 64.
    pub max_waiting: usize,
    /// How long a right password is remembered; default 5 min; zero: not at all.
    pub remember: Duration,
    /// Whether the header is sent on; default no.
    pub forward: bool,
}

impl BasicAuthConfig {
    /// These users, and the defaults.
    pub fn new(users: Users) -> Self {
        Self {
            users,
            realm: "naka".into(),
            max_checks: 2,
            max_waiting: 64,
            remember: Duration::from_mins(5),
            forward: false,
        }
    }

    fn challenge(&self) -> Arc<HeaderMap> {
        let is_plain = |c: &char| matches!(c, ' '..='~') && !matches!(c, '"' | '\\');
        let realm = self.realm.chars().filter(is_plain).collect::<String>();
        let challenge = format!("Basic realm=\"{realm}\", charset=\"UTF-8\"");
        let value = HeaderValue::try_from(challenge).expect("it is visible ASCII");
        Arc::new(HeaderMap::from_iter([(WWW_AUTHENTICATE, value)]))
    }
}

/// Name, colon, password.
struct Credentials {
    text: Vec<u8>,
    colon: usize,
}

impl Credentials {
    fn of(headers: &HeaderMap) -> Result<Self, Reason> {
        let mut all = headers.get_all(AUTHORIZATION).iter();
        let one = all.next().ok_or(Reason::CredentialsMissing)?;
        if all.next().is_some() {
            return Err(Reason::CredentialsMalformed);
        }
        let text = one.to_str().map_err(|_| Reason::CredentialsMalformed)?;
        let (scheme, encoded) = text.split_once(' ').ok_or(Reason::CredentialsMalformed)?;
        if !scheme.eq_ignore_ascii_case("basic") {
            return Err(Reason::CredentialsMissing);
        }
        let encoded = encoded.trim_start_matches(' ');
        if encoded.len() > MAX_CREDENTIALS.div_ceil(3) * 4 {
            return Err(Reason::CredentialsMalformed);
        }
        let text = STANDARD.decode(encoded).map_err(|_| Reason::CredentialsMalformed)?;
        let is_text = std::str::from_utf8(&text).is_ok_and(|text| !text.chars().any(char::is_control));
        match text.iter().position(|byte| *byte == b':') {
            Some(colon) if is_text && text.len() <= MAX_CREDENTIALS => Ok(Self { text, colon }),
            _ => Err(Reason::CredentialsMalformed),
        }
    }

    fn name(&self) -> &str {
        std::str::from_utf8(&self.text[..self.colon]).unwrap_or_default()
    }

    fn password(&self) -> &[u8] {
        &self.text[self.colon + 1..]
    }
}

/// Applies [`BasicAuth`]; see the [module docs](self) for an example.
#[must_use]
pub struct BasicAuthLayer<O = ()> {
    shared: Option<Arc<Shared<O>>>,
}

struct Shared<O> {
    config: BasicAuthConfig,
    challenge: Arc<HeaderMap>,
    bound: Arc<Bound>,
    /// What whoever brings no password could bring; they pass without.
    optional: Option<Challenges>,
    name: Option<Arc<str>>,
    observer: O,
}

/// Checks at once, and who waits for one.
struct Bound {
    places: Arc<Semaphore>,
    waiting: AtomicUsize,
}

impl BasicAuthLayer {
    /// Lets pass whoever has one of the passwords.
    pub fn new(config: BasicAuthConfig) -> Self {
        Self::observed(config, ())
    }
}

impl<O: Observer> BasicAuthLayer<O> {
    /// As [`new`](BasicAuthLayer::new), and tells `observer` what it does.
    pub fn observed(config: BasicAuthConfig, observer: O) -> Self {
        let places = Arc::new(Semaphore::new(config.max_checks.clamp(1, Semaphore::MAX_PERMITS)));
        let bound = Arc::new(Bound { places, waiting: AtomicUsize::new(0) });
        let (challenge, optional, name) = (config.challenge(), None, None);
        Self { shared: Some(Arc::new(Shared { config, challenge, bound, optional, name, observer })) }
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

    /// The same, and whoever brings no `Authorization` at all passes as nobody. The bound on checks, and what is remembered,
    /// are those of the layer that it was made of. Whoever passes as nobody is not told to the observer:
    /// [`admitted`](Observer::admitted) is who was verified.
    ///
    /// ```
    /// # use http::{Request, Response};
    /// # use tower::{Layer, ServiceExt};
    /// use naka::basic_auth::{BasicAuthConfig, BasicAuthLayer, User, Users};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let upstream = tower::service_fn(|_: Request<()>| async { Ok::<_, std::io::Error>(Response::new(())) });
    /// # let hash = "$argon2id$v=19$m=4096,t=2,p=1$c2FsdHNhbHRzYWx0$SvL9pc27qyFeWF/hpm04a+T49mrW8eo1MaIDg0wGN6o";
    /// let users = Users::new([User::new("asha", hash)?]);
    /// let service = BasicAuthLayer::new(BasicAuthConfig::new(users)).optional().layer(upstream);
    ///
    /// assert_eq!(service.clone().oneshot(Request::new(())).await?.status(), 200);
    /// let wrong = Request::builder().header("authorization", "Basic YXNoYTp3cm9uZw==").body(())?;
    /// assert_eq!(service.oneshot(wrong).await?.status(), 401);
    /// # Ok(()) }
    /// ```
    pub fn optional(self) -> Self
    where
        O: Clone,
    {
        self.map(|old| Shared { optional: Some(asked_for(&old.challenge)), ..old.clone() })
    }

    /// Other users, and another realm; the checks that go on keep their places.
    pub fn reconfigured(&self, config: &BasicAuthConfig) -> Self
    where
        O: Clone,
    {
        let challenge = config.challenge();
        self.map(|old| Shared {
            config: config.clone(),
            challenge: Arc::clone(&challenge),
            optional: old.optional.as_ref().map(|_| asked_for(&challenge)),
            ..old.clone()
        })
    }

    /// Goes on as with the right password, and answers with who that is; `None` if nobody has that name. For
    /// tests and for whoever explains.
    pub fn assume(
        &self,
        name: &str,
        headers: &mut HeaderMap,
        extensions: &mut http::Extensions,
    ) -> Option<Arc<Identity>> {
        let shared = self.shared.as_ref()?;
        let identity = Arc::clone(&shared.config.users.0.by_name.get(name)?.identity);
        shared.admit(Arc::clone(&identity), headers, extensions);
        Some(identity)
    }

    /// Requests that wait for a check, or are being checked.
    pub fn waiting(&self) -> usize {
        self.shared.as_ref().map_or(0, |shared| shared.bound.waiting.load(Acquire))
    }

    fn map(&self, change: impl Fn(&Shared<O>) -> Shared<O>) -> Self {
        Self { shared: self.shared.as_deref().map(|shared| Arc::new(change(shared))) }
    }
}

impl<O: Clone> Clone for Shared<O> {
    fn clone(&self) -> Self {
        Self {
            config: self.config.clone(),
            challenge: Arc::clone(&self.challenge),
            bound: Arc::clone(&self.bound),
            optional: self.optional.clone(),
            name: self.name.clone(),
            observer: self.observer.clone(),
        }
    }
}

impl<O> fmt::Debug for BasicAuthLayer<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = self.shared.as_ref().map(|shared| (&shared.name, &shared.config));
        f.debug_tuple("BasicAuthLayer").field(&known).finish()
    }
}

fn asked_for(challenge: &HeaderMap) -> Challenges {
    Challenges::new(challenge.get_all(WWW_AUTHENTICATE).iter().cloned())
}

impl<O: Observer> Shared<O> {
    /// What somebody could bring who brings nothing and passes as nobody.
    fn passes(&self, headers: &HeaderMap) -> Option<&Challenges> {
        self.optional.as_ref().filter(|_| !headers.contains_key(AUTHORIZATION))
    }

    /// What can be said without checking a password.
    fn decide(&self, now: Now, headers: &HeaderMap) -> Verdict<Arc<Identity>> {
        let credentials = match Credentials::of(headers) {
            Ok(credentials) => credentials,
            Err(reason) => return Verdict::Reject(self.refusal(reason)),
        };
        let users = &self.config.users;
        if users.is_empty() {
            return Verdict::Reject(self.refusal(Reason::CredentialsInvalid));
        }
        match users.0.right.get(&users.fingerprint(&credentials.text)) {
            Some((identity, until)) if now.instant() < until => Verdict::Admit(identity),
            _ if self.bound.waiting.load(Acquire) >= self.most() => {
                Verdict::Reject(self.refusal(Reason::AuthBusy))
            }
            _ => Verdict::Depends(Dependency::Password),
        }
    }

    /// How many may be checked and wait.
    fn most(&self) -> usize {
        self.config.max_checks.saturating_add(self.config.max_waiting)
    }

    fn refusal(&self, reason: Reason) -> Rejection {
        let mut rejection = Rejection::new(reason).by(self.name.clone());
        if reason != Reason::AuthBusy {
            rejection.headers = Some(Arc::clone(&self.challenge));
        }
        rejection
    }

    fn admit(&self, identity: Arc<Identity>, headers: &mut HeaderMap, extensions: &mut http::Extensions) {
        if !self.config.forward {
            headers.remove(AUTHORIZATION);
        }
        identity.put(extensions);
    }

    /// Checks a password. The caller has been counted.
    async fn check(&self, credentials: Credentials) -> Option<Arc<Identity>> {
        let place = Arc::clone(&self.bound.places).acquire_owned().await;
        let users = self.config.users.clone();
        let print = users.fingerprint(&credentials.text);
        let checking = spawn_blocking(move || {
            let _place = place; // Kept by the check, whoever still waits for it.
            users.check(&credentials)
        });
        let identity = checking.await.ok().flatten()?;
        let now = Instant::now();
        if let Some(until) = now.checked_add(self.config.remember).filter(|_| !self.config.remember.is_zero())
        {
            let known = (Arc::clone(&identity), until);
            self.config.users.0.right.put(print, known, identity.weight(), |(_, until)| *until <= now);
        }
        Some(identity)
    }
}

/// One who waits, or is being checked; its caller may go.
struct Waiting<O: Observer> {
    shared: Arc<Shared<O>>,
    is_over: bool,
}

impl<O: Observer> Waiting<O> {
    /// `None` if there are too many.
    fn enter(shared: &Arc<Shared<O>>) -> Option<Self> {
        let most = shared.most();
        let next = |waiting: usize| (waiting < most).then_some(waiting + 1);
        shared.bound.waiting.fetch_update(AcqRel, Acquire, next).ok()?;
        shared.observer.queued();
        Some(Self { shared: Arc::clone(shared), is_over: false })
    }

    async fn check(mut self, credentials: Credentials) -> Result<Arc<Identity>, Rejection> {
        let checked = self.shared.check(credentials).await;
        self.is_over = true;
        if let Some(identity) = checked {
            self.shared.observer.admitted();
            return Ok(identity);
        }
        let rejection = self.shared.refusal(Reason::CredentialsInvalid);
        self.shared.observer.rejected(&rejection);
        Err(rejection)
    }
}

impl<O: Observer> Drop for Waiting<O> {
    fn drop(&mut self) {
        self.shared.bound.waiting.fetch_sub(1, AcqRel);
        if !self.is_over {
            self.shared.observer.cancelled();
        }
    }
}

impl<O: Observer> Explain for BasicAuthLayer<O> {
    fn kind(&self) -> &'static str {
        "basic_auth"
    }

    fn name(&self) -> Option<&str> {
        self.shared.as_ref()?.name.as_deref()
    }

    fn explain(&self, now: Now, head: &mut Parts) -> Finding {
        let Some(shared) = &self.shared else { return Finding::Off };
        if let Some(challenges) = shared.passes(&head.headers) {
            challenges.clone().put(&mut head.extensions);
            return Finding::Admit("nobody: no password was sent".to_owned());
        }
        match shared.decide(now, &head.headers) {
            Verdict::Admit(identity) => {
                let who = identity.subject.as_deref().unwrap_or_default();
                let said = format!("it is {who}, by a password that was right a while ago");
                shared.admit(identity, &mut head.headers, &mut head.extensions);
                Finding::Admit(said)
            }
            Verdict::Reject(rejection) => Finding::Reject(rejection),
            Verdict::Depends(what) => Finding::WouldAsk(what),
        }
    }
}

layered! {
    /// Lets pass whoever has a password that counts; see the [module docs](self).
    BasicAuthLayer { shared } => BasicAuth
}

impl<S, O, B, R> Service<Request<B>> for BasicAuth<S, O>
where
    S: Service<Request<B>, Response = Response<R>> + Clone,
    O: Observer,
    R: Default,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Asked<S, S::Future, B>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let Some(shared) = &self.layer.shared else { return Asked::forward(self.inner.call(request)) };
        if let Some(challenges) = shared.passes(request.headers()) {
            challenges.clone().put(request.extensions_mut());
            return Asked::forward(self.inner.call(request));
        }
        let rejection = match shared.decide(Now::of(request.extensions()), request.headers()) {
            Verdict::Admit(identity) => {
                shared.observer.admitted();
                let (mut parts, body) = request.into_parts();
                shared.admit(identity, &mut parts.headers, &mut parts.extensions);
                return Asked::forward(self.inner.call(Request::from_parts(parts, body)));
            }
            Verdict::Reject(rejection) => rejection,
            Verdict::Depends(_) => match (Credentials::of(request.headers()), Waiting::enter(shared)) {
                (Err(reason), _) => shared.refusal(reason),
                (Ok(_), None) => shared.refusal(Reason::AuthBusy),
                (Ok(credentials), Some(waiting)) => {
                    if !shared.config.forward {
                        request.headers_mut().remove(AUTHORIZATION);
                    }
                    let asking = Box::pin(waiting.check(credentials));
                    // The instance that was polled ready goes with the request; its clone stays here.
                    let clone = self.inner.clone();
                    let inner = mem::replace(&mut self.inner, clone);
                    return Asked::ask(asking, inner, request);
                }
            },
        };
        shared.observer.rejected(&rejection);
        Asked::reject(rejection)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_are_checked_against_the_costliest_hash() {
        let user = |name: &str, memory_kib: u32, passes: u32| {
            let hash = format!(
                "$argon2id$v=19$m={memory_kib},t={passes},p=1$c2FsdHNhbHRzYWx0$SvL9pc27qyFeWF/hpm04a+T49mrW8eo1MaIDg0wGN6o"
            );
            User::new(name, &hash).unwrap()
        };
        for turn in 0..32 {
            let others = (0..turn).map(|number| user(&format!("user{number}"), 64, 1));
            let users = others.chain([user("wide", 4096, 2), user("long", 2048, 16), user("last", 128, 3)]);
            let users = Users::new(users.collect::<Vec<_>>());
            let costliest = users.0.costliest.as_ref().unwrap();
            assert_eq!(costliest.identity.subject.as_deref(), Some("long"), "{turn}");
        }
    }
}
