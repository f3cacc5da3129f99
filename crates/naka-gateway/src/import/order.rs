//! From "the first that matches" to "the most specific wins".
//!
//! Where resources come from, rules have an order, and the first that matches takes the request. naka takes the most
//! specific, wherever it stands ([`route`](crate::route)), and `priority` decides only between routes of equal rank. So a rule
//! that comes first and is less specific than a later one needs more than a number: it needs routes of its own for what
//! both match.
//!
//! 1. The rules are looked at from the last to the first.
//! 2. What a rule covers wholly can never be reached behind it, and is dropped.
//! 3. For each route there is so far that outranks the rule and can match the same request, a route for what both match is
//!    added, with the rule's destination. It has the path of both, and the conditions of both, so its rank is no lower.
//! 4. Where routes of equal rank overlap, the one of the earlier rule gets the higher priority; all others get none.
//!
//! **Why this is enough.** Let a request match the rule that is added last, and let the winner so far belong to another one.
//! Then the winner outranks the rule's own route, so what both match has been added in step 3, is of no lower rank, and has the
//! higher priority. So the winner belongs to the rule. For all other requests nothing has changed.
//!
//! **Regular expressions** go last here, whatever their order. So what comes behind one and can match the same is written as
//! one, too ([`Path::Demoted`]): among them conditions and `priority` decide. What an expression has in common with a path is
//! known where the other is one whole path, or the beginning of all that the expression matches. What remains is told
//! ([`Placed::undecided`]).
//!
//! # Limits
//! [`MAX_ROUTES`] routes for one list of rules; beyond that nothing is added, and it is told.

use std::{
    cmp::{Ordering, Reverse},
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    sync::Arc,
};

use regex::Regex;

use crate::{
    config::{PrefixPath, Scalar as _, Text, WholePath, checked},
    route::literal_prefix,
};

/// Routes that one list of rules may become.
pub(super) const MAX_ROUTES: usize = 1000;

/// A piece of a path between slashes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Segment {
    Literal(Arc<str>),
    /// Any one that is not empty.
    Any,
}

/// How a path ends after its segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum End {
    /// With them.
    Whole,
    /// With at least one more, possibly empty.
    Rest,
    /// With any number more.
    Prefix,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Path {
    Segments(Vec<Segment>, End),
    /// The same, in the rank of regular expressions.
    Demoted(Vec<Segment>, End),
    /// Anchored at both ends.
    Regex(Arc<str>),
}

/// What a header or a parameter has to be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Wanted {
    Exactly(Arc<str>),
    Present,
}

/// What a route matches, but for its hosts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Match {
    pub(super) path: Path,
    /// All, if there is none; GET is HEAD, too.
    pub(super) methods: BTreeSet<Arc<str>>,
    pub(super) headers: BTreeMap<Arc<str>, Wanted>,
    pub(super) query: BTreeMap<Arc<str>, Wanted>,
}

/// One rule of a list.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    pub(super) matches: Match,
    /// Its destination takes what is behind the prefix, so it needs paths that say where that is.
    pub(super) needs_rest: bool,
}

/// A route for one rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Route {
    /// The place of its rule in the list.
    pub(super) rule: usize,
    pub(super) matches: Match,
    /// 0 where rank decides.
    pub(super) priority: i32,
}

/// What became of a list of rules.
#[derive(Clone, Debug, Default)]
pub(super) struct Placed {
    /// In the order of the rules.
    pub(super) routes: Vec<Route>,
    /// Rules of which nothing is left, each with one that takes all that is its.
    pub(super) covered: Vec<(usize, usize)>,
    /// Rules that come first, and that a more specific route of a later one outranks, as nobody knows what they have in common.
    pub(super) undecided: Vec<(usize, usize)>,
    /// There were too many.
    pub(super) is_cut: bool,
}

