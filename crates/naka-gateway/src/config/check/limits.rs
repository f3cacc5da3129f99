//! Limits: of rates, and of requests at once.

use std::{collections::BTreeMap, sync::Arc};

use super::{policies::Unnamed, stores::Stores, unique};
use crate::config::{
    checked::{
        Adaptive, Bulkhead, Fields, IdentityPart, KeyPart, OnFailure, OnMissing, PolicyKind, RateLimit,
        Scope, Shared, Tiers,
    },
    decode::{At, Cx, Named, Or},
    diagnostic::Code,
    node::Span,
    raw::{
        Multiple, RawAdapt, RawAdaptive, RawAdaptiveAlgorithm, RawAdaptiveWord, RawAlgorithmOfLimit,
        RawBulkhead, RawFields, RawOnFailure, RawOnMissing, RawPlaces, RawRateLimit, RawScope, TierValue,
    },
    units::Percent,
};

/// Tiers of one bulkhead.
const MAX_TIERS: usize = 8;
/// Priorities of one bulkhead.
const PRIORITIES: usize = 4;
/// Windows of one rate limit.
const MAX_RATES: usize = 4;

pub(super) fn rate_limit(raw: &RawRateLimit, stores: &Stores, cx: &mut Cx) -> Option<Unnamed> {
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
        is_sliding: raw.algorithm() == RawAlgorithmOfLimit::SlidingWindow,
        cost: cost(raw, cx),
        tiers: raw.tiers.as_ref().and_then(|at| tiers(at, |Multiple(percent)| percent, cx)),
        fields: match raw.fields() {
            RawFields::None => Fields::None,
            RawFields::Draft => Fields::Draft,
            RawFields::Legacy => Fields::Legacy,
        },
        shared: shared(raw, stores, cx),
    });
    if let Some(burst) = raw.burst.as_ref().filter(|_| raw.algorithm() == RawAlgorithmOfLimit::SlidingWindow)
    {
        cx.error(Code::Conflict, burst.key, "a sliding window has no burst besides its count")
            .help("take `burst` away, or `algorithm`: `gcra` has one");
    }
    let key = raw.key.as_ref().map(|key| key.span);
    Some(Unnamed { kind, enforce: raw.enforce(), scope: scope(raw.scope()), key })
}

/// With whom it is counted. What is wrong is reported: then what this is counts for nothing.
fn shared(raw: &RawRateLimit, stores: &Stores, cx: &mut Cx) -> Option<Shared> {
    let at = raw.shared.as_ref()?;
    if raw.algorithm() == RawAlgorithmOfLimit::SlidingWindow {
        cx.error(Code::Conflict, at.key, "a store counts by `gcra`, and not by sliding windows")
            .help("take `algorithm` away, or `shared`");
    }
    let raw = &at.value;
    let store = stores.find(raw.store.as_ref()?, cx)?;
    let on_failure = match raw.on_failure() {
        RawOnFailure::Share => OnFailure::Share,
        RawOnFailure::Open => OnFailure::Open,
        RawOnFailure::Closed => OnFailure::Closed,
    };
    let Percent(share) = raw.share.as_ref()?.value;
    Some(Shared {
        name: Arc::clone(&raw.store.as_ref()?.value.0),
        store,
        share: share.into(),
        lease: number(raw.lease().0),
        on_failure,
    })
}

/// What one request costs, which has to be less than what there is at once.
fn cost(raw: &RawRateLimit, cx: &mut Cx) -> u32 {
    let cost = u32::try_from(raw.cost().0).unwrap_or(u32::MAX);
    let Some(at) = &raw.cost else { return cost };
    if cost == 0 {
        cx.error(Code::Unused, at.span, "a cost of 0 uses nothing up: this limit refuses nobody")
            .warning()
            .help("write `cost: 1` or more, or take the limit away");
    }
    let bursts = raw.burst.iter().flat_map(|list| list.value.0.iter().map(|at| at.value.0));
    let counts = raw.rate.iter().flat_map(|list| list.value.0.iter().map(|at| u64::from(at.value.count)));
    let least = if raw.burst.is_some() { bursts.min() } else { counts.min() };
    if let Some(least) = least.filter(|least| u64::from(cost) > *least) {
        cx.error(
            Code::Value,
            at.span,
            format!("a cost of {cost}, and at most {least} at once: nobody would pass"),
        )
        .help(format!("at most {least}, or a higher `rate` or `burst`"));
    }
    cost
}

