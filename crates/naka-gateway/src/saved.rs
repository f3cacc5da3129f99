//! What outlives a process: the state of layers as bytes, for the process that takes over and for a file.
//!
//! The bytes are one line, `naka state VERSION BYTES SHA256`, and that many bytes of JSON. So a file that was cut off, or
//! changed, or is of a version that is not known, is refused whole before any of it is looked at. JSON, as what is small can
//! be read by anybody who wonders; the many words of keys stand in it as one text each (base64), and cost four
//! bytes for three.
//!
//! It has, by [identity](crate::carry): rate limits, circuit breakers (of policies and of endpoints), how long endpoints
//! take to answer, retry budgets, and what was done by hand to endpoints and arms of splits. What it does not have begins
//! anew: bulkheads (the requests under way are the other process's), answers of caches, keys of idempotency, uses
//! of versions, verified credentials, the health of endpoints, and tombstones.
//!
//! Of keys it has hashes, and the secret they were hashed with: whoever reads it can find out which of the
//! addresses or names that they guess were there.
//!
//! Its age is that of the clock of the day. Where that was set back in between, nothing has aged: it never gives
//! more than there was. At [`MAX`] bytes the keys go that would be as new the soonest.
//!
//! Whoever changes what a word of `naka`'s state means changes [`VERSION`].

use std::{collections::BTreeMap, fmt, str, sync::Arc, time::Duration};

use aws_lc_rs::digest::{SHA256, digest};
use base64::{
    Engine as _,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD},
};
use naka::{
    balance::{self, Absence},
    budget, circuit_breaker,
    clock::{Now, WallClock},
    key::KeySecret,
    rate_limit::{self, Algorithm, MAX_WINDOWS, SavedShard, SavedWindow},
    saved::Unfit,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::{
    carry::{Change, What},
    state::State,
};

/// Of the format, and of what the words in it mean.
pub const VERSION: u32 = 1;

/// The most bytes that are written or read.
pub const MAX: usize = 64 << 20;

/// The longest first line.
const HEAD: usize = 128;

/// What may be taken by everything but keys, in bytes.
const BESIDES: usize = 8 << 20;

/// What is known, in the order in which it is put to use.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Saved {
    /// When it was taken, in milliseconds since 1970.
    taken_ms: u64,
    secret: Words,
    check: u64,
    /// Keys for which there was no room.
    left_out: usize,
    rate_limits: BTreeMap<String, Under<Vec<Limit>>>,
    breakers: BTreeMap<String, Under<Breaker>>,
    endpoint_breakers: BTreeMap<String, BTreeMap<String, Breaker>>,
    balancers: BTreeMap<String, Latencies>,
    budgets: BTreeMap<String, Budget>,
    /// By upstream and endpoint: what an operator has said of it.
    withdrawn: BTreeMap<String, BTreeMap<String, Vec<String>>>,
    /// By split: its arms that are held.
    held: BTreeMap<String, Vec<String>>,
}

