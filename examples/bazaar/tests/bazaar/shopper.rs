//! `bazaar shop`, against a `bazaar up` of its own: judged by the report that it writes for programs.

use std::{
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

/// Each of these rows is in the report, and nothing has failed.
#[track_caller]
pub(crate) fn assert_passed(said: &str, code: Option<i32>, report: &[Value], rows: &[&str]) {
    let failed = report.iter().filter(|line| line["passed"] != true).collect::<Vec<_>>();
    assert!(failed.is_empty() && code == Some(0), "{code:?}: {failed:#?}\n{said}");
    for row in rows {
        let line = report.iter().find(|line| line["row"] == *row);
        let line = line.unwrap_or_else(|| panic!("there is no {row} in {report:#?}"));
        assert!(line["check"].as_str().is_some_and(|it| it.len() > 10), "{line}");
        assert!(line["detail"].is_string(), "{line}");
    }
}

#[test]
fn r15_1_three_users_shop_by_seven_methods_in_both_languages() {
    let bazaar = Bazaar::shop(NOON);
    let [gateway, order, notification] =
        ["public", "order", "notification"].map(|name| bazaar.at[name].to_string());
    let args = ["shop", "--gateway", &gateway, "--order", &order, "--notification", &notification];
    let (said, code, report) = reported(&args, bazaar.data.path());
    let rows = ["R15.1", "R15.2", "R15.3", "R15.4", "R15.5", "R15.6"];
    assert_passed(&said, code, &report, &rows);
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
