//! One test for each rule; `properties.rs` has the rules together.

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use regex::Regex;

use super::*;
use crate::config::checked::{
    HostPattern, Match, Name, PathPattern, Segment, Template, TemplatePart, ValueMatch,
};

/// A route for tests, written as in the file.
#[derive(Clone, Debug)]
pub(super) struct Route {
    pub(super) name: Name,
    pub(super) matches: Match,
    pub(super) priority: Option<i32>,
}

pub(super) fn path(name: &str, text: &str) -> Route {
    Route::new(name, PathPattern::Whole(segments(text).into()))
}

pub(super) fn prefix(name: &str, text: &str) -> Route {
    let mut segments = segments(text);
    segments.pop_if(|last| *last == Segment::Literal("".into()));
    Route::new(name, PathPattern::Prefix(segments.into()))
}

pub(super) fn regex(name: &str, text: &str) -> Route {
    Route::new(name, PathPattern::Regex(Regex::new(&format!("^(?:{text})$")).unwrap()))
}

impl Route {
    fn new(name: &str, path: PathPattern) -> Self {
        let matches = Match { hosts: vec![], path, methods: vec![], headers: vec![], query: vec![] };
        Self { name: name.into(), matches, priority: None }
    }

    pub(super) fn host(mut self, host: &str) -> Self {
        self.matches.hosts.push(match host.strip_prefix('*') {
            Some(suffix) => HostPattern::Wildcard(suffix.into()),
            None => HostPattern::Exact(host.into()),
        });
        self
    }

    pub(super) fn methods(mut self, methods: &[Method]) -> Self {
        self.matches.methods = methods.to_vec();
        self
    }

    pub(super) fn header(mut self, name: &'static str, value: &str) -> Self {
        self.matches.headers.push((HeaderName::from_static(name), ValueMatch::Exact(value.into())));
        self
    }

    pub(super) fn has_header(mut self, name: &'static str) -> Self {
        self.matches.headers.push((HeaderName::from_static(name), ValueMatch::Present));
        self
    }

    pub(super) fn query(mut self, name: &str, value: &str) -> Self {
        self.matches.query.push((name.into(), ValueMatch::Exact(value.into())));
        self
    }

    fn has_query(mut self, name: &str) -> Self {
        self.matches.query.push((name.into(), ValueMatch::Present));
        self
    }

    pub(super) fn priority(mut self, priority: i32) -> Self {
        self.priority = Some(priority);
        self
    }
}

fn segments(text: &str) -> Vec<Segment> {
    let one = |text: &str| match text.strip_prefix('{').and_then(|text| text.strip_suffix('}')) {
        Some(name) => match name.strip_suffix("...") {
            Some(name) => Segment::Rest(name.into()),
            None => Segment::Param(name.into()),
        },
        None => Segment::Literal(text.into()),
    };
    text[1..].split('/').map(one).collect()
}

pub(super) fn compile(routes: &[Route]) -> Result<Table, Vec<RouteError>> {
    Table::compile(routes.iter().map(|route| (route.name.clone(), &route.matches, route.priority)))
}

/// A request for tests: `GET host/path?query`, and headers.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) method: Method,
    pub(super) host: String,
    pub(super) path: String,
    pub(super) query: Option<String>,
    pub(super) headers: HeaderMap,
}

pub(super) fn request(line: &str) -> Request {
    let mut parts = line.split(" -H '");
    let (method, url) = parts.next().unwrap().split_once(' ').unwrap();
    let url = url.strip_prefix("http://").unwrap_or(url);
    let (target, query) = url.split_once('?').map_or((url, None), |(path, query)| (path, Some(query.into())));
    let (host, path) = target.split_once('/').unwrap();
    let mut headers = HeaderMap::new();
    for header in parts {
        let (name, value) = header.strip_suffix('\'').unwrap().split_once(": ").unwrap();
        headers.append(name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap());
    }
    Request { method: method.parse().unwrap(), host: host.into(), path: format!("/{path}"), query, headers }
}

impl Request {
    pub(super) fn as_query(&self) -> Query<'_> {
        let Self { method, host, path, query, headers } = self;
        Query { method, host, path, query: query.as_deref(), headers }
    }
}

/// The name of the winner, `405 <allow>` or `404`; the same in whatever order the routes come.
fn ask(mut routes: Vec<Route>, line: &str) -> String {
    let first = ask_once(&routes, line);
    routes.reverse();
    assert_eq!(first, ask_once(&routes, line), "the order of the routes matters for {line}");
    first
}

