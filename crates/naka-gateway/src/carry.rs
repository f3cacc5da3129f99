//! What outlives a generation, by identity: the state of policies, balancers and pools.
//!
//! The identity is the key in the YAML map (and the route or upstream, for a policy of narrower
//! scope), so moving things between files or touching another route never resets anything. What
//! is gone from the configuration is kept as a **tombstone** until it could have no history left:
//! delete-and-re-add refills nobody. A configuration under which the old state means nothing (another
//! key to count by) has new state, and the old is a tombstone beside it: going back refills nobody.

use std::{cmp::Reverse, collections::BTreeMap, fmt, sync::Arc, time::Duration};

use tokio::time::Instant;

/// How many tombstones one kind of state may have; beyond it the oldest are dropped, and reported.
const TOMBSTONES: usize = 1024;

/// State of one kind, by identity. Cloning it copies handles, not state.
#[derive(Clone, Debug)]
pub struct Carried<C, H> {
    kind: &'static str,
    history: fn(&H) -> Duration,
    kept: BTreeMap<Arc<str>, Kept<C, H>>,
    tombstones: Vec<Tombstone<C, H>>,
}

#[derive(Clone, Debug)]
struct Kept<C, H> {
    config: C,
    handle: H,
}

#[derive(Clone, Debug)]
struct Tombstone<C, H> {
    identity: Arc<str>,
    kept: Kept<C, H>,
    since: Instant,
}

impl<C, H> Carried<C, H> {
    /// Nothing yet. `history` says how long the state of a handle means something without a name.
    pub const fn new(kind: &'static str, history: fn(&H) -> Duration) -> Self {
        Self { kind, history, kept: BTreeMap::new(), tombstones: Vec::new() }
    }

    /// The handle of what the configuration names.
    pub fn get(&self, identity: &str) -> Option<&H> {
        self.kept.get(identity).map(|kept| &kept.handle)
    }

    /// Everything that a configuration names.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &H)> {
        self.kept.iter().map(|(identity, kept)| (identity, &kept.handle))
    }

    /// Everything that a configuration names, and what it says of it.
    pub fn configs(&self) -> impl Iterator<Item = (&Arc<str>, &C)> {
        self.kept.iter().map(|(identity, kept)| (identity, &kept.config))
    }

    /// Everything that a configuration names, with what it says of it.
    pub fn entries(&self) -> impl Iterator<Item = (&Arc<str>, &C, &H)> {
        self.kept.iter().map(|(identity, kept)| (identity, &kept.config, &kept.handle))
    }

    /// Everything that only a tombstone keeps.
    pub fn buried(&self) -> impl Iterator<Item = (&Arc<str>, &H)> {
        self.tombstones.iter().map(|tombstone| (&tombstone.identity, &tombstone.kept.handle))
    }

    /// Whether there is a tombstone without any history.
    pub fn has_expired(&self, now: Instant) -> bool {
        self.tombstones.iter().any(|tombstone| self.is_expired(tombstone, now))
    }

    fn is_expired(&self, tombstone: &Tombstone<C, H>, now: Instant) -> bool {
        now.saturating_duration_since(tombstone.since) >= (self.history)(&tombstone.kept.handle)
    }
}

impl<C: Clone + PartialEq, H: Clone> Carried<C, H> {
    /// The same without any tombstone: for whoever only looks up what a configuration names.
    #[must_use]
    pub fn without_buried(&self) -> Self {
        Self { kept: self.kept.clone(), ..Self::new(self.kind, self.history) }
    }

    /// The same without the tombstones that have no history.
    #[must_use]
    pub fn without_expired(&self, now: Instant) -> Self {
        let mut next = self.clone();
        next.tombstones.retain(|tombstone| !self.is_expired(tombstone, now));
        next
    }

    /// Goes from the state of one configuration to that of the next. Nothing in `self` changes, and
    /// no state does: the next configuration may still be refused.
    #[must_use]
    pub fn next(
        &self,
        wanted: BTreeMap<Arc<str>, C>,
        now: Instant,
        report: &mut Vec<Change>,
        steps: &Steps<'_, C, H>,
    ) -> Self {
        let mut next = Self::new(self.kind, self.history);
        let mut tombstones = self.tombstones.clone();
        let gone = Gone::between(&self.kept, &wanted);
        for (identity, config) in wanted {
            let is_same = |old: &Kept<C, H>| (steps.is_same)(&old.config, &config);
            let old =
                self.kept.get(&identity).filter(|old| is_same(old)).map(|old| (old.clone(), What::Kept));
            let old = old.or_else(|| {
                let place = tombstones.iter().position(|it| it.identity == identity && is_same(&it.kept))?;
                Some((tombstones.swap_remove(place).kept, What::Restored))
            });
            let (handle, what) = match old {
                None => ((steps.make)(&identity, &config), What::Created),
                Some((old, what)) if old.config == config => (old.handle, what),
                Some((old, What::Restored)) => ((steps.change)(&old.handle, &config), What::Restored),
                Some((old, _)) => ((steps.change)(&old.handle, &config), What::Migrated),
            };
            let was = (what == What::Created).then(|| gone.of(&config)).flatten();
            report.push(Change { kind: self.kind, identity: Arc::clone(&identity), what, was });
            next.kept.insert(identity, Kept { config, handle });
        }
        next.tombstones = self.bury(tombstones, &next.kept, now, report, steps);
        next
    }

