//! Alerts: who is told of what, when, and how often; in virtual time, with a webhook that does as it is told.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use naka_gateway::{
    admin::{self, Admin},
    monitor,
};
use naka_testkit::{
    network::Network,
    upstream::{Upstream, answer, ok},
};
use rustix::process::Signal;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Instant, sleep},
};

use crate::{
    inside::{Inside, get},
    process::Process,
    readiness::machine,
};

/// What the webhook does with a post; with all that come after the last of these, it takes them.
#[derive(Clone, Copy, Debug)]
enum Does {
    Hang,
    Answer(u16),
}

/// A post as it came.
#[derive(Clone, Debug)]
struct Post {
    at: Instant,
    headers: HeaderMap,
    message: Value,
    is_taken: bool,
}

impl Post {
    /// Each alert in it: `firing warning endpoint-down app`.
    fn says(&self) -> Vec<String> {
        let alerts = self.message["alerts"].as_array().unwrap().iter();
        let word = |value: &Value| value.as_str().unwrap().to_owned();
        let says = alerts.map(|alert| {
            let labels = &alert["labels"];
            let all = [&alert["status"], &labels["severity"], &labels["alertname"], &labels["subject"]];
            all.map(word).join(" ")
        });
        says.collect()
    }
}

/// A receiver of webhooks inside the process.
#[derive(Clone, Default)]
struct Webhook {
    posts: Arc<Mutex<Vec<Post>>>,
    does: Arc<Mutex<VecDeque<Does>>>,
}

