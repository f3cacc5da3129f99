//! How well something is, and what many such say together. No clock, no files: properties drive it with numbers.

use crate::config::checked::Thresholds;

/// How well something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// As it should be.
    Healthy,
    /// It does its work, with less to spare.
    Degraded,
    /// It fails in part.
    Unhealthy,
    /// It fails.
    Critical,
}

impl Level {
    /// The word for it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Unhealthy => "unhealthy",
            Self::Critical => "critical",
        }
    }
}

/// Whether the whole can be well without it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Importance {
    /// It cannot.
    Required,
    /// It can: however bad that is, the whole is degraded by it at most.
    Optional,
}

/// What all checks say together:
///
/// 1. What is optional counts as degraded at most.
/// 2. Any critical: critical.
/// 3. Two or more unhealthy: unhealthy.
/// 4. One unhealthy, or two or more degraded: degraded.
/// 5. Else healthy; but without any check critical, for then nobody knows.
pub fn roll_up(checks: impl IntoIterator<Item = (Level, Importance)>) -> Level {
    let (mut all, mut degraded, mut unhealthy, mut critical) = (0, 0, 0, 0);
    for (level, importance) in checks {
        all += 1;
        match if importance == Importance::Optional { level.min(Level::Degraded) } else { level } {
            Level::Healthy => {}
            Level::Degraded => degraded += 1,
            Level::Unhealthy => unhealthy += 1,
            Level::Critical => critical += 1,
        }
    }
    match (all, critical, unhealthy, degraded) {
        (0, ..) | (_, 1.., ..) => Level::Critical,
        (_, _, 2.., _) => Level::Unhealthy,
        (_, _, 1, _) | (_, _, _, 2..) => Level::Degraded,
        _ => Level::Healthy,
    }
}

/// How well an upstream is of which so many endpoints can be used, of so many that are not taken out on purpose: all,
/// healthy; some are missing and half or more are there, degraded; more than half are missing, unhealthy; none is there,
/// critical where nothing goes without it, else unhealthy.
pub const fn of_endpoints(usable: usize, all: usize, importance: Importance) -> Level {
    let down = all.saturating_sub(usable);
    match (usable, importance) {
        (0, Importance::Required) => Level::Critical,
        (0, Importance::Optional) => Level::Unhealthy,
        _ if down == 0 => Level::Healthy,
        _ if down > usable => Level::Unhealthy,
        _ => Level::Degraded,
    }
}

/// So far below its threshold, in tenths of a percent, a level is left again: 5 points.
///
/// A distance, and not a time: what swings by less than this around a threshold stays where it is however long and however
/// often it is looked at, and what falls further is well at once. How long something has to last before somebody is
/// told is a matter of alerts (`for`).
pub const MARGIN: u32 = 50;

/// The next level of a resource of which `used` tenths of a percent are used, and that was at `before`. Worse at once;
/// better when it is [`MARGIN`] below what it leaves.
pub fn graded(before: Level, used: u32, thresholds: Thresholds) -> Level {
    let from = |level| {
        let percent = match level {
            Level::Healthy => 0,
            Level::Degraded => thresholds.degraded,
            Level::Unhealthy => thresholds.unhealthy,
            Level::Critical => thresholds.critical,
        };
        let threshold = u32::from(percent) * 10;
        if level <= before { threshold.saturating_sub(MARGIN) } else { threshold }
    };
    let worst_first = [Level::Critical, Level::Unhealthy, Level::Degraded];
    worst_first.into_iter().find(|level| used >= from(*level)).unwrap_or(Level::Healthy)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use Importance::{Optional, Required};
    use Level::{Critical, Degraded, Healthy, Unhealthy};

    const CPU: Thresholds = Thresholds { degraded: 70, unhealthy: 85, critical: 95 };

    #[test]
    fn r10_5_the_worst_and_how_many_say_how_the_whole_is() {
        let table: &[(&[(Level, Importance)], Level)] = &[
            (&[], Critical),
            (&[(Healthy, Required)], Healthy),
            (&[(Degraded, Required)], Healthy),
            (&[(Degraded, Required), (Degraded, Required)], Degraded),
            (&[(Degraded, Required), (Degraded, Optional), (Healthy, Required)], Degraded),
            (&[(Unhealthy, Required)], Degraded),
            (&[(Unhealthy, Required), (Degraded, Required), (Degraded, Required)], Degraded),
            (&[(Unhealthy, Required), (Unhealthy, Required)], Unhealthy),
            (&[(Critical, Required), (Healthy, Required)], Critical),
            (&[(Critical, Required), (Unhealthy, Required), (Unhealthy, Required)], Critical),
            // A cache that is down, beside a database that is well; and the other way round.
            (&[(Critical, Optional), (Healthy, Required)], Healthy),
            (&[(Critical, Optional), (Degraded, Required)], Degraded),
            (&[(Healthy, Optional), (Critical, Required)], Critical),
            (&[(Unhealthy, Optional), (Unhealthy, Required)], Degraded),
            (&[(Critical, Optional), (Critical, Optional), (Critical, Optional)], Degraded),
        ];
        for (checks, expected) in table {
            assert_eq!(roll_up(checks.iter().copied()), *expected, "{checks:?}");
        }
    }

    #[test]
    fn r10_5_an_upstream_is_as_well_as_its_endpoints() {
        let table = [
            ((3, 3, Required), Healthy),
            ((2, 3, Required), Degraded),
            ((1, 2, Required), Degraded),
            ((1, 3, Required), Unhealthy),
            ((0, 3, Required), Critical),
            ((0, 3, Optional), Unhealthy),
            ((0, 0, Required), Critical),
            ((1, 1, Optional), Healthy),
        ];
        for ((usable, all, importance), expected) in table {
            assert_eq!(of_endpoints(usable, all, importance), expected, "{usable} of {all}, {importance:?}");
        }
    }

    #[test]
    fn r10_6_each_threshold_counts_from_its_value_on_and_is_left_five_points_below() {
        let table = [
            (Healthy, 699, Healthy),
            (Healthy, 700, Degraded),
            (Healthy, 849, Degraded),
            (Healthy, 850, Unhealthy),
            (Healthy, 950, Critical),
            (Degraded, 690, Degraded),
            (Degraded, 650, Degraded),
            (Degraded, 649, Healthy),
            (Unhealthy, 800, Unhealthy),
            (Unhealthy, 799, Degraded),
            (Critical, 899, Unhealthy),
            (Critical, 0, Healthy),
        ];
        for (before, used, expected) in table {
            assert_eq!(graded(before, used, CPU), expected, "{before:?} {used}");
        }
    }

    #[test]
    fn r10_6_a_value_that_swings_by_one_around_seventy_changes_the_level_once() {
        let (mut level, mut changes) = (Healthy, 0);
        for step in 0..1000 {
            let next = graded(level, if step % 2 == 0 { 690 } else { 710 }, CPU);
            changes += usize::from(next != level);
            level = next;
        }
        assert_eq!((level, changes), (Degraded, 1));
    }

    proptest! {
        /// Never better than the thresholds alone say, and never worse than they say five points higher.
        #[test]
        fn a_level_is_never_further_off_than_the_margin(before in 0_usize..4, used in 0_u32..1100) {
            let before = [Healthy, Degraded, Unhealthy, Critical][before];
            let level = graded(before, used, CPU);
            prop_assert!(level >= graded(Healthy, used, CPU));
            prop_assert!(level <= graded(Healthy, used + MARGIN, CPU));
            prop_assert_eq!(graded(level, used, CPU), level);
        }
    }
}
