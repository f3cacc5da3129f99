//! Several upstreams, each for a share of the requests.

use std::{sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue};

use super::{KeyPart, Name};

/// Several upstreams, each for a share of the requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    /// Two or more upstreams, each once, by name, with their shares; at least one is above 0.
    pub to: Vec<(Name, u32)>,
    /// By what a request keeps its upstream; nothing: by turn.
    pub by: Vec<KeyPart>,
    /// Who goes where whatever the shares say.
    pub pins: Vec<SplitPin>,
    /// When one gets no share any more.
    pub guard: Option<SplitGuard>,
}

/// Who goes to one upstream whatever the shares say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SplitPin {
    /// Who.
    pub who: Pinned,
    /// Where: one of the split's.
    pub to: Name,
}

/// Who is pinned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pinned {
    /// Whoever sends this header with this value.
    Header(HeaderName, HeaderValue),
    /// Whoever sends this cookie with this value.
    Cookie(Arc<str>, Arc<str>),
}

/// When an upstream of a split gets no share any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SplitGuard {
    /// By how many hundredths of a percent its share of failures may be above the baseline's.
    pub error_rate_bp: u32,
    /// How many requests there have to be of either.
    pub min_requests: u32,
    /// How long a result counts.
    pub window: Duration,
    /// The upstream that the others are measured by, one of the split's with a share; `None`: that of the largest,
    /// of several the first by name.
    pub baseline: Option<Name>,
}

/// What the split of a route is called among policies, as those that are written in place are. It is the identity of
/// its state.
pub fn split_name(route: &Name) -> Name {
    format!("{route}/split").into()
}

/// The same, of a version.
pub fn version_split_name(route: &Name, version: &str) -> Name {
    format!("{route}/{version}/split").into()
}

impl Split {
    /// The upstreams.
    pub fn upstreams(&self) -> impl Iterator<Item = &Name> {
        self.to.iter().map(|(upstream, _)| upstream)
    }
}