impl Webhook {
    /// Listens at `hooks:9094`.
    fn listen(network: &Network, does: &[Does]) -> Self {
        let it = Self { does: Arc::new(Mutex::new(does.iter().copied().collect())), ..Self::default() };
        let mut listener = network.listen("hooks:9094");
        let webhook = it.clone();
        tokio::spawn(async move {
            while let Some(stream) = listener.accept().await {
                let webhook = webhook.clone();
                tokio::spawn(async move {
                    let service = service_fn(|request| webhook.answer(request));
                    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        it
    }

    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
        assert_eq!((request.method().as_str(), request.uri().path()), ("POST", "/alerts"));
        let (head, body) = request.into_parts();
        let message = serde_json::from_slice(&body.collect().await?.to_bytes()).unwrap();
        let does = self.does.lock().unwrap().pop_front().unwrap_or(Does::Answer(200));
        let is_taken = matches!(does, Does::Answer(200..=299));
        self.posts.lock().unwrap().push(Post {
            at: Instant::now(),
            headers: head.headers,
            message,
            is_taken,
        });
        let Does::Answer(status) = does else { return std::future::pending().await };
        let mut answer = Response::new(Full::default());
        *answer.status_mut() = StatusCode::from_u16(status).unwrap();
        Ok(answer)
    }

    fn posts(&self) -> Vec<Post> {
        self.posts.lock().unwrap().clone()
    }

    /// All that it has taken, in order.
    fn heard(&self) -> Vec<String> {
        self.posts().iter().filter(|post| post.is_taken).flat_map(Post::says).collect()
    }
}

/// Checks every second, with no chance in it that counts here.
const CONFIG: &str = "
gateway:
  admin: none
  health: {interval: 1s}
  alerts: {webhook: {url: 'http://hooks:9094/alerts'}}
listeners: {public: {listen: ':1'}}
upstreams:
  app:
    endpoints: ['a:1', 'b:1', 'c:1', 'd:1', 'e:1']
    health_check: {path: /healthz, interval: 1s, timeout: 500ms, unhealthy_after: 1, healthy_after: 1}
routes: {all: {match: {prefix: /}, upstream: app}}
";

/// Endpoints, of which the first `sick` are not well.
struct Endpoints {
    sick: Arc<AtomicUsize>,
    _all: Vec<Upstream>,
}

impl Endpoints {
    fn start(network: &Network) -> Self {
        let sick = Arc::new(AtomicUsize::new(0));
        let one = |(place, name): (usize, &&'static str)| {
            let sick = Arc::clone(&sick);
            Upstream::inside(network, name, move |_| {
                if place < sick.load(SeqCst) { answer(503, "", "sick") } else { ok("fine") }
            })
        };
        let all = ["a:1", "b:1", "c:1", "d:1", "e:1"].iter().enumerate().map(one).collect();
        Self { sick, _all: all }
    }

    fn are_sick(&self, count: usize) {
        self.sick.store(count, SeqCst);
    }
}

/// Begins to look, and to tell. The machine is one that has nothing to do, whatever that of the tests has.
fn watched(gateway: &Inside) -> Arc<Admin> {
    machine(gateway.folder(), 10, 100, 1000);
    let admin = gateway.admin_at(gateway.folder());
    tokio::spawn(monitor::watch(Arc::clone(&admin), gateway.connector()));
    admin
}

async fn seconds(count: u64) {
    sleep(Duration::from_secs(count)).await;
}

/// What the admin port shows of alerts: `pending endpoint-down app`.
async fn shown(admin: &Arc<Admin>) -> Vec<String> {
    let (mut ours, theirs) = tokio::io::duplex(64 << 10);
    tokio::spawn(admin::serve_connection(Arc::clone(admin), admin::Way::Socket, theirs));
    ours.write_all(b"GET /alerts HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut text = String::new();
    ours.read_to_string(&mut text).await.unwrap();
    listed(&serde_json::from_str(text.split_once("\r\n\r\n").unwrap().1).unwrap())
}

fn listed(page: &Value) -> Vec<String> {
    let word = |value: &Value| value.as_str().unwrap().to_owned();
    let alerts = page["alerts"].as_array().unwrap().iter();
    alerts.map(|it| [&it["state"], &it["rule"], &it["subject"]].map(word).join(" ")).collect()
}

#[tokio::test(start_paused = true)]
async fn r10_7_one_endpoint_down_is_a_warning_and_the_majority_critical_each_told_once() {
    let gateway = Inside::new(CONFIG);
    let (endpoints, webhook) = (Endpoints::start(&gateway.network), Webhook::listen(&gateway.network, &[]));
    let admin = watched(&gateway);
    seconds(300).await;
    assert_eq!((webhook.heard(), shown(&admin).await), (vec![], vec![]));

    endpoints.are_sick(1);
    seconds(20).await;
    assert_eq!(webhook.heard(), Vec::<String>::new());
    assert_eq!(shown(&admin).await, ["pending endpoint-down app"]);
    assert_eq!(gateway.metric("naka_alerts{severity=\"warning\",state=\"pending\"}"), Some(1.0));
    seconds(600).await;
    let mut expected = vec!["firing warning endpoint-down app"];
    assert_eq!(webhook.heard(), expected);

    endpoints.are_sick(3);
    seconds(600).await;
    // It is not one that is down any more, and worse: in that order, as the worse fires before the other is over.
    expected.extend(["firing critical majority-down app", "resolved warning endpoint-down app"]);
    assert_eq!(webhook.heard(), expected);
    assert_eq!(gateway.metric("naka_alerts{severity=\"critical\",state=\"firing\"}"), Some(1.0));
    assert_eq!(gateway.metric("naka_alerts{severity=\"warning\",state=\"firing\"}"), Some(0.0));

    endpoints.are_sick(0);
    seconds(600).await;
    expected.push("resolved critical majority-down app");
    assert_eq!(webhook.heard(), expected);
    assert_eq!(gateway.metric("naka_alert_notifications_total{result=\"delivered\"}"), Some(4.0));
}

#[tokio::test(start_paused = true)]
async fn r10_7_the_message_is_what_receivers_of_alertmanager_take() {
    let gateway = Inside::new(&CONFIG.replace(
        "upstreams:\n",
        "upstreams:\n  gone: {endpoints: ['nowhere:1'], health_check: {type: tcp, interval: 1s, timeout: 500ms, unhealthy_after: 1}}\n",
    ).replace("routes: {", "routes: {gone: {match: {path: /gone}, upstream: gone}, "));
    let (endpoints, webhook) = (Endpoints::start(&gateway.network), Webhook::listen(&gateway.network, &[]));
    endpoints.are_sick(5);
    watched(&gateway);
    seconds(60).await;
    let posts = webhook.posts();
    // What begins at one look goes in one post.
    assert_eq!(posts.len(), 1, "{posts:?}");
    assert_eq!(posts[0].says(), ["firing critical majority-down app", "firing critical majority-down gone"]);
    assert_eq!(posts[0].headers["content-type"], "application/json");
    let message = &posts[0].message;
    let [version, status, receiver] =
        ["version", "status", "receiver"].map(|key| message[key].as_str().unwrap());
    assert_eq!((version, status, receiver), ("4", "firing", "naka"));
    assert_eq!(message["commonLabels"]["alertname"], "majority-down");
    assert_eq!(message["commonLabels"]["subject"], Value::Null);
    for key in ["groupKey", "truncatedAlerts", "groupLabels", "commonAnnotations", "externalURL"] {
        assert!(!message[key].is_null(), "{key}");
    }
    let first = &message["alerts"][0];
    assert_eq!(first["endsAt"], "0001-01-01T00:00:00Z");
    assert!(first["startsAt"].as_str().unwrap().starts_with("20"), "{first}");
    let why = first["annotations"]["description"].as_str().unwrap();
    assert!(why.starts_with("0 of 5 endpoints can be used (a:1 unhealthy"), "{why}");
    let print = first["fingerprint"].as_str().unwrap();
    assert!(print.len() == 16 && print != message["alerts"][1]["fingerprint"], "{message}");

    endpoints.are_sick(0);
    seconds(120).await;
    let last = webhook.posts().pop().unwrap().message;
    assert_eq!((&last["status"], &last["alerts"][0]["status"]), (&"resolved".into(), &"resolved".into()));
    assert_eq!(last["alerts"][0]["fingerprint"], print);
    assert!(last["alerts"][0]["endsAt"].as_str().unwrap().starts_with("20"), "{last}");
}

#[tokio::test(start_paused = true)]
async fn r10_7_a_webhook_that_hangs_refuses_and_fails_is_told_once_it_can_be() {
    let gateway = Inside::new(CONFIG);
    let endpoints = Endpoints::start(&gateway.network);
    let admin = watched(&gateway);
    endpoints.are_sick(1);
    seconds(40).await; // Nobody listens there.
    assert_eq!(shown(&admin).await, ["firing endpoint-down app"]);
    let webhook = Webhook::listen(&gateway.network, &[Does::Hang, Does::Answer(500), Does::Answer(429)]);
    seconds(400).await; // By now up to a minute goes by between two tries, and a part of that by chance.
    let posts = webhook.posts();
    assert_eq!(posts.iter().map(|post| post.is_taken).collect::<Vec<_>>(), [false, false, false, true]);
    assert!(posts.iter().all(|post| post.message == posts[0].message));
    assert!(posts[1].at - posts[0].at >= Duration::from_secs(5), "it has five seconds");
    assert_eq!(webhook.heard(), ["firing warning endpoint-down app"]);
    assert_eq!(gateway.metric("naka_alert_notifications_total{result=\"failed\"}"), Some(0.0));
}

#[tokio::test(start_paused = true)]
async fn r10_7_a_webhook_that_is_dead_is_given_up_and_costs_nothing_else() {
    let gateway = Inside::new(CONFIG);
    let endpoints = Endpoints::start(&gateway.network);
    let webhook = Webhook::listen(&gateway.network, &[Does::Answer(500); 10]);
    let admin = watched(&gateway);
    endpoints.are_sick(1);
    seconds(1200).await;
    let posts = webhook.posts();
    assert_eq!(posts.len(), 10);
    let pauses = posts.windows(2).map(|pair| pair[1].at - pair[0].at).collect::<Vec<_>>();
    assert!(pauses.iter().all(|pause| *pause <= Duration::from_mins(1)), "{pauses:?}");
    assert!(pauses[8] >= Duration::from_secs(30), "{pauses:?}");
    assert_eq!(gateway.metric("naka_alert_notifications_total{result=\"failed\"}"), Some(1.0));
    assert_eq!(shown(&admin).await, ["firing endpoint-down app"]);
    assert_eq!(gateway.send(get("/")).await.status(), 200);
    // What comes later is told.
    endpoints.are_sick(0);
    seconds(120).await;
    assert_eq!(webhook.heard(), ["resolved warning endpoint-down app"]);
}

#[tokio::test(start_paused = true)]
async fn r10_7_what_a_webhook_will_never_take_is_given_up_at_once() {
    let gateway = Inside::new(CONFIG);
    let endpoints = Endpoints::start(&gateway.network);
    let webhook = Webhook::listen(&gateway.network, &[Does::Answer(401)]);
    watched(&gateway);
    endpoints.are_sick(1);
    seconds(600).await;
    assert_eq!(webhook.posts().len(), 1);
    assert_eq!(gateway.metric("naka_alert_notifications_total{result=\"failed\"}"), Some(1.0));
}

#[tokio::test(start_paused = true)]
async fn r10_7_the_token_is_shown_and_never_told() {
    let files = [("token", "what-only-the-webhook-knows\n")];
    let yaml = CONFIG.replace("/alerts'", "/alerts', token: {file: token}");
    let gateway = Inside::with_files(&yaml, &files);
    let (endpoints, webhook) = (Endpoints::start(&gateway.network), Webhook::listen(&gateway.network, &[]));
    watched(&gateway);
    endpoints.are_sick(1);
    seconds(60).await;
    assert_eq!(webhook.posts()[0].headers["authorization"], "Bearer what-only-the-webhook-knows");
    assert!(!format!("{:?}", gateway.generation().config.gateway).contains("only-the-webhook"));
}

#[tokio::test(start_paused = true)]
async fn r10_7_a_reload_under_an_alert_keeps_its_time_and_ends_what_has_no_rule() {
    let gateway = Inside::new(CONFIG);
    let (endpoints, webhook) = (Endpoints::start(&gateway.network), Webhook::listen(&gateway.network, &[]));
    let admin = watched(&gateway);
    endpoints.are_sick(1);
    seconds(20).await;
    assert_eq!(shown(&admin).await, ["pending endpoint-down app"]);
    gateway
        .reload(&CONFIG.replace("routes: {", "routes: {other: {match: {path: /x}, respond: {}}, "))
        .unwrap();
    seconds(15).await; // Not thirty seconds after the reload.
    assert_eq!(webhook.heard(), ["firing warning endpoint-down app"]);

    gateway.reload(&CONFIG.replace("alerts: {", "alerts: {rules: {endpoint-down: none}, ")).unwrap();
    seconds(5).await; // It still holds, and nobody wants to know.
    let told = ["firing warning endpoint-down app", "resolved warning endpoint-down app"];
    assert_eq!(webhook.heard(), told);
    // Another severity is another alert; without a webhook nobody is told, and it is shown all the same.
    let other = "alerts: {rules: {endpoint-down: {when: some_down, severity: info, for: 0s}}}";
    gateway.reload(&CONFIG.replace("alerts: {webhook: {url: 'http://hooks:9094/alerts'}}", other)).unwrap();
    seconds(5).await;
    assert_eq!(shown(&admin).await, ["firing endpoint-down app"]);
    assert_eq!(webhook.heard(), told);
}

#[tokio::test(start_paused = true)]
async fn r10_7_a_route_that_answers_with_errors_is_told_of_once_enough_have_asked() {
    let yaml = "
gateway:
  admin: none
  health: {interval: 1s}
  alerts:
    builtin: false
    rules:
      failing: {when: errors, of: [all], above: 5%, min_requests: 20, window: 1m, for: 10s, keep_firing_for: 10s, severity: critical}
    webhook: {url: 'http://hooks:9094/alerts'}
listeners: {public: {listen: ':1'}}
upstreams: {app: {endpoints: ['a:1']}}
routes:
  all: {match: {prefix: /}, upstream: app}
  other: {match: {path: /other}, upstream: app}
";
    let gateway = Inside::new(yaml);
    let webhook = Webhook::listen(&gateway.network, &[]);
    let fails = Arc::new(AtomicBool::new(true));
    let is_failing = Arc::clone(&fails);
    let _app = Upstream::inside(&gateway.network, "a:1", move |seen| {
        let is_failing = seen.target() == "/other" || is_failing.load(SeqCst);
        if is_failing { answer(500, "", "") } else { ok("fine") }
    });
    let admin = watched(&gateway);
    seconds(5).await;
    let ask = async |path: &str, count| {
        for _ in 0..count {
            gateway.send(get(path)).await;
        }
    };
    ask("/", 19).await;
    ask("/other", 100).await; // Nobody has asked about it.
    seconds(20).await;
    assert_eq!((shown(&admin).await, webhook.heard()), (vec![], vec![]));
    ask("/", 1).await;
    seconds(20).await;
    assert_eq!(webhook.heard(), ["firing critical failing all"]);
    // A minute later nothing of it is in the window.
    seconds(120).await;
    assert_eq!(webhook.heard(), ["firing critical failing all", "resolved critical failing all"]);
    // Five of a hundred are not more than that.
    ask("/", 5).await;
    fails.store(false, SeqCst);
    ask("/", 95).await;
    seconds(20).await;
    assert_eq!((shown(&admin).await, webhook.heard().len()), (vec![], 2));
}

#[tokio::test(start_paused = true)]
async fn r10_7_a_breaker_that_stays_open_is_told_of() {
    let yaml = CONFIG
        .replace("all: {", "all: {circuit_breaker: {consecutive: 2, open: 5m}, ")
        .replace("health_check: {path: /healthz,", "health_check: {type: tcp,");
    let gateway = Inside::new(&yaml);
    let (endpoints, webhook) = (Endpoints::start(&gateway.network), Webhook::listen(&gateway.network, &[]));
    watched(&gateway);
    endpoints.are_sick(5);
    for _ in 0..3 {
        gateway.send(get("/")).await;
    }
    seconds(30).await;
    assert_eq!(webhook.heard(), Vec::<String>::new());
    seconds(60).await;
    assert_eq!(webhook.heard(), ["firing warning breaker-open all/circuit_breaker"]);
    endpoints.are_sick(0);
    seconds(300).await;
    for _ in 0..20 {
        gateway.send(get("/")).await;
        seconds(10).await;
    }
    assert_eq!(webhook.heard().pop().unwrap(), "resolved warning breaker-open all/circuit_breaker");
    assert_eq!(webhook.heard().len(), 2);
}

const OF_A_PROCESS: &str = "
gateway:
  admin: {listen: ADMIN}
  workers: 1
  health: {interval: 1s}
  drain: {grace: 1h, deadline: 2h}
  alerts:
    builtin: false
    rules:
      refused: {when: reload_refused, for: 0s, keep_firing_for: 0s}
      down: {when: all_down, for: 0s}
listeners: {public: {listen: PUBLIC}}
upstreams:
  app: {endpoints: ['APP'], health_check: {type: tcp, interval: 200ms, timeout: 100ms, unhealthy_after: 1}}
routes: {all: {match: {prefix: /}, upstream: app}}
";

async fn of(process: &Process) -> Vec<String> {
    listed(&process.json("/alerts").await)
}

#[tokio::test]
async fn r10_7_a_change_that_is_refused_is_told_of_until_it_is_mended() {
    let app = Upstream::start(|_| ok("fine")).await;
    let yaml = OF_A_PROCESS.replace("APP", app.address());
    let process = Process::start(&yaml).await;
    process.write("gateway.yaml", &yaml.replace("routes:", "rouutes:"));
    process.until("it fires", async || of(&process).await == ["firing refused configuration"]).await;
    process.says("an alert fires").await;
    process.write("gateway.yaml", &yaml);
    process.until("it is over", async || of(&process).await.is_empty()).await;
    process.says("an alert is over").await;
}

#[tokio::test]
async fn r10_7_who_is_on_the_way_out_alarms_nobody() {
    let app = Upstream::start(|_| ok("fine")).await;
    let process = Process::start(&OF_A_PROCESS.replace("APP", app.address())).await;
    process.signal(Signal::TERM);
    let says = async || process.get("/readyz").await.unwrap();
    process.until("it drains", async || says().await.0 == 503).await;
    drop(app);
    // All that is looked at is looked at as before; nothing is decided of it.
    let healthz =
        async || crate::readiness::detail(&process).await["checks"]["upstream app"]["level"].clone();
    process.until("it is seen", async || healthz().await == "unhealthy").await;
    assert_eq!(of(&process).await, Vec::<String>::new());
    assert!(!process.log().contains("an alert fires"), "{}", process.log());
}
