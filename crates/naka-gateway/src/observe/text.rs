//! The two forms of the text: OpenMetrics 1.0, and what Prometheus read before (0.0.4).
//!
//! prometheus-client writes the first, without exemplars of histograms that are not its own. What is other in the second:
//! counters are called as their one series is (`…_total`), also in `TYPE` and `HELP`; there is no `UNIT`, no exemplar and no
//! end.

use std::{
    cell::RefCell,
    collections::VecDeque,
    fmt::{self, Write},
};

use http::{HeaderMap, header::ACCEPT};
use prometheus_client::{
    encoding::text::{encode_eof, encode_registry},
    registry::Registry,
};

use super::histogram::Exemplar;

/// A form of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// What Prometheus read before that, and everybody else reads: 0.0.4.
    Prometheus,
}

const OPEN_METRICS: &str = "application/openmetrics-text";

impl Format {
    /// What is asked for: OpenMetrics only from who says so, in a version that this is, and would not rather have text
    /// (RFC 9110, section 12.5.1).
    pub fn asked(headers: &HeaderMap) -> Self {
        let fields = headers.get_all(ACCEPT).iter().filter_map(|field| field.to_str().ok());
        let (mut open_metrics, mut plain) = (0.0, 0.0_f64);
        for range in fields.flat_map(|field| field.split(',')) {
            let mut parts = range.split(';').map(str::trim);
            let name = parts.next().unwrap_or_default();
            let (mut quality, mut is_ours) = (1.0_f64, true);
            for (key, value) in parts.filter_map(|part| part.split_once('=')) {
                match (key.trim_end(), value.trim().trim_matches('"')) {
                    ("q" | "Q", value) => quality = value.parse().unwrap_or(0.0),
                    ("version", value) => is_ours = matches!(value, "1.0.0" | "0.0.1"),
                    _ => {}
                }
            }
            if name.eq_ignore_ascii_case(OPEN_METRICS) && is_ours {
                open_metrics = quality.max(open_metrics);
            } else if name.eq_ignore_ascii_case("text/plain") {
                plain = quality.max(plain);
            }
        }
        if open_metrics > 0.0 && open_metrics >= plain { Self::OpenMetrics } else { Self::Prometheus }
    }

    /// What it is called in `Content-Type`.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// All metrics of a registry.
pub(super) fn render(registry: &Registry, format: Format) -> String {
    let mut text = Text { written: String::new(), line: 0, help: 0, format };
    ANNOUNCED.set((format == Format::OpenMetrics).then(VecDeque::new));
    let written = encode_registry(&mut text, registry).and_then(|()| match format {
        Format::OpenMetrics => encode_eof(&mut text),
        Format::Prometheus => Ok(()),
    });
    ANNOUNCED.set(None);
    written.expect("a String takes every write");
    text.written
}

thread_local! {
    /// The exemplars of the buckets that are written next on this thread, if anybody wants them.
    static ANNOUNCED: RefCell<Option<VecDeque<Option<Exemplar>>>> = const { RefCell::new(None) };
}

/// Says which exemplars belong to the buckets that are written next; asked for only if they are shown.
pub(super) fn announce<const N: usize>(exemplars: impl FnOnce() -> [Option<Exemplar>; N]) {
    ANNOUNCED.with_borrow_mut(|announced| {
        if let Some(announced) = announced {
            announced.extend(exemplars());
        }
    });
}

/// Takes what prometheus-client writes, which is whole lines with their ends last in a piece.
struct Text {
    written: String,
    /// Where the line begins that is being written.
    line: usize,
    /// Where the last `HELP` began, which is before its `TYPE`.
    help: usize,
    format: Format,
}

impl Write for Text {
    fn write_str(&mut self, piece: &str) -> fmt::Result {
        self.written.push_str(piece);
        if piece.ends_with('\n') {
            self.end_line();
        }
        Ok(())
    }
}

impl Text {
    fn end_line(&mut self) {
        match (self.format, &self.written[self.line..]) {
            (Format::OpenMetrics, sample) if is_bucket(sample) => self.add_exemplar(),
            (Format::Prometheus, line) if line.starts_with("# HELP ") => self.help = self.line,
            (Format::Prometheus, line) if line.starts_with("# TYPE ") && line.ends_with(" counter\n") => {
                self.name_total();
            }
            (Format::Prometheus, line) if line.starts_with("# UNIT ") => self.written.truncate(self.line),
            _ => {}
        }
        self.line = self.written.len();
    }

