//! Versions: where they are found, what is told of them, and who uses them.
#![allow(clippy::unwrap_used, reason = "a test may")]

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
    time::Duration,
};

use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, Uri};
use naka::{
    clock::{Now, WallClock},
    context::{ClientAddr, Context},
    explain::{Explain, Finding},
    identity::{Identity, Scheme},
    observe::Observer,
    reject::{Head, Reason, Rejection, Verdict},
    version::{
        ApiVersion, Consumer, OnConflict, State, Strategy, Version, VersionConfig, VersionError,
        VersionLayer, Versioning, evaluate,
    },
};
use proptest::prelude::*;
use tower::{Layer, Service, ServiceExt};

/// 2027-01-15, 08:00:00 UTC.
const NOW_S: u64 = 1_800_000_000;
const DAY_S: u64 = 86_400;

fn all_strategies() -> [Strategy; 5] {
    [Strategy::path(), Strategy::query(), Strategy::header(), Strategy::accept(), Strategy::Subdomain]
}

/// 1, 2 (`stable`) and 3; 1 is what is meant.
fn config() -> VersionConfig {
    VersionConfig::new([Version::new("1"), Version::new("2").alias("stable"), Version::new("3")])
        .strategies(all_strategies())
        .default_version("1")
        .clock(WallClock::starting_at(NOW_S))
}

type Headers = &'static [(&'static str, &'static str)];
/// A URI, headers, and what is expected of them.
type Case = (&'static str, Headers, &'static str);

fn request(uri: &str, headers: &[(&str, &str)]) -> Request<()> {
    let mut request = Request::builder().uri(uri);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap()
}

fn decide(config: VersionConfig, uri: &str, headers: &[(&str, &str)]) -> Result<String, Rejection> {
    let versioning = config.check().unwrap();
    match evaluate(&versioning, NOW_S, &Head::from(&request(uri, headers))) {
        Verdict::Admit(chosen) => Ok(format!("{} {}", chosen.version, chosen.by.unwrap_or("default"))),
        Verdict::Reject(rejection) => Err(rejection),
        Verdict::Depends(on) => panic!("{on}"),
    }
}

/// What comes back: the version behind and the URI it saw, in the extensions of the response.
#[derive(Clone, Debug)]
struct Saw(Option<Arc<str>>, Uri, HeaderMap);

fn shop(
    answer: impl Fn() -> Response<()> + Clone + Send,
) -> impl Service<Request<()>, Response = Response<()>, Error = Infallible, Future: Send> + Clone {
    tower::service_fn(move |request: Request<()>| {
        let mut response = answer();
        let version = ApiVersion::of(request.extensions()).cloned();
        response.extensions_mut().insert(Saw(version, request.uri().clone(), request.headers().clone()));
        async { Ok::<_, Infallible>(response) }
    })
}

async fn ask(layer: &VersionLayer, request: Request<()>) -> Response<()> {
    layer.layer(shop(|| Response::new(()))).oneshot(request).await.unwrap()
}

fn layer(config: VersionConfig) -> VersionLayer {
    VersionLayer::new(config.check().unwrap())
}

fn all<'r>(response: &'r Response<()>, name: &str) -> Vec<&'r str> {
    response.headers().get_all(name).iter().map(|value| value.to_str().unwrap()).collect()
}

