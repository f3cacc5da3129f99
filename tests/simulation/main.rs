//! What the layers do together, under failures that go on for a while: thousands of seconds of virtual time in
//! seconds. Each scenario runs with and without what it is about, says what has to hold, and keeps its tables and
//! charts in `docs/simulation/`.
#![allow(clippy::unwrap_used, reason = "tests may")]

mod keys;
mod report;
mod world;

use std::time::Duration;

use naka::{
    balance::{Absence, BalanceConfig, BalanceLayer, Policy},
    bulkhead::{Adaptive, BulkheadConfig, BulkheadLayer},
    circuit_breaker::{CircuitBreakerConfig, EndpointBreakers, Window},
    clock::Now,
    enforce::Enforce,
    retry::{Budget, BudgetConfig, RetryConfig, RetryLayer, When},
    timeout::TimeoutLayer,
};
use report::Report;
use tower::ServiceBuilder;
use world::{Fleet, Mode, Run, SECOND, Stack, percent, run, stack};

const SEED: u64 = 42;
const MS: Duration = Duration::from_millis(1);

/// What stands before the servers.
#[derive(Clone)]
struct Guards {
    balance: BalanceConfig,
    retry: Option<(RetryConfig, BudgetConfig)>,
    breaker: Option<CircuitBreakerConfig>,
    bulkhead: Option<BulkheadConfig>,
    /// Of one attempt, and of all.
    patience: (Duration, Duration),
    /// So many of the fleet are known at first.
    begins_with: usize,
}

impl Guards {
    fn new(policy: Policy) -> Self {
        let balance = BalanceConfig::new(policy).seed(SEED);
        Self {
            balance,
            retry: None,
            breaker: None,
            bulkhead: None,
            patience: (SECOND, 5 * SECOND),
            begins_with: 100,
        }
    }

    fn retry(mut self, max: u32, budget: BudgetConfig) -> Self {
        let when = When::never()
            .connect_error(true)
            .reset(true)
            .response_timeout(true)
            .statuses([500, 502, 503].map(|status| http::StatusCode::from_u16(status).unwrap()));
        self.retry = Some((RetryConfig::new(max).when(when).seed(SEED), budget));
        self
    }

    fn breaker(mut self) -> Self {
        let config = CircuitBreakerConfig::new()
            .consecutive(5)
            .window(Window::Time(10 * SECOND), 20)
            .open(SECOND, 60 * SECOND)
            .probes(3, 3)
            .seed(SEED);
        self.breaker = Some(config);
        self.balance = self.balance.max_ejected(50);
        self
    }

    /// The stack over a fleet, and the balancer in it.
    fn over(&self, fleet: &Fleet) -> (Stack, BalanceLayer) {
        let addresses = fleet.addresses();
        let mut balancer = BalanceLayer::with_config(
            self.balance.clone(),
            addresses.iter().take(self.begins_with).map(String::as_str),
        );
        if let Some(config) = self.breaker {
            let breakers = EndpointBreakers::new(config);
            balancer = balancer.gated(move |address| breakers.gate(address));
        }
        let retry = self.retry.clone().map_or_else(RetryLayer::off, |(config, budget)| {
            RetryLayer::new(config, Budget::new(budget, Now::read()))
        });
        let bulkhead = self.bulkhead.map_or_else(BulkheadLayer::off, BulkheadLayer::new);
        let service = ServiceBuilder::new()
            .layer(TimeoutLayer::new(self.patience.1))
            .layer(bulkhead)
            .layer(retry)
            .layer(balancer.clone())
            .service(fleet.client(self.patience.0));
        (stack(service), balancer)
    }
}

/// All of it with one name, under one load.
async fn with(
    name: &'static str,
    guards: &Guards,
    fleet: &Fleet,
    load: (usize, f64),
    mut at: impl FnMut(usize, &BalanceLayer),
) -> Run {
    let (stack, balancer) = guards.over(fleet);
    run(name, (stack, fleet), load, SEED, |second| at(second, &balancer)).await
}

