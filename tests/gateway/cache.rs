//! What is answered from what was answered before, through the gateway.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU16, Ordering::SeqCst},
};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::Full;
use naka_testkit::upstream::{Step, Upstream, answer};
use tokio::time::{Duration, sleep};

use crate::inside::{Inside, get};

const KITCHEN: &str = "
gateway: {admin: none, identity_headers: {x-user-id: identity}}
listeners: {public: {listen: ':1'}}
policies:
  keys: {api_key: {header: x-key, file: keys.yaml}}
  kept: {cache: {stale_if_error: 1h, max_bytes: 1MiB, max_body: 64KiB}}
upstreams:
  kitchen: {endpoints: ['a:1'], timeouts: {connect: 1s, response_headers: 2s}}
  other: {endpoints: ['o:1']}
  v2: {endpoints: ['v:1']}
routes:
  menus:
    match: {prefix: /menus}
    use: [kept]
    bulkhead: {max: 1}
    circuit_breaker: {consecutive: 2, failure_rate: never, open: 1h}
    fallback: {respond: {status: 200, body: the usual}}
    upstream: kitchen
  mine: {match: {prefix: /mine}, use: [keys, kept], upstream: kitchen}
  dear: {match: {prefix: /dear}, cache: {default_ttl: 10s, coalesce: never}, upstream: kitchen}
  packed: {match: {prefix: /packed}, use: [kept], compress: {algorithms: [gzip], min_size: 1B}, upstream: kitchen}
  versions:
    match: {prefix: /versions}
    use: [kept]
    versions: {by: [header], default: v1, of: {v1: {upstream: kitchen}, v2: {upstream: v2}}}
tests:
  - {request: 'GET http://api.example/menus', expect: {route: menus, upstream: kitchen}}
";

const KEYS: &str =
    "keys: [{sha256: 1645011c9eafc0aedb041a52ce5afce92e9229767d928e6dc184e8a43e4e1028, subject: asha}]";

fn gateway() -> Inside {
    Inside::with_files(KITCHEN, &[("keys.yaml", KEYS)])
}

/// A kitchen that says what it is told, with these headers, and to whom.
struct Kitchen {
    status: Arc<AtomicU16>,
    headers: Arc<Mutex<String>>,
    upstream: Upstream,
}

fn kitchen(gateway: &Inside, address: &'static str) -> Kitchen {
    let (status, headers) = (Arc::new(AtomicU16::new(200)), Arc::new(Mutex::new(MINUTE.to_owned())));
    let (says, with) = (Arc::clone(&status), Arc::clone(&headers));
    let upstream = Upstream::inside(&gateway.network, address, move |seen| match says.load(SeqCst) {
        0 => vec![Step::ReadBody, Step::Close],
        status => {
            let who = seen.header("x-user-id").unwrap_or("nobody");
            answer(status, &with.lock().unwrap(), &format!("{address} {} for {who}", seen.target()))
        }
    });
    Kitchen { status, headers, upstream }
}

const MINUTE: &str = "cache-control: max-age=60\r\ncontent-type: text/plain\r\n";

fn said(response: &Response<Bytes>) -> (u16, &str, &str) {
    let how = response.headers().get("cache-status").map_or("", |how| how.to_str().unwrap());
    (response.status().as_u16(), std::str::from_utf8(response.body()).unwrap(), how)
}

fn with(target: &str, headers: &[(&'static str, &'static str)]) -> Request<Full<Bytes>> {
    let mut request = get(target);
    for (name, value) in headers {
        request.headers_mut().append(*name, value.parse().unwrap());
    }
    request
}

