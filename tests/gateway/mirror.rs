//! Copies of requests for another upstream, through the gateway.

use std::sync::{
    Arc,
    atomic::{AtomicU16, Ordering::SeqCst},
};

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Full;
use naka_testkit::upstream::{Step, Upstream, answer, ok};
use tokio::{
    io::AsyncWriteExt,
    time::{Duration, Instant, sleep},
};

use crate::inside::{Inside, get};

/// A service, and the next version of it.
const SHOP: &str = "
gateway: {admin: none}
listeners: {public: {listen: ':1'}}
policies:
  shadow: {mirror: {upstream: next, methods: all, max: 4}}
upstreams:
  shop: {endpoints: ['a:1'], bulkhead: {max: 1, queue: 100, max_wait: 1m}}
  next: {endpoints: ['x:1', 'y:1'], bulkhead: {max: 1}}
routes:
  carts: {match: {prefix: /api/carts}, use: [shadow], strip_prefix: true, upstream: shop}
  reads: {match: {prefix: /reads}, mirror: {upstream: next, methods: safe, sample: 25%}, upstream: shop}
";

/// What is primary: it answers after ten milliseconds.
fn shop(gateway: &Inside) -> Upstream {
    Upstream::inside(&gateway.network, "a:1", |_| {
        vec![
            Step::ReadBody,
            Step::Wait(Duration::from_millis(10)),
            Step::send("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nshop"),
        ]
    })
}

/// What gets the copies: both of them do as is said.
fn next(gateway: &Inside) -> (Arc<AtomicU16>, [Upstream; 2]) {
    let status = Arc::new(AtomicU16::new(200));
    let endpoints = ["x:1", "y:1"].map(|address| {
        let says = Arc::clone(&status);
        Upstream::inside(&gateway.network, address, move |_| match says.load(SeqCst) {
            0 => vec![Step::ReadBody, Step::Hang],
            1 => vec![Step::ReadBody, Step::Close],
            2 => vec![Step::send("HTTP/1.1 200 OK\r\n\r\n"), Step::Fill(1 << 30)],
            status => answer(status, "", "next"),
        })
    });
    (status, endpoints)
}

fn copies(of: &[Upstream; 2]) -> u64 {
    of.iter().map(Upstream::requests).sum()
}

fn request(method: Method, target: &str, body: &'static str) -> Request<Full<Bytes>> {
    Request::builder().method(method).uri(target).header("host", "api.example").body(body.into()).unwrap()
}

fn decided(gateway: &Inside, policy: &str, outcome: &str) -> Option<f64> {
    let name = format!("naka_policy_decisions_total{{policy=\"{policy}\",outcome=\"{outcome}\"}}");
    gateway.metric(&name)
}

fn under_way(gateway: &Inside) -> usize {
    gateway.generation().state.mirrors.get("shadow").unwrap().under_way()
}

#[tokio::test(start_paused = true)]
async fn r7_6_whatever_the_mirror_does_the_primary_answers_as_fast_as_ever() {
    // Nobody listens at the mirror's addresses; then they hang while a connection is made.
    for there in [SHOP.to_owned(), SHOP.replace("'x:1', 'y:1'", "'silent:1', 'silent:2'")] {
        let gateway = Inside::new(&there);
        let _shop = shop(&gateway);
        as_ever(&gateway).await;
    }
    let gateway = Inside::new(SHOP);
    let (_shop, (says, mirror)) = (shop(&gateway), next(&gateway));
    for broken in [200, 500, 0, 1, 2] {
        says.store(broken, SeqCst);
        let before = copies(&mirror);
        as_ever(&gateway).await;
        sleep(Duration::from_secs(6)).await;
        assert!(copies(&mirror) > before, "it was asked, and did {broken}");
        assert_eq!(under_way(&gateway), 0, "each copy has an end: {broken}");
    }
}

