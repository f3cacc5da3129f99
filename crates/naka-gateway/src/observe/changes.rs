//! The last changes of circuit breakers, with what led to them.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use naka::{
    circuit_breaker::{Cause, Counts, Transition},
    clock::{Now, WallClock},
};
use serde_json::{Value, json};

use crate::config::{checked::Name, show_time};

/// So many are kept, over all breakers of the process.
const KEPT: usize = 64;

/// The last 64 changes. Those that are logged are kept: of the breakers of keys one in a while, and of no key its value.
#[derive(Debug, Default)]
pub(super) struct Changes(Mutex<VecDeque<Change>>);

#[derive(Clone, Debug)]
struct Change {
    /// Since 1970.
    at: Duration,
    whose: Whose,
    is: Transition,
}

/// Whose breaker it is that has changed.
#[derive(Clone, Debug)]
pub(super) enum Whose {
    /// That of a policy.
    Policy(Name),
    /// That of an endpoint: its upstream, its address.
    Endpoint(Name, Arc<str>),
}

impl Changes {
    pub(super) fn tell(&self, whose: Whose, is: &Transition) {
        let at = WallClock::default().unix(Now::read()).unwrap_or_default();
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.truncate(KEPT - 1);
        kept.push_front(Change { at, whose, is: *is });
    }

    /// The latest first.
    pub(super) fn to_json(&self) -> Value {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        kept.iter().map(Change::to_json).collect()
    }
}

impl Change {
    fn to_json(&self) -> Value {
        let Self { at, whose, is } = self;
        let (word, why, counts) = evidence(is.cause);
        let mut it = json!({
            "at": show_time(at.as_secs()),
            "from": is.from.word(),
            "to": is.to.word(),
            "cause": word,
            "why": why,
            "window": counts.map(|it| json!({"requests": it.total, "failed": it.failed, "slow": it.slow})),
            "keyed": is.key.is_some(),
        });
        match whose {
            Whose::Policy(policy) => it["policy"] = (**policy).into(),
            Whose::Endpoint(upstream, endpoint) => {
                it["upstream"] = (**upstream).into();
                it["endpoint"] = (**endpoint).into();
            }
        }
        it
    }
}

/// A cause: its word, what it says, and what was in the window if that was what counted.
fn evidence(cause: Cause) -> (&'static str, String, Option<Counts>) {
    let plain = |word, why: &str| (word, why.to_owned(), None);
    match cause {
        Cause::Consecutive(1) => plain("consecutive", "a failure"),
        Cause::Consecutive(run) => ("consecutive", format!("{run} failures in a row"), None),
        Cause::FailureRate(counts) => (
            "failure_rate",
            format!("{} of {} failed in the window", counts.failed, counts.total),
            Some(counts),
        ),
        Cause::SlowRate(counts) => (
            "slow_rate",
            format!("{} of {} were slow in the window", counts.slow, counts.total),
            Some(counts),
        ),
        Cause::Probing => plain("probing", "it was open for long enough; one is let through"),
        Cause::ProbesHung => plain("probes_hung", "all probes hung; another is let through"),
        Cause::ProbeFailed => plain("probe_failed", "a probe failed or was slow"),
        Cause::ProbesSucceeded => plain("probes_succeeded", "enough probes went well"),
        Cause::Recovered => plain("recovered", "the recovery is over"),
        Cause::ByHand => plain("by_hand", "by hand"),
        _ => plain("other", "for another reason"),
    }
}

#[cfg(test)]
mod tests {
    use naka::circuit_breaker::{Breaker, CircuitBreakerConfig};

    use super::*;

    #[test]
    fn the_last_64_changes_are_kept_and_no_more() {
        let changes = Arc::new(Changes::default());
        let name = |n: usize| Name::from(format!("p{n}"));
        let is = transition();
        for n in 0..KEPT + 3 {
            changes.tell(Whose::Policy(name(n)), &is);
        }
        let told = changes.to_json();
        let told = told.as_array().unwrap();
        assert_eq!(told.len(), KEPT);
        assert_eq!((&told[0]["policy"], &told[KEPT - 1]["policy"]), (&"p66".into(), &"p3".into()));
        assert_eq!((&told[0]["to"], &told[0]["cause"]), (&"forced_open".into(), &"by_hand".into()));
    }

    /// One as a breaker tells it.
    fn transition() -> Transition {
        #[derive(Default)]
        struct Heard(Mutex<Option<Transition>>);
        impl naka::observe::Observer for Heard {
            fn transition(&self, transition: &Transition) {
                *self.0.lock().unwrap() = Some(*transition);
            }
        }
        let heard = Arc::new(Heard::default());
        let breaker = Breaker::observed(CircuitBreakerConfig::default(), Arc::clone(&heard));
        breaker.force_open();
        let is = heard.0.lock().unwrap().take();
        is.unwrap()
    }
}
