//! What holds now: of each rule the subjects of which it is true, and why.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use naka::{
    circuit_breaker::{CircuitBreakerLayer, Phase},
    clock::Now,
};
use tokio::time::Instant;

use super::{CONFIGURATION, Key, Moment, Subject, is_of};
use crate::{
    admin::Admin,
    config::{
        checked::{AlertCondition, AlertRule, Kind, Name},
        show_time,
    },
    generation::Generation,
    monitor::{Level, ResourceCheck, Usable, upstreams},
    observe::PolicyMetrics,
};

/// Of a window so many parts are told apart.
const PARTS: u32 = 12;
/// For so long after something was dropped that is so.
const DROPPED: Duration = Duration::from_mins(1);

/// What there is to look at.
pub(super) struct Sight<'a> {
    admin: &'a Admin,
    generation: &'a Generation,
    now: Moment,
    reading: Now,
    upstreams: Vec<(Name, Usable)>,
    resources: Vec<ResourceCheck>,
}

/// What has to be remembered from look to look.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// Counts of earlier looks, by rule.
    windows: BTreeMap<Name, Window>,
    /// What was counted of what was dropped, and when that last grew.
    dropped: BTreeMap<Subject, (u64, Option<Instant>)>,
}

impl<'a> Sight<'a> {
    pub(super) fn new(admin: &'a Admin, generation: &'a Generation, now: Moment) -> Self {
        let reading = Now::read();
        let (upstreams, resources) = (upstreams(generation, reading), admin.monitor.resources());
        Self { admin, generation, now, reading, upstreams, resources }
    }

    /// Everything that holds, by rule and subject.
    pub(super) fn held(
        &self,
        rules: &BTreeMap<Name, AlertRule>,
        memory: &mut Memory,
    ) -> BTreeMap<Key, String> {
        memory.windows.retain(|name, _| rules.contains_key(name));
        let dropped = self.dropped(&mut memory.dropped);
        let mut held = BTreeMap::new();
        for (name, rule) in rules {
            let subjects = match rule.when {
                AlertCondition::Check(level) => self.checks(rule, level),
                AlertCondition::SomeDown => {
                    self.endpoints(rule, |it| it.down() > 0 && it.down() <= it.usable)
                }
                AlertCondition::MajorityDown => {
                    self.endpoints(rule, |it| it.down() > it.usable || is_without(it))
                }
                AlertCondition::AllDown => self.endpoints(rule, is_without),
                AlertCondition::Errors { above, min_requests, window } => {
                    let memory = memory.windows.entry(Arc::clone(name)).or_default();
                    self.errors(rule, (above, min_requests, window), memory)
                }
                AlertCondition::BreakerOpen => self.breakers(rule),
                AlertCondition::ReloadRefused => self.reload(),
                AlertCondition::CertificateExpires(within) => self.certificates(within),
                AlertCondition::Stale => {
                    let stale = self.generation.state.stale(self.reading).into_iter();
                    let stale = stale.filter(|(upstream, _)| is_of(rule.of.as_ref(), upstream));
                    let stores = self.generation.state.without_store().into_iter();
                    let stores = stores.filter(|(store, _)| is_of(rule.of.as_ref(), store));
                    let stores = stores.map(|(store, why)| (format!("store {store}").into(), why));
                    stale.map(|(upstream, why)| (Arc::clone(upstream), why)).chain(stores).collect()
                }
                AlertCondition::Dropped => dropped.clone(),
            };
            held.extend(subjects.into_iter().map(|(subject, why)| {
                (Key { severity: rule.severity, rule: Arc::clone(name), subject }, why)
            }));
        }
        held
    }

    fn checks(&self, rule: &AlertRule, level: Level) -> Vec<(Subject, String)> {
        let of = self.resources.iter().filter(|it| is_of(rule.of.as_ref(), it.kind));
        let bad = of.filter(|it| it.level >= level);
        bad.map(|it| (Arc::clone(&it.name), format!("{}: {}", it.level.word(), it.says))).collect()
    }

    fn endpoints(&self, rule: &AlertRule, is: impl Fn(&Usable) -> bool) -> Vec<(Subject, String)> {
        let all = self.upstreams.iter().filter(|(name, _)| is_of(rule.of.as_ref(), name));
        all.filter(|(_, it)| is(it)).map(|(name, it)| (Arc::clone(name), it.to_string())).collect()
    }

