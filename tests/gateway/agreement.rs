//! What `explain` says is what the data path does: random configurations, random sequences of
//! requests, held responses, time that passes and reloads in between.

use std::{sync::LazyLock, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use naka::reject::{Reason, Rejection};
use naka_gateway::{
    ask::Asked as Assumed,
    explain::{Explanation, Field, Verdict},
};
use naka_testkit::{
    token::hs256,
    upstream::{Step as Do, Upstream, ok},
};
use proptest::{
    collection::vec,
    option,
    prelude::*,
    sample::{Index, select, subsequence},
};
use serde_json::{Map, Value, json};

use crate::inside::{CLIENT, Client, Inside};

/// What is done to one gateway, in order.
#[derive(Clone, Debug)]
enum Step {
    Ask(Asked),
    /// The oldest held response is let go.
    LetGo,
    Pass(u64),
    Reload(Index),
}

#[derive(Clone, Debug)]
struct Asked {
    method: &'static str,
    host: &'static str,
    target: String,
    headers: Vec<(&'static str, String)>,
    /// The response's body is left unread for a while.
    is_held: bool,
}

/// Where guards stand: with routes that take a segment away all have to have the same ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Guarded {
    /// Each has its own.
    Routes,
    /// The listener finds out who asks; a route may be public, or have a rule of its own.
    Both,
    /// The listener has all of them.
    Listener,
}

/// What a route has if it fits the others.
#[derive(Clone, Debug)]
struct Extra {
    auth: Vec<&'static str>,
    of_identity: Option<Value>,
    of_request: Option<Value>,
    /// What it makes of those who find out who asks.
    opens: Option<&'static str>,
    has_pages: bool,
    limits: Vec<&'static str>,
    strips: bool,
}

const SECRET: &str = "a secret of forty bytes, or a few of more";

/// `secret-key-of-zomato`, and `old-key`.
const PARTNERS: &str = "
keys:
  - {sha256: 39960a547f8bdddc842794dfba8eea08079dfe15d8dc3a730a1151f93857569b, subject: zomato, scopes: [rides], claims: {tier: plus}}
  - {sha256: 762c08fc17a1cc5f00d248f8b50f2f2f4d17ff2934ac31e64deacb3f5bb3f2ec, subject: old, expires: 2020-01-01}
";

/// What stands in `authorization`, and the claims of what is a valid token.
static TOKENS: LazyLock<Vec<(String, Option<String>)>> = LazyLock::new(|| {
    let claims =
        |sub: &str, exp: u64, more: &str| format!(r#"{{"sub":"{sub}","aud":"rides","exp":{exp}{more}}}"#);
    let year_2100 = 4_102_444_800;
    let signed = |claims: &str| format!("Bearer {}", hs256(SECRET.as_bytes(), claims));
    let asha = claims("asha", year_2100, r#","scope":"rides","tier":"plus""#);
    let ravi = claims("ravi", year_2100, r#","roles":["support"]"#);
    let nobody = asha.replace(r#""sub":"asha","#, "");
    let valid = [asha.clone(), asha.clone(), ravi, nobody].map(|claims| (signed(&claims), Some(claims)));
    let wrong = [
        signed(&claims("meera", 1, "")),
        signed(&asha.replace(r#""aud":"rides""#, r#""aud":"food""#)),
        format!("Bearer {}", hs256(&[7; 40], &asha)),
        "Bearer nonsense".into(),
        "Basic YTpi".into(),
    ];
    valid.into_iter().chain(wrong.map(|text| (text, None))).collect()
});

/// Keys, and whose a valid one is.
const KEYS: [(&str, Option<&str>); 4] = [
    ("secret-key-of-zomato", Some("zomato")),
    ("secret-key-of-zomato", Some("zomato")),
    ("old-key", None),
    ("guess", None),
];

/// Rules that hold of a request whoever asks.
fn rule_of_request() -> impl Strategy<Value = Value> {
    select(vec![
        json!({"cidr": "192.0.2.0/24"}),
        json!({"not": {"cidr": "192.0.2.0/24"}}),
        json!({"method": ["GET", "POST"]}),
        json!({"not": {"method": "PUT"}}),
    ])
}

fn rule_of_identity() -> impl Strategy<Value = Value> {
    select(vec![
        json!({"scope": "rides"}),
        json!({"role": ["support", "admin"]}),
        json!({"identity": ["asha", "zomato"]}),
        json!({"claim": {"tier": ["plus", "premium"]}}),
        json!({"authenticated": true}),
        json!({"not": {"claim": {"tier": "plus"}}}),
        of_some(),
        of_some(),
        json!({"all": [{"authenticated": true}, {"cidr": "192.0.2.0/24"}]}),
    ])
}

/// A rule over who asks that lets in some of those who are not known.
fn of_some() -> Value {
    json!({"any": [{"scope": "rides"}, {"method": "PUT"}]})
}

fn extra() -> impl Strategy<Value = Extra> {
    let auth = subsequence(vec!["ola", "partners"], 0..3);
    let rules = (option::weighted(0.3, rule_of_identity()), option::weighted(0.2, rule_of_request()));
    let opens = select(vec![None, None, None, Some("none"), Some("optional"), Some("optional")]);
    let flags = (opens, any::<bool>(), any::<bool>());
    (auth, rules, flags, subsequence(vec!["of-token", "of-anybody"], 0..3)).prop_map(
        |(auth, (of_identity, of_request), (opens, has_pages, strips), limits)| Extra {
            auth,
            of_identity,
            of_request,
            opens,
            has_pages,
            limits,
            strips,
        },
    )
}

impl Extra {
    /// Adds what makes a right configuration of it.
    fn put(self, route: &mut Value, guarded: Guarded, listener: &[&'static str]) {
        let strips = route.get("versions").is_some_and(|versions| {
            let is_prefix = route["match"].get("prefix").is_some();
            let is_in_path = versions["by"].to_string().contains("path");
            self.strips && guarded == Guarded::Listener && is_prefix && is_in_path
        });
        if strips {
            route["versions"]["strip"] = true.into();
            route.as_object_mut().unwrap().remove("strip_prefix");
        }
        let mut uses = route["use"].as_array().cloned().unwrap_or_default();
        let mut finds_out = listener.iter().copied().filter(|name| *name != "near").collect::<Vec<_>>();
        match guarded {
            Guarded::Routes => {
                uses.extend(self.auth.iter().copied().map(Value::from));
                finds_out = self.auth;
            }
            Guarded::Both if self.opens == Some("none") && !finds_out.is_empty() => {
                route["auth"] = "none".into();
                finds_out.clear();
            }
            Guarded::Both | Guarded::Listener => {}
        }
        let is_optional = self.opens == Some("optional") && !finds_out.is_empty();
        if is_optional && guarded != Guarded::Listener {
            route["auth"] = "optional".into();
        }
        // One that keeps out whoever is not known makes nothing optional, and is a mistake.
        let fits = |rule: &Value| !finds_out.is_empty() && (!is_optional || *rule == of_some());
        let rule = self.of_identity.filter(fits).or(self.of_request);
        if let Some(rule) = rule.filter(|_| guarded != Guarded::Listener) {
            route["authorize"] = rule;
        }
        let may = |name: &&str| match *name {
            "of-token" => finds_out.contains(&"ola"),
            _ => !finds_out.is_empty(),
        };
        uses.extend(self.limits.into_iter().filter(may).map(Value::from));
        uses.extend(self.has_pages.then(|| "pages".into()));
        if !uses.is_empty() {
            route["use"] = uses.into();
        }
    }
}

fn pages() -> impl Strategy<Value = Value> {
    let origins = select(vec![json!(["https://app.x"]), json!(["https://*.x"]), json!("*")]);
    let methods = select(vec![json!(["GET"]), json!(["GET", "POST", "PUT"])]);
    let headers = select(vec![json!([]), json!(["x-a"]), json!("*")]);
    (origins, methods, headers, any::<bool>()).prop_map(|(origins, methods, headers, credentials)| {
        let credentials = credentials && origins != json!("*");
        json!({"cors": {"origins": origins, "methods": methods, "headers": headers, "credentials": credentials}})
    })
}

/// Versions of a route, and where a request says one.
fn versions() -> impl Strategy<Value = Value> {
    let by = select(vec![
        json!(["path"]),
        json!(["header:x-api-version"]),
        json!(["path", "header:x-api-version"]),
        json!(["header:x-api-version", "path", "accept", "query:q"]),
    ]);
    let life = select(vec![
        json!({}),
        json!({"deprecated": "2020-01-01", "successor": "v2"}),
        json!({"sunset": "2021-01-01", "successor": "v2", "docs": "https://dev.x/v1"}),
        json!({"since": "2090-01-01"}),
    ]);
    let default = option::of(select(vec!["v1", "v2"]));
    let limit = option::of(select(vec!["1/m", "3/m"]));
    (by, life, default, limit, any::<bool>(), any::<bool>()).prop_map(
        |(by, life, default, limit, is_first, is_rewritten)| {
            let mut one = json!({"upstream": "app", "lifecycle": life});
            if let Some(rate) = limit {
                one["rate_limit"] = json!({"rate": rate, "key": "client_ip"});
            }
            let mut two = json!({"upstream": "two", "aliases": ["stable"]});
            if is_rewritten {
                two["rewrite"] = json!({"path": "/second", "host": "inner.x"});
            }
            let mut all = json!({"by": by, "on_conflict": if is_first { "first" } else { "reject" }});
            if let Some(default) = default {
                all["default"] = default.into();
            }
            all["of"] = json!({"v1": one, "v2": two});
            json!({"versions": all})
        },
    )
}

fn policies() -> impl Strategy<Value = Value> {
    let enforce = || select(vec!["always", "always", "always", "observe", "30%", "never"]);
    let keys = vec!["client_ip", "header:x-user", "query:q", "route", "host", "method"];
    let rate = select(vec![json!("1/m"), json!("3/m"), json!(["1/s", "2/m"]), json!(["3/m", "5/h"])]);
    let limit = (rate, subsequence(keys, 0..4), select(vec!["shared", "skip", "reject"]), enforce())
        .prop_map(|(rate, key, on_missing, enforce)| {
            json!({"rate_limit": {"rate": rate, "key": key, "on_missing": on_missing, "enforce": enforce}})
        });
    let scoped =
        (limit, select(vec!["policy", "policy", "route", "upstream"])).prop_map(|(mut limit, scope)| {
            limit["rate_limit"]["scope"] = scope.into();
            limit
        });
    let room = (1..4_u32, 0..2_u32, enforce()).prop_map(|(max, queue, enforce)| match queue {
        // Who waits for nothing is then counted: whether it is let pass in part cannot be foreseen.
        0 => json!({"bulkhead": {"max": max, "enforce": enforce}}),
        _ if enforce == "30%" => json!({"bulkhead": {"max": max, "enforce": enforce}}),
        _ => json!({"bulkhead": {"max": max, "queue": queue, "max_wait": "50ms", "enforce": enforce}}),
    });
    let of_token = select(vec!["shared", "reject"]).prop_map(|on_missing| {
        let tiers = json!({"by": "jwt.tier", "plus": "2x", "anonymous": "0.5x"});
        json!({"rate_limit": {"rate": "2/m", "key": "jwt.sub", "tiers": tiers, "on_missing": on_missing}})
    });
    (vec(scoped, 3), room, of_token, rule_of_request(), pages()).prop_map(
        |(limits, room, of_token, near, pages)| {
            let names = ["l0", "l1", "l2"].map(str::to_owned);
            let mut all: Map<_, _> = names.into_iter().zip(limits).collect();
            all.insert("room".into(), room);
            all.insert("ola".into(), json!({"jwt": {"secret": SECRET, "audiences": ["rides"]}}));
            all.insert("partners".into(), json!({"api_key": {"file": "partners.yaml"}}));
            all.insert("near".into(), json!({"authorize": near}));
            all.insert("of-token".into(), of_token);
            all.insert(
                "of-anybody".into(),
                json!({"rate_limit": {"rate": "3/m", "key": ["identity", "route"]}}),
            );
            all.insert("pages".into(), pages);
            Value::Object(all)
        },
    )
}

/// One route; its place in the list is its priority, so that nothing is left open.
fn route() -> impl Strategy<Value = Value> {
    let path = select(vec![
        json!({"path": "/"}),
        json!({"path": "/a"}),
        json!({"prefix": "/"}),
        json!({"prefix": "/"}),
        json!({"path": "/a/{id}"}),
        json!({"path": "/a/{rest...}"}),
        json!({"prefix": "/a"}),
        json!({"prefix": "/a/b"}),
        json!({"prefix": "/"}),
        json!({"regex": "/(a|b)/(?<id>[^/]*)"}),
    ]);
    let condition = option::weighted(0.1, select(vec![json!("1"), json!({"present": true})]));
    let hosts = prop_oneof![2 => Just(Vec::new()), 1 => subsequence(vec!["a.x", "*.x", "b.a.x"], 1..3)];
    let methods = prop_oneof![1 => Just(Vec::new()), 1 => subsequence(vec!["GET", "POST", "PUT"], 1..4)];
    let matches = (path, hosts, methods, condition.clone(), condition);
    let destination = prop_oneof![
        2 => versions(),
        3 => select(vec!["app", "two"]).prop_map(|upstream| json!({"upstream": upstream})),
        1 => select(vec![200, 204, 404, 503]).prop_map(|status| json!({"respond": {"status": status, "body": "own"}})),
        1 => select(vec![301, 308]).prop_map(|status| json!({"redirect": {"status": status, "scheme": "https", "path": "/moved"}})),
    ];
    let uses = subsequence(vec!["l0", "l1", "l2", "room"], 0..4);
    let changes = (any::<bool>(), any::<bool>(), any::<bool>());
    (matches, destination, uses, changes).prop_map(|((path, hosts, methods, header, query), mut route, uses, changes)| {
        let mut matches = path;
        let is_prefix = matches.get("prefix").is_some();
        let has_id = matches.to_string().contains("id");
        if !hosts.is_empty() {
            matches["host"] = hosts.into();
        }
        if !methods.is_empty() {
            matches["methods"] = methods.into();
        }
        if let Some(header) = header {
            matches["headers"] = json!({"x-a": header});
        }
        if let Some(query) = query {
            matches["query"] = json!({"q": query});
        }
        route["match"] = matches;
        if !uses.is_empty() {
            route["use"] = uses.into();
        }
        if route.get("upstream").or(route.get("versions")).is_some() {
            match changes {
                (true, ..) if has_id && route.get("upstream").is_some() => route["rewrite"] = json!({"path": "/new/{id}", "host": "inner.x"}),
                (true, ..) if is_prefix => route["strip_prefix"] = true.into(),
                _ => {}
            }
            if changes.1 {
                route["headers"] = json!({"request": {"set": {"x-set": "1"}, "add": {"x-a": "9"}, "remove": ["x-user"]}});
            }
            if changes.2 {
                route["timeouts"] = json!({"total": "never"});
            }
        }
        route
    })
}

fn config() -> impl Strategy<Value = String> {
    let upstream_room = option::weighted(0.3, 1..4_u32);
    let guarded = select(vec![Guarded::Routes, Guarded::Both, Guarded::Listener]);
    let guards = (guarded, subsequence(vec!["ola", "partners", "near"], 0..4));
    (policies(), vec((route(), extra()), 1..7), upstream_room, any::<bool>(), guards).prop_map(
        |(policies, routes, room, is_trusted, (guarded, listener))| {
            let name = |n: usize| format!("r{n}");
            let listener = if guarded == Guarded::Routes { Vec::new() } else { listener };
            let is_of_upstream = |name: &Value| {
                let limit = &policies[name.as_str().unwrap()]["rate_limit"];
                limit["scope"] == "upstream"
            };
            let routes = routes.into_iter().enumerate().map(|(n, (mut route, extra))| {
                route["priority"] = n.into();
                if route.get("versions").is_some()
                    && let Some(uses) = route.get_mut("use").and_then(Value::as_array_mut)
                {
                    uses.retain(|name| !is_of_upstream(name)); // Before a choice there is no upstream yet.
                }
                extra.put(&mut route, guarded, &listener);
                (name(n), route)
            });
            let routes = routes.collect::<Map<_, _>>();
            let mut app = json!({"endpoints": ["app:1", "app:2"]});
            if let Some(max) = room {
                app["bulkhead"] = json!({"max": max});
            }
            let mut all = json!({
                "gateway": {
                    "trusted_proxies": if is_trusted { json!(["192.0.2.0/24"]) } else { json!([]) },
                    "identity_headers": {"x-user-id": "identity", "x-user-tier": "jwt.tier"},
                },
                "listeners": {"public": {"listen": ":1", "use": listener}},
                "policies": policies,
                "upstreams": {"app": app, "two": {"endpoints": ["two:1"]}},
                "routes": routes,
            });
            // A policy that nobody uses is a warning, and no error.
            all["tests"] = json!([]);
            all.to_string()
        },
    )
}

fn asked() -> impl Strategy<Value = Asked> {
    let header = select(vec![
        ("x-a", "1"),
        ("x-a", "2"),
        ("x-user", "asha"),
        ("x-user", "ravi"),
        ("x-forwarded-for", "203.0.113.9"),
        ("x-forwarded-proto", "https"),
        ("connection", "x-a"),
        ("x-user-id", "admin"),
        ("x-user_tier", "plus"),
        ("x-api-version", "1"),
        ("x-api-version", "v2"),
        ("x-api-version", "9"),
        ("accept", "application/json;version=1, */*;q=0.1"),
        ("accept", "application/json;version=9"),
        ("origin", "https://app.x"),
        ("origin", "https://evil.y"),
        ("access-control-request-method", "PUT"),
    ]);
    let header = header.prop_map(|(name, value)| (name, value.to_owned()));
    let token =
        option::weighted(0.7, select(TOKENS.iter().map(|(text, _)| text.clone()).collect::<Vec<_>>()));
    let key = option::weighted(0.5, select(KEYS.map(|(key, _)| key).to_vec()));
    let credentials = (token, key).prop_map(|(token, key)| {
        let key = key.map(|key| ("x-api-key", key.to_owned()));
        token.map(|token| ("authorization", token)).into_iter().chain(key).collect::<Vec<_>>()
    });
    // What a browser asks before a page of another origin may.
    let wanted = select(vec!["GET", "PUT", "DELETE"]);
    let preflight = (select(vec!["https://app.x", "https://evil.y"]), wanted, any::<bool>());
    let preflight = preflight.prop_map(|(origin, wanted, has_header)| {
        let mut all = vec![("origin", origin), ("access-control-request-method", wanted)];
        all.extend(has_header.then_some(("access-control-request-headers", "x-a")));
        all.into_iter().map(|(name, value)| (name, value.to_owned())).collect::<Vec<_>>()
    });
    let preflight = option::weighted(0.15, preflight);
    let path = select(vec![
        "/",
        "/a",
        "/a/",
        "/a/1",
        "/a/b",
        "/a/b/c",
        "/b/%31",
        "/c",
        "/a/%2e%2e/b",
        "/a//b",
        "/%61",
        "/v1",
        "/v1/a",
        "/V2.0/a/1",
        "/a/v1",
        "/a/v2/b",
        "/a/v9",
        "/a/b/v1/c",
    ]);
    let query = select(vec!["", "", "?q=1", "?q=2", "?q=1&q=2", "?q=%31"]);
    let method = select(vec!["GET", "GET", "POST", "PUT", "HEAD", "DELETE", "OPTIONS"]);
    let host = select(vec!["a.x", "A.x", "a.x.", "b.a.x:80", "c.x", "y"]);
    let line = (method, host, path, query);
    (line, vec(header, 0..4), credentials, preflight, prop::bool::weighted(0.3)).prop_map(
        |((method, host, path, query), mut headers, credentials, preflight, is_held)| {
            let method = if preflight.is_some() { "OPTIONS" } else { method };
            headers.extend(preflight.unwrap_or(credentials));
            Asked { method, host, target: format!("{path}{query}"), headers, is_held }
        },
    )
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        12 => asked().prop_map(Step::Ask),
        1 => Just(Step::LetGo),
        2 => (0_u64..70_000).prop_map(Step::Pass),
        1 => any::<Index>().prop_map(Step::Reload),
    ];
    vec(step, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 250, ..ProptestConfig::default() })]

    #[test]
    fn what_explain_says_is_what_the_data_path_does(configs in vec(config(), 1..4), steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(run(&configs, steps))?;
    }
}

async fn run(configs: &[String], steps: Vec<Step>) -> Result<(), TestCaseError> {
    let gateway = Inside::with_files(&configs[0], &[("partners.yaml", PARTNERS)]);
    // A body that does not end before its client goes, where a request asks for it.
    let upstreams = ["app:1", "app:2", "two:1"].map(|name| {
        Upstream::inside(&gateway.network, name, |seen| match seen.header("x-held") {
            Some(_) => {
                vec![Do::ReadBody, Do::send("HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nhalf"), Do::Hang]
            }
            None => ok("fine"),
        })
    });
    let mut held = Vec::new();
    for step in steps {
        match step {
            Step::Ask(asked) => ask(&gateway, &upstreams, asked, &mut held).await?,
            Step::LetGo if !held.is_empty() => drop(held.remove(0)),
            Step::LetGo => {}
            Step::Pass(ms) => tokio::time::advance(Duration::from_millis(ms)).await,
            Step::Reload(index) => {
                gateway.reload(&configs[index.index(configs.len())]).map_err(TestCaseError::fail)?;
            }
        }
        settle().await;
    }
    Ok(())
}

/// Long enough for everything that is at hand to happen, too short for anything to be due.
async fn settle() {
    tokio::time::sleep(Duration::from_nanos(1)).await;
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

type Held = (Client, Response<hyper::body::Incoming>);

async fn ask(
    gateway: &Inside,
    upstreams: &[Upstream; 3],
    asked: Asked,
    held: &mut Vec<Held>,
) -> Result<(), TestCaseError> {
    let mut request = Request::builder().method(asked.method).uri(&asked.target).header("host", asked.host);
    let mut lines = Vec::new();
    let held_back = asked.is_held.then(|| ("x-held", "1".to_owned()));
    for (name, value) in asked.headers.iter().chain(&held_back) {
        request = request.header(*name, value);
        lines.push(format!("{name}: {value}"));
    }
    let request = request.body(Full::<Bytes>::default()).unwrap();
    let before = upstreams.each_ref().map(Upstream::requests);
    let mut client = gateway.client().await;
    settle().await;
    let said = gateway.explain(&format!("{} http://{}{}", asked.method, asked.host, asked.target), &lines);
    if let Some(assumed) = assumed(&asked) {
        let assumed = gateway.explain_asked(&assumed);
        prop_assert_eq!(&assumed.verdict, &said.verdict, "{}\nwith what is assumed:\n{}", said, assumed);
    }
    let head = client.head(request).await;
    let reached = upstreams.iter().zip(before).filter(|(upstream, before)| upstream.requests() > *before);
    let reached: Vec<_> = reached.map(|(upstream, _)| upstream).collect();
    match said.verdict.clone() {
        _ if !said.pending.is_empty() => {
            // Nobody lets go meanwhile, so the wait is for nothing.
            refused(&said, &Rejection::new(Reason::BulkheadTimeout), &head)?;
        }
        Verdict::Refused(rejection) => {
            prop_assert!(reached.is_empty(), "{said}");
            refused(&said, &rejection, &head)?;
        }
        Verdict::Answered(status) => {
            prop_assert_eq!(head.status(), status, "{}", said);
            prop_assert!(reached.is_empty() && !head.headers().contains_key("naka-reason"), "{said}");
            let location = head.headers().get("location").and_then(|location| location.to_str().ok());
            prop_assert_eq!(location, said.location.as_deref(), "{}", said);
        }
        Verdict::Depends(what) => prop_assert!(false, "nobody has to be asked here: {what}"),
        Verdict::Sent => {
            prop_assert_eq!(head.status().as_u16(), 200, "{}", said);
            let forwarded = said.forwarded.as_ref().expect("what is sent is sent somewhere");
            prop_assert_eq!(reached.len(), 1, "{}", said);
            prop_assert_eq!(Some(reached[0].address()), forwarded.endpoint.as_deref(), "{}", said);
            let seen = reached[0].last();
            prop_assert_eq!(seen.line.strip_suffix(" HTTP/1.1"), Some(&*forwarded.request_line), "{}", said);
            let known = |headers: &[(String, String)]| {
                let mut headers = headers.to_vec();
                headers.retain(|(name, _)| name != "x-request-id" && name != "content-length");
                headers.sort();
                headers
            };
            prop_assert_eq!(known(&seen.headers), known(&seen_as(&forwarded.headers)), "{}", said);
        }
    }
    if asked.is_held {
        held.push((client, head));
    }
    Ok(())
}

/// The same request with its credentials only thought of; nothing if they are not valid ones.
fn assumed(asked: &Asked) -> Option<Assumed> {
    let mut it = Assumed {
        request: format!("{} http://{}{}", asked.method, asked.host, asked.target),
        client_ip: Some(CLIENT.to_string()),
        ..Assumed::default()
    };
    for (name, value) in &asked.headers {
        match *name {
            "authorization" => it.jwt = Some(TOKENS.iter().find(|(text, _)| text == value)?.1.clone()?),
            "x-api-key" => it.api_key = Some(KEYS.iter().find(|(key, _)| key == value)?.1?.to_owned()),
            _ => it.headers.push(format!("{name}: {value}")),
        }
    }
    Some(it)
}

fn seen_as(fields: &[Field]) -> Vec<(String, String)> {
    fields.iter().map(|field| (field.name.clone(), field.value.clone())).collect()
}

fn refused(
    said: &Explanation,
    rejection: &Rejection,
    head: &Response<hyper::body::Incoming>,
) -> Result<(), TestCaseError> {
    prop_assert_eq!(head.status(), rejection.reason.status(), "{}", said);
    let word = head.headers().get("naka-reason").and_then(|word| word.to_str().ok());
    prop_assert_eq!(word, Some(rejection.reason.word()), "{}", said);
    let wait = head.headers().get("retry-after").and_then(|wait| wait.to_str().ok()?.parse::<u64>().ok());
    let expected = rejection.retry_after.map(|wait| wait.as_secs() + u64::from(wait.subsec_nanos() > 0));
    prop_assert_eq!(wait, expected, "{}", said);
    Ok(())
}