/// What is known, and what of the configuration it means something under.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Under<T> {
    under: String,
    known: T,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Limit {
    at_ns: u64,
    shards: Vec<Shard>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Shard {
    number: usize,
    widest: u32,
    windows: Vec<Window>,
    overflow: Words,
    /// Each key, and a word for each window.
    keys: Words,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Window {
    slides: bool,
    count: u32,
    per_ns: u64,
    burst: u32,
    until_ns: Option<u64>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Breaker {
    at_ns: u64,
    is_time: bool,
    each: u64,
    era: u64,
    /// That of requests without a key.
    cell: Words,
    /// Each key, and the words of its cell.
    keys: Words,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Latencies {
    at_ns: u64,
    others: u64,
    endpoints: BTreeMap<String, u64>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Budget {
    at_ns: u64,
    step_ns: u64,
    requests: Words,
    retries: Words,
}

/// Why bytes are no state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Broken {
    /// They do not begin as state does.
    Foreign,
    /// Another version has written them.
    Version(String),
    /// They are not all there, or more.
    Length,
    /// They were changed.
    Changed,
    /// There are more of them than are read.
    TooLarge,
    /// They say what state does not say.
    Shape(String),
}

/// What became of it.
#[derive(Debug)]
pub struct Report {
    /// How old it was.
    pub age: Duration,
    /// What is restored, and what is dropped as it means nothing here.
    pub changes: Vec<Change>,
    /// What stood in the way, one line each.
    pub troubles: Vec<String>,
    /// Keys for which there was no room when it was saved.
    pub left_out: usize,
}

impl Saved {
    /// What is known now. Not for a thread that serves: it looks at every key.
    pub fn of(state: &State, now: Now) -> Self {
        let secret = KeySecret::in_force();
        let mut keys = Keys::within(MAX - BESIDES);
        for (identity, (limit, _), layer) in state.rate_limits.entries() {
            let saved = layer.save_most(keys.room / LEAST, now);
            keys.limit((identity, format!("{:?}", limit.key)), saved);
        }
        for (identity, (breaker, _), layer) in state.breakers.entries() {
            if let Some(saved) = layer.save_most(keys.room / (WORD * CELL), now) {
                keys.breaker((identity, format!("{:?}", breaker.key)), saved);
            }
        }
        let (limits, breakers, left_out) = keys.fitted();
        let limits = limits.into_iter().map(|(identity, under, all)| {
            let known = all.into_iter().map(Limit::from).collect();
            (identity.to_string(), Under { under, known })
        });
        let breakers = breakers.into_iter().map(|(identity, under, saved)| {
            (identity.to_string(), Under { under, known: Breaker::from(saved) })
        });
        let of_endpoints = state.endpoint_breakers.iter().map(|(upstream, breakers)| {
            let all = breakers.save(now).into_iter();
            let all = all.map(|(address, saved)| (address.to_string(), Breaker::from(saved)));
            (upstream.to_string(), all.collect())
        });
        let balancers = state.balancers.iter();
        let balancers =
            balancers.filter_map(|(name, layer)| Some((name.to_string(), Latencies::from(layer.save(now)?))));
        let budgets = state.retry_budgets.iter();
        let taken = WallClock::system().unix(now).unwrap_or_default();
        Self {
            taken_ms: u64::try_from(taken.as_millis()).unwrap_or(u64::MAX),
            secret: Words::of_bytes(secret.to_bytes()),
            check: secret.check(),
            left_out,
            rate_limits: limits.collect(),
            breakers: breakers.collect(),
            endpoint_breakers: of_endpoints.collect(),
            balancers: balancers.collect(),
            budgets: budgets.map(|(name, it)| (name.to_string(), Budget::from(it.save(now)))).collect(),
            withdrawn: withdrawn(state),
            held: held(state, now),
        }
    }

    /// As bytes.
    ///
    /// # Errors
    /// If there are more than [`MAX`] of them.
    pub fn encode(&self) -> Result<Vec<u8>, Broken> {
        let body = serde_json::to_vec(self).map_err(|error| Broken::Shape(error.to_string()))?;
        let mut bytes = format!("{MARK}{VERSION} {} {}\n", body.len(), hash(&body)).into_bytes();
        bytes.extend(body);
        if bytes.len() > MAX { Err(Broken::TooLarge) } else { Ok(bytes) }
    }

    /// Of bytes.
    ///
    /// # Errors
    /// If they are not what [`encode`](Self::encode) of this version has made.
    pub fn decode(bytes: &[u8]) -> Result<Self, Broken> {
        if bytes.len() > MAX {
            return Err(Broken::TooLarge);
        }
        let end = bytes.iter().take(HEAD).position(|byte| *byte == b'\n').ok_or(Broken::Foreign)?;
        let head = str::from_utf8(&bytes[..end]).map_err(|_| Broken::Foreign)?;
        let mut words = head.strip_prefix(MARK).ok_or(Broken::Foreign)?.split(' ');
        let version = words.next().unwrap_or_default();
        if version != VERSION.to_string() {
            return Err(Broken::Version(version.to_owned()));
        }
        let body = &bytes[end + 1..];
        if words.next().and_then(|len| len.parse().ok()) != Some(body.len()) {
            return Err(Broken::Length);
        }
        if words.next() != Some(&*hash(body)) || words.next().is_some() {
            return Err(Broken::Changed);
        }
        serde_json::from_slice(body).map_err(|error| Broken::Shape(error.to_string()))
    }

    /// What its keys are hashed with.
    pub fn secret(&self) -> Option<KeySecret> {
        self.secret.bytes().map(KeySecret::new)
    }

    /// Puts it into layers that have decided nothing yet; what means nothing under their configuration is dropped.
    pub fn restore(&self, state: &State, now: Now) -> Report {
        let here = WallClock::system().unix(now).unwrap_or_default();
        let age = here.saturating_sub(Duration::from_millis(self.taken_ms));
        let report = Report { age, changes: Vec::new(), troubles: Vec::new(), left_out: self.left_out };
        let mut restoring = Restoring { state, now, age, report };
        if age > OLDEST {
            let days = age.as_secs() / 86_400;
            restoring.report.troubles.push(format!(
                "it is {days} days old, or the clock of this machine was wrong when it was written: of all that time changes nothing goes on"
            ));
            restoring.withdrawn(&self.withdrawn);
            restoring.held(&self.held);
            return restoring.report;
        }
        if self.has_our_keys() {
            restoring.rate_limits(&self.rate_limits);
        } else {
            let why = "it was counted by keys that this process cannot make";
            for identity in self.rate_limits.keys() {
                restoring.drop("rate_limit", identity, Some(why));
            }
        }
        restoring.breakers(&self.breakers, self.has_our_keys());
        restoring.endpoint_breakers(&self.endpoint_breakers);
        restoring.balancers(&self.balancers);
        restoring.budgets(&self.budgets);
        restoring.withdrawn(&self.withdrawn);
        restoring.held(&self.held);
        restoring.report
    }

    fn has_our_keys(&self) -> bool {
        let ours = KeySecret::in_force();
        self.secret() == Some(ours) && self.check == ours.check()
    }
}

const MARK: &str = "naka state ";
/// Older than this nothing is waited for any more, and clocks of accounts, which go on by the age, would come near their ends.
const OLDEST: Duration = Duration::from_hours(24 * 366);

fn hash(body: &[u8]) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(digest(&SHA256, body))
}

/// What it is, and under what.
type Identified<'a> = (&'a Arc<str>, String);
type Limits<'a> = Vec<(&'a Arc<str>, String, Vec<rate_limit::Saved>)>;
type Breakers<'a> = Vec<(&'a Arc<str>, String, circuit_breaker::Saved)>;