    /// The tombstones of before, and those of what `next` does not go on with; the youngest first.
    fn bury(
        &self,
        before: Vec<Tombstone<C, H>>,
        next: &BTreeMap<Arc<str>, Kept<C, H>>,
        now: Instant,
        report: &mut Vec<Change>,
        steps: &Steps<'_, C, H>,
    ) -> Vec<Tombstone<C, H>> {
        let goes_on = |identity: &str, old: &Kept<C, H>| {
            next.get(identity).is_some_and(|new| (steps.is_same)(&old.config, &new.config))
        };
        let gone = self.kept.iter().filter(|(identity, old)| !goes_on(identity, old));
        let new = gone.map(|(identity, old)| Tombstone {
            identity: Arc::clone(identity),
            kept: old.clone(),
            since: now,
        });
        let mut all: Vec<_> =
            new.map(|it| (true, it)).chain(before.into_iter().map(|it| (false, it))).collect();
        all.sort_by_key(|(_, tombstone)| Reverse(tombstone.since));
        let mut kept = Vec::new();
        for (place, (is_new, tombstone)) in all.into_iter().enumerate() {
            let is_kept = place < TOMBSTONES && !self.is_expired(&tombstone, now);
            if is_new || !is_kept {
                let what = if is_kept { What::Buried } else { What::Dropped };
                let identity = Arc::clone(&tombstone.identity);
                report.push(Change { kind: self.kind, identity, what, was: None });
            }
            if is_kept {
                kept.push(tombstone);
            }
        }
        kept
    }
}

/// What no configuration names any more, and what is named for the first time: with the same settings it is probably the
/// same under another name.
struct Gone<C> {
    gone: Vec<(Arc<str>, C)>,
    new: Vec<C>,
}

/// More than so many at once is no renaming.
const RENAMED: usize = 64;

impl<C: Clone + PartialEq> Gone<C> {
    fn between<H>(kept: &BTreeMap<Arc<str>, Kept<C, H>>, wanted: &BTreeMap<Arc<str>, C>) -> Self {
        let gone = kept.iter().filter(|(identity, _)| !wanted.contains_key(*identity));
        let gone = gone.map(|(identity, kept)| (Arc::clone(identity), kept.config.clone()));
        let gone = gone.take(RENAMED + 1).collect::<Vec<_>>();
        let is_some = (1..=RENAMED).contains(&gone.len());
        let new = wanted.iter().filter(|(identity, _)| is_some && !kept.contains_key(*identity));
        let new = new.map(|(_, config)| config.clone()).take(RENAMED + 1).collect();
        Self { gone, new }
    }

    /// The only one that is gone and had these settings, if only one that is new has them.
    fn of(&self, config: &C) -> Option<Arc<str>> {
        if self.gone.len().max(self.new.len()) > RENAMED
            || self.new.iter().filter(|it| *it == config).count() != 1
        {
            return None;
        }
        let mut alike = self.gone.iter().filter(|(_, it)| it == config);
        let (identity, _) = alike.next()?;
        alike.next().is_none().then(|| Arc::clone(identity))
    }
}

