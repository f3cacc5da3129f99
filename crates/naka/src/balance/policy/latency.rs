//! Latency: what a request costs where it would go, for [least latency](super::least) and the
//! [better of two](super::p2c).

use super::ewma::MAX_US;

/// The estimated latency, as often as there would be requests for its weight, to be divided by the weight:
/// latency × (in flight / weight + 1). Without weights it is Finagle's "peak EWMA" load. With them a heavy
/// endpoint is no faster than others when nothing is to do, and bears more when there is.
///
/// An endpoint that nobody has measured is as fast as the others are on average (0 if none is known), so it is
/// as good as they are while it has as few requests, and no better: nothing is poured over a cold one.
pub fn cost(estimate_us: u32, in_flight: u32, weight: u32) -> u64 {
    u64::from(estimate_us.clamp(1, MAX_US)) * (u64::from(in_flight) + u64::from(weight))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_more_to_do_costs_more() {
        assert_eq!(cost(500, 0, 1), 500);
        assert_eq!(cost(500, 3, 1), 2000);
        assert!(cost(0, 5, 1) > cost(0, 4, 1), "what is not known does not hide how many there are");
    }
}
