//! From Istio's resources: what requests, services and rules say.
//!
//! Requests that came in through a `Gateway` come in through a listener for each of its ports. What workloads asked of one
//! another (`mesh`) goes through a listener of its own, at which they have to call: [`MESH`].

mod authentication;
mod conditions;
mod destination_rule;
mod gateway;
mod policies;
mod rule;
mod virtual_service;

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Configuration, Options,
    hosts::Pattern,
    listeners::{Listener, Tls},
    order::{Match, Path},
    out::{Block, Entry, Keys, Out},
    report::Findings,
    resources::{Resource, labels_of},
    routes::{Action, Candidate, Rule, Site, routes},
    services::{Endpoints, Host, Service, Services, Settings, Total, name_of},
};
use crate::config::Span;
use authentication::{Peers, Tokens};
use destination_rule::DestinationRule;
use gateway::{Gateway, ServiceEntry};
use policies::{Policy, Target};
use rule::{Asked, Caller, pieces};
use virtual_service::VirtualService;

/// The listener for what workloads ask of one another.
const MESH: &str = "mesh";
/// Its port, and its port where callers show certificates.
const MESH_PORTS: (u16, u16) = (15_001, 15_443);
/// The namespace whose policies are for all others.
const ROOT: &str = "istio-system";

/// A service of the cluster, if it is among the files.
struct Known {
    ports: Vec<u16>,
    selector: Vec<(String, String)>,
}

/// What is known besides of who is asked.
pub(super) struct World<'a, 't> {
    options: &'a Options,
    services: Services,
    endpoints: &'a Endpoints<'a, 't>,
    destinations: Vec<DestinationRule>,
    entries: Vec<ServiceEntry>,
    known: BTreeMap<Host, Known>,
}

impl World<'_, '_> {
    fn has_subset(&self, host: &Host, subset: &str) -> bool {
        self.labels(host, subset).is_some()
    }

    fn labels(&self, host: &Host, subset: &str) -> Option<&[(String, String)]> {
        self.destinations.iter().filter(|it| it.is_for(host)).find_map(|it| it.labels(subset))
    }

    fn subsets(&self, host: &Host) -> Vec<&str> {
        self.destinations.iter().filter(|it| it.is_for(host)).flat_map(DestinationRule::subsets).collect()
    }

    fn is_known(&self, host: &Host) -> bool {
        self.known.contains_key(host) || self.entries.iter().any(|it| it.is_for(host))
    }

    /// The port of a destination that says none.
    fn port(&self, host: &Host, at: Span, findings: &mut Findings) -> u16 {
        if let Some(entry) = self.entries.iter().find(|it| it.is_for(host))
            && let Some((port, _)) = entry.ports.first()
        {
            return *port;
        }
        match self.known.get(host).map(|it| it.ports.as_slice()) {
            Some([port]) => *port,
            Some([_, _, ..]) => {
                findings.error(
                    at,
                    format!("`{}` has several ports, and which one is not said: 80 is taken", host.dns()),
                    "write `port: {number: …}`",
                );
                80
            }
            _ => {
                findings.changed(
                    at,
                    format!(
                        "which port of `{}` is not said, and its Service is not among the files: 80 is taken",
                        host.dns()
                    ),
                    "write `port: {number: …}`, or import its Service as well",
                );
                80
            }
        }
    }

    /// Labels that its endpoints have, as far as they are known.
    fn labels_of(&self, host: &Host, subset: Option<&str>) -> Vec<(String, String)> {
        let mut labels = match (self.known.get(host).filter(|it| !it.selector.is_empty()), host) {
            (Some(known), _) => known.selector.clone(),
            (None, Host::Cluster { name, .. }) => {
                ["app", "app.kubernetes.io/name", "k8s-app"].map(|key| (key.to_owned(), name.clone())).into()
            }
            (None, Host::Other(_)) => Vec::new(),
        };
        labels.extend(subset.and_then(|subset| self.labels(host, subset)).unwrap_or_default().to_vec());
        labels
    }

