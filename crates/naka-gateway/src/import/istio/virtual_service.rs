//! `VirtualService`: which requests go where.

use std::{sync::Arc, time::Duration};

use http::HeaderName;

use super::{
    World,
    conditions::{Begins, alternatives, path, wanted},
};
use crate::{
    config::{Authority, DnsHost, Node, Span, Value, quoted, show_duration},
    import::{
        action::{self, Cors, Edit},
        fields::{Fields, Said},
        order::{Match, Wanted},
        out::{Keys, Out},
        report::Findings,
        resources::Resource,
        routes::{Action, PathChange, Rule},
        services::{Host, Service, Total},
    },
};

/// One of them, read.
pub(super) struct VirtualService {
    pub(super) namespace: String,
    pub(super) title: String,
    pub(super) at: Span,
    pub(super) hosts: Vec<Said>,
    /// `namespace/name` of gateways, or `mesh`.
    pub(super) gateways: Vec<Said>,
    pub(super) cases: Vec<Case>,
}

/// One match of one rule.
pub(super) struct Case {
    /// The place of the rule.
    pub(super) rule: usize,
    pub(super) matches: Match,
    /// Only at these gateways.
    pub(super) gateways: Vec<String>,
    pub(super) port: Option<u16>,
    /// Only what came over TLS, or without.
    pub(super) is_https: Option<bool>,
}

pub(super) fn read(
    resource: &Resource<'_, '_>,
    world: &mut World<'_, '_>,
    rules: &mut Vec<Rule>,
    findings: &mut Findings,
) -> VirtualService {
    let mut spec = resource.spec(findings);
    let hosts = spec.texts("hosts", findings);
    let mut gateways = spec.texts("gateways", findings);
    for gateway in &mut gateways {
        gateway.text = super::full_name(&gateway.text, &resource.namespace);
    }
    if gateways.is_empty() {
        gateways.push(Said { text: "mesh".into(), at: resource.at });
    }
    spec.pass(&["exportTo"]);
    for key in ["tcp", "tls"] {
        spec.leave(
            key,
            "only HTTP is routed: connections that it cannot look into are not",
            "a balancer of connections in front can do that",
            findings,
        );
    }
    let http = spec.maps("http", findings);
    let is_only = http.len() == 1;
    let mut cases = Vec::new();
    let mut reader = Reader { resource, world, findings };
    // Of each rule, whether one behind it says a path.
    let says = http.iter().map(says_path).collect::<Vec<_>>();
    for (index, fields) in http.into_iter().enumerate() {
        let name = if is_only { resource.name.clone() } else { format!("{}-{}", resource.name, index + 1) };
        let is_last = !says[index + 1..].contains(&true);
        reader.rule(fields, name, is_last, rules, &mut cases);
    }
    spec.finish(findings);
    if hosts.is_empty() {
        findings.error(resource.at, "it says no `hosts`", "write the hosts that it is about");
    }
    let (namespace, title) = (resource.namespace.clone(), resource.title());
    VirtualService { namespace, title, at: resource.at, hosts, gateways, cases }
}

/// Whether a rule has a match with a path.
fn says_path(rule: &Fields<'_, '_>) -> bool {
    let has_uri = |node: &Node<'_>| matches!(&node.value, Value::Map(keys) if keys.iter().any(|(key, _)| key.text == "uri"));
    matches!(rule.peek("match").map(|it| &it.value), Some(Value::Seq(all)) if all.iter().any(has_uri))
}

struct Reader<'r, 'a, 't, 'w, 'x, 'f> {
    resource: &'r Resource<'a, 't>,
    world: &'r mut World<'w, 'x>,
    findings: &'f mut Findings,
}

