//! `bazaar demos`: all ten, and what is checked after them.

use crate::shopper::{assert_passed, reported};

#[test]
fn ten_demonstrations_pass_and_each_says_what_was_measured() {
    let folder = tempfile::tempdir().unwrap();
    let (said, code, report) = reported(&["demos"], folder.path());
    assert_passed("demos", &said, code, &report);
    for line in report.iter().take(10) {
        assert!(
            line["detail"].as_str().is_some_and(|it| it.contains(|it: char| it.is_ascii_digit())),
            "{line}"
        );
    }
}
