//! Sidecars: the files of `mesh/`, and the whole bazaar behind them.

use std::path::Path;

use bazaar::demo::sidecars::{as_written, asks, file, lay_out};

use crate::{
    process::Process,
    shopper::{assert_passed, reported},
};

/// `naka check`, which runs the file's `tests:`, too.
#[track_caller]
fn assert_checked(file: &Path) {
    let mut process = Process::start(&["naka", "check", file.to_str().unwrap()]);
    let code = process.child.wait().unwrap().code();
    let said = process.rest() + &process.errors();
    assert_eq!(code, Some(0), "{}: {said}", file.display());
}

#[test]
fn r7_1_each_file_of_the_mesh_holds_and_lists_whom_its_service_asks() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../gateway.yaml");
    lay_out(folder.path(), &as_written(), &std::fs::read_to_string(gateway).unwrap()).unwrap();
    for (name, asked) in asks() {
        let file = file(folder.path(), name);
        assert_checked(&file);
        let text = std::fs::read_to_string(file).unwrap();
        let listed = text.lines().filter_map(|line| line.trim().strip_prefix("to-")?.split(':').next());
        assert_eq!(listed.collect::<Vec<_>>(), asked, "{name}");
    }
    let file = file(folder.path(), "gateway");
    assert_checked(&file);
    let text = std::fs::read_to_string(file).unwrap();
    let is_plain = |line: &&str| line.contains("endpoints: [\"127.0.0.1:8");
    assert_eq!(text.lines().find(is_plain), None, "the gateway goes through doors");
}

#[test]
fn r7_7_payment_is_reached_by_order_and_the_gateway_alone() {
    let folder = tempfile::tempdir().unwrap();
    let (said, code, report) = reported(&["mesh"], folder.path());
    assert_passed("mesh", &said, code, &report);
    assert_eq!(report.len(), 5, "{said}");
}
