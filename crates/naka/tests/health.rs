//! Active health checks: who is asked, when, and what comes of it.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests may")]

use std::{
    collections::BTreeMap,
    future::pending,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll},
    time::Duration,
};

use naka::{
    BoxError,
    balance::{Absence, BalanceConfig, BalanceLayer, Endpoint},
    health::{Change, Condition, Health, HealthConfig, MAX_AT_ONCE, Standing},
    observe::Observer,
};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};
use tower::Service;

/// What a scripted endpoint does when it is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Does {
    Pass,
    Fail,
    Hang,
}

/// Endpoints that do as they are told, and remember when they were asked.
#[derive(Clone, Default)]
struct Script {
    endpoints: Arc<Mutex<BTreeMap<String, Told>>>,
    working: Arc<AtomicUsize>,
    peak: Arc<AtomicUsize>,
}

/// What one endpoint was told, and when it was asked.
#[derive(Default)]
struct Told {
    does: Option<Does>,
    asked: Vec<Instant>,
}

impl Script {
    fn says(&self, address: &str, does: Does) {
        self.endpoints.lock().unwrap().entry(address.to_owned()).or_default().does = Some(does);
    }

    fn asked(&self, address: &str) -> Vec<Instant> {
        self.endpoints.lock().unwrap().get(address).map(|it| it.asked.clone()).unwrap_or_default()
    }

    fn peak(&self) -> usize {
        self.peak.load(SeqCst)
    }
}

/// One question under way.
struct UnderWay(Arc<AtomicUsize>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

impl Service<Endpoint> for Script {
    type Response = ();
    type Error = BoxError;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, endpoint: Endpoint) -> Self::Future {
        let does = {
            let mut all = self.endpoints.lock().unwrap();
            let told = all.entry(endpoint.address().to_string()).or_default();
            told.asked.push(Instant::now());
            told.does.unwrap_or(Does::Pass)
        };
        self.peak.fetch_max(self.working.fetch_add(1, SeqCst) + 1, SeqCst);
        let under_way = UnderWay(Arc::clone(&self.working));
        Box::pin(async move {
            let _under_way = under_way;
            match does {
                Does::Pass => Ok(()),
                Does::Fail => Err("it says no".into()),
                Does::Hang => pending().await,
            }
        })
    }
}

/// What the observer hears.
#[derive(Clone, Default)]
struct Heard(Arc<Mutex<Vec<String>>>, Arc<AtomicUsize>);

impl Observer for Heard {
    fn checked(&self, _: bool) {
        self.1.fetch_add(1, SeqCst);
    }

