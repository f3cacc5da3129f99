//! Certificates that are shown, and authorities that are believed.

use std::{fmt, sync::Arc, time::Duration};

use aws_lc_rs::digest::{SHA256, digest};
use tokio_rustls::rustls::{
    self, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    sign::CertifiedKey,
};

use super::{
    names::{Names, Said},
    provider,
};

/// A certificate with those that lead to its authority, and its key.
#[derive(Clone)]
pub struct Certificate {
    key: Arc<CertifiedKey>,
    names: Names,
    valid: [Duration; 2],
    sha256: [u8; 32],
    file: Arc<str>,
}

/// Why there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// The certificate, or one of those that lead to its authority.
    Certificate(String),
    /// The key.
    Key(String),
    /// The key is that of another certificate.
    Pair,
}

impl Certificate {
    /// Out of what stands in two PEM files (RFC 7468): the certificate first and then those that lead to its authority; and its
    /// key, in PKCS #8, PKCS #1 or SEC 1. The file of the certificate is told where somebody has to know which it is.
    ///
    /// # Errors
    /// If they are not such, or not of each other.
    pub fn read(file: &Arc<str>, chain: &[u8], key: &[u8]) -> Result<Self, Unfit> {
        let chain = certificates(chain).map_err(Unfit::Certificate)?;
        let said = Said::of(&chain[0])
            .map_err(|error| Unfit::Certificate(format!("its first certificate cannot be read: {error}")))?;
        let key = PrivateKeyDer::from_pem_slice(key)
            .map_err(|_| Unfit::Key("has no private key in PEM, or one with a password".into()))?;
        let sha256 = hash(&chain);
        let key = CertifiedKey::from_der(chain, key, provider()).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => Unfit::Pair,
            error => Unfit::Key(format!("its key cannot be used: {error}")),
        })?;
        Ok(Self { key: Arc::new(key), names: said.names, valid: said.valid, sha256, file: Arc::clone(file) })
    }

    /// The hosts it is for.
    pub const fn names(&self) -> &Names {
        &self.names
    }

    /// From when on it is valid, since 1970.
    pub const fn not_before(&self) -> Duration {
        self.valid[0]
    }

    /// Until when it is valid, since 1970.
    pub const fn not_after(&self) -> Duration {
        self.valid[1]
    }

    /// Where it was read from, as it was written.
    pub const fn file(&self) -> &Arc<str> {
        &self.file
    }

    pub(super) const fn key(&self) -> &Arc<CertifiedKey> {
        &self.key
    }
}

/// The same certificates are of the same key.
impl PartialEq for Certificate {
    fn eq(&self, other: &Self) -> bool {
        self.sha256 == other.sha256 && self.file == other.file
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate")
            .field("file", &self.file)
            .field("names", &self.names)
            .finish_non_exhaustive()
    }
}

/// Those who are believed when they say who somebody is.
#[derive(Clone)]
pub struct Authorities {
    roots: Arc<RootCertStore>,
    sha256: [u8; 32],
}

impl Authorities {
    /// Out of what stands in a PEM file: at least one.
    ///
    /// # Errors
    /// If one of them cannot be an authority.
    pub fn read(pem: &[u8]) -> Result<Self, String> {
        let all = certificates(pem)?;
        let (sha256, mut roots) = (hash(&all), RootCertStore::empty());
        for (number, certificate) in all.into_iter().enumerate() {
            roots
                .add(certificate)
                .map_err(|error| format!("its certificate {} can be no authority: {error}", number + 1))?;
        }
        Ok(Self { roots: Arc::new(roots), sha256 })
    }

    pub(super) const fn roots(&self) -> &Arc<RootCertStore> {
        &self.roots
    }
}

impl PartialEq for Authorities {
    fn eq(&self, other: &Self) -> bool {
        self.sha256 == other.sha256
    }
}

impl fmt::Debug for Authorities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authorities").field("count", &self.roots.len()).finish_non_exhaustive()
    }
}

/// At least one.
fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let all = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    let all = all.map_err(|error| format!("is not PEM: {error}"))?;
    if all.is_empty() { Err("has no certificate in PEM".into()) } else { Ok(all) }
}

fn hash(all: &[CertificateDer<'_>]) -> [u8; 32] {
    let each = all.iter().flat_map(|der| digest(&SHA256, der).as_ref().to_vec()).collect::<Vec<_>>();
    digest(&SHA256, &each).as_ref().try_into().expect("SHA-256 has 32 bytes")
}
