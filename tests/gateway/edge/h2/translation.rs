//! Requests that are whole in HTTP/2 and two in HTTP/1.1 (Kettle, "HTTP/2: The Sequel is Always Worse", 2021): the backend sees one, or none.

use super::{
    Area::Translation,
    Case, Check, PROTOCOL_ERROR,
    Want::{self, Forwarded, Reset},
    wire::{DATA, END_STREAM, and, begin, frame, get, headers, of, post, with, without},
};

const CRLF: &str = "RFC 9113, 10.3: an intermediary that passes on to HTTP/1.1 what has CR, LF or NUL passes on something else than was sent";
const FRAMING: &str =
    "RFC 9113, 8.1.1, 8.2.2: what frames a message in HTTP/1.1 says nothing in HTTP/2, or is malformed";
const TARGET: &str = "RFC 9113, 8.3.1, 10.3: :method, :path and :authority become parts of a request line, and of nothing else";
const BODY: &str = "RFC 9113, 8.1: the body is what is in DATA, whatever it looks like";

/// A request that another is hidden in.
const HIDDEN: &str = "GET /SMUGGLED00000 HTTP/1.1\r\nhost: a.example\r\n\r\n";

fn malformed() -> Want {
    Reset(&[PROTOCOL_ERROR], &[400, 405, 501])
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases = lines();
    cases.extend(framings());
    cases.extend(bodies());
    cases
}

fn case(name: &str, rests_on: &'static str, fields: &[(Vec<u8>, Vec<u8>)], want: Want) -> Case {
    Case::new(Translation, name, rests_on, [begin(), headers(1, END_STREAM, fields)].concat(), want)
}

fn lines() -> Vec<Case> {
    let mut cases = Vec::new();
    for end in ["\r\n\r\n", "\n\n", "\r\r", "\r\n \r\n\r\n", "\n\r\n", "\0\r\n\r\n"] {
        let value = format!("y{end}{HIDDEN}");
        cases.push(case(
            &format!("a value with {end:?} and a request"),
            CRLF,
            &and(get(), "x", &value),
            malformed(),
        ));
        let name = format!("x: y{end}{HIDDEN}");
        cases.push(case(
            &format!("a name with {end:?} and a request"),
            CRLF,
            &and(get(), &name, "y"),
            malformed(),
        ));
        let path = format!("/C00000 HTTP/1.1{end}{HIDDEN}");
        cases.push(case(
            &format!("a path with {end:?} and a request"),
            TARGET,
            &with(get(), ":path", &path),
            malformed(),
        ));
        let method = format!("GET /C00000 HTTP/1.1{end}{HIDDEN}POST");
        cases.push(case(
            &format!("a method with {end:?} and a request"),
            TARGET,
            &with(get(), ":method", &method),
            malformed(),
        ));
        let authority = format!("a.example{end}{HIDDEN}");
        cases.push(case(
            &format!("an authority with {end:?} and a request"),
            TARGET,
            &with(get(), ":authority", &authority),
            malformed(),
        ));
        let scheme = format!("http://a.example/C00000 HTTP/1.1{end}{HIDDEN}");
        cases.push(case(
            &format!("a scheme with {end:?} and a request"),
            TARGET,
            &with(get(), ":scheme", &scheme),
            malformed(),
        ));
        let host = and(without(get(), ":authority"), "host", format!("a.example{end}{HIDDEN}"));
        cases.push(case(&format!("a host with {end:?} and a request"), TARGET, &host, malformed()));
        let cookie = and(and(get(), "cookie", "a=b"), "cookie", format!("c=d{end}{HIDDEN}"));
        cases.push(case(&format!("a cookie with {end:?} and a request"), CRLF, &cookie, malformed()));
    }
    for value in [
        "y\r\ntransfer-encoding: chunked",
        "y\ncontent-length: 100",
        "y\r\nx-user-id: admin",
        "y\r\n\tfolded",
    ] {
        cases.push(case(
            &format!("a field in a field, {value:?}"),
            CRLF,
            &and(get(), "x", value),
            malformed(),
        ));
    }
    for path in [
        "/SMUGGLED00000 HTTP/1.1\r\nx: y",
        "/C00000 HTTP/1.0",
        "/C00000?x HTTP/1.1\r\nhost: b",
        "/C00000\u{b}x",
    ] {
        cases.push(case(
            &format!("a line in a path, {path:?}"),
            TARGET,
            &with(get(), ":path", path),
            malformed(),
        ));
    }
    for method in ["GET /SMUGGLED00000", "GET /SMUGGLED00000?", "GET http://b.example/SMUGGLED00000?"] {
        cases.push(case(
            &format!("a target in a method, {method:?}"),
            TARGET,
            &with(get(), ":method", method),
            malformed(),
        ));
    }
    cases
}

