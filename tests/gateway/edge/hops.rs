//! What concerns one connection, and what a proxy says of itself (RFC 9110, sections 7.6 and 10.1).

use super::{
    Area::Hops,
    Case, Check,
    Want::{self, Either, Forwarded},
};

const HOP: &str = "RFC 9110, 7.6.1: an intermediary must not forward fields that concern the connection";
const NAMED: &str = "RFC 9110, 7.6.1: a field that Connection names is removed, and Connection too";
const NOT_NAMED: &str =
    "RFC 9110, 7.6.1: a sender must not name fields in Connection that are for all recipients";
const VIA: &str = "RFC 9110, 7.6.3: a proxy must send a Via field in each message it forwards";
const EXPECT: &str =
    "RFC 9110, 10.1.1: a server that does not answer an expectation with a final status sends 100";
const TE: &str = "RFC 9110, 10.1.4: TE is of one hop; with it stands `TE` in Connection";
const MAX_FORWARDS: &str = "RFC 9110, 7.6.2: Max-Forwards of 0 is not forwarded, for TRACE and OPTIONS";
const FORWARDED: &str = "naka: what strangers say of the way here is not believed";

fn case(name: String, rests_on: &'static str, lines: &str, want: Want) -> Case {
    let sends = format!("GET /C HTTP/1.1\r\nhost: a.example\r\n{lines}\r\n\r\n").into_bytes();
    Case { area: Hops, name, rests_on, sends, answer: None, want }
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases = requests();
    cases.extend(responses());
    cases
}

fn requests() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut add = |name: String, rests_on, lines: &str, checks: Vec<Check>| {
        let mut checks = checks;
        checks.push(Check::Status(&[200]));
        cases.push(case(name, rests_on, &format!("{lines}\r\nconnection: close"), Forwarded(checks)));
    };
    for (name, value) in [
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "keep-alive"),
        ("te", "gzip"),
        ("upgrade", "websocket"),
    ] {
        add(format!("`{name}` is not forwarded"), HOP, &format!("{name}: {value}"), vec![Check::Lacks(name)]);
    }
    for (name, value) in [("proxy-authorization", "Basic YTpi"), ("http2-settings", "AAMAAABkAAQAAP__")] {
        let rests_on = "naka: what is for a proxy, or for another protocol, ends here";
        add(
            format!("`{name}` is not forwarded"),
            rests_on,
            &format!("{name}: {value}"),
            vec![Check::Lacks(name)],
        );
    }
    for (named, lines) in [
        ("x-one", "connection: x-one\r\nx-one: 1"),
        ("x-one", "connection: X-ONE\r\nx-one: 1"),
        ("x-one", "x-one: 1\r\nconnection: close, x-one"),
        ("x-one", "connection: x-one,close\r\nx-one: 1\r\nx-one: 2"),
        ("x-one", "connection: keep-alive\r\nconnection: x-one\r\nx-one: 1"),
        ("x-one", "connection:  , x-one ,\r\nx-one: 1"),
        ("cookie", "connection: cookie\r\ncookie: a=b"),
        ("te", "connection: te\r\nte: gzip"),
    ] {
        add(
            format!("what Connection names is not forwarded, {lines:?}"),
            NAMED,
            lines,
            vec![Check::Lacks(named)],
        );
    }
    for lines in
        ["connection: host", "connection: close, host", "connection: content-length\r\ncontent-length: 0"]
    {
        add(
            format!("Connection names what everybody needs, {lines:?}"),
            NOT_NAMED,
            lines,
            vec![Check::Once("host")],
        );
    }
    for lines in ["connection: x-forwarded-for", "connection: x-forwarded-for, x-real-ip"] {
        add(
            format!("Connection names where it comes from, {lines:?}"),
            NOT_NAMED,
            lines,
            vec![Check::Has("x-forwarded-for", "127.0.0.1")],
        );
    }
    add("Via is added".to_owned(), VIA, "x: y", vec![Check::Once("via")]);
    for (name, value) in [
        ("x-forwarded-for", "1.2.3.4"),
        ("x-forwarded-host", "evil.example"),
        ("x-forwarded-proto", "https"),
        ("forwarded", "for=1.2.3.4"),
        ("x-real-ip", "1.2.3.4"),
        ("x_forwarded_for", "1.2.3.4"),
    ] {
        let checks =
            if name.starts_with("x-forwarded") { vec![Check::Once(name)] } else { vec![Check::Lacks(name)] };
        add(format!("`{name}` of a stranger"), FORWARDED, &format!("{name}: {value}"), checks);
    }
    add(
        "the client's address is told".to_owned(),
        FORWARDED,
        "x-forwarded-for: 1.2.3.4",
        vec![Check::Has("x-forwarded-for", "127.0.0.1")],
    );
    for name in [
        "authorization",
        "cookie",
        "accept",
        "range",
        "if-none-match",
        "user-agent",
        "cache-control",
        "x-custom",
    ] {
        add(
            format!("`{name}` is forwarded"),
            "RFC 9110, 5.1: a proxy must forward fields it does not know",
            &format!("{name}: v"),
            vec![Check::Has(name, "v")],
        );
    }
    add(
        "`TE: trailers` may be forwarded".to_owned(),
        TE,
        "te: trailers\r\nconnection: te",
        vec![Check::Once("host")],
    );
    let mut expect = case(
        "a body that waits to be asked for".to_owned(),
        EXPECT,
        "connection: close",
        Forwarded(vec![Check::Status(&[200]), Check::Body(b"abc"), Check::Answers(1)]),
    );
    expect.sends = b"POST /C HTTP/1.1\r\nhost: a.example\r\nconnection: close\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\nabc".to_vec();
    cases.push(expect);
    let mut unknown = case(
        "an expectation nobody knows".to_owned(),
        "RFC 9110, 10.1.1: 417 may be sent to an expectation that is not 100-continue",
        "connection: close",
        Either(&[417, 400], vec![Check::Status(&[200])]),
    );
    unknown.sends =
        b"GET /C HTTP/1.1\r\nhost: a.example\r\nconnection: close\r\nexpect: the-impossible\r\n\r\n".to_vec();
    cases.push(unknown);
    for method in ["OPTIONS", "TRACE"] {
        let mut zero = case(
            format!("{method} with Max-Forwards of 0"),
            MAX_FORWARDS,
            "connection: close",
            Either(&[200, 204, 400, 404, 405, 501], vec![Check::Has("max-forwards", "0")]),
        );
        zero.sends = format!(
            "{method} /C HTTP/1.1\r\nhost: a.example\r\nconnection: close\r\nmax-forwards: 0\r\n\r\n"
        )
        .into_bytes();
        cases.push(zero);
    }
    cases
}

