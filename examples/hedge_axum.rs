//! Hedges in an axum router: what one kitchen does not answer for a while, another is asked as well; an order never.
//!
//! `cargo run --example hedge_axum` serves on port 3000; `-- --self-test` asks itself and ends.
//!
//! The endpoints here are names only, and whoever is behind the layers answers for them: `pune`
//! leaves every fourth question unanswered. How to go to real ones: `balance_hyper`.

use std::{
    convert::Infallible,
    error::Error,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::Duration,
};

use axum::{Router, body::Body};
use http::{Method, Request, Response};
use naka::{
    balance::{BalanceLayer, Endpoint},
    budget::{Budget, BudgetConfig},
    clock::Now,
    hedge::{After, HedgeConfig, HedgeLayer},
    problem::ProblemLayer,
    replay::Replay,
};
use tower::{Layer as _, ServiceExt as _, service_fn};

static ASKED: AtomicU32 = AtomicU32::new(0);

async fn answer(request: Request<Replay<Body>>) -> Result<Response<Body>, Infallible> {
    let address = Endpoint::of(request.extensions()).map(|endpoint| endpoint.address().to_string());
    let number = ASKED.fetch_add(1, Relaxed);
    if request.method() == Method::GET && address.as_deref() == Some("pune") && number % 8 < 2 {
        std::future::pending::<()>().await;
    }
    Ok(Response::new(Body::from(format!("{}\n", address.unwrap_or_default()))))
}

fn app(budget: &Budget) -> Router {
    let endpoints = BalanceLayer::new(["pune", "nashik"]).layer(service_fn(answer));
    let endpoints = endpoints.map_response(|response: Response<_>| response.map(Body::new));
    // As long as 90 of 100 answers take, and 20 ms at first.
    let after = After::percentile(90).within(Duration::from_millis(2), Duration::from_millis(20));
    let hedged = HedgeLayer::new(HedgeConfig::new(after), budget.clone()).layer(endpoints);
    Router::new().fallback_service(ProblemLayer::new().layer(hedged))
}

async fn ask(app: &Router, method: Method) -> Result<(), Box<dyn Error>> {
    let request = Request::builder().method(method).body(Body::empty())?;
    assert!(app.clone().oneshot(request).await?.status().is_success());
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let budget = Budget::new(BudgetConfig::new(), Now::read());
    let app = app(&budget);
    if !std::env::args().any(|arg| arg == "--self-test") {
        println!("for i in 1 2 3 4 5 6 7 8; do curl -s http://127.0.0.1:3000/; done");
        return Ok(axum::serve(tokio::net::TcpListener::bind("127.0.0.1:3000").await?, app).await?);
    }
    for _ in 0..40 {
        ask(&app, Method::GET).await?;
    }
    let spent = budget.balance(Now::read()).spent;
    assert!(spent > 0, "some hung");
    println!("40 menus came, and {spent} of them were asked for twice");
    let before = ASKED.load(Relaxed);
    for _ in 0..16 {
        ask(&app, Method::POST).await?;
    }
    assert_eq!(ASKED.load(Relaxed) - before, 16, "nobody eats twice");
    Ok(())
}
