//! The sliding-window counter alone: what one window of one key has seen, in one word.
//!
//! Time is cut into windows of one period, counted from the limiter's start. A word holds the number of
//! the window in which the key was last charged, and the counts of that window and of the one before it.
//! At `elapsed` into a window are spent:
//!
//! `spent = ceil(previous * (period - elapsed) / period) + current`
//!
//! as Cloudflare described it ("How we built rate limiting capable of scaling to millions of domains",
//! 2017) and Kong counts it; ours rounds up, and takes what comes late at the start of the key's window.

/// The clock stands still after 36 years, so that the number of a window needs no more bits than that.
const HORIZON_NS: u64 = (1 << 60) - 1;

/// One sliding window.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sliding {
    period_ns: u64,
    limit: u64,
}

/// What a word says at some time: within the key's newest window.
#[derive(Clone, Copy, Debug)]
struct Seen {
    index: u64,
    previous: u64,
    current: u64,
    elapsed_ns: u64,
    /// How far the key's newest window begins after the time that was asked for.
    skew_ns: u64,
}

impl Sliding {
    pub(super) const fn new(period_ns: u64, limit: u32) -> Self {
        let period_ns = if period_ns == 0 { 1 } else { period_ns };
        let most = most(period_ns);
        let limit = if limit > most { most } else { limit };
        Self { period_ns, limit: limit as u64 }
    }

    pub(super) const fn limit(self) -> u64 {
        self.limit
    }

    /// Charges `cost`: what is left, and the new word; or the wait, `None` if none would help.
    pub(super) fn take(self, word: u64, cost: u32, now_ns: u64) -> Result<(u64, u64), Option<u64>> {
        let (seen, cost) = (self.seen(word, now_ns), u64::from(cost));
        let spent = self.spent(&seen) + cost;
        if spent <= self.limit {
            return Ok((self.limit - spent, self.pack(&Seen { current: seen.current + cost, ..seen })));
        }
        Err((cost <= self.limit).then(|| self.wait_ns(&seen, cost)))
    }

    /// Charges `cost` whatever is left, up to `cap`.
    pub(super) fn charge(self, word: u64, cost: u64, cap: u64, now_ns: u64) -> u64 {
        let seen = self.seen(word, now_ns);
        let current = (seen.current + cost).min(cap.max(seen.current));
        self.pack(&Seen { current, ..seen })
    }

    /// The word of one that has been charged so much just now.
    pub(super) fn with_spent(self, spent: u64, now_ns: u64) -> u64 {
        self.charge(0, spent, spent, now_ns)
    }

    /// The same word, with no count above `cap`. All windows of one period write their words alike.
    pub(super) fn capped(self, word: u64, cap: u64, now_ns: u64) -> u64 {
        let seen = self.seen(word, now_ns);
        self.pack(&Seen { previous: seen.previous.min(cap), current: seen.current.min(cap), ..seen })
    }

    /// What is spent now.
    pub(super) fn spent_at(self, word: u64, now_ns: u64) -> u64 {
        self.spent(&self.seen(word, now_ns))
    }

    /// After this long without a request nothing is spent.
    pub(super) fn reset_ns(self, word: u64, now_ns: u64) -> u64 {
        let seen = self.seen(word, now_ns);
        let rest_ns = self.period_ns - seen.elapsed_ns;
        let reset_ns = match (seen.previous, seen.current) {
            (0, 0) => return 0,
            (_, 0) => rest_ns,
            _ => rest_ns.saturating_add(self.period_ns),
        };
        reset_ns.saturating_add(seen.skew_ns)
    }

    fn seen(self, word: u64, now_ns: u64) -> Seen {
        let bits = count_bits(self.period_ns);
        let mask = (1 << bits) - 1;
        // Two counts of 32 bits leave none for the index: all the time there is is one window.
        let index = if bits == 32 { 0 } else { word >> (2 * bits) };
        let (previous, current) = ((word >> bits) & mask, word & mask);
        let now_ns = now_ns.min(HORIZON_NS);
        let (now, elapsed_ns) = (now_ns / self.period_ns, now_ns % self.period_ns);
        if index > now {
            // Another request read the clock later and came first.
            let skew_ns = index.saturating_mul(self.period_ns) - now_ns;
            return Seen { index, previous, current, elapsed_ns: 0, skew_ns };
        }
        let (previous, current) = match now - index {
            0 => (previous, current),
            1 => (current, 0),
            _ => (0, 0),
        };
        Seen { index: now, previous, current, elapsed_ns, skew_ns: 0 }
    }

