//! When an endpoint is checked: numbers by chance in, pauses out.

use std::time::Duration;

/// The longest that the first check of an endpoint is put off.
const SOON: Duration = Duration::from_secs(1);

/// Until the first check: at any time within a fifth of the interval, so that those of many endpoints do not come
/// together, but soon.
pub(super) fn first(interval: Duration, random: u64) -> Duration {
    part(interval / 5, random).min(SOON)
}

/// From the beginning of one check to that of the next: the interval, and up to a fifth of it more. Never less, so
/// that there is never more than one in an interval; and what began together drifts apart.
pub(super) fn next(interval: Duration, random: u64) -> Duration {
    interval + part(interval / 5, random)
}

/// A part of it, evenly by chance.
fn part(of: Duration, random: u64) -> Duration {
    let ns = u64::try_from((of.as_nanos() * u128::from(random)) >> 64).unwrap_or(u64::MAX);
    Duration::from_nanos(ns)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Numbers;

    #[test]
    fn pauses_are_spread_evenly_and_never_shorter_than_the_interval() {
        let (interval, numbers, mut quarters) = (Duration::from_secs(5), Numbers::new(7), [0; 4]);
        for _ in 0..4000 {
            let more = next(interval, numbers.draw()).checked_sub(interval).expect("not shorter");
            assert!(more < Duration::from_secs(1));
            quarters[usize::try_from(more.as_millis() / 250).unwrap()] += 1;
        }
        assert!(quarters.iter().all(|count| (900..1100).contains(count)), "{quarters:?}");
        assert_eq!(next(interval, 0), interval);
    }

    #[test]
    fn the_first_check_is_soon() {
        assert_eq!(first(Duration::from_secs(1), 0), Duration::ZERO);
        assert!(first(Duration::from_secs(1), u64::MAX) < Duration::from_millis(200));
        assert_eq!(first(Duration::from_hours(1), u64::MAX), SOON);
    }
}
