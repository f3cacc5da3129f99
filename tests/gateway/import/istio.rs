//! Istio's resources, one by one.

use naka_gateway::import::{Api, Failure, Level, Options, import};

use super::{Running, found, imported, request, with_endpoints};

const GATEWAY: &str = "
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: g, namespace: shop}
spec: {selector: {istio: ingressgateway}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}]}
---
";

fn virtual_service(name: &str, hosts: &str, rules: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {name}, namespace: shop}}\nspec:\n  hosts: [{hosts}]\n  gateways: [g]\n  http: [{rules}]\n---\n"
    )
}

fn to(host: &str) -> String {
    format!("route: [{{destination: {{host: {host}, port: {{number: 80}}}}}}]")
}

fn policy(name: &str, action: &str, of: &str, rules: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{selector: {{matchLabels: {{app: {of}}}}}, action: {action}, rules: [{rules}]}}\n---\n"
    )
}

/// A prefix says more here than a literal reading; what the gateway makes of a message is asked of it.
#[tokio::test(start_paused = true)]
async fn the_first_rule_wins_and_what_it_leaves_is_for_nobody_else() {
    let yaml = GATEWAY.to_owned()
        + &virtual_service(
            "a",
            "a.example",
            &[
                format!("{{match: [{{headers: {{x-user: {{exact: vip}}}}}}], {}}}", to("vip")),
                format!("{{match: [{{uri: {{prefix: /api/}}}}], rewrite: {{uri: /v2/}}, {}}}", to("api")),
                format!(
                    "{{match: [{{uri: {{exact: /one}}}}, {{uri: {{regex: '/id/[0-9]+'}}}}], {}}}",
                    to("one")
                ),
            ]
            .join(", "),
        )
        + &virtual_service("all", "'*'", &format!("{{{}}}", to("all")));
    let servers = ["vip", "api", "one", "all"];
    let imported = imported(Api::Istio, &yaml, &with_endpoints(&servers));
    let running = Running::new(&imported.text, &servers);
    for (line, headers, expected) in [
        ("GET http://a.example/api/x", &[][..], (200, "api")),
        ("GET http://a.example/api", &[], (404, "")),
        ("GET http://a.example/api/x", &[("x-user", "vip")], (200, "vip")),
        ("GET http://a.example/one", &[], (200, "one")),
        ("GET http://a.example/id/7", &[], (200, "one")),
        ("GET http://a.example/id/x", &[], (404, "")),
        ("GET http://b.example/id/x", &[], (200, "all")),
    ] {
        let answer = running.ask(80, request(line, headers)).await;
        let body = if answer.status() == 200 {
            String::from_utf8_lossy(answer.body()).into_owned()
        } else {
            String::new()
        };
        assert_eq!((answer.status().as_u16(), &*body), expected, "{line} {headers:?}\n{}", imported.text);
    }
    assert_eq!(running.server("api").last().target(), "/v2/x");
}

#[test]
fn what_is_done_with_a_request_is_carried_over() {
    let rule = format!(
        "{{match: [{{uri: {{prefix: /}}, headers: {{x-chaos: {{exact: monday}}}}}}], timeout: 5s, retries: {{attempts: 2, perTryTimeout: 1s, retryOn: '5xx,connect-failure'}}, fault: {{abort: {{percentage: {{value: 5}}, httpStatus: 503}}, delay: {{percentage: {{value: 0.2}}, fixedDelay: 2s}}}}, mirror: {{host: next, port: {{number: 80}}}}, mirrorPercentage: {{value: 10}}, corsPolicy: {{allowOrigins: [{{exact: 'https://app.example'}}, {{regex: '.*'}}], allowMethods: [GET], maxAge: 24h}}, headers: {{request: {{set: {{x-a: '1'}}, remove: [x-b]}}, response: {{add: {{x-forwarded-for: none}}}}}}, {}}}, {{match: [{{uri: {{prefix: /old}}}}], redirect: {{uri: /new, authority: b.example, redirectCode: 302}}}}, {{match: [{{uri: {{exact: /ok}}}}], directResponse: {{status: 200, body: {{string: fine}}}}}}",
        to("app")
    );
    let yaml = GATEWAY.to_owned() + &virtual_service("a", "a.example", &rule);
    let options = Options { faults_until: Some("2099-01-01".into()), ..with_endpoints(&["app", "next"]) };
    let imported = imported(Api::Istio, &yaml, &options);
    for words in [
        "timeouts: {total: 5s}",
        "retry: {max: 2, when: [5xx, connect_error, reset, refused_stream, response_timeout]}",
        "abort: {percent: 5%, status: 503}",
        "delay: {percent: 1%, time: 2s}",
        "mirror: {upstream: next, sample: 10%, methods: safe}",
        "cors: {origins: [\"https://app.example\"], methods: [GET], max_age: 1d}",
        "headers: {request: {set: {x-a: \"1\"}, remove: [x-b]}}",
        "redirect: {status: 302, host: b.example, path: /new}",
        "respond: {status: 200, body: fine}",
        "per_try: 1s",
    ] {
        assert!(imported.text.contains(words), "{words}\n{}", imported.text);
    }
    let left_out = found(&imported, Level::LeftOut);
    for words in ["`x-forwarded-for` is the gateway's own business", "an origin is named whole"] {
        assert!(left_out.iter().any(|(_, message)| message.contains(words)), "{words}\n{}", imported.report);
    }
    assert!(
        found(&imported, Level::Changed).iter().any(|(_, message)| message.contains("0.2 % is 1 % here"))
    );
}

