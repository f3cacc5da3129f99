//! `bazaar storm`: a platform of its own in bad weather, under load, and what is left of it afterwards.
//!
//! # Load
//! [`SHOPPERS`] shoppers and [`RIDERS`] riders, each of whom does one thing after the other: search, look, order, pay, read, cancel;
//! estimate, book, track, cancel. What is not answered is sent again with the same key by whoever wants it done.
//!
//! # Weather
//! Every [`TICK`] each calamity comes by its probability to one service, if fewer than [`AT_ONCE`] are in trouble:
//!
//! | calamity | probability | what it does, for a while |
//! |---|---|---|
//! | `monsoon_flooding` | 0.3 | a partition: nothing passes on the wire, and nobody is told |
//! | `local_train_delay` | 0.4 | everything on the wire is up to [`DELAY`] late, each way |
//! | `power_cut` | 0.2 | the process is killed (`SIGKILL`), and comes back on its files |
//! | `traffic_jam` | 0.5 | the process stands still (`SIGSTOP`), and goes on (`SIGCONT`) |
//!
//! A seed decides what comes; how it goes on depends on how soon who was killed is back. The gateway's limits for people are lifted, since all customers have one address; and its circuit breakers
//! close after a second, since weather of a season passes in half a minute here.
//!
//! # What could succeed
//! A request counts if every service that it needs was up from [`SETTLE`] before it was sent until it was answered: not cut off, not
//! standing still, and not dead. Lateness does not excuse, nor does a service that is not critical (notifications). It has succeeded
//! if it was answered, and neither by 429 nor by 5xx: a refusal is a decision. Payments from accounts at which the bank itself does not answer do
//! not count.
//!
//! # Afterwards
//! The weather clears, everybody comes back, unpaid orders are called off; then all sagas must end, and the [books](super::books) must be right.
//!
//! # Exit codes
//! 0 if at least [`SUCCESS`] per cent of what could succeed has, and nothing is wrong in the books; else 1.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::http::{Method as Verb, StatusCode};
use clap::Args;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use super::{
    books::Books,
    client::{Client, text},
    platform::{self, Plan, Platform, until},
    progress::Progress,
    report::{Report, hold},
    wire::Weather,
};
use crate::{
    kernel::console::{complain, say},
    rehearsal::Chance,
};

/// How many shoppers there are.
pub const SHOPPERS: u64 = 12;

/// How many riders.
pub const RIDERS: u64 = 4;

/// How often the weather may change.
pub const TICK: Duration = Duration::from_secs(2);

/// How many services are in trouble at a time, at most.
pub const AT_ONCE: usize = 2;

/// The longest delay on a wire, in milliseconds, each way.
pub const DELAY: u64 = 200;

/// How long after a trouble nothing is expected of a service yet: a little longer than a circuit breaker is open here, and than a
/// connection takes to be found dead.
pub const SETTLE: Duration = Duration::from_secs(3);

/// What has to succeed of what could, per cent.
pub const SUCCESS: u64 = 95;

/// How long somebody waits for an answer: longer than a cancellation, which waits for up to 8 seconds until all is undone.
const PATIENCE: Duration = Duration::from_secs(12);

/// How long the sagas may take to end once the weather is fair.
const CALM: Duration = Duration::from_mins(4);

/// Whom the weather meets.
const EXPOSED: [&str; 12] = [
    "user",
    "product",
    "product-v2",
    "inventory",
    "order",
    "payment",
    "bank",
    "notification",
    "pricing",
    "driver",
    "tracking",
    "booking",
];

