//! `HTTPRoute` and `GRPCRoute`: what they match, in the order of the API, and what is done with it.

use std::{cmp::Reverse, collections::BTreeSet, sync::Arc, time::Duration};

use http::HeaderName;

use super::{NOBODY, World};
use crate::{
    config::{Authority, DnsHost, PathRegex, Scalar as _, Span, Text, quoted, show_duration},
    import::{
        action::{self, Cors, Edit},
        fields::{Fields, Said},
        order::{End, Match, Path, Segment, Wanted},
        out::{Keys, Out},
        report::Findings,
        resources::Resource,
        routes::{Action, PathChange},
        services::{Host, Service, Total},
    },
};

/// Where a rule is in the order of the API.
pub(super) type Order =
    (u8, Reverse<usize>, bool, Reverse<usize>, Reverse<usize>, (String, String), (usize, usize));

/// A route, read.
pub(super) struct Route {
    pub(super) namespace: String,
    pub(super) title: String,
    pub(super) kind: String,
    pub(super) at: Span,
    pub(super) parents: Vec<Parent>,
    pub(super) hosts: Vec<Said>,
    pub(super) rules: Vec<RouteRule>,
}

pub(super) struct Parent {
    pub(super) gateway: String,
    pub(super) section: Option<String>,
    pub(super) port: Option<u16>,
    pub(super) at: Span,
}

pub(super) struct RouteRule {
    pub(super) name: String,
    pub(super) at: Span,
    pub(super) matches: Vec<(Match, Order)>,
    pub(super) actions: Vec<Action>,
    /// It leads to another host, and says neither scheme nor port: then it is the port of the listener.
    pub(super) takes_port: bool,
}

pub(super) fn route(
    resource: &Resource<'_, '_>,
    place: usize,
    world: &mut World,
    findings: &mut Findings,
) -> Route {
    let mut spec = resource.spec(findings);
    let mut parents = Vec::new();
    for mut fields in spec.maps("parentRefs", findings) {
        let at = fields.span;
        let name = fields.text("name", findings).unwrap_or_default();
        let namespace = fields.text("namespace", findings).unwrap_or_else(|| resource.namespace.clone());
        let section = fields.text("sectionName", findings);
        let port = fields.number("port", findings).and_then(|it| u16::try_from(it).ok());
        let kind = fields.said("kind", findings);
        fields.pass(&["group"]);
        fields.finish(findings);
        if let Some(kind) = kind.filter(|it| it.text != "Gateway") {
            findings.left_out(
                kind.at,
                format!("a route of a {} is not carried over", kind.text),
                "bind it to a Gateway",
            );
            continue;
        }
        parents.push(Parent { gateway: format!("{namespace}/{name}"), section, port, at });
    }
    let hosts = spec.texts("hostnames", findings);
    spec.pass(&["useDefaultGateways"]);
    let all = spec.maps("rules", findings);
    let is_only = all.len() == 1;
    let mut rules = Vec::new();
    for (number, fields) in all.into_iter().enumerate() {
        let name = if is_only { resource.name.clone() } else { format!("{}-{}", resource.name, number + 1) };
        let mut reader = Reader { resource, world, findings, is_grpc: resource.kind == "GRPCRoute" };
        rules.extend(reader.rule(fields, name, (place, number)));
    }
    spec.finish(findings);
    let (namespace, title, kind) = (resource.namespace.clone(), resource.title(), resource.kind.clone());
    Route { namespace, title, kind, at: resource.at, parents, hosts, rules }
}

struct Reader<'r, 'a, 't, 'f> {
    resource: &'r Resource<'a, 't>,
    world: &'r mut World,
    findings: &'f mut Findings,
    is_grpc: bool,
}

/// What is read of the filters of a rule.
#[derive(Default)]
struct Filters {
    edits: (Edit, Edit),
    keys: Keys,
    rewrite: Option<Change>,
    rewrite_host: Option<String>,
    redirect: Option<(Keys, Option<Change>)>,
    takes_port: bool,
    mirror: Option<(Service, u8, Span)>,
    /// One of them cannot be said, so that the rule is none.
    is_lost: bool,
}

