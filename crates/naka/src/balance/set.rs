//! The endpoints under one configuration, what was computed of them once, and the choice among them.

use std::{cell::OnceCell, collections::HashMap, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    BalanceConfig, Endpoint, Policy, SubsetMiss, Target,
    block::{Blocks, Place, Word},
    endpoint::{Account, Measure, reported, reported_since},
    policy::{
        Candidates, bound, ejection,
        ewma::{self, Ewma, HalfLife},
        hash::{mix, stable},
        latency, least,
        maglev::Maglev,
        p2c, random,
        random::{Draws, Sums},
        regions,
        rendezvous::Rendezvous,
        resource,
        ring::Ring,
        round_robin, short, slow_start,
        smooth::Cycle,
    },
};
use crate::{
    attempt::Tried,
    clock::{Now, Since},
    gate::{Availability, Gate},
    key::Key,
    reject::{Reason, Rejection},
    sync::atomic::{
        AtomicU64,
        Ordering::{AcqRel, Acquire, Relaxed},
    },
};

/// How many endpoints that are not listed any more are remembered, besides those that requests hold.
pub(super) const MAX_KEPT: usize = 256;

/// What outlives configurations and sets of endpoints.
#[derive(Debug)]
pub(super) struct State {
    pub(super) clock: Arc<Since>,
    /// One turn for each request that a policy needs one for.
    pub(super) cursor: AtomicU64,
    pub(super) seed: u64,
    pub(super) others_latency: Arc<AtomicU64>,
    blocks: Arc<Blocks>,
}

impl State {
    pub(super) fn new(start: Instant, seed: u64) -> Self {
        let (others_latency, blocks) = (Arc::default(), Arc::default());
        Self { clock: Arc::new(Since::new(start)), cursor: AtomicU64::new(0), seed, others_latency, blocks }
    }

    pub(super) fn now_ns(&self, now: Now) -> u64 {
        self.clock.ns(now)
    }
}

pub(super) struct Member {
    pub(super) endpoint: Endpoint,
    // What a look needs, without going through the endpoint.
    pub(super) account: Arc<Account>,
    pub(super) gate: Option<Arc<dyn Gate>>,
    identity: u64,
    pub(super) weight: u32,
    capacity: u32,
    pub(super) subset: Option<Key>,
    /// What brings a client back here.
    pub(super) token: Option<u64>,
}

/// What a look at all members needs of each, and nothing else.
struct Seat {
    place: Place,
    /// It has no gate and no capacity.
    is_plain: bool,
    weight: u32,
    /// What a cost is multiplied by in place of a division by the weight, where that is so.
    scale: u32,
}

/// The endpoints at one time.
pub(super) struct Snapshot {
    pub(super) members: Box<[Member]>,
    /// Of each member.
    seats: Box<[Seat]>,
    weights: Weights,
    /// The sum of the weights, where no member has a gate or a capacity.
    plain_weights: Option<u64>,
    /// Those that were listed once, and those that lack a label: they may come back.
    pub(super) kept: Box<[Endpoint]>,
    /// There are endpoints, and none has the labels that are wanted.
    pub(super) is_filtered: bool,
    pub(super) measure: Option<Measure>,
    pub(super) half_life: HalfLife,
    table: Table,
    sums: Sums,
    ranks: Option<Ranks>,
    /// What cookies say, in order.
    tokens: Box<[(u64, u32)]>,
}

/// How the weights of a set are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Weights {
    /// All the same, so that they say nothing.
    Even,
    /// Seats have scales.
    Scaled,
    /// Any.
    Any,
}

enum Table {
    None,
    Cycle(Cycle),
    Ring(Ring),
    Maglev(Maglev),
    Rendezvous(Rendezvous),
}

struct Ranks {
    lists: HashMap<Key, regions::Ranks>,
    default: regions::Ranks,
}

