//! The handle of one breaker, and what whoever was let in holds of it.

use std::{
    fmt,
    sync::{Arc, PoisonError},
    time::Duration,
};

use http::{Extensions, HeaderMap, Response};
use tokio::time::Instant;

use super::{
    cell::{Admitted, Cell, Turn},
    config::{CircuitBreakerConfig, Rule, Until},
    phase::{self, Entry, Phase, State},
    saved::Saved,
    table::Table,
    window::{Answer, Cause, Counts},
};
use crate::{
    classify::{Outcome, Seen},
    clock::{Now, Since},
    enforce::{Enforce, Rejections},
    gate::Availability,
    guard::{End, Guard},
    key::Key,
    observe::Observer,
    random::{Numbers, seed},
    reject::{Head, Reason, Rejection},
    saved::Unfit,
    sync::{
        Mutex, MutexGuard,
        atomic::{
            AtomicU32,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
};

/// A change of phase, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Transition {
    /// From this phase.
    pub from: Phase,
    /// Into this one; the same, if probes have lost their places.
    pub to: Phase,
    /// Because of this.
    pub cause: Cause,
    /// Whose breaker it is, where each key has one.
    pub key: Option<Key>,
}

/// What is known of a breaker now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Snapshot {
    /// Where it is in its life.
    pub phase: Phase,
    /// What is in its window; nothing unless results count.
    pub counts: Counts,
    /// Failures in a row.
    pub consecutive: u32,
    /// Probes at work.
    pub probes: u32,
    /// Probes that went well since it was open.
    pub successes: u32,
    /// How long it is still open, or recovers, or the last probe has its place for certain.
    pub left: Option<Duration>,
}

impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.phase.word())?;
        match self.phase {
            Phase::Closed | Phase::Recovering => {
                let Counts { total, failed, slow } = self.counts;
                write!(
                    f,
                    ": {failed} of {total} failed, {slow} slow, {} failures in a row",
                    self.consecutive
                )?;
            }
            Phase::HalfOpen => write!(f, ": {} probes at work, {} went well", self.probes, self.successes)?,
            Phase::Open | Phase::ForcedOpen | Phase::ForcedClosed => {}
        }
        match (self.phase, self.left) {
            (Phase::Open | Phase::Recovering, Some(left)) => write!(f, ", {left:?} to go"),
            _ => Ok(()),
        }
    }
}

/// One breaker, without a layer: for a balancer's endpoints, or for what is no HTTP. Cheap to clone; see the
/// [module docs](super).
pub struct Breaker<O = ()> {
    pub(super) cell: Arc<Cell>,
    pub(super) shared: Arc<Shared<O>>,
    pub(super) key: Option<Key>,
}

impl Breaker {
    /// A new one, which is closed.
    pub fn new(config: CircuitBreakerConfig) -> Self {
        Self::observed(config, ())
    }
}

impl<O: Observer> Breaker<O> {
    /// As [`new`](Breaker::new), and tells `observer` what it does.
    pub fn observed(config: CircuitBreakerConfig, observer: O) -> Self {
        let shared = Arc::new(Shared::new(config, observer));
        Self { cell: Arc::clone(&shared.account.cell), shared, key: None }
    }

    /// Whether a request would be let in. Writes nothing. Whoever has a choice takes another then, so that a
    /// part that is [enforced](CircuitBreakerConfig::enforce) counts as all. While it recovers it says
    /// [`Availability::Probe`]: whether it is this one's turn is known when it enters, which counts the turns.
    pub fn availability(&self, now: Now) -> Availability {
        let state = self.cell.state();
        if state.phase == Phase::Recovering && self.shared.config.enforce != Enforce::Never {
            return Availability::Probe;
        }
        let entry = match self.shared.config.enforce {
            Enforce::Never | Enforce::Observe => Entry::Pass,
            _ => self.shared.in_force(|rule| self.cell.peek(rule, self.shared.now_ms(now))),
        };
        match entry {
            Entry::Pass => Availability::Ready,
            Entry::Probe => Availability::Probe,
            Entry::Refuse(wait_ms) => Availability::Ejected(wait_ms.map(Duration::from_millis)),
        }
    }

