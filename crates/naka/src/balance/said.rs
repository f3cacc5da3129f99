//! A choice, for people.

use std::{fmt, time::Duration};

use super::{
    Policy,
    endpoint::{Absence, Account},
    policy::slow_start::WHOLE,
    set::{Ask, Choice, Chooser},
};
use crate::{clock::Now, gate::Availability::Ready};

/// How many candidates are shown.
const SHOWN: usize = 8;

/// Which endpoint was chosen, and what spoke for it.
pub(super) struct Said<'a> {
    pub(super) chooser: &'a Chooser<'a>,
    pub(super) ask: &'a Ask<'a>,
    pub(super) choice: Choice,
    pub(super) now: Now,
}

impl fmt::Display for Said<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (members, policy) = (&self.chooser.snapshot.members, self.chooser.config.policy);
        let chosen = &members[self.choice.place].endpoint;
        let how = if self.choice.is_sticky { "the cookie" } else { policy.name() };
        let panic = if self.choice.in_panic { " in a panic" } else { "" };
        write!(f, "{how} chooses {}{panic}, {} in flight there", chosen.address(), chosen.in_flight())?;
        if members.len() < 2 || self.is_plain() {
            return Ok(());
        }
        for (place, member) in members.iter().enumerate().take(SHOWN) {
            write!(f, "{}{} (", if place == 0 { "; of " } else { ", " }, member.endpoint.address())?;
            self.score(f, place)?;
            f.write_str(")")?;
        }
        if members.len() > SHOWN { write!(f, " and {} more", members.len() - SHOWN) } else { Ok(()) }
    }
}

impl Said<'_> {
    /// All take their turns: there is nothing to be said of each.
    fn is_plain(&self) -> bool {
        self.chooser.config.policy == Policy::RoundRobin
            && self.chooser.config.slow_start.is_none()
            && self.chooser.snapshot.members.iter().all(|member| {
                Account::is_present(member.account.status())
                    && member.gate.as_ref().is_none_or(|gate| gate.availability(self.now) == Ready)
                    && member.has_room()
            })
    }

    /// What the policy goes by, and what keeps it from it.
    fn score(&self, f: &mut fmt::Formatter<'_>, place: usize) -> fmt::Result {
        let chooser = self.chooser;
        let (member, now_ns) = (&chooser.snapshot.members[place], chooser.state.now_ns(self.now));
        let (account, status) = (&member.account, member.account.status());
        write!(f, "{}", account.in_flight())?;
        match chooser.config.policy {
            policy if policy.is_by_latency() => {
                let us = account.estimate_us(now_ns, chooser.snapshot.half_life);
                write!(f, " × {:?}", Duration::from_micros(us.into()))?;
            }
            Policy::LeastLoad => match account.load(now_ns) {
                Some(load) => write!(f, " × load {load}‰")?,
                None => f.write_str(" × load not known")?,
            },
            _ => {}
        }
        if member.weight != 1 {
            write!(f, ", weight {}", member.weight)?;
        }
        if !Account::is_present(status) {
            let absences = member.endpoint.absences().map(Absence::word).collect::<Vec<_>>();
            write!(f, ", {}", absences.join(" and "))?;
        } else if let Some(gate) = member.gate.as_ref().filter(|gate| gate.availability(self.now) != Ready) {
            write!(f, ", {}", gate.explain(self.now))?;
            if !gate.availability(self.now).is_open() && chooser.is_spared(self.ask, place) {
                f.write_str(", spared: too many are ejected")?;
            }
        } else if !member.has_room() {
            f.write_str(", full")?;
        }
        if let (true, Some(slow_start)) = (Account::is_joining(status), chooser.config.slow_start) {
            let share = account.share(now_ns, slow_start);
            if share < WHOLE {
                write!(f, ", joining at {} %", share * 100 / WHOLE)?;
            }
        }
        Ok(())
    }
}