/// What `bazaar storm` is told.
#[derive(Args, Clone, Debug)]
pub struct StormArgs {
    /// How long the weather is bad, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub seconds: u64,
    /// The number that decides the weather, and what customers do.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// What has to succeed of what could, per cent. A short storm on a machine that has other work says little.
    #[arg(long, value_name = "PERCENT", default_value_t = SUCCESS, value_parser = clap::value_parser!(u64).range(..=100))]
    pub at_least: u64,
    /// Writes the report there, as JSON.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// Lets it storm, and reports.
pub fn run(args: &StormArgs) -> ExitCode {
    let came = platform::runtime().and_then(|runtime| runtime.block_on(storm(args)));
    match came {
        Ok(report) => report.end("bazaar storm", args.json.as_deref()),
        Err(message) => {
            complain(format_args!("bazaar storm: {message}"));
            ExitCode::FAILURE
        }
    }
}

/// What is changed in the gateway's configuration.
fn open_to_all(text: &str) -> String {
    let breakers = text
        .replace("open: 30s", "open: 1s")
        .replace("preset: payment_gateway,", "preset: payment_gateway, open: 1s,")
        .replace("preset: food_delivery,", "preset: food_delivery, open: 1s,")
        .replace("open: 10s..60s", "open: 1s");
    lift_limits(&breakers)
}

/// Lifts every rate limit but that of `/demo/limited`.
pub(super) fn lift_limits(text: &str) -> String {
    let mut lifted = String::new();
    for line in text.split_inclusive('\n') {
        match line.split_once("rate_limit: {rate: ") {
            Some((before, after)) => {
                let rest = after.trim_start_matches(|it: char| it.is_ascii_digit());
                lifted.extend([before, "rate_limit: {rate: 1000000", rest]);
            }
            None => lifted.push_str(line),
        }
    }
    lifted
}

async fn storm(args: &StormArgs) -> Result<Report, String> {
    say(format_args!("a storm of {} s, by the seed {}: the platform starts", args.seconds, args.seed));
    let plan = Plan { change: Some(&open_to_all), ..Plan::default() };
    let mut platform = Platform::open(plan).await?;
    let came = weather(args, &mut platform).await;
    platform.stop().await;
    came
}

async fn weather(args: &StormArgs, platform: &mut Platform) -> Result<Report, String> {
    let mut chance = Chance::of(args.seed);
    let (outages, seen) = (Outages::default(), Seen::default());
    let end = Instant::now() + Duration::from_secs(args.seconds);
    let mut customers = JoinSet::new();
    for number in 0..SHOPPERS + RIDERS {
        let user_id = ["asha", "ravi", "divya"][usize::try_from(number % 3).unwrap_or(0)];
        let gateway = Client::of("gateway", platform.gateway).patient(PATIENCE);
        let customer = Customer {
            number,
            user_id,
            client: gateway.with_token(&platform.token(user_id)?),
            chance: chance.branch(),
            seen: seen.clone(),
            end,
        };
        if number < SHOPPERS {
            customers.spawn(customer.shop());
        } else {
            customers.spawn(customer.ride());
        }
    }
    let mut sky = Sky { chance, outages: outages.clone(), troubles: Vec::new(), counts: BTreeMap::new() };
    let mut progress = Progress::of(args.seconds);
    let begin = Instant::now();
    while Instant::now() < end {
        sky.tick(platform, true).await?;
        progress.at(begin.elapsed().as_secs(), &sky.told());
    }
    sky.clear(platform).await?;
    drop(progress);
    say(format_args!("the weather clears after {}; whoever waits for an answer gets it", sky.sum()));
    let leave = async { while customers.join_next().await.is_some() {} };
    timeout(PATIENCE * 6, leave).await.map_err(|_| "customers still wait for their answers".to_owned())?;

    let mut report = Report::default();
    seen.judge(&outages, args.at_least, &mut report);
    let books = Books::of(platform.data());
    call_off(platform).await?;
    let is_calm = until(CALM, async || books.unfinished().is_ok_and(|count| count == 0)).await;
    let left = books.unfinished()?;
    let calm = hold(is_calm, || format!("{left} are under way after {} s", CALM.as_secs()));
    report.note("R15.7", "all comes to rest once the weather is fair", calm.map(|()| String::new()));
    books.audit(&mut report);
    Ok(report)
}

/// Calls every order off that waits for its payment.
async fn call_off(platform: &Platform) -> Result<(), String> {
    for user_id in ["asha", "ravi", "divya"] {
        let client = Client::of("gateway", platform.gateway).with_token(&platform.token(user_id)?);
        let mut before = String::new();
        loop {
            let page = client.get(&format!("/api/orders?limit=100{before}")).await?;
            let orders = page["orders"].as_array().cloned().unwrap_or_default();
            for order in orders.iter().filter(|order| order["state"] == "placed") {
                let path = format!("/api/orders/{}/cancel", text(order, "order_id")?);
                // 409: it was paid just now, and stays.
                client.post(&path, "", &json!({"reason": "the rain has stopped"})).await?;
            }
            let Some(next) = page["next"].as_str() else { break };
            before = format!("&before={next}");
        }
    }
    Ok(())
}

/// What the weather does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Calamity {
    MonsoonFlooding,
    LocalTrainDelay,
    PowerCut,
    TrafficJam,
}