    fn settings(&self, service: &Service) -> Settings {
        let mut settings = Settings::default();
        let subset = service.subset.as_deref();
        settings.labels = subset.and_then(|subset| self.labels(&service.host, subset)).map(<[_]>::to_vec);
        let mine = || self.destinations.iter().filter(|it| it.is_for(&service.host));
        let rule = mine()
            .find(|it| subset.is_some_and(|subset| it.labels(subset).is_some()))
            .or_else(|| mine().next());
        if let Some(rule) = rule {
            let (keys, is_h2) = rule.settings(subset);
            settings.keys = keys.into_iter().collect();
            settings.is_h2 = is_h2;
        }
        if let Some(entry) = self.entries.iter().find(|it| it.is_for(&service.host)) {
            settings.endpoints = entry.endpoints();
            if entry.speaks_tls(service.port) {
                settings
                    .keys
                    .entry("tls")
                    .or_insert_with(|| vec![("sni".into(), Out::text(service.host.dns()))]);
            }
        }
        settings
    }
}

/// `namespace/name` of a gateway as it is said in `namespace`; `mesh` is itself.
fn full_name(text: &str, namespace: &str) -> String {
    if text == MESH || text.contains('/') { text.to_owned() } else { format!("{namespace}/{text}") }
}

/// Who may, of all that is said.
struct Guards<'p> {
    policies: &'p [Policy],
    tokens: &'p [Tokens],
    paths: &'p [Path],
}

/// All of it as a configuration.
pub(super) fn import<'a, 't>(
    resources: &'a [Resource<'a, 't>],
    options: &'a Options,
    endpoints: &'a Endpoints<'a, 't>,
    findings: &mut Findings,
) -> Configuration {
    let mut world = World {
        options,
        services: Services::default(),
        endpoints,
        destinations: Vec::new(),
        entries: Vec::new(),
        known: BTreeMap::new(),
    };
    let of = |kind: &'static str| {
        resources.iter().filter(move |it| it.kind == kind && it.group.ends_with("istio.io"))
    };
    for resource in resources.iter().filter(|it| it.is("", "Service")) {
        let (host, known) = service(resource, findings);
        world.known.insert(host, known);
    }
    world.destinations = of("DestinationRule").filter_map(|it| DestinationRule::read(it, findings)).collect();
    world.entries = of("ServiceEntry").map(|it| ServiceEntry::read(it, findings)).collect();
    let mut listeners = Vec::new();
    let gateways: Vec<_> = of("Gateway").map(|it| gateway::read(it, &mut listeners, findings)).collect();
    let mut tokens: Vec<_> = of("RequestAuthentication").map(|it| Tokens::read(it, findings)).collect();
    // The name of a policy is one of all namespaces.
    for place in 1..tokens.len() {
        if tokens[..place].iter().any(|it| it.name == tokens[place].name) {
            tokens[place].name = format!("{}-{}", tokens[place].target.namespace, tokens[place].name);
        }
    }
    let issuers: Vec<_> = tokens.iter().flat_map(|it| it.issuers.clone()).collect();
    let mut paths = Vec::new();
    let policies: Vec<_> =
        of("AuthorizationPolicy").filter_map(|it| Policy::read(it, &mut paths, &issuers, findings)).collect();
    let peers: Vec<_> = of("PeerAuthentication").map(|it| Peers::read(it, findings)).collect();
    let mut rules = Vec::new();
    let virtual_services: Vec<_> =
        of("VirtualService").map(|it| virtual_service::read(it, &mut world, &mut rules, findings)).collect();
    others(resources, findings);

    let is_mesh = virtual_services.iter().any(|it| it.gateways.iter().any(|it| it.text == MESH))
        || world.entries.iter().any(|it| it.is_external);
    if is_mesh {
        listeners.push(mesh(&peers, &virtual_services, &world.entries, findings));
    } else if let Some(peer) = peers.iter().find(|it| it.is_strict) {
        findings.of(&peer.title);
        findings.left_out(
            peer.at,
            "nothing is for callers inside of the mesh, so nobody is asked for a certificate of it",
            "let a VirtualService be for the gateway `mesh`, too",
        );
    }

    let guards = Guards { policies: &policies, tokens: &tokens, paths: &paths };
    let mut assembly =
        Assembly { world, rules, guards, used: BTreeSet::new(), told: BTreeSet::new(), findings };
    let mut sites: Vec<Site> =
        listeners.iter().map(|it| Site { listener: it.name.clone(), ..Site::default() }).collect();
    assembly.redirects(&gateways, &listeners, &mut sites);
    for virtual_service in &virtual_services {
        assembly.hosts(virtual_service, &gateways, &listeners, &mut sites);
    }
    assembly.egress(&mut sites);
    let Assembly { world, mut rules, used, told, .. } = assembly;
    let entries = routes(&sites, &mut rules, findings);
    for policy in policies.iter().filter(|it| !told.contains(&it.title)) {
        findings.of(&policy.title);
        findings.error(policy.at, "it is for no destination of a route: nothing of it is carried over", "is its `selector` that of a service that requests are sent to? Import its Service as well, which has the labels");
    }
    for tokens in tokens.iter().filter(|it| it.jwt.is_some() && !used.contains(&it.name)) {
        findings.of(&tokens.title);
        findings.error(tokens.at, "it is for no destination of a route: nothing of it is carried over", "is its `selector` that of a service that requests are sent to? Import its Service as well, which has the labels");
    }
    for rule in world.destinations.iter().filter(|it| !world.services.hosts().any(|host| it.is_for(host))) {
        findings.of(&rule.title);
        findings.note(rule.at, "no route leads to its service, so it says nothing here", "");
    }
    let jwt = tokens.iter().filter(|it| used.contains(&it.name)).filter_map(|it| {
        let keys = vec![("jwt".to_owned(), Out::Map(it.jwt.clone()?))];
        Some(Entry {
            name: name_of(&it.name),
            remark: format!("{}, {}", it.title, findings.line(it.at)),
            keys,
        })
    });
    let jwt = jwt.collect();
    let upstreams = world.services.written(world.endpoints, findings, |service, _| world.settings(service));
    Configuration {
        listeners,
        blocks: vec![
            Block { name: "policies", entries: jwt },
            Block { name: "upstreams", entries: upstreams },
            Block { name: "routes", entries },
        ],
    }
}