fn ask_once(routes: &[Route], line: &str) -> String {
    let request = request(line);
    match compile(routes).unwrap().find(&request.as_query(), &mut ()) {
        Found::Route { index, .. } => routes[index].name.to_string(),
        Found::MethodNotAllowed { allow } => {
            format!("{} {}", StatusCode::METHOD_NOT_ALLOWED.as_u16(), allow.to_str().unwrap())
        }
        Found::NotFound => "404".into(),
    }
}

fn captures(route: Route, path: &str) -> Vec<(String, String)> {
    let request = request(&format!("GET host{path}"));
    let Found::Route { captures, .. } = compile(&[route]).unwrap().find(&request.as_query(), &mut ()) else {
        panic!("{path} is not matched");
    };
    captures.iter(path).map(|(name, value)| (name.to_string(), value.to_owned())).collect()
}

/// The example of the one clash there is; empty if none could be given.
fn clash(routes: &[Route]) -> Option<String> {
    let errors = compile(routes).err()?;
    let [RouteError::Ambiguous(ambiguity)] = &*errors else { panic!("{errors:?}") };
    if let Some(example) = &ambiguity.example {
        let request = request(example);
        for outcome in routes.iter().map(|route| compile(std::slice::from_ref(route)).unwrap()) {
            let found = outcome.find(&request.as_query(), &mut ());
            assert!(matches!(found, Found::Route { .. }), "{example} is no example: {found:?}");
        }
    }
    Some(ambiguity.example.clone().unwrap_or_default())
}

#[test]
fn r2_1_most_specific_wins_whatever_the_order() {
    let routes = || {
        vec![
            prefix("everything", "/"),
            prefix("shop", "/shop"),
            path("rest", "/shop/{rest...}"),
            path("item", "/shop/{id}"),
            path("basket", "/shop/basket"),
            prefix("basket-below", "/shop/basket"),
            path("item-part", "/shop/{id}/part"),
            regex("regex", "/shop/.*|/[a-z]+"),
        ]
    };
    for (line, winner) in [
        ("GET h/", "everything"),
        ("GET h/other", "everything"),
        ("GET h/shop", "shop"),
        ("GET h/shop/", "rest"),
        ("GET h/shop/7", "item"),
        ("GET h/shop/7/", "rest"),
        ("GET h/shop/7/part", "item-part"),
        ("GET h/shop/7/other", "rest"),
        ("GET h/shop/basket", "basket"),
        ("GET h/shop/basket/part", "basket-below"),
        ("GET h/shop/basket/", "basket-below"),
    ] {
        assert_eq!(ask(routes(), line), winner, "{line}");
    }
}

#[test]
fn r2_1_segments_are_compared_one_by_one_from_the_left() {
    let routes = || vec![path("left", "/a/{x}/{y}"), path("right", "/{x}/b/c"), path("middle", "/a/{x}/c")];
    assert_eq!(ask(routes(), "GET h/a/b/c"), "middle");
    assert_eq!(ask(routes(), "GET h/a/b/d"), "left");
    assert_eq!(ask(routes(), "GET h/z/b/c"), "right");
}

#[test]
fn r2_1_a_literal_that_leads_nowhere_gives_way() {
    let routes = || vec![path("literal", "/a/b/c"), path("param", "/{x}/b/d"), prefix("below", "/{x}")];
    assert_eq!(ask(routes(), "GET h/a/b/d"), "param");
    assert_eq!(ask(routes(), "GET h/a/b/e"), "below");
}

#[test]
fn r2_1_prefix_ends_on_a_segment() {
    let routes = || vec![prefix("api", "/api/products")];
    for line in ["GET h/api/products", "GET h/api/products/", "GET h/api/products/1/x"] {
        assert_eq!(ask(routes(), line), "api", "{line}");
    }
    for line in ["GET h/api/productsXYZ", "GET h/api", "GET h/api/", "GET h/", "GET h/x/api/products"] {
        assert_eq!(ask(routes(), line), "404", "{line}");
    }
}

