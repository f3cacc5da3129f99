//! The algorithm alone, for several accounts under one total: by key, or by tier. No clock, no HTTP, no
//! runtime, no lock.

use std::collections::{BTreeSet, HashMap, VecDeque};

use crate::reject::Reason;

/// The most tiers one bulkhead can have.
pub const MAX_TIERS: usize = 8;

/// What a tier has of a bulkhead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// Places that are kept for it.
    pub reserved: u32,
    /// Places it may have in all, borrowed ones included; 0 counts as 1.
    pub max: u32,
}

impl Share {
    /// So many are kept for it, and it may have up to `max`.
    pub const fn new(reserved: u32, max: u32) -> Self {
        Self { reserved, max }
    }
}

/// What each tier has, the first one first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tiers {
    shares: [Share; MAX_TIERS],
    len: usize,
}

impl Tiers {
    /// All are one tier, which has all.
    pub const NONE: Self = Self { shares: [Share { reserved: 0, max: 0 }; MAX_TIERS], len: 0 };

    /// These; of more than [`MAX_TIERS`] the first ones.
    pub fn new(shares: &[Share]) -> Self {
        let mut all = Self { len: shares.len().min(MAX_TIERS), ..Self::default() };
        all.shares.iter_mut().zip(shares).for_each(|(place, share)| *place = *share);
        all
    }

    pub(super) fn shares(&self) -> &[Share] {
        &self.shares[..self.len]
    }
}

/// What is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    tiers: [Share; MAX_TIERS],
    len: usize,
    /// Of each key that is no tier.
    each: u32,
    total: u32,
    /// Of each slot.
    queue: u32,
    max_slots: usize,
}

impl Limits {
    pub(super) fn by_key(each: u32, total: Option<u32>, queue: u32, max_slots: usize) -> Self {
        let (each, total) = (each.max(1), total.unwrap_or(u32::MAX).max(1));
        Self { tiers: [Share::default(); MAX_TIERS], len: 0, each, total, queue, max_slots }
    }

    /// Reserves that are more than there is are cut, the last ones first.
    pub(super) fn by_tier(shares: &[Share], total: u32, queue: u32) -> Self {
        let one = [Share::new(0, total)];
        let shares = if shares.is_empty() { &one } else { shares };
        let mut all = Self { max_slots: MAX_TIERS, ..Self::by_key(total, Some(total), queue, 0) };
        let mut free = all.total;
        for (place, share) in all.tiers.iter_mut().zip(shares) {
            let max = share.max.max(1);
            let reserved = share.reserved.min(max).min(free);
            free -= reserved;
            *place = Share { reserved, max };
        }
        all.len = shares.len().min(MAX_TIERS);
        all
    }

    /// The slot of a key, or of a tier: one that does not exist is the last.
    pub(super) fn slot(&self, number: u64) -> u64 {
        let last = self.tiers().map(|(tier, _)| tier).last();
        last.map_or(number, |last| number.min(last))
    }

    fn tiers(&self) -> impl Iterator<Item = (u64, Share)> {
        (0..).zip(self.tiers[..self.len].iter().copied())
    }

    fn share(&self, slot: u64) -> Share {
        let tier = usize::try_from(slot).ok().and_then(|slot| self.tiers[..self.len].get(slot));
        tier.copied().unwrap_or(Share { reserved: 0, max: self.each })
    }
}

/// What a newcomer is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// Go to work.
    Work,
    /// Wait.
    Wait,
    /// Neither.
    Refuse(Reason),
}

/// Those who are at work, and those who wait, by slot. One with nobody is forgotten.
///
/// At rest nobody waits for whom there is room.
#[derive(Debug)]
pub(super) struct Slots<W> {
    limits: Limits,
    known: HashMap<u64, Slot<W>>,
    /// The first who waits in each slot: the number of the turn, and the slot.
    heads: BTreeSet<(u64, u64)>,
    working: u32,
    waiting: u32,
    turns: u64,
}

#[derive(Debug)]
struct Slot<W> {
    working: u32,
    queue: VecDeque<(u64, W)>,
}