/// Makes the gate of an address.
pub(super) type GateFn = dyn Fn(&Arc<str>) -> Arc<dyn Gate> + Send + Sync;

/// How a set of endpoints is made of the one before it.
pub(super) struct Making<'a> {
    pub(super) config: &'a BalanceConfig,
    pub(super) state: &'a State,
    pub(super) gates: Option<&'a GateFn>,
    /// All are asked for a gate anew, also those that have one.
    pub(super) is_regated: bool,
    pub(super) subset_label: Option<&'a str>,
    /// When those that are new have joined; `None` for the first ones, which are not new to anybody.
    pub(super) joined: Option<Now>,
}

impl Snapshot {
    /// An address that was known before keeps its account and its gate, also if it was gone in between.
    pub(super) fn next(before: Option<&Self>, targets: Vec<Target>, making: &Making<'_>) -> Self {
        let config = making.config;
        let listed = before.into_iter().flat_map(|it| it.members.iter().map(|member| &member.endpoint));
        let known = listed.chain(before.into_iter().flat_map(|it| it.kept.iter()));
        let known = known.map(|endpoint| (&**endpoint.address(), endpoint)).collect::<HashMap<_, _>>();
        let (mut endpoints, mut beside, mut seen) = (Vec::new(), Vec::new(), HashMap::new());
        for target in targets {
            let place = seen.len();
            if *seen.entry(Arc::clone(&target.address)).or_insert(place) != place {
                continue; // Named twice: the first counts.
            }
            let has = |(name, value): &(String, String)| target.label_value(name) == Some(value);
            let is_wanted = config.labels.iter().all(has);
            let endpoint = making.endpoint(known.get(&*target.address).copied(), target);
            if is_wanted { endpoints.push(endpoint) } else { beside.push(endpoint) }
        }
        let mut gone = known.into_values().filter(|it| !seen.contains_key(it.address())).collect::<Vec<_>>();
        gone.sort_by_key(|endpoint| (endpoint.in_flight() == 0, std::cmp::Reverse(endpoint.id())));
        beside.extend(gone.into_iter().take(MAX_KEPT).cloned());
        let is_filtered = endpoints.is_empty() && !seen.is_empty();
        Self { is_filtered, ..Self::of(endpoints, beside, making) }
    }

    fn of(endpoints: Vec<Endpoint>, kept: Vec<Endpoint>, making: &Making<'_>) -> Self {
        let (config, policy) = (making.config, making.config.policy);
        let member = |endpoint: Endpoint| Member {
            account: Arc::clone(endpoint.account()),
            gate: endpoint.gate().cloned(),
            identity: stable(endpoint.address().as_bytes()),
            weight: if policy.is_weighted() { endpoint.target().weight.clamp(1, 65_535) } else { 1 },
            capacity: endpoint.target().capacity.unwrap_or(u32::MAX),
            subset: making.subset_label.and_then(|label| endpoint.target().label_value(label)).map(Key::of),
            token: config.sticky.as_ref().map(|sticky| sticky.token(endpoint.address())),
            endpoint,
        };
        let members = endpoints.into_iter().map(member).collect::<Box<[_]>>();
        let weights = members.iter().map(|member| member.weight).collect::<Vec<_>>();
        let identities = members.iter().map(|it| (it.identity, it.weight)).collect::<Vec<_>>();
        let scales = least::scales(&weights);
        let seats = members.iter().enumerate().map(|(place, member)| Seat {
            place: member.account.place().clone(),
            is_plain: member.gate.is_none() && member.capacity == u32::MAX,
            weight: member.weight,
            scale: scales.as_ref().map_or(1, |scales| scales[place]),
        });
        let seats = seats.collect::<Box<[_]>>();
        let all_weights = || weights.iter().copied().map(u64::from).sum();
        let is_even = weights.windows(2).all(|two| two[0] == two[1]);
        let table = match policy {
            Policy::WeightedRoundRobin => Table::Cycle(Cycle::new(&weights)),
            Policy::RingHash { points } => Table::Ring(Ring::new(&identities, points)),
            Policy::Maglev { size } => Table::Maglev(Maglev::new(&identities, size)),
            Policy::Rendezvous | Policy::IpHash => Table::Rendezvous(Rendezvous::new(&identities)),
            _ => Table::None,
        };
        let half_life = HalfLife::new(config.latency.half_life);
        let is_measured = policy.is_by_latency() || members.iter().any(|member| member.gate.is_some());
        let tokens = members.iter().enumerate();
        let mut tokens =
            tokens.filter_map(|(place, it)| Some((it.token?, short(place)))).collect::<Box<[_]>>();
        tokens.sort_unstable();
        Self {
            kept: kept.into(),
            plain_weights: seats.iter().all(|seat| seat.is_plain).then(all_weights),
            seats,
            weights: match &scales {
                _ if is_even => Weights::Even,
                Some(_) => Weights::Scaled,
                None => Weights::Any,
            },
            is_filtered: false,
            measure: is_measured.then_some(Measure {
                half_life,
                failure: config.latency.failure,
                classifier: config.classifier,
            }),
            half_life,
            table,
            sums: Sums::new(&weights),
            ranks: Ranks::of(config, &members),
            tokens,
            members,
        }
    }

