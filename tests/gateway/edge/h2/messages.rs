//! What a request may look like over HTTP/2 (RFC 9113, section 8).

use super::{
    Area::Messages,
    Case, Check, GET_200, PROTOCOL_ERROR,
    Want::{self, Any, Forwarded, Reset},
    wire::{DATA, END_STREAM, and, begin, frame, get, headers, of, post, with, without},
};

const MALFORMED: &[u16] = &[400];

const PSEUDO: &str =
    "RFC 9113, 8.3.1: every request has exactly one :method, :scheme and :path, but for CONNECT";
const PSEUDO_ONCE: &str = "RFC 9113, 8.3: the same pseudo-header twice is malformed";
const PSEUDO_FIRST: &str = "RFC 9113, 8.3: a pseudo-header behind a regular field is malformed";
const PSEUDO_KNOWN: &str = "RFC 9113, 8.3: a pseudo-header that is not defined for requests is malformed";
const PSEUDO_TRAILER: &str = "RFC 9113, 8.3: pseudo-headers must not appear in a trailer section";
const PATH: &str = "RFC 9113, 8.3.1: :path is not empty, and begins with `/`, or is `*` for OPTIONS";
const CONNECT: &str = "RFC 9113, 8.5: CONNECT has no :scheme and no :path, and :authority says whereto";
const NAME: &str = "RFC 9113, 8.2.1: a name has no control character, no space, no upper case, nothing above 0x7e, and `:` only at its beginning";
const VALUE: &str = "RFC 9113, 8.2.1: a value has no NUL, LF or CR";
const SPACE: &str = "RFC 9113, 8.2.1: a value must not begin or end with a space or a tab";
const CONNECTION: &str = "RFC 9113, 8.2.2: fields of one connection (Connection, Keep-Alive, Proxy-Connection, Transfer-Encoding, Upgrade) are malformed";
const TE: &str = "RFC 9113, 8.2.2: TE says nothing but `trailers`";
const LENGTH: &str = "RFC 9113, 8.1.1: Content-Length that is not the length of all DATA is malformed";
const LENGTHS: &str = "RFC 9110, 8.6: Content-Length is one number of digits";
const AUTHORITY: &str = "RFC 9113, 8.3.1: :authority has no userinfo, and is a host with a port or without";
const HOST: &str = "RFC 9113, 8.3.1: a Host that is another than :authority is malformed";
const SCHEME: &str = "RFC 9113, 8.3.1: :scheme is a scheme of a URI (RFC 3986, 3.1)";
const COOKIE: &str = "RFC 9113, 8.2.3: Cookie in several fields becomes one, with `; ` between, where it is passed on to HTTP/1.1";
const TRAILERS: &str = "RFC 9113, 8.1: trailers end the stream";
const METHOD: &str = "RFC 9110, 9.1: a method is a token";

type Fields = Vec<(Vec<u8>, Vec<u8>)>;

/// A request without a body.
fn case(name: &str, rests_on: &'static str, fields: &Fields, want: Want) -> Case {
    Case::new(Messages, name, rests_on, [begin(), headers(1, END_STREAM, fields)].concat(), want)
}

/// A request with a body, and what comes behind its head.
fn upload(name: &str, rests_on: &'static str, fields: &Fields, behind: &[Vec<u8>], want: Want) -> Case {
    Case::new(Messages, name, rests_on, [begin(), headers(1, 0, fields), behind.concat()].concat(), want)
}

fn malformed() -> Want {
    Reset(&[PROTOCOL_ERROR], MALFORMED)
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases = pseudo();
    cases.extend(fields());
    cases.extend(lengths());
    cases.extend(authorities());
    cases.extend(trailers());
    cases
}

