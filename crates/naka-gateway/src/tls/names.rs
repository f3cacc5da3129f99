//! Whom a certificate is for.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc, time::Duration};

use naka::identity::{Claim, Identity, Scheme};
use x509_cert::{
    Certificate,
    der::Decode as _,
    ext::pkix::{SubjectAltName, name::GeneralName},
    time::Time,
};

/// The hosts that a certificate is for: those in its `subjectAltName` (RFC 9525 §6.3), and nothing in its subject.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    exact: BTreeSet<Box<str>>,
    /// What stands behind `*.`.
    wildcards: BTreeSet<Box<str>>,
    addresses: BTreeSet<IpAddr>,
}

impl Names {
    /// Whether a host is one of them: in lower case, without a port; an address of IPv6 may be in brackets. A wildcard stands for
    /// one label.
    pub fn cover(&self, host: &str) -> bool {
        if self.exact.contains(host) {
            return true;
        }
        if host
            .split_once('.')
            .is_some_and(|(label, rest)| !label.is_empty() && self.wildcards.contains(rest))
        {
            return true;
        }
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        !self.addresses.is_empty() && bare.parse().is_ok_and(|address| self.addresses.contains(&address))
    }

    /// Names of hosts, those with `*.` among them.
    pub fn hosts(&self) -> impl Iterator<Item = String> {
        let wildcards = self.wildcards.iter().map(|suffix| format!("*.{suffix}"));
        self.exact.iter().map(ToString::to_string).chain(wildcards)
    }

    /// Whether it is for nobody.
    pub fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.wildcards.is_empty() && self.addresses.is_empty()
    }

    fn add(&mut self, name: &str) {
        let name = name.to_ascii_lowercase();
        match name.strip_prefix("*.") {
            Some(suffix) if suffix.contains('.') => self.wildcards.insert(suffix.into()),
            Some(_) => false, // A wildcard for all of a top level is none.
            None => self.exact.insert(name.into()),
        };
    }
}

/// What a certificate says of itself.
pub(super) struct Said {
    pub(super) names: Names,
    pub(super) uris: Vec<Arc<str>>,
    common_name: Option<Arc<str>>,
    /// From when and until when it is valid, since 1970.
    pub(super) valid: [Duration; 2],
}

impl Said {
    /// # Errors
    /// If it is no certificate of RFC 5280.
    pub(super) fn of(der: &[u8]) -> Result<Self, x509_cert::der::Error> {
        let certificate = Certificate::from_der(der)?;
        let said = certificate.tbs_certificate();
        let (mut names, mut uris) = (Names::default(), Vec::new());
        if let Some((_, SubjectAltName(all))) = said.get_extension::<SubjectAltName>()? {
            for name in all {
                match name {
                    GeneralName::DnsName(name) => names.add(name.as_str()),
                    GeneralName::UniformResourceIdentifier(uri) => uris.push(uri.as_str().into()),
                    GeneralName::IpAddress(bytes) => names.addresses.extend(address(bytes.as_bytes())),
                    _ => {}
                }
            }
        }
        let common_name = said.subject().common_name()?.map(|name| name.value().into());
        let valid = [said.validity().not_before, said.validity().not_after].map(Time::to_unix_duration);
        Ok(Self { names, uris, common_name, valid })
    }

    /// Who it is: the one URI of it, as a SPIFFE ID is (X.509-SVID §2); else its one host; else its common name. Of two of a kind
    /// nobody could say which counts.
    fn subject(&self) -> Option<Arc<str>> {
        let mut hosts = self.names.hosts();
        match (&self.uris[..], hosts.next(), hosts.next()) {
            ([uri], ..) => Some(Arc::clone(uri)),
            ([], Some(host), None) => Some(host.into()),
            ([], None, _) => self.common_name.clone(),
            _ => None,
        }
    }
}

/// Who a client is by its certificate, which was verified. Its names are claims: `dns`, `uri`, `cn`.
///
/// # Errors
/// If it is no certificate of RFC 5280, or is not valid at this time since 1970 (RFC 5280 §4.1.2.5): a session is resumed with
/// the certificate that it began with, which nobody looks at then.
pub(super) fn identity(der: &[u8], now: Option<Duration>) -> Result<Identity, String> {
    let said = Said::of(der).map_err(|error| error.to_string())?;
    if now.is_none_or(|now| now > said.valid[1]) {
        return Err("the certificate that the client has shown is over".to_owned());
    }
    let mut identity = Identity::new(Scheme::Mtls, said.subject());
    let list = |all: &mut dyn Iterator<Item = Arc<str>>| Claim::List(all.map(Claim::Text).collect());
    identity.claims.insert("dns".into(), list(&mut said.names.hosts().map(Arc::from)));
    identity.claims.insert("uri".into(), list(&mut said.uris.iter().cloned()));
    identity.claims.extend(said.common_name.map(|name| ("cn".into(), Claim::Text(name))));
    Ok(identity)
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair, SanType};

    fn der(names: &[&str], uris: &[&str]) -> Vec<u8> {
        let names = names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let mut params = CertificateParams::new(names).unwrap();
        let uri = |uri: &&str| SanType::URI((*uri).try_into().unwrap());
        params.subject_alt_names.extend(uris.iter().map(uri));
        params.distinguished_name.push(rcgen::DnType::CommonName, "who");
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn a_wildcard_stands_for_one_label() {
        let names =
            Said::of(&der(&["API.example", "*.shop.example", "192.0.2.7", "::1"], &[])).unwrap().names;
        for host in ["api.example", "a.shop.example", "192.0.2.7", "[::1]"] {
            assert!(names.cover(host), "{host}");
        }
        for host in ["shop.example", "a.b.shop.example", ".shop.example", "192.0.2.8", "[::2]", "", "example"]
        {
            assert!(!names.cover(host), "{host}");
        }
    }

    #[test]
    fn a_client_is_who_its_certificate_says_once() {
        let subject = |names: &[&str], uris: &[&str]| {
            identity(&der(names, uris), Some(Duration::ZERO)).unwrap().subject
        };
        assert_eq!(subject(&["a.example"], &["spiffe://naka/a"]).as_deref(), Some("spiffe://naka/a"));
        assert_eq!(subject(&["a.example"], &[]).as_deref(), Some("a.example"));
        assert_eq!(subject(&[], &[]).as_deref(), Some("who"));
        assert_eq!(subject(&["a.example", "b.example"], &[]), None, "nobody could say which counts");
        assert_eq!(subject(&["a.example"], &["spiffe://naka/a", "spiffe://naka/b"]), None);
    }
}
