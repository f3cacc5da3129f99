//! The access log: what a line says, which requests have one, and that nobody waits for it.

use std::{fs, path::PathBuf, time::Duration};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use naka_gateway::{replay::replay, telemetry::log::Counts};
use naka_testkit::upstream::{Seen, Step, Upstream, answer, ok};
use serde_json::{Value, json};

use crate::inside::{Inside, get};

const YAML: &str = "
gateway:
  telemetry:
    tracing: {}
    access_log: {file: access.jsonl, headers: [user-agent, x-city]}
listeners: {public: {listen: ':1'}}
policies:
  partners: {api_key: {file: partners.yaml}}
upstreams:
  kitchens:
    endpoints: ['a:1', 'b:1']
    balance: {policy: round_robin}
    retry_budget: {ratio: 100%, min_per_second: 100, window: 10s}
routes:
  orders:
    match: {path: '/orders/{id}'}
    use: [partners]
    rate_limit: {rate: 2/h, key: [client_ip]}
    retry: {max: 1, when: [connect_error, 5xx]}
    upstream: kitchens
  status: {match: {prefix: /status}, upstream: kitchens}
  here: {match: {prefix: /here}, respond: {status: 200, body: fine}}
";
/// `secret-key-of-zomato`.
const PARTNERS: &str =
    "keys: [{subject: zomato, sha256: 39960a547f8bdddc842794dfba8eea08079dfe15d8dc3a730a1151f93857569b}]";

fn gateway(yaml: &str) -> Inside {
    Inside::with_files(yaml, &[("partners.yaml", PARTNERS)])
}

fn file(gateway: &Inside) -> PathBuf {
    gateway.folder().join("access.jsonl")
}

fn counts(gateway: &Inside) -> Counts {
    let generation = gateway.generation();
    generation.state.logs.iter().next().map(|(_, log)| log.counts()).unwrap()
}

/// Waits for real: the log has a thread of its own.
async fn until(what: &str, holds: impl Fn() -> bool) {
    for _ in 0..2000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what}");
}

async fn lines(gateway: &Inside, count: usize) -> Vec<Value> {
    let read = || fs::read_to_string(file(gateway)).unwrap_or_default();
    until("lines", || read().lines().count() >= count && read().ends_with('\n')).await;
    let all = read().lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<_>>();
    assert_eq!(all.len(), count, "{all:#?}");
    all
}

