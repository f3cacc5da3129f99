//! The command line, as a shell sees it.

use std::{
    path::Path,
    process::{Command, Output, Stdio},
};

fn naka(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_naka-under-test")).args(args).stdin(Stdio::null()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// The output, and the exit code it has to have.
fn says(args: &[&str], code: i32) -> String {
    let output = naka(args);
    let said = text(&output.stdout) + &text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{said}");
    said
}

fn write(folder: &Path, yaml: &str) -> String {
    let file = folder.join("gateway.yaml");
    std::fs::write(&file, yaml).unwrap();
    file.to_str().unwrap().to_owned()
}

const FAILING: &str = "
gateway: {reload: {run_tests: false}}
listeners: {public: {listen: ':8080'}}
upstreams: {app: {endpoints: ['127.0.0.1:1']}}
routes:
  one: {match: {path: /one, methods: [GET]}, upstream: app}
  two: {match: {path: /one, headers: {x-a: '1'}, methods: [GET]}, respond: {body: two}}
tests:
  - {request: GET http://a/one, expect: {route: two}}
";

#[test]
fn the_readme_shows_what_explain_and_check_say() {
    let readme = include_str!("../../README.md");
    let mut shown = 0;
    for block in readme.split("```console\n").skip(1) {
        let (command, said) = block.split_once("\n```").unwrap().0.split_once('\n').unwrap_or_default();
        let Some(command) = command.strip_prefix("$ naka ").filter(|it| !it.contains("--live")) else {
            continue;
        };
        if !command.starts_with("explain ") && command != "check gateway.yaml" {
            continue;
        }
        let quoted = command.split('\'').enumerate().flat_map(|(at, part)| match at % 2 {
            0 => part.split_whitespace().collect(),
            _ => vec![part],
        });
        let output = text(&naka(&quoted.collect::<Vec<_>>()).stdout);
        let lines = |text: &str| {
            let random = |line: &&str| !line.trim_start().starts_with("x-request-id: ");
            text.trim_end().lines().filter(random).map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(lines(&output), lines(said), "{command}");
        shown += 1;
    }
    assert!(shown > 0, "the README shows none");
}

#[test]
fn check_reports_five_mistakes_each_with_line_column_and_help() {
    let folder = tempfile::tempdir().unwrap();
    let mistakes = include_str!("../../crates/naka-gateway/tests/config/mistakes/five-mistakes.txt");
    let (yaml, _) = mistakes.split_once("\n-----\n").unwrap();
    let said = says(&["check", &write(folder.path(), &format!("{yaml}\n"))], 1);
    for place in [":2:26", ":4:60", ":6:35", ":10:15", ":11:23"] {
        assert!(said.contains(&format!("gateway.yaml{place}")), "{place} is missing in\n{said}");
    }
    assert_eq!(said.matches("= help: ").count(), 5, "{said}");
    assert!(said.contains("has 5 errors"), "{said}");
    let json = says(&["check", "--format", "json", &write(folder.path(), &format!("{yaml}\n"))], 1);
    let json = serde_json::from_str::<serde_json::Value>(&json).unwrap();
    assert_eq!(json["errors"].as_array().unwrap().len(), 5, "{json}");
}

/// `run_tests` is about reloads: whoever checks wants to know.
#[test]
fn a15_check_runs_the_tests_and_explain_does_not_insist_on_them() {
    let folder = tempfile::tempdir().unwrap();
    let file = write(folder.path(), FAILING);
    let said = says(&["check", &file], 1);
    assert!(
        said.contains("gateway.yaml:9:5") && said.contains("^ route: expected two, but it is one"),
        "{said}"
    );
    let said = says(&["explain", "http://a/one", "-c", &file], 0);
    assert!(said.contains("> one") && said.contains("verdict: sent"), "{said}");
    assert!(
        said.contains("two") && said.contains("the header `x-a` is missing"),
        "the loser, and why: {said}"
    );
    let file = write(folder.path(), &FAILING.replace("route: two", "route: one"));
    let said = says(&["check", &file], 0);
    assert!(said.contains("fine; 2 routes, 1 upstream, 0 policies, 1 test passed"), "{said}");
}

const OPEN: &str = "
listeners: {public: {listen: ':8080', use: [partners]}}
policies: {partners: {api_key: {file: keys.yaml}}}
routes:
  shop: {match: {path: /shop}, respond: {body: shop}}
  health: {match: {path: /health}, auth: none, respond: {body: ok}}
  offers: {match: {path: /offers}, auth: optional, respond: {body: offers}}
";

#[test]
fn check_says_which_routes_let_everybody_in() {
    let folder = tempfile::tempdir().unwrap();
    let key = format!("keys:\n  - {{sha256: '{}', subject: ola}}\n", "ab".repeat(32));
    std::fs::write(folder.path().join("keys.yaml"), key).unwrap();
    let file = write(folder.path(), OPEN);
    let said = says(&["check", &file], 0);
    assert!(said.contains("gateway.yaml:6: the route `health` is public: `auth: none`\n"), "{said}");
    assert_eq!(said.matches("is public").count(), 1, "{said}");
    let optional =
        "gateway.yaml:7: the route `offers` lets in whoever brings no credentials: `auth: optional`\n";
    assert!(said.contains(optional), "{said}");
    assert_eq!(said.matches("lets in").count(), 1, "{said}");
    let json = says(&["check", "--format", "json", &file], 0);
    let json = serde_json::from_str::<serde_json::Value>(&json).unwrap();
    assert_eq!(json["public"], serde_json::json!(["health"]), "{json}");
    assert_eq!(json["optional"], serde_json::json!(["offers"]), "{json}");
}

#[test]
fn c7_a_url_after_live_is_the_request() {
    let said = says(&["explain", "--live", "GET /one"], 1);
    assert!(!said.contains("GET /one cannot be asked"), "{said}");
    let said = says(&["explain", "--live=127.0.0.1:1", "http://a/one"], 1);
    assert!(said.contains("admin port 127.0.0.1:1 cannot be asked"), "{said}");
}

#[test]
fn c8_nobody_who_reads_is_no_panic() {
    let closed = || std::io::pipe().unwrap().1; // The reader is dropped here.
    let naka = |args: &[&str], stdout: Stdio, stderr: Stdio| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_naka-under-test"));
        command.args(args).stdin(Stdio::null()).stdout(stdout).stderr(stderr).output().unwrap()
    };
    let output = naka(&["schema"], closed().into(), Stdio::piped());
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), String::new()));
    for (args, code) in [
        (&["explain", "http://a/", "-c", "no-such.yaml"][..], 1),
        (&["explain", "/", "-c", "gateway.yaml"], 2),
        (&["explain", "http://a/", "--live=127.0.0.1:1"], 1),
        (&["run", "-c", "no-such.yaml"], 2),
        (&["chekc"], 2),
    ] {
        assert_eq!(naka(args, Stdio::null(), closed().into()).status.code(), Some(code), "{args:?}");
    }
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let output = naka(&["schema"], full.into(), Stdio::piped());
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("nothing can be written"), "{}", text(&output.stderr));
}

