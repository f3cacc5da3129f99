//! Until when an answer is of use: what clients say of it, and what endpoints are told.
//!
//! gRPC says it in `grpc-timeout`; all else in a header that `gateway.deadline_header` names, in whole milliseconds. Anybody
//! may say it, because it can only be made shorter: an answer is never waited for longer than `timeouts.total`.
//! It is taken away where it is read, and written anew for each attempt, with what is left by then. What a gRPC client says is
//! kept to over all of its call; of what `timeouts.total` says gRPC hears nothing, as that ends where a stream begins.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use naka::{
    classify::is_grpc,
    clock::Now,
    deadline::{GRPC_TIMEOUT, Malformed, from_grpc, from_ms, to_grpc, to_ms},
    reject::{Reason, Rejection},
};
use tokio::time::Instant;

use crate::{config::checked::Config, headers::Seen};

/// In which headers it is said.
#[derive(Clone, Debug, Default)]
pub struct Deadlines {
    /// Beside that of gRPC.
    pub header: Option<HeaderName>,
}

impl Deadlines {
    /// As a configuration says.
    pub fn named(config: &Config) -> Self {
        Self { header: config.gateway.deadline_header.clone() }
    }

    /// Takes away what a client says, and says the shortest of it.
    ///
    /// # Errors
    /// If it cannot be read, or is said more than once.
    pub(crate) fn take(&self, headers: &mut HeaderMap, seen: Seen) -> Result<Option<Duration>, Rejection> {
        let mut told = None;
        if seen.has(Seen::CONTENT_TYPE) && headers.contains_key(&GRPC_TIMEOUT) && is_grpc(headers) {
            told = taken(headers, &GRPC_TIMEOUT, from_grpc)?;
        }
        if let Some(header) = &self.header {
            told = told.into_iter().chain(taken(headers, header, from_ms)?).min();
        }
        Ok(told)
    }

    /// Says what is left until `deadline`, where an endpoint would understand it. gRPC hears only what the client `told`: its
    /// timeout is that of the whole call, and a call may be a stream, which has all the time once it has begun.
    ///
    /// # Errors
    /// If nothing is left.
    pub fn tell(
        &self,
        headers: &mut HeaderMap,
        deadline: Option<Instant>,
        told: Option<Instant>,
        now: impl FnOnce() -> Now,
    ) -> Result<(), Reason> {
        let Some(deadline) = deadline else { return Ok(()) };
        let is_grpc = is_grpc(headers);
        if !is_grpc && self.header.is_none() {
            return Ok(()); // Nobody would hear it: the clock is not read.
        }
        let now = now().instant();
        let left = deadline.saturating_duration_since(now);
        if left.is_zero() {
            return Err(Reason::DeadlineExpired);
        }
        if let Some(told) = told.filter(|_| is_grpc) {
            headers.insert(GRPC_TIMEOUT, to_grpc(told.saturating_duration_since(now)));
        }
        if let Some(header) = &self.header {
            headers.insert(header.clone(), to_ms(left));
        }
        Ok(())
    }
}

fn taken(
    headers: &mut HeaderMap,
    name: &HeaderName,
    read: impl FnOnce(&HeaderValue) -> Result<Duration, Malformed>,
) -> Result<Option<Duration>, Rejection> {
    let is_once = headers.get_all(name).iter().count() <= 1;
    let Some(value) = headers.remove(name) else { return Ok(None) };
    match read(&value) {
        Ok(told) if is_once => Ok(Some(told)),
        _ => {
            let what = format!("`{name}` does not say, once, how long is waited.");
            Err(Rejection::new(Reason::BadRequest).detail(&what))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(all: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in all {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    fn milliseconds() -> Deadlines {
        Deadlines { header: Some(HeaderName::from_static("x-timeout-ms")) }
    }

    const GRPC: (&str, &str) = ("content-type", "application/grpc");

    #[test]
    fn the_shortest_that_is_said_counts_and_is_taken_away() {
        let ms = |ms| Ok(Some(Duration::from_millis(ms)));
        let take = |all: &[(&'static str, &'static str)]| {
            let mut headers = headers(all);
            let seen = Seen::of(&headers);
            let told = milliseconds().take(&mut headers, seen).map_err(|rejection| rejection.reason);
            (told, headers.len())
        };
        assert_eq!(take(&[GRPC, ("grpc-timeout", "2S")]), (ms(2000), 1));
        assert_eq!(take(&[GRPC, ("grpc-timeout", "2S"), ("x-timeout-ms", "70")]), (ms(70), 1));
        assert_eq!(take(&[("x-timeout-ms", "0")]), (ms(0), 0));
        assert_eq!(take(&[("grpc-timeout", "?")]), (Ok(None), 1), "it is no gRPC");
        for wrong in [
            &[GRPC, ("grpc-timeout", "2")][..],
            &[GRPC, ("grpc-timeout", "2S"), ("grpc-timeout", "2S")],
            &[("x-timeout-ms", "1s")],
            &[("x-timeout-ms", "70"), ("x-timeout-ms", "70")],
        ] {
            assert_eq!(take(wrong).0, Err(Reason::BadRequest), "{wrong:?}");
        }
        let mut other = headers(&[("x-timeout-ms", "1s")]);
        let seen = Seen::of(&other);
        assert_eq!(Deadlines::default().take(&mut other, seen), Ok(None));
        assert_eq!(other.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_left_is_told_to_who_understands_it() {
        let now = Now::read();
        let deadline = Some(now.instant() + Duration::from_secs(3));
        let later = || Now::from(now.instant() + Duration::from_millis(500));
        let tell = |deadlines: Deadlines, told, all: &[(&'static str, &'static str)]| {
            let mut headers = headers(all);
            deadlines.tell(&mut headers, deadline, told, later).unwrap();
            let value = |name: &str| headers.get(name).map(|it| it.to_str().unwrap().to_owned());
            (value("grpc-timeout"), value("x-timeout-ms"))
        };
        assert_eq!(tell(Deadlines::default(), None, &[]), (None, None));
        assert_eq!(tell(milliseconds(), None, &[]), (None, Some("2500".into())));
        assert_eq!(tell(Deadlines::default(), deadline, &[GRPC]), (Some("2500000u".into()), None));
        assert_eq!(tell(milliseconds(), deadline, &[GRPC]), (Some("2500000u".into()), Some("2500".into())));
        let of_the_client = deadline.map(|deadline| deadline + Duration::from_secs(7));
        assert_eq!(
            tell(milliseconds(), of_the_client, &[GRPC]),
            (Some("9500000u".into()), Some("2500".into()))
        );
        assert_eq!(tell(milliseconds(), None, &[GRPC]), (None, Some("2500".into())), "it may be a stream");
        let over = || Now::from(now.instant() + Duration::from_secs(3));
        let is_over = milliseconds().tell(&mut HeaderMap::new(), deadline, None, over);
        assert_eq!(is_over, Err(Reason::DeadlineExpired));
        assert_eq!(milliseconds().tell(&mut HeaderMap::new(), None, None, over), Ok(()));
    }
}
