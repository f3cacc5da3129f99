//! A payment that is sent twice with one key is made once, and both callers get the same receipt.
//!
//! `cargo run --example idempotency_axum` serves on port 3000; `-- --self-test` asks itself and ends.
//!
//! Keys count per caller: here by address, and by identity inside of a layer that authenticates. The state is
//! in this process; behind several of them, the layer takes a store that they share.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::{error::Error, future::IntoFuture as _, net::SocketAddr, sync::Arc};

use axum::{
    Router,
    extract::{ConnectInfo, Request},
    http::StatusCode,
    routing::post,
};
use naka::{
    context::ClientAddr,
    idempotency::{IdempotencyConfig, IdempotencyLayer},
    problem::ProblemLayer,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tower::util::MapRequestLayer;

fn app() -> Router {
    let payments = Arc::new(AtomicU32::new(0));
    let pay = async move |rupees: String| {
        let number = payments.fetch_add(1, Relaxed) + 1;
        (StatusCode::CREATED, format!("payment {number}: {rupees} rupees\n"))
    };
    let with_client = MapRequestLayer::new(|mut request: Request| {
        if let Some(ConnectInfo(peer)) = request.extensions().get::<ConnectInfo<SocketAddr>>() {
            let client = ClientAddr(peer.ip());
            request.extensions_mut().insert(client);
        }
        request
    });
    let idempotency = IdempotencyLayer::new(IdempotencyConfig::new().required());
    Router::new().route("/pay", post(pay)).layer(idempotency).layer(with_client).layer(ProblemLayer::new())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let is_self_test = std::env::args().any(|arg| arg == "--self-test");
    let listener = TcpListener::bind(if is_self_test { "127.0.0.1:0" } else { "127.0.0.1:3000" }).await?;
    let address = listener.local_addr()?;
    let server = axum::serve(listener, app().into_make_service_with_connect_info::<SocketAddr>());
    if !is_self_test {
        println!(
            "curl -i http://{address}/pay -H 'idempotency-key: chai-1' -d 40 # Twice, and then with -d 41."
        );
        return Ok(server.await?);
    }
    tokio::spawn(server.into_future());
    let table = [
        ("idempotency-key: a\r\n", "40", "201", "payment 1: 40 rupees"),
        ("idempotency-key: a\r\n", "40", "201", "payment 1: 40 rupees"), // Again: not done, but answered.
        ("idempotency-key: a\r\n", "41", "422", "idempotency_mismatch"),
        ("idempotency-key: b\r\n", "40", "201", "payment 2: 40 rupees"),
        ("", "40", "400", "idempotency_key_missing"),
    ];
    for (key, rupees, status, said) in table {
        let (mut stream, mut answer) = (TcpStream::connect(address).await?, String::new());
        let head =
            format!("POST /pay HTTP/1.1\r\nhost: a\r\n{key}connection: close\r\ncontent-length: 2\r\n");
        stream.write_all(format!("{head}\r\n{rupees}").as_bytes()).await?;
        stream.read_to_string(&mut answer).await?;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")) && answer.contains(said), "{answer}");
    }
    println!("two payments for three requests, and no other request under their keys");
    Ok(())
}
