//! Versions of an API.

use std::{ops::Range, sync::Arc};

use http::HeaderName;

use super::{Name, Rewrite, Split};

/// An upstream for each version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versions {
    /// Where a request says which one it means, in this order.
    pub places: Vec<VersionPlace>,
    /// The one that is meant if nothing is said.
    pub default: Option<Arc<str>>,
    /// Whether a request that says two different ones is refused.
    pub refuses_conflicts: bool,
    /// Whether the segment with the version is taken away.
    pub strip: bool,
    /// The versions, in the order of their names.
    pub of: Vec<Version>,
}

/// Where a request says which version it means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VersionPlace {
    /// In a segment of the path, counted from 0; `None`: where the match has `{version}`, else the first.
    Path(Option<usize>),
    /// In a header.
    Header(HeaderName),
    /// In `Accept`, as a type of this vendor or of any, or as the parameter `version`.
    Accept(Option<Arc<str>>),
    /// In a parameter of the query.
    Query(Arc<str>),
    /// In the first label of the host.
    Subdomain,
}

/// One version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// Its name.
    pub name: Arc<str>,
    /// How else it may be asked for.
    pub aliases: Vec<Arc<str>>,
    /// Its life.
    pub lifecycle: Lifecycle,
    /// Where it is served.
    pub to: VersionTarget,
    /// Changes of the request target, in place of the route's.
    pub rewrite: Option<Rewrite>,
    /// A rate limit besides the route's: a name in `policies`.
    pub rate_limit: Option<Name>,
}

/// Where a version is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VersionTarget {
    /// By one upstream: a name in `upstreams`.
    Upstream(Name),
    /// By several, each for a share of its requests.
    Split(Split),
}

impl VersionTarget {
    /// The only upstream, if there is one.
    pub const fn upstream(&self) -> Option<&Name> {
        match self {
            Self::Upstream(upstream) => Some(upstream),
            Self::Split(_) => None,
        }
    }

    /// All upstreams.
    pub fn upstreams(&self) -> impl Iterator<Item = &Name> {
        let (one, split) = match self {
            Self::Upstream(upstream) => (Some(upstream), None),
            Self::Split(split) => (None, Some(split)),
        };
        one.into_iter().chain(split.into_iter().flat_map(Split::upstreams))
    }
}

/// The life of a version, in seconds since 1970.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lifecycle {
    /// From when on it is there.
    pub since_s: Option<u64>,
    /// From when on only faults are mended.
    pub maintenance_s: Option<u64>,
    /// From when on it should not be used.
    pub deprecated_s: Option<u64>,
    /// From when on it is not served.
    pub sunset_s: Option<u64>,
    /// From when on nothing of it is left.
    pub removed_s: Option<u64>,
    /// The one to use instead.
    pub successor: Option<Arc<str>>,
    /// What people should read about its end.
    pub docs: Option<Arc<str>>,
    /// When it is off for a while.
    pub brownouts: Vec<Range<u64>>,
}