/// The ports and the selector of a service of the cluster.
fn service(resource: &Resource<'_, '_>, findings: &mut Findings) -> (Host, Known) {
    let mut spec = resource.spec(findings);
    let mut ports = Vec::new();
    for mut port in spec.maps("ports", findings) {
        ports.extend(port.number("port", findings).and_then(|it| u16::try_from(it).ok()));
    }
    let selector = labels_of(&mut spec, "selector", findings);
    let host =
        Host::Cluster { name: resource.name.to_ascii_lowercase(), namespace: resource.namespace.clone() };
    (host, Known { ports, selector })
}

/// What is left out as a whole.
fn others(resources: &[Resource<'_, '_>], findings: &mut Findings) {
    const CARRIED: [&str; 7] = [
        "VirtualService",
        "DestinationRule",
        "Gateway",
        "ServiceEntry",
        "AuthorizationPolicy",
        "PeerAuthentication",
        "RequestAuthentication",
    ];
    for resource in resources {
        findings.of(&resource.title());
        let is_istio = resource.group.ends_with("istio.io");
        let (why, help) = match resource.kind.as_str() {
            kind if is_istio && CARRIED.contains(&kind) => continue,
            "Service" if resource.group.is_empty() => continue,
            "EnvoyFilter" => (
                "what it does to the proxy it was written for, another one has not",
                "headers: `headers:` of a route; Lua: a policy of one's own",
            ),
            "WasmPlugin" => (
                "plugins of another proxy do not run here",
                "write a policy of one's own: docs/configuration.md",
            ),
            "Telemetry" => {
                ("what is told about requests stands in `gateway.telemetry`", "see docs/configuration.md")
            }
            "Sidecar" => ("there is no sidecar: what workloads may ask is what has a route", ""),
            "WorkloadEntry" | "WorkloadGroup" => {
                ("which workloads there are, its service does not say here", "import with `--endpoints FILE`")
            }
            "ProxyConfig" => ("it configures another proxy", ""),
            _ if is_istio => ("this kind is not carried over", ""),
            "HTTPRoute" | "GRPCRoute" | "Gateway" => {
                ("this is of the Gateway API", "import it with `naka import gateway-api`")
            }
            _ => ("it is none of Istio's, and says nothing about requests that is carried over", ""),
        };
        findings.left_out(resource.at, why, help);
    }
}

