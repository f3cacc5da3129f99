//! What comes out of configurations that are right.

use std::{fmt::Write as _, time::Duration};

use naka_gateway::config::{
    Code, Severity,
    checked::{
        Config, Destination, Enforce, HostPattern, KeyPart, Kind, OnMissing, PathPattern, Pinned, PolicyKind,
        Scope, Segment, ValueMatch, Workers,
    },
    parse_str, schema,
};

fn read(text: &str) -> Config {
    match parse_str("gateway.yaml", text) {
        Ok((config, warnings)) => {
            assert!(warnings.is_empty(), "{warnings}");
            config
        }
        Err(found) => panic!("{found}"),
    }
}

const SMALLEST: &str = r#"
listeners: {web: {listen: ":8080"}}
upstreams: {app: {endpoints: ["127.0.0.1:3000"]}}
routes:    {all: {match: {prefix: /}, upstream: app}}
"#;

/// CONFIG.md §1, which must keep working for ever.
#[test]
fn the_smallest_file() {
    let config = read(SMALLEST);
    assert_eq!(config.listeners["web"].listen.tcp(), Some("0.0.0.0:8080".parse().unwrap()));
    let route = &config.routes["all"];
    assert_eq!(&*route.listeners[0], "web");
    assert!(matches!(&route.destination, Destination::Upstream(name) if &**name == "app"));
    assert!(matches!(&route.matches.path, PathPattern::Prefix(segments) if segments.is_empty()));
    assert_eq!(route.origin.to_string(), "gateway.yaml:4");
}

/// The defaults that the documentation names.
/// What stands in spans and metrics for all paths of a route.
#[test]
fn a_path_has_one_template_whatever_is_asked_for() {
    for (path, template) in [
        ("path: /", "/"),
        ("path: '/rides/{id}'", "/rides/{id}"),
        ("path: /rides/", "/rides/"),
        ("path: '/files/{rest...}'", "/files/{rest...}"),
        ("prefix: /", "/*"),
        ("prefix: '/cities/{city}'", "/cities/{city}/*"),
        (r"regex: '/orders/(?<id>\d+)'", r"/orders/(?<id>\d+)"),
    ] {
        let config = read(&SMALLEST.replace("prefix: /", path));
        assert_eq!(&*config.routes["all"].matches.path.template(), template, "{path}");
    }
}

#[test]
fn defaults() {
    let config = read(SMALLEST);
    let gateway = &config.gateway;
    assert_eq!(gateway.workers, Workers::PerCore);
    let admin = gateway.admin.as_ref().unwrap();
    assert_eq!(
        (admin.listen, &admin.socket, &admin.token),
        ("127.0.0.1:9901".parse().unwrap(), &None, &None)
    );
    assert_eq!((gateway.reload.watch, gateway.reload.run_tests, gateway.reload.strict), (true, true, false));
    assert_eq!(
        (gateway.reload.debounce, gateway.reload.max_wait),
        (Duration::from_millis(200), Duration::from_secs(1))
    );
    let limits = &gateway.limits;
    assert_eq!(
        (limits.connections, limits.header_bytes, limits.header_count, limits.uri),
        (20000, 32768, 100, 8192)
    );
    assert_eq!(
        (gateway.drain.grace, gateway.drain.deadline),
        (Duration::from_secs(5), Duration::from_secs(30))
    );
    let listener = &config.listeners["web"];
    assert_eq!((listener.request_headers, listener.idle), (Duration::from_secs(10), Duration::from_mins(1)));
    let upstream = &config.upstreams["app"];
    assert_eq!(upstream.timeouts.connect, Duration::from_secs(1));
    assert_eq!(upstream.timeouts.response_headers, Duration::from_secs(10));
    assert_eq!(upstream.timeouts.idle, Some(Duration::from_mins(5)));
    assert_eq!((upstream.keep_alive.max_idle, upstream.keep_alive.timeout), (64, Duration::from_secs(50)));
    assert_eq!(config.routes["all"].total_timeout, Some(Duration::from_secs(30)));
    assert_eq!(config.routes["all"].idle_timeout, None);
}

const SHOP: &str = r#"
gateway: {workers: 2, admin: none, trusted_proxies: [10.0.0.0/8, 192.0.2.1]}
listeners:
  public: {listen: "[::1]:8080", rate_limit: {rate: 1000/s}, bulkhead: {max: 500}}
  plain: {listen: "127.0.0.1:8081"}
