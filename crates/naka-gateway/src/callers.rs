//! How many connections each client has: so that one of them cannot take all places.
//!
//! An address is counted from when its connection is accepted until that has ended, over all listeners and workers. Of IPv6 it is the
//! network of 64 bits that counts, as whoever has one address has all of them. Trusted proxies are not counted: behind them are
//! many, whom other limits can tell apart. Where one of them says with each connection whose it is (the PROXY protocol), that client
//! is counted, from when it is known.
//!
//! # Limits
//! A row for each address that has a connection: no more than there may be connections. What was accepted while nothing was
//! bounded is not counted.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Tables, each behind a lock of its own; a power of two.
const SHARDS: usize = 64;

/// The bits of an IPv6 address that tell its network.
const NETWORK: u128 = !0 << 64;

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Caller(u128);

impl Caller {
    fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => Self(v4.to_ipv6_mapped().to_bits()),
            IpAddr::V6(v6) => Self(Ipv6Addr::to_bits(v6) & NETWORK),
        }
    }
}

/// The connections of each client.
#[derive(Debug)]
pub struct Callers {
    shards: Vec<Mutex<HashMap<Caller, u32>>>,
}

impl Default for Callers {
    fn default() -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect() }
    }
}

impl Callers {
    /// A connection from this address, if it has fewer than `most`.
    pub(crate) fn enter(self: &Arc<Self>, address: IpAddr, most: u32) -> Option<Entered> {
        let caller = Caller::of(address);
        let mut table = self.shard(caller);
        let count = table.get(&caller).copied().unwrap_or(0);
        if count >= most {
            return None;
        }
        table.insert(caller, count + 1);
        Some(Entered { callers: Arc::clone(self), caller })
    }

    /// Addresses that have a connection.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner).len()).sum()
    }

    fn leave(&self, caller: Caller) {
        let mut table = self.shard(caller);
        match table.get_mut(&caller) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(table.remove(&caller)),
        }
    }

    /// A panic cannot leave it half written: every change is of one row.
    fn shard(&self, caller: Caller) -> MutexGuard<'_, HashMap<Caller, u32>> {
        // Who has many addresses may choose those of one shard; then its lock is slow for them.
        let mixed =
            (caller.0 ^ caller.0 >> 64).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835) >> 122;
        let shard = usize::try_from(mixed).unwrap_or_default() % SHARDS;
        self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection in the account of its client, until it is dropped.
#[derive(Debug)]
pub(crate) struct Entered {
    callers: Arc<Callers>,
    caller: Caller,
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.callers.leave(self.caller);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn each_client_has_so_many_and_its_places_come_back() {
        let callers = Arc::<Callers>::default();
        let enter = |text: &str| callers.enter(address(text), 2);
        let (one, two) = (enter("192.0.2.1"), enter("::ffff:192.0.2.1"));
        assert!(one.is_some() && two.is_some());
        assert!(enter("192.0.2.1").is_none(), "written in one way or the other, it is one client");
        assert!(enter("192.0.2.2").is_some(), "another has its own");
        drop(one);
        assert!(enter("192.0.2.1").is_some());
        drop(two);
        assert_eq!(callers.len(), 0, "nothing is kept of who has gone");
    }

    #[test]
    fn a_network_of_ipv6_is_one_client() {
        let callers = Arc::<Callers>::default();
        let _one = callers.enter(address("2001:db8::1"), 1);
        assert!(callers.enter(address("2001:db8::ffff:2"), 1).is_none());
        assert!(callers.enter(address("2001:db8:0:1::1"), 1).is_some());
        assert!(callers.enter(address("192.0.2.1"), 1).is_some());
    }
}
