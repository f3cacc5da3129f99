//! Paths, regular expressions and templates: text with `{captures}` in it.

use std::sync::Arc;

use serde_json::{Value as Json, json};

use super::{
    checked::{Segment, Template, TemplatePart},
    decode::{Scalar, Text, Wrong},
    suggest::quoted,
};

/// Bytes of a path, a pattern or a template.
const LONGEST: usize = 8192;
/// Bytes of a compiled regular expression.
const REGEX_SIZE: usize = 1 << 20;

/// `path:` — the whole path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WholePath(pub(crate) Arc<[Segment]>);

impl Scalar for WholePath {
    const WHAT: &'static str = "a path such as `/rides/{id}`";

    fn parse(text: Text<'_>) -> Result<Self, Wrong> {
        segments(text.text, true).map(|it| Self(it.into()))
    }

    fn schema() -> Json {
        json!({"type": "string", "pattern": "^/", "examples": ["/healthz", "/rides/{id}", "/files/{rest...}"]})
    }
}

/// `prefix:` — on a segment boundary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PrefixPath(pub(crate) Arc<[Segment]>);

impl Scalar for PrefixPath {
    const WHAT: &'static str = "a path prefix such as `/api`";

    fn parse(text: Text<'_>) -> Result<Self, Wrong> {
        let mut it = segments(text.text, false)?;
        it.pop_if(|last| matches!(last, Segment::Literal(text) if text.is_empty()));
        Ok(Self(it.into()))
    }

    fn schema() -> Json {
        json!({"type": "string", "pattern": "^/", "examples": ["/", "/api"]})
    }
}

/// As it has to stand in the file: YAML takes `{` for the beginning of a map.
fn as_written(path: &str) -> String {
    if path.contains('{') { format!("\"{path}\"") } else { path.to_owned() }
}

/// The segments of a path, their literals normalised.
fn segments(text: &str, whole: bool) -> Result<Vec<Segment>, Wrong> {
    let Some(rest) = text.strip_prefix('/') else {
        let shown = quoted(text);
        return Err(match text.strip_prefix("^/").or_else(|| text.strip_prefix("~")) {
            Some(_) => Wrong::new(format!("{shown} is a regular expression")).help("write it under `regex:`"),
            None if text.contains("://") => Wrong::new(format!("{shown} is a URL, not a path"))
                .help("write the path alone, beginning with `/`, and the host under `host:`"),
            None if matches!(text, "*" | "**") => Wrong::new(format!("{shown} is no pattern here"))
                .help("write `prefix: /`, which takes every path"),
            None => Wrong::new(format!("{shown} does not start with `/`"))
                .help(format!("write `{}`", as_written(&format!("/{}", text.trim_start())))),
        });
    };
    if let Some(above) =
        text.strip_suffix("/*").or_else(|| text.strip_suffix("/**")).filter(|it| !it.contains('*'))
    {
        let wrong = Wrong::new(format!("{} is no pattern here", quoted(&text[above.len() + 1..])));
        let (above, rest) = (if above.is_empty() { "/" } else { above }, format!("{above}/{{rest...}}"));
        return Err(wrong.piece(&text[text.len().min(above.len() + 1)..]).help(if whole {
            format!("write `{}`, or `prefix: {above}`", as_written(&rest))
        } else {
            format!("write `{}`: a prefix has all that is below it", as_written(above))
        }));
    }
    if text.len() > LONGEST {
        return Err(Wrong::new(format!("a path of {} bytes", text.len())).help(format!("at most {LONGEST}")));
    }
    let mut it: Vec<Segment> = Vec::with_capacity(rest.split('/').count());
    let mut parts = rest.split('/').peekable();
    while let Some(part) = parts.next() {
        let last = parts.peek().is_none();
        let segment = segment(part, last, whole)?;
        let is_known = |name: &Arc<str>| {
            it.iter().any(|it| matches!(it, Segment::Param(known) | Segment::Rest(known) if known == name))
        };
        if let Segment::Param(name) | Segment::Rest(name) = &segment
            && is_known(name)
        {
            return Err(Wrong::new(format!("`{{{name}}}` is there twice"))
                .help(format!("give the second one another name: `{{{name}2}}`")));
        }
        it.push(segment);
    }
    Ok(it)
}