/// Keys that are taken. While they come, those that will not fit go: they are never many more than fit.
#[derive(Debug)]
struct Keys<'a> {
    limits: Limits<'a>,
    breakers: Breakers<'a>,
    /// What they may take, and what they take, in bytes.
    room: usize,
    taken: usize,
    left_out: usize,
}

impl<'a> Keys<'a> {
    const fn within(room: usize) -> Self {
        Self { limits: Vec::new(), breakers: Vec::new(), room, taken: 0, left_out: 0 }
    }

    fn limit(&mut self, (identity, under): Identified<'a>, saved: (Vec<rate_limit::Saved>, usize)) {
        self.taken += saved.0.iter().map(of_limit).sum::<usize>();
        self.left_out += saved.1;
        self.limits.push((identity, under, saved.0));
        self.fit(self.room / 4);
    }

    fn breaker(&mut self, (identity, under): Identified<'a>, saved: (circuit_breaker::Saved, usize)) {
        self.taken += of_breaker(&saved.0);
        self.left_out += saved.1;
        self.breakers.push((identity, under, saved.0));
        self.fit(self.room / 4);
    }

    /// All that fits, and how many are left out.
    fn fitted(mut self) -> (Limits<'a>, Breakers<'a>, usize) {
        self.fit(0);
        (self.limits, self.breakers, self.left_out)
    }

    /// Leaves out keys until what is left fits, if it is by so much too large. Each of all has the same share, and what
    /// one does not need is there for the others.
    fn fit(&mut self, slack: usize) {
        if self.taken <= self.room + slack {
            return;
        }
        let sizes = self.limits.iter().flat_map(|(_, _, all)| all.iter().map(of_limit));
        let sizes = sizes.chain(self.breakers.iter().map(|(_, _, it)| of_breaker(it))).collect::<Vec<_>>();
        let mut shares = shares(&sizes, self.room).into_iter().zip(&sizes);
        self.taken = 0;
        for saved in self.limits.iter_mut().flat_map(|(_, _, all)| all) {
            let (share, size) = shares.next().expect("there is one for each");
            if share < *size {
                let windows = saved.shards.iter().map(|shard| shard.windows.len()).max().unwrap_or_default();
                self.left_out += saved.shorten(share / (WORD * (1 + windows)));
            }
            self.taken += of_limit(saved);
        }
        for (_, _, saved) in &mut self.breakers {
            let (share, size) = shares.next().expect("there is one for each");
            if share < *size {
                self.left_out += saved.shorten(share / (WORD * CELL));
            }
            self.taken += of_breaker(saved);
        }
    }
}

