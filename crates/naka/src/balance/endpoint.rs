//! Endpoints: what they are, and what is known of them.

use std::{
    fmt,
    sync::{Arc, atomic::AtomicU64 as Ids},
    time::Duration,
};

use http::{Extensions, HeaderMap, Response};

use super::{
    block::{Blocks, Place, Word},
    policy::{
        ewma::{Ewma, HalfLife, tick_since},
        slow_start,
    },
};
use crate::{
    classify::{Classifier, Outcome, Seen},
    clock::{Now, Since},
    context::Context,
    gate::{Gate, Passage, Ticket},
    guard::{End, Guard},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

/// What an endpoint is, as it is configured or found.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Target {
    /// Its address, which is its identity.
    pub address: Arc<str>,
    /// Its weight, 1 to 65,535; default 1.
    pub weight: u32,
    /// Requests that may be under way there; default no bound.
    pub capacity: Option<u32>,
    /// What else is said of it: region, zone, version.
    pub labels: Vec<(String, String)>,
}

impl Target {
    /// An address, of weight 1.
    pub fn new(address: impl Into<Arc<str>>) -> Self {
        Self { address: address.into(), weight: 1, capacity: None, labels: Vec::new() }
    }

    /// Its weight: 0 counts as 1, and more than 65,535 as that.
    #[must_use]
    pub fn weight(mut self, weight: u32) -> Self {
        self.weight = weight.clamp(1, 65_535);
        self
    }

    /// So many requests may be under way there.
    #[must_use]
    pub const fn capacity(mut self, capacity: u32) -> Self {
        self.capacity = Some(capacity);
        self
    }

    /// What else is said of it.
    #[must_use]
    pub fn label(mut self, name: &str, value: &str) -> Self {
        self.labels.push((name.into(), value.into()));
        self
    }

    /// The value of a label.
    pub fn label_value(&self, name: &str) -> Option<&str> {
        self.labels.iter().find(|(known, _)| known == name).map(|(_, value)| &**value)
    }
}

impl From<&str> for Target {
    fn from(address: &str) -> Self {
        Self::new(address)
    }
}

/// Why an endpoint is not to be chosen. There may be several reasons at once, and it is back when there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Absence {
    /// It is on its way out: what is under way goes on to its end.
    Draining,
    /// It is taken out for a while, on purpose.
    Maintenance,
    /// Whoever asks after its health says no.
    Unhealthy,
    /// What it did with its requests says no.
    Outlier,
}

impl Absence {
    const ALL: [Self; 4] = [Self::Draining, Self::Maintenance, Self::Unhealthy, Self::Outlier];

    /// The word for it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Draining => "draining",
            Self::Maintenance => "maintenance",
            Self::Unhealthy => "unhealthy",
            Self::Outlier => "outlier",
        }
    }

    const fn bit(self) -> u32 {
        match self {
            Self::Draining => DRAINING,
            Self::Maintenance => MAINTENANCE,
            Self::Unhealthy => UNHEALTHY,
            Self::Outlier => OUTLIER,
        }
    }
}

const DRAINING: u32 = 1;
const MAINTENANCE: u32 = 2;
const UNHEALTHY: u32 = 4;
const OUTLIER: u32 = 8;
const ABSENT: u32 = DRAINING | MAINTENANCE | UNHEALTHY | OUTLIER;
/// Taken out on purpose: also a panic does not use it.
const WITHDRAWN: u32 = DRAINING | MAINTENANCE;
/// It has joined and is not known to have all of its share yet.
const JOINING: u32 = 16;
/// Which joining that is: the rest of a status says it, so that nobody ends another one than was looked at. As many
/// nanoseconds come again after an eighth of a second.
const JOINED: u32 = u32::MAX << 5;

/// How long a report of load counts.
const REPORT_NS: u64 = 180_000_000_000;

/// One address of an upstream, and the account of what is under way there.
#[derive(Clone)]
pub struct Endpoint(Arc<Inner>);

struct Inner {
    target: Target,
    account: Arc<Account>,
    /// That of the account.
    place: Place,
    gate: Option<Arc<dyn Gate>>,
}

impl Endpoint {
    pub(super) fn new(target: Target, account: Arc<Account>, gate: Option<Arc<dyn Gate>>) -> Self {
        let place = account.place.clone();
        Self(Arc::new(Inner { target, account, place, gate }))
    }

