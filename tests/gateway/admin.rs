//! The admin port: who is let in, and what it shows.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use naka_gateway::admin;
use naka_testkit::upstream::{Step, Upstream, ok};
use rustix::process::Signal;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    net::TcpStream,
    time::Instant,
};

use crate::{
    inside::{Inside, get},
    process::{Process, TOKEN, raw},
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
    tokio::spawn(admin::serve_connection(gateway.admin(), admin::Way::Socket, theirs));
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
    let served = tokio::spawn(admin::serve_connection(gateway.admin(), admin::Way::Socket, theirs));
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

/// Asks a running gateway; `token` is shown if there is one.
async fn asked(process: &Process, line: &str, token: Option<&str>) -> (u16, String) {
    let shown = token.map_or_else(String::new, |token| format!("authorization: {token}\r\n"));
    let request = format!(
        "{line} HTTP/1.1\r\nhost: localhost\r\n{shown}connection: close\r\ncontent-length: 0\r\n\r\n"
    );
    let answer = String::from_utf8(raw(process.admin, request.as_bytes()).await).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

#[tokio::test]
async fn only_who_shows_the_token_may_change_something_over_the_address() {
    let mut process = Process::start(CONFIG).await;
    let writes =
        ["POST /reload", "POST /rollback", "POST /policies?policy=few&do=reset", "POST /upstreams?do=drain"];
    let right = format!("Bearer {TOKEN}");
    for write in writes {
        for wrong in [None, Some("Bearer "), Some("Bearer what-only-the-tests-knew"), Some(TOKEN)] {
            assert_eq!(asked(&process, write, wrong).await.0, 401, "{write} {wrong:?}");
        }
        assert!(![401, 403].contains(&asked(&process, write, Some(&right)).await.0), "{write}");
    }
    for read in ["GET /readyz", "GET /routes", "GET /generations", "GET /metrics"] {
        assert_eq!(asked(&process, read, None).await.0, 200, "{read}");
    }
    // Without a token in the file nobody may; a change of it takes effect at once.
    process.save("gateway.yaml", &CONFIG.replace("{listen: ADMIN}", "{listen: LISTEN}"));
    let text = std::fs::read_to_string(process.path("gateway.yaml")).unwrap();
    std::fs::write(process.path("gateway.yaml"), text.replace("LISTEN", &process.admin.to_string())).unwrap();
    process
        .until("the token is gone", async || asked(&process, "POST /reload", Some(&right)).await.0 == 403)
        .await;
    let (_, why) = asked(&process, "POST /reload", Some(&right)).await;
    assert!(why.contains("write `gateway.admin.token`"), "{why}");
    assert!(!process.log().contains(TOKEN));
    process.signal(Signal::TERM);
    process.end().await;
}

/// Whoever may open it may change things, and that is the user of the process.
#[tokio::test]
async fn the_socket_needs_no_token_and_is_nobody_elses() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("admin.sock");
    let yaml = CONFIG.replace("{listen: ADMIN}", &format!("{{listen: ADMIN, socket: {}}}", socket.display()));
    // One that a process left behind is replaced.
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    let mut process = Process::start_in(folder, &yaml).await;
    let mode = std::fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let naka = |args: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_naka-under-test"));
        let output = command.args(args).env_remove("NAKA_ADMIN_TOKEN").output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(said).unwrap())
    };
    let live = format!("--live=unix:{}", socket.display());
    let (code, said) = naka(&["explain", "GET http://a/", &live]);
    assert!(code == Some(0) && said.contains("verdict:"), "{said}");
    let (code, said) = naka(&["rollback", "--live", &format!("unix:{}", socket.display())]);
    assert!(code == Some(1) && said.contains("no earlier generation is kept"), "{said}");
    // A second process is not let in, and takes nothing away.
    let (code, said) = naka(&["run", "-c", process.path("gateway.yaml").to_str().unwrap()]);
    assert!(code == Some(2), "{said}");
    assert_eq!(naka(&["explain", "GET http://a/", &live]).0, Some(0));
    process.signal(Signal::TERM);
    process.end().await;
    assert!(!socket.exists(), "it goes with the process");
}