impl Reader<'_, '_, '_, '_, '_, '_> {
    fn rule(
        &mut self,
        mut fields: Fields<'_, '_>,
        name: String,
        is_last: bool,
        rules: &mut Vec<Rule>,
        cases: &mut Vec<Case>,
    ) {
        let at = fields.span;
        let said = fields.text("name", self.findings);
        let name = said.map_or(name, |said| format!("{}-{said}", self.resource.name));
        let conditions = fields.maps("match", self.findings);
        let is_any = conditions.is_empty();
        let mut matches = Vec::new();
        let chaos = conditions.len() == 1;
        for condition in conditions {
            matches.extend(self.condition(condition, is_last));
        }
        if is_any {
            matches.push((
                Case { rule: 0, matches: Match::all(), gateways: Vec::new(), port: None, is_https: None },
                Begins::With(0),
            ));
        }
        let only_header = match matches.as_slice() {
            [(case, _)] if chaos => one_header(&case.matches),
            _ => None,
        };
        let begins = matches.iter().map(|(_, begins)| begins.clone()).collect::<Vec<_>>();
        let actions = self.action(&mut fields, only_header, &begins);
        fields.finish(self.findings);
        let Some(actions) = actions else { return };
        let remark = format!("{}, {}", self.resource.title(), self.findings.line(at));
        // Matches of which the rewrite differs are rules of their own.
        let mut known: Vec<(Action, usize)> = Vec::new();
        for ((mut case, _), action) in matches.into_iter().zip(actions) {
            let rule = if let Some((_, rule)) = known.iter().find(|(it, _)| *it == action) {
                *rule
            } else {
                rules.push(Rule {
                    name: name.clone(),
                    remark: remark.clone(),
                    resource: self.resource.title(),
                    at,
                    action: action.clone(),
                    is_ours: false,
                });
                known.push((action, rules.len() - 1));
                rules.len() - 1
            };
            case.rule = rule;
            cases.push(case);
        }
    }

    /// `None`: it cannot be said, so that nothing is matched by it.
    fn condition(&mut self, mut fields: Fields<'_, '_>, is_last: bool) -> Option<(Case, Begins)> {
        let findings = &mut *self.findings;
        let at = fields.span;
        let mut is_whole = true;
        let mut matches = Match::all();
        let mut begins = Begins::With(0);
        let ignores_case = fields.is_true("ignoreUriCase", findings);
        let has_path = fields.has("uri");
        if let Some(uri) = fields.map("uri", findings) {
            match path(uri, ignores_case, findings) {
                Some((path, it)) => (matches.path, begins) = (path, it),
                None => is_whole = false,
            }
        }
        let method_at = fields.at("method");
        if let Some(method) = fields.take("method") {
            match alternatives(method, "method", findings) {
                Some(methods) if methods.iter().all(|it| action::is_method(it)) => {
                    matches.methods = methods.into_iter().map(Arc::from).collect();
                    action::tell_of_head(&matches.methods, method_at, findings);
                }
                _ => is_whole = false,
            }
        }
        for (key, target) in [("headers", &mut matches.headers), ("queryParams", &mut matches.query)] {
            let Some(mut named) = fields.map(key, findings) else { continue };
            for (name, key_at, value) in named.drain() {
                let name = if key == "headers" { name.to_ascii_lowercase() } else { name.to_owned() };
                if key == "headers"
                    && (name.starts_with('@') || name.parse::<HeaderName>().is_err() || name == "host")
                {
                    let help = if name.starts_with('@') {
                        "write a route with `authorize: {claim: …}`, or a split with a pin"
                    } else {
                        "a host is matched by `hosts`"
                    };
                    findings.left_out(
                        key_at,
                        format!("`{name}` is no header that a route is chosen by: this match is left out"),
                        help,
                    );
                    is_whole = false;
                    continue;
                }
                match wanted(value, &name, findings) {
                    Some(wanted) => _ = target.insert(name.into(), wanted),
                    None => is_whole = false,
                }
            }
        }
        if let Some(scheme) = fields.take("scheme") {
            let said = alternatives(scheme, "scheme", findings);
            match said.as_deref() {
                Some([one]) if one == "http" || one == "https" => {}
                _ => is_whole = false,
            }
            let is_https = said.is_some_and(|said| said == ["https"]);
            return self.done(fields, (matches, begins), is_whole, Some(is_https), (at, has_path, is_last));
        }
        self.done(fields, (matches, begins), is_whole, None, (at, has_path, is_last))
    }

