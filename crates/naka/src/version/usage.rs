//! Who uses which version: counts of bounded size, by day and by consumer.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use super::Version;
use crate::key::Key;

/// How many days are remembered.
pub const DAYS: u32 = 30;
/// How many consumers of one version are told apart.
pub const MAX_CONSUMERS: usize = 1000;
/// How many days make a share.
pub const SHARE_DAYS: u32 = 7;
/// The longest subject that is remembered whole, in bytes.
const MAX_SUBJECT: usize = 128;
/// How many versions are remembered, also of earlier configurations.
const MAX_RECORDS: usize = 128;
const DAY_S: u64 = 86_400;
/// [`SHARE_DAYS`] in seconds: how long has to be counted before a share says anything.
const SHARE_S: u64 = 7 * DAY_S;
/// One for each of [`DAYS`].
const PLACES: usize = 30;

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Consumer {
    /// The subject of an identity; a long one is cut.
    Subject(Arc<str>),
    /// The network of a client (IPv6: its /64).
    Client(IpAddr),
    /// Nobody in particular.
    Anonymous,
}

/// The use of all versions.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct UsageReport {
    /// When the first request was counted.
    pub since_s: Option<u64>,
    /// Requests of the last seven days, today included.
    pub last_7_days: u64,
    /// Each version of the configuration, in its order.
    pub versions: Vec<VersionUsage>,
}

/// The use of one version.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct VersionUsage {
    /// Which.
    pub name: Arc<str>,
    /// Its requests of the last seven days, today included.
    pub last_7_days: u64,
    /// Its share of them, in hundredths of a percent, rounded down.
    pub share_bp: u32,
    /// From when on its requests have been counted without a gap: the first request under a configuration that has
    /// it, and not before its own [`since_s`](super::Version::since_s).
    pub since_s: Option<u64>,
    /// Whether its share is below 2 % of something, and its requests have been counted for seven days.
    pub is_safe_to_retire: bool,
    /// Requests by day, the oldest first and today last; 30 of them.
    pub days: Vec<DayUsage>,
    /// Who uses it, whoever uses it most first.
    pub consumers: Vec<ConsumerUsage>,
    /// Requests of those who are not told apart.
    pub others: u64,
}

/// The use of one version on one day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DayUsage {
    /// When the day began (UTC).
    pub start_s: u64,
    /// Requests.
    pub requests: u64,
}

/// The use of one version by one consumer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConsumerUsage {
    /// Who.
    pub consumer: Consumer,
    /// Requests since it was first seen.
    pub requests: u64,
    /// When it was last seen.
    pub last_s: u64,
}

/// What outlives a configuration.
#[derive(Debug, Default)]
pub(super) struct Usage {
    since_s: OnceLock<u64>,
    /// From when on each version of the configuration in force has been counted: as many as that has.
    counted: Mutex<Vec<(Box<str>, u64)>>,
    /// By name. A layer keeps what it has found here, also after it went.
    records: Mutex<Vec<(Box<str>, Arc<Record>)>>,
}

impl Usage {
    /// From now on these are counted; those that were counted before are counted on.
    pub(super) fn begin<'a>(&self, names: impl Iterator<Item = &'a str>, unix_s: u64) {
        let mut counted = lock(&self.counted);
        let since_s =
            |name: &str| counted.iter().find(|(known, _)| **known == *name).map(|(_, since_s)| *since_s);
        *counted = names.map(|name| (name.into(), since_s(name).unwrap_or(unix_s))).collect();
    }

    /// From when on a version has been counted, if it is.
    fn counted_since(&self, name: &str) -> Option<u64> {
        lock(&self.counted).iter().find(|(known, _)| **known == *name).map(|(_, since_s)| *since_s)
    }

    /// The record of a version, made if there is none. At the cap the one that is longest unused goes.
    pub(super) fn record(&self, name: &str, unix_s: u64) -> Arc<Record> {
        self.since_s.get_or_init(|| unix_s);
        let mut records = lock(&self.records);
        if let Some((_, known)) = records.iter().find(|(known, _)| **known == *name) {
            return Arc::clone(known);
        }
        if records.len() >= MAX_RECORDS {
            let last_day = |(_, (_, record)): &(usize, &(Box<str>, Arc<Record>))| record.last_day();
            if let Some((oldest, _)) = records.iter().enumerate().min_by_key(last_day) {
                records.remove(oldest);
            }
        }
        let record = Arc::new(Record::default());
        records.push((name.into(), Arc::clone(&record)));
        record
    }

    /// The record of a version, if there is one.
    pub(super) fn known(&self, name: &str) -> Option<Arc<Record>> {
        let records = lock(&self.records);
        records.iter().find(|(known, _)| **known == *name).map(|(_, record)| Arc::clone(record))
    }

    /// What is known of these versions.
    pub(super) fn report<'a>(
        &self,
        versions: impl IntoIterator<Item = Counted<'a>>,
        unix_s: u64,
    ) -> UsageReport {
        let versions = versions.into_iter().map(|Counted { version, canonical, record }| {
            let since_s =
                self.counted_since(canonical).map(|counted_s| counted_s.max(version.since_s.unwrap_or(0)));
            let report = |record: &Record| record.report(&version.name, since_s, unix_s);
            record.map_or_else(|| report(&Record::default()), |record| report(&record))
        });
        let mut versions = versions.collect::<Vec<_>>();
        let total = versions.iter().map(|version| version.last_7_days).fold(0, u64::saturating_add);
        for version in &mut versions {
            let is_known = version.since_s.is_some_and(|since_s| unix_s.saturating_sub(since_s) >= SHARE_S);
            let parts = u128::from(version.last_7_days) * 10_000;
            version.share_bp = parts.checked_div(total.into()).and_then(|bp| bp.try_into().ok()).unwrap_or(0);
            version.is_safe_to_retire = is_known && total > 0 && version.share_bp < 200;
        }
        UsageReport { since_s: self.since_s.get().copied(), last_7_days: total, versions }
    }
}

