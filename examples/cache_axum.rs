//! A cache in an axum router: a menu is asked for once, and is still there when the kitchen is not; an order never.
//!
//! `cargo run --example cache_axum` serves on port 3000; `-- --self-test` asks itself and ends.

use std::{
    error::Error,
    sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    response::{IntoResponse, Response},
    routing::get,
};
use http::{Method, Request, StatusCode, header::CACHE_CONTROL};
use naka::cache::{CACHE_STATUS, CacheConfig, CacheLayer};
use tower::ServiceExt as _;

static ASKED: AtomicU32 = AtomicU32::new(0);
static IS_CLOSED: AtomicBool = AtomicBool::new(false);

async fn menu() -> Response {
    ASKED.fetch_add(1, Relaxed);
    if IS_CLOSED.load(Relaxed) {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    // Good for a second; for an hour more it is better than nothing.
    ([(CACHE_CONTROL, "max-age=1, stale-if-error=3600")], "vada pav, misal pav\n").into_response()
}

async fn order() -> StatusCode {
    ASKED.fetch_add(1, Relaxed);
    StatusCode::CREATED
}

fn app() -> Router {
    let cache = CacheLayer::new(CacheConfig::new().max_bytes(1 << 20));
    Router::new().route("/menu", get(menu).post(order)).layer(cache)
}

async fn ask(app: &Router, method: Method) -> Result<(StatusCode, String), Box<dyn Error>> {
    let request = Request::builder().method(method).uri("/menu").body(Body::empty())?;
    let response = app.clone().oneshot(request).await?;
    let how = response.headers().get(CACHE_STATUS).and_then(|how| how.to_str().ok()).unwrap_or_default();
    let said = (response.status(), how.to_owned());
    axum::body::to_bytes(response.into_body(), 1024).await?; // What nobody reads to its end is not kept.
    Ok(said)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let app = app();
    if !std::env::args().any(|arg| arg == "--self-test") {
        println!("curl -i http://127.0.0.1:3000/menu; curl -i http://127.0.0.1:3000/menu");
        return Ok(axum::serve(tokio::net::TcpListener::bind("127.0.0.1:3000").await?, app).await?);
    }
    for _ in 0..2 {
        println!("{:?}", ask(&app, Method::GET).await?);
    }
    for _ in 0..3 {
        assert_eq!(ask(&app, Method::POST).await?.0, StatusCode::CREATED);
    }
    assert_eq!(ASKED.load(Relaxed), 4, "one menu, three orders");
    ask(&app, Method::GET).await?; // An order may have changed it: it was forgotten.
    IS_CLOSED.store(true, Relaxed);
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let (status, how) = ask(&app, Method::GET).await?;
    println!("the kitchen is closed: {status}, {how}");
    assert!(status == StatusCode::OK && how.contains("stale-if-error"));
    Ok(())
}
