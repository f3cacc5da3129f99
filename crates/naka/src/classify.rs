//! What an exchange says of whoever is behind: one definition for breakers, retries, budgets and metrics.
//!
//! # Decision
//! 1. The service returned an error: [`Outcome::Failure`]. There was no answer.
//! 2. The response is a rejection of one of our layers: a failure if its reason
//!    [blames the upstream](crate::reject::Reason::blames_upstream), or if it is
//!    [`Reason::TotalTimeout`]: whoever classifies stands outside of that timeout then, which is the only
//!    witness of what hangs. Else [`Outcome::Neutral`]: what was refused for a reason of our own is no
//!    evidence. (Counting it ejected healthy hosts: envoy 25487.)
//! 3. Its caller was in a [hurry](Hurried), and it is 503, 504 or gRPC: neutral, because a stranger who waits for a
//!    millisecond could open the breaker for everybody.
//! 4. Its status is one of the failures: a failure, at once.
//! 5. It is gRPC (`application/grpc`): the `grpc-status` counts as the HTTP status that it stands for
//!    ([`http_status`]), whether it comes with the head or in the trailers; `CANCELLED` is neutral, and a
//!    response that ends without any is a failure, as clients take it for `UNKNOWN`.
//! 6. Its status is 101: a success, at once. What the two ends say from then on is no HTTP, and may go on for days.
//! 7. Else it depends on the body: a failure if that ends in an error (a reset, or fewer bytes than were
//!    announced), neutral if it is dropped, because the client went, and a success if it comes to its end.
//!
//! A future that is dropped before there is a response is neutral as well.
//!
//! # Which statuses are failures
//! 500 to 599, but for **501 and 505**. Envoy's outlier detection counts every 5xx; `HAProxy`'s `observe
//! layer7` leaves these two out, because it is the request that causes them: whoever sends an unknown method
//! to a healthy service would open its breaker for everybody. We follow `HAProxy`. No 4xx is a failure,
//! which is about who asks; [`failing`](Classifier::failing) adds 429 for those who want to leave a service
//! alone that says so. Statuses outside of 400 to 599 never are.
//!
//! # Units and limits
//! 32 bytes, nothing is allocated. Two headers of a response are looked at, and only if it is a 200.
//!
//! # Example
//! ```
//! use http::{Response, StatusCode};
//! use naka::{classify::{Classifier, Outcome, Seen}, guard::End};
//!
//! let classifier = Classifier::new().failing(429..=429).passing(503..=503);
//! let status = |status: u16| {
//!     let response = Response::builder().status(status).body(()).unwrap();
//!     classifier.head(&response).end(End::Complete)
//! };
//! assert_eq!([status(200), status(404), status(501), status(503)], [Outcome::Success; 4]);
//! assert_eq!([status(429), status(500), status(599)], [Outcome::Failure; 3]);
//!
//! // What is good so far can still break off.
//! let seen = classifier.head(&Response::new(()));
//! assert_eq!((seen, seen.end(End::Failed)), (Seen::Body, Outcome::Failure));
//! assert_eq!(seen.end(End::Dropped), Outcome::Neutral);
//! ```

use std::ops::RangeInclusive;

use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header::CONTENT_TYPE};

use crate::{
    attempt::Hurried,
    guard::End,
    reject::{Reason, Rejection},
};

/// What an exchange says of whoever is behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It did its part.
    Success,
    /// It did not.
    Failure,
    /// Nothing can be said: the client went, or we refused it ourselves.
    Neutral,
}

/// What is known of an exchange so far; [`end`](Self::end) says what comes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Seen {
    /// Nothing that comes can change it.
    Decided(Outcome),
    /// Good so far: it depends on how the body ends.
    Body,
    /// Good so far: the status is still to come, in the trailers.
    Trailers,
}

impl Seen {
    /// What it says, once the body has ended.
    pub const fn end(self, end: End) -> Outcome {
        match (self, end) {
            (Self::Decided(outcome), _) => outcome,
            (Self::Body, End::Complete) => Outcome::Success,
            (Self::Trailers, End::Complete) | (_, End::Failed) => Outcome::Failure,
            (_, End::Dropped) => Outcome::Neutral,
        }
    }
}

/// Says what an exchange says; see the [module docs](self).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Classifier {
    /// One bit for each status from [`FIRST`] on.
    failures: [u64; 4],
}

/// The statuses that can be failures.
const FIRST: u16 = 400;
const LAST: u16 = 599;

impl Classifier {
    /// 500 to 599 are failures, but for 501 and 505.
    pub const fn new() -> Self {
        Self { failures: [0; 4] }.failing(500..=LAST).passing(501..=501).passing(505..=505)
    }

