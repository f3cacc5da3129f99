//! Hosts as patterns: which of two is more specific, and what both have.

use crate::config::{Scalar as _, Text, checked::HostPattern};

/// A pattern of hosts; the lesser one is more specific.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Pattern {
    Exact(String),
    /// `*.example` is kept as `.example`: one or more labels before it.
    Wildcard(String),
    Any,
}

impl Pattern {
    /// What the grammar takes for a host; `*` is any.
    pub(super) fn read(text: &str) -> Option<Self> {
        if text == "*" {
            return Some(Self::Any);
        }
        match HostPattern::parse(Text { text, plain: false }).ok()? {
            HostPattern::Exact(host) => Some(Self::Exact(host.to_string())),
            HostPattern::Wildcard(suffix) => Some(Self::Wildcard(suffix.to_string())),
        }
    }

    pub(super) fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Any, _) => true,
            (Self::Wildcard(suffix), Self::Exact(host)) => {
                host.len() > suffix.len() && host.ends_with(suffix.as_str())
            }
            (Self::Wildcard(suffix), Self::Wildcard(other)) => other.ends_with(suffix.as_str()),
            (Self::Exact(host), Self::Exact(other)) => host == other,
            _ => false,
        }
    }

    pub(super) fn intersection(&self, other: &Self) -> Option<Self> {
        if self.covers(other) { Some(other.clone()) } else { other.covers(self).then(|| self.clone()) }
    }

    /// How many characters of a host it names, so that more is more specific.
    pub(super) fn specificity(&self) -> (bool, usize) {
        match self {
            Self::Exact(host) => (true, host.len()),
            Self::Wildcard(suffix) => (false, suffix.len()),
            Self::Any => (false, 0),
        }
    }

    /// As it is written; nothing, if it is any.
    pub(super) fn written(&self) -> Option<String> {
        match self {
            Self::Exact(host) => Some(host.clone()),
            Self::Wildcard(suffix) => Some(format!("*{suffix}")),
            Self::Any => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_have_in_common_the_more_specific_one() {
        let read = |text| Pattern::read(text).unwrap();
        let common = |a, b| read(a).intersection(&read(b));
        assert_eq!(common("*.example", "a.b.example"), Some(read("a.b.example")));
        assert_eq!(common("*.example", "*.b.example"), Some(read("*.b.example")));
        assert_eq!(common("*.example", "example"), None);
        assert_eq!(common("*", "*.example"), Some(read("*.example")));
        assert_eq!(common("a.example", "b.example"), None);
        assert_eq!(common("*.a.example", "*.b.example"), None);
        for wrong in ["", "a*", "*a.example", "a.*.example", "a.example:80", "ns/a.example"] {
            assert_eq!(Pattern::read(wrong), None, "{wrong}");
        }
        assert!(read("a.example").specificity() > read("*.long.name.example").specificity());
    }
}
