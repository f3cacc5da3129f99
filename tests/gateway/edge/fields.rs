//! Request lines and fields (RFC 9112, sections 2, 3 and 5; RFC 9110, section 5).

use super::{
    Area::Fields,
    Case, Check,
    Want::{self, Either, Forwarded, Refused},
};

const NAME: &str = "RFC 9110, 5.1: field-name = token";
const VALUE: &str =
    "RFC 9110, 5.5: CR, LF and NUL within a value are invalid and dangerous: rejected, or replaced with SP";
const COLON: &str = "RFC 9112, 5.1: whitespace between a name and its colon must be rejected with 400";
const FOLDED: &str = "RFC 9112, 5.2: a server must reject obs-fold, or replace it with SP";
const LINE: &str = "RFC 9112, 3: request-line = method SP request-target SP HTTP-version";
const METHOD: &str = "RFC 9110, 9.1: method = token";
const LF: &str = "RFC 9112, 2.2: LF alone may be taken for a line's end by some, and is not by others";
const CR: &str = "RFC 9112, 2.2: a bare CR is invalid, or replaced with SP";
const BEFORE: &str = "RFC 9112, 2.2: whitespace between the start-line and the first field: rejected, or consumed without further processing";
const VERSION: &str = "RFC 9112, 2.3: HTTP-version = \"HTTP\" \"/\" DIGIT \".\" DIGIT; case-sensitive";
const HOST: &str = "RFC 9112, 3.2: 400 to a request without Host, with several, or with an invalid one";

fn case(name: String, rests_on: &'static str, sends: impl Into<Vec<u8>>, want: Want) -> Case {
    Case { area: Fields, name, rests_on, sends: sends.into(), answer: None, want }
}

fn get(lines: &[u8]) -> Vec<u8> {
    [b"GET /C HTTP/1.1\r\nhost: a.example\r\nconnection: close\r\n", lines, b"\r\n\r\n"].concat()
}

fn fine() -> Vec<Check> {
    vec![Check::Status(&[200]), Check::Answers(1)]
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    characters(&mut cases);
    lines(&mut cases);
    hosts(&mut cases);
    limits(&mut cases);
    cases
}

/// Every character that must not stand somewhere, there.
fn characters(cases: &mut Vec<Case>) {
    let controls = || (0_u8..=0x1f).chain([0x7f]);
    for byte in controls().filter(|byte| ![b'\t', b'\r', b'\n'].contains(byte)) {
        let want = if byte == 0 {
            Refused(&[400])
        } else {
            Either(&[400], vec![Check::Lacks("x"), Check::Status(&[200])])
        };
        cases.push(case(
            format!("{byte:#04x} in a value"),
            VALUE,
            get(&[b"x: a", &[byte][..], b"b"].concat()),
            want,
        ));
    }
    for byte in controls().filter(|byte| ![b'\r', b'\n'].contains(byte)) {
        let sends = get(&[b"x", &[byte][..], b"y: 1"].concat());
        cases.push(case(format!("{byte:#04x} in a name"), NAME, sends, Refused(&[400])));
    }
    for byte in b"\"(),/;<=>?@[\\]{} ".iter().chain(&[0x80, 0xa0, 0xff]) {
        let sends = get(&[b"x", &[*byte][..], b"y: 1"].concat());
        cases.push(case(format!("{byte:#04x} in a name"), NAME, sends, Refused(&[400])));
    }
    for byte in b"!#$%&'*+-.^_`|~09azAZ" {
        let sends = get(&[b"x", &[*byte][..], b"y: 1"].concat());
        cases.push(case(format!("{:?} in a name", char::from(*byte)), NAME, sends, Forwarded(fine())));
    }
    for byte in controls().filter(|byte| ![b'\r', b'\n'].contains(byte)) {
        let sends =
            [b"GET /C", &[byte][..], b" HTTP/1.1\r\nhost: a.example\r\nconnection: close\r\n\r\n"].concat();
        cases.push(case(format!("{byte:#04x} in a target"), LINE, sends, Refused(&[400])));
    }
    for byte in controls().filter(|byte| ![b'\r', b'\n'].contains(byte)).chain(*b"()<>@,;:\\\"/[]?={}") {
        let sends =
            [b"GE", &[byte][..], b"T /C HTTP/1.1\r\nhost: a.example\r\nconnection: close\r\n\r\n"].concat();
        cases.push(case(format!("{byte:#04x} in a method"), METHOD, sends, Refused(&[400, 405, 501])));
    }
    for (name, value, is) in [
        ("a value with blanks around it", &b"x: \t y \t"[..], "y"),
        ("a value without a blank before it", b"x:y", "y"),
        ("a value with a tab in it", b"x: a\tb", "a\tb"),
        ("an empty value", b"x:", ""),
        ("a value with a colon", b"x: a:b", "a:b"),
    ] {
        cases.push(case(
            name.to_owned(),
            VALUE,
            get(value),
            Forwarded(vec![Check::Has("x", is), Check::Status(&[200])]),
        ));
    }
}

