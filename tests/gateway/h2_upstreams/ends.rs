//! What ends, and what ends with it.

use super::*;

#[tokio::test(start_paused = true)]
async fn r2_3_what_breaks_off_never_looks_whole() {
    let codes = [Reason::NO_ERROR, Reason::CANCEL, Reason::INTERNAL_ERROR, Reason::REFUSED_STREAM];
    for code in codes.map(Some).into_iter().chain([None]) {
        let gateway = gateway("");
        endpoint(&gateway, plain, move |_, mut connection| async move {
            while let Some(Ok((_, mut respond))) = connection.accept().await {
                let mut stream = respond.send_response(Response::new(()), false).unwrap();
                stream.send_data("half".into(), false).unwrap();
                let until = sleep(Duration::from_millis(10));
                tokio::select! {
                    _ = connection.accept() => {}
                    () = until => {}
                }
                match code {
                    Some(code) => stream.send_reset(code),
                    None => return, // The connection ends.
                }
            }
        });
        assert_eq!(gateway.client().await.whole(get("/")).await, None, "{code:?}, over HTTP/1.1");
        let request = Request::get("http://api.example/").body(full("")).unwrap();
        let response = h2c(&gateway).await.send_request(request).await.unwrap();
        assert!(response.into_body().collect().await.is_err(), "{code:?}, over HTTP/2");
    }
    // Fewer bytes than were announced.
    let gateway = gateway("");
    answering(&gateway, plain, |_, (_, mut respond)| async move {
        let head = Response::builder().header("content-length", "8").body(()).unwrap();
        respond.send_response(head, false).unwrap().send_data("half".into(), true).unwrap();
    });
    assert_eq!(gateway.client().await.whole(get("/")).await, None);
}

#[tokio::test(start_paused = true)]
async fn r2_6_a_connection_that_dies_ends_its_requests_and_the_next_is_another() {
    let gateway = gateway("");
    let connections = raw(&gateway, |number, stream| async move {
        let mut raw = Raw::begin(stream).await;
        let streams = raw.requests(if number == 1 { 10 } else { 1 }).await;
        if number == 2 {
            raw.answer(streams[0], b"fine").await;
            raw.rest().await;
        }
    });
    let reset = BTreeMap::from([((502, "upstream_reset".to_owned()), 10)]);
    assert_eq!(at_once(&gateway, 10).await, reset);
    assert_eq!(gateway.send(get("/")).await.body(), "fine");
    assert_eq!(connections.load(SeqCst), 2);
    assert_eq!(gateway.generation().state.places.get("app").unwrap().counts("app:1"), (1, 0));
}

/// As over HTTP/1.1: an endpoint may close at any time what nobody uses.
#[tokio::test(start_paused = true)]
async fn a_connection_that_nobody_used_and_that_ends_just_then_costs_no_get() {
    for (method, body, expected) in [
        (Method::GET, "", (200, "")),
        (Method::PUT, "whole", (200, "")),
        (Method::POST, "", (502, "upstream_reset")),
    ] {
        let gateway = gateway("");
        let connections = raw(&gateway, |number, stream| async move {
            let mut raw = Raw::begin(stream).await;
            let streams = raw.requests(1).await;
            raw.answer(streams[0], b"fine").await;
            if number == 1 {
                raw.requests(1).await; // It was about to close anyway.
            } else {
                raw.rest().await;
            }
        });
        assert_eq!(gateway.send(get("/")).await.status(), 200);
        let mut request = post("/", body);
        *request.method_mut() = method;
        assert_eq!(reason(&gateway.send(request).await), expected);
        assert_eq!(connections.load(SeqCst), if expected.0 == 200 { 2 } else { 1 });
    }
}

