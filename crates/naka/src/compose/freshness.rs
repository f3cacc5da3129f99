//! How long an answer that is made of others is good (RFC 9111): as long as all of them are, and not at all if one of them is for one
//! client only.

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{AGE, CACHE_CONTROL, SET_COOKIE, VARY},
};

/// For whom, and how long, an answer is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Freshness {
    /// Nothing is said of it.
    Unsaid,
    /// So many seconds.
    For(u64),
    /// It is not to be kept, or by one client only.
    Never,
}

impl Freshness {
    /// What the head of a part says. It was `sent` these headers, and may differ `by` those.
    pub(super) fn of(headers: &HeaderMap, sent: &[HeaderName], by: &[HeaderName]) -> Self {
        let differs = items(headers, &VARY).any(|name| {
            name == "*" || sent.iter().any(|sent| *sent == *name) && !by.iter().any(|by| *by == *name)
        });
        let mut it = if differs || headers.contains_key(SET_COOKIE) { Self::Never } else { Self::Unsaid };
        let mut shared = None;
        for directive in items(headers, &CACHE_CONTROL) {
            let (name, value) = directive.split_once('=').unwrap_or((&directive, ""));
            // What cannot be read is good for no time.
            let seconds = || value.trim_matches('"').parse::<u64>().unwrap_or(0);
            match name.trim() {
                "no-store" | "private" | "no-cache" => it = Self::Never,
                "max-age" => it = it.and(Self::For(seconds())),
                "s-maxage" => shared = Some(seconds()),
                _ => {}
            }
        }
        if let (Some(seconds), Self::Unsaid | Self::For(_)) = (shared, it) {
            it = Self::For(seconds);
        }
        let age = headers.get(AGE).and_then(|age| age.to_str().ok()?.trim().parse::<u64>().ok());
        match it {
            Self::For(seconds) => Self::For(seconds.saturating_sub(age.unwrap_or(0))),
            it => it,
        }
    }

    /// Of two together.
    pub(super) fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Never, _) | (_, Self::Never) => Self::Never,
            (Self::For(one), Self::For(other)) => Self::For(one.min(other)),
            (Self::For(one), Self::Unsaid) | (Self::Unsaid, Self::For(one)) => Self::For(one),
            (Self::Unsaid, Self::Unsaid) => Self::Unsaid,
        }
    }

    /// What the answer says.
    pub(super) fn header(self) -> Option<HeaderValue> {
        match self {
            Self::Unsaid => None,
            Self::For(seconds) => HeaderValue::try_from(format!("max-age={seconds}")).ok(),
            Self::Never => Some(HeaderValue::from_static("no-store")),
        }
    }
}

/// The items of a list, in lower case.
fn items(headers: &HeaderMap, name: &HeaderName) -> impl Iterator<Item = String> {
    let lines =
        headers.get_all(name).iter().map(|line| String::from_utf8_lossy(line.as_bytes()).to_lowercase());
    let items = lines.flat_map(|line| line.split(',').map(|item| item.trim().to_owned()).collect::<Vec<_>>());
    items.filter(|item| !item.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r13_5_an_answer_is_good_as_long_as_its_parts_and_for_those_they_are_for() {
        let of = |lines: &[(&'static str, &'static str)]| {
            let lines = lines
                .iter()
                .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
            let sent = ["authorization", "accept-language"].map(HeaderName::from_static);
            Freshness::of(&lines.collect(), &sent, &sent[1..])
        };
        for (lines, expected) in [
            (&[][..], Freshness::Unsaid),
            (&[("cache-control", "public, max-age=60")], Freshness::For(60)),
            (&[("cache-control", "max-age=60, s-maxage=\"10\"")], Freshness::For(10)),
            (&[("cache-control", "max-age=60"), ("age", "50")], Freshness::For(10)),
            (&[("cache-control", "max-age=x")], Freshness::For(0)),
            (&[("cache-control", "max-age=60, Private")], Freshness::Never),
            (&[("cache-control", "no-store")], Freshness::Never),
            (&[("set-cookie", "a=b")], Freshness::Never),
            (&[("vary", "Accept-Language, accept-encoding")], Freshness::Unsaid),
            (&[("vary", "authorization")], Freshness::Never),
            (&[("vary", "*")], Freshness::Never),
        ] {
            assert_eq!(of(lines), expected, "{lines:?}");
        }
        let (five, nine) = (Freshness::For(5), Freshness::For(9));
        assert_eq!((five.and(nine), nine.and(Freshness::Unsaid)), (five, nine));
        assert_eq!(five.and(Freshness::Never).header().unwrap(), "no-store");
    }
}
