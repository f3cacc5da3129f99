//! What is checked of the gateway itself, and of what somebody is told.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use http::HeaderValue;

use super::Name;
use crate::{monitor::Level, tls::ClientTls};

/// How it is found out how the gateway is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelfChecks {
    /// How often everything is looked at.
    pub interval: Duration,
    /// So long a worker may stand still.
    pub stalled_after: Duration,
    /// Of processors.
    pub cpu: Thresholds,
    /// Of memory.
    pub memory: Thresholds,
    /// Of open files.
    pub descriptors: Thresholds,
    /// Of file systems.
    pub disk: Thresholds,
    /// A folder of each file system that is looked at.
    pub disks: Vec<Arc<str>>,
}

/// From which share on a resource is how bad, in percent; in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// From here on degraded.
    pub degraded: u8,
    /// From here on unhealthy.
    pub unhealthy: u8,
    /// From here on critical.
    pub critical: u8,
}

/// Of what somebody is told, and how.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Alerts {
    /// By the name of the alert.
    pub rules: BTreeMap<Name, AlertRule>,
    /// Who is told, if anybody is.
    pub webhook: Option<Webhook>,
}

/// When an alert fires.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlertRule {
    /// What has to be so.
    pub when: AlertCondition,
    /// Of which; nothing for all.
    pub of: Option<Vec<Name>>,
    /// For how long, before it fires.
    pub hold: Duration,
    /// For how long not, before it is over.
    pub keep: Duration,
    /// How bad that is.
    pub severity: Severity,
}

/// What an alert is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AlertCondition {
    /// A resource is as bad as this, or worse.
    Check(Level),
    /// Endpoints of an upstream cannot be used, and half of them or more can.
    SomeDown,
    /// More than half cannot.
    MajorityDown,
    /// None can.
    AllDown,
    /// A route answers with errors.
    Errors {
        /// More than this, in percent.
        above: u8,
        /// Of so many requests at least.
        min_requests: u64,
        /// In this time.
        window: Duration,
    },
    /// A circuit breaker is not closed.
    BreakerOpen,
    /// What the files say is not in force, because it is wrong.
    ReloadRefused,
    /// A certificate ends within this time.
    CertificateExpires(Duration),
    /// Endpoints that are found may be others by now.
    Stale,
    /// Something was not kept or sent because there was no room.
    Dropped,
}

/// How bad an alert is; the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Somebody has to get up.
    Critical,
    /// Somebody has to look at it.
    Warning,
    /// Nobody has to do anything.
    Info,
}

impl Severity {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Critical, Self::Warning, Self::Info];

    /// The word for it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Critical => "critical",
            Self::Warning => "warning",
            Self::Info => "info",
        }
    }
}

/// Who is told of alerts.
#[derive(Clone, Debug, PartialEq)]
pub struct Webhook {
    /// Where; `http` or `https`, with a host.
    pub url: Arc<str>,
    /// How it is made sure who that is, over `https`.
    pub tls: Option<ClientTls>,
    /// `Bearer …`, marked as sensitive.
    pub authorization: Option<HeaderValue>,
    /// How long one post may take.
    pub timeout: Duration,
}
