//! Answers that are composed of those of several upstreams, through the whole gateway.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use naka_gateway::{ask::Asked, explain::Verdict, limits::limits};
use naka_testkit::{
    token::hs256,
    upstream::{Seen, Step, Upstream, answer},
};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::inside::{Inside, get};

const JSON: &str = "content-type: application/json\r\n";

/// The example of the grammar, as it is written.
const DETAILS: &str = r#"
listeners: {public: {listen: ":1"}}
upstreams:
  orders: {endpoints: ["orders:1"]}
  users: {endpoints: ["users:1"]}
  products: {endpoints: ["products:1"]}
  delivery: {endpoints: ["delivery:1"]}
routes:
  order-details:
    match: {path: "/api/orders/{id}/details", methods: [GET]}
    timeouts: {total: 2s}
    compose:
      calls:
        order: {upstream: orders, path: "/api/orders/{id}"}
        buyer: {upstream: users, path: "/api/users/{order.body.user_id}"}
        items: {upstream: products, path: "/api/products?ids={order.body.items.*.product_id}", max_values: 50}
        ship: {upstream: delivery, path: "/track/{id}", required: false, default: null, timeouts: {total: 300ms}}
      body: {order: "{order.body}", buyer: "{buyer.body}", items: "{items.body}", tracking: "{ship.body}"}
tests:
  - {request: "GET http://a.example/api/orders/7/details", expect: {route: order-details}}
  - {request: "POST http://a.example/api/orders/7/details", expect: {status: 405}}
"#;

const ORDER: &str = r#"{"id": 7, "user_id": "asha", "total": 18446744073709551616.10, "items": [{"product_id": 3}, {"product_id": 5}, {"product_id": 3}]}"#;

/// That answer, after a while.
fn after(ms: u64, body: &str) -> Vec<Step> {
    let mut steps = answer(200, JSON, body);
    steps.insert(1, Step::Wait(Duration::from_millis(ms)));
    steps
}

/// Four services; each may be told to do something else.
struct Shop {
    gateway: Inside,
    orders: Upstream,
    users: Upstream,
    products: Upstream,
    delivery: Upstream,
}

type Script = Box<dyn Fn(&Seen) -> Option<Vec<Step>> + Send + Sync>;

fn shop(yaml: &str, else_do: impl Fn(&str, &Seen) -> Option<Vec<Step>> + Send + Sync + 'static) -> Shop {
    let gateway = Inside::new(yaml);
    let else_do = Arc::new(else_do);
    let of = |name: &'static str| -> Script {
        let else_do = Arc::clone(&else_do);
        Box::new(move |seen| else_do(name, seen))
    };
    let upstream = |name: &'static str, body: &'static str| {
        let script = of(name);
        let place = format!("{name}:1");
        Upstream::inside(&gateway.network, &place, move |seen| {
            script(seen).unwrap_or_else(|| after(100, body))
        })
    };
    let orders = upstream("orders", ORDER);
    let users = upstream("users", r#"{"name": "Asha"}"#);
    let products = upstream("products", r#"[{"id": 3}, {"id": 5}]"#);
    let delivery = upstream("delivery", r#"{"state": "on its way"}"#);
    Shop { gateway, orders, users, products, delivery }
}

fn details() -> Request<Full<Bytes>> {
    get("/api/orders/7/details")
}

fn value(response: &Response<Bytes>) -> Value {
    serde_json::from_slice(response.body())
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(response.body())))
}

fn says(headers: &HeaderMap, name: &str) -> String {
    headers.get(name).map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default()
}

/// Waits until it is so, in virtual time.
async fn until(what: &str, is_so: impl Fn() -> bool) {
    for _ in 0..10_000 {
        if is_so() {
            return;
        }
        sleep(Duration::from_millis(1)).await;
    }
    panic!("not until now: {what}");
}