/// Routes among which the most specific is that of the first rule that matches.
pub(super) fn place(rules: &[Rule]) -> Placed {
    let mut placed = Placed::default();
    let mut routes: Vec<Route> = Vec::new();
    let rules = &demoted(rules)[..];
    for (number, rule) in rules.iter().enumerate().rev() {
        routes.retain(|route| !rule.matches.covers(&route.matches));
        let own = rule.split(rule.matches.clone());
        let mut new: Vec<Match> = own.clone();
        for route in routes.iter().rev() {
            for own in own.iter().filter(|own| route.matches.rank(own).is_lt()) {
                match own.intersection(&route.matches) {
                    Common::None => {}
                    Common::Match(common) => new.extend(rule.split(common)),
                    Common::Unknown => placed.undecided.push((number, route.rule)),
                }
            }
        }
        let mut known = BTreeSet::new();
        new.retain(|it| known.insert(it.clone()));
        if routes.len() + new.len() > MAX_ROUTES {
            placed.is_cut = true;
            new = own;
        }
        routes.extend(new.into_iter().map(|matches| Route { rule: number, matches, priority: 0 }));
    }
    placed.undecided.dedup();
    prioritise(&mut routes);
    routes.sort_by_key(|route| route.rule); // Within a rule its own match stays first.
    for (number, rule) in rules.iter().enumerate() {
        if routes.iter().all(|route| route.rule != number) {
            let by = rules[..number].iter().position(|earlier| earlier.matches.covers(&rule.matches));
            placed.covered.push((number, by.unwrap_or(0)));
        }
    }
    placed.routes = routes;
    placed
}

/// What comes behind a regular expression, and may match the same, in its rank.
fn demoted(rules: &[Rule]) -> Vec<Rule> {
    let mut all = rules.to_vec();
    for (number, rule) in all.iter_mut().enumerate() {
        let Path::Segments(segments, end) = &rule.matches.path else { continue };
        let is_before = |earlier: &Rule| {
            matches!(earlier.matches.path, Path::Regex(_))
                && !matches!(earlier.matches.intersection(&rule.matches), Common::None)
        };
        if rule.matches.path.only().is_none() && rules[..number].iter().any(is_before) {
            rule.matches.path = Path::Demoted(segments.clone(), *end);
        }
    }
    all
}

/// The least priorities that decide. Earlier in the list is lower.
fn prioritise(routes: &mut [Route]) {
    for index in 1..routes.len() {
        let (lower, this) = routes.split_at_mut(index);
        let this = &mut this[0];
        let rivals = lower
            .iter()
            .filter(|lower| lower.matches.rank(&this.matches).is_eq() && lower.matches.meets(&this.matches));
        this.priority = rivals.map(|rival| rival.priority + 1).max().unwrap_or(0);
    }
}

impl Rule {
    /// Where what is behind a prefix is needed, the prefix itself and what is below it are two.
    fn split(&self, matches: Match) -> Vec<Match> {
        match &matches.path {
            Path::Segments(segments, End::Prefix) | Path::Demoted(segments, End::Prefix)
                if self.needs_rest =>
            {
                // There is no path without a slash.
                let ends: &[End] = if segments.is_empty() { &[End::Rest] } else { &[End::Whole, End::Rest] };
                let is_demoted = matches!(matches.path, Path::Demoted(..));
                let with = |end: &End| Match {
                    path: Path::of(segments.clone(), *end, is_demoted),
                    ..matches.clone()
                };
                ends.iter().map(with).collect()
            }
            _ => vec![matches],
        }
    }
}

/// What two have in common.
pub(super) enum Common<T> {
    None,
    Match(T),
    /// Perhaps something, and it cannot be said.
    Unknown,
}

impl Match {
    /// Every request.
    pub(super) fn all() -> Self {
        let path = Path::Segments(Vec::new(), End::Prefix);
        Self { path, methods: BTreeSet::new(), headers: BTreeMap::new(), query: BTreeMap::new() }
    }

    /// Whether it matches every request.
    pub(super) fn is_all(&self) -> bool {
        *self == Self::all()
    }

