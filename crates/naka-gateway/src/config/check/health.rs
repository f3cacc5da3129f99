//! What is checked of the gateway itself, and alerts: thresholds in order, names that exist, a webhook that is safe.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use http::HeaderValue;

use super::{Tables, auth, tls, unique};
use crate::{
    alerts::builtin,
    config::{
        checked::{
            AlertCondition, AlertRule, Alerts, Kind, Name, Policy, SelfChecks, Severity, Thresholds, Webhook,
        },
        decode::{At, Cx, Or},
        diagnostic::Code,
        raw::{
            RawAlertRule, RawAlertWhen, RawAlerts, RawCheckLevel, RawDisk, RawGateway, RawSeverity,
            RawThresholds, RawWebhook,
        },
        suggest::{nearest, one_of, quoted},
        units::Percent,
        values::Id,
    },
    monitor::{Level, RESOURCES},
};

/// More than once a second would be work for nothing, and less than every five minutes no watching.
const INTERVALS: [Duration; 2] = [Duration::from_secs(1), Duration::from_mins(5)];
/// Workers say every five seconds that they go on: less than this would be a false alarm.
const STALLED: Duration = Duration::from_secs(15);
/// File systems that are looked at.
const MAX_DISKS: usize = 20;
/// Rules; and names in each.
const MAX_RULES: usize = 100;
/// The longest time in which requests are counted.
const WINDOWS: [Duration; 2] = [Duration::from_secs(10), Duration::from_hours(1)];
/// The longest time that a post may take.
const TIMEOUT: Duration = Duration::from_mins(1);

pub(super) fn self_checks(raw: &RawGateway, cx: &mut Cx) -> SelfChecks {
    let raw = raw.health.as_ref().map(|it| it.value.clone()).unwrap_or_default();
    let [least, most] = INTERVALS;
    if let Some(at) = raw.interval.as_ref().filter(|at| at.value < least || at.value > most) {
        cx.error(Code::Value, at.span, "this is no sensible time between two looks")
            .help("write `1s` to `5m`");
    }
    if let Some(at) = raw.stalled_after.as_ref().filter(|at| at.value < STALLED) {
        cx.error(Code::Value, at.span, "a worker that is well may seem to stand still for so long")
            .help("write `15s` or more: workers say every five seconds that they go on");
    }
    let disk = raw.disk.as_ref().map(|at| &at.value);
    SelfChecks {
        interval: raw.interval(),
        stalled_after: raw.stalled_after(),
        cpu: thresholds(raw.cpu.as_deref(), cx),
        memory: thresholds(raw.memory.as_deref(), cx),
        descriptors: thresholds(raw.descriptors.as_deref(), cx),
        disk: disk_thresholds(disk, cx),
        disks: disk.map(|disk| disks(disk, cx)).unwrap_or_default(),
    }
}

fn thresholds(raw: Option<&At<RawThresholds>>, cx: &mut Cx) -> Thresholds {
    let raw = raw.map(|at| at.value.clone()).unwrap_or_default();
    let said = [raw.degraded.as_deref(), raw.unhealthy.as_deref(), raw.critical.as_deref()];
    in_order(said, [raw.degraded(), raw.unhealthy(), raw.critical()], cx)
}

fn disk_thresholds(raw: Option<&RawDisk>, cx: &mut Cx) -> Thresholds {
    let default = RawDisk::default();
    let raw = raw.unwrap_or(&default);
    let said = [raw.degraded.as_deref(), raw.unhealthy.as_deref(), raw.critical.as_deref()];
    in_order(said, [raw.degraded(), raw.unhealthy(), raw.critical()], cx)
}

/// What is worse begins at more; where nothing is said, the default counts.
fn in_order(said: [Option<&At<Percent>>; 3], percents: [Percent; 3], cx: &mut Cx) -> Thresholds {
    let [degraded, unhealthy, critical] = percents.map(|percent| percent.0);
    let is_ordered = degraded < unhealthy && unhealthy < critical;
    if let Some(at) = said.into_iter().flatten().next().filter(|_| !is_ordered) {
        cx.error(
            Code::Conflict,
            at.span,
            format!("the thresholds are {degraded}%, {unhealthy}% and {critical}%, and each has to be above the one before"),
        )
        .help("say all three in order: `{degraded: 70%, unhealthy: 85%, critical: 95%}`");
    }
    Thresholds { degraded, unhealthy, critical }
}