fn of_limit(saved: &rate_limit::Saved) -> usize {
    let words = saved.shards.iter().map(|shard| shard.keys.len() * (1 + shard.windows.len()));
    words.sum::<usize>() * WORD
}

const fn of_breaker(saved: &circuit_breaker::Saved) -> usize {
    saved.cells.len() * CELL * WORD
}

/// What a word takes, in bytes: eight, of which three become four, and their end.
const WORD: usize = 11;
/// The least that a key of a limit takes: its number, and a window.
const LEAST: usize = 2 * WORD;
/// The words of a breaker, with its key.
const CELL: usize = 15;

/// What each gets of what there is, if each wants so much.
fn shares(wanted: &[usize], room: usize) -> Vec<usize> {
    let mut by_size = (0..wanted.len()).collect::<Vec<_>>();
    by_size.sort_by_key(|place| wanted[*place]);
    let (mut room, mut shares) = (room, vec![0; wanted.len()]);
    for (before, place) in by_size.iter().enumerate() {
        shares[*place] = wanted[*place].min(room / (wanted.len() - before));
        room -= shares[*place];
    }
    shares
}

const BY_HAND: [Absence; 2] = [Absence::Maintenance, Absence::Draining];

fn withdrawn(state: &State) -> BTreeMap<String, BTreeMap<String, Vec<String>>> {
    let of_upstream = state.balancers.iter().filter_map(|(upstream, balancer)| {
        let there = balancer.endpoints().into_iter();
        let there = there.map(|endpoint| (endpoint.address().to_string(), by_hand(endpoint.absences())));
        let awaited =
            state.discoveries.get(upstream).map(|discovery| discovery.awaited()).unwrap_or_default();
        let awaited = awaited.into_iter().map(|(address, all)| (address.to_string(), by_hand(all)));
        let all = there.chain(awaited).filter(|(_, words)| !words.is_empty()).collect::<BTreeMap<_, _>>();
        (!all.is_empty()).then(|| (upstream.to_string(), all))
    });
    of_upstream.collect()
}

fn by_hand(absences: impl IntoIterator<Item = Absence>) -> Vec<String> {
    let all = absences.into_iter().filter(|it| BY_HAND.contains(it));
    all.map(|it| it.word().to_owned()).collect()
}

fn held(state: &State, now: Now) -> BTreeMap<String, Vec<String>> {
    let of_split = state.splits.iter().filter_map(|(name, split)| {
        let arms = split.arms(now).into_iter().filter(|arm| arm.held.is_some());
        let arms = arms.map(|arm| arm.name.to_string()).collect::<Vec<_>>();
        (!arms.is_empty()).then(|| (name.to_string(), arms))
    });
    of_split.collect()
}

/// Saved state on its way into layers.
struct Restoring<'a> {
    state: &'a State,
    now: Now,
    age: Duration,
    report: Report,
}