/// The listener for what workloads ask of one another.
fn mesh(
    peers: &[Peers],
    services: &[VirtualService],
    entries: &[ServiceEntry],
    findings: &mut Findings,
) -> Listener {
    let namespaces: BTreeSet<_> = services.iter().map(|it| it.namespace.as_str()).collect();
    let is_for = |peer: &&Peers| {
        peer.target.is_wide()
            && (peer.target.namespace == ROOT || namespaces.contains(peer.target.namespace.as_str()))
    };
    let strict = peers.iter().filter(is_for).find(|it| it.is_strict);
    for peer in peers.iter().filter(|it| it.is_strict && !it.target.is_wide()) {
        findings.of(&peer.title);
        findings.error(
            peer.at,
            "it is for some workloads alone; a listener asks all of its clients, or none",
            "let it be for the namespace",
        );
    }
    let port = if strict.is_some() { MESH_PORTS.1 } else { MESH_PORTS.0 };
    let listen = if strict.is_some() { format!(":{port}") } else { format!("127.0.0.1:{port}") };
    let mut listener = Listener::new(MESH.into(), listen.clone(), port);
    listener.remark = "what workloads ask of one another".into();
    if let Some(at) = services.iter().find(|it| it.gateways.iter().any(|it| it.text == MESH)) {
        findings.of(&at.title);
        findings.needs(at.at, format!("it is for callers inside of the mesh: they have to call `{listen}`, with the service as `Host`"), "set that address as the proxy of the workloads, or as the address of the services; write another one under `listeners: {mesh: …}`");
    } else if let Some(entry) = entries.first() {
        findings.of(&entry.title);
        findings.needs(
            entry.at,
            format!("callers inside of the mesh have to call `{listen}`, with the host as `Host`"),
            "write another address under `listeners: {mesh: …}`",
        );
    }
    if let Some(peer) = strict {
        findings.of(&peer.title);
        findings.needs(peer.at, "`tls/mesh.crt`, `tls/mesh.key` and the authority of callers, `tls/mesh-ca.crt`, have to be there, seen from the configuration", "put a certificate of the mesh there; who has none is turned away");
        listener.tls = Some(Tls {
            certificates: vec![("tls/mesh.crt".into(), "tls/mesh.key".into())],
            client_ca: Some("tls/mesh-ca.crt".into()),
            any_host: true, // Certificates of a mesh say who somebody is, and no host.
            ..Tls::default()
        });
    }
    listener
}

/// What is being put together.
struct Assembly<'p, 'a, 't, 'f> {
    world: World<'a, 't>,
    rules: Vec<Rule>,
    guards: Guards<'p>,
    /// Names of tokens that routes ask for.
    used: BTreeSet<String>,
    /// Titles of policies that are for somebody.
    told: BTreeSet<String>,
    findings: &'f mut Findings,
}

impl Assembly<'_, '_, '_, '_> {
    /// Servers that send everything to HTTPS.
    fn redirects(&mut self, gateways: &[Gateway], listeners: &[Listener], sites: &mut [Site]) {
        for gateway in gateways {
            for server in gateway.servers.iter().filter(|it| it.redirects && !it.is_https) {
                let Some(site) = site_of(server.port, listeners, sites) else { continue };
                let keys =
                    vec![("scheme".to_owned(), Out::text("https")), ("status".to_owned(), Out::plain(301))];
                let name = gateway.name.rsplit('/').next().unwrap_or_default();
                self.rules.push(Rule {
                    name: format!("{name}-{}-to-https", server.port),
                    remark: format!("Gateway {}, {}", gateway.name, self.findings.line(server.at)),
                    resource: format!("Gateway {}", gateway.name),
                    at: server.at,
                    action: Action { redirect: Some((keys, None)), ..Action::default() },
                    is_ours: true,
                });
                let candidate = Candidate::of(self.rules.len() - 1, Match::all());
                for host in &server.hosts {
                    site.hosts.entry(host.clone()).or_default().push(candidate.clone());
                    site.closed.insert(host.clone());
                }
            }
        }
    }

