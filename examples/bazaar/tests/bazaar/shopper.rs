//! `bazaar shop`, against a `bazaar up` of its own, and `bazaar crash`: judged by the reports that they write for programs.

use std::{
    collections::BTreeSet,
    path::Path,
    sync::{Mutex, PoisonError},
};

use serde_json::Value;

use crate::{
    gateways::Bazaar,
    process::{Process, free_address},
    world::NOON,
};

/// Runs a command that writes a report; what it printed, its exit code, and the report.
pub(crate) fn reported(args: &[&str], folder: &Path) -> (String, Option<i32>, Vec<Value>) {
    // One at a time: each starts a platform of its own, and some look at how long things take.
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let file = folder.join("report.json");
    let args = [args, &["--json", file.to_str().unwrap()]].concat();
    let mut process = Process::start(&args);
    let code = process.child.wait().unwrap().code(); // Each of them is bounded by itself.
    let said = process.rest() + &process.errors();
    let report = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{error}: {said}"));
    let report = serde_json::from_str::<Vec<Value>>(&report).unwrap();
    (said, code, report)
}

/// The rows that `docs/systems.md` says are in the report of that command; and those that may be.
fn claimed(command: &str) -> [BTreeSet<String>; 2] {
    const PAGE: &str = include_str!("../../../../docs/systems.md");
    let begin = format!("| `bazaar {command} --json FILE` |");
    let line =
        PAGE.lines().find(|line| line.starts_with(&begin)).unwrap_or_else(|| panic!("no line {begin}"));
    let cells = line[begin.len()..].split('|').map(|cell| {
        let rows = cell.split([',', ' ']).filter(|it| it.starts_with('R'));
        rows.map(str::to_owned).collect::<BTreeSet<_>>()
    });
    let [always, at_times, ..] = &cells.collect::<Vec<_>>()[..] else { panic!("{line}") };
    [always.clone(), at_times.clone()]
}

/// The report has the rows that are claimed of it and no others, and nothing has failed.
#[track_caller]
pub(crate) fn assert_passed(command: &str, said: &str, code: Option<i32>, report: &[Value]) {
    let failed = report.iter().filter(|line| line["passed"] != true).collect::<Vec<_>>();
    assert!(failed.is_empty() && code == Some(0), "{code:?}: {failed:#?}\n{said}");
    for line in report {
        assert!(line["check"].as_str().is_some_and(|it| it.len() > 10), "{line}");
        assert!(line["detail"].is_string(), "{line}");
    }
    let rows = report.iter().map(|line| line["row"].as_str().unwrap().to_owned()).collect::<BTreeSet<_>>();
    let [always, at_times] = claimed(command);
    assert!(!always.is_empty(), "nothing is claimed of {command}");
    assert_eq!(rows.difference(&at_times).cloned().collect::<BTreeSet<_>>(), always, "bazaar {command}");
}

#[test]
fn r15_1_three_users_shop_by_seven_methods_in_both_languages() {
    let bazaar = Bazaar::shop(NOON);
    let [gateway, order, notification] =
        ["public", "order", "notification"].map(|name| bazaar.at[name].to_string());
    let args = ["shop", "--gateway", &gateway, "--order", &order, "--notification", &notification];
    let (said, code, report) = reported(&args, bazaar.data.path());
    assert_passed("shop", &said, code, &report);
    let trips = report.iter().find(|line| line["row"] == "R15.1").unwrap();
    assert_eq!(trips["detail"], "21 of 21", "{said}");
}

#[test]
fn a_shopper_without_a_shop_says_so() {
    let nobody = free_address().to_string();
    let mut shop = Process::start(&["shop", "--gateway", &nobody]);
    assert_eq!(shop.end().code(), Some(1));
    let errors = shop.errors();
    assert!(
        errors.contains("there is no shop at ") && errors.contains("is `bazaar up` running?"),
        "{errors}"
    );
}

#[test]
fn rehearsed_crashes_are_a_report_by_row_too() {
    let folder = tempfile::tempdir().unwrap();
    let (said, code, report) = reported(&["crash", "--times", "3"], folder.path());
    assert_passed("crash", &said, code, &report);
}