fn good(run: &Run, second: usize) -> f64 {
    run.good_percent(second, second + 1)
}

fn number(value: f64) -> String {
    format!("{value:.1}")
}

/// An upstream slows down for ten seconds. Callers who try three times more keep it down after that, for ever:
/// what they send is more than it can do. A budget lets them add a fifth.
#[tokio::test(start_paused = true)]
async fn a_retry_storm_goes_on_for_ever_and_a_budget_ends_it() {
    let load = (180, 30.0);
    let mut runs = Vec::new();
    let budgets = [
        ("no retries", None),
        ("3 retries, no budget", Some(BudgetConfig::new().percent(1000).min_per_second(1000))),
        ("3 retries, 20 %", Some(BudgetConfig::new().min_per_second(1))),
    ];
    for (name, budget) in budgets {
        // Sixty a second is what both can do together.
        let fleet = Fleet::alike(2, 3, 100 * MS, SEED);
        let guards = Guards::new(Policy::LeastRequest);
        let guards = match budget {
            Some(budget) => guards.retry(3, budget),
            None => guards,
        };
        let run = with(name, &guards, &fleet, load, |second, _| {
            let mode = if (30..40).contains(&second) { Mode::Slow(4.0) } else { Mode::Well };
            (0..2).for_each(|node| fleet.node(node).is(mode));
        });
        runs.push(run.await);
    }
    let [none, storm, kept] = [&runs[0], &runs[1], &runs[2]];
    assert!(
        storm.good_percent(120, 180) < 30.0,
        "it should be down for good: {}",
        storm.good_percent(120, 180)
    );
    assert!(kept.good_percent(120, 180) > 99.0, "it should be well again: {}", kept.good_percent(120, 180));
    assert!(kept.load_percent(0, 180) <= 121.0 + 1.0, "a fifth more: {}", kept.load_percent(0, 180));
    let mut report = Report::new(
        "retry-storm",
        "A retry storm, with and without a budget",
        "Two servers that can do 60 requests a second together are asked for 30. From second 30 to 40 each request takes them four\n\
         times as long. Whoever waits for more than a second for one try gives it up; the servers do not notice, and do the work.",
    );
    let rows = runs.iter().map(|run| {
        vec![
            run.name.into(),
            number(run.good_percent(0, 30)),
            number(run.good_percent(30, 40)),
            number(run.good_percent(40, 120)),
            number(run.good_percent(120, 180)),
            number(run.load_percent(30, 180)),
        ]
    });
    report.table(
        &[
            "",
            "good before, %",
            "good while it is slow, %",
            "until 120 s, %",
            "after that, %",
            "requests to servers for 100, from 30 s",
        ],
        &rows.collect::<Vec<_>>(),
    );
    report.chart("good", "good answers, %", &[none, storm, kept], good);
    report.chart(
        "load",
        "requests to servers for 100 that were asked for",
        &[none, storm, kept],
        |run, second| run.load_percent(second, second + 1),
    );
    report.check();
}