impl<W> Slots<W> {
    pub(super) fn new(limits: Limits) -> Self {
        let (known, heads) = (HashMap::new(), BTreeSet::new());
        Self { limits, known, heads, working: 0, waiting: 0, turns: 0 }
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Others are in force. Says who goes to work now.
    pub(super) fn follow(&mut self, limits: Limits) -> Vec<W> {
        self.limits = limits;
        self.admit_waiting()
    }

    /// At work, and waiting, over all slots.
    pub(super) fn counts(&self) -> (u32, u32) {
        (self.working, self.waiting)
    }

    /// Slots with anybody at work or waiting.
    pub(super) fn len(&self) -> usize {
        self.known.len()
    }

    /// A newcomer that may use so many percent of the places.
    pub(super) fn ask(&self, limits: &Limits, slot: u64, percent: u8) -> Told {
        let known = self.known.get(&slot);
        if known.is_none() && self.known.len() >= limits.max_slots {
            return Told::Refuse(Reason::PartitionsFull);
        }
        let waiting = known.map_or(0, |slot| slot.queue.len());
        if waiting == 0 && self.has_room(limits, slot, percent) {
            return Told::Work;
        }
        if percent < 100 {
            return Told::Refuse(Reason::Shed);
        }
        if u32::try_from(waiting).is_ok_and(|waiting| waiting < limits.queue) {
            return Told::Wait;
        }
        Told::Refuse(Reason::BulkheadFull)
    }

    /// One more is at work, whether there is room or not; `false` if there is no place for its slot.
    pub(super) fn work(&mut self, slot: u64) -> bool {
        if !self.known.contains_key(&slot) && self.known.len() >= self.limits.max_slots {
            return false;
        }
        self.slot(slot).working += 1;
        self.working += 1;
        true
    }

    /// One more waits; says its turn.
    pub(super) fn wait(&mut self, slot: u64, who: W) -> u64 {
        let turn = self.turns;
        self.turns += 1;
        self.waiting += 1;
        let queue = &mut self.slot(slot).queue;
        queue.push_back((turn, who));
        if queue.len() == 1 {
            self.heads.insert((turn, slot));
        }
        turn
    }

    /// One is no longer at work. Says who is now.
    pub(super) fn leave(&mut self, slot: u64) -> Vec<W> {
        if let Some(it) = self.known.get_mut(&slot) {
            it.working -= 1;
            self.working -= 1;
        }
        let admitted = self.admit_waiting();
        self.forget(slot);
        admitted
    }

    /// One waits no longer; `false` if it is at work already.
    pub(super) fn give_up(&mut self, slot: u64, turn: u64) -> bool {
        let Some(queue) = self.known.get_mut(&slot).map(|slot| &mut slot.queue) else { return false };
        let Ok(place) = queue.binary_search_by_key(&turn, |(turn, _)| *turn) else { return false };
        queue.remove(place);
        self.waiting -= 1;
        if place == 0 {
            let next = queue.front().map(|(turn, _)| *turn);
            self.heads.remove(&(turn, slot));
            self.heads.extend(next.map(|next| (next, slot)));
        }
        self.forget(slot);
        true
    }

    /// In the order of their turns over all slots, those for whom there is room. Whoever is passed over
    /// for a full slot has somebody at work in it, so no more are passed over than are at work.
    fn admit_waiting(&mut self) -> Vec<W> {
        let mut admitted = Vec::new();
        while let Some((turn, slot)) = self.first_with_room() {
            let Some((_, who)) = self.slot(slot).queue.pop_front() else { break };
            self.heads.remove(&(turn, slot));
            self.waiting -= 1;
            self.working += 1;
            let it = self.slot(slot);
            it.working += 1;
            let next = it.queue.front().map(|(turn, _)| *turn);
            self.heads.extend(next.map(|next| (next, slot)));
            admitted.push(who);
        }
        admitted
    }

    fn first_with_room(&self) -> Option<(u64, u64)> {
        if self.working >= self.limits.total {
            return None;
        }
        self.heads.iter().find(|(_, slot)| self.has_room(&self.limits, *slot, 100)).copied()
    }

    /// Room within the slot's own maximum and the total; and, for what it borrows, besides all that is
    /// kept for others and not used by them.
    fn has_room(&self, limits: &Limits, slot: u64, percent: u8) -> bool {
        let (share, working) = (limits.share(slot), self.working_in(slot));
        let is_within = |working, max| working < portion(max, percent);
        if !is_within(working, share.max) || !is_within(self.working, limits.total) {
            return false;
        }
        if working < share.reserved {
            return true;
        }
        let others = limits.tiers().filter(|(tier, _)| *tier != slot);
        let kept: u32 =
            others.map(|(tier, share)| share.reserved.saturating_sub(self.working_in(tier))).sum();
        self.working.saturating_add(kept) < limits.total
    }

    fn working_in(&self, slot: u64) -> u32 {
        self.known.get(&slot).map_or(0, |slot| slot.working)
    }

    fn slot(&mut self, slot: u64) -> &mut Slot<W> {
        self.known.entry(slot).or_insert_with(|| Slot { working: 0, queue: VecDeque::new() })
    }

    fn forget(&mut self, slot: u64) {
        if self.known.get(&slot).is_some_and(|slot| slot.working == 0 && slot.queue.is_empty()) {
            self.known.remove(&slot);
        }
    }
}

/// So many percent of a maximum: rounded down, at least 1.
pub(super) fn portion(max: u32, percent: u8) -> u32 {
    if percent >= 100 {
        return max;
    }
    let portion = u64::from(max) * u64::from(percent) / 100;
    u32::try_from(portion).unwrap_or(u32::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Come(u64, u8),
        Leave(usize),
        GiveUp(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (0_u64..4, prop_oneof![Just(100_u8), Just(70)]).prop_map(|(slot, percent)| Step::Come(slot, percent)),
            3 => any::<usize>().prop_map(Step::Leave),
            1 => any::<usize>().prop_map(Step::GiveUp),
        ];
        prop::collection::vec(step, 1..200)
    }

    /// Walks; after each step the accounts are as they have to be.
    fn walk(limits: Limits, steps: Vec<Step>) -> Result<(), TestCaseError> {
        let mut slots = Slots::new(limits);
        let (mut working, mut waiting) = (Vec::<u64>::new(), Vec::<(u64, u64)>::new());
        for step in steps {
            let admitted = match step {
                Step::Come(slot, percent) => {
                    let mine = working.iter().filter(|at| **at == slot).count();
                    let told = slots.ask(&limits, slot, percent);
                    let share = limits.share(slot);
                    if mine < share.reserved as usize && percent == 100 {
                        prop_assert_eq!(told, Told::Work, "refused within its reserve");
                    }
                    match told {
                        Told::Work => {
                            prop_assert!(mine < share.max as usize);
                            prop_assert!(slots.work(slot));
                            working.push(slot);
                        }
                        Told::Wait => {
                            let turn = slots.turns;
                            prop_assert_eq!(slots.wait(slot, (turn, slot)), turn);
                            waiting.push((turn, slot));
                        }
                        Told::Refuse(_) => {}
                    }
                    Vec::new()
                }
                Step::Leave(_) if working.is_empty() => continue,
                Step::Leave(which) => {
                    let which = which % working.len();
                    slots.leave(working.swap_remove(which))
                }
                Step::GiveUp(_) if waiting.is_empty() => continue,
                Step::GiveUp(which) => {
                    let (turn, slot) = waiting.remove(which % waiting.len());
                    prop_assert!(slots.give_up(slot, turn) && !slots.give_up(slot, turn));
                    Vec::new()
                }
            };
            for it in admitted {
                let ahead = waiting.iter().position(|waits| *waits == it).unwrap();
                prop_assert!(waiting[..ahead].iter().all(|(_, slot)| *slot != it.1), "overtaken in its slot");
                waiting.remove(ahead);
                working.push(it.1);
            }
            prop_assert!(working.len() <= limits.total as usize);
            let counts = [working.len(), waiting.len()].map(|count| u32::try_from(count).unwrap());
            prop_assert_eq!(slots.counts(), (counts[0], counts[1]));
            prop_assert!(slots.first_with_room().is_none(), "somebody waits beside a free place");
            let kept: u32 =
                limits.tiers().map(|(tier, it)| it.reserved.saturating_sub(slots.working_in(tier))).sum();
            prop_assert!(slots.working + kept <= limits.total, "what is kept for others was given away");
        }
        while let Some(slot) = working.pop() {
            for it in slots.leave(slot) {
                waiting.retain(|waits| *waits != it);
                working.push(it.1);
            }
        }
        // Whoever still waits may borrow nothing, because all there is is kept for others.
        prop_assert!(waiting.iter().all(|(_, slot)| limits.share(*slot).reserved == 0));
        for (turn, slot) in waiting {
            prop_assert!(slots.give_up(slot, turn));
        }
        prop_assert!(slots.counts() == (0, 0) && slots.len() == 0 && slots.heads.is_empty(), "a leak");
        Ok(())
    }

    proptest! {
        #[test]
        fn r14_2_tiers_keep_their_reserves_and_the_total(
            shares in prop::collection::vec((0_u32..6, 1_u32..9), 4),
            total in 1_u32..16,
            queue in 0_u32..4,
            steps in steps(),
        ) {
            let shares = shares.iter().map(|(reserved, max)| Share::new(*reserved, *max)).collect::<Vec<_>>();
            walk(Limits::by_tier(&shares, total, queue), steps)?;
        }

        #[test]
        fn partitions_keep_their_maximum_and_the_total(
            each in 1_u32..4,
            total in prop::option::of(1_u32..8),
            queue in 0_u32..4,
            steps in steps(),
        ) {
            walk(Limits::by_key(each, total, queue, 3), steps)?;
        }
    }

    #[test]
    fn reserves_that_are_more_than_there_is_are_cut_from_the_end() {
        let limits = Limits::by_tier(&[Share::new(5, 3), Share::new(5, 9), Share::new(9, 9)], 10, 0);
        let kept = limits.tiers().map(|(_, share)| share.reserved).collect::<Vec<_>>();
        assert_eq!(kept, [3, 5, 2]);
    }
}
