//! The routes of one host, in an order that rank walks along.

use std::sync::Arc;

use super::entry::{End, Entry, Path, split_segment};
use super::rank::compare_conditions;
use crate::{config::checked::Segment, lookup::Lookup};

/// Positions of routes, by where their paths end.
#[derive(Debug)]
pub(super) struct Trie {
    nodes: Vec<Node>, // the first is the root
    regexes: Vec<usize>,
}

#[derive(Debug, Default)]
struct Node {
    literals: Lookup<Arc<str>, usize>,
    param: Option<usize>,
    whole: Ends,
    rest: Ends,
    prefix: Ends,
}

/// The routes that end in one place: mostly none or one, which costs no allocation.
#[derive(Debug, Default)]
enum Ends {
    #[default]
    None,
    One(usize),
    Many(Vec<usize>),
}

impl Ends {
    fn push(&mut self, route: usize) {
        match self {
            Self::None => *self = Self::One(route),
            Self::One(first) => *self = Self::Many(vec![*first, route]),
            Self::Many(routes) => routes.push(route),
        }
    }

    fn all(&self) -> &[usize] {
        match self {
            Self::None => &[],
            Self::One(route) => std::slice::from_ref(route),
            Self::Many(routes) => routes,
        }
    }
}

impl Default for Trie {
    fn default() -> Self {
        Self { nodes: vec![Node::default()], regexes: Vec::new() }
    }
}

impl Trie {
    pub(super) fn insert(&mut self, route: usize, entry: &Entry) {
        let Path::Segments { segments, end } = &entry.path else {
            self.regexes.push(route);
            return;
        };
        let at = segments.iter().fold(0, |at, segment| self.child(at, segment));
        let node = &mut self.nodes[at];
        match end {
            End::Whole => node.whole.push(route),
            End::Rest => node.rest.push(route),
            End::Prefix => node.prefix.push(route),
        }
    }

    fn child(&mut self, parent: usize, segment: &Segment) -> usize {
        let fresh = self.nodes.len();
        let node = &mut self.nodes[parent];
        let at = match segment {
            Segment::Literal(text) => *node.literals.entry(Arc::clone(text)).or_insert(fresh),
            Segment::Param(_) | Segment::Rest(_) => *node.param.get_or_insert(fresh),
        };
        if at == fresh {
            self.nodes.push(Node::default());
        }
        at
    }

    /// Puts the routes that end in the same place into the order of their rank.
    pub(super) fn sort(&mut self, entries: &[Entry]) {
        let ends = self.nodes.iter_mut().flat_map(|node| [&mut node.whole, &mut node.rest, &mut node.prefix]);
        let lists = ends.filter_map(|ends| if let Ends::Many(routes) = ends { Some(routes) } else { None });
        for list in lists.chain([&mut self.regexes]) {
            list.sort_by(|&a, &b| compare_conditions(&entries[a], &entries[b]).0.then(a.cmp(&b)));
        }
    }

    /// The routes that can rank equal and match the same request: one host pattern, one shape of path.
    pub(super) fn rivals(&self) -> impl Iterator<Item = &[usize]> {
        let lists = self.nodes.iter().flat_map(|node| [node.whole.all(), node.rest.all(), node.prefix.all()]);
        lists.chain([&*self.regexes]).filter(|list| list.len() > 1)
    }

    /// Proposes routes in the order of their rank, until one is taken. Those with segments match the path;
    /// a regular expression is still to be asked.
    pub(super) fn propose(&self, path: &str, take: &mut impl FnMut(usize) -> bool) -> bool {
        let Some(rest) = path.strip_prefix('/') else { return false };
        self.walk(0, Some(rest), take) || self.regexes.iter().any(|&route| take(route))
    }

    /// `rest` is what follows the slash after this node, if there is one.
    fn walk(&self, at: usize, rest: Option<&str>, take: &mut impl FnMut(usize) -> bool) -> bool {
        let node = &self.nodes[at];
        if let Some(rest) = rest {
            let (segment, next) = split_segment(rest);
            let param = node.param.filter(|_| !segment.is_empty());
            if let Some(&child) = node.literals.get(segment)
                && self.walk(child, next, take)
            {
                return true;
            }
            if let Some(child) = param
                && self.walk(child, next, take)
            {
                return true;
            }
        }
        let ending = if rest.is_some() { &node.rest } else { &node.whole };
        ending.all().iter().chain(node.prefix.all()).any(|&route| take(route))
    }
}
