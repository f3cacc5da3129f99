//! Whether workers go on, and where the process listens.
//!
//! Each worker beats with every look through its pools, every five seconds. Whoever watches counts the time in which it has
//! seen no beat *while it was running itself*: of a gap in its own time only [`MOST`] counts. So a machine that was
//! suspended, a process that was stopped, or one that gets no processor at all raises no alarm: both stood still.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::Instant;

use crate::address::Address;

/// How often it is looked whether workers go on.
pub const LOOK: Duration = Duration::from_secs(5);
/// What counts at most of the time between two looks.
const MOST: Duration = Duration::from_secs(10);

/// What workers say of themselves.
#[derive(Debug, Default)]
pub struct Pulse {
    /// Of each worker; 0 until it has begun.
    beats: Vec<AtomicU64>,
    /// How many sockets are accepted from at each address.
    listening: Mutex<BTreeMap<Address, usize>>,
}

impl Pulse {
    /// Of so many workers, none of which has begun.
    pub fn new(workers: usize) -> Self {
        Self { beats: (0..workers).map(|_| AtomicU64::new(0)).collect(), listening: Mutex::default() }
    }

    /// This worker goes on.
    pub fn beat(&self, worker: usize) {
        if let Some(beats) = self.beats.get(worker) {
            beats.fetch_add(1, Relaxed);
        }
    }

    /// How often each has said so.
    pub fn beats(&self) -> Vec<u64> {
        self.beats.iter().map(|beats| beats.load(Relaxed)).collect()
    }

    /// So many sockets are accepted from there.
    pub fn listens(&self, address: &Address, sockets: usize) {
        *self.listening().entry(address.clone()).or_default() += sockets;
    }

    /// One of them could not be.
    pub fn failed(&self, address: &Address) {
        if let Some(sockets) = self.listening().get_mut(address) {
            *sockets = sockets.saturating_sub(1);
        }
    }

    /// Nothing is accepted there any more.
    pub fn left(&self, address: &Address) {
        self.listening().remove(address);
    }

    /// Whether something is.
    pub fn is_listening(&self, address: &Address) -> bool {
        self.listening().get(address).is_some_and(|sockets| *sockets > 0)
    }

    fn listening(&self) -> MutexGuard<'_, BTreeMap<Address, usize>> {
        self.listening.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// For how long each worker has stood still, as far as anybody can tell.
#[derive(Debug, Default)]
pub struct Stalls {
    last: Option<Instant>,
    /// The beats that were last seen, and the time since.
    workers: Vec<(u64, Duration)>,
}

impl Stalls {
    /// Looks at the beats of all workers.
    pub fn look(&mut self, now: Instant, beats: &[u64]) {
        let gap = self.last.map_or(Duration::ZERO, |last| now.saturating_duration_since(last).min(MOST));
        self.last = Some(now);
        self.workers.resize(beats.len(), (0, Duration::ZERO));
        for ((seen, still), beats) in self.workers.iter_mut().zip(beats) {
            if *beats == 0 || beats != seen {
                (*seen, *still) = (*beats, Duration::ZERO);
            } else {
                *still += gap;
            }
        }
    }

    /// Those that have stood still for so long or longer, by number.
    pub fn beyond(&self, most: Duration) -> Vec<(usize, Duration)> {
        let all = self.workers.iter().enumerate();
        all.filter(|(_, (_, still))| *still >= most).map(|(number, (_, still))| (number, *still)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUND: Duration = Duration::from_secs(30);

    #[test]
    fn r10_1_a_worker_that_stands_still_is_found_and_forgiven_with_its_next_beat() {
        let (start, mut stalls) = (Instant::now(), Stalls::default());
        for step in 0..6 {
            stalls.look(start + LOOK * step, &[7, u64::from(step) + 1, 0]);
            assert_eq!(stalls.beyond(BOUND), []);
        }
        stalls.look(start + LOOK * 6, &[7, 7, 0]);
        assert_eq!(stalls.beyond(BOUND), [(0, BOUND)]); // One that has not begun is no alarm.
        stalls.look(start + LOOK * 7, &[8, 8, 0]);
        assert_eq!(stalls.beyond(BOUND), []);
    }

    #[test]
    fn r10_1_a_machine_that_was_suspended_is_no_alarm() {
        let (mut now, mut stalls) = (Instant::now(), Stalls::default());
        stalls.look(now, &[1]);
        for _ in 0..2 {
            now += Duration::from_hours(8);
            stalls.look(now, &[1]); // Whoever watches is awake before the worker.
            assert_eq!(stalls.beyond(BOUND), []);
        }
        now += LOOK;
        stalls.look(now, &[2]);
        assert_eq!(stalls.beyond(Duration::from_millis(1)), []);
    }
}
