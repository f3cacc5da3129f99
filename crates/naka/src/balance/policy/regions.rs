//! Geographic preference: for each region of clients an ordered list of regions of endpoints. The first one on
//! the list that has an open endpoint is used, so it goes on to the next where a region has no *capacity*, and
//! not only where it has no endpoint. Last come all others.

use super::Candidates;

/// The rank of an endpoint in none of the listed regions.
pub const LAST: u8 = u8::MAX;

/// The best rank with an open place; `ranks` is the rank of each place.
pub fn best(ranks: &[u8], candidates: &impl Candidates) -> Option<u8> {
    let open = ranks.iter().enumerate().filter(|(place, _)| candidates.is_open(*place));
    open.map(|(_, rank)| *rank).min()
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
        let ranks = of.map(|region| rank(&list, Some(&region)));
        assert_eq!(ranks, [1, 0, LAST, 1]);
        let candidates = Scripted::open(&[1; 4]);
        assert_eq!(best(&ranks, &candidates), Some(0));
        let candidates = candidates.without(1);
        assert_eq!(best(&ranks, &candidates), Some(1));
        let candidates = candidates.without(0).without(3);
        assert_eq!(best(&ranks, &candidates), Some(LAST));
        assert_eq!(best(&ranks, &candidates.without(2)), None);
        assert_eq!(rank(&list, None), LAST);
    }
}