/// `by:` and what each value has.
fn tiers<T: Clone, U>(
    at: &At<Named<Arc<str>, TierValue<T>>>,
    make: impl Fn(T) -> U,
    cx: &mut Cx,
) -> Option<Tiers<U>> {
    let (mut by, mut of) = (None, Vec::new());
    for (name, value) in &at.value.0 {
        match (&*name.value, value) {
            (_, None) => return None,
            ("by", Some(TierValue::By(part))) => by = Some(part.clone()),
            ("by", Some(TierValue::Has(_))) => {
                cx.error(Code::Value, name.span, "`by` is what decides").help("write `by: jwt.tier`");
                return None;
            }
            (_, Some(TierValue::Has(value))) => of.push((Arc::clone(&name.value), make(value.clone()))),
            (_, Some(TierValue::By(_))) => {
                cx.error(
                    Code::Value,
                    name.span,
                    format!("`{}` says what decides, and not what it has", name.value),
                )
                .help("write a factor or a share, and what decides once: `by: jwt.tier`");
                return None;
            }
        }
    }
    whole(at.key, by, of, cx)
}

fn whole<U>(key: Span, by: Option<IdentityPart>, of: Vec<(Arc<str>, U)>, cx: &mut Cx) -> Option<Tiers<U>> {
    if of.is_empty() || by.is_none() {
        let what = if by.is_none() { "does not say what decides" } else { "has no values" };
        let message = format!("`{}` {what}", cx.text(key));
        cx.error(Code::Missing, key, message)
            .help("write `{by: jwt.tier, …}` with each tier and what it has");
        return None;
    }
    Some(Tiers { by: by?, of })
}

/// `by:` and the places of each value.
fn places(at: &At<RawPlaces>, max: u32, cx: &mut Cx) -> Option<Tiers<(u32, u32)>> {
    let (mut by, mut of) = (None, Vec::new());
    for (name, value) in &at.value.0 {
        match (&*name.value, value.as_ref()?) {
            ("by", Or::Text(TierValue::By(part))) => by = Some(part.clone()),
            ("by", _) => {
                cx.error(Code::Value, name.span, "`by` is what decides").help("write `by: jwt.tier`");
                return None;
            }
            (_, Or::Record(share)) => {
                let (reserved, most) = (number(share.reserved().0), number(share.max.as_ref()?.value.0));
                if reserved > most || most > max {
                    cx.error(
                        Code::Value,
                        name.span,
                        format!("`{}` has {reserved} of {most} places of {max}", name.value),
                    )
                    .help("`reserved` is at most its `max`, and that at most the bulkhead's");
                }
                of.push((Arc::clone(&name.value), (reserved, most)));
            }
            (_, Or::Text(_)) => {
                cx.error(Code::Value, name.span, format!("`{}` has no places", name.value))
                    .help("write `{reserved: 10, max: 40}`");
                return None;
            }
        }
    }
    let reserved = of.iter().map(|(_, (reserved, _))| u64::from(*reserved)).sum::<u64>();
    if reserved > u64::from(max) {
        cx.error(Code::Value, at.key, format!("{reserved} places are reserved, and there are {max}"))
            .help("reserve less, or write a higher `max`");
    }
    if of.len() > MAX_TIERS {
        cx.error(
            Code::Value,
            at.key,
            format!("{} tiers, and at most {MAX_TIERS} can be told apart", of.len()),
        )
        .help("take some together: whoever has none is of the last one");
    }
    whole(at.key, by, of, cx)
}

