//! Maglev (Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016, § 3.4):
//! a table of prime size, filled by the endpoints in turn, each by a permutation of its own. One look a request,
//! and shares that are very even. What it costs: an endpoint that leaves the set moves a few keys of others
//! (an endpoint that is only unavailable moves none but its own).

use super::{Candidates, hash::mix, index, rendezvous::Rendezvous, short, slot};

/// The size of the paper's smaller table.
pub const SMALL: u32 = 65_537;
/// The largest table there can be: 20 MiB.
pub const MAX_SIZE: u32 = 5_000_011;

/// How often a key is hashed again if its endpoint is not open.
const AGAIN: u64 = 16;

/// Whose each slot is.
#[derive(Clone, Debug)]
pub struct Maglev {
    table: Box<[u32]>,
    rest: Rendezvous,
}

impl Maglev {
    /// A table of endpoints, each with a hash of what it is and its weight. Its size is the first prime from
    /// `size` on, at most [`MAX_SIZE`], and not below the number of endpoints. It does not depend on their order.
    pub fn new(members: &[(u64, u32)], size: u32) -> Self {
        let rest = Rendezvous::new(members);
        if members.is_empty() {
            return Self { table: Box::default(), rest };
        }
        let size = prime(size.max(short(members.len())).clamp(2, MAX_SIZE));
        let heaviest = u64::from(members.iter().map(|(_, weight)| *weight).max().unwrap_or(1).max(1));
        let mut fillers = members.iter().enumerate().map(|(place, (identity, weight))| {
            let (offset, skip) = (mix(identity.wrapping_add(1)), mix(identity.wrapping_add(2)));
            let (size, weight) = (u64::from(size), u64::from((*weight).max(1)));
            let (at, step) = (offset % size, skip % (size - 1) + 1);
            Filler { identity: *identity, place: short(place), at, step, weight, credit: 0 }
        });
        let mut fillers = fillers.by_ref().collect::<Vec<_>>();
        fillers.sort_unstable_by_key(|filler| filler.identity);
        let (mut table, mut empty) = (vec![EMPTY; index(size)], index(size));
        while empty > 0 {
            for filler in &mut fillers {
                filler.credit += filler.weight;
                if filler.credit >= heaviest && empty > 0 {
                    filler.credit -= heaviest;
                    filler.fill(&mut table);
                    empty -= 1;
                }
            }
        }
        Self { table: table.into(), rest }
    }

    /// The place of `key`. If it is not open, the key is hashed again, so that its keys go to all others alike;
    /// if that meets closed ones only, the highest of the open ones by [rendezvous](super::rendezvous).
    pub fn pick(&self, key: u64, candidates: &impl Candidates) -> Option<usize> {
        if self.table.is_empty() {
            return None;
        }
        let at = |again: u64| if again == 0 { key } else { mix(key.wrapping_add(again)) };
        let place = |again| index(self.table[slot(at(again), self.table.len())]);
        let found = (0..AGAIN).map(place).find(|place| candidates.is_open(*place));
        found.or_else(|| self.rest.pick(key, candidates))
    }
}

const EMPTY: u32 = u32::MAX;

struct Filler {
    identity: u64,
    place: u32,
    at: u64,
    step: u64,
    weight: u64,
    credit: u64,
}

impl Filler {
    /// Takes the next slot of its permutation that is empty; there is one.
    fn fill(&mut self, table: &mut [u32]) {
        let size = table.len();
        loop {
            let slot = slot(self.at, size);
            self.at = self.at.wrapping_add(self.step) % u64::try_from(size).unwrap_or(u64::MAX);
            if table[slot] == EMPTY {
                table[slot] = self.place;
                return;
            }
        }
    }
}

fn prime(from: u32) -> u32 {
    let is_prime = |number: &u32| (2..=number.isqrt()).all(|it| !number.is_multiple_of(it));
    // The largest there can be is a prime itself.
    (from..=MAX_SIZE).find(is_prime).unwrap_or(MAX_SIZE)
}

#[cfg(test)]
mod tests {
    use super::{super::scripted::Scripted, *};

    fn members(count: u64) -> Vec<(u64, u32)> {
        (1..=count).map(|number| (mix(number), 1)).collect()
    }

    fn shares(maglev: &Maglev, count: usize) -> Vec<usize> {
        let mut shares = vec![0; count];
        maglev.table.iter().for_each(|place| shares[index(*place)] += 1);
        shares
    }

    /// § 3.4 of the paper: with a table of more than 100 times the endpoints, shares differ by at most 1 %.
    #[test]
    fn r9_4_maglev_is_as_even_as_the_paper_says() {
        let shares = shares(&Maglev::new(&members(100), SMALL), 100);
        let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
        println!("slots of 100 endpoints in {SMALL}: {least} to {most}; the paper: at most 1 % apart");
        assert!(most - least <= 65_537 / 100 / 100);
    }

    #[test]
    fn r9_4_maglev_moves_few_keys_of_others() {
        let (all, before) = (members(10), Maglev::new(&members(10), SMALL));
        let after = Maglev::new(&all[..9], SMALL);
        let both = before.table.iter().zip(&after.table).filter(|(before, _)| **before != 9);
        let moved = both.clone().filter(|(before, after)| before != after).count();
        let others = both.count();
        println!("of {others} slots of others {moved} moved when 1 of 10 left; none is the ideal");
        assert!(moved * 20 < others, "{moved} of {others}");
        let back = Maglev::new(&all, SMALL);
        assert_eq!(back.table, before.table, "adding it back restores all");
    }

    #[test]
    fn r9_4_an_endpoint_that_is_down_moves_only_its_own_keys() {
        let maglev = Maglev::new(&members(10), 1000);
        let (all, down) = (Scripted::open(&[1; 10]), Scripted::open(&[1; 10]).without(4));
        let mut gained = [0; 10];
        for key in (0..20_000).map(mix) {
            let (before, after) = (maglev.pick(key, &all).unwrap(), maglev.pick(key, &down).unwrap());
            assert!(before == 4 || before == after);
            gained[after] += usize::from(before == 4);
        }
        assert!(gained.iter().enumerate().all(|(place, it)| place == 4 || *it > 130), "{gained:?}");
    }

    #[test]
    fn slots_follow_weights() {
        let maglev = Maglev::new(&[(mix(1), 1), (mix(2), 3)], 1000);
        assert_eq!(maglev.table.len(), 1009, "the next prime");
        let shares = shares(&maglev, 2);
        assert!(shares[0].abs_diff(252) <= 1, "{shares:?}");
        assert_eq!(Maglev::new(&members(3), 0).table.len(), 3);
    }
}
