//! `AuthorizationPolicy`: who may.
//!
//! What of a rule cannot be said here **keeps out**: of a rule that lets somebody in, the whole rule is left out; of one that
//! keeps somebody out, the condition, so that it keeps out more. Both are errors in the report.
//!
//! 1. A request is refused if a rule of DENY matches; else it is let in if there is no policy with ALLOW, or a rule of one
//!    matches.
//! 2. Paths are matched by routes and not by rules, so a route is cut into pieces: one for each path that a policy names.
//! 3. Who calls is known by the certificate it shows (`client_ca`). Behind an ingress gateway the caller was that gateway: so
//!    where naka takes its place, its account is what counts, and is said by `--identity`.

use ipnet::IpNet;

use super::rule::Test;
use crate::{
    config::{Span, quoted},
    import::{
        action,
        fields::{Fields, Said},
        order::{End, Path, Segment},
        out::Out,
        report::Findings,
        resources::{Resource, labels_of},
    },
};

/// Whom a policy is for.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) namespace: String,
    /// All of the namespace, if there are none.
    pub(super) labels: Vec<(String, String)>,
    /// Services by name, in place of labels.
    pub(super) services: Vec<String>,
    pub(super) gateways: Vec<String>,
}

impl Target {
    pub(super) fn read(
        resource: &Resource<'_, '_>,
        fields: &mut Fields<'_, '_>,
        findings: &mut Findings,
    ) -> Self {
        let labels = match fields.map("selector", findings) {
            Some(mut selector) => {
                let labels = labels_of(&mut selector, "matchLabels", findings);
                selector.finish(findings);
                labels
            }
            None => Vec::new(),
        };
        let (mut services, mut gateways) = (Vec::new(), Vec::new());
        let mut refs = fields.maps("targetRefs", findings);
        refs.extend(fields.map("targetRef", findings));
        for mut reference in refs {
            let kind = reference.text("kind", findings).unwrap_or_default();
            let name = reference.said("name", findings);
            reference.pass(&["group", "namespace"]);
            reference.finish(findings);
            match (kind.as_str(), name) {
                ("Service", Some(name)) => services.push(name.text),
                ("Gateway", Some(name)) => gateways.push(name.text),
                (_, Some(name)) => {
                    findings.error(
                        name.at,
                        format!("a policy for a {kind} is not carried over"),
                        "let it be for a Service, a Gateway or labels",
                    );
                    services.push(String::new()); // So that it is for nobody, and not for all.
                }
                _ => {}
            }
        }
        Self { namespace: resource.namespace.clone(), labels, services, gateways }
    }

    pub(super) fn is_wide(&self) -> bool {
        self.labels.is_empty() && self.services.is_empty() && self.gateways.is_empty()
    }
}

/// One `AuthorizationPolicy`.
pub(super) struct Policy {
    pub(super) title: String,
    pub(super) at: Span,
    pub(super) target: Target,
    pub(super) denies: bool,
    pub(super) test: Test,
}

/// All paths that policies name.
pub(super) type Paths = Vec<Path>;

impl Policy {
    pub(super) fn read(
        resource: &Resource<'_, '_>,
        paths: &mut Paths,
        issuers: &[String],
        findings: &mut Findings,
    ) -> Option<Self> {
        let mut spec = resource.spec(findings);
        let target = Target::read(resource, &mut spec, findings);
        let action = spec.said("action", findings);
        let denies = match action.as_ref().map(|it| it.text.as_str()) {
            None | Some("ALLOW") => false,
            Some("DENY") => true,
            Some(other) => {
                let at = spec.at("action");
                let help = if other == "CUSTOM" {
                    "write a `forward_auth` policy, and use it on the routes"
                } else {
                    "the log of requests says who was let in"
                };
                findings.left_out(at, format!("the action `{other}` is left out, with its rules"), help);
                spec.pass(&["rules", "provider"]);
                spec.finish(findings);
                return None;
            }
        };
        let rules = spec.maps("rules", findings);
        let is_empty = rules.is_empty();
        let mut reader = Reader { denies, is_negative: false, paths, issuers, findings };
        let tests = rules.into_iter().map(|rule| reader.rule(rule)).collect();
        spec.finish(findings);
        if is_empty && !denies {
            findings.note(resource.at, "no rule at all lets nobody in", "");
        }
        Some(Self { title: resource.title(), at: resource.at, target, denies, test: Test::Any(tests) })
    }
}

