//! The user service: whose tokens are to be believed. Users themselves come with the shop.
//!
//! # Interface
//! `GET /.well-known/jwks.json` answers the public keys (RFC 7517) of `bazaar token`, which the gateway fetches:
//! those that are there when it asks.

use std::path::Path;

use axum::{
    Router,
    http::{StatusCode, header::CONTENT_TYPE},
    routing::get,
};

use crate::{
    kernel::{ask, console::complain, problem::Problem},
    user::keys::Keys,
};

pub mod keys;

/// The service, with the keys in that folder, which are made if there are none.
///
/// # Errors
/// If there are none, and none can be made.
pub fn app(data: &Path) -> Result<Router, String> {
    Keys::of(data)?;
    let data = data.to_owned();
    let jwks = get(move || async move {
        let keys = Keys::known(&data).map_err(|error| {
            complain(error);
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "no_keys", "the keys cannot be read now")
        })?;
        Ok::<_, Problem>(([(CONTENT_TYPE, "application/jwk-set+json")], keys.jwks()))
    });
    Ok(ask::with_defaults(Router::new().route("/.well-known/jwks.json", jwks), None))
}
