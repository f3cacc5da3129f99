//! Credentials that have been verified, so that what is costly is done once and not with each request.

use std::{
    collections::HashMap,
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Independent locks.
const SHARDS: usize = 16;
/// What one shard remembers.
const CAP: usize = 1024;
/// What all of it may weigh in one shard, in bytes.
const MAX_WEIGHT: usize = 4 << 20;

/// A digest of credentials: nobody can make others of the same, and they themselves are not kept.
pub(crate) type Fingerprint = [u8; 32];

/// What is known of credentials: at most 16,384 of them, and 64 MiB in all. At a bound what is over goes,
/// and if nothing is, the shard begins anew: something costly is then done once more, and nothing else
/// happens.
pub(crate) struct Remembered<V>([Mutex<Shard<V>>; SHARDS]);

struct Shard<V> {
    known: HashMap<Fingerprint, (V, usize)>,
    weight: usize,
}

impl<V: Clone> Remembered<V> {
    pub(crate) fn get(&self, print: &Fingerprint) -> Option<V> {
        self.shard(print).known.get(print).map(|(value, _)| value.clone())
    }

    /// Remembers a value that weighs so many bytes.
    pub(crate) fn put(&self, print: Fingerprint, value: V, weight: usize, is_over: impl Fn(&V) -> bool) {
        let mut shard = self.shard(&print);
        if let Some((_, old)) = shard.known.remove(&print) {
            shard.weight -= old;
        }
        if !shard.has_room(weight) {
            shard.known.retain(|_, (value, _)| !is_over(value));
            shard.weight = shard.known.values().map(|(_, weight)| weight).sum();
        }
        if !shard.has_room(weight) {
            *shard = Shard::default();
        }
        shard.weight += weight;
        shard.known.insert(print, (value, weight));
    }

    fn shard(&self, print: &Fingerprint) -> MutexGuard<'_, Shard<V>> {
        self.0[usize::from(print[0]) % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<V> Shard<V> {
    fn has_room(&self, weight: usize) -> bool {
        self.known.len() < CAP && self.weight + weight <= MAX_WEIGHT
    }
}

impl<V> Default for Shard<V> {
    fn default() -> Self {
        Self { known: HashMap::new(), weight: 0 }
    }
}

impl<V> Default for Remembered<V> {
    fn default() -> Self {
        Self(Default::default())
    }
}

impl<V> fmt::Debug for Remembered<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Remembered")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn print(number: u32) -> Fingerprint {
        let mut print = [0; 32];
        print[1..5].copy_from_slice(&number.to_le_bytes());
        print
    }

    #[test]
    fn it_is_bounded_in_number_and_in_weight() {
        let all = Remembered::default();
        for number in 0..10_000 {
            all.put(print(number), number, 100, |_| false);
            assert_eq!(all.get(&print(number)), Some(number));
            let shard = all.shard(&print(0));
            assert!(shard.known.len() <= CAP && shard.weight == 100 * shard.known.len());
        }
        for number in 0..200 {
            all.put(print(number), number, MAX_WEIGHT / 10, |_| false);
            assert!(all.shard(&print(0)).weight <= MAX_WEIGHT);
        }
    }

    #[test]
    fn what_is_over_goes_first() {
        let all = Remembered::default();
        for number in 0..2000 {
            all.put(print(number), number, 1, |number| number % 2 == 1);
        }
        assert!(all.get(&print(0)).is_some() && all.get(&print(1)).is_none());
    }

    #[test]
    fn one_that_is_remembered_again_weighs_once() {
        let all = Remembered::default();
        for _ in 0..100 {
            all.put(print(7), 7, 1000, |_| false);
        }
        assert_eq!(all.shard(&print(7)).weight, 1000);
    }
}