fn pseudo() -> Vec<Case> {
    let mut cases = Vec::new();
    for name in [":method", ":scheme", ":path"] {
        cases.push(case(&format!("no {name}"), PSEUDO, &without(get(), name), malformed()));
    }
    for (name, value) in
        [(":method", "GET"), (":scheme", "http"), (":path", "/C00000"), (":authority", "a.example")]
    {
        let twice = [of(&[(name, value)]), get()].concat();
        cases.push(case(&format!("{name} twice"), PSEUDO_ONCE, &twice, malformed()));
        let late = and(and(without(get(), name), "x", "y"), name, value);
        cases.push(case(&format!("{name} behind a field"), PSEUDO_FIRST, &late, malformed()));
    }
    for (name, value) in [
        (":status", "200"),
        (":foo", "bar"),
        (":", "x"),
        (":host", "a.example"),
        (":protocol", "websocket"),
        (":Path", "/C00000"),
    ] {
        let more = [of(&[(name, value)]), get()].concat();
        cases.push(case(&format!("`{name}` in a request"), PSEUDO_KNOWN, &more, malformed()));
    }
    for path in ["", "C00000", "*", "http://a.example/C00000", "?q=/C00000", "\\C00000"] {
        cases.push(case(&format!("the path {path:?}"), PATH, &with(get(), ":path", path), malformed()));
    }
    let options = with(with(get(), ":method", "OPTIONS"), ":path", "*");
    cases.push(case("OPTIONS of `*`", PATH, &options, Any(&[PROTOCOL_ERROR], Vec::new())));
    let connect = of(&[(":method", "CONNECT"), (":authority", "a.example:443")]);
    cases.push(case("CONNECT", CONNECT, &connect, Reset(&[PROTOCOL_ERROR], &[400, 404, 405, 501])));
    let more = and(and(connect.clone(), ":scheme", "http"), ":path", "/C00000");
    cases.push(case("CONNECT with a path", CONNECT, &more, malformed()));
    cases.push(case("CONNECT to nobody", CONNECT, &of(&[(":method", "CONNECT")]), malformed()));
    for scheme in ["", "ht tp", "1http", "http:", "http\r\n", "javascript:alert(1)"] {
        cases.push(case(
            &format!("the scheme {scheme:?}"),
            SCHEME,
            &with(get(), ":scheme", scheme),
            malformed(),
        ));
    }
    for method in ["", "GE T", "GET\r\n", "GET/", "G@T", "GET\0", "\u{e4}"] {
        cases.push(case(
            &format!("the method {method:?}"),
            METHOD,
            &with(get(), ":method", method),
            malformed(),
        ));
    }
    for path in ["/C00000 x", "/C00000\r\n", "/C00000\0", "/C00000\t", "/C00000\u{7f}"] {
        cases.push(case(
            &format!("the path {path:?}"),
            "RFC 3986, 3.3: a path has no spaces and no control characters, and no fragment is sent",
            &with(get(), ":path", path),
            malformed(),
        ));
    }
    let fragment = with(get(), ":path", "/C00000#x");
    cases.push(case(
        "a fragment is refused, or goes no further",
        "RFC 9110, 7.1: a request target has no fragment",
        &fragment,
        Any(&[PROTOCOL_ERROR], vec![Check::Target("/C")]),
    ));
    cases
}

