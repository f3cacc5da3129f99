//! Balancing: rows of the ninth system, and what the original got wrong.
#![allow(clippy::unwrap_used, reason = "a test may")]

use std::{
    collections::{BTreeSet, HashMap},
    future::{Future, pending, ready},
    pin::{Pin, pin},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst},
    },
    task::{Context as TaskContext, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use http::{
    Request, Response, StatusCode,
    header::{COOKIE, SET_COOKIE},
};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full};
use naka::{
    attempt::Tried,
    balance::{
        Absence, BalanceConfig, BalanceLayer, Endpoint, HashKey, InFlight, Latency, Policy, Regions, Sticky,
        SubsetMiss, Target,
    },
    classify::Outcome,
    clock::Now,
    context::{ClientAddr, Context},
    explain::{Explain, Finding},
    gate::{Availability, Gate, Passage, Ticket},
    guard::Guarded,
    key::Key,
    observe::Observer,
    reject::{Reason, Rejection},
};
use proptest::prelude::*;
use tower::{Layer, Service, service_fn};

const ALL: [Policy; 12] = [
    Policy::RoundRobin,
    Policy::WeightedRoundRobin,
    Policy::Random,
    Policy::LeastRequest,
    Policy::WeightedLeastRequest,
    Policy::PeakEwma,
    Policy::LeastLatency,
    Policy::LeastLoad,
    Policy::RING_HASH,
    Policy::Maglev { size: 1009 },
    Policy::Rendezvous,
    Policy::IpHash,
];

/// The names and weights of the original's demonstration.
const DEMO: [(&str, u32); 6] = [
    ("central_1", 150),
    ("central_2", 100),
    ("west_1", 120),
    ("west_2", 100),
    ("east_1", 80),
    ("navi_1", 90),
];

type Kept = Response<Guarded<Full<Bytes>, InFlight>>;

/// A layer and what is behind it: everything answers at once, with its address.
struct Bench<O = ()> {
    layer: BalanceLayer<O>,
}

impl<O: Observer> Bench<O> {
    /// The response, whose body is still open.
    fn ask(&self, request: Request<()>) -> Kept {
        let behind = service_fn(|request: Request<()>| {
            let address = Endpoint::of(request.extensions()).unwrap().address().to_string();
            let response = Response::builder().header("x-endpoint", &address);
            ready(Ok::<_, ()>(response.body(Full::from(address)).unwrap()))
        });
        let mut call = pin!(self.layer.layer(behind).call(request));
        let Poll::Ready(Ok(response)) = call.as_mut().poll(&mut TaskContext::from_waker(Waker::noop()))
        else {
            panic!("it answers at once");
        };
        response
    }

    /// Which endpoint took it; `None` if it was refused. Its body has ended.
    fn sent(&self, request: Request<()>) -> Option<String> {
        let response = self.ask(request);
        if response.extensions().get::<Rejection>().is_some() {
            return None;
        }
        Some(address(response))
    }

    fn send(&self) -> String {
        self.sent(Request::new(())).expect("an endpoint is available")
    }

    fn sent_by(&self, number: u64) -> String {
        self.sent(keyed(number)).expect("an endpoint is available")
    }

    fn endpoint(&self, address: &str) -> Endpoint {
        self.layer.endpoints().into_iter().find(|endpoint| &**endpoint.address() == address).unwrap()
    }

    /// How many of so many each took.
    fn counts(&self, requests: u64) -> HashMap<String, u64> {
        let mut counts = HashMap::new();
        (0..requests).for_each(|number| *counts.entry(self.sent_by(number)).or_default() += 1);
        counts
    }
}

fn address(response: Kept) -> String {
    let mut body = pin!(response.into_body().collect());
    let Poll::Ready(Ok(body)) = body.as_mut().poll(&mut TaskContext::from_waker(Waker::noop())) else {
        panic!("it is whole");
    };
    String::from_utf8(body.to_bytes().into()).unwrap()
}

fn keyed(number: u64) -> Request<()> {
    Request::builder().header("x-key", number).body(()).unwrap()
}

fn bench(config: BalanceConfig, targets: impl IntoIterator<Item = Target>) -> Bench {
    Bench { layer: by_header(BalanceLayer::with_config(config.seed(7), targets)) }
}

fn by_header<O: Observer + Clone>(layer: BalanceLayer<O>) -> BalanceLayer<O> {
    layer.hash_by(|head| head.headers.get("x-key").map(HashKey::of))
}

fn demo() -> impl Iterator<Item = Target> {
    DEMO.into_iter().map(|(name, weight)| Target::new(name).weight(weight))
}

fn even(count: usize) -> impl Iterator<Item = Target> {
    (0..count).map(|number| Target::new(format!("node_{number}")))
}

fn said(layer: &impl Explain, request: Request<()>) -> Option<String> {
    let mut head = request.into_parts().0;
    match layer.explain(Now::read(), &mut head) {
        Finding::Admit(_) => Some(Endpoint::of(&head.extensions).unwrap().address().to_string()),
        _ => None,
    }
}

fn told(layer: &impl Explain) -> String {
    match layer.explain(Now::read(), &mut Request::new(()).into_parts().0) {
        Finding::Admit(said) => said,
        other => panic!("{other:?}"),
    }
}

// ---- R9.1

#[tokio::test(start_paused = true)]
async fn r9_1_every_policy_is_switched_to_every_other_and_nobody_under_way_is_lost() {
    let mut bench = bench(BalanceConfig::default(), demo());
    let mut kept = Vec::new();
    for (number, policy) in ALL.iter().chain(ALL.iter().rev()).enumerate() {
        bench.layer = bench.layer.reconfigured(BalanceConfig::new(*policy), demo());
        kept.push(bench.ask(keyed(number as u64)));
        let under_way = bench.layer.endpoints().iter().map(Endpoint::in_flight).sum::<u32>();
        assert_eq!(under_way as usize, kept.len(), "{policy:?}");
    }
    drop(kept);
    assert!(bench.layer.endpoints().iter().all(|endpoint| endpoint.in_flight() == 0));
}

#[tokio::test(start_paused = true)]
async fn r9_1_a_reconfiguration_that_is_given_up_has_changed_nothing() {
    let bench = bench(BalanceConfig::default(), even(3));
    bench.send();
    drop(bench.layer.reconfigured(BalanceConfig::new(Policy::Random), even(1)));
    assert_eq!([bench.send(), bench.send(), bench.send()], ["node_1", "node_2", "node_0"]);
}

#[tokio::test(start_paused = true)]
async fn r9_1_turns_go_on_over_reconfigurations() {
    let mut bench = bench(BalanceConfig::default(), even(3));
    let mut sequence = vec![bench.send(), bench.send()];
    bench.layer = bench.layer.reconfigured(BalanceConfig::default(), even(3));
    sequence.push(bench.send());
    assert_eq!(sequence, ["node_0", "node_1", "node_2"]);
}

// ---- R9.2

#[tokio::test(start_paused = true)]
async fn r9_2_three_two_one_over_twelve_requests_is_the_exact_sequence() {
    let targets = [("b", 3), ("d", 2), ("m", 1)].map(|(name, weight)| Target::new(name).weight(weight));
    let bench = bench(BalanceConfig::new(Policy::WeightedRoundRobin), targets);
    let sequence = (0..12).map(|_| bench.send()).collect::<Vec<_>>();
    assert_eq!(sequence.join(","), "b,d,b,m,d,b,b,d,b,m,d,b");
}

#[tokio::test(start_paused = true)]
async fn r9_2_the_demo_weights_over_64_requests_are_exact() {
    let counts = bench(BalanceConfig::new(Policy::WeightedRoundRobin), demo()).counts(64);
    for ((name, _), expected) in DEMO.into_iter().zip([15, 10, 12, 10, 8, 9]) {
        assert_eq!(counts[name], expected, "{name}");
    }
}

