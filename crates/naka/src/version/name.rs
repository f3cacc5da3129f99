//! Names of versions: what they are made of, and which of them are the same.

/// The longest name of a version, in bytes.
pub const MAX_NAME: usize = 32;

/// What could be a name, in lower case, without an allocation.
pub(super) struct Text {
    bytes: [u8; MAX_NAME],
    len: usize,
}

impl Text {
    /// `None` for what can be no name: it is empty, too long, or has other bytes than letters, digits,
    /// `.`, `-` and `_`, or does not begin with a letter or a digit.
    pub(super) fn of(bytes: impl IntoIterator<Item = u8>) -> Option<Self> {
        let mut text = Self { bytes: [0; MAX_NAME], len: 0 };
        for byte in bytes {
            let fits = byte.is_ascii_alphanumeric() || (text.len > 0 && matches!(byte, b'.' | b'-' | b'_'));
            let place = text.bytes.get_mut(text.len).filter(|_| fits)?;
            *place = byte.to_ascii_lowercase();
            text.len += 1;
        }
        (text.len > 0).then_some(text)
    }

    pub(super) fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..self.len]).expect("all of it is ASCII")
    }

    /// The one form of all that mean the same.
    pub(super) fn canonical(&self) -> &str {
        canonical(self.as_str())
    }
}

/// `v2` is `2`, and so are `2.0` and `2.0.0`; what is no number is what it is.
fn canonical(text: &str) -> &str {
    let mut name = text.strip_prefix('v').filter(|rest| begins_with_digit(rest.as_bytes())).unwrap_or(text);
    if begins_with_digit(name.as_bytes()) && name.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        while let Some(shorter) = name.strip_suffix(".0") {
            name = shorter;
        }
    }
    name
}

pub(super) fn begins_with_digit(text: &[u8]) -> bool {
    text.first().is_some_and(u8::is_ascii_digit)
}

/// Whether `v` and a number begin it.
pub(super) fn begins_with_v(text: &[u8]) -> bool {
    matches!(text.split_first(), Some((b'v' | b'V', rest)) if begins_with_digit(rest))
}

/// Whether somebody means a version by it even if it is none of ours: `v9`, `v1.2`, `v2beta1`, `v3-rc.1`;
/// but not `v8engine`, nor a number alone.
pub(super) fn is_meant(text: &[u8]) -> bool {
    if !begins_with_v(text) {
        return false;
    }
    let end = text[1..].iter().position(|byte| !byte.is_ascii_digit() && *byte != b'.');
    let Some(end) = end else { return true };
    let rest = &text[1 + end..];
    let stage = if let [b'-' | b'_', stage @ ..] = rest { stage } else { rest };
    let is_stage =
        |word: &str| stage.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word.as_bytes()));
    ["alpha", "beta", "preview", "rc"].into_iter().any(is_stage)
}

/// The bytes of a part of a URI, with its escapes undone; what is no escape is left.
pub(super) fn decoded(text: &str) -> impl Iterator<Item = u8> {
    let digit = |byte: Option<u8>| char::from(byte?).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut bytes = text.bytes();
    std::iter::from_fn(move || {
        let byte = bytes.next()?;
        let mut ahead = bytes.clone();
        if byte == b'%'
            && let (Some(high), Some(low)) = (digit(ahead.next()), digit(ahead.next()))
        {
            bytes = ahead;
            return Some(high << 4 | low);
        }
        Some(byte)
    })
}

/// What a stranger wrote, cut, and without what a terminal or a log would take for its own.
pub(super) fn shown(bytes: &[u8]) -> String {
    let cut = bytes.get(..MAX_NAME).unwrap_or(bytes);
    let mut text = String::from_utf8_lossy(cut).escape_debug().to_string();
    if cut.len() < bytes.len() {
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ways_to_write_a_number_are_one_name() {
        for text in ["2", "v2", "V2", "2.0", "v2.0", "2.0.0"] {
            assert_eq!(Text::of(text.bytes()).unwrap().canonical(), "2", "{text}");
        }
        let others = ["20", "2.1", "02", "v", "2024-01-01", "beta", "vega", "2-0", "10.0"];
        let canonical = ["20", "2.1", "02", "v", "2024-01-01", "beta", "vega", "2-0", "10"];
        for (text, is) in others.into_iter().zip(canonical) {
            assert_eq!(Text::of(text.bytes()).unwrap().canonical(), is);
        }
    }

    #[test]
    fn what_can_be_no_name_is_none() {
        for text in ["", ".", "..", "-1", "a b", "a/b", "a\n", "ü", &"1".repeat(MAX_NAME + 1)] {
            assert!(Text::of(text.bytes()).is_none(), "{text}");
        }
        assert!(Text::of("1".repeat(MAX_NAME).bytes()).is_some());
    }

    #[test]
    fn a_version_that_does_not_exist_is_still_meant() {
        for text in ["v9", "V9", "v1.2", "v2beta1", "v3-rc.1", "v2ALPHA"] {
            assert!(is_meant(text.as_bytes()), "{text}");
        }
        for text in ["9", "v", "products", "v8engine", "vega", "version2", ""] {
            assert!(!is_meant(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn escapes_are_undone_and_what_is_none_is_left() {
        let text = |text| String::from_utf8(decoded(text).collect()).unwrap();
        assert_eq!(text("%762%2e0"), "v2.0");
        assert_eq!(text("100%"), "100%");
        assert_eq!(text("%zz%4"), "%zz%4");
    }

    #[test]
    fn what_is_shown_is_short_and_tame() {
        assert_eq!(shown(b"9"), "9");
        assert_eq!(shown(b"\x1b[31m\"\xff"), "\\u{1b}[31m\\\"\u{fffd}");
        assert_eq!(shown(&[b'x'; 9999]).chars().count(), MAX_NAME + 1);
    }
}
