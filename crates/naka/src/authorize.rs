//! Authorization: `403 Forbidden` for whoever may not, or `401 Unauthorized` where it is not known who asks and could be.
//!
//! # Decision
//! A [`Rule`] is asked about the request's head, its client's address and its
//! [`Identity`], with `all`, `any` and `not`. What cannot be known (whose address is
//! not known, or who has no identity) is neither true nor false, as in the logic of Kleene, and whoever
//! is not surely let in stays out: `not` does not make a guess of it. An anonymous request can be let in
//! by [`Rule::Authenticated`] under a `not`.
//!
//! A request that has passed a layer as nobody, because that one is optional, and that the rule could let in if it was known
//! who asks, is `401` and [`Reason::CredentialsMissing`] with the [`Challenges`] of those layers (RFC 9110, section 15.5.2):
//! credentials would help there.
//!
//! # Units and limits
//! No state besides the count of refusals for [`Enforce::Percent`]; a rule is as deep as it was written.
//!
//! # Errors and panics
//! Adds no error: `S::Error` passes unchanged. Never panics.
//!
//! # Example
//! ```
//! # use std::sync::Arc;
//! # use http::{Request, Response};
//! # use tower::{Layer, ServiceExt};
//! use naka::{authorize::{AuthorizeLayer, Rule}, identity::{Identity, Scheme}};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let upstream = tower::service_fn(|_: Request<()>| async { Ok::<_, std::io::Error>(Response::new(())) });
//! let rule = Rule::any([Rule::scope("rides.read"), Rule::role("support")]);
//! let service = AuthorizeLayer::new(rule).layer(upstream);
//!
//! let mut asha = Identity::new(Scheme::Jwt, Some("asha".into()));
//! asha.scopes.push("rides.read".into());
//! let mut request = Request::new(());
//! Arc::new(asha).put(request.extensions_mut());
//! assert_eq!(service.clone().oneshot(request).await?.status(), 200);
//! assert_eq!(service.oneshot(Request::new(())).await?.status(), 403);
//! # Ok(()) }
//! ```

use std::{
    fmt,
    net::IpAddr,
    str::FromStr,
    sync::Arc,
    task::{Context, Poll},
};

use http::{Method, Request, Response, request::Parts};
use ipnet::IpNet;
use tower_service::Service;

use crate::{
    clock::Now,
    context::ClientAddr,
    enforce::{Enforce, Rejections},
    explain::{Explain, Finding},
    identity::{Challenges, Claim, Identity},
    layered::layered,
    observe::Observer,
    reject::{Decided, Head, Reason, Rejection},
    trace::note,
};

/// Who may.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Rule {
    /// Each of them; nobody is refused by none.
    All(Vec<Rule>),
    /// One of them; nobody is let in by none.
    Any(Vec<Rule>),
    /// Not this.
    Not(Box<Rule>),
    /// Whoever is known.
    Authenticated,
    /// Whose credentials have this scope.
    Scope(Arc<str>),
    /// Whose credentials have this role.
    Role(Arc<str>),
    /// Who it is.
    Subject(Arc<str>),
    /// Whose credentials say this text of something, or have it in a list.
    Claim(Arc<str>, Arc<str>),
    /// How it is asked.
    Method(Method),
    /// Where it comes from.
    Client(Network),
}

impl Rule {
    /// Each of these.
    pub fn all(rules: impl IntoIterator<Item = Self>) -> Self {
        Self::All(rules.into_iter().collect())
    }

    /// One of these.
    pub fn any(rules: impl IntoIterator<Item = Self>) -> Self {
        Self::Any(rules.into_iter().collect())
    }

    /// Whose credentials have this scope.
    pub fn scope(scope: &str) -> Self {
        Self::Scope(scope.into())
    }

    /// Whose credentials have this role.
    pub fn role(role: &str) -> Self {
        Self::Role(role.into())
    }
}

impl std::ops::Not for Rule {
    type Output = Self;

    fn not(self) -> Self {
        Self::Not(Box::new(self))
    }
}

/// A network, such as `10.0.0.0/8`; an address alone is one of a single address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network(IpNet);

impl Network {
    /// Whether an address is of it. An IPv4 address in IPv6 clothes is what it is.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address.to_canonical())
    }
}

/// An IPv4 network in IPv6 clothes contains nothing: addresses are compared as what they are.
impl From<IpNet> for Network {
    fn from(network: IpNet) -> Self {
        Self(network)
    }
}