struct Reader<'r, 'f> {
    denies: bool,
    /// It reads what must not be so.
    is_negative: bool,
    paths: &'r mut Paths,
    issuers: &'r [String],
    findings: &'f mut Findings,
}

impl Reader<'_, '_> {
    fn rule(&mut self, mut fields: Fields<'_, '_>) -> Test {
        let mut all = Vec::new();
        for (key, inner, read) in [
            ("from", "source", Self::source as fn(&mut Self, Fields<'_, '_>) -> Test),
            ("to", "operation", Self::operation),
        ] {
            let items = fields.maps(key, self.findings);
            let mut any = Vec::new();
            for mut item in items {
                if let Some(one) = item.map(inner, self.findings) {
                    any.push(read(self, one));
                }
                item.finish(self.findings);
            }
            if !any.is_empty() {
                all.push(Test::Any(any));
            }
        }
        for condition in fields.maps("when", self.findings) {
            all.push(self.when(condition));
        }
        fields.finish(self.findings);
        Test::All(all)
    }

    fn unsaid(&mut self, at: Span, what: &str, help: &str) -> Test {
        let message = if self.denies {
            format!("{what}: without this condition, its rule keeps out more than it did")
        } else {
            format!("{what}: its rule lets nobody in")
        };
        self.findings.error(at, message, help);
        Test::Unsaid
    }

    /// One of these, and none of those.
    fn of(
        &mut self,
        fields: &mut Fields<'_, '_>,
        (key, not): (&str, &str),
        one: fn(&mut Self, &Said) -> Test,
        all: &mut Vec<Test>,
    ) {
        let positive = fields.texts(key, self.findings);
        if !positive.is_empty() {
            all.push(Test::Any(positive.iter().map(|said| one(self, said)).collect()));
        }
        let negative = fields.texts(not, self.findings);
        if !negative.is_empty() {
            self.is_negative = true;
            let any = Test::Any(negative.iter().map(|said| one(self, said)).collect());
            self.is_negative = false;
            all.push(Test::Not(Box::new(any)));
        }
    }

    fn source(&mut self, mut fields: Fields<'_, '_>) -> Test {
        let mut all = Vec::new();
        self.of(
            &mut fields,
            ("principals", "notPrincipals"),
            |_, said| Test::Principal(said.text.clone()),
            &mut all,
        );
        self.of(&mut fields, ("namespaces", "notNamespaces"), Self::namespace, &mut all);
        self.of(&mut fields, ("requestPrincipals", "notRequestPrincipals"), Self::token, &mut all);
        self.of(&mut fields, ("ipBlocks", "notIpBlocks"), Self::network, &mut all);
        self.of(&mut fields, ("remoteIpBlocks", "notRemoteIpBlocks"), Self::network, &mut all);
        self.of(&mut fields, ("serviceAccounts", "notServiceAccounts"), Self::account, &mut all);
        fields.finish(self.findings);
        Test::All(all)
    }

    fn operation(&mut self, mut fields: Fields<'_, '_>) -> Test {
        let mut all = Vec::new();
        self.of(&mut fields, ("methods", "notMethods"), Self::method, &mut all);
        self.of(&mut fields, ("paths", "notPaths"), Self::path, &mut all);
        self.of(
            &mut fields,
            ("hosts", "notHosts"),
            |it, said| {
                it.unsaid(
                    said.at,
                    "hosts are matched by routes, and not by rules",
                    "write the rule on the routes of that host",
                )
            },
            &mut all,
        );
        self.of(
            &mut fields,
            ("ports", "notPorts"),
            |it, said| {
                it.unsaid(
                    said.at,
                    "ports are told apart by listeners, and not by rules",
                    "write the rule on the listener with that port",
                )
            },
            &mut all,
        );
        fields.finish(self.findings);
        Test::All(all)
    }

