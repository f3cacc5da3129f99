//! Counting what a process does: its instructions by callgrind, its system calls by strace.
#![allow(dead_code, reason = "not each bench counts both")]
#![allow(clippy::unwrap_used, reason = "benches may")]

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

/// What watches a process, and where it writes what it has counted.
pub(crate) enum Counter<'a> {
    Callgrind(&'a Path),
    Strace(&'a Path),
}

impl Counter<'_> {
    /// A program under it; arguments may follow.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(self.program());
        match self {
            Self::Callgrind(counts) => {
                command.args(["--tool=callgrind", "--quiet"]);
                command.arg(format!("--callgrind-out-file={}", counts.display()));
            }
            Self::Strace(counts) => {
                command.args(["-f", "-c", "-o"]).arg(counts);
            }
        }
        command.arg(program);
        command
    }

    fn program(&self) -> &'static str {
        match self {
            Self::Callgrind(_) => "valgrind",
            Self::Strace(_) => "strace",
        }
    }
}

/// Instructions that callgrind has counted.
pub(crate) fn instructions(counts: &Path) -> f64 {
    let said = fs::read_to_string(counts).unwrap();
    let total = said.lines().find_map(|line| line.strip_prefix("totals: ")).unwrap();
    total.trim().parse().unwrap()
}

/// Whether a program is here; says that what needs it is skipped if not.
pub(crate) fn is_here(program: &str) -> bool {
    let is_here = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    let is_here = is_here.is_ok_and(|status| status.success());
    if !is_here {
        println!("skipped: there is no {program} here");
    }
    is_here
}

/// How often each system call was made, as strace has counted.
pub(crate) fn system_calls(counts: &Path) -> Vec<(String, u64)> {
    let said = fs::read_to_string(counts).unwrap();
    let row = |line: &str| {
        let fields = line.split_whitespace().collect::<Vec<_>>();
        // Share, seconds, microseconds each, calls, and errors if there were any.
        Some(((*fields.last()?).to_owned(), fields.get(3)?.parse().ok()?))
    };
    said.lines().filter_map(row).filter(|(name, _)| name != "total").collect()
}
