//! A choice, or why there is none, for people.

use std::{fmt, time::Duration};

use super::{
    Policy, SubsetMiss,
    endpoint::{Absence, Account},
    policy::slow_start::WHOLE,
    set::{Ask, Choice, Chooser},
};
use crate::{clock::Now, gate::Availability::Ready};

/// How many candidates are shown.
const SHOWN: usize = 8;

/// Which endpoint was chosen, and what spoke for it.
pub(super) struct Said<'a> {
    pub(super) candidates: Candidates<'a>,
    pub(super) choice: Choice,
}

/// All that there are, with what speaks for and against each.
#[derive(Clone, Copy)]
pub(super) struct Candidates<'a> {
    pub(super) chooser: &'a Chooser<'a>,
    pub(super) ask: &'a Ask<'a>,
    pub(super) now: Now,
}

impl fmt::Display for Said<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Candidates { chooser, .. } = self.candidates;
        let (members, policy) = (&chooser.snapshot.members, chooser.config.policy);
        let chosen = &members[self.choice.place].endpoint;
        let how = if self.choice.is_sticky { "the cookie" } else { policy.name() };
        let panic = if self.choice.in_panic { " in a panic" } else { "" };
        write!(f, "{how} chooses {}{panic}, {} in flight there", chosen.address(), chosen.in_flight())?;
        if members.len() < 2 || self.candidates.are_plain() {
            return Ok(());
        }
        f.write_str("; ")?;
        self.candidates.list(f, |place| {
            let mut said = self.candidates.score(place);
            said.extend(self.candidates.obstacles(place));
            said
        })
    }
}

/// What keeps each endpoint from being chosen.
pub(super) struct Refused<'a>(pub(super) Candidates<'a>);

impl fmt::Display for Refused<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let snapshot = self.0.chooser.snapshot;
        match (snapshot.members.len(), snapshot.is_filtered) {
            (0, true) => f.write_str("no endpoint has the labels that are asked for"),
            (0, false) => f.write_str("there is no endpoint"),
            _ => self.0.list(f, |place| self.0.obstacles(place)),
        }
    }
}

impl Candidates<'_> {
    /// The first of them, with what is to be said of each.
    fn list(&self, f: &mut fmt::Formatter<'_>, of: impl Fn(usize) -> Vec<String>) -> fmt::Result {
        let members = &self.chooser.snapshot.members;
        for (place, member) in members.iter().enumerate().take(SHOWN) {
            let start = if place == 0 { "of " } else { ", " };
            write!(f, "{start}{}", member.endpoint.address())?;
            match of(place).join(", ") {
                said if said.is_empty() => {}
                said => write!(f, " ({said})")?,
            }
        }
        if members.len() > SHOWN { write!(f, " and {} more", members.len() - SHOWN) } else { Ok(()) }
    }

    /// All take their turns: there is nothing to be said of each.
    fn are_plain(&self) -> bool {
        self.chooser.config.policy == Policy::RoundRobin
            && self.chooser.config.slow_start.is_none()
            && self.chooser.snapshot.members.iter().all(|member| {
                Account::is_present(member.account.status())
                    && member.gate.as_ref().is_none_or(|gate| gate.availability(self.now) == Ready)
                    && member.has_room()
            })
    }

    /// It is not asked, because nothing but the subset may be.
    fn is_of_another_subset(&self, place: usize) -> bool {
        let asked = &self.ask.subset;
        let is_strict = self.chooser.config.subset_miss == SubsetMiss::Refuse;
        is_strict && asked.is_some() && self.chooser.snapshot.members[place].subset != *asked
    }

    /// What the policy goes by.
    fn score(&self, place: usize) -> Vec<String> {
        let chooser = self.chooser;
        let (member, now_ns) = (&chooser.snapshot.members[place], chooser.state.now_ns(self.now));
        let account = &member.account;
        let load = match chooser.config.policy {
            policy if policy.is_by_latency() => {
                let us = account.estimate_us(now_ns, chooser.snapshot.half_life);
                format!(" × {:?}", Duration::from_micros(us.into()))
            }
            Policy::LeastLoad => match account.load(now_ns) {
                Some(load) => format!(" × load {load}‰"),
                None => " × load not known".into(),
            },
            _ => String::new(),
        };
        let busy = format!("{}{load}", account.in_flight());
        let weight = (member.weight != 1).then(|| format!("weight {}", member.weight));
        [busy].into_iter().chain(weight).collect()
    }

    /// What keeps it from being chosen, or from being chosen as often as others.
    fn obstacles(&self, place: usize) -> Vec<String> {
        let chooser = self.chooser;
        let (member, now_ns) = (&chooser.snapshot.members[place], chooser.state.now_ns(self.now));
        let status = member.account.status();
        let mut said = Vec::new();
        if self.is_of_another_subset(place) {
            said.push("of another subset".into());
        }
        if !Account::is_present(status) {
            said.push(member.endpoint.absences().map(Absence::word).collect::<Vec<_>>().join(" and "));
        } else if let Some(gate) = member.gate.as_ref().filter(|gate| gate.availability(self.now) != Ready) {
            said.push(gate.explain(self.now));
            if !gate.availability(self.now).is_open() && chooser.is_spared(self.ask, place) {
                said.push("spared: too many are ejected".into());
            }
        } else if !member.has_room() {
            said.push("full".into());
        }
        if let (true, Some(slow_start)) = (Account::is_joining(status), chooser.config.slow_start) {
            let share = member.account.share(now_ns, slow_start);
            if share < WHOLE {
                said.push(format!("joining at {} %", share * 100 / WHOLE));
            }
        }
        said
    }
}
