//! Limits: of rates, and of requests at once.

use std::collections::BTreeMap;

use super::{policies::Unnamed, unique};
use crate::config::{
    checked::{Bulkhead, KeyPart, OnMissing, PolicyKind, RateLimit, Scope},
    decode::{At, Cx},
    diagnostic::Code,
    raw::{RawBulkhead, RawOnMissing, RawRateLimit, RawScope},
};

/// Windows of one rate limit.
const MAX_RATES: usize = 4;

pub(super) fn rate_limit(raw: &RawRateLimit, cx: &mut Cx) -> Option<Unnamed> {
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

pub(super) fn bulkhead(raw: &RawBulkhead, cx: &mut Cx) -> Option<Unnamed> {
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