    /// The rules of one `VirtualService`, wherever it is bound.
    fn hosts(
        &mut self,
        it: &VirtualService,
        gateways: &[Gateway],
        listeners: &[Listener],
        sites: &mut [Site],
    ) {
        self.findings.of(&it.title);
        for bound in &it.gateways {
            if bound.text == MESH {
                let hosts = it
                    .hosts
                    .iter()
                    .flat_map(|host| names_in_mesh(&host.text, &it.namespace))
                    .collect::<Vec<_>>();
                if let Some(site) = sites.iter_mut().find(|site| site.listener == MESH) {
                    let mesh = listeners.iter().find(|listener| listener.name == MESH);
                    let shows = mesh.is_some_and(|it| it.tls.is_some());
                    let caller = if shows { Caller::Certificate } else { Caller::Nobody };
                    self.candidates(it, (&bound.text, shows, None), &hosts, &caller, None, site);
                }
                continue;
            }
            let Some(gateway) = gateways.iter().find(|gateway| gateway.name == bound.text) else {
                self.findings.error(
                    bound.at,
                    format!(
                        "there is no Gateway `{}` among the files: what comes in there is left out",
                        bound.text
                    ),
                    "import it as well",
                );
                continue;
            };
            let mut is_bound = false;
            for server in gateway.servers.iter().filter(|it| !it.redirects || it.is_https) {
                let hosts = it.hosts.iter().filter_map(|host| Pattern::read(&host.text));
                let common =
                    hosts.flat_map(|host| server.hosts.iter().filter_map(move |it| it.intersection(&host)));
                let hosts = common.collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>();
                is_bound |= !hosts.is_empty();
                let Some(site) = site_of(server.port, listeners, sites) else { continue };
                let caller = self.world.options.identity.clone().map_or(Caller::Nobody, Caller::Known);
                let bound = (bound.text.as_str(), server.is_https, Some(server.port));
                self.candidates(it, bound, &hosts, &caller, Some(gateway), site);
            }
            if !is_bound {
                self.findings.error(
                    bound.at,
                    format!("no host of it is one of the Gateway `{}`: nothing comes in there", bound.text),
                    "name a host that both have",
                );
            }
        }
    }

    fn candidates(
        &mut self,
        it: &VirtualService,
        (bound, is_https, port): (&str, bool, Option<u16>),
        hosts: &[Pattern],
        caller: &Caller,
        gateway: Option<&Gateway>,
        site: &mut Site,
    ) {
        let mut found = Vec::new();
        for case in &it.cases {
            let is_here = (case.gateways.is_empty() || case.gateways.iter().any(|it| it == bound))
                && case.port.is_none_or(|it| port == Some(it))
                && case.is_https.is_none_or(|it| it == is_https);
            if is_here {
                found.extend(self.guarded(it, case.rule, &case.matches, caller, gateway));
            }
        }
        for host in hosts {
            let there = site.hosts.entry(host.clone()).or_default();
            if !there.is_empty() && !there.iter().any(|it| found.contains(it)) {
                self.findings.note(
                    it.at,
                    format!(
                        "another VirtualService has the host `{}` as well: its rules come first",
                        host.written().unwrap_or_else(|| "*".into())
                    ),
                    "",
                );
            }
            there.extend(found.iter().filter(|it| !there.contains(it)).cloned().collect::<Vec<_>>());
            site.closed.insert(host.clone());
        }
    }

