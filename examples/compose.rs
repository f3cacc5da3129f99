//! Several layers of naka in one `tower::ServiceBuilder` over a plain service.
//!
//! `cargo run --example compose` serves on port 3000; `-- --self-test` asks itself and ends.
//!
//! The order is yours: the first layer is outermost. Each leaves the error of what it wraps alone, so a
//! stack over a service that cannot fail cannot fail either, and goes into axum as it is.

use std::{convert::Infallible, error::Error, net::SocketAddr, time::Duration};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{ConnectInfo, Request},
    response::Response,
};
use naka::{
    balance::{BalanceLayer, Endpoint},
    bulkhead::{BulkheadConfig, BulkheadLayer},
    clock::Now,
    context::{ClientAddr, Context},
    key::Key,
    problem::ProblemLayer,
    rate_limit::{RateLimitConfig, RateLimitLayer, Window},
    reject::Head,
    timeout::TimeoutLayer,
};
use tokio::net::TcpListener;
use tower::{ServiceBuilder, ServiceExt as _, service_fn};

fn app() -> Router {
    let by_client = |head: &Head<'_>| ClientAddr::of(head.extensions).map(Key::of_client);
    let stack = ServiceBuilder::new()
        .layer(ProblemLayer::new())
        .map_request(with_context)
        .layer(RateLimitLayer::new(RateLimitConfig::new(Window::per_minute(6)), by_client))
        .layer(BulkheadLayer::new(BulkheadConfig::new(64).queue(64, Duration::from_millis(500))))
        .layer(TimeoutLayer::new(Duration::from_secs(5)))
        .layer(BalanceLayer::new(["10.0.0.1:80", "10.0.0.2:80"]))
        .service(service_fn(client));
    Router::new().fallback_service(stack)
}

/// What is known of a request, once for all layers below: they need not read the clock again.
fn with_context(mut request: Request) -> Request {
    let mut context = Context::new(Now::read());
    if let Some(ConnectInfo(peer)) = request.extensions().get::<ConnectInfo<SocketAddr>>() {
        context = context.with_client(peer.ip());
    }
    request.extensions_mut().insert(context);
    request
}

/// Stands for your client: it finds the endpoint that was chosen. Its own failures it can answer with
/// `Rejection::new(Reason::ConnectFailed).into_response()`, and they are rendered like all others.
async fn client(request: Request) -> Result<Response, Infallible> {
    let endpoint = Endpoint::of(request.extensions()).expect("the balancer chose one");
    Ok(Response::new(Body::from(format!("asked {}\n", endpoint.address()))))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    if !std::env::args().any(|arg| arg == "--self-test") {
        let listener = TcpListener::bind("127.0.0.1:3000").await?;
        println!("for i in $(seq 8); do curl -s http://127.0.0.1:3000/; done");
        return Ok(axum::serve(listener, app().into_make_service_with_connect_info::<SocketAddr>()).await?);
    }
    let app = app(); // Eight requests: six go to the endpoints in turn, two are refused.
    for number in 0..8 {
        let (head, body) = app.clone().oneshot(Request::new(Body::empty())).await?.into_parts();
        let body = to_bytes(body, 1024).await?;
        let asked = [&b"asked 10.0.0.1:80\n"[..], b"asked 10.0.0.2:80\n"][number % 2];
        let is_refused = head.status == 429 && body.starts_with(br#"{"type":"about:blank""#);
        assert!(if number < 6 { body == asked } else { is_refused }, "{number}: {body:?}");
    }
    println!("six asked two endpoints in turn, two were refused");
    Ok(())
}