    fn health_changed(&self, change: &Change) {
        let Change { endpoint, from, to, checks, why, .. } = change;
        let why = why.as_deref().unwrap_or("-");
        let line = format!("{} {} {} {checks} {why}", endpoint.address(), from.word(), to.word());
        self.0.lock().unwrap().push(line);
    }
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Longer than the longest pause between two checks.
const ROUND: Duration = Duration::from_secs(6);

fn started(layer: &BalanceLayer, script: &Script) -> (Health, Heard, JoinHandle<()>) {
    let heard = Heard::default();
    let (health, driver) = Health::observed(HealthConfig::default(), layer, script.clone(), heard.clone());
    (health, heard, tokio::spawn(driver.run()))
}

fn is_out(layer: &BalanceLayer, address: &str) -> bool {
    let endpoints = layer.endpoints();
    let endpoint = endpoints.iter().find(|endpoint| &**endpoint.address() == address).unwrap();
    endpoint.absences().any(|absence| absence == Absence::Unhealthy)
}

async fn asked_more(script: &Script, address: &str, more: usize) {
    let goal = script.asked(address).len() + more;
    while script.asked(address).len() < goal {
        sleep(Duration::from_millis(10)).await;
    }
    sleep(Duration::from_millis(1)).await; // Its answer is heard.
}

#[tokio::test(start_paused = true)]
async fn r1_5_three_failures_take_an_endpoint_out_and_two_passes_bring_it_back() {
    let (layer, script) = (BalanceLayer::new(["a:1", "b:1"]), Script::default());
    let (health, heard, _driver) = started(&layer, &script);
    sleep(seconds(2)).await;
    assert_eq!(health.of("a:1").unwrap().standing, Standing::Healthy);

    script.says("a:1", Does::Fail);
    for failures in 1..=3 {
        asked_more(&script, "a:1", 1).await;
        let is = health.of("a:1").unwrap();
        assert_eq!((is.failures, is.passes, is_out(&layer, "a:1")), (failures, 0, failures == 3));
        let condition = if failures == 3 { Condition::Unhealthy } else { Condition::Degraded };
        assert_eq!(is.condition, condition);
        assert_eq!(&*is.last_failure.unwrap().why, "it says no");
    }
    // It comes and goes, and stays out.
    for does in [Does::Pass, Does::Fail, Does::Pass, Does::Fail, Does::Pass] {
        script.says("a:1", does);
        asked_more(&script, "a:1", 1).await;
        assert!(is_out(&layer, "a:1"));
    }
    asked_more(&script, "a:1", 1).await;
    assert!(!is_out(&layer, "a:1"));
    let is = health.of("a:1").unwrap();
    assert_eq!((is.standing, is.passes), (Standing::Healthy, 2));
    assert!(is.since.elapsed() < Duration::from_millis(100) && is.last_failure.is_some());
    assert!(!is_out(&layer, "b:1"));
    // Whoever else says that an endpoint is unhealthy, or that it is well, is put right.
    let endpoints = layer.endpoints();
    endpoints[0].withdraw(Absence::Unhealthy);
    asked_more(&script, "a:1", 1).await;
    assert!(!is_out(&layer, "a:1"));
    assert_eq!(
        heard.0.lock().unwrap().iter().filter(|line| line.starts_with("a:1")).collect::<Vec<_>>(),
        ["a:1 unknown healthy 1 -", "a:1 healthy unhealthy 3 it says no", "a:1 unhealthy healthy 2 -"]
    );
}

#[tokio::test(start_paused = true)]
async fn the_first_check_counts_at_once_and_until_then_it_gets_requests() {
    let (layer, script) = (BalanceLayer::new(["a:1"]), Script::default());
    script.says("a:1", Does::Fail);
    let (health, driver) = Health::new(HealthConfig::default(), &layer, script.clone());
    assert!(health.of("a:1").is_none(), "nothing is in force yet");
    health.put_in_force();
    assert_eq!(health.of("a:1").unwrap().condition, Condition::Unknown);
    sleep(seconds(60)).await;
    assert!(script.asked("a:1").is_empty() && !is_out(&layer, "a:1"), "nobody runs the driver");
    let driver = tokio::spawn(driver.run());
    asked_more(&script, "a:1", 1).await;
    assert!(is_out(&layer, "a:1"));
    script.says("a:1", Does::Pass);
    asked_more(&script, "a:1", 1).await;
    assert!(!is_out(&layer, "a:1"), "it has come up");
    driver.abort();
}

#[tokio::test(start_paused = true)]
async fn r10_2_never_more_than_one_check_in_an_interval_and_never_all_together() {
    let addresses = (0..40).map(|number| format!("e{number}:1")).collect::<Vec<_>>();
    let layer = BalanceLayer::new(addresses.iter().map(String::as_str));
    let (script, start) = (Script::default(), Instant::now());
    let (health, heard, _driver) = started(&layer, &script);
    // Other handles, and other configurations put in force at any time, do not check more often.
    for step in 0..100 {
        sleep(Duration::from_millis(997)).await;
        let mut config = HealthConfig::default();
        config.unhealthy_after = 3 + step % 2;
        health.reconfigured(config, &layer, script.clone()).put_in_force();
        let _ = health.endpoints();
    }
    let mut first = Vec::new();
    for address in &addresses {
        let asked = script.asked(address);
        first.push(asked[0] - start);
        for pair in asked.windows(2) {
            let pause = pair[1] - pair[0];
            assert!((seconds(5)..=seconds(6)).contains(&pause), "{address}: {pause:?}");
        }
        assert!((16..=21).contains(&asked.len()), "{}", asked.len());
    }
    assert!(first.iter().all(|first| *first <= seconds(1)));
    let early = first.iter().filter(|first| **first < Duration::from_millis(500)).count();
    assert!((5..=35).contains(&early), "{early} of 40 in the first half");
    assert_eq!(heard.1.load(SeqCst), addresses.iter().map(|it| script.asked(it).len()).sum::<usize>());
}

#[tokio::test(start_paused = true)]
async fn r10_4_a_check_that_hangs_fails_only_itself() {
    let (layer, script) = (BalanceLayer::new(["a:1", "b:1", "c:1"]), Script::default());
    let (health, ..) = started(&layer, &script);
    sleep(seconds(2)).await;
    script.says("a:1", Does::Hang);
    let before = script.asked("b:1").len();
    sleep(ROUND * 4).await;
    let hung = health.of("a:1").unwrap();
    assert_eq!(
        (hung.standing, &*hung.last_failure.unwrap().why),
        (Standing::Unhealthy, "no answer within 1s")
    );
    assert!(is_out(&layer, "a:1") && !is_out(&layer, "b:1") && !is_out(&layer, "c:1"));
    assert!(script.asked("b:1").len() >= before + 4);
    assert_eq!(health.of("b:1").unwrap().failures, 0);
}

#[tokio::test(start_paused = true)]
async fn r10_4_of_many_that_hang_so_many_at_once_and_each_has_its_turn() {
    let addresses = (0..500).map(|number| format!("e{number}:1")).collect::<Vec<_>>();
    let (layer, script) = (BalanceLayer::new(addresses.iter().map(String::as_str)), Script::default());
    for address in &addresses {
        script.says(address, Does::Hang);
    }
    let (health, ..) = started(&layer, &script);
    // 64 in a second: all of them in 8.
    sleep(seconds(10)).await;
    assert_eq!(script.peak(), MAX_AT_ONCE);
    assert!(health.endpoints().iter().all(|it| it.standing == Standing::Unhealthy));
    sleep(seconds(20)).await;
    assert!(addresses.iter().all(|address| script.asked(address).len() >= 2), "nobody is left out");
    assert_eq!(script.peak(), MAX_AT_ONCE);
}

#[tokio::test(start_paused = true)]
async fn endpoints_that_come_are_checked_soon_and_those_that_go_no_more() {
    let (layer, script) = (BalanceLayer::new(["a:1", "b:1"]), Script::default());
    let (health, ..) = started(&layer, &script);
    sleep(seconds(2)).await;
    layer.update(["a:1", "new:1"]);
    script.says("new:1", Does::Fail);
    sleep(Duration::from_millis(1_010)).await;
    assert_eq!(script.asked("new:1").len(), 1);
    assert!(is_out(&layer, "new:1"));
    let before = script.asked("b:1").len();
    sleep(seconds(60)).await;
    assert_eq!(script.asked("b:1").len(), before);
    assert!(health.of("b:1").is_none() && health.endpoints().len() == 2);

    // One that comes and goes all the time is not checked each time.
    let before = script.asked("new:1").len();
    for _ in 0..10 {
        layer.update(["a:1"]);
        sleep(Duration::from_millis(50)).await;
        layer.update(["a:1", "new:1"]);
        sleep(Duration::from_millis(1_150)).await;
        assert!(is_out(&layer, "new:1"), "it is not forgotten that it is sick");
    }
    let asked = script.asked("new:1").len() - before;
    assert!((1..=3).contains(&asked), "{asked} in 12 s");
}

#[tokio::test(start_paused = true)]
async fn another_interval_counts_from_the_last_check_on() {
    let (layer, script) = (BalanceLayer::new(["a:1"]), Script::default());
    let mut config = HealthConfig::default();
    config.interval = Duration::from_hours(1);
    let (health, driver) = Health::new(config, &layer, script.clone());
    tokio::spawn(driver.run());
    sleep(seconds(30)).await;
    assert_eq!(script.asked("a:1").len(), 1);
    config.interval = seconds(10);
    let shorter = health.reconfigured(config, &layer, script.clone());
    shorter.put_in_force();
    sleep(Duration::from_millis(1)).await;
    assert_eq!(script.asked("a:1").len(), 2, "it is due since then");
    config.interval = Duration::from_hours(1);
    health.reconfigured(config, &layer, script.clone()).put_in_force();
    sleep(Duration::from_mins(59)).await;
    assert_eq!(script.asked("a:1").len(), 2, "what was due under the shorter one is not any more");
    sleep(Duration::from_mins(14)).await;
    assert_eq!(script.asked("a:1").len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_check_under_way_is_given_up_when_its_endpoint_goes() {
    let (layer, script) = (BalanceLayer::new(["a:1", "b:1"]), Script::default());
    script.says("b:1", Does::Hang);
    let (_health, heard, _driver) = started(&layer, &script);
    while script.asked("b:1").is_empty() {
        sleep(Duration::from_millis(1)).await;
    }
    layer.update(["a:1"]);
    sleep(seconds(3)).await;
    assert_eq!(script.working.load(SeqCst), 0);
    for _ in 0..10 {
        layer.update(["a:1", "b:1"]);
        sleep(Duration::from_millis(100)).await;
        layer.update(["a:1"]);
        sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(script.asked("b:1").len(), 1, "a check that was given up was one");
    assert!(heard.0.lock().unwrap().iter().all(|line| line.starts_with("a:1")));
}

#[tokio::test(start_paused = true)]
async fn what_is_known_goes_on_under_another_configuration_of_both() {
    let (layer, script) = (BalanceLayer::new(["a:1", "b:1"]), Script::default());
    let (health, _, _driver) = started(&layer, &script);
    sleep(seconds(2)).await;
    script.says("a:1", Does::Fail);
    sleep(ROUND * 3).await;
    assert!(is_out(&layer, "a:1"));
    let since = health.of("a:1").unwrap().since;

    // Of a configuration that is thrown away nothing is seen.
    let other = BalanceLayer::new(["x:1"]);
    drop(health.reconfigured(HealthConfig::default(), &other, script.clone()));
    sleep(ROUND).await;
    assert!(script.asked("x:1").is_empty());

    let next_layer = layer.reconfigured(BalanceConfig::default(), ["a:1", "c:1"]);
    let mut config = HealthConfig::default();
    (config.interval, config.healthy_after) = (seconds(1), 1);
    let next = health.reconfigured(config, &next_layer, script.clone());
    next.put_in_force();
    assert!(is_out(&next_layer, "a:1"));
    assert_eq!(health.of("a:1").unwrap().since, since);
    let before = script.asked("a:1").len();
    sleep(seconds(6)).await;
    assert!(script.asked("a:1").len() >= before + 4, "by the new interval");
    assert!(!script.asked("c:1").is_empty());
    script.says("a:1", Does::Pass);
    asked_more(&script, "a:1", 1).await;
    assert!(!is_out(&next_layer, "a:1"), "by the new threshold");
}

#[tokio::test(start_paused = true)]
async fn an_account_that_the_balancer_has_forgotten_is_withdrawn_again() {
    let (layer, script) = (BalanceLayer::new(["a:1"]), Script::default());
    script.says("a:1", Does::Fail);
    let (health, _, _driver) = started(&layer, &script);
    sleep(seconds(2)).await;
    let another = BalanceLayer::new(["a:1"]); // Which shares nothing with the first.
    assert!(!is_out(&another, "a:1"));
    health.reconfigured(HealthConfig::default(), &another, script.clone()).put_in_force();
    assert!(is_out(&another, "a:1"));
}

#[tokio::test(start_paused = true)]
async fn when_nobody_checks_any_more_whoever_was_out_is_back() {
    let (layer, script) = (BalanceLayer::new(["a:1", "b:1", "gone:1"]), Script::default());
    for address in ["a:1", "b:1", "gone:1"] {
        script.says(address, Does::Fail);
    }
    let (health, _, driver) = started(&layer, &script);
    sleep(seconds(2)).await;
    let [a, _, gone] = &layer.endpoints()[..] else { panic!("three") };
    a.withdraw(Absence::Maintenance);
    layer.update(["a:1", "b:1"]);
    sleep(seconds(2)).await;
    let next = health.reconfigured(HealthConfig::default(), &layer, script.clone());
    drop(health);
    assert!(is_out(&layer, "b:1"), "there is another handle");
    driver.abort();
    assert!(driver.await.unwrap_err().is_cancelled());
    assert!(is_out(&layer, "b:1"), "and it could be told to somebody");
    drop(next);
    assert!(!is_out(&layer, "a:1") && !is_out(&layer, "b:1"));
    assert_eq!(a.absences().collect::<Vec<_>>(), [Absence::Maintenance], "other reasons are not its own");
    assert_eq!(gone.absences().count(), 0, "and if it came back it would be well");
}

#[tokio::test(start_paused = true)]
async fn what_is_remembered_of_endpoints_that_are_gone_is_bounded_and_leaves_nobody_out() {
    let (layer, script) = (BalanceLayer::new(["sick:1"]), Script::default());
    script.says("sick:1", Does::Fail);
    let (_health, _, _driver) = started(&layer, &script);
    sleep(seconds(2)).await;
    let sick = layer.endpoints().remove(0);
    assert_eq!(sick.absences().count(), 1);
    for number in 0..300 {
        layer.update([&*format!("e{number}:1")]);
        sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(sick.absences().count(), 0);
}

#[tokio::test(start_paused = true)]
async fn those_that_are_out_may_be_checked_at_another_pace() {
    let (layer, script) = (BalanceLayer::new(["a:1", "b:1"]), Script::default());
    script.says("a:1", Does::Fail);
    let mut config = HealthConfig::default();
    (config.unhealthy_interval, config.timeout) = (Some(seconds(1)), seconds(20));
    let (_health, driver) = Health::new(config, &layer, script.clone());
    tokio::spawn(driver.run());
    sleep(seconds(61)).await;
    assert!((49..=61).contains(&script.asked("a:1").len()), "{}", script.asked("a:1").len());
    assert!((10..=13).contains(&script.asked("b:1").len()), "{}", script.asked("b:1").len());
    // A timeout longer than the interval counts as the interval.
    script.says("a:1", Does::Hang);
    let before = script.asked("a:1").len();
    sleep(seconds(10)).await;
    assert!(script.asked("a:1").len() >= before + 7);
    assert!(script.peak() <= 2);
}

/// What a failure says may come from outside.
#[tokio::test(start_paused = true)]
async fn of_a_failure_a_part_is_kept() {
    let layer = BalanceLayer::new(["a:1"]);
    let probe = tower::service_fn(|_: Endpoint| async { Err::<(), _>("ü".repeat(10_000)) });
    let (health, driver) = Health::new(HealthConfig::default(), &layer, probe);
    tokio::spawn(driver.run());
    sleep(seconds(2)).await;
    assert_eq!(health.of("a:1").unwrap().last_failure.unwrap().why.len(), 256);
}

/// Whoever changes what is checked, while it is, on several threads.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn changes_from_all_sides_stop_nothing_and_leave_nobody_out() {
    let (layer, script) = (BalanceLayer::new(["a:1", "b:1"]), Script::default());
    for number in 0..8 {
        script.says(&format!("e{number}:1"), Does::Fail);
    }
    let mut config = HealthConfig::default();
    config.interval = Duration::from_millis(100);
    let (health, driver) = Health::new(config, &layer, script.clone());
    let driver = tokio::spawn(driver.run());
    let known = Arc::new(Mutex::new(Vec::new()));
    let changes = (0..4).map(|task| {
        let (layer, health, script) = (layer.clone(), health.clone(), script.clone());
        let known = Arc::clone(&known);
        tokio::spawn(async move {
            for turn in 0..200 {
                let (one, other) = (format!("e{}:1", (task + turn) % 8), format!("e{}:1", turn % 5));
                layer.update([&*one, &*other]);
                known.lock().unwrap().extend(layer.endpoints());
                health.reconfigured(config, &layer, script.clone()).put_in_force();
                assert!(health.endpoints().len() <= 2);
                sleep(Duration::from_millis(1)).await;
            }
        })
    });
    for change in changes.collect::<Vec<_>>() {
        change.await.unwrap();
    }
    // It goes on: the last of them are found to be sick.
    while !layer.endpoints().iter().all(|endpoint| is_out(&layer, endpoint.address())) {
        sleep(Duration::from_millis(10)).await;
    }
    driver.abort();
    assert!(driver.await.unwrap_err().is_cancelled());
    drop(health);
    assert!(known.lock().unwrap().iter().all(|endpoint| endpoint.absences().next().is_none()));
}
