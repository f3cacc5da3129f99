//! What is known of the names behind a set of endpoints: each answer expires by itself, and is held when the next one
//! fails. Knows no name server and no clock.
//!
//! # Decision
//! 1. `dns`: every address of the name, of both families, is an endpoint. A family that has never answered keeps the
//!    other from nothing: there are name servers that fail for ever when asked for `AAAA`.
//! 2. `srv` (RFC 2782): of the services with the lowest priority that has any address, once all above it have been heard, every address is an endpoint,
//!    with the port and the weight that were said; a weight of 0 is 1. The target `.` is no service. What makes an
//!    address an endpoint twice is the first.
//! 3. A question that fails keeps its last answer, and is asked again after a pause of its own: the answer to one never
//!    makes that to another one good for longer.
//! 4. Nothing is there by *failure* if a question without any address has failed, and by *answer* otherwise.
//!
//! # Units and limits
//! [`MAX_SERVICES`] targets of a service name, those of the lowest priority first. What an answer holds is bounded by
//! the size of a message, 64 KiB. What is not asked any more is forgotten.
//!
//! # Errors and panics
//! Never panics.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use super::rules::{Rules, backoff, pause};

/// How many targets of a service name are asked for.
pub const MAX_SERVICES: usize = 256;

/// What is looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The addresses of a name, with this port.
    Host(Arc<str>, u16),
    /// The targets of a service name.
    Service(Arc<str>),
}

/// A question to a name server.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Question {
    /// The name; with a dot at its end, it is whole.
    pub name: Arc<str>,
    /// What is asked of it.
    pub kind: Kind,
}

/// What may be asked of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// IPv4 addresses.
    A,
    /// IPv6 addresses.
    Aaaa,
    /// Where a service is.
    Srv,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::A => "A",
            Self::Aaaa => "AAAA",
            Self::Srv => "SRV",
        })
    }
}

/// What a name server said, and how long that is good for. No records: there is none, it is sure of that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// What there is.
    pub records: Vec<Record>,
    /// Its time to live.
    pub ttl: Duration,
}

/// One thing a name server said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// An address.
    Address(IpAddr),
    /// A place of a service.
    Service(Service),
}

/// A place of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Lower ones come first.
    pub priority: u16,
    /// Its share among those of its priority.
    pub weight: u16,
    /// Its port.
    pub port: u16,
    /// The name of its host.
    pub target: Arc<str>,
}

/// An endpoint that was found: its address and its weight.
pub type Found = (SocketAddr, u32);

/// What all answers come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sum {
    /// The endpoints, in the order of their addresses; `None` if there are none because something failed.
    pub found: Option<Vec<Found>>,
    /// What failed and held its last answer, or has none.
    pub trouble: Option<String>,
}

/// What is known of the names behind one set of endpoints.
#[derive(Debug)]
pub struct Names {
    wanted: Wanted,
    known: BTreeMap<Question, Entry>,
}

#[derive(Debug)]
struct Entry {
    /// The last good answer.
    records: Option<Vec<Record>>,
    due: Duration,
    failures: u32,
    trouble: Option<String>,
}

impl Names {
    /// Nothing is known yet.
    pub const fn new(wanted: Wanted) -> Self {
        Self { wanted, known: BTreeMap::new() }
    }

    /// The questions that have to be asked now; or all of them. After their answers there may be others.
    pub fn due(&self, now: Duration, all: bool) -> Vec<Question> {
        let is_due =
            |question: &Question| all || self.known.get(question).is_none_or(|entry| entry.due <= now);
        self.questions().into_iter().filter(is_due).collect()
    }

    /// When the next one has to be asked.
    pub fn next(&self) -> Duration {
        let due = |question| self.known.get(question).map_or(Duration::ZERO, |entry| entry.due);
        self.questions().iter().map(due).min().unwrap_or(Duration::ZERO)
    }

    /// Hears what became of a question that was asked.
    pub fn hear(
        &mut self,
        question: Question,
        said: Result<Answer, String>,
        (rules, now, random): (&Rules, Duration, u64),
    ) {
        let entry = self.known.entry(question).or_insert(Entry {
            records: None,
            due: now,
            failures: 0,
            trouble: None,
        });
        match said {
            Ok(answer) => {
                let due = now + pause(rules, answer.ttl, random);
                *entry = Entry { records: Some(answer.records), due, failures: 0, trouble: None };
            }
            Err(trouble) => {
                entry.failures = entry.failures.saturating_add(1);
                entry.due = now + backoff(rules, entry.failures, random);
                entry.trouble = Some(trouble);
            }
        }
        let asked = self.questions().into_iter().collect::<BTreeSet<_>>();
        self.known.retain(|question, _| asked.contains(question));
    }

