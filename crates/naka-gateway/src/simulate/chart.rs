//! Lines over time, as a picture: SVG that stands by itself, and is the same on every machine.

use std::fmt::Write as _;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 180.0;
/// What a panel takes: a title above, names below.
const PANEL: f64 = HEIGHT + 90.0;
const COLORS: [&str; 5] = ["#0b6e99", "#d9730d", "#0f7b6c", "#ad1a72", "#6b6b6b"];

/// Lines with one scale.
#[derive(Clone, Debug)]
pub struct Panel {
    /// What they show, and in what unit.
    pub title: String,
    /// The name of each, and its values at equal distances.
    pub lines: Vec<(String, Vec<f64>)>,
}

/// Panels, one above the other, of a time that is `end` long.
pub fn svg(panels: &[Panel], end: &str) -> String {
    let height = PANEL * count(panels.len());
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n",
        WIDTH + 70.0,
    );
    for (number, panel) in panels.iter().enumerate() {
        draw(&mut out, panel, end, PANEL * count(number));
    }
    out + "</svg>\n"
}

/// One panel, whose upper edge is at `above`. Text takes everything that is written.
fn draw(out: &mut String, panel: &Panel, end: &str, above: f64) {
    let top = panel.lines.iter().flat_map(|(_, points)| points).copied().fold(1.0, f64::max);
    let length = panel.lines.iter().map(|(_, points)| points.len()).max().unwrap_or(1);
    let x = |place: usize| count(place) / (count(length.max(2)) - 1.0) * WIDTH + 50.0;
    let y = |value: f64| above + HEIGHT - value / top * HEIGHT + 30.0;
    let _ = writeln!(out, "<text x=\"50\" y=\"{:.0}\">{}</text>", above + 18.0, escaped(&panel.title));
    for share in [0.0, 0.5, 1.0] {
        let (at, value) = (y(top * share), top * share);
        let _ = writeln!(
            out,
            "<line x1=\"50\" x2=\"{:.0}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#ddd\"/>\
             <text x=\"44\" y=\"{:.1}\" text-anchor=\"end\">{value:.0}</text>",
            WIDTH + 50.0,
            at + 4.0
        );
    }
    let below = above + HEIGHT + 48.0;
    let _ = writeln!(out, "<text x=\"50\" y=\"{below:.0}\">0 s</text>");
    let _ = writeln!(
        out,
        "<text x=\"{:.0}\" y=\"{below:.0}\" text-anchor=\"end\">{}</text>",
        WIDTH + 50.0,
        escaped(end)
    );
    for (number, (name, points)) in panel.lines.iter().enumerate() {
        let color = COLORS[number % COLORS.len()];
        let points = points.iter().enumerate();
        let points = points.map(|(place, value)| format!("{:.1},{:.1}", x(place), y(*value)));
        let points = points.collect::<Vec<_>>().join(" ");
        let _ = writeln!(
            out,
            "<polyline fill=\"none\" stroke=\"{color}\" stroke-width=\"1.5\" points=\"{points}\"/>"
        );
        let left = 50.0 + 180.0 * count(number);
        let _ = writeln!(
            out,
            "<text x=\"{left:.0}\" y=\"{:.0}\" fill=\"{color}\">{}</text>",
            above + HEIGHT + 72.0,
            escaped(name)
        );
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[expect(clippy::cast_precision_loss, reason = "nobody draws that many points")]
fn count(number: usize) -> f64 {
    number as f64
}