fn fields() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut bad = |name: &str, rests_on, field: &[u8], value: &[u8]| {
        cases.push(case(name, rests_on, &and(get(), field, value), malformed()));
    };
    for name in ["X-Upper", "x y", "x\ty", "x\r\ny", "x\0", "x:y", "x\u{7f}", "x\u{e4}", "", "(x)", "x\n"] {
        bad(&format!("a field named {name:?}"), NAME, name.as_bytes(), b"z");
    }
    for value in ["a\0b", "a\rb", "a\nb", "a\r\nb", "\0", "\r\n", "a\r\n", "\na"] {
        bad(&format!("the value {value:?}"), VALUE, b"x", value.as_bytes());
    }
    for value in [" a", "a ", "\ta", "a\t", " ", "\t"] {
        bad(&format!("the value {value:?}"), SPACE, b"x", value.as_bytes());
    }
    for (name, value) in [
        ("connection", "close"),
        ("connection", "keep-alive"),
        ("connection", "x-one"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "keep-alive"),
        ("transfer-encoding", "chunked"),
        ("transfer-encoding", "identity"),
        ("upgrade", "websocket"),
        ("upgrade", "h2c"),
    ] {
        bad(&format!("`{name}: {value}`"), CONNECTION, name.as_bytes(), value.as_bytes());
    }
    for value in ["gzip", "trailers, gzip", "chunked", ""] {
        bad(&format!("`te: {value}`"), TE, b"te", value.as_bytes());
    }
    cases.push(case("`te: trailers`", TE, &and(get(), "te", "trailers"), GET_200()));
    for (name, value) in
        [("x-empty", ""), ("x-high", "\u{e4}\u{20ac}"), ("x-tab", "a\tb"), ("x-quoted", "\"a, b\"")]
    {
        cases.push(case(
            &format!("`{name}: {value}`"),
            "RFC 9110, 5.5: a value may be empty, and has spaces, tabs and bytes above 0x7f inside",
            &and(get(), name, value),
            GET_200(),
        ));
    }
    let cookies = and(and(and(get(), "cookie", "a=b"), "x", "y"), "cookie", "c=d");
    let joined =
        Forwarded(vec![Check::Once("cookie"), Check::Has("cookie", "a=b; c=d"), Check::Status(&[200])]);
    cases.push(case("Cookie in two fields", COOKIE, &cookies, joined));
    cases
}

fn lengths() -> Vec<Case> {
    let data = |bytes: &[u8]| frame(DATA, END_STREAM, 1, bytes);
    let mut cases = vec![
        case("a length, and no body", LENGTH, &and(post(), "content-length", "5"), malformed()),
        upload(
            "a body that is longer than its length",
            LENGTH,
            &and(post(), "content-length", "3"),
            &[data(b"body")],
            malformed(),
        ),
        upload(
            "a body that is longer, in a frame of its own",
            LENGTH,
            &and(post(), "content-length", "4"),
            &[frame(DATA, 0, 1, b"body"), data(b"more")],
            malformed(),
        )
        .may_be_seen(),
        upload(
            "a body that is shorter than its length",
            LENGTH,
            &and(post(), "content-length", "5"),
            &[data(b"body")],
            malformed(),
        ),
        upload(
            "a body, where the length is 0",
            LENGTH,
            &and(post(), "content-length", "0"),
            &[data(b"body")],
            malformed(),
        )
        .may_be_seen(),
        upload(
            "a body that ends with nothing, and is shorter",
            LENGTH,
            &and(post(), "content-length", "5"),
            &[frame(DATA, 0, 1, b"body"), data(b"")],
            malformed(),
        ),
        upload(
            "a body of its length",
            LENGTH,
            &and(post(), "content-length", "4"),
            &[data(b"body")],
            Forwarded(vec![Check::Body(b"body"), Check::Status(&[200])]),
        ),
        upload(
            "a body without a length",
            LENGTH,
            &post(),
            &[data(b"body")],
            Forwarded(vec![Check::Body(b"body"), Check::Status(&[200])]),
        ),
    ];
    for length in ["+4", "-4", "4, 4", "4,5", "0x4", "4 ", "", "four", "4.0", "99999999999999999999", "4\0"] {
        cases.push(upload(
            &format!("the length {length:?}"),
            LENGTHS,
            &and(post(), "content-length", length),
            &[data(b"body")],
            malformed(),
        ));
    }
    for (one, two) in [("4", "5"), ("4", "0"), ("0", "4")] {
        cases.push(upload(
            &format!("the lengths {one} and {two}"),
            LENGTHS,
            &and(and(post(), "content-length", one), "content-length", two),
            &[data(b"body")],
            malformed(),
        ));
    }
    let twice = and(and(post(), "content-length", "4"), "content-length", "4");
    let once = Any(&[PROTOCOL_ERROR], vec![Check::Once("content-length"), Check::Body(b"body")]);
    cases.push(upload(
        "the same length twice",
        "RFC 9110, 8.6: the same length twice is refused, or made one",
        &twice,
        &[data(b"body")],
        once,
    ));
    cases
}

