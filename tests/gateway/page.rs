//! The page of the admin port, what it reads, and `naka top`.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::process::{Process, raw};

const CONFIG: &str = "
gateway: {admin: {listen: ADMIN}, workers: 1}
listeners: {public: {listen: PUBLIC}}
policies:
  guard: {circuit_breaker: {consecutive: 3, open: 10m}}
  few: {bulkhead: {max: 4, queue: 2}}
  again: {retry: {max: 1}}
  quota: {rate_limit: {rate: 100/m, key: [client_ip]}}
upstreams:
  gone: {endpoints: ['127.0.0.1:1', '127.0.0.1:2']}
  sick: {endpoints: ['127.0.0.1:3'], health_check: {type: tcp}}
routes:
  gone: {match: {path: '/gone/{id}'}, use: [guard, few, again], upstream: gone}
  sick: {match: {path: /sick}, upstream: sick}
  fixed: {match: {path: /fixed}, use: [quota], respond: {body: fine}}
  '<img src=x onerror=document.title=1>': {match: {regex: '/(?<img><b>|x)odd'}, respond: {body: odd}}
";

/// Such a gateway that has answered, and failed until its breaker has opened.
async fn busy() -> Process {
    let process = Process::start(CONFIG).await;
    for _ in 0..5 {
        assert_eq!(process.public("GET /fixed").await.0, 200);
        assert!(process.public("GET /gone/7").await.0 >= 500);
    }
    process
}

/// What is answered to a request with these lines: its head, and its body.
async fn asked(process: &Process, line: &str, headers: &str, body: &str) -> (String, String) {
    let (at, length) = (process.admin, body.len());
    let request = format!(
        "{line} HTTP/1.1\r\nhost: {at}\r\n{headers}content-length: {length}\r\nconnection: close\r\n\r\n{body}"
    );
    let answer = String::from_utf8(raw(at, request.as_bytes()).await).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_ascii_lowercase(), body.to_owned())
}

#[tokio::test]
async fn the_page_runs_nothing_but_its_own_script_and_is_framed_by_nobody() {
    let process = Process::start(CONFIG).await;
    for (path, kind) in [
        ("/", "text/html; charset=utf-8"),
        ("/page.css", "text/css; charset=utf-8"),
        ("/page.js", "text/javascript; charset=utf-8"),
    ] {
        let (head, body) = asked(&process, &format!("GET {path}"), "", "").await;
        assert!(head.starts_with("http/1.1 200 ") && head.contains(&format!("content-type: {kind}\r\n")), "{head}");
        for line in [
            "content-security-policy: default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; ",
            "frame-ancestors 'none'",
            "x-content-type-options: nosniff",
            "x-frame-options: deny",
            "referrer-policy: no-referrer",
            "cache-control: no-store",
        ] {
            assert!(head.contains(line), "{path} lacks {line}: {head}");
        }
        for elsewhere in ["http:", "https:", "//cdn", "innerHTML", "insertAdjacentHTML", "eval("] {
            let found = body.replace("http://host/path", "").replace("http://www.w3.org/2000/svg", "");
            assert!(!found.contains(elsewhere), "{path} has {elsewhere}");
        }
    }
    assert!(asked(&process, "HEAD /", "", "").await.0.starts_with("http/1.1 200 "));
    assert!(asked(&process, "POST /", "", "").await.0.starts_with("http/1.1 40"));
}

#[tokio::test]
async fn every_element_that_the_script_asks_for_is_on_the_page() {
    let process = Process::start(CONFIG).await;
    let (html, js) = (asked(&process, "GET /", "", "").await.1, asked(&process, "GET /page.js", "", "").await.1);
    let quoted = |text: &str, before: &str| {
        let all = text.split(before).skip(1).map(|rest| rest.split('"').next().unwrap().to_owned());
        all.collect::<BTreeSet<_>>()
    };
    let (there, wanted) = (quoted(&html, " id=\""), quoted(&js, "at(\""));
    assert!(wanted.len() > 20, "{wanted:?}");
    assert_eq!(wanted.difference(&there).collect::<Vec<_>>(), Vec::<&String>::new());
    let times = html.matches(" id=\"").count();
    assert_eq!(times, there.len(), "each is there once");
}

