//! What is held of bodies because it may be needed again: no more than `gateway.limits.buffered`, over all requests.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::Full;
use naka_testkit::upstream::{Step, Upstream, answer, ok};
use tokio::{task::JoinHandle, time::sleep};

use crate::inside::{Inside, get};

const CONFIG: &str = "
gateway: {admin: none, limits: {buffered: 20}}
listeners: {public: {listen: ':1'}}
policies:
  shadow: {mirror: {upstream: next, methods: all}}
upstreams:
  app: {endpoints: ['a:1', 'b:1'], retry_budget: {min_per_second: 100}}
  next: {endpoints: ['x:1']}
  spare: {endpoints: ['s:1']}
routes:
  again: {match: {prefix: /again}, retry: {max: 1, keyed: true}, upstream: app}
  copied: {match: {prefix: /copied}, use: [shadow], upstream: spare}
  once: {match: {prefix: /once}, idempotency: {}, upstream: spare}
  instead: {match: {prefix: /instead}, fallback: {upstream: spare}, upstream: app}
";

/// A gateway, whoever fails, whoever gets copies, and whoever does not fail.
fn gateway() -> (Inside, [Upstream; 2], Upstream, Upstream) {
    let gateway = Inside::new(CONFIG);
    let fails = |address| {
        Upstream::inside(&gateway.network, address, |seen| match seen.target() {
            "/again/hang" => vec![Step::ReadBody, Step::Hang],
            _ => answer(503, "", "later"),
        })
    };
    let both = [fails("a:1"), fails("b:1")];
    let next = Upstream::inside(&gateway.network, "x:1", |_| ok("copy"));
    let spare = Upstream::inside(&gateway.network, "s:1", |_| ok("fine"));
    (gateway, both, next, spare)
}

fn post(target: &str, length: usize) -> Request<Full<Bytes>> {
    let body = Full::from(vec![b'x'; length]);
    let request = Request::builder().method(Method::POST).uri(target).header("host", "api.example");
    request.header("idempotency-key", format!("key-{length}")).body(body).unwrap()
}

/// What is safe may be asked elsewhere; two hold its body, and so it takes twice as much: the fallback, and who sends it once more if a
/// connection that was kept ends just then.
fn safe(length: usize) -> Request<Full<Bytes>> {
    let mut request = post("/instead", length);
    *request.method_mut() = Method::GET;
    request
}

fn held(gateway: &Inside) -> (usize, u64) {
    let generation = gateway.generation();
    (generation.state.held.bytes(), generation.state.held.refused())
}

fn requests(of: &[Upstream; 2]) -> u64 {
    of.iter().map(Upstream::requests).sum()
}

/// One that waits for its answer, whose body has come to the endpoint.
async fn hanging(gateway: &Inside, both: &[Upstream; 2], length: usize) -> JoinHandle<Response<Bytes>> {
    let (mut client, before) = (gateway.client().await, requests(both));
    let hanging = tokio::spawn(async move { client.send(post("/again/hang", length)).await });
    while requests(both) == before {
        sleep(Duration::from_millis(1)).await;
    }
    sleep(Duration::from_millis(1)).await;
    hanging
}

/// Exactly as much is sent again, and what is more is sent once.
#[tokio::test(start_paused = true)]
async fn r2_3_a_body_for_which_there_is_no_room_is_sent_once() {
    let (gateway, both, _next, _spare) = gateway();
    assert_eq!(gateway.send(post("/again", 20)).await.status(), 503);
    assert_eq!((requests(&both), held(&gateway)), (2, (0, 0)));
    assert_eq!(gateway.send(post("/again", 21)).await.status(), 503, "the endpoint's own answer");
    assert_eq!((requests(&both), held(&gateway)), (3, (0, 1)));
    let bytes = both.iter().map(Upstream::body_bytes).sum::<u64>();
    assert_eq!(bytes, 61, "all of it");
    // What has no body needs no room.
    let one = hanging(&gateway, &both, 20).await;
    let before = requests(&both);
    assert_eq!(gateway.send(get("/instead")).await.status(), 200);
    assert_eq!((requests(&both), held(&gateway)), (before + 1, (20, 1)));
    one.abort();
}

