//! Pieces of JSON text (RFC 8259), as they stand: nothing is read into numbers or strings and written again, so that a number of
//! any size and precision stays what it was.

use std::{fmt, sync::Arc};

use serde::de::{DeserializeSeed, Deserializer as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// How deep a part's body may be.
pub const MAX_DEPTH: usize = 64;

/// A step into a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The member of this name; of an array, the element of this number.
    Member(Arc<str>),
    /// All elements of an array.
    Each,
}

/// Why there is no such value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Not {
    /// It is not there, or `null`.
    There,
    /// It is there, and not what it has to be: an object or an array in place of a text, a name that is there twice.
    Fit,
    /// There are more than so many.
    Few,
}

/// One value of any kind that is not too deep, as text.
pub(super) fn read(bytes: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(bytes).ok()?;
    let value = serde_json::from_str::<&RawValue>(text).ok()?;
    (depth(value.get()) <= MAX_DEPTH).then(|| value.get())
}

/// How deep arrays and objects are in each other. The text is JSON.
fn depth(text: &str) -> usize {
    let (mut depth, mut deepest, mut is_text, mut is_escaped) = (0_usize, 0, false, false);
    for byte in text.bytes() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if is_text => is_escaped = true,
            b'"' => is_text = !is_text,
            b'[' | b'{' if !is_text => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' if !is_text => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// Hands out each value that the steps lead to: one, or, behind [`Step::Each`], as many as there are.
///
/// # Errors
/// If one is not there; or what `found` says.
pub(super) fn find<'t>(
    text: &'t str,
    steps: &[Step],
    found: &mut dyn FnMut(&'t str) -> Result<(), Not>,
) -> Result<(), Not> {
    let Some((step, rest)) = steps.split_first() else { return found(text) };
    let (is_array, is_object) = (text.starts_with('['), text.starts_with('{'));
    match step {
        Step::Each if is_array => elements(text, &mut |_, element| find(element, rest, found)),
        Step::Member(name) if is_object => find(member(text, name)?, rest, found),
        Step::Member(name) if is_array => {
            let wanted = name.parse::<usize>().map_err(|_| Not::Fit)?;
            let mut element = None;
            elements(text, &mut |place, text| {
                if place == wanted {
                    element = Some(text);
                }
                Ok(())
            })?;
            find(element.ok_or(Not::There)?, rest, found)
        }
        _ if text == "null" => Err(Not::There),
        _ => Err(Not::Fit),
    }
}

/// The text that a value stands for where text is wanted: a string without its quotes, a number and a boolean as they stand.
pub(super) fn scalar(text: &str) -> Result<Vec<u8>, Not> {
    match text.as_bytes().first() {
        Some(b'"') => serde_json::from_str::<String>(text).map(String::into_bytes).map_err(|_| Not::Fit),
        Some(b'[' | b'{') | None => Err(Not::Fit),
        Some(b'n') => Err(Not::There),
        Some(_) => Ok(text.as_bytes().to_vec()),
    }
}

/// Text as a JSON string.
pub(super) fn quote(text: &str, into: &mut Vec<u8>) {
    // Memory takes every write, and every text is a string.
    let _ = serde_json::to_writer(into, text);
}

/// The member of an object. One that is there twice is none: whoever reads the one may not read the other.
fn member<'t>(text: &'t str, name: &str) -> Result<&'t str, Not> {
    let mut reader = serde_json::Deserializer::from_str(text);
    match reader.deserialize_map(Member(name)) {
        Ok(Some(Ok(value))) => Ok(value.get()),
        Ok(Some(Err(Twice))) | Err(_) => Err(Not::Fit),
        Ok(None) => Err(Not::There),
    }
}

struct Twice;

struct Member<'n>(&'n str);

impl<'t> Visitor<'t> for Member<'_> {
    type Value = Option<Result<&'t RawValue, Twice>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<M: MapAccess<'t>>(self, mut map: M) -> Result<Self::Value, M::Error> {
        let mut found = None;
        while let Some(is_it) = map.next_key_seed(Is(self.0))? {
            if is_it {
                let value = map.next_value()?;
                found = Some(if found.is_none() { Ok(value) } else { Err(Twice) });
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }
}

/// Whether a name is this one; it is not kept.
struct Is<'n>(&'n str);

impl<'t> DeserializeSeed<'t> for Is<'_> {
    type Value = bool;

    fn deserialize<D: serde::Deserializer<'t>>(self, reader: D) -> Result<bool, D::Error> {
        reader.deserialize_str(self)
    }
}

impl Visitor<'_> for Is<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E>(self, name: &str) -> Result<bool, E> {
        Ok(name == self.0)
    }
}

/// Hands out the elements of an array, with their numbers.
fn elements<'t>(text: &'t str, each: &mut dyn FnMut(usize, &'t str) -> Result<(), Not>) -> Result<(), Not> {
    let mut said = Ok(());
    let mut reader = serde_json::Deserializer::from_str(text);
    let read = reader.deserialize_seq(Elements { each, said: &mut said });
    said.and(read.map_err(|_| Not::Fit))
}