    /// These are failures, too. Nothing outside of 400 to 599 can be.
    #[must_use]
    pub const fn failing(self, statuses: RangeInclusive<u16>) -> Self {
        self.set(*statuses.start(), *statuses.end(), true)
    }

    /// These are none.
    #[must_use]
    pub const fn passing(self, statuses: RangeInclusive<u16>) -> Self {
        self.set(*statuses.start(), *statuses.end(), false)
    }

    /// Whether a response with this status is a failure.
    pub fn is_failure(&self, status: StatusCode) -> bool {
        let code = status.as_u16();
        (FIRST..=LAST).contains(&code) && {
            let (word, bit) = place(code);
            self.failures[word] & bit != 0
        }
    }

    /// What the head says.
    pub fn head<R>(&self, response: &Response<R>) -> Seen {
        if let Some(rejection) = response.extensions().get::<Rejection>() {
            let reason = rejection.reason;
            let blames = reason.blames_upstream() || reason == Reason::TotalTimeout;
            return Seen::Decided(if blames { Outcome::Failure } else { Outcome::Neutral });
        }
        let is_hurried = response.extensions().get::<Hurried>().is_some();
        if is_hurried && (is_for_want_of_time(response.status()) || is_grpc(response.headers())) {
            return Seen::Decided(Outcome::Neutral);
        }
        if self.is_failure(response.status()) {
            return Seen::Decided(Outcome::Failure);
        }
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return Seen::Decided(Outcome::Success);
        }
        if response.status() == StatusCode::OK && is_grpc(response.headers()) {
            return self.grpc(response.headers()).unwrap_or(Seen::Trailers);
        }
        Seen::Body
    }

    /// What is known once the trailers are there as well.
    pub fn trailers(&self, seen: Seen, trailers: &HeaderMap) -> Seen {
        match seen {
            Seen::Trailers => self.grpc(trailers).unwrap_or(seen),
            Seen::Decided(_) | Seen::Body => seen,
        }
    }

    /// What a result says as far as it is known.
    pub fn result<R, E>(&self, result: &Result<Response<R>, E>) -> Seen {
        result.as_ref().map_or(Seen::Decided(Outcome::Failure), |response| self.head(response))
    }

    fn grpc(&self, headers: &HeaderMap) -> Option<Seen> {
        let status = http_status(headers.get(GRPC_STATUS)?);
        Some(match status {
            None => Seen::Decided(Outcome::Neutral),
            Some(status) if self.is_failure(status) => Seen::Decided(Outcome::Failure),
            Some(_) => Seen::Body,
        })
    }

    const fn set(mut self, from: u16, to: u16, is_failure: bool) -> Self {
        let mut code = if from < FIRST { FIRST } else { from };
        while code <= to && code <= LAST {
            let (word, bit) = place(code);
            if is_failure {
                self.failures[word] |= bit;
            } else {
                self.failures[word] &= !bit;
            }
            code += 1;
        }
        self
    }
}

impl Default for Classifier {
    fn default() -> Self {
        Self::new()
    }
}

/// The HTTP status that a gRPC status stands for, as in the comments of `google/rpc/code.proto`; `None` for
/// `CANCELLED`, which is the caller's doing. What is no gRPC status counts as `UNKNOWN`.
pub fn http_status(grpc_status: &HeaderValue) -> Option<StatusCode> {
    Some(match grpc_status.as_bytes() {
        b"0" => StatusCode::OK,
        b"1" => return None,
        b"3" | b"9" | b"11" => StatusCode::BAD_REQUEST,
        b"4" => StatusCode::GATEWAY_TIMEOUT,
        b"5" => StatusCode::NOT_FOUND,
        b"6" | b"10" => StatusCode::CONFLICT,
        b"7" => StatusCode::FORBIDDEN,
        b"8" => StatusCode::TOO_MANY_REQUESTS,
        b"12" => StatusCode::NOT_IMPLEMENTED,
        b"14" => StatusCode::SERVICE_UNAVAILABLE,
        b"16" => StatusCode::UNAUTHORIZED,
        _ => StatusCode::INTERNAL_SERVER_ERROR, // 2, 13, 15, and what nobody knows.
    })
}

/// The status of a response whose head says it all: its own, or the one that its `grpc-status` stands for, where a gRPC
/// response has one before any message ("Trailers-Only"). `None` if that is the caller's doing.
pub(crate) fn status_of_head<R>(response: &Response<R>) -> Option<StatusCode> {
    let said = || response.headers().get(GRPC_STATUS).filter(|_| is_grpc(response.headers()));
    match said().filter(|_| response.status() == StatusCode::OK) {
        Some(grpc_status) => http_status(grpc_status),
        None => Some(response.status()),
    }
}

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// What is said by those who hear that nobody waits long enough.
const fn is_for_want_of_time(status: StatusCode) -> bool {
    matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT)
}

