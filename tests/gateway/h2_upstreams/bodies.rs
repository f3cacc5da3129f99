//! What is sent and what comes.

use super::*;

#[tokio::test(start_paused = true)]
async fn r2_3_the_endpoint_sees_a_request_as_http_2_has_it() {
    let gateway = gateway("");
    let (seen, mut all) = mpsc::unbounded_channel();
    answering(&gateway, plain, move |_, (request, mut respond)| {
        let seen = seen.clone();
        async move {
            let (head, body) = request.into_parts();
            seen.send((head, read(body).await.unwrap().0)).unwrap();
            say(&mut respond, "fine");
        }
    });
    let request = Request::post("/a%20b?q=1")
        .header("host", "API.example:80")
        .header("connection", "keep-alive, x-hop")
        .header("x-hop", "1")
        .header("te", "trailers, deflate")
        .header("upgrade", "h2c")
        .header("cookie", "a=1")
        .body(Full::from("body"))
        .unwrap();
    assert_eq!(gateway.send(request).await.status(), 200);
    let (head, body) = all.recv().await.unwrap();
    assert_eq!((&head.method, head.version, &*body), (&Method::POST, Version::HTTP_2, &b"body"[..]));
    assert_eq!(head.uri, "http://api.example:80/a%20b?q=1");
    let mut names = head.headers.keys().map(ToString::to_string).collect::<Vec<_>>();
    names.sort();
    assert_eq!(
        names,
        [
            "content-length",
            "cookie",
            "via",
            "x-forwarded-for",
            "x-forwarded-host",
            "x-forwarded-proto",
            "x-request-id"
        ]
    );
    assert_eq!(
        (&head.headers["content-length"], &head.headers["cookie"]),
        (&"4".parse().unwrap(), &"a=1".parse().unwrap())
    );
    // In chunks, and with `TE: trailers`, which says that the client takes them.
    let (chunks, body) = frames();
    chunks.send(Frame::data(Bytes::from("chunk"))).unwrap();
    drop(chunks);
    let request = Request::put("http://api.example/").header("te", "trailers").body(body).unwrap();
    assert_eq!(h2c(&gateway).await.send_request(request).await.unwrap().status(), 200);
    let (head, body) = all.recv().await.unwrap();
    assert_eq!(
        (head.headers.get("content-length"), &head.headers["te"]),
        (None, &"trailers".parse().unwrap())
    );
    assert_eq!(body, "chunk");
    let explained = gateway.explain("GET http://api.example/", &[]).to_string();
    assert!(explained.contains("sent to upstream app, app:1, over HTTP/2"), "{explained}");
}

#[tokio::test(start_paused = true)]
async fn r2_3_trailers_go_through_in_both_directions_and_only_what_was_announced_goes_on() {
    let gateway = gateway("");
    let (seen, mut all) = mpsc::unbounded_channel();
    answering(&gateway, plain, move |_, (request, mut respond)| {
        let seen = seen.clone();
        async move {
            seen.send(read(request.into_body()).await.unwrap()).unwrap();
            let head = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
            let mut stream = respond.send_response(head, false).unwrap();
            stream.send_data("body".into(), false).unwrap();
            stream
                .send_trailers(HeaderMap::from_iter([("grpc-status".parse().unwrap(), "5".parse().unwrap())]))
                .unwrap();
        }
    });
    let (body, frames) = frames();
    body.send(Frame::data("question".into())).unwrap();
    let mut trailers = HeaderMap::new();
    for name in ["x-checksum", "x-other", "x-forwarded-for", "content-length"] {
        trailers.append(name, "1".parse().unwrap());
    }
    body.send(Frame::trailers(trailers)).unwrap();
    let request = Request::post("http://api.example/shop.Cart/Add")
        .header("te", "trailers")
        .header("trailer", "x-checksum, content-length")
        .body(frames)
        .unwrap();
    let response =
        h2c(&gateway).await.send_request(request).await.unwrap().into_body().collect().await.unwrap();
    assert_eq!(response.trailers().unwrap()["grpc-status"], "5");
    assert_eq!(response.to_bytes(), "body");
    let (body, trailers) = all.recv().await.unwrap();
    let trailers = trailers.unwrap();
    assert_eq!(
        (&*body, trailers.len(), &trailers["x-checksum"]),
        (&b"question"[..], 1, &"1".parse().unwrap())
    );
}

#[tokio::test(start_paused = true)]
async fn r3_2_a_grpc_status_in_the_trailers_opens_the_breaker() {
    for is_in_head in [false, true] {
        let text = file("").replace("upstream: app}}", "circuit_breaker: {consecutive: 3}, upstream: app}}");
        let gateway = Inside::new(&text);
        answering(&gateway, plain, move |_, (_, mut respond)| async move {
            let mut head = Response::builder().header("content-type", "application/grpc");
            if is_in_head {
                head = head.header("grpc-status", "14");
            }
            let mut stream = respond.send_response(head.body(()).unwrap(), is_in_head).unwrap();
            let unavailable = HeaderMap::from_iter([("grpc-status".parse().unwrap(), "14".parse().unwrap())]);
            if !is_in_head {
                stream.send_trailers(unavailable).unwrap();
            }
        });
        let mut sender = h2c(&gateway).await;
        for _ in 0..3 {
            let request = Request::post("http://api.example/").body(full("")).unwrap();
            let response = sender.send_request(request).await.unwrap();
            assert_eq!(response.status(), 200);
            response.into_body().collect().await.unwrap();
        }
        assert_eq!(reason(&gateway.send(get("/")).await), (503, "circuit_open"), "{is_in_head}");
    }
}

