//! Named and inlined policies, and what stands at each level.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{Tables, origin, unique};
use crate::config::{
    checked::{self, Bulkhead, KeyPart, Name, OnMissing, Policy, PolicyKind, RateLimit, Scope},
    decode::{At, Cx, OneOrMany, Or},
    diagnostic::Code,
    node::Span,
    raw::{RawBulkhead, RawOnMissing, RawPolicy, RawRateLimit, RawScope},
    suggest::one_of,
    values::Id,
};

/// Windows of one rate limit.
const MAX_RATES: usize = 4;

/// All policies, and which of them somebody uses.
pub(super) struct Policies {
    pub(super) checked: BTreeMap<Name, Policy>,
    pub(super) used: BTreeSet<Name>,
    places: BTreeMap<Name, Span>,
    keys: BTreeMap<Name, Span>,
}

/// The policies of one route, group or listener, and where they were named.
#[derive(Clone, Debug, Default)]
pub(super) struct Level {
    pub(super) rate_limits: Vec<(Name, Span)>,
    pub(super) bulkhead: Option<(Name, Span)>,
}

/// The three keys by which a level names policies.
pub(super) type LevelKeys<'a> = (
    &'a Option<At<OneOrMany<Id>>>,
    &'a Option<At<Or<Id, RawRateLimit>>>,
    &'a Option<At<Or<Id, RawBulkhead>>>,
);

/// A policy that is not named yet.
struct Unnamed {
    kind: PolicyKind,
    enforce: checked::Enforce,
    scope: Scope,
    key: Option<Span>,
}

impl Policies {
    /// Those under `policies:`.
    pub(super) fn named(tables: &Tables<'_>, cx: &mut Cx) -> Self {
        let (checked, used, places, keys) = Default::default();
        let mut it = Self { checked, used, places, keys };
        for (name, at, raw) in tables.policies.read() {
            if one_kind(name, at, raw, cx) {
                let rate_limit = raw.rate_limit.as_ref().and_then(|raw| rate_limit(&raw.value, cx));
                let bulkhead = raw.bulkhead.as_ref().and_then(|raw| bulkhead(&raw.value, cx));
                if let Some(unnamed) = rate_limit.or(bulkhead) {
                    it.insert(Arc::clone(name), at.span, unnamed, cx);
                }
            }
        }
        it
    }

    fn insert(&mut self, name: Name, span: Span, unnamed: Unnamed, cx: &mut Cx) {
        if let Some(first) = self.places.get(&name) {
            let first = cx.place(*first);
            cx.error(Code::Duplicate, span, format!("two policies would be called `{name}`"))
                .label("the second")
                .related(first, "the first")
                .help("give one of them a name under `policies:`, and refer to it here")
                .combined();
            return;
        }
        let Unnamed { kind, enforce, scope, key } = unnamed;
        self.places.insert(Arc::clone(&name), span);
        self.keys.extend(key.map(|key| (Arc::clone(&name), key)));
        self.checked.insert(name, Policy { kind, enforce, scope, origin: origin(span, cx) });
    }

    /// What stands at the level of `owner`.
    pub(super) fn level(
        &mut self,
        tables: &Tables<'_>,
        owner: &At<Id>,
        keys: LevelKeys<'_>,
        cx: &mut Cx,
    ) -> Level {
        let mut level = Level::default();
        let (uses, rate_limit_key, bulkhead_key) = keys;
        if let Some(uses) = uses {
            unique(&uses.value.0, "policy", cx);
            for at in &uses.value.0 {
                if let Some(name) = self.resolve(tables, at, cx) {
                    self.place(name, at.span, &mut level, cx);
                }
            }
        }
        if let Some(at) = rate_limit_key {
            let name = match &at.value {
                Or::Text(id) => self.resolve_kind(tables, id, at.span, "rate_limit", cx),
                Or::Record(raw) => {
                    rate_limit(raw, cx).map(|unnamed| self.inline(owner, "rate_limit", at.key, unnamed, cx))
                }
            };
            if let Some(name) = name {
                self.place(name, at.span, &mut level, cx);
            }
        }
        if let Some((name, span)) = self.bulkhead_of(tables, owner, bulkhead_key.as_ref(), cx) {
            self.place(name, span, &mut level, cx);
        }
        level
    }

