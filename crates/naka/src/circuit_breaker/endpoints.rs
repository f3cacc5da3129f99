//! Breakers in front of endpoints, where a balancer asks them before it chooses.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::{
    breaker::Breaker,
    cell::Admitted,
    config::{CircuitBreakerConfig, Until},
    saved::Saved,
    window::Answer,
};
use crate::{
    classify::Outcome,
    clock::Now,
    enforce::Enforce,
    gate::{Availability, Gate, Passage, Ticket},
    observe::Observer,
    saved::Unfit,
};

/// A breaker as the gate of an endpoint. What is a failure is for the balancer to say, by the
/// [classifier](crate::balance::BalanceConfig::classifier) it has; the breaker's own is not asked.
impl<O: Observer> Gate for Breaker<O> {
    fn availability(&self, now: Now) -> Availability {
        Self::availability(self, now)
    }

    fn enter(&self, now: Now) -> Option<Ticket> {
        let shared = &self.shared;
        shared.follow();
        if !shared.is_on() {
            return Some(NO_SAY);
        }
        let (said, turn) = shared.in_force(|rule| self.cell.enter(rule, shared.now_ms(now)));
        let ticket = said.map(ticket_of);
        shared.tell(turn, self.key);
        match ticket {
            Ok(ticket) => Some(ticket),
            Err(wait_ms) if shared.config.enforce == Enforce::Observe => {
                shared.observer.would_reject(&shared.rejection(wait_ms));
                Some(NO_SAY)
            }
            Err(_) => None,
        }
    }

    fn leave(&self, ticket: Ticket, passage: &Passage) {
        let (shared, cell) = (&self.shared, &self.cell);
        if ticket == NO_SAY {
            return;
        }
        let admitted = admitted_by(ticket);
        if passage.outcome == Outcome::Neutral {
            return shared.in_force(|rule| cell.give_back(rule, admitted));
        }
        let took = |slow: super::SlowCall| match slow.until {
            Until::Head => passage.latency,
            Until::End => Now::read().instant().saturating_duration_since(passage.entered.instant()),
        };
        let is_slow = shared.config.slow_call.is_some_and(|slow| shared.config.is_slow(took(slow)));
        let answer = Answer { is_failure: passage.outcome == Outcome::Failure, is_slow };
        let now_ns = || shared.now_ns(Now::read());
        let turn = shared.in_force(|rule| cell.settle(rule, admitted, answer, now_ns, || shared.draw()));
        shared.tell(turn, self.key);
    }

    fn settles_at_head(&self) -> bool {
        self.shared.config.settle == Until::Head
    }

    fn explain(&self, now: Now) -> String {
        self.snapshot(now).to_string()
    }
}

/// Of whoever was let in although it was closed.
const NO_SAY: Ticket = Ticket(u64::MAX);

/// Epochs have twelve bits.
const fn ticket_of(admitted: Admitted) -> Ticket {
    Ticket(admitted.epoch << 1 | admitted.is_probe as u64)
}

const fn admitted_by(ticket: Ticket) -> Admitted {
    Admitted { epoch: ticket.0 >> 1, is_probe: ticket.0 & 1 != 0 }
}

/// How many breakers of endpoints that no balancer holds any more are remembered, at each reconfiguration and
/// since.
const MAX_KEPT: usize = 1024;

/// A breaker for each endpoint of one upstream, by address: [`gate`](Self::gate) is what
/// [`BalanceLayer::gated`](crate::balance::BalanceLayer::gated) asks for.
///
/// Breakers of endpoints that are gone are remembered, so that one that comes back finds its own: 1,024 of those
/// that were gone before a reconfiguration, and as many since; then any half of those are forgotten.
///
/// # Example
/// ```
/// use naka::{
///     balance::{BalanceConfig, BalanceLayer, Policy},
///     circuit_breaker::{CircuitBreakerConfig, EndpointBreakers},
/// };
///
/// let breakers = EndpointBreakers::new(CircuitBreakerConfig::new().consecutive(5));
/// let config = BalanceConfig::new(Policy::PeakEwma).max_ejected(30);
/// let layer = BalanceLayer::with_config(config, ["10.0.0.1:80", "10.0.0.2:80"]).gated({
///     let breakers = breakers.clone();
///     move |address| breakers.gate(address)
/// });
/// breakers.breaker("10.0.0.2:80").expect("the layer has asked for it").force_open();
/// # drop(layer);
/// ```
pub struct EndpointBreakers<O = ()> {
    shared: Arc<Shared<O>>,
}

struct Shared<O> {
    config: CircuitBreakerConfig,
    observe: Arc<ObserveFn<O>>,
    known: Mutex<Known<O>>,
}

type Known<O> = HashMap<Arc<str>, Of<O>>;

