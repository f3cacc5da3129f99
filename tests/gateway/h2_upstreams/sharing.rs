//! Sharing connections.

use super::*;

#[tokio::test(start_paused = true)]
async fn r2_3_many_requests_share_one_connection_to_the_endpoint_whatever_their_clients_speak() {
    let gateway = gateway("timeouts: {response_headers: 5s}");
    let all_are_there = Arc::new(Barrier::new(60));
    let connections = answering(&gateway, plain, move |_, (request, mut respond)| {
        let all_are_there = Arc::clone(&all_are_there);
        async move {
            all_are_there.wait().await;
            say(&mut respond, request.uri().path().to_owned());
        }
    });
    let mut tasks = JoinSet::new();
    let sender = h2c(&gateway).await;
    for number in 0..60 {
        let (gateway, mut sender) = (Arc::clone(&gateway), sender.clone());
        tasks.spawn(async move {
            let target = format!("/{number}");
            if number % 2 == 0 {
                assert_eq!(gateway.send(get(&target)).await.body(), &target);
            } else {
                let request = Request::get(format!("http://api.example{target}")).body(full("")).unwrap();
                let response = sender.send_request(request).await.unwrap();
                assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), target);
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    assert_eq!(connections.load(SeqCst), 1);
    let (open, _) = gateway.generation().state.places.get("app").unwrap().counts("app:1");
    assert_eq!((open, gateway.generation().state.pools[0].get("app").unwrap().idle("app:1")), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn r2_3_a_further_connection_is_made_when_the_streams_of_those_that_there_are_are_taken() {
    for (settings, streams) in [(10, 100), (100, 10)] {
        let gateway = gateway(&format!("connections: {{streams: {streams}}}, keep_alive: {{max_idle: 1}}"));
        let (all_are_there, most) = (Arc::new(Barrier::new(25)), Arc::new(AtomicUsize::new(0)));
        let (under_way, peak) = (Arc::new(Mutex::new(BTreeMap::<usize, usize>::new())), Arc::clone(&most));
        let connections = answering(
            &gateway,
            move |builder| _ = builder.max_concurrent_streams(settings),
            move |number, (_, mut respond)| {
                let (all_are_there, peak, under_way) =
                    (Arc::clone(&all_are_there), Arc::clone(&peak), Arc::clone(&under_way));
                async move {
                    {
                        let mut under_way = under_way.lock().unwrap();
                        let count = under_way.entry(number).or_default();
                        *count += 1;
                        peak.fetch_max(*count, SeqCst);
                    }
                    all_are_there.wait().await;
                    say(&mut respond, "fine");
                }
            },
        );
        assert_eq!(at_once(&gateway, 25).await, fine(25));
        assert_eq!((connections.load(SeqCst), most.load(SeqCst)), (3, 10));
        sleep(Duration::from_millis(10)).await;
        let places = gateway.generation().state.places.get("app").unwrap().counts("app:1");
        assert_eq!(places, (1, 0), "of those that nobody uses one is kept");
    }
}

#[tokio::test(start_paused = true)]
async fn r14_7_so_many_connections_of_so_many_streams_and_so_many_wait() {
    let gateway = gateway(
        "connections: {max: 2, pending: 3, streams: 2}, timeouts: {connect: 2s, response_headers: 1m}",
    );
    let connections = answering(&gateway, plain, |_, (_, mut respond)| async move {
        sleep(Duration::from_secs(1)).await;
        say(&mut respond, "fine");
    });
    // Four are at work and three wait, who have their turn within the time to connect.
    let full = ((503, "connections_full".to_owned()), 3);
    assert_eq!(at_once(&gateway, 10).await, fine(7).into_iter().chain([full]).collect());
    assert_eq!(connections.load(SeqCst), 2);
    // Whoever waits and goes takes nothing along.
    for _ in 0..20 {
        let waits = Arc::clone(&gateway);
        let task = tokio::spawn(async move { at_once(&waits, 7).await });
        sleep(Duration::from_millis(500)).await;
        task.abort();
        sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(at_once(&gateway, 7).await, fine(7));
    assert_eq!(connections.load(SeqCst), 2, "what was given up did not end them");
}

#[tokio::test(start_paused = true)]
async fn r14_7_a_connection_that_nobody_uses_makes_room_for_another_upstream() {
    let text = file("").replace("admin: none", "admin: none, limits: {upstream_connections: 1}");
    let gateway = Inside::new(
        &text.replace("routes: {", "routes: {other: {match: {prefix: /other}, upstream: other}, "),
    );
    let connections =
        answering(&gateway, plain, |_, (_, mut respond)| async move { say(&mut respond, "h2") });
    let other = Upstream::inside(&gateway.network, "other:1", |_| ok("h1"));
    for _ in 0..3 {
        assert_eq!(gateway.send(get("/")).await.body(), "h2");
        assert_eq!(gateway.send(get("/other")).await.body(), "h1");
    }
    assert_eq!((connections.load(SeqCst), other.connections()), (3, 3));
    assert_eq!(gateway.generation().state.all_places.open(), 1);
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_connection_that_is_made_in_vain_hears_of_that_at_once() {
    let gateway = gateway("");
    let connections = raw(&gateway, |_, stream| async move { drop(stream) });
    let failed = BTreeMap::from([((502, "connect_failed".to_owned()), 20)]);
    assert_eq!(at_once(&gateway, 20).await, failed);
    assert_eq!(connections.load(SeqCst), 1, "one attempt was for all");
    // A client that goes does not take the attempt along with it.
    let gateway = self::gateway("timeouts: {connect: 5s}");
    let connections = raw(&gateway, |_, stream| async move {
        sleep(Duration::from_secs(1)).await;
        let mut raw = Raw::begin(stream).await;
        for stream in raw.requests(1).await {
            raw.answer(stream, b"fine").await;
        }
        raw.rest().await;
    });
    let first = tokio::spawn({
        let gateway = Arc::clone(&gateway);
        async move { gateway.send(get("/")).await }
    });
    sleep(Duration::from_millis(500)).await;
    let second = tokio::spawn({
        let gateway = Arc::clone(&gateway);
        async move { gateway.send(get("/")).await }
    });
    sleep(Duration::from_millis(100)).await;
    first.abort();
    assert_eq!(second.await.unwrap().body(), "fine");
    assert_eq!(connections.load(SeqCst), 1);
}

/// Bug: whoever waited heard nothing of it until somebody else's request had ended.
#[tokio::test(start_paused = true)]
async fn an_endpoint_that_takes_more_requests_than_before_gets_them_at_once() {
    const MAX_CONCURRENT_STREAMS: u8 = 3;
    let gateway = gateway("connections: {max: 1, streams: 9}, timeouts: {connect: 1m, response_headers: 1m}");
    let _connections = raw(&gateway, |_, stream| async move {
        let mut raw = Raw::begin_with(stream, &[0, MAX_CONCURRENT_STREAMS, 0, 0, 0, 1]).await;
        let first = raw.requests(1).await[0];
        sleep(Duration::from_secs(1)).await;
        raw.send(SETTINGS, 0, 0, &[0, MAX_CONCURRENT_STREAMS, 0, 0, 0, 2]).await;
        let second = raw.requests(1).await[0];
        raw.answer(second, b"second").await;
        raw.answer(first, b"first").await;
        raw.rest().await;
    });
    let began = Instant::now();
    assert_eq!(at_once(&gateway, 2).await, fine(2));
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}

/// Bug: everybody stood behind one who wanted connections with fewer requests than there are now.
#[tokio::test(start_paused = true)]
async fn who_waits_since_before_a_change_of_the_configuration_keeps_nobody_waiting() {
    let with = |streams| {
        format!(
            "connections: {{max: 1, streams: {streams}}}, timeouts: {{connect: 1m, response_headers: 1m}}"
        )
    };
    let gateway = gateway(&with(1));
    let connections = answering(&gateway, plain, |_, (request, mut respond)| async move {
        let seconds = request.uri().path().trim_start_matches('/').parse().unwrap();
        sleep(Duration::from_secs(seconds)).await;
        say(&mut respond, "fine");
    });
    let ask = |target: &'static str| {
        let gateway = Arc::clone(&gateway);
        tokio::spawn(async move { (gateway.send(get(target)).await.status(), Instant::now()) })
    };
    let arrived = || sleep(Duration::from_millis(10));
    let began = Instant::now();
    let one = ask("/10");
    arrived().await;
    let of_before = ask("/10");
    arrived().await;
    gateway.reload(&file(&with(3))).unwrap();
    let (two, three) = (ask("/5"), ask("/10"));
    arrived().await;
    let behind = ask("/1");
    let (status, at) = behind.await.unwrap();
    assert_eq!((status, (at - began).as_secs()), (StatusCode::OK, 6), "as soon as there is room for it");
    for asked in [one, of_before, two, three] {
        assert_eq!(asked.await.unwrap().0, StatusCode::OK);
    }
    assert_eq!(connections.load(SeqCst), 1);
}

/// Bug: for one who waited, all connections that had room took no more requests, and streams without an end kept them from being closed.
#[tokio::test(start_paused = true)]
async fn streams_without_an_end_and_one_who_waits_put_nobody_out_of_service() {
    let app = "connections: {max: 2, streams: 3}, timeouts: {connect: 1s, response_headers: 1h}";
    let yaml = file(app)
        .replace("admin: none", "admin: none, limits: {upstream_connections: 2}")
        .replace("routes: {", "routes: {other: {match: {path: /other}, upstream: other}, ");
    let gateway = Arc::new(Inside::new(&yaml));
    let connections = answering(&gateway, plain, |_, (request, mut respond)| async move {
        if request.uri().path() == "/endless" {
            std::future::pending::<()>().await;
        }
        sleep(Duration::from_millis(10)).await;
        say(&mut respond, "fine");
    });
    let _other = Upstream::inside(&gateway.network, "other:1", |_| ok("other"));
    let mut endless = JoinSet::new();
    for _ in 0..4 {
        let gateway = Arc::clone(&gateway);
        endless.spawn(async move { gateway.send(get("/endless")).await });
        sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(connections.load(SeqCst), 2);
    sleep(Duration::from_millis(200)).await;
    let waits = Arc::clone(&gateway);
    let waits = tokio::spawn(async move { waits.send(get("/other")).await.status() });
    for _ in 0..100 {
        assert_eq!(gateway.send(get("/")).await.status(), 200);
        sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(waits.await.unwrap(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(at_once(&gateway, 2).await, fine(2));
}