/// Nobody knows an end for them, so there are none.
#[test]
fn faults_without_an_end_or_for_everybody_are_left_out() {
    let fault = "fault: {abort: {httpStatus: 503}}";
    let yaml = GATEWAY.to_owned()
        + &virtual_service(
            "a",
            "a.example",
            &format!(
                "{{match: [{{headers: {{x-chaos: {{}}}}}}], {fault}, {0}}}, {{{fault}, {0}}}",
                to("app")
            ),
        );
    let imported = imported(Api::Istio, &yaml, &with_endpoints(&["app"]));
    let left_out: Vec<_> = found(&imported, Level::LeftOut).into_iter().map(|(_, message)| message).collect();
    assert_eq!(left_out.len(), 2, "{left_out:?}");
    assert!(
        left_out[0].contains("faults have an end here") || left_out[1].contains("faults have an end here"),
        "{left_out:?}"
    );
    assert!(!imported.text.contains("fault:"), "{}", imported.text);
}

#[tokio::test(start_paused = true)]
async fn r7_1_policies_let_in_by_method_path_and_network_and_the_rest_is_kept_out() {
    let yaml = GATEWAY.to_owned()
        + &virtual_service("pay", "pay.example", &format!("{{{}}}", to("payment")))
        + &virtual_service("open", "open.example", &format!("{{{}}}", to("open")))
        + &virtual_service("shut", "shut.example", &format!("{{{}}}", to("shut")))
        + &policy(
            "allow",
            "ALLOW",
            "payment",
            "{to: [{operation: {methods: [POST], paths: [/pay, '/pay/*']}}]}, {from: [{source: {ipBlocks: [192.0.2.0/24]}}], to: [{operation: {methods: [GET]}}]}",
        )
        + &policy("deny", "DENY", "payment", "{to: [{operation: {paths: [/pay/secret]}}]}")
        + &policy("nobody", "ALLOW", "shut", "");
    let servers = ["payment", "open", "shut"];
    let imported = imported(Api::Istio, &yaml, &with_endpoints(&servers));
    let running = Running::new(&imported.text, &servers);
    for (line, status) in [
        ("POST http://pay.example/pay", 200),
        ("POST http://pay.example/pay/1", 200),
        ("POST http://pay.example/pay/secret", 403),
        ("POST http://pay.example/other", 403),
        ("GET http://pay.example/other", 200),
        ("DELETE http://pay.example/pay", 403),
        ("DELETE http://open.example/pay", 200),
        ("GET http://shut.example/", 403),
    ] {
        assert_eq!(running.ask(80, request(line, &[])).await.status(), status, "{line}\n{}", imported.text);
    }
    assert_eq!(running.server("shut").requests(), 0);
}

