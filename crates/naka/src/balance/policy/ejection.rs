//! How many endpoints closed gates may take out of a set.
//!
//! As Envoy's `max_ejection_percent`, but computed with the candidate among the ejected, and never all: one at
//! least may be taken out of two or more, and one at least stays. Which ones? The first in the list: whoever
//! counts needs no memory, two who count agree, and a gate that opens in between changes nothing behind it.

/// How many of so many may be taken out.
pub const fn allowed(present: usize, percent: u8) -> usize {
    let share = present.saturating_mul(percent as usize) / 100;
    let share = if share == 0 { 1 } else { share };
    let but_one = present.saturating_sub(1);
    if share < but_one { share } else { but_one }
}

/// The first place whose gate is closed in vain, and with it all behind it. Of each it is said whether it is
/// there otherwise, and whether its gate is closed.
pub fn spared_from(members: impl Iterator<Item = (bool, bool)> + Clone, percent: u8) -> usize {
    let allowed = allowed(members.clone().filter(|(is_present, _)| *is_present).count(), percent);
    let closed = members.enumerate().filter(|(_, (is_present, is_closed))| *is_present && *is_closed);
    closed.map(|(place, _)| place).nth(allowed).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_may_always_be_taken_out_and_one_always_stays() {
        assert_eq!([0, 1, 2, 3].map(|present| allowed(present, 30)), [0, 0, 1, 1]);
        assert_eq!([6, 7, 10, 100].map(|present| allowed(present, 30)), [1, 2, 3, 30]);
        assert_eq!([1, 2, 10].map(|present| allowed(present, 100)), [0, 1, 9]);
    }

    #[test]
    fn those_behind_the_last_that_may_be_are_spared() {
        let members = |closed: &[usize]| {
            let closed = closed.to_vec();
            (0..10_usize).map(move |place| (place != 9, closed.contains(&place)))
        };
        assert_eq!(spared_from(members(&[]), 30), usize::MAX);
        assert_eq!(spared_from(members(&[1, 4]), 30), usize::MAX, "two of nine");
        assert_eq!(spared_from(members(&[1, 4, 7, 8]), 30), 7);
        assert_eq!(spared_from(members(&[1, 4, 9]), 30), usize::MAX, "who is gone anyway does not count");
        assert_eq!(spared_from(members(&[0, 1, 2, 3, 4, 5, 6, 7, 8]), 100), 8);
    }
}