/// The breaker of one endpoint.
struct Of<O> {
    breaker: Arc<Breaker<O>>,
    /// A balancer has asked for it since it was configured.
    is_asked: bool,
}

impl<O> Of<O> {
    /// A balancer has asked for it, and none holds it any more.
    fn is_spare(&self) -> bool {
        self.is_asked && Arc::strong_count(&self.breaker) == 1
    }
}

type ObserveFn<O> = dyn Fn(&Arc<str>) -> O + Send + Sync;

impl EndpointBreakers {
    /// Each with this configuration.
    pub fn new(config: CircuitBreakerConfig) -> Self {
        Self::observed(config, |_| ())
    }
}

impl<O: Observer> EndpointBreakers<O> {
    /// As [`new`](EndpointBreakers::new), and tells the observer of each address what its breaker does.
    pub fn observed(
        config: CircuitBreakerConfig,
        observe: impl Fn(&Arc<str>) -> O + Send + Sync + 'static,
    ) -> Self {
        let shared = Shared { config, observe: Arc::new(observe), known: Mutex::default() };
        Self { shared: Arc::new(shared) }
    }

    /// The same breakers under another configuration, which takes effect at each with its first request.
    #[must_use]
    pub fn reconfigured(&self, config: &CircuitBreakerConfig) -> Self
    where
        O: Clone,
    {
        let before = self.shared.known();
        let mut kept = 0;
        let mut is_kept = |of: &Of<O>| {
            let is_held = of.is_asked && !of.is_spare();
            kept += usize::from(!is_held);
            is_held || kept <= MAX_KEPT
        };
        let again = |(address, of): (&Arc<str>, &Of<O>)| {
            (Arc::clone(address), Of { breaker: Arc::new(of.breaker.reconfigured(config)), is_asked: false })
        };
        let known = before.iter().filter(|(_, of)| is_kept(of)).map(again).collect();
        let observe = Arc::clone(&self.shared.observe);
        Self { shared: Arc::new(Shared { config: *config, observe, known: Mutex::new(known) }) }
    }

    /// The gate of an address: the one it has, or a new one.
    pub fn gate(&self, address: &Arc<str>) -> Arc<dyn Gate> {
        let mut known = self.shared.known();
        if let Some(of) = known.get_mut(address) {
            of.is_asked = true;
            return Arc::clone(&of.breaker) as Arc<dyn Gate>;
        }
        if known.values().filter(|of| of.is_spare()).count() >= MAX_KEPT {
            let mut spare = 0;
            known.retain(|_, of| {
                spare += usize::from(of.is_spare());
                !(of.is_spare() && spare % 2 == 0) // Any half of them.
            });
        }
        let breaker = Arc::new(Breaker::observed(self.shared.config, (self.shared.observe)(address)));
        known.insert(Arc::clone(address), Of { breaker: Arc::clone(&breaker), is_asked: true });
        breaker
    }

    /// The breaker of an address, if it is known.
    pub fn breaker(&self, address: &str) -> Option<Breaker<O>> {
        self.shared.known().get(address).map(|of| (*of.breaker).clone())
    }

    /// What another process needs to go on with each of them, by address.
    pub fn save(&self, now: Now) -> Vec<(Arc<str>, Saved)> {
        let known = self.shared.known();
        known.iter().map(|(address, of)| (Arc::clone(address), of.breaker.save(now))).collect()
    }

    /// Goes on with what was [saved](Self::save) `age` ago, as if it had been [reconfigured](Self::reconfigured) from
    /// there to here. Of addresses that no balancer has asked for yet, the first 1,024 wait for one.
    ///
    /// # Errors
    /// If it is of several breakers, or that of the address has seen something already.
    pub fn restore(&self, address: &Arc<str>, saved: &Saved, age: Duration, now: Now) -> Result<(), Unfit> {
        let mut known = self.shared.known();
        if let Some(of) = known.get(address) {
            return of.breaker.restore(saved, age, now);
        }
        if known.values().filter(|of| !of.is_asked).count() >= MAX_KEPT {
            return Ok(());
        }
        let breaker = Breaker::observed(self.shared.config, (self.shared.observe)(address));
        breaker.restore(saved, age, now)?;
        known.insert(Arc::clone(address), Of { breaker: Arc::new(breaker), is_asked: false });
        Ok(())
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.shared.known().len()
    }
}

impl<O> Shared<O> {
    /// A panic cannot leave it half written: every change is of one entry.
    fn known(&self) -> MutexGuard<'_, Known<O>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<O> Clone for EndpointBreakers<O> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<O> fmt::Debug for EndpointBreakers<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EndpointBreakers").field("config", &self.shared.config).finish_non_exhaustive()
    }
}