#[tokio::test(start_paused = true)]
async fn r13_1_an_order_with_its_buyer_items_and_parcel_is_one_answer() {
    let Shop { gateway, orders, users, products, delivery } = shop(DETAILS, |_, _| None);
    let mut client = gateway.client().await;
    let began = Instant::now();
    let response = client.send(details()).await;
    assert_eq!(response.status(), 200);
    assert_eq!(says(response.headers(), "content-type"), "application/json");
    // To the letter: no number is read and written again.
    let expected = format!(
        r#"{{"order":{ORDER},"buyer":{{"name": "Asha"}},"items":[{{"id": 3}}, {{"id": 5}}],"tracking":{{"state": "on its way"}}}}"#
    );
    assert_eq!(std::str::from_utf8(response.body()).unwrap(), expected);
    assert_eq!(users.last().target(), "/api/users/asha");
    assert_eq!(products.last().target(), "/api/products?ids=3,5", "one call for all of them, each once");
    assert_eq!((orders.requests(), products.requests(), delivery.requests()), (1, 1, 1));
    assert!(began.elapsed() < Duration::from_millis(250), "two waves of 100 ms: {:?}", began.elapsed());
    let counted = |call: &str, outcome: &str| {
        gateway.metric(&format!(
            "naka_compose_calls_total{{route=\"order-details\",call=\"{call}\",outcome=\"{outcome}\"}}"
        ))
    };
    assert_eq!((counted("order", "answered"), counted("ship", "failed")), (Some(1.0), Some(0.0)));
    assert_eq!(
        gateway.metric("naka_upstream_requests_total{upstream=\"products\",outcome=\"2xx\"}"),
        Some(1.0)
    );
}

#[tokio::test(start_paused = true)]
async fn r13_2_three_parts_of_100_ms_are_asked_at_once() {
    const HOME: &str = r#"
listeners: {public: {listen: ":1"}}
upstreams: {users: {endpoints: ["users:1"]}, orders: {endpoints: ["orders:1"]}, products: {endpoints: ["products:1"]}}
routes:
  home:
    match: {path: /home}
    compose:
      calls:
        user: {upstream: users, path: /me}
        orders: {upstream: orders, path: "/orders?city={query.city}"}
        products: {upstream: products, path: "/top?of={host}"}
"#;
    let Shop { gateway, orders, users, products, .. } = shop(HOME, |_, _| None);
    let mut client = gateway.client().await;
    let asking = tokio::spawn(async move {
        let began = Instant::now();
        (client.send(get("/home?city=New+Delhi&x=1")).await, began.elapsed())
    });
    until("all three are asked", || orders.working() + users.working() + products.working() == 3).await;
    let (response, took) = asking.await.unwrap();
    assert_eq!(response.status(), 200);
    assert!(took < Duration::from_millis(200), "100 ms of virtual time, and not 300: {took:?}");
    assert_eq!(orders.last().target(), "/orders?city=New%20Delhi");
    assert_eq!(products.last().target(), "/top?of=api.example");
    assert_eq!(value(&response)["user"], json!({"name": "Asha"}), "without a `body` each is under its name");
    let mut client = gateway.client().await;
    let response = client.send(get("/home")).await;
    let said = value(&response);
    assert_eq!(
        (response.status().as_u16(), &said["reason"], &said["call"]),
        (400, &json!("value_missing"), &json!("orders"))
    );
    let response =
        client.send(Request::post("/home?city=x").header("host", "a").body(Full::default()).unwrap()).await;
    assert_eq!((response.status().as_u16(), says(response.headers(), "allow").contains("GET")), (405, true));
    let head = Request::head("/home?city=x").header("host", "a").body(Full::default()).unwrap();
    let response = client.send(head).await;
    assert_eq!((response.status().as_u16(), response.body().len()), (200, 0));
    assert_ne!(says(response.headers(), "content-length"), "0", "as long as what `GET` would have");
}