policies:
  per-rider: {rate_limit: {rate: [20/m, 200/h], burst: [5, 50], key: [client_ip, "header:X-Rider", "query:r", "{ride_id}"], on_missing: reject, scope: route, max_keys: 16}}
  guard: {rate_limit: {rate: 5/m, enforce: 25%}}
  narrow: {bulkhead: {max: 3, queue: 2, max_wait: 50ms}}
upstreams:
  booking: {endpoints: [{address: "Booking.internal:80"}, "[::1]:8204"], bulkhead: {max: 9}, timeouts: {idle: never}}
groups:
  rides:
    listener: public
    host: [API.ola.example, "*.ola.example"]
    use: [guard]
    bulkhead: {max: 40}
    timeouts: {total: 10s, idle: 1m}
    headers: {request: {set: {x-a: group, x-b: group}}, response: {remove: [server]}}
    routes:
      ride:
        match: {path: "/api/rides/{ride_id}", methods: [GET], headers: {x-canary: "1"}, query: {page: {present: true}}}
        use: [per-rider, narrow]
        timeouts: {total: never}
        headers: {request: {set: {x-a: route}}}
        rewrite: {path: "/v2/{ride_id}/x", host: inner.example}
        upstream: booking
      health: {match: {path: /healthz}, auth: none, bulkhead: {max: 1}, respond: {body: ok}}
routes:
  to-https: {listener: plain, match: {prefix: /}, priority: -1, redirect: {scheme: https, status: 301}}
  old: {listener: public, match: {regex: "^/cat/(?<id>[0-9]+)$"}, rewrite: {path: "/catalog/{id}"}, upstream: booking}
tests:
  - {request: "GET https://api.ola.example/api/rides/7?page=1", with: {headers: {x-canary: "1"}, client_ip: 203.0.113.7, listener: public}, expect: {route: ride, path: /v2/7/x}}
"#;

#[test]
fn groups_are_unfolded_and_policies_add_up() {
    let config = read(SHOP);
    let ride = &config.routes["ride"];
    let limits: Vec<_> = ride.policies.all(Kind::RateLimit).iter().map(|name| &**name).collect();
    assert_eq!(limits, ["guard", "per-rider", "public/rate_limit"]);
    assert_eq!(ride.policies.one(Kind::Bulkhead).map(|name| &**name), Some("narrow"), "the closest wins");
    assert_eq!(
        config.routes["health"].policies.one(Kind::Bulkhead).map(|name| &**name),
        Some("health/bulkhead")
    );
    assert_eq!(
        config.routes["old"].policies.one(Kind::Bulkhead).map(|name| &**name),
        Some("public/bulkhead")
    );
    assert_eq!(config.routes["to-https"].policies.one(Kind::Bulkhead), None);
    assert_eq!(config.upstreams["booking"].bulkhead.as_deref(), Some("booking/bulkhead"));
    assert!(config.policies.contains_key("rides/bulkhead"));
    assert_eq!(ride.group.as_deref(), Some("rides"));
    let hosts = [HostPattern::Exact("api.ola.example".into()), HostPattern::Wildcard(".ola.example".into())];
    assert_eq!(ride.matches.hosts, hosts);
    assert_eq!((ride.total_timeout, ride.idle_timeout), (None, Some(Some(Duration::from_mins(1)))));
    let set: Vec<_> =
        ride.headers.request.set.iter().map(|(k, v)| (k.as_str(), v.to_str().unwrap())).collect();
    assert_eq!(set, [("x-b", "group"), ("x-a", "route")]);
    assert_eq!(ride.headers.response.remove, ["server"]);
    assert_eq!(ride.matches.query, [("page".into(), ValueMatch::Present)]);
    assert_eq!(config.routes["to-https"].priority, Some(-1));
    assert_eq!(config.gateway.admin, None);
    assert_eq!(config.gateway.trusted_proxies.networks.len(), 2);
    assert_eq!(&*config.upstreams["booking"].endpoints[0].address, "booking.internal:80");
    assert_eq!(config.upstreams["booking"].timeouts.idle, None);
    assert_eq!(config.tests[0].request.target, "/api/rides/7?page=1");
}