    fn when(&mut self, mut fields: Fields<'_, '_>) -> Test {
        let key = fields.said("key", self.findings);
        let mut all = Vec::new();
        let name = key.as_ref().map(|it| it.text.clone()).unwrap_or_default();
        let inside =
            |prefix: &str| name.strip_prefix(prefix).and_then(|it| it.strip_suffix(']')).map(str::to_owned);
        match name.as_str() {
            "source.ip" | "remote.ip" => {
                self.of(&mut fields, ("values", "notValues"), Self::network, &mut all);
            }
            "source.principal" => self.of(
                &mut fields,
                ("values", "notValues"),
                |_, said| Test::Principal(said.text.clone()),
                &mut all,
            ),
            "source.namespace" => self.of(&mut fields, ("values", "notValues"), Self::namespace, &mut all),
            "request.auth.principal" => self.of(&mut fields, ("values", "notValues"), Self::token, &mut all),
            "request.auth.audiences" => self.claims("aud", &mut fields, &mut all),
            _ => {
                if let Some(claim) = inside("request.auth.claims[") {
                    self.claims(&claim.replace("][", "."), &mut fields, &mut all);
                } else {
                    let at = key.as_ref().map_or(fields.span, |it| it.at);
                    all.push(self.unsaid(
                        at,
                        &format!("{} is no condition of rules here", quoted(&name)),
                        "headers are matched by routes: write one with that header, and its own `authorize:`",
                    ));
                    fields.pass(&["values", "notValues"]);
                }
            }
        }
        fields.finish(self.findings);
        Test::All(all)
    }

    fn claims(&mut self, claim: &str, fields: &mut Fields<'_, '_>, all: &mut Vec<Test>) {
        for (key, is_not) in [("values", false), ("notValues", true)] {
            let values = fields.texts(key, self.findings);
            if values.is_empty() {
                continue;
            }
            let has_star = values.iter().find(|it| it.text.contains('*'));
            let test = match has_star {
                Some(said) => {
                    self.unsaid(said.at, "a claim is compared as a whole", "write each value that is meant")
                }
                None => Test::Token(claim_is(claim, values.iter().map(|it| it.text.clone()).collect())),
            };
            all.push(if is_not { Test::Not(Box::new(test)) } else { test });
        }
    }

    fn namespace(&mut self, said: &Said) -> Test {
        self.unsaid(
            said.at,
            &format!("the namespace {}: whoever calls is known by a whole name", quoted(&said.text)),
            "name its accounts: `principals: [\"cluster.local/ns/shop/sa/cart\"]`",
        )
    }

    fn account(&mut self, said: &Said) -> Test {
        self.unsaid(
            said.at,
            "accounts by their short name: whoever calls is known by a whole one",
            "write `principals: [\"cluster.local/ns/shop/sa/cart\"]`",
        )
    }

    fn network(&mut self, said: &Said) -> Test {
        let network = said
            .text
            .parse::<IpNet>()
            .ok()
            .or_else(|| said.text.parse::<std::net::IpAddr>().ok().map(IpNet::from));
        match network {
            Some(network) => Test::Is(Out::map([("cidr", Out::texts([network.to_string()]))])),
            None => {
                self.unsaid(said.at, &format!("{} is no network", quoted(&said.text)), "write `10.0.0.0/8`")
            }
        }
    }

    fn method(&mut self, said: &Said) -> Test {
        match said.text.as_str() {
            "*" => Test::Yes,
            text if !text.contains('*') && action::is_method(text) => {
                Test::Is(Out::map([("method", Out::texts([text]))]))
            }
            _ => self.unsaid(said.at, &format!("{} is no method", quoted(&said.text)), "write each of them"),
        }
    }

