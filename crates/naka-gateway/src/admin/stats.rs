//! `/stats`: what the page and `naka top` read again and again.
//!
//! Counters are since the process began, so that several readers do not disturb one another; who wants a rate or a quantile takes two
//! readings. There are as many routes, upstreams and policies in it as are asked for, and no more than 500 of each.

use std::{
    cmp::Reverse,
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http::StatusCode;
use naka::{
    bulkhead::Counts,
    circuit_breaker::Phase,
    clock::{Now, WallClock},
    retry::Balance,
};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::{Admin, Answer, compact, destination_of, endpoint, text};
use crate::{
    config::checked::{Name, Route},
    generation::Generation,
    monitor::{self, ReadyCondition},
    observe::{Balancer, Metrics, RouteReading, UpstreamReading, bounds_s},
    route::query_value,
    scrape::{breakers, limit},
};

/// Rows of each table, unless the query says otherwise, and at most.
const ROWS: usize = 100;
const ROWS_MAX: usize = 500;
/// Endpoints of one upstream.
const ENDPOINTS: usize = 32;
/// Bytes of what is searched for.
const MATCH: usize = 200;
/// Bytes of the text of the last error.
const ERROR: usize = 8 << 10;
/// Readers at once.
const READERS: usize = 4;
/// What was asked more than this long ago does not say who is busy now.
const RECENT: Duration = Duration::from_secs(10);

/// Which routes are asked most just now: it remembers what there was 10 s ago, or when somebody last wanted to know.
#[derive(Debug)]
pub struct Busiest {
    samples: Mutex<(Sample, Sample)>,
    readers: Arc<Semaphore>,
}

#[derive(Clone, Debug, Default)]
struct Sample {
    at: Option<Now>,
    /// Responses of each route, and how many failed.
    counts: Arc<HashMap<Name, (u64, u64)>>,
}

impl Default for Busiest {
    fn default() -> Self {
        Self { samples: Mutex::default(), readers: Arc::new(Semaphore::new(READERS)) }
    }
}

impl Busiest {
    /// What there was a while ago. What there is now will be that, in a while.
    fn before(&self, now: Now, counts: &HashMap<Name, (u64, u64)>) -> Arc<HashMap<Name, (u64, u64)>> {
        let (before, last) = &mut *self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        if last.at.is_none_or(|at| {
            now.since_ns(at.instant()) >= u64::try_from(RECENT.as_nanos()).unwrap_or(u64::MAX)
        }) {
            let next = Sample { at: Some(now), counts: Arc::new(counts.clone()) };
            *before = std::mem::replace(last, next);
        }
        Arc::clone(&before.counts)
    }
}

/// What is asked for.
#[derive(Debug)]
struct Wanted {
    matching: String,
    rows: usize,
    sort: Sort,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sort {
    Rate,
    Errors,
    Requests,
    Name,
}

impl Wanted {
    fn read(query: &str) -> Result<Self, String> {
        let value = |name| {
            let value = query_value(query, name).unwrap_or_default();
            String::from_utf8(value).map_err(|_| format!("`{name}` is no text\n"))
        };
        let matching = value("match")?.to_lowercase();
        if matching.len() > MATCH {
            return Err(format!("`match` has at most {MATCH} bytes\n"));
        }
        let rows = match value("limit")?.as_str() {
            "" => ROWS,
            text => text.parse().ok().filter(|rows| *rows <= ROWS_MAX).ok_or("`limit` is 0 to 500\n")?,
        };
        let sort = match value("sort")?.as_str() {
            "" | "rate" => Sort::Rate,
            "errors" => Sort::Errors,
            "requests" => Sort::Requests,
            "name" => Sort::Name,
            _ => return Err("`sort` is `rate`, `errors`, `requests` or `name`\n".into()),
        };
        Ok(Self { matching, rows, sort })
    }

    fn matches(&self, texts: &[&str]) -> bool {
        self.matching.is_empty() || texts.iter().any(|text| text.to_lowercase().contains(&self.matching))
    }
}

/// Ten thousand routes take a while, so no thread that serves requests reads them.
pub(super) async fn answer(admin: &Admin, generation: Arc<Generation>, query: &str) -> Answer {
    let wanted = match Wanted::read(query) {
        Ok(wanted) => wanted,
        Err(why) => return text(StatusCode::BAD_REQUEST, why),
    };
    let Ok(place) = Arc::clone(&admin.busiest.readers).try_acquire_owned() else {
        return text(StatusCode::SERVICE_UNAVAILABLE, "others are reading just now\n".into());
    };
    let head = head(admin, &generation);
    let (metrics, busiest) = (Arc::clone(&admin.metrics), Arc::clone(&admin.busiest));
    let read = tokio::task::spawn_blocking(move || {
        let _place = place; // Until it is over, also if nobody waits for it any more.
        let mut it = head;
        it["routes"] = routes(&metrics, &busiest, &generation, &wanted);
        it["upstreams"] = upstreams(&metrics, &generation, &wanted);
        it["breakers"] = of_breakers(&generation, wanted.rows);
        it["bulkheads"] = bulkheads(&metrics, &generation, wanted.rows);
        it["limits"] = limits(&metrics, &generation, wanted.rows);
        compact(&it)
    });
    let failed = |_| text(StatusCode::INTERNAL_SERVER_ERROR, "the counters could not be read\n".into());
    read.await.unwrap_or_else(failed)
}

/// How the process is.
fn head(admin: &Admin, generation: &Generation) -> Value {
    let without_keys = generation.state.without_keys(Now::read());
    let conditions = admin.conditions(generation, &without_keys);
    let mut last_error = admin.status.last_error();
    if let Some(text) = last_error.as_mut().filter(|text| text.len() > ERROR) {
        text.truncate(text.floor_char_boundary(ERROR));
        text.push('…');
    }
    let now = WallClock::default().unix(Now::read()).unwrap_or_default();
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "at_ms": u64::try_from(now.as_millis()).unwrap_or(u64::MAX),
        "uptime_ms": u64::try_from(admin.metrics.uptime().as_millis()).unwrap_or(u64::MAX),
        "generation": generation.number,
        "hash": generation.hash(),
        "ready": conditions.iter().all(ReadyCondition::holds),
        "conditions": monitor::to_json(&conditions),
        "drain": admin.drain.to_json(&admin.metrics),
        "connections": admin.metrics.connections.get(),
        "bounds_s": bounds_s(),
        "reload": admin.status.to_json(),
        "last_error": last_error,
        "alerts": admin.monitor.alerts.to_json(generation)["alerts"],
        "transitions": admin.metrics.transitions(),
    })
}

