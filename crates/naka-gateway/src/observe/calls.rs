//! What became of the calls of a composition.

use naka::{compose::Called, observe::Observer};
use prometheus_client::{encoding::EncodeLabelSet, metrics::counter::Counter};

use super::Name;

/// What becomes of a call.
pub(super) const OUTCOMES: [&str; 5] = ["answered", "failed", "shared", "not_made", "cancelled"];

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, EncodeLabelSet)]
pub(super) struct CallLabels {
    pub(super) route: Name,
    pub(super) call: Name,
    pub(super) outcome: &'static str,
}

/// The handles of the calls of one route, as its plan counts them.
#[derive(Clone, Debug, Default)]
pub struct CallMetrics(pub(super) Vec<[Counter; OUTCOMES.len()]>);

impl Observer for CallMetrics {
    fn called(&self, call: usize, called: Called) {
        let outcome = match called {
            Called::Answered => 0,
            Called::Failed(_) => 1,
            Called::Shared => 2,
            Called::NotMade => 3,
            _ => 4,
        };
        if let Some(counters) = self.0.get(call) {
            counters[outcome].inc();
        }
    }
}
