//! What a configuration may take at the most: every table, queue and body with its bound, and what all of them come to in memory.
//!
//! It is counted from what an assembled generation has: one row for each account, as its scope says. What is kept for each
//! request under way is counted for as many as there can be: the connections, by the requests that each may carry, or fewer where a
//! bulkhead stands before it. The rows say what is kept there, not what allocators, tables of routes and code take besides; and
//! that all is at its bound at once is nothing that happens, but what has to be there if it should.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use serde_json::{Value, json};

use crate::{
    config::checked::{Config, EndpointSource, Name, PolicyKind, Protocol, Route},
    connection::BUFFER,
    discover::{MAX_ENDPOINTS, registry::MAX_ANSWER},
    generation::Generation,
    streams,
    upstream::{FRAME, H2_STREAM, REPEATED},
};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// What is read ahead, and what waits to be written, on a client's connection over HTTP/1.1.
const BUFFERS: u64 = 2 * BUFFER as u64;
/// What is read, and a piece that waits to be written, on a connection to an endpoint: a piece is what was read of the client at once.
const UPSTREAM_BUFFERS: u64 = FRAME as u64 + BUFFER as u64;
/// What clients may send ahead on a connection over HTTP/2, over all requests: hyper's.
const WINDOW: u64 = MIB;
/// What TLS holds of a connection: what is to be sent, and of a handshake or a record what has come (rustls' own bounds).
const TLS: u64 = 2 * 64 * KIB;
/// An address of a client, in a table that may be half empty.
const ADDRESS: u64 = 64;
/// A key of a rate limit.
const KEY: u64 = 96;
/// What a node knows of a key that is shared: a lease with four windows, and its places in the map and in the order.
const LEASE: u64 = 384;
/// Tables of keys have so many parts, each of the same size.
const SHARDS: u64 = 32;
/// An endpoint with its account, its name and a few labels.
const ENDPOINT: u64 = 2 << 10;
/// A breaker of a key.
const BREAKER: u64 = 250;
/// What each policy that finds out who asks remembers.
const REMEMBERED: u64 = 64 * MIB;
/// What one check of a password may take.
const CHECK: u64 = 256 * MIB;

/// One bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bound {
    /// What there may be so many of.
    pub what: &'static str,
    /// Whose it is: a policy, an upstream; nothing for the process.
    pub of: String,
    /// So many at the most.
    pub count: u64,
    /// Bytes of each; nothing where it is a number only.
    pub each: Option<u64>,
    /// The key that says so.
    pub key: &'static str,
    /// It is of those that `gateway.limits.buffered` bounds together.
    pub is_held: bool,
}

impl Bound {
    /// What all of them take.
    pub fn bytes(&self) -> Option<u64> {
        Some(self.count.saturating_mul(self.each?))
    }
}

/// All bounds of a configuration.
#[derive(Clone, Debug, Default)]
pub struct Limits {
    bounds: Vec<Bound>,
    /// What those that are held may take together.
    held: u64,
}

