//! How many series there are, whose they are, and what had no room.

use std::collections::BTreeMap;

use super::RejectionLabels;
use crate::config::checked::Name;

/// Whose series are shown together, and taken away together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Owner {
    /// A route, and the template of its paths.
    Route(Name, Name),
    /// A policy, by its identity.
    Policy(Name),
    /// The waits of a bulkhead.
    Waits(Name),
    /// An arm of a split.
    Arm(Name, Name),
    /// A call of a route.
    Call(Name, Name),
    /// What is asked of an upstream.
    Upstream(Name),
    /// The balancer of an upstream.
    Balancer(Name),
    /// Checks of the endpoints of an upstream.
    Checks(Name),
    /// Looks for the endpoints of an upstream.
    Discovery(Name),
    /// Questions to a store.
    Store(Name),
    /// Refusals of a route by a policy for a reason.
    Rejections(RejectionLabels),
    /// Transitions of the circuit breakers of a policy.
    Transitions(Name, &'static str, &'static str),
}

/// Those that there are, within their bound. What is read when somebody asks is not among them, and has what room is left.
#[derive(Debug)]
pub(super) struct Room {
    max: usize,
    /// Whether a configuration has said so.
    is_bounded: bool,
    used: usize,
    shown: BTreeMap<Owner, usize>,
    left_out: BTreeMap<Owner, usize>,
}

/// Whether somebody has room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// It is shown already.
    Known,
    /// It is shown from now on.
    New,
    /// There is no room for it, as has been known.
    LeftOut,
    /// There is no room for it.
    NewlyLeftOut,
}

impl Room {
    /// For so many series.
    pub(super) const fn new(max: usize) -> Self {
        Self { max, is_bounded: false, used: 0, shown: BTreeMap::new(), left_out: BTreeMap::new() }
    }

    /// Makes room for this many series, if there is any.
    pub(super) fn enter(&mut self, owner: Owner, series: usize) -> Entry {
        if self.shown.contains_key(&owner) {
            return Entry::Known;
        }
        if self.used + series > self.max {
            let is_new = self.left_out.insert(owner, series).is_none();
            return if is_new { Entry::NewlyLeftOut } else { Entry::LeftOut };
        }
        self.used += series;
        self.left_out.remove(&owner);
        self.shown.insert(owner, series);
        Entry::New
    }

    /// Whether it is shown.
    pub(super) fn has(&self, owner: &Owner) -> bool {
        self.shown.contains_key(owner)
    }

    /// Room for a configuration that may come into force, and may not: nothing that is shown goes for it.
    pub(super) fn prepare(&mut self, max: usize) {
        self.max = if self.is_bounded { self.max.max(max) } else { max };
        self.is_bounded = true;
    }

    /// The bound of the configuration in force: what has no room under it, the last first. What is of policies goes before
    /// routes do.
    pub(super) fn bound(&mut self, max: usize) -> Vec<Owner> {
        self.max = max;
        self.is_bounded = true;
        let mut gone = Vec::new();
        while self.used > self.max {
            let Some((owner, series)) = self.shown.pop_last() else { break };
            self.used -= series;
            gone.push(owner.clone());
            self.left_out.insert(owner, series);
        }
        gone
    }

    /// Keeps those that are; what is shown of the others is taken away by `forget`.
    pub(super) fn keep(&mut self, is: impl Fn(&Owner) -> bool, forget: impl Fn(&Owner)) {
        let used = &mut self.used;
        self.shown.retain(|owner, series| {
            let is_kept = is(owner);
            if !is_kept {
                forget(owner);
                *used -= *series;
            }
            is_kept
        });
        self.left_out.retain(|owner, _| is(owner));
    }

    /// All that are shown.
    pub(super) fn owners(&self) -> impl Iterator<Item = &Owner> {
        self.shown.keys()
    }

    /// How many series there are, and how many there may be.
    pub(super) const fn size(&self) -> (usize, usize) {
        (self.used, self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(name: &str) -> Owner {
        Owner::Route(name.into(), "/".into())
    }

    #[test]
    fn what_has_no_room_is_told_once_and_gets_what_is_given_back() {
        let mut room = Room::new(7);
        room.prepare(25);
        room.prepare(24); // Of one that is refused: what is in force keeps its own.
        assert_eq!([room.enter(route("a"), 10), room.enter(route("b"), 10)], [Entry::New; 2]);
        assert_eq!(room.enter(route("c"), 10), Entry::NewlyLeftOut);
        assert_eq!(room.enter(route("c"), 10), Entry::LeftOut);
        assert_eq!(room.enter(route("a"), 10), Entry::Known);
        room.keep(|owner| *owner != route("a"), |owner| assert_eq!(*owner, route("a")));
        assert_eq!((room.used, room.enter(route("c"), 10)), (10, Entry::New));
        assert_eq!(room.bound(10), [route("c")]);
        assert_eq!(
            (room.used, room.has(&route("b")), room.enter(route("c"), 10)),
            (10, true, Entry::LeftOut)
        );
    }
}
