//! The pools of one upstream, each made when its endpoint is first chosen.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{Pool, UpstreamPlaces};
use crate::config::checked::KeepAlive;

/// The pools of one worker to the endpoints of one upstream, by address.
///
/// A pool is made for an address that a balancer has chosen, so there are no more than endpoints, and those that are
/// gone and still at work. What is gone is forgotten at the next [`sweep`](Self::sweep), with the connections that wait
/// there, unless a request holds it; then at the first one after that.
#[derive(Debug, Default)]
pub struct Pools {
    of: Mutex<HashMap<Arc<str>, Arc<Pool>>>,
    places: Arc<UpstreamPlaces>,
}

impl Pools {
    /// None yet; their connections share these places with all workers.
    pub fn new(places: &Arc<UpstreamPlaces>) -> Self {
        Self { of: Mutex::default(), places: Arc::clone(places) }
    }

    /// The pool of an address. The lock is this worker's own, and held for looking it up.
    pub fn pool(&self, address: &Arc<str>) -> Arc<Pool> {
        let mut known = self.lock();
        if let Some(pool) = known.get(address) {
            return Arc::clone(pool);
        }
        let pool = Pool::new(address, self.places.of(address));
        known.insert(Arc::clone(address), Arc::clone(&pool));
        pool
    }

    /// Connections to an address that wait for a request.
    pub fn idle(&self, address: &str) -> usize {
        self.lock().get(address).map_or(0, |pool| pool.idle())
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
            is_listed(address) || Arc::strong_count(pool) > 1
        });
    }

    /// A panic cannot leave the map half written.
    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Arc<Pool>>> {
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
        assert!(Arc::ptr_eq(&used, &pools.pool(&all[1])), "one for each address");
        pools.sweep(&keep, |address| address == "a:1");
        assert_eq!(pools.len(), 2, "one is listed and one in use");
        drop(used);
        pools.sweep(&keep, |address| address == "a:1");
        assert_eq!(pools.len(), 1);
    }
}