    /// Lets a request in, or refuses it with [`Reason::CircuitOpen`]. What is refused and not enforced is let
    /// in, and what comes of it does not count.
    pub fn enter(&self, now: Now) -> Result<Pass<O>, Rejection> {
        self.shared.follow();
        self.shared.enter(&self.cell, self.key, now)
    }

    /// None pass, until [`release`](Self::release) or [`reset`](Self::reset).
    pub fn force_open(&self) {
        self.by_hand(|state| phase::forced(state, Phase::ForcedOpen));
    }

    /// All pass and nothing counts, until [`release`](Self::release) or [`reset`](Self::reset).
    pub fn force_close(&self) {
        self.by_hand(|state| phase::forced(state, Phase::ForcedClosed));
    }

    /// Takes back what was forced: what was forced open is probed first, what was forced closed is closed.
    pub fn release(&self) {
        let now_ms = self.shared.now_ms(Now::read());
        self.by_hand(|state| phase::released(state, now_ms));
    }

    /// Closed, with an empty window, whatever it was.
    pub fn reset(&self) {
        self.by_hand(phase::reset);
    }

    /// What is known of it now.
    pub fn snapshot(&self, now: Now) -> Snapshot {
        self.shared.snapshot(&self.cell, now)
    }

    /// What another process needs to go on with it.
    pub fn save(&self, now: Now) -> Saved {
        let (shared, rule) = (&self.shared, self.shared.in_force(|rule| *rule));
        let key = self.key.map(Key::bits);
        let cell = self.cell.save(key, 0);
        Saved::new(shared.now_ns(now), &rule, vec![cell])
    }

    /// Goes on with what was [saved](Self::save) `age` ago, as if it had been [reconfigured](Self::reconfigured) from
    /// there to here.
    ///
    /// # Errors
    /// If it is of several breakers, or this one has seen something already.
    pub fn restore(&self, saved: &Saved, age: Duration, now: Now) -> Result<(), Unfit> {
        let ([cell], None) = (&saved.cells[..], self.shared.account.table.as_ref()) else {
            return Err(Unfit::Other);
        };
        if !self.cell.is_new() {
            return Err(Unfit::NotNew);
        }
        self.cell.restore(cell, saved.eras(&self.shared.rule));
        self.shared.account.clock.go_on(saved.at_ns.saturating_add(nanos(age)), now);
        Ok(())
    }

    /// The same breaker under another configuration, which takes effect with its first request. The phase
    /// stays, and so does the window, unless its shape is another.
    #[must_use]
    pub fn reconfigured(&self, config: &CircuitBreakerConfig) -> Self
    where
        O: Clone,
    {
        let shared = Arc::new(self.shared.reconfigured(config));
        Self { cell: Arc::clone(&self.cell), shared, key: self.key }
    }

    fn by_hand(&self, next: impl Fn(State) -> State) {
        self.shared.tell(self.cell.by_hand(next), self.key);
    }
}

impl<O> Clone for Breaker<O> {
    fn clone(&self) -> Self {
        Self { cell: Arc::clone(&self.cell), shared: Arc::clone(&self.shared), key: self.key }
    }
}

impl<O> fmt::Debug for Breaker<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Breaker").field("state", &self.cell.state()).finish_non_exhaustive()
    }
}

/// One request that was let in. It has a say once, when it is known how it went; dropped before, it says
/// nothing and gives back the place of a probe.
pub struct Pass<O: Observer = ()> {
    cell: Arc<Cell>,
    shared: Arc<Shared<O>>,
    key: Option<Key>,
    /// None: it has said what it has to say, or it has no say.
    admitted: Option<Admitted>,
    entered: Instant,
    seen: Seen,
    is_slow: bool,
}

impl<O: Observer> Pass<O> {
    /// The head of the response is there, or an error.
    pub fn answered<R, E>(&mut self, result: &Result<Response<R>, E>) {
        if self.is_settled() {
            return;
        }
        let config = &self.shared.config;
        self.seen = config.classifier.result(result);
        let is_measured = config.slow_call.is_some_and(|slow| slow.until == Until::Head);
        let settles = config.settle == Until::Head;
        if is_measured {
            self.is_slow = config.is_slow(self.took(Now::read()));
        }
        match self.seen {
            Seen::Decided(outcome) => self.say(outcome),
            Seen::Body | Seen::Trailers if settles => self.say(Outcome::Success),
            Seen::Body | Seen::Trailers => {}
        }
    }

