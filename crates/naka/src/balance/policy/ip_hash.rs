//! IP hash: by the client's address.
//!
//! It is [rendezvous](super::rendezvous) under the hash of the address. A remainder by the number of endpoints,
//! which is what is mostly meant by the name, moves five of six clients when one of six endpoints leaves.

use std::net::IpAddr;

use super::hash::stable;
use crate::key::client_network;

/// The hash of a client: of its address, or of the /64 of an IPv6 address, which is what one subscriber has.
pub fn key(client: IpAddr) -> u64 {
    match client_network(client) {
        IpAddr::V4(v4) => stable(&v4.octets()),
        IpAddr::V6(v6) => stable(&v6.octets()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_subscriber_is_one_client() {
        let key = |text: &str| key(text.parse().unwrap());
        assert_eq!(key("2001:db8::1"), key("2001:db8::2"));
        assert_ne!(key("192.0.2.1"), key("192.0.2.2"));
    }
}
