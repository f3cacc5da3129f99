//! All rules together, on small random tables, against a second reading of the manual page.

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use proptest::{collection::vec, option, prelude::*, sample::select};
use regex::Regex;

use super::{
    tests::{Request, Route, compile, path, prefix, regex},
    *,
};
use crate::config::checked::{HostPattern, PathPattern, Segment, ValueMatch};

fn routes() -> impl Strategy<Value = Vec<Route>> {
    vec(route(), 1..9)
        .prop_map(|routes| {
            let named = routes.into_iter().enumerate();
            // Distinct priorities: what they cannot decide is never left open.
            named
                .map(|(n, route)| {
                    Route { name: format!("r{n}").into(), ..route }.priority(i32::try_from(n).unwrap())
                })
                .collect::<Vec<_>>()
        })
        .prop_shuffle()
}

fn route() -> impl Strategy<Value = Route> {
    let segment = select(vec!["a", "b", "{p}"]);
    let text =
        vec(segment, 0..4).prop_map(|parts| parts.iter().fold(String::new(), |all, it| all + "/" + it));
    let path = (text, 0..7).prop_map(|(text, kind)| match kind {
        0 | 1 => path("", if text.is_empty() { "/" } else { &text }),
        2 => path("", &(text + "/")),
        3 => path("", &(text + "/{rest...}")),
        4 | 5 => prefix("", if text.is_empty() { "/" } else { &text }),
        // Only the first is named: a group has one name.
        _ => regex("", &text.replacen("{p}", "(?<p>[^/]+)", 1).replace("{p}", "[^/]+").replace('b', ".*")),
    });
    let hosts = vec(select(vec!["a.x", "b.a.x", "*.x", "*.a.x"]), 0..3);
    let methods = vec(select(vec![Method::GET, Method::HEAD, Method::POST]), 0..3);
    let value = || option::of(option::of(select(vec!["1", "2"])));
    (path, hosts, methods, value(), value()).prop_map(|(mut route, hosts, methods, header, query)| {
        for host in hosts {
            route = route.host(host);
        }
        route = match header {
            Some(Some(value)) => route.header("x-a", value),
            Some(None) => route.has_header("x-a"),
            None => route,
        };
        if let Some(value) = query {
            route = route.query("v", value.unwrap_or("3"));
        }
        route.methods(&methods)
    })
}

fn request() -> impl Strategy<Value = Request> {
    let method = select(vec![Method::GET, Method::HEAD, Method::POST, Method::PUT]);
    let host = select(vec!["x", "a.x", "b.a.x", "c.x", "c.a.x", "y"]);
    let path = (vec(select(vec!["a", "b", "c"]), 0..5), any::<bool>());
    let path = path.prop_map(|(parts, slash)| {
        let text = parts.iter().fold(String::new(), |all, it| all + "/" + it);
        if slash || text.is_empty() { text + "/" } else { text }
    });
    let query = option::of(vec(select(vec!["v=1", "v=2", "w=1", "%76=%31"]), 0..3));
    let headers = vec(select(vec!["1", "2", "3"]), 0..3);
    (method, host, path, query, headers).prop_map(|(method, host, path, query, values)| {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(HeaderName::from_static("x-a"), HeaderValue::from_static(value));
        }
        let query = query.map(|pairs| pairs.join("&"));
        Request { method, host: host.into(), path, query, headers }
    })
}

