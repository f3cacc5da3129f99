//! A breaker for each restaurant behind one axum app: a kitchen that fails is left alone, the others cook on.
//!
//! `cargo run --example circuit_breaker_axum` serves on port 3000; `-- --self-test` asks itself and ends.
//!
//! The timeout stands inside of the breaker, so that a kitchen that hangs is one that fails. A restaurant that
//! is closed answers 409, which is no failure: no customer can open a breaker by asking for the wrong thing.

use std::{
    error::Error,
    future::IntoFuture as _,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
};

use axum::{Router, extract::Path, http::StatusCode, routing::get};
use naka::{
    circuit_breaker::{CircuitBreakerLayer, Preset},
    key::Key,
    problem::ProblemLayer,
    reject::Head,
    timeout::TimeoutLayer,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

/// `asked` counts what comes to the kitchens.
fn app(asked: Arc<AtomicU32>) -> Router {
    // For 4.5 stars: five failures in a row, then 45 seconds of rest.
    let by_restaurant = |head: &Head<'_>| head.uri.path().strip_prefix("/order/").map(Key::of);
    let Preset { config, timeout, .. } = Preset::restaurant(45);
    let breaker = CircuitBreakerLayer::keyed(config, by_restaurant);

    let kitchen = async move |Path(restaurant): Path<String>| {
        asked.fetch_add(1, Relaxed);
        match restaurant.as_str() {
            "leopold" => (StatusCode::INTERNAL_SERVER_ERROR, "the kitchen is on fire\n"),
            "swathi" => (StatusCode::CONFLICT, "closed until six\n"),
            _ => (StatusCode::OK, "25 minutes\n"),
        }
    };
    let orders = Router::new().route("/order/{restaurant}", get(kitchen));
    orders.layer(TimeoutLayer::new(timeout)).layer(breaker).layer(ProblemLayer::new())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let is_self_test = std::env::args().any(|arg| arg == "--self-test");
    let listener = TcpListener::bind(if is_self_test { "127.0.0.1:0" } else { "127.0.0.1:3000" }).await?;
    let (address, asked) = (listener.local_addr()?, Arc::new(AtomicU32::new(0)));
    let server = axum::serve(listener, app(Arc::clone(&asked)));
    if !is_self_test {
        println!("for i in $(seq 7); do curl -si http://{address}/order/leopold | tail -1; done");
        return Ok(server.await?);
    }
    tokio::spawn(server.into_future());
    for turn in 0..20 {
        let (burning, closed) = (ask(address, "leopold").await?, ask(address, "swathi").await?);
        let is_refused = burning.contains(r#""reason":"circuit_open""#) && burning.contains("retry-after: 4");
        assert_eq!(is_refused, turn >= 5, "{burning}");
        assert!(closed.starts_with("HTTP/1.1 409 ") && ask(address, "tanjore").await?.contains(" 200 OK"));
    }
    assert_eq!(asked.load(Relaxed), 20 * 3 - 15);
    println!("leopold: 5 failures, then 15 refused without asking it; swathi and tanjore: all answered");
    Ok(())
}

async fn ask(address: SocketAddr, restaurant: &str) -> std::io::Result<String> {
    let (mut stream, mut response) = (TcpStream::connect(address).await?, String::new());
    let request = format!("GET /order/{restaurant} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    stream.read_to_string(&mut response).await?;
    Ok(response)
}