    /// What all answers come to.
    pub fn sum(&self) -> Sum {
        let mut sum = match &self.wanted {
            Wanted::Host(host, port) => self.hosts(&[(Arc::clone(host), *port, 1)]),
            Wanted::Service(name) => self.services(name),
        };
        if let Some(found) = &mut sum.found {
            found.sort_by_key(|(address, _)| *address); // Stable: of one address the first stays.
            found.dedup_by_key(|(address, _)| *address);
        }
        sum
    }

    /// Of the lowest priority that has an address.
    fn services(&self, name: &Arc<str>) -> Sum {
        let question = Question { name: Arc::clone(name), kind: Kind::Srv };
        let Some(entry) = self.known.get(&question) else { return Sum::failed(None) };
        if entry.records.is_none() {
            return Sum::failed(entry.trouble.clone());
        }
        let (mut trouble, mut has_failed) = (entry.trouble.clone(), false);
        let services = self.places(name);
        for tier in services.chunk_by(|one, other| one.priority == other.priority) {
            let place = |it: &Service| (Arc::clone(&it.target), it.port, u32::from(it.weight).max(1));
            let sum = self.hosts(&tier.iter().map(place).collect::<Vec<_>>());
            trouble = trouble.or(sum.trouble);
            has_failed |= sum.found.is_none();
            if let Some(found) = sum.found.filter(|found| !found.is_empty()) {
                return Sum { found: Some(found), trouble };
            }
            if tier.iter().any(|service| self.is_unheard(&service.target)) {
                return Sum::failed(trouble); // The next ones are not for who has not been heard yet.
            }
        }
        Sum { found: (!has_failed).then(Vec::new), trouble }
    }

    /// Nobody has said yet whether a host has addresses.
    fn is_unheard(&self, host: &Arc<str>) -> bool {
        [Kind::A, Kind::Aaaa]
            .iter()
            .any(|kind| !self.known.contains_key(&Question { name: Arc::clone(host), kind: *kind }))
    }

    /// All addresses of all these.
    fn hosts(&self, all: &[(Arc<str>, u16, u32)]) -> Sum {
        let (mut found, mut trouble, mut failed) = (Vec::new(), None, false);
        for (host, port, weight) in all {
            let entries =
                [Kind::A, Kind::Aaaa].map(|kind| self.known.get(&Question { name: Arc::clone(host), kind }));
            let addresses = entries.iter().flatten().flat_map(|entry| entry.addresses()).collect::<Vec<_>>();
            for entry in entries.iter().flatten().filter(|entry| entry.trouble.is_some()) {
                // A family that never had an address lacks nothing where the other one has some.
                if addresses.is_empty() || entry.addresses().next().is_some() {
                    trouble = trouble.or_else(|| entry.trouble.clone());
                }
                failed |= addresses.is_empty();
            }
            failed |= entries.iter().all(Option::is_none);
            found.extend(addresses.into_iter().map(|ip| (SocketAddr::new(ip, *port), *weight)));
        }
        Sum { found: (!found.is_empty() || !failed).then_some(found), trouble }
    }

    /// The places of a service that are asked for, by priority.
    fn places(&self, name: &Arc<str>) -> Vec<Service> {
        let question = Question { name: Arc::clone(name), kind: Kind::Srv };
        let records = self.known.get(&question).and_then(|entry| entry.records.as_ref());
        let services = records.into_iter().flatten().filter_map(|record| match record {
            Record::Service(service) if &*service.target != "." => Some(service.clone()),
            _ => None,
        });
        let mut services = services.collect::<Vec<_>>();
        services.sort_by_key(|it| (it.priority, std::cmp::Reverse(it.weight)));
        services.truncate(MAX_SERVICES);
        services
    }

    fn questions(&self) -> Vec<Question> {
        let addresses =
            |name: &Arc<str>| [Kind::A, Kind::Aaaa].map(|kind| Question { name: Arc::clone(name), kind });
        match &self.wanted {
            Wanted::Host(host, _) => addresses(host).into(),
            Wanted::Service(name) => {
                let targets = self.places(name).into_iter().map(|it| it.target).collect::<BTreeSet<_>>();
                let first = Question { name: Arc::clone(name), kind: Kind::Srv };
                std::iter::once(first).chain(targets.iter().flat_map(addresses)).collect()
            }
        }
    }
}

