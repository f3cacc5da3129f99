//! What a client is told of its limits, in the fields of the response.

use std::{
    cmp::Reverse,
    fmt::{self, Write as _},
    io::Write as _,
    mem,
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header::InvalidHeaderValue};

use super::gcra::{MAX_WINDOWS, Standing};

/// The longest part of a policy's name that is shown.
const NAME: usize = 64;

/// Which fields a client is told its limits in, on every response of what is limited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fields {
    /// None but `Retry-After`, which every refusal for which a wait helps has.
    #[default]
    Off,
    /// `RateLimit` and `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers-10), one member for each
    /// window: its name, `q` and `w` (at most so many at once, all of which come back in so many
    /// seconds), `r` (so many are left) and `t` (after so many seconds all of them are).
    Draft,
    /// `X-RateLimit-Limit`, `-Remaining` and `-Reset` (in seconds) of the window with the least left.
    Legacy,
}

/// Where a request stands with one limit.
#[derive(Clone, Debug)]
pub(super) struct Told<'a> {
    pub(super) fields: Fields,
    pub(super) name: Option<&'a str>,
    /// What `RateLimit-Policy` says of this limit alone.
    pub(super) policy: Option<&'a HeaderValue>,
    pub(super) windows: [Option<Standing>; MAX_WINDOWS],
}

/// The fields of one response. None of them is there twice: one with several limits lists them all.
#[derive(Debug)]
pub(super) enum Lines {
    Draft(Draft),
    Legacy(Least),
    /// Of several limits, some speak so and some so.
    Both(Box<(Draft, Least)>),
}

impl Lines {
    /// `None` if there is nothing to say. Of one limit, the draft's fields are one allocation.
    pub(super) fn of(told: &[Told<'_>]) -> Option<Self> {
        match (Draft::of(told), Least::of(told)) {
            (Some(draft), None) => Some(Self::Draft(draft)),
            (None, Some(least)) => Some(Self::Legacy(least)),
            (Some(draft), Some(least)) => Some(Self::Both(Box::new((draft, least)))),
            (None, None) => None,
        }
    }

    pub(super) fn write(self, headers: &mut HeaderMap) {
        match self {
            Self::Draft(draft) => draft.write(headers),
            Self::Legacy(least) => least.write(headers),
            Self::Both(both) => {
                let (draft, least) = *both;
                draft.write(headers);
                least.write(headers);
            }
        }
    }
}

/// `RateLimit-Policy` and `RateLimit`.
#[derive(Debug)]
pub(super) struct Draft {
    policy: HeaderValue,
    limit: HeaderValue,
}

impl Draft {
    fn of(told: &[Told<'_>]) -> Option<Self> {
        let members = Members { told, is_policy: false };
        members.windows().next()?;
        let policy = if let [Told { policy: Some(policy), .. }] = told {
            HeaderValue::clone(policy) // Which allocates nothing.
        } else {
            written(&Members { is_policy: true, ..members }).ok()?
        };
        Some(Self { policy, limit: written(&members).ok()? })
    }

    /// Both are lists, so what is there already stays.
    fn write(self, headers: &mut HeaderMap) {
        headers.append(HeaderName::from_static("ratelimit-policy"), self.policy);
        headers.append(HeaderName::from_static("ratelimit"), self.limit);
    }
}

/// The window with the least left.
#[derive(Debug)]
pub(super) struct Least {
    quota: u32,
    left: u64,
    reset: Duration,
}

impl Least {
    fn of(told: &[Told<'_>]) -> Option<Self> {
        let legacy = told.iter().filter(|told| told.fields == Fields::Legacy);
        let windows = legacy.flat_map(|told| told.windows.iter().flatten());
        let least = windows.min_by_key(|window| (window.left, Reverse(window.reset)))?;
        Some(Self { quota: least.quota, left: least.left, reset: least.reset })
    }

    /// Three numbers in one allocation; each says one thing, so what is there already goes.
    fn write(self, headers: &mut HeaderMap) {
        let mut text = [0; 10 + 20 + 15]; // As long as they can be.
        let mut filled = 0;
        let ranges = [u64::from(self.quota), self.left, seconds(self.reset)].map(|number| {
            let mut free = &mut text[filled..];
            let _ = write!(free, "{number}"); // Which has room.
            let left = free.len();
            let begin = mem::replace(&mut filled, text.len() - left);
            begin..filled
        });
        let text = Bytes::from_owner(text);
        let names = ["x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"];
        for (name, range) in names.into_iter().zip(ranges) {
            if let Ok(value) = HeaderValue::from_maybe_shared(text.slice(range)) {
                headers.insert(HeaderName::from_static(name), value);
            }
        }
    }
}

/// What `RateLimit-Policy` says of one limit.
pub(super) fn policy(told: Told<'_>) -> Option<HeaderValue> {
    let members = Members { told: &[told], is_policy: true };
    written(&members).ok()
}

/// One of the draft's two lists.
#[derive(Clone, Copy)]
struct Members<'a> {
    told: &'a [Told<'a>],
    is_policy: bool,
}

impl Members<'_> {
    /// Each window with the name of its limit, and whether that has others.
    fn windows(&self) -> impl Iterator<Item = (Option<&str>, bool, Standing)> {
        let draft = self.told.iter().filter(|told| told.fields == Fields::Draft);
        draft.flat_map(|told| {
            let is_one_of_several = told.windows[1].is_some();
            told.windows.iter().flatten().map(move |window| (told.name, is_one_of_several, *window))
        })
    }
}

