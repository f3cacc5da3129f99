//! Tables and charts of runs, kept in `docs/`: what is written there is what the code of today does.
//!
//! `NAKA_BLESS=1 cargo test --test simulation` writes them.

use std::{fmt::Write as _, fs, path::PathBuf};

use naka_gateway::simulate::chart::{Panel, svg};

use crate::world::Run;

/// One scenario, as it is written down.
pub(crate) struct Report {
    file: &'static str,
    text: String,
    charts: Vec<(String, String)>,
}

impl Report {
    pub(crate) fn new(file: &'static str, title: &str, what: &str) -> Self {
        let text = format!("# {title}\n\n{what}\n");
        Self { file, text, charts: Vec::new() }
    }

    pub(crate) fn table(&mut self, head: &[&str], rows: &[Vec<String>]) {
        let line = |cells: Vec<&str>| format!("| {} |\n", cells.join(" | "));
        self.text.push('\n');
        self.text += &line(head.to_vec());
        self.text += &line(head.iter().map(|_| "---").collect());
        for row in rows {
            self.text += &line(row.iter().map(String::as_str).collect());
        }
    }

    /// One line for each run, over its seconds.
    pub(crate) fn chart(
        &mut self,
        name: &str,
        what: &str,
        runs: &[&Run],
        value: impl Fn(&Run, usize) -> f64,
    ) {
        let points = |run: &Run| (0..run.seconds.len()).map(|second| value(run, second)).collect::<Vec<_>>();
        let lines = runs.iter().map(|run| (run.name.to_owned(), points(run)));
        let file = format!("{}-{name}.svg", self.file);
        write!(self.text, "\n![{what}]({file})\n").unwrap();
        let (lines, seconds) = (lines.collect(), runs.iter().map(|run| run.seconds.len()).max().unwrap_or(1));
        let panel = Panel { title: what.to_owned(), lines };
        self.charts.push((file, svg(&[panel], &format!("{seconds} s"))));
    }

    /// Compares it with what is written, or writes it.
    pub(crate) fn check(self) {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/simulation");
        let files = self.charts.into_iter().chain([(format!("{}.md", self.file), self.text)]);
        for (name, text) in files {
            let path = folder.join(&name);
            if std::env::var_os("NAKA_BLESS").is_some() {
                fs::create_dir_all(&folder).unwrap();
                fs::write(path, text).unwrap();
            } else {
                let written = fs::read_to_string(&path).unwrap_or_default();
                assert!(
                    written == text,
                    "docs/simulation/{name} is not what happens now (NAKA_BLESS=1 writes it); now:\n{text}"
                );
            }
        }
    }
}