    /// The endpoint that was chosen for a request.
    pub fn of(extensions: &Extensions) -> Option<&Self> {
        let known = extensions.get::<Context>().and_then(|context| context.endpoint.as_ref());
        known.or_else(|| extensions.get::<Self>())
    }

    /// Its address, as it was given.
    pub fn address(&self) -> &Arc<str> {
        &self.0.target.address
    }

    /// What it is, as it was given.
    pub fn target(&self) -> &Target {
        &self.0.target
    }

    /// Requests under way there, up to the end of their response bodies.
    pub fn in_flight(&self) -> u32 {
        self.account().in_flight()
    }

    /// How long it takes to answer, as far as is known: without what has been forgotten since. It is measured
    /// under the policies that go by it, and behind a gate.
    pub fn latency(&self) -> Option<Duration> {
        let ewma = self.account().latency();
        (!ewma.is_empty()).then(|| Duration::from_micros(u64::from(ewma.last_us())))
    }

    /// What stands in front of it.
    pub fn gate(&self) -> Option<&Arc<dyn Gate>> {
        self.0.gate.as_ref()
    }

    /// Why it is not to be chosen; none if it is.
    pub fn absences(&self) -> impl Iterator<Item = Absence> + use<> {
        let status = self.account().status();
        Absence::ALL.into_iter().filter(move |absence| status & absence.bit() != 0)
    }

    /// It is not to be chosen any more, for this reason too. What is under way goes on.
    pub fn withdraw(&self, absence: Absence) {
        self.account().place.set(absence.bit());
    }

    /// This reason is gone. If it was the last one, the endpoint joins: its share grows from the floor.
    pub fn restore(&self, absence: Absence, now: Now) {
        let (account, bit) = (self.account(), absence.bit());
        if account.status() & bit == 0 {
            return;
        }
        let joining = account.joining(now); // Before it is seen to be back.
        account.place.change(|status| {
            let rest = status & !bit;
            (rest != status).then(|| if Account::is_present(rest) { joining } else { rest })
        });
    }

    /// It is draining, and nothing is under way there any more; nor will be, for as long as it is draining.
    pub fn is_drained(&self) -> bool {
        let word = self.account().word();
        word.status() & DRAINING != 0 && word.in_flight() == 0
    }

    /// How busy it says it is, in thousandths of all it can do. After three minutes it is not known any more.
    pub fn report_load(&self, thousandths: u32, now: Now) {
        let account = self.account();
        let ns = account.since_start(now);
        // The word of an average that never mixes: a value, and when it came.
        let load = Ewma::default().peak(thousandths, ns, HalfLife::new(Duration::ZERO));
        account.place.load().store(load.pack(), Relaxed);
    }

    pub(super) fn account(&self) -> &Arc<Account> {
        &self.0.account
    }

    pub(super) fn id(&self) -> u64 {
        self.0.account.id
    }

    pub(super) fn tell(self, extensions: &mut Extensions) {
        if let Some(context) = extensions.get_mut::<Context>() {
            context.endpoint = Some(self);
        } else {
            extensions.insert(self);
        }
    }

    /// Takes a place there, unless it is full, or was taken out on purpose or its gate has closed in the meantime; `anyway`
    /// says whether a closed gate keeps nobody out.
    pub(super) fn enter(
        &self,
        now: Now,
        measure: Option<Measure>,
        anyway: impl FnOnce() -> bool,
    ) -> Option<InFlight> {
        if !self.0.place.enter(self.0.target.capacity, WITHDRAWN) {
            return None;
        }
        let mut in_flight =
            InFlight { endpoint: self.clone(), ticket: None, entered: now, measure, answered: None };
        if let Some(gate) = self.gate() {
            in_flight.ticket = gate.enter(now);
            if in_flight.ticket.is_none() && !anyway() {
                return None; // Dropped, it gives the place back.
            }
        }
        Some(in_flight)
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let absences = self.absences().collect::<Vec<_>>();
        f.debug_struct("Endpoint")
            .field("address", self.address())
            .field("in_flight", &self.in_flight())
            .field("absences", &absences)
            .finish_non_exhaustive()
    }
}

