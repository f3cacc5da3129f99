//! What became of each request, and what servers saw: noted as it happens, and added up at the end.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use http::StatusCode;
use tokio::time::Instant;

use super::since;

/// One request of a client.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Whose: the number of its load.
    pub load: usize,
    /// When it came.
    pub at: Duration,
    /// How long it took.
    pub took: Duration,
    /// What became of it.
    pub end: End,
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// An answer, whole; and what the gateway says of it, if it is its own.
    Answered(StatusCode, Option<Arc<str>>),
    /// Its client lost patience.
    GaveUp,
    /// The connection broke off, or there was none.
    BrokeOff,
}

impl End {
    /// Answered, with a status below 400.
    pub fn is_good(&self) -> bool {
        matches!(self, Self::Answered(status, _) if status.as_u16() < 400)
    }
}

/// One request at a server.
#[derive(Clone, Copy, Debug)]
pub struct Sight {
    /// At which: its number.
    pub server: usize,
    /// When it came.
    pub at: Duration,
    /// When the client's request came of which it is an attempt, or a copy.
    pub of: Duration,
}

/// All that was noted.
#[derive(Debug)]
pub struct Account {
    began: Instant,
    noted: Mutex<Noted>,
}

#[derive(Debug, Default)]
struct Noted {
    asked: Vec<Asked>,
    seen: Vec<Sight>,
    /// Reasons of refusals, each once.
    reasons: Vec<Arc<str>>,
}

impl Account {
    pub(super) fn new(began: Instant) -> Arc<Self> {
        Arc::new(Self { began, noted: Mutex::default() })
    }

    fn noted(&self) -> MutexGuard<'_, Noted> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request has ended that came at `at`.
    pub(super) fn ended(&self, load: usize, at: Instant, end: End) {
        let at = at.saturating_duration_since(self.began);
        let took = since(self.began).saturating_sub(at);
        self.noted().asked.push(Asked { load, at, took, end });
    }

    /// A server sees a request.
    pub(super) fn seen(&self, server: usize, of: Option<Duration>) {
        let at = since(self.began);
        self.noted().seen.push(Sight { server, at, of: of.unwrap_or(at) });
    }

    /// So long after the beginning.
    pub(super) fn at(&self, instant: Instant) -> Duration {
        instant.saturating_duration_since(self.began)
    }

    /// A word, kept once.
    pub(super) fn reason(&self, word: &str) -> Arc<str> {
        let mut noted = self.noted();
        if let Some(known) = noted.reasons.iter().find(|known| &***known == word) {
            return Arc::clone(known);
        }
        let word = Arc::<str>::from(word);
        noted.reasons.push(Arc::clone(&word));
        word
    }

    /// All of it, in the order of coming.
    pub(super) fn take(&self) -> (Vec<Asked>, Vec<Sight>) {
        let Noted { mut asked, seen, .. } = std::mem::take(&mut *self.noted());
        asked.sort_by_key(|it| (it.at, it.load));
        (asked, seen)
    }
}

/// What such a share of them takes no longer than; zero of none.
pub fn quantile(all: &mut [Duration], share: f64) -> Duration {
    all.sort_unstable();
    let Some(last) = all.len().checked_sub(1) else { return Duration::ZERO };
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a place in a list"
    )]
    let place = (last as f64 * share).round() as usize;
    all[place.min(last)]
}
