//! Routes: groups unfolded, policies gathered, matches and destinations checked.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Method};

use super::{
    Tables, compose,
    gateway::Listeners,
    headers,
    known::Remembering,
    origin,
    policies::{Level, Policies, level_keys},
    reach,
    split::Place,
    telemetry, unique, versions,
};
use crate::config::{
    checked::{
        Auth, Destination, Kind, Match, Mirror, MirrorMethods, Name, PathPattern, PolicyKind, Redirect,
        Respond, RetryMethods, Rewrite, Route, Scope, Template, TemplatePart, Upstream, ValueMatch,
        VersionTarget,
    },
    decode::{At, Cx, OneOrMany, Or},
    diagnostic::Code,
    node::Span,
    path::names_of,
    raw::{
        RawAuth, RawGroup, RawMatch, RawRedirect, RawRequestLimits, RawRespond, RawRewrite, RawRoute,
        RawRouteTimeouts, RawScheme, RawValueMatch, ValueMatches,
    },
    record::Said,
    suggest::{nearest, one_of},
    units::{OrNever, show_duration},
    values::Id,
};

/// What a route is checked against.
struct Around<'a, 't> {
    tables: &'a Tables<'t>,
    listeners: &'a Listeners,
    upstreams: &'a BTreeMap<Name, Upstream>,
    groups: BTreeMap<Name, (&'t Arc<RawGroup>, Level)>,
    /// Bytes of a request body, where nothing else says so.
    body: Option<usize>,
}

pub(super) fn routes(
    tables: &Tables<'_>,
    (listeners, upstreams, body): (&Listeners, &BTreeMap<Name, Upstream>, Option<usize>),
    policies: &mut Policies,
    used: &mut BTreeSet<Name>,
    remembering: &mut Remembering<'_>,
    cx: &mut Cx,
) -> BTreeMap<Name, Arc<Route>> {
    let mut groups = BTreeMap::new();
    for (name, at, raw) in tables.groups.read() {
        let level = policies.level(tables, at, &level_keys!(raw), cx);
        groups.insert(Arc::clone(name), (raw, level));
    }
    let around = Around { tables, listeners, upstreams, groups, body };
    let (mut it, mut stripping) = (Vec::new(), Vec::new());
    for (name, at, raw) in tables.routes.read() {
        let strip = raw.versions.as_ref().and_then(|it| it.value.strip.as_ref());
        stripping.extend(strip.filter(|strip| strip.value).map(|strip| (Arc::clone(name), strip.key)));
        let group = around.group_of(name);
        let route = remembering.recall(name, raw, group, policies, cx).or_else(|| {
            remembering.count();
            let (found, _) = (cx.count(), policies.journal());
            let route = Arc::new(around.route(at, raw, policies, cx)?);
            if cx.count() == found {
                let journal = policies.journal();
                remembering.remember(name, raw, group, &route, journal, policies);
            }
            Some(route)
        });
        let upstreams = route.iter().flat_map(|route| route.destination.upstreams());
        used.extend(upstreams.filter(|name| !used.contains(*name)).cloned().collect::<Vec<_>>());
        let beside = route.iter().flat_map(|route| policies.beside(route));
        used.extend(beside.cloned());
        it.extend(route.map(|route| (Arc::clone(name), route)));
    }
    let it = BTreeMap::from_iter(it); // They come in order, which costs less than one by one.
    reach::walks_past(&it, &stripping, cx);
    it
}

impl Around<'_, '_> {
    fn group_of(&self, route: &Name) -> Option<(&Arc<RawGroup>, &Level)> {
        let (raw, level) = self.groups.get(self.tables.group_of.get(route)?)?;
        Some((raw, level))
    }