/// More requests than there may be copies: each takes its ten milliseconds.
async fn as_ever(gateway: &Inside) {
    let mut client = gateway.client().await;
    client.send(get("/api/carts/7")).await; // The connection is made.
    for number in 0..10 {
        let began = Instant::now();
        let sent = if number % 2 == 0 {
            get("/api/carts/7")
        } else {
            request(Method::POST, "/api/carts", "an order")
        };
        let response = client.send(sent).await;
        assert_eq!((response.status().as_u16(), &**response.body()), (200, &b"shop"[..]));
        assert!(!response.headers().contains_key("naka-mirror"));
        assert_eq!(began.elapsed().as_millis(), 10, "request {number}");
    }
}

#[tokio::test(start_paused = true)]
async fn r7_6_a_copy_is_what_the_primary_saw_and_says_that_it_is_one() {
    let gateway = Inside::new(SHOP);
    let (shop, (_, mirror)) = (shop(&gateway), next(&gateway));
    let mut post = request(Method::POST, "/api/carts/7?full=1", "an order");
    post.headers_mut().insert("authorization", "Bearer x".parse().unwrap());
    gateway.send(post).await;
    sleep(Duration::from_secs(1)).await;
    let (seen, copy) = (shop.last(), mirror[0].last());
    assert_eq!((&*copy.line, copy.header("naka-mirror")), ("POST /7?full=1 HTTP/1.1", Some("true")));
    assert_eq!(copy.line, seen.line);
    assert_eq!(seen.header("naka-mirror"), None);
    for name in ["host", "authorization", "x-request-id", "x-forwarded-for", "via", "content-length"] {
        assert!(copy.header(name).is_some() && copy.header(name) == seen.header(name), "{name}");
    }
    assert_eq!(mirror[0].body_bytes(), 8);
    // By the balancer of its own, and not through the bulkhead of its upstream.
    for _ in 0..3 {
        gateway.send(get("/api/carts/8")).await;
    }
    sleep(Duration::from_secs(1)).await;
    assert_eq!(mirror.each_ref().map(Upstream::requests), [2, 2]);
    assert_eq!(decided(&gateway, "shadow", "mirrored"), Some(4.0));
    assert_eq!(decided(&gateway, "next/bulkhead", "admitted"), Some(0.0));
    // Of a chunked body, too; and what is too long, or was not sent to its end, makes no copy.
    let mut client = gateway.connect();
    let chunked =
        "POST /api/carts HTTP/1.1\r\nhost: api.example\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n";
    client.write_all(chunked.as_bytes()).await.unwrap();
    sleep(Duration::from_secs(1)).await;
    assert_eq!(copies(&mirror), 4, "not before its end");
    client.write_all(b"2\r\nde\r\n0\r\n\r\n").await.unwrap();
    sleep(Duration::from_secs(1)).await;
    assert_eq!((copies(&mirror), mirror[0].last().header("content-length")), (5, Some("5")));
    let mut gone = gateway.connect();
    gone.write_all(chunked.as_bytes()).await.unwrap();
    sleep(Duration::from_secs(1)).await;
    drop(gone);
    let long = Full::from(vec![b'x'; (64 << 10) + 1]);
    let long = Request::post("/api/carts").header("host", "api.example").body(long).unwrap();
    assert_eq!(gateway.send(long).await.status(), 200);
    sleep(Duration::from_secs(6)).await;
    assert_eq!(copies(&mirror), 5);
    assert_eq!(decided(&gateway, "shadow", "mirror_dropped"), Some(2.0));
}

