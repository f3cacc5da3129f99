//! Texts that others send: keys, ids, and what people write. Each has a bound.

use axum::http::{HeaderMap, StatusCode};
use serde_json::json;

use super::{
    ask::{self, NAME_LIMIT},
    problem::Problem,
};

/// The `Idempotency-Key` of a request.
///
/// # Errors
/// 400 `idempotency_key_missing`, if it has none, more than one, or one that is too long.
pub fn idempotency_key(headers: &HeaderMap) -> Result<String, Problem> {
    let key = ask::word(headers, "idempotency-key").map(str::to_owned);
    key.ok_or_else(|| {
        let detail = format!(
            "this needs one `Idempotency-Key` of at most {NAME_LIMIT} characters, so that it can be sent again"
        );
        Problem::new(StatusCode::BAD_REQUEST, "idempotency_key_missing", detail)
    })
}

/// 422: the key names something else already.
pub fn key_reused(detail: impl Into<String>) -> Problem {
    ask::unprocessable("idempotency_key_reused", detail.into())
}

/// An id or key that an asker has chosen: 1 to [`NAME_LIMIT`] visible ASCII characters.
///
/// # Errors
/// 422 `invalid_id`, with the name of the member.
pub fn id(member: &'static str, text: String) -> Result<String, Problem> {
    if (1..=NAME_LIMIT).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(text);
    }
    let detail = format!("{member} is 1 to {NAME_LIMIT} visible ASCII characters");
    Err(ask::unprocessable("invalid_id", detail).with("member", json!(member)))
}

/// Whether a name may stand in a path: nothing in it means something there.
pub fn is_path_part(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    name.bytes().any(|byte| byte != b'.') && name.bytes().all(is_plain)
}

/// What somebody writes, without spaces around it: at most `limit` characters, none of them for control.
///
/// # Errors
/// 422 `invalid_text`, with the name of the member.
pub fn line(member: &'static str, text: &str, limit: usize) -> Result<String, Problem> {
    let text = text.trim();
    if !text.is_empty() && text.chars().count() <= limit && !text.chars().any(char::is_control) {
        return Ok(text.to_owned());
    }
    let detail = format!("{member} is one line of 1 to {limit} characters");
    Err(ask::unprocessable("invalid_text", detail).with("member", json!(member)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_visible_and_bounded() {
        for good in ["a", "4f/x:1", &"x".repeat(NAME_LIMIT)] {
            assert_eq!(id("key", good.to_owned()).unwrap(), good);
        }
        for bad in ["", "a b", "é", "a\n", &"x".repeat(NAME_LIMIT + 1)] {
            assert!(id("key", bad.to_owned()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_means_something_in_a_path_is_no_part_of_it() {
        for good in ["ORD_1", "asha-k.", "0"] {
            assert!(is_path_part(good), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "a%2Fb", "a?b", "a#b", "a b", "é"] {
            assert!(!is_path_part(bad), "{bad:?}");
        }
    }

    #[test]
    fn lines_are_trimmed_and_counted_in_characters() {
        assert_eq!(line("name", " आशा ", 3).unwrap(), "आशा");
        for bad in ["", "  ", "आशा!", "a\tb", "a\u{0}"] {
            assert!(line("name", bad, 3).is_err(), "{bad:?}");
        }
    }
}
