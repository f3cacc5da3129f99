//! Retries in an axum router: a read that failed at one endpoint is asked of another, a payment never.
//!
//! `cargo run --example retry_axum` serves on port 3000; `-- --self-test` asks itself and ends.
//!
//! The endpoints here are names only, and whoever is behind the layers answers for them: `pune` is broken. How
//! to go to real ones: `balance_hyper`.

use std::{convert::Infallible, error::Error};

use axum::{
    Router,
    body::{Body, Bytes},
    response::IntoResponse as _,
};
use http::{Method, Request, Response, StatusCode};
use naka::{
    balance::{BalanceLayer, Endpoint},
    clock::Now,
    problem::ProblemLayer,
    retry::{ATTEMPT, Budget, BudgetConfig, Replay, RetryConfig, RetryLayer},
};
use tower::{Layer as _, ServiceExt as _, service_fn};

/// Every second request would be lost.
async fn answer(request: Request<Replay<Body>>) -> Result<Response<Body>, Infallible> {
    let address = Endpoint::of(request.extensions()).map(|endpoint| endpoint.address().to_string());
    if address.as_deref() == Some("pune") {
        return Ok(StatusCode::SERVICE_UNAVAILABLE.into_response());
    }
    let attempt = request.headers().get(ATTEMPT).cloned();
    let text = format!("{} {:?}\n", address.unwrap_or_default(), attempt);
    Ok(Response::new(Body::from(text)))
}

fn app(budget: &Budget) -> Router {
    let endpoints = BalanceLayer::new(["pune", "nashik"]).layer(service_fn(answer));
    let endpoints = endpoints.map_response(|response: Response<_>| response.map(Body::new));
    let retried = RetryLayer::new(RetryConfig::new(1), budget.clone()).layer(endpoints);
    Router::new().fallback_service(ProblemLayer::new().layer(retried))
}

async fn ask(app: &Router, method: Method) -> Result<(StatusCode, Bytes), Box<dyn Error>> {
    let request = Request::builder().method(method).body(Body::from("a ride"))?;
    let response = app.clone().oneshot(request).await?;
    Ok((response.status(), axum::body::to_bytes(response.into_body(), 1024).await?))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    // A fifth of what is sent, and nothing besides: what is broken for good is not asked twice as often.
    let budget = Budget::new(BudgetConfig::new().min_per_second(0), Now::read());
    let app = app(&budget);
    if !std::env::args().any(|arg| arg == "--self-test") {
        println!("for i in 1 2 3 4 5 6 7 8; do curl -s http://127.0.0.1:3000/; done");
        return Ok(axum::serve(tokio::net::TcpListener::bind("127.0.0.1:3000").await?, app).await?);
    }
    let mut lost = [0, 0];
    for _ in 0..100 {
        lost[0] += u32::from(ask(&app, Method::GET).await?.0 != StatusCode::OK);
    }
    let spent = budget.balance(Now::read());
    assert!(lost[0] > 0 && lost[0] < 50 && spent.spent <= spent.allowed);
    println!(
        "of a hundred reads {} were lost, and {} sent again: {} may be",
        lost[0], spent.spent, spent.allowed
    );
    for _ in 0..100 {
        lost[1] += u32::from(ask(&app, Method::POST).await?.0 != StatusCode::OK);
    }
    assert!(lost[1] >= 40, "nobody pays twice");
    println!("of a hundred payments {} were lost, and none sent again", lost[1]);
    Ok(())
}
