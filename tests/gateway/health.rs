//! Endpoints that are asked whether they are well, as the file says it.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use http::HeaderMap;
use naka_gateway::admin;
use naka_testkit::upstream::{Seen, Step, Upstream, answer, ok};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Instant, sleep},
};

use crate::{
    inside::{Inside, get},
    process::Process,
};

/// Longer than the longest pause between two checks.
const ROUND: Duration = Duration::from_secs(6);

/// Whether an endpoint is well; clones say the same.
#[derive(Clone)]
struct Well(Arc<AtomicBool>);

impl Well {
    fn new() -> Self {
        Self(Arc::new(AtomicBool::new(true)))
    }

    fn set(&self, is_well: bool) {
        self.0.store(is_well, SeqCst);
    }

    /// What it answers: while it is not well, nobody gets anything of use.
    fn answer(&self, seen: &Seen, name: &str) -> Vec<Step> {
        match (self.0.load(SeqCst), seen.target()) {
            (true, "/healthz") => answer(200, "", "fine"),
            (true, _) => ok(name),
            (false, _) => answer(503, "", "sick"),
        }
    }
}

fn endpoint(gateway: &Inside, address: &'static str) -> (Upstream, Well) {
    let well = Well::new();
    let upstream = Upstream::inside(&gateway.network, address, {
        let well = well.clone();
        move |seen| well.answer(seen, &address[..1])
    });
    (upstream, well)
}

fn checks(upstream: &Upstream) -> usize {
    upstream.seen().iter().filter(|seen| seen.target() == "/healthz").count()
}

/// Until it has been asked so often again.
async fn checked(upstream: &Upstream, more: usize) {
    let goal = checks(upstream) + more;
    while checks(upstream) < goal {
        sleep(Duration::from_millis(10)).await;
    }
    sleep(Duration::from_millis(10)).await; // Its answer has come.
}

