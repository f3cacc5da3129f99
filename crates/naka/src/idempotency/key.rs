//! The key as it stands in a header: no clock, no wire, no runtime.

/// The longest key, in characters.
pub(super) const MAX_KEY: usize = 255;

/// What a value means: a string of structured fields (RFC 9651, 3.3.3) or the same without quotes. `"a"` and
/// `a` are one key. None: it is not a key.
pub(super) fn parse(value: &[u8]) -> Option<Vec<u8>> {
    let value = value.trim_ascii();
    let key = if let Some(quoted) = value.strip_prefix(b"\"") { unquote(quoted)? } else { bare(value)? };
    ((1..=MAX_KEY).contains(&key.len()) && key.iter().all(u8::is_ascii_graphic)).then_some(key)
}

/// What stands between the quotes, of which the first is gone. Nothing follows the second.
fn unquote(quoted: &[u8]) -> Option<Vec<u8>> {
    let mut key = Vec::with_capacity(quoted.len().min(MAX_KEY));
    let mut rest = quoted.iter();
    loop {
        match rest.next()? {
            b'"' => return rest.next().is_none().then_some(key),
            b'\\' => match rest.next()? {
                escaped @ (b'"' | b'\\') => key.push(*escaped),
                _ => return None,
            },
            byte => key.push(*byte),
        }
        if key.len() > MAX_KEY {
            return None;
        }
    }
}

/// What could be the beginning of something else, such as a list or parameters, is no key.
fn bare(value: &[u8]) -> Option<Vec<u8>> {
    let is_plain = value.len() <= MAX_KEY && !value.iter().any(|byte| b"\",;\\".contains(byte));
    is_plain.then(|| value.to_vec())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_key_is_a_string_or_a_bare_word() {
        let key = |value: &str| parse(value.as_bytes()).map(|key| String::from_utf8(key).unwrap());
        let uuid = "8e03978e-40d5-43e8-bc93-6894a57f9324";
        assert_eq!(key(uuid).as_deref(), Some(uuid));
        assert_eq!(key(&format!("\"{uuid}\"")).as_deref(), Some(uuid));
        assert_eq!(key("  a  ").as_deref(), Some("a"));
        assert_eq!(key("YWI+/w==").as_deref(), Some("YWI+/w=="));
        assert_eq!(key(r#""a\"b\\c""#).as_deref(), Some(r#"a"b\c"#));
        let not = ["", " ", "\"\"", "\"", "\"a", "a\"", "\"a\"b", "\"a\";x=1", "a,b", "a b", "\"a b\"", "é"];
        for value in not.into_iter().chain(["\"a\\n\"", "\"a\\", "a;b", "\u{7f}"]) {
            assert_eq!(key(value), None, "{value}");
        }
        let longest = "x".repeat(MAX_KEY);
        assert_eq!(key(&longest).as_deref(), Some(&*longest));
        assert_eq!(key(&format!("\"{longest}\"")).as_deref(), Some(&*longest));
        assert_eq!((key(&format!("{longest}x")), key(&format!("\"{longest}x\""))), (None, None));
    }

    proptest! {
        #[test]
        fn every_key_survives_its_quotes(key in "[!-~]{1,255}") {
            let quoted = format!("\"{}\"", key.replace('\\', "\\\\").replace('"', "\\\""));
            prop_assert_eq!(parse(quoted.as_bytes()), Some(key.into_bytes()));
        }

        #[test]
        fn whatever_comes_a_key_is_visible_and_short(value in proptest::collection::vec(any::<u8>(), 0..600)) {
            if let Some(key) = parse(&value) {
                prop_assert!((1..=MAX_KEY).contains(&key.len()) && key.iter().all(u8::is_ascii_graphic));
            }
        }
    }
}