#[tokio::test(start_paused = true)]
async fn r11_1_each_strategy_finds_the_version() {
    let table: &[Case] = &[
        ("/v2/products", &[], "2 path"),
        ("/V2/products", &[], "2 path"),
        ("/2.0/products", &[], "2 path"),
        ("/stable", &[], "2 path"),
        ("/%762/products", &[], "2 path"),
        ("/products/v2", &[], "1 default"),
        ("/v8engine/products", &[], "1 default"),
        ("/7", &[], "1 default"),
        ("/products?version=v2", &[], "2 query"),
        ("/products?a=b&%76ersion=%32&c", &[], "2 query"),
        ("/products?version=2&version=2.0", &[], "2 query"),
        ("/products?subversion=2&Version=3", &[], "1 default"),
        ("/products", &[("x-api-version", "v2")], "2 header"),
        ("/products", &[("x-api-version", "\"2.0\"")], "2 header"),
        ("/products", &[("x-api-version", "2, v2"), ("x-api-version", " 2 ")], "2 header"),
        ("/products", &[("accept", "application/vnd.acme.v2+json")], "2 accept"),
        ("/products", &[("accept", "text/html"), ("accept", "application/json; version=\"2\"")], "2 accept"),
        (
            "/products",
            &[("accept", "application/vnd.a.v2+json;q=0.4, application/vnd.a.v3+json;q=0.5")],
            "3 accept",
        ),
        (
            "/products",
            &[("accept", "application/vnd.a.v9+json, application/vnd.a.v2+json;q=0.1")],
            "2 accept",
        ),
        ("/products", &[("accept", "*/*")], "1 default"),
        ("/products", &[("accept", "application/json")], "1 default"),
        ("/products", &[("accept", "application/vnd.a.v9+json, */*;q=0.1")], "1 default"),
        ("/products", &[("host", "v2.api.example:8080")], "2 subdomain"),
        ("/products", &[("host", "2.0.0.1:80")], "1 default"),
        ("/products", &[("host", "v9")], "1 default"),
        ("/products", &[("host", "[2::1]")], "1 default"),
        ("http://v3.api.example/products", &[("host", "v2.api.example")], "3 subdomain"),
        ("*", &[], "1 default"),
    ];
    for (uri, headers, expected) in table {
        assert_eq!(decide(config(), uri, headers).as_deref(), Ok(*expected), "{uri} {headers:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn r11_1_each_strategy_can_be_off_or_elsewhere() {
    let none = || config().strategies([]);
    assert_eq!(decide(none(), "/v2?version=3", &[("x-api-version", "2")]).unwrap(), "1 default");
    let third = || config().strategies([Strategy::Path { segment: 2, strip: false }]);
    assert_eq!(decide(third(), "/api/shop/v3/products", &[]).unwrap(), "3 path");
    assert_eq!(decide(third(), "/v2/v2", &[]).unwrap(), "1 default");
    let other = || config().strategies([Strategy::Header(HeaderName::from_static("api-version"))]);
    assert_eq!(decide(other(), "/", &[("api-version", "3"), ("x-api-version", "2")]).unwrap(), "3 header");
}

#[tokio::test(start_paused = true)]
async fn r11_1_two_different_versions_are_a_conflict_or_the_first_place_counts() {
    let conflicts: &[(&str, Headers)] = &[
        ("/v2/products?version=3", &[]),
        ("/v2/products", &[("x-api-version", "3")]),
        ("/v2/products", &[("x-api-version", "9")]),
        ("/v2/products", &[("accept", "application/vnd.acme.v3+json")]),
        ("/v2/products", &[("accept", "application/vnd.acme.v9+json")]),
        ("/v2/products", &[("accept", "application/json;version=2;q=0")]),
        ("/products?version=2&version=3", &[]),
        ("/products", &[("x-api-version", "2, 3")]),
        ("/products", &[("accept", "application/vnd.acme.v2+json;version=3")]),
        ("/products", &[("host", "v2.api.example"), ("x-api-version", "3")]),
    ];
    for (uri, headers) in conflicts {
        let refused = decide(config(), uri, headers).expect_err(uri);
        assert_eq!(refused.reason, Reason::VersionConflict, "{uri} {headers:?}");
    }
    let agree: &[Case] = &[
        ("/v2/products?version=2.0", &[("x-api-version", "stable")], "2 path"),
        (
            "/v2/products",
            &[("accept", "application/json;version=3, application/json;version=2;q=0.1")],
            "2 path",
        ),
        ("/v2/products", &[("accept", "application/json")], "2 path"),
    ];
    for (uri, headers, expected) in agree {
        assert_eq!(decide(config(), uri, headers).as_deref(), Ok(*expected), "{uri} {headers:?}");
    }

    let first = || config().on_conflict(OnConflict::Precedence);
    let all: Headers = &[("x-api-version", "3"), ("accept", "application/vnd.a.v1+json")];
    assert_eq!(decide(first(), "/v2/products", all).unwrap(), "2 path");
    assert_eq!(decide(first(), "/products", all).unwrap(), "3 header");
    let back = || first().strategies(all_strategies().into_iter().rev());
    assert_eq!(decide(back(), "/v2/products", all).unwrap(), "1 accept");
    assert_eq!(decide(first(), "/v9/products", all).unwrap_err().reason, Reason::VersionUnsupported);
    let torn = decide(first(), "/products?version=2&version=3", all).unwrap_err();
    assert_eq!(torn.reason, Reason::VersionConflict, "one place has no order");
    let unknown = [("accept", "application/vnd.a.v9+json")];
    assert_eq!(decide(first(), "/products", &unknown).unwrap_err().reason, Reason::VersionNotAcceptable);
}

#[tokio::test(start_paused = true)]
async fn r11_2_what_does_not_exist_is_refused_with_what_does() {
    let unsupported: &[(&str, Headers)] = &[
        ("/v9/products", &[]),
        ("/v2beta1/products", &[]),
        ("/products?version=9", &[]),
        ("/products?version=", &[]),
        ("/products?version", &[]),
        ("/products", &[("x-api-version", "latest")]),
        ("/products", &[("x-api-version", "")]),
        ("/products", &[("host", "v9.api.example")]),
    ];
    for (uri, headers) in unsupported {
        let refused = decide(config(), uri, headers).expect_err(uri);
        assert_eq!(refused.reason, Reason::VersionUnsupported, "{uri} {headers:?}");
        let detail = refused.detail.unwrap();
        assert!(detail.ends_with("supported: 1, 2, 3."), "{detail}");
    }
    let refused = decide(config(), "/", &[("accept", "application/vnd.acme.v9+json")]).unwrap_err();
    assert_eq!((refused.reason, refused.reason.status().as_u16()), (Reason::VersionNotAcceptable, 406));
    assert!(refused.detail.unwrap().ends_with("supported: 1, 2, 3."));
    let excluded = decide(config(), "/", &[("accept", "*/*, a/b;version=1;q=0")]).unwrap_err();
    assert_eq!(excluded.reason, Reason::VersionNotAcceptable, "the default is not wanted");

    let mut without = config();
    without.default = None;
    let refused = decide(without.clone(), "/products", &[]).unwrap_err();
    assert_eq!(refused.reason, Reason::VersionUnsupported);
    assert!(refused.detail.unwrap().starts_with("The request names no version"));
    assert_eq!(decide(without, "/v3/products", &[]).unwrap(), "3 path");
}

#[tokio::test(start_paused = true)]
async fn what_a_stranger_wrote_is_cut_before_it_is_shown() {
    let long = format!("/?version={}", "x".repeat(5000));
    let detail = decide(config(), &long, &[]).unwrap_err().detail.unwrap();
    assert!(detail.len() < 150, "{detail}");
    let mut odd = request("/", &[]);
    odd.headers_mut().insert("x-api-version", HeaderValue::from_bytes(b"\xff\t2").unwrap());
    let response = ask(&layer(config()), odd).await;
    let rejection = response.extensions().get::<Rejection>().unwrap();
    assert!(rejection.detail.as_ref().unwrap().contains("\\t2"));
}

#[tokio::test(start_paused = true)]
async fn a_version_before_its_time_does_not_exist() {
    let config = || {
        let next = Version::new("2").alias("next").since(NOW_S + 10);
        VersionConfig::new([Version::new("1"), next])
            .default_version("1")
            .clock(WallClock::starting_at(NOW_S))
    };
    let layer = layer(config());
    let status = async |uri| ask(&layer, request(uri, &[])).await.status().as_u16();
    assert_eq!(status("/v2/x").await, 400);
    assert_eq!(status("/next/x").await, 200, "a word that is no name yet is a part of the path");
    tokio::time::advance(Duration::from_secs(10)).await;
    assert_eq!(status("/v2/x").await, 200);
    let early = VersionLayer::new(config().default_version("2").check().unwrap());
    assert_eq!(ask(&early, request("/x", &[])).await.status(), 400);
}

/// 1 is deprecated and ends in ten days, with two brown-outs before; 2 is its successor.
fn ending() -> VersionConfig {
    let old = Version::new("1")
        .deprecated(NOW_S - DAY_S)
        .sunset(NOW_S + 10 * DAY_S)
        .successor("2")
        .docs("https://api.example/v1-ends")
        .brownout(NOW_S + 60..NOW_S + 120)
        .brownout(NOW_S + 100..NOW_S + 180);
    VersionConfig::new([old, Version::new("2")])
        .strategies(all_strategies())
        .default_version("2")
        .clock(WallClock::starting_at(NOW_S))
}

#[tokio::test(start_paused = true)]
async fn r11_4_a_deprecated_version_tells_of_its_end() {
    let response = ask(&layer(ending()), request("/v1/products/7?page=2", &[])).await;
    assert_eq!(all(&response, "x-api-version"), ["1"]);
    assert_eq!(all(&response, "deprecation"), ["@1799913600"]);
    assert_eq!(all(&response, "sunset"), ["Mon, 25 Jan 2027 08:00:00 GMT"]);
    assert_eq!(
        all(&response, "link"),
        [
            "<https://api.example/v1-ends>; rel=\"deprecation\", <https://api.example/v1-ends>; rel=\"sunset\"",
            "</v2/products/7?page=2>; rel=\"successor-version\"",
        ]
    );
    let response = ask(&layer(ending()), request("/v2/products/7", &[])).await;
    assert_eq!(all(&response, "x-api-version"), ["2"]);
    assert!(["deprecation", "sunset", "link"].iter().all(|name| all(&response, name).is_empty()));
}

#[tokio::test(start_paused = true)]
async fn r11_4_the_successor_is_linked_wherever_the_uri_says_a_version() {
    let table: &[Case] = &[
        ("/v1/products", &[], "/v2/products"),
        ("/V1.0/products", &[], "/v2/products"),
        ("/1/products", &[], "/2/products"),
        ("/v1", &[], "/v2"),
        ("/products?a=1&version=v1&b", &[], "/products?a=1&version=2&b"),
        ("/v1/products?version=1", &[], "/v2/products?version=2"),
        ("/v1/products?page=2", &[("x-api-version", "1")], "/v2/products?page=2"),
        ("/v1/a%3Eb/c\"d", &[], "/v2/a%3Eb/c%22d"),
        ("/products", &[("host", "v1.api.example:8080")], "//v2.api.example:8080/products"),
    ];
    for (uri, headers, target) in table {
        let response = ask(&layer(ending()), request(uri, headers)).await;
        let links = all(&response, "link");
        assert_eq!(links.last().unwrap(), &format!("<{target}>; rel=\"successor-version\""), "{uri}");
    }
    for uri in [format!("/v1/{}", "x".repeat(5000)), "//v1/evil".into(), "//evil.example/v1".into()] {
        let response = ask(&layer(ending()), request(&uri, &[("x-api-version", "1")])).await;
        assert_eq!(
            (response.status().as_u16(), all(&response, "link").len()),
            (200, 1),
            "only the documentation"
        );
    }
}

/// RFC 5829 is about another resource, and a cache, a crawler or a client that follows links would come back.
#[tokio::test(start_paused = true)]
async fn a_version_that_a_header_says_has_no_link_to_the_same_uri() {
    let first = ending().on_conflict(OnConflict::Precedence);
    let first = layer(first.strategies([Strategy::header(), Strategy::path(), Strategy::accept()]));
    let by_default = layer(ending().default_version("1"));
    let table = [
        (&layer(ending()), "/products?page=2", [("x-api-version", "1")]),
        (&layer(ending()), "/products", [("accept", "application/json;version=1")]),
        (&layer(ending()), "/a%3Eb/c\"d", [("x-api-version", "1")]),
        (&by_default, "/products", [("accept", "*/*")]),
        (&first, "/v2/products", [("x-api-version", "1")]),
    ];
    for (layer, uri, headers) in table {
        let response = ask(layer, request(uri, &headers)).await;
        assert_eq!((response.status().as_u16(), all(&response, "x-api-version")[0]), (200, "1"), "{uri}");
        let links = all(&response, "link");
        assert!(links.len() == 1 && links[0].contains("v1-ends"), "only the documentation: {links:?}");
    }
    tokio::time::advance(Duration::from_secs(10 * DAY_S)).await;
    let gone = ask(table[0].0, request("/products", &[("x-api-version", "1")])).await;
    assert_eq!((gone.status().as_u16(), all(&gone, "link").len()), (410, 1));
}

#[tokio::test(start_paused = true)]
async fn r11_2_after_its_sunset_a_version_is_gone() {
    let layer = layer(ending());
    tokio::time::advance(Duration::from_secs(10 * DAY_S - 1)).await;
    assert_eq!(ask(&layer, request("/v1/products/7", &[])).await.status(), 200);
    tokio::time::advance(Duration::from_secs(1)).await;
    let response = ask(&layer, request("/v1/products/7", &[])).await;
    assert_eq!(response.status(), 410);
    assert_eq!(response.extensions().get::<Rejection>().unwrap().reason, Reason::VersionGone);
    assert_eq!(*all(&response, "link").last().unwrap(), "</v2/products/7>; rel=\"successor-version\"");
    assert_eq!(all(&response, "vary"), ["x-api-version, accept"]);
    assert_eq!(all(&response, "x-api-version"), ["1"]);
    // Wishes go on to what is still there.
    let wish = "application/json;version=1, application/json;version=2;q=0.1";
    assert_eq!(all(&ask(&layer, request("/", &[("accept", wish)])).await, "x-api-version"), ["2"]);
    let wish = "application/json;version=1";
    assert_eq!(ask(&layer, request("/", &[("accept", wish)])).await.status(), 410);
    let unsupported = ask(&layer, request("/v9/", &[])).await;
    let detail = unsupported.extensions().get::<Rejection>().unwrap().detail.clone().unwrap();
    assert!(detail.ends_with("supported: 2."), "{detail}");
}

#[tokio::test(start_paused = true)]
async fn r11_4_in_a_brownout_a_version_is_off_until_its_end() {
    let layer = layer(ending());
    let mut seen = Vec::new();
    for _ in 0..7 {
        let response = ask(&layer, request("/v1/products/7", &[])).await;
        let wait = all(&response, "retry-after").first().map(ToString::to_string);
        seen.push((response.status().as_u16(), wait.unwrap_or_default()));
        if response.status() == 503 {
            assert_eq!(
                *all(&response, "link").last().unwrap(),
                "</v2/products/7>; rel=\"successor-version\""
            );
            assert_eq!(all(&response, "vary"), ["x-api-version, accept"]);
        }
        assert_eq!(
            ask(&layer, request("/v2/products/7", &[])).await.status(),
            200,
            "the successor is not off"
        );
        tokio::time::advance(Duration::from_secs(30)).await;
    }
    let expected = [(200, ""), (200, ""), (503, "60"), (503, "30"), (503, "60"), (503, "30"), (200, "")];
    assert_eq!(seen, expected.map(|(status, wait)| (status, wait.to_owned())));
}

#[tokio::test(start_paused = true)]
async fn r11_5_vary_is_added_to_and_what_resources_say_stays() {
    let layer = layer(ending());
    let vary = async |lines: &'static [&'static str]| {
        let answer = move || {
            let mut response = Response::new(());
            for line in lines {
                response.headers_mut().append("vary", HeaderValue::from_static(line));
            }
            response
        };
        let response = layer.layer(shop(answer)).oneshot(request("/v1/x", &[])).await.unwrap();
        all(&response, "vary").iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(vary(&[]).await, ["x-api-version, accept"]);
    assert_eq!(vary(&["origin"]).await, ["origin", "x-api-version", "accept"]);
    assert_eq!(vary(&["Origin, Accept"]).await, ["Origin, Accept", "x-api-version"]);
    assert_eq!(vary(&["X-API-Version", "ACCEPT"]).await, ["X-API-Version", "ACCEPT"]);
    assert_eq!(vary(&["origin", "*"]).await, ["origin", "*"]);

    let answer = || {
        let head = Response::builder().header("sunset", "soon").header("link", "</next>; rel=\"next\"");
        head.header("x-api-version", "from behind").body(()).unwrap()
    };
    let response = layer.layer(shop(answer)).oneshot(request("/v1/x", &[])).await.unwrap();
    assert_eq!(all(&response, "sunset"), ["soon"]);
    assert_eq!(all(&response, "link").len(), 3);
    assert_eq!(all(&response, "x-api-version"), ["1"]);

    let path_only = ending().strategies([Strategy::path()]);
    let response = ask(&VersionLayer::new(path_only.check().unwrap()), request("/v1/x", &[])).await;
    assert!(all(&response, "vary").is_empty(), "the URI is of a cache's key anyway");
    let refused = ask(&layer, request("/v9/x", &[])).await;
    assert_eq!(all(&refused, "vary"), ["x-api-version, accept"]);
}

#[tokio::test(start_paused = true)]
async fn r11_3_the_version_goes_on_and_its_segment_may_be_taken_away() {
    let strip = |segment| {
        let path = Strategy::Path { segment, strip: true };
        layer(ending().strategies([path, Strategy::header()]))
    };
    let table = [
        (0, "/v2/products?page=2", "/products?page=2"),
        (0, "/v2", "/"),
        (0, "/v2?page=2", "/?page=2"),
        (0, "/v2/", "/"),
        (0, "/products/v2", "/products/v2"),
        (1, "/api/v2/products", "/api/products"),
        (1, "/api/v2", "/api"),
        (0, "http://api.example/v1/products", "http://api.example/products"),
    ];
    for (segment, uri, expected) in table {
        let response = ask(&strip(segment), request(uri, &[("accept", "text/html")])).await;
        let Saw(version, seen, headers) = response.extensions().get::<Saw>().unwrap();
        assert_eq!(seen.to_string(), expected, "{uri}");
        assert_eq!(version.as_deref(), Some(if uri.contains("/v1/") { "1" } else { "2" }));
        assert_eq!(headers["accept"], "text/html");
    }
    let response = ask(&strip(0), request("/v1/products", &[])).await;
    assert_eq!(*all(&response, "link").last().unwrap(), "</v2/products>; rel=\"successor-version\"");

    // Where a header comes first, the segment goes all the same: no route is meant with it.
    let header_first = [Strategy::header(), Strategy::stripped_path()];
    let layer = layer(ending().strategies(header_first).on_conflict(OnConflict::Precedence));
    let response = ask(&layer, request("/v1/products", &[("x-api-version", "2")])).await;
    let Saw(version, seen, _) = response.extensions().get::<Saw>().unwrap();
    assert_eq!((version.as_deref(), seen.path()), (Some("2"), "/products"));

    // In a stack with a context no further extension is made.
    let mut request = request("/v1/products", &[]);
    request.extensions_mut().insert(Context::new(Now::read()));
    let response = strip(0).layer(tower::service_fn(|request: Request<()>| async move {
        assert!(request.extensions().get::<ApiVersion>().is_none());
        let context = request.extensions().get::<Context>().unwrap();
        Ok::<_, Infallible>(Response::new(context.version.clone()))
    }));
    assert_eq!(response.oneshot(request).await.unwrap().into_body().as_deref(), Some("1"));
}

#[tokio::test(start_paused = true)]
async fn r11_6_usage_is_counted_by_version_and_consumer() {
    let layer = layer(ending());
    let from = |uri: &str, subject: Option<&str>, client: Option<&str>| {
        let mut request = request(uri, &[]);
        if let Some(subject) = subject {
            Arc::new(Identity::new(Scheme::Jwt, Some(subject.into()))).put(request.extensions_mut());
        }
        if let Some(client) = client {
            request.extensions_mut().insert(ClientAddr(client.parse().unwrap()));
        }
        request
    };
    for _ in 0..3 {
        ask(&layer, from("/v1/x", Some("asha"), Some("192.0.2.1"))).await;
    }
    ask(&layer, from("/v1/x", None, Some("2001:db8::1"))).await;
    ask(&layer, from("/v1/x", None, Some("2001:db8::2"))).await;
    ask(&layer, from("/v1/x", None, None)).await;
    ask(&layer, from("/v9/x", Some("asha"), None)).await; // Of no version of ours.
    for _ in 0..294 {
        ask(&layer, from("/v2/x", Some("ravi"), None)).await;
    }
    let report = layer.usage(Now::read());
    assert_eq!((report.since_s, report.last_7_days), (Some(NOW_S), 300));
    let one = &report.versions[0];
    assert_eq!((&*one.name, one.last_7_days, one.share_bp, one.is_safe_to_retire), ("1", 6, 200, false));
    let consumers =
        one.consumers.iter().map(|used| (used.consumer.clone(), used.requests)).collect::<Vec<_>>();
    assert_eq!(
        consumers,
        [
            (Consumer::Subject("asha".into()), 3),
            (Consumer::Client("2001:db8::".parse().unwrap()), 2),
            (Consumer::Anonymous, 1),
        ]
    );

    // Whoever still asks in a brown-out counts; a week later nobody has, and it is safe.
    tokio::time::advance(Duration::from_mins(1)).await;
    assert_eq!(ask(&layer, from("/v1/x", Some("asha"), None)).await.status(), 503);
    assert_eq!(layer.usage(Now::read()).versions[0].last_7_days, 7);
    tokio::time::advance(Duration::from_secs(7 * DAY_S)).await;
    ask(&layer, from("/v2/x", Some("ravi"), None)).await;
    let report = layer.usage(Now::read());
    assert_eq!((report.versions[0].last_7_days, report.versions[0].is_safe_to_retire), (0, true));
    assert_eq!(report.versions[0].days.iter().map(|day| day.requests).sum::<u64>(), 7);
    assert_eq!(report.versions[0].consumers[0].last_s, NOW_S + 60);
    assert!(!report.versions[1].is_safe_to_retire);
}

#[tokio::test(start_paused = true)]
async fn a_version_that_a_reload_brings_is_counted_for_seven_days_before_it_is_safe_to_retire() {
    let old = layer(ending());
    let safe = async |layer: &VersionLayer| {
        ask(layer, request("/v2/x", &[])).await;
        let versions = layer.usage(Now::read()).versions;
        versions.iter().map(|is| is.is_safe_to_retire).collect::<Vec<_>>()
    };
    assert_eq!(safe(&old).await, [false, false]);
    tokio::time::advance(Duration::from_secs(8 * DAY_S)).await;
    assert_eq!(safe(&old).await, [true, false]);
    let three = VersionConfig::new(["1", "2", "3"].map(Version::new)).default_version("2");
    let clock = WallClock::starting_at(NOW_S + 8 * DAY_S);
    let new = old.reconfigured(&three.clock(clock).check().unwrap());
    assert_eq!(old.usage(Now::read()).versions[0].since_s, Some(NOW_S), "making a layer changes nothing");
    assert_eq!(safe(&new).await, [true, false, false]);
    assert_eq!(new.usage(Now::read()).versions[2].since_s, Some(NOW_S + 8 * DAY_S));
    tokio::time::advance(Duration::from_secs(7 * DAY_S)).await;
    assert_eq!(safe(&new).await, [true, false, true]);
}

#[tokio::test(start_paused = true)]
async fn usage_and_name_survive_a_change_of_versions_and_back() {
    let named = layer(ending()).named(&Arc::from("shop"));
    for _ in 0..5 {
        ask(&named, request("/v1/x", &[])).await;
    }
    let other = VersionConfig::new([Version::new("3"), Version::new("v1.0")]).default_version("3");
    let other = named.reconfigured(&other.clock(WallClock::starting_at(NOW_S)).check().unwrap());
    assert_eq!(other.name(), Some("shop"));
    ask(&other, request("/v1/x", &[])).await;
    ask(&other, request("/x", &[])).await;
    let counts = |layer: &VersionLayer| {
        let versions = layer.usage(Now::read()).versions;
        versions.iter().map(|version| (version.name.to_string(), version.last_7_days)).collect::<Vec<_>>()
    };
    assert_eq!(counts(&other), [("3".into(), 1), ("v1.0".into(), 6)]);
    let back = other.reconfigured(&ending().check().unwrap());
    ask(&named, request("/v1/x", &[])).await; // What is still under way in the old one counts, too.
    ask(&back, request("/v1/x", &[])).await;
    assert_eq!(counts(&back), [("1".into(), 8), ("2".into(), 0)]);
    let refused = ask(&back, request("/v9/x", &[])).await;
    assert_eq!(refused.extensions().get::<Rejection>().unwrap().policy.as_deref(), Some("shop"));
}

#[tokio::test(start_paused = true)]
async fn r11_8_the_table_tells_what_there_is_now() {
    let layer = layer(ending());
    let state = || layer.versions(Now::read()).versions.iter().map(|one| one.state).collect::<Vec<_>>();
    let table = layer.versions(Now::read());
    assert_eq!(table.default.as_deref(), Some("2"));
    assert_eq!(table.versions.iter().map(|one| one.is_default).collect::<Vec<_>>(), [false, true]);
    assert_eq!(table.versions[0].version.sunset_s, Some(NOW_S + 10 * DAY_S));
    assert_eq!(state(), [State::Deprecated, State::Active]);
    tokio::time::advance(Duration::from_mins(1)).await;
    assert_eq!(layer.versions(Now::read()).versions[0].brownout_until_s, Some(NOW_S + 120));
    tokio::time::advance(Duration::from_secs(10 * DAY_S)).await;
    assert_eq!(state(), [State::Sunset, State::Active]);
    let next = layer.reconfigured(&config().check().unwrap());
    assert_eq!(next.versions(Now::read()).versions.len(), 3);
    assert_eq!(VersionLayer::<()>::off().versions(Now::read()).versions, []);
}

#[test]
fn r11_4_errors_are_said_in_words() {
    let error = VersionConfig::new([Version::new("1").deprecated(2).sunset(1)]).check().unwrap_err();
    assert_eq!(error.to_string(), "`1`: `sunset` is before `deprecated`");
    let error = VersionConfig::new([Version::new("1\n")]).check().unwrap_err();
    assert_eq!(error, VersionError::Name("1\n".into()));
    assert!(!error.to_string().contains('\n'));
}

#[derive(Default)]
struct Told(Mutex<Vec<Option<Reason>>>);

impl Observer for Told {
    fn admitted(&self) {
        self.0.lock().unwrap().push(None);
    }
    fn rejected(&self, rejection: &Rejection) {
        self.0.lock().unwrap().push(Some(rejection.reason));
    }
}

#[tokio::test(start_paused = true)]
async fn what_happens_is_observed() {
    let told = Arc::new(Told::default());
    let layer = VersionLayer::observed(ending().check().unwrap(), Arc::clone(&told));
    for uri in ["/v1", "/v9"] {
        layer.layer(shop(|| Response::new(()))).oneshot(request(uri, &[])).await.unwrap();
    }
    assert_eq!(*told.0.lock().unwrap(), [None, Some(Reason::VersionUnsupported)]);
}

/// axum routes before the layers of a router: whoever changes the path has to stand around it.
#[tokio::test(start_paused = true)]
async fn r11_1_around_an_axum_router_a_stripped_path_is_routed_and_in_it_not() {
    use axum::{Router, body::Body, routing::get};

    let router = || Router::new().route("/products", get(|| async { "all" }));
    let layer = layer(ending().strategies([Strategy::stripped_path()]));
    let ask = || Request::get("/v1/products").body(Body::empty()).unwrap();
    let around = layer.layer(router()).oneshot(ask()).await.unwrap();
    assert_eq!((around.status().as_u16(), &around.headers()["x-api-version"]), (200, &HeaderValue::from(1)));
    let within = router().layer(layer).oneshot(ask()).await.unwrap();
    assert_eq!(within.status(), 404, "the route was chosen by the path as it came");
}

fn versioning() -> Versioning {
    let strategies = [Strategy::stripped_path(), Strategy::query(), Strategy::header(), Strategy::accept()];
    ending().strategies(strategies).check().unwrap()
}

proptest! {
    /// Whatever comes: `explain` says what the data path does, the version is one of ours, and the link is
    /// a reference to a path.
    #[test]
    fn r11_1_whatever_is_asked_the_answer_is_one_of_ours(
        path in "(/(v[0-3]|V1\\.0|products|%7[0-9]1|[!-;=?@-_a-z~]{0,9})){1,3}(\\?(version=[0-3]|[a-z=&%]{0,9}))?",
        header in prop::option::of("[ -~]{0,9}|[1-3](, ?[1-3])?"),
        accept in prop::option::of("[ -~]{0,30}|application/json;version=[0-4];q=0?\\.?[0-9]"),
    ) {
        let Ok(uri) = path.parse::<Uri>() else { return Ok(()) };
        let mut asked = Request::new(());
        *asked.uri_mut() = uri;
        for (name, value) in [("x-api-version", header), ("accept", accept)] {
            if let Some(value) = value {
                asked.headers_mut().insert(name, HeaderValue::try_from(value).unwrap());
            }
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let layer = VersionLayer::new(Versioning::clone(&versioning()));
            let (mut head, ()) = asked.clone().into_parts();
            let said = layer.explain(Now::read(), &mut head);
            let response = ask(&layer, asked).await;
            match (said, response.extensions().get::<Rejection>()) {
                (Finding::Reject(said), Some(did)) => prop_assert_eq!(&said, did),
                (Finding::Admit(_), None) => {
                    let Saw(version, seen, _) = response.extensions().get::<Saw>().unwrap();
                    prop_assert_eq!(version.as_ref(), ApiVersion::of(&head.extensions));
                    prop_assert_eq!(seen, &head.uri);
                    prop_assert!(["1", "2"].contains(&&**version.as_ref().unwrap()));
                }
                (said, did) => prop_assert!(false, "{said:?} but {did:?}"),
            }
            for link in all(&response, "link").iter().filter(|link| link.contains("successor")) {
                let target = link.strip_prefix('<').and_then(|link| link.split_once('>')).unwrap().0;
                prop_assert!(target.starts_with('/') && !target.starts_with("//"));
                prop_assert!(target.parse::<Uri>().is_ok());
            }
            Ok(())
        })?;
    }
}
