//! Whatever the text is, an answer comes back.

use naka_gateway::config::{Unformatted, format_str, parse_str};
use proptest::prelude::*;

fn survives(text: &str) {
    match parse_str("any.yaml", text) {
        Ok((_, found)) | Err(found) => {
            let _ = (found.render(false), found.render(true), found.to_json());
        }
    }
    stays(text);
}

/// Laid out it means the same and stays as it is, or it is refused.
fn stays(text: &str) {
    match format_str("any.yaml", text) {
        Ok(once) => {
            let twice = format_str("any.yaml", &once.text).unwrap_or_else(|why| panic!("{why}{}", once.text));
            assert_eq!(once.text, twice.text, "{text}");
        }
        Err(Unformatted::Wrong(found)) => assert!(!found.is_empty()),
        Err(Unformatted::Bug(why)) => panic!("{why}\n{text}"),
    }
}

/// Pieces that make texts which nearly are configurations.
const PIECES: [&str; 40] = [
    "listeners",
    "upstreams",
    "routes",
    "policies",
    "groups",
    "gateway",
    "tests",
    "match",
    "path",
    "prefix",
    "regex",
    "upstream",
    "rate_limit",
    "rate",
    "key",
    "use",
    "host",
    "timeouts",
    "total",
    ": ",
    ": ",
    ": ",
    ":\n  ",
    "\n",
    "\n  ",
    "- ",
    "{",
    "}",
    "[",
    "]",
    ", ",
    "\"/a/{id}\"",
    "/{id}",
    "5s",
    "20/m",
    "*a",
    "&a ",
    "!t ",
    "é",
    "\t",
];

const TEXTS: [&str; 4] = [
    include_str!("design.yaml"),
    include_str!("carts.yaml"),
    include_str!("../../../../gateway.yaml"),
    include_str!("layout/before.yaml.txt"),
];

proptest! {
    #[test]
    fn any_text(text in "\\PC*") {
        survives(&text);
    }

    #[test]
    fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        survives(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn nearly_a_configuration(pieces in proptest::collection::vec(0..PIECES.len(), 0..60)) {
        let text: String = pieces.into_iter().map(|piece| PIECES[piece]).collect();
        survives(&text);
    }

    /// A whole example with one piece of it overwritten.
    #[test]
    fn a_damaged_configuration(at in 0_usize..9000, len in 0_usize..40, with in 0..PIECES.len()) {
        let mut text: Vec<char> = include_str!("design.yaml").chars().collect();
        let at = at.min(text.len());
        let end = (at + len).min(text.len());
        text.splice(at..end, PIECES[with].chars());
        survives(&text.into_iter().collect::<String>());
    }

    /// Comments and empty lines anywhere, and lines that have changed places.
    #[test]
    fn a_configuration_with_comments(
        which in 0..TEXTS.len(),
        changes in proptest::collection::vec((any::<usize>(), 0_usize..12, 0..5), 0..20),
    ) {
        let mut lines: Vec<String> = TEXTS[which].lines().map(str::to_owned).collect();
        for (number, (at, indent, kind)) in changes.into_iter().enumerate() {
            let at = at % (lines.len() - 1);
            match kind {
                0 => lines.insert(at, format!("{}# comment {number}", " ".repeat(indent))),
                1 => lines.insert(at, String::new()),
                2 => lines[at].extend([" ".repeat(indent + 1), format!("# behind {number}")]),
                3 => lines.insert(at, format!("{}#", " ".repeat(indent))),
                _ => lines.swap(at, at + 1),
            }
        }
        stays(&(lines.join("\n") + "\n"));
    }
}