/// One of five is ten times as slow as the others, from second 20 on.
#[tokio::test(start_paused = true)]
async fn a_slow_endpoint_among_fast_ones_gets_less_from_who_looks() {
    let mut runs = Vec::new();
    for (name, policy) in [
        ("round robin", Policy::RoundRobin),
        ("random", Policy::Random),
        ("least request", Policy::LeastRequest),
        ("peak EWMA", Policy::PeakEwma),
    ] {
        let fleet = Fleet::alike(5, 8, 20 * MS, SEED);
        let guards = Guards { patience: (5 * SECOND, 10 * SECOND), ..Guards::new(policy) };
        let mut before = [0; 5];
        let run = with(name, &guards, &fleet, (120, 60.0), |second, _| {
            if second == 20 {
                fleet.node(0).is(Mode::Slow(10.0));
            }
            if second == 40 {
                before = std::array::from_fn(|node| fleet.node(node).came());
            }
        })
        .await;
        let came: [u64; 5] = std::array::from_fn(|node| fleet.node(node).came() - before[node]);
        runs.push((run, percent(came[0], came.iter().sum())));
    }
    let p99 = |place: usize| runs[place].0.took_ms(0.99, 40, 120);
    assert!(runs[0].1 > 19.0, "in turn it gets its fifth");
    assert!(runs[3].1 < 5.0, "{}", runs[3].1);
    assert!(p99(3) * 2 < p99(0), "{} {}", p99(3), p99(0));
    let mut report = Report::new(
        "slow-endpoint",
        "A slow endpoint among fast ones",
        "Five servers with eight workers each, 20 ms a request on average, are asked for 60 a second. From second 20 on the first\n\
         takes ten times as long. The table is of second 40 to 120.",
    );
    let rows = runs.iter().map(|(run, share)| {
        let took = |quantile| run.took_ms(quantile, 40, 120).to_string();
        vec![run.name.into(), number(*share), took(0.5), took(0.9), took(0.99)]
    });
    report.table(&["policy", "its share, %", "p50, ms", "p90, ms", "p99, ms"], &rows.collect::<Vec<_>>());
    let all = runs.iter().map(|(run, _)| run).collect::<Vec<_>>();
    report.chart("p99", "p99 of the last second, ms", &all, |run, second| {
        f64::from(u32::try_from(run.took_ms(0.99, second, second + 1)).unwrap())
    });
    report.check();
}

/// Half of the fleet dies, and comes back.
#[tokio::test(start_paused = true)]
async fn half_of_the_fleet_dead_is_noticed_by_whoever_has_breakers_or_retries_only() {
    let budget = BudgetConfig::new();
    let plain = Guards::new(Policy::RoundRobin);
    let all = [
        ("neither", plain.clone()),
        ("retries", plain.clone().retry(1, budget)),
        ("breakers", plain.clone().breaker()),
        ("breakers and retries", plain.retry(1, budget).breaker()),
    ];
    let mut runs = Vec::new();
    for (name, guards) in all {
        let fleet = Fleet::alike(6, 8, 20 * MS, SEED);
        let run = with(name, &guards, &fleet, (240, 40.0), |second, _| {
            let mode = if (30..150).contains(&second) { Mode::Refuses } else { Mode::Well };
            (0..3).for_each(|node| fleet.node(node).is(mode));
        });
        runs.push(run.await);
    }
    let dead = |place: usize| runs[place].good_percent(30, 150);
    assert!(dead(0) < 55.0 && dead(2) > 98.0, "{} {}", dead(0), dead(2));
    assert!(
        runs[3].failed() < 20 && runs[3].good_percent(35, 240) > 99.9,
        "{} of {}",
        runs[3].failed(),
        runs[3].asked()
    );
    let mut report = Report::new(
        "half-dead",
        "Half of the fleet dead",
        "Of six servers three refuse connections from second 30 to 150. One retry, from a budget of a fifth and ten a second;\n\
         breakers open after five failures, for a second at first and a minute at most, and take out at most half.",
    );
    let rows = runs.iter().map(|run| {
        vec![
            run.name.into(),
            number(run.good_percent(30, 150)),
            number(run.good_percent(150, 240)),
            run.failed().to_string(),
            run.asked().to_string(),
        ]
    });
    report.table(
        &["", "good while they are dead, %", "after that, %", "failed", "of"],
        &rows.collect::<Vec<_>>(),
    );
    report.chart("good", "good answers, %", &runs.iter().collect::<Vec<_>>(), good);
    report.check();
}

