//! Keys for partners, of which only the hashes are kept.
//!
//! `cargo run --example api_key_axum` serves on port 3000; `-- --self-test` asks itself and ends.
//!
//! The two keys here are for show; real ones are 32 bytes or more of a generator's. The handler never sees a key:
//! it is taken away, and an identity stands in its place.

use std::{error::Error, sync::Arc};

use axum::{
    Extension, Router,
    body::{Body, to_bytes},
    http::{HeaderMap, Request},
    routing::get,
};
use naka::{
    api_key::{ApiKey, ApiKeyConfig, ApiKeyLayer, ApiKeys},
    authorize::{AuthorizeLayer, Rule},
    identity::Identity,
    problem::ProblemLayer,
};
use tokio::net::TcpListener;
use tower::ServiceExt as _;

const ZOMATO: &str = "naka_c2hvd24gaGVyZSwgc28gaXQgaXMgbm8gc2VjcmV0";
const SWIGGY: &str = "naka_dGhpcyBvbmUgaXMgbm8gc2VjcmV0IGVpdGhlciE";

fn app() -> Router {
    // In an application the hashes come from a file, and the keys are nowhere.
    let orders =
        ApiKey::hashed(ApiKey::hash(ZOMATO), "zomato").knowing(|who| who.scopes.push("orders".into()));
    let old = ApiKey::hashed(ApiKey::hash(SWIGGY), "swiggy").until(4_102_444_800); // Until 2100.
    let keys = ApiKeyLayer::new(ApiKeyConfig::new(ApiKeys::new([orders, old])));
    let may_order = AuthorizeLayer::new(Rule::scope("orders"));

    let whoami = |Extension(who): Extension<Arc<Identity>>, headers: HeaderMap| async move {
        let saw_key = headers.contains_key("x-api-key");
        format!("{}, key seen: {saw_key}\n", who.subject.as_deref().unwrap_or_default())
    };
    let app = Router::new()
        .route("/orders", get(|| async { "two biryanis\n" }).layer(may_order))
        .route("/whoami", get(whoami));
    app.layer(keys).layer(ProblemLayer::new())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    if !std::env::args().any(|arg| arg == "--self-test") {
        let listener = TcpListener::bind("127.0.0.1:3000").await?;
        println!("curl -i http://127.0.0.1:3000/whoami -H 'x-api-key: {ZOMATO}'");
        return Ok(axum::serve(listener, app()).await?);
    }
    let app = app();
    let table = [
        ("/whoami", ZOMATO, 200, "zomato, key seen: false"),
        ("/whoami", "naka_guessed", 401, "credentials_unknown"),
        ("/whoami", "", 401, "credentials_malformed"),
        ("/orders", ZOMATO, 200, "two biryanis"),
        ("/orders", SWIGGY, 403, "forbidden"),
    ];
    for (path, key, status, said) in table {
        let request = Request::get(path).header("x-api-key", key).body(Body::empty())?;
        let (head, body) = app.clone().oneshot(request).await?.into_parts();
        let body = String::from_utf8(to_bytes(body, 1024).await?.to_vec())?;
        assert!(head.status == status && body.contains(said), "{path}: {} {body}", head.status);
    }
    println!("who has a key is known by it, and nobody behind sees it");
    Ok(())
}
