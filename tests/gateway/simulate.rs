//! `naka simulate`: a whole gateway in virtual time, between clients and servers that are only thought of.

use std::{fs, path::Path, process::Command};

use naka_gateway::{
    custom::Kinds,
    simulate::{Simulated, simulate},
};
use serde_json::Value;
use tempfile::TempDir;

/// A scenario beside these configurations.
fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

/// What comes of it, on a thread of its own: as on a command line, nobody else has a runtime or a log there.
fn acted(gateway: &str, scenario: &str) -> Value {
    acted_in(&folder(&[("gateway.yaml", gateway), ("scenario.yaml", scenario)]))
}

fn acted_in(folder: &TempDir) -> Value {
    let file = folder.path().join("scenario.yaml");
    let result =
        std::thread::spawn(move || simulate(&file, &Kinds::default()).map(|it: Simulated| it.to_json()));
    result.join().unwrap().unwrap_or_else(|refusal| panic!("{refusal}"))
}

/// What is said of a scenario that is wrong.
fn refused(gateway: &str, scenario: &str) -> String {
    let folder = folder(&[("gateway.yaml", gateway), ("scenario.yaml", scenario)]);
    let file = folder.path().join("scenario.yaml");
    let result = std::thread::spawn(move || simulate(&file, &Kinds::default()).map(|_| ()));
    result.join().unwrap().unwrap_err().to_string()
}

fn count(of: &Value) -> u64 {
    of.as_u64().unwrap_or_default()
}

/// Requests of a load that ended so.
fn ended(result: &Value, load: &str, end: &str) -> u64 {
    count(&result["loads"][load]["ends"][end])
}

const TWO: &str = "
listeners: {web: {listen: ':8080'}}
upstreams: {app: {endpoints: ['10.0.0.1:80', '10.0.0.2:80'], balance: {policy: round_robin}}}
routes: {all: {match: {prefix: /}, upstream: app}}
";

