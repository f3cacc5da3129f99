//! `naka diff`, as a shell sees it.

use std::{
    path::Path,
    process::{Command, Output, Stdio},
};

use serde_json::{Value, json};

use crate::process::{Process, TOKEN};

const OLD: &str = "
gateway: {admin: none}
listeners: {public: {listen: ':8080'}}
policies:
  looks: {rate_limit: {rate: 120/m, key: [client_ip]}}
  asks: {rate_limit: {rate: 20/m, key: [client_ip]}}
upstreams:
  app: {endpoints: ['127.0.0.1:1'], timeouts: {response_headers: 3s}}
groups:
  shop:
    use: [asks]
    routes:
      carts: {match: {prefix: /carts}, timeouts: {total: 10s}, upstream: app}
routes:
  one: {match: {path: /one}, use: [looks], upstream: app}
  old: {match: {path: /old}, respond: {body: old}}
";

struct Files(tempfile::TempDir);

impl Files {
    fn new(old: &str, new: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in [("old.yaml", old), ("new.yaml", new)] {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        Self(folder)
    }

    fn folder(&self) -> &Path {
        self.0.path()
    }

    fn diff(&self, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_naka-under-test"));
        command.current_dir(self.folder()).args(["diff", "old.yaml", "new.yaml"]).args(args);
        command.stdin(Stdio::null()).output().unwrap()
    }

    /// What it says, and how it ends.
    fn says(&self, args: &[&str]) -> (String, Option<i32>) {
        let output = self.diff(args);
        let said = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
        (said, output.status.code())
    }
}

#[test]
fn what_would_change_is_said_in_words() {
    let new = OLD
        .replace("total: 10s", "total: 3s")
        .replace("response_headers: 3s", "idle: never")
        .replace("rate: 20/m", "rate: 25/m")
        .replace("looks", "views")
        .replace(
            "  old: {match: {path: /old}, respond: {body: old}}",
            "  new: {match: {path: /new}, respond: {body: new}}",
        )
        .replace("admin: none", "admin: none, workers: 3");
    let files = Files::new(OLD, &new);
    let (said, code) = files.says(&[]);
    assert_eq!(
        said,
        "\
old.yaml → new.yaml

gateway
  workers: per-core (the default) → 3  new.yaml:2:33

policies
  asks.rate_limit.rate: 20/m → 25/m  (of carts)  new.yaml:6:29
  - looks: rate_limit.key: client_ip, rate_limit.rate: 120/m  old.yaml:5:30
  + views: rate_limit.key: client_ip, rate_limit.rate: 120/m  (of one)  new.yaml:5:30

upstreams
  app.timeouts.idle: 5m (the default) → never  new.yaml:8:54
  app.timeouts.response_headers: 3s → 10s (the default)  old.yaml:8:66

groups
  shop.routes.carts.timeouts.total: 10s → 3s  new.yaml:13:58

routes
  + new: match.path: /new, respond.body: new  new.yaml:16:23
  - old: match.path: /old, respond.body: old  old.yaml:16:23
  one.use: looks → views  new.yaml:15:35

state
  balancer: 1 kept; pool: 1 kept; rate_limit: 1 migrated, 1 created, 1 buried; retry_budget: 1 kept
  rate_limit asks migrated: what it counts goes on, under the new settings
  rate_limit views created (`looks`, which is gone, had the same settings), and begins with nothing
  rate_limit looks buried: remembered for as long as its history means something

at the next start only
  gateway.workers
"
    );
    assert_eq!(code, Some(0));
    assert_eq!(files.says(&["--exit-code"]).1, Some(1));
    let json: Value = serde_json::from_slice(&files.diff(&["--format", "json"]).stdout).unwrap();
    let changes = json["changes"].as_array().unwrap();
    let total = changes.iter().find(|it| it["path"] == "groups.shop.routes.carts.timeouts.total").unwrap();
    assert_eq!((&total["old"]["value"], &total["new"]["value"]), (&"10s".into(), &"3s".into()));
    assert_eq!(json["restart"], Value::from(vec!["gateway.workers"]));
}

#[test]
fn texts_that_mean_the_same_do_not_differ() {
    let (routes, others) = OLD.split_once("routes:\n  one").unwrap();
    let mut new = routes
        .replace("120/m, key: [client_ip]", "120/m, key: client_ip")
        .replace("'127.0.0.1:1'", "\"127.0.0.1:1\"")
        .replace("3s", "3000ms")
        .replace("  looks", "  # what anybody may look at\n  looks");
    new += "include: [more.yaml]\n";
    let files = Files::new(OLD, &new);
    std::fs::write(files.folder().join("more.yaml"), format!("routes:\n  one{others}")).unwrap();
    let (said, code) = files.says(&["--exit-code"]);
    // That a file is included is said, too, and nothing else.
    assert!(said.contains("include: not said → more.yaml") && !said.contains("\nroutes\n"), "{said}");
    assert_eq!(said.matches(" → ").count(), 2, "{said}");
    assert_eq!(code, Some(1));
    let (said, code) =
        Files::new(OLD, &OLD.replace("  one: ", "  one:   # first\n      ")).says(&["--exit-code"]);
    assert_eq!((said.as_str(), code), ("old.yaml and new.yaml say the same\n", Some(0)));
}

#[test]
fn secrets_are_not_shown_and_that_they_change_is() {
    let with = |key: &str| {
        OLD.replace(
            "policies:",
            &format!(
                "policies:\n  hs: {{jwt: {{secret: {key}, algorithms: [HS256], issuer: a, audiences: [b]}}}}"
            ),
        )
    };
    let files =
        Files::new(&with("a-secret-of-thirty-two-characters"), &with("another-secret-of-thirty-two-chars"));
    let (said, _) = files.says(&[]);
    assert!(said.contains("hs.jwt.secret: … → …"), "{said}");
    assert!(!said.contains("thirty-two"), "{said}");
}

#[test]
fn what_is_wrong_is_not_compared() {
    let (said, code) = Files::new(OLD, &OLD.replace("upstream: app", "upstream: ap")).says(&[]);
    assert!(said.contains("new.yaml:13:74") && said.contains("nothing to compare: new.yaml has"), "{said}");
    assert_eq!(code, Some(2));
}

#[test]
fn warnings_that_come_and_go_are_told() {
    let unused = OLD.replace("use: [looks], ", "");
    let (said, _) = Files::new(OLD, &unused).says(&[]);
    assert!(said.contains("warnings: 1 new, 0 gone\nwarning[unused]"), "{said}");
    let (said, _) = Files::new(&unused, OLD).says(&[]);
    assert!(said.contains("warnings: 0 new, 1 gone\n"), "{said}");
}

#[test]
fn the_readme_shows_what_diff_says() {
    let old = include_str!("../../gateway.yaml");
    let new = old.replacen("rate: 20/m, key: [jwt.sub]", "rate: 25/m, key: [jwt.sub]", 1);
    let new = new.replacen("response_headers: 3s, idle", "idle", 1);
    let files = Files::new(old, &new);
    let (said, _) = files.says(&[]);
    let said = said.replace("old.yaml", "gateway.yaml").replace("new.yaml", "next.yaml");
    let readme = include_str!("../../README.md");
    let (_, shown) = readme.split_once("$ naka diff gateway.yaml next.yaml\n").unwrap();
    assert_eq!(said.trim_end(), shown.split_once("\n```").unwrap().0);
}

/// Bugs: of two tests of one request the last was compared, and a comma in a text was as good as one between two.
#[test]
fn what_looks_alike_is_not_the_same() {
    let tests = |one: &str, other: &str| {
        let test = |value: &str| {
            format!(
                "  - {{request: GET http://a/one, with: {{headers: {{x-a: {value}}}}}, expect: {{route: one}}}}\n"
            )
        };
        format!("{OLD}tests:\n{}{}", test(one), test(other))
    };
    let (said, code) = Files::new(&tests("'1'", "'2'"), &tests("'3'", "'2'")).says(&["--exit-code"]);
    assert!(code == Some(1) && said.contains("with.headers.x-a: 1 → 3"), "{said}");
    let lists = |list: &str| {
        let regions = format!("{{by: host, of: {{south: {list}}}, otherwise: [z]}}");
        OLD.replace("app: {", &format!("app: {{balance: {{regions: {regions}}}, "))
    };
    let (said, code) = Files::new(&lists("['a, b', c]"), &lists("[a, b, c]")).says(&["--exit-code"]);
    assert!(code == Some(1) && said.contains("[\"a, b\", c] → [a, b, c]"), "{said}");
    let with = |value: &str| {
        OLD.replace("use: [looks], ", &format!("use: [looks], headers: {{request: {{set: {{authorization: '{value}', x-other: '{value}'}}}}}}, "))
    };
    let (said, _) = Files::new(&with("Basic b25l"), &with("Basic dHdv")).says(&[]);
    assert!(
        said.contains("authorization: … → …") && said.contains("x-other: Basic b25l → Basic dHdv"),
        "{said}"
    );
}

/// `use` is a set, and `naka fmt` sorts it.
#[test]
fn the_order_of_a_set_is_no_difference() {
    let with = |set: &str| OLD.replace("use: [looks], ", &format!("use: {set}, "));
    let files = Files::new(&with("[looks, asks]"), &with("[asks, looks]"));
    assert_eq!(files.says(&["--exit-code"]), ("old.yaml and new.yaml say the same\n".into(), Some(0)));
}

const LIVE: &str = "
gateway: {admin: {listen: ADMIN}}
listeners: {public: {listen: 'PUBLIC'}}
policies:
  looks: {rate_limit: {rate: 120/m, key: [client_ip]}}
  hs: {jwt: {secret: a-secret-of-thirty-two-characters, algorithms: [HS256], issuer: a, audiences: [b]}}
upstreams: {app: {endpoints: ['127.0.0.1:1'], timeouts: {connect: 2s}}}
routes:
  keyed: {match: {path: /keyed, headers: {x-api-key: letmein}, query: {token: letmein}}, respond: {body: fine}}
  one: {match: {path: /one}, use: [looks], headers: {request: {set: {authorization: Basic bGV0bWVpbg==}}}, upstream: app}
  two: {match: {path: /two}, use: [hs], upstream: app}
";

/// `naka diff --live` with a file beside that of the process.
fn diff_live(process: &Process, file: &str, args: &[&str]) -> (String, Option<i32>) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_naka-under-test"));
    command.args(["diff", &format!("--live={}", process.admin)]).arg(process.path(file)).args(args);
    let output = command.env("NAKA_ADMIN_TOKEN", TOKEN).stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
    (said, output.status.code())
}

