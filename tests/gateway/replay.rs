//! `naka replay`, as a shell sees it.

use std::{
    io::Write as _,
    process::{Command, Stdio},
};

use serde_json::Value;

const OLD: &str = "
gateway: {admin: none}
listeners: {public: {listen: ':8080'}}
policies:
  looks: {rate_limit: {rate: 120/m, key: [client_ip]}}
  who: {api_key: {file: keys.yaml}}
upstreams:
  app: {endpoints: ['127.0.0.1:1']}
  new: {endpoints: ['127.0.0.1:2']}
routes:
  carts: {match: {prefix: /carts}, use: [looks], upstream: app}
  menus: {match: {prefix: /menus}, upstream: app}
  orders: {match: {prefix: /orders}, upstream: app}
  old: {match: {path: /old}, redirect: {status: 301, path: /menus}}
";

const LOG: &str = r#"{"method": "GET", "host": "shop.example", "path": "/carts/7", "status": 200, "duration_ms": 3}
{"request": "POST https://shop.example/carts", "headers": ["content-type: application/json"], "client_ip": "192.0.2.7"}

{"method": "GET", "host": "shop.example", "target": "/menus?city=pune", "headers": {"host": "shop.example", "accept": ["text/html", "*/*"]}, "remote_addr": "192.0.2.8"}
{"method": "GET", "host": "shop.example", "path": "/orders/1"}
{"method": "GET", "host": "shop.example", "path": "/orders/2", "api_key": "asha"}
{"method": "GET", "host": "shop.example", "path": "/old"}
{"method": "GET", "host": "shop.example", "path": "/nothing"}
no JSON
{"method": "GET", "path": "/menus"}
"#;

fn replay(old: &str, new: &str, log: &str, args: &[&str]) -> (String, Option<i32>) {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in [("gateway.yaml", old), ("next.yaml", new)] {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    let keys =
        "keys: [{sha256: 2c70e12b7a0646f92279f427c7b38e7334d8e5389cff167a1dc30e73f826b683, subject: asha}]";
    std::fs::write(folder.path().join("keys.yaml"), keys).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_naka-under-test"));
    command.current_dir(folder.path()).args(["replay", "--log", "-", "--against", "next.yaml"]).args(args);
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = piped.unwrap();
    let _ = child.stdin.take().unwrap().write_all(log.as_bytes()); // Who compares nothing reads nothing.
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
    (said, output.status.code())
}

#[test]
fn what_would_become_of_recorded_requests_is_said_by_what_differs() {
    let new = OLD
        .replace("rate: 120/m", "rate: 60/m")
        .replace(
            "menus: {match: {prefix: /menus}, upstream: app}",
            "menus: {match: {prefix: /menus}, strip_prefix: true, upstream: app}",
        )
        .replace(
            "orders: {match: {prefix: /orders}, upstream: app}",
            "orders: {match: {prefix: /orders}, use: [who], upstream: new}",
        )
        .replace("path: /menus}}", "path: /carts}}");
    let (said, code) = replay(OLD, &new, LOG, &[]);
    assert_eq!(
        said,
        "\
7 requests, 6 of them would be treated differently

answered differently
        1  301 to /menus → 301 to /carts
           first in line 7: GET http://shop.example/old
        1  sent → 401 credentials_missing by who
           first in line 5: GET http://shop.example/orders/1

limited differently
        2  rate_limit looks: 120 of 120 left → rate_limit looks: 60 of 60 left
           first in line 1: GET http://shop.example/carts/7

rewritten differently
        1  GET /menus?… → GET /?…
           first in line 4: GET http://shop.example/menus?…

routed differently
        1  orders to app → orders to new
           first in line 6: GET http://shop.example/orders/2

2 lines are no requests
  line 9: no JSON: expected ident at line 1 column 2
  line 10: it has no `host`
"
    );
    assert_eq!(code, Some(0));
    assert_eq!(replay(OLD, &new, LOG, &["--exit-code"]).1, Some(1));
    let (json, _) = replay(OLD, &new, LOG, &["--format", "json"]);
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json["requests"], &json["different"], &json["unread"]), (&7.into(), &6.into(), &2.into()));
}

#[test]
fn under_the_same_configuration_nothing_differs() {
    let (said, code) = replay(OLD, OLD, LOG, &["--exit-code"]);
    assert!(said.starts_with("7 requests, 0 of them would be treated differently\n"), "{said}");
    assert_eq!(code, Some(0));
}

/// However many kinds of differences there are, and however long lines are.
#[test]
fn what_is_kept_of_a_log_is_bounded() {
    let new = OLD.replace("prefix: /menus}, upstream", "prefix: /menus}, strip_prefix: true, upstream");
    let mut log = format!("{{\"host\": \"a\", \"path\": \"/menus/{}\"}}\n", "x".repeat(70_000));
    log.extend((0..3000).map(|number| format!("{{\"host\": \"a\", \"path\": \"/menus/{number}\"}}\n")));
    let (json, _) = replay(OLD, &new, &log, &["--format", "json"]);
    let json: Value = serde_json::from_str(&json).unwrap();
    let groups = json["differences"].as_array().unwrap();
    assert_eq!((&json["requests"], &json["unread"], groups.len()), (&3000.into(), &1.into(), 1001));
    let others = groups.iter().find(|group| group["new"] == "otherwise").unwrap();
    assert_eq!(others["count"], 2000);
}

#[test]
fn a_wrong_configuration_or_no_log_is_said_and_ends_with_2() {
    let (said, code) = replay(
        OLD,
        &OLD.replace("upstream: new", "upstream: app, x: 1").replace("upstream: app}", "upstream: none}"),
        LOG,
        &[],
    );
    assert!(code == Some(2) && said.contains("nothing to compare: next.yaml has"), "{said}");
    let output = Command::new(env!("CARGO_BIN_EXE_naka-under-test"))
        .args(["replay", "--log", "/nowhere/access.jsonl", "--against", "gateway.yaml"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
}

/// Bug: what could not be read was shown, credentials and all.
#[test]
fn nothing_secret_of_a_log_is_shown() {
    let log = r#"{"host": "a", "path": "/menus?token=SECRET1", "headers": ["Host: a", "accept: */*"]}
{"host": "a", "path": "/menus", "headers": [{"name": "Authorization", "value": "Bearer SECRET2"}]}
{"host": "a", "path": "/menus", "headers": {"cookie": "sid=SECRET3\u0001"}}
{"request": "GET http://a/menus", "jwt": "{SECRET4"}
{"request": "GET http://a/menus", "headers": [{"x": "SECRET5"}]}
{"request": "GET http://a/ menus?SECRET6"}
"#;
    let new = OLD.replace("prefix: /menus}, upstream", "prefix: /menus}, strip_prefix: true, upstream");
    let (said, _) = replay(OLD, &new, log, &[]);
    assert!(said.starts_with("1 requests, 1 of them") && said.contains("5 lines are no requests"), "{said}");
    assert!(!said.contains("SECRET"), "{said}");
    let (said, _) = replay(OLD, &new, log, &["--format", "json"]);
    assert!(!said.contains("SECRET"), "{said}");
}
