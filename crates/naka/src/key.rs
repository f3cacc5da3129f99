//! Keys of per-client state.

use std::{
    collections::hash_map::RandomState,
    fmt,
    hash::{BuildHasher, Hash, Hasher},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::OnceLock,
};

use siphasher::sip::SipHasher13;

use crate::hash::stable;

/// A key, hashed with a [secret](KeySecret) of the process.
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
        KeyBuilder::new().part(value).finish()
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

    /// What stands for those that have none, in every process.
    pub(crate) const NONE: Self = Self(0);

    pub(crate) const fn bits(self) -> u64 {
        self.0
    }
}

/// What the [keys](Key) of a process are hashed with; random, unless that of another process is
/// [adopted](Self::adopt) so that what was counted by its keys is found again.
///
/// Whoever knows it can find out whether a guessed value is behind a key: keep it as you keep the values.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct KeySecret([u64; 2]);

static SECRET: OnceLock<KeySecret> = OnceLock::new();

impl KeySecret {
    /// Of bytes.
    pub fn new(bytes: [u8; 16]) -> Self {
        let bits = u128::from_le_bytes(bytes);
        let half = |bits: u128| u64::try_from(bits & u128::from(u64::MAX)).unwrap_or(u64::MAX);
        Self([half(bits), half(bits >> 64)])
    }

    /// Its bytes.
    pub fn to_bytes(self) -> [u8; 16] {
        (u128::from(self.0[0]) | u128::from(self.0[1]) << 64).to_le_bytes()
    }

    /// That of this process. Nothing can change it from now on.
    pub fn in_force() -> Self {
        *SECRET.get_or_init(|| {
            let random = RandomState::new();
            Self([random.hash_one(0), random.hash_one(1)])
        })
    }

    /// Makes it that of this process.
    ///
    /// # Errors
    /// If the process has another one already: some key has been made with that.
    pub fn adopt(self) -> Result<(), AlreadySettled> {
        if *SECRET.get_or_init(|| self) == self { Ok(()) } else { Err(AlreadySettled) }
    }

    /// What comes of some well-known values under it. How values are hashed is not promised for ever by what
    /// a program is compiled with: two programs that agree here make the same keys.
    pub fn check(self) -> u64 {
        let mut builder = KeyBuilder(self.hasher());
        builder.part("naka").part(b"naka".as_slice()).part(7_u8).part(7_u64);
        builder.part(IpAddr::V4(Ipv4Addr::LOCALHOST)).part(IpAddr::V6(Ipv6Addr::LOCALHOST));
        builder.part(("naka", 7_u32)).part("naka".to_owned()).part(Some(7_u16)).finish().bits()
    }

    fn hasher(self) -> SipHasher13 {
        SipHasher13::new_with_keys(self.0[0], self.0[1])
    }
}

impl fmt::Debug for KeySecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeySecret(***)")
    }
}

/// Keys have been made with another secret already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AlreadySettled;

impl fmt::Display for AlreadySettled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("keys have been made with another secret already; adopt one before anything else")
    }
}

impl std::error::Error for AlreadySettled {}

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
pub struct KeyBuilder(SipHasher13);

impl KeyBuilder {
    /// No parts yet.
    pub fn new() -> Self {
        Self(KeySecret::in_force().hasher())
    }

    /// No parts yet, and a secret that others have, too: for a key that several processes count by.
    pub fn with(secret: KeySecret) -> Self {
        Self(secret.hasher())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_those_of_whose_secret_is_known_and_of_nobody_else() {
        let mine = KeySecret::in_force();
        let again = KeySecret::new(mine.to_bytes());
        assert_eq!((again, again.check()), (mine, mine.check()));
        assert_eq!(again.adopt(), Ok(()), "it is that already");
        let mut bytes = mine.to_bytes();
        bytes[15] ^= 1;
        let other = KeySecret::new(bytes);
        assert_ne!(other.check(), mine.check());
        assert_eq!(other.adopt(), Err(AlreadySettled));
        assert_eq!(KeySecret::in_force(), mine);
        assert_eq!(format!("{mine:?}"), "KeySecret(***)");
    }
}