/// An endpoint that fails for five seconds of every ten.
#[tokio::test(start_paused = true)]
async fn a_flapping_endpoint_is_left_alone_for_longer_and_longer() {
    let mut runs = Vec::new();
    for (name, guards) in [
        ("no breakers", Guards::new(Policy::RoundRobin)),
        ("breakers", Guards::new(Policy::RoundRobin).breaker()),
    ] {
        let fleet = Fleet::alike(4, 8, 20 * MS, SEED);
        let run = with(name, &guards, &fleet, (600, 20.0), |second, _| {
            fleet.node(0).is(if second % 10 < 5 { Mode::Fails(1.0) } else { Mode::Well });
        });
        runs.push(run.await);
    }
    let [without, with] = [&runs[0], &runs[1]];
    assert!(with.failed() * 3 < without.failed(), "{} {}", with.failed(), without.failed());
    assert!(with.failed() > 0, "it is found out again and again");
    let mut report = Report::new(
        "flapping",
        "A flapping endpoint",
        "One of four servers answers 500 for five seconds of every ten, for ten minutes. Its breaker opens for longer each time a probe\n\
         fails, up to a minute, and finds out again.",
    );
    let rows = runs.iter().map(|run| {
        let failed = |from, to| {
            run.seconds[from..to].iter().map(|second| second.asked - second.good).sum::<u64>().to_string()
        };
        vec![run.name.into(), failed(0, 60), failed(60, 300), failed(300, 600), run.asked().to_string()]
    });
    report.table(
        &["", "failed in the first minute", "to minute 5", "to minute 10", "of"],
        &rows.collect::<Vec<_>>(),
    );
    report.check();
}

/// A server that joins is slow until it is warm.
#[tokio::test(start_paused = true)]
async fn a_cold_server_that_joins_is_spared_by_a_slow_start() {
    let mut runs = Vec::new();
    for (name, guards) in [
        ("at once", Guards::new(Policy::RoundRobin)),
        (
            "slow start of 30 s",
            Guards {
                balance: BalanceConfig::new(Policy::RoundRobin).seed(SEED).slow_start(30 * SECOND),
                ..Guards::new(Policy::RoundRobin)
            },
        ),
    ] {
        let fleet = Fleet::alike(4, 2, 20 * MS, SEED);
        fleet.node(3).is(Mode::Slow(12.0));
        let guards = Guards { begins_with: 3, ..guards };
        let run = with(name, &guards, &fleet, (120, 80.0), |second, balancer| match second {
            30 => balancer.update(["node_0", "node_1", "node_2", "node_3"]),
            // It warms up with time: a third of what is left each five seconds.
            31.. if second < 70 => {
                let warm = (31..=second).fold(12.0_f64, |warm, _| warm * 0.92);
                fleet.node(3).is(Mode::Slow(warm.max(1.0)));
            }
            _ => {}
        });
        runs.push(run.await);
    }
    let [cold, spared] = [&runs[0], &runs[1]];
    let p99 = |run: &Run| run.took_ms(0.99, 30, 60);
    assert!(p99(spared) * 2 < p99(cold), "{} {}", p99(spared), p99(cold));
    assert!(spared.failed() <= cold.failed());
    let mut report = Report::new(
        "cold-start",
        "A cold server that joins",
        "Three servers with two workers each are asked for 80 requests a second, 20 ms each on average. At second 30 a fourth joins, which\n\
         takes twelve times as long at first and gets warm in half a minute.",
    );
    let rows = runs.iter().map(|run| {
        let took = |quantile| run.took_ms(quantile, 30, 60).to_string();
        let after = run.took_ms(0.99, 90, 120).to_string();
        vec![run.name.into(), took(0.5), took(0.99), run.failed().to_string(), after]
    });
    report.table(
        &["", "p50 from 30 to 60 s, ms", "p99, ms", "failed", "p99 from 90 s, ms"],
        &rows.collect::<Vec<_>>(),
    );
    report.chart("p99", "p99 of the last second, ms", &[cold, spared], |run, second| {
        f64::from(u32::try_from(run.took_ms(0.99, second, second + 1)).unwrap())
    });
    report.check();
}