    /// Every part is looked at before the first missing one ends it.
    fn route(&self, at: &At<Id>, raw: &RawRoute, policies: &mut Policies, cx: &mut Cx) -> Option<Route> {
        let group = self.tables.group_of.get(&at.value.0);
        let (shared, group_level) =
            self.group_of(&at.value.0).map_or((None, None), |(raw, level)| (Some(&**raw), Some(level)));
        let listeners = self.listeners_of(at, raw, shared, cx);
        let own = policies.level(self.tables, at, &level_keys!(raw), cx);
        let outer = self.listener_level(at, listeners.as_deref().unwrap_or_default(), cx);
        let auth = raw.auth.as_ref().map_or(Auth::Required, |at| match at.value {
            RawAuth::None => Auth::None,
            RawAuth::Optional => Auth::Optional,
        });
        let inherited = [group_level, outer].into_iter().flatten();
        let inherited = inherited
            .map(|level| if auth == Auth::None { level.without_authentication() } else { level.clone() });
        let inherited = inherited.collect::<Vec<_>>();
        let level = Level::merged(&std::iter::once(&own).chain(&inherited).collect::<Vec<_>>());
        let level = level.with_certificates(self.has_certificates(listeners.as_deref().unwrap_or_default()));
        public_or_not(at, raw, &own, cx);
        if let Some(said) = raw.auth.as_ref().filter(|_| auth == Auth::Optional) {
            policies.optional(at, said.key, &level, cx);
        }
        policies.identity(at, &level, auth, cx);
        let mut matches = raw.r#match.as_ref().and_then(|at| matches(&at.value, at.key, shared, cx));
        if let Some(it) = &raw.compose {
            compose::only_reads(it, raw, cx);
            compose::no_sense(it, raw, &own, cx);
            // A composition reads, whoever writes nothing of methods: 405 for all others.
            if let Some(matches) = matches.as_mut().filter(|matches| matches.methods.is_empty()) {
                matches.methods = vec![Method::GET, Method::HEAD];
            }
        }
        keys_of_no_method(raw, &own, policies, cx);
        retries_of_no_method(raw, &own, policies, cx);
        hedges_of_no_method(raw, &own, policies, cx);
        caches_of_no_method(raw, &own, cx);
        if let Some(matches) = &matches {
            copies_of_methods(at, &level, matches, policies, cx);
        }
        let captures = matches.as_ref().map(captures_of);
        if let Some(captures) = &captures {
            policies.captures(&at.value.0, &level, captures, cx);
        }
        let rewrite = rewrite(raw, captures.as_deref(), cx);
        let path = matches.as_ref().map(|matches| &matches.path);
        let here =
            Place { tables: self.tables, route: at, level: &level, captures: captures.as_deref(), auth };
        let destination = self.destination(here, path, raw, policies, cx);
        let headers =
            headers::merged(shared.and_then(|group| group.headers.as_deref()), raw.headers.as_deref(), cx);
        let body = self.body_of(raw, shared, listeners.as_deref().unwrap_or_default());
        let total_timeout = timeout(raw, shared, |it| it.total.as_deref());
        let total_timeout = total_timeout.unwrap_or_else(|| RawRouteTimeouts::default().total()).0;
        if let Some(bulkhead) = level.all(Kind::Bulkhead).first() {
            let upstreams = destination.iter().flat_map(Destination::upstreams).collect::<BTreeSet<_>>();
            for upstream in upstreams {
                self.one_account_twice(at, bulkhead, upstream, policies, cx);
            }
        }
        if let Some(destination) = &destination {
            self.gives_up_before(at, &level, destination, total_timeout, cx);
            self.retries_in_vain(&level, destination, total_timeout, policies, cx);
            self.hedges_in_vain(&level, destination, total_timeout, policies, cx);
            self.hedges_of_one(&own, destination, cx);
            one_answer_for_all_arms(at, &level, destination, cx);
            self.cookies_are_not_kept(&level, destination, cx);
            if let (Some(at), Some(it)) = (&raw.compose, destination.compose()) {
                compose::calls_in_vain(at, it, self.upstreams, total_timeout, policies, cx);
            }
            copies_go_elsewhere(at, &level, destination, policies, cx);
            self.falls_back_elsewhere(at, &level, destination, total_timeout, policies, cx);
            let captures = captures.as_deref().unwrap_or_default();
            let from = reach::From { at, level: &level, auth, captures, destination };
            from.check(self.upstreams, policies, cx);
        }
        Some(Route {
            listeners: listeners?,
            group: group.cloned(),
            matches: matches?,
            priority: raw.priority.as_ref().map(|it| it.value),
            policies: level.uses(),
            auth,
            trust_parent: raw.trust_parent.as_ref().map(|at| telemetry::trust(at.value)),
            body,
            total_timeout,
            idle_timeout: timeout(raw, shared, |it| it.idle.as_deref()).map(|it| it.0),
            tunnel_idle: timeout(raw, shared, |it| it.tunnel_idle.as_deref()).map(|it| it.0),
            rewrite,
            headers,
            destination: destination?,
            origin: origin(at.span, cx),
        })
    }

    /// What the closest says of the size of bodies.
    fn body_of(&self, raw: &RawRoute, group: Option<&RawGroup>, listeners: &[Name]) -> Option<usize> {
        let said = |limits: &Option<Box<At<RawRequestLimits>>>| {
            limits.as_ref().and_then(|it| it.value.body.as_ref()).map(|it| it.value.0)
        };
        let of_group = || group.and_then(|group| said(&group.limits));
        let of_listener = || listeners.first().and_then(|name| self.listeners.bodies.get(name)).copied();
        said(&raw.limits).or_else(of_group).or_else(of_listener).unwrap_or(self.body)
    }

    /// Warns of a circuit breaker that never hears of what hangs, because the route gives up first: then nobody
    /// knows whose fault it was.
    fn gives_up_before(
        &self,
        at: &At<Id>,
        level: &Level,
        destination: &Destination,
        total: Option<Duration>,
        cx: &mut Cx,
    ) {
        let Some(total) = total else { return };
        // The calls of a composition end by themselves.
        let ends_before = |upstream: &Name| {
            destination.compose().is_some_and(|compose| {
                let mut calls = compose.plan.calls().iter().zip(&compose.calls);
                calls.all(|(call, to)| to.upstream != *upstream || call.timeout <= total)
            })
        };
        let slow = destination.upstreams().filter_map(|upstream| {
            let is = self.upstreams.get(upstream)?;
            let is_slow = is.timeouts.response_headers >= total && !ends_before(upstream);
            is_slow.then_some((upstream, is))
        });
        let slow = slow.collect::<Vec<_>>();
        let of_route = level
            .all(Kind::CircuitBreaker)
            .iter()
            .filter_map(|(name, span)| Some((name, *span, slow.first()?.0)));
        let of_upstreams =
            slow.iter().filter_map(|(upstream, is)| Some((is.circuit_breaker.as_ref()?, at.span, *upstream)));
        for (name, span, upstream) in of_route.chain(of_upstreams) {
            let message = format!(
                "`{name}` never hears of what hangs: the route gives up after {}, which is nobody's fault",
                show_duration(total)
            );
            cx.error(Code::Unused, span, message).warning().combined().help(format!(
                "write `timeouts: {{response_headers: …}}` into the upstream `{upstream}`, shorter than the route's `total`"
            ));
        }
    }

