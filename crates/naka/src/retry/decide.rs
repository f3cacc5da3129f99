//! Whether a failed attempt is followed by another.
//!
//! # State
//! None: what was asked for, how it failed, and how often, in; what to do, out.

use std::time::{Duration, SystemTime};

use http::{
    HeaderMap, Method, Response, StatusCode,
    header::{DATE, RETRY_AFTER},
    request::Parts,
};

use super::config::{Methods, RetryConfig};
use crate::{
    attempt::{Stop, is_unsent},
    classify::{is_grpc, status_of_head},
    clock::{Now, WallClock},
    context::Upgrade,
    reject::{Reason, Rejection},
};

/// What is known of a request before it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    /// Twice has the effect of once.
    pub(super) is_repeatable: bool,
}

impl Asked {
    /// By its method (RFC 9110, section 9.2), or the key that it has.
    pub(super) fn of(config: &RetryConfig, method: &Method, headers: &HeaderMap) -> Self {
        let by_method = match config.methods {
            Methods::None => false,
            Methods::Safe => method.is_safe(),
            Methods::Idempotent => method.is_idempotent(),
        };
        Self { is_repeatable: by_method || config.keyed && headers.contains_key("idempotency-key") }
    }

    /// The same of a request: an upgrade is not repeatable, as twice may be two conversations.
    pub(super) fn of_head(config: &RetryConfig, head: &Parts) -> Self {
        if Upgrade::is_asked(&head.extensions) {
            return Self { is_repeatable: false };
        }
        Self::of(config, &head.method, &head.headers)
    }
}

/// How an attempt failed, of those ways in which one is followed by another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    /// Whoever is behind has seen nothing of the request.
    pub(super) is_unsent: bool,
    /// When it wants to be asked again.
    pub(super) retry_after: Option<Duration>,
}

impl Failure {
    /// What a response says; `None` if it is not to be followed by another attempt.
    pub(super) fn of<R>(config: &RetryConfig, response: &Response<R>) -> Option<Self> {
        let when = &config.when;
        if let Some(rejection) = response.extensions().get::<Rejection>() {
            // Of our own refusals only those that are about the endpoint: another may be well.
            let is_wanted = match rejection.reason {
                reason if reason.is_of_connecting() => when.connect_error,
                Reason::UpstreamReset => when.reset,
                Reason::UpstreamRefused => when.refused_stream,
                Reason::ResponseTimeout => when.response_timeout,
                _ => false,
            };
            return is_wanted.then(|| Self { is_unsent: is_unsent(response), retry_after: None });
        }
        let is_wanted = status_of_head(response).is_some_and(|status| when.statuses.contains(&status));
        is_wanted.then(|| Self { is_unsent: false, retry_after: retry_after(response) })
    }
}

/// What a `Retry-After` asks for: seconds, or a date (RFC 9110, section 10.2.3), seen from that of the response itself, so that
/// it is no matter whose clock is wrong. Of gRPC, the `grpc-retry-pushback-ms` (gRFC A6): what is no such number asks
/// for no retry at all.
fn retry_after<R>(response: &Response<R>) -> Option<Duration> {
    if is_grpc(response.headers()) {
        let pushback = response.headers().get("grpc-retry-pushback-ms")?;
        let ms = pushback.to_str().ok().and_then(|text| text.parse().ok());
        return Some(ms.map_or(Duration::MAX, Duration::from_millis));
    }
    let may_say =
        [StatusCode::SERVICE_UNAVAILABLE, StatusCode::TOO_MANY_REQUESTS].contains(&response.status());
    let text = response.headers().get(RETRY_AFTER).filter(|_| may_say)?.to_str().ok()?;
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = unix_s(text)?;
    let said = response.headers().get(DATE).and_then(|date| unix_s(date.to_str().ok()?));
    let now = said.unwrap_or_else(|| WallClock::system().unix_s(Now::read()));
    Some(Duration::from_secs(at.saturating_sub(now)))
}

fn unix_s(date: &str) -> Option<u64> {
    let date = httpdate::parse_http_date(date).ok()?;
    Some(date.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs())
}