fn segment(part: &str, last: bool, whole: bool) -> Result<Segment, Wrong> {
    let wrong = |message: String| Err(Wrong::new(message).piece(part));
    match part {
        "" if !last => {
            let wrong = Wrong::new("an empty segment (`//`)").piece("//");
            return Err(wrong.help("write one `/`: requests are normalised before they are matched"));
        }
        "." | ".." => {
            return wrong(format!("the segment {} never reaches a route", quoted(part)))
                .map_err(|wrong| wrong.help("take it out: requests are normalised before they are matched"));
        }
        _ if part.starts_with(':') && is_name(&part[1..]) => {
            return wrong(format!("{} would be this very text", quoted(part))).map_err(|wrong| {
                wrong.help(format!(
                    "write `{{{}}}` for one segment; for that very text use `regex:`",
                    &part[1..]
                ))
            });
        }
        "*" | "**" => {
            return wrong(format!("{} is no pattern here", quoted(part))).map_err(|wrong| {
                wrong
                    .help("write `{name}` for one segment, `{name...}` for the rest, or `prefix:` without it")
            });
        }
        _ => {}
    }
    if !part.contains(['{', '}']) {
        return literal(part).map(Segment::Literal);
    }
    let inner = part.strip_prefix('{').and_then(|part| part.strip_suffix('}'));
    let Some(inner) = inner.filter(|inner| !inner.contains(['{', '}'])) else {
        let name =
            part.split('{').nth(1).and_then(|rest| rest.split('}').next()).filter(|name| is_name(name));
        let name = name.unwrap_or("name");
        return wrong(format!("{} mixes text and a capture", quoted(part))).map_err(|wrong| {
            wrong.help(format!("a capture is a whole segment: write `/{{{name}}}`, or use `regex:`"))
        });
    };
    let (name, rest) = inner.strip_suffix("...").map_or((inner, false), |name| (name, true));
    if !is_name(name) {
        return wrong(format!("{} is not a capture", quoted(part))).map_err(|wrong| {
            wrong.help("write letters, digits and `_`: `{ride_id}`, or `{rest...}` for the tail")
        });
    }
    match (rest, whole, last) {
        (false, ..) => Ok(Segment::Param(name.into())),
        (true, true, true) => Ok(Segment::Rest(name.into())),
        (true, true, false) => {
            wrong(format!("{} has to be the last segment", quoted(part))).map_err(|wrong| {
                wrong.help(format!("write `{{{name}}}` for one segment, or end the path after it"))
            })
        }
        (true, false, _) => wrong(format!("{} is for `path:` only", quoted(part)))
            .map_err(|wrong| wrong.help("a prefix matches any rest by itself; write `path:` to capture it")),
    }
}

/// Decodes what need not be encoded, upper-cases what stays so, and refuses what cannot be in a path.
fn literal(part: &str) -> Result<Arc<str>, Wrong> {
    if part.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')) {
        return Ok(part.into()); // As nearly all are.
    }
    let mut it = String::with_capacity(part.len());
    let mut rest = part;
    while let Some(c) = rest.chars().next() {
        if c == '%' {
            let hex = rest.get(1..3).and_then(|hex| u8::from_str_radix(hex, 16).ok());
            let byte = hex.filter(|_| rest.as_bytes()[1] != b'+').ok_or_else(|| {
                Wrong::new("`%` without two hex digits").piece(part).help("write `%25` for the sign itself")
            })?;
            match byte {
                b'/' | b'\\' => {
                    let wrong = Wrong::new("an encoded slash never matches").piece(part);
                    return Err(wrong.help("requests with `%2F` or `%5C` in the path are refused; write `/`"));
                }
                byte if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) => it.push(byte.into()),
                byte => it.push_str(&encoded(&[byte])),
            }
            rest = &rest[3..];
            continue;
        }
        if !(c.is_ascii_alphanumeric() || "-._~!$&'()*+,;=:@".contains(c)) {
            return Err(cannot_stand(c, part));
        }
        it.push(c);
        rest = &rest[c.len_utf8()..];
    }
    if matches!(it.as_str(), "." | "..") {
        let wrong = Wrong::new(format!("the segment {} stands in no normal path", quoted(part))).piece(part);
        return Err(wrong.help("take it out: paths are normalised"));
    }
    Ok(it.into())
}

