//! Round robin: all in their order, one turn each.

use super::{Candidates, slot};

/// The first open place at or behind `turn`, and the turn that follows it.
///
/// A place that is closed loses its turn, and the turn counter goes on behind the one that was chosen. So the
/// sequence is that of all places with the closed ones taken out, and nobody gets two turns because of a
/// neighbour: neither an index into a list of those that are open just now, nor giving a lost turn to the
/// next one, has that property.
pub fn pick(turn: u64, candidates: &impl Candidates) -> Option<(usize, u64)> {
    walk(turn, candidates.count(), |slot| slot, candidates)
}

/// The same over slots, each of which is some place's.
pub(super) fn walk(
    turn: u64,
    slots: usize,
    place: impl Fn(usize) -> usize,
    candidates: &impl Candidates,
) -> Option<(usize, u64)> {
    let mut at = if slots == 0 { 0 } else { slot(turn, slots) };
    let mut next = turn;
    for _ in 0..slots {
        next = next.wrapping_add(1);
        let place = place(at);
        if candidates.is_open(place) {
            return Some((place, next));
        }
        at = if at + 1 == slots { 0 } else { at + 1 };
    }
    None
}

#[cfg(test)]
mod tests {
    use super::{super::scripted::Scripted, *};

    #[test]
    fn a_closed_place_gives_its_turns_to_all_others_alike() {
        let (candidates, mut turn, mut counts) = (Scripted::open(&[1; 6]).without(2), 0, [0; 6]);
        for _ in 0..5000 {
            let (place, next) = pick(turn, &candidates).unwrap();
            (turn, counts[place]) = (next, counts[place] + 1);
        }
        assert_eq!(counts, [1000, 1000, 0, 1000, 1000, 1000]);
    }

    #[test]
    fn nobody_is_chosen_of_nobody() {
        assert_eq!(pick(7, &Scripted::open(&[])), None);
        assert_eq!(pick(7, &Scripted::open(&[1]).without(0)), None);
    }
}
