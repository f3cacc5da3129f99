//! How many endpoints of an upstream can be used, and why the others cannot.

use std::fmt;

use naka::{balance::Absence, clock::Now};

use crate::{config::checked::Name, generation::Generation, observe::Balancer};

/// Endpoints that are named in a reason.
const NAMED: usize = 5;

/// Of the endpoints of one upstream. Those that are taken out on purpose are no one's alarm, and not among `all`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usable {
    /// Requests may go to these.
    pub usable: usize,
    /// Of these.
    pub all: usize,
    /// Taken out on purpose: draining, or in maintenance.
    pub on_purpose: usize,
    /// Some of those that are missing, each with its reason.
    pub missing: Vec<String>,
}

impl Usable {
    /// Of an upstream, as it is now: nothing is asked for it.
    pub fn of(generation: &Generation, upstream: &Name, now: Now) -> Self {
        let discovery = generation.state.discoveries.get(upstream);
        // What stands in the place of endpoints that nobody has found yet is none.
        if discovery.is_some_and(|discovery| discovery.status(now).endpoints == 0) {
            return Self { missing: vec!["none has been found".to_owned()], ..Self::default() };
        }
        let mut it = Self::default();
        for endpoint in generation.state.balancers.get(upstream).map(Balancer::endpoints).unwrap_or_default()
        {
            let absences = endpoint.absences().collect::<Vec<_>>();
            let is_on_purpose =
                |absence: &Absence| matches!(absence, Absence::Draining | Absence::Maintenance);
            if absences.iter().any(is_on_purpose) {
                it.on_purpose += 1;
                continue;
            }
            it.all += 1;
            let is_open = endpoint.gate().is_none_or(|gate| gate.availability(now).is_open());
            if absences.is_empty() && is_open {
                it.usable += 1;
            } else if it.missing.len() < NAMED {
                let why = absences.first().map_or("circuit breaker open", |absence| absence.word());
                it.missing.push(format!("{} {why}", endpoint.address()));
            }
        }
        it
    }

    /// How many are missing.
    pub const fn down(&self) -> usize {
        self.all.saturating_sub(self.usable)
    }
}

/// `1 of 3 endpoints can be used (10.0.0.1:80 unhealthy, and 1 more)`.
impl fmt::Display for Usable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { usable, all, on_purpose, missing } = self;
        write!(f, "{usable} of {all} endpoints can be used")?;
        let more = self.down().saturating_sub(missing.len());
        let more = (more > 0).then(|| format!("and {more} more"));
        let taken = (*on_purpose > 0).then(|| format!("{on_purpose} taken out on purpose"));
        let why = missing.iter().cloned().chain(more).chain(taken).collect::<Vec<_>>();
        if why.is_empty() { Ok(()) } else { write!(f, " ({})", why.join(", ")) }
    }
}
