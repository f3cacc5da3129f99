//! What may be kept, for how long it is fresh, and what may be answered with it (RFC 9111).
//!
//! # State
//! None: heads, configuration and time in; a judgement out.

use std::time::{Duration, SystemTime};

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, StatusCode,
    header::{
        AGE, CONTENT_RANGE, DATE, ETAG, EXPIRES, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE,
        IF_UNMODIFIED_SINCE, LAST_MODIFIED, RANGE, SET_COOKIE, VARY,
    },
};

use super::{
    config::CacheConfig,
    directives::{Directives, seconds},
};
use crate::reject::Reason;

/// Why a request is not looked up, or a response not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Why(pub(super) &'static str);

/// What is known of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) directives: Directives,
    /// Somebody said who it is, or a layer found out.
    pub(super) is_credentialed: bool,
    /// It asks whether what it has is still good.
    pub(super) is_conditional: bool,
}

impl Asked {
    /// What may be answered with what is kept.
    pub(super) fn of(method: &Method, headers: &HeaderMap, is_known: bool) -> Result<Self, Why> {
        if method != Method::GET && method != Method::HEAD {
            return Err(Why("only GET and HEAD are"));
        }
        if [RANGE, IF_RANGE, IF_MATCH, IF_UNMODIFIED_SINCE].iter().any(|name| headers.contains_key(name)) {
            return Err(Why("a part of it is asked for, or on a condition that only the origin can judge"));
        }
        if headers.keys().any(|name| REWRITES.contains(&name.as_str())) {
            return Err(Why("a header says another target, or another method"));
        }
        let is_credentialed = is_known || headers.keys().any(is_credential);
        let is_conditional = headers.contains_key(IF_NONE_MATCH) || headers.contains_key(IF_MODIFIED_SINCE);
        Ok(Self { directives: Directives::of(headers), is_credentialed, is_conditional })
    }
}

/// What some services take for the target or the method. It is not in the key, so that with it anybody could
/// put one thing in place of another.
const REWRITES: [&str; 6] = [
    "x-original-url",
    "x-rewrite-url",
    "x-original-uri",
    "x-http-method-override",
    "x-http-method",
    "x-method-override",
];

/// Whether a header says, by its name, who somebody is: `authorization` and `cookie`, and those that an application has
/// of its own, such as `x-api-key`.
fn is_credential(name: &HeaderName) -> bool {
    const WORDS: [&str; 7] = ["auth", "cookie", "token", "secret", "key", "password", "session"];
    WORDS.iter().any(|word| name.as_str().contains(word))
}

/// How long a response may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Life {
    /// How old it was when it came.
    pub(super) initial_age: Duration,
    /// Fresh until it is that old.
    pub(super) fresh_for: Duration,
    /// After that it stands in for a failure for so long.
    pub(super) stale_if_error: Duration,
    /// It may be used when it is stale, if the client says so.
    pub(super) may_be_stale: bool,
    /// Also for those who say who they are.
    pub(super) is_for_all: bool,
}

/// Statuses that may be kept without a word (RFC 9110, section 15.1), without 206, which is a part.
const BY_DEFAULT: [u16; 10] = [200, 203, 204, 300, 301, 308, 404, 405, 410, 414];
/// Those that may be kept if they say for how long.
const IF_SAID: [u16; 4] = [302, 303, 307, 501];