    fn done(
        &mut self,
        mut fields: Fields<'_, '_>,
        (matches, begins): (Match, Begins),
        mut is_whole: bool,
        is_https: Option<bool>,
        (at, has_path, is_last): (Span, bool, bool),
    ) -> Option<(Case, Begins)> {
        let findings = &mut *self.findings;
        let port = fields.number("port", findings).and_then(|port| u16::try_from(port).ok());
        let gateways = fields.texts("gateways", findings);
        let gateways =
            gateways.into_iter().map(|it| super::full_name(&it.text, &self.resource.namespace)).collect();
        fields.pass(&["name", "statPrefix"]);
        for (key, why, help) in [
            (
                "withoutHeaders",
                "absence makes no match",
                "write the rule for those that have the header before this one: the more specific one wins",
            ),
            (
                "authority",
                "the host of one rule is not told apart from that of all",
                "write a VirtualService of its own for that host",
            ),
            (
                "sourceLabels",
                "which workload asks is not known",
                "let it be known by its certificate, and write `authorize: {identity: …}`",
            ),
            (
                "sourceNamespace",
                "from which namespace somebody asks is not known",
                "let it be known by its certificate, and write `authorize: {identity: …}`",
            ),
        ] {
            if fields.has(key) {
                is_whole = false;
                fields.leave(key, &format!("{why}: this match is left out"), help, findings);
            }
        }
        fields.finish(findings);
        if is_whole && !has_path && !matches.is_all() && !is_last {
            findings.note(
                at,
                "this rule says no path, so it takes the requests for every path of its hosts that have the rest, also those that later rules are about",
                "say in `uri:` which paths it is for",
            );
        }
        is_whole.then_some((Case { rule: 0, matches, gateways, port, is_https }, begins))
    }

    /// What is done with requests, for each match of the rule. `None`: nothing that can be said.
    fn action(
        &mut self,
        fields: &mut Fields<'_, '_>,
        header: Option<(String, Option<String>)>,
        begins: &[Begins],
    ) -> Option<Vec<Action>> {
        let at = fields.span;
        let mut action = Action::default();
        let total = Total::of(fields.duration("timeout", self.findings));
        let (retry, per_try) = self.retries(fields);
        let waits = (total.bound(), per_try);
        fields.leave(
            "delegate",
            "rules of another VirtualService are not read in its place: this rule is left out",
            "write its rules here",
            self.findings,
        );
        let is_delegated = fields.has("delegate");
        let redirect = fields.map("redirect", self.findings);
        let answer = fields.map("directResponse", self.findings);
        let routes = fields.maps("route", self.findings);
        let mut edits = (Edit::default(), Edit::default());
        if let Some(headers) = fields.map("headers", self.findings) {
            edits = edit(headers, self.findings);
        }
        let is_local = redirect.is_some() || answer.is_some();
        let mut change = None;
        let mut rewrite = None;
        if let Some(redirect) = redirect {
            action.redirect = Some(self.redirect(redirect)?);
        } else if let Some(answer) = answer {
            action.keys.push(("respond".into(), respond(answer, self.findings)));
        } else if is_delegated {
            return None;
        } else if routes.is_empty() {
            self.findings.error(
                at,
                "this rule goes nowhere",
                "write `route:`, `redirect:` or `directResponse:`",
            );
            return None;
        } else {
            let is_only = routes.len() == 1;
            let mut arms = Vec::new();
            for route in routes {
                arms.extend(self.arm(route, is_only, &mut edits, waits));
            }
            if let Some(destination) = action::destination(&arms) {
                action.keys.push(destination);
            } else {
                self.findings.error(
                    at,
                    "the weights of its destinations are all 0, or there are too many",
                    "write `weight:` of 2 to 32 destinations",
                );
                return None;
            }
        }
        if let Some(mut fields) = fields.map("rewrite", self.findings) {
            let uri = fields.said("uri", self.findings);
            change = uri.and_then(|uri| action::path(&uri, self.findings));
            let authority = fields.said("authority", self.findings);
            rewrite = authority.and_then(|it| action::valid::<Authority>(&it, self.findings));
            fields.leave(
                "uriRegexRewrite",
                "a path is rewritten by what its match captures",
                "write `match: {regex: \"/cat/(?<id>[0-9]+)\"}` and `rewrite: {path: \"/catalog/{id}\"}`",
                self.findings,
            );
            fields.finish(self.findings);
        }
        let (headers, host) = action::headers(edits.0, edits.1, self.findings);
        action.keys.extend(headers);
        action.rewrite_host = rewrite.or(host).filter(|_| !is_local);
        action.keys.extend(total.written());
        action.keys.extend(retry.filter(|_| !is_local));
        action.keys.extend(self.fault(fields, header));
        if let Some((upstream, percent, at)) = self.mirror(fields).filter(|_| !is_local) {
            let mirror = action::mirror(&upstream, percent, &action.keys, at, self.findings);
            action.keys.extend(mirror);
        }
        if let Some(cors) = fields.map("corsPolicy", self.findings) {
            let at = cors.span;
            action.keys.extend(cors_of(cors, self.findings).written(at, self.findings));
        }
        let actions = begins.iter().map(|begins| {
            let mut action = action.clone();
            action.rewrite = change.as_ref().filter(|_| !is_local).map(|by| match begins {
                Begins::Whole => PathChange::Whole(by.clone()),
                Begins::With(segments) => PathChange::Prefix { segments: *segments, by: by.clone() },
            });
            action
        });
        Some(actions.collect())
    }