    /// `Less`: it goes first, as [`crate::route`] ranks routes of one host; but for `priority`.
    pub(super) fn rank(&self, other: &Self) -> Ordering {
        self.path
            .rank(&other.path)
            .then(self.methods.is_empty().cmp(&other.methods.is_empty()))
            .then(Reverse(self.headers.len()).cmp(&Reverse(other.headers.len())))
            .then(Reverse(self.query.len()).cmp(&Reverse(other.query.len())))
    }

    /// What both match.
    pub(super) fn intersection(&self, other: &Self) -> Common<Self> {
        let (Some(methods), Some(headers), Some(query)) = (
            common_methods(&self.methods, &other.methods),
            common_values(&self.headers, &other.headers),
            common_values(&self.query, &other.query),
        ) else {
            return Common::None;
        };
        match self.path.intersection(&other.path) {
            Common::None => Common::None,
            Common::Unknown => Common::Unknown,
            Common::Match(path) => Common::Match(Self { path, methods, headers, query }),
        }
    }

    /// Whether a request may match both, as far as the table of routes looks: of expressions, only at their beginnings.
    fn meets(&self, other: &Self) -> bool {
        let is_expression = |path: &Path| !matches!(path, Path::Segments(..));
        if is_expression(&self.path) && is_expression(&other.path) {
            let any = |it: &Self| Self { path: Self::all().path, ..it.clone() };
            return !matches!(any(self).intersection(&any(other)), Common::None);
        }
        !matches!(self.intersection(other), Common::None)
    }

    /// Whether it matches whatever the other one does.
    pub(super) fn covers(&self, other: &Self) -> bool {
        let methods = self.methods.is_empty()
            || !other.methods.is_empty() && other.methods.iter().all(|method| takes(&self.methods, method));
        methods
            && implied(&self.headers, &other.headers)
            && implied(&self.query, &other.query)
            && matches!(self.path.intersection(&other.path), Common::Match(path) if path.shape() == other.path.shape())
    }
}

impl Path {
    /// A whole path, or the beginning of one on a boundary. `Err` says why no request has it, or it cannot be said.
    pub(super) fn read(text: &str, end: End) -> Result<Self, String> {
        if text.contains(['{', '}']) {
            return Err("braces are captures here".into());
        }
        let text = Text { text, plain: false };
        let parsed = match end {
            End::Whole => WholePath::parse(text).map(|it| it.0),
            End::Rest | End::Prefix => PrefixPath::parse(text).map(|it| it.0),
        };
        let segment = |segment: &checked::Segment| match segment {
            checked::Segment::Literal(text) => Segment::Literal(Arc::clone(text)),
            checked::Segment::Param(_) | checked::Segment::Rest(_) => Segment::Any, // There are no braces.
        };
        parsed.map(|it| Self::Segments(it.iter().map(segment).collect(), end)).map_err(|wrong| wrong.message)
    }

    fn of(segments: Vec<Segment>, end: End, is_demoted: bool) -> Self {
        if is_demoted { Self::Demoted(segments, end) } else { Self::Segments(segments, end) }
    }

    /// Its segments, and how it ends.
    pub(super) fn segments(&self) -> Option<(&[Segment], End)> {
        match self {
            Self::Segments(segments, end) | Self::Demoted(segments, end) => Some((segments, *end)),
            Self::Regex(_) => None,
        }
    }

    /// Which paths it has, whatever its rank.
    fn shape(&self) -> Result<(&[Segment], End), &str> {
        match self {
            Self::Regex(regex) => Err(regex),
            Self::Segments(segments, end) | Self::Demoted(segments, end) => Ok((segments, *end)),
        }
    }

