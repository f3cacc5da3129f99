//! TLS with clients.

use std::{collections::BTreeMap, fmt, io, sync::Arc};

use naka::{
    clock::{Now, WallClock},
    identity::Identity,
};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio_rustls::{
    LazyConfigAcceptor, TlsAcceptor,
    rustls::{
        self, HandshakeKind, ServerConfig, SupportedProtocolVersion,
        crypto::aws_lc_rs::Ticketer,
        server::{ClientHello, ProducesTickets, ResolvesServerCert, WebPkiClientVerifier},
        sign::CertifiedKey,
        version::{TLS12, TLS13},
    },
    server::TlsStream,
};

use super::{
    Authorities, Certificate,
    names::identity,
    ordered::{Ordered, is_challenge},
    provider,
};
use crate::{
    config::checked::{Acme, Protocols},
    seldom::Seldom,
};

/// How a listener is secured.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerTls {
    /// What is shown: the first to who names no host, or one that none is for. At least one, unless one is ordered.
    pub certificates: Vec<Arc<Certificate>>,
    /// What is ordered. Its hosts are shown that, and others as long as it is not there.
    pub acme: Option<Arc<Acme>>,
    /// What clients have to show, if anything.
    pub clients: Option<Clients>,
    /// The oldest version that is spoken.
    pub oldest: Oldest,
    /// Whether a request for a host that the certificate is not for is refused (RFC 9110 §7.4).
    pub checks_host: bool,
}

/// What clients have to show.
#[derive(Clone, Debug, PartialEq)]
pub struct Clients {
    /// Whom their certificates are of.
    pub authorities: Authorities,
    /// Whether those without one are turned away.
    pub is_required: bool,
}

/// The oldest version that is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Oldest {
    /// TLS 1.2.
    Tls12,
    /// TLS 1.3.
    Tls13,
}

/// The keys of the tickets by which clients resume sessions, for as long as they have to show the same.
#[derive(Clone)]
pub struct Tickets(Option<Arc<dyn ProducesTickets>>);

impl Tickets {
    /// New keys. Without randomness there are none, and no session is resumed.
    pub fn new() -> Self {
        Self(Ticketer::new().ok())
    }
}

impl Default for Tickets {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tickets")
    }
}

/// Secures the connections of one listener.
pub struct Acceptor {
    inner: TlsAcceptor,
    shown: Arc<Shown>,
    checks_host: bool,
    complaints: Seldom,
}

/// What became of a handshake that came to its end.
#[derive(Debug)]
pub enum Accepted<S> {
    /// A connection for requests.
    Secured(Box<Secured<S>>),
    /// An authority has looked whose a host is: nothing follows.
    Challenge,
    /// The client asked for a host whose certificate is ordered, and not there yet; it was told that there is none.
    NoCertificate,
}

/// A connection that is secured.
#[derive(Debug)]
pub struct Secured<S> {
    /// What is said over it.
    pub stream: TlsStream<S>,
    /// Whether HTTP/2 is spoken (RFC 7301); else HTTP/1.1.
    pub is_h2: bool,
    /// Whether a session was resumed.
    pub is_resumed: bool,
    /// Who the client is, if it has shown that.
    pub identity: Option<Arc<Identity>>,
    /// The hosts that it may ask for.
    pub hosts: Option<Hosts>,
}

