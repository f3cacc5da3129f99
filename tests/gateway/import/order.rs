//! Random rules in the order of the API they come from, and random requests: a small reading of each API's rule, and the
//! gateway's own table made of what was imported, choose the same destination.

use std::{cmp::Reverse, collections::BTreeSet, fmt::Write as _, sync::Arc};

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use naka_gateway::{
    config::{checked::Destination, parse_str},
    import::{Api, Level, Options},
    route::{Found, Query, Table},
};
use proptest::prelude::*;

use super::imported;

#[derive(Clone, Debug, PartialEq)]
enum Path {
    Exact(String),
    Prefix(String),
    None,
}

#[derive(Clone, Debug)]
struct Case {
    path: Path,
    method: Option<&'static str>,
    /// A value, or any.
    headers: Vec<(&'static str, Option<&'static str>)>,
    query: Vec<(&'static str, &'static str)>,
}

#[derive(Clone, Debug)]
struct Asked {
    method: &'static str,
    path: String,
    headers: Vec<(&'static str, &'static str)>,
    query: Vec<(&'static str, &'static str)>,
}

fn any_case(present: bool) -> impl Strategy<Value = Case> {
    let path = prop_oneof![
        3 => "(/[ab]){1,2}/?".prop_map(Path::Exact),
        4 => "(/[ab]){1,2}/?".prop_map(Path::Prefix),
        1 => Just(Path::Prefix("/".into())),
        2 => Just(Path::None),
    ];
    let value = prop_oneof![3 => Just(Some("1")), 2 => Just(Some("2")), 1 => Just(None)];
    let value = value.prop_map(move |it| if present { it } else { it.or(Some("1")) });
    let headers = prop::collection::vec((prop::sample::select(vec!["x", "y"]), value), 0..3);
    let query = prop::collection::vec(
        (prop::sample::select(vec!["p", "q"]), prop::sample::select(vec!["1", "2"])),
        0..2,
    );
    let method = prop::option::of(prop::sample::select(vec!["GET", "POST"]));
    (path, method, headers, query).prop_map(|(path, method, mut headers, query)| {
        let mut seen = BTreeSet::new();
        headers.retain(|(name, _)| seen.insert(*name));
        Case { path, method, headers, query }
    })
}

fn any_request() -> impl Strategy<Value = Asked> {
    let pairs = |names: Vec<&'static str>| {
        prop::collection::vec((prop::sample::select(names), prop::sample::select(vec!["1", "2"])), 0..3)
            .prop_map(|mut all| {
                let mut seen = BTreeSet::new();
                all.retain(|(name, _)| seen.insert(*name));
                all
            })
    };
    (
        prop::sample::select(vec!["GET", "POST", "PUT"]),
        "(/[abc]){1,3}/?|/",
        pairs(vec!["x", "y"]),
        pairs(vec!["p", "q"]),
    )
        .prop_map(|(method, path, headers, query)| Asked { method, path, headers, query })
}