impl Restoring<'_> {
    fn rate_limits(&mut self, all: &BTreeMap<String, Under<Vec<Limit>>>) {
        for (identity, saved) in all {
            let mut here = self.state.rate_limits.entries();
            let here = here.find(|(is, (limit, _), _)| ***is == **identity && is_under(saved, &limit.key));
            let done = here.map(|(_, _, layer)| {
                let all = saved.known.iter().map(|limit| limit.known().ok_or(Unfit::Broken("its keys")));
                layer.restore(&all.collect::<Result<Vec<_>, _>>()?, self.age, self.now)
            });
            self.told("rate_limit", identity, done);
        }
    }

    fn breakers(&mut self, all: &BTreeMap<String, Under<Breaker>>, has_our_keys: bool) {
        for (identity, saved) in all {
            let mut here = self.state.breakers.entries();
            let here =
                here.find(|(is, (breaker, _), _)| ***is == **identity && is_under(saved, &breaker.key));
            let done = here.map(|(_, _, layer)| {
                let known = saved.known.known(has_our_keys).ok_or(Unfit::Broken("its words"))?;
                layer.restore(&known, self.age, self.now)
            });
            self.told("circuit_breaker", identity, done);
        }
    }

    fn endpoint_breakers(&mut self, all: &BTreeMap<String, BTreeMap<String, Breaker>>) {
        for (upstream, of_endpoints) in all {
            let breakers = self.state.endpoint_breakers.get(upstream);
            let done = breakers.map(|breakers| {
                of_endpoints.iter().try_for_each(|(address, saved)| {
                    let known = saved.known(false).ok_or(Unfit::Broken("its words"))?;
                    breakers.restore(&Arc::from(&**address), &known, self.age, self.now)
                })
            });
            self.told("endpoint_breakers", upstream, done);
        }
    }

    fn balancers(&mut self, all: &BTreeMap<String, Latencies>) {
        for (upstream, saved) in all {
            let here = self.state.balancers.get(upstream);
            let done = here.map(|layer| layer.restore(&saved.known(), self.age, self.now));
            self.told("balancer", upstream, done);
        }
    }

    fn budgets(&mut self, all: &BTreeMap<String, Budget>) {
        for (identity, saved) in all {
            let done = self.state.retry_budgets.get(identity).map(|budget| {
                let known = saved.known().ok_or(Unfit::Broken("its words"))?;
                budget.restore(&known, self.age, self.now)
            });
            self.told("retry_budget", identity, done);
        }
    }

    /// An endpoint that is not there has nothing to be taken out of, unless it may still be found.
    fn withdrawn(&self, all: &BTreeMap<String, BTreeMap<String, Vec<String>>>) {
        for (upstream, of_endpoints) in all {
            let endpoints = self.state.balancers.get(upstream).map(balance::BalanceLayer::endpoints);
            let endpoints = endpoints.unwrap_or_default();
            let discovery = self.state.discoveries.get(upstream);
            for (address, words) in of_endpoints {
                let said = |absence: &Absence| words.iter().any(|it| it == absence.word());
                let absences = BY_HAND.into_iter().filter(said).collect::<Vec<_>>();
                if let Some(discovery) = discovery.filter(|_| !absences.is_empty()) {
                    discovery.withdraw(address, &absences);
                }
                for endpoint in endpoints.iter().filter(|it| **it.address() == **address) {
                    for absence in &absences {
                        endpoint.withdraw(*absence);
                    }
                }
            }
        }
    }

    fn held(&mut self, all: &BTreeMap<String, Vec<String>>) {
        for (name, arms) in all {
            let done = self.state.splits.get(name).map(|split| {
                let is_done = arms.iter().filter(|arm| split.hold(arm)).count() == arms.len();
                if is_done { Ok(()) } else { Err(Unfit::Other) }
            });
            self.told("split", name, done);
        }
    }

    /// What became of one; `None` if nothing here has its name and goes by the same.
    fn told(&mut self, kind: &'static str, identity: &str, done: Option<Result<(), Unfit>>) {
        match done {
            Some(Ok(())) => self.change(kind, identity, What::Restored),
            Some(Err(error)) => self.drop(kind, identity, Some(&error.to_string())),
            None => self.drop(kind, identity, None),
        }
    }

    fn drop(&mut self, kind: &'static str, identity: &str, why: Option<&str>) {
        self.change(kind, identity, What::Dropped);
        self.report.troubles.extend(why.map(|why| format!("{kind} {identity} begins anew: {why}")));
    }

    fn change(&mut self, kind: &'static str, identity: &str, what: What) {
        self.report.changes.push(Change { kind, identity: identity.into(), what, was: None });
    }
}

fn is_under<T>(saved: &Under<T>, key: &impl fmt::Debug) -> bool {
    saved.under == format!("{key:?}")
}

impl From<rate_limit::Saved> for Limit {
    fn from(saved: rate_limit::Saved) -> Self {
        let shard = |shard: SavedShard| {
            let len = shard.windows.len();
            let keys = shard.keys.iter();
            let keys = keys.flat_map(|(key, words)| [*key].into_iter().chain(words[..len].iter().copied()));
            let window = |it: SavedWindow| Window {
                slides: it.algorithm == Algorithm::SlidingWindow,
                count: it.count,
                per_ns: it.per_ns,
                burst: it.burst,
                until_ns: it.until_ns,
            };
            Shard {
                number: shard.shard,
                widest: shard.widest,
                overflow: Words(shard.overflow.to_vec()),
                keys: Words(keys.collect()),
                windows: shard.windows.into_iter().map(window).collect(),
            }
        };
        Self { at_ns: saved.at_ns, shards: saved.shards.into_iter().map(shard).collect() }
    }
}

