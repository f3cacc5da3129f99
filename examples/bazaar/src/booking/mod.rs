//! The booking service: rides from the booking to their end.
//!
//! # Interface
//! For the rider, whom the gateway names in `x-user-id`:
//! - `POST /api/rides/book` with `{"quote_id": …}` and an `Idempotency-Key`: 201 and the ride, or 409
//!   `no_driver`, `quote_expired`, `quote_used`, or 422 `unknown_quote`. The same key is the same ride;
//!   with another quote it is 422 `idempotency_key_reused`.
//! - `GET /api/rides/{ride_id}`: the ride.
//! - `POST /api/rides/{ride_id}/cancel`: what it cost, and what is given back. Again, it is the same answer;
//!   409 `wrong_state` once the ride has begun.
//!
//! For the driver of a ride, named in the same way:
//! - `POST /api/rides/{ride_id}/progress` with `{"state": "arriving"}`, then `on_trip`, then `completed`.
//!
//! Whose ride it is not is told that there is none: 404.
//!
//! # Rooms
//! [`record`] keeps, [`dispatch`] finds a driver, [`outbox`] tells the others; here is only HTTP.
//!
//! # Errors
//! Those of [`ask`], and those above. 503 `service_unavailable` if another service is needed
//! that does not answer: the same request, with the same key, may be sent again.

use std::time::Duration;

use axum::{
    Json, Router,
    extract::State as With,
    http::{
        HeaderMap, Method, StatusCode,
        header::{CACHE_CONTROL, LOCATION},
    },
    response::{IntoResponse, Response},
    routing::{get, post},
};
use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::time::sleep;

use crate::{
    booking::{
        dispatch::{Dispatch, RENEWAL},
        outbox::Outbox,
        record::{Record, Request, Requested, Ride, is_given_up},
    },
    driver::Bound,
    kernel::{
        ask::{self, Body, Caller, Coordinates, NAME_LIMIT, Part},
        clock::Clock,
        console::complain,
        id,
        peer::{At, Peer},
        problem::Problem,
        store::Store,
    },
    pricing::Promised,
    rules::{fare::RideType, moment::Moment, money::Money, ride::State},
};

pub mod dispatch;
pub mod outbox;
pub mod record;

/// How often requests are looked for that nobody asks about any more.
const SWEEP: Duration = Duration::from_secs(5);

/// Whom the service asks, and what it charges.
#[derive(Args, Clone, Debug)]
pub struct BookingArgs {
    /// Where pricing listens.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8201")]
    pub pricing: At,
    /// Where the drivers' service listens.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8202")]
    pub driver: At,
    /// Where tracking listens.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8204")]
    pub tracking: At,
    /// What it costs to cancel once a driver is bound, in rupees.
    #[arg(long, value_name = "AMOUNT", default_value = "0.00")]
    pub cancellation_fee: Money,
}

#[derive(Clone, Debug)]
struct Booking {
    clock: Clock,
    record: Record,
    dispatch: Dispatch,
    outbox: Outbox,
    pricing: Peer,
    fee: Money,
}

/// The service; what it does besides answering runs from now on, and ends with the runtime.
pub async fn app(clock: Clock, store: Store, args: &BookingArgs) -> Router {
    let record = Record::new(store.clone());
    let driver = Peer::new("driver", args.driver.clone());
    let outbox = Outbox::new(record.clone(), driver.clone(), Peer::new("tracking", args.tracking.clone()));
    let dispatch = Dispatch::new(clock, record.clone(), driver);
    if let Err(stuck) = dispatch.renew().await {
        complain(stuck); // The driver service holds nobody for us before it has heard of them.
    }
    tokio::spawn(renew(dispatch.clone()));
    tokio::spawn(outbox.clone().run());
    tokio::spawn(sweep(clock, record.clone()));
    let booking = Booking {
        clock,
        dispatch,
        record,
        outbox,
        pricing: Peer::new("pricing", args.pricing.clone()),
        fee: args.cancellation_fee,
    };
    let routes = Router::new()
        .route("/api/rides/book", post(book))
        .route("/api/rides/{ride_id}", get(read))
        .route("/api/rides/{ride_id}/cancel", post(cancel))
        .route("/api/rides/{ride_id}/progress", post(progress));
    ask::with_defaults(routes, Some(store)).with_state(booking)
}

