//! TLS: the files it names, and what they have to be.

use std::{sync::Arc, time::Duration};

use super::acme;
use crate::{
    config::{
        checked::{Discovery, Endpoint, EndpointSource, Protocol},
        decode::{At, Cx},
        diagnostic::Code,
        node::Span,
        raw::{RawClientAuth, RawListenerTls, RawTlsVersion, RawUpstreamTls},
        values::TlsName,
    },
    tls::{
        Alpn, Authorities, Certificate, ClientTls, Clients, Expected, Oldest, ServerName, ServerTls, Trust,
        Unfit, Wanted,
    },
};

/// So long before its end a certificate is told of.
const SOON: Duration = Duration::from_hours(24 * 14);

/// TLS with clients, which stands at `key`. `now_s`: the time of day, in seconds since 1970.
pub(super) fn server(raw: &RawListenerTls, key: Span, now_s: u64, cx: &mut Cx) -> Option<ServerTls> {
    let acme = raw.acme.as_ref().and_then(|at| acme::acme(&at.value, at.key, cx)).map(Arc::new);
    let listed = raw.certificates.as_ref();
    if let (None, None, None) = (&raw.acme, listed, raw.said("certificates").or(raw.said("acme"))) {
        cx.error(Code::Missing, key, "TLS without a certificate").help(
            "write `certificates: [{cert: api.pem, key: api.key}]`, or `acme:` for one that is ordered by itself",
        );
    }
    if let Some(listed) = listed.filter(|listed| listed.value.is_empty()) {
        cx.error(Code::Value, listed.span, "a list of no certificates")
            .help("write `certificates: [{cert: api.pem, key: api.key}]`");
    }
    let certificates = listed.into_iter().flat_map(|listed| &listed.value).filter_map(|at| {
        let files = [at.value.cert.as_deref()?, at.value.key.as_deref()?];
        let certificate = certificate(files, now_s, cx)?;
        if certificate.names().is_empty() {
            cx.error(Code::Value, files[0].span, format!("{}: is for no host", files[0].value))
                .label("no `subjectAltName`: no client takes it (RFC 9525)")
                .help("have one made with the names of its hosts: `openssl req … -addext subjectAltName=DNS:api.example`");
        }
        Some(Arc::new(certificate))
    });
    let certificates = certificates.collect::<Vec<_>>();
    let clients = raw.client_ca.as_ref().and_then(|at| {
        let authorities = authorities(at, cx)?;
        Some(Clients { authorities, is_required: raw.client_auth() == RawClientAuth::Required })
    });
    if let (Some(at), None) = (&raw.client_auth, raw.said("client_ca")) {
        cx.error(Code::Missing, at.key, "certificates of clients, and nobody whose they would be")
            .help("write `client_ca:` with the file of their authorities, or take it away");
    }
    let oldest = match raw.min_version() {
        RawTlsVersion::Tls12 => Oldest::Tls12,
        RawTlsVersion::Tls13 => Oldest::Tls13,
    };
    let is_whole = (!certificates.is_empty() || acme.is_some())
        && clients.is_some() == raw.client_ca.is_some()
        && acme.is_some() == raw.said("acme").is_some();
    is_whole.then(|| ServerTls { certificates, acme, clients, oldest, checks_host: raw.check_host() })
}

/// TLS with the endpoints of an upstream, which stands at `key`.
pub(super) fn client(
    raw: &RawUpstreamTls,
    protocol: Protocol,
    endpoints: &[Endpoint],
    discovery: Option<&Discovery>,
    key: Span,
    now_s: u64,
    cx: &mut Cx,
) -> Option<ClientTls> {
    let trust = match &raw.ca {
        Some(at) => Trust::Only(authorities(at, cx)?),
        None => Trust::Machine,
    };
    let trust = if raw.verify() { trust } else { unverified(raw, cx) };
    let expected = raw.verify_san.iter().flat_map(|at| &at.value.0);
    let expected = expected.filter_map(|at| expected_name(at, &trust, cx)).collect::<Vec<_>>();
    let shown = match (raw.cert.as_deref(), raw.key.as_deref()) {
        (Some(cert), Some(key)) => Some(Arc::new(certificate([cert, key], now_s, cx)?)),
        (Some(at), None) if raw.said("key").is_none() => {
            cx.error(Code::Missing, at.key, "a certificate without its key").help("add `key:`");
            None
        }
        (None, Some(at)) if raw.said("cert").is_none() => {
            cx.error(Code::Missing, at.key, "a key without its certificate").help("add `cert:`");
            None
        }
        _ => None,
    };
    let name = match &raw.sni {
        Some(at) if at.value.is_uri() => {
            cx.error(Code::Value, at.span, "a URI cannot be asked for").help("it goes into `verify_san`");
            None
        }
        Some(at) => ServerName::try_from(at.value.0.to_string()).ok(),
        None => name_of(endpoints, discovery, !raw.verify(), key, cx),
    };
    let alpn = if protocol == Protocol::H2 { Alpn::H2 } else { Alpn::H1 };
    made(ClientTls::new(Wanted { trust, name, expected, shown, alpn }), key, cx)
}

/// TLS with whom a URL at `url` names.
pub(super) fn usual(url: Span, cx: &mut Cx) -> Option<ClientTls> {
    made(ClientTls::usual(), url, cx)
}

/// The same over HTTP/2.
pub(super) fn usual_h2(url: Span, cx: &mut Cx) -> Option<ClientTls> {
    made(ClientTls::usual_h2(), url, cx)
}

