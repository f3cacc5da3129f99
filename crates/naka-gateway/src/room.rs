//! Room for a connection that comes when there are as many as may be: one that waits for its next request is closed for it, of those
//! the one that has waited longest. Who has said nothing yet, or only a part of a head, waits, too: else it would be they who keep the others out.
//!
//! Where all are at a request, nobody goes, and who comes waits for a place.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    task::Poll,
};

use tokio::sync::{Notify, futures::Notified};

use crate::patience::Progress;

/// The connections of one worker that may be closed for another, in the order in which they began to wait.
#[derive(Debug, Default)]
pub(crate) struct Room(Notify);

impl Room {
    /// One of them is asked to go. If there is none, the next one that begins to wait is.
    pub(crate) fn make(&self) {
        self.0.notify_one();
    }

    /// Ready when this connection, which waits, is to go.
    pub(crate) fn wanted(&self) -> Notified<'_> {
        self.0.notified()
    }

    /// The same for a connection that waits whenever no request is under way and no answer is still to be sent. Polled whenever the connection is, behind it.
    pub(crate) async fn wanted_of(&self, progress: &Progress) {
        let mut waiting = pin!(None::<Notified<'_>>);
        poll_fn(|cx| {
            if !progress.is_waiting() {
                waiting.set(None); // If it was just asked, another one is.
                return Poll::Pending;
            }
            if waiting.is_none() {
                waiting.set(Some(self.0.notified()));
            }
            waiting.as_mut().as_pin_mut().map_or(Poll::Pending, |waiting| waiting.poll(cx))
        })
        .await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::task::yield_now;

    use super::*;
    use crate::patience::Patience;

    fn progress() -> std::sync::Arc<Progress> {
        let long = Duration::from_mins(1);
        Progress::new(Patience { request_headers: long, idle: long, min_rate: None })
    }

    /// Whoever is at a request stays; of the others goes who has waited longest.
    #[tokio::test]
    async fn who_has_waited_longest_goes_and_who_is_at_a_request_stays() {
        let room = std::sync::Arc::new(Room::default());
        let (busy, idle) = (progress(), [progress(), progress()]);
        busy.begin();
        let mut tasks = Vec::new();
        for progress in [&busy, &idle[0], &idle[1]] {
            let (room, progress) = (std::sync::Arc::clone(&room), std::sync::Arc::clone(progress));
            tasks.push(tokio::spawn(async move { room.wanted_of(&progress).await }));
            yield_now().await;
        }
        let gone = || tasks.iter().map(tokio::task::JoinHandle::is_finished).collect::<Vec<_>>();
        room.make();
        yield_now().await;
        yield_now().await;
        assert_eq!(gone(), [false, true, false]);
        room.make();
        yield_now().await;
        yield_now().await;
        assert_eq!(gone(), [false, true, true]);
        tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }
}
