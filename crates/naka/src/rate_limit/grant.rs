//! What a request has of a limit that is shared, before anything is decided.

use std::{hash::Hasher as _, sync::Arc, time::Duration};

use siphasher::sip::SipHasher13;
use tokio::time::{Instant, timeout_at};

use super::{
    RateLimitConfig,
    gcra::{Cell, Factor, MAX_WINDOWS, Quota, Standing},
    limit::{Limit, Says, placed},
    shared::{Hold, Look, Need, OnFailure, Shape, Sharing, Taken},
    table::Asked,
};
use crate::{clock::Now, observe::Observer, reject::Dependency};

/// How long whoever is refused because there is no store should wait.
const RETRY: Duration = Duration::from_secs(1);
/// How often one request waits for somebody else's answer.
const TURNS: usize = 16;

/// How a limit is shared, and what follows from its quota.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) sharing: Sharing,
    /// Of whoever is of no tier, and of each tier.
    quotas: Vec<Counted>,
}

#[derive(Clone)]
struct Counted {
    quota: Quota,
    windows: Arc<[Shape]>,
    /// The same for the same windows.
    fingerprint: u64,
    burst: u32,
    refill_ns: u64,
}

impl Shared {
    pub(super) fn new(sharing: Sharing, config: &RateLimitConfig) -> Self {
        let quota = &config.quota;
        let counted = |factor: &Factor| {
            let scaled = quota.scaled(*factor);
            let windows = Shape::all(quota, &scaled, factor.get());
            Counted {
                quota: scaled,
                fingerprint: fingerprint(&windows),
                windows,
                burst: scaled.burst(),
                refill_ns: u64::try_from(scaled.refill().as_nanos()).unwrap_or(u64::MAX),
            }
        };
        let quotas = [Factor::ONE].iter().chain(&config.tiers).map(counted).collect();
        Self { sharing, quotas }
    }

    /// The same of another configuration.
    pub(super) fn of(&self, config: &RateLimitConfig) -> Arc<Self> {
        Arc::new(Self::new(self.sharing.clone(), config))
    }

    /// This node's part.
    pub(super) const fn share(&self) -> Factor {
        Factor::percent(self.sharing.share)
    }

    /// What all nodes together have, whoever is of no tier first.
    pub(super) fn quotas(&self) -> impl Iterator<Item = &Quota> {
        self.quotas.iter().map(|counted| &counted.quota)
    }

    fn counted(&self, asked: &Asked) -> &Counted {
        self.quotas.get(asked.tier.map_or(0, |tier| tier + 1)).unwrap_or(&self.quotas[0])
    }
}

fn fingerprint(windows: &[Shape]) -> u64 {
    let mut hasher = SipHasher13::new();
    for Shape { per_ns, count, burst, percent, most } in windows {
        hasher.write_u64(*per_ns);
        for number in [count, burst, percent, most] {
            hasher.write_u32(*number);
        }
    }
    hasher.finish()
}

/// What a request has of a limit that is shared.
pub(super) enum Grant {
    /// What it needs.
    Held(Hold),
    /// The store has refused it.
    Refused(Option<Duration>),
    /// This node's share decides.
    Share,
    /// It passes.
    Open,
    /// It does not.
    Unavailable,
    /// It does not count.
    Uncounted,
}

impl Grant {
    /// Whether it is refused, whatever else is asked.
    pub(super) const fn refuses(&self) -> bool {
        matches!(self, Self::Refused(_) | Self::Unavailable)
    }
}

/// Of each limit of a layer that is shared, in their order; one needs no memory.
#[derive(Default)]
pub(super) struct Grants {
    first: Option<Grant>,
    rest: Vec<Grant>,
}

