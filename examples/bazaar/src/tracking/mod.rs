//! The tracking service: where is my car?
//!
//! # Interface
//! - `GET /api/rides/{ride_id}/track`, for the rider, whom the gateway names in `x-user-id`: where the
//!   driver is, and how long they take. Whose ride it is not is told that there is none: 404.
//! - `PUT /rides/{ride_id}`, for the booking service: what has become of a ride. Older news than is known changes nothing.
//!
//! # State
//! What booking has told, in the service's own file; rides that are over are forgotten after [`REMEMBERED`].
//! A ride is known here a moment after it was booked: at once, if all is well.
//!
//! # Errors
//! Those of [`ask`].

use std::time::Duration;

use axum::{
    Json, Router,
    extract::State as With,
    http::{StatusCode, header::CACHE_CONTROL},
    response::{IntoResponse, Response},
    routing::{get, put},
};
use rusqlite::{OptionalExtension as _, Transaction};
use serde::{Deserialize, Serialize};

use crate::{
    driver::Bound,
    kernel::{
        ask::{self, Body, Caller, Coordinates, Part},
        clock::Clock,
        console::complain,
        problem::Problem,
        store::{Migrations, Store},
    },
    rules::{moment::Moment, ride::State},
    tracking::position::{End, Way, whereabouts},
};

pub mod position;

/// How long a ride that is over can be looked at.
pub const REMEMBERED: Duration = Duration::from_hours(24);

/// The tables.
pub const MIGRATIONS: Migrations = &["
    CREATE TABLE rides (
        ride_id TEXT PRIMARY KEY,
        version INTEGER NOT NULL,
        over_since INTEGER,
        seen TEXT NOT NULL  -- JSON
    ) STRICT;
    CREATE INDEX rides_that_are_over ON rides (over_since) WHERE over_since IS NOT NULL;
"];

#[derive(Clone, Debug)]
struct Tracking {
    clock: Clock,
    store: Store,
}

/// The service.
pub fn app(clock: Clock, store: Store) -> Router {
    let routes =
        Router::new().route("/api/rides/{ride_id}/track", get(track)).route("/rides/{ride_id}", put(hear));
    ask::with_defaults(routes, Some(store.clone())).with_state(Tracking { clock, store })
}

/// What booking tells of a ride to which a driver is, or was, bound.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seen {
    /// Who may look.
    pub rider: String,
    /// Tells older news from newer.
    pub version: u32,
    /// How far the ride has come.
    pub state: State,
    /// Since when.
    pub since: Moment,
    /// Who drives.
    pub driver: Bound,
    /// Where the rider waits.
    pub pickup: Coordinates,
    /// Where the rider wants to go.
    pub drop: Coordinates,
    /// How long that takes.
    pub minutes: u32,
}

impl Seen {
    const fn way(&self) -> Way {
        let Self { state, since, pickup, drop, minutes, .. } = *self;
        let (from, to_pickup_minutes) = (self.driver.at, self.driver.eta_minutes);
        Way { state, since, from, pickup, drop, to_pickup_minutes, to_drop_minutes: minutes }
    }
}

async fn hear(
    With(tracking): With<Tracking>,
    Part(ride_id): Part,
    Body(seen): Body<Seen>,
) -> Result<StatusCode, Problem> {
    let forgotten = tracking.clock.now().before(REMEMBERED).unix();
    let text = serde_json::to_string(&seen)
        .map_err(|error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "not_kept", error.to_string()))?;
    let write = move |transaction: &Transaction<'_>| {
        transaction.execute("DELETE FROM rides WHERE over_since <= ?1", [forgotten])?;
        let over_since = seen.state.is_end().then_some(seen.since.unix());
        let put = "INSERT INTO rides VALUES (?1, ?2, ?3, ?4) ON CONFLICT (ride_id) DO UPDATE
            SET version = excluded.version, over_since = excluded.over_since, seen = excluded.seen
            WHERE excluded.version > rides.version";
        transaction.execute(put, (ride_id, seen.version, over_since, text)).map(drop)
    };
    tracking.store.write(write).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// What a rider sees.
#[derive(Debug, Serialize)]
struct Track {
    ride_id: String,
    state: State,
    driver_id: String,
    vehicle: String,
    position: Option<Coordinates>,
    to: Option<End>,
    eta_minutes: Option<u32>,
    now: Moment,
}

async fn track(
    With(tracking): With<Tracking>,
    Caller(rider): Caller,
    Part(ride_id): Part,
) -> Result<Response, Problem> {
    let id = ride_id.clone();
    let text = tracking.store.read(move |connection| {
        let known = "SELECT seen FROM rides WHERE ride_id = ?1";
        connection.query_row(known, [id], |row| row.get::<_, String>(0)).optional()
    });
    let seen = text.await?.map(|text| serde_json::from_str::<Seen>(&text)).transpose().map_err(|error| {
        complain(format_args!("what is kept of the ride {ride_id} cannot be read: {error}"));
        Problem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "not_readable",
            "what is kept of this ride cannot be read",
        )
    })?;
    let Some(seen) = seen.filter(|seen| seen.rider == rider) else {
        return Err(Problem::new(
            StatusCode::NOT_FOUND,
            "unknown_ride",
            "you have no ride of this id on its way",
        ));
    };
    let now = tracking.clock.now();
    let there = whereabouts(&seen.way(), now);
    let Seen { state, driver: Bound { driver_id, vehicle, .. }, .. } = seen;
    let track = Track {
        ride_id,
        state,
        driver_id,
        vehicle,
        position: there.map(|it| it.position),
        to: there.and_then(|it| it.to),
        eta_minutes: there.filter(|it| it.to.is_some()).map(|it| it.eta_minutes),
        now,
    };
    Ok(([(CACHE_CONTROL, "no-store")], Json(track)).into_response())
}
