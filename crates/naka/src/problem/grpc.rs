//! Rejections as gRPC has them: a response of headers alone ("Trailers-Only"), with the status in one of them.

use std::fmt::{self, Write as _};

use bytes::Bytes;
use http::{
    HeaderName, HeaderValue, Response, StatusCode, Version,
    header::{CONTENT_LENGTH, CONTENT_TYPE, TRAILER, TRANSFER_ENCODING},
};

use crate::reject::{Reason, Rejection};

const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// Makes a gRPC response of one that refuses. Its other headers stay: when to come again is one of them.
pub(super) fn fill<R: From<Bytes>>(response: &mut Response<R>, rejection: &Rejection) {
    *response.status_mut() = StatusCode::OK;
    *response.version_mut() = Version::HTTP_11; // As all that is made here; who sends it knows better.
    let headers = response.headers_mut();
    for name in [CONTENT_LENGTH, TRANSFER_ENCODING, TRAILER] {
        headers.remove(name);
    }
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(STATUS, HeaderValue::from(status(rejection.reason)));
    let message = Encoded(rejection.detail.as_deref().unwrap_or(rejection.reason.sentence())).to_string();
    headers.extend(HeaderValue::try_from(message).map(|message| (MESSAGE, message)));
    *response.body_mut() = R::from(Bytes::new());
}

/// The status that stands for a reason (`google.rpc.Code`).
///
/// gRPC's own table for HTTP statuses is for clients that know nothing else; here the reason is known. Where it differs: a spent allowance is
/// `RESOURCE_EXHAUSTED` and not `UNAVAILABLE`, which clients are told to try again at once; what is wrong with a request is `INVALID_ARGUMENT`
/// and not `INTERNAL`, which would be the fault of whoever is behind; and the end of the time is `DEADLINE_EXCEEDED`, unless nothing was sent.
const fn status(reason: Reason) -> u16 {
    match reason {
        Reason::TotalTimeout | Reason::ResponseTimeout | Reason::DeadlineExpired => DEADLINE_EXCEEDED,
        Reason::ConnectTimeout => UNAVAILABLE,
        Reason::RequestTimeout => CANCELLED, // Who did not go on is who called.
        _ => match reason.status().as_u16() {
            400 | 406 | 414 | 415 | 422 | 431 => INVALID_ARGUMENT,
            401 | 407 => UNAUTHENTICATED,
            403 => PERMISSION_DENIED,
            404 | 405 | 410 | 501 | 505 => UNIMPLEMENTED,
            409 => ABORTED,
            413 | 429 => RESOURCE_EXHAUSTED,
            502 | 503 => UNAVAILABLE,
            504 => DEADLINE_EXCEEDED,
            402..=499 => FAILED_PRECONDITION,
            _ => UNKNOWN,
        },
    }
}

const CANCELLED: u16 = 1;
const UNKNOWN: u16 = 2;
const INVALID_ARGUMENT: u16 = 3;
const DEADLINE_EXCEEDED: u16 = 4;
const PERMISSION_DENIED: u16 = 7;
const RESOURCE_EXHAUSTED: u16 = 8;
const FAILED_PRECONDITION: u16 = 9;
const ABORTED: u16 = 10;
const UNIMPLEMENTED: u16 = 12;
const UNAVAILABLE: u16 = 14;
const UNAUTHENTICATED: u16 = 16;

/// Text as `grpc-message` has it: percent-encoded but for printable ASCII without `%`.
struct Encoded<'a>(&'a str);

impl fmt::Display for Encoded<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.bytes().try_for_each(|byte| match byte {
            b' '..=b'~' if byte != b'%' => f.write_char(char::from(byte)),
            _ => write!(f, "%{byte:02X}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(rejection: &Rejection) -> Response<Bytes> {
        let mut response = rejection.clone().into_response();
        fill(&mut response, rejection);
        response
    }

    #[test]
    fn every_reason_has_the_status_that_clients_expect() {
        for (reason, expected) in [
            (Reason::RateLimited, 8),
            (Reason::BodyTooLarge, 8),
            (Reason::CredentialsMissing, 16),
            (Reason::Forbidden, 7),
            (Reason::RouteNotFound, 12),
            (Reason::MethodNotAllowed, 12),
            (Reason::BadRequest, 3),
            (Reason::HeadTooLarge, 3),
            (Reason::BulkheadFull, 14),
            (Reason::CircuitOpen, 14),
            (Reason::UpstreamReset, 14),
            (Reason::ConnectTimeout, 14),
            (Reason::TotalTimeout, 4),
            (Reason::ResponseTimeout, 4),
            (Reason::DeadlineExpired, 4),
            (Reason::RequestTimeout, 1),
            (Reason::IdempotencyInFlight, 10),
            (Reason::FaultInjected(StatusCode::INTERNAL_SERVER_ERROR), 2),
            (Reason::FaultInjected(StatusCode::IM_A_TEAPOT), 9),
        ] {
            let response = filled(&reason.into());
            assert_eq!(response.status(), 200);
            assert_eq!(response.headers()["grpc-status"], expected.to_string().as_str(), "{reason}");
        }
    }

    #[test]
    fn a_message_is_printable_ascii_whatever_it_says() {
        let rejection = Rejection::new(Reason::BadRequest).detail("100 % \n Größe");
        assert_eq!(filled(&rejection).headers()["grpc-message"], "100 %25 %0A Gr%C3%B6%C3%9Fe");
    }
}