/// All bounds of a generation.
pub fn limits(generation: &Generation) -> Limits {
    let (config, state) = (&*generation.config, &generation.state);
    let mut limits = Limits { held: long(config.gateway.limits.buffered), ..Limits::default() };
    limits.connections(config);
    limits.found(config);
    for (identity, (limit, _)) in state.rate_limits.configs() {
        let keys = if limit.key.is_empty() { 1 } else { long(limit.max_keys).next_multiple_of(SHARDS) };
        limits.add("keys of a rate limit", identity, keys, Some(KEY), "rate_limit.max_keys");
        if limit.shared.is_some() {
            limits.add("leases of a rate limit", identity, keys, Some(LEASE), "rate_limit.max_keys");
        }
    }
    for (identity, (bulkhead, _)) in state.bulkheads.configs() {
        let keys = if bulkhead.key.is_empty() { 1 } else { long(bulkhead.max_keys) };
        let (max, queue) = (u64::from(bulkhead.max), u64::from(bulkhead.queue));
        let max = bulkhead.total.map_or(max.saturating_mul(keys), u64::from);
        limits.add("requests at work", identity, max, None, "bulkhead.max, total");
        limits.add("requests that wait", identity, queue.saturating_mul(keys), None, "bulkhead.queue");
    }
    for (identity, kept) in state.idempotency.configs() {
        limits.add("answers to repeat", identity, 1, Some(long(kept.max_bytes)), "idempotency.max_bytes");
        limits.add_held("bodies at hand", identity, 1, long(kept.max_buffered), "idempotency.max_buffered");
    }
    for (identity, (cache, _)) in state.caches.configs() {
        limits.add("kept answers", identity, 1, Some(long(cache.max_bytes)), "cache.max_bytes");
    }
    for (identity, mirror) in state.mirrors.configs() {
        let each = long(mirror.max_body);
        limits.add_held("copies under way", identity, long(mirror.max), each, "mirror.max, max_body");
    }
    limits.policies(config);
    limits.compositions(config);
    limits
}

impl Limits {
    fn add(&mut self, what: &'static str, of: &str, count: u64, each: Option<u64>, key: &'static str) {
        self.bounds.push(Bound { what, of: of.to_owned(), count, each, key, is_held: false });
    }

    /// The same, of what is held of bodies.
    fn add_held(&mut self, what: &'static str, of: &str, count: u64, each: u64, key: &'static str) {
        self.bounds.push(Bound { what, of: of.to_owned(), count, each: Some(each), key, is_held: true });
    }

    fn connections(&mut self, config: &Config) {
        let limits = &config.gateway.limits;
        let streams = requests_of_a_connection(config);
        // The strict reader holds a head until it is whole, and for a moment what it passes on besides.
        let held = 2 * long(limits.header_bytes) + long(BUFFER);
        let is_secured = config.listeners.values().any(|listener| listener.tls.is_some());
        let each = BUFFERS.max(2 * long(limits.header_bytes)).saturating_add(match streams {
            1 => 0,
            streams => WINDOW.saturating_add(streams.saturating_mul(long(streams::HELD))),
        });
        let each = each.saturating_add(held).saturating_add(if is_secured { TLS } else { 0 });
        self.add(
            "connections of clients",
            "",
            long(limits.connections),
            Some(each),
            "gateway.limits.connections",
        );
        if limits.connections_per_ip.is_some() {
            let most = long(limits.connections);
            self.add("addresses of clients", "", most, Some(ADDRESS), "gateway.limits.connections");
        }
        // As many of those that take the most as there may be.
        let mut all = long(limits.upstream_connections);
        let mut upstreams = config.upstreams.iter().map(|(name, upstream)| {
            let each = match upstream.protocol {
                Protocol::H1 => UPSTREAM_BUFFERS + long(REPEATED),
                Protocol::H2 => long(upstream.connections.streams).saturating_mul(H2_STREAM + long(REPEATED)),
            };
            let each = each.saturating_add(if upstream.tls.is_some() { TLS } else { 0 });
            // Of those that are found nobody knows how many there are.
            let endpoints =
                if upstream.discovery.is_some() { u64::MAX } else { long(upstream.endpoints.len()) };
            (each, name, endpoints.saturating_mul(long(upstream.connections.max)))
        });
        let mut by_size = upstreams.by_ref().collect::<Vec<_>>();
        by_size.sort_by(|one, other| other.0.cmp(&one.0).then(one.1.cmp(other.1)));
        for (each, name, most) in by_size {
            let count = most.min(all);
            all -= count;
            self.add(
                "connections to endpoints",
                name,
                count,
                Some(each),
                "connections.max, streams; gateway.limits.upstream_connections",
            );
        }
    }

