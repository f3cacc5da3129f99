//! `bazaar storm`, for a moment.

use crate::shopper::{assert_passed, reported};

#[test]
fn r15_7_after_a_short_storm_the_books_are_right() {
    let folder = tempfile::tempdir().unwrap();
    // The books have to be right whatever the machine has to do besides; how much succeeds in five seconds depends on that, too.
    let args = ["storm", "--seconds", "5", "--seed", "1", "--at-least", "75"];
    let (said, code, report) = reported(&args, folder.path());
    assert_passed("storm", &said, code, &report);
}
