//! Slow start: an endpoint that joins has a share of its share, which grows.

/// All of its share, of which shares are parts.
pub const WHOLE: u32 = 1 << 16;

/// The part of its share that an endpoint has at this age: linear over `duration_ns`, and never below
/// `floor_percent`; in units of 1 / [`WHOLE`].
pub fn share(age_ns: u64, duration_ns: u64, floor_percent: u8) -> u32 {
    if age_ns >= duration_ns {
        return WHOLE;
    }
    let grown = u128::from(age_ns) * u128::from(WHOLE) / u128::from(duration_ns);
    let floor = WHOLE * u32::from(floor_percent.min(100)) / 100;
    u32::try_from(grown).unwrap_or(WHOLE).max(floor)
}

/// The part of all requests that an endpoint with this share has, by its weight. A policy that takes the best
/// of all would give all of them to a newcomer, which has nothing to do.
pub fn of_all(share: u32, weight: u32, weights: u64) -> u32 {
    let part = u64::from(share) * u64::from(weight) / weights.max(1);
    u32::try_from(part).unwrap_or(WHOLE)
}

/// Whether a newcomer with this share takes part in a request. With the hash of a key in place of a random number a key moves to the
/// newcomer once, when its share has grown as far, and stays there.
pub fn admits(share: u32, random: u64) -> bool {
    random >> 48 < u64::from(share)
}

#[cfg(test)]
mod tests {
    use super::{super::hash::mix, *};

    #[test]
    fn r9_6_a_share_grows_in_a_line_from_its_floor() {
        let percent = |age| share(age, 1000, 10) * 100 / WHOLE;
        assert_eq!([0, 50, 500, 999, 1000, 5000].map(percent), [9, 9, 50, 99, 100, 100]);
        assert_eq!(share(0, 0, 10), WHOLE, "without a duration there is no slow start");
    }

    #[test]
    fn of_so_many_requests_it_is_that_part() {
        let admitted = (0..10_000).filter(|turn| admits(WHOLE / 4, mix(*turn))).count();
        assert!(admitted.abs_diff(2500) < 150, "{admitted}");
        assert_eq!(of_all(WHOLE / 2, 1, 10), WHOLE / 20);
        assert!(admits(WHOLE, u64::MAX));
    }
}
