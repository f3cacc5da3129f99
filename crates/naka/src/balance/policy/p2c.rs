//! The better of two: draw two, take the one that costs less (Mitzenmacher, "The Power of Two Choices in
//! Randomized Load Balancing", 2001; as Finagle's balancer does, over the costs of [`latency`](super::latency)).
//!
//! It looks at two endpoints however many there are, and does not herd: what everybody knows to be the best
//! one just now is drawn no more often than others.

use super::{
    Candidates, Except,
    least::compare,
    random::{self, Draws, Sums},
};

/// Of two different open places, drawn by weight, the one whose cost over its weight is the lesser; of two
/// equals, the one that was drawn first.
pub fn pick(
    sums: &Sums,
    draws: &mut Draws,
    candidates: &impl Candidates,
    cost: impl Fn(usize) -> u64,
) -> Option<usize> {
    let first = random::pick(sums, draws, candidates)?;
    let others = Except { candidates, place: first };
    let Some(second) = random::pick(sums, draws, &others) else { return Some(first) };
    let weight = |place| candidates.weight(place);
    let order = compare(cost(second), weight(second), cost(first), weight(first));
    Some(if order.is_lt() { second } else { first })
}

#[cfg(test)]
mod tests {
    use super::{super::scripted::Scripted, *};

    #[test]
    fn the_worst_is_never_chosen_and_the_best_not_always() {
        let (candidates, mut counts) = (Scripted::open(&[1; 4]), [0_u32; 4]);
        let (sums, mut draws) = (Sums::new(&[1; 4]), Draws::new(7));
        for _ in 0..12_000 {
            counts[pick(&sums, &mut draws, &candidates, |place| [1, 2, 3, 4][place]).unwrap()] += 1;
        }
        // Of the six pairs the best wins three, the second two, the third one.
        assert!(
            [6000, 4000, 2000].iter().zip(counts).all(|(it, count)| count.abs_diff(*it) < 400),
            "{counts:?}"
        );
        assert_eq!(counts[3], 0);
    }

    #[test]
    fn of_one_that_one() {
        let candidates = Scripted::open(&[1, 1]).without(0);
        assert_eq!(pick(&Sums::new(&[1, 1]), &mut Draws::new(0), &candidates, |_| 0), Some(1));
    }
}
