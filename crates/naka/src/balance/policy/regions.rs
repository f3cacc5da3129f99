//! Geographic preference: for each region of clients an ordered list of regions of endpoints. The first one on
//! the list that has an open endpoint is used, so it goes on to the next where a region has no *capacity*, and
//! not only where it has no endpoint. Last come all others.

use super::{Candidates, index, short};

/// The rank of an endpoint in none of the listed regions.
pub const LAST: u8 = u8::MAX;

/// The rank of each place, and the places by their ranks.
#[derive(Clone, Debug)]
pub struct Ranks {
    ranks: Box<[u8]>,
    by_rank: Box<[u32]>,
}

impl Ranks {
    /// Of these, which are those of the places in their order.
    pub fn new(ranks: impl Iterator<Item = u8>) -> Self {
        let ranks = ranks.collect::<Box<[_]>>();
        let mut by_rank = (0..ranks.len()).map(short).collect::<Box<[_]>>();
        by_rank.sort_by_key(|place| ranks[index(*place)]);
        Self { ranks, by_rank }
    }

    /// The rank of each place.
    pub fn of_places(&self) -> &[u8] {
        &self.ranks
    }

    /// The best rank with an open place: that of the first one, nearly always.
    pub fn best(&self, candidates: &impl Candidates) -> Option<u8> {
        let mut places = self.by_rank.iter().map(|place| index(*place));
        places.find(|place| candidates.is_open(*place)).map(|place| self.ranks[place])
    }
}

/// The rank of a region on a list; a list has at most 255 regions that count.
pub fn rank<T: PartialEq>(list: &[T], region: Option<&T>) -> u8 {
    let place = region.and_then(|region| list.iter().position(|it| it == region));
    place.and_then(|place| u8::try_from(place).ok()).unwrap_or(LAST)
}

#[cfg(test)]
mod tests {
    use super::{super::scripted::Scripted, *};

    #[test]
    fn the_first_region_with_an_open_endpoint_is_used() {
        let list = ["west", "central", "north"];
        let of = ["central", "west", "east", "central"];
        let ranks = Ranks::new(of.into_iter().map(|region| rank(&list, Some(&region))));
        assert_eq!(ranks.of_places(), [1, 0, LAST, 1]);
        let candidates = Scripted::open(&[1; 4]);
        assert_eq!(ranks.best(&candidates), Some(0));
        let candidates = candidates.without(1);
        assert_eq!(ranks.best(&candidates), Some(1));
        let candidates = candidates.without(0).without(3);
        assert_eq!(ranks.best(&candidates), Some(LAST));
        assert_eq!(ranks.best(&candidates.without(2)), None);
        assert_eq!(rank(&list, None), LAST);
    }
}
