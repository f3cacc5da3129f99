//! How a connection to an endpoint comes about: the seam for tests under virtual time, and for TLS.

use std::{
    fmt, io,
    net::SocketAddr,
    path::Path,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf},
    net::{TcpStream, UnixStream},
    sync::Mutex,
    time::Instant,
};
use tokio_rustls::{client::TlsStream, rustls};

use naka::reject::Reason;

use crate::tls::ClientTls;

/// Makes connections.
#[derive(Clone, Default)]
pub enum Connector {
    /// Over TCP.
    #[default]
    Tcp,
    /// Inside the process; for tests.
    Memory(Arc<MemoryConnect>),
}

/// Connects inside the process: an address in, a stream out.
pub type MemoryConnect =
    dyn Fn(&str) -> Pin<Box<dyn Future<Output = io::Result<DuplexStream>> + Send>> + Send + Sync;

impl Connector {
    /// One connection to an address or a name, with its port, for an errand of the gateway's own.
    pub(crate) async fn dial(&self, address: &Arc<str>, tls: Option<ClientTls>) -> io::Result<Stream> {
        self.reach(&Place::new(address, tls)).await.map_err(|unreached| unreached.error)
    }

    /// One connection to a place that connections are made to again and again.
    pub(crate) async fn reach(&self, place: &Place) -> Result<Stream, Unreached> {
        let plain = self.connect(&place.address, &place.resolver).await?;
        match &place.tls {
            None => Ok(Stream::Plain(plain)),
            // In a box of its own: it is larger, and the others shall not pay for that.
            Some(tls) => match Box::pin(tls.connect(&place.address, plain)).await {
                Ok(stream) => Ok(Stream::Tls(Box::new(stream))),
                Err(error) => Err(Unreached::unsecured(error)),
            },
        }
    }

    async fn connect(&self, address: &str, resolver: &Resolver) -> Result<Plain, Unreached> {
        match self {
            Self::Tcp => {
                let stream = match resolver {
                    Resolver::Socket(path) => return Ok(Plain::Unix(UnixStream::connect(&**path).await?)),
                    Resolver::Known(socket) => TcpStream::connect(socket).await?,
                    Resolver::Name(lookup) => {
                        let addresses = lookup.addresses(address).await.map_err(Unreached::unnamed)?;
                        TcpStream::connect(&*addresses).await?
                    }
                };
                stream.set_nodelay(true)?;
                SockRef::from(&stream).set_keepalive(true)?; // Else a peer without power is waited for.
                Ok(Plain::Tcp(stream))
            }
            Self::Memory(connect) => Ok(Plain::Memory(connect(address).await?)),
        }
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if matches!(self, Self::Tcp) { "Tcp" } else { "Memory" })
    }
}

/// Why there is no connection.
#[derive(Debug)]
pub(crate) struct Unreached {
    /// One of those [of connecting](Reason::is_of_connecting).
    pub(crate) reason: Reason,
    pub(crate) error: io::Error,
}

impl Unreached {
    fn unnamed(error: io::Error) -> Self {
        Self { reason: Reason::DnsFailed, error }
    }

    fn unsecured(error: io::Error) -> Self {
        let of_tls = error.get_ref().and_then(|inner| inner.downcast_ref());
        let is_unproven = matches!(of_tls, Some(rustls::Error::InvalidCertificate(_)));
        let reason = if is_unproven { Reason::UpstreamCertificate } else { Reason::TlsFailed };
        Self { reason, error }
    }
}

impl From<io::Error> for Unreached {
    fn from(error: io::Error) -> Self {
        Self { reason: Reason::ConnectFailed, error }
    }
}

impl fmt::Display for Unreached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

/// An address or a name, with its port, or a Unix socket; and what is known of where that is: of a name that the resolver is
/// slow to find, one question is asked at a time, however often somebody wants to go there.
#[derive(Debug)]
pub(crate) struct Place {
    address: Arc<str>,
    resolver: Resolver,
    /// How it is secured, if it is.
    tls: Option<ClientTls>,
}

impl Place {
    pub(crate) fn new(address: &Arc<str>, tls: Option<ClientTls>) -> Self {
        Self { address: Arc::clone(address), resolver: Resolver::new(address), tls }
    }

    /// Whether connections are secured.
    pub(crate) const fn is_secured(&self) -> bool {
        self.tls.is_some()
    }

    /// As it was written.
    pub(crate) const fn address(&self) -> &Arc<str> {
        &self.address
    }
}

/// What `Host` says where nobody has said it: a socket of this machine has no name that others know it by.
pub(crate) fn host_of(address: &str) -> &str {
    if address.starts_with(SOCKET) { "localhost" } else { address }
}

/// With what the address of a Unix socket begins.
const SOCKET: &str = "unix:";