#[tokio::test(start_paused = true)]
async fn what_is_good_is_answered_again_without_a_place_or_an_endpoint() {
    let gateway = gateway();
    let kitchen = kitchen(&gateway, "a:1");
    let first = gateway.send(get("/menus/7?for=two")).await;
    assert_eq!(said(&first), (200, "a:1 /menus/7?for=two for nobody", "naka; fwd=uri-miss; stored"));
    drop(kitchen);
    sleep(Duration::from_secs(20)).await;
    let again = gateway.send(get("/menus/7?for=two")).await;
    assert_eq!(said(&again), (200, "a:1 /menus/7?for=two for nobody", "naka; hit; ttl=40"));
    assert_eq!(again.headers()["age"], "20");
    assert!(
        again.headers().contains_key("x-request-id")
            && again.headers()["x-request-id"] != first.headers()["x-request-id"]
    );
    let explained = gateway.explain("GET http://api.example/menus/7?for=two", &[]).to_string();
    assert!(
        explained.contains("kept, 20 s old") && explained.contains("answered by the gateway: 200"),
        "{explained}"
    );
    assert_eq!(
        gateway.metric("naka_policy_decisions_total{policy=\"kept@route:menus\",outcome=\"replayed\"}"),
        Some(1.0)
    );
}

/// RFC 9111 §4.2.4, RFC 5861 §4: the breaker of the route, those of the endpoints, and nobody at the address. What forbids
/// it is said by the answer that is kept.
#[tokio::test(start_paused = true)]
async fn r3_8_what_is_stale_stands_in_while_breakers_are_open_unless_the_answer_forbids_it() {
    const PLAIN: &str = "
gateway: {admin: none}
listeners: {public: {listen: ':1'}}
policies: {kept: {cache: {stale_if_error: 1h}}}
upstreams:
  kitchen: {endpoints: ['a:1'], circuit_breaker: {consecutive: 1, failure_rate: never, open: 1h, max_ejected: 100%}}
routes:
  broken: {match: {prefix: /broken}, use: [kept], circuit_breaker: {consecutive: 1, failure_rate: never, open: 1h}, upstream: kitchen}
  all: {match: {prefix: /}, use: [kept], upstream: kitchen}
";
    const FORBIDDEN: [&str; 4] = ["must-revalidate", "proxy-revalidate", "no-cache", "stale-if-error=0"];
    for route in ["/broken", "/all"] {
        let gateway = Inside::new(PLAIN);
        let kitchen = kitchen(&gateway, "a:1");
        gateway.send(get(route)).await;
        for (number, word) in FORBIDDEN.into_iter().enumerate() {
            *kitchen.headers.lock().unwrap() = format!("cache-control: max-age=60, {word}\r\n");
            assert_eq!(said(&gateway.send(get(&format!("{route}/{number}"))).await).0, 200);
        }
        sleep(Duration::from_secs(61)).await;
        kitchen.status.store(0, SeqCst);
        gateway.send(get(&format!("{route}/opens-it"))).await;
        let asked = kitchen.upstream.requests();
        let old = gateway.send(get(route)).await;
        assert_eq!((said(&old).0, said(&old).2), (200, "naka; fwd=stale; detail=stale-if-error"), "{route}");
        for (number, word) in FORBIDDEN.into_iter().enumerate() {
            let refused = gateway.send(get(&format!("{route}/{number}"))).await;
            let is_open = route == "/broken"; // The last endpoint is asked whatever its own breaker says.
            assert_eq!(refused.status(), if is_open { 503 } else { 502 }, "{route}: {word}");
            assert_eq!(kitchen.upstream.requests() == asked, is_open, "{route}");
        }
    }
    // Nobody is there at all.
    let gateway = Inside::new(&PLAIN.replace(
        "circuit_breaker: {consecutive: 1, failure_rate: never, open: 1h, max_ejected: 100%}",
        "timeouts: {connect: 1s}",
    ));
    let kitchen = kitchen(&gateway, "a:1");
    gateway.send(get("/all")).await;
    *kitchen.headers.lock().unwrap() = "cache-control: max-age=60, must-revalidate\r\n".to_owned();
    gateway.send(get("/all/strict")).await;
    drop(kitchen);
    sleep(Duration::from_secs(61)).await;
    assert_eq!(said(&gateway.send(get("/all")).await).2, "naka; fwd=stale; detail=stale-if-error");
    let strict = gateway.send(get("/all/strict")).await;
    assert_eq!(
        (strict.status().as_u16(), &strict.headers()["naka-reason"]),
        (502, &"connect_failed".parse().unwrap())
    );
}