    fn errors(
        &self,
        rule: &AlertRule,
        (above, min_requests, window): (u8, u64, Duration),
        memory: &mut Window,
    ) -> Vec<(Subject, String)> {
        let routes = self.generation.config.routes.iter();
        let routes = routes.filter(|(name, _)| is_of(rule.of.as_ref(), name));
        let counts = routes
            .map(|(route, is)| {
                let (all, failed) = self.admin.metrics.answered(route, &is.matches.path.template());
                (Arc::clone(route), Counts { all, failed })
            })
            .collect();
        let grown = memory.look(self.now.at, window, counts);
        let is_bad = |it: &Counts| {
            it.all >= min_requests && u128::from(it.failed) * 100 > u128::from(it.all) * u128::from(above)
        };
        let bad = grown.into_iter().filter(|(_, counts)| is_bad(counts));
        bad.map(|(route, Counts { all, failed })| {
            (route, format!("{failed} of {all} responses had a status of 500 or more"))
        })
        .collect()
    }

    fn breakers(&self, rule: &AlertRule) -> Vec<(Subject, String)> {
        let breakers = self.generation.state.breakers.iter();
        let breakers = breakers.filter(|(identity, _)| {
            let policy = identity.split('@').next().unwrap_or_default();
            is_of(rule.of.as_ref(), policy)
        });
        let open =
            breakers.filter_map(|(identity, layer)| Some((Arc::clone(identity), open(layer, self.reading)?)));
        let state = &self.generation.state;
        let of_endpoints = state.endpoint_breakers.iter().filter_map(|(upstream, breakers)| {
            let policy = self.generation.config.upstreams.get(upstream)?.circuit_breaker.as_ref()?;
            if !is_of(rule.of.as_ref(), policy) {
                return None;
            }
            let endpoints = state.balancers.get(upstream)?.endpoints();
            let is_out = |address: &Arc<str>| {
                breakers.breaker(address).is_some_and(|it| is_open(it.snapshot(self.reading).phase))
            };
            let open = endpoints.iter().filter(|endpoint| is_out(endpoint.address())).count();
            let why = format!("open for {open} of {} endpoints", endpoints.len());
            (open > 0).then(|| (format!("upstream {upstream}").into(), why))
        });
        open.chain(of_endpoints).collect()
    }

    fn reload(&self) -> Vec<(Subject, String)> {
        let status = self.admin.status.to_json();
        let why = if let Some(first) = status["last_error"]["first"].as_str() {
            format!("the change of the files is refused: {first}")
        } else {
            let held = self.admin.status.held();
            let Some(first) = held.first() else { return Vec::new() };
            format!("{} files are held at an earlier version: {first}", held.len())
        };
        vec![(CONFIGURATION.into(), why)]
    }

    fn certificates(&self, within: Duration) -> Vec<(Subject, String)> {
        let listeners = self.generation.config.listeners.values();
        let files = listeners.filter_map(|listener| listener.tls.as_ref()).flat_map(|tls| &tls.certificates);
        let files = files.map(|it| (Subject::clone(it.file()), it.not_after().as_secs()));
        let ordered = self.generation.state.certificates.iter();
        let ordered = ordered.filter_map(|(id, it)| Some((Name::clone(id), it.status().valid_until_s?)));
        let last = self.now.unix_s.saturating_add(within.as_secs());
        let ends = files.chain(ordered).filter(|(_, ends_s)| *ends_s <= last);
        ends.map(|(file, ends_s)| (file, format!("it is valid until {}", show_time(ends_s)))).collect()
    }

    /// What has been dropped a short time ago.
    fn dropped(&self, memory: &mut BTreeMap<Subject, (u64, Option<Instant>)>) -> Vec<(Subject, String)> {
        let bodies = ("bodies that are held".into(), self.generation.state.held.refused());
        let policies = self.generation.config.policies.iter();
        let mirrors = policies.filter(|(_, policy)| policy.kind.kind() == Kind::Mirror);
        let copies = mirrors
            .map(|(name, _)| (format!("copies of {name}").into(), self.admin.metrics.mirror_dropped(name)));
        let counts = std::iter::once(bodies).chain(copies).collect::<BTreeMap<Subject, u64>>();
        memory.retain(|subject, _| counts.contains_key(subject));
        let mut dropped = Vec::new();
        for (subject, count) in counts {
            let (before, grew) = memory.entry(Arc::clone(&subject)).or_insert((count, None));
            if count > *before {
                *grew = Some(self.now.at);
            }
            *before = count;
            if grew.is_some_and(|grew| self.now.at.saturating_duration_since(grew) < DROPPED) {
                dropped.push((subject, format!("{count} so far, and of late more: there was no room")));
            }
        }
        dropped
    }
}

/// There are endpoints that nobody took out, or none was ever found, and none can be used.
const fn is_without(it: &Usable) -> bool {
    it.usable == 0 && (it.all > 0 || it.on_purpose == 0)
}

