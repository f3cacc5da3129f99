//! A scenario: times in their order and within it, and no more requests than can be simulated.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc, time::Duration};

use http::{
    HeaderName,
    header::{CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING},
    uri::PathAndQuery,
};

use crate::config::{
    checked::scenario::{
        Behaviour, Change, During, Expectation, Load, Named as NamedAt, Scenario, Servers, Trouble,
    },
    decode::{At, Cx},
    diagnostic::Code,
    node::Span,
    raw::{RawLoad, RawScenario, RawScenarioExpect, RawServers, RawTrouble},
    suggest::{nearest, one_of},
    units::{Size, show_duration},
    values::Id,
};

/// The longest scenario.
const MAX_DURATION: Duration = Duration::from_hours(24);
/// The most requests of one load that are under way at once, if none is answered.
const MAX_AT_ONCE: u128 = 100_000;
/// The most requests of a scenario, and the most bytes of one body: nothing of one second may be left for the next.
const MAX_REQUESTS: u64 = 2_000_000;
const MAX_BODY: usize = 16 << 20;

/// Checks a scenario that was read; `None`: `cx` knows why.
pub(in crate::config) fn scenario(raw: &RawScenario, cx: &mut Cx) -> Option<Scenario> {
    let duration = raw.duration.as_ref()?;
    if duration.value > MAX_DURATION {
        cx.error(Code::Value, duration.span, "a scenario of more than a day").help("write `24h` or less");
    }
    let mut checking = Checking { end: duration.value, requests: 0, cx };
    let loads = raw.load.iter().flat_map(|it| &it.value.0);
    let loads = loads.filter_map(|(name, load)| checking.load(name, load.as_ref()?)).collect::<Vec<_>>();
    let servers = raw.servers.iter().flat_map(|it| &it.value.0);
    let servers = servers
        .filter_map(|(name, is)| Some((checking.named(name), checking.servers(is.as_ref()?))))
        .collect();
    let changes = checking.changes(raw);
    let names = raw.load.iter().flat_map(|it| &it.value.0).map(|(name, _)| &*name.value.0).collect();
    let expected = raw.expect.iter().flat_map(|it| &it.value);
    let expectations = expected.filter_map(|it| checking.expectation(it, &names)).collect();
    if checking.requests > MAX_REQUESTS
        && let Some(load) = &raw.load
    {
        let message = format!("{} requests are more than are simulated", checking.requests);
        let help = format!("at most {MAX_REQUESTS}: lower a `rate`, or the `duration`");
        cx.error(Code::TooLarge, load.key, message).help(help);
    }
    let loads_key = raw.load.as_ref()?.key;
    if loads.is_empty() && cx.is_clean() {
        cx.error(Code::Missing, loads_key, "nobody asks")
            .help("write `load: {riders: {request: GET http://api.example/, rate: 30/s}}`");
    }
    let gateway = raw.gateway.as_ref()?;
    let gateway = cx.path(gateway.span, &gateway.value);
    let (duration, seed) = (duration.value, raw.seed().0);
    cx.is_clean().then_some(Scenario { gateway, duration, seed, loads, servers, changes, expectations })
}

/// Headers that a client sets by itself.
const FRAMING: [HeaderName; 3] = [CONTENT_LENGTH, TRANSFER_ENCODING, CONNECTION];

struct Checking<'a> {
    end: Duration,
    /// How many come, on average.
    requests: u64,
    cx: &'a mut Cx,
}