#[test]
fn policies_are_values() {
    let config = read(SHOP);
    let policy = &config.policies["per-rider"];
    assert_eq!((policy.enforce, policy.scope), (Enforce::Always, Scope::Route));
    let PolicyKind::RateLimit(limit) = &policy.kind else { panic!("{policy:?}") };
    assert_eq!(
        (limit.bursts.as_slice(), limit.on_missing, limit.max_keys),
        (&[5, 50][..], OnMissing::Reject, 16)
    );
    assert_eq!(limit.key[0], KeyPart::ClientIp);
    assert_eq!(limit.key[3], KeyPart::Capture("ride_id".into()));
    let PolicyKind::RateLimit(guard) = &config.policies["guard"].kind else { panic!() };
    assert_eq!(guard.bursts, [5], "the burst is the rate if nothing is said");
    assert_eq!(config.policies["guard"].enforce, Enforce::Percent(25));
    let PathPattern::Whole(segments) = &config.routes["ride"].matches.path else { panic!() };
    assert_eq!(segments[2], Segment::Param("ride_id".into()));
}

/// CONFIG.md §2: every key of it is known, even where nothing is built behind it.
#[test]
fn the_big_example_has_no_unknown_key() {
    let text = include_str!("design.yaml");
    let found = parse_str("tests/config/design.yaml", text).unwrap_err();
    for it in &found {
        // The example goes to upstreams that it leaves out, and so are its certificates.
        let absent = ["delivery", "legacy", "orders", "products", "products-v1", "products-v2", "users"]
            .map(|name| format!("there is no upstream `{name}`"));
        let left_out = it.code == Code::UnknownName && absent.contains(&it.message) || it.code == Code::File;
        assert!(it.code == Code::NotBuilt || it.severity == Severity::Warning || left_out, "{found}");
    }
    assert!(found.iter().filter(|it| it.code == Code::NotBuilt).count() > 3);
}

#[test]
fn a_split_is_what_it_says_in_whatever_order() {
    let split = |guard: &str, to: &str| {
        let text = format!(
            "
listeners: {{web: {{listen: ':8080'}}}}
upstreams: {{a: {{endpoints: ['127.0.0.1:1']}}, b: {{endpoints: ['127.0.0.1:2']}}}}
routes: {{all: {{match: {{prefix: /}}, split: {{to: {to}, by: [client_ip, host], pin: [{{cookie: {{r: n}}, to: b}}], guard: {guard}}}}}}}
"
        );
        let Destination::Split(split) = read(&text).routes["all"].destination.clone() else { panic!() };
        *split
    };
    let it = split("{error_rate: +0.25%}", "{b: 5, a: 95}");
    assert_eq!(it, split("{error_rate: +0.25%, min_requests: 500, window: 60s}", "{a: 95, b: 5}"));
    assert_eq!(it.to, [("a".into(), 95), ("b".into(), 5)]);
    assert_eq!(it.by, [KeyPart::ClientIp, KeyPart::Host]);
    assert_eq!(it.pins[0].who, Pinned::Cookie("r".into(), "n".into()));
    for (text, bp) in [("+1%", 100), ("+0.5%", 50), ("+0.05%", 5), ("+0%", 0), ("+100%", 10_000)] {
        let guard = split(&format!("{{error_rate: {text}}}"), "{a: 95, b: 5}").guard.unwrap();
        assert_eq!(guard.error_rate_bp, bp, "{text}");
    }
}

#[test]
fn aliases_and_merges() {
    let config = read(
        r#"
listeners: {web: {listen: ":8080"}}
upstreams:
  a: &a {endpoints: ["127.0.0.1:1"], timeouts: {connect: 2s}}
  b: {<<: *a, endpoints: ["127.0.0.1:2"]}
routes:
  a: {match: &m {prefix: /a}, upstream: a}
  b: {match: {prefix: /b}, upstream: b}
"#,
    );
    assert_eq!(config.upstreams["b"].timeouts.connect, Duration::from_secs(2));
    assert_eq!(&*config.upstreams["b"].endpoints[0].address, "127.0.0.1:2");
}

#[test]
fn an_alias_bomb_is_refused() {
    let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..12 {
        let before = format!("*a{}", level - 1);
        let _ = writeln!(text, "a{level}: &a{level} [{}]", [before.as_str(); 10].join(", "));
    }
    let found = parse_str("bomb.yaml", &text).unwrap_err();
    assert!(found.iter().any(|it| it.code == Code::TooLarge), "{found}");
}

