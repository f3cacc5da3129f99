//! Whatever the text is, an answer comes back.

use naka_gateway::config::parse_str;
use proptest::prelude::*;

fn survives(text: &str) {
    match parse_str("any.yaml", text) {
        Ok((_, found)) | Err(found) => {
            let _ = (found.render(false), found.render(true), found.to_json());
        }
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
}
