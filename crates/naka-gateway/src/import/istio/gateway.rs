//! `Gateway` and `ServiceEntry`: where requests come in, and what is outside of the mesh.

use crate::{
    config::{HostPort, Span, quoted},
    import::{
        action,
        fields::{Fields, Said},
        hosts::Pattern,
        listeners::{Listener, Tls},
        out::Out,
        report::Findings,
        resources::{Resource, labels_of},
        services::{Host, name_of},
    },
};

/// One of them.
pub(super) struct Gateway {
    /// `namespace/name`.
    pub(super) name: String,
    pub(super) selector: Vec<(String, String)>,
    pub(super) servers: Vec<Server>,
}

/// One port of it, for some hosts.
pub(super) struct Server {
    pub(super) port: u16,
    pub(super) hosts: Vec<Pattern>,
    pub(super) is_https: bool,
    /// Everything is sent to HTTPS.
    pub(super) redirects: bool,
    pub(super) at: Span,
}

pub(super) fn read(
    resource: &Resource<'_, '_>,
    listeners: &mut Vec<Listener>,
    findings: &mut Findings,
) -> Gateway {
    let mut spec = resource.spec(findings);
    let selector = labels_of(&mut spec, "selector", findings);
    let mut servers = Vec::new();
    for fields in spec.maps("servers", findings) {
        servers.extend(server(resource, fields, listeners, findings));
    }
    spec.finish(findings);
    Gateway { name: format!("{}/{}", resource.namespace, resource.name), selector, servers }
}

fn server(
    resource: &Resource<'_, '_>,
    mut fields: Fields<'_, '_>,
    listeners: &mut Vec<Listener>,
    findings: &mut Findings,
) -> Option<Server> {
    let at = fields.span;
    let mut port = fields.map("port", findings).unwrap_or_else(|| Fields::none(at));
    let number = port.number("number", findings).and_then(|it| u16::try_from(it).ok()).filter(|it| *it > 0);
    let protocol = port.said("protocol", findings);
    port.pass(&["name", "targetPort"]);
    port.finish(findings);
    let hosts = fields.texts("hosts", findings);
    let bind = fields.said("bind", findings);
    let tls = fields.map("tls", findings);
    fields.pass(&["name", "defaultEndpoint"]);
    fields.finish(findings);
    let (Some(number), Some(protocol)) = (number, protocol) else {
        findings.error(
            at,
            "a server without the `number` or the `protocol` of its port",
            "write `port: {number: 443, name: https, protocol: HTTPS}`",
        );
        return None;
    };
    let is_https = match protocol.text.to_ascii_uppercase().as_str() {
        "HTTP" | "HTTP2" | "GRPC" | "GRPC-WEB" => false,
        "HTTPS" => true,
        other => {
            findings.left_out(
                protocol.at,
                format!("`{other}` is not spoken by listeners: this server is left out"),
                "only HTTP is routed",
            );
            return None;
        }
    };
    let (tls, redirects) = match tls {
        Some(tls) => tls_of(tls, &name_of(&resource.name), findings),
        None => (None, false),
    };
    if is_https && tls.is_none() {
        findings.error(
            at,
            "HTTPS without a certificate: this server is left out",
            "write `tls: {mode: SIMPLE, credentialName: …}`",
        );
        return None;
    }
    let listener = Listener::new(
        name_of(&format!("{}-{number}", resource.name)),
        bind.filter(|it| it.text.parse::<std::net::IpAddr>().is_ok()).map_or(format!(":{number}"), |it| {
            if it.text.contains(':') {
                format!("[{}]:{number}", it.text)
            } else {
                format!("{}:{number}", it.text)
            }
        }),
        number,
    );
    let listener = Listener {
        is_h2c: matches!(protocol.text.to_ascii_uppercase().as_str(), "HTTP2" | "GRPC"),
        tls: if is_https { tls } else { None },
        remark: format!("{}, {}", resource.title(), findings.line(at)),
        ..listener
    };
    crate::import::listeners::add(listeners, listener, at, findings);
    let hosts = hosts.iter().filter_map(|it| host_of(it, findings)).collect();
    Some(Server { port: number, hosts, is_https, redirects, at })
}

