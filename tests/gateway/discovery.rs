//! Endpoints that are found, and what becomes of them while they change.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    pin::Pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use naka_gateway::discover::{
    FIRST, Resolve, Status,
    names::{Answer, Kind, Question, Record},
};
use naka_testkit::{
    network::Network,
    upstream::{Step, Upstream, ok},
};
use tokio::{net::UdpSocket, task::JoinHandle};

use crate::{
    inside::{Inside, get},
    process::Process,
};

/// What name servers say, under virtual time.
#[derive(Default)]
struct Zone {
    says: Mutex<BTreeMap<Question, Result<Answer, String>>>,
    asked: Mutex<Vec<Question>>,
    /// Nobody answers these.
    hangs: Mutex<BTreeSet<Question>>,
}

impl Zone {
    fn new() -> Arc<Self> {
        Arc::default()
    }

    /// These are the IPv4 addresses of a name, and it has no others.
    fn has(&self, name: &str, addresses: &[&str], ttl_s: u64) {
        let records = addresses.iter().map(|ip| Record::Address(ip.parse().unwrap())).collect();
        self.says(name, Kind::A, Ok(Answer { records, ttl: Duration::from_secs(ttl_s) }));
        self.says(name, Kind::Aaaa, Ok(Answer { records: Vec::new(), ttl: Duration::from_secs(ttl_s) }));
    }

    fn fails(&self, name: &str) {
        self.says(name, Kind::A, Err("SERVFAIL".into()));
        self.says(name, Kind::Aaaa, Err("SERVFAIL".into()));
    }

    fn says(&self, name: &str, kind: Kind, said: Result<Answer, String>) {
        self.says.lock().unwrap().insert(Question { name: name.into(), kind }, said);
    }

    /// How often a name was asked for its IPv4 addresses.
    fn asked(&self, name: &str) -> usize {
        let asked = self.asked.lock().unwrap();
        asked.iter().filter(|question| &*question.name == name && question.kind == Kind::A).count()
    }
}

impl Resolve for Zone {
    fn resolve(&self, question: Question) -> Pin<Box<dyn Future<Output = Result<Answer, String>> + Send>> {
        self.asked.lock().unwrap().push(question.clone());
        let said = self.says.lock().unwrap().get(&question).cloned();
        let hangs = self.hangs.lock().unwrap().contains(&question);
        Box::pin(async move {
            if hangs {
                std::future::pending::<()>().await;
            }
            said.unwrap_or_else(|| Err("nobody says".into()))
        })
    }
}

fn file(endpoints: &str) -> String {
    with(endpoints, "")
}

fn with(endpoints: &str, rest: &str) -> String {
    format!(
        "
listeners: {{public: {{listen: ':1'}}}}
upstreams: {{app: {{endpoints: {endpoints}{rest}}}}}
routes: {{all: {{match: {{prefix: /}}, upstream: app}}}}
"
    )
}

/// Servers that say who they are.
fn servers(network: &Network, addresses: &[&str]) -> Vec<Upstream> {
    let start = |address: &&str| {
        let name = address.to_string();
        Upstream::inside(network, address, move |seen| match seen.target() {
            "/slow" => vec![
                Step::send("HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nhalf"),
                Step::Wait(Duration::from_mins(1)),
                Step::send("whole"),
            ],
            "/hangs" => vec![Step::Hang],
            _ => ok(&name),
        })
    };
    addresses.iter().map(start).collect()
}

/// Who answers, in so many requests.
async fn who(gateway: &Inside, times: usize) -> BTreeMap<String, usize> {
    let mut all = BTreeMap::new();
    for _ in 0..times {
        let answer = gateway.send(get("/")).await;
        let who = if answer.status() == 200 {
            String::from_utf8_lossy(answer.body()).into_owned()
        } else {
            answer.headers()["naka-reason"].to_str().unwrap().to_owned()
        };
        *all.entry(who).or_insert(0) += 1;
    }
    all
}

fn each(addresses: &[&str], times: usize) -> BTreeMap<String, usize> {
    addresses.iter().map(|address| (address.to_string(), times)).collect()
}

/// Lets so much time go by, and whatever happens in it happen.
async fn after(time: Duration) {
    tokio::time::sleep(time).await;
}

const SECOND: Duration = Duration::from_secs(1);
/// Longer than it takes to notice a change of a file.
const LOOKED: Duration = Duration::from_secs(2);

async fn found(gateway: &Inside) {
    gateway.generation().state.found().await;
}

fn status(gateway: &Inside) -> Status {
    let generation = gateway.generation();
    generation.state.discoveries.get("app").unwrap().status(naka::clock::Now::read())
}

/// A reload as the gateway makes it: the first answers are waited for.
async fn reload(gateway: &Inside, yaml: &str) {
    gateway.reload(yaml).unwrap();
    found(gateway).await;
}