impl Calamity {
    /// All, with their probabilities in per cent.
    const CATALOGUE: [(Self, u64); 4] = [
        (Self::MonsoonFlooding, 30),
        (Self::LocalTrainDelay, 40),
        (Self::PowerCut, 20),
        (Self::TrafficJam, 50),
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::MonsoonFlooding => "monsoon_flooding",
            Self::LocalTrainDelay => "local_train_delay",
            Self::PowerCut => "power_cut",
            Self::TrafficJam => "traffic_jam",
        }
    }
}

struct Trouble {
    service: &'static str,
    calamity: Calamity,
    until: Instant,
    is_starting: bool,
}

struct Sky {
    chance: Chance,
    outages: Outages,
    troubles: Vec<Trouble>,
    counts: BTreeMap<&'static str, u32>,
}

impl Sky {
    /// Lets a while pass: ends what is over, and perhaps begins something.
    async fn tick(&mut self, platform: &mut Platform, may_begin: bool) -> Result<(), String> {
        let next = Instant::now() + TICK;
        for (calamity, percent) in Calamity::CATALOGUE {
            if may_begin && self.chance.percent(percent) && self.troubles.len() < AT_ONCE {
                let service = *self.chance.of_these(&EXPOSED);
                let millis = 500 + self.chance.below(2_000);
                if self.troubles.iter().all(|it| it.service != service) {
                    self.begin(platform, service, calamity, Duration::from_millis(millis)).await?;
                }
            }
        }
        while Instant::now() < next {
            tokio::select! {
                () = sleep(Duration::from_millis(50)) => {}
                death = platform.next_death() => {
                    return Err(format!("{death}, and no calamity has met it"));
                }
            }
            self.end(platform).await?;
        }
        Ok(())
    }

    async fn begin(
        &mut self,
        platform: &mut Platform,
        service: &'static str,
        calamity: Calamity,
        long: Duration,
    ) -> Result<(), String> {
        *self.counts.entry(calamity.name()).or_default() += 1;
        if calamity != Calamity::LocalTrainDelay {
            self.outages.begin(service);
        }
        match calamity {
            Calamity::MonsoonFlooding => platform.weather(service, Weather::Flooded),
            Calamity::LocalTrainDelay => {
                let delay = Duration::from_millis(1 + self.chance.below(DELAY));
                platform.weather(service, Weather::Late(delay));
            }
            Calamity::PowerCut => platform.kill(service).await?,
            Calamity::TrafficJam => platform.signal(service, Signal::STOP),
        }
        self.troubles.push(Trouble { service, calamity, until: Instant::now() + long, is_starting: false });
        Ok(())
    }

    async fn end(&mut self, platform: &mut Platform) -> Result<(), String> {
        let now = Instant::now();
        let mut lasting = Vec::new();
        for mut trouble in self.troubles.drain(..) {
            let Trouble { service, calamity, until, .. } = trouble;
            if until > now {
                lasting.push(trouble);
                continue;
            }
            match calamity {
                Calamity::MonsoonFlooding | Calamity::LocalTrainDelay => {
                    platform.weather(service, Weather::Fair);
                }
                Calamity::TrafficJam => platform.signal(service, Signal::CONT),
                Calamity::PowerCut => {
                    if !trouble.is_starting {
                        platform.start(service)?;
                        trouble.is_starting = true;
                    }
                    if !platform.answers(service).await {
                        lasting.push(trouble);
                        continue;
                    }
                }
            }
            self.outages.end(service);
        }
        self.troubles = lasting;
        Ok(())
    }

    /// Ends all troubles at once, and waits until everybody answers.
    async fn clear(&mut self, platform: &mut Platform) -> Result<(), String> {
        let now = Instant::now();
        self.troubles.iter_mut().for_each(|trouble| trouble.until = now);
        self.end(platform).await?;
        for service in EXPOSED {
            platform.until_ready(service).await?;
        }
        self.end(platform).await
    }

    fn told(&self) -> String {
        let troubles = self.troubles.iter().map(|it| format!("{} at {}", it.calamity.name(), it.service));
        troubles.collect::<Vec<_>>().join(", ")
    }

    fn sum(&self) -> String {
        let counts = self.counts.iter().map(|(name, count)| format!("{count} × {name}"));
        counts.collect::<Vec<_>>().join(", ")
    }
}