/// What becomes of a path.
enum Change {
    Whole(String),
    Prefix(String, Span),
}

impl Reader<'_, '_, '_, '_> {
    fn rule(&mut self, mut fields: Fields<'_, '_>, name: String, place: (usize, usize)) -> Option<RouteRule> {
        let at = fields.span;
        let said = fields.text("name", self.findings);
        let name = said.map_or(name, |said| format!("{}-{said}", self.resource.name));
        let conditions = fields.maps("matches", self.findings);
        let mut matches = Vec::new();
        if conditions.is_empty() {
            let order = self.order(1, 1, &Match::all(), place);
            matches.push((Match::all(), order, Some(0)));
        }
        for condition in conditions {
            matches.extend(if self.is_grpc {
                self.grpc(condition, place)
            } else {
                self.condition(condition, place)
            });
        }
        let mut filters = Filters::default();
        for filter in fields.maps("filters", self.findings) {
            self.filter(filter, &mut filters);
        }
        let (total, per_try) = self.timeouts(&mut fields);
        let retry = self.retry(&mut fields);
        fields.leave(
            "sessionPersistence",
            "a cookie needs a secret, by which endpoints are called",
            "write `balance: {sticky: {cookie: …, secret: {env: …}}}` into the upstream",
            self.findings,
        );
        let has_backends = fields.has("backendRefs");
        let backends = fields.maps("backendRefs", self.findings);
        let waits = (total.bound(), per_try);
        let arms = self.arms(backends, waits, &mut filters);
        fields.finish(self.findings);
        if filters.is_lost {
            self.findings.error(
                at,
                "this rule is left out: what one of its filters does cannot be said here",
                "take the filter away, or write the route by hand",
            );
            return None;
        }
        if arms.is_empty() && filters.redirect.is_none() && !has_backends {
            self.findings.note(at, "it names no backend: its requests are answered with 500", "");
        }
        let takes_port = filters.takes_port;
        let prefixes = matches.iter().map(|(_, _, prefix)| *prefix).collect::<Vec<_>>();
        let actions = self.actions(filters, &arms, (total, retry), &prefixes);
        let matches = matches.into_iter().map(|(matches, order, _)| (matches, order)).collect();
        Some(RouteRule { name, at, matches, actions, takes_port })
    }

    /// What is done with requests, for each of the matches.
    fn actions(
        &mut self,
        filters: Filters,
        arms: &[(String, u64)],
        (total, retry): (Total, Option<(String, Out)>),
        prefixes: &[Option<usize>],
    ) -> Vec<Action> {
        let mut action = Action::default();
        let Filters { edits, keys, rewrite, rewrite_host, redirect, mirror, .. } = filters;
        let (headers, host) = action::headers(edits.0, edits.1, self.findings);
        let destination = action::destination(arms).filter(|_| redirect.is_none());
        let is_sent = destination.is_some();
        if let Some((keys, _)) = &redirect {
            action.redirect = Some((keys.clone(), None));
        } else {
            action.keys = Action::answer(500).keys;
        }
        if let Some(destination) = destination {
            action.keys = vec![destination];
        }
        action.keys.extend(headers);
        if is_sent {
            action.rewrite_host = rewrite_host.or(host);
            action.keys.extend(total.written());
            action.keys.extend(retry);
        }
        action.keys.extend(keys);
        if let Some((service, percent, at)) = mirror.filter(|_| is_sent) {
            let upstream = self.world.services.name(&service);
            let mirror = action::mirror(&upstream, percent, &action.keys, at, self.findings);
            action.keys.extend(mirror);
        }
        let actions = prefixes.iter().map(|prefix| {
            let mut action = action.clone();
            let mut change = |change: &Option<Change>| match (change, prefix) {
                (None, _) => None,
                (Some(Change::Whole(path)), _) => Some(PathChange::Whole(path.clone())),
                (Some(Change::Prefix(by, _)), Some(segments)) => {
                    Some(PathChange::Prefix { segments: *segments, by: by.clone() })
                }
                (Some(Change::Prefix(_, at)), None) => {
                    self.findings.error(
                        *at,
                        "a prefix is replaced, and the match is none: the path stays as it is",
                        "match by `PathPrefix`, or write `ReplaceFullPath`",
                    );
                    None
                }
            };
            if is_sent {
                action.rewrite = change(&rewrite);
            }
            if let (Some((_, path)), Some((keys, into))) = (&redirect, &mut action.redirect) {
                *into = change(path);
                if keys.len() == 1 && into.is_none() {
                    return Action::answer(500); // To the same URL.
                }
            }
            action
        });
        actions.collect()
    }