    /// Reports an alternate that is where the request has failed, and warns of a fallback after an answer that the
    /// route does not wait for.
    fn falls_back_elsewhere(
        &self,
        at: &At<Id>,
        level: &Level,
        destination: &Destination,
        total: Option<Duration>,
        policies: &Policies,
        cx: &mut Cx,
    ) {
        let Some((name, span)) = level.all(Kind::Fallback).first() else { return };
        let Some(PolicyKind::Fallback(fallback)) = policies.checked.get(name).map(|it| &it.kind) else {
            return;
        };
        let upstreams = destination.upstreams().collect::<Vec<_>>();
        let is_everywhere =
            |it: &&Name| !upstreams.is_empty() && upstreams.iter().all(|upstream| upstream == it);
        if let Some(alternate) = fallback.upstream().filter(is_everywhere) {
            let message =
                format!("`{name}` asks `{alternate}`, to which the requests of `{}` go anyway", at.value);
            cx.error(Code::Conflict, *span, message)
                .combined()
                .help("name another upstream; to ask another endpoint of the same one, write `retry`");
        }
        let Some(total) = total.filter(|_| fallback.when.response_timeout) else { return };
        let slow = upstreams.into_iter().find(|upstream| {
            let is = self.upstreams.get(*upstream).map(|is| is.timeouts);
            is.is_some_and(|is| {
                is.per_try.map_or(is.response_headers, |it| it.min(is.response_headers)) >= total
            })
        });
        if let Some(upstream) = slow {
            let message = format!(
                "`{name}` never hears of what hangs at `{upstream}`: the route gives up after {}",
                show_duration(total)
            );
            cx.error(Code::Unused, *span, message).warning().combined().help(format!(
                "write `timeouts: {{response_headers: …}}` into the upstream `{upstream}`, shorter than the route's `total`"
            ));
        }
    }

    /// Warns of tries for which the route does not wait.
    fn retries_in_vain(
        &self,
        level: &Level,
        destination: &Destination,
        total: Option<Duration>,
        policies: &Policies,
        cx: &mut Cx,
    ) {
        let Some(total) = total else { return };
        for (name, span) in level.all(Kind::Retry) {
            let Some(PolicyKind::Retry(retry)) = policies.checked.get(name).map(|it| &it.kind) else {
                continue;
            };
            let longest = destination.upstreams().filter_map(|upstream| {
                let timeouts = self.upstreams.get(upstream)?.timeouts;
                let is_awaited = retry.when.response_timeout.then_some(timeouts.response_headers);
                let one = timeouts.per_try.map_or(is_awaited, |per_try| {
                    retry.when.response_timeout.then_some(per_try.min(timeouts.response_headers))
                })?;
                (one.saturating_mul(retry.max + 1) > total).then_some((upstream, one))
            });
            let Some((upstream, one)) = longest.max_by_key(|(_, one)| *one) else { continue };
            let message = format!(
                "`{name}` tries {} times for {} each at `{upstream}`, and the route gives up after {}",
                retry.max + 1,
                show_duration(one),
                show_duration(total)
            );
            cx.error(Code::Unused, *span, message).warning().combined().help(format!(
                "write `timeouts: {{per_try: {}}}` or less into the upstream, or a longer `timeouts.total` into the route",
                show_duration(total / (retry.max + 1))
            ));
        }
    }

    /// Warns of hedges that come when nobody waits any more, or have nobody else to ask.
    fn hedges_in_vain(
        &self,
        level: &Level,
        destination: &Destination,
        total: Option<Duration>,
        policies: &Policies,
        cx: &mut Cx,
    ) {
        let Some((name, span)) = level.all(Kind::Hedge).first() else { return };
        let Some(PolicyKind::Hedge(hedge)) = policies.checked.get(name).map(|it| &it.kind) else { return };
        let after = hedge.after.longest();
        for upstream in destination.upstreams() {
            let Some(is) = self.upstreams.get(upstream) else { continue };
            let waits = is.timeouts.per_try.unwrap_or(Duration::MAX).min(is.timeouts.response_headers);
            let waits = total.map_or(waits, |total| waits.min(total));
            if after >= waits {
                let message = format!(
                    "`{name}` may wait {} before it asks `{upstream}` once more, and after {} nobody waits",
                    show_duration(after),
                    show_duration(waits)
                );
                cx.error(Code::Unused, *span, message)
                    .warning()
                    .combined()
                    .help("write a shorter `after`, or `max_after` beside a percentile; or a longer timeout");
            }
        }
    }