#[tokio::test(start_paused = true)]
async fn r3_8_what_is_stale_comes_before_a_fallback_and_while_the_breaker_is_open() {
    let gateway = gateway();
    let kitchen = kitchen(&gateway, "a:1");
    gateway.send(get("/menus")).await;
    sleep(Duration::from_secs(61)).await;
    for (trouble, what) in [(0, ""), (503, "; fwd-status=503")] {
        kitchen.status.store(trouble, SeqCst);
        let response = gateway.send(get("/menus")).await;
        assert_eq!((said(&response).0, said(&response).1), (200, "a:1 /menus for nobody"), "{trouble}");
        assert!(
            said(&response).2.ends_with(&format!("naka; fwd=stale{what}; detail=stale-if-error"))
                && !response.headers().contains_key("x-fallback")
        );
    }
    // The breaker is open by now: nobody is asked.
    let asked = kitchen.upstream.requests();
    assert!(said(&gateway.send(get("/menus")).await).2.ends_with("naka; fwd=stale; detail=stale-if-error"));
    assert_eq!(kitchen.upstream.requests(), asked);
    assert_eq!(
        gateway.metric("naka_policy_decisions_total{policy=\"kept@route:menus\",outcome=\"fell_back\"}"),
        Some(3.0)
    );
    // Bug: it was explained that the fallback answers.
    let explained = gateway.explain("GET http://api.example/menus", &[]).to_string();
    assert!(
        explained.contains("kept, and stale for 1 s")
            && explained.ends_with("answered by the gateway: 200 OK"),
        "{explained}"
    );
    // What was never answered falls back.
    let other = gateway.send(get("/menus/other")).await;
    assert_eq!(
        (said(&other).1, &other.headers()["x-fallback"]),
        ("the usual", &"menus/fallback".parse().unwrap())
    );
    // And after an hour it is too old.
    sleep(Duration::from_hours(1)).await;
    assert_eq!(said(&gateway.send(get("/menus")).await).1, "the usual");
}

#[tokio::test(start_paused = true)]
async fn nothing_that_the_gateway_says_of_one_caller_reaches_another() {
    let gateway = gateway();
    let kitchen = kitchen(&gateway, "a:1");
    let asha = [("x-key", "a key of asha, who is hungry")];
    // Who it is was found out here: no header of the request that upstreams see says so.
    for how in ["naka; fwd=uri-miss", "naka; fwd=bypass"] {
        assert_eq!(said(&gateway.send(with("/mine", &asha)).await), (200, "a:1 /mine for asha", how));
    }
    assert_eq!(kitchen.upstream.requests(), 2);
    // Even if it says that it is for all, and what it depends on.
    *kitchen.headers.lock().unwrap() = "cache-control: public, max-age=60\r\nvary: x-user-id\r\n".to_owned();
    for _ in 0..2 {
        gateway.send(with("/mine/7", &asha)).await;
    }
    assert_eq!(kitchen.upstream.requests(), 4);
    *kitchen.headers.lock().unwrap() = "cache-control: public, max-age=60\r\n".to_owned();
    for _ in 0..2 {
        gateway.send(with("/mine/menu", &asha)).await;
    }
    assert_eq!(kitchen.upstream.requests(), 5);
    assert_eq!(gateway.send(get("/mine/menu")).await.status(), 401, "who may is asked before");
}

#[tokio::test(start_paused = true)]
async fn versions_codings_and_methods_are_told_apart() {
    let gateway = gateway();
    let all = [kitchen(&gateway, "a:1"), kitchen(&gateway, "v:1")];
    for _ in 0..2 {
        assert_eq!(said(&gateway.send(get("/versions")).await).1, "a:1 /versions for nobody");
        assert_eq!(
            said(&gateway.send(with("/versions", &[("x-api-version", "v2")])).await).1,
            "v:1 /versions for nobody"
        );
    }
    assert_eq!(all.each_ref().map(|kitchen| kitchen.upstream.requests()), [1, 1]);
    let gzip = [("accept-encoding", "gzip")];
    for _ in 0..2 {
        assert_eq!(
            gateway.send(with("/packed/vada-pav-and-misal-pav", &gzip)).await.headers()["content-encoding"],
            "gzip"
        );
        assert!(
            !gateway
                .send(get("/packed/vada-pav-and-misal-pav"))
                .await
                .headers()
                .contains_key("content-encoding")
        );
    }
    assert_eq!(all[0].upstream.requests(), 3);
    let mut head = get("/packed/vada-pav-and-misal-pav");
    *head.method_mut() = Method::HEAD;
    let response = gateway.send(head).await;
    assert_eq!(
        (said(&response).2, response.headers()["content-length"].as_bytes()),
        ("naka; hit; ttl=60", &b"45"[..])
    );
    // An order forgets the menu.
    let mut post = get("/packed/vada-pav-and-misal-pav");
    *post.method_mut() = Method::POST;
    gateway.send(post).await;
    assert_eq!(
        said(&gateway.send(get("/packed/vada-pav-and-misal-pav")).await).2,
        "naka; fwd=uri-miss; stored"
    );
}