#[test]
fn r2_1_a_whole_path_beats_a_prefix() {
    let routes = || vec![prefix("prefix", "/a"), path("whole", "/a")];
    assert_eq!(ask(routes(), "GET h/a"), "whole");
    assert_eq!(ask(routes(), "GET h/a/"), "prefix");
    assert_eq!(ask(vec![prefix("prefix", "/a"), path("rest", "/a/{rest...}")], "GET h/a/b"), "rest");
    assert_eq!(ask(vec![prefix("longer", "/a/b"), path("rest", "/a/{rest...}")], "GET h/a/b/c"), "longer");
}

#[test]
fn r2_1_a_trailing_slash_counts() {
    assert_eq!(ask(vec![path("bare", "/a")], "GET h/a/"), "404");
    assert_eq!(ask(vec![path("slash", "/a/")], "GET h/a"), "404");
    assert_eq!(ask(vec![path("bare", "/a"), path("slash", "/a/")], "GET h/a/"), "slash");
    assert_eq!(ask(vec![path("root", "/")], "GET h/"), "root");
    assert_eq!(ask(vec![path("root", "/")], "GET h/a"), "404");
}

#[test]
fn r2_1_a_param_takes_one_segment_that_is_not_empty() {
    let routes = || vec![path("ride", "/rides/{id}")];
    assert_eq!(ask(routes(), "GET h/rides/7"), "ride");
    for line in ["GET h/rides/", "GET h/rides", "GET h/rides/7/", "GET h/rides/7/x"] {
        assert_eq!(ask(routes(), line), "404", "{line}");
    }
    assert_eq!(
        captures(path("a", "/r/{id}/{part}"), "/r/7/x%20y"),
        [("id".into(), "7".into()), ("part".into(), "x%20y".into())]
    );
}

#[test]
fn r2_1_a_rest_takes_what_follows_its_slash() {
    let rest = |of: &str| captures(path("files", "/f/{v}/{rest...}"), of)[1].1.clone();
    assert_eq!(rest("/f/1/"), "");
    assert_eq!(rest("/f/1/a"), "a");
    assert_eq!(rest("/f/1/a/b/"), "a/b/");
    assert_eq!(ask(vec![path("files", "/f/{rest...}")], "GET h/f"), "404");
    assert_eq!(captures(path("all", "/{rest...}"), "/"), [("rest".into(), String::new())]);
}

#[test]
fn r2_1_regex_takes_the_whole_path_and_goes_last() {
    let routes = || vec![regex("cat", "/cat/(?<id>[0-9]+)(/(?<part>[a-z]+))?"), prefix("dog", "/dog")];
    assert_eq!(ask(routes(), "GET h/cat/12"), "cat");
    assert_eq!(ask(routes(), "GET h/cat/12x"), "404");
    assert_eq!(ask(vec![regex("regex", "/.*"), prefix("prefix", "/")], "GET h/cat/12"), "prefix");
    assert_eq!(captures(routes().swap_remove(0), "/cat/12"), [("id".into(), "12".into())]);
    assert_eq!(captures(routes().swap_remove(0), "/cat/12/tail")[1], ("part".into(), "tail".into()));
}

#[test]
fn r2_1_host_exact_then_longest_wildcard_then_any() {
    let routes = || {
        vec![
            path("any", "/a"),
            path("wide", "/a").host("*.example"),
            path("narrow", "/a").host("*.ola.example"),
            path("exact", "/a").host("api.ola.example"),
        ]
    };
    for (host, winner) in [
        ("api.ola.example", "exact"),
        ("x.ola.example", "narrow"),
        ("x.y.ola.example", "narrow"),
        ("ola.example", "wide"),
        ("example", "any"),
        (".example", "any"),
        ("xola.example", "wide"),
        ("other", "any"),
        ("", "any"),
    ] {
        assert_eq!(ask(routes(), &format!("GET {host}/a")), winner, "{host}");
    }
}

#[test]
fn r2_1_a_less_specific_host_takes_what_the_other_leaves() {
    let routes = || {
        vec![
            path("exact", "/a").host("api.corp").methods(&[Method::POST]),
            prefix("wildcard", "/").host("*.corp").has_header("x-tenant"),
            prefix("any", "/"),
        ]
    };
    assert_eq!(ask(routes(), "POST api.corp/a"), "exact");
    assert_eq!(ask(routes(), "GET api.corp/a"), "any");
    assert_eq!(ask(routes(), "GET api.corp/a -H 'x-tenant: 1'"), "wildcard");
    let two =
        || vec![path("exact", "/a").host("api.corp"), path("both", "/a").host("api.corp2").host("*.corp")];
    assert_eq!(ask(two(), "GET api.corp/a"), "exact");
    assert_eq!(ask(two(), "GET b.corp/a"), "both");
}

