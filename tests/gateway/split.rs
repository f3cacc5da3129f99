//! Traffic that is split between upstreams, through the whole gateway.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use naka_gateway::{ask::Asked, explain::Verdict};
use naka_testkit::{
    token::hs256,
    upstream::{Step, Upstream, answer},
};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::{
    inside::{Client, Inside, get},
    process::Process,
};

const RIDES: &str = "
listeners: {public: {listen: ':1'}}
upstreams: {booking: {endpoints: ['booking:1']}, booking-v2: {endpoints: ['booking-v2:1']}}
routes:
  rides:
    match: {prefix: /}
    split:
      to: {booking: 80, booking-v2: 20}
      by: header:x-user
      pin: [{header: {x-canary: '1'}, to: booking-v2}, {cookie: {release: next}, to: booking-v2}]
      guard: {error_rate: +5%, min_requests: 20, window: 10s}
";

/// Two releases; the new one answers with a status that can be said.
struct Rides {
    gateway: Inside,
    status: Arc<AtomicU16>,
    old: Upstream,
    new: Upstream,
}

fn rides(yaml: &str) -> Rides {
    let gateway = Inside::new(yaml);
    let status = Arc::new(AtomicU16::new(200));
    let says = Arc::clone(&status);
    let old = Upstream::inside(&gateway.network, "booking:1", |_| answer(200, "", "booking"));
    let new = Upstream::inside(&gateway.network, "booking-v2:1", move |_| {
        answer(says.load(SeqCst), "", "booking-v2")
    });
    Rides { gateway, status, old, new }
}

fn of(user: u32) -> Request<Full<Bytes>> {
    with("x-user", &user.to_string())
}

fn with(name: &'static str, value: &str) -> Request<Full<Bytes>> {
    let mut request = get("/rides");
    request.headers_mut().insert(name, value.parse().unwrap());
    request
}

