//! Text with `{values}` in it, and what becomes of values in a target.
//!
//! A value never changes which resource is meant. In a path it is one segment, or a part of one: what would be read as several, as
//! none, or as another place is refused (`/`, `\`, control characters, nothing at all, and a segment that comes to `.` or `..`).
//! All that is not unreserved (RFC 3986, section 2.3) is percent-encoded, in a path and in a query alike.

use std::{borrow::Cow, fmt, sync::Arc};

/// Bytes of a template, and of the target that becomes of it.
pub const MAX_TARGET: usize = 8192;
/// Values of one template.
pub const MAX_VALUES: usize = 16;
/// Words of one value: `order.body.items.*.id` has five.
pub const MAX_WORDS: usize = 16;

/// Text with `{values}` in it: `/users/{order.body.user_id}`. What they stand for, a [`Plan`](super::Plan) says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    text: Arc<str>,
    pieces: Vec<Piece>,
}

/// A piece of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// As it stands.
    Text(Arc<str>),
    /// The words between braces.
    Value(Arc<str>),
}

impl Template {
    /// Reads `{` and `}`.
    ///
    /// # Errors
    /// If they are not in pairs, if nothing or too much stands between them, or if the text is too long.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        if text.len() > MAX_TARGET {
            return Err(TemplateError::TooLong);
        }
        let (mut pieces, mut rest) = (Vec::new(), text);
        while !rest.is_empty() {
            let at = rest.find(['{', '}']).unwrap_or(rest.len());
            let (before, after) = rest.split_at(at);
            if !before.is_empty() {
                pieces.push(Piece::Text(before.into()));
            }
            let Some(after) = after.strip_prefix('{') else {
                if after.is_empty() {
                    break;
                }
                return Err(TemplateError::Unopened);
            };
            let (value, behind) = after.split_once('}').ok_or(TemplateError::Unclosed)?;
            pieces.push(Piece::Value(words(value)?.into()));
            rest = behind;
        }
        if pieces.iter().filter(|piece| matches!(piece, Piece::Value(_))).count() > MAX_VALUES {
            return Err(TemplateError::TooManyValues);
        }
        Ok(Self { text: text.into(), pieces })
    }

    /// The template as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// What stands between braces, in order: `order.body.user_id`.
    pub fn values(&self) -> impl Iterator<Item = &str> {
        self.pieces.iter().filter_map(|piece| match piece {
            Piece::Value(value) => Some(&**value),
            Piece::Text(_) => None,
        })
    }

    /// The values that stand in the path of a target, and not in its query.
    pub fn values_of_path(&self) -> impl Iterator<Item = &str> {
        let path = self
            .pieces
            .iter()
            .take_while(|piece| !matches!(piece, Piece::Text(text) if text.starts_with('?')));
        let mut is_over = false;
        path.filter_map(move |piece| match piece {
            Piece::Value(value) if !is_over => Some(&**value),
            Piece::Value(_) => None,
            Piece::Text(text) => {
                is_over |= text.contains('?');
                None
            }
        })
    }

    /// The one value, if it is nothing else.
    pub(super) fn only(&self) -> Option<&Arc<str>> {
        match &self.pieces[..] {
            [Piece::Value(value)] => Some(value),
            _ => None,
        }
    }

    pub(super) fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// Whether it can be a target: a path from `/` on, with a query behind it if there is one.
    ///
    /// # Errors
    /// If it has what cannot stand there, or what is not the normal way to write it: `//`, segments of dots, encoded slashes and
    /// dots, a fragment.
    pub fn check_target(&self) -> Result<(), TemplateError> {
        if !self.text.starts_with('/') {
            return Err(TemplateError::NoSlash);
        }
        let sample = self.pieces.iter().map(|piece| match piece {
            Piece::Text(text) => &**text,
            Piece::Value(_) => "x",
        });
        let sample = sample.collect::<String>();
        for (at, c) in sample.char_indices() {
            if c == '%' {
                check_escape(&sample[at..])?;
            } else if !(c.is_ascii_alphanumeric() || "-._~!$&'()*+,;=:@/?".contains(c)) {
                return Err(TemplateError::CannotStand(c));
            }
        }
        let path = sample.split('?').next().unwrap_or_default();
        let mut segments = path[1..].split('/').peekable();
        while let Some(segment) = segments.next() {
            let is_last = segments.peek().is_none();
            if matches!(segment, "." | "..") || segment.is_empty() && !is_last {
                return Err(TemplateError::NotNormal);
            }
        }
        Ok(())
    }

    /// The target that becomes of it. `value` says what a value stands for: one text, or several that are joined by commas.
    pub(super) fn target<E>(
        &self,
        mut value: impl FnMut(&Arc<str>) -> Result<Vec<Vec<u8>>, E>,
    ) -> Result<Result<String, Unfit>, E> {
        let mut target = Writing::default();
        for piece in &self.pieces {
            let written = match piece {
                Piece::Text(text) => target.text(text),
                Piece::Value(name) => {
                    let values = value(name)?;
                    target.value(name, &values)
                }
            };
            if let Err(unfit) = written {
                return Ok(Err(unfit));
            }
        }
        Ok(target.end())
    }

    /// The same, as far as it is known: a value that is not stays between braces. For whoever explains.
    pub(super) fn known_target(&self, value: impl Fn(&str) -> Option<Vec<u8>>) -> Result<String, Unfit> {
        let is_known = self.values().all(|name| value(name).is_some());
        if is_known {
            let all = |name: &Arc<str>| Ok::<_, ()>(vec![value(name).unwrap_or_default()]);
            return self.target(all).unwrap_or_else(|()| Ok(self.text.to_string()));
        }
        let one = |piece: &Piece| match piece {
            Piece::Text(text) => text.to_string(),
            Piece::Value(name) => value(name).map_or_else(
                || format!("{{{name}}}"),
                |value| {
                    let mut text = String::new();
                    encode(&value, &mut text);
                    text
                },
            ),
        };
        Ok(self.pieces.iter().map(one).collect())
    }
}