/// So many there are, so many of them match, and these are shown.
fn table(of: usize, matched: usize, shown: impl Iterator<Item = Value>) -> Value {
    json!({"of": of, "matched": matched, "shown": shown.collect::<Vec<_>>()})
}

fn routes(metrics: &Metrics, busiest: &Busiest, generation: &Generation, wanted: &Wanted) -> Value {
    struct Row<'a> {
        name: &'a Name,
        route: &'a Route,
        template: Name,
        requests: u64,
        failed: u64,
    }
    let now = Now::read();
    let rows = generation.config.routes.iter().map(|(name, route)| {
        let template = route.matches.path.template();
        let requests = metrics.ended(name, &template).unwrap_or_default();
        let failed = if requests == 0 { 0 } else { metrics.failed(name, &template) };
        Row { name, route, template, requests, failed }
    });
    let mut rows = rows.collect::<Vec<_>>();
    let of = rows.len();
    let counts = rows.iter().filter(|row| row.requests > 0);
    let counts = counts.map(|row| (Arc::clone(row.name), (row.requests, row.failed))).collect();
    let before = busiest.before(now, &counts);
    let requests = rows.iter().map(|row| row.requests).sum::<u64>();
    let failed = rows.iter().map(|row| row.failed).sum::<u64>();
    rows.retain(|row| {
        wanted.matches(&[row.name, &row.template])
            || wanted.matches(&[&destination_of(&row.route.destination)])
    });
    let grown = |row: &Row<'_>| {
        let (requests, failed) = before.get(row.name).copied().unwrap_or_default();
        (row.requests.saturating_sub(requests), row.failed.saturating_sub(failed))
    };
    // They come by name, and what is equal stays so.
    match wanted.sort {
        Sort::Rate => rows.sort_by_cached_key(|row| Reverse((grown(row).0, row.requests))),
        Sort::Errors => rows.sort_by_cached_key(|row| Reverse((grown(row).1, row.failed, row.requests))),
        Sort::Requests => rows.sort_by_key(|row| Reverse(row.requests)),
        Sort::Name => {}
    }
    let shown = rows.iter().take(wanted.rows).map(|row| {
        let Row { name, route, template, .. } = row;
        let reading = metrics.read_route(name, template);
        let mut it = reading.as_ref().map_or_else(|| json!({"shared": true}), RouteReading::to_json);
        it["route"] = (***name).into();
        it["template"] = (**template).into();
        it["destination"] = destination_of(&route.destination).into();
        it["auth"] = route.auth.word().into();
        it["policies"] = route.policies.iter().map(|name| &**name).collect();
        it["origin"] = route.origin.to_string().into();
        it
    });
    let mut it = table(of, rows.len(), shown);
    it["requests"] = requests.into();
    it["failed"] = failed.into();
    it
}

