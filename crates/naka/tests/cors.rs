//! What pages of other origins may ask and read.
#![allow(clippy::unwrap_used, reason = "a test may")]

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use http::{Method, Request, Response, header::HeaderName};
use naka::{
    clock::Now,
    cors::{CorsConfig, CorsError, CorsLayer, MAX_MIRRORED},
    explain::{Explain, Finding},
    reject::{Reason, Rejection},
};
use tower::{Layer, Service, ServiceExt, service_fn};

const APP: &str = "https://app.example";

fn layer(config: &CorsConfig) -> CorsLayer {
    CorsLayer::new(config.check().unwrap())
}

fn listed() -> CorsConfig {
    CorsConfig::origins([APP, "https://*.shop.example"])
}

fn from(method: Method, origin: &str) -> Request<()> {
    Request::builder().method(method).header("origin", origin).body(()).unwrap()
}

fn preflight(origin: &str) -> Request<()> {
    let mut request = from(Method::OPTIONS, origin);
    request.headers_mut().insert("access-control-request-method", "PUT".parse().unwrap());
    request.headers_mut().insert("access-control-request-headers", "x-one,x-two".parse().unwrap());
    request
}

/// What is behind answers with these headers, and is counted.
fn behind(
    headers: &'static [(&'static str, &'static str)],
) -> (impl Service<Request<()>, Response = Response<()>, Error = Infallible> + Clone, Arc<AtomicUsize>) {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let service = service_fn(move |_| {
        counted.fetch_add(1, SeqCst);
        let answer =
            headers.iter().fold(Response::builder(), |answer, (name, value)| answer.header(*name, *value));
        async { Ok(answer.body(()).unwrap()) }
    });
    (service, calls)
}

async fn ask(layer: &CorsLayer, request: Request<()>) -> Response<()> {
    layer.layer(behind(&[]).0).oneshot(request).await.unwrap()
}

/// The headers of an answer that are about CORS or caches, in order.
fn told<B>(response: &Response<B>) -> Vec<(&str, &str)> {
    let mut all = response.headers().iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap()));
    let mut all = all.by_ref().collect::<Vec<_>>();
    all.sort_unstable();
    all
}

const PREFLIGHT_VARY: (&str, &str) =
    ("vary", "origin, access-control-request-method, access-control-request-headers");

#[tokio::test]
async fn a_preflight_is_answered_here() {
    let config = listed().methods([Method::GET, Method::PUT]).credentials().max_age(Duration::from_mins(10));
    let layer = layer(&config.headers([HeaderName::from_static("x-one"), HeaderName::from_static("x-two")]));
    let (service, calls) = behind(&[]);
    for origin in [APP, "https://pune.shop.example"] {
        let answer = layer.layer(service.clone()).oneshot(preflight(origin)).await.unwrap();
        assert_eq!(answer.status(), 204);
        let expected = [
            ("access-control-allow-credentials", "true"),
            ("access-control-allow-headers", "x-one, x-two"),
            ("access-control-allow-methods", "GET, PUT"),
            ("access-control-allow-origin", origin),
            ("access-control-max-age", "600"),
            PREFLIGHT_VARY,
        ];
        assert_eq!(told(&answer), expected);
    }
    assert_eq!(calls.load(SeqCst), 0);
}

#[tokio::test]
async fn a_preflight_of_another_origin_is_refused_without_a_word_for_it() {
    let layer = layer(&listed()).named(&"pages".into());
    let (service, calls) = behind(&[]);
    let mut two = preflight(APP);
    two.headers_mut().append("origin", APP.parse().unwrap());
    for request in
        [preflight("https://evil.example"), preflight("null"), preflight("https://shop.example"), two]
    {
        let said = layer.explain(Now::read(), &mut request.clone().into_parts().0);
        let answer = layer.layer(service.clone()).oneshot(request).await.unwrap();
        let rejection = answer.extensions().get::<Rejection>().unwrap();
        assert_eq!((answer.status().as_u16(), rejection.reason), (403, Reason::OriginRefused));
        assert_eq!((said, told(&answer)), (Finding::Reject(rejection.clone()), vec![PREFLIGHT_VARY]));
    }
    assert_eq!(calls.load(SeqCst), 0);
}

#[tokio::test]
async fn options_that_are_no_preflight_go_on() {
    let (service, calls) = behind(&[]);
    let layer = layer(&listed());
    let mut without_origin = preflight(APP);
    without_origin.headers_mut().remove("origin");
    for request in [from(Method::OPTIONS, APP), without_origin] {
        assert_eq!(layer.layer(service.clone()).oneshot(request).await.unwrap().status(), 200);
    }
    assert_eq!(calls.load(SeqCst), 2);
}

#[tokio::test]
async fn a_page_that_is_allowed_can_read_the_answer() {
    let config = listed().exposed([HeaderName::from_static("naka-reason"), HeaderName::from_static("etag")]);
    let answer = ask(&layer(&config), from(Method::POST, APP)).await;
    let expected = [
        ("access-control-allow-origin", APP),
        ("access-control-expose-headers", "naka-reason, etag"),
        ("vary", "origin"),
    ];
    assert_eq!(told(&answer), expected);
    let with_cookies = ask(&layer(&listed().credentials()), from(Method::POST, APP)).await;
    assert_eq!(with_cookies.headers()["access-control-allow-credentials"], "true");
}

#[tokio::test]
async fn others_pass_without_and_caches_are_told() {
    for request in [from(Method::POST, "https://evil.example"), from(Method::GET, "null"), Request::new(())] {
        let answer = ask(&layer(&listed()), request).await;
        assert_eq!((answer.status().as_u16(), told(&answer)), (200, vec![("vary", "origin")]));
    }
}

