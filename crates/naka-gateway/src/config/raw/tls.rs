//! The records of TLS.

use std::sync::Arc;

use serde_json::{Value as Json, json};

use crate::config::{
    decode::{At, OneOrMany, Scalar, Text, Wrong},
    record::{record, words},
    suggest::quoted,
    values::{TlsName, Url},
};

record! {
    /// TLS with clients.
    RawListenerTls ("TLS such as `{certificates: [{cert: api.pem, key: api.key}]}`") {
        /// What is shown, by the name that a client asks for: the first to who names none, or one that none is for.
        certificates: Vec<At<RawCertificate>> = optional, "[{cert: tls/api.pem, key: tls/api.key}]";
        /// A certificate that is ordered from an authority and renewed by itself (RFC 8555); beside `certificates`, or instead.
        acme: RawAcme = optional, "{domains: [shop.example], directory: \"https://acme-v02.api.letsencrypt.org/directory\", folder: /var/lib/naka/acme, accept_terms: true}";
        /// A PEM file of authorities: clients show a certificate of one of them, and are who it says.
        client_ca: Arc<str> = optional, "tls/clients.pem";
        /// Whether clients without a certificate are turned away: `required`, or `optional`.
        client_auth: RawClientAuth = "required";
        /// The oldest version that is spoken.
        min_version: RawTlsVersion = "1.2";
        /// Refuse a request for a host that the certificate is not for (RFC 9110 §7.4), with a 421.
        check_host: bool = "true";
    }
    instead: cert => "write `certificates: [{cert: api.pem, key: api.key}]`",
        key => "write `certificates: [{cert: api.pem, key: api.key}]`",
        certificate => "write `certificates: [{cert: api.pem, key: api.key}]`",
        ca => "write `client_ca:` for the authorities of clients; those of `cert` go into its file",
        alpn => "write `protocols: [h1, h2]` beside `tls`",
        letsencrypt => "write `acme:`, with the `directory:` of Let's Encrypt",
        auto => "write `acme:`",
        ciphers => "they are those of rustls, all of them with forward secrecy";
}

record! {
    /// A certificate, and its key.
    RawCertificate ("a certificate such as `{cert: api.pem, key: api.key}`") {
        /// A PEM file seen from this one: the certificate, and then those that lead to its authority.
        cert: Arc<str> = required, "tls/api.pem";
        /// A PEM file with its private key. Only the user of the process should be able to read it.
        key: Arc<str> = required, "tls/api.key";
    }
    instead: chain => "write all of them into the file of `cert`, its own first";
}

record! {
    /// A certificate that an authority gives by itself (RFC 8555), to whoever answers at its hosts (TLS-ALPN-01, RFC 8737).
    RawAcme ("ACME such as `{domains: [shop.example], directory: \"https://acme.example/directory\", folder: /var/lib/naka/acme, accept_terms: true}`") {
        /// The hosts of the certificate, without wildcards; at most 100. The authority reaches each at port 443 of this listener.
        domains: OneOrMany<TlsName> = required, "[shop.example, www.shop.example]";
        /// Where the authority is. There is no default: whose terms are agreed to is said here.
        directory: Url = required, "\"https://acme-v02.api.letsencrypt.org/directory\"";
        /// A folder seen from this file, for the key of the account and the certificate with its key. Only the user of the process may read them.
        folder: Arc<str> = required, "/var/lib/naka/acme";
        /// That the terms of service of this authority are agreed to: `true`.
        accept_terms: bool = required, "true";
        /// Addresses of mail that the authority may write to; at most 10.
        contact: OneOrMany<Arc<str>> = optional, "[ops@shop.example]";
        /// A PEM file of authorities that `directory` itself is verified by, in place of those that this machine believes.
        ca: Arc<str> = optional, "tls/ca.pem";
    }
    instead: email => "write `contact:`",
        domain => "write `domains:`",
        hosts => "write `domains:`",
        server => "write `directory:`",
        url => "write `directory:`",
        storage => "write `folder:`",
        agree_tos => "write `accept_terms: true`";
}

words! {
    /// Whether clients show a certificate.
    RawClientAuth ("`required` or `optional`") { Required = "required", Optional = "optional" }
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RawTlsVersion {
    Tls12,
    Tls13,
}

impl Scalar for RawTlsVersion {
    const WHAT: &'static str = "`1.2` or `1.3`";
    const WORDS: &'static [&'static str] = &["1.2", "1.3"];

    fn parse(text: Text<'_>) -> Result<Self, Wrong> {
        match text.text.trim_start_matches("TLS").trim_start_matches(['v', ' ']) {
            "1.2" => Ok(Self::Tls12),
            "1.3" => Ok(Self::Tls13),
            "1.0" | "1.1" => {
                Err(Wrong::new("TLS 1.0 and 1.1 must not be spoken (RFC 8996)").help("write `1.2`"))
            }
            other => Err(Wrong::new(format!("{} is no version of TLS that is spoken", quoted(other)))
                .help("write `1.2` or `1.3`")),
        }
    }

    fn canonical(&self) -> Option<String> {
        Some(match self {
            Self::Tls12 => "1.2".into(),
            Self::Tls13 => "1.3".into(),
        })
    }

    fn schema() -> Json {
        json!({"enum": [1.2, 1.3, "1.2", "1.3"]})
    }
}

record! {
    /// TLS with endpoints.
    RawUpstreamTls ("TLS such as `{sni: app.internal}`, or `{}`") {
        /// The name that endpoints are asked for, and that their certificates have to be for; without it the host of each.
        sni: TlsName = optional, "booking.internal";
        /// A PEM file of the authorities of their certificates, in place of those that this machine believes.
        ca: Arc<str> = optional, "tls/ca.pem";
        /// Names of which a certificate has to have one, in place of `sni`: hosts, or URIs such as SPIFFE IDs.
        verify_san: OneOrMany<TlsName> = optional, "[\"spiffe://naka/ns/rides/sa/booking\"]";
        /// A PEM file with the certificate that is shown to them.
        cert: Arc<str> = optional, "tls/gateway.pem";
        /// A PEM file with its private key.
        key: Arc<str> = optional, "tls/gateway.key";
        /// Whether it is made sure who they are. Without it whoever is on the way can read and change everything.
        verify: bool = "true";
    }
    instead: insecure_skip_verify => "write `verify: false`, for tests: else say whom to believe with `ca:`",
        server_name => "write `sni:`",
        certificates => "write `cert:` and `key:`",
        client_ca => "write `ca:`";
}
