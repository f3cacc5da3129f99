//! What came of a scenario: a timeline, what was answered, what servers saw, and whether what was expected holds.

use std::{
    collections::BTreeMap,
    fmt::{self, Display},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use serde_json::{Value, json};

use super::{
    account::{Account, Asked, End, Sight, quantile},
    chart::{Panel, svg},
    events::Log,
    servers::Server,
};
use crate::config::{
    checked::{
        Name,
        scenario::{During, Expectation, Scenario},
    },
    show_duration,
};

/// Lines of the timeline, at most.
const ROWS: u32 = 30;
/// How long one of them may be, in seconds.
const STEPS: [u32; 13] = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1200, 1800, 3600];
/// Lines of the log that are shown.
const SHOWN: usize = 40;
/// Columns of a bar.
const BAR: usize = 20;

/// What came of a scenario.
#[derive(Debug)]
pub struct Simulated {
    title: String,
    duration: Duration,
    step: Duration,
    rows: Vec<Row>,
    loads: Vec<(Name, Sum)>,
    servers: Vec<ServerSum>,
    log: Log,
    policies: Vec<(Name, &'static str, u64)>,
    expected: Vec<Expected>,
}

/// A piece of the time.
#[derive(Clone, Debug, Default)]
struct Row {
    from: Duration,
    sum: Sum,
    /// Requests that servers saw.
    seen: u64,
}

/// Requests, added up.
#[derive(Clone, Debug, Default)]
struct Sum {
    asked: u64,
    good: u64,
    /// Of those that were good.
    p50: Duration,
    p99: Duration,
    ends: BTreeMap<End, u64>,
}

#[derive(Debug)]
struct ServerSum {
    upstreams: String,
    address: Arc<str>,
    came: u64,
    failed: u64,
    checks: u64,
}

/// What was expected, and what is.
#[derive(Debug)]
struct Expected {
    what: String,
    is: String,
    holds: bool,
    place: String,
}

impl Simulated {
    pub(super) fn new(
        scenario: &Scenario,
        account: &Account,
        servers: &[Arc<Server>],
        log: Log,
        policies: Vec<(Name, &'static str, u64)>,
    ) -> Self {
        let (asked, seen) = account.take();
        let step = step(scenario.duration);
        let rows = (0..).map(|number| step * number).take_while(|from| *from < scenario.duration);
        let row = |from| {
            let during = During { from, to: from + step };
            let sum = sum(asked.iter().filter(|it| during.contains(it.at)));
            Row { from, sum, seen: seen.iter().filter(|it| during.contains(it.at)).count() as u64 }
        };
        let of_load = |number: usize| sum(asked.iter().filter(|it| it.load == number));
        let loads = scenario.loads.iter().enumerate();
        let server = |server: &Arc<Server>| ServerSum {
            upstreams: server.upstreams.iter().map(|name| &**name).collect::<Vec<_>>().join(", "),
            address: Arc::clone(&server.address),
            came: server.tally.came.load(Relaxed),
            failed: server.tally.failed.load(Relaxed),
            checks: server.tally.checks.load(Relaxed),
        };
        let gateway = scenario.gateway.display();
        Self {
            title: format!("{} of {gateway}, seed {}", show_duration(scenario.duration), scenario.seed),
            duration: scenario.duration,
            step,
            rows: rows.map(row).collect(),
            loads: loads.map(|(number, load)| (Arc::clone(&load.named.name), of_load(number))).collect(),
            servers: servers.iter().map(server).collect(),
            log,
            policies,
            expected: scenario
                .expectations
                .iter()
                .flat_map(|it| expected(it, scenario, &asked, &seen))
                .collect(),
        }
    }

    /// Whether everything holds that was expected.
    pub fn holds(&self) -> bool {
        self.expected.iter().all(|expected| expected.holds)
    }

    /// As a picture.
    pub fn to_svg(&self) -> String {
        let line = |name: &str, value: &dyn Fn(&Row) -> f64| {
            (name.to_owned(), self.rows.iter().map(value).collect())
        };
        let panel = |title: &str, lines| Panel { title: title.to_owned(), lines };
        let panels = [
            panel(
                "requests a second",
                vec![
                    line("asked", &|row| self.per_second(row.sum.asked)),
                    line("good", &|row| self.per_second(row.sum.good)),
                    line("at servers", &|row| self.per_second(row.seen)),
                ],
            ),
            panel("good answers, %", vec![line("good", &|row| row.sum.percent_good())]),
            panel(
                "how long good answers take, ms",
                vec![
                    line("p50", &|row| row.sum.p50.as_secs_f64() * 1000.0),
                    line("p99", &|row| row.sum.p99.as_secs_f64() * 1000.0),
                ],
            ),
        ];
        svg(&panels, &show_duration(self.duration))
    }

    /// For programs.
    pub fn to_json(&self) -> Value {
        let sum = |sum: &Sum| {
            let ends =
                sum.ends.iter().map(|(end, count)| (end.to_string(), *count)).collect::<BTreeMap<_, _>>();
            json!({
                "asked": sum.asked, "good": sum.good,
                "p50_ms": ms(sum.p50), "p99_ms": ms(sum.p99), "ends": ends,
            })
        };
        let row = |row: &Row| {
            let mut it = sum(&row.sum);
            it["from_ms"] = ms(row.from).into();
            it["at_servers"] = row.seen.into();
            it
        };
        let server = |it: &ServerSum| {
            json!({
                "address": &*it.address, "upstreams": it.upstreams,
                "requests": it.came, "failed": it.failed, "checks": it.checks,
            })
        };
        let policy = |(policy, outcome, count): &(Name, &'static str, u64)| json!({"policy": &**policy, "outcome": outcome, "count": count});
        let expected =
            |it: &Expected| json!({"expected": it.what, "is": it.is, "holds": it.holds, "at": it.place});
        let events = self.log.events.iter();
        let event = |it: &super::events::Event| json!({"at_ms": ms(it.at), "level": it.level.as_str(), "text": it.text});
        json!({
            "simulated": self.title,
            "step_ms": ms(self.step),
            "timeline": self.rows.iter().map(row).collect::<Vec<_>>(),
            "loads": self.loads.iter().map(|(name, it)| (name.to_string(), sum(it))).collect::<BTreeMap<_, _>>(),
            "servers": self.servers.iter().map(server).collect::<Vec<_>>(),
            "policies": self.policies.iter().map(policy).collect::<Vec<_>>(),
            "events": events.map(event).collect::<Vec<_>>(), "more_events": self.log.more,
            "expected": self.expected.iter().map(expected).collect::<Vec<_>>(),
            "holds": self.holds(),
        })
    }

    fn per_second(&self, count: u64) -> f64 {
        number(count) / self.step.as_secs_f64()
    }
}

fn step(duration: Duration) -> Duration {
    let fits = |seconds: &&u32| Duration::from_secs(u64::from(**seconds)) * ROWS >= duration;
    let seconds = STEPS.iter().find(fits).or(STEPS.last()).copied().unwrap_or(1);
    Duration::from_secs(u64::from(seconds))
}

fn sum<'a>(asked: impl Iterator<Item = &'a Asked>) -> Sum {
    let (mut it, mut took) = (Sum::default(), Vec::new());
    for asked in asked {
        it.asked += 1;
        if asked.end.is_good() {
            it.good += 1;
            took.push(asked.took);
        }
        *it.ends.entry(asked.end.clone()).or_default() += 1;
    }
    it.p50 = quantile(&mut took, 0.5);
    it.p99 = quantile(&mut took, 0.99);
    it
}

impl Sum {
    fn percent_good(&self) -> f64 {
        if self.asked == 0 { 0.0 } else { number(self.good) * 100.0 / number(self.asked) }
    }
}

/// Each bound of an expectation by itself.
fn expected(it: &Expectation, scenario: &Scenario, asked: &[Asked], seen: &[Sight]) -> Vec<Expected> {
    let is_of_load =
        |asked: &Asked| it.load.as_ref().is_none_or(|load| scenario.loads[asked.load].named.name == *load);
    let sum = sum(asked.iter().filter(|asked| it.during.contains(asked.at) && is_of_load(asked)));
    let whose = it.load.as_ref().map_or_else(|| "all loads".to_owned(), |load| format!("`{load}`"));
    let when = format!("{whose} from {} to {}", time(it.during.from), time(it.during.to));
    let one = |what: String, is: String, holds: bool| Expected {
        what: format!("{when}: {what}"),
        is: if sum.asked == 0 { "nobody asked".to_owned() } else { is },
        holds: holds && sum.asked > 0,
        place: it.place.to_string(),
    };
    let good = sum.percent_good();
    let mut all = Vec::new();
    if let Some(least) = it.min_good {
        all.push(one(format!("at least {least}% good"), format!("{good:.2}%"), good >= f64::from(least)));
    }
    if let Some(most) = it.max_good {
        all.push(one(format!("at most {most}% good"), format!("{good:.2}%"), good <= f64::from(most)));
    }
    if let Some(most) = it.max_p99 {
        let is = if sum.good == 0 { "none is good".to_owned() } else { took(sum.p99) };
        all.push(one(format!("p99 at most {}", time(most)), is, sum.good > 0 && sum.p99 <= most));
    }
    if let Some(percent) = it.max_amplification {
        let seen = seen.iter().filter(|sight| it.during.contains(sight.of)).count() as u64;
        let (is, most) = (number(seen) / number(sum.asked.max(1)), f64::from(percent) / 100.0);
        all.push(one(format!("at most {most:.2}x at servers"), format!("{is:.2}x"), is <= most));
    }
    all
}

impl Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answered(status, None) => write!(f, "{}", status.as_u16()),
            Self::Answered(status, Some(reason)) => write!(f, "{} {reason}", status.as_u16()),
            Self::GaveUp => f.write_str("gave up"),
            Self::BrokeOff => f.write_str("broke off"),
        }
    }
}

