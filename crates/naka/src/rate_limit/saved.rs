//! What is known of all keys of one limit, as plain numbers.

use std::{cmp::Reverse, num::NonZeroU32, time::Duration};

use super::{
    gcra::{Algorithm, Cell, Factor, Layout, MAX_WINDOWS, Window},
    table::SHARDS,
};
use crate::saved::Unfit;

/// What is known of the keys of one limit: of each the same words that its cell has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Saved {
    /// How old the limiter was, in nanoseconds: what times are counted from.
    pub at_ns: u64,
    /// What each shard knows; those that know nothing are left out.
    pub shards: Vec<SavedShard>,
}

/// What one shard knows. Keys that have no history are left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedShard {
    /// Its number.
    pub shard: usize,
    /// What the words of a cell mean, in order.
    pub windows: Vec<SavedWindow>,
    /// The largest factor of a tier, in percent.
    pub widest: u32,
    /// What those share that come when it is full.
    pub overflow: [u64; MAX_WINDOWS],
    /// Each key's number, and its words: as many as there are windows, and zeros.
    pub keys: Vec<(u64, [u64; MAX_WINDOWS])>,
}

/// One window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SavedWindow {
    /// How it counts.
    pub algorithm: Algorithm,
    /// So many requests,
    pub count: u32,
    /// in so many nanoseconds,
    pub per_ns: u64,
    /// and so many of them at once.
    pub burst: u32,
    /// Of a window that is gone: until when it is charged on. Those in force come before those that are gone.
    pub until_ns: Option<u64>,
}

impl Saved {
    /// How many keys there are.
    pub fn keys(&self) -> usize {
        self.shards.iter().map(|shard| shard.keys.len()).sum()
    }

    /// Leaves out all keys but so many: those go first that would be as new the soonest. Says how many went.
    pub fn shorten(&mut self, keys: usize) -> usize {
        let gone = self.keys().saturating_sub(keys);
        if gone == 0 {
            return 0;
        }
        let at_ns = self.at_ns;
        let rest = |shard: &SavedShard| {
            let layout = shard.layout().ok();
            let rest_ns = |words| layout.map_or(0, |it| it.rest_ns(&Cell::of(words), at_ns));
            shard.keys.iter().map(|(_, words)| rest_ns(*words)).collect::<Vec<_>>()
        };
        let rests = self.shards.iter().map(rest).collect::<Vec<_>>();
        let mut all = rests.iter().flatten().copied().collect::<Vec<_>>();
        all.sort_unstable_by_key(|rest_ns| Reverse(*rest_ns));
        let least = if keys == 0 { u64::MAX } else { all[keys - 1] };
        let mut of_least = keys - all.partition_point(|rest_ns| *rest_ns > least).min(keys);
        for (shard, rests) in self.shards.iter_mut().zip(&rests) {
            let mut rests = rests.iter();
            shard.keys.retain(|_| {
                let rest_ns = *rests.next().expect("there is one for each key");
                let is_last = rest_ns == least && of_least > 0;
                of_least -= usize::from(is_last);
                rest_ns > least || is_last
            });
            shard.keys.shrink_to_fit();
        }
        gone
    }
}

impl SavedShard {
    /// What its cells are written in.
    pub(super) fn layout(&self) -> Result<Layout, Unfit> {
        if self.shard >= SHARDS {
            return Err(Unfit::Broken("there are fewer shards"));
        }
        if !self.windows.iter().is_sorted_by_key(|window| window.until_ns.is_some()) {
            return Err(Unfit::Broken("a window that is gone before one in force"));
        }
        let windows = self.windows.iter().map(|it| Some((it.window()?, it.until_ns)));
        let windows =
            windows.collect::<Option<Vec<_>>>().ok_or(Unfit::Broken("a window without requests"))?;
        Layout::restored(&windows, Factor::percent(self.widest))
            .ok_or(Unfit::Broken("no windows, or too many"))
    }
}

impl SavedWindow {
    pub(super) fn of(window: &Window, until_ns: Option<u64>) -> Self {
        let (algorithm, count, per_ns, burst) = window.said();
        Self { algorithm, count, per_ns, burst, until_ns }
    }

    fn window(&self) -> Option<Window> {
        let (count, burst) = (NonZeroU32::new(self.count)?, NonZeroU32::new(self.burst)?);
        Some(Window::new(count, Duration::from_nanos(self.per_ns)).burst(burst).counted(self.algorithm))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        key::Key,
        rate_limit::{
            Quota,
            table::{Asked, Rule, Table},
        },
    };

    const S: u64 = 1_000_000_000;

    fn windows() -> impl Strategy<Value = Vec<Window>> {
        let window =
            (1..20_u32, 1..20_000_u64, 1..20_u32, any::<bool>()).prop_map(|(count, ms, burst, slides)| {
                let window = Window::new(NonZeroU32::new(count).unwrap(), Duration::from_millis(ms));
                let algorithm = if slides { Algorithm::SlidingWindow } else { Algorithm::Gcra };
                window.burst(NonZeroU32::new(burst).unwrap()).counted(algorithm)
            });
        prop::collection::vec(window, 1..=MAX_WINDOWS)
    }

