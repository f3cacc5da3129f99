//! A body that its client sends too slowly.

use std::{
    error::Error,
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::Frame;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::{pace::Pace, patience::Progress};

/// How many times as long as alone a request may wait before anything of it has come, however many share its connection.
const STRETCH: u8 = 4;

/// How slowly a body comes, and until when it may.
#[derive(Debug)]
pub(super) struct Paced {
    pace: Pace,
    /// Since when more of it is waited for.
    since: Option<Instant>,
    /// Made when it is first needed.
    alarm: Option<Pin<Box<Sleep>>>,
}

impl Paced {
    pub(super) const fn new(progress: &Progress) -> Self {
        Self { pace: progress.pace(), since: None, alarm: None }
    }

    /// Looks at what came of asking for more; once the request is answered, it takes as long as it takes.
    ///
    /// Of requests that share a connection each has its part of it, so it may take as much longer; what it may wait before anything has
    /// come is up to [`STRETCH`] times as long, and no more: that many silent requests would be held for nothing.
    pub(super) fn look<E>(
        &mut self,
        progress: &Progress,
        frame: &Poll<Option<Result<Frame<Bytes>, E>>>,
        is_answered: impl Fn() -> bool,
        cx: &mut Context<'_>,
    ) -> Result<(), TooSlow> {
        let Some(left) = self.pace.left() else { return Ok(()) };
        if let Poll::Ready(frame) = frame {
            let bytes = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref());
            let waited = self.since.take().map(|since| since.elapsed()).unwrap_or_default();
            let (shares, stretch) = (progress.shares(), stretch(progress));
            let share = usize::try_from(shares).unwrap_or(usize::MAX).div_ceil(usize::from(stretch));
            self.pace.moved(waited / u32::from(stretch), bytes.map_or(0, Bytes::len).saturating_mul(share));
            return Ok(());
        }
        let due = *self.since.get_or_insert_with(Instant::now) + left * u32::from(stretch(progress));
        if is_answered() {
            return Ok(());
        }
        let alarm = self.alarm.get_or_insert_with(|| Box::pin(sleep_until(due)));
        if alarm.deadline() != due {
            alarm.as_mut().reset(due);
        }
        let is_late = alarm.as_mut().poll(cx).is_ready() && !is_answered();
        if is_late { Err(TooSlow) } else { Ok(()) }
    }
}

/// How many times as long a request may wait that shares its connection.
fn stretch(progress: &Progress) -> u8 {
    u8::try_from(progress.shares()).map_or(STRETCH, |shares| shares.min(STRETCH))
}

/// Too little of a body came for too long.
#[derive(Clone, Copy, Debug)]
pub(super) struct TooSlow;

impl fmt::Display for TooSlow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the request's body comes too slowly (limits.min_rate of the listener)")
    }
}

impl Error for TooSlow {}

/// Whether that is what an error comes from.
pub(super) fn is_too_slow(error: &(dyn Error + 'static)) -> bool {
    error.is::<TooSlow>() || error.source().is_some_and(is_too_slow)
}
