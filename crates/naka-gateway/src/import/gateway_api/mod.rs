//! From the Gateway API of Kubernetes: `Gateway`, `HTTPRoute`, `GRPCRoute`.
//!
//! 1. A listener of a `Gateway` is a port and perhaps a host. Those of one port are one listener here; a request is of the most
//!    specific one that has its host, and no other one gets what its routes leave.
//! 2. A route is bound to listeners by `parentRefs`, as far as they allow it, with the hosts that both have.
//! 3. Matches are ordered as the API says, over all routes of a host: whole paths first, then longer prefixes, then those with
//!    a method, more headers, more query parameters; then older routes, then by name.
//! 4. Where a backend cannot be, its share of the requests is not sent anywhere.

mod listeners;
mod routes;

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Configuration,
    hosts::Pattern,
    listeners::Listener,
    out::{Block, Out},
    report::Findings,
    resources::Resource,
    routes::{Action, Candidate, Rule, Site},
    services::{Endpoints, Host, Service, Services, Settings},
};
use crate::config::quoted;
use listeners::{GatewayListener, gateway};
use routes::{Order, Route, route};

/// The group of the API.
pub(super) const GROUP: &str = "gateway.networking.k8s.io";
/// Stands for a backend that cannot be.
const NOBODY: &str = "no-backend";

/// What is known besides.
struct World {
    services: Services,
    known: BTreeMap<Host, Vec<(u16, String)>>,
    grants: Vec<Grant>,
    h2: BTreeSet<Service>,
}

struct Grant {
    namespace: String,
    from: Vec<(String, String)>,
    to: Vec<(String, Option<String>)>,
}

pub(super) fn import(
    resources: &[Resource<'_, '_>],
    endpoints: &Endpoints<'_, '_>,
    findings: &mut Findings,
) -> Configuration {
    let mut world = World {
        services: Services::default(),
        known: BTreeMap::new(),
        grants: Vec::new(),
        h2: BTreeSet::new(),
    };
    for resource in resources.iter().filter(|it| it.is("", "Service")) {
        let mut spec = resource.spec(findings);
        let mut ports = Vec::new();
        for mut port in spec.maps("ports", findings) {
            let number = port.number("port", findings).and_then(|it| u16::try_from(it).ok());
            let protocol = port.text("appProtocol", findings).unwrap_or_default();
            ports.extend(number.map(|number| (number, protocol)));
        }
        let host =
            Host::Cluster { name: resource.name.to_ascii_lowercase(), namespace: resource.namespace.clone() };
        world.known.insert(host, ports);
    }
    let of = |kind: &'static str| resources.iter().filter(move |it| it.is(GROUP, kind));
    world.grants = of("ReferenceGrant").map(|it| grant(it, findings)).collect();
    let (mut listeners, mut bound) = (Vec::new(), Vec::new());
    for resource in of("Gateway") {
        gateway(resource, &mut listeners, &mut bound, findings);
    }
    let mut read = Vec::new();
    for resource in resources.iter().filter(|it| it.group == GROUP) {
        match resource.kind.as_str() {
            "HTTPRoute" | "GRPCRoute" => read.push(route(resource, read.len(), &mut world, findings)),
            _ => {}
        }
    }
    others(resources, findings);

    let mut sites: Vec<Site> =
        listeners.iter().map(|it| Site { listener: it.name.clone(), ..Site::default() }).collect();
    let mut rules = Vec::new();
    let mut found: BTreeMap<(usize, Pattern), Vec<(Order, Candidate)>> = BTreeMap::new();
    for route in &read {
        bind(route, &bound, &mut listeners, &mut rules, &mut found, findings);
    }
    for ((site, host), mut candidates) in found {
        candidates.sort_by(|(a, _), (b, _)| a.cmp(b));
        sites[site].hosts.insert(host, candidates.into_iter().map(|(_, it)| it).collect());
    }
    // What no route of a listener takes is for no other one.
    for listener in &bound {
        sites[listener.site].closed.insert(listener.host.clone());
        sites[listener.site].hosts.entry(listener.host.clone()).or_default();
    }
    let entries = super::routes::routes(&sites, &mut rules, findings);
    let World { services, known, h2, .. } = world;
    let upstreams = services.written(endpoints, findings, |service, _| {
        let mut settings = Settings::default();
        let protocol =
            known.get(&service.host).and_then(|ports| ports.iter().find(|(port, _)| *port == service.port));
        let protocol = protocol.map(|(_, protocol)| protocol.as_str()).unwrap_or_default();
        settings.is_h2 = h2.contains(service) || matches!(protocol, "kubernetes.io/h2c" | "grpc" | "http2");
        if matches!(protocol, "https" | "HTTPS") {
            settings.keys.insert("tls", vec![("sni".into(), Out::text(service.host.dns()))]);
        }
        if service.host == Host::Other(NOBODY.into()) {
            settings.endpoints = Some(Out::map([("file", Out::text(format!("endpoints/{NOBODY}.yaml")))]));
        }
        settings
    });
    let blocks = vec![Block { name: "upstreams", entries: upstreams }, Block { name: "routes", entries }];
    Configuration { listeners, blocks }
}

