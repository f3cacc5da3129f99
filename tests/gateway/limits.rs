//! Rate limits through the whole gateway, and through its reloads.

use std::{collections::HashMap, time::Duration};

use naka_testkit::upstream::{Upstream, ok};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};

use crate::{
    inside::{Inside, get},
    process::Process,
};

const ONE_ROUTE: &str = "
listeners: {public: {listen: ':1'}}
policies: {few: {rate_limit: {rate: 10/m, key: [client_ip]}}}
routes:
  limited: {match: {path: /limited}, use: [few], respond: {body: fine}}
";

#[tokio::test(start_paused = true)]
async fn r2_7_ten_a_minute_admits_ten_of_five_thousand_at_once() {
    let gateway = Inside::new(ONE_ROUTE);
    let requests = (0..5000).map(|_| gateway.client());
    let mut clients = Vec::new();
    for client in requests {
        clients.push(client.await);
    }
    let tasks = clients.into_iter().map(|mut client| {
        tokio::spawn(async move {
            let answer = client.send(get("/limited")).await;
            assert_eq!(answer.status() == 429, answer.headers().contains_key("retry-after"));
            assert_eq!(answer.status() == 429, answer.headers().get("naka-reason").is_some());
            answer.status().as_u16()
        })
    });
    let mut counts = HashMap::new();
    for task in tasks.collect::<Vec<_>>() {
        *counts.entry(task.await.unwrap()).or_insert(0) += 1;
    }
    assert_eq!(counts, HashMap::from([(200, 10), (429, 4990)]));
    tokio::time::advance(Duration::from_secs(6)).await;
    let after = [gateway.send(get("/limited")).await.status(), gateway.send(get("/limited")).await.status()];
    assert_eq!(after.map(|status| status.as_u16()), [200, 429], "one in six seconds comes back");
}

/// An hour, so that a slow machine refills nothing while the test runs.
fn limited(other: &str) -> String {
    format!(
        "
gateway: {{admin: {{listen: ADMIN}}, workers: 2, reload: {{watch: false}}}}
listeners: {{public: {{listen: PUBLIC}}}}
policies: {{few: {{rate_limit: {{rate: 10/h, key: [client_ip]}}}}}}
routes:
  limited: {{match: {{path: /limited}}, use: [few], respond: {{body: fine}}}}
  {other}
"
    )
}

const WITHOUT: &str = "
gateway: {admin: {listen: ADMIN}, workers: 2, reload: {watch: false}}
listeners: {public: {listen: PUBLIC}}
routes:
  limited: {match: {path: /limited}, respond: {body: free}}
";

/// The statuses of so many requests of one client, all connections open at once.
async fn ask(process: &Process, from: &str, times: usize) -> HashMap<u16, usize> {
    let mut streams = Vec::new();
    for _ in 0..times {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(format!("{from}:0").parse().unwrap()).unwrap();
        streams.push(socket.connect(process.public).await.unwrap());
    }
    let tasks = streams.into_iter().map(|stream| tokio::spawn(status(stream)));
    let mut counts = HashMap::new();
    for task in tasks.collect::<Vec<_>>() {
        *counts.entry(task.await.unwrap()).or_insert(0) += 1;
    }
    counts
}

async fn status(mut stream: TcpStream) -> u16 {
    stream.write_all(b"GET /limited HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    assert_eq!(status == 429, answer.to_ascii_lowercase().contains("retry-after: "), "{answer}");
    status
}

async fn reload(process: &Process, yaml: &str) -> String {
    process.write("gateway.yaml", yaml);
    let (status, answer) = process.post("/reload", "").await;
    assert_eq!((status, answer["result"].as_str()), (200, Some("applied")), "{answer}");
    answer["reload"]["report"].to_string()
}

/// Over sockets, two workers and real reloads: what is spent stays spent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r2_7_the_limit_holds_over_sockets_workers_and_reloads() {
    let process = Process::start(&limited("a: {match: {path: /a}, respond: {}}")).await;
    let few = HashMap::from([(200, 10), (429, 990)]);
    assert_eq!(ask(&process, "127.0.0.1", 1000).await, few);
    assert_eq!(ask(&process, "127.0.0.2", 1000).await, few, "a second client has its own ten");

    reload(&process, &limited("b: {match: {path: /b}, respond: {}}")).await;
    assert_eq!(ask(&process, "127.0.0.1", 5).await, HashMap::from([(429, 5)]), "another route was touched");

    let report = reload(&process, WITHOUT).await;
    assert!(report.contains("rate_limit few buried"), "{report}");
    assert_eq!(ask(&process, "127.0.0.1", 5).await, HashMap::from([(200, 5)]), "there is no limit");
    let report = reload(&process, &limited("a: {match: {path: /a}, respond: {}}")).await;
    assert!(report.contains("rate_limit few restored"), "{report}");
    assert_eq!(ask(&process, "127.0.0.1", 5).await, HashMap::from([(429, 5)]), "deleted and added again");

    for number in 0..1000 {
        reload(&process, &limited(&format!("n{number}: {{match: {{path: /{number}}}, respond: {{}}}}")))
            .await;
    }
    assert_eq!(ask(&process, "127.0.0.1", 5).await, HashMap::from([(429, 5)]), "a thousand reloads");
    assert_eq!(ask(&process, "127.0.0.2", 5).await, HashMap::from([(429, 5)]));
    assert_eq!(ask(&process, "127.0.0.3", 11).await, HashMap::from([(200, 10), (429, 1)]));
    let ready = process.json("/readyz").await;
    assert_eq!(ready["generation"], 1004);
    process
        .until("no old generation is left", async || {
            let metrics = process.get("/metrics").await.unwrap().1;
            metrics.contains("naka_generations_alive 1\n")
        })
        .await;
}

