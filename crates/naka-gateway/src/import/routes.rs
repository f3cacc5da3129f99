//! Rules of listeners and hosts to routes with names.
//!
//! 1. What a listener has for a host is a list of rules, in the order of the API they come from.
//! 2. Hosts with the same list are one; [`order`](super::order) makes routes of it.
//! 3. Where a host is somebody's alone, and a less specific one would take what its rules leave, a route answers that with
//!    404, as the proxy did that these rules were written for.
//! 4. Routes that differ in nothing but their listener are one.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    hosts::Pattern,
    order::{self, End, Match, Path, Wanted},
    out::{Entry, Keys, Out},
    report::Findings,
    services::name_of,
};
use crate::config::Span;

/// What becomes of a path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum PathChange {
    /// All of it is replaced.
    Whole(String),
    /// Its first so many segments are.
    Prefix { segments: usize, by: String },
}

/// What becomes of a request, whatever its path.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Action {
    pub(super) keys: Keys,
    /// On the way to the endpoint.
    pub(super) rewrite: Option<PathChange>,
    pub(super) rewrite_host: Option<String>,
    /// To another URL: what does not depend on the path, and what becomes of that.
    pub(super) redirect: Option<(Keys, Option<PathChange>)>,
}

impl Action {
    pub(super) fn answer(status: u16) -> Self {
        let respond = Out::map([("status", Out::plain(status))]);
        Self { keys: vec![("respond".into(), respond)], ..Self::default() }
    }

    fn needs_rest(&self) -> bool {
        let changes = self.rewrite.iter().chain(self.redirect.iter().filter_map(|(_, path)| path.as_ref()));
        changes.into_iter().any(|change| matches!(change, PathChange::Prefix { .. }))
    }

    fn keys_for(&self, path: &Path) -> Keys {
        let mut keys = self.keys.clone();
        let mut rewrite = Keys::new();
        rewrite.extend(self.rewrite.as_ref().map(|it| ("path".into(), Out::text(it.template(path)))));
        rewrite.extend(self.rewrite_host.as_ref().map(|it| ("host".into(), Out::text(it))));
        if !rewrite.is_empty() {
            keys.push(("rewrite".into(), Out::Map(rewrite)));
        }
        if let Some((redirect, change)) = &self.redirect {
            let mut redirect = redirect.clone();
            redirect.extend(change.as_ref().map(|it| ("path".into(), Out::text(it.template(path)))));
            keys.push(("redirect".into(), Out::Map(redirect)));
        }
        keys
    }
}

impl PathChange {
    fn template(&self, path: &Path) -> String {
        match (self, path) {
            (
                Self::Prefix { segments: from, by },
                Path::Segments(segments, end) | Path::Demoted(segments, end),
            ) => {
                let mut text = by.trim_end_matches('/').to_owned();
                text.push_str(&order::written(segments, *from));
                if *end == End::Rest {
                    text.push_str("/{rest}");
                }
                if text.is_empty() { "/".into() } else { text }
            }
            (Self::Whole(path) | Self::Prefix { by: path, .. }, _) => path.clone(),
        }
    }
}

/// One rule, as it stands in its resource.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    /// What its routes are called after.
    pub(super) name: String,
    /// Where it is from, for a comment.
    pub(super) remark: String,
    /// Whose it is, for the report.
    pub(super) resource: String,
    pub(super) at: Span,
    pub(super) action: Action,
    /// It is ours, and nobody misses it.
    pub(super) is_ours: bool,
}

/// One match of a rule, at one listener.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Candidate {
    /// The place of its rule.
    pub(super) rule: usize,
    pub(super) matches: Match,
    /// The match that it is a piece of.
    pub(super) of: Match,
    /// What is besides, at this listener.
    pub(super) keys: Keys,
}

impl Candidate {
    /// A match as it stands in its resource.
    pub(super) fn of(rule: usize, matches: Match) -> Self {
        Self { rule, of: matches.clone(), matches, keys: Keys::new() }
    }
}

