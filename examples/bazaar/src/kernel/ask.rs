//! What is asked of a service: JSON bodies, queries, and who asks.
//!
//! # Errors
//! Each is a [`Problem`]: 400 for what is no JSON, 401 without an identity, 408 for a body that takes longer
//! than [`BODY_PATIENCE`], 413 beyond [`BODY_LIMIT`],
//! 422 for JSON or a query that asks for what there is not (a missing or unknown member, a wrong type),
//! 404 and 405 for what is not served.

use std::time::Duration;

use axum::{
    Router,
    body::Bytes,
    extract::{
        DefaultBodyLimit, FromRequest, FromRequestParts, Path, Query, Request, rejection::BytesRejection,
    },
    http::{HeaderMap, Method, StatusCode, Uri, request::Parts},
    routing::get,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::json;
use tokio::time::timeout;

use super::{problem::Problem, store::Store};
use crate::rules::{
    fare::{RideType, UnknownRideType},
    geo::{Place, Point, Zone},
};

/// The longest body that is read, in bytes.
pub const BODY_LIMIT: usize = 16 * 1024;

/// How long a body may take to arrive.
pub const BODY_PATIENCE: Duration = Duration::from_secs(10);

/// The longest name of a caller and the longest key, in bytes.
pub const NAME_LIMIT: usize = 256;

/// What every service serves besides its own: health, and answers to what it does not serve. It is
/// alive if it answers, and ready if its store does, too.
pub fn with_defaults<S: Clone + Send + Sync + 'static>(routes: Router<S>, store: Option<Store>) -> Router<S> {
    let ready = move || {
        let store = store.clone();
        async move {
            if let Some(store) = store {
                store.check().await?;
            }
            Ok::<_, Problem>("ok\n")
        }
    };
    routes
        .route("/healthz", get("ok\n"))
        .route("/readyz", get(ready))
        .method_not_allowed_fallback(wrong_method)
        .fallback(not_found)
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
}

/// A JSON body.
#[derive(Clone, Copy, Debug)]
pub struct Body<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let body = timeout(BODY_PATIENCE, Bytes::from_request(request, state)).await.map_err(|_| {
            let detail = format!("the body was not there within {} s", BODY_PATIENCE.as_secs());
            Problem::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", detail)
        })?;
        let body = body.map_err(|rejection| unread(&rejection))?;
        serde_json::from_slice(&body).map(Self).map_err(|error| {
            if error.is_data() {
                let detail = format!("this JSON is not what is asked for here: {error}");
                unprocessable("unexpected_json", detail)
            } else {
                let detail = format!("the body is not JSON: {error}");
                Problem::new(StatusCode::BAD_REQUEST, "malformed_json", detail)
            }
        })
    }
}

fn unread(rejection: &BytesRejection) -> Problem {
    if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
        let detail = format!("the body is longer than {BODY_LIMIT} bytes");
        return Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", detail);
    }
    Problem::new(rejection.status(), "unreadable_body", rejection.body_text())
}

/// A query.
#[derive(Clone, Copy, Debug)]
pub struct Asked<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Asked<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let query = Query::from_request_parts(parts, state).await;
        query.map(|Query(asked)| Self(asked)).map_err(|rejection| {
            unprocessable(
                "unexpected_query",
                format!("this query is not what is asked for here: {rejection}"),
            )
        })
    }
}

/// The one part of a path that is not fixed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part(pub String);

impl<S: Send + Sync> FromRequestParts<S> for Part {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let part = Path::from_request_parts(parts, state).await;
        part.map(|Path(part)| Self(part)).map_err(|rejection| {
            Problem::new(
                StatusCode::BAD_REQUEST,
                "unexpected_path",
                format!("this path cannot be read: {rejection}"),
            )
        })
    }
}

/// Who asks: what the gateway has verified and says in `x-user-id`. It takes away what clients send under
/// that name; a service must not be reachable past it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller(pub String);

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let caller = word(&parts.headers, "x-user-id").ok_or_else(|| {
            let detail = "nobody has said who asks: this is answered only behind the gateway, with a token";
            Problem::new(StatusCode::UNAUTHORIZED, "not_identified", detail).www_authenticate("Bearer")
        });
        caller.map(|name| Self(name.to_owned()))
    }
}

/// A header's value, if it is there once, is not empty and not longer than [`NAME_LIMIT`].
pub fn word<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    value.to_str().ok().filter(|it| (1..=NAME_LIMIT).contains(&it.len()))
}

/// A point as clients write it: `{"lat": 18.9220, "lng": 72.8342}`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Coordinates {
    /// The latitude, in degrees.
    pub lat: f64,
    /// The longitude, in degrees.
    pub lng: f64,
}

impl From<Point> for Coordinates {
    fn from(point: Point) -> Self {
        Self { lat: point.lat(), lng: point.lng() }
    }
}

/// The place at these coordinates; `end` says whose they are, for the message.
pub fn place(end: &'static str, Coordinates { lat, lng }: Coordinates) -> Result<Place, Problem> {
    let wrong = |reason, detail| unprocessable(reason, format!("{end}: {detail}")).with("at", json!(end));
    let point = Point::new(lat, lng).map_err(|it| wrong("invalid_coordinates", it.to_string()))?;
    Place::at(point).map_err(|it| wrong("out_of_area", it.to_string()).with("zones", json!(Zone::ALL)))
}

/// The ride type of that name.
pub fn ride_type(text: &str) -> Result<RideType, Problem> {
    text.parse().map_err(|error: UnknownRideType| {
        unprocessable("unknown_ride_type", error.to_string()).with("ride_types", json!(RideType::ALL))
    })
}

/// 422.
pub fn unprocessable(reason: &'static str, detail: String) -> Problem {
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, reason, detail)
}

async fn wrong_method(method: Method, uri: Uri) -> Problem {
    let detail = format!("{} does not take {method}; `Allow` says what it takes", uri.path());
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail)
}

async fn not_found(uri: Uri) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "not_found", format!("there is no {} here", uri.path()))
}
