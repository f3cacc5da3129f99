//! Other protocols (RFC 9110, sections 7.8 and 15.2.2; RFC 6455, section 4): who asks for one, and who gets it.

use super::{
    Area::Upgrades,
    Case, Check,
    Want::{self, Forwarded},
};

const MAY_IGNORE: &str = "RFC 9110, 7.8: a server may ignore a received Upgrade field";
const OF_1_0: &str = "RFC 9110, 7.8: a server must ignore an Upgrade field in an HTTP/1.0 request";
const NAMED: &str = "RFC 9110, 7.8: a sender of Upgrade must also send an upgrade connection option";
const HOP: &str = "RFC 9110, 7.6.1: an intermediary must not forward fields that concern the connection";
const OPTION: &str =
    "RFC 9110, 7.6.1: connection options are case-insensitive, and may stand on several lines";
const GET: &str = "RFC 6455, 4.1: the method of the request must be GET";
const H2C: &str = "RFC 9113, 3.1: the upgrade token h2c is obsolete; HTTP2-Settings is of one hop";
const REQUESTS: &str = "naka: in what would follow, requests could come that nobody judges";
const BODY: &str = "naka: where the other protocol begins has to be where the head ends";
const BOUND: &str = "naka: nobody has to ask for more than eight protocols";
const TOKEN: &str = "RFC 9110, 7.8: protocol = protocol-name [ \"/\" protocol-version ], which are tokens";
const LIST: &str = "RFC 9110, 5.6.1.2: a recipient must parse and ignore empty list elements";
const FORWARDED: &str = "naka: an upgrade is forwarded, for the upstream to judge";
const REFUSED: &str = "RFC 9110, 7.8: a server that refuses to switch answers as if there were no Upgrade";
const UNASKED: &str =
    "RFC 9110, 7.8: a server must not switch to a protocol that was not indicated in the request";
const SWITCH: &str = "RFC 9110, 15.2.2: a server must generate an Upgrade field in a 101";
const NO_BODY: &str = "RFC 9110, 8.6: a server must not send Content-Length in a 1xx response";
const NO_CODING: &str = "RFC 9112, 6.1: a server must not send Transfer-Encoding in a 1xx response";
const EARLY: &str = "RFC 9110, 7.8: the new protocol begins after the 101, and not before";

/// What a handshake for websocket has beside `Upgrade` (RFC 6455, section 4.1): there are gateways that ask for it.
const HANDSHAKE: [&str; 2] =
    ["sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n", "sec-websocket-version: 13\r\n"];

fn case(name: &str, rests_on: &'static str, head: &str, answer: Option<&str>, want: Want) -> Case {
    let mut head = head.to_owned();
    if head.to_lowercase().contains("upgrade: websocket\r\n") {
        for line in HANDSHAKE {
            let (field, _) = line.split_once(' ').unwrap();
            if !head.contains(field) {
                head = head.replacen("host: a.example\r\n", &format!("host: a.example\r\n{line}"), 1);
            }
        }
    }
    let sends = head.into_bytes();
    let answer = answer.map(|answer| answer.as_bytes().to_vec());
    Case { area: Upgrades, name: name.to_owned(), rests_on, sends, answer, want }
}

fn get(lines: &str) -> String {
    format!("GET /C HTTP/1.1\r\nhost: a.example\r\n{lines}\r\n\r\n")
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases = ignored();
    cases.extend(forwarded());
    cases.extend(switched());
    cases
}

