//! Tells other services what has become of a ride: later if need be, more than once perhaps, but surely.
//!
//! # Algorithm
//! A transactional outbox (C. Richardson, "Microservices Patterns", 2018, section 3.3.2) of *what has changed*
//! rather than of messages: the ride as it is when it is sent, with its version, so that the receiver can
//! tell older news from newer. An entry goes away once the receiver has taken what is in force.
//!
//! # Bounds
//! An entry for each ride and destination, however often the ride changes. A destination that does not answer is tried
//! again after [`FIRST_PAUSE`], twice as long each time, at most [`LONGEST_PAUSE`]; the others do not wait for it.

use std::{sync::Arc, time::Duration};

use axum::http::Method;
use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};

use super::record::{Destination, Record, Ride};
use crate::{
    driver::Released,
    kernel::{
        console::complain,
        peer::{Peer, Unavailable},
        store::StoreError,
    },
    rules::ride::State,
    tracking::Seen,
};

/// How long a destination is left alone that did not answer.
pub const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// How long it is left alone after many attempts.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// How long a request waits for others to hear of what it did.
const LINGER: Duration = Duration::from_millis(250);

/// How often an outbox is looked at that another process may have written to.
const LOOK: Duration = Duration::from_secs(5);

/// Tells the driver and the tracking service.
#[derive(Clone, Debug)]
pub struct Outbox {
    record: Record,
    driver: Peer,
    tracking: Peer,
    news: Arc<[Notify; 2]>,
}

#[derive(Debug)]
enum Untold {
    Unavailable(Unavailable),
    Store(StoreError),
}

impl Outbox {
    /// With the rides of a record.
    pub fn new(record: Record, driver: Peer, tracking: Peer) -> Self {
        Self { record, driver, tracking, news: Arc::default() }
    }

    /// Tells of this ride now, and waits for that a moment; [`run`](Self::run) does what is left.
    pub async fn tell(&self, ride: &Ride) {
        let all = async {
            let (driver, tracking) = tokio::join!(
                self.tell_one(Destination::Driver, ride),
                self.tell_one(Destination::Tracking, ride)
            );
            driver.and(tracking)
        };
        if !matches!(timeout(LINGER, all).await, Ok(Ok(()))) {
            self.news.iter().for_each(Notify::notify_one);
        }
    }

    async fn tell_one(&self, of: Destination, ride: &Ride) -> Result<(), Untold> {
        if self.record.has_news(of, &ride.ride_id).await.map_err(Untold::Store)? {
            self.send(of, ride).await?;
        }
        Ok(())
    }

    /// Tells everything, for ever.
    pub async fn run(self) {
        let [driver, tracking] = Destination::ALL.map(|of| self.serve(of));
        tokio::join!(driver, tracking);
    }

    async fn serve(&self, of: Destination) {
        let news = &self.news[usize::from(of == Destination::Tracking)];
        let mut pause = FIRST_PAUSE;
        loop {
            let told = match self.record.next_news(of).await {
                Ok(Some(ride)) => self.send(of, &ride).await,
                Ok(None) => {
                    _ = timeout(LOOK, news.notified()).await;
                    continue;
                }
                Err(error) => Err(Untold::Store(error)),
            };
            pause = match told {
                Ok(()) => FIRST_PAUSE,
                Err(untold) => {
                    if pause == FIRST_PAUSE {
                        complain(untold.why()); // Once for each outage.
                    }
                    sleep(pause).await;
                    (pause * 2).min(LONGEST_PAUSE)
                }
            };
        }
    }

    async fn send(&self, of: Destination, ride: &Ride) -> Result<(), Untold> {
        let answer = match of {
            Destination::Driver => {
                let at = (ride.state == State::Completed).then_some(ride.drop);
                let path = format!("/assignments/{}/release", ride.ride_id);
                self.driver.ask(Method::POST, &path, Some(&Released { at })).await
            }
            Destination::Tracking => {
                let path = format!("/rides/{}", ride.ride_id);
                self.tracking.ask(Method::PUT, &path, seen(ride).as_ref()).await
            }
        };
        let peer = if of == Destination::Driver { &self.driver } else { &self.tracking };
        let answer = answer.map_err(Untold::Unavailable)?;
        if !answer.status.is_success() {
            self.record.put_back(of, &ride.ride_id).await.map_err(Untold::Store)?; // The others go first.
            return Err(Untold::Unavailable(peer.unexpected(&answer)));
        }
        self.record.told(of, &ride.ride_id, ride.version).await.map_err(Untold::Store)
    }
}

/// What there is to see of a ride; nothing, if no driver was ever bound to it.
fn seen(ride: &Ride) -> Option<Seen> {
    let Ride { rider, version, state, changed_at, driver, pickup, drop, minutes, .. } = ride.clone();
    Some(Seen { rider, version, state, since: changed_at, driver: driver?, pickup, drop, minutes })
}

impl Untold {
    fn why(&self) -> String {
        match self {
            Self::Unavailable(it) => it.to_string(),
            Self::Store(it) => it.to_string(),
        }
    }
}