/// Whether a response is kept, and for how long it is good. `delay` is how long it took to come.
pub(super) fn life(
    config: &CacheConfig,
    asked: &Asked,
    status: StatusCode,
    headers: &HeaderMap,
    written: &[HeaderName],
    (delay, unix_s): (Duration, u64),
) -> Result<Life, Why> {
    let says = Directives::of(headers);
    let (code, default) = (status.as_u16(), config.default_ttl);
    let is_by_default = BY_DEFAULT.contains(&code);
    if !is_by_default && !IF_SAID.contains(&code) {
        return Err(Why("its status is none that is kept"));
    }
    if asked.directives.no_store || says.no_store {
        return Err(Why("it must not be kept (`no-store`)"));
    }
    if says.private {
        return Err(Why("it is for one user (`private`)"));
    }
    if headers.contains_key(SET_COOKIE) {
        return Err(Why("it sets a cookie"));
    }
    if headers.contains_key(CONTENT_RANGE) {
        return Err(Why("it is a part"));
    }
    match vary(headers) {
        None => return Err(Why("nobody can say what it depends on (`Vary: *`, or more than 32 names)")),
        Some(names) if names.iter().any(|name| written.contains(name)) => {
            return Err(Why("it depends on what is written behind this layer"));
        }
        Some(_) => {}
    }
    let is_for_all = says.public || says.s_maxage.is_some() || says.must_revalidate;
    if asked.is_credentialed && !is_for_all {
        return Err(Why("it is for somebody who said who they are, and does not say `public`"));
    }
    let date = date(headers, &DATE);
    let said = says.s_maxage.or(says.max_age).or_else(|| {
        let expires = headers.get(EXPIRES)?;
        let until = parsed(expires).unwrap_or_default();
        Some(Duration::from_secs(until.saturating_sub(date.unwrap_or(unix_s))))
    });
    let fresh_for = match said {
        Some(said) => said,
        None if is_by_default && !asked.is_credentialed => default,
        None => Duration::ZERO,
    };
    let fresh_for = if says.no_cache { Duration::ZERO } else { fresh_for };
    let is_strict = says.no_cache || says.must_revalidate || says.proxy_revalidate;
    let may_be_stale = !(is_strict || says.s_maxage.is_some());
    let stale_if_error = says.stale_if_error.unwrap_or(config.stale_if_error);
    let stale_if_error = if may_be_stale { stale_if_error } else { Duration::ZERO };
    if fresh_for.is_zero() && stale_if_error.is_zero() && !has_validator(headers) {
        return Err(Why("it does not say that it may be kept"));
    }
    let age = headers.get(AGE).and_then(|age| age.to_str().ok());
    let age = age.map_or(Duration::ZERO, |age| seconds(age.trim()).unwrap_or(Duration::MAX));
    let apparent = date.map_or(0, |date| unix_s.saturating_sub(date));
    let initial_age = age.saturating_add(delay).max(Duration::from_secs(apparent));
    Ok(Life { initial_age, fresh_for, stale_if_error, may_be_stale, is_for_all })
}

/// Whether the origin can be asked if it is still good.
pub(super) fn has_validator(headers: &HeaderMap) -> bool {
    headers.contains_key(ETAG) || headers.contains_key(LAST_MODIFIED)
}

/// What may be done with a response that is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// It is the answer.
    Fresh,
    /// It is if whoever is asked fails, or says that it is still good.
    Stale { stands_in: bool },
    /// It is for others.
    No,
}

impl Life {
    /// How it may be used at that age.
    pub(super) fn at(&self, age: Duration, asked: &Asked) -> Use {
        if asked.is_credentialed && !self.is_for_all {
            return Use::No;
        }
        let Directives { no_cache, max_age, min_fresh, max_stale, .. } = asked.directives;
        let left = self.fresh_for.checked_sub(age).filter(|left| !left.is_zero());
        let is_wanted = match left {
            Some(left) => left >= min_fresh.unwrap_or_default(),
            None => self.may_be_stale && max_stale.is_some_and(|most| self.late(age) <= most),
        };
        if is_wanted && !no_cache && max_age.is_none_or(|most| age <= most) {
            return Use::Fresh;
        }
        // Who wants it checked gets no old one in place of an error.
        let stands_in = !no_cache && self.late(age) < self.stale_if_error;
        Use::Stale { stands_in }
    }

    /// For how long it has been stale.
    pub(super) fn late(&self, age: Duration) -> Duration {
        age.saturating_sub(self.fresh_for)
    }
}

/// How many headers a response may depend on: more of them than that would hardly be said twice.
const MAX_VARY: usize = 32;

/// The names of the headers that a response depends on; none if that cannot be said, or they are too many.
pub(super) fn vary(headers: &HeaderMap) -> Option<Vec<HeaderName>> {
    let mut names = Vec::new();
    for line in headers.get_all(VARY) {
        for name in line.to_str().ok()?.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            if name == "*" {
                return None;
            }
            let name = name.parse::<HeaderName>().ok()?;
            if names.contains(&name) {
                continue;
            }
            if names.len() == MAX_VARY {
                return None;
            }
            names.push(name);
        }
    }
    Some(names)
}