    fn place_of(&self, token: u64) -> Option<usize> {
        let at = self.tokens.binary_search_by_key(&token, |(known, _)| *known).ok()?;
        usize::try_from(self.tokens[at].1).ok()
    }
}

impl Making<'_> {
    fn endpoint(&self, known: Option<&Endpoint>, target: Target) -> Endpoint {
        let kept_gate = known.and_then(Endpoint::gate).filter(|_| !self.is_regated && self.gates.is_some());
        let gate = kept_gate.cloned().or_else(|| self.gates.map(|gates| gates(&target.address)));
        match known {
            Some(known) if *known.target() == target && is_same(known.gate(), gate.as_ref()) => known.clone(),
            Some(known) => Endpoint::new(target, Arc::clone(known.account()), gate),
            None => {
                let account = Account::new(
                    &self.state.clock,
                    &self.state.others_latency,
                    &self.state.blocks,
                    self.joined,
                );
                Endpoint::new(target, Arc::new(account), gate)
            }
        }
    }
}

fn is_same(gate: Option<&Arc<dyn Gate>>, other: Option<&Arc<dyn Gate>>) -> bool {
    match (gate, other) {
        (Some(gate), Some(other)) => Arc::ptr_eq(gate, other),
        (None, None) => true,
        _ => false,
    }
}

impl Ranks {
    fn of(config: &BalanceConfig, members: &[Member]) -> Option<Self> {
        let regions = config.regions.as_ref()?;
        let ranks = |list: &Vec<String>| {
            let region =
                |member: &Member| member.endpoint.target().label_value(&regions.label).map(str::to_owned);
            regions::Ranks::new(members.iter().map(|member| regions::rank(list, region(member).as_ref())))
        };
        // Of two lists for one region the first counts.
        let lists = regions.lists.iter().rev().map(|(region, list)| (*region, ranks(list))).collect();
        Some(Self { lists, default: ranks(&regions.default) })
    }

    fn of_region(&self, region: Option<Key>) -> &regions::Ranks {
        region.and_then(|region| self.lists.get(&region)).unwrap_or(&self.default)
    }
}

/// What one request asks for.
pub(super) struct Ask<'a> {
    pub(super) now: Now,
    /// The hash of its key, under a policy that goes by one.
    pub(super) key: Option<u64>,
    pub(super) region: Option<Key>,
    pub(super) subset: Option<Key>,
    pub(super) token: Option<u64>,
    pub(super) tried: Option<&'a Tried>,
    /// Another attempt at it is under way: its cookie stays with the endpoint that it is of.
    pub(super) is_beside: bool,
}

