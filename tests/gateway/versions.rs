//! Versions of an API, through the whole gateway.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use naka_gateway::explain::Verdict;
use naka_testkit::upstream::{Upstream, ok};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::Instant,
};

use crate::inside::{Inside, get};

const SHOP: &str = "
listeners: {public: {listen: ':1'}}
upstreams: {one: {endpoints: ['one:1']}, two: {endpoints: ['two:1']}, three: {endpoints: ['three:1']}}
routes:
  products:
    match: {prefix: /}
    versions:
      by: [path, header, accept, query, subdomain]
      default: v2
      strip: true
      of:
        v1: {upstream: one, lifecycle: {deprecated: 2020-01-01, sunset: 2090-01-01, successor: v2, docs: 'https://dev.example/v1'}, rate_limit: {rate: 3/m}}
        v2: {upstream: two, aliases: [stable]}
        v3: {upstream: three, rewrite: {path: /new}}
        v0: {upstream: one, lifecycle: {sunset: 2021-01-01, successor: v2}}
        v9: {upstream: three, lifecycle: {since: 2090-01-01}}
  versions: {match: {path: /versions}, list_versions: [products]}
";

const ONE_NAME: &str = "
listeners: {public: {listen: ':1'}}
upstreams: {one: {endpoints: ['one:1']}, two: {endpoints: ['two:1']}, three: {endpoints: ['three:1']}}
policies: {shop: {rate_limit: {rate: 3/m}}}
routes:
  shop: {match: {prefix: /}, use: [shop], versions: {by: [header], default: v1, of: {v1: {upstream: one}, v2: {upstream: two}}}}
";

/// Bug: a route with versions and a policy of its name were one in the metrics.
#[tokio::test(start_paused = true)]
async fn versions_of_a_route_and_a_policy_of_its_name_are_counted_apart() {
    let Shop { gateway, upstreams: _upstreams } = shop(ONE_NAME);
    assert_eq!(gateway.send(get("/tea")).await.status(), 200);
    assert_eq!(gateway.send(with("/tea", &[("x-api-version", "v7")])).await.status(), 400);
    let decided = |policy: &str, outcome: &str| {
        gateway.metric(&format!("naka_policy_decisions_total{{policy=\"{policy}\",outcome=\"{outcome}\"}}"))
    };
    assert_eq!((decided("shop", "admitted"), decided("shop", "rejected")), (Some(2.0), Some(0.0)));
    let of_versions = (decided("shop/versions", "admitted"), decided("shop/versions", "rejected"));
    assert_eq!(of_versions, (Some(1.0), Some(1.0)));
    // They are kept over a reload, and go with the route.
    gateway.reload(&ONE_NAME.replace("3/m", "30/m")).unwrap();
    assert_eq!(decided("shop/versions", "admitted"), Some(1.0));
}

const BEHIND: &str = "
listeners: {public: {listen: ':1'}}
upstreams: {one: {endpoints: ['one:1']}, two: {endpoints: ['two:1']}, three: {endpoints: ['three:1']}}
routes:
  api:
    match: {prefix: /shop/api}
    versions: {by: [path], strip: true, default: v1, of: {v1: {upstream: one}, v2: {upstream: two}}}
";

/// A prefix is there in every request: the version is what comes behind it.
#[tokio::test(start_paused = true)]
async fn r11_1_a_version_in_the_path_stands_behind_the_prefix() {
    let Shop { gateway, upstreams } = shop(BEHIND);
    for (target, status, at, expected) in [
        ("/shop/api/v2/tea", 200, 1, "/shop/api/tea"),
        ("/shop/api/v1/tea", 200, 0, "/shop/api/tea"),
        ("/shop/api/tea", 200, 0, "/shop/api/tea"),
    ] {
        assert_eq!(gateway.send(get(target)).await.status(), status, "{target}");
        assert_eq!(upstreams[at].last().line, format!("GET {expected} HTTP/1.1"), "{target}");
    }
    assert_eq!(said(&gateway.send(get("/shop/api/v9/tea")).await), (400, "version_unsupported".into()));
}

/// Target, headers, status, and the upstream or the reason.
type Asked<'a> = (&'a str, &'a [(&'a str, &'a str)], u16, &'a str);

struct Shop {
    gateway: Inside,
    upstreams: [Upstream; 3],
}