    /// Endpoints that are found, and what registries may say of them.
    fn found(&mut self, config: &Config) {
        let mut registries = BTreeSet::new();
        for (name, upstream) in &config.upstreams {
            let Some(discovery) = &upstream.discovery else { continue };
            self.add(
                "endpoints that are found",
                name,
                long(MAX_ENDPOINTS),
                Some(ENDPOINT),
                "a bound of discovery",
            );
            match &discovery.source {
                EndpointSource::Consul(_) => self.answer(name),
                EndpointSource::Eureka(_) => _ = registries.insert("eureka"),
                _ => {}
            }
        }
        for registry in registries {
            self.answer(registry);
        }
    }

    /// One is asked at a time.
    fn answer(&mut self, of: &str) {
        self.add("answers of a registry", of, 1, Some(long(MAX_ANSWER)), "a bound of discovery");
    }

    /// The parts of each answer that is composed, and the answer.
    fn compositions(&mut self, config: &Config) {
        for (name, route) in &config.routes {
            let Some(compose) = route.destination.compose() else { continue };
            let (plan, calls) = (compose.plan.config(), long(compose.calls.len()));
            let each = calls.saturating_mul(long(plan.max_part)).saturating_add(long(plan.max_body));
            let most = of_route(route, config).min(all_requests(config));
            let key = "compose.max_part, max_body";
            self.add_held("parts and answers of compositions", name, most, each, key);
        }
    }

    fn policies(&mut self, config: &Config) {
        let used = used_by(config);
        for (name, policy) in &config.policies {
            let requests = || used.get(name).copied().unwrap_or_default();
            match &policy.kind {
                PolicyKind::CircuitBreaker(breaker) if !breaker.key.is_empty() => {
                    self.add(
                        "breakers of keys",
                        name,
                        long(breaker.max_keys).next_multiple_of(SHARDS),
                        Some(BREAKER),
                        "circuit_breaker.max_keys",
                    );
                }
                PolicyKind::Jwt(_) => {
                    self.add("verified tokens", name, 1, Some(REMEMBERED), "a bound of jwt");
                }
                PolicyKind::ForwardAuth(asking) => {
                    self.add(
                        "questions under way",
                        name,
                        long(asking.max_asking),
                        None,
                        "forward_auth.max_asking",
                    );
                    if asking.remember.is_some() {
                        self.add("decisions", name, 1, Some(REMEMBERED), "a bound of forward_auth");
                    }
                }
                PolicyKind::BasicAuth(passwords) => {
                    self.add(
                        "checks of passwords",
                        name,
                        long(passwords.max_checks),
                        Some(CHECK),
                        "basic_auth.max_checks",
                    );
                    self.add("right passwords", name, 1, Some(REMEMBERED), "a bound of basic_auth");
                }
                PolicyKind::Fault(fault) => {
                    self.add(
                        "requests kept waiting",
                        name,
                        long(fault.max_delayed),
                        None,
                        "fault.max_delayed",
                    );
                }
                PolicyKind::Retry(retry) => {
                    self.add_held(
                        "bodies to send again",
                        name,
                        requests(),
                        long(retry.max_body),
                        "retry.max_body",
                    );
                }
                PolicyKind::Hedge(hedge) => {
                    self.add_held(
                        "bodies to send again",
                        name,
                        requests(),
                        long(hedge.max_body),
                        "hedge.max_body",
                    );
                }
                PolicyKind::Fallback(fallback) => {
                    self.add_held(
                        "bodies for another",
                        name,
                        requests(),
                        long(fallback.max_body),
                        "fallback.max_body",
                    );
                }
                _ => {}
            }
        }
    }

    /// Each bound.
    pub fn iter(&self) -> impl Iterator<Item = &Bound> {
        self.bounds.iter()
    }

    /// What all of them take together.
    pub fn bytes(&self) -> u64 {
        let sum = |is_held: bool| {
            let bounds = self.bounds.iter().filter(|bound| bound.is_held == is_held);
            bounds.filter_map(Bound::bytes).fold(0, u64::saturating_add)
        };
        sum(false).saturating_add(sum(true).min(self.held))
    }

