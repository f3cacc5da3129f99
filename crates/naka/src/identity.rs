//! Who a request comes from.
//!
//! Layers that authenticate put an [`Identity`] into the request; keys of limits, authorization and
//! whoever is behind read it there.

use std::{collections::BTreeMap, fmt, sync::Arc};

use http::{Extensions, HeaderMap, HeaderValue, header::WWW_AUTHENTICATE};

use crate::{context::Context, trace::Journal};

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
    /// What a further layer found, where several authenticate one request.
    pub beside: Option<Arc<Identity>>,
}

impl Identity {
    /// Somebody of whom nothing else is known.
    pub fn new(scheme: Scheme, subject: Option<Arc<str>>) -> Self {
        Self { scheme, subject, scopes: Vec::new(), roles: Vec::new(), claims: BTreeMap::new(), beside: None }
    }

    /// The one in the [`Context`], else in an extension of its own.
    pub fn of(extensions: &Extensions) -> Option<&Arc<Self>> {
        let known = extensions.get::<Context>().and_then(|context| context.identity.as_ref());
        known.or_else(|| extensions.get::<Arc<Self>>())
    }

    /// The one that was found in this way.
    pub fn by(extensions: &Extensions, scheme: Scheme) -> Option<&Arc<Self>> {
        let mut next = Self::of(extensions);
        while let Some(identity) = next.filter(|identity| identity.scheme != scheme) {
            next = identity.beside.as_ref();
        }
        next
    }

    /// Puts it where [`of`](Self::of) looks. If somebody is known already, that stays who it is, and this
    /// one is `beside` it; of two that were found in one way the later counts.
    pub fn put(self: Arc<Self>, extensions: &mut Extensions) {
        let all = match Self::of(extensions) {
            Some(first) if first.scheme != self.scheme => {
                let rest = first.beside.clone().filter(|rest| rest.scheme != self.scheme);
                let last = Self { beside: rest, ..(*self).clone() };
                Arc::new(Self { beside: Some(Arc::new(last)), ..(**first).clone() })
            }
            _ => self,
        };
        if let Some(journal) = Journal::of(extensions) {
            journal.identify(&all);
        }
        match extensions.get_mut::<Context>() {
            Some(context) => context.identity = Some(all),
            None => _ = extensions.insert(all),
        }
    }
}

/// How somebody of whom nobody knows who it is could say so: what those layers ask for that are optional, and let pass whoever
/// brings no credentials. Whoever refuses such a request further in answers `401` with it, and not `403`
/// (RFC 9110, sections 11.6.1 and 15.5.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenges(Arc<HeaderMap>);

impl Challenges {
    /// Those of the layers that a request has passed as nobody.
    pub fn of(extensions: &Extensions) -> Option<&Self> {
        let known = extensions.get::<Context>().and_then(|context| context.challenges.as_ref());
        known.or_else(|| extensions.get::<Self>())
    }

    /// These, each the value of a `WWW-Authenticate`.
    pub fn new(challenges: impl IntoIterator<Item = HeaderValue>) -> Self {
        Self(Arc::new(challenges.into_iter().map(|one| (WWW_AUTHENTICATE, one)).collect()))
    }

    /// As headers of a response: one `WWW-Authenticate` for each.
    pub const fn headers(&self) -> &Arc<HeaderMap> {
        &self.0
    }

    /// Puts them where [`of`](Self::of) looks, behind those that are there.
    pub fn put(self, extensions: &mut Extensions) {
        let all = match Self::of(extensions) {
            Some(first) => {
                Self::new([first, &self].into_iter().flat_map(|all| all.0.get_all(WWW_AUTHENTICATE)).cloned())
            }
            None => self,
        };
        match extensions.get_mut::<Context>() {
            Some(context) => context.challenges = Some(all),
            None => _ = extensions.insert(all),
        }
    }
}

#[cfg(any(feature = "jwt", feature = "basic_auth", feature = "forward_auth"))]
impl Identity {
    /// About what it takes in memory, in bytes.
    pub(crate) fn weight(&self) -> usize {
        let words = self.scopes.iter().chain(&self.roles).map(|word| size_of::<Arc<str>>() + word.len());
        let claims =
            self.claims.iter().map(|(name, claim)| size_of::<Arc<str>>() + name.len() + claim.weight());
        let subject = self.subject.as_ref().map_or(0, |subject| subject.len());
        size_of::<Self>() + subject + words.sum::<usize>() + claims.sum::<usize>()
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
            .field("beside", &self.beside)
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

impl Scheme {
    /// The word in logs.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Jwt => "jwt",
            Self::ApiKey => "api_key",
            Self::Basic => "basic",
            Self::ForwardAuth => "forward_auth",
            Self::Mtls => "mtls",
        }
    }
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

#[cfg(any(feature = "jwt", feature = "basic_auth", feature = "forward_auth"))]
impl Claim {
    fn weight(&self) -> usize {
        let own = size_of::<Self>();
        match self {
            Self::Text(text) => own + text.len(),
            Self::List(all) => own + all.iter().map(Self::weight).sum::<usize>(),
            Self::Integer(_) | Self::Number(_) | Self::Flag(_) => own,
        }
    }
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

/// What it says as text; of a list nothing.
impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Integer(number) => number.fmt(f),
            Self::Number(number) => number.fmt(f),
            Self::Flag(flag) => flag.fmt(f),
            Self::List(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_several_ask_for_is_asked_for_together() {
        let mut extensions = Extensions::new();
        assert_eq!(Challenges::of(&extensions), None);
        for challenge in ["Bearer", "ApiKey"] {
            Challenges::new([HeaderValue::from_static(challenge)]).put(&mut extensions);
        }
        let headers = Challenges::of(&extensions).unwrap().headers();
        let all = headers.get_all(WWW_AUTHENTICATE).iter().map(|one| one.to_str().unwrap());
        assert_eq!(all.collect::<Vec<_>>(), ["Bearer", "ApiKey"]);
    }

    #[test]
    fn several_who_are_known_are_beside_one_another() {
        let mut extensions = Extensions::new();
        let who = |scheme, name: &str| Arc::new(Identity::new(scheme, Some(name.into())));
        who(Scheme::Jwt, "asha").put(&mut extensions);
        who(Scheme::ApiKey, "zomato").put(&mut extensions);
        who(Scheme::Mtls, "console").put(&mut extensions);
        let name = |scheme| Identity::by(&extensions, scheme).and_then(|who| who.subject.as_deref());
        assert_eq!(Identity::of(&extensions).unwrap().subject.as_deref(), Some("asha"));
        assert_eq!(
            [name(Scheme::Jwt), name(Scheme::ApiKey), name(Scheme::Mtls)],
            [Some("asha"), Some("zomato"), Some("console")]
        );
        assert_eq!(name(Scheme::Basic), None);
        who(Scheme::ApiKey, "swiggy").put(&mut extensions);
        let again = Identity::by(&extensions, Scheme::ApiKey).unwrap();
        assert_eq!(again.subject.as_deref(), Some("swiggy"));
    }
}