fn ordered(id: u32) -> Request<Full<Bytes>> {
    let mut request = get(&format!("/orders/{id}?phone=9820098200"));
    let said = [
        ("x-api-key", "secret-key-of-zomato"),
        ("user-agent", "curl/8.9"),
        ("x-city", "p\"une"),
        ("cookie", "session=secret"),
    ];
    for (name, value) in said {
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    request
}

#[tokio::test]
async fn r8_6_a_line_says_what_was_decided_and_nothing_that_is_nobodys_business() {
    let gateway = gateway(YAML);
    let _broken = Upstream::inside(&gateway.network, "a:1", |_| answer(503, "", ""));
    let _fine = Upstream::inside(&gateway.network, "b:1", |_| ok("fine"));
    let answered = gateway.send(ordered(17)).await;
    gateway.send(ordered(18)).await;
    gateway.send(ordered(19)).await;
    gateway.send(get("/nowhere")).await;
    gateway.send(get("/here")).await;
    let mut all = lines(&gateway, 5).await;
    let first = all[0].as_object_mut().unwrap();
    assert_eq!(first["request_id"], answered.headers()["x-request-id"].to_str().unwrap());
    assert_eq!(first["trace_id"].as_str().unwrap().len(), 32);
    assert!(first["time"].as_str().unwrap().ends_with('Z') && first["duration_ms"].as_f64().unwrap() > 0.0);
    for own in ["request_id", "trace_id", "span_id", "time", "duration_ms"] {
        first.remove(own);
    }
    let decision = first["decision"].as_object_mut().unwrap();
    for one in decision["attempts"].as_array_mut().unwrap() {
        let one = one.as_object_mut().unwrap();
        assert!(one.remove("answered_ms").is_some() && one.remove("duration_ms").is_some());
    }
    assert!(decision["events"][0].as_object_mut().unwrap().remove("at_ms").is_some());
    assert_eq!(
        all[0],
        json!({
            "client_ip": "192.0.2.1", "method": "GET", "scheme": "http", "host": "api.example", "path": "/orders/17",
            "version": "HTTP/1.1", "headers": {"user-agent": "curl/8.9", "x-city": "p\"une"},
            "status": 200, "bytes": 4, "sampled": true,
            "decision": {
                "terminated_by": "upstream", "route": "orders", "template": "/orders/{id}",
                "identity": {"scheme": "api_key", "subject": "zomato"},
                "limit": {"policy": "orders/rate_limit", "remaining": 1},
                "endpoint": "b:1",
                "attempts": [
                    {"upstream": "kitchens", "endpoint": "a:1", "status": 503},
                    {"upstream": "kitchens", "endpoint": "b:1", "status": 200},
                ],
                "events": [{"what": "retried", "policy": "orders/retry"}],
            },
        })
    );
    let refused = &all[2]["decision"];
    assert_eq!((&refused["terminated_by"], &refused["reason"]), (&json!("policy"), &json!("rate_limited")));
    assert_eq!(
        (&all[3]["decision"]["terminated_by"], &all[3]["decision"]["route"]),
        (&json!("gateway"), &Value::Null)
    );
    assert_eq!((&all[4]["decision"]["terminated_by"], &all[4]["bytes"]), (&json!("gateway"), &json!(4)));
    let text = fs::read_to_string(file(&gateway)).unwrap();
    for secret in ["9820098200", "secret"] {
        assert!(!text.contains(secret), "{secret}");
    }
}

/// It is not the last attempt that says who has answered, and not an attempt at all where something stands in.
#[tokio::test]
async fn who_has_ended_a_request_is_told_with_hedges_and_fallbacks_too() {
    let yaml = YAML.replace(
        "  status: {",
        "  hedged: {match: {prefix: /hedged}, hedge: {after: 20ms}, upstream: kitchens}
  helped: {match: {prefix: /helped}, fallback: {respond: {status: 200, body: later}, when: [5xx]}, upstream: kitchens}
  status: {",
    );
    let gateway = gateway(&yaml);
    let slow = |seen: &Seen| {
        let mut steps = vec![Step::Wait(Duration::from_millis(300))];
        steps.extend(if seen.target().starts_with("/helped") { answer(500, "", "") } else { ok("fine") });
        steps
    };
    let _first = Upstream::inside(&gateway.network, "a:1", slow);
    let _second = Upstream::inside(&gateway.network, "b:1", |_| vec![Step::ReadBody, Step::Hang]);
    let mut client = gateway.client().await;
    client.send(get("/hedged")).await;
    let told = lines(&gateway, 1).await;
    assert_eq!(told[0]["decision"]["attempts"].as_array().unwrap().len(), 2);
    let by = (&told[0]["decision"]["terminated_by"], &told[0]["decision"]["endpoint"]);
    assert_eq!(by, (&json!("upstream"), &json!("a:1")));
    client.send(get("/helped")).await;
    let told = lines(&gateway, 2).await;
    assert_eq!((&told[1]["status"], &told[1]["decision"]["terminated_by"]), (&json!(200), &json!("gateway")));
    assert_eq!(told[1]["decision"]["events"].as_array().unwrap().last().unwrap()["what"], "fell_back");
}

/// Also who it was, as far as the log tells it.
#[tokio::test]
async fn what_the_log_tells_is_what_replay_reads() {
    let gateway = gateway(&YAML.replace("headers:", "query: true, headers:"));
    let _fine = [
        Upstream::inside(&gateway.network, "a:1", |_| ok("fine")),
        Upstream::inside(&gateway.network, "b:1", |_| ok("fine")),
    ];
    gateway.send(ordered(17)).await;
    gateway.send(get("/here?a=b")).await;
    gateway.send(get("/nowhere")).await;
    lines(&gateway, 3).await;
    let log = fs::read(file(&gateway)).unwrap();
    assert!(String::from_utf8_lossy(&log).contains("/here?a=b"));
    let before = gateway.generation();
    let same = replay(&log[..], &before, &before).unwrap();
    assert_eq!((same.requests, same.unread, same.different), (3, 0, 0), "{same}");
    gateway.reload(&YAML.replace("{prefix: /here}", "{prefix: /there}")).unwrap();
    let other = replay(&log[..], &before, &gateway.generation()).unwrap();
    assert_eq!((other.requests, other.different), (3, 1), "{other}");
}

#[tokio::test]
async fn so_many_are_told_as_is_said_by_the_status_of_their_answers() {
    let gateway =
        gateway(&YAML.replace("headers:", "sample: {2xx: 0%, 404: 100%, 4xx: 0%, 503: 50%}, headers:"));
    let _all = Upstream::inside(&gateway.network, "a:1", |seen| {
        answer(seen.header("x-status").unwrap().parse().unwrap(), "", "")
    });
    let _same = Upstream::inside(&gateway.network, "b:1", |seen| {
        answer(seen.header("x-status").unwrap().parse().unwrap(), "", "")
    });
    let mut client = gateway.client().await;
    for status in ["200", "204", "404", "409", "302", "500"] {
        let mut request = get("/status");
        request.headers_mut().insert("x-status", status.parse().unwrap());
        client.send(request).await;
    }
    let told = lines(&gateway, 2).await;
    assert_eq!(
        told.iter().map(|it| it["status"].as_u64().unwrap()).collect::<Vec<_>>(),
        [302, 500],
        "the last that fits counts"
    );
    for _ in 0..400 {
        let mut request = get("/status");
        request.headers_mut().insert("x-status", "503".parse().unwrap());
        client.send(request).await;
    }
    until("written", || counts(&gateway).written > 2 + 100).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let half = counts(&gateway).written - 2;
    assert!((130..270).contains(&half), "{half}"); // Seven standard deviations.
}

#[tokio::test]
async fn whoever_goes_away_is_told_of_before_the_head_and_behind_it() {
    let gateway = gateway(YAML);
    let _hangs = Upstream::inside(&gateway.network, "a:1", |_| vec![Step::ReadBody, Step::Hang]);
    let _breaks = Upstream::inside(&gateway.network, "b:1", |_| {
        vec![Step::send("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nfirst"), Step::Hang]
    });
    let mut client = gateway.client().await;
    let gone = tokio::spawn(async move { client.whole(get("/status")).await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    gone.abort();
    let told = lines(&gateway, 1).await;
    assert_eq!((&told[0]["status"], &told[0]["decision"]["terminated_by"]), (&json!(499), &json!("client")));
    let mut client = gateway.client().await;
    let mut body = client.head(get("/status")).await.into_body();
    body.frame().await.unwrap().unwrap();
    drop((body, client));
    let told = lines(&gateway, 2).await;
    assert_eq!((&told[1]["status"], &told[1]["bytes"]), (&json!(200), &json!(5)));
    assert_eq!(told[1]["decision"]["terminated_by"], "client");
}

#[tokio::test]
async fn a_disk_that_is_full_costs_lines_and_no_request() {
    let gateway = gateway(&YAML.replace("access.jsonl", "/dev/full"));
    let mut client = gateway.client().await;
    for _ in 0..500 {
        assert_eq!(client.send(get("/here")).await.body(), "fine");
    }
    until("all are counted", || counts(&gateway).failed + counts(&gateway).dropped == 500).await;
    assert_eq!(counts(&gateway).written, 0);
}

/// A pipe that nobody reads: the thread that writes stands still in it.
#[tokio::test]
async fn a_log_that_takes_nothing_delays_nobody_and_holds_no_more_than_is_said() {
    let gateway = gateway(&YAML.replace("access.jsonl", "pipe, queue: 16KiB"));
    let pipe = gateway.folder().join("pipe");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &pipe,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        0,
    )
    .unwrap();
    let mut client = gateway.client().await;
    for _ in 0..500 {
        assert_eq!(client.send(get("/here")).await.body(), "fine");
    }
    let log = gateway.generation().state.logs.iter().next().map(|(_, log)| log.clone()).unwrap();
    assert!(log.bytes() < 18 << 10, "{}", log.bytes());
    assert!(log.counts().dropped > 400, "{:?}", log.counts());
    let reader = tokio::task::spawn_blocking(move || {
        fs::File::open(pipe).map(|pipe| std::io::copy(&mut { pipe }, &mut std::io::sink()))
    });
    until("what waited is written", || log.bytes() == 0).await;
    assert_eq!(log.counts().written + log.counts().dropped, 500);
    gateway.reload(&YAML.replace("access.jsonl", "other.jsonl")).unwrap();
    drop((log, gateway, client));
    reader.await.unwrap().unwrap().unwrap(); // The thread has closed it.
}

#[tokio::test]
async fn a_file_that_is_moved_away_is_made_anew_and_a_reload_goes_on_with_it() {
    let gateway = gateway(YAML);
    gateway.send(get("/here")).await;
    lines(&gateway, 1).await;
    gateway.reload(&YAML.replace("[user-agent, x-city]", "[user-agent]")).unwrap();
    gateway.send(get("/here")).await;
    lines(&gateway, 2).await;
    let moved = gateway.folder().join("access.jsonl.1");
    fs::rename(file(&gateway), &moved).unwrap();
    tokio::time::sleep(Duration::from_millis(1100)).await;
    gateway.send(get("/here")).await;
    lines(&gateway, 1).await;
    assert_eq!(fs::read_to_string(moved).unwrap().lines().count(), 2);
}

#[tokio::test]
async fn r8_6_a_header_with_keys_in_it_is_not_told_whatever_it_is_called() {
    let gateway = gateway(YAML);
    let keyed = YAML.replace("{file: partners.yaml}", "{file: partners.yaml, header: x-partner-key}");
    gateway.reload(&keyed).unwrap();
    let refused = gateway.reload(&keyed.replace("x-city", "x-partner-key")).unwrap_err();
    assert!(refused.contains("`x-partner-key` is where an `api_key` policy has its keys"), "{refused}");
}