/// A listener, and for each host its rules, in order.
#[derive(Clone, Debug, Default)]
pub(super) struct Site {
    pub(super) listener: String,
    pub(super) hosts: BTreeMap<Pattern, Vec<Candidate>>,
    /// Hosts whose requests nobody else gets.
    pub(super) closed: BTreeSet<Pattern>,
}

struct Draft {
    rule: usize,
    listeners: Vec<String>,
    hosts: Vec<Pattern>,
    matches: Match,
    priority: i32,
    keys: Keys,
}

/// The routes of all listeners.
pub(super) fn routes(sites: &[Site], rules: &mut Vec<Rule>, findings: &mut Findings) -> Vec<Entry> {
    let mut drafts: Vec<Draft> = Vec::new();
    // Of each match as it stands in its resource: whether anything is left of it, and who has the rest.
    let mut reached = BTreeSet::new();
    let mut never = BTreeMap::new();
    let key = |candidate: &Candidate, rules: &[Rule]| {
        let at = rules[candidate.rule].at;
        (at.file(), at.start(), candidate.of.clone())
    };
    for site in sites {
        for (hosts, mut candidates) in groups(site) {
            if let Some(closing) = closing(site, &hosts, &candidates, rules) {
                candidates.push(closing);
            }
            let list = candidates.iter().map(|it| order::Rule {
                matches: it.matches.clone(),
                needs_rest: rules[it.rule].action.needs_rest(),
            });
            let placed = order::place(&list.collect::<Vec<_>>());
            told(&placed, &candidates, rules, findings);
            for (covered, by) in &placed.covered {
                let (covered, by) = (&candidates[*covered], &candidates[*by]);
                never.entry(key(covered, rules)).or_insert((covered.rule, by.rule));
            }
            for route in placed.routes {
                let Candidate { rule, keys, .. } = &candidates[route.rule];
                reached.insert(key(&candidates[route.rule], rules));
                let mut all = keys.clone();
                all.extend(rules[*rule].action.keys_for(&route.matches.path));
                let (matches, priority) = (route.matches, route.priority);
                let listeners = vec![site.listener.clone()];
                add(
                    &mut drafts,
                    Draft { rule: *rule, listeners, hosts: hosts.clone(), matches, priority, keys: all },
                );
            }
        }
    }
    for (matched, (rule, by)) in never {
        if reached.contains(&matched) || rules[rule].is_ours {
            continue;
        }
        findings.of(&rules[rule].resource);
        let line = findings.line(rules[by].at);
        findings.note(
            rules[rule].at,
            format!(
                "its match for `{}` never takes a request: the rule at {line} takes all that it does",
                matched.2.path.written()
            ),
            "take it away, or let it go first",
        );
    }
    named(drafts, rules, sites.len() > 1)
}

/// Hosts with the same rules.
fn groups(site: &Site) -> Vec<(Vec<Pattern>, Vec<Candidate>)> {
    let mut groups: Vec<(Vec<Pattern>, Vec<Candidate>)> = Vec::new();
    for (host, candidates) in &site.hosts {
        let same = groups.iter_mut().find(|(hosts, it)| {
            // Any host has no name, so it stands alone.
            it == candidates
                && *host != Pattern::Any
                && site.closed.contains(&hosts[0]) == site.closed.contains(host)
        });
        match same {
            Some((hosts, _)) => hosts.push(host.clone()),
            None => groups.push((vec![host.clone()], candidates.clone())),
        }
    }
    groups
}

/// What the rules of a closed host leave is 404, if a less specific one would take it.
fn closing(
    site: &Site,
    hosts: &[Pattern],
    candidates: &[Candidate],
    rules: &mut Vec<Rule>,
) -> Option<Candidate> {
    let is_closed = hosts.iter().any(|host| site.closed.contains(host));
    let is_taken = |host: &Pattern| site.hosts.keys().any(|other| other != host && other.covers(host));
    if !is_closed || !hosts.iter().any(is_taken) || candidates.iter().any(|it| it.matches.is_all()) {
        return None;
    }
    let rule = Rule {
        name: format!("{}-else", candidates.first().map_or(&site.listener, |it| &rules[it.rule].name)),
        remark: "what no rule of these hosts takes is not for others".into(),
        resource: String::new(),
        at: Span::default(),
        action: Action::answer(404),
        is_ours: true,
    };
    rules.push(rule);
    Some(Candidate::of(rules.len() - 1, Match::all()))
}