    /// One destination, and its share.
    fn arm(
        &mut self,
        mut fields: Fields<'_, '_>,
        is_only: bool,
        edits: &mut (Edit, Edit),
        waits: (Option<Duration>, Option<Duration>),
    ) -> Option<(String, u64)> {
        let at = fields.span;
        let weight = fields.number("weight", self.findings);
        let destination = fields.map("destination", self.findings);
        if let Some(headers) = fields.map("headers", self.findings) {
            if is_only {
                let (request, response) = edit(headers, self.findings);
                for (all, own) in [(&mut edits.0, request), (&mut edits.1, response)] {
                    all.set.extend(own.set);
                    all.add.extend(own.add);
                    all.remove.extend(own.remove);
                }
            } else {
                self.findings.left_out(
                    headers.span,
                    "headers of one destination among several are not changed by itself",
                    "write them on the route, for all; or two routes",
                );
            }
        }
        fields.finish(self.findings);
        let Some(destination) = destination else {
            self.findings.error(at, "it says no `destination`", "write `destination: {host: …}`");
            return None;
        };
        let service = self.service(destination)?;
        let name = self.world.services.upstream(&service, at, waits);
        Some((name, weight.unwrap_or(u64::from(is_only))))
    }

    fn service(&mut self, mut fields: Fields<'_, '_>) -> Option<Service> {
        let at = fields.span;
        let host = fields.said("host", self.findings);
        let subset = fields.said("subset", self.findings);
        let mut port_fields = fields.map("port", self.findings);
        let port = port_fields.as_mut().and_then(|port| port.number("number", self.findings));
        if let Some(port) = port_fields {
            port.finish(self.findings);
        }
        fields.finish(self.findings);
        let Some(host) = host else {
            self.findings.error(at, "a destination without `host`", "write the service it is");
            return None;
        };
        let name = Said {
            text: format!("{}:80", Host::read(&host.text, &self.resource.namespace).dns()),
            at: host.at,
        };
        action::valid::<DnsHost>(&name, self.findings)?;
        let is_short = host.text.contains('.') && !host.text.contains(".svc");
        let of = Host::read(&host.text, &self.resource.namespace);
        let port = match port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0) {
            Some(port) => port,
            None => self.world.port(&of, host.at, self.findings),
        };
        if let Some(subset) = &subset
            && !self.world.has_subset(&of, &subset.text)
        {
            let known = self.world.subsets(&of);
            let known = if known.is_empty() {
                "none is".to_owned()
            } else {
                format!("those are: {}", known.join(", "))
            };
            self.findings.error(
                subset.at,
                format!("no DestinationRule defines the subset `{}` of `{}` ({known}): its requests were answered with 503, and are here, too", subset.text, host.text),
                "define it under `subsets:`, or name one that is there",
            );
        }
        if is_short && !self.world.is_known(&of) {
            self.findings.note(
                host.at,
                format!("`{}` is taken for a whole name, and not for a service of the cluster", host.text),
                "write `name.namespace.svc.cluster.local` for that",
            );
        }
        Some(Service { host: of, port, subset: subset.map(|it| it.text) })
    }

    fn retries(&mut self, fields: &mut Fields<'_, '_>) -> (Option<(String, Out)>, Option<Duration>) {
        let findings = &mut *self.findings;
        let Some(mut fields) = fields.map("retries", findings) else { return (None, None) };
        let at = fields.span;
        let attempts = fields.number("attempts", findings).unwrap_or(2);
        let per_try = fields.duration("perTryTimeout", findings).filter(|it| !it.is_zero());
        let on = fields.said("retryOn", findings);
        let mut keys = vec![("max".to_owned(), Out::plain(attempts.clamp(1, 10)))];
        if let Some(on) = on {
            let mut when: Vec<Out> = Vec::new();
            let mut add = |words: &[&str]| {
                for word in words.iter().map(Out::plain) {
                    if !when.contains(&word) {
                        when.push(word);
                    }
                }
            };
            for word in on.text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
                match word {
                    "5xx" => add(&["5xx", "connect_error", "reset", "refused_stream", "response_timeout"]),
                    "gateway-error" => add(&["502-504", "response_timeout"]),
                    "reset" | "reset-before-request" => add(&["reset"]),
                    "connect-failure" => add(&["connect_error"]),
                    "refused-stream" => add(&["refused_stream"]),
                    "retriable-4xx" => add(&["409"]),
                    "retriable-status-codes" => add(&["503"]),
                    status if status.parse::<u16>().is_ok_and(|it| (400..600).contains(&it)) => {
                        add(&[status.trim_start_matches('+')]);
                    }
                    other => findings.left_out(
                        on.at,
                        format!("{} is no reason to send something again here", quoted(other)),
                        "see `retry.when`; of gRPC it is `refused_stream`, `connect_error` and `reset`",
                    ),
                }
            }
            if !when.is_empty() {
                keys.push(("when".into(), Out::List(when)));
            }
        }
        if let Some(backoff) = fields.duration("backoff", findings).filter(|it| !it.is_zero()) {
            let most = show_duration(backoff.saturating_mul(10));
            keys.push(("backoff".into(), Out::plain(format!("{}..{most}", show_duration(backoff)))));
        }
        fields.pass(&["retryRemoteLocalities"]);
        if let Some(same) = fields.said("retryIgnorePreviousHosts", findings)
            && same.text == "false"
        {
            keys.push(("different_endpoint".into(), Out::plain(false)));
        }
        fields.finish(findings);
        if attempts == 0 {
            return (None, per_try);
        }
        if attempts > 10 {
            findings.changed(at, format!("{attempts} attempts: at most 10 are made here"), "");
        }
        findings.changed(
            at,
            "methods that are not idempotent, such as POST, are sent again only if nothing of them has arrived; where they came from any method was",
            "write `keyed: true` if the upstream remembers `Idempotency-Key`s",
        );
        (Some(("retry".into(), Out::Map(keys))), per_try)
    }

    /// `None`: nothing that can be said.
    fn redirect(&mut self, mut fields: Fields<'_, '_>) -> Option<(Keys, Option<PathChange>)> {
        let (at, findings) = (fields.span, &mut *self.findings);
        let mut keys = Keys::new();
        let scheme = fields.text("scheme", findings).filter(|it| it == "http" || it == "https");
        let authority =
            fields.said("authority", findings).and_then(|it| action::valid::<Authority>(&it, findings));
        let port = fields.number("port", findings).filter(|it| (1..=65_535).contains(it));
        let uri = fields.said("uri", findings);
        let code = fields.said("redirectCode", findings);
        fields.leave("derivePort", "a port is not derived from the request's", "write `port:`", findings);
        fields.finish(findings);
        keys.extend(scheme.map(|it| ("scheme".to_owned(), Out::text(it))));
        match (&code, code.as_ref().map(|it| it.text.as_str())) {
            (None, _) => keys.push(("status".into(), Out::plain(301))),
            (_, Some(code @ ("301" | "302" | "303" | "307" | "308"))) => {
                keys.push(("status".into(), Out::plain(code)));
            }
            (Some(code), _) => {
                findings.error(
                    code.at,
                    format!("{} is no status of a redirect", quoted(&code.text)),
                    "write 301, 302, 303, 307 or 308",
                );
                keys.push(("status".into(), Out::plain(302)));
            }
        }
        match (authority, port) {
            (Some(host), Some(port)) => keys.push(("host".into(), Out::text(format!("{host}:{port}")))),
            (Some(host), None) => keys.push(("host".into(), Out::text(host))),
            (None, Some(port)) => keys.push(("port".into(), Out::plain(port))),
            (None, None) => {}
        }
        let change = uri.and_then(|uri| {
            if uri.text.contains('%') {
                findings.left_out(
                    uri.at,
                    format!(
                        "{} has a format of Envoy in it (`%…%`): the path stays as it is",
                        quoted(&uri.text)
                    ),
                    "write `redirect: {path: …}` with captures",
                );
                return None;
            }
            action::path(&uri, findings).map(PathChange::Whole)
        });
        if keys.len() == 1 && change.is_none() {
            findings.error(at, "a redirect to the same URL: it is left out", "say what changes");
            return None;
        }
        Some((keys, change))
    }

    fn fault(
        &mut self,
        fields: &mut Fields<'_, '_>,
        header: Option<(String, Option<String>)>,
    ) -> Option<(String, Out)> {
        let mut fields = fields.map("fault", self.findings)?;
        let (at, findings) = (fields.span, &mut *self.findings);
        let mut keys = Keys::new();
        if let Some(mut delay) = fields.map("delay", findings) {
            let percent = share(&mut delay, findings);
            let time = delay.duration("fixedDelay", findings);
            delay.leave("exponentialDelay", "a delay is fixed", "write `fixedDelay:`", findings);
            delay.finish(findings);
            if let (Some(percent), Some(time)) = (percent, time.filter(|it| !it.is_zero())) {
                let delay = [
                    ("percent", Out::plain(format!("{percent}%"))),
                    ("time", Out::plain(show_duration(time))),
                ];
                keys.push(("delay".into(), Out::map(delay)));
            }
        }
        if let Some(mut abort) = fields.map("abort", findings) {
            let percent = share(&mut abort, findings);
            let status = abort.number("httpStatus", findings);
            for key in ["grpcStatus", "http2Error"] {
                abort.leave(
                    key,
                    "an abort has a status of HTTP; to gRPC it is said as gRPC has it",
                    "write `httpStatus:`",
                    findings,
                );
            }
            abort.finish(findings);
            if let (Some(percent), Some(status)) = (percent, status.filter(|it| (400..600).contains(it))) {
                let abort = [("percent", Out::plain(format!("{percent}%"))), ("status", Out::plain(status))];
                keys.insert(0, ("abort".into(), Out::map(abort)));
            }
        }
        fields.finish(findings);
        if keys.is_empty() {
            return None;
        }
        let Some((name, value)) = header else {
            findings.left_out(at, "faults are played only to those who ask for them by a header, and this rule does not match by one (alone)", "let the rule match a header, as `chaos-test: {exact: enabled}`");
            return None;
        };
        let Some(until) = &self.world.options.faults_until else {
            findings.left_out(
                at,
                "faults have an end here, and this one has none",
                "import again with `--faults-until 2026-12-31`",
            );
            return None;
        };
        let mut written: Keys = vec![("header".into(), Out::text(name))];
        written.extend(value.map(|value| ("value".to_owned(), Out::text(value))));
        written.push(("until".into(), Out::text(until)));
        written.extend(keys);
        written.push(("in_production".into(), Out::plain(true)));
        Some(("fault".into(), Out::Map(written)))
    }

    /// Whose copies they are, how many, and where that is said.
    fn mirror(&mut self, fields: &mut Fields<'_, '_>) -> Option<(String, u8, Span)> {
        let mut percent = 100;
        let mut is_off = false;
        for key in ["mirrorPercentage", "mirror_percent", "mirrorPercent"] {
            let said = match fields.take(key) {
                Some(Node { value: Value::Map(_), .. }) => {
                    let mut inner = fields.map(key, self.findings)?;
                    let value = inner.said("value", self.findings);
                    inner.finish(self.findings);
                    value
                }
                Some(_) => fields.said(key, self.findings),
                None => None,
            };
            if let Some(said) = said {
                let share = action::percent(&said, self.findings);
                is_off = share.is_none();
                percent = share.unwrap_or(percent);
            }
        }
        let mut at = fields.at("mirror");
        let mut target = fields.map("mirror", self.findings);
        let mirrors = fields.maps("mirrors", self.findings);
        for (index, mut mirror) in mirrors.into_iter().enumerate() {
            let inner = mirror.map("destination", self.findings);
            if let Some(mut inner) = mirror.map("percentage", self.findings) {
                if let Some(said) = inner.said("value", self.findings) {
                    percent = action::percent(&said, self.findings).unwrap_or(percent);
                }
                inner.finish(self.findings);
            }
            if index > 0 || target.is_some() {
                self.findings.left_out(
                    mirror.span,
                    "a route has one mirror",
                    "write one that copies for the others",
                );
                continue;
            }
            (at, target) = (mirror.span, inner);
            mirror.finish(self.findings);
        }
        let service = self.service(target?)?;
        if is_off {
            return None;
        }
        Some((self.world.services.name(&service), percent, at))
    }
}

