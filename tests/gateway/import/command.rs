//! `naka import`, as a shell sees it.

use std::{
    fs,
    process::{Command, Output, Stdio},
};

fn naka(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_naka-under-test"));
    command.arg("import").args(args).stdin(Stdio::null()).output().unwrap()
}

const ROUTE: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: g}
spec: {listeners: [{name: l, port: 80, protocol: HTTP}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r}
spec: {parentRefs: [{name: g}], rules: [{backendRefs: [{name: app, port: 80}]}]}
";

#[test]
fn the_code_says_whether_all_was_carried_over() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let file = folder.path().join(name);
        fs::write(&file, text).unwrap();
        file.to_str().unwrap().to_owned()
    };
    let right = write("right.yaml", ROUTE);
    let left_out =
        write("left-out.yaml", &format!("{ROUTE}---\nkind: Pod\napiVersion: v1\nmetadata: {{name: p}}\n"));
    let wrong = write("wrong.yaml", &ROUTE.replace("rules:", "rule: [], rules:"));
    let torn = write("torn.yaml", "kind: {{ .Values.kind }}\n");
    let alone = write("alone.yaml", ROUTE.split("---").nth(1).unwrap());
    for (args, code, says) in [
        (&[&*right][..], 0, "naka: 0 errors, 0 left out"),
        (&[&*left_out], 0, "left-out.yaml:14:18: left out: Pod default/p"),
        (&[&*left_out, "--strict"], 1, "1 left out"),
        (
            &[&*wrong],
            1,
            "wrong.yaml:10:33: error: HTTPRoute default/r: `spec.rule` is no field that is known there",
        ),
        (&[&*torn], 2, "torn.yaml:1:"),
        (&["gone.yaml"], 2, "gone.yaml: cannot be read"),
        (&[&*alone], 1, "nothing is written: no listener comes of it"),
        (&[&*right, "--faults-until", "soon"], 2, "`soon` is not a time"),
    ] {
        let output = naka(&[&["gateway-api"], args].concat());
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?} {said}");
        assert!(said.contains(says), "{args:?} {said}");
        let is_written = String::from_utf8_lossy(&output.stdout).contains("routes:");
        assert_eq!(is_written, code < 2 && !says.starts_with("nothing"), "{args:?}");
    }
    let into = folder.path().join("gateway.yaml");
    let output = naka(&["gateway-api", &left_out, "--format", "json", "-o", into.to_str().unwrap()]);
    assert!(output.stdout.is_empty());
    let report: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!((&report[0]["level"], &report[0]["line"]), (&"left out".into(), &14.into()));
    let checked =
        Command::new(env!("CARGO_BIN_EXE_naka-under-test")).arg("check").arg(&into).output().unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));
}
