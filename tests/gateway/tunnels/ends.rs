//! How a tunnel ends.

use std::time::Duration;

use naka_gateway::shared::Ending;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::{Instant, sleep, timeout},
};

use super::{CONFIG, exactly, opened, rest};
use crate::inside::Inside;

#[tokio::test(start_paused = true)]
async fn r2_3_the_end_of_one_way_is_passed_on_and_the_other_goes_on() {
    let gateway = Inside::new(CONFIG);
    let mut listener = gateway.network.listen("app:1");
    for is_client_first in [true, false] {
        let it = opened(&gateway, &mut listener).await;
        let (mut first, mut last) = if is_client_first { (it.client, it.app) } else { (it.app, it.client) };
        first.write_all(b"the last").await.unwrap();
        first.shutdown().await.unwrap();
        assert_eq!(rest(&mut last).await, b"the last");
        for _ in 0..3 {
            sleep(Duration::from_mins(9)).await;
            last.write_all(b"more").await.unwrap();
            assert_eq!(exactly(&mut first, 4).await, b"more");
        }
        last.shutdown().await.unwrap();
        assert_eq!(rest(&mut first).await, b"");
    }
    sleep(Duration::from_secs(2)).await;
    assert_eq!(gateway.metric("naka_tunnels "), Some(0.0));
    assert_eq!(gateway.metric("naka_tunnel_bytes_total{to=\"upstream\"}"), Some(20.0));
    assert_eq!(gateway.metric("naka_tunnel_bytes_total{to=\"client\"}"), Some(20.0));
}

#[tokio::test(start_paused = true)]
async fn r2_3_a_tunnel_outlives_all_other_timeouts_and_ends_when_nothing_moves() {
    let gateway = Inside::new(CONFIG);
    let mut listener = gateway.network.listen("app:1");
    let mut it = opened(&gateway, &mut listener).await;
    for round in 0..10 {
        sleep(Duration::from_mins(9)).await;
        let (from, to) =
            if round % 2 == 0 { (&mut it.app, &mut it.client) } else { (&mut it.client, &mut it.app) };
        from.write_all(b"x").await.unwrap();
        assert_eq!(exactly(to, 1).await, b"x", "either way counts");
    }
    let since = Instant::now();
    assert_eq!(rest(&mut it.client).await, b"");
    assert_eq!(since.elapsed().as_secs() / 60, 10);
    assert_eq!(rest(&mut it.app).await, b"");
}

#[tokio::test(start_paused = true)]
async fn a_route_may_say_how_long_and_never_is_for_ever() {
    let gateway =
        Inside::new(&CONFIG.replace("upstream: app}", "timeouts: {tunnel_idle: never}, upstream: app}"));
    let mut listener = gateway.network.listen("app:1");
    let mut it = opened(&gateway, &mut listener).await;
    sleep(Duration::from_hours(100)).await;
    it.app.write_all(b"x").await.unwrap();
    assert_eq!(exactly(&mut it.client, 1).await, b"x");
}

/// Neither of the two reads: nothing moves.
#[tokio::test(start_paused = true)]
async fn r2_3_who_reads_nothing_makes_the_other_wait_and_not_for_ever() {
    let gateway = Inside::new(CONFIG);
    let mut listener = gateway.network.listen("app:1");
    let mut it = opened(&gateway, &mut listener).await;
    let (flood, mut sent) = (vec![1; 16 << 10], 0);
    while let Ok(Ok(())) = timeout(Duration::from_secs(1), it.app.write_all(&flood)).await {
        sent += flood.len();
    }
    assert!(sent <= 256 << 10, "two pipes and a piece: {sent}");
    sleep(Duration::from_mins(11)).await;
    assert!(it.app.write_all(&flood).await.is_err(), "it was ended");
    assert_eq!(gateway.metric("naka_tunnels "), Some(0.0));
}

#[tokio::test(start_paused = true)]
async fn either_end_that_goes_ends_it_for_the_other() {
    let gateway = Inside::new(CONFIG);
    let mut listener = gateway.network.listen("app:1");
    let mut it = opened(&gateway, &mut listener).await;
    drop(it.client);
    assert_eq!(rest(&mut it.app).await, b"");
    it.app.write_all(b"nobody hears it").await.ok();
    drop(it.app);
    sleep(Duration::from_secs(2)).await;
    assert_eq!(gateway.metric("naka_tunnels "), Some(0.0));
}

#[tokio::test(start_paused = true)]
async fn r2_3_a_drain_leaves_tunnels_alone_until_its_end_and_says_farewell_then() {
    let gateway = Inside::new(CONFIG);
    let mut listener = gateway.network.listen("app:1");
    let mut within = opened(&gateway, &mut listener).await;
    let mut it = opened(&gateway, &mut listener).await;
    for ending in [Ending::NextResponse, Ending::Now] {
        gateway.drain(ending);
        sleep(Duration::from_mins(1)).await;
        it.app.write_all(&[0x81, 2, b'h', b'i']).await.unwrap();
        assert_eq!(exactly(&mut it.client, 4).await, [0x81, 2, b'h', b'i']);
    }
    within.app.write_all(&[0x81, 5, b'h', b'i']).await.unwrap();
    assert_eq!(exactly(&mut within.client, 4).await, [0x81, 5, b'h', b'i']);
    gateway.drain(Ending::Tunnels);
    assert_eq!(rest(&mut it.client).await, [0x88, 2, 0x03, 0xe9], "going away");
    assert_eq!(rest(&mut it.app).await, b"");
    assert_eq!(rest(&mut within.client).await, b"", "nothing can be said within a frame");
}

#[tokio::test(start_paused = true)]
async fn r2_3_a_tunnel_keeps_what_it_began_with_over_reloads() {
    let with = |bulkhead: &str| CONFIG.replace("upstream: app}", &format!("{bulkhead}, upstream: app}}"));
    let gateway = Inside::new(&with("bulkhead: {max: 1}"));
    let mut listener = gateway.network.listen("app:1");
    let mut it = opened(&gateway, &mut listener).await;
    let refused = gateway.send(crate::inside::get("/")).await;
    assert_eq!(refused.headers()["naka-reason"], "bulkhead_full", "it has the place");
    gateway
        .reload(
            "
gateway: {admin: none}
listeners: {public: {listen: ':1'}}
routes: {all: {match: {prefix: /}, respond: {status: 204}}}
",
        )
        .unwrap();
    it.client.write_all(b"still").await.unwrap();
    assert_eq!(exactly(&mut it.app, 5).await, b"still");
    gateway.reload(&with("bulkhead: {max: 1}")).unwrap();
    let refused = gateway.send(crate::inside::get("/")).await;
    assert_eq!(refused.headers()["naka-reason"], "bulkhead_full", "and keeps it");
    drop((it.client, it.app));
    sleep(Duration::from_secs(2)).await;
    let mut client = gateway.connect();
    client.write_all(b"GET / HTTP/1.1\r\nhost: a.example\r\n\r\n").await.unwrap();
    let mut app = listener.accept().await.unwrap();
    assert_eq!(app.read_u8().await.unwrap(), b'G', "until it ends");
}