fn lines(cases: &mut Vec<Case>) {
    let mut add =
        |name: &str, rests_on, sends: &str, want| cases.push(case(name.to_owned(), rests_on, sends, want));
    let rest = "host: a.example\r\nconnection: close\r\n\r\n";
    for (name, line) in [
        ("two blanks before the target", "GET  /C HTTP/1.1"),
        ("two blanks behind the target", "GET /C  HTTP/1.1"),
        ("a tab before the target", "GET\t/C HTTP/1.1"),
        ("a blank before the method", " GET /C HTTP/1.1"),
        ("a blank behind the version", "GET /C HTTP/1.1 "),
        ("a blank in the target", "GET /C /b HTTP/1.1"),
        ("no target", "GET HTTP/1.1"),
        ("no method", "/C HTTP/1.1"),
        ("four parts", "GET /C HTTP/1.1 x"),
    ] {
        add(name, LINE, &format!("{line}\r\n{rest}"), Refused(&[400]));
    }
    add("no version", LINE, &format!("GET /C\r\n{rest}"), Refused(&[400, 0]));
    for version in [
        "http/1.1",
        "HTTP/1.1.1",
        "HTTP/01.1",
        "HTTP/1.01",
        "HTTP/ 1.1",
        "HTTP /1.1",
        "HTTP/1,1",
        "HTTP/x.y",
        "HTTP/11",
        "HTTP/1.",
        "HTTP/.1",
        "HTTP/-1.1",
        "HTTPS/1.1",
        "HTP/1.1",
        "XTTP/1.1",
        "HTTP1.1",
        "HTTP/1.1\u{0}",
        "ICY/1.1",
    ] {
        add(
            &format!("the version {version:?}"),
            VERSION,
            &format!("GET /C {version}\r\n{rest}"),
            Refused(&[400, 505]),
        );
    }
    for version in ["HTTP/0.9", "HTTP/2.0", "HTTP/3.0", "HTTP/9.9"] {
        let refused = Refused(&[400, 426, 505, 0]);
        add(
            &format!("the version {version}"),
            "RFC 9110, 15.6.6: 505 for a major version that is not supported",
            &format!("GET /C {version}\r\n{rest}"),
            refused,
        );
    }
    add("HTTP/1.0", VERSION, &format!("GET /C HTTP/1.0\r\n{rest}"), Forwarded(fine()));
    add("HTTP/1.0 without a host", HOST, "GET /C HTTP/1.0\r\n\r\n", Either(&[400], fine()));
    let lf = [
        ("LF alone behind the request line", format!("GET /C HTTP/1.1\n{rest}")),
        (
            "LF alone behind a field",
            "GET /C HTTP/1.1\r\nhost: a.example\nconnection: close\r\n\r\n".to_owned(),
        ),
        ("LF alone everywhere", "GET /C HTTP/1.1\nhost: a.example\nconnection: close\n\n".to_owned()),
        (
            "LF alone for the empty line",
            "GET /C HTTP/1.1\r\nhost: a.example\r\nconnection: close\r\n\n".to_owned(),
        ),
    ];
    for (name, sends) in lf {
        add(name, LF, &sends, Either(&[400], vec![Check::Once("host"), Check::Status(&[200])]));
    }
    let smuggled =
        "GET /C HTTP/1.1\r\nhost: a.example\r\nx: y\n\nGET /SMUGGLED HTTP/1.1\r\nhost: a.example\r\n\r\n";
    add(
        "a request behind two LF",
        "naka: LF alone ends no line, so that nobody has to ask who takes it for one",
        smuggled,
        Refused(&[400]),
    );
    for (name, sends) in [
        ("CR alone behind the request line", format!("GET /C HTTP/1.1\r{rest}")),
        (
            "CR alone behind a field",
            "GET /C HTTP/1.1\r\nhost: a.example\rconnection: close\r\n\r\n".to_owned(),
        ),
        ("CR alone in a value", format!("GET /C HTTP/1.1\r\nx: a\rb\r\n{rest}")),
        ("CR CR LF", format!("GET /C HTTP/1.1\r\nx: a\r\r\n{rest}")),
        ("CR alone in a name", format!("GET /C HTTP/1.1\r\nx\ry: a\r\n{rest}")),
        ("CR alone in the target", format!("GET /C\rx HTTP/1.1\r\n{rest}")),
    ] {
        add(name, CR, &sends, Refused(&[400]));
    }
    for (name, line) in [
        ("a blank before the colon", "x : y"),
        ("a tab before the colon", "x\t: y"),
        ("two blanks before the colon", "x  : y"),
        ("no colon", "xy"),
        ("no name", ": y"),
        ("only a blank for a name", " : y"),
    ] {
        add(name, COLON, &format!("GET /C HTTP/1.1\r\n{line}\r\n{rest}"), Refused(&[400]));
    }
    for (name, line) in [
        ("folded with a blank", "x: a\r\n b"),
        ("folded with a tab", "x: a\r\n\tb"),
        ("folded twice", "x: a\r\n b\r\n c"),
        ("folded with nothing", "x: a\r\n \r\ny: z"),
    ] {
        add(
            name,
            FOLDED,
            &format!("GET /C HTTP/1.1\r\n{line}\r\n{rest}"),
            Either(&[400], vec![Check::Status(&[200]), Check::Once("x")]),
        );
    }
    for blank in [" ", "\t"] {
        add(
            &format!("{blank:?} before the first field"),
            BEFORE,
            &format!("GET /C HTTP/1.1\r\n{blank}x: y\r\n{rest}"),
            Either(&[400], vec![Check::Lacks("x"), Check::Status(&[200])]),
        );
        add(
            &format!("{blank:?} before a host"),
            BEFORE,
            &format!("GET /C HTTP/1.1\r\n{blank}host: b.example\r\n{rest}"),
            Either(&[400], vec![Check::Has("host", "a.example"), Check::Once("host"), Check::Status(&[200])]),
        );
    }
    add(
        "an empty line before the request",
        "RFC 9112, 2.2: at least one empty line before a request line should be ignored",
        &format!("\r\nGET /C HTTP/1.1\r\n{rest}"),
        Either(&[400], fine()),
    );
    add("a NUL before the request", LINE, &format!("\u{0}GET /C HTTP/1.1\r\n{rest}"), Refused(&[400, 0]));
    add(
        "a byte order mark before the request",
        METHOD,
        &format!("\u{feff}GET /C HTTP/1.1\r\n{rest}"),
        Refused(&[400, 0]),
    );
    add(
        "a method in small letters is another one",
        METHOD,
        &format!("get /C HTTP/1.1\r\n{rest}"),
        Either(&[400, 405, 501], vec![Check::Method("get")]),
    );
    add(
        "a method nobody knows",
        METHOD,
        &format!("FROBNICATE /C HTTP/1.1\r\n{rest}"),
        Either(&[400, 405, 501], vec![Check::Method("FROBNICATE")]),
    );
    add(
        "TRACE",
        "RFC 9110, 9.3.8: a client must not send content in TRACE",
        "TRACE /C HTTP/1.1\r\nhost: a.example\r\nconnection: close\r\ncontent-length: 3\r\n\r\nabc",
        Either(&[400, 405, 501], vec![Check::Method("TRACE")]),
    );
}