    /// It is known how it went, from whatever there is to know it from.
    pub fn settle(mut self, outcome: Outcome) {
        self.say(outcome);
    }

    /// Whether it has said what it has to say, or has no say.
    pub const fn is_settled(&self) -> bool {
        self.admitted.is_none()
    }

    fn say(&mut self, outcome: Outcome) {
        let Some(admitted) = self.admitted.take() else { return };
        let (shared, cell) = (&self.shared, &self.cell);
        if outcome == Outcome::Neutral {
            return shared.in_force(|rule| cell.give_back(rule, admitted));
        }
        let is_late = shared.config.slow_call.is_some_and(|slow| slow.until == Until::End)
            && shared.config.is_slow(self.took(Now::read()));
        let answer = Answer { is_failure: outcome == Outcome::Failure, is_slow: self.is_slow || is_late };
        let now_ns = || shared.now_ns(Now::read());
        let random = || shared.draw();
        let turn = shared.in_force(|rule| cell.settle(rule, admitted, answer, now_ns, random));
        shared.tell(turn, self.key);
    }

    fn took(&self, now: Now) -> Duration {
        now.instant().saturating_duration_since(self.entered)
    }
}

impl<O: Observer> Guard for Pass<O> {
    fn trailers(&mut self, trailers: &HeaderMap) {
        self.seen = self.shared.config.classifier.trailers(self.seen, trailers);
    }

    fn end(mut self, end: End) {
        self.say(self.seen.end(end));
    }
}

impl<O: Observer> Drop for Pass<O> {
    fn drop(&mut self) {
        self.say(Outcome::Neutral);
    }
}

impl<O: Observer> fmt::Debug for Pass<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pass")
            .field("admitted", &self.admitted)
            .field("seen", &self.seen)
            .finish_non_exhaustive()
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

