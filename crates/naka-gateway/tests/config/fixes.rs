//! Mistakes that people make, seeded into a file that is right: each is reported on its line, with a fix that is literally in the
//! message and works when it is written in the place of the mistake.

use naka_gateway::config::{Severity, parse_str};

const RIGHT: &str = r#"version: 1
gateway:
  environment: production
  workers: per-core
  admin: {listen: "127.0.0.1:9901"}
  reload: {watch: true, debounce: 200ms}
  limits: {header_bytes: 32KiB}
listeners:
  web: {listen: "127.0.0.1:8080"}
policies:
  per-ip: {rate_limit: {rate: 20/m, key: [client_ip]}}
  room: {bulkhead: {max: 50, queue: 10, max_wait: 1s}}
upstreams:
  app:
    endpoints: ["127.0.0.1:3000"]
    balance: {policy: least_request}
    retry_budget: {ratio: 20%}
    timeouts: {connect: 1s, response_headers: 5s}
  next: {endpoints: ["127.0.0.1:3001"]}
routes:
  orders:
    match: {path: "/orders/{id}", methods: [GET]}
    use: [per-ip, room]
    timeouts: {total: 10s}
    retry: {max: 1, when: [connect_error, 503]}
    upstream: app
  carts:
    match: {prefix: /carts}
    strip_prefix: true
    upstream: next
tests:
  - {request: "GET http://a/orders/1", expect: {route: orders}}
"#;

/// What is right, what somebody writes, and of that what the message has to say should be there instead.
const MISTAKES: [(&str, &str, &str, &str); 48] = [
    // Keys.
    ("web: {listen", "web: {lisen", "lisen", "listen"),
    ("methods: [GET]", "method: [GET]", "method", "methods"),
    ("upstream: app", "upstrem: app", "upstrem", "upstream"),
    ("per-ip: {rate_limit", "per-ip: {ratelimit", "ratelimit", "rate_limit"),
    ("room: {bulkhead", "room: {bulkead", "bulkead", "bulkhead"),
    ("strip_prefix", "strip-prefix", "strip-prefix", "strip_prefix"),
    ("endpoints: [\"127.0.0.1:3000\"]", "endpoint: [\"127.0.0.1:3000\"]", "endpoint", "endpoints"),
    ("debounce", "debouce", "debouce", "debounce"),
    ("header_bytes", "headers_bytes", "headers_bytes", "header_bytes"),
    ("response_headers", "response_header", "response_header", "response_headers"),
    ("when: [connect", "on: [connect", "on:", "when:"),
    ("timeouts: {total: 10s}", "timeout: {total: 10s}", "timeout", "timeouts"),
    ("expect: {route: orders", "expect: {rout: orders", "rout:", "route:"),
    // Keys of other gateways.
    ("listeners:", "entryPoints:", "entryPoints:", "listeners:"),
    ("policies:", "middlewares:", "middlewares:", "policies:"),
    ("upstreams:", "clusters:", "clusters:", "upstreams:"),
    ("endpoints: [\"127.0.0.1:3000\"]", "servers: [\"127.0.0.1:3000\"]", "servers", "endpoints"),
    ("use: [per-ip, room]", "plugins: [per-ip, room]", "plugins", "use"),
    // Names that nothing has.
    ("upstream: app", "upstream: ap", ": ap", ": app"),
    ("upstream: next", "upstream: nxet", "nxet", "next"),
    ("use: [per-ip, room]", "use: [perip, room]", "perip", "per-ip"),
    ("use: [per-ip, room]", "use: [per-ip, rooms]", "rooms", "room"),
    ("expect: {route: orders}", "expect: {route: order}", "route: order}", "route: orders}"),
    // Words.
    ("least_request", "least_requests", "least_requests", "least_request"),
    ("connect_error", "connect_errors", "connect_errors", "connect_error"),
    ("environment: production", "environment: producton", "producton", "production"),
    ("workers: per-core", "workers: per_core", "per_core", "per-core"),
    ("[client_ip]", "[remote_addr]", "remote_addr", "client_ip"),
    ("[client_ip]", "[client-ip]", "client-ip", "client_ip"),
    ("[GET]", "[get]", "get", "GET"),
    ("version: 1", "version: 2", "2", "1"),
    // Values.
    ("total: 10s}", "total: 10}", "10}", "10s}"),
    ("total: 10s", "total: 0s", "0s", "never"),
    ("connect: 1s", "connect: 1sec", "1sec", "1s"),
    ("max_wait: 1s", "max_wait: 1000", "1000", "1000ms"),
    ("header_bytes: 32KiB", "header_bytes: 32KB", "32KB", "32KiB"),
    ("rate: 20/m", "rate: 20r/m", "20r/m", "20/m"),
    ("rate: 20/m", "rate: 20/minute", "20/minute", "20/m"),
    ("strip_prefix: true", "strip_prefix: yes", "yes", "true"),
    ("strip_prefix: true", "strip_prefix: \"true\"", "\"true\"", "true"),
    ("watch: true", "watch: on", "on", "true"),
    ("ratio: 20%", "ratio: 0.2", "0.2", "20%"),
    ("retry: {max: 1,", "retry: {max: 11,", "11", "10"),
    ("admin: {listen: \"127.0.0.1:9901\"}", "admin: off", "off", "none"),
    ("path: \"/orders/{id}\"", "path: \"orders/{id}\"", "\"orders/{id}\"", "\"/orders/{id}\""),
    ("prefix: /carts", "prefix: /carts/*", "/carts/*", "/carts"),
    ("[\"127.0.0.1:3001\"]", "[\"http://127.0.0.1:3001\"]", "http://127.0.0.1:3001", "127.0.0.1:3001"),
    ("key: [client_ip]", "key: [{id}]", "{id}", "\"{id}\""),
];

#[test]
fn of_seeded_mistakes_each_is_reported_on_its_line_with_a_fix_that_works() {
    assert!(parse_str("gateway.yaml", RIGHT).is_ok());
    let mut wrong = Vec::new();
    for (right, mistake, from, to) in MISTAKES {
        assert!(RIGHT.contains(right) && mistake.contains(from), "{mistake}");
        let text = RIGHT.replacen(right, mistake, 1);
        let line = text.lines().zip(RIGHT.lines()).position(|(one, other)| one != other).unwrap() + 1;
        let Err(found) = parse_str("gateway.yaml", &text) else {
            wrong.push(format!("`{mistake}` is taken"));
            continue;
        };
        let of_line = |it: &&naka_gateway::config::Diagnostic| {
            it.severity == Severity::Error && it.place.line() == line
        };
        let Some(said) = found.iter().find(of_line) else {
            wrong.push(format!("`{mistake}`: nothing is said of line {line}:\n{}", found.render(false)));
            continue;
        };
        let fix = to.trim_end_matches([':', '}']).trim_start_matches(": ").trim_start_matches("route: ");
        let help = said.help.as_deref().unwrap_or_default();
        if !help.contains(fix) {
            wrong.push(format!("`{mistake}`: the help does not say `{fix}`: {help}"));
        }
        let fixed = text.replacen(mistake, &mistake.replacen(from, to, 1), 1);
        if let Err(found) = parse_str("gateway.yaml", &fixed) {
            wrong.push(format!("`{mistake}`: `{to}` does not work:\n{}", found.render(false)));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), MISTAKES.len(), wrong.join("\n"));
}
