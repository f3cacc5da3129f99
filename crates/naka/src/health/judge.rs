//! Whether an endpoint is well, from one check to the next. It knows checks and counts, and nothing else.

use super::{Condition, Standing};
use crate::balance::Absence;

/// How many checks in a row it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Thresholds {
    pub(super) unhealthy_after: u32,
    pub(super) healthy_after: u32,
}

/// What the checks of one endpoint have come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) standing: Standing,
    /// In a row, up to the last check. One of the two is 0.
    pub(super) passes: u32,
    pub(super) failures: u32,
    /// It has passed at some time.
    has_passed: bool,
}

impl Tally {
    /// No check has ended yet.
    pub(super) const NEW: Self =
        Self { standing: Standing::Unknown, passes: 0, failures: 0, has_passed: false };

    /// One check more.
    pub(super) const fn after(self, is_passed: bool, of: Thresholds) -> Self {
        let (passes, failures) =
            if is_passed { (self.passes.saturating_add(1), 0) } else { (0, self.failures.saturating_add(1)) };
        let standing = match (self.standing, is_passed) {
            // The first one counts at once, either way.
            (Standing::Unknown, true) => Standing::Healthy,
            (Standing::Unknown, false) => Standing::Unhealthy,
            (Standing::Healthy, false) if failures >= of.unhealthy_after => Standing::Unhealthy,
            // Who has never passed has not come and gone: there is no flapping to be wary of.
            (Standing::Unhealthy, true) if passes >= of.healthy_after || !self.has_passed => {
                Standing::Healthy
            }
            (standing, _) => standing,
        };
        Self { standing, passes, failures, has_passed: self.has_passed || is_passed }
    }

    /// All that is known of the endpoint in one word; what was done on purpose comes first.
    pub(super) fn condition(self, absences: impl Iterator<Item = Absence>) -> Condition {
        let (mut is_draining, mut is_in_maintenance, mut is_outlier) = (false, false, false);
        for absence in absences {
            match absence {
                Absence::Draining => is_draining = true,
                Absence::Maintenance => is_in_maintenance = true,
                Absence::Outlier => is_outlier = true,
                Absence::Unhealthy => {} // The standing says it.
            }
        }
        match self.standing {
            _ if is_draining => Condition::Draining,
            _ if is_in_maintenance => Condition::Maintenance,
            Standing::Unhealthy => Condition::Unhealthy,
            _ if is_outlier || self.failures > 0 => Condition::Degraded,
            Standing::Healthy => Condition::Healthy,
            Standing::Unknown => Condition::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same rule, told from the whole history and not step by step: the last change decides, and what came
    /// after it.
    fn told(history: &[bool], of: Thresholds) -> Standing {
        let mut standing = Standing::Unknown;
        for end in 1..=history.len() {
            let so_far = &history[..end];
            let all_of_last = |count: u32, is_passed: bool| {
                let count = count as usize;
                so_far.len() >= count && so_far[end - count..].iter().all(|it| *it == is_passed)
            };
            standing = match standing {
                Standing::Unknown if so_far[0] => Standing::Healthy,
                Standing::Unknown => Standing::Unhealthy,
                Standing::Healthy if all_of_last(of.unhealthy_after, false) => Standing::Unhealthy,
                Standing::Unhealthy if all_of_last(of.healthy_after, true) => Standing::Healthy,
                Standing::Unhealthy if so_far.iter().position(|it| *it) == Some(end - 1) => Standing::Healthy,
                same => same,
            };
        }
        standing
    }

    #[test]
    fn every_history_of_twelve_checks_comes_to_what_the_rule_says() {
        for (unhealthy_after, healthy_after) in [(1, 1), (3, 2), (2, 3), (1, 4), (4, 1)] {
            let of = Thresholds { unhealthy_after, healthy_after };
            for bits in 0..1_u32 << 12 {
                let history = (0..12).map(|place| bits >> place & 1 == 1).collect::<Vec<_>>();
                let mut tally = Tally::NEW;
                for end in 1..=history.len() {
                    tally = tally.after(history[end - 1], of);
                    assert_eq!(tally.standing, told(&history[..end], of), "{of:?} {:?}", &history[..end]);
                    assert!(tally.passes == 0 || tally.failures == 0);
                }
            }
        }
    }

    const ROW: Thresholds = Thresholds { unhealthy_after: 3, healthy_after: 2 };

    fn standings(checks: &str) -> String {
        let mut tally = Tally::NEW;
        let one = |check: char| {
            tally = tally.after(check == '+', ROW);
            match tally.standing {
                Standing::Unknown => '?',
                Standing::Healthy => 'h',
                Standing::Unhealthy => 'u',
            }
        };
        checks.chars().map(one).collect()
    }

    #[test]
    fn r1_5_three_failures_and_a_flapping_endpoint_stays_out() {
        assert_eq!(standings("+---+"), "hhhuu");
        assert_eq!(standings("+---++"), "hhhuuh");
        assert_eq!(standings("+---+-+-+-+-"), "hhhuuuuuuuuu", "never two in a row");
        assert_eq!(standings("+--+--+--+"), "hhhhhhhhhh", "never three in a row");
    }

    #[test]
    fn the_first_check_counts_at_once_and_so_does_the_first_that_is_passed() {
        assert_eq!(standings("+"), "h");
        assert_eq!(standings("-"), "u");
        assert_eq!(standings("--+"), "uuh");
        assert_eq!(standings("-+---+"), "uhhhuu", "from then on as any other");
    }

    #[test]
    fn r10_3_one_word_of_six_says_all_that_is_known() {
        let healthy = Tally::NEW.after(true, ROW);
        let shaky = healthy.after(false, ROW);
        let out = shaky.after(false, ROW).after(false, ROW);
        let table: [(Tally, &[Absence], Condition); 9] = [
            (Tally::NEW, &[], Condition::Unknown),
            (healthy, &[], Condition::Healthy),
            (shaky, &[], Condition::Degraded),
            (healthy, &[Absence::Outlier], Condition::Degraded),
            (out, &[Absence::Unhealthy], Condition::Unhealthy),
            (out, &[Absence::Unhealthy, Absence::Outlier], Condition::Unhealthy),
            (out, &[Absence::Unhealthy, Absence::Maintenance], Condition::Maintenance),
            (healthy, &[Absence::Draining], Condition::Draining),
            (healthy, &[Absence::Maintenance, Absence::Draining], Condition::Draining),
        ];
        for (tally, absences, expected) in table {
            assert_eq!(tally.condition(absences.iter().copied()), expected, "{tally:?} {absences:?}");
        }
    }
}