    /// For programs.
    pub fn to_json(&self) -> Value {
        let bounds = self.bounds.iter().map(|bound| {
            json!({
                "what": bound.what, "of": bound.of, "count": bound.count, "each": bound.each,
                "bytes": bound.bytes(), "key": bound.key, "buffered": bound.is_held,
            })
        });
        json!({"bytes": self.bytes(), "buffered": self.held, "bounds": bounds.collect::<Vec<_>>()})
    }
}

/// What comes over one connection of a client at a time.
fn requests_of_a_connection(config: &Config) -> u64 {
    let is_multiplexed = config.listeners.values().any(|listener| listener.protocols.h2);
    if is_multiplexed { streams::STREAMS.into() } else { 1 }
}

/// Requests under way, of all routes.
fn all_requests(config: &Config) -> u64 {
    long(config.gateway.limits.connections).saturating_mul(requests_of_a_connection(config))
}

/// Requests under way on all routes that use a policy.
fn used_by(config: &Config) -> BTreeMap<Name, u64> {
    let all = all_requests(config);
    let mut used = BTreeMap::<Name, u64>::new();
    for route in config.routes.values() {
        let most = of_route(route, config).min(all);
        for name in route.policies.iter() {
            let sum = used.entry(name.clone()).or_default();
            *sum = sum.saturating_add(most).min(all);
        }
    }
    used
}

/// What its bulkhead lets through, which stands before whoever keeps bodies.
fn of_route(route: &Route, config: &Config) -> u64 {
    let bulkheads = route.policies.iter().filter_map(|name| match &config.policies.get(name)?.kind {
        PolicyKind::Bulkhead(bulkhead) if bulkhead.key.is_empty() => Some(u64::from(bulkhead.max)),
        _ => None,
    });
    bulkheads.min().unwrap_or(u64::MAX)
}

fn long(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

/// For people.
impl fmt::Display for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "at most {} if all is at its bound at once", human(self.bytes()))?;
        let mut rows = self.bounds.iter().collect::<Vec<_>>();
        rows.sort_by_key(|bound| std::cmp::Reverse(bound.bytes()));
        for bound in rows {
            let count = bound.count;
            let bytes = match (bound.each, count) {
                (None, _) => String::new(),
                (Some(each), 1) => human(each),
                (Some(each), _) => human(each.saturating_mul(count)),
            };
            let each = bound.each.filter(|_| count != 1).map(|each| format!(" of {}", human(each)));
            let of = if bound.of.is_empty() { "the process" } else { &bound.of };
            writeln!(
                f,
                "  {bytes:>10}  {of}: {}{}{}  ({}){}",
                if count == 1 { String::new() } else { format!("{count} ") },
                bound.what,
                each.unwrap_or_default(),
                bound.key,
                if bound.is_held { " *" } else { "" }
            )?;
        }
        if self.bounds.iter().any(|bound| bound.is_held) {
            writeln!(f, "  * together at most {} (gateway.limits.buffered)", human(self.held))?;
        }
        Ok(())
    }
}

/// A size as people say it, to one decimal.
fn human(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut unit = 0;
    let mut tenths = u128::from(bytes) * 10;
    while tenths >= 10 * 1024 && unit + 1 < UNITS.len() {
        tenths /= 1024;
        unit += 1;
    }
    match tenths % 10 {
        0 => format!("{} {}", tenths / 10, UNITS[unit]),
        part => format!("{}.{part} {}", tenths / 10, UNITS[unit]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_said_as_people_say_them() {
        assert_eq!(
            [0, 1023, 1024, 1536, 64 << 20, 5_905_580_032].map(human),
            ["0 B", "1023 B", "1 KiB", "1.5 KiB", "64 MiB", "5.5 GiB"]
        );
    }
}
