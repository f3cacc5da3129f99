//! Who it is, and whether it may, by asking another service.
#![allow(clippy::unwrap_used, reason = "tests may")]

use std::{
    convert::Infallible,
    net::IpAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderName, Request, Response, header::AUTHORIZATION};
use http_body_util::{BodyExt, Full};
use naka::{
    clock::Now,
    context::Context,
    explain::{Explain, Finding},
    forward_auth::{ForwardAuthConfig, ForwardAuthLayer, Remember},
    identity::{Claim, Identity, Scheme},
    problem::ProblemLayer,
    reject::{Dependency, Reason, Rejection},
};
use tower::{BoxError, Layer, ServiceExt, service_fn};

type Answer = Response<Bytes>;
type Questions = Arc<Mutex<Vec<Request<()>>>>;

/// A layer over whoever answers like this, and what that was asked.
fn layer(
    config: ForwardAuthConfig,
    answer: impl Fn(&Request<()>) -> Answer + Clone + Send + Sync + 'static,
) -> (ForwardAuthLayer, Questions) {
    let questions = Questions::default();
    let asked = Arc::clone(&questions);
    let authority = service_fn(move |question: Request<()>| {
        let answer = answer(&question);
        asked.lock().unwrap().push(question);
        async move { Ok::<_, BoxError>(answer) }
    });
    (ForwardAuthLayer::new(config, authority), questions)
}

fn allow(headers: &[(&str, &str)]) -> Answer {
    let response = headers.iter().fold(Response::builder(), |it, (name, value)| it.header(*name, *value));
    response.body(Bytes::new()).unwrap()
}

fn named(name: &'static str) -> HeaderName {
    HeaderName::from_static(name)
}

fn request(headers: &[(&str, &str)]) -> Request<()> {
    let request = Request::get("/rides/7?a=b").header("host", "api.example");
    let mut request =
        headers.iter().fold(request, |it, (name, value)| it.header(*name, *value)).body(()).unwrap();
    let client: IpAddr = "192.0.2.7".parse().unwrap();
    request.extensions_mut().insert(Context::new(Now::read()).with_client(client));
    request
}