/// Nothing has said that it is well: a probe that hangs keeps a breaker half open, and then it is open again.
const fn is_open(phase: Phase) -> bool {
    matches!(phase, Phase::Open | Phase::HalfOpen)
}

/// Why a breaker is open, if it is; one that was forced open by hand is nobody's alarm.
fn open(layer: &CircuitBreakerLayer<Arc<PolicyMetrics>>, now: Now) -> Option<String> {
    if let Some(breaker) = layer.breaker().filter(|_| !layer.is_keyed()) {
        let is = breaker.snapshot(now);
        return is_open(is.phase).then(|| is.to_string());
    }
    let (keys, open) = layer.keys();
    (open > 0).then(|| format!("{open} of {keys} keys have one that is not closed"))
}

/// How many requests there were, and how many of them failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    all: u64,
    failed: u64,
}

/// The counters of all routes, as they were at one look.
type Look = BTreeMap<Name, Counts>;

/// Counters as they were at earlier looks, so that it is known how much they have grown in a while.
#[derive(Debug, Default)]
struct Window(VecDeque<(Instant, Look)>);

impl Window {
    /// How much each has grown in the last `window`, or since it was first seen. Counters that have gone back begin anew.
    fn look(&mut self, now: Instant, window: Duration, counts: Look) -> Vec<(Name, Counts)> {
        let looks = &mut self.0;
        let latest = looks.back().map(|(_, latest)| latest.clone()).unwrap_or_default();
        let is_less =
            |(name, before): &(&Name, &Counts)| counts.get(*name).is_some_and(|now| now.all < before.all);
        for (name, _) in latest.iter().filter(is_less) {
            for (_, look) in looks.iter_mut() {
                look.remove(name); // Those of other routes stay.
            }
        }
        // The last one that is as old as the window is what is compared with.
        while looks.get(1).is_some_and(|(at, _)| now.saturating_duration_since(*at) >= window) {
            looks.pop_front();
        }
        let grown = counts.iter().map(|(name, now)| {
            let before = looks.iter().find_map(|(_, counts)| counts.get(name)).unwrap_or(now);
            let all = now.all.saturating_sub(before.all);
            (Arc::clone(name), Counts { all, failed: now.failed.saturating_sub(before.failed) })
        });
        let grown = grown.filter(|(_, counts)| counts.all > 0).collect();
        if looks.back().is_none_or(|(at, _)| now.saturating_duration_since(*at) >= window / PARTS) {
            looks.push_back((now, counts));
        }
        grown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(all: u64, failed: u64) -> Look {
        Look::from([("a".into(), Counts { all, failed })])
    }

    #[test]
    fn a_window_has_what_came_in_its_time_and_no_more_looks_than_parts() {
        let (start, window) = (Instant::now(), Duration::from_mins(2));
        let (mut looks, mut count) = (Window::default(), 0);
        for second in 0..1000_u32 {
            // One request a second; none any more from 600 on.
            count += u64::from(second < 600);
            let now = start + Duration::from_secs(second.into());
            let grown = looks.look(now, window, counts(count, count / 10));
            let all = grown.first().map_or(0, |(_, counts)| counts.all);
            match second {
                0 => assert_eq!(all, 0),
                200..600 => assert!((120..=130).contains(&all), "{second}: {all}"),
                730.. => assert_eq!(all, 0, "{second}"),
                _ => {}
            }
            assert!(looks.0.len() <= 14, "{}", looks.0.len());
        }
        // A route that was gone and comes again begins anew.
        let later = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(looks.look(later(1001), window, counts(5, 5)), []);
        let grown = looks.look(later(1002), window, counts(7, 6));
        assert_eq!(grown, [("a".into(), Counts { all: 2, failed: 1 })]);
    }

    #[test]
    fn a_route_that_begins_anew_takes_nothing_from_the_others() {
        let (start, mut looks) = (Instant::now(), Window::default());
        let mut look = |second, a: u64, b: u64| {
            let counts = |all| Counts { all, failed: 0 };
            let both = Look::from([("a".into(), counts(a)), ("b".into(), counts(b))]);
            let grown = looks.look(start + Duration::from_secs(second), Duration::from_mins(2), both);
            grown.into_iter().map(|(name, counts)| (name.to_string(), counts.all)).collect::<Vec<_>>()
        };
        assert_eq!(look(0, 100, 100), []);
        assert_eq!(look(30, 150, 150), [("a".to_owned(), 50), ("b".to_owned(), 50)]);
        assert_eq!(look(60, 3, 180), [("b".to_owned(), 80)]);
        assert_eq!(look(90, 9, 190), [("a".to_owned(), 6), ("b".to_owned(), 90)]);
    }
}
