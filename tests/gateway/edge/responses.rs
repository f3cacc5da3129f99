//! What a backend says (RFC 9112, sections 4 and 6.3; RFC 9110, section 15): what is broken never looks whole.

use super::{
    Area::Responses,
    Case, Check,
    Want::{self, Forwarded},
};

const LENGTH: &str =
    "RFC 9112, 6.3: an invalid Content-Length of a response: the proxy closes the connection and sends 502";
const TWO: &str =
    "RFC 9112, 6.3: Transfer-Encoding overrides Content-Length, which is removed before forwarding";
const SHORT: &str =
    "RFC 9112, 8: a response that ends before its length, or before its last chunk, is incomplete";
const STATUS: &str =
    "RFC 9112, 4: status-line = HTTP-version SP status-code SP [ reason-phrase ], status-code = 3DIGIT";
const NO_BODY: &str = "RFC 9112, 6.3: 1xx, 204, 304 and answers to HEAD end with their fields";
const INTERIM: &str =
    "RFC 9110, 15.2: a client must be able to parse one or more 1xx responses before a final response";
const SWITCH: &str =
    "RFC 9110, 15.2.2 and 7.8: a server must not switch to a protocol that was not asked for";
const FIELD: &str = "RFC 9112, 5.1 and 5.2: a proxy removes whitespace before colons and folded lines from a response, or refuses it";
const CLOSE: &str = "RFC 9112, 6.3: without either, the body ends with the connection";

fn case(name: &str, rests_on: &'static str, answer: impl Into<Vec<u8>>, want: Want) -> Case {
    let sends = b"GET /C HTTP/1.1\r\nhost: a.example\r\nconnection: close\r\n\r\n".to_vec();
    Case { area: Responses, name: name.to_owned(), rests_on, sends, answer: Some(answer.into()), want }
}

fn whole(body: &'static [u8]) -> Want {
    Forwarded(vec![Check::Status(&[200]), Check::AnswerBody(body), Check::Answers(1)])
}

fn broken() -> Want {
    Forwarded(vec![Check::NeverWhole])
}

fn is_502() -> Want {
    Forwarded(vec![Check::Status(&[502]), Check::Answers(1)])
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    framing(&mut cases);
    status_lines(&mut cases);
    without_bodies(&mut cases);
    cases
}