/// All services of a layer and all threads share one sequence: over them all the shares are exact.
#[tokio::test]
async fn r9_2_threads_share_one_sequence() {
    let bench = Arc::new(bench(BalanceConfig::new(Policy::WeightedRoundRobin), demo()));
    let threads = (0..4).map(|_| {
        let bench = Arc::clone(&bench);
        std::thread::spawn(move || bench.counts(64 * 50))
    });
    let mut total = HashMap::<String, u64>::new();
    for thread in threads.collect::<Vec<_>>() {
        thread.join().unwrap().into_iter().for_each(|(name, count)| *total.entry(name).or_default() += count);
    }
    for ((name, _), expected) in DEMO.into_iter().zip([15, 10, 12, 10, 8, 9]) {
        assert_eq!(total[name], expected * 200, "{name}");
    }
}

// ---- R9.3

/// One million requests, one of six dead: nobody is refused, nobody is sent there.
#[tokio::test(start_paused = true)]
async fn r9_3_one_of_six_dead_refuses_none_of_a_million() {
    let bench = bench(BalanceConfig::new(Policy::WeightedRoundRobin), demo());
    bench.endpoint("west_1").withdraw(Absence::Unhealthy);
    let counts = bench.counts(52 * 19_231);
    assert_eq!(counts.values().sum::<u64>(), 1_000_012);
    for (name, expected) in
        [("central_1", 15), ("central_2", 10), ("west_2", 10), ("east_1", 8), ("navi_1", 9)]
    {
        assert_eq!(counts[name], expected * 19_231, "{name}");
    }
    assert!(!counts.contains_key("west_1"));
}

#[tokio::test(start_paused = true)]
async fn r9_3_one_of_six_dead_refuses_nobody_under_any_policy() {
    for policy in ALL {
        let bench = bench(BalanceConfig::new(policy), demo());
        bench.endpoint("west_1").withdraw(Absence::Unhealthy);
        let counts = bench.counts(20_000);
        assert!(!counts.contains_key("west_1"), "{policy:?}");
        assert_eq!(counts.len(), 5, "{policy:?}: {counts:?}");
        let (total, average) = (if policy_is_weighted(policy) { 520.0 } else { 5.0 }, 20_000.0);
        for (name, weight) in DEMO.into_iter().filter(|it| it.0 != "west_1") {
            let weight = if policy_is_weighted(policy) { f64::from(weight) } else { 1.0 };
            let share = f64::from(u32::try_from(counts[name]).unwrap()) * total / (average * weight);
            assert!((0.8..1.25).contains(&share), "{policy:?}: {name} has {share} of its share");
        }
    }
}

const fn policy_is_weighted(policy: Policy) -> bool {
    !matches!(policy, Policy::RoundRobin | Policy::LeastRequest)
}

#[tokio::test(start_paused = true)]
async fn r9_3_all_dead_is_a_503_or_a_panic_that_is_told() {
    for policy in ALL {
        let panics = Arc::new(Panics::default());
        let make = |config: BalanceConfig| Bench {
            layer: by_header(BalanceLayer::observed(config, even(4), Arc::clone(&panics))),
        };
        let calm = make(BalanceConfig::new(policy));
        for endpoint in calm.layer.endpoints() {
            endpoint.withdraw(Absence::Outlier);
        }
        let response = calm.ask(keyed(1));
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.extensions().get::<Rejection>().unwrap().reason, Reason::NoEndpoint);
        assert_eq!((panics.panicked.load(SeqCst), panics.rejected.load(SeqCst)), (0, 1));

        let alarmed = make(BalanceConfig::new(policy).panic(50));
        let endpoints = alarmed.layer.endpoints();
        for endpoint in &endpoints {
            endpoint.withdraw(Absence::Unhealthy);
        }
        endpoints[2].withdraw(Absence::Draining);
        let counts = alarmed.counts(400);
        assert_eq!(panics.panicked.load(SeqCst), 400);
        assert!(!counts.contains_key("node_2"), "{policy:?}: who drains is left alone in a panic, too");
        assert!(counts.len() == 3, "{policy:?}: {counts:?}");
        assert!(told(&alarmed.layer).contains("in a panic"));
    }
}

#[tokio::test(start_paused = true)]
async fn r9_3_a_panic_begins_below_its_threshold_and_not_at_it() {
    let panics = Arc::new(Panics::default());
    let config = BalanceConfig::default().panic(50);
    let bench = Bench { layer: BalanceLayer::observed(config, even(4), Arc::clone(&panics)) };
    let endpoints = bench.layer.endpoints();
    endpoints[0].withdraw(Absence::Unhealthy);
    endpoints[1].withdraw(Absence::Unhealthy);
    (0..8).for_each(|_| assert!(["node_2", "node_3"].contains(&&*bench.send())));
    assert_eq!(panics.panicked.load(SeqCst), 0, "half of them are well");
    endpoints[2].withdraw(Absence::Outlier);
    let seen = (0..8).map(|_| bench.send()).collect::<BTreeSet<_>>();
    assert_eq!((seen.len(), panics.panicked.load(SeqCst)), (4, 8));
}

#[derive(Debug, Default)]
struct Panics {
    panicked: AtomicU32,
    rejected: AtomicU32,
}

impl Observer for Panics {
    fn panicked(&self) {
        self.panicked.fetch_add(1, SeqCst);
    }
    fn rejected(&self, _: &Rejection) {
        self.rejected.fetch_add(1, SeqCst);
    }
}

// ---- R9.4

const BY_KEY: [Policy; 4] =
    [Policy::RING_HASH, Policy::Rendezvous, Policy::Maglev { size: 65_537 }, Policy::IpHash];

#[tokio::test(start_paused = true)]
async fn r9_4_one_that_goes_moves_only_its_keys_and_gets_them_back() {
    const KEYS: u64 = 20_000;
    for policy in BY_KEY {
        let mut bench = bench(BalanceConfig::new(policy), even(6));
        let owners = |bench: &Bench| (0..KEYS).map(|key| bench.sent_by(key)).collect::<Vec<_>>();
        let before = owners(&bench);
        for name in ["node_0", "node_5"] {
            let share = before.iter().filter(|owner| *owner == name).count() as u64;
            assert!(share * 6 > KEYS * 3 / 4 && share * 6 < KEYS * 5 / 4, "{policy:?}: {name} has {share}");
        }
        bench.layer = bench.layer.reconfigured(BalanceConfig::new(policy), even(5));
        let after = owners(&bench);
        let others = before.iter().zip(&after).filter(|(before, _)| *before != "node_5");
        let moved = others.filter(|(before, after)| before != after).count() as u64;
        println!("{policy:?}: {moved} of {KEYS} keys of others moved when 1 of 6 left");
        let most = if matches!(policy, Policy::Maglev { .. }) { KEYS / 20 } else { 0 };
        assert!(moved <= most, "{policy:?}: {moved}");
        bench.layer = bench.layer.reconfigured(BalanceConfig::new(policy), even(6));
        assert_eq!(owners(&bench), before, "{policy:?}: it has its keys again");
        // One that is down is not one that has left: under every policy only its keys move.
        bench.endpoint("node_3").withdraw(Absence::Unhealthy);
        let down = owners(&bench);
        assert!(before.iter().zip(&down).all(|(before, down)| before == down || before == "node_3"));
        bench.endpoint("node_3").restore(Absence::Unhealthy, Now::read());
        assert_eq!(owners(&bench), before);
    }
}

/// By address: the original's remainder moved 83 % of all clients.
#[tokio::test(start_paused = true)]
async fn r9_4_ip_hash_moves_no_other_client() {
    let layer = BalanceLayer::with_config(BalanceConfig::new(Policy::IpHash), even(6));
    let mut bench = Bench { layer };
    let from = |number: u32| {
        let mut request = Request::new(());
        request.extensions_mut().insert(ClientAddr(std::net::Ipv4Addr::from_bits(number).into()));
        request
    };
    let before = (0..6000).map(|number| bench.sent(from(number)).unwrap()).collect::<Vec<_>>();
    bench.layer = bench.layer.reconfigured(BalanceConfig::new(Policy::IpHash), even(5));
    let after = (0..6000).map(|number| bench.sent(from(number)).unwrap());
    let moved = before.iter().zip(after).filter(|(before, after)| *before != after).count();
    assert!((750..1250).contains(&moved), "{moved} of 6000 moved: those of the one that left are 1000");
}