    fn order(&self, class: u8, chars: usize, matches: &Match, place: (usize, usize)) -> Order {
        // What says no time of its making is newer than all that do.
        let created = self.resource.created.clone().unwrap_or_else(|| "~".into());
        let name = format!("{}/{}", self.resource.namespace, self.resource.name);
        (
            class,
            Reverse(chars),
            matches.methods.is_empty(),
            Reverse(matches.headers.len()),
            Reverse(matches.query.len()),
            (created, name),
            place,
        )
    }

    /// One match, where it is in the order, and of how many segments its prefix is. `None`: it cannot be said.
    fn condition(
        &mut self,
        mut fields: Fields<'_, '_>,
        place: (usize, usize),
    ) -> Option<(Match, Order, Option<usize>)> {
        let mut matches = Match::all();
        let (mut class, mut chars, mut prefix, mut is_whole) = (1, 1, Some(0), true);
        if let Some(mut path) = fields.map("path", self.findings) {
            let kind = path.text("type", self.findings).unwrap_or_else(|| "PathPrefix".into());
            let at = path.span;
            let value = path.said("value", self.findings).unwrap_or(Said { text: "/".into(), at });
            path.finish(self.findings);
            chars = value.text.len();
            let read = match kind.as_str() {
                "Exact" => {
                    (class, prefix) = (0, None);
                    Path::read(&value.text, End::Whole)
                }
                "PathPrefix" => Path::read(&value.text, End::Prefix),
                "RegularExpression" => {
                    (class, prefix) = (2, None);
                    match PathRegex::parse(Text { text: &value.text, plain: false }) {
                        Ok(_) if value.text.starts_with(['/', '.', '(', '^']) => {
                            Ok(Path::Regex(value.text.as_str().into()))
                        }
                        _ => Err("it is no regular expression of a path".into()),
                    }
                }
                other => Err(format!("`{other}` is no way to match a path")),
            };
            match read {
                Ok(path) => {
                    if let (Path::Segments(segments, _), true) = (&path, prefix.is_some()) {
                        prefix = Some(segments.len());
                    }
                    matches.path = path;
                }
                Err(why) => {
                    self.findings.left_out(
                        value.at,
                        format!(
                            "the path {} cannot be matched: {why}; this match is left out",
                            quoted(&value.text)
                        ),
                        "write it as requests have it, normalised",
                    );
                    is_whole = false;
                }
            }
        }
        is_whole &= self.values(&mut fields, "headers", &mut matches);
        is_whole &= self.values(&mut fields, "queryParams", &mut matches);
        if let Some(method) = fields.said("method", self.findings) {
            if action::is_method(&method.text) {
                matches.methods = BTreeSet::from([Arc::from(method.text)]);
                action::tell_of_head(&matches.methods, method.at, self.findings);
            } else {
                self.findings.error(method.at, format!("{} is no method", quoted(&method.text)), "");
                is_whole = false;
            }
        }
        fields.finish(self.findings);
        let order = self.order(class, chars, &matches, place);
        is_whole.then_some((matches, order, prefix))
    }

