//! From files to a generation that may be put in force: read, check each, check together, assemble,
//! run the file's own tests. `check`, the cold start and every reload come through here.

use std::{collections::BTreeMap, fmt, io::ErrorKind, path::Path, sync::Arc};

use naka::clock::Now;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    acme::Orders,
    address::Address,
    assemble::{Surroundings, Unroutable, Wrong, assemble, unroutable},
    config::{
        self, Code, Diagnostic, Diagnostics, Held, Loaded, Severity, Sources, Watched,
        checked::{Config, Expect, Name, Route, Test},
    },
    custom::Kinds,
    discover::{EurekaRegistries, Reach, Resolve},
    explain::{Explanation, Verdict, explain, forwarded_path},
    generation::Generation,
    observe::Metrics,
    route::RouteError,
    state::State,
    upstream::Connector,
};

/// A generation that may be put in force.
#[derive(Debug)]
pub struct Prepared {
    /// It.
    pub generation: Generation,
    /// What it was read from.
    pub sources: Sources,
    /// Included files that are wrong and were held at their last accepted version.
    pub held: Vec<Held>,
    /// What is allowed but hardly meant.
    pub warnings: Diagnostics,
}

/// Why there is none.
#[derive(Debug)]
pub enum Refusal {
    /// The files are wrong.
    Config(Diagnostics),
    /// The file's own tests do not hold.
    Tests(Vec<FailedTest>),
    /// A listener cannot be bound.
    Bind(Address, std::io::Error),
    /// A bug of ours: preparing it panicked.
    Panic,
}

/// A test of the file's own that does not hold.
#[derive(Debug)]
pub struct FailedTest {
    /// The test.
    pub test: Test,
    /// What was expected and what came of it, one line each.
    pub differences: Vec<String>,
    /// All of what came of it.
    pub explanation: Explanation,
}

/// Where a generation comes from, and what it goes on from.
pub struct Before<'a> {
    /// The entry file.
    pub entry: &'a Path,
    /// The last accepted version of each file.
    pub sources: Option<&'a Sources>,
    /// The state to go on from.
    pub state: &'a dyn Fn(&Config) -> State,
    /// The number of the new one.
    pub number: u64,
    /// Whether the file's own tests are run.
    pub tests: RunTests,
    /// Kinds of policies beside those that are built in.
    pub kinds: &'a Kinds,
}

/// Whether a file's own tests are run before it counts as right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunTests {
    /// Whoever checks wants to know.
    Always,
    /// As the file says itself: `gateway.reload.run_tests`.
    AsConfigured,
    /// Whoever asks why one of them fails gets an answer.
    Never,
}

impl fmt::Debug for Before<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Before")
            .field("entry", &self.entry)
            .field("number", &self.number)
            .finish_non_exhaustive()
    }
}

/// How what is outside of the process is reached.
#[derive(Clone, Default)]
pub struct Outside {
    /// How connections are made.
    pub connector: Connector,
    /// Whoever resolves names of endpoints that are found, in place of name servers and registries; for tests.
    pub resolver: Option<Arc<dyn Resolve>>,
    /// Registries that are asked once for all upstreams, over all generations.
    pub eureka: EurekaRegistries,
    /// Stores are in the memory of this process: nobody is asked.
    pub in_memory: bool,
    /// Whether certificates are ordered, and by which time of day.
    pub orders: Orders,
}

impl From<Connector> for Outside {
    fn from(connector: Connector) -> Self {
        Self { connector, ..Self::default() }
    }
}

impl fmt::Debug for Outside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outside").field("connector", &self.connector).finish_non_exhaustive()
    }
}

/// Prepares the next generation. Nothing has happened if it is thrown away.
///
/// # Errors
/// Everything that is wrong, at the first stage where something is.
pub fn prepare(before: &Before<'_>, metrics: &Arc<Metrics>, outside: &Outside) -> Result<Prepared, Refusal> {
    let loaded = look(before.entry, before.sources, before.kinds).1.map_err(Refusal::Config)?;
    before.prepare(loaded, metrics, outside)
}

impl Before<'_> {
    /// As [`prepare`], of what has been read already.
    ///
    /// # Errors
    /// Everything that is wrong, at the first stage where something is.
    pub fn prepare(
        &self,
        loaded: Loaded,
        metrics: &Arc<Metrics>,
        outside: &Outside,
    ) -> Result<Prepared, Refusal> {
        let config = Arc::new(loaded.config);
        let Outside { connector, resolver, eureka, in_memory, orders } = outside.clone();
        let reach = Reach { connector: connector.clone(), resolver, eureka, in_memory };
        let around = Surroundings { metrics, connector, reach, orders, now: Instant::now() };
        let assembled = assemble(&config, self.number, &(self.state)(&config), &around);
        let generation = assembled.map_err(|all| Refusal::Config(Diagnostics::new(said(&all, &config))))?;
        let is_tested = match self.tests {
            RunTests::Always => true,
            RunTests::AsConfigured => config.gateway.reload.run_tests,
            RunTests::Never => false,
        };
        if is_tested {
            let failed = run_tests(&config);
            if !failed.is_empty() {
                return Err(Refusal::Tests(failed));
            }
        }
        Ok(Prepared { generation, sources: loaded.sources, held: loaded.held, warnings: loaded.warnings })
    }
}

