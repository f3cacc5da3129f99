//! Numbers by chance that follow from a seed: `SplitMix64` (Steele, Lea and Flood, "Fast Splittable Pseudorandom
//! Number Generators", OOPSLA 2014). For spreading load and pauses, and never for secrets.

use std::{
    cell::Cell,
    collections::hash_map::RandomState,
    hash::BuildHasher as _,
    marker::PhantomData,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

/// What the state goes on by for each number.
pub const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// The finaliser (variant 13 of Stafford): each bit of the number changes half of the result.
pub const fn mix(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

thread_local! {
    static FOLLOWING: Cell<Option<u64>> = const { Cell::new(None) };
}

/// A number to begin with that nobody has foreseen; on a thread that has a [`Seeded`], the next one that follows from its seed.
pub fn seed() -> u64 {
    match FOLLOWING.get() {
        Some(state) => {
            let state = state.wrapping_add(GAMMA);
            FOLLOWING.set(Some(state));
            mix(state)
        }
        None => RandomState::new().hash_one(0),
    }
}

/// As long as it is there, everything that is made on this thread and takes a [`seed`] can be foreseen: the same things,
/// made in the same order from the same number, do the same. For simulations; another thread knows nothing of it.
#[derive(Debug)]
#[must_use = "it ends when it is dropped"]
pub struct Seeded {
    before: Option<u64>,
    /// It stays on its thread.
    _here: PhantomData<*const ()>,
}

impl Seeded {
    /// From here on.
    pub fn by(number: u64) -> Self {
        Self { before: FOLLOWING.replace(Some(number)), _here: PhantomData }
    }
}

impl Drop for Seeded {
    fn drop(&mut self) {
        FOLLOWING.set(self.before);
    }
}

/// Numbers that several threads draw from.
#[derive(Debug)]
pub struct Numbers(AtomicU64);

impl Numbers {
    /// Those that follow from this one.
    pub const fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }

    /// The next one.
    pub fn draw(&self) -> u64 {
        mix(self.0.fetch_add(GAMMA, Relaxed).wrapping_add(GAMMA)) // Relaxed: it orders nothing.
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_those_of_the_paper() {
        let numbers = Numbers::new(1_234_567);
        let drawn = [(); 3].map(|()| numbers.draw());
        assert_eq!(drawn, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }

    #[test]
    fn seeds_follow_from_one_on_its_thread_and_as_long_as_it_is_there() {
        let drawn = || {
            let _seeded = Seeded::by(7);
            let others = std::thread::spawn(|| [seed(), seed()]).join().unwrap();
            assert_ne!(others[0], others[1]);
            [seed(), seed()]
        };
        let first = drawn();
        assert_eq!(first, drawn());
        assert_ne!(first[0], first[1]);
        assert_ne!(seed(), seed(), "nobody has foreseen these");
        let _outer = Seeded::by(1);
        let next = seed();
        drop(Seeded::by(1));
        assert_ne!(seed(), next, "the outer one goes on where it was");
    }
}