/// One version of a configuration, and what has been counted of it.
pub(super) struct Counted<'a> {
    pub(super) version: &'a Version,
    /// How it is called here.
    pub(super) canonical: &'a str,
    pub(super) record: Option<Arc<Record>>,
}

/// Who asks, before it is known whether anything has to be kept.
#[derive(Clone, Copy, Debug)]
pub(super) enum Who<'a> {
    Subject(&'a Arc<str>),
    Client(IpAddr),
    Anonymous,
}

impl Who<'_> {
    fn key(self) -> u64 {
        let key = match self {
            Self::Subject(subject) => Key::of((0_u8, &**subject)),
            Self::Client(address) => Key::of((1_u8, address)),
            Self::Anonymous => Key::of(2_u8),
        };
        key.bits()
    }

    fn kept(self) -> Consumer {
        match self {
            Self::Subject(subject) if subject.len() <= MAX_SUBJECT => Consumer::Subject(Arc::clone(subject)),
            Self::Subject(subject) => {
                let cut = &subject[..subject.floor_char_boundary(MAX_SUBJECT)];
                Consumer::Subject(format!("{cut}…").into())
            }
            Self::Client(address) => Consumer::Client(address),
            Self::Anonymous => Consumer::Anonymous,
        }
    }
}

/// The use of one version.
#[derive(Debug, Default)]
pub(super) struct Record {
    /// A day and its count in one word, so that a new day is begun in one step.
    days: [AtomicU64; PLACES],
    consumers: Mutex<Consumers>,
}

#[derive(Debug, Default)]
struct Consumers {
    known: HashMap<u64, ConsumerUsage>,
    others: u64,
    /// When places were last looked for.
    swept_day: u64,
}

impl Record {
    /// Counts one request. Nothing is allocated for who is known.
    pub(super) fn count(&self, who: Who<'_>, unix_s: u64) {
        let day = unix_s / DAY_S;
        let next =
            |word| Some(if day_of(word) == day { word.saturating_add(1) } else { day << COUNT_BITS | 1 });
        let _ = self.day(day).fetch_update(Relaxed, Relaxed, next); // Never refuses.
        lock(&self.consumers).count(who, unix_s);
    }

    fn day(&self, day: u64) -> &AtomicU64 {
        let place = usize::try_from(day % u64::from(DAYS)).expect("a small number");
        &self.days[place]
    }

    fn requests(&self, day: u64) -> u64 {
        let word = self.day(day).load(Relaxed);
        if day_of(word) == day { word & COUNT } else { 0 }
    }

    fn last_day(&self) -> u64 {
        self.days.iter().map(|day| day_of(day.load(Relaxed))).max().unwrap_or_default()
    }

