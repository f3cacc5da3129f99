//! One way to write a path, and the refusal of what can be read in two.

use std::{borrow::Cow, fmt};

/// Writes a path in its one normal form, or says why it has none; see the [module docs](super).
///
/// Borrows, after one scan, when the path is in that form already. Normalising twice changes nothing.
pub fn normalize(path: &str) -> Result<Cow<'_, str>, BadPath> {
    match scan(path.as_bytes())? {
        Form::Normal => Ok(Cow::Borrowed(path)),
        Form::Other => {
            let rewritten = rewrite(path);
            // Again, for what decoding brought to light: `/%2e%2e/` hides a dot segment.
            scan(rewritten.as_bytes())?;
            Ok(Cow::Owned(rewritten))
        }
    }
}

/// Why a path is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BadPath {
    /// It does not start with `/`.
    NotAbsolute,
    /// It has `%2F`: a slash to some servers, text to others.
    EncodedSlash,
    /// It has `%5C`: a slash to some servers.
    EncodedBackslash,
    /// It has `%00`, the end of the path to some servers, or another control character, as `%0D%0A`: the end of a line to them.
    EncodedControl,
    /// It has a `%` without two hexadecimal digits.
    BadEscape,
    /// It has `\`: a slash to some servers.
    Backslash,
    /// It has a control byte, a space, a byte above ASCII, `?` or `#`: none can be there unescaped.
    BadByte,
    /// It has a segment `.` or `..`, possibly with `;parameters`.
    DotSegment,
    /// It has `//`.
    EmptySegment,
}

impl BadPath {
    /// A word for logs and metrics.
    pub fn word(self) -> &'static str {
        match self {
            Self::NotAbsolute => "not_absolute",
            Self::EncodedSlash => "encoded_slash",
            Self::EncodedBackslash => "encoded_backslash",
            Self::EncodedControl => "encoded_control",
            Self::BadEscape => "bad_escape",
            Self::Backslash => "backslash",
            Self::BadByte => "bad_byte",
            Self::DotSegment => "dot_segment",
            Self::EmptySegment => "empty_segment",
        }
    }
}

impl fmt::Display for BadPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotAbsolute => "the path does not start with `/`",
            Self::EncodedSlash => "the path has an encoded slash (`%2F`)",
            Self::EncodedBackslash => "the path has an encoded backslash (`%5C`)",
            Self::EncodedControl => "the path has an encoded control character (`%00`, `%0A`)",
            Self::BadEscape => "the path has a `%` without two hexadecimal digits",
            Self::Backslash => "the path has a backslash",
            Self::BadByte => "the path has a byte that has to be percent-encoded",
            Self::DotSegment => "the path has a segment `.` or `..`",
            Self::EmptySegment => "the path has an empty segment (`//`)",
        })
    }
}

impl std::error::Error for BadPath {}

enum Form {
    Normal,
    Other,
}

/// Checks a whole path, and whether an escape has to be rewritten.
fn scan(path: &[u8]) -> Result<Form, BadPath> {
    if path.first() != Some(&b'/') {
        return Err(BadPath::NotAbsolute);
    }
    let mut form = Form::Normal;
    let mut segment = 1; // where the current one starts
    let mut at = 1;
    while let Some(&byte) = path.get(at) {
        match byte {
            b'/' if segment == at => return Err(BadPath::EmptySegment),
            b'/' => {
                no_dots(&path[segment..at])?;
                segment = at + 1;
            }
            b'%' => {
                match escape(&path[at..]).ok_or(BadPath::BadEscape)? {
                    b'/' => return Err(BadPath::EncodedSlash),
                    b'\\' => return Err(BadPath::EncodedBackslash),
                    0..=0x1f | 0x7f => return Err(BadPath::EncodedControl),
                    byte if is_unreserved(byte) => form = Form::Other,
                    _ if path[at + 1..at + 3].iter().any(u8::is_ascii_lowercase) => form = Form::Other,
                    _ => {}
                }
                at += 2;
            }
            b'\\' => return Err(BadPath::Backslash),
            b'?' | b'#' | 0..=b' ' | 0x7f.. => return Err(BadPath::BadByte),
            _ => {}
        }
        at += 1;
    }
    no_dots(&path[segment..])?;
    Ok(form)
}

