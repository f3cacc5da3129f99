//! The text that everything a regular expression matches starts with.

/// That text, or less of it: where the pattern is not plainly read, nothing.
///
/// Two expressions whose texts exclude one another cannot match the same path.
pub(crate) fn literal_prefix(pattern: &str) -> String {
    // The configuration writes `^(?:…)$`. What is not anchored has no beginning.
    let Some(anchored) = pattern.strip_prefix('^') else { return String::new() };
    let inner = anchored.strip_prefix("(?:").and_then(|inner| inner.strip_suffix(")$")).unwrap_or(anchored);
    if may_part_at_once(inner) {
        return String::new();
    }
    let mut prefix = String::new();
    let mut chars = inner.chars();
    while let Some(char) = chars.next() {
        match char {
            '\\' => match chars.next() {
                Some(escaped) if escaped.is_ascii_punctuation() && !"<>".contains(escaped) => {
                    prefix.push(escaped);
                }
                _ => break, // a class, an assertion or a code
            },
            '*' | '?' | '{' => {
                prefix.pop(); // It is there any number of times, or never.
                break;
            }
            '.' | '+' | '(' | ')' | '|' | '[' | ']' | '}' | '^' | '$' => break,
            _ => prefix.push(char),
        }
    }
    prefix
}

/// Whether there is, or may be, an alternative outside all groups; and so one without the prefix.
fn may_part_at_once(pattern: &str) -> bool {
    let mut depth = 0_usize;
    let mut chars = pattern.chars().peekable();
    while let Some(char) = chars.next() {
        match char {
            '\\' => drop(chars.next()),
            '[' => return pattern.contains('|'), // Classes nest and negate: no further reading.
            '(' => {
                // Flags can turn on comments, which can hide anything.
                let rest: String = chars.clone().take(3).collect();
                if rest.starts_with('?') && !["?:", "?<", "?P<"].iter().any(|it| rest.starts_with(it)) {
                    return true;
                }
                depth += 1;
            }
            // A bracket too many: those around all were not the ones they were taken for.
            '|' | ')' if depth == 0 => return true,
            ')' => depth -= 1,
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_all_matches_start_with() {
        for (pattern, prefix) in [
            ("^(?:/cat/[0-9]+)$", "/cat/"),
            ("^(?:/cat/(?<id>[0-9]+))$", "/cat/"),
            ("^(?:/a(?:x|y))$", "/a"),
            ("^(?:/v1\\.0/\\d+)$", "/v1.0/"),
            ("^(?:/ab*)$", "/a"),
            ("^(?:/ab?c)$", "/a"),
            ("^(?:/ab{2})$", "/a"),
            ("^(?:/ab+)$", "/ab"),
            ("^/plain$", "/plain"),
            ("^(?:/a|/b)$", ""),
            ("^/a|/b$", ""),
            ("^(?:/a)|(?:/b)$", ""),
            ("^(?:(?i)/a)$", ""),
            ("^(?:/a(?x) # ( \n | /b)$", ""),
            ("^(?:/[(]|/b)$", ""),
            ("/unanchored", ""),
        ] {
            assert_eq!(literal_prefix(pattern), prefix, "{pattern}");
        }
    }
}
