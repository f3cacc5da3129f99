//! TLS with endpoints.

use std::{
    fmt, io,
    sync::{Arc, OnceLock},
};

use rustls_platform_verifier::Verifier;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        self, CertificateError, ClientConfig, DigitallySignedStruct, SignatureScheme,
        client::{
            Resumption, WebPkiServerVerifier,
            danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
            verify_server_cert_signed_by_trust_anchor, verify_server_name,
        },
        crypto::{verify_tls12_signature, verify_tls13_signature},
        pki_types::{CertificateDer, ServerName, UnixTime},
        server::ParsedCertificate,
        sign::SingleCertAndKey,
    },
};

use super::{Authorities, Certificate, names::Said, provider};

/// Sessions that are remembered, to be resumed.
const SESSIONS: usize = 256;

/// Who is believed when they say who an endpoint is.
#[derive(Clone, Debug, PartialEq)]
pub enum Trust {
    /// Those whom this machine believes; `SSL_CERT_FILE` and `SSL_CERT_DIR` say otherwise.
    Machine,
    /// These and no others.
    Only(Authorities),
    /// Anybody: whoever is between us and the endpoint can be the endpoint.
    Anybody,
}

/// A name that a certificate has to be for.
#[derive(Clone, Debug, PartialEq)]
pub enum Expected {
    /// A host.
    Host(ServerName<'static>),
    /// A URI, such as a SPIFFE ID.
    Uri(Arc<str>),
}

/// What is spoken over it (RFC 7301).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alpn {
    /// HTTP/1.1.
    H1,
    /// HTTP/2.
    H2,
}

/// What connections to endpoints have to be.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    /// Who is believed.
    pub trust: Trust,
    /// The name that is asked for; `None`: the host of each endpoint's address.
    pub name: Option<ServerName<'static>>,
    /// Names of which a certificate has to have one, in place of that which is asked for. None: that one.
    pub expected: Vec<Expected>,
    /// What is shown of us.
    pub shown: Option<Arc<Certificate>>,
    /// What is spoken.
    pub alpn: Alpn,
}

/// How connections to the endpoints of an upstream are secured. What is wanted is what makes the difference of two.
#[derive(Clone)]
pub struct ClientTls {
    wanted: Wanted,
    config: Arc<ClientConfig>,
}

impl ClientTls {
    /// As it is wanted. URIs are only expected of authorities that are named.
    ///
    /// # Errors
    /// If this machine believes nobody.
    pub fn new(wanted: Wanted) -> Result<Self, String> {
        let builder = ClientConfig::builder_with_provider(Arc::clone(provider()));
        let builder = builder.with_safe_default_protocol_versions().expect("the provider has both versions");
        let builder = builder.dangerous().with_custom_certificate_verifier(verifier(&wanted)?);
        let mut config = match &wanted.shown {
            None => builder.with_no_client_auth(),
            Some(shown) => {
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(shown.key()))))
            }
        };
        config.alpn_protocols = vec![match wanted.alpn {
            Alpn::H1 => b"http/1.1".to_vec(),
            Alpn::H2 => b"h2".to_vec(),
        }];
        config.resumption = Resumption::in_memory_sessions(SESSIONS);
        Ok(Self { wanted, config: Arc::new(config) })
    }

    /// As browsers do it: HTTP/1.1 with whoever this machine believes to be the host.
    ///
    /// # Errors
    /// If this machine believes nobody.
    pub fn usual() -> Result<Self, String> {
        Self::with_machine(Alpn::H1)
    }

    /// The same over HTTP/2.
    ///
    /// # Errors
    /// If this machine believes nobody.
    pub fn usual_h2() -> Result<Self, String> {
        Self::with_machine(Alpn::H2)
    }

    fn with_machine(alpn: Alpn) -> Result<Self, String> {
        Self::new(Wanted { trust: Trust::Machine, name: None, expected: Vec::new(), shown: None, alpn })
    }

    /// Secures a connection to the endpoint with this address, `host:port`. Whoever calls bounds the time.
    ///
    /// # Errors
    /// If the endpoint is not who it should be, or does not speak what is wanted.
    pub async fn connect<S>(&self, address: &str, stream: S) -> io::Result<TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let name = match &self.wanted.name {
            Some(name) => name.clone(),
            None => {
                host(address).ok_or_else(|| io::Error::other("the endpoint has no name to be asked for"))?
            }
        };
        let stream = TlsConnector::from(Arc::clone(&self.config)).connect(name, stream).await?;
        let has_h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        if self.wanted.alpn == Alpn::H2 && !has_h2 {
            return Err(io::Error::other("the endpoint does not offer HTTP/2 over TLS (ALPN `h2`)"));
        }
        Ok(stream)
    }

    /// Whether HTTP/2 is spoken.
    pub fn is_h2(&self) -> bool {
        self.wanted.alpn == Alpn::H2
    }
}