/// Those that are not well come first, then those that were asked most.
fn upstreams(metrics: &Metrics, generation: &Generation, wanted: &Wanted) -> Value {
    let (state, now) = (&generation.state, Now::read());
    let count = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
    let all = generation.config.upstreams.iter().map(|(name, config)| {
        let endpoints = state.balancers.get(name).map(Balancer::endpoints).unwrap_or_default();
        let is_well = |endpoint: &naka::balance::Endpoint| {
            let breakers = state.endpoint_breakers.get(name);
            let breaker = breakers.and_then(|breakers| breakers.breaker(endpoint.address()));
            endpoint.absences().next().is_none()
                && breaker.is_none_or(|breaker| breaker.snapshot(now).phase == Phase::Closed)
        };
        let troubled = endpoints.iter().filter(|endpoint| !is_well(endpoint)).count();
        let reading = metrics.read_upstream(name);
        let attempts = reading.as_ref().map_or(0, UpstreamReading::attempts);
        (Reverse((troubled, attempts)), name, config, endpoints, reading)
    });
    let mut all = all.collect::<Vec<_>>();
    let of = all.len();
    all.retain(|(_, name, ..)| wanted.matches(&[name]));
    all.sort_by_key(|(rank, ..)| *rank);
    let matched = all.len();
    let shown = all.into_iter().take(wanted.rows).map(
        |(Reverse((troubled, _)), name, config, endpoints, reading)| {
            let pools = state.pools.iter().filter_map(|pools| pools.get(name)).collect::<Vec<_>>();
            let health = state.checks.get(name).map(|checks| &checks.health);
            let (open, pending) = state.places.get(name).map_or((0, 0), |places| places.all_counts());
            let idle = pools.iter().map(|pools| pools.all_idle()).sum::<usize>();
            let budget = state.retry_budgets.iter().find(|(of, _)| ***of == **name);
            let budget = budget.map(|(_, budget)| {
                let Balance { spent, allowed } = budget.balance(now);
                json!({"spent": count(spent), "allowed": count(allowed)})
            });
            let mut it = reading.as_ref().map_or_else(|| json!({"shared": true}), UpstreamReading::to_json);
            it["upstream"] = (**name).into();
            it["troubled"] = troubled.into();
            it["in_flight"] =
                endpoints.iter().map(|endpoint| u64::from(endpoint.in_flight())).sum::<u64>().into();
            it["connections"] = json!({
                "idle": idle, "in_use": open.saturating_sub(idle), "pending": pending,
                "max": config.connections.max.saturating_mul(endpoints.len()),
            });
            it["budget"] = budget.unwrap_or_default();
            let some = endpoints.iter().take(ENDPOINTS);
            it["endpoints"] = some.map(|it| endpoint(it, config.protocol, &pools, health, now)).collect();
            it["more_endpoints"] = endpoints.len().saturating_sub(ENDPOINTS).into();
            it
        },
    );
    table(of, matched, shown)
}

