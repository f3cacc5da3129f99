//! One route of a table, and the predicates: the only place that says whether it matches.

use std::{fmt, sync::Arc};

use http::{HeaderMap, HeaderName, Method};
use regex::Regex;

use super::{
    captures::{Captures, MAX_CAPTURES},
    error::{MAX_SEGMENTS, RouteError},
    normalize::escape,
};
use crate::config::{
    checked::{HostPattern, Match, Name, PathPattern, Segment, ValueMatch},
    names_of,
};

/// What of a request decides about its route.
#[derive(Clone, Copy, Debug)]
pub struct Query<'q> {
    /// The method.
    pub method: &'q Method,
    /// The host: lower case, without port and without the root's trailing dot.
    pub host: &'q str,
    /// The path, as [`normalize`](super::normalize) gives it.
    pub path: &'q str,
    /// The query, without `?`, as it was sent.
    pub query: Option<&'q str>,
    /// The headers.
    pub headers: &'q HeaderMap,
}

/// Why a route does not match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Lost<'t> {
    /// None of its hosts.
    Host,
    /// The path differs, first at this segment, counted from 1.
    Path {
        /// The segment; one more than the path has if the path is too short.
        segment: usize,
    },
    /// The path does not match its regular expression.
    Regex,
    /// This header is not there, or not with that value alone.
    Header(&'t HeaderName),
    /// This query parameter is not there, or not with that value alone.
    Query(&'t str),
    /// All the rest matches, but not the method.
    Method,
}

impl fmt::Display for Lost<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str("the host differs"),
            Self::Path { segment } => write!(f, "the path differs at segment {segment}"),
            Self::Regex => f.write_str("the path does not match the regular expression"),
            Self::Header(name) => write!(f, "the header `{name}` is missing or differs"),
            Self::Query(name) => write!(f, "the query parameter `{name}` is missing or differs"),
            Self::Method => f.write_str("all matches but the method"),
        }
    }
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: Name,
    pub(super) hosts: Vec<HostPattern>,
    pub(super) path: Path,
    captures: Option<Arc<[Name]>>,
    pub(super) methods: Vec<Method>,
    pub(super) headers: Vec<(HeaderName, ValueMatch)>,
    pub(super) query: Vec<(Arc<str>, ValueMatch)>,
    pub(super) priority: i32,
}

#[derive(Debug)]
pub(super) enum Path {
    Segments { segments: Arc<[Segment]>, end: End },
    Regex(Regex),
}

/// How a path ends after its segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// With them.
    Whole,
    /// With at least one more, possibly empty, that is captured.
    Rest,
    /// With any number more.
    Prefix,
}

/// How well a route's hosts fit a host; greater is more specific.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum HostFit {
    Any,
    Wildcard(usize),
    Exact,
}

impl Entry {
    pub(super) fn new(name: Name, matches: &Match, priority: Option<i32>) -> Result<Self, RouteError> {
        let (path, names) = match &matches.path {
            PathPattern::Whole(segments) => (whole(segments), names_of(segments)),
            PathPattern::Prefix(segments) => (prefix(segments), names_of(segments)),
            PathPattern::Regex(regex) => {
                (Path::Regex(regex.clone()), regex.capture_names().flatten().map(Name::from).collect())
            }
        };
        if names.len() > MAX_CAPTURES {
            return Err(RouteError::TooManyCaptures { route: name, captures: names.len() });
        }
        if let Path::Segments { segments, .. } = &path
            && segments.len() > MAX_SEGMENTS
        {
            return Err(RouteError::TooManySegments { route: name, segments: segments.len() });
        }
        Ok(Self {
            name,
            hosts: matches.hosts.clone(),
            path,
            captures: (!names.is_empty()).then(|| names.into()),
            methods: matches.methods.clone(),
            headers: matches.headers.clone(),
            query: matches.query.clone(),
            priority: priority.unwrap_or(0),
        })
    }