impl Grants {
    pub(super) fn push(&mut self, grant: Grant) {
        if self.first.is_none() { self.first = Some(grant) } else { self.rest.push(grant) }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Grant> {
        self.first.iter().chain(&self.rest)
    }

    /// The last that was pushed.
    pub(super) fn pop(&mut self) -> Option<Grant> {
        self.rest.pop().or_else(|| self.first.take())
    }

    pub(super) fn into_iter(self) -> impl Iterator<Item = Grant> {
        self.first.into_iter().chain(self.rest)
    }
}

impl<O: Observer> Limit<O> {
    fn need(&self, shared: &Shared, asked: &Asked) -> Need {
        let counted = shared.counted(asked);
        Need {
            key: asked.key,
            tier: asked.tier.map_or(0, |tier| tier + 1),
            cost: asked.cost,
            quota: counted.fingerprint,
            burst: counted.burst,
            refill_ns: counted.refill_ns,
            lease: shared.sharing.lease.min(counted.burst),
            max_keys: self.config.max_keys,
        }
    }

    /// What a request would be told; nothing is written.
    pub(super) fn foresee(&self, asked: &Asked, now: Now) -> Says {
        let Some(shared) = &self.shared else { return Says::of(self.account.table.peek(&self.rule, asked)) };
        let need = self.need(shared, asked);
        if need.cost > need.burst {
            return Says::Refused(None);
        }
        let store = &shared.sharing.store;
        let grant = match self.account.leases.look(&need, asked.now_ns) {
            Look::Lease(left) => return Says::Left(left.saturating_sub(u64::from(need.cost))),
            Look::Refused(wait) => Grant::Refused(wait),
            Look::Young(wait) => young(shared, wait),
            Look::Ask if store.may_ask(now) => {
                return Says::Ask(Dependency::Store { within: store.timeout() });
            }
            Look::Ask => without(shared),
        };
        self.foretold(&grant, asked)
    }

    /// What [`settle`](Self::settle) would say.
    pub(super) fn foretold(&self, grant: &Grant, asked: &Asked) -> Says {
        match grant {
            Grant::Held(hold) => Says::Left(hold.left()),
            Grant::Refused(wait) => Says::Refused(*wait),
            Grant::Share => Says::of(self.account.table.peek(&self.rule, asked)),
            Grant::Open | Grant::Uncounted => Says::Left(self.rest(asked)),
            Grant::Unavailable => Says::Unavailable(RETRY),
        }
    }

    /// Decides.
    pub(super) fn settle(&self, grant: Option<Grant>, asked: &Asked) -> Says {
        let (Some(shared), Some(grant)) = (&self.shared, grant) else {
            return Says::of(self.account.table.commit(&self.rule, asked));
        };
        let (says, is_without) = match grant {
            Grant::Held(hold) => (Says::Left(hold.spend()), false),
            Grant::Share => (Says::of(self.account.table.commit(&self.rule, asked)), true),
            Grant::Open => {
                self.account.table.charge(&self.rule, asked);
                (Says::Left(self.rest(asked)), true)
            }
            Grant::Unavailable => (Says::Unavailable(RETRY), true),
            Grant::Refused(_) | Grant::Uncounted => (self.foretold(&grant, asked), false),
        };
        if is_without {
            self.observer.without_store();
            if matches!(says, Says::Left(_)) {
                self.account.leases.owe(&self.need(shared, asked), asked.now_ns);
            }
        }
        says
    }

    /// What is left at most of whoever is asked nothing.
    fn rest(&self, asked: &Asked) -> u64 {
        u64::from(self.quota_of(asked).burst().saturating_sub(asked.cost))
    }

    /// What all nodes have together.
    pub(super) fn quota_of(&self, asked: &Asked) -> &Quota {
        if let Some(shared) = &self.shared {
            return &shared.counted(asked).quota;
        }
        let tier = asked.tier.and_then(|tier| self.rule.tiers.get(tier));
        tier.map_or(&self.rule.quota, |(_, quota)| quota)
    }

