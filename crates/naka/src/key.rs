//! Keys of per-client state.

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher, Hash, Hasher},
    net::{IpAddr, Ipv6Addr},
    sync::LazyLock,
};

use crate::hash::stable;

/// A key, hashed with a secret of the process.
///
/// Nothing is allocated for it, and nobody outside can choose two values with one hash. It has 64
/// bits: two of 100,000 keys share an account with a probability below one in a thousand million.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key(u64);

impl Key {
    /// The key of one value, or of several in a tuple.
    ///
    /// ```
    /// use naka::key::Key;
    /// assert_eq!(Key::of("asha"), Key::of("asha"));
    /// assert_ne!(Key::of(("asha", "orders")), Key::of(("asha", "rides")));
    /// ```
    pub fn of(value: impl Hash) -> Self {
        Self(SECRET.hash_one(value))
    }

    /// The key of a client's address. An IPv6 address counts by its /64, which is what one
    /// subscriber is given; an IPv4 address in IPv6 clothes counts as what it is.
    ///
    /// ```
    /// use naka::key::Key;
    /// let ip = |text: &str| Key::of_client(text.parse().unwrap());
    /// assert_eq!(ip("2001:db8::1"), ip("2001:db8::2"));
    /// assert_ne!(ip("2001:db8::1"), ip("2001:db8:0:1::1"));
    /// assert_eq!(ip("::ffff:192.0.2.1"), ip("192.0.2.1"));
    /// ```
    pub fn of_client(address: IpAddr) -> Self {
        Self::of(client_network(address))
    }

    pub(crate) const fn bits(self) -> u64 {
        self.0
    }
}

/// A key that is the same in every process, if it is [of](Self::of) bytes: for what several gateways have to
/// agree on, and what a restart must not change.
///
/// Nothing about it is secret: whoever chooses the bytes can find some with any hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashKey(u64);

impl HashKey {
    /// Of bytes: a header, a cookie, a part of the path.
    pub fn of(bytes: impl AsRef<[u8]>) -> Self {
        Self(stable(bytes.as_ref()))
    }

    pub(crate) const fn bits(self) -> u64 {
        self.0
    }
}

/// A key that is known in this process only: after a restart it is another, and so it is in each of several
/// gateways.
impl From<Key> for HashKey {
    fn from(key: Key) -> Self {
        Self(key.bits())
    }
}

/// Builds a key from parts that are not known when the program is written.
#[derive(Debug)]
pub struct KeyBuilder(<RandomState as BuildHasher>::Hasher);

impl KeyBuilder {
    /// No parts yet.
    pub fn new() -> Self {
        Self(SECRET.build_hasher())
    }

    /// Adds a part.
    pub fn part(&mut self, value: impl Hash) -> &mut Self {
        value.hash(&mut self.0);
        self
    }

    /// The key of all parts, in their order.
    pub fn finish(&self) -> Key {
        Key(self.0.finish())
    }
}

impl Default for KeyBuilder {
    fn default() -> Self {
        Self::new()
    }
}

/// The part of an address that stands for one client: see [`Key::of_client`].
pub fn client_network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => IpAddr::V4(v4),
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
    }
}

static SECRET: LazyLock<RandomState> = LazyLock::new(RandomState::new);