/// `namespace/host`, or a host alone.
fn host_of(said: &Said, findings: &mut Findings) -> Option<Pattern> {
    let (namespace, host) = said.text.split_once('/').unwrap_or(("*", &said.text));
    if !matches!(namespace, "*" | ".") {
        findings.note(said.at, format!("that only VirtualServices of `{namespace}` may use it is not asked: who writes the configuration may"), "");
    }
    let pattern = Pattern::read(host);
    if pattern.is_none() {
        findings.error(
            said.at,
            format!("{} is no host", quoted(host)),
            "write `api.example`, `*.example` or `*`",
        );
    }
    pattern
}

/// What is shown to clients, and whether all are sent there.
fn tls_of(mut fields: Fields<'_, '_>, name: &str, findings: &mut Findings) -> (Option<Tls>, bool) {
    let redirects = fields.is_true("httpsRedirect", findings);
    let mode = fields.said("mode", findings);
    let secret = fields.said("credentialName", findings);
    let secrets = fields.texts("credentialNames", findings);
    let (cert, key) = (fields.text("serverCertificate", findings), fields.text("privateKey", findings));
    let ca = fields.text("caCertificates", findings);
    let oldest = fields.said("minProtocolVersion", findings);
    for (key, why) in [
        ("maxProtocolVersion", "the newest version that both know is spoken"),
        ("cipherSuites", "ciphers are those of the library, all of them with forward secrecy"),
        ("subjectAltNames", "which clients may come in is a matter of `authorize: {identity: …}`"),
        ("verifyCertificateSpki", "a certificate is known by its authority"),
        ("verifyCertificateHash", "a certificate is known by its authority"),
        ("caCrl", "lists of revoked certificates are not looked at"),
        ("tlsCertificates", "name them under `credentialNames:`"),
        ("caCertCredentialName", "authorities come with the secret of `credentialName:`"),
    ] {
        fields.leave(key, why, "", findings);
    }
    let at = fields.span;
    fields.finish(findings);
    let mode = match &mode {
        Some(mode) => mode.text.as_str(),
        // Only a redirect.
        None => return (None, redirects),
    };
    let needs_clients = match mode {
        "SIMPLE" => None,
        "MUTUAL" => Some(false),
        "OPTIONAL_MUTUAL" => Some(true),
        other => {
            findings.left_out(
                at,
                format!("TLS of the mode `{other}`: this gateway ends TLS itself"),
                "write SIMPLE with a certificate; or let a balancer of connections stand in front",
            );
            return (None, redirects);
        }
    };
    let mut tls = Tls::default();
    let names = secret.into_iter().chain(secrets).collect::<Vec<_>>();
    for name in &names {
        let base = format!("tls/{}", name_of(name.text.rsplit("://").next().unwrap_or(&name.text)));
        tls.certificates.push((format!("{base}.crt"), format!("{base}.key")));
        findings.needs(name.at, format!("the certificate of the secret `{0}` and its key have to be at `{base}.crt` and `{base}.key`, seen from the configuration", name.text), "a secret is not read: write `tls.crt` and `tls.key` of it there");
    }
    if let (Some(cert), Some(key)) = (cert, key) {
        findings.needs(at, format!("`{cert}` and `{key}` have to be there"), "");
        tls.certificates.push((cert, key));
    }
    if let Some(is_optional) = needs_clients {
        let base = names.first().map_or_else(|| name.to_owned(), |it| name_of(&it.text));
        let file = ca.unwrap_or_else(|| format!("tls/{base}-ca.crt"));
        findings.needs(
            at,
            format!("the authorities of clients' certificates have to be at `{file}`"),
            "write `ca.crt` of the secret there",
        );
        (tls.client_ca, tls.is_optional) = (Some(file), is_optional);
    }
    match oldest.as_ref().map(|it| (it, it.text.as_str())) {
        Some((_, "TLSV1_3")) => tls.oldest = Some("1.3"),
        Some((said, "TLSV1_0" | "TLSV1_1")) => {
            findings.changed(said.at, "TLS 1.0 and 1.1 are not spoken (RFC 8996): 1.2 is the oldest", "");
        }
        _ => {}
    }
    ((!tls.certificates.is_empty()).then_some(tls), redirects)
}

