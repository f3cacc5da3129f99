//! An end to every exchange, the response body included.
//!
//! `cargo run --example timeout_axum` serves on port 3000; `-- --self-test` asks itself and ends.
//!
//! `tower_http::timeout` ends what has no response head in time. A head that comes at once and a body that
//! never ends would hold its connection for ever: here that is cut, too.

use std::task::{Context, Poll};
use std::{convert::Infallible, error::Error, future::IntoFuture as _, pin::Pin, time::Duration};

use axum::{
    Router,
    body::{Body, Bytes},
    routing::get,
};
use http_body::{Body as HttpBody, Frame};
use naka::{problem::ProblemLayer, timeout::TimeoutLayer};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::sleep,
};

/// A body whose first half comes at once, and the other never.
struct Half(bool);

impl HttpBody for Half {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let half = || Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"half of it, ")))));
        if std::mem::take(&mut self.0) { half() } else { Poll::Pending }
    }
}

fn app(total: Duration) -> Router {
    Router::new()
        .route("/quick", get(|| async { "at once\n" }))
        .route("/hangs", get(|| sleep(Duration::from_hours(1))))
        .route("/halts", get(async || Body::new(Half(true))))
        .layer(TimeoutLayer::new(total))
        .layer(ProblemLayer::new())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let is_self_test = std::env::args().any(|arg| arg == "--self-test");
    let listener = TcpListener::bind(if is_self_test { "127.0.0.1:0" } else { "127.0.0.1:3000" }).await?;
    let address = listener.local_addr()?;
    let total = Duration::from_millis(if is_self_test { 200 } else { 3000 });
    let server = axum::serve(listener, app(total));
    if !is_self_test {
        println!("for path in quick hangs halts; do curl -i http://{address}/$path; done");
        return Ok(server.await?);
    }
    tokio::spawn(server.into_future());
    let table = [
        ("/quick", "200", "at once\n", true),
        ("/hangs", "504", "total_timeout", true),
        ("/halts", "200", "half of it, ", false), // The head is out: nothing but the cut can tell.
    ];
    for (path, status, said, is_whole) in table {
        let (mut stream, mut answer) = (TcpStream::connect(address).await?, Vec::new());
        let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let _ = stream.read_to_end(&mut answer).await; // It ends in any case: that is the point.
        let answer = String::from_utf8(answer)?;
        let is_chunked = answer.contains("transfer-encoding: chunked");
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")) && answer.contains(said), "{answer}");
        assert_eq!(!is_chunked || answer.ends_with("0\r\n\r\n"), is_whole, "{answer}");
    }
    println!("one answered, one refused, one cut");
    Ok(())
}