/// What was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Choice {
    pub(super) place: usize,
    /// The turn that comes next.
    pub(super) next: u64,
    pub(super) is_sticky: bool,
    pub(super) in_panic: bool,
}

/// What is asked of a candidate besides being there; each step asks for less than the one before it.
#[derive(Clone, Copy)]
struct Wish {
    /// A newcomer is passed over as often as its share says, and one that is full under a bound is.
    fair: bool,
    /// One that was tried before is passed over.
    untried: bool,
    /// It is of the subset.
    subset: bool,
}

const WISHES: [Wish; 4] = [
    Wish { fair: true, untried: true, subset: true },
    Wish { fair: false, untried: true, subset: true },
    Wish { fair: false, untried: false, subset: true },
    Wish { fair: false, untried: false, subset: false },
];

/// A set under its configuration: what the data path and `explain` both ask.
pub(super) struct Chooser<'a> {
    pub(super) config: &'a BalanceConfig,
    pub(super) state: &'a State,
    pub(super) snapshot: &'a Snapshot,
}

impl Chooser<'_> {
    /// The turn that comes next, without taking it.
    pub(super) fn turn(&self) -> u64 {
        self.state.cursor.load(Acquire)
    }

    /// Chooses, and takes the turn. `refused` are places that were chosen and could not be entered.
    pub(super) fn commit(&self, ask: &Ask<'_>, refused: &[usize]) -> Option<Choice> {
        let cursor = &self.state.cursor;
        if self.config.policy.is_by_key() && ask.key.is_some() {
            return self.choose(ask, 0, refused); // It needs no turn.
        }
        if !self.config.policy.is_cyclic() {
            return self.choose(ask, cursor.fetch_add(1, Relaxed), refused); // Relaxed: a number, no order.
        }
        let mut turn = self.turn();
        loop {
            let choice = self.choose(ask, turn, refused)?;
            match cursor.compare_exchange_weak(turn, choice.next, AcqRel, Acquire) {
                Ok(_) => return Some(choice),
                Err(seen) => turn = seen,
            }
        }
    }

    /// The choice at this turn: it changes nothing.
    pub(super) fn choose(&self, ask: &Ask<'_>, turn: u64, refused: &[usize]) -> Option<Choice> {
        let mut view = self.view(ask, turn, refused);
        let (in_panic, is_narrow) = (view.in_panic, view.is_narrow);
        for wish in WISHES {
            let is_more = wish.fair
                || wish.untried
                || wish.subset && ask.tried.is_some()
                || !wish.subset && ask.subset.is_some() && self.config.subset_miss == SubsetMiss::Any;
            if !is_more {
                continue;
            }
            (view.rank, view.bound, view.is_narrow) = (None, None, is_narrow);
            view.wish = Wish { fair: false, ..wish };
            let known = ask.token.and_then(|token| self.snapshot.place_of(token));
            if let Some(place) = known.filter(|place| view.is_open(*place)) {
                return Some(Choice { place, next: turn, is_sticky: true, in_panic });
            }
            if let Some(ranks) = &self.snapshot.ranks {
                let ranks = ranks.of_region(ask.region);
                let Some(best) = ranks.best(&view) else { continue };
                view.rank = Some((ranks.of_places(), best));
                view.is_narrow = true;
            }
            view.wish = wish;
            if let Some(percent) =
                self.config.max_load.filter(|_| wish.fair && self.config.policy.is_by_key())
            {
                view.bound = Some(view.bound(percent));
                view.is_narrow = true;
            }
            if let Some((place, next)) = self.pick(&view, turn) {
                return Some(Choice { place, next, is_sticky: false, in_panic });
            }
        }
        None
    }

    /// Why there is no choice. A lack of what is asked for is nobody's sickness. Where gates alone are to blame,
    /// it says when the first could open.
    pub(super) fn refusal(&self, ask: &Ask<'_>) -> Rejection {
        let members = &self.snapshot.members;
        let is_strict = ask.subset.is_some() && self.config.subset_miss == SubsetMiss::Refuse;
        let lacks_all = || !members.is_empty() && members.iter().all(|it| it.subset != ask.subset);
        if self.snapshot.is_filtered || is_strict && lacks_all() {
            return Rejection::new(Reason::SubsetEmpty);
        }
        let is_of_it = |it: &&Member| !is_strict || it.subset == ask.subset;
        let present = members.iter().filter(|it| Account::is_present(it.account.status())).filter(is_of_it);
        let (mut soonest, mut closed) = (None::<Duration>, false);
        for member in present {
            let said = member.gate.as_ref().map(|gate| gate.availability(ask.now));
            let Some(Availability::Ejected(left)) = said else {
                return Rejection::new(Reason::NoEndpoint);
            };
            closed = true;
            soonest = soonest.into_iter().chain(left).min();
        }
        match soonest {
            Some(left) => Rejection::new(Reason::CircuitOpen).retry_after(left),
            None if closed => Rejection::new(Reason::CircuitOpen),
            None => Rejection::new(Reason::NoEndpoint),
        }
    }

    /// Whether its gate keeps nobody out, because too many are closed.
    pub(super) fn is_spared(&self, ask: &Ask<'_>, place: usize) -> bool {
        self.view(ask, 0, &[]).is_spared(place)
    }

    /// Whether this one may be had, whatever the policy says.
    pub(super) fn is_open(&self, ask: &Ask<'_>, place: usize) -> bool {
        let subset = self.config.subset_miss == SubsetMiss::Refuse;
        let wish = Wish { fair: false, untried: false, subset };
        View { wish, ..self.view(ask, 0, &[]) }.is_open(place)
    }

    fn view<'a>(&'a self, ask: &'a Ask<'_>, turn: u64, refused: &'a [usize]) -> View<'a> {
        View {
            config: self.config,
            snapshot: self.snapshot,
            now: ask.now,
            now_ns: self.state.now_ns(ask.now),
            others_latency: &self.state.others_latency,
            random: ask.key.unwrap_or_else(|| mix(self.state.seed ^ mix(turn))),
            wish: WISHES[0],
            ask,
            refused,
            in_panic: self.is_panic(ask.now),
            rank: None,
            bound: None,
            spared_from: OnceCell::new(),
            is_narrow: !refused.is_empty() || ask.tried.is_some() || ask.subset.is_some(),
        }
    }

    fn pick(&self, view: &View<'_>, turn: u64) -> Option<(usize, u64)> {
        let (snapshot, random) = (self.snapshot, view.random);
        let place = match (self.config.policy, &snapshot.table) {
            (Policy::RoundRobin, _) => return round_robin::pick(turn, view),
            (_, Table::Cycle(cycle)) => return cycle.pick(turn, view),
            (_, Table::Ring(ring)) => ring.pick(random, view),
            (_, Table::Maglev(maglev)) => maglev.pick(random, view),
            (_, Table::Rendezvous(rendezvous)) => rendezvous.pick(random, view),
            (Policy::LeastRequest | Policy::WeightedLeastRequest, _) => view.least_in_flight(),
            (Policy::LeastLatency, _) => {
                let tick = ewma::tick(view.now_ns);
                view.least(|seat, word| view.latency_cost(seat, word, tick))
            }
            (Policy::LeastLoad, _) => {
                let since = reported_since(view.now_ns);
                view.least(|seat, word| load_cost(seat, word, since))
            }
            (Policy::PeakEwma, _) => p2c::pick(&snapshot.sums, &mut Draws::new(random), view, |place| {
                let seat = &snapshot.seats[place];
                view.latency_cost(seat, seat.place.word(), ewma::tick(view.now_ns))
            }),
            _ => random::pick(&snapshot.sums, &mut Draws::new(random), view),
        };
        place.map(|place| (place, turn.wrapping_add(1)))
    }

    /// Whether so few are available that all count as available.
    fn is_panic(&self, now: Now) -> bool {
        if self.config.panic == 0 {
            return false;
        }
        // Enough of all there are is enough of those that are meant: the rest need not be asked.
        let enough = self.snapshot.seats.len() as u64 * u64::from(self.config.panic);
        let (mut all, mut available) = (0_u64, 0_u64);
        for (seat, member) in self.snapshot.seats.iter().zip(&self.snapshot.members) {
            let status = seat.place.word().status();
            let is_meant = !Account::is_withdrawn(status);
            all += u64::from(is_meant);
            let is_open = || seat.is_plain || member.lets_pass(now);
            available += u64::from(is_meant && Account::is_present(status) && is_open());
            if available * 100 >= enough {
                return false;
            }
        }
        available * 100 < all * u64::from(self.config.panic)
    }

    /// The newcomer has all of its share: that need not be computed again.
    pub(super) fn settle(&self, place: usize, now: Now) {
        let account = &self.snapshot.members[place].account;
        account.settle(self.state.now_ns(now), self.config.slow_start);
    }

    /// Whether anything here changes with time.
    pub(super) fn needs_now(&self) -> bool {
        self.snapshot.measure.is_some()
    }
}