/// What is no upgrade, or none that is followed: a request like any other.
fn ignored() -> Vec<Case> {
    let close = "connection: upgrade, close";
    let mut cases = Vec::new();
    let mut add = |name: &str, rests_on, head: &str| {
        let checks = ["upgrade", "connection", "http2-settings"].map(Check::Lacks);
        let want = Forwarded(checks.into_iter().chain([Check::Status(&[200])]).collect());
        cases.push(case(name, rests_on, head, None, want));
    };
    add("Upgrade that Connection does not name", NAMED, &get("connection: close\r\nupgrade: websocket"));
    add(
        "Connection that names another field",
        NAMED,
        &get("connection: upgraded, close\r\nupgrade: websocket"),
    );
    add("`upgrade` in Connection without Upgrade", MAY_IGNORE, &get(close));
    add("an empty Upgrade", TOKEN, &get(&format!("{close}\r\nupgrade:")));
    add("Upgrade of commas", LIST, &get(&format!("{close}\r\nupgrade: ,, ,")));
    for version in ["connection: upgrade", "connection: upgrade, keep-alive"] {
        let head = format!("GET /C HTTP/1.0\r\nhost: a.example\r\n{version}\r\nupgrade: websocket\r\n\r\n");
        add(&format!("HTTP/1.0 with {version:?}"), OF_1_0, &head);
    }
    add(
        "h2c",
        H2C,
        &get(&format!("{close}, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__")),
    );
    for protocol in ["H2C", "h2", "h2c/1", "HTTP/2.0", "http/1.1", "TLS/1.0", "h3", "h2c, h2"] {
        add(&format!("Upgrade: {protocol}"), REQUESTS, &get(&format!("{close}\r\nupgrade: {protocol}")));
    }
    for protocol in
        ["web socket", "a/b/c", "websocket/", "/13", "web\"socket\"", "websocket;v=13", "(websocket)"]
    {
        add(&format!("Upgrade: {protocol}"), TOKEN, &get(&format!("{close}\r\nupgrade: {protocol}")));
    }
    add("nine protocols", BOUND, &get(&format!("{close}\r\nupgrade: a, b, c, d, e, f, g, h, i")));
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        let head = get(&format!("{close}\r\nupgrade: websocket")).replacen("GET", method, 1);
        add(&format!("{method} for websocket"), GET, &head);
    }
    for (name, framed) in [
        ("a body with a length", "content-length: 3\r\n\r\nabc"),
        ("a body in chunks", "transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"),
    ] {
        let head = format!("GET /C HTTP/1.1\r\nhost: a.example\r\n{close}\r\nupgrade: websocket\r\n{framed}");
        add(name, BODY, &head);
    }
    cases
}

/// What is followed, and refused by the upstream: an answer like any other.
fn forwarded() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut add = |name: &str, rests_on, head: &str, checks: Vec<Check>| {
        let refusal = "HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\nno";
        let mut checks = checks;
        checks.extend([Check::Status(&[403]), Check::AnswerBody(b"no"), Check::AnswerLacks("upgrade")]);
        // Behind a refusal the connection goes on, so it has to be said that it ends.
        let head = head.replacen("connection: ", "connection: close, ", 1);
        cases.push(case(name, rests_on, &head, Some(refusal), Forwarded(checks)));
    };
    let asks = |protocols| {
        vec![Check::Once("upgrade"), Check::Has("upgrade", protocols), Check::Has("connection", "upgrade")]
    };
    add("websocket", FORWARDED, &get("connection: upgrade\r\nupgrade: websocket"), asks("websocket"));
    add(
        "in capitals",
        OPTION,
        &get("connection: Keep-Alive, UPGRADE\r\nupgrade: WebSocket"),
        asks("WebSocket"),
    );
    add(
        "Connection on two lines",
        OPTION,
        &get("connection: x\r\nconnection: upgrade\r\nupgrade: websocket"),
        asks("websocket"),
    );
    add(
        "Upgrade on two lines",
        FORWARDED,
        &get("connection: upgrade\r\nupgrade: a/1\r\nupgrade: b"),
        asks("a/1, b"),
    );
    add("empty elements", LIST, &get("connection: upgrade\r\nupgrade: , a ,, b ,"), asks("a, b"));
    add(
        "another protocol, with a version",
        FORWARDED,
        &get("connection: upgrade\r\nupgrade: SPDY/3.1"),
        asks("SPDY/3.1"),
    );
    add(
        "h2c beside websocket",
        REQUESTS,
        &get("connection: upgrade\r\nupgrade: h2c, websocket"),
        asks("websocket"),
    );
    add(
        "a length of zero",
        FORWARDED,
        &get("connection: upgrade\r\nupgrade: websocket\r\ncontent-length: 0"),
        asks("websocket"),
    );
    let post = get("connection: upgrade\r\nupgrade: tcp").replacen("GET", "POST", 1);
    add("POST for what is not websocket", FORWARDED, &post, asks("tcp"));
    add(
        "other fields that Connection names",
        HOP,
        &get("connection: upgrade, x-one\r\nupgrade: websocket\r\nx-one: 1"),
        vec![Check::Lacks("x-one"), Check::Has("upgrade", "websocket")],
    );
    add(
        "Keep-Alive beside Upgrade",
        HOP,
        &get("connection: upgrade\r\nupgrade: websocket\r\nkeep-alive: timeout=5"),
        vec![Check::Lacks("keep-alive"), Check::Has("upgrade", "websocket")],
    );
    for (name, value) in [
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("sec-websocket-version", "13"),
        ("sec-websocket-protocol", "chat, superchat"),
        ("sec-websocket-extensions", "permessage-deflate"),
    ] {
        let head = get(&format!("connection: upgrade\r\nupgrade: websocket\r\n{name}: {value}"));
        add(
            &format!("`{name}` is forwarded"),
            "RFC 9110, 5.1: a proxy must forward fields it does not know",
            &head,
            vec![Check::Has(name, value)],
        );
    }
    let refused = get("connection: close, upgrade\r\nupgrade: websocket");
    let upgrade_required =
        "HTTP/1.1 426 Upgrade Required\r\ncontent-length: 0\r\nupgrade: other\r\nconnection: upgrade\r\n\r\n";
    cases.push(case(
        "426 instead",
        REFUSED,
        &refused,
        Some(upgrade_required),
        Forwarded(vec![Check::Status(&[426]), Check::Answers(1)]),
    ));
    cases
}

