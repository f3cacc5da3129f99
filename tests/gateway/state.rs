//! What policies hold, and how long they hold it.

use std::{sync::Arc, time::Duration};

use naka_testkit::upstream::{Step, Upstream, ok};
use tokio::time::Instant;

use crate::inside::{Inside, get};

/// `total` counts from the request head, so it ends the wait for a place, too.
#[tokio::test(start_paused = true)]
async fn total_ends_the_wait_for_a_place() {
    let gateway = Arc::new(Inside::new(
        "
listeners: {public: {listen: ':1'}}
upstreams: {app: {endpoints: ['app:1'], timeouts: {response_headers: 1h}}}
routes:
  slow: {match: {path: /slow}, timeouts: {total: never}, use: [narrow], upstream: app}
  quick: {match: {path: /quick}, timeouts: {total: 1s}, use: [narrow], upstream: app}
policies: {narrow: {bulkhead: {max: 1, queue: 5, max_wait: 30s}}}
",
    ));
    let upstream = Upstream::inside(&gateway.network, "app:1", |seen| match seen.target() {
        "/slow" => vec![Step::Hang],
        _ => ok("quick"),
    });
    let slow = tokio::spawn({
        let gateway = Arc::clone(&gateway);
        async move { gateway.send(get("/slow")).await }
    });
    while upstream.working() == 0 {
        tokio::task::yield_now().await;
    }
    let start = Instant::now();
    let answer = gateway.send(get("/quick")).await;
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["naka-reason"]),
        (504, &"total_timeout".parse().unwrap())
    );
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    assert_eq!(upstream.requests(), 1);
    slow.abort();
}

fn limited(key: &str) -> String {
    format!(
        "
listeners: {{public: {{listen: ':1'}}}}
policies: {{few: {{rate_limit: {{rate: 2/h, key: [{key}], max_keys: 32}}}}}}
routes: {{all: {{match: {{prefix: /}}, use: [few], respond: {{body: fine}}}}}}
"
    )
}

async fn statuses(gateway: &Inside, times: usize) -> Vec<u16> {
    let mut all = Vec::new();
    for _ in 0..times {
        all.push(gateway.send(get("/")).await.status().as_u16());
    }
    all
}

fn report(gateway: &Inside) -> Vec<String> {
    gateway.generation().report.iter().map(ToString::to_string).collect()
}

/// What was counted by one key is not in the way of another, and still there when the key comes back.
#[tokio::test(start_paused = true)]
async fn another_key_is_another_account_and_the_old_key_finds_its_own_again() {
    let gateway = Inside::new(&limited("client_ip"));
    assert_eq!(statuses(&gateway, 3).await, [200, 200, 429]);
    gateway.reload(&limited("host")).unwrap();
    assert_eq!(report(&gateway), ["rate_limit few created", "rate_limit few buried"]);
    assert_eq!(statuses(&gateway, 3).await, [200, 200, 429]);
    assert_eq!(
        gateway.generation().state.rate_limits.get("few").unwrap().keys(),
        1,
        "no key of the old sort"
    );
    gateway.reload(&limited("client_ip")).unwrap();
    assert_eq!(report(&gateway), ["rate_limit few restored", "rate_limit few buried"]);
    assert_eq!(statuses(&gateway, 1).await, [429], "there and back refills nobody");
}

/// A bulkhead that was taken away and comes back knows who is at work, however long that has been.
#[tokio::test(start_paused = true)]
async fn a_buried_bulkhead_remembers_who_is_at_work() {
    let with = "
listeners: {public: {listen: ':1'}}
upstreams: {app: {endpoints: ['app:1'], timeouts: {idle: never, response_headers: 5h}}}
policies: {narrow: {bulkhead: {max: 1}}}
routes: {all: {match: {prefix: /}, timeouts: {total: never}, use: [narrow], upstream: app}}
";
    let without =
        with.replace("policies: {narrow: {bulkhead: {max: 1}}}\n", "").replace("use: [narrow], ", "");
    let gateway = Inside::new(with);
    let upstream = Upstream::inside(&gateway.network, "app:1", |_| {
        vec![Step::send("HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nhalf"), Step::Hang]
    });
    let mut client = gateway.client().await;
    let download = client.head(get("/")).await;
    gateway.reload(&without).unwrap();
    tokio::time::advance(Duration::from_hours(1)).await;
    gateway.reload(&without.replace("prefix: /", "prefix: '/'")).unwrap();
    gateway.reload(with).unwrap();
    assert_eq!(gateway.send(get("/")).await.status(), 503, "one is at work");
    drop((download, client));
    while gateway.generation().state.bulkheads.get("narrow").unwrap().counts().working > 0 {
        tokio::task::yield_now().await;
    }
    gateway.reload(&without).unwrap();
    assert!(report(&gateway).contains(&"bulkhead narrow dropped".to_owned()), "{:?}", report(&gateway));
    assert_eq!(upstream.requests(), 1);
}
