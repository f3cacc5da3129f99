//! The cases of the Gateway API's conformance suite, by their names, in manifests of our own.
//!
//! Where the suite expects 404 because of a method that no rule has, naka says 405 and `Allow` (RFC 9110, section 15.5.6); and
//! a rule for GET is one for HEAD, too (section 9.3.2), where the suite expects 404. Both are in docs/importing.md.

use naka_gateway::import::{Api, Level};
use naka_testkit::upstream::{Step, Upstream};
use tokio::time::Duration;

use super::{Running, found, imported, request, with_endpoints};

const BACKENDS: [&str; 3] = ["v1", "v2", "v3"];

/// What is asked, and what comes of it: a backend, or a status.
type Asked<'a> = (&'a str, &'a [(&'a str, &'a str)], Expected<'a>);

#[derive(Clone, Copy, Debug)]
enum Expected<'a> {
    Backend(&'a str),
    Status(u16),
    /// Where a redirect leads.
    To(u16, &'a str),
}
use Expected::{Backend, Status, To};

fn gateway(listeners: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: gw, namespace: infra}}\nspec: {{gatewayClassName: naka, listeners: [{listeners}]}}\n---\n"
    )
}

fn route(name: &str, hosts: &str, rules: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {name}, namespace: infra}}\nspec:\n  parentRefs: [{{name: gw}}]\n  hostnames: [{hosts}]\n  rules: [{rules}]\n---\n"
    )
}

const HTTP: &str = "{name: http, port: 80, protocol: HTTP}";

fn prefix(path: &str, backend: &str) -> String {
    format!("{{matches: [{{path: {{type: PathPrefix, value: {path}}}}}], {}}}", to(backend))
}

fn exact(path: &str, backend: &str) -> String {
    format!("{{matches: [{{path: {{type: Exact, value: {path}}}}}], {}}}", to(backend))
}

fn to(backend: &str) -> String {
    format!("backendRefs: [{{name: {backend}, port: 80}}]")
}

/// Filters of a rule for a prefix.
fn filtered(path: &str, filters: &str, backend: &str) -> String {
    let backends = if backend.is_empty() { String::new() } else { format!(", {}", to(backend)) };
    format!("{{matches: [{{path: {{type: PathPrefix, value: {path}}}}}], filters: [{filters}]{backends}}}")
}