    fn rule(generation: u64, windows: &[Window]) -> Rule {
        let tiers = [Factor::percent(50), Factor::percent(300)];
        Rule::new(generation, Quota::new(windows).unwrap(), 100_000, &tiers)
    }

    /// Which key, how much, of which tier, and so long after the one before.
    fn requests() -> impl Strategy<Value = Vec<(u8, u32, Option<usize>, u64)>> {
        let one = (0..6_u8, 1..5_u32, prop::option::of(0..2_usize), 0..3_000_000_000_u64);
        prop::collection::vec(one, 0..80)
    }

    proptest! {
        /// Whatever came before, whatever is changed on the way, and whatever comes after.
        #[test]
        fn a_restored_limiter_says_what_the_first_one_says(
            first in windows(),
            second in windows(),
            third in windows(),
            before in requests(),
            between in requests(),
            after in requests(),
        ) {
            let (old, middle, new) = (rule(1, &first), rule(2, &second), rule(3, &third));
            let original = Table::new(old.quota);
            let mut now_ns = 0;
            let asked = |(key, cost, tier, wait_ns): (u8, u32, Option<usize>, u64), now_ns: &mut u64| {
                *now_ns += wait_ns;
                Asked { key: Key::of(key), cost, tier, now_ns: *now_ns }
            };
            for request in before {
                _ = original.commit(&old, &asked(request, &mut now_ns));
            }
            for request in between {
                _ = original.commit(&middle, &asked(request, &mut now_ns));
            }
            let restored = Table::new(new.quota);
            restored.restore(&original.save(now_ns).collect::<Vec<_>>()).unwrap();
            let begins = Rule { generation: 1, ..new.clone() };
            for request in after {
                let asked = asked(request, &mut now_ns);
                prop_assert_eq!(restored.peek(&begins, &asked), original.peek(&new, &asked));
                prop_assert_eq!(restored.commit(&begins, &asked), original.commit(&new, &asked));
            }
        }
    }

    #[test]
    fn those_are_left_out_that_would_be_as_new_the_soonest() {
        let rule = rule(1, &[Window::per_minute(60)]);
        let table = Table::new(rule.quota);
        for key in 0..100_u32 {
            _ = table.commit(&rule, &Asked { key: Key::of(key), cost: key / 2 + 1, tier: None, now_ns: S });
        }
        let mut saved = Saved { at_ns: S, shards: table.save(S).collect() };
        assert_eq!((saved.keys(), saved.shorten(100)), (100, 0));
        assert_eq!((saved.shorten(31), saved.keys()), (69, 31));
        let kept = |key: u32| {
            let all = saved.shards.iter().flat_map(|shard| &shard.keys);
            all.into_iter().any(|(known, _)| *known == Key::of(key).bits())
        };
        assert_eq!((70..100).filter(|key| kept(*key)).count(), 30, "the most spent");
        assert_eq!((68..70).filter(|key| kept(*key)).count(), 1, "of two alike any");
        assert_eq!((saved.shorten(0), saved.keys()), (31, 0));
    }

    #[test]
    fn what_no_limiter_could_have_said_is_refused_whole() {
        let rule = rule(1, &[Window::per_minute(1)]);
        let table = Table::new(rule.quota);
        _ = table.commit(&rule, &Asked { key: Key::of("asha"), cost: 1, tier: None, now_ns: S });
        let good = table.save(S).collect::<Vec<_>>();
        assert_eq!(table.restore(&good), Err(Unfit::NotNew));
        let broken = |what, change: &dyn Fn(&mut SavedShard)| {
            let mut shards = good.clone();
            change(&mut shards[0]);
            let fresh = Table::new(rule.quota);
            assert_eq!(fresh.restore(&shards), Err(Unfit::Broken(what)));
            assert_eq!(fresh.len(), 0);
        };
        broken("there are fewer shards", &|shard| shard.shard += SHARDS);
        broken("a key in the shard of others", &|shard| shard.shard = (shard.shard + 1) % SHARDS);
        broken("a key twice", &|shard| shard.keys.push(shard.keys[0]));
        broken("no windows, or too many", &|shard| shard.windows.clear());
        broken("no windows, or too many", &|shard| shard.windows = vec![shard.windows[0]; 5]);
        broken("a window without requests", &|shard| shard.windows[0].count = 0);
        broken("a window that is gone before one in force", &|shard| {
            shard.windows = vec![SavedWindow { until_ns: Some(9), ..shard.windows[0] }, shard.windows[0]];
        });
        let fresh = Table::new(rule.quota);
        let twice = [good.clone(), good.clone()].concat();
        assert_eq!(fresh.restore(&twice), Err(Unfit::Broken("a shard twice")));
        assert_eq!(fresh.restore(&good), Ok(Duration::from_mins(1)));
        assert_eq!(fresh.restore(&good), Err(Unfit::NotNew));
    }
}
