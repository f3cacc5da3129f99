//! The question and the answer of `grpc.health.v1.Health/Check`: a message with one string, and one with one enum.
//!
//! ```proto
//! message HealthCheckRequest { string service = 1; }
//! message HealthCheckResponse { ServingStatus status = 1; }
//! ```
//!
//! Each stands behind five bytes: whether it is compressed, which it is not, and its length. What is anything else than
//! these messages is refused, but for fields that a later version may have.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header::CONTENT_TYPE};
use naka::BoxError;

pub(super) const PATH: &str = "/grpc.health.v1.Health/Check";
pub(super) const STATUS: HeaderName = HeaderName::from_static("grpc-status");
pub(super) const MISSING: &str = "the answer has no grpc-status";

/// Bytes of an answer.
pub(super) const MAX_ANSWER: usize = 4 << 10;

/// How it is with a service of this name, of at most 200 bytes.
pub(super) fn question(service: &str) -> Bytes {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(0x0a); // Field 1, with a length.
        put_varint(&mut message, service.len());
        message.extend_from_slice(service.as_bytes());
    }
    let length = u32::try_from(message.len()).expect("a name is not that long");
    let mut framed = vec![0];
    framed.extend(length.to_be_bytes());
    framed.extend(message);
    framed.into()
}

/// # Errors
/// Unless the answer is gRPC.
pub(super) fn is_grpc(headers: &HeaderMap) -> Result<(), BoxError> {
    let kind = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    if kind.starts_with(b"application/grpc") {
        return Ok(());
    }
    Err(format!("the answer is no gRPC: its content-type is {:?}", String::from_utf8_lossy(kind)).into())
}

/// # Errors
/// If the status is not 0; if it is not there, `missing` unless that is empty.
pub(super) fn status(headers: &HeaderMap, missing: &'static str) -> Result<(), BoxError> {
    let Some(status) = headers.get(STATUS) else {
        return if missing.is_empty() { Ok(()) } else { Err(missing.into()) };
    };
    let word = match status.as_bytes() {
        b"0" => return Ok(()),
        b"1" => "CANCELLED",
        b"2" => "UNKNOWN",
        b"4" => "DEADLINE_EXCEEDED",
        b"5" => "NOT_FOUND",
        b"7" => "PERMISSION_DENIED",
        b"8" => "RESOURCE_EXHAUSTED",
        b"12" => "UNIMPLEMENTED",
        b"13" => "INTERNAL",
        b"14" => "UNAVAILABLE",
        b"16" => "UNAUTHENTICATED",
        _ => "",
    };
    let code = String::from_utf8_lossy(status.as_bytes()).into_owned();
    Err(format!("grpc-status {code} {word}").trim_end().into())
}

/// # Errors
/// Unless it is one message that says `SERVING`.
pub(super) fn answer(framed: &[u8]) -> Result<(), BoxError> {
    let [0, a, b, c, d, message @ ..] = framed else {
        return Err("the answer is no message of gRPC, or is compressed".into());
    };
    if usize::try_from(u32::from_be_bytes([*a, *b, *c, *d])) != Ok(message.len()) {
        return Err("the answer is not one message".into());
    }
    match serving_status(message).ok_or("the answer is no HealthCheckResponse")? {
        1 => Ok(()),
        0 => Err("it says UNKNOWN".into()),
        2 => Err("it says NOT_SERVING".into()),
        3 => Err("it says SERVICE_UNKNOWN".into()),
        other => Err(format!("it says {other}, which nobody knows").into()),
    }
}

/// The last value of field 1, which is 0 if it is not there; `None` if it is no such message.
fn serving_status(mut message: &[u8]) -> Option<u64> {
    let mut status = 0;
    while !message.is_empty() {
        let tag = varint(&mut message)?;
        match (tag >> 3, tag & 7) {
            (1, 0) => status = varint(&mut message)?,
            (0 | 1, _) => return None,
            (_, 0) => _ = varint(&mut message)?,
            (_, 1) => message = message.get(8..)?,
            (_, 2) => {
                let length = usize::try_from(varint(&mut message)?).ok()?;
                message = message.get(length..)?;
            }
            (_, 5) => message = message.get(4..)?,
            _ => return None,
        }
    }
    Some(status)
}

fn put_varint(bytes: &mut Vec<u8>, mut value: usize) {
    while value >= 0x80 {
        bytes.push(u8::try_from(value & 0x7f).expect("seven bits") | 0x80);
        value >>= 7;
    }
    bytes.push(u8::try_from(value).expect("seven bits"));
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for place in 0..10 {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        let bits = u64::from(first & 0x7f);
        if place == 9 && bits > 1 {
            return None;
        }
        value |= bits << (7 * place);
        if first & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn says(message: &[u8]) -> String {
        let length = u32::try_from(message.len()).unwrap().to_be_bytes();
        let framed = [&[0], &length[..], message].concat();
        answer(&framed).map_or_else(|error| error.to_string(), |()| "fine".to_owned())
    }

    #[test]
    fn r10_2_a_question_is_a_message_with_one_string() {
        assert_eq!(&*question(""), [0, 0, 0, 0, 0]);
        assert_eq!(&*question("shop.Cart"), b"\0\0\0\0\x0b\x0a\x09shop.Cart");
        let long = "s".repeat(200);
        assert_eq!(&question(&long)[..8], [0, 0, 0, 0, 203, 0x0a, 0xc8, 0x01]);
    }

    #[test]
    fn r10_2_only_serving_is_a_pass_and_what_is_no_answer_is_none() {
        for (message, expected) in [
            (&[8, 1][..], "fine"),
            (&[], "it says UNKNOWN"),
            (&[8, 0], "it says UNKNOWN"),
            (&[8, 2], "it says NOT_SERVING"),
            (&[8, 3], "it says SERVICE_UNKNOWN"),
            (&[8, 4], "it says 4, which nobody knows"),
            (&[8, 1, 8, 2], "it says NOT_SERVING"), // The last one counts.
            (&[18, 2, 1, 2, 8, 1, 29, 1, 2, 3, 4, 33, 1, 2, 3, 4, 5, 6, 7, 8, 40, 7], "fine"),
            (&[8], "the answer is no HealthCheckResponse"),
            (&[10, 1, 1], "the answer is no HealthCheckResponse"),
            (&[18, 200, 1], "the answer is no HealthCheckResponse"),
            (&[0, 1], "the answer is no HealthCheckResponse"),
            (&[11, 1], "the answer is no HealthCheckResponse"),
            (&[8, 255, 255, 255, 255, 255, 255, 255, 255, 255, 2], "the answer is no HealthCheckResponse"),
        ] {
            assert_eq!(says(message), expected, "{message:?}");
        }
        let compressed = "the answer is no message of gRPC, or is compressed";
        for (framed, expected) in [
            (&[][..], compressed),
            (&[0, 0, 0, 0], compressed),
            (&[1, 0, 0, 0, 2, 8, 1], compressed),
            (&[0, 0, 0, 0, 3, 8, 1], "the answer is not one message"),
            (&[0, 0, 0, 0, 2, 8, 1, 0, 0, 0, 0, 2, 8, 1], "the answer is not one message"),
        ] {
            assert_eq!(answer(framed).unwrap_err().to_string(), expected, "{framed:?}");
        }
    }
}
