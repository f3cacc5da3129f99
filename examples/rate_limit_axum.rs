//! One rate limit for each client over a whole axum app, however often its layer is applied.
//!
//! `cargo run --example rate_limit_axum` serves on port 3000; `-- --self-test` asks itself and ends.
//!
//! axum applies a layer to every route by itself, and tower's `RateLimitLayer` keeps its state in each service
//! it makes (axum 2634, 3682). A layer of ours *is* the handle of its state: all its clones share one account.

use std::{error::Error, future::IntoFuture as _, net::SocketAddr};

use axum::{Router, extract::ConnectInfo, routing::get};
use naka::{
    key::Key,
    problem::ProblemLayer,
    rate_limit::{Fields, RateLimitConfig, RateLimitLayer, Window},
    reject::Head,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

fn app() -> Router {
    // Five at once, then one every twelve seconds. Behind a proxy, take the address it vouches for.
    let by_client = |head: &Head<'_>| {
        let peer = head.extensions.get::<ConnectInfo<SocketAddr>>()?;
        Some(Key::of_client(peer.ip()))
    };
    let config = RateLimitConfig::new(Window::per_minute(5)).fields(Fields::Draft);
    let limit = RateLimitLayer::new(config, by_client);

    let rides = Router::new()
        .route("/fares", get(|| async { "541.86\n" }))
        .route("/rides", get(|| async { "no rides yet\n" }))
        .layer(limit.clone());
    let shop = Router::new().route("/shop", get(|| async { "closed\n" })).route_layer(limit);

    Router::new()
        .route("/healthz", get(|| async { "ok\n" })) // Not limited.
        .merge(rides)
        .merge(shop)
        .layer(ProblemLayer::new()) // Outermost: makes problem+json of what the others refuse.
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let is_self_test = std::env::args().any(|arg| arg == "--self-test");
    let listener = TcpListener::bind(if is_self_test { "127.0.0.1:0" } else { "127.0.0.1:3000" }).await?;
    let address = listener.local_addr()?;
    let server = axum::serve(listener, app().into_make_service_with_connect_info::<SocketAddr>());
    if is_self_test {
        tokio::spawn(server.into_future());
        return self_test(address).await;
    }
    println!("for i in $(seq 7); do curl -si http://{address}/fares | head -1; done");
    Ok(server.await?)
}

/// Asks all three limited paths in turn: one account, so exactly five are answered.
async fn self_test(address: SocketAddr) -> Result<(), Box<dyn Error>> {
    let (mut answered, mut refused) = (0, 0);
    for path in ["/fares", "/rides", "/shop"].into_iter().cycle().take(9) {
        let response = ask(address, path).await?;
        assert!(response.contains(r#"ratelimit-policy: "default";q=5;w=60"#)); // Answered or refused.
        answered += u32::from(response.starts_with("HTTP/1.1 200 "));
        refused += u32::from(response.starts_with("HTTP/1.1 429 ") && response.contains("rate_limited"));
    }
    assert_eq!((answered, refused), (5, 4));
    assert!(ask(address, "/healthz").await?.starts_with("HTTP/1.1 200 "));
    println!("three routes, two `.layer()` calls, one account: {answered} answered, {refused} refused");
    Ok(())
}

async fn ask(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let (mut stream, mut response) = (TcpStream::connect(address).await?, String::new());
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    stream.read_to_string(&mut response).await?;
    Ok(response)
}