/// Runs the file's own tests against fresh state, so that no limit is spent and nothing is consumed.
pub fn run_tests(config: &Arc<Config>) -> Vec<FailedTest> {
    if config.tests.is_empty() {
        return Vec::new();
    }
    let metrics = Arc::new(Metrics::new());
    let (connector, now) = (Connector::Tcp, Instant::now());
    let (reach, orders) = (Reach::default(), Orders::Never);
    let around = Surroundings { metrics: &metrics, connector, reach, orders, now };
    let Ok(generation) = assemble(config, 0, &State::new(1), &around) else { return Vec::new() };
    let failed = config.tests.iter().filter_map(|test| {
        let explanation = explain(&generation, &test.request, Now::read());
        let differences = differences(&test.expect, &explanation);
        (!differences.is_empty()).then(|| FailedTest { test: test.clone(), differences, explanation })
    });
    failed.collect()
}

fn differences(expect: &Expect, explanation: &Explanation) -> Vec<String> {
    let upstream = explanation.forwarded.as_ref().map(|forwarded| &*forwarded.upstream);
    let status = match &explanation.verdict {
        Verdict::Refused(rejection) => Some(rejection.reason.status()),
        Verdict::Answered(status) => Some(*status),
        Verdict::Sent | Verdict::Depends(_) => None,
    };
    let checks = [
        differs("route", expect.route.as_deref(), explanation.route.as_deref()),
        differs("upstream", expect.upstream.as_deref(), upstream),
        differs("path", expect.path.as_deref(), forwarded_path(explanation)),
        differs("status", expect.status, status),
    ];
    checks.into_iter().flatten().collect()
}

fn differs<T: PartialEq + fmt::Display>(what: &str, expected: Option<T>, is: Option<T>) -> Option<String> {
    let expected = expected?;
    match is {
        Some(is) if is == expected => None,
        Some(is) => Some(format!("{what}: expected {expected}, but it is {is}")),
        None => Some(format!("{what}: expected {expected}, but there is none")),
    }
}

impl Refusal {
    /// For people. Diagnostics are rendered with the text they are about.
    pub fn render(&self, color: bool) -> String {
        match self {
            Self::Config(diagnostics) => diagnostics.render(color),
            other => other.to_string(),
        }
    }

    /// The first thing that is wrong, in one line with its place.
    pub fn first(&self) -> String {
        match self {
            Self::Config(diagnostics) => {
                let first = diagnostics.iter().find(|one| one.severity == Severity::Error);
                first.map(|one| format!("{}: {}", one.place, one.message)).unwrap_or_default()
            }
            Self::Tests(all) => {
                let first = |one: &FailedTest| {
                    format!(
                        "{}: a test does not hold: {}",
                        one.test.origin.place(),
                        one.differences.join("; ")
                    )
                };
                all.first().map(first).unwrap_or_default()
            }
            Self::Bind(..) | Self::Panic => {
                let text = self.to_string();
                let first = text.lines().next().unwrap_or_default();
                first.strip_prefix("error: ").unwrap_or(first).to_owned()
            }
        }
    }

    /// For programs: a list of objects.
    pub fn to_json(&self) -> Value {
        match self {
            Self::Config(diagnostics) => diagnostics.to_json(),
            Self::Tests(all) => {
                let one = |failed: &FailedTest| {
                    let mut it = failed_test(failed).to_json();
                    it["explanation"] = failed.explanation.to_json();
                    it
                };
                Value::Array(all.iter().map(one).collect())
            }
            Self::Bind(..) | Self::Panic => json!([{"message": self.to_string()}]),
        }
    }

