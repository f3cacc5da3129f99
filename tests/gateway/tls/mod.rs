//! TLS with clients and with endpoints: whom each believes, and what a change of that does to connections there are.

mod behind;
mod clients;
mod crowds;
mod endpoints;
mod mesh;
mod proxied;

use std::{net::IpAddr, sync::Arc};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, RootCertStore, ServerConfig,
        crypto::aws_lc_rs,
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
        server::WebPkiClientVerifier,
        version::{TLS12, TLS13},
    },
};

/// Whoever certifies others.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, in PEM.
#[derive(Clone)]
pub(crate) struct Pair {
    pub(crate) cert: String,
    pub(crate) key: String,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    fn der(&self) -> CertificateDer<'static> {
        self.0.der().clone()
    }

    /// For hosts, addresses and URIs.
    pub(crate) fn certify(&self, names: &[&str]) -> Pair {
        self.certify_until(names, 2100)
    }

    fn certify_until(&self, names: &[&str], year: i32) -> Pair {
        self.certify_with(names, |params| params.not_after = rcgen::date_time_ymd(year, 1, 1))
    }

    fn certify_with(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Pair {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = names.iter().map(|name| san(name)).collect();
        params.distinguished_name.push(DnType::CommonName, "somebody");
        change(&mut params);
        let certificate = params.signed_by(&key, &self.0).unwrap();
        Pair { cert: certificate.pem(), key: key.serialize_pem() }
    }
}

fn san(name: &str) -> SanType {
    if name.contains("://") {
        return SanType::URI(name.try_into().unwrap());
    }
    name.parse::<IpAddr>().map_or_else(|_| SanType::DnsName(name.try_into().unwrap()), SanType::IpAddress)
}

impl Pair {
    fn chain(&self) -> Vec<CertificateDer<'static>> {
        CertificateDer::pem_slice_iter(self.cert.as_bytes()).collect::<Result<_, _>>().unwrap()
    }

    fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_slice(self.key.as_bytes()).unwrap()
    }
}

/// How a client of the tests connects.
#[derive(Clone)]
pub(crate) struct Dialing {
    roots: Vec<CertificateDer<'static>>,
    shown: Option<Pair>,
    alpn: Vec<&'static [u8]>,
    is_old: bool,
}

impl Dialing {
    /// Believing this one, with HTTP/1.1.
    pub(crate) fn new(authority: &Authority) -> Self {
        Self { roots: vec![authority.der()], shown: None, alpn: vec![b"http/1.1"], is_old: false }
    }

    pub(crate) fn showing(self, pair: &Pair) -> Self {
        Self { shown: Some(pair.clone()), ..self }
    }

    fn speaking(self, alpn: &[&'static [u8]]) -> Self {
        Self { alpn: alpn.to_vec(), ..self }
    }

    /// Of one alone sessions are resumed.
    fn config(&self) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        for root in &self.roots {
            roots.add(root.clone()).unwrap();
        }
        let versions = if self.is_old { &[&TLS12] } else { &[&TLS13] };
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
        let builder = builder.with_protocol_versions(versions).unwrap().with_root_certificates(roots);
        let mut config = match &self.shown {
            Some(pair) => builder.with_client_auth_cert(pair.chain(), pair.key()).unwrap(),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = self.alpn.iter().map(|word| word.to_vec()).collect();
        Arc::new(config)
    }

    /// Over this stream, asking for this name.
    pub(crate) async fn over<S>(&self, stream: S, name: &str) -> std::io::Result<TlsStream<S>>
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    {
        connect(self.config(), stream, name).await
    }
}

async fn connect<S>(config: Arc<ClientConfig>, stream: S, name: &str) -> std::io::Result<TlsStream<S>>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let name = ServerName::try_from(name.to_owned()).unwrap();
    TlsConnector::from(config).connect(name, stream).await
}

/// How an endpoint of the tests is secured.
pub(crate) fn serving(pair: &Pair, alpn: &[&'static [u8]], clients: Option<&Authority>) -> ServerConfig {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider));
    let builder = builder.with_safe_default_protocol_versions().unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            roots.add(authority.der()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().unwrap())
        }
    };
    let mut config = builder.with_single_cert(pair.chain(), pair.key()).unwrap();
    config.alpn_protocols = alpn.iter().map(|word| word.to_vec()).collect();
    config
}
