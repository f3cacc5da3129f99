//! Complaints that come with every request are made once in a while.

use std::{fmt, time::Duration};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};

/// How seldom the same complaint is made.
const PERIOD: Duration = Duration::from_secs(5);

/// Lets the first complaint through, and then one every five seconds.
pub struct Seldom(DefaultDirectRateLimiter);

impl Seldom {
    /// Nothing has been complained of yet.
    pub fn new() -> Self {
        Self(RateLimiter::direct(Quota::with_period(PERIOD).expect("the period is not zero")))
    }

    /// Whether it is time to complain again.
    pub fn is_due(&self) -> bool {
        self.0.check().is_ok()
    }
}

impl Default for Seldom {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Seldom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seldom")
    }
}
