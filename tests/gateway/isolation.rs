//! One upstream hangs, and whoever asks for another does not notice. Each test stands twice: with the
//! bulkheads that do it, and without them, where the hang takes what all share.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use naka_testkit::upstream::{Step, Upstream, ok};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::{JoinHandle, JoinSet},
    time::{Instant, sleep},
};

use crate::{
    inside::{Inside, get},
    process::{PATIENCE, Process},
};

/// Places at each upstream.
const MAX: u64 = 64;
const BULKHEAD: &str = ", bulkhead: {max: 64, queue: 16, max_wait: 50ms}";
/// In each millisecond of virtual time: 5,000 in a second.
const PER_MS: u64 = 5;
const MILLISECONDS: u64 = 2000;

/// What all share is a bulkhead of the listener, for everything.
fn inside(bulkhead: &str) -> String {
    format!(
        "
listeners: {{public: {{listen: ':1', use: [all]}}}}
policies: {{all: {{bulkhead: {{max: 512}}}}}}
upstreams:
  products: {{endpoints: ['products:1']{bulkhead}}}
  payment: {{endpoints: ['payment:1']{bulkhead}}}
routes:
  products: {{match: {{prefix: /products}}, upstream: products}}
  payments: {{match: {{prefix: /payments}}, upstream: payment}}
"
    )
}

