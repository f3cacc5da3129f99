//! Fallbacks in an axum router: while the recommendations are down, another service is asked for what is safe, and
//! what nobody knows is answered with the usual.
//!
//! `cargo run --example fallback_axum` serves on port 3000; `-- --self-test` asks itself and ends.

use std::{convert::Infallible, error::Error};

use axum::{Router, body::Body, response::IntoResponse as _};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use naka::{
    budget::{Budget, BudgetConfig},
    circuit_breaker::{CircuitBreakerConfig, CircuitBreakerLayer},
    clock::Now,
    fallback::{AnyBody, FALLBACK, FallbackConfig, FallbackLayer},
    replay::Replay,
};
use tower::{Layer as _, ServiceExt as _, service_fn};

/// It is down.
async fn recommendations(_: Request<Replay<Body>>) -> Result<Response<Body>, Infallible> {
    Ok(StatusCode::SERVICE_UNAVAILABLE.into_response())
}

async fn best_sellers(_: Request<AnyBody>) -> Result<Response<Body>, Infallible> {
    Ok(Response::new(Body::from("what everybody buys\n")))
}

fn app() -> Router {
    let breaker = || CircuitBreakerLayer::new(CircuitBreakerConfig::new().consecutive(5));
    let guarded = || {
        let behind = breaker().layer(service_fn(recommendations));
        behind.map_response(|response: Response<_>| response.map(Body::new))
    };
    let budget = Budget::new(BudgetConfig::new(), Now::read());
    let asked = FallbackLayer::alternate(FallbackConfig::new(), budget, service_fn(best_sellers));
    let usual = Response::new(Bytes::from("nothing for you today\n"));
    let answered = FallbackLayer::respond(FallbackConfig::new(), usual);
    let asked = asked.layer(guarded()).map_response(|response: Response<_>| response.map(Body::new));
    let answered = answered.layer(guarded()).map_response(|response: Response<_>| response.map(Body::new));
    Router::new().nest_service("/for-you", asked).nest_service("/banner", answered)
}

async fn ask(app: &Router, method: Method, target: &str) -> Result<Response<Body>, Box<dyn Error>> {
    Ok(app.clone().oneshot(Request::builder().method(method).uri(target).body(Body::empty())?).await?)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let app = app();
    if !std::env::args().any(|arg| arg == "--self-test") {
        println!("curl -i http://127.0.0.1:3000/for-you http://127.0.0.1:3000/banner");
        return Ok(axum::serve(tokio::net::TcpListener::bind("127.0.0.1:3000").await?, app).await?);
    }
    // A purchase that may have been made is not made elsewhere.
    let bought = ask(&app, Method::POST, "/for-you").await?;
    assert_eq!(
        (bought.status(), bought.headers().contains_key(FALLBACK)),
        (StatusCode::SERVICE_UNAVAILABLE, false)
    );
    for _ in 0..10 {
        let seen = ask(&app, Method::GET, "/for-you").await?;
        assert_eq!((seen.status(), seen.headers().contains_key(FALLBACK)), (StatusCode::OK, true));
        assert_eq!(ask(&app, Method::POST, "/banner").await?.status(), StatusCode::OK);
    }
    // The breaker is open by now: nothing is sent there, so that it can be sent elsewhere.
    assert_eq!(ask(&app, Method::POST, "/for-you").await?.status(), StatusCode::OK);
    println!(
        "ten were answered by somebody else, ten by the usual; a purchase only once it was sure to be the first"
    );
    Ok(())
}