    fn grpc(
        &mut self,
        mut fields: Fields<'_, '_>,
        place: (usize, usize),
    ) -> Option<(Match, Order, Option<usize>)> {
        let mut matches = Match::all();
        let (mut class, mut chars, mut is_whole) = (3, 0, true);
        if let Some(mut method) = fields.map("method", self.findings) {
            let kind = method.said("type", self.findings);
            let (service, name) =
                (method.said("service", self.findings), method.said("method", self.findings));
            method.finish(self.findings);
            if let Some(kind) = kind.filter(|it| it.text != "Exact") {
                self.findings.left_out(
                    kind.at,
                    "methods of gRPC are matched whole: this match is left out",
                    "write `type: Exact`",
                );
                is_whole = false;
            }
            let literal = |said: &Said| Segment::Literal(said.text.as_str().into());
            let path = match (&service, &name) {
                (Some(service), Some(name)) => {
                    (class, chars) = (0, service.text.len() + name.text.len());
                    Some((vec![literal(service), literal(name)], End::Whole))
                }
                (Some(service), None) => {
                    (class, chars) = (1, service.text.len());
                    Some((vec![literal(service)], End::Rest))
                }
                (None, Some(name)) => {
                    (class, chars) = (2, name.text.len());
                    Some((vec![Segment::Any, literal(name)], End::Whole))
                }
                (None, None) => None,
            };
            let is_name = |said: &Said| {
                !said.text.is_empty()
                    && said.text.chars().all(|c| c.is_ascii_alphanumeric() || "._".contains(c))
            };
            if let Some(wrong) = [&service, &name].into_iter().flatten().find(|it| !is_name(it)) {
                self.findings.error(
                    wrong.at,
                    format!("{} is no name of a service or a method", quoted(&wrong.text)),
                    "",
                );
                is_whole = false;
            } else if let Some((segments, end)) = path {
                matches.path = Path::Segments(segments, end);
            }
        }
        is_whole &= self.values(&mut fields, "headers", &mut matches);
        fields.finish(self.findings);
        let order = self.order(class, chars, &matches, place);
        is_whole.then_some((matches, order, None))
    }

    fn values(&mut self, fields: &mut Fields<'_, '_>, key: &str, matches: &mut Match) -> bool {
        let mut is_whole = true;
        let is_header = key == "headers";
        let into = if is_header { &mut matches.headers } else { &mut matches.query };
        for mut one in fields.maps(key, self.findings) {
            let kind = one.said("type", self.findings);
            let (name, value) = (one.said("name", self.findings), one.text("value", self.findings));
            one.finish(self.findings);
            let Some(name) = name else { continue };
            let called = if is_header { name.text.to_ascii_lowercase() } else { name.text.clone() };
            if is_header && (called.parse::<HeaderName>().is_err() || called == "host") {
                self.findings.left_out(
                    name.at,
                    format!("`{called}` is no header that a route is chosen by: this match is left out"),
                    "a host is matched by `hostnames`",
                );
                is_whole = false;
                continue;
            }
            let is_any = |value: &Option<String>| {
                value.as_deref().is_some_and(|it| matches!(it, ".*" | ".+" | "^.*$" | "^.+$"))
            };
            let wanted = match kind.as_ref().map(|it| it.text.as_str()) {
                None | Some("Exact") => Wanted::Exactly(value.unwrap_or_default().into()),
                Some("RegularExpression") if is_any(&value) => Wanted::Present,
                Some(_) => {
                    self.findings.left_out(
                        name.at,
                        format!("`{called}` by an expression is not matched: this match is left out"),
                        "write each value as a match of its own",
                    );
                    is_whole = false;
                    continue;
                }
            };
            // Of two of one name the first counts.
            into.entry(called.into()).or_insert(wanted);
        }
        is_whole
    }

