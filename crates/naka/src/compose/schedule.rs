//! Which call is made when: each after those that it needs, so many at a time, in the order in which they stand.

/// The calls of one composition, and how far they are.
#[derive(Debug)]
pub(super) struct Schedule<'p> {
    /// Of each call, the others that it needs.
    needs: &'p [Vec<usize>],
    calls: Vec<State>,
    under_way: usize,
    max: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waits,
    UnderWay,
    /// What another one is answered is its answer, too.
    Along,
    Over,
}

impl<'p> Schedule<'p> {
    /// None has begun; at most `max` are under way at a time, and at least one.
    pub(super) fn new(needs: &'p [Vec<usize>], max: usize) -> Self {
        Self { needs, calls: vec![State::Waits; needs.len()], under_way: 0, max: max.max(1) }
    }

    /// The next call that may begin, which it does.
    pub(super) fn begin(&mut self) -> Option<usize> {
        if self.under_way == self.max {
            return None;
        }
        let may = |call: &usize| {
            self.calls[*call] == State::Waits
                && self.needs[*call].iter().all(|need| self.calls[*need] == State::Over)
        };
        let call = (0..self.calls.len()).find(may)?;
        self.calls[call] = State::UnderWay;
        self.under_way += 1;
        Some(call)
    }

    /// It asks for what another one has asked for already, and takes no place.
    pub(super) fn goes_along(&mut self, call: usize) {
        self.leave(call);
        self.calls[call] = State::Along;
    }

    /// It has an answer, or will have none.
    pub(super) fn end(&mut self, call: usize) {
        self.leave(call);
        self.calls[call] = State::Over;
    }

    fn leave(&mut self, call: usize) {
        if self.calls[call] == State::UnderWay {
            self.under_way -= 1;
        }
    }

    #[cfg(test)]
    fn is_over(&self) -> bool {
        self.calls.iter().all(|call| *call == State::Over)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::{collection::vec, prelude::*, sample::Index};

    use super::*;

    proptest! {
        /// Calls end in any order: each begins after its needs, once, and never too many at a time; and all come to their end.
        #[test]
        fn r13_1_each_call_is_made_once_and_after_what_it_needs(
            raw in vec(vec(any::<Index>(), 0..4), 1..16),
            max in 1_usize..6,
            ends in vec(any::<Index>(), 16),
            along in vec(any::<bool>(), 16),
        ) {
            let needs = raw.iter().enumerate().map(|(call, needs)| {
                let needs = needs.iter().filter(|_| call > 0).map(|need| need.index(call));
                needs.collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>()
            });
            let needs = needs.collect::<Vec<_>>();
            let mut schedule = Schedule::new(&needs, max);
            let (mut under_way, mut over) = (Vec::<usize>::new(), BTreeSet::new());
            let (mut begun, mut beside) = (BTreeSet::new(), Vec::new());
            let mut ends = ends.iter().cycle();
            while over.len() < needs.len() {
                while let Some(call) = schedule.begin() {
                    prop_assert!(begun.insert(call), "twice");
                    prop_assert!(needs[call].iter().all(|need| over.contains(need)), "too early");
                    if along[call] && let Some(leader) = under_way.last() {
                        schedule.goes_along(call);
                        beside.push((call, *leader));
                    } else {
                        under_way.push(call);
                    }
                    prop_assert!(under_way.len() <= max);
                }
                prop_assert!(!under_way.is_empty(), "nothing goes on");
                let ended = under_way.swap_remove(ends.next().unwrap().index(under_way.len()));
                let all = beside.iter().filter(|(_, leader)| *leader == ended).map(|(call, _)| *call);
                for call in all.chain([ended]).collect::<Vec<_>>() {
                    schedule.end(call);
                    over.insert(call);
                }
            }
            prop_assert!(schedule.is_over() && schedule.begin().is_none());
        }
    }
}
