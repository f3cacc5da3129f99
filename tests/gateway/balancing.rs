//! How an endpoint is chosen, as the file says it.

use std::collections::BTreeMap;

use http::Request;
use http_body_util::Full;
use naka_testkit::upstream::{Step, Upstream, answer, ok};

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

/// Bike taxis, cars between towns, and all others: what the request says decides among endpoints, not a body.
#[tokio::test(start_paused = true)]
async fn r2_16_what_a_request_says_reaches_a_subset_of_the_endpoints() {
    let file = |miss: &str| {
        format!(
            "
listeners: {{public: {{listen: ':1'}}}}
upstreams:
  rides:
    endpoints:
      - {{address: 'b:1', labels: {{ride: bike}}}}
      - {{address: 'd:1', labels: {{ride: outstation}}}}
      - {{address: 'm:1', labels: {{ride: mini}}}}
    balance: {{subset: {{label: ride, by: 'header:x-rider', on_miss: {miss}}}}}
routes: {{all: {{match: {{prefix: /}}, upstream: rides}}}}
"
        )
    };
    let gateway = Inside::new(&file("any"));
    let _endpoints = endpoints(&gateway);
    for _ in 0..5 {
        for (ride, expected) in [("mini", "m"), ("bike", "b"), ("mini", "m"), ("outstation", "d")] {
            assert_eq!(chosen(&gateway, by(ride)).await, expected);
        }
    }
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..6 {
        seen.insert(chosen(&gateway, by("helicopter")).await);
    }
    assert_eq!(seen.len(), 3, "what nobody has is sent to any");
    gateway.reload(&file("refuse")).unwrap();
    let refused = gateway.send(by("helicopter")).await;
    assert_eq!(
        (refused.status().as_u16(), &refused.headers()["naka-reason"]),
        (503, &"subset_empty".parse().unwrap())
    );
    let said = gateway.explain("GET http://api.example/", &["x-rider: helicopter".to_owned()]).to_string();
    assert!(said.contains("refuses: 503 subset_empty; of b:1 (of another subset), "), "{said}");
    assert_eq!(chosen(&gateway, by("bike")).await, "b");
    let said = gateway.explain("GET http://api.example/", &["x-rider: bike".to_owned()]).to_string();
    assert!(said.contains("chooses b:1"), "{said}");
    // Without it any will do again.
    let plain = file("any").lines().filter(|line| !line.contains("balance:")).collect::<Vec<_>>().join("\n");
    gateway.reload(&plain).unwrap();
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..6 {
        seen.insert(chosen(&gateway, by("bike")).await);
    }
    assert_eq!(seen.len(), 3);
}

/// Each word of the grammar, also with a slow start: all endpoints are asked, and none is forgotten.
#[tokio::test(start_paused = true)]
async fn r9_1_under_each_policy_all_endpoints_are_asked() {
    let by_key = ["ring_hash", "maglev", "rendezvous"];
    let others = [
        "round_robin",
        "weighted_round_robin",
        "random",
        "least_request",
        "weighted_least_request",
        "p2c_ewma",
        "least_latency",
        "least_load",
    ];
    for policy in by_key.into_iter().chain(others) {
        let key = if by_key.contains(&policy) { ", key: 'header:x-rider'" } else { "" };
        let gateway = Inside::new(&file(&format!("{{policy: {policy}{key}, slow_start: 10s}}"), [1, 2, 3]));
        let endpoints = endpoints(&gateway);
        for rider in 0..300 {
            assert_eq!(gateway.send(by(&rider.to_string())).await.status(), 200, "{policy}");
            tokio::time::advance(std::time::Duration::from_millis(5)).await;
        }
        let counts = endpoints.each_ref().map(Upstream::requests);
        assert_eq!(counts.iter().sum::<u64>(), 300);
        assert!(counts.iter().all(|count| *count >= 20), "{policy}: {counts:?}");
    }
    // All of these clients have one address.
    let gateway = Inside::new(&file("{policy: ip_hash}", [1; 3]));
    let endpoints = endpoints(&gateway);
    for rider in 0..30 {
        gateway.send(by(&rider.to_string())).await;
    }
    let mut counts = endpoints.each_ref().map(Upstream::requests);
    counts.sort_unstable();
    assert_eq!(counts, [0, 0, 30]);
}