impl fmt::Display for Members<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, (name, is_one_of_several, window)) in self.windows().enumerate() {
            f.write_str(if place == 0 { "\"" } else { ", \"" })?;
            write_name(f, name.unwrap_or("default"))?;
            let per = seconds(window.per);
            if is_one_of_several {
                write!(f, "-{per}s")?;
            }
            if self.is_policy {
                write!(f, "\";q={};w={per}", window.quota)?;
            } else {
                write!(f, "\";r={};t={}", window.left, seconds(window.reset))?;
            }
        }
        Ok(())
    }
}

/// As a string of RFC 9651 (3.3.3): what it cannot hold becomes `_`.
fn write_name(f: &mut fmt::Formatter<'_>, name: &str) -> fmt::Result {
    for char in name.chars().take(NAME) {
        match char {
            '"' | '\\' => write!(f, "\\{char}")?,
            ' '..='~' => f.write_char(char)?,
            _ => f.write_char('_')?,
        }
    }
    Ok(())
}

/// Whole ones, rounded up, and no more than an integer of RFC 9651 can be.
fn seconds(duration: Duration) -> u64 {
    (duration.as_secs() + u64::from(duration.subsec_nanos() > 0)).min(999_999_999_999_999)
}

/// Measured first, so that there is one allocation.
fn written(value: &impl fmt::Display) -> Result<HeaderValue, InvalidHeaderValue> {
    struct Length(usize);
    impl fmt::Write for Length {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            self.0 += text.len();
            Ok(())
        }
    }
    let mut length = Length(0);
    let mut text = match write!(length, "{value}") {
        Ok(()) => String::with_capacity(length.0),
        Err(_) => String::new(),
    };
    let _ = write!(text, "{value}"); // A string takes everything.
    HeaderValue::try_from(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(fields: Fields, name: Option<&str>, windows: &[(u32, u64, u64, u64)]) -> Told<'static> {
        let mut all = [None; MAX_WINDOWS];
        for (place, (quota, per_s, left, reset_ms)) in all.iter_mut().zip(windows) {
            let (per, reset) = (Duration::from_secs(*per_s), Duration::from_millis(*reset_ms));
            *place = Some(Standing { quota: *quota, per, left: *left, reset });
        }
        Told { fields, name: name.map(|name| &*name.to_owned().leak()), policy: None, windows: all }
    }

    fn lines(told: &[Told<'_>]) -> Vec<String> {
        let mut headers = HeaderMap::new();
        Lines::of(told).unwrap().write(&mut headers);
        headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect()
    }

    #[test]
    fn all_windows_of_all_limits_are_listed_under_names_of_their_own() {
        let all = [
            told(Fields::Draft, None, &[(100, 60, 50, 29_001)]),
            told(Fields::Off, Some("unsaid"), &[(1, 1, 1, 1)]),
            told(Fields::Draft, Some("orders"), &[(5, 1, 0, 1000), (90, 3600, 7, 0)]),
        ];
        assert_eq!(
            lines(&all),
            [
                r#"ratelimit-policy: "default";q=100;w=60, "orders-1s";q=5;w=1, "orders-3600s";q=90;w=3600"#,
                r#"ratelimit: "default";r=50;t=30, "orders-1s";r=0;t=1, "orders-3600s";r=7;t=0"#,
            ]
        );
    }

    #[test]
    fn a_name_cannot_say_anything_else() {
        let name = format!("a\"b\\c\r\nd;é{}", "x".repeat(99));
        let said = &lines(&[told(Fields::Draft, Some(&name), &[(1, 1, 0, 0)])])[1];
        assert_eq!(said, &format!(r#"ratelimit: "a\"b\\c__d;_{}";r=0;t=0"#, "x".repeat(54)));
    }

    #[test]
    fn the_older_fields_speak_of_the_window_with_the_least_left() {
        let all = [told(Fields::Legacy, None, &[(100, 60, 50, 29_001), (9, 3600, 7, 1)])];
        assert_eq!(lines(&all), ["x-ratelimit-limit: 9", "x-ratelimit-remaining: 7", "x-ratelimit-reset: 1"]);
        let most = [told(Fields::Legacy, None, &[(u32::MAX, 1, u64::MAX, u64::MAX)])];
        assert_eq!(
            lines(&most),
            [
                "x-ratelimit-limit: 4294967295",
                "x-ratelimit-remaining: 18446744073709551615",
                "x-ratelimit-reset: 999999999999999"
            ]
        );
        assert!(Lines::of(&[]).is_none() && Lines::of(&[told(Fields::Off, None, &[(1, 1, 1, 1)])]).is_none());
    }
}
