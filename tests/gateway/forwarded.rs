//! `Forwarded` (RFC 7239): what upstreams see of it, and whom it is believed of.

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use naka_testkit::upstream::{Upstream, ok};

use crate::inside::{Inside, get};

fn config(forwarded: &str, trusted: &str) -> String {
    format!(
        "
gateway: {{admin: none, forwarded: {forwarded}, trusted_proxies: [{trusted}]}}
listeners: {{public: {{listen: ':1'}}}}
upstreams: {{app: {{endpoints: ['app:1']}}}}
routes:
  moved: {{match: {{path: /moved}}, redirect: {{host: other.example}}}}
  of_one: {{match: {{prefix: /mine}}, authorize: {{cidr: [198.51.100.7/32]}}, upstream: app}}
  all: {{match: {{prefix: /}}, upstream: app}}
"
    )
}

/// Who asks is one, and the balancers in front of it are another.
const TRUSTED: &str = "192.0.2.0/24, 10.0.0.0/8";

fn with(target: &str, headers: &[(&'static str, &'static str)]) -> Request<Full<Bytes>> {
    let mut request = get(target);
    for (name, value) in headers {
        request.headers_mut().append(*name, value.parse().unwrap());
    }
    request
}

fn gateway(forwarded: &str, trusted: &str) -> (Inside, Upstream) {
    let gateway = Inside::new(&config(forwarded, trusted));
    let app = Upstream::inside(&gateway.network, "app:1", |_| ok("fine"));
    (gateway, app)
}

fn reason(response: &Response<Bytes>) -> &str {
    response.headers().get("naka-reason").map_or("", |reason| reason.to_str().unwrap())
}

const FORGED: [(&str, &str); 3] =
    [("forwarded", "for=6.6.6.6;proto=https"), ("x-forwarded-for", "6.6.6.6"), ("x-real-ip", "6.6.6.6")];

#[tokio::test(start_paused = true)]
async fn r2_3_forwarded_is_written_anew_and_of_strangers_nothing_is_kept() {
    let (gateway, app) = gateway("rfc7239", "10.0.0.0/8");
    assert_eq!(gateway.send(with("/", &FORGED)).await.status(), 200);
    let seen = app.last();
    assert_eq!(seen.header("forwarded"), Some("for=192.0.2.1;host=api.example;proto=http"));
    assert!(seen.headers.iter().all(|(name, _)| !name.starts_with("x-forwarded") && name != "x-real-ip"));
    let (gateway, app) = self::gateway("both", "10.0.0.0/8");
    gateway.send(with("/", &FORGED)).await;
    let seen = app.last();
    assert_eq!(seen.header("forwarded"), Some("for=192.0.2.1;host=api.example;proto=http"));
    assert_eq!(seen.header("x-forwarded-for"), Some("192.0.2.1"));
}

#[tokio::test(start_paused = true)]
async fn r2_3_of_trusted_proxies_forwarded_is_read_and_added_to() {
    let (gateway, app) = gateway("rfc7239", TRUSTED);
    let chain = "for=6.6.6.6, for=198.51.100.7;proto=https, for=\"10.0.0.3:44\"";
    let response = gateway.send(with("/mine", &[("forwarded", chain), ("x-forwarded-for", "1.1.1.1")])).await;
    assert_eq!(response.status(), 200);
    let seen = app.last();
    let expected = format!("{chain}, for=192.0.2.1;host=api.example;proto=http");
    assert_eq!(seen.header("forwarded"), Some(&*expected));
    assert_eq!(seen.header("x-forwarded-for"), None);
    // Behind whoever does not say of whom it has it, nobody is known; and what only the other field says is not heard.
    for headers in [
        [("forwarded", "for=198.51.100.7, for=unknown")],
        [("forwarded", "for=198.51.100.7, for=_hidden")],
        [("forwarded", "for=198.51.100.7, proto=https")],
        [("x-forwarded-for", "198.51.100.7")],
    ] {
        assert_eq!(reason(&gateway.send(with("/mine", &headers)).await), "forbidden", "{headers:?}");
    }
}

/// As the one was asked whom nobody stands behind that is trusted.
#[tokio::test(start_paused = true)]
async fn r2_3_the_scheme_is_that_of_the_outermost_trusted_proxy() {
    let (gateway, _app) = gateway("rfc7239", TRUSTED);
    for (chain, scheme) in [
        ("for=198.51.100.7;proto=https, for=10.0.0.3;proto=http", "https"),
        ("for=6.6.6.6;proto=https, for=198.51.100.7;proto=http, for=10.0.0.3;proto=https", "http"),
        ("for=unknown;proto=https", "https"),
        ("for=198.51.100.7", "http"),
    ] {
        let response = gateway.send(with("/moved", &[("forwarded", chain)])).await;
        assert_eq!(response.headers()["location"], format!("{scheme}://other.example/moved"), "{chain}");
    }
}

#[tokio::test(start_paused = true)]
async fn r2_3_what_is_no_forwarded_and_two_that_disagree_are_refused() {
    let (gateway, app) = gateway("both", TRUSTED);
    let line = "for=198.51.100.7";
    for (headers, expected) in [
        (vec![("forwarded", line), ("x-forwarded-for", "198.51.100.7")], ""),
        (vec![("forwarded", line)], ""),
        (vec![("x-forwarded-for", "198.51.100.7")], ""),
        (vec![("forwarded", "for=6.6.6.6"), ("x-forwarded-for", "198.51.100.7")], "forwarded_mismatch"),
        (vec![("forwarded", line), ("x-forwarded-for", "198.51.100.7, 6.6.6.6")], "forwarded_mismatch"),
        (vec![("forwarded", "for=198.51.100.7; proto=https")], "forwarded_malformed"),
        (vec![("forwarded", line), ("forwarded", "for=")], "forwarded_malformed"),
    ] {
        assert_eq!(reason(&gateway.send(with("/mine", &headers)).await), expected, "{headers:?}");
    }
    assert_eq!(app.requests(), 3);
}