/// What became of a load.
struct Seen {
    /// Of the requests for products that were answered, sorted.
    latencies: Vec<Duration>,
    /// Of all requests, by route, status and reason.
    answers: BTreeMap<(&'static str, u16, String), u64>,
    /// Requests that were at the payment upstream at once.
    payment_peak: u64,
    /// Requests for products that waited for a place; nothing where there is no bulkhead.
    queued: Option<f64>,
}

impl Seen {
    fn refused(&self, route: &str) -> u64 {
        self.answers.iter().filter(|((of, status, _), _)| *of == route && *status != 200).map(|it| it.1).sum()
    }
}

/// Five requests in each millisecond, three of them for products, whatever becomes of those before.
async fn load(bulkhead: &str, hangs: bool) -> Seen {
    let gateway = Arc::new(Inside::new(&inside(bulkhead)));
    let products = Upstream::inside(&gateway.network, "products:1", |seen| {
        let number = seen.target().rsplit('/').next().unwrap().parse::<u64>().unwrap();
        let took = Duration::from_millis(1 + number * 7919 % 16);
        vec![Step::ReadBody, Step::Wait(took), ok("fine").remove(1)]
    });
    let payment =
        Upstream::inside(
            &gateway.network,
            "payment:1",
            move |_| {
                if hangs { vec![Step::Hang] } else { ok("paid") }
            },
        );
    let mut requests = JoinSet::new();
    for number in 0..PER_MS * MILLISECONDS {
        let gateway = Arc::clone(&gateway);
        let route = if number % PER_MS < 3 { "products" } else { "payments" };
        requests.spawn(async move {
            let start = Instant::now();
            let answer = gateway.send(get(&format!("/{route}/{number}"))).await;
            let reason = answer.headers().get("naka-reason").map(|it| it.to_str().unwrap().to_owned());
            (route, answer.status().as_u16(), reason.unwrap_or_default(), start.elapsed())
        });
        if number % PER_MS == PER_MS - 1 {
            sleep(Duration::from_millis(1)).await;
        }
    }
    sleep(Duration::from_millis(100)).await; // For all but those that hang.
    let (mut latencies, mut answers) = (Vec::new(), BTreeMap::new());
    while let Some(done) = requests.try_join_next() {
        let (route, status, reason, took) = done.unwrap();
        if (route, status) == ("products", 200) {
            latencies.push(took);
        }
        *answers.entry((route, status, reason)).or_default() += 1;
    }
    latencies.sort_unstable();
    let queued = r#"naka_policy_decisions_total{policy="products/bulkhead",outcome="queued"}"#;
    let queued = gateway.metric(queued);
    assert_eq!(products.working(), 0);
    Seen { latencies, answers, payment_peak: payment.peak(), queued }
}

/// Requests for products in such a load.
const PRODUCTS: usize = 6000;

#[tokio::test(start_paused = true)]
async fn r14_3_at_five_thousand_a_second_products_take_as_long_whether_payment_hangs_or_not() {
    let (calm, hanging) = (load(BULKHEAD, false).await, load(BULKHEAD, true).await);
    assert_eq!((calm.refused("products"), calm.refused("payments")), (0, 0), "{:?}", calm.answers);
    assert_eq!(calm.latencies.len(), PRODUCTS);
    let (shortest, longest) = (calm.latencies[0], calm.latencies[PRODUCTS - 1]);
    assert!(longest > shortest * 4, "they differ: {shortest:?} to {longest:?}");

    assert_eq!(hanging.payment_peak, MAX, "it does hang");
    assert!(hanging.refused("payments") > 3000, "{:?}", hanging.answers);
    assert_eq!((hanging.refused("products"), hanging.queued), (0, Some(0.0)), "{:?}", hanging.answers);
    assert_eq!(calm.latencies, hanging.latencies);
}

#[tokio::test(start_paused = true)]
async fn r14_3_without_bulkheads_the_hang_takes_the_places_that_all_share() {
    let (calm, hanging) = (load("", false).await, load("", true).await);
    assert_eq!((calm.refused("products"), calm.latencies.len()), (0, PRODUCTS), "{:?}", calm.answers);
    assert!(hanging.payment_peak > MAX * 7, "{} at once", hanging.payment_peak);
    let full = ("products", 503, "bulkhead_full".to_owned());
    assert!(hanging.answers[&full] > 1000, "{:?}", hanging.answers);
    assert_ne!(calm.latencies, hanging.latencies);
}

/// Client connections of the whole process: what all share over sockets.
const CONNECTIONS: u64 = 40;
/// Requests for payments, each on a connection of its own.
const PAYMENTS: u64 = 60;
const PLACES: u64 = 8;
const WORKERS: u64 = 2;
const ROUNDS: u64 = 50;

async fn process(products: &Upstream, payment: &Upstream, bulkhead: &str, connections: u64) -> Process {
    let (products, payment) = (products.address(), payment.address());
    let text = format!(
        "
gateway: {{admin: {{listen: ADMIN}}, workers: {WORKERS}, limits: {{connections: {connections}}}}}
listeners: {{public: {{listen: PUBLIC}}}}
upstreams:
  products: {{endpoints: ['{products}']{bulkhead}}}
  payment: {{endpoints: ['{payment}']{bulkhead}, timeouts: {{response_headers: 1h}}}}
routes:
  products: {{match: {{prefix: /products}}, upstream: products}}
  payments: {{match: {{prefix: /payments}}, timeouts: {{total: never}}, upstream: payment}}
"
    );
    Process::start(&text).await
}

/// One request on a connection of its own, until that is closed: the status, 0 if there was none.
async fn ask(process: &Process, target: &str) -> JoinHandle<u16> {
    let mut stream = TcpStream::connect(process.public).await.unwrap();
    let request = format!("GET {target} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    tokio::spawn(async move {
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await; // What came before a reset counts.
        let status = answer.get(9..12).and_then(|status| std::str::from_utf8(status).ok()?.parse().ok());
        status.unwrap_or(0)
    })
}