#[tokio::test(start_paused = true)]
async fn r13_3_an_optional_part_that_hangs_or_fails_leaves_a_partial_answer() {
    let hangs = Arc::new(AtomicBool::new(true));
    let is_hanging = Arc::clone(&hangs);
    let shop = shop(DETAILS, move |name, _| {
        let fails = || if is_hanging.load(SeqCst) { vec![Step::Hang] } else { answer(503, "", "secret") };
        (name == "delivery").then(fails)
    });
    let mut client = shop.gateway.client().await;
    let began = Instant::now();
    let response = client.send(details()).await;
    assert!(began.elapsed() < Duration::from_millis(400), "its own time is over: {:?}", began.elapsed());
    assert_eq!((response.status().as_u16(), says(response.headers(), "naka-partial")), (200, "ship".into()));
    assert_eq!(says(response.headers(), "cache-control"), "no-store");
    let said = value(&response);
    assert_eq!((&said["tracking"], &said["buyer"]["name"]), (&Value::Null, &json!("Asha")));
    assert_eq!(
        (&said["errors"][0]["call"], &said["errors"][0]["reason"]),
        (&json!("ship"), &json!("response_timeout"))
    );
    assert_eq!(said["errors"][0]["status"], 504);
    until("the part is given up", || shop.delivery.working() <= 1).await;
    hangs.store(false, SeqCst);
    let response = client.send(details()).await;
    let text = String::from_utf8(response.body().to_vec()).unwrap();
    assert!(
        text.contains(r#""status":502,"reason":"part_failed","detail":"It was answered with 503.""#),
        "{text}"
    );
    assert!(!text.contains("secret"));
}

#[tokio::test(start_paused = true)]
async fn r13_3_a_required_part_that_fails_keeps_its_status_and_cancels_the_others() {
    for (status, expected) in [
        (404, 404),
        (403, 403),
        (401, 401),
        (409, 409),
        (410, 410),
        (422, 422),
        (429, 429),
        (500, 502),
        (302, 502),
    ] {
        let headers = "www-authenticate: Bearer realm=\"orders\"\r\nretry-after: 7\r\nlocation: /x\r\n";
        let shop = shop(DETAILS, move |name, _| match name {
            "orders" => Some(answer(status, headers, "{\"secret\": 1}")),
            _ => Some(vec![Step::Hang]),
        });
        let mut client = shop.gateway.client().await;
        let response = client.send(details()).await;
        let said = value(&response);
        assert_eq!(response.status().as_u16(), expected, "{status}: {said}");
        assert_eq!(says(response.headers(), "content-type"), "application/problem+json");
        assert_eq!((&said["reason"], &said["call"]), (&json!("part_failed"), &json!("order")));
        assert!(said["detail"].as_str().unwrap().contains("`order`") && !said.to_string().contains("secret"));
        assert_eq!(says(response.headers(), "www-authenticate").is_empty(), expected != 401);
        assert_eq!(says(response.headers(), "retry-after"), if expected == 429 { "7" } else { "" });
        assert!(says(response.headers(), "location").is_empty());
    }
}

/// A part that is being received when all is over gives its place back, and its connection is closed.
#[tokio::test(start_paused = true)]
async fn r13_2_a_part_that_is_dropped_half_way_gives_its_place_back() {
    let yaml = DETAILS.replace(
        r#"users: {endpoints: ["users:1"]}"#,
        r#"users: {endpoints: ["users:1"], bulkhead: {max: 1, queue: 0}}"#,
    );
    let is_endless = Arc::new(AtomicBool::new(true));
    let now = Arc::clone(&is_endless);
    let shop = shop(&yaml, move |name, _| {
        let head = format!("HTTP/1.1 200 OK\r\n{JSON}content-length: 9999999\r\n\r\n[");
        let endless = || vec![Step::ReadBody, Step::send(head), Step::Hang];
        (name == "users" && now.load(SeqCst)).then(endless)
    });
    let mut client = shop.gateway.client().await;
    assert_eq!(client.send(details()).await.status(), 502, "it says beforehand that it is too large");
    is_endless.store(false, SeqCst);
    let response = client.send(details()).await;
    assert_eq!(response.status(), 200, "the place came back: {:?}", response.body());
    assert_eq!(shop.users.connections(), 2, "what was left of the part is not read");
}

#[tokio::test(start_paused = true)]
async fn r13_2_what_hangs_past_the_deadline_is_cancelled_with_all_the_rest() {
    let yaml = DETAILS.replace(
        r#"users: {endpoints: ["users:1"]}"#,
        r#"users: {endpoints: ["users:1"], bulkhead: {max: 1, queue: 0}}"#,
    );
    let hangs = Arc::new(AtomicBool::new(true));
    let is_hanging = Arc::clone(&hangs);
    let shop = shop(&yaml, move |name, _| {
        (name == "users" && is_hanging.load(SeqCst))
            .then(|| vec![Step::ReadBody, Step::Wait(Duration::from_mins(1))])
    });
    let mut client = shop.gateway.client().await;
    let began = Instant::now();
    let response = client.send(details()).await;
    assert_eq!((response.status().as_u16(), &value(&response)["reason"]), (504, &json!("total_timeout")));
    assert_eq!(began.elapsed().as_secs(), 2);
    // The client goes in the middle.
    let mut other = shop.gateway.client().await;
    let asking = tokio::spawn(async move { other.send(details()).await });
    until("the buyer is asked for", || shop.users.requests() == 2).await;
    asking.abort();
    hangs.store(false, SeqCst);
    let cancelled = || {
        let labels = "route=\"order-details\",call=\"buyer\",outcome=\"cancelled\"";
        shop.gateway.metric(&format!("naka_compose_calls_total{{{labels}}}")) == Some(2.0)
    };
    until("both calls are given up", cancelled).await;
    let response = client.send(details()).await;
    assert_eq!(response.status(), 200, "the place came back");
}

#[tokio::test(start_paused = true)]
async fn r13_4_a_part_that_is_too_large_or_not_what_was_asked_for_has_failed() {
    let yaml = DETAILS.replace("      calls:", "      max_part: 1KiB\n      calls:");
    let which = Arc::new(std::sync::Mutex::new("large"));
    let now = Arc::clone(&which);
    let large = "\"".to_owned() + &"x".repeat(1024) + "\"";
    let shop = shop(&yaml, move |name, seen| {
        assert_eq!(seen.header("accept-encoding"), Some("identity"));
        (name == "delivery").then(|| match *now.lock().unwrap() {
            "large" => answer(200, JSON, &large),
            // Without a length.
            "endless" => vec![
                Step::ReadBody,
                Step::send(format!("HTTP/1.1 200 OK\r\n{JSON}transfer-encoding: chunked\r\n\r\n100000\r\n")),
                Step::Fill(1 << 20),
                Step::Hang,
            ],
            "html" => answer(200, "content-type: text/html\r\n", "<p>"),
            "gzip" => answer(200, &format!("{JSON}content-encoding: gzip\r\n"), "\x1f\u{8b}"),
            "cut" => vec![
                Step::ReadBody,
                Step::send(format!("HTTP/1.1 200 OK\r\n{JSON}content-length: 9\r\n\r\n[1,")),
                Step::Close,
            ],
            _ => answer(200, JSON, "[1,]"),
        })
    });
    let mut client = shop.gateway.client().await;
    for (what, reason) in [
        ("large", "part_too_large"),
        ("endless", "part_too_large"),
        ("html", "part_not_json"),
        ("gzip", "part_not_json"),
        ("cut", "part_failed"),
        ("broken", "part_not_json"),
    ] {
        *which.lock().unwrap() = what;
        let mut request = details();
        request.headers_mut().insert("accept-encoding", "gzip, br".parse().unwrap());
        let response = client.send(request).await;
        assert_eq!(
            (response.status().as_u16(), &value(&response)["errors"][0]["reason"]),
            (200, &json!(reason)),
            "{what}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn r13_4_the_answer_as_a_whole_is_bounded_and_counts_among_what_is_held() {
    let yaml = DETAILS.replace("      calls:", "      max_body: 64B\n      calls:");
    let shop = shop(&yaml, |_, _| None);
    let response = shop.gateway.send(details()).await;
    assert_eq!(
        (response.status().as_u16(), &value(&response)["reason"]),
        (502, &json!("response_too_large"))
    );
    shop.gateway
        .reload(&DETAILS.replace("listeners:", "gateway: {limits: {buffered: 64B}}\nlisteners:"))
        .unwrap();
    let response = shop.gateway.send(details()).await;
    assert_eq!((response.status().as_u16(), &value(&response)["reason"]), (503, &json!("buffers_full")));
    shop.gateway.reload(DETAILS).unwrap();
    assert_eq!(shop.gateway.send(details()).await.status(), 200);
    until("all is given back", || shop.gateway.generation().state.held.bytes() == 0).await;
    let bounds = limits(&shop.gateway.generation());
    let row = bounds.iter().find(|bound| bound.what == "parts and answers of compositions").unwrap();
    assert_eq!((&*row.of, row.each, row.is_held), ("order-details", Some(8 << 20), true));
}

#[tokio::test(start_paused = true)]
async fn r13_4_what_two_calls_ask_for_is_asked_once() {
    let yaml = DETAILS.replace(
        "      body:",
        "        seller: {upstream: users, path: \"/api/users/{order.body.user_id}\", required: false}\n      body:",
    );
    let yaml =
        yaml.replace("tracking: \"{ship.body}\"}", "tracking: \"{ship.body}\", seller: \"{seller.body}\"}");
    let shop = shop(&yaml, |_, _| None);
    let response = shop.gateway.send(details()).await;
    let said = value(&response);
    assert_eq!((&said["buyer"], &said["seller"]), (&json!({"name": "Asha"}), &json!({"name": "Asha"})));
    assert_eq!(shop.users.requests(), 1);
    let labels = "route=\"order-details\",call=\"seller\",outcome=\"shared\"";
    assert_eq!(shop.gateway.metric(&format!("naka_compose_calls_total{{{labels}}}")), Some(1.0));
}

/// What a backend or a client says never leads to another path.
#[tokio::test(start_paused = true)]
async fn r13_4_no_value_leads_to_another_path() {
    let id = Arc::new(std::sync::Mutex::new(String::new()));
    let now = Arc::clone(&id);
    let shop = shop(DETAILS, move |name, _| {
        let order = json!({"user_id": *now.lock().unwrap(), "items": [{"product_id": "1&admin=1"}]});
        (name == "orders").then(|| answer(200, JSON, &order.to_string()))
    });
    let mut client = shop.gateway.client().await;
    for bad in ["../admin", "..", ".", "", "a/b", "a\\b", "a\r\nx: y", "\0"] {
        bad.clone_into(&mut id.lock().unwrap());
        let response = client.send(details()).await;
        let said = value(&response);
        assert_eq!(
            (response.status().as_u16(), &said["reason"], &said["call"]),
            (502, &json!("value_refused"), &json!("buyer")),
            "{bad:?}"
        );
        assert_eq!(shop.users.requests(), 0, "{bad:?}");
    }
    for (value, target) in [
        ("a?b#c", "/api/users/a%3Fb%23c"),
        ("%2e%2e%2f", "/api/users/%252e%252e%252f"),
        ("ü ;", "/api/users/%C3%BC%20%3B"),
    ] {
        value.clone_into(&mut id.lock().unwrap());
        assert_eq!(client.send(details()).await.status(), 200);
        assert_eq!(shop.users.last().target(), target);
        assert_eq!(shop.products.last().target(), "/api/products?ids=1%26admin%3D1");
    }
    let seen = shop.orders.requests();
    for target in
        ["/api/orders/..%2f..%2fadmin/details", "/api/orders/%2e%2e/details", "/api/orders/a%5cb/details"]
    {
        assert_eq!(client.send(get(target)).await.status(), 400, "{target}");
    }
    assert_eq!(shop.orders.requests(), seen);
    assert_eq!(client.send(get("/api/orders/a%20b%3F/details")).await.status(), 200);
    assert_eq!(
        shop.orders.last().target(),
        "/api/orders/a%20b%3F",
        "what was encoded is once, and not twice"
    );
}

#[tokio::test(start_paused = true)]
async fn r13_5_calls_leave_alone_an_endpoint_whose_breaker_is_open() {
    let yaml = DETAILS.replace(
        r#"users: {endpoints: ["users:1"]}"#,
        r#"users: {endpoints: ["users:1", "users:2"], circuit_breaker: {consecutive: 1, open: 60s, max_ejected: 50%}}"#,
    );
    let shop = shop(&yaml, |name, _| (name == "users").then(|| answer(500, "", "")));
    let other = Upstream::inside(&shop.gateway.network, "users:2", |_| answer(200, JSON, "{}"));
    let mut client = shop.gateway.client().await;
    let mut failed = 0;
    for _ in 0..10 {
        failed += u32::from(client.send(details()).await.status() == 502);
    }
    assert_eq!((failed, shop.users.requests(), other.requests()), (1, 1, 9));
}

/// A breaker of a call hears of what hangs, and then nobody is asked and nobody waits.
#[tokio::test(start_paused = true)]
async fn r13_5_a_call_whose_breaker_is_open_fails_at_once_with_its_reason() {
    let yaml = DETAILS.replace(
        "timeouts: {total: 300ms}}",
        "timeouts: {total: 300ms}, circuit_breaker: {consecutive: 2, open: 60s}}",
    );
    let shop = shop(&yaml, |name, _| (name == "delivery").then(|| vec![Step::Hang]));
    let mut client = shop.gateway.client().await;
    let mut reasons = Vec::new();
    for _ in 0..3 {
        let response = client.send(details()).await;
        assert_eq!(response.status(), 200);
        let reason = &value(&response)["errors"][0]["reason"];
        reasons.push(reason.as_str().unwrap().to_owned());
    }
    assert_eq!(
        (reasons, shop.delivery.requests()),
        (vec!["response_timeout".into(), "response_timeout".into(), "circuit_open".to_owned()], 2)
    );
    let explained = shop.gateway.explain("GET http://api.example/api/orders/7/details", &[]).to_string();
    assert!(explained.contains("null if it fails; total 300ms; would fail: circuit_open"), "{explained}");
    // Required, it is the answer; and it is open over a reload.
    shop.gateway.reload(&yaml.replace("required: false, default: null, ", "")).unwrap();
    let response = client.send(details()).await;
    let said = value(&response);
    assert_eq!(
        (response.status().as_u16(), &said["reason"], &said["call"]),
        (503, &json!("circuit_open"), &json!("ship"))
    );
    assert_eq!(said["policy"], "order-details/ship/circuit_breaker");
}

/// Each call takes a place of its upstream, and what is full is said with its own reason.
#[tokio::test(start_paused = true)]
async fn r13_3_a_full_bulkhead_of_one_part_keeps_its_reason() {
    let yaml = DETAILS.replace(
        r#"users: {endpoints: ["users:1"]}"#,
        r#"users: {endpoints: ["users:1"], bulkhead: {max: 1, queue: 0}}"#,
    );
    let shop = shop(&yaml, |name, _| (name == "users").then(|| after(500, "{}")));
    let mut first = shop.gateway.client().await;
    let asking = tokio::spawn(async move { first.send(details()).await.status() });
    until("the place is taken", || shop.users.working() == 1).await;
    let response = shop.gateway.send(details()).await;
    let said = value(&response);
    assert_eq!(
        (response.status().as_u16(), &said["reason"], &said["call"]),
        (503, &json!("bulkhead_full"), &json!("buyer"))
    );
    assert_eq!(asking.await.unwrap(), 200);
    let explained = shop.gateway.explain("GET http://api.example/api/orders/7/details", &[]);
    assert!(explained.calls.iter().all(|call| call.refused.is_none()), "{explained}");
}

#[tokio::test(start_paused = true)]
async fn r13_5_each_call_has_its_own_retries_from_its_upstream_s_budget() {
    let yaml = DETAILS.replace(
        r#"path: "/api/orders/{id}"}"#,
        r#"path: "/api/orders/{id}", retry: {max: 1, when: [503]}}"#,
    );
    let first = Arc::new(AtomicBool::new(true));
    let shop = shop(&yaml, move |name, _| {
        (name == "orders" && first.swap(false, SeqCst)).then(|| answer(503, "", ""))
    });
    let response = shop.gateway.send(details()).await;
    assert_eq!((response.status().as_u16(), shop.orders.requests()), (200, 2));
    let retried = "naka_policy_decisions_total{policy=\"order-details/order/retry\",outcome=\"retried\"}";
    assert_eq!(shop.gateway.metric(retried), Some(1.0));
}

#[tokio::test(start_paused = true)]
async fn r13_5_only_who_asks_and_how_goes_along_and_calls_are_siblings_of_one_trace() {
    let yaml = DETAILS
        .replace(
            "listeners:",
            "gateway: {identity_headers: {x-user-id: identity}, telemetry: {tracing: {otlp: 'http://127.0.0.1:9', trust_parent: always}}, deadline_header: x-timeout-ms}\npolicies: {ola: {jwt: {secret: {file: secret}, algorithms: [HS256], audiences: [rides]}}}\nlisteners:",
        )
        .replace("    compose:", "    use: [ola]\n    headers: {request: {set: {x-by: naka}}}\n    compose:\n      headers: [accept-language]")
        .replace("path: \"/track/{id}\"", "path: \"/track/{id}?for={jwt.sub}\"")
        .replace("tests:\n  - {request: \"GET http://a.example/api/orders/7/details\"", "tests:\n  - {request: \"GET http://a.example/api/orders/7/details\", with: {jwt: {sub: asha}}");
    let secret = "0123456789abcdef0123456789abcdef";
    let gateway = Inside::with_files(&yaml, &[("secret", secret)]);
    let upstream = |place: &'static str, body: &'static str| {
        let headers =
            format!("{JSON}set-cookie: a=b\r\nserver: x\r\netag: \"1\"\r\nvary: accept-language\r\n");
        Upstream::inside(&gateway.network, place, move |_| answer(200, &headers, body))
    };
    let all = [
        upstream("orders:1", ORDER),
        upstream("users:1", "{}"),
        upstream("products:1", "[]"),
        upstream("delivery:1", "{}"),
    ];
    let token = hs256(
        secret.as_bytes(),
        &json!({"sub": "asha", "aud": "rides", "exp": 4_000_000_000_u64}).to_string(),
    );
    let mut request = details();
    for (name, value) in [
        ("authorization", &*format!("Bearer {token}")),
        ("cookie", "session=1"),
        ("accept-language", "hi"),
        ("x-user-id", "somebody else"),
        ("user-agent", "curl"),
        ("if-none-match", "\"1\""),
        ("naka-attempt", "2"),
        ("x-timeout-ms", "1500"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    ] {
        request.headers_mut().insert(http::HeaderName::try_from(name).unwrap(), value.parse().unwrap());
    }
    let response = gateway.send(request).await;
    assert_eq!(response.status(), 200, "{:?}", response.body());
    for gone in ["set-cookie", "server", "etag"] {
        assert!(!response.headers().contains_key(gone), "{gone}");
    }
    assert_eq!(
        (says(response.headers(), "vary"), says(response.headers(), "cache-control")),
        ("accept-language".into(), "no-store".into())
    );
    let mut spans = Vec::new();
    for upstream in &all {
        let seen = upstream.last();
        let mut names = seen.headers.iter().map(|(name, _)| &**name).collect::<Vec<_>>();
        names.sort_unstable();
        let expected = [
            "accept",
            "accept-encoding",
            "accept-language",
            "authorization",
            "host",
            "traceparent",
            "via",
            "x-by",
            "x-forwarded-for",
            "x-forwarded-host",
            "x-forwarded-proto",
            "x-request-id",
            "x-timeout-ms",
            "x-user-id",
        ];
        assert_eq!(names, expected, "{}", seen.line);
        assert_eq!(seen.header("x-user-id"), Some("asha"));
        assert_eq!(
            seen.header("x-request-id").map(str::to_owned),
            Some(says(response.headers(), "x-request-id"))
        );
        let parent = seen.header("traceparent").unwrap().split('-').map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(parent[1], "0af7651916cd43dd8448eb211c80319c", "one trace");
        spans.push(parent[2].clone());
        let left = seen.header("x-timeout-ms").unwrap().parse::<u64>().unwrap();
        assert!(left <= 1500, "{left}");
    }
    spans.sort_unstable();
    spans.dedup();
    assert_eq!(spans.len(), 4, "each a span of its own");
    assert_eq!(all[3].last().target(), "/track/7?for=asha");
    // Who is not known asks nobody.
    let seen = all[0].requests();
    let response = gateway.send(details()).await;
    assert_eq!((response.status().as_u16(), all[0].requests()), (401, seen));
}

#[tokio::test(start_paused = true)]
async fn r13_5_a_reload_in_the_middle_lets_the_answer_finish_as_it_began() {
    let shop = shop(DETAILS, |_, _| None);
    let mut client = shop.gateway.client().await;
    let asking = tokio::spawn(async move { (client.send(details()).await, client) });
    until("the order is asked for", || shop.orders.requests() == 1).await;
    // From now on there is no buyer in it.
    let after = DETAILS
        .replace("        buyer: {upstream: users, path: \"/api/users/{order.body.user_id}\"}\n", "")
        .replace("buyer: \"{buyer.body}\", ", "")
        .replace("  users: {endpoints: [\"users:1\"]}\n", "");
    shop.gateway.reload(&after).unwrap();
    let (response, mut client) = asking.await.unwrap();
    assert_eq!((response.status().as_u16(), &value(&response)["buyer"]["name"]), (200, &json!("Asha")));
    let response = client.send(details()).await;
    assert_eq!((response.status().as_u16(), value(&response).get("buyer").is_none()), (200, true));
    assert_eq!((shop.users.requests(), shop.orders.connections()), (1, 1), "connections are kept over it");
}

#[tokio::test(start_paused = true)]
async fn r13_2_clients_of_http_2_are_answered_and_a_reset_cancels_the_calls() {
    let yaml = DETAILS.replace(r#"{listen: ":1"}"#, r#"{listen: ":1", protocols: [h1, h2c]}"#);
    let hangs = Arc::new(AtomicBool::new(false));
    let is_hanging = Arc::clone(&hangs);
    let shop = shop(&yaml, move |name, _| {
        (name == "products" && is_hanging.load(SeqCst))
            .then(|| vec![Step::ReadBody, Step::Wait(Duration::from_mins(1))])
    });
    let io = TokioIo::new(shop.gateway.connect());
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    let request =
        || Request::get("http://api.example/api/orders/7/details").body(Full::<Bytes>::default()).unwrap();
    let response = sender.send_request(request()).await.unwrap();
    assert_eq!(response.status(), 200);
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(serde_json::from_slice::<Value>(&body).unwrap()["buyer"]["name"], "Asha");
    hangs.store(true, SeqCst);
    let asking = tokio::spawn(sender.send_request(request()));
    until("the items are asked for", || shop.products.requests() == 2).await;
    asking.abort();
    let cancelled = || {
        let labels = "route=\"order-details\",call=\"items\",outcome=\"cancelled\"";
        shop.gateway.metric(&format!("naka_compose_calls_total{{{labels}}}")) == Some(1.0)
    };
    until("the call is given up", cancelled).await;
}

#[tokio::test(start_paused = true)]
async fn r13_1_what_is_explained_is_the_plan_and_the_paths_as_far_as_they_are_known() {
    let shop = shop(DETAILS, |_, _| None);
    let explained = shop.gateway.explain("GET http://api.example/api/orders/7%20a/details", &[]);
    assert!(matches!(explained.verdict, Verdict::Sent));
    let said = explained.calls.iter().map(ToString::to_string).collect::<Vec<_>>();
    let expected = [
        "1. order            GET /api/orders/7%20a  to orders, orders:1; required; total 10s",
        "1. ship             GET /track/7%20a  to delivery, delivery:1; null if it fails; total 300ms",
        "2. buyer            GET /api/users/{order.body.user_id}  to users, users:1; needs order; required; total 10s",
        "2. items            GET /api/products?ids={order.body.items.*.product_id}  to products, products:1; needs order; required; total 10s",
    ];
    assert_eq!(said, expected);
    assert!(explained.to_string().contains("calls, those of one number at once"), "{explained}");
    let calls = explained.to_json()["calls"].clone();
    assert_eq!(
        (&calls[2]["call"], &calls[2]["wave"], &calls[2]["needs"]),
        (&json!("buyer"), &json!(1), &json!(["order"]))
    );
    assert_eq!((&calls[1]["required"], &calls[1]["default"]), (&json!(false), &json!("null")));
    let asked = Asked { request: "POST http://api.example/api/orders/7/details".into(), ..Asked::default() };
    let explained = shop.gateway.explain_asked(&asked);
    assert!(matches!(explained.verdict, Verdict::Refused(rejection) if rejection.reason.status() == 405));
    assert_eq!(shop.orders.requests() + shop.users.requests(), 0, "and nobody was asked");
}

/// Its log has a thread of its own, so this waits for real.
#[tokio::test]
async fn calls_that_fail_are_named_in_the_log() {
    let yaml =
        DETAILS.replace("listeners:", "gateway: {telemetry: {access_log: {file: access.jsonl}}}\nlisteners:");
    let shop = shop(&yaml, |name, _| (name == "delivery").then(|| answer(503, "", "")));
    assert_eq!(shop.gateway.send(details()).await.status(), 200);
    shop.gateway.reload(&yaml.replace("required: false, default: null, ", "")).unwrap();
    assert_eq!(shop.gateway.send(details()).await.status(), 502);
    let file = shop.gateway.folder().join("access.jsonl");
    let read = || std::fs::read_to_string(&file).unwrap_or_default();
    until("two lines", || read().lines().count() == 2).await;
    let lines = read().lines().map(|line| serde_json::from_str::<Value>(line).unwrap()).collect::<Vec<_>>();
    for line in &lines {
        let event = &line["decision"]["events"][0];
        let said = (&event["what"], &event["policy"], &event["why"]);
        assert_eq!(said, (&json!("call_failed"), &json!("ship"), &json!("part_failed")), "{line}");
    }
    assert_eq!(lines[0]["decision"]["attempts"].as_array().unwrap().len(), 4);
    let ended = |line: usize| &lines[line]["decision"]["terminated_by"];
    assert_eq!((ended(0), ended(1)), (&json!("upstream"), &json!("upstream")));
}