    /// Warns of a cache in front of an upstream that sets a cookie with the first answer to each client.
    fn cookies_are_not_kept(&self, level: &Level, destination: &Destination, cx: &mut Cx) {
        let Some((name, span)) = level.all(Kind::Cache).first() else { return };
        let is_sticky =
            |upstream: &&Name| self.upstreams.get(*upstream).is_some_and(|it| it.balance.sticky.is_some());
        let Some(upstream) = destination.upstreams().find(is_sticky) else { return };
        let message = format!(
            "`{name}` keeps little: `{upstream}` is sticky, so that the first answer to each client sets a cookie, and who has one says who it is"
        );
        cx.error(Code::Unused, *span, message)
            .warning()
            .combined()
            .help("send what is kept to an upstream without `sticky`; or have its answers say `public`, which is kept for those with a cookie");
    }

    /// Warns of hedges that a route asks for itself and that have nobody else to ask.
    fn hedges_of_one(&self, own: &Level, destination: &Destination, cx: &mut Cx) {
        let Some((name, span)) = own.all(Kind::Hedge).first() else { return };
        let has_one = |upstream: &&Name| {
            let is = self.upstreams.get(*upstream);
            is.is_some_and(|is| is.discovery.is_none() && is.endpoints.len() == 1)
        };
        let Some(upstream) = destination.upstreams().find(has_one) else { return };
        let message = format!("`{name}` has nobody else to ask: `{upstream}` has one endpoint");
        cx.error(Code::Unused, *span, message)
            .warning()
            .combined()
            .help("add an endpoint to the upstream; or take the hedge away: it asks who is slow already");
    }

    /// Reports a bulkhead that its upstream has, too: each request would take two places of one account.
    fn one_account_twice(
        &self,
        at: &At<Id>,
        (name, span): &(Name, Span),
        upstream: &Name,
        policies: &Policies,
        cx: &mut Cx,
    ) {
        let is_same = self.upstreams.get(upstream).is_some_and(|it| it.bulkhead.as_ref() == Some(name));
        let is_shared = policies.checked.get(name).is_some_and(|policy| policy.scope != Scope::Route);
        let is_named = self.tables.policies.entries.contains_key(name); // Else it is reported already.
        if !(is_same && is_shared && is_named) {
            return;
        }
        let place = self.tables.upstreams.entries.get(upstream).map(|(at, _)| cx.place(at.span));
        let message = format!(
            "the route `{}` and its upstream `{upstream}` have one bulkhead: each request would take two places of `{name}`",
            at.value
        );
        let it = cx.error(Code::Conflict, *span, message).combined();
        it.label("the route's").help(format!(
            "take it away at one of the two; or say `scope: route` in `{name}`, and each route has its own"
        ));
        if let Some(place) = place {
            it.related(place, "the upstream has it");
        }
    }

    fn listeners_of(
        &self,
        at: &At<Id>,
        raw: &RawRoute,
        group: Option<&RawGroup>,
        cx: &mut Cx,
    ) -> Option<Vec<Name>> {
        let table = &self.tables.listeners;
        let said = raw.listener.as_ref().or_else(|| group.and_then(|group| group.listener.as_ref()));
        if let Some(said) = said {
            unique(&said.value.0, "listener", cx);
            if said.value.0.is_empty() {
                cx.error(Code::Value, said.span, "a route on no listener")
                    .help("name at least one, or take the key away");
            }
            let resolved: Vec<_> = said.value.0.iter().map(|name| table.resolve(name, cx)).collect();
            return resolved.into_iter().collect();
        }
        let mut names = table.entries.keys();
        match (names.next(), names.next()) {
            (Some(only), None) if table.complete => Some(vec![Arc::clone(only)]),
            (Some(_), Some(_))
                if raw.said("listener").is_none()
                    && group.is_none_or(|group| group.said("listener").is_none()) =>
            {
                let names = || table.entries.keys().map(|name| &**name);
                cx.error(
                    Code::Missing,
                    at.span,
                    format!("the route `{}` does not say its listener", at.value),
                )
                .label(format!("there are {}", names().count()))
                .help(format!("add `listener:` with one or a list of {}", one_of(names().take(20))))
                .combined();
                None
            }
            _ => None,
        }
    }

    /// Whether clients show certificates at one of these at least.
    fn has_certificates(&self, listeners: &[Name]) -> bool {
        let tls = |name: &Name| self.listeners.checked.get(name)?.tls.as_ref();
        listeners.iter().filter_map(tls).any(|tls| tls.clients.is_some())
    }

    /// What stands at the listeners of a route, which has to be one thing.
    fn listener_level(&self, at: &At<Id>, listeners: &[Name], cx: &mut Cx) -> Option<&Level> {
        let level = |name: &Name| self.listeners.levels.get(name);
        let first = listeners.first()?;
        let is_other = |other: &&Name| {
            level(other).map(Level::names) != level(first).map(Level::names)
                || self.listeners.bodies.get(*other) != self.listeners.bodies.get(first)
        };
        if let Some(other) = listeners.iter().find(is_other) {
            let message = format!(
                "the route `{}` is on `{first}` and `{other}`, which carry different policies or limits",
                at.value
            );
            cx.error(Code::Conflict, at.span, message)
                .help("write one route for each listener, or move the policies to the routes")
                .combined();
        }
        level(first)
    }