/// How one kind of state is made and changed.
pub struct Steps<'a, C, H> {
    /// For what is new.
    pub make: &'a dyn Fn(&Arc<str>, &C) -> H,
    /// Over the same state.
    pub change: &'a dyn Fn(&H, &C) -> H,
    /// Whether the state of one configuration means anything under the other.
    pub is_same: &'a dyn Fn(&C, &C) -> bool,
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
    /// Of what is new: what is gone, and had the same settings. If it was renamed, its state was lost.
    pub was: Option<Arc<str>>,
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
    /// No longer named, or named for something else; a tombstone keeps it until its history has run out.
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
        write!(f, "{} {} {}", self.kind, self.identity, self.what.word())?;
        self.was.as_ref().map_or(Ok(()), |was| write!(f, " (`{was}`, which is gone, had the same settings)"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(carried: &Carried<u32, u32>) -> usize {
        carried.iter().count() + carried.buried().count()
    }

    fn fresh() -> Carried<u32, u32> {
        Carried::new("test", |_| Duration::from_mins(1))
    }

    fn step(
        carried: &Carried<u32, u32>,
        wanted: &[(&str, u32)],
        now: Instant,
    ) -> (Carried<u32, u32>, Vec<String>) {
        let wanted = wanted.iter().map(|(name, config)| ((*name).into(), *config)).collect();
        let steps = Steps {
            make: &|_, config| *config,
            change: &|handle, config| handle * 100 + config,
            is_same: &|old, new| old / 1000 == new / 1000,
        };
        let mut report = Vec::new();
        let next = carried.next(wanted, now, &mut report, &steps);
        (next, report.iter().map(|change| format!("{} {}", change.identity, change.what.word())).collect())
    }

    #[tokio::test(start_paused = true)]
    async fn state_is_kept_migrated_buried_restored_and_in_the_end_dropped() {
        let now = Instant::now();
        let (one, report) = step(&fresh(), &[("a", 1), ("b", 2)], now);
        assert_eq!(report, ["a created", "b created"]);
        let (two, report) = step(&one, &[("a", 1), ("b", 3)], now);
        assert_eq!((report, two.get("b")), (vec!["a kept".into(), "b migrated".into()], Some(&203)));
        let (three, report) = step(&two, &[("a", 1)], now);
        assert_eq!((report, three.get("b")), (vec!["a kept".into(), "b buried".into()], None));
        let soon = now + Duration::from_secs(59);
        let (four, report) = step(&three, &[("a", 1), ("b", 3)], soon);
        assert_eq!((report, four.get("b")), (vec!["a kept".into(), "b restored".into()], Some(&203)));
        let (five, report) = step(&three, &[("a", 1)], now + Duration::from_mins(1));
        assert_eq!((report, all(&five)), (vec!["a kept".to_owned(), "b dropped".into()], 1));
        assert_eq!(two.get("b"), Some(&203), "the state that is left behind has not changed");
    }

    #[tokio::test(start_paused = true)]
    async fn what_means_nothing_under_the_new_configuration_is_buried_beside_it() {
        let now = Instant::now();
        let (one, _) = step(&fresh(), &[("a", 1)], now);
        let (two, report) = step(&one, &[("a", 1001)], now);
        assert_eq!((report, two.get("a")), (vec!["a created".into(), "a buried".into()], Some(&1001)));
        assert_eq!(all(&two), 2);
        let (three, report) = step(&two, &[("a", 1)], now);
        assert_eq!((report, three.get("a")), (vec!["a restored".into(), "a buried".into()], Some(&1)));
        let (four, report) = step(&three, &[("a", 1002)], now);
        assert_eq!((report, four.get("a")), (vec!["a restored".into(), "a buried".into()], Some(&101_102)));
        assert_eq!(all(&four), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn what_looks_renamed_is_told() {
        let now = Instant::now();
        let told = |before: &[(&str, u32)], after: &[(&str, u32)]| {
            let (one, _) = step(&fresh(), before, now);
            let mut report = Vec::new();
            let wanted = after.iter().map(|(name, config)| ((*name).into(), *config)).collect();
            let steps =
                Steps { make: &|_, config| *config, change: &|_, config| *config, is_same: &|_, _| true };
            let _ = one.next(wanted, now, &mut report, &steps);
            report
                .into_iter()
                .filter_map(|it| Some(format!("{} was {}", it.identity, it.was?)))
                .collect::<Vec<_>>()
        };
        assert_eq!(told(&[("a", 1), ("b", 2)], &[("a", 1), ("c", 2)]), ["c was b"]);
        assert_eq!(told(&[("a", 1)], &[("a", 1), ("c", 1)]), Vec::<String>::new(), "nothing is gone");
        assert_eq!(told(&[("a", 1)], &[("c", 2)]), Vec::<String>::new(), "it is another");
        assert_eq!(told(&[("a", 1), ("b", 1)], &[("c", 1)]), Vec::<String>::new(), "it could be either");
        assert_eq!(told(&[("a", 1)], &[("c", 1), ("d", 1)]), Vec::<String>::new(), "either could be it");
    }

    #[tokio::test(start_paused = true)]
    async fn tombstones_are_cleared_without_a_reload() {
        let now = Instant::now();
        let (one, _) = step(&fresh(), &[("a", 1), ("b", 1)], now);
        let (two, _) = step(&one, &[("a", 1)], now);
        assert!(!two.has_expired(now + Duration::from_secs(59)));
        let later = now + Duration::from_mins(1);
        assert!(two.has_expired(later));
        let three = two.without_expired(later);
        assert!(!three.has_expired(later) && all(&three) == 1);
        assert!(!one.has_expired(later), "what is in force does not expire");
    }

    #[tokio::test(start_paused = true)]
    async fn tombstones_are_bounded() {
        let now = Instant::now();
        let names = (0..3000).map(|i| format!("n{i}")).collect::<Vec<_>>();
        let wanted = names.iter().map(|name| (name.as_str(), 1)).collect::<Vec<_>>();
        let (full, _) = step(&fresh(), &wanted, now);
        let (empty, report) = step(&full, &[], now);
        assert_eq!((all(&empty), report.len()), (TOMBSTONES, 3000));
    }
}
