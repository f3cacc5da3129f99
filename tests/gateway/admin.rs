//! The admin port: who is let in, and what it shows.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use naka_gateway::admin;
use naka_testkit::upstream::{Step, Upstream, ok};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    net::TcpStream,
    time::Instant,
};

use crate::{
    inside::{Inside, get},
    process::{Process, raw},
};

const CONFIG: &str = "
gateway: {admin: {listen: ADMIN}, workers: 2}
listeners: {public: {listen: PUBLIC}}
policies:
  few: {rate_limit: {rate: 5/m, key: [client_ip]}}
routes: {all: {match: {prefix: /}, use: [few], respond: {body: fine}}}
";

fn connect(gateway: &Inside) -> DuplexStream {
    let (ours, theirs) = tokio::io::duplex(1 << 10);
    tokio::spawn(admin::serve_connection(gateway.admin(), theirs));
    ours
}

fn gateway() -> Inside {
    Inside::new(&CONFIG.replace("PUBLIC", "':1'").replace("{listen: ADMIN}", "none"))
}

#[tokio::test(start_paused = true)]
async fn a6_a_body_that_does_not_come_is_given_up() {
    let mut stream = connect(&gateway());
    stream
        .write_all(b"POST /explain HTTP/1.1\r\nhost: localhost\r\ncontent-length: 10\r\n\r\n{")
        .await
        .unwrap();
    let mut answer = String::new();
    let began = Instant::now();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert_eq!(began.elapsed().as_secs(), 10);
}

