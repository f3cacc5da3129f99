//! `Gateway`: listeners of ports, each with its hosts and the routes that it takes.

use super::routes::{Parent, Route};
use crate::import::{
    fields::Fields,
    hosts::Pattern,
    listeners::{Listener, Tls},
    report::Findings,
    resources::Resource,
    services::name_of,
};

/// A listener of a Gateway.
pub(super) struct GatewayListener {
    /// `namespace/name` of its Gateway.
    pub(super) gateway: String,
    pub(super) name: String,
    pub(super) port: u16,
    /// The place of the socket.
    pub(super) site: usize,
    pub(super) host: Pattern,
    pub(super) namespace: String,
    pub(super) from: From,
    /// Kinds of routes that may be bound; all, if there is none.
    pub(super) kinds: Vec<String>,
    pub(super) is_https: bool,
}

/// Whose routes may be bound.
pub(super) enum From {
    Same,
    All,
    /// Nobody knows.
    Nobody,
}

impl GatewayListener {
    pub(super) fn takes(&self, route: &Route, parent: &Parent) -> bool {
        let is_allowed = match self.from {
            From::All => true,
            From::Same => self.namespace == route.namespace,
            From::Nobody => false,
        };
        self.gateway == parent.gateway
            && is_allowed
            && parent.section.as_ref().is_none_or(|it| *it == self.name)
            && parent.port.is_none_or(|it| it == self.port)
            && (self.kinds.is_empty() || self.kinds.contains(&route.kind))
    }
}

pub(super) fn gateway(
    resource: &Resource<'_, '_>,
    listeners: &mut Vec<Listener>,
    bound: &mut Vec<GatewayListener>,
    findings: &mut Findings,
) {
    let mut spec = resource.spec(findings);
    spec.pass(&["gatewayClassName", "infrastructure"]);
    let addresses = spec.maps("addresses", findings);
    let mut address = None;
    for mut fields in addresses {
        let value = fields.said("value", findings);
        fields.pass(&["type"]);
        fields.finish(findings);
        address = address.or(value.and_then(|it| it.text.parse::<std::net::IpAddr>().ok()));
    }
    for (key, why) in [
        ("backendTLS", "who the gateway is to endpoints is said in each upstream"),
        ("tls", "TLS of all its listeners is said at each"),
        ("allowedListeners", "listeners of other resources are not read"),
        ("defaultScope", "routes are bound by their `parentRefs`"),
    ] {
        spec.leave(key, why, "", findings);
    }
    for fields in spec.maps("listeners", findings) {
        listener(resource, fields, address, listeners, bound, findings);
    }
    spec.finish(findings);
}

fn listener(
    resource: &Resource<'_, '_>,
    mut fields: Fields<'_, '_>,
    address: Option<std::net::IpAddr>,
    listeners: &mut Vec<Listener>,
    bound: &mut Vec<GatewayListener>,
    findings: &mut Findings,
) {
    let at = fields.span;
    let name = fields.text("name", findings).unwrap_or_default();
    let host = fields.said("hostname", findings);
    let port = fields.number("port", findings).and_then(|it| u16::try_from(it).ok()).filter(|it| *it > 0);
    let protocol = fields.said("protocol", findings);
    let tls = fields.map("tls", findings);
    let (from, kinds) = allowed(fields.map("allowedRoutes", findings), findings);
    fields.finish(findings);
    let (Some(port), Some(protocol)) = (port, protocol) else {
        findings.error(at, "a listener without `port` or `protocol`", "write both");
        return;
    };
    let is_https = match protocol.text.as_str() {
        "HTTP" => false,
        "HTTPS" => true,
        other => {
            findings.left_out(
                protocol.at,
                format!("`{other}` is not spoken by listeners: this one is left out"),
                "only HTTP is routed",
            );
            return;
        }
    };
    let tls = match tls.filter(|_| is_https).map(|tls| tls_of(tls, findings)) {
        Some(Some(tls)) => Some(tls),
        None if !is_https => None,
        _ => {
            findings.error(
                at,
                "HTTPS without a certificate: this listener is left out",
                "write `tls: {certificateRefs: [{name: …}]}`",
            );
            return;
        }
    };
    let Some(host) = host.map_or(Some(Pattern::Any), |said| Pattern::read(&said.text)) else {
        findings.error(at, "its `hostname` is no host", "write `api.example` or `*.example`");
        return;
    };
    let owner = format!("{}/{}:{port}", resource.namespace, resource.name);
    let site = listeners.iter().position(|it| it.owner == owner).unwrap_or_else(|| {
        let mut free = port;
        while listeners.iter().any(|it| it.port == free) {
            free = free.checked_add(1000).unwrap_or(1024);
        }
        if free != port {
            findings.needs(at, format!("another Gateway listens on port {port} as well, at an address of its own; here it is {free}"), "write addresses of their own under `listen:`");
        }
        let listen = address.map_or(format!(":{free}"), |ip| std::net::SocketAddr::new(ip, free).to_string());
        let remark = format!("{}, {}", resource.title(), findings.line(at));
        let names = [format!("{}-{port}", resource.name), format!("{}-{}-{port}", resource.namespace, resource.name)];
        let is_free = |name: &String| listeners.iter().all(|it| it.name != *name);
        let called = names.into_iter().map(|it| name_of(&it)).find(is_free).unwrap_or_else(|| format!("listener-{free}"));
        listeners.push(Listener { remark, owner, tls: tls.clone(), ..Listener::new(called, listen, free) });
        listeners.len() - 1
    });
    match (&mut listeners[site].tls, tls) {
        (Some(there), Some(tls)) => {
            for certificate in tls.certificates {
                if !there.certificates.contains(&certificate) {
                    there.certificates.push(certificate);
                }
            }
        }
        (None, None) => {}
        _ => {
            findings.error(
                at,
                format!("port {port} has TLS for some hosts and none for others: this listener is left out"),
                "let it have another port",
            );
            return;
        }
    }
    bound.push(GatewayListener {
        gateway: format!("{}/{}", resource.namespace, resource.name),
        name,
        port,
        site,
        host,
        namespace: resource.namespace.clone(),
        from,
        kinds,
        is_https,
    });
}