/// A hot key overflows to others, and goes home when there is room.
#[tokio::test(start_paused = true)]
async fn r9_4_bounded_load_spreads_a_hot_key() {
    for policy in BY_KEY {
        let bench = bench(BalanceConfig::new(policy).max_load(125), even(5));
        let home = bench.sent_by(7);
        let kept = (0..100).map(|_| bench.ask(keyed(7))).collect::<Vec<_>>();
        let counts = bench.layer.endpoints().iter().map(Endpoint::in_flight).collect::<Vec<_>>();
        assert!(counts.iter().all(|count| *count <= 25), "{policy:?}: {counts:?}");
        drop(kept);
        assert_eq!(bench.sent_by(7), home);
    }
}

#[tokio::test(start_paused = true)]
async fn r9_4_what_has_no_key_goes_anywhere() {
    let bench = bench(BalanceConfig::new(Policy::RING_HASH), even(4));
    let seen = (0..100).map(|_| bench.send()).collect::<BTreeSet<_>>();
    assert_eq!(seen.len(), 4);
}

/// The same key finds the same endpoint in another process, whatever the order of the endpoints.
#[tokio::test(start_paused = true)]
async fn r9_4_two_gateways_agree() {
    for policy in BY_KEY {
        let reversed = even(7).collect::<Vec<_>>().into_iter().rev();
        let (one, other) =
            (bench(BalanceConfig::new(policy), even(7)), bench(BalanceConfig::new(policy), reversed));
        assert!((0..500).all(|key| one.sent_by(key) == other.sent_by(key)), "{policy:?}");
    }
}

// ---- R9.5

/// The original's four lists.
fn mumbai() -> Regions {
    Regions::by_label("region")
        .prefer("mumbai-central", ["mumbai-central", "mumbai-south", "mumbai-north"])
        .prefer("mumbai-west", ["mumbai-west", "mumbai-central", "mumbai-north"])
        .prefer("mumbai-east", ["mumbai-east", "mumbai-central", "mumbai-west"])
        .prefer("navi-mumbai", ["navi-mumbai", "mumbai-east", "mumbai-central"])
        .otherwise(["mumbai-central", "mumbai-west"])
}

fn from_region(region: &str) -> Request<()> {
    Request::builder().header("x-region", region).body(()).unwrap()
}

fn geographic(targets: impl IntoIterator<Item = Target>) -> Bench {
    let layer = BalanceLayer::with_config(BalanceConfig::geographic(mumbai()), targets)
        .region_by(|head| Some(Key::of(head.headers.get("x-region")?.to_str().ok()?)));
    Bench { layer }
}

fn placed() -> Vec<Target> {
    let regions =
        ["mumbai-central", "mumbai-south", "mumbai-north", "mumbai-west", "mumbai-east", "navi-mumbai"];
    regions.into_iter().map(|region| Target::new(region).capacity(2).label("region", region)).collect()
}

#[tokio::test(start_paused = true)]
async fn r9_5_all_four_lists_are_honoured_in_order_and_spill_where_there_is_no_room() {
    let lists = [
        ("mumbai-central", ["mumbai-central", "mumbai-south", "mumbai-north"]),
        ("mumbai-west", ["mumbai-west", "mumbai-central", "mumbai-north"]),
        ("mumbai-east", ["mumbai-east", "mumbai-central", "mumbai-west"]),
        ("navi-mumbai", ["navi-mumbai", "mumbai-east", "mumbai-central"]),
        ("mumbai", ["mumbai-central", "mumbai-west", ""]),
    ];
    for (region, list) in lists {
        let bench = geographic(placed());
        let mut kept = Vec::new();
        for expected in list.into_iter().filter(|it| !it.is_empty()) {
            for _ in 0..2 {
                assert_eq!(said(&bench.layer, from_region(region)).as_deref(), Some(expected));
                kept.push(bench.ask(from_region(region)));
                assert_eq!(bench.endpoint(expected).in_flight() as usize, (kept.len() - 1) % 2 + 1);
            }
        }
        // All of the list are full: any other, and none is above its capacity.
        for _ in kept.len()..12 {
            kept.push(bench.ask(from_region(region)));
        }
        assert!(bench.layer.endpoints().iter().all(|endpoint| endpoint.in_flight() == 2));
        assert_eq!(bench.ask(from_region(region)).status(), 503, "nobody has room");
        kept.clear();
        assert_eq!(bench.sent(from_region(region)).as_deref(), Some(list[0]), "and back");
    }
}

#[tokio::test(start_paused = true)]
async fn r9_5_a_region_that_is_down_is_passed_over_and_one_without_a_name_is_by_default() {
    let bench = geographic(placed());
    bench.endpoint("mumbai-west").withdraw(Absence::Unhealthy);
    assert_eq!(bench.sent(from_region("mumbai-west")).as_deref(), Some("mumbai-central"));
    assert_eq!(bench.send(), "mumbai-central");
    bench.endpoint("mumbai-central").withdraw(Absence::Maintenance);
    let seen = (0..200).map(|_| bench.send()).collect::<BTreeSet<_>>();
    assert_eq!(seen.len(), 4, "none of the default list is there, so any other: {seen:?}");
}

/// mumbai-1 of the west, delhi-1 of the north, two of the south.
#[tokio::test(start_paused = true)]
async fn r9_5_users_of_the_south_stay_in_the_south() {
    let places = [
        ("mumbai-1", 3, "west"),
        ("delhi-1", 2, "north"),
        ("bangalore-1", 4, "south"),
        ("hyderabad-1", 2, "south"),
    ];
    let targets =
        places.map(|(name, weight, region)| Target::new(name).weight(weight).label("region", region));
    let config = BalanceConfig::geographic(Regions::by_label("region").prefer("south", ["south"]));
    let layer = BalanceLayer::with_config(config, targets).region_by(|_| Some(Key::of("south")));
    let bench = Bench { layer };
    let kept = (0..60).map(|_| bench.ask(Request::new(()))).collect::<Vec<_>>();
    let (bangalore, hyderabad) =
        (bench.endpoint("bangalore-1").in_flight(), bench.endpoint("hyderabad-1").in_flight());
    assert_eq!((bangalore, hyderabad), (40, 20), "all of them, by weight");
    drop(kept);
}

// ---- R9.6

#[tokio::test(start_paused = true)]
async fn r9_6_least_request_counts_until_the_body_ends_or_the_caller_is_gone() {
    let bench = bench(BalanceConfig::new(Policy::LeastRequest), even(2));
    let first = bench.ask(Request::new(()));
    let busy = bench.layer.endpoints().into_iter().find(|endpoint| endpoint.in_flight() == 1).unwrap();
    for _ in 0..50 {
        assert_ne!(bench.send(), &**busy.address(), "its body is still open");
    }
    drop(first);
    assert_eq!(busy.in_flight(), 0);
    let mut service =
        bench.layer.layer(service_fn(|_: Request<()>| pending::<Result<Response<Full<Bytes>>, ()>>()));
    let call = service.call(Request::new(()));
    assert_eq!(bench.layer.endpoints().iter().map(Endpoint::in_flight).sum::<u32>(), 1);
    drop(call);
    assert_eq!(bench.layer.endpoints().iter().map(Endpoint::in_flight).sum::<u32>(), 0);
}

#[tokio::test(start_paused = true)]
async fn r9_6_ties_are_no_ones() {
    for policy in [Policy::LeastRequest, Policy::LeastLatency, Policy::LeastLoad, Policy::PeakEwma] {
        let counts = bench(BalanceConfig::new(policy), even(5)).counts(5000);
        assert!(counts.values().all(|count| (800..1200).contains(count)), "{policy:?}: {counts:?}");
    }
}

