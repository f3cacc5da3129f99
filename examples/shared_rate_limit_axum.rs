//! One rate limit for each client over two servers that share nothing but a store.
//!
//! `cargo run --example shared_rate_limit_axum` serves on ports 3000 and 3001; `-- --self-test` asks itself and ends.
//!
//! Both servers are in one process here, and so is the store: write `shared::Store` for one that is outside of them, as
//! the gateway does for Redis.

use std::{error::Error, future::IntoFuture as _, net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, extract::ConnectInfo, routing::get};
use naka::{
    key::{KeyBuilder, KeySecret, client_network},
    problem::ProblemLayer,
    rate_limit::{
        RateLimitConfig, RateLimitLayer, Window,
        shared::{InMemory, SharedStore, Sharing, Store},
    },
    reject::Head,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

/// A server of its own: it shares nothing with the other one but the store, the name of the limit, and the secret.
fn app(store: Arc<dyn Store>) -> Router {
    let secret = KeySecret::new(*b"as on all others"); // From a file, and not from the source.
    let by_client = move |head: &Head<'_>| {
        let peer = head.extensions.get::<ConnectInfo<SocketAddr>>()?;
        Some(KeyBuilder::with(secret).part(client_network(peer.ip())).finish())
    };
    // Six at once, then one every ten seconds, over both. Three of them here if nobody can be asked; nothing is leased.
    let sharing = Sharing::new(SharedStore::new(store, Duration::from_millis(50)), 50).lease(0);
    let limit = RateLimitLayer::new(RateLimitConfig::new(Window::per_minute(6)), by_client);
    let limit = limit.named(&"fares".into()).shared(&sharing);
    Router::new().route("/fares", get(|| async { "541.86\n" })).layer(limit).layer(ProblemLayer::new()) // Outermost: makes problem+json of what the others refuse.
}

async fn serve(store: Arc<dyn Store>, port: u16) -> Result<SocketAddr, Box<dyn Error>> {
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    let address = listener.local_addr()?;
    let app = app(store).into_make_service_with_connect_info::<SocketAddr>();
    tokio::spawn(axum::serve(listener, app).into_future());
    Ok(address)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let is_self_test = std::env::args().any(|arg| arg == "--self-test");
    let store = Arc::new(InMemory::new());
    let ports = if is_self_test { [0, 0] } else { [3000, 3001] };
    let [first, second] = [serve(store.clone(), ports[0]).await?, serve(store, ports[1]).await?];
    if is_self_test {
        let mut answered = 0;
        for address in [first, second].into_iter().cycle().take(20) {
            answered += u32::from(ask(address).await?.starts_with("HTTP/1.1 200 "));
        }
        assert_eq!(answered, 6);
        println!("two servers, one account: {answered} of 20 answered");
        return Ok(());
    }
    println!(
        "for i in $(seq 4); do curl -s -o /dev/null -w '%{{http_code}}\\n' http://{first}/fares http://{second}/fares; done"
    );
    std::future::pending::<()>().await;
    Ok(())
}

async fn ask(address: SocketAddr) -> std::io::Result<String> {
    let (mut stream, mut response) = (TcpStream::connect(address).await?, String::new());
    let request = format!("GET /fares HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    stream.read_to_string(&mut response).await?;
    Ok(response)
}
