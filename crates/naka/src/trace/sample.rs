//! Which traces are recorded.

use super::{Context, Extracted, Ids, TraceId};

/// Bits of a trace's number that were drawn at random (Trace Context, level 2, section 3.2.2.3.2).
const BITS: u32 = 56;

/// Which of the traces that begin here are recorded: by their numbers, so that whoever asks the same of the same trace says the same
/// (OpenTelemetry, "Probability Sampling": a trace is recorded if its 56 random bits are not below a threshold). Of what others have
/// begun and is believed, they have decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sampler {
    /// The least random bits that are recorded; 2⁵⁶ records nothing.
    threshold: u64,
}

impl Sampler {
    /// All of them.
    pub const ALWAYS: Self = Self { threshold: 0 };
    /// None of them.
    pub const NEVER: Self = Self { threshold: 1 << BITS };

    /// So many of a million; more than that are all.
    #[expect(clippy::cast_possible_truncation, reason = "it is at most two to the power of 56")]
    pub const fn per_million(share: u32) -> Self {
        let left_out = 1_000_000 - if share > 1_000_000 { 1_000_000 } else { share };
        Self { threshold: (((left_out as u128) << BITS) / 1_000_000) as u64 }
    }

    /// Whether this trace is recorded.
    #[expect(clippy::cast_possible_truncation, reason = "the lowest bits are meant")]
    pub const fn takes(self, trace: TraceId) -> bool {
        let bits = trace.0.get() as u64 & ((1 << BITS) - 1);
        bits >= self.threshold
    }

    /// The span of a request that says this, and the one that it was asked from.
    pub fn begin(self, said: Option<Extracted>, ids: &Ids) -> (Context, Option<super::SpanId>) {
        match said {
            Some(Extracted::Span(parent, decision)) => {
                let is_sampled = decision.unwrap_or_else(|| self.takes(parent.trace));
                (Context { is_sampled, ..parent.child(ids) }, Some(parent.span))
            }
            Some(Extracted::Decision(is_sampled)) => (Context::root(ids, is_sampled), None),
            None => {
                let root = Context::root(ids, false);
                (Context { is_sampled: self.takes(root.trace), ..root }, None)
            }
        }
    }
}

/// Of the traces that begin here, all.
impl Default for Sampler {
    fn default() -> Self {
        Self::ALWAYS
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Seeded;

    #[test]
    fn r8_5_so_many_are_recorded_and_the_same_ones_by_everybody() {
        let _seeded = Seeded::by(7);
        let ids = Ids::new();
        let traces = (0..100_000).map(|_| ids.trace()).collect::<Vec<_>>();
        let count = |sampler: Sampler| traces.iter().filter(|trace| sampler.takes(**trace)).count();
        assert_eq!([count(Sampler::ALWAYS), count(Sampler::per_million(2_000_000))], [traces.len(); 2]);
        assert_eq!([count(Sampler::NEVER), count(Sampler::per_million(0))], [0, 0]);
        let few = count(Sampler::per_million(50_000));
        assert!((4_700..5_300).contains(&few), "{few}"); // Four standard deviations.
        let (five, ten) = (Sampler::per_million(50_000), Sampler::per_million(100_000));
        assert!(traces.iter().all(|trace| !five.takes(*trace) || ten.takes(*trace)));
    }

    #[test]
    fn r8_5_who_has_begun_a_trace_has_decided() {
        let ids = Ids::new();
        let parent = Context::root(&ids, true);
        let span = |decision| Some(Extracted::Span(parent.clone(), decision));
        for (said, sampler, is_sampled, is_child) in [
            (span(Some(true)), Sampler::NEVER, true, true),
            (span(Some(false)), Sampler::ALWAYS, false, true),
            (span(None), Sampler::ALWAYS, true, true),
            (span(None), Sampler::NEVER, false, true),
            (Some(Extracted::Decision(true)), Sampler::NEVER, true, false),
            (Some(Extracted::Decision(false)), Sampler::ALWAYS, false, false),
            (None, Sampler::ALWAYS, true, false),
            (None, Sampler::NEVER, false, false),
        ] {
            let (context, from) = sampler.begin(said.clone(), &ids);
            assert_eq!(context.is_sampled, is_sampled, "{said:?}");
            assert_eq!(from, is_child.then_some(parent.span), "{said:?}");
            assert_eq!(context.trace == parent.trace, is_child, "{said:?}");
            assert_ne!(context.span, parent.span);
        }
    }
}