impl Member {
    pub(super) fn has_room(&self) -> bool {
        self.capacity == u32::MAX || self.account.in_flight() < self.capacity
    }

    pub(super) fn lets_pass(&self, now: Now) -> bool {
        self.gate.as_ref().is_none_or(|gate| gate.availability(now).is_open())
    }
}

/// The endpoints as one request sees them.
struct View<'a> {
    config: &'a BalanceConfig,
    snapshot: &'a Snapshot,
    now: Now,
    now_ns: u64,
    others_latency: &'a AtomicU64,
    random: u64,
    wish: Wish,
    ask: &'a Ask<'a>,
    refused: &'a [usize],
    in_panic: bool,
    rank: Option<(&'a [u8], u8)>,
    bound: Option<Bound>,
    /// The first place whose gate is closed in vain; nearly never asked.
    spared_from: OnceCell<usize>,
    /// Not every endpoint that is available will do.
    is_narrow: bool,
}

/// How many that are the least, and are not to be had, are passed over before all are asked.
const GLANCES: usize = 4;

/// What is under way at all that are open, and their weights.
#[derive(Clone, Copy)]
struct Bound {
    percent: u32,
    in_flight: u64,
    weights: u64,
}

#[inline]
fn load_cost(seat: &Seat, word: Word, since: u64) -> u64 {
    let load = reported(Ewma::unpack(seat.place.load().load(Relaxed)), since);
    resource::cost(load, word.in_flight(), seat.weight)
}