/// When somebody was not up.
#[derive(Clone, Debug, Default)]
struct Outages(Arc<Mutex<BTreeMap<&'static str, Vec<Outage>>>>);

/// From when, and until when, if it is over.
type Outage = (Instant, Option<Instant>);

impl Outages {
    fn begin(&self, service: &'static str) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(service).or_default().push((Instant::now(), None));
    }

    fn end(&self, service: &'static str) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, until @ None)) = all.get_mut(service).and_then(|it| it.last_mut()) {
            *until = Some(Instant::now());
        }
    }

    /// Whether all of them were up, from [`SETTLE`] before `from` until `to`.
    fn were_up(&self, services: &[&str], from: Instant, to: Instant) -> bool {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        services
            .iter()
            .filter_map(|it| all.get(it))
            .flatten()
            .all(|(begin, end)| *begin > to || end.is_some_and(|end| end + SETTLE < from))
    }

    /// Whether anybody was not.
    fn was_any(&self, from: Instant, to: Instant) -> bool {
        !EXPOSED.iter().all(|it| self.were_up(&[it], from, to))
    }
}

/// What customers have seen.
#[derive(Clone, Debug, Default)]
struct Seen(Arc<Mutex<Vec<Look>>>);

#[derive(Clone, Debug)]
struct Look {
    needs: &'static [&'static str],
    from: Instant,
    to: Instant,
    wrong: Option<String>,
}

impl Seen {
    fn note(&self, needs: &'static [&'static str], from: Instant, wrong: Option<String>) {
        let look = Look { needs, from, to: Instant::now(), wrong };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(look);
    }

    fn judge(&self, outages: &Outages, at_least: u64, report: &mut Report) {
        let looks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let possible =
            looks.iter().filter(|it| outages.were_up(it.needs, it.from, it.to)).collect::<Vec<_>>();
        let all = looks.len();
        let check = "of what physically could succeed, as much has as is asked for";
        report.note("R15.7", check, share(&possible, all, at_least));
        let elsewhere = possible.into_iter().filter(|it| outages.was_any(it.from, it.to)).collect::<Vec<_>>();
        if !elsewhere.is_empty() {
            let came = share(&elsewhere, all, at_least);
            report.note("R12.3", "while somebody was away, the others served what they own", came);
        }
    }
}

fn share(possible: &[&Look], all: usize, at_least: u64) -> Result<String, String> {
    let failed = possible.iter().filter_map(|it| it.wrong.as_deref()).collect::<Vec<_>>();
    let (count, good) = (possible.len() as u64, (possible.len() - failed.len()) as u64);
    let said = format!("{good} of {count} that could (of {all} sent), and {at_least} % are asked for");
    let first = failed.first().copied().unwrap_or_default();
    hold(count > 0 && good * 100 >= count * at_least, || format!("{said}; first: {first}"))?;
    Ok(said)
}

/// Whoever is out in this weather.
struct Customer {
    number: u64,
    user_id: &'static str,
    client: Client,
    chance: Chance,
    seen: Seen,
    end: Instant,
}

