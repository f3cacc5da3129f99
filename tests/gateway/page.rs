//! The page of the admin port, what it reads, and `naka top`.

use std::{
    collections::BTreeSet,
    process::{Command, Output, Stdio},
};

use rustix::process::Signal;
use serde_json::Value;

use crate::{
    metrics::many,
    process::{Process, command, free_address, raw},
};

mod browser;

use browser::Browser;

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
  odd: {match: {regex: '/<img src=x onerror=document.title=1>'}, respond: {body: odd}}
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
        assert!(
            head.starts_with("http/1.1 200 ") && head.contains(&format!("content-type: {kind}\r\n")),
            "{head}"
        );
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
    let (html, js) =
        (asked(&process, "GET /", "", "").await.1, asked(&process, "GET /page.js", "", "").await.1);
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
    assert_eq!(
        (&change["policy"], &change["from"], &change["to"]),
        (&"guard".into(), &"closed".into(), &"open".into())
    );
    assert_eq!(change["why"], "3 failures in a row");
    assert_eq!(stats["transitions"][0], change);

    let found = process.json("/stats?match=FIX&limit=1").await;
    assert_eq!((&found["routes"]["of"], &found["routes"]["matched"]), (&4.into(), &1.into()));
    let (head, _) = asked(&process, "GET /stats?limit=9999", "", "").await;
    assert!(head.starts_with("http/1.1 400 "), "{head}");
}

/// A browser that shows the page of this gateway.
fn browser(process: &Process, fragment: &str, width: u32) -> Option<Browser> {
    let mut browser = Browser::start()?;
    browser.open(&format!("http://{}/{fragment}", process.admin), width, 844);
    browser.until("document.documentElement.dataset.rows !== undefined");
    Some(browser)
}

#[tokio::test]
async fn a_browser_shows_what_happens_and_runs_nothing_that_a_template_says() {
    let mut process = busy().await;
    process.write("gateway.yaml", &CONFIG.replace("{body: fine}", "{boody: fine}"));
    process.says("unknown key `boody`").await;
    let Some(mut page) = browser(&process, "", 1280) else { return };
    assert_eq!(page.text("state"), "ready");
    let rows = page.text("routes-rows");
    for text in [
        "fixed",
        "respond 200 OK",
        "quota",
        "/gone/{id}",
        "upstream gone",
        "/<img src=x onerror=document.title=1>",
    ] {
        assert!(rows.contains(text), "{text}: {rows}");
    }
    assert_eq!(page.value("document.images.length"), 0);
    assert!(page.text("breakers-list").starts_with("openguard"), "{}", page.text("breakers-list"));
    let change = page.text("transitions-list");
    assert!(change.contains("closed → open") && change.contains("3 failures in a row"), "{change}");
    let mistake = page.text("reload-state");
    assert!(mistake.contains("gateway.yaml:") && mistake.contains("unknown key `boody`"), "{mistake}");
    assert!(page.text("reload-error").contains("help: "), "all of it is shown");
    page.until("document.getElementById('upstreams-list').textContent.includes('unhealthy')");
    page.until("/^[0-9.]+\\/s$/.test(document.getElementById('fact-rate').textContent)");
    assert!(page.text("bounds-list").contains("0 of 4"), "{}", page.text("bounds-list"));

    let ask = "document.getElementById('explain-url').value = URL; document.getElementById('explain-form').requestSubmit()";
    page.value(&ask.replace("URL", "'http://a/fixed'"));
    page.until("document.getElementById('explain-answer').textContent.includes('takes the request')");
    page.value(&ask.replace("URL", "'nowhere'"));
    page.until("document.getElementById('explain-answer').textContent.includes('has no host')");
    let is_of_a_refusal = |it: &Value| it["entry"]["text"].as_str().unwrap_or_default().contains("400");
    let complaints = page.complaints.iter().filter(|it| !is_of_a_refusal(it)).collect::<Vec<_>>();
    let is_icon = |it: &&&Value| it["entry"]["url"].as_str().unwrap_or_default().ends_with("/favicon.ico");
    assert_eq!(complaints.iter().filter(|it| !is_icon(it)).count(), 0, "{complaints:?}");

    // It goes away, and comes back.
    process.signal(Signal::KILL);
    process.end().await;
    page.until("document.getElementById('stale').textContent.startsWith('These numbers are of ')");
    assert_eq!(page.text("state"), "no answer");
    process.write("gateway.yaml", CONFIG);
    let again = process.started(command(&process.path("gateway.yaml")));
    page.until(
        "document.getElementById('stale').hidden && document.getElementById('state').textContent === 'ready'",
    );
    assert_eq!(page.text("reload-error"), "");
    drop(again);
}

