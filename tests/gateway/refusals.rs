//! How the gateway's own errors are shown: `Proxy-Status`, and pages for people.

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::Full;
use naka_testkit::upstream::{Step, Upstream, answer};

use crate::inside::{Inside, get};

const CONFIG: &str = "
gateway:
  admin: none
  errors: {pages: {404: lost.html, 5xx: broken.html, 502: reset.txt}}
listeners: {public: {listen: ':1'}}
upstreams:
  app: {endpoints: ['app:1'], timeouts: {connect: 1s, response_headers: 2s}}
  nobody: {endpoints: ['nobody:1'], timeouts: {connect: 1s}}
  silent: {endpoints: ['silent:1'], timeouts: {connect: 1s}}
routes:
  app: {match: {prefix: /app}, upstream: app}
  nobody: {match: {prefix: /nobody}, upstream: nobody}
  silent: {match: {prefix: /silent}, upstream: silent}
  few: {match: {prefix: /few}, rate_limit: {rate: 1/h}, respond: {body: fine}}
";

fn gateway() -> Inside {
    gateway_of(CONFIG)
}

fn gateway_of(config: &str) -> Inside {
    let pages = [("lost.html", "<h1>Lost</h1>"), ("broken.html", "<h1>Broken</h1>"), ("reset.txt", "reset")];
    Inside::with_files(config, &pages)
}

fn asking(target: &str, accept: &'static str) -> Request<Full<Bytes>> {
    let mut request = get(target);
    request.headers_mut().insert("accept", accept.parse().unwrap());
    request
}

fn said<'r>(response: &'r Response<Bytes>, name: &str) -> Vec<&'r str> {
    response.headers().get_all(name).iter().map(|value| value.to_str().unwrap()).collect()
}

const BROWSER: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";

#[tokio::test(start_paused = true)]
async fn r2_3_what_the_gateway_refuses_is_an_error_of_rfc_9209() {
    let gateway = gateway();
    let _app = Upstream::inside(&gateway.network, "app:1", |seen| match seen.target() {
        "/app/close" => vec![Step::ReadBody, Step::Close],
        "/app/hang" => vec![Step::Hang],
        _ => vec![Step::ReadBody, Step::send("HTTP/9 nonsense\r\n\r\n")],
    });
    gateway.send(get("/few")).await;
    for (target, status, error) in [
        ("/lost", 404, "destination_not_found; details=\"route_not_found\""),
        ("/few", 429, "http_request_denied; details=\"rate_limited\""),
        ("/nobody", 502, "connection_refused; details=\"connect_failed\""),
        ("/silent", 504, "connection_timeout; details=\"connect_timeout\""),
        ("/app/close", 502, "connection_terminated; details=\"upstream_reset\""),
        ("/app/hang", 504, "connection_read_timeout; details=\"response_timeout\""),
        ("/app/nonsense", 502, "http_protocol_error; details=\"upstream_protocol\""),
        ("/app/a//b", 400, "http_request_error; details=\"bad_path\""),
    ] {
        let response = gateway.send(get(target)).await;
        assert_eq!(response.status(), status, "{target}");
        assert_eq!(said(&response, "proxy-status"), [format!("naka; error={error}")], "{target}");
    }
    assert!(said(&gateway.send(get("/few/none")).await, "proxy-status").len() == 1);
}

/// RFC 9209 §2: what others on the way have said stays, and an answer of the upstream is none of ours.
#[tokio::test(start_paused = true)]
async fn r2_3_what_an_upstream_says_in_proxy_status_is_kept_and_nothing_added_to_it() {
    let gateway = gateway();
    let _app = Upstream::inside(&gateway.network, "app:1", |_| {
        answer(502, "proxy-status: inner; error=dns_error\r\ncontent-type: text/plain\r\n", "theirs")
    });
    let response = gateway.send(asking("/app", BROWSER)).await;
    assert_eq!((response.status().as_u16(), &response.body()[..]), (502, &b"theirs"[..]));
    assert_eq!(said(&response, "proxy-status"), ["inner; error=dns_error"]);
    assert!(said(&response, "vary").is_empty());
}