#[tokio::test(start_paused = true)]
async fn r7_6_copies_are_bounded_and_the_rest_is_counted() {
    let gateway = Inside::new(SHOP);
    let (_shop, (says, mirror)) = (shop(&gateway), next(&gateway));
    says.store(0, SeqCst);
    for _ in 0..10 {
        assert_eq!(gateway.send(get("/api/carts")).await.status(), 200);
    }
    assert_eq!(copies(&mirror), 4);
    assert_eq!(decided(&gateway, "shadow", "mirror_dropped"), Some(6.0));
    let explained = gateway.explain("GET http://api.example/api/carts", &[]).to_string();
    assert!(
        explained.contains("mirror shadow") && explained.contains("4 copies are under way"),
        "{explained}"
    );
    // Another bound is of the same copies.
    gateway.reload(&SHOP.replace("max: 4", "max: 5")).unwrap();
    for _ in 0..3 {
        gateway.send(get("/api/carts")).await;
    }
    assert_eq!(copies(&mirror), 5);
    sleep(Duration::from_secs(5)).await;
    assert_eq!((under_way(&gateway), decided(&gateway, "shadow", "mirror_failed")), (0, Some(5.0)));
    // Taken out of the file it ends what is under way.
    gateway.send(get("/api/carts")).await;
    assert_eq!((under_way(&gateway), decided(&gateway, "shadow", "mirror_failed")), (1, Some(5.0)));
    gateway.reload(&SHOP.replace("use: [shadow], ", "")).unwrap();
    sleep(Duration::from_millis(1)).await;
    assert_eq!(decided(&gateway, "shadow", "mirror_failed"), Some(6.0));
}

#[tokio::test(start_paused = true)]
async fn r7_6_a_share_of_the_safe_ones_is_copied_exactly_over_a_reload() {
    let gateway = Inside::new(SHOP);
    let (_shop, (_, mirror)) = (shop(&gateway), next(&gateway));
    for number in 0..40 {
        let is_copied = number % 4 == 3;
        let explained = gateway.explain("GET http://api.example/reads", &[]).to_string();
        assert_eq!(explained.contains("a copy is sent"), is_copied, "{explained}");
        gateway.send(get("/reads")).await;
        gateway.send(request(Method::POST, "/reads", "not copied")).await;
        if number == 21 {
            gateway.reload(&SHOP.replace("25%", "25%, timeout: 1s")).unwrap();
        }
        sleep(Duration::from_secs(1)).await;
        assert_eq!(copies(&mirror), (number + 1) / 4);
    }
    // A copy of somebody else's is passed on as one, and not copied again.
    for _ in 0..8 {
        let mut copy = get("/reads");
        copy.headers_mut().insert("naka-mirror", "true".parse().unwrap());
        gateway.send(copy).await;
    }
    assert_eq!(copies(&mirror), 10);
}

#[tokio::test(start_paused = true)]
async fn r7_6_the_breakers_of_the_mirrors_endpoints_are_its_own() {
    let breaker = "circuit_breaker: {consecutive: 2, failure_rate: never, open: 1h, max_ejected: 100%}";
    let gateway = Inside::new(&SHOP.replace("bulkhead: {max: 1}}", &format!("{breaker}}}")));
    let (shop, (says, mirror)) = (shop(&gateway), next(&gateway));
    says.store(500, SeqCst);
    for _ in 0..20 {
        assert_eq!(gateway.send(get("/api/carts")).await.status(), 200);
    }
    sleep(Duration::from_secs(1)).await;
    assert_eq!(shop.requests(), 20);
    assert!(mirror.iter().any(|endpoint| endpoint.requests() == 2), "one of them is left alone");
}

/// Bug: a copy was given up before its endpoint could be said to hang, so that those who hang got all copies.
#[tokio::test(start_paused = true)]
async fn r7_6_an_endpoint_of_the_mirror_that_hangs_is_left_alone_too() {
    let breaker = "circuit_breaker: {consecutive: 2, failure_rate: never, open: 1h, max_ejected: 100%}";
    let gateway = Inside::new(&SHOP.replace("bulkhead: {max: 1}}", &format!("{breaker}}}")));
    let (shop, (says, mirror)) = (shop(&gateway), next(&gateway));
    says.store(0, SeqCst);
    for _ in 0..20 {
        assert_eq!(gateway.send(get("/api/carts")).await.status(), 200);
        sleep(Duration::from_secs(6)).await;
    }
    assert_eq!(shop.requests(), 20);
    assert!(
        mirror.iter().any(|endpoint| endpoint.requests() == 2),
        "{:?}",
        mirror.each_ref().map(Upstream::requests)
    );
}