/// Those that are not closed come first.
fn of_breakers(generation: &Generation, rows: usize) -> Value {
    let now = Now::read();
    let all = generation.state.breakers.iter().map(|(policy, layer)| {
        let (keys, open) = breakers(layer, now);
        let one = layer.breaker().filter(|_| !layer.is_keyed()).map(|breaker| breaker.snapshot(now));
        let it = json!({
            "policy": &**policy,
            "phase": one.map(|is| is.phase.word()),
            "is": one.map(|is| is.to_string()),
            "keys": keys,
            "open": open,
        });
        (Reverse(open), it)
    });
    let mut all = all.collect::<Vec<_>>();
    all.sort_by_key(|(rank, _)| *rank);
    table(all.len(), all.len(), all.into_iter().take(rows).map(|(_, it)| it))
}

fn bulkheads(metrics: &Metrics, generation: &Generation, rows: usize) -> Value {
    let all = generation.state.bulkheads.entries().map(|(policy, (bulkhead, _), layer)| {
        let Counts { working, waiting, .. } = layer.counts();
        let limit = limit(bulkhead, layer.adaptive_limit());
        let it = json!({
            "policy": &**policy,
            "in_use": working,
            "limit": limit,
            "queued": waiting,
            "queue_limit": bulkhead.queue,
            "partitions": layer.partitions(),
            "rejected": metrics.decided(policy, "rejected"),
        });
        (Reverse((waiting, working)), it)
    });
    let mut all = all.collect::<Vec<_>>();
    all.sort_by_key(|(rank, _)| *rank);
    table(all.len(), all.len(), all.into_iter().take(rows).map(|(_, it)| it))
}

fn limits(metrics: &Metrics, generation: &Generation, rows: usize) -> Value {
    let all = generation.state.rate_limits.entries().map(|(policy, (config, _), layer)| {
        let rejected = metrics.decided(policy, "rejected");
        let it = json!({
            "policy": &**policy,
            "keys": layer.keys(),
            "keys_max": config.max_keys,
            "admitted": metrics.decided(policy, "admitted"),
            "rejected": rejected,
        });
        (Reverse(rejected), it)
    });
    let mut all = all.collect::<Vec<_>>();
    all.sort_by_key(|(rank, _)| *rank);
    table(all.len(), all.len(), all.into_iter().take(rows).map(|(_, it)| it))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_is_bounded_and_said_in_words() {
        let wanted = Wanted::read("match=Rides%2F&limit=500&sort=errors").unwrap();
        assert_eq!((&*wanted.matching, wanted.rows, wanted.sort), ("rides/", 500, Sort::Errors));
        assert!(wanted.matches(&["no", "/api/RIDES/{id}"]) && !wanted.matches(&["ride"]));
        let wanted = Wanted::read("").unwrap();
        assert_eq!((wanted.rows, wanted.sort), (ROWS, Sort::Rate));
        for query in ["limit=501", "limit=-1", "limit=many", "sort=luck", "match=%ff"] {
            assert!(Wanted::read(query).is_err(), "{query}");
        }
        assert!(Wanted::read(&format!("match={}", "x".repeat(201))).is_err());
    }
}