/// A node of which nothing is known got everything under the original's response time.
#[tokio::test(start_paused = true)]
async fn r9_6_a_cold_node_is_not_stampeded() {
    for policy in [Policy::PeakEwma, Policy::LeastLatency] {
        let mut world = World::new(bench(BalanceConfig::new(policy), even(4)).layer);
        for _ in 0..2000 {
            world.step(|_| (StatusCode::OK, Duration::from_millis(20))).await;
        }
        world.bench.layer = world.bench.layer.reconfigured(BalanceConfig::new(policy), even(5));
        let before = world.counts.clone();
        for _ in 0..1000 {
            world.step(|_| (StatusCode::OK, Duration::from_millis(20))).await;
        }
        let cold = world.counts["node_4"];
        let old = world.counts["node_1"] - before["node_1"];
        assert!(
            (100..400).contains(&cold) && old > 100,
            "{policy:?}: {cold} of 1000, a fair share is 200; {old}"
        );
    }
}

/// A node that fails at once looked best to the original.
#[tokio::test(start_paused = true)]
async fn r9_6_errors_count_as_bad_latency() {
    for policy in [Policy::PeakEwma, Policy::LeastLatency] {
        let mut world = World::new(bench(BalanceConfig::new(policy), even(4)).layer);
        for _ in 0..2000 {
            world
                .step(|address| match address {
                    "node_3" => (StatusCode::INTERNAL_SERVER_ERROR, Duration::from_millis(1)),
                    _ => (StatusCode::OK, Duration::from_millis(20)),
                })
                .await;
        }
        assert!(world.counts["node_3"] < 100, "{policy:?}: {:?}", world.counts);
    }
}

#[tokio::test(start_paused = true)]
async fn r9_6_a_slow_node_gets_less_and_is_forgiven() {
    for policy in [Policy::PeakEwma, Policy::LeastLatency] {
        let mut world = World::new(bench(BalanceConfig::new(policy), even(4)).layer);
        let slow = |is_slow: bool| {
            move |address: &str| {
                let ms = if is_slow && address == "node_0" { 400 } else { 20 };
                (StatusCode::OK, Duration::from_millis(ms))
            }
        };
        for _ in 0..3000 {
            world.step(slow(true)).await;
        }
        assert!(world.counts["node_0"] * 3 < world.counts["node_1"], "{policy:?}: {:?}", world.counts);
        world.rest().await;
        tokio::time::advance(Duration::from_mins(1)).await;
        let before = world.counts.clone();
        for _ in 0..3000 {
            world.step(slow(false)).await;
        }
        let again = world.counts["node_0"] - before["node_0"];
        assert!((500..1000).contains(&again), "{policy:?}: {again} of 3000");
    }
}

/// One that answers nothing any more is not taken for a fast one.
#[tokio::test(start_paused = true)]
async fn r9_6_a_node_that_hangs_is_not_cheap() {
    for policy in [Policy::PeakEwma, Policy::LeastLatency, Policy::LeastRequest] {
        let mut world = World::new(bench(BalanceConfig::new(policy), even(4)).layer);
        for _ in 0..20_000 {
            let hang = Duration::from_hours(100);
            let answer = |address: &str| if address == "node_2" { hang } else { Duration::from_millis(20) };
            world.step(|address| (StatusCode::OK, answer(address))).await;
        }
        assert!(world.counts["node_2"] < 200, "{policy:?}: {:?}", world.counts);
    }
}

/// Nobody knows how long it would have taken, but that it was longer.
#[tokio::test(start_paused = true)]
async fn r9_6_what_is_given_up_late_counts_as_slow_and_early_as_nothing() {
    let bench = bench(BalanceConfig::new(Policy::PeakEwma), even(1));
    let give_up = async |after| {
        let behind = service_fn(|_: Request<()>| pending::<Result<Response<Full<Bytes>>, ()>>());
        let call = bench.layer.layer(behind).call(Request::new(()));
        tokio::time::advance(Duration::from_secs(after)).await;
        drop(call);
    };
    give_up(0).await;
    assert_eq!(bench.endpoint("node_0").latency(), None);
    give_up(3).await;
    assert_eq!(bench.endpoint("node_0").latency(), Some(Duration::from_secs(3)));
    give_up(1).await;
    assert_eq!(bench.endpoint("node_0").latency(), Some(Duration::from_secs(3)));
}

/// One that joins begins with a tenth of its share, under each policy, and has all of it in the end.
#[tokio::test(start_paused = true)]
async fn r9_6_a_newcomer_starts_slowly_under_every_policy() {
    for policy in ALL {
        let config = BalanceConfig::new(policy).slow_start(Duration::from_secs(100));
        let mut bench = bench(config.clone().seed(3), even(4));
        assert!(!told_for(&bench, 1).contains("joining"), "those it begins with have all of their share");
        bench.layer = bench.layer.reconfigured(config, even(5));
        let share = || {
            let counts = bench.counts(4000);
            counts.get("node_4").copied().unwrap_or(0)
        };
        let early = share();
        assert!((10..250).contains(&early), "{policy:?}: {early} of 4000, a tenth of its share is 80");
        assert!(told_for(&bench, 1).contains("joining at ") || policy == Policy::RoundRobin);
        tokio::time::advance(Duration::from_secs(50)).await;
        let half = share();
        assert!(
            (200..700).contains(&half) && half > early,
            "{policy:?}: {half} of 4000, half of its share is 400"
        );
        tokio::time::advance(Duration::from_secs(51)).await;
        let whole = share();
        assert!((640..1000).contains(&whole), "{policy:?}: {whole} of 4000, its share is 800");
    }
}

fn told_for(bench: &Bench, key: u64) -> String {
    match bench.layer.explain(Now::read(), &mut keyed(key).into_parts().0) {
        Finding::Admit(said) => said,
        other => panic!("{other:?}"),
    }
}

