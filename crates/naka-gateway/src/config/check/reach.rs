//! What a request reaches from a route: the limits of versions and upstreams, which have to find there what
//! they count by; no other route's place; and no header that is taken away before it is read.

use std::{
    cell::LazyCell,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use http::HeaderName;

use super::{
    Tables,
    policies::{Level, Policies},
    routes::captures_of,
};
use crate::{
    config::{
        checked::{
            Auth, Destination, HostPattern, KeyPart, Kind, Match, Name, PathPattern, Pinned, PolicyKind,
            Route, Scope, Segment, Split, SplitPin, Upstream, VersionPlace,
        },
        decode::{At, Cx},
        diagnostic::Code,
        node::Span,
        suggest::quoted,
        values::Id,
    },
    headers::compared,
};

/// Policies that keep somebody out.
const GUARDS: [Kind; 5] = [Kind::Jwt, Kind::ApiKey, Kind::BasicAuth, Kind::ForwardAuth, Kind::Authorize];

/// Captures that the key of a balancer needs and that no route has: all requests would go anywhere.
pub(super) fn keys_without_captures(tables: &Tables<'_>, routes: &BTreeMap<Name, Arc<Route>>, cx: &mut Cx) {
    if !tables.routes.complete {
        return;
    }
    let captures = LazyCell::new(|| {
        routes.values().flat_map(|route| captures_of(&route.matches)).collect::<BTreeSet<_>>()
    });
    for (_, _, raw) in tables.upstreams.read() {
        let key = raw.balance.as_ref().and_then(|balance| balance.value.key.as_ref());
        for part in key.iter().flat_map(|key| &key.value.0) {
            let KeyPart::Capture(capture) = &part.value else { continue };
            if !captures.contains(capture) {
                cx.error(Code::UnknownName, part.span, format!("no route has a capture `{{{capture}}}`"))
                    .help(format!(
                        "add `/{{{capture}}}` to the path of a route that leads here, or take another part"
                    ));
            }
        }
    }
}

/// A route, while it is checked.
pub(super) struct From<'a> {
    pub(super) at: &'a At<Id>,
    pub(super) level: &'a Level,
    pub(super) auth: Auth,
    pub(super) captures: &'a [Arc<str>],
    pub(super) destination: &'a Destination,
}

