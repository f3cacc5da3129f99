//! What was not looked at.

use super::*;

#[tokio::test(start_paused = true)]
async fn r2_5_behind_the_last_stream_of_a_goaway_requests_go_again_and_those_before_it_end() {
    let gateway = gateway("");
    let connections = raw(&gateway, |number, stream| async move {
        let mut raw = Raw::begin(stream).await;
        if number == 1 {
            assert_eq!(raw.requests(5).await, [1, 3, 5, 7, 9]);
            raw.send(GOAWAY, 0, 0, &[0, 0, 0, 5, 0, 0, 0, 0]).await;
            sleep(Duration::from_secs(1)).await;
            for stream in [1, 3, 5] {
                raw.answer(stream, b"first").await;
            }
        } else {
            for stream in raw.requests(3).await {
                raw.answer(stream, b"again").await;
            }
        }
        raw.rest().await;
    });
    let mut tasks = JoinSet::new();
    for _ in 0..5 {
        let gateway = Arc::clone(&gateway);
        tasks.spawn(async move { gateway.send(get("/")).await.body().clone() });
    }
    sleep(Duration::from_millis(500)).await;
    // It takes nothing new while it ends what it has.
    assert_eq!(gateway.send(get("/new")).await.body(), "again");
    let mut bodies = tasks.join_all().await;
    bodies.sort();
    assert_eq!(bodies, ["again", "again", "first", "first", "first"]);
    assert_eq!(connections.load(SeqCst), 2);
    let (open, _) = gateway.generation().state.places.get("app").unwrap().counts("app:1");
    assert_eq!(open, 1, "the first has ended");
}

#[tokio::test(start_paused = true)]
async fn r2_5_a_refused_post_goes_again_and_has_effect_once() {
    // In the first round nothing of its body was taken, as there was no window for it.
    for (window, retry, expected) in [
        (0, "", (200, 1)),
        (65_535, "", (502, 0)),
        (65_535, "retry: {max: 1}, ", (200, 1)),
        (65_535, "fallback: {upstream: other}, ", (200, 0)),
    ] {
        let text = file("").replace("upstream: app}}", &format!("{retry}upstream: app}}}}"));
        let gateway = Inside::new(&text);
        let other = Upstream::inside(&gateway.network, "other:1", |_| ok("other"));
        let (asked, effects) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (counted, acted) = (Arc::clone(&asked), Arc::clone(&effects));
        answering(
            &gateway,
            move |builder| _ = builder.initial_window_size(window),
            move |_, (request, mut respond)| {
                let (counted, acted) = (Arc::clone(&counted), Arc::clone(&acted));
                async move {
                    let _body = request.into_body();
                    if counted.fetch_add(1, SeqCst) == 0 {
                        sleep(Duration::from_millis(10)).await;
                        return respond.send_reset(Reason::REFUSED_STREAM);
                    }
                    acted.fetch_add(1, SeqCst);
                    say(&mut respond, "done");
                }
            },
        );
        let response = gateway.send(post("/", "pay")).await;
        assert_eq!((response.status().as_u16(), effects.load(SeqCst)), expected, "{window} {retry}");
        if expected.0 == 502 {
            assert_eq!(reason(&response), (502, "upstream_refused"));
        }
        assert_eq!(other.requests(), u64::from(retry.starts_with("fallback")));
    }
}

#[tokio::test(start_paused = true)]
async fn r2_5_a_request_that_is_refused_again_is_not_sent_a_third_time() {
    let gateway = gateway("");
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    answering(&gateway, plain, move |_, (_, mut respond)| {
        counted.fetch_add(1, SeqCst);
        async move { respond.send_reset(Reason::REFUSED_STREAM) }
    });
    let mut request = get("/");
    *request.method_mut() = Method::DELETE;
    assert_eq!(reason(&gateway.send(request).await), (502, "upstream_refused"));
    assert_eq!(asked.load(SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn r2_5_no_other_reset_proves_that_nothing_was_done() {
    for code in [Reason::CANCEL, Reason::ENHANCE_YOUR_CALM, Reason::INTERNAL_ERROR, Reason::NO_ERROR] {
        let text = file("").replace("upstream: app}}", "retry: {max: 3}, upstream: app}}");
        let gateway = Inside::new(&text);
        let asked = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&asked);
        let connections = answering(&gateway, plain, move |_, (_, mut respond)| {
            counted.fetch_add(1, SeqCst);
            async move { respond.send_reset(code) }
        });
        assert_eq!(reason(&gateway.send(post("/", "pay")).await), (502, "upstream_reset"), "{code:?}");
        assert_eq!((asked.load(SeqCst), connections.load(SeqCst)), (1, 1), "{code:?}");
    }
}

/// Who says that it is in trouble is not asked again at once, though nothing was done: that is for retries.
#[tokio::test(start_paused = true)]
async fn r2_5_an_endpoint_in_trouble_is_not_asked_again_without_a_policy_that_says_so() {
    for (retry, expected) in [("", (502, "upstream_refused")), ("retry: {max: 1}, ", (200, ""))] {
        let text = file("").replace("upstream: app}}", &format!("{retry}upstream: app}}}}"));
        let gateway = Inside::new(&text);
        let connections = raw(&gateway, |number, stream| async move {
            let mut raw = Raw::begin(stream).await;
            let streams = raw.requests(1).await;
            if number == 1 {
                raw.send(GOAWAY, 0, 0, &[0, 0, 0, 0, 0, 0, 0, 0xb]).await; // ENHANCE_YOUR_CALM
            } else {
                raw.answer(streams[0], b"fine").await;
            }
            raw.rest().await;
        });
        assert_eq!(reason(&gateway.send(post("/", "pay")).await), expected);
        assert_eq!(connections.load(SeqCst), if retry.is_empty() { 1 } else { 2 });
    }
}