/// The text is no network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetworkError;

impl fmt::Display for NetworkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a network such as `10.0.0.0/8` or `2001:db8::/32`")
    }
}

impl std::error::Error for NetworkError {}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let network = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        match network.map_err(|_| NetworkError)? {
            // Addresses are compared as what they are, and this would be none of them.
            IpNet::V6(v6) if v6.addr().to_ipv4_mapped().is_some() => Err(NetworkError),
            network => Ok(Self(network)),
        }
    }
}

/// The pure decision: yes, no, or `None` for what cannot be known.
pub fn evaluate(rule: &Rule, head: &Head<'_>) -> Option<bool> {
    judge(rule, head, Identity::of(head.extensions).is_some())
}

/// The same, of somebody, or of nobody.
fn judge(rule: &Rule, head: &Head<'_>, is_somebody: bool) -> Option<bool> {
    let identity = Identity::of(head.extensions);
    match rule {
        Rule::All(rules) => fold(rules, head, is_somebody, false),
        Rule::Any(rules) => fold(rules, head, is_somebody, true),
        Rule::Not(rule) => judge(rule, head, is_somebody).map(|is| !is),
        Rule::Authenticated => Some(is_somebody),
        Rule::Scope(scope) => Some(identity?.scopes.contains(scope)),
        Rule::Role(role) => Some(identity?.roles.contains(role)),
        Rule::Subject(subject) => Some(identity?.subject.as_ref() == Some(subject)),
        Rule::Claim(name, value) => {
            let claim = identity?.claims.get(name);
            claim.map_or(Some(false), |claim| says(claim, value))
        }
        Rule::Method(method) => Some(head.method == method),
        Rule::Client(network) => Some(network.contains(ClientAddr::of(head.extensions)?)),
    }
}

/// Whether a claim is this text, or has it in its list. What is no text is compared by its text form.
fn says(claim: &Claim, value: &str) -> Option<bool> {
    match claim {
        Claim::Text(text) => Some(&**text == value),
        Claim::Flag(flag) => Some(flag.to_string() == value),
        Claim::Integer(number) => Some(number.to_string() == value),
        Claim::Number(_) => None, // It has more than one.
        Claim::List(all) => {
            let found = all.iter().map(|one| says(one, value)).collect::<Vec<_>>();
            if found.contains(&Some(true)) {
                return Some(true);
            }
            (!found.contains(&None)).then_some(false)
        }
    }
}

/// One that is `decisive` decides; else, if one is not known, the whole is not.
fn fold(rules: &[Rule], head: &Head<'_>, is_somebody: bool, decisive: bool) -> Option<bool> {
    let mut is_known = true;
    for rule in rules {
        match judge(rule, head, is_somebody) {
            Some(is) if is == decisive => return Some(decisive),
            Some(_) => {}
            None => is_known = false,
        }
    }
    is_known.then_some(!decisive)
}

/// Applies [`Authorize`]; see the [module docs](self) for an example.
#[must_use]
pub struct AuthorizeLayer<O = ()> {
    guards: Arc<[Arc<Guard<O>>]>,
}

/// One rule.
struct Guard<O> {
    rule: Rule,
    enforce: Enforce,
    rejections: Arc<Rejections>,
    name: Option<Arc<str>>,
    observer: O,
}

impl AuthorizeLayer {
    /// Lets in whom the rule lets in.
    pub fn new(rule: Rule) -> Self {
        Self::observed(rule, ())
    }
}

impl<O: Observer> AuthorizeLayer<O> {
    /// As [`new`](AuthorizeLayer::new), and tells `observer` what it does.
    pub fn observed(rule: Rule, observer: O) -> Self {
        let (enforce, rejections) = (Enforce::Always, Arc::default());
        Self { guards: Arc::new([Arc::new(Guard { rule, enforce, rejections, name: None, observer })]) }
    }

    /// A layer that is not there.
    pub fn off() -> Self {
        Self { guards: Arc::new([]) }
    }

    /// Whether it is a layer that is not there.
    pub fn is_off(&self) -> bool {
        self.guards.is_empty()
    }

    /// How far it takes effect.
    pub fn enforce(self, enforce: Enforce) -> Self
    where
        O: Clone,
    {
        self.map(|old| Guard { enforce, ..old.clone() })
    }

    /// Names the policy: in its rejections, and in what it explains.
    pub fn named(self, name: &Arc<str>) -> Self
    where
        O: Clone,
    {
        self.map(|old| Guard { name: Some(Arc::clone(name)), ..old.clone() })
    }