    fn filter(&mut self, mut fields: Fields<'_, '_>, filters: &mut Filters) {
        let kind =
            fields.said("type", self.findings).unwrap_or(Said { text: String::new(), at: fields.span });
        match kind.text.as_str() {
            "RequestHeaderModifier" => {
                filters.edits.0 = self.edit(&mut fields, "requestHeaderModifier", &filters.edits.0);
            }
            "ResponseHeaderModifier" => {
                filters.edits.1 = self.edit(&mut fields, "responseHeaderModifier", &filters.edits.1);
            }
            "RequestMirror" => {
                if let Some(mut mirror) = fields.map("requestMirror", self.findings) {
                    let at = mirror.span;
                    let mut percent = mirror
                        .said("percent", self.findings)
                        .map_or(Some(100), |it| action::percent(&it, self.findings));
                    if let Some(mut fraction) = mirror.map("fraction", self.findings) {
                        let part = fraction.number("numerator", self.findings).unwrap_or(0);
                        let of = fraction.number("denominator", self.findings).unwrap_or(100).max(1);
                        let share = Said {
                            text: format!(
                                "{}",
                                u32::try_from(part).map_or(0.0, f64::from) * 100.0
                                    / u32::try_from(of).map_or(100.0, f64::from)
                            ),
                            at: fraction.span,
                        };
                        percent = action::percent(&share, self.findings);
                        fraction.finish(self.findings);
                    }
                    let backend = mirror.map("backendRef", self.findings);
                    mirror.finish(self.findings);
                    let service = backend.and_then(|it| self.backend(it));
                    if let (Some(service), Some(percent)) = (service, percent) {
                        if filters.mirror.is_some() {
                            self.findings.left_out(
                                at,
                                "a route has one mirror: this one is left out",
                                "write one that copies for the others",
                            );
                        } else {
                            filters.mirror = Some((service, percent, at));
                        }
                    }
                }
            }
            "RequestRedirect" => {
                if let Some(redirect) = fields.map("requestRedirect", self.findings) {
                    self.redirect(redirect, filters);
                }
            }
            "URLRewrite" => {
                if let Some(mut rewrite) = fields.map("urlRewrite", self.findings) {
                    let host = rewrite.said("hostname", self.findings);
                    filters.rewrite_host = host.and_then(|it| action::valid::<Authority>(&it, self.findings));
                    filters.rewrite = rewrite.map("path", self.findings).and_then(|it| self.change(it));
                    rewrite.finish(self.findings);
                }
            }
            "CORS" => {
                if let Some(mut cors) = fields.map("cors", self.findings) {
                    let at = cors.span;
                    let read = Cors {
                        origins: cors.texts("allowOrigins", self.findings),
                        methods: cors.texts("allowMethods", self.findings),
                        headers: cors.texts("allowHeaders", self.findings),
                        expose: cors.texts("exposeHeaders", self.findings),
                        max_age: cors.number("maxAge", self.findings).map(Duration::from_secs),
                        has_credentials: cors.is_true("allowCredentials", self.findings),
                    };
                    cors.finish(self.findings);
                    filters.keys.extend(read.written(at, self.findings));
                }
            }
            other => {
                self.findings.error(
                    kind.at,
                    format!("the filter `{other}` cannot be said here"),
                    "an external check is a policy of the kind `forward_auth`",
                );
                filters.is_lost = true;
                fields.pass(&["extensionRef", "externalAuth"]);
            }
        }
        fields.finish(self.findings);
    }

    fn edit(&mut self, fields: &mut Fields<'_, '_>, key: &str, there: &Edit) -> Edit {
        let mut edit = there.clone();
        let Some(mut inner) = fields.map(key, self.findings) else { return edit };
        for (key, into) in [("set", &mut edit.set), ("add", &mut edit.add)] {
            for mut pair in inner.maps(key, self.findings) {
                let (name, value) = (pair.text("name", self.findings), pair.said("value", self.findings));
                pair.finish(self.findings);
                into.extend(name.zip(value));
            }
        }
        edit.remove.extend(inner.texts("remove", self.findings));
        inner.finish(self.findings);
        edit
    }