#[test]
fn r2_1_then_methods_then_headers_then_query_then_priority() {
    let routes = || {
        vec![
            path("plain", "/a"),
            path("low", "/a").priority(-1),
            path("query", "/a").query("v", "1"),
            path("header", "/a").has_header("x-a"),
            path("headers", "/a").has_header("x-a").header("x-b", "1"),
            path("post", "/a").methods(&[Method::POST]),
        ]
    };
    assert_eq!(ask(routes(), "GET h/a"), "plain");
    assert_eq!(ask(routes(), "GET h/a?v=1"), "query");
    assert_eq!(ask(routes(), "GET h/a?v=1 -H 'x-a: 1'"), "header");
    assert_eq!(ask(routes(), "GET h/a?v=1 -H 'x-a: 1' -H 'x-b: 1'"), "headers");
    assert_eq!(ask(routes(), "GET h/a?v=1 -H 'x-a: 1' -H 'x-b: 2'"), "header");
    assert_eq!(ask(routes(), "POST h/a?v=1 -H 'x-a: 1' -H 'x-b: 1'"), "post");
    assert_eq!(ask(vec![path("a", "/a"), path("b", "/a").priority(1)], "GET h/a"), "b");
}

#[test]
fn r2_1_wrong_method_is_405_with_allow() {
    let routes = || {
        vec![
            path("read", "/a").methods(&[Method::GET]),
            path("write", "/{x}").methods(&[Method::PUT, Method::DELETE]).host("api.corp"),
            path("tenant", "/a").methods(&[Method::PATCH]).has_header("x-tenant"),
            regex("regex", "/a").methods(&[Method::TRACE]),
        ]
    };
    assert_eq!(ask(routes(), "POST api.corp/a"), "405 DELETE, GET, HEAD, PUT, TRACE");
    assert_eq!(ask(routes(), "POST h/a"), "405 GET, HEAD, TRACE");
    assert_eq!(ask(routes(), "POST h/a -H 'x-tenant: 1'"), "405 GET, HEAD, PATCH, TRACE");
    assert_eq!(ask(routes(), "POST h/b"), "404");
    assert_eq!(ask(routes(), "TRACE h/a"), "regex");
}

#[test]
fn r2_1_get_answers_head() {
    assert_eq!(ask(vec![path("read", "/a").methods(&[Method::GET])], "HEAD h/a"), "read");
    assert_eq!(ask(vec![path("write", "/a").methods(&[Method::POST])], "HEAD h/a"), "405 POST");
    let both = [path("read", "/a").methods(&[Method::GET]), path("head", "/a").methods(&[Method::HEAD])];
    assert_eq!(clash(&both), Some("HEAD http://localhost/a".into()));
}

#[test]
fn r2_1_a_repeated_value_is_no_value() {
    let routes = || vec![path("one", "/a").header("x-a", "1").query("v", "a b")];
    assert_eq!(ask(routes(), "GET h/a?v=a+b -H 'x-a: 1'"), "one");
    assert_eq!(ask(routes(), "GET h/a?v=a%20b&w -H 'x-a: 1' -H 'x-a: 1'"), "one");
    assert_eq!(ask(routes(), "GET h/a?v=a+b&v=c -H 'x-a: 1'"), "404");
    assert_eq!(ask(routes(), "GET h/a?v=a+b -H 'x-a: 1' -H 'x-a: 2'"), "404");
    assert_eq!(ask(routes(), "GET h/a?v=a+b"), "404");
    let present = || vec![path("there", "/a").has_query("a b")];
    for (query, winner) in
        [("?a+b", "there"), ("?&a%20b=1", "there"), ("?a", "404"), ("", "404"), ("?%a", "404")]
    {
        assert_eq!(ask(present(), &format!("GET h/a{query}")), winner, "{query}");
    }
}