    fn destination(
        &self,
        here: Place<'_>,
        path: Option<&PathPattern>,
        raw: &RawRoute,
        policies: &mut Policies,
        cx: &mut Cx,
    ) -> Option<Destination> {
        let Place { route: at, captures, .. } = here;
        let said = raw.said.iter().filter(|said| RawRoute::DESTINATIONS.contains(&&*said.meant));
        exactly_one(said, at.span, &RawRoute::BUILT, cx, |it| {
            it.help("add `upstream: name`, or `respond:`, or `redirect:`").message =
                format!("the route `{}` goes nowhere", at.value);
        });
        let upstream = raw.upstream.as_ref().and_then(|name| self.tables.upstreams.resolve(name, cx));
        let respond = raw.respond.as_ref().map(|it| respond(&it.value));
        let redirect = raw.redirect.as_ref().map(|it| redirect(it, captures, cx));
        let local = ["respond", "redirect", "list_versions"].into_iter().find_map(|key| raw.said(key));
        if let Some(local) = local {
            no_effect(raw, local, cx);
        }
        let of_versions =
            raw.versions.as_ref().and_then(|it| versions::versions(here, path, &it.value, policies, cx));
        let split = raw.split.as_ref().and_then(|it| here.split(it, cx));
        if let (Some(strip), Some(_)) =
            (&raw.strip_prefix, raw.versions.as_ref().filter(|it| it.value.strip()))
        {
            cx.error(Code::Conflict, strip.key, "`strip_prefix` beside `versions.strip`")
                .help("keep one of the two, or write `rewrite: {path: …}` for each version");
        }
        let listed = raw.list_versions.as_ref().map(|it| self.listed(it, cx));
        let composed = raw.compose.as_ref().and_then(|it| compose::compose(here, path, it, policies, cx));
        upstream
            .map(Destination::Upstream)
            .or(respond.map(Destination::Respond))
            .or(redirect.map(Destination::Redirect))
            .or(of_versions.map(|versions| Destination::Versions(Box::new(versions))))
            .or(split.map(|split| Destination::Split(Box::new(split))))
            .or(listed.map(Destination::ListVersions))
            .or(composed.map(|compose| Destination::Compose(Box::new(compose))))
    }

