//! Policies of one's own: kinds that a file names beside those that are built in.
//!
//! A kind is a [`tower_layer::Layer`] that [explains](Explain) itself, a configuration that serde can read, and a [place](Slot).
//! From then on `check` reads its settings and says where they are wrong, `schema` shows them, `explain` and a file's `tests:` ask
//! it, and what is in force is made anew only where its settings have changed. (For a file's `tests:`, for `check` and whoever else only asks, policies are
//! made as well, from nothing: making one has to do nothing else. No runtime is promised there.)
//!
//! ```no_run
//! use std::convert::Infallible;
//! # use std::process::ExitCode;
//!
//! use http::request::Parts;
//! use naka::{clock::Now, explain::{Explain, Finding}, reject::{Reason, Rejection}};
//! use naka_gateway::custom::{Gateway, Next, PolicyConfig, Slot};
//! # use naka_gateway::upstream::Body;
//! # use http::{Request, Response, StatusCode};
//! # use std::{future::Future, pin::Pin, task::{Context, Poll}};
//!
//! #[derive(serde::Deserialize)]
//! #[serde(deny_unknown_fields)]
//! struct Maintenance { message: String }
//!
//! impl PolicyConfig for Maintenance {}
//!
//! #[derive(Clone)]
//! struct MaintenanceLayer;
//!
//! impl Explain for MaintenanceLayer {
//!     fn kind(&self) -> &'static str { "maintenance" }
//!     fn explain(&self, _: Now, _: &mut Parts) -> Finding { Finding::Reject(closed()) }
//! }
//!
//! fn closed() -> Rejection { Rejection::new(Reason::Custom(StatusCode::SERVICE_UNAVAILABLE, "maintenance")) }
//!
//! impl tower_layer::Layer<Next> for MaintenanceLayer {
//!     type Service = Closed;
//!     fn layer(&self, _: Next) -> Closed { Closed }
//! }
//! # #[derive(Clone)]
//! # struct Closed;
//! # impl tower_service::Service<Request<Body>> for Closed {
//! #     type Response = Response<Body>;
//! #     type Error = Infallible;
//! #     type Future = std::future::Ready<Result<Response<Body>, Infallible>>;
//! #     fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> { Poll::Ready(Ok(())) }
//! #     fn call(&mut self, _: Request<Body>) -> Self::Future { std::future::ready(Ok(closed().into_response())) }
//! # }
//!
//! fn main() -> std::process::ExitCode {
//!     Gateway::builder()
//!         .policy("maintenance", Slot::BeforeAuth, |_: Maintenance, _| MaintenanceLayer)
//!         .main(std::env::args_os())
//! }
//! ```
//!
//! In the file: `policies: {closed: {maintenance: {message: back at noon}}}`, and `use: [closed]` on routes, groups and listeners. All that
//! stand over a route count, in the order of their names. What a policy says in the file is shown in diffs and messages: it is
//! no place for secrets.
//!
//! # Limits
//! A response costs a box more on a route that has such a policy. A policy sees a request once, however often it is tried behind it.

mod erased;
mod read;

use std::{
    any::Any, collections::BTreeMap, convert::Infallible, ffi::OsString, fmt, process::ExitCode, sync::Arc,
    time::Duration,
};

use http::{Request, Response, request::Parts};
use naka::{
    clock::Now,
    explain::{Explain, Finding},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tower::util::BoxCloneSyncService;
use tower_layer::Layer;
use tower_service::Service;

pub use self::erased::{CustomBody, CustomLayers, CustomService};
pub(crate) use self::read::{Step, Wrong};

use crate::{cli, upstream::Body};

/// Where in the order of the layers policies of one's own may stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Slot {
    /// Before it is asked who it is; limits by address have let it pass, and the route's `timeouts.total` runs.
    BeforeAuth,
    /// Whoever it is may; versions, limits by identity, idempotency and caches are behind.
    AfterAuth,
}

/// What is behind a policy of one's own.
pub type Next = BoxCloneSyncService<Request<Body>, Response<Body>, Infallible>;

/// What the file says of a policy.
pub trait PolicyConfig: DeserializeOwned {
    /// The JSON Schema of it, for editors; any object by default.
    fn schema() -> Value {
        json!({"type": "object"})
    }

    /// What is wrong with it that its types do not say.
    ///
    /// # Errors
    /// In one sentence, of which `check` says the place.
    fn check(&self) -> Result<(), String> {
        Ok(())
    }
}

/// What a policy is made with besides its configuration.
pub struct Context<'a> {
    name: &'a Arc<str>,
    before: Option<&'a dyn Any>,
}

impl Context<'_> {
    /// Its name in the file: the identity of its state.
    pub const fn name(&self) -> &Arc<str> {
        self.name
    }

    /// The policy that had the name before, if its settings have changed; also one that no configuration has named for a while. Whoever has state shares it with
    /// that one, and does not take it away or change it yet: what is made may still be thrown away, and then that one goes on.
    pub fn before<L: 'static>(&self) -> Option<&L> {
        self.before?.downcast_ref()
    }
}

impl fmt::Debug for Context<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("name", &self.name).finish_non_exhaustive()
    }
}

/// How long the state of a policy that no configuration names is kept, should it come back.
pub(crate) const HISTORY: Duration = Duration::from_hours(1);

/// A layer that can be a policy; every layer is that has what it takes.
pub trait Policy: Explain + Any {
    /// Puts it around what is behind.
    fn around(&self, next: Next) -> Next;
}

