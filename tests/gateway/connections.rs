//! Connections to endpoints: kept ones that are closed at the wrong moment, and what is left in them.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Full;
use naka_testkit::upstream::{Step, Upstream, ok};
use tokio::task::JoinSet;

use crate::{
    inside::{Client, Inside, get},
    process::Process,
};

const CONFIG: &str = "
gateway: {admin: {listen: ADMIN}, workers: 2}
listeners: {public: {listen: PUBLIC}}
upstreams: {app: {endpoints: ['UPSTREAM']}}
routes: {all: {match: {prefix: /}, upstream: app}}
";

fn inside() -> Inside {
    let config = CONFIG.replace("PUBLIC", "':1'").replace("{listen: ADMIN}", "none");
    Inside::new(&config.replace("UPSTREAM", "app:1"))
}

fn numbered(method: Method, number: u64) -> Request<Full<Bytes>> {
    let has_body = [Method::POST, Method::PUT].contains(&method);
    let body = if has_body { Full::from("an order") } else { Full::default() };
    let target = format!("/{number}");
    Request::builder().method(method).uri(target).header("host", "api.example").body(body).unwrap()
}

/// How often each request was seen, by its target.
#[derive(Clone, Default)]
struct Deliveries(Arc<Mutex<HashMap<String, u32>>>);

impl Deliveries {
    fn add(&self, target: &str) {
        *self.0.lock().unwrap().entry(target.to_owned()).or_default() += 1;
    }

    fn of(&self, number: u64) -> u32 {
        self.0.lock().unwrap().get(&format!("/{number}")).copied().unwrap_or_default()
    }
}

/// The endpoint takes each second request on a connection and closes it instead of an answer: it was about to
/// close anyway.
#[tokio::test(start_paused = true)]
async fn of_10_000_requests_that_met_a_closing_connection_none_that_may_come_twice_is_lost_and_no_post_does()
{
    let gateway = inside();
    let (seen, on_connection) = (Deliveries::default(), Mutex::new(HashMap::<u64, u32>::new()));
    let deliveries = seen.clone();
    let upstream = Upstream::inside(&gateway.network, "app:1", move |request| {
        deliveries.add(request.target());
        let mut counts = on_connection.lock().unwrap();
        let count = counts.entry(request.connection).or_default();
        *count += 1;
        if *count == 2 { vec![Step::ReadBody, Step::Close] } else { ok("fine") }
    });
    let mut client = gateway.client().await;
    let mut lost = 0;
    for number in 0..10_000 {
        let method = [Method::POST, Method::GET, Method::PUT][usize::try_from(number % 3).unwrap()].clone();
        let response = client.send(numbered(method.clone(), number)).await;
        match (method, response.status().as_u16()) {
            (Method::GET | Method::PUT, 200) => assert!(seen.of(number) <= 2),
            (Method::POST, 200) => assert_eq!(seen.of(number), 1),
            (Method::POST, 502) => {
                assert_eq!(
                    (seen.of(number), &response.headers()["naka-reason"]),
                    (1, &"upstream_reset".parse().unwrap())
                );
                lost += 1;
            }
            (method, status) => panic!("{method} {number}: {status}"),
        }
    }
    assert!(lost > 500 && upstream.connections() > 2000, "it did happen: {lost}");
}

/// Over sockets: the endpoint closes after each answer without a word, so that it is a matter of microseconds
/// whether the gateway knows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_10_000_requests_to_an_endpoint_that_closes_after_each_none_that_may_come_twice_is_lost_and_no_post_does()
 {
    let seen = Deliveries::default();
    let deliveries = seen.clone();
    let upstream = Upstream::start(move |request| {
        deliveries.add(request.target());
        let mut steps = ok("fine");
        steps.push(Step::Close);
        steps
    })
    .await;
    let process = Process::start(&CONFIG.replace("UPSTREAM", upstream.address())).await;
    let mut clients = JoinSet::new();
    for first in 0..20 {
        let (address, seen) = (process.public, seen.clone());
        clients.spawn(async move {
            let mut client = Client::over(address).await;
            for number in (first * 500)..(first + 1) * 500 {
                let method =
                    [Method::POST, Method::GET, Method::PUT][usize::try_from(number % 3).unwrap()].clone();
                let status = client.send(numbered(method.clone(), number)).await.status();
                assert!(
                    status == 200 || (method == Method::POST && status == 502),
                    "{method} {number}: {status}"
                );
                let most = if method == Method::POST { 1 } else { 2 };
                assert!((1..=most).contains(&seen.of(number)) || status == 502, "{method} {number}");
                assert!(seen.of(number) <= most, "{method} {number} came {} times", seen.of(number));
            }
        });
    }
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
}