/// What the inner service saw, or the response if it was refused.
async fn send(
    layer: &ForwardAuthLayer,
    request: Request<()>,
) -> Result<http::request::Parts, Response<Bytes>> {
    let seen = Arc::new(Mutex::new(None));
    let inner = {
        let seen = Arc::clone(&seen);
        service_fn(move |request: Request<()>| {
            *seen.lock().unwrap() = Some(request.into_parts().0);
            async { Ok::<_, Infallible>(Response::new(Full::new(Bytes::new()))) }
        })
    };
    let response = ProblemLayer::new().layer(layer.layer(inner)).oneshot(request).await.unwrap();
    let (head, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let seen = seen.lock().unwrap().take();
    seen.ok_or(Response::from_parts(head, body))
}

#[tokio::test]
async fn forwarding_headers_are_rebuilt_and_only_what_is_named_is_sent() {
    let mut config = ForwardAuthConfig::new();
    config.target = "/check?v=1".parse().unwrap();
    config.host = Some("auth.example".parse().unwrap());
    config.send.push(named("x-forwarded-for"));
    let (layer, questions) = layer(config.clone(), |_| allow(&[]));
    let spoofed = [
        ("authorization", "Bearer x"),
        ("cookie", "a=1"),
        ("cookie", "b=2"),
        ("x-secret", "1"),
        ("content-length", "0"),
        ("connection", "close"),
        ("x-forwarded-method", "DELETE"),
        ("x-forwarded-for", "6.6.6.6"),
        ("x-forwarded-host", "admin.example"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-uri", "/public"),
    ];
    send(&layer, request(&spoofed)).await.unwrap();
    let asked = questions.lock().unwrap().pop().unwrap();
    let mut seen = asked
        .headers()
        .iter()
        .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
        .collect::<Vec<_>>();
    seen.sort();
    assert_eq!(
        seen,
        [
            "authorization: Bearer x",
            "cookie: a=1",
            "cookie: b=2",
            "host: auth.example",
            "x-forwarded-for: 192.0.2.7",
            "x-forwarded-host: api.example",
            "x-forwarded-method: GET",
            "x-forwarded-proto: http",
            "x-forwarded-uri: /rides/7?a=b",
        ]
    );
    assert_eq!((asked.method().as_str(), asked.uri().to_string()), ("GET", "/check?v=1".into()));
    config.trust_forwarded = true;
    send(&layer.reconfigured(&config), request(&spoofed)).await.unwrap();
    let asked = questions.lock().unwrap().pop().unwrap();
    let header = |name: &str| asked.headers()[name].to_str().unwrap().to_owned();
    assert_eq!(
        (header("x-forwarded-proto"), header("x-forwarded-host")),
        ("https".into(), "admin.example".into())
    );
    assert_eq!(
        (header("x-forwarded-for"), header("x-forwarded-uri")),
        ("192.0.2.7".into(), "/rides/7?a=b".into())
    );
}

#[tokio::test]
async fn r2_12_what_is_copied_comes_from_the_answer_and_never_from_the_client() {
    let mut config = ForwardAuthConfig::new();
    config.copy = vec![named("x-user"), named("x-tier")];
    config.subject = Some(named("x-user"));
    let (layer, _) = layer(config, |_| allow(&[("x-user", "asha"), ("x-other", "1")]));
    let seen =
        send(&layer, request(&[("x-user", "admin"), ("x-tier", "premium"), ("x-mine", "1")])).await.unwrap();
    let get = |name: &str| seen.headers.get(name).map(|value| value.to_str().unwrap());
    assert_eq!(
        (get("x-user"), get("x-tier"), get("x-other"), get("x-mine")),
        (Some("asha"), None, None, Some("1"))
    );
    let who = Identity::of(&seen.extensions).unwrap();
    assert_eq!((who.scheme, who.subject.as_deref()), (Scheme::ForwardAuth, Some("asha")));
    assert_eq!(who.claims.get("x-user").and_then(Claim::as_text), Some("asha"));
}

#[tokio::test]
async fn a_refusal_is_the_answer_of_whoever_decides_and_a_failure_lets_nobody_in() {
    let table: [(u16, &str, u16, Reason); 5] = [
        (401, "who are you", 401, Reason::AuthRefused(http::StatusCode::UNAUTHORIZED)),
        (403, "not you", 403, Reason::AuthRefused(http::StatusCode::FORBIDDEN)),
        (302, "", 302, Reason::AuthRefused(http::StatusCode::FOUND)),
        (500, "oops", 503, Reason::AuthUnavailable),
        (503, "oops", 503, Reason::AuthUnavailable),
    ];
    for (status, body, expected, reason) in table {
        let (layer, _) = layer(ForwardAuthConfig::new(), move |_| {
            let answer =
                Response::builder().status(status).header("location", "/login").header("connection", "x");
            answer
                .header("set-cookie", "s=1")
                .header("transfer-encoding", "chunked")
                .body(Bytes::from(body))
                .unwrap()
        });
        let answer = send(&layer, request(&[])).await.unwrap_err();
        let rejection = answer.extensions().get::<Rejection>().unwrap();
        assert_eq!((answer.status().as_u16(), rejection.reason), (expected, reason));
        assert_eq!(answer.headers()["naka-reason"], reason.word());
        if status < 500 {
            assert_eq!(
                (&answer.body()[..], answer.headers()["location"].to_str().unwrap()),
                (body.as_bytes(), "/login")
            );
            assert_eq!(answer.headers()["content-length"], body.len().to_string().as_str());
            assert!(
                !answer.headers().contains_key("connection")
                    && !answer.headers().contains_key("transfer-encoding")
            );
        } else {
            assert!(!answer.headers().contains_key("location") && !answer.body().starts_with(b"oops"));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_does_not_answer_is_given_up_and_questions_are_bounded() {
    let mut config = ForwardAuthConfig::new();
    config.max_asking = 2;
    let never = service_fn(|_: Request<()>| std::future::pending::<Result<Answer, BoxError>>());
    let layer = ForwardAuthLayer::new(config, never);
    let waiting = [(); 2].map(|()| {
        let layer = layer.clone();
        tokio::spawn(async move { send(&layer, request(&[])).await.unwrap_err().status().as_u16() })
    });
    tokio::task::yield_now().await;
    tokio::task::yield_now().await;
    assert_eq!(layer.asking(), 2);
    let busy = send(&layer, request(&[])).await.unwrap_err();
    assert_eq!((busy.status().as_u16(), busy.headers()["naka-reason"].to_str().unwrap()), (503, "auth_busy"));
    let [first, second] = waiting;
    first.abort(); // Its caller has gone.
    assert!(first.await.is_err());
    assert_eq!(layer.asking(), 1);
    let began = tokio::time::Instant::now();
    assert_eq!(second.await.unwrap(), 503);
    assert_eq!((began.elapsed(), layer.asking()), (Duration::from_secs(1), 0));
}

#[tokio::test(start_paused = true)]
async fn what_was_let_in_is_remembered_by_what_it_depends_on_and_never_a_refusal() {
    let mut config = ForwardAuthConfig::new();
    config.remember = Some(Remember { by: vec![AUTHORIZATION], ttl: Duration::from_secs(30) });
    let control = Arc::new(Mutex::new("max-age=60"));
    let told = Arc::clone(&control);
    let (layer, questions) = layer(config.clone(), move |question| {
        let knows = question.headers().get("authorization").is_some_and(|value| value == "asha");
        let mut answer = allow(&[("cache-control", *told.lock().unwrap())]);
        *answer.status_mut() = if knows { http::StatusCode::OK } else { http::StatusCode::UNAUTHORIZED };
        answer
    });
    let asked = || questions.lock().unwrap().len();
    let asha = || request(&[("authorization", "asha")]);
    for _ in 0..10 {
        send(&layer, asha()).await.unwrap();
    }
    assert_eq!(asked(), 1);
    let (mut head, ()) = asha().into_parts();
    assert!(matches!(layer.explain(Now::read(), &mut head), Finding::Admit(_)));
    let mut other = asha();
    *other.uri_mut() = "/rides/8".parse().unwrap();
    send(&layer, other).await.unwrap();
    assert_eq!(asked(), 2, "another target");
    for number in 3..6 {
        send(&layer, request(&[("authorization", "ravi")])).await.unwrap_err();
        assert_eq!(asked(), number, "a refusal is not remembered");
    }
    send(&layer, request(&[("authorization", "asha"), ("authorization", "ravi")])).await.unwrap();
    assert_eq!(asked(), 6, "more than what was remembered");
    tokio::time::advance(Duration::from_secs(31)).await;
    let (mut head, ()) = asha().into_parts();
    assert_eq!(layer.explain(Now::read(), &mut head), Finding::WouldAsk(Dependency::Authority));
    for control_now in ["no-store", "private, no-cache", "max-age=0", "max-age=never"] {
        *control.lock().unwrap() = control_now;
        let before = asked();
        send(&layer, asha()).await.unwrap();
        send(&layer, asha()).await.unwrap();
        assert_eq!(asked(), before + 2, "{control_now}");
    }
    *control.lock().unwrap() = "";
    send(&layer, asha()).await.unwrap();
    let before = asked();
    send(&layer.reconfigured(&config), asha()).await.unwrap();
    assert_eq!(asked(), before, "nothing has changed");
    config.copy.push(named("x-user"));
    send(&layer.reconfigured(&config), asha()).await.unwrap();
    assert_eq!(asked(), before + 1, "forgotten with the rules it was made by");
}

#[tokio::test]
async fn a_request_without_what_a_decision_depends_on_is_always_asked_about() {
    let mut config = ForwardAuthConfig::new();
    config.remember = Some(Remember { by: vec![AUTHORIZATION], ttl: Duration::from_secs(30) });
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    let (layer, _) = layer(config, move |_| {
        counted.fetch_add(1, SeqCst);
        allow(&[])
    });
    for _ in 0..5 {
        send(&layer, request(&[])).await.unwrap();
    }
    assert_eq!(count.load(SeqCst), 5);
}

#[tokio::test]
async fn a_decision_is_not_reused_where_whoever_decides_was_told_something_else() {
    let mut config = ForwardAuthConfig::new();
    config.trust_forwarded = true;
    config.remember = Some(Remember { by: vec![AUTHORIZATION], ttl: Duration::from_secs(30) });
    let (layer, questions) = layer(config, |question| {
        let told = |name: &str| question.headers().get(name).and_then(|value| value.to_str().ok());
        let is_known = told("x-forwarded-host") == Some("a.example")
            && told("x-forwarded-proto") == Some("https")
            && told("x-forwarded-for") == Some("192.0.2.7");
        let mut answer = allow(&[]);
        *answer.status_mut() = if is_known { http::StatusCode::OK } else { http::StatusCode::FORBIDDEN };
        answer
    });
    let from = |host: &str, proto: &str, client: &str| {
        let headers = [("authorization", "asha"), ("x-forwarded-host", host), ("x-forwarded-proto", proto)];
        let mut request = request(&headers);
        let client: IpAddr = client.parse().unwrap();
        request.extensions_mut().insert(Context::new(Now::read()).with_client(client));
        request
    };
    for _ in 0..2 {
        send(&layer, from("a.example", "https", "192.0.2.7")).await.unwrap();
    }
    assert_eq!(questions.lock().unwrap().len(), 1, "the same is told");
    let others = [
        ("b.example", "https", "192.0.2.7"),
        ("a.example", "http", "192.0.2.7"),
        ("a.example", "https", "192.0.2.8"),
    ];
    for (host, proto, client) in others {
        let refused = send(&layer, from(host, proto, client)).await.unwrap_err();
        assert_eq!(refused.status(), 403, "{host} {proto} {client}");
    }
}