    /// Routes whose versions are listed.
    fn listed(&self, at: &At<OneOrMany<Id>>, cx: &mut Cx) -> Vec<Name> {
        not_empty(Some(at), "routes", cx);
        unique(&at.value.0, "route", cx);
        let mut names = Vec::new();
        for name in &at.value.0 {
            let Some(known) = self.tables.routes.resolve(name, cx) else { continue };
            let raw = self.tables.routes.entries.get(&known).and_then(|(_, raw)| *raw);
            if raw.is_some_and(|raw| raw.said("versions").is_none()) {
                cx.error(Code::Conflict, name.span, format!("the route `{}` has no versions", name.value))
                    .help("name a route with `versions:`")
                    .combined();
            }
            names.push(known);
        }
        names
    }
}

/// Reports a route that is public and asks who it is.
fn public_or_not(at: &At<Id>, raw: &RawRoute, own: &Level, cx: &mut Cx) {
    let Some(public) = raw.auth.as_ref().filter(|at| at.value == RawAuth::None) else { return };
    let asks = own.names().into_iter().find(|(kind, _)| kind.authenticates());
    if let Some((_, name)) = asks {
        let message = format!("the route `{}` is public, and uses `{name}`, which asks who it is", at.value);
        cx.error(Code::Conflict, public.key, message)
            .help(format!(
                "take `auth: none` away, or `{name}`; `auth: none` clears what the group and the listener ask. `auth: optional` asks only who brings credentials"
            ))
            .combined();
    }
}

/// Warns of idempotency that a route asks for itself and none of its methods has.
fn keys_of_no_method(raw: &RawRoute, own: &Level, policies: &Policies, cx: &mut Cx) {
    let Some(said) = raw.r#match.as_ref().and_then(|it| it.value.methods.as_ref()) else { return };
    for (name, span) in own.all(Kind::Idempotency) {
        let Some(PolicyKind::Idempotency(policy)) = policies.checked.get(name).map(|it| &it.kind) else {
            continue;
        };
        let with_keys = policy.methods.clone().unwrap_or_else(|| vec![Method::POST, Method::PATCH]);
        if said.value.0.is_empty() || said.value.0.iter().any(|at| with_keys.contains(&at.value)) {
            continue;
        }
        let words = one_of(with_keys.iter().map(Method::as_str));
        let place = cx.place(said.key);
        let message = format!("`{name}` is about {words}, which this route does not take");
        cx.error(Code::Unused, *span, message).warning().related(place, "its methods").help(
            "take it away, or write `methods:` of idempotency with those of the route that change something",
        );
    }
}

/// Warns of retries that a route asks for itself and none of its methods may have.
fn retries_of_no_method(raw: &RawRoute, own: &Level, policies: &Policies, cx: &mut Cx) {
    let Some(said) = raw.r#match.as_ref().and_then(|it| it.value.methods.as_ref()) else { return };
    for (name, span) in own.all(Kind::Retry) {
        let Some(PolicyKind::Retry(retry)) = policies.checked.get(name).map(|it| &it.kind) else { continue };
        let may = |method: &Method| match retry.methods {
            RetryMethods::None => false,
            RetryMethods::Safe => method.is_safe(),
            RetryMethods::Idempotent => method.is_idempotent(),
        };
        let is_any = said.value.0.is_empty() || said.value.0.iter().any(|at| may(&at.value));
        if is_any || retry.when.connect_error || retry.when.refused_stream || retry.keyed {
            continue;
        }
        let place = cx.place(said.key);
        let message = format!("`{name}` sends none of the methods of this route again");
        cx.error(Code::Unused, *span, message).warning().related(place, "its methods").help(
            "add `connect_error` or `refused_stream` to its `when`: then nothing was done; or `keyed: true`, if the upstream remembers idempotency keys",
        );
    }
}

/// Warns of hedges that a route asks for itself and none of its methods may have.
fn hedges_of_no_method(raw: &RawRoute, own: &Level, policies: &Policies, cx: &mut Cx) {
    let Some(said) = raw.r#match.as_ref().and_then(|it| it.value.methods.as_ref()) else { return };
    for (name, span) in own.all(Kind::Hedge) {
        let Some(PolicyKind::Hedge(hedge)) = policies.checked.get(name).map(|it| &it.kind) else { continue };
        let may = |method: &Method| method.is_safe() || hedge.is_idempotent && method.is_idempotent();
        if hedge.keyed || said.value.0.is_empty() || said.value.0.iter().any(|at| may(&at.value)) {
            continue;
        }
        let place = cx.place(said.key);
        let message = format!("`{name}` sends none of the methods of this route once more");
        cx.error(Code::Unused, *span, message).warning().related(place, "its methods").help(
            "take it away; or write `keyed: true`, if the upstream does a request with an idempotency key only once",
        );
    }
}

/// Warns of a cache that a route asks for itself and that none of its methods is looked up in.
fn caches_of_no_method(raw: &RawRoute, own: &Level, cx: &mut Cx) {
    let Some((name, span)) = own.all(Kind::Cache).first() else { return };
    let Some(said) = raw.r#match.as_ref().and_then(|it| it.value.methods.as_ref()) else { return };
    let is_read = |method: &Method| method == Method::GET || method == Method::HEAD;
    if said.value.0.is_empty() || said.value.0.iter().any(|at| is_read(&at.value)) {
        return;
    }
    let place = cx.place(said.key);
    let message =
        format!("`{name}` keeps nothing: only answers to GET are kept, and this route does not take it");
    cx.error(Code::Unused, *span, message)
        .warning()
        .related(place, "its methods")
        .help("take it away, or add GET to the methods");
}

/// Reports a cache in front of a split: what one arm has answered would be answered to all.
fn one_answer_for_all_arms(at: &At<Id>, level: &Level, destination: &Destination, cx: &mut Cx) {
    let Some((name, span)) = level.all(Kind::Cache).first() else { return };
    let has_split = match destination {
        Destination::Split(_) => true,
        Destination::Versions(versions) => {
            versions.of.iter().any(|version| matches!(version.to, VersionTarget::Split(_)))
        }
        _ => false,
    };
    if has_split {
        let message =
            format!("`{name}` would answer with what one arm of `{}` has said to those of another", at.value);
        cx.error(Code::Conflict, *span, message)
            .combined()
            .help("take the cache away while the route is split; or split by host or header into two routes");
    }
}

/// Reports a mirror that does not say what it makes of methods that are not safe, and warns of one that copies
/// nothing.
fn copies_of_methods(at: &At<Id>, level: &Level, matches: &Match, policies: &Policies, cx: &mut Cx) {
    let Some((name, span, mirror)) = mirror_of(level, policies) else { return };
    let (methods, takes) = (mirror.methods, &matches.methods);
    if methods.is_none() && (takes.is_empty() || takes.iter().any(|method| !method.is_safe())) {
        let message = format!(
            "`{}` takes methods that are not safe, and `{name}` does not say whether it copies them",
            at.value
        );
        cx.error(Code::Missing, span, message).combined().help(
            "write `methods: safe`, which copies GET, HEAD, OPTIONS and TRACE alone; or `methods: all`, if whoever gets the copies may do all of it once more",
        );
    } else if methods == Some(MirrorMethods::Safe) && !takes.is_empty() && !takes.iter().any(Method::is_safe)
    {
        let message = format!("`{name}` copies none of the methods of `{}`", at.value);
        cx.error(Code::Unused, span, message).warning().combined().help(
            "take it away; or write `methods: all`, if whoever gets the copies may do all of it once more",
        );
    }
}

/// Reports copies that could only go where the request goes.
fn copies_go_elsewhere(
    at: &At<Id>,
    level: &Level,
    destination: &Destination,
    policies: &Policies,
    cx: &mut Cx,
) {
    let Some((name, span, mirror)) = mirror_of(level, policies) else { return };
    let upstreams = destination.upstreams().collect::<Vec<_>>();
    if !upstreams.is_empty() && upstreams.iter().all(|upstream| **upstream == mirror.upstream) {
        let message = format!(
            "the copies of `{name}` go to `{}`, and so do the requests of `{}`",
            mirror.upstream, at.value
        );
        cx.error(Code::Conflict, span, message)
            .combined()
            .help("name another upstream, such as one with the next version; or take the mirror away");
    }
}

fn mirror_of<'a>(level: &'a Level, policies: &'a Policies) -> Option<(&'a Name, Span, &'a Mirror)> {
    let (name, span) = level.all(Kind::Mirror).first()?;
    match &policies.checked.get(name)?.kind {
        PolicyKind::Mirror(mirror) => Some((name, *span, mirror)),
        _ => None,
    }
}