/// Has what is kept depend on what `news` depends on, too. What is known already is not said again, so that it does not
/// grow with each time that it is checked.
pub(super) fn widen(kept: &mut HeaderMap, news: &HeaderMap) {
    let (Some(known), Some(names)) = (vary(kept), vary(news)) else {
        // Nobody can say what it depends on: then it is not kept any longer.
        kept.insert(VARY, HeaderValue::from_static("*"));
        return;
    };
    for name in names.into_iter().filter(|name| !known.contains(name)) {
        kept.append(VARY, name.into());
    }
}

/// Whether what the client has is what is kept: `If-None-Match`, else `If-Modified-Since` (RFC 9110, section 13.2.2).
pub(super) fn is_unchanged(request: &HeaderMap, kept: &HeaderMap) -> bool {
    if request.contains_key(IF_NONE_MATCH) {
        let Some(tag) = kept.get(ETAG).and_then(|tag| tag.to_str().ok()) else { return false };
        let lines = request.get_all(IF_NONE_MATCH).into_iter().filter_map(|line| line.to_str().ok());
        return lines.flat_map(tags).any(|known| known == "*" || opaque(known) == opaque(tag));
    }
    match (date(request, &IF_MODIFIED_SINCE), date(kept, &LAST_MODIFIED)) {
        (Some(since), Some(modified)) => modified <= since,
        _ => false,
    }
}

