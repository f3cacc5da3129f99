//! The order of the keys of records, and of sets of policies.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::written::{Is, Item, Piece};
use crate::config::{
    checked::KeyPart,
    decode::{At, Form},
    raw::{RawFile, RawPolicy},
    values::Id,
};

/// The place of each named policy of a file among the layers.
#[derive(Debug, Default)]
pub(super) struct Places(BTreeMap<String, usize>);

impl Places {
    pub(super) fn of(file: &RawFile) -> Self {
        let named = file.policies.iter().flat_map(|named| &named.value.0);
        let place = |(name, policy): &(At<Id>, Option<Arc<RawPolicy>>)| {
            Some((name.value.to_string(), place_of(policy.as_ref()?)?))
        };
        Self(named.filter_map(place).collect())
    }
}

/// The place of a policy of one kind, outermost first.
fn place_of(policy: &RawPolicy) -> Option<usize> {
    let asks_who = policy.rate_limit.as_ref().is_some_and(|limit| {
        let mut key = limit.value.key.iter().flat_map(|key| &key.value.0);
        limit.value.tiers.is_some() || key.any(|part| matches!(part.value, KeyPart::Identity(_)))
    });
    let has = [
        policy.cors.is_some(),
        policy.rate_limit.is_some() && !asks_who,
        policy.jwt.is_some(),
        policy.api_key.is_some(),
        policy.basic_auth.is_some(),
        policy.forward_auth.is_some(),
        policy.authorize.is_some(),
        policy.rate_limit.is_some() && asks_who,
        policy.idempotency.is_some(),
        policy.fallback.is_some(),
        policy.cache.is_some(),
        policy.bulkhead.is_some(),
        policy.fault.is_some(),
        policy.circuit_breaker.is_some(),
        policy.mirror.is_some(),
        policy.hedge.is_some(),
        policy.retry.is_some(),
        policy.compress.is_some(),
    ];
    has.iter().position(|has| *has).filter(|_| has.iter().filter(|has| **has).count() == 1)
}

/// Whether what stands under this key is a set of policies.
pub(super) fn is_set(form: Option<&Form>, key: &str) -> bool {
    key == "use" && form.is_some_and(|form| form.record().is_some())
}

/// Puts all that is no name in order.
pub(super) fn arrange(item: &mut Item, form: &Form, places: &Places) {
    let mut names = BTreeSet::new();
    let mut again = BTreeSet::new();
    item.each_anchor(&mut |_, name| {
        if !names.insert(name.to_owned()) {
            again.insert(name.to_owned());
        }
    });
    Arranging { places, again }.piece(&mut item.value, Some(form));
}

struct Arranging<'a> {
    places: &'a Places,
    /// Names of anchors that mean one value here and another there.
    again: BTreeSet<String>,
}

impl Arranging<'_> {
    fn piece(&self, piece: &mut Piece, form: Option<&Form>) {
        let Is::Collection(collection) = &mut piece.is else { return };
        for item in &mut collection.items {
            let Some(key) = item.name() else {
                self.piece(&mut item.value, form.and_then(Form::each));
                continue;
            };
            // What is merged is a map of the same kind.
            let under = if key == "<<" { form.cloned() } else { form.and_then(|form| form.under(key)) };
            let is_set = is_set(form, key);
            self.piece(&mut item.value, under.as_ref());
            if is_set {
                self.set(&mut item.value);
            }
        }
        if let Some(shape) = form.filter(|_| collection.is_map).and_then(Form::record) {
            let place = |item: &Item| match item.name() {
                Some("<<") => 0,
                Some(key) => shape
                    .fields
                    .iter()
                    .position(|field| field.key == key)
                    .map_or(usize::MAX, |place| place + 1),
                None => usize::MAX,
            };
            self.sort(&mut collection.items, place);
        }
    }

    /// By the place of each among the layers; as written if one of them stands in another file.
    fn set(&self, piece: &mut Piece) {
        let Is::Collection(collection) = &mut piece.is else { return };
        let place = |item: &Item| item.value.said().and_then(|name| self.places.0.get(name)).copied();
        if collection.items.iter().all(|item| place(item).is_some()) {
            self.sort(&mut collection.items, |item| place(item).unwrap_or(usize::MAX));
        }
    }

    fn sort(&self, items: &mut Vec<Item>, place: impl Fn(&Item) -> usize) {
        let mut order: Vec<_> = (0..items.len()).collect();
        order.sort_by_key(|at| place(&items[*at]));
        if order.is_sorted() || !self.may_be(&order, items) {
            return;
        }
        // Where all are apart from one another, they stay so.
        if items.iter().skip(1).all(Item::is_set_apart) {
            items[0].set_apart();
        }
        let mut taken: Vec<_> = items.drain(..).map(Some).collect();
        items.extend(order.into_iter().filter_map(|at| taken[at].take()));
    }

    /// Whether every alias still comes after what it stands for, and stands for the same.
    fn may_be(&self, order: &[usize], items: &[Item]) -> bool {
        let mut inside = BTreeSet::new();
        let mut is_clear = true;
        for item in items {
            item.each_anchor(&mut |id, name| {
                inside.insert(id);
                is_clear &= !self.again.contains(name);
            });
        }
        let mut seen = BTreeSet::new();
        for at in order {
            items[*at].each(&mut |piece| {
                if let Is::Alias { of, .. } = piece.is {
                    is_clear &= !inside.contains(&of) || seen.contains(&of);
                }
                if let Some((id, _)) = piece.anchor {
                    seen.insert(id);
                }
            });
        }
        is_clear
    }
}