async fn holds(case: &str, yaml: &str, asked: &[Asked<'_>]) -> Running {
    let imported = imported(Api::GatewayApi, yaml, &with_endpoints(&BACKENDS));
    let running = Running::new(&imported.text, &BACKENDS);
    for (line, headers, expected) in asked {
        let answer = running.ask(80, request(line, headers)).await;
        let told = format!("{case}: {line} {headers:?}\n{}", imported.text);
        match expected {
            Backend(name) => assert_eq!(answer.body(), name, "{told}"),
            Status(status) => assert_eq!(answer.status(), *status, "{told}"),
            To(status, location) => {
                assert_eq!(answer.status(), *status, "{told}");
                assert_eq!(answer.headers()["location"], *location, "{told}");
            }
        }
    }
    running
}

#[tokio::test(start_paused = true)]
async fn http_route_simple_same_namespace() {
    holds(
        "HTTPRouteSimpleSameNamespace",
        &(gateway(HTTP) + &route("r", "", &format!("{{{}}}", to("v1")))),
        &[("GET http://a.example/", &[], Backend("v1")), ("POST http://b.example/any", &[], Backend("v1"))],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn http_route_exact_path_matching() {
    let yaml = gateway(HTTP) + &route("r", "", &[exact("/one", "v1"), exact("/two", "v2")].join(", "));
    holds(
        "HTTPRouteExactPathMatching",
        &yaml,
        &[
            ("GET http://a/one", &[], Backend("v1")),
            ("GET http://a/two", &[], Backend("v2")),
            ("GET http://a/", &[], Status(404)),
            ("GET http://a/one/example", &[], Status(404)),
            ("GET http://a/two/", &[], Status(404)),
            ("GET http://a/Two", &[], Status(404)),
        ],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn http_route_path_match_order() {
    let rules = [
        prefix("/match/", "v3"),
        exact("/match", "v1"),
        exact("/match/exact", "v2"),
        exact("/match/exact/one", "v3"),
        prefix("/match/prefix/", "v1"),
        prefix("/match/prefix/one", "v2"),
    ];
    holds(
        "HTTPRoutePathMatchOrder",
        &(gateway(HTTP) + &route("r", "", &rules.join(", "))),
        &[
            ("GET http://a/match/exact/one", &[], Backend("v3")),
            ("GET http://a/match/exact", &[], Backend("v2")),
            ("GET http://a/match", &[], Backend("v1")),
            ("GET http://a/match/prefix/one/any", &[], Backend("v2")),
            ("GET http://a/match/prefix/any", &[], Backend("v1")),
            ("GET http://a/match/any", &[], Backend("v3")),
        ],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn http_route_matching() {
    let rules = "{matches: [{path: {type: PathPrefix, value: /}}, {headers: [{name: version, value: one}]}], backendRefs: [{name: v1, port: 80}]},
      {matches: [{path: {type: PathPrefix, value: /v2}}, {headers: [{name: version, value: two}]}], backendRefs: [{name: v2, port: 80}]}";
    holds(
        "HTTPRouteMatching",
        &(gateway(HTTP) + &route("r", "", rules)),
        &[
            ("GET http://a/", &[], Backend("v1")),
            ("GET http://a/example", &[], Backend("v1")),
            ("GET http://a/", &[("version", "one")], Backend("v1")),
            ("GET http://a/v2", &[], Backend("v2")),
            ("GET http://a/v2/example", &[], Backend("v2")),
            ("GET http://a/", &[("version", "two")], Backend("v2")),
            ("GET http://a/v2/", &[], Backend("v2")),
            ("GET http://a/v2example", &[], Backend("v1")),
            ("GET http://a/foo/v2/example", &[], Backend("v1")),
        ],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn http_route_matching_across_routes() {
    let one = "{matches: [{path: {type: PathPrefix, value: /}}, {headers: [{name: version, value: one}]}], backendRefs: [{name: v1, port: 80}]}";
    let two = "{matches: [{path: {type: PathPrefix, value: /v2}}, {headers: [{name: version, value: two}]}], backendRefs: [{name: v2, port: 80}]}";
    let yaml = gateway(HTTP)
        + &route("part1", "example.com, example.net", one)
        + &route("part2", "example.com", two);
    holds(
        "HTTPRouteMatchingAcrossRoutes",
        &yaml,
        &[
            ("GET http://example.com/", &[], Backend("v1")),
            ("GET http://example.com/example", &[], Backend("v1")),
            ("GET http://example.net/example", &[], Backend("v1")),
            ("GET http://example.com/example", &[("version", "one")], Backend("v1")),
            ("GET http://example.com/v2", &[], Backend("v2")),
            // The second route is not for this host.
            ("GET http://example.net/v2", &[], Backend("v1")),
            ("GET http://example.com/v2/example", &[], Backend("v2")),
            ("GET http://example.com/", &[("version", "two")], Backend("v2")),
            ("GET http://example.org/", &[], Status(404)),
        ],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn http_route_method_matching() {
    let rules = "{matches: [{method: POST}], backendRefs: [{name: v1, port: 80}]},
      {matches: [{method: GET}], backendRefs: [{name: v2, port: 80}]},
      {matches: [{path: {type: PathPrefix, value: /path1}, method: GET}], backendRefs: [{name: v1, port: 80}]},
      {matches: [{headers: [{name: version, value: one}], method: PUT}], backendRefs: [{name: v2, port: 80}]},
      {matches: [{path: {type: PathPrefix, value: /path2}, headers: [{name: version, value: two}], method: POST}], backendRefs: [{name: v3, port: 80}]},
      {matches: [{path: {type: PathPrefix, value: /path3}, method: PATCH}, {path: {type: PathPrefix, value: /path4}, headers: [{name: version, value: three}], method: DELETE}], backendRefs: [{name: v1, port: 80}]},
      {matches: [{path: {type: PathPrefix, value: /path5}}], backendRefs: [{name: v1, port: 80}]},
      {matches: [{method: PATCH}], backendRefs: [{name: v2, port: 80}]},
      {matches: [{headers: [{name: version, value: four}]}], backendRefs: [{name: v3, port: 80}]}";
    let yaml = gateway(HTTP) + &route("r", "", rules);
    let report = imported(Api::GatewayApi, &yaml, &with_endpoints(&BACKENDS));
    let changed = found(&report, Level::Changed);
    let told = changed.iter().filter(|(_, message)| message.contains("a match for GET is one for HEAD"));
    assert_eq!(told.count(), 2, "{}", report.report);
    holds(
        "HTTPRouteMethodMatching",
        &yaml,
        &[
            ("POST http://a/", &[], Backend("v1")),
            ("GET http://a/", &[], Backend("v2")),
            // Two that the suite answers with 404: who answers GET answers HEAD.
            ("HEAD http://a/", &[], Status(200)),
            ("HEAD http://a/path1", &[], Status(200)),
            ("GET http://a/path1", &[], Backend("v1")),
            ("PUT http://a/", &[("version", "one")], Backend("v2")),
            ("POST http://a/path2", &[("version", "two")], Backend("v3")),
            ("PATCH http://a/path3", &[], Backend("v1")),
            ("DELETE http://a/path4", &[("version", "three")], Backend("v1")),
            ("PUT http://a/", &[], Status(405)),
            ("DELETE http://a/path4", &[], Status(405)),
            ("PATCH http://a/path5", &[], Backend("v1")),
            ("PATCH http://a/", &[("version", "four")], Backend("v2")),
        ],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn http_route_header_matching() {
    let rule = |headers: &[&[(&str, &str)]], backend: &str| {
        let one = |pairs: &&[(&str, &str)]| {
            let pairs = pairs.iter().map(|(name, value)| format!("{{name: {name}, value: {value}}}"));
            format!("{{headers: [{}]}}", pairs.collect::<Vec<_>>().join(", "))
        };
        format!("{{matches: [{}], {}}}", headers.iter().map(one).collect::<Vec<_>>().join(", "), to(backend))
    };
    let rules = [
        rule(&[&[("version", "one")]], "v1"),
        rule(&[&[("version", "two")]], "v2"),
        rule(&[&[("version", "two"), ("color", "orange")]], "v1"),
        rule(&[&[("color", "blue")], &[("color", "green")]], "v1"),
        rule(&[&[("color", "red")], &[("color", "yellow")]], "v2"),
    ];
    holds(
        "HTTPRouteHeaderMatching",
        &(gateway(HTTP) + &route("r", "", &rules.join(", "))),
        &[
            ("GET http://a/", &[("version", "one")], Backend("v1")),
            ("GET http://a/", &[("version", "two")], Backend("v2")),
            ("GET http://a/", &[("version", "two"), ("color", "orange")], Backend("v1")),
            // Of equal rank, so the earlier rule.
            ("GET http://a/", &[("version", "two"), ("color", "blue")], Backend("v2")),
            ("GET http://a/", &[("color", "orange")], Status(404)),
            ("GET http://a/", &[("some-other-header", "one")], Status(404)),
            ("GET http://a/", &[("color", "blue")], Backend("v1")),
            ("GET http://a/", &[("color", "green")], Backend("v1")),
            ("GET http://a/", &[("color", "red")], Backend("v2")),
            ("GET http://a/", &[("color", "yellow")], Backend("v2")),
            ("GET http://a/", &[("color", "purple")], Status(404)),
        ],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn http_route_query_param_matching() {
    let rules = "{matches: [{queryParams: [{name: animal, value: whale}]}], backendRefs: [{name: v1, port: 80}]},
      {matches: [{queryParams: [{name: animal, value: dolphin}]}], backendRefs: [{name: v2, port: 80}]},
      {matches: [{queryParams: [{name: animal, value: dolphin}, {name: color, value: blue}]}, {queryParams: [{name: ANIMAL, value: Whale}]}], backendRefs: [{name: v3, port: 80}]},
      {matches: [{path: {type: PathPrefix, value: /path1}, queryParams: [{name: animal, value: whale}]}], backendRefs: [{name: v1, port: 80}]},
      {matches: [{headers: [{name: version, value: one}], queryParams: [{name: animal, value: whale}]}], backendRefs: [{name: v2, port: 80}]},
      {matches: [{path: {type: PathPrefix, value: /path5}}], backendRefs: [{name: v1, port: 80}]},
      {matches: [{queryParams: [{name: animal, value: hydra}]}], backendRefs: [{name: v2, port: 80}]},
      {matches: [{headers: [{name: version, value: four}]}], backendRefs: [{name: v3, port: 80}]}";
    holds(
        "HTTPRouteQueryParamMatching",
        &(gateway(HTTP) + &route("r", "", rules)),
        &[
            ("GET http://a/?animal=whale", &[], Backend("v1")),
            ("GET http://a/?animal=dolphin", &[], Backend("v2")),
            ("GET http://a/?animal=dolphin&color=blue", &[], Backend("v3")),
            ("GET http://a/?ANIMAL=Whale", &[], Backend("v3")),
            ("GET http://a/?animal=whale&otherparam=irrelevant", &[], Backend("v1")),
            ("GET http://a/?animal=dolphin&color=yellow", &[], Backend("v2")),
            ("GET http://a/?color=blue", &[], Status(404)),
            ("GET http://a/?animal=whaledolphin", &[], Status(404)),
            ("GET http://a/", &[], Status(404)),
            ("GET http://a/path1?animal=whale", &[], Backend("v1")),
            ("GET http://a/?animal=whale", &[("version", "one")], Backend("v2")),
            ("GET http://a/path5?animal=hydra", &[], Backend("v1")),
            ("GET http://a/?animal=hydra", &[("version", "four")], Backend("v3")),
        ],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn http_route_listener_hostname_matching_and_isolation() {
    let listeners = "{name: l1, port: 80, protocol: HTTP, hostname: bar.com}, {name: l2, port: 80, protocol: HTTP, hostname: foo.bar.com}, {name: l3, port: 80, protocol: HTTP, hostname: '*.bar.com'}, {name: l4, port: 80, protocol: HTTP, hostname: '*.foo.com'}";
    let bound = |name: &str, sections: &[&str], rules: &str| {
        let parents = sections.iter().map(|section| format!("{{name: gw, sectionName: {section}}}"));
        route(name, "", rules)
            .replace("[{name: gw}]", &format!("[{}]", parents.collect::<Vec<_>>().join(", ")))
    };
    let yaml = gateway(listeners)
        + &bound("b1", &["l1"], &format!("{{{}}}", to("v1")))
        + &bound("b2", &["l2"], &prefix("/two", "v2"))
        + &bound("b3", &["l3", "l4"], &format!("{{{}}}", to("v3")));
    holds(
        "HTTPRouteListenerHostnameMatching",
        &yaml,
        &[
            ("GET http://bar.com/", &[], Backend("v1")),
            ("GET http://foo.bar.com/two", &[], Backend("v2")),
            ("GET http://baz.bar.com/", &[], Backend("v3")),
            ("GET http://multiple.prefixes.bar.com/", &[], Backend("v3")),
            ("GET http://multiple.prefixes.foo.com/", &[], Backend("v3")),
            ("GET http://foo.com/", &[], Status(404)),
            ("GET http://no.matching.host/", &[], Status(404)),
            // GatewayHTTPListenerIsolation: what its own listener leaves, no other one takes.
            ("GET http://foo.bar.com/other", &[], Status(404)),
        ],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn http_route_hostname_intersection() {
    let listeners = "{name: l1, port: 80, protocol: HTTP, hostname: very.specific.com}, {name: l2, port: 80, protocol: HTTP, hostname: '*.wildcard.io'}";
    let yaml = gateway(listeners)
        + &route(
            "s1",
            "non.matching.com, '*.nonmatchingwildcard.io', very.specific.com",
            &prefix("/s1", "v1"),
        )
        + &route("s2", "wildcard.io, foo.wildcard.io, foo.bar.wildcard.io", &prefix("/s2", "v2"))
        + &route("s3", "'*.specific.com'", &prefix("/s3", "v3"));
    let imported = imported(
        Api::GatewayApi,
        &(yaml.clone() + &route("s5", "specific.but.wrong.com, wildcard.io", &prefix("/s5", "v2"))),
        &with_endpoints(&BACKENDS),
    );
    let errors = found(&imported, Level::Error);
    assert!(
        errors
            .iter()
            .any(|(_, message)| message.contains("no listener of the Gateway `infra/gw` takes this route")),
        "{errors:?}"
    );
    holds(
        "HTTPRouteHostnameIntersection",
        &yaml,
        &[
            ("GET http://very.specific.com/s1", &[], Backend("v1")),
            ("GET http://non.matching.com/s1", &[], Status(404)),
            ("GET http://foo.nonmatchingwildcard.io/s1", &[], Status(404)),
            ("GET http://foo.wildcard.io/s2", &[], Backend("v2")),
            ("GET http://foo.bar.wildcard.io/s2", &[], Backend("v2")),
            ("GET http://wildcard.io/s2", &[], Status(404)),
            ("GET http://bar.wildcard.io/s2", &[], Status(404)),
            ("GET http://very.specific.com/s3", &[], Backend("v3")),
            ("GET http://foo.specific.com/s3", &[], Status(404)),
            ("GET http://very.specific.com/non-matching-prefix", &[], Status(404)),
        ],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn http_route_redirects() {
    let redirect = |path: &str, what: &str| {
        filtered(path, &format!("{{type: RequestRedirect, requestRedirect: {{{what}}}}}"), "")
    };
    let replaced = |to: &str| format!("path: {{type: ReplacePrefixMatch, replacePrefixMatch: {to}}}");
    let rules = [
        // HTTPRouteRedirectHostAndStatus
        redirect("/hostname-redirect", "hostname: example.org"),
        redirect("/host-and-status", "hostname: example.org, statusCode: 301"),
        // HTTPRouteRedirectPath
        redirect("/original-prefix", &replaced("/replacement-prefix")),
        redirect("/full", "path: {type: ReplaceFullPath, replaceFullPath: /full-path-replacement}"),
        redirect("/path-and-host", &format!("hostname: example.org, {}", replaced("/replacement-prefix"))),
        redirect("/path-and-status", &format!("statusCode: 301, {}", replaced("/replacement-prefix"))),
        // HTTPRouteRedirectPort
        redirect("/port", "port: 8083"),
        redirect("/port-and-host", "port: 8083, hostname: example.org"),
        redirect("/port-and-status", "port: 8083, statusCode: 301"),
        // HTTPRouteRedirectScheme
        redirect("/scheme", "scheme: https"),
        redirect("/scheme-and-host", "scheme: https, hostname: example.org"),
        // HTTPRouteRedirectPortAndScheme
        redirect("/scheme-nil-and-port-80", "hostname: example.org, port: 80"),
        redirect("/scheme-https-and-port-443", "hostname: example.org, scheme: https, port: 443"),
        redirect("/scheme-https-and-port-8443", "hostname: example.org, scheme: https, port: 8443"),
        // HTTPRoute303Redirect, HTTPRoute307Redirect, HTTPRoute308Redirect
        redirect("/303", "hostname: example.org, statusCode: 303"),
        redirect("/307", "hostname: example.org, statusCode: 307"),
        redirect("/308", "hostname: example.org, statusCode: 308"),
    ];
    holds(
        "HTTPRouteRedirect…",
        &(gateway(HTTP) + &route("r", "", &rules.join(", "))),
        &[
            ("GET http://a/hostname-redirect", &[], To(302, "http://example.org/hostname-redirect")),
            ("GET http://a/host-and-status", &[], To(301, "http://example.org/host-and-status")),
            ("GET http://a/original-prefix/lemon", &[], To(302, "/replacement-prefix/lemon")),
            ("GET http://a/original-prefix", &[], To(302, "/replacement-prefix")),
            ("GET http://a/full/path/original", &[], To(302, "/full-path-replacement")),
            ("GET http://a/path-and-host", &[], To(302, "http://example.org/replacement-prefix")),
            ("GET http://a/path-and-status", &[], To(301, "/replacement-prefix")),
            ("GET http://a/port", &[], To(302, "http://a:8083/port")),
            ("GET http://a/port-and-host", &[], To(302, "http://example.org:8083/port-and-host")),
            ("GET http://a/port-and-status", &[], To(301, "http://a:8083/port-and-status")),
            ("GET http://a/scheme", &[], To(302, "https://a/scheme")),
            ("GET http://a/scheme-and-host", &[], To(302, "https://example.org/scheme-and-host")),
            (
                "GET http://a/scheme-nil-and-port-80",
                &[],
                To(302, "http://example.org:80/scheme-nil-and-port-80"),
            ),
            (
                "GET http://a/scheme-https-and-port-443",
                &[],
                To(302, "https://example.org/scheme-https-and-port-443"),
            ),
            (
                "GET http://a/scheme-https-and-port-8443",
                &[],
                To(302, "https://example.org:8443/scheme-https-and-port-8443"),
            ),
            ("GET http://a/303", &[], To(303, "http://example.org/303")),
            ("GET http://a/307", &[], To(307, "http://example.org/307")),
            ("GET http://a/308", &[], To(308, "http://example.org/308")),
        ],
    )
    .await;
}

/// Where scheme and port are not said, another host is asked at the port of the listener.
#[tokio::test(start_paused = true)]
async fn http_route_redirect_port_and_scheme_at_another_port() {
    let rules = filtered("/nil", "{type: RequestRedirect, requestRedirect: {hostname: example.org}}", "");
    let yaml = gateway("{name: http, port: 8080, protocol: HTTP}") + &route("r", "", &rules);
    let imported = imported(Api::GatewayApi, &yaml, &with_endpoints(&[]));
    let running = Running::new(&imported.text, &[]);
    let answer = running.ask(8080, request("GET http://a/nil", &[])).await;
    assert_eq!(answer.headers()["location"], "http://example.org:8080/nil", "{}", imported.text);
}

#[tokio::test(start_paused = true)]
async fn http_route_rewrite_path_and_host_and_headers() {
    let rewrite = |path: &str, change: &str, backend: &str| {
        filtered(path, &format!("{{type: URLRewrite, urlRewrite: {{{change}}}}}"), backend)
    };
    let modify = "{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-Header-Set, value: set-overwrites-values}], add: [{name: X-Header-Add, value: header-val-1}, {name: X-Header-Add-Append, value: header-val-2}], remove: [X-Header-Remove]}}";
    let rules = [
        rewrite("/prefix/one", "path: {type: ReplacePrefixMatch, replacePrefixMatch: /one}", "v1"),
        rewrite("/strip-prefix", "path: {type: ReplacePrefixMatch, replacePrefixMatch: /}", "v1"),
        rewrite("/full/one", "path: {type: ReplaceFullPath, replaceFullPath: /one}", "v1"),
        filtered(
            "/prefix/rewrite-path-and-modify-headers",
            &format!(
                "{{type: URLRewrite, urlRewrite: {{path: {{type: ReplacePrefixMatch, replacePrefixMatch: /prefix}}}}}}, {modify}"
            ),
            "v1",
        ),
        rewrite("/host", "hostname: one.example.org", "v1"),
        filtered(
            "/answered",
            "{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: X-Header-Set, value: set-overwrites-values}], remove: [X-Header-Remove]}}",
            "v2",
        ),
    ];
    let running =
        holds("HTTPRouteRewritePath", &(gateway(HTTP) + &route("r", "", &rules.join(", "))), &[]).await;
    for (asked, seen) in [
        ("/prefix/one/two", "/one/two"),
        ("/prefix/one", "/one"),
        ("/strip-prefix/three", "/three"),
        ("/strip-prefix", "/"),
        ("/full/one/two", "/one"),
        ("/prefix/rewrite-path-and-modify-headers/one", "/prefix/one"),
    ] {
        running.ask(80, request(&format!("GET http://a{asked}"), &[])).await;
        assert_eq!(running.server("v1").last().target(), seen, "{asked}");
    }
    // HTTPRouteRequestHeaderModifier
    let sent = [
        ("X-Header-Set", "some-other-value"),
        ("X-Header-Add-Append", "append-val-1"),
        ("X-Header-Remove", "remove-val"),
    ];
    running.ask(80, request("GET http://a/prefix/rewrite-path-and-modify-headers", &sent)).await;
    let seen = running.server("v1").last();
    let all = |name: &str| {
        seen.headers.iter().filter(|(it, _)| it == name).map(|(_, value)| value.clone()).collect::<Vec<_>>()
    };
    assert_eq!(all("x-header-set"), ["set-overwrites-values"]);
    assert_eq!(all("x-header-add"), ["header-val-1"]);
    assert_eq!(all("x-header-add-append"), ["append-val-1", "header-val-2"]);
    assert!(all("x-header-remove").is_empty());
    // HTTPRouteRewriteHost
    running.ask(80, request("GET http://rewrite.example/host", &[])).await;
    assert_eq!(running.server("v1").last().header("host"), Some("one.example.org"));
    // HTTPRouteResponseHeaderModifier
    let answer = running.ask(80, request("GET http://a/answered", &[])).await;
    assert_eq!(answer.headers()["x-header-set"], "set-overwrites-values");
}

#[tokio::test(start_paused = true)]
async fn http_route_request_mirror() {
    let rule =
        filtered("/mirror", "{type: RequestMirror, requestMirror: {backendRef: {name: v2, port: 80}}}", "v1");
    let running = holds(
        "HTTPRouteRequestMirror",
        &(gateway(HTTP) + &route("r", "", &rule)),
        &[("GET http://a/mirror", &[], Backend("v1"))],
    )
    .await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!((running.server("v1").requests(), running.server("v2").requests()), (1, 1));
    running.ask(80, request("POST http://a/mirror", &[])).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(running.server("v2").requests(), 1, "what is not safe is not done twice");
}

#[tokio::test(start_paused = true)]
async fn http_route_weight() {
    let rule = "{backendRefs: [{name: v1, port: 80, weight: 70}, {name: v2, port: 80, weight: 30}, {name: v3, port: 80, weight: 0}]}";
    let running = holds("HTTPRouteWeight", &(gateway(HTTP) + &route("r", "", rule)), &[]).await;
    for _ in 0..100 {
        running.ask(80, request("GET http://a/", &[])).await;
    }
    let shares = BACKENDS.map(|name| running.server(name).requests());
    assert_eq!(shares, [70, 30, 0]);
}

#[tokio::test(start_paused = true)]
async fn http_route_timeout_request_and_backend_request() {
    let rules = "{matches: [{path: {value: /request-timeout}}], timeouts: {request: 500ms}, backendRefs: [{name: v1, port: 80}]},
      {matches: [{path: {value: /disable-request-timeout}}], timeouts: {request: 0s}, backendRefs: [{name: v2, port: 80}]},
      {matches: [{path: {value: /backend-timeout}}], timeouts: {backendRequest: 500ms}, backendRefs: [{name: v3, port: 80}]}";
    let yaml = gateway(HTTP) + &route("r", "", rules);
    let imported = imported(Api::GatewayApi, &yaml, &with_endpoints(&BACKENDS));
    let running = Running::new(&imported.text, &[]);
    let servers = BACKENDS.map(|name| {
        Upstream::inside(&running.gateway.network, &format!("{name}:80"), |_| {
            vec![
                Step::ReadBody,
                Step::Wait(Duration::from_mins(1)),
                Step::send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"),
            ]
        })
    });
    for (path, status) in
        [("/request-timeout", 504), ("/disable-request-timeout", 200), ("/backend-timeout", 504)]
    {
        let answer = running.ask(80, request(&format!("GET http://a{path}"), &[])).await;
        assert_eq!(answer.status(), status, "{path}\n{}", imported.text);
    }
    drop(servers);
}

/// `HTTPRouteInvalidNonExistentBackendRef` is a matter of DNS here; all others are known.
#[tokio::test(start_paused = true)]
async fn http_route_invalid_backend_refs() {
    let rules = "{matches: [{path: {value: /kind}}], backendRefs: [{name: v1, port: 80, kind: Bucket, group: storage.example}]},
      {matches: [{path: {value: /elsewhere}}], backendRefs: [{name: v1, namespace: other, port: 80}]},
      {matches: [{path: {value: /granted}}], backendRefs: [{name: v2, namespace: granted, port: 80}]},
      {matches: [{path: {value: /none}}]},
      {matches: [{path: {value: /half}}], backendRefs: [{name: v1, port: 80}, {name: v3, namespace: other, port: 80}]}";
    let grant = "apiVersion: gateway.networking.k8s.io/v1beta1\nkind: ReferenceGrant\nmetadata: {name: g, namespace: granted}\nspec: {from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: infra}], to: [{group: '', kind: Service}]}\n";
    let yaml = gateway(HTTP) + &route("r", "", rules) + grant;
    let running = holds("HTTPRouteInvalidCrossNamespaceBackendRef, HTTPRouteInvalidBackendRefUnknownKind, HTTPRouteReferenceGrant", &yaml, &[
        ("GET http://a/kind", &[], Status(500)),
        ("GET http://a/elsewhere", &[], Status(500)),
        ("GET http://a/granted", &[], Backend("v2")),
        ("GET http://a/none", &[], Status(500)),
    ])
    .await;
    // HTTPRoutePartiallyInvalidViaInvalidReferenceGrant: its share is not sent to anybody else.
    let mut statuses = Vec::new();
    for _ in 0..4 {
        statuses.push(running.ask(80, request("GET http://a/half", &[])).await.status().as_u16());
    }
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 200, 503, 503]);
}

#[tokio::test(start_paused = true)]
async fn http_route_cors() {
    let rule = filtered(
        "/",
        "{type: CORS, cors: {allowOrigins: ['https://www.foo.com', 'https://*.bar.com'], allowMethods: [GET, OPTIONS], allowHeaders: [x-header-1], exposeHeaders: [x-header-3], allowCredentials: true, maxAge: 3600}}",
        "v1",
    );
    let running = holds("HTTPRouteCORS", &(gateway(HTTP) + &route("r", "", &rule)), &[]).await;
    let preflight = |origin| {
        [
            ("origin", origin),
            ("access-control-request-method", "GET"),
            ("access-control-request-headers", "x-header-1"),
        ]
    };
    let answer = running.ask(80, request("OPTIONS http://a/", &preflight("https://www.foo.com"))).await;
    assert_eq!(answer.headers()["access-control-allow-origin"], "https://www.foo.com");
    assert_eq!(answer.headers()["access-control-allow-credentials"], "true");
    assert_eq!(answer.headers()["access-control-max-age"], "3600");
    let answer = running.ask(80, request("OPTIONS http://a/", &preflight("https://other.foo.com"))).await;
    assert!(answer.headers().get("access-control-allow-origin").is_none());
}

#[test]
fn http_route_backend_protocol_h2c_and_grpc() {
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: v1, namespace: infra}\nspec: {ports: [{port: 80, appProtocol: kubernetes.io/h2c}]}\n---\n";
    let yaml = gateway(HTTP) + service + &route("r", "", &format!("{{{}}}", to("v1")));
    let text = imported(Api::GatewayApi, &yaml, &with_endpoints(&BACKENDS)).text;
    assert!(text.contains("    protocol: h2\n"), "HTTPRouteBackendProtocolH2C: {text}");
    let grpc = "apiVersion: gateway.networking.k8s.io/v1\nkind: GRPCRoute\nmetadata: {name: g, namespace: infra}\nspec:\n  parentRefs: [{name: gw}]\n  rules:\n  - {matches: [{method: {service: shop.Cart, method: Add}}], backendRefs: [{name: v1, port: 80}]}\n  - {matches: [{method: {service: shop.Cart}}], backendRefs: [{name: v2, port: 80}]}\n  - {matches: [{method: {method: Watch}}, {headers: [{name: version, value: one}]}], backendRefs: [{name: v3, port: 80}]}\n";
    let text = imported(Api::GatewayApi, &(gateway(HTTP) + grpc), &with_endpoints(&BACKENDS)).text;
    for words in [
        "protocols: [h1, h2c]",
        "path: /shop.Cart/Add",
        "path: \"/shop.Cart/{rest...}\"",
        "path: \"/{p1}/Watch\"",
        "protocol: h2",
    ] {
        assert!(text.contains(words), "GRPCExactMethodMatching, GRPCRouteHeaderMatching: {words}\n{text}");
    }
}

#[test]
fn parents_that_do_not_fit_and_fields_that_do_not_exist_are_told_with_their_lines() {
    let yaml = gateway(
        "{name: http, port: 80, protocol: HTTP, hostnames: [a]}, {name: tcp, port: 81, protocol: TCP}",
    ) + &route("r", "", &prefix("/", "v1").replace("backendRefs", "timeout: 5s, backendRefs"))
        .replace("[{name: gw}]", "[{name: gw, port: 82}]");
    let imported = imported(Api::GatewayApi, &yaml, &with_endpoints(&BACKENDS));
    let errors = found(&imported, Level::Error);
    for (line, words) in [
        (4, "`spec.listeners[0].hostnames` is no field"),
        (10, "no listener of the Gateway `infra/gw` takes this route"),
        (12, "`spec.rules[0].timeout` is no field"),
    ] {
        assert!(
            errors.iter().any(|(at, message)| *at == line && message.contains(words)),
            "{line} {words}: {errors:?}"
        );
    }
    assert!(
        found(&imported, Level::LeftOut)
            .iter()
            .any(|(line, message)| *line == 4 && message.contains("`TCP` is not spoken"))
    );
}