fn shop(yaml: &str) -> Shop {
    let gateway = Inside::new(yaml);
    let upstreams =
        ["one:1", "two:1", "three:1"].map(|name| Upstream::inside(&gateway.network, name, move |_| ok(name)));
    Shop { gateway, upstreams }
}

fn with(target: &str, headers: &[(&str, &str)]) -> Request<Full<Bytes>> {
    let mut request = get(target);
    for (name, value) in headers {
        request.headers_mut().insert(name.parse::<http::HeaderName>().unwrap(), value.parse().unwrap());
    }
    request
}

fn said(response: &Response<Bytes>) -> (u16, String) {
    let reason = response.headers().get("naka-reason").map(|reason| reason.to_str().unwrap().to_owned());
    (
        response.status().as_u16(),
        reason.unwrap_or_else(|| String::from_utf8_lossy(response.body()).into_owned()),
    )
}

fn field<'r>(response: &'r Response<Bytes>, name: &str) -> Option<&'r str> {
    response.headers().get(name).map(|value| value.to_str().unwrap())
}

#[tokio::test(start_paused = true)]
async fn r11_1_each_place_says_which_version_and_two_that_differ_are_refused() {
    let shop = shop(SHOP);
    let table: [Asked<'_>; 18] = [
        ("/products", &[], 200, "two:1"),
        ("/v1/products", &[], 200, "one:1"),
        ("/V2.0/products", &[], 200, "two:1"),
        ("/products", &[("x-api-version", "3")], 200, "three:1"),
        ("/products", &[("x-api-version", "stable")], 200, "two:1"),
        ("/products?version=3.0", &[], 200, "three:1"),
        ("/products", &[("accept", "application/vnd.shop.v3+json")], 200, "three:1"),
        (
            "/products",
            &[("accept", "application/json;version=\"3\";q=0.5, application/json;version=2;q=0.9")],
            200,
            "two:1",
        ),
        ("/products", &[("accept", "application/json, */*;q=0.1")], 200, "two:1"),
        ("/products", &[("host", "v3.api.example")], 200, "three:1"),
        ("/v2/products?version=2", &[("x-api-version", "v2")], 200, "two:1"),
        ("/v2/products?version=1", &[("x-api-version", "v3")], 400, "version_conflict"),
        ("/products", &[("x-api-version", "7")], 400, "version_unsupported"),
        ("/v7/products", &[], 400, "version_unsupported"),
        ("/products", &[("accept", "application/vnd.shop.v7+json")], 406, "version_not_acceptable"),
        ("/products", &[("x-api-version", "v9")], 400, "version_unsupported"),
        ("/v0/products", &[], 410, "version_gone"),
        ("/products", &[("host", "v0.api.example")], 410, "version_gone"),
    ];
    for (target, headers, status, expected) in table {
        let answer = shop.gateway.send(with(target, headers)).await;
        assert_eq!(said(&answer), (status, expected.to_owned()), "{target} {headers:?}");
    }
    let precedence = SHOP.replace("default: v2", "default: v2\n      on_conflict: first");
    shop.gateway.reload(&precedence).unwrap();
    let answer = shop.gateway.send(with("/v2/products?version=3", &[])).await;
    assert_eq!(said(&answer), (200, "two:1".into()), "the first place counts");
}

#[tokio::test(start_paused = true)]
async fn r11_2_what_does_not_exist_is_told_what_does_and_what_is_gone_its_successor() {
    let shop = shop(SHOP);
    let unsupported = shop.gateway.send(with("/products", &[("x-api-version", "7")])).await;
    let body = String::from_utf8_lossy(unsupported.body()).into_owned();
    assert!(
        body.contains("v1") && body.contains("v2") && body.contains("v3") && !body.contains("v9"),
        "{body}"
    );
    let gone = shop.gateway.send(get("/v0/products/7?a=b")).await;
    let links = gone.headers().get_all("link").iter().map(|link| link.to_str().unwrap()).collect::<Vec<_>>();
    assert!(links.contains(&"</v2/products/7?a=b>; rel=\"successor-version\""), "{links:?}");
    let unpinned = SHOP.replace("      default: v2\n", "");
    shop.gateway.reload(&unpinned).unwrap();
    assert_eq!(
        said(&shop.gateway.send(get("/products")).await),
        (400, "version_unsupported".into()),
        "no default"
    );
}