    /// `issuer/subject`, `issuer/*` or `*`.
    fn token(&mut self, said: &Said) -> Test {
        let (issuer, subject) = said.text.rsplit_once('/').unwrap_or(("", &said.text));
        match (issuer, subject) {
            ("", "*") if !self.issuers.is_empty() => Test::Token(claim_is("iss", self.issuers.to_vec())),
            ("", "*") => Test::No,
            (issuer, subject) if issuer.contains('*') || subject.contains('*') && subject != "*" => self
                .unsaid(
                    said.at,
                    "a token is known by its whole issuer, and its whole subject or any",
                    "write `https://id.example/*` or `https://id.example/asha`",
                ),
            ("", _) => self.unsaid(
                said.at,
                "a token is known by its issuer and its subject",
                "write `issuer/subject`",
            ),
            (issuer, "*") => Test::Token(claim_is("iss", vec![issuer.into()])),
            (issuer, subject) => Test::Token(Out::map([(
                "all",
                Out::List(vec![claim_is("iss", vec![issuer.into()]), claim_is("sub", vec![subject.into()])]),
            )])),
        }
    }

    fn path(&mut self, said: &Said) -> Test {
        let text = said.text.as_str();
        let inner = text.strip_suffix('*').unwrap_or(text);
        let path = if text == "*" || text == "/*" {
            return Test::Yes;
        } else if text.contains('{') {
            template(text)
        } else if inner.contains('*') {
            None
        } else if inner.len() == text.len() {
            Path::read(text, End::Whole).ok()
        } else if inner.ends_with('/') {
            Path::read(inner, End::Rest).ok()
        } else if self.denies != self.is_negative {
            // What is below it is less than what begins so: whoever is kept out by that would be let in.
            return self.unsaid(
                said.at,
                &format!("the path {} keeps out `{inner}x` too, and that cannot be said", quoted(text)),
                "write `/admin` and `/admin/*`, and each other path that is meant",
            );
        } else {
            let path = Path::read(inner, End::Prefix).ok();
            if path.is_some() {
                self.findings.changed(
                    said.at,
                    format!("the path `{text}` is `{inner}` and what is below it, and not `{inner}x`"),
                    "write the other paths as well, if they are meant",
                );
            }
            path
        };
        let Some(path) = path else {
            return self.unsaid(
                said.at,
                &format!("the path {} cannot be said", quoted(text)),
                "write whole paths, `/api/*`, or `/api/orders/{*}/status`",
            );
        };
        let known = self.paths.iter().position(|it| *it == path);
        Test::Path(known.unwrap_or_else(|| {
            self.paths.push(path);
            self.paths.len() - 1
        }))
    }
}

fn claim_is(claim: &str, values: Vec<String>) -> Out {
    let values = match values.as_slice() {
        [one] => Out::text(one),
        _ => Out::texts(values),
    };
    Out::map([("claim", Out::map([(claim, values)]))])
}

/// `{*}` is one segment, `{**}` at the end all that follow.
fn template(text: &str) -> Option<Path> {
    let mut segments = Vec::new();
    let mut parts = text.strip_prefix('/')?.split('/').peekable();
    while let Some(part) = parts.next() {
        match part {
            "{*}" => segments.push(Segment::Any),
            "{**}" if parts.peek().is_none() => return Some(Path::Segments(segments, End::Rest)),
            part if part.contains(['{', '}', '*']) => return None,
            part => match Path::read(&format!("/{part}"), End::Whole).ok()? {
                Path::Segments(mut one, _) => segments.append(&mut one),
                Path::Demoted(..) | Path::Regex(_) => return None,
            },
        }
    }
    Some(Path::Segments(segments, End::Whole))
}

impl Policy {
    /// Whether it asks for what a token says.
    pub(super) fn asks_for_token(&self) -> bool {
        fn asks(test: &Test) -> bool {
            match test {
                Test::Token(_) => true,
                Test::All(tests) | Test::Any(tests) => tests.iter().any(asks),
                Test::Not(test) => asks(test),
                _ => false,
            }
        }
        asks(&self.test)
    }

    /// Whether it asks who calls.
    pub(super) fn asks_caller(&self) -> bool {
        fn asks(test: &Test) -> bool {
            match test {
                Test::Principal(_) => true,
                Test::All(tests) | Test::Any(tests) => tests.iter().any(asks),
                Test::Not(test) => asks(test),
                _ => false,
            }
        }
        asks(&self.test)
    }
}