fn told(placed: &order::Placed, candidates: &[Candidate], rules: &[Rule], findings: &mut Findings) {
    for (first, later) in &placed.undecided {
        let (first, later) = (&rules[candidates[*first].rule], &rules[candidates[*later].rule]);
        if later.is_ours {
            continue;
        }
        findings.of(&first.resource);
        let line = findings.line(later.at);
        findings.changed(
            first.at,
            format!("its path is a regular expression, and it goes before the rule at {line}, which asks for more: what both match is not known, and goes to that one"),
            "match by `prefix` or `exact`, or let that rule ask for no more than this one",
        );
    }
    if let Some(rule) = candidates.first().map(|it| &rules[it.rule]).filter(|_| placed.is_cut) {
        findings.of(&rule.resource);
        findings.error(
            rule.at,
            format!(
                "its order would take more than {} routes: what comes first does not always win",
                order::MAX_ROUTES
            ),
            "say fewer conditions in rules that come before more specific ones, or put those first",
        );
    }
}

/// One more, or one more listener of one that is there.
fn add(drafts: &mut Vec<Draft>, draft: Draft) {
    let same = drafts.iter_mut().find(|it| {
        (it.rule, it.priority, &it.hosts, &it.matches, &it.keys)
            == (draft.rule, draft.priority, &draft.hosts, &draft.matches, &draft.keys)
    });
    match same {
        Some(it) => it.listeners.extend(draft.listeners),
        None => drafts.push(draft),
    }
}

fn named(mut drafts: Vec<Draft>, rules: &[Rule], says_listener: bool) -> Vec<Entry> {
    drafts.sort_by_key(|draft| draft.rule);
    let mut taken = BTreeSet::new();
    let entries = drafts.into_iter().map(|draft| {
        let rule = &rules[draft.rule];
        let mut names =
            std::iter::once(name_of(&rule.name)).chain((2..).map(|number| {
                name_of(&format!("{}-{number}", rule.name.chars().take(90).collect::<String>()))
            }));
        let name = names.find(|name| taken.insert(name.clone())).unwrap_or_default();
        let mut keys = Keys::new();
        if says_listener {
            let listener = match draft.listeners.as_slice() {
                [one] => Out::text(one),
                all => Out::texts(all.to_vec()),
            };
            keys.push(("listener".into(), listener));
        }
        keys.push(("match".into(), written(&draft.matches, &draft.hosts)));
        if draft.priority != 0 {
            keys.push(("priority".into(), Out::plain(draft.priority)));
        }
        keys.extend(draft.keys);
        Entry { name, remark: rule.remark.clone(), keys }
    });
    entries.collect()
}

fn written(matches: &Match, hosts: &[Pattern]) -> Out {
    let mut keys = Keys::new();
    let path = Out::text(matches.path.written());
    let key = match &matches.path {
        Path::Regex(_) | Path::Demoted(..) => "regex",
        Path::Segments(_, End::Prefix) => "prefix",
        Path::Segments(..) => "path",
    };
    keys.push((key.into(), path));
    let hosts = hosts.iter().filter_map(Pattern::written).collect::<Vec<_>>();
    match hosts.as_slice() {
        [] => {}
        [host] => keys.push(("host".into(), Out::text(host))),
        hosts => keys.push(("host".into(), Out::texts(hosts.to_vec()))),
    }
    if !matches.methods.is_empty() {
        keys.push(("methods".into(), Out::texts(matches.methods.iter().map(ToString::to_string))));
    }
    for (key, wanted) in [("headers", &matches.headers), ("query", &matches.query)] {
        if !wanted.is_empty() {
            let one = |wanted: &Wanted| match wanted {
                Wanted::Exactly(text) => Out::text(text.to_string()),
                Wanted::Present => Out::map([("present", Out::plain(true))]),
            };
            keys.push((
                key.into(),
                Out::map(wanted.iter().map(|(name, wanted)| (name.to_string(), one(wanted)))),
            ));
        }
    }
    Out::Map(keys)
}