    /// How many things are wrong.
    pub fn count(&self) -> usize {
        match self {
            Self::Config(diagnostics) => {
                diagnostics.iter().filter(|one| one.severity == Severity::Error).count()
            }
            Self::Tests(all) => all.len(),
            Self::Bind(..) | Self::Panic => 1,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(diagnostics) => f.write_str(&diagnostics.render(false)),
            Self::Tests(all) => {
                for failed in all.iter().take(SHOWN_TESTS) {
                    f.write_str(&Diagnostics::new(vec![failed_test(failed)]).render(false))?;
                    let explanation = failed.explanation.to_string();
                    explanation.lines().try_for_each(|line| writeln!(f, "  | {line}"))?;
                    writeln!(f)?;
                }
                let more = all.len().saturating_sub(SHOWN_TESTS);
                if more > 0 { writeln!(f, "error: {more} more tests do not hold") } else { Ok(()) }
            }
            Self::Bind(address, error) => {
                let help = match error.kind() {
                    ErrorKind::AddrInUse if address.path().is_some() => {
                        "another process has it: change `listen`, or end that process"
                    }
                    ErrorKind::AlreadyExists => {
                        "what is there is left alone: change `listen`, or move it away"
                    }
                    ErrorKind::NotFound => "its folder has to be there: make it, or change `listen`",
                    ErrorKind::PermissionDenied if address.path().is_some() => {
                        "the user of the process has to be able to write in its folder: let them, or change `listen`"
                    }
                    ErrorKind::AddrInUse => "another process has it: change `listen`, or end that process",
                    ErrorKind::PermissionDenied => {
                        "ports below 1024 need a right (CAP_NET_BIND_SERVICE): take one above, or give it"
                    }
                    ErrorKind::AddrNotAvailable => {
                        "this machine has no such address: write one that it has, or `:port` for all"
                    }
                    _ => "change `listen`",
                };
                writeln!(f, "error: {address} cannot be listened on: {error}\n  help: {help}")
            }
            Self::Panic => {
                writeln!(
                    f,
                    "error: preparing this configuration panicked, which is a bug of naka, or of a policy of one's own"
                )
            }
        }
    }
}

/// Failed tests that are shown whole.
const SHOWN_TESTS: usize = 20;

fn said(all: &[Wrong], config: &Config) -> Vec<Diagnostic> {
    let one = |wrong: &Wrong| match wrong {
        Wrong::Routes(one) => said_of_routes(std::slice::from_ref(one), &config.routes),
        Wrong::Route { name, error } => {
            let place = config.routes[name].origin.place().clone();
            let mut it = Diagnostic::error(Code::Value, place, format!("the route `{name}`: {error}"));
            it.help("mend its `versions:`");
            vec![it]
        }
        Wrong::Policy { name, error } => {
            let place = config.policies[name].origin.place().clone();
            let mut it = Diagnostic::error(Code::Value, place, format!("the policy `{name}`: {error}"));
            it.help(
                "mend what it says, or the file it names; of a file, write another, and then put it in the \
                 place of this one",
            );
            vec![it]
        }
    };
    all.iter().flat_map(one).collect()
}

fn said_of_routes(all: &[Unroutable], routes: &BTreeMap<Name, Arc<Route>>) -> Vec<Diagnostic> {
    let said = all.iter().filter_map(|one| {
        let help = match &one.error {
            RouteError::Ambiguous(_) => "make one match more, or say which goes first: `priority: 1`",
            RouteError::TooManyCaptures { .. } => "capture less, or split the route",
            RouteError::TooManySegments { .. } => "end it earlier with `{rest...}` or `prefix:`",
        };
        let mut places = one.error.routes().filter_map(|name| Some(routes.get(name)?.origin.place().clone()));
        let (first, second) = (places.next()?, places.next());
        let message = format!("on listener `{}`: {}", one.listener, one.error);
        let mut it =
            Diagnostic::error(Code::Routes, second.clone().unwrap_or_else(|| first.clone()), message);
        it.combined().help(help);
        if second.is_some() {
            it.label("the second").related(first, "the first");
        }
        Some(it)
    });
    said.collect()
}

/// As a mistake of the file, in one place with all others.
fn failed_test(failed: &FailedTest) -> Diagnostic {
    let place = failed.test.origin.place().clone();
    let message = format!("a test does not hold: {}", failed.explanation.asked);
    let mut it = Diagnostic::error(Code::Test, place, message);
    it.label(failed.differences.join("; "));
    it.help("mend the routes, or expect what comes of it: it is shown below");
    it
}

/// What was read before, once more.
pub(crate) fn again(entry: &Path, sources: &Sources) -> Result<Loaded, Diagnostics> {
    config::again(entry, sources, |listeners, routes| said_of_routes(&unroutable(listeners, routes), routes))
}

/// Reads the files, and says of the routes what only whoever makes tables of them can.
pub fn look(
    entry: &Path,
    sources: Option<&Sources>,
    kinds: &Kinds,
) -> (Watched, Result<Loaded, Diagnostics>) {
    config::look(entry, sources, kinds, |listeners, routes| {
        said_of_routes(&unroutable(listeners, routes), routes)
    })
}