    /// With `{name}` for each segment that may be anything.
    pub(super) fn written(&self) -> String {
        match self {
            Self::Regex(regex) => regex.to_string(),
            Self::Demoted(segments, end) => {
                let mut text = String::new();
                for (index, segment) in segments.iter().enumerate() {
                    let _ = match segment {
                        Segment::Literal(literal) => write!(text, "/{}", regex::escape(literal)),
                        Segment::Any => write!(text, "/(?<p{}>[^/]+)", index + 1),
                    };
                }
                text.push_str(match end {
                    End::Whole => "",
                    End::Rest => "/(?<rest>.*)",
                    End::Prefix if segments.is_empty() => "/.*",
                    End::Prefix => "(/.*)?",
                });
                text
            }
            Self::Segments(segments, end) => {
                let mut text = written(segments, 0);
                match end {
                    End::Rest => text.push_str("/{rest...}"),
                    End::Prefix if text.is_empty() => text.push('/'),
                    End::Whole | End::Prefix => {}
                }
                text
            }
        }
    }

    fn rank(&self, other: &Self) -> Ordering {
        let (Self::Segments(a, a_end), Self::Segments(b, b_end)) = (self, other) else {
            let is_expression = |path: &Self| !matches!(path, Self::Segments(..));
            return is_expression(self).cmp(&is_expression(other));
        };
        let step = |segments: &[Segment], end: End, index: usize| match (segments.get(index), end) {
            (Some(Segment::Literal(_)), _) => 0,
            (Some(Segment::Any), _) => 1,
            (None, End::Rest) => 2,
            (None, End::Whole) => 3,
            (None, End::Prefix) => 4,
        };
        let steps = (0..=a.len().min(b.len())).map(|at| step(a, *a_end, at).cmp(&step(b, *b_end, at)));
        steps.fold(Ordering::Equal, Ordering::then)
    }

    fn intersection(&self, other: &Self) -> Common<Self> {
        match (self, other) {
            (Self::Regex(a), Self::Regex(b)) if a == b => Common::Match(self.clone()),
            (Self::Regex(a), Self::Regex(b)) => {
                let (a, b) = (beginning(a), beginning(b));
                if a.starts_with(&b) || b.starts_with(&a) { Common::Unknown } else { Common::None }
            }
            (Self::Regex(regex), path) | (path, Self::Regex(regex)) => with_expression(regex, path),
            (a, b) => {
                let (Some(of), Some(with)) = (a.segments(), b.segments()) else { return Common::Unknown };
                let is_demoted = matches!((a, b), (Self::Demoted(..), Self::Demoted(..)));
                let common = common_segments(of, with);
                common.map_or(Common::None, |(segments, end)| {
                    Common::Match(Self::of(segments, end, is_demoted))
                })
            }
        }
    }

    /// The one path there is.
    fn only(&self) -> Option<String> {
        let (segments, End::Whole) = self.segments()? else { return None };
        let is_literal = segments.iter().all(|it| matches!(it, Segment::Literal(_)));
        is_literal.then(|| written(segments, 0))
    }
}

/// What an expression has in common with a path that is none.
fn with_expression(regex: &str, path: &Path) -> Common<Path> {
    let Some((segments, end)) = path.segments() else { return Common::Unknown };
    if let Some(text) = path.only() {
        return if is_match(regex, &text) { Common::Match(path.clone()) } else { Common::None };
    }
    let is_literal = |it: &&Segment| matches!(it, Segment::Literal(_));
    let literals = segments.iter().take_while(is_literal).cloned().collect::<Vec<_>>();
    let (text, begins) = (written(&literals, 0), beginning(regex));
    if !begins.starts_with(&text) && !text.starts_with(&begins) {
        return Common::None;
    }
    // All that the expression matches is below the path, if that has no more to say.
    let is_below = literals.len() == segments.len()
        && end != End::Whole
        && begins
            .strip_prefix(&text)
            .is_some_and(|rest| rest.starts_with('/') || text.is_empty() && end == End::Prefix);
    if is_below { Common::Match(Path::Regex(regex.into())) } else { Common::Unknown }
}

/// The text that all matches of an expression begin with.
fn beginning(regex: &str) -> String {
    literal_prefix(&format!("^(?:{regex})$"))
}