#[tokio::test]
async fn the_page_may_ask_for_an_explanation_and_no_other_page_may() {
    let process = Process::start(CONFIG).await;
    let body = r#"{"request": "GET http://a/fixed", "headers": []}"#;
    let own = format!("origin: http://{}\r\nsec-fetch-site: same-origin\r\n", process.admin);
    let (head, answer) = asked(&process, "POST /explain", &own, body).await;
    assert!(head.starts_with("http/1.1 200 "), "{head}");
    let answer = serde_json::from_str::<Value>(&answer).unwrap();
    assert!(answer["text"].as_str().unwrap().contains("fixed"), "{answer}");
    for headers in [
        "origin: http://evil.example\r\n",
        "origin: null\r\n",
        "origin: http://127.0.0.1:1\r\n",
        &own.replace("http://", "https://"),
        &own.replace("same-origin", "cross-site"),
        &format!("{own}origin: http://evil.example\r\n"),
    ] {
        let (head, _) = asked(&process, "POST /explain", headers, body).await;
        assert!(head.starts_with("http/1.1 403 "), "{headers}: {head}");
    }
    for line in ["POST /reload", "GET /stats", "POST /policies?policy=guard&do=force_open"] {
        assert!(asked(&process, line, &own, "").await.0.starts_with("http/1.1 403 "), "{line}");
    }
}

#[tokio::test]
async fn stats_count_what_has_happened_and_transitions_say_why() {
    let process = busy().await;
    let stats = process.json("/stats?sort=requests").await;
    let named = |table: &str, key: &str, name: &str| {
        let shown = stats[table]["shown"].as_array().unwrap();
        shown.iter().find(|row| row[key] == name).cloned().unwrap_or_else(|| panic!("{name}: {stats:#}"))
    };
    let fixed = named("routes", "route", "fixed");
    assert_eq!(fixed["by_class"], serde_json::json!([0, 5, 0, 0, 0]));
    let buckets = fixed["took"]["buckets"].as_array().unwrap();
    assert_eq!(buckets.iter().map(|it| it.as_u64().unwrap()).sum::<u64>(), 5);
    assert_eq!(buckets.len(), stats["bounds_s"].as_array().unwrap().len() + 1);
    assert_eq!((&fixed["template"], &fixed["policies"]), (&"/fixed".into(), &serde_json::json!(["quota"])));
    assert_eq!(named("routes", "route", "gone")["by_class"][4], 5);
    assert_eq!((&stats["routes"]["requests"], &stats["routes"]["failed"]), (&10.into(), &5.into()));
    assert_eq!(named("breakers", "policy", "guard")["phase"], "open");
    assert_eq!(named("limits", "policy", "quota")["admitted"], 5);
    assert_eq!(named("bulkheads", "policy", "few")["limit"], 4);
    assert_eq!(named("upstreams", "upstream", "gone")["endpoints"].as_array().unwrap().len(), 2);
    let change = process.json("/transitions").await[0].clone();
    assert_eq!((&change["policy"], &change["from"], &change["to"]), (&"guard".into(), &"closed".into(), &"open".into()));
    assert_eq!(change["why"], "3 failures in a row");
    assert_eq!(stats["transitions"][0], change);

    let found = process.json("/stats?match=FIX&limit=1").await;
    assert_eq!((&found["routes"]["of"], &found["routes"]["matched"]), (&4.into(), &1.into()));
    let (head, _) = asked(&process, "GET /stats?limit=9999", "", "").await;
    assert!(head.starts_with("http/1.1 400 "), "{head}");
}