/// Asked a thousand times, it has as much left.
#[tokio::test(start_paused = true)]
async fn explaining_consumes_nothing() {
    let gateway = Inside::new(ONE_ROUTE);
    let first = gateway.explain("http://api.example/limited", &[]).to_string();
    assert!(first.contains("10 of 10 left"), "{first}");
    for _ in 0..1000 {
        assert_eq!(gateway.explain("http://api.example/limited", &[]).to_string(), first);
    }
    for _ in 0..10 {
        assert_eq!(gateway.send(get("/limited")).await.status(), 200);
    }
    assert_eq!(gateway.send(get("/limited")).await.status(), 429);
}

/// A changed rate keeps what each client has consumed.
#[tokio::test(start_paused = true)]
async fn r2_2_a_changed_rate_keeps_what_was_consumed() {
    let gateway = Inside::new(ONE_ROUTE);
    for _ in 0..7 {
        assert_eq!(gateway.send(get("/limited")).await.status(), 200);
    }
    gateway.reload(&ONE_ROUTE.replace("10/m", "9/m")).unwrap();
    let statuses = [(); 3].map(|()| gateway.send(get("/limited")));
    let mut all = Vec::new();
    for status in statuses {
        all.push(status.await.status().as_u16());
    }
    assert_eq!(all, [200, 200, 429], "seven of ten are seven of nine");
}

/// An upstream never sees what was refused.
#[tokio::test(start_paused = true)]
async fn what_is_refused_never_reaches_the_upstream() {
    let gateway = Inside::new(
        "
listeners: {public: {listen: ':1'}}
upstreams: {app: {endpoints: ['app:1']}}
routes: {all: {match: {prefix: /}, rate_limit: {rate: [3/m, 4/h], key: [header:x-user], on_missing: reject}, upstream: app}}
",
    );
    let upstream = Upstream::inside(&gateway.network, "app:1", |_| ok("fine"));
    let of = |user: &'static str| {
        let mut request = get("/");
        request.headers_mut().insert("x-user", user.parse().unwrap());
        request
    };
    for expected in [200, 200, 200, 429] {
        assert_eq!(gateway.send(of("asha")).await.status(), expected);
    }
    assert_eq!(gateway.send(get("/")).await.status(), 400, "no key");
    assert_eq!(upstream.requests(), 3);
    assert_eq!(
        gateway
            .metric("naka_rejections_total{route=\"all\",policy=\"all/rate_limit\",reason=\"key_missing\"}"),
        Some(1.0)
    );
}

/// Two reloads, there and back: nobody has more left than before.
#[tokio::test(start_paused = true)]
async fn r2_2_there_and_back_refills_nobody() {
    let with = |rate: &str| ONE_ROUTE.replace("rate: 10/m", &format!("rate: {rate}"));
    for between in ["3/m", "1000/s", "[100/s, 3/m]", "50/h"] {
        let gateway = Inside::new(&with("10/m"));
        while gateway.send(get("/limited")).await.status() == 200 {}
        gateway.reload(&with(between)).unwrap();
        gateway.send(get("/limited")).await;
        tokio::time::advance(Duration::from_secs(2)).await;
        gateway.reload(&with("10/m")).unwrap();
        assert_eq!(gateway.send(get("/limited")).await.status(), 429, "by way of {between}");
    }
}

/// What is buried is kept as long as any configuration that its cells are written in has history.
#[tokio::test(start_paused = true)]
async fn r2_2_a_limit_that_was_raised_deleted_and_added_again_refills_nobody() {
    let with = |rate: &str| ONE_ROUTE.replace("rate: 10/m", &format!("rate: {rate}"));
    let gateway = Inside::new(&with("10/h"));
    while gateway.send(get("/limited")).await.status() == 200 {}
    gateway.reload(&with("1000/s")).unwrap();
    let without = ONE_ROUTE.lines().filter(|line| !line.contains("rate_limit") && !line.contains("policies"));
    let without = without.collect::<Vec<_>>().join("\n").replace(", use: [few]", "");
    gateway.reload(&without).unwrap();
    tokio::time::advance(Duration::from_secs(13)).await;
    gateway.reload(&with("10/h")).unwrap();
    let report = gateway.generation().report.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert!(report.contains(&"rate_limit few restored".to_owned()), "{report:?}");
    assert_eq!(gateway.send(get("/limited")).await.status(), 429);
}