fn hosts(cases: &mut Vec<Case>) {
    let mut add =
        |name: &str, rests_on, sends: &str, want| cases.push(case(name.to_owned(), rests_on, sends, want));
    add("no host", HOST, "GET /C HTTP/1.1\r\nconnection: close\r\n\r\n", Refused(&[400]));
    for lines in [
        "host: a.example\r\nhost: b.example",
        "host: a.example\r\nhost: a.example",
        "host: a.example\r\nHOST: a.example",
        "host:\r\nhost: a.example",
        "host: a.example, b.example",
        "host: a.example b.example",
        "host: user@a.example",
        "host: user:pass@a.example",
        "host: a.example:port",
        "host: a.example:80:80",
        "host: a.example:-1",
        "host: a.example:99999999",
        "host: http://a.example",
        "host: a.example/path",
        "host: a.example?x",
        "host: a.example#x",
        "host: a.example\\b.example",
        "host: [::1",
        "host: ::1]",
        "host: [::g]",
        "host: a<b",
        "host: a\"b",
        "host: a%00b",
        "host: \u{0}",
        "host: a.example\u{0}",
        "host: .",
        "host: a..b",
        "host: a\u{b}b",
    ] {
        add(
            &format!("{lines:?}"),
            HOST,
            &format!("GET /C HTTP/1.1\r\nconnection: close\r\n{lines}\r\n\r\n"),
            Refused(&[400]),
        );
    }
    for host in [
        "a.example",
        "a.example:80",
        "A.EXAMPLE",
        "127.0.0.1",
        "127.0.0.1:8080",
        "[::1]",
        "[::1]:8080",
        "a-b.example",
        "xn--a.example",
        "a_b.example",
    ] {
        add(
            &format!("the host {host}"),
            HOST,
            &format!("GET /C HTTP/1.1\r\nconnection: close\r\nhost: {host}\r\n\r\n"),
            Forwarded(vec![Check::Once("host"), Check::Status(&[200])]),
        );
    }
}

