//! What the path of a request held where the route has names.

use std::{ops::Range, sync::Arc};

use crate::config::checked::{Name, Template, TemplatePart};

/// The most captures a route can have.
pub const MAX_CAPTURES: usize = 8;

/// Where in the path the captures are; the path itself stays with the caller.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Captures {
    names: Option<Arc<[Name]>>, // of the route; `None` if it has none, so that a hit counts nothing
    ranges: [Option<(u32, u32)>; MAX_CAPTURES],
    prefix: Option<u32>, // where a `prefix:` ended
}

impl Captures {
    /// Nothing.
    pub const NONE: &'static Self = &Self { names: None, ranges: [None; MAX_CAPTURES], prefix: None };

    pub(super) fn new(names: Option<&Arc<[Name]>>) -> Self {
        Self { names: names.cloned(), ranges: [None; MAX_CAPTURES], prefix: None }
    }

    pub(super) fn set(&mut self, index: usize, range: Range<usize>) {
        if let Some(slot) = self.ranges.get_mut(index) {
            *slot = Some((narrow(range.start), narrow(range.end)));
        }
    }

    pub(super) fn set_prefix(&mut self, end: usize) {
        self.prefix = Some(narrow(end));
    }

    /// Whether the route has no names.
    pub const fn is_empty(&self) -> bool {
        self.names.is_none()
    }

    /// What `name` captured. `path` is the one that was matched; a regex group may have captured nothing.
    pub fn get<'p>(&self, path: &'p str, name: &str) -> Option<&'p str> {
        self.iter(path).find_map(|(known, value)| (&**known == name).then_some(value))
    }

    /// All that was captured, in the order of the path.
    pub fn iter<'p>(&self, path: &'p str) -> impl Iterator<Item = (&Name, &'p str)> {
        let names = self.names.iter().flat_map(|names| names.iter());
        names.zip(&self.ranges).filter_map(move |(name, range)| {
            let (start, end) = (*range)?;
            Some((name, path.get(start as usize..end as usize)?))
        })
    }

    /// The path without the prefix that a `prefix:` route matched: never empty, `/` if nothing is left.
    /// `None` on other routes.
    pub fn below_prefix<'p>(&self, path: &'p str) -> Option<&'p str> {
        let below = path.get(self.prefix? as usize..)?;
        Some(if below.is_empty() { "/" } else { below })
    }
}

/// Puts the captures of a matched path into a template. A capture that is not there becomes nothing; the
/// check of the configuration sees to it that only a regex group can be missing.
///
/// Captures are put in as they stand in the normalised path, so what was encoded stays encoded.
pub fn render(template: &Template, path: &str, captures: &Captures) -> String {
    let parts = template.0.iter().map(|part| match part {
        TemplatePart::Text(text) => &**text,
        TemplatePart::Capture(name) => captures.get(path, name).unwrap_or_default(),
    });
    parts.collect()
}

/// A path of 4 GiB does not get here; if it did, its captures would be lost, not wrong.
fn narrow(offset: usize) -> u32 {
    u32::try_from(offset).unwrap_or(u32::MAX)
}