/// Whether there is another attempt after `attempts`, and the least time until then.
pub(super) fn evaluate(
    config: &RetryConfig,
    asked: Asked,
    failure: Failure,
    has_body: bool,
    attempts: u32,
) -> Result<Duration, Stop> {
    let pause = failure.retry_after.unwrap_or_default();
    match () {
        () if attempts > config.max => Err(Stop::Attempts),
        () if !(asked.is_repeatable || failure.is_unsent) => Err(Stop::NotRepeatable),
        () if !has_body => Err(Stop::Body),
        () if pause > config.max_retry_after => Err(Stop::RetryAfter),
        () => Ok(pause),
    }
}

/// How long before the attempt after that many, by chance between nothing and a bound that doubles (full jitter:
/// M. Brooker, "Exponential Backoff And Jitter", 2015). `random` is any number.
pub(super) fn backoff(config: &RetryConfig, attempts: u32, random: u64) -> Duration {
    let doubled = 1_u32.checked_shl(attempts.saturating_sub(1)).unwrap_or(u32::MAX);
    let bound = config.backoff.base.saturating_mul(doubled).min(config.backoff.cap);
    let bound_ns = u64::try_from(bound.as_nanos()).unwrap_or(u64::MAX);
    // The high half of a product is evenly spread over the bound.
    let share = (u128::from(random) * (u128::from(bound_ns) + 1)) >> 64;
    Duration::from_nanos(u64::try_from(share).unwrap_or(bound_ns))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(status: u16, headers: &[(&str, &str)]) -> Response<()> {
        let builder = headers.iter().fold(Response::builder().status(status), |it, (k, v)| it.header(*k, *v));
        builder.body(()).unwrap()
    }

    fn refused(reason: Reason) -> Response<()> {
        Rejection::new(reason).into_response()
    }

    const REPEATABLE: Asked = Asked { is_repeatable: true };
    const ONCE: Asked = Asked { is_repeatable: false };

    #[test]
    fn only_what_is_wanted_is_a_failure() {
        let config = RetryConfig::new(1);
        let unsent = |reason| Failure::of(&config, &refused(reason)).map(|it| it.is_unsent);
        assert_eq!(unsent(Reason::ConnectFailed), Some(true));
        assert_eq!(unsent(Reason::ConnectTimeout), Some(true));
        assert_eq!(unsent(Reason::UpstreamReset), Some(false));
        assert_eq!(unsent(Reason::UpstreamRefused), Some(true));
        // Our own refusals are no failures of an endpoint; nor is a slow one, unless it is said.
        for reason in [
            Reason::ResponseTimeout,
            Reason::RateLimited,
            Reason::BulkheadFull,
            Reason::NoEndpoint,
            Reason::TotalTimeout,
        ] {
            assert_eq!(unsent(reason), None, "{reason}");
        }
        let failed = |status| Failure::of(&config, &head(status, &[])).is_some();
        assert_eq!(
            [200, 404, 429, 500, 502, 503, 504].map(failed),
            [false, false, false, false, false, true, false]
        );
    }

    #[test]
    fn a_grpc_status_in_the_head_counts_as_the_status_that_it_stands_for() {
        let config = RetryConfig::new(1);
        let failed = |headers: &[_]| Failure::of(&config, &head(200, headers)).map(|it| it.is_unsent);
        let grpc = ("content-type", "application/grpc+proto");
        assert_eq!(failed(&[grpc, ("grpc-status", "14")]), Some(false), "UNAVAILABLE is a 503");
        for status in ["0", "1", "4", "8", "13", "anything"] {
            assert_eq!(failed(&[grpc, ("grpc-status", status)]), None, "{status}");
        }
        assert_eq!(
            failed(&[grpc]),
            None,
            "it comes with the trailers, after messages that are passed on already"
        );
        assert_eq!(failed(&[("content-type", "text/plain"), ("grpc-status", "14")]), None);
        let pushed_back = |text| {
            let headers = [grpc, ("grpc-status", "14"), ("grpc-retry-pushback-ms", text)];
            evaluate(&config, REPEATABLE, Failure::of(&config, &head(200, &headers)).unwrap(), true, 1)
        };
        assert_eq!(pushed_back("250"), Ok(Duration::from_millis(250)));
        assert_eq!(["1001", "-1", "soon"].map(pushed_back), [Err(Stop::RetryAfter); 3]);
    }

    #[test]
    fn what_was_sent_once_and_may_be_sent_only_once_is_not_sent_again() {
        let config = RetryConfig::new(1);
        let post = Asked::of(&config, &Method::POST, &HeaderMap::new());
        assert_eq!(post, ONCE);
        let keyed: HeaderMap =
            [(http::HeaderName::from_static("idempotency-key"), "1".parse().unwrap())].into_iter().collect();
        assert_eq!(Asked::of(&config, &Method::POST, &keyed), ONCE, "unless whoever is behind keeps keys");
        assert_eq!(Asked::of(&config.clone().keyed(true), &Method::POST, &keyed), REPEATABLE);
        for method in [Method::GET, Method::HEAD, Method::PUT, Method::DELETE, Method::OPTIONS, Method::TRACE]
        {
            assert_eq!(Asked::of(&config, &method, &HeaderMap::new()), REPEATABLE, "{method}");
        }
        let safe = config.clone().methods(Methods::Safe);
        assert_eq!(Asked::of(&safe, &Method::PUT, &HeaderMap::new()), ONCE);

        let sent = Failure { is_unsent: false, retry_after: None };
        let unsent = Failure { is_unsent: true, retry_after: None };
        assert_eq!(evaluate(&config, post, sent, true, 1), Err(Stop::NotRepeatable));
        assert_eq!(evaluate(&config, post, unsent, true, 1), Ok(Duration::ZERO));
        assert_eq!(evaluate(&config, post, unsent, false, 1), Err(Stop::Body));
        assert_eq!(evaluate(&config, REPEATABLE, sent, true, 1), Ok(Duration::ZERO));
        assert_eq!(evaluate(&config, REPEATABLE, sent, true, 2), Err(Stop::Attempts));
    }

    #[test]
    fn who_says_when_to_come_back_is_heard_if_it_is_soon() {
        let config = RetryConfig::new(1);
        let after = |text| {
            let failure = Failure::of(&config, &head(503, &[("retry-after", text)])).unwrap();
            evaluate(&config, REPEATABLE, failure, true, 1)
        };
        assert_eq!(after("1"), Ok(Duration::from_secs(1)));
        assert_eq!(after("2"), Err(Stop::RetryAfter));
        assert_eq!(after("-1"), Ok(Duration::ZERO));
        // Bug: a date counted as nothing, so what wanted to be left alone for a day was asked again at once.
        assert_eq!(after("Thu, 21 Oct 9999 07:28:00 GMT"), Err(Stop::RetryAfter));
        assert_eq!(after("Wed, 21 Oct 2015 07:28:00 GMT"), Ok(Duration::ZERO));
        let after = |seconds: u64| {
            let at = format!("Wed, 21 Oct 2015 07:28:{seconds:02} GMT");
            let headers = [("date", "Wed, 21 Oct 2015 07:28:10 GMT"), ("retry-after", &at)];
            evaluate(&config, REPEATABLE, Failure::of(&config, &head(503, &headers)).unwrap(), true, 1)
        };
        assert_eq!(after(11), Ok(Duration::from_secs(1)), "by the clock of whoever says it");
        assert_eq!((after(12), after(9)), (Err(Stop::RetryAfter), Ok(Duration::ZERO)));
    }

    #[test]
    fn the_pause_is_by_chance_below_a_bound_that_doubles() {
        let config = RetryConfig::new(9);
        let longest = |attempts| backoff(&config, attempts, u64::MAX).as_millis();
        assert_eq!([1, 2, 3, 4, 5, 99].map(longest), [25, 50, 100, 200, 250, 250]);
        assert_eq!(backoff(&config, 3, 0), Duration::ZERO);
        assert_eq!(backoff(&config, 3, u64::MAX / 2).as_micros(), 50_000);
    }
}
