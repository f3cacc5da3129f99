//! Resources: how busy endpoints say they are, by whoever asks them.

/// What counts where nothing was said, or not for a while, in thousandths.
pub const UNKNOWN_LOAD: u32 = 500;

/// The load that was told (thousandths, 1000 is all there is), as often as there would be requests for its
/// weight, to be divided by the weight: reports come now and then, and in between the one with the best report
/// would get everything.
pub fn cost(load: Option<u32>, in_flight: u32, weight: u32) -> u64 {
    (u64::from(load.unwrap_or(UNKNOWN_LOAD)) + 1) * (u64::from(in_flight) + u64::from(weight))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_idle_one_is_preferred_until_it_has_more_to_do() {
        assert!(cost(Some(100), 0, 1) < cost(None, 0, 1) && cost(None, 0, 1) < cost(Some(900), 0, 1));
        assert!(cost(Some(100), 9, 1) > cost(Some(900), 0, 1));
    }
}
