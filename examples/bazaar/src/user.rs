//! The user service: whose tokens are to be believed. Users themselves come with the shop.
//!
//! # Interface
//! `GET /.well-known/jwks.json` answers the public keys (RFC 7517) of `bazaar token`, which the gateway fetches.

use axum::{Router, http::header::CONTENT_TYPE, routing::get};

use crate::kernel::ask;

/// The service; `jwks` is the set of keys.
pub fn app(jwks: String) -> Router {
    let jwks = get(move || async move { ([(CONTENT_TYPE, "application/jwk-set+json")], jwks) });
    ask::with_defaults(Router::new().route("/.well-known/jwks.json", jwks), None)
}
