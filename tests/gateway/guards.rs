//! What guards the way to an upstream besides limits of rates: bodies, repetitions, faults.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::SeqCst},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use naka_gateway::explain::Verdict;
use naka_testkit::upstream::{Step, Upstream, answer, ok};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::{Duration, Instant},
};

use crate::inside::{Inside, get};

fn post(target: &str, body: &str, headers: &[(&str, &str)]) -> Request<Full<Bytes>> {
    let request = Request::post(target).header("host", "api.example");
    let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    request.body(Full::from(body.to_owned())).unwrap()
}

fn said(response: &Response<Bytes>) -> (u16, String) {
    let reason = response.headers().get("naka-reason").map(|reason| reason.to_str().unwrap().to_owned());
    (
        response.status().as_u16(),
        reason.unwrap_or_else(|| String::from_utf8_lossy(response.body()).into_owned()),
    )
}

/// How often a policy has decided so.
fn decided(gateway: &Inside, policy: &str, outcome: &str) -> Option<f64> {
    gateway.metric(&format!("naka_policy_decisions_total{{policy=\"{policy}\",outcome=\"{outcome}\"}}"))
}

const PAYMENTS: &str = "
listeners: {public: {listen: ':1'}}
upstreams: {payment: {endpoints: ['payment:1']}}
routes:
  pay: {match: {path: /pay}, idempotency: {required: true, failures: keep, max_request: 1KiB}, upstream: payment}
  book: {match: {path: /book}, idempotency: {ttl: 1h}, upstream: payment}
";

/// Each payment has a number.
fn payments(gateway: &Inside) -> (Upstream, Arc<AtomicUsize>) {
    let number = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&number);
    let upstream = Upstream::inside(&gateway.network, "payment:1", move |seen| {
        let number = counted.fetch_add(1, SeqCst) + 1;
        match seen.header("x-does") {
            Some("fail") => answer(500, "", "broken"),
            Some("hang") => vec![Step::ReadBody, Step::Hang],
            _ => answer(201, &format!("x-payment: {number}\r\n"), &format!("payment {number}")),
        }
    });
    (upstream, number)
}

const NARROW: &str = "
listeners: {public: {listen: ':1'}}
upstreams: {payment: {endpoints: ['payment:1']}}
routes:
  pay:
    match: {path: /pay}
    idempotency: {max_request: 1KiB, max_response: 1KiB, max_buffered: 1KiB}
    bulkhead: {max: 1, queue: 5, max_wait: 5s}
    upstream: payment
";

#[tokio::test(start_paused = true)]
async fn r4_5_bodies_that_wait_take_no_more_together_than_is_said_and_explain_foresees_it() {
    let gateway = Inside::new(NARROW);
    let (_upstream, _) = payments(&gateway);
    let pay = |key: &str, does: &'static str| {
        post("/pay", &"x".repeat(600), &[("idempotency-key", key), ("x-does", does)])
    };
    let mut at_work = gateway.client().await;
    let hanging = tokio::spawn(async move { at_work.whole(pay("a", "hang")).await });
    tokio::time::sleep(Duration::from_millis(1)).await;
    let mut waiting = gateway.client().await;
    let waiting = tokio::spawn(async move { waiting.whole(pay("b", "")).await });
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(gateway.generation().state.idempotency.iter().next().unwrap().1.layer.buffered_bytes(), 600);
    let explain = |length: &str| {
        let headers = ["idempotency-key: c".to_owned(), format!("content-length: {length}")];
        gateway.explain("POST http://api.example/pay", &headers).to_string()
    };
    let said_so = explain("600");
    assert!(said_so.contains("503 idempotency_store_full"), "{said_so}");
    assert!(explain("400").contains("its body may have 424 bytes"), "{}", explain("400"));
    assert_eq!(said(&gateway.send(pay("c", "")).await), (503, "idempotency_store_full".into()));
    let wider = NARROW.replace("max_buffered: 1KiB", "max_buffered: 2KiB");
    gateway.reload(&wider).unwrap();
    assert!(!explain("600").contains("idempotency_store_full"));
    hanging.abort();
    assert_eq!(waiting.await.unwrap().as_deref(), Some(&b"payment 2"[..]));
}