/// As it was written.
impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Why text is no template.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TemplateError {
    /// It has more than [`MAX_TARGET`] bytes.
    TooLong,
    /// It has more than [`MAX_VALUES`] values.
    TooManyValues,
    /// `{` without `}`.
    Unclosed,
    /// `}` without `{`.
    Unopened,
    /// What stands between braces is no value: words with dots between them, at most [`MAX_WORDS`].
    NoValue(String),
    /// A target begins with `/`.
    NoSlash,
    /// This cannot stand in a target.
    CannotStand(char),
    /// The target is not written in the normal way.
    NotNormal,
}

impl fmt::Display for TemplateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong => write!(f, "a template of more than {MAX_TARGET} bytes"),
            Self::TooManyValues => write!(f, "a template with more than {MAX_VALUES} values"),
            Self::Unclosed => f.write_str("`{` without `}`"),
            Self::Unopened => f.write_str("`}` without `{`"),
            Self::NoValue(value) => write!(f, "`{{{value}}}` is no value"),
            Self::NoSlash => f.write_str("a target that does not begin with `/`"),
            Self::CannotStand(c) => write!(f, "{c:?} cannot stand in a target"),
            Self::NotNormal => {
                f.write_str("a path with empty segments, segments of dots, or encoded slashes or dots")
            }
        }
    }
}

impl std::error::Error for TemplateError {}

/// Why a value does not go where it should stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Unfit {
    /// This value would be several segments, none, or another place.
    Value(Arc<str>),
    /// The target would be longer than [`MAX_TARGET`].
    TooLong,
}

fn words(value: &str) -> Result<&str, TemplateError> {
    let is_word = |word: &str| {
        !word.is_empty() && !word.contains(|c: char| c == '{' || c.is_control()) && word.trim() == word
    };
    let is_fine = value.split('.').all(is_word) && value.split('.').count() <= MAX_WORDS;
    if is_fine { Ok(value) } else { Err(TemplateError::NoValue(value.to_owned())) }
}

/// Two digits, and nothing that would be read as a separator, or as a dot.
fn check_escape(text: &str) -> Result<(), TemplateError> {
    let digits = text.get(1..3).filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
    match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
        None => Err(TemplateError::CannotStand('%')),
        Some(b'/' | b'\\' | b'.' | 0..=0x1f | 0x7f) => Err(TemplateError::NotNormal),
        Some(_) => Ok(()),
    }
}