/// Six servers are restarted one after the other.
#[tokio::test(start_paused = true)]
async fn a_rolling_restart_loses_nothing_if_each_is_drained_or_retried() {
    let plain = Guards::new(Policy::LeastRequest);
    let all = [
        ("just stopped", plain.clone(), false),
        ("drained first", plain.clone(), true),
        ("just stopped, retries", plain.retry(1, BudgetConfig::new()), false),
    ];
    let mut runs = Vec::new();
    for (name, guards, is_drained) in all {
        let fleet = Fleet::alike(6, 8, 50 * MS, SEED);
        let run = with(name, &guards, &fleet, (120, 40.0), |second, balancer| {
            // Each ten seconds the next: two to drain, five to come back.
            let (node, phase) = (second / 10, second % 10);
            let Some(endpoint) = balancer.endpoints().get(node).cloned() else { return };
            match phase {
                1 if is_drained => endpoint.withdraw(Absence::Draining),
                3 => {
                    assert!(!is_drained || endpoint.is_drained(), "what was under way has ended");
                    fleet.node(node).is(Mode::Refuses);
                }
                8 => {
                    fleet.node(node).is(Mode::Well);
                    endpoint.restore(Absence::Draining, Now::read());
                }
                _ => {}
            }
        });
        runs.push(run.await);
    }
    assert!(runs[0].failed() > 100, "{}", runs[0].failed());
    assert_eq!((runs[1].failed(), runs[2].failed()), (0, 0));
    let mut report = Report::new(
        "rolling-restart",
        "A rolling restart",
        "Six servers are restarted one after the other, each gone for five seconds: stopped at once, drained for two seconds before, or\n\
         stopped at once before callers who try once more.",
    );
    let rows = runs.iter().map(|run| {
        let took = run.took_ms(0.99, 0, 120).to_string();
        vec![run.name.into(), run.failed().to_string(), run.asked().to_string(), took]
    });
    report.table(&["", "failed", "of", "p99, ms"], &rows.collect::<Vec<_>>());
    report.check();
}

/// A name that has all six addresses, and three, in turns of five seconds.
#[tokio::test(start_paused = true)]
async fn a_set_that_flaps_loses_no_request_and_no_account() {
    let mut runs = Vec::new();
    for (name, policy) in [
        ("round robin", Policy::RoundRobin),
        ("peak EWMA", Policy::PeakEwma),
        ("ring hash", Policy::RING_HASH),
    ] {
        let fleet = Fleet::alike(6, 8, 50 * MS, SEED);
        fleet.node(5).is(Mode::Slow(10.0));
        let guards = Guards { patience: (20 * SECOND, 30 * SECOND), ..Guards::new(policy) };
        let addresses = fleet.addresses();
        let mut slow_before = 0;
        let run = with(name, &guards, &fleet, (300, 40.0), |second, balancer| {
            if second % 5 == 0 {
                let all = if second / 5 % 2 == 0 { &addresses[..] } else { &addresses[..3] };
                balancer.update(all.iter().map(String::as_str));
            }
            if second == 60 {
                slow_before = fleet.node(5).came();
            }
        })
        .await;
        runs.push((run, fleet.node(5).came() - slow_before));
    }
    for (run, _) in &runs {
        assert_eq!(run.failed(), 0, "{}", run.name);
    }
    // It was slow each time, and is not tried anew each time.
    assert!(runs[1].1 * 5 < runs[0].1, "{} {}", runs[1].1, runs[0].1);
    let mut report = Report::new(
        "dns-flap",
        "A name that flaps",
        "What a name says flaps: six addresses for five seconds, then three for five, for five minutes. The sixth is ten times as slow; what is\n\
         known of an address outlives its absence, so whoever looks at latencies does not find that out each time. (How names are asked, held and\n\
         believed, over twenty minutes of flapping, is a test of the gateway: `r1_3_a_name_that_flaps_for_twenty_minutes_loses_no_request`.)",
    );
    let rows = runs.iter().map(|(run, slow)| {
        vec![run.name.into(), run.failed().to_string(), run.asked().to_string(), slow.to_string()]
    });
    report.table(
        &["policy", "failed", "of", "requests to the slow one after the first minute"],
        &rows.collect::<Vec<_>>(),
    );
    report.check();
}

