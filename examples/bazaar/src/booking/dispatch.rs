//! From a request to a driver: the one place where two services have to agree.
//!
//! # Algorithm
//! A ride goes forward in steps, each of which may be done again with the same result, so that a crash or a
//! lost answer between any two of them costs nothing but to go on where the record says:
//!
//! 1. The ride is written down as requested. (The record does this before anybody comes here.)
//! 2. The driver service **holds** a driver for its id: a promise that runs out by itself.
//! 3. Who is held is written down.
//! 4. The driver service **confirms**: the promise lasts.
//! 5. The ride is written down as assigned, and charged, and only then the rider is told.
//!
//! A ride goes forward only while its rider asks: in their request, or in one with the same key later.
//! If they stop asking before it is assigned, [`sweep`](super::record::Record::sweep) gives it up after [`PATIENCE`], and the
//! driver, if there is one, is released. So nobody is driven to a rider who was told that it failed, and
//! no driver waits for a ride that nobody knows of. Keys and steps one can return to: B. Leach,
//! "Implementing Stripe-like idempotency keys in Postgres" (2017); holds that run out: leases, C. Gray and
//! D. Cheriton (SOSP 1989).
//!
//! # Cancellation
//! Whoever drops the future leaves the ride as a crash at that place would.
//!
//! # Bounds
//! At most [`ROUNDS`] holds that are lost again for one question.
//!
//! [`PATIENCE`]: super::record::PATIENCE

use std::{fmt, time::Duration};

use axum::http::{Method, StatusCode};

use super::record::{Record, Ride, is_given_up};
use crate::{
    driver::{Bound, Confirmed, Lost, RENEWED, UnderWay, Wanted},
    kernel::{
        clock::Clock,
        console::complain,
        peer::{Peer, Unavailable},
        problem::Problem,
        store::StoreError,
    },
    rules::{money::Money, ride::State},
};

/// How many holds may be lost before the rider has to ask again.
pub const ROUNDS: usize = 3;

/// How often the driver service is told which rides are under way: well before they run out there.
pub const RENEWAL: Duration = Duration::from_mins(1);

/// Brings rides to drivers.
#[derive(Clone, Debug)]
pub struct Dispatch {
    clock: Clock,
    record: Record,
    driver: Peer,
}

/// Why a ride is still without a driver, and may yet get one.
#[derive(Debug)]
pub enum Stuck {
    /// The driver service.
    Unavailable(Unavailable),
    /// Our own record.
    Store(StoreError),
    /// Every driver who was held was lost again.
    Contended,
}

impl From<Unavailable> for Stuck {
    fn from(it: Unavailable) -> Self {
        Self::Unavailable(it)
    }
}

impl From<StoreError> for Stuck {
    fn from(it: StoreError) -> Self {
        Self::Store(it)
    }
}

impl fmt::Display for Stuck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unavailable(it) => it.fmt(f),
            Self::Store(it) => it.fmt(f),
            Self::Contended => f.write_str("others were faster each time"),
        }
    }
}

impl From<Stuck> for Problem {
    fn from(it: Stuck) -> Self {
        match it {
            Stuck::Unavailable(it) => it.into(),
            Stuck::Store(it) => it.into(),
            Stuck::Contended => {
                let detail = "others were faster each time; the same request may be sent again";
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "contended", detail).retry_after(1)
            }
        }
    }
}

impl Dispatch {
    /// With the rides of a record and the drivers of a service.
    pub const fn new(clock: Clock, record: Record, driver: Peer) -> Self {
        Self { clock, record, driver }
    }

    /// Goes on with a ride until it is more than requested; tells what it is then.
    pub async fn pursue(&self, mut ride: Ride) -> Result<Ride, Stuck> {
        for _ in 0..ROUNDS {
            if ride.state != State::Requested {
                return Ok(ride);
            }
            if is_given_up(&ride, self.clock.now()) {
                return self.settle(ride, State::NoDriver).await;
            }
            if ride.driver.is_none() {
                match self.hold(&ride).await? {
                    Some(driver) => self.record.held(&ride.ride_id, driver).await?,
                    None => return self.settle(ride, State::NoDriver).await,
                }
                ride = self.read(ride).await?; // Who is held; or that it was called off in the meantime.
            }
            let Some(driver) = &ride.driver else { continue };
            if self.confirm(&ride.ride_id, &driver.driver_id).await? {
                let assigned = self.record.assigned(&ride.ride_id, driver.clone(), self.clock.now()).await?;
                return Ok(assigned.unwrap_or(ride)); // Rides that are under way are never deleted.
            }
            self.record.lost(&ride.ride_id, &driver.driver_id).await?;
            ride = self.read(ride).await?;
        }
        Err(Stuck::Contended)
    }

    /// Tells the driver service which rides are under way, so that their drivers stay bound.
    pub async fn renew(&self) -> Result<(), Stuck> {
        let mut after = String::new();
        loop {
            let rides = self.record.under_way(after, RENEWED).await?;
            let last = rides.last().filter(|_| rides.len() == RENEWED).map(|it| it.ride_id.clone());
            let page = UnderWay { rides, is_last: last.is_none() };
            let answer = self.driver.ask(Method::POST, "/assignments/renew", Some(&page)).await?;
            if answer.status != StatusCode::OK {
                return Err(self.driver.unexpected(&answer).into());
            }
            for ride_id in self.driver.read::<Lost>(&answer)?.lost {
                complain(format_args!(
                    "the driver of the ride {ride_id}, which is under way, drives somebody else"
                ));
            }
            match last {
                Some(last) => after = last,
                None => return Ok(()),
            }
        }
    }

    /// Whoever is held for the ride; `None` if there is nobody.
    async fn hold(&self, ride: &Ride) -> Result<Option<Bound>, Stuck> {
        let wanted = Wanted { ride_type: ride.ride_type, pickup: ride.pickup };
        let path = format!("/assignments/{}", ride.ride_id);
        let mut answer = self.driver.ask(Method::PUT, &path, Some(&wanted)).await?;
        if answer.status == StatusCode::CONFLICT && answer.reason() == "renew_first" {
            self.renew().await?;
            answer = self.driver.ask(Method::PUT, &path, Some(&wanted)).await?;
        }
        match answer.status {
            StatusCode::OK => Ok(Some(self.driver.read(&answer)?)),
            StatusCode::CONFLICT if ["no_driver", "ride_over"].contains(&answer.reason()) => Ok(None),
            _ => Err(self.driver.unexpected(&answer).into()),
        }
    }

    async fn confirm(&self, ride_id: &str, driver_id: &str) -> Result<bool, Unavailable> {
        let confirmed = Confirmed { driver_id: driver_id.to_owned() };
        let path = format!("/assignments/{ride_id}/confirm");
        let answer = self.driver.ask(Method::POST, &path, Some(&confirmed)).await?;
        match answer.status {
            StatusCode::NO_CONTENT => Ok(true),
            StatusCode::CONFLICT if answer.reason() == "hold_lost" => Ok(false),
            _ => Err(self.driver.unexpected(&answer)),
        }
    }

    /// The state that was reached, or the one that somebody else has brought the ride to.
    async fn settle(&self, ride: Ride, next: State) -> Result<Ride, Stuck> {
        match self.record.step(&ride.ride_id, next, Money::default(), self.clock.now()).await? {
            Some(Ok(ride)) => Ok(ride),
            Some(Err(_)) | None => Ok(self.read(ride).await?),
        }
    }

    async fn read(&self, ride: Ride) -> Result<Ride, StoreError> {
        Ok(self.record.ride(&ride.ride_id).await?.unwrap_or(ride))
    }
}