impl Limit {
    fn known(&self) -> Option<rate_limit::Saved> {
        let shard = |shard: &Shard| {
            let len = shard.windows.len();
            let each = shard.keys.0.chunks(1 + len);
            let keys = each.map(|words| {
                let (key, words) = words.split_first().filter(|(_, words)| words.len() == len)?;
                let mut all = [0; MAX_WINDOWS];
                all.get_mut(..len)?.copy_from_slice(words);
                Some((*key, all))
            });
            let window = |it: &Window| SavedWindow {
                algorithm: if it.slides { Algorithm::SlidingWindow } else { Algorithm::Gcra },
                count: it.count,
                per_ns: it.per_ns,
                burst: it.burst,
                until_ns: it.until_ns,
            };
            Some(SavedShard {
                shard: shard.number,
                windows: shard.windows.iter().map(window).collect(),
                widest: shard.widest,
                overflow: shard.overflow.0[..].try_into().ok()?,
                keys: keys.collect::<Option<_>>()?,
            })
        };
        let shards = self.shards.iter().map(shard).collect::<Option<_>>()?;
        Some(rate_limit::Saved { at_ns: self.at_ns, shards })
    }
}

impl From<circuit_breaker::Saved> for Breaker {
    fn from(saved: circuit_breaker::Saved) -> Self {
        let words = |cell: &circuit_breaker::SavedCell| {
            let first = [cell.used_ns, cell.state, cell.run, cell.results];
            first.into_iter().chain(cell.buckets).collect::<Vec<_>>()
        };
        let without_key = saved.cells.iter().find(|cell| cell.key.is_none()).map(words);
        let keyed = saved.cells.iter().filter_map(|cell| Some([cell.key?].into_iter().chain(words(cell))));
        Self {
            at_ns: saved.at_ns,
            is_time: saved.is_time,
            each: saved.each,
            era: saved.era,
            cell: Words(without_key.unwrap_or_default()),
            keys: Words(keyed.flatten().collect()),
        }
    }
}

impl Breaker {
    /// With those of keys, or without.
    fn known(&self, with_keys: bool) -> Option<circuit_breaker::Saved> {
        let cell = |key, words: &[u64]| {
            let [used_ns, state, run, results, buckets @ ..] = words else { return None };
            let (used_ns, state, run, results) = (*used_ns, *state, *run, *results);
            let buckets = buckets.try_into().ok()?;
            Some(circuit_breaker::SavedCell { key, used_ns, state, run, results, buckets })
        };
        let keyed = self.keys.0.chunks(CELL).filter(|_| with_keys);
        let keyed = keyed.map(|words| words.split_first().and_then(|(key, words)| cell(Some(*key), words)));
        let cells = [cell(None, &self.cell.0)].into_iter().chain(keyed).collect::<Option<_>>()?;
        let Self { at_ns, is_time, each, era, .. } = *self;
        Some(circuit_breaker::Saved { at_ns, is_time, each, era, cells })
    }
}

impl From<balance::Saved> for Latencies {
    fn from(saved: balance::Saved) -> Self {
        let endpoints = saved.endpoints.into_iter().map(|(address, word)| (address.to_string(), word));
        Self { at_ns: saved.at_ns, others: saved.others, endpoints: endpoints.collect() }
    }
}

impl Latencies {
    fn known(&self) -> balance::Saved {
        let endpoints = self.endpoints.iter().map(|(address, word)| (Arc::from(&**address), *word));
        balance::Saved { at_ns: self.at_ns, others: self.others, endpoints: endpoints.collect() }
    }
}

impl From<budget::Saved> for Budget {
    fn from(saved: budget::Saved) -> Self {
        let budget::Saved { at_ns, step_ns, requests, retries } = saved;
        Self { at_ns, step_ns, requests: Words(requests.to_vec()), retries: Words(retries.to_vec()) }
    }
}

impl Budget {
    fn known(&self) -> Option<budget::Saved> {
        let [requests, retries] = [&self.requests, &self.retries].map(|words| words.0[..].try_into().ok());
        Some(budget::Saved {
            at_ns: self.at_ns,
            step_ns: self.step_ns,
            requests: requests?,
            retries: retries?,
        })
    }
}

/// Words as one text.
struct Words(Vec<u64>);

impl Words {
    fn of_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word)).collect())
    }

    fn bytes(&self) -> Option<[u8; 16]> {
        self.0.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>().try_into().ok()
    }
}

