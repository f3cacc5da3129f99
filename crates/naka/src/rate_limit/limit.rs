//! One limit: an account, and one configuration over it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use http::{HeaderValue, request::Parts};

use super::{
    OnMissing, RateLimitConfig,
    fields::{self, Fields, Told},
    gcra::{Cell, Factor, MAX_WINDOWS, Quota, Standing},
    grant::{Grant, Shared},
    saved::Saved,
    shared::Leases,
    table::{Asked, Rule, Said, Table},
};
use crate::{
    clock::{Now, Since},
    enforce::{Enforce, Rejections},
    explain::{Explain, Finding},
    key::Key,
    observe::Observer,
    reject::{Dependency, Head, Reason, Rejection, Verdict},
    saved::Unfit,
    trace::{Journal, note},
};

pub(super) const KIND: &str = "rate_limit";

type KeyFn = dyn Fn(&Head<'_>) -> Option<Key> + Send + Sync;
pub(super) type CostFn = dyn Fn(&Head<'_>) -> u32 + Send + Sync;
pub(super) type TierFn = dyn Fn(&Head<'_>) -> Option<usize> + Send + Sync;

/// What is asked of a request.
#[derive(Clone)]
pub(super) struct Asks {
    pub(super) key: Arc<KeyFn>,
    pub(super) cost: Option<Arc<CostFn>>,
    pub(super) tier: Option<Arc<TierFn>>,
}

/// What outlives a configuration.
#[derive(Debug)]
pub(super) struct Account {
    pub(super) clock: Since,
    pub(super) table: Table,
    /// What is known of a store that others ask, too.
    pub(super) leases: Arc<Leases>,
    /// The number of the next configuration.
    pub(super) generations: AtomicU64,
    pub(super) rejections: Rejections,
    /// The longest refill of all configurations: cells are carried over only as they are asked for.
    pub(super) refill_ns: AtomicU64,
}

impl Account {
    /// What decides under the next configuration, if this has so much of its quota.
    pub(super) fn rule(&self, config: &RateLimitConfig, share: Factor) -> Rule {
        let generation = self.generations.fetch_add(1, Relaxed);
        let rule = Rule::new(generation, config.quota.scaled(share), config.max_keys, &config.tiers);
        let quotas = rule.tiers.iter().map(|(_, quota)| quota).chain([&rule.quota]);
        let refill = quotas.map(Quota::refill).max().unwrap_or_default();
        self.refill_ns.fetch_max(nanos(refill), Relaxed);
        rule
    }

    /// At most so many keys, and how many are left out.
    pub(super) fn save(&self, keys: usize, now: Now) -> (Saved, usize) {
        let at_ns = self.clock.ns(now);
        let (mut saved, mut left_out) = (Saved { at_ns, shards: Vec::new() }, 0);
        for shard in self.table.save(at_ns) {
            saved.shards.push(shard);
            // Not each time: what has to go is looked for among all.
            if saved.keys() / 2 > keys {
                left_out += saved.shorten(keys);
            }
        }
        left_out += saved.shorten(keys);
        (saved, left_out)
    }

    pub(super) fn restore(&self, saved: &Saved, age: Duration, now: Now) -> Result<(), Unfit> {
        let at_ns = saved.at_ns.saturating_add(nanos(age));
        let refill = self.table.restore(&saved.shards)?;
        self.clock.go_on(at_ns, now);
        self.refill_ns.fetch_max(nanos(refill), Relaxed);
        Ok(())
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// One configuration over an account.
pub(super) struct Limit<O> {
    pub(super) account: Arc<Account>,
    pub(super) rule: Rule,
    pub(super) name: Option<Arc<str>>,
    /// What `RateLimit-Policy` says: of the quota as it is, and of each tier's.
    pub(super) policies: Arc<[HeaderValue]>,
    pub(super) config: RateLimitConfig,
    pub(super) asks: Asks,
    pub(super) observer: O,
    /// With whom it is shared.
    pub(super) shared: Option<Arc<Shared>>,
}

/// What is said to a request.
pub(super) enum Says {
    /// It passes: so many more would.
    Left(u64),
    /// It does not; the shortest wait that would help, if one would.
    Refused(Option<Duration>),
    /// Nobody can say.
    Unavailable(Duration),
    /// Somebody has to be asked.
    Ask(Dependency),
}

impl Says {
    pub(super) fn of(said: Said) -> Self {
        match said {
            Ok(left) => Self::Left(left),
            Err(wait) => Self::Refused(wait),
        }
    }
}

impl<O: Clone> Clone for Limit<O> {
    fn clone(&self) -> Self {
        Self {
            account: Arc::clone(&self.account),
            rule: self.rule.clone(),
            name: self.name.clone(),
            policies: Arc::clone(&self.policies),
            config: self.config.clone(),
            asks: self.asks.clone(),
            observer: self.observer.clone(),
            shared: self.shared.clone(),
        }
    }
}

impl<O: Observer> Limit<O> {
    pub(super) fn commit(&self, head: &Head<'_>, now: Now, grant: Option<Grant>) -> Result<(), Rejection> {
        if self.config.enforce == Enforce::Never {
            return Ok(());
        }
        match self.decide(head, now, |asked| self.settle(grant, asked)) {
            Verdict::Reject(rejection) if self.account.rejections.count(self.config.enforce) => {
                self.observer.rejected(&rejection);
                return Err(rejection);
            }
            Verdict::Reject(rejection) => {
                note(head.extensions, "would_reject", self.name.as_ref(), Some(rejection.reason.word()));
                self.observer.would_reject(&rejection);
            }
            Verdict::Admit(admitted) => {
                if let (Some(admitted), Some(journal)) = (admitted, Journal::of(head.extensions)) {
                    journal.left(self.name.as_ref(), admitted.left);
                }
                self.observer.admitted();
            }
            Verdict::Depends(_) => self.observer.admitted(),
        }
        Ok(())
    }

    /// Refuses what `commit` would refuse, and else writes nothing.
    pub(super) fn refuse(&self, head: &Head<'_>, now: Now, grant: Option<&Grant>) -> Result<(), Rejection> {
        let says = |asked: &Asked| match grant {
            Some(grant) => self.foretold(grant, asked),
            None => self.foresee(asked, now),
        };
        match self.decide(head, now, says) {
            Verdict::Reject(rejection) if self.account.rejections.count_if_applies(self.config.enforce) => {
                self.observer.rejected(&rejection);
                Err(rejection)
            }
            _ => Ok(()),
        }
    }

    /// What `commit` would decide.
    pub(super) fn peek(&self, head: &Head<'_>, now: Now) -> Verdict<Option<Admitted>> {
        self.decide(head, now, |asked| self.foresee(asked, now))
    }

    /// The decision, given what is said to a request that is counted.
    fn decide(
        &self,
        head: &Head<'_>,
        now: Now,
        says: impl FnOnce(&Asked) -> Says,
    ) -> Verdict<Option<Admitted>> {
        let asked = match self.asked(head, now) {
            Ok(Some(asked)) => asked,
            Ok(None) => return Verdict::Admit(None),
            Err(reason) => return Verdict::Reject(Rejection::new(reason).by(self.name.clone())),
        };
        let rejection = Rejection::new(Reason::RateLimited);
        let rejection = match says(&asked) {
            Says::Left(left) => return Verdict::Admit(Some(Admitted { asked, left })),
            Says::Ask(whom) => return Verdict::Depends(whom),
            Says::Refused(Some(wait)) => rejection.retry_after(wait),
            Says::Refused(None) => {
                rejection.detail("The request costs more than its limit ever admits at once.")
            }
            Says::Unavailable(wait) => Rejection::new(Reason::LimitUnavailable).retry_after(wait),
        };
        Verdict::Reject(rejection.by(self.name.clone()))
    }

    /// What a request is to the table; `None` if it is not counted.
    pub(super) fn asked(&self, head: &Head<'_>, now: Now) -> Result<Option<Asked>, Reason> {
        let cost = self.asks.cost.as_ref().map_or(self.config.cost, |cost| cost(head));
        if cost == 0 {
            return Ok(None);
        }
        let key = match ((self.asks.key)(head), self.config.on_missing) {
            (Some(key), _) => key,
            (None, OnMissing::Shared) if self.shared.is_some() => Key::NONE,
            (None, OnMissing::Shared) => Key::of("naka: no key"),
            (None, OnMissing::Skip) => return Ok(None),
            (None, OnMissing::Reject) => return Err(Reason::KeyMissing),
        };
        let tier = self.asks.tier.as_ref().and_then(|tier| tier(head));
        let tier = tier.filter(|tier| *tier < self.config.tiers.len());
        Ok(Some(Asked { key, cost, tier, now_ns: self.account.clock.ns(now) }))
    }

    /// Whether clients are told of it: not of what is not enforced.
    pub(super) fn tells(&self) -> bool {
        let is_on = matches!(self.config.enforce, Enforce::Always | Enforce::Percent(_));
        is_on && self.config.fields != Fields::Off
    }

    /// Where a request stands; nothing if it is not counted.
    pub(super) fn told(&self, head: &Head<'_>, now: Now) -> Option<Told<'_>> {
        let asked = self.asked(head, now).ok()??;
        let policy = self.policies.get(asked.tier.map_or(0, |tier| tier + 1));
        let windows = self.known(&asked).unwrap_or_else(|| {
            self.account.table.look(&self.rule, &asked, |quota, cell| standings(quota, cell, asked.now_ns))
        });
        Some(Told { policy, ..self.unasked(windows) })
    }

    pub(super) fn unasked(&self, windows: [Option<Standing>; MAX_WINDOWS]) -> Told<'_> {
        Told { fields: self.config.fields, name: self.name.as_deref(), policy: None, windows }
    }

    /// The same, after its name or its configuration has changed.
    pub(super) fn with_policies(mut self) -> Self {
        if self.config.fields != Fields::Draft {
            self.policies = Arc::default();
            return self;
        }
        let policy = |quota: &Quota| fields::policy(self.unasked(standings(quota, &Cell::default(), 0)));
        self.policies = if let Some(shared) = &self.shared {
            shared.quotas().filter_map(policy).collect()
        } else {
            let tiers = self.rule.tiers.iter().map(|(_, quota)| quota);
            [&self.rule.quota].into_iter().chain(tiers).filter_map(policy).collect()
        };
        self
    }
}

fn standings(quota: &Quota, cell: &Cell, now_ns: u64) -> [Option<Standing>; MAX_WINDOWS] {
    placed(quota.standing(cell, now_ns))
}

pub(super) fn placed(standings: impl Iterator<Item = Standing>) -> [Option<Standing>; MAX_WINDOWS] {
    let mut all = [None; MAX_WINDOWS];
    all.iter_mut().zip(standings).for_each(|(place, standing)| *place = Some(standing));
    all
}

/// What is known of a request that is admitted.
pub(super) struct Admitted {
    asked: Asked,
    left: u64,
}

impl<O: Observer> Explain for Limit<O> {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    fn explain(&self, now: Now, head: &mut Parts) -> Finding {
        if self.config.enforce == Enforce::Never {
            return Finding::Off;
        }
        match self.peek(&Head::from(&*head), now) {
            Verdict::Admit(None) => Finding::Passes,
            Verdict::Admit(Some(Admitted { asked, left })) => {
                let left = left.saturating_add(u64::from(asked.cost));
                Finding::Admit(format!("{left} of {} left", self.quota_of(&asked).burst()))
            }
            Verdict::Reject(rejection) if self.account.rejections.peek(self.config.enforce) => {
                Finding::Reject(rejection)
            }
            Verdict::Reject(rejection) => Finding::Observe(rejection),
            Verdict::Depends(what) => Finding::WouldAsk(what),
        }
    }
}