    fn report(&self, name: &Arc<str>, since_s: Option<u64>, unix_s: u64) -> VersionUsage {
        let today = unix_s / DAY_S;
        let day = |ago: u32| {
            let day = today.checked_sub(u64::from(ago))?;
            Some(DayUsage { start_s: day * DAY_S, requests: self.requests(day) })
        };
        let last_7_days = (0..SHARE_DAYS).filter_map(day).map(|day| day.requests).sum();
        let days = (0..DAYS).rev().filter_map(day).collect();
        let (mut consumers, others) = {
            let consumers = lock(&self.consumers);
            (consumers.known.values().cloned().collect::<Vec<_>>(), consumers.others)
        };
        consumers
            .sort_unstable_by(|a, b| b.requests.cmp(&a.requests).then_with(|| a.consumer.cmp(&b.consumer)));
        VersionUsage {
            name: Arc::clone(name),
            last_7_days,
            share_bp: 0,
            since_s,
            is_safe_to_retire: false,
            days,
            consumers,
            others,
        }
    }
}

impl Consumers {
    fn count(&mut self, who: Who<'_>, unix_s: u64) {
        let key = who.key();
        if let Some(known) = self.known.get_mut(&key) {
            known.requests = known.requests.saturating_add(1);
            known.last_s = known.last_s.max(unix_s);
            return;
        }
        if self.known.len() >= MAX_CONSUMERS {
            self.sweep(unix_s);
        }
        if self.known.len() >= MAX_CONSUMERS {
            self.others = self.others.saturating_add(1);
            return;
        }
        self.known.insert(key, ConsumerUsage { consumer: who.kept(), requests: 1, last_s: unix_s });
    }

    /// Once a day at most, whoever was not seen for thirty days gives its place away.
    fn sweep(&mut self, unix_s: u64) {
        let day = unix_s / DAY_S;
        if self.swept_day == day {
            return;
        }
        self.swept_day = day;
        let first_s = unix_s.saturating_sub(u64::from(DAYS) * DAY_S);
        let others = &mut self.others;
        self.known.retain(|_, consumer| {
            let is_kept = consumer.last_s >= first_s;
            if !is_kept {
                *others = others.saturating_add(consumer.requests);
            }
            is_kept
        });
    }
}

/// 2⁴⁰ requests a day are twelve million a second; 2²⁴ days are enough.
const COUNT_BITS: u32 = 40;
const COUNT: u64 = (1 << COUNT_BITS) - 1;

const fn day_of(word: u64) -> u64 {
    word >> COUNT_BITS
}