/// Among them is a secret.
impl fmt::Debug for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} words", self.0.len())
    }
}

impl Serialize for Words {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let bytes = self.0.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>();
        serializer.serialize_str(&BASE64_STANDARD.encode(bytes))
    }
}

impl<'de> Deserialize<'de> for Words {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <&str>::deserialize(deserializer)?;
        let bytes = BASE64_STANDARD.decode(text).map_err(D::Error::custom)?;
        match bytes.as_chunks::<8>() {
            (words, []) => Ok(Self(words.iter().map(|word| u64::from_le_bytes(*word)).collect())),
            _ => Err(D::Error::custom("these are no words of eight bytes")),
        }
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Foreign => f.write_str("it does not begin as saved state does"),
            Self::Version(version) => {
                write!(f, "it is of version {version:?}, and this program reads version {VERSION}")
            }
            Self::Length => {
                f.write_str("it has not as many bytes as it says: it was cut off, or something was added")
            }
            Self::Changed => f.write_str("it is not what was written: its hash is another"),
            Self::TooLarge => write!(f, "it has more than {MAX} bytes"),
            Self::Shape(why) => write!(f, "it says what saved state does not say: {why}"),
        }
    }
}

impl std::error::Error for Broken {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn known() -> Saved {
        let saved = Saved::of(&State::new(1), Now::read());
        let word = |word| Words(vec![word; 4]);
        let shard = Shard {
            number: 3,
            widest: 100,
            windows: vec![Window { slides: true, count: 3, per_ns: 9, burst: 1, until_ns: Some(7) }],
            overflow: word(1),
            keys: word(u64::MAX),
        };
        let limit = Under { under: "[]".into(), known: vec![Limit { at_ns: u64::MAX, shards: vec![shard] }] };
        Saved { rate_limits: [("api".into(), limit)].into(), ..saved }
    }

