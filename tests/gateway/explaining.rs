//! What `explain` says in the corners, and that the data path does just that.

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use naka_gateway::explain::Verdict;

use crate::inside::Inside;

/// A target, headers, and the status that comes of them.
type Asked<'a> = (&'a str, &'a [(&'a str, &'a str)], u16);

fn get(target: &str, headers: &[(&str, &str)]) -> Request<Full<Bytes>> {
    let request = Request::get(target).header("host", "a.example");
    let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    request.body(Full::default()).unwrap()
}

/// A group that takes part in no match is nothing, and then there would be a host where a path should be.
#[tokio::test(start_paused = true)]
async fn e20_a_capture_that_is_missing_makes_no_other_host() {
    let gateway = Inside::new(
        "
listeners: {public: {listen: ':1'}}
upstreams: {app: {endpoints: ['app:1']}}
routes:
  moved: {match: {regex: '/go(/(?<first>[a-z]+))?(/(?<rest>[a-z.]+))'}, redirect: {path: '/{first}/{rest}'}}
  inner: {match: {regex: '/in(/(?<first>[a-z]+))?(/(?<rest>[a-z.]+))'}, rewrite: {path: '/{first}/{rest}'}, upstream: app}
",
    );
    let answer = gateway.send(get("/go/a/b", &[])).await;
    assert_eq!((answer.status().as_u16(), &answer.headers()["location"]), (308, &"/a/b".parse().unwrap()));
    let said = gateway.explain("http://a.example/go/a/b", &[]);
    assert!(said.to_string().ends_with("308 Permanent Redirect, to /a/b"), "{said}");
    for target in ["/go/evil.example", "/in/evil.example"] {
        let answer = gateway.send(get(target, &[])).await;
        let said = gateway.explain(&format!("http://a.example{target}"), &[]);
        assert_eq!(
            (answer.status().as_u16(), &answer.headers()["naka-reason"]),
            (400, &"bad_path".parse().unwrap())
        );
        assert!(answer.headers().get("location").is_none());
        assert!(matches!(&said.verdict, Verdict::Refused(why) if why.reason.word() == "bad_path"), "{said}");
    }
}

#[tokio::test(start_paused = true)]
async fn e25_bounds_of_the_head_are_known() {
    let gateway = Inside::new(
        "
gateway: {limits: {header_count: 5, header_bytes: 200B, uri: 50B}}
listeners: {public: {listen: ':1'}}
routes: {all: {match: {prefix: /}, respond: {body: fine}}}
",
    );
    let long = "x".repeat(150);
    // The head of such a request without the value is 44 bytes long.
    let (fits, exceeds) = ("y".repeat(200 - 44), "y".repeat(200 - 43));
    let table: [Asked<'_>; 7] = [
        ("/", &[("a", "1"), ("b", "1"), ("c", "1"), ("d", "1")], 200),
        ("/", &[("a", "1"), ("b", "1"), ("c", "1"), ("d", "1"), ("e", "1")], 431),
        ("/", &[("b", &long)], 200),
        ("/", &[("x-abc", &fits)], 200),
        ("/", &[("x-abc", &exceeds)], 431),
        ("/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", &[], 200),
        ("/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", &[], 414),
    ];
    for (target, headers, expected) in table {
        let lines = headers.iter().map(|(name, value)| format!("{name}: {value}")).collect::<Vec<_>>();
        let said = gateway.explain(&format!("http://a.example{target}"), &lines);
        let status = match &said.verdict {
            Verdict::Refused(rejection) => rejection.reason.status(),
            Verdict::Answered(status) => *status,
            Verdict::Sent | Verdict::Depends(_) => panic!("{said}"),
        };
        let does = gateway.send(get(target, headers)).await.status();
        assert_eq!((status.as_u16(), does.as_u16()), (expected, expected), "{said}");
    }
}

#[tokio::test(start_paused = true)]
async fn e25_the_listener_is_that_of_the_port_or_the_best_one() {
    let gateway = Inside::new(
        "
listeners: {a: {listen: ':8001'}, b: {listen: ':8002'}, c: {listen: ':8003'}, d: {listen: ':80'}, e: {listen: '127.0.0.2:8001'}}
routes:
  one: {listener: b, match: {path: /one, methods: [POST]}, respond: {}}
  two: {listener: c, match: {path: /two}, respond: {}}
  three: {listener: e, match: {path: /three}, respond: {}}
",
    );
    let table = [
        ("GET http://h:8001/two", "a"),
        ("GET http://h:8003/one", "c"),
        ("GET http://h:8004/two", "c"),
        ("GET http://h/one", "d"),
        ("GET https://h/one", "b"),
        ("GET http://h/two", "d"),
        ("GET http://h:8001/three", "e"),
        ("GET https://h/none", "a"),
    ];
    for (request, listener) in table {
        assert_eq!(&*gateway.explain(request, &[]).listener, listener, "{request}");
    }
}

#[tokio::test(start_paused = true)]
async fn a21_secrets_are_not_shown() {
    let gateway = Inside::new(
        "
listeners: {public: {listen: ':1'}}
upstreams: {app: {endpoints: ['app:1']}}
routes: {all: {match: {prefix: /}, headers: {request: {set: {x-internal: hunter2}}}, upstream: app}}
",
    );
    let lines = ["authorization: Bearer hunter3", "x-api-token: hunter4", "accept: all"].map(str::to_owned);
    let said = gateway.explain("http://a.example/", &lines);
    for text in [said.to_string(), said.to_json().to_string(), format!("{said:?}")] {
        assert!(!text.contains("hunter"), "{text}");
        assert!(text.contains("x-internal") && text.contains("all"), "{text}");
    }
}

/// A bulkhead may stand before a route and before its upstream: what is at work in one place is not called off.
#[tokio::test(start_paused = true)]
async fn what_is_off_is_said_once_and_only_of_what_is_off_everywhere() {
    let gateway = Inside::new(
        "
listeners: {public: {listen: ':1'}}
upstreams: {app: {endpoints: ['app:1']}}
routes:
  full: {match: {prefix: /full}, bulkhead: {max: 5}, upstream: app}
  bare: {match: {prefix: /bare}, upstream: app}
",
    );
    for (path, is_off) in [("full", false), ("bare", true)] {
        let said = gateway.explain(&format!("http://a.example/{path}"), &[]).to_string();
        let off = said.lines().find_map(|line| line.trim().strip_prefix("off: ")).unwrap();
        let off: Vec<_> = off.split(", ").collect();
        let once = off.iter().collect::<std::collections::BTreeSet<_>>();
        assert_eq!((off.len(), off.contains(&"bulkhead")), (once.len(), is_off), "{said}");
    }
}
