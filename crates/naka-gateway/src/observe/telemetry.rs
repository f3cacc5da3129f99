//! What became of what is told about requests.

use std::sync::atomic::Ordering::Relaxed;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use super::Metrics;

/// Of spans and of lines of the access log.
#[derive(Debug, Default)]
pub(super) struct TelemetryMetrics {
    spans: Family<ResultLabels, Counter>,
    lines: Family<ResultLabels, Counter>,
    waiting: Family<WaitingLabels, Gauge>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabels {
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WaitingLabels {
    what: &'static str,
}

/// How many of something were passed on, had no room, and were lost on the way; and the bytes of those that wait.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Passed {
    pub(crate) done: u64,
    pub(crate) dropped: u64,
    pub(crate) failed: u64,
    pub(crate) waiting: usize,
}

impl TelemetryMetrics {
    /// All at zero.
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register("spans", "Spans, by what became of them", self.spans.clone());
        registry.register(
            "access_log_lines",
            "Lines of the access log, by what became of them",
            self.lines.clone(),
        );
        registry.register(
            "telemetry_waiting_bytes",
            "What waits to be sent to the collector, or to be written into the log",
            self.waiting.clone(),
        );
        self.say(Passed::default(), Passed::default());
    }

    fn say(&self, spans: Passed, lines: Passed) {
        let each = |family: &Family<ResultLabels, Counter>, done, passed: Passed| {
            for (result, count) in
                [(done, passed.done), ("dropped", passed.dropped), ("failed", passed.failed)]
            {
                family.get_or_create(&ResultLabels { result }).inner().store(count, Relaxed);
            }
        };
        each(&self.spans, "exported", spans);
        each(&self.lines, "written", lines);
        for (what, bytes) in [("spans", spans.waiting), ("access_log", lines.waiting)] {
            let gauge = self.waiting.get_or_create(&WaitingLabels { what });
            gauge.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        }
    }
}

impl Metrics {
    /// Says what became of spans and of lines of the access log, of the collector and the file that are named now.
    pub(crate) fn telemetry(&self, spans: Passed, lines: Passed) {
        self.telemetry.say(spans, lines);
    }
}
