//! Where a listener listens, and where those come from who connect there.
//!
//! By its address a listener is the same one after a reload, and in the process that takes over.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use socket2::SockAddr;

/// What stands before the path of a Unix socket; alone, whoever comes from one.
pub const UNIX: &str = "unix:";

/// The longest path of a Unix socket, in bytes (`sun_path` of Linux, but for its last byte).
pub const SOCKET_PATH: usize = 107;

/// Where a listener listens. It is written as in the configuration.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Address {
    /// At an address of the machine, or all of them.
    Tcp(SocketAddr),
    /// At a Unix socket: its whole path, of at most [`SOCKET_PATH`] bytes.
    Unix(Arc<str>),
}

impl Address {
    /// The address, if it is one of TCP.
    pub const fn tcp(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }

    /// The path, if it is a Unix socket.
    pub fn path(&self) -> Option<&Arc<str>> {
        match self {
            Self::Tcp(_) => None,
            Self::Unix(path) => Some(path),
        }
    }
}

impl Address {
    /// Where a socket is; none for one that has no name, or one that is no path.
    pub(crate) fn of(at: &SockAddr) -> Option<Self> {
        let path = || at.as_pathname()?.to_str().map(|path| Self::Unix(path.into()));
        at.as_socket().map(Self::from).or_else(path)
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp(address)
    }
}

impl From<Address> for String {
    fn from(address: Address) -> Self {
        address.to_string()
    }
}

/// The text is neither an address with a port nor `unix:` and a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoAddress;

impl fmt::Display for NoAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no address with a port, and no `unix:/path`")
    }
}

impl std::error::Error for NoAddress {}

impl FromStr for Address {
    type Err = NoAddress;

    fn from_str(text: &str) -> Result<Self, NoAddress> {
        match text.strip_prefix(UNIX) {
            Some(path) if is_socket_path(path) => Ok(Self::Unix(path.into())),
            Some(_) => Err(NoAddress),
            None => text.parse().map(Self::Tcp).map_err(|_| NoAddress),
        }
    }
}

impl TryFrom<String> for Address {
    type Error = NoAddress;

    fn try_from(text: String) -> Result<Self, NoAddress> {
        text.parse()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "{UNIX}{path}"),
        }
    }
}

/// Whether a Unix socket may have this path: whole, and not too long.
pub fn is_socket_path(path: &str) -> bool {
    path.starts_with('/') && path.len() <= SOCKET_PATH && !path.contains('\0')
}

/// Where a connection comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// From this address.
    Ip(IpAddr),
    /// From a process of this machine, by a Unix socket: it has no address, and all such are one.
    Unix,
}

impl Source {
    /// Its address, if it has one.
    pub const fn ip(self) -> Option<IpAddr> {
        match self {
            Self::Ip(address) => Some(address),
            Self::Unix => None,
        }
    }
}

impl From<IpAddr> for Source {
    fn from(address: IpAddr) -> Self {
        Self::Ip(address)
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Unix => f.write_str(UNIX),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two processes tell listeners apart by it.
    #[test]
    fn an_address_is_read_as_it_is_written() {
        for text in ["127.0.0.1:80", "[::1]:8080", "unix:/run/naka/web.sock"] {
            let address = text.parse::<Address>().unwrap();
            assert_eq!(address.to_string(), text);
            let json = serde_json::to_string(&address).unwrap();
            assert_eq!(json, format!("\"{text}\""));
            assert_eq!(serde_json::from_str::<Address>(&json).unwrap(), address);
        }
        let long = format!("unix:/{}", "a".repeat(SOCKET_PATH));
        for text in ["", "80", "unix:", "unix:web.sock", "unix:@web", "unix:/a\0", &long] {
            assert_eq!(text.parse::<Address>(), Err(NoAddress), "{text}");
        }
        assert!(long[..long.len() - 1].parse::<Address>().is_ok());
    }
}