/// Twice what the servers can do.
#[tokio::test(start_paused = true)]
async fn an_adaptive_limit_keeps_answering_under_overload() {
    let mut runs = Vec::new();
    let bounded = |adaptive: Option<Adaptive>| {
        let config = BulkheadConfig::new(200).queue(0, SECOND);
        match adaptive {
            Some(adaptive) => config.adaptive(adaptive).adapt(Enforce::Always),
            None => config,
        }
    };
    for (name, bulkhead) in [
        ("no limit", None),
        ("at most 200", Some(bounded(None))),
        ("gradient", Some(bounded(Some(Adaptive::gradient2(2, 200))))),
        ("AIMD at 300 ms", Some(bounded(Some(Adaptive::aimd(2, 200, 300 * MS))))),
    ] {
        let fleet = Fleet::alike(2, 5, 100 * MS, SEED);
        let guards =
            Guards { bulkhead, patience: (2 * SECOND, 3 * SECOND), ..Guards::new(Policy::LeastRequest) };
        let (stack, _) = guards.over(&fleet);
        // A hundred a second is what both can do: half of that before, twice as much from 60 to 180.
        let quiet = run(name, (stack.clone(), &fleet), (60, 50.0), SEED, |_| {}).await;
        let busy = run(name, (stack, &fleet), (120, 200.0), SEED + 1, |_| {}).await;
        runs.push(Run { name, seconds: [quiet.seconds, busy.seconds].concat() });
    }
    let goodput = |run: &Run| {
        let good = run.seconds[80..180].iter().map(|second| second.good).sum::<u64>();
        percent(good, 100 * 100)
    };
    let [none, fixed, gradient, aimd] = [&runs[0], &runs[1], &runs[2], &runs[3]];
    assert!(goodput(none) < 20.0, "without any limit all wait in vain: {}", goodput(none));
    assert!(goodput(aimd) > 95.0 && aimd.good_percent(0, 60) > 98.0, "{}", goodput(aimd));
    assert!(goodput(gradient) > 90.0, "{}", goodput(gradient));
    let known = gradient.good_percent(20, 60);
    assert!(known > 99.0, "far below capacity: {known}");
    for run in [gradient, aimd] {
        assert!(run.took_ms(0.99, 80, 180) < 1000, "{}", run.took_ms(0.99, 80, 180));
    }
    let mut report = Report::new(
        "overload",
        "An adaptive limit under overload",
        "Two servers that can do 100 requests a second together are asked for 50, and from second 60 on for 200. Whoever waits for two\n\
         seconds gives up; the servers do the work all the same. Goodput is of what they can do, from second 80 on.\n\
         How long a request takes is spread exponentially, which is wide. AIMD is told which latency is a good one; the gradient finds\n\
         out, from requests that found few others at work. Both begin at two, and grow while that is used.",
    );
    let rows = runs.iter().map(|run| {
        vec![
            run.name.into(),
            number(run.good_percent(0, 20)),
            number(run.good_percent(20, 60)),
            number(goodput(run)),
            run.took_ms(0.5, 80, 180).to_string(),
            run.took_ms(0.99, 80, 180).to_string(),
        ]
    });
    report.table(
        &["limit", "good to 20 s, %", "to 60 s, %", "goodput, %", "p50 of the good, ms", "p99, ms"],
        &rows.collect::<Vec<_>>(),
    );
    report.chart("goodput", "good answers in a second", &[none, fixed, gradient, aimd], |run, second| {
        f64::from(u32::try_from(run.seconds[second].good).unwrap())
    });
    report.check();
}

/// The same seed, the same world: to the last millisecond.
#[tokio::test(start_paused = true)]
async fn a_run_is_the_same_again() {
    let once = async || {
        let fleet = Fleet::alike(3, 4, 50 * MS, SEED);
        let guards = Guards::new(Policy::PeakEwma).retry(2, BudgetConfig::new()).breaker();
        let run = with("again", &guards, &fleet, (60, 50.0), |second, _| {
            fleet.node(0).is(if second % 7 < 3 { Mode::Fails(0.5) } else { Mode::Slow(3.0) });
            fleet.node(1).is(if second % 20 < 5 { Mode::Hangs } else { Mode::Well });
        });
        format!("{:?}", run.await.seconds)
    };
    let first = once().await;
    assert!(first == once().await && first.len() > 1000);
}
