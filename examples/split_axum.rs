//! A new release for one user in twenty, always the same ones; and back by itself if it fails.
//!
//! `cargo run --example split_axum` serves on port 3000; `-- --self-test` asks itself and ends.

use std::{error::Error, net::SocketAddr};

use axum::{Extension, Router, http::StatusCode, routing::get};
use naka::{
    clock::Now,
    key::HashKey,
    split::{Guard, Pin, SplitArm, SplitConfig, SplitError, SplitLayer},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

fn split() -> Result<SplitLayer, SplitError> {
    let config = SplitConfig::new([("booking", 95), ("booking-v2", 5)])
        .pin(Pin::cookie("release", "next", "booking-v2"))
        .guard(Guard::new(200).min_requests(50)); // Two percentage points.
    Ok(SplitLayer::new(config.check()?).keyed(|head| head.headers.get("x-user").map(HashKey::of)))
}

fn router(split: &SplitLayer) -> Router {
    // Here both are one program; where they are two, this is where a request is sent on.
    let book = async |Extension(SplitArm(arm)): Extension<SplitArm>| match &*arm {
        "booking-v2" => (StatusCode::INTERNAL_SERVER_ERROR, format!("{arm} has a bug\n")),
        _ => (StatusCode::OK, format!("booked by {arm}\n")),
    };
    Router::new().route("/book", get(book)).layer(split.clone())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let is_self_test = std::env::args().any(|arg| arg == "--self-test");
    let listener = TcpListener::bind(if is_self_test { "127.0.0.1:0" } else { "127.0.0.1:3000" }).await?;
    let address = listener.local_addr()?;
    let split = split()?;
    let server = axum::serve(listener, router(&split));
    if is_self_test {
        tokio::spawn(async { server.await });
        return self_test(address, &split).await;
    }
    println!("curl -H 'x-user: asha' http://{address}/book; curl -b release=next http://{address}/book");
    Ok(server.await?)
}

async fn self_test(address: SocketAddr, split: &SplitLayer) -> Result<(), Box<dyn Error>> {
    let mut failed = 0;
    for user in 0..3000 {
        failed +=
            u32::from(!ask(address, &format!("x-user: {user}\r\n")).await?.contains("booked by booking\n"));
    }
    let arms = split.arms(Now::read());
    println!("{failed} of 3000 users met the bug; {:?}", arms[1]);
    assert_eq!((failed, arms[1].in_force), (50, 0), "the fiftieth failure is the last");
    assert!(ask(address, "cookie: release=next\r\n").await?.contains("has a bug"), "but it can be looked at");
    assert!(split.release("booking-v2"));
    Ok(())
}

async fn ask(address: SocketAddr, header: &str) -> std::io::Result<String> {
    let (mut stream, mut response) = (TcpStream::connect(address).await?, String::new());
    let request = format!("GET /book HTTP/1.1\r\nhost: {address}\r\n{header}connection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    stream.read_to_string(&mut response).await?;
    Ok(response)
}
