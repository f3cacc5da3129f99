//! When a certificate is renewed, and when what has failed is tried again: numbers in, numbers out.

use std::time::Duration;

/// The first pause after a failure: of five failures in an hour, as large authorities allow for one host, there are four.
pub(super) const FIRST: Duration = Duration::from_mins(5);
/// The longest pause that is taken by itself.
pub(super) const LONGEST: Duration = Duration::from_hours(6);
/// The longest pause that an authority can ask for.
pub(super) const ASKED: Duration = Duration::from_hours(24);

/// When a certificate is renewed that is valid between these times: when two thirds of that are over, and up to a twentieth later,
/// so that many do not come at once. `chance` is any number.
pub(super) fn due([from, until]: [Duration; 2], chance: u64) -> Duration {
    let lifetime = until.saturating_sub(from);
    from + lifetime / 3 * 2 + part(lifetime / 20, chance)
}

/// The pause after that many failures in a row, of which there is one at least, if the authority asks for that one.
pub(super) fn pause(failures: u32, asked: Option<Duration>, chance: u64) -> Duration {
    let own = FIRST.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(LONGEST);
    let own = own + part(own / 4, chance);
    own.max(asked.unwrap_or_default().min(ASKED))
}

/// Some of it.
fn part(of: Duration, chance: u64) -> Duration {
    let ns = u128::from(chance).saturating_mul(of.as_nanos()) >> 64;
    Duration::from_nanos(u64::try_from(ns).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_hours(24);

    #[test]
    fn a_certificate_is_due_when_two_thirds_of_its_time_are_over() {
        let valid = [100 * DAY, 190 * DAY];
        assert_eq!(due(valid, 0), 160 * DAY);
        let latest = due(valid, u64::MAX);
        assert!(latest > 164 * DAY && latest <= 164 * DAY + DAY / 2, "{latest:?}");
        assert_eq!(due([DAY, DAY], u64::MAX), DAY);
        assert_eq!(due([2 * DAY, DAY], 7), 2 * DAY, "what ends before it begins is due when it begins");
    }

    #[test]
    fn pauses_double_up_to_hours_and_an_authority_can_ask_for_a_day() {
        let minutes = |failures| pause(failures, None, 0).as_secs() / 60;
        assert_eq!([1, 2, 3, 4, 7, 8, u32::MAX].map(minutes), [5, 10, 20, 40, 320, 360, 360]);
        assert_eq!(minutes(0), 5);
        let longest = pause(9, None, u64::MAX);
        assert!(longest > LONGEST && longest <= LONGEST + LONGEST / 4, "{longest:?}");
        assert_eq!(pause(1, Some(Duration::from_hours(2)), 0), Duration::from_hours(2));
        assert_eq!(pause(1, Some(Duration::from_secs(1)), 0), FIRST);
        assert_eq!(pause(1, Some(Duration::MAX), 0), ASKED);
    }

    #[test]
    fn five_failures_take_longer_than_an_hour() {
        let fifth = (1..=4).map(|failures| pause(failures, None, 0)).sum::<Duration>();
        assert!(fifth > Duration::from_hours(1), "{fifth:?}");
    }
}