impl Acceptor {
    /// For a listener on which this is spoken, with the place of what is ordered for it.
    pub fn new(
        tls: &ServerTls,
        protocols: Protocols,
        tickets: &Tickets,
        ordered: Option<&Arc<Ordered>>,
    ) -> Self {
        let shown = Arc::new(Shown::new(&tls.certificates, ordered));
        let versions: &[&SupportedProtocolVersion] = match tls.oldest {
            Oldest::Tls12 => &[&TLS13, &TLS12],
            Oldest::Tls13 => &[&TLS13],
        };
        let builder = ServerConfig::builder_with_provider(Arc::clone(provider()));
        let builder = builder.with_protocol_versions(versions).expect("the provider has both versions");
        let builder = match &tls.clients {
            None => builder.with_no_client_auth(),
            Some(clients) => {
                let roots = Arc::clone(clients.authorities.roots());
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(provider()));
                let verifier = if clients.is_required { verifier } else { verifier.allow_unauthenticated() };
                builder.with_client_cert_verifier(verifier.build().expect("there is at least one authority"))
            }
        };
        let mut config = builder.with_cert_resolver(Arc::clone(&shown) as Arc<dyn ResolvesServerCert>);
        let spoken = [(protocols.h2, &b"h2"[..]), (protocols.h1, b"http/1.1")];
        config.alpn_protocols = spoken.iter().filter(|it| it.0).map(|it| it.1.to_vec()).collect();
        if let Some(tickets) = &tickets.0 {
            config.ticketer = Arc::clone(tickets);
        }
        let (inner, checks_host) = (Arc::new(config).into(), tls.checks_host);
        Self { inner, shown, checks_host, complaints: Seldom::new() }
    }

    /// How often is told whose handshakes failed.
    pub const fn complaints(&self) -> &Seldom {
        &self.complaints
    }

    /// Secures a connection. Whoever calls bounds the time.
    ///
    /// # Errors
    /// If the client and we have nothing in common, or it shows nothing that is believed; it was told so.
    pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: S) -> io::Result<Accepted<S>> {
        match &self.shown.ordered {
            None => self.secured(self.inner.accept(stream).await?),
            Some(ordered) => Box::pin(self.accept_beside(ordered, stream)).await,
        }
    }

    /// Where something is ordered, it has to be known what a client says first before it is answered.
    async fn accept_beside<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        ordered: &Ordered,
        stream: S,
    ) -> io::Result<Accepted<S>> {
        let begun = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), stream).await?;
        let hello = begun.client_hello();
        let named = hello.server_name().map(str::to_ascii_lowercase);
        let config = Arc::clone(self.inner.config());
        if is_challenge(&hello) {
            // Without a challenge it is refused, as it speaks nothing that is spoken here.
            let config = named.and_then(|host| ordered.challenged(&host)).unwrap_or(config);
            let mut stream = begun.into_stream(config).await?;
            stream.shutdown().await?;
            return Ok(Accepted::Challenge);
        }
        let is_lacking = self.shown.to(named.as_deref()).is_empty();
        match begun.into_stream(config).await {
            Ok(stream) => self.secured(stream),
            Err(_) if is_lacking => Ok(Accepted::NoCertificate),
            Err(error) => Err(error),
        }
    }

    fn secured<S>(&self, stream: TlsStream<S>) -> io::Result<Accepted<S>> {
        let (_, session) = stream.get_ref();
        let shown_to_us = session.peer_certificates().and_then(|chain| chain.first());
        let now = WallClock::system().unix(Now::read());
        let identity = shown_to_us.map(|der| identity(der, now).map(Arc::new)).transpose();
        let identity = identity.map_err(|why| io::Error::new(io::ErrorKind::InvalidData, why))?;
        let is_resumed = session.handshake_kind() == Some(HandshakeKind::Resumed);
        let is_h2 = session.alpn_protocol() == Some(b"h2");
        let hosts = self.hosts(session.server_name());
        Ok(Accepted::Secured(Box::new(Secured { stream, is_h2, is_resumed, identity, hosts })))
    }

    /// The hosts that may be asked for by who has named this one, if that is looked at. Of what is ordered and not there yet it
    /// is known which they will be.
    pub fn hosts(&self, named: Option<&str>) -> Option<Hosts> {
        self.checks_host.then(|| {
            let shown = self.shown.to(named);
            let to_come = self.shown.ordered.as_ref().filter(|_| shown.is_empty()).map(Arc::clone);
            Hosts { shown: shown.into(), to_come }
        })
    }
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acceptor").field("shown", &self.shown).finish_non_exhaustive()
    }
}

/// The hosts that a connection is good for.
#[derive(Clone, Debug)]
pub struct Hosts {
    shown: Arc<[Arc<Certificate>]>,
    /// In place of a certificate that is not there yet.
    to_come: Option<Arc<Ordered>>,
}

impl Hosts {
    /// Whether a host is one of them: in lower case, without a port.
    pub fn cover(&self, host: &str) -> bool {
        self.shown.iter().any(|certificate| certificate.names().cover(host))
            || self.to_come.as_ref().is_some_and(|ordered| ordered.has(host))
    }
}

/// Certificates by what they are for.
#[derive(Debug)]
struct Shown {
    all: Vec<Arc<Certificate>>,
    /// By name, `*.` before those of wildcards: places in `all`, in its order.
    by_name: BTreeMap<String, Vec<usize>>,
    ordered: Option<Arc<Ordered>>,
}

impl Shown {
    fn new(all: &[Arc<Certificate>], ordered: Option<&Arc<Ordered>>) -> Self {
        let mut by_name = BTreeMap::<_, Vec<_>>::new();
        for (place, certificate) in all.iter().enumerate() {
            for name in certificate.names().hosts() {
                by_name.entry(name).or_default().push(place);
            }
        }
        Self { all: all.to_vec(), by_name, ordered: ordered.map(Arc::clone) }
    }

    /// What is ordered for this name, then those for it, those for just it before those with a wildcard. If there are none, the
    /// first, which may be what is ordered; but a host for which something is ordered is not shown what is not for it.
    fn to(&self, named: Option<&str>) -> Vec<Arc<Certificate>> {
        let named = named.map(str::to_ascii_lowercase).unwrap_or_default();
        let wildcard = named.split_once('.').map(|(_, rest)| format!("*.{rest}")).unwrap_or_default();
        let found = self.by_name.get(&named).or_else(|| self.by_name.get(&wildcard));
        let found = found.into_iter().flatten().filter_map(|place| self.all.get(*place)).map(Arc::clone);
        let is_ordered = self.ordered.as_ref().is_some_and(|ordered| ordered.has(&named));
        let there = || self.ordered.as_ref().and_then(|ordered| ordered.get());
        let ours = if is_ordered { there().filter(|it| it.names().cover(&named)) } else { None };
        let fit = ours.into_iter().chain(found).collect::<Vec<_>>();
        if is_ordered || !fit.is_empty() {
            return fit;
        }
        self.all.first().map(Arc::clone).or_else(there).into_iter().collect()
    }
}

/// Of several for a name (of RSA, of ECDSA) the first whose key the client can verify.
impl ResolvesServerCert for Shown {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let can_verify =
            |it: &&Arc<Certificate>| it.key().key.choose_scheme(hello.signature_schemes()).is_some();
        let all = self.to(hello.server_name());
        let fit = all.iter().find(can_verify);
        fit.or(all.first()).map(|it| Arc::clone(it.key()))
    }
}