/// Where all are newcomers, or the only one that is well is one, it gets what there is.
#[tokio::test(start_paused = true)]
async fn r9_6_slow_start_refuses_nobody() {
    for policy in ALL {
        let config = BalanceConfig::new(policy).slow_start(Duration::from_secs(100));
        let mut bench = bench(config.clone(), even(1));
        bench.layer = bench.layer.reconfigured(config, even(3).skip(1));
        let counts = bench.counts(300);
        assert_eq!(counts.values().sum::<u64>(), 300, "{policy:?}");
        bench.endpoint("node_1").withdraw(Absence::Unhealthy);
        assert_eq!(bench.counts(300)["node_2"], 300, "{policy:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn r9_6_who_comes_back_starts_slowly_again() {
    let config = BalanceConfig::default().slow_start(Duration::from_secs(100));
    let bench = bench(config, even(2));
    let endpoint = bench.endpoint("node_0");
    endpoint.withdraw(Absence::Unhealthy);
    endpoint.withdraw(Absence::Outlier);
    endpoint.restore(Absence::Unhealthy, Now::read());
    assert_eq!(endpoint.absences().collect::<Vec<_>>(), [Absence::Outlier]);
    assert_eq!(bench.counts(100)["node_1"], 100, "one of its reasons is left");
    endpoint.restore(Absence::Outlier, Now::read());
    let share = bench.counts(1000)["node_0"];
    assert!((20..200).contains(&share), "{share}");
}

/// Requests of one a millisecond, whose answers take as long as is said.
struct World {
    bench: Bench,
    counts: HashMap<String, u64>,
    under_way: Vec<(tokio::time::Instant, Answering)>,
}

type Answering = Pin<Box<dyn Future<Output = Result<Kept, ()>>>>;

impl World {
    fn new(layer: BalanceLayer) -> Self {
        Self { bench: Bench { layer }, counts: HashMap::new(), under_way: Vec::new() }
    }

    /// Until nothing is under way.
    async fn rest(&mut self) {
        while !self.under_way.is_empty() {
            self.pass().await;
        }
    }

    async fn pass(&mut self) -> tokio::time::Instant {
        tokio::time::advance(Duration::from_millis(1)).await;
        let now = tokio::time::Instant::now();
        for (_, mut done) in self.under_way.extract_if(.., |(due, _)| *due <= now) {
            let polled = done.as_mut().poll(&mut TaskContext::from_waker(Waker::noop()));
            assert!(polled.is_ready(), "it is due");
        }
        now
    }

    async fn step(&mut self, answer: impl Fn(&str) -> (StatusCode, Duration)) {
        let now = self.pass().await;
        let due = Arc::new(Mutex::new((String::new(), now)));
        let seen = Arc::clone(&due);
        let behind = service_fn(move |request: Request<()>| {
            let address = Endpoint::of(request.extensions()).unwrap().address().to_string();
            let (status, after) = answer(&address);
            *seen.lock().unwrap() = (address, now + after);
            let due = now + after;
            std::future::poll_fn(move |_| {
                let mut response = Response::new(Full::default());
                *response.status_mut() = status;
                if tokio::time::Instant::now() >= due { Poll::Ready(Ok(response)) } else { Poll::Pending }
            })
        });
        let mut call = Box::pin(self.bench.layer.layer(behind).call(Request::new(())));
        assert!(call.as_mut().poll(&mut TaskContext::from_waker(Waker::noop())).is_pending());
        let (address, due) = due.lock().unwrap().clone();
        *self.counts.entry(address).or_default() += 1;
        self.under_way.push((due, call));
    }
}

// ---- R9.7

#[tokio::test(start_paused = true)]
async fn r9_7_a_draining_node_gets_nothing_new_and_ends_what_it_has() {
    for policy in ALL {
        let bench = bench(BalanceConfig::new(policy), even(3));
        let kept = (0..30).map(|number| bench.ask(keyed(number))).collect::<Vec<_>>();
        let node = bench.endpoint("node_1");
        let under_way = node.in_flight();
        assert!(under_way > 0, "{policy:?}");
        node.withdraw(Absence::Draining);
        assert!(!bench.counts(200).contains_key("node_1"));
        assert_eq!((node.in_flight(), node.is_drained()), (under_way, false));
        drop(kept);
        assert!(node.is_drained(), "{policy:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn r9_7_one_that_is_not_listed_any_more_ends_what_it_has() {
    let bench = bench(BalanceConfig::default(), even(2));
    let first = bench.ask(Request::new(()));
    bench.layer.update(even(3).skip(1));
    let leaving = bench.layer.leaving();
    assert_eq!((leaving.len(), leaving[0].in_flight()), (1, 1));
    assert!(!bench.counts(50).contains_key("node_0"));
    assert_eq!(address(first), "node_0");
    assert_eq!((bench.layer.leaving().len(), leaving[0].in_flight()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn r9_7_maintenance_is_nobodys_alarm() {
    let panics = Arc::new(Panics::default());
    let config = BalanceConfig::default().panic(100);
    let bench = Bench { layer: BalanceLayer::observed(config, even(4), Arc::clone(&panics)) };
    bench.endpoint("node_0").withdraw(Absence::Maintenance);
    bench.endpoint("node_1").withdraw(Absence::Draining);
    let seen = (0..20).map(|_| bench.send()).collect::<BTreeSet<_>>();
    assert_eq!((seen.len(), panics.panicked.load(SeqCst)), (2, 0));
}

/// Discovery that drops an address and finds it again finds all that was known of it.
#[tokio::test(start_paused = true)]
async fn r9_7_an_address_that_flaps_keeps_its_account() {
    let bench = bench(BalanceConfig::default(), even(2));
    let kept = bench.ask(Request::new(()));
    bench.endpoint("node_0").withdraw(Absence::Maintenance);
    for _ in 0..1000 {
        bench.layer.update(even(2).skip(1));
        bench.layer.update(even(2));
    }
    let node = bench.endpoint("node_0");
    assert_eq!((node.in_flight(), node.absences().next()), (1, Some(Absence::Maintenance)));
    drop(kept);
    assert_eq!(node.in_flight(), 0);
    let layer = bench.layer.reconfigured(BalanceConfig::new(Policy::Random), even(2).map(|it| it.weight(5)));
    assert_eq!(
        layer.endpoints()[0].absences().next(),
        Some(Absence::Maintenance),
        "a new weight is the same address"
    );
}

#[tokio::test(start_paused = true)]
async fn r9_7_services_that_exist_see_an_update_at_their_next_request() {
    let layer = BalanceLayer::new(["a:1"]);
    let behind = service_fn(|request: Request<()>| {
        let address = Endpoint::of(request.extensions()).unwrap().address().to_string();
        ready(Ok::<_, ()>(Response::new(Full::<Bytes>::from(address))))
    });
    let mut service = layer.layer(behind);
    assert_eq!(address(service.call(Request::new(())).await.unwrap()), "a:1");
    layer.update(["b:1"]);
    assert_eq!(address(service.clone().call(Request::new(())).await.unwrap()), "b:1");
    assert_eq!(address(service.call(Request::new(())).await.unwrap()), "b:1");
}

/// Threads call while another changes the set: nobody is refused and nothing is left.
#[tokio::test]
async fn r9_7_requests_go_on_while_the_set_changes() {
    let bench = Arc::new(bench(BalanceConfig::new(Policy::PeakEwma), even(4)));
    let is_over = Arc::new(AtomicBool::new(false));
    let threads = (0..3).map(|_| {
        let (bench, is_over) = (Arc::clone(&bench), Arc::clone(&is_over));
        std::thread::spawn(move || {
            let mut requests = 0_u64;
            while !is_over.load(SeqCst) || requests < 100 {
                assert!(bench.sent(Request::new(())).is_some());
                requests += 1;
            }
        })
    });
    let threads = threads.collect::<Vec<_>>();
    for turn in 0..500 {
        bench.layer.update(even(3 + turn % 3).skip(turn % 2));
    }
    is_over.store(true, SeqCst);
    for thread in threads {
        thread.join().unwrap();
    }
    bench.layer.update(even(6));
    assert!(bench.layer.endpoints().iter().all(|endpoint| endpoint.in_flight() == 0));
}

// ---- R9.8

#[tokio::test(start_paused = true)]
async fn r9_8_health_is_told_once_for_all_policies() {
    let first = bench(BalanceConfig::default(), even(4));
    let others = ALL.map(|policy| first.layer.reconfigured(BalanceConfig::new(policy), even(4)));
    first.endpoint("node_2").withdraw(Absence::Unhealthy);
    for layer in others {
        let bench = Bench { layer };
        assert!(!bench.counts(200).contains_key("node_2"));
    }
    first.endpoint("node_2").restore(Absence::Unhealthy, Now::read());
    assert!(first.counts(8).contains_key("node_2"));
}

// ---- R9.9

#[tokio::test(start_paused = true)]
async fn r9_9_a_retry_prefers_another_endpoint() {
    for policy in ALL {
        for in_context in [true, false] {
            let bench = bench(BalanceConfig::new(policy), even(4));
            let tried = Tried::new();
            let again = || {
                let mut request = keyed(7);
                if in_context {
                    request.extensions_mut().insert(Context::new(Now::read()));
                }
                tried.clone().put(request.extensions_mut());
                request
            };
            let mut seen = BTreeSet::new();
            for attempt in 0..4 {
                let foreseen = said(&bench.layer, again());
                let did = bench.sent(again());
                assert_eq!(foreseen, did, "{policy:?}");
                seen.extend(did);
                assert_eq!((seen.len(), tried.count()), (attempt + 1, attempt + 1), "{policy:?}");
            }
            assert!(bench.sent(again()).is_some(), "{policy:?}: all were tried, so any will do");
        }
    }
}

// ---- Gates

/// Does as it is told, and writes down what it hears.
#[derive(Debug)]
struct Script {
    says: Mutex<Availability>,
    probes: AtomicU32,
    tickets: AtomicU64,
    ended: Mutex<Vec<(Ticket, Outcome)>>,
}

impl Script {
    fn saying(says: Availability, probes: u32) -> Arc<Self> {
        let ended = Mutex::default();
        Arc::new(Self { says: Mutex::new(says), probes: probes.into(), tickets: 0.into(), ended })
    }
}

impl Gate for Script {
    fn availability(&self, _: Now) -> Availability {
        match *self.says.lock().unwrap() {
            Availability::Probe if self.probes.load(SeqCst) == 0 => Availability::Ejected(None),
            says => says,
        }
    }

    fn enter(&self, _: Now) -> Option<Ticket> {
        let ticket = || Some(Ticket(self.tickets.fetch_add(1, SeqCst)));
        match *self.says.lock().unwrap() {
            Availability::Ready => ticket(),
            Availability::Probe => self
                .probes
                .fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1))
                .ok()
                .and_then(|_| ticket()),
            Availability::Ejected(_) => None,
        }
    }

    fn leave(&self, ticket: Ticket, passage: &Passage) {
        self.ended.lock().unwrap().push((ticket, passage.outcome));
    }
}

fn gated(policy: Policy, gates: &[Arc<Script>]) -> Bench {
    let scripts = gates.to_vec();
    let layer = by_header(BalanceLayer::with_config(BalanceConfig::new(policy).seed(1), even(gates.len())));
    let layer = layer.gated(move |address| {
        let number = address.strip_prefix("node_").unwrap().parse::<usize>().unwrap();
        Arc::clone(&scripts[number]) as Arc<dyn Gate>
    });
    Bench { layer }
}

#[tokio::test(start_paused = true)]
async fn an_ejected_endpoint_is_never_entered_and_one_probe_passes_while_its_body_is_open() {
    for policy in ALL {
        let gates = [
            Script::saying(Availability::Ejected(None), 0),
            Script::saying(Availability::Ready, 0),
            Script::saying(Availability::Probe, 1),
        ];
        let bench = gated(policy, &gates);
        let kept = (0..300).map(|number| bench.ask(keyed(number))).collect::<Vec<_>>();
        assert!(kept.iter().all(|response| response.status() == 200), "{policy:?}");
        let entered = gates.each_ref().map(|gate| gate.tickets.load(SeqCst));
        assert_eq!(entered, [0, 299, 1], "{policy:?}");
        for response in kept {
            address(response);
        }
        let ended = gates[2].ended.lock().unwrap().clone();
        assert_eq!(ended, [(Ticket(0), Outcome::Success)]);
    }
}

/// Each look for another one drew anew from the same number, which had chosen the closed one: its neighbour inherited
/// its share, and one of three had a half.
#[tokio::test(start_paused = true)]
async fn nobody_inherits_the_share_of_a_neighbour_whose_gate_is_closed() {
    for policy in [
        Policy::Random,
        Policy::LeastRequest,
        Policy::WeightedLeastRequest,
        Policy::LeastLatency,
        Policy::LeastLoad,
        Policy::PeakEwma,
    ] {
        // One, as many as are passed over at a glance, and more.
        for closed in [1, 4, 6] {
            let says =
                |number| if number < closed { Availability::Ejected(None) } else { Availability::Ready };
            let gates = (0..closed + 3).map(|number| Script::saying(says(number), 0)).collect::<Vec<_>>();
            let counts = gated(policy, &gates).counts(6000);
            assert!(
                counts.len() == 3 && counts.values().all(|count| (1850..2150).contains(count)),
                "{policy:?}, {closed}: {counts:?}"
            );
        }
    }
}

/// It goes between the choice, which asks its gate, and the entry.
#[derive(Debug, Default)]
struct Leaving(Mutex<Option<Endpoint>>);

impl Gate for Leaving {
    fn availability(&self, _: Now) -> Availability {
        if let Some(endpoint) = &*self.0.lock().unwrap() {
            endpoint.withdraw(Absence::Draining);
            assert!(endpoint.is_drained());
        }
        Availability::Ready
    }
    fn enter(&self, _: Now) -> Option<Ticket> {
        Some(Ticket(0))
    }
    fn leave(&self, _: Ticket, _: &Passage) {}
}

#[tokio::test(start_paused = true)]
async fn r9_7_nobody_enters_what_was_said_to_be_drained() {
    for policy in ALL {
        for (count, capacity) in [(1, None), (3, None), (3, Some(30))] {
            let bounded = |target: Target| match capacity {
                Some(capacity) => target.capacity(capacity),
                None => target,
            };
            let targets = even(count).map(bounded);
            let layer = by_header(BalanceLayer::with_config(BalanceConfig::new(policy), targets));
            let gates = (0..count).map(|_| Arc::<Leaving>::default()).collect::<Vec<_>>();
            let scripts = gates.clone();
            let layer = layer.gated(move |address| {
                let number = address.strip_prefix("node_").unwrap().parse::<usize>().unwrap();
                Arc::clone(&scripts[number]) as Arc<dyn Gate>
            });
            let bench = Bench { layer };
            let node = bench.endpoint("node_0");
            *gates[0].0.lock().unwrap() = Some(node.clone());
            let kept = (0..20).map(|number| bench.ask(keyed(number))).collect::<Vec<_>>();
            assert!(node.is_drained(), "{policy:?}: {} of {count}", node.in_flight());
            let is_answered = |response: &Kept| response.status() == if count > 1 { 200 } else { 503 };
            assert!(kept.iter().all(is_answered), "{policy:?}");
        }
    }
}

/// A gate that says it is open and lets nobody in, as when others were faster.
#[derive(Debug)]
struct Unlucky;

impl Gate for Unlucky {
    fn availability(&self, _: Now) -> Availability {
        Availability::Probe
    }
    fn enter(&self, _: Now) -> Option<Ticket> {
        None
    }
    fn leave(&self, _: Ticket, _: &Passage) {
        panic!("nobody was let in");
    }
}

#[tokio::test(start_paused = true)]
async fn who_was_too_late_for_a_probe_goes_to_the_next_candidate() {
    for policy in ALL {
        for count in [3, 40] {
            let layer = by_header(BalanceLayer::with_config(BalanceConfig::new(policy), even(count)));
            let last = format!("node_{}", count - 1);
            let open = last.clone();
            let layer = layer.gated(move |address| -> Arc<dyn Gate> {
                if **address == *open { Script::saying(Availability::Ready, 0) } else { Arc::new(Unlucky) }
            });
            let bench = Bench { layer };
            for number in 0..40 {
                assert_eq!(bench.sent_by(number), last, "{policy:?}, {count}");
            }
            let in_flight = bench.layer.endpoints().iter().map(Endpoint::in_flight).sum::<u32>();
            assert_eq!(in_flight, 0, "who was not let in holds nothing");
        }
    }
}

/// Being too late for many does not widen what was asked for.
#[tokio::test(start_paused = true)]
async fn who_was_too_late_everywhere_is_not_sent_outside_of_its_subset() {
    let targets = (0..40).map(|number| {
        Target::new(format!("node_{number}")).label("version", if number < 20 { "v1" } else { "v2" })
    });
    let config = BalanceConfig::new(Policy::Random).subset_miss(SubsetMiss::Refuse);
    let layer = BalanceLayer::with_config(config, targets).subset_by("version", |_| Some(Key::of("v1")));
    let layer = layer.gated(|address| -> Arc<dyn Gate> {
        let number = address.strip_prefix("node_").unwrap().parse::<u32>().unwrap();
        if number < 20 { Arc::new(Unlucky) } else { Script::saying(Availability::Ready, 0) }
    });
    assert_eq!(Bench { layer }.sent(Request::new(())), None);
}

#[tokio::test(start_paused = true)]
async fn a_gate_hears_what_came_of_each() {
    let gate = Script::saying(Availability::Ready, 0);
    let bench = gated(Policy::RoundRobin, std::slice::from_ref(&gate));
    let answers = [
        Ok(Response::new(Full::<Bytes>::default())),
        Err(()),
        Ok(Response::builder().status(503).body(Full::default()).unwrap()),
        Ok(Rejection::new(Reason::ResponseTimeout).into_response()),
        Ok(Rejection::new(Reason::BulkheadFull).into_response()),
    ];
    for answer in answers {
        let mut service = bench.layer.layer(service_fn(move |_: Request<()>| ready(answer.clone())));
        drop(service.call(Request::new(())).await);
    }
    let mut hangs =
        bench.layer.layer(service_fn(|_: Request<()>| pending::<Result<Response<Full<Bytes>>, ()>>()));
    drop(hangs.call(Request::new(())));
    let mut breaks =
        bench.layer.layer(service_fn(|_: Request<()>| ready(Ok::<_, ()>(Response::new(Breaks)))));
    assert!(breaks.call(Request::new(())).await.unwrap().into_body().collect().await.is_err());
    let ended = gate.ended.lock().unwrap().iter().map(|(_, outcome)| *outcome).collect::<Vec<_>>();
    let expected = [
        Outcome::Success,
        Outcome::Failure,
        Outcome::Failure,
        Outcome::Failure,
        Outcome::Neutral,
        Outcome::Neutral,
        Outcome::Failure,
    ];
    assert_eq!(ended, expected);
}

#[derive(Debug, Default)]
struct Breaks;

impl Body for Breaks {
    type Data = Bytes;
    type Error = &'static str;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Poll::Ready(Some(Err("broken off")))
    }
}

#[tokio::test(start_paused = true)]
async fn gates_are_kept_over_reconfigurations_and_keep_nobody_out_in_a_panic() {
    let gate = Script::saying(Availability::Ejected(None), 0);
    let mut bench = gated(Policy::RoundRobin, std::slice::from_ref(&gate));
    assert_eq!(bench.sent(Request::new(())), None);
    bench.layer = bench.layer.reconfigured(BalanceConfig::default().panic(1), even(1));
    assert_eq!(bench.send(), "node_0");
    assert_eq!(gate.tickets.load(SeqCst), 0);
    *gate.says.lock().unwrap() = Availability::Ready;
    assert_eq!((bench.send().as_str(), gate.tickets.load(SeqCst)), ("node_0", 1));
}

/// Says of each endpoint whether its gate is closed: 1,000 requests, and who had some.
fn served_where_closed(config: BalanceConfig, count: usize, closed: &[usize]) -> BTreeSet<usize> {
    let scripts = (0..count).map(|number| {
        let is_closed = closed.contains(&number);
        Script::saying(if is_closed { Availability::Ejected(None) } else { Availability::Ready }, 0)
    });
    let scripts = scripts.collect::<Vec<_>>();
    let layer = by_header(BalanceLayer::with_config(config.seed(1), even(count))).gated(move |address| {
        let number = address.strip_prefix("node_").unwrap().parse::<usize>().unwrap();
        Arc::clone(&scripts[number]) as Arc<dyn Gate>
    });
    let bench = Bench { layer };
    let sent = (0..1000).filter_map(|number| bench.sent(keyed(number)));
    sent.map(|address| address.strip_prefix("node_").unwrap().parse().unwrap()).collect()
}

#[tokio::test(start_paused = true)]
async fn r7_4_closed_gates_take_out_no_more_than_they_may_and_never_all() {
    for policy in ALL {
        let served = |percent, count, closed: &[usize]| {
            served_where_closed(BalanceConfig::new(policy).max_ejected(percent), count, closed)
        };
        let all_but = |gone: &[usize], count: usize| -> BTreeSet<usize> {
            (0..count).filter(|number| !gone.contains(number)).collect()
        };
        // Half of six is three, the fourth is spared.
        assert_eq!(served(50, 6, &[0, 2, 5]), all_but(&[0, 2, 5], 6), "{policy:?}");
        assert_eq!(served(50, 6, &[0, 2, 4, 5]), all_but(&[0, 2, 4], 6), "{policy:?}");
        // One of two may always be taken out, and one of however many stays.
        assert_eq!(served(10, 2, &[1]), all_but(&[1], 2), "{policy:?}");
        assert_eq!(served(100, 3, &[0, 1, 2]), all_but(&[0, 1], 3), "{policy:?}");
        assert_eq!(served(100, 1, &[0]), all_but(&[], 1), "{policy:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_gone_for_other_reasons_does_not_count_among_those_that_stay() {
    let gates = [(); 3].map(|()| Script::saying(Availability::Ready, 0));
    let mut bench = gated(Policy::RoundRobin, &gates);
    bench.layer = bench.layer.reconfigured(BalanceConfig::default().max_ejected(100), even(3));
    let endpoints = bench.layer.endpoints();
    endpoints[0].withdraw(Absence::Unhealthy);
    *gates[1].says.lock().unwrap() = Availability::Ejected(None);
    assert_eq!(bench.counts(30), HashMap::from([("node_2".into(), 30)]));
    *gates[2].says.lock().unwrap() = Availability::Ejected(None);
    assert_eq!(bench.counts(30), HashMap::from([("node_2".into(), 30)]), "the last that is there stays");
    let (head, ()) = Request::new(()).into_parts();
    let Finding::Admit(said) = bench.layer.explain(Now::read(), &mut { head }) else { panic!("it is sent") };
    assert!(said.contains("node_1 (0, closed)") && said.contains("node_2 (0, closed, spared"), "{said}");
}

#[tokio::test(start_paused = true)]
async fn where_all_gates_are_closed_it_is_said_when_to_try_again() {
    let left = |seconds| Availability::Ejected(Some(Duration::from_secs(seconds)));
    let gates = [left(20), left(7), Availability::Ejected(None)].map(|says| Script::saying(says, 0));
    let bench = gated(Policy::RoundRobin, &gates);
    let refused = bench.ask(Request::new(()));
    let rejection = refused.extensions().get::<Rejection>().unwrap();
    assert_eq!(
        (rejection.reason, &refused.headers()["retry-after"]),
        (Reason::CircuitOpen, &"7".parse().unwrap())
    );
    bench.layer.endpoints().iter().for_each(|endpoint| endpoint.withdraw(Absence::Maintenance));
    let refused = bench.ask(Request::new(()));
    assert_eq!(refused.extensions().get::<Rejection>().unwrap().reason, Reason::NoEndpoint);
}

// ---- Subsets, cookies, loads

#[tokio::test(start_paused = true)]
async fn labels_choose_a_subset() {
    let versions = || {
        (0..6).map(|number: usize| {
            Target::new(format!("node_{number}")).label("version", if number < 2 { "v2" } else { "v1" })
        })
    };
    let fixed = bench(BalanceConfig::default().label("version", "v2"), versions());
    assert_eq!(
        fixed.counts(100).into_keys().collect::<BTreeSet<_>>(),
        ["node_0", "node_1"].map(String::from).into()
    );
    let asked = |miss| {
        let config = BalanceConfig::new(Policy::Random).subset_miss(miss);
        let by_version = |value: &http::HeaderValue| Some(Key::of(value.to_str().ok()?));
        let layer = BalanceLayer::with_config(config, versions());
        Bench { layer: layer.subset_by("version", move |head| by_version(head.headers.get("x-version")?)) }
    };
    let wants = |version: &'static str| Request::builder().header("x-version", version).body(()).unwrap();
    let bench = asked(SubsetMiss::Refuse);
    let seen =
        |bench: &Bench, version| (0..100).filter_map(|_| bench.sent(wants(version))).collect::<BTreeSet<_>>();
    assert_eq!((seen(&bench, "v2").len(), seen(&bench, "v1").len(), seen(&bench, "v3").len()), (2, 4, 0));
    assert_eq!(seen(&asked(SubsetMiss::Any), "v3").len(), 6);
}

/// Nobody has what is asked for: that is not the same as nobody being well.
#[tokio::test(start_paused = true)]
async fn r1_4_a_subset_without_endpoints_is_something_else_than_one_that_is_sick() {
    let targets = || [Target::new("node_0").label("version", "v1"), Target::new("node_1")];
    let why = |layer: BalanceLayer| {
        let bench = Bench { layer };
        let said = match bench.layer.explain(Now::read(), &mut Request::new(()).into_parts().0) {
            Finding::Reject(rejection) => rejection.reason,
            other => panic!("{other:?}"),
        };
        let done = bench.ask(Request::new(())).extensions().get::<Rejection>().unwrap().reason;
        assert_eq!(said, done, "what is explained is what is done");
        done
    };
    let config = BalanceConfig::new(Policy::Random).subset_miss(SubsetMiss::Refuse);
    let asking = |version: &'static str| {
        let layer = BalanceLayer::with_config(config.clone(), targets());
        layer.subset_by("version", move |_| Some(Key::of(version)))
    };
    assert_eq!(why(asking("v2")), Reason::SubsetEmpty);
    let sick = asking("v1");
    sick.endpoints()[0].withdraw(Absence::Unhealthy);
    assert_eq!(why(sick), Reason::NoEndpoint);
    let only =
        |version| BalanceLayer::with_config(BalanceConfig::default().label("version", version), targets());
    assert_eq!(why(only("v2")), Reason::SubsetEmpty);
    let sick = only("v1");
    sick.endpoints()[0].withdraw(Absence::Unhealthy);
    assert_eq!(why(sick), Reason::NoEndpoint);
    assert_eq!(why(BalanceLayer::with_config(config.clone(), [] as [Target; 0])), Reason::NoEndpoint);
}

/// Turns go on where they were when the set changes, and 64 threads take one sequence.
#[tokio::test]
async fn r1_7_in_turn_sixty_four_threads_are_fair_and_a_change_of_the_set_begins_nothing_anew() {
    let five = (0..5).map(|number| Target::new(format!("node_{number}"))).collect::<Vec<_>>();
    let bench = Arc::new(bench(BalanceConfig::new(Policy::RoundRobin), five.clone()));
    assert_eq!([bench.send(), bench.send()], ["node_0", "node_1"]);
    bench.layer.update([&five[..], &[Target::new("node_5")]].concat());
    assert_eq!(bench.send(), "node_2", "and not the first one again");
    bench.layer.update(five);
    let threads = (0..64).map(|_| {
        let bench = Arc::clone(&bench);
        std::thread::spawn(move || bench.counts(101))
    });
    let mut total = HashMap::<String, u64>::new();
    for thread in threads.collect::<Vec<_>>() {
        thread.join().unwrap().into_iter().for_each(|(name, count)| *total.entry(name).or_default() += count);
    }
    let fair = 64 * 101 / 5;
    assert!(total.len() == 5 && total.values().all(|count| (fair..=fair + 1).contains(count)), "{total:?}");
}

#[tokio::test(start_paused = true)]
async fn a_cookie_brings_a_client_back_and_is_set_anew_where_its_endpoint_is_gone() {
    let config = BalanceConfig::default().sticky(Sticky::new("naka_endpoint", b"a secret").unwrap());
    let bench = bench(config.clone(), even(4));
    let first = bench.ask(Request::new(()));
    let set = first.headers()[SET_COOKIE].to_str().unwrap().to_owned();
    assert!(set.contains("; HttpOnly; SameSite=Lax") && !set.contains("node"), "{set}");
    let home = address(first);
    let cookie = set.split(';').next().unwrap().to_owned();
    let back = |cookie: &str| Request::builder().header(COOKIE, cookie).body(()).unwrap();
    for _ in 0..10 {
        assert_eq!(said(&bench.layer, back(&cookie)).as_deref(), Some(&*home));
        let response = bench.ask(back(&cookie));
        assert!(!response.headers().contains_key(SET_COOKIE));
        assert_eq!(address(response), home);
        bench.send();
    }
    bench.endpoint(&home).withdraw(Absence::Unhealthy);
    let elsewhere = bench.ask(back(&cookie));
    let anew = elsewhere.headers()[SET_COOKIE].to_str().unwrap().split(';').next().unwrap().to_owned();
    let elsewhere = address(elsewhere);
    assert!(anew != cookie && elsewhere != home);
    assert_eq!(bench.sent(back(&anew)), Some(elsewhere));
    let forged = bench.ask(back("naka_endpoint=0123456789abcdef"));
    assert!(forged.headers().contains_key(SET_COOKIE));
    // The secret, and not the process, makes the cookie.
    let other = Bench { layer: BalanceLayer::with_config(config, even(4)) };
    assert_eq!(other.sent(back(&cookie)), Some(home));
}

#[tokio::test(start_paused = true)]
async fn r9_1_the_least_busy_is_chosen_and_old_reports_are_forgotten() {
    let bench = bench(BalanceConfig::new(Policy::LeastLoad), even(3));
    for (name, load) in [("node_0", 800), ("node_1", 100), ("node_2", 400)] {
        bench.endpoint(name).report_load(load, Now::read());
    }
    assert_eq!(bench.counts(100)["node_1"], 100);
    let said = told(&bench.layer);
    assert!(
        said.starts_with("least load chooses node_1, 0 in flight there; of node_0 (0 × load 800‰)"),
        "{said}"
    );
    tokio::time::advance(Duration::from_secs(200)).await;
    assert_eq!(bench.counts(300).len(), 3);
}

// ---- What explain says

fn under(config: &BalanceConfig, policy: Policy) -> BalanceConfig {
    let mut config = config.clone();
    config.policy = policy;
    config
}

#[tokio::test(start_paused = true)]
async fn explain_says_which_and_why() {
    assert_eq!(told(&BalanceLayer::new(["a:1", "b:1"])), "round robin chooses a:1, 0 in flight there");
    let config = BalanceConfig::new(Policy::PeakEwma).latency(Latency::default()).seed(1);
    let bench = Bench { layer: BalanceLayer::with_config(config, even(10)) };
    bench.endpoint("node_1").withdraw(Absence::Maintenance);
    let said = told(&bench.layer);
    assert!(said.starts_with("peak EWMA chooses node_"), "{said}");
    assert!(said.contains("node_1 (0 × 0ns, maintenance)") && said.ends_with(" and 2 more"), "{said}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    /// Under each policy, whatever happens: what explain says is what the next request does, an endpoint that is
    /// not available is never chosen while one is, and everything is given back.
    #[test]
    fn what_is_explained_is_what_is_done(
        policy in 0..ALL.len(),
        steps in prop::collection::vec((0_u8..10, 0_u64..40), 1..120),
        slow in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let mut config = BalanceConfig::new(ALL[policy]).max_load(150);
            if slow {
                config = config.slow_start(Duration::from_secs(30));
            }
            let mut bench = bench(config.clone(), demo().map(|it| it.capacity(20)));
            let mut kept = Vec::new();
            for (step, number) in steps {
                let endpoints = bench.layer.endpoints();
                let place = usize::try_from(number).unwrap() % endpoints.len();
                match step {
                    0 => endpoints[place].withdraw(Absence::Unhealthy),
                    1 => endpoints.iter().for_each(|it| it.restore(Absence::Unhealthy, Now::read())),
                    2 => tokio::time::advance(Duration::from_millis(number * 100)).await,
                    3 => bench.layer.update(demo().skip(place % 3).map(|it| it.capacity(20))),
                    4 => kept.truncate(place),
                    5 => bench.layer = bench.layer.reconfigured(
                        under(&config, ALL[place % ALL.len()]),
                        demo().map(|it| it.capacity(20)),
                    ),
                    _ => {}
                }
                let foreseen = said(&bench.layer, keyed(number));
                let response = bench.ask(keyed(number));
                let is_refused = response.extensions().get::<Rejection>().is_some();
                let can = bench.layer.endpoints().iter().any(|it| it.absences().next().is_none() && it.in_flight() < 20);
                prop_assert_eq!(foreseen.is_none(), is_refused);
                if let Some(foreseen) = foreseen {
                    prop_assert_eq!(response.headers()["x-endpoint"].to_str().unwrap(), &foreseen);
                    let chosen = bench.endpoint(&foreseen);
                    prop_assert!(chosen.absences().next().is_none() && chosen.in_flight() > 0);
                    kept.push(response);
                } else {
                    prop_assert!(!can);
                }
            }
            let under_way = bench.layer.endpoints().iter().chain(&bench.layer.leaving()).map(Endpoint::in_flight).sum::<u32>();
            prop_assert_eq!(usize::try_from(under_way).unwrap(), kept.len());
            for response in kept {
                address(response);
            }
            prop_assert!(bench.layer.endpoints().iter().all(|it| it.in_flight() == 0));
            Ok(())
        })?;
    }
}