    /// The `bulkhead:` of a level.
    pub(super) fn bulkhead_of(
        &mut self,
        tables: &Tables<'_>,
        owner: &At<Id>,
        key: Option<&At<Or<Id, RawBulkhead>>>,
        cx: &mut Cx,
    ) -> Option<(Name, Span)> {
        let at = key?;
        let name = match &at.value {
            Or::Text(id) => self.resolve_kind(tables, id, at.span, "bulkhead", cx)?,
            Or::Record(raw) => self.inline(owner, "bulkhead", at.key, bulkhead(raw, cx)?, cx),
        };
        Some((name, at.span))
    }

    fn inline(&mut self, owner: &At<Id>, kind: &str, span: Span, unnamed: Unnamed, cx: &mut Cx) -> Name {
        let name: Name = format!("{}/{kind}", owner.value).into();
        self.insert(Arc::clone(&name), span, unnamed, cx);
        self.used.insert(Arc::clone(&name));
        name
    }

    /// A named policy that could be read.
    fn resolve(&mut self, tables: &Tables<'_>, at: &At<Id>, cx: &mut Cx) -> Option<Name> {
        let name = tables.policies.resolve(at, cx)?;
        self.used.insert(Arc::clone(&name));
        self.checked.contains_key(&name).then_some(name)
    }

    fn resolve_kind(
        &mut self,
        tables: &Tables<'_>,
        id: &Id,
        span: Span,
        kind: &str,
        cx: &mut Cx,
    ) -> Option<Name> {
        let name = self.resolve(tables, &At { value: id.clone(), span, key: span }, cx)?;
        let is = self.kind_of(&name);
        if is == kind {
            return Some(name);
        }
        let place = cx.place(self.places[&name]);
        cx.error(Code::Conflict, span, format!("the policy `{name}` is a `{is}`, not a `{kind}`"))
            .related(place, "said here")
            .help(format!("write `{is}: {name}` or `use: [{name}]`"))
            .combined();
        None
    }

    fn kind_of(&self, name: &str) -> &'static str {
        match self.checked.get(name).map(|policy| &policy.kind) {
            Some(PolicyKind::Bulkhead(_)) => "bulkhead",
            _ => "rate_limit",
        }
    }

    /// Puts a policy into a level: rate limits add up, a bulkhead is one.
    fn place(&mut self, name: Name, span: Span, level: &mut Level, cx: &mut Cx) {
        if self.kind_of(&name) == "rate_limit" {
            if !level.rate_limits.iter().any(|(known, _)| *known == name) {
                level.rate_limits.push((name, span));
            }
            return;
        }
        if let Some((first, place)) = &level.bulkhead {
            let place = cx.place(*place);
            cx.error(Code::Conflict, span, format!("two bulkheads at one place: `{first}` and `{name}`"))
                .label("the second")
                .related(place, "the first")
                .help("keep one; a route's wins over its group's, and that over its listener's")
                .combined();
            return;
        }
        level.bulkhead = Some((name, span));
    }

    /// Reports captures that the keys of these rate limits need and the route does not have.
    pub(super) fn captures(&self, route: &str, limits: &[(Name, Span)], captures: &[Arc<str>], cx: &mut Cx) {
        for (name, span) in limits {
            let Some(PolicyKind::RateLimit(limit)) = self.checked.get(name).map(|policy| &policy.kind) else {
                continue;
            };
            for part in &limit.key {
                let KeyPart::Capture(capture) = part else { continue };
                if captures.contains(capture) {
                    continue;
                }
                let key = self.keys.get(name).map(|key| cx.place(*key));
                let has = if captures.is_empty() {
                    "its match has no capture".into()
                } else {
                    format!("its match has {}", one_of(captures.iter().map(|it| &**it)))
                };
                let it = cx.error(
                    Code::UnknownName,
                    *span,
                    format!(
                        "the route `{route}` has no capture `{{{capture}}}`, which the key of `{name}` needs"
                    ),
                );
                it.combined().label(has).help(format!(
                    "add `/{{{capture}}}` to the path of `{route}`, or use a policy with another key there"
                ));
                if let Some(key) = key {
                    it.related(key, "the key");
                }
            }
        }
    }
}

