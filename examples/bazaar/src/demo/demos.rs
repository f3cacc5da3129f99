//! `bazaar demos`: ten demonstrations, each with the number that was measured and the one that the collection had that this project grew
//! out of ("the seed"); and then what [the stock](stock) and [composed answers](composed) must show.
//!
//! Those about layers (1 to 4, and 8) go through a gateway with a small configuration of its own, to upstreams in this process; the
//! others through a whole [`Platform`]. Nothing is judged by the clock alone: cores may be busy with other things.
//!
//! # Bounds
//! All of it takes at most [`ALL`].
//!
//! # Exit codes
//! 0 if all has passed, else 1.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{
    Router,
    body::{Bytes, to_bytes},
    extract::Request,
    http::{Method as Verb, StatusCode},
    routing::{any, get},
};
use clap::Args;
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    net::TcpListener,
    sync::{Semaphore, watch},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use super::{
    books::Books,
    children::Family,
    client::{Client, text},
    composed,
    platform::{self, Plan, Platform, Ports, until},
    progress::Progress,
    report::{Report, hold},
    stock,
    storm::lift_limits,
    up::{START, STOP, ready},
};
use crate::kernel::console::complain;

/// How long all of it may take.
pub const ALL: Duration = Duration::from_secs(175);

/// How long a single answer may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// How many connections are open to a gateway at a time.
const AT_ONCE: usize = 500;

/// What is shown, and which statement it shows.
const DEMOS: [(&str, &str); 10] = [
    ("R2.9", "1. a limit of ten, 5,000 requests at once (the seed passed 5,000)"),
    ("R3.4", "2. 500 callers at a half-open breaker (the seed probed 500 times)"),
    ("R3.1", "3. an upstream that is slow, and never wrong, opens the breaker (the seed's never did)"),
    ("R9.3", "4. one sick node of three, by weight (the seed failed altogether from pick 566 on)"),
    ("R3.9", "5. a slow kitchen, ordered from five times with one key (the seed cooked 5 times)"),
    (
        "R4.4",
        "6. charges that time out, and payment killed on the way (the seed charged 3 times, and gave nothing back)",
    ),
    ("R2.13", "7. the fare that was quoted is the fare that is booked (the seed: 538.52 and 302.27)"),
    ("R2.2", "8. a bad file and a good one, under load (the seed had no reload)"),
    ("R14.3", "9. products while the bank of payments stands still (the seed had no rooms)"),
    (
        "R8.7",
        "10. one trace through the gateway and seven services, there and back (the seed passed none on)",
    ),
];