fn is_match(regex: &str, path: &str) -> bool {
    Regex::new(&format!("^(?:{regex})$")).is_ok_and(|regex| regex.is_match(path))
}

/// Segments from one on, each with a slash before it; those that may be anything are called by their place.
pub(super) fn written(segments: &[Segment], from: usize) -> String {
    let mut text = String::new();
    for (index, segment) in segments.iter().enumerate().skip(from) {
        let _ = match segment {
            Segment::Literal(literal) => write!(text, "/{literal}"),
            Segment::Any => write!(text, "/{{p{}}}", index + 1),
        };
    }
    text
}

fn common_segments(
    (a, a_end): (&[Segment], End),
    (b, b_end): (&[Segment], End),
) -> Option<(Vec<Segment>, End)> {
    let mut common = Vec::with_capacity(a.len().max(b.len()));
    for index in 0..a.len().max(b.len()) {
        let (segment, ended) = match (a.get(index), b.get(index)) {
            (Some(Segment::Any), Some(Segment::Any)) => (Segment::Any, None),
            (Some(Segment::Literal(text)), Some(Segment::Any))
            | (Some(Segment::Any), Some(Segment::Literal(text))) => {
                if text.is_empty() {
                    return None;
                }
                (Segment::Literal(Arc::clone(text)), None)
            }
            (Some(Segment::Literal(a)), Some(Segment::Literal(b))) => {
                if a != b {
                    return None;
                }
                (Segment::Literal(Arc::clone(a)), None)
            }
            (Some(longer), None) => (longer.clone(), Some(b_end)),
            (None, Some(longer)) => (longer.clone(), Some(a_end)),
            (None, None) => return None,
        };
        if ended == Some(End::Whole) {
            return None;
        }
        common.push(segment);
    }
    let end = match a.len().cmp(&b.len()) {
        Ordering::Greater => a_end,
        Ordering::Less => b_end,
        Ordering::Equal => match (a_end, b_end) {
            (End::Whole, End::Rest) | (End::Rest, End::Whole) => return None,
            (End::Whole, _) | (_, End::Whole) => End::Whole,
            (End::Rest, _) | (_, End::Rest) => End::Rest,
            (End::Prefix, End::Prefix) => End::Prefix,
        },
    };
    Some((common, end))
}

fn takes(methods: &BTreeSet<Arc<str>>, method: &str) -> bool {
    methods.is_empty() || methods.contains(method) || method == "HEAD" && methods.contains("GET")
}

fn common_methods(a: &BTreeSet<Arc<str>>, b: &BTreeSet<Arc<str>>) -> Option<BTreeSet<Arc<str>>> {
    if a.is_empty() && b.is_empty() {
        return Some(BTreeSet::new());
    }
    let common = a.iter().filter(|method| takes(b, method)).chain(b.iter().filter(|method| takes(a, method)));
    let common: BTreeSet<_> = common.cloned().collect();
    (!common.is_empty()).then_some(common)
}

/// The conditions of both; nothing if one name would need two values.
fn common_values(
    a: &BTreeMap<Arc<str>, Wanted>,
    b: &BTreeMap<Arc<str>, Wanted>,
) -> Option<BTreeMap<Arc<str>, Wanted>> {
    let mut common = a.clone();
    for (name, wanted) in b {
        match (common.get(name), wanted) {
            (Some(Wanted::Exactly(a)), Wanted::Exactly(b)) if a != b => return None,
            (Some(Wanted::Exactly(_)), _) => {}
            _ => _ = common.insert(Arc::clone(name), wanted.clone()),
        }
    }
    Some(common)
}

/// Whether who has the second has the first.
fn implied(first: &BTreeMap<Arc<str>, Wanted>, second: &BTreeMap<Arc<str>, Wanted>) -> bool {
    first.iter().all(|(name, wanted)| match (wanted, second.get(name)) {
        (Wanted::Present, Some(_)) => true,
        (wanted, Some(has)) => wanted == has,
        (_, None) => false,
    })
}

#[cfg(test)]
mod tests;
