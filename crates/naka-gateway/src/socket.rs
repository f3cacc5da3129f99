//! The socket of a client, and the one it is accepted from: over TCP, or at a Unix socket. What is said over them is
//! the same.

use std::{
    io::{self, IoSlice},
    net::TcpListener as StdTcpListener,
    os::{fd::AsFd as _, unix::net::UnixListener as StdUnixListener},
    pin::Pin,
    task::{Context, Poll},
};

use rustix::net::{RecvFlags, recv};
use socket2::Socket;
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
};

use crate::address::{Address, Source};

/// What is accepted from.
#[derive(Debug)]
pub(crate) enum Listening {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listening {
    /// Of a socket that listens at this address, and does not block.
    ///
    /// # Errors
    /// If the runtime does not take it.
    pub(crate) fn new(address: &Address, socket: Socket) -> io::Result<Self> {
        Ok(match address {
            Address::Tcp(_) => Self::Tcp(TcpListener::from_std(StdTcpListener::from(socket))?),
            Address::Unix(_) => Self::Unix(UnixListener::from_std(StdUnixListener::from(socket))?),
        })
    }

    /// The next one who has connected, and where they come from. May be dropped: nobody is lost.
    ///
    /// # Errors
    /// Those of the system.
    pub(crate) async fn accept(&self) -> io::Result<(Client, Source)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                Ok((Client::Tcp(stream), Source::Ip(peer.ip())))
            }
            Self::Unix(listener) => Ok((Client::Unix(listener.accept().await?.0), Source::Unix)),
        }
    }

    /// Without its runtime.
    ///
    /// # Errors
    /// If the runtime does not give it up.
    pub(crate) fn into_raw(self) -> io::Result<Socket> {
        Ok(match self {
            Self::Tcp(listener) => listener.into_std()?.into(),
            Self::Unix(listener) => listener.into_std()?.into(),
        })
    }
}

/// Who has connected by now, without waiting; for the time after [`Listening::into_raw`].
///
/// # Errors
/// If there is nobody, and those of the system.
pub(crate) fn accept_now(listening: &Socket) -> io::Result<(Socket, Source)> {
    let (socket, peer) = listening.accept()?;
    socket.set_nonblocking(true)?;
    let source = peer.as_socket().map_or(Source::Unix, |peer| Source::Ip(peer.ip()));
    Ok((socket, source))
}

/// The socket of a client.
#[derive(Debug)]
pub enum Client {
    /// Over TCP.
    Tcp(TcpStream),
    /// Of a process of this machine.
    Unix(UnixStream),
}

impl Client {
    /// Of a socket without a runtime, that does not block.
    ///
    /// # Errors
    /// If the runtime does not take it.
    pub(crate) fn new(source: Source, socket: Socket) -> io::Result<Self> {
        Ok(match source {
            Source::Ip(_) => Self::Tcp(TcpStream::from_std(socket.into())?),
            Source::Unix => Self::Unix(UnixStream::from_std(socket.into())?),
        })
    }

    /// Without its runtime.
    ///
    /// # Errors
    /// If the runtime does not give it up.
    pub(crate) fn into_raw(self) -> io::Result<Socket> {
        Ok(match self {
            Self::Tcp(stream) => stream.into_std()?.into(),
            Self::Unix(stream) => stream.into_std()?.into(),
        })
    }

    /// Waits until there is something to read, and says whether there is any: not if the client has closed it. What is
    /// there is not taken.
    pub(crate) async fn speaks(&self) -> bool {
        let mut first = [0];
        let peeked = match self {
            Self::Tcp(stream) => stream.peek(&mut first).await,
            Self::Unix(stream) => {
                let peek = || Ok(recv(stream.as_fd(), &mut first, RecvFlags::PEEK)?.0);
                stream.async_io(Interest::READABLE, peek).await
            }
        };
        matches!(peeked, Ok(1))
    }

    /// Waits until it can be read. May be ready without a byte.
    ///
    /// # Errors
    /// Those of the runtime.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.readable().await,
            Self::Unix(stream) => stream.readable().await,
        }
    }
}

/// Does the same with either.
macro_rules! either {
    ($client:expr, $stream:ident => $what:expr) => {
        match $client.get_mut() {
            Client::Tcp($stream) => $what,
            Client::Unix($stream) => $what,
        }
    };
}

impl AsyncRead for Client {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for Client {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        either!(self, stream => Pin::new(stream).poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(self, stream => Pin::new(stream).poll_write_vectored(cx, bufs))
    }

    /// Both can.
    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }
}
