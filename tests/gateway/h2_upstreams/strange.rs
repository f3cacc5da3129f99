//! What is no HTTP/2, and what takes too long.

use super::*;

#[tokio::test(start_paused = true)]
async fn r2_6_an_endpoint_that_speaks_something_else_is_a_502_before_anything_is_sent() {
    for answer in ["HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n", "SSH-2.0-OpenSSH_9.9\r\n", ""] {
        let gateway = gateway("");
        let app = Upstream::inside(&gateway.network, "app:1", move |_| vec![Step::send(answer), Step::Close]);
        assert_eq!(reason(&gateway.send(post("/", "pay")).await), (502, "connect_failed"), "{answer}");
        assert_eq!(app.seen().iter().filter(|seen| seen.line.starts_with("POST")).count(), 0);
    }
    let gateway = gateway("timeouts: {connect: 3s}");
    let _silent = Upstream::inside(&gateway.network, "app:1", |_| vec![Step::Hang]);
    let began = Instant::now();
    assert_eq!(reason(&gateway.send(get("/")).await), (504, "connect_timeout"));
    assert_eq!(began.elapsed().as_secs(), 3);
}

#[tokio::test(start_paused = true)]
async fn r2_6_timeouts_hold_for_each_request_by_itself() {
    let gateway = gateway("timeouts: {response_headers: 2s, idle: 5s}");
    let connections = answering(&gateway, plain, |_, (request, mut respond)| async move {
        match request.uri().path() {
            "/late" => sleep(Duration::from_mins(1)).await,
            "/stalls" => {
                let mut stream = respond.send_response(Response::new(()), false).unwrap();
                stream.send_data("half".into(), false).unwrap();
                sleep(Duration::from_mins(1)).await;
            }
            _ => {}
        }
        say(&mut respond, "fine");
    });
    let late = tokio::spawn({
        let gateway = Arc::clone(&gateway);
        async move { gateway.send(get("/late")).await }
    });
    sleep(Duration::from_secs(1)).await;
    assert_eq!(gateway.send(get("/")).await.body(), "fine");
    assert_eq!(reason(&late.await.unwrap()), (504, "response_timeout"));
    assert_eq!(gateway.client().await.whole(get("/stalls")).await, None);
    assert_eq!(gateway.send(get("/")).await.body(), "fine");
    assert_eq!(connections.load(SeqCst), 1);
    // Of a connection on which nothing came at all meanwhile nobody knows whether it is still there.
    assert_eq!(reason(&gateway.send(get("/late")).await), (504, "response_timeout"));
    assert_eq!(gateway.send(get("/")).await.body(), "fine");
    assert_eq!(connections.load(SeqCst), 2);

    let per_try = self::gateway("timeouts: {response_headers: 20s, per_try: 1s}");
    answering(&per_try, plain, |_, exchange| async move {
        sleep(Duration::from_mins(1)).await;
        drop(exchange);
    });
    let began = Instant::now();
    assert_eq!(reason(&per_try.send(get("/")).await), (504, "response_timeout"));
    assert_eq!(began.elapsed().as_secs(), 1);
    // A body that its client stops sending is the client's doing.
    let upload = self::gateway("timeouts: {response_headers: 20s, idle: 3s}");
    answering(&upload, plain, |_, (request, respond)| async move {
        _ = read(request.into_body()).await;
        drop(respond);
    });
    let (body, frames) = frames();
    body.send(Frame::data(Bytes::from("part"))).unwrap();
    let request = Request::post("http://api.example/").body(frames).unwrap();
    let response = h2c(&upload).await.send_request(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::REQUEST_TIMEOUT);
}

#[tokio::test(start_paused = true)]
async fn r2_6_an_answer_with_too_long_a_head_is_a_502_and_ends_nothing_else() {
    let gateway = gateway("");
    let connections = answering(&gateway, plain, |_, (request, mut respond)| async move {
        if request.uri().path() == "/long" {
            let mut head = Response::builder();
            for number in 0..20 {
                head = head.header(format!("x-{number}"), "v".repeat(10 << 10));
            }
            let _ = respond.send_response(head.body(()).unwrap(), true);
        } else {
            say(&mut respond, "fine");
        }
    });
    assert_eq!(gateway.send(get("/")).await.body(), "fine");
    assert_eq!(reason(&gateway.send(get("/long")).await), (502, "upstream_protocol"));
    assert_eq!(gateway.send(get("/")).await.body(), "fine");
    assert_eq!(connections.load(SeqCst), 1);
}

/// Bug: only whole pieces as the client sent them counted, and a large one may be on its way for longer than that.
#[tokio::test(start_paused = true)]
async fn a_body_that_goes_on_slowly_has_not_stalled() {
    const WINDOW_UPDATE: u8 = 8;
    let gateway = gateway("timeouts: {idle: 5s, response_headers: 5s}");
    let _connections = raw(&gateway, |_, stream| async move {
        let mut raw = Raw::begin_with(stream, &[0, 4, 0, 0, 0, 4]).await; // Four bytes for each stream.
        while let Some((kind, flags, stream)) = raw.next().await {
            if kind == DATA && flags & END_STREAM != 0 {
                raw.answer(stream, b"all of it").await;
            } else if kind == DATA {
                sleep(Duration::from_secs(3)).await;
                raw.send(WINDOW_UPDATE, 0, stream, &4_u32.to_be_bytes()).await;
            }
        }
    });
    let began = Instant::now();
    let response = gateway.send(post("/", "forty bytes that take thirty seconds....")).await;
    assert_eq!((reason(&response), response.body().as_ref()), ((200, ""), &b"all of it"[..]));
    assert_eq!(began.elapsed().as_secs(), 27);
}
