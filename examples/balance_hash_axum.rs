//! A balancer that goes by a key, in an axum router: each session finds its endpoint, and nobody has much more
//! than its share.
//!
//! `cargo run --example balance_hash_axum` serves on port 3000; `-- --self-test` asks itself and ends.
//!
//! The endpoints here are names only, and whoever is behind the layer answers for them. How to go to real ones:
//! `balance_hyper`.

use std::{collections::BTreeMap, convert::Infallible, error::Error};

use axum::{Router, body::Body};
use http::{Request, Response};
use http_body_util::BodyExt as _;
use naka::{
    balance::{Absence, BalanceConfig, BalanceLayer, Endpoint, HashKey, Policy, Target},
    problem::ProblemLayer,
};
use tower::{Layer as _, ServiceExt as _, service_fn};

/// Says which endpoint was chosen.
async fn answer(request: Request<Body>) -> Result<Response<Body>, Infallible> {
    let address = Endpoint::of(request.extensions()).map(|endpoint| endpoint.address().to_string());
    Ok(Response::new(Body::from(address.unwrap_or_default() + "\n")))
}

fn app(balance: &BalanceLayer) -> Router {
    Router::new().fallback_service(ProblemLayer::new().layer(balance.layer(service_fn(answer))))
}

/// Who serves each of a thousand sessions.
async fn owners(app: &Router) -> Result<Vec<String>, Box<dyn Error>> {
    let mut owners = Vec::new();
    for session in 0..1000 {
        let request = Request::builder().header("x-session", session).body(Body::empty())?;
        let body = app.clone().oneshot(request).await?.into_body().collect().await?.to_bytes();
        owners.push(String::from_utf8(body.into())?);
    }
    Ok(owners)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let targets = [Target::new("pune").weight(2), Target::new("nashik"), Target::new("nagpur")];
    let config = BalanceConfig::new(Policy::RING_HASH).max_load(125);
    let balance = BalanceLayer::with_config(config, targets)
        .hash_by(|head| head.headers.get("x-session").map(HashKey::of));
    let app = app(&balance);
    if !std::env::args().any(|arg| arg == "--self-test") {
        println!("for i in 1 2 3 4; do curl -s -H \"x-session: $i\" http://127.0.0.1:3000/; done");
        return Ok(axum::serve(tokio::net::TcpListener::bind("127.0.0.1:3000").await?, app).await?);
    }
    let before = owners(&app).await?;
    let mut shares = BTreeMap::new();
    for owner in &before {
        *shares.entry(owner.trim()).or_insert(0) += 1;
    }
    println!("of a thousand sessions: {shares:?}");
    assert!(shares["pune"] > 375 && shares["pune"] < 625, "it has half of all weights");

    balance.endpoints()[1].withdraw(Absence::Draining);
    let after = owners(&app).await?;
    let moved = before.iter().zip(&after).filter(|(before, after)| before != after);
    assert!(moved.clone().all(|(before, _)| before == "nashik\n"), "only those of whoever left");
    println!("{} of them moved when nashik went, all of them its own", moved.count());
    Ok(())
}