#[tokio::test(start_paused = true)]
async fn r1_1_a_list_dns_and_a_file_are_a_matter_of_the_configuration_alone() {
    let zone = Zone::new();
    let list = file("['10.0.0.1:80']");
    let gateway = Inside::resolving(&list, &[], Some(zone.clone()));
    let all = ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80", "10.0.0.4:80"];
    let _servers = servers(&gateway.network, &all);
    assert_eq!(who(&gateway, 2).await, each(&all[..1], 2));
    gateway.reload(&file("{dns: 'app.internal:80'}")).unwrap();
    assert_eq!(who(&gateway, 2).await, each(&all[..1], 2), "what was listed stays until there is an answer");
    let is = status(&gateway);
    assert!(is.endpoints == 1 && is.stale.is_some(), "{is:?}");
    zone.has("app.internal", &["10.0.0.2", "10.0.0.3"], 30);
    found(&gateway).await;
    assert_eq!(who(&gateway, 4).await, each(&all[1..3], 2));
    gateway.reload(&file("{file: endpoints.yaml}")).unwrap();
    after(LOOKED).await;
    assert_eq!(who(&gateway, 4).await, each(&all[1..3], 2), "and what was found");
    gateway.write("endpoints.yaml", "['10.0.0.3:80', {address: '10.0.0.4:80'}]");
    after(LOOKED).await;
    assert_eq!(who(&gateway, 4).await, each(&all[2..], 2));
    gateway.reload(&list).unwrap();
    assert_eq!(who(&gateway, 2).await, each(&all[..1], 2));
    let asked = zone.asked("app.internal");
    after(Duration::from_hours(1)).await;
    assert_eq!(zone.asked("app.internal"), asked, "nobody wants to know any more");
}

#[tokio::test(start_paused = true)]
async fn r1_1_services_have_their_ports_weights_and_priorities() {
    let zone = Zone::new();
    let service = |priority, weight, port, target: &str| {
        Record::Service(naka_gateway::discover::names::Service {
            priority,
            weight,
            port,
            target: target.into(),
        })
    };
    let records = vec![service(1, 3, 81, "a."), service(1, 0, 82, "b."), service(2, 9, 83, "spare.")];
    zone.says("_http._tcp.app", Kind::Srv, Ok(Answer { records, ttl: SECOND }));
    for (name, address) in [("a.", "10.0.0.1"), ("b.", "10.0.0.2"), ("spare.", "10.0.0.3")] {
        zone.has(name, &[address], 1);
    }
    let gateway = Inside::resolving(
        &with("{srv: _http._tcp.app}", ", balance: {policy: weighted_round_robin}"),
        &[],
        Some(zone.clone()),
    );
    let _servers = servers(&gateway.network, &["10.0.0.1:81", "10.0.0.2:82", "10.0.0.3:83"]);
    found(&gateway).await;
    let weighed = BTreeMap::from([("10.0.0.1:81".to_owned(), 6), ("10.0.0.2:82".to_owned(), 2)]);
    assert_eq!(who(&gateway, 8).await, weighed);
    // When nobody of the first priority is there, the second one takes over.
    zone.has("a.", &[], 1);
    zone.has("b.", &[], 1);
    after(2 * SECOND).await;
    assert_eq!(who(&gateway, 2).await, each(&["10.0.0.3:83"], 2));
}

#[tokio::test(start_paused = true)]
async fn r1_2_a_new_endpoint_has_traffic_and_a_removed_one_ends_what_it_has() {
    let zone = Zone::new();
    zone.has("app", &["10.0.0.1", "10.0.0.2"], 10);
    let yaml = file("{dns: 'app:80'}").replace("upstream: app}", "timeouts: {total: never}, upstream: app}");
    let gateway = Inside::resolving(&yaml, &[], Some(zone.clone()));
    let [first, second, third] = ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"];
    let upstreams = servers(&gateway.network, &[first, second, third]);
    found(&gateway).await;
    // One is on its way at each, and one of them is removed.
    let (mut one, mut other) = (gateway.client().await, gateway.client().await);
    let slow = [one.head(get("/slow")).await, other.head(get("/slow")).await];
    zone.has("app", &["10.0.0.2", "10.0.0.3"], 10);
    after(11 * SECOND).await; // Its time to live, and up to a tenth.
    let before = upstreams[0].requests();
    assert_eq!(before, 1);
    assert_eq!(who(&gateway, 10).await, each(&[second, third], 5));
    assert_eq!(upstreams[0].requests(), before, "no new request after it was removed");
    for response in slow {
        let body = http_body_util::BodyExt::collect(response.into_body()).await.unwrap().to_bytes();
        assert_eq!(body.len(), 8, "what was under way has ended well, and no more than was announced");
    }
}

