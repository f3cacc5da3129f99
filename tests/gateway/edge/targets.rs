//! What is asked for (RFC 9112, section 3.2; RFC 3986): one path means one thing, here and behind.

use super::{
    Area::Targets,
    Case, Check,
    Want::{self, Either, Forwarded, Refused},
};

const FORMS: &str =
    "RFC 9112, 3.2: origin-form, absolute-form, authority-form for CONNECT, asterisk-form for OPTIONS";
const ABSOLUTE: &str =
    "RFC 9112, 3.2.2: a proxy that receives absolute-form ignores Host and takes that of the target";
const FRAGMENT: &str = "RFC 9112, 3.2.1: a target has no fragment";
const INVALID: &str = "RFC 9112, 3.2: an invalid request-line ought to be answered with 400";
const DOTS: &str = "naka: dot segments are refused, so that nobody behind removes them once more";
const ESCAPES: &str = "naka: what some readers decode and others do not is refused by default";
const SAME: &str = "RFC 9110, 7.7: a proxy must not change path and query of a target, but for an empty path";

fn case(name: String, rests_on: &'static str, sends: String, want: Want) -> Case {
    Case { area: Targets, name, rests_on, sends: sends.into_bytes(), answer: None, want }
}

fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nhost: a.example\r\nconnection: close\r\n\r\n")
}