    /// Whether this route matches, and what it captures.
    pub(super) fn check(&self, query: &Query<'_>) -> Result<Captures, Lost<'_>> {
        self.host_fit(query.host).ok_or(Lost::Host)?;
        self.check_below_host(query)
    }

    /// Whether all but the host matches: for routes that were found under their host.
    pub(super) fn check_below_host(&self, query: &Query<'_>) -> Result<Captures, Lost<'_>> {
        let captures = self.capture(query.path)?;
        self.conditions(query)?;
        Ok(captures)
    }

    /// How well the host fits, by the best of this route's hosts.
    pub(super) fn host_fit(&self, host: &str) -> Option<HostFit> {
        if self.hosts.is_empty() {
            return Some(HostFit::Any);
        }
        self.hosts.iter().filter_map(|pattern| fit(pattern, host)).max()
    }

    /// Whether the path matches, and what it captures.
    fn capture(&self, path: &str) -> Result<Captures, Lost<'_>> {
        let mut captures = Captures::new(self.captures.as_ref());
        match &self.path {
            Path::Segments { segments, end } => {
                capture_segments(segments, *end, path, &mut captures)
                    .map_err(|segment| Lost::Path { segment })?;
            }
            // The groups are asked for only if there are any: they cost an allocation.
            Path::Regex(regex) if self.captures.is_none() => {
                regex.is_match(path).then_some(()).ok_or(Lost::Regex)?;
            }
            Path::Regex(regex) => {
                let groups = regex.captures(path).ok_or(Lost::Regex)?;
                let named = regex.capture_names().zip(groups.iter()).filter(|(name, _)| name.is_some());
                for (index, (_, group)) in named.enumerate() {
                    if let Some(group) = group {
                        captures.set(index, group.range());
                    }
                }
            }
        }
        Ok(captures)
    }

    /// Whether headers, query and method match. The method is last, so that [`Lost::Method`] means 405.
    fn conditions(&self, query: &Query<'_>) -> Result<(), Lost<'_>> {
        if let Some((name, _)) = self.headers.iter().find(|wanted| !has_header(query.headers, wanted)) {
            return Err(Lost::Header(name));
        }
        let sent = query.query.unwrap_or_default();
        if let Some((name, _)) = self.query.iter().find(|wanted| !has_parameter(sent, wanted)) {
            return Err(Lost::Query(name));
        }
        if self.takes(query.method) { Ok(()) } else { Err(Lost::Method) }
    }

    pub(super) fn takes(&self, method: &Method) -> bool {
        let listed = |method| self.methods.contains(method);
        self.methods.is_empty() || listed(method) || (method == Method::HEAD && listed(&Method::GET))
    }
}

/// Most paths are taken as they are; the few that are said in another way than they are walked along are made anew.
fn whole(segments: &Arc<[Segment]>) -> Path {
    match &segments[..] {
        [before @ .., Segment::Rest(_)] => Path::Segments { segments: before.into(), end: End::Rest },
        [] => Path::Segments { segments: [Segment::Literal("".into())].into(), end: End::Whole }, // `/`, said with no segments
        _ => Path::Segments { segments: Arc::clone(segments), end: End::Whole },
    }
}

fn prefix(segments: &Arc<[Segment]>) -> Path {
    let segments = match &segments[..] {
        [before @ .., Segment::Literal(text)] if text.is_empty() => before.into(), // `/api/` is `/api`
        _ => Arc::clone(segments),
    };
    Path::Segments { segments, end: End::Prefix }
}

fn fit(pattern: &HostPattern, host: &str) -> Option<HostFit> {
    match pattern {
        HostPattern::Exact(exact) => (**exact == *host).then_some(HostFit::Exact),
        HostPattern::Wildcard(suffix) => (host.len() > suffix.len() && host.ends_with(&**suffix))
            .then_some(HostFit::Wildcard(suffix.len())),
    }
}

/// `Err` is the segment, counted from 1, at which they part.
fn capture_segments(
    segments: &[Segment],
    end: End,
    path: &str,
    captures: &mut Captures,
) -> Result<(), usize> {
    let mut rest = path.strip_prefix('/');
    let mut name = 0;
    for (index, wanted) in segments.iter().enumerate() {
        let here = rest.ok_or(index + 1)?;
        let (segment, next) = split_segment(here);
        match wanted {
            Segment::Literal(text) if **text == *segment => {}
            Segment::Param(_) if !segment.is_empty() => {
                let start = path.len() - here.len();
                captures.set(name, start..start + segment.len());
                name += 1;
            }
            _ => return Err(index + 1),
        }
        rest = next;
    }
    match (end, rest) {
        (End::Whole, None) => {}
        (End::Rest, Some(rest)) => captures.set(name, path.len() - rest.len()..path.len()),
        // What is below starts with its slash. A text without even one is no path and below nothing.
        (End::Prefix, Some(below)) => captures.set_prefix(path.len() - below.len() - 1),
        (End::Prefix, None) if path.starts_with('/') => captures.set_prefix(path.len()),
        _ => return Err(segments.len() + 1),
    }
    Ok(())
}

/// The first segment of what follows a slash, and what follows the next slash if there is one.
pub(super) fn split_segment(rest: &str) -> (&str, Option<&str>) {
    rest.split_once('/').map_or((rest, None), |(segment, next)| (segment, Some(next)))
}

fn has_header(headers: &HeaderMap, (name, wanted): &(HeaderName, ValueMatch)) -> bool {
    let mut values = headers.get_all(name).iter();
    match wanted {
        ValueMatch::Present => values.next().is_some(),
        ValueMatch::Exact(text) => all_equal(values, |value| value.as_bytes() == text.as_bytes()),
    }
}

fn has_parameter(query: &str, (name, wanted): &(Arc<str>, ValueMatch)) -> bool {
    let mut values = parameter(query, name);
    match wanted {
        ValueMatch::Present => values.next().is_some(),
        ValueMatch::Exact(text) => all_equal(values, |value| decodes_to(value, text)),
    }
}

/// The values of a parameter, not decoded.
fn parameter<'q>(query: &'q str, name: &str) -> impl Iterator<Item = &'q str> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    let pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs.filter(move |(key, _)| decodes_to(key, name)).map(|(_, value)| value)
}