/// `..;x` is `..` to servers that know path parameters, so it is to us.
fn no_dots(segment: &[u8]) -> Result<(), BadPath> {
    match segment {
        [b'.'] | [b'.', b';', ..] | [b'.', b'.'] | [b'.', b'.', b';', ..] => Err(BadPath::DotSegment),
        _ => Ok(()),
    }
}

/// Decodes unreserved characters and upper-cases all other escapes, of which none is broken. What comes
/// out holds no new escape: `%` is not unreserved.
fn rewrite(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = rest.find('%') {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        match escape(from.as_bytes()) {
            Some(byte) if is_unreserved(byte) => out.push(char::from(byte)),
            _ => out.extend(from[..3].chars().map(|char| char.to_ascii_uppercase())),
        }
        rest = &from[3..];
    }
    out.push_str(rest);
    out
}

/// The byte that `%XX` at the start stands for.
pub(super) fn escape(text: &[u8]) -> Option<u8> {
    let &[b'%', high, low, ..] = text else { return None };
    Some(hex(high)? << 4 | hex(low)?)
}

fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

pub(super) fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn r2_1_what_is_normal_is_borrowed() {
        for path in ["/", "/a", "/a/", "/a/b.c/~d", "/a%20b/%E2%82%AC", "/...", "/a;v=1", "/%25", "/.a/..b"] {
            assert!(matches!(normalize(path), Ok(Cow::Borrowed(same)) if same == path), "{path}");
        }
    }

    #[test]
    fn r2_1_what_need_not_be_encoded_is_decoded() {
        assert_eq!(normalize("/%61%2D%2e%5f%7E").unwrap(), "/a-._~");
        assert_eq!(normalize("/%e2%82%ac").unwrap(), "/%E2%82%AC");
        assert_eq!(normalize("/%2561").unwrap(), "/%2561"); // Once, never twice.
    }

    #[test]
    fn r2_1_what_can_be_read_in_two_ways_is_refused() {
        for (path, why) in [
            ("", BadPath::NotAbsolute),
            ("*", BadPath::NotAbsolute),
            ("a/b", BadPath::NotAbsolute),
            ("/a%2fb", BadPath::EncodedSlash),
            ("/a%2Fb", BadPath::EncodedSlash),
            ("/a%5cb", BadPath::EncodedBackslash),
            ("/a%00", BadPath::EncodedControl),
            ("/a%0d%0Ab", BadPath::EncodedControl),
            ("/a%7F", BadPath::EncodedControl),
            ("/a%", BadPath::BadEscape),
            ("/a%4", BadPath::BadEscape),
            ("/a%4g", BadPath::BadEscape),
            ("/%61%", BadPath::BadEscape),
            ("/%+1", BadPath::BadEscape),
            ("/%é1", BadPath::BadEscape),
            ("/%2E%%61%61", BadPath::BadEscape), // Not `/.%aa`: what decoding makes is never decoded again.
            ("/a\\b", BadPath::Backslash),
            ("/a\tb", BadPath::BadByte),
            ("/a b", BadPath::BadByte),
            ("/\u{7f}", BadPath::BadByte),
            ("/é", BadPath::BadByte),
            ("/a?b", BadPath::BadByte),
            ("/a#b", BadPath::BadByte),
            ("/.", BadPath::DotSegment),
            ("/..", BadPath::DotSegment),
            ("/a/../b", BadPath::DotSegment),
            ("/a/%2e/b", BadPath::DotSegment),
            ("/a/.%2E", BadPath::DotSegment),
            ("/a/..;x=1/b", BadPath::DotSegment),
            ("//", BadPath::EmptySegment),
            ("//a", BadPath::EmptySegment),
            ("/a//b", BadPath::EmptySegment),
            ("/a//", BadPath::EmptySegment),
        ] {
            assert_eq!(normalize(path), Err(why), "{path:?}");
        }
    }

    proptest! {
        #[test]
        fn normalising_twice_changes_nothing(path in "(/|%2[eEfF5]|%6[1-4]|%[0-9a-fA-F]{2}|[a-c.;%])*") {
            if let Ok(once) = normalize(&path) {
                let twice = normalize(&once);
                prop_assert!(matches!(twice, Ok(Cow::Borrowed(same)) if same == once), "{once} {twice:?}");
            }
        }

        #[test]
        fn any_text_is_answered(path in any::<String>()) {
            if let Err(why) = normalize(&path) {
                prop_assert!(!why.word().is_empty() && !why.to_string().is_empty());
            }
        }
    }
}