    fn pack(self, seen: &Seen) -> u64 {
        let bits = count_bits(self.period_ns);
        let most = u64::from(most(self.period_ns));
        let index = if bits == 32 { 0 } else { seen.index << (2 * bits) };
        index | seen.previous.min(most) << bits | seen.current.min(most)
    }

    fn spent(self, seen: &Seen) -> u64 {
        let rest_ns = self.period_ns - seen.elapsed_ns;
        let weighted = match seen.previous.checked_mul(rest_ns) {
            Some(product) => product.div_ceil(self.period_ns),
            None => scaled(seen.previous, rest_ns, self.period_ns),
        };
        weighted + seen.current
    }

    /// From then on there is room: when enough of the previous window has gone by, else of this one.
    fn wait_ns(self, seen: &Seen, cost: u64) -> u64 {
        // The first time at which `of` of the window before, and `besides`, leave room.
        let room_at = |of: u64, besides: u64| scaled(of + besides - self.limit, self.period_ns, of);
        let wait_ns = if seen.current + cost <= self.limit {
            room_at(seen.previous, seen.current + cost) - seen.elapsed_ns
        } else {
            self.period_ns - seen.elapsed_ns + room_at(seen.current, cost)
        };
        wait_ns.saturating_add(seen.skew_ns)
    }
}

/// `value * numerator / denominator`, rounded up.
pub(super) fn scaled(value: u64, numerator: u64, denominator: u64) -> u64 {
    let scaled = (u128::from(value) * u128::from(numerator)).div_ceil(u128::from(denominator.max(1)));
    u64::try_from(scaled).unwrap_or(u64::MAX)
}

/// The largest count of a period: 65,535 in a second, 524,287 in a minute, 4,194,303 in an hour.
pub(super) const fn most(period_ns: u64) -> u32 {
    u32::MAX >> (32 - count_bits(period_ns))
}

/// What the number of a window leaves to the counts.
const fn count_bits(period_ns: u64) -> u32 {
    let index_bits = 60_u32.saturating_sub(period_ns.ilog2());
    (64 - index_bits) / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    #[test]
    fn what_was_just_charged_weighs_less_and_less_in_the_next_window() {
        let ten = Sliding::new(60 * S, 10);
        let word = ten.with_spent(10, 59 * S);
        assert_eq!(ten.take(word, 1, 59 * S), Err(Some(S + 6 * S)), "a tenth of the next window on");
        assert_eq!(ten.take(word, 1, 66 * S - 1), Err(Some(1)));
        assert_eq!(ten.take(word, 1, 66 * S).map(|(left, _)| left), Ok(0));
        assert_eq!(ten.take(word, 10, 59 * S), Err(Some(61 * S)), "all of it when it is all gone");
        assert_eq!(ten.take(word, 11, 59 * S), Err(None));
        assert_eq!(ten.reset_ns(word, 59 * S), 61 * S);
        assert_eq!(ten.reset_ns(word, 120 * S), 0);
    }

    #[test]
    fn one_that_reads_the_clock_early_and_comes_late_is_counted_where_the_others_are() {
        let two = Sliding::new(S, 2);
        let word = two.with_spent(2, S);
        assert_eq!(two.take(word, 1, S - 1), Err(Some(1 + S + S / 2)));
        let (_, word) = two.take(two.with_spent(1, S), 1, S - 1).unwrap();
        assert_eq!(two.spent_at(word, S), 2);
    }

    #[test]
    fn counts_that_no_word_can_hold_are_lowered() {
        assert_eq!([S, 60 * S, 3600 * S].map(most), [65_535, 524_287, 4_194_303]);
        for period_ns in [0, 1, 7, S, 1 << 59, 1 << 60, u64::MAX] {
            let all = Sliding::new(period_ns, u32::MAX);
            let cost = u32::try_from(all.limit()).unwrap();
            let (left, word) = all.take(0, cost, HORIZON_NS).unwrap();
            assert_eq!((left, all.spent_at(word, u64::MAX)), (0, all.limit()), "{period_ns}");
            assert!(all.take(word, 1, u64::MAX).is_err());
        }
    }
}
