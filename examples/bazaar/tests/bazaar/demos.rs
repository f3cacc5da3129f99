//! `bazaar demos`, all ten.

use crate::shopper::{assert_passed, reported};

#[test]
fn ten_demonstrations_pass_and_each_says_what_was_measured() {
    let folder = tempfile::tempdir().unwrap();
    let (said, code, report) = reported(&["demos"], folder.path());
    let rows = ["R2.9", "R3.4", "R3.1", "R9.3", "R3.9", "R4.4", "R2.13", "R2.2", "R14.3", "R8.7"];
    assert_passed(&said, code, &report, &rows);
    assert_eq!(report.len(), 10);
    for line in report {
        assert!(
            line["detail"].as_str().is_some_and(|it| it.contains(|it: char| it.is_ascii_digit())),
            "{line}"
        );
    }
}
