//! The pricing service: what would a ride cost?
//!
//! # Interface
//! `POST /api/rides/estimate` with `{"pickup": {"lat": …, "lng": …}, "drop": {…}, "ride_type": "mini"}`
//! answers one quote; without `ride_type`, `{"estimates": […]}` with one for each type. `GET /healthz`
//! and `GET /readyz` answer 200: there is nothing to warm up, so who listens is ready.
//!
//! # Quotes
//! A quote has a random id of 128 bits and says when it expires. It is **not kept**: nothing can be
//! booked yet. Booking brings the store, and with it the promise to hold a price until it expires.
//!
//! # Errors
//! Each is a [`Problem`]: 400 for what is no JSON, 404 and 405, 413 beyond [`BODY_LIMIT`], 422 for JSON
//! that asks for what there is not (a missing or unknown member, an unknown ride type, a point that
//! does not exist or that no zone serves).

use std::time::Duration;

use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, State, rejection::BytesRejection},
    http::{Method, StatusCode, Uri},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    clock::Clock,
    fare::{self, Breakdown, Quote, RideType, Trip},
    geo::{Place, Point, Zone},
    moment::Moment,
    money::{Factor, Money},
    problem::Problem,
};

/// The longest body it reads, in bytes.
pub const BODY_LIMIT: usize = 16 * 1024;

/// How long a quote says it is valid.
pub const QUOTE_VALID: Duration = Duration::from_mins(5);

/// The service.
pub fn app(clock: Clock) -> Router {
    Router::new()
        .route("/api/rides/estimate", post(estimate))
        .route("/healthz", get("ok\n"))
        .route("/readyz", get("ok\n"))
        .method_not_allowed_fallback(wrong_method)
        .fallback(not_found)
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .with_state(clock)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    pickup: Coordinates,
    drop: Coordinates,
    ride_type: Option<String>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Coordinates {
    lat: f64,
    lng: f64,
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
    State(clock): State<Clock>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let request = read(&body.map_err(|rejection| unread(&rejection))?)?;
    let ride_type = request.ride_type.as_deref().map(ride_type).transpose()?;
    let trip = Trip { pickup: place("pickup", request.pickup)?, drop: place("drop", request.drop)? };
    let now = clock.now();
    let estimate = |ride_type| said(trip, fare::quote(trip, ride_type, now), now);
    if let Some(ride_type) = ride_type {
        return Ok(Json(estimate(ride_type)?).into_response());
    }
    let estimates = RideType::ALL.into_iter().map(estimate).collect::<Result<Vec<_>, _>>()?;
    Ok(Json(Estimates { estimates }).into_response())
}

fn said(trip: Trip, quote: Quote, now: Moment) -> Result<Estimate, Problem> {
    let Quote { ride_type, fare, distance_km, minutes, surge, breakdown } = quote;
    Ok(Estimate {
        quote_id: quote_id()?,
        ride_type,
        fare,
        currency: "INR",
        distance_km: (distance_km * 1000.0).round() / 1000.0,
        minutes,
        surge,
        zone: Zones { pickup: trip.pickup.zone(), drop: trip.drop.zone() },
        breakdown,
        expires_at: now.after(QUOTE_VALID),
    })
}

/// 128 random bits: nobody guesses another's quote.
fn quote_id() -> Result<String, Problem> {
    let mut bits = [0; 16];
    getrandom::fill(&mut bits).map_err(|error| {
        let detail = format!("the system gives no random numbers for a quote's id: {error}");
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "no_randomness", detail)
    })?;
    Ok(format!("{:032x}", u128::from_be_bytes(bits)))
}

fn read(body: &[u8]) -> Result<Request, Problem> {
    serde_json::from_slice(body).map_err(|error| {
        if error.is_data() {
            unprocessable("unexpected_json", format!("this JSON is not a request for an estimate: {error}"))
        } else {
            Problem::new(StatusCode::BAD_REQUEST, "malformed_json", format!("the body is not JSON: {error}"))
        }
    })
}

fn ride_type(text: &str) -> Result<RideType, Problem> {
    text.parse().map_err(|error: fare::UnknownRideType| {
        unprocessable("unknown_ride_type", error.to_string()).with("ride_types", json!(RideType::ALL))
    })
}

fn place(end: &'static str, Coordinates { lat, lng }: Coordinates) -> Result<Place, Problem> {
    let wrong = |reason, detail| unprocessable(reason, format!("{end}: {detail}")).with("at", json!(end));
    let point = Point::new(lat, lng).map_err(|it| wrong("invalid_coordinates", it.to_string()))?;
    Place::at(point).map_err(|it| wrong("out_of_area", it.to_string()).with("zones", json!(Zone::ALL)))
}

fn unprocessable(reason: &'static str, detail: String) -> Problem {
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, reason, detail)
}

fn unread(rejection: &BytesRejection) -> Problem {
    if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
        let detail = format!("the body is longer than {BODY_LIMIT} bytes");
        return Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", detail);
    }
    Problem::new(rejection.status(), "unreadable_body", rejection.body_text())
}

async fn wrong_method(method: Method, uri: Uri) -> Problem {
    let detail = format!("{} does not take {method}; `Allow` says what it takes", uri.path());
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail)
}

async fn not_found(uri: Uri) -> Problem {
    let detail = format!("there is no {} here; try POST /api/rides/estimate", uri.path());
    Problem::new(StatusCode::NOT_FOUND, "not_found", detail)
}