/// One generation back, and what the files say is left alone until they say something else.
#[tokio::test]
async fn an_earlier_generation_is_in_force_again_until_the_files_change() {
    let routes = |body: &str| {
        format!(
            "routes:\n  all: {{match: {{prefix: /}}, respond: {{body: {body}}}}}\n  few: {{match: {{path: /few}}, use: [few], respond: {{body: few}}}}\n"
        )
    };
    let with = |body: &str| CONFIG.split_once("routes:").unwrap().0.to_owned() + &routes(body);
    let mut process = Process::start(&with("one")).await;
    assert_eq!(process.public("GET /").await, (200, "one".to_owned()));
    assert_eq!(process.post("/rollback", "").await.0, 422, "there is none");
    process.save("gateway.yaml", &with("two"));
    process.answers("/", "two").await;
    let known = process.json("/generations").await;
    assert_eq!(
        (&known["generations"][0]["generation"], &known["rolled_back"]),
        (&1.into(), &serde_json::Value::Null)
    );
    let (status, said) = process.post("/rollback", "").await;
    assert_eq!((status, &said["rolled_back_to"], &said["generation"]), (200, &1.into(), &3.into()), "{said}");
    assert_eq!(process.public("GET /").await.1, "one");
    for _ in 0..5 {
        assert_eq!(process.public("GET /few").await.0, 200);
    }
    // Neither a reload nor the same text once more changes that.
    let (_, said) = process.post("/reload", "").await;
    assert_eq!(said["result"], "unchanged");
    process.save("gateway.yaml", &with("two"));
    assert_eq!(process.post("/reload", "").await.1["result"], "unchanged");
    let ready = process.json("/readyz").await;
    let said = ready["reload"]["rolled_back"].as_str().unwrap();
    assert!(said.contains("generation 1 is in force again, in place of 2"), "{said}");
    // Forward again, by number; and a change of the files counts as ever.
    assert_eq!(process.post("/rollback?to=2", "").await.0, 200);
    assert_eq!(process.public("GET /").await.1, "two");
    assert_eq!(process.post("/rollback?to=77", "").await.0, 422);
    assert_eq!(process.post("/rollback?to=x", "").await.0, 400);
    assert_eq!(process.public("GET /few").await.0, 429, "a rollback refills nobody");
    process.save("gateway.yaml", &with("three"));
    process.answers("/", "three").await;
    assert_eq!(process.json("/readyz").await["reload"]["rolled_back"], serde_json::Value::Null);
    process.signal(Signal::TERM);
    process.end().await;
}

/// Bugs: a secret that was changed brought back what somebody had gone back from, or did not change; and a file that nobody had read
/// yet took effect.
#[tokio::test]
async fn while_it_is_rolled_back_secrets_still_change_and_nothing_else_does() {
    let with = |body: &str| {
        format!(
            "
gateway: {{admin: {{listen: ADMIN}}, workers: 1, reload: {{watch: false}}}}
listeners: {{public: {{listen: PUBLIC}}}}
policies: {{who: {{api_key: {{file: keys.yaml}}}}}}
routes: {{all: {{match: {{prefix: /}}, use: [who], respond: {{body: {body}}}}}}}
"
        )
    };
    let folder = tempfile::tempdir().unwrap();
    let keys = |hash: &str| format!("keys: [{{sha256: {hash}, subject: asha}}]");
    let [old, new] = [
        "2c70e12b7a0646f92279f427c7b38e7334d8e5389cff167a1dc30e73f826b683",
        "b10253764c8b233fb37542e23401c7b450e5a6f9751f3b5a014f6f67e8bc999d",
    ];
    std::fs::write(folder.path().join("keys.yaml"), keys(old)).unwrap();
    let mut process = Process::start_in(folder, &with("one")).await;
    let says = async |key: &str| {
        let request = format!("GET / HTTP/1.1\r\nhost: a\r\nx-api-key: {key}\r\nconnection: close\r\n\r\n");
        let answer = String::from_utf8(raw(process.public, request.as_bytes()).await).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse::<u16>().unwrap(), body.to_owned())
    };
    process.save("gateway.yaml", &with("two"));
    assert_eq!(process.post("/reload", "").await.1["result"], "applied");
    assert_eq!(says("key").await, (200, "two".to_owned()));
    // Somebody has saved a third version that nobody has read when somebody else goes back.
    process.save("gateway.yaml", &with("three"));
    assert_eq!(process.post("/rollback", "").await.0, 200);
    assert_eq!(process.post("/reload", "").await.1["result"], "unchanged");
    assert_eq!(says("key").await, (200, "one".to_owned()));
    std::fs::write(process.path("keys.yaml"), keys(new)).unwrap();
    assert_eq!(process.post("/reload", "").await.1["result"], "applied");
    assert_eq!((says("key").await.0, says("key2").await), (401, (200, "one".to_owned())));
    process.save("gateway.yaml", &with("four"));
    assert_eq!(process.post("/reload", "").await.1["result"], "applied");
    assert_eq!(says("key2").await, (200, "four".to_owned()));
    process.signal(Signal::TERM);
    process.end().await;
}

/// Nobody could go forward again.
#[tokio::test]
async fn nobody_goes_back_to_a_generation_in_which_nobody_may_change_anything() {
    let mut process = Process::start(CONFIG).await;
    let text = std::fs::read_to_string(process.path("gateway.yaml")).unwrap();
    let without = text.replace(", token: {env: NAKA_ADMIN_TOKEN}", "");
    assert_ne!(text, without);
    std::fs::write(process.path("gateway.yaml"), &without).unwrap();
    process.until("it has none", async || process.post("/reload", "").await.0 == 403).await;
    std::fs::write(process.path("gateway.yaml"), &text).unwrap();
    process.until("it has one", async || process.post("/reload", "").await.0 == 200).await;
    let (status, why) = process.post("/rollback", "").await;
    assert!(status == 422 && why.as_str().unwrap().contains("has no `gateway.admin.token`"), "{why}");
    assert_eq!(process.post("/rollback?to=1", "").await.0, 200);
    process.signal(Signal::TERM);
    process.end().await;
}