/// The endpoint of this address, as the admin port shows it.
async fn shown(gateway: &Inside, upstream: &str, address: &str) -> Value {
    let (mut ours, theirs) = tokio::io::duplex(64 << 10);
    tokio::spawn(admin::serve_connection(gateway.admin(), admin::Way::Socket, theirs));
    ours.write_all(b"GET /upstreams HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut text = String::new();
    ours.read_to_string(&mut text).await.unwrap();
    let json: Value = serde_json::from_str(text.split_once("\r\n\r\n").unwrap().1).unwrap();
    let endpoints = json[upstream].as_array().unwrap();
    endpoints.iter().find(|it| it["address"] == address).unwrap().clone()
}

async fn state(gateway: &Inside, address: &str) -> String {
    shown(gateway, "app", address).await["health"]["state"].as_str().unwrap().to_owned()
}

async fn answers(gateway: &Inside, times: usize) -> String {
    let mut all = String::new();
    for _ in 0..times {
        all += std::str::from_utf8(gateway.send(get("/")).await.body()).unwrap();
    }
    all
}

fn file(app: &str) -> String {
    format!(
        "
listeners: {{public: {{listen: ':1'}}}}
upstreams: {{app: {{{app}}}}}
routes:
  all: {{match: {{prefix: /}}, upstream: app}}
  more: {{match: {{prefix: /more}}, upstream: app}}
"
    )
}

const TWO: &str = "endpoints: ['a:1', 'b:1'], health_check: {path: /healthz}";

#[tokio::test(start_paused = true)]
async fn r1_5_three_failed_checks_take_an_endpoint_out_and_one_success_does_not_bring_it_back() {
    let gateway = Inside::new(&file(TWO));
    let ((a, well), (b, _)) = (endpoint(&gateway, "a:1"), endpoint(&gateway, "b:1"));
    assert_eq!(state(&gateway, "a:1").await, "unknown");
    assert_eq!(answers(&gateway, 4).await, "abab", "who is not known yet gets requests");
    sleep(Duration::from_secs(2)).await;
    assert_eq!(state(&gateway, "a:1").await, "healthy");

    well.set(false);
    checked(&a, 2).await;
    assert_eq!(state(&gateway, "a:1").await, "degraded");
    checked(&a, 1).await;
    let before = a.requests();
    assert_eq!(answers(&gateway, 6).await, "bbbbbb");
    assert_eq!(a.requests(), before, "only checks come there");
    let is = shown(&gateway, "app", "a:1").await;
    assert_eq!(is["absences"], json!(["unhealthy"]));
    let health = &is["health"];
    assert_eq!((&health["state"], &health["failures"]), (&json!("unhealthy"), &json!(3)));
    assert_eq!(health["last_failure"], json!({"why": "the answer is 503", "ago_s": 0}));
    let explained = gateway.explain("GET http://api.example/", &[]).to_string();
    assert!(explained.contains(", unhealthy"), "{explained}");

    for is_well in [true, false, true] {
        well.set(is_well);
        checked(&a, 1).await;
        assert_eq!(answers(&gateway, 2).await, "bb");
    }
    checked(&a, 1).await;
    assert_eq!(answers(&gateway, 4).await.matches('a').count(), 2, "two in a row");
    assert!(b.requests() > 0);
}

#[tokio::test(start_paused = true)]
async fn r10_2_a_check_asks_as_it_says_and_as_little_as_it_says() {
    let gateway = Inside::new(&file(
        "endpoints: ['a:1'], health_check: {path: '/healthz?deep=1', host: app.internal, interval: 2s}",
    ));
    let a = Upstream::inside(&gateway.network, "a:1", |_| ok("fine"));
    sleep(Duration::from_mins(1)).await;
    assert!((25..=31).contains(&a.requests()), "{}", a.requests());
    assert_eq!(a.connections(), a.requests(), "each over a connection of its own");
    let seen = a.last();
    assert_eq!(seen.line, "GET /healthz?deep=1 HTTP/1.1");
    assert_eq!(seen.header("host"), Some("app.internal"));
    assert_eq!(seen.header("user-agent"), Some(concat!("naka/", env!("CARGO_PKG_VERSION"))));
    assert_eq!(seen.header("connection"), Some("close"));
}

/// What comes of one check of an endpoint that does this: nothing, or why it failed.
async fn verdict(check: &str, script: impl Fn() -> Vec<Step> + Send + Sync + 'static) -> Option<String> {
    let gateway = Inside::new(&file(&format!("endpoints: ['a:1'], health_check: {{{check}}}")));
    let _a = Upstream::inside(&gateway.network, "a:1", move |_| script());
    sleep(Duration::from_secs(4)).await;
    let health = shown(&gateway, "app", "a:1").await["health"].clone();
    let why = health["last_failure"]["why"].as_str().map(str::to_owned);
    assert_eq!(health["state"], if why.is_none() { "healthy" } else { "unhealthy" });
    why
}

#[tokio::test(start_paused = true)]
async fn r10_2_what_counts_as_well() {
    const PATH: &str = "path: /healthz";
    let no = |why: &str| Some(why.to_owned());
    assert_eq!(verdict(PATH, || answer(204, "", "")).await, None);
    assert_eq!(verdict(PATH, || answer(500, "", "")).await, no("the answer is 500"));
    let elsewhere = || answer(302, "location: /fine\r\n", "");
    assert_eq!(verdict(PATH, elsewhere).await, no("the answer is 302"), "redirects are not followed");
    let some = "path: /healthz, statuses: [200, 3xx, 401-403]";
    assert_eq!(verdict(some, elsewhere).await, None);
    assert_eq!(verdict(some, || answer(403, "", "")).await, None);
    assert_eq!(verdict(some, || answer(204, "", "")).await, no("the answer is 204"));

    let with_body = "path: /healthz, body_contains: 'status: up'";
    assert_eq!(verdict(with_body, || answer(200, "", "db up, status: up")).await, None);
    let why = verdict(with_body, || answer(200, "", "status: down")).await;
    assert_eq!(why, no("`body_contains` is not in the answer"));
    let endless = |first: &'static str| move || vec![Step::send(first), Step::Fill(1 << 30)];
    let head = "HTTP/1.1 200 OK\r\n\r\nstatus: up";
    assert_eq!(verdict(with_body, endless(head)).await, None, "a part of it is enough");
    let head = "HTTP/1.1 200 OK\r\n\r\n";
    let why = verdict(with_body, endless(head)).await;
    assert_eq!(why, no("`body_contains` is not in the first 64 KiB of the answer"));
    assert_eq!(verdict(PATH, endless(head)).await, None);

    let broken = || vec![Step::send("HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nhalf"), Step::Close];
    assert!(verdict(PATH, broken).await.unwrap().starts_with("the answer broke off: "));
    let stuck = || vec![Step::send("HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nhalf"), Step::Hang];
    assert_eq!(verdict(PATH, stuck).await, no("no answer within 1s"));
    let large = || vec![Step::send("HTTP/1.1 200 OK\r\nx: "), Step::Fill(64 << 10), Step::Hang];
    assert!(verdict(PATH, large).await.unwrap().starts_with("no answer: "));
    assert!(verdict(PATH, || vec![Step::send("SSH-2.0\r\n")]).await.unwrap().starts_with("no answer: "));
    assert!(verdict(PATH, || vec![Step::Close]).await.unwrap().starts_with("no answer: "));
    assert_eq!(verdict("type: tcp", || vec![Step::Hang]).await, None);
}

#[tokio::test(start_paused = true)]
async fn r10_2_a_tcp_check_sends_nothing_and_fails_where_nobody_listens() {
    let gateway = Inside::new(&file("endpoints: ['a:1', 'b:1'], health_check: {type: tcp}"));
    let a = Upstream::inside(&gateway.network, "a:1", |_| ok("a"));
    sleep(Duration::from_secs(20)).await;
    assert!(a.connections() >= 3 && a.requests() == 0);
    assert_eq!(answers(&gateway, 3).await, "aaa");
    let why = shown(&gateway, "app", "b:1").await["health"]["last_failure"]["why"].clone();
    assert!(why.as_str().unwrap().starts_with("no connection: "), "{why}");
}

#[tokio::test(start_paused = true)]
async fn r10_4_a_hanging_probe_fails_only_itself() {
    let endpoints = "endpoints: ['a:1', 'silent:1', 'hangs:1'], health_check: {path: /healthz}";
    let gateway = Inside::new(&file(endpoints));
    let (a, _) = endpoint(&gateway, "a:1");
    let hangs = Upstream::inside(&gateway.network, "hangs:1", |_| vec![Step::Hang]);
    sleep(ROUND * 5).await;
    for address in ["silent:1", "hangs:1"] {
        let health = shown(&gateway, "app", address).await["health"].clone();
        assert_eq!(health["state"], "unhealthy", "{address}");
        assert_eq!(health["last_failure"]["why"], "no answer within 1s");
    }
    assert_eq!(state(&gateway, "a:1").await, "healthy");
    assert!(checks(&a) >= 5 && checks(&hangs) >= 5);
    assert_eq!(answers(&gateway, 6).await, "aaaaaa");
}

#[tokio::test(start_paused = true)]
async fn an_unhealthy_endpoint_stays_so_over_every_reload_that_names_it() {
    let gateway = Inside::new(&file(TWO));
    let ((a, well), _b) = (endpoint(&gateway, "a:1"), endpoint(&gateway, "b:1"));
    sleep(Duration::from_secs(2)).await;
    well.set(false);
    checked(&a, 3).await;
    let (begun, before) = (Instant::now(), checks(&a));
    let another = "other: {endpoints: ['o:1']}, app:";
    let (c, _) = endpoint(&gateway, "c:1");
    for (step, text) in [
        file(TWO).replace("app:", another),
        file("endpoints: [{address: 'a:1', weight: 3}, 'b:1'], health_check: {path: /healthz}"),
        file("endpoints: ['b:1', 'a:1', 'c:1'], health_check: {path: /healthz}"),
        file("endpoints: ['a:1', 'c:1'], health_check: {path: /healthz, unhealthy_after: 5}"),
        file("endpoints: ['a:1', 'c:1'], balance: {policy: least_request}, health_check: {path: /healthz, timeout: 2s}"),
        file(TWO),
    ]
    .into_iter()
    .enumerate()
    {
        gateway.reload(&text).unwrap();
        assert_eq!(state(&gateway, "a:1").await, "unhealthy", "step {step}");
        let answers = answers(&gateway, 6).await;
        assert!(!answers.contains('a') && !answers.contains("sick"), "step {step}: {answers}");
        sleep(Duration::from_millis(900)).await;
    }
    assert!(checks(&c) >= 1, "who has come is checked");
    let intervals = begun.elapsed().as_secs() / 5;
    assert!(checks(&a) - before <= usize::try_from(intervals).unwrap() + 1, "not more often than always");
    let (gone, others) = (checks(&c), checks(&a));
    sleep(ROUND * 2).await;
    assert_eq!(checks(&c), gone, "who has gone is not");
    assert!(checks(&a) >= others + 2, "it goes on");
    well.set(true);
    checked(&a, 2).await;
    assert_eq!(answers(&gateway, 4).await.matches('a').count(), 2);
    let report = gateway.generation().report.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert!(report.contains(&"health_check app migrated".to_owned()), "{report:?}");
}

#[tokio::test(start_paused = true)]
async fn without_its_health_check_an_endpoint_is_back_and_is_asked_no_more() {
    let gateway = Inside::new(&file(TWO));
    let ((a, well), _b) = (endpoint(&gateway, "a:1"), endpoint(&gateway, "b:1"));
    sleep(Duration::from_secs(2)).await;
    well.set(false);
    checked(&a, 3).await;
    well.set(true);
    assert_eq!(answers(&gateway, 2).await, "bb");
    gateway.reload(&file("endpoints: ['a:1', 'b:1']")).unwrap();
    sleep(Duration::from_millis(1)).await; // The driver is told to end, and does.
    assert_eq!(answers(&gateway, 4).await.matches('a').count(), 2);
    assert!(shown(&gateway, "app", "a:1").await.get("health").is_none());
    let before = checks(&a);
    sleep(ROUND * 3).await;
    assert_eq!(checks(&a), before);
}

#[tokio::test(start_paused = true)]
async fn a_reload_that_is_refused_starts_nothing_and_changes_nothing() {
    let gateway = Inside::new(&file(TWO));
    let ((a, well), (_b, _)) = (endpoint(&gateway, "a:1"), endpoint(&gateway, "b:1"));
    let (new, _) = endpoint(&gateway, "n:1");
    sleep(Duration::from_secs(2)).await;
    well.set(false);
    checked(&a, 3).await;
    let refused = file(
        "endpoints: ['a:1', 'n:1'], health_check: {path: /healthz, interval: 200ms, timeout: 100ms, healthy_after: 1}",
    )
    .replace("app:", "other: {endpoints: ['n:1'], health_check: {path: /healthz}}, app:");
    let before = checks(&a);
    let why =
        gateway.reload(&format!("{refused}tests: [{{request: GET http://a/, expect: {{status: 404}}}}]"));
    assert!(why.unwrap_err().contains("a test does not hold"));
    let unrouted = format!("{refused}  twice: {{match: {{prefix: /}}, upstream: app}}\n");
    assert!(gateway.reload(&unrouted).is_err());
    sleep(Duration::from_secs(30)).await;
    assert_eq!(new.connections(), 0);
    assert!(checks(&a) - before <= 6, "by the interval in force");
    assert_eq!(state(&gateway, "a:1").await, "unhealthy");
}

fn with_two_workers(endpoints: &[&Upstream], check: &str) -> String {
    let endpoints = endpoints.iter().map(|it| format!("'{}'", it.address())).collect::<Vec<_>>().join(", ");
    format!(
        "gateway: {{admin: {{listen: ADMIN}}, workers: 2}}
listeners: {{public: {{listen: PUBLIC}}}}
upstreams: {{app: {{endpoints: [{endpoints}], health_check: {{{check}}}}}}}
routes:
  one: {{match: {{prefix: /one}}, upstream: app}}
  two: {{match: {{prefix: /two}}, upstream: app}}
  all: {{match: {{prefix: /}}, upstream: app}}
"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r10_2_one_probe_an_interval_however_many_routes_and_workers() {
    let upstream = Upstream::start(|_| ok("fine")).await;
    let began = Instant::now();
    let file = with_two_workers(&[&upstream], "path: /healthz, interval: 300ms, timeout: 200ms");
    let process = Process::start(&file).await;
    for reload in 0..3 {
        let goal = checks(&upstream) + 3;
        process.until("it is checked", async || checks(&upstream) >= goal).await;
        let seen = checks(&upstream) as u128;
        let intervals = began.elapsed().as_millis() / 300;
        assert!(seen <= intervals + 1, "{seen} checks in {intervals} intervals");
        process.write("gateway.yaml", &file.replace("prefix: /two", &format!("prefix: /two{reload}")));
        let generation = reload + 2;
        process
            .until("the change is in force", async || {
                process.json("/readyz").await["generation"] == generation
            })
            .await;
    }
    assert_eq!(
        process.metric("naka_upstream_endpoints{upstream=\"app\",state=\"healthy\"}").await,
        Some(1.0)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r9_8_an_endpoint_whose_check_fails_gets_no_request_while_the_other_serves() {
    let well = Well::new();
    let sick = Upstream::start({
        let well = well.clone();
        move |seen| well.answer(seen, "a")
    })
    .await;
    let other = Upstream::start(|_| ok("b")).await;
    let check = "path: /healthz, interval: 500ms, timeout: 450ms"; // Three in a row are no bad luck.
    let file = with_two_workers(&[&sick, &other], check);
    let process = Process::start(&file).await;
    let healthy = "naka_upstream_endpoints{upstream=\"app\",state=\"healthy\"}";
    process.until("both are well", async || process.metric(healthy).await == Some(2.0)).await;
    well.set(false);
    process.says("an endpoint is unhealthy").await;
    let line = process.log();
    let line = line.lines().find(|line| line.contains("an endpoint is unhealthy")).unwrap();
    for said in ["WARN", "upstream=app", sick.address(), "the answer is 503", "failures=3"] {
        assert!(line.contains(said), "{said}: {line}");
    }
    for turn in 0..100 {
        let path = ["GET /", "GET /one", "GET /two"][turn % 3];
        assert_eq!(process.public(path).await, (200, "b".to_owned()));
    }
    let unhealthy = "naka_upstream_endpoints{upstream=\"app\",state=\"unhealthy\"}";
    assert_eq!(process.metric(unhealthy).await, Some(1.0));
    let failed = "naka_health_checks_total{upstream=\"app\",result=\"failed\"}";
    assert!(process.metric(failed).await >= Some(3.0));

    well.set(true);
    process.says("an endpoint is healthy again").await;
    process.until("it serves again", async || process.public("GET /").await.1 == "a").await;

    // Without its check nothing of it is left in the metrics.
    process.write("gateway.yaml", &file.replace(&format!(", health_check: {{{check}}}"), ""));
    process.until("the change is in force", async || process.json("/readyz").await["generation"] == 2).await;
    let metrics = process.get("/metrics").await.unwrap().1;
    for name in ["naka_upstream_endpoints", "naka_health_checks_total"] {
        assert!(!metrics.contains(&format!("{name}{{upstream=\"app\"")), "{metrics}");
    }
}

/// What an endpoint says when it is asked how it is.
#[derive(Clone)]
struct Word {
    status: u16,
    kind: &'static str,
    in_head: Option<&'static str>,
    message: Vec<u8>,
    in_trailers: Option<&'static str>,
    /// It does not end.
    hangs: bool,
}

impl Word {
    /// As it should be, with this message.
    fn message(message: &[u8]) -> Self {
        let length = u32::try_from(message.len()).unwrap().to_be_bytes();
        Self {
            status: 200,
            kind: "application/grpc",
            in_head: None,
            message: [&[0], &length[..], message].concat(),
            in_trailers: Some("0"),
            hangs: false,
        }
    }

    /// Without a message.
    fn status(status: &'static str) -> Self {
        Self { message: Vec::new(), in_head: Some(status), in_trailers: None, ..Self::message(&[]) }
    }

    async fn say(self, mut respond: h2::server::SendResponse<bytes::Bytes>) {
        let status =
            |code: &str| HeaderMap::from_iter([("grpc-status".parse().unwrap(), code.parse().unwrap())]);
        let mut head =
            http::Response::builder().status(self.status).header("content-type", self.kind).body(()).unwrap();
        head.headers_mut().extend(self.in_head.map(status).unwrap_or_default());
        let is_all = self.message.is_empty() && self.in_trailers.is_none() && !self.hangs;
        let mut stream = respond.send_response(head, is_all).unwrap();
        if is_all {
            return;
        }
        stream.send_data(self.message.into(), self.in_trailers.is_none() && !self.hangs).unwrap();
        if self.hangs {
            sleep(Duration::from_mins(1)).await;
        }
        if let Some(code) = self.in_trailers {
            stream.send_trailers(status(code)).unwrap();
        }
    }
}

/// Heads and bodies.
type Questions = Arc<Mutex<Vec<(http::request::Parts, Vec<u8>)>>>;

/// An endpoint that speaks HTTP/2 and is asked how it is: the questions, as they came.
fn asked(gateway: &Inside, word: Word) -> Questions {
    let (seen, mut listener) = (Arc::new(Mutex::new(Vec::new())), gateway.network.listen("a:1"));
    let questions = Arc::clone(&seen);
    tokio::spawn(async move {
        while let Some(stream) = listener.accept().await {
            let (questions, word) = (Arc::clone(&questions), word.clone());
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((request, respond))) = connection.accept().await {
                    let (head, mut body) = request.into_parts();
                    let (questions, word) = (Arc::clone(&questions), word.clone());
                    tokio::spawn(async move {
                        let mut question = Vec::new();
                        while let Some(Ok(data)) = body.data().await {
                            question.extend_from_slice(&data);
                        }
                        questions.lock().unwrap().push((head, question));
                        word.say(respond).await;
                    });
                }
            });
        }
    });
    seen
}

/// What comes of a check of an endpoint that says this.
async fn verdict_over_h2(check: &str, word: Word) -> Option<String> {
    let gateway = Inside::new(&file(&format!("endpoints: ['a:1'], protocol: h2, health_check: {{{check}}}")));
    let _asked = asked(&gateway, word);
    sleep(Duration::from_secs(4)).await;
    let health = shown(&gateway, "app", "a:1").await["health"].clone();
    let why = health["last_failure"]["why"].as_str().map(str::to_owned);
    assert_eq!(health["state"], if why.is_none() { "healthy" } else { "unhealthy" });
    why
}

#[tokio::test(start_paused = true)]
async fn r10_2_a_grpc_check_asks_about_a_service_over_a_connection_of_its_own() {
    for (check, authority, question) in [
        ("service: shop.Cart, host: cart.internal", "cart.internal", &b"\0\0\0\0\x0b\x0a\x09shop.Cart"[..]),
        ("interval: 2s", "a:1", &[0, 0, 0, 0, 0]),
    ] {
        let check = format!("endpoints: ['a:1'], health_check: {{type: grpc, {check}}}");
        let gateway = Inside::new(&file(&check));
        let asked = asked(&gateway, Word::message(&[8, 1]));
        sleep(Duration::from_mins(1)).await;
        assert_eq!(state(&gateway, "a:1").await, "healthy");
        let asked = asked.lock().unwrap();
        assert!((9..=31).contains(&asked.len()), "{}", asked.len());
        let (head, body) = &asked[0];
        assert_eq!((head.method.as_str(), head.uri.path()), ("POST", "/grpc.health.v1.Health/Check"));
        assert_eq!((head.uri.authority().unwrap().as_str(), &**body), (authority, question));
        assert_eq!(
            (&head.headers["content-type"], &head.headers["te"]),
            (&"application/grpc".parse().unwrap(), &"trailers".parse().unwrap())
        );
    }
}

#[tokio::test(start_paused = true)]
async fn r10_2_of_all_that_grpc_can_answer_only_serving_is_well() {
    let with = |code| Word { in_trailers: Some(code), ..Word::message(&[8, 1]) };
    let no = "the answer has no grpc-status";
    for (word, expected) in [
        (Word::message(&[8, 1]), None),
        (Word { kind: "application/grpc+proto", ..Word::message(&[8, 1]) }, None),
        (Word::message(&[]), Some("it says UNKNOWN")),
        (Word::message(&[8, 2]), Some("it says NOT_SERVING")),
        (Word::message(&[8, 3]), Some("it says SERVICE_UNKNOWN")),
        (Word::status("12"), Some("grpc-status 12 UNIMPLEMENTED")),
        (Word::status("5"), Some("grpc-status 5 NOT_FOUND")),
        (Word::status("0"), Some("the answer is no message of gRPC, or is compressed")),
        (with("14"), Some("grpc-status 14 UNAVAILABLE")),
        (with("99"), Some("grpc-status 99")),
        (Word { in_trailers: None, ..Word::message(&[8, 1]) }, Some(no)),
        (Word { message: vec![0; 8 << 10], ..Word::message(&[]) }, Some("the answer is longer than 4 KiB")),
        (Word { status: 503, ..Word::message(&[8, 1]) }, Some("the answer is 503")),
        (
            Word { kind: "text/html", ..Word::message(&[8, 1]) },
            Some("the answer is no gRPC: its content-type is \"text/html\""),
        ),
        (Word { hangs: true, ..Word::message(&[8, 1]) }, Some("no answer within 1s")),
    ] {
        assert_eq!(verdict_over_h2("type: grpc", word).await.as_deref(), expected);
    }
    // Who speaks something else, and who is not there.
    let why = verdict("type: grpc", || answer(400, "", "")).await.unwrap();
    assert!(why.starts_with("it does not begin to speak HTTP/2"), "{why}");
    let why = verdict("type: grpc", || vec![Step::Hang]).await.unwrap();
    assert_eq!(why, "no answer within 1s");
}

/// A check by HTTP is asked in what the upstream speaks.
#[tokio::test(start_paused = true)]
async fn r10_2_an_endpoint_that_speaks_http_2_is_asked_for_a_path_in_http_2() {
    let page = |status, body: &str| Word {
        status,
        kind: "text/plain",
        message: body.into(),
        in_trailers: None,
        ..Word::message(&[])
    };
    let check = "path: '/healthz?deep=1', body_contains: 'status: up'";
    assert_eq!(verdict_over_h2(check, page(200, "db up, status: up")).await, None);
    let why = verdict_over_h2(check, page(500, "status: up")).await;
    assert_eq!(why.as_deref(), Some("the answer is 500"));
    let why = verdict_over_h2(check, page(200, "status: down")).await;
    assert_eq!(why.as_deref(), Some("`body_contains` is not in the answer"));
    let why = verdict_over_h2(check, page(200, &"x".repeat(80 << 10))).await;
    assert_eq!(why.as_deref(), Some("`body_contains` is not in the first 64 KiB of the answer"));
}

/// Bug: nobody heard of it but who asked for an explanation.
#[tokio::test(start_paused = true)]
async fn r9_3_a_panic_is_counted() {
    let gateway = Inside::new(
        "
gateway: {admin: none}
listeners: {public: {listen: ':1'}}
upstreams:
  app: {endpoints: ['a:1', 'b:1'], balance: {panic: 60%}, health_check: {path: /healthz, interval: 5s}}
routes: {all: {match: {prefix: /}, upstream: app}}
",
    );
    let ((_a, a_well), (_b, _)) = (endpoint(&gateway, "a:1"), endpoint(&gateway, "b:1"));
    let panics = |gateway: &Inside| gateway.metric("naka_upstream_panics_total{upstream=\"app\"}");
    gateway.send(get("/")).await;
    assert_eq!(panics(&gateway), Some(0.0));
    a_well.set(false);
    sleep(ROUND * 5).await;
    let mut statuses = Vec::new();
    for _ in 0..4 {
        statuses.push(gateway.send(get("/")).await.status().as_u16());
    }
    statuses.sort_unstable();
    assert_eq!((statuses, panics(&gateway)), (vec![200, 200, 503, 503], Some(4.0)));
}