    fn redirect(&mut self, mut fields: Fields<'_, '_>, filters: &mut Filters) {
        let at = fields.span;
        let scheme = fields.text("scheme", self.findings).filter(|it| it == "http" || it == "https");
        let host = fields.said("hostname", self.findings);
        let host = host.and_then(|it| action::valid::<Authority>(&it, self.findings));
        let port = fields.number("port", self.findings).filter(|it| (1..=65_535).contains(it));
        let status = fields.number("statusCode", self.findings).unwrap_or(302);
        let path = fields.map("path", self.findings).and_then(|it| self.change(it));
        fields.finish(self.findings);
        if scheme.is_none() && host.is_none() && port.is_none() && path.is_none() {
            self.findings.error(at, "a redirect to the same URL", "say what changes");
            filters.is_lost = true;
            return;
        }
        if !matches!(status, 301 | 302 | 303 | 307 | 308) {
            self.findings.error(
                at,
                format!("{status} is no status of a redirect"),
                "write 301, 302, 303, 307 or 308",
            );
            filters.is_lost = true;
            return;
        }
        let is_usual =
            matches!((scheme.as_deref(), port), (Some("http"), Some(80)) | (Some("https"), Some(443)));
        filters.takes_port = host.is_some() && scheme.is_none() && port.is_none();
        let mut keys = Keys::new();
        keys.extend(scheme.map(|it| ("scheme".to_owned(), Out::text(it))));
        keys.push(("status".into(), Out::plain(status)));
        match (host, port.filter(|_| !is_usual)) {
            (Some(host), Some(port)) => keys.push(("host".into(), Out::text(format!("{host}:{port}")))),
            (Some(host), None) => keys.push(("host".into(), Out::text(host))),
            (None, Some(port)) => keys.push(("port".into(), Out::plain(port))),
            (None, None) => {}
        }
        filters.redirect = Some((keys, path));
    }

    fn change(&mut self, mut fields: Fields<'_, '_>) -> Option<Change> {
        let kind = fields.said("type", self.findings);
        let whole = fields.said("replaceFullPath", self.findings);
        let prefix = fields.said("replacePrefixMatch", self.findings);
        let at = fields.span;
        fields.finish(self.findings);
        let (Some(said), kind) =
            (whole.as_ref().or(prefix.as_ref()), kind.map(|it| it.text).unwrap_or_default())
        else {
            self.findings.error(
                at,
                "what the path becomes is not said",
                "write `replaceFullPath:` or `replacePrefixMatch:`",
            );
            return None;
        };
        // An empty one is `/`.
        let text = if said.text.is_empty() { "/".to_owned() } else { action::path(said, self.findings)? };
        match kind.as_str() {
            "ReplaceFullPath" => Some(Change::Whole(text)),
            "ReplacePrefixMatch" => Some(Change::Prefix(text, said.at)),
            other => {
                self.findings.error(
                    at,
                    format!("{} is no change of a path", quoted(other)),
                    "write ReplaceFullPath or ReplacePrefixMatch",
                );
                None
            }
        }
    }

    /// The longest time of all of it, and of one try.
    fn timeouts(&mut self, fields: &mut Fields<'_, '_>) -> (Total, Option<Duration>) {
        let Some(mut timeouts) = fields.map("timeouts", self.findings) else { return (Total::Usual, None) };
        let total = Total::of(timeouts.duration("request", self.findings));
        let per_try = timeouts.duration("backendRequest", self.findings).filter(|it| !it.is_zero());
        timeouts.finish(self.findings);
        (total, per_try)
    }