pub(super) type KeyFn = dyn Fn(&Head<'_>) -> Option<Key> + Send + Sync;

/// What outlives a configuration.
#[derive(Debug)]
pub(super) struct Account {
    clock: Since,
    /// The only breaker; where each key has one, that of those who have none.
    pub(super) cell: Arc<Cell>,
    pub(super) table: Option<Table>,
    /// The number of the configuration in force, which is the newest that has seen a request.
    in_force: AtomicU32,
    rule: Mutex<Rule>,
    /// Configurations made after the first.
    generations: AtomicU32,
    pub(super) rejections: Rejections,
    random: Numbers,
}

impl Account {
    pub(super) fn new(config: &CircuitBreakerConfig, table: Option<Table>) -> Self {
        let seed = config.seed.unwrap_or_else(seed);
        Self {
            clock: Since::new(Now::read().instant()),
            cell: Arc::new(Cell::new()),
            table,
            in_force: AtomicU32::new(1),
            rule: Mutex::new(config.rule(1)),
            generations: AtomicU32::new(0),
            rejections: Rejections::default(),
            random: Numbers::new(seed),
        }
    }

    /// A panic cannot leave it half written: every write is one assignment.
    fn rule(&self) -> MutexGuard<'_, Rule> {
        self.rule.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One configuration over an account.
pub(super) struct Shared<O> {
    pub(super) account: Arc<Account>,
    generation: u32,
    pub(super) config: CircuitBreakerConfig,
    rule: Rule,
    pub(super) name: Option<Arc<str>>,
    pub(super) key: Option<Arc<KeyFn>>,
    pub(super) observer: O,
}

impl<O: Clone> Clone for Shared<O> {
    fn clone(&self) -> Self {
        Self {
            account: Arc::clone(&self.account),
            generation: self.generation,
            config: self.config,
            rule: self.rule,
            name: self.name.clone(),
            key: self.key.clone(),
            observer: self.observer.clone(),
        }
    }
}

impl<O> Shared<O> {
    pub(super) fn new(config: CircuitBreakerConfig, observer: O) -> Self {
        let account = Arc::new(Account::new(&config, None));
        let rule = *account.rule();
        Self { account, generation: 1, config, rule, name: None, key: None, observer }
    }

    pub(super) fn is_on(&self) -> bool {
        self.config.enforce != Enforce::Never
    }

    pub(super) fn reconfigured(&self, config: &CircuitBreakerConfig) -> Self
    where
        O: Clone,
    {
        let generation = self.account.generations.fetch_add(1, Relaxed) + 2;
        let rule = config.rule(self.rule.era);
        let is_same = rule.shape == self.rule.shape;
        let rule = if is_same { rule } else { config.rule(u64::from(generation)) };
        Self { generation, config: *config, rule, ..self.clone() }
    }

    pub(super) fn named(&self, name: &Arc<str>) -> Self
    where
        O: Clone,
    {
        Self { name: Some(Arc::clone(name)), ..self.clone() }
    }

    /// An account for each key, and new.
    pub(super) fn keyed(&self, key: Arc<KeyFn>) -> Self
    where
        O: Clone,
    {
        let account = Arc::new(Account::new(&self.config, Some(Table::new())));
        let rule = *account.rule();
        Self { account, generation: 1, rule, key: Some(key), ..self.clone() }
    }

    /// When a request comes. What has waited in front of us says nothing of what is behind.
    pub(super) fn now(&self, extensions: &Extensions) -> Now {
        if self.config.slow_call.is_some() { Now::read() } else { Now::of(extensions) }
    }

    pub(super) fn now_ns(&self, now: Now) -> u64 {
        self.account.clock.ns(now)
    }

    pub(super) fn now_ms(&self, now: Now) -> u64 {
        self.now_ns(now) / 1_000_000
    }

    /// What an open time is drawn by.
    pub(super) fn draw(&self) -> u64 {
        self.account.random.draw()
    }

    /// Puts this configuration in force, if it is newer than what is.
    pub(super) fn follow(&self) {
        if self.generation <= self.account.in_force.load(Acquire) {
            return;
        }
        let mut rule = self.account.rule();
        if self.generation > self.account.in_force.load(Acquire) {
            *rule = self.rule;
            self.account.in_force.store(self.generation, Release);
        }
    }

    /// Decides by what is in force, or will be with the first request. Only a layer of an earlier
    /// configuration takes a lock for it.
    pub(super) fn in_force<R>(&self, decide: impl FnOnce(&Rule) -> R) -> R {
        if self.generation >= self.account.in_force.load(Acquire) {
            return decide(&self.rule);
        }
        let rule = *self.account.rule();
        decide(&rule)
    }

    pub(super) fn snapshot(&self, cell: &Cell, now: Now) -> Snapshot {
        let now_ns = self.now_ns(now);
        let (counts, consecutive) = self.in_force(|rule| cell.counts(rule, now_ns));
        let state = cell.state();
        let left = matches!(state.phase, Phase::Open | Phase::HalfOpen | Phase::Recovering)
            .then(|| Duration::from_millis(state.left_ms(now_ns / 1_000_000)));
        let number = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        let (probes, successes) = (number(state.probes), number(state.successes));
        Snapshot { phase: state.phase, counts, consecutive, probes, successes, left }
    }

    /// At most so many keys, and how many are left out.
    pub(super) fn save(&self, keys: usize, now: Now) -> (Saved, usize) {
        let (rule, now_ns) = (self.in_force(|rule| *rule), self.now_ns(now));
        let mut saved = Saved::new(now_ns, &rule, vec![self.account.cell.save(None, 0)]);
        let mut left_out = 0;
        for cells in self.account.table.iter().flat_map(|table| table.save(&rule, now_ns)) {
            saved.cells.extend(cells);
            // Not each time: what has to go is looked for among all.
            if saved.cells.len() / 2 > keys {
                left_out += saved.shorten(keys);
            }
        }
        left_out += saved.shorten(keys);
        (saved, left_out)
    }

    pub(super) fn restore(&self, saved: &Saved, age: Duration, now: Now) -> Result<(), Unfit> {
        let account = &self.account;
        let (of_keys, others): (Vec<_>, Vec<_>) = saved.cells.iter().partition(|cell| cell.key.is_some());
        let [without_key] = others[..] else { return Err(Unfit::Broken("not one breaker without a key")) };
        if !of_keys.is_empty() && account.table.is_none() {
            return Err(Unfit::Other);
        }
        if !account.cell.is_new() || account.table.as_ref().is_some_and(|table| table.len().0 > 0) {
            return Err(Unfit::NotNew);
        }
        let eras = saved.eras(&self.rule);
        account.cell.restore(without_key, eras);
        if let Some(table) = &account.table {
            table.restore(of_keys, eras, &self.rule);
        }
        account.clock.go_on(saved.at_ns.saturating_add(nanos(age)), now);
        Ok(())
    }

    /// The rejection of whoever could be let in after so long.
    pub(super) fn rejection(&self, wait_ms: Option<u64>) -> Rejection {
        let rejection = Rejection::new(Reason::CircuitOpen).by(self.name.clone());
        match wait_ms {
            Some(wait_ms) => rejection.retry_after(Duration::from_millis(wait_ms)),
            None => rejection,
        }
    }
}

impl<O: Observer> Shared<O> {
    pub(super) fn arrive(self: &Arc<Self>, head: &Head<'_>, now: Now) -> Result<Pass<O>, Rejection> {
        self.follow();
        let key = self.key_of(head);
        let (Some(table), Some(key)) = (&self.account.table, key) else {
            return self.enter(&self.account.cell, None, now);
        };
        if let Some(cell) = self.in_force(|rule| table.get(key, rule, self.now_ns(now))) {
            return self.enter(&cell, Some(key), now);
        }
        self.observer.admitted(); // Nothing is known against it.
        Ok(self.pass(&self.account.cell, None, now))
    }

    /// What [`arrive`](Self::arrive) would say, and of which breaker.
    pub(super) fn look(&self, head: &Head<'_>, now: Now) -> (Entry, Snapshot) {
        let cell = match (&self.account.table, self.key_of(head)) {
            (Some(table), Some(key)) => table.known(key).unwrap_or_else(|| Arc::new(Cell::new())),
            _ => Arc::clone(&self.account.cell),
        };
        let entry = self.in_force(|rule| cell.peek(rule, self.now_ms(now)));
        (entry, self.snapshot(&cell, now))
    }

    pub(super) fn enter(
        self: &Arc<Self>,
        cell: &Arc<Cell>,
        key: Option<Key>,
        now: Now,
    ) -> Result<Pass<O>, Rejection> {
        let mut pass = self.pass(cell, key, now);
        if !self.is_on() {
            return Ok(pass);
        }
        let (said, turn) = self.in_force(|rule| cell.enter(rule, self.now_ms(now)));
        pass.admitted = said.ok(); // Before anybody is told: what has a place gives it back, whatever comes.
        self.tell(turn, key);
        let Err(wait_ms) = said else {
            self.observer.admitted();
            return Ok(pass);
        };
        let rejection = self.rejection(wait_ms);
        if self.account.rejections.count(self.config.enforce) {
            self.observer.rejected(&rejection);
            return Err(rejection);
        }
        self.observer.would_reject(&rejection);
        Ok(pass)
    }

    /// Told by whoever made the change, so once.
    pub(super) fn tell(&self, turn: Option<Turn>, key: Option<Key>) {
        if let Some(Turn { from, to, cause }) = turn {
            self.observer.transition(&Transition { from, to, cause, key });
        }
    }

    /// One that has no say.
    fn pass(self: &Arc<Self>, cell: &Arc<Cell>, key: Option<Key>, now: Now) -> Pass<O> {
        let (cell, shared, entered) = (Arc::clone(cell), Arc::clone(self), now.instant());
        Pass { cell, shared, key, admitted: None, entered, seen: Seen::Body, is_slow: false }
    }

    fn key_of(&self, head: &Head<'_>) -> Option<Key> {
        self.key.as_ref().and_then(|key| key(head))
    }
}
