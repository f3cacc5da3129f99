//! Bulkheads through the whole gateway.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use naka_testkit::upstream::{Step, Upstream};

use crate::{
    inside::{Inside, get},
    process::Process,
};

const MAX: u64 = 8;
const THREADS: usize = 64;
const ATTEMPTS: usize = 10_000;

fn config(upstream: &Upstream) -> String {
    format!(
        "
gateway: {{admin: {{listen: ADMIN}}, workers: 2}}
listeners: {{public: {{listen: PUBLIC}}}}
policies: {{room: {{bulkhead: {{max: {MAX}, queue: 1000, max_wait: 60s}}}}}}
upstreams: {{app: {{endpoints: ['{}']}}}}
routes: {{all: {{match: {{prefix: /}}, use: [room], timeouts: {{total: 120s}}, upstream: app}}}}
",
        upstream.address()
    )
}

/// So many attempts from 64 threads, each with a connection of its own.
fn attempt(at: SocketAddr, attempts: usize, one: impl Fn(usize, TcpStream) + Sync) {
    tokio::task::block_in_place(|| {
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let one = &one;
                scope.spawn(move || {
                    for number in (thread..attempts).step_by(THREADS) {
                        let mut stream = TcpStream::connect(at).unwrap();
                        stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").unwrap();
                        one(number, stream);
                    }
                });
            }
        });
    });
}

fn whole(mut stream: TcpStream) {
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with("halfhalf"), "{answer}");
}