fn authorities() -> Vec<Case> {
    let mut cases = Vec::new();
    for authority in [
        "user@a.example",
        "user:word@a.example",
        "a.example/C00000",
        "a.example?x",
        "a.example#x",
        "a example",
        "a.example:x",
        "a.example:80:90",
        "a.example,b.example",
        "a.example\r\nx: y",
        "a.example\0",
        "[::1",
        "a.example\\b",
    ] {
        let fields = with(get(), ":authority", authority);
        cases.push(case(&format!("the authority {authority:?}"), AUTHORITY, &fields, malformed()));
        let fields = and(without(get(), ":authority"), "host", authority);
        cases.push(case(&format!("the host {authority:?}"), AUTHORITY, &fields, malformed()));
    }
    for host in ["b.example", "a.example.", "a.example:81", ""] {
        cases.push(case(
            &format!("a Host {host:?} beside :authority"),
            HOST,
            &and(get(), "host", host),
            malformed(),
        ));
    }
    cases.push(case(
        "the same Host twice",
        HOST,
        &and(and(get(), "host", "a.example"), "host", "a.example"),
        malformed(),
    ));
    cases.push(case(
        "two hosts",
        HOST,
        &and(and(without(get(), ":authority"), "host", "a.example"), "host", "b.example"),
        malformed(),
    ));
    cases.push(case("neither Host nor :authority", HOST, &without(get(), ":authority"), malformed()));
    let told =
        || Forwarded(vec![Check::Has("host", "a.example"), Check::Once("host"), Check::Status(&[200])]);
    cases.push(case("the same Host", HOST, &and(get(), "host", "a.example"), told()));
    cases.push(case("a Host alone", HOST, &and(without(get(), ":authority"), "host", "a.example"), told()));
    cases.push(case("an authority alone", HOST, &get(), told()));
    cases
}

fn trailers() -> Vec<Case> {
    let body = frame(DATA, 0, 1, b"body");
    let whole = || Forwarded(vec![Check::Body(b"body"), Check::Status(&[200])]);
    let of_one = |name: &str, value: &str| headers(1, END_STREAM, &of(&[(name, value)]));
    let mut cases = vec![
        upload(
            "trailers",
            TRAILERS,
            &and(post(), "trailer", "x-sum"),
            &[body.clone(), of_one("x-sum", "1")],
            whole(),
        ),
        upload(
            "trailers, and no body",
            TRAILERS,
            &post(),
            &[of_one("x-sum", "1")],
            Forwarded(vec![Check::Body(b""), Check::Status(&[200])]),
        ),
        upload(
            "trailers that do not end the stream",
            TRAILERS,
            &post(),
            &[body.clone(), headers(1, 0, &of(&[("x-sum", "1")]))],
            malformed(),
        ),
        upload(
            "trailers with a body that is too short",
            LENGTH,
            &and(post(), "content-length", "5"),
            &[body.clone(), of_one("x-sum", "1")],
            malformed(),
        ),
        upload(
            "trailers that nobody announced",
            TRAILERS,
            &post(),
            &[body.clone(), of_one("x-forwarded-for", "1.2.3.4")],
            whole(),
        ),
    ];
    for (name, value) in [(":path", "/SMUGGLED00000"), (":status", "200"), (":method", "PUT")] {
        // h2 drops them before anybody can refuse.
        let gone =
            Any(&[PROTOCOL_ERROR], vec![Check::Target("/C"), Check::Method("POST"), Check::Lacks(name)]);
        let behind = [body.clone(), of_one(name, value)];
        cases.push(upload(
            &format!("`{name}` in trailers is refused, or goes no further"),
            PSEUDO_TRAILER,
            &post(),
            &behind,
            gone,
        ));
    }
    for (name, value) in [
        ("X-Upper", "1"),
        ("x y", "1"),
        ("x", "a\r\nb"),
        ("x", "a\0"),
        ("transfer-encoding", "chunked"),
        ("connection", "x"),
    ] {
        cases.push(upload(
            &format!("`{name}: {value:?}` in trailers"),
            NAME,
            &post(),
            &[body.clone(), of_one(name, value)],
            malformed(),
        ));
    }
    cases
}
