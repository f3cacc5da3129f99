//! What requests are matched by: paths, methods, headers.

use crate::{
    config::{Node, PathRegex, Scalar as _, Text, quoted},
    import::{
        fields::{Fields, Said},
        order::{End, Match, Path, Wanted},
        report::Findings,
    },
};

/// What is known of the path of a match, for rewrites.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Begins {
    /// The whole path, or an expression.
    Whole,
    /// A prefix of so many segments.
    With(usize),
}

pub(super) fn path(
    mut fields: Fields<'_, '_>,
    ignores_case: bool,
    findings: &mut Findings,
) -> Option<(Path, Begins)> {
    let (exact, prefix, regex) =
        (fields.said("exact", findings), fields.said("prefix", findings), fields.said("regex", findings));
    let at = fields.span;
    fields.finish(findings);
    let wrong = |said: &Said, why: &str, findings: &mut Findings| {
        findings.left_out(
            said.at,
            format!("the path {} cannot be matched: {why}; this match is left out", quoted(&said.text)),
            "write it as requests have it, normalised",
        );
    };
    if ignores_case {
        let text = exact.as_ref().or(prefix.as_ref())?;
        findings.note(text.at, "a path in any case is a regular expression here", "");
        let tail = if prefix.is_some() { ".*" } else { "" };
        return Some((
            Path::Regex(format!("(?i:{}){tail}", regex::escape(&text.text)).into()),
            Begins::Whole,
        ));
    }
    match (exact, prefix, regex) {
        (Some(exact), None, None) => match Path::read(&exact.text, End::Whole) {
            Ok(path) => Some((path, Begins::Whole)),
            Err(why) => {
                wrong(&exact, &why, findings);
                None
            }
        },
        (None, Some(prefix), None) => {
            // `/api/` is what is below it, and not `/api`.
            let end =
                if prefix.text.len() > 1 && prefix.text.ends_with('/') { End::Rest } else { End::Prefix };
            match Path::read(&prefix.text, end) {
                Ok(path) => {
                    let Path::Segments(segments, _) = &path else { return None };
                    let count = segments.len();
                    if end == End::Prefix && count > 0 {
                        findings.changed(
                            prefix.at,
                            format!("the prefix `{0}` is `{0}` and what is below it; it was a beginning of text, so that `{0}x` had it, too", prefix.text),
                            "write a rule for those paths as well, if they are meant",
                        );
                    }
                    Some((path, Begins::With(count)))
                }
                Err(why) => {
                    wrong(&prefix, &why, findings);
                    None
                }
            }
        }
        (None, None, Some(regex)) => {
            if let Some(simple) = simple_regex(&regex.text) {
                return Some((simple, Begins::Whole));
            }
            if PathRegex::parse(Text { text: &regex.text, plain: false }).is_err()
                || !regex.text.starts_with(['/', '.', '(', '^'])
            {
                wrong(&regex, "it is no regular expression of a path", findings);
                return None;
            }
            Some((Path::Regex(regex.text.into()), Begins::Whole))
        }
        _ => {
            findings.error(
                at,
                "a path is matched by one of `exact`, `prefix` and `regex`",
                "keep one of them",
            );
            None
        }
    }
}

/// What is no more than text, or text and `.*`, is a path.
fn simple_regex(regex: &str) -> Option<Path> {
    let is_plain = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || "/-_~".contains(c));
    if regex == ".*" || regex == "/.*" {
        return Some(Match::all().path);
    }
    match regex.strip_suffix(".*").filter(|it| it.ends_with('/')) {
        Some(below) if is_plain(below) => Path::read(below, End::Rest).ok(),
        None if is_plain(regex) => Path::read(regex, End::Whole).ok(),
        _ => None,
    }
}

/// `exact:`, or a regular expression that is words with `|` between.
pub(super) fn alternatives(node: &Node<'_>, what: &str, findings: &mut Findings) -> Option<Vec<String>> {
    let mut fields = Fields::of(node, what, findings);
    let exact = fields.text("exact", findings);
    let (prefix, regex) = (fields.said("prefix", findings), fields.said("regex", findings));
    fields.finish(findings);
    if let Some(exact) = exact {
        return Some(vec![exact]);
    }
    let said = prefix.or(regex)?;
    let words = said.text.trim_start_matches('^').trim_end_matches('$');
    let words = words.strip_prefix('(').and_then(|it| it.strip_suffix(')')).unwrap_or(words);
    let words = words.split('|').map(str::to_owned).collect::<Vec<_>>();
    if words.iter().all(|word| !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric())) {
        return Some(words);
    }
    findings.left_out(
        said.at,
        format!("{what} by a part or an expression is not matched: this match is left out"),
        "write each value as a match of its own",
    );
    None
}

/// What a header or a parameter has to be.
pub(super) fn wanted(node: &Node<'_>, name: &str, findings: &mut Findings) -> Option<Wanted> {
    let mut fields = Fields::of(node, name, findings);
    if fields.is_empty() {
        return Some(Wanted::Present);
    }
    let (exact, prefix, regex) =
        (fields.text("exact", findings), fields.said("prefix", findings), fields.said("regex", findings));
    let presence = fields.text("present", findings);
    fields.finish(findings);
    if let Some(exact) = exact {
        return Some(Wanted::Exactly(exact.into()));
    }
    if presence.is_some_and(|it| it == "true") {
        return Some(Wanted::Present);
    }
    let said = prefix.or(regex)?;
    let text = said.text.trim_start_matches('^').trim_end_matches('$');
    if matches!(text, ".*" | ".+" | "") {
        return Some(Wanted::Present);
    }
    findings.left_out(
        said.at,
        format!(
            "`{name}` by a part or an expression ({}) is not matched: this match is left out",
            quoted(&said.text)
        ),
        "write each value as a match of its own",
    );
    None
}