fn allowed(fields: Option<Fields<'_, '_>>, findings: &mut Findings) -> (From, Vec<String>) {
    let Some(mut fields) = fields else { return (From::Same, Vec::new()) };
    let mut from = From::Same;
    if let Some(mut namespaces) = fields.map("namespaces", findings) {
        let said = namespaces.said("from", findings);
        namespaces.pass(&["selector"]);
        let at = namespaces.span;
        namespaces.finish(findings);
        match said.as_ref().map(|it| it.text.as_str()) {
            None | Some("Same") => {}
            Some("All") => from = From::All,
            Some("None") => from = From::Nobody,
            Some(_) => {
                findings.error(
                    at,
                    "which namespaces have these labels, only the cluster knows: no route is bound here",
                    "write `from: Same` or `from: All`",
                );
                from = From::Nobody;
            }
        }
    }
    let mut kinds = Vec::new();
    for mut kind in fields.maps("kinds", findings) {
        kinds.extend(kind.text("kind", findings));
        kind.pass(&["group"]);
        kind.finish(findings);
    }
    fields.finish(findings);
    (from, kinds)
}

fn tls_of(mut fields: Fields<'_, '_>, findings: &mut Findings) -> Option<Tls> {
    let mut tls = Tls::default();
    let mode = fields.said("mode", findings);
    for mut reference in fields.maps("certificateRefs", findings) {
        let name = reference.said("name", findings);
        reference.pass(&["kind", "group", "namespace"]);
        reference.finish(findings);
        let Some(name) = name else { continue };
        let base = format!("tls/{}", name_of(&name.text));
        findings.needs(name.at, format!("the certificate of the secret `{}` and its key have to be at `{base}.crt` and `{base}.key`, seen from the configuration", name.text), "a secret is not read: write `tls.crt` and `tls.key` of it there");
        tls.certificates.push((format!("{base}.crt"), format!("{base}.key")));
    }
    if let Some(mut validation) = fields.map("frontendValidation", findings) {
        for mut reference in validation.maps("caCertificateRefs", findings) {
            let name = reference.said("name", findings);
            reference.pass(&["kind", "group", "namespace"]);
            reference.finish(findings);
            let Some(name) = name else { continue };
            let file = format!("tls/{}-ca.crt", name_of(&name.text));
            findings.needs(
                name.at,
                format!("the authorities of clients' certificates have to be at `{file}`"),
                "write `ca.crt` of it there",
            );
            tls.client_ca = Some(file);
        }
        validation.pass(&["mode"]);
        validation.finish(findings);
    }
    fields.leave("options", "options of one implementation say nothing here", "", findings);
    fields.finish(findings);
    if let Some(mode) = mode.filter(|it| it.text != "Terminate") {
        findings.left_out(
            mode.at,
            format!("`{}`: this gateway ends TLS itself", mode.text),
            "let a balancer of connections stand in front",
        );
        return None;
    }
    (!tls.certificates.is_empty()).then_some(tls)
}
