//! A certificate that is ordered while its listener serves, and what its authority looks for meanwhile.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use arc_swap::ArcSwapOption;
use tokio_rustls::rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivatePkcs8KeyDer},
    server::{ClientHello, NoServerSessionStorage},
    sign::{CertifiedKey, SingleCertAndKey},
};

use super::{Certificate, provider};

/// What an authority speaks, and nothing else, when it looks whose a host is (RFC 8737 §3).
const ACME: &[u8] = b"acme-tls/1";

/// The place of a certificate that is ordered: empty until there is one, and renewed without anybody noticing.
pub struct Ordered {
    domains: Vec<Arc<str>>,
    certificate: ArcSwapOption<Certificate>,
    /// By host, in lower case; one for each at most.
    challenges: Mutex<BTreeMap<Arc<str>, Arc<ServerConfig>>>,
}

impl Ordered {
    /// For these hosts, in lower case. Until its own is there, it shows another one for those of them that it covers.
    pub fn new(domains: &[Arc<str>], before: Option<Arc<Certificate>>) -> Arc<Self> {
        let certificate = ArcSwapOption::new(before);
        Arc::new(Self { domains: domains.to_vec(), certificate, challenges: Mutex::default() })
    }

    /// The hosts.
    pub fn domains(&self) -> &[Arc<str>] {
        &self.domains
    }

    /// The certificate, if there is one.
    pub fn get(&self) -> Option<Arc<Certificate>> {
        self.certificate.load_full()
    }

    /// From the next handshake on it is this one.
    pub fn put(&self, certificate: Arc<Certificate>) {
        self.certificate.store(Some(certificate));
    }

    /// Whether a host is one of them: in lower case.
    pub(super) fn has(&self, host: &str) -> bool {
        self.domains.iter().any(|domain| **domain == *host)
    }

    /// Shows this certificate, with its key in PKCS #8, to whoever looks whose this host is (RFC 8737 §3), until what is handed
    /// back is dropped.
    ///
    /// # Errors
    /// If the key cannot be used.
    pub fn challenge(
        self: &Arc<Self>,
        host: &str,
        certificate: CertificateDer<'static>,
        key: PrivatePkcs8KeyDer<'static>,
    ) -> Result<Challenged, String> {
        let builder = ServerConfig::builder_with_provider(Arc::clone(provider()));
        let builder = builder.with_safe_default_protocol_versions().expect("the provider has both versions");
        let key = provider().key_provider.load_private_key(key.into()).map_err(|error| error.to_string())?;
        // Nobody looks whether they are of each other: what marks it is critical, and means nothing to whom it is not for.
        let shown = SingleCertAndKey::from(CertifiedKey::new(vec![certificate], key));
        let mut config = builder.with_no_client_auth().with_cert_resolver(Arc::new(shown));
        config.alpn_protocols = vec![ACME.to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        let host = Arc::<str>::from(host);
        self.challenges().insert(Arc::clone(&host), Arc::new(config));
        Ok(Challenged { of: Arc::clone(self), host })
    }

    /// What is shown to who looks whose this host is, in lower case.
    pub(super) fn challenged(&self, host: &str) -> Option<Arc<ServerConfig>> {
        self.challenges().get(host).cloned()
    }

    fn challenges(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, Arc<ServerConfig>>> {
        self.challenges.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Ordered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ordered").field("domains", &self.domains).finish_non_exhaustive()
    }
}

/// As long as it is there, a host answers its authority.
#[derive(Debug)]
#[must_use = "the challenge ends when it is dropped"]
pub struct Challenged {
    of: Arc<Ordered>,
    host: Arc<str>,
}

impl Drop for Challenged {
    fn drop(&mut self) {
        self.of.challenges().remove(&self.host);
    }
}

/// Whether it is an authority that looks: it speaks that, and nothing else.
pub(super) fn is_challenge(hello: &ClientHello<'_>) -> bool {
    let mut spoken = hello.alpn().into_iter().flatten();
    spoken.next() == Some(ACME) && spoken.next().is_none()
}