/// A target, while it is written.
#[derive(Default)]
struct Writing {
    text: String,
    is_query: bool,
    /// Where the last segment begins, behind its `/`.
    segment: usize,
    /// The last value that stands in it.
    value: Option<Arc<str>>,
}

impl Writing {
    fn text(&mut self, text: &str) -> Result<(), Unfit> {
        for c in text.chars() {
            if !self.is_query && matches!(c, '/' | '?') {
                self.end_segment()?;
                self.is_query = c == '?';
            }
            self.text.push(c);
            if c == '/' {
                self.segment = self.text.len();
            }
        }
        self.fits()
    }

    fn value(&mut self, name: &Arc<str>, values: &[Vec<u8>]) -> Result<(), Unfit> {
        for (place, value) in values.iter().enumerate() {
            if !self.is_query && !may_stand_in_path(value) {
                return Err(Unfit::Value(Arc::clone(name)));
            }
            if place > 0 {
                self.text.push(',');
            }
            encode(value, &mut self.text);
            self.fits()?;
        }
        self.value = Some(Arc::clone(name));
        Ok(())
    }

    /// What values have made of a segment is still one, and means a resource of its own.
    fn end_segment(&mut self) -> Result<(), Unfit> {
        let segment = &self.text[self.segment.min(self.text.len())..];
        match self.value.take() {
            Some(value) if matches!(segment, "" | "." | "..") => Err(Unfit::Value(value)),
            _ => Ok(()),
        }
    }

    const fn fits(&self) -> Result<(), Unfit> {
        if self.text.len() > MAX_TARGET { Err(Unfit::TooLong) } else { Ok(()) }
    }

    fn end(mut self) -> Result<String, Unfit> {
        if !self.is_query {
            self.end_segment()?;
        }
        Ok(self.text)
    }
}

/// One segment, or a part of one, to whoever reads it: also to those who decode before they look for segments.
fn may_stand_in_path(value: &[u8]) -> bool {
    !value.is_empty() && !value.iter().any(|byte| matches!(byte, b'/' | b'\\' | 0..=0x1f | 0x7f))
}

/// Percent-encodes all that is not unreserved (RFC 3986, section 2.3).
fn encode(value: &[u8], into: &mut String) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    for &byte in value {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            into.push(char::from(byte));
        } else {
            into.push('%');
            into.push(char::from(DIGITS[usize::from(byte >> 4)]));
            into.push(char::from(DIGITS[usize::from(byte & 15)]));
        }
    }
}

/// Text of a template that is not a target: values stand in it as they are.
pub(super) fn joined<E>(
    template: &Template,
    mut value: impl FnMut(&Arc<str>) -> Result<Vec<Vec<u8>>, E>,
) -> Result<Vec<u8>, E> {
    let mut text = Vec::new();
    for piece in template.pieces() {
        match piece {
            Piece::Text(piece) => text.extend_from_slice(piece.as_bytes()),
            Piece::Value(name) => text.extend_from_slice(&value(name)?.join(&b","[..])),
        }
    }
    Ok(text)
}

