//! Finds what the rules of rank leave open.

use std::{collections::BTreeMap, sync::Arc};

use http::Method;

use super::{
    entry::{End, Entry, Path},
    error::Ambiguity,
    normalize::is_unreserved,
    rank::compare_conditions,
    regex_prefix::literal_prefix,
    trie::Trie,
};
use crate::config::checked::{Segment, ValueMatch};

/// For each route and host the first one before it that it clashes with, so there are never more than
/// that many.
///
/// Equal rank and a common request need the same host pattern, the same shape of path and the same end
/// of it: just what stands in one list of a trie.
pub(super) fn find<'t>(entries: &[Entry], tries: impl Iterator<Item = (String, &'t Trie)>) -> Vec<Ambiguity> {
    let mut found = BTreeMap::new();
    for (host, trie) in tries {
        for rivals in trie.rivals() {
            let equal = |&a: &usize, &b: &usize| compare_conditions(&entries[a], &entries[b]).0.is_eq();
            for equals in rivals.chunk_by(equal) {
                for (position, &second) in equals.iter().enumerate() {
                    let clash = |&&first: &&usize| overlap(&entries[first], &entries[second]);
                    if let Some(&first) = equals[..position].iter().find(clash) {
                        found
                            .entry((first, second))
                            .or_insert_with(|| describe(&entries[first], &entries[second], &host));
                    }
                }
            }
        }
    }
    found.into_values().collect()
}

fn describe(first: &Entry, second: &Entry, host: &str) -> Ambiguity {
    Ambiguity {
        first: Arc::clone(&first.name),
        second: Arc::clone(&second.name),
        example: example(first, second, host),
    }
}

/// Whether two routes of one list can match the same request.
fn overlap(a: &Entry, b: &Entry) -> bool {
    common_method(a, b).is_some()
        && compatible(&a.headers, &b.headers)
        && compatible(&a.query, &b.query)
        && match (&a.path, &b.path) {
            (Path::Regex(a), Path::Regex(b)) => {
                let (a, b) = (literal_prefix(a.as_str()), literal_prefix(b.as_str()));
                a.starts_with(&b) || b.starts_with(&a)
            }
            _ => true,
        }
}

fn common_method<'e>(a: &'e Entry, b: &'e Entry) -> Option<&'e Method> {
    if a.methods.is_empty() && b.methods.is_empty() {
        return Some(&Method::GET);
    }
    let of = |one: &'e Entry, other: &Entry| one.methods.iter().find(|method| other.takes(method));
    of(a, b).or_else(|| of(b, a))
}

/// No name that both want with different values: a value has to be there alone, so never both.
fn compatible<N: PartialEq>(a: &[(N, ValueMatch)], b: &[(N, ValueMatch)]) -> bool {
    let clash = |(name, value): &(N, ValueMatch), (other, other_value): &(N, ValueMatch)| {
        name == other
            && matches!((value, other_value), (ValueMatch::Exact(a), ValueMatch::Exact(b)) if a != b)
    };
    !a.iter().any(|a| b.iter().any(|b| clash(a, b)))
}

/// `GET http://host/path?query -H 'name: value'`.
fn example(a: &Entry, b: &Entry, host: &str) -> Option<String> {
    let method = common_method(a, b)?;
    let path = example_path(&a.path)?;
    let mut line = format!("{method} http://{host}{path}");
    for (index, (name, value)) in values(&a.query, &b.query).enumerate() {
        let separator = if index == 0 { "?" } else { "&" };
        line.extend([separator, &encode(name), "=", &encode(value)]);
    }
    for (name, value) in values(&a.headers, &b.headers) {
        line.extend([" -H '", name.as_str(), ": ", value, "'"]);
    }
    Some(line)
}

fn example_path(path: &Path) -> Option<String> {
    let Path::Segments { segments, end } = path else { return None };
    let mut text = String::new();
    for segment in &segments[..] {
        text.push('/');
        text.push_str(match segment {
            Segment::Literal(literal) => literal,
            Segment::Param(name) | Segment::Rest(name) => name,
        });
    }
    match end {
        End::Rest => text.push_str("/rest"),
        End::Prefix if text.is_empty() => text.push('/'),
        End::Whole | End::Prefix => {}
    }
    Some(text)
}

/// All names that either wants, once, with a value that pleases both.
fn values<'e, N: PartialEq>(
    a: &'e [(N, ValueMatch)],
    b: &'e [(N, ValueMatch)],
) -> impl Iterator<Item = (&'e N, &'e str)> {
    let (exact, present): (Vec<_>, Vec<_>) =
        a.iter().chain(b).partition(|(_, value)| matches!(value, ValueMatch::Exact(_)));
    let mut names: Vec<&N> = Vec::new();
    exact.into_iter().chain(present).filter_map(move |(name, value)| {
        if names.contains(&name) {
            return None;
        }
        names.push(name);
        let ValueMatch::Exact(text) = value else { return Some((name, "any")) };
        Some((name, &**text))
    })
}

fn encode(text: &str) -> String {
    let one = |byte: u8| match byte {
        _ if is_unreserved(byte) => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(one).collect()
}