#[test]
fn what_is_wrong_with_the_request_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let file = write(folder.path(), FAILING);
    for (args, words) in [
        (&["GET /one"][..], "has no host: write `GET http://host/path`"),
        (&["GET http://a/one", "-H", "Host: b"], "the host stands in the URL: leave `Host` out"),
        (&["GET http://a/one", "-H", "none"], "`none` is no header: write `Name: value`"),
        (&["GET http://a/one", "--client-ip", "x"], "`x` is no address"),
        (&["GET http://a/one", "--listener", "x"], "there is no listener `x`; there is `public`"),
    ] {
        let said = says(&[&["explain", "-c", &file], args].concat(), 2);
        assert!(said.contains(words), "{said}");
    }
}

#[test]
fn unknown_words_are_refused_and_files_that_are_not_there_named() {
    assert!(says(&["chekc"], 2).contains("check"));
    let said = says(&["check", "no-such.yaml"], 1);
    assert!(said.contains("no-such.yaml"), "{said}");
    let said = says(&["run", "-c", "no-such.yaml"], 2);
    assert!(said.contains("no-such.yaml") && said.contains("not started"), "{said}");
}

#[test]
fn the_schema_is_json() {
    let schema = serde_json::from_str::<serde_json::Value>(&says(&["schema"], 0)).unwrap();
    assert!(schema["properties"]["routes"].is_object(), "{schema}");
}

/// What only a table of the routes knows comes with all the rest, in the same form.
#[test]
fn routes_and_tests_are_mistakes_like_all_others() {
    let folder = tempfile::tempdir().unwrap();
    let yaml = "
listeners: {public: {listen: ':8080'}}
upstreams: {app: {endpoints: ['127.0.0.1:1']}}
routes:
  one: {match: {path: '/{a}'}, upstream: app}
  two: {match: {path: '/{b}'}, upstream: app}
  three: {match: {path: /three}, upstream: ap}
";
    let file = write(folder.path(), yaml);
    let said = says(&["check", &file], 1);
    for words in [
        "gateway.yaml:6:3",
        "error[routes]: on listener `public`: routes `one` and `two`",
        "the first",
        "priority: 1",
    ] {
        assert!(said.contains(words), "{words} is missing in\n{said}");
    }
    assert!(said.contains("gateway.yaml:7:44") && said.contains("has 2 errors"), "{said}");
    let file = write(folder.path(), &yaml.replace("upstream: ap}", "upstream: app}"));
    let said = says(&["check", &file], 1);
    assert!(said.contains("gateway.yaml:6:3") && said.contains("has 1 error\n"), "{said}");
    let json =
        serde_json::from_str::<serde_json::Value>(&says(&["check", "--format", "json", &file], 1)).unwrap();
    let error = &json["errors"][0];
    assert_eq!(
        (&error["line"], &error["column"], &error["code"]),
        (&6.into(), &3.into(), &"routes".into()),
        "{json}"
    );
    let json = says(&["check", "--format", "json", &write(folder.path(), FAILING)], 1);
    let json = serde_json::from_str::<serde_json::Value>(&json).unwrap();
    let error = &json["errors"][0];
    assert_eq!(
        (&error["line"], &error["column"], &error["code"]),
        (&9.into(), &5.into(), &"test".into()),
        "{json}"
    );
    assert_eq!(error["explanation"]["route"], "one");
    // The first mistake of a new user: the wrong folder.
    let said = says(&["check", "no-such.yaml"], 1);
    assert!(said.contains("help: give the path of a file that is there"), "{said}");
}