impl View<'_> {
    #[inline]
    fn latency_cost(&self, seat: &Seat, word: Word, tick: u64) -> u64 {
        let known = Ewma::unpack(seat.place.estimate().load(Relaxed)).known_us(tick);
        let estimate_us = known.unwrap_or_else(|| self.estimate_us(&seat.place, tick));
        latency::cost(estimate_us, word.in_flight(), seat.weight)
    }

    #[cold]
    fn estimate_us(&self, place: &Place, tick: u64) -> u32 {
        let others_us = Ewma::unpack(self.others_latency.load(Relaxed)).last_us();
        let known = Ewma::unpack(place.latency().load(Relaxed));
        let estimate_us = known.estimate_us(self.now_ns, others_us, self.snapshot.half_life);
        place.estimate().store(Ewma::estimated(estimate_us, tick).pack(), Relaxed);
        estimate_us
    }

    /// The number of one look among all: another one for each, for one that has found who is closed would find the same
    /// neighbour in its place each time, who would get two shares.
    fn draw(&self, look: usize) -> u64 {
        if look == 0 { self.random } else { mix(self.random.wrapping_add(short(look).into())) }
    }

    /// The least under way of all, over weights. It is not made a part of `choose`, which other policies go through.
    #[inline(never)]
    fn least_in_flight(&self) -> Option<usize> {
        let seats = &*self.snapshot.seats;
        if !self.in_panic && !self.is_narrow && self.snapshot.weights == Weights::Even {
            // A word without a status is how many are under way, and less than any with one.
            let mut all = 0;
            let word = |_, seat: &Seat| {
                let word = seat.place.word();
                all |= word.0;
                word.0
            };
            let place = least::pick_scaled(self.draw(0), seats, word, |_| 1)?;
            if !Account::is_joining(Word(all).status()) && self.is_open(place) {
                return Some(place);
            }
        }
        self.least(|_, word| u64::from(word.in_flight()))
    }

    /// The least of all.
    #[inline(never)]
    fn least(&self, cost: impl Fn(&Seat, Word) -> u64) -> Option<usize> {
        self.least_at_a_glance(&cost).or_else(|| self.least_of_available(cost))
    }

    /// By the words alone, which say what a whole set says of itself nearly always; gates and all else are asked of the
    /// one that is found, and not of a hundred. None if that will not do.
    fn least_at_a_glance(&self, cost: impl Fn(&Seat, Word) -> u64) -> Option<usize> {
        let is_subset = self.wish.subset && self.ask.subset.is_some();
        if self.in_panic || is_subset || self.snapshot.weights == Weights::Any {
            return None;
        }
        let mut passed_over = [usize::MAX; GLANCES];
        for tries in 0..GLANCES {
            let place = if tries == 0 && self.rank.is_none() {
                self.glance(tries, &cost, |_| true)?
            } else {
                let is_ranked = |place: usize| self.rank.is_none_or(|(ranks, best)| ranks[place] == best);
                self.glance(tries, &cost, |place| is_ranked(place) && !passed_over.contains(&place))?
            };
            if self.is_open(place) {
                return Some(place);
            }
            passed_over[tries] = place;
        }
        None
    }

    #[inline]
    fn glance(
        &self,
        tries: usize,
        cost: impl Fn(&Seat, Word) -> u64,
        is_meant: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        let (seats, random, mut all) = (&*self.snapshot.seats, self.draw(1 + tries), 0);
        let mut look = |place, seat: &Seat| {
            let word = seat.place.word();
            all |= word.status();
            let is_out = !Account::is_present(word.status()) || !is_meant(place);
            if is_out { u64::MAX } else { cost(seat, word) }
        };
        let place = if self.snapshot.weights == Weights::Even {
            least::pick_scaled(random, seats, look, |_| 1)
        } else {
            let scaled = |place, seat: &Seat| look(place, seat).saturating_mul(seat.scale.into());
            least::pick_scaled(random, seats, scaled, |seat| seat.weight)
        };
        let is_any_new = Account::is_joining(all) && self.wish.fair && self.config.slow_start.is_some();
        place.filter(|_| !is_any_new)
    }

    /// By all there is to ask. Each endpoint is looked at once, as there are many.
    fn least_of_available(&self, cost: impl Fn(&Seat, Word) -> u64) -> Option<usize> {
        let (members, seats) = (&*self.snapshot.members, &*self.snapshot.seats);
        least::pick(self.draw(1 + GLANCES), members.len(), |place| {
            let (member, seat) = (&members[place], &seats[place]);
            let word = seat.place.word();
            let status = word.status();
            if !self.is_plainly_available(seat, status) && !self.is_available(place, member, status) {
                return None;
            }
            let is_new = Account::is_joining(status) && self.wish.fair;
            let share = if is_new { self.share_of(&member.account) } else { slow_start::WHOLE };
            Some(least::Look { cost: cost(seat, word), weight: member.weight, share })
        })
    }

    /// Nothing is said against it: so it is of nearly all, nearly always.
    #[inline]
    const fn is_plainly_available(&self, seat: &Seat, status: u32) -> bool {
        status == 0 && seat.is_plain && !self.is_narrow
    }

    fn is_available(&self, place: usize, member: &Member, status: u32) -> bool {
        let is_there = if self.in_panic {
            !Account::is_withdrawn(status)
        } else {
            Account::is_present(status) && (member.lets_pass(self.now) || self.is_spared(place))
        };
        is_there && member.has_room() && self.is_wanted(place, member, status)
    }

    fn is_spared(&self, place: usize) -> bool {
        let Some(percent) = self.config.max_ejected else { return false };
        let spared_from = *self.spared_from.get_or_init(|| {
            let members = self.snapshot.members.iter();
            ejection::spared_from(
                members.map(|it| (Account::is_present(it.account.status()), !it.lets_pass(self.now))),
                percent,
            )
        });
        place >= spared_from
    }

    fn bound(&self, percent: u32) -> Bound {
        if let Some(weights) = self.snapshot.plain_weights.filter(|_| !self.is_narrow) {
            let words = self.snapshot.seats.iter().map(|seat| seat.place.word());
            let sums = |(statuses, in_flight), word: Word| {
                (statuses | word.status(), in_flight + u64::from(word.in_flight()))
            };
            let (statuses, in_flight) = words.fold((0, 0), sums);
            if statuses == 0 {
                return Bound { percent, in_flight, weights };
            }
        }
        let mut bound = Bound { percent, in_flight: 0, weights: 0 };
        for (place, seat) in self.snapshot.seats.iter().enumerate() {
            let word = seat.place.word();
            if self.is_plainly_available(seat, word.status())
                || self.is_available(place, &self.snapshot.members[place], word.status())
            {
                bound.in_flight += u64::from(word.in_flight());
                bound.weights += u64::from(seat.weight);
            }
        }
        bound
    }

    /// Whether a newcomer takes part in this request.
    fn takes(&self, member: &Member) -> bool {
        let share = self.share_of(&member.account);
        share >= slow_start::WHOLE
            || slow_start::admits(share, mix(self.random.wrapping_add(member.identity)))
    }

    /// The policy itself makes parts of shares.
    const fn policy_sees_shares(&self) -> bool {
        self.config.policy.is_of_all()
    }

    /// Whether this request wants one that could be had.
    fn is_wanted(&self, place: usize, member: &Member, status: u32) -> bool {
        if self.refused.contains(&place) {
            return false;
        }
        if self.wish.fair && Account::is_joining(status) && !self.policy_sees_shares() && !self.takes(member)
        {
            return false;
        }
        if self.wish.untried && self.ask.tried.is_some_and(|tried| tried.has(member.endpoint.id())) {
            return false;
        }
        if self.wish.subset && self.ask.subset.is_some() && self.ask.subset != member.subset {
            return false;
        }
        if self.rank.is_some_and(|(ranks, best)| ranks[place] != best) {
            return false;
        }
        self.bound.is_none_or(|Bound { percent, in_flight, weights }| {
            let has = u64::from(member.account.in_flight());
            has < bound::limit(percent, in_flight, member.weight, weights)
        })
    }

    fn share_of(&self, account: &Account) -> u32 {
        self.config.slow_start.map_or(slow_start::WHOLE, |slow_start| account.share(self.now_ns, slow_start))
    }
}

impl Candidates for View<'_> {
    fn count(&self) -> usize {
        self.snapshot.members.len()
    }

    #[inline]
    fn is_open(&self, place: usize) -> bool {
        let seat = &self.snapshot.seats[place];
        let status = seat.place.word().status();
        self.is_plainly_available(seat, status)
            || self.is_available(place, &self.snapshot.members[place], status)
    }

    fn weight(&self, place: usize) -> u32 {
        self.snapshot.seats[place].weight
    }
}