fn of_host(target: &str, lines: &str) -> String {
    get(target).replace("host: a.example\r\n", lines)
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut add = |name: String, rests_on, sends, want| cases.push(case(name, rests_on, sends, want));
    let is_a = vec![Check::Status(&[200]), Check::Target("/C/A")];
    add(
        "/C/%41 is /C/A".to_owned(),
        "RFC 3986, 6.2.2.2: escapes of unreserved characters mean the characters",
        get("/C/%41"),
        Forwarded(is_a),
    );
    for target in [
        "/C",
        "/C?a=b",
        "/C?",
        "/C/a/b",
        "/C/",
        "/C?a=b&c=d",
        "/C/a;b=c",
        "/C/a,b",
        "/C/~a",
        "/C/a%20b",
        "/C?a=%2F",
        "/C?a=/../b",
        "/C?//",
        "/C/a:b@c",
        "/C/!$&'()*+,;=",
        "/C?x=?",
        "/C/%E0%A4%A8",
        "/C/...",
        "/C/.a",
        "/C/a.",
    ] {
        let expected = vec![Check::Status(&[200]), Check::Target(target)];
        add(format!("{target} is forwarded as it is"), SAME, get(target), Forwarded(expected));
    }
    for target in [
        "C",
        "http:/C",
        "http:///C",
        "://a/C",
        "//",
        "*",
        "a.example:80",
        "?a=b",
        "#",
        "",
        "http://",
        "ftp//a/C",
    ] {
        add(format!("{target:?} is no target of GET"), FORMS, get(target), Refused(&[400, 0]));
    }
    for target in ["/C#a", "/C?b#a", "http://a.example/C#a"] {
        let without =
            vec![Check::Status(&[200]), Check::Target(target.split('#').next().unwrap_or_default())];
        let want = if target.starts_with('/') {
            Either(&[400], without)
        } else {
            Either(&[400], vec![Check::Target("/C")])
        };
        add(format!("{target} has a fragment"), FRAGMENT, get(target), want);
    }
    for target in ["/C\"", "/C<", "/C>", "/C\\", "/C^", "/C`", "/C{", "/C|", "/C}"] {
        add(
            format!("{target} is no target"),
            INVALID,
            get(target),
            Either(&[400], vec![Check::Status(&[200, 404])]),
        );
    }
    for target in ["/C%", "/C%2", "/C%zz", "/C%%", "/C?a=%", "/C%u0041"] {
        add(
            format!("{target} is half an escape"),
            INVALID,
            get(target),
            Either(&[400], vec![Check::Target(target)]),
        );
    }
    for target in [
        "/C/../a",
        "/C/./a",
        "/../C",
        "/C/..",
        "/C/.",
        "/C/%2e%2e/a",
        "/C/%2E/a",
        "/C/.%2e/a",
        "/C/%2e./a",
        "/./C",
        "/C/a/../../b",
        "/C/..;/a",
        "/C/.;x/a",
        "/C/..;x=y/a",
    ] {
        add(format!("{target} has dot segments"), DOTS, get(target), Refused(&[400]));
    }
    for target in [
        "/C%2fa",
        "/C%2Fa",
        "/C%5ca",
        "/C%5C..%5Ca",
        "/C%00",
        "/C%2500%00",
        "/C%2e%2e%2fa",
        "/C%0d%0aa",
        "/C%0aa",
        "/C%7f",
        "/C%09",
    ] {
        add(format!("{target} has an escape that means something"), ESCAPES, get(target), Refused(&[400]));
    }
    for (what, target) in [
        ("no path", "http://b.example"),
        ("a path", "http://b.example/C"),
        ("a port", "http://b.example:81/C"),
        ("a query", "http://b.example/C?a"),
        ("capitals", "HTTP://B.EXAMPLE/C"),
    ] {
        let host = match what {
            "a port" => "b.example:81",
            _ => "b.example",
        };
        let mut checks = vec![Check::Status(&[200]), Check::Has("host", host), Check::Once("host")];
        if what == "a query" {
            checks.push(Check::Target("/C?a"));
        } else if what == "no path" {
            checks.push(Check::Target("/"));
        } else {
            checks.push(Check::Target("/C"));
        }
        add(
            format!("an absolute target with {what} beside another Host"),
            ABSOLUTE,
            get(target),
            Either(&[400], checks),
        );
    }
    add(
        "an absolute target and the same Host".into(),
        ABSOLUTE,
        of_host("http://b.example/C", "host: B.example\r\n"),
        Forwarded(vec![
            Check::Status(&[200]),
            Check::Target("/C"),
            Check::Has("host", "b.example"),
            Check::Once("host"),
        ]),
    );
    for lines in [
        "",
        "host: a b\r\n",
        "host: user@b.example\r\n",
        "host: b.example\r\nhost: b.example\r\n",
        "host: \r\n",
    ] {
        add(
            format!("an absolute target and {lines:?}"),
            "RFC 9112, 3.2: a server must refuse a request of HTTP/1.1 without Host, with two, or with one that is invalid",
            of_host("http://b.example/C", lines),
            Refused(&[400]),
        );
    }
    for target in ["http://user@b.example/C", "http://user:pass@b.example/C"] {
        add(
            format!("{target} has user info"),
            "RFC 9110, 4.2.4: user info in a target ought to be taken for an error",
            get(target),
            Refused(&[400]),
        );
    }
    for target in [
        "http://b.example:x/C",
        "http://b..example/C",
        "http://[::1/C",
        "http://b.example:999999/C",
        "http://b example/C",
        "http://\u{1}/C",
    ] {
        add(format!("{target} has no authority"), FORMS, get(target), Refused(&[400]));
    }
    for (line, what) in [
        ("CONNECT a.example:80", "CONNECT"),
        ("CONNECT /C", "CONNECT with a path"),
        ("CONNECT http://a.example/C", "CONNECT with a URL"),
        ("CONNECT a.example", "CONNECT without a port"),
    ] {
        let sends = format!(
            "{line} HTTP/1.1\r\nhost: a.example\r\nconnection: close\r\n\r\nGET /SMUGGLED HTTP/1.1\r\nhost: a\r\n\r\n"
        );
        add(
            what.to_owned(),
            "RFC 9110, 9.3.6: CONNECT ought to be refused by who is no tunnel",
            sends,
            Refused(&[400, 404, 405, 501]),
        );
    }
    let sends = "OPTIONS * HTTP/1.1\r\nhost: a.example\r\nconnection: close\r\n\r\n".to_owned();
    add("OPTIONS of the server".to_owned(), FORMS, sends, Either(&[400, 404], vec![Check::Target("*")]));
    cases
}
