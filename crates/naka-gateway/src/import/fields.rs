//! The fields of a resource: what is taken, what is left, and what nobody knows.
//!
//! Every field is either taken by who knows what becomes of it, or it ends up in the report. Nothing is passed over.

use std::time::Duration;

use super::report::Findings;
use crate::config::{Node, Span, Value, quoted};

/// One map of a resource.
pub(super) struct Fields<'a, 't> {
    pub(super) span: Span,
    /// The keys that lead here.
    path: String,
    entries: Vec<Field<'a, 't>>,
}

struct Field<'a, 't> {
    key: &'a str,
    at: Span,
    value: &'a Node<'t>,
    is_taken: bool,
}

/// A piece of text, and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Said {
    pub(super) text: String,
    pub(super) at: Span,
}

impl<'a, 't> Fields<'a, 't> {
    /// Those of a map. What is none is reported, and has no fields.
    pub(super) fn of(node: &'a Node<'t>, path: impl Into<String>, findings: &mut Findings) -> Self {
        let path = path.into();
        let entries = match &node.value {
            Value::Map(entries) => {
                let field = |(key, value): &'a (crate::config::Key<'t>, Node<'t>)| Field {
                    key: &key.text,
                    at: key.span,
                    value,
                    is_taken: false,
                };
                entries.iter().map(field).collect()
            }
            Value::Scalar(_) if node.is_null() => Vec::new(),
            _ => {
                let message = format!("`{path}`: expected a map, found {}", node.shape());
                findings.error(node.span, message, "write it as its API says");
                Vec::new()
            }
        };
        Self { span: node.span, path, entries }
    }

    /// Of nothing.
    pub(super) fn none(span: Span) -> Self {
        Self { span, path: String::new(), entries: Vec::new() }
    }

    /// Whether nothing is said.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// A value that is taken care of; `null` is none.
    pub(super) fn take(&mut self, key: &str) -> Option<&'a Node<'t>> {
        let field = self.entries.iter_mut().find(|field| field.key == key)?;
        field.is_taken = true;
        Some(field.value).filter(|value| !value.is_null())
    }

    /// A value, for whoever wants to know without taking care of it.
    pub(super) fn peek(&self, key: &str) -> Option<&'a Node<'t>> {
        self.entries.iter().find(|field| field.key == key).map(|field| field.value)
    }

    /// Where a key stands, whoever takes it.
    pub(super) fn at(&self, key: &str) -> Span {
        self.entries.iter().find(|field| field.key == key).map_or(self.span, |field| field.at)
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.entries.iter().any(|field| field.key == key && !field.value.is_null())
    }

    pub(super) fn said(&mut self, key: &str, findings: &mut Findings) -> Option<Said> {
        let path = self.path_of(key);
        said(self.take(key)?, &path, findings)
    }

    pub(super) fn text(&mut self, key: &str, findings: &mut Findings) -> Option<String> {
        self.said(key, findings).map(|said| said.text)
    }

    pub(super) fn is_true(&mut self, key: &str, findings: &mut Findings) -> bool {
        self.text(key, findings).is_some_and(|text| text == "true")
    }

    pub(super) fn number(&mut self, key: &str, findings: &mut Findings) -> Option<u64> {
        let said = self.said(key, findings)?;
        let number = said.text.parse().ok();
        if number.is_none() {
            let message = format!("`{}`: {} is no whole number", self.path_of(key), quoted(&said.text));
            findings.error(said.at, message, "write a whole number");
        }
        number
    }

    /// A duration as these APIs write it: `1.5s`, `1m30s`, `500ms`.
    pub(super) fn duration(&mut self, key: &str, findings: &mut Findings) -> Option<Duration> {
        let said = self.said(key, findings)?;
        let duration = duration(&said.text);
        if duration.is_none() {
            let message = format!("`{}`: {} is no duration", self.path_of(key), quoted(&said.text));
            findings.error(said.at, message, "write `30s`, `500ms` or `1m30s`");
        }
        duration
    }

    /// The map under a key.
    pub(super) fn map(&mut self, key: &str, findings: &mut Findings) -> Option<Fields<'a, 't>> {
        let path = self.path_of(key);
        let node = self.take(key)?;
        Some(Fields::of(node, path, findings))
    }

    /// The items of the list under a key.
    pub(super) fn list(&mut self, key: &str, findings: &mut Findings) -> &'a [Node<'t>] {
        let path = self.path_of(key);
        match self.take(key).map(|node| (node, &node.value)) {
            None => &[],
            Some((_, Value::Seq(items))) => items,
            Some((node, _)) => {
                let message = format!("`{path}`: expected a list, found {}", node.shape());
                findings.error(node.span, message, "write it as its API says");
                &[]
            }
        }
    }

    /// The maps of the list under a key.
    pub(super) fn maps(&mut self, key: &str, findings: &mut Findings) -> Vec<Fields<'a, 't>> {
        let path = self.path_of(key);
        let items = self.list(key, findings).iter().enumerate();
        items.map(|(index, node)| Fields::of(node, format!("{path}[{index}]"), findings)).collect()
    }

    /// The texts of the list under a key.
    pub(super) fn texts(&mut self, key: &str, findings: &mut Findings) -> Vec<Said> {
        let path = self.path_of(key);
        self.list(key, findings).iter().filter_map(|node| said(node, &path, findings)).collect()
    }

    /// Names with a text each, as labels are.
    pub(super) fn pairs(&mut self, key: &str, findings: &mut Findings) -> Vec<(String, Said)> {
        let Some(inner) = self.map(key, findings) else { return Vec::new() };
        let pairs = inner.entries.iter().filter_map(|field| {
            let path = inner.path_of(field.key);
            Some((field.key.to_owned(), said(field.value, &path, findings)?))
        });
        pairs.collect()
    }

    /// All of them, taken.
    pub(super) fn drain(&mut self) -> Vec<(&'a str, Span, &'a Node<'t>)> {
        self.entries.iter_mut().for_each(|field| field.is_taken = true);
        self.entries.iter().map(|field| (field.key, field.at, field.value)).collect()
    }

    /// These say nothing about requests.
    pub(super) fn pass(&mut self, keys: &[&str]) {
        for key in keys {
            self.take(key);
        }
    }

    /// If it is said, it is left out, and this is why and what to do.
    pub(super) fn leave(&mut self, key: &str, why: &str, help: &str, findings: &mut Findings) {
        if self.take(key).is_some() {
            findings.left_out(self.at(key), format!("`{}`: {why}", self.path_of(key)), help);
        }
    }

    /// If it is said, it takes effect in another way.
    pub(super) fn change(&mut self, key: &str, how: &str, help: &str, findings: &mut Findings) {
        if self.has(key) {
            findings.changed(self.at(key), format!("`{}`: {how}", self.path_of(key)), help);
        }
    }

    /// What nobody has taken is a field that does not exist there.
    pub(super) fn finish(self, findings: &mut Findings) {
        for field in self.entries.iter().filter(|field| !field.is_taken) {
            let message = format!("`{}` is no field that is known there", self.path_of(field.key));
            findings.error(
                field.at,
                message,
                "it has no effect where it came from either, or is newer than this importer: look where it belongs, or take it away",
            );
        }
    }
}