/// `percentage: {value: 5}`, or the older `percent: 5`; all, if nothing is said.
fn share(fields: &mut Fields<'_, '_>, findings: &mut Findings) -> Option<u8> {
    if let Some(mut percentage) = fields.map("percentage", findings) {
        let said = percentage.said("value", findings);
        percentage.finish(findings);
        return action::percent(&said?, findings);
    }
    match fields.said("percent", findings) {
        Some(said) => action::percent(&said, findings),
        None => Some(100),
    }
}

/// The one header by which a match goes.
fn one_header(matches: &Match) -> Option<(String, Option<String>)> {
    let mut headers = matches.headers.iter();
    let (name, wanted) = headers.next()?;
    let value = match wanted {
        Wanted::Exactly(text) => Some(text.to_string()),
        Wanted::Present => None,
    };
    headers.next().is_none().then(|| (name.to_string(), value))
}

fn edit(mut fields: Fields<'_, '_>, findings: &mut Findings) -> (Edit, Edit) {
    let mut side = |key: &str| {
        let Some(mut fields) = fields.map(key, findings) else { return Edit::default() };
        let edit = Edit {
            set: fields.pairs("set", findings),
            add: fields.pairs("add", findings),
            remove: fields.texts("remove", findings),
        };
        fields.finish(findings);
        edit
    };
    let both = (side("request"), side("response"));
    fields.finish(findings);
    both
}

