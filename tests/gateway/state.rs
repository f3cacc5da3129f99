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