fn disks(raw: &RawDisk, cx: &mut Cx) -> Vec<Arc<str>> {
    let Some(paths) = &raw.paths else { return Vec::new() };
    unique(&paths.value.0, "folder", cx);
    if paths.value.0.is_empty() || paths.value.0.len() > MAX_DISKS {
        cx.error(Code::Value, paths.span, format!("{} folders", paths.value.0.len()))
            .help(format!("write one to {MAX_DISKS}: `paths: [/var/lib/naka]`"));
    }
    for at in paths.value.0.iter().filter(|at| !at.value.starts_with('/') || at.value.contains('\0')) {
        cx.error(Code::Value, at.span, format!("{} is no whole path", quoted(&at.value)))
            .help("write the whole path of a folder: `/var/lib/naka`");
    }
    paths.value.0.iter().map(|at| Arc::clone(&at.value)).collect()
}

/// Alerts, once it is known what there is.
pub(super) fn alerts(
    raw: Option<&RawGateway>,
    tables: &Tables<'_>,
    policies: &BTreeMap<Name, Policy>,
    cx: &mut Cx,
) -> Alerts {
    let default = RawAlerts::default();
    let raw = raw.and_then(|raw| raw.alerts.as_ref()).map_or(&default, |at| &at.value);
    let mut rules = if raw.builtin() { builtin() } else { BTreeMap::new() };
    if let Some(named) = &raw.rules {
        if named.value.0.len() > MAX_RULES {
            cx.error(Code::Value, named.span, format!("{} rules", named.value.0.len()))
                .help(format!("write at most {MAX_RULES}"));
        }
        for (name, rule) in &named.value.0 {
            match rule {
                Some(Or::Record(raw)) => {
                    if let Some(rule) = self::rule(name, raw, tables, policies, cx) {
                        rules.insert(Arc::clone(&name.value.0), rule);
                    }
                }
                Some(Or::Text(_)) if rules.remove(&name.value.0).is_none() => {
                    let known = builtin();
                    cx.error(
                        Code::UnknownName,
                        name.span,
                        format!("no rule {} is there by itself", quoted(&name.value.0)),
                    )
                    .help(format!("those that are: {}", one_of(known.keys().map(|name| &**name))));
                }
                Some(Or::Text(_)) | None => {}
            }
        }
    }
    Alerts { rules, webhook: raw.webhook.as_ref().and_then(|at| webhook(&at.value, cx)) }
}