#[tokio::test(start_paused = true)]
async fn r11_3_a_version_has_an_upstream_a_rewrite_and_a_rate_limit() {
    let shop = shop(SHOP);
    let [one, two, three] = &shop.upstreams;
    shop.gateway.send(get("/v1/products/7?a=b")).await;
    assert_eq!(one.last().target(), "/products/7?a=b", "the version is taken away");
    shop.gateway.send(get("/products/7")).await;
    assert_eq!(two.last().target(), "/products/7");
    shop.gateway.send(get("/v3/products/7")).await;
    assert_eq!(three.last().target(), "/new");
    let mut statuses = Vec::new();
    for _ in 0..3 {
        statuses.push(shop.gateway.send(get("/v1/products")).await.status().as_u16());
    }
    assert_eq!(statuses, [200, 200, 429], "its own limit");
    assert_eq!(shop.gateway.send(get("/v2/products")).await.status(), 200, "and nobody else's");
    // A reload that touches another version refills nothing.
    shop.gateway.reload(&SHOP.replace("rewrite: {path: /new}", "rewrite: {path: /newer}")).unwrap();
    assert_eq!(shop.gateway.send(get("/v1/products")).await.status(), 429);
    shop.gateway.send(get("/v3/products/7")).await;
    assert_eq!(three.last().target(), "/newer");
}

#[tokio::test(start_paused = true)]
async fn r11_4_the_life_of_a_version_is_told_with_the_same_resource_in_its_successor() {
    let shop = shop(SHOP);
    let old = shop.gateway.send(get("/v1/products/7")).await;
    assert_eq!(field(&old, "deprecation"), Some("@1577836800"));
    assert_eq!(field(&old, "sunset"), Some("Sun, 01 Jan 2090 00:00:00 GMT"));
    let links = old
        .headers()
        .get_all("link")
        .iter()
        .map(|link| link.to_str().unwrap())
        .collect::<Vec<_>>()
        .join(", ");
    for expected in [
        "</v2/products/7>; rel=\"successor-version\"",
        "https://dev.example/v1",
        "rel=\"deprecation",
        "sunset",
    ] {
        assert!(links.contains(expected), "{expected}: {links}");
    }
    let new = shop.gateway.send(get("/v2/products/7")).await;
    assert_eq!(["deprecation", "sunset", "link"].map(|name| field(&new, name)), [None; 3]);
    let off = SHOP.replace(
        "v2: {upstream: two",
        "v2: {upstream: two, lifecycle: {brownouts: [{from: 2020-01-01, until: 2090-01-01}]}",
    );
    shop.gateway.reload(&off).unwrap();
    let brown = shop.gateway.send(get("/v2/products/7")).await;
    assert_eq!(said(&brown), (503, "version_brownout".into()));
    assert!(brown.headers().contains_key("retry-after"));
}

#[tokio::test(start_paused = true)]
async fn r11_5_caches_are_told_what_decided_and_clients_what_they_got() {
    let shop = shop(SHOP);
    for (target, version) in [("/products", "v2"), ("/v3/products", "v3")] {
        let answer = shop.gateway.send(get(target)).await;
        assert_eq!(field(&answer, "x-api-version"), Some(version));
        let vary = answer
            .headers()
            .get_all("vary")
            .iter()
            .map(|it| it.to_str().unwrap())
            .collect::<Vec<_>>()
            .join(", ");
        let vary = vary.to_ascii_lowercase();
        assert!(vary.contains("x-api-version") && vary.contains("accept"), "{vary}");
    }
    let refused = shop.gateway.send(get("/v7/products")).await;
    assert!(refused.headers().contains_key("vary"));
}

async fn admin(shop: &Shop, path: &str) -> serde_json::Value {
    let (mut ours, theirs) = tokio::io::duplex(64 << 10);
    tokio::spawn(naka_gateway::admin::serve_connection(
        shop.gateway.admin(),
        naka_gateway::admin::Way::Socket,
        theirs,
    ));
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    ours.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    ours.read_to_string(&mut answer).await.unwrap();
    let body = answer.split("\r\n\r\n").nth(1).unwrap();
    serde_json::from_str(body).unwrap()
}

