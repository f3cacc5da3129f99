//! Where a request's body ends (RFC 9112, sections 6 and 7).

use super::{
    Area::Framing,
    Case, Check,
    Want::{self, Either, Forwarded, Refused},
};

const TWO: &str =
    "RFC 9112, 6.3: a message with both Transfer-Encoding and Content-Length ought to be handled as an error";
const LENGTH: &str = "RFC 9112, 6.3: an invalid Content-Length is an unrecoverable error: 400, and close";
const CODING: &str = "RFC 9112, 6.1: a server that receives a coding it does not understand responds with 501; 6.3: chunked has to be the final one, else 400";
const CODED_1_0: &str = "RFC 9112, 6.1: Transfer-Encoding in HTTP/1.0 is faulty framing: the connection is closed after the message";
const CHUNKS: &str =
    "RFC 9112, 7.1: chunk = chunk-size [ chunk-ext ] CRLF chunk-data CRLF, chunk-size = 1*HEXDIG";
const LINES: &str =
    "RFC 9112, 2.2: a sender must not generate a bare CR; LF alone is read as a line's end by some only";
const TRAILERS: &str = "RFC 9112, 7.1.2: trailers are field lines, and end with an empty line";
const EMPTY: &str = "RFC 9112, 6.3: without either, the length of a request's body is zero";

const SMUGGLED: &str = "GET /SMUGGLED HTTP/1.1\r\nhost: a.example\r\n\r\n";

fn post(lines: &str, body: &str) -> Vec<u8> {
    format!("POST /C HTTP/1.1\r\nhost: a.example\r\nconnection: close\r\n{lines}\r\n\r\n{body}").into_bytes()
}

fn case(name: &str, rests_on: &'static str, sends: Vec<u8>, want: Want) -> Case {
    Case { area: Framing, name: name.to_owned(), rests_on, sends, answer: None, want }
}

fn whole(body: &'static [u8]) -> Vec<Check> {
    vec![Check::Body(body), Check::Status(&[200]), Check::Answers(1)]
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    lengths(&mut cases);
    codings(&mut cases);
    chunks(&mut cases);
    cases
}

fn lengths(cases: &mut Vec<Case>) {
    let mut add = |name: &str, rests_on, lines: &str, body: &str, want| {
        cases.push(case(name, rests_on, post(lines, body), want));
    };
    add("a length", EMPTY, "content-length: 3", "abc", Forwarded(whole(b"abc")));
    add("a length of zero", EMPTY, "content-length: 0", "", Forwarded(whole(b"")));
    add("no length", EMPTY, "x: y", "", Forwarded(whole(b"")));
    add(
        "a length with zeros before it",
        LENGTH,
        "content-length: 0003",
        "abc",
        Either(&[400], whole(b"abc").into_iter().chain([Check::Has("content-length", "3")]).collect()),
    );
    add("a length with blanks around it", LENGTH, "content-length: \t 3 \t", "abc", Forwarded(whole(b"abc")));
    for wrong in [
        "+3",
        "-3",
        "3a",
        "a",
        "0x3",
        "3.0",
        "3e0",
        "\"3\"",
        "3;",
        "3 3",
        "3\t3",
        "",
        ",",
        "3,",
        ",3",
        "٣",
        "18446744073709551616",
        "99999999999999999999999",
        "-0",
        "_3",
        "3_0",
        "３",
    ] {
        add(
            &format!("a length of {wrong:?}"),
            LENGTH,
            &format!("content-length: {wrong}"),
            "abc",
            Refused(&[400]),
        );
    }
    for lines in [
        "content-length: 3\r\ncontent-length: 4",
        "content-length: 4\r\ncontent-length: 3",
        "content-length: 3, 4",
        "content-length: 3\r\ncontent-length: a",
        "content-length: 0\r\ncontent-length: 3",
        "content-length: 3\r\nx: y\r\nCONTENT-LENGTH: 5",
        "content-length: 3\r\ncontent-length:",
    ] {
        add(&format!("two lengths, {lines:?}"), LENGTH, lines, "abcd", Refused(&[400]));
    }
    for lines in ["content-length: 3\r\ncontent-length: 3", "content-length: 3, 3"] {
        add(&format!("equal lengths, {lines:?}"), LENGTH, lines, "abc", Either(&[400], whole(b"abc")));
    }
    for name in ["content_length", "content-length-", "xcontent-length", "content.length"] {
        let want = Forwarded(vec![Check::Body(b""), Check::Status(&[200])]);
        add(&format!("a name that is nearly it, {name}"), EMPTY, &format!("{name}: 0"), "", want);
    }
    // A body longer than said is another message, and the connection ends before it.
    let more = format!("abc{SMUGGLED}");
    let mut sends = post("content-length: 3", &more);
    cases.push(case("what follows the last request", EMPTY, sends.clone(), Forwarded(whole(b"abc"))));
    sends = post("content-length: 0", SMUGGLED);
    cases.push(case("what follows a request without a body", EMPTY, sends, Forwarded(whole(b""))));
}