/// What is outside of the mesh, or is said to be in it.
pub(super) struct ServiceEntry {
    pub(super) title: String,
    pub(super) at: Span,
    pub(super) hosts: Vec<Said>,
    pub(super) ports: Vec<(u16, String)>,
    pub(super) is_external: bool,
    /// Its endpoints, where they are written down.
    addresses: Vec<String>,
}

impl ServiceEntry {
    pub(super) fn read(resource: &Resource<'_, '_>, findings: &mut Findings) -> Self {
        let mut spec = resource.spec(findings);
        let hosts = spec.texts("hosts", findings);
        let mut ports = Vec::new();
        for mut port in spec.maps("ports", findings) {
            let number =
                port.number("number", findings).and_then(|it| u16::try_from(it).ok()).filter(|it| *it > 0);
            let protocol = port.text("protocol", findings).unwrap_or_else(|| "HTTP".into());
            port.pass(&["name", "targetPort"]);
            port.finish(findings);
            ports.extend(number.map(|number| (number, protocol.to_ascii_uppercase())));
        }
        let location = spec.text("location", findings);
        let resolution = spec.said("resolution", findings);
        let mut addresses = Vec::new();
        for mut endpoint in spec.maps("endpoints", findings) {
            let address = endpoint.said("address", findings);
            let port: Option<u16> =
                endpoint.pairs("ports", findings).first().and_then(|(_, said)| said.text.parse().ok());
            endpoint.pass(&["labels", "network", "serviceAccount", "locality"]);
            endpoint.leave(
                "weight",
                "endpoints have the same share",
                "write `{address: …, weight: …}` into the upstream",
                findings,
            );
            endpoint.finish(findings);
            let port = port.or_else(|| ports.first().map(|(number, _)| *number));
            let written = address.zip(port).map(|(address, port)| {
                let text = match address.text.strip_prefix("unix://") {
                    Some(path) => format!("unix:{path}"),
                    None if address.text.contains(':') => format!("[{}]:{port}", address.text),
                    None => format!("{}:{port}", address.text),
                };
                Said { text, at: address.at }
            });
            addresses.extend(written.and_then(|it| action::valid::<HostPort>(&it, findings)));
        }
        spec.pass(&["addresses", "exportTo"]);
        spec.leave(
            "workloadSelector",
            "which pods it is, only the cluster knows",
            "import with `--endpoints FILE`",
            findings,
        );
        spec.leave(
            "subjectAltNames",
            "who the endpoints have to be is a matter of the upstream's `tls`",
            "write `verify_san:` into it",
            findings,
        );
        spec.finish(findings);
        if let Some(said) = resolution.as_ref().filter(|it| it.text == "NONE") {
            findings.changed(
                said.at,
                "where a client wanted to go is not looked at: the host's name is looked up",
                "",
            );
        }
        Self {
            title: resource.title(),
            at: resource.at,
            hosts,
            ports,
            is_external: location.as_deref() != Some("MESH_INTERNAL"),
            addresses,
        }
    }

    pub(super) fn is_for(&self, host: &Host) -> bool {
        self.hosts
            .iter()
            .any(|it| Host::read(&it.text, "") == *host || it.text.eq_ignore_ascii_case(&host.dns()))
    }

    pub(super) fn endpoints(&self) -> Option<Out> {
        (!self.addresses.is_empty()).then(|| Out::texts(self.addresses.iter().cloned()))
    }

    pub(super) fn speaks_tls(&self, port: u16) -> bool {
        self.ports.iter().any(|(it, protocol)| *it == port && matches!(protocol.as_str(), "HTTPS" | "TLS"))
    }
}