#[tokio::test(start_paused = true)]
async fn a6_whoever_takes_no_answer_is_given_up() {
    let gateway = gateway();
    let (mut ours, theirs) = tokio::io::duplex(64);
    let served = tokio::spawn(admin::serve_connection(gateway.admin(), theirs));
    ours.write_all(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    let ended = tokio::time::timeout(Duration::from_mins(1), served).await;
    assert!(ended.is_ok(), "it is still being served");
    drop(ours);
}

async fn status(gateway: &Inside, request: &str) -> u16 {
    let mut stream = connect(gateway);
    stream.write_all(format!("{request}\r\nconnection: close\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer[9..12].parse().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a21_no_web_page_and_no_other_name_is_answered() {
    let gateway = gateway();
    let table = [
        ("GET /livez HTTP/1.1\r\nhost: localhost", 200),
        ("GET /livez HTTP/1.1\r\nhost: 127.0.0.1:9901", 200),
        ("GET /livez HTTP/1.1\r\nhost: [::1]:9901", 200),
        ("HEAD /livez HTTP/1.1\r\nhost: localhost", 200),
        ("GET /livez HTTP/1.1\r\nhost: rebound.example", 403),
        ("GET /livez HTTP/1.1\r\nhost: localhost\r\norigin: http://localhost", 403),
        ("GET /livez HTTP/1.1\r\nhost: localhost\r\nsec-fetch-site: cross-site", 403),
        ("GET /livez HTTP/1.1\r\nhost: localhost\r\nsec-fetch-site: same-site", 403),
        ("GET /livez HTTP/1.1\r\nhost: localhost\r\nsec-fetch-site: none", 200),
        ("GET /reload HTTP/1.1\r\nhost: localhost", 405),
        ("GET /secrets HTTP/1.1\r\nhost: localhost", 404),
        ("POST /reload HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0", 503), // Nobody is there to do it.
    ];
    for (request, expected) in table {
        assert_eq!(status(&gateway, request).await, expected, "{request}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a8_the_texts_in_force_are_known_by_their_hash() {
    let process = Process::start(CONFIG).await;
    let hashes = async || {
        let text = process.get("/metrics").await.unwrap().1;
        let lines = text.lines().filter(|line| line.starts_with("naka_config_info{"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let ready = process.json("/readyz").await;
    let expected = |ready: &serde_json::Value| format!("naka_config_info{{hash={}}} 1", ready["hash"]);
    assert_eq!(hashes().await, [expected(&ready)]);
    process.write("gateway.yaml", &CONFIG.replace("fine", "better"));
    process.answers("/", "better").await;
    let ready = process.json("/readyz").await;
    assert_eq!(hashes().await, [expected(&ready)]);
}

/// What is refused, and what is gone, leaves no labels behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r13_only_what_is_in_force_has_labels() {
    let process = Process::start(CONFIG).await;
    let more = "policies:
  few: {rate_limit: {rate: 5/m, key: [client_ip]}}
  other: {rate_limit: {rate: 5/m, key: [client_ip]}}";
    let text = CONFIG.replace("policies:\n  few: {rate_limit: {rate: 5/m, key: [client_ip]}}", more);
    let text =
        text.replace("routes: {all:", "routes: {new: {match: {path: /new}, use: [other], respond: {}}, all:");
    let failing = "tests: [{request: GET http://a/new, expect: {status: 404}}]\n";
    process.write("gateway.yaml", &(text.clone() + failing));
    process.says("a test does not hold: GET http://a/new").await;
    let metrics = process.get("/metrics").await.unwrap().1;
    assert!(metrics.contains("route=\"all\"") && metrics.contains("policy=\"few\""), "{metrics}");
    assert!(!metrics.contains("\"new\"") && !metrics.contains("\"other\""), "{metrics}");

    process.write("gateway.yaml", &text);
    process.until("the new route answers", async || process.public("GET /new").await.1.is_empty()).await;
    while process.public("GET /new").await.0 != 429 {}
    let metrics = process.get("/metrics").await.unwrap().1;
    let rejections = "naka_rejections_total{route=\"new\",policy=\"other\",reason=\"rate_limited\"} 1";
    assert!(metrics.contains(rejections), "{metrics}");

    process.write("gateway.yaml", CONFIG);
    process.until("the new route is gone", async || process.public("GET /new").await.1 == "fine").await;
    let metrics = process.get("/metrics").await.unwrap().1;
    assert!(!metrics.contains("route=\"new\""), "{metrics}");
    assert!(!metrics.contains("policy_level{policy=\"other\""), "it is buried, not in force: {metrics}");
    let buried = process.json("/config").await["buried"].clone();
    assert_eq!(buried, serde_json::json!(["rate_limit other"]));
}

/// A response that goes on is of the generation it began in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r16_a_generation_lives_as_long_as_its_last_response() {
    let upstream = Upstream::start(|seen| match seen.target() {
        "/endless" => vec![Step::send("HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nhalf"), Step::Hang],
        _ => ok("fine"),
    })
    .await;
    let with = |version| {
        format!(
            "
gateway: {{admin: {{listen: ADMIN}}, workers: 2}}
listeners: {{public: {{listen: PUBLIC}}}}
upstreams: {{app: {{endpoints: ['{}']}}}}
routes:
  all: {{match: {{prefix: /}}, upstream: app}}
  version: {{match: {{path: /version}}, respond: {{body: {version}}}}}
",
            upstream.address()
        )
    };
    let process = Process::start(&with("one")).await;
    let mut stream = TcpStream::connect(process.public).await.unwrap();
    stream.write_all(b"GET /endless HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let mut got = Vec::new();
    while !got.ends_with(b"half") {
        assert_ne!(stream.read_buf(&mut got).await.unwrap(), 0);
    }
    for version in ["two", "three"] {
        process.write("gateway.yaml", &with(version));
        process.answers("/version", version).await;
    }
    let alive = async || process.metric("naka_generations_alive ").await;
    process.until("the first and the third are alive", async || alive().await == Some(2.0)).await;
    drop(stream);
    process.until("the third is alive", async || alive().await == Some(1.0)).await;
}

/// The body of a question has a bound, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_explanation_beyond_the_bound_is_refused() {
    let process = Process::start(CONFIG).await;
    let body = vec![b' '; 70 << 10];
    let head = format!(
        "POST /explain HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let answer = raw(process.admin, &[head.as_bytes(), &body].concat()).await;
    assert!(answer.starts_with(b"HTTP/1.1 413 "), "{}", String::from_utf8_lossy(&answer));
}

const BOUNDED: &str = "
gateway: {environment: development}
listeners: {public: {listen: ':1'}}
upstreams: {app: {endpoints: ['app:1']}}
policies:
  staff: {basic_auth: {file: htpasswd}}
  legacy: {forward_auth: {url: 'http://auth:9000/check', timeout: 5s}}
routes:
  staff: {match: {path: /staff}, use: [staff], respond: {body: fine}}
  old: {match: {path: /old}, use: [legacy], respond: {body: fine}}
  pay: {match: {path: /pay}, timeouts: {total: never}, idempotency: {ttl: 1h}, upstream: app}
  late: {match: {path: /late}, fault: {header: x-chaos, value: monday, until: 2090-01-01, delay: {percent: 100%, time: 5s}}, upstream: app}
  shop: {match: {prefix: /shop}, versions: {by: [path], default: v1, of: {v1: {upstream: app}}}}
";

/// The answer to a question, as JSON or as text.
async fn shown(gateway: &Inside, path: &str) -> String {
    let mut stream = connect(gateway);
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer.split_once("\r\n\r\n").unwrap().1.to_owned()
}

#[tokio::test(start_paused = true)]
async fn what_is_bounded_is_shown() {
    let hash =
        "asha:$argon2id$v=19$m=4096,t=2,p=1$c2FsdHNhbHRzYWx0$SvL9pc27qyFeWF/hpm04a+T49mrW8eo1MaIDg0wGN6o";
    let gateway = Arc::new(Inside::with_files(BOUNDED, &[("htpasswd", hash)]));
    let upstream = Upstream::inside(&gateway.network, "app:1", |_| vec![Step::ReadBody, Step::Hang]);
    let authority = Upstream::inside(&gateway.network, "auth:9000", |_| vec![Step::Hang]);
    let send = |request: Request<Full<Bytes>>| {
        let gateway = Arc::clone(&gateway);
        tokio::spawn(async move { gateway.send(request).await })
    };
    let with = |target: &str, name: &str, value: &str| {
        let mut request = get(target);
        request.headers_mut().insert(http::HeaderName::try_from(name).unwrap(), value.parse().unwrap());
        request
    };
    let mut pays = with("/pay", "idempotency-key", "a").map(|_| Full::from("40 rupees"));
    *pays.method_mut() = http::Method::POST;
    let all = [send(pays), send(with("/late", "x-chaos", "monday")), send(get("/old"))];
    while upstream.working() == 0 || authority.working() == 0 {
        tokio::task::yield_now().await;
    }
    let metrics = shown(&gateway, "/metrics").await;
    let level = |policy: &str, level: &str| {
        let start = format!("naka_policy_level{{policy=\"{policy}\",level=\"{level}\"}} ");
        metrics.lines().find_map(|line| line.strip_prefix(&start)).map(|value| value.parse::<u64>().unwrap())
    };
    assert_eq!(level("pay/idempotency", "keys"), Some(1), "{metrics}");
    assert_eq!(level("pay/idempotency", "working"), Some(1));
    assert_eq!(level("pay/idempotency", "bytes"), Some(256));
    assert!(level("pay/idempotency", "buffered_bytes").is_some());
    assert_eq!(level("late/fault", "delayed"), Some(1));
    assert_eq!(level("legacy", "asking"), Some(1));
    assert_eq!(level("staff", "waiting"), Some(0));
    let policies = serde_json::from_str::<serde_json::Value>(&shown(&gateway, "/policies").await).unwrap();
    let pay = &policies["pay/idempotency"];
    assert_eq!((&pay["kind"], &pay["keys"], &pay["working"]), (&"idempotency".into(), &1.into(), &1.into()));
    assert_eq!((&pay["bytes"], pay["buffered_bytes"].is_u64()), (&256.into(), true));
    assert_eq!(policies["late/fault"], serde_json::json!({"kind": "fault", "delayed": 1}));
    assert_eq!(policies["legacy"], serde_json::json!({"kind": "forward_auth", "asking": 1}));
    assert_eq!(policies["staff"], serde_json::json!({"kind": "basic_auth", "waiting": 0}));
    gateway
        .reload("\nlisteners: {public: {listen: ':1'}}\nroutes: {all: {match: {prefix: /}, respond: {}}}\n")
        .unwrap();
    let config = serde_json::from_str::<serde_json::Value>(&shown(&gateway, "/config").await).unwrap();
    assert_eq!(config["buried"], serde_json::json!(["idempotency pay/idempotency", "versions shop"]));
    all.iter().for_each(tokio::task::JoinHandle::abort);
}