impl Display for Simulated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n", self.title)?;
        writeln!(
            f,
            "{:>8}  {:>8}  {:>7}  {:BAR$}  {:>8}  {:>8}  {:>12}",
            "from", "asked/s", "good %", "", "p50", "p99", "at servers/s"
        )?;
        for row in &self.rows {
            let percent = row.sum.percent_good();
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 20")]
            let filled = (percent / 100.0 * number(BAR as u64)) as usize;
            writeln!(
                f,
                "{:>8}  {:>8.1}  {:>7.1}  {:.<BAR$}  {:>8}  {:>8}  {:>12.1}",
                time(row.from),
                self.per_second(row.sum.asked),
                percent,
                "#".repeat(filled),
                took(row.sum.p50),
                took(row.sum.p99),
                self.per_second(row.seen),
            )?;
        }
        writeln!(f, "\nanswers")?;
        for (name, sum) in &self.loads {
            writeln!(
                f,
                "  {name}: {} asked, {:.2}% good, p99 {}",
                sum.asked,
                sum.percent_good(),
                took(sum.p99)
            )?;
            for (end, count) in &sum.ends {
                writeln!(f, "    {:<32} {count:>9}", end.to_string())?;
            }
        }
        writeln!(f, "\nservers")?;
        for it in &self.servers {
            let ServerSum { address, came, failed, checks, .. } = it;
            let upstreams = if it.upstreams.is_empty() { "of no upstream," } else { &it.upstreams };
            writeln!(f, "  {upstreams} {address}: {came} requests, {failed} failed, {checks} health checks")?;
        }
        if !self.policies.is_empty() {
            writeln!(f, "\npolicies")?;
        }
        for of_one in self.policies.chunk_by(|(one, ..), (other, ..)| one == other) {
            let counts = of_one.iter().map(|(_, outcome, count)| format!("{outcome} {count}"));
            writeln!(f, "  {}: {}", of_one[0].0, counts.collect::<Vec<_>>().join(", "))?;
        }
        if !self.log.events.is_empty() {
            writeln!(f, "\nevents")?;
        }
        for event in self.log.events.iter().take(SHOWN) {
            writeln!(f, "  {:>9.3}s {:>5} {}", event.at.as_secs_f64(), event.level.as_str(), event.text)?;
        }
        let more = self.log.events.len().saturating_sub(SHOWN) as u64 + self.log.more;
        if more > 0 {
            writeln!(f, "  and {more} more: `--format json` has {}", super::events::MOST)?;
        }
        if !self.expected.is_empty() {
            writeln!(f, "\nexpected")?;
        }
        for it in &self.expected {
            let Expected { what, is, holds, place } = it;
            writeln!(f, "  {} {what}: it is {is} ({place})", if *holds { "holds: " } else { "FAILS: " })?;
        }
        Ok(())
    }
}

/// A time of the scenario, in one unit as far as it goes.
fn time(time: Duration) -> String {
    let millis = time.as_millis();
    if millis.is_multiple_of(1000) { format!("{}s", millis / 1000) } else { format!("{millis}ms") }
}

fn took(time: Duration) -> String {
    format!("{}ms", time.as_millis())
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[expect(clippy::cast_precision_loss, reason = "counts of requests")]
fn number(count: u64) -> f64 {
    count as f64
}
