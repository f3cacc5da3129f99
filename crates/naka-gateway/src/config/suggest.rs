//! What was probably meant.

/// Longer words are not looked at: nobody mistypes them into one of ours.
const LONGEST: usize = 64;

/// The nearest of `known`, if it is near enough to be what was meant.
pub(crate) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if word.is_empty() || word.len() > LONGEST {
        return None;
    }
    let typed = plain(word);
    let far = (typed.len() / 3).max(1);
    known
        .into_iter()
        .filter(|candidate| candidate.len() <= LONGEST)
        .map(|candidate| (distance(&typed, &plain(candidate)), candidate))
        .filter(|(steps, candidate)| {
            (*steps <= far && *steps < typed.len()) || (typed.len() >= 4 && contains(candidate, word))
        })
        .min_by_key(|(steps, _)| *steps)
        .map(|(_, candidate)| candidate)
}

/// `RateLimit`, `rate-limit` and `rate_limits` are one word to a person.
fn plain(word: &str) -> Vec<char> {
    word.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

fn contains(candidate: &str, word: &str) -> bool {
    candidate.contains(word) || (candidate.len() >= 4 && word.contains(candidate))
}

/// Insertions, deletions, replacements and swaps of neighbours (optimal string alignment).
fn distance(a: &[char], b: &[char]) -> usize {
    let width = b.len() + 1;
    let mut rows: Vec<usize> = (0..width).collect();
    rows.resize((a.len() + 1) * width, 0);
    for i in 1..=a.len() {
        rows[i * width] = i;
        for j in 1..width {
            let change = usize::from(a[i - 1] != b[j - 1]);
            let mut best = (rows[(i - 1) * width + j] + 1)
                .min(rows[i * width + j - 1] + 1)
                .min(rows[(i - 1) * width + j - 1] + change);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[(i - 2) * width + j - 2] + 1);
            }
            rows[i * width + j] = best;
        }
    }
    rows[a.len() * width + b.len()]
}

/// `a`, `b` or `c`.
pub(crate) fn one_of<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    let words: Vec<_> = words.into_iter().map(|word| format!("`{word}`")).collect();
    match words.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        Some((last, _)) => last.clone(),
        None => String::from("(there is none)"),
    }
}

/// Text of the file inside a message: short, and without control characters.
pub(crate) fn quoted(text: &str) -> String {
    let shown: String = text.chars().take(60).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if text.chars().nth(60).is_some() { format!("`{shown}…`") } else { format!("`{shown}`") }
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn finds_what_was_meant() {
        let known = ["upstream", "listener", "rate_limit", "match", "priority"];
        for (word, meant) in [
            ("upstrem", Some("upstream")),
            ("upstreams", Some("upstream")),
            ("rateLimit", Some("rate_limit")),
            ("rate-limit", Some("rate_limit")),
            ("mathc", Some("match")),
            ("limit", Some("rate_limit")),
            ("kubernetes", None),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, known), meant, "{word}");
        }
    }
}