/// Where an endpoint is.
#[derive(Debug)]
enum Resolver {
    /// A Unix socket of this machine.
    Socket(Box<Path>),
    /// It was written as an address.
    Known(SocketAddr),
    /// This machine's resolver knows.
    Name(Lookup),
}

impl Resolver {
    fn new(address: &str) -> Self {
        if let Some(path) = address.strip_prefix(SOCKET) {
            return Self::Socket(Path::new(path).into());
        }
        address.parse().map_or_else(|_| Self::Name(Lookup::default()), Self::Known)
    }
}

/// How long the addresses of a name are used before the resolver is asked again.
const FRESH: Duration = Duration::from_secs(1);

/// Asks the resolver, one question at a time: it blocks a thread and cannot be cancelled, so while
/// it hangs, whoever needs the answer waits for the one that was asked.
#[derive(Debug, Default)]
struct Lookup(Arc<Mutex<Option<Answer>>>);

type Answer = (Instant, Arc<[SocketAddr]>);

impl Lookup {
    async fn addresses(&self, name: &str) -> io::Result<Arc<[SocketAddr]>> {
        let mut known = Arc::clone(&self.0).lock_owned().await;
        if let Some((since, addresses)) = &*known
            && since.elapsed() < FRESH
        {
            return Ok(Arc::clone(addresses));
        }
        let name = name.to_owned();
        // A task of its own: who asked may give up, and the lock is kept as long as the question runs.
        let asking = tokio::spawn(async move {
            let addresses: Arc<[SocketAddr]> = tokio::net::lookup_host(name).await?.collect();
            *known = Some((Instant::now(), Arc::clone(&addresses)));
            Ok(addresses)
        });
        asking.await.map_err(io::Error::other)?
    }
}

/// A connection.
#[derive(Debug)]
pub(crate) enum Stream {
    Plain(Plain),
    Tls(Box<TlsStream<Plain>>),
}

/// A connection, by where it leads.
#[derive(Debug)]
pub(crate) enum Plain {
    Tcp(TcpStream),
    Unix(UnixStream),
    Memory(DuplexStream),
}

/// Hands everything on to whichever of several kinds of streams it is.
macro_rules! stream_of {
    ($name:ident: $($kind:ident)+) => {
        impl AsyncRead for $name {
            fn poll_read(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buf: &mut ReadBuf<'_>,
            ) -> Poll<io::Result<()>> {
                match self.get_mut() {
                    $( Self::$kind(stream) => Pin::new(stream).poll_read(cx, buf), )+
                }
            }
        }

        impl AsyncWrite for $name {
            fn poll_write(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buf: &[u8],
            ) -> Poll<io::Result<usize>> {
                match self.get_mut() {
                    $( Self::$kind(stream) => Pin::new(stream).poll_write(cx, buf), )+
                }
            }

            fn poll_write_vectored(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                bufs: &[io::IoSlice<'_>],
            ) -> Poll<io::Result<usize>> {
                match self.get_mut() {
                    $( Self::$kind(stream) => Pin::new(stream).poll_write_vectored(cx, bufs), )+
                }
            }

            fn is_write_vectored(&self) -> bool {
                match self {
                    $( Self::$kind(stream) => stream.is_write_vectored(), )+
                }
            }

            fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                match self.get_mut() {
                    $( Self::$kind(stream) => Pin::new(stream).poll_flush(cx), )+
                }
            }

            fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                match self.get_mut() {
                    $( Self::$kind(stream) => Pin::new(stream).poll_shutdown(cx), )+
                }
            }
        }
    };
}

stream_of!(Stream: Plain Tls);
stream_of!(Plain: Tcp Unix Memory);

/// A stream that counts what comes.
#[derive(Debug)]
pub(super) struct Counted<S> {
    stream: S,
    pub(super) read: Arc<AtomicU64>,
}

impl<S> Counted<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, read: Arc::default() }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        let came = u64::try_from(buf.filled().len() - before).unwrap_or(u64::MAX);
        // Relaxed: whoever asks runs on the same worker, or hears of the end by another way first.
        self.read.fetch_add(came, Relaxed);
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn why(address: &str) -> Reason {
        Connector::Tcp.reach(&Place::new(&address.into(), None)).await.unwrap_err().reason
    }

    /// Bug: `Proxy-Status` said `connection_refused` of a name that leads nowhere.
    #[tokio::test]
    async fn a_name_that_leads_nowhere_is_told_from_an_endpoint_that_does_not_accept() {
        // No label has more than 63 bytes (RFC 1035, section 2.3.4), so nobody has to be asked for this one.
        assert_eq!(why(&format!("{}:80", "a".repeat(64))).await, Reason::DnsFailed);
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert_eq!(why(&closed.to_string()).await, Reason::ConnectFailed);
        assert_eq!(why("unix:/naka/is/not/here.sock").await, Reason::ConnectFailed);
    }
}