    /// One match of a rule, in as many pieces as its policies need.
    fn guarded(
        &mut self,
        it: &VirtualService,
        rule: usize,
        matches: &Match,
        caller: &Caller,
        gateway: Option<&Gateway>,
    ) -> Vec<Candidate> {
        let destinations = self.destinations_of(rule);
        let policies: Vec<&Policy> = self
            .guards
            .policies
            .iter()
            .filter(|policy| self.is_for(&policy.target, &destinations, gateway))
            .collect();
        let tokens: Vec<&Tokens> = self
            .guards
            .tokens
            .iter()
            .filter(|tokens| tokens.jwt.is_some() && self.is_for(&tokens.target, &destinations, gateway))
            .collect();
        self.told.extend(policies.iter().map(|it| it.title.clone()));
        for policy in policies.iter().filter(|it| it.asks_caller() && *caller == Caller::Nobody) {
            self.findings.of(&policy.title);
            let (why, help) = if gateway.is_some() {
                (
                    "it asks who calls, and behind the gateway that is the gateway itself: whose account that is, is not said, so what depends on it is kept out",
                    "import again with `--identity cluster.local/ns/NAMESPACE/sa/ACCOUNT`: the account of the ingress gateway",
                )
            } else {
                (
                    "it asks who calls, and nobody has to show a certificate: what depends on it is kept out",
                    "import a PeerAuthentication with STRICT as well",
                )
            };
            self.findings.error(policy.at, why, help);
        }
        let mut keys = Keys::new();
        if let [first, rest @ ..] = tokens.as_slice() {
            for other in rest {
                self.findings.of(&other.title);
                self.findings.error(
                    other.at,
                    format!("a route takes tokens of one key set: here those of `{}`", first.title),
                    "let them be of one issuer, or write two routes",
                );
            }
            self.used.insert(first.name.clone());
            keys.push(("use".into(), Out::texts([name_of(&first.name)])));
        }
        if tokens.first().is_some_and(|first| {
            !policies.iter().any(|it| it.asks_for_token()) && self.told.insert(first.title.clone())
        }) {
            self.findings.of(&tokens[0].title);
            self.findings.note(tokens[0].at, "no AuthorizationPolicy asks for a token where it is looked at, so whoever brings none is let in", "take `auth: optional` away from the routes that are for those who are known");
        }
        let asked = Asked { policies, caller: caller.clone(), has_token: !tokens.is_empty() };
        self.findings.of(&it.title);
        let at = self.rules[rule].at;
        let pieces = pieces(matches, &self.guards.paths.to_vec(), &asked, at, self.findings);
        let mut candidates = Vec::new();
        for piece in pieces {
            let mut all = keys.clone();
            // A token that is there has to be right; it has to be there where a rule asks for what it says.
            if piece.is_open && !all.is_empty() {
                all.insert(0, ("auth".into(), Out::plain("optional")));
            }
            all.extend(piece.keys);
            let rule = if piece.is_shut {
                all.clear();
                self.shut(rule)
            } else {
                rule
            };
            candidates.push(Candidate { rule, matches: piece.matches, of: matches.clone(), keys: all });
        }
        candidates
    }

    /// The same rule, for nobody.
    fn shut(&mut self, rule: usize) -> usize {
        let of = &self.rules[rule];
        let shut = Rule {
            name: format!("{}-denied", of.name),
            remark: format!("{}: for nobody, as its policies say", of.remark),
            action: Action::answer(403),
            ..of.clone()
        };
        let known = self
            .rules
            .iter()
            .position(|it| it.name == shut.name && it.at == shut.at && it.action == shut.action);
        known.unwrap_or_else(|| {
            self.rules.push(shut);
            self.rules.len() - 1
        })
    }

    /// Who a rule leads to.
    fn destinations_of(&self, rule: usize) -> Vec<Service> {
        let mut names = BTreeSet::new();
        for (key, value) in &self.rules[rule].action.keys {
            match (key.as_str(), value) {
                ("upstream", Out::Text(name)) => _ = names.insert(name.clone()),
                ("split", Out::Map(keys)) => {
                    for (_, to) in keys {
                        if let Out::Map(to) = to {
                            names.extend(to.iter().map(|(name, _)| name.clone()));
                        }
                    }
                }
                _ => {}
            }
        }
        names.iter().filter_map(|name| self.world.services.of(name)).collect()
    }