/// Reports none, or more than one, of keys that exclude one another.
fn exactly_one<'a>(
    said: impl Iterator<Item = &'a Said>,
    at: Span,
    of: &[&str],
    cx: &mut Cx,
    none: impl FnOnce(&mut crate::config::Diagnostic),
) {
    let said: Vec<_> = said.collect();
    match said.as_slice() {
        [] => none(cx.error(Code::Missing, at, "").label(format!("needs {}", one_of(of.iter().copied())))),
        [_] => {}
        [first, rest @ ..] => {
            // A mistyped key has a message of its own.
            for second in rest.iter().filter(|second| first.exact && second.exact) {
                let place = cx.place(first.span);
                cx.error(Code::Conflict, second.span, format!("`{}` beside `{}`", second.meant, first.meant))
                    .label("the second")
                    .related(place, "the first")
                    .help("exactly one of them: keep one, or write two routes");
            }
        }
    }
}

/// Keys that only make sense on the way to an upstream.
fn no_effect(raw: &RawRoute, local: Span, cx: &mut Cx) {
    let helps = [
        ("rewrite", "; a redirect has a `path:` of its own"),
        ("strip_prefix", "; a redirect has a `path:` of its own"),
        ("retry", ": nothing is sent that could be sent again"),
        ("hedge", ": nothing is sent that could be sent again"),
        ("cache", ": what the gateway answers itself costs nothing"),
        ("mirror", ": nothing is sent that could be copied"),
        ("fallback", ": nothing is asked that could fail"),
    ];
    for (key, help) in helps {
        if let Some(span) = raw.said(key) {
            let local = cx.place(local);
            cx.error(
                Code::Conflict,
                span,
                format!("`{key}` has no effect on a route that answers by itself"),
            )
            .related(local, "answered here")
            .help(format!("take `{key}` away{help}"));
        }
    }
}

/// Reports a key of one request on a route that makes several of it.
pub(super) fn no_effect_of(said: Option<Span>, key: &str, help: &str, composed: Span, cx: &mut Cx) {
    let Some(span) = said else { return };
    let composed = cx.place(composed);
    cx.error(Code::Conflict, span, format!("`{key}` has no effect on a route that composes its answer"))
        .related(composed, "composed here")
        .help(format!("take `{key}` away{help}"));
}

fn matches(raw: &RawMatch, at: Span, group: Option<&RawGroup>, cx: &mut Cx) -> Option<Match> {
    let said = raw.said.iter().filter(|said| RawMatch::PATHS.contains(&&*said.meant));
    exactly_one(said, at, &RawMatch::PATHS, cx, |it| {
        it.help("write `prefix: /` for every path").message = "the match says nothing of the path".into();
    });
    let hosts = raw.host.as_deref().or_else(|| group.and_then(|group| group.host.as_deref()));
    not_empty(hosts, "hosts", cx);
    not_empty(raw.methods.as_deref(), "methods", cx);
    if let Some(hosts) = &raw.host {
        unique(&hosts.value.0, "host", cx);
    }
    if let Some(methods) = &raw.methods {
        unique(&methods.value.0, "method", cx);
    }
    if let Some((host, _)) =
        raw.headers.iter().flat_map(|it| &it.value.0).find(|(name, _)| name.value == http::header::HOST)
    {
        cx.error(Code::Conflict, host.span, "`host` is not matched as a header")
            .help("write it beside `headers:`: `match: {host: api.example, …}`");
    }
    let path = raw.path.as_ref().map(|it| PathPattern::Whole(it.value.0.clone()));
    let prefix = raw.prefix.as_ref().map(|it| PathPattern::Prefix(it.value.0.clone()));
    let regex = raw.regex.as_ref().map(|it| PathPattern::Regex(it.value.0.clone()));
    Some(Match {
        hosts: values(hosts),
        path: path.or(prefix).or(regex)?,
        methods: values(raw.methods.as_deref()),
        headers: value_matches(raw.headers.as_deref()),
        query: value_matches(raw.query.as_deref()),
    })
}

fn values<T: Clone>(list: Option<&At<OneOrMany<T>>>) -> Vec<T> {
    list.iter().flat_map(|it| it.value.0.iter().map(|at| at.value.clone())).collect()
}

fn not_empty<T>(list: Option<&At<OneOrMany<T>>>, what: &str, cx: &mut Cx) {
    if let Some(list) = list.filter(|list| list.value.0.is_empty()) {
        cx.error(Code::Value, list.span, format!("an empty list of {what}"))
            .help(format!("take the key away to match all {what}"));
    }
}

fn value_matches<K: Clone>(named: Option<&At<ValueMatches<K>>>) -> Vec<(K, ValueMatch)> {
    let entries = named.iter().flat_map(|it| &it.value.0);
    let one = |(name, value): &(At<K>, Option<RawValueMatch>)| {
        let value = match value.as_ref()? {
            Or::Text(text) => ValueMatch::Exact(Arc::clone(text)),
            Or::Record(_) => ValueMatch::Present,
        };
        Some((name.value.clone(), value))
    };
    entries.filter_map(one).collect()
}

