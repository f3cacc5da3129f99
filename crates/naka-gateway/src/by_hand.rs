//! What an operator does by hand: opens and closes circuit breakers, holds arms of splits and releases them, clears caches,
//! takes endpoints out and in again.
//!
//! It holds over reloads, as what it acts on does. What was done to endpoints, breakers and splits goes on in the process that
//! takes over or reads the [state](crate::saved); a cleared cache is as empty there as any.

use naka::{
    balance::{Absence, Endpoint},
    cache::Counts,
    circuit_breaker::Breaker,
    clock::Now,
    observe::Observer,
    split::SplitLayer,
};
use tracing::warn;

use crate::{route::query_value, state::State};

/// What an endpoint is told to do.
const TO_ENDPOINTS: &str =
    "`do` is one of maintenance, drain, restore, force_open, force_close, release and reset\n";
/// What the breaker of a policy is told to do.
const TO_POLICIES: &str = "`do` is one of force_open, force_close, release and reset\n";
/// What a cache is told to do.
const TO_CACHES: &str = "`do` is clear\n";
/// What an arm of a split is told to do.
const TO_SPLITS: &str = "`do` is one of hold and release\n";

/// Does to an endpoint what the query says, and says what it is then.
///
/// # Errors
/// Why nothing was done.
pub fn to_endpoint(state: &State, query: &str) -> Result<String, String> {
    let (upstream, address) = (parameter(query, "upstream")?, parameter(query, "endpoint")?);
    let word = parameter(query, "do")?;
    let balancer = state.balancers.get(&upstream);
    let balancer = balancer.ok_or_else(|| format!("there is no upstream `{upstream}`\n"))?;
    let endpoint = balancer.endpoints().into_iter().find(|it| **it.address() == *address);
    let endpoint = endpoint.ok_or_else(|| format!("`{upstream}` has no endpoint `{address}`\n"))?;
    let now = Now::read();
    match &*word {
        "maintenance" => endpoint.withdraw(Absence::Maintenance),
        "drain" => endpoint.withdraw(Absence::Draining),
        "restore" => {
            endpoint.restore(Absence::Maintenance, now);
            endpoint.restore(Absence::Draining, now);
        }
        _ => {
            let breakers = state.endpoint_breakers.get(&upstream);
            let breaker = breakers.and_then(|breakers| breakers.breaker(&address));
            let breaker = breaker.ok_or_else(|| no_breaker(&word, &upstream))?;
            force(&breaker, &word).ok_or(TO_ENDPOINTS)?;
        }
    }
    warn!(%upstream, endpoint = %address, word, "an endpoint was told so by hand");
    Ok(said(&endpoint, now))
}

/// Does to the breaker, the split or the cache of a policy what the query says, and says what it is then.
///
/// # Errors
/// Why nothing was done.
pub fn to_policy(state: &State, query: &str) -> Result<String, String> {
    let (policy, word) = (parameter(query, "policy")?, parameter(query, "do")?);
    if let Some(split) = state.splits.get(&policy) {
        return to_arm(split, &policy, &parameter(query, "arm")?, &word);
    }
    if let Some(cache) = state.caches.get(&policy) {
        if word != "clear" {
            return Err(TO_CACHES.to_owned());
        }
        let Counts { entries, bytes } = cache.counts();
        cache.clear();
        warn!(%policy, entries, bytes, "a cache was cleared by hand");
        return Ok(format!("{policy}: {entries} answers are forgotten, {bytes} bytes\n"));
    }
    let layer = state.breakers.get(&policy);
    let layer = layer.ok_or_else(|| {
        format!("there is no circuit breaker, no split and no cache `{policy}`; see `/policies`\n")
    })?;
    if layer.is_keyed() {
        return Err(format!(
            "`{policy}` has a breaker for each key, and they are not told apart here: take `key` out of the file, or change what it counts\n"
        ));
    }
    let breaker = layer.breaker().ok_or("it is off\n")?;
    force(&breaker, &word).ok_or(TO_POLICIES)?;
    warn!(%policy, word, "a circuit breaker was told so by hand");
    Ok(format!("{policy}: {}\n", breaker.snapshot(Now::read())))
}

/// Holds one arm of a split, or releases it.
fn to_arm<O: Observer>(split: &SplitLayer<O>, policy: &str, arm: &str, word: &str) -> Result<String, String> {
    let is = |split: &SplitLayer<O>| split.arms(Now::read()).into_iter().find(|is| *is.name == *arm);
    let before = is(split).ok_or_else(|| format!("`{policy}` has no arm `{arm}`\n"))?;
    let is_done = match word {
        "hold" if before.is_baseline => {
            return Err(format!(
                "`{arm}` is what the others are measured by, and is never held: give it another share in the file\n"
            ));
        }
        "hold" => split.hold(arm),
        "release" => split.release(arm),
        _ => return Err(TO_SPLITS.to_owned()),
    };
    if !is_done {
        return Err(format!("`{arm}` is {}held already\n", if word == "release" { "not " } else { "" }));
    }
    warn!(%policy, %arm, word, "an arm of a split was told so by hand");
    let in_force = is(split).map_or(0, |is| is.in_force);
    Ok(format!("{policy}: the share of `{arm}` is {}, and {in_force} is in force\n", before.weight))
}

fn force<O: Observer>(breaker: &Breaker<O>, word: &str) -> Option<()> {
    match word {
        "force_open" => breaker.force_open(),
        "force_close" => breaker.force_close(),
        "release" => breaker.release(),
        "reset" => breaker.reset(),
        _ => return None,
    }
    Some(())
}

fn no_breaker(word: &str, upstream: &str) -> String {
    if matches!(word, "force_open" | "force_close" | "release" | "reset") {
        format!("the endpoints of `{upstream}` have no circuit breakers\n")
    } else {
        TO_ENDPOINTS.to_owned()
    }
}

fn said(endpoint: &Endpoint, now: Now) -> String {
    let absences = endpoint.absences().map(Absence::word).collect::<Vec<_>>();
    let absent = if absences.is_empty() { "there".to_owned() } else { absences.join(" and ") };
    let gate = endpoint.gate().map(|gate| format!(", breaker {}", gate.explain(now))).unwrap_or_default();
    format!("{}: {absent}, {} under way{gate}\n", endpoint.address(), endpoint.in_flight())
}

fn parameter(query: &str, name: &str) -> Result<String, String> {
    let value = query_value(query, name).and_then(|value| String::from_utf8(value).ok());
    value.ok_or_else(|| format!("the query has to say `{name}`, once\n"))
}