/// What a bulkhead has decided, by the metric.
async fn decided(process: &Process, policy: &str, outcome: &str) -> u64 {
    let line = format!(r#"naka_policy_decisions_total{{policy="{policy}/bulkhead",outcome="{outcome}"}}"#);
    number(process, &line).await
}

async fn number(process: &Process, start: &str) -> u64 {
    let text = process.get("/metrics").await.unwrap().1;
    let line = text.lines().find(|line| line.starts_with(start)).unwrap_or_else(|| panic!("no {start}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

async fn hanging() -> Upstream {
    Upstream::start(|_| vec![Step::Hang]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r14_3_over_sockets_products_find_places_and_connections_while_payment_hangs() {
    let (products, payment) = (Upstream::start(|_| ok("fine")).await, hanging().await);
    let bulkhead = format!(", bulkhead: {{max: {PLACES}, queue: 2, max_wait: 10ms}}");
    let process = process(&products, &payment, &bulkhead, CONNECTIONS).await;
    let mut payments = Vec::new();
    for _ in 0..PAYMENTS {
        payments.push(ask(&process, "/payments").await);
    }
    let refused = PAYMENTS - PLACES;
    process
        .until("the others are refused", async || decided(&process, "payment", "rejected").await == refused)
        .await;

    // Now both at once; for all of them there are connections.
    for _ in 0..ROUNDS {
        let mut both = Vec::new();
        for _ in 0..PLACES / 2 {
            both.push((200, ask(&process, "/products").await));
            both.push((503, ask(&process, "/payments").await));
        }
        for (expected, status) in both {
            assert_eq!(status.await.unwrap(), expected);
        }
    }
    let asked = ROUNDS * PLACES / 2;
    assert_eq!(decided(&process, "products", "admitted").await, asked);
    for outcome in ["queued", "rejected", "cancelled"] {
        assert_eq!(decided(&process, "products", outcome).await, 0, "{outcome}");
    }
    let policies = process.json("/policies").await;
    assert_eq!(policies["payment/bulkhead"]["working"], PLACES);
    assert_eq!(policies["products/bulkhead"]["working"], 0);
    assert_eq!((products.requests(), payment.requests()), (asked, PLACES));
    assert_eq!(decided(&process, "payment", "rejected").await, refused + asked);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r14_3_without_bulkheads_the_hang_takes_all_connections() {
    let (products, payment) = (Upstream::start(|_| ok("fine")).await, hanging().await);
    let process = process(&products, &payment, "", CONNECTIONS).await;
    let mut payments = Vec::new();
    for _ in 0..PAYMENTS {
        payments.push(ask(&process, "/payments").await);
    }
    process.until("all connections are taken", async || payment.working() == CONNECTIONS).await;
    let product = ask(&process, "/products").await;
    for _ in 0..20 {
        assert_eq!(number(&process, "naka_connections ").await, CONNECTIONS);
    }
    assert_eq!((products.requests(), payment.working()), (0, CONNECTIONS));
    assert!(!product.is_finished(), "it waits for a connection");

    for payment in payments {
        payment.abort();
    }
    let status = tokio::time::timeout(PATIENCE, product).await.unwrap();
    assert_eq!(status.unwrap(), 200, "nothing else was in its way");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r14_7_an_upstream_has_no_more_connections_than_places_and_none_of_another() {
    let answer = || vec![Step::ReadBody, Step::Wait(Duration::from_millis(1)), ok("fine").remove(1)];
    let (products, payment) = (Upstream::start(move |_| answer()).await, hanging().await);
    let bulkhead = format!(", bulkhead: {{max: {PLACES}, queue: 100, max_wait: 60s}}");
    let process = process(&products, &payment, &bulkhead, 1000).await;
    let mut payments = Vec::new();
    for _ in 0..PAYMENTS {
        payments.push(ask(&process, "/payments").await);
    }
    process
        .until("the others wait", async || {
            let room = &process.json("/policies").await["payment/bulkhead"];
            room["working"] == PLACES && room["waiting"] == PAYMENTS - PLACES
        })
        .await;
    for _ in 0..ROUNDS {
        let mut all = Vec::new();
        for _ in 0..PLACES * 4 {
            all.push(ask(&process, "/products").await);
        }
        for status in all {
            assert_eq!(status.await.unwrap(), 200);
        }
    }
    assert_eq!(products.requests(), ROUNDS * PLACES * 4);
    assert!((2..=PLACES).contains(&products.peak()), "{} at once", products.peak());
    // Each worker keeps its own, and none is closed here: as many as were ever at work there at once.
    let connections = products.connections();
    assert!(connections <= PLACES * WORKERS, "{connections} connections");
    assert_eq!((payment.connections(), payment.requests()), (PLACES, PLACES), "who waits has none");
    let upstreams = process.json("/upstreams").await;
    let of = |name: &str| (&upstreams[name][0]["in_flight"], &upstreams[name][0]["idle_connections"]);
    assert_eq!(of("payment"), (&PLACES.into(), &0.into()));
    assert_eq!(of("products"), (&0.into(), &connections.into()));
}