impl From<'_> {
    /// Looks at all limits beyond the route's own, and at all accounts.
    pub(super) fn check(&self, upstreams: &BTreeMap<Name, Upstream>, policies: &Policies, cx: &mut Cx) {
        let behind = self.behind(upstreams, policies);
        policies.captures(&self.at.value.0, &behind, self.captures, cx);
        policies.limits_know(self.at, (&behind, self.level), self.auth, cx);
        self.counts_twice(cx);
        self.many_upstreams(policies, cx);
    }

    /// The limits of versions and of upstreams that are not the route's, too.
    fn behind(&self, upstreams: &BTreeMap<Name, Upstream>, policies: &Policies) -> Level {
        let mut behind = Level::default();
        let of_versions = match self.destination {
            Destination::Versions(versions) => &versions.of[..],
            _ => &[],
        };
        let limits =
            of_versions.iter().filter_map(|version| Some((Kind::RateLimit, version.rate_limit.as_ref()?)));
        let besides = self.level.all(Kind::Fallback).iter().filter_map(|(name, _)| {
            match &policies.checked.get(name)?.kind {
                PolicyKind::Fallback(fallback) => fallback.upstream(),
                _ => None,
            }
        });
        let reached = self.destination.upstreams().chain(besides);
        let bulkheads =
            reached.filter_map(|name| Some((Kind::Bulkhead, upstreams.get(name)?.bulkhead.as_ref()?)));
        let calls = self.destination.compose().into_iter().flat_map(|compose| &compose.calls);
        let breakers = calls.filter_map(|call| Some((Kind::CircuitBreaker, call.circuit_breaker.as_ref()?)));
        for (kind, name) in limits.chain(bulkheads).chain(breakers) {
            if !self.level.all(kind).iter().any(|(known, _)| known == name) {
                behind.add(kind, Arc::clone(name), self.at.span);
            }
        }
        behind
    }

    /// Reports a rate limit that a version has, too: each request would be charged twice.
    fn counts_twice(&self, cx: &mut Cx) {
        let Destination::Versions(versions) = self.destination else { return };
        for version in &versions.of {
            let of_route = self.level.all(Kind::RateLimit).iter();
            let Some((name, span)) =
                of_route.clone().find(|(name, _)| Some(name) == version.rate_limit.as_ref())
            else {
                continue;
            };
            let message = format!(
                "the route `{}` and its version `{}` have one rate limit: each request would count twice in `{name}`",
                self.at.value, version.name
            );
            cx.error(Code::Conflict, *span, message).help("take it away at one of the two").combined();
        }
    }

    /// Reports what counts for each upstream on a route with several: it stands before the one is chosen. What
    /// the gateway answers by itself counts for the policy.
    fn many_upstreams(&self, policies: &Policies, cx: &mut Cx) {
        let (each, help) = match self.destination {
            Destination::Versions(_) => (
                "version",
                "write `scope: route`, or `rate_limit:` into the versions, or `bulkhead:` into the upstreams",
            ),
            Destination::Split(_) => {
                ("arm", "write `scope: route`, or `bulkhead:` or `circuit_breaker:` into the upstreams")
            }
            Destination::Compose(_) => {
                ("call", "write `scope: route`, or `bulkhead:` or `circuit_breaker:` into the upstreams")
            }
            _ => return,
        };
        self.limits_of_splits(policies, cx);
        for kind in [Kind::RateLimit, Kind::Bulkhead, Kind::Idempotency, Kind::CircuitBreaker, Kind::Fault] {
            for (name, span) in self.level.all(kind) {
                if policies.checked.get(name).is_none_or(|policy| policy.scope != Scope::Upstream) {
                    continue;
                }
                let message = format!(
                    "`{name}` counts for each upstream, and each {each} of `{}` has its own",
                    self.at.value
                );
                cx.error(Code::Conflict, *span, message).help(help).combined();
            }
        }
    }

    /// The same of the rate limit of a version that is split.
    fn limits_of_splits(&self, policies: &Policies, cx: &mut Cx) {
        let Destination::Versions(versions) = self.destination else { return };
        for version in versions.of.iter().filter(|version| version.to.upstream().is_none()) {
            let limit =
                version.rate_limit.as_ref().and_then(|name| Some((name, policies.checked.get(name)?)));
            let Some((name, _)) = limit.filter(|(_, policy)| policy.scope == Scope::Upstream) else {
                continue;
            };
            let message = format!(
                "`{name}` counts for each upstream, and the version `{}` of `{}` has several",
                version.name, self.at.value
            );
            cx.error(Code::Conflict, self.at.span, message).help("write `scope: route` in it").combined();
        }
    }
}

/// Reports routes that take a segment away and so reach what another route guards: nobody looks again whose
/// place the shorter path is.
pub(super) fn walks_past(routes: &BTreeMap<Name, Arc<Route>>, stripping: &[(Name, Span)], cx: &mut Cx) {
    for (name, span) in stripping {
        let Some(route) = routes.get(name) else { continue };
        let guards = |other: &Route| {
            let lacks = |kind: &Kind| {
                other.policies.all(*kind).iter().any(|it| !route.policies.all(*kind).contains(it))
            };
            GUARDS.iter().any(lacks) || route.asks() < other.asks()
        };
        let meets = |other: &Route| other.listeners.iter().any(|listener| route.listeners.contains(listener));
        let passed = routes.iter().find(|(other, is)| {
            *other != name && meets(is) && lies_under(&route.matches, &is.matches) && guards(is)
        });
        let Some((passed, is)) = passed else { continue };
        let message = format!(
            "without its version a path of `{name}` can be one of the route `{passed}`, which has guards that `{name}` has not"
        );
        let place = is.origin.0.clone();
        cx.error(Code::Exposed, *span, message)
            .related(place, "it is passed by")
            .help(format!(
                "write a prefix that {} does not lie under, give both the same guards, or leave `strip` out",
                quoted(passed)
            ))
            .combined();
    }
}