fn rule(
    name: &At<Id>,
    raw: &RawAlertRule,
    tables: &Tables<'_>,
    policies: &BTreeMap<Name, Policy>,
    cx: &mut Cx,
) -> Option<AlertRule> {
    let when = raw.when.as_ref()?;
    let only = |it: &[RawAlertWhen]| it.contains(&when.value);
    let misplaced = [
        (raw.level.as_ref().map(|at| at.key), "level", only(&[RawAlertWhen::Check]), "check"),
        (raw.above.as_ref().map(|at| at.key), "above", only(&[RawAlertWhen::Errors]), "errors"),
        (raw.min_requests.as_ref().map(|at| at.key), "min_requests", only(&[RawAlertWhen::Errors]), "errors"),
        (raw.window.as_ref().map(|at| at.key), "window", only(&[RawAlertWhen::Errors]), "errors"),
        (
            raw.within.as_ref().map(|at| at.key),
            "within",
            only(&[RawAlertWhen::CertificateExpires]),
            "certificate_expires",
        ),
    ];
    for (key, word, _, of) in misplaced.into_iter().filter(|(_, _, is_right, _)| !is_right) {
        if let Some(key) = key {
            let place = cx.place(when.span);
            cx.error(Code::Conflict, key, format!("`{word}` is for `when: {of}`"))
                .related(place, "this is about something else")
                .help("take it away");
        }
    }
    let [least, most] = WINDOWS;
    if let Some(at) = raw.window.as_ref().filter(|at| at.value < least || at.value > most) {
        cx.error(Code::Value, at.span, "requests are counted for `10s` to `1h`").help("write `2m`");
    }
    let day = Duration::from_hours(24);
    for at in [&raw.r#for, &raw.keep_firing_for].into_iter().flatten().filter(|at| at.value.0 > day) {
        cx.error(Code::Value, at.span, "longer than a day").help("write at most `24h`");
    }
    of(name, raw, when.value, tables, policies, cx);
    let when = match when.value {
        RawAlertWhen::Check => AlertCondition::Check(match raw.level() {
            RawCheckLevel::Degraded => Level::Degraded,
            RawCheckLevel::Unhealthy => Level::Unhealthy,
            RawCheckLevel::Critical => Level::Critical,
        }),
        RawAlertWhen::SomeDown => AlertCondition::SomeDown,
        RawAlertWhen::MajorityDown => AlertCondition::MajorityDown,
        RawAlertWhen::AllDown => AlertCondition::AllDown,
        RawAlertWhen::Errors => AlertCondition::Errors {
            above: raw.above().0,
            min_requests: raw.min_requests().0,
            window: raw.window(),
        },
        RawAlertWhen::BreakerOpen => AlertCondition::BreakerOpen,
        RawAlertWhen::ReloadRefused => AlertCondition::ReloadRefused,
        RawAlertWhen::CertificateExpires => AlertCondition::CertificateExpires(raw.within()),
        RawAlertWhen::Stale => AlertCondition::Stale,
        RawAlertWhen::Dropped => AlertCondition::Dropped,
    };
    let names = raw.of.as_ref().map(|of| of.value.0.iter().map(|at| Arc::clone(&at.value)).collect());
    let severity = match raw.severity() {
        RawSeverity::Info => Severity::Info,
        RawSeverity::Warning => Severity::Warning,
        RawSeverity::Critical => Severity::Critical,
    };
    Some(AlertRule { when, of: names, hold: raw.r#for().0, keep: raw.keep_firing_for().0, severity })
}

/// What a rule names is there.
fn of(
    rule: &At<Id>,
    raw: &RawAlertRule,
    when: RawAlertWhen,
    tables: &Tables<'_>,
    policies: &BTreeMap<Name, Policy>,
    cx: &mut Cx,
) {
    let Some(of) = &raw.of else { return };
    unique(&of.value.0, "name", cx);
    if of.value.0.is_empty() {
        cx.error(Code::Value, of.span, format!("the rule `{}` is about nothing", rule.value))
            .help("name what it is about, or take `of` away: then it is about all");
    }
    let is_complete = tables.are_complete() && tables.routes.complete;
    let (sort, known): (_, Vec<&str>) = match when {
        RawAlertWhen::Check => ("check", RESOURCES.to_vec()),
        RawAlertWhen::SomeDown | RawAlertWhen::MajorityDown | RawAlertWhen::AllDown | RawAlertWhen::Stale => {
            ("upstream", tables.upstreams.entries.keys().map(|name| &**name).collect())
        }
        RawAlertWhen::Errors => ("route", tables.routes.entries.keys().map(|name| &**name).collect()),
        RawAlertWhen::BreakerOpen => {
            let breakers = policies.iter().filter(|(_, policy)| policy.kind.kind() == Kind::CircuitBreaker);
            ("circuit breaker", breakers.map(|(name, _)| &**name).collect())
        }
        RawAlertWhen::ReloadRefused | RawAlertWhen::CertificateExpires | RawAlertWhen::Dropped => {
            cx.error(
                Code::Conflict,
                of.key,
                "`of` is for rules about checks, upstreams, routes and circuit breakers",
            )
            .help("take it away");
            return;
        }
    };
    for at in of.value.0.iter().filter(|at| !known.contains(&&*at.value) && is_complete) {
        let it = cx.error(Code::UnknownName, at.span, format!("there is no {sort} {}", quoted(&at.value)));
        if when != RawAlertWhen::Check {
            it.combined();
        }
        match nearest(&at.value, known.iter().copied()) {
            Some(meant) => it.label(format!("did you mean `{meant}`?")).help(format!("write `{meant}`")),
            None if known.is_empty() => it.help(format!("there is no {sort} at all: take the rule away")),
            None => it.help(format!("write {}", one_of(known.iter().copied().take(20)))),
        };
    }
}

fn webhook(raw: &RawWebhook, cx: &mut Cx) -> Option<Webhook> {
    let url = raw.url.as_ref()?;
    let is_https = url.value.0.starts_with("https://");
    let tls = if is_https { Some(tls::usual(url.span, cx)?) } else { None };
    if raw.token.is_some() && !is_https && !auth::is_loopback(&url.value.0) {
        cx.error(Code::Exposed, url.span, "the token is sent without encryption")
            .warning()
            .help("write `https://…`");
    }
    let authorization = raw.token.as_ref().and_then(|at| {
        let secret = auth::secret(at, cx)?;
        let value = HeaderValue::from_bytes(&[b"Bearer ", secret.bytes()].concat());
        let Ok(mut value) = value else {
            cx.error(Code::Value, at.span, "the token cannot stand in a header")
                .help("take one of letters and digits: `openssl rand -hex 32`");
            return None;
        };
        value.set_sensitive(true);
        Some(value)
    });
    if let Some(at) = raw.timeout.as_ref().filter(|at| at.value > TIMEOUT) {
        cx.error(Code::Value, at.span, "longer than a minute").help("write at most `1m`");
    }
    Some(Webhook { url: Arc::clone(&url.value.0), tls, authorization, timeout: raw.timeout() })
}