impl Customer {
    /// Asks once, and notes it.
    async fn ask(
        &self,
        needs: &'static [&'static str],
        verb: Verb,
        path: &str,
        key: &str,
        body: Option<&Value>,
    ) -> Option<(StatusCode, Value)> {
        let headers = [("idempotency-key", key)];
        let headers = if key.is_empty() { &headers[..0] } else { &headers[..] };
        let from = Instant::now();
        let answer = self.client.ask(verb, path, headers, body).await;
        let (wrong, answer) = match answer {
            Ok(answer) => {
                let status = answer.status;
                let is_wrong = status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS;
                let why = format!("{} was {}: {}", answer.asked, status.as_u16(), answer.body);
                (is_wrong.then_some(why), (!is_wrong).then_some((status, answer.body)))
            }
            Err(error) => (Some(error), None),
        };
        if !needs.is_empty() {
            self.seen.note(needs, from, wrong);
        }
        answer
    }

    /// Asks until somebody answers, or the storm is over.
    async fn insist(
        &mut self,
        needs: &'static [&'static str],
        path: &str,
        key: &str,
        body: &Value,
    ) -> Option<(StatusCode, Value)> {
        loop {
            let answer = self.ask(needs, Verb::POST, path, key, Some(body)).await;
            if answer.is_some() || Instant::now() > self.end {
                return answer;
            }
            sleep(Duration::from_millis(100 + self.chance.below(400))).await;
        }
    }

    async fn shop(mut self) {
        let mut number = 0;
        while Instant::now() < self.end {
            number += 1;
            let key = format!("storm-{}-{number}", self.number);
            self.ask(&["product", "product-v2"], Verb::GET, "/api/search?q=tea&lang=en", "", None).await;
            self.ask(&["product-v2"], Verb::GET, "/api/products/prod_003", "", None).await;
            self.trip(&key).await;
            sleep(Duration::from_millis(self.chance.below(200))).await;
        }
    }

    async fn trip(&mut self, key: &str) -> Option<()> {
        let (city, pincode) = match self.user_id {
            "asha" => ("mumbai", "400050"),
            "ravi" => ("delhi", "110001"),
            _ => ("bangalore", "560001"),
        };
        let method = *self.chance.of_these(&["upi", "wallet", "debit_card", "net_banking", "cod"]);
        let wish = json!({
            "items": [{"product_id": "prod_003", "quantity": 1 + self.chance.below(2)}], "payment_method": method,
            "address": {"line": "12, Station Road", "city": city, "pincode": pincode},
        });
        let needs: &[&str] = if method == "cod" {
            &["order", "user", "product", "inventory", "payment", "bank"]
        } else {
            &["order", "user", "product", "inventory"]
        };
        let (status, order) = self.insist(needs, "/api/orders", key, &wish).await?;
        if !status.is_success() {
            return None; // Sold out, or refused.
        }
        let order_id = order["order_id"].as_str()?.to_owned();
        if method != "cod" && self.chance.percent(90) {
            let manner = *self.chance.of_these(&[
                "good", "good", "good", "good", "good", "good", "good", "good", "good", "poor", "declined",
                "lost", "late",
            ]);
            let account = if method == "upi" { format!("{manner}@bank") } else { format!("{manner}-4242") };
            let pay = json!({"order_id": order_id, "method": method, "account": account});
            let does_answer = !["lost", "late"].contains(&manner);
            let needs: &[&str] = if does_answer { &["payment", "order", "user", "bank"] } else { &[] };
            self.insist(needs, "/api/payments", key, &pay).await;
        }
        let path = format!("/api/orders/{order_id}");
        self.ask(&["order"], Verb::GET, &path, "", None).await;
        if self.chance.percent(50) {
            let needs = &["order", "inventory", "payment", "bank"];
            self.insist(needs, &format!("{path}/cancel"), "", &json!({"reason": "it rains"})).await;
        }
        Some(())
    }

    async fn ride(mut self) {
        let mut number = 0;
        while Instant::now() < self.end {
            number += 1;
            let key = format!("storm-ride-{}-{number}", self.number);
            self.trip_by_car(&key).await;
            sleep(Duration::from_millis(100 + self.chance.below(300))).await;
        }
    }

    async fn trip_by_car(&mut self, key: &str) -> Option<()> {
        let ride_type = *self.chance.of_these(&["mini", "prime", "auto"]);
        let trip = json!({
            "pickup": {"lat": 18.9220, "lng": 72.8342}, "drop": {"lat": 19.0760, "lng": 72.8777}, "ride_type": ride_type,
        });
        let (_, quote) = self.ask(&["pricing"], Verb::POST, "/api/rides/estimate", "", Some(&trip)).await?;
        let wish = json!({"quote_id": quote["quote_id"]});
        let needs = &["booking", "pricing", "driver"];
        let (status, ride) = self.insist(needs, "/api/rides/book", key, &wish).await?;
        if status != StatusCode::CREATED {
            return None; // Every driver is away.
        }
        let path = format!("/api/rides/{}", ride["ride_id"].as_str()?);
        self.ask(&["booking"], Verb::GET, &path, "", None).await;
        self.ask(&["tracking"], Verb::GET, &format!("{path}/track"), "", None).await;
        self.insist(&["booking"], &format!("{path}/cancel"), "", &json!({})).await;
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_lifted_and_nothing_else() {
        let text = "a: {rate: 5}\n    rate_limit: {rate: 600/m, key: [client_ip]} # b\nend";
        let lifted = "a: {rate: 5}\n    rate_limit: {rate: 1000000/m, key: [client_ip]} # b\nend";
        assert_eq!(lift_limits(text), lifted);
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_is_up_again_only_when_it_had_time_to_settle() {
        let outages = Outages::default();
        let second = Duration::from_secs(1);
        let before = Instant::now();
        sleep(second).await;
        assert!(outages.were_up(&["bank"], before, Instant::now()));
        outages.begin("bank");
        sleep(second).await;
        assert!(!outages.were_up(&["user", "bank"], before, Instant::now()));
        assert!(outages.were_up(&["user"], before, Instant::now()));
        outages.end("bank");
        let end = Instant::now();
        assert!(!outages.were_up(&["bank"], end + SETTLE, end + 2 * SETTLE));
        assert!(outages.were_up(&["bank"], end + SETTLE + second, end + 2 * SETTLE));
        assert!(outages.were_up(&["bank"], before, before + second / 2));
    }
}
