//! The pricing service: what would a ride cost?
//!
//! # Interface
//! - `POST /api/rides/estimate` with `{"pickup": {"lat": …, "lng": …}, "drop": {…}, "ride_type": "mini"}`
//!   answers one quote; without `ride_type`, `{"estimates": […]}` with one for each type.
//! - `GET /quotes/{quote_id}`, for the booking service: what was promised. 404 for an id that was never
//!   made here, 410 for one that has expired.
//!
//! # Quotes
//! A quote holds for [`QUOTE_VALID`], whatever becomes of the surge. Its id is its record, see [`seal`];
//! kept is only the secret that ids are sealed with, in the service's file. So a quote outlives a
//! restart, and no number of questions fills anything up.
//!
//! # Errors
//! Those of [`ask`]; 422 for an unknown ride type, a point that does not exist or that
//! no zone serves.

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use rusqlite::OptionalExtension as _;
use serde::{Deserialize, Serialize};

use crate::{
    kernel::{
        ask::{self, Body, Coordinates, Part},
        clock::{Clock, SLACK},
        id,
        problem::Problem,
        store::{Migrations, Store},
    },
    pricing::seal::{SECRET, Seal, Sealed},
    rules::{
        fare::{self, Breakdown, Quote, RideType, Trip},
        geo::Zone,
        moment::Moment,
        money::{Factor, Money},
    },
};

pub mod seal;

/// How long a quote holds.
pub const QUOTE_VALID: Duration = Duration::from_mins(5);

/// The tables.
pub const MIGRATIONS: Migrations = &["CREATE TABLE secret (secret BLOB NOT NULL) STRICT"];

#[derive(Clone, Debug)]
struct Pricing {
    clock: Clock,
    seal: Arc<Seal>,
}

/// The service.
///
/// # Errors
/// If there is no secret in the store, and none can be put there.
pub async fn app(clock: Clock, store: Store) -> Result<Router, Problem> {
    let seal = Arc::new(Seal::new(&secret(&store).await?));
    let routes =
        Router::new().route("/api/rides/estimate", post(estimate)).route("/quotes/{quote_id}", get(promised));
    Ok(ask::with_defaults(routes, Some(store)).with_state(Pricing { clock, seal }))
}

/// The one in the store; at the first start, a new one.
async fn secret(store: &Store) -> Result<[u8; SECRET], Problem> {
    let new = id::bytes::<SECRET>()?;
    let secret = store.write(move |transaction| {
        let read = "SELECT secret FROM secret";
        let known = transaction.query_row(read, (), |row| row.get::<_, [u8; SECRET]>(0)).optional()?;
        if let Some(known) = known {
            return Ok(known);
        }
        transaction.execute("INSERT INTO secret VALUES (?1)", [new])?;
        Ok(new)
    });
    Ok(secret.await?)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Question {
    pickup: Coordinates,
    drop: Coordinates,
    ride_type: Option<String>,
}

#[derive(Debug, Serialize)]
struct Estimate {
    quote_id: String,
    ride_type: RideType,
    fare: Money,
    currency: &'static str,
    distance_km: f64,
    minutes: u32,
    surge: Factor,
    zone: Zones,
    breakdown: Breakdown,
    expires_at: Moment,
}

#[derive(Debug, Serialize)]
struct Estimates {
    estimates: Vec<Estimate>,
}

#[derive(Debug, Serialize)]
struct Zones {
    pickup: Zone,
    drop: Zone,
}

async fn estimate(
    State(pricing): State<Pricing>,
    Body(question): Body<Question>,
) -> Result<Response, Problem> {
    let ride_type = question.ride_type.as_deref().map(ask::ride_type).transpose()?;
    let pickup = ask::place("pickup", question.pickup)?;
    let trip = Trip { pickup, drop: ask::place("drop", question.drop)? };
    let now = pricing.clock.now();
    let estimate = |ride_type| pricing.promise(trip, fare::quote(trip, ride_type, now), now);
    if let Some(ride_type) = ride_type {
        return Ok(Json(estimate(ride_type)?).into_response());
    }
    let estimates = RideType::ALL.into_iter().map(estimate).collect::<Result<Vec<_>, _>>()?;
    Ok(Json(Estimates { estimates }).into_response())
}

impl Pricing {
    fn promise(&self, trip: Trip, quote: Quote, now: Moment) -> Result<Estimate, Problem> {
        let Quote { ride_type, fare, distance_km, minutes, surge, breakdown } = quote;
        let expires_at = now.after(QUOTE_VALID);
        let sealed = Sealed { ride_type, trip, fare, minutes, expires_at, nonce: id::bytes()? };
        Ok(Estimate {
            quote_id: self.seal.seal(&sealed),
            ride_type,
            fare,
            currency: "INR",
            distance_km: (distance_km * 1000.0).round() / 1000.0,
            minutes,
            surge,
            zone: Zones { pickup: trip.pickup.zone(), drop: trip.drop.zone() },
            breakdown,
            expires_at,
        })
    }
}

/// What a quote promised, as the booking service asks for it.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Promised {
    /// The kind of vehicle.
    pub ride_type: RideType,
    /// Where the ride starts.
    pub pickup: Coordinates,
    /// Where it ends.
    pub drop: Coordinates,
    /// What it costs.
    pub fare: Money,
    /// How long it takes.
    pub minutes: u32,
}

async fn promised(State(pricing): State<Pricing>, Part(quote_id): Part) -> Result<Json<Promised>, Problem> {
    let Some(sealed) = pricing.seal.open(&quote_id) else {
        let detail = "this quote was never given; ask for one: POST /api/rides/estimate";
        return Err(Problem::new(StatusCode::NOT_FOUND, "unknown_quote", detail));
    };
    let Sealed { ride_type, trip, fare, minutes, expires_at, .. } = sealed;
    let now = pricing.clock.now();
    let was_another_clock = expires_at > now.after(QUOTE_VALID + SLACK);
    if now >= expires_at || was_another_clock {
        let detail =
            format!("the quote held until {expires_at}; ask for a new one: POST /api/rides/estimate");
        return Err(Problem::new(StatusCode::GONE, "quote_expired", detail));
    }
    let (pickup, drop) = (trip.pickup.point().into(), trip.drop.point().into());
    Ok(Json(Promised { ride_type, pickup, drop, fare, minutes }))
}