/// It counts while it may be needed, and is given back when its client goes.
#[tokio::test(start_paused = true)]
async fn r2_3_what_is_held_is_of_all_requests_and_is_given_back_when_they_are_given_up() {
    let (gateway, both, _next, spare) = gateway();
    let (one, other) = (hanging(&gateway, &both, 13).await, hanging(&gateway, &both, 7).await);
    assert_eq!(held(&gateway), (20, 0));
    let third = hanging(&gateway, &both, 1).await;
    assert_eq!(held(&gateway), (20, 1), "there is no room for another, which goes all the same");
    assert_eq!(gateway.send(safe(1)).await.status(), 503, "nor for one that would be sent elsewhere");
    assert_eq!((spare.requests(), held(&gateway)), (0, (20, 3)));
    one.abort();
    third.abort();
    sleep(Duration::from_millis(1)).await;
    assert_eq!(held(&gateway), (7, 3));
    assert_eq!(gateway.send(safe(6)).await.status(), 200);
    other.abort();
    sleep(Duration::from_millis(1)).await;
    assert_eq!(held(&gateway), (0, 3));
}

#[tokio::test(start_paused = true)]
async fn r2_3_a_copy_for_which_there_is_no_room_is_not_sent() {
    let (gateway, _both, next, spare) = gateway();
    for (length, copies) in [(20, 1), (21, 1), (20, 2)] {
        assert_eq!(gateway.send(post("/copied", length)).await.status(), 200);
        sleep(Duration::from_millis(10)).await;
        assert_eq!((next.requests(), held(&gateway).0), (copies, 0), "{length}");
    }
    assert_eq!(spare.requests(), 3);
    let dropped = "naka_policy_decisions_total{policy=\"shadow\",outcome=\"mirror_dropped\"}";
    assert_eq!(gateway.metric(dropped), Some(1.0));
}

/// What has to be known whole is refused, and is what the gateway would have said that becomes of it.
#[tokio::test(start_paused = true)]
async fn r2_3_a_body_that_has_to_be_held_is_refused_where_there_is_no_room() {
    let (gateway, both, _next, spare) = gateway();
    assert_eq!(gateway.send(post("/once", 20)).await.status(), 200);
    let refused = gateway.send(post("/once", 21)).await;
    assert_eq!(
        (refused.status().as_u16(), &refused.headers()["naka-reason"]),
        (503, &"idempotency_store_full".parse().unwrap())
    );
    assert_eq!((spare.requests(), held(&gateway)), (1, (0, 1)));
    let _one = hanging(&gateway, &both, 15).await;
    let explained = |length: usize| {
        let headers = ["idempotency-key: b".to_owned(), format!("content-length: {length}")];
        gateway.explain("POST http://api.example/once", &headers).to_string()
    };
    assert!(!explained(5).contains("idempotency_store_full"), "{}", explained(5));
    assert!(explained(6).contains("503 idempotency_store_full"), "{}", explained(6));
    assert_eq!(gateway.send(post("/once", 5)).await.status(), 200);
    assert_eq!(gateway.send(post("/once", 6)).await.status(), 503);
}

/// There is one account for the process, and the bound is that of the generation that a request is of.
#[tokio::test(start_paused = true)]
async fn r2_3_a_changed_bound_on_what_is_held_takes_effect_over_the_same_account() {
    let (gateway, both, _next, _spare) = gateway();
    let one = hanging(&gateway, &both, 20).await;
    gateway.reload(&CONFIG.replace("buffered: 20", "buffered: 25")).unwrap();
    let other = hanging(&gateway, &both, 5).await;
    assert_eq!(held(&gateway), (25, 0));
    gateway.reload(&CONFIG.replace("buffered: 20", "buffered: 10")).unwrap();
    one.abort();
    sleep(Duration::from_millis(1)).await;
    assert_eq!(held(&gateway), (5, 0));
    let third = hanging(&gateway, &both, 6).await;
    assert_eq!(held(&gateway), (5, 1));
    other.abort();
    third.abort();
    sleep(Duration::from_millis(1)).await;
    assert_eq!(held(&gateway), (0, 1));
}