pub(super) fn made(made: Result<ClientTls, String>, at: Span, cx: &mut Cx) -> Option<ClientTls> {
    let unfit = |why: &String| {
        cx.error(Code::Value, at, format!("this machine believes no authority: {why}")).help(
            "install their certificates (`ca-certificates`), or name a file of them in `SSL_CERT_FILE`",
        );
    };
    made.inspect_err(unfit).ok()
}

fn unverified(raw: &RawUpstreamTls, cx: &mut Cx) -> Trust {
    let Some(at) = &raw.verify else { return Trust::Anybody };
    cx.error(
        Code::Exposed,
        at.span,
        "whoever is on the way can be the endpoint: nobody makes sure who it is",
    )
    .warning()
    .help("take it away, and say with `ca:` whom to believe");
    for key in ["ca", "verify_san"] {
        if let Some(span) = raw.said(key) {
            let place = cx.place(at.span);
            cx.error(Code::Conflict, span, format!("`{key}` beside `verify: false`"))
                .related(place, "nothing is verified")
                .help("take one of them away");
        }
    }
    Trust::Anybody
}

fn expected_name(at: &At<TlsName>, trust: &Trust, cx: &mut Cx) -> Option<Expected> {
    if !at.value.is_uri() {
        return ServerName::try_from(at.value.0.to_string()).ok().map(Expected::Host);
    }
    if *trust == Trust::Machine {
        cx.error(
            Code::Missing,
            at.span,
            "no authority that this machine believes has anything to say of URIs",
        )
        .help("write `ca:` with the file of those who do");
    }
    Some(Expected::Uri(Arc::clone(&at.value.0)))
}

/// The name to ask for where the addresses of endpoints do not say it.
fn name_of(
    endpoints: &[Endpoint],
    discovery: Option<&Discovery>,
    is_unverified: bool,
    key: Span,
    cx: &mut Cx,
) -> Option<ServerName<'static>> {
    let of_socket = endpoints.iter().find(|endpoint| endpoint.address.starts_with("unix:"));
    let nameless = match discovery.map(|discovery| &discovery.source) {
        Some(EndpointSource::Dns(host, _)) => {
            return ServerName::try_from(host.trim_end_matches('.').to_owned()).ok();
        }
        Some(EndpointSource::Srv(_)) => "endpoints that are found by SRV records",
        Some(EndpointSource::Consul(_) | EndpointSource::Eureka(_)) => {
            "endpoints that are found in a registry"
        }
        None if of_socket.is_some() => "an endpoint at a Unix socket",
        Some(EndpointSource::File(_)) | None => return None,
    };
    if is_unverified {
        return ServerName::try_from("localhost").ok();
    }
    cx.error(Code::Missing, key, format!("{nameless}: nobody knows what name their certificates are for"))
        .help("write `sni:`: `tls: {sni: app.internal}`");
    None
}

pub(super) fn authorities(at: &At<Arc<str>>, cx: &mut Cx) -> Option<Authorities> {
    let pem = cx.document(at.span, &at.value)?;
    let read = Authorities::read(&pem);
    let unfit = |why: &String| {
        cx.error(Code::Value, at.span, format!("{}: {why}", at.value))
            .help("write the path of a PEM file with the certificates of the authorities");
    };
    read.inspect_err(unfit).ok()
}

/// Out of the files of a certificate and its key.
fn certificate([cert, key]: [&At<Arc<str>>; 2], now_s: u64, cx: &mut Cx) -> Option<Certificate> {
    let (chain, secret) = (cx.document(cert.span, &cert.value), cx.document(key.span, &key.value));
    let certificate = match Certificate::read(&cert.value, &chain?, &secret?) {
        Ok(certificate) => certificate,
        Err(Unfit::Certificate(why)) => {
            cx.error(Code::Value, cert.span, format!("{}: {why}", cert.value)).help(
                "write the path of a PEM file: the certificate, and then those that lead to its authority",
            );
            return None;
        }
        Err(Unfit::Key(why)) => {
            cx.error(Code::Value, key.span, format!("{}: {why}", key.value))
                .help("write the path of a PEM file with the private key, without a password");
            return None;
        }
        Err(Unfit::Pair) => {
            let place = cx.place(cert.span);
            cx.error(Code::Conflict, key.span, format!("{}: is the key of another certificate", key.value))
                .related(place, "the certificate")
                .help("write the file of its own key; where both are renewed, put the two new files in place before either is read");
            return None;
        }
    };
    told_of_time(cert, &certificate, Duration::from_secs(now_s), cx);
    Some(certificate)
}

/// Warnings: to refuse it would take away what else has changed, and time passes by itself.
fn told_of_time(at: &At<Arc<str>>, certificate: &Certificate, now: Duration, cx: &mut Cx) {
    let days_from = |one: Duration, other: Duration| other.saturating_sub(one).as_secs() / 86_400;
    let message = if certificate.not_before() > now {
        format!("{}: is not valid yet", at.value)
    } else if certificate.not_after() <= now {
        format!("{}: has not been valid for {} days", at.value, days_from(certificate.not_after(), now))
    } else if certificate.not_after() <= now + SOON {
        format!("{}: is valid for {} more days", at.value, days_from(now, certificate.not_after()))
    } else {
        return;
    };
    cx.error(Code::Value, at.span, message).warning().help("put a new one in its place: it is taken at once");
}