#[test]
fn r2_1_equal_rank_is_an_error_unless_priority_differs() {
    let one = |text| path("one", text);
    let two = |text| path("two", text);
    assert_eq!(clash(&[one("/a/{x}"), two("/a/{y}")]), Some("GET http://localhost/a/x".into()));
    assert_eq!(clash(&[one("/{x...}"), two("/{y...}")]), Some("GET http://localhost/rest".into()));
    assert_eq!(clash(&[prefix("one", "/"), prefix("two", "/")]), Some("GET http://localhost/".into()));
    assert_eq!(clash(&[one("/a").priority(0), two("/a")]).map(|_| ()), Some(()));
    assert_eq!(clash(&[one("/a").priority(1), two("/a")]), None);
    assert_eq!(clash(&[one("/a"), two("/b")]), None);
    assert_eq!(clash(&[one("/a"), two("/a/")]), None);
    assert_eq!(clash(&[one("/a"), prefix("two", "/a")]), None);
    assert_eq!(clash(&[one("/a/{x}"), two("/{x}/a")]), None);
}

#[test]
fn r2_1_what_excludes_one_another_is_no_ambiguity() {
    let one = || path("one", "/a");
    let two = || path("two", "/a");
    assert_eq!(clash(&[one().methods(&[Method::GET]), two().methods(&[Method::POST])]), None);
    assert_eq!(clash(&[one().methods(&[Method::GET]), two()]), None);
    assert_eq!(clash(&[one().header("x-a", "1"), two().header("x-a", "2")]), None);
    assert_eq!(clash(&[one().query("v", "1"), two().query("v", "2")]), None);
    assert_eq!(clash(&[one().host("a.corp"), two().host("b.corp")]), None);
    assert_eq!(clash(&[one().host("a.corp"), two().host("*.corp")]), None);
    assert_eq!(clash(&[one().host("a.corp"), two()]), None);

    let methods = [one().methods(&[Method::PUT, Method::GET]), two().methods(&[Method::POST, Method::PUT])];
    assert_eq!(clash(&methods), Some("PUT http://localhost/a".into()));
    let headers = [one().header("x-a", "1"), two().header("x-b", "2")];
    assert_eq!(clash(&headers), Some("GET http://localhost/a -H 'x-a: 1' -H 'x-b: 2'".into()));
    let queries = [one().query("v", "a b"), two().has_query("v")];
    assert_eq!(clash(&queries), Some("GET http://localhost/a?v=a%20b".into()));
    let hosts = [one().host("*.corp").host("x"), two().host("*.corp")];
    assert_eq!(clash(&hosts), Some("GET http://any.corp/a".into()));
}

#[test]
fn r2_1_regexes_are_ambiguous_unless_their_beginnings_differ() {
    assert_eq!(clash(&[regex("one", "/a/[0-9]+"), regex("two", "/b/.*")]), None);
    assert_eq!(clash(&[regex("one", "/a/[0-9]+"), regex("two", "/a.*")]), Some(String::new()));
    assert_eq!(clash(&[regex("one", "/a|/b"), regex("two", "/c")]), Some(String::new()));
    assert_eq!(clash(&[regex("one", "/a.*"), regex("two", "/a.*").priority(1)]), None);
    let methods = [regex("one", "/a").methods(&[Method::GET]), regex("two", "/a").methods(&[Method::PUT])];
    assert_eq!(clash(&methods), None);
}

#[test]
fn all_errors_come_at_once_and_each_pair_once() {
    let many = "/{a}/{b}/{c}/{d}/{e}/{f}/{g}/{h}/{i}";
    let routes = [
        path("one", "/a").host("x").host("y"),
        path("two", "/a").host("y").host("x"),
        path("many", many),
        path("deep", &"/a".repeat(MAX_SEGMENTS + 1)),
    ];
    let errors: Vec<_> = compile(&routes).unwrap_err().iter().map(ToString::to_string).collect();
    let [many, deep, pair] = &*errors else { panic!("{errors:?}") };
    assert_eq!(many, "the path of route `many` has 9 captures; at most 8");
    assert_eq!(deep, "the path of route `deep` has 129 segments; at most 128");
    assert!(pair.starts_with("routes `one` and `two` can match the same request"), "{pair}");
}