/// Whether a request that `prefix` matches could, some segments shorter, be one of `other`.
fn lies_under(prefix: &Match, other: &Match) -> bool {
    let is_open = |hosts: &[HostPattern]| {
        hosts.is_empty() || hosts.iter().any(|host| !matches!(host, HostPattern::Exact(_)))
    };
    let meets = is_open(&prefix.hosts)
        || is_open(&other.hosts)
        || prefix.hosts.iter().any(|host| other.hosts.contains(host));
    let (PathPattern::Whole(outer) | PathPattern::Prefix(outer)) = &prefix.path else { return meets };
    let (PathPattern::Whole(inner) | PathPattern::Prefix(inner)) = &other.path else { return meets };
    let may_be = |(one, two): (&Segment, &Segment)| match (one, two) {
        (Segment::Literal(one), Segment::Literal(two)) => one == two,
        _ => true,
    };
    meets && outer.iter().zip(inner.iter()).all(may_be)
}

/// Reports headers that say who asks and are read from clients, too: what a client writes there is taken away
/// before anything else, on all routes.
pub(super) fn taken_away(
    names: &[&At<HeaderName>],
    policies: &Policies,
    routes: &BTreeMap<Name, Arc<Route>>,
    cx: &mut Cx,
) {
    for at in names {
        let Some(reader) = reader(&at.value, policies, routes) else { continue };
        cx.error(Code::Conflict, at.span, format!("`{}` is read from clients by {reader}", at.value))
            .label("taken away before that")
            .help("take a name that nobody reads: `x-user-id`")
            .combined();
    }
}

/// Reports pins by headers that say who asks: what a client writes there is taken away before, and what the gateway
/// writes there comes after.
pub(super) fn pinned_in_vain<'a>(
    told: impl Iterator<Item = &'a At<HeaderName>>,
    routes: &BTreeMap<Name, Arc<Route>>,
    cx: &mut Cx,
) {
    for at in told {
        let is = |other: &HeaderName| compared(other) == compared(&at.value);
        let reads = |split: &Split| {
            let by_pin = |pin: &SplitPin| matches!(&pin.who, Pinned::Header(name, _) if is(name));
            let by_key = |part: &KeyPart| matches!(part, KeyPart::Header(name) if is(name));
            split.pins.iter().any(by_pin) || split.by.iter().any(by_key)
        };
        let Some((route, _)) =
            routes.iter().find(|(name, route)| route.splits(name).any(|(_, it)| reads(it)))
        else {
            continue;
        };
        let message =
            format!("`{}` is read from clients by the split of the route {}", at.value, quoted(route));
        cx.error(Code::Conflict, at.span, message)
            .label("taken away before that")
            .help("take another name; or split by who asks: `by: identity`")
            .combined();
    }
}

/// Who reads a header of the client's.
fn reader(name: &HeaderName, policies: &Policies, routes: &BTreeMap<Name, Arc<Route>>) -> Option<String> {
    let is = |other: &HeaderName| compared(other) == compared(name);
    let by_policy = |kind: &PolicyKind| match kind {
        PolicyKind::ApiKey(keys) => is(&keys.header),
        PolicyKind::Idempotency(idempotency) => is(&idempotency.header),
        PolicyKind::Fault(fault) => is(&fault.header),
        PolicyKind::ForwardAuth(asking) => asking.send.iter().flatten().any(is),
        // One that asks who it is stands behind whoever copies headers.
        PolicyKind::RateLimit(limit) if !limit.needs_identity() => {
            limit.key.iter().any(|part| matches!(part, KeyPart::Header(name) if is(name)))
        }
        _ => false,
    };
    let policy = policies.checked.iter().find(|(_, policy)| by_policy(&policy.kind));
    if let Some((name, _)) = policy {
        return Some(format!("the policy {}", quoted(name)));
    }
    let by_route = |route: &Route| {
        let by_version = match &route.destination {
            Destination::Versions(versions) => {
                versions.places.iter().any(|place| matches!(place, VersionPlace::Header(name) if is(name)))
            }
            _ => false,
        };
        by_version || route.matches.headers.iter().any(|(name, _)| is(name))
    };
    let route = routes.iter().find(|(_, route)| by_route(route));
    route.map(|(name, _)| format!("the route {}", quoted(name)))
}