/// What `bazaar demos` is told.
#[derive(Args, Clone, Debug)]
pub struct DemosArgs {
    /// Writes the report there, as JSON.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// Shows all ten, and reports.
pub fn run(args: &DemosArgs) -> ExitCode {
    match platform::runtime().map(|runtime| runtime.block_on(demos())) {
        Ok(report) => report.end("bazaar demos", args.json.as_deref()),
        Err(message) => {
            complain(format_args!("bazaar demos: {message}"));
            ExitCode::FAILURE
        }
    }
}

async fn demos() -> Report {
    let (mut report, mut more) = (Report::default(), Report::default());
    let mut progress = Progress::of(DEMOS.len() as u64);
    let end = Instant::now() + ALL;
    let mut came: [Option<Result<String, String>>; 10] = [const { None }; 10];
    let shown = async {
        let mut show = |number: usize, it: Result<String, String>| {
            progress.step(DEMOS[number - 1].1);
            came[number - 1] = Some(it);
        };
        let mut small = Small::open().await;
        match &mut small {
            Ok(small) => {
                show(1, limit(small).await);
                show(2, half_open(small).await);
                show(3, all_slow(small).await);
                show(4, sick_node(small).await);
                show(8, reload(small).await);
                composed::small(small, &mut more).await;
            }
            Err(error) => {
                for number in [1, 2, 3, 4, 8] {
                    show(number, Err(error.clone()));
                }
            }
        }
        if let Ok(small) = small {
            small.family.stop(STOP, std::future::pending()).await;
        }
        let opened = match Collector::start().await {
            Ok(collector) => whole(collector.at).await.map(|platform| (platform, collector)),
            Err(error) => Err(error),
        };
        match opened {
            Ok((mut platform, collector)) => {
                show(7, fares(&platform).await);
                show(5, kitchen(&platform).await);
                show(10, trace(&platform, &collector).await);
                show(9, rooms(&platform).await);
                stock::show(&mut platform, &mut more).await;
                match customer(&platform) {
                    Ok(client) => composed::whole(&mut platform, &client, &mut more).await,
                    Err(error) => more.note("R13.1", "somebody who has an order", Err(error)),
                }
                show(6, charges(&mut platform, end).await);
                platform.stop().await;
            }
            Err(error) => {
                for number in [5, 6, 7, 9, 10] {
                    show(number, Err(error.clone()));
                }
            }
        }
    };
    _ = timeout(ALL, shown).await;
    drop(progress);
    for ((row, check), came) in DEMOS.into_iter().zip(came) {
        let late = || Err(format!("it did not come to this within {} s", ALL.as_secs()));
        report.note(row, check, came.unwrap_or_else(late));
    }
    report.append(more);
    report
}

/// A gateway with a small configuration, and its upstreams in this process.
pub(super) struct Small {
    family: Family,
    pub(super) config: PathBuf,
    pub(super) text: String,
    pub(super) client: Client,
    pub(super) admin: Client,
    breaker: Breaker,
    slow: Arc<AtomicU64>,
    _folder: TempDir,
    pub(super) upstreams: JoinSet<()>,
}

/// The upstream behind the breaker of the second demonstration.
#[derive(Clone, Debug)]
struct Breaker {
    is_failing: Arc<AtomicBool>,
    arrivals: Arc<AtomicU64>,
    gate: watch::Sender<bool>,
}

impl Small {
    async fn open() -> Result<Self, String> {
        let folder = tempfile::tempdir().map_err(|error| format!("no folder can be made: {error}"))?;
        let mut ports = Ports::default();
        let (public, admin, nobody) = (ports.another()?, ports.another()?, ports.another()?);
        let mut upstreams = JoinSet::new();
        let breaker = Breaker {
            is_failing: Arc::new(AtomicBool::new(true)),
            arrivals: Arc::default(),
            gate: watch::channel(false).0,
        };
        let probed = breaker.clone();
        let probed = any(move || probed.clone().answer());
        let slow = Arc::<AtomicU64>::default();
        let count = Arc::clone(&slow);
        let slowly = any(async move || {
            count.fetch_add(1, Relaxed);
            sleep(Duration::from_millis(100)).await;
        });
        let probe = serve(&mut upstreams, Router::new().fallback(probed)).await?;
        let late = serve(&mut upstreams, Router::new().fallback(slowly)).await?;
        let good = serve(&mut upstreams, Router::new().fallback(get(|| async { "good" }))).await?;
        let other = serve(&mut upstreams, Router::new().fallback(get(|| async { "other" }))).await?;
        let text = format!(
            r#"version: 1
gateway:
  admin: {{listen: "{admin}"}}
  drain: {{grace: 0s, deadline: 2s}}
listeners:
  public: {{listen: "{public}"}}
upstreams:
  probe:
    endpoints: ["{probe}"]
    circuit_breaker: {{consecutive: 5, failure_rate: never, open: 1s, probes: 1, max_ejected: all}}
  late:
    endpoints: ["{late}"]
    circuit_breaker: {{consecutive: never, failure_rate: never, slow_call: {{over: 50ms, rate: 80%}}, min_requests: 20, open: 60s, max_ejected: all}}
  nodes:
    endpoints: [{{address: "{good}", weight: 3}}, {{address: "{other}", weight: 2}}, {{address: "{nobody}", weight: 1}}]
    balance: {{policy: weighted_round_robin}}
    circuit_breaker: {{consecutive: 3, failure_rate: never, open: 60s}}
  steady:
    endpoints: ["{good}"]
routes:
  limited:
    match: {{path: /limited}}
    rate_limit: {{rate: 10/h, key: [client_ip]}}
    respond: {{body: "in\n"}}
  probe:
    match: {{path: /probe}}
    upstream: probe
  late:
    match: {{path: /late}}
    upstream: late
  nodes:
    match: {{path: /nodes}}
    retry: {{max: 2, when: [connect_error, 502-504], methods: safe}}
    upstream: nodes
  steady:
    match: {{path: /steady}}
    upstream: steady
"#
        );
        let config = folder.path().join("gateway.yaml");
        std::fs::write(&config, &text).map_err(|error| error.to_string())?;
        let mut family = Family::new(true);
        let args =
            ["naka", "--stop-with-stdin", "run", "-c"].map(Into::into).into_iter().chain([(&config).into()]);
        let started = family.start("gateway", &args.collect::<Vec<_>>());
        started.map_err(|error| format!("the gateway cannot be started: {error}"))?;
        tokio::select! {
            is_ready = timeout(START, ready(admin)) => is_ready.map_err(|_| "the gateway is not ready".to_owned())?,
            death = family.next_death() => return Err(super::up::mourn(&death)),
        }
        let client = Client::of("gateway", public).patient(PATIENCE);
        Ok(Self {
            family,
            config,
            text,
            client,
            breaker,
            slow,
            admin: Client::of("gateway", admin),
            _folder: folder,
            upstreams,
        })
    }

