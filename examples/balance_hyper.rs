//! A balancer over two endpoints, served by hyper: the layer chooses, the client below goes there.
//!
//! `cargo run --example balance_hyper` serves on port 3000; `-- --self-test` asks itself and ends.
//!
//! The layer knows no client. It puts the chosen `Endpoint` into the request, and counts it until its body ends.

use std::{convert::Infallible, error::Error};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use naka::{
    BoxError,
    balance::{BalanceLayer, Endpoint},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tower::{Layer as _, service_fn};

/// The client: one connection for each request, to whichever endpoint was chosen.
async fn go(mut request: Request<Incoming>) -> Result<Response<Full<Bytes>>, BoxError> {
    let address = Endpoint::of(request.extensions()).ok_or("nobody has chosen")?.address().to_string();
    let stream = TokioIo::new(TcpStream::connect(&address).await?);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await?;
    tokio::spawn(connection);
    request.headers_mut().insert("host", address.parse()?);
    let (head, body) = sender.send_request(request).await?.into_parts();
    Ok(Response::from_parts(head, Full::new(body.collect().await?.to_bytes())))
}

/// An endpoint that says its name.
async fn start(name: &'static str) -> Result<String, Box<dyn Error>> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    let says = service_fn(async move |_: Request<Incoming>| {
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(name.as_bytes()))))
    });
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let server = hyper::server::conn::http1::Builder::new();
            tokio::spawn(server.serve_connection(TokioIo::new(stream), TowerToHyperService::new(says)));
        }
    });
    Ok(address)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let is_self_test = std::env::args().any(|arg| arg == "--self-test");
    let (pune, nashik) = (start("pune\n").await?, start("nashik\n").await?);
    let service = BalanceLayer::new([&*pune, &*nashik]).layer(service_fn(go));
    let listener = TcpListener::bind(if is_self_test { "127.0.0.1:0" } else { "127.0.0.1:3000" }).await?;
    let address = listener.local_addr()?;
    let server = async move {
        while let Ok((stream, _)) = listener.accept().await {
            let server = hyper::server::conn::http1::Builder::new();
            let service = TowerToHyperService::new(service.clone());
            tokio::spawn(server.serve_connection(TokioIo::new(stream), service));
        }
    };
    if !is_self_test {
        println!("for i in 1 2 3 4; do curl -s http://{address}/; done");
        server.await;
        return Ok(());
    }
    tokio::spawn(server);
    for expected in ["pune\n", "nashik\n", "pune\n", "nashik\n"] {
        let (mut stream, mut answer) = (TcpStream::connect(address).await?, String::new());
        stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await?;
        stream.read_to_string(&mut answer).await?;
        assert!(answer.ends_with(expected), "{answer}");
    }
    println!("two endpoints, asked in turn");
    Ok(())
}
