//! The compiled table, and the questions put to it.

use std::{collections::BTreeSet, fmt, sync::Arc};

use http::{HeaderValue, Method};

use super::{
    ambiguity,
    captures::Captures,
    entry::{Entry, Lost, Query},
    error::RouteError,
    rank::{Rule, compare},
    trie::Trie,
};
use crate::{
    config::checked::{HostPattern, Match, Name},
    lookup::Lookup,
};

/// The routes of one listener, ready to be asked; see the [module docs](super).
#[derive(Debug, Default)]
pub struct Table {
    entries: Vec<Entry>,
    exact: Lookup<Arc<str>, Trie>,
    wildcards: Lookup<Arc<str>, Trie>, // by what follows the `*`
    wildcard_len_max: usize,
    any: Trie,
}

/// The answer to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// This route takes it.
    Route {
        /// Its position in what the table was compiled from.
        index: usize,
        /// What the path held.
        captures: Captures,
    },
    /// 405: some routes match in all but the method.
    MethodNotAllowed {
        /// Their methods, sorted: the value of `Allow`.
        allow: HeaderValue,
    },
    /// 404.
    NotFound,
}

/// Watches a lookup. A route that several of its hosts bring up can be told of more than once.
pub trait Trace {
    /// This route came up and does not match.
    fn lost(&mut self, route: usize, why: Lost<'_>) {
        let _ = (route, why);
    }

    /// This route won.
    fn won(&mut self, route: usize) {
        let _ = route;
    }
}

/// Watches nothing and costs nothing.
impl Trace for () {}

/// What became of one route, for [`Table::explain`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome<'t> {
    /// It takes the request.
    Won,
    /// It matches too.
    LessSpecific {
        /// Why the winner goes before it.
        rule: Rule,
    },
    /// It does not match.
    Lost(Lost<'t>),
}

impl fmt::Display for Outcome<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Won => f.write_str("takes the request"),
            Self::LessSpecific { rule } => write!(f, "matches too, but the winner goes first: {rule}"),
            Self::Lost(why) => write!(f, "does not match: {why}"),
        }
    }
}

impl Table {
    /// Compiles the routes of one listener: name, match and priority of each. All errors in one go.
    pub fn compile<'m>(
        routes: impl IntoIterator<Item = (Name, &'m Match, Option<i32>)>,
    ) -> Result<Self, Vec<RouteError>> {
        let routes = routes.into_iter();
        let most = routes.size_hint().1.unwrap_or_default();
        let mut table = Self { entries: Vec::with_capacity(most), ..Self::default() };
        let mut errors = Vec::new();
        for (name, matches, priority) in routes {
            match Entry::new(name, matches, priority) {
                Ok(entry) => table.insert(entry),
                Err(error) => errors.push(error),
            }
        }
        for trie in table.exact.values_mut().chain(table.wildcards.values_mut()).chain([&mut table.any]) {
            trie.sort(&table.entries);
        }
        errors.extend(ambiguity::find(&table.entries, table.tries()).into_iter().map(RouteError::Ambiguous));
        if errors.is_empty() { Ok(table) } else { Err(errors) }
    }

    /// The number of routes.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no route.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The route that takes the request.
    pub fn find<T: Trace>(&self, query: &Query<'_>, trace: &mut T) -> Found {
        let mut found = None;
        let mut method_missed = false;
        self.propose(query, |route| match self.entries[route].check_below_host(query) {
            Ok(captures) => {
                trace.won(route);
                found = Some(Found::Route { index: route, captures });
                true
            }
            Err(why) => {
                method_missed |= why == Lost::Method;
                trace.lost(route, why);
                false
            }
        });
        match found {
            Some(found) => found,
            None if method_missed => Found::MethodNotAllowed { allow: self.allow(query) },
            None => Found::NotFound,
        }
    }

    /// What becomes of each route, in the order the table was compiled from.
    ///
    /// Asks the predicates of [`find`](Self::find) of all routes, and ranks those that match.
    pub fn explain(&self, query: &Query<'_>) -> Vec<(usize, Outcome<'_>)> {
        let checks: Vec<_> = self.entries.iter().map(|entry| entry.check(query).err()).collect();
        let matching = self.entries.iter().zip(&checks).filter(|(_, lost)| lost.is_none());
        let winner = matching.map(|(entry, _)| entry).min_by(|a, b| compare(a, b, query.host).0);
        let outcome = |(entry, lost): (&Entry, Option<_>)| match (lost, winner) {
            (Some(lost), _) => Outcome::Lost(lost),
            (None, Some(winner)) if !std::ptr::eq(winner, entry) => {
                Outcome::LessSpecific { rule: compare(winner, entry, query.host).1 }
            }
            (None, _) => Outcome::Won,
        };
        self.entries.iter().zip(checks).map(outcome).enumerate().collect()
    }

    fn insert(&mut self, entry: Entry) {
        let route = self.entries.len();
        if entry.hosts.is_empty() {
            self.any.insert(route, &entry);
        }
        // A set: a host that is said twice is one host.
        for host in entry.hosts.iter().collect::<BTreeSet<_>>() {
            let trie = match host {
                HostPattern::Exact(host) => self.exact.entry(Arc::clone(host)),
                HostPattern::Wildcard(suffix) => {
                    self.wildcard_len_max = self.wildcard_len_max.max(suffix.len());
                    self.wildcards.entry(Arc::clone(suffix))
                }
            };
            trie.or_default().insert(route, &entry);
        }
        self.entries.push(entry);
    }

    /// All tries, each with what its host is like for an example.
    fn tries(&self) -> impl Iterator<Item = (String, &Trie)> {
        let exact = self.exact.iter().map(|(host, trie)| (host.to_string(), trie));
        let wildcards = self.wildcards.iter().map(|(suffix, trie)| (format!("any{suffix}"), trie));
        exact.chain(wildcards).chain([("localhost".into(), &self.any)])
    }

    /// Proposes routes, the most specific first, until one is taken.
    fn propose(&self, query: &Query<'_>, mut take: impl FnMut(usize) -> bool) {
        let host = query.host;
        // From the left: the longest suffix first. What is longer than all of ours is not even hashed.
        let from = host.len().saturating_sub(self.wildcard_len_max).max(1).min(host.len());
        let suffixes = memchr::memchr_iter(b'.', &host.as_bytes()[from..]).map(|at| &host[from + at..]);
        let wildcards = suffixes.filter_map(|suffix| self.wildcards.get(suffix));
        let mut tries = self.exact.get(host).into_iter().chain(wildcards).chain([&self.any]);
        tries.any(|trie| trie.propose(query.path, &mut take));
    }

    /// Asks once more, as a 405 is rare: the methods of all routes that match but for them.
    fn allow(&self, query: &Query<'_>) -> HeaderValue {
        let mut methods = BTreeSet::new();
        self.propose(query, |route| {
            let entry = &self.entries[route];
            if entry.check_below_host(query) == Err(Lost::Method) {
                methods.extend(entry.methods.iter().map(Method::as_str));
            }
            false
        });
        if methods.contains(Method::GET.as_str()) {
            methods.insert(Method::HEAD.as_str());
        }
        let methods = Vec::from_iter(methods).join(", ");
        HeaderValue::try_from(methods).expect("a method is a token, and so a header value")
    }
}
