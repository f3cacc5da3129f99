//! Crashes, rehearsed: customers, four services that crash wherever they write, a network that loses questions and answers; and
//! afterwards the books are audited.
//!
//! # How
//! The order, payment, inventory and bank services run in one thread, with their real code and files, under a clock that is turned
//! by hand whenever all of them wait; so minutes pass at once, and a seed decides everything. The count of commits at which the
//! next crash comes runs through all services: whoever commits then dies, before the commit or just after it, and comes back after a
//! while on the same file. Users and the catalogue, which keep nothing that matters here, are answers that are always the same.
//!
//! # What must hold
//! See [`audit`].
//!
//! # Rooms
//! [`stage`] is the services and their lives, [`script`] what customers do, [`audit`] what must hold afterwards; here is the
//! command.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::Args;
use naka::random::{GAMMA, Seeded, mix};
use serde::Serialize;
use serde_json::json;
use tokio::runtime::Builder;

use self::audit::Wrong;
use crate::kernel::console::{hush, say};

pub mod audit;
pub mod script;
pub mod stage;

/// How often `bazaar crash` says how far it has come.
const TELLING: u32 = 100;

/// What `bazaar crash` is told.
#[derive(Args, Clone, Debug)]
pub struct CrashArgs {
    /// How many rehearsals.
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub times: u32,
    /// The number from which everything follows: the same number, the same crashes.
    #[arg(long, value_name = "SEED", default_value_t = 1)]
    pub seed: u64,
    /// Writes what came of it there, as JSON.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// Numbers that follow from a seed.
#[derive(Clone, Debug)]
pub struct Chance(u64);

impl Chance {
    /// From that seed.
    pub const fn of(seed: u64) -> Self {
        Self(mix(seed.wrapping_add(GAMMA)))
    }

    /// A number below that, which is not 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(GAMMA);
        mix(self.0) % limit.max(1)
    }

    /// Whether something happens that does so that often in a hundred.
    pub fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// One of these.
    ///
    /// # Panics
    /// If there is none.
    pub fn of_these<'a, T>(&mut self, these: &'a [T]) -> &'a T {
        let number = self.below(these.len() as u64);
        &these[usize::try_from(number).unwrap_or(0)]
    }

    /// Another chance that follows from this one.
    #[must_use]
    pub fn branch(&mut self) -> Self {
        Self::of(self.below(u64::MAX))
    }
}

/// What came of rehearsals.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Told {
    /// How many there were.
    pub rehearsals: u32,
    /// How many crashes.
    pub crashes: u64,
    /// How many orders were accepted.
    pub orders: u64,
    /// How many of them were sent.
    pub sent: u64,
    /// How many were called off, refused or came back.
    pub undone: u64,
    /// How many payments were charged at the bank.
    pub charges: u64,
    /// How many of those were given back.
    pub refunds: u64,
    /// How many orders had a snapshot.
    pub snapshots: u64,
}

impl Told {
    fn add(&mut self, other: &Self) {
        self.rehearsals += other.rehearsals;
        self.crashes += other.crashes;
        self.orders += other.orders;
        self.sent += other.sent;
        self.undone += other.undone;
        self.charges += other.charges;
        self.refunds += other.refunds;
        self.snapshots += other.snapshots;
    }
}

/// A rehearsal by that seed.
///
/// # Errors
/// What did not hold.
pub fn rehearse(seed: u64) -> Result<Told, Wrong> {
    let runtime = Builder::new_current_thread().enable_all().start_paused(true).build();
    let runtime = runtime.map_err(|error| Wrong::from(error.to_string()))?;
    let _foreseen = Seeded::by(seed);
    runtime.block_on(async {
        let mut chance = Chance::of(seed);
        let mut stage = stage::Stage::new(&mut chance).await?;
        let never = |why| Wrong { row: "R4.2", why };
        let accepted = script::play(&mut stage, &mut chance).await.map_err(never)?;
        audit::audit(&stage, &accepted)
    })
}

/// Rehearses as often as is said, and says what came of it.
pub fn run(args: &CrashArgs) -> ExitCode {
    hush(); // Services that nobody answers complain, and here that is their trade.
    let mut told = Told::default();
    for number in 0..args.times {
        let seed = args.seed.wrapping_add(number.into());
        match rehearse(seed) {
            Ok(more) => told.add(&more),
            Err(Wrong { row, why }) => {
                let why = format!("with the seed {seed}: {why}");
                say(format_args!("bazaar crash: {why}\nonce more: bazaar crash --times 1 --seed {seed}"));
                write(args, &told, Some(&Wrong { row, why }));
                return ExitCode::FAILURE;
            }
        }
        if told.rehearsals.is_multiple_of(TELLING) {
            let Told { rehearsals, crashes, orders, .. } = told;
            say(format_args!(
                "{rehearsals} rehearsals, {crashes} crashes, {orders} orders: the books are right"
            ));
        }
    }
    let Told { rehearsals, crashes, orders, sent, undone, charges, refunds, .. } = told;
    say(format_args!(
        "{rehearsals} rehearsals with {crashes} crashes: of {orders} orders {sent} were sent and {undone} undone, {charges} \
         charges were made and {refunds} of them given back, and the books are right."
    ));
    if write(args, &told, None) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The report for programs, in the form of those of `bazaar shop`; whether it could be written.
fn write(args: &CrashArgs, told: &Told, wrong: Option<&Wrong>) -> bool {
    let Some(file) = &args.json else { return true };
    let Told { rehearsals, crashes, orders, sent, undone, charges, refunds, snapshots } = told;
    let lines = audit::ROWS.map(|(row, check)| {
        let is_it = |wrong: &&Wrong| wrong.row == row || wrong.row.is_empty();
        let wrong = wrong.filter(is_it).map(|wrong| wrong.why.clone());
        let what = match row {
            "R4.4" => format!("{charges} charges, {refunds} of them given back"),
            "R5.3" => format!("{orders} orders, {snapshots} of them with a snapshot"),
            "R6.2" => format!("{orders} orders, {sent} of them sent and {undone} undone"),
            _ => format!("{orders} orders"),
        };
        let passed = wrong.is_none();
        let detail = wrong.unwrap_or_else(|| format!("{what}; {rehearsals} rehearsals, {crashes} crashes"));
        json!({"row": row, "check": check, "passed": passed, "detail": detail})
    });
    let written = std::fs::write(file, json!(lines).to_string());
    written
        .inspect_err(|error| say(format_args!("bazaar crash: the report cannot be written: {error}")))
        .is_ok()
}

/// How long a rehearsal may take, by its own clock.
const LONGEST: Duration = Duration::from_hours(24);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r4_4_whoever_crashes_at_whichever_commit_the_books_are_right() {
        let mut told = Told::default();
        for seed in 1..=200 {
            told.add(&rehearse(seed).unwrap_or_else(|wrong| panic!("with the seed {seed}: {wrong:?}")));
        }
        let Told { crashes, sent, undone, charges, refunds, snapshots, .. } = told;
        assert!(crashes > 200 && sent > 50 && undone > 50 && charges > 100 && refunds > 20, "{told:?}");
        assert!(snapshots > 5, "{told:?}");
    }

    #[test]
    fn a_seed_decides_everything() {
        assert_eq!(rehearse(7), rehearse(7));
    }
}
