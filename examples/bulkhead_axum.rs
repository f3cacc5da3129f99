//! One bulkhead around the expensive part of an axum app: so many at work, so many waiting, then 503.
//!
//! `cargo run --example bulkhead_axum` serves on port 3000; `-- --self-test` asks itself and ends.
//!
//! `tower::limit::ConcurrencyLimitLayer` counts each service it makes by itself, which under axum is at
//! least each route (axum 2582), bounds nobody who waits, and lets go at the response *head*. Here all
//! routes share one account, the queue has an end, and a place is kept until the response *body* ends.

use std::{error::Error, future::IntoFuture as _, net::SocketAddr, time::Duration};

use axum::{Router, routing::get};
use naka::{
    bulkhead::{BulkheadConfig, BulkheadLayer},
    problem::ProblemLayer,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

/// `work` is what the handlers do before they answer.
fn app<W: Future<Output = ()> + Send + 'static>(
    work: impl Fn() -> W + Clone + Send + Sync + 'static,
) -> Router {
    // Two at work, one waiting for at most ten seconds.
    let bulkhead = BulkheadLayer::new(BulkheadConfig::new(2).queue(1, Duration::from_secs(10)));

    let handler = async move || {
        work().await;
        "done\n"
    };
    let reports = Router::new().route("/report", get(handler.clone())).layer(bulkhead.clone());
    let exports = Router::new().route("/export", get(handler)).route_layer(bulkhead);
    reports.merge(exports).layer(ProblemLayer::new())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    if std::env::args().any(|arg| arg == "--self-test") {
        return self_test().await;
    }
    println!("for i in $(seq 6); do curl -si http://127.0.0.1:3000/report | head -1 & done; wait");
    let listener = TcpListener::bind("127.0.0.1:3000").await?;
    Ok(axum::serve(listener, app(|| tokio::time::sleep(Duration::from_secs(2)))).await?)
}

/// Eight requests over both paths while nobody gets ahead: five are refused at once, three answered.
async fn self_test() -> Result<(), Box<dyn Error>> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let (go, gate) = watch::channel(false);
    let work = move || {
        let mut gate = gate.clone();
        async move { drop(gate.wait_for(|is_open| *is_open).await) }
    };
    tokio::spawn(axum::serve(listener, app(work)).into_future());
    let paths = ["/report", "/export"].into_iter().cycle().take(8);
    let mut asking = paths.map(|path| ask(address, path)).collect::<JoinSet<_>>();
    for _ in 0..5 {
        let refused = asking.join_next().await.expect("eight were asked")??;
        assert!(refused.starts_with("HTTP/1.1 503 ") && refused.contains(r#""reason":"bulkhead_full""#));
    }
    go.send(true)?;
    for answered in asking.join_all().await {
        assert!(answered?.starts_with("HTTP/1.1 200 "));
    }
    println!("two routes, two `.layer()` calls, one account: 2 at work, 1 waited, 5 refused");
    Ok(())
}

async fn ask(address: SocketAddr, path: &'static str) -> std::io::Result<String> {
    let (mut stream, mut response) = (TcpStream::connect(address).await?, String::new());
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    stream.read_to_string(&mut response).await?;
    Ok(response)
}
