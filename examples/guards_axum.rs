//! What stands around most apps: pages of one origin, bodies up to a bound, and faults for whoever asks.
//!
//! `cargo run --example guards_axum` serves on port 3000; `-- --self-test` asks itself and ends.
//!
//! The order matters: preflights are answered before anything can refuse them, and the renderer is outermost,
//! but for CORS, so that a page can read what it renders.

use std::{error::Error, time::Duration};

use axum::{
    Router,
    body::{Body, to_bytes},
    http::{Method, Request, StatusCode, header::CONTENT_TYPE},
    routing::put,
};
use naka::{
    body_limit::BodyLimitLayer,
    cors::{CorsConfig, CorsLayer},
    fault::{FaultConfig, FaultLayer, Gate},
    problem::{ProblemLayer, REASON},
};
use tokio::net::TcpListener;
use tower::{ServiceBuilder, ServiceExt as _};

const PAGE: &str = "https://app.example";

fn app() -> Result<Router, Box<dyn Error>> {
    let cors = CorsConfig::origins([PAGE]).methods([Method::PUT]).headers([CONTENT_TYPE]).exposed([REASON]);
    let cors = cors.credentials().max_age(Duration::from_mins(10));
    let gate = Gate::header("x-chaos".parse()?).value("please".parse()?);
    let faults = FaultConfig::new(gate).delay(10, Duration::from_millis(50))?;
    let faults = faults.abort(5, StatusCode::SERVICE_UNAVAILABLE)?.enabled(true);

    let layers = ServiceBuilder::new()
        .layer(CorsLayer::new(cors.check()?))
        .layer(ProblemLayer::new())
        .layer(BodyLimitLayer::new(16))
        .layer(FaultLayer::new(faults));
    Ok(Router::new().route("/name", put(async |name: String| format!("namaste, {name}\n"))).layer(layers))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    if !std::env::args().any(|arg| arg == "--self-test") {
        let listener = TcpListener::bind("127.0.0.1:3000").await?;
        println!("curl -i -X PUT http://127.0.0.1:3000/name -H 'origin: {PAGE}' -d asha");
        return Ok(axum::serve(listener, app()?).await?);
    }
    let app = app()?;
    let ask = async |method: &str, origin: &str, chaos: &str, body: &'static str| {
        let request = Request::builder().method(method).uri("/name").header("origin", origin);
        let request = request.header("access-control-request-method", "PUT").header("x-chaos", chaos);
        let (head, body) = app.clone().oneshot(request.body(Body::from(body))?).await?.into_parts();
        let is_marked = head.headers.contains_key("access-control-allow-origin");
        let body = String::from_utf8(to_bytes(body, 1024).await?.to_vec())?;
        Ok::<_, Box<dyn Error>>((head.status.as_u16(), is_marked, body))
    };
    assert_eq!(ask("OPTIONS", PAGE, "", "").await?, (204, true, String::new()));
    assert_eq!(ask("OPTIONS", "https://evil.example", "", "").await?.0, 403);
    assert_eq!(ask("PUT", PAGE, "", "asha").await?, (200, true, "namaste, asha\n".to_owned()));
    assert!(!ask("PUT", "https://evil.example", "", "asha").await?.1, "done, but not to be read");
    let (status, is_marked, body) = ask("PUT", PAGE, "", "a name that is too long").await?;
    assert!(status == 413 && is_marked && body.contains("body_too_large"), "{body}");
    let mut failed = 0;
    for _ in 0..100 {
        failed += u32::from(ask("PUT", PAGE, "please", "asha").await?.0 == 503);
    }
    assert_eq!(failed, 5);
    println!("pages of {PAGE} only, 16 bytes at most, and 5 of 100 failed because they asked to");
    Ok(())
}
