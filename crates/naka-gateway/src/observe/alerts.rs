//! Metrics of alerts, and the counters that alerts look at.

use std::sync::Arc;

use http::StatusCode;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use super::{CANCELLED, CLASSES, Metrics, PolicyLabels, RequestLabels};
use crate::config::checked::{Name, Severity};

/// What became of the telling of alerts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// The webhook has taken them.
    Delivered,
    /// It has not, and it was given up.
    Failed,
    /// Too many were waiting.
    Dropped,
}

impl Told {
    const ALL: [Self; 3] = [Self::Delivered, Self::Failed, Self::Dropped];

    const fn word(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Failed => "failed",
            Self::Dropped => "dropped",
        }
    }
}

/// Where an alert may be in its life.
const STATES: [&str; 2] = ["pending", "firing"];

/// Of all alerts.
#[derive(Debug, Default)]
pub(super) struct AlertMetrics {
    alerts: Family<AlertLabels, Gauge>,
    over: Gauge,
    told: Family<ToldLabels, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AlertLabels {
    severity: &'static str,
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ToldLabels {
    result: &'static str,
}

impl AlertMetrics {
    /// All at zero.
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register("alerts", "Alerts, by how bad they are and whether they fire", self.alerts.clone());
        registry.register("alerts_over", "Alerts that there is no room for", self.over.clone());
        registry.register(
            "alert_notifications",
            "Beginnings and ends of alerts, by what became of telling them",
            self.told.clone(),
        );
        for severity in Severity::ALL.map(Severity::word) {
            for state in STATES {
                drop(self.alerts.get_or_create(&AlertLabels { severity, state }));
            }
        }
        for told in Told::ALL {
            drop(self.told.get_or_create(&ToldLabels { result: told.word() }));
        }
    }
}

impl Metrics {
    /// Says which alerts there are, each by how bad it is and its state, and for how many there is no room.
    pub fn alerts(&self, all: impl Iterator<Item = (Severity, &'static str)>, over: usize) {
        let all = all.map(|(severity, state)| (severity.word(), state)).collect::<Vec<_>>();
        for severity in Severity::ALL.map(Severity::word) {
            for state in STATES {
                let count = all.iter().filter(|is| **is == (severity, state)).count();
                let gauge = self.alerts.alerts.get_or_create(&AlertLabels { severity, state });
                gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
            }
        }
        self.alerts.over.set(i64::try_from(over).unwrap_or(i64::MAX));
    }

    /// So many changes of alerts had this become of them.
    pub fn told(&self, told: Told, count: usize) {
        let count = u64::try_from(count).unwrap_or(u64::MAX);
        self.alerts.told.get_or_create(&ToldLabels { result: told.word() }).inc_by(count);
    }

    /// How many requests of a route with this template have ended, and how many of them in a status of 500 or more.
    pub(crate) fn answered(&self, route: &Name, template: &Name) -> (u64, u64) {
        let count = |status| {
            let labels = RequestLabels { route: Arc::clone(route), status, template: Arc::clone(template) };
            self.requests.get(&labels).map_or(0, |count| count.get())
        };
        let failed = CLASSES[usize::from(StatusCode::INTERNAL_SERVER_ERROR.as_u16() / 100) - 1];
        let all = CLASSES.into_iter().chain([CANCELLED]).map(count).sum();
        (all, count(failed))
    }

    /// How many copies of requests this mirror has dropped.
    pub(crate) fn mirror_dropped(&self, policy: &Name) -> u64 {
        let labels = PolicyLabels { policy: Arc::clone(policy), outcome: "mirror_dropped" };
        self.policies.get(&labels).map_or(0, |count| count.get())
    }
}