/// Whether the body is gRPC. Not gRPC-Web, which has its trailers in the body.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(is_grpc_type)
}

/// Whether this `Content-Type` is gRPC's.
pub(crate) fn is_grpc_type(value: &HeaderValue) -> bool {
    let rest = value.as_bytes().strip_prefix(b"application/grpc");
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';' | b' ')))
}

const fn place(code: u16) -> (usize, u64) {
    let offset = code - FIRST;
    // Not `usize::from`, which is not const.
    let word = match offset / 64 {
        0 => 0,
        1 => 1,
        2 => 2,
        _ => 3,
    };
    (word, 1 << (offset % 64))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEEN: Classifier = Classifier::new();

    fn status(code: u16) -> Seen {
        SEEN.head(&Response::builder().status(code).body(()).unwrap())
    }

    #[test]
    fn r3_2_5xx_are_failures_but_for_those_that_the_request_causes() {
        for code in 100..=999 {
            let expected = (500..=599).contains(&code) && code != 501 && code != 505;
            assert_eq!(status(code) == Seen::Decided(Outcome::Failure), expected, "{code}");
        }
        let other = SEEN.failing(0..=429).passing(502..=u16::MAX);
        let failures = (100..=999)
            .filter(|code| other.is_failure(StatusCode::from_u16(*code).unwrap()))
            .collect::<Vec<_>>();
        assert_eq!(failures, (400..=429).chain([500]).collect::<Vec<_>>());
    }

    #[test]
    fn r3_2_our_own_rejections_are_nobodys_fault_but_for_those_that_blame_the_upstream() {
        let of = |reason: Reason| SEEN.head(&Rejection::new(reason).into_response::<()>());
        for reason in [Reason::BulkheadFull, Reason::RateLimited, Reason::CircuitOpen] {
            assert_eq!(of(reason), Seen::Decided(Outcome::Neutral), "{reason}");
        }
        for reason in
            [Reason::ResponseTimeout, Reason::TotalTimeout, Reason::ConnectFailed, Reason::UpstreamReset]
        {
            assert_eq!(of(reason), Seen::Decided(Outcome::Failure), "{reason}");
        }
        assert_eq!(SEEN.result::<(), _>(&Err(())), Seen::Decided(Outcome::Failure));
    }

    #[test]
    fn r3_2_who_waits_too_short_a_time_fails_nobody() {
        let hurried = |status: u16| {
            let mut response = Response::builder().status(status).body(()).unwrap();
            response.extensions_mut().insert(Hurried);
            SEEN.head(&response).end(End::Complete)
        };
        assert_eq!([503, 504].map(hurried), [Outcome::Neutral; 2]);
        assert_eq!([200, 404, 500].map(hurried), [Outcome::Success, Outcome::Success, Outcome::Failure]);
        let mut grpc = Response::builder().header(CONTENT_TYPE, "application/grpc").body(()).unwrap();
        grpc.extensions_mut().insert(Hurried);
        assert_eq!(SEEN.head(&grpc), Seen::Decided(Outcome::Neutral));
    }

    #[test]
    fn r3_2_a_grpc_status_counts_as_the_http_status_it_stands_for() {
        let response = |content_type: &str, status: Option<&str>| {
            let mut response = Response::builder().header(CONTENT_TYPE, content_type);
            if let Some(status) = status {
                response = response.header(GRPC_STATUS, status);
            }
            SEEN.head(&response.body(()).unwrap())
        };
        for failure in ["2", "4", "13", "14", "15", "17", "?"] {
            assert_eq!(response("application/grpc", Some(failure)), Seen::Decided(Outcome::Failure));
        }
        for fine in ["0", "3", "5", "6", "7", "8", "9", "10", "11", "12", "16"] {
            assert_eq!(response("application/grpc+proto", Some(fine)).end(End::Complete), Outcome::Success);
        }
        assert_eq!(response("application/grpc", Some("1")), Seen::Decided(Outcome::Neutral));
        assert_eq!(response("application/grpc-web", Some("13")), Seen::Body);

        let seen = response("application/grpc", None);
        assert_eq!(seen.end(End::Complete), Outcome::Failure, "no status is `UNKNOWN`");
        let with = |status: &'static str| {
            let trailers = HeaderMap::from_iter([(GRPC_STATUS, HeaderValue::from_static(status))]);
            SEEN.trailers(seen, &trailers).end(End::Complete)
        };
        assert_eq!(
            (with("0"), with("14"), with("1")),
            (Outcome::Success, Outcome::Failure, Outcome::Neutral)
        );
        let too_many = SEEN.failing(429..=429);
        let exhausted = HeaderMap::from_iter([(GRPC_STATUS, HeaderValue::from_static("8"))]);
        assert_eq!(too_many.trailers(seen, &exhausted), Seen::Decided(Outcome::Failure));
    }
}
