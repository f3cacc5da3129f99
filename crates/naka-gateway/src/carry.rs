//! What outlives a generation, by identity: the state of policies, balancers and pools.
//!
//! The identity is the key in the YAML map (and the route or upstream, for a policy of narrower
//! scope), so moving things between files or touching another route never resets anything. What
//! is gone from the configuration is kept as a **tombstone** until it could have no history left:
//! delete-and-re-add refills nobody.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use tokio::time::Instant;

/// How many tombstones one kind of state may have; beyond it the oldest are dropped, and reported.
const TOMBSTONES: usize = 1024;

/// State of one kind, by identity. Cloning it copies handles, not state.
#[derive(Clone, Debug)]
pub struct Carried<C, H> {
    kind: &'static str,
    kept: BTreeMap<Arc<str>, Kept<C, H>>,
}

#[derive(Clone, Debug)]
struct Kept<C, H> {
    config: C,
    handle: H,
    /// Since when no configuration names it.
    gone: Option<Instant>,
}

impl<C, H> Carried<C, H> {
    /// Nothing yet.
    pub const fn new(kind: &'static str) -> Self {
        Self { kind, kept: BTreeMap::new() }
    }

    /// Everything that a configuration names, or that a tombstone keeps.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &H)> {
        self.kept.iter().map(|(identity, kept)| (identity, &kept.handle))
    }
}

impl<C: Clone + PartialEq, H: Clone> Carried<C, H> {
    /// Goes from the state of one configuration to that of the next. Nothing in `self` changes, and
    /// no state does: the next configuration may still be refused.
    ///
    /// `make` makes a handle for what is new, `change` one over the same state for what is there
    /// under another configuration, and `history` says how long a handle's state means something.
    #[must_use]
    pub fn next(
        &self,
        wanted: BTreeMap<Arc<str>, C>,
        now: Instant,
        report: &mut Vec<Change>,
        steps: &Steps<'_, C, H>,
    ) -> Self {
        let mut next = Self::new(self.kind);
        for (identity, config) in wanted {
            let (handle, what) = match self.kept.get(&identity) {
                None => ((steps.make)(&identity, &config), What::Created),
                Some(old) if old.config == config && old.gone.is_none() => (old.handle.clone(), What::Kept),
                Some(old) if old.config == config => (old.handle.clone(), What::Restored),
                Some(old) => ((steps.change)(&old.handle, &identity, &config), What::Migrated),
            };
            report.push(Change { kind: self.kind, identity: Arc::clone(&identity), what });
            next.kept.insert(identity, Kept { config, handle, gone: None });
        }
        self.bury(&mut next, now, report, steps);
        next
    }

    fn bury(&self, next: &mut Self, now: Instant, report: &mut Vec<Change>, steps: &Steps<'_, C, H>) {
        let mut gone: Vec<_> =
            self.kept.iter().filter(|(identity, _)| !next.kept.contains_key(*identity)).collect();
        gone.sort_by_key(|(_, kept)| std::cmp::Reverse(kept.gone.unwrap_or(now)));
        for (place, (identity, kept)) in gone.into_iter().enumerate() {
            let since = kept.gone.unwrap_or(now);
            let has_history = now.saturating_duration_since(since) < (steps.history)(&kept.handle);
            let is_kept = has_history && place < TOMBSTONES;
            if kept.gone.is_none() || !is_kept {
                let what = if is_kept { What::Buried } else { What::Dropped };
                report.push(Change { kind: self.kind, identity: Arc::clone(identity), what });
            }
            if is_kept {
                next.kept.insert(Arc::clone(identity), Kept { gone: Some(since), ..kept.clone() });
            }
        }
    }

    /// The handle of what the configuration names.
    pub fn get(&self, identity: &str) -> Option<&H> {
        self.kept.get(identity).filter(|kept| kept.gone.is_none()).map(|kept| &kept.handle)
    }
}

/// How one kind of state is made, changed and forgotten.
pub struct Steps<'a, C, H> {
    /// For what is new.
    pub make: &'a dyn Fn(&Arc<str>, &C) -> H,
    /// Over the same state.
    pub change: &'a dyn Fn(&H, &Arc<str>, &C) -> H,
    /// How long state without a name means something.
    pub history: &'a dyn Fn(&H) -> Duration,
}

impl<C, H> fmt::Debug for Steps<'_, C, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Steps")
    }
}

/// One line of the reload report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// `rate_limit`, `bulkhead`, …
    pub kind: &'static str,
    /// Its identity.
    pub identity: Arc<str>,
    /// What happened to it.
    pub what: What,
}

/// What happened to a piece of state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    /// Untouched.
    Kept,
    /// The same state under another configuration.
    Migrated,
    /// New.
    Created,
    /// It came back before its tombstone was cleared: with all its history.
    Restored,
    /// No longer named; kept as a tombstone until its history has run out.
    Buried,
    /// Forgotten.
    Dropped,
}

impl What {
    /// The word in the report.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::Migrated => "migrated",
            Self::Created => "created",
            Self::Restored => "restored",
            Self::Buried => "buried",
            Self::Dropped => "dropped",
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.kind, self.identity, self.what.word())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(
        carried: &Carried<u32, u32>,
        wanted: &[(&str, u32)],
        now: Instant,
    ) -> (Carried<u32, u32>, Vec<String>) {
        let wanted = wanted.iter().map(|(name, config)| ((*name).into(), *config)).collect();
        let steps = Steps {
            make: &|_, config| *config,
            change: &|handle, _, config| handle * 100 + config,
            history: &|_| Duration::from_mins(1),
        };
        let mut report = Vec::new();
        let next = carried.next(wanted, now, &mut report, &steps);
        (next, report.iter().map(|change| format!("{} {}", change.identity, change.what.word())).collect())
    }

    #[tokio::test(start_paused = true)]
    async fn state_is_kept_migrated_buried_restored_and_in_the_end_dropped() {
        let now = Instant::now();
        let (one, report) = step(&Carried::new("test"), &[("a", 1), ("b", 2)], now);
        assert_eq!(report, ["a created", "b created"]);
        let (two, report) = step(&one, &[("a", 1), ("b", 3)], now);
        assert_eq!((report, two.get("b")), (vec!["a kept".into(), "b migrated".into()], Some(&203)));
        let (three, report) = step(&two, &[("a", 1)], now);
        assert_eq!((report, three.get("b")), (vec!["a kept".into(), "b buried".into()], None));
        let soon = now + Duration::from_secs(59);
        let (four, report) = step(&three, &[("a", 1), ("b", 3)], soon);
        assert_eq!((report, four.get("b")), (vec!["a kept".into(), "b restored".into()], Some(&203)));
        let (five, report) = step(&three, &[("a", 1)], now + Duration::from_mins(1));
        assert_eq!((report, five.iter().count()), (vec!["a kept".to_owned(), "b dropped".into()], 1));
        assert_eq!(two.get("b"), Some(&203), "the state that is left behind has not changed");
    }

    #[tokio::test(start_paused = true)]
    async fn tombstones_are_bounded() {
        let now = Instant::now();
        let names = (0..3000).map(|i| format!("n{i}")).collect::<Vec<_>>();
        let wanted = names.iter().map(|name| (name.as_str(), 1)).collect::<Vec<_>>();
        let (full, _) = step(&Carried::new("test"), &wanted, now);
        let (empty, report) = step(&full, &[], now);
        assert_eq!((empty.iter().count(), report.len()), (TOMBSTONES, 3000));
    }
}