/// Bug: only what had no body was sent once more. A body is, too, if it is short and its length is known.
#[tokio::test(start_paused = true)]
async fn a_put_that_met_a_closing_connection_is_sent_once_more_whole() {
    let gateway = inside();
    let on_connection = Mutex::new(HashMap::<u64, u32>::new());
    let upstream = Upstream::inside(&gateway.network, "app:1", move |request| {
        let mut counts = on_connection.lock().unwrap();
        let count = counts.entry(request.connection).or_default();
        *count += 1;
        if *count == 2 { vec![Step::ReadBody, Step::Close] } else { ok("fine") }
    });
    let mut client = gateway.client().await;
    // Each but the first is the second on its connection.
    let kept = 64 << 10;
    for (length, status) in [(8, 200), (8, 200), (kept, 200), (kept + 1, 502)] {
        let request = Request::put("/").header("host", "api.example").body(Full::from(vec![b'x'; length]));
        assert_eq!(client.send(request.unwrap()).await.status(), status, "{length} bytes");
        // It is only answered once all of it was read.
        assert_eq!(upstream.last().header("content-length"), Some(length.to_string().as_str()));
    }
    assert_eq!((upstream.requests(), upstream.connections()), (6, 3));
}

/// What an endpoint sends without being asked is nobody's answer.
#[tokio::test(start_paused = true)]
async fn nothing_of_one_response_reaches_another_request() {
    let gateway = inside();
    let extra = "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison";
    let asked = AtomicU64::new(0);
    let upstream = Upstream::inside(&gateway.network, "app:1", move |request| {
        let body = request.target().to_owned();
        let own = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        match asked.fetch_add(1, SeqCst) % 4 {
            0 => vec![Step::ReadBody, Step::send(format!("{own}{extra}"))],
            1 => vec![Step::ReadBody, Step::send(own), Step::send(extra)],
            2 => {
                let late =
                    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}{extra}{extra}", body.len());
                vec![Step::ReadBody, Step::send(late), Step::Wait(Duration::from_millis(1))]
            }
            _ => vec![Step::ReadBody, Step::send(own)],
        }
    });
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(gateway.client().await);
    }
    for number in 0..2000 {
        let method = if number % 5 == 0 { Method::POST } else { Method::GET };
        let client = &mut clients[usize::try_from(number % 4).unwrap()];
        let response = client.send(numbered(method.clone(), number)).await;
        let is_lost = method == Method::POST && response.status() == 502;
        assert!(is_lost || **response.body() == *format!("/{number}").as_bytes(), "{response:?}");
    }
    assert!(upstream.connections() > 100, "such connections are closed: {}", upstream.connections());
}

/// The bodies of HEAD and 304 are not there, whatever their lengths say: what follows is another response.
#[tokio::test(start_paused = true)]
async fn responses_without_bodies_leave_connections_as_they_were() {
    let gateway = inside();
    let upstream = Upstream::inside(&gateway.network, "app:1", |request| match request.target() {
        "/head" => vec![Step::ReadBody, Step::send("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n")],
        "/304" => vec![Step::ReadBody, Step::send("HTTP/1.1 304 Same\r\ncontent-length: 100\r\n\r\n")],
        "/204" => vec![Step::ReadBody, Step::send("HTTP/1.1 204 None\r\n\r\n")],
        _ => ok("fine"),
    });
    let mut client = gateway.client().await;
    for _ in 0..50 {
        let mut head = get("/head");
        *head.method_mut() = Method::HEAD;
        assert_eq!(client.send(head).await.status(), 200);
        assert_eq!(client.send(get("/304")).await.status(), 304);
        assert_eq!(client.send(get("/204")).await.status(), 204);
        assert_eq!(client.send(get("/")).await.body(), "fine");
    }
    assert_eq!(upstream.connections(), 1);
}

// ---- How many there may be

const BOUNDED: &str = "
gateway: {admin: none, limits: {upstream_connections: 3}}
listeners: {public: {listen: ':1'}}
upstreams:
  app: {endpoints: ['app:1'], connections: {max: 2, pending: 3}, timeouts: {connect: 2s}}
  other: {endpoints: ['other:1', 'more:1'], keep_alive: {max_lifetime: 10m}, timeouts: {connect: 5s}}
routes:
  app: {match: {prefix: /app}, upstream: app}
  other: {match: {prefix: /other}, upstream: other}
";

fn slow(gateway: &Inside, address: &str, seconds: u64) -> Upstream {
    Upstream::inside(&gateway.network, address, move |_| {
        let wait = Step::Wait(Duration::from_secs(seconds));
        std::iter::once(wait).chain(ok("fine")).collect()
    })
}