async fn scripted() -> Upstream {
    Upstream::start(|_| {
        let half = "HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nhalf";
        vec![Step::send(half), Step::Wait(Duration::from_micros(300)), Step::send("half")]
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r14_1_ten_thousand_attempts_from_64_threads_are_never_above_max_at_the_upstream() {
    let upstream = scripted().await;
    let process = Process::start(&config(&upstream)).await;
    attempt(process.public, ATTEMPTS, |_, stream| whole(stream));
    assert_eq!(upstream.requests(), ATTEMPTS as u64);
    assert!(upstream.peak() <= MAX, "{} at once", upstream.peak());
    assert!(upstream.peak() > 1, "the test has seen nothing");
}

/// Some callers leave while they wait, some in the middle of the body. (An upstream does not know at
/// once that it works for nobody, so what it counts says nothing here.)
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r14_4_callers_that_leave_in_the_queue_or_in_the_body_leak_nothing() {
    let upstream = scripted().await;
    let process = Process::start(&config(&upstream)).await;
    attempt(process.public, ATTEMPTS / 2, |number, mut stream| match number % 4 {
        0 => drop(stream),                             // At once: mostly while it waits.
        1 => drop(stream.read(&mut [0; 12]).unwrap()), // With the head, or a part of it.
        _ => whole(stream),
    });
    process
        .until("all places are free", async || {
            let room = &process.json("/policies").await["room"];
            room["working"] == 0 && room["waiting"] == 0
        })
        .await;
    process.until("nothing is left at the upstream", async || upstream.working() == 0).await;
    process
        .until("no connection is left", async || {
            process.get("/metrics").await.unwrap().1.contains("naka_connections 0\n")
        })
        .await;
    attempt(process.public, 16, |_, stream| whole(stream));
}

/// The queue has its bound and its end; what is refused says so.
#[tokio::test(start_paused = true)]
async fn r14_1_beyond_the_queue_at_once_and_after_the_wait_in_time() {
    let gateway = Inside::new(
        "
listeners: {public: {listen: ':1'}}
upstreams: {app: {endpoints: ['app:1'], bulkhead: {max: 1, queue: 1, max_wait: 2s}}}
routes: {all: {match: {prefix: /}, upstream: app}}
",
    );
    let upstream = Upstream::inside(&gateway.network, "app:1", |_| vec![Step::Hang]);
    let mut first = gateway.client().await;
    let working = tokio::spawn(async move { first.send(get("/")).await.status() });
    while upstream.working() == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let mut second = gateway.client().await;
    let start = tokio::time::Instant::now();
    let waiting = tokio::spawn(async move { second.send(get("/")).await });
    tokio::time::sleep(Duration::from_millis(1)).await;
    let full = gateway.send(get("/")).await;
    assert_eq!(
        (full.status().as_u16(), &full.headers()["naka-reason"]),
        (503, &"bulkhead_full".parse().unwrap())
    );
    let late = waiting.await.unwrap();
    assert_eq!(
        (late.status().as_u16(), &late.headers()["naka-reason"]),
        (503, &"bulkhead_timeout".parse().unwrap())
    );
    assert_eq!(start.elapsed().as_millis() / 100, 20);
    working.abort();
    tokio::time::sleep(Duration::from_millis(1)).await;
    let explanation = gateway.explain("http://api.example/", &[]).to_string();
    assert!(explanation.contains("1 of 1 places free"), "who has gone has no place: {explanation}");
}

const PARTITIONED: &str = "
listeners: {public: {listen: ':1'}}
upstreams: {app: {endpoints: ['app:1'], bulkhead: {max: 50, adaptive: observe}}}
policies:
  tenants: {bulkhead: {max: 2, key: ['header:x-tenant'], total: 5}}
routes: {all: {match: {prefix: /}, use: [tenants], upstream: app}}
";

/// One tenant that hangs takes its own places and no others; together they have no more than the total.
#[tokio::test(start_paused = true)]
async fn r14_2_each_key_has_places_of_its_own_under_one_total() {
    let gateway = Inside::new(PARTITIONED);
    let upstream = Upstream::inside(&gateway.network, "app:1", |_| vec![Step::Hang]);
    let of = |tenant: &'static str| {
        let mut request = get("/");
        request.headers_mut().insert("x-tenant", tenant.parse().unwrap());
        request
    };
    let mut held = Vec::new();
    let mut begin = async |tenant: &'static str| {
        let before = upstream.working();
        let mut client = gateway.client().await;
        let request = of(tenant);
        let task = tokio::spawn(async move { client.send(request).await.status().as_u16() });
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        if upstream.working() > before {
            held.push(task);
            return 0;
        }
        task.await.unwrap()
    };
    assert_eq!([begin("a").await, begin("a").await, begin("a").await], [0, 0, 503], "two of its own");
    assert_eq!([begin("b").await, begin("b").await, begin("c").await], [0, 0, 0], "the others have theirs");
    assert_eq!(begin("d").await, 503, "five in all");
    assert_eq!(upstream.working(), 5);
    let refused = "naka_rejections_total{route=\"all\",policy=\"tenants\",reason=\"bulkhead_full\"}";
    assert_eq!(gateway.metric(refused), Some(2.0));
    // A reload that changes how many keeps whoever is at work.
    gateway.reload(&PARTITIONED.replace("total: 5", "total: 6")).unwrap();
    assert_eq!([begin("a").await, begin("d").await, begin("d").await], [503, 0, 503]);
    for task in held {
        task.abort();
    }
}

const BY_ROUTE: &str = "
listeners: {public: {listen: ':1', use: [room]}}
upstreams: {app: {endpoints: ['app:1'], bulkhead: behind}}
policies:
  room: {bulkhead: {max: 1, key: [route]}}
  behind: {bulkhead: {max: 1, key: [route]}}
routes:
  one: {match: {path: /one}, upstream: app}
  two: {match: {path: /two}, upstream: app}
";

/// Nothing else on these routes needs to know which of them it is.
#[tokio::test(start_paused = true)]
async fn r14_2_places_by_route_are_apart_where_nothing_else_asks_for_the_route() {
    let gateway = Inside::new(BY_ROUTE);
    let upstream = Upstream::inside(&gateway.network, "app:1", |_| vec![Step::Hang]);
    let mut held = Vec::new();
    for path in ["/one", "/two"] {
        let mut client = gateway.client().await;
        held.push(tokio::spawn(async move { client.send(get(path)).await.status() }));
    }
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(upstream.working(), 2);
    assert_eq!(gateway.send(get("/one")).await.status(), 503);
    for task in held {
        task.abort();
    }
}
