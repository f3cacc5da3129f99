//! Whoever asks: as long as it is run, each endpoint in its interval.

use std::{
    collections::BTreeSet,
    fmt,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
};

use tokio::time::{Instant, sleep_until, timeout};

use super::{MAX_WHY, Plan, Shared, schedule};
use crate::{BoxError, causes::with_causes, clock::Now};

/// How many checks are under way at once, of all endpoints of a balancer.
pub const MAX_AT_ONCE: usize = 64;

/// Checks endpoints, as long as somebody runs it.
#[must_use = "nothing is checked unless it is run"]
pub struct HealthDriver {
    shared: Arc<Shared>,
    first: Arc<Plan>,
}

impl HealthDriver {
    pub(super) const fn new(shared: Arc<Shared>, first: Arc<Plan>) -> Self {
        Self { shared, first }
    }

    /// Checks by the configuration in force, for ever; if none is, by the one it was made with.
    pub async fn run(self) {
        let Self { shared, first } = self;
        if shared.table().plan.is_none() {
            shared.put_in_force(&first);
        }
        drop(first);
        let mut round = Round::new(shared);
        loop {
            round.begin();
            match round.next().await {
                Event::Changed => round.follow(),
                Event::Ended(address, answer) => round.end(&address, answer),
                Event::Due => {}
            }
        }
    }
}

impl fmt::Debug for HealthDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HealthDriver").field("config", &self.first.config).finish_non_exhaustive()
    }
}

/// What the driver waits for.
enum Event {
    /// Another configuration is in force, or the set of endpoints is another.
    Changed,
    /// A check has ended.
    Ended(Arc<str>, Answer),
    /// It is time for another one.
    Due,
}

type Answer = Result<(), BoxError>;

/// One check under way.
struct UnderWay {
    address: Arc<str>,
    answer: Pin<Box<dyn Future<Output = Answer> + Send>>,
}

/// What is under way, and what comes next. An address is in one of the two.
struct Round {
    shared: Arc<Shared>,
    plan: Arc<Plan>,
    updates: u64,
    under_way: Vec<UnderWay>,
    due: BTreeSet<(Instant, Arc<str>)>,
}

impl Round {
    fn new(shared: Arc<Shared>) -> Self {
        let plan = shared.table().plan.clone().expect("one was put in force, and is only replaced");
        let updates = plan.members.updates();
        let mut round = Self { shared, plan, updates, under_way: Vec::new(), due: BTreeSet::new() };
        round.follow();
        round
    }

    /// Goes on with the configuration in force and the endpoints that there are now.
    fn follow(&mut self) {
        let shared = Arc::clone(&self.shared);
        let mut table = shared.table();
        let plan = table.plan.clone().unwrap_or_else(|| Arc::clone(&self.plan));
        self.updates = plan.members.updates(); // Before the set: whatever comes later is seen again.
        table.list(plan.members.endpoints(), plan.config.interval, &shared.random, Now::read());
        let is_gone = |address: &Arc<str>| table.records.get(address).is_none_or(|it| it.left.is_some());
        let given_up = self.under_way.extract_if(.., |it| is_gone(&it.address)).collect::<Vec<_>>();
        let is_under_way = |address: &Arc<str>| self.under_way.iter().any(|it| it.address == *address);
        let due = table.listed().filter(|(address, _)| !is_under_way(address));
        self.due = due.map(|(address, record)| (record.due, Arc::clone(address))).collect();
        drop(table); // Probes are somebody else's, and so is what happens when they are dropped.
        self.plan = plan;
        drop(given_up);
    }

    /// Begins what is due, as far as there is room; the one that waits the longest first.
    fn begin(&mut self) {
        let now = Instant::now();
        let (random, plan) = (&self.shared.random, &self.plan);
        let interval_of = |standing| plan.config.interval_of(standing);
        while self.under_way.len() < MAX_AT_ONCE && self.due.first().is_some_and(|(due, _)| *due <= now) {
            let Some((_, address)) = self.due.pop_first() else { return };
            let mut table = self.shared.table();
            let Some(record) = table.records.get_mut(&address) else { continue };
            record.begun = Some(now);
            record.due = now + schedule::next(interval_of(record.tally.standing), random.draw());
            let endpoint = record.endpoint.clone();
            drop(table); // The probe is somebody else's.
            let (within, probing) = (self.plan.config.timeout, (self.plan.probe)(endpoint));
            let answer = Box::pin(async move {
                let answer = timeout(within, probing).await;
                answer.unwrap_or_else(|_| Err(format!("no answer within {within:?}").into()))
            });
            self.under_way.push(UnderWay { address, answer });
        }
    }

    async fn next(&mut self) -> Event {
        let Self { shared, plan, updates, under_way, due } = self;
        let mut changed = pin!(shared.changed.notified());
        let mut updated = plan.members.updated(*updates);
        let next = due.first().filter(|_| under_way.len() < MAX_AT_ONCE).map(|(due, _)| *due);
        let mut sleep = pin!(next.map(sleep_until));
        poll_fn(|cx| {
            if changed.as_mut().poll(cx).is_ready() || updated.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Event::Changed);
            }
            if let Poll::Ready((address, answer)) = poll_any(under_way, cx) {
                return Poll::Ready(Event::Ended(address, answer));
            }
            match sleep.as_mut().as_pin_mut() {
                Some(sleep) => sleep.poll(cx).map(|()| Event::Due),
                None => Poll::Pending,
            }
        })
        .await
    }

    fn end(&mut self, address: &Arc<str>, answer: Answer) {
        let config = &self.plan.config;
        let why = answer.err().map(|error| cut(&with_causes(&*error)));
        let (now, is_passed) = (Now::read(), why.is_none());
        let mut table = self.shared.table();
        let Some(record) = table.records.get_mut(address) else { return };
        let change = record.judge(why, config.thresholds(), now);
        let begun = record.begun.unwrap_or_else(|| now.instant());
        let pause = schedule::next(config.interval_of(record.tally.standing), self.shared.random.draw());
        record.due = begun + pause;
        if record.left.is_none() {
            self.due.insert((record.due, Arc::clone(address)));
        }
        drop(table); // The observer is somebody else's.
        self.shared.observer.checked(is_passed);
        if let Some(change) = change {
            self.shared.observer.health_changed(&change);
        }
    }
}

/// The first that has ended. There are few, and what is not ready is cheap to ask.
fn poll_any(under_way: &mut Vec<UnderWay>, cx: &mut Context<'_>) -> Poll<(Arc<str>, Answer)> {
    for place in 0..under_way.len() {
        if let Poll::Ready(answer) = under_way[place].answer.as_mut().poll(cx) {
            return Poll::Ready((under_way.swap_remove(place).address, answer));
        }
    }
    Poll::Pending
}

fn cut(why: &str) -> Arc<str> {
    why[..why.floor_char_boundary(MAX_WHY)].into()
}