#[test]
fn requests_come_at_the_rate_that_was_said_and_take_as_long_as_servers_take() {
    let result = acted(
        TWO,
        "
gateway: gateway.yaml
duration: 100s
load: {all: {request: GET http://a.example/, rate: 50/s}}
servers: {app: {takes: 100ms}}
",
    );
    let all = &result["loads"]["all"];
    assert!((4700..5300).contains(&count(&all["asked"])), "{all}");
    assert_eq!(all["good"], all["asked"]);
    // An exponential distribution has its median at ln 2 and its p99 at ln 100 of the mean.
    assert!((62..77).contains(&count(&all["p50_ms"])), "{all}");
    assert!((420..505).contains(&count(&all["p99_ms"])), "{all}");
    let servers = result["servers"].as_array().unwrap();
    let came = servers.iter().map(|server| count(&server["requests"])).collect::<Vec<_>>();
    assert_eq!(came.iter().sum::<u64>(), count(&all["asked"]));
    assert!(came[0].abs_diff(came[1]) <= 1, "{came:?}");
}

#[test]
fn the_same_scenario_is_the_same_run_and_another_seed_is_another() {
    let scenario = |seed: u64| {
        format!(
            "
gateway: gateway.yaml
duration: 40s
seed: {seed}
load: {{all: {{request: GET http://a.example/, rate: 40/s, clients: 20, patience: 900ms}}}}
servers:
  app:
    takes: 100ms
    workers: 3
    troubles: [{{from: 10s, to: 20s, slow: 4x, endpoints: '10.0.0.1:80'}}, {{from: 25s, to: 30s, fail: 30%}}]
"
        )
    };
    let gateway = "
listeners: {web: {listen: ':8080'}}
policies: {tries: {retry: {max: 2, when: [connect_error, 500-504], methods: safe, backoff: 10ms..100ms}}}
upstreams:
  app:
    endpoints: ['10.0.0.1:80', '10.0.0.2:80']
    balance: {policy: p2c_ewma}
    health_check: {path: /healthz, interval: 1s, timeout: 500ms}
    circuit_breaker: {consecutive: 5, open: 1s..10s}
    bulkhead: {max: 10, queue: 10, max_wait: 100ms}
routes: {all: {match: {prefix: /}, methods: [GET], retry: tries, upstream: app}}
"
    .replace("match: {prefix: /}, methods: [GET]", "match: {prefix: /, methods: [GET]}");
    let folder = folder(&[("gateway.yaml", &gateway)]);
    let run = |seed| {
        fs::write(folder.path().join("scenario.yaml"), scenario(seed)).unwrap();
        acted_in(&folder)
    };
    let first = run(7);
    assert!(first == run(7), "the same seed");
    assert!(first["timeline"] != run(8)["timeline"], "another seed");
    let all = &first["loads"]["all"];
    assert!(count(&all["good"]) < count(&all["asked"]), "it is no easy time: {all}");
}

#[test]
fn troubles_are_met_and_told_apart() {
    let trouble = |how: &str| {
        acted(
            TWO,
            &format!(
                "
gateway: gateway.yaml
duration: 30s
load: {{all: {{request: GET http://a.example/, rate: 20/s, patience: 2s}}}}
servers: {{app: {{takes: 10ms, troubles: [{{from: 10s, to: 20s, {how}}}]}}}}
"
            ),
        )
    };
    let within = |count: u64, percent: u64, of: u64| count.abs_diff(of * percent / 100) <= of * 8 / 100;
    let middle = |result: &Value| {
        let rows = result["timeline"].as_array().unwrap().iter();
        let rows = rows.filter(|row| (10_000..20_000).contains(&count(&row["from_ms"])));
        rows.map(|row| count(&row["asked"])).sum::<u64>()
    };
    let fails = trouble("fail: 50%");
    assert!(within(ended(&fails, "all", "500"), 50, middle(&fails)), "{}", fails["loads"]);
    let refuses = trouble("refuse: true");
    let failed = ended(&refuses, "all", "502 connect_failed") + ended(&refuses, "all", "502 upstream_reset");
    assert!(failed.abs_diff(middle(&refuses)) <= 3, "{}", refuses["loads"]);
    let one_refuses = trouble("refuse: true, endpoints: '10.0.0.2:80'");
    assert!(
        within(ended(&one_refuses, "all", "502 connect_failed"), 50, middle(&one_refuses)),
        "{}",
        one_refuses["loads"]
    );
    let hangs = trouble("hang: true");
    assert!(ended(&hangs, "all", "gave up").abs_diff(middle(&hangs)) <= 3, "{}", hangs["loads"]);
    let slow = trouble("slow: 50x");
    assert!(count(&slow["loads"]["all"]["p99_ms"]) > 1000, "{}", slow["loads"]);
    for result in [&fails, &refuses, &one_refuses, &hangs, &slow] {
        let late =
            result["timeline"].as_array().unwrap().iter().filter(|row| count(&row["from_ms"]) >= 23_000);
        for row in late {
            assert_eq!(row["good"], row["asked"], "all is well again: {row}");
        }
    }
}

#[test]
fn who_waits_for_a_worker_waits_and_the_queue_has_an_end() {
    let result = acted(
        &TWO.replace(", '10.0.0.2:80'", ""),
        "
gateway: gateway.yaml
duration: 60s
load: {all: {request: GET http://a.example/, rate: 20/s}}
servers: {app: {takes: 100ms, workers: 1, queue: 5}}
",
    );
    let (good, full) = (ended(&result, "all", "200"), ended(&result, "all", "503"));
    // One worker does ten a second.
    assert!((500..700).contains(&good), "{}", result["loads"]);
    assert_eq!(good + full, count(&result["loads"]["all"]["asked"]));
    assert_eq!(count(&result["servers"][0]["failed"]), full);
}

#[test]
fn a_change_on_the_way_takes_effect_and_refills_nobody() {
    let gateway = "
listeners: {web: {listen: ':8080'}}
policies: {few: {rate_limit: {rate: 1/m, burst: 10, key: [client_ip]}}}
upstreams: {old: {endpoints: ['10.0.0.1:80']}, new: {endpoints: ['10.0.0.2:80']}}
routes: {all: {match: {prefix: /}, use: [few], upstream: old}}
";
    let files = [
        ("gateway.yaml", gateway),
        ("next.yaml", &gateway.replace("upstream: old}", "upstream: new}")),
        (
            "scenario.yaml",
            "
gateway: gateway.yaml
duration: 50s
load: {all: {request: GET http://a.example/, rate: 4/s, clients: 10}}
changes: [{at: 10s, gateway: next.yaml}, {at: 30s, gateway: gateway.yaml}]
",
        ),
    ];
    let result = acted_in(&folder(&files));
    // Ten of each, and what fifty seconds add.
    let good = ended(&result, "all", "200");
    assert!((90..=110).contains(&good), "{}", result["loads"]);
    assert!(ended(&result, "all", "429 rate_limited") > 50, "{}", result["loads"]);
    for server in result["servers"].as_array().unwrap() {
        assert!(count(&server["requests"]) > 10, "{server}");
    }
    let told = |what: &str| {
        let events = result["events"].as_array().unwrap().iter();
        events.filter(|event| event["text"].as_str().unwrap().starts_with(what)).cloned().collect::<Vec<_>>()
    };
    assert_eq!(told("change 1 has taken effect")[0]["at_ms"], 10_000);
    assert_eq!(told("change 2 has taken effect")[0]["at_ms"], 30_000);
}

#[test]
fn endpoints_that_are_found_other_protocols_and_health_checks_are_there_too() {
    let gateway = "
listeners: {web: {listen: ':8080', protocols: [h2c]}, other: {listen: ':8081'}}
policies: {who: {forward_auth: {url: 'http://who.example:9000/check'}}}
upstreams:
  named: {endpoints: {dns: 'app.internal:3000'}, protocol: h2, health_check: {type: grpc, interval: 1s, timeout: 500ms}}
  listed: {endpoints: {file: list.yaml}, health_check: {path: /healthz, interval: 1s, timeout: 500ms}}
  served: {endpoints: {srv: _http._tcp.app.internal}}
routes:
  named: {listener: web, match: {path: /named}, use: [who], upstream: named}
  listed: {listener: other, match: {path: /listed}, upstream: listed}
  served: {listener: other, match: {path: /served}, upstream: served}
";
    let files = [
        ("gateway.yaml", gateway),
        ("list.yaml", "['10.1.0.1:80']"),
        (
            "scenario.yaml",
            "
gateway: gateway.yaml
duration: 20s
load:
  named: {request: GET http://a.example/named, rate: 5/s, listener: web}
  listed: {request: POST http://a.example/listed, rate: 5/s, body: 200KiB, listener: other}
  served: {request: GET http://a.example/served, rate: 5/s, listener: other}
servers:
  listed: {body: 300KiB, troubles: [{from: 10s, fail: 100%, endpoints: '10.1.0.1:80'}]}
",
        ),
    ];
    let result = acted_in(&folder(&files));
    for load in ["named", "served"] {
        assert_eq!(result["loads"][load]["good"], result["loads"][load]["asked"], "{}", result["loads"]);
    }
    assert!(ended(&result, "listed", "200") > 30, "{}", result["loads"]);
    assert!(
        ended(&result, "listed", "503 no_endpoint") > 10,
        "it is found to be unwell: {}",
        result["loads"]
    );
    let servers = result["servers"].as_array().unwrap();
    let of =
        |upstream: &str| servers.iter().filter(|it| it["upstreams"] == upstream).cloned().collect::<Vec<_>>();
    assert_eq!((of("named").len(), of("listed").len(), of("served").len()), (2, 1, 2), "{servers:?}");
    assert!(
        of("named").iter().all(|it| count(&it["checks"]) > 15 && count(&it["requests"]) > 10),
        "{servers:?}"
    );
    // Whoever is asked who it is lets everybody in, if nothing is said of it.
    assert!(of("").iter().any(|it| it["address"] == "who.example:9000"), "{servers:?}");
}

#[test]
fn what_is_wrong_with_a_scenario_is_said_at_its_line() {
    let base = "gateway: gateway.yaml
duration: 1m
load:
  all: {request: GET http://a.example/, rate: 5/s}
servers:
  app: {takes: 10ms}
";
    for (from, to, line, said) in [
        ("duration: 1m", "duration: 25h", 2, "a scenario of more than a day"),
        ("rate: 5/s", "rate: 100000/s", 3, "6000000 requests are more than are simulated"),
        ("rate: 5/s", "rate: 5000/s", 4, "150000 requests could be under way at once"),
        (
            "rate: 5/s",
            "rate: 5/s, headers: {content-length: \"5\"}",
            4,
            "`content-length` is for whoever frames",
        ),
        ("rate: 5/s", "rate: 5/s, to: 2m", 4, "the scenario is over after 1m"),
        ("rate: 5/s", "rate: 5/s, from: 20s, to: 10s", 4, "it begins at 20s and is over before"),
        ("rate: 5/s", "rate: 5/s, listener: public", 4, "the configuration has no listener `public`"),
        ("rate: 5/s", "rate: 5/s, headers: {host: b.example}", 4, "the host stands in the URL"),
        ("rate: 5/s", "rate: 5/s, body: 17MiB", 4, "a body of more than 16 MiB"),
        ("rate: 5/s", "rat: 5/s", 4, "did you mean `rate`?"),
        ("  app:", "  ap:", 6, "the configuration has no upstream `ap`"),
        (
            "takes: 10ms",
            "takes: 10ms, troubles: [{from: 1s, slow: 2x, endpoints: '10.0.0.9:80'}]",
            6,
            "the configuration has no endpoint of `app` at `10.0.0.9:80`",
        ),
        ("takes: 10ms", "takes: 10ms, troubles: [{from: 1s}]", 6, "a trouble in which all is well"),
        ("servers:", "expect: [{load: al, min_good: 1%}]\nservers:", 5, "did you mean `all`?"),
        ("servers:", "expect: [{from: 1s}]\nservers:", 5, "nothing is expected"),
        (
            "servers:",
            "expect: [{load: all, max_amplification: 1.2x}]\nservers:",
            5,
            "`max_amplification` is of all together",
        ),
        (
            "servers:",
            "changes: [{at: 1m, gateway: gateway.yaml}]\nservers:",
            5,
            "the scenario is over after 1m",
        ),
        ("gateway: gateway.yaml", "gateway: other.yaml", 1, "other.yaml: cannot be read"),
        ("  all: {request: GET http://a.example/, rate: 5/s}", "  {}", 3, "nobody asks"),
    ] {
        assert!(base.contains(from), "{from}");
        let found = refused(TWO, &base.replacen(from, to, 1));
        assert!(found.contains(said), "{to}: {found}");
        assert!(found.contains(&format!(":{line}:")), "{to}: at line {line}: {found}");
    }
    let several =
        TWO.replace("{web: {listen: ':8080'}}", "{web: {listen: ':8080'}, other: {listen: ':8081'}}");
    let several = several.replace("match: {prefix: /}", "listener: web, match: {prefix: /}");
    assert!(refused(&several, base).contains("write `listener:` with one of `other`, `web`"));
    assert!(
        refused("listeners: {}", base).contains("there is no listener"),
        "the configuration is wrong itself"
    );
}

#[test]
fn a_shell_sees_whether_what_was_expected_holds_and_has_a_picture() {
    let scenario = |expect: &str| {
        format!(
            "
gateway: gateway.yaml
duration: 10s
load: {{all: {{request: GET http://a.example/, rate: 20/s}}}}
servers: {{app: {{troubles: [{{from: 5s, fail: 100%}}]}}}}
expect: [{expect}]
"
        )
    };
    let run = |expect: &str, args: &[&str]| {
        let folder = folder(&[("gateway.yaml", TWO), ("scenario.yaml", &scenario(expect))]);
        let mut command = Command::new(env!("CARGO_BIN_EXE_naka-under-test"));
        let command = command.current_dir(folder.path()).args(["simulate", "scenario.yaml"]).args(args);
        let output = command.output().unwrap();
        let picture = fs::read_to_string(folder.path().join("it.svg")).unwrap_or_default();
        (output.status.code(), String::from_utf8(output.stdout).unwrap(), picture)
    };
    let (code, text, picture) =
        run("{to: 5s, min_good: 100%, max_p99: 1s}, {max_good: 60%}", &["--svg", "it.svg"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("holds:  all loads from 0s to 5s: at least 100% good: it is 100.00%"), "{text}");
    assert!(picture.starts_with("<svg") && picture.contains("good answers, %"), "{picture}");
    let (code, text, _) = run("{min_good: 99%}", &[]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("FAILS:  all loads from 0s to 10s: at least 99% good"), "{text}");
    let (code, text, _) = run("{min_good: 99%}", &["--format", "json"]);
    let json = serde_json::from_str::<Value>(&text).unwrap();
    assert_eq!((code, &json["holds"]), (Some(1), &Value::Bool(false)));
    for file in ["no/such/folder.svg", "gateway.yaml", "."] {
        let (code, text, _) = run("{max_good: 99%}", &["--svg", file]);
        assert_eq!(code, Some(2), "{file}");
        assert!(text.contains("holds:"), "what came of it is said all the same: {file}: {text}");
    }
}

/// Whenever an attempt comes, also after the end of the time that is looked at.
#[test]
fn attempts_count_with_the_request_they_are_of() {
    let gateway = "
listeners: {web: {listen: ':8080'}}
policies: {tries: {retry: {max: 2, when: [500-504], methods: safe, backoff: 2s..3s}}}
upstreams: {app: {endpoints: ['10.0.0.1:80'], retry_budget: {ratio: 100%, min_per_second: 100}}}
routes: {all: {match: {prefix: /, methods: [GET]}, retry: tries, upstream: app}}
";
    let result = acted(
        gateway,
        "
gateway: gateway.yaml
duration: 10s
load: {all: {request: GET http://a.example/, rate: 10/s, from: 9s}}
servers: {app: {troubles: [{from: 0s, fail: 100%}]}}
expect: [{max_amplification: 1.5x}, {from: 9s, max_amplification: 3x}]
",
    );
    let expected = result["expected"].as_array().unwrap();
    assert_eq!(expected.iter().map(|it| &it["holds"]).collect::<Vec<_>>(), [false, true], "{expected:?}");
    // They come two seconds later at the soonest, when the scenario is over.
    let (came, asked) = (&result["servers"][0]["requests"], &result["loads"]["all"]["asked"]);
    let is = came.as_f64().unwrap() / asked.as_f64().unwrap();
    assert_eq!(expected[1]["is"], format!("{is:.2}x"), "{result}");
    assert!(is > 1.5, "{is}");
}

#[test]
fn a_change_that_could_not_take_effect_is_found_before_anything_begins() {
    let test = "tests: [{request: GET http://a.example/, expect: {status: 404}}]\n";
    let files = [
        ("gateway.yaml", TWO),
        ("next.yaml", &format!("{TWO}{test}")),
        (
            "scenario.yaml",
            "
gateway: gateway.yaml
duration: 24h
load: {all: {request: GET http://a.example/, rate: 1/s}}
changes: [{at: 23h, gateway: next.yaml}]
",
        ),
    ];
    let folder = folder(&files);
    let file = folder.path().join("scenario.yaml");
    let result = std::thread::spawn(move || simulate(&file, &Kinds::default()).map(|_| ()));
    assert!(result.join().unwrap().unwrap_err().to_string().contains("a test does not hold"));
}

/// What the repository shows holds, and is laid out.
#[test]
fn the_scenarios_of_the_examples_hold() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/scenarios");
    let scenarios = fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path());
    let scenarios = scenarios.filter(|path| fs::read_to_string(path).unwrap().contains("duration:"));
    let scenarios = scenarios.collect::<Vec<_>>();
    assert!(scenarios.len() >= 3, "{scenarios:?}");
    for scenario in scenarios {
        let acting = std::thread::spawn(move || simulate(&scenario, &Kinds::default()));
        let simulated = acting.join().unwrap().unwrap_or_else(|refusal| panic!("{refusal}"));
        assert!(simulated.holds(), "{simulated}");
    }
}
