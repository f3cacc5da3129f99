//! The records of splits.

use std::{sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue};
use serde_json::{Value as Json, json};

use crate::config::{
    checked::KeyPart,
    decode::{At, Named, OneOrMany, Scalar, Text, Wrong},
    record::record,
    suggest::quoted,
    units::Whole,
    values::{CookieName, Id},
};

record! {
    /// Several upstreams, each for a share of the requests.
    RawSplit ("a split such as `{to: {app: 95, app-v2: 5}, by: client_ip}`") {
        /// The upstreams, and the share of each beside the others'; 0: only whom a pin sends there.
        to: Named<Id, Share> = required, "{app: 95, app-v2: 5}";
        /// By what a request keeps its upstream; without it they take turns.
        by: OneOrMany<KeyPart> = optional, "client_ip";
        /// Who goes to one of them whatever the shares say; the first that applies counts.
        pin: Vec<At<RawPin>> = optional;
        /// When one of them gets no share any more.
        guard: RawSplitGuard = optional;
    }
    instead: weights => "write `to: {app: 95, app-v2: 5}`",
        upstreams => "write `to: {app: 95, app-v2: 5}`",
        arms => "write `to: {app: 95, app-v2: 5}`",
        backends => "write `to: {app: 95, app-v2: 5}`",
        sticky => "write `by: jwt.sub`, `by: client_ip` or `by: header:NAME`",
        key => "write `by:`",
        hash_policy => "write `by:`";
}

record! {
    /// Who goes to one upstream whatever the shares say.
    RawPin ("a pin such as `{header: {x-canary: \"1\"}, to: app-v2}`") {
        /// Whoever sends this header with this value.
        header: Named<HeaderName, HeaderValue> = optional, "{x-canary: \"1\"}";
        /// Whoever sends this cookie with this value.
        cookie: Named<CookieName, CookieValue> = optional, "{release: next}";
        /// Where: one of the split's.
        to: Id = required, "app-v2";
    }
    instead: upstream => "write `to:`",
        headers => "write `header: {x-canary: \"1\"}`",
        cookies => "write `cookie: {release: next}`";
}

record! {
    /// When an upstream of a split gets no share any more: if it fails more often than the baseline.
    RawSplitGuard ("a guard such as `{error_rate: +1%, min_requests: 500}`") {
        /// By how many percentage points its share of failures may be above the baseline's.
        error_rate: Above = required;
        /// How many requests there have to be of either in the window.
        min_requests: Whole<1, 100_000> = "500";
        /// How long a result counts: `100ms` to `1h`.
        window: Duration = "1m";
        /// The upstream that the others are measured by; the one of the largest share if nothing is said.
        baseline: Id = optional, "app";
    }
    instead: error_rate_delta => "write `error_rate: +1%`",
        threshold => "write `error_rate: +1%`",
        min_sample => "write `min_requests:`";
}

/// What one gets beside the others.
pub(crate) type Share = Whole<0, 1_000_000>;

/// So many hundredths of a percent more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Above(pub(crate) u32);

impl Scalar for Above {
    const WHAT: &'static str = "percentage points such as `+1%` or `+0.5%`";
    const UNIT: &'static str = "percentage points, `%`";

    fn parse(text: Text<'_>) -> Result<Self, Wrong> {
        let wrong = || Wrong::new(format!("{} is not by how much one may be above", quoted(text.text)));
        let Some(number) = text.text.strip_suffix('%') else {
            return Err(wrong().help("write `+1%` for one percentage point, `+0.5%` for half of one"));
        };
        if !number.starts_with('+') {
            let meant = if above(number).is_some() { number } else { "1" };
            return Err(wrong().help(format!("it is added to what the baseline has: `+{meant}%`")));
        }
        above(&number[1..]).map(Self).ok_or_else(|| {
            wrong().help("write `+0%` to `+100%`, with two digits behind the point at most: `+0.25%`")
        })
    }

    fn schema() -> Json {
        json!({"type": "string", "pattern": "^\\+[0-9]{1,3}(\\.[0-9]{1,2})?%$", "examples": ["+1%", "+0.5%"]})
    }
}

/// Hundredths of a percent.
fn above(number: &str) -> Option<u32> {
    let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
    let is_number = |digits: &str, most| {
        (1..=most).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit())
    };
    if !(is_number(whole, 3) && is_number(part, 2)) {
        return None;
    }
    let part = part.parse::<u32>().ok()? * if part.len() == 1 { 10 } else { 1 };
    Some(whole.parse::<u32>().ok()? * 100 + part).filter(|bp| *bp <= 10_000)
}

/// The value of a cookie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CookieValue(pub(crate) Arc<str>);

impl Scalar for CookieValue {
    const WHAT: &'static str = "the value of a cookie";

    fn parse(text: Text<'_>) -> Result<Self, Wrong> {
        let fits = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b',' | b';' | b'\\');
        text.text.bytes().all(fits).then(|| Self(text.text.into())).ok_or_else(|| {
            Wrong::new(format!("{} can be the value of no cookie", quoted(text.text)))
                .help("visible ASCII without quotes, commas, semicolons and backslashes: `next`")
        })
    }
}
