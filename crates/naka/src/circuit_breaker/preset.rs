//! Breakers for services of well-known kinds.

use std::time::Duration;

use super::{CircuitBreakerConfig, SlowCall, Window};

/// A breaker for services of one kind, and the timeout that goes with it: put that *inside* of the breaker,
/// or what hangs is given up from outside, and says nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Preset {
    /// Its name, as in configuration.
    pub name: &'static str,
    /// The breaker.
    pub config: CircuitBreakerConfig,
    /// How long a call may take.
    pub timeout: Duration,
}

impl Preset {
    /// Booking trains: slow by nature, and not to be pressed.
    pub const IRCTC_BOOKING: Self = Self::new("irctc_booking", 3, 120, 30, 15, 30);
    /// Paying: opens early and slowly closes.
    pub const PAYMENT_GATEWAY: Self = Self::new("payment_gateway", 2, 60, 45, 20, 10);
    /// Ordering food.
    pub const FOOD_DELIVERY: Self = Self::new("food_delivery", 5, 90, 20, 10, 40);
    /// Booking cabs: answers fast, or not at all.
    pub const CAB_BOOKING: Self = Self::new("cab_booking", 4, 45, 15, 8, 35);

    /// All with a name.
    pub const ALL: [Self; 4] =
        [Self::IRCTC_BOOKING, Self::PAYMENT_GATEWAY, Self::FOOD_DELIVERY, Self::CAB_BOOKING];

    /// The one with this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|preset| preset.name == name)
    }

    /// For a restaurant by its rating, in tenths of a star: who is rated well has more patience.
    ///
    /// ```
    /// use naka::circuit_breaker::Preset;
    /// let failures = [46, 45, 44, 40, 39].map(|rating| Preset::restaurant(rating).config.consecutive);
    /// assert_eq!(failures, [5, 5, 3, 3, 2]);
    /// ```
    pub const fn restaurant(rating_tenths: u32) -> Self {
        let (preset, successes) = match rating_tenths {
            45.. => (Self::new("restaurant_top", 5, 45, 15, 8, 30), 2),
            40..=44 => (Self::new("restaurant_good", 3, 60, 20, 10, 25), 3),
            _ => (Self::new("restaurant_other", 2, 90, 25, 12, 20), 4),
        };
        Self { config: preset.config.probes(3, successes), ..preset }
    }

    /// Times in seconds. Of the last 100 calls at least ten count; four of five that are slow open as well.
    const fn new(
        name: &'static str,
        consecutive: u32,
        open_s: u64,
        timeout_s: u64,
        slow_s: u64,
        failure_rate: u8,
    ) -> Self {
        let open = Duration::from_secs(open_s);
        let config = CircuitBreakerConfig::new()
            .consecutive(consecutive)
            .failure_rate(failure_rate)
            .slow_call(SlowCall::new(Duration::from_secs(slow_s), 80))
            .window(Window::Count(100), 10)
            .open(open, open)
            .probes(3, 3);
        Self { name, config, timeout: Duration::from_secs(timeout_s) }
    }
}