/// What cannot be said keeps out, and is an error.
#[tokio::test(start_paused = true)]
async fn what_of_a_policy_cannot_be_said_keeps_out() {
    let yaml = GATEWAY.to_owned()
        + &virtual_service("a", "a.example", &format!("{{{}}}", to("a")))
        + &virtual_service("b", "b.example", &format!("{{{}}}", to("b")))
        + &virtual_service("c", "c.example", &format!("{{{}}}", to("c")))
        + &policy(
            "allow",
            "ALLOW",
            "a",
            "{when: [{key: 'request.headers[x]', values: ['1']}]}, {to: [{operation: {paths: ['*.html']}}]}",
        )
        + &policy(
            "deny",
            "DENY",
            "b",
            "{from: [{source: {namespaces: [other]}}], to: [{operation: {methods: [DELETE]}}]}",
        )
        + &policy(
            "deny-not",
            "DENY",
            "c",
            "{from: [{source: {notPrincipals: [cluster.local/ns/shop/sa/ok]}}]}",
        )
        // Bug: `/adminX` begins like `/admin*`, and was let in.
        + &virtual_service("d", "d.example", &format!("{{{}}}", to("d")))
        + &virtual_service("e", "e.example", &format!("{{{}}}", to("e")))
        + &policy("deny-path", "DENY", "d", "{to: [{operation: {paths: ['/admin*'], methods: [GET]}}]}")
        + &policy("allow-path", "ALLOW", "e", "{to: [{operation: {notPaths: ['/admin*']}}]}");
    let servers = ["a", "b", "c", "d", "e"];
    let imported = imported(Api::Istio, &yaml, &with_endpoints(&servers));
    assert_eq!(imported.report.count(Level::Error), 6, "{}", imported.report);
    let running = Running::new(&imported.text, &servers);
    for (line, status) in [
        ("GET http://a.example/x.html", 403),
        ("GET http://b.example/", 200),
        ("DELETE http://b.example/", 403),
        ("GET http://c.example/", 403),
        ("GET http://d.example/adminX", 403),
        ("POST http://d.example/adminX", 200),
        ("GET http://e.example/adminX", 403),
    ] {
        assert_eq!(running.ask(80, request(line, &[])).await.status(), status, "{line}\n{}", imported.text);
    }
}

/// Also what it does without a word: five failures in a row, for 30 s, and a tenth of them at the most.
#[test]
fn outliers_are_ejected_as_they_were_and_an_empty_word_ejects_after_five() {
    for (outliers, expected) in [
        ("{}", Some("{consecutive: 5, failure_rate: never, open: 30s..5m, max_ejected: 10%}")),
        (
            "{consecutive5xxErrors: 7, maxEjectionPercent: 100}",
            Some("{consecutive: 7, failure_rate: never, open: 30s..5m, max_ejected: all}"),
        ),
        (
            "{consecutiveGatewayErrors: 3, baseEjectionTime: 10m}",
            Some("{consecutive: 3, failure_rate: never, open: 10m, statuses: [502-504], max_ejected: 10%}"),
        ),
        ("{consecutive5xxErrors: 0}", None),
    ] {
        let rule = format!(
            "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: d, namespace: shop}}\nspec: {{host: app, trafficPolicy: {{outlierDetection: {outliers}}}}}\n---\n"
        );
        let yaml =
            GATEWAY.to_owned() + &rule + &virtual_service("a", "a.example", &format!("{{{}}}", to("app")));
        let imported = imported(Api::Istio, &yaml, &with_endpoints(&["app"]));
        let breaker = imported.text.lines().find_map(|line| line.trim().strip_prefix("circuit_breaker: "));
        assert_eq!(breaker, expected, "{outliers}\n{}", imported.text);
    }
}

#[test]
fn a_match_for_get_is_one_for_head_and_that_is_told() {
    for (method, is_told) in
        [("exact: GET", true), ("regex: GET|POST", true), ("regex: GET|HEAD", false), ("exact: POST", false)]
    {
        let rule = format!("{{match: [{{method: {{{method}}}}}], {}}}", to("app"));
        let yaml = GATEWAY.to_owned() + &virtual_service("a", "a.example", &rule);
        let imported = imported(Api::Istio, &yaml, &with_endpoints(&["app"]));
        let changed = found(&imported, Level::Changed);
        let told = changed.iter().any(|(_, message)| message.contains("a match for GET is one for HEAD"));
        assert_eq!(told, is_told, "{method}\n{}", imported.report);
    }
}

#[test]
fn subsets_are_never_mixed() {
    let rule = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: d, namespace: shop}\nspec: {host: app, subsets: [{name: v1, labels: {version: v1}}, {name: v3, labels: {version: v3}}]}\n---\n";
    let subset = |name: &str| {
        format!(
            "{{match: [{{uri: {{prefix: /{name}}}}}], route: [{{destination: {{host: app, subset: {name}, port: {{number: 80}}}}}}]}}"
        )
    };
    let yaml = GATEWAY.to_owned()
        + rule
        + &virtual_service("a", "a.example", &[subset("v1"), subset("v2"), subset("v3")].join(", "));
    // Without a word where they are, nobody is asked.
    let alone = imported(Api::Istio, &yaml, &Options::default());
    assert!(!alone.text.contains("dns:"), "{}", alone.text);
    for name in ["v1", "v2", "v3"] {
        assert!(
            alone.text.contains(&format!("endpoints: {{file: endpoints/app-{name}.yaml}}")),
            "{}",
            alone.text
        );
    }
    assert!(
        found(&alone, Level::Error)
            .iter()
            .any(|(_, message)| message.contains("no DestinationRule defines the subset `v2`"))
    );
    // With labels, each has its own.
    let mapping = "app.shop: [{address: 'a:80', labels: {version: v1}}, {address: 'b:80', labels: {version: v2}}]\napp/v3: ['c:80']\nelse: ['d:80']\n";
    let options =
        Options { endpoints: Some(("endpoints.yaml".into(), mapping.into())), ..Options::default() };
    let known = imported(Api::Istio, &yaml, &options);
    assert!(known.text.contains("balance: {only: {version: v1}}"), "{}", known.text);
    assert!(known.text.contains("endpoints: [\"c:80\"]"), "{}", known.text);
    assert!(
        found(&known, Level::Error)
            .iter()
            .any(|(line, message)| *line == 3 && message.contains("nothing leads to `else`")),
        "{}",
        known.report
    );
}