    /// The statuses of so many requests, as many of them at once as may be.
    async fn statuses(&self, path: &'static str, count: usize) -> Vec<Result<u16, String>> {
        let places = Arc::new(Semaphore::new(AT_ONCE));
        let mut asking = JoinSet::new();
        for _ in 0..count {
            let (client, places) = (self.client.clone(), Arc::clone(&places));
            asking.spawn(async move {
                let _place = places.acquire().await;
                client.ask(Verb::GET, path, &[], None).await.map(|answer| answer.status.as_u16())
            });
        }
        asking.join_all().await
    }
}

impl Breaker {
    /// Fails, or counts and waits until the gate is open.
    async fn answer(self) -> StatusCode {
        if self.is_failing.load(Relaxed) {
            return StatusCode::INTERNAL_SERVER_ERROR;
        }
        self.arrivals.fetch_add(1, Relaxed);
        let mut gate = self.gate.subscribe();
        _ = timeout(PATIENCE, gate.wait_for(|is_open| *is_open)).await;
        StatusCode::OK
    }
}

pub(super) async fn serve(upstreams: &mut JoinSet<()>, router: Router) -> Result<SocketAddr, String> {
    let listener = TcpListener::bind("127.0.0.1:0").await.map_err(|error| error.to_string())?;
    let at = listener.local_addr().map_err(|error| error.to_string())?;
    upstreams.spawn(async move { _ = axum::serve(listener, router).await });
    Ok(at)
}

fn of(statuses: &[Result<u16, String>], status: u16) -> usize {
    statuses.iter().filter(|it| **it == Ok(status)).count()
}

async fn limit(small: &Small) -> Result<String, String> {
    let statuses = small.statuses("/limited", 5_000).await;
    let (passed, refused) = (of(&statuses, 200), of(&statuses, 429));
    let said = format!("{passed} passed, {refused} were refused");
    // Ten an hour: on a machine that takes a minute for it, ten a minute would have let an eleventh pass.
    if (passed, refused) == (10, 4_990) { Ok(said) } else { Err(said) }
}

async fn half_open(small: &Small) -> Result<String, String> {
    let Breaker { is_failing, arrivals, gate } = &small.breaker;
    for _ in 0..8 {
        small.client.ask(Verb::GET, "/probe", &[], None).await?;
    }
    is_failing.store(false, Relaxed);
    sleep(Duration::from_millis(1_500)).await; // The breaker is open for a second.
    let callers = async {
        let statuses = small.statuses("/probe", 500).await;
        (of(&statuses, 200), of(&statuses, 503))
    };
    // The probe is let go when nobody else comes any more.
    let letting_go = async {
        let arrived = until(PATIENCE / 2, async || arrivals.load(Relaxed) > 0).await;
        sleep(Duration::from_secs(2)).await;
        let count = arrivals.load(Relaxed);
        gate.send_replace(true);
        (arrived, count)
    };
    let ((good, refused), (arrived, probes)) = tokio::join!(callers, letting_go);
    let said = format!("{probes} probe while it was half open; {good} were answered, {refused} refused");
    if arrived && probes == 1 && good + refused == 500 { Ok(said) } else { Err(said) }
}

async fn all_slow(small: &Small) -> Result<String, String> {
    let mut statuses = Vec::new();
    for _ in 0..10 {
        let mut asking = JoinSet::new();
        for _ in 0..10 {
            let client = small.client.clone();
            asking.spawn(async move {
                client.ask(Verb::GET, "/late", &[], None).await.map(|it| it.status.as_u16())
            });
        }
        statuses.extend(asking.join_all().await);
    }
    let (good, refused, reached) = (of(&statuses, 200), of(&statuses, 503), small.slow.load(Relaxed));
    let said = format!("open after {reached} of 100 calls, of which {good} were answered well");
    let is_right = refused > 0 && good + refused == 100 && reached == good as u64;
    if is_right { Ok(said) } else { Err(said) }
}

async fn sick_node(small: &Small) -> Result<String, String> {
    let statuses = small.statuses("/nodes", 2_000).await;
    let good = of(&statuses, 200);
    let other = statuses.iter().find(|it| **it != Ok(200));
    let said = format!("{good} of 2,000 were answered well");
    hold(good == 2_000, || format!("{said}; {other:?}"))?;
    Ok(said)
}

/// Loads while the file becomes bad, and good again with a route more.
async fn reload(small: &Small) -> Result<String, String> {
    let is_over = Arc::<AtomicBool>::default();
    let mut load = JoinSet::new();
    let begin = Instant::now();
    for _ in 0..16 {
        let (client, is_over) = (small.client.clone(), Arc::clone(&is_over));
        load.spawn(async move {
            let (mut good, mut wrong) = (0_u64, None);
            while !is_over.load(Relaxed) {
                match client.ask(Verb::GET, "/steady", &[], None).await {
                    Ok(answer) if answer.status == 200 => good += 1,
                    Ok(answer) => wrong = Some(format!("{} was {}", answer.asked, answer.status)),
                    Err(error) => wrong = Some(error),
                }
            }
            (good, wrong)
        });
    }
    let write = |text: &str| std::fs::write(&small.config, text).map_err(|error| error.to_string());
    let status =
        async |path: &str| small.client.ask(Verb::GET, path, &[], None).await.map(|it| it.status.as_u16());
    let changed = async {
        sleep(Duration::from_secs(1)).await;
        let bad = "  wrong:\n    match: {path: /wrong}\n    upstream: nobody\n";
        write(&format!("{}{bad}", small.text))?;
        // `last_error` says that the file was looked at, and refused.
        let is_refused =
            async || small.admin.get("/readyz").await.is_ok_and(|it| it.to_string().contains("nobody"));
        hold(until(PATIENCE, is_refused).await, || "the bad file was not refused".to_owned())?;
        let wrong = status("/wrong").await?;
        hold(wrong == 404, || format!("a route of the bad file is {wrong}"))?;
        let new = "  new:\n    match: {path: /new}\n    respond: {body: new}\n";
        write(&format!("{}{new}", small.text))?;
        let is_new = until(PATIENCE, async || status("/new").await == Ok(200)).await;
        hold(is_new, || "the good file has not taken effect".to_owned())?;
        sleep(Duration::from_millis(500)).await;
        Ok::<_, String>(())
    };
    let changed = changed.await;
    is_over.store(true, Relaxed);
    let came = load.join_all().await;
    let seconds = begin.elapsed().as_secs().max(1);
    changed?;
    let good = came.iter().map(|(good, _)| good).sum::<u64>();
    if let Some(wrong) = came.into_iter().find_map(|(_, wrong)| wrong) {
        return Err(format!("{good} requests went well, and {wrong}"));
    }
    Ok(format!("{good} requests, {} a second, without an error", good / seconds))
}

/// The whole platform, telling the collector what it does.
async fn whole(collector: SocketAddr) -> Result<Platform, String> {
    let change = |text: &str| {
        let telemetry = format!(
            "gateway:\n  telemetry: {{service: gateway, tracing: {{otlp: 'http://{collector}', trust_parent: always}}}}\n"
        );
        // A kitchen is waited for for a second, so that the demonstration does not take a minute.
        let kitchen = "timeouts: {connect: 1s, response_headers: 10s, idle: 30s}\n";
        let text = text.replacen("gateway:\n", &telemetry, 1);
        let at = text.find("\n  restaurant:\n").unwrap_or(text.len());
        let (before, after) = text.split_at(at);
        let impatient = kitchen.replace("10s", "1s");
        lift_limits(&format!("{before}{}", after.replacen(kitchen, &impatient, 1)))
    };
    let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT".to_owned(), format!("http://{collector}"));
    Platform::open(Plan { change: Some(&change), environment: vec![endpoint], ..Plan::default() }).await
}

fn customer(platform: &Platform) -> Result<Client, String> {
    let client = Client::of("gateway", platform.gateway).patient(Duration::from_mins(1));
    Ok(client.with_token(&platform.token("asha")?))
}

async fn fares(platform: &Platform) -> Result<String, String> {
    let client = customer(platform)?;
    let ends = [("mini", "prime", "auto"), ("suv", "", ""), ("bike", "", "")];
    let places = [(18.9220, 72.8342), (19.0760, 72.8777), (19.0178, 72.8478)];
    let mut fares = Vec::new();
    for ((one, two, three), (lat, lng)) in ends.into_iter().zip(places) {
        for ride_type in [one, two, three].into_iter().filter(|it| !it.is_empty()) {
            let drop = if ride_type == "suv" || ride_type == "bike" { places[0] } else { places[1] };
            let trip = json!({
                "pickup": {"lat": lat, "lng": lng}, "drop": {"lat": drop.0, "lng": drop.1}, "ride_type": ride_type,
            });
            let quote = client.post("/api/rides/estimate", "", &trip).await?.expect(200)?;
            let wish = json!({"quote_id": quote["quote_id"]});
            let booked =
                client.post("/api/rides/book", &format!("demo-{ride_type}"), &wish).await?.expect(201)?;
            let path = format!("/api/rides/{}/cancel", text(&booked, "ride_id")?);
            client.post(&path, "", &json!({})).await?.expect(200)?;
            let (quoted, fare) = (text(&quote, "fare")?, text(&booked, "fare")?);
            hold(quoted == fare, || format!("{ride_type}: {quoted} was quoted, and {fare} booked"))?;
            fares.push(format!("{ride_type} {quoted} = {fare}"));
        }
    }
    Ok(fares.join(", "))
}

async fn kitchen(platform: &Platform) -> Result<String, String> {
    const KITCHEN: &str = "/internal/restaurants/tanjore";
    let (client, inside) = (customer(platform)?, Client::of("restaurant", platform.at("restaurant")));
    let mode = async |mode: &str| {
        let wish = json!({"mode": mode});
        inside.ask(Verb::PUT, &format!("{KITCHEN}/mode"), &[], Some(&wish)).await?.expect(200)
    };
    let cooked = async || inside.get(KITCHEN).await.map(|it| it["cooked"].as_u64().unwrap_or_default());
    let before = cooked().await?;
    mode("slow").await?;
    let wish = json!({"items": [{"dish": "Idli", "quantity": 2}]});
    let mut statuses = Vec::new();
    for _ in 0..5 {
        let answer = client.post("/api/restaurants/tanjore/orders", "demo-meal", &wish).await?;
        statuses.push(answer.status.as_u16());
    }
    mode("open").await?;
    let count = cooked().await? - before;
    let said = format!("{count} cooked; the guest was answered {statuses:?}");
    if count == 1 && statuses.iter().any(|it| *it >= 500) { Ok(said) } else { Err(said) }
}

/// An order of tea.
fn wish(method: &str) -> Value {
    json!({
        "items": [{"product_id": "prod_003", "quantity": 1}], "payment_method": method,
        "address": {"line": "12, Station Road", "city": "mumbai", "pincode": "400050"},
    })
}

async fn trace(platform: &Platform, collector: &Collector) -> Result<String, String> {
    const PARENT: &str = "00-0000000000000000ba2aa7de00000010-000000000000f00d-01";
    let client = customer(platform)?;
    let mut order = wish("upi");
    order["payment"] = json!({"method": "upi", "account": "asha@okbank"});
    let headers = [("idempotency-key", "demo-trace"), ("traceparent", PARENT)];
    let placed = client.ask(Verb::POST, "/api/orders", &headers, Some(&order)).await?.expect(201)?;
    let path = format!("/api/orders/{}", text(&placed, "order_id")?);
    client.until(&path, "processing", |it| it["state"] == "processing").await?;
    let reason = json!({"reason": "to be seen"});
    let headers = [("traceparent", PARENT)];
    client.ask(Verb::POST, &format!("{path}/cancel"), &headers, Some(&reason)).await?.expect(200)?;
    client.until(&path, "refunded", |it| it["state"] == "refunded").await?;
    let wanted = ["gateway", "order", "user", "product", "inventory", "payment", "bank", "notification"];
    let all = async || wanted.iter().all(|name| collector.tellers(PARENT).contains(*name));
    let is_whole = until(Duration::from_secs(25), all).await;
    let tellers = collector.tellers(PARENT).into_iter().collect::<Vec<_>>();
    let said = format!("{} processes have told of it: {}", tellers.len(), tellers.join(", "));
    if is_whole { Ok(said) } else { Err(said) }
}

/// How long products take, the median, and whether any failed.
async fn products(client: &Client) -> Result<Duration, String> {
    let mut took = Vec::new();
    for _ in 0..200 {
        let begin = Instant::now();
        let answer = client.ask(Verb::GET, "/api/products/prod_003", &[], None).await?;
        hold(answer.status == 200, || format!("{} was {}", answer.asked, answer.status))?;
        took.push(begin.elapsed());
    }
    took.sort_unstable();
    Ok(took[took.len() / 2])
}

async fn rooms(platform: &Platform) -> Result<String, String> {
    let client = customer(platform)?;
    let mut orders = Vec::new();
    for number in 0..40 {
        let placed =
            client.post("/api/orders", &format!("demo-room-{number}"), &wish("upi")).await?.expect(201)?;
        orders.push(text(&placed, "order_id")?.to_owned());
    }
    products(&client).await?; // The first ones find connections.
    let before = products(&client).await?;
    platform.signal("bank", Signal::STOP);
    let mut paying = JoinSet::new();
    for order_id in orders {
        let client = client.clone();
        paying.spawn(async move {
            let pay = json!({"order_id": order_id, "method": "upi", "account": "asha@okbank"});
            client.post("/api/payments", &order_id, &pay).await.map(|it| it.status.as_u16())
        });
    }
    sleep(Duration::from_secs(1)).await;
    let during = products(&client).await;
    let mut settled = 0;
    while paying.try_join_next().is_some() {
        settled += 1;
    }
    platform.signal("bank", Signal::CONT);
    paying.abort_all();
    let during = during?;
    let said = format!(
        "400 of 400 products; median {before:?} before, {during:?} while {} of 40 payments hung",
        40 - settled
    );
    // A room that is full is waited for a whole second; a neighbour on this machine costs less.
    hold(settled < 40, || format!("{said}: nothing hung"))?;
    hold(during < before * 3 + Duration::from_millis(250), || said.clone())?;
    Ok(said)
}

async fn charges(platform: &mut Platform, end: Instant) -> Result<String, String> {
    let client = customer(platform)?;
    let mut paying = JoinSet::new();
    for (number, manner) in ["lost", "late", "slow", "good", "lost", "late"].into_iter().enumerate() {
        let key = format!("demo-charge-{number}");
        let placed = client.post("/api/orders", &key, &wish("upi")).await?.expect(201)?;
        let order_id = text(&placed, "order_id")?.to_owned();
        let client = client.clone();
        paying.spawn(async move {
            let pay = json!({"order_id": order_id, "method": "upi", "account": format!("{manner}@bank")});
            for _ in 0..20 {
                let answer = client.post("/api/payments", &key, &pay).await;
                if answer.is_ok_and(|it| !it.status.is_server_error() && it.status != StatusCode::ACCEPTED) {
                    return;
                }
                sleep(Duration::from_millis(500)).await;
            }
        });
    }
    for _ in 0..3 {
        sleep(Duration::from_millis(700)).await;
        platform.kill("payment").await?;
        platform.start("payment")?;
        platform.until_ready("payment").await?;
    }
    let books = Books::of(platform.data());
    let left = end.saturating_duration_since(Instant::now()).saturating_sub(Duration::from_secs(10));
    let open = "SELECT count(*) FROM sagas WHERE state IN ('running', 'compensating') OR revoked IS NOT NULL";
    let is_over = async || books.count("payment", open) == Ok(0) && books.money().is_ok();
    let is_calm = until(left, is_over).await;
    paying.abort_all();
    let money = books.money()?;
    let sagas = books.count("payment", open)?;
    hold(is_calm, || format!("{sagas} payments are still under way"))?;
    let (charges, refunds) = (
        books.count("bank", "SELECT count(*) FROM movements WHERE entry = 'charge'")?,
        books.count("bank", "SELECT count(*) FROM movements WHERE entry = 'refund'")?,
    );
    Ok(format!(
        "{charges} charges, {refunds} refunds, payment killed 3 times; {money}: each 0 or 1 charge net"
    ))
}

/// Takes what is told over OTLP/HTTP, and keeps who told of which trace.
///
/// Only the name of the service and the ids of traces are looked for, as bytes: the messages are those of OpenTelemetry (`trace/v1`), in
/// which a string is its length and its bytes.
#[derive(Clone, Debug)]
struct Collector {
    at: SocketAddr,
    told: Arc<Mutex<Vec<(String, Bytes)>>>,
    _serving: Arc<JoinSet<()>>,
}

/// How many messages a collector keeps, and how many bytes one has at most.
const KEPT: (usize, usize) = (4_096, 4 * 1024 * 1024);

impl Collector {
    async fn start() -> Result<Self, String> {
        let told = Arc::<Mutex<Vec<(String, Bytes)>>>::default();
        let keeping = Arc::clone(&told);
        let keep = any(async move |request: Request| {
            let Ok(body) = to_bytes(request.into_body(), KEPT.1).await else {
                return StatusCode::BAD_REQUEST;
            };
            let Some(name) = service_name(&body) else { return StatusCode::BAD_REQUEST };
            let mut told = keeping.lock().unwrap_or_else(PoisonError::into_inner);
            if told.len() < KEPT.0 {
                told.push((name, body));
            }
            StatusCode::OK
        });
        let mut serving = JoinSet::new();
        let at = serve(&mut serving, Router::new().fallback(keep)).await?;
        Ok(Self { at, told, _serving: Arc::new(serving) })
    }

