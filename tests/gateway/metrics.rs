//! What `/metrics` says, and what is shipped to look at it with.

use std::{
    collections::BTreeSet,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use naka_gateway::{admin, observe::Metrics};
use naka_testkit::upstream::{Step, Upstream, answer, ok};
use serde_json::Value;

use crate::{
    inside::{Inside, get},
    process::{Process, free_address, raw},
};

/// A gateway that has something of everything that is counted.
const EVERYTHING: &str = "
gateway: {admin: {listen: ADMIN}, workers: 2, stores: {limits: {redis: 'redis://127.0.0.1:4', secret: {file: secret}}}}
listeners:
  public: {listen: PUBLIC}
  secured: {listen: SECURED, tls: {certificates: [{cert: api.pem, key: api.key}]}}
policies:
  limited: {rate_limit: {rate: 2/m, key: [client_ip]}}
  few: {bulkhead: {max: 1, queue: 2}}
  guard: {circuit_breaker: {consecutive: 2}}
  again: {retry: {max: 1}}
  shared: {rate_limit: {rate: 1000/m, shared: {store: limits, share: 100%}}}
upstreams:
  gone: {endpoints: ['127.0.0.1:1', '127.0.0.1:2'], circuit_breaker: {consecutive: 5}, health_check: {type: tcp}}
  found: {endpoints: {file: found.yaml}}
routes:
  gone: {listener: public, match: {path: '/gone/{id}'}, use: [few, guard, again], upstream: gone}
  found: {listener: public, match: {prefix: /found}, use: [shared], upstream: found}
  either: {listener: public, match: {prefix: /either}, split: {to: {gone: 50, found: 50}, by: client_ip}}
  both: {listener: public, match: {path: /both}, compose: {calls: {one: {upstream: gone, path: /one}}}}
  fixed: {listener: public, match: {path: /fixed}, use: [limited], respond: {body: fine}}
";

/// Such a gateway, which has seen requests of each kind.
async fn everything() -> Process {
    let folder = tempfile::tempdir().unwrap();
    let issued = rcgen::generate_simple_self_signed(["api.example".into()]).unwrap();
    fs::write(folder.path().join("api.pem"), issued.cert.pem()).unwrap();
    fs::write(folder.path().join("api.key"), issued.signing_key.serialize_pem()).unwrap();
    fs::write(folder.path().join("secret"), "what nobody else knows").unwrap();
    fs::write(folder.path().join("found.yaml"), "- \"127.0.0.1:3\"\n").unwrap();
    let secured = format!("'{}'", free_address());
    let process = Process::start_in(folder, &EVERYTHING.replace("SECURED", &secured)).await;
    asks(&process).await;
    process
}

async fn asks(process: &Process) {
    for line in ["GET /gone/7", "GET /gone/8", "GET /found", "GET /either", "GET /nowhere"] {
        assert!(process.public(line).await.0 >= 400, "{line}");
    }
    let answers = [process.public("GET /fixed").await.0, process.public("GET /fixed").await.0];
    assert_eq!((answers, process.public("GET /fixed").await.0), ([200; 2], 429));
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn shipped(file: &str) -> String {
    fs::read_to_string(root().join("examples/observability").join(file)).unwrap()
}

/// The names of metrics, as `TYPE` says them.
fn names(text: &str) -> BTreeSet<&str> {
    text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect()
}

async fn scrape(process: &Process) -> String {
    let (status, text) = process.get("/metrics").await.unwrap();
    assert_eq!(status, 200, "{text}");
    text
}

#[tokio::test]
async fn metrics_are_written_as_they_are_asked_for() {
    let process = everything().await;
    let at = process.admin;
    let ask = async |accept: &str| {
        let request = format!("GET /metrics HTTP/1.1\r\nhost: {at}\r\n{accept}connection: close\r\n\r\n");
        String::from_utf8(raw(at, request.as_bytes()).await).unwrap()
    };
    let plain = ask("").await;
    assert!(plain.contains("content-type: text/plain; version=0.0.4; charset=utf-8\r\n"), "{plain}");
    assert!(plain.contains("# TYPE naka_requests_total counter\n") && !plain.contains("# EOF"), "{plain}");
    let open = ask("accept: application/openmetrics-text; version=1.0.0\r\n").await;
    let kind = "content-type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n";
    assert!(open.contains(kind) && open.ends_with("\n# EOF\n"), "{open}");
    assert!(open.contains("# TYPE naka_requests counter\n"), "{open}");
    for text in [plain, open] {
        assert!(
            text.contains("naka_requests_total{route=\"gone\",status=\"5xx\",template=\"/gone/{id}\"} 2\n")
        );
    }
}

/// The one that needs an authority of certificates.
const NOT_HERE: [&str; 1] = ["naka_tls_certificate_orders_total"];

#[tokio::test]
async fn the_table_of_metrics_and_a_scrape_agree() {
    let text = scrape(&everything().await).await;
    let page = fs::read_to_string(root().join("docs/operations.md")).unwrap();
    let table = page.split("\n## Metrics\n").nth(1).unwrap().split("\n## ").next().unwrap();
    let rows = table.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let rows = rows.filter(|name| !named(name).is_empty()).collect::<BTreeSet<_>>(); // Others are alerts.
    let (shown, known) = (names(&text), NOT_HERE.into());
    let written = rows.difference(&shown).copied().collect::<BTreeSet<_>>();
    assert_eq!(written, known, "in the table, and not shown");
    assert_eq!(
        shown.difference(&rows).collect::<Vec<_>>(),
        Vec::<&&str>::new(),
        "shown, and not in the table"
    );
}

/// Words of a text that are names of metrics; what rules record has a colon, and is none.
fn named(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':');
    words.filter(|it| (it.starts_with("naka_") || it.starts_with("process_")) && !it.contains(':')).collect()
}

#[tokio::test]
async fn what_rules_and_dashboard_name_is_there() {
    let text = scrape(&everything().await).await;
    let shown = names(&text);
    for (file, least) in [("rules.yaml", 10), ("rules.test.yaml", 8), ("dashboard.json", 30)] {
        let said = shipped(file);
        let named = named(&said);
        assert!(named.len() >= least, "{file}: {named:?}");
        for name in named {
            let of =
                ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
            assert!(shown.contains(of) || shown.contains(name), "{file} names {name}");
        }
    }
    let dashboard: Value = serde_json::from_str(&shipped("dashboard.json")).unwrap();
    assert!(
        dashboard["schemaVersion"].as_u64() >= Some(38)
            && dashboard["__inputs"][0]["name"] == "DS_PROMETHEUS"
    );
    let ids = dashboard["panels"].as_array().unwrap().iter().map(|panel| panel["id"].as_u64().unwrap());
    assert_eq!(ids.clone().collect::<BTreeSet<_>>().len(), ids.count());
}

/// Where a program is; `None`, said aloud, if it is not installed.
fn installed(program: &str) -> Option<PathBuf> {
    let found =
        std::env::split_paths(&std::env::var_os("PATH")?).map(|it| it.join(program)).find(|it| it.is_file());
    if found.is_none() {
        println!("skipped: `{program}` is not installed");
    }
    found
}

#[tokio::test]
async fn promtool_has_nothing_to_say() {
    let Some(promtool) = installed("promtool") else { return };
    let text = scrape(&everything().await).await;
    let mut check = Command::new(&promtool);
    check.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut check = check.spawn().unwrap();
    check.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let said = check.wait_with_output().unwrap();
    assert!(said.status.success() && said.stderr.is_empty(), "{}", String::from_utf8_lossy(&said.stderr));
    for args in [
        ["check", "config", "prometheus.yaml"],
        ["check", "rules", "rules.yaml"],
        ["test", "rules", "rules.test.yaml"],
    ] {
        let said = Command::new(&promtool)
            .args(args)
            .current_dir(root().join("examples/observability"))
            .output()
            .unwrap();
        assert!(said.status.success(), "{args:?}: {}", String::from_utf8_lossy(&said.stdout));
    }
}

/// Ended when dropped.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill(); // It may have ended.
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_prometheus_reads_it_and_evaluates_every_rule() {
    let Some(prometheus) = installed("prometheus") else { return };
    let (process, folder, at) = (everything().await, tempfile::tempdir().unwrap(), free_address());
    let config = shipped("prometheus.yaml").replace("127.0.0.1:9901", &process.admin.to_string());
    let config = config.replace("_interval: 15s", "_interval: 1s");
    fs::write(folder.path().join("prometheus.yaml"), config).unwrap();
    fs::write(folder.path().join("rules.yaml"), shipped("rules.yaml")).unwrap();
    let mut command = Command::new(prometheus);
    command.current_dir(folder.path()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.arg("--config.file=prometheus.yaml").arg("--storage.tsdb.path=data");
    let _ended = Ended(command.arg(format!("--web.listen-address={at}")).spawn().unwrap());
    let ask = async |path: &str| {
        let request = format!("GET {path} HTTP/1.0\r\nhost: {at}\r\n\r\n");
        let answer = String::from_utf8(raw(at, request.as_bytes()).await).unwrap();
        serde_json::from_str::<Value>(answer.split_once("\r\n\r\n")?.1).ok()
    };
    let is_up = async || {
        let answer = ask("/api/v1/query?query=up").await;
        answer.is_some_and(|it| it["data"]["result"][0]["value"][1] == "1")
    };
    process.until("Prometheus reads it", is_up).await;
    let all_are_well = async || {
        let Some(answer) = ask("/api/v1/rules").await else { return false };
        let groups = answer["data"]["groups"].as_array().cloned().unwrap_or_default();
        let rules = groups.iter().flat_map(|group| group["rules"].as_array().cloned().unwrap_or_default());
        let rules = rules.map(|rule| rule["health"].clone()).collect::<Vec<_>>();
        assert!(!rules.contains(&Value::from("err")), "{answer:#}");
        rules.len() >= 19 && rules.iter().all(|health| health == "ok")
    };
    process.until("every rule is evaluated", all_are_well).await;
}

pub(crate) fn many(count: usize, max_series: usize) -> String {
    let routes =
        (0..count).map(|n| format!("  r{n:05}: {{match: {{path: /r{n:05}}}, respond: {{body: fine}}}}\n"));
    format!(
        "
gateway: {{admin: {{listen: ADMIN}}, workers: 1, telemetry: {{metrics: {{max_series: {max_series}}}}}}}
listeners: {{public: {{listen: PUBLIC}}}}
routes:
{}",
        routes.collect::<String>()
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_pass_while_ten_thousand_routes_are_read() {
    let process = Process::start(&many(10_000, 300_000)).await;
    let at = process.admin;
    let request = format!("GET /metrics HTTP/1.1\r\nhost: {at}\r\nconnection: close\r\n\r\n");
    let scrape = tokio::spawn(async move { raw(at, request.as_bytes()).await });
    let (mut public, mut lives) = (0, 0);
    while !scrape.is_finished() {
        assert_eq!(process.public("GET /r09999").await, (200, "fine".into()));
        public += u32::from(!scrape.is_finished());
        assert_eq!(process.get("/livez").await.unwrap().0, 200);
        lives += u32::from(!scrape.is_finished());
    }
    let text = String::from_utf8(scrape.await.unwrap()).unwrap();
    let samples = text.lines().filter(|line| line.starts_with("naka_")).count();
    println!("{} bytes, {samples} series, {public} requests meanwhile", text.len());
    assert!(samples > 250_000 && text.contains("route=\"r09999\""), "{samples}");
    assert!(public >= 3 && lives >= 3, "{public} requests and {lives} looks while it was read");
}

fn inside(yaml: &str) -> Inside {
    Inside::new(&yaml.replace("PUBLIC", "':1'").replace("{listen: ADMIN}", "none"))
}

/// What the admin port says of `/metrics`.
async fn read(gateway: &Inside) -> (u16, String) {
    let (ours, theirs) = tokio::io::duplex(64 << 10);
    tokio::spawn(admin::serve_connection(gateway.admin(), admin::Way::Socket, theirs));
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(ours)).await.unwrap();
    tokio::spawn(connection);
    let request =
        Request::get("/metrics").header("host", "localhost").body(Full::<Bytes>::default()).unwrap();
    let response = sender.send_request(request).await.unwrap();
    let status = response.status().as_u16();
    let body = http_body_util::BodyExt::collect(response.into_body()).await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

fn value(text: &str, start: &str) -> Option<f64> {
    text.lines().find(|line| line.starts_with(start))?.rsplit(' ').next()?.parse().ok()
}

#[tokio::test]
async fn two_read_at_once_and_a_third_is_told_to_come_again() {
    let gateway = inside(&many(1, 1000));
    let admin = gateway.admin();
    let (first, second) = (admin.metrics.begin_scrape(), admin.metrics.begin_scrape());
    assert!(first.is_some() && second.is_some());
    assert_eq!(read(&gateway).await.0, 503);
    drop(first);
    assert_eq!(read(&gateway).await.0, 200);
}

#[tokio::test]
async fn what_has_no_room_shares_a_series_and_nothing_fails() {
    let gateway = inside(&many(20, 100));
    for route in ["/r00000", "/r00018", "/r00019"] {
        assert_eq!(gateway.send(get(route)).await.status(), 200);
    }
    let text = read(&gateway).await.1;
    assert_eq!(
        value(&text, "naka_requests_total{route=\"r00000\",status=\"2xx\",template=\"/r00000\"}"),
        Some(1.0)
    );
    assert_eq!(
        value(&text, "naka_requests_total{route=\"_other\",status=\"2xx\",template=\"_other\"}"),
        Some(2.0)
    );
    assert!(!text.contains("r00019"), "{text}");
    let (kept, max) = (value(&text, "naka_series "), value(&text, "naka_series_max "));
    assert!(kept <= max && max == Some(100.0), "{kept:?}");
    assert!(value(&text, "naka_series_dropped_total ") > Some(300.0), "16 routes of 25 series");
    // A smaller bound takes away what is shown beyond it, once it is in force.
    let smaller = inside(&many(20, 1000));
    let mut config = naka_gateway::config::checked::Config::clone(&smaller.generation().config);
    assert!(smaller.metric("naka_series ") >= Some(500.0));
    config.gateway.max_series = 100;
    smaller.admin().metrics.in_force(2, String::new(), &config);
    assert!(smaller.metric("naka_series ") <= Some(100.0));
    // With more room each has its own again, and counts there.
    gateway.reload(&many(20, 1000).replace("PUBLIC", "':1'").replace("{listen: ADMIN}", "none")).unwrap();
    assert_eq!(gateway.send(get("/r00019")).await.status(), 200);
    assert_eq!(gateway.metric("naka_requests_total{route=\"r00019\",status=\"2xx\""), Some(1.0));
}

#[test]
fn a_route_whose_path_is_another_has_other_series() {
    let metrics = Metrics::new();
    let (route, before, after) = ("rides".into(), "/rides/{id}".into(), "/v2/rides/{id}".into());
    drop(metrics.route(&route, &before));
    drop(metrics.route(&route, &after));
    metrics.keep(
        |_, template| template == Some(&after),
        |_| true,
        |_, _| true,
        |_, _| true,
        |_, _| true,
        |_| true,
    );
    let text = metrics.render(naka_gateway::observe::Format::Prometheus, 1);
    assert!(
        text.contains("template=\"/v2/rides/{id}\"") && !text.contains("template=\"/rides/{id}\""),
        "{text}"
    );
}

const KITCHEN: &str = "
gateway: {admin: {listen: ADMIN}}
listeners: {public: {listen: PUBLIC}}
policies:
  again: {retry: {max: 1}}
  few: {bulkhead: {max: 1, queue: 1, max_wait: 10s}}
  guard: {circuit_breaker: {consecutive: 2, open: 1m}}
upstreams: {kitchen: {endpoints: ['kitchen:1']}, closed: {endpoints: ['closed:1']}}
routes:
  again: {match: {path: /again}, use: [again], upstream: closed}
  few: {match: {path: /few}, use: [few], upstream: kitchen}
  guard: {match: {path: /guard}, use: [guard], upstream: kitchen}
";

#[tokio::test(start_paused = true)]
async fn each_attempt_counts_for_its_upstream_and_each_request_for_its_route() {
    let gateway = inside(KITCHEN);
    let _kitchen = Upstream::inside(&gateway.network, "kitchen:1", |_| ok("dal"));
    assert_eq!(gateway.send(get("/again")).await.status(), 502);
    assert_eq!(gateway.send(get("/few")).await.status(), 200);
    let metric = |start: &str| gateway.metric(start);
    assert_eq!(
        metric("naka_upstream_requests_total{upstream=\"closed\",outcome=\"connect_failed\"}"),
        Some(2.0)
    );
    assert_eq!(metric("naka_requests_total{route=\"again\",status=\"5xx\""), Some(1.0));
    assert_eq!(metric("naka_upstream_requests_total{upstream=\"kitchen\",outcome=\"2xx\"}"), Some(1.0));
    assert_eq!(metric("naka_upstream_request_duration_seconds_count{upstream=\"closed\"}"), Some(2.0));
    let connected = |upstream: &str| {
        metric(&format!("naka_upstream_connect_duration_seconds_count{{upstream=\"{upstream}\"}}"))
    };
    assert_eq!((connected("kitchen"), connected("closed")), (Some(1.0), Some(0.0)));
    let text = read(&gateway).await.1;
    assert_eq!(value(&text, "naka_upstream_connections{upstream=\"kitchen\",state=\"idle\"}"), Some(1.0));
    assert_eq!(value(&text, "naka_upstream_connections{upstream=\"kitchen\",state=\"in_use\"}"), Some(0.0));
    assert_eq!(value(&text, "naka_upstream_connections_max{upstream=\"kitchen\"}"), Some(1024.0));
    assert_eq!(value(&text, "naka_retry_budget_spent{budget=\"closed\"}"), Some(1.0));
}

#[tokio::test(start_paused = true)]
async fn r14_6_a_bulkhead_tells_its_limit_who_is_in_it_who_waits_and_how_long() {
    let gateway = Arc::new(inside(KITCHEN));
    let slow = |_: &_| std::iter::once(Step::Wait(Duration::from_secs(3))).chain(ok("dal")).collect();
    let _kitchen = Upstream::inside(&gateway.network, "kitchen:1", slow);
    let ask = || {
        let gateway = Arc::clone(&gateway);
        tokio::spawn(async move { gateway.send(get("/few")).await.status().as_u16() })
    };
    let first = ask();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let second = ask();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(ask().await.unwrap(), 503, "its queue is full");
    let text = read(&gateway).await.1;
    let gauge = |name: &str| value(&text, &format!("naka_bulkhead_{name}{{policy=\"few\"}}"));
    let gauges = ["limit", "in_use", "queue_limit", "queued"].map(gauge);
    assert_eq!(gauges, [Some(1.0); 4]);
    assert_eq!(value(&text, "naka_policy_decisions_total{policy=\"few\",outcome=\"rejected\"}"), Some(1.0));
    assert_eq!((first.await.unwrap(), second.await.unwrap()), (200, 200));
    let of = |part: &str| gateway.metric(&format!("naka_bulkhead_wait_duration_seconds_{part}"));
    assert_eq!(of("count{policy=\"few\"}"), Some(1.0));
    assert!(of("sum{policy=\"few\"}").is_some_and(|waited| (1.9..2.5).contains(&waited)), "{:?}", of("sum"));
}

#[tokio::test(start_paused = true)]
async fn r3_7_state_transitions_and_rates_of_a_breaker_are_shown() {
    let gateway = inside(KITCHEN);
    let _kitchen = Upstream::inside(&gateway.network, "kitchen:1", |_| answer(500, "", "burnt"));
    let state = |text: &str, state: &str| {
        value(text, &format!("naka_circuit_breaker_state{{policy=\"guard\",state=\"{state}\"}}"))
    };
    let opened = "naka_circuit_breaker_transitions_total{policy=\"guard\",from=\"closed\",to=\"open\"}";
    let before = read(&gateway).await.1;
    assert_eq!((state(&before, "closed"), state(&before, "open")), (Some(1.0), Some(0.0)));
    assert_eq!(value(&before, opened), Some(0.0));
    assert_eq!(gateway.send(get("/guard")).await.status(), 500);
    let failing = read(&gateway).await.1;
    assert_eq!(value(&failing, "naka_circuit_breaker_failure_ratio{policy=\"guard\"}"), Some(1.0));
    assert_eq!(gateway.send(get("/guard")).await.status(), 500);
    assert_eq!(gateway.send(get("/guard")).await.status(), 503);
    let after = read(&gateway).await.1;
    assert_eq!((state(&after, "closed"), state(&after, "open")), (Some(0.0), Some(1.0)));
    assert_eq!(value(&after, opened), Some(1.0));
}
