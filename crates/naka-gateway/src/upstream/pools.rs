//! The pools of one upstream, each made when its endpoint is first chosen, for what is spoken there.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::{Place, UpstreamPlaces, h1, h2, places::Places};
use crate::{
    config::checked::{KeepAlive, Protocol},
    lookup::Lookup,
    tls::ClientTls,
};

/// The pools of one worker to the endpoints of one upstream, by address.
///
/// A pool is made for an address that a balancer has chosen, so there are no more than endpoints, and those that are
/// gone and still at work. What is gone is forgotten at the next [`sweep`](Self::sweep), with the connections that wait
/// there, unless a request holds it; then at the first one after that.
#[derive(Debug, Default)]
pub struct Pools {
    protocol: Protocol,
    tls: Option<ClientTls>,
    of: Mutex<Lookup<Arc<str>, Pool>>,
    places: Arc<UpstreamPlaces>,
}

/// The connections of one worker to one endpoint, by what is spoken there.
#[derive(Clone, Debug)]
pub enum Pool {
    #[doc(hidden)]
    H1(Arc<h1::Pool>),
    #[doc(hidden)]
    H2(Arc<h2::Pool>),
}

impl Pool {
    fn new(protocol: Protocol, place: Place, places: [Arc<Places>; 2]) -> Self {
        match protocol {
            Protocol::H1 => Self::H1(h1::Pool::new(place, places)),
            Protocol::H2 => Self::H2(h2::Pool::new(place, places)),
        }
    }

    /// Where it leads.
    pub(super) fn address(&self) -> &str {
        match self {
            Self::H1(pool) => pool.address(),
            Self::H2(pool) => pool.address(),
        }
    }

    /// Connections that nobody uses.
    pub fn idle(&self) -> usize {
        match self {
            Self::H1(pool) => pool.idle(),
            Self::H2(pool) => pool.idle(),
        }
    }

    fn sweep(&self, keep: &KeepAlive) {
        match self {
            Self::H1(pool) => pool.sweep(keep),
            Self::H2(pool) => pool.sweep(keep),
        }
    }

    /// Closes the connection that nobody has used for longest; says whether there was one.
    pub(super) fn close_oldest(&self) -> bool {
        match self {
            Self::H1(pool) => pool.close_oldest(),
            Self::H2(pool) => pool.close_oldest(),
        }
    }

    fn is_in_use(&self) -> bool {
        match self {
            Self::H1(pool) => Arc::strong_count(pool) > 1,
            Self::H2(pool) => Arc::strong_count(pool) > 1,
        }
    }

    pub(super) fn downgrade(&self) -> WeakPool {
        match self {
            Self::H1(pool) => WeakPool::H1(Arc::downgrade(pool)),
            Self::H2(pool) => WeakPool::H2(Arc::downgrade(pool)),
        }
    }
}

/// A pool that may be gone.
pub(super) enum WeakPool {
    H1(Weak<h1::Pool>),
    H2(Weak<h2::Pool>),
}

impl WeakPool {
    pub(super) fn upgrade(&self) -> Option<Pool> {
        match self {
            Self::H1(pool) => pool.upgrade().map(Pool::H1),
            Self::H2(pool) => pool.upgrade().map(Pool::H2),
        }
    }
}

impl Pools {
    /// None yet; their connections share these places with all workers.
    pub fn new(protocol: Protocol, tls: Option<ClientTls>, places: &Arc<UpstreamPlaces>) -> Self {
        Self { protocol, tls, of: Mutex::default(), places: Arc::clone(places) }
    }

    /// The pool of an address. The lock is this worker's own, and held for looking it up.
    pub fn pool(&self, address: &Arc<str>) -> Pool {
        let mut known = self.lock();
        if let Some(pool) = known.get(address) {
            return pool.clone();
        }
        let places = self.places.of(address);
        let pool = Pool::new(self.protocol, Place::new(address, self.tls.clone()), places.clone());
        for places in &places {
            places.add(&pool);
        }
        known.insert(Arc::clone(address), pool.clone());
        pool
    }

    /// Connections to an address that wait for a request.
    pub fn idle(&self, address: &str) -> usize {
        self.lock().get(address).map_or(0, Pool::idle)
    }

    /// Connections to all addresses that wait for a request.
    pub fn all_idle(&self) -> usize {
        self.lock().values().map(Pool::idle).sum()
    }

    /// How many pools there are.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Closes what has waited for too long, and forgets the pools of addresses that are not listed and that nobody
    /// uses.
    pub fn sweep(&self, keep: &KeepAlive, is_listed: impl Fn(&str) -> bool) {
        self.lock().retain(|address, pool| {
            pool.sweep(keep);
            // Whoever uses it took it under this lock.
            is_listed(address) || pool.is_in_use()
        });
    }

    /// A panic cannot leave the map half written.
    fn lock(&self) -> MutexGuard<'_, Lookup<Arc<str>, Pool>> {
        self.of.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn pools_of_what_is_gone_are_forgotten_once_nobody_uses_them() {
        let keep = KeepAlive { max_idle: 1, timeout: Duration::from_secs(1), max_lifetime: None };
        let (pools, all) = (Pools::default(), ["a:1", "b:1", "c:1"].map(Arc::<str>::from));
        let [_, used, _] = all.each_ref().map(|address| pools.pool(address));
        let is_same =
            matches!((&used, &pools.pool(&all[1])), (Pool::H1(a), Pool::H1(b)) if Arc::ptr_eq(a, b));
        assert!(is_same, "one for each address");
        pools.sweep(&keep, |address| address == "a:1");
        assert_eq!(pools.len(), 2, "one is listed and one in use");
        drop(used);
        pools.sweep(&keep, |address| address == "a:1");
        assert_eq!(pools.len(), 1);
    }
}
