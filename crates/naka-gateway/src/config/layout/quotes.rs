//! Plain text where all readers of YAML 1.1 and 1.2 take it for the same text, quotes where not.

use std::sync::LazyLock;

use granit_parser::ScalarStyle;
use regex::Regex;

/// What some reader takes for a number, a date, a boolean, nothing or a merge.
static NO_TEXT: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(
        r"(?x)^(?:
            | ~ | (?i-u:null|true|false|yes|no|on|off|y|n) | = | <<
            | [-+]?(?:0b[01_]+ | 0o?[0-7_]+ | 0x[0-9a-fA-F_]+)
            | [-+]?[0-9][0-9_]*(?::[0-5]?[0-9])*(?:\.[0-9_]*)?(?:[eE][-+]?[0-9]+)?
            | [-+]?\.[0-9_]+(?:[eE][-+]?[0-9]+)?
            | [-+]?\.(?i-u:inf|nan)
            | [0-9]{4}-[0-9]{1,2}-[0-9]{1,2}(?:[Tt\ \t].*)?
        )$",
    )
    .expect("it is tested")
});

/// Whether it is more than text without quotes.
pub(super) fn may_be_no_text(text: &str) -> bool {
    NO_TEXT.is_match(text)
}

/// How a text of one line is written, that was written like this.
pub(super) fn notation(said: &str, written: &str, style: ScalarStyle) -> String {
    let is_plain = style == ScalarStyle::Plain;
    match (may_be_no_text(said), is_safe(said)) {
        (true, _) if is_plain => written.into(),
        (false, true) => said.into(),
        _ => quoted(said).unwrap_or_else(|| written.into()),
    }
}

/// Whether it is the same text without quotes, in block and in flow.
fn is_safe(text: &str) -> bool {
    let is_first = |c: char| c.is_alphanumeric() || "_/.+($^\\".contains(c);
    let is_other = |c: char| c.is_alphanumeric() || " _/.+($^\\-%=@~)<>;?!&*'|\"".contains(c);
    text.starts_with(is_first)
        && text.chars().all(is_other)
        && !text.ends_with(' ')
        && !text.starts_with("...")
}

/// In double quotes, or in single ones if there is something that would have to be escaped. `None` if it has what is not seen.
fn quoted(text: &str) -> Option<String> {
    if !text.chars().all(|c| c == ' ' || c.is_ascii_graphic() || c.is_alphanumeric()) {
        return None;
    }
    if text.contains(['"', '\\']) {
        return Some(format!("'{}'", text.replace('\'', "''")));
    }
    Some(format!("\"{text}\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_text_to_everybody_is_plain() {
        for (said, expected) in [
            ("/api/v1", "/api/v1"),
            ("20/m", "20/m"),
            ("2xx", "2xx"),
            ("+1%", "+1%"),
            ("127.0.0.1", "127.0.0.1"),
            ("per core", "per core"),
            ("127.0.0.1:8080", "\"127.0.0.1:8080\""),
            ("{id}", "\"{id}\""),
            ("*", "\"*\""),
            ("-", "\"-\""),
            ("a, b", "\"a, b\""),
            ("a ", "\"a \""),
            ("#a", "\"#a\""),
            ("", "\"\""),
            ("^/[a-z]\\d$", "'^/[a-z]\\d$'"),
            ("it's [\"so\"]", "'it''s [\"so\"]'"),
            ("yes", "\"yes\""),
            ("No", "\"No\""),
            ("12", "\"12\""),
            ("12:30", "\"12:30\""),
            ("1_000", "\"1_000\""),
            ("1e3", "\"1e3\""),
            ("2026-12-01", "\"2026-12-01\""),
            (".5", "\".5\""),
            ("0x1f", "\"0x1f\""),
            ("~", "\"~\""),
            ("null", "\"null\""),
            ("<<", "\"<<\""),
        ] {
            let written = format!("'{said}'");
            assert_eq!(notation(said, &written, ScalarStyle::SingleQuoted), expected);
        }
    }

    #[test]
    fn what_is_no_text_stays_as_it_was_written() {
        for plain in ["true", "12", "2026-12-01T10:00:00Z", "0.5", "1:30", "~", "on", ""] {
            assert_eq!(notation(plain, plain, ScalarStyle::Plain), plain);
        }
        assert_eq!(notation("a\u{200b}b", "\"a\\u200bb\"", ScalarStyle::DoubleQuoted), "\"a\\u200bb\"");
        assert_eq!(notation("a\nb", "\"a\\nb\"", ScalarStyle::DoubleQuoted), "\"a\\nb\"");
        assert_eq!(notation("a:b", "a:b", ScalarStyle::Plain), "\"a:b\"");
    }
}
