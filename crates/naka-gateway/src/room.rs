//! Room for a connection that comes when there are as many as may be: one that waits for its next request is closed for it, of those
//! the one that has waited longest. Who has said nothing yet, or only a part of a handshake or a head, waits, too: else it would be they who keep the others out.
//!
//! Whoever has just begun to wait stays: its request may be on its way. Where there is nobody else, or all are at a request, who comes waits for
//! a place, and it is asked again every [`LONG`].

use std::{
    future::{Future, poll_fn},
    pin::pin,
    task::{Poll, ready},
    time::Duration,
};

use tokio::{
    sync::{Notify, futures::Notified},
    time::Instant,
};

use crate::patience::Progress;

/// How long a connection has waited that may be closed.
pub(crate) const LONG: Duration = Duration::from_secs(1);

/// The connections of one worker that may be closed for another, in the order in which they began to wait.
#[derive(Debug, Default)]
pub(crate) struct Room(Notify);

impl Room {
    /// The first of them is asked to go, and does if it has waited for [`LONG`].
    pub(crate) fn make(&self) {
        self.0.notify_one();
    }

    /// Ready when this connection, which waits from now on, is to go.
    pub(crate) async fn wanted(&self) {
        let since = Instant::now();
        loop {
            self.0.notified().await;
            if since.elapsed() >= LONG {
                return;
            }
        }
    }

    /// The same for a connection that waits whenever no request is under way and no answer is still to be sent. Polled whenever the connection is, behind it.
    pub(crate) async fn wanted_of(&self, progress: &Progress) {
        let (mut asked, mut since) = (pin!(None::<Notified<'_>>), None);
        poll_fn(|cx| {
            if !progress.is_waiting() {
                asked.set(None); // If it was just asked, another one is.
                since = None;
                return Poll::Pending;
            }
            let since = *since.get_or_insert_with(Instant::now);
            loop {
                if asked.is_none() {
                    asked.set(Some(self.0.notified()));
                }
                if let Some(asked) = asked.as_mut().as_pin_mut() {
                    ready!(asked.poll(cx));
                }
                asked.set(None);
                if since.elapsed() >= LONG {
                    return Poll::Ready(());
                }
            }
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
    #[tokio::test(start_paused = true)]
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
        room.make();
        yield_now().await;
        yield_now().await;
        assert!(tasks.iter().all(|task| !task.is_finished()), "they have only just begun to wait");
        tokio::time::advance(LONG).await;
        let gone = || tasks.iter().map(tokio::task::JoinHandle::is_finished).collect::<Vec<_>>();
        room.make();
        yield_now().await;
        yield_now().await;
        // Asked in vain before, the first has taken its place behind the other.
        assert_eq!(gone(), [false, false, true]);
        room.make();
        yield_now().await;
        yield_now().await;
        assert_eq!(gone(), [false, true, true]);
        tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }
}