#[tokio::test]
async fn a_running_gateway_is_compared_with_a_file() {
    let process = Process::start(LIVE).await;
    process.write("next.yaml", LIVE);
    let (said, code) = diff_live(&process, "next.yaml", &["--exit-code"]);
    let withheld = "
not compared, as a running gateway tells no secrets
  policies.hs.jwt.secret
  routes.keyed.match.headers.x-api-key
  routes.keyed.match.query.token
  routes.one.headers.request.set.authorization
";
    let next = process.path("next.yaml").display().to_string();
    let live = format!("generation 1 at {}", process.admin);
    assert_eq!((said, code), (format!("{live} and {next} say the same\n{withheld}"), Some(0)));

    let new = LIVE.replace("120/m", "60/m").replace("connect: 2s", "idle: 30s");
    process.write("next.yaml", &new.replace("{admin:", "{limits: {connections: 10}, admin:"));
    // What stands in the file of the process, and is refused, is not in force.
    process.write("gateway.yaml", &LIVE.replace("120/m", "no rate"));
    process.until("it is refused", async || process.log().contains("the change is refused")).await;
    let (said, code) = diff_live(&process, "next.yaml", &["--exit-code"]);
    let old = process.path("gateway.yaml").display().to_string();
    let expected = format!(
        "{live} → {next}

gateway
  limits.connections: not said → 10  {next}:2:33

policies
  looks.rate_limit.rate: 120/m → 60/m  (of one)  {next}:5:30

upstreams
  app.timeouts.connect: 2s → 1s (the default)  {old}:7:67
  app.timeouts.idle: 5m (the default) → 30s  {next}:7:64

at the next start only
  gateway.limits.connections
{withheld}"
    );
    assert_eq!(said, expected);
    assert_eq!(code, Some(1));
    let (said, _) = diff_live(&process, "next.yaml", &["--format", "json"]);
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((&said["state"], &said["restart"]), (&Value::Null, &json!(["gateway.limits.connections"])));
    assert_eq!(said["withheld"][0], "policies.hs.jwt.secret");

    process.write("gateway.yaml", &new);
    process.until("it is in force", async || process.json("/readyz").await["generation"] == 2).await;
    process.write("next.yaml", &new);
    let (said, _) = diff_live(&process, "next.yaml", &[]);
    assert!(said.starts_with(&format!("generation 2 at {} and ", process.admin)), "{said}");
    let (status, answer) = process.post("/rollback", "").await;
    assert_eq!(status, 200, "{answer}");
    let (said, _) = diff_live(&process, "next.yaml", &[]);
    assert!(said.contains("looks.rate_limit.rate: 120/m → 60/m"), "{said}");
}