fn respond(mut fields: Fields<'_, '_>, findings: &mut Findings) -> Out {
    let status = fields.number("status", findings).filter(|it| (200..600).contains(it)).unwrap_or(200);
    let mut keys: Keys = vec![("status".into(), Out::plain(status))];
    if let Some(mut body) = fields.map("body", findings) {
        keys.extend(body.text("string", findings).map(|it| ("body".to_owned(), Out::text(it))));
        body.leave("bytes", "a body is text", "write `string:`", findings);
        body.finish(findings);
    }
    fields.finish(findings);
    Out::Map(keys)
}

fn cors_of(mut fields: Fields<'_, '_>, findings: &mut Findings) -> Cors {
    let mut cors = Cors { origins: fields.texts("allowOrigin", findings), ..Cors::default() };
    for mut origin in fields.maps("allowOrigins", findings) {
        cors.origins.extend(origin.said("exact", findings));
        for key in ["prefix", "regex"] {
            origin.leave(
                key,
                "an origin is named whole, or by `https://*.shop.example`",
                "write the origins that are meant",
                findings,
            );
        }
        origin.finish(findings);
    }
    cors.methods = fields.texts("allowMethods", findings);
    cors.headers = fields.texts("allowHeaders", findings);
    cors.expose = fields.texts("exposeHeaders", findings);
    cors.max_age = fields.duration("maxAge", findings);
    cors.has_credentials = fields.is_true("allowCredentials", findings);
    fields.leave(
        "unmatchedPreflights",
        "a preflight of another origin is answered here, and says nothing",
        "",
        findings,
    );
    fields.finish(findings);
    cors
}