#[tokio::test(start_paused = true)]
async fn a_dead_endpoint_is_found_by_a_ping_and_one_that_is_only_slow_is_not_taken_for_it() {
    let gateway = gateway("timeouts: {response_headers: 1h}");
    let connections = raw(&gateway, |number, stream| async move {
        let mut raw = Raw::begin(stream).await;
        if number == 1 {
            raw.requests(3).await;
            sleep(Duration::from_hours(2)).await; // Nothing is read, nothing is said.
        } else {
            let streams = raw.requests(1).await;
            raw.answer(streams[0], b"fine").await;
            raw.rest().await;
        }
    });
    let began = Instant::now();
    let reset = BTreeMap::from([((502, "upstream_reset".to_owned()), 3)]);
    assert_eq!(at_once(&gateway, 3).await, reset);
    assert!((30..=50).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    assert_eq!(gateway.send(get("/")).await.body(), "fine");
    assert_eq!(connections.load(SeqCst), 2);

    // An answer that takes a while, from an endpoint that answers pings: and takes no offence at them.
    let gateway = self::gateway("timeouts: {response_headers: 1h}");
    let (pings, mut counted) = mpsc::unbounded_channel();
    raw(&gateway, move |_, stream| {
        let pings = pings.clone();
        async move {
            let mut raw = Raw::begin(stream).await;
            let streams = raw.requests(1).await;
            let late = sleep(Duration::from_mins(30));
            tokio::pin!(late);
            let mut count = 0;
            loop {
                tokio::select! {
                    () = &mut late => break,
                    frame = raw.next() => if let Some((PING, 0, _)) = frame {
                        count += 1;
                        raw.send(PING, 1, 0, &PING_PAYLOAD).await;
                    }
                }
            }
            raw.answer(streams[0], b"late").await;
            pings.send(count).unwrap();
            raw.rest().await;
        }
    });
    assert_eq!(gateway.send(get("/")).await.body(), "late");
    let count = counted.recv().await.unwrap();
    assert!((4..=9).contains(&count), "{count}");
}

/// An endpoint whose first connection is dead, and each further one well.
fn dead_at_first(gateway: &Inside) -> Arc<AtomicUsize> {
    raw(gateway, |number, stream| async move {
        let mut raw = Raw::begin(stream).await;
        if number == 1 {
            sleep(Duration::from_hours(2)).await;
        }
        loop {
            let Some(stream) = raw.requests(1).await.pop() else { return };
            raw.answer(stream, b"fine").await;
        }
    })
}

/// Requests that come and go do not keep a dead connection alive.
#[tokio::test(start_paused = true)]
async fn a_dead_endpoint_is_found_by_a_ping_however_many_requests_still_come() {
    let yaml = file("timeouts: {response_headers: 1h}").replace("total: never", "total: 3s");
    let gateway = Arc::new(Inside::new(&yaml));
    let connections = dead_at_first(&gateway);
    let began = Instant::now();
    while gateway.send(get("/")).await.status() != 200 {
        sleep(Duration::from_secs(1)).await;
    }
    assert!((20..=60).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    assert_eq!(connections.load(SeqCst), 2);
}

/// Bug: only who waited for `response_headers` found that nothing came.
#[tokio::test(start_paused = true)]
async fn a_dead_connection_costs_no_more_than_one_attempt_has_time() {
    let gateway = gateway("timeouts: {response_headers: 1h, per_try: 3s}");
    let connections = dead_at_first(&gateway);
    let began = Instant::now();
    assert_eq!(reason(&gateway.send(get("/")).await), (504, "response_timeout"));
    assert_eq!((gateway.send(get("/")).await.status().as_u16(), began.elapsed().as_secs()), (200, 3));
    assert_eq!(connections.load(SeqCst), 2);
}

/// Bug: what still came for requests that were given up ended the connection for everybody.
#[tokio::test(start_paused = true)]
async fn what_still_comes_for_those_who_have_gone_ends_nothing_for_others() {
    let gateway = gateway("connections: {streams: 10}");
    let connections = raw(&gateway, |_, stream| async move {
        let mut raw = Raw::begin(stream).await;
        let first = raw.requests(1).await[0];
        let mut gone = Vec::new();
        for _ in 0..1300 {
            let stream = raw.requests(1).await[0];
            raw.send(HEADERS, END_HEADERS, stream, &[0x88]).await; // :status 200
            gone.push(stream);
        }
        sleep(Duration::from_secs(1)).await;
        for stream in gone {
            for _ in 0..8 {
                raw.send(DATA, 0, stream, &[b' '; 1024]).await;
            }
        }
        raw.answer(first, b"fine").await;
        raw.rest().await;
    });
    let first = tokio::spawn({
        let gateway = Arc::clone(&gateway);
        async move { gateway.send(get("/")).await }
    });
    sleep(Duration::from_millis(10)).await;
    for _ in 0..1300 {
        drop(gateway.client().await.head(get("/")).await);
        sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(first.await.unwrap().body(), "fine");
    assert_eq!(connections.load(SeqCst), 1);
}

/// Bug: they heard of it only when no connection was being made any more, and one always was.
#[tokio::test(start_paused = true)]
async fn who_waits_for_a_connection_that_is_made_in_vain_hears_of_that_while_others_are_made() {
    let gateway = gateway("timeouts: {connect: 1s}, connections: {streams: 2}");
    let _connections = raw(&gateway, |_, stream| async move {
        sleep(Duration::from_hours(2)).await;
        drop(stream);
    });
    let mut all = JoinSet::new();
    for _ in 0..40 {
        let gateway = Arc::clone(&gateway);
        all.spawn(async move {
            let began = Instant::now();
            let response = gateway.send(get("/")).await;
            (reason(&response).0, reason(&response).1.to_owned(), began.elapsed() <= Duration::from_secs(2))
        });
        sleep(Duration::from_millis(200)).await;
    }
    while let Some(one) = all.join_next().await {
        assert_eq!(one.unwrap(), (504, "connect_timeout".to_owned(), true));
    }
}

/// Bug: the end of a body waited for room that it does not need.
#[tokio::test(start_paused = true)]
async fn the_end_of_a_body_needs_no_window() {
    let gateway = gateway("");
    let _connections = raw(&gateway, |_, stream| async move {
        let mut raw = Raw::begin_with(stream, &[0, 4, 0, 0, 0, 4]).await; // Four bytes for each stream.
        while let Some((kind, flags, stream)) = raw.next().await {
            if kind == DATA && flags & END_STREAM != 0 {
                raw.answer(stream, b"all of it").await;
            }
        }
    });
    let mut sender = h2c(&gateway).await;
    let (upload, frames) = frames();
    let asking = sender.send_request(Request::post("http://api.example/").body(frames).unwrap());
    let asking = tokio::spawn(asking);
    sleep(Duration::from_millis(10)).await;
    upload.send(Frame::data(Bytes::from("four"))).unwrap();
    sleep(Duration::from_millis(10)).await;
    drop(upload);
    let response = tokio::time::timeout(Duration::from_secs(5), asking).await.unwrap().unwrap().unwrap();
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "all of it");
}

/// What h2 puts into the pings that its users send.
const PING_PAYLOAD: [u8; 8] = [0x3b, 0x7c, 0xdb, 0x7a, 0x0b, 0x87, 0x16, 0xb4];

#[tokio::test(start_paused = true)]
async fn a_client_that_goes_resets_its_stream_and_no_other() {
    let gateway = gateway("");
    let (resets, mut all) = mpsc::unbounded_channel();
    let go_on = Arc::new(Notify::new());
    let wait = Arc::clone(&go_on);
    let connections = answering(&gateway, plain, move |_, (request, mut respond)| {
        let (resets, wait) = (resets.clone(), Arc::clone(&wait));
        async move {
            match request.uri().path() {
                "/silent" => {
                    resets.send(std::future::poll_fn(|cx| respond.poll_reset(cx)).await.unwrap()).unwrap();
                }
                "/half" => {
                    let mut stream = respond.send_response(Response::new(()), false).unwrap();
                    stream.send_data("half".into(), false).unwrap();
                    resets.send(std::future::poll_fn(|cx| stream.poll_reset(cx)).await.unwrap()).unwrap();
                }
                _ => {
                    wait.notified().await;
                    say(&mut respond, "fine");
                }
            }
        }
    });
    let other = tokio::spawn({
        let gateway = Arc::clone(&gateway);
        async move { gateway.send(get("/")).await }
    });
    let mut sender = h2c(&gateway).await;
    for (target, body) in [("/silent", "all"), ("/silent", ""), ("/half", "all")] {
        let (upload, frames) = frames();
        upload.send(Frame::data(Bytes::from("part"))).unwrap();
        // One of the uploads stands still.
        let frames = if body.is_empty() { frames } else { full(body) };
        let request = Request::post(format!("http://api.example{target}")).body(frames).unwrap();
        let asking = tokio::spawn(sender.send_request(request));
        sleep(Duration::from_millis(100)).await;
        asking.abort();
        if let Ok(Ok(response)) = asking.await {
            drop(response);
        }
        assert_eq!(all.recv().await.unwrap(), Reason::CANCEL, "{target}");
    }
    go_on.notify_one();
    assert_eq!(other.await.unwrap().body(), "fine");
    assert_eq!(connections.load(SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn what_is_left_of_an_upload_is_not_sent_once_the_response_has_ended() {
    let gateway = gateway("");
    let (resets, mut all) = mpsc::unbounded_channel();
    let connections = answering(
        &gateway,
        |builder| _ = builder.initial_window_size(10),
        move |_, (request, mut respond)| {
            let resets = resets.clone();
            async move {
                let mut body = request.into_body();
                say(&mut respond, "enough");
                // Nothing of it is taken, so that there is no window for more.
                while let Some(Ok(_)) = body.data().await {}
                resets.send(body.data().await.is_none()).unwrap();
            }
        },
    );
    let (upload, frames) = frames();
    upload.send(Frame::data(vec![0; 1 << 20].into())).unwrap();
    let request = Request::post("http://api.example/").body(frames).unwrap();
    let response = h2c(&gateway).await.send_request(request).await.unwrap();
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "enough");
    all.recv().await.unwrap();
    assert_eq!(gateway.send(get("/")).await.body(), "enough");
    assert_eq!(connections.load(SeqCst), 1);
    let pools = gateway.generation().state.pools[0].get("app").unwrap().idle("app:1");
    assert_eq!(pools, 1, "nothing is left of it on the connection");
}

#[tokio::test(start_paused = true)]
async fn a_connection_is_used_for_so_long_and_kept_for_so_long() {
    let gateway = gateway("keep_alive: {max_lifetime: 10m, timeout: 50s}, timeouts: {response_headers: 1h}");
    let connections = answering(&gateway, plain, |_, (request, mut respond)| async move {
        if request.uri().path() == "/long" {
            sleep(Duration::from_mins(12)).await;
        }
        say(&mut respond, "fine");
    });
    let long = tokio::spawn({
        let gateway = Arc::clone(&gateway);
        async move { gateway.send(get("/long")).await }
    });
    let (mut client, began) = (gateway.client().await, Instant::now());
    while connections.load(SeqCst) < 2 {
        assert_eq!(client.send(get("/")).await.status(), 200);
        sleep(Duration::from_secs(10)).await;
    }
    let lived = began.elapsed().as_secs();
    assert!((9 * 60..=11 * 60 + 10).contains(&lived), "{lived} s");
    assert_eq!(long.await.unwrap().body(), "fine", "what it has it ends");
    sleep(Duration::from_secs(51)).await;
    assert_eq!(gateway.send(get("/")).await.status(), 200);
    assert_eq!(connections.load(SeqCst), 3, "what nobody used for so long is not used");
}

#[tokio::test(start_paused = true)]
async fn a_reload_that_changes_the_protocol_has_connections_of_its_own() {
    let gateway = gateway("");
    let connections = answering(&gateway, plain, |_, (_, mut respond)| async move {
        sleep(Duration::from_secs(1)).await;
        say(&mut respond, "over h2");
    });
    let under_way = tokio::spawn({
        let gateway = Arc::clone(&gateway);
        async move { gateway.send(get("/")).await }
    });
    sleep(Duration::from_millis(100)).await;
    gateway.reload(&file("").replace("protocol: h2", "protocol: h1")).unwrap();
    let h1 = Upstream::inside(&gateway.network, "app:1", |_| ok("over h1"));
    assert_eq!(gateway.send(get("/")).await.body(), "over h1");
    assert_eq!(under_way.await.unwrap().body(), "over h2", "it ends as it began");
    let report = gateway.generation().report.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert!(report.contains(&"pool app created".to_owned()), "{report:?}");
    answering(&gateway, plain, |_, (_, mut respond)| async move { say(&mut respond, "over h2") });
    gateway.reload(&file("")).unwrap();
    assert_eq!(gateway.send(get("/")).await.body(), "over h2");
    assert_eq!((connections.load(SeqCst), h1.connections()), (1, 1));
    let unchanged = gateway.generation();
    gateway.reload(&file("connections: {streams: 7}")).unwrap();
    let pools = |generation: &naka_gateway::generation::Generation| {
        Arc::clone(generation.state.pools[0].get("app").unwrap())
    };
    assert!(Arc::ptr_eq(&pools(&unchanged), &pools(&gateway.generation())), "otherwise they stay");
}