    /// Where a request stands, as far as a store has said it.
    pub(super) fn known(&self, asked: &Asked) -> Option<[Option<Standing>; MAX_WINDOWS]> {
        let shared = self.shared.as_ref()?;
        let said = self.account.leases.said(&self.need(shared, asked), asked.now_ns)?;
        let fresh = shared.counted(asked).quota.standing(&Cell::FRESH, 0);
        Some(placed(fresh.zip(said).map(|(it, (left, reset_ns))| {
            let left = left.min(u64::from(it.quota));
            Standing { left, reset: Duration::from_nanos(reset_ns), ..it }
        })))
    }

    /// What a request has, if nobody has to be asked.
    pub(super) fn grant_at_once(&self, shared: &Shared, asked: &Asked, now: Now) -> Option<Grant> {
        let need = self.need(shared, asked);
        if need.cost > need.burst {
            return Some(Grant::Refused(None));
        }
        // The usual case under one lock.
        if let Some(hold) = self.account.leases.hold(&need, asked.now_ns) {
            return Some(Grant::Held(hold));
        }
        match self.account.leases.look(&need, asked.now_ns) {
            Look::Lease(_) => None, // It has come in between.
            Look::Refused(wait) => Some(Grant::Refused(wait)),
            Look::Young(wait) => Some(young(shared, wait)),
            Look::Ask => (!shared.sharing.store.may_ask(now)).then(|| without(shared)),
        }
    }

    /// What a request has. Dropped, it has nothing, and whoever waits for the same goes on.
    pub(super) async fn grant(&self, shared: &Shared, asked: &Asked) -> Grant {
        let (need, store) = (self.need(shared, asked), &shared.sharing.store);
        let until = Instant::now() + store.timeout();
        let mut waited = None;
        // Of those that wait for one answer all have theirs with the next one, but for what others take meanwhile.
        for _ in 0..TURNS {
            let now = Now::read();
            let asked = Asked { now_ns: self.account.clock.ns(now), ..*asked };
            if let Some(grant) = self.grant_at_once(shared, &asked, now) {
                return grant;
            }
            match self.account.leases.take(&need, waited.take(), asked.now_ns) {
                Taken::Held(hold) => return Grant::Held(hold),
                Taken::Refused(wait) => return Grant::Refused(wait),
                Taken::Young(wait) => return young(shared, wait),
                Taken::Full => return without(shared),
                Taken::Waits(mut waiting) => {
                    if timeout_at(until, waiting.over()).await.is_err() {
                        return without(shared);
                    }
                    waited = Some(waiting);
                }
                Taken::Asks(asking) => {
                    let name = self.name.clone().unwrap_or_default();
                    let windows = Arc::clone(&shared.counted(&asked).windows);
                    let said = store.ask(asking.ask(name, windows)).await;
                    let now_ns = self.account.clock.ns(Now::read());
                    let (taken, granted) = asking.finish(said, now_ns);
                    if granted > 0 {
                        // It is this node's own account that decides if the store goes.
                        self.account.table.charge(&self.rule, &Asked { cost: granted, now_ns, ..asked });
                    }
                    return match taken {
                        Taken::Held(hold) => Grant::Held(hold),
                        Taken::Refused(wait) => Grant::Refused(wait),
                        Taken::Young(wait) => young(shared, wait),
                        Taken::Full | Taken::Asks(_) | Taken::Waits(_) => without(shared),
                    };
                }
            }
        }
        without(shared)
    }
}

/// The store refuses, and perhaps only because it has lost what it knew.
const fn young(shared: &Shared, wait: Option<Duration>) -> Grant {
    match shared.sharing.on_failure {
        OnFailure::Share | OnFailure::Open => Grant::Share,
        OnFailure::Closed => Grant::Refused(wait),
    }
}

/// The store does not answer.
const fn without(shared: &Shared) -> Grant {
    match shared.sharing.on_failure {
        OnFailure::Share => Grant::Share,
        OnFailure::Open => Grant::Open,
        OnFailure::Closed => Grant::Unavailable,
    }
}