fn said(node: &Node<'_>, path: &str, findings: &mut Findings) -> Option<Said> {
    if let Value::Scalar(scalar) = &node.value {
        return Some(Said { text: scalar.text.to_string(), at: node.span });
    }
    let message = format!("`{path}`: expected text, found {}", node.shape());
    findings.error(node.span, message, "write it as its API says");
    None
}

/// `1h2m3.5s4ms`: each unit once or more, to whole milliseconds. `0s` is none at all, which says "no limit".
pub(super) fn duration(text: &str) -> Option<Duration> {
    const UNITS: [(&str, f64); 6] =
        [("ms", 1.0), ("us", 0.001), ("ns", 0.000_001), ("h", 3_600_000.0), ("m", 60_000.0), ("s", 1000.0)];
    let (mut rest, mut millis) = (text, 0.0);
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let (unit, factor) = UNITS.iter().find(|(unit, _)| rest.starts_with(unit))?;
        millis += number * factor;
        rest = &rest[unit.len()..];
    }
    let is_sane = (0.0..=3_650.0 * 86_400_000.0).contains(&millis);
    // Rounded up, so that what is shorter than a millisecond is not "no limit".
    is_sane.then(|| Duration::from_secs_f64((millis.ceil()) / 1000.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_these_apis_write_them() {
        let millis = |text| duration(text).map(|it| it.as_millis());
        assert_eq!(millis("30s"), Some(30_000));
        assert_eq!(millis("1.5s"), Some(1500));
        assert_eq!(millis("1h30m10s500ms"), Some(5_410_500));
        assert_eq!(millis("500us"), Some(1));
        assert_eq!(millis("0s"), Some(0));
        for wrong in ["", "5", "s", "1.2.3s", "-1s", "5d", "1s5", "99999999999h"] {
            assert_eq!(millis(wrong), None, "{wrong}");
        }
    }
}