/// What is known of an address. It outlives configurations.
#[derive(Debug)]
pub(super) struct Account {
    /// Never 0, and no other's.
    id: u64,
    /// By which all times here count.
    clock: Arc<Since>,
    /// Where its numbers are.
    place: Place,
    blocks: Arc<Blocks>,
    joined_ns: AtomicU64,
    /// The latency of all endpoints of the layer.
    others: Arc<AtomicU64>,
}

impl Account {
    /// With `joined`, it begins with less than its share.
    pub(super) fn new(
        clock: &Arc<Since>,
        others: &Arc<AtomicU64>,
        blocks: &Arc<Blocks>,
        joined: Option<Now>,
    ) -> Self {
        static NEXT: Ids = Ids::new(1);
        let account = Self {
            id: NEXT.fetch_add(1, Relaxed),
            clock: Arc::clone(clock),
            place: blocks.take(),
            blocks: Arc::clone(blocks),
            joined_ns: AtomicU64::new(0),
            others: Arc::clone(others),
        };
        if let Some(now) = joined {
            account.place.set(account.joining(now));
        }
        account
    }

    /// The status of one that joins now; when that is, is written down.
    #[expect(clippy::cast_possible_truncation, reason = "the lower bits tell two times apart")]
    fn joining(&self, now: Now) -> u32 {
        let joined_ns = self.since_start(now);
        self.joined_ns.store(joined_ns, Relaxed); // Whoever sees the status sees it, which is released.
        JOINING | (joined_ns as u32) << JOINED.trailing_zeros()
    }

    fn since_start(&self, now: Now) -> u64 {
        self.clock.ns(now)
    }

    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    pub(super) fn word(&self) -> Word {
        self.place.word()
    }

    pub(super) fn in_flight(&self) -> u32 {
        self.word().in_flight()
    }

    pub(super) fn status(&self) -> u32 {
        self.word().status()
    }

    /// How long it takes to answer, as one word; put into an account that knows nothing.
    pub(super) fn latency_word(&self) -> &AtomicU64 {
        self.place.latency()
    }

    fn latency(&self) -> Ewma {
        Ewma::unpack(self.place.latency().load(Relaxed))
    }

    /// It is, whatever its gate says.
    pub(super) fn is_present(status: u32) -> bool {
        status & ABSENT == 0
    }

    /// It was taken out on purpose.
    pub(super) fn is_withdrawn(status: u32) -> bool {
        status & WITHDRAWN != 0
    }

    pub(super) fn is_joining(status: u32) -> bool {
        status & JOINING != 0
    }

    /// The part of its share that it has now.
    pub(super) fn share(&self, now_ns: u64, slow_start: super::SlowStart) -> u32 {
        let duration = u64::try_from(slow_start.duration.as_nanos()).unwrap_or(u64::MAX);
        slow_start::share(now_ns.saturating_sub(self.joined_ns.load(Relaxed)), duration, slow_start.floor)
    }

    /// If it has all of its share, nobody has to look again.
    pub(super) fn settle(&self, now_ns: u64, slow_start: Option<super::SlowStart>) {
        let seen = self.status();
        let is_whole = |slow_start| self.share(now_ns, slow_start) == slow_start::WHOLE;
        if Self::is_joining(seen) && slow_start.is_none_or(is_whole) {
            self.place.change(|status| (status == seen).then_some(status & !(JOINING | JOINED)));
        }
    }

    /// How long it takes to answer: what is known, mixed with what all others take.
    pub(super) fn estimate_us(&self, now_ns: u64, half_life: HalfLife) -> u32 {
        let others = Ewma::unpack(self.others.load(Relaxed)).last_us();
        self.latency().estimate_us(now_ns, others, half_life)
    }

    /// How busy it says it is.
    pub(super) fn load(&self, now_ns: u64) -> Option<u32> {
        let load = Ewma::unpack(self.place.load().load(Relaxed));
        reported(load, reported_since(now_ns))
    }

