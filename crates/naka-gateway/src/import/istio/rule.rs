//! Rules over who calls and what: settled where all is known, and written as `authorize`.

use std::collections::BTreeSet;

use super::policies::{Paths, Policy};
use crate::{
    config::Span,
    import::{
        order::{Common, Match},
        out::{Keys, Out},
        report::Findings,
    },
};

/// What has to hold, but for whoever is not known yet.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Test {
    Yes,
    No,
    /// A rule as it is written.
    Is(Out),
    All(Vec<Test>),
    Any(Vec<Test>),
    Not(Box<Test>),
    /// Its path is the one at this place.
    Path(usize),
    /// By the certificate of whoever calls.
    Principal(String),
    /// By a token that was verified; never, where none is looked at.
    Token(Out),
    /// Cannot be said here; it is told.
    Unsaid,
}

/// Who calls, at one listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Caller {
    /// Whoever its certificate says.
    Certificate,
    /// Always this one: the gateway itself.
    Known(String),
    /// Nobody is known.
    Nobody,
}

/// What is asked at one route, and who asks.
pub(super) struct Asked<'p> {
    pub(super) policies: Vec<&'p Policy>,
    pub(super) caller: Caller,
    /// A token is looked at.
    pub(super) has_token: bool,
}

/// A piece of a route, and what it takes to be let in there.
pub(super) struct Piece {
    pub(super) matches: Match,
    pub(super) keys: Keys,
    /// Nobody is.
    pub(super) is_shut: bool,
    /// Somebody without a token may be.
    pub(super) is_open: bool,
}

/// Cuts a match into pieces, so that of each it is known which of the paths it has. The first that matches counts.
pub(super) fn pieces(
    matches: &Match,
    paths: &Paths,
    asked: &Asked<'_>,
    resource: Span,
    findings: &mut Findings,
) -> Vec<Piece> {
    let mut used = BTreeSet::new();
    asked.policies.iter().for_each(|policy| policy.test.paths(&mut used));
    let mut pieces = vec![(matches.clone(), BTreeSet::new(), BTreeSet::new())];
    for number in used {
        let named = Match { path: paths[number].clone(), ..Match::all() };
        let mut next = Vec::new();
        for (matches, mut has, mut unknown) in pieces {
            match matches.intersection(&named) {
                Common::None => {}
                Common::Match(common) if common == matches => _ = has.insert(number),
                Common::Match(common) => {
                    let mut with: BTreeSet<usize> = has.clone();
                    with.insert(number);
                    next.push((common, with, unknown.clone()));
                }
                Common::Unknown => {
                    findings.error(resource, format!("which of its requests are for `{}` is not known of a regular expression: whoever depends on it is kept out", paths[number].written()), "match by `prefix` or `exact`");
                    unknown.insert(number);
                }
            }
            next.push((matches, has, unknown));
        }
        pieces = next;
    }
    let mut done: Vec<Piece> = Vec::new();
    for (matches, has, unknown) in pieces.into_iter().rev() {
        let at = At { caller: &asked.caller, has_token: asked.has_token, has: &has, unknown: &unknown };
        let test = at.rule(&asked.policies);
        let is_open = test.may_let_in_nobody(asked.caller == Caller::Certificate);
        let (keys, is_shut) = match test {
            Test::Yes => (Keys::new(), false),
            Test::No | Test::Unsaid => (Keys::new(), true),
            test => (vec![("authorize".to_owned(), test.written())], false),
        };
        // What is no other than what is behind it needs no piece of its own.
        let same = done.last().is_some_and(|it: &Piece| {
            it.keys == keys && it.is_shut == is_shut && it.matches.covers(&matches)
        });
        if !same {
            done.push(Piece { matches, keys, is_shut, is_open });
        }
    }
    done.reverse();
    done
}

struct At<'a> {
    caller: &'a Caller,
    has_token: bool,
    has: &'a BTreeSet<usize>,
    unknown: &'a BTreeSet<usize>,
}

impl At<'_> {
    fn rule(&self, policies: &[&Policy]) -> Test {
        let denies = policies.iter().filter(|it| it.denies).map(|it| self.settle(&it.test, true));
        let denied = any(denies.collect());
        let allows = policies.iter().filter(|it| !it.denies).map(|it| self.settle(&it.test, false));
        let allows: Vec<_> = allows.collect();
        let allowed = if allows.is_empty() { Test::Yes } else { any(allows) };
        all(vec![not(denied), allowed])
    }

    /// With all that is known. `otherwise` stands for what cannot be said.
    fn settle(&self, test: &Test, otherwise: bool) -> Test {
        let truth = |it: bool| if it { Test::Yes } else { Test::No };
        match test {
            Test::All(tests) => all(tests.iter().map(|it| self.settle(it, otherwise)).collect()),
            Test::Any(tests) => any(tests.iter().map(|it| self.settle(it, otherwise)).collect()),
            Test::Not(test) => not(self.settle(test, !otherwise)),
            Test::Path(number) if self.unknown.contains(number) => truth(otherwise),
            Test::Path(number) => truth(self.has.contains(number)),
            Test::Unsaid => truth(otherwise),
            Test::Token(rule) => {
                if self.has_token {
                    Test::Is(rule.clone())
                } else {
                    Test::No
                }
            }
            Test::Principal(name) => match self.caller {
                Caller::Nobody => truth(otherwise),
                Caller::Known(known) => truth(fits(name, known)),
                Caller::Certificate if name == "*" => {
                    Test::Is(Out::map([("authenticated", Out::plain(true))]))
                }
                Caller::Certificate if name.contains('*') => truth(otherwise),
                Caller::Certificate => {
                    Test::Is(Out::map([("identity", Out::texts([format!("spiffe://{name}")]))]))
                }
            },
            known => known.clone(),
        }
    }
}