fn number(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn adaptive(at: &At<Or<RawAdaptiveWord, RawAdaptive>>, max: u32, cx: &mut Cx) -> Adaptive {
    let raw = match &at.value {
        Or::Text(RawAdaptiveWord::Observe) => &RawAdaptive::default(),
        Or::Record(raw) => raw,
    };
    let latency = raw.latency.as_ref().map(|at| at.value);
    match (raw.algorithm(), &raw.latency) {
        (RawAdaptiveAlgorithm::Aimd, None) if raw.said("latency").is_none() => {
            cx.error(Code::Missing, at.span, "`aimd` does not say how slow is too slow")
                .help("write `latency: 100ms`, or `algorithm: gradient2`, which finds it out");
        }
        (RawAdaptiveAlgorithm::Gradient2, Some(latency)) => {
            cx.error(Code::Conflict, latency.key, "`gradient2` has no `latency`")
                .help("take it away, or write `algorithm: aimd`");
        }
        _ => {}
    }
    let (least, most) = (number(raw.min().0), raw.max.as_ref().map_or(max, |at| number(at.value.0)));
    if least > most || most > max {
        cx.error(Code::Value, at.span, format!("from {least} to {most}, and the bulkhead has {max}"))
            .help("`min` is at most `max`, and that at most the bulkhead's");
    }
    let aimd_latency = latency.filter(|_| raw.algorithm() == RawAdaptiveAlgorithm::Aimd);
    Adaptive { aimd_latency, min: least, max: most, acts: raw.enforce() == RawAdapt::Always }
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

pub(super) fn bulkhead(raw: &RawBulkhead, cx: &mut Cx) -> Option<Unnamed> {
    let max = number(raw.max.as_ref()?.value.0);
    if let (Some(key), Some(tiers)) = (&raw.key, &raw.tiers) {
        let place = cx.place(key.key);
        cx.error(Code::Conflict, tiers.key, "`tiers` beside `key`")
            .related(place, "each key has places of its own")
            .help("keep one of the two; a route and its upstream can each have a bulkhead");
    }
    for (other, key) in
        [("total", raw.total.as_ref().map(|at| at.key)), ("max_keys", raw.max_keys.as_ref().map(|at| at.key))]
    {
        if let Some(key) = key.filter(|_| raw.said("key").is_none()) {
            cx.error(Code::Conflict, key, format!("`{other}` without `key` has no effect"))
                .help(format!("write `key: [client_ip]`, or take `{other}` away"));
        }
    }
    if let Some(total) = raw.total.as_ref().filter(|total| raw.key.is_some() && number(total.value.0) < max) {
        let message = format!("no key can have {max} places at once: all together have {}", total.value.0);
        cx.error(Code::Unused, total.span, message)
            .warning()
            .help(format!("write a `total` above `max`, which is {max} for each key, or a lower `max`"));
    }
    if let Some(adaptive) = raw.adaptive.as_ref().filter(|_| raw.key.is_some() || raw.tiers.is_some()) {
        cx.error(Code::Conflict, adaptive.key, "partitions and tiers do not adapt")
            .help("put an adaptive bulkhead on the upstream, inside of this one");
    }
    let priorities = raw.priorities.as_ref().and_then(|at| {
        let tiers = tiers(at, |Percent(percent)| percent, cx)?;
        if tiers.of.len() > PRIORITIES {
            cx.error(Code::Value, at.key, format!("{} priorities, and at most {PRIORITIES}", tiers.of.len()))
                .help("take some together: whoever has none goes last");
        }
        Some(tiers)
    });
    let kind = PolicyKind::Bulkhead(Bulkhead {
        max,
        queue: number(raw.queue().0),
        max_wait: raw.max_wait().0,
        key: raw.key.iter().flat_map(|key| key.value.0.iter().map(|at| at.value.clone())).collect(),
        max_keys: usize::try_from(raw.max_keys().0).unwrap_or(usize::MAX),
        total: raw.total.as_ref().map(|at| number(at.value.0)),
        tiers: raw.tiers.as_ref().and_then(|at| places(at, max, cx)),
        priorities,
        adaptive: raw.adaptive.as_ref().map(|at| adaptive(at, max, cx)),
    });
    if let Some(wait) = raw
        .max_wait
        .as_ref()
        .filter(|_| raw.queue().0 == 0 && raw.said("queue").is_none_or(|_| raw.queue.is_some()))
    {
        cx.error(Code::Conflict, wait.key, "`max_wait` without a `queue` has no effect")
            .help("nobody waits where there is no queue: add `queue: 25`, or take `max_wait` away");
    }
    let key = raw.key.as_ref().map(|key| key.span);
    Some(Unnamed { kind, enforce: raw.enforce(), scope: scope(raw.scope()), key })
}

pub(super) fn scope(raw: RawScope) -> Scope {
    match raw {
        RawScope::Policy => Scope::Policy,
        RawScope::Route => Scope::Route,
        RawScope::Upstream => Scope::Upstream,
    }
}
