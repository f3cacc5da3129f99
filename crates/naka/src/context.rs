//! What is known of one request, in one extension.
//!
//! The first extension of a request costs three allocations and each further one another, so
//! a stack of ours keeps its facts in fields of one [`Context`]. Outside such a stack each layer
//! falls back to extensions of its own: [`ClientAddr`], [`Deadline`], [`Endpoint`], [`Tried`],
//! [`Identity`], [`ApiVersion`], [`SplitArm`], [`Upgrade`], [`Held`], [`Journal`].

use std::{net::IpAddr, sync::Arc};

use http::{Extensions, Version};
use tokio::time::Instant;

use crate::{
    attempt::Tried,
    balance::Endpoint,
    budget::Counted,
    clock::Now,
    held::Held,
    identity::{Challenges, Identity},
    trace::Journal,
};

/// What is known of one request.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Context {
    /// When the request's head had been read.
    pub now: Now,
    /// The client's address, after the forwarding headers of trusted proxies were weighed.
    pub client: Option<IpAddr>,
    /// The endpoint a balancer chose.
    pub endpoint: Option<Endpoint>,
    /// The endpoints that were tried for it before, where somebody retries.
    pub tried: Option<Tried>,
    /// Who it comes from, as a layer that authenticates found.
    pub identity: Option<Arc<Identity>>,
    /// How it could say that, if nobody knows and some layer would have known it by its credentials.
    pub challenges: Option<Challenges>,
    /// Which version of the API it asks for.
    pub version: Option<Arc<str>>,
    /// Which arm of a split it goes to.
    pub arm: Option<Arc<str>>,
    /// Until when an answer is of use.
    pub deadline: Option<Instant>,
    /// Until when its caller says that it waits.
    pub told: Option<Instant>,
    /// The caller waits for less time than we would.
    pub is_hurried: bool,
    /// It asks for another protocol, in a way that can be followed.
    pub is_upgrade: bool,
    /// Where what is held of its body counts.
    pub held: Option<Arc<Held>>,
    /// In which version of HTTP it came.
    pub came_in: Version,
    /// Where what is done for it is written down.
    pub journal: Option<Arc<Journal>>,
    /// In which budget it was counted.
    pub(crate) counted: Option<Counted>,
}

impl Context {
    /// A request whose head was read at `now`.
    pub const fn new(now: Now) -> Self {
        Self {
            now,
            client: None,
            endpoint: None,
            tried: None,
            identity: None,
            challenges: None,
            version: None,
            arm: None,
            deadline: None,
            told: None,
            is_hurried: false,
            is_upgrade: false,
            held: None,
            came_in: Version::HTTP_11,
            journal: None,
            counted: None,
        }
    }

    /// The same, from a client.
    #[must_use]
    pub const fn with_client(mut self, client: IpAddr) -> Self {
        self.client = Some(client);
        self
    }

    /// The same, of use until then.
    #[must_use]
    pub const fn with_deadline(mut self, deadline: Instant) -> Self {
        self.deadline = Some(deadline);
        self
    }
}

/// The client's address: put it into a request's extensions where there is no [`Context`].
///
/// In axum that is one `map_request` over `ConnectInfo<SocketAddr>`. Only ever derive it from the
/// socket, or from forwarding headers that a trusted proxy wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientAddr(pub IpAddr);

impl ClientAddr {
    /// The address in the [`Context`], else in an extension of its own.
    pub fn of(extensions: &Extensions) -> Option<IpAddr> {
        let known = extensions.get::<Context>().and_then(|context| context.client);
        known.or_else(|| extensions.get::<Self>().map(|client| client.0))
    }
}

/// Which version of the API a request asks for, as [`version`](crate::version) found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiVersion(pub Arc<str>);

impl ApiVersion {
    /// The one in the [`Context`], else in an extension of its own.
    pub fn of(extensions: &Extensions) -> Option<&Arc<str>> {
        let known = extensions.get::<Context>().and_then(|context| context.version.as_ref());
        known.or_else(|| extensions.get::<Self>().map(|version| &version.0))
    }

    /// Puts it where [`of`](Self::of) looks.
    pub fn put(self, extensions: &mut Extensions) {
        if let Some(journal) = Journal::of(extensions) {
            journal.versioned(&self.0);
        }
        match extensions.get_mut::<Context>() {
            Some(context) => context.version = Some(self.0),
            None => _ = extensions.insert(self),
        }
    }
}

/// Which arm of a split a request goes to, as [`split`](crate::split) chose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SplitArm(pub Arc<str>);

impl SplitArm {
    /// The one in the [`Context`], else in an extension of its own.
    pub fn of(extensions: &Extensions) -> Option<&Arc<str>> {
        let known = extensions.get::<Context>().and_then(|context| context.arm.as_ref());
        known.or_else(|| extensions.get::<Self>().map(|arm| &arm.0))
    }

    /// Puts it where [`of`](Self::of) looks.
    pub fn put(self, extensions: &mut Extensions) {
        if let Some(journal) = Journal::of(extensions) {
            journal.goes_to(&self.0);
        }
        match extensions.get_mut::<Context>() {
            Some(context) => context.arm = Some(self.0),
            None => _ = extensions.insert(self),
        }
    }
}

/// Until when an answer is of use: put it into a request's extensions where there is no [`Context`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline(pub Instant);

impl Deadline {
    /// The one in the [`Context`], else in an extension of its own.
    pub fn of(extensions: &Extensions) -> Option<Instant> {
        let known = extensions.get::<Context>().and_then(|context| context.deadline);
        known.or_else(|| extensions.get::<Self>().map(|deadline| deadline.0))
    }
}

/// A request that asks for another protocol (RFC 9110 §7.8, RFC 8441): what it begins is a conversation, and no answer that
/// could be kept, copied, or asked for twice at once. Whoever reads `Upgrade` puts it into a request's extensions where there
/// is no [`Context`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Upgrade;

impl Upgrade {
    /// Whether it is said in the [`Context`], else in an extension of its own.
    pub fn is_asked(extensions: &Extensions) -> bool {
        let known = extensions.get::<Context>().is_some_and(|context| context.is_upgrade);
        known || extensions.get::<Self>().is_some()
    }
}