#[test]
fn what_is_no_yaml_or_no_list_of_endpoints_is_refused_with_its_place() {
    let refused = |yaml: &str, endpoints: &str| {
        let options =
            Options { endpoints: Some(("endpoints.yaml".into(), endpoints.into())), ..Options::default() };
        match import(Api::Istio, &[("a.yaml".into(), yaml.into())], &options) {
            Err(Failure::Files(wrong)) => wrong.to_string(),
            other => panic!("{other:?}"),
        }
    };
    assert!(refused("kind: {{ .Values.kind }}\n", "a: ['b:80']\n").contains("a.yaml:1:"));
    assert!(refused(GATEWAY, "a: [1.2.3.4]\n").contains("endpoints.yaml:1:"));
}

#[test]
fn a_service_outside_is_reached_by_its_name_and_no_other_is() {
    let entry = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: e, namespace: shop}\nspec: {hosts: [api.razorpay.com], location: MESH_EXTERNAL, resolution: DNS, ports: [{number: 443, name: https, protocol: HTTPS}]}\n";
    let text = imported(Api::Istio, entry, &Options::default()).text;
    for words in [
        "endpoints: {dns: \"api.razorpay.com:443\"}",
        "tls: {sni: api.razorpay.com}",
        "match: {prefix: /, host: api.razorpay.com}",
    ] {
        assert!(text.contains(words), "{words}\n{text}");
    }
    assert_eq!(text.matches("match:").count(), 1, "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_token_is_looked_at_where_there_is_one_and_asked_for_where_a_policy_says_so() {
    let tokens = "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {name: id, namespace: shop}\nspec: {selector: {matchLabels: {app: app}}, jwtRules: [{issuer: 'https://id.example', jwksUri: 'https://id.example/jwks', audiences: [shop]}]}\n---\n";
    let vs = virtual_service("a", "a.example", &format!("{{{}}}", to("app")));
    let text = GATEWAY.to_owned() + tokens + &vs;
    let open = imported(Api::Istio, &text, &with_endpoints(&["app"]));
    let notes = found(&open, Level::Note);
    assert!(
        notes.iter().any(|(_, message)| message.contains("whoever brings none is let in")),
        "{}",
        open.report
    );
    assert!(open.text.contains("audiences: [shop]"), "{}", open.text);
    let running = Running::new(&open.text, &["app"]);
    assert_eq!(running.ask(80, request("GET http://a.example/", &[])).await.status(), 200, "{}", open.text);
    let wrong = running.ask(80, request("GET http://a.example/", &[("authorization", "Bearer none")])).await;
    assert_eq!((wrong.status().as_u16(), running.server("app").requests()), (401, 1));

    let rule = "{from: [{source: {requestPrincipals: ['https://id.example/*']}}], when: [{key: 'request.auth.claims[tier]', values: [plus, premium]}]}";
    let some = imported(
        Api::Istio,
        &(text.clone()
            + &policy(
                "who",
                "ALLOW",
                "app",
                &format!("{rule}, {{to: [{{operation: {{methods: [GET]}}}}]}}"),
            )),
        &with_endpoints(&["app"]),
    );
    assert!(some.text.contains("auth: optional"), "who only reads needs none: {}", some.text);
    let asked =
        imported(Api::Istio, &(text + &policy("who", "ALLOW", "app", rule)), &with_endpoints(&["app"]));
    assert!(!asked.text.contains("optional"), "{}", asked.text);
    assert!(
        asked.text.contains(
            "authorize: {all: [{claim: {iss: \"https://id.example\"}}, {claim: {tier: [plus, premium]}}]}"
        ),
        "{}",
        asked.text
    );
    let running = Running::new(&asked.text, &["app"]);
    assert_eq!(running.ask(80, request("GET http://a.example/", &[])).await.status(), 401);
    assert_eq!(running.server("app").requests(), 0);
}
