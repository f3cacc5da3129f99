//! The driver service: who is near, and who drives which ride.
//!
//! # Interface
//! - `GET /api/drivers/nearby?lat=…&lng=…&ride_type=mini` answers `{"drivers": […]}`: the free ones within
//!   10 km, the best first, at most ten; without `ride_type`, those of all types.
//!
//! For the booking service, and not routed by the gateway:
//! - `PUT /assignments/{ride_id}` with `{"ride_type": …, "pickup": {…}}` holds a driver within 5 km for
//!   that ride: 200, or 409 `no_driver`, `ride_over` if it was released before, `renew_first`.
//! - `POST /assignments/{ride_id}/confirm` with `{"driver_id": …}` makes that last: 204, or 409 `hold_lost`.
//! - `POST /assignments/renew` with `{"rides": [{"ride_id": …, "driver_id": …}, …], "is_last": true}` makes what is
//!   confirmed last longer: 200 and `{"lost": […]}`, the rides whose drivers drive somebody else.
//! - `POST /assignments/{ride_id}/release` with `{}`, or `{"at": {…}}` where the driver is now: 204.
//!
//! Each of them may be said again with the same result. What they mean: [`fleet`].
//!
//! # Errors
//! Those of [`ask`]; 422 for an unknown ride type, a point that does not exist or that
//! no zone serves.

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header::CACHE_CONTROL},
    response::{IntoResponse, Response},
    routing::{get, post, put},
};
use serde::{Deserialize, Serialize};

use crate::{
    driver::fleet::{Driver, Fleet, Hold},
    kernel::{
        ask::{self, Asked, Body, Coordinates, Part},
        clock::Clock,
        problem::Problem,
        store::Store,
    },
    rules::{fare::RideType, nearby},
};

pub mod fleet;

#[derive(Clone, Debug)]
struct Drivers {
    clock: Clock,
    fleet: Fleet,
}

/// The service.
pub fn app(clock: Clock, store: Store) -> Router {
    let routes = Router::new()
        .route("/api/drivers/nearby", get(near))
        .route("/assignments/renew", post(renew))
        .route("/assignments/{ride_id}", put(hold))
        .route("/assignments/{ride_id}/confirm", post(confirm))
        .route("/assignments/{ride_id}/release", post(release));
    let fleet = Fleet::new(store.clone());
    ask::with_defaults(routes, Some(store)).with_state(Drivers { clock, fleet })
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Around {
    lat: f64,
    lng: f64,
    ride_type: Option<String>,
}

#[derive(Debug, Serialize)]
struct Near {
    drivers: Vec<Shown>,
}

/// What everybody may know about a driver: no number plate.
#[derive(Debug, Serialize)]
struct Shown {
    driver_id: String,
    ride_type: RideType,
    lat: f64,
    lng: f64,
    distance_km: f64,
    eta_minutes: u32,
    rating: f64,
}

async fn near(
    State(drivers): State<Drivers>,
    Asked(Around { lat, lng, ride_type }): Asked<Around>,
) -> Result<Response, Problem> {
    let ride_type = ride_type.as_deref().map(ask::ride_type).transpose()?;
    let place = ask::place("here", Coordinates { lat, lng })?;
    let near = drivers.fleet.shown(place, ride_type, drivers.clock.now()).await?;
    let drivers = near.into_iter().map(|(Driver { id, point, ride_type, rating, .. }, km)| Shown {
        driver_id: id,
        ride_type,
        lat: point.lat(),
        lng: point.lng(),
        distance_km: (km * 100.0).round() / 100.0,
        eta_minutes: nearby::eta_minutes(km),
        rating: f64::from(rating) / 10.0,
    });
    Ok(([(CACHE_CONTROL, "no-store")], Json(Near { drivers: drivers.collect() })).into_response())
}

/// What the booking service wants.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    /// The kind of vehicle.
    pub ride_type: RideType,
    /// Where the ride starts.
    pub pickup: Coordinates,
}

/// Who drives.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bound {
    /// Who.
    pub driver_id: String,
    /// The number plate.
    pub vehicle: String,
    /// How well rated, 5 at most.
    pub rating: f64,
    /// Where they were when they were bound.
    pub at: Coordinates,
    /// How long they take to the pickup.
    pub eta_minutes: u32,
}

async fn hold(
    State(drivers): State<Drivers>,
    Part(ride_id): Part,
    Body(Wanted { ride_type, pickup }): Body<Wanted>,
) -> Result<Json<Bound>, Problem> {
    let pickup = ask::place("pickup", pickup)?;
    match drivers.fleet.hold(ride_id, ride_type, pickup, drivers.clock.now()).await? {
        Hold::Bound(Driver { id, point, rating, vehicle, .. }) => Ok(Json(Bound {
            driver_id: id,
            vehicle,
            rating: f64::from(rating) / 10.0,
            at: point.into(),
            eta_minutes: nearby::eta_minutes(point.km_to(pickup.point())),
        })),
        Hold::Nobody => Err(conflict("no_driver", "no driver of this type is free within 5 km")),
        Hold::RenewFirst => {
            Err(conflict("renew_first", "a bond has run out: say first which rides are under way"))
        }
        Hold::Over => Err(conflict("ride_over", "this ride was released before")),
    }
}

/// Whom the booking service confirms.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Confirmed {
    /// Who was held.
    pub driver_id: String,
}

async fn confirm(
    State(drivers): State<Drivers>,
    Part(ride_id): Part,
    Body(Confirmed { driver_id }): Body<Confirmed>,
) -> Result<StatusCode, Problem> {
    if drivers.fleet.confirm(ride_id, driver_id, drivers.clock.now()).await? {
        return Ok(StatusCode::NO_CONTENT);
    }
    Err(conflict("hold_lost", "the hold has run out, and the driver drives somebody else"))
}

/// Rides that are under way.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnderWay {
    /// At most [`RENEWED`] of them.
    pub rides: Vec<Driven>,
    /// There are no others besides these and those before.
    pub is_last: bool,
}

/// Who drives which.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Driven {
    /// The ride.
    pub ride_id: String,
    /// Its driver.
    pub driver_id: String,
}

/// What could not be renewed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Lost {
    /// Rides whose drivers drive somebody else, or that were released.
    pub lost: Vec<String>,
}

/// How many rides are renewed at a time: what fits into a body.
pub const RENEWED: usize = 128;

async fn renew(
    State(drivers): State<Drivers>,
    Body(UnderWay { rides, is_last }): Body<UnderWay>,
) -> Result<Json<Lost>, Problem> {
    if rides.len() > RENEWED {
        let detail = format!("at most {RENEWED} rides are renewed at a time");
        return Err(ask::unprocessable("too_many_rides", detail));
    }
    let rides = rides.into_iter().map(|it| (it.ride_id, it.driver_id)).collect();
    let lost = drivers.fleet.renew(rides, is_last, drivers.clock.now()).await?;
    Ok(Json(Lost { lost }))
}

/// What the booking service knows of the driver who is free again.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Released {
    /// Where they are now, if they have moved.
    pub at: Option<Coordinates>,
}

async fn release(
    State(drivers): State<Drivers>,
    Part(ride_id): Part,
    Body(Released { at }): Body<Released>,
) -> Result<StatusCode, Problem> {
    let at = at.map(|at| ask::place("at", at)).transpose()?;
    drivers.fleet.release(ride_id, at, drivers.clock.now()).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn conflict(reason: &'static str, detail: &'static str) -> Problem {
    Problem::new(StatusCode::CONFLICT, reason, detail)
}
