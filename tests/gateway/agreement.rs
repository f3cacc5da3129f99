//! What `explain` says is what the data path does: random configurations, random sequences of
//! requests, held responses, time that passes and reloads in between.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use naka::reject::{Reason, Rejection};
use naka_gateway::explain::{Explanation, Field, Verdict};
use naka_testkit::upstream::{Step as Do, Upstream, ok};
use proptest::{
    collection::vec,
    option,
    prelude::*,
    sample::{Index, select, subsequence},
};
use serde_json::{Map, Value, json};

use crate::inside::{Client, Inside};

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
    headers: Vec<(&'static str, &'static str)>,
    /// The response's body is left unread for a while.
    is_held: bool,
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
    (vec(scoped, 3), room).prop_map(|(limits, room)| {
        let names = ["l0", "l1", "l2"].map(str::to_owned);
        let mut all: Map<_, _> = names.into_iter().zip(limits).collect();
        all.insert("room".into(), room);
        Value::Object(all)
    })
}

/// One route; its place in the list is its priority, so that nothing is left open.
fn route() -> impl Strategy<Value = Value> {
    let path = select(vec![
        json!({"path": "/"}),
        json!({"path": "/a"}),
        json!({"path": "/a/{id}"}),
        json!({"path": "/a/{rest...}"}),
        json!({"prefix": "/a"}),
        json!({"prefix": "/a/b"}),
        json!({"prefix": "/"}),
        json!({"regex": "/(a|b)/(?<id>[^/]*)"}),
    ]);
    let condition = option::weighted(0.2, select(vec![json!("1"), json!({"present": true})]));
    let hosts = subsequence(vec!["a.x", "*.x", "b.a.x"], 0..2);
    let methods = subsequence(vec!["GET", "POST", "PUT"], 0..3);
    let matches = (path, hosts, methods, condition.clone(), condition);
    let destination = prop_oneof![
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
        if route.get("upstream").is_some() {
            match changes {
                (true, ..) if has_id => route["rewrite"] = json!({"path": "/new/{id}", "host": "inner.x"}),
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
    (policies(), vec(route(), 1..7), upstream_room, any::<bool>()).prop_map(
        |(policies, routes, room, is_trusted)| {
            let name = |n: usize| format!("r{n}");
            let routes = routes.into_iter().enumerate().map(|(n, mut route)| {
                route["priority"] = n.into();
                (name(n), route)
            });
            let mut app = json!({"endpoints": ["app:1", "app:2"]});
            if let Some(max) = room {
                app["bulkhead"] = json!({"max": max});
            }
            let mut all = json!({
                "gateway": {"trusted_proxies": if is_trusted { json!(["192.0.2.0/24"]) } else { json!([]) }},
                "listeners": {"public": {"listen": ":1"}},
                "policies": policies,
                "upstreams": {"app": app, "two": {"endpoints": ["two:1"]}},
                "routes": routes.collect::<Map<_, _>>(),
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
    ]);
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
    ]);
    let query = select(vec!["", "", "?q=1", "?q=2", "?q=1&q=2", "?q=%31"]);
    let method = select(vec!["GET", "GET", "POST", "PUT", "HEAD", "DELETE"]);
    let host = select(vec!["a.x", "A.x", "a.x.", "b.a.x:80", "c.x", "y"]);
    (method, host, path, query, vec(header, 0..4), prop::bool::weighted(0.3)).prop_map(
        |(method, host, path, query, headers, is_held)| Asked {
            method,
            host,
            target: format!("{path}{query}"),
            headers,
            is_held,
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
    let gateway = Inside::new(&configs[0]);
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
    for (name, value) in asked.headers.iter().chain(asked.is_held.then_some(&("x-held", "1"))) {
        request = request.header(*name, *value);
        lines.push(format!("{name}: {value}"));
    }
    let request = request.body(Full::<Bytes>::default()).unwrap();
    let before = upstreams.each_ref().map(Upstream::requests);
    let mut client = gateway.client().await;
    settle().await;
    let said = gateway.explain(&format!("{} http://{}{}", asked.method, asked.host, asked.target), &lines);
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
