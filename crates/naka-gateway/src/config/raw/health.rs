//! The records of the gateway's own health, and of alerts.

use std::{sync::Arc, time::Duration};

use super::{Nothing, RawSecret};
use crate::config::{
    decode::{Named, OneOrMany, Or},
    record::{record, words},
    units::{OrZero, Percent, Whole},
    values::{HookUrl, Id},
};

record! {
    /// How it is found out how the gateway itself is.
    RawHealth ("how it is found out how the gateway is") {
        /// How often resources and upstreams are looked at, and alerts are decided.
        interval: Duration = "5s";
        /// A worker that stands still for so long has `/livez` say 503.
        stalled_after: Duration = "30s", "1m";
        /// What is used of the processors that the process may use.
        cpu: RawThresholds = optional, "{degraded: 80%}";
        /// What is used of the memory that the process may use.
        memory: RawThresholds = optional, "{degraded: 80%}";
        /// Open files of the process, connections among them, of those that it may have open.
        descriptors: RawThresholds = optional, "{degraded: 80%}";
        /// File systems; none is looked at where nothing is said.
        disk: RawDisk = optional, "{paths: [/var/lib/naka]}";
    }
    instead: liveness => "`/livez` is there by itself; when a worker counts as hanging is `stalled_after:`",
        readiness => "`/readyz` is there by itself; upstreams without which nothing goes have `critical: true`";
}

record! {
    /// From which share on a resource is how bad.
    RawThresholds ("thresholds such as `{degraded: 70%, unhealthy: 85%, critical: 95%}`") {
        /// From here on it is degraded.
        degraded: Percent = "70%";
        /// From here on it is unhealthy.
        unhealthy: Percent = "85%";
        /// From here on it is critical.
        critical: Percent = "95%";
    }
    instead: warning => "write `degraded:`",
        warn => "write `degraded:`";
}

record! {
    /// Which file systems are looked at, and from which share on they are how bad.
    RawDisk ("file systems such as `{paths: [/var/lib/naka]}`") {
        /// A folder of each.
        paths: OneOrMany<Arc<str>> = required, "[/var/lib/naka]";
        /// From here on it is degraded.
        degraded: Percent = "75%";
        /// From here on it is unhealthy.
        unhealthy: Percent = "85%";
        /// From here on it is critical.
        critical: Percent = "95%";
    }
    instead: path => "write `paths: [/var/lib/naka]`";
}

record! {
    /// Of what somebody is told, and how.
    RawAlerts ("alerts such as `{webhook: {url: \"http://127.0.0.1:9094/hook\"}}`") {
        /// The rules that are there by themselves; one of yours with the same name takes the place of one.
        builtin: bool = "true";
        /// Rules, by the name that an alert has; `none` takes away one that is there by itself.
        rules: Named<Id, Or<Nothing, RawAlertRule>> = optional, "{orders-fail: {when: errors, of: [orders], severity: critical}}";
        /// Who is told.
        webhook: RawWebhook = optional;
    }
    instead: receivers => "write `webhook: {url: …}`",
        groups => "write `rules: {name: {when: errors}}`";
}

record! {
    /// When an alert fires.
    RawAlertRule ("a rule such as `{when: errors, of: [orders], above: 5%, for: 2m}`") {
        /// What has to be so.
        when: RawAlertWhen = required;
        /// Of which checks, upstreams, routes or circuit breakers; of all where nothing is said.
        of: OneOrMany<Arc<str>> = optional, "[orders]";
        /// For `check`: it is as bad as this, or worse.
        level: RawCheckLevel = "unhealthy";
        /// For `errors`: more of the responses than this have a status of 500 or more.
        above: Percent = "5%";
        /// For `errors`: of so few requests nothing is said.
        min_requests: Whole<1, 1_000_000_000> = "100";
        /// For `errors`: the time in which requests are counted.
        window: Duration = "2m";
        /// For `certificate_expires`: so long before its end.
        within: Duration = "7d";
        /// It has to be so for so long before anybody is told.
        r#for: OrZero = "1m";
        /// It has not to be so for so long before it is over.
        keep_firing_for: OrZero = "1m";
        /// How bad that is.
        severity: RawSeverity = "warning";
    }
    instead: expr => "write `when: errors`, and `above: 5%` beside it",
        labels => "write `severity:`; the other labels come with the alert";
}

words! {
    /// What an alert is about.
    RawAlertWhen ("what an alert is about") {
        Check = "check",
        SomeDown = "some_down",
        MajorityDown = "majority_down",
        AllDown = "all_down",
        Errors = "errors",
        BreakerOpen = "breaker_open",
        ReloadRefused = "reload_refused",
        CertificateExpires = "certificate_expires",
        Stale = "stale",
        Dropped = "dropped",
    }
}

words! {
    /// How bad a check is.
    RawCheckLevel ("a level") { Degraded = "degraded", Unhealthy = "unhealthy", Critical = "critical" }
}

words! {
    /// How bad an alert is.
    RawSeverity ("a severity") { Info = "info", Warning = "warning", Critical = "critical" }
}

record! {
    /// Who is told of alerts.
    RawWebhook ("a webhook such as `{url: \"http://127.0.0.1:9094/hook\"}`") {
        /// Where they are posted to, as Prometheus' Alertmanager posts to its webhook receivers.
        url: HookUrl = required;
        /// Shown there: `Authorization: Bearer …`.
        token: RawSecret = optional;
        /// How long one post may take, from connecting to the status.
        timeout: Duration = "5s";
    }
    instead: authorization => "write `token: {env: ALERTS_TOKEN}`",
        headers => "write `token: {env: ALERTS_TOKEN}`";
}