/// `*`, `prefix*`, `*suffix`, or the whole.
fn fits(pattern: &str, text: &str) -> bool {
    match (pattern.strip_prefix('*'), pattern.strip_suffix('*')) {
        (Some(""), _) => true,
        (Some(suffix), _) => text.ends_with(suffix),
        (None, Some(prefix)) => text.starts_with(prefix),
        (None, None) => pattern == text,
    }
}

fn all(tests: Vec<Test>) -> Test {
    let mut left = Vec::new();
    for test in tests {
        match test {
            Test::Yes => {}
            Test::No => return Test::No,
            Test::All(inner) => left.extend(inner),
            test => left.push(test),
        }
    }
    match left.len() {
        0 => Test::Yes,
        1 => left.remove(0),
        _ => Test::All(left),
    }
}

fn any(tests: Vec<Test>) -> Test {
    let mut left = Vec::new();
    for test in tests {
        match test {
            Test::No => {}
            Test::Yes => return Test::Yes,
            Test::Any(inner) => left.extend(inner),
            test => left.push(test),
        }
    }
    left.dedup();
    match left.len() {
        0 => Test::No,
        1 => left.remove(0),
        _ => Test::Any(merged(left)),
    }
}

/// Lists of the same kind are one list: `{method: [GET, POST]}`.
fn merged(tests: Vec<Test>) -> Vec<Test> {
    let mut left: Vec<Test> = Vec::new();
    for test in tests {
        let list = |test: &Test| match test {
            Test::Is(Out::Map(keys)) => match keys.as_slice() {
                [(key, Out::List(items))] => Some((key.clone(), items.clone())),
                _ => None,
            },
            _ => None,
        };
        if let Some((key, items)) = list(&test)
            && let Some(there) = left.iter_mut().find(|it| list(it).is_some_and(|(other, _)| other == key))
            && let Test::Is(Out::Map(keys)) = there
            && let Some((_, Out::List(known))) = keys.first_mut()
        {
            known.extend(items);
            continue;
        }
        left.push(test);
    }
    left
}

fn not(test: Test) -> Test {
    match test {
        Test::Yes => Test::No,
        Test::No => Test::Yes,
        Test::Not(inner) => *inner,
        test => Test::Not(Box::new(test)),
    }
}

impl Test {
    pub(super) fn paths(&self, found: &mut BTreeSet<usize>) {
        match self {
            Self::Path(number) => _ = found.insert(*number),
            Self::All(tests) | Self::Any(tests) => tests.iter().for_each(|it| it.paths(found)),
            Self::Not(test) => test.paths(found),
            _ => {}
        }
    }

    /// Of one that is settled.
    fn written(&self) -> Out {
        let list = |tests: &[Self]| Out::List(tests.iter().map(Self::written).collect());
        match self {
            Self::Is(rule) | Self::Token(rule) => rule.clone(),
            Self::All(tests) => Out::map([("all", list(tests))]),
            Self::Any(tests) if tests.len() == 1 => tests[0].written(),
            Self::Any(tests) => Out::map([("any", list(tests))]),
            Self::Not(test) => Out::map([("not", test.written())]),
            // Settled ones have none of these; whoever is nobody is let in nowhere.
            Self::Yes | Self::No | Self::Path(_) | Self::Principal(_) | Self::Unsaid => {
                Out::map([("identity", Out::texts([""]))])
            }
        }
    }

    /// Whether somebody without a token may pass one that is settled; `is_shown`: a certificate says who it is all the same.
    fn may_let_in_nobody(&self, is_shown: bool) -> bool {
        match self {
            Self::All(tests) => tests.iter().all(|it| it.may_let_in_nobody(is_shown)),
            Self::Any(tests) => tests.iter().any(|it| it.may_let_in_nobody(is_shown)),
            // What is not known of somebody is not known under `not`, either.
            Self::Not(test) => !test.asks_who(is_shown),
            test => !test.asks_who(is_shown),
        }
    }

    fn asks_who(&self, is_shown: bool) -> bool {
        match self {
            Self::All(tests) | Self::Any(tests) => tests.iter().any(|it| it.asks_who(is_shown)),
            Self::Not(test) => test.asks_who(is_shown),
            Self::Is(rule) => rule.asks_who(is_shown),
            _ => false,
        }
    }
}

impl Out {
    /// Of a rule: whether it asks for what a token says, or what is known of somebody at all.
    fn asks_who(&self, is_shown: bool) -> bool {
        let Self::Map(keys) = self else { return false };
        keys.iter().any(|(key, value)| match (key.as_str(), value) {
            ("all", Self::List(rules)) => rules.iter().any(|it| it.asks_who(is_shown)),
            ("claim", _) => true,
            ("identity" | "authenticated", _) => !is_shown,
            _ => false,
        })
    }
}