#[test]
fn limits_says_every_bound_and_what_all_of_them_take() {
    let folder = tempfile::tempdir().unwrap();
    let yaml = "
gateway: {admin: none, limits: {connections: 100, upstream_connections: 5}}
listeners: {public: {listen: ':1'}}
policies:
  each: {rate_limit: {rate: 5/s, key: [client_ip], max_keys: 1000}}
  room: {bulkhead: {max: 10, queue: 5}}
upstreams:
  a: {endpoints: ['b:1', 'c:1'], protocol: h2, connections: {max: 2, streams: 10}}
  d: {endpoints: ['d:1']}
routes:
  all: {match: {prefix: /}, use: [each, room], retry: {max: 1}, cache: {max_bytes: 2MiB}, upstream: a}
  other: {match: {prefix: /other}, retry: {max: 1, max_body: 1KiB}, upstream: d}
";
    let file = write(folder.path(), yaml);
    let said = says(&["limits", &file], 0).replace(&file, "gateway.yaml");
    assert_eq!(
        said,
        "\
gateway.yaml: at most 174.7 MiB if all is at its bound at once
   156.2 MiB  the process: 100 connections of clients of 1.5 MiB  (gateway.limits.connections)
      15 MiB  a: 4 connections to endpoints of 3.7 MiB  (connections.max, streams; gateway.limits.upstream_connections)
       2 MiB  all/cache@route:all: kept answers  (cache.max_bytes)
     704 KiB  d: connections to endpoints  (connections.max, streams; gateway.limits.upstream_connections)
     640 KiB  all/retry: 10 bodies to send again of 64 KiB  (retry.max_body) *
     100 KiB  other/retry: 100 bodies to send again of 1 KiB  (retry.max_body) *
      96 KiB  each: 1024 keys of a rate limit of 96 B  (rate_limit.max_keys)
              room: 10 requests at work  (bulkhead.max, total)
              room: 5 requests that wait  (bulkhead.queue)
  * together at most 64 MiB (gateway.limits.buffered)
"
    );
    let json: serde_json::Value =
        serde_json::from_str(&says(&["limits", "--format", "json", &file], 0)).unwrap();
    let sum =
        json["bounds"].as_array().unwrap().iter().filter_map(|bound| bound["bytes"].as_u64()).sum::<u64>();
    assert_eq!(json["bytes"].as_u64(), Some(sum));
    assert!(says(&["limits", "/nowhere.yaml"], 1).contains("error[file]"));
    // What is found, and what is shared.
    let yaml = "
gateway:
  admin: none
  registries: {eureka: {servers: ['http://127.0.0.1:8761/eureka']}}
  stores: {limits: {redis: 'redis://127.0.0.1:6379', secret: {file: secret}}}
listeners: {public: {listen: ':1'}}
upstreams:
  one: {endpoints: {consul: one}}
  two: {endpoints: {eureka: TWO}}
  six: {endpoints: {eureka: SIX}}
routes:
  one: {match: {prefix: /}, rate_limit: {rate: 5/s, key: [client_ip], max_keys: 1000, shared: {store: limits, share: 50%}}, upstream: one}
  two: {match: {prefix: /two}, upstream: two}
  six: {match: {prefix: /six}, upstream: six}
";
    std::fs::write(folder.path().join("secret"), "0123456789abcdef").unwrap();
    let said = says(&["limits", &write(folder.path(), yaml)], 0);
    for line in [
        "16 MiB  one: answers of a registry  (a bound of discovery)",
        "16 MiB  eureka: answers of a registry  (a bound of discovery)",
        "8 MiB  six: 4096 endpoints that are found of 2 KiB  (a bound of discovery)",
        "384 KiB  one/rate_limit: 1024 leases of a rate limit of 384 B  (rate_limit.max_keys)",
    ] {
        assert!(said.contains(line), "{line}: {said}");
    }
}