fn name(routes: &[Route], found: &Found) -> String {
    match found {
        Found::Route { index, .. } => routes[*index].name.to_string(),
        other => format!("{other:?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn r2_1_the_order_of_the_routes_never_matters(
        mut routes in routes(), request in request(), turn in any::<prop::sample::Index>(),
    ) {
        let before = compile(&routes).unwrap().find(&request.as_query(), &mut ());
        let before = name(&routes, &before);
        let turn = turn.index(routes.len());
        routes.rotate_left(turn);
        let after = compile(&routes).unwrap().find(&request.as_query(), &mut ());
        prop_assert_eq!(before, name(&routes, &after));
    }

    #[test]
    fn find_explain_and_the_oracle_agree(routes in routes(), request in request()) {
        let table = compile(&routes).unwrap();
        let found = table.find(&request.as_query(), &mut ());
        prop_assert_eq!(name(&routes, &found), oracle(&routes, &request));

        let explained = table.explain(&request.as_query());
        prop_assert_eq!(explained.len(), routes.len());
        let won: Vec<_> = explained.iter().filter(|(_, outcome)| *outcome == Outcome::Won).collect();
        match found {
            Found::Route { index, .. } => prop_assert!(matches!(&*won, [(one, _)] if *one == index)),
            Found::MethodNotAllowed { .. } => {
                prop_assert!(won.is_empty());
                prop_assert!(explained.iter().any(|(_, outcome)| *outcome == Outcome::Lost(Lost::Method)));
            }
            Found::NotFound => prop_assert!(won.is_empty()),
        }
    }

    /// Without priorities: what compiles has never two routes of equal rank for one request.
    #[test]
    fn r2_1_what_compiles_leaves_nothing_open(mut routes in routes(), requests in vec(request(), 8)) {
        for route in &mut routes {
            route.priority = None;
        }
        let Ok(table) = compile(&routes) else { return Ok(()) };
        for request in &requests {
            let found = table.find(&request.as_query(), &mut ());
            let Found::Route { index, .. } = found else { continue };
            let best = rank(&routes[index], request);
            let equals = routes.iter().filter(|it| matches(it, request) == Some(true) && rank(it, request) == best);
            prop_assert_eq!(equals.count(), 1, "{:?}", request);
        }
    }

    #[test]
    fn find_answers_whatever_comes(routes in routes(), host in any::<String>(), path in any::<String>(), query in any::<String>()) {
        let request = Request { method: Method::GET, host, path, query: Some(query), headers: HeaderMap::new() };
        let table = compile(&routes).unwrap();
        if let Found::Route { index, captures } = table.find(&request.as_query(), &mut ()) {
            prop_assert_eq!(table.explain(&request.as_query())[index].1, Outcome::Won);
            let _ = (captures.get(&request.path, "p"), captures.get("é", "p"), captures.below_prefix("é"));
        }
    }
}

/// What `find` should say, by filtering all routes and taking the least rank.
fn oracle(routes: &[Route], request: &Request) -> String {
    let candidates: Vec<_> = routes.iter().map(|route| (route, matches(route, request))).collect();
    let whole = candidates.iter().filter(|(_, matches)| *matches == Some(true)).map(|(route, _)| *route);
    if let Some(winner) = whole.min_by_key(|route| rank(route, request)) {
        return winner.name.to_string();
    }
    let mut allow: Vec<_> = candidates
        .iter()
        .filter(|(_, matches)| *matches == Some(false))
        .flat_map(|(route, _)| route.matches.methods.iter().map(Method::as_str))
        .collect();
    if allow.contains(&"GET") {
        allow.push("HEAD");
    }
    allow.sort_unstable();
    allow.dedup();
    if allow.is_empty() {
        return format!("{:?}", Found::NotFound);
    }
    format!("{:?}", Found::MethodNotAllowed { allow: allow.join(", ").parse().unwrap() })
}

/// `Some(false)`: all but the method.
fn matches(route: &Route, request: &Request) -> Option<bool> {
    let it = &route.matches;
    let host = it.hosts.is_empty() || it.hosts.iter().any(|host| host_rank(host, &request.host).is_some());
    let path = as_regex(&it.path).is_match(&request.path);
    let sent: Vec<_> = request.headers.get_all("x-a").iter().map(|it| it.to_str().unwrap()).collect();
    let decoded = request.query.as_deref().unwrap_or_default().replace("%76=%31", "v=1");
    let asked: Vec<_> = decoded.split('&').filter_map(|pair| pair.strip_prefix("v=")).collect();
    let has = |wanted: &ValueMatch, values: &[&str]| match wanted {
        ValueMatch::Present => !values.is_empty(),
        ValueMatch::Exact(text) => !values.is_empty() && values.iter().all(|value| *value == &**text),
    };
    let headers = it.headers.iter().all(|(_, wanted)| has(wanted, &sent));
    let query = it.query.iter().all(|(_, wanted)| has(wanted, &asked));
    let as_get = request.method == Method::HEAD && it.methods.contains(&Method::GET);
    let method = it.methods.is_empty() || it.methods.contains(&request.method) || as_get;
    (host && path && headers && query).then_some(method)
}

/// Any path as a regular expression: nothing here walks segments.
fn as_regex(path: &PathPattern) -> Regex {
    let text = |segments: &[Segment]| {
        let one = |segment: &Segment| match segment {
            Segment::Literal(text) => format!("/{}", regex::escape(text)),
            Segment::Param(_) => "/[^/]+".into(),
            Segment::Rest(_) => "/(?s:.*)".into(),
        };
        segments.iter().map(one).collect::<String>()
    };
    match path {
        PathPattern::Whole(segments) => Regex::new(&format!("^{}$", text(segments))).unwrap(),
        PathPattern::Prefix(segments) => Regex::new(&format!("^{}(/(?s:.*))?$", text(segments))).unwrap(),
        PathPattern::Regex(regex) => regex.clone(),
    }
}

fn host_rank(host: &HostPattern, sent: &str) -> Option<usize> {
    match host {
        HostPattern::Exact(exact) => (**exact == *sent).then_some(0),
        HostPattern::Wildcard(suffix) => {
            let labels = sent.strip_suffix(&**suffix)?;
            (!labels.is_empty()).then(|| 1000 - suffix.len())
        }
    }
}

/// The lesser, the more specific: host, path spelled with one letter for each step, and the rest.
fn rank(route: &Route, request: &Request) -> impl Ord + std::fmt::Debug + use<> {
    let it = &route.matches;
    let host = it.hosts.iter().filter_map(|host| host_rank(host, &request.host)).min().unwrap_or(1000);
    let spell = |segments: &[Segment], end: &str| {
        let one = |segment: &Segment| match segment {
            Segment::Literal(_) => 'a',
            Segment::Param(_) => 'b',
            Segment::Rest(_) => 'c',
        };
        segments.iter().map(one).collect::<String>() + end
    };
    let path = match &it.path {
        PathPattern::Whole(segments) => spell(segments, ""),
        PathPattern::Prefix(segments) => spell(segments, "d"),
        PathPattern::Regex(_) => "e".into(),
    };
    let counts = (usize::MAX - it.headers.len(), usize::MAX - it.query.len());
    (host, path, it.methods.is_empty(), counts, -route.priority.unwrap_or(0))
}