fn limits(cases: &mut Vec<Case>) {
    const LIMITS: &str = "naka: 16 KiB and 64 fields of a head, 4 KiB of a target, as configured here";
    let head =
        |lines: &str| format!("GET /C HTTP/1.1\r\nhost: a.example\r\nconnection: close\r\n{lines}\r\n\r\n");
    let mut add = |name: &str, sends: String, want| cases.push(case(name.to_owned(), LIMITS, sends, want));
    add("a value of 10 KB", head(&format!("x: {}", "y".repeat(10_000))), Forwarded(fine()));
    add("a value of 20 KB", head(&format!("x: {}", "y".repeat(20_000))), Refused(&[431, 400]));
    add("a name of 20 KB", head(&format!("{}: y", "x".repeat(20_000))), Refused(&[431, 400]));
    add("60 fields", head(&vec!["x: y"; 60].join("\r\n")), Forwarded(fine()));
    add("100 fields", head(&vec!["x: y"; 100].join("\r\n")), Refused(&[431, 400]));
    add(
        "a target of 3 KB",
        format!("GET /C?{} HTTP/1.1\r\nhost: a.example\r\nconnection: close\r\n\r\n", "y".repeat(3000)),
        Forwarded(fine()),
    );
    add(
        "a target of 5 KB",
        format!("GET /C?{} HTTP/1.1\r\nhost: a.example\r\nconnection: close\r\n\r\n", "y".repeat(5000)),
        Refused(&[414, 431, 400]),
    );
    add(
        "a target of 20 KB",
        format!("GET /C?{} HTTP/1.1\r\nhost: a.example\r\nconnection: close\r\n\r\n", "y".repeat(20_000)),
        Refused(&[414, 431, 400]),
    );
    add(
        "a method of 20 KB",
        format!("{} /C HTTP/1.1\r\nhost: a.example\r\nconnection: close\r\n\r\n", "G".repeat(20_000)),
        Refused(&[431, 400, 501, 414]),
    );
    add(
        "a head without an end",
        format!("GET /C HTTP/1.1\r\nhost: a.example\r\n{}", "x: y\r\n".repeat(4000)),
        Refused(&[431, 400]),
    );
}