/// Whether a named policy says one kind; reports it if not.
fn one_kind(name: &str, at: &At<Id>, raw: &RawPolicy, cx: &mut Cx) -> bool {
    match raw.said.as_slice() {
        [_] => true,
        [] => {
            cx.error(Code::Missing, at.span, format!("the policy `{name}` has no kind"))
                .help("write `{rate_limit: {rate: 20/m}}` or `{bulkhead: {max: 50}}`");
            false
        }
        [first, second, ..] => {
            let place = cx.place(first.span);
            cx.error(Code::Conflict, second.span, format!("the policy `{name}` has more than one kind"))
                .label("the second")
                .related(place, "the first")
                .help("a name is the identity of one state: write two policies");
            false
        }
    }
}

fn rate_limit(raw: &RawRateLimit, cx: &mut Cx) -> Option<Unnamed> {
    let rates = raw.rate.as_ref()?;
    if let Some(last) = rates.value.0.get(MAX_RATES) {
        cx.error(Code::Value, last.span, format!("more than {MAX_RATES} windows in one rate limit"))
            .help("write a second policy; rate limits add up");
    }
    if rates.value.0.is_empty() {
        cx.error(Code::Value, rates.span, "a rate limit without a rate").help("write `rate: 20/m`");
    }
    let mut periods = BTreeMap::new();
    for at in &rates.value.0 {
        if let Some(first) = periods.insert(at.value.per, at.span) {
            let first = cx.place(first);
            cx.error(Code::Conflict, at.span, "two rates over the same time")
                .label("again here")
                .related(first, "first here")
                .help("keep the lower one: it decides alone");
        }
    }
    if let Some(key) = &raw.key {
        let named = |at: &At<KeyPart>| At { value: format!("{:?}", at.value), span: at.span, key: at.key };
        unique(&key.value.0.iter().map(named).collect::<Vec<_>>(), "part of a key", cx);
    }
    let kind = PolicyKind::RateLimit(RateLimit {
        rates: rates.value.0.iter().map(|at| at.value).collect(),
        bursts: bursts(raw, cx)?,
        key: raw.key.iter().flat_map(|key| key.value.0.iter().map(|at| at.value.clone())).collect(),
        on_missing: match raw.on_missing() {
            RawOnMissing::Shared => OnMissing::Shared,
            RawOnMissing::Skip => OnMissing::Skip,
            RawOnMissing::Reject => OnMissing::Reject,
        },
        max_keys: usize::try_from(raw.max_keys().0).unwrap_or(usize::MAX),
    });
    let key = raw.key.as_ref().map(|key| key.span);
    Some(Unnamed { kind, enforce: raw.enforce(), scope: scope(raw.scope()), key })
}

fn bursts(raw: &RawRateLimit, cx: &mut Cx) -> Option<Vec<u32>> {
    let rates = &raw.rate.as_ref()?.value.0;
    let Some(bursts) = &raw.burst else {
        if let Some(span) = raw.said("burst") {
            debug_assert!(!cx.is_clean(), "an unread burst at {span:?} is reported");
            return None;
        }
        return Some(rates.iter().map(|at| at.value.count).collect());
    };
    let (have, need) = (bursts.value.0.len(), rates.len());
    if have != need {
        let counts = rates.iter().map(|at| at.value.count.to_string()).collect::<Vec<_>>().join(", ");
        cx.error(Code::Value, bursts.span, format!("{have} of {need} bursts: each rate has one"))
            .help(format!("in the order of the rates: `burst: [{counts}]`"));
        return None;
    }
    Some(bursts.value.0.iter().map(|at| u32::try_from(at.value.0).unwrap_or(u32::MAX)).collect())
}

fn bulkhead(raw: &RawBulkhead, cx: &mut Cx) -> Option<Unnamed> {
    let number = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
    let kind = PolicyKind::Bulkhead(Bulkhead {
        max: number(raw.max.as_ref()?.value.0),
        queue: number(raw.queue().0),
        max_wait: raw.max_wait().0,
    });
    if let Some(wait) = raw
        .max_wait
        .as_ref()
        .filter(|_| raw.queue().0 == 0 && raw.said("queue").is_none_or(|_| raw.queue.is_some()))
    {
        cx.error(Code::Conflict, wait.key, "`max_wait` without a `queue` has no effect")
            .help("nobody waits where there is no queue: add `queue: 25`, or take `max_wait` away");
    }
    Some(Unnamed { kind, enforce: raw.enforce(), scope: scope(raw.scope()), key: None })
}

fn scope(raw: RawScope) -> Scope {
    match raw {
        RawScope::Policy => Scope::Policy,
        RawScope::Route => Scope::Route,
        RawScope::Upstream => Scope::Upstream,
    }
}