pub(super) fn captures_of(matches: &Match) -> Vec<Arc<str>> {
    match &matches.path {
        PathPattern::Whole(segments) | PathPattern::Prefix(segments) => names_of(segments),
        PathPattern::Regex(regex) => regex.capture_names().flatten().map(Arc::from).collect(),
    }
}

/// What is said of one timeout: the group's, if the route says nothing.
fn timeout(
    raw: &RawRoute,
    group: Option<&RawGroup>,
    key: fn(&RawRouteTimeouts) -> Option<&At<OrNever>>,
) -> Option<OrNever> {
    let said = |timeouts: Option<&At<RawRouteTimeouts>>| Some(key(&timeouts?.value)?.value);
    said(raw.timeouts.as_deref()).or_else(|| said(group?.timeouts.as_deref()))
}

/// What a version says in place of its route.
pub(super) fn rewrite_of(said: &RawRewrite, captures: Option<&[Arc<str>]>, cx: &mut Cx) -> Rewrite {
    if let Some(path) = &said.path {
        template(path, captures, cx);
    }
    Rewrite {
        strip_prefix: false,
        host: said.host.as_ref().and_then(|host| HeaderValue::from_str(&host.value.0).ok()),
        path: said.path.as_ref().map(|it| it.value.clone()),
    }
}

fn rewrite(raw: &RawRoute, captures: Option<&[Arc<str>]>, cx: &mut Cx) -> Rewrite {
    let said = raw.rewrite.as_ref().map(|it| &it.value);
    if let Some(strip) = raw.strip_prefix.as_ref().filter(|strip| strip.value) {
        let matched = raw.r#match.as_ref().map(|it| &it.value);
        if matched.is_some_and(|it| {
            it.said("prefix").is_none() && RawMatch::PATHS.iter().any(|key| it.said(key).is_some())
        }) {
            cx.error(Code::Conflict, strip.key, "`strip_prefix` without a prefix")
                .help("match with `prefix:`, or write `rewrite: {path: …}` with captures");
        }
        if let Some(path) = said.and_then(|said| said.path.as_ref()) {
            let path = cx.place(path.key);
            cx.error(Code::Conflict, strip.key, "`strip_prefix` beside `rewrite.path`")
                .related(path, "this replaces the whole path")
                .help("keep one of the two");
        }
    }
    let said = said.map(|said| rewrite_of(said, captures, cx)).unwrap_or_default();
    Rewrite { strip_prefix: raw.strip_prefix(), ..said }
}

/// Reports captures that the match does not have.
fn template(at: &At<Template>, captures: Option<&[Arc<str>]>, cx: &mut Cx) {
    let Some(captures) = captures else { return };
    for part in &at.value.0 {
        let TemplatePart::Capture(name) = part else { continue };
        if captures.contains(name) {
            continue;
        }
        let span = cx.narrow(at.span, &format!("{{{name}}}"));
        if matches!(&**name, "host" | "path" | "query" | "method" | "scheme") {
            cx.error(
                Code::NotBuilt,
                span,
                format!("`{{{name}}}` is not built yet, and the match has no capture of that name"),
            )
            .help("only captures of the match can stand here for now");
            continue;
        }
        let it = cx.error(Code::UnknownName, span, format!("the match has no capture `{{{name}}}`"));
        let known = || captures.iter().map(|name| &**name);
        match nearest(name, known()) {
            Some(meant) => {
                it.label(format!("did you mean `{{{meant}}}`?")).help(format!("write `{{{meant}}}`"))
            }
            None if captures.is_empty() => it.help(format!("capture it: `path: \"/…/{{{name}}}\"`")),
            None => it.help(format!("it has {}", one_of(known()))),
        };
    }
}

pub(super) fn respond(raw: &RawRespond) -> Respond {
    let body = Bytes::copy_from_slice(raw.body().as_bytes());
    Respond { status: raw.status(), body, content_type: raw.content_type() }
}

fn redirect(at: &At<RawRedirect>, captures: Option<&[Arc<str>]>, cx: &mut Cx) -> Redirect {
    let raw = &at.value;
    if let Some(path) = &raw.path {
        template(path, captures, cx);
    }
    if ["scheme", "host", "port", "path"].iter().all(|key| raw.said(key).is_none()) {
        cx.error(Code::Missing, at.key, "a redirect to the same URL")
            .help("say what changes: `scheme: https`, `host: …`, `port: …` or `path: …`");
    }
    if let (Some(port), Some(host)) = (&raw.port, &raw.host) {
        let place = cx.place(host.span);
        cx.error(Code::Conflict, port.key, "`port` beside `host`")
            .related(place, "a host has its port with it")
            .help(format!("write `host: \"{}:{}\"`", without_port(&host.value.0), port.value.0));
    }
    Redirect {
        status: raw.status().0,
        scheme: raw.scheme.as_ref().map(|it| match it.value {
            RawScheme::Http => "http".into(),
            RawScheme::Https => "https".into(),
        }),
        host: raw.host.as_ref().map(|it| Arc::clone(&it.value.0)),
        port: raw.port.as_ref().and_then(|it| u16::try_from(it.value.0).ok()),
        path: raw.path.as_ref().map(|it| it.value.clone()),
    }
}

/// A host as it is written, but for its port.
fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => name,
        _ => host,
    }
}