fn framing(cases: &mut Vec<Case>) {
    let mut add = |name: &str, rests_on, answer: &str, want| cases.push(case(name, rests_on, answer, want));
    let ok = "HTTP/1.1 200 OK\r\n";
    add("a length", CLOSE, &format!("{ok}content-length: 2\r\n\r\nok"), whole(b"ok"));
    add("until the connection ends", CLOSE, &format!("{ok}\r\nok"), whole(b"ok"));
    add(
        "in chunks",
        CLOSE,
        &format!("{ok}transfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
        whole(b"ok"),
    );
    add(
        "in chunks with an extension",
        CLOSE,
        &format!("{ok}transfer-encoding: chunked\r\n\r\n2;x=y\r\nok\r\n0\r\n\r\n"),
        whole(b"ok"),
    );
    add(
        "in chunks with trailers",
        CLOSE,
        &format!("{ok}transfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx: y\r\n\r\n"),
        whole(b"ok"),
    );
    add("of HTTP/1.0", CLOSE, "HTTP/1.0 200 OK\r\n\r\nok", whole(b"ok"));
    add("of HTTP/1.0 with a length", CLOSE, "HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok", whole(b"ok"));
    for lines in
        ["content-length: 2\r\ntransfer-encoding: chunked", "transfer-encoding: chunked\r\ncontent-length: 2"]
    {
        let answer = format!("{ok}{lines}\r\n\r\n3\r\nabc\r\n0\r\n\r\n");
        let want = Forwarded(vec![Check::Answers(1), Check::NeverBoth]);
        add(&format!("two framings, {lines:?}"), TWO, &answer, want);
    }
    for wrong in ["+2", "-2", "a", "2a", "0x2", "2 2", "99999999999999999999999"] {
        add(
            &format!("a length of {wrong:?}"),
            LENGTH,
            &format!("{ok}content-length: {wrong}\r\n\r\nok"),
            is_502(),
        );
    }
    for lines in ["content-length: 2\r\ncontent-length: 2", "content-length: 2, 2", "content-length: 02"] {
        add(
            &format!("one length twice or with zeros, {lines:?}"),
            "RFC 9110, 8.6: a recipient replaces a list of one length repeated by that length, or refuses it",
            &format!("{ok}{lines}\r\n\r\nok"),
            Want::Either(
                &[502],
                vec![
                    Check::AnswerBody(b"ok"),
                    Check::AnswerHas("content-length", "2"),
                    Check::AnswerHasOnce("content-length"),
                ],
            ),
        );
    }
    for lines in ["content-length: 2\r\ncontent-length: 3", "content-length: 2, 3"] {
        add(&format!("two lengths, {lines:?}"), LENGTH, &format!("{ok}{lines}\r\n\r\nokx"), is_502());
    }
    add("shorter than said", SHORT, &format!("{ok}content-length: 10\r\n\r\nok"), broken());
    add("nothing of what was said", SHORT, &format!("{ok}content-length: 10\r\n\r\n"), broken());
    add("no last chunk", SHORT, &format!("{ok}transfer-encoding: chunked\r\n\r\n2\r\nok\r\n"), broken());
    add("half a chunk", SHORT, &format!("{ok}transfer-encoding: chunked\r\n\r\na\r\nok"), broken());
    add(
        "no end of the trailers",
        SHORT,
        &format!("{ok}transfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n"),
        broken(),
    );
    add(
        "a chunk of no size",
        SHORT,
        &format!("{ok}transfer-encoding: chunked\r\n\r\nzz\r\nok\r\n0\r\n\r\n"),
        broken(),
    );
    add(
        "a chunk with a sign",
        SHORT,
        &format!("{ok}transfer-encoding: chunked\r\n\r\n-2\r\nok\r\n0\r\n\r\n"),
        broken(),
    );
    add(
        "a chunk over all numbers",
        SHORT,
        &format!("{ok}transfer-encoding: chunked\r\n\r\nffffffffffffffffff\r\nok\r\n0\r\n\r\n"),
        broken(),
    );
    add(
        "a chunk that is too long",
        SHORT,
        &format!("{ok}transfer-encoding: chunked\r\n\r\n1\r\nok\r\n0\r\n\r\n"),
        broken(),
    );
    add("half a head", SHORT, "HTTP/1.1 200 OK\r\ncontent-le", is_502());
    add("nothing", SHORT, "", is_502());
    // What follows an answer is not the next one.
    add(
        "two answers",
        "RFC 9112, 9.2: what follows the last response a client waits for is not one",
        &format!("{ok}content-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil"),
        Forwarded(vec![Check::Status(&[200]), Check::AnswerBody(b"ok"), Check::Answers(1)]),
    );
}

fn status_lines(cases: &mut Vec<Case>) {
    let mut add = |name: &str, rests_on, answer: &[u8], want| cases.push(case(name, rests_on, answer, want));
    let rest = b"\r\ncontent-length: 2\r\n\r\nok";
    for line in [
        "HTTP/1.1 20 OK",
        "HTTP/1.1 2000 OK",
        "HTTP/1.1 abc OK",
        "HTTP/1.1  200 OK",
        "HTTP/1.1 -20 OK",
        "HTTX/1.1 200 OK",
        "200 OK",
        "HTTP/1.1",
        "garbage",
        "\u{0}\u{1}\u{2}",
        "HTTP/1.1 099 Odd",
        "HTTP/3.0 200 OK",
    ] {
        add(&format!("the status line {line:?}"), STATUS, &[line.as_bytes(), rest].concat(), is_502());
    }
    for line in ["HTTP/1.1 200", "HTTP/1.1 200 ", "HTTP/1.1 200 All is well, and more", "HTTP/1.1 200 \u{e9}"]
    {
        add(&format!("the status line {line:?}"), STATUS, &[line.as_bytes(), rest].concat(), whole(b"ok"));
    }
    for (name, field) in [
        ("a blank before the colon", "x : y"),
        ("a folded line", "x: a\r\n b"),
        ("a NUL in a value", "x: \u{0}"),
        ("no colon", "xy"),
        ("a NUL in a name", "x\u{0}y: z"),
    ] {
        let answer = format!("HTTP/1.1 200 OK\r\n{field}\r\ncontent-length: 2\r\n\r\nok");
        add(name, FIELD, answer.as_bytes(), Forwarded(vec![Check::Status(&[200, 502])]));
    }
    add(
        "CR alone in a value",
        FIELD,
        b"HTTP/1.1 200 OK\r\nx: a\rb\r\ncontent-length: 2\r\n\r\nok",
        Forwarded(vec![Check::Status(&[200, 502])]),
    );
    for status in ["299 Odd", "404 Not Found", "500 Oops", "599 Odd"] {
        let code: &'static [u16] = match &status[..3] {
            "299" => &[299],
            "404" => &[404],
            "500" => &[500],
            _ => &[599],
        };
        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 2\r\n\r\nok");
        add(
            &format!("the status {status}"),
            STATUS,
            answer.as_bytes(),
            Forwarded(vec![Check::Status(code), Check::AnswerBody(b"ok")]),
        );
    }
    let unasked = "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil";
    add("a switch that nobody asked for", SWITCH, unasked.as_bytes(), is_502());
    add(
        "an interim answer",
        INTERIM,
        b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
        whole(b"ok"),
    );
    add(
        "100 that nobody asked for",
        INTERIM,
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
        whole(b"ok"),
    );
    let many =
        "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(3) + "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    add("three interim answers", INTERIM, many.as_bytes(), whole(b"ok"));
    let fields = format!("HTTP/1.1 200 OK\r\n{}content-length: 2\r\n\r\nok", "x: y\r\n".repeat(5000));
    add("five thousand fields", "naka: a response's head has a bound", fields.as_bytes(), is_502());
    let long = format!("HTTP/1.1 200 OK\r\nx: {}\r\ncontent-length: 2\r\n\r\nok", "y".repeat(2_000_000));
    add("a field of 2 MB", "naka: a response's head has a bound", long.as_bytes(), is_502());
}