#[tokio::test]
async fn any_origin_is_one_answer_for_all() {
    let layer = layer(&CorsConfig::any());
    for origin in [APP, "null", "https://evil.example"] {
        let answer = ask(&layer, from(Method::GET, origin)).await;
        assert_eq!(told(&answer), [("access-control-allow-origin", "*")]);
    }
    assert_eq!(told(&ask(&layer, Request::new(())).await), []);
}

#[tokio::test]
async fn one_place_decides_and_vary_is_added_to() {
    const OWN: &[(&str, &str)] = &[
        ("access-control-allow-origin", "*"),
        ("access-control-allow-credentials", "true"),
        ("access-control-expose-headers", "secret"),
        ("access-control-allow-private-network", "true"),
        ("vary", "accept"),
    ];
    let layer = layer(&listed());
    let (service, _) = behind(OWN);
    let other =
        layer.layer(service.clone()).oneshot(from(Method::GET, "https://evil.example")).await.unwrap();
    assert_eq!(told(&other), [("vary", "accept"), ("vary", "origin")]);
    let allowed = layer.layer(service).oneshot(from(Method::GET, APP)).await.unwrap();
    assert_eq!(
        told(&allowed),
        [("access-control-allow-origin", APP), ("vary", "accept"), ("vary", "origin")]
    );
    for known in [&[("vary", "Accept, Origin")] as &'static [_], &[("vary", "*")]] {
        let answer = layer.layer(behind(known).0).oneshot(Request::new(())).await.unwrap();
        assert_eq!(told(&answer), known, "once is enough");
    }
}

#[tokio::test]
async fn a_page_can_read_why_it_was_refused() {
    let refuses = service_fn(async |_: Request<()>| {
        Ok::<Response<()>, Infallible>(Rejection::new(Reason::RateLimited).into_response())
    });
    let answer = layer(&listed()).layer(refuses).oneshot(from(Method::GET, APP)).await.unwrap();
    assert_eq!(answer.status(), 429);
    assert_eq!(answer.headers()["access-control-allow-origin"], APP);
}

#[tokio::test]
async fn headers_are_mirrored_if_that_is_wanted_up_to_a_bound() {
    let layer = layer(&listed().mirrored_headers());
    let answer = ask(&layer, preflight(APP)).await;
    assert_eq!(answer.headers()["access-control-allow-headers"], "x-one,x-two");
    for (len, is_mirrored) in [(MAX_MIRRORED, true), (MAX_MIRRORED + 1, false)] {
        let mut request = preflight(APP);
        let wanted = "x".repeat(len).parse().unwrap();
        request.headers_mut().insert("access-control-request-headers", wanted);
        let answer = ask(&layer, request).await;
        assert_eq!(answer.headers().contains_key("access-control-allow-headers"), is_mirrored);
    }
    let mut none = preflight(APP);
    none.headers_mut().remove("access-control-request-headers");
    assert!(!ask(&layer, none).await.headers().contains_key("access-control-allow-headers"));
}

/// Private networks are never opened.
#[tokio::test]
async fn a_preflight_for_a_private_network_gets_no_leave() {
    let mut request = preflight(APP);
    request.headers_mut().insert("access-control-request-private-network", "true".parse().unwrap());
    let answer = ask(&layer(&listed()), request).await;
    assert!(!answer.headers().contains_key("access-control-allow-private-network"));
}

#[test]
fn what_makes_no_sense_is_refused_at_construction() {
    let error = |config: CorsConfig| config.check().err();
    assert_eq!(error(CorsConfig::any().credentials()), Some(CorsError::AnyWithCredentials));
    for origin in ["*", "null", "https://app.example/", "app.example"] {
        assert_eq!(error(CorsConfig::origins([origin])), Some(CorsError::Origin(origin.into())));
    }
    assert_eq!(error(listed().methods(["*".parse().unwrap()])), Some(CorsError::Wildcard));
    assert_eq!(error(listed().headers(["*".parse().unwrap()])), Some(CorsError::Wildcard));
    assert_eq!(error(listed().exposed(["*".parse().unwrap()])), Some(CorsError::Wildcard));
    assert_eq!(error(listed().credentials()), None);
    assert!(CorsError::Origin("app.example".into()).to_string().contains("\"app.example\""));
}

#[tokio::test]
async fn reconfigured_back_and_forth_and_off() {
    let first = layer(&listed());
    let second = first.reconfigured(&CorsConfig::origins(["https://other.example"]).check().unwrap());
    let third = second.reconfigured(&listed().check().unwrap());
    for (layer, status) in [(&first, 204), (&second, 403), (&third, 204)] {
        assert_eq!(ask(layer, preflight(APP)).await.status(), status);
    }
    let off = ask(&CorsLayer::off(), preflight(APP)).await;
    assert_eq!((off.status().as_u16(), told(&off)), (200, vec![]));
}

#[tokio::test]
async fn explaining_says_what_becomes_of_each() {
    let layer = layer(&listed());
    let said = |request: Request<()>| layer.explain(Now::read(), &mut request.into_parts().0);
    assert_eq!(said(Request::new(())), Finding::Passes);
    assert!(matches!(said(from(Method::GET, APP)), Finding::Admit(words) if words.contains("can read")));
    assert!(
        matches!(said(from(Method::GET, "null")), Finding::Admit(words) if words.contains("cannot read"))
    );
    assert!(matches!(said(preflight(APP)), Finding::Answer(status, _) if status == 204));
    let fails = service_fn(async |_: Request<()>| Err::<Response<()>, _>("broken"));
    assert_eq!(layer.layer(fails).oneshot(from(Method::GET, APP)).await.err(), Some("broken"));
}