/// Who answers.
async fn arm(client: &mut Client, request: Request<Full<Bytes>>) -> String {
    String::from_utf8(client.send(request).await.into_body().to_vec()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn r7_2_eighty_and_twenty_of_ten_thousand_requests() {
    let Rides { gateway, old, new, .. } = rides(RIDES);
    let mut client = gateway.client().await;
    for user in 0..10_000 {
        arm(&mut client, of(user)).await;
    }
    assert!(new.requests().abs_diff(2000) <= 120, "{} of 2000: three sigma", new.requests());
    assert_eq!(old.requests() + new.requests(), 10_000);
    // Without a key they take turns.
    let before = new.requests();
    for _ in 0..100 {
        arm(&mut client, get("/")).await;
    }
    assert_eq!(new.requests() - before, 20);
    let counted = |arm: &str| {
        let labels = format!("policy=\"rides/split\",arm=\"{arm}\",outcome=\"success\"");
        gateway.metric(&format!("naka_split_requests_total{{{labels}}}")).unwrap()
    };
    assert!((counted("booking") + counted("booking-v2") - 10_100.0).abs() < 0.5);
}

#[tokio::test(start_paused = true)]
async fn r7_2_a_reload_changes_the_shares_and_a_larger_one_only_adds_users() {
    let Rides { gateway, old: _old, new: _new, .. } = rides(RIDES);
    let mut client = gateway.client().await;
    let mut before = BTreeMap::new();
    for user in 0..400 {
        let answered = arm(&mut client, of(user)).await;
        before.insert(user, answered);
    }
    let mut last = before.values().filter(|arm| *arm == "booking-v2").count();
    for share in [21, 40, 200, 1_000_000] {
        gateway.reload(&RIDES.replace("booking-v2: 20", &format!("booking-v2: {share}"))).unwrap();
        let mut added = 0;
        for (user, arm_before) in &mut before {
            let now = arm(&mut client, of(*user)).await;
            assert!(now == *arm_before || now == "booking-v2", "user {user} went from {arm_before} to {now}");
            added += usize::from(now != *arm_before);
            *arm_before = now;
        }
        last += added;
        assert!(share == 21 || added > 0, "the connection is the same, and so is the process");
    }
    assert!(last >= 398, "80 in a million are left: {last}");
    // And all the way back, those who were there before have not moved.
    gateway.reload(RIDES).unwrap();
    let mut client = gateway.client().await;
    for user in 0..400 {
        let explained = gateway.explain("GET http://api.example/rides", &[format!("x-user: {user}")]);
        let answered = arm(&mut client, of(user)).await;
        assert_eq!(explained.forwarded.unwrap().upstream.as_ref(), answered, "and what is explained is done");
    }
}

#[tokio::test(start_paused = true)]
async fn r7_2_who_is_pinned_goes_where_the_pin_leads() {
    let Rides { gateway, old: _old, new: _new, .. } = rides(RIDES);
    let mut client = gateway.client().await;
    let mut one_of_the_old = 0;
    while arm(&mut client, of(one_of_the_old)).await != "booking" {
        one_of_the_old += 1;
    }
    for (name, value, expected) in [
        ("x-canary", "1", "booking-v2"),
        ("x-canary", "0", "booking"),
        ("cookie", "a=b; release=next", "booking-v2"),
    ] {
        let mut request = of(one_of_the_old);
        request.headers_mut().insert(name, value.parse().unwrap());
        assert_eq!(arm(&mut client, request).await, expected, "{name}: {value}");
    }
    let said = gateway.explain("GET http://api.example/rides", &["x-canary: 1".into()]).to_string();
    assert!(said.contains("split rides/split") && said.contains("arm booking-v2, by pin"), "{said}");
    assert!(said.contains("sent to upstream booking-v2, booking-v2:1"), "{said}");
}

#[tokio::test(start_paused = true)]
async fn an_arm_that_fails_gets_nobody_until_it_is_released_or_has_another_share() {
    let Rides { gateway, status, old: _old, new } = rides(RIDES);
    let mut client = gateway.client().await;
    status.store(500, SeqCst);
    for user in 0..400 {
        client.send(of(user)).await;
    }
    assert_eq!(new.requests(), 20, "the twentieth failure was the last");
    let level = |level: &str| {
        let labels = format!("policy=\"rides/split\",arm=\"booking-v2\",level=\"{level}\"");
        gateway.metric(&format!("naka_split_level{{{labels}}}"))
    };
    assert_eq!(admin(&gateway, "GET", "/metrics").await.0, 200);
    assert_eq!((level("weight"), level("held")), (Some(0.0), Some(1.0)));
    let failed = "naka_split_requests_total{policy=\"rides/split\",arm=\"booking-v2\",outcome=\"failure\"}";
    assert_eq!(gateway.metric(failed), Some(20.0));
    let shown = shown(&gateway).await;
    let held = &shown["rides/split"]["arms"]["booking-v2"];
    assert_eq!((&held["weight"], &held["in_force"]), (&20.into(), &0.into()));
    assert_eq!(held["held"]["arm"], serde_json::json!({"requests": 20, "failed": 20}), "{held}");
    let explained = gateway.explain("GET http://api.example/rides", &[]).to_string();
    assert!(explained.contains("`booking-v2` is held: 20 of 20 failed, and 0 of"), "{explained}");
    // It can be looked at, and stays held over reloads that change nothing about it.
    assert_eq!(client.send(with("x-canary", "1")).await.status(), 500);
    gateway.reload(&RIDES.replace("x-canary: '1'", "x-canary: '2'")).unwrap();
    for user in 0..100 {
        assert_eq!(client.send(of(user)).await.status(), 200);
    }

    status.store(200, SeqCst);
    let path = "/policies?policy=rides/split&arm=booking-v2&do=release";
    let (said, text) = admin(&gateway, "POST", path).await;
    assert!(said == 200 && text.contains("the share of `booking-v2` is 20, and 20 is in force"), "{text}");
    let before = new.requests();
    for user in 0..400 {
        assert_eq!(client.send(of(user)).await.status(), 200);
    }
    assert!(new.requests() > before + 40);

    // Held again; another share begins anew.
    status.store(502, SeqCst);
    for user in 0..1000 {
        client.send(of(user)).await;
    }
    assert_eq!(client.send(of(1)).await.status(), 200);
    status.store(200, SeqCst);
    gateway.reload(&RIDES.replace("booking-v2: 20", "booking-v2: 10")).unwrap();
    let before = new.requests();
    for user in 0..400 {
        client.send(of(user)).await;
    }
    assert!(new.requests() > before + 20, "{} more", new.requests() - before);
}

/// Bug in the making: refusals of the gateway's own say nothing of an upstream, so one that is down looked well.
#[tokio::test(start_paused = true)]
async fn an_arm_that_is_down_is_held_and_its_users_go_to_the_other() {
    let gateway = Inside::new(
        &RIDES.replace("['booking-v2:1']", "['booking-v2:1'], circuit_breaker: {consecutive: 1}"),
    );
    let _old = Upstream::inside(&gateway.network, "booking:1", |_| answer(200, "", "booking"));
    let mut client = gateway.client().await;
    let mut failed = 0;
    for user in 0..400 {
        failed += u32::from(client.send(of(user)).await.status() != 200);
    }
    assert_eq!(failed, 20, "one did not connect, and nineteen found its breaker open");
}

#[tokio::test(start_paused = true)]
async fn by_hand_an_arm_is_held_and_released_and_mistakes_are_told() {
    let Rides { gateway, old: _old, new, .. } = rides(RIDES);
    let mut client = gateway.client().await;
    let told =
        async |query: &str| admin(&gateway, "POST", &format!("/policies?policy=rides/split&{query}")).await;
    assert_eq!(told("arm=booking-v2&do=hold").await.0, 200);
    for user in 0..100 {
        client.send(of(user)).await;
    }
    assert_eq!(new.requests(), 0);
    let shown = shown(&gateway).await;
    assert_eq!(shown["rides/split"]["arms"]["booking-v2"]["held"]["by"], "hand");
    for (query, expected) in [
        ("arm=booking-v2&do=hold", "held already"),
        ("arm=booking&do=hold", "is never held"),
        ("arm=booking&do=release", "is not held"),
        ("arm=booking-v3&do=hold", "has no arm `booking-v3`"),
        ("arm=booking-v2&do=reset", "hold and release"),
        ("do=hold", "has to say `arm`"),
    ] {
        let (status, text) = told(query).await;
        assert!(status == 400 && text.contains(expected), "{query}: {text}");
    }
    // It holds over a reload, and ends with another guard.
    gateway.reload(&RIDES.replace("x-canary", "x-next")).unwrap();
    assert_eq!(told("arm=booking-v2&do=release").await.0, 200);
    assert_eq!(told("arm=booking-v2&do=hold").await.0, 200);
    gateway.reload(&RIDES.replace("+5%", "+6%")).unwrap();
    assert_eq!(told("arm=booking-v2&do=release").await.0, 400);
}

const BY_SUBJECT: &str = "
listeners: {public: {listen: ':1'}}
policies: {ola: {jwt: {secret: {file: secret}, audiences: [rides]}}}
upstreams: {booking: {endpoints: ['booking:1']}, booking-v2: {endpoints: ['booking-v2:1']}}
routes:
  rides: {match: {path: '/{city}/rides'}, use: [ola], split: {to: {booking: 50, booking-v2: 50}, by: jwt.sub}}
  cities: {match: {path: '/{city}'}, split: {to: {booking: 50, booking-v2: 50}, by: '{city}'}}
tests:
  - {request: 'GET http://api.example/pune/rides', with: {jwt: {sub: 'user-1'}}, expect: {route: rides, upstream: booking}}
  - {request: 'GET http://api.example/goa/rides', with: {jwt: {sub: 'user-1'}}, expect: {upstream: booking}}
  - {request: 'GET http://api.example/goa/rides', expect: {status: 401}}
";

#[tokio::test(start_paused = true)]
async fn r7_2_a_verified_user_has_one_arm_and_so_says_the_file_of_itself() {
    let secret = "a secret of forty bytes, or a few of more";
    let gateway = Inside::with_files(BY_SUBJECT, &[("secret", secret)]);
    let _upstreams = ["booking", "booking-v2"]
        .map(|name| Upstream::inside(&gateway.network, &format!("{name}:1"), move |_| answer(200, "", name)));
    let mut client = gateway.client().await;
    let mut counts = BTreeMap::<_, u32>::new();
    for user in 0..40 {
        let claims = format!(r#"{{"sub":"user-{user}","aud":"rides","exp":4102444800}}"#);
        let token = format!("Bearer {}", hs256(secret.as_bytes(), &claims));
        let mut arms = Vec::new();
        for city in ["pune", "goa", "delhi"] {
            let request = Request::get(format!("/{city}/rides")).header("host", "api.example");
            let request = request.header("authorization", &token).body(Full::default()).unwrap();
            arms.push(arm(&mut client, request).await);
        }
        assert!(arms.iter().all(|it| *it == arms[0]), "{arms:?}");
        let asked = Asked {
            request: "GET http://api.example/pune/rides".into(),
            jwt: Some(claims.parse().unwrap()),
            ..Asked::default()
        };
        let said = gateway.explain_asked(&asked);
        assert_eq!((said.forwarded.unwrap().upstream.as_ref(), said.verdict), (&*arms[0], Verdict::Sent));
        *counts.entry(arms[0].clone()).or_default() += 1;
    }
    assert!(counts.len() == 2 && counts.values().all(|count| *count > 10), "{counts:?}");
    // By a part of the path.
    let mut cities = BTreeMap::<_, u32>::new();
    for city in 0..40 {
        let one = arm(&mut client, get(&format!("/city-{city}"))).await;
        assert_eq!(arm(&mut client, get(&format!("/city-{city}"))).await, one);
        *cities.entry(one).or_default() += 1;
    }
    assert_eq!(cities.len(), 2, "{cities:?}");
    // A file whose expectation does not hold takes no effect.
    let wrong = BY_SUBJECT.replacen("upstream: booking}", "upstream: booking-v2}", 1);
    let said = gateway.reload(&wrong).unwrap_err();
    assert!(said.contains("booking-v2"), "{said}");
}

const VERSIONS: &str = "
listeners: {public: {listen: ':1'}}
upstreams: {one: {endpoints: ['one:1']}, booking: {endpoints: ['booking:1']}, booking-v2: {endpoints: ['booking-v2:1']}}
routes:
  rides:
    match: {prefix: /}
    versions:
      by: [path]
      default: v1
      strip: true
      of:
        v1: {upstream: one}
        v2:
          rewrite: {path: /new}
          rate_limit: {rate: 50/m}
          split: {to: {booking: 50, booking-v2: 50}, by: header:x-user, pin: [{header: {x-canary: '1'}, to: booking-v2}]}
";

#[tokio::test(start_paused = true)]
async fn an_arm_that_failed_has_failed_though_another_stands_in_and_copies_go_where_it_does_not() {
    let more = "fallback: {upstream: other}\n    mirror: {upstream: booking-v2, methods: safe}\n    split:";
    let yaml = RIDES.replace("upstreams: {", "upstreams: {other: {endpoints: ['other:1']}, ");
    let Rides { gateway, status, old, new } = rides(&yaml.replace("split:", more));
    let other = Upstream::inside(&gateway.network, "other:1", |_| answer(200, "", "other"));
    let mut client = gateway.client().await;
    status.store(503, SeqCst);
    for _ in 0..5 {
        let pinned = client.send(with("x-canary", "1")).await;
        assert_eq!(pinned.headers()["x-fallback"], "rides/fallback");
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!((new.requests(), other.requests(), old.requests()), (5, 5, 0), "each once, and no copies");
    let failed = "naka_split_requests_total{policy=\"rides/split\",arm=\"booking-v2\",outcome=\"failure\"}";
    assert_eq!(gateway.metric(failed), Some(5.0));
    status.store(200, SeqCst);
    assert_eq!(admin(&gateway, "POST", "/policies?policy=rides/split&arm=booking-v2&do=hold").await.0, 200);
    for user in 0..5 {
        assert_eq!(arm(&mut client, of(user)).await, "booking");
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!((old.requests(), new.requests()), (5, 10), "each of the old arm, and its copy");
}

#[tokio::test(start_paused = true)]
async fn a_version_can_be_split() {
    let Rides { gateway, old, new, status } = rides(VERSIONS);
    let one = Upstream::inside(&gateway.network, "one:1", |_| answer(200, "", "one"));
    let mut client = gateway.client().await;
    let asked = |version: &str, user: u32| {
        let request = Request::get(format!("/{version}/rides")).header("host", "api.example");
        request.header("x-user", user).body(Full::default()).unwrap()
    };
    assert_eq!(arm(&mut client, asked("v1", 1)).await, "one");
    for user in 0..40 {
        let answered = arm(&mut client, asked("v2", user)).await;
        let explained = gateway.explain("GET http://api.example/v2/rides", &[format!("x-user: {user}")]);
        assert_eq!(explained.forwarded.unwrap().upstream.as_ref(), answered);
    }
    assert_eq!(one.requests(), 1);
    assert!(old.requests() > 10 && new.requests() > 10 && old.requests() + new.requests() == 40);
    assert_eq!((old.last().target(), new.last().target()), ("/new", "/new"), "as the version says");
    status.store(500, SeqCst);
    let mut pinned = asked("v2", 0);
    pinned.headers_mut().insert("x-canary", "1".parse().unwrap());
    assert_eq!(client.send(pinned).await.status(), 500);
    // Its state has a name of its own; the limit of the version stands before it.
    let path = "/policies?policy=rides/v2/split&arm=booking-v2&do=hold";
    assert_eq!(admin(&gateway, "POST", path).await.0, 200);
    let mut statuses = Vec::new();
    for user in 0..10 {
        statuses.push(client.send(asked("v2", user)).await.status().as_u16());
    }
    assert_eq!(statuses, [200, 200, 200, 200, 200, 200, 200, 200, 200, 429]);
    gateway.reload(&VERSIONS.replace("upstream: one}", "upstream: one, aliases: [old]}")).unwrap();
    let shown = shown(&gateway).await;
    assert_eq!(shown["rides/v2/split"]["arms"]["booking-v2"]["in_force"], 0, "it is still held");
    assert!(admin(&gateway, "GET", "/routes").await.1.contains("v2 split (booking 50, booking-v2 50)"));
}

/// What an arm shows of a request that is cut off half-way.
#[tokio::test(start_paused = true)]
async fn who_goes_away_says_nothing_about_an_arm() {
    let gateway = Inside::new(&RIDES.replace("booking: 80, booking-v2: 20", "booking: 1, booking-v2: 0"));
    let head = "HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\nx";
    let _hangs = Upstream::inside(&gateway.network, "booking:1", move |_| vec![Step::send(head)]);
    let mut connection = gateway.connect();
    connection.write_all(b"GET / HTTP/1.1\r\nhost: a.example\r\n\r\n").await.unwrap();
    let mut bytes = [0; 12];
    connection.read_exact(&mut bytes).await.unwrap();
    assert_eq!(&bytes, b"HTTP/1.1 200");
    drop(connection);
    let neutral = "naka_split_requests_total{policy=\"rides/split\",arm=\"booking\",outcome=\"neutral\"}";
    while gateway.metric(neutral) != Some(1.0) {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_route_that_is_gone_and_comes_back_keeps_what_is_held() {
    let Rides { gateway, old: _old, new, .. } = rides(RIDES);
    let mut client = gateway.client().await;
    client.send(of(1)).await;
    let path = "/policies?policy=rides/split&arm=booking-v2&do=hold";
    assert_eq!(admin(&gateway, "POST", path).await.0, 200);
    let others = "
listeners: {public: {listen: ':1'}}
upstreams: {booking: {endpoints: ['booking:1']}}
routes: {other: {match: {prefix: /}, upstream: booking}}
";
    gateway.reload(others).unwrap();
    assert!(admin(&gateway, "GET", "/config").await.1.contains("split rides/split"), "it is buried");
    gateway.reload(RIDES).unwrap();
    let before = new.requests();
    for user in 0..100 {
        client.send(of(user)).await;
    }
    assert_eq!(new.requests(), before);
}

const LABELS: &str = "
gateway: {admin: {listen: ADMIN}, workers: 1}
listeners: {public: {listen: PUBLIC}}
upstreams: {one: {endpoints: ['127.0.0.1:1']}, two: {endpoints: ['127.0.0.1:2']}, three: {endpoints: ['127.0.0.1:3']}}
routes:
  shop: {match: {prefix: /}, split: {to: {one: 1, two: 1}}}
  all: {match: {path: /said}, respond: {body: fine}}
";

/// What is gone leaves no labels behind, and what stays goes on counting.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r13_only_arms_that_are_in_force_have_labels() {
    let process = Process::start(LABELS).await;
    for _ in 0..4 {
        assert_eq!(process.public("GET /shop").await.0, 502);
    }
    let counted = async || {
        let text = process.get("/metrics").await.unwrap().1;
        let failed = text.lines().filter(|line| line.contains("outcome=\"failure\""));
        let arms = failed
            .filter_map(|line| line.strip_prefix("naka_split_requests_total{policy=\"shop/split\",arm=\""));
        let mut arms = arms.map(str::to_owned).collect::<Vec<_>>();
        arms.sort();
        arms
    };
    let [one, three, two] = ["one", "three", "two"].map(|arm| format!("{arm}\",outcome=\"failure\"}} "));
    assert_eq!(counted().await, [format!("{one}2"), format!("{two}2")]);
    process.write("gateway.yaml", &LABELS.replace("two: 1}", "three: 1}").replace("fine", "better"));
    process.answers("/said", "better").await;
    process
        .until("labels are gone", async || counted().await == [format!("{one}2"), format!("{three}0")])
        .await;
    process.write("gateway.yaml", &LABELS.replace("split: {to: {one: 1, two: 1}}", "upstream: one"));
    process.answers("/said", "fine").await;
    // The split is buried, so that it can come back with its counts.
    assert_eq!(counted().await, [format!("{one}2"), format!("{three}0")]);
}

async fn shown(gateway: &Inside) -> Value {
    let (_, text) = admin(gateway, "GET", "/policies").await;
    serde_json::from_str(text.split_once("\r\n\r\n").unwrap().1).unwrap()
}

async fn admin(gateway: &Inside, method: &str, target: &str) -> (u16, String) {
    let (mut ours, theirs) = tokio::io::duplex(1 << 16);
    tokio::spawn(naka_gateway::admin::serve_connection(
        gateway.admin(),
        naka_gateway::admin::Way::Socket,
        theirs,
    ));
    let request = format!("{method} {target} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    ours.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    ours.read_to_string(&mut answer).await.unwrap();
    (answer[9..12].parse().unwrap(), answer)
}
