//! How an endpoint is chosen, as the file says it.

use std::collections::BTreeMap;

use http::Request;
use http_body_util::Full;
use naka_testkit::upstream::{Step, Upstream, ok};

use crate::inside::{Inside, get};

/// `bangalore`, `delhi` and `mumbai`, in this order.
fn file(balance: &str, weights: [u32; 3]) -> String {
    let [b, d, m] = weights;
    format!(
        "
listeners: {{public: {{listen: ':1'}}}}
upstreams:
  app:
    endpoints: [{{address: 'b:1', weight: {b}}}, {{address: 'd:1', weight: {d}}}, {{address: 'm:1', weight: {m}}}]
    balance: {balance}
routes: {{all: {{match: {{prefix: /}}, upstream: app}}}}
"
    )
}

fn endpoints(gateway: &Inside) -> [Upstream; 3] {
    ["b:1", "d:1", "m:1"].map(|address| {
        let name = &address[..1];
        Upstream::inside(&gateway.network, address, move |seen| match seen.target() {
            "/hangs" => vec![Step::Hang],
            _ => ok(name),
        })
    })
}

async fn chosen(gateway: &Inside, request: Request<Full<bytes::Bytes>>) -> String {
    String::from_utf8(gateway.send(request).await.into_body().to_vec()).unwrap()
}

fn by(rider: &str) -> Request<Full<bytes::Bytes>> {
    let mut request = get("/");
    request.headers_mut().insert("x-rider", rider.parse().unwrap());
    request
}

#[tokio::test(start_paused = true)]
async fn r9_2_by_weight_in_the_sequence_of_the_row() {
    let gateway = Inside::new(&file("{policy: weighted_round_robin}", [3, 2, 1]));
    let _endpoints = endpoints(&gateway);
    let mut picks = String::new();
    for _ in 0..12 {
        picks += &chosen(&gateway, get("/")).await;
    }
    assert_eq!(picks, "bdbmdbbdbmdb");
    // Another weight is in force with the next request.
    gateway.reload(&file("{policy: weighted_round_robin}", [1, 1, 1])).unwrap();
    let mut counts = BTreeMap::new();
    for _ in 0..12 {
        *counts.entry(chosen(&gateway, get("/")).await).or_insert(0) += 1;
    }
    assert_eq!(counts.into_values().collect::<Vec<_>>(), [4, 4, 4]);
}

#[tokio::test(start_paused = true)]
async fn r9_1_the_policy_changes_with_a_reload_and_what_is_under_way_still_counts() {
    let gateway = Inside::new(&file("{policy: round_robin}", [1, 1, 1]));
    let [b, d, m] = endpoints(&gateway);
    // One hangs at `b` and one at `d`.
    let hanging = async { tokio::join!(gateway.send(get("/hangs")), gateway.send(get("/hangs"))) };
    let meanwhile = async {
        while b.requests() + d.requests() < 2 {
            tokio::task::yield_now().await;
        }
        gateway.reload(&file("{policy: least_request}", [1, 1, 1])).unwrap();
        for _ in 0..5 {
            assert_eq!(chosen(&gateway, get("/")).await, "m", "the other two are at work");
        }
    };
    tokio::select! {
        _ = hanging => panic!("they hang"),
        () = meanwhile => {}
    }
    assert_eq!(m.requests(), 5);
}

#[tokio::test(start_paused = true)]
async fn r9_4_by_key_it_is_the_same_endpoint_and_few_move_when_one_is_gone() {
    for policy in ["ring_hash", "maglev", "rendezvous"] {
        let three = file(&format!("{{policy: {policy}, key: ['header:x-rider']}}"), [1, 1, 1]);
        let gateway = Inside::new(&three);
        let _endpoints = endpoints(&gateway);
        let mut before = BTreeMap::new();
        for rider in 0..60 {
            let rider = format!("rider-{rider}");
            let first = chosen(&gateway, by(&rider)).await;
            assert_eq!(chosen(&gateway, by(&rider)).await, first, "{policy}");
            before.insert(rider, first);
        }
        let two = three.replace(", {address: 'm:1', weight: 1}", "");
        gateway.reload(&two).unwrap();
        for (rider, first) in &before {
            let now = chosen(&gateway, by(rider)).await;
            // A table moves a few others as well; a ring and rendezvous none.
            assert!(first == "m" || now == *first || policy == "maglev", "{policy}: {rider}");
        }
        gateway.reload(&three).unwrap();
        for (rider, first) in &before {
            assert_eq!(chosen(&gateway, by(rider)).await, *first, "{policy}: {rider} is back");
        }
    }
}
