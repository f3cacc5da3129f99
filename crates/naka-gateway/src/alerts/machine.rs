//! The life of alerts: who is pending, who fires, and when that is over. Time is an argument.
//!
//! ```text
//!          holds                for `hold`                     does not hold for `keep`,
//! nothing ───────► pending ──────────────────► firing ─────────────────────────────────► nothing
//!                     │ does not hold: nothing    ▲ │ holds again: as if nothing had been     or its rule is gone
//!                     ▼                           └─┘
//!                  nothing
//! ```
//!
//! An alert is known by its rule, how bad that is and its subject. So whatever else of a rule is changed, what is
//! pending or firing goes on under the new times; with another severity it is another alert. At most [`MOST`] are known, the
//! worst first: of those of which nobody has been told the least bad makes room. For what is over that there is none, which is counted.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::Moment;
use crate::config::checked::{Name, Severity};

/// Alerts that are known at once.
pub const MOST: usize = 1000;

/// What makes an alert the one it is; the worst come first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// How bad it is.
    pub severity: Severity,
    /// The name of its rule.
    pub rule: Name,
    /// What it is about: an upstream, a route, a check.
    pub subject: Arc<str>,
}

/// How long a rule waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Before it fires.
    pub hold: Duration,
    /// Before it is over.
    pub keep: Duration,
}

/// What has become of an alert.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Which.
    pub key: Key,
    /// Why it is, or last was.
    pub why: Arc<str>,
    /// When it began to fire, in seconds since 1970.
    pub started_s: u64,
    /// When it was over, in seconds since 1970; nothing: it fires.
    pub ended_s: Option<u64>,
}

/// All alerts that are pending or fire.
#[derive(Debug, Default)]
pub struct Machine {
    active: BTreeMap<Key, Active>,
    /// For how many there was no room at the last step.
    over: usize,
}

/// One of them.
#[derive(Clone, Debug)]
pub struct Active {
    /// Why it is, or last was.
    pub why: Arc<str>,
    /// Where it is in its life.
    pub phase: Phase,
}

/// Where an alert is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Nobody has been told.
    Pending {
        /// It holds since then.
        since: Moment,
    },
    /// Somebody has.
    Firing {
        /// Since then.
        since: Moment,
        /// When it last held.
        held: Instant,
    },
}

impl Machine {
    /// What holds now is `held`, with the reason; `timing` is that of a rule, and nothing if the rule is gone.
    pub fn step(
        &mut self,
        now: Moment,
        mut held: BTreeMap<Key, String>,
        timing: impl Fn(&Key) -> Option<Timing>,
    ) -> Vec<Change> {
        let mut changes = Vec::new();
        self.active.retain(|key, active| {
            let timing = timing(key);
            if let (Some(why), Some(_)) = (held.remove(key), timing) {
                active.why = why.into();
                if let Phase::Firing { held, .. } = &mut active.phase {
                    *held = now.at;
                }
                return true;
            }
            let Phase::Firing { since, held } = active.phase else { return false };
            if timing.is_some_and(|timing| now.at.saturating_duration_since(held) < timing.keep) {
                return true;
            }
            let why = Arc::clone(&active.why);
            changes.push(Change {
                key: key.clone(),
                why,
                started_s: since.unix_s,
                ended_s: Some(now.unix_s),
            });
            false
        });
        self.over = 0;
        for (key, why) in held.into_iter().filter(|(key, _)| timing(key).is_some()) {
            if self.active.len() >= MOST {
                self.over += 1;
                // The least bad one of which nobody has been told makes room for one that is worse.
                let least =
                    self.active.iter().rev().find(|(_, it)| matches!(it.phase, Phase::Pending { .. }));
                let Some(least) = least.map(|(least, _)| least.clone()).filter(|least| *least > key) else {
                    continue;
                };
                self.active.remove(&least);
            }
            self.active.insert(key, Active { why: why.into(), phase: Phase::Pending { since: now } });
        }
        for (key, active) in &mut self.active {
            let (Phase::Pending { since }, Some(timing)) = (active.phase, timing(key)) else { continue };
            if now.at.saturating_duration_since(since.at) >= timing.hold {
                active.phase = Phase::Firing { since: now, held: now.at };
                let why = Arc::clone(&active.why);
                changes.push(Change { key: key.clone(), why, started_s: now.unix_s, ended_s: None });
            }
        }
        changes
    }