/// What it gives up, the outbox finds by itself.
async fn sweep(clock: Clock, record: Record) {
    loop {
        match record.sweep(clock.now()).await {
            Ok(0) => sleep(SWEEP).await,
            Ok(_) => {}
            Err(error) => {
                complain(error);
                sleep(SWEEP).await;
            }
        }
    }
}

async fn renew(dispatch: Dispatch) {
    loop {
        sleep(RENEWAL).await;
        if let Err(stuck) = dispatch.renew().await {
            complain(stuck);
        }
    }
}

/// A ride, as its rider and its driver see it.
#[derive(Debug, Serialize)]
struct Shown {
    ride_id: String,
    state: State,
    ride_type: RideType,
    fare: Money,
    currency: &'static str,
    minutes: u32,
    pickup: Coordinates,
    drop: Coordinates,
    driver: Option<Bound>,
    requested_at: Moment,
    changed_at: Moment,
}

impl From<Ride> for Shown {
    fn from(ride: Ride) -> Self {
        let Ride { ride_id, state, ride_type, fare, minutes, pickup, drop, driver, .. } = ride;
        Self {
            ride_id,
            state,
            ride_type,
            fare,
            currency: "INR",
            minutes,
            pickup,
            drop,
            driver: driver.filter(|_| state != State::Requested), // Who is held may yet be another.
            requested_at: ride.requested_at,
            changed_at: ride.changed_at,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wish {
    quote_id: String,
}

async fn book(
    With(booking): With<Booking>,
    Caller(rider): Caller,
    headers: HeaderMap,
    Body(Wish { quote_id }): Body<Wish>,
) -> Result<Response, Problem> {
    let key = ask::word(&headers, "idempotency-key").ok_or_else(key_missing)?.to_owned();
    let known = booking.record.by_key(&rider, &key).await?;
    let ride = match known {
        Some(ride) => ride,
        None => booking.request(rider, key, quote_id.clone()).await?,
    };
    if ride.quote_id != quote_id {
        let detail = format!("the key names the ride {} already, which has another quote", ride.ride_id);
        return Err(ask::unprocessable("idempotency_key_reused", detail));
    }
    let ride = booking.asked_again(ride).await?;
    let ride_id = ride.ride_id.clone();
    let ride = booking.dispatch.pursue(ride).await.map_err(|stuck| named(stuck.into(), &ride_id))?;
    booking.outbox.tell(&ride).await;
    if ride.state == State::NoDriver {
        let detail = "no driver of this type was found within 5 km of the pickup while you asked; \
            a new key is a new attempt, as long as the quote holds";
        return Err(named(Problem::new(StatusCode::CONFLICT, "no_driver", detail), &ride_id));
    }
    let location = [(LOCATION, format!("/api/rides/{ride_id}"))];
    Ok((StatusCode::CREATED, location, Json(Shown::from(ride))).into_response())
}

impl Booking {
    /// The ride of a new key, written down.
    async fn request(
        &self,
        rider: String,
        idempotency_key: String,
        quote_id: String,
    ) -> Result<Ride, Problem> {
        let promised = self.promised(&quote_id).await?;
        let request = Request { ride_id: id::random()?, rider, idempotency_key, quote_id, promised };
        match self.record.request(request, self.clock.now()).await? {
            Requested::Ride(ride) => Ok(*ride),
            Requested::QuoteUsed => {
                let detail = "another ride has this quote; ask for a new one: POST /api/rides/estimate";
                Err(Problem::new(StatusCode::CONFLICT, "quote_used", detail))
            }
        }
    }

    /// A ride that is asked for again, which is to be pursued for longer, if it was not given up.
    async fn asked_again(&self, ride: Ride) -> Result<Ride, Problem> {
        let now = self.clock.now();
        if ride.state != State::Requested || ride.asked_at == now || is_given_up(&ride, now) {
            return Ok(ride);
        }
        self.record.asked_again(&ride.ride_id, now).await?;
        Ok(Ride { asked_at: now, ..ride })
    }

    /// What pricing has promised.
    async fn promised(&self, quote_id: &str) -> Result<Promised, Problem> {
        let unknown = || {
            let detail = "this quote was never given; ask for one: POST /api/rides/estimate";
            ask::unprocessable("unknown_quote", detail.into())
        };
        // It becomes a part of a path, so it must be one.
        let is_id = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        if quote_id.is_empty() || quote_id.len() > NAME_LIMIT || !quote_id.bytes().all(is_id) {
            return Err(unknown());
        }
        let answer = self.pricing.ask(Method::GET, &format!("/quotes/{quote_id}"), None::<&()>).await?;
        match answer.status {
            StatusCode::OK => Ok(self.pricing.read(&answer)?),
            StatusCode::NOT_FOUND => Err(unknown()),
            StatusCode::GONE => {
                let detail = "the quote holds no longer; ask for a new one: POST /api/rides/estimate";
                Err(Problem::new(StatusCode::CONFLICT, "quote_expired", detail))
            }
            _ => Err(self.pricing.unexpected(&answer).into()),
        }
    }

    /// The ride, if `may` says that the caller may know of it.
    async fn ride(&self, ride_id: &str, may: impl FnOnce(&Ride) -> bool) -> Result<Ride, Problem> {
        let ride = self.record.ride(ride_id).await?;
        ride.filter(may)
            .ok_or_else(|| Problem::new(StatusCode::NOT_FOUND, "unknown_ride", "you have no ride of this id"))
    }

    async fn step(&self, ride: Ride, next: State) -> Result<Ride, Problem> {
        let stepped = self.record.step(&ride.ride_id, next, self.fee, self.clock.now()).await?;
        let ride = stepped.unwrap_or(Ok(ride)).map_err(|wrong| {
            Problem::new(StatusCode::CONFLICT, "wrong_state", wrong.to_string())
                .with("state", json!(wrong.is))
        })?;
        self.outbox.tell(&ride).await;
        Ok(ride)
    }
}

async fn read(
    With(booking): With<Booking>,
    Caller(rider): Caller,
    Part(ride_id): Part,
) -> Result<Response, Problem> {
    let ride = booking.ride(&ride_id, |ride| ride.rider == rider).await?;
    Ok(([(CACHE_CONTROL, "no-store")], Json(Shown::from(ride))).into_response())
}

/// What calling a ride off came to.
#[derive(Debug, Serialize)]
struct CalledOff {
    ride_id: String,
    state: State,
    fare: Money,
    fee: Money,
    refund: Money,
    currency: &'static str,
    cancelled_at: Moment,
}

async fn cancel(
    With(booking): With<Booking>,
    Caller(rider): Caller,
    Part(ride_id): Part,
) -> Result<Json<CalledOff>, Problem> {
    let ride = booking.ride(&ride_id, |ride| ride.rider == rider).await?;
    let ride = booking.step(ride, State::Cancelled).await?;
    Ok(Json(CalledOff {
        ride_id,
        state: ride.state,
        fare: ride.fare,
        fee: Money::from_paise(ride.charged.paise() - ride.refunded.paise()),
        refund: ride.refunded,
        currency: "INR",
        cancelled_at: ride.changed_at,
    }))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Progress {
    state: State,
}

async fn progress(
    With(booking): With<Booking>,
    Caller(driver): Caller,
    Part(ride_id): Part,
    Body(Progress { state }): Body<Progress>,
) -> Result<Json<Shown>, Problem> {
    let drives = |ride: &Ride| {
        ride.state != State::Requested && ride.driver.as_ref().is_some_and(|it| it.driver_id == driver)
    };
    let ride = booking.ride(&ride_id, drives).await?;
    if !matches!(state, State::Arriving | State::OnTrip | State::Completed) {
        let detail = format!("a driver says arriving, on_trip or completed, and not {state}");
        return Err(ask::unprocessable("not_yours_to_say", detail));
    }
    Ok(Json(booking.step(ride, state).await?.into()))
}

fn named(problem: Problem, ride_id: &str) -> Problem {
    problem.with("ride_id", json!(ride_id))
}

fn key_missing() -> Problem {
    let detail = format!(
        "a booking needs one `Idempotency-Key` of at most {NAME_LIMIT} characters, so that it can be sent again"
    );
    Problem::new(StatusCode::BAD_REQUEST, "idempotency_key_missing", detail)
}