#[test]
fn depth_is_bounded() {
    for text in ["[".repeat(5000), "a: ".repeat(5000), "- ".repeat(5000)] {
        assert!(parse_str("deep.yaml", &text).is_err());
    }
}

#[test]
fn mistakes_are_bounded() {
    let text: String =
        (0..20_000).flat_map(|n| [String::from("key"), n.to_string(), String::from(": 1\n")]).collect();
    assert!(parse_str("many.yaml", &text).unwrap_err().len() <= 1000);
}

#[test]
fn equal_texts_have_equal_hashes() {
    assert_eq!(read(SMALLEST).hash, read(SMALLEST).hash);
    assert_ne!(read(SMALLEST).hash, read(&SMALLEST.replace("8080", "8081")).hash);
}

#[test]
fn unused_things_are_warnings() {
    let text = format!("{SMALLEST}policies: {{p: {{bulkhead: {{max: 5}}}}}}\n");
    let (_, warnings) = parse_str("gateway.yaml", &text).unwrap();
    assert_eq!(warnings.len(), 1);
    assert_eq!((warnings[0].severity, warnings[0].code), (Severity::Warning, Code::Unused));
    assert!(!warnings.has_errors());
}

/// A warning that stands before the rest is checked does not condemn it.
#[test]
fn an_exposed_admin_port_is_a_warning_and_no_error() {
    let text = format!("{SMALLEST}gateway: {{admin: {{listen: ':9901'}}}}\n");
    let (config, warnings) = parse_str("gateway.yaml", &text).unwrap();
    assert_eq!(warnings.iter().map(|it| it.code).collect::<Vec<_>>(), [Code::Exposed]);
    assert_eq!(config.gateway.admin.map(|admin| admin.listen.port()), Some(9901));
}

/// Each would be a 400 for every request.
#[test]
fn templates_that_are_never_a_path_are_refused() {
    for (path, words) in [
        ("/a//b", "an empty segment"),
        ("/{id}//b", "an empty segment"),
        ("/a/../b", "stands in no normal path"),
        ("/a/%2e", "stands in no normal path"),
        ("/a%2Fb", "an encoded slash"),
        ("/new?x=1", "`?` cannot stand in a path"),
    ] {
        for change in
            [format!("redirect: {{path: '{path}'}}"), format!("rewrite: {{path: '{path}'}}, upstream: app")]
        {
            let text = format!(
                "listeners: {{web: {{listen: ':8080'}}}}\nupstreams: {{app: {{endpoints: ['127.0.0.1:3000']}}}}\n\
                 routes: {{all: {{match: {{path: '/a/{{id}}'}}, {change}}}}}\n"
            );
            let found = parse_str("gateway.yaml", &text).unwrap_err();
            assert!(found[0].message.contains(words) && found[0].help.is_some(), "{}", found.render(false));
        }
    }
}

#[test]
fn the_schema_says_what_the_reader_does() {
    let schema = schema();
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    let total = &schema["properties"]["routes"]["additionalProperties"]["properties"]["timeouts"]["properties"]
        ["total"];
    assert_eq!(total["default"], "30s");
    assert!(total["description"].as_str().unwrap().contains("last byte"), "{total}");
    let listener = &schema["properties"]["listeners"]["additionalProperties"];
    assert_eq!(schema["properties"]["version"]["default"], 1);
    assert_eq!(listener["required"], serde_json::json!(["listen"]));
    assert_eq!(listener["additionalProperties"], false);
    assert_eq!(
        schema["properties"]["gateway"]["properties"]["limits"]["properties"]["connections"]["default"],
        20000
    );
}

/// One line of megabytes, and places far from each other, are not shown whole a thousand times.
#[test]
fn messages_about_huge_files_stay_small() {
    let mut line = String::from("routes: {");
    for n in 0..40_000 {
        let _ = write!(line, "r{n}: 5, ");
    }
    line.push('}');
    let lines = line.replace(", ", ",\n  ") + "\nroutes: {}\n";
    for text in [line, lines] {
        let found = parse_str("huge.yaml", &text).unwrap_err();
        let rendered = found.render(false);
        assert!(rendered.len() < 1 << 20, "{}", rendered.len());
        assert!(rendered.contains("huge.yaml:"), "{rendered:.500}");
    }
}