const TIERED: &str = "
listeners: {public: {listen: ':1'}}
policies:
  ola: {jwt: {secret: {file: secret}, audiences: [rides]}}
  per-rider: {rate_limit: {rate: [10/m, 100/h], key: [jwt.sub], tiers: {by: jwt.tier, anonymous: 0.2x, plus: 2x}, fields: draft}}
  reports: {rate_limit: {rate: 10/m, key: [client_ip], cost: 4, fields: legacy}}
routes:
  book: {match: {path: /book}, use: [ola, per-rider], respond: {body: fine}}
  report: {match: {path: /report}, use: [reports], respond: {body: fine}}
";

const SECRET: &str = "a secret of forty bytes, or a few of more";

fn rider(sub: &str, tier: &str) -> http::Request<http_body_util::Full<bytes::Bytes>> {
    let claims = format!(r#"{{"sub":"{sub}","aud":"rides","exp":4102444800{tier}}}"#);
    let token = naka_testkit::token::hs256(SECRET.as_bytes(), &claims);
    let mut request = get("/book");
    request.headers_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    // What is only said is no tier.
    request.headers_mut().insert("x-tier", "plus".parse().unwrap());
    request
}

async fn passes(gateway: &Inside, request: http::Request<http_body_util::Full<bytes::Bytes>>) -> usize {
    let mut passed = 0;
    while gateway.send(request.clone()).await.status() == 200 {
        passed += 1;
        assert!(passed < 1000, "there is no limit");
    }
    passed
}

#[tokio::test(start_paused = true)]
async fn r2_10_a_tier_comes_from_what_was_verified_and_never_refills() {
    let gateway = Inside::with_files(TIERED, &[("secret", SECRET)]);
    assert_eq!(passes(&gateway, rider("asha", r#","tier":"plus""#)).await, 20);
    assert_eq!(passes(&gateway, rider("ravi", "")).await, 2, "no tier is said: anonymous");
    assert_eq!(passes(&gateway, rider("meera", r#","tier":"regular""#)).await, 10, "a tier without a factor");
    assert_eq!(passes(&gateway, rider("asha", "")).await, 0, "another token of a lower tier");
    // Another factor, a new tier, and back: what is spent stays spent.
    gateway.reload(&TIERED.replace("plus: 2x", "plus: 5x, premium: 9x")).unwrap();
    assert_eq!(passes(&gateway, rider("asha", r#","tier":"plus""#)).await, 0);
    gateway.reload(TIERED).unwrap();
    assert_eq!(passes(&gateway, rider("asha", r#","tier":"plus""#)).await, 0);
    tokio::time::advance(Duration::from_secs(61)).await;
    assert!(passes(&gateway, rider("asha", r#","tier":"plus""#)).await >= 20);
}

#[tokio::test(start_paused = true)]
async fn r2_8_responses_say_what_is_left_by_the_fields_that_were_asked_for() {
    let gateway = Inside::with_files(TIERED, &[("secret", SECRET)]);
    let answer = gateway.send(rider("meera", r#","tier":"regular""#)).await;
    let field = |name: &str| answer.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
    assert_eq!(
        field("ratelimit-policy").as_deref(),
        Some("\"per-rider-60s\";q=10;w=60, \"per-rider-3600s\";q=100;w=3600")
    );
    assert!(
        field("ratelimit").is_some_and(|left| left.contains("\"per-rider-60s\";r=9")),
        "{:?}",
        field("ratelimit")
    );
    let answer = gateway.send(get("/report")).await;
    let field = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
    assert_eq!((field("x-ratelimit-limit"), field("x-ratelimit-remaining")), ("10".into(), "6".into()));
    assert_eq!(gateway.send(get("/report")).await.status(), 200);
    let refused = gateway.send(get("/report")).await;
    assert_eq!(
        (refused.status().as_u16(), &refused.headers()["x-ratelimit-remaining"]),
        (429, &"2".parse().unwrap())
    );
    assert!(refused.headers().contains_key("retry-after"));
    // With the answers of an upstream that says so of itself: it is the gateway's word that counts here.
    let said = gateway.explain("http://api.example/report", &[]).to_string();
    assert!(said.contains("429 rate_limited"), "{said}");
}

#[tokio::test(start_paused = true)]
async fn r2_8_windows_that_slide_hold_through_reloads_from_one_algorithm_to_the_other() {
    let with = |algorithm: &str| {
        ONE_ROUTE.replace("key: [client_ip]", &format!("key: [client_ip], algorithm: {algorithm}"))
    };
    let gateway = Inside::new(&with("sliding_window"));
    assert_eq!(passes(&gateway, get("/limited")).await, 10);
    for algorithm in ["gcra", "sliding_window", "gcra"] {
        gateway.reload(&with(algorithm)).unwrap();
        assert_eq!(passes(&gateway, get("/limited")).await, 0, "{algorithm}");
    }
    tokio::time::advance(Duration::from_secs(121)).await;
    assert_eq!(passes(&gateway, get("/limited")).await, 10);
}
