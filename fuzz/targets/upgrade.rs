//! Upgrades: what is asked for can carry no requests, is asked for again when it is forwarded, and is held by the reader in front of
//! hyper; an answer gives nothing that was not asked for.
#![no_main]

use http::{
    HeaderMap, HeaderName, HeaderValue, Method,
    header::{CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING, UPGRADE},
};
use libfuzzer_sys::fuzz_target;
use naka_gateway::{
    strict::{Limits, Scan},
    upgrade::{asked, carries_requests, given},
};

const LIMITS: Limits = Limits { head_bytes: 4 << 10, fields: 20 };

// A method, the fields of a request, an empty line, and the fields of an answer to it.
fuzz_target!(|bytes: &[u8]| {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let Ok(method) = Method::from_bytes(lines.next().unwrap_or_default()) else { return };
    let request = fields(&mut lines);
    let answer = fields(&mut lines);
    let is_asked = asked(&method, &request);
    if let Some(is_asked) = &is_asked {
        assert!(protocols(is_asked).all(|protocol| !carries_requests(protocol)), "{is_asked:?}");
        assert!((1..=8).contains(&protocols(is_asked).count()), "{is_asked:?}");
        assert!(!request.contains_key(TRANSFER_ENCODING), "it has a body");
        let again = HeaderMap::from_iter([
            (CONNECTION, HeaderValue::from_static("upgrade")),
            (UPGRADE, is_asked.clone()),
        ]);
        assert_eq!(asked(&method, &again).as_ref(), Some(is_asked), "the next one reads something else");
    }
    if let Ok(given) = given(&answer, is_asked.as_ref()) {
        let is_asked = is_asked.as_ref().expect("nothing is given to who has not asked");
        let was_asked = |given: &[u8]| protocols(is_asked).any(|asked| asked.eq_ignore_ascii_case(given));
        assert!(protocols(&given).all(was_asked), "{given:?} is not of {is_asked:?}");
    }
    if let Some(is_held) = is_held(&method, &request) {
        assert_eq!(
            is_held,
            is_asked.is_some(),
            "what stands behind the head is somebody else's for one of both"
        );
    }
});

/// The fields of a message: what is none ends them.
fn fields<'b>(lines: &mut impl Iterator<Item = &'b [u8]>) -> HeaderMap {
    let field = |line: &[u8]| {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let name = HeaderName::from_bytes(&line[..colon]).ok()?;
        Some((name, HeaderValue::from_bytes(line[colon + 1..].trim_ascii()).ok()?))
    };
    let mut headers = HeaderMap::new();
    for (name, value) in lines.map_while(field).take(15) {
        headers.append(name, value);
    }
    headers
}

fn protocols(line: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    line.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii)
}

/// Whether the reader in front of hyper holds what follows, if it takes the head.
fn is_held(method: &Method, headers: &HeaderMap) -> Option<bool> {
    let mut head = format!("{method} / HTTP/1.1\r\n").into_bytes();
    if !headers.contains_key(HOST) {
        head.extend(b"host: a\r\n");
    }
    for (name, value) in headers {
        head.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    head.extend(b"\r\n");
    let mut scan = Scan::new(LIMITS);
    scan.feed(&head).ok()?;
    // With a body it is held nowhere, however long that is.
    let has_body = headers.get_all(CONTENT_LENGTH).iter().any(|length| length != "0");
    (!has_body).then(|| scan.held_behind().is_some())
}