/// Text as a JSON string; what is no UTF-8 is replaced.
pub(super) fn lossy(text: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn target(template: &str, values: &[(&str, &str)]) -> Result<String, Unfit> {
        let template = Template::parse(template).unwrap();
        template.check_target().unwrap();
        let value = |name: &Arc<str>| {
            let value = values.iter().find(|(known, _)| *known == &**name).unwrap().1;
            Ok::<_, ()>(vec![value.as_bytes().to_vec()])
        };
        template.target(value).unwrap()
    }

    #[test]
    fn r13_1_values_stand_in_paths_and_queries_percent_encoded() {
        for (template, value, expected) in [
            ("/users/{a}", "7", "/users/7"),
            ("/users/{a}/cards", "a b%", "/users/a%20b%25/cards"),
            ("/users/u-{a}", "..", "/users/u-.."),
            ("/users/{a}", "ü;?#&=+,", "/users/%C3%BC%3B%3F%23%26%3D%2B%2C"),
            ("/home?city={a}&page=2", "x&page=1#/..", "/home?city=x%26page%3D1%23%2F..&page=2"),
            ("/home?city={a}", "", "/home?city="),
            ("/a?b=/../{a}", "..", "/a?b=/../.."),
        ] {
            assert_eq!(target(template, &[("a", value)]), Ok(expected.to_owned()), "{template} {value:?}");
        }
    }

    #[test]
    fn r13_4_a_value_that_would_lead_elsewhere_is_refused() {
        for (template, value) in [
            ("/users/{a}", ".."),
            ("/users/{a}", "."),
            ("/users/{a}/cards", ".."),
            ("/users/{a}?x=1", ".."),
            ("/users/{a}", ""),
            ("/users/{a}/cards", ""),
            ("/users/u{a}", ""),
            ("/users/{a}", "../admin"),
            ("/users/{a}", "x/y"),
            ("/users/{a}", "x\\y"),
            ("/users/{a}", "x\r\nhost: y"),
            ("/users/{a}", "\0"),
            ("/users/.{a}", "."),
        ] {
            assert_eq!(
                target(template, &[("a", value)]),
                Err(Unfit::Value("a".into())),
                "{template} {value:?}"
            );
        }
        assert_eq!(target("/x/{a}{b}", &[("a", "."), ("b", ".")]), Err(Unfit::Value("b".into())));
        assert_eq!(target("/x?{a}", &[("a", &"x".repeat(MAX_TARGET))]), Err(Unfit::TooLong));
    }

    #[test]
    fn what_is_no_template_or_no_target_is_refused() {
        for (text, expected) in [
            ("{a", TemplateError::Unclosed),
            ("a}", TemplateError::Unopened),
            ("{}", TemplateError::NoValue(String::new())),
            ("{a..b}", TemplateError::NoValue("a..b".into())),
            ("{ a}", TemplateError::NoValue(" a".into())),
            ("{a{b}", TemplateError::NoValue("a{b".into())),
        ] {
            assert_eq!(Template::parse(text).unwrap_err(), expected, "{text}");
        }
        for (text, expected) in [
            ("a/{b}", TemplateError::NoSlash),
            ("/a//{b}", TemplateError::NotNormal),
            ("/a/../{b}", TemplateError::NotNormal),
            ("/a/%2e%2e/{b}", TemplateError::NotNormal),
            ("/a%2fb", TemplateError::NotNormal),
            ("/a#b", TemplateError::CannotStand('#')),
            ("/a b", TemplateError::CannotStand(' ')),
            ("/a%4", TemplateError::CannotStand('%')),
        ] {
            assert_eq!(Template::parse(text).unwrap().check_target().unwrap_err(), expected, "{text}");
        }
        assert_eq!(Template::parse("/").unwrap().check_target(), Ok(()));
        let template = Template::parse("/a/{b}?c={d}&e={f}").unwrap();
        assert_eq!(template.values().collect::<Vec<_>>(), ["b", "d", "f"]);
        assert_eq!(template.values_of_path().collect::<Vec<_>>(), ["b"]);
    }

    proptest! {
        /// Whatever a backend or a client says: as many segments as the template has, none of dots, and the query is the query.
        #[test]
        fn r13_4_no_value_changes_the_path(value in any::<Vec<u8>>(), other in "[./%\\\\?#a-c\u{0}-\u{20}]{0,4}") {
            let template = Template::parse("/a/{x}/b-{y}?q={x}").unwrap();
            let said = |name: &Arc<str>| Ok::<_, ()>(vec![
                if &**name == "x" { value.clone() } else { other.clone().into_bytes() },
            ]);
            if let Ok(target) = template.target(said).unwrap() {
                let (path, query) = target.split_once('?').unwrap();
                let segments = path.split('/').collect::<Vec<_>>();
                prop_assert_eq!(segments.len(), 4);
                prop_assert!(!segments[2].is_empty() && segments[2] != "." && segments[2] != "..");
                prop_assert!(segments[3].starts_with("b-"));
                prop_assert!(!query.contains(['?', '#', '&', '/']) && query.starts_with("q="));
                prop_assert!(target.bytes().all(|byte| byte.is_ascii_graphic()));
                prop_assert!(target.parse::<http::uri::PathAndQuery>().is_ok());
                let lower = path.to_ascii_lowercase();
                prop_assert!(!lower.contains("%2f") && !lower.contains("%5c") && !lower.contains("%2e"));
            }
        }
    }
}