#[tokio::test(start_paused = true)]
async fn r2_3_proxy_status_can_be_kept_quiet() {
    let gateway = gateway_of(&CONFIG.replace("admin: none\n", "admin: none\n  proxy_status: false\n"));
    let response = gateway.send(get("/lost")).await;
    assert_eq!(said(&response, "naka-reason"), ["route_not_found"]);
    assert!(said(&response, "proxy-status").is_empty());
}

#[tokio::test(start_paused = true)]
async fn r2_3_a_browser_sees_a_page_and_a_program_problem_details() {
    let gateway = gateway();
    for (target, accept, status, kind, body) in [
        ("/lost", BROWSER, 404, "text/html; charset=utf-8", "<h1>Lost</h1>"),
        ("/silent", BROWSER, 504, "text/html; charset=utf-8", "<h1>Broken</h1>"),
        // The page that is for the fewest statuses; this browser takes texts no more than anything else.
        ("/nobody", BROWSER, 502, "application/problem+json", "connect_failed"),
        ("/nobody", "text/plain", 502, "text/plain; charset=utf-8", "reset"),
        ("/lost", "*/*", 404, "application/problem+json", "route_not_found"),
        ("/lost", "application/json", 404, "application/problem+json", "route_not_found"),
    ] {
        let response = gateway.send(asking(target, accept)).await;
        assert_eq!(response.status(), status, "{target}");
        assert_eq!(said(&response, "content-type"), [kind], "{target} {accept}");
        assert_eq!(said(&response, "content-length"), [response.body().len().to_string()]);
        assert_eq!(said(&response, "vary"), ["accept"], "{target} {accept}");
        assert_eq!(said(&response, "naka-reason").len(), 1);
        let text = std::str::from_utf8(response.body()).unwrap();
        assert!(text == body || kind.ends_with("json") && text.contains(body), "{text}");
    }
    let mut head = asking("/lost", BROWSER);
    *head.method_mut() = Method::HEAD;
    let response = gateway.send(head).await;
    assert_eq!((said(&response, "content-length"), response.body().len()), (vec!["13"], 0));
    // There is no page for it.
    gateway.send(get("/few")).await;
    let response = gateway.send(asking("/few", BROWSER)).await;
    assert_eq!(said(&response, "content-type"), ["application/problem+json"]);
    assert!(said(&response, "vary").is_empty());
}

#[tokio::test(start_paused = true)]
async fn r2_3_grpc_never_sees_a_page() {
    let gateway = gateway();
    let mut request = asking("/nobody", BROWSER);
    request.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
    let response = gateway.send(request).await;
    assert_eq!((said(&response, "grpc-status"), response.body().len()), (vec!["14"], 0));
    assert_eq!(said(&response, "proxy-status").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn pages_are_part_of_the_configuration() {
    let gateway = gateway();
    gateway.write("lost.html", "<h1>Gone</h1>");
    gateway.reload(CONFIG).unwrap();
    assert_eq!(gateway.send(asking("/lost", BROWSER)).await.body(), "<h1>Gone</h1>");
    for (file, text, why) in
        [("lost.html", "", "is empty"), ("lost.html", &*"x".repeat((256 << 10) + 1), "more than 256 KiB")]
    {
        gateway.write(file, text);
        let refused = gateway.reload(CONFIG).unwrap_err();
        assert!(refused.contains(why), "{refused}");
    }
    for (wrong, why) in [
        ("{404: lost.json}", "neither a page nor a text"),
        ("{404: missing.html}", "cannot be read"),
        ("{200: broken.html}", "is not an error"),
        ("{5xx: broken.html, 500-599: broken.html}", "have a page already"),
        ("{}", "no page"),
    ] {
        let config = CONFIG.replace("{404: lost.html, 5xx: broken.html, 502: reset.txt}", wrong);
        let refused = gateway.reload(&config).unwrap_err();
        assert!(refused.contains(why), "{refused}");
    }
}
