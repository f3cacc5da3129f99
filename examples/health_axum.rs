//! A balancer in an axum router that asks its endpoints how they are: one that is not well gets no requests.
//!
//! `cargo run --example health_axum` serves on port 3000; `-- --self-test` asks itself and ends.
//!
//! The probe is any service from an `Endpoint` to nothing, or to why not; the driver asks for as long as it is
//! run. The endpoints here are names only, and `/turn` makes `nashik` sick or well. How to go to real ones:
//! `balance_hyper`.

use std::{
    convert::Infallible,
    error::Error,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};

use axum::{Router, body::Body, routing::get};
use http::{Request, Response};
use http_body_util::BodyExt as _;
use naka::{
    balance::{BalanceLayer, Endpoint},
    health::{Health, HealthConfig, Standing},
    problem::ProblemLayer,
};
use tower::{Layer as _, ServiceExt as _, service_fn};

static IS_SICK: AtomicBool = AtomicBool::new(false);

/// Asks an endpoint how it is: here would be a client.
async fn probe(endpoint: Endpoint) -> Result<(), &'static str> {
    let is_sick = &**endpoint.address() == "nashik" && IS_SICK.load(Relaxed);
    if is_sick { Err("it says that it is not well") } else { Ok(()) }
}

async fn answer(request: Request<Body>) -> Result<Response<Body>, Infallible> {
    let address = Endpoint::of(request.extensions()).map(|endpoint| endpoint.address().to_string());
    Ok(Response::new(Body::from(address.unwrap_or_default() + "\n")))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let layer = BalanceLayer::new(["pune", "nashik"]);
    let mut config = HealthConfig::default();
    config.interval = Duration::from_millis(500);
    let (health, driver) = Health::new(config, &layer, service_fn(probe));
    tokio::spawn(driver.run());
    let app = Router::new()
        .route("/turn", get(async || format!("sick until now: {}\n", IS_SICK.fetch_xor(true, Relaxed))))
        .fallback_service(ProblemLayer::new().layer(layer.layer(service_fn(answer))));
    if !std::env::args().any(|arg| arg == "--self-test") {
        let all = "for i in 1 2 3 4; do curl -s http://127.0.0.1:3000/; done";
        println!("{all}; curl -s http://127.0.0.1:3000/turn; sleep 2; {all}");
        return Ok(axum::serve(tokio::net::TcpListener::bind("127.0.0.1:3000").await?, app).await?);
    }
    for (standing, nashiks) in [(Standing::Healthy, 2), (Standing::Unhealthy, 0), (Standing::Healthy, 2)] {
        while health.of("nashik").is_none_or(|nashik| nashik.standing != standing) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let mut answers = String::new();
        for _ in 0..4 {
            let response = app.clone().oneshot(Request::new(Body::empty())).await?;
            answers += std::str::from_utf8(&response.into_body().collect().await?.to_bytes())?;
        }
        assert_eq!(answers.matches("nashik").count(), nashiks, "{answers}");
        app.clone().oneshot(Request::get("/turn").body(Body::empty())?).await?;
    }
    println!("nashik was well, was not and got no requests, and was well again");
    Ok(())
}