#[tokio::test]
async fn of_ten_thousand_routes_the_page_holds_a_hundred_and_finds_every_one() {
    let process = Process::start(&many(10_000, 300_000)).await;
    assert_eq!(process.public("GET /r04242").await.0, 200);
    let Some(mut page) = browser(&process, "", 1280) else { return };
    assert_eq!(page.value("document.querySelectorAll('#routes-rows tr').length"), 100);
    assert_eq!(page.text("routes-count"), "100 of 10,000");
    assert!(page.text("routes-rows").starts_with("r04242"), "the busiest comes first");
    page.value(
        "const field = document.getElementById('match'); field.value = 'R07777'; field.dispatchEvent(new Event('input'))",
    );
    page.until("document.documentElement.dataset.rows === '1'");
    assert!(page.text("routes-rows").contains("/r07777"), "{}", page.text("routes-rows"));
    assert_eq!(page.value("location.hash"), "#match=R07777", "it can be handed on");
    assert_eq!(page.text("routes-count"), "1 that match, of 10,000");
    page.value("field.value = 'nothing'; field.dispatchEvent(new Event('input'))");
    page.until("!document.getElementById('routes-none').hidden");
}

#[tokio::test]
async fn on_a_phone_nothing_is_wider_than_the_screen() {
    let process = busy().await;
    let long = "x".repeat(90);
    let text = CONFIG.replace(
        "  sick: {match",
        &format!("  {long}: {{match: {{path: /{long}{long}}}, upstream: sick}}\n  sick: {{match"),
    );
    process.write("gateway.yaml", &text);
    process.until("it is there", async || process.json("/stats").await["generation"] == 2).await;
    process.write("gateway.yaml", &text.replace("{body: fine}", &format!("{{{long}{long}: fine}}")));
    process.says("unknown key").await;
    let Some(mut page) = browser(&process, "", 390) else { return };
    page.until("!document.getElementById('reload-error').hidden");
    page.value("document.getElementById('explain-url').value = 'http://a/fixed'; document.getElementById('explain-form').requestSubmit()");
    page.until("!document.getElementById('explain-answer').hidden");
    assert_eq!(page.value("innerWidth"), 390);
    assert_eq!(page.value("document.documentElement.scrollWidth"), 390);
    let smallest = page.value(
        "Math.min(...[...document.querySelectorAll('main *')].filter(it => it.innerText && it.checkVisibility()).map(it => parseFloat(getComputedStyle(it).fontSize)))",
    );
    assert!(smallest.as_f64().unwrap() >= 12.0, "{smallest}");
}

fn top(more: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_naka-under-test"));
    command.arg("top").args(more).stdin(Stdio::null()).output().unwrap()
}

#[tokio::test]
async fn top_shows_upstreams_the_busiest_routes_and_what_is_open() {
    let process = busy().await;
    let live = format!("--live={}", process.admin);
    let output = top(&[&live, "--once"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && text.starts_with("naka  ready  generation 1 ("), "{text}");
    assert!(!text.contains('\x1b'), "no terminal: {text:?}");
    for words in
        ["UPSTREAM ", "ROUTE ", "POLICY ", "circuit breaker open, ", "bulkhead 0 of 4 at work, 0 of 2 wait"]
    {
        assert!(text.contains(words), "{words}: {text}");
    }
    let json = top(&[&live, "--format", "json"]);
    let json = serde_json::from_slice::<Value>(&json.stdout).unwrap();
    let names = |table: &str, key: &str| {
        let rows = json[table].as_array().unwrap();
        rows.iter().map(|row| row[key].as_str().unwrap().to_owned()).collect::<BTreeSet<_>>()
    };
    assert_eq!(names("upstreams", "upstream"), BTreeSet::from(["gone".into(), "sick".into()]));
    assert_eq!(names("routes", "route").len(), 4);
    assert_eq!((&json["ready"], &json["breakers"][0]["phase"]), (&true.into(), &"open".into()));
    assert!(
        json["seconds"].as_f64().unwrap() > 0.0 && json["routes"][0]["flow"]["per_second"].is_number(),
        "{json:#}"
    );

    let nobody = top(&[&format!("--live={}", free_address()), "--once"]);
    let why = String::from_utf8(nobody.stderr).unwrap();
    assert!(
        nobody.status.code() == Some(1) && why.contains("cannot be asked") && why.contains("help: "),
        "{why}"
    );
}