impl Checking<'_> {
    fn named(&self, name: &At<Id>) -> NamedAt {
        NamedAt { name: Arc::clone(&name.value.0), place: self.cx.place(name.span) }
    }

    /// A time of the scenario.
    fn during(&mut self, from: Duration, to: Option<&At<Duration>>, span: Span) -> During {
        let end = to.map_or(self.end, |to| to.value);
        let shown = show_duration(self.end);
        if end > self.end {
            let span = to.map_or(span, |to| to.span);
            self.cx.error(Code::Value, span, format!("the scenario is over after {shown}")).help(format!(
                "write `{shown}` or less, or leave `to` out for the end, or make `duration` longer"
            ));
        } else if from >= end {
            let message = format!("it begins at {} and is over before", show_duration(from));
            self.cx.error(Code::Value, span, message).help("write a `to` that is later than `from`");
        }
        During { from, to: end }
    }

    fn load(&mut self, name: &At<Id>, raw: &RawLoad) -> Option<Load> {
        let (line, rate) = (&raw.request.as_ref()?.value, raw.rate.as_ref()?.value);
        let during = self.during(raw.from().0, raw.to.as_deref(), name.span);
        let every = rate.per / rate.count;
        if every.is_zero() {
            let span = raw.rate.as_ref().map_or(name.span, |it| it.span);
            self.cx
                .error(Code::TooLarge, span, "more than one in a nanosecond")
                .help("write `10000/s` or less");
            return None;
        }
        let count = during.to.saturating_sub(during.from).as_nanos() / every.as_nanos();
        self.requests = self.requests.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
        let at_once = raw.patience().min(during.to.saturating_sub(during.from)).as_nanos() / every.as_nanos();
        if at_once > MAX_AT_ONCE {
            self.cx
                .error(Code::TooLarge, name.span, format!("{at_once} requests could be under way at once"))
                .help(format!(
                    "at most {MAX_AT_ONCE}: lower its `rate`, or its `patience` (30s if nothing is said)"
                ));
        }
        let headers = raw.headers.iter().flat_map(|it| &it.value.0);
        for (name, _) in headers.clone().filter(|(name, _)| FRAMING.contains(&name.value)) {
            self.cx
                .error(
                    Code::Conflict,
                    name.span,
                    format!("`{}` is for whoever frames the request", name.value),
                )
                .help("leave it out, and say how long the body is: `body: 16KiB`");
        }
        if let Some((name, _)) = headers.clone().find(|(name, _)| name.value == HOST) {
            self.cx
                .error(Code::Conflict, name.span, "the host stands in the URL of the request")
                .help("leave `host` out here, and write it in `request`: `GET http://host/path`");
        }
        let body = raw.body.as_ref().map_or(0, |it| self.body(it));
        Some(Load {
            named: self.named(name),
            method: line.method.clone(),
            host: line.uri.authority().map_or("", |authority| authority.as_str()).into(),
            target: line.uri.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/")),
            headers: headers.filter_map(|(name, value)| Some((name.value.clone(), value.clone()?))).collect(),
            body,
            listener: raw.listener.as_ref().map(|it| self.named(it)),
            every,
            clients: u32::try_from(raw.clients().0).unwrap_or(u32::MAX),
            patience: raw.patience(),
            during,
        })
    }

    fn body(&mut self, size: &At<Size>) -> usize {
        if size.value.0 > MAX_BODY {
            self.cx
                .error(Code::TooLarge, size.span, "a body of more than 16 MiB")
                .help("write `16MiB` or less");
        }
        size.value.0
    }

    fn servers(&mut self, raw: &RawServers) -> Servers {
        let troubles = raw.troubles.iter().flat_map(|it| &it.value).map(|it| self.trouble(it)).collect();
        Servers {
            takes: raw.takes().0,
            workers: raw.workers.as_ref().map(|it| usize::try_from(it.value.0).unwrap_or(usize::MAX)),
            queue: usize::try_from(raw.queue().0).unwrap_or(usize::MAX),
            status: raw.status(),
            body: raw.body.as_ref().map_or(0, |it| self.body(it)),
            troubles,
        }
    }

    fn trouble(&mut self, at: &At<RawTrouble>) -> Trouble {
        let raw = &at.value;
        let from = raw.from.as_ref().map_or(Duration::ZERO, |it| it.value.0);
        let how = Behaviour {
            slow: raw.slow.as_ref().map_or(100, |it| it.value.0),
            fail: raw.fail.as_ref().map_or(0, |it| it.value.0),
            refuses: raw.refuse(),
            hangs: raw.hang(),
        };
        if how == Behaviour::WELL
            && !["slow", "fail", "refuse", "hang"].iter().any(|key| raw.said(key).is_some())
        {
            self.cx
                .error(Code::Missing, at.span, "a trouble in which all is well")
                .help("say what happens: `slow: 4x`, `fail: 50%`, `refuse: true` or `hang: true`");
        }
        let endpoints = raw.endpoints.iter().flat_map(|it| &it.value.0);
        let endpoints = endpoints
            .map(|it| NamedAt { name: Arc::clone(&it.value.0), place: self.cx.place(it.span) })
            .collect();
        Trouble { during: self.during(from, raw.to.as_deref(), at.span), endpoints, how }
    }

    fn changes(&mut self, raw: &RawScenario) -> Vec<Change> {
        let mut changes: Vec<(Change, Span)> = Vec::new();
        for at in raw.changes.iter().flat_map(|it| &it.value) {
            let (Some(when), Some(gateway)) = (&at.value.at, &at.value.gateway) else { continue };
            if when.value >= self.end {
                let shown = show_duration(self.end);
                self.cx
                    .error(Code::Value, when.span, format!("the scenario is over after {shown}"))
                    .help(format!("write less than `{shown}`, or make `duration` longer"));
            }
            if changes.iter().any(|(other, _)| other.at == when.value) {
                self.cx
                    .error(Code::Duplicate, when.span, "two changes at one time")
                    .help("one of them would never take effect: leave it out");
            }
            let gateway: PathBuf = self.cx.path(gateway.span, &gateway.value);
            changes.push((Change { at: when.value, gateway }, at.span));
        }
        changes.sort_by_key(|(change, _)| change.at);
        changes.into_iter().map(|(change, _)| change).collect()
    }

    fn expectation(&mut self, at: &At<RawScenarioExpect>, loads: &BTreeSet<&str>) -> Option<Expectation> {
        let raw = &at.value;
        if let Some(load) = &raw.load
            && !loads.contains(&*load.value.0)
        {
            let meant = nearest(&load.value.0, loads.iter().copied());
            let it =
                self.cx.error(Code::UnknownName, load.span, format!("there is no load `{}`", load.value.0));
            match meant {
                Some(meant) => it.help(format!("did you mean `{meant}`?")),
                None => it.help(format!("the loads are {}", one_of(loads.iter().copied()))),
            };
            return None;
        }
        let bounds = ["min_good", "max_good", "max_p99", "max_amplification"];
        if !bounds.iter().any(|key| raw.said(key).is_some()) {
            self.cx.error(Code::Missing, at.span, "nothing is expected").help(
                "write at least one of `min_good`, `max_good`, `max_p99`, `max_amplification`: `{min_good: 99%}`",
            );
        }
        if let Some(amplification) = raw.max_amplification.as_ref().filter(|_| raw.load.is_some()) {
            self.cx
                .error(Code::Conflict, amplification.key, "whose requests servers see is not counted by load")
                .help("leave `load` out here: `max_amplification` is of all together");
        }
        Some(Expectation {
            load: raw.load.as_ref().map(|it| Arc::clone(&it.value.0)),
            during: self.during(raw.from().0, raw.to.as_deref(), at.span),
            min_good: raw.min_good.as_ref().map(|it| it.value.0),
            max_good: raw.max_good.as_ref().map(|it| it.value.0),
            max_p99: raw.max_p99.as_ref().map(|it| it.value),
            max_amplification: raw.max_amplification.as_ref().map(|it| it.value.0),
            place: self.cx.place(at.span),
        })
    }
}