impl Case {
    /// `is_strict`: `/a/` is what is below `/a`, as Istio reads it, and not `/a` itself.
    fn takes(&self, asked: &Asked, is_strict: bool) -> bool {
        let path = match &self.path {
            Path::Exact(path) => *path == asked.path,
            Path::Prefix(prefix) if is_strict && prefix.len() > 1 && prefix.ends_with('/') => {
                asked.path.starts_with(prefix.as_str())
            }
            Path::Prefix(prefix) => {
                let prefix = prefix.trim_end_matches('/');
                asked.path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
            Path::None => true,
        };
        let has = |(name, value): &(&str, Option<&str>)| {
            asked.headers.iter().any(|(it, is)| it == name && value.is_none_or(|value| value == *is))
        };
        path && self.method.is_none_or(|it| it == asked.method)
            && self.headers.iter().all(has)
            && self.query.iter().all(|wanted| asked.query.contains(wanted))
    }
}

/// The upstream that the gateway's own table finds.
fn found(text: &str, asked: &[Asked]) -> Vec<Option<String>> {
    let (config, _) = parse_str("imported", text).unwrap_or_else(|wrong| panic!("{wrong}\n{text}"));
    let routes =
        || config.routes.iter().map(|(name, route)| (Arc::clone(name), &route.matches, route.priority));
    let table = Table::compile(routes()).unwrap_or_else(|wrong| panic!("{wrong:?}\n{text}"));
    let names: Vec<_> = config.routes.keys().collect();
    let one = |asked: &Asked| {
        let mut headers = HeaderMap::new();
        for (name, value) in &asked.headers {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let query =
            asked.query.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&");
        let method: Method = asked.method.parse().unwrap();
        let question = Query {
            method: &method,
            host: "a.example",
            path: &asked.path,
            query: Some(&query),
            headers: &headers,
        };
        match table.find(&question, &mut ()) {
            Found::Route { index, .. } => match &config.routes[names[index]].destination {
                Destination::Upstream(name) => Some(name.to_string()),
                other => panic!("{other:?}"),
            },
            _ => None,
        }
    };
    asked.iter().map(one).collect()
}

fn istio(cases: &[Case]) -> String {
    let rule = |(number, case): (usize, &Case)| {
        let mut parts = Vec::new();
        match &case.path {
            Path::Exact(path) => parts.push(format!("uri: {{exact: {path}}}")),
            Path::Prefix(path) => parts.push(format!("uri: {{prefix: {path}}}")),
            Path::None => {}
        }
        parts.extend(case.method.map(|method| format!("method: {{exact: {method}}}")));
        let header = |(name, value): &(&str, Option<&str>)| {
            value.map_or_else(|| format!("{name}: {{}}"), |value| format!("{name}: {{exact: '{value}'}}"))
        };
        if !case.headers.is_empty() {
            parts.push(format!(
                "headers: {{{}}}",
                case.headers.iter().map(header).collect::<Vec<_>>().join(", ")
            ));
        }
        if !case.query.is_empty() {
            let query = case.query.iter().map(|(name, value)| format!("{name}: {{exact: '{value}'}}"));
            parts.push(format!("queryParams: {{{}}}", query.collect::<Vec<_>>().join(", ")));
        }
        format!(
            "  - {{match: [{{{}}}], route: [{{destination: {{host: d{number}, port: {{number: 80}}}}}}]}}\n",
            parts.join(", ")
        )
    };
    let rules = cases.iter().enumerate().map(rule).collect::<String>();
    format!(
        "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{name: g}}\nspec: {{servers: [{{port: {{number: 80, name: http, protocol: HTTP}}, hosts: ['*']}}]}}\n---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: v}}\nspec:\n  hosts: ['*']\n  gateways: [g]\n  http:\n{rules}"
    )
}

/// Two routes, the second one older.
fn gateway_api(routes: &[Vec<Case>; 2]) -> String {
    let one = |case: &Case| {
        let mut parts = Vec::new();
        match &case.path {
            Path::Exact(path) => parts.push(format!("path: {{type: Exact, value: {path}}}")),
            Path::Prefix(path) => parts.push(format!("path: {{type: PathPrefix, value: {path}}}")),
            Path::None => {}
        }
        parts.extend(case.method.map(|method| format!("method: {method}")));
        let pair = |name: &str, value: &str| format!("{{name: {name}, value: '{value}'}}");
        let headers = case.headers.iter().map(|(name, value)| pair(name, value.unwrap()));
        parts.push(format!("headers: [{}]", headers.collect::<Vec<_>>().join(", ")));
        let query = case.query.iter().map(|(name, value)| pair(name, value));
        parts.push(format!("queryParams: [{}]", query.collect::<Vec<_>>().join(", ")));
        format!("{{{}}}", parts.join(", "))
    };
    let mut text = "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: g}\nspec: {gatewayClassName: naka, listeners: [{name: l, port: 80, protocol: HTTP}]}\n".to_owned();
    for (number, (cases, made)) in
        routes.iter().zip(["2026-02-01T00:00:00Z", "2026-01-01T00:00:00Z"]).enumerate()
    {
        let _ = write!(
            text,
            "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: r{number}, creationTimestamp: '{made}'}}\nspec:\n  parentRefs: [{{name: g}}]\n  rules:\n"
        );
        for (place, case) in cases.iter().enumerate() {
            let _ = writeln!(
                text,
                "  - {{matches: [{}], backendRefs: [{{name: d{number}-{place}, port: 80}}]}}",
                one(case)
            );
        }
    }
    text
}

/// What the API says of matches: a whole path, a longer prefix, a method, more headers, more parameters, the older route, the
/// earlier rule.
fn api_order(case: &Case, route: usize, place: usize) -> impl Ord + use<> {
    let (is_prefix, chars) = match &case.path {
        Path::Exact(path) => (false, path.len()),
        Path::Prefix(path) => (true, path.len()),
        Path::None => (true, 1),
    };
    (
        is_prefix,
        Reverse(chars),
        case.method.is_none(),
        Reverse(case.headers.len()),
        Reverse(case.query.len()),
        Reverse(route),
        place,
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn istio_s_first_rule_is_the_one_that_is_found(
        cases in prop::collection::vec(any_case(true), 1..7),
        asked in prop::collection::vec(any_request(), 30),
    ) {
        let imported = imported(Api::Istio, &istio(&cases), &Options::default());
        prop_assert_eq!(imported.report.count(Level::Error), 0, "{}", imported.report);
        let expected = asked.iter().map(|asked| cases.iter().position(|case| case.takes(asked, true)).map(|at| format!("d{at}")));
        prop_assert_eq!(found(&imported.text, &asked), expected.collect::<Vec<_>>(), "{:#?}\n{}", asked, imported.text);
    }

    #[test]
    fn the_gateway_api_s_precedence_is_the_one_that_is_found(
        first in prop::collection::vec(any_case(false), 1..5),
        second in prop::collection::vec(any_case(false), 1..5),
        asked in prop::collection::vec(any_request(), 30),
    ) {
        let routes = [first, second];
        let imported = imported(Api::GatewayApi, &gateway_api(&routes), &Options::default());
        prop_assert_eq!(imported.report.count(Level::Error), 0, "{}", imported.report);
        let all = || routes.iter().enumerate().flat_map(|(route, cases)| cases.iter().enumerate().map(move |(place, case)| (route, place, case)));
        let expected = asked.iter().map(|asked| {
            let taking = all().filter(|(.., case)| case.takes(asked, false));
            let best = taking.min_by_key(|(route, place, case)| api_order(case, *route, *place));
            best.map(|(route, place, _)| format!("d{route}-{place}"))
        });
        prop_assert_eq!(found(&imported.text, &asked), expected.collect::<Vec<_>>(), "{:#?}\n{}", asked, imported.text);
    }
}