    fn retry(&mut self, fields: &mut Fields<'_, '_>) -> Option<(String, Out)> {
        let mut retry = fields.map("retry", self.findings)?;
        let at = retry.span;
        let mut when: Vec<Out> = ["connect_error", "reset", "refused_stream"].map(Out::plain).into();
        for code in retry.texts("codes", self.findings) {
            if code.text.parse::<u16>().is_ok_and(|it| (400..600).contains(&it)) {
                when.push(Out::plain(code.text.trim_start_matches('+')));
            } else {
                self.findings.error(code.at, format!("{} is no status of an error", quoted(&code.text)), "");
            }
        }
        let attempts = retry.number("attempts", self.findings).unwrap_or(1);
        let backoff = retry.duration("backoff", self.findings).filter(|it| !it.is_zero());
        retry.finish(self.findings);
        if attempts == 0 {
            return None;
        }
        self.findings.changed(at, "methods that are not idempotent, such as POST, are sent again only if nothing of them has arrived", "write `keyed: true` if the upstream remembers `Idempotency-Key`s");
        let mut keys =
            vec![("max".to_owned(), Out::plain(attempts.min(10))), ("when".to_owned(), Out::List(when))];
        if let Some(backoff) = backoff {
            let most = show_duration(backoff.saturating_mul(10));
            keys.push(("backoff".into(), Out::plain(format!("{}..{most}", show_duration(backoff)))));
        }
        Some(("retry".into(), Out::Map(keys)))
    }

    /// All backends with their shares.
    fn arms(
        &mut self,
        backends: Vec<Fields<'_, '_>>,
        waits: (Option<Duration>, Option<Duration>),
        filters: &mut Filters,
    ) -> Vec<(String, u64)> {
        let is_only = backends.len() == 1;
        let mut services = Vec::new();
        for mut backend in backends {
            let at = backend.span;
            let weight = backend.number("weight", self.findings).unwrap_or(1);
            for filter in backend.maps("filters", self.findings) {
                if is_only {
                    self.filter(filter, filters);
                } else {
                    self.findings.left_out(
                        filter.span,
                        "a filter of one backend among several is not carried over",
                        "write it on the rule, for all; or two routes",
                    );
                }
            }
            services.push((self.backend(backend), weight, at));
        }
        if services.iter().all(|(service, weight, _)| service.is_none() || *weight == 0) {
            return Vec::new();
        }
        let arms = services.into_iter().map(|(service, weight, at)| {
            let nobody = || Service { host: Host::Other(NOBODY.into()), port: 1, subset: None };
            let service = service.unwrap_or_else(nobody);
            if self.is_grpc {
                self.world.h2.insert(service.clone());
            }
            (self.world.services.upstream(&service, at, waits), weight)
        });
        arms.collect()
    }

    /// Who it is; nobody, if it cannot be.
    fn backend(&mut self, mut fields: Fields<'_, '_>) -> Option<Service> {
        let at = fields.span;
        let name = fields.said("name", self.findings);
        let namespace =
            fields.text("namespace", self.findings).unwrap_or_else(|| self.resource.namespace.clone());
        let port =
            fields.number("port", self.findings).and_then(|it| u16::try_from(it).ok()).filter(|it| *it > 0);
        let (group, kind) = (fields.text("group", self.findings), fields.said("kind", self.findings));
        fields.finish(self.findings);
        let Some(name) = name else {
            self.findings.error(at, "a backend without a name", "");
            return None;
        };
        if let Some(kind) = kind.filter(|it| it.text != "Service" || group.is_some_and(|it| !it.is_empty())) {
            self.findings.error(
                kind.at,
                format!(
                    "a backend of the kind {} is nobody: its share is not sent anywhere",
                    quoted(&kind.text)
                ),
                "name a Service",
            );
            return None;
        }
        if namespace != self.resource.namespace
            && !self.world.is_granted(self.resource, &namespace, &name.text)
        {
            self.findings.error(name.at, format!("no ReferenceGrant of `{namespace}` lets this route lead to `{}`: its share is not sent anywhere", name.text), "import the ReferenceGrant as well");
            return None;
        }
        let host = Host::Cluster { name: name.text.to_ascii_lowercase(), namespace };
        action::valid::<DnsHost>(&Said { text: format!("{}:80", host.dns()), at: name.at }, self.findings)?;
        let Some(port) = port else {
            self.findings.error(
                name.at,
                "a backend without a port is nobody: its share is not sent anywhere",
                "write `port:`",
            );
            return None;
        };
        Some(Service { host, port, subset: None })
    }
}
