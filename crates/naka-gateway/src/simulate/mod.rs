//! `naka simulate`: a whole gateway under a load that is thought of, in virtual time.
//!
//! It is the gateway of `naka run`, connections, routes, layers, balancers and health checks included; only that clients and servers
//! are ours (`clients`, `servers`) and talk to it over pipes, that names of endpoints are resolved here, and that the clock
//! goes on whenever nobody has anything to do. So an hour takes as long as its requests are work, and no more.
//!
//! All that happens by chance follows from the scenario's seed, and there is one thread: the same scenario is the same run.
//!
//! # What differs from the world
//! The gateway and the network take no time. The time of day, by which tokens expire, is that of this machine. There is one worker.
//! Whom the configuration asks besides its upstreams (`forward_auth`, `jwks`) is a server as if nothing were said of it.
//!
//! # Limits
//! Two million requests, a hundred thousand of one load at once, and a day of virtual time, checked before anything is done; what is
//! noted of each is some [60 bytes](account), and what one takes while it is under way some 30 KiB. [`events::MOST`] lines of what happened are kept.

pub mod account;
pub mod chance;
pub mod chart;
mod clients;
pub mod events;
mod report;
mod servers;

use std::{collections::BTreeSet, path::Path, sync::Arc, time::Duration};

use naka::random::Seeded;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tracing::info;

use crate::{
    acme::Orders,
    address::Address,
    config::{
        Code, Diagnostic, Diagnostics,
        checked::{
            Config, Protocols,
            scenario::{Load, Named, Scenario},
        },
        read_scenario,
    },
    custom::Kinds,
    generation::{Generation, InForce},
    observe::Metrics,
    prepare::{Before, Outside, Prepared, Refusal, RunTests, prepare},
    reload::counts,
    shared::Shared,
    state::State,
    upstream::Connector,
};
use account::Account;
use clients::Clients;
use events::Events;
pub use report::Simulated;
use servers::World;

/// Acts out the scenario in this file.
///
/// # Errors
/// If the scenario, or a configuration that it names, is wrong.
///
/// # Panics
/// On a thread with a runtime.
pub fn simulate(file: &Path, kinds: &Kinds) -> Result<Simulated, Refusal> {
    let scenario = read_scenario(file).map_err(Refusal::Config)?;
    let _seeded = Seeded::by(scenario.seed);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    let runtime = runtime.expect("a runtime without threads needs a few descriptors");
    let simulated = runtime.block_on(async {
        let configs = configs(&scenario, kinds)?;
        let mut wrong = Vec::new();
        let doors =
            scenario.loads.iter().filter_map(|load| door(load, &configs[0], &mut wrong)).collect::<Vec<_>>();
        let world = World::new(&scenario, &configs, &mut wrong);
        if !wrong.is_empty() {
            return Err(Refusal::Config(Diagnostics::new(wrong)));
        }
        Stage { scenario: &scenario, kinds, world, doors }.act().await
    });
    runtime.shutdown_background();
    simulated
}

/// Every configuration of the scenario, as it is by itself: what is wrong is found before anything happens.
fn configs(scenario: &Scenario, kinds: &Kinds) -> Result<Vec<Arc<Config>>, Refusal> {
    let files =
        std::iter::once(&scenario.gateway).chain(scenario.changes.iter().map(|change| &change.gateway));
    let config = |entry: &std::path::PathBuf| {
        let before = Before {
            entry,
            sources: None,
            state: &|_| State::new(1),
            number: 1,
            tests: RunTests::AsConfigured,
            kinds,
        };
        prepare(&before, &Arc::new(Metrics::new()), &Outside::default())
            .map(|prepared| prepared.generation.config)
    };
    files.map(config).collect()
}

/// Where a load comes in, and what is spoken there.
#[derive(Clone, Debug)]
struct Door {
    name: Address,
    protocols: Protocols,
}

