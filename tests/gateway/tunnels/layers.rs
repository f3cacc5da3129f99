//! What the layers make of upgrades.

use std::time::Duration;

use naka_testkit::upstream::{Step, Upstream, ok};
use tokio::{
    io::AsyncWriteExt as _,
    time::{sleep, timeout},
};

use super::{ASK, CONFIG, SWITCH, has, head, opened, rest};
use crate::inside::Inside;

fn with(route: &str) -> String {
    CONFIG.replace("upstream: app}", &format!("{route}, upstream: app}}"))
}

/// A hedge that opened a second one would leave it open.
#[tokio::test(start_paused = true)]
async fn r2_3_an_upgrade_is_sent_once_whatever_the_policies_say() {
    let all = "hedge: {after: 100ms}, retry: {max: 3}, cache: {}, \
               mirror: {upstream: copies, sample: 100%, methods: all}";
    let two = "upstreams: {copies: {endpoints: ['copies:1']}, ";
    let config = with(all).replace("upstreams: {", two).replace("'app:1'", "'app:1', 'app:2'");
    let gateway = Inside::new(&config);
    let copies = Upstream::inside(&gateway.network, "copies:1", |_| ok("copy"));
    let late = || vec![Step::Wait(Duration::from_secs(2)), Step::send(SWITCH), Step::Hang];
    let apps = ["app:1", "app:2"].map(|name| Upstream::inside(&gateway.network, name, move |_| late()));
    let mut client = gateway.connect();
    client.write_all(ASK.as_bytes()).await.unwrap();
    assert!(has(&head(&mut client).await, "http/1.1 101 switching protocols"));
    sleep(Duration::from_secs(5)).await;
    let requests = apps.iter().map(Upstream::requests).sum::<u64>();
    assert_eq!((requests, copies.requests()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn r2_3_an_upgrade_that_may_have_been_seen_is_not_sent_again_and_one_that_was_not_is() {
    let config =
        with("retry: {max: 3}").replace("['app:1']", "['app:1', 'app:2'], balance: {policy: round_robin}");
    let gateway = Inside::new(&config);
    let app = Upstream::inside(&gateway.network, "app:1", |_| vec![Step::Close]);
    // Nobody listens at `app:2`.
    let mut answers = Vec::new();
    for _ in 0..2 {
        let mut client = gateway.connect();
        client.write_all(ASK.as_bytes()).await.unwrap();
        answers.push(head(&mut client).await);
    }
    assert!(answers.iter().all(|answer| has(answer, "naka-reason: upstream_reset")), "{answers:?}");
    assert_eq!(app.requests(), 2, "the first that could be sent was, once for each");
}

#[tokio::test(start_paused = true)]
async fn what_is_kept_is_no_answer_to_an_upgrade() {
    let gateway = Inside::new(&with("cache: {}, compress: {}"));
    let mut listener = gateway.network.listen("app:1");
    let filling = tokio::spawn(async move {
        let mut app = listener.accept().await.unwrap();
        head(&mut app).await;
        app.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\ncache-control: max-age=600\r\n\r\nkept")
            .await
            .unwrap();
        listener
    });
    assert_eq!(gateway.send(crate::inside::get("/chat")).await.body(), "kept");
    let mut listener = filling.await.unwrap();
    let mut client = gateway.connect();
    let ask = ASK.replace("host: a.example\r\n", "host: api.example\r\naccept-encoding: gzip\r\n");
    client.write_all(ask.as_bytes()).await.unwrap();
    let mut app = timeout(Duration::from_secs(1), listener.accept()).await.unwrap().unwrap();
    head(&mut app).await;
    app.write_all(SWITCH.as_bytes()).await.unwrap();
    let given = head(&mut client).await;
    assert!(given.starts_with("http/1.1 101") && !given.contains("content-encoding"), "{given}");
}

/// A tunnel of an hour is neither slow nor a probe that never ends, and one that breaks off is no failure.
#[tokio::test(start_paused = true)]
async fn r2_3_how_long_a_tunnel_lasts_is_no_evidence() {
    let breaker = "circuit_breaker: {consecutive: 2, open: 10s, slow_call: {over: 1s, rate: 50%}}";
    let gateway = Inside::new(&with(breaker));
    let mut listener = gateway.network.listen("app:1");
    for _ in 0..5 {
        let mut it = opened(&gateway, &mut listener).await;
        sleep(Duration::from_mins(5)).await;
        drop(it.app);
        rest(&mut it.client).await;
    }
    let it = opened(&gateway, &mut listener).await;
    assert!(it.given.starts_with("http/1.1 101"), "{}", it.given);
    let count = gateway.metric("naka_request_duration_seconds_count{route=\"all\"");
    assert_eq!(count, Some(6.0), "and each counts when it begins");
}

#[tokio::test(start_paused = true)]
async fn who_may_not_opens_none() {
    let gateway = Inside::new(&with("rate_limit: {rate: 1/h, key: [client_ip]}"));
    let mut listener = gateway.network.listen("app:1");
    let _first = opened(&gateway, &mut listener).await;
    let mut client = gateway.connect();
    client.write_all(format!("{ASK}\x01\x02").as_bytes()).await.unwrap();
    let refused = head(&mut client).await;
    assert!(refused.starts_with("http/1.1 429"), "{refused}");
}