/// What the upstream says with 101.
fn switched() -> Vec<Case> {
    let mut cases = Vec::new();
    let websocket = "connection: upgrade\r\nupgrade: websocket";
    let mut add = |name: &str, rests_on, head: &str, lines: &str, checks: Vec<Check>| {
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\n{lines}\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil"
        );
        cases.push(case(name, rests_on, head, Some(&answer), Forwarded(checks)));
    };
    let bad = || vec![Check::Status(&[502]), Check::Answers(1)];
    let asks = |protocol: &str| get(&format!("connection: close, upgrade\r\nupgrade: {protocol}"));
    let plain = get("connection: close");
    add("101 that nobody asked for", UNASKED, &plain, websocket, bad());
    add(
        "101 to HTTP/1.0",
        OF_1_0,
        &plain.replace("1.1", "1.0").replace("close", "upgrade\r\nupgrade: websocket"),
        websocket,
        bad(),
    );
    add("101 to h2c", REQUESTS, &asks("h2c"), "connection: upgrade\r\nupgrade: h2c", bad());
    add("101 to another protocol", UNASKED, &asks("websocket"), "connection: upgrade\r\nupgrade: tcp", bad());
    add("101 to h2c instead", UNASKED, &asks("websocket"), "connection: upgrade\r\nupgrade: h2c", bad());
    add(
        "101 to one protocol more",
        UNASKED,
        &asks("websocket"),
        "connection: upgrade\r\nupgrade: websocket, h2c",
        bad(),
    );
    add("101 to another version", UNASKED, &asks("a/1"), "connection: upgrade\r\nupgrade: a/2", bad());
    add("101 without Upgrade", SWITCH, &asks("websocket"), "connection: upgrade", bad());
    add("101 without Connection", NAMED, &asks("websocket"), "upgrade: websocket", bad());
    add("101 that says close", NAMED, &asks("websocket"), "connection: close\r\nupgrade: websocket", bad());
    let ask = get(websocket);
    let good = |check: Check| {
        vec![Check::AnswerHas("upgrade", "websocket"), Check::AnswerHas("connection", "upgrade"), check]
    };
    add("101 as it was asked for", FORWARDED, &ask, websocket, good(Check::AnswerLacks("content-length")));
    add(
        "101 with a length",
        NO_BODY,
        &ask,
        &format!("{websocket}\r\ncontent-length: 5"),
        good(Check::AnswerLacks("content-length")),
    );
    add(
        "101 with a coding",
        NO_CODING,
        &ask,
        &format!("{websocket}\r\ntransfer-encoding: chunked"),
        good(Check::AnswerLacks("transfer-encoding")),
    );
    add(
        "101 that names another field",
        HOP,
        &ask,
        "connection: upgrade, x-one\r\nupgrade: websocket\r\nx-one: 1",
        good(Check::AnswerLacks("x-one")),
    );
    add(
        "101 with what was negotiated",
        FORWARDED,
        &ask,
        &format!("{websocket}\r\nsec-websocket-protocol: chat"),
        good(Check::AnswerHas("sec-websocket-protocol", "chat")),
    );
    // What comes early is no request, and nobody's but the tunnel's.
    let early = format!("{}\u{1}\u{2}not http\r\n\r\n", get(websocket));
    add(
        "bytes behind an upgrade that comes to nothing",
        EARLY,
        &early,
        "connection: upgrade\r\nupgrade: tcp",
        vec![Check::Status(&[400])],
    );
    cases
}