    /// Whether a policy is for one of these at least, or for the gateway.
    fn is_for(&self, target: &Target, destinations: &[Service], gateway: Option<&Gateway>) -> bool {
        let is_in = |host: &Host| match host {
            Host::Cluster { namespace, .. } => {
                target.namespace == ROOT && target.is_wide() || *namespace == target.namespace
            }
            Host::Other(_) => target.namespace == ROOT && target.is_wide(),
        };
        if let Some(gateway) = gateway {
            let is_named =
                target.gateways.iter().any(|it| format!("{}/{it}", target.namespace) == gateway.name);
            let is_selected =
                !target.labels.is_empty() && target.labels.iter().all(|it| gateway.selector.contains(it));
            if is_named || is_selected {
                return true;
            }
        }
        destinations.iter().any(|service| {
            let is_named =
                |name: &String| matches!(&service.host, Host::Cluster { name: it, .. } if it == name);
            let labels = || self.world.labels_of(&service.host, service.subset.as_deref());
            is_in(&service.host)
                && (target.is_wide()
                    || target.services.iter().any(is_named)
                    || !target.labels.is_empty() && {
                        let labels = labels();
                        target.labels.iter().all(|it| labels.contains(it))
                    })
        })
    }

    /// What is outside of the mesh, and may be asked.
    fn egress(&mut self, sites: &mut [Site]) {
        let entries = self.world.entries.iter().filter(|it| it.is_external);
        let mut wanted = Vec::new();
        for entry in entries {
            let speaks_http = |(_, protocol): &&(u16, String)| {
                matches!(protocol.as_str(), "HTTP" | "HTTPS" | "TLS" | "HTTP2" | "GRPC")
            };
            self.findings.of(&entry.title);
            let Some((port, protocol)) = entry.ports.iter().find(speaks_http).cloned() else {
                self.findings.left_out(entry.at, "none of its ports speaks HTTP", "");
                continue;
            };
            for host in &entry.hosts {
                let (Some(Pattern::Exact(name)), true) = (Pattern::read(&host.text), host.text.contains('.'))
                else {
                    self.findings.left_out(
                        host.at,
                        format!("`{}` is no one host: where it leads is not known", host.text),
                        "write an entry for each host",
                    );
                    continue;
                };
                wanted.push((entry.title.clone(), entry.at, name, port, protocol.clone(), host.at));
            }
        }
        for (title, at, name, port, protocol, host_at) in wanted {
            let Some(site) = sites.iter_mut().find(|site| site.listener == MESH) else { continue };
            let pattern = Pattern::Exact(name.clone());
            if site.hosts.contains_key(&pattern) {
                continue; // A VirtualService says where it goes.
            }
            self.findings.of(&title);
            if matches!(protocol.as_str(), "HTTPS" | "TLS") {
                self.findings.changed(host_at, format!("callers ask `http://{name}` of the listener `{MESH}`, and TLS begins here: so what they ask can be seen, and hosts without a route cannot be asked"), "let callers use that address as a proxy for it");
            }
            let service = Service { host: Host::read(&name, ""), port, subset: None };
            let upstream = self.world.services.upstream(&service, at, (Total::Usual.bound(), None));
            self.rules.push(Rule {
                name: format!("egress-{name}"),
                remark: format!("{title}, {}", self.findings.line(at)),
                resource: title,
                at,
                action: Action {
                    keys: vec![("upstream".into(), Out::text(upstream))],
                    rewrite_host: Some(name),
                    ..Action::default()
                },
                is_ours: false,
            });
            let candidate = Candidate::of(self.rules.len() - 1, Match::all());
            site.hosts.entry(pattern).or_default().push(candidate);
        }
    }
}

fn site_of<'s>(port: u16, listeners: &[Listener], sites: &'s mut [Site]) -> Option<&'s mut Site> {
    let name = &listeners.iter().find(|it| it.port == port)?.name;
    sites.iter_mut().find(|it| it.listener == *name)
}

/// The names by which a service is asked inside.
fn names_in_mesh(host: &str, namespace: &str) -> Vec<Pattern> {
    match Host::read(host, namespace) {
        Host::Cluster { name, namespace: of } => {
            let long = format!("{name}.{of}.svc.cluster.local");
            let all = [name.clone(), format!("{name}.{of}"), format!("{name}.{of}.svc"), long];
            // The short name is of its own namespace.
            all.into_iter().skip(usize::from(of != namespace)).map(Pattern::Exact).collect()
        }
        Host::Other(host) => Pattern::read(&host).into_iter().collect(),
    }
}