    /// Another rule; what was refused so far is counted on.
    pub fn reconfigured(&self, rule: &Rule) -> Self
    where
        O: Clone,
    {
        self.map(|old| Guard { rule: rule.clone(), ..old.clone() })
    }

    fn map(&self, change: impl Fn(&Guard<O>) -> Guard<O>) -> Self {
        Self { guards: self.guards.iter().map(|guard| Arc::new(change(guard))).collect() }
    }
}

/// Several rules in one layer, all of which must let in; none at all is [`AuthorizeLayer::off`].
impl<O> FromIterator<Self> for AuthorizeLayer<O> {
    fn from_iter<I: IntoIterator<Item = Self>>(layers: I) -> Self {
        Self { guards: layers.into_iter().flat_map(|layer| layer.guards.to_vec()).collect() }
    }
}

impl<O: Clone> Clone for Guard<O> {
    fn clone(&self) -> Self {
        Self {
            rule: self.rule.clone(),
            enforce: self.enforce,
            rejections: Arc::clone(&self.rejections),
            name: self.name.clone(),
            observer: self.observer.clone(),
        }
    }
}

impl<O> fmt::Debug for AuthorizeLayer<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = self.guards.iter().map(|guard| (&guard.name, (&guard.rule, guard.enforce)));
        f.debug_map().entries(known).finish()
    }
}

impl<O: Observer> Guard<O> {
    fn refuses(&self, head: &Head<'_>) -> Option<Rejection> {
        if self.enforce == Enforce::Never {
            return None;
        }
        let may = evaluate(&self.rule, head) == Some(true);
        (!may).then(|| self.refusal(head).by(self.name.clone()))
    }

    /// What is said to whom the rule does not let in. It is asked for credentials where they could change that.
    fn refusal(&self, head: &Head<'_>) -> Rejection {
        let is_nobody = Identity::of(head.extensions).is_none();
        let could_be_let_in = || judge(&self.rule, head, true) != Some(false);
        match Challenges::of(head.extensions).filter(|_| is_nobody && could_be_let_in()) {
            Some(challenges) => Rejection {
                headers: Some(Arc::clone(challenges.headers())),
                ..Rejection::new(Reason::CredentialsMissing)
            },
            None => Rejection::new(Reason::Forbidden),
        }
    }

    fn commit(&self, head: &Head<'_>) -> Result<(), Rejection> {
        match self.refuses(head) {
            Some(rejection) if self.rejections.count(self.enforce) => {
                self.observer.rejected(&rejection);
                return Err(rejection);
            }
            Some(rejection) => {
                note(head.extensions, "would_reject", self.name.as_ref(), Some(rejection.reason.word()));
                self.observer.would_reject(&rejection);
            }
            None => self.observer.admitted(),
        }
        Ok(())
    }
}

const KIND: &str = "authorize";

impl<O: Observer> Explain for Guard<O> {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    fn explain(&self, _: Now, head: &mut Parts) -> Finding {
        if self.enforce == Enforce::Never {
            return Finding::Off;
        }
        match self.refuses(&Head::from(&*head)) {
            None => Finding::Admit("its rule lets in".into()),
            Some(rejection) if self.rejections.peek(self.enforce) => Finding::Reject(rejection),
            Some(rejection) => Finding::Observe(rejection),
        }
    }
}

impl<O: Observer> Explain for AuthorizeLayer<O> {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn explain(&self, now: Now, head: &mut Parts) -> Finding {
        let mut finding = Finding::Off;
        for guard in &*self.guards {
            finding = guard.explain(now, head);
            if matches!(finding, Finding::Reject(_)) {
                break;
            }
        }
        finding
    }

    fn each<'a>(&'a self, visit: &mut dyn FnMut(&'a dyn Explain)) {
        if self.guards.is_empty() {
            return visit(self);
        }
        for guard in &*self.guards {
            visit(&**guard);
        }
    }
}

layered! {
    /// Lets in who may; see the [module docs](self).
    AuthorizeLayer { guards } => Authorize
}

impl<S, O, B, R> Service<Request<B>> for Authorize<S, O>
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

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let head = Head::from(&request);
        match self.layer.guards.iter().try_for_each(|guard| guard.commit(&head)) {
            Ok(()) => Decided::forward(self.inner.call(request)),
            Err(rejection) => Decided::reject(rejection),
        }
    }
}