fn without_bodies(cases: &mut Vec<Case>) {
    for (status, code) in [("204 No Content", &[204_u16][..]), ("304 Not Modified", &[304])] {
        for lines in ["x: y", "content-length: 5", "transfer-encoding: chunked"] {
            let answer = format!("HTTP/1.1 {status}\r\n{lines}\r\n\r\n");
            let want = Forwarded(vec![
                Check::Status(code),
                Check::Answers(1),
                Check::AnswerLacks("transfer-encoding"),
            ]);
            cases.push(case(&format!("{status} with {lines:?}"), NO_BODY, answer, want));
        }
        let answer = format!("HTTP/1.1 {status}\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil");
        let want = Forwarded(vec![Check::Status(code), Check::Answers(1)]);
        cases.push(case(&format!("{status} with another answer behind it"), NO_BODY, answer, want));
    }
    for lines in ["content-length: 5", "transfer-encoding: chunked", "x: y"] {
        let mut it = case(
            &format!("HEAD, and {lines:?}"),
            NO_BODY,
            format!("HTTP/1.1 200 OK\r\n{lines}\r\n\r\n"),
            Forwarded(vec![Check::Method("HEAD"), Check::Status(&[200]), Check::Answers(1)]),
        );
        it.sends = b"HEAD /C HTTP/1.1\r\nhost: a.example\r\nconnection: close\r\n\r\n".to_vec();
        cases.push(it);
    }
    let mut it = case(
        "the length of what HEAD leaves out",
        "RFC 9110, 8.6: Content-Length of an answer to HEAD is that of GET",
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n",
        Forwarded(vec![Check::AnswerHas("content-length", "5")]),
    );
    it.sends = b"HEAD /C HTTP/1.1\r\nhost: a.example\r\nconnection: close\r\n\r\n".to_vec();
    cases.push(it);
}
