//! The trace of a request through the gateway, as a collector is told of it.

use std::time::Duration;

use http::Request;
use http_body_util::{BodyExt, Full};
use naka_testkit::upstream::{Seen, Step, Upstream, answer, ok};
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use serde_json::Value;

use super::collector::{Collector, Node};
use crate::inside::{Inside, get};

const YAML: &str = "
gateway:
  trusted_proxies: [10.0.0.0/8]
  telemetry:
    service: edge
    tracing:
      otlp: 'http://collector:4318'
      headers: {x-collector-key: {file: key}}
      propagators: [w3c, b3]
listeners: {public: {listen: ':1'}}
upstreams:
  kitchens:
    endpoints: ['a:1', 'b:1']
    balance: {policy: round_robin}
    retry_budget: {ratio: 100%, min_per_second: 100, window: 10s}
    timeouts: {connect: 1s, response_headers: 5s}
  other: {endpoints: ['c:1']}
routes:
  orders: {match: {path: '/orders/{id}'}, upstream: kitchens}
  again: {match: {prefix: /again}, retry: {max: 1, when: [connect_error, 5xx]}, upstream: kitchens}
  soon: {match: {prefix: /soon}, hedge: {after: 100ms}, upstream: kitchens}
  broken:
    match: {prefix: /broken}
    circuit_breaker: {consecutive: 2, failure_rate: never, open: 30s}
    upstream: other
  few: {match: {prefix: /few}, rate_limit: {rate: 1/h, key: [client_ip]}, upstream: other}
  room: {match: {prefix: /room}, bulkhead: {max: 1}, upstream: other}
  copied: {match: {prefix: /copied}, mirror: {upstream: other, methods: safe}, upstream: kitchens}
  believed: {match: {prefix: /believed}, trust_parent: always, upstream: kitchens}
  here: {match: {prefix: /here}, respond: {status: 204}}
";

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

fn gateway(yaml: &str) -> (Inside, Collector) {
    let gateway = Inside::with_files(yaml, &[("key", "key-of-edge\n")]);
    let collector = Collector::inside(&gateway.network, "collector:4318");
    (gateway, collector)
}

fn upstream(
    gateway: &Inside,
    name: &str,
    script: impl Fn(&Seen) -> Vec<Step> + Send + Sync + 'static,
) -> Upstream {
    Upstream::inside(&gateway.network, name, script)
}

fn from(target: &str, headers: &[(&str, &str)]) -> Request<Full<bytes::Bytes>> {
    let mut request = get(target);
    for (name, value) in headers {
        let name = http::HeaderName::from_bytes(name.as_bytes()).unwrap();
        request.headers_mut().append(name, value.parse().unwrap());
    }
    request
}

/// The span of the request, and those within it.
fn tree(spans: &[Node]) -> (&Node, Vec<&Node>) {
    let (servers, clients) = spans.iter().partition::<Vec<_>, _>(|it| it.kind == SpanKind::Server);
    let [server] = servers[..] else { panic!("{spans:#?}") };
    for client in &clients {
        assert_eq!((client.kind, &client.trace), (SpanKind::Client, &server.trace));
        assert_eq!(client.parent, server.id, "attempts are siblings");
    }
    (server, clients)
}

#[tokio::test(start_paused = true)]
async fn r8_2_a_request_is_a_span_by_its_route_and_each_attempt_one_within_it() {
    let (gateway, collector) = gateway(YAML);
    let kitchen = upstream(&gateway, "a:1", |_| ok("fine"));
    gateway.send(from("/orders/17?phone=9820098200", &[("authorization", "Bearer secret")])).await;
    let spans = collector.spans(2).await;
    let (server, clients) = tree(&spans);
    assert_eq!((server.name.as_str(), server.service.as_str()), ("GET /orders/{id}", "edge"));
    assert_eq!((server.parent.as_str(), server.is_error), ("", false));
    let told = server.attributes.iter().map(|(key, value)| format!("{key}={value}"));
    assert_eq!(
        told.collect::<Vec<_>>(),
        [
            "http.request.method=GET",
            "http.response.status_code=200",
            "http.route=/orders/{id}",
            "naka.route=orders",
            "network.protocol.version=1.1",
            "server.address=api.example",
            "url.scheme=http",
        ]
    );
    let [client] = clients[..] else { panic!("{clients:?}") };
    assert_eq!((client.says("server.address"), client.says("server.port")), (Some("a"), Some("1")));
    assert_eq!(client.says("naka.upstream"), Some("kitchens"));
    let seen = kitchen.last();
    assert_eq!(seen.header("traceparent").unwrap(), format!("00-{}-{}-03", server.trace, client.id));
    assert_eq!(seen.header("b3").unwrap(), format!("{}-{}-1", server.trace, client.id));
    let headers = collector.headers();
    assert_eq!(
        (&headers["x-collector-key"], &headers["host"]),
        (&"key-of-edge".parse().unwrap(), &"collector:4318".parse().unwrap())
    );
}

