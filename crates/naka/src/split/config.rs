//! Which arms there are, who is sent to one whatever the weights say, and when one is held.

use std::{cmp::Reverse, collections::BTreeSet, fmt, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, header::COOKIE};

use super::window::MAX_MIN_REQUESTS;
use crate::{classify::Classifier, hash::stable, reject::Head};

/// The most arms of one split.
pub const MAX_ARMS: usize = 32;
/// The most pins of one split.
pub const MAX_PINS: usize = 64;
/// The largest weight.
pub const MAX_WEIGHT: u32 = 1_000_000;
/// The longest window of a guard.
const MAX_WINDOW: Duration = Duration::from_hours(1);
/// The shortest.
const MIN_WINDOW: Duration = Duration::from_millis(100);

/// What a split is made of; [`check`](Self::check) it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SplitConfig {
    /// Each arm, and its share beside the others'; 0: only who is pinned.
    pub arms: Vec<(Arc<str>, u32)>,
    /// Who is sent where whatever the weights say: the first that applies counts.
    pub pins: Vec<Pin>,
    /// The arm that the others are measured by; default: the one of the largest weight, of several the
    /// first by name.
    pub baseline: Option<Arc<str>>,
    /// When an arm is held; default: only by hand.
    pub guard: Option<Guard>,
    /// What an arm's failures are.
    pub classifier: Classifier,
}

impl SplitConfig {
    /// These arms, and the weight of each.
    pub fn new<N: Into<Arc<str>>>(arms: impl IntoIterator<Item = (N, u32)>) -> Self {
        let arms = arms.into_iter().map(|(name, weight)| (name.into(), weight)).collect();
        Self { arms, pins: Vec::new(), baseline: None, guard: None, classifier: Classifier::new() }
    }

    /// One more pin, behind those there are.
    #[must_use]
    pub fn pin(mut self, pin: Pin) -> Self {
        self.pins.push(pin);
        self
    }

    /// The arm that the others are measured by.
    #[must_use]
    pub fn baseline(mut self, name: &str) -> Self {
        self.baseline = Some(name.into());
        self
    }

    /// When an arm is held.
    #[must_use]
    pub const fn guard(mut self, guard: Guard) -> Self {
        self.guard = Some(guard);
        self
    }

    /// What an arm's failures are.
    #[must_use]
    pub const fn classifier(mut self, classifier: Classifier) -> Self {
        self.classifier = classifier;
        self
    }

    /// Looks whether it can be meant.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(self) -> Result<Splitting, SplitError> {
        for (what, count, max) in [("arms", self.arms.len(), MAX_ARMS), ("pins", self.pins.len(), MAX_PINS)] {
            if count > max {
                return Err(SplitError::TooMany { what, max });
            }
        }
        let mut names = BTreeSet::new();
        for (name, weight) in &self.arms {
            if !names.insert(&**name) {
                return Err(SplitError::Duplicate(Arc::clone(name)));
            }
            if *weight > MAX_WEIGHT {
                return Err(SplitError::Weight(Arc::clone(name)));
            }
        }
        let place = |name: &Arc<str>| {
            let place = self.arms.iter().position(|(known, _)| known == name);
            place.ok_or_else(|| SplitError::UnknownArm(Arc::clone(name)))
        };
        let pins = self.pins.iter().map(|pin| place(&pin.to)).collect::<Result<_, _>>()?;
        let mut order = (0..self.arms.len()).collect::<Vec<_>>();
        // Of those that weigh the same by name: in which order they are written means nothing.
        order.sort_by_key(|place| (Reverse(self.arms[*place].1), &self.arms[*place].0));
        let baseline = match (&self.baseline, order.first()) {
            (Some(name), _) => place(name)?,
            (None, Some(heaviest)) => *heaviest,
            (None, None) => return Err(SplitError::NothingWeighs),
        };
        if self.arms[baseline].1 == 0 {
            let is_named = self.baseline.is_some();
            let name = Arc::clone(&self.arms[baseline].0);
            return Err(if is_named { SplitError::Baseline(name) } else { SplitError::NothingWeighs });
        }
        if let Some(guard) = &self.guard {
            guard.check()?;
        }
        let identities = self.arms.iter().map(|(name, _)| stable(name.as_bytes())).collect();
        Ok(Splitting(Arc::new(Checked { pins, order: order.into(), identities, baseline, config: self })))
    }
}

/// When an arm is held: if its share of failures is above the baseline's by more than it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Guard {
    /// By how much it may be above, in hundredths of a percent: 100 is one percentage point.
    pub error_rate_bp: u32,
    /// How many requests there have to be of either in the window; default 500.
    pub min_requests: u32,
    /// How long a result counts; default a minute.
    pub window: Duration,
}

impl Guard {
    /// An arm may be above by so many hundredths of a percent.
    pub const fn new(error_rate_bp: u32) -> Self {
        Self { error_rate_bp, min_requests: 500, window: Duration::from_mins(1) }
    }

    /// How many requests there have to be of either in the window.
    #[must_use]
    pub const fn min_requests(mut self, min_requests: u32) -> Self {
        self.min_requests = min_requests;
        self
    }

