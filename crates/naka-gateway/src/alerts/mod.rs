//! Alerts: what somebody should know of, once when it begins and once when it is over.
//!
//! A rule (`gateway.alerts.rules`, and [those that are there by themselves](builtin)) is a condition, how long it has to
//! hold, and how bad that is. Every `gateway.health.interval` it is looked what holds (`conditions`), and the
//! [machine](Machine) says what has begun and what is over. Changes of one look go to the webhook in one post.
//!
//! Nothing of it costs a request anything: conditions are of the state at hand, and of counters that count anyway.
//!
//! # Bounds
//! 1,000 alerts ([`MOST`]) and as many changes on their way to the webhook; a post has 100 of them, a timeout, and ten
//! attempts. What is over is counted.
//!
//! # State
//! Over reloads, by the names of rules. Nothing outlives the process: what fires is forgotten, and fires anew in the next one if
//! it still holds, under the same fingerprint.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use naka::clock::{Now, WallClock};
use serde_json::{Value, json};
use tokio::time::Instant;
use tracing::{info, warn};

mod conditions;
mod machine;
mod webhook;

use conditions::{Memory, Sight};
pub use machine::{Active, Change, Key, MOST, Machine, Phase, Timing};
use webhook::Outbox;
pub use webhook::{fingerprint, message};

use crate::{
    admin::Admin,
    config::{
        checked::{AlertCondition, AlertRule, Name, Severity},
        show_time,
    },
    generation::{Generation, InForce},
    monitor::Level,
    observe::Metrics,
    upstream::Connector,
};

/// A reading of both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// The one that only goes on.
    pub at: Instant,
    /// The time of day, in seconds since 1970.
    pub unix_s: u64,
}

impl Moment {
    /// Both say this.
    pub const fn new(at: Instant, unix_s: u64) -> Self {
        Self { at, unix_s }
    }

    /// Reads both.
    pub fn now(clock: WallClock) -> Self {
        let now = Now::read();
        Self { at: now.instant(), unix_s: clock.unix_s(now) }
    }
}

/// The rules that are there by themselves, by name.
pub fn builtin() -> BTreeMap<Name, AlertRule> {
    let (second, minute) = (Duration::from_secs(1), Duration::from_mins(1));
    let errors = AlertCondition::Errors { above: 5, min_requests: 100, window: minute * 2 };
    let expires = AlertCondition::CertificateExpires(Duration::from_hours(7 * 24));
    let all = [
        ("check-unhealthy", AlertCondition::Check(Level::Unhealthy), minute * 5, Severity::Warning),
        ("check-critical", AlertCondition::Check(Level::Critical), minute, Severity::Critical),
        ("endpoint-down", AlertCondition::SomeDown, second * 30, Severity::Warning),
        ("majority-down", AlertCondition::MajorityDown, second * 30, Severity::Critical),
        ("route-errors", errors, minute * 2, Severity::Critical),
        ("breaker-open", AlertCondition::BreakerOpen, minute, Severity::Warning),
        ("reload-refused", AlertCondition::ReloadRefused, minute, Severity::Warning),
        ("certificate-expires", expires, minute, Severity::Warning),
        ("discovery-stale", AlertCondition::Stale, minute * 5, Severity::Warning),
        ("dropped", AlertCondition::Dropped, Duration::ZERO, Severity::Warning),
    ];
    let rule = |(name, when, hold, severity): (&str, _, _, _)| {
        (name.into(), AlertRule { when, of: None, hold, keep: minute, severity })
    };
    all.into_iter().map(rule).collect()
}

/// Decides what somebody is told, and tells it.
#[derive(Debug, Default)]
pub struct Watcher {
    known: Mutex<Known>,
    outbox: Outbox,
}

#[derive(Debug, Default)]
struct Known {
    machine: Machine,
    memory: Memory,
}

impl Watcher {
    /// Looks what holds now, and puts what has changed into the queue of the webhook, if there is one.
    pub fn decide(&self, admin: &Admin, generation: &Generation, now: Moment) {
        let alerts = &generation.config.gateway.alerts;
        let known = &mut *self.known();
        let held = Sight::new(admin, generation, now).held(&alerts.rules, &mut known.memory);
        let changes = known.machine.step(now, held, |key| {
            let rule = alerts.rules.get(&key.rule).filter(|rule| rule.severity == key.severity)?;
            Some(Timing { hold: rule.hold, keep: rule.keep })
        });
        let phases = known.machine.active().map(|(key, active)| (key.severity, word(active.phase)));
        admin.metrics.alerts(phases, known.machine.over());
        for change in &changes {
            let Change { key: Key { severity, rule, subject }, why, ended_s, .. } = change;
            let severity = severity.word();
            if ended_s.is_none() {
                warn!(alert = %rule, severity, %subject, %why, "an alert fires");
            } else {
                info!(alert = %rule, severity, %subject, "an alert is over");
            }
        }
        if alerts.webhook.is_some() {
            self.outbox.put(changes, &admin.metrics);
        }
    }

    /// Tells the webhook, for ever.
    pub async fn tell(&self, in_force: &InForce, metrics: &Metrics, connector: &Connector) {
        self.outbox.run(in_force, metrics, connector).await;
    }

    /// What is pending and what fires, the worst first.
    pub fn to_json(&self, generation: &Generation) -> Value {
        let known = self.known();
        let all = known.machine.active().map(|(key, active)| {
            let (Phase::Pending { since } | Phase::Firing { since, .. }) = active.phase;
            json!({
                "rule": &*key.rule,
                "severity": key.severity.word(),
                "subject": &*key.subject,
                "state": word(active.phase),
                "since": show_time(since.unix_s),
                "why": &*active.why,
                "fingerprint": fingerprint(key),
            })
        });
        let alerts = &generation.config.gateway.alerts;
        json!({
            "alerts": all.collect::<Vec<_>>(),
            "over": known.machine.over(),
            "rules": alerts.rules.keys().map(|name| &**name).collect::<Vec<_>>(),
            "webhook": alerts.webhook.as_ref().map(|_| self.outbox.to_json()),
        })
    }

    /// A panic in between leaves what the last look has found.
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The word of a phase, in metrics and at the admin port.
const fn word(phase: Phase) -> &'static str {
    match phase {
        Phase::Pending { .. } => "pending",
        Phase::Firing { .. } => "firing",
    }
}

/// The subjects of alerts about the whole configuration.
const CONFIGURATION: &str = "configuration";

/// So many names at most are looked for a match: rules have few.
fn is_of(of: Option<&Vec<Name>>, name: &str) -> bool {
    of.is_none_or(|of| of.iter().any(|it| **it == *name))
}

/// A subject.
type Subject = Arc<str>;