/// A panic cannot leave it half written: nothing that can panic stands between two writes.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_S: u64 = 1_800_000_000;

    fn subject(name: &str) -> Arc<str> {
        name.into()
    }

    #[test]
    fn r11_6_days_go_as_others_come() {
        let record = Record::default();
        for day in 0..40 {
            for _ in 0..=day {
                record.count(Who::Anonymous, NOW_S + day * DAY_S);
            }
        }
        let usage = record.report(&subject("1"), None, NOW_S + 39 * DAY_S);
        assert_eq!(usage.days.len(), 30);
        let requests = usage.days.iter().map(|day| day.requests).collect::<Vec<_>>();
        assert_eq!(requests, (11..=40).collect::<Vec<_>>());
        assert_eq!(usage.last_7_days, (34..=40).sum::<u64>());
        let later = record.report(&subject("1"), None, NOW_S + 100 * DAY_S);
        assert!(later.days.iter().all(|day| day.requests == 0), "what is old does not count as new");
        assert_eq!(later.consumers[0].requests, (1..=40).sum::<u64>());
    }

    #[test]
    fn r11_6_consumers_are_bounded_and_the_rest_counts_together() {
        let record = Record::default();
        for number in 0..MAX_CONSUMERS + 10 {
            record.count(Who::Subject(&subject(&number.to_string())), NOW_S);
        }
        record.count(Who::Subject(&subject("7")), NOW_S);
        let usage = record.report(&subject("1"), None, NOW_S);
        assert_eq!((usage.consumers.len(), usage.others), (MAX_CONSUMERS, 10));
        assert_eq!(usage.consumers[0].consumer, Consumer::Subject("7".into()));
        assert_eq!(usage.last_7_days, 1011);

        // A month later those who are gone make room, and nothing of their counts is lost.
        let later_s = NOW_S + 31 * DAY_S;
        record.count(Who::Subject(&subject("new")), later_s);
        let usage = record.report(&subject("1"), None, later_s);
        assert_eq!((usage.consumers.len(), usage.others), (1, 1011));
    }

    #[test]
    fn who_asks_is_told_apart_by_kind_and_long_names_are_cut() {
        let record = Record::default();
        let address = "192.0.2.1".parse().unwrap();
        record.count(Who::Subject(&subject("192.0.2.1")), NOW_S);
        record.count(Who::Client(address), NOW_S);
        record.count(Who::Anonymous, NOW_S);
        record.count(Who::Subject(&subject(&"ü".repeat(999))), NOW_S);
        let consumers = record.report(&subject("1"), None, NOW_S).consumers;
        assert_eq!(consumers.len(), 4);
        let longest = consumers.iter().map(|one| match &one.consumer {
            Consumer::Subject(subject) => subject.len(),
            _ => 0,
        });
        assert_eq!(longest.max(), Some(MAX_SUBJECT + "…".len()));
    }

    #[test]
    fn records_are_bounded_and_the_longest_unused_goes() {
        let usage = Usage::default();
        for number in 0..u64::try_from(MAX_RECORDS).unwrap() {
            usage.record(&number.to_string(), NOW_S).count(Who::Anonymous, NOW_S + number * DAY_S);
        }
        usage.record("0", NOW_S).count(Who::Anonymous, NOW_S + 999 * DAY_S);
        usage.record("new", NOW_S);
        assert!(usage.known("1").is_none());
        assert!(usage.known("0").is_some() && usage.known("2").is_some() && usage.known("new").is_some());
    }

    /// The two versions as a configuration has them.
    fn report(usage: &Usage, unix_s: u64) -> UsageReport {
        let (one, two) = (Version::new("1"), Version::new("2"));
        let counted =
            |version| Counted { version, canonical: &version.name, record: usage.known(&version.name) };
        usage.report([counted(&one), counted(&two)], unix_s)
    }

    fn safe(usage: &Usage, unix_s: u64) -> Vec<bool> {
        report(usage, unix_s).versions.iter().map(|is| is.is_safe_to_retire).collect()
    }

    #[test]
    fn r11_6_below_two_percent_is_safe_to_retire() {
        let usage = Usage::default();
        usage.begin(["1", "2"].into_iter(), NOW_S - SHARE_S);
        assert_eq!(safe(&usage, NOW_S), [false, false], "nothing is known yet");
        for number in 0..200 {
            usage.record(if number < 4 { "1" } else { "2" }, NOW_S).count(Who::Anonymous, NOW_S);
        }
        let known = report(&usage, NOW_S);
        assert_eq!((known.last_7_days, known.versions[0].share_bp), (200, 200));
        assert!(!known.versions[0].is_safe_to_retire, "two percent is not below two percent");
        usage.record("2", NOW_S).count(Who::Anonymous, NOW_S);
        assert_eq!(safe(&usage, NOW_S), [true, false]);
    }

    #[test]
    fn nothing_is_safe_to_retire_before_seven_days_have_been_counted() {
        let usage = Usage::default();
        usage.begin(["1", "2"].into_iter(), NOW_S);
        let is_safe = |unix_s: u64| {
            usage.record("2", unix_s).count(Who::Anonymous, unix_s);
            safe(&usage, unix_s)
        };
        assert_eq!(is_safe(NOW_S), [false, false]);
        assert_eq!(is_safe(NOW_S + SHARE_S - 1), [false, false]);
        assert_eq!(is_safe(NOW_S + SHARE_S), [true, false]);
    }

    /// Nobody can have used it yet.
    #[test]
    fn a_version_that_is_new_or_was_away_is_not_safe_to_retire_for_seven_days_of_its_own() {
        let usage = Usage::default();
        let is_safe = |unix_s: u64| {
            usage.record("2", unix_s).count(Who::Anonymous, unix_s);
            safe(&usage, unix_s)
        };
        usage.begin(["2"].into_iter(), NOW_S);
        let later_s = NOW_S + 3 * SHARE_S;
        assert_eq!(is_safe(later_s), [false, false], "it is not there");
        usage.begin(["1", "2"].into_iter(), later_s);
        assert_eq!(is_safe(later_s + SHARE_S - 1), [false, false]);
        assert_eq!(is_safe(later_s + SHARE_S), [true, false]);
        usage.begin(["1", "2", "3"].into_iter(), later_s + SHARE_S);
        assert_eq!(is_safe(later_s + SHARE_S), [true, false], "another change of the configuration");
        usage.begin(["2"].into_iter(), later_s + SHARE_S);
        usage.begin(["1", "2"].into_iter(), later_s + SHARE_S + 1);
        assert_eq!(is_safe(later_s + SHARE_S + 1), [false, false], "what was asked meanwhile is not known");

        let starts_s = later_s + 9 * SHARE_S;
        let planned = Version::new("1").since(starts_s);
        let report = usage.report([Counted { version: &planned, canonical: "1", record: None }], NOW_S);
        assert_eq!(report.versions[0].since_s, Some(starts_s), "before that nobody can ask for it");
    }
}
