//! `Cache-Control`, of requests and responses (RFC 9111, section 5.2; RFC 5861).
//!
//! What cannot be read is taken for the word that is most careful: nothing is kept.

use std::time::Duration;

use http::{
    HeaderMap,
    header::{CACHE_CONTROL, PRAGMA},
};

/// The words that a shared cache acts on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a word of its own")]
pub(super) struct Directives {
    pub(super) no_store: bool,
    pub(super) no_cache: bool,
    pub(super) private: bool,
    pub(super) public: bool,
    pub(super) must_revalidate: bool,
    pub(super) proxy_revalidate: bool,
    pub(super) only_if_cached: bool,
    pub(super) max_age: Option<Duration>,
    pub(super) s_maxage: Option<Duration>,
    pub(super) min_fresh: Option<Duration>,
    pub(super) stale_if_error: Option<Duration>,
    /// So stale; without a number however stale.
    pub(super) max_stale: Option<Duration>,
}

/// What is longer is as long as that (RFC 9111, section 1.2.2).
const MAX_S: u64 = 1 << 31;

impl Directives {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let mut it = Self::default();
        let mut is_said = false;
        for line in headers.get_all(CACHE_CONTROL) {
            is_said = true;
            let read = line.to_str().ok().and_then(|line| it.read(line));
            it.no_store |= read.is_none();
        }
        if !is_said {
            let pragma = headers.get(PRAGMA).and_then(|value| value.to_str().ok()).unwrap_or_default();
            it.no_cache = pragma.to_ascii_lowercase().contains("no-cache");
        }
        it
    }

    /// One line; none if it is no list of words and values.
    fn read(&mut self, line: &str) -> Option<()> {
        let mut rest = line;
        loop {
            rest = rest.trim_start_matches([' ', '\t', ',']);
            if rest.is_empty() {
                return Some(());
            }
            let end = rest.find(|c: char| !is_token(c)).unwrap_or(rest.len());
            let (word, after) = rest.split_at(end);
            if word.is_empty() {
                return None;
            }
            let (value, after) = match after.strip_prefix('=') {
                None => (None, after),
                Some(after) => {
                    let (value, after) = value(after)?;
                    (Some(value), after)
                }
            };
            rest = after.trim_start_matches([' ', '\t']);
            if !rest.is_empty() && !rest.starts_with(',') {
                return None;
            }
            self.take(&word.to_ascii_lowercase(), value.as_deref());
        }
    }

    fn take(&mut self, word: &str, value: Option<&str>) {
        // Of one that is said twice the shorter counts; one that is no number is none at all.
        let least = |known: Option<Duration>| {
            let said = value.and_then(seconds).unwrap_or_default();
            Some(known.map_or(said, |known| known.min(said)))
        };
        match word {
            // Those that name fields count for the whole, as RFC 9111 allows.
            "no-store" => self.no_store = true,
            "no-cache" => self.no_cache = true,
            "private" => self.private = true,
            "public" => self.public = true,
            "must-revalidate" => self.must_revalidate = true,
            // Less than the other: it does not say that it is for all (RFC 9111, section 3.5).
            "proxy-revalidate" => self.proxy_revalidate = true,
            "only-if-cached" => self.only_if_cached = true,
            "max-age" => self.max_age = least(self.max_age),
            "s-maxage" => self.s_maxage = least(self.s_maxage),
            "stale-if-error" => self.stale_if_error = least(self.stale_if_error),
            "min-fresh" => {
                let said = value.and_then(seconds).unwrap_or(Duration::MAX);
                self.min_fresh = self.min_fresh.max(Some(said));
            }
            "max-stale" if value.is_none() => self.max_stale = Some(Duration::MAX),
            "max-stale" => self.max_stale = least(self.max_stale),
            _ => {} // What nobody knows is passed over.
        }
    }
}

/// A word or a quoted one, and what comes after it.
fn value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(|c: char| !is_token(c)).unwrap_or(text.len());
        let (value, rest) = text.split_at(end);
        return (!value.is_empty()).then(|| (value.to_owned(), rest));
    };
    let (mut value, mut chars) = (String::new(), quoted.char_indices());
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &quoted[at + 1..])),
            '\\' => value.push(chars.next()?.1),
            _ => value.push(c),
        }
    }
    None
}

/// Delta seconds.
pub(super) fn seconds(text: &str) -> Option<Duration> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    // More digits than fit are a very long time.
    Some(Duration::from_secs(text.parse().unwrap_or(MAX_S).min(MAX_S)))
}

fn is_token(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn of(lines: &[&str]) -> Directives {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(CACHE_CONTROL, HeaderValue::from_str(line).unwrap());
        }
        Directives::of(&headers)
    }

    fn s(s: u64) -> Duration {
        Duration::from_secs(s)
    }

    #[test]
    fn words_in_any_case_quoted_and_in_several_lines() {
        let it = of(&["Max-Age=60 , S-MaxAge=\"30\"", ",,public,\tfoo=\"a,b\\\"c, no-store\", x"]);
        assert_eq!(
            (it.max_age, it.s_maxage, it.public, it.no_store),
            (Some(s(60)), Some(s(30)), true, false)
        );
        let it = of(&["private=\"x-user\", no-cache=set-cookie, proxy-revalidate, stale-if-error=9"]);
        assert!(it.private && it.no_cache && it.proxy_revalidate && !it.must_revalidate);
        assert_eq!(it.stale_if_error, Some(s(9)));
        assert_eq!(
            (of(&["max-stale"]).max_stale, of(&["max-stale=5"]).max_stale),
            (Some(Duration::MAX), Some(s(5)))
        );
    }

    #[test]
    fn what_is_said_twice_or_wrong_counts_as_the_least() {
        assert_eq!(of(&["max-age=60, max-age=5"]).max_age, Some(s(5)));
        for wrong in ["max-age", "max-age=-1", "max-age=1.5", "max-age=\"\"", "max-age=x"] {
            assert_eq!(of(&[wrong]).max_age, Some(s(0)), "{wrong}");
        }
        assert_eq!(of(&["max-age=99999999999999999999999"]).max_age, Some(s(1 << 31)));
        assert_eq!(of(&["min-fresh=x"]).min_fresh, Some(Duration::MAX));
        for wrong in
            ["max-age=60, =", "max-age=60; public", "foo=\"", "max-age=60 public", "max-age=", "\"a\""]
        {
            assert!(of(&[wrong]).no_store, "{wrong}");
        }
        let mut headers = HeaderMap::new();
        headers.insert(CACHE_CONTROL, HeaderValue::from_bytes(b"max-age=60, \xff").unwrap());
        assert!(Directives::of(&headers).no_store);
    }

    #[test]
    fn pragma_counts_only_alone() {
        let mut headers = HeaderMap::new();
        headers.insert(PRAGMA, HeaderValue::from_static("No-Cache"));
        assert!(Directives::of(&headers).no_cache);
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("max-age=60"));
        assert!(!Directives::of(&headers).no_cache);
    }
}
