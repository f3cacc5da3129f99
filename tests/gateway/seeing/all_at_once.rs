//! Whoever is told about requests fails in every way at once, and no request hears of it.

use std::{
    fmt::Write as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};

use http::Request;
use http_body_util::Full;
use naka_testkit::upstream::{Upstream, ok};
use tokio::net::TcpListener;

use crate::{
    inside::Client,
    process::{Process, raw},
};

const ROUTES: usize = 10_000;
const REQUESTS: u32 = 3000;
/// What may wait for the collector, and for the log.
const QUEUE: u64 = 1 << 20;

fn yaml(upstream: &str, collector: &str) -> String {
    let mut yaml = format!(
        "
gateway:
  admin: {{listen: ADMIN}}
  telemetry:
    metrics: {{max_series: 300000}}
    tracing: {{otlp: 'http://{collector}', queue: 1MiB}}
    access_log: {{file: /dev/full, queue: 1MiB}}
listeners: {{public: {{listen: PUBLIC}}}}
upstreams: {{app: {{endpoints: ['{upstream}'], bulkhead: {{max: 1, queue: 10, max_wait: 10s}}}}}}
routes:
  asked: {{match: {{prefix: /asked}}, upstream: app}}
"
    );
    for number in 0..ROUTES {
        let _ = writeln!(yaml, "  r{number}: {{match: {{path: /r{number}}}, respond: {{status: 204}}}}");
    }
    yaml
}

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counts")]
async fn a_hung_collector_a_full_disk_and_scrapes_of_ten_thousand_routes_fail_delay_and_queue_no_request() {
    let upstream = Upstream::start(|_| ok("fine")).await;
    let collector = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = collector.local_addr().unwrap().to_string();
    let hung = tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = collector.accept().await {
            held.push(stream); // Accepted, and never read.
        }
    });
    let process = Process::start(&yaml(upstream.address(), &at)).await;
    // What a scrape takes in memory it takes without all of this, too.
    let admin = process.admin;
    let scrape = async move || {
        raw(admin, format!("GET /metrics HTTP/1.1\r\nhost: {admin}\r\nconnection: close\r\n\r\n").as_bytes())
            .await
    };
    assert!(scrape().await.len() > 10 << 20);
    let before = process.peak_memory();
    let is_over = Arc::new(AtomicBool::new(false));
    let over = Arc::clone(&is_over);
    let scrapes = tokio::spawn(async move {
        let mut count = 0;
        while !over.load(SeqCst) || count == 0 {
            assert!(scrape().await.starts_with(b"HTTP/1.1 200 "));
            count += 1;
        }
        count
    });
    let mut client = Client::over(process.public).await;
    let mut answered = 0;
    for _ in 0..REQUESTS {
        let request = Request::get("/asked").header("host", "api.example").body(Full::default()).unwrap();
        let response = client.send(request).await;
        assert_eq!((response.status().as_u16(), &response.body()[..]), (200, &b"fine"[..]));
        answered += 1;
    }
    is_over.store(true, SeqCst);
    let count = scrapes.await.unwrap();
    assert_eq!((answered, upstream.requests()), (REQUESTS, u64::from(REQUESTS)));
    let metric = async |start: &str| process.metric(start).await.unwrap_or_else(|| panic!("no {start}"));
    // Had one been held up where it has its place, the next would have queued for it.
    assert_eq!(
        metric("naka_policy_decisions_total{policy=\"app/bulkhead\",outcome=\"queued\"}").await as u64,
        0
    );
    process
        .until("all lines have been tried", async || {
            let lost = [
                "naka_access_log_lines_total{result=\"failed\"}",
                "naka_access_log_lines_total{result=\"dropped\"}",
            ];
            metric(lost[0]).await + metric(lost[1]).await >= f64::from(REQUESTS)
        })
        .await;
    assert_eq!(metric("naka_access_log_lines_total{result=\"written\"}").await as u64, 0);
    assert_eq!(metric("naka_spans_total{result=\"exported\"}").await as u64, 0);
    let waiting = metric("naka_telemetry_waiting_bytes{what=\"spans\"}").await as u64;
    let dropped = metric("naka_spans_total{result=\"dropped\"}").await as u64;
    // A batch is sent from a copy, and the last span that finds room may go beyond it.
    assert!(waiting <= QUEUE + 4096, "{waiting}");
    let (after, room) = (process.peak_memory(), 3 * QUEUE + (8 << 20));
    println!(
        "{count} scrapes; {waiting} bytes of spans wait, {dropped} spans dropped; {before} bytes before, {after} after"
    );
    assert!(after <= before + room, "{} MiB more", (after - before) >> 20);
    hung.abort();
}