    /// All that are pending or fire, the worst first.
    pub fn active(&self) -> impl Iterator<Item = (&Key, &Active)> {
        self.active.iter()
    }

    /// For how many there is no room.
    pub const fn over(&self) -> usize {
        self.over
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn key(number: usize) -> Key {
        let severity = Severity::ALL[number % 3];
        Key { severity, rule: format!("rule-{}", number % 4).into(), subject: number.to_string().into() }
    }

    fn moment(start: Instant, after_s: u64) -> Moment {
        Moment::new(start + Duration::from_secs(after_s), 1_000_000 + after_s)
    }

    fn held(numbers: impl IntoIterator<Item = usize>) -> BTreeMap<Key, String> {
        numbers.into_iter().map(|number| (key(number), "because".to_owned())).collect()
    }

    fn told(changes: &[Change]) -> Vec<(&str, bool)> {
        changes.iter().map(|change| (&*change.key.subject, change.ended_s.is_none())).collect()
    }

    const TIMING: Timing = Timing { hold: Duration::from_secs(10), keep: Duration::from_secs(20) };

    #[test]
    fn r10_7_what_is_worse_is_told_however_many_lesser_ones_are_pending() {
        let (mut machine, start) = (Machine::default(), Instant::now());
        let one = |severity, number: usize| {
            (
                Key { severity, rule: "rule".into(), subject: format!("{number:04}").into() },
                "because".to_owned(),
            )
        };
        let many = (0..MOST).map(|number| one(Severity::Warning, number)).collect::<BTreeMap<_, _>>();
        assert_eq!(machine.step(moment(start, 0), many.clone(), |_| Some(TIMING)), []);
        let mut all = many;
        all.extend([one(Severity::Critical, 7)]);
        assert_eq!(machine.step(moment(start, 1), all.clone(), |_| Some(TIMING)), []);
        assert_eq!((machine.active.len(), machine.over), (MOST, 1));
        let told = machine.step(moment(start, 11), all, |_| Some(TIMING));
        assert_eq!((told.len(), told[0].key.severity), (MOST, Severity::Critical));
    }

    #[test]
    fn r10_7_an_alert_fires_once_after_its_time_and_is_over_once() {
        let (mut machine, start) = (Machine::default(), Instant::now());
        let mut step = |at, which: &[usize]| {
            let changes = machine.step(moment(start, at), held(which.iter().copied()), |_| Some(TIMING));
            told(&changes).iter().map(|(_, fires)| if *fires { "fires" } else { "over" }).collect::<String>()
        };
        assert_eq!(step(0, &[1]), "");
        assert_eq!(step(9, &[1]), "");
        assert_eq!(step(9, &[]), ""); // Not for long enough: it begins anew.
        assert_eq!(step(10, &[1]), "");
        assert_eq!(step(19, &[1]), "");
        assert_eq!(step(20, &[1]), "fires");
        assert_eq!(step(25, &[1]), "");
        assert_eq!(step(30, &[]), "");
        assert_eq!(step(40, &[1]), ""); // It comes and goes, and nobody hears of it again.
        assert_eq!(step(59, &[]), "");
        assert_eq!(step(60, &[]), "over");
        assert_eq!(step(61, &[]), "");
    }

    #[test]
    fn r10_7_over_a_reload_what_stays_goes_on_and_what_goes_is_over() {
        let (mut machine, start) = (Machine::default(), Instant::now());
        machine.step(moment(start, 0), held([0, 1, 2]), |_| Some(TIMING));
        let changes = machine.step(moment(start, 10), held([0, 1, 2, 3]), |_| Some(TIMING));
        assert_eq!(changes.len(), 3);
        // The rule of 0 and that of 3, which is pending, are gone, though both still hold; that of 1 takes longer by now.
        let timing = |it: &Key| {
            let is_gone = [key(0).rule, key(3).rule].contains(&it.rule);
            (!is_gone).then_some(Timing { hold: SECOND * 100, keep: SECOND * 20 })
        };
        let changes = machine.step(moment(start, 11), held([0, 1, 2, 3]), timing);
        assert_eq!(told(&changes), [("0", false)]);
        assert_eq!(changes[0].started_s, 1_000_010);
        assert_eq!(machine.active().count(), 2);
        assert!(machine.active().all(|(_, active)| matches!(active.phase, Phase::Firing { .. })));
    }

    #[test]
    fn r10_7_what_there_is_no_room_for_is_counted_and_the_worst_come_first() {
        let (mut machine, start) = (Machine::default(), Instant::now());
        let changes = machine.step(moment(start, 0), held(0..MOST * 3), |_| {
            Some(Timing { hold: Duration::ZERO, keep: Duration::ZERO })
        });
        assert_eq!((changes.len(), machine.over()), (MOST, MOST * 2));
        assert!(changes.iter().all(|change| change.key.severity == Severity::Critical));
        machine.step(moment(start, 1), held([]), |_| Some(TIMING));
        assert_eq!(machine.over(), 0);
    }

    proptest! {
        /// Never two firings without an end between; never before it has held for as long as is said, nor an end before it has
        /// not for as long.
        #[test]
        fn r10_7_whatever_holds_and_when_firings_and_ends_take_turns(
            steps in vec((0_u64..15, vec(0_usize..6, 0..6), 0_usize..8), 1..80),
            hold_s in 0_u64..30,
            keep_s in 0_u64..30,
        ) {
            let timing = Timing { hold: SECOND * u32::try_from(hold_s).unwrap(), keep: SECOND * u32::try_from(keep_s).unwrap() };
            let (mut machine, start, mut at_s) = (Machine::default(), Instant::now(), 0);
            let mut fires = BTreeMap::<Key, bool>::new();
            // Since when it holds without a break, and when it last did.
            let (mut since, mut last) = (BTreeMap::<Key, u64>::new(), BTreeMap::<Key, u64>::new());
            for (pause_s, numbers, gone) in steps {
                at_s += pause_s;
                let gone = format!("rule-{gone}");
                let held = held(numbers);
                let is_there = |key: &Key| *key.rule != *gone;
                since.retain(|key, _| held.contains_key(key) && is_there(key));
                for key in held.keys().filter(|key| is_there(key)) {
                    since.entry(key.clone()).or_insert(at_s);
                    last.insert(key.clone(), at_s);
                }
                let now = moment(start, at_s);
                for change in machine.step(now, held, |key| is_there(key).then_some(timing)) {
                    let before = fires.insert(change.key.clone(), change.ended_s.is_none()).unwrap_or_default();
                    prop_assert_eq!(before, change.ended_s.is_some(), "{:?}", change);
                    if change.ended_s.is_none() {
                        prop_assert!(at_s - since[&change.key] >= hold_s);
                    } else if is_there(&change.key) {
                        prop_assert!(!since.contains_key(&change.key));
                        prop_assert!(at_s - last[&change.key] >= keep_s);
                    }
                }
                // Whoever has held for so long fires, and who does not has an end.
                for (key, since) in &since {
                    prop_assert_eq!(fires.get(key).copied().unwrap_or_default() || at_s - since < hold_s, true);
                }
                let firing = machine.active().filter(|(_, active)| matches!(active.phase, Phase::Firing { .. }));
                let firing = firing.map(|(key, _)| key.clone()).collect::<Vec<_>>();
                let told = fires.iter().filter(|(_, fires)| **fires).map(|(key, _)| key.clone());
                prop_assert_eq!(firing, told.collect::<Vec<_>>());
            }
        }
    }
}