    fn add_exemplar(&mut self) {
        let next = ANNOUNCED.with_borrow_mut(|announced| announced.as_mut()?.pop_front()?);
        let Some(Exemplar { trace, took, at }) = next else { return };
        self.written.pop(); // The end of the line.
        let (took, at) = (took.as_secs_f64(), at.as_secs_f64());
        writeln!(self.written, " # {{trace_id=\"{trace}\"}} {took:?} {at:.3}")
            .expect("a String takes every write");
    }

    /// `# HELP name …` and `# TYPE name counter` are of `name_total`.
    fn name_total(&mut self) {
        let head = self.written.split_off(self.help);
        for line in head.lines() {
            let mut words = line.splitn(4, ' ');
            let [hash, what, name, rest] = [(); 4].map(|()| words.next().unwrap_or_default());
            writeln!(self.written, "{hash} {what} {name}_total {rest}").expect("a String takes every write");
        }
    }
}

/// Whether a line is the sample of a bucket.
fn is_bucket(line: &str) -> bool {
    let end = line.find(['{', ' ']).unwrap_or(line.len());
    !line.starts_with('#') && line[..end].ends_with("_bucket")
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use prometheus_client::{
        metrics::{counter::Counter, family::Family, gauge::Gauge},
        registry::Unit,
    };

    use super::*;

    fn asked(accept: &'static str) -> Format {
        Format::asked(&HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(accept))]))
    }

    #[test]
    fn open_metrics_is_for_who_asks_for_it() {
        assert_eq!(Format::asked(&HeaderMap::new()), Format::Prometheus);
        for accept in [
            // As Prometheus 2 asks, and 3.
            "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,text/plain;version=0.0.4;q=0.4,*/*;q=0.2",
            "Application/OpenMetrics-Text; version=\"1.0.0\"",
            "application/openmetrics-text",
        ] {
            assert_eq!(asked(accept), Format::OpenMetrics, "{accept}");
        }
        for accept in [
            "*/*",
            "text/plain",
            "application/openmetrics-text;version=2.0.0",
            "application/openmetrics-text;q=0",
            "application/openmetrics-text;q=often",
            "application/openmetrics-text;q=0.5,text/plain",
            ",;=,q=1",
        ] {
            assert_eq!(asked(accept), Format::Prometheus, "{accept}");
        }
    }

    #[test]
    fn what_prometheus_read_before_has_other_names_and_no_end() {
        let mut registry = Registry::with_prefix("naka");
        let odd = Family::<Vec<(&str, &str)>, Counter>::default();
        odd.get_or_create(&vec![("path", "a\n\"\\ # {b}")]).inc();
        registry.register("requests", "Requests", odd);
        registry.register_with_unit("size", "How large", Unit::Bytes, Gauge::<i64>::default());
        let expected = "# HELP naka_requests Requests.\n\
            # TYPE naka_requests counter\n\
            naka_requests_total{path=\"a\\n\\\"\\\\ # {b}\"} 1\n\
            # HELP naka_size_bytes How large.\n\
            # TYPE naka_size_bytes gauge\n\
            # UNIT naka_size_bytes bytes\n\
            naka_size_bytes 0\n\
            # EOF\n";
        assert_eq!(render(&registry, Format::OpenMetrics), expected);
        let expected = "# HELP naka_requests_total Requests.\n\
            # TYPE naka_requests_total counter\n\
            naka_requests_total{path=\"a\\n\\\"\\\\ # {b}\"} 1\n\
            # HELP naka_size_bytes How large.\n\
            # TYPE naka_size_bytes gauge\n\
            naka_size_bytes 0\n";
        assert_eq!(render(&registry, Format::Prometheus), expected);
    }
}
