//! Tables and charts of runs, kept in `docs/`: what is written there is what the code of today does.
//!
//! `NAKA_BLESS=1 cargo test --test simulation` writes them.

use std::{fmt::Write as _, fs, path::PathBuf};

use crate::world::Run;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 180.0;
const COLORS: [&str; 5] = ["#0b6e99", "#d9730d", "#0f7b6c", "#ad1a72", "#6b6b6b"];

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
        let lines = runs.iter().map(|run| (run.name, points(run))).collect::<Vec<_>>();
        let file = format!("{}-{name}.svg", self.file);
        write!(self.text, "\n![{what}]({file})\n").unwrap();
        self.charts.push((file, svg(what, &lines)));
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

fn svg(what: &str, lines: &[(&str, Vec<f64>)]) -> String {
    let top = lines.iter().flat_map(|(_, points)| points).copied().fold(1.0, f64::max);
    let count = lines.iter().map(|(_, points)| points.len()).max().unwrap_or(1);
    let x = |place: usize| place_of(place, count) * WIDTH + 50.0;
    let y = |value: f64| HEIGHT - value / top * HEIGHT + 30.0;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n<text x=\"50\" y=\"18\">{what}</text>\n",
        WIDTH + 70.0,
        HEIGHT + 90.0,
    );
    for share in [0.0, 0.5, 1.0] {
        let (at, value) = (y(top * share), top * share);
        writeln!(
            out,
            "<line x1=\"50\" x2=\"{:.0}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#ddd\"/>\
             <text x=\"44\" y=\"{:.1}\" text-anchor=\"end\">{value:.0}</text>",
            WIDTH + 50.0,
            at + 4.0
        )
        .unwrap();
    }
    writeln!(out, "<text x=\"50\" y=\"{:.0}\">0 s</text>", HEIGHT + 48.0).unwrap();
    writeln!(
        out,
        "<text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"end\">{count} s</text>",
        WIDTH + 50.0,
        HEIGHT + 48.0
    )
    .unwrap();
    for (number, (name, points)) in lines.iter().enumerate() {
        let color = COLORS[number % COLORS.len()];
        let points =
            points.iter().enumerate().map(|(place, value)| format!("{:.1},{:.1}", x(place), y(*value)));
        let points = points.collect::<Vec<_>>().join(" ");
        writeln!(
            out,
            "<polyline fill=\"none\" stroke=\"{color}\" stroke-width=\"1.5\" points=\"{points}\"/>"
        )
        .unwrap();
        let left = 50.0 + 180.0 * place_f(number);
        writeln!(out, "<text x=\"{left:.0}\" y=\"{:.0}\" fill=\"{color}\">{name}</text>", HEIGHT + 72.0)
            .unwrap();
    }
    out + "</svg>\n"
}

#[allow(clippy::cast_precision_loss)]
fn place_of(place: usize, count: usize) -> f64 {
    place as f64 / (count.max(2) - 1) as f64
}

#[allow(clippy::cast_precision_loss)]
fn place_f(number: usize) -> f64 {
    number as f64
}