impl PartialEq for ClientTls {
    fn eq(&self, other: &Self) -> bool {
        self.wanted == other.wanted
    }
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ClientTls").field(&self.wanted).finish()
    }
}

/// The name or address in `host:port`.
pub(super) fn host(address: &str) -> Option<ServerName<'static>> {
    let (host, _) = address.rsplit_once(':')?;
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    ServerName::try_from(bare.to_owned()).ok()
}

fn verifier(wanted: &Wanted) -> Result<Arc<dyn ServerCertVerifier>, String> {
    let usual: Arc<dyn ServerCertVerifier> = match &wanted.trust {
        Trust::Machine => machine()?,
        Trust::Only(authorities) => {
            let roots = Arc::clone(authorities.roots());
            let verifier = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(provider()));
            verifier.build().map_err(|error| error.to_string())?
        }
        Trust::Anybody => return Ok(Arc::new(Unverified)),
    };
    if wanted.expected.is_empty() {
        return Ok(usual);
    }
    let authorities = match &wanted.trust {
        Trust::Only(authorities) => Some(authorities.clone()),
        Trust::Machine | Trust::Anybody => None,
    };
    Ok(Arc::new(OneOf { usual, authorities, expected: wanted.expected.clone() }))
}

/// Whoever believes whom this machine does; to read that takes milliseconds.
fn machine() -> Result<Arc<Verifier>, String> {
    static MACHINE: OnceLock<Arc<Verifier>> = OnceLock::new();
    if let Some(made) = MACHINE.get() {
        return Ok(Arc::clone(made));
    }
    // A failure is not kept: certificates may be there at the next attempt.
    let made = Verifier::new(Arc::clone(provider())).map_err(|error| error.to_string())?;
    Ok(Arc::clone(MACHINE.get_or_init(|| Arc::new(made))))
}

/// Wants one of several names, whichever is asked for.
#[derive(Debug)]
struct OneOf {
    usual: Arc<dyn ServerCertVerifier>,
    /// Those of `usual`, if they are known here.
    authorities: Option<Authorities>,
    expected: Vec<Expected>,
}

impl OneOf {
    fn has_one(&self, der: &CertificateDer<'_>) -> Result<bool, rustls::Error> {
        let certificate = ParsedCertificate::try_from(der)?;
        let unreadable = |_| rustls::Error::InvalidCertificate(CertificateError::BadEncoding);
        let uris = Said::of(der).map_err(unreadable)?.uris;
        Ok(self.expected.iter().any(|expected| match expected {
            Expected::Host(host) => verify_server_name(&certificate, host).is_ok(),
            Expected::Uri(uri) => uris.contains(uri),
        }))
    }
}

impl ServerCertVerifier for OneOf {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if !self.has_one(end_entity)? {
            return Err(rustls::Error::InvalidCertificate(CertificateError::NotValidForName));
        }
        let Some(authorities) = &self.authorities else {
            let hosts = self.expected.iter().filter_map(|expected| match expected {
                Expected::Host(host) => Some(host),
                Expected::Uri(_) => None,
            });
            let verify = |host| self.usual.verify_server_cert(end_entity, intermediates, host, ocsp, now);
            let mut result = Err(rustls::Error::InvalidCertificate(CertificateError::NotValidForName));
            for host in hosts {
                result = verify(host);
                if result.is_ok() {
                    break;
                }
            }
            return result;
        };
        let certificate = ParsedCertificate::try_from(end_entity)?;
        let algorithms = provider().signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(
            &certificate,
            authorities.roots(),
            intermediates,
            now,
            algorithms,
        )?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.usual.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.usual.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.usual.supported_verify_schemes()
    }
}

/// Believes anybody. That whoever shows a certificate has its key is still looked at.
#[derive(Debug)]
struct Unverified;

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