/// By the field of ORCA, which clients do not see.
#[tokio::test(start_paused = true)]
async fn r9_1_who_says_that_it_is_the_least_busy_is_chosen() {
    let gateway = Inside::new(&file("{policy: least_load}", [1, 1, 1]));
    let _endpoints = [("b:1", "0.9"), ("d:1", "0.2"), ("m:1", "0.7")].map(|(address, load)| {
        let field = format!("Endpoint-Load-Metrics: TEXT cpu_utilization={load}, mem_utilization=0.1\r\n");
        Upstream::inside(&gateway.network, address, move |_| answer(200, &field, &address[..1]))
    });
    // Who has said nothing counts as half busy: so all are asked, until one says less.
    for _ in 0..20 {
        let response = gateway.send(get("/")).await;
        assert!(!response.headers().contains_key("endpoint-load-metrics"));
    }
    for _ in 0..20 {
        assert_eq!(chosen(&gateway, get("/")).await, "d");
    }
    let said = gateway.explain("GET http://api.example/", &[]).to_string();
    assert!(said.contains("least load chooses d:1"), "{said}");
    // What was said long ago is not known any more.
    tokio::time::advance(std::time::Duration::from_secs(200)).await;
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..20 {
        seen.insert(chosen(&gateway, get("/")).await);
        tokio::time::advance(std::time::Duration::from_secs(200)).await;
    }
    assert_eq!(seen.len(), 3);
}

/// Each source of a key that the row names: header, cookie, address, and a part of the path.
#[tokio::test(start_paused = true)]
async fn r9_4_a_key_comes_from_a_cookie_or_the_path_as_well() {
    let yaml = file("{policy: rendezvous, key: ['cookie:rider']}", [1; 3]);
    let gateway = Inside::new(&yaml);
    let _endpoints = endpoints(&gateway);
    let with = |cookie: String| {
        let mut request = get("/");
        request.headers_mut().insert("cookie", cookie.parse().unwrap());
        request
    };
    let mut owners = std::collections::BTreeSet::new();
    for rider in 0..20 {
        let owner = chosen(&gateway, with(format!("a=b; rider={rider}"))).await;
        for _ in 0..3 {
            assert_eq!(chosen(&gateway, with(format!("rider={rider}; rider2=x"))).await, owner);
        }
        owners.insert(owner);
    }
    assert_eq!(owners.len(), 3);
    // Of two nobody knows which one counts, and without one there is no key: any will do.
    for cookie in ["rider=1; rider=2", "rider=", "other=1"] {
        let mut anywhere = std::collections::BTreeSet::new();
        for _ in 0..50 {
            anywhere.insert(chosen(&gateway, with(cookie.to_owned())).await);
        }
        assert_eq!(anywhere.len(), 3, "{cookie}");
    }
    let by_path =
        yaml.replace("'cookie:rider'", "'{ride}'").replace("{prefix: /}", "{path: '/rides/{ride}'}");
    gateway.reload(&by_path).unwrap();
    let mut owners = std::collections::BTreeSet::new();
    for ride in 0..20 {
        let owner = chosen(&gateway, get(&format!("/rides/{ride}"))).await;
        for _ in 0..3 {
            assert_eq!(chosen(&gateway, get(&format!("/rides/{ride}"))).await, owner);
        }
        owners.insert(owner);
    }
    assert_eq!(owners.len(), 3);
}

/// A key that everybody asks for goes on to its next endpoint when the first has more than its fair share.
#[tokio::test(start_paused = true)]
async fn r9_4_a_hot_key_is_spread_by_bounded_loads() {
    for (max_load, most) in [("", 30), (", max_load: 1.2x", 13)] {
        let balance = format!("{{policy: ring_hash, key: ['header:x-rider']{max_load}}}");
        let gateway = Inside::new(&file(&balance, [1; 3]));
        let endpoints = endpoints(&gateway);
        let asking = (0..30).map(|_| {
            let mut request = by("everybody");
            *request.uri_mut() = "/hangs".parse().unwrap();
            gateway.send(request)
        });
        let all = futures(asking.collect());
        let _ = tokio::time::timeout(std::time::Duration::from_secs(1), all).await;
        let counts = endpoints.each_ref().map(Upstream::requests);
        assert_eq!(counts.iter().sum::<u64>(), 30, "{counts:?}");
        assert!(counts.iter().max().is_some_and(|count| *count <= most), "{max_load}: {counts:?}");
    }
}