/// What is found is guarded as what is written down: each address has a breaker and a health check of its own,
/// from its first request on and also after it was gone for a while.
#[tokio::test(start_paused = true)]
async fn what_is_found_has_circuit_breakers_and_health_checks_too() {
    let zone = Zone::new();
    zone.has("app", &["10.0.0.1"], 10);
    let guards =
        "circuit_breaker: {consecutive: 3, failure_rate: never, open: 1h}, health_check: {type: tcp}";
    let yaml = file("{dns: 'app:80'}").replace("upstream: app}", &format!("{guards}, upstream: app}}"));
    let yaml = yaml.replace("upstreams: {app: {", &format!("upstreams: {{app: {{{guards}, "));
    let yaml = yaml.replace(&format!("{guards}, upstream: app}}"), "upstream: app}");
    let gateway = Inside::resolving(&yaml, &[], Some(zone.clone()));
    let _first = servers(&gateway.network, &["10.0.0.1:80"]);
    found(&gateway).await;
    zone.has("app", &["10.0.0.1", "10.0.0.2", "10.0.0.3"], 10);
    let sick = Upstream::inside(&gateway.network, "10.0.0.2:80", |_| {
        naka_testkit::upstream::answer(503, "", "sick")
    });
    // Nobody listens at the third: its check takes it out.
    after(22 * SECOND).await;
    let health = |address: &str| {
        gateway.generation().state.checks.get("app").unwrap().health.of(address).map(|it| it.condition.word())
    };
    assert_eq!((health("10.0.0.1:80"), health("10.0.0.3:80")), (Some("healthy"), Some("unhealthy")));
    assert_eq!(health("dns:app:80"), None, "what stands in for it is asked nothing");
    let requests = || sick.seen().iter().filter(|seen| seen.target() == "/").count();
    for _ in 0..30 {
        gateway.send(get("/")).await;
    }
    assert_eq!(requests(), 3, "then it is left alone");
    zone.has("app", &["10.0.0.1"], 10);
    after(Duration::from_mins(2)).await; // Two thirds of a set are not believed at once.
    assert_eq!(gateway.generation().state.balancers.get("app").unwrap().endpoints().len(), 1);
    zone.has("app", &["10.0.0.1", "10.0.0.2"], 10);
    after(22 * SECOND).await;
    for _ in 0..10 {
        assert_eq!(gateway.send(get("/")).await.status(), 200);
    }
    assert_eq!(requests(), 3, "it is still known");
}