impl<L> Policy for L
where
    L: Layer<Next> + Explain + Any,
    L::Service: Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send + 'static>
        + Clone
        + Send
        + Sync
        + 'static,
{
    fn around(&self, next: Next) -> Next {
        Next::new(self.layer(next))
    }
}

/// How a policy is made of what the file says.
pub(crate) type Make = Arc<dyn Fn(&Context<'_>) -> Arc<dyn Policy> + Send + Sync>;

/// The kinds of one's own that a gateway has.
#[derive(Clone, Debug, Default)]
pub struct Kinds(Arc<BTreeMap<&'static str, Kind>>);

type Read = dyn Fn(&Value) -> Result<Make, Wrong> + Send + Sync;

#[derive(Clone)]
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    pub(crate) slot: Slot,
    schema: fn() -> Value,
    read: Arc<Read>,
}

impl Kind {
    pub(crate) fn schema(&self) -> Value {
        (self.schema)()
    }

    pub(crate) fn read(&self, value: &Value) -> Result<Make, Wrong> {
        (self.read)(value)
    }
}

impl fmt::Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kind").field("name", &self.name).field("slot", &self.slot).finish_non_exhaustive()
    }
}

impl Kinds {
    pub(crate) fn get(&self, name: &str) -> Option<&Kind> {
        self.0.get(name)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Kind> {
        self.0.values()
    }
}

/// Makes a gateway with kinds of policies of one's own; see the [module](self).
#[derive(Debug)]
pub struct Gateway(());

impl Gateway {
    /// With those that are built in.
    pub fn builder() -> Builder {
        Builder(BTreeMap::new())
    }
}

/// Gathers kinds of policies.
#[derive(Debug)]
#[must_use = "it does nothing before `main`"]
pub struct Builder(BTreeMap<&'static str, Kind>);

impl Builder {
    /// One more kind: `policies: {NAME: {kind: …}}` is read as a `C`, of which `make` makes the layer.
    ///
    /// # Panics
    /// If the kind is built in or was added already, or is no word of lower case letters, digits and underscores that begins with a letter.
    pub fn policy<C, L>(
        mut self,
        kind: &'static str,
        slot: Slot,
        make: impl Fn(C, &Context<'_>) -> L + Send + Sync + 'static,
    ) -> Self
    where
        C: PolicyConfig + 'static,
        L: Policy,
    {
        let is_word = kind.starts_with(|c: char| c.is_ascii_lowercase())
            && kind.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        assert!(is_word, "`{kind}` is no name of a kind: write lower case letters, digits and underscores");
        let is_known = crate::config::is_built_in(kind) || self.0.contains_key(kind);
        assert!(!is_known, "there is a kind `{kind}` already");
        let make = Arc::new(make);
        let read = move |value: &Value| {
            let config: C = read::read(value)?;
            config.check().map_err(Wrong::whole)?;
            let (value, make) = (value.clone(), Arc::clone(&make));
            let made: Make = Arc::new(move |context: &Context<'_>| {
                let config = read::read(&value).unwrap_or_else(|_| unreachable!("it was read before"));
                Arc::new(make(config, context)) as Arc<dyn Policy>
            });
            Ok(made)
        };
        self.0.insert(kind, Kind { name: kind, slot, schema: C::schema, read: Arc::new(read) });
        self
    }

    /// The kinds, for whoever has a `main` of his own.
    pub fn kinds(self) -> Kinds {
        Kinds(Arc::new(self.0))
    }

    /// The whole program `naka` with these kinds: `args` begin with the program's name.
    pub fn main(self, args: impl IntoIterator<Item = OsString>) -> ExitCode {
        cli::main_with(args, &self.kinds())
    }
}

/// A policy of one's own, as the file says it.
#[derive(Clone)]
pub struct Custom {
    /// Its kind.
    pub kind: &'static str,
    /// Where it stands.
    pub slot: Slot,
    /// What it says.
    pub config: Value,
    pub(crate) make: Make,
}

impl Custom {
    /// Makes it, from what had its name before.
    pub(crate) fn make(&self, name: &Arc<str>, before: Option<&Made>) -> Made {
        let before = before.map(|it| -> &dyn Any { &*it.policy });
        Made { name: Arc::clone(name), kind: self.kind, policy: (self.make)(&Context { name, before }) }
    }
}

/// A policy that was made, under its name.
#[derive(Clone)]
pub struct Made {
    pub(crate) name: Arc<str>,
    kind: &'static str,
    pub(crate) policy: Arc<dyn Policy>,
}

/// As the policy does, under the names that the file has for it.
impl Explain for Made {
    fn kind(&self) -> &'static str {
        self.kind
    }

    fn name(&self) -> Option<&str> {
        Some(&self.name)
    }

    fn explain(&self, now: Now, head: &mut Parts) -> Finding {
        self.policy.explain(now, head)
    }

    fn because(&self, now: Now, head: &Parts) -> Option<String> {
        self.policy.because(now, head)
    }
}

impl fmt::Debug for Made {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Made").field("name", &self.name).field("kind", &self.kind).finish_non_exhaustive()
    }
}

impl PartialEq for Custom {
    fn eq(&self, other: &Self) -> bool {
        (self.kind, self.slot, &self.config) == (other.kind, other.slot, &other.config)
    }
}

impl fmt::Debug for Custom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Custom")
            .field("kind", &self.kind)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}