    /// Who has told of the trace of that `traceparent`.
    fn tellers(&self, parent: &str) -> BTreeSet<String> {
        let id = parent.get(3..35).unwrap_or_default();
        let id = (0..id.len() / 2).map(|at| u8::from_str_radix(&id[2 * at..2 * at + 2], 16).unwrap_or(0));
        let id = id.collect::<Vec<_>>();
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let of_it = told.iter().filter(|(_, body)| body.windows(id.len()).any(|it| it == id));
        of_it.map(|(name, _)| name.clone()).collect()
    }
}

/// The value after the key `service.name`: a string in an `AnyValue`, which is the value of a `KeyValue`.
fn service_name(body: &[u8]) -> Option<String> {
    const KEY: &[u8] = b"service.name";
    let at = body.windows(KEY.len()).position(|it| it == KEY)? + KEY.len();
    let [0x12, _, 0x0a, length, rest @ ..] = &body[at..] else { return None };
    String::from_utf8(rest.get(..usize::from(*length))?.to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_service_is_found_in_a_message() {
        let body = b"\x0a\x2e\x0a\x1a\x0a\x18\x0a\x0cservice.name\x12\x07\x0a\x05order\x12...";
        assert_eq!(service_name(body).as_deref(), Some("order"));
        assert_eq!(service_name(b"service.name\x12\x02\x0a\x05or"), None);
        assert_eq!(service_name(b"nothing"), None);
    }
}