fn framings() -> Vec<Case> {
    let mut cases = Vec::new();
    let chunks = format!("0\r\n\r\n{HIDDEN}");
    let mut add = |name: &str, value: &[u8], length: Option<&str>| {
        let mut fields = and(post(), name, value);
        fields.extend(length.map(|length| (b"content-length".to_vec(), length.as_bytes().to_vec())));
        let sends = [begin(), headers(1, 0, &fields), frame(DATA, END_STREAM, 1, chunks.as_bytes())].concat();
        let value = String::from_utf8_lossy(value);
        cases.push(Case::new(
            Translation,
            &format!("`{name}: {value:?}`, length {length:?}, and chunks in the body"),
            FRAMING,
            sends,
            malformed(),
        ));
    };
    let all = chunks.len().to_string();
    for length in [None, Some("0"), Some("5"), Some(&*all)] {
        add("transfer-encoding", b"chunked", length);
    }
    for (name, value) in [
        ("Transfer-Encoding", &b"chunked"[..]),
        ("transfer-encoding ", b"chunked"),
        (" transfer-encoding", b"chunked"),
        ("transfer-encoding\t", b"chunked"),
        ("transfer-encoding:", b"chunked"),
        ("transfer-encoding\0", b"chunked"),
        ("transfer-encoding", b" chunked"),
        ("transfer-encoding", b"\x0bchunked"),
        ("transfer-encoding", b"chunked\0"),
        ("transfer-encoding", b"CHUNKED"),
        ("transfer-encoding", b"x"),
        ("x\r\ntransfer-encoding", b"chunked"),
        ("connection", b"transfer-encoding"),
        ("Content-Length", b"0"),
        ("content-length ", b"0"),
        ("content-length\0", b"0"),
    ] {
        add(name, value, None);
    }
    for length in ["0", "1", "10"] {
        let fields = and(post(), "content-length", length);
        let sends = [begin(), headers(1, 0, &fields), frame(DATA, END_STREAM, 1, HIDDEN.as_bytes())].concat();
        cases.push(
            Case::new(
                Translation,
                &format!("a length of {length} that is too short"),
                FRAMING,
                sends,
                malformed(),
            )
            .may_be_seen(),
        );
    }
    let twice = and(and(post(), "content-length", "0"), "content-length", HIDDEN.len().to_string());
    let sends = [begin(), headers(1, 0, &twice), frame(DATA, END_STREAM, 1, HIDDEN.as_bytes())].concat();
    cases.push(Case::new(Translation, "two lengths, one of them right", FRAMING, sends, malformed()));
    let trailer = headers(1, END_STREAM, &of(&[("x", &format!("y\r\n\r\n{HIDDEN}"))]));
    let sends = [begin(), headers(1, 0, &post()), frame(DATA, 0, 1, b"body"), trailer].concat();
    cases.push(Case::new(Translation, "a request in a trailer", CRLF, sends, malformed()));
    cases
}

fn bodies() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, body) in [
        ("a request", "GET /x HTTP/1.1\r\nhost: a.example\r\n\r\n"),
        ("an end of chunks and a request", "0\r\n\r\nGET /x HTTP/1.1\r\nhost: a.example\r\n\r\n"),
        ("a chunk", "4\r\nbody\r\n0\r\n\r\n"),
    ] {
        for method in ["POST", "GET", "DELETE"] {
            let fields = with(get(), ":method", method);
            let sends =
                [begin(), headers(1, 0, &fields), frame(DATA, END_STREAM, 1, body.as_bytes())].concat();
            let want =
                Forwarded(vec![Check::Body(body.as_bytes()), Check::Method(method), Check::Status(&[200])]);
            cases.push(Case::new(
                Translation,
                &format!("{name} as the body of a {method}"),
                BODY,
                sends,
                want,
            ));
        }
    }
    cases
}