fn others(resources: &[Resource<'_, '_>], findings: &mut Findings) {
    for resource in resources {
        findings.of(&resource.title());
        let (why, help) = match (resource.group.as_str(), resource.kind.as_str()) {
            (GROUP, "Gateway" | "HTTPRoute" | "GRPCRoute" | "ReferenceGrant" | "GatewayClass")
            | ("", "Service") => continue,
            (GROUP, "TLSRoute" | "TCPRoute" | "UDPRoute") => (
                "only HTTP is routed: connections that it cannot look into are not",
                "a balancer of connections in front can do that",
            ),
            (GROUP, "BackendTLSPolicy") => (
                "who the endpoints have to be is said in the upstream",
                "write `tls: {sni: …, ca: …}` into it",
            ),
            (group, _) if group.ends_with("istio.io") => {
                ("this is of Istio", "import it with `naka import istio`")
            }
            _ => ("it is none of the Gateway API's that is carried over", ""),
        };
        findings.left_out(resource.at, why, help);
    }
}

fn grant(resource: &Resource<'_, '_>, findings: &mut Findings) -> Grant {
    let mut spec = resource.spec(findings);
    let mut from = Vec::new();
    for mut fields in spec.maps("from", findings) {
        let kind = fields.text("kind", findings).unwrap_or_default();
        let namespace = fields.text("namespace", findings).unwrap_or_default();
        fields.pass(&["group"]);
        fields.finish(findings);
        from.push((kind, namespace));
    }
    let mut to = Vec::new();
    for mut fields in spec.maps("to", findings) {
        let kind = fields.text("kind", findings).unwrap_or_default();
        let name = fields.text("name", findings);
        fields.pass(&["group"]);
        fields.finish(findings);
        to.push((kind, name));
    }
    spec.finish(findings);
    Grant { namespace: resource.namespace.clone(), from, to }
}

/// Binds a route to all listeners that have it.
fn bind(
    route: &Route,
    bound: &[GatewayListener],
    listeners: &mut [Listener],
    rules: &mut Vec<Rule>,
    found: &mut BTreeMap<(usize, Pattern), Vec<(Order, Candidate)>>,
    findings: &mut Findings,
) {
    findings.of(&route.title);
    let hosts: Vec<_> = route
        .hosts
        .iter()
        .filter_map(|said| {
            let pattern = Pattern::read(&said.text);
            if pattern.is_none() {
                findings.error(
                    said.at,
                    format!("{} is no host", quoted(&said.text)),
                    "write `api.example` or `*.example`",
                );
            }
            pattern
        })
        .collect();
    let hosts = if route.hosts.is_empty() { vec![Pattern::Any] } else { hosts };
    // Rules of this route that are there already, by the port that they lead to.
    let mut known: BTreeMap<(usize, usize, Option<u16>), usize> = BTreeMap::new();
    for parent in &route.parents {
        let mut is_bound = false;
        for listener in bound.iter().filter(|it| it.takes(route, parent)) {
            let common =
                hosts.iter().filter_map(|host| listener.host.intersection(host)).collect::<BTreeSet<_>>();
            // A request is of the most specific listener that has its host.
            let rivals = || bound.iter().filter(|it| it.site == listener.site);
            let common = common.into_iter().filter(|host| {
                let best = rivals().filter(|it| it.host.covers(host)).max_by_key(|it| it.host.specificity());
                best.is_none_or(|best| best.host == listener.host)
            });
            for host in common.collect::<Vec<_>>() {
                is_bound = true;
                listeners[listener.site].is_h2c |= route.kind == "GRPCRoute";
                let is_usual = listener.port == if listener.is_https { 443 } else { 80 };
                for (number, rule) in route.rules.iter().enumerate() {
                    let port = Some(listener.port).filter(|_| rule.takes_port && !is_usual);
                    for (place, (matches, order)) in rule.matches.iter().enumerate() {
                        let action = &rule.actions[place];
                        let same = rule.actions.iter().position(|it| it == action).unwrap_or(place);
                        let rule = *known.entry((number, same, port)).or_insert_with(|| {
                            rules.push(Rule {
                                name: rule.name.clone(),
                                remark: format!("{}, {}", route.title, findings.line(rule.at)),
                                resource: route.title.clone(),
                                at: rule.at,
                                action: with_port(action.clone(), port),
                                is_ours: false,
                            });
                            rules.len() - 1
                        });
                        let candidate = Candidate::of(rule, matches.clone());
                        let there = found.entry((listener.site, host.clone())).or_default();
                        if !there.iter().any(|(_, it)| *it == candidate) {
                            there.push((order.clone(), candidate));
                        }
                    }
                }
            }
        }
        if !is_bound {
            findings.error(parent.at, format!("no listener of the Gateway `{}` takes this route: its section, its port, its namespaces, its kinds or its hosts are others", parent.gateway), "import the Gateway as well, and look at its `listeners`");
        }
    }
    if route.parents.is_empty() {
        findings.error(route.at, "it says no `parentRefs`, so it is bound nowhere", "name the Gateway");
    }
}

/// To another host at the port of the listener.
fn with_port(mut action: Action, port: Option<u16>) -> Action {
    if let (Some(port), Some((keys, _))) = (port, &mut action.redirect) {
        for (key, value) in keys {
            if let ("host", Out::Text(host)) = (key.as_str(), value) {
                *host = format!("{host}:{port}");
            }
        }
    }
    action
}

impl World {
    fn is_granted(&self, route: &Resource<'_, '_>, namespace: &str, name: &str) -> bool {
        self.grants.iter().filter(|it| it.namespace == namespace).any(|grant| {
            grant.from.iter().any(|(kind, from)| *kind == route.kind && *from == route.namespace)
                && grant
                    .to
                    .iter()
                    .any(|(kind, to)| kind == "Service" && to.as_ref().is_none_or(|to| to == name))
        })
    }
}