    #[test]
    fn what_is_written_is_read_and_nothing_else() {
        let bytes = known().encode().unwrap();
        assert_eq!(Saved::decode(&bytes).unwrap().encode().unwrap(), bytes);
        for cut in [0, 5, HEAD, bytes.len() - 1] {
            assert!(Saved::decode(&bytes[..cut]).is_err(), "{cut}");
        }
        for place in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[place] ^= 1;
            assert!(Saved::decode(&changed).is_err(), "a bit of byte {place}");
        }
        let text = String::from_utf8(bytes).unwrap();
        let head = text.split_once('\n').unwrap().0;
        let other = text.replacen("state 1", "state 77", 1);
        assert_eq!(Saved::decode(other.as_bytes()).unwrap_err(), Broken::Version("77".into()));
        assert_eq!(Saved::decode(format!("{text} ").as_bytes()).unwrap_err(), Broken::Length);
        let longer = text.replacen(head, &format!("{head} more"), 1);
        assert_eq!(Saved::decode(longer.as_bytes()).unwrap_err(), Broken::Changed);
        assert_eq!(Saved::decode(&vec![b' '; MAX + 1]).unwrap_err(), Broken::TooLarge);
        let body = b"{\"taken_ms\":1}";
        let whole = [format!("{MARK}{VERSION} {} {}\n", body.len(), hash(body)).as_bytes(), body].concat();
        assert!(matches!(Saved::decode(&whole), Err(Broken::Shape(_))));
    }

    #[test]
    fn no_secret_is_shown() {
        let saved = known();
        let secret = serde_json::to_string(&saved.secret).unwrap();
        assert!(!format!("{saved:?}").contains(secret.trim_matches('"')), "{saved:?}");
        assert_eq!(saved.secret(), Some(KeySecret::in_force()));
        assert!(saved.has_our_keys());
        let other = Saved { check: saved.check ^ 1, ..saved };
        assert!(!other.has_our_keys(), "a program that hashes otherwise");
    }

    /// A machine without a clock of its own writes in 1970, and reads when it knows better.
    #[test]
    fn what_is_older_than_a_year_is_over() {
        let year = 366 * 86_400_000;
        let now = Now::read();
        let here = u64::try_from(WallClock::system().unix(now).unwrap_or_default().as_millis()).unwrap();
        for (taken_ms, is_over) in [(0, true), (here - year - 60_000, true), (here - year + 60_000, false)] {
            let report = Saved { taken_ms, ..known() }.restore(&State::new(1), now);
            assert_eq!(report.changes.is_empty(), is_over, "{report:?}");
            assert_eq!(report.troubles.iter().any(|it| it.contains("days old")), is_over, "{report:?}");
        }
    }

    /// Under a clock that was set back nothing has aged.
    #[test]
    fn what_comes_from_the_future_is_as_old_as_what_was_taken_now() {
        let saved = Saved { taken_ms: u64::MAX / 2, ..known() };
        let report = saved.restore(&State::new(1), Now::read());
        assert_eq!(report.age, Duration::ZERO);
        assert_eq!(report.changes.len(), 1);
        assert_eq!(report.changes[0].what, What::Dropped, "nothing here is called so");
    }

    proptest! {
        #[test]
        fn shares_are_fair_and_no_more_than_there_is(
            wanted in prop::collection::vec(0..1000_usize, 0..20),
            room in 0..5000_usize,
        ) {
            let given = shares(&wanted, room);
            prop_assert!(given.iter().sum::<usize>() <= room);
            prop_assert!(given.iter().zip(&wanted).all(|(given, wanted)| given <= wanted));
            if wanted.iter().sum::<usize>() <= room {
                prop_assert_eq!(&given, &wanted);
            }
            let least = given.iter().zip(&wanted).filter(|(given, wanted)| given < wanted).map(|(given, _)| *given);
            if let Some(least) = least.min() {
                prop_assert!(given.iter().all(|given| *given <= least + wanted.len()), "{:?}", given);
            }
        }
    }

    /// Of all at once there may be more than the machine has room for.
    #[test]
    fn keys_are_never_many_more_than_fit_while_they_are_taken() {
        let (room, each) = (1_000_000, 2000);
        let cell = |used_ns| circuit_breaker::SavedCell { key: Some(used_ns), used_ns, ..Default::default() };
        let saved = circuit_breaker::Saved {
            at_ns: 0,
            is_time: false,
            each: 1,
            era: 0,
            cells: (0..each).map(cell).collect(),
        };
        let names = (0..50).map(|number| Arc::<str>::from(number.to_string())).collect::<Vec<_>>();
        let mut keys = Keys::within(room);
        for name in &names {
            keys.breaker((name, String::new()), (saved.clone(), 0));
            let held = keys.breakers.iter().map(|(_, _, it)| of_breaker(it)).sum::<usize>();
            assert_eq!(held, keys.taken);
            assert!(held <= room + room / 4, "{held}");
        }
        let (_, breakers, left_out) = keys.fitted();
        let counts = breakers.iter().map(|(_, _, it)| it.cells.len()).collect::<Vec<_>>();
        assert_eq!(counts.iter().sum::<usize>() + left_out, 2000 * names.len());
        assert!(counts.iter().all(|count| *count == room / names.len() / (WORD * CELL)), "{counts:?}");
    }

    /// The bound holds for what is written, and what goes is counted.
    #[tokio::test]
    async fn keys_for_which_there_is_no_room_are_left_out_and_counted() {
        let limit = |keys: u64| rate_limit::Saved {
            at_ns: 0,
            shards: vec![SavedShard {
                shard: 0,
                windows: vec![SavedWindow {
                    algorithm: Algorithm::Gcra,
                    count: 1,
                    per_ns: 1,
                    burst: 1,
                    until_ns: None,
                }],
                widest: 100,
                overflow: [0; MAX_WINDOWS],
                keys: (0..keys).map(|key| (key, [key; MAX_WINDOWS])).collect(),
            }],
        };
        let names = ["few", "many"].map(Arc::<str>::from);
        let room = 100_000;
        let mut keys = Keys::within(room);
        keys.limit((&names[0], String::new()), (vec![limit(10)], 0));
        keys.limit((&names[1], String::new()), (vec![limit(10_000)], 0));
        let (limits, _, left_out) = keys.fitted();
        let kept = limits.iter().map(|(_, _, all)| all[0].keys()).collect::<Vec<_>>();
        assert_eq!((kept[0], left_out), (10, 10_000 - kept[1]), "what needs little loses nothing");
        let written = limits
            .into_iter()
            .flat_map(|(_, _, all)| all)
            .map(|saved| serde_json::to_vec(&Limit::from(saved)).unwrap().len());
        let written = written.sum::<usize>();
        assert!(left_out > 0 && written <= room, "{written} {kept:?}");
    }
}