    fn sample(&self, now: Now, latency: Duration, measure: &Measure, outcome: Outcome) {
        let latency = match outcome {
            Outcome::Failure => latency.max(measure.failure),
            Outcome::Success | Outcome::Neutral => latency,
        };
        let (us, now_ns) = (u32::try_from(latency.as_micros()).unwrap_or(u32::MAX), self.since_start(now));
        let feed = |word: &AtomicU64, feed: &dyn Fn(Ewma) -> Ewma| {
            // Under contention a sample that came at the same time as another may be lost: both say the same.
            let old = word.load(Relaxed);
            let new = feed(Ewma::unpack(old)).pack();
            if new != old {
                let _ = word.compare_exchange(old, new, Relaxed, Relaxed);
            }
            new != old
        };
        if outcome == Outcome::Neutral {
            // It was given up: how long it would have taken is not known, only that it was longer.
            if us <= self.estimate_us(now_ns, measure.half_life) {
                return;
            }
        }
        if feed(self.place.latency(), &|ewma| ewma.peak(us, now_ns, measure.half_life)) {
            self.place.estimate().store(0, Relaxed); // Whoever estimates just now is wrong until the next tick.
        }
        if outcome == Outcome::Success {
            feed(&self.others, &|ewma| ewma.averaged(us, now_ns, measure.half_life));
        }
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.blocks.give_back(self.place.clone());
    }
}

/// Since when what endpoints say of themselves counts.
pub(super) fn reported_since(now_ns: u64) -> u64 {
    tick_since(now_ns, REPORT_NS)
}

/// How busy an endpoint has said it is, if that counts.
#[inline]
pub(super) fn reported(load: Ewma, since: u64) -> Option<u32> {
    load.is_since(since).then(|| load.last_us())
}

/// How samples are taken.
#[derive(Clone, Copy, Debug)]
pub(super) struct Measure {
    pub(super) half_life: HalfLife,
    pub(super) failure: Duration,
    pub(super) classifier: Classifier,
}

/// One request under way; in the body, and ended with it.
#[derive(Debug)]
pub struct InFlight {
    endpoint: Endpoint,
    ticket: Option<Ticket>,
    entered: Now,
    measure: Option<Measure>,
    /// `None` before the response's head is there.
    answered: Option<Answered>,
}

#[derive(Clone, Copy, Debug)]
struct Answered {
    /// What is known so far.
    seen: Seen,
    /// As what the head was taken.
    head: Outcome,
    latency: Duration,
}

impl InFlight {
    pub(super) const fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The response's head is there, or an error.
    pub(super) fn answered<R, E>(&mut self, result: &Result<Response<R>, E>) {
        let Some(measure) = &self.measure else { return };
        let (seen, now) = (measure.classifier.result(result), Now::read());
        let latency = now.instant().saturating_duration_since(self.entered.instant());
        let head = match seen {
            Seen::Decided(outcome) => outcome,
            Seen::Body | Seen::Trailers => Outcome::Success,
        };
        if head != Outcome::Neutral {
            self.endpoint.account().sample(now, latency, measure, head);
        }
        self.answered = Some(Answered { seen, head, latency });
        let is_decided = matches!(seen, Seen::Decided(_));
        if is_decided || self.endpoint.gate().is_some_and(|gate| gate.settles_at_head()) {
            self.leave(head, latency);
        }
    }

    /// The gate hears of it, once.
    fn leave(&mut self, outcome: Outcome, latency: Duration) {
        if let (Some(ticket), Some(gate)) = (self.ticket.take(), self.endpoint.gate()) {
            gate.leave(ticket, &Passage::new(self.entered, outcome, latency));
        }
    }
}

impl Guard for InFlight {
    fn trailers(&mut self, trailers: &HeaderMap) {
        if let (Some(measure), Some(answered)) = (&self.measure, &mut self.answered) {
            answered.seen = measure.classifier.trailers(answered.seen, trailers);
        }
    }

    fn end(mut self, end: End) {
        let (Some(measure), Some(Answered { seen, head, latency })) = (&self.measure, self.answered) else {
            return;
        };
        let outcome = seen.end(end);
        if outcome == Outcome::Failure && head == Outcome::Success {
            self.endpoint.account().sample(Now::read(), latency, measure, outcome);
        }
        self.leave(outcome, latency);
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.endpoint.0.place.leave();
        let Some(measure) = &self.measure else { return };
        if let Some(Answered { latency, .. }) = self.answered {
            return self.leave(Outcome::Neutral, latency);
        }
        let now = Now::read();
        let waited = now.instant().saturating_duration_since(self.entered.instant());
        self.endpoint.account().sample(now, waited, measure, Outcome::Neutral);
        self.leave(Outcome::Neutral, waited);
    }
}