const TENANTS: &str = "
listeners: {public: {listen: ':1'}}
upstreams: {one: {endpoints: ['one:1']}, two: {endpoints: ['two:1']}}
policies: {once: {idempotency: {}}}
routes:
  versions:
    match: {prefix: /}
    use: [once]
    versions: {by: [path, header], strip: true, of: {v1: {upstream: one}, v2: {upstream: two}}}
  ours: {match: {path: /pay, headers: {x-tenant: ours}}, use: [once], upstream: one}
  theirs: {match: {path: /pay, headers: {x-tenant: theirs}}, use: [once], upstream: two}
";

/// All of these have one host, method, key and body, and those of one version the same path as the other.
#[tokio::test(start_paused = true)]
async fn r4_5_a_key_of_one_route_or_version_answers_no_other() {
    let gateway = Inside::new(TENANTS);
    let _upstreams = ["one:1", "two:1"]
        .map(|name| Upstream::inside(&gateway.network, name, move |_| answer(201, "", name)));
    for (target, header, expected) in [
        ("/v1/pay", ("x-other", "a"), "one:1"),
        ("/v2/pay", ("x-other", "a"), "two:1"),
        ("/charge", ("x-api-version", "1"), "one:1"),
        ("/charge", ("x-api-version", "2"), "two:1"),
        ("/pay", ("x-tenant", "ours"), "one:1"),
        ("/pay", ("x-tenant", "theirs"), "two:1"),
    ] {
        for is_again in [false, true] {
            let response = gateway.send(post(target, "40", &[("idempotency-key", "a"), header])).await;
            assert_eq!(said(&response), (201, expected.into()), "{target} {header:?}");
            assert_eq!(
                response.headers().contains_key("idempotency-replayed"),
                is_again,
                "{target} {header:?}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn r4_5_the_same_key_is_answered_again_another_body_is_refused_and_what_is_at_work_conflicts() {
    let gateway = Inside::new(PAYMENTS);
    let (upstream, number) = payments(&gateway);
    let pay = |key: &str, amount: &str| post("/pay", amount, &[("idempotency-key", key)]);
    let first = gateway.send(pay("a", "40")).await;
    assert_eq!(said(&first), (201, "payment 1".into()));
    for _ in 0..5 {
        let again = gateway.send(pay("a", "40")).await;
        assert_eq!(said(&again), (201, "payment 1".into()));
        assert_eq!(again.headers()["idempotency-replayed"], "true");
        assert_eq!(again.headers()["x-payment"], "1");
        assert_ne!(again.headers()["x-request-id"], first.headers()["x-request-id"], "each has its own");
    }
    assert_eq!(said(&gateway.send(pay("a", "41")).await), (422, "idempotency_mismatch".into()));
    assert_eq!(said(&gateway.send(post("/pay", "40", &[])).await), (400, "idempotency_key_missing".into()));
    assert_eq!(said(&gateway.send(pay("", "40")).await), (400, "idempotency_key_invalid".into()));
    assert_eq!(said(&gateway.send(pay("b", &"x".repeat(1025))).await), (413, "body_too_large".into()));
    assert_eq!((upstream.requests(), number.load(SeqCst)), (1, 1));
    let decided = |outcome: &str| decided(&gateway, "pay/idempotency", outcome);
    assert_eq!(["admitted", "replayed", "rejected"].map(decided), [Some(1.0), Some(5.0), Some(4.0)]);

    // At work: the second of two that come at once.
    let mut client = gateway.client().await;
    let hangs = post("/pay", "40", &[("idempotency-key", "c"), ("x-does", "hang")]);
    let working = tokio::spawn(async move { client.send(hangs).await });
    while upstream.working() == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let conflict = gateway.send(post("/pay", "40", &[("idempotency-key", "c"), ("x-does", "hang")])).await;
    assert_eq!(said(&conflict), (409, "idempotency_in_flight".into()));
    // A timeout says nothing of what was done: nothing runs twice.
    assert_eq!(working.await.unwrap().status(), 504);
    let repeated = gateway.send(post("/pay", "40", &[("idempotency-key", "c"), ("x-does", "hang")])).await;
    assert_eq!(said(&repeated), (409, "idempotency_unknown".into()));
    assert_eq!(upstream.requests(), 2);
}

/// A reload forgets nothing, and neither does taking the policy away and back.
#[tokio::test(start_paused = true)]
async fn r4_5_keys_are_remembered_over_reloads() {
    let gateway = Inside::new(PAYMENTS);
    let (upstream, _) = payments(&gateway);
    let book = || post("/book", "a ride", &[("idempotency-key", "a")]);
    assert_eq!(said(&gateway.send(book()).await), (201, "payment 1".into()));
    for turn in 0..20 {
        gateway.reload(&PAYMENTS.replace("ttl: 1h", &format!("ttl: {}h", turn + 1))).unwrap();
        assert_eq!(said(&gateway.send(book()).await), (201, "payment 1".into()), "{turn}");
    }
    gateway.reload(&PAYMENTS.replace("idempotency: {ttl: 1h}, ", "")).unwrap();
    gateway.reload(PAYMENTS).unwrap();
    assert_eq!(said(&gateway.send(book()).await), (201, "payment 1".into()), "away and back");
    assert_eq!(upstream.requests(), 1);
    tokio::time::advance(Duration::from_secs(3601)).await;
    assert_eq!(said(&gateway.send(book()).await), (201, "payment 2".into()), "its time is over");
    // By default what failed may be tried again.
    let fails = || post("/book", "a ride", &[("idempotency-key", "b"), ("x-does", "fail")]);
    assert_eq!(said(&gateway.send(fails()).await).0, 500);
    assert_eq!(said(&gateway.send(post("/book", "a ride", &[("idempotency-key", "b")])).await).0, 201);
    let known = gateway.explain("POST http://api.example/book", &["idempotency-key: b".into()]);
    assert!(matches!(known.verdict, Verdict::Depends(_)), "{known}");
    let new = gateway.explain("POST http://api.example/book", &["idempotency-key: c".into()]);
    assert_eq!(new.verdict, Verdict::Sent, "{new}");
}

const LASTING: &str = "
listeners: {public: {listen: ':1'}}
upstreams: {payment: {endpoints: ['payment:1'], timeouts: {response_headers: 5h, idle: never}}}
routes: {book: {match: {path: /book}, timeouts: {total: never}, idempotency: {ttl: 1m}, upstream: payment}}
";

/// However long it is at work, and for its time after that, wherever the policy was meanwhile.
#[tokio::test(start_paused = true)]
async fn a_request_at_work_is_known_when_its_policy_comes_back() {
    let gateway = Inside::new(LASTING);
    let (upstream, _) = payments(&gateway);
    let without = LASTING.replace("idempotency: {ttl: 1m}, ", "");
    let book = || post("/book", "a ride", &[("idempotency-key", "a"), ("x-does", "hang")]);
    let mut client = gateway.client().await;
    let working = tokio::spawn(async move { client.send(book()).await });
    while upstream.working() == 0 {
        tokio::task::yield_now().await;
    }
    gateway.reload(&without).unwrap();
    tokio::time::advance(Duration::from_hours(1)).await;
    assert!(gateway.generation().state.without_expired(Instant::now()).is_none(), "one is at work");
    gateway.reload(LASTING).unwrap();
    assert_eq!(said(&gateway.send(book()).await), (409, "idempotency_in_flight".into()));

    gateway.reload(&without).unwrap();
    tokio::time::advance(Duration::from_hours(1)).await;
    working.abort();
    assert!(working.await.is_err());
    let buried =
        || gateway.generation().state.idempotency.buried().map(|(_, kept)| kept.layer.counts()).next();
    while buried().unwrap().working > 0 {
        tokio::task::yield_now().await;
    }
    tokio::time::advance(Duration::from_secs(59)).await;
    assert!(gateway.generation().state.without_expired(Instant::now()).is_none(), "its time is not over");
    gateway.reload(LASTING).unwrap();
    assert_eq!(said(&gateway.send(book()).await), (409, "idempotency_unknown".into()));
    gateway.reload(&without).unwrap();
    tokio::time::advance(Duration::from_secs(2)).await;
    assert!(gateway.generation().state.without_expired(Instant::now()).is_some(), "its time is over");
    assert_eq!(upstream.requests(), 1);
}

/// Until the head of an answer and the announced rest of it are there.
async fn one_answer(stream: &mut tokio::io::DuplexStream) -> String {
    let mut got = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&got).to_ascii_lowercase();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
            if body.len() >= length.parse::<usize>().unwrap() {
                return text;
            }
        }
        assert_ne!(stream.read_buf(&mut got).await.unwrap(), 0, "{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_in_chunks_that_was_read_to_its_end_keeps_its_connection() {
    let gateway = Inside::new(PAYMENTS);
    let (upstream, _) = payments(&gateway);
    let mut stream = gateway.connect();
    let head = "POST /book HTTP/1.1\r\nhost: api.example\r\nidempotency-key: a\r\ntransfer-encoding: chunked\r\n\r\n";
    let table = [
        ("6\r\na ride\r\n0\r\n\r\n", 201),
        ("6\r\na ride\r\n0\r\n\r\n", 201),
        ("2\r\na \r\n4\r\nride\r\n0\r\nx-sum: 1\r\n\r\n", 201),
        ("3\r\nbus\r\n0\r\n\r\n", 422),
        ("6\r\na ride\r\n0\r\n\r\n", 201),
    ];
    for (body, status) in table {
        stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
        let answer = one_answer(&mut stream).await;
        assert!(answer.starts_with(&format!("http/1.1 {status} ")), "{answer}");
        assert!(!answer.contains("connection: close"), "{answer}");
    }
    assert_eq!(upstream.requests(), 1);
}

const BODIES: &str = "
gateway: {limits: {body: 1KiB}}
listeners: {public: {listen: ':1'}}
upstreams: {app: {endpoints: ['app:1']}}
groups:
  wide: {limits: {body: 2KiB}, routes: {wide: {match: {path: /wide}, upstream: app}, endless: {match: {path: /endless}, limits: {body: never}, upstream: app}}}
routes:
  all: {match: {prefix: /}, upstream: app}
  own: {match: {path: /own}, limits: {body: 10}, respond: {body: fine}}
";

#[tokio::test(start_paused = true)]
async fn r2_4_bodies_are_bounded_by_the_closest_limit_announced_or_not() {
    let gateway = Inside::new(BODIES);
    let upstream = Upstream::inside(&gateway.network, "app:1", |_| ok("fine"));
    let sized = |target: &str, bytes: usize| post(target, &"x".repeat(bytes), &[]);
    let table = [
        ("/", 1024, 200),
        ("/", 1025, 413),
        ("/wide", 2048, 200),
        ("/wide", 2049, 413),
        ("/endless", 60_000, 200),
        ("/own", 10, 200),
        ("/own", 11, 413),
    ];
    let mut reached = 0;
    for (target, bytes, expected) in table {
        let answer = gateway.send(sized(target, bytes)).await;
        assert_eq!(answer.status().as_u16(), expected, "{target} {bytes}");
        assert_eq!(
            expected == 413,
            answer.headers().get("naka-reason").is_some_and(|it| it == "body_too_large")
        );
        reached += u64::from(expected == 200 && target != "/own");
    }
    assert_eq!(upstream.requests(), reached, "what is announced as too large is not sent on");
    // In chunks nobody knows beforehand: the gateway answers itself, and the upstream never has all of it.
    let mut stream = gateway.connect();
    let head = "POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    for _ in 0..3 {
        stream.write_all(format!("200\r\n{}\r\n", "x".repeat(512)).as_bytes()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    stream.write_all(b"0\r\n\r\n").await.unwrap();
    let mut got = String::new();
    stream.read_to_string(&mut got).await.unwrap();
    assert!(got.starts_with("HTTP/1.1 413") && got.contains("naka-reason: body_too_large"), "{got}");
    let said = gateway.explain("POST http://api.example/own", &["content-length: 11".into()]);
    assert!(said.to_string().contains("413 body_too_large"), "{said}");
}

const FAULTY: &str = "
gateway: {environment: development}
listeners: {public: {listen: ':1'}}
upstreams: {app: {endpoints: ['app:1']}}
routes:
  all: {match: {prefix: /}, timeouts: {total: 60s}, fault: {header: x-chaos, value: monday, until: 2090-01-01, delay: {percent: 10%, time: 5s}, abort: {percent: 5%, status: 503}}, upstream: app}
";

#[tokio::test(start_paused = true)]
async fn r7_5_faults_hit_only_who_asks_for_them_in_the_shares_that_were_said_and_end() {
    let gateway = Inside::new(FAULTY);
    let upstream = Upstream::inside(&gateway.network, "app:1", |_| ok("fine"));
    let ask = async |value: Option<&'static str>| {
        let mut request = get("/");
        if let Some(value) = value {
            request.headers_mut().insert("x-chaos", value.parse().unwrap());
        }
        let began = Instant::now();
        (gateway.send(request).await.status().as_u16(), began.elapsed() >= Duration::from_secs(5))
    };
    let (mut refused, mut late) = (0, 0);
    for _ in 0..200 {
        match ask(Some("monday")).await {
            (503, false) => refused += 1,
            (200, true) => late += 1,
            (200, false) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((refused, late), (10, 20));
    for other in [None, Some("tuesday")] {
        for _ in 0..50 {
            assert_eq!(ask(other).await, (200, false), "{other:?}");
        }
    }
    let injected = "naka_rejections_total{route=\"all\",policy=\"all/fault\",reason=\"fault_injected\"}";
    assert_eq!(gateway.metric(injected), Some(10.0), "labelled");
    let decided = |outcome: &str| decided(&gateway, "all/fault", outcome);
    assert_eq!(["admitted", "delayed", "rejected"].map(decided), [Some(190.0), Some(20.0), Some(10.0)]);
    assert_eq!(upstream.requests(), 290);
    gateway.reload(&FAULTY.replace("2090-01-01", "2020-01-01")).unwrap();
    for _ in 0..50 {
        assert_eq!(ask(Some("monday")).await, (200, false), "it has ended");
    }
    let refused =
        gateway.reload(&FAULTY.replace("environment: development", "environment: production")).unwrap_err();
    assert!(refused.contains("faults in production"), "{refused}");
    gateway
        .reload(
            &FAULTY
                .replace("environment: development", "environment: production")
                .replace("value: monday,", "value: monday, in_production: true,"),
        )
        .unwrap();
}

const PAGES: &str = "
listeners: {public: {listen: ':1'}}
upstreams: {app: {endpoints: ['app:1']}}
policies:
  ola: {jwt: {secret: {file: secret}, audiences: [rides]}}
routes:
  rides: {match: {path: /rides, methods: [GET, PUT]}, use: [ola], cors: {origins: ['https://app.example'], methods: [GET, PUT], headers: [authorization], credentials: true, max_age: 10m}, upstream: app}
  plain: {match: {path: /plain, methods: [GET]}, upstream: app}
";

#[tokio::test(start_paused = true)]
async fn r2_4_preflights_are_answered_before_methods_and_credentials_are_checked() {
    let gateway = Inside::with_files(PAGES, &[("secret", "a secret of forty bytes, or a few of more")]);
    let upstream = Upstream::inside(&gateway.network, "app:1", |_| {
        answer(200, "access-control-allow-origin: *\r\n", "fine")
    });
    let ask = async |method: &str, path: &str, origin: &str, asked: Option<&str>| {
        let mut request = post(path, "", &[("origin", origin)]);
        *request.method_mut() = method.parse().unwrap();
        if let Some(asked) = asked {
            request.headers_mut().insert("access-control-request-method", asked.parse().unwrap());
        }
        gateway.send(request).await
    };
    let field = |answer: &Response<Bytes>, name: &str| {
        answer.headers().get(name).map(|it| it.to_str().unwrap().to_owned())
    };
    let preflight = ask("OPTIONS", "/rides", "https://app.example", Some("PUT")).await;
    assert_eq!(preflight.status(), 204, "nobody asks for a token, or for the method OPTIONS");
    assert_eq!(field(&preflight, "access-control-allow-origin").as_deref(), Some("https://app.example"));
    assert_eq!(field(&preflight, "access-control-allow-credentials").as_deref(), Some("true"));
    assert_eq!(field(&preflight, "access-control-max-age").as_deref(), Some("600"));
    let other = ask("OPTIONS", "/rides", "https://evil.example", Some("PUT")).await;
    assert_eq!(said(&other), (403, "origin_refused".into()));
    assert_eq!(field(&other, "access-control-allow-origin"), None);
    assert_eq!(
        ask("OPTIONS", "/rides", "https://app.example", Some("DELETE")).await.status(),
        405,
        "no route takes that"
    );
    assert_eq!(
        ask("OPTIONS", "/plain", "https://app.example", Some("GET")).await.status(),
        405,
        "no cors there"
    );
    let refused = ask("GET", "/rides", "https://app.example", None).await;
    assert_eq!(said(&refused), (401, "credentials_missing".into()));
    assert_eq!(
        field(&refused, "access-control-allow-origin").as_deref(),
        Some("https://app.example"),
        "it may read why"
    );
    assert_eq!(upstream.requests(), 0);
    let headers = ["origin: https://app.example".to_owned(), "access-control-request-method: PUT".into()];
    let explained = gateway.explain("OPTIONS http://api.example/rides", &headers);
    assert_eq!(explained.verdict, Verdict::Answered(http::StatusCode::NO_CONTENT), "{explained}");
    let wrong = PAGES.replace("['https://app.example']", "['*']");
    assert!(gateway.reload(&wrong).unwrap_err().contains("any page could act as the user"));
}

const SMALL: &str = "
listeners: {public: {listen: ':1'}}
upstreams: {app: {endpoints: ['app:1']}}
routes:
  all: {match: {prefix: /}, compress: {min_size: 100}, headers: {security: true}, upstream: app}
  pay: {match: {path: /pay}, compress: {}, idempotency: {}, upstream: app}
";

#[tokio::test(start_paused = true)]
async fn r2_4_responses_are_made_smaller_for_clients_that_understand_it() {
    let gateway = Inside::new(SMALL);
    let _upstream = Upstream::inside(&gateway.network, "app:1", |seen| match seen.target() {
        "/small" => ok("little"),
        "/image" => answer(200, "content-type: image/png\r\n", &"x".repeat(1000)),
        "/done" => answer(200, "content-type: text/plain\r\ncontent-encoding: zstd\r\n", &"x".repeat(1000)),
        _ => answer(
            200,
            "content-type: text/plain\r\netag: \"a\"\r\nx-frame-options: SAMEORIGIN\r\n",
            &"x".repeat(1000),
        ),
    });
    let ask = async |target: &str, accepts: &str| {
        let mut request = get(target);
        request.headers_mut().insert("accept-encoding", accepts.parse().unwrap());
        gateway.send(request).await
    };
    let coding = |answer: &Response<Bytes>| {
        answer.headers().get("content-encoding").map(|it| it.to_str().unwrap().to_owned())
    };
    for (accepts, expected) in [("gzip", "gzip"), ("br, gzip;q=0.5", "br"), ("gzip, br;q=0.1", "gzip")] {
        let smaller = ask("/large", accepts).await;
        assert_eq!(coding(&smaller).as_deref(), Some(expected), "{accepts}");
        assert!(
            smaller.body().len() < 200
                && smaller.headers()["vary"]
                    .to_str()
                    .unwrap()
                    .to_ascii_lowercase()
                    .contains("accept-encoding")
        );
        assert_eq!(smaller.headers()["etag"], "W/\"a\"", "the bytes are others");
    }
    for (target, accepts) in
        [("/large", "identity"), ("/large", "gzip;q=0"), ("/small", "gzip"), ("/image", "gzip")]
    {
        let same = ask(target, accepts).await;
        assert_eq!(coding(&same), None, "{target} {accepts}");
    }
    assert_eq!(coding(&ask("/done", "gzip").await).as_deref(), Some("zstd"), "once");
    let large = ask("/large", "identity").await;
    assert_eq!((large.body().len(), &large.headers()["etag"]), (1000, &"\"a\"".parse().unwrap()));
    // What is repeated is answered as it was, so it must not depend on what its first client understood.
    let mut first = post("/pay", "40", &[("idempotency-key", "a"), ("accept-encoding", "gzip")]);
    *first.uri_mut() = "/pay".parse().unwrap();
    assert_eq!(coding(&gateway.send(first).await), None);
}

/// The head of a `HEAD` is that of a `GET` (RFC 9110, 9.3.2): a cache that has only asked for it would otherwise
/// hand what is compressed to whoever does not understand it.
#[tokio::test(start_paused = true)]
async fn head_on_a_compressed_route_says_what_get_says() {
    let gateway = Inside::new(SMALL);
    let _upstream = Upstream::inside(&gateway.network, "app:1", |seen| {
        let (status, more, length) = match seen.target() {
            "/small" => ("200 OK", "content-type: text/plain\r\n", 6),
            "/image" => ("200 OK", "content-type: image/png\r\n", 1000),
            "/done" => ("200 OK", "content-type: text/plain\r\ncontent-encoding: zstd\r\n", 1000),
            "/same" => ("304 Not Modified", "etag: \"a\"\r\ncontent-type: text/plain\r\n", 0),
            _ => ("200 OK", "content-type: text/plain\r\netag: \"a\"\r\nvary: origin\r\n", 1000),
        };
        if status.starts_with("304") {
            return vec![Step::ReadBody, Step::send(format!("HTTP/1.1 {status}\r\n{more}\r\n"))];
        }
        let body = if seen.line.starts_with("HEAD") { String::new() } else { "x".repeat(length) };
        let head = format!("HTTP/1.1 {status}\r\n{more}content-length: {length}\r\n\r\n");
        vec![Step::ReadBody, Step::send(format!("{head}{body}"))]
    });
    let heads = async |method: &str, target: &str, accepts: &str| {
        let mut request = get(target);
        *request.method_mut() = method.parse().unwrap();
        request.headers_mut().insert("accept-encoding", accepts.parse().unwrap());
        let mut answer = gateway.send(request).await;
        for of_itself in ["x-request-id", "date", "transfer-encoding"] {
            answer.headers_mut().remove(of_itself);
        }
        (answer.status(), answer.headers().clone())
    };
    let mut varied = 0;
    for target in ["/large", "/small", "/image", "/done", "/same"] {
        for accepts in ["gzip", "br", "identity", "gzip;q=0", "identity;q=0"] {
            if (target, accepts) == ("/same", "identity;q=0") {
                continue; // 406 without a body, of which hyper tells the length to `GET` alone.
            }
            let (of_get, of_head) =
                (heads("GET", target, accepts).await, heads("HEAD", target, accepts).await);
            assert_eq!(of_head, of_get, "{target} {accepts}");
            varied += usize::from(of_head.1.get_all("vary").iter().any(|it| it == "accept-encoding"));
        }
    }
    assert_eq!(varied, 5 + 3, "all of what is compressed, and what nobody understands");
}

#[tokio::test(start_paused = true)]
async fn browsers_are_made_careful_where_the_upstream_does_not_say_otherwise() {
    let gateway = Inside::new(SMALL);
    let _upstream = Upstream::inside(&gateway.network, "app:1", |_| {
        answer(200, "content-type: text/plain\r\nx-frame-options: SAMEORIGIN\r\n", "fine")
    });
    let answer = gateway.send(get("/")).await;
    let field = |name: &str| answer.headers().get(name).map(|it| it.to_str().unwrap().to_owned());
    assert_eq!(field("x-frame-options").as_deref(), Some("SAMEORIGIN"), "it has said so itself");
    assert_eq!(field("x-content-type-options").as_deref(), Some("nosniff"));
    assert_eq!(field("referrer-policy").as_deref(), Some("strict-origin-when-cross-origin"));
    assert!(field("content-security-policy").is_some());
    assert_eq!(field("strict-transport-security"), None, "not over http, where it would mean nothing");
}