#[tokio::test(start_paused = true)]
async fn credentials_can_be_withheld_and_what_is_put_in_their_place_is() {
    let set = "headers: {request: {set: {cookie: 'internal=1', x-kept: '1'}}}";
    let yaml = SHOP
        .replace("max: 4", "max: 4, credentials: false")
        .replace(
            "policies:",
            "policies:\n  keys: {api_key: {file: keys.yaml, header: x-shop-key, forward: true}}",
        )
        .replace("use: [shadow]", &format!("use: [keys, shadow], {set}"));
    let hash = "2c70e12b7a0646f92279f427c7b38e7334d8e5389cff167a1dc30e73f826b683"; // Of `key`.
    let keys = format!("keys: [{{sha256: {hash}, subject: asha}}]");
    let gateway = Inside::with_files(&yaml, &[("keys.yaml", &keys)]);
    let (shop, (_, mirror)) = (shop(&gateway), next(&gateway));
    let mut sent = get("/api/carts");
    for (name, value) in [("x-shop-key", "key"), ("authorization", "Bearer x"), ("x-own", "1")] {
        sent.headers_mut().insert(name, value.parse().unwrap());
    }
    assert_eq!(gateway.send(sent).await.status(), 200);
    sleep(Duration::from_secs(1)).await;
    let (seen, copy) = (shop.last(), mirror[0].last());
    for name in ["x-shop-key", "authorization", "cookie"] {
        assert_eq!((seen.header(name).is_some(), copy.header(name)), (true, None), "{name}");
    }
    assert_eq!((copy.header("x-own"), copy.header("x-kept")), (Some("1"), Some("1")));
}

#[tokio::test(start_paused = true)]
async fn of_versions_those_are_copied_that_do_not_go_there_anyway() {
    let gateway = Inside::new(
        "
listeners: {public: {listen: ':1'}}
upstreams:
  shop: {endpoints: ['a:1']}
  next: {endpoints: ['x:1', 'y:1']}
routes:
  carts:
    match: {prefix: /carts}
    mirror: {upstream: next, methods: safe}
    versions:
      by: ['header:x-api-version']
      default: v1
      of: {v1: {upstream: shop, rewrite: {path: /old}}, v2: {upstream: next}}
",
    );
    let (_shop, (_, mirror)) = (shop(&gateway), next(&gateway));
    for version in ["v1", "v2", "v1"] {
        let mut sent = get("/carts");
        sent.headers_mut().insert("x-api-version", version.parse().unwrap());
        assert_eq!(gateway.send(sent).await.status(), 200);
    }
    sleep(Duration::from_secs(1)).await;
    let seen = mirror
        .iter()
        .flat_map(Upstream::seen)
        .map(|seen| (seen.target().to_owned(), seen.header("naka-mirror").is_some()));
    let mut seen = seen.collect::<Vec<_>>();
    seen.sort();
    assert_eq!(seen, [("/carts".to_owned(), false), ("/old".to_owned(), true), ("/old".to_owned(), true)]);
}

/// A primary that answers without reading its body has not been sent all of it.
#[tokio::test(start_paused = true)]
async fn what_the_primary_did_not_read_is_not_copied() {
    let gateway = Inside::new(SHOP);
    let (_, mirror) = next(&gateway);
    let _shop = Upstream::inside(&gateway.network, "a:1", |seen| match seen.target() {
        "/early" => {
            vec![Step::send("HTTP/1.1 413 No\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"), Step::Close]
        }
        _ => ok("shop"),
    });
    let mut client = gateway.connect();
    let head = "POST /api/carts/early HTTP/1.1\r\nhost: api.example\r\ncontent-length: 10\r\n\r\nhalf";
    client.write_all(head.as_bytes()).await.unwrap();
    sleep(Duration::from_secs(6)).await;
    assert_eq!(copies(&mirror), 0);
    assert_eq!(decided(&gateway, "shadow", "mirror_dropped"), Some(1.0));
}