fn codings(cases: &mut Vec<Case>) {
    for lines in [
        "content-length: 4\r\ntransfer-encoding: chunked",
        "transfer-encoding: chunked\r\ncontent-length: 4",
        "content-length: 44\r\ntransfer-encoding: chunked",
        "Content-Length: 0\r\nTransfer-Encoding: chunked",
        "content-length: 4\r\nTRANSFER-ENCODING: CHUNKED",
        "content-length: 4\r\nx: y\r\ntransfer-encoding:chunked",
        "content-length: 4\r\ntransfer-encoding: \tchunked\t",
    ] {
        let sends = post(lines, &format!("0\r\n\r\n{SMUGGLED}"));
        cases.push(case(&format!("two framings, {lines:?}"), TWO, sends, Either(&[400], whole(b""))));
    }
    for lines in [
        "transfer-encoding: xchunked",
        "transfer-encoding: chunkedx",
        "transfer-encoding: chunked, identity",
        "transfer-encoding: chunked, gzip",
        "transfer-encoding: gzip",
        "transfer-encoding: identity",
        "transfer-encoding: ",
        "transfer-encoding: ,",
        "transfer-encoding: chunked,,chunked",
        "transfer-encoding: chunked, chunked",
        "transfer-encoding: chunked\r\ntransfer-encoding: identity",
        "transfer-encoding: chunked\r\ntransfer-encoding: chunked",
        "transfer-encoding: identity\r\ntransfer-encoding: chunked, gzip",
        "transfer-encoding: \"chunked\"",
        "transfer-encoding: chunked;q=1",
        "transfer-encoding: chunked foo",
        "transfer-encoding: cow",
        "transfer-encoding: \u{b}chunked",
        "transfer-encoding: chunked\u{b}",
        "transfer-encoding: [chunked]",
        "transfer-encoding: chunked\u{0}",
    ] {
        let sends = post(lines, &format!("0\r\n\r\n{SMUGGLED}"));
        cases.push(case(&format!("a coding, {lines:?}"), CODING, sends, Refused(&[400, 501])));
        let both = format!("content-length: 5\r\n{lines}");
        let sends = post(&both, &format!("0\r\n\r\n{SMUGGLED}"));
        cases.push(case(&format!("a coding beside a length, {lines:?}"), TWO, sends, Refused(&[400, 501])));
    }
    for lines in [
        "transfer-encoding: gzip, chunked",
        "transfer-encoding: identity, chunked",
        "transfer-encoding: gzip\r\ntransfer-encoding: chunked",
    ] {
        let sends = post(lines, &format!("0\r\n\r\n{SMUGGLED}"));
        cases.push(case(&format!("a coding before chunked, {lines:?}"), CODING, sends, Refused(&[400, 501])));
    }
    for lines in [
        "transfer-encoding : chunked",
        "transfer-encoding\t: chunked",
        " transfer-encoding: chunked",
        "transfer-encoding:\r\n chunked",
        "x: y\r\n\ttransfer-encoding: chunked",
        "transfer\u{0}-encoding: chunked",
        "x: y\rtransfer-encoding: chunked",
        "transfer-encoding\u{a0}: chunked",
        "\u{b}transfer-encoding: chunked",
    ] {
        let sends = post(&format!("content-length: 5\r\n{lines}"), &format!("0\r\n\r\n{SMUGGLED}"));
        cases.push(case(
            &format!("a coding that some see, {lines:?}"),
            "RFC 9112, 5.1 and 5.2: whitespace before a colon and folded lines are refused",
            sends,
            Refused(&[400]),
        ));
    }
    // LF alone before the field: some see it, and some see a value with LF in it.
    let sends =
        post("x: y\ntransfer-encoding: chunked\r\ncontent-length: 5", &format!("0\r\n\r\n{SMUGGLED}"));
    cases.push(case("a coding behind LF alone", LINES, sends, Refused(&[400])));
    for version in ["1.0", "1.1"] {
        let sends = format!(
            "POST /C HTTP/{version}\r\nhost: a.example\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
        );
        let want = if version == "1.0" { Either(&[400], whole(b"abc")) } else { Forwarded(whole(b"abc")) };
        cases.push(case(&format!("chunked in HTTP/{version}"), CODED_1_0, sends.into_bytes(), want));
    }
    let sends = format!(
        "POST /C HTTP/1.0\r\nhost: a.example\r\nconnection: keep-alive\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n{SMUGGLED}"
    );
    cases.push(case("two framings in HTTP/1.0", CODED_1_0, sends.into_bytes(), Refused(&[400])));
}

