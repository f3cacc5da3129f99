//! `naka fmt`, as a shell sees it.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
    process::{Command, Output, Stdio},
};

const BEFORE: &str = "
# What everybody may ask.
routes:    {all: {upstream: app, match: {prefix: '/'}}}
upstreams:
   app: {endpoints: ['127.0.0.1:3000']}   # the only one
listeners: {web: {listen: ':8080'}}
";

const AFTER: &str = "\
listeners: {web: {listen: \":8080\"}}
upstreams:
  app: {endpoints: [\"127.0.0.1:3000\"]}    # the only one
# What everybody may ask.
routes: {all: {match: {prefix: /}, upstream: app}}
";

struct Folder(tempfile::TempDir);

impl Folder {
    fn with(files: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(folder.path().join(name), text).unwrap();
        }
        Self(folder)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn text(&self, file: &str) -> String {
        fs::read_to_string(self.path().join(file)).unwrap()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_naka-under-test"));
        command.current_dir(self.path()).arg("fmt").args(args).stdin(Stdio::null());
        command
    }

    /// What it says, and how it ends.
    fn says(&self, args: &[&str]) -> (String, Option<i32>) {
        said(&self.command(args).output().unwrap())
    }

    /// All that is there, hidden files too.
    fn names(&self) -> Vec<String> {
        let names = fs::read_dir(self.path()).unwrap();
        let mut names: Vec<_> = names.map(|it| it.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn said(output: &Output) -> (String, Option<i32>) {
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    (said.into_owned(), output.status.code())
}

#[test]
fn a_file_is_laid_out_in_place_once_and_keeps_its_mode_and_its_link() {
    let folder = Folder::with(&[("real.yaml", BEFORE)]);
    let real = folder.path().join("real.yaml");
    fs::set_permissions(&real, fs::Permissions::from_mode(0o640)).unwrap();
    symlink("real.yaml", folder.path().join("gateway.yaml")).unwrap();
    assert_eq!(folder.says(&[]), ("gateway.yaml: laid out\n".into(), Some(0)));
    assert_eq!(folder.text("real.yaml"), AFTER);
    assert_eq!(fs::metadata(&real).unwrap().permissions().mode() & 0o777, 0o640);
    assert!(fs::symlink_metadata(folder.path().join("gateway.yaml")).unwrap().is_symlink());
    assert_eq!(folder.names(), ["gateway.yaml", "real.yaml"], "nothing is left beside it");
    let written = fs::metadata(&real).unwrap().modified().unwrap();
    assert_eq!(
        folder.says(&["real.yaml"]),
        (String::new(), Some(0)),
        "the second time there is nothing to do"
    );
    assert_eq!(fs::metadata(&real).unwrap().modified().unwrap(), written);
}

#[test]
fn check_changes_nothing_and_shows_what_would_change() {
    let folder = Folder::with(&[("a.yaml", BEFORE), ("b.yaml", AFTER)]);
    let (said, code) = folder.says(&["--check", "a.yaml", "b.yaml"]);
    assert_eq!(code, Some(1));
    assert!(said.starts_with("--- a.yaml\n+++ a.yaml, laid out\n@@"), "{said}");
    assert!(said.contains("\n+listeners: {web: {listen: \":8080\"}}\n"), "{said}");
    assert!(!said.contains("b.yaml"), "{said}");
    assert_eq!(folder.text("a.yaml"), BEFORE);
    assert_eq!(folder.says(&["--check", "b.yaml"]), (String::new(), Some(0)));
}

#[test]
fn a_stream_is_laid_out_too() {
    let folder = Folder::with(&[]);
    let mut child = folder.command(&["-"]);
    let mut child =
        child.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(BEFORE.as_bytes()).unwrap();
    assert_eq!(said(&child.wait_with_output().unwrap()), (AFTER.into(), Some(0)));
}

#[test]
fn what_is_wrong_is_left_alone_and_the_rest_is_not() {
    let unknown = BEFORE.replace("endpoints", "endpoint");
    let torn = BEFORE.replace("[':8080", "[").replace("{prefix", "{{prefix");
    let folder = Folder::with(&[("unknown.yaml", &unknown), ("torn.yaml", &torn), ("right.yaml", BEFORE)]);
    let (said, code) = folder.says(&["unknown.yaml", "torn.yaml", "none.yaml", "right.yaml"]);
    assert_eq!(code, Some(1));
    for words in [
        "did you mean `endpoints`?",
        "naka: unknown.yaml is left as it is",
        "naka: torn.yaml is left as it is",
        "none.yaml: cannot be read",
        "right.yaml: laid out",
    ] {
        assert!(said.contains(words), "{words} is missing in\n{said}");
    }
    assert_eq!((folder.text("unknown.yaml"), folder.text("torn.yaml")), (unknown, torn));
    assert_eq!(folder.text("right.yaml"), AFTER);
}

/// A wrong value is for `check` to say.
#[test]
fn a_wrong_value_is_laid_out() {
    let folder = Folder::with(&[("gateway.yaml", &BEFORE.replace(":8080", ":none"))]);
    assert_eq!(folder.says(&[]).1, Some(0));
    assert_eq!(folder.text("gateway.yaml"), AFTER.replace(":8080", ":none"));
}

#[test]
fn a_secret_is_not_shown() {
    let yaml = "gateway: {admin: {token: hunter2, listen: '127.0.0.1:9901'}}\n";
    let folder = Folder::with(&[("gateway.yaml", yaml)]);
    let (said, code) = folder.says(&["--check"]);
    assert_eq!(code, Some(1));
    assert!(said.contains("token: *******") && !said.contains("hunter2"), "{said}");
    folder.says(&[]);
    assert_eq!(
        folder.text("gateway.yaml"),
        "gateway: {admin: {listen: \"127.0.0.1:9901\", token: hunter2}}\n"
    );
}
