//! Routes that were checked before and are as they were, so that one changed file among many costs what it costs alone.
//!
//! A route is taken as it was if its record is the very one (its file has not changed), that of its group is, and all that
//! routes refer to says the same. Of those that are remembered nothing was reported, and nothing in them depends on other
//! routes or the time of day; so nothing is kept quiet.

use std::{
    collections::{BTreeMap, btree_map},
    iter::Peekable,
    sync::Arc,
};

use super::{
    gateway::Listeners,
    policies::{Journal, Level, Policies},
};
use crate::config::{
    checked::{Gateway, Name, Policy, Route, Upstream},
    decode::Cx,
    node::Span,
    raw::{RawGroup, RawRoute},
};

/// What was checked, and against what.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    against: Option<Arc<Against>>,
    routes: BTreeMap<Name, Arc<Checked>>,
    fresh: usize,
}

impl Known {
    /// How many routes had to be checked.
    pub(crate) const fn fresh(&self) -> usize {
        self.fresh
    }
}

/// All that routes refer to, but for their groups.
#[derive(Debug)]
pub(super) struct Against {
    gateway: Gateway,
    body: Option<usize>,
    listeners: Listeners,
    upstreams: BTreeMap<Name, Upstream>,
    policies: BTreeMap<Name, Policy>,
    complete: bool,
}

impl Against {
    pub(super) fn new(
        (gateway, body): (&Gateway, Option<usize>),
        listeners: &Listeners,
        upstreams: &BTreeMap<Name, Upstream>,
        policies: &Policies,
        complete: bool,
    ) -> Self {
        Self {
            gateway: gateway.clone(),
            body,
            listeners: listeners.clone(),
            upstreams: upstreams.clone(),
            policies: policies.checked.clone(),
            complete,
        }
    }

    /// Wherever it stands.
    fn says_the_same(&self, other: &Self) -> bool {
        let policy = |(one, two): (&Policy, &Policy)| {
            (&one.kind, one.enforce, one.scope) == (&two.kind, two.enforce, two.scope)
        };
        let upstream = |(one, two): (&Upstream, &Upstream)| {
            *one == Upstream { origin: one.origin.clone(), ..two.clone() }
        };
        self.complete
            && other.complete
            && self.gateway == other.gateway
            && self.body == other.body
            && self.listeners == other.listeners
            && self.policies.keys().eq(other.policies.keys())
            && self.policies.values().zip(other.policies.values()).all(policy)
            && self.upstreams.keys().eq(other.upstreams.keys())
            && self.upstreams.values().zip(other.upstreams.values()).all(upstream)
    }
}

/// A route as it was checked.
#[derive(Debug)]
struct Checked {
    raw: Arc<RawRoute>,
    group: Option<(Arc<RawGroup>, Level)>,
    route: Arc<Route>,
    own: Vec<(Name, Span, Option<Span>, Policy)>,
    used: Vec<Name>,
}

/// What is known of the routes of one reading, and what is to be known of them at the next.
pub(super) struct Remembering<'a> {
    /// Routes come in the order of their names, so that these are gone along and not looked up.
    before: Peekable<btree_map::Iter<'a, Name, Arc<Checked>>>,
    against: Against,
    next: Vec<(Name, Arc<Checked>)>,
    fresh: usize,
}

impl<'a> Remembering<'a> {
    pub(super) fn new(before: &'a Known, against: Against) -> Self {
        let is_same = before.against.as_ref().is_some_and(|it| it.says_the_same(&against));
        let before = if is_same { before.routes.iter() } else { btree_map::Iter::default() };
        Self { before: before.peekable(), against, next: Vec::new(), fresh: 0 }
    }

    /// The route as it was, if it is; what it needs is among `policies` then.
    pub(super) fn recall(
        &mut self,
        name: &Name,
        raw: &Arc<RawRoute>,
        group: Option<(&Arc<RawGroup>, &Level)>,
        policies: &mut Policies,
        cx: &mut Cx,
    ) -> Option<Arc<Route>> {
        while self.before.next_if(|(before, _)| *before < name).is_some() {}
        let (_, known) = self.before.next_if(|(before, _)| *before == name)?;
        if !Arc::ptr_eq(&known.raw, raw) {
            return None;
        }
        let is_same = match (&known.group, group) {
            (None, None) => true,
            (Some((one, level)), Some((two, other))) => Arc::ptr_eq(one, two) && level == other,
            _ => false,
        };
        if !is_same {
            return None;
        }
        for (name, span, key, policy) in &known.own {
            policies.add(Arc::clone(name), *span, *key, policy.clone(), cx);
        }
        policies.used.extend(known.used.iter().cloned());
        self.next.push((Arc::clone(name), Arc::clone(known)));
        Some(Arc::clone(&known.route))
    }

    /// One more had to be checked.
    pub(super) const fn count(&mut self) {
        self.fresh += 1;
    }

    /// Remembers a route of which nothing was reported.
    pub(super) fn remember(
        &mut self,
        name: &Name,
        raw: &Arc<RawRoute>,
        group: Option<(&Arc<RawGroup>, &Level)>,
        route: &Arc<Route>,
        journal: Journal,
        policies: &Policies,
    ) {
        // That faults are over is a matter of time, and whose versions are listed one of other routes.
        if ["fault", "list_versions"].iter().any(|key| raw.said(key).is_some()) {
            return;
        }
        let own = journal.inserted.into_iter().filter_map(|name| {
            let (span, key, policy) = policies.get(&name)?;
            Some((name, span, key, policy.clone()))
        });
        let checked = Checked {
            raw: Arc::clone(raw),
            group: group.map(|(raw, level)| (Arc::clone(raw), level.clone())),
            route: Arc::clone(route),
            own: own.collect(),
            used: journal.used,
        };
        self.next.push((Arc::clone(name), Arc::new(checked)));
    }

    pub(super) fn finish(self) -> Known {
        let Self { against, next, fresh, .. } = self;
        Known { against: Some(Arc::new(against)), routes: BTreeMap::from_iter(next), fresh }
    }
}
