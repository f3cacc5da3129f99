//! Which of two routes that match the same request wins, and by which rule.

use std::{
    cmp::{Ordering, Reverse},
    fmt,
};

use super::entry::{End, Entry, Path};
use crate::config::checked::Segment;

/// What a route has at one place of its path; the lesser one wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// A literal.
    Literal,
    /// A `{param}`.
    Param,
    /// A `{rest...}`.
    Rest,
    /// The end of a whole path.
    End,
    /// Whatever is below a prefix, or nothing.
    Below,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Literal => "a literal",
            Self::Param => "a {param}",
            Self::Rest => "a {rest...}",
            Self::End => "the end of a whole path",
            Self::Below => "the end of a prefix",
        })
    }
}

/// What decided between two routes that both match; see the [module docs](super#who-wins).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Rule {
    /// The more specific host.
    Host,
    /// The more specific path.
    Path {
        /// The first segment that differs, counted from 1.
        segment: usize,
        /// What the winner has there.
        winner: Step,
        /// What the other one has there.
        loser: Step,
    },
    /// Segments before a regular expression.
    Regex,
    /// Some methods before all methods.
    Methods,
    /// More headers.
    Headers,
    /// More query parameters.
    Query,
    /// The higher priority.
    Priority,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str("its host is more specific"),
            Self::Path { segment, winner, loser } => {
                write!(f, "at segment {segment}, {winner} goes before {loser}")
            }
            Self::Regex => f.write_str("segments go before a regular expression"),
            Self::Methods => f.write_str("it names methods"),
            Self::Headers => f.write_str("it matches more headers"),
            Self::Query => f.write_str("it matches more query parameters"),
            Self::Priority => f.write_str("its priority is higher"),
        }
    }
}

/// `Less` if `a` wins over `b` for that host, with the rule that decided. Both match the same request.
pub(super) fn compare(a: &Entry, b: &Entry, host: &str) -> (Ordering, Rule) {
    match b.host_fit(host).cmp(&a.host_fit(host)) {
        Ordering::Equal => {}
        decided => return (decided, Rule::Host),
    }
    match compare_paths(&a.path, &b.path) {
        (Ordering::Equal, _) => compare_conditions(a, b),
        decided => decided,
    }
}

/// The rules after the path; `Equal` is with [`Rule::Priority`].
pub(super) fn compare_conditions(a: &Entry, b: &Entry) -> (Ordering, Rule) {
    let rules = [
        (a.methods.is_empty().cmp(&b.methods.is_empty()), Rule::Methods),
        (Reverse(a.headers.len()).cmp(&Reverse(b.headers.len())), Rule::Headers),
        (Reverse(a.query.len()).cmp(&Reverse(b.query.len())), Rule::Query),
    ];
    let decided = rules.into_iter().find(|(order, _)| order.is_ne());
    decided.unwrap_or((Reverse(a.priority).cmp(&Reverse(b.priority)), Rule::Priority))
}

fn compare_paths(a: &Path, b: &Path) -> (Ordering, Rule) {
    let (a, b) = match (a, b) {
        (Path::Segments { segments: a, end: a_end }, Path::Segments { segments: b, end: b_end }) => {
            ((a, *a_end), (b, *b_end))
        }
        (Path::Segments { .. }, Path::Regex(_)) => return (Ordering::Less, Rule::Regex),
        (Path::Regex(_), Path::Segments { .. }) => return (Ordering::Greater, Rule::Regex),
        (Path::Regex(_), Path::Regex(_)) => return (Ordering::Equal, Rule::Regex),
    };
    // One step more than the shorter path has: there it ends, and the other does not.
    for index in 0..=a.0.len().min(b.0.len()) {
        let (a, b) = (step(a.0, a.1, index), step(b.0, b.1, index));
        if a != b {
            let (winner, loser) = (a.min(b), a.max(b));
            return (a.cmp(&b), Rule::Path { segment: index + 1, winner, loser });
        }
    }
    (Ordering::Equal, Rule::Regex)
}

fn step(segments: &[Segment], end: End, index: usize) -> Step {
    match (segments.get(index), end) {
        (Some(Segment::Literal(_)), _) => Step::Literal,
        (Some(_), _) => Step::Param,
        (None, End::Rest) => Step::Rest,
        (None, End::Whole) => Step::End,
        (None, End::Prefix) => Step::Below,
    }
}