struct Elements<'e, 't> {
    each: &'e mut dyn FnMut(usize, &'t str) -> Result<(), Not>,
    said: &'e mut Result<(), Not>,
}

impl<'t> Visitor<'t> for Elements<'_, 't> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'t>>(self, mut elements: A) -> Result<(), A::Error> {
        let mut place = 0;
        while self.said.is_ok() {
            let Some(element) = elements.next_element::<&RawValue>()? else { return Ok(()) };
            *self.said = (self.each)(place, element.get());
            place += 1;
        }
        while elements.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn steps(path: &str) -> Vec<Step> {
        let step = |word: &str| if word == "*" { Step::Each } else { Step::Member(word.into()) };
        path.split('.').filter(|word| !word.is_empty()).map(step).collect()
    }

    fn found(text: &str, path: &str) -> Result<Vec<String>, Not> {
        let mut all = Vec::new();
        find(text, &steps(path), &mut |value| {
            all.push(value.to_owned());
            Ok(())
        })?;
        Ok(all)
    }

    #[test]
    fn r13_1_values_are_found_as_they_stand() {
        let text = r#"{"a": {"n": 18446744073709551616.000, "e\"": [1 , 2]}, "items":[{"id":1e3},{"id":"x"}], "none":[]}"#;
        for (path, expected) in [
            ("a.n", Ok(vec!["18446744073709551616.000"])),
            ("a.e\"", Ok(vec!["[1 , 2]"])),
            ("a.e\".1", Ok(vec!["2"])),
            ("a.e\".2", Err(Not::There)),
            ("a.e\".x", Err(Not::Fit)),
            ("items.*.id", Ok(vec!["1e3", "\"x\""])),
            ("none.*.id", Ok(vec![])),
            ("b", Err(Not::There)),
            ("a.n.x", Err(Not::Fit)),
            ("a.*", Err(Not::Fit)),
        ] {
            let expected = expected.map(|all| all.into_iter().map(str::to_owned).collect::<Vec<_>>());
            assert_eq!(found(text, path), expected, "{path}");
        }
        assert_eq!(
            found(r#"{"a":1,"b":2,"a":3}"#, "a"),
            Err(Not::Fit),
            "who reads the one may not read the other"
        );
        assert_eq!(found("null", "a"), Err(Not::There));
        assert_eq!(found(text, "").unwrap(), [text]);
    }

    #[test]
    fn what_is_text_is_text_and_what_is_not_is_refused() {
        assert_eq!(scalar(r#""a\u0062\n""#).unwrap(), b"ab\n");
        assert_eq!(scalar("12345678901234567890").unwrap(), b"12345678901234567890");
        assert_eq!(scalar("true").unwrap(), b"true");
        assert_eq!(scalar("null"), Err(Not::There));
        assert_eq!(scalar(r#""\ud800""#), Err(Not::Fit));
        assert_eq!(scalar("[1]"), Err(Not::Fit));
        assert_eq!(scalar("{}"), Err(Not::Fit));
    }

    #[test]
    fn r13_4_what_is_no_json_or_too_deep_is_none() {
        for text in ["", "{", "[1,]", "nul", "{} {}", "\u{feff}{}", "'a'", "NaN"] {
            assert_eq!(read(text.as_bytes()), None, "{text}");
        }
        assert_eq!(read(b"\"\xff\""), None);
        assert_eq!(read(b" {\"a\": 1} \n"), Some("{\"a\": 1}"));
        let nested = |depth| "[".repeat(depth) + &"]".repeat(depth);
        assert!(read(nested(MAX_DEPTH).as_bytes()).is_some());
        assert!(read(nested(MAX_DEPTH + 1).as_bytes()).is_none());
        assert!(read(nested(1 << 20).as_bytes()).is_none(), "and it takes no stack");
        assert_eq!(depth(r#"["[[[\"[[", {"{": 1}]"#), 2);
    }

    proptest! {
        /// The oracle reads all of it.
        #[test]
        fn what_is_found_is_what_serde_finds(names in prop::collection::vec("[ab\"\\\\]{0,2}", 0..5), numbers in prop::collection::vec(any::<f64>(), 5)) {
            let object = names.iter().zip(&numbers).map(|(name, number)| (name.clone(), serde_json::json!([number, {"x": name}])));
            let object = serde_json::Value::Object(object.collect());
            let text = object.to_string();
            let object = serde_json::from_str::<serde_json::Value>(&text).unwrap();
            for name in names.iter().filter(|name| !name.is_empty()) {
                let steps = [Step::Member(name.as_str().into()), Step::Each];
                let mut all = Vec::new();
                find(&text, &steps, &mut |value| { all.push(serde_json::from_str::<serde_json::Value>(value).unwrap()); Ok(()) }).unwrap();
                prop_assert_eq!(serde_json::Value::Array(all), object[name].clone());
            }
        }
    }
}