    /// How long a result counts.
    #[must_use]
    pub const fn window(mut self, window: Duration) -> Self {
        self.window = window;
        self
    }

    fn check(&self) -> Result<(), SplitError> {
        let is_in_range = self.error_rate_bp <= 10_000
            && (1..=MAX_MIN_REQUESTS).contains(&self.min_requests)
            && (MIN_WINDOW..=MAX_WINDOW).contains(&self.window);
        if is_in_range { Ok(()) } else { Err(SplitError::Guard(*self)) }
    }
}

/// Who is sent to one arm, whatever the weights say.
#[derive(Clone)]
pub struct Pin {
    who: Who,
    to: Arc<str>,
}

type Says = dyn Fn(&Head<'_>) -> bool + Send + Sync;

#[derive(Clone)]
enum Who {
    Header(HeaderName, HeaderValue),
    Cookie(Arc<str>, Arc<str>),
    Says(Arc<Says>),
}

impl Pin {
    /// Whoever sends this header with this value, in any of its lines.
    pub fn header(name: HeaderName, value: HeaderValue, to: &str) -> Self {
        Self { who: Who::Header(name, value), to: to.into() }
    }

    /// Whoever sends this cookie with this value.
    pub fn cookie(name: &str, value: &str, to: &str) -> Self {
        Self { who: Who::Cookie(name.into(), value.into()), to: to.into() }
    }

    /// Whoever this function says.
    pub fn when(who: impl Fn(&Head<'_>) -> bool + Send + Sync + 'static, to: &str) -> Self {
        Self { who: Who::Says(Arc::new(who)), to: to.into() }
    }

    pub(super) fn applies(&self, head: &Head<'_>) -> bool {
        match &self.who {
            Who::Header(name, value) => head.headers.get_all(name).iter().any(|line| line == value),
            Who::Cookie(name, value) => has_cookie(head.headers, name, value),
            Who::Says(who) => who(head),
        }
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let who = match &self.who {
            Who::Header(name, _) => format!("header {name}"),
            Who::Cookie(name, _) => format!("cookie {name}"),
            Who::Says(_) => "whoever a function says".into(),
        };
        f.debug_struct("Pin").field("who", &who).field("to", &self.to).finish()
    }
}

/// Pairs are taken as they are (RFC 6265, 5.4): there is no quoting to undo.
fn has_cookie(headers: &HeaderMap, name: &str, value: &str) -> bool {
    let lines = headers.get_all(COOKIE).into_iter().map(HeaderValue::as_bytes);
    let mut pairs = lines.flat_map(|line| line.split(|byte| *byte == b';')).map(<[u8]>::trim_ascii);
    pairs.any(|pair| {
        let rest = pair.strip_prefix(name.as_bytes()).and_then(|rest| rest.strip_prefix(b"="));
        rest == Some(value.as_bytes())
    })
}

/// What is wrong with a split.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SplitError {
    /// There is more than there may be.
    TooMany {
        /// Of what.
        what: &'static str,
        /// How much there may be.
        max: usize,
    },
    /// Two arms of one name.
    Duplicate(Arc<str>),
    /// This arm's weight is larger than [`MAX_WEIGHT`].
    Weight(Arc<str>),
    /// Nobody has a weight, so nobody could be sent anywhere.
    NothingWeighs,
    /// A pin or the baseline names an arm that is not there.
    UnknownArm(Arc<str>),
    /// The baseline has no weight: if all others were held, nobody could be sent anywhere.
    Baseline(Arc<str>),
    /// This guard is out of range.
    Guard(Guard),
}

impl fmt::Display for SplitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooMany { what, max } => write!(f, "more than {max} {what}"),
            Self::Duplicate(name) => write!(f, "two arms are called `{name}`"),
            Self::Weight(name) => write!(f, "the weight of `{name}` is more than {MAX_WEIGHT}"),
            Self::NothingWeighs => f.write_str("no arm has a weight above 0"),
            Self::UnknownArm(name) => write!(f, "there is no arm `{name}`"),
            Self::Baseline(name) => write!(f, "the baseline `{name}` needs a weight above 0"),
            Self::Guard(_) => write!(
                f,
                "a guard has an error rate of at most 100 %, 1 to {MAX_MIN_REQUESTS} requests, and a window of 100 ms to 1 h"
            ),
        }
    }
}

impl std::error::Error for SplitError {}

/// A [`SplitConfig`] that cannot be wrong. Clones are one.
#[derive(Clone, Debug)]
pub struct Splitting(pub(super) Arc<Checked>);

impl Splitting {
    /// As it was written.
    pub fn config(&self) -> &SplitConfig {
        &self.0.config
    }

    /// The arm that the others are measured by.
    pub fn baseline(&self) -> &Arc<str> {
        &self.0.config.arms[self.0.baseline].0
    }
}

#[derive(Debug)]
pub(super) struct Checked {
    pub(super) config: SplitConfig,
    /// Where each pin leads.
    pub(super) pins: Box<[usize]>,
    /// The arms by weight, the heaviest first.
    pub(super) order: Box<[usize]>,
    /// Hashes of their names.
    pub(super) identities: Box<[u64]>,
    pub(super) baseline: usize,
}