#[test]
fn a_prefix_can_be_taken_away() {
    let below = |route: Route, path: &str| {
        let request = request(&format!("GET h{path}"));
        match compile(&[route]).unwrap().find(&request.as_query(), &mut ()) {
            Found::Route { captures, .. } => captures.below_prefix(path).map(str::to_owned),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(below(prefix("api", "/api/{v}"), "/api/1").unwrap(), "/");
    assert_eq!(below(prefix("api", "/api/{v}"), "/api/1/").unwrap(), "/");
    assert_eq!(below(prefix("api", "/api/{v}"), "/api/1/x/y").unwrap(), "/x/y");
    assert_eq!(below(prefix("all", "/"), "/x").unwrap(), "/x");
    assert_eq!(below(path("whole", "/x"), "/x"), None);
}

#[test]
fn templates_take_captures_as_they_stand() {
    let template = Template(vec![
        TemplatePart::Text("/v2/".into()),
        TemplatePart::Capture("id".into()),
        TemplatePart::Text("/".into()),
        TemplatePart::Capture("rest".into()),
        TemplatePart::Capture("unknown".into()),
    ]);
    let request = request("GET h/v1/a%20b/c/d");
    let table = compile(&[path("a", "/v1/{id}/{rest...}")]).unwrap();
    let Found::Route { captures, .. } = table.find(&request.as_query(), &mut ()) else { panic!() };
    assert_eq!(render(&template, &request.path, &captures), "/v2/a%20b/c/d");
}

#[test]
fn explain_tells_of_every_route_why() {
    let routes = [
        path("won", "/a/{id}").host("api.corp"),
        path("any-host", "/a/b"),
        prefix("prefix", "/a").host("api.corp"),
        path("elsewhere", "/a/{id}").host("other"),
        path("longer", "/a/{id}/c").host("api.corp"),
        path("literal", "/a/z").host("api.corp"),
        regex("regex", "/x.*").host("api.corp"),
        path("header", "/a/{id}").host("api.corp").has_header("x-a"),
        path("query", "/a/{id}").host("api.corp").query("v", "1"),
        path("post", "/a/{id}").host("api.corp").methods(&[Method::POST]),
        path("low", "/a/{id}").host("api.corp").priority(-1),
        regex("matching", "/a.*").host("api.corp"),
    ];
    let (table, request) = (compile(&routes).unwrap(), request("GET api.corp/a/b"));
    let explained = table.explain(&request.as_query());
    let less = |rule| Outcome::LessSpecific { rule };
    let expected = [
        Outcome::Won,
        less(Rule::Host),
        less(Rule::Path { segment: 2, winner: Step::Param, loser: Step::Below }),
        Outcome::Lost(Lost::Host),
        Outcome::Lost(Lost::Path { segment: 3 }),
        Outcome::Lost(Lost::Path { segment: 2 }),
        Outcome::Lost(Lost::Regex),
        Outcome::Lost(Lost::Header(&HeaderName::from_static("x-a"))),
        Outcome::Lost(Lost::Query("v")),
        Outcome::Lost(Lost::Method),
        less(Rule::Priority),
        less(Rule::Regex),
    ];
    assert_eq!(explained, expected.into_iter().enumerate().collect::<Vec<_>>());
    assert_eq!(
        explained[2].1.to_string(),
        "matches too, but the winner goes first: at segment 2, a {param} goes before the end of a prefix"
    );
}

#[test]
fn a_trace_sees_who_lost_before_the_winner() {
    #[derive(Default)]
    struct Seen(Vec<(usize, Option<String>)>);
    impl Trace for Seen {
        fn lost(&mut self, route: usize, why: Lost<'_>) {
            self.0.push((route, Some(why.to_string())));
        }
        fn won(&mut self, route: usize) {
            self.0.push((route, None));
        }
    }
    let routes = [prefix("all", "/"), path("header", "/a").has_header("x-a"), path("elsewhere", "/b")];
    let (request, mut seen) = (request("GET h/a"), Seen::default());
    compile(&routes).unwrap().find(&request.as_query(), &mut seen);
    assert_eq!(seen.0, [(1, Some("the header `x-a` is missing or differs".into())), (0, None)]);
}

#[test]
fn ten_thousand_routes() {
    let routes: Vec<_> = (0..10_000)
        .map(|n| match n % 3 {
            0 => path(&format!("r{n}"), &format!("/s{}/{{id}}/p{n}", n / 100)),
            1 => prefix(&format!("r{n}"), &format!("/s{}/x{n}", n / 100)),
            _ => path(&format!("r{n}"), "/").host(&format!("h{n}.example")),
        })
        .collect();
    let table = compile(&routes).unwrap();
    assert_eq!(table.len(), 10_000);
    for (line, winner) in
        [("GET h/s99/7/p9999", 9999), ("GET h/s50/x5002/deep", 5002), ("GET h8.example/", 8)]
    {
        let request = request(line);
        let found = table.find(&request.as_query(), &mut ());
        assert!(matches!(found, Found::Route { index, .. } if index == winner), "{line} {found:?}");
    }
}