async fn futures<F: Future>(mut all: Vec<F>) {
    let mut all = all.drain(..).map(Box::pin).collect::<Vec<_>>();
    std::future::poll_fn(|cx| {
        all.retain_mut(|one| one.as_mut().poll(cx).is_pending());
        if all.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}

/// By the client's address, where nothing else says it.
#[tokio::test(start_paused = true)]
async fn r9_5_a_region_comes_from_the_network_of_the_client() {
    let gateway = Inside::new(
        "
gateway: {trusted_proxies: ['192.0.2.0/24']}
listeners: {public: {listen: ':1'}}
upstreams:
  shop:
    endpoints:
      - {address: 'b:1', labels: {region: south}}
      - {address: 'd:1', labels: {region: north}}
      - {address: 'm:1', labels: {region: west}}
    balance:
      regions:
        by: 'header:x-rider'
        networks: {bangalore: ['10.0.0.0/8'], delhi: ['10.1.0.0/16', '2001:db8::/32']}
        of: {bangalore: [south], delhi: [north]}
        otherwise: [west]
routes: {all: {match: {prefix: /}, upstream: shop}}
",
    );
    let _endpoints = endpoints(&gateway);
    let from = |client: &str| {
        let mut request = get("/");
        request.headers_mut().insert("x-forwarded-for", client.parse().unwrap());
        request
    };
    for (client, region) in [
        ("10.2.3.4", "b"),
        ("10.1.3.4", "d"),
        ("2001:db8::7", "d"),
        ("198.51.100.1", "m"),
        ("2001:db9::7", "m"),
    ] {
        for _ in 0..3 {
            assert_eq!(chosen(&gateway, from(client)).await, region, "{client}");
        }
    }
    let mut said = from("10.1.3.4");
    said.headers_mut().insert("x-rider", "bangalore".parse().unwrap());
    assert_eq!(chosen(&gateway, said).await, "b", "what is said counts first");
}

#[tokio::test(start_paused = true)]
async fn r9_5_a_near_region_is_asked_first_and_the_next_where_it_has_no_room() {
    let gateway = Inside::new(
        "
listeners: {public: {listen: ':1'}}
upstreams:
  shop:
    endpoints:
      - {address: 'b:1', labels: {region: south}, capacity: 1}
      - {address: 'd:1', labels: {region: north}}
      - {address: 'm:1', labels: {region: west}}
    balance: {policy: least_request, regions: {by: 'header:x-rider', of: {bangalore: [south, west], delhi: [north]}, otherwise: [west, north]}}
routes: {all: {match: {prefix: /}, upstream: shop}}
",
    );
    let [b, _d, _m] = endpoints(&gateway);
    for (client, expected) in [("bangalore", "b"), ("delhi", "d"), ("nowhere", "m")] {
        for _ in 0..3 {
            assert_eq!(chosen(&gateway, by(client)).await, expected, "{client}");
        }
    }
    let mut hangs = by("bangalore");
    *hangs.uri_mut() = "/hangs".parse().unwrap();
    let meanwhile = async {
        while b.working() == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(chosen(&gateway, by("bangalore")).await, "m", "the south has no room");
        assert_eq!(chosen(&gateway, by("delhi")).await, "d");
    };
    tokio::select! {
        _ = gateway.send(hangs) => panic!("it hangs"),
        () = meanwhile => {}
    }
}

#[tokio::test(start_paused = true)]
async fn a_cookie_brings_a_client_back_to_its_endpoint_over_reloads() {
    let config = file("{sticky: {cookie: shop_endpoint, secret: a-secret}}", [1, 1, 1]);
    let gateway = Inside::new(&config);
    let _endpoints = endpoints(&gateway);
    let first = gateway.send(get("/")).await;
    let set = first.headers()["set-cookie"].to_str().unwrap().to_owned();
    let cookie = set.split(';').next().unwrap().to_owned();
    assert!(cookie.starts_with("shop_endpoint=") && set.contains("HttpOnly"), "{set}");
    let home = first.into_body();
    let again = || {
        let mut request = get("/");
        request.headers_mut().insert("cookie", cookie.parse().unwrap());
        request
    };
    for round in 0..6 {
        if round == 3 {
            gateway.reload(&config.replace("weight: 1", "weight: 2")).unwrap();
        }
        let response = gateway.send(again()).await;
        assert_eq!(*response.body(), home);
        assert!(!response.headers().contains_key("set-cookie"));
    }
    // The same secret names the same endpoint elsewhere; another does not.
    let elsewhere = Inside::new(&config);
    let _there = endpoints(&elsewhere);
    assert_eq!(*elsewhere.send(again()).await.body(), home);
    let other = Inside::new(&config.replace("a-secret", "another"));
    let _others = endpoints(&other);
    assert!(other.send(again()).await.headers().contains_key("set-cookie"));
}
