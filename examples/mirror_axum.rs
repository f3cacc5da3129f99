//! A mirror in an axum router: the next version of a service sees a tenth of what the present one is asked, and
//! whatever it makes of that, nobody notices.
//!
//! `cargo run --example mirror_axum` serves on port 3000; `-- --self-test` asks itself and ends.

use std::{
    convert::Infallible,
    error::Error,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{Router, body::Body, routing::any};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use naka::mirror::{MirrorBody, MirrorConfig, MirrorLayer};
use tower::{Layer as _, ServiceExt as _, service_fn};

/// The present one, which is well.
async fn rides(request: Request<MirrorBody<Body>>) -> Result<Response<Body>, Infallible> {
    let body = axum::body::to_bytes(Body::new(request.into_body()), 1 << 20).await.unwrap_or_default();
    Ok(Response::new(Body::from(format!("a ride, of {} bytes\n", body.len()))))
}

fn app(copies: &Arc<AtomicU32>) -> Router {
    let seen = Arc::clone(copies);
    // The next one, which hangs.
    let next_version = service_fn(move |copy: Request<Bytes>| {
        println!("a copy: {} {}", copy.method(), copy.uri());
        seen.fetch_add(1, Relaxed);
        std::future::pending::<Result<Response<Body>, Infallible>>()
    });
    let config = MirrorConfig::new().sample(10).max(8).timeout(Duration::from_millis(100));
    let rides = MirrorLayer::new(config, next_version).layer(service_fn(rides));
    Router::new().route("/healthz", any(|| async { "ok" })).fallback_service(rides)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let copies = Arc::default();
    let app = app(&copies);
    if !std::env::args().any(|arg| arg == "--self-test") {
        println!("for i in 1 2 3 4 5 6 7 8 9 10; do curl -s http://127.0.0.1:3000/rides/$i; done");
        return Ok(axum::serve(tokio::net::TcpListener::bind("127.0.0.1:3000").await?, app).await?);
    }
    for number in 0..50 {
        let request = Request::get(format!("/rides/{number}")).body(Body::empty())?;
        assert_eq!(app.clone().oneshot(request).await?.status(), StatusCode::OK);
    }
    let paid = app.clone().oneshot(Request::post("/pay").body(Body::from("a ride"))?).await?;
    assert_eq!(paid.status(), StatusCode::OK);
    tokio::task::yield_now().await;
    assert_eq!(copies.load(Relaxed), 5, "a tenth, and no payment");
    println!("of fifty rides five were copied, of payments none; and nobody waited");
    Ok(())
}