#[tokio::test(start_paused = true)]
async fn r8_2_statuses_are_errors_of_whoever_they_are_of() {
    let (gateway, collector) = gateway(YAML);
    let _kitchen =
        upstream(&gateway, "a:1", |seen| answer(seen.header("x-status").unwrap().parse().unwrap(), "", ""));
    let _other =
        upstream(&gateway, "b:1", |seen| answer(seen.header("x-status").unwrap().parse().unwrap(), "", ""));
    for (status, of_server, of_client) in [("409", false, true), ("500", true, true), ("200", false, false)] {
        gateway.send(from("/orders/17", &[("x-status", status)])).await;
        let spans = collector.spans(2).await;
        let (server, clients) = tree(&spans);
        assert_eq!((server.is_error, clients[0].is_error), (of_server, of_client), "{status}");
        assert_eq!(clients[0].says("error.type"), of_client.then_some(status));
    }
}

#[tokio::test(start_paused = true)]
async fn r8_2_attempts_of_a_retry_are_siblings_and_say_which_they_are() {
    let (gateway, collector) = gateway(YAML);
    let first = upstream(&gateway, "a:1", |_| answer(500, "", "broken"));
    let second = upstream(&gateway, "b:1", |_| ok("fine"));
    let response = gateway.send(get("/again")).await;
    assert_eq!(response.status(), 200);
    let spans = collector.spans(3).await;
    let (server, clients) = tree(&spans);
    assert_eq!((server.events(), server.is_error), (vec!["naka.retried"], false));
    let told =
        clients.iter().map(|it| (it.says("http.response.status_code"), it.says("http.request.resend_count")));
    assert_eq!(told.collect::<Vec<_>>(), [(Some("500"), None), (Some("200"), Some("1"))]);
    for (upstream, client) in [(&first, clients[0]), (&second, clients[1])] {
        assert!(
            upstream.last().header("traceparent").unwrap().contains(&client.id),
            "each is asked under its own number"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn r8_2_of_a_hedge_the_one_that_lost_is_recorded_as_given_up() {
    let (gateway, collector) = gateway(YAML);
    let _slow = upstream(&gateway, "a:1", |_| vec![Step::Hang]);
    let _fast = upstream(&gateway, "b:1", |_| ok("fine"));
    gateway.send(get("/soon")).await;
    let spans = collector.spans(3).await;
    let (server, clients) = tree(&spans);
    assert_eq!(server.events(), ["naka.hedged", "naka.hedge_won"]);
    assert_eq!(
        (clients[0].says("naka.end"), clients[0].says("http.response.status_code")),
        (Some("cancelled"), None)
    );
    assert_eq!(
        (clients[1].says("naka.end"), clients[1].says("http.response.status_code")),
        (None, Some("200"))
    );
    assert!(clients[0].took >= Duration::from_millis(100) && clients[1].took < Duration::from_millis(100));
}

#[tokio::test(start_paused = true)]
async fn r8_2_what_refuses_is_an_event_and_nobody_is_asked() {
    let (gateway, collector) = gateway(YAML);
    let _other = upstream(&gateway, "c:1", |seen| {
        if seen.target().starts_with("/broken") { answer(500, "", "") } else { ok("fine") }
    });
    for _ in 0..2 {
        gateway.send(get("/broken")).await;
    }
    gateway.send(get("/few")).await;
    collector.spans(6).await;
    for (target, status, policy, reason) in [
        ("/broken", "503", "broken/circuit_breaker", "circuit_open"),
        ("/few", "429", "few/rate_limit", "rate_limited"),
    ] {
        gateway.send(get(target)).await;
        let spans = collector.spans(1).await;
        let (server, _) = tree(&spans);
        assert_eq!(server.says("http.response.status_code"), Some(status));
        let [(name, said)] = &server.events[..] else { panic!("{server:?}") };
        assert_eq!((name.as_str(), said["naka.reason"].as_str()), ("naka.rejected", reason));
        assert_eq!(said["naka.policy"], policy);
        assert_eq!(server.is_error, status == "503");
    }
    // Not even a route.
    let answered = gateway.send(get("/nowhere")).await;
    let spans = collector.spans(1).await;
    assert_eq!((spans[0].name.as_str(), spans[0].says("http.route")), ("GET", None));
    assert_eq!(
        spans[0].events,
        [("naka.rejected".to_owned(), [("naka.reason".to_owned(), "route_not_found".to_owned())].into())]
    );
    // Who is told of it finds the trace.
    let problem = serde_json::from_slice::<Value>(answered.body()).unwrap();
    assert_eq!(problem["trace_id"], spans[0].trace.as_str());
}

#[tokio::test(start_paused = true)]
async fn r8_2_a_bulkhead_that_is_full_is_an_event() {
    let (gateway, collector) = gateway(YAML);
    let _other = upstream(&gateway, "c:1", |_| vec![Step::ReadBody, Step::Hang]);
    let mut held = gateway.client().await;
    let waits = tokio::spawn(async move { held.whole(get("/room")).await });
    tokio::time::sleep(Duration::from_millis(10)).await;
    gateway.send(get("/room")).await;
    let spans = collector.spans(1).await;
    assert_eq!(spans[0].events[0].1["naka.reason"], "bulkhead_full");
    waits.abort();
}

#[tokio::test(start_paused = true)]
async fn r8_3_a_span_lasts_as_long_as_the_body_and_says_if_its_client_went_away() {
    let (gateway, collector) = gateway(YAML);
    let _kitchen = upstream(&gateway, "a:1", |_| {
        vec![
            Step::send("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nfirst"),
            Step::Wait(Duration::from_secs(3)),
            Step::send("later"),
        ]
    });
    let _other = upstream(&gateway, "b:1", |_| {
        vec![Step::send("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nfirst"), Step::Hang]
    });
    gateway.send(get("/orders/1")).await;
    let spans = collector.spans(2).await;
    let (server, clients) = tree(&spans);
    assert!(server.took >= Duration::from_secs(3) && clients[0].took >= Duration::from_secs(3), "{spans:#?}");
    assert_eq!(server.says("naka.end"), None);
    // The second one goes away behind the head.
    let mut client = gateway.client().await;
    let response = client.head(get("/orders/2")).await;
    let mut body = response.into_body();
    body.frame().await.unwrap().unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(collector.take_all().is_empty(), "it is on its way");
    drop((body, client));
    let spans = collector.spans(2).await;
    let (server, clients) = tree(&spans);
    assert_eq!(
        (server.says("naka.end"), clients[0].says("naka.end")),
        (Some("cancelled"), Some("cancelled"))
    );
    assert_eq!((server.says("http.response.status_code"), server.is_error), (Some("200"), false));
}

#[tokio::test(start_paused = true)]
async fn r8_5_a_stranger_begins_no_trace_of_ours_but_where_a_route_believes_it() {
    let (gateway, collector) = gateway(YAML);
    let kitchens = [upstream(&gateway, "a:1", |_| ok("fine")), upstream(&gateway, "b:1", |_| ok("fine"))];
    let said = [
        ("traceparent", PARENT),
        ("tracestate", "ola=1"),
        ("baggage", "city=pune"),
        ("uber-trace-id", "1:2:0:1"),
    ];
    gateway.send(from("/orders/1", &said)).await;
    let spans = collector.spans(2).await;
    let (server, _) = tree(&spans);
    assert_eq!(server.parent, "");
    assert_ne!(server.trace, TRACE);
    let seen = kitchens.iter().find(|it| it.requests() > 0).unwrap().last();
    for gone in ["tracestate", "baggage", "uber-trace-id"] {
        assert_eq!(seen.header(gone), None, "{gone}");
    }
    assert!(!seen.header("traceparent").unwrap().contains(TRACE));
    gateway.send(from("/believed", &said)).await;
    let spans = collector.spans(2).await;
    let (server, _) = tree(&spans);
    assert_eq!((server.trace.as_str(), server.parent.as_str()), (TRACE, "b7ad6b7169203331"));
    let seen = kitchens
        .iter()
        .map(Upstream::seen)
        .find_map(|all| all.into_iter().find(|it| it.target() == "/believed"))
        .unwrap();
    assert_eq!((seen.header("tracestate"), seen.header("baggage")), (Some("ola=1"), Some("city=pune")));
}

#[tokio::test(start_paused = true)]
async fn r8_5_a_trace_that_is_not_recorded_goes_on_and_failures_are_recorded_all_the_same() {
    let (gateway, collector) = gateway(&YAML.replace("propagators:", "sample: 0%\n      propagators:"));
    let kitchen =
        upstream(&gateway, "a:1", |seen| answer(seen.header("x-status").unwrap().parse().unwrap(), "", ""));
    let _other = upstream(&gateway, "b:1", |_| answer(500, "", ""));
    gateway.send(from("/orders/1", &[("x-status", "200")])).await;
    assert!(kitchen.last().header("traceparent").unwrap().ends_with("-02"), "told that it is not recorded");
    gateway.send(from("/orders/2", &[])).await;
    let spans = collector.spans(2).await;
    assert_eq!(tree(&spans).0.says("http.response.status_code"), Some("500"));
    // Who is believed has decided.
    gateway.send(from("/believed", &[("x-status", "200"), ("traceparent", PARENT)])).await;
    assert_eq!(tree(&collector.spans(2).await).0.trace, TRACE);
}

#[tokio::test(start_paused = true)]
async fn r8_1_a_copy_is_of_the_same_trace_and_is_no_attempt() {
    let (gateway, collector) = gateway(YAML);
    let (_kitchen, shadow) =
        (upstream(&gateway, "a:1", |_| ok("fine")), upstream(&gateway, "c:1", |_| ok("fine")));
    gateway.send(get("/copied")).await;
    let spans = collector.spans(2).await;
    let (server, _) = tree(&spans);
    while shadow.requests() == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(shadow.last().header("traceparent").unwrap(), format!("00-{}-{}-03", server.trace, server.id));
}

#[tokio::test(start_paused = true)]
async fn r8_4_a_collector_that_hangs_delays_nobody_and_what_is_dropped_is_counted() {
    let yaml = YAML.replace("propagators:", "queue: 16KiB\n      propagators:");
    let (gateway, collector) = gateway(&yaml);
    let _kitchens = [upstream(&gateway, "a:1", |_| ok("fine")), upstream(&gateway, "b:1", |_| ok("fine"))];
    collector.hang(true);
    let mut client = gateway.client().await;
    let began = tokio::time::Instant::now();
    for _ in 0..500 {
        assert_eq!(client.send(get("/orders/1")).await.status(), 200);
    }
    assert!(
        began.elapsed() < Duration::from_secs(1),
        "no time goes by while nobody waits: {:?}",
        began.elapsed()
    );
    let exporting = || {
        let generation = gateway.generation();
        generation.state.exporters.iter().next().map(|(_, it)| it.exporter.clone()).unwrap()
    };
    assert!(exporting().bytes() <= 17 << 10, "{}", exporting().bytes());
    assert!(exporting().counts().dropped > 500);
    // Another generation, the same way: it goes on where it was.
    let dropped = exporting().counts().dropped;
    gateway.reload(&yaml.replace("burst", "").replace("{rate: 1/h", "{rate: 2/h")).unwrap();
    assert!(exporting().counts().dropped >= dropped, "kept");
    collector.hang(false);
    while exporting().bytes() > 0 {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let counts = exporting().counts();
    assert_eq!(counts.exported + counts.dropped + counts.failed, 1000);
    assert!(counts.exported > 0);
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_a_collector_that_is_named_no_more_is_still_sent_there() {
    let (gateway, before) = gateway(YAML);
    let after = Collector::inside(&gateway.network, "elsewhere:4318");
    let _kitchens = [upstream(&gateway, "a:1", |_| ok("fine")), upstream(&gateway, "b:1", |_| ok("fine"))];
    gateway.send(get("/orders/1")).await;
    gateway.reload(&YAML.replace("collector:4318", "elsewhere:4318")).unwrap();
    gateway.send(get("/here")).await;
    before.spans(2).await;
    assert_eq!(after.spans(1).await[0].name, "GET /here/*");
}

/// What explain says of a stranger's trace is what becomes of it: nothing of it is sent on.
#[tokio::test(start_paused = true)]
async fn r8_5_explain_says_which_trace_a_request_would_be_of() {
    let (gateway, _collector) = gateway(&YAML.replace("propagators:", "sample: 0.5%\n      propagators:"));
    let said = [format!("traceparent: {PARENT}"), "baggage: city=pune".to_owned()];
    for (target, trace, is_sent) in [
        ("/orders/1", "begins here; 0.5% of such are recorded".to_owned(), false),
        ("/believed", format!("{TRACE} goes on, recorded, as whoever began it says"), true),
    ] {
        let explained = gateway.explain(&format!("GET http://api.example{target}"), &said);
        assert_eq!(explained.trace.as_deref(), Some(&*trace));
        assert!(explained.to_string().contains(&format!("trace: {trace}\n")), "{explained}");
        let sent = &explained.forwarded.as_ref().unwrap().headers;
        assert_eq!(sent.iter().any(|field| field.name == "baggage"), is_sent, "{sent:?}");
        assert!(
            sent.iter().all(|field| field.name != "traceparent"),
            "each has a number of its own: {sent:?}"
        );
    }
    let untraced = Inside::new(
        "{listeners: {a: {listen: ':1'}}, routes: {b: {match: {prefix: /}, respond: {status: 200}}}}",
    );
    assert_eq!(untraced.explain("GET http://api.example/", &[]).trace, None);
}
