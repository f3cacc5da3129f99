//! Where a listener listens: by that it is the same one after a reload, and in the process that takes over.

use std::{
    fmt,
    net::{AddrParseError, SocketAddr},
    str::FromStr,
};

use serde::{Deserialize, Serialize};

/// Where a listener listens. It is written as in the configuration.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Address {
    /// At an address of the machine, or all of them.
    Tcp(SocketAddr),
}

impl Address {
    /// The address, if it is one of TCP.
    pub const fn tcp(&self) -> Option<SocketAddr> {
        let Self::Tcp(address) = self;
        Some(*address)
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

impl FromStr for Address {
    type Err = AddrParseError;

    fn from_str(text: &str) -> Result<Self, AddrParseError> {
        text.parse().map(Self::Tcp)
    }
}

impl TryFrom<String> for Address {
    type Error = AddrParseError;

    fn try_from(text: String) -> Result<Self, AddrParseError> {
        text.parse()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Tcp(address) = self;
        address.fmt(f)
    }
}
