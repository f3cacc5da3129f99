//! What the file says of a policy, read by serde; where it is wrong is told in steps from there.

use std::fmt;

use serde_json::Value;
use serde_path_to_error::{Segment, deserialize};

use super::PolicyConfig;

/// Why it cannot be read.
#[derive(Debug)]
pub(crate) struct Wrong {
    pub(crate) steps: Vec<Step>,
    pub(crate) message: String,
}

/// From a value to one in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Key(String),
    Index(usize),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(key) => write!(f, ".{key}"),
            Self::Index(index) => write!(f, "[{index}]"),
        }
    }
}

impl Wrong {
    /// All of it.
    pub(crate) const fn whole(message: String) -> Self {
        Self { steps: Vec::new(), message }
    }
}

pub(super) fn read<C: PolicyConfig>(value: &Value) -> Result<C, Wrong> {
    deserialize(value.clone()).map_err(|error| {
        let step = |segment: &Segment| match segment {
            Segment::Map { key } => Some(Step::Key(key.clone())),
            Segment::Seq { index } => Some(Step::Index(*index)),
            Segment::Enum { variant } => Some(Step::Key(variant.clone())),
            Segment::Unknown => None,
        };
        let steps = error.path().iter().map_while(step).collect();
        Wrong { steps, message: error.into_inner().to_string() }
    })
}