impl Entry {
    fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.records.iter().flatten().filter_map(|record| match record {
            Record::Address(ip) => Some(*ip),
            Record::Service(_) => None,
        })
    }
}

impl Sum {
    const fn failed(trouble: Option<String>) -> Self {
        Self { found: None, trouble }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Rules = Rules {
        floor: Duration::from_secs(1),
        ceiling: Duration::from_mins(5),
        max_shrink: 50,
        confirm: 3,
        takes_empty: false,
    };

    fn ask(name: &str, kind: Kind) -> Question {
        Question { name: name.into(), kind }
    }

    fn addresses(all: &[&str], ttl_s: u64) -> Answer {
        let records = all.iter().map(|ip| Record::Address(ip.parse().unwrap())).collect();
        Answer { records, ttl: Duration::from_secs(ttl_s) }
    }

    fn services(all: &[(u16, u16, u16, &str)]) -> Answer {
        let one = |(priority, weight, port, target): &(u16, u16, u16, &str)| {
            Record::Service(Service {
                priority: *priority,
                weight: *weight,
                port: *port,
                target: (*target).into(),
            })
        };
        Answer { records: all.iter().map(one).collect(), ttl: Duration::from_mins(1) }
    }

    /// Hears it at this second.
    fn hear(names: &mut Names, at_s: u64, question: Question, said: Answer) {
        names.hear(question, Ok(said), (&RULES, Duration::from_secs(at_s), 0));
    }

    /// Hears that it failed, at this second.
    fn fail(names: &mut Names, at_s: u64, question: Question, why: &str) {
        names.hear(question, Err(why.into()), (&RULES, Duration::from_secs(at_s), 0));
    }

    fn found(names: &Names) -> Vec<(String, u32)> {
        let found = names.sum().found.unwrap();
        found.into_iter().map(|(address, weight)| (address.to_string(), weight)).collect()
    }

    fn one(address: &str) -> (String, u32) {
        (address.to_owned(), 1)
    }

    fn host() -> Names {
        Names::new(Wanted::Host("app".into(), 80))
    }

    #[test]
    fn r1_6_each_answer_expires_by_itself_and_asking_for_one_makes_no_other_good_for_longer() {
        let mut names = host();
        let [a, aaaa] = [ask("app", Kind::A), ask("app", Kind::Aaaa)];
        assert_eq!(names.due(Duration::ZERO, false), [a.clone(), aaaa.clone()]);
        hear(&mut names, 0, a.clone(), addresses(&["10.0.0.1"], 10));
        hear(&mut names, 0, aaaa.clone(), addresses(&["fd00::1"], 100));
        assert_eq!(names.due(Duration::from_secs(9), false), []);
        assert_eq!(names.next(), Duration::from_secs(10));
        for at in [10, 20, 30, 90] {
            assert_eq!(names.due(Duration::from_secs(at), false), std::slice::from_ref(&a));
            hear(&mut names, at, a.clone(), addresses(&["10.0.0.1"], 10));
        }
        assert_eq!(names.due(Duration::from_secs(100), false), [a, aaaa]);
        assert_eq!(found(&names), [one("10.0.0.1:80"), one("[fd00::1]:80")]);
    }

    #[test]
    fn a_family_that_fails_keeps_its_last_answer_and_one_that_never_answered_lacks_nothing() {
        let mut names = host();
        hear(&mut names, 0, ask("app", Kind::A), addresses(&["10.0.0.2", "10.0.0.1"], 10));
        fail(&mut names, 0, ask("app", Kind::Aaaa), "SERVFAIL");
        assert_eq!(found(&names), [one("10.0.0.1:80"), one("10.0.0.2:80")]);
        assert_eq!(names.sum().trouble, None, "it never had one");
        hear(&mut names, 1, ask("app", Kind::Aaaa), addresses(&["fd00::1"], 10));
        fail(&mut names, 2, ask("app", Kind::Aaaa), "SERVFAIL");
        hear(&mut names, 2, ask("app", Kind::A), addresses(&["10.0.0.1"], 10));
        assert_eq!(found(&names), [one("10.0.0.1:80"), one("[fd00::1]:80")]);
        assert_eq!(names.sum().trouble.as_deref(), Some("SERVFAIL"));
    }

    #[test]
    fn nothing_by_failure_is_something_else_than_nothing_by_answer() {
        let mut names = host();
        assert_eq!(names.sum(), Sum { found: None, trouble: None });
        hear(&mut names, 0, ask("app", Kind::A), addresses(&[], 10));
        fail(&mut names, 0, ask("app", Kind::Aaaa), "SERVFAIL");
        assert_eq!(names.sum(), Sum { found: None, trouble: Some("SERVFAIL".into()) });
        hear(&mut names, 1, ask("app", Kind::Aaaa), addresses(&[], 10));
        assert_eq!(names.sum(), Sum { found: Some(Vec::new()), trouble: None });
    }

    #[test]
    fn failures_of_one_question_back_off_without_the_other() {
        let mut names = host();
        hear(&mut names, 0, ask("app", Kind::A), addresses(&["10.0.0.1"], 1));
        for at in 0..20 {
            fail(&mut names, at, ask("app", Kind::Aaaa), "no");
        }
        hear(&mut names, 20, ask("app", Kind::A), addresses(&["10.0.0.1"], 1));
        assert_eq!(names.due(Duration::from_secs(21), false), [ask("app", Kind::A)]);
        assert_eq!(names.due(Duration::from_secs(21), true).len(), 2, "all, if that is asked for");
        assert_eq!(names.due(Duration::from_secs(19 + 15), false).len(), 2);
    }

    fn service() -> Names {
        Names::new(Wanted::Service("_http._tcp.app".into()))
    }

    #[test]
    fn of_services_the_lowest_priority_that_is_there_with_its_weights() {
        let (mut names, srv) = (service(), ask("_http._tcp.app", Kind::Srv));
        assert_eq!(names.due(Duration::ZERO, false), std::slice::from_ref(&srv));
        let all = [(10, 0, 8080, "b"), (10, 5, 8081, "a"), (20, 1, 80, "spare"), (30, 1, 80, ".")];
        hear(&mut names, 0, srv.clone(), services(&all));
        let due = names.due(Duration::ZERO, false);
        assert_eq!(due.len(), 6, "two families of three targets: {due:?}");
        hear(&mut names, 0, ask("spare", Kind::A), addresses(&["10.0.9.9"], 10));
        assert_eq!(names.sum(), Sum { found: None, trouble: None }, "the first ones may be there");
        for question in due {
            let said = match (&*question.name, question.kind) {
                ("a", Kind::A) => addresses(&["10.0.0.1", "10.0.0.2"], 10),
                ("b", Kind::A) => addresses(&["10.0.0.3"], 10),
                ("spare", Kind::A) => addresses(&["10.0.9.9"], 10),
                _ => addresses(&[], 10),
            };
            hear(&mut names, 0, question, said);
        }
        let weighed = |address: &str, weight| (address.to_owned(), weight);
        let all = [weighed("10.0.0.1:8081", 5), weighed("10.0.0.2:8081", 5), weighed("10.0.0.3:8080", 1)];
        assert_eq!(found(&names), all);
        // Nobody of the best is there any more.
        for name in ["a", "b"] {
            hear(&mut names, 10, ask(name, Kind::A), addresses(&[], 10));
        }
        assert_eq!(found(&names), [one("10.0.9.9:80")]);
        // What is not a target any more is neither asked nor remembered.
        hear(&mut names, 60, srv, services(&[(10, 1, 8080, "b")]));
        assert_eq!(names.due(Duration::from_mins(1), true).len(), 3);
        assert_eq!(names.known.len(), 3);
    }

    #[test]
    fn a_service_whose_targets_cannot_be_asked_is_a_failure_and_one_without_targets_is_not_there() {
        let (mut names, srv) = (service(), ask("_http._tcp.app", Kind::Srv));
        fail(&mut names, 0, srv.clone(), "timeout");
        assert_eq!(names.sum(), Sum { found: None, trouble: Some("timeout".into()) });
        hear(&mut names, 1, srv.clone(), services(&[(10, 1, 8080, "b")]));
        fail(&mut names, 1, ask("b", Kind::A), "SERVFAIL");
        hear(&mut names, 1, ask("b", Kind::Aaaa), addresses(&[], 10));
        assert_eq!(names.sum(), Sum { found: None, trouble: Some("SERVFAIL".into()) });
        hear(&mut names, 2, srv, services(&[(0, 0, 0, ".")]));
        assert_eq!(names.sum(), Sum { found: Some(Vec::new()), trouble: None });
    }

    #[test]
    fn the_targets_of_a_service_are_bounded() {
        let mut names = service();
        let targets = (0..2000).map(|number| format!("t{number}")).collect::<Vec<_>>();
        let all = targets.iter().map(|target| (1, 1, 80, &**target)).collect::<Vec<_>>();
        hear(&mut names, 0, ask("_http._tcp.app", Kind::Srv), services(&all));
        assert_eq!(names.due(Duration::ZERO, false).len(), 1 + 2 * MAX_SERVICES - 1);
    }
}
