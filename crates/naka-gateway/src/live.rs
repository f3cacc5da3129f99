//! Asking a running gateway, at its admin port.

use std::time::Duration;

use bytes::Bytes;
use http::{
    Request, StatusCode,
    header::{AUTHORIZATION, CONTENT_TYPE, HOST},
    request::Builder,
};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use naka::BoxError;
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
};

/// The longest answer.
const ANSWER: usize = 16 << 20;
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// The variable that has the token for changes.
pub const TOKEN: &str = "NAKA_ADMIN_TOKEN";

/// Posts JSON to the admin port at `address`, or at `unix:` and the path of its socket. An answer that is not JSON comes back as a
/// text.
///
/// # Errors
/// If there is no answer.
pub fn post(address: &str, path: &str, body: &Value) -> Result<(StatusCode, Value), BoxError> {
    let request = Request::post(path).header(CONTENT_TYPE, "application/json");
    ask(address, request, body.to_string())
}

/// Gets JSON from there.
///
/// # Errors
/// If there is no answer.
pub fn get(address: &str, path: &str) -> Result<(StatusCode, Value), BoxError> {
    ask(address, Request::get(path), String::new())
}

/// As [`get`], for who is in a runtime.
///
/// # Errors
/// If there is no answer.
pub async fn fetch(address: &str, path: &str) -> Result<(StatusCode, Value), BoxError> {
    asked(address, Request::get(path), String::new()).await
}

fn ask(address: &str, request: Builder, body: String) -> Result<(StatusCode, Value), BoxError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(asked(address, request, body))
}

async fn asked(address: &str, request: Builder, body: String) -> Result<(StatusCode, Value), BoxError> {
    let token = std::env::var(TOKEN).ok().map(|token| format!("Bearer {token}"));
    let request = token.into_iter().fold(request, |request, token| request.header(AUTHORIZATION, token));
    let exchange = async {
        if let Some(path) = address.strip_prefix("unix:") {
            let stream = UnixStream::connect(path).await?;
            return exchange(stream, request.header(HOST, "localhost"), body).await;
        }
        let stream = TcpStream::connect(address).await?;
        let host = stream.peer_addr()?.to_string(); // An address, which the admin port believes.
        exchange(stream, request.header(HOST, host), body).await
    };
    tokio::time::timeout(PATIENCE, exchange).await?
}

async fn exchange<S>(stream: S, request: Builder, body: String) -> Result<(StatusCode, Value), BoxError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await?;
    let driver = tokio::spawn(connection);
    let response = sender.send_request(request.body(Full::<Bytes>::from(body))?).await?;
    let status = response.status();
    let bytes = Limited::new(response.into_body(), ANSWER).collect().await?.to_bytes();
    driver.abort();
    let text = || Value::String(String::from_utf8_lossy(&bytes).trim().to_owned());
    Ok((status, serde_json::from_slice(&bytes).unwrap_or_else(|_| text())))
}
