//! Asking a running gateway, at its admin port.

use std::time::Duration;

use bytes::Bytes;
use http::{
    Request, StatusCode,
    header::{CONTENT_TYPE, HOST},
};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use naka::BoxError;
use serde_json::Value;
use tokio::net::TcpStream;

/// The longest answer.
const ANSWER: usize = 16 << 20;
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Posts JSON to the admin port at `address`. An answer that is not JSON comes back as a text.
///
/// # Errors
/// If there is no answer.
pub fn post(address: &str, path: &str, body: &Value) -> Result<(StatusCode, Value), BoxError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async { tokio::time::timeout(PATIENCE, exchange(address, path, body)).await? })
}

async fn exchange(address: &str, path: &str, body: &Value) -> Result<(StatusCode, Value), BoxError> {
    let stream = TcpStream::connect(address).await?;
    let host = stream.peer_addr()?.to_string(); // An address, which the admin port believes.
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await?;
    let driver = tokio::spawn(connection);
    let request = Request::post(path)
        .header(HOST, host)
        .header(CONTENT_TYPE, "application/json")
        .body(Full::<Bytes>::from(body.to_string()))?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let bytes = Limited::new(response.into_body(), ANSWER).collect().await?.to_bytes();
    driver.abort();
    let text = || Value::String(String::from_utf8_lossy(&bytes).trim().to_owned());
    Ok((status, serde_json::from_slice(&bytes).unwrap_or_else(|_| text())))
}
