//! Who a request comes from.
//!
//! Layers that authenticate put an [`Identity`] into the request; keys of limits, authorization and
//! whoever is behind read it there.

use std::{collections::BTreeMap, fmt, sync::Arc};

use http::Extensions;

use crate::context::Context;

/// Who a request comes from, as a layer that authenticates found.
#[derive(Clone, PartialEq)]
#[non_exhaustive]
pub struct Identity {
    /// How it was found.
    pub scheme: Scheme,
    /// Who it is.
    pub subject: Option<Arc<str>>,
    /// What it may do, as its credentials say.
    pub scopes: Vec<Arc<str>>,
    /// What it is, as its credentials say.
    pub roles: Vec<Arc<str>>,
    /// What else its credentials say. What is nested has a name with dots: `realm_access.roles`.
    pub claims: BTreeMap<Arc<str>, Claim>,
}

impl Identity {
    /// Somebody of whom nothing else is known.
    pub fn new(scheme: Scheme, subject: Option<Arc<str>>) -> Self {
        Self { scheme, subject, scopes: Vec::new(), roles: Vec::new(), claims: BTreeMap::new() }
    }

    /// The one in the [`Context`], else in an extension of its own.
    pub fn of(extensions: &Extensions) -> Option<&Arc<Self>> {
        let known = extensions.get::<Context>().and_then(|context| context.identity.as_ref());
        known.or_else(|| extensions.get::<Arc<Self>>())
    }

    /// Puts it where [`of`](Self::of) looks.
    pub fn put(self: Arc<Self>, extensions: &mut Extensions) {
        match extensions.get_mut::<Context>() {
            Some(context) => context.identity = Some(self),
            None => _ = extensions.insert(self),
        }
    }
}

/// Claims may be personal: only their names are shown.
impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("scheme", &self.scheme)
            .field("subject", &self.subject)
            .field("scopes", &self.scopes)
            .field("roles", &self.roles)
            .field("claims", &self.claims.keys())
            .finish()
    }
}

/// How an identity was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Scheme {
    /// By a signed token (RFC 7519).
    Jwt,
    /// By a key in a header.
    ApiKey,
    /// By name and password (RFC 7617).
    Basic,
    /// By asking another service.
    ForwardAuth,
    /// By the certificate of the connection.
    Mtls,
}

/// What credentials say of something.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Claim {
    /// Text.
    Text(Arc<str>),
    /// A whole number.
    Integer(i64),
    /// Another number.
    Number(f64),
    /// Yes or no.
    Flag(bool),
    /// Several of them.
    List(Vec<Claim>),
}

impl Claim {
    /// The text, if it is one.
    pub fn as_text(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    /// The texts: of a list, or the one it is.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        let all = if let Self::List(all) = self { &all[..] } else { std::slice::from_ref(self) };
        all.iter().filter_map(Self::as_text)
    }
}