#[tokio::test(start_paused = true)]
async fn r11_6_who_uses_which_version_is_counted_and_survives_reloads() {
    let shop = shop(SHOP);
    for _ in 0..99 {
        shop.gateway.send(get("/v2/products")).await;
    }
    shop.gateway.send(get("/v1/products")).await;
    let expected = |usage: &serde_json::Value| {
        assert_eq!((&usage["v1"]["requests_7d"], &usage["v2"]["requests_7d"]), (&1.into(), &99.into()));
        assert_eq!(usage["v1"]["share_7d"], "1.00 %");
        assert_eq!(
            [&usage["v1"], &usage["v2"]].map(|it| it["safe_to_retire"].as_bool()),
            [Some(false), Some(false)],
            "who asks once a week has not been heard yet"
        );
        assert_eq!(usage["v1"]["consumers"][0]["consumer"], "192.0.2.1");
    };
    expected(&admin(&shop, "/versions").await["products"]["usage"]["versions"]);
    shop.gateway.reload(&SHOP.replace("sunset: 2090-01-01", "sunset: 2089-01-01")).unwrap();
    expected(&admin(&shop, "/versions").await["products"]["usage"]["versions"]);
}

/// What was counted is known for as long as days are, wherever the route was meanwhile.
#[tokio::test(start_paused = true)]
async fn use_is_known_as_long_as_it_is_counted_when_a_route_comes_back() {
    let shop = shop(SHOP);
    shop.gateway.send(get("/v1/products")).await;
    let away = "
listeners: {public: {listen: ':1'}}
routes: {other: {match: {path: /other}, respond: {body: other}}}
";
    shop.gateway.reload(away).unwrap();
    tokio::time::advance(Duration::from_hours(29 * 24)).await;
    assert!(!shop.gateway.generation().state.versions.has_expired(Instant::now()));
    shop.gateway.reload(SHOP).unwrap();
    let usage = admin(&shop, "/versions").await["products"]["usage"]["versions"].clone();
    assert_eq!(usage["v1"]["consumers"][0]["requests"], 1, "{usage}");
}

#[tokio::test(start_paused = true)]
async fn r11_8_the_list_of_versions_is_that_of_the_table_in_force() {
    let shop = shop(SHOP);
    let listed = async || {
        let answer = shop.gateway.send(get("/versions")).await;
        assert_eq!(field(&answer, "content-type"), Some("application/json"));
        serde_json::from_slice::<serde_json::Value>(answer.body()).unwrap()["products"].clone()
    };
    let before = listed().await;
    assert_eq!(before["default"], "v2");
    let states =
        ["v0", "v1", "v2", "v9"].map(|name| before["versions"][name]["state"].as_str().unwrap().to_owned());
    assert_eq!(states, ["sunset", "deprecated", "active", "planned"]);
    assert_eq!(before["versions"]["v1"]["sunset"], "2090-01-01T00:00:00Z");
    assert_eq!(before["versions"]["v2"]["aliases"][0], "stable");
    shop.gateway
        .reload(
            &SHOP
                .replace("default: v2", "default: v3")
                .replace("2090-01-01, successor", "2085-01-01, successor"),
        )
        .unwrap();
    let after = listed().await;
    assert_eq!(
        (&after["default"], &after["versions"]["v1"]["sunset"]),
        (&"v3".into(), &"2085-01-01T00:00:00Z".into())
    );
    assert_eq!(said(&shop.gateway.send(get("/products")).await), (200, "three:1".into()));
}

/// What explain says of versions is what happens, with the upstream and the limit of the one that is meant.
#[tokio::test(start_paused = true)]
async fn explain_follows_the_version() {
    let shop = shop(SHOP);
    let ask = |target: &str| shop.gateway.explain(&format!("http://api.example{target}"), &[]);
    let old = ask("/v1/products/7");
    assert_eq!(old.verdict, Verdict::Sent, "{old}");
    let forwarded = old.forwarded.as_ref().unwrap();
    assert_eq!((&*forwarded.upstream, &*forwarded.request_line), ("one", "GET /products/7"), "{old}");
    assert!(old.to_string().contains("3 of 3 left"), "{old}");
    for _ in 0..3 {
        shop.gateway.send(get("/v1/products")).await;
    }
    assert!(ask("/v1/products").to_string().contains("429 rate_limited"));
    assert!(ask("/v7/products").to_string().contains("400 version_unsupported"));
    let tests = "
tests:
  - {request: 'GET http://api.example/v3/products', expect: {route: products, upstream: three, path: /new}}
  - {request: 'GET http://api.example/v0/products', expect: {status: 410}}
  - {request: 'GET http://api.example/versions', expect: {route: versions, status: 200}}
";
    shop.gateway.reload(&format!("{SHOP}{tests}")).unwrap();
}