/// So many requests at once; how many of them had each status.
async fn at_once(gateway: &Arc<Inside>, target: &'static str, count: usize) -> HashMap<u16, usize> {
    let mut tasks = JoinSet::new();
    for _ in 0..count {
        let gateway = Arc::clone(gateway);
        tasks.spawn(async move { gateway.send(get(target)).await });
    }
    let mut statuses = HashMap::new();
    while let Some(response) = tasks.join_next().await {
        let response = response.unwrap();
        if response.status() == 503 {
            assert_eq!(response.headers()["naka-reason"], "connections_full");
        }
        *statuses.entry(response.status().as_u16()).or_default() += 1;
    }
    statuses
}

#[tokio::test(start_paused = true)]
async fn r14_7_so_many_connections_to_an_endpoint_and_so_many_wait() {
    let gateway = Arc::new(Inside::new(BOUNDED));
    let app = slow(&gateway, "app:1", 1);
    // Two are at work, three wait, of whom two have their turn within the time to connect.
    assert_eq!(at_once(&gateway, "/app", 10).await, HashMap::from([(200, 4), (503, 6)]));
    assert_eq!((app.peak(), app.connections()), (2, 2), "what is given back goes to who waits");
    assert_eq!(at_once(&gateway, "/app", 2).await, HashMap::from([(200, 2)]));
    assert_eq!(app.connections(), 2);
    // Whoever waits and goes takes nothing along.
    for _ in 0..20 {
        let waits = Arc::clone(&gateway);
        let task = tokio::spawn(async move { at_once(&waits, "/app", 5).await });
        tokio::time::sleep(Duration::from_millis(500)).await;
        task.abort();
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(at_once(&gateway, "/app", 4).await, HashMap::from([(200, 4)]));
    assert_eq!(gateway.generation().state.places.get("app").unwrap().counts("app:1"), (2, 0));
    // A reload lowers the bound: what there is goes on, and no more is made.
    gateway.reload(&BOUNDED.replace("max: 2, pending: 3", "max: 1, pending: 0")).unwrap();
    assert_eq!(at_once(&gateway, "/app", 1).await, HashMap::from([(200, 1)]));
}

#[tokio::test(start_paused = true)]
async fn r14_7_one_upstream_cannot_take_the_connections_of_all_by_keeping_them() {
    let gateway = Arc::new(Inside::new(BOUNDED));
    let (app, other, more) =
        (slow(&gateway, "app:1", 0), slow(&gateway, "other:1", 1), slow(&gateway, "more:1", 1));
    // Three of them, and none is used any more.
    assert_eq!(at_once(&gateway, "/other", 3).await, HashMap::from([(200, 3)]));
    assert_eq!(other.connections() + more.connections(), 3);
    assert_eq!(at_once(&gateway, "/app", 1).await, HashMap::from([(200, 1)]), "one is closed for it");
    assert_eq!(app.connections(), 1);
    let (_, waiting) = gateway.generation().state.places.get("app").unwrap().counts("app:1");
    assert_eq!((gateway.generation().state.all_places.open(), waiting), (3, 0));
    // All in use: the fourth waits for one of the others.
    assert_eq!(at_once(&gateway, "/other", 4).await, HashMap::from([(200, 4)]));
    assert!(gateway.generation().state.all_places.open() <= 3);
}

#[tokio::test(start_paused = true)]
async fn a_connection_is_used_for_so_long_and_a_tenth_more_or_less() {
    let gateway = Arc::new(Inside::new(&BOUNDED.replace(", 'more:1'", "")));
    let other = slow(&gateway, "other:1", 0);
    let mut client = gateway.client().await;
    let began = tokio::time::Instant::now();
    while other.connections() < 2 {
        assert_eq!(client.send(get("/other")).await.status(), 200);
        tokio::time::sleep(Duration::from_secs(10)).await;
    }
    let lived = began.elapsed().as_secs();
    assert!((9 * 60..=11 * 60 + 10).contains(&lived), "{lived} s");
}

/// Under a lower bound what nobody uses makes room, all of it.
#[tokio::test(start_paused = true)]
async fn a_bound_that_is_lowered_is_not_filled_by_what_nobody_uses() {
    let roomy = BOUNDED.replace("upstream_connections: 3", "upstream_connections: 100");
    let gateway = Arc::new(Inside::new(&roomy));
    let _servers = [slow(&gateway, "other:1", 1), slow(&gateway, "more:1", 1), slow(&gateway, "app:1", 0)];
    assert_eq!(at_once(&gateway, "/other", 10).await, HashMap::from([(200, 10)]));
    gateway.reload(BOUNDED).unwrap();
    assert_eq!(at_once(&gateway, "/app", 1).await, HashMap::from([(200, 1)]));
    assert_eq!(gateway.generation().state.all_places.open(), 3);
}

/// Bug: what was given back stayed where somebody waited for it, and always somebody did; the others waited in vain.
#[tokio::test(start_paused = true)]
async fn r14_7_an_upstream_that_is_always_busy_starves_no_other() {
    for (protocol, bounds) in [("h1", "max: 3, pending: 99"), ("h2", "max: 3, pending: 99, streams: 2")] {
        let config = BOUNDED.replace("max: 2, pending: 3", bounds);
        let app = format!("endpoints: ['app:1'], protocol: {protocol},");
        let config = config.replace("endpoints: ['app:1'],", &app);
        assert!(config.contains(protocol), "{config}");
        let gateway = Arc::new(Inside::new(&config));
        let busy = Duration::from_millis(50);
        let answer_late = move |_: &_| std::iter::once(Step::Wait(busy)).chain(ok("fine")).collect();
        let _app = (protocol == "h1").then(|| Upstream::inside(&gateway.network, "app:1", answer_late));
        if protocol == "h2" {
            crate::h2_upstreams::slow(&gateway, busy);
        }
        let _others = [slow(&gateway, "other:1", 0), slow(&gateway, "more:1", 0)];
        let mut clients = JoinSet::new();
        for target in std::iter::repeat_n("/app", 30).chain(["/other"; 3]) {
            let gateway = Arc::clone(&gateway);
            clients.spawn(async move {
                let mut statuses = HashMap::<_, usize>::new();
                let end = tokio::time::Instant::now() + Duration::from_secs(10);
                while tokio::time::Instant::now() < end {
                    *statuses.entry(gateway.send(get(target)).await.status().as_u16()).or_default() += 1;
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                (target, statuses)
            });
        }
        while let Some(client) = clients.join_next().await {
            let (target, statuses) = client.unwrap();
            assert!(statuses.keys().eq([&200]), "{protocol} {target}: {statuses:?}");
            assert!(statuses[&200] >= 10, "{protocol} {target}: {statuses:?}");
        }
    }
}

/// Whoever waits in turn gets a kept connection, and is not worse off if that closes just then.
#[tokio::test(start_paused = true)]
async fn a_connection_that_is_handed_over_may_close_just_then_as_any_kept_one() {
    let gateway = Arc::new(Inside::new(&BOUNDED.replace("max: 2, pending: 3", "max: 1, pending: 50")));
    let on_connection = Mutex::new(HashMap::<u64, u32>::new());
    let app = Upstream::inside(&gateway.network, "app:1", move |request| {
        let mut counts = on_connection.lock().unwrap();
        let count = counts.entry(request.connection).or_default();
        *count += 1;
        let wait = Step::Wait(Duration::from_millis(5));
        if *count == 2 { vec![wait, Step::Close] } else { std::iter::once(wait).chain(ok("fine")).collect() }
    });
    assert_eq!(at_once(&gateway, "/app", 30).await, HashMap::from([(200, 30)]));
    assert!(app.connections() > 10, "it did happen: {}", app.connections());
}

/// A bound of ours is no failure of an endpoint, whichever clock runs out.
#[tokio::test(start_paused = true)]
async fn waiting_for_a_connection_is_nobodys_fault() {
    let config = BOUNDED
        .replace("timeouts: {connect: 2s}", "timeouts: {connect: 2s, per_try: 500ms, response_headers: 5s}");
    let gateway = Arc::new(Inside::new(&config.replace("max: 2, pending: 3", "max: 1, pending: 50")));
    // A head at once, and a body that takes its time: until its end the connection is in use.
    let _app = Upstream::inside(&gateway.network, "app:1", |_| {
        let head = Step::send("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n");
        vec![Step::ReadBody, head, Step::Wait(Duration::from_secs(10)), Step::send("body")]
    });
    let mut client = gateway.client().await;
    let first = client.head(get("/app")).await;
    for _ in 0..5 {
        assert_eq!(at_once(&gateway, "/app", 3).await, HashMap::from([(503, 3)]));
    }
    assert_eq!(http_body_util::BodyExt::collect(first.into_body()).await.unwrap().to_bytes(), "body");
}

/// All workers have one bound together.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r14_7_workers_share_the_bound_on_connections_to_an_endpoint() {
    let upstream = Upstream::start(|_| {
        let mut steps = ok("fine");
        steps.insert(0, Step::Wait(Duration::from_millis(2)));
        steps
    })
    .await;
    let bounded = CONFIG.replace(
        "['UPSTREAM']",
        "['UPSTREAM'], connections: {max: 5, pending: 100}, timeouts: {connect: 1m}",
    );
    let process = Process::start(&bounded.replace("UPSTREAM", upstream.address())).await;
    let mut clients = JoinSet::new();
    for first in 0..40 {
        let address = process.public;
        clients.spawn(async move {
            let mut client = Client::over(address).await;
            for number in 0..25 {
                assert_eq!(client.send(numbered(Method::GET, first * 100 + number)).await.status(), 200);
            }
        });
    }
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
    assert_eq!((upstream.requests(), upstream.peak()), (1000, 5));
}
