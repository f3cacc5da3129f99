//! What came of a demonstration: what was checked, row by row, for people and for programs.
//!
//! A row is one of the statements by which the systems are judged, such as `R15.1`. What is checked more than once, such as for each of 21
//! trips, is one line: it has passed if it has passed each time, and its detail says how often, and what was wrong first.

use std::{fs, path::Path, process::ExitCode};

use serde::Serialize;

use crate::kernel::console::{complain, say};

/// A report.
#[derive(Clone, Debug, Default)]
pub struct Report {
    lines: Vec<Counted>,
}

/// A line of it, as it is written as JSON: `{"row": "R15.1", "check": "…", "passed": true, "detail": "…"}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Line {
    /// Which statement it belongs to.
    pub row: &'static str,
    /// What was checked.
    pub check: &'static str,
    /// Whether it is so.
    pub passed: bool,
    /// What was measured; what was wrong.
    pub detail: String,
}

#[derive(Clone, Debug)]
struct Counted {
    row: &'static str,
    check: &'static str,
    times: u32,
    passed: u32,
    said: String,
    wrong: Option<String>,
}

impl Report {
    /// Notes what came of a check: what was measured, or what was wrong.
    pub fn note(&mut self, row: &'static str, check: &'static str, came: Result<String, String>) {
        let known = self.lines.iter().position(|it| (it.row, it.check) == (row, check));
        let at = known.unwrap_or_else(|| {
            let (times, passed, said, wrong) = (0, 0, String::new(), None);
            self.lines.push(Counted { row, check, times, passed, said, wrong });
            self.lines.len() - 1
        });
        let line = &mut self.lines[at];
        line.times += 1;
        match came {
            Ok(said) => {
                line.passed += 1;
                line.said = said;
            }
            Err(wrong) => _ = line.wrong.get_or_insert(wrong),
        }
    }

    /// Puts another report below this one.
    pub fn append(&mut self, other: Self) {
        self.lines.extend(other.lines);
    }

    /// Whether something was checked, and all of it has passed.
    pub fn has_passed(&self) -> bool {
        !self.lines.is_empty() && self.lines.iter().all(|it| it.passed == it.times)
    }

    /// All lines, in the order in which they were first noted.
    pub fn lines(&self) -> Vec<Line> {
        let line = |it: &Counted| {
            let Counted { row, check, times, passed, said, wrong } = it;
            let detail = match wrong {
                None if *times == 1 => said.clone(),
                None => format!("{passed} of {times}"),
                Some(wrong) if *times == 1 => wrong.clone(),
                Some(wrong) => format!("{passed} of {times}; first: {wrong}"),
            };
            Line { row, check, passed: wrong.is_none(), detail }
        };
        self.lines.iter().map(line).collect()
    }

    /// Prints it, writes it to that file as JSON if one is named, and tells how the program ends: 0 if all has passed, else 1.
    pub fn end(&self, program: &str, json: Option<&Path>) -> ExitCode {
        let lines = self.lines();
        for Line { row, check, passed, detail } in &lines {
            let word = if *passed { "pass" } else { "FAIL" };
            let between = if detail.is_empty() { "" } else { ": " };
            say(format_args!("{row:<6} {word}  {check}{between}{detail}"));
        }
        let failed = lines.iter().filter(|line| !line.passed).count();
        say(format_args!("{} checks, {failed} failed", lines.len()));
        if let Some(file) = json {
            let text = serde_json::to_string_pretty(&lines).map_err(|error| error.to_string());
            let written =
                text.and_then(|text| fs::write(file, text + "\n").map_err(|error| error.to_string()));
            if let Err(error) = written {
                complain(format_args!("{program}: {} cannot be written: {error}", file.display()));
                return ExitCode::FAILURE;
            }
        }
        if self.has_passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

/// What is wrong, if it is not so.
///
/// # Errors
/// What is wrong.
pub fn hold(is_so: bool, wrong: impl FnOnce() -> String) -> Result<(), String> {
    if is_so { Ok(()) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_has_passed_if_it_has_passed_each_time() {
        let mut report = Report::default();
        assert!(!report.has_passed(), "nothing was checked");
        report.note("R1", "one", Ok("measured".into()));
        report.note("R2", "many", Ok(String::new()));
        report.note("R2", "many", Ok(String::new()));
        assert!(report.has_passed());
        report.note("R2", "many", Err("first".into()));
        report.note("R2", "many", Err("second".into()));
        assert!(!report.has_passed());
        let lines = report.lines();
        let told = lines.iter().map(|it| (it.row, it.passed, it.detail.as_str())).collect::<Vec<_>>();
        assert_eq!(told, [("R1", true, "measured"), ("R2", false, "2 of 4; first: first")]);
        assert_eq!(report.end("test", None), ExitCode::FAILURE);
    }
}