fn cannot_stand(c: char, part: &str) -> Wrong {
    let wrong = Wrong::new(format!("{} cannot stand in a path", quoted(&c.to_string()))).piece(part);
    match c {
        '?' => wrong.help("the query is matched under `query:`: `query: {page: {present: true}}`"),
        '#' => wrong.help("a fragment never reaches a server; take it out"),
        c => {
            let encoded = encoded(c.to_string().as_bytes());
            wrong.help(format!("write `{encoded}`"))
        }
    }
}

/// Percent-encoded, all of them.
pub(crate) fn encoded(bytes: &[u8]) -> String {
    bytes.iter().flat_map(|byte| ['%', hex(byte >> 4), hex(byte & 15)]).collect()
}

fn hex(digit: u8) -> char {
    char::from_digit(digit.into(), 16).unwrap_or('0').to_ascii_uppercase()
}

/// Letters, digits and `_`, not beginning with a digit.
fn is_name(name: &str) -> bool {
    name.len() <= 64
        && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// `{name}` alone, as in a key.
pub(crate) fn capture(text: &str) -> Option<&str> {
    let name = text.strip_prefix('{')?.strip_suffix('}')?;
    is_name(name).then_some(name)
}

/// The names that segments capture.
pub(crate) fn names_of(segments: &[Segment]) -> Vec<Arc<str>> {
    let name = |segment: &Segment| match segment {
        Segment::Literal(_) => None,
        Segment::Param(name) | Segment::Rest(name) => Some(Arc::clone(name)),
    };
    segments.iter().filter_map(name).collect()
}

/// `regex:` — anchored at both ends.
#[derive(Clone, Debug)]
pub(crate) struct PathRegex(pub(crate) regex::Regex);

impl Scalar for PathRegex {
    const WHAT: &'static str = "a regular expression such as `/cat/(?<id>[0-9]+)`";

    fn parse(text: Text<'_>) -> Result<Self, Wrong> {
        if text.text.len() > LONGEST {
            return Err(Wrong::new(format!("a pattern of {} bytes", text.text.len()))
                .help(format!("at most {LONGEST}")));
        }
        let compile = |pattern: &str| regex::RegexBuilder::new(pattern).size_limit(REGEX_SIZE).build();
        // Alone first, so that `a)(b` is refused and messages do not show our own brackets.
        let built = compile(text.text).and_then(|_| compile(&format!("^(?:{})$", text.text)));
        built.map(Self).map_err(|error| {
            let reason = error.to_string();
            let reason = reason.lines().last().unwrap_or_default().trim_start_matches("error: ");
            let wrong = Wrong::new(format!("{} does not compile: {reason}", quoted(text.text)));
            match error {
                regex::Error::CompiledTooBig(_) => {
                    wrong.help("make it smaller: fewer or lower `{n,m}` counts")
                }
                _ if reason.contains("look-around") || reason.contains("backreferences") => {
                    wrong.help("the syntax is RE2's, in linear time: write two routes instead")
                }
                _ => wrong.help("the syntax is RE2's: docs.rs/regex"),
            }
        })
    }

    fn schema() -> Json {
        json!({"type": "string", "format": "regex"})
    }
}

/// Text with `{captures}`; which of them exist is checked later.
impl Scalar for Template {
    const WHAT: &'static str = "a path such as `/catalog/{id}`";

    fn parse(text: Text<'_>) -> Result<Self, Wrong> {
        let text = text.text;
        if !text.starts_with('/') {
            return Err(Wrong::new(format!("{} does not start with `/`", quoted(text)))
                .help(format!("write `/{text}`")));
        }
        if text.len() > LONGEST {
            return Err(
                Wrong::new(format!("a template of {} bytes", text.len())).help(format!("at most {LONGEST}"))
            );
        }
        let mut parts = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let (before, after) =
                rest.split_once('{').map_or((rest, None), |(before, after)| (before, Some(after)));
            if !before.is_empty() {
                plain_text(before)?;
                parts.push(TemplatePart::Text(before.into()));
            }
            let Some(after) = after else { break };
            let (name, behind) = after.split_once('}').ok_or_else(|| {
                Wrong::new("`{` without `}`")
                    .piece("{")
                    .help("close it: `{name}`; for the sign itself write `%7B`")
            })?;
            parts.push(TemplatePart::Capture(template_name(name)?.into()));
            rest = behind;
        }
        never_refused(&parts)?;
        Ok(Self(parts))
    }

    fn schema() -> Json {
        json!({"type": "string", "pattern": "^/", "examples": ["/catalog/{id}"]})
    }
}

