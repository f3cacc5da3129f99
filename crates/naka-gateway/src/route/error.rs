//! Why no table can be made of some routes.

use std::{fmt, iter};

use super::captures::MAX_CAPTURES;
use crate::config::checked::Name;

/// The most segments the path of a route can have.
pub const MAX_SEGMENTS: usize = 128;

/// Why a table cannot be compiled.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RouteError {
    /// Two routes of equal rank can match the same request.
    Ambiguous(Ambiguity),
    /// More than [`MAX_CAPTURES`].
    TooManyCaptures {
        /// The route.
        route: Name,
        /// How many it has.
        captures: usize,
    },
    /// More than [`MAX_SEGMENTS`].
    TooManySegments {
        /// The route.
        route: Name,
        /// How many it has.
        segments: usize,
    },
}

impl RouteError {
    /// The routes it is about.
    pub fn routes(&self) -> impl Iterator<Item = &Name> {
        let (first, second) = match self {
            Self::Ambiguous(two) => (&two.first, Some(&two.second)),
            Self::TooManyCaptures { route, .. } | Self::TooManySegments { route, .. } => (route, None),
        };
        iter::once(first).chain(second)
    }
}

impl fmt::Display for RouteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ambiguous(ambiguity) => ambiguity.fmt(f),
            Self::TooManyCaptures { route, captures } => {
                write!(f, "the path of route `{route}` has {captures} captures; at most {MAX_CAPTURES}")
            }
            Self::TooManySegments { route, segments } => {
                write!(f, "the path of route `{route}` has {segments} segments; at most {MAX_SEGMENTS}")
            }
        }
    }
}

impl std::error::Error for RouteError {}

/// Two routes of equal rank that can match the same request.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Ambiguity {
    /// The one that was given first.
    pub first: Name,
    /// The other one.
    pub second: Name,
    /// A request that both match, as `naka explain` takes it; not known for regular expressions.
    pub example: Option<String>,
}

impl fmt::Display for Ambiguity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { first, second, example } = self;
        write!(f, "routes `{first}` and `{second}` can match the same request, and none is more specific")?;
        example.as_ref().map_or(Ok(()), |example| write!(f, ": {example}"))
    }
}