/// At least one, and all the same: else one server takes the first and another the last.
fn all_equal<T>(mut values: impl Iterator<Item = T>, equal: impl Fn(T) -> bool) -> bool {
    values.next().is_some_and(&equal) && values.all(equal)
}

/// The value of a query parameter, decoded. `None` if it is not there, or there with several values:
/// then nobody can know which one the upstream takes.
pub fn query_value(query: &str, name: &str) -> Option<Vec<u8>> {
    let mut values = parameter(query, name).map(|value| decoded(value).collect::<Vec<_>>());
    let value = values.next()?;
    values.all(|other| other == value).then_some(value)
}

/// A piece of a path, its escapes decoded.
pub fn decoded_piece(piece: &[u8]) -> Vec<u8> {
    let (mut bytes, mut rest) = (Vec::with_capacity(piece.len()), piece);
    while let Some((&first, tail)) = rest.split_first() {
        let escaped = escape(rest);
        bytes.push(escaped.unwrap_or(first));
        rest = if escaped.is_some() { &rest[3..] } else { tail };
    }
    bytes
}

/// Whether a part of a query, decoded, is this text.
fn decodes_to(part: &str, text: &str) -> bool {
    decoded(part).eq(text.bytes())
}

/// A part of a query with `+` and escapes decoded. A broken escape stands for itself.
fn decoded(part: &str) -> impl Iterator<Item = u8> {
    let mut rest = part.as_bytes();
    std::iter::from_fn(move || {
        let (&first, tail) = rest.split_first()?;
        let (byte, skip) = match first {
            b'+' => (b' ', 0),
            b'%' => escape(rest).map_or((b'%', 0), |byte| (byte, 2)),
            _ => (first, 0),
        };
        rest = &tail[skip..];
        Some(byte)
    })
}