#[tokio::test(start_paused = true)]
async fn r2_3_long_bodies_go_each_way_by_the_windows_of_both_ends() {
    let gateway = gateway("");
    let connections = answering(&gateway, plain, |_, (request, mut respond)| async move {
        let mut body = request.into_body();
        let mut stream = respond.send_response(Response::new(()), false).unwrap();
        while let Some(data) = body.data().await {
            let mut data = data.unwrap();
            while !data.is_empty() {
                stream.reserve_capacity(data.len());
                let room = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await.unwrap().unwrap();
                let piece = data.split_to(room.min(data.len()));
                body.flow_control().release_capacity(piece.len()).unwrap();
                stream.send_data(piece, false).unwrap();
            }
        }
        stream.send_data(Bytes::new(), true).unwrap();
    });
    let bytes = (0..3_u32 << 20).map(|number| u8::try_from(number % 251).unwrap()).collect::<Bytes>();
    let mut tasks = JoinSet::new();
    for _ in 0..4 {
        let (gateway, bytes) = (Arc::clone(&gateway), bytes.clone());
        tasks.spawn(async move {
            let request = Request::post("/").header("host", "api.example").body(Full::new(bytes.clone()));
            assert!(gateway.send(request.unwrap()).await.body() == &bytes);
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    assert_eq!(connections.load(SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_reads_nothing_keeps_none_of_those_waiting_who_share_its_connection() {
    let gateway = gateway("");
    let connections = answering(&gateway, plain, |_, (request, mut respond)| async move {
        if request.uri().path() == "/large" {
            let mut stream = respond.send_response(Response::new(()), false).unwrap();
            stream.send_data(vec![0; 8 << 20].into(), true).unwrap();
            std::future::poll_fn(|cx| stream.poll_reset(cx)).await.unwrap();
        } else {
            say(&mut respond, vec![0; 100 << 10]);
        }
    });
    let mut held = Vec::new();
    for _ in 0..20 {
        let mut client = gateway.client().await;
        held.push((client.head(get("/large")).await, client));
    }
    sleep(Duration::from_secs(1)).await;
    for _ in 0..20 {
        assert_eq!(gateway.send(get("/")).await.body().len(), 100 << 10);
    }
    assert_eq!(connections.load(SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_passes_its_bound_on_the_way_is_a_413_and_its_stream_is_reset() {
    let text = file("").replace("{match:", "{limits: {body: 10B}, match:");
    let gateway = Inside::new(&text);
    let (whole, mut all) = mpsc::unbounded_channel();
    answering(&gateway, plain, move |_, (request, mut respond)| {
        let whole = whole.clone();
        async move {
            whole.send(read(request.into_body()).await.is_some()).unwrap();
            say(&mut respond, "fine");
        }
    });
    for (pieces, expected) in [(2, StatusCode::OK), (3, StatusCode::PAYLOAD_TOO_LARGE)] {
        let (body, frames) = frames();
        for _ in 0..pieces {
            body.send(Frame::data(Bytes::from("piece"))).unwrap();
        }
        drop(body);
        let request = Request::post("http://api.example/").body(frames).unwrap();
        assert_eq!(h2c(&gateway).await.send_request(request).await.unwrap().status(), expected);
        assert_eq!(all.recv().await.unwrap(), expected == StatusCode::OK);
    }
}

/// Over sockets: each worker has a connection, and all requests share them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r2_3_workers_share_no_connection_and_need_no_more_than_one_each() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&connections);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            counted.fetch_add(1, SeqCst);
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    tokio::spawn(async move {
                        let target = request.uri().path().to_owned();
                        let (body, _) = read(request.into_body()).await.unwrap();
                        say(&mut respond, [target.as_bytes(), &body].concat());
                    });
                }
            });
        }
    });
    let process = Process::start(&format!(
        "
gateway: {{admin: {{listen: ADMIN}}, workers: 2}}
listeners: {{public: {{listen: PUBLIC}}}}
upstreams: {{app: {{endpoints: ['{address}'], protocol: h2}}}}
routes: {{all: {{match: {{prefix: /}}, upstream: app}}}}
"
    ))
    .await;
    let mut clients = JoinSet::new();
    for first in 0..20 {
        let address = process.public;
        clients.spawn(async move {
            let mut client = Client::over(address).await;
            for number in 0..100 {
                let target = format!("/{first}/{number}");
                let body = if number % 2 == 0 { "" } else { " and a body" };
                let response = client.send(post(&target, body)).await;
                assert_eq!(**response.body(), *format!("{target}{body}").as_bytes());
            }
        });
    }
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
    assert!((1..=2).contains(&connections.load(SeqCst)), "{connections:?}");
}

/// RFC 9113, section 8.1: who has answered and wants no more of the request says so by a reset without an error, and what it
/// has answered counts.
#[tokio::test(start_paused = true)]
async fn a_whole_answer_counts_also_if_no_more_of_the_request_is_wanted() {
    const RST_STREAM: u8 = 3;
    let gateway = gateway("");
    let _connections = raw(&gateway, |_, stream| async move {
        let mut raw = Raw::begin(stream).await;
        for _ in 0..2 {
            let stream = raw.requests(1).await[0];
            raw.answer(stream, b"enough").await;
            raw.send(RST_STREAM, 0, stream, &[0; 4]).await;
        }
        raw.rest().await;
    });
    for _ in 0..2 {
        let mut sender = h2c(&gateway).await;
        let (upload, frames) = frames();
        upload.send(Frame::data(Bytes::from("the beginning"))).unwrap();
        let asking = sender.send_request(Request::post("http://api.example/").body(frames).unwrap());
        let response = asking.await.unwrap();
        assert_eq!(reason(&response), (200, ""));
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "enough");
        drop(upload);
    }
}