fn door(load: &Load, config: &Config, wrong: &mut Vec<Diagnostic>) -> Option<Door> {
    let names = || listed(config.listeners.keys().map(|name| &**name));
    let found = match &load.listener {
        Some(named) => config.listeners.get(&named.name).ok_or_else(|| unknown("listener", named, &names())),
        None => only(config.listeners.values()).ok_or_else(|| {
            let message = format!("the load `{}` says no listener, and there are several", load.named.name);
            let mut it = Diagnostic::error(Code::Missing, load.named.place.clone(), message);
            it.help(format!("write `listener:` with one of {}", names()));
            it
        }),
    };
    let found = found.map_err(|it| wrong.push(it)).ok()?;
    Some(Door { name: found.listen.clone(), protocols: found.protocols })
}

fn only<T>(mut all: impl Iterator<Item = T>) -> Option<T> {
    all.next().filter(|_| all.next().is_none())
}

/// A name that the configuration has not.
fn unknown(sort: &str, named: &Named, there_are: &str) -> Diagnostic {
    let message = format!("the configuration has no {sort} `{}`", named.name);
    let mut it = Diagnostic::error(Code::UnknownName, named.place.clone(), message);
    it.help(format!("there is {there_are}"));
    it
}

/// Everything that takes part.
struct Stage<'a> {
    scenario: &'a Scenario,
    kinds: &'a Kinds,
    world: Arc<World>,
    doors: Vec<Door>,
}

impl Stage<'_> {
    async fn act(self) -> Result<Simulated, Refusal> {
        let Self { scenario, kinds, world, doors } = self;
        let (began, metrics) = (Instant::now(), Arc::new(Metrics::new()));
        let account = Account::new(began);
        world.begin(&account);
        let outside = Outside {
            connector: Connector::Memory(world.connect()),
            resolver: Some(world.resolver()),
            in_memory: true,
            orders: Orders::Never, // Nothing of the machine is touched.
            ..Outside::default()
        };
        let events = Events::new(began);
        let _listening = events.listen();
        let prepared = |entry: &Path, number, state: State| -> Result<Prepared, Refusal> {
            let (state, tests) = (&|_: &Config| state.clone(), RunTests::AsConfigured);
            prepare(&Before { entry, sources: None, state, number, tests, kinds }, &metrics, &outside)
        };
        let first = prepared(&scenario.gateway, 1, State::new(1))?.generation;
        first.start();
        let found = first.state.clone();
        let in_force = InForce::new(first);
        let shared = Shared::new(Arc::clone(&in_force), Arc::clone(&metrics), 1);
        found.found().await;
        let mut asking = JoinSet::new();
        for (number, (load, door)) in scenario.loads.iter().zip(&doors).enumerate() {
            let clients = Clients::new(&shared, door.clone(), load, number, scenario.seed);
            asking.spawn(clients.come(began, Arc::clone(&account)));
        }
        for (number, change) in scenario.changes.iter().enumerate() {
            sleep_until(began + change.at).await;
            let current = in_force.get();
            let next = prepared(&change.gateway, current.number + 1, current.state.clone())?.generation;
            put_in_force(&in_force, next, number, &change.gateway);
        }
        sleep_until(began + scenario.duration).await;
        while asking.join_next().await.is_some() {} // Each ends by the patience of its load.
        Ok(Simulated::new(scenario, &account, &world.servers(), events.take(), metrics.outcomes()))
    }
}

fn put_in_force(in_force: &Arc<InForce>, next: Generation, number: usize, file: &Path) {
    next.start();
    let (generation, report) = (next.number, counts(&next.report));
    in_force.swap(next);
    info!(generation, file = %file.display(), "change {} has taken effect; {report}", number + 1);
}

/// Names, as a sentence has them.
fn listed<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names = names.collect::<BTreeSet<_>>();
    names.into_iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// In the time of a scenario: never before it began.
fn since(began: Instant) -> Duration {
    Instant::now().saturating_duration_since(began)
}