/// What a template makes is normalised as a client's path is; here what could never be is found early.
fn never_refused(parts: &[TemplatePart]) -> Result<(), Wrong> {
    let sample = parts.iter().map(|part| match part {
        TemplatePart::Text(text) => &**text,
        TemplatePart::Capture(_) => "x",
    });
    let sample = sample.collect::<String>();
    if sample.contains("//") {
        return Err(Wrong::new("an empty segment (`//`)").piece("//").help("write one `/`"));
    }
    sample.split('/').try_for_each(|part| literal(part).map(|_| ()))
}

fn plain_text(text: &str) -> Result<(), Wrong> {
    let Some(wrong) =
        text.chars().find(|c| !(c.is_ascii_alphanumeric() || "-._~!$&'()*+,;=:@/%".contains(*c)))
    else {
        return Ok(());
    };
    if wrong == '?' {
        return Err(Wrong::new("`?` cannot stand in a path")
            .piece("?")
            .help("end it before: the query goes along as it is"));
    }
    if wrong == '}' {
        return Err(Wrong::new("`}` without `{`").piece("}").help("for the sign itself write `%7D`"));
    }
    let encoded = encoded(wrong.to_string().as_bytes());
    Err(Wrong::new(format!("{} cannot stand in a path", quoted(&wrong.to_string())))
        .help(format!("write `{encoded}`")))
}

fn template_name(name: &str) -> Result<&str, Wrong> {
    let piece = format!("{{{name}}}");
    if is_name(name) {
        return Ok(name);
    }
    if name.starts_with("jwt.") || name.split('.').nth(1) == Some("body") {
        return Err(Wrong::not_built(&piece).piece(piece));
    }
    match name.strip_suffix("...").filter(|name| is_name(name)) {
        Some(name) => Err(Wrong::new(format!("{} is for `match:` only", quoted(&piece)))
            .piece(piece)
            .help(format!("write `{{{name}}}`"))),
        None => Err(Wrong::new(format!("{} is not a capture", quoted(&piece)))
            .piece(piece)
            .help("write letters, digits and `_`: `{ride_id}`")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn path(text: &str) -> Result<Vec<Segment>, Wrong> {
        WholePath::parse(Text { text, plain: false }).map(|it| it.0.to_vec())
    }

    #[test]
    fn literals_are_normalised() {
        let text = |it: &str| Segment::Literal(it.into());
        assert_eq!(path("/%7Euser/a%20b/%e2%82").unwrap(), [text("~user"), text("a%20b"), text("%E2%82")]);
        assert_eq!(path("/").unwrap(), [text("")]);
        assert_eq!(path("/a/").unwrap(), [text("a"), text("")]);
        let prefix = |text: &str| PrefixPath::parse(Text { text, plain: false }).unwrap().0;
        assert!(prefix("/").is_empty());
        assert_eq!(prefix("/a/"), prefix("/a"));
    }

    #[test]
    fn what_never_matches_is_refused() {
        for text in [
            "",
            "a",
            "/a//b",
            "/./a",
            "/a/..",
            "/%2e%2e",
            "/a%2Fb",
            "/a?b",
            "/a#b",
            "/a b",
            "/{a}/{a}",
            "/{r...}/a",
            "/x-{id}",
            "/{}",
            "/{1a}",
            "/%zz",
            "/%+1",
            "//",
        ] {
            assert!(path(text).is_err(), "{text}");
        }
    }

    #[test]
    fn regexes_are_anchored_and_closed() {
        let regex = |text: &str| PathRegex::parse(Text { text, plain: false });
        assert!(!regex("/a|/b").unwrap().0.is_match("/ax"));
        assert!(regex("a)(b").is_err());
        assert!(regex("(a{1000}){1000}").is_err());
    }

    proptest! {
        #[test]
        fn text_never_panics(text in ".*", path in "/[a-z{}.%/]{0,20}") {
            for text in [&text, &path] {
                let text = Text { text, plain: true };
                let _ = (WholePath::parse(text), PrefixPath::parse(text), Template::parse(text), PathRegex::parse(text));
            }
        }
    }
}