#[tokio::test]
async fn what_is_in_force_is_shown_key_by_key_without_secrets() {
    let process = Process::start(LIVE).await;
    let (_, text) = process.get("/config").await.unwrap();
    assert!(!text.contains("thirty-two") && !text.contains("bGV0bWVpbg"), "{text}");
    assert!(!text.contains("letmein"), "{text}");
    let config: Value = serde_json::from_str(&text).unwrap();
    let file = process.path("gateway.yaml").display().to_string();
    let keys = config["keys"].as_array().unwrap();
    for expected in [
        json!({"path": ["policies", "looks", "rate_limit", "rate"], "value": "120/m", "file": file, "line": 5, "column": 30}),
        json!({"path": ["upstreams", "app", "timeouts", "response_headers"], "value": "10s", "default": true}),
        json!({"path": ["policies", "hs", "jwt", "secret"], "secret": true, "file": file, "line": 6, "column": 22}),
    ] {
        assert!(keys.contains(&expected), "{expected} is not in {keys:#?}");
    }
    assert_eq!((&config["more_keys"], &config["generation"]), (&json!(0), &json!(1)));
}

#[test]
fn with_no_gateway_there_is_nothing_to_compare() {
    let files = Files::new(OLD, OLD);
    let mut command = Command::new(env!("CARGO_BIN_EXE_naka-under-test"));
    command.current_dir(files.folder()).args(["diff", "--live=127.0.0.1:1", "new.yaml"]);
    let output = command.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("the gateway's admin port 127.0.0.1:1 cannot be asked"), "{said}");
    assert_eq!(output.status.code(), Some(2));
    let (said, code) = files.says(&["--live"]);
    assert!(code == Some(2) && said.contains("cannot be used with"), "{said}");
}