#[tokio::test(start_paused = true)]
async fn a_reload_keeps_what_is_kept_unless_the_route_answers_otherwise() {
    let gateway = gateway();
    let all = [kitchen(&gateway, "a:1"), kitchen(&gateway, "o:1")];
    let hit = |response: Response<Bytes>| said(&response).2.starts_with("naka; hit");
    gateway.send(get("/menus")).await;
    gateway.reload(&KITCHEN.replace("stale_if_error: 1h, max_bytes: 1MiB", "max_bytes: 2MiB")).unwrap();
    assert!(hit(gateway.send(get("/menus")).await));
    let replayed = "naka_policy_decisions_total{policy=\"kept@route:menus\",outcome=\"replayed\"}";
    assert_eq!(gateway.metric(replayed), Some(1.0), "it is still counted");
    let elsewhere =
        KITCHEN.replace("body: the usual}}\n    upstream: kitchen", "body: the usual}}\n    upstream: other");
    let elsewhere = elsewhere.replace("route: menus, upstream: kitchen", "route: menus, upstream: other");
    gateway.reload(&elsewhere).unwrap();
    assert_eq!(said(&gateway.send(get("/menus")).await).1, "o:1 /menus for nobody");
    gateway.reload(KITCHEN).unwrap();
    assert_eq!(said(&gateway.send(get("/menus")).await).1, "a:1 /menus for nobody");
    gateway
        .reload(
            &KITCHEN.replace("match: {prefix: /menus}", "match: {prefix: /menus}\n    rewrite: {path: /all}"),
        )
        .unwrap();
    assert_eq!(said(&gateway.send(get("/menus")).await).1, "a:1 /all for nobody");
    assert_eq!(all.each_ref().map(|kitchen| kitchen.upstream.requests()), [3, 1]);
    // What is stripped follows from what is matched.
    let stripped = |prefix: &str| {
        KITCHEN.replace(
            "match: {prefix: /menus}",
            &format!("match: {{prefix: {prefix}}}\n    strip_prefix: true"),
        )
    };
    let tests = "expect: {route: menus, upstream: kitchen}";
    gateway.reload(&stripped("/menus").replace(tests, "expect: {upstream: kitchen}")).unwrap();
    assert_eq!(said(&gateway.send(get("/menus/a/b")).await).1, "a:1 /a/b for nobody");
    gateway.reload(&stripped("/menus/a").replace("api.example/menus'", "api.example/menus/a'")).unwrap();
    assert_eq!(said(&gateway.send(get("/menus/a/b")).await).1, "a:1 /b for nobody");
}

#[tokio::test(start_paused = true)]
async fn what_says_nothing_is_kept_where_that_is_said_and_an_operator_clears_it() {
    let gateway = gateway();
    let kitchen = kitchen(&gateway, "a:1");
    kitchen.headers.lock().unwrap().clear();
    for _ in 0..3 {
        gateway.send(get("/dear")).await;
        gateway.send(get("/menus")).await;
    }
    assert_eq!(kitchen.upstream.requests(), 4, "one, and three");
    let generation = gateway.generation();
    let clear = |policy: &str, word: &str| {
        naka_gateway::by_hand::to_policy(&generation.state, &format!("policy={policy}&do={word}"))
    };
    assert_eq!(clear("dear/cache@route:dear", "open"), Err("`do` is clear\n".into()));
    assert!(clear("dear/cache@route:dear", "clear").unwrap().contains("1 answers are forgotten"));
    gateway.send(get("/dear")).await;
    assert_eq!(kitchen.upstream.requests(), 5);
}