#[tokio::test(start_paused = true)]
async fn r1_3_what_fails_or_says_that_there_is_none_changes_nothing_and_is_told() {
    let zone = Zone::new();
    zone.has("app", &["10.0.0.1", "10.0.0.2"], 10);
    let gateway = Inside::resolving(&file("{dns: 'app:80'}"), &[], Some(zone.clone()));
    let all = ["10.0.0.1:80", "10.0.0.2:80"];
    let _servers = servers(&gateway.network, &all);
    found(&gateway).await;
    assert_eq!((who(&gateway, 4).await, status(&gateway).stale), (each(&all, 2), None));
    for nothing in [Zone::fails as fn(&Zone, &str), |zone, name| zone.has(name, &[], 10)] {
        nothing(&zone, "app");
        after(Duration::from_hours(24)).await;
        assert_eq!(who(&gateway, 4).await, each(&all, 2), "a day later");
        let is = status(&gateway);
        assert!(is.stale.is_some() && is.age >= Duration::from_hours(23), "{is:?}");
        zone.has("app", &["10.0.0.1", "10.0.0.2"], 10);
        after(Duration::from_mins(1)).await;
        let is = status(&gateway);
        assert!(is.stale.is_none() && is.age <= 11 * SECOND, "{is:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn r1_3_a_registry_that_loses_nearly_all_is_believed_when_it_says_so_three_times() {
    let zone = Zone::new();
    let ten = (1..=10).map(|number| format!("10.0.0.{number}")).collect::<Vec<_>>();
    let ten = ten.iter().map(String::as_str).collect::<Vec<_>>();
    zone.has("app", &ten, 60);
    let gateway = Inside::resolving(&file("{dns: 'app:80'}"), &[], Some(zone.clone()));
    found(&gateway).await;
    let endpoints =
        |gateway: &Inside| gateway.generation().state.balancers.get("app").unwrap().endpoints().len();
    zone.has("app", &ten[..4], 60);
    after(Duration::from_secs(67)).await; // Its time to live, and up to a tenth.
    assert_eq!(endpoints(&gateway), 10);
    assert!(status(&gateway).is_held, "{:?}", status(&gateway));
    // It comes to its senses before it has been believed.
    zone.has("app", &ten, 60);
    after(6 * SECOND).await; // What is doubted is asked for sooner.
    assert!(!status(&gateway).is_held, "{:?}", status(&gateway));
    // It means it.
    zone.has("app", &ten[..4], 60);
    after(Duration::from_secs(67 + 12)).await;
    assert_eq!((endpoints(&gateway), status(&gateway).stale), (4, None));
    // By half at once, nobody doubts it; nor of two, one.
    for left in [2, 1] {
        zone.has("app", &ten[..left], 60);
        after(Duration::from_secs(67)).await;
        assert_eq!(endpoints(&gateway), left);
    }
}

#[tokio::test(start_paused = true)]
async fn what_fails_confirms_no_loss() {
    let zone = Zone::new();
    let ten = (1..=10).map(|number| format!("10.0.0.{number}")).collect::<Vec<_>>();
    let ten = ten.iter().map(String::as_str).collect::<Vec<_>>();
    zone.has("app", &ten, 10);
    let gateway = Inside::resolving(&file("{dns: 'app:80'}"), &[], Some(zone.clone()));
    found(&gateway).await;
    zone.has("app", &ten[..4], 10);
    after(Duration::from_secs(12)).await;
    assert!(status(&gateway).is_held, "{:?}", status(&gateway));
    zone.fails("app");
    after(Duration::from_hours(1)).await;
    let is = status(&gateway);
    assert!(is.endpoints == 10 && is.stale.is_some_and(|why| why.contains("SERVFAIL")));
    zone.has("app", &ten[..4], 10);
    after(Duration::from_mins(1)).await;
    assert_eq!(status(&gateway).endpoints, 4, "seen twice more");
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_there_is_none_counts_where_the_file_says_so() {
    let zone = Zone::new();
    zone.has("app", &["10.0.0.1", "10.0.0.2", "10.0.0.3"], 10);
    let yaml = file("{dns: 'app:80', when_empty: apply, max_shrink: 100%}");
    let gateway = Inside::resolving(&yaml, &[], Some(zone.clone()));
    found(&gateway).await;
    zone.fails("app");
    after(Duration::from_mins(10)).await;
    assert_eq!(status(&gateway).endpoints, 3, "a failure is no answer");
    zone.has("app", &[], 10);
    after(Duration::from_mins(1)).await;
    assert_eq!(who(&gateway, 1).await, each(&["no_endpoint"], 1));
    let would = gateway.explain("GET http://api.example/", &[]).to_string();
    assert!(would.contains("refuses: 503 no_endpoint; there is no endpoint"), "{would}");
}

/// What goes by weight, and how much fits, is said by the source.
#[tokio::test(start_paused = true)]
async fn r1_4_weights_and_capacities_come_with_the_endpoints() {
    let lists = [(
        "endpoints.yaml",
        "- {address: '10.0.0.1:80', weight: 3}\n- {address: '10.0.0.2:80', capacity: 1}\n",
    )];
    let yaml = with("{file: endpoints.yaml}", ", balance: {policy: weighted_round_robin}");
    let gateway = Inside::with_files(&yaml, &lists);
    let upstreams = servers(&gateway.network, &["10.0.0.1:80", "10.0.0.2:80"]);
    found(&gateway).await;
    let weighed = BTreeMap::from([("10.0.0.1:80".to_owned(), 6), ("10.0.0.2:80".to_owned(), 2)]);
    assert_eq!(who(&gateway, 8).await, weighed);
    // One hangs at the one with room for one.
    let hanging = async {
        let one = || async { gateway.send(get("/hangs")).await };
        tokio::join!(one(), one(), one(), one());
    };
    let meanwhile = async {
        while upstreams[1].working() == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(who(&gateway, 8).await, each(&["10.0.0.1:80"], 8));
    };
    tokio::select! {
        () = hanging => panic!("they hang"),
        () = meanwhile => {}
    }
}

/// One registry for two versions: each upstream takes its own, and one that is not there is something else than one
/// that is sick.
#[tokio::test(start_paused = true)]
async fn r1_4_labels_select_and_an_empty_selection_has_a_word_of_its_own() {
    let list = "- {address: '10.0.0.1:80', labels: {version: v1, region: mumbai}}
- {address: '10.0.0.2:80', labels: {version: v2, region: mumbai}}
- {address: '10.0.0.3:80', labels: {version: v2, region: delhi}}
";
    let yaml = with("{file: endpoints.yaml}", ", balance: {only: {version: v2}}")
        + "tests: [{request: 'GET http://api.example/', expect: {route: all, upstream: app}}]\n";
    let gateway = Inside::with_files(&yaml, &[("endpoints.yaml", list)]);
    let all = ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"];
    let _servers = servers(&gateway.network, &all);
    found(&gateway).await;
    assert_eq!(who(&gateway, 4).await, each(&all[1..], 2));
    // Whoever else is asked for is looked for among all there are.
    reload(&gateway, &yaml.replace("{version: v2}", "{version: v1, region: mumbai}")).await;
    assert_eq!(who(&gateway, 2).await, each(&all[..1], 2));
    reload(&gateway, &yaml.replace("version: v2", "version: v3")).await;
    assert_eq!(who(&gateway, 1).await, each(&["subset_empty"], 1));
    let would = gateway.explain("GET http://api.example/", &[]).to_string();
    assert!(would.contains("503 subset_empty; no endpoint has the labels that are asked for"), "{would}");
    gateway.write("endpoints.yaml", &list.replace("v1", "v3"));
    after(LOOKED).await;
    assert_eq!(who(&gateway, 2).await, each(&all[..1], 2));
    gateway.generation().state.balancers.get("app").unwrap().endpoints()[0]
        .withdraw(naka::balance::Absence::Unhealthy);
    assert_eq!(who(&gateway, 1).await, each(&["no_endpoint"], 1));
    let would = gateway.explain("GET http://api.example/", &[]).to_string();
    let unhealthy = naka::balance::Absence::Unhealthy.word();
    assert!(would.contains(&format!("503 no_endpoint; of 10.0.0.1:80 ({unhealthy})")), "{would}");
}

#[tokio::test(start_paused = true)]
async fn r1_6_names_are_asked_for_each_at_its_own_time() {
    let zone = Zone::new();
    zone.has("quick", &["10.0.0.1"], 10);
    zone.has("slow", &["10.0.0.2"], 100);
    let yaml = "
listeners: {public: {listen: ':1'}}
upstreams: {quick: {endpoints: {dns: 'quick:80'}}, slow: {endpoints: {dns: 'slow:80'}}}
routes: {quick: {match: {path: /quick}, upstream: quick}, slow: {match: {path: /slow}, upstream: slow}}
";
    let gateway = Inside::resolving(yaml, &[], Some(zone.clone()));
    found(&gateway).await;
    after(Duration::from_secs(99)).await;
    let quick = zone.asked("quick");
    assert!((9..=10).contains(&quick), "ten seconds and up to a tenth: {quick}");
    assert_eq!(zone.asked("slow"), 1);
    after(Duration::from_secs(12)).await;
    assert_eq!(zone.asked("slow"), 2, "however often the other one was asked for");
}

/// One that is gone and comes back is as busy as it was, and turns go on.
#[tokio::test(start_paused = true)]
async fn r1_7_an_endpoint_that_flaps_keeps_its_account() {
    let zone = Zone::new();
    zone.has("app", &["10.0.0.1", "10.0.0.2"], 1);
    let yaml =
        with("{dns: 'app:80'}", ", balance: {policy: least_request}, timeouts: {response_headers: 1h}");
    let yaml = yaml.replace("upstream: app}", "timeouts: {total: never}, upstream: app}");
    let gateway = Inside::resolving(&yaml, &[], Some(zone.clone()));
    let [first, second] = ["10.0.0.1:80", "10.0.0.2:80"];
    let upstreams = servers(&gateway.network, &[first, second]);
    found(&gateway).await;
    let hanging = async { gateway.send(get("/hangs")).await };
    let meanwhile = async {
        while upstreams[0].working() + upstreams[1].working() == 0 {
            tokio::task::yield_now().await;
        }
        let (busy, idle) = if upstreams[0].working() == 1 { (first, second) } else { (second, first) };
        for _ in 0..3 {
            zone.has("app", &[&idle[..8]], 1);
            after(2 * SECOND).await;
            assert_eq!(status(&gateway).endpoints, 1, "{busy} is gone");
            zone.has("app", &["10.0.0.1", "10.0.0.2"], 1);
            after(2 * SECOND).await;
        }
        assert_eq!(who(&gateway, 5).await, each(&[idle], 5), "{busy} is still at work");
    };
    tokio::select! {
        biased;
        () = meanwhile => {}
        _ = hanging => panic!("it hangs"),
    }
}

/// Twenty minutes of a name that says six addresses, then three, then fails, then says one, then nothing, each for a few
/// seconds, while requests come: none is lost, and in the end all six are asked again.
#[tokio::test(start_paused = true)]
async fn r1_3_a_name_that_flaps_for_twenty_minutes_loses_no_request() {
    let zone = Zone::new();
    let all = (1..=6).map(|number| format!("10.0.0.{number}")).collect::<Vec<_>>();
    let some = |count: usize| all[..count].iter().map(String::as_str).collect::<Vec<_>>();
    zone.has("app", &some(6), 1);
    let gateway = Inside::resolving(&file("{dns: 'app:80'}"), &[], Some(zone.clone()));
    let addresses = all.iter().map(|ip| format!("{ip}:80")).collect::<Vec<_>>();
    let _servers = servers(&gateway.network, &addresses.iter().map(String::as_str).collect::<Vec<_>>());
    found(&gateway).await;
    let (mut asked, mut seen) = (0, BTreeSet::new());
    for round in 0..48 {
        for phase in 0..5 {
            match phase {
                0 => zone.has("app", &some(6), 1),
                1 => zone.has("app", &some(3), 1),
                2 => zone.fails("app"),
                3 => zone.has("app", &some(1), 1),
                _ => zone.has("app", &[], 1),
            }
            for _ in 0..5 {
                after(SECOND).await;
                let response = gateway.send(get("/")).await;
                assert_eq!(response.status(), 200, "round {round}, phase {phase}");
                seen.insert(status(&gateway).endpoints);
                asked += 1;
            }
        }
    }
    zone.has("app", &some(6), 1);
    after(5 * SECOND).await;
    assert_eq!(who(&gateway, 12).await.len(), 6);
    assert!(asked == 1200 && seen.len() > 1 && !seen.contains(&0), "{asked}: {seen:?}");
    assert!(
        zone.asked("app") < 2000,
        "as often as it says, and not with each request: {}",
        zone.asked("app")
    );
}

#[tokio::test(start_paused = true)]
async fn a_reload_that_changes_nothing_of_it_neither_asks_anew_nor_forgets() {
    let zone = Zone::new();
    zone.has("app", &["10.0.0.1"], 100);
    let yaml = file("{dns: 'app:80'}");
    let gateway = Inside::resolving(&yaml, &[], Some(zone.clone()));
    let _servers = servers(&gateway.network, &["10.0.0.1:80", "10.0.0.2:80"]);
    found(&gateway).await;
    for number in 0..5 {
        reload(&gateway, &yaml.replace("upstream: app", &format!("priority: {number}, upstream: app"))).await;
    }
    assert_eq!(who(&gateway, 2).await, each(&["10.0.0.1:80"], 2));
    assert_eq!(zone.asked("app"), 1);
    // How it is balanced is another matter; and who was found is found in the newest generation, too.
    reload(&gateway, &with("{dns: 'app:80'}", ", balance: {policy: random}")).await;
    assert_eq!((who(&gateway, 2).await, zone.asked("app")), (each(&["10.0.0.1:80"], 2), 1));
    zone.has("app", &["10.0.0.2"], 100);
    after(Duration::from_secs(111)).await;
    assert_eq!(who(&gateway, 2).await, each(&["10.0.0.2:80"], 2));
    let report = gateway.generation().report.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert!(report.contains(&"discovery app kept".to_owned()), "{report:?}");
}

/// It was let in under an older generation, and is sent when the newer one knows better.
#[tokio::test(start_paused = true)]
async fn a_request_that_waits_in_an_older_generation_goes_to_who_is_there() {
    let zone = Zone::new();
    zone.has("app", &["10.0.0.1"], 10);
    let rest = ", bulkhead: {max: 1, queue: 1, max_wait: 10m}, timeouts: {idle: never}";
    let yaml =
        with("{dns: 'app:80'}", rest).replace("upstream: app}", "timeouts: {total: never}, upstream: app}");
    let gateway = Inside::resolving(&yaml, &[], Some(zone.clone()));
    let upstreams = servers(&gateway.network, &["10.0.0.1:80", "10.0.0.2:80"]);
    found(&gateway).await;
    let slow = async { gateway.send(get("/slow")).await };
    let waits = async {
        while upstreams[0].working() == 0 {
            tokio::task::yield_now().await;
        }
        gateway.send(get("/")).await
    };
    let meanwhile = async {
        after(SECOND).await;
        reload(&gateway, &yaml.replace("bulkhead", "balance: {policy: random}, bulkhead")).await;
        zone.has("app", &["10.0.0.2"], 10);
        after(Duration::from_secs(15)).await;
        assert_eq!(upstreams[1].requests(), 0);
    };
    let (_, answer, ()) = tokio::join!(slow, waits, meanwhile);
    assert_eq!(&answer.body()[..], b"10.0.0.2:80");
}

#[tokio::test(start_paused = true)]
async fn a_file_is_edited_without_a_new_generation_and_held_when_it_is_wrong() {
    let lists = [("endpoints.yaml", "['10.0.0.1:80']")];
    let gateway = Inside::with_files(&file("{file: endpoints.yaml}"), &lists);
    let all = ["10.0.0.1:80", "10.0.0.2:80"];
    let _servers = servers(&gateway.network, &all);
    found(&gateway).await;
    let hash = gateway.generation().hash();
    gateway.write("endpoints.yaml", "['10.0.0.1:80', '10.0.0.2:80']");
    after(LOOKED).await;
    assert_eq!(who(&gateway, 4).await, each(&all, 2));
    for wrong in
        ["['10.0.0.1:80'", "{a: 1}", "['10.0.0.1:80', {adress: '10.0.0.2:80'}]", "", "[]", "['a:1', 'a:1']"]
    {
        gateway.write("endpoints.yaml", wrong);
        after(LOOKED).await;
        assert_eq!(who(&gateway, 4).await, each(&all, 2), "{wrong}");
        assert!(status(&gateway).stale.is_some(), "{wrong}");
    }
    let stale = status(&gateway).stale.unwrap();
    assert!(stale.contains("endpoints.yaml:1:") && stale.contains("twice"), "{stale}");
    // Whoever reads it for the first time has nothing to hold.
    gateway.reload(&file("{file: endpoints.yaml, confirm: 5}")).unwrap_err();
    gateway.write("endpoints.yaml", "['10.0.0.2:80']");
    after(LOOKED).await;
    assert_eq!(who(&gateway, 2).await, each(&all[1..], 2));
    assert_eq!((status(&gateway).stale, gateway.generation().hash()), (None, hash));
}

/// Before there is an answer there is no endpoint, and no more than that.
#[tokio::test(start_paused = true)]
async fn without_a_first_answer_it_is_a_503_and_no_wait_for_ever() {
    let zone = Zone::new();
    let gateway = Inside::resolving(&file("{dns: 'app:80'}"), &[], Some(zone.clone()));
    let _servers = servers(&gateway.network, &["10.0.0.1:80"]);
    let start = tokio::time::Instant::now();
    found(&gateway).await;
    assert_eq!(start.elapsed(), FIRST);
    reload(&gateway, &file("{dns: 'app:80'}").replace("prefix: /", "prefix: '/'")).await;
    assert_eq!(start.elapsed(), FIRST, "nobody is kept waiting for it again");
    assert_eq!(who(&gateway, 1).await, each(&["no_endpoint"], 1));
    assert!(status(&gateway).stale.unwrap().contains("nobody says"));
    zone.has("app", &["10.0.0.1"], 10);
    after(Duration::from_secs(31)).await; // The longest pause between two attempts.
    assert_eq!(who(&gateway, 1).await, each(&["10.0.0.1:80"], 1));
}

/// There are name servers that answer for IPv4 and drop questions for IPv6.
#[tokio::test(start_paused = true)]
async fn a_family_that_nobody_answers_for_keeps_the_other_one_waiting_for_a_second() {
    let zone = Zone::new();
    zone.has("app", &["10.0.0.1"], 2);
    zone.hangs.lock().unwrap().insert(Question { name: "app".into(), kind: Kind::Aaaa });
    let gateway = Inside::resolving(&file("{dns: 'app:80'}"), &[], Some(zone.clone()));
    let _servers = servers(&gateway.network, &["10.0.0.1:80", "10.0.0.2:80"]);
    found(&gateway).await;
    assert_eq!(who(&gateway, 1).await, each(&["10.0.0.1:80"], 1));
    for address in ["10.0.0.2", "10.0.0.1"] {
        zone.has("app", &[address], 2);
        after(5 * SECOND).await; // Its time to live, a tenth, and a second for each of two looks.
        assert_eq!(who(&gateway, 1).await, each(&[&format!("{address}:80")], 1));
        assert_eq!(status(&gateway).stale, None, "it never had one of the other family");
    }
    let asked = zone.asked.lock().unwrap().iter().filter(|it| it.kind == Kind::Aaaa).count();
    assert!(asked <= 2, "one question at a time, and pauses after those that failed: {asked}");
    // And when it answers, it counts.
    zone.hangs.lock().unwrap().clear();
    let records = vec![Record::Address("fd00::1".parse().unwrap())];
    zone.says("app", Kind::Aaaa, Ok(Answer { records, ttl: SECOND }));
    after(Duration::from_mins(1)).await;
    assert_eq!(status(&gateway).endpoints, 2);
}

/// A file can be checked, and its tests hold, where nobody can be asked.
#[tokio::test(start_paused = true)]
async fn the_files_own_tests_need_no_network() {
    let yaml = file("{dns: 'app.internal:80'}")
        + "tests: [{request: 'GET http://api.example/', expect: {route: all, upstream: app}}]\n";
    let zone = Zone::new();
    let gateway = Inside::resolving(&yaml, &[], Some(zone.clone()));
    assert_eq!(zone.asked.lock().unwrap().len(), 0);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("gateway.yaml"), &yaml).unwrap();
    let mut naka = std::process::Command::new(env!("CARGO_BIN_EXE_naka-under-test"));
    naka.args(["explain", "GET http://api.example/", "-c"]).arg(folder.path().join("gateway.yaml"));
    let said = String::from_utf8(naka.output().unwrap().stdout).unwrap();
    assert!(said.contains("sent to upstream app, dns:app.internal:80"), "{said}");
    assert_eq!(who(&gateway, 1).await, each(&["no_endpoint"], 1), "the stand-in is not asked for anything");
}

#[tokio::test(start_paused = true)]
async fn more_endpoints_than_may_be_are_a_failure() {
    let zone = Zone::new();
    zone.has("app", &["10.0.0.1"], 10);
    let gateway = Inside::resolving(&file("{dns: 'app:80'}"), &[], Some(zone.clone()));
    found(&gateway).await;
    let many =
        (0..5000_u32).map(|number| Ipv4Addr::from_bits(number + (11 << 24)).to_string()).collect::<Vec<_>>();
    zone.has("app", &many.iter().map(String::as_str).collect::<Vec<_>>(), 10);
    after(Duration::from_secs(12)).await;
    let is = status(&gateway);
    assert_eq!((is.endpoints, is.stale.is_some_and(|why| why.contains("5000"))), (1, true));
}

/// A name server of this test, over UDP: what it has for a name and a type of records.
struct NameServer {
    address: String,
    server: JoinHandle<()>,
}

type Table = Arc<Mutex<BTreeMap<(String, u16), Vec<Vec<u8>>>>>;

const A: u16 = 1;
const SRV: u16 = 33;

impl NameServer {
    /// Each answer comes after a while, and is good for a second.
    async fn start(table: Table, delay: Duration) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap().to_string();
        let server = tokio::spawn(async move {
            let mut query = [0; 1500];
            while let Ok((got, from)) = socket.recv_from(&mut query).await {
                tokio::time::sleep(delay).await;
                if let Some(answer) = answer(&query[..got], &table) {
                    let _ = socket.send_to(&answer, from).await;
                }
            }
        });
        Self { address, server }
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// RFC 1035 §4, as far as it goes: one question, and no compression but of its name.
fn answer(query: &[u8], table: &Table) -> Option<Vec<u8>> {
    let (mut at, mut name) = (12, Vec::new());
    loop {
        let length = usize::from(*query.get(at)?);
        if length == 0 {
            break;
        }
        name.push(String::from_utf8_lossy(query.get(at + 1..at + 1 + length)?).to_ascii_lowercase());
        at += 1 + length;
    }
    let kind = u16::from_be_bytes(query.get(at + 1..at + 3)?.try_into().ok()?);
    let question = query.get(12..at + 5)?;
    let found = table.lock().unwrap().get(&(name.join("."), kind)).cloned();
    let is_known = table.lock().unwrap().keys().any(|(known, _)| *known == name.join("."));
    let records = found.unwrap_or_default();
    let mut answer = query[..2].to_vec();
    answer.extend([0x85, if is_known { 0x80 } else { 0x83 }, 0, 1]);
    answer.extend(u16::try_from(records.len()).unwrap().to_be_bytes());
    answer.extend([0, 0, 0, 0]);
    answer.extend(question);
    for record in records {
        answer.extend([0xc0, 12]);
        answer.extend(kind.to_be_bytes());
        answer.extend([0, 1, 0, 0, 0, 1]);
        answer.extend(u16::try_from(record.len()).unwrap().to_be_bytes());
        answer.extend(record);
    }
    Some(answer)
}

fn srv(priority: u16, weight: u16, port: u16, target: &str) -> Vec<u8> {
    let mut record = [priority, weight, port].map(u16::to_be_bytes).concat();
    for label in target.split('.') {
        record.push(u8::try_from(label.len()).unwrap());
        record.extend(label.as_bytes());
    }
    record.push(0);
    record
}

/// Over sockets: the resolver that is built in, name servers of the file, and a start that waits for the first answer.
#[tokio::test]
async fn r1_1_name_servers_are_asked_and_the_first_answer_is_waited_for() {
    let one = Upstream::start(|_| ok("one")).await;
    let port = one.address().rsplit(':').next().unwrap().parse::<u16>().unwrap();
    let table = Table::default();
    table.lock().unwrap().insert(("app.internal".into(), A), vec![vec![127, 0, 0, 1]]);
    table
        .lock()
        .unwrap()
        .insert(("_http._tcp.app.internal".into(), SRV), vec![srv(1, 1, port, "app.internal")]);
    let servers = NameServer::start(Arc::clone(&table), Duration::from_millis(200)).await;
    let yaml = format!(
        "gateway: {{admin: {{listen: ADMIN}}, workers: 1, resolver: {{servers: ['{}']}}}}
listeners: {{public: {{listen: PUBLIC}}}}
upstreams:
  named: {{endpoints: {{dns: 'app.internal:{port}'}}}}
  service: {{endpoints: {{srv: _http._tcp.app.internal}}}}
routes:
  named: {{match: {{path: /named}}, upstream: named}}
  service: {{match: {{path: /service}}, upstream: service}}
",
        servers.address
    );
    let process = Process::spawn_in(tempfile::tempdir().unwrap(), &yaml);
    // The very first connection that is accepted finds its endpoint.
    process.until("it accepts", async || tokio::net::TcpStream::connect(process.public).await.is_ok()).await;
    assert_eq!(process.public("GET /named").await, (200, "one".into()), "{}", process.log());
    assert_eq!(process.public("GET /service").await, (200, "one".into()), "{}", process.log());
    let shown = process.json("/discovery").await;
    assert_eq!(
        (&shown["named"]["endpoints"], &shown["named"]["stale"]),
        (&1.into(), &serde_json::Value::Null)
    );
    // The name is gone: what was found stays, and everybody who asks is told.
    table.lock().unwrap().clear();
    let stale = "naka_discovery_level{upstream=\"named\",level=\"stale\"} ";
    process.until("it is stale", async || process.metric(stale).await == Some(1.0)).await;
    process.says("it says that there is none").await;
    let ready = process.json("/readyz").await;
    assert!(ready["ready"] == true && ready["stale"]["named"].is_string(), "{ready}");
    assert_eq!(process.public("GET /named").await, (200, "one".into()));
}

/// Over sockets: edited, wrong, mended; no generation is made of it, and the log says what is wrong and where.
#[tokio::test]
async fn r1_2_a_file_takes_effect_without_a_generation_and_a_wrong_one_is_told_with_its_place() {
    let (one, two) = (Upstream::start(|_| ok("one")).await, Upstream::start(|_| ok("two")).await);
    let folder = tempfile::tempdir().unwrap();
    let list = |all: &[&Upstream]| {
        all.iter().map(|it| format!("- \"{}\"\n", it.address())).collect::<Vec<_>>().concat()
    };
    std::fs::write(folder.path().join("endpoints.yaml"), list(&[&one])).unwrap();
    let yaml = "gateway: {admin: {listen: ADMIN}, workers: 1}
listeners: {public: {listen: PUBLIC}}
upstreams: {app: {endpoints: {file: endpoints.yaml}}}
routes: {all: {match: {prefix: /}, upstream: app}}
";
    let process = Process::start_in(folder, yaml).await;
    process.answers("/", "one").await;
    process.write("endpoints.yaml", &list(&[&two]));
    process.answers("/", "two").await;
    process.write("endpoints.yaml", "- {adress: \"127.0.0.1:1\"}\n");
    process.says("did you mean `address`?").await;
    assert_eq!(process.public("GET /").await, (200, "two".into()));
    // A change of something else is not refused for it.
    process.write("gateway.yaml", &yaml.replace("prefix: /", "prefix: '/'"));
    process.says("its last good version stays in force").await;
    process.until("generation 2", async || process.metric("naka_generation ").await == Some(2.0)).await;
    assert_eq!(process.public("GET /").await, (200, "two".into()));
    process.write("endpoints.yaml", &list(&[&one, &two]));
    process.says("the endpoints are found again").await;
    let seen = async || {
        let mut seen = BTreeSet::new();
        for _ in 0..4 {
            seen.insert(process.public("GET /").await.1);
        }
        seen.len() == 2
    };
    process.until("both", seen).await;
    assert_eq!(process.metric("naka_generation ").await, Some(2.0));
}