/// The entity tags of a line: a comma may be part of one.
fn tags(line: &str) -> Vec<&str> {
    let (mut all, mut is_quoted, mut start) = (Vec::new(), false, 0);
    for (at, c) in line.char_indices() {
        match c {
            '"' => is_quoted = !is_quoted,
            ',' if !is_quoted => {
                all.push(line[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    all.push(line[start..].trim());
    all
}

/// Whether both have an entity tag, and it is the same but for its strength.
pub(super) fn is_one_tag(one: &HeaderMap, other: &HeaderMap) -> bool {
    let tag = |headers: &HeaderMap| Some(opaque(headers.get(ETAG)?.to_str().ok()?).to_owned());
    tag(one).is_some_and(|known| tag(other) == Some(known))
}

/// Weak and strong ones are compared alike.
fn opaque(tag: &str) -> &str {
    tag.strip_prefix("W/").unwrap_or(tag)
}

/// The headers by which the origin is asked whether what is kept is still good.
pub(super) fn make_conditional(request: &mut HeaderMap, kept: &HeaderMap) -> bool {
    request.remove(IF_NONE_MATCH);
    request.remove(IF_MODIFIED_SINCE);
    for (question, answer) in [(IF_NONE_MATCH, ETAG), (IF_MODIFIED_SINCE, LAST_MODIFIED)] {
        if let Some(value) = kept.get(answer) {
            request.insert(question, value.clone());
        }
    }
    request.contains_key(IF_NONE_MATCH) || request.contains_key(IF_MODIFIED_SINCE)
}

/// Whether this refusal of ours says that whoever is behind is not well: then a stale answer may stand in.
pub(super) fn is_trouble(reason: Reason) -> bool {
    let is_played = matches!(reason, Reason::FaultInjected(status) if is_error(status));
    is_played
        || reason.blames_upstream()
        || matches!(
            reason,
            Reason::CircuitOpen
                | Reason::NoEndpoint
                | Reason::SubsetEmpty
                | Reason::ConnectionsFull
                | Reason::BulkheadFull
                | Reason::BulkheadTimeout
        )
}

/// Whether a status is one for which a stale answer may stand in (RFC 5861, section 4).
pub(super) fn is_error(status: StatusCode) -> bool {
    matches!(status.as_u16(), 500 | 502 | 503 | 504)
}

fn date(headers: &HeaderMap, name: &HeaderName) -> Option<u64> {
    parsed(headers.get(name)?)
}

/// An HTTP date, in seconds since 1970.
fn parsed(value: &HeaderValue) -> Option<u64> {
    let date = httpdate::parse_http_date(value.to_str().ok()?).ok()?;
    date.duration_since(SystemTime::UNIX_EPOCH).ok().map(|since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use http::header::CACHE_CONTROL;

    use super::*;

    const NOW: u64 = 1_795_000_000;

    fn headers(all: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in all {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    fn asked(all: &[(&'static str, &str)]) -> Asked {
        Asked::of(&Method::GET, &headers(all), false).unwrap()
    }

    fn s(s: u64) -> Duration {
        Duration::from_secs(s)
    }

    fn http_date(unix_s: u64) -> String {
        httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + s(unix_s))
    }

    fn kept(
        request: &[(&'static str, &str)],
        status: u16,
        response: &[(&'static str, &str)],
    ) -> Option<Life> {
        let config = CacheConfig::new().stale_if_error(s(60));
        let status = StatusCode::from_u16(status).unwrap();
        life(
            &config,
            &asked(request),
            status,
            &headers(response),
            &[http::header::COOKIE],
            (Duration::ZERO, NOW),
        )
        .ok()
    }

    fn fresh(
        request: &[(&'static str, &str)],
        status: u16,
        response: &[(&'static str, &str)],
    ) -> Option<u64> {
        kept(request, status, response).map(|life| life.fresh_for.as_secs())
    }

    #[test]
    fn what_says_that_it_is_fresh_is_kept_and_what_must_not_is_not() {
        let max_age = ("cache-control", "max-age=9");
        assert_eq!(fresh(&[], 200, &[max_age]), Some(9));
        assert_eq!(fresh(&[], 200, &[("cache-control", "max-age=9, s-maxage=4")]), Some(4));
        let (date, expires) = (http_date(NOW), http_date(NOW + 30));
        assert_eq!(fresh(&[], 200, &[("date", &date), ("expires", &expires)]), Some(30));
        assert_eq!(fresh(&[], 200, &[("expires", "0")]), Some(0), "it is stale, and may stand in");
        assert_eq!(fresh(&[], 404, &[max_age]), Some(9));
        for response in [
            &[("cache-control", "max-age=9, no-store")][..],
            &[("cache-control", "max-age=9, private")],
            &[max_age, ("set-cookie", "a=b")],
            &[max_age, ("vary", "accept, *")],
            &[max_age, ("vary", "accept"), ("vary", "Cookie")],
            &[max_age, ("content-range", "bytes 0-1/2")],
        ] {
            assert_eq!(fresh(&[], 200, response), None, "{response:?}");
        }
        assert_eq!(
            (fresh(&[], 206, &[max_age]), fresh(&[], 500, &[max_age]), fresh(&[], 302, &[max_age])),
            (None, None, Some(9))
        );
        assert_eq!(fresh(&[("cache-control", "no-store")], 200, &[max_age]), None);
        assert_eq!(fresh(&[], 200, &[("cache-control", "max-age=9, no-cache"), ("etag", "\"a\"")]), Some(0));
    }

    #[test]
    fn what_is_for_somebody_is_kept_only_if_it_says_that_it_is_for_all() {
        let max_age = ("cache-control", "max-age=9");
        for plain in ["host", "accept-language", "user-agent", "x-forwarded-for", "x-request-id", "referer"] {
            assert_eq!(fresh(&[(plain, "x")], 200, &[max_age]), Some(9), "{plain}");
        }
        for who in [
            ("authorization", "Bearer x"),
            ("cookie", "session=1"),
            ("x-api-key", "x"),
            ("x-auth-token", "x"),
        ] {
            assert_eq!(fresh(&[who], 200, &[("cache-control", "max-age=9")]), None, "{who:?}");
            assert_eq!(fresh(&[who], 200, &[("cache-control", "max-age=9, proxy-revalidate")]), None);
            for word in ["public, max-age=9", "s-maxage=9", "max-age=9, must-revalidate"] {
                assert_eq!(fresh(&[who], 200, &[("cache-control", word)]), Some(9), "{who:?} {word}");
            }
        }
        let plain = kept(&[], 200, &[("cache-control", "max-age=9")]).unwrap();
        assert_eq!(plain.at(s(1), &asked(&[])), Use::Fresh);
        assert_eq!(plain.at(s(1), &asked(&[("cookie", "session=1")])), Use::No);
        let public = kept(&[], 200, &[("cache-control", "max-age=9, public")]).unwrap();
        assert_eq!(public.at(s(1), &asked(&[("cookie", "session=1")])), Use::Fresh);
    }

    #[test]
    fn the_age_is_the_oldest_that_anybody_says() {
        let age = |response: &[(&'static str, &str)], delay| {
            let config = CacheConfig::new();
            let mut response = headers(response);
            response.insert(CACHE_CONTROL, HeaderValue::from_static("max-age=100"));
            life(&config, &asked(&[]), StatusCode::OK, &response, &[], (s(delay), NOW)).unwrap().initial_age
        };
        assert_eq!(age(&[], 2), s(2));
        assert_eq!(age(&[("age", "7")], 2), s(9));
        assert_eq!(age(&[("age", "7"), ("date", &http_date(NOW - 30))], 2), s(30));
        assert_eq!(age(&[("date", &http_date(NOW + 30))], 0), s(0));
        assert_eq!(age(&[("age", "x")], 0), Duration::MAX, "it is as good as stale");
    }

    #[test]
    fn what_the_client_asks_for_is_heard() {
        let life = kept(&[], 200, &[("cache-control", "max-age=10")]).unwrap();
        let at = |age, says: &str| life.at(s(age), &asked(&[("cache-control", says)]));
        let (stands_in, not) = (Use::Stale { stands_in: true }, Use::Stale { stands_in: false });
        assert_eq!((at(9, ""), at(10, "")), (Use::Fresh, stands_in));
        assert_eq!((at(9, "no-cache"), at(5, "max-age=4"), at(5, "max-age=5")), (not, stands_in, Use::Fresh));
        assert_eq!((at(7, "min-fresh=3"), at(8, "min-fresh=3")), (Use::Fresh, stands_in));
        assert_eq!(
            (at(12, "max-stale=2"), at(13, "max-stale=2"), at(99, "max-stale")),
            (Use::Fresh, stands_in, Use::Fresh)
        );
        assert_eq!((at(69, ""), at(70, "")), (stands_in, not));
        for strict in [
            "max-age=10, must-revalidate",
            "max-age=10, proxy-revalidate",
            "s-maxage=10",
            "max-age=10, no-cache",
        ] {
            let life = kept(&[], 200, &[("cache-control", strict), ("etag", "\"a\"")]).unwrap();
            assert_eq!(life.at(s(11), &asked(&[("cache-control", "max-stale")])), not, "{strict}");
        }
        let own = kept(&[], 200, &[("cache-control", "max-age=10, stale-if-error=5")]).unwrap();
        assert_eq!((own.at(s(14), &asked(&[])), own.at(s(15), &asked(&[]))), (stands_in, not));
    }

    #[test]
    fn what_the_client_has_is_compared() {
        let modified = http_date(NOW);
        let kept = headers(&[("etag", "W/\"a,b\""), ("last-modified", &modified)]);
        let is = |request: &[(&'static str, &str)]| is_unchanged(&headers(request), &kept);
        assert!(is(&[("if-none-match", "\"x\", \"a,b\"")]) && is(&[("if-none-match", "*")]));
        assert!(!is(&[("if-none-match", "\"a\", \"b\""), ("if-modified-since", &modified)]));
        assert!(is(&[("if-modified-since", &modified)]) && is(&[("if-modified-since", &http_date(NOW + 1))]));
        assert!(!is(&[("if-modified-since", &http_date(NOW - 1))]) && !is(&[("if-modified-since", "soon")]));
        let mut question = headers(&[("if-none-match", "\"x\"")]);
        assert!(make_conditional(&mut question, &kept));
        assert_eq!(question[IF_NONE_MATCH], "W/\"a,b\"");
        assert!(!make_conditional(&mut question, &HeaderMap::new()) && question.get(IF_NONE_MATCH).is_none());
    }

    #[test]
    fn only_what_is_whole_and_only_read_is_looked_up() {
        let asked = |method, all: &[(&'static str, &str)]| Asked::of(&method, &headers(all), false);
        assert!(asked(Method::HEAD, &[]).is_ok() && asked(Method::POST, &[]).is_err());
        for name in ["range", "if-range", "if-match", "if-unmodified-since"] {
            assert!(asked(Method::GET, &[(name, "x")]).is_err(), "{name}");
        }
    }
}