/// The same on the way back.
fn responses() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut add = |name: String, rests_on, lines: &str, checks: Vec<Check>| {
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n{lines}\r\n\r\nok").into_bytes();
        let mut checks = checks;
        checks.extend([Check::Status(&[200]), Check::AnswerBody(b"ok")]);
        cases.push(Case {
            answer: Some(answer),
            ..case(name, rests_on, "connection: close", Forwarded(checks))
        });
    };
    for (name, value) in [
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "keep-alive"),
        ("upgrade", "h2c"),
        ("proxy-authenticate", "Basic"),
    ] {
        add(
            format!("`{name}` is not passed back"),
            HOP,
            &format!("{name}: {value}"),
            vec![Check::AnswerLacks(name)],
        );
    }
    for lines in [
        "connection: x-one\r\nx-one: 1",
        "x-one: 1\r\nconnection: keep-alive, X-One",
        "connection: close\r\nconnection: x-one\r\nx-one: 1",
    ] {
        add(
            format!("what Connection names is not passed back, {lines:?}"),
            NAMED,
            lines,
            vec![Check::AnswerLacks("x-one")],
        );
    }
    for (name, value) in [
        ("server", "s"),
        ("etag", "\"e\""),
        ("set-cookie", "a=b"),
        ("x-custom", "v"),
        ("www-authenticate", "Basic"),
        ("cache-control", "no-store"),
    ] {
        add(
            format!("`{name}` is passed back"),
            "RFC 9110, 5.1: a proxy must forward fields it does not know",
            &format!("{name}: {value}"),
            vec![Check::AnswerHas(name, value)],
        );
    }
    add(
        "two cookies stay two".to_owned(),
        "RFC 9110, 5.3: Set-Cookie cannot be joined",
        "set-cookie: a=b\r\nset-cookie: c=d",
        vec![Check::AnswerHas("set-cookie", "a=b"), Check::AnswerHas("set-cookie", "c=d")],
    );
    add(
        "Via is added on the way back".to_owned(),
        "naka: RFC 9110, 7.6.3 lets a gateway leave it out here",
        "x: y",
        vec![Check::AnswerHas("via", "1.1 naka")],
    );
    cases
}
