//! Whether requests should come here: conditions by name, each with the reasons why it does not hold.

use naka::clock::Now;
use serde_json::{Value, json};

use super::{Pulse, Usable};
use crate::generation::Generation;

/// Reasons that are told of one condition.
const TOLD: usize = 20;

/// One condition. It holds if there is no reason why it does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadyCondition {
    /// What it is called.
    pub name: &'static str,
    /// Why it does not hold.
    pub why: Vec<String>,
}

impl ReadyCondition {
    /// Of these reasons the first are kept, and how many more there are.
    pub fn new(name: &'static str, why: impl IntoIterator<Item = String>) -> Self {
        let mut all = why.into_iter();
        let mut why = all.by_ref().take(TOLD).collect::<Vec<_>>();
        let more = all.count();
        if more > 0 {
            why.push(format!("and {more} more"));
        }
        Self { name, why }
    }

    /// Whether it holds.
    pub const fn holds(&self) -> bool {
        self.why.is_empty()
    }
}

/// Each listener of the configuration is accepted from.
pub fn listeners(generation: &Generation, pulse: &Pulse) -> ReadyCondition {
    let all = generation.config.listeners.iter();
    let missing = all.filter(|(_, listener)| !pulse.is_listening(&listener.listen));
    let why = missing.map(|(name, listener)| format!("{name}: nobody accepts at {}", listener.listen));
    ReadyCondition::new("listeners", why)
}

/// Each upstream without which nothing goes has an endpoint that can be used.
pub fn critical_upstreams(generation: &Generation, now: Now) -> ReadyCondition {
    let critical = generation.config.upstreams.iter().filter(|(_, upstream)| upstream.is_critical);
    let usable = critical.map(|(name, _)| (name, Usable::of(generation, name, now)));
    let why =
        usable.filter(|(_, usable)| usable.usable == 0).map(|(name, usable)| format!("{name}: {usable}"));
    ReadyCondition::new("critical_upstreams", why)
}

/// For machines: each by its name.
pub fn to_json(conditions: &[ReadyCondition]) -> Value {
    let all = conditions.iter().map(|it| (it.name.to_owned(), json!({"holds": it.holds(), "why": it.why})));
    Value::Object(all.collect())
}

/// For people: a line each, and what comes of it.
pub fn to_text(conditions: &[ReadyCondition]) -> String {
    let mut text = String::new();
    for it in conditions {
        let (sign, why) = if it.holds() { ("ok", String::new()) } else { ("no", it.why.join("; ")) };
        text += format!("{sign}  {:<20} {why}", it.name).trim_end();
        text.push('\n');
    }
    let is_ready = conditions.iter().all(ReadyCondition::holds);
    text + if is_ready { "ready\n" } else { "not ready\n" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r10_1_people_read_which_condition_fails_and_why() {
        let fine = ReadyCondition::new("listeners", []);
        let bad = ReadyCondition::new("keys", ["a: not fetched".to_owned(), "b: 500".to_owned()]);
        assert_eq!(
            to_text(&[fine.clone(), bad]),
            "ok  listeners\nno  keys                 a: not fetched; b: 500\nnot ready\n"
        );
        assert_eq!(to_text(&[fine]), "ok  listeners\nready\n");
    }

    #[test]
    fn reasons_are_bounded() {
        let many = ReadyCondition::new("keys", (0..100).map(|number| number.to_string()));
        assert_eq!((many.why.len(), many.why.last().unwrap().as_str()), (TOLD + 1, "and 80 more"));
    }
}