fn chunks(cases: &mut Vec<Case>) {
    let mut add = |name: &str, rests_on, body: &str, want| {
        cases.push(case(name, rests_on, post("transfer-encoding: chunked", body), want));
    };
    for (name, body, is) in [
        ("one chunk", "3\r\nabc\r\n0\r\n\r\n", &b"abc"[..]),
        ("two chunks", "3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", b"abcde"),
        ("a size in capitals", "A\r\n0123456789\r\n0\r\n\r\n", b"0123456789"),
        ("a size in small letters", "a\r\n0123456789\r\n0\r\n\r\n", b"0123456789"),
        ("zeros before a size", "0003\r\nabc\r\n0\r\n\r\n", b"abc"),
        ("an end of several zeros", "3\r\nabc\r\n000\r\n\r\n", b"abc"),
        ("an extension", "3;x=y\r\nabc\r\n0\r\n\r\n", b"abc"),
        ("an extension without a value", "3;x\r\nabc\r\n0;y\r\n\r\n", b"abc"),
        ("an extension in quotes", "3;x=\"a b\"\r\nabc\r\n0\r\n\r\n", b"abc"),
        ("lines in a chunk", "4\r\n\r\n\r\n\r\n0\r\n\r\n", b"\r\n\r\n"),
        ("what looks like an end in a chunk", "5\r\n0\r\n\r\n\r\n0\r\n\r\n", b"0\r\n\r\n"),
    ] {
        add(name, CHUNKS, body, Forwarded(whole(is)));
    }
    for (name, body) in [
        ("no size", "\r\nabc\r\n0\r\n\r\n"),
        ("a size with 0x", "0x3\r\nabc\r\n0\r\n\r\n"),
        ("a size with a sign", "+3\r\nabc\r\n0\r\n\r\n"),
        ("a size below zero", "-3\r\nabc\r\n0\r\n\r\n"),
        ("a blank before a size", " 3\r\nabc\r\n0\r\n\r\n"),
        ("a size that is none", "g\r\nabc\r\n0\r\n\r\n"),
        ("a size with a point", "3.0\r\nabc\r\n0\r\n\r\n"),
        ("a size with an underscore", "0_3\r\nabc\r\n0\r\n\r\n"),
        ("a size over all numbers", "10000000000000003\r\nabc\r\n0\r\n\r\n"),
        ("a size of many digits", "fffffffffffffffffffff\r\nabc\r\n0\r\n\r\n"),
        ("a size that ends in CR alone", "3\rabc\r\n0\r\n\r\n"),
        ("a NUL behind a size", "3\u{0}\r\nabc\r\n0\r\n\r\n"),
        ("letters behind a size", "3 x\r\nabc\r\n0\r\n\r\n"),
        ("data that are too long", "2\r\nabc\r\n0\r\n\r\n"),
        ("data without an end", "3\r\nabc0\r\n\r\n"),
        ("data that end in CR alone", "3\r\nabc\r0\r\n\r\n"),
        ("a quoted size", "\"3\"\r\nabc\r\n0\r\n\r\n"),
    ] {
        add(name, CHUNKS, &format!("{body}{SMUGGLED}"), Either(&[400], vec![Check::NeverWhole]));
    }
    for (name, body) in [
        ("a size that ends in LF alone", "3\nabc\r\n0\r\n\r\n"),
        ("data that end in LF alone", "3\r\nabc\n0\r\n\r\n"),
        ("a blank behind a size", "3 \r\nabc\r\n0\r\n\r\n"),
        ("a tab behind a size", "3\t\r\nabc\r\n0\r\n\r\n"),
        ("an end in LF alone", "3\r\nabc\r\n0\n\r\n"),
        ("an end in two LF", "3\r\nabc\r\n0\n\n"),
        ("an empty line that is LF alone", "3\r\nabc\r\n0\r\n\n"),
        ("an extension with LF alone", "3;x\ny\r\nabc\r\n0\r\n\r\n"),
        ("an extension with CR alone", "3;x\ry\r\nabc\r\n0\r\n\r\n"),
        ("an extension with a NUL", "3;x\u{0}y\r\nabc\r\n0\r\n\r\n"),
    ] {
        add(name, LINES, &format!("{body}{SMUGGLED}"), Either(&[400], vec![Check::NeverWhole]));
    }
    let long = "y".repeat(20_000);
    add(
        "extensions of 20 KB",
        "naka: 4 KiB of extensions are enough for everybody",
        &format!("3;x={long}\r\nabc\r\n0\r\n\r\n"),
        Either(&[400, 413], vec![Check::NeverWhole]),
    );
    let many = "1;xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\r\na\r\n".repeat(400);
    add(
        "extensions of 20 KB in many chunks",
        "naka: 4 KiB of extensions are enough for everybody",
        &format!("{many}0\r\n\r\n"),
        Either(&[400, 413], vec![Check::NeverWhole]),
    );
    add("trailers", TRAILERS, "3\r\nabc\r\n0\r\nx-after: 1\r\n\r\n", Forwarded(whole(b"abc")));
    for (name, trailers) in [
        ("a trailer with LF alone", "x: y\n"),
        ("a trailer with a blank before its colon", "x : y\r\n"),
        ("a trailer without a colon", "x\r\n"),
        ("a trailer that is folded", "x: y\r\n z\r\n"),
        ("a trailer with a NUL", "x: \u{0}\r\n"),
    ] {
        let body = format!("3\r\nabc\r\n0\r\n{trailers}\r\n{SMUGGLED}");
        add(name, TRAILERS, &body, Either(&[400], vec![Check::NeverWhole]));
    }
    for name in [
        "content-length",
        "transfer-encoding",
        "host",
        "authorization",
        "x-forwarded-for",
        "te",
        "connection",
    ] {
        let body = format!("3\r\nabc\r\n0\r\n{name}: 1\r\n\r\n");
        let lacks = vec![Check::Body(b"abc"), Check::Status(&[200, 400]), Check::NoTrailer];
        add(
            &format!("a trailer that must be none, {name}"),
            "RFC 9110, 6.5.1: fields of framing, routing and authentication must not be merged from trailers",
            &body,
            Either(&[400], lacks),
        );
    }
    let big = format!("3\r\nabc\r\n0\r\nx: {}\r\n\r\n", "y".repeat(40_000));
    add(
        "trailers of 40 KB",
        "naka: trailers have the bound of a head",
        &big,
        Either(&[400, 431], vec![Check::NeverWhole]),
    );
}
